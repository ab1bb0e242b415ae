"""Functions compiled as one piece: the same numbers, marked where that is safe and nowhere else."""

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
import pytest
from jax import lax

from chainrule.forms.products import product
from chainrule.inference import native, scaled

MARK = "xla_cpu_small_call"
MARKED = pytest.mark.skipif(
    tuple(map(int, jaxlib.__version__.split(".")[:2])) not in native.TRIED or jax.default_backend() != "cpu",
    reason="nothing is marked on other devices, and by versions of jaxlib where it was not tried",
)
SIZES = [2, 9, 255]


def walk(matrix, x, unused):
    """A state that a matrix moves and `x` weighs; more is given than is needed."""

    def body(state, weight):
        state = product(state, matrix) * weight
        state = state / state.sum()
        return state, state

    return lax.scan(body, jnp.full(len(matrix), 1 / len(matrix), x.dtype), x)


def arguments(size, steps=5):
    rng = np.random.default_rng(size)
    matrix = rng.dirichlet(np.ones(size), size).astype(np.float32)
    return matrix, 0.1 + rng.random((steps, size), np.float32), np.ones(3, np.float32)


@MARKED
@pytest.mark.parametrize("size", SIZES)
def test_the_same_numbers_whatever_is_constant(size):
    args = arguments(size)
    plain, marked = jax.jit(walk), jax.jit(native.native(walk))
    for constant in (
        (),
        (1,),
        (0, 1, 2),
    ):  # XLA puts constants in the place of arguments, and aborts on what is left over

        def some_constant(*given, constant=constant):
            return native.native(walk)(
                *(a if i in constant else b for i, (a, b) in enumerate(zip(args, given, strict=True)))
            )

        for a, b in zip(plain(*args), jax.jit(some_constant)(*args), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6)
    assert MARK in marked.lower(*args).as_text()


def test_a_batch_is_not_marked():
    """Products of a vector and a matrix become products of matrices, which XLA would hand to a library."""
    matrix, x, unused = arguments(9)
    many = np.stack([x, 2 * x, x[::-1]])
    batched = jax.jit(jax.vmap(native.native(walk), in_axes=(None, 0, None)))
    assert MARK not in batched.lower(matrix, many, unused).as_text()
    alone = jax.jit(walk)
    for found, one in zip(np.asarray(batched(matrix, many, unused)[1]), many, strict=True):
        np.testing.assert_allclose(found, alone(matrix, one, unused)[1], rtol=1e-6)


def test_several_devices_are_left_alone(monkeypatch):
    """What is marked cannot be partitioned."""
    monkeypatch.setattr(jax, "device_count", lambda: 2)
    assert MARK not in jax.jit(native.native(walk)).lower(*arguments(9)).as_text()


def test_other_compilers_are_left_alone(monkeypatch):
    monkeypatch.setattr(native, "TRIED", ((0, 9),))
    assert MARK not in jax.jit(native.native(walk)).lower(*arguments(9)).as_text()


@MARKED
@pytest.mark.parametrize("size", [9, 40])
def test_one_chain_is_marked_and_rows_are_not(size):
    matrix, x, _ = arguments(size)

    @jax.jit
    def swept(likelihood):
        start = jnp.zeros(likelihood.shape[::2], bool).at[0].set(True)
        return scaled.sweep(scaled.Weights(matrix[0], matrix, likelihood, start, jnp.zeros_like(likelihood[:, 0])))

    assert swept.lower(x).as_text().count(MARK) >= 2
    rows = np.stack([x, x[::-1]], axis=-1)
    assert MARK not in swept.lower(rows).as_text()
    for together, alone in zip(swept(rows), swept(x), strict=True):
        np.testing.assert_allclose(np.asarray(together)[..., 0], alone, rtol=3e-6)
