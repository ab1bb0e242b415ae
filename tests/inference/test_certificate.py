"""The log-space engine is compiled when it is needed, and not before."""

import jax
import numpy as np
import pytest

import chainrule as cr
from chainrule.learning import em
from chainrule.models import hmm_engine

EASY = np.array([0.1, -0.2, 1.3, 0.4, 0.9, -1.0])
# state 0 is left behind for good, yet explains the outlier far better than any float can hold
HARD = np.array([0.0, 0.0, 0.0, 400.0, 0.0, 0.0])


def make(size=1):
    initial, transition = np.array([1.0, 0.0]), np.array([[1.0, 0.0], [0.5, 0.5]])
    return cr.HMM(initial, transition, cr.emissions.Normal(np.zeros(2), np.array([1.0, 1.0 + size])))


def mixing():
    return cr.HMM([0.5, 0.5], [[0.9, 0.1], [0.2, 0.8]], cr.emissions.Normal(np.array([0.0, 1.0]), np.ones(2)))


@jax.jit
def in_one_program(model, x):
    return model.posterior(x).marginals, model.log_prob(x), model.filter(x).filtered


def test_a_certificate_that_holds_compiles_one_program():
    query = hmm_engine.posterior
    query._hope.clear_cache(), query._careful.clear_cache(), query._either.clear_cache()
    mixing().posterior(EASY)
    mixing().posterior(EASY + 1)
    assert (query._hope._cache_size(), query._careful._cache_size(), query._either._cache_size()) == (1, 0, 0)


@pytest.mark.parametrize("x", [EASY, HARD], ids=["easy", "hard"])
@pytest.mark.parametrize("make_model", [mixing, make])
def test_both_ways_to_decide_agree(make_model, x):
    model = make_model()
    marginals, log_prob, filtered = in_one_program(model, x)
    np.testing.assert_allclose(model.posterior(x).marginals, marginals, atol=1e-6)
    np.testing.assert_allclose(model.log_prob(x), log_prob, rtol=1e-6)
    np.testing.assert_allclose(model.filter(x).filtered, filtered, atol=1e-6)


def test_a_certificate_that_fails_is_answered_in_log_space():
    query = hmm_engine.posterior
    query._careful.clear_cache()
    model = cr.HMM([1.0, 0.0], np.eye(2), cr.emissions.Normal(np.array([0.0, 50.0]), np.ones(2)))
    marginals = model.posterior(np.array([0.0] + [50.0] * 5)).marginals
    assert query._careful._cache_size() == 1
    np.testing.assert_array_equal(marginals, [[1, 0]] * 6)


def test_a_fit_goes_on_in_log_space_from_where_the_certificate_failed():
    em._em.clear_cache()
    x = np.concatenate([np.zeros(5), np.full(5, 60.0), np.zeros(5)])
    mixing().fit(x, method=cr.EM(max_iterations=3))
    assert em._em._cache_size() == 1  # no fallback for what does not need it
    stuck = cr.HMM([1.0, 0.0], np.eye(2), cr.emissions.Normal(np.array([0.0, 60.0]), np.ones(2)))
    fit = stuck.fit(x, method=cr.EM(max_iterations=3))
    assert em._em._cache_size() == 2
    assert np.isfinite(fit.log_prob)
    assert (np.diff(fit.history) >= -1e-3).all()
    np.testing.assert_allclose(np.asarray(fit.model.emission.mean)[0], 20.0, rtol=1e-5)
