"""Learning hidden Markov models by EM: published values, one step by hand, what must stay and what is reported."""

from functools import cache

import jax
import networkx as nx
import numpy as np
import oracles
import pytest
import zoo
from scipy.stats import poisson

import chainrule as cr
from chainrule.learning import em
from chainrule.models.hmm import HMMPrior

E = cr.emissions
X = zoo.EARTHQUAKES
PUBLISHED = {1: (391.9189, [19.364]), 2: (341.8787, [15.421, 26.018]), 3: (328.5275, [13.134, 19.713, 29.710])}


NAMES = ("low", "high", "end")  # those of the graph below, so that its fit is the same program


def quakes(num_states, rates=None):
    """A plain start for the earthquakes: states that last, rates spread over the counts."""
    rates = np.quantile(X, (np.arange(num_states) + 0.5) / num_states) if rates is None else rates
    transition = np.full((num_states, num_states), 0.2 / max(num_states - 1, 1))
    np.fill_diagonal(transition, 1.0 if num_states == 1 else 0.8)
    return cr.HMM(np.full(num_states, 1 / num_states), transition, E.Poisson(rates), states=NAMES[:num_states])


LONG = cr.EM(max_iterations=400, tolerance=-1.0)  # a negative tolerance runs every iteration
SHORT = cr.EM(max_iterations=400, tolerance=1e-5)  # the same program: only numbers differ


@cache
def earthquakes(num_states):
    return quakes(num_states).fit(X, method=LONG)


# Published values (Zucchini and MacDonald 2009, chapters 1–3)


@pytest.mark.parametrize("num_states", [1, 2, 3])
def test_earthquakes_as_published(num_states):
    fit = earthquakes(num_states)
    value, rates = PUBLISHED[num_states]
    assert -fit.log_prob == pytest.approx(value, abs=5e-4)
    order = np.argsort(np.asarray(fit.model.emission.rate))
    np.testing.assert_allclose(np.asarray(fit.model.emission.rate)[order], rates, atol=2e-3)
    if num_states == 3:
        assert float(fit.model.log_prob(X)) == pytest.approx(fit.log_prob, abs=1e-3)
    if num_states == 2:
        transition = np.asarray(fit.model.transition)[np.ix_(order, order)]
        np.testing.assert_allclose(transition, [[0.9284, 0.0716], [0.1190, 0.8810]], atol=5e-4)


def test_criteria_count_the_free_numbers():
    fit = earthquakes(2)
    assert fit.num_parameters == 1 + 2 + 2
    assert fit.num_observations == 107
    assert fit.aic == pytest.approx(2 * 5 + 2 * 341.8787, abs=2e-3)
    assert fit.bic == pytest.approx(5 * np.log(107) + 2 * 341.8787, abs=2e-3)
    assert earthquakes(3).aic < fit.aic < earthquakes(1).aic
    assert "HMM(2 states, Poisson)" in repr(fit)


def test_the_best_of_several_starts_is_kept():
    family = cr.HMM.random(jax.random.key(0), 3, E.Poisson(), stay=0.5)
    fit = family.fit(X, method=LONG, restarts=6, key=jax.random.key(1))
    assert fit.restart_objectives.shape == (6,)
    assert fit.log_prob == pytest.approx(fit.restart_objectives.max(), abs=1e-3)
    assert -fit.log_prob == pytest.approx(328.5275, abs=2e-3)
    again = family.fit(X, method=LONG, restarts=6, key=jax.random.key(1))
    np.testing.assert_array_equal(again.restart_objectives, fit.restart_objectives)


def test_restarts_and_families_need_a_key():
    with pytest.raises(ValueError, match=r"give key=jax\.random\.key"):
        quakes(2).fit(X, restarts=2)
    with pytest.raises(ValueError, match=r"give key=jax\.random\.key"):
        cr.HMM([0.5, 0.5], np.full((2, 2), 0.5), E.Poisson()).fit(X)
    with pytest.raises(ValueError, match="restarts is 0"):
        quakes(2).fit(X, restarts=0)


# One step by hand


