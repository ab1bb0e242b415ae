"""Fitting by gradient ends where EM ends."""

import jax
import numpy as np
import oracles
import pytest
import scipy.stats
import zoo
from jax.flatten_util import ravel_pytree

import chainrule as cr
from chainrule.learning import gradient
from chainrule.models.hmm import HMMPrior

E = cr.emissions
X = zoo.EARTHQUAKES
ADAM = cr.Adam(max_iterations=600, learning_rate=0.05, tolerance=1e-6)
LBFGS = cr.LBFGS(max_iterations=150)


def quakes(num_states):
    rates = np.quantile(X, (np.arange(num_states) + 0.5) / num_states)
    transition = np.full((num_states, num_states), 0.2 / (num_states - 1))
    np.fill_diagonal(transition, 0.8)
    return cr.HMM(np.full(num_states, 1 / num_states), transition, E.Poisson(rates))


@pytest.mark.parametrize(
    ("method", "num_states", "value", "rates"),
    [
        (ADAM, 2, 341.8787, [15.421, 26.018]),
        (LBFGS, 3, 328.5275, [13.134, 19.713, 29.710]),
    ],
    ids=["adam 2", "lbfgs 3"],
)
def test_earthquakes_as_published(method, num_states, value, rates):
    fit = quakes(num_states).fit(X, method=method)
    # the start is almost surely in one state: its logit runs off to infinity, and the likelihood creeps after it
    assert -fit.log_prob == pytest.approx(value, abs=5e-3)
    np.testing.assert_allclose(np.sort(fit.model.emission.rate), rates, atol=1.5e-2)
    assert fit.status in (cr.Status.CONVERGED, cr.Status.MAX_ITERATIONS)
    assert fit.num_parameters == num_states - 1 + num_states * (num_states - 1) + num_states
    assert fit.history[-1] > fit.history[0]
    assert len(fit.history) <= method.max_iterations + 1


def test_a_second_fit_compiles_nothing():
    quakes(2).fit(X, method=ADAM)
    before = gradient._descend._cache_size()
    slower = quakes(2).fit(X[::-1].copy(), method=cr.Adam(max_iterations=590, learning_rate=0.01, tolerance=1e-4))
    assert gradient._descend._cache_size() == before
    assert slower.status is cr.Status.CONVERGED
    assert slower.iterations < 590


def test_adam_with_a_prior_zeros_holes_and_frozen_parts():
    model = cr.HMM([1.0, 0.0], [[0.9, 0.1], [0.0, 1.0]], E.Poisson([10.0, 20.0]))
    x = np.where(np.arange(107) % 10 == 3, np.nan, X)
    prior = HMMPrior(transition=2.0, emission=E.Gamma(4.0, 0.5))
    fit = model.fit(
        [x[:60], x[60:]], method=cr.Adam(max_iterations=40, tolerance=0), prior=prior, frozen=lambda m: m.initial
    )
    np.testing.assert_array_equal(fit.model.initial, model.initial)
    assert fit.model.transition[1, 0] == 0
    assert fit.model.transition[1, 1] == 1
    assert not np.array_equal(fit.model.emission.rate, model.emission.rate)
    assert fit.history[-1] > fit.history[0]
    rate, step = (np.asarray(a, float) for a in (fit.model.emission.rate, fit.model.transition))
    log_prior = np.log(step[0]).sum() + (3 * np.log(rate) - 0.5 * rate).sum()
    assert fit.restart_objectives[0] == pytest.approx(fit.log_prob + log_prior, rel=1e-5)
    assert fit.num_parameters == 1 + 2


@pytest.fixture(scope="module")
def round_trips():
    """Each model and what is left of it on the way to its free parameters and back, in one program."""
    models = {example.name: example.make() for example in zoo.HMMS}
    back = jax.jit(lambda models: [model.constrained(model.unconstrained()) for model in models])(list(models.values()))
    return {name: (model, again) for (name, model), again in zip(models.items(), back, strict=True)}


@pytest.mark.parametrize("name", [example.name for example in zoo.HMMS])
def test_free_parameters_and_back(round_trips, name):
    model, back = round_trips[name]
    assert jax.tree.structure(back) == jax.tree.structure(model)
    for leaf, other in zip(jax.tree.leaves(back), jax.tree.leaves(model), strict=True):
        np.testing.assert_allclose(leaf, other, rtol=2e-5, atol=1e-6)


