"""The long-run average reward, whatever the structure: unichain, multichain, periodic.

    g*(s) = max_π lim_{n→∞} E[r_1 + … + r_n | s] / n

Sooner or later the process stays in one end component (see `components`), in which every state can reach every other, so
that all have one best gain. Value iteration inside the components bounds it, for any v and T the backup within:

    min (T v − v)  ≤  g  ≤  max (T v − v),

and steps of v ← v + κ (T v − v) with κ < 1 make the two meet, also where chains are periodic. With the components shrunk to
a point each, no policy can avoid to stop in one, and choosing which is an optimal stopping problem.

References:
    Puterman (1994), Markov Decision Processes, chapters 8 and 9; §8.5.4 for the damping, §8.5.5 for the bounds.
    Haviv and Puterman (1991), communicating processes. de Alfaro (1997), the shrinking of end components.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

from .bounds import rounding
from .components import end_components, outcomes, steps_within
from .discounted import improve
from .evaluation import is_narrow
from .long_run import LongRun, long_run, recurrent_classes, stochastic
from .process import Process
from .stopping import Stopping, best_stopping

_STEP = 0.9  # κ


class Average(NamedTuple):
    """What was found.

    Attributes:
        gain: the middle of the bounds, (S,).
        gap: the optimal gain is no further from it.
        bias: of the policy, (S,).
        attained: the gain of the policy by an exact solution of its chain, (S,); None where that would cost too much.
        action_values: r − g + P h where an action keeps the gain, (S, A); −inf where it is infeasible or loses gain.
        policy: (S,).
        component: the end component of each state, −1 for none; states that end the process have one each.
        iterations, sweeps: backups, exact evaluations.
        history: half the width of the bounds inside the components.
        exact: whether rounding is all that is left.
    """

    gain: np.ndarray
    gap: float
    bias: np.ndarray
    attained: np.ndarray | None
    action_values: np.ndarray
    policy: np.ndarray
    component: np.ndarray
    iterations: int
    sweeps: int
    history: list[float]
    exact: bool


class _Inside(NamedTuple):
    """Gains of the end components: low, high (components,); values and policy (S,), of use inside them."""

    low: np.ndarray
    high: np.ndarray
    values: np.ndarray
    policy: np.ndarray
    sweeps: int
    history: list[float]
    exact: bool


class _Undiscounted:
    """A process without its discount and with rows that sum to one."""

    def __init__(self, process: Process):
        self.process = process
        sums = np.asarray(process.matrix.sum(axis=1)).reshape(-1)
        sums = sums.reshape(process.mask.shape) if process.rows is None else sums[process.rows]
        self.sums = np.where(process.mask & ~process.ends[:, None], sums, 1)

    def action_values(self, v: np.ndarray) -> np.ndarray:
        """The sums r + P v, (S, A), −inf where infeasible."""
        found = self.expect(v)
        found += self.process.reward
        return found

    def expect(self, v: np.ndarray) -> np.ndarray:
        """P v, (S, A); where the process has ended it stays."""
        found = self.process.expect(v) / self.sums
        ended = self.process.ends
        found[ended] = v[ended, None]
        return found

    def follow(self, policy: np.ndarray) -> tuple[Any, np.ndarray]:
        """The matrix and the rewards of a policy; where the process has ended it stays, for nothing."""
        chain = self.process.follow(policy)
        matrix = sparse.csr_array(chain.matrix) + sparse.diags_array(self.process.ends.astype(float))
        return stochastic(matrix), chain.reward

    def rounding(self, v: np.ndarray) -> float:
        """How far r + P v can be off."""
        largest = float(np.abs(v).max(initial=0))
        return rounding(self.process.width + 2, self.process.largest_reward, 1.0, largest)


def average_reward(
    process: Process, v: np.ndarray, *, tolerance: float, most: int, report: Callable[[int, float], None]
) -> Average:
    """Solve from values v, which are used inside the end components."""
    plain = _Undiscounted(process)
    component, inside = end_components(process)
    found = _inside(plain, component, inside, v, tolerance=tolerance, most=most, report=report)
    count = int(component.max(initial=-1)) + 1
    ended = np.flatnonzero(process.ends)
    component = component.copy()
    component[ended] = count + np.arange(len(ended))  # the end is a component that pays nothing
    inside = inside.copy()
    inside[ended] = process.mask[ended]
    gains = np.append(0.5 * (found.low + found.high), np.zeros(len(ended)))
    half = float((0.5 * (found.high - found.low)).max(initial=0))
    policy, chosen = _with_stops(process, component, inside, gains, found.policy, most)
    gap = half + chosen.gap
    gain = chosen.values[_nodes(component)]
    matrix, reward = plain.follow(policy)
    solved, sweeps = None, found.sweeps
    if is_narrow(matrix):
        solved = long_run(matrix, reward)
    if solved is None:
        bias = _rough_bias(matrix, reward, gain, np.where(component >= 0, found.values, 0))
        attained = None
    else:
        policy, solved, rounds = _polish(plain, policy, solved, gap)
        bias, attained, sweeps = solved.bias, solved.gain, sweeps + 1 + rounds
    keeps = plain.expect(gain) >= gain[:, None] - 2 * gap - 4 * plain.rounding(gain)
    q = np.where(keeps, plain.action_values(bias) - gain[:, None], -np.inf)
    q[~process.mask] = -np.inf
    return Average(
        gain,
        gap,
        bias,
        attained,
        q,
        policy,
        component,
        len(found.history),
        sweeps,
        found.history,
        found.exact,
    )


def _inside(plain: _Undiscounted, component, inside, v, *, tolerance, most, report) -> _Inside:
    """Bound the gain of all end components at once."""
    states = np.flatnonzero(component >= 0)
    policy = np.where(component >= 0, inside.argmax(axis=1), plain.process.any_policy())
    if len(states) == 0:
        return _Inside(np.zeros(0), np.zeros(0), v, policy, 0, [], False)
    order = states[np.argsort(component[states], kind="stable")]
    mine = component[order]
    first = np.flatnonzero(np.diff(mine, prepend=-1))
    v = np.where(component >= 0, v, 0.0)
    history: list[float] = []
    evaluations, wait, affordable = 0, 20, None
    low, high = np.full(len(first), -np.inf), np.full(len(first), np.inf)
    while True:
        q = np.where(inside, plain.action_values(v), -np.inf)
        values = q.max(axis=1)
        change = values[order] - v[order]
        error = plain.rounding(v[order])
        # bounds from any values hold, so the best of all steps do
        low = np.maximum(low, np.minimum.reduceat(change, first) - error)
        high = np.minimum(high, np.maximum.reduceat(change, first) + error)
        history.append(float(0.5 * (high - low).max()))
        report(len(history), history[-1])
        width = np.maximum.reduceat(change, first) - np.minimum.reduceat(change, first)
        done, exact = history[-1] <= 0.9 * tolerance, bool((width <= 4 * error).all())
        improved = policy.copy()
        improve(q[order], shorter := improved[order], values[order], 4 * error)
        improved[order] = shorter
        if done or exact or len(history) >= most:
            return _Inside(low, high, v, improved, evaluations, history, exact)
        policy = improved
        step = np.zeros_like(v)
        step[order] = _STEP * change
        v = v + step
        v[order] -= v[order][first][mine]  # only differences count; large constants would cost digits
        slow = len(history) >= wait and history[-1] > 0.1 * history[max(0, len(history) - 11)]
        if not slow or affordable is False:
            continue
        bias = _communicating_bias(plain, policy, component, inside, order)
        affordable, evaluations = bias is not None, evaluations + 1
        if bias is None:
            continue
        q = np.where(inside, plain.action_values(bias), -np.inf)
        change = q.max(axis=1)[order] - bias[order]
        now = np.maximum.reduceat(change, first) - np.minimum.reduceat(change, first)
        better = np.zeros(len(first), bool)
        better[:] = now < width
        v[order] = np.where(better[mine], bias[order], v[order])
        wait = len(history) + (1 if better.any() else 20)


def _communicating_bias(plain: _Undiscounted, policy, component, inside, order) -> np.ndarray | None:
    """The bias of a policy inside the components, led to the best of its recurrent classes in each; None if too costly."""
    matrix, reward = _restricted(plain, policy, order)
    if not is_narrow(matrix):
        return None
    solved = long_run(matrix, reward)
    if solved is None:
        return None
    mine = component[order]
    best = np.full(mine.max() + 1, -np.inf)
    recurrent = solved.recurrent >= 0
    np.maximum.at(best, mine[recurrent], solved.gain[recurrent])
    ahead = recurrent & (solved.gain >= best[mine])
    # of classes that tie the first in each component is enough
    lead = np.full(len(best), len(order))
    np.minimum.at(lead, mine[ahead], solved.recurrent[ahead])
    ahead &= solved.recurrent == lead[mine]
    if not (ahead == recurrent).all():
        targets = np.zeros(len(policy), bool)
        targets[order[ahead]] = True
        towards = steps_within(plain.process, inside, targets)
        policy = np.where(towards >= 0, towards, policy)
        solved = long_run(*_restricted(plain, policy, order))
        if solved is None:
            return None
    bias = np.zeros(len(policy))
    bias[order] = solved.bias
    return bias


def _restricted(plain: _Undiscounted, policy, order) -> tuple[Any, np.ndarray]:
    matrix, reward = plain.follow(policy)
    return matrix[order][:, order], reward[order]


def _nodes(component: np.ndarray) -> np.ndarray:
    """The node of each state once components are shrunk: those of the components first, then the other states."""
    count = int(component.max(initial=-1)) + 1
    alone = component < 0
    return np.where(alone, count + np.cumsum(alone) - 1, component)


def _with_stops(process: Process, component, inside, gains, policy, most) -> tuple[np.ndarray, Stopping]:
    """Choose the components to stay in, and the way there.

    Returns:
        The whole policy, from one that is best inside the components; values of the nodes, and how far off they may be.
    """
    node = _nodes(component)
    size = int(node.max()) + 1
    states, actions = np.nonzero(process.mask & ~inside)
    pair, successor, probability = outcomes(process, states, actions)
    rows = stochastic(sparse.csr_array((probability, (pair, node[successor])), shape=(len(states), size)))
    stop = np.append(gains, np.full(size - len(gains), -np.inf))
    found = best_stopping(rows, node[states], np.zeros(len(states)), stop, most=most)
    policy = policy.copy()
    leaving = np.flatnonzero(found.choice[: len(gains)] >= 0)
    exits = found.choice[leaving]
    if len(leaving):
        left = np.isin(component, leaving)
        towards = steps_within(process, inside & left[:, None], states[exits])
        policy = np.where(left & (towards >= 0), towards, policy)
        policy[states[exits]] = actions[exits]
    alone = np.flatnonzero(component < 0)
    policy[alone] = actions[found.choice[node[alone]]]
    return policy, found


def _polish(plain: _Undiscounted, policy, solved: LongRun, gap: float) -> tuple[np.ndarray, LongRun, int]:
    """Multichain policy iteration: more gain first, and more bias among the actions that keep the gain (Puterman, §9.2)."""
    rounds = 0
    while rounds < 100:
        gain_error, bias_error = plain.rounding(solved.gain), plain.rounding(solved.bias)
        onward = np.where(plain.process.mask, plain.expect(solved.gain), -np.inf)
        new = policy.copy()
        changed = improve(onward, new, onward.max(axis=1), 1e-11 * (1 + np.abs(solved.gain).max()) + 8 * gain_error)
        if len(changed) == 0:
            margin = 1e-12 * (1 + np.abs(solved.gain).max()) + 8 * gain_error
            keeps = onward >= solved.gain[:, None] - margin
            q = np.where(keeps, plain.action_values(solved.bias), -np.inf)
            changed = improve(q, new, q.max(axis=1), 1e-11 * (1 + np.abs(solved.bias).max()) + 8 * bias_error)
        if len(changed) == 0:
            break
        matrix, reward = plain.follow(new)
        after = long_run(matrix, reward) if is_narrow(matrix) else None
        # rounding may call an action better that is not; gain is never given up for it
        if after is None or (after.gain < solved.gain - min(gap, 1e-9 * (1 + np.abs(solved.gain).max()))).any():
            break
        more = (after.gain - solved.gain).max() > gap or (after.bias - solved.bias).max() > 1e-9 * np.abs(
            after.bias
        ).max()
        policy, solved, rounds = new, after, rounds + 1
        if not more:
            break
    return policy, solved, rounds


def _rough_bias(matrix, reward, gain, bias) -> np.ndarray:
    """Bias by sweeps: that of the components stays as it is, other states come to follow from it."""
    passing = recurrent_classes(matrix) < 0
    if not passing.any():
        return bias
    bias = bias.copy()
    rows, paid = matrix[np.flatnonzero(passing)], (reward - gain)[passing]
    for _ in range(1000):
        new = paid + rows @ bias
        done = np.abs(new - bias[passing]).max() <= 1e-9 * (1 + np.abs(new).max())
        bias[passing] = new
        if done:
            break
    return bias
