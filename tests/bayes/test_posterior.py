"""Posteriors over hidden Markov models, and hidden Markov models inside NumPyro programs."""

import equinox as eqx
import jax
import networkx as nx
import numpy as np
import numpyro
import numpyro.distributions as dist
import oracles
import pytest
from numpyro.infer.util import log_density
from scipy.stats import gamma, lognorm, poisson

import chainrule as cr

pytestmark = pytest.mark.lenient

COUNTS = np.random.default_rng(3).poisson(np.repeat([4.0, 20.0, 4.0, 20.0], 8))


def two_states():
    return cr.HMM([0.5, 0.5], [[0.9, 0.1], [0.2, 0.8]], cr.emissions.Poisson([5.0, 15.0]))


@pytest.fixture(scope="module")
def found():
    method = cr.bayes.NUTS(num_warmup=150, num_samples=150, num_chains=2)
    hmm = cr.HMM.random(jax.random.key(0), 2, cr.emissions.Poisson())
    return cr.bayes.posterior(hmm, COUNTS, method=method, key=jax.random.key(1))


def test_draws_are_models_with_aligned_states(found):
    assert found.num_draws == 300
    rates = np.sort(found.mean(lambda m: m.emission.rate))
    effective = min(found.diagnostics.effective_sample_size.values())
    # the posterior of a well separated rate is close to Gamma(sum, steps): compare within five standard errors
    truth = np.array([COUNTS[COUNTS < 11].mean(), COUNTS[COUNTS >= 11].mean()])
    spread = np.sqrt(truth / 16)
    assert np.all(abs(rates - truth) < 5 * spread / np.sqrt(effective) + 0.15 * spread)
    # one order in all draws: the smaller rate is always the same state
    order = np.argsort(np.asarray(found.models.emission.rate), axis=1)
    assert (order == order[0]).all()
    assert found.status is cr.bayes.Status.CONVERGED
    assert max(found.diagnostics.r_hat.values()) < 1.05


def test_draws_answer_queries_under_vmap(found):
    paths = np.asarray(jax.jit(jax.vmap(lambda m: m.viterbi(COUNTS).states))(found.models))
    assert paths.shape == (300, len(COUNTS))
    high = np.asarray(found.models.emission.rate).argmax(1)
    assert ((paths == high[:, None]) == (COUNTS >= 11)).mean() > 0.95  # the same steps by every draw
    lower, upper = found.interval(lambda m: m.emission.rate, 0.9)
    assert (lower < found.mean(lambda m: m.emission.rate)).all()
    assert (upper > lower).all()
    with pytest.raises(ValueError, match="between 0 and 1"):
        found.interval(lambda m: m.emission.rate, 1.5)
    assert "300 draws of HMM(2 states, Poisson" in repr(found)


def forward_only():
    """A model of two states without a way back, two sequences for it, and a prior for its rates."""
    graph = nx.DiGraph([("early", "early"), ("early", "late"), ("late", "late")])
    hmm = cr.HMM.from_graph(graph, cr.emissions.Poisson([4.0, 20.0]))
    return hmm, [COUNTS[:16], COUNTS[:10]], {"emission.rate": dist.LogNormal(np.log(np.float32([4, 20])), 0.5)}


class Listed(cr.bayes.AbstractMethod):
    """Draws that are known beforehand, with their log joint densities by the program."""

    samples: dict

    def draws(self, key, program, *args, progress=False):
        density = jax.jit(jax.vmap(lambda sample: log_density(program, args, {}, sample)[0]))
        return cr.bayes.Draws(self.samples, density(self.samples), cr.bayes.Diagnostics(), num_chains=0, iterations=2)


def test_structural_zeros_and_given_priors():
    hmm, data, priors = forward_only()
    rates, begin, stay = np.float32([[4, 20], [6, 15]]), np.float32([0.9, 0.6]), np.float32([0.7, 0.9])
    rows = {"initial": begin, "transition[0]": stay}  # the only ones with a choice; uniform, of density one
    samples = {name: np.stack([p, 1 - p], axis=1) for name, p in rows.items()} | {"emission.rate": rates}
    found = cr.bayes.posterior(hmm, data, priors=priors, method=Listed(samples), key=jax.random.key(0))
    wanted = [[[p, 1 - p], [0, 1]] for p in stay]
    np.testing.assert_allclose(found.models.transition, wanted, rtol=1e-6)
    for n in range(2):
        with np.errstate(divide="ignore"):
            chain = np.log([begin[n], 1 - begin[n]]), np.log(wanted[n])
        scores = [poisson.logpmf(x[:, None], rates[n]) for x in data]
        likelihood = sum(oracles.forward_backward(*chain, node).log_partition for node in scores)
        prior = lognorm.logpdf(rates[n], 0.5, scale=[4, 20]).sum()
        np.testing.assert_allclose(found.draws.history[n], likelihood + prior, rtol=1e-5)


