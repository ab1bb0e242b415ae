"""Where decision processes come from: graphs, sparse matrices, functions; and the way back to a graph."""

from array import array
from collections.abc import Hashable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import sparse

from ..forms.chain import is_concrete
from ..forms.transitions import Misfit, Transitions
from ..graphs.labels import first_duplicate
from ..graphs.tables import TableArrays
from ..graphs.transition_graph import TransitionGraph

if TYPE_CHECKING:
    import networkx as nx


def as_names(names, kind: str) -> tuple[Hashable, ...] | None:
    """Check the names of states or of actions; their number is checked where it is known."""
    if names is None:
        return None
    names = tuple(names)
    for name in names:
        if not isinstance(name, Hashable):
            raise ValueError(f"{kind} {name!r} cannot be a name: names must be hashable; make it a tuple or a string")
    try:
        twice = first_duplicate(names)
    except TypeError as error:  # a tuple of lists
        raise ValueError(f"the names of {kind}s must be hashable all through: {error}") from None
    if twice is not None:
        raise ValueError(f"{kind} {twice!r} is there twice")
    return names


def by_action(rewards, probabilities, rows, terminal) -> Any:
    """Rewards as they are, but those by state alone, (S,), as (S, A): they are for acting in a state.

    Raises:
        ValueError: a reward by state where the process ends, which nobody would ever get.
    """
    rewards = rewards if hasattr(rewards, "ndim") else np.asarray(rewards, float)
    shape = np.shape(probabilities)[:2] if rows is None else np.shape(rows)
    if rewards.ndim != 1 or len(shape) != 2 or rewards.shape != shape[:1]:
        return rewards
    if terminal is not None and is_concrete(rewards) and is_concrete(terminal) and np.shape(terminal) == rewards.shape:
        lost = np.asarray(terminal, bool) & (np.asarray(rewards) != 0)
        if lost.any():
            s = int(np.argmax(lost))
            raise Misfit(
                f"state {s} is terminal, and nothing is done there that could earn its reward of {rewards[s]:.6g}: set "
                "that to 0, and put what is earned on arrival into the rewards (S, A) of the actions that lead there",
                (s,),
            )
    return (jnp if isinstance(rewards, jax.Array) else np).broadcast_to(rewards[:, None], shape)


def as_initial(initial, num_states: int) -> Any:
    """Check the distribution of the first state; a traced one by its shape only."""
    found = initial if not is_concrete(initial) else np.asarray(initial, np.float64)
    if found.shape != (num_states,):
        raise ValueError(f"initial has shape {found.shape}; wanted ({num_states},)")
    if is_concrete(found) and not ((found >= 0).all() and abs(found.sum() - 1) <= 1e-6):
        raise ValueError(f"initial must be probabilities that sum to one; got a sum of {found.sum():.6g}")
    return found


def as_start(start, mdp) -> Any:
    """A distribution over states from one, or from the name of a state; names may be tuples."""
    named = isinstance(start, Hashable) and not isinstance(start, jax.Array)
    if named and isinstance(start, tuple) and (mdp.state_names is None or start not in mdp.state_names):
        named = False
    if not named:
        return as_initial(start, mdp.num_states)
    found = np.zeros(mdp.num_states)
    found[mdp.index(start)] = 1
    return found


def from_graph(graph: TransitionGraph) -> dict[str, Any]:
    """Arguments of an MDP: rewards are kept by outcome where the outcomes of an action pay differently."""
    if graph.probability is None:
        raise ValueError("the graph is a pure structure: give its edges a probability each")
    shape = (graph.num_states, len(graph.actions))
    row = graph.source * len(graph.actions) + graph.action
    order = np.argsort(row, kind="stable")
    counts = np.bincount(row, minlength=shape[0] * shape[1])
    found = _padded(counts, graph.target[order], graph.probability[order], graph.reward[order], shape)
    return found | {
        "terminal": graph.terminal,
        "states": graph.states,
        "actions": graph.actions,
        "initial": graph.initial,
    }


def from_table(arrays: TableArrays) -> dict[str, Any]:
    """Arguments of an MDP from a table that was read: rewards by outcome only where outcomes pay differently."""
    real = arrays.probabilities > 0
    least, most = (f(arrays.rewards, axis=-1, where=real, initial=i) for f, i in ((np.min, np.inf), (np.max, -np.inf)))
    same = np.where(arrays.mask, most, 0)
    return arrays._asdict() | ({} if (least < most).any() else {"rewards": same})


