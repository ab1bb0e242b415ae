"""The benchmark tasks: seeded models and data, their true answers, and how far an answer is from the truth.

| task | model | data | work |
|---|---|---|---|
| a | 5 states, 2 Gaussian features | one sequence of 100 000 steps | log-likelihood and posterior marginals |
| b | as a | as a | Viterbi path |
| c | 10 states, 4 Gaussian features | 100 sequences of 1000 steps | ten steps of EM from a given start |
| d | 64 states, 1000 symbols | one sequence of 20 000 steps | log-likelihood and posterior marginals |
| e | 8 states, 3 Gaussian features | 500 sequences of 10 to 500 steps | log-likelihood and posterior marginals |
| f | 4 states, 2 Gaussian features | one sequence of 50 steps | log-likelihood and posterior marginals |
| g | 5 states, 2 Gaussian features | one sequence of 10 000 steps | log-likelihood and gradient in every parameter |
| h | as a | as a | one path drawn from the posterior |

Everything is drawn in float64 from `Generator(PCG64(seed))`, in the order of the code below, so that any library can be
given the same numbers. The reference engine is plain NumPy in float64: slow, short and easy to check.
"""

from dataclasses import dataclass, replace

import numpy as np

TASKS = "abcdefgh"


@dataclass(frozen=True)
class Parameters:
    """An HMM as arrays; `transition[i, j]` is from i to j. Emissions are mean and variance (K, D), or probs (K, V)."""

    initial: np.ndarray
    transition: np.ndarray
    mean: np.ndarray | None = None
    variance: np.ndarray | None = None
    probs: np.ndarray | None = None

    def astype(self, dtype) -> "Parameters":
        return Parameters(**{name: None if v is None else v.astype(dtype) for name, v in vars(self).items()})

    def log_likelihood(self, x: np.ndarray) -> np.ndarray:
        """log p(x_t | state), shape (..., K)."""
        if self.probs is not None:
            return np.log(self.probs).T[x]
        distance = (x[..., None, :] - self.mean) ** 2 / self.variance
        return -0.5 * (distance + np.log(2 * np.pi * self.variance)).sum(-1)


@dataclass(frozen=True)
class Problem:
    """One task: the true parameters, the observed sequences, and the start of EM where the task is to fit."""

    task: str
    parameters: Parameters
    sequences: tuple[np.ndarray, ...]
    start: Parameters | None = None

    def observations(self, dtype=np.float32) -> list[np.ndarray]:
        """Each sequence, (T, D) in the floating dtype, or (T,) int32 symbols."""
        return [x.astype(np.int32 if x.dtype.kind == "i" else dtype) for x in self.sequences]

    def padded(self, dtype=np.float32) -> tuple[np.ndarray, np.ndarray]:
        """All sequences in one array, filled with zeros, and the mask of the real steps."""
        x = self.observations(dtype)
        lengths = np.array([len(one) for one in x])
        out = np.zeros((len(x), lengths.max(), *x[0].shape[1:]), x[0].dtype)
        for row, one in zip(out, x, strict=True):
            row[: len(one)] = one
        return out, np.arange(lengths.max()) < lengths[:, None]


# task -> seed, states, features (or symbols), separation of the means, stickiness, lengths (None: 500 ragged ones)
_RECIPES = {
    "a": (11, 5, 2, 2.0, 0.9, [100_000]),
    "c": (13, 10, 4, 1.5, 0.9, [1000] * 100),
    "d": (14, 64, 1000, None, 0.5, [20_000]),
    "e": (15, 8, 3, 1.5, 0.9, None),
    "f": (16, 4, 2, 2.0, 0.9, [50]),
    "g": (17, 5, 2, 2.0, 0.9, [10_000]),
}

# float64 answers: the log-likelihood; for b the score of the best path; for c the log-likelihood after ten steps
TRUTH = {
    "a": -296277.1704,
    "b": -299869.4635,
    "c": -614683.0307,
    "d": -132252.0326,
    "e": -608878.6772,
    "f": None,
    "g": None,
}


def load(task: str) -> Problem:
    """Draw the data of one task."""
    if task in "bh":
        return replace(load("a"), task=task)
    seed, states, width, separation, stickiness, lengths = _RECIPES[task]
    rng = np.random.Generator(np.random.PCG64(seed))
    initial = rng.dirichlet(np.full(states, 2.0))
    transition = (1 - stickiness) * rng.dirichlet(np.ones(states), size=states) + stickiness * np.eye(states)
    transition /= transition.sum(axis=1, keepdims=True)
    if lengths is None:
        lengths = rng.integers(10, 501, 500).tolist()
    if separation is None:
        probs = rng.dirichlet(np.full(width, 0.1), size=states) + 1e-6
        parameters = Parameters(initial, transition, probs=probs / probs.sum(axis=1, keepdims=True))
    else:
        mean = separation * rng.standard_normal((states, width))
        parameters = Parameters(initial, transition, mean, variance=0.5 + rng.random((states, width)))
    paths = _draw_states(rng, parameters, lengths)
    sequences = tuple(_draw_observations(rng, parameters, path) for path in paths)
    start = None
    if task == "c":
        start = Parameters(
            np.full(states, 1 / states),
            0.7 * np.eye(states) + 0.3 / states,
            parameters.mean + 0.7 * rng.standard_normal((states, width)),
            np.full((states, width), 2.0),
        )
    return Problem(task, parameters, sequences, start)


