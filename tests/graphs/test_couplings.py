"""Colours, order and layout of graphs."""

import jax
import jax.numpy as jnp
import networkx as nx
import numpy as np
import pytest

from chainrule.forms.layouts import Bipartite, Dense, Lattice, Neighbours
from chainrule.graphs.colouring import colour, slices
from chainrule.graphs.couplings import compile_edges, lattice_sides, read_graph


def ends_of(graph):
    return np.array(nx.convert_node_labels_to_integers(graph).edges, int).reshape(-1, 2).T


GRAPHS = [
    (nx.path_graph(7), 2),
    (nx.cycle_graph(7), 3),
    (nx.grid_2d_graph(4, 4, periodic=True), 2),
    (nx.grid_2d_graph(3, 3, periodic=True), 3),  # odd: not bipartite
    (nx.complete_graph(6), 6),
    (nx.empty_graph(4), 1),
    (nx.disjoint_union(nx.star_graph(30), nx.cycle_graph(5)), 3),
    (nx.random_regular_graph(6, 200, seed=0), 7),
    (nx.barabasi_albert_graph(300, 3, seed=0), 8),
]


@pytest.mark.parametrize(("graph", "most"), GRAPHS)
def test_neighbours_differ_and_colours_are_few(graph, most):
    ends = ends_of(graph)
    colours = colour(len(graph), ends)
    assert (colours[ends[0]] != colours[ends[1]]).all()
    assert set(colours) == set(range(colours.max() + 1))
    assert colours.max() < most
    if nx.is_bipartite(graph):
        assert colours.max() <= 1


def test_large_graphs_are_coloured_as_they_come():
    nodes = np.arange(10_000)  # each is joined with the seven on either side, in a circle of mixed numbers
    ends = np.stack([np.concatenate([nodes] * 7), np.concatenate([(nodes + k) % 10_000 for k in range(1, 8)])])
    ends = np.random.default_rng(0).permutation(10_000)[ends]
    colours = colour(10_000, ends)
    assert (colours[ends[0]] != colours[ends[1]]).all()
    assert colours.max() <= 14


@pytest.mark.parametrize(("graph", "most"), GRAPHS)
def test_forms_have_the_weights_of_the_graph(graph, most):
    ends = ends_of(graph)
    rng = np.random.default_rng(0)
    weights, bias = rng.normal(size=ends.shape[1]).astype(np.float32), rng.normal(size=len(graph)).astype(np.float32)
    wanted = np.zeros((len(graph), len(graph)))
    wanted[ends[0], ends[1]] = wanted[ends[1], ends[0]] = weights
    x = rng.integers(0, 2, (len(graph), 6)).astype(np.float32)

    @jax.jit
    def look(compiled, bias, weights, x):
        form = compiled.form(bias, weights)
        return form, form.coupling.fields(jnp.eye(len(graph))), compiled.pair_means(x[compiled.order])

    layouts = {compile_edges(len(graph), ends).layout, *((Neighbours, Dense) if len(graph) < 100 else ())}
    for layout in layouts:
        compiled = compile_edges(len(graph), ends, layout)
        form, couplings, means = look(compiled, bias, weights, x)
        order = np.asarray(compiled.order)
        np.testing.assert_allclose(couplings, wanted[np.ix_(order, order)], atol=1e-6)
        np.testing.assert_array_equal(form.biases, bias[order])
        np.testing.assert_array_equal(order[compiled.rank], np.arange(len(graph)))
        type(form.coupling).__check_init__(form.coupling)  # symmetric, no pair within a slice
        np.testing.assert_allclose(means, (x[ends[0]] * x[ends[1]]).mean(1), atol=1e-6)


def test_the_layout_suits_the_graph():
    layouts = {
        "complete": (nx.complete_graph(5), Dense),
        "two layers": (nx.complete_bipartite_graph(5, 3), Bipartite),
        "sparse": (nx.random_regular_graph(4, 60, seed=0), Neighbours),
        "sparse, two sides": (nx.grid_2d_graph(10, 10), Neighbours),
    }
    for name, (graph, layout) in layouts.items():
        assert compile_edges(len(graph), ends_of(graph)).layout is layout, name