def from_sparse(matrices, rewards, num_actions: int | None) -> dict[str, Any]:
    """Arguments of an MDP from scipy-sparse matrices: see `MDP.from_sparse`."""
    one = sparse.issparse(matrices)
    whole, size, num_actions = _whole(matrices, num_actions) if one else _stacked(matrices, num_actions)
    whole.sum_duplicates()
    counts, shape = np.diff(whole.indptr), (size, num_actions)
    several = isinstance(rewards, list | tuple) and any(map(sparse.issparse, rewards))
    if several or sparse.issparse(rewards):
        paid = _paid(rewards, one, several, shape)
        reward = np.asarray(paid[np.repeat(np.arange(len(counts)), counts), whole.indices]).reshape(-1)
        found = _padded(counts, whole.indices, whole.data, reward, shape)
    else:
        found = _padded(counts, whole.indices, whole.data, None, shape) | {"rewards": np.asarray(rewards, float)}
    return found | {"terminal": ~found["mask"].any(axis=1)}


def _whole(matrix, num_actions: int | None) -> tuple[Any, int, int]:
    """One matrix for all actions as CSR, S and A."""
    if num_actions is None:
        raise ValueError("one matrix holds all actions: say how many with num_actions=")
    whole: Any = sparse.csr_array(matrix)
    if not whole.has_canonical_format:  # what follows would change the caller's
        whole = whole.copy()
    size = whole.shape[1]
    if num_actions < 1 or whole.shape[0] != size * num_actions:
        raise ValueError(
            f"the matrix has {whole.shape[0]} rows, not one for each of {size} states and {num_actions} actions"
        )
    return whole, size, num_actions


def _stacked(matrices, num_actions: int | None) -> tuple[Any, int, int]:
    """A matrix for each action as one, S and A."""
    parts: list[Any] = [sparse.csr_array(matrix) for matrix in matrices]
    if not parts:
        raise ValueError("there are no matrices; wanted one for each action")
    if num_actions not in (None, len(parts)):
        raise ValueError(f"num_actions is {num_actions}, but there are {len(parts)} matrices, one for each action")
    size = parts[0].shape[0]
    for a, part in enumerate(parts):
        if part.shape != (size, size):
            raise ValueError(f"the matrix of action {a} has shape {part.shape}; wanted ({size}, {size})")
    return _by_state(parts), size, len(parts)


def _paid(rewards, one: bool, several: bool, shape: tuple[int, int]) -> Any:
    """Sparse rewards by outcome as one CSR matrix, in the form that the transitions have."""
    if several == one:
        forms = ("one matrix", "a list of matrices")
        raise ValueError(f"the rewards are {forms[several]}, but the transitions are {forms[not one]}: give both alike")
    given: list[Any] = [rewards] if one else list(rewards)
    size, num_actions = shape
    kind, wanted = (
        ("the rewards have", (size * num_actions, size)) if one else ("rewards of an action have", (size, size))
    )
    if len(given) != (1 if one else num_actions) or any(np.shape(r) != wanted for r in given):
        raise ValueError(f"{kind} shapes {[np.shape(r) for r in given]}; the matrices ask for {wanted} each")
    return sparse.csr_array(rewards) if one else _by_state([sparse.csr_array(r) for r in given])


def _by_state(parts: list) -> Any:
    """One CSR matrix whose row s·A + a is row s of matrix a."""
    order = np.arange(parts[0].shape[0] * len(parts)).reshape(len(parts), -1).T.reshape(-1)
    stacked: Any = sparse.vstack(parts, format="csr")
    return stacked[order]


