"""The predictive mixture against numbers worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import stats

from chainrule.bayes import Predictive

pytestmark = pytest.mark.lenient


def two_normals(rows=()):
    means = np.float32([0, 2]).reshape(2, *[1] * len(rows)) + np.zeros((2, *rows), np.float32)
    return Predictive(jax.vmap(dist.Normal)(means, np.ones_like(means)))


def classes(probs):
    """One draw per row of `probs`, of one observation each."""
    return Predictive(jax.vmap(dist.CategoricalProbs)(np.float32(probs)[:, None]))


def test_variance_splits_into_noise_and_doubt():
    mixture = two_normals()
    assert mixture.num_draws == 2
    assert [float(v) for v in (mixture.mean, mixture.aleatoric_variance, mixture.epistemic_variance)] == [1, 1, 1]
    assert float(mixture.variance) == 2
    np.testing.assert_allclose(mixture.std, np.sqrt(2), rtol=1e-6)


def test_log_density_is_that_of_the_mixture_not_of_its_moments():
    mixture = two_normals()
    np.testing.assert_allclose(mixture.log_prob(1.0), -1.418939, atol=1e-6)
    np.testing.assert_allclose(mixture.log_prob(4.0), -3.609610, atol=1e-6)
    rows = two_normals((2,))
    np.testing.assert_allclose(rows.nll(np.float32([1, 4])), (1.418939 + 3.609610) / 2, atol=1e-6)
    # two targets of one row are joint: the draws differ, so they are dependent
    joint = two_normals((1, 2)).log_prob(np.float32([[0, 2]]))
    densities = stats.norm.pdf(0, [0, 2]) * stats.norm.pdf(2, [0, 2])
    np.testing.assert_allclose(joint, [np.log(densities.mean())], atol=1e-6)


def test_interval_holds_its_level():
    for end, tail in zip(np.asarray(two_normals((3,)).interval(0.9)), (0.05, 0.95), strict=True):
        np.testing.assert_allclose(stats.norm.cdf(end[:, None], [0, 2]).mean(1), np.full(3, tail), atol=1e-6)
    one = Predictive(jax.vmap(dist.Normal)(np.zeros((2, 3), np.float32), np.ones((2, 3), np.float32)))
    np.testing.assert_allclose(np.asarray(one.interval(0.95)).T, np.tile([-1.959964, 1.959964], (3, 1)), atol=1e-5)


def test_samples_share_a_draw_within_a_row_set():
    sample = np.asarray(two_normals((2,)).sample(jax.random.key(0), 4000))
    assert sample.shape == (4000, 2)
    # mean 1, variance 2 and covariance 1 = the epistemic part; standard errors from 4000 draws
    np.testing.assert_allclose(sample.mean(axis=0), 1, atol=4 * np.sqrt(2 / 4000))
    np.testing.assert_allclose(np.cov(sample.T), [[2, 1], [1, 2]], atol=0.2)


def test_entropy_splits_into_expected_and_mutual():
    two = classes([[0.9, 0.1], [0.5, 0.5]])
    np.testing.assert_allclose(two.total_entropy, [0.610864], atol=1e-6)
    np.testing.assert_allclose(two.expected_entropy, [0.509115], atol=1e-6)
    np.testing.assert_allclose(two.mutual_information, [0.101749], atol=1e-6)
    certain = classes([[1.0, 0.0], [1.0, 0.0]])
    np.testing.assert_allclose(certain.total_entropy, [0], atol=1e-5)
    np.testing.assert_allclose(certain.mutual_information, [0], atol=1e-6)


def test_scores_of_four_predictions():
    confidence = np.float32([0.91, 0.79, 0.61, 0.71])
    predictive = Predictive(jax.vmap(dist.BernoulliProbs)(confidence[None]))
    y = np.array([1, 0, 1, 1])
    assert predictive.probs.shape == (4, 2)
    np.testing.assert_allclose(predictive.brier(y), 0.4342, atol=1e-6)
    np.testing.assert_allclose(predictive.nll(y), 0.622936, atol=1e-6)
    for bins, expected in ((2, 0.005), (5, 0.05), (10, 0.245)):
        np.testing.assert_allclose(predictive.ece(y, bins), expected, atol=1e-6)
    # Bernoulli targets have moments too
    np.testing.assert_allclose(predictive.mean, confidence, atol=1e-6)


def test_what_does_not_apply_says_so():
    with pytest.raises(ValueError, match="classes have no mean"):
        _ = classes([[0.9, 0.1]] * 2).variance
    with pytest.raises(ValueError, match="no quantile function"):
        classes([[0.9, 0.1]] * 2).interval(0.9)
    with pytest.raises(ValueError, match="Normal targets are no classes"):
        _ = two_normals().probs
    with pytest.raises(ValueError, match=r"y has shape \(3,\)"):
        two_normals((2,)).log_prob(np.zeros(3))
    with pytest.raises(ValueError, match="level is 90"):
        two_normals().interval(90)
    with pytest.raises(ValueError, match="classes are the whole numbers"):
        classes([[0.9, 0.1]] * 2).brier(np.array([2]))
    with pytest.raises(ValueError, match="bins is 0"):
        classes([[0.9, 0.1]] * 2).ece(np.array([1]), 0)


def test_works_under_jit_and_vmap():
    mixture, y = two_normals((2,)), np.float32([1, 2])
    eager = mixture.log_prob(y)

    @jax.jit
    def ask(mixture, y):
        slope = jax.grad(lambda y: mixture.log_prob(y).sum())(y)
        return mixture.log_prob(y), jax.vmap(mixture.log_prob)(jnp.stack([y, y + 1])), slope

    one, many, slope = ask(mixture, y)
    np.testing.assert_allclose(one, eager, rtol=1e-6)
    np.testing.assert_allclose(many[0], eager, rtol=1e-6)
    np.testing.assert_allclose(slope[0], 0, atol=1e-6)
