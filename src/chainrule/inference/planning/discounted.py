"""Discounted decision processes: value iteration, policy iteration, and what lies between.

Each solver ends on a backup T v of its values, and the certificate is that backup's: see `bounds`.

References:
    Puterman (1994), Markov Decision Processes, chapter 6: all of them. Puterman and Shin (1978): modified policy
    iteration. Anderson (1965), Walker and Ni (2011): acceleration. MacQueen (1966): the bounds.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from .bounds import Bounds
from .evaluation import direct, is_narrow, krylov, spread, sweep
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
    policy[states] = q[states].argmax(axis=1)
    return states


def value_iteration(process: Process, v: np.ndarray, *, tolerance: float, most: int, report: Report) -> Outcome:
    """Back up until the bounds are within the tolerance of each other's middle."""
    history: list[float] = []
    while True:
        q = process.action_values(v)
        values = best(q)
        change = np.subtract(values, v, out=v)
        bounds = process.bounds(change, values)
        history.append(bounds.gap)
        report(len(history), bounds.gap)
        exact = spread(change) <= 4 * process.rounding(values)
        if bounds.gap <= tolerance or exact or len(history) >= most:
            return Outcome(
                values, bounds, q, q.argmax(axis=1), len(history), 0, history, bounds.gap <= tolerance, exact
            )
        v = values


def gauss_seidel(
    process: Process, v: np.ndarray, *, tolerance: float, most: int, blocks: int, report: Report
) -> Outcome:
    """Value iteration that uses new values at once: blocks of states one after the other, forwards and backwards in turn.

    After each pair of passes one ordinary backup tells how far there is to go.
    """
    if process.rows is not None or not hasattr(process.matrix, "indptr"):
        blocks = 1  # rows that states share, or dense ones, are as cheap all at once
    edges = np.linspace(0, process.num_states, min(blocks, process.num_states) + 1).astype(int)
    pieces = [slice(low, high) for low, high in zip(edges[:-1], edges[1:], strict=True)]
    rows = [process.block(piece) for piece in pieces] if len(pieces) > 1 else []
    history: list[float] = []
    while True:
        q = process.action_values(v)
        values = best(q)
        change = values - v
        bounds = process.bounds(change, values)
        history.append(bounds.gap)
        report(len(history), bounds.gap)
        exact = spread(change) <= 4 * process.rounding(values)
        if bounds.gap <= tolerance or exact or len(history) >= most:
            return Outcome(
                values, bounds, q, q.argmax(axis=1), len(history), 0, history, bounds.gap <= tolerance, exact
            )
        v = values
        for order in (range(len(rows)), reversed(range(len(rows)))):
            for n in order:
                v[pieces[n]] = best(rows[n](v))


def modified_policy_iteration(
    process: Process, v: np.ndarray, *, tolerance: float, most: int, sweeps: int | None, report: Report
) -> Outcome:
    """Improve the policy, back up under it a number of times, and so on.

    With `sweeps` None their number adapts: they go on while they still shrink the spread of the change, down to a fifth of
    what the improvement left; where they are slow, and LU is cheap, the policy is evaluated exactly instead.
    """
    ends, paid = bool(process.ends.any()), process.largest_reward > 0
    history: list[float] = []
    done, narrow = 0, None
    if sweeps is None and ends and paid and not v.any() and process.reward.max() <= 0:
        # where every step costs, the way out is what policies differ in: begin with the shortest
        policy = process.shortest_policy()
        chain = process.follow(policy)
        narrow = is_narrow(chain.matrix)
        exactly = direct(chain, discount=process.discount) if narrow else None
        v = sweep(chain, v, discount=process.discount, until=0.0, most=200, ends=ends)[0] if exactly is None else exactly
    else:
        policy, chain = process.any_policy(), None
    while True:
        q = process.action_values(v) if v.any() else process.reward.copy()
        values = best(q)
        change = np.subtract(values, v, out=v)
        bounds = process.bounds(change, values)
        history.append(bounds.gap)
        report(len(history), bounds.gap)
        error = process.rounding(values)
        width = spread(change, ends)
        changed = improve(q, policy, values, 4 * error)
        exact = width <= 8 * error
        if bounds.gap <= tolerance or exact or len(history) >= most:
            return Outcome(values, bounds, q, policy, len(history), done, history, bounds.gap <= tolerance, exact)
        if chain is None:
            chain = process.follow(policy)
        elif len(changed):
            chain = process.follow_on(chain, policy, changed)
        if sweeps is not None:
            v, n, _ = sweep(chain, values, discount=process.discount, until=0.0, most=sweeps, ends=ends)
            done += n
            continue
        settled = len(changed) <= 0.002 * process.num_states
        if settled and narrow:
            exactly = direct(chain, discount=process.discount)
            v = values if exactly is None else exactly
            done += 1
            continue
        # where mixing is fast a deep evaluation costs next to nothing; a policy that stays wants its own values
        factor = process.factors[1]
        goal = 0.5 * tolerance * (1 - factor) / factor if len(changed) == 0 and factor > 0 else 0.2 * width
        v, n, rate = sweep(chain, values, discount=process.discount, until=max(goal, 4 * error), most=50, ends=ends)
        done += n
        if n == 50 and rate > 0.9 and narrow is None:
            narrow = is_narrow(chain.matrix)
