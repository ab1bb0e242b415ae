"""Discounted decision processes: value iteration, policy iteration, and what lies between.

Each solver ends on a backup T v of its values, and the certificate is that backup's: see `bounds`.

References:
    Puterman (1994), Markov Decision Processes, chapter 6: all of them. Puterman and Shin (1978): modified policy
    iteration. Anderson (1965), Walker and Ni (2011): acceleration. MacQueen (1966): the bounds.
"""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from .backups import Backups
from .bounds import Bounds, macqueen, rounding
from .evaluation import direct, is_narrow, krylov, lu_work, spread, sweep
from .process import Process


class Outcome(NamedTuple):
    """What a solver found.

    Attributes:
        values: T v, before the bounds are added.
        bounds: v* − T v, smallest and largest.
        action_values: the Q whose maximum `values` is.
        policy: an action for each state.
        iterations: improvements of the policy, which is backups over all actions.
        sweeps: backups under one policy.
        history: half the width of the bounds at each improvement.
        reached: whether it came down to the tolerance.
        exact: whether rounding is all that is left, where it did not.
    """

    values: np.ndarray
    bounds: Bounds
    action_values: np.ndarray
    policy: np.ndarray
    iterations: int
    sweeps: int
    history: list[float]
    reached: bool
    exact: bool


Report = Callable[[int, float], None]
_LITTLE = 100  # work for each entry of the matrix, to which LU is worth it also for a policy that will not stay


class Progress:
    """Where a solver stands after each improvement, and whether that is the end.

    A constant that is left in T v − v widens the bounds by as much as the sums of rows differ. So where nothing but
    rounding is left of its spread, `shift` says what to add to T v before going on, as long as that halves the bounds.

    Attributes:
        bounds, error, width: of the last improvement: its bounds, its rounding, the spread of T v − v.
        shift: what to add to T v; 0 as a rule.
        sweeps: backups under one policy, which the solver counts.
    """

    bounds: Bounds
    error: float
    width: float

    def __init__(self, process: Process, *, tolerance: float, most: int, report: Report):
        self._process, self._tolerance, self._most, self._report = process, tolerance, most, report
        self._ends = bool(process.ends.any())
        self._history: list[float] = []
        self._narrowest = np.inf  # the bounds when the last constant was taken out
        self.shift, self.sweeps, self._exact = 0.0, 0, False

    def take_in(self, values: np.ndarray, change: np.ndarray):
        """Note an improvement: T v, and T v − v."""
        self.bounds = self._process.bounds(change, values)
        self.error = self.bounds.error
        self.width = spread(change, self._ends)
        self._history.append(self.bounds.gap)
        self._report(len(self._history), self.bounds.gap)

    def take_back(self):
        """Forget the last improvement, which is to be computed again."""
        self._history.pop()

    def finished(self, exact: bool | None = None) -> bool:
        """Whether it came down to the tolerance, to rounding (which `exact` may know better), or took too many steps."""
        self._exact = self.width <= 8 * self.error if exact is None else exact
        self.shift, gap = 0.0, self.bounds.gap
        if exact is None and self._exact and self._tolerance < gap <= 0.5 * self._narrowest:
            process, moved = self._process, abs(self.bounds.middle)  # larger values are rounded more
            error = self.error + rounding(process.terms, 0.0, process.discount, moved)
            least = macqueen(0.0, 0.0, factors=process.factors, error=error).gap
            if gap > 4 * least:
                self._exact, self._narrowest, self.shift = False, gap, self.bounds.middle
        return gap <= self._tolerance or self._exact or len(self._history) >= self._most

    def outcome(self, values: np.ndarray, q: np.ndarray, policy: np.ndarray | None = None) -> Outcome:
        """What was found: T v, the Q that it is the maximum of, and the policy, which is the best by Q if not given."""
        return Outcome(
            values,
            self.bounds,
            q,
            q.argmax(axis=1) if policy is None else policy,
            len(self._history),
            self.sweeps,
            self._history,
            self.bounds.gap <= self._tolerance,
            self._exact,
        )


def best(q: np.ndarray) -> np.ndarray:
    """Max over actions, one column at a time where there are few, which is how the processor likes it."""
    if q.shape[1] > 16:
        return q.max(axis=1)
    found = q[:, 0].copy()
    for a in range(1, q.shape[1]):
        np.maximum(found, q[:, a], out=found)
    return found


def improve(q: np.ndarray, policy: np.ndarray, values: np.ndarray, margin: float) -> np.ndarray:
    """Change an action only where another beats it by more than `margin`, so that ties cannot go round in circles.

    Returns:
        The states whose action changed; `policy` is changed in place.
    """
    states = np.flatnonzero(values - q[np.arange(len(q)), policy] > margin)
    policy[states] = (q.argmax(axis=1)[states]) if 2 * len(states) > len(q) else q[states].argmax(axis=1)
    return states


