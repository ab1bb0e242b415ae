"""What a policy does to a decision process: what it is worth, where it goes, and the Markov chain that it makes."""

from typing import Any

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph
from scipy.sparse import linalg as solvers

from ..inference.planning.evaluation import direct, is_narrow, krylov
from ..inference.planning.process import Chain, Process
from .policy import Policy

_DENSE = 20_000  # states up to which a chain may be written out as a matrix


def as_table(policy: Any, mdp) -> Any:
    """A policy as (S,) actions or (S, A) probabilities, checked where its values are there to be looked at.

    Args:
        policy: a `Policy`, an array, or a dict from states to actions (or to dicts of probabilities).
        mdp: the process it is for.

    Raises:
        ValueError: a shape that does not fit, an unknown or infeasible action, probabilities that do not sum to one.
    """
    if isinstance(policy, dict):
        policy = _from_dict(policy, mdp)
    table = policy.table if isinstance(policy, Policy) else policy
    table = table if hasattr(table, "dtype") else np.asarray(table)
    size, mask = mdp.num_states, np.asarray(mdp.transitions.mask)
    if np.issubdtype(table.dtype, np.integer):
        if table.shape != (size,):
            raise ValueError(f"the policy has shape {table.shape}; wanted an action for each state, ({size},)")
        if isinstance(table, np.ndarray):
            asked = np.where(np.asarray(mdp.transitions.terminal), 0, table)
            bad = (asked < 0) | (asked >= mdp.num_actions)
            bad |= ~np.where(
                bad, False, mask[np.arange(size), np.where(bad, 0, asked)] | np.asarray(mdp.transitions.terminal)
            )
            if bad.any():
                s = int(np.argmax(bad))
                raise ValueError(
                    f"the policy takes action {table[s]} in state {mdp.states[s]!r}, which is not feasible"
                )
        return table
    if table.shape != mask.shape:
        raise ValueError(
            f"the policy has shape {table.shape}; wanted {mask.shape[:1]} actions or {mask.shape} probabilities"
        )
    if isinstance(table, np.ndarray):
        going = ~np.asarray(mdp.transitions.terminal)
        if not (table >= 0).all() or (table > 0)[~mask & going[:, None]].any():
            s = int(np.argmax(((table < 0) | ((table > 0) & ~mask & going[:, None]) | np.isnan(table)).any(axis=1)))
            raise ValueError(
                f"the policy gives infeasible actions or negative probabilities in state {mdp.states[s]!r}"
            )
        off = going & (np.abs(table.sum(axis=1) - 1) > 1e-5)
        if off.any():
            s = int(np.argmax(off))
            raise ValueError(
                f"the policy's probabilities in state {mdp.states[s]!r} sum to {table[s].sum():.6g}, not 1"
            )
    return table


def _from_dict(policy: dict, mdp) -> np.ndarray:
    """Named actions, or named probabilities, for each state that has something to decide."""
    position = {name: a for a, name in enumerate(mdp.actions)}
    table = np.zeros((mdp.num_states, mdp.num_actions))
    for s, name in enumerate(mdp.states):
        if np.asarray(mdp.transitions.terminal)[s]:
            continue
        if name not in policy:
            raise ValueError(f"the policy says nothing about state {name!r}")
        chosen = policy[name]
        for action, prob in (chosen if isinstance(chosen, dict) else {chosen: 1.0}).items():
            if action not in position:
                raise ValueError(f"the policy takes the unknown action {action!r} in state {name!r}")
            table[s, position[action]] = prob
    return table


def chain_of(process: Process, table: np.ndarray) -> Chain:
    """The chain under a policy; rows of states that have ended are zero."""
    if not np.issubdtype(table.dtype, np.integer):
        return process.mix(np.asarray(table, np.float64))
    return process.follow(np.where(process.ends, 0, table))


