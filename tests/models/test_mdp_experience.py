"""Learning a process from steps: counts by hand, Dirichlet laws, and what was never tried."""

import jax
import numpy as np
import pytest

import chainrule as cr
from chainrule.models.mdp_experience import _dirichlet

PROBS = [[[0.9, 0.1], [0.9, 0.1]], [[0.2, 0.8], [0.2, 0.8]]]


def test_what_was_never_tried_is_reported():
    mdp = cr.MDP(PROBS, [[1.0, 1.0], [0.0, 5.0]], discount=0.9)
    steps = [(0, 0, 3.0, 0), (0, 0, 1.0, 0), (1, 0, 0.0, 1), (0, 1, 1.0, 1)]
    for smoothing in (0.0, 1.0):
        fit = mdp.fit(steps, smoothing=smoothing)
        assert fit.status is cr.Status.DEGENERATE
        np.testing.assert_array_equal(fit.degenerate, [[False, False], [False, True]])
        np.testing.assert_array_equal(fit.model.transitions.rewards, [[2, 1], [0, 5]])
        learnt = fit.model.transitions.spread_out().probabilities
        np.testing.assert_allclose(learnt[0, 0], [1, 0] if smoothing == 0 else [0.75, 0.25])
        np.testing.assert_allclose(learnt[1, 1], [0.2, 0.8] if smoothing == 0 else [0.5, 0.5])
    assert mdp.fit([*steps, (1, 1, 5.0, 1)]).status is cr.Status.CONVERGED


def test_repeated_successors_are_one_outcome():
    successors, probs = [[[1, 0, 1]], [[1, 1, 0]]], [[[0.25, 0.5, 0.25]], [[0.5, 0.5, 0.0]]]
    mdp = cr.MDP(probs, [[0.0], [0.0]], successors=successors, discount=0.9)
    plain = cr.MDP([[[0.5, 0.5]], [[0.0, 1.0]]], [[0.0], [0.0]], discount=0.9)
    steps = [(0, 0, 1.0, 1)] * 3 + [(0, 0, 1.0, 0)]
    fit, wanted = mdp.fit(steps, smoothing=1.0), plain.fit(steps, smoothing=1.0)
    np.testing.assert_allclose(fit.model.chain([0, 0]).transition, wanted.model.chain([0, 0]).transition)
    assert fit.log_prob == pytest.approx(wanted.log_prob)
    assert fit.num_parameters == wanted.num_parameters == 1
    draws = mdp.posterior(jax.random.key(0), steps, num_draws=4000, prior=1.0).transitions
    to_one = (np.asarray(draws.probabilities) * (np.asarray(draws.successors) == 1)).sum(-1)[:, 0, 0]
    # Beta(4, 2)
    assert abs(to_one.mean() - 4 / 6) < 4 * np.sqrt(8 / (36 * 7) / 4000)
    assert to_one.var() == pytest.approx(8 / (36 * 7), rel=0.1)


@pytest.mark.parametrize("alpha", [1e-3, 1e-6, 1e-300])
def test_small_priors_do_not_underflow(alpha):
    draws = _dirichlet(np.random.default_rng(0), np.full((1, 2), alpha), np.array([[True, True]]), 4000)
    np.testing.assert_allclose(draws.sum(-1), 1)
    first = draws[:, 0, 0]
    assert abs((first > 0.5).mean() - 0.5) < 4 * 0.5 / np.sqrt(4000)
    # Beta(α, α) has variance 1 / (4 (2α + 1)): all but at the corners
    assert first.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.01)


def test_draws_have_the_moments_of_the_posterior():
    mdp = cr.MDP(PROBS, np.zeros((2, 2)), discount=0.9)
    draws = mdp.posterior(jax.random.key(0), [(0, 0, 1.0, 0)], num_draws=2000, prior=1e-3)
    found = np.asarray(draws.transitions.probabilities)
    assert not np.isin(found[:, 1, 0, 1], [0.8]).any()  # the row of the process has no say
    assert abs(found[:, 1, 0, 1].mean() - 0.5) < 4 * 0.5 / np.sqrt(2000)
    several = _dirichlet(np.random.default_rng(1), np.array([[0.5, 2.0, 1.5]]), np.ones((1, 3), bool), 20_000)[:, 0]
    mean = np.array([0.5, 2.0, 1.5]) / 4
    assert (np.abs(several.mean(0) - mean) < 4 * np.sqrt(mean * (1 - mean) / 5 / 20_000)).all()
    np.testing.assert_allclose(several.var(0), mean * (1 - mean) / 5, rtol=0.05)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda m: m.posterior(jax.random.key(0), [(0, 0, 1.0, 0)], prior=np.inf), "prior is inf"),
        (lambda m: m.fit([(0, 0, 1.0, 0)], smoothing=np.nan), "smoothing is nan"),
        (lambda m: m.fit([(0, 0, "much", 0)]), "step 0 is .*; wanted"),
        (lambda m: m.fit([([0], 0, 1.0, 0)]), r"state \[0\] is not one of"),
        (lambda m: m.fit(cr.Trajectories(np.array([[0, 7]]), np.array([[0]]), np.array([[1.0]]))), "states up to 7"),
        (lambda m: cr.MDP.from_trajectories([([0], "go", 1.0, "b")]), "step 0 is .*must be hashable"),
        (lambda m: cr.MDP.from_trajectories([("a", "go", np.nan, "b")]), "step 0 has reward nan"),
    ],
)
def test_what_is_wrong_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make(cr.MDP(PROBS, np.zeros((2, 2)), discount=0.9))
