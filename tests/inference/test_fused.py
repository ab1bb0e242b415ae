"""The engine for many rows and states: against the one that it stands for, and against float64."""

import jax
import numpy as np
import pytest

from chainrule.inference import fused, rows, scaled


def problem(seed, dtype=np.float32, *, time=7, states=11, count=13, spread=2.0):
    rng = np.random.default_rng(seed)
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
    assert fused.suits(w)
    s = scaled.sweep(w)
    return fused.smooth(w, weight), (s.constant, *scaled.accumulate(w, s, weight))


@jax.jit
def answer(*args):
    return rows.smooth(*args, log=True)


@jax.jit
def in_log_space(*args):
    return rows.Careful.smooth(*args, log=True)


@pytest.mark.parametrize("seed", range(3))
def test_it_agrees_with_two_sweeps_and_a_product(seed):
    for got, want in zip(*both_ways(*problem(seed)), strict=True):
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=1e-6)


def test_it_is_what_answers_and_it_agrees_with_log_space():
    args = problem(3)
    for got, want in zip(answer(*args), in_log_space(*args), strict=True):
        np.testing.assert_allclose(got, want, rtol=2e-4, atol=2e-5)


def test_what_it_cannot_hold_goes_to_log_space():
    """Likelihoods thousands of nats apart: float32 in scaled space would lose the only path."""
    initial, pair, node, start, weight = problem(4, spread=2000.0)
    found = answer(initial, pair, node, start, weight)
    with jax.enable_x64(True):
        exact = (np.asarray(a, float) for a in (initial, pair, node))
        wanted = in_log_space(*exact, start, weight.astype(float))
        np.testing.assert_allclose(found.terms, wanted.terms, rtol=1e-6, atol=1e-2)
        np.testing.assert_allclose(found.marginals, wanted.marginals, atol=2e-3)
