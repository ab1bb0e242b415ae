"""Chains are recognised however they are written down, and compile to the distribution of their graph."""

import itertools

import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import chainrule as cr
from chainrule.graphs.compile import as_chain


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 3), st.floats(0, 0.3))
def test_a_shuffled_chain_is_solved(seed, time, states, cut):
    """Variables and scopes in any order, several factors on a scope, links missing, forbidden steps, a constant."""
    rng = np.random.default_rng(seed)
    factors = [((), rng.normal())]
    for t in range(time):
        factors += [((t,), rng.normal(size=states))] * int(rng.integers(3))
    for t in range(time - 1):
        if rng.random() > cut:
            tables = [rng.normal(size=(states, states)) for _ in range(2)]
            tables[0][rng.random((states, states)) < 0.2] = -np.inf
            factors += [((t, t + 1), tables[0]), ((t + 1, t), tables[1])]
    order = rng.permutation(len(factors))
    graph = cr.FactorGraph(dict.fromkeys(rng.permutation(time).tolist(), states), [factors[i] for i in order])

    compiled = as_chain(graph)
    assert compiled is not None
    variables, chain = compiled
    truth = graph.enumerate()
    answer = oracles.enumerate_chain(chain.initial, chain.pair, chain.node)
    assert sorted(variables) == list(range(time))
    assert answer.log_partition == pytest.approx(truth.log_partition, abs=1e-4)
    if np.isfinite(truth.log_partition):
        for t, name in enumerate(variables):
            np.testing.assert_allclose(answer.marginals[t], truth.marginal(name), atol=1e-5)
        for t, names in enumerate(itertools.pairwise(variables)):
            np.testing.assert_allclose(answer.pair_marginals[t], truth.marginal(*names), atol=1e-5)


def test_order_starts_at_the_end_that_comes_first():
    link = np.zeros((2, 2))
    graph = cr.FactorGraph(dict.fromkeys("bac", 2), [(("c", "b"), link), (("a", "b"), link)])
    assert as_chain(graph)[0] == ("a", "b", "c")


def test_pair_is_shared_only_when_all_steps_agree():
    link = np.array([[0.0, -np.inf], [1.0, 2.0]])
    same = cr.FactorGraph(dict.fromkeys("abc", 2), [(("a", "b"), link), (("c", "b"), link.T)])
    other = cr.FactorGraph(dict.fromkeys("abc", 2), [(("a", "b"), link), (("c", "b"), link)])
    assert as_chain(same)[1].pair.shape == (2, 2)
    np.testing.assert_array_equal(as_chain(other)[1].pair, [link, link.T])


@pytest.mark.parametrize(
    ("variables", "scopes"),
    [
        ({"a": 2, "b": 3}, ["ab"]),
        (dict.fromkeys("abc", 2), ["ab", "bc", "ca"]),
        (dict.fromkeys("abcd", 2), ["ab", "ac", "ad"]),
        (dict.fromkeys("abc", 2), ["abc"]),
        (dict.fromkeys("abcde", 2), ["ab", "cd", "de", "ec"]),
    ],
    ids=["unequal", "cycle", "star", "triple", "line and cycle"],
)
def test_other_graphs_are_not_chains(variables, scopes):
    factors = [(tuple(scope), np.zeros([variables[name] for name in scope])) for scope in scopes]
    assert as_chain(cr.FactorGraph(variables, factors)) is None


def test_long_chains_are_recognised():
    size = 3000
    link = np.zeros((2, 2))
    graph = cr.FactorGraph(dict.fromkeys(range(size), 2), [((t, t + 1), link) for t in range(size - 1)])
    variables, chain = as_chain(graph)
    assert variables == tuple(range(size))
    assert chain.num_steps == size
