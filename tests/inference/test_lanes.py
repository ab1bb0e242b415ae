"""Many rows as native loops: against the two sweeps that they stand for, against log space, and where they are used."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from chainrule.inference import lanes, native, rows, scaled

NATIVE = pytest.mark.skipif(not native.available(), reason="other devices and versions of jaxlib keep to other ways")


def problem(states, count, *, time=7, spread=2.0, dtype=np.float32):
    rng = np.random.default_rng(states * count)
    pair = rng.normal(size=(states, states))
    pair[rng.random(pair.shape) < 0.2] = -np.inf
    np.fill_diagonal(pair, 0.0)  # so that there is always a path
    start = rng.random((time, count)) < 0.3
    start[0] = True
    weight = np.repeat(rng.integers(0, 3, (1, count)), time, axis=0)
    arrays = (rng.normal(size=states), pair, spread * rng.normal(size=(time, states, count)))
    return *(a.astype(dtype) for a in arrays), start, weight.astype(dtype)


@jax.jit
def both_ways(initial, pair, node, start, weight):
    w = scaled.weights(initial, pair, node, start)
    s = scaled.sweep(w)
    mass, *found = scaled.accumulate(w, s, weight)
    return lanes.smooth(w, weight), (s.constant, mass.min(), *found)


# one state; sums in one part and in several, of equal and of odd sizes; several blocks, the last one not full
@pytest.mark.parametrize(("states", "count"), [(1, 56), (3, 57), (7, 104), (12, 130), (16, 64)])
def test_it_agrees_with_two_sweeps_and_a_product(states, count):
    for got, want in zip(*both_ways(*problem(states, count)), strict=True):
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=1e-6)


def test_double_precision_is_kept():
    with jax.enable_x64(True):
        for got, want in zip(*both_ways(*problem(5, 60, dtype=np.float64)), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-12)


@jax.jit
def answer(*args):
    return rows.smooth(*args, log=True)


@jax.jit
def in_log_space(*args):
    return rows.Careful.smooth(*args, log=True)


@NATIVE
def test_it_is_what_answers_and_it_agrees_with_log_space():
    args = problem(4, 60)
    assert lanes.suits(scaled.Weights(args[0], args[1], args[2], args[3], args[4]))
    for got, want in zip(answer(*args), in_log_space(*args), strict=True):
        np.testing.assert_allclose(got, want, rtol=2e-4, atol=2e-5)


def test_what_it_cannot_hold_goes_to_log_space():
    """Likelihoods thousands of nats apart: float32 in scaled space would lose the only path."""
    initial, pair, node, start, weight = problem(4, 60, spread=2000.0)
    found = answer(initial, pair, node, start, weight)
    with jax.enable_x64(True):
        exact = (np.asarray(a, float) for a in (initial, pair, node))
        wanted = in_log_space(*exact, start, weight.astype(float))
        np.testing.assert_allclose(found.terms, wanted.terms, rtol=1e-6, atol=1e-2)
        np.testing.assert_allclose(found.marginals, wanted.marginals, atol=2e-3)


@NATIVE
def test_few_rows_many_states_and_moving_transitions_go_other_ways():
    def suits(states, rows, transition=2):
        shapes = (
            (states,),
            (states,) * 2 if transition == 2 else (5, states, states),
            (5, states, rows),
            (5, rows),
            (5, rows),
        )
        return lanes.suits(scaled.Weights(*(np.zeros(shape) for shape in shapes)))

    assert suits(12, 500)
    assert suits(16, 64)
    assert not suits(16, 500)
    assert not suits(17, 64)
    assert not suits(5, 55)
    assert not suits(5, 64, transition=3)


@NATIVE
def test_it_is_compiled_as_one_function():
    w = scaled.Weights(*(jnp.asarray(a) for a in problem(3, 57)))
    assert "xla_cpu_small_call" in jax.jit(lanes.smooth).lower(w, w.log_scale).as_text()