def worth(process: Process, chain: Chain) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values of a chain, and bounds. Without a discount they may be infinite: where it loses, or gains, for ever."""
    if process.discount < 1:
        v = _solved(chain, process.discount, until=1e-3 * process.rounding(np.array([process.largest_reward])))
        new = chain.reward + process.discount * chain.expect(v)
        bounds = process.bounds(new - v, new, chain)
        going = ~process.ends
        return (new + np.where(going, bound, 0) for bound in (bounds.middle, bounds.low, bounds.high))  # type: ignore
    return _undiscounted(process, chain)


def _solved(chain: Chain, discount: float, until: float) -> np.ndarray:
    found = direct(chain, discount=discount) if is_narrow(chain.matrix) else None
    return krylov(chain, np.zeros(len(chain.reward)), discount=discount, until=until) if found is None else found


def _undiscounted(process: Process, chain: Chain) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Totals: closed classes that pay nothing are worth nothing, others are infinite, and what leads there with them."""
    size = process.num_states
    matrix: Any = sparse.csr_array(chain.matrix, copy=True)
    matrix.sum_duplicates()  # scipy may search for components for ever where an edge is there twice
    matrix.eliminate_zeros()  # and takes padding for an edge
    number, label = csgraph.connected_components(matrix, connection="strong")
    entry = np.repeat(np.arange(size), np.diff(matrix.indptr))
    leaves = np.zeros(number, bool)
    crossing = label[entry] != label[matrix.indices]
    leaves[label[entry[crossing]]] = True
    closed = ~leaves[label] & ~process.ends
    v = np.zeros(size)
    for group in np.unique(label[closed & (np.isin(label, np.unique(label[closed & (chain.reward != 0)])))]):
        states = np.flatnonzero(label == group)
        part = matrix[states][:, states]
        left = np.asarray(part.T.toarray()) - np.eye(len(states))
        left[-1] = 1
        share = np.linalg.solve(left, np.eye(len(states))[-1])
        gain = float(share @ chain.reward[states])
        if abs(gain) <= 1e-12 * process.largest_reward:
            raise ValueError(
                f"the total reward from state {int(states[0])} does not settle: gains and losses cancel for ever; give a "
                "discount below 1"
            )
        v[states] = np.copysign(np.inf, gain)
    endless = np.isinf(v)
    back = matrix.T.tocsr()
    for sign in (np.inf, -np.inf):
        reached = _reach(back, np.flatnonzero(v == sign))
        if (reached & np.isinf(v) & (v != sign)).any():
            raise ValueError("the policy may gain for ever or lose for ever from one state: its total has no meaning")
        v[reached], endless = sign, endless | reached
    moving = np.flatnonzero(~endless & ~closed & ~process.ends)
    if len(moving):
        inner = Chain(matrix[moving][:, moving], chain.reward[moving])
        v[moving] = _solved(inner, 1.0, until=1e-14 * max(process.largest_reward, 1.0))
        steps = _solved(Chain(inner.matrix, np.ones(len(moving))), 1.0, until=1e-10)
        residual = np.abs(inner.reward + inner.expect(v[moving]) - v[moving]).max() + process.rounding(v[moving])
        error = np.zeros(size)
        error[moving] = 1.01 * residual * steps
        return v, v - error, v + error
    return v, v, v


def _reach(back, targets) -> np.ndarray:
    from ..inference.planning.reach import steps_from

    return steps_from(back, targets) >= 0 if len(targets) else np.zeros(back.shape[0], bool)


def occupancy(process: Process, chain: Chain, start: np.ndarray) -> np.ndarray:
    """Expected discounted visits: μ = start + γ Pᵀ μ."""
    size = process.num_states
    if process.discount == 1 and not process.ends.any():
        raise ValueError("without a discount, and without an end, states are visited infinitely often")
    matrix: Any = sparse.eye_array(size, format="csc") - process.discount * sparse.csc_array(chain.matrix).T
    if is_narrow(sparse.csr_array(chain.matrix)):
        try:
            return solvers.splu(sparse.csc_array(matrix)).solve(start)
        except RuntimeError:
            raise ValueError("the policy may never end, and visits some states infinitely often") from None
    transposed = Chain(sparse.csr_array(sparse.csr_array(chain.matrix).T), start)
    return krylov(transposed, start, discount=process.discount, until=1e-13)


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
