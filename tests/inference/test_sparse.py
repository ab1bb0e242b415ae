"""Sparse products by gathers: against SciPy, against a loop, and their gradients."""

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from scipy import sparse

from chainrule.inference.sparse import CHUNK, WIDTHS, Gathers, SparseMap


def matrix_with_rows_of(sizes, columns, *, real=False, seed=0):
    """Row r has sizes[r] entries, at random places."""
    rng = np.random.default_rng(seed)
    edges = np.cumsum([0, *sizes])
    indices = np.concatenate([rng.permutation(columns)[:size] for size in sizes] or [np.zeros(0)]).astype(np.int32)
    data = rng.normal(size=edges[-1]) if real else np.ones(edges[-1])
    return sparse.csr_matrix((data, indices, edges), shape=(len(sizes), columns))


@jax.jit
def product(table, dense):
    return table @ dense


def check(matrix, rest=(3,), *, tolerance=1e-5, dtype=np.float32, seed=1):
    dense = np.random.default_rng(seed).normal(size=(matrix.shape[1], *rest)).astype(dtype)
    found = np.asarray(product(Gathers.of(matrix, dtype), dense))
    wanted = matrix @ dense.reshape(len(dense), int(np.prod(rest))).astype(float)
    assert found.dtype == dtype
    np.testing.assert_allclose(found, wanted.reshape(found.shape), atol=tolerance)


@given(
    sizes=st.lists(st.integers(0, 12), max_size=4),
    real=st.booleans(),
    rest=st.sampled_from([(), (2, 3)]),
)
@settings(max_examples=6, deadline=None)
def test_products_are_those_of_scipy(sizes, real, rest):
    check(matrix_with_rows_of(sizes, 12, real=real), rest)


@pytest.mark.parametrize("real", [False, True])
def test_rows_of_every_width_and_of_many_chunks(real):
    """Up to three levels: a row of more than CHUNK² entries has more chunks than one chunk holds."""
    sizes = [0, *WIDTHS, 33, 2 * CHUNK, CHUNK**2 + 1, CHUNK**2, 0, 1, 3 * CHUNK**2]
    check(matrix_with_rows_of(sizes, 3 * CHUNK**2 + 1, real=real), (), tolerance=2e-3)


def test_no_rows_no_columns_and_nothing_in_them():
    for shape in ((0, 4), (4, 0), (3, 2), (0, 0)):
        check(sparse.csr_matrix(shape, dtype=float))


def test_ones_are_not_stored_and_other_values_are():
    assert Gathers.of(matrix_with_rows_of([2, 1], 4)).values is None
    halves = matrix_with_rows_of([2, 1], 4)
    halves.data[:] = 0.5
    assert Gathers.of(halves).values is not None
    check(halves)


def test_float64_keeps_its_digits():
    with jax.enable_x64(True):
        check(matrix_with_rows_of([1, 40, 0], 60, real=True), dtype=np.float64, tolerance=1e-13)


def test_products_under_jit_and_vmap():
    matrix = matrix_with_rows_of([1, 40, 0, 5], 60, real=True)
    table = Gathers.of(matrix)
    dense = np.random.default_rng(0).normal(size=(2, 60, 3)).astype(np.float32)
    found = jax.jit(jax.vmap(lambda d: table @ d))(dense)
    np.testing.assert_allclose(found, [matrix @ d for d in dense], atol=1e-5)


# Linear maps of parameters


def random_map(seed, *, real, rows=7, columns=5, labels=3, dtype=np.float32):
    """A map, and the same as a dense matrix (row, label, parameter)."""
    rng = np.random.default_rng(seed)
    matrix = matrix_with_rows_of(rng.integers(0, columns + 1, rows), columns, real=real, seed=seed)
    chosen = rng.random((columns, labels)) < 0.6
    column, label = rng.permutation(np.argwhere(chosen)).T
    table = SparseMap.of(matrix, column, label, labels, dtype)
    dense = np.zeros((rows, labels, len(column)))
    for p, (c, k) in enumerate(zip(column, label, strict=True)):
        dense[:, k, p] = matrix.toarray()[:, c]
    return table, dense


@pytest.mark.parametrize("seed", range(3))
def test_maps_and_their_gradients(seed):
    table, dense = random_map(seed, real=seed % 2 == 0)
    rng = np.random.default_rng(seed)
    theta, weight = (rng.normal(size=size).astype(np.float32) for size in (dense.shape[2], dense.shape[:2]))
    found, slope = jax.jit(lambda theta, weight: (table(theta), jax.vjp(table, theta)[1](weight)[0]))(theta, weight)
    np.testing.assert_allclose(found, dense @ theta, atol=1e-5)
    np.testing.assert_allclose(slope, np.einsum("rk,rkp->p", weight, dense), atol=1e-5)


def test_gradient_of_a_long_column():
    """An attribute at 1100 tokens is a long row of the transpose."""
    matrix = sparse.csr_matrix(np.ones((1100, 1)))
    table = SparseMap.of(matrix, np.array([0, 0]), np.array([1, 0]), 2)
    value, slope = jax.jit(jax.value_and_grad(lambda theta: (table(theta) * jnp.array([[2.0, 3.0]])).sum()))(
        np.array([1, 10], np.float32)
    )
    assert float(value) == 1100 * (2 * 10 + 3 * 1)
    assert slope.tolist() == [3300.0, 2200.0]


def test_gradient_against_finite_differences_in_float64():
    with jax.enable_x64(True):
        table, _ = random_map(5, real=True, dtype=np.float64)
        theta = np.random.default_rng(0).normal(size=len(table.entry))
        both = jax.jit(jax.value_and_grad(lambda theta: jnp.sin(table(theta)).sum()))
        slope = np.asarray(both(theta)[1])
        for p, step in enumerate(1e-5 * np.eye(len(theta))):
            difference = (float(both(theta + step)[0]) - float(both(theta - step)[0])) / 2e-5
            assert slope[p] == pytest.approx(difference, abs=1e-9)


@pytest.mark.parametrize("columns", [0, 3])
def test_maps_without_parameters(columns):
    matrix = sparse.csr_matrix((2, columns), dtype=float)
    nothing = np.zeros(0, np.int64)
    table = SparseMap.of(matrix, nothing, nothing, 2)
    value, slope = jax.jit(jax.value_and_grad(lambda theta: table(theta).sum()))(np.zeros(0, np.float32))
    assert float(value) == 0
    assert slope.shape == (0,)


def test_a_map_of_the_same_shape_is_traced_once():
    traces = []

    @jax.jit
    def apply(table, theta):
        traces.append(1)
        return table(theta)

    matrix = matrix_with_rows_of([1, 2, 0], 4)
    column, label = np.array([0, 1, 3]), np.array([0, 1, 1])
    for order in ([0, 1, 2], [2, 0, 1]):
        apply(SparseMap.of(matrix, column[order], label[order], 2), np.arange(3, dtype=np.float32))
    assert len(traces) == 1