def value_iteration(process: Process, v: np.ndarray, *, tolerance: float, most: int, report: Report) -> Outcome:
    """Back up until the bounds are within the tolerance of each other's middle."""
    progress = Progress(process, tolerance=tolerance, most=most, report=report)
    while True:
        q = process.action_values(v)
        values = best(q)
        progress.take_in(values, np.subtract(values, v, out=v))
        if progress.finished():
            return progress.outcome(values, q)
        v = values + progress.shift if progress.shift else values


def gauss_seidel(
    process: Process, v: np.ndarray, *, tolerance: float, most: int, blocks: int, report: Report
) -> Outcome:
    """Value iteration that uses new values at once: blocks of states one after the other, forwards and backwards in turn.

    After each pair of passes, which count as sweeps, one ordinary backup tells how far there is to go. Rows that states
    share are not cut into blocks: then this is value iteration, without any sweeps.
    """
    if process.rows is not None:
        blocks = 1
    edges = np.linspace(0, process.num_states, min(blocks, process.num_states) + 1).astype(int)
    pieces = [slice(low, high) for low, high in itertools.pairwise(edges)]
    rows = [process.block(piece) for piece in pieces] if len(pieces) > 1 else []
    progress = Progress(process, tolerance=tolerance, most=most, report=report)
    while True:
        q = process.action_values(v)
        values = best(q)
        progress.take_in(values, values - v)
        if progress.finished():
            return progress.outcome(values, q)
        v = values + progress.shift
        for order in (range(len(rows)), reversed(range(len(rows)))):
            for n in order:
                v[pieces[n]] = best(rows[n](v))
            progress.sweeps += bool(rows)


def modified_policy_iteration(
    process: Process, v: np.ndarray, *, tolerance: float, most: int, sweeps: int | None, report: Report
) -> Outcome:
    """Improve the policy, back up under it a number of times, and so on.

    With `sweeps` None their number adapts: they go on while they still shrink the spread of the change, down to a fifth of
    what the improvement left; where they are slow, and LU is cheap, the policy is evaluated exactly instead.
    """
    ends = bool(process.ends.any())
    progress = Progress(process, tolerance=tolerance, most=most, report=report)
    work, solved, entries = None, False, process.num_states * process.width
    policy, chain, v, slow = _beginning(process, v, progress, sweeps)
    back_up = Backups(process)
    while True:
        q = None  # the last one is not needed while the next one is made
        q = back_up(v, policy, chain)
        before = v.copy() if not back_up.whole else None
        values = best(q)
        progress.take_in(values, np.subtract(values, v, out=v))
        error = progress.error
        changed = improve(q, policy, values, 4 * error)
        if progress.finished():
            if before is None:
                return progress.outcome(values, q, policy)
            v, chain = before, None  # the Q that is returned is computed everywhere
            progress.take_back()
            continue
        if chain is None:
            chain = process.follow(policy)
        elif len(changed):
            chain = process.follow_on(chain, policy, changed)
        v = values + progress.shift if progress.shift else values
        if sweeps is not None:
            v, n, _ = sweep(chain, v, discount=process.discount, until=0.0, most=sweeps, ends=ends)
            progress.sweeps += n
            continue
        few = 0 < len(changed) <= 0.002 * process.num_states
        if slow and (few or not (len(changed) or solved)):
            work = lu_work(chain.matrix) if work is None else work
            # what costs as much as many sweeps has to wait until nothing changes any more
            found = direct(chain, discount=process.discount) if work <= (_LITTLE * entries if few else 1e9) else None
            if found is not None:
                v, solved = found, True
                progress.sweeps += 1
                continue
        solved = False
        # where mixing is fast a deep evaluation costs next to nothing; a policy that stays wants its own values
        factor = process.factors[1]
        goal = 0.5 * tolerance * (1 - factor) / factor if len(changed) == 0 and factor > 0 else 0.2 * progress.width
        v, n, rate = sweep(chain, v, discount=process.discount, until=max(goal, 4 * error), most=50, ends=ends)
        progress.sweeps, slow = progress.sweeps + n, slow or (n == 50 and rate > 0.9)


def _beginning(process: Process, v: np.ndarray, progress: Progress, sweeps: int | None) -> tuple:
    """A policy, its chain if there is any reason for it, values, and whether backups under it are slow."""
    ends = bool(process.ends.any())
    if v.any():
        return process.any_policy(), None, v, False
    until, most = 0.0, 50 if sweeps is None else sweeps
    if sweeps is None and ends and process.reward.max() <= 0 < process.largest_reward:
        # where every step costs, the way out is what policies differ in: begin with the shortest
        policy, v = _shortest(process)
    else:  # the first backup costs nothing
        policy, v = process.reward.argmax(axis=1), best(process.reward)
        until = 0.2 * spread(v, ends) if sweeps is None else 0.0
    chain = process.follow(policy)
    v, n, rate = sweep(chain, v, discount=process.discount, until=until, most=most, ends=ends)
    progress.sweeps = n
    return policy, chain, v, n == 50 and rate > 0.9


