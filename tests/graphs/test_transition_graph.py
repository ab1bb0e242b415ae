"""Transition graphs: networkx and back, what they compile to, and what they refuse."""

import time
import timeit

import jax.numpy as jnp
import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import chainrule as cr


def weather():
    graph = nx.DiGraph(place="Brest")
    graph.add_node("sun", initial=0.25, colour="yellow")
    graph.add_node("rain", initial=0.75)
    graph.add_edge("sun", "sun", probability=0.8)
    graph.add_edge("sun", "rain", probability=0.2, note="in autumn")
    graph.add_edge("rain", "sun", probability=1.0)
    return graph


def machine():
    """Run a machine for a reward until it breaks, or rest it."""
    graph = nx.MultiDiGraph()
    graph.add_node("new", initial=1.0)
    graph.add_node("worn")
    graph.add_node("broken", terminal=True)
    graph.add_edge("new", "new", action="run", probability=0.5, reward=4.0)
    graph.add_edge("new", "worn", action="run", probability=0.5, reward=2.0)
    graph.add_edge("worn", "broken", action="run", probability=1.0, reward=1.0)
    graph.add_edge("worn", "worn", action="rest", probability=1.0)
    return graph


def read(graph, **options):
    return cr.TransitionGraph.from_networkx(graph, **options)


@st.composite
def chains(draw):
    size = draw(st.integers(1, 5))
    allowed = draw(st.lists(st.lists(st.booleans(), min_size=size, max_size=size), min_size=size, max_size=size))
    mask = np.array(allowed) | np.eye(size, dtype=bool)
    weights = mask * np.array(draw(st.lists(st.integers(1, 9), min_size=size**2, max_size=size**2))).reshape(size, size)
    return weights / weights.sum(axis=1, keepdims=True)


def test_chain_is_read_in_node_order():
    graph = read(weather())
    assert repr(graph) == "TransitionGraph(2 states)"
    assert (graph.states, graph.actions, graph.num_states) == (("sun", "rain"), (), 2)
    np.testing.assert_array_equal(graph.matrix, [[0.8, 0.2], [1.0, 0.0]])
    np.testing.assert_array_equal(graph.mask, [[True, True], [True, False]])
    np.testing.assert_array_equal(graph.initial, [0.25, 0.75])
    assert [graph.index(state) for state in graph.states] == [0, 1]


def test_round_trip_keeps_every_attribute():
    for graph in (weather(), machine()):
        back = read(graph).to_networkx()
        assert type(back) is type(graph)
        assert nx.utils.graphs_equal(graph, back)
        assert back.graph == graph.graph
        back.add_edge("sun", "snow")
        assert "snow" not in graph


@settings(max_examples=40, deadline=None)
@given(chains())
def test_matrix_round_trip(matrix):
    graph = cr.TransitionGraph.from_matrix(matrix)
    np.testing.assert_array_equal(graph.matrix, matrix)
    np.testing.assert_array_equal(graph.mask, matrix > 0)
    back = read(graph.to_networkx())
    assert back.states == tuple(range(len(matrix)))
    np.testing.assert_array_equal(back.matrix, matrix)


def test_from_matrix_takes_labels_initial_masks_and_jax_arrays():
    matrix = jnp.array([[0.9, 0.1], [1 / 3, 2 / 3]], jnp.float32)
    graph = cr.TransitionGraph.from_matrix(matrix, ["a", "b"], initial=jnp.array([1 / 3, 2 / 3], jnp.float32))
    assert graph.states == ("a", "b")
    np.testing.assert_allclose(graph.matrix.sum(axis=1), 1.0, atol=1e-15)
    np.testing.assert_allclose(graph.matrix, matrix, rtol=1e-6)
    assert read(graph.to_networkx()).initial.tolist() == graph.initial.tolist()

    structure = cr.TransitionGraph.from_matrix(np.triu(np.ones((3, 3), bool)))
    assert structure.matrix is None
    assert read(structure.to_networkx()).mask.tolist() == np.triu(np.ones((3, 3), bool)).tolist()


def test_pure_structure_and_other_attribute():
    graph = nx.DiGraph([("a", "b"), ("b", "a"), ("b", "b")])
    assert read(graph).matrix is None
    assert read(graph).initial is None
    np.testing.assert_array_equal(read(graph).mask, [[False, True], [True, True]])
    graph.add_weighted_edges_from([("a", "b", 1), ("b", "a", 0.5), ("b", "b", np.float32(0.5))])
    np.testing.assert_array_equal(read(graph, probability="weight").matrix, [[0, 1], [0.5, 0.5]])
    with pytest.raises(ValueError, match="pure structure"):
        read(graph).compile()


def test_an_edge_of_probability_zero_is_allowed():
    graph = nx.DiGraph()
    graph.add_weighted_edges_from([("a", "a", 1.0), ("a", "b", 0.0), ("b", "b", 1.0)], weight="probability")
    assert read(graph).mask.tolist() == [[True, True], [False, True]]


