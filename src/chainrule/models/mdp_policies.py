"""What a policy does to a decision process: where it goes, how often, and the Markov chain that it makes."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph
from scipy.sparse import linalg as solvers

from ..forms.chain import is_concrete
from ..forms.transitions import Transitions
from ..inference.planning.evaluation import is_narrow, krylov
from ..inference.planning.process import Chain, Process
from ..inference.planning.reach import steps_from
from .policy import Policy

LARGE_WORK = 3e10  # of LU, which without a discount is worth some seconds, since Krylov methods hardly get there
_DENSE = 20_000  # states up to which a chain may be written out as a matrix


def as_table(policy: Any, mdp, *, steps: bool = False) -> Any:
    """A policy as (S,) actions or (S, A) probabilities, checked where its values are there to be looked at.

    Args:
        policy: a `Policy`, an array, or a dict from states to actions (or to dicts of probabilities).
        mdp: the process it is for. Where it is traced, only what does not depend on it is checked.
        steps: whether the policy may have one such table for each step, (H, S) or (H, S, A).

    Raises:
        ValueError: a shape that does not fit, an unknown or infeasible action, probabilities that do not sum to one.
    """
    if isinstance(policy, Mapping):
        policy = _from_dict(policy, mdp)
    table = policy.table if isinstance(policy, Policy) else policy
    table = table if hasattr(table, "dtype") else np.asarray(table)
    size, shape = mdp.num_states, (mdp.num_states, mdp.num_actions)
    whole = np.issubdtype(table.dtype, np.integer)
    if not (whole or np.issubdtype(table.dtype, np.floating)):
        raise ValueError(
            f"the policy is an array of {table.dtype}; wanted indices of actions or probabilities. Names go into a dict, "
            "from states to actions"
        )
    wanted = shape[:1] if whole else shape
    by_step = table.ndim == len(wanted) + 1 and table.shape[1:] == wanted and len(table) > 0
    if by_step and not steps:
        raise ValueError(
            f"the policy depends on the step, of which it has {len(table)}; here one is wanted that does not: take that of "
            "step t, policy.table[t]"
        )
    if table.shape != wanted and not by_step:
        each = f"an action for each state, ({size},)" if whole else f"({size},) actions or {shape} probabilities"
        raise ValueError(f"the policy has shape {table.shape}; wanted {each}{', or that for each step' * steps}")
    if is_concrete(table):
        _check(np.asarray(table), mdp, whole)
    return table


def _check(table: np.ndarray, mdp, whole: bool):
    """Refuse what no policy does; feasibility can be checked where the process is not traced."""
    form, told = mdp.transitions, is_concrete(mdp.transitions.mask) and is_concrete(mdp.transitions.terminal)
    over = np.asarray(form.terminal) if told else np.zeros(mdp.num_states, bool)
    mask = np.asarray(form.mask) if told else np.ones((mdp.num_states, mdp.num_actions), bool)
    if whole:
        bad = ((table < (0 if told else -1)) | (table >= mdp.num_actions)) & ~over
        bad |= ~(mask[np.arange(mdp.num_states), np.where(bad | over, 0, table)] | bad | over)
        if bad.any():
            at = tuple(np.argwhere(bad)[0])
            a = int(table[at])
            action = mdp.actions[a] if 0 <= a < mdp.num_actions else a
            raise ValueError(
                f"the policy takes action {action!r} in state {mdp.states[at[-1]]!r}{_step(at[:-1])}, which is not feasible"
            )
        return
    bad = (~(table >= 0) | ((table > 0) & ~mask)).any(axis=-1) & ~over
    if bad.any():
        at = tuple(np.argwhere(bad)[0])
        raise ValueError(
            f"the policy gives infeasible actions or negative probabilities in state {mdp.states[at[-1]]!r}{_step(at[:-1])}"
        )
    total = table.sum(axis=-1, dtype=np.float64)
    off = (np.abs(total - 1) > 1e-5) & ~over & (told | (total != 0))
    if off.any():
        at = tuple(np.argwhere(off)[0])
        raise ValueError(
            f"the policy's probabilities in state {mdp.states[at[-1]]!r}{_step(at[:-1])} sum to {total[at]:.6g}, not 1"
        )


def _step(at: tuple) -> str:
    return f" at step {at[0]}" if at else ""


def _from_dict(policy: Mapping, mdp) -> np.ndarray:
    """Named actions, or named probabilities, for each state that has something to decide."""
    position = {name: a for a, name in enumerate(mdp.actions)}
    told = is_concrete(mdp.transitions.terminal)
    over = np.asarray(mdp.transitions.terminal) if told else np.zeros(mdp.num_states, bool)
    table = np.zeros((mdp.num_states, mdp.num_actions))
    for s, name in enumerate(mdp.states):
        if over[s]:
            continue
        if name not in policy:
            advice = "" if told else "; where the process has ended, which cannot be seen under jit and vmap, say None"
            raise ValueError(f"the policy says nothing about state {name!r}{advice}")
        chosen = policy[name]
        if chosen is None:
            continue
        for action, prob in (chosen if isinstance(chosen, Mapping) else {chosen: 1.0}).items():
            if action not in position:
                raise ValueError(f"the policy takes the unknown action {action!r} in state {name!r}")
            table[s, position[action]] = prob
    return table


def normalised(table: np.ndarray) -> np.ndarray:
    """A policy's probabilities in float64, divided by their sum; actions as they are.

    Near a discount of 1, what rounding leaves beside one would be most of what a policy is worth.
    """
    if np.issubdtype(table.dtype, np.integer):
        return table
    table = table.astype(np.float64)
    total = table.sum(axis=-1, keepdims=True)
    return table / np.where(total > 0, total, 1)


def chain_of(process: Process, table: np.ndarray) -> Chain:
    """The chain under a `normalised` policy; rows of states that have ended are zero."""
    if not np.issubdtype(table.dtype, np.integer):
        return process.mix(table)
    return process.follow(np.where(process.ends, 0, table))


def clean(matrix: Any) -> Any:
    """A CSR copy for graph searches: SciPy may not return where an edge is there twice, and takes padding for an edge."""
    found: Any = sparse.csr_array(matrix, copy=True)
    found.sum_duplicates()
    found.eliminate_zeros()
    return found


def occupancy(form: Transitions, table: np.ndarray, start: np.ndarray, names) -> np.ndarray:
    """Expected discounted visits of states under a policy, (S,): μ = start + γ Pᵀ μ on the states that are reached.

    Without a discount, these visits are finite exactly if no class of states that the start reaches is closed.
    """
    whole = not float(form.discount) < 1
    process = Process(form, idle_ends=whole, normalised=whole)
    matrix = clean(chain_of(process, table).matrix)
    reached = np.flatnonzero(steps_from(matrix, np.flatnonzero(start > 0)) >= 0)
    inner, begin, ends = matrix[reached][:, reached], start[reached], process.ends[reached]
    if whole and (closed := closed_states(inner, ends)).any():
        raise ValueError(
            f"the policy may stay for ever in and around state {names[int(reached[np.argmax(closed)])]!r}, which is then "
            "visited infinitely often; give a discount below 1, or mark the state terminal"
        )
    found = np.zeros(process.num_states)
    found[reached] = np.where(ends, 0, _visits(inner, begin, process.discount))
    return found


def closed_states(matrix: Any, ends: np.ndarray) -> np.ndarray:
    """True for the states in classes that are never left and do not end, (S,); the matrix as `clean` leaves it."""
    number, label = csgraph.connected_components(matrix, connection="strong")
    entry = np.repeat(np.arange(len(ends)), np.diff(matrix.indptr))
    leaves = np.zeros(number, bool)
    leaves[label[entry[label[entry] != label[matrix.indices]]]] = True
    return ~leaves[label] & ~ends


def _visits(matrix: Any, start: np.ndarray, discount: float) -> np.ndarray:
    """Solve μ = start + γ Pᵀ μ by Krylov methods where LU would fill up, by LU where they do not get there."""
    flow = sparse.csr_array(matrix.T)

    def off(x):
        return start + discount * (flow @ x) - x

    if not is_narrow(matrix, work=1e9 if discount < 1 else LARGE_WORK):
        found = krylov(Chain(flow, start), start, discount=discount, until=1e-14)
        if np.abs(off(found)).sum() <= 1e-12 * np.abs(found).sum():
            return found
    try:
        factors = solvers.splu((sparse.eye_array(len(start), format="csr") - discount * flow).tocsc())
    except RuntimeError:  # "Factor is exactly singular"
        found = np.full(len(start), np.nan)
    else:
        found = factors.solve(start)
        found += factors.solve(off(found))
    if not np.abs(off(found)).sum() <= 1e-9 * np.abs(found).sum():
        raise ValueError(
            "the policy ends so seldom that its visits cannot be computed in float64; give a lower discount"
        )
    return found


def as_matrix(process: Process, chain: Chain) -> np.ndarray:
    """The chain's transition matrix, dense; states that have ended stay where they are."""
    if process.num_states > _DENSE:
        gigabytes = 8e-9 * process.num_states**2
        raise ValueError(
            f"a Markov chain over {process.num_states} states would take {gigabytes:.0f} GB as a matrix; ask the process "
            "itself, by evaluate, occupancy and simulate"
        )
    matrix = chain.matrix.toarray() if sparse.issparse(chain.matrix) else chain.matrix.copy()
    ended = np.flatnonzero(process.ends)
    matrix[ended, ended] = 1
    return matrix / matrix.sum(axis=1, keepdims=True)
