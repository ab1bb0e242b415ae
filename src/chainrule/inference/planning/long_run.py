"""What a Markov chain with rewards pays in the long run: its gain and its bias, whatever its classes and periods.

    g = P g,    h + g = r + P h,    π h = 0 for the stationary distribution π of each recurrent class.

g(s) is the average reward per step from s on, h(s) how much more s is worth than the average state that it ends up in.

References:
    Puterman (1994), Markov Decision Processes, §8.2 and appendix A.
"""

from typing import Any, NamedTuple

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph
from scipy.sparse import linalg as solvers


class LongRun(NamedTuple):
    """Gain and bias, (S,), and the recurrent class of each state, 0, 1, … or −1 where it is transient."""

    gain: np.ndarray
    bias: np.ndarray
    recurrent: np.ndarray


def stochastic(matrix: Any) -> Any:
    """A CSR matrix with its rows divided by their sums, which rounding leaves not quite at one."""
    matrix = sparse.csr_array(matrix)
    sums = matrix.sum(axis=1)
    data = matrix.data / np.repeat(sums, np.diff(matrix.indptr))
    found: Any = sparse.csr_array((data, matrix.indices, matrix.indptr), shape=matrix.shape)
    found.eliminate_zeros()
    return found


def recurrent_classes(matrix: Any) -> np.ndarray:
    """The recurrent class of each state, numbered from 0, or −1 where it is transient."""
    count, label = csgraph.connected_components(matrix, connection="strong")
    owner = np.repeat(label, np.diff(matrix.indptr))
    leaves = np.bincount(owner, owner != label[matrix.indices], minlength=count) > 0
    number = np.where(leaves, -1, np.cumsum(~leaves) - 1)
    return number[label]


def long_run(matrix: Any, reward: np.ndarray) -> LongRun | None:
    """Solve for gain and bias by sparse LU.

    Within a recurrent class the bias of its first state is taken to be zero, and the gain of the class stands in its
    place among the unknowns: I − P with that column replaced by ones is regular, and its left solution is the stationary
    distribution, which then moves the bias to where it belongs.

    Args:
        matrix: rows that sum to one, CSR without stored zeros, (S, S).
        reward: (S,).

    Returns:
        None where the equations are singular to working precision.
    """
    size = len(reward)
    label = recurrent_classes(matrix)
    order = np.flatnonzero(label >= 0)
    classes, first = np.unique(label[order], return_index=True)
    here = label[order]
    inner: Any = matrix[order][:, order]
    system = (sparse.eye_array(len(order), format="csr") - inner).tocoo()
    keep = ~np.isin(system.col, first)
    rows = np.concatenate([system.row[keep], np.arange(len(order))])
    columns = np.concatenate([system.col[keep], first[here]])
    data = np.concatenate([system.data[keep], np.ones(len(order))])
    solve = _factored(sparse.csc_array((data, (rows, columns)), shape=(len(order),) * 2))
    if solve is None:
        return None
    bias_here = solve(reward[order])
    start = np.zeros(len(order))
    start[first] = 1
    stationary = solve(start, "T")
    stationary = stationary / np.bincount(here, stationary)[here]
    # the average of rewards is exact to rounding, which the gain among the unknowns need not be
    gains = np.bincount(here, stationary * reward[order], minlength=len(classes))
    bias_here[first] = 0
    bias_here -= np.bincount(here, stationary * bias_here, minlength=len(classes))[here]
    gain, bias = np.zeros(size), np.zeros(size)
    gain[order], bias[order] = gains[here], bias_here
    passing = np.flatnonzero(label < 0)
    if len(passing):
        rows = matrix[passing]
        solve = _factored((sparse.eye_array(len(passing), format="csr") - rows[:, passing]).tocsc())
        if solve is None:
            return None
        gain[passing] = solve(rows @ gain)
        bias[passing] = solve(reward[passing] - gain[passing] + rows @ bias)
    if not (np.isfinite(gain).all() and np.isfinite(bias).all()):
        return None
    return LongRun(gain, bias, label)


def _factored(matrix: Any):
    """A function that solves matrix x = right by LU, refined once; None where it is singular."""
    try:
        factors = solvers.splu(matrix)
    except RuntimeError:  # "Factor is exactly singular"
        return None
    flipped = matrix.T

    def solve(right, trans="N"):
        found = factors.solve(right, trans)
        left = flipped @ found if trans == "T" else matrix @ found
        return found + factors.solve(right - left, trans)

    return solve
