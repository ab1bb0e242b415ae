"""Decision processes as linear programmes, solved by HiGHS through SciPy.

Primal:  min Σ_s v(s)           such that  v(s) ≥ r(s, a) + γ Σ_{s'} p(s' | s, a) v(s')  for every feasible (s, a).
Dual:    max Σ_{s,a} x(s, a) r(s, a)  such that  Σ_a x(s', a) − γ Σ_{s,a} p(s' | s, a) x(s, a) = start(s'),  x ≥ 0.

x is how often, discounted, (s, a) is visited; linear constraints on x are constraints on expected costs, and a policy that
satisfies them may have to be random: π(a | s) = x(s, a) / Σ_a x(s, a).

References:
    Puterman (1994), Markov Decision Processes, §6.9 and §8.9. Altman (1999), Constrained Markov Decision Processes.
"""

from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

from .process import Process


class Visits(NamedTuple):
    """A solution of the dual: `visits` (S, A), `worth` of the start, `prices` of the constraints; or why there is none."""

    visits: np.ndarray | None
    worth: float
    prices: np.ndarray
    message: str


def _pairs(process: Process) -> tuple[np.ndarray, np.ndarray, Any]:
    """Feasible pairs of states that do not end the process, and their rows."""
    states, actions = np.nonzero(process.mask & ~process.ends[:, None])
    return states, actions, sparse.csr_array(process.matrix)[process.row(states, actions)]


def discounted_values(process: Process) -> np.ndarray:
    """The primal's v."""
    from scipy.optimize import linprog

    states, actions, rows = _pairs(process)
    if len(states) == 0:
        return np.zeros(process.num_states)
    own = sparse.csr_array((np.ones(len(states)), (np.arange(len(states)), states)), shape=rows.shape)
    limits = [(0, 0) if over else (None, None) for over in process.ends]
    found = linprog(
        np.ones(process.num_states),
        A_ub=process.discount * rows - own,
        b_ub=-process.reward[states, actions],
        bounds=limits,
        method="highs",
    )
    if found.x is None:
        raise RuntimeError(f"HiGHS found no solution: {found.message}")
    return found.x


def visits(process: Process, start: np.ndarray, costs: np.ndarray, limits: np.ndarray) -> Visits:
    """The dual, with Σ x · costs[i] ≤ limits[i].

    Args:
        process: discounted.
        start: distribution of the first state, (S,).
        costs: what each visit costs, (constraint, S, A).
        limits: how much it may cost altogether, (constraint,).
    """
    from scipy.optimize import linprog

    states, actions, rows = _pairs(process)
    arrive = sparse.csr_array((np.ones(len(states)), (states, np.arange(len(states)))), shape=rows.shape[::-1])
    flow = (arrive - process.discount * rows.T).tocsr()[~process.ends]
    found = linprog(
        -process.reward[states, actions],
        A_ub=costs[:, states, actions] if len(costs) else None,
        b_ub=limits if len(costs) else None,
        A_eq=flow,
        b_eq=start[~process.ends],
        method="highs",
    )
    if found.status != 0 or found.x is None:
        return Visits(None, np.nan, np.zeros(len(costs)), found.message)
    table = np.zeros((process.num_states, process.num_actions))
    table[states, actions] = np.maximum(found.x, 0)  # HiGHS keeps bounds within its tolerance only
    prices = -found.ineqlin.marginals if len(costs) else np.zeros(0)
    return Visits(table, -found.fun, prices, found.message)