def counts_by_hand(model, sequences, scores):
    """Expected starts, steps and state weights in float64."""
    with np.errstate(divide="ignore"):
        initial, transition = (np.log(np.asarray(p, float)) for p in (model.initial, model.transition))
    found = [oracles.forward_backward(initial, transition, scores(x)) for x in sequences]
    starts = sum(f.marginals[0] for f in found)
    steps = sum(f.pair_marginals.sum(0) for f in found)
    return sum(f.log_partition for f in found), starts, steps, np.concatenate([f.marginals for f in found])


PIECES = [X[:40], X[40:60], X[60:61], X[61:]]


def test_one_step_by_hand():
    model, sequences = quakes(2), PIECES
    rates = np.asarray(model.emission.rate, float)
    before, starts, steps, weights = counts_by_hand(model, sequences, lambda x: poisson.logpmf(x[:, None], rates))
    neutral = HMMPrior(initial=1.0, transition=np.ones((2, 2)))  # with an array, as in the test of pseudo-counts
    fit = model.fit(sequences, method=cr.EM(max_iterations=1), prior=neutral)
    np.testing.assert_allclose(fit.history, [before, fit.log_prob], rtol=1e-6)
    np.testing.assert_allclose(fit.model.initial, starts / starts.sum(), rtol=1e-4)
    np.testing.assert_allclose(fit.model.transition, steps / steps.sum(1, keepdims=True), rtol=1e-4)
    np.testing.assert_allclose(
        fit.model.emission.rate, weights.T @ np.concatenate(sequences) / weights.sum(0), rtol=1e-5
    )
    after = counts_by_hand(
        fit.model, sequences, lambda x: poisson.logpmf(x[:, None], np.asarray(fit.model.emission.rate, float))
    )
    assert fit.log_prob == pytest.approx(after[0], rel=3e-6)
    assert fit.iterations == 1
    assert fit.status is cr.Status.MAX_ITERATIONS


def test_a_second_fit_compiles_nothing():
    first = earthquakes(2)
    before = em._em._cache_size()
    other = quakes(2, [10.0, 30.0]).fit(X[::-1].copy(), method=SHORT, prior=HMMPrior(stickiness=1.0))
    shorter = quakes(2).fit(X[:105], method=SHORT)  # lengths are rounded up
    assert em._em._cache_size() == before
    assert other.num_observations == first.num_observations == shorter.num_observations + 2


# EM never decreases, for every family, with holes and ragged data


# Each family compiles its own program; the M-steps of all of them are checked in test_emissions.py.
SLOW = ("bernoulli", "categorical", "normal", "normal spherical", "normal tied")


@pytest.mark.parametrize(
    "example",
    [pytest.param(e, id=e.name, marks=[pytest.mark.slow] if e.name in SLOW else []) for e in zoo.HMMS],
)
def test_em_never_decreases(example):
    model = example.make()
    data = [example.data, example.data[:5], example.data[4:]]
    fit = model.fit(data, method=cr.EM(max_iterations=12, tolerance=-1.0, min_variance=1e-2))
    history = fit.history
    assert len(history) == fit.iterations + 1 == 13
    assert history[-1] == pytest.approx(fit.log_prob)
    if example.name == "normal diagonal":  # the likelihood of the fit is that of the query
        assert history[0] == pytest.approx(np.sum(model.log_prob(data)), rel=1e-5)
        assert fit.log_prob == pytest.approx(np.sum(fit.model.log_prob(data)), rel=1e-4, abs=1e-4)
    assert not fit.degenerate.any()  # a floor under the variance may cost
    assert (np.diff(history) >= -2e-6 * np.abs(history[:-1]) - 1e-5).all()
    assert history[-1] > history[0]
    assert fit.num_observations == 12 + 5 + 8
    assert fit.model.states == model.states
    np.testing.assert_allclose(np.asarray(fit.model.transition).sum(1), 1, rtol=1e-6)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(fit.model))


# What must stay