# the density of this program is checked above, and SVI on the line of test_network.py
@pytest.mark.slow
def test_variational_draws_keep_structural_zeros():
    hmm, data, priors = forward_only()
    method = cr.bayes.SVI(steps=500, learning_rate=0.05, num_samples=200)
    found = cr.bayes.posterior(hmm, data, priors=priors, method=method, key=jax.random.key(0))
    transition = np.asarray(found.models.transition)
    assert (transition[:, 1, 0] == 0).all()
    assert (transition[:, 1, 1] == 1).all()
    np.testing.assert_allclose(transition.sum(-1), 1.0, atol=1e-5)
    assert abs(found.mean(lambda m: m.emission.rate) - [4, 20]).max() < 3


def test_unknown_prior_and_missing_default():
    with pytest.raises(ValueError, match=r"emission\.rat.*emission\.rate"):
        cr.bayes.posterior(two_states(), COUNTS, priors={"emission.rat": dist.Gamma(1.0, 1.0)}, key=jax.random.key(0))
    network = eqx.nn.Linear("scalar", 2, key=jax.random.key(0))
    scored = cr.HMM([0.5, 0.5], np.eye(2) * 0.8 + 0.1, cr.emissions.Score(network, 2))
    with pytest.raises(ValueError, match="no default prior"):
        cr.bayes.posterior(scored, np.zeros(5), key=jax.random.key(0))


def test_distribution_is_the_marginal_likelihood():
    hmm = two_states()
    one = cr.bayes.as_distribution(hmm, 7)
    x = np.asarray(one.sample(jax.random.key(0), (4,)))
    assert x.shape == (4, 7)
    lengths = np.array([7, 3, 1, 5])  # without them, see the density below
    chain = np.log(np.asarray(hmm.initial, float)), np.log(np.asarray(hmm.transition, float))
    scores = [poisson.logpmf(row[:n, None], [5, 15]) for row, n in zip(x, lengths, strict=True)]
    expected = [oracles.forward_backward(*chain, node).log_partition for node in scores]
    np.testing.assert_allclose(cr.bayes.as_distribution(hmm, 7, lengths=lengths).log_prob(x), expected, rtol=1e-5)
    with pytest.raises(ValueError, match="without parameters"):
        cr.bayes.as_distribution(cr.HMM.random(jax.random.key(0), 2, cr.emissions.Poisson()), 3)
    for lengths, what in (
        ([3, 9], r"lengths\[1\] is 9"),
        ([0], r"lengths\[0\] is 0"),
        ([2.5], "one whole number for each"),
    ):
        with pytest.raises(ValueError, match=what):
            cr.bayes.as_distribution(hmm, 7, lengths=np.array(lengths))


def test_inside_a_program_density_and_gradient():
    shape = np.float32([4, 20])

    def program():
        rate = numpyro.sample("rate", dist.Gamma(shape, 1.0).to_event(1))
        hmm = eqx.tree_at(lambda m: m.emission.rate, two_states(), rate)
        numpyro.sample("x", cr.bayes.as_distribution(hmm, len(COUNTS)), obs=COUNTS)

    def density(rate):
        return log_density(program, (), {}, {"rate": rate})[0]

    rate = np.float32([5, 18])
    value, slope = jax.jit(jax.value_and_grad(density))(rate)
    posterior = eqx.tree_at(lambda m: m.emission.rate, two_states(), rate).posterior(COUNTS)
    np.testing.assert_allclose(value, posterior.log_prob + gamma.logpdf(rate, shape).sum(), rtol=1e-5)
    weights = posterior.marginals
    expected = weights.T @ COUNTS / rate - weights.sum(0) + (shape - 1) / rate - 1
    np.testing.assert_allclose(slope, expected, rtol=1e-4)
