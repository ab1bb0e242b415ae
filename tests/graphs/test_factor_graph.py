"""Factor graphs: networkx and back, scores by hand, enumeration, and what they refuse."""

import itertools

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import chainrule as cr


def random_graph(seed, num_variables=4):
    """Any scopes of up to three variables, two or three states each, some values −inf."""
    rng = np.random.default_rng(seed)
    variables = {f"v{i}": tuple("abc"[: rng.integers(2, 4)]) for i in range(num_variables)}
    factors = {}
    for i in range(rng.integers(1, 6)):
        size = int(rng.integers(0, min(num_variables, 3) + 1))
        scope = tuple(f"v{j}" for j in rng.choice(num_variables, size=size, replace=False))
        table = rng.normal(size=[len(variables[name]) for name in scope])
        factors["factor", i] = scope, np.where(rng.random(table.shape) < 0.1, -np.inf, table)
    return cr.FactorGraph(variables, factors)


def umbrella():
    """Two days of rain, an umbrella seen on both."""
    rains = ("dry", "rain")
    return cr.FactorGraph(
        {"day 1": rains, "day 2": rains},
        {
            "prior": (("day 1",), np.log([0.5, 0.5])),
            "step": (("day 1", "day 2"), np.log([[0.7, 0.3], [0.3, 0.7]])),
            "seen 1": (("day 1",), np.log([0.2, 0.9])),
            "seen 2": (("day 2",), np.log([0.2, 0.9])),
        },
    )


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 4))
def test_enumeration_scores_every_assignment(seed, num_variables):
    graph = random_graph(seed, num_variables)
    answer = graph.enumerate()
    scores = {
        states: graph.log_score(dict(zip(graph.variables, states, strict=True)))
        for states in itertools.product(*graph.variables.values())
    }
    values = np.array(list(scores.values()))
    assert answer.map_log_score == values.max()
    assert graph.log_score(answer.map) == pytest.approx(values.max())
    if np.isfinite(values.max()):
        assert answer.log_partition == pytest.approx(np.log(np.exp(values).sum()))
        np.testing.assert_allclose(answer.log_joint.ravel(), values - answer.log_partition, atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6))
def test_round_trip(seed):
    graph = random_graph(seed)
    through = graph.to_networkx()
    assert nx.is_bipartite(through)
    back = cr.FactorGraph.from_networkx(through)
    assert dict(back.variables) == dict(graph.variables)
    assert list(back.factors) == list(graph.factors)
    for name, (scope, table) in graph.factors.items():
        assert back.factors[name].scope == scope
        np.testing.assert_array_equal(back.factors[name].log_table, table)


def test_marginals():
    """Russell & Norvig (2010), Artificial Intelligence, §15.2.1: 0.883 after smoothing."""
    answer = umbrella().enumerate()
    np.testing.assert_allclose(answer.marginal("day 1"), [0.117, 0.883], atol=5e-4)
    both = answer.marginal("day 1", "day 2")
    np.testing.assert_allclose(answer.marginal("day 2", "day 1"), both.T)
    np.testing.assert_allclose(both.sum(axis=1), answer.marginal("day 1"))
    assert answer.marginal() == pytest.approx(1.0)
    assert answer.map == {"day 1": "rain", "day 2": "rain"}
    assert repr(answer) == f"Enumeration(4 joint states, log Z = {answer.log_partition:.6g})"


def test_marginals_in_every_order():
    table = np.random.default_rng(0).normal(size=(4, 2, 3))
    graph = cr.FactorGraph({"a": 2, "b": 3, "c": 4}, [(("c", "a", "b"), table)])
    answer = graph.enumerate()
    for names in itertools.permutations("abc"):
        swap = ["cab".index(name) for name in names]
        np.testing.assert_allclose(answer.marginal(*names), np.exp(table - answer.log_partition).transpose(swap))


def test_tables_are_read_only_copies():
    table = np.zeros(2)
    graph = cr.FactorGraph({"a": 2}, [(("a",), table)])
    table[0] = 1.0
    assert list(graph.factors) == ["f0"]
    assert graph.factors["f0"].log_table.tolist() == [0.0, 0.0]
    with pytest.raises(ValueError, match="read-only"):
        graph.factors["f0"].log_table[0] = 1.0
    with pytest.raises(TypeError):
        graph.factors["f0"] = None