def test_forbidden_steps_are_never_learned():
    graph = nx.DiGraph([("low", "low"), ("low", "high"), ("high", "high"), ("high", "end"), ("end", "end")])
    graph.nodes["low"]["initial"] = 1.0
    model = cr.HMM.from_graph(graph, E.Poisson([15.0, 28.0, 12.0]), key=jax.random.key(0))
    np.testing.assert_allclose(np.asarray(model.transition).sum(1), 1, rtol=1e-6)
    fit = model.fit(X, method=SHORT, prior=HMMPrior(transition=2.0, initial=2.0))
    learned = fit.model.graph()
    assert set(learned.edges) == set(graph.edges)
    np.testing.assert_array_equal(fit.model.initial, [1, 0, 0])
    np.testing.assert_allclose(
        np.asarray(fit.model.transition)[2], [0, 0, 1], rtol=1e-6
    )  # with no tolerance for the zeros
    assert fit.num_parameters == 0 + 2 + 3
    assert fit.log_prob > fit.history[0]


def test_frozen_parts_do_not_change_and_are_not_counted():
    model = quakes(2)
    fit = model.fit(X, method=cr.EM(max_iterations=5), frozen=lambda m: (m.transition, m.emission))
    np.testing.assert_array_equal(fit.model.transition, model.transition)
    np.testing.assert_array_equal(fit.model.emission.rate, model.emission.rate)
    assert not np.array_equal(fit.model.initial, model.initial)
    assert fit.num_parameters == 1
    assert (np.diff(fit.history) >= -1e-4).all()


def test_an_empty_state_keeps_its_parameters_and_is_reported():
    model = quakes(3, [15.0, 25.0, 1e6])
    fit = model.fit(X, method=SHORT)
    assert fit.status is cr.Status.DEGENERATE
    assert fit.degenerate.tolist() == [False, False, True]
    assert np.asarray(fit.model.emission.rate)[2] == 1e6
    np.testing.assert_array_equal(np.asarray(fit.model.transition)[2], np.asarray(model.transition)[2])
    assert -fit.log_prob == pytest.approx(341.8787, abs=0.1)  # what is left is the model of two states
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(fit.model))


# Priors


UNDERFLOW = cr.EM(max_iterations=300, tolerance=-1.0)  # long enough for counts to underflow


def test_a_concentration_of_one_is_maximum_likelihood():
    symbols = np.array([0, 0, 1, 0, 1, 1, 0, 0])
    model = cr.HMM([0.6, 0.4], [[0.7, 0.3], [0.2, 0.8]], E.Categorical([[0.5, 0.3, 0.2], [0.3, 0.4, 0.3]]))
    plain = model.fit(symbols, method=UNDERFLOW)
    one = model.fit(symbols, method=UNDERFLOW, prior=HMMPrior(1.0, 1.0, 0.0, E.Dirichlet(1.0)))
    for a, b in zip(jax.tree.leaves(plain.model), jax.tree.leaves(one.model), strict=True):
        assert np.isfinite(a).all()
        np.testing.assert_allclose(a, b, atol=1e-6)
    # a symbol that never occurs is as rare as a number can be, and still not forbidden
    assert (np.asarray(plain.model.emission.probs)[:, 2] == np.finfo(np.float32).tiny).all()
    assert np.isfinite(plain.history).all()


@pytest.mark.parametrize(
    ("prior", "message"),
    [
        (HMMPrior(initial=0.5), "prior: initial is 0.5; a maximum exists only from 1 on"),
        (HMMPrior(transition=np.array([[1.0, 0.9], [1.0, 1.0]])), "prior: transition is 0.9"),
        (HMMPrior(stickiness=-1.0), "prior: stickiness is -1"),
    ],
)
def test_priors_without_a_maximum_are_refused(prior, message):
    with pytest.raises(ValueError, match=message):
        quakes(2).fit(X, prior=prior)


