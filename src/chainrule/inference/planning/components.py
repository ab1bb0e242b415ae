"""Maximal end components: where a process can stay for ever, and by which actions.

An end component is a set of states, each with some of its actions, that these actions do not leave and in which they lead
from each state to each other. A maximal one is in no other; they do not overlap, and whatever the policy, the process is
in one of them from some time on, or it has ended.

References:
    de Alfaro (1997), Formal Verification of Probabilistic Systems, §3.3.
"""

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

from .process import Process


def outcomes(process: Process, states: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What can follow pairs of states and actions: for each outcome its pair, the successor and the probability, > 0."""
    whole = sparse.csr_array(process.matrix)
    rows = whole[process.row(states, actions)]
    pair = np.repeat(np.arange(len(states)), np.diff(rows.indptr))
    possible = rows.data > 0
    return pair[possible], rows.indices[possible], rows.data[possible]


def end_components(process: Process, allowed: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Find the maximal end components.

    States that end the process are in none: what leads to them leaves.

    Args:
        process: the process.
        allowed: the actions that may be taken, (S, A); None means all feasible ones.

    Returns:
        component: (S,), 0, 1, … for the component of a state, −1 for none.
        inside: (S, A), True for the actions that stay in the component of their state.
    """
    mask = process.mask if allowed is None else process.mask & allowed
    states, actions = np.nonzero(mask & ~process.ends[:, None])
    pair, successor, _ = outcomes(process, states, actions)
    into = sparse.csr_array((np.ones(len(pair), np.int8), (successor, pair)), shape=(process.num_states, len(states)))
    keep, left = np.ones(len(states), bool), np.bincount(states, minlength=process.num_states)
    drop = np.unique(pair[process.ends[successor]])
    while True:
        _drop(drop, states, into, keep, left)
        open_ = keep[pair]
        pair, successor = pair[open_], successor[open_]
        graph = sparse.csr_array(
            (np.ones(len(pair), np.int8), (states[pair], successor)), shape=(process.num_states,) * 2
        )
        _, label = csgraph.connected_components(graph, connection="strong")
        drop = np.unique(pair[label[states[pair]] != label[successor]])
        if len(drop) == 0:
            break
    component = np.full(process.num_states, -1)
    alive = left > 0
    component[alive] = np.unique(label[alive], return_inverse=True)[1]
    inside = np.zeros(process.mask.shape, bool)
    inside[states[keep], actions[keep]] = True
    return component, inside


def _drop(pairs: np.ndarray, states: np.ndarray, into, keep: np.ndarray, left: np.ndarray):
    """Drop pairs, the states that have none left, the pairs that may lead there, and so on; in place.

    Args:
        pairs: the first to go.
        states: the state of each pair.
        into: (S, pairs), which pairs may lead to a state.
        keep: which pairs are there, (pairs,).
        left: how many each state has, (S,).
    """
    while len(pairs):
        keep[pairs] = False
        losers, lost = np.unique(states[pairs], return_counts=True)
        left[losers] -= lost
        gone = losers[left[losers] == 0]
        pairs = np.unique(into[gone].indices) if len(gone) else gone
        pairs = pairs[keep[pairs]]


def steps_within(process: Process, inside: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """For each state an action of `inside` that may lead one step nearer to a target; −1 where none does, and at targets.

    In an end component that has a target, following these actions reaches one with certainty.
    """
    states, actions = np.nonzero(inside)
    pair, successor, _ = outcomes(process, states, actions)
    into = sparse.csr_array((np.ones(len(pair), np.int8), (successor, pair)), shape=(process.num_states, len(states)))
    choice, seen = np.full(process.num_states, -1), np.zeros(process.num_states, bool)
    front = np.flatnonzero(targets) if targets.dtype == bool else np.unique(targets)
    seen[front] = True
    while len(front):
        pairs = np.unique(into[front].indices)
        pairs = pairs[~seen[states[pairs]]]
        choice[states[pairs]] = actions[pairs]
        front = np.unique(states[pairs])
        seen[front] = True
    return choice
