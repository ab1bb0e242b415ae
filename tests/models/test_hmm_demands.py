"""What users do that nobody planned for: each of these once gave a wrong answer or somebody else's error."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import scipy.stats

import chainrule as cr

E = cr.emissions
STAY = np.array([[0.9, 0.1], [0.2, 0.8]])
X = np.array([1, 2, 3, 22, 25, 2, 3] * 4)


def two(rates=(3.0, 20.0), **kwargs):
    return cr.HMM([0.5, 0.5], STAY, E.Poisson(rates), **kwargs)


def test_restarts_keep_what_is_frozen():
    method = cr.EM(max_iterations=3)
    fit = two().fit(X, key=jax.random.key(3), restarts=4, method=method, frozen=lambda m: m.transition)
    np.testing.assert_allclose(fit.model.transition, STAY, rtol=1e-6)


def test_known_states_in_traced_data_of_any_length():
    hmm = two(states=("lo", "hi"))
    known = ["lo"] + [None] * 16
    x = np.arange(17)
    traced = jax.jit(lambda y: hmm.log_prob(y, known=known))(x)
    assert float(traced) == pytest.approx(float(hmm.log_prob(x, known=known)), rel=1e-5)
    with pytest.raises(ValueError, match="one list of states per sequence"):
        hmm.log_prob([x], known=known)


def test_one_column_is_not_many_sequences():
    with pytest.raises(ValueError, match=r"one column: pass x\[:, 0\]"):
        two().log_prob(X[:, None])


@pytest.mark.parametrize("rate", [0.5, 9.0, 50.0, 2e3, 1e5])
def test_poisson_counts_of_any_size(rate):
    x = np.array([0, 1, 9, 10, 11, int(rate), int(rate + 3 * rate**0.5)])
    found = np.asarray(E.Poisson([rate]).log_prob(x))
    np.testing.assert_allclose(found[:, 0], scipy.stats.poisson.logpmf(x, rate), rtol=3e-6, atol=2e-4)


def test_integers_that_32_bits_cannot_hold():
    assert float(two().log_prob(np.array([2, 2**32 + 5, 3]))) < -1e9
    with pytest.raises(ValueError, match="not a count"):
        two().log_prob([1.0, np.inf])


def test_masked_arrays_are_missing_data():
    masked = np.ma.masked_array([1.0, 2.0, 3.0], mask=[0, 1, 0])
    assert float(two().log_prob(masked)) == pytest.approx(float(two().log_prob([1.0, np.nan, 3.0])), rel=1e-6)
    holes = np.c_[np.arange(9.0), np.full(9, np.nan)]
    with pytest.raises(ValueError, match="feature 1 is missing everywhere"):
        cr.HMM.random(jax.random.key(0), 2, E.Normal()).fit(holes, key=jax.random.key(0))


def test_only_zeros_are_seen(capsys):
    fit = cr.HMM([1.0], [[1.0]], E.Poisson([15.0])).fit([0, 0, 0, 0, 0], progress=True)
    assert f" {fit.iterations + 1}/500 " in capsys.readouterr().err  # the last turn finds that nothing is gained
    assert 0 < np.asarray(fit.model.emission.rate)[0] < 1e-30
    assert fit.log_prob == pytest.approx(0.0, abs=1e-4)


def test_what_was_possible_stays_possible():
    flat = cr.HMM([0.5, 0.5], STAY, E.Categorical([[0.4, 0.3, 0.3], [0.3, 0.4, 0.3]]))
    model = flat.fit([0, 1, 0, 1, 1, 0] * 3, method=cr.EM(max_iterations=5)).model
    assert np.isfinite(model.log_prob([0, 1, 2, 0]))


def test_states_that_differ_in_spread_alone_align():
    hmm = cr.HMM([0.5, 0.5], STAY, E.Normal([0.0, 0.0], [1.0, 9.0]))
    np.testing.assert_allclose(hmm.permute([1, 0]).align(hmm).emission.variance, [1.0, 9.0])


@pytest.mark.lenient
@pytest.mark.parametrize("method", [cr.EM(max_iterations=5), cr.Adam(max_iterations=5)], ids=["em", "adam"])
def test_transitions_under_somebody_elses_distribution(method):
    import numpyro.distributions as dist

    hmm = cr.HMM([0.5, 0.5], np.full((2, 2), 0.5), dist.Poisson(np.float32([3, 20])))
    fit = hmm.fit(X, method=method, frozen=lambda m: m.emission)
    assert repr(fit.model) == "HMM(2 states, Poisson)"
    np.testing.assert_array_equal(jax.tree.leaves(fit.model.emission), jax.tree.leaves(hmm.emission))
    assert fit.log_prob > fit.history[0] == pytest.approx(float(hmm.log_prob(X)), rel=1e-5)
    assert fit.num_parameters == 3


class Plain:
    """A distribution of which JAX knows nothing."""

    batch_shape, event_shape = (2,), ()

    def __init__(self):
        self.mean = np.float32([0, 3])

    def log_prob(self, x):
        return -0.5 * (x - self.mean) ** 2 - 0.5 * np.log(2 * np.pi)

    def sample(self, key, shape):
        return jnp.broadcast_to(self.mean, (*shape, 2)) + jax.random.normal(key, (*shape, 2))


def test_an_object_of_any_class_is_an_emission():
    hmm, x = cr.HMM([0.5, 0.5], STAY, Plain()), [0.0, 3.0, np.nan, 2.5]
    node = np.nan_to_num(scipy.stats.norm.logpdf(np.array(x)[:, None], [0, 3]))
    wanted, posterior = oracles.forward_backward(np.log([0.5, 0.5]), np.log(STAY), node), hmm.posterior(x)
    np.testing.assert_allclose(posterior.marginals, wanted.marginals, rtol=1e-5)
    assert hmm.sample(jax.random.key(0), 5)[1].shape == (5,)
    fit = hmm.fit(x, frozen=lambda m: m.emission, method=cr.EM(max_iterations=2))
    assert fit.log_prob >= float(posterior.log_prob)

    class Mutable(Plain):
        __hash__ = None  # as where a class defines __eq__ alone

    with pytest.raises(ValueError, match="Mutable is neither a pytree of arrays nor hashable"):
        cr.HMM([0.5, 0.5], STAY, Mutable())


@pytest.mark.parametrize("method", [cr.LBFGS(max_iterations=3), cr.EM(max_iterations=3)], ids=["lbfgs", "em"])
def test_float32_models_fit_while_float64_is_on(method):
    hmm = two()
    with jax.enable_x64(True):
        fit = hmm.fit(X, method=method, prior=cr.HMMPrior(stickiness=1.0, emission=E.Gamma(2.0, 0.1)))
    assert fit.model.transition.dtype == jnp.float32
    assert np.isfinite(fit.log_prob)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "em"}, "give EM"),
        ({"method": cr.EM}, "give EM"),
        ({"prior": E.Gamma(1.0, 1.0)}, "give an HMMPrior"),
        ({"prior": cr.HMMPrior(transition=np.ones((3, 3)))}, r"wanted a number or shape \(2, 2\)"),
        ({"frozen": "emission"}, "give a function that picks parts"),
    ],
)
def test_arguments_of_fit(arguments, message):
    with pytest.raises(ValueError, match=message):
        two().fit(X, **arguments)


def test_other_bad_arguments():
    with pytest.raises(ValueError, match=r"such as Poisson\(\)"):
        cr.HMM.random(jax.random.key(0), 2, E.Poisson)
    key, numbers = jax.random.key(0), "wanted a whole number"
    for ask, message in (
        (lambda: two().k_best(X, 2.5), "k is 2.5; " + numbers),
        (lambda: two().sample(key, 3, 0), "num_samples is 0; ask for at least one"),
        (lambda: two().sample(key, 2.5), "length is 2.5; " + numbers),
        (lambda: two().sample_posterior(key, X, 0), "num_samples is 0"),
        (lambda: two().factor_graph(X, length=7), "give a sequence, or a length for the prior alone"),
        (lambda: two().factor_graph(length=0), "length is 0; a sequence has at least one step"),
        (lambda: two().fit(X, restarts=1.5, key=key), "restarts is 1.5; " + numbers),
        (lambda: two().fit(X, restarts=2, key=0), r"fit: key is 0; give a random key, such as jax.random.key\(0\)"),
        (lambda: cr.HMM.random(key, 2.5, E.Poisson()), "num_states is 2.5; " + numbers),
        (lambda: cr.HMM.random(0, 2, E.Poisson()), "HMM.random: key is 0"),
        (lambda: two(states=(["a"], ["b"])), r"\['a'\] cannot be a name: it is not hashable"),
        (lambda: cr.EM(tolerance=np.nan), "EM: tolerance is nan"),
        (lambda: cr.EM(max_iterations=2.5), "EM: max_iterations is 2.5; " + numbers),
        (lambda: cr.Adam(tolerance=np.nan), "Adam: tolerance is nan"),
        (lambda: cr.FactorGraph({"a": 2}, {"f": (("a",), ["x", "y"])}), r"factor 'f' has \['x', 'y'\] for a table"),
        (lambda: cr.FactorGraph({"a": 2, "b": 2}, {"f": (("a", "b"), [[1, 2], [3]])}), "factor 'f' has .* for a table"),
        (lambda: cr.MarkovChain.random(key, 1.5), "num_states is 1.5; " + numbers),
        (lambda: cr.MarkovChain.random(key, 2).sample(key, 3, -1), "num_samples is -1"),
    ):
        with pytest.raises(ValueError, match=message):
            ask()


def test_mixtures_can_be_reordered_under_vmap():
    bumps = E.Mixture(E.Poisson([1.0, 2.0, 10.0, 20.0]), np.full((2, 2), 0.5))
    batch = jax.tree.map(lambda leaf: np.stack([leaf, leaf]), bumps)
    found = jax.jit(jax.vmap(lambda e, order: e.permute(order)))(batch, np.array([[0, 1], [1, 0]]))
    np.testing.assert_allclose(found.component.rate, [[1, 2, 10, 20], [10, 20, 1, 2]])
    again = jax.jit(lambda e: e.permute([1, 0]).permute([1, 0]))(bumps)
    np.testing.assert_array_equal(again.component.rate, bumps.component.rate)


LARGE = """
import resource, sys
import numpy as np
import chainrule as cr

steps, states = map(int, sys.argv[1:])
rng = np.random.default_rng(0)
transition = rng.dirichlet(np.ones(states), states).astype(np.float32)
hmm = cr.HMM(np.full(states, 1 / states), transition, cr.emissions.Poisson(np.linspace(1, 50, states)))
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
x, before = rng.poisson(20, steps), peak()
for answer in (hmm.posterior(x).marginals, hmm.viterbi(x).states, hmm.filter(x).states):
    assert np.isfinite(answer).all()
print((peak() - before) / (4 * steps * states))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("steps", "states", "arrays"), [(1_000_000, 5, 30), (2000, 1000, 60)])
def test_large_models_take_memory_of_time_times_states(steps, states, arrays):
    """Peak memory in arrays (time, state) of float32, the compiler's own included: pairs would be a thousand of them."""
    command = [sys.executable, "-c", LARGE, str(steps), str(states)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    assert float(done.stdout) < arrays
