"""The engine for many rows and states: against the one that it stands for, and against float64."""

import jax
import numpy as np
import pytest

from chainrule.inference import fused, scaled

from .row_cases import answer, check_against_log_space, in_log_space, problem


@jax.jit
def both_ways(initial, pair, node, start, weight):
    w = scaled.weights(initial, pair, node, start)
    assert fused.suits(w)
    s = scaled.sweep(w)
    return fused.smooth(w, weight), (s.constant, *scaled.accumulate(w, s, weight))


@pytest.mark.parametrize("seed", range(3))
def test_it_agrees_with_two_sweeps_and_a_product(seed):
    for got, want in zip(*both_ways(*problem(seed, 11, 13)), strict=True):
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=1e-6)


def test_it_is_what_answers_and_it_agrees_with_log_space():
    args = problem(3, 11, 13)
    for got, want in zip(answer(*args), in_log_space(*args), strict=True):
        np.testing.assert_allclose(got, want, rtol=2e-4, atol=2e-5)


def test_what_it_cannot_hold_goes_to_log_space():
    check_against_log_space(*problem(4, 11, 13, spread=2000.0))