def test_the_gradient_of_the_total_is_that_of_finite_differences():
    model, data = quakes(2), cr.Sequences.pack([X[:60], X[60:]])
    free, back = ravel_pytree(model.unconstrained())
    both = jax.jit(jax.value_and_grad(lambda f: model.constrained(back(f)).total(data)))
    free = np.asarray(free)
    slope = np.asarray(both(free)[1])
    for i, step in enumerate(0.02 * np.eye(free.size, dtype=np.float32)):
        numeric = (float(both(free + step)[0]) - float(both(free - step)[0])) / 0.04
        assert slope[i] == pytest.approx(numeric, abs=0.05, rel=0.02)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: cr.Adam(max_iterations=0), "Adam: max_iterations is 0"),
        (lambda: cr.Adam(learning_rate=0.0), r"Adam: learning_rate is 0\.0"),
        (lambda: cr.LBFGS(max_iterations=0), "LBFGS: max_iterations is 0"),
        (lambda: cr.LBFGS(period=0), "LBFGS: period is 0; at least one"),
        (lambda: cr.LBFGS(memory=0), "LBFGS: memory is 0; at least one"),
        (lambda: cr.LBFGS(l1=-1.0), r"LBFGS: l1 is -1\.0; a penalty is a number from 0 on"),
        (lambda: cr.LBFGS(l2=float("nan")), "LBFGS: l2 is nan"),
    ],
)
def test_methods_that_cannot_be(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_a_wild_step_is_reported_as_divergence():
    wild = quakes(2).fit(X, method=cr.Adam(max_iterations=590, learning_rate=1e4))
    assert wild.status is cr.Status.DIVERGED


def test_degenerate_has_an_entry_for_each_state():
    assert quakes(2).fit(X, method=ADAM).degenerate.shape == (2,)


def test_lbfgs_tells_every_step_up_to_the_last():
    short = quakes(3).fit(X, method=cr.LBFGS(max_iterations=7, tolerance=-1.0))
    assert short.status is cr.Status.MAX_ITERATIONS
    assert len(short.history) == short.iterations + 1 == 8
    assert short.history[0] == pytest.approx(float(quakes(3).log_prob(X)), rel=1e-6)
    assert short.history[-1] == short.log_prob == pytest.approx(float(short.model.log_prob(X)), rel=1e-6)
    assert (np.diff(short.history) > 0).all()


def test_lbfgs_runs_side_by_side_with_a_prior_and_frozen_parts():
    prior = HMMPrior(transition=2.0)
    fit = quakes(2).fit(
        X, method=cr.LBFGS(), prior=prior, restarts=3, key=jax.random.key(0), frozen=lambda m: m.initial
    )
    assert fit.status is cr.Status.CONVERGED
    np.testing.assert_array_equal(fit.model.initial, quakes(2).initial)
    log_prior = np.log(np.asarray(fit.model.transition, float)).sum()
    assert fit.restart_objectives.max() == pytest.approx(fit.log_prob + log_prior, rel=1e-5)
    assert fit.history[-1] == pytest.approx(fit.restart_objectives.max(), rel=1e-6)
    initial, transition, rate = (
        np.asarray(a, float) for a in (fit.model.initial, fit.model.transition, fit.model.emission.rate)
    )
    node = scipy.stats.poisson.logpmf(X[:, None], rate)
    known = oracles.forward_backward(np.log(initial), np.log(transition), node).log_partition
    assert fit.log_prob == pytest.approx(known, rel=1e-5)


def test_lbfgs_from_an_impossible_start():
    stuck = cr.HMM([1.0, 0.0, 0.0], np.eye(3), E.Poisson([1e37] * 3))  # log p(x) is below all numbers
    fit = stuck.fit(X, method=cr.LBFGS(max_iterations=3))
    assert fit.status is cr.Status.IMPOSSIBLE
    assert fit.iterations == 0
    np.testing.assert_array_equal(fit.model.transition, np.eye(3))


@pytest.mark.parametrize("penalty", [{"l1": 1.0}, {"l2": 0.5}], ids=["l1", "l2"])
def test_an_hmm_takes_a_prior_and_no_penalty(penalty):
    with pytest.raises(ValueError, match=r"has probabilities, not weights.*give fit a prior=…"):
        quakes(2).fit(X, method=cr.LBFGS(**penalty))
