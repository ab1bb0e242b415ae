"""Pictures hold what they should, on the axes they were given, and change nothing global."""

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import networkx as nx
import numpy as np
import pytest
from matplotlib.patches import Circle, FancyArrowPatch, Rectangle

import chainrule as cr


@pytest.fixture(autouse=True)
def no_traces():
    settings = dict(mpl.rcParams)
    yield
    plt.close("all")
    assert dict(mpl.rcParams) == settings


def texts(ax):
    return [text.get_text() for text in ax.texts]


def count(ax, kind):
    return sum(type(patch) is kind for patch in ax.patches)


def random_chain(size):
    return cr.TransitionGraph.from_matrix(np.random.default_rng(size).dirichlet(np.ones(size), size=size))


def machine():
    graph = nx.MultiDiGraph()
    graph.add_edge("new", "new", action="run", probability=0.5, reward=4.0)
    graph.add_edge("new", "worn", action="run", probability=0.5)
    graph.add_edge("worn", "worn", action="rest", probability=1.0)
    graph.add_edge("worn", "broken", action="run", probability=1.0)
    graph.add_node("broken", terminal=True)
    return graph


def test_transition_graph_draws_states_and_steps():
    _, ax = plt.subplots()
    graph = cr.TransitionGraph.from_matrix([[0.9, 0.1], [0.0, 1.0]], ["sun", "rain"])
    assert cr.plotting.transition_graph(graph, ax) is ax
    assert (count(ax, Circle), count(ax, FancyArrowPatch)) == (2, 3)
    assert sorted(texts(ax)) == ["0.1", "0.9", "1", "rain", "sun"]
    assert ax.get_aspect() == 1.0


def test_decision_process_has_actions_rewards_and_terminal_rings():
    ax = cr.plotting.transition_graph(machine())
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["run", "rest"]
    assert "0.5  (+4)" in texts(ax)
    assert count(ax, Circle) == 4  # three states, one of them with a double ring


@pytest.mark.parametrize("size", [1, 2, 5, 14])
def test_states_do_not_overlap(size):
    ax = cr.plotting.transition_graph(random_chain(size))
    centres = np.array([patch.center for patch in ax.patches if isinstance(patch, Circle)])
    radius = next(patch.radius for patch in ax.patches if isinstance(patch, Circle))
    apart = np.linalg.norm(centres[:, None] - centres, axis=-1)[~np.eye(size, dtype=bool)]
    assert len(centres) == size
    assert (apart > 2 * radius).all()


@pytest.mark.parametrize("graph", [random_chain(3), random_chain(4), machine()], ids=["3", "4", "machine"])
def test_labels_do_not_overlap(graph):
    ax = cr.plotting.transition_graph(graph)
    ax.figure.canvas.draw()
    boxes = [text.get_window_extent() for text in ax.texts]
    assert not any(boxes[i].overlaps(boxes[j]) for i in range(len(boxes)) for j in range(i))


def test_pure_structure_and_crowded_graphs_have_no_numbers():
    structure = cr.TransitionGraph.from_matrix(np.triu(np.ones((3, 3), bool)))
    assert texts(cr.plotting.transition_graph(structure)) == ["0", "1", "2"]
    assert len(texts(cr.plotting.transition_graph(random_chain(8)))) == 8


@pytest.mark.parametrize("scopes", [["ab", "b", "bc"], ["ab", "bc", "ca"], ["abc", "d", ""]])
def test_factor_graph_draws_variables_and_factors(scopes):
    graph = cr.FactorGraph(dict.fromkeys("abcd", 2), [(tuple(s), np.zeros([2] * len(s))) for s in scopes])
    for given in (graph, graph.to_networkx()):
        ax = cr.plotting.factor_graph(given)
        assert (count(ax, Circle), count(ax, Rectangle)) == (4, 3)
        assert texts(ax) == ["a", "b", "c", "d", "f0", "f1", "f2"]
        assert len(ax.collections[0].get_segments()) == sum(map(len, scopes))


def test_trellis():
    marginals = np.array([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]])
    ax = cr.plotting.trellis(marginals, np.array([0, 1, 1]), states=["calm", "storm"])
    np.testing.assert_array_equal(ax.images[0].get_array(), marginals.T)
    assert ax.lines[0].get_ydata().tolist() == [0, 1, 1]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["calm", "storm"]
    assert not cr.plotting.trellis(marginals).lines


def test_series_has_one_level_for_each_run():
    values, path = np.array([0.1, np.nan, 5.2, 4.9, 0.0]), np.array([0, 0, 2, 2, 0])
    ax = cr.plotting.series(values, path, np.array([0.0, 9.0, 5.0]), states=["low", "never", "high"])
    _, low, high = (collection.get_segments() for collection in ax.collections)
    np.testing.assert_array_equal(low, [[[-0.5, 0], [1.5, 0]], [[3.5, 0], [4.5, 0]]])
    np.testing.assert_array_equal(high, [[[1.5, 5], [3.5, 5]]])
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["low", "high"]


def test_history():
    _, ax = plt.subplots()
    assert cr.plotting.history([-3.0, -2.0, -1.5], ax) is ax
    assert ax.lines[0].get_ydata().tolist() == [-3.0, -2.0, -1.5]


