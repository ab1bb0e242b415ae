"""Slow and obvious answers in NumPy float64, for the engines to be compared with.

Everything here takes log-potentials with the conventions of `chainrule.Chain`: `initial` (K,), `pair` (K, K) or
(T−1, K, K) with `pair[i, j]` from i to j, `node` (T, K); −inf forbids.
"""

import itertools
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ChainAnswer:
    """What is asked of a chain. When every path is forbidden, log_partition is −inf and the marginals are zero."""

    log_partition: float
    marginals: np.ndarray  # (T, K)
    pair_marginals: np.ndarray  # (T-1, K, K)
    entropy: float  # nats; NaN when every path is forbidden


@dataclass(frozen=True)
class EnumeratedChain(ChainAnswer):
    paths: list[tuple[float, tuple[int, ...]]]  # (score, states), best first; equal scores in lexicographic order


def enumerate_chain(initial, pair, node) -> EnumeratedChain:
    """Score all K**T paths one by one."""
    initial, pair, node = _float64(initial, pair, node)
    time, states = node.shape
    paths = [(score_path(initial, pair, node, z), z) for z in itertools.product(range(states), repeat=time)]
    scores = np.array([score for score, _ in paths])
    log_partition = log_sum_exp(scores)
    possible = log_partition > -np.inf
    probs = np.exp(scores - log_partition) if possible else np.zeros(len(scores))

    marginals, pair_marginals = np.zeros((time, states)), np.zeros((time - 1, states, states))
    for (_, z), prob in zip(paths, probs, strict=True):
        for t in range(time):
            marginals[t, z[t]] += prob
        for t in range(time - 1):
            pair_marginals[t, z[t], z[t + 1]] += prob
    entropy = log_partition - (probs[probs > 0] @ scores[probs > 0]) if possible else np.nan
    paths.sort(key=lambda entry: (-entry[0], entry[1]))
    return EnumeratedChain(float(log_partition), marginals, pair_marginals, float(entropy), paths)


def forward_backward(initial, pair, node) -> ChainAnswer:
    """Sum over paths by recursion in log space, for chains too long to enumerate."""
    initial, pair, node = _float64(initial, pair, node)
    time, states = node.shape
    pair = np.broadcast_to(pair, (time - 1, states, states))
    forward, backward = np.zeros((time, states)), np.zeros((time, states))
    forward[0] = initial + node[0]
    for t in range(1, time):
        forward[t] = log_sum_exp(forward[t - 1][:, None] + pair[t - 1], axis=0) + node[t]
    for t in range(time - 2, -1, -1):
        backward[t] = log_sum_exp(pair[t] + (node[t + 1] + backward[t + 1])[None, :], axis=1)

    log_partition = log_sum_exp(forward[-1])
    if log_partition == -np.inf:
        return ChainAnswer(-np.inf, np.zeros((time, states)), np.zeros(pair.shape), np.nan)
    marginals = np.exp(forward + backward - log_partition)
    ahead = (node + backward)[1:, None, :]
    pair_marginals = np.exp(forward[:-1, :, None] + pair + ahead - log_partition)
    expected_score = (
        _expectation(marginals[0], initial) + _expectation(marginals, node) + _expectation(pair_marginals, pair)
    )
    return ChainAnswer(float(log_partition), marginals, pair_marginals, float(log_partition - expected_score))


def viterbi(initial, pair, node) -> tuple[float, np.ndarray]:
    """Score and states of a best path; the lowest state is taken where the last argmax ties."""
    initial, pair, node = _float64(initial, pair, node)
    time, states = node.shape
    pair = np.broadcast_to(pair, (time - 1, states, states))
    best = initial + node[0]
    came_from = np.zeros((time, states), int)
    for t in range(1, time):
        candidates = best[:, None] + pair[t - 1]
        came_from[t] = candidates.argmax(axis=0)
        best = candidates.max(axis=0) + node[t]
    path = np.zeros(time, int)
    path[-1] = best.argmax()
    for t in range(time - 1, 0, -1):
        path[t - 1] = came_from[t, path[t]]
    return float(best.max()), path


def score_path(initial, pair, node, path) -> float:
    """Unnormalised log-probability of one path."""
    initial, pair, node = _float64(initial, pair, node)
    score = initial[path[0]] + node[0, path[0]]
    for t in range(1, len(path)):
        step = pair if pair.ndim == 2 else pair[t - 1]
        score += step[path[t - 1], path[t]] + node[t, path[t]]
    return float(score)


def log_sum_exp(values, axis=None):
    """log Σ exp, −inf where everything is −inf."""
    values = np.asarray(values, np.float64)
    highest = values.max(axis=axis, keepdims=True)
    shift = np.where(np.isfinite(highest), highest, 0.0)
    with np.errstate(divide="ignore"):
        return np.log(np.exp(values - shift).sum(axis=axis)) + np.squeeze(shift, axis=axis)


def random_chain(rng, *, time, states, time_varying=False, zeros=0.0):
    """Log-potentials (initial, pair, node), each entry forbidden with probability `zeros` but one path always open."""
    pair_shape = (time - 1, states, states) if time_varying else (states, states)
    shapes = ((states,), pair_shape, (time, states))
    initial, pair, node = (np.where(rng.random(s) < zeros, -np.inf, rng.normal(size=s)) for s in shapes)
    open_path = rng.integers(states, size=time)
    initial[open_path[0]] = rng.normal()
    for t, state in enumerate(open_path):
        node[t, state] = rng.normal()
        if t:
            (pair[t - 1] if time_varying else pair)[open_path[t - 1], state] = rng.normal()
    return initial, pair, node


def _expectation(probs, values):
    """Σ p·v with 0·(−inf) = 0."""
    return np.sum(np.where(probs > 0, probs * np.where(probs > 0, values, 0.0), 0.0))


def _float64(*arrays):
    return tuple(np.asarray(array, np.float64) for array in arrays)