def test_mdp_compiles_to_dense_transitions():
    graph = read(machine())
    assert repr(graph) == "TransitionGraph(3 states, 2 actions)"
    assert graph.actions == ("run", "rest")
    assert graph.matrix is None
    assert graph.terminal.tolist() == [False, False, True]
    form = graph.compile(discount=0.9)
    assert form.successors is None
    run, rest = form.probabilities[:, 0], form.probabilities[:, 1]
    np.testing.assert_array_equal(run, [[0.5, 0.5, 0], [0, 0, 1], [0, 0, 0]])
    np.testing.assert_array_equal(rest, [[0, 0, 0], [0, 1, 0], [0, 0, 0]])
    np.testing.assert_array_equal(form.rewards, [[3.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    np.testing.assert_array_equal(form.mask, [[True, False], [True, True], [False, False]])
    np.testing.assert_array_equal(form.terminal, graph.terminal)
    assert float(form.discount) == pytest.approx(0.9)


def test_sparse_mdp_compiles_to_padded_transitions():
    rng, size = np.random.default_rng(0), 20
    graph = nx.MultiDiGraph()
    graph.add_nodes_from(range(size))
    dense = np.zeros((size, 2, size))
    for s in range(size):
        for a, action in enumerate(("left", "right")):
            targets = rng.choice(size, size=rng.integers(1, 6), replace=False)
            for t, p in zip(targets, rng.dirichlet(np.ones(len(targets))), strict=True):
                graph.add_edge(s, int(t), action=action, probability=p, reward=float(t))
                dense[s, a, t] = p
    graph_read = read(graph)
    form = graph_read.compile()
    assert form.probabilities.shape == (size, 2, 5)
    scattered = np.zeros(dense.shape)
    s, a = np.indices(form.mask.shape)
    np.add.at(scattered, (s[..., None], a[..., None], form.successors), form.probabilities)
    np.testing.assert_allclose(scattered, dense, atol=1e-7)
    np.testing.assert_allclose(form.rewards, dense @ np.arange(size), rtol=1e-5)


def test_chain_compiles_to_one_action():
    form = read(weather()).compile()
    np.testing.assert_allclose(form.probabilities[:, 0], [[0.8, 0.2], [1, 0]], rtol=1e-6)


def edited(make, edit):
    graph = make()
    edit(graph)
    return graph


def set_edge(u, v, **data):
    return lambda graph: graph.edges[u, v].update(data)


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (edited(weather, set_edge("sun", "rain", probability=float("nan"))), r"'sun' → 'rain' has probability nan"),
        (edited(weather, set_edge("sun", "rain", probability=-0.2)), r"'sun' → 'rain' has probability -0.2"),
        (edited(weather, set_edge("rain", "sun", probability=1.5)), r"'rain' → 'sun' has probability 1.5"),
        (edited(weather, set_edge("rain", "sun", probability="high")), r"'rain' → 'sun' .* 'high', which is not a num"),
        (edited(weather, set_edge("rain", "sun", probability=[1.0])), r"'rain' → 'sun' .* \[1.0\], which is not a num"),
        (edited(weather, set_edge("sun", "rain", probability=0.1)), r"'sun' sum to 0.9, not 1"),
        (edited(weather, set_edge("sun", "rain", probability=None)), r"'sun' → 'rain' has no probability but others"),
        (edited(weather, lambda g: g.add_node("snow")), r"'snow' has no outgoing edges; add a self-loop"),
        (edited(weather, lambda g: g.nodes["sun"].update(initial=0.5)), r"initial probabilities sum to 1.25"),
        (edited(weather, lambda g: g.nodes["sun"].update(initial=-1)), r"'sun' has initial -1"),
        (nx.DiGraph(), "empty"),
        (nx.Graph([("a", "b")]), "undirected"),
        ([[1.0]], "list"),
        (edited(machine, lambda g: g.add_edge("new", "new")), r"'new' → 'new' has no action"),
        (
            edited(machine, lambda g: g.add_edge("worn", "new", action="rest", probability=0.5)),
            r"'worn' under action 'res",
        ),
        (
            edited(machine, lambda g: g.add_edge("new", "worn", action="run", probability=0.5)),
            r"'new' → 'worn' under action 'run' is there more than once",
        ),
        (edited(machine, lambda g: g.add_node("lost")), r"'lost' has no outgoing edges; mark it terminal"),
        (
            edited(machine, lambda g: g.add_edge("broken", "new", action="run", probability=1.0)),
            r"'broken' is terminal",
        ),
        (
            edited(machine, lambda g: g["worn"]["broken"][0].update(reward=np.inf)),
            "'worn' → 'broken' .* has reward inf",
        ),
    ],
)
def test_bad_graphs_are_named(graph, message):
    with pytest.raises(ValueError, match=message):
        read(graph)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([[0.5, 0.5]],), r"shape \(S, S\), got \(1, 2\)"),
        (([[1.0]], ["a", "b"]), "2 labels"),
        ((np.eye(2), ["a", "a"]), "'a' is there twice"),
        ((np.array([[0.5, 0.4], [0.0, 1.0]], np.float32), ["a", "b"]), "'a' sum to 0.9"),
    ],
)
def test_bad_matrices_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        cr.TransitionGraph.from_matrix(*arguments)


def test_unknown_labels_bring_near_names():
    graph = read(machine())
    with pytest.raises(ValueError, match=r"unknown state 'brokn'; did you mean 'broken'\?"):
        graph.index("brokn")
    with pytest.raises(ValueError, match=r"unknown state 7; known are 'new', 'worn', 'broken'"):
        graph.index(7)
    with pytest.raises(ValueError, match="unknown state"):
        graph.index(["new"])


def test_large_graphs_are_read_in_the_time_of_a_few_copies():
    size, degree = 10_000, 10
    graph = nx.DiGraph()
    graph.add_edges_from(
        (s, (s + step) % size, {"probability": 1 / degree}) for s in range(size) for step in range(degree)
    )
    assert len(read(graph).source) == size * degree
    # networkx copies a graph in time linear in its edges, and reading makes one such copy; timeit keeps the collector
    # of garbage out, which in a process full of other objects costs more than either
    reading, copying = (
        min(timeit.repeat(work, number=1, repeat=3, timer=time.process_time))
        for work in (lambda: read(graph), graph.copy)
    )
    assert reading < 10 * copying
