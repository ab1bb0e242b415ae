"""Where decision processes come from: graphs, sparse matrices, functions; and the way back to a graph."""

from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import jax
import networkx as nx
import numpy as np
from scipy import sparse

from ..forms.chain import is_concrete
from ..forms.transitions import Transitions
from ..graphs.transition_graph import TransitionGraph


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
    row = graph.source * len(graph.actions) + graph.action
    shape = (graph.num_states, len(graph.actions))
    found = _padded(row, graph.target, graph.probability, graph.reward, shape)
    return found | {
        "terminal": graph.terminal,
        "states": graph.states,
        "actions": graph.actions,
        "initial": graph.initial,
    }


def from_sparse(matrices, rewards, num_actions: int | None) -> dict[str, Any]:
    """Arguments of an MDP from scipy-sparse matrices: see `MDP.from_sparse`."""
    if sparse.issparse(matrices):
        if num_actions is None:
            raise ValueError("one matrix holds all actions: say how many with num_actions=")
        whole: Any = sparse.csr_array(matrices)
        size = whole.shape[1]
        if num_actions < 1 or whole.shape[0] != size * num_actions:
            raise ValueError(
                f"the matrix has {whole.shape[0]} rows, not one for each of {size} states and {num_actions} actions"
            )
    else:
        parts: list[Any] = [sparse.csr_array(matrix) for matrix in matrices]
        if not parts:
            raise ValueError("there are no matrices; wanted one for each action")
        num_actions, size = len(parts), parts[0].shape[0]
        for a, part in enumerate(parts):
            if part.shape != (size, size):
                raise ValueError(f"the matrix of action {a} has shape {part.shape}; wanted ({size}, {size})")
        order = np.arange(size * num_actions).reshape(num_actions, size).T.reshape(-1)
        stacked: Any = sparse.vstack(parts, format="csr")
        whole = stacked[order]
    whole.sum_duplicates()
    row = np.repeat(np.arange(whole.shape[0]), np.diff(whole.indptr))
    shape = (size, num_actions)
    if isinstance(rewards, list | tuple) and rewards and sparse.issparse(rewards[0]):
        paid: Any = sparse.vstack([sparse.csr_array(r) for r in rewards], format="csr")
        if paid.shape != whole.shape:
            raise ValueError(f"rewards stack to shape {paid.shape}; the matrices to {whole.shape}")
        reward = np.asarray(paid[order][row, whole.indices]).reshape(-1)
        found = _padded(row, whole.indices, whole.data, reward, shape)
    else:
        found = _padded(row, whole.indices, whole.data, np.zeros(len(row)), shape) | {
            "rewards": np.asarray(rewards, float)
        }
    return found | {"terminal": ~found["mask"].any(axis=1)}


def from_function(step, states: Iterable[Hashable], actions: Sequence[Hashable], *, explore: bool) -> dict[str, Any]:
    """Arguments of an MDP from a function that lists outcomes: see `MDP.from_function`."""
    names, actions = list(states), tuple(actions)
    places = {name: i for i, name in enumerate(names)}
    if not names or not actions:
        raise ValueError("wanted at least one state and one action")
    if len(places) != len(names):
        raise ValueError("a state is listed twice")
    row, target, probability, reward = [], [], [], []
    for s, state in enumerate(names):  # the list grows while it is walked along
        for a, action in enumerate(actions):
            for outcome in step(state, action) or ():
                p, following, paid = _outcome(outcome, state, action)
                if following not in places:
                    if not explore:
                        raise ValueError(
                            f"state {state!r}, action {action!r} lead to {following!r}, which is not listed"
                        )
                    places[following] = len(names)
                    names.append(following)
                row.append(s * len(actions) + a)
                target.append(places[following])
                probability.append(p)
                reward.append(paid)
    shape = (len(names), len(actions))
    row, target = np.array(row, np.int64), np.array(target, np.int64)
    found = _padded(row, target, np.array(probability, float), np.array(reward, float), shape)
    sums = np.bincount(row, probability, minlength=shape[0] * shape[1])
    if (wrong := np.flatnonzero((np.bincount(row, minlength=len(sums)) > 0) & (np.abs(sums - 1) > 1e-6))).size:
        s, a = divmod(int(wrong[0]), len(actions))
        raise ValueError(f"state {names[s]!r}, action {actions[a]!r}: probabilities sum to {sums[wrong[0]]:.6g}, not 1")
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


def _padded(row, target, probability, reward, shape: tuple[int, int]) -> dict[str, Any]:
    """Outcomes, in any order, as arrays (S, A, b); rewards by outcome only where they differ within a row."""
    counts = np.bincount(row, minlength=shape[0] * shape[1])
    width = max(int(counts.max(initial=0)), 1)
    order = np.argsort(row, kind="stable")
    slot = np.arange(len(row)) - (np.cumsum(counts) - counts)[row[order]]
    successors = np.zeros((len(counts), width), np.int32)
    probs, rewards = np.zeros((len(counts), width)), np.zeros((len(counts), width))
    successors[row[order], slot] = target[order]
    probs[row[order], slot] = probability[order]
    rewards[row[order], slot] = reward[order]
    used = np.arange(width) < counts[:, None]
    differ = (np.abs(rewards - rewards[:, :1]) > 0) & used
    expected = rewards[:, 0] if not differ.any() else rewards
    return {
        "probabilities": probs.reshape(*shape, width),
        "successors": successors.reshape(*shape, width),
        "rewards": expected.reshape(shape if expected.ndim == 1 else (*shape, width)),
        "mask": (counts > 0).reshape(shape),
    }


def as_graph(form: Transitions, states, actions, initial) -> nx.MultiDiGraph:
    """A networkx graph with an edge for each outcome."""
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