def from_function(step, states: Iterable[Hashable], actions: Sequence[Hashable], *, explore: bool) -> dict[str, Any]:
    """Arguments of an MDP from a function that lists outcomes: see `MDP.from_function`.

    Outcomes come in the order of their rows, so that they are kept as bare numbers, without saying which row each is in.
    """
    actions = as_names(actions, "action") or ()
    names: list[Hashable] = []
    places: dict[Hashable, int] = {}

    def place(name, where: str) -> int:
        try:
            at = places.setdefault(name, len(names))
        except TypeError:
            raise ValueError(f"{where} is {name!r}; names of states must be hashable, such as tuples") from None
        if at == len(names):
            names.append(name)
        return at

    for n, name in enumerate(states):
        if place(name, "a state") < n:
            raise ValueError(f"state {name!r} is listed twice")
    if not names or not actions:
        raise ValueError("wanted at least one state and one action")
    known = float("inf") if explore else len(names)
    counts, target, probability, reward = array("i"), array("i"), array("d"), array("d")
    for state in names:  # the list grows while it is walked along
        for action in actions:
            before, total = len(target), 0.0
            for outcome in step(state, action) or ():
                p, following, paid = _outcome(outcome, state, action)
                at = place(following, f"a state after {state!r} under {action!r}")
                if at >= known:
                    raise ValueError(f"state {state!r}, action {action!r} lead to {following!r}, which is not listed")
                target.append(at)
                probability.append(p)
                reward.append(paid)
                total += p
            counts.append(len(target) - before)
            if counts[-1] and abs(total - 1) > 1e-6:
                raise ValueError(f"state {state!r}, action {action!r}: probabilities sum to {total:.6g}, not 1")
    shape = (len(names), len(actions))
    found = _padded(np.asarray(counts), np.asarray(target), np.asarray(probability), np.asarray(reward), shape)
    return found | {"terminal": ~found["mask"].any(axis=1), "states": tuple(names), "actions": actions}


def _outcome(outcome, state, action) -> tuple[float, Hashable, float]:
    try:
        p, following, paid = outcome
        p, paid = float(p), float(paid)
    except (TypeError, ValueError):
        raise ValueError(
            f"state {state!r}, action {action!r}: wanted outcomes (probability, next state, reward), got {outcome!r}"
        ) from None
    if not (0 <= p <= 1 + 1e-6 and np.isfinite(paid)):
        raise ValueError(f"state {state!r}, action {action!r}: an outcome has probability {p} and reward {paid}")
    return p, following, paid


def _padded(counts, target, probability, reward, shape: tuple[int, int]) -> dict[str, Any]:
    """Outcomes, those of each row together and in the order of the rows, as arrays (S, A, b).

    Rewards, if any, are kept by outcome only where they differ within a row.
    """
    counts = np.asarray(counts, np.int64)
    width = max(int(counts.max(initial=0)), 1)
    used = np.arange(width) < counts[:, None]

    def spread(values, dtype) -> np.ndarray:
        found = np.zeros(used.shape, dtype)
        found[used] = values
        return found.reshape(*shape, width)

    found = {
        "probabilities": spread(probability, np.float64),
        "successors": spread(target, np.int32),
        "mask": (counts > 0).reshape(shape),
    }
    if reward is None:
        return found
    some = np.flatnonzero(counts)
    first = (np.cumsum(counts) - counts)[some]
    lowest = np.zeros(len(counts))
    if len(some):
        lowest[some] = np.minimum.reduceat(reward, first)
        if not np.array_equal(lowest[some], np.maximum.reduceat(reward, first)):
            return found | {"rewards": spread(reward, np.float64)}
    return found | {"rewards": lowest.reshape(shape)}


def as_graph(form: Transitions, states, actions, initial) -> "nx.MultiDiGraph":
    """A networkx graph with an edge for each outcome."""
    import networkx as nx

    graph = nx.MultiDiGraph()
    terminal = np.asarray(form.terminal)
    for s, name in enumerate(states):
        data: dict[str, Any] = {"terminal": True} if terminal[s] else {}
        if initial is not None:
            data["initial"] = float(initial[s])
        graph.add_node(name, **data)
    probs, rewards = np.asarray(form.probabilities), np.asarray(form.rewards)
    outcomes = None if form.outcome_rewards is None else np.asarray(form.outcome_rewards)
    for s, a in np.argwhere(np.asarray(form.mask)):
        at = (s, a) if form.rows is None else (int(np.asarray(form.rows)[s, a]),)
        row = probs[at]
        targets = np.arange(len(row)) if form.successors is None else np.asarray(form.successors)[at]
        merged: dict[int, list[float]] = {}  # a repeated successor is one edge, which pays what they pay on average
        for b in np.flatnonzero(row > 0):
            pays = rewards[s, a] if outcomes is None else outcomes[s, a, b]
            total = merged.setdefault(int(targets[b]), [0.0, 0.0])
            total[0] += float(row[b])
            total[1] += float(row[b] * pays)
        for target, (p, paid) in merged.items():
            graph.add_edge(states[s], states[target], action=actions[a], probability=p, reward=paid / p)
    return graph