def _draw_states(rng, parameters, lengths):
    uniforms = rng.random((max(lengths), len(lengths)))
    last = len(parameters.initial) - 1
    first, step = parameters.initial.cumsum(), parameters.transition.cumsum(axis=1)
    states = np.empty(uniforms.shape, int)
    states[0] = np.minimum((uniforms[0][:, None] > first).sum(1), last)
    for t in range(1, len(states)):
        states[t] = np.minimum((uniforms[t][:, None] > step[states[t - 1]]).sum(1), last)
    return [states[:length, i] for i, length in enumerate(lengths)]


def _draw_observations(rng, parameters, path):
    if parameters.probs is not None:
        uniforms, cumulative = rng.random(len(path)), parameters.probs.cumsum(axis=1)
        return np.array([np.searchsorted(cumulative[k], u) for k, u in zip(path, uniforms, strict=True)])
    noise = rng.standard_normal((len(path), parameters.mean.shape[1]))
    return parameters.mean[path] + np.sqrt(parameters.variance[path]) * noise


def forward_backward(problem: Problem, parameters: Parameters | None = None) -> tuple[float, np.ndarray]:
    """Log-likelihood of all sequences and the marginals of the real steps end to end, (ΣT, K), in float64."""
    p = parameters or problem.parameters
    x, mask = problem.padded(np.float64)
    node = np.where(mask[..., None], p.log_likelihood(x), 0.0).swapaxes(0, 1)  # (time, sequence, state)
    shift = node.max(axis=-1, keepdims=True)
    weight = np.exp(node - shift)
    alpha, beta, scale = np.empty_like(node), np.ones_like(node), np.empty(node.shape[:2])
    for t in range(len(node)):
        now = weight[t] * (p.initial if t == 0 else alpha[t - 1] @ p.transition)
        scale[t] = now.sum(axis=-1)
        alpha[t] = now / scale[t][:, None]
    for t in range(len(node) - 1, 0, -1):
        beta[t - 1] = (weight[t] * beta[t]) @ p.transition.T
        beta[t - 1] /= beta[t - 1].max(axis=-1, keepdims=True)
    marginals = alpha * beta
    marginals /= marginals.sum(axis=-1, keepdims=True)
    return float((np.log(scale) + shift[..., 0]).sum()), marginals.swapaxes(0, 1)[mask]


def path_log_prob(problem: Problem, path: np.ndarray) -> float:
    """log p(path, x) of a problem with one sequence."""
    p, path = problem.parameters, np.asarray(path)
    steps = np.log(p.transition)[path[:-1], path[1:]].sum()
    node = p.log_likelihood(problem.sequences[0])[np.arange(len(path)), path].sum()
    return float(np.log(p.initial)[path[0]] + steps + node)


def error(problem: Problem, answer) -> tuple[float, float | None]:
    """How far an answer is from the float64 truth.

    The first number is in nats: of the log-likelihood (a, d, e, f, g), of the score of the path (b), of the
    log-likelihood after fitting (c). The second is the largest error of a marginal (a, d, e, f) or the largest error
    of the gradient in the means over its largest entry (g). A drawn path (h) is right if the state drawn has the
    marginal probability it should have on average: the difference of the two averages, about 1e-3 by chance.
    """
    if problem.task == "b":
        return path_log_prob(problem, answer) - TRUTH["b"], None
    if problem.task == "c":
        return forward_backward(problem, answer)[0] - TRUTH["c"], None
    log_prob, marginals = forward_backward(problem)
    if problem.task == "h":
        drawn = marginals[np.arange(len(marginals)), np.asarray(answer)]
        return float(drawn.mean() - (marginals**2).sum(axis=1).mean()), None
    value, other = answer
    if problem.task == "g":
        p, x = problem.parameters, problem.sequences[0]
        truth = np.einsum("tk,tkd->kd", marginals, (x[:, None] - p.mean) / p.variance)
        return float(value) - log_prob, float(np.abs(other - truth).max() / np.abs(truth).max())
    if isinstance(other, list):
        other = np.concatenate(other)
    elif other.ndim == 3:
        other = other[problem.padded()[1]]
    return float(value) - log_prob, float(np.abs(other - marginals).max())
