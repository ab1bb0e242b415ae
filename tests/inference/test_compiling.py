"""Programs called from the host compile with other options than those inside of others; both say the same."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from chainrule.inference import compiling

X = np.arange(1, 5, dtype=np.float32)


@pytest.mark.parametrize("jit", [compiling.jit, compiling.filter_jit])
def test_inside_and_outside_of_other_programs(jit):
    traces = []

    @jit
    def roots(x):
        traces.append(None)
        return jnp.sqrt(x).sum()

    @jit
    def outer(x):
        return 2 * roots(x)

    wanted = float(np.sqrt(np.arange(1, 5)).sum())
    assert float(roots(X)) == pytest.approx(wanted, rel=1e-6)
    assert float(roots(X + 0)) == pytest.approx(wanted, rel=1e-6)
    assert len(traces) == 1
    assert float(outer(X)) == pytest.approx(2 * wanted, rel=1e-6)
    assert float(jax.jit(roots)(X)) == pytest.approx(wanted, rel=1e-6)
    assert np.asarray(jax.lax.map(roots, X[None]))[0] == pytest.approx(wanted, rel=1e-6)
    np.testing.assert_allclose(jax.vmap(roots)(np.stack([X, 4 * X])), [wanted, 2 * wanted], rtol=1e-6)
    np.testing.assert_allclose(jax.grad(roots)(X), 0.5 / np.sqrt(X), rtol=1e-6)
    assert float(jax.jit(lambda: roots(X))()) == pytest.approx(
        wanted, rel=1e-6
    )  # no argument is traced, the program is


def test_static_arguments_and_counting():
    power = compiling.jit(lambda x, n: x**n, static_argnums=1)
    np.testing.assert_array_equal(power(X, 2), X * X)
    np.testing.assert_array_equal(power(2 * X, 2), 4 * X * X)
    assert power._cache_size() == 1
    power.clear_cache()
    assert power._cache_size() == 0


def test_unknown_versions_compile_as_jax_does(monkeypatch):
    monkeypatch.setattr(compiling, "TRIED", ())
    assert type(compiling.jit(jnp.sqrt)) is type(jax.jit(jnp.sqrt))
    assert type(compiling.filter_jit(jnp.sqrt)) is type(eqx.filter_jit(jnp.sqrt))