@pytest.mark.parametrize("form", [dict, list, tuple])
def test_weights_stand_in_their_order_on_both_sides_of_zero(form):
    ax = cr.plotting.weights(form([("word=the", 2.0), (("B", "I"), -0.5), (3, np.float32(0.25))]))
    assert [bar.get_width() for bar in ax.patches] == [2.0, -0.5, 0.25]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["word=the", "('B', 'I')", "3"]
    first, second, third = (bar.get_facecolor() for bar in ax.patches)
    assert first == third != second
    assert ax.yaxis_inverted()  # the first is on top


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: cr.plotting.trellis(np.ones(3)), r"\(time, state\), got \(3,\)"),
        (lambda: cr.plotting.trellis(np.ones((2, 2)), [0, 1, 1]), "2 state indices, got shape"),
        (lambda: cr.plotting.trellis(np.ones((2, 2)), [0.0, 1.0]), "of float64"),
        (lambda: cr.plotting.trellis(np.ones((2, 2)), [0, 2]), "goes from 0 to 2, outside the 2 states"),
        (lambda: cr.plotting.trellis(np.ones((2, 2)), states=["a"]), "1 names for 2 states"),
        (lambda: cr.plotting.series(np.ones((2, 1)), [0, 0], [1.0]), "must be vectors"),
        (lambda: cr.plotting.history(np.ones((2, 1))), r"\(iteration,\)"),
        (lambda: cr.plotting.weights({}), "no weights to draw"),
        (lambda: cr.plotting.weights({"a": 1.0, "b": np.nan}), "weight of 'b' is nan"),
        (lambda: cr.plotting.weights([("a", np.ones(2))]), "weight of 'a' is array"),
        (lambda: cr.plotting.weights([("a", "1")]), "weight of 'a' is '1'; wanted a finite number"),
    ],
)
def test_bad_arrays_are_named(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()
    assert not plt.get_fignums()


# Grid worlds


def test_values_on_grid_leave_walls_empty():
    _, ax = plt.subplots()
    values = np.array([[0.5, np.nan, -2.0], [1.0, 0.25, 4.0]])
    assert cr.plotting.values_on_grid(values, ax) is ax
    drawn = ax.images[0].get_array()
    np.testing.assert_array_equal(drawn.mask, np.isnan(values))
    np.testing.assert_array_equal(drawn.compressed(), values[~np.isnan(values)])
    assert texts(ax) == ["0.5", "-2", "1", "0.25", "4"]
    assert ax.yaxis_inverted()  # row 0 is on top
    assert texts(cr.plotting.values_on_grid(values, numbers=False)) == []
    assert texts(cr.plotting.values_on_grid(np.zeros((20, 20)))) == []


def test_policy_arrows_point_where_the_action_goes():
    names = ["UP", "east", "s", "left", "stay"]
    ax = cr.plotting.policy_on_grid([[0, 1, 2], [3, 4, -1]], names)
    arrows = ax.collections[0]
    along, down = arrows.U / np.abs(arrows.U + arrows.V), arrows.V / np.abs(arrows.U + arrows.V)
    np.testing.assert_allclose(np.stack([down, along], axis=1), [[-1, 0], [0, 1], [1, 0], [0, -1]], atol=1e-12)
    middles = arrows.XY + np.stack([arrows.U, arrows.V], axis=1) / 2
    np.testing.assert_allclose(middles, [[0, 0], [1, 0], [2, 0], [0, 1]], atol=1e-12)
    (dot,) = ax.lines
    assert (dot.get_xdata().tolist(), dot.get_ydata().tolist()) == ([1], [1])
    assert ax.yaxis_inverted()


def test_ties_are_all_drawn_and_steps_may_be_numbers():
    best = np.zeros((2, 2, 3), bool)
    best[0, 0] = [True, True, False]
    best[1, 1] = [False, False, True]
    ax = cr.plotting.values_on_grid(np.eye(2))
    assert cr.plotting.policy_on_grid(best, [(0, 1), (1, 0), (-1, -1)], ax) is ax
    arrows = ax.collections[-1]
    assert arrows.N == 3
    np.testing.assert_allclose(np.sign(np.round(np.stack([arrows.V, arrows.U], 1), 9)), [[0, 1], [1, 0], [-1, -1]])


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: cr.plotting.values_on_grid([1.0, 2.0]), r"\(rows, columns\), got \(2,\)"),
        (lambda: cr.plotting.values_on_grid([[np.inf, 2.0]]), "must be finite, or NaN"),
        (lambda: cr.plotting.values_on_grid([[np.nan]]), "not all of them walls"),
        (lambda: cr.plotting.policy_on_grid([[0]], ["jump"]), "'jump' is no direction"),
        (lambda: cr.plotting.policy_on_grid([[0]], [3]), "3 is no direction"),
        (lambda: cr.plotting.policy_on_grid([[1]], ["up"]), "has action 1; there are 1"),
        (lambda: cr.plotting.policy_on_grid([[0.0]], ["up"]), "of float64"),
        (lambda: cr.plotting.policy_on_grid(np.ones((1, 1, 2), bool), ["up"]), r"\(rows, columns, 1\), got"),
    ],
)
def test_bad_grids_are_named(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()
    assert not plt.get_fignums()
