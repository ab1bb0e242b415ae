"""What a policy is worth: the solution of v = r + γ P v.

Three ways: backups, which stop where the *spread* of a change is small enough (a constant is put right by the bounds);
sparse LU, where its factors stay small; and Krylov methods, which need products only.
"""

from typing import Any

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph
from scipy.sparse import linalg as solvers

from .process import Chain

_RESTARTS = 8
_BALL = 4096  # states of the piece whose factors tell what those of the whole would be


def spread(change: np.ndarray, ends: bool = False) -> float:
    """Max − min, the zero of states where the process has ended included."""
    low, high = float(change.min()), float(change.max())
    return max(high, 0.0) - min(low, 0.0) if ends else high - low


def sweep(chain: Chain, v: np.ndarray, *, discount: float, until: float, most: int, ends: bool) -> tuple:
    """Back up until the spread of a change is at most `until`, or `most` times.

    Returns:
        The values, how many backups, and by what the last one multiplied the spread: near 1 where they are slow.
    """
    before, rate = np.inf, 0.0
    n = 0
    while n < most:
        new = chain.expect(v)
        new *= discount
        new += chain.reward
        change = np.subtract(new, v, out=v)
        now = spread(change, ends)
        rate = now / before if np.isfinite(before) and before > 0 else 0.0
        v, before, n = new, now, n + 1
        if now <= until and (rate > 0.5 or now <= 0.05 * until):  # fast mixing: go on, it costs next to nothing
            break
    return v, n, rate


def is_narrow(matrix, work: float = 1e9) -> bool:
    """Whether LU of I − γP takes less than some `work`; see `lu_work`."""
    return lu_work(matrix, enough=work) <= work


def lu_work(matrix, *, enough: float = 1e9) -> float:
    """About what LU of I − γP takes; 1e9 is about a second. ∞ where factors would fill up.

    States that very many lead to are set aside, since each costs no more than a column. What is left is put in the order
    of Cuthill and McKee (1969), and the work within its profile is an upper bound of that of a better order. A map in the
    plane takes far less than its profile: one that is no wider than it would be is judged by the factors of a piece of it,
    unless the profile's work is little `enough`.
    """
    size = matrix.shape[0]
    if not sparse.issparse(matrix):
        return 0.125 * size**3
    if size <= 300:
        return 0.0
    hubs = np.bincount(matrix.indices, minlength=size) > 10 * np.sqrt(size)
    if hubs.sum() > 50:
        return np.inf
    keep = np.flatnonzero(~hubs)
    rest = sparse.csr_array(matrix[keep][:, keep])
    graph = sparse.csr_array(rest + rest.T)
    order = csgraph.reverse_cuthill_mckee(graph, symmetric_mode=True)
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    owner = np.repeat(place, np.diff(rest.indptr))
    width = np.zeros(len(order), np.int64)
    np.maximum.at(width, np.maximum(owner, place[rest.indices]), np.abs(owner - place[rest.indices]))
    found, border = float((width.astype(float) ** 2).sum()), float(hubs.sum()) * size
    if found > enough and np.median(width) <= 2 * np.sqrt(size):
        found = min(found, _planar_work(rest, graph, order[len(order) // 2]))
    return found + border


def _planar_work(matrix, graph, middle: int) -> float:
    """About what LU takes of a matrix whose graph grows like the plane, from the fill of a ball around a state.

    Fill grows like n log n there (George 1973), here taken as a power that is more than that, and work like the squares of
    the columns.
    """
    ball = np.sort(csgraph.breadth_first_order(graph, middle, return_predecessors=False)[:_BALL])
    factors = _factors(0.99 * matrix[ball][:, ball])
    size = matrix.shape[0]
    return 4 * (factors.nnz * (size / len(ball)) ** 1.25) ** 2 / size


def _factors(matrix) -> Any:
    """LU of I − A, for A of non-negative entries; small panels suit factors as thin as these."""
    return solvers.splu((sparse.eye_array(matrix.shape[0], format="csr") - matrix).tocsc(), panel_size=4, relax=4)


def direct(chain: Chain, *, discount: float) -> np.ndarray | None:
    """Solve by LU, refined once; None where the matrix is singular to working precision."""
    size = len(chain.reward)
    if not sparse.issparse(chain.matrix):
        try:
            return np.linalg.solve(np.eye(size) - discount * chain.matrix, chain.reward)
        except np.linalg.LinAlgError:
            return None
    try:
        factors = _factors(discount * chain.matrix)
    except RuntimeError:  # "Factor is exactly singular"
        return None
    v = factors.solve(chain.reward)
    v += factors.solve(chain.reward + discount * (chain.matrix @ v) - v)
    return v if np.isfinite(v).all() else None


def krylov(chain: Chain, v: np.ndarray, *, discount: float, until: float, restarts: int = _RESTARTS) -> np.ndarray:
    """Solve by BiCGSTAB (van der Vorst 1992) from `v` to a residual of `until`; by GMRES where it breaks down.

    Both begin anew from what they have found, as long as that halves the residual each time. The best that was found is
    returned, by the largest residual, so that a breakdown does no harm; how good it is, a backup tells.
    """
    size = len(v)

    def residual(x):
        return chain.reward + discount * chain.expect(x) - x

    make: Any = solvers.LinearOperator
    operator = make((size, size), matvec=lambda x: x - discount * chain.expect(x), dtype=np.float64)
    best, error = v, float(np.abs(residual(v)).max())
    rounded = (0.5 * chain.terms + 4) * float(np.finfo(float).eps)  # the residual itself is not known better
    for _ in range(restarts):
        before = error
        for solve, options in ((solvers.bicgstab, {"maxiter": 500}), (solvers.gmres, {"maxiter": 20, "restart": 30})):
            goal = max(until, rounded * float(np.abs(best).max()))
            if error <= goal:
                return best
            right = residual(best)
            with np.errstate(all="ignore"):  # a breakdown divides by zero, and is told by the residual
                found, _ = solve(operator, right, rtol=0.0, atol=goal, **options)
            now = float(np.abs(residual(best + found)).max()) if np.isfinite(found).all() else np.inf
            if now < error:
                best, error = best + found, now
            if error <= 0.5 * before:
                break
        if error > 0.5 * before:
            break
    return best