def test_a_sticky_prior_makes_states_last():
    sticky = quakes(2).fit(X, method=LONG, prior=HMMPrior(stickiness=50.0))
    lasting, plain = (np.diag(np.asarray(fit.model.transition)) for fit in (sticky, earthquakes(2)))
    assert (lasting > plain).all()
    assert sticky.log_prob < earthquakes(2).log_prob
    prior_part = 50.0 * np.log(np.diag(np.asarray(sticky.model.transition, float))).sum()
    assert sticky.restart_objectives[0] == pytest.approx(sticky.log_prob + prior_part, rel=1e-5)
    assert (np.diff(sticky.history) >= -2e-6 * 400).all()


def test_a_dirichlet_prior_adds_its_pseudo_counts():
    model, prior = quakes(2), HMMPrior(initial=3.0, transition=np.array([[1.0, 4.0], [2.0, 1.0]]))
    rates = np.asarray(model.emission.rate, float)
    _, starts, steps, _ = counts_by_hand(model, PIECES, lambda x: poisson.logpmf(x[:, None], rates))
    fit = model.fit(PIECES, method=cr.EM(max_iterations=1), prior=prior)
    starts, steps = starts + 2, steps + np.array([[0, 3], [1, 0]])
    np.testing.assert_allclose(fit.model.initial, starts / starts.sum(), rtol=1e-4)
    np.testing.assert_allclose(fit.model.transition, steps / steps.sum(1, keepdims=True), rtol=1e-4)


# Endings


def test_every_ending_is_named():
    assert quakes(2).fit(X, method=SHORT).status is cr.Status.CONVERGED
    assert earthquakes(2).status is cr.Status.MAX_ITERATIONS
    stuck = cr.HMM([1.0, 0.0], np.eye(2), E.Categorical(np.eye(2, 3)))
    fit = stuck.fit(np.repeat([0, 1], 4), method=UNDERFLOW)
    assert fit.status is cr.Status.IMPOSSIBLE
    assert fit.iterations == 0
    assert fit.log_prob == -np.inf
    np.testing.assert_array_equal(fit.model.transition, np.eye(2))
    assert "allow more transitions" in fit.status.value


def test_convergence_is_by_the_tolerance():
    loose, tight = quakes(2).fit(X, method=SHORT), quakes(2).fit(X, method=cr.EM(max_iterations=400, tolerance=1e-6))
    assert loose.iterations < tight.iterations < 400
    assert loose.log_prob <= tight.log_prob + 1e-3
    assert len(loose.history) == loose.iterations + 1


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: cr.EM(max_iterations=0), "EM: max_iterations is 0"),
        (lambda: cr.EM(min_variance=0.0), r"EM: min_variance is 0\.0"),
    ],
)
def test_methods_that_cannot_be(build, message):
    with pytest.raises(ValueError, match=message):
        build()


# Order of states


def test_two_fits_are_aligned():
    fitted = earthquakes(3).model
    shuffled = fitted.permute([2, 0, 1])
    for leaf, other in zip(jax.tree.leaves(shuffled.align(fitted)), jax.tree.leaves(fitted), strict=True):
        np.testing.assert_array_equal(leaf, other)


def test_fits_are_pytrees():
    fit = earthquakes(2)
    again = jax.tree.unflatten(*reversed(jax.tree.flatten(fit)))
    assert again.log_prob == fit.log_prob
    assert np.array_equal(again.model.transition, fit.model.transition)


# Counting


class Nothing:
    """A method that leaves the models as they are: what is counted does not depend on what is learned."""

    def run(self, models, data, prior, frozen, *, show_progress=False):
        zero = np.zeros(1)
        return em.Outcome(models, zero, zero, zero[None], zero.astype(int), zero == 0, zero > 0, np.zeros((1, 2), bool))


@pytest.mark.parametrize("example", zoo.HMMS, ids=lambda e: e.name)
def test_a_frozen_emission_counts_for_nothing(example):
    model = example.make()
    free = model.fit(example.data, method=Nothing())
    assert free.num_parameters == model.free_parameters() > 3
    frozen = model.fit(example.data, method=Nothing(), frozen=lambda m: m.emission)
    assert frozen.num_parameters == 1 + 2
    assert model.fit(example.data, method=Nothing(), frozen=lambda m: (m.initial, m.emission)).num_parameters == 2