def test_impossible_graph():
    answer = cr.FactorGraph({"a": 2}, [(("a",), [-np.inf, -np.inf])]).enumerate()
    assert answer.log_partition == answer.map_log_score == -np.inf
    assert (answer.log_joint == -np.inf).all()
    with pytest.raises(ValueError, match="every assignment"):
        answer.marginal("a")


@pytest.mark.parametrize(
    ("variables", "factors", "message"),
    [
        ({}, [], "at least one variable"),
        ({"a": ()}, [], "'a' has no states"),
        ({"a": 0}, [], "'a' has no states"),
        ({"a": ("x", "y", "x")}, [], "'a' has state 'x' twice"),
        ({"a": "xy"}, [], r"'a' has the text 'xy' for states"),
        ({"a": 2}, {"a": (("a",), [0, 0])}, "'a' names a variable and a factor"),
        (
            {"rain": 2},
            {"f": (("rian",), [0, 0])},
            r"'f' has a scope with an unknown variable 'rian'; did you mean 'rain'\?",
        ),
        ({"a": 2}, {"f": ("a", [0, 0])}, r"'f' has the text 'a' for scope; .* \('a',\)"),
        ({"a": 2}, {"f": 3.0}, r"'f' is float, wanted a pair \(scope, log_table\)"),
        ({"a": 2}, {"f": (("a", "a"), np.zeros((2, 2)))}, "'f' has variable 'a' twice"),
        (
            {"a": 2, "b": 3},
            {"f": (("b", "a"), np.zeros((2, 3)))},
            r"'f' has a table of shape \(2, 3\).* asks for \(3, 2\)",
        ),
        ({"a": ("x", "y")}, {"f": (("a",), [0, np.nan])}, r"'f' has nan at \('y',\)"),
        ({"a": ("x", "y")}, {"f": (("a",), [np.inf, 0])}, r"'f' has inf at \('x',\)"),
        ({"a": 2}, {"f": ((), np.nan)}, r"'f' has nan at \(\)"),
    ],
)
def test_bad_graphs_are_named(variables, factors, message):
    with pytest.raises(ValueError, match=message):
        cr.FactorGraph(variables, factors)


def edited(edit):
    graph = umbrella().to_networkx()
    edit(graph)
    return graph


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (nx.DiGraph(), "undirected nx.Graph, got DiGraph"),
        (nx.MultiGraph(), "undirected nx.Graph, got MultiGraph"),
        (nx.Graph(), "at least one variable"),
        (edited(lambda g: g.add_edge("day 1", "day 2")), "'day 1' — 'day 2' joins two variables"),
        (edited(lambda g: g.add_edge("prior", "step")), "'prior' — 'step' joins two factors"),
        (edited(lambda g: g.add_edge("prior", "day 2")), r"'prior' has scope \('day 1',\) but neighbours"),
        (edited(lambda g: g.remove_edge("step", "day 2")), r"'step' has scope .* but neighbours \('day 1',\)"),
        (edited(lambda g: g.add_node("day 3", colour="red")), r"'day 3' has attributes \['colour'\]"),
        (edited(lambda g: g.nodes["prior"].update(states=(0, 1))), "'prior' has attributes"),
    ],
)
def test_bad_networkx_graphs_are_named(graph, message):
    with pytest.raises(ValueError, match=message):
        cr.FactorGraph.from_networkx(graph)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ({"day 1": "dry"}, "no state for variable 'day 2'"),
        ({"day 1": "dry", "day 2": "wet"}, "unknown state of 'day 2' 'wet'"),
        ({"day 1": "dry", "day 2": "dry", "day 3": "dry"}, "unknown variable 'day 3'; did you mean 'day "),
    ],
)
def test_bad_assignments_are_named(assignment, message):
    with pytest.raises(ValueError, match=message):
        umbrella().log_score(assignment)


def test_enumeration_refuses_what_is_too_large():
    with pytest.raises(ValueError, match="21 variables have 2097152 joint states"):
        cr.FactorGraph(dict.fromkeys(range(21), 2), []).enumerate()
    with pytest.raises(ValueError, match=r"400 variables have about 10\^120 joint states"):
        cr.FactorGraph(dict.fromkeys(range(400), 2), []).enumerate()
    assert cr.FactorGraph(dict.fromkeys(range(20), 2), []).enumerate().log_partition == pytest.approx(20 * np.log(2))