def _shortest(process: Process) -> tuple[np.ndarray, np.ndarray]:
    """The policy of the fewest steps to the end, and about what it is worth: the average reward, once for each step.

    As many steps are counted as are taken where each leads towards the end by as much as they do on average.
    """
    far = process.steps_to_end().astype(np.float64)
    towards = far[:, None] - process.expect(far)
    policy = np.where(process.mask, towards, -np.inf).argmax(axis=1)
    states, v = np.flatnonzero(~process.ends), np.zeros(process.num_states)
    if len(states) == 0:
        return policy, v
    speed = max(float(towards[states, policy[states]].mean()), 0.1)
    v[states] = process.reward[states, policy[states]].mean() * _lasting(process.discount, far[states] / speed)
    return policy, v


def _lasting(discount: float, steps: np.ndarray) -> np.ndarray:
    """Σ_{t < steps} γ^t."""
    return (1 - discount**steps) / (1 - discount)


def policy_iteration(
    process: Process, v: np.ndarray, *, tolerance: float, most: int, exactly: bool, report: Report
) -> Outcome:
    """Evaluate a policy, improve it, and so on until nothing improves (Howard 1960).

    It ends, also where actions tie: an action is kept until another beats it by more than rounding. `exactly` evaluates by
    LU, otherwise Krylov methods do it, to a residual that shrinks with the bounds. Where they get no further, LU takes over
    if it is cheap; if it is not, that is the end.
    """
    ends = bool(process.ends.any())
    progress = Progress(process, tolerance=tolerance, most=most, report=report)
    q = process.action_values(v)
    policy = q.argmax(axis=1)
    chain = process.follow(policy)
    until = max(0.1 * spread(best(q) - v, ends), tolerance * (1 - process.factors[1]))
    narrowest, stuck = np.inf, False
    while True:
        found = direct(chain, discount=process.discount) if exactly else None
        v = krylov(chain, v, discount=process.discount, until=until) if found is None else found
        progress.sweeps += 1
        q = process.action_values(v)
        values = best(q)
        progress.take_in(values, values - v)
        error, width = progress.error, progress.width
        changed = improve(q, policy, values, 4 * error)
        # without a better action only the evaluation is left to blame: exact, or to be made more exact
        settled = len(changed) == 0
        if progress.finished(settled and (found is not None or width <= 8 * error)) or stuck:
            return progress.outcome(values, q, policy)
        if settled and width > 0.5 * narrowest:
            exactly = is_narrow(chain.matrix)
            stuck = not exactly
        narrowest = width if settled else np.inf
        until = min(until, 0.1 * width) if len(changed) else 0.1 * until
        until = max(until, 0.5 * error)
        chain = process.follow_on(chain, policy, changed) if len(changed) else chain


def anderson(process: Process, v: np.ndarray, *, tolerance: float, most: int, memory: int, report: Report) -> Outcome:
    """Value iteration that combines its last values so that their changes nearly cancel (Anderson 1965).

    A combination whose own change is wider than that of the values it came from is given up for the plain backup, and the
    memory begins anew: nothing is worse for long, and nothing cycles.
    """
    progress = Progress(process, tolerance=tolerance, most=most, report=report)
    points: list[np.ndarray] = []  # T v of the last steps
    changes: list[np.ndarray] = []
    plain, narrowest = v, np.inf
    while True:
        q = process.action_values(v)
        values = best(q)
        change = values - v
        progress.take_in(values, change)
        if progress.finished():
            return progress.outcome(values, q)
        if progress.shift or (progress.width > narrowest and v is not plain):
            v = plain = values + progress.shift if progress.shift else plain
            points, changes, narrowest = [], [], np.inf
            continue
        narrowest, plain = progress.width, values
        points, changes = [*points[-memory:], values], [*changes[-memory:], change]
        v = _combined(points, changes) if len(points) > 1 else plain


def _combined(points, changes) -> np.ndarray:
    """The affine combination of the points whose changes, combined likewise, are least in the sense of squares."""
    steps = np.stack([later - earlier for earlier, later in itertools.pairwise(changes)], axis=1)
    weights = np.linalg.lstsq(steps, changes[-1], rcond=1e-12)[0]
    moves = np.stack([later - earlier for earlier, later in itertools.pairwise(points)], axis=1)
    return points[-1] - moves @ weights
