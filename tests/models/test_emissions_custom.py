"""Emissions from outside: NumPyro's distributions, and networks that score the states."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from scipy import stats

import chainrule as cr

E = cr.emissions
NAN = np.nan
FULL = np.array([[[1.0, 0.4], [0.4, 2.0]], [[0.7, -0.2], [-0.2, 0.5]]])
MEAN = np.array([[0.0, 1.0], [2.0, -1.0]])


# From outside


@pytest.mark.lenient
def test_a_numpyro_distribution_is_an_emission():
    import numpyro.distributions as dist

    x = np.array([0.5, NAN, 2.0, 3.0])
    normal = cr.HMM([0.5, 0.5], np.full((2, 2), 0.5), dist.Normal(np.float32([0, 2]), np.float32([1, 0.5])))
    assert repr(normal) == "HMM(2 states, Normal)"
    node = np.nan_to_num(stats.norm.logpdf(x[:, None], [0, 2], [1, 0.5]))
    wanted = oracles.forward_backward(np.log([0.5, 0.5]), np.log(np.full((2, 2), 0.5)), node)
    np.testing.assert_allclose(normal.log_prob(x), wanted.log_partition, rtol=1e-5)
    states, drawn = normal.sample(jax.random.key(0), 4_000)
    for k, (mean, scale) in enumerate([(0.0, 1.0), (2.0, 0.5)]):
        mine = np.asarray(drawn)[np.asarray(states) == k]
        assert abs(mine.mean() - mean) <= 5 * scale / np.sqrt(len(mine))
    root = np.linalg.cholesky(FULL).astype(np.float32)
    vectors = E.Custom(dist.MultivariateNormal(np.float32(MEAN), scale_tril=root))
    v = np.array([[0.3, 0.4], [NAN, 1.0]], np.float32)
    found = np.asarray(vectors.log_prob(v))
    wanted = [stats.multivariate_normal.logpdf(v[0], MEAN[k], FULL[k]) for k in range(2)]
    np.testing.assert_allclose(found[0], wanted, rtol=1e-5)
    np.testing.assert_allclose(found[1], [0, 0])  # a distribution from outside knows no part of a vector
    with pytest.raises(ValueError, match="give make and free"):
        normal.fit(x, method=cr.Adam(max_iterations=2))


def log_normals(free):
    import numpyro.distributions as dist

    return dist.LogNormal(free[0], jnp.exp(free[1]))


@pytest.mark.lenient
def test_a_custom_family_is_learned_by_gradient():
    rng = np.random.default_rng(4)
    x = rng.gamma(3.0, 0.5, size=16)
    x[3] = NAN  # zero, the usual stand-in, is outside the support
    hmm = cr.HMM(
        [0.5, 0.5], [[0.8, 0.2], [0.2, 0.8]], E.Custom(make=log_normals, free=(jnp.zeros(2), jnp.array([0.0, 1.0])))
    )
    node = np.stack([stats.lognorm.logpdf(x, np.exp(s)) for s in (0.0, 1.0)], axis=1)
    wanted = oracles.forward_backward(np.log([0.5, 0.5]), np.log([[0.8, 0.2], [0.2, 0.8]]), np.nan_to_num(node))
    assert float(hmm.log_prob(x)) == pytest.approx(wanted.log_partition, rel=1e-5)
    fit = hmm.fit(x, method=cr.Adam(max_iterations=30, tolerance=0))
    assert fit.log_prob > float(hmm.log_prob(x)) + 1
    assert fit.num_parameters == 1 + 2 + 4
    assert np.isfinite(fit.history).all()
    with pytest.raises(ValueError, match="no closed-form M-step: fit with Adam or LBFGS"):
        hmm.fit(x)


@pytest.mark.lenient
def test_nothing_but_missing_steps_under_a_custom_family():
    hmm = cr.HMM([0.5, 0.5], np.full((2, 2), 0.5), E.Custom(make=log_normals, free=(jnp.zeros(2), jnp.ones(2))))
    x = np.full(16, NAN)
    assert float(hmm.log_prob(x)) == pytest.approx(0, abs=1e-6)
    gradient = jax.jit(jax.grad(lambda m: m.log_prob(x)))(hmm)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


@pytest.mark.lenient
def test_an_observation_outside_the_support_is_named():
    hmm = cr.HMM([0.5, 0.5], np.full((2, 2), 0.5), E.Custom(make=log_normals, free=(jnp.ones(2), jnp.ones(2))))
    with pytest.raises(ValueError, match="sequence 0, step 1"):
        hmm.log_prob(np.array([1.0, -1.0]))


# A network's scores


def scored(network):
    return cr.HMM([0.5, 0.5], [[0.8, 0.2], [0.2, 0.8]], E.Score(network, 2, (3,)))


def test_a_network_scores_the_states():
    network = eqx.nn.MLP(3, 2, 4, 1, key=jax.random.key(0))
    x = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
    x[2, 1] = NAN
    hmm = scored(network)
    node = np.where(np.isnan(x).any(1, keepdims=True), 0, jax.jit(jax.vmap(network))(x))
    wanted = oracles.forward_backward(np.log([0.5, 0.5]), np.log([[0.8, 0.2], [0.2, 0.8]]), node)
    posterior = hmm.posterior(x)
    assert float(posterior.log_prob) == pytest.approx(wanted.log_partition, abs=1e-4)
    np.testing.assert_allclose(posterior.marginals, wanted.marginals, atol=1e-5)
    fit = hmm.fit(x, method=cr.Adam(max_iterations=5, tolerance=0))
    assert fit.log_prob > float(posterior.log_prob)
    with pytest.raises(ValueError, match="nothing to sample from"):
        hmm.sample(jax.random.key(0), 3)


def test_the_order_of_states_does_not_scramble_a_network():
    hmm = scored(eqx.nn.MLP(3, 2, 4, 1, key=jax.random.key(0)))
    with pytest.raises(ValueError, match="permute its outputs instead"):
        hmm.permute([1, 0])
