"""End components against a slow search by networkx."""

import networkx as nx
import numpy as np
import pytest

import chainrule as cr
from chainrule.inference.planning.components import end_components, steps_within
from chainrule.inference.planning.process import Process

from .enumeration import dense, random_mdp


def slow(P, mask, ends):
    """Split into strongly connected parts and drop what leaves them, until nothing does."""
    S, A = mask.shape
    keep = mask & ~ends[:, None]
    while True:
        alive = keep.any(axis=1)
        graph = nx.DiGraph()
        graph.add_nodes_from(np.flatnonzero(alive))
        graph.add_edges_from((s, t) for s, a in np.argwhere(keep) for t in np.flatnonzero(P[s, a] > 0) if alive[t])
        label = np.full(S, -1)
        for number, part in enumerate(nx.strongly_connected_components(graph)):
            label[list(part)] = number
        stays = keep & np.array(
            [[all(label[t] == label[s] >= 0 for t in np.flatnonzero(P[s, a] > 0)) for a in range(A)] for s in range(S)]
        )
        if (stays == keep).all():
            return label, keep
        keep = stays


@pytest.mark.parametrize("seed", range(30))
def test_components_are_those_of_a_slow_search(seed):
    mdp = random_mdp(np.random.default_rng(seed), most_states=8)
    process = Process(mdp.transitions)
    component, inside = end_components(process)
    label, keep = slow(dense(mdp)[0], process.mask, process.ends)
    np.testing.assert_array_equal(inside, keep)
    np.testing.assert_array_equal(component >= 0, keep.any(axis=1))
    known = component >= 0
    same = component[:, None] == component[None]
    np.testing.assert_array_equal(same[known][:, known], (label[:, None] == label[None])[known][:, known])
    assert set(component[known]) == set(range(int(component.max()) + 1))


def test_one_leak_takes_a_whole_chain_of_states_with_it():
    # 0 → 1 → … → 5 → 0 with a leak to the end at 5, and a rest at 3
    def step(s, a):
        if a == "rest":
            return [(1.0, 3, 1.0)] if s == 3 else None
        if s == "out":
            return None
        return [(0.5, 0, 0.0), (0.5, "out", 0.0)] if s == 5 else [(1.0, s + 1, 0.0)]

    mdp = cr.MDP.from_function(step, range(6), actions=("go", "rest"))
    component, inside = end_components(Process(mdp.transitions))
    assert component.tolist() == [-1, -1, -1, 0, -1, -1, -1]
    assert np.argwhere(inside).tolist() == [[3, 1]]


def test_actions_that_lead_to_a_target():
    # a ring of five; action 1 goes back
    n = np.arange(5)
    mdp = cr.MDP(np.ones((5, 2, 1)), np.ones((5, 2)), successors=np.stack([(n + 1) % 5, (n - 1) % 5], 1)[..., None])
    process = Process(mdp.transitions)
    _, inside = end_components(process)
    assert steps_within(process, inside, np.array([0])).tolist() == [-1, 1, 1, 0, 0]
