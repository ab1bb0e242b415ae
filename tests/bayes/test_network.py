"""Bayesian neural networks against posteriors known in closed form, and the errors that guard them."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from numpyro.infer.autoguide import AutoMultivariateNormal

from chainrule import bayes
from chainrule.bayes.methods import mixing

pytestmark = pytest.mark.lenient

KEY = jax.random.key(0)


def unit_noise(outputs):
    return dist.Normal(outputs, 1.0)


TRACES = []


def through_zero(weights, x):
    TRACES.append(None)
    return x * weights["slope"]


def line(scale=1.0):
    """y = w x + e with w, e ~ N(0, 1): conjugate, so w | data ~ N(11/15, 1/15)."""
    return bayes.BNN({"slope": np.float32(0)}, dist.Normal(0.0, scale), unit_noise, apply=through_zero)


X, Y = np.float32([1, 2, 3]), np.float32([1, 2, 2])
NUTS, SVI = bayes.NUTS(num_warmup=200, num_samples=500), bayes.SVI(steps=4000, num_samples=1000)


def check_line(fit, effective):
    weights = np.asarray(fit.samples["slope"])
    sd = np.sqrt(1 / 15)
    assert abs(weights.mean() - 11 / 15) < 4 * sd / np.sqrt(effective)
    assert abs(weights.var() * 15 - 1) < 4 * np.sqrt(2 / effective)
    predictive = fit.predict(np.float32([2, 0, 0]))
    assert abs(float(predictive.mean[0]) - 1.466667) < 4 * 2 * sd / np.sqrt(effective)
    assert abs(float(predictive.variance[0]) - 1.266667) < 4 * 4 / 15 * np.sqrt(2 / effective)
    # the log-density at y = 2 moves by at most about half the relative error of the predictive variance
    assert abs(float(predictive.log_prob(np.float32([2, 0, 0]))[0]) + 1.149414) < 4 * 0.5 / np.sqrt(effective)


def test_nuts_finds_the_conjugate_posterior():
    fit = line().fit(X, Y, method=NUTS, key=KEY)
    assert fit.status is bayes.Status.CONVERGED
    assert fit.samples["slope"].shape == (1000,)
    check_line(fit, fit.diagnostics.effective_sample_size["outputs"])
    # log joint density of each draw, in closed form
    w = np.asarray(fit.samples["slope"])[:, None]
    residuals = np.concatenate([w, Y - w * X], axis=1)
    expected = -0.5 * (residuals**2).sum(axis=1) - 2 * np.log(2 * np.pi)
    np.testing.assert_allclose(fit.history, expected, atol=1e-4)


@pytest.mark.parametrize(
    "guide",
    # the network below is fitted by this guide; two more programs say the same of a line
    [None, pytest.param(AutoMultivariateNormal, marks=pytest.mark.slow)],
)
def test_svi_finds_the_conjugate_posterior(guide):
    method = SVI if guide is None else bayes.SVI(steps=4000, num_samples=1000, guide=guide)
    fit = line().fit(X, Y, method=method, key=KEY)
    assert fit.status is bayes.Status.CONVERGED
    # the guide's own error after 4000 noisy steps is worth that of a few hundred draws
    check_line(fit, 300)
    # where the guide equals the posterior the ELBO is the log evidence
    assert abs(np.asarray(fit.history)[-1000:].mean() + 4.577507) < 0.02


def test_unfinished_optimisation_says_so():
    svi = line().fit(X, 20 * Y, method=bayes.SVI(steps=4000, num_samples=1000, learning_rate=1e-3), key=KEY)
    assert svi.status is bayes.Status.STILL_IMPROVING
    assert not svi.diagnostics.r_hat


@pytest.mark.parametrize("method", [NUTS, SVI])
def test_equal_shapes_compile_once_and_a_bar_changes_nothing(method, capsys):
    def fit(slope, key, **options):
        found = line(1 + slope).fit(X + slope, X + slope, key=jax.random.key(key), **options)
        found.predict(X - slope)
        return found

    first = fit(0.0, 1, method=method)
    once = len(TRACES)
    fit(0.5, 2, method=eqx.tree_at(lambda m: jax.tree.leaves(m)[0], method, 0.5))
    # the shapes of x and y are checked anew for every fit, by one abstract evaluation
    assert len(TRACES) == once + 1
    again = fit(0.0, 1, method=method, progress=True)
    assert len(TRACES) == once + 2
    np.testing.assert_array_equal(again.samples["slope"], first.samples["slope"])
    assert "100%" in capsys.readouterr().err


@pytest.fixture(scope="module")
def curve():
    """An odd network for an odd curve: without biases there is half as much to compile."""
    x = np.linspace(-1, 1, 12, dtype=np.float32)[:, None]
    y = np.float32(np.sin(2 * x) + 0.1 * np.random.default_rng(3).normal(size=x.shape))
    module = eqx.nn.MLP(1, 1, 4, 1, activation=jnp.tanh, use_bias=False, use_final_bias=False, key=KEY)
    network = bayes.BNN(module, likelihood=bayes.Normal(dist.Gamma(20.0, 1.0)))
    method = bayes.SVI(steps=4000, num_samples=400, guide=AutoMultivariateNormal)
    return x, y, network, network.fit(x, y, method=method, key=KEY)


def test_an_equinox_mlp_and_its_noise(curve):
    x, y, _, fit = curve
    mean = np.asarray(fit.predict(x).mean)
    assert np.sqrt(((mean - y) ** 2).mean()) < 0.25
    # 20 a priori, and the curve is within 0.1 of y: more precise than that, and not without end
    precision = np.asarray(fit.samples["noise_precision"])
    assert precision.shape == (400,)
    assert 15 < precision.mean() < 40
    outputs = np.asarray(jax.jit(jax.vmap(lambda module: jax.vmap(module)(x)))(fit.models))
    assert outputs.shape == (400, 12, 1)
    np.testing.assert_allclose(outputs.mean(axis=0), mean, atol=1e-5)


# NUTS and SVI are each checked against a closed form above, so that this long comparison need not run every time
@pytest.mark.slow
def test_both_methods_agree_on_an_equinox_mlp(curve):
    x, y, network, svi = curve
    nuts = network.fit(x, y, method=bayes.NUTS(num_warmup=200, num_samples=200, max_tree_depth=6), key=KEY)
    by_nuts, by_svi = nuts.predict(x), svi.predict(x)
    assert set(nuts.diagnostics.r_hat) == {"outputs", "noise_precision"}
    assert nuts.diagnostics.r_hat["outputs"] < 1.1
    # a normal guide is an approximation: agreement within half a predictive standard deviation is what it owes
    mean, std = np.asarray(by_nuts.mean), np.asarray(by_nuts.std)
    assert np.abs(mean - by_svi.mean).max() < 0.5 * std.min()
    assert np.sqrt(((mean - y) ** 2).mean()) < 0.25
    np.testing.assert_allclose(std, by_svi.std, rtol=0.5)


def test_classes_and_fixed_arrays():
    x = np.random.default_rng(0).normal(size=(30, 2)).astype(np.float32)
    y = (x[:, 0] > 0).astype(np.int32)
    module = eqx.nn.Linear(2, 3, key=KEY)
    network = bayes.BNN(module, {"*": dist.Normal(0.0, 2.0), "bias": None}, bayes.Categorical())
    fit = network.fit(x, y, method=bayes.SVI(steps=1000, num_samples=200), key=KEY)
    predictive = fit.predict(x)
    assert set(fit.samples) == {"weight"}
    np.testing.assert_array_equal(fit.models.bias, np.broadcast_to(module.bias, (200, 3)))
    assert predictive.probs.shape == (30, 3)
    assert float(predictive.nll(y)) < 0.5 * np.log(3)
    with pytest.raises(ValueError, match="support"):
        network.fit(x, y + 2, key=KEY)


def test_priors_match_leaves_both_ways():
    module = eqx.nn.MLP(1, 1, 4, 1, key=KEY)
    normal = dist.Normal(0.0, 1.0)
    with pytest.raises(
        ValueError, match=r"'layers\[0\].weigth' decides no leaf; nearest: 'layers\[0\].weight'"
    ) as error:
        bayes.BNN(module, {"layers[0].weigth": normal, "layers[1].*": normal, "layers[0].bias": normal})
    assert "leaf 'layers[0].weight' has no prior" in str(error.value)
    with pytest.raises(ValueError, match=r"'weight' decides no leaf; nearest: 'layers\[0\].weight'"):
        bayes.BNN(module, {"weight": normal, "*": normal})
    # a pattern that others leave nothing to decide is as silent as a misspelt one
    with pytest.raises(ValueError, match=r"'\*.bias' decides no leaf"):
        bayes.BNN(module, {"*": normal, "*.bias": normal})

    network = bayes.BNN(
        module, {"*.bias": dist.Laplace(0.0, 1.0), "*": normal, "layers[1].bias": dist.Normal(3.0, 1.0)}
    )
    assert {path: prior.event_shape for path, prior in network.priors.items()} == {
        "layers[0].weight": (4, 1),
        "layers[0].bias": (4,),
        "layers[1].weight": (1, 4),
        "layers[1].bias": (1,),
    }
    assert np.asarray(network.priors["layers[1].bias"].mean).tolist() == [3.0]
    by_function = bayes.BNN(module, lambda path, shape: dist.Normal(0.0, 2.0) if "weight" in path else None)
    assert set(by_function.priors) == {"layers[0].weight", "layers[1].weight"}
    default = bayes.BNN(eqx.nn.Linear(2, 3, key=KEY)).priors
    np.testing.assert_allclose(default["weight"].variance, np.full((3, 2), 0.5))
    np.testing.assert_allclose(default["bias"].variance, np.ones(3))


@pytest.mark.parametrize(
    ("prior", "message"),
    [
        (dist.Poisson(1.0), "discrete"),
        (dist.Normal(np.zeros(3), 1.0), "does not fit the leaf's shape"),
        (lambda path, shape: 1.0, "a NumPyro distribution is wanted"),
        (bayes.Normal(), "mapping or f"),
        ({"*": None}, "nothing to infer"),
        ({0: dist.Normal(0.0, 1.0)}, "paths or patterns"),
    ],
)
def test_impossible_priors(prior, message):
    with pytest.raises(ValueError, match=message):
        bayes.BNN(eqx.nn.Linear(2, 3, key=KEY), prior)


def test_randomness_and_state_are_refused():
    net = eqx.nn.Sequential([eqx.nn.Linear(2, 3, key=KEY), eqx.nn.Dropout(0.5)])
    with pytest.raises(ValueError, match=r"layers\[1\] \(Dropout\).*inference_mode"):
        bayes.BNN(net)
    assert set(bayes.BNN(eqx.nn.inference_mode(net)).priors) == {"layers[0].weight", "layers[0].bias"}
    norm, _ = eqx.nn.make_with_state(eqx.nn.BatchNorm)(2, axis_name="batch", mode="batch")
    with pytest.raises(ValueError, match="BatchNorm"):
        bayes.BNN(norm)
    attention = eqx.nn.MultiheadAttention(1, 2, key=KEY)  # holds a Dropout of rate zero, which is harmless
    assert bayes.BNN(attention, apply=lambda module, x: module(x, x, x)).priors


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.zeros((3, 2)), np.zeros((2, 3)), "same number of rows"),
        (np.zeros((0, 2)), np.zeros((0, 3)), "at least one"),
        (np.full((3, 2), np.nan), np.zeros((3, 3)), r"x\[0, 0\] is NaN"),
        (np.zeros((3, 2)), np.array([[0.0], [np.inf], [0.0]]), r"y\[1, 0\] is NaN or infinite"),
        (np.zeros((3, 2)), np.zeros(3), r"y has shape \(3,\); outputs of shape \(3, 3\)"),
        (np.zeros((3, 1)), np.zeros((3, 3)), "cannot be applied to a row of x"),
    ],
)
def test_data_that_does_not_fit(x, y, message):
    with pytest.raises(ValueError, match=message):
        bayes.BNN(eqx.nn.Linear(2, 3, key=KEY)).fit(x, y, key=KEY)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: bayes.NUTS(num_samples=0), "num_samples is 0"),
        (lambda: bayes.NUTS(target_accept=1.5), "target_accept"),
        (lambda: bayes.SVI(learning_rate=-1.0), "learning_rate"),
        (lambda: bayes.SVI(steps=2.5), "steps is 2.5"),
        (lambda: bayes.Normal(dist.Normal(0.0, 1.0)), "positive"),
        (lambda: bayes.BNN({"w": np.zeros(2)}), "apply=f"),
        (lambda: bayes.BNN(eqx.nn.Linear(2, 3, key=KEY), likelihood=bayes.Normal), "likelihood is"),
    ],
)
def test_impossible_settings(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("method", [SVI, NUTS])
def test_an_impossible_model_fails_without_raising(method):
    """No weight makes data possible whose square is more than a float32 can hold."""
    assert line().fit(X, np.full_like(Y, 1e30), method=method, key=KEY).status is bayes.Status.FAILED


def test_status_names_the_most_serious_objection():
    good = {"r_hat": {"f": 1.0}, "effective_sample_size": {"f": 500.0}}
    assert bayes.Diagnostics(**good).status is bayes.Status.CONVERGED
    assert bayes.Diagnostics(**good, depth_limit_share=0.9).status is bayes.Status.DEPTH_LIMIT
    assert bayes.Diagnostics(**good, divergences=1).status is bayes.Status.DIVERGENCES
    assert bayes.Diagnostics(**good, divergences=1, finite=False).status is bayes.Status.FAILED
    assert bayes.Diagnostics(improvement=1.0, improvement_error=0.1).status is bayes.Status.STILL_IMPROVING
    assert bayes.Diagnostics(improvement=1.0, improvement_error=0.5).status is bayes.Status.CONVERGED
    for bad in ({"r_hat": {"f": 1.2}}, {"r_hat": {"f": np.nan}}, {"effective_sample_size": {"f": 50.0}}):
        assert bayes.Diagnostics(**{**good, **bad}).status is bayes.Status.NOT_CONVERGED


def test_mixing_sees_chains_that_disagree():
    agree = np.random.default_rng(0).normal(size=(4, 200))
    apart = agree + np.arange(4)[:, None]
    stuck = np.repeat(np.arange(4.0), 200)
    r_hat, effective = mixing(
        {"agree": agree.reshape(-1), "apart": apart.reshape(-1), "stuck": stuck, "constant": np.ones(800)}, 4
    )
    assert r_hat["agree"] < 1.02
    assert effective["agree"] > 500
    assert r_hat["apart"] > 1.4
    assert r_hat["stuck"] == np.inf
    assert "constant" not in r_hat
    assert np.isnan(mixing({"short": np.arange(6.0)}, 2)[0]["short"])