def test_a_hub_does_not_fill_the_tables_of_others():
    graph = nx.disjoint_union(nx.star_graph(1000), nx.random_regular_graph(3, 1000, seed=0))
    compiled = compile_edges(len(graph), ends_of(graph))
    entries = sum(table.size for table in compiled.index)
    assert entries < 2 * 2 * graph.number_of_edges()


def test_slices_follow_colours_and_degrees():
    order, cuts = slices(np.array([0, 1, 0, 1]), np.array([1, 5, 50, 5]))
    assert order.tolist() == [2, 0, 1, 3]
    assert cuts == (0, 2, 4)
    order, cuts = slices(np.array([0, *[0] * 100, 1]), np.array([5000, *[1] * 100, 5]))
    assert cuts == (0, 1, 101, 102)


def test_lattices_are_recognised():
    def sides(graph):
        edges = read_graph(graph)
        return lattice_sides(edges.labels, edges.ends)

    assert sides(nx.grid_2d_graph(4, 6, periodic=True)) == (4, 6)
    assert sides(nx.grid_2d_graph(4, 6)) is None
    assert sides(nx.grid_2d_graph(3, 4, periodic=True)) is None  # an odd side
    assert sides(nx.path_graph(4)) is None
    twisted = nx.grid_2d_graph(4, 6, periodic=True)
    twisted.remove_edge((0, 0), (0, 1))
    twisted.add_edge((0, 0), (2, 3))
    assert sides(twisted) is None


def test_sites_of_a_torus_are_those_of_its_layout():
    names = np.random.default_rng(0).permutation(np.array(nx.grid_2d_graph(4, 6).nodes)).tolist()
    graph = nx.Graph()
    graph.add_nodes_from(map(tuple, names))
    graph.add_edges_from(nx.grid_2d_graph(4, 6, periodic=True).edges)
    edges = read_graph(graph)
    compiled = compile_edges(24, edges.ends, labels=edges.labels)
    assert compiled.sides == (4, 6)
    np.testing.assert_array_equal(Lattice(1.0, 4, 6).sites[compiled.sites], edges.labels)
    assert compile_edges(24, edges.ends).sides is None


def test_graphs_are_read_with_their_names():
    graph = nx.Graph()
    graph.add_node("a", bias=2)
    graph.add_edge("a", "b", weight=-1.5)
    edges = read_graph(graph)
    assert edges.labels == ("a", "b")
    assert edges.bias.tolist() == [2.0, 0.0]
    assert edges.ends.tolist() == [[0], [1]]
    assert edges.weights.tolist() == [-1.5]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda g: g.add_edge("a", "a"), "'a' is coupled with itself"),
        (lambda g: g.add_edge("a", "c", weight=np.nan), "edge.*'c'.* is nan"),
        (lambda g: g.add_node("c", bias="much"), "not a number"),
        (lambda g: g.add_node("c", bias=np.inf), "'c' is inf"),
        (lambda g: g.clear(), "without nodes"),
    ],
)
def test_graphs_that_cannot_be_are_refused(change, message):
    graph = nx.Graph([("a", "b")])
    change(graph)
    with pytest.raises(ValueError, match=message):
        read_graph(graph)


def test_edges_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="undirected"):
        read_graph(nx.DiGraph([(0, 1)]))
    with pytest.raises(ValueError, match="coupled twice"):
        compile_edges(3, np.array([[0, 1], [1, 0]]))
    with pytest.raises(ValueError, match="coupled with itself"):
        compile_edges(3, np.array([[0], [0]]))
    for bad in (-1, 3):
        with pytest.raises(ValueError, match=f"ends at node {bad}; nodes are 0 … 2"):
            compile_edges(3, np.array([[0], [bad]]), Dense)
    with pytest.raises(ValueError, match="own neighbour"):
        colour(3, np.array([[0], [0]]))
    with pytest.raises(ValueError, match="not bipartite"):
        compile_edges(3, ends_of(nx.cycle_graph(3)), Bipartite)
    with pytest.raises(ValueError, match="without nodes"):
        compile_edges(0, np.zeros((2, 0), int))
