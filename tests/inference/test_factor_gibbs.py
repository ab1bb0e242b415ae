"""Gibbs sampling of factor graphs against enumeration."""

from functools import partial

import jax
import numpy as np
import pairwise_cases as cases
import pytest

import chainrule as cr
from chainrule.graphs.compile import as_factors
from chainrule.inference import factor_gibbs

KEY = jax.random.key(1, impl="philox2x32")


def a_graph(seed=0) -> cr.FactorGraph:
    """Variables of 2, 3 and 4 states, factors of one, two and three variables, a constant, one free variable."""
    rng = np.random.default_rng(seed)
    three = rng.normal(size=(2, 3, 4))
    three[0, 2] = -np.inf
    return cr.FactorGraph(
        {"a": 2, "b": 3, "c": 4, "d": 3, "free": 2},
        {
            "abc": (("a", "b", "c"), three),
            "ca": (("c", "a"), rng.normal(size=(4, 2))),
            "bd": (("d", "b"), 1.5 * rng.normal(size=(3, 3))),
            "alone": (("d",), [0.0, -np.inf, 1.0]),
            "constant": ((), 2.0),
        },
    )


def test_scores_and_conditionals_are_those_of_the_tables():
    graph = a_graph()
    order, form = as_factors(graph)
    assert set(order) == set(graph.variables)
    shape = [len(states) for states in graph.variables.values()]
    index = np.indices(shape).reshape(len(shape), -1)
    place = [list(graph.variables).index(name) for name in order]
    wanted = (graph.enumerate().log_joint + graph.enumerate().log_partition).ravel()
    score = partial(jax.jit(type(form).score), form)
    np.testing.assert_allclose(score(index[place]), wanted, rtol=1e-5)
    state = index[place][:, ::7]
    conditionals = jax.jit(lambda form, state: [form.conditionals(state, k) for k in range(len(form.blocks))])
    for found, block in zip(map(np.asarray, conditionals(form, state)), form.blocks, strict=True):
        for variable in range(block.start, block.start + len(block.base)):
            for k in range(block.num_states):
                other, zero = (np.where(np.arange(5)[:, None] == variable, v, state) for v in (k, 0))
                with np.errstate(invalid="ignore"):
                    difference = found[variable - block.start, k] - found[variable - block.start, 0]
                    exact = np.asarray(score(other)) - np.asarray(score(zero))
                keep = np.isfinite(exact) & np.isfinite(difference)
                np.testing.assert_allclose(difference[keep], exact[keep], atol=1e-5)


def test_variables_of_a_factor_are_drawn_apart():
    _, form = as_factors(a_graph())
    block = np.concatenate([np.full(len(b.base), i) for i, b in enumerate(form.blocks)])
    for scope, strides in zip(np.asarray(form.scope), np.asarray(form.strides), strict=True):
        mine = block[scope[strides > 0]]
        assert len(set(mine)) == len(mine)


@pytest.mark.parametrize("given", [{}, {"b": 1, "free": 0}])
def test_draws_are_distributed_as_enumeration_says(given):
    graph = a_graph()
    drawn = np.asarray(graph.sample(KEY, 6000, sweeps=30, given=given))
    probs = np.exp(graph.enumerate().log_joint)
    for name, state in given.items():
        axis = list(graph.variables).index(name)
        assert (drawn[:, axis] == state).all()
        probs = probs * np.expand_dims(np.arange(probs.shape[axis]) == state, [a for a in range(5) if a != axis])
    counts = np.bincount(np.ravel_multi_index(drawn.T, probs.shape), minlength=probs.size)
    assert cases.chi_square(counts, probs.ravel() / probs.sum()) > 1e-3


def test_binary_factor_graphs_agree_with_the_pairwise_engine():
    import networkx as nx

    graph = nx.cycle_graph(5)
    nx.set_edge_attributes(graph, 0.8, "weight")
    machine = cr.BoltzmannMachine.from_graph(graph, states=(-1, 1))
    drawn = np.asarray(machine.factor_graph().sample(KEY, 6000, sweeps=30))
    counts = np.bincount(drawn @ (2 ** np.arange(5)[::-1]), minlength=32)
    assert cases.chi_square(counts, np.exp(machine.factor_graph().enumerate().log_joint).ravel()) > 1e-3
    again = cr.BoltzmannMachine.from_factor_graph(machine.factor_graph())
    x = np.array([[-1, 1, 1, -1, 1], [1, 1, 1, 1, 1]])
    np.testing.assert_allclose(again.energy((x + 1) // 2), machine.energy(x), atol=1e-5)


def test_tables_and_temperatures_compile_nothing():
    a_graph(0).sample(KEY, 6000, sweeps=2)
    before = factor_gibbs.fresh._cache_size()
    a_graph(1).sample(KEY, 6000, sweeps=5, beta=0.5)
    assert factor_gibbs.fresh._cache_size() == before


def test_a_variable_without_a_possible_state_stays():
    """Two bits that must differ: each alone is stuck, and keeps its value."""
    graph = cr.FactorGraph({"a": 2, "b": 2}, [(("a", "b"), [[-np.inf, 0.0], [0.0, -np.inf]])])
    _, form = as_factors(graph)
    after = factor_gibbs.run(KEY, np.array([[0, 1], [1, 0]], np.int32), form, 5)
    np.testing.assert_array_equal(after, [[0, 1], [1, 0]])


def test_assignments_that_cannot_be_are_not_returned():
    """Four bits that are all 0 or all 1: from a random start, a third of the chains never gets there."""
    table = np.full((2,) * 4, -np.inf)
    table[0, 0, 0, 0] = table[1, 1, 1, 1] = 0
    graph = cr.FactorGraph(dict.fromkeys("abcd", 2), [(tuple("abcd"), table)])
    with pytest.raises(ValueError, match=r"of 400 samples have probability 0.*given"):
        graph.sample(KEY, 400, sweeps=20)
    with pytest.raises(ValueError, match="400 of 400 samples have probability 0"):
        graph.sample(KEY, 400, sweeps=5, given={"a": 0, "b": 1})
    held = graph.sample(KEY, 400, sweeps=20, given={"a": 1, "b": 1, "c": 1})
    assert (np.asarray(held) == 1).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"given": {"z": 0}}, "unknown variable"),
        ({"given": {"a": 5}}, "unknown state of 'a'"),
        ({"sweeps": 0}, "one of each"),
        ({"beta": np.nan}, "beta is nan"),
        ({"beta": 0.0}, "beta is 0.0"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        a_graph().sample(KEY, 2, **options)
