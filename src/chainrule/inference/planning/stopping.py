"""Optimal stopping where every policy stops: choose, step by step, until a node pays its worth.

    w(n) = max { stop(n), max_{pairs of n} cost(pair) + Σ_m rows(pair, m) w(m) }

No set of nodes can be stayed in for ever, so that w is unique, and values v with T v ≥ v (T v ≤ v) are below (above) it.

References:
    Bertsekas and Tsitsiklis (1991), An analysis of stochastic shortest path problems. Haddad and Monmege (2018),
    Interval iteration for Markov decision processes.
"""

from typing import Any, NamedTuple

import numpy as np
from scipy import sparse
from scipy.sparse import linalg as solvers

from .bounds import rounding
from .evaluation import is_narrow


class Stopping(NamedTuple):
    """Values of the nodes, the pair chosen in each or −1 where it stops, and how far values may be off."""

    values: np.ndarray
    choice: np.ndarray
    gap: float


class _Problem(NamedTuple):
    rows: Any
    cost: np.ndarray
    stop: np.ndarray
    order: np.ndarray  # pairs by node
    active: np.ndarray  # nodes that have pairs
    first: np.ndarray  # where the pairs of each begin in the order
    share: np.ndarray  # which of the active nodes each pair in the order belongs to

    def backup(self, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The values of pairs, in their order, and the best of each node."""
        q = (self.cost + self.rows @ v)[self.order]
        best = self.stop.copy()
        if len(self.active):
            best[self.active] = np.maximum(best[self.active], np.maximum.reduceat(q, self.first))
        return q, best

    def greedy(self, q: np.ndarray, best: np.ndarray) -> np.ndarray:
        """For each node the first pair that is as good as the best; −1 where stopping is."""
        choice = np.full(len(best), -1)
        hits = np.flatnonzero(q >= best[self.active][self.share])
        nodes, place = np.unique(self.share[hits], return_index=True)
        choice[self.active[nodes]] = self.order[hits[place]]
        choice[self.stop >= best] = -1
        return choice


def best_stopping(rows: Any, owner: np.ndarray, cost: np.ndarray, stop: np.ndarray, *, most: int) -> Stopping:
    """Find the best way to stop.

    Args:
        rows: distributions over nodes, CSR, (pairs, nodes), such that every policy stops.
        owner: the node of each pair, (pairs,).
        cost: what each pair pays, (pairs,).
        stop: what stopping pays, (nodes,); −inf where it is not possible.
        most: rounds at most.
    """
    order = np.argsort(owner, kind="stable")
    active, first, share = np.unique(owner[order], return_index=True, return_inverse=True)
    problem = _Problem(rows, cost, stop, order, active, first, share)
    if len(active) == 0:
        return Stopping(stop, np.full(len(stop), -1), 0.0)
    choice = np.full(len(stop), -1)
    choice[active] = np.where(np.isfinite(stop[active]), -1, order[first])
    going = rows[choice[choice >= 0]]
    square = going[:, np.flatnonzero(choice >= 0)] if going.shape[0] else going
    found = _policy_iteration(problem, choice, most) if going.shape[0] == 0 or is_narrow(square) else None
    if found is not None:
        values, choice = found
        _, best = problem.backup(values)
        off = np.abs(best - values).max() + _rounding(int(np.diff(rows.indptr).max(initial=0)), values)
        # every step may add an error; the most steps there can be are themselves such a problem
        longest = _policy_iteration(
            problem._replace(cost=np.ones(len(cost)), stop=np.where(np.isfinite(stop), 0, -np.inf)), choice, most
        )
        if longest is not None:
            return Stopping(values, choice, float(2 * off * (1 + longest[0].max())))
    return _intervals(problem, most)


def _policy_iteration(problem: _Problem, choice: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Evaluate by LU, improve; None where LU fails."""
    width, sum_before = int(np.diff(problem.rows.indptr).max(initial=0)), -np.inf
    for _ in range(most):
        going = np.flatnonzero(choice >= 0)
        values = np.where(choice < 0, problem.stop, 0)
        if len(going):
            chosen = problem.rows[choice[going]]
            system = (sparse.eye_array(len(going), format="csr") - chosen[:, going]).tocsc()
            right = problem.cost[choice[going]] + chosen @ values
            try:
                factors = solvers.splu(system)
            except RuntimeError:  # "Factor is exactly singular"
                return None
            values[going] = factors.solve(right)
            values[going] += factors.solve(right - system @ values[going])
        q, best = problem.backup(values)
        if not np.isfinite(values).all():
            return None
        better = best > values + 4 * _rounding(width, values)
        if not better.any() or values.sum() <= sum_before:  # what improves nothing is rounding
            return values, choice
        sum_before = values.sum()
        choice = np.where(better, problem.greedy(q, best), choice)
    return None


def _rounding(width: int, values: np.ndarray) -> float:
    """How far a backup can be off: every policy stops, so that no cost is larger than the values."""
    return rounding(width, float(np.abs(values).max()), 1.0, float(np.abs(values).max()))


def _intervals(problem: _Problem, most: int) -> Stopping:
    """Back up from below and from above until the two meet."""
    paid = np.abs(problem.cost).max(initial=0)
    if paid > 0:
        raise ValueError("intervals need costs of zero")
    offers = problem.stop[np.isfinite(problem.stop)]
    low = np.where(np.isfinite(problem.stop), problem.stop, offers.min())
    high = np.full(len(problem.stop), offers.max())
    choice = np.full(len(low), -1)
    choice[problem.active] = np.where(np.isfinite(problem.stop[problem.active]), -1, problem.order[problem.first])
    scale = np.abs(offers).max()
    for _ in range(most):
        q, best = problem.backup(low)
        # an action is taken up only where it is better: staying with equal ones could lead round in circles
        better = best > low + 1e-13 * scale
        choice = np.where(better, problem.greedy(q, best), choice)
        low, high = np.maximum(best, low), np.minimum(problem.backup(high)[1], high)
        if (high - low).max() <= 1e-10 * (1 + scale):
            break
    return Stopping(0.5 * (low + high), choice, float(0.5 * (high - low).max() + 1e-13 * scale))
