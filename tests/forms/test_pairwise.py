"""The pairwise form: every layout scores like a double sum, and conversion loses nothing."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pairwise_cases as cases
import pytest

import chainrule as cr
from chainrule.forms.layouts import Bipartite, Dense, Lattice, Neighbours

LAYOUTS = pytest.mark.parametrize("layout", cases.LAYOUTS)
SPINS = pytest.mark.parametrize("spins", [False, True])


@LAYOUTS
def test_couplings_are_symmetric_and_slices_are_free_of_them(layout):
    model = cases.random_model(layout, spins=True)
    w = cases.couplings(model)
    np.testing.assert_allclose(w, w.T, atol=1e-7)
    starts = model.coupling.starts
    for low, high in itertools.pairwise(starts):
        assert not w[low:high, low:high].any()
    x = np.random.default_rng(0).choice([-1, 1], (len(w), 5)).astype(np.int8)

    @jax.jit
    def look(model, x):
        parts = [model.coupling.slice_fields(x, k) for k in range(len(starts) - 1)]
        return model.coupling.totals(), parts, model.fields(x)

    totals, parts, fields = look(model, x)
    np.testing.assert_allclose(np.broadcast_to(totals, len(w)), w.sum(1), atol=1e-6)
    np.testing.assert_allclose(np.concatenate(parts), w @ x, atol=1e-5)
    np.testing.assert_allclose(fields, w @ x + np.asarray(model.biases)[:, None], atol=1e-5)


@LAYOUTS
@SPINS
def test_scores_are_the_double_sum_and_conversion_keeps_them_with_their_constant(layout, spins):
    model = cases.random_model(layout, spins=spins)
    assert (model.as_spins() if spins else model.as_bits()) is model
    x = cases.states(model)[:, :: 7 if layout is Lattice else 1].astype(np.int8)

    @jax.jit
    def turn(model, x, y):
        other = model.as_bits() if spins else model.as_spins()
        assert other.spins != spins
        again = other.as_spins() if spins else other.as_bits()
        return model.score(x), model.energy(x), other.score(y), again

    score, energy, of_other, again = turn(model, x, (x + 1) // 2 if spins else 2 * x - 1)
    np.testing.assert_allclose(score, cases.scores(model, x), atol=2e-5)
    np.testing.assert_array_equal(energy, -np.asarray(score))
    np.testing.assert_allclose(score, of_other, atol=3e-5)
    for leaf, wanted in zip(jax.tree.leaves(again), jax.tree.leaves(model), strict=True):
        np.testing.assert_allclose(leaf, wanted, atol=2e-6)


def test_one_bias_for_a_lattice():
    shared = cr.Pairwise(np.float32(0.3), Lattice(0.5, 4, 6), spins=True)
    each = cr.Pairwise(np.full(24, 0.3, np.float32), Lattice(0.5, 4, 6), spins=True)
    x = np.random.default_rng(0).choice([-1, 1], (24, 9)).astype(np.int8)
    look = jax.jit(lambda m, x: (m.score(x), m.as_bits().score(jnp.asarray(x > 0, jnp.int8))))
    (one, one_of_bits), (other, other_of_bits) = look(shared, x), look(each, x)
    np.testing.assert_allclose(one, other, rtol=1e-6)
    np.testing.assert_allclose(one_of_bits, other_of_bits, rtol=1e-5)
    np.testing.assert_allclose(one_of_bits, one, atol=1e-4)


def test_a_lattice_joins_each_site_with_its_four_neighbours():
    lattice = Lattice(1.0, 4, 6)
    w = cases.couplings(cr.Pairwise(np.float32(0), lattice, spins=True))
    for i, (r, c) in enumerate(lattice.sites):
        near = {(r, (c + 1) % 6), (r, (c - 1) % 6), ((r + 1) % 4, c), ((r - 1) % 4, c)}
        assert {tuple(lattice.sites[j]) for j in np.flatnonzero(w[i])} == near


def test_weights_are_traced_and_scores_have_gradients():
    traces = []

    @jax.jit
    def score(model, x):
        traces.append(None)
        return model.score(x).sum()

    model = cases.random_model(Neighbours, spins=False)
    x = np.ones((8, 3), np.int8)
    score(model, x)
    score(cases.times(model, 2), x)
    assert len(traces) == 1
    gradient = jax.jit(jax.grad(score, allow_int=True))(model, x)
    np.testing.assert_allclose(gradient.bias, 3.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Dense(np.ones((2, 3))), "square"),
        (lambda: Dense([[0.0, 1.0], [2.0, 0.0]]), r"not symmetric: \[0, 1\] is 1.0"),
        (lambda: Dense([[1.0, 2.0], [2.0, 0.0]]), "node 0 is coupled with itself"),
        (lambda: Dense([[0.0, np.nan], [np.nan, 0.0]]), "nan at"),
        (lambda: Bipartite(np.ones(3)), "two layers"),
        (lambda: Bipartite([[np.inf]]), "inf at"),
        (lambda: Lattice(1.0, 3, 4), "3 rows"),
        (lambda: Lattice(1.0, 4, 2), "2 columns"),
        (lambda: Lattice([1.0, 2.0], 4, 4), "one number"),
        (lambda: Neighbours([np.array([[1], [0]])], [np.ones((2, 1))]), "same slice"),
        (lambda: Neighbours([np.array([[1]]), np.array([[0]])], [[[1.0]], [[2.0]]]), "not symmetric"),
        (lambda: Neighbours([np.array([[2]]), np.array([[0]])], [[[1.0]], [[1.0]]]), "outside 0"),
        (lambda: Neighbours([np.array([1])], [[1.0]]), "wanted"),
        (lambda: Neighbours([np.array([[1]])], [[[1.0, 2.0]]]), "tables of weights"),
        (lambda: cr.Pairwise(jnp.zeros(3), Bipartite(np.ones((1, 1)))), r"shape \(3,\)"),
        (lambda: cr.Pairwise(jnp.array([0.0, jnp.nan]), Bipartite(np.ones((1, 1)))), "NaN"),
        (lambda: cr.Pairwise(jnp.zeros(()), Bipartite(np.ones((1, 1)))), r"shape \(\)"),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
