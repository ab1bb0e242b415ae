"""Simulated annealing and parallel tempering against enumeration."""

import jax
import numpy as np
import pairwise_cases as cases
import pytest

from chainrule import Pairwise
from chainrule.forms.layouts import Dense, Neighbours
from chainrule.inference import gibbs, tempering

START, KEY = jax.random.split(jax.random.key(4, impl="philox2x32"))


random_state = jax.jit(gibbs.random_state, static_argnames="num_chains")
start = jax.jit(tempering.start, static_argnames=("num_chains", "num_betas"))
energy = jax.jit(Pairwise.energy)


def two_modes(strength=1.5, bias=0.02) -> Pairwise:
    """Eight spins that all agree, up or down, with little in between."""
    weights = np.float32(strength * (1 - np.eye(8)))
    return Pairwise(np.full(8, bias, np.float32), Dense(weights), spins=True)


def rising(low, high, count):
    return jax.device_put(np.geomspace(low, high, count, dtype=np.float32))


@pytest.mark.parametrize("layout", [Dense, Neighbours])
def test_annealing_finds_the_ground_state(layout):
    model = cases.random_model(layout, spins=True, seed=5)
    found = tempering.simulated_annealing(KEY, random_state(START, model, 32), model, rising(0.1, 5, 100))
    x = cases.states(model)
    lowest = -cases.scores(model, x).max()
    assert np.asarray(found.energies).min() == pytest.approx(lowest, abs=1e-4)
    np.testing.assert_allclose(energy(model, found.states), found.energies, rtol=1e-6)
    best = np.asarray(found.states)[:, np.asarray(found.energies).argmin()]
    np.testing.assert_array_equal(found.best, best)


def test_annealing_holds_what_is_clamped():
    model = two_modes()
    clamp = np.arange(8)[:, None] == 0
    state = random_state(START, model, 16, given=np.full((8, 1), -1), clamp=clamp)
    found = tempering.simulated_annealing(KEY, state, model, rising(0.1, 3, 50), clamp)
    assert (np.asarray(found.states)[0] == -1).all()
    assert (np.asarray(found.best) == -1).all()


def test_tempering_weighs_modes_that_gibbs_never_leaves():
    model = two_modes()
    stuck = np.asarray(gibbs.run(KEY, np.ones((8, 400), np.int8), model, 50))
    assert (stuck > 0).all()
    betas = np.linspace(0, 1, 12, dtype=np.float32) ** 2
    found = tempering.parallel_tempering(KEY, np.ones((8, 400, 12), np.int8), model, betas, 2, 60)
    counts = np.bincount(cases.codes(model, np.asarray(found.records)[-1]), minlength=256)
    assert cases.chi_square(counts, cases.probabilities(model)) > 1e-3
    assert found.swap_rates.shape == (11,)
    assert 0.05 < np.asarray(found.swap_rates).min() <= np.asarray(found.swap_rates).max() <= 1
    # every rung has its own distribution
    ups = (cases.states(model) > 0).sum(0)
    for level in (0, 6):
        counts = np.bincount((np.asarray(found.states)[:, :, level] > 0).sum(0), minlength=9)
        wanted = np.bincount(ups, cases.probabilities(model, float(betas[level])), minlength=9)
        assert cases.chi_square(counts, wanted) > 1e-3


def test_swap_rates_are_those_of_theory():
    """Two independent copies: the rate is E[min(1, exp(Δβ Δscore))], by enumeration."""
    model = cases.random_model(Dense, spins=True)
    betas = np.float32([0.3, 1.0])
    found = tempering.parallel_tempering(KEY, start(START, model, 2000, 2), model, betas, 1, 40)
    score = cases.scores(model, cases.states(model))
    cold, hot = cases.probabilities(model, 1.0), cases.probabilities(model, 0.3)
    wanted = hot @ np.minimum(1, np.exp((0.3 - 1.0) * (score[None] - score[:, None]))) @ cold
    assert np.asarray(found.swap_rates) == pytest.approx([wanted], abs=0.02)
    counts = np.bincount(cases.codes(model, np.asarray(found.records)[0]), minlength=256)
    assert cases.chi_square(counts, cold) > 1e-3


def test_other_temperatures_compile_nothing():
    model = two_modes()
    state, copies = random_state(START, model, 32), start(START, model, 2000, 2)
    tempering.simulated_annealing(KEY, state, model, rising(0.1, 1, 100))
    tempering.parallel_tempering(KEY, copies, model, np.float32([0.5, 1]), 1, 3)
    sizes = tempering.simulated_annealing._cache_size(), tempering.parallel_tempering._cache_size()
    tempering.simulated_annealing(KEY, state, two_modes(0.5), rising(0.3, 2, 100))
    tempering.parallel_tempering(KEY, copies, two_modes(0.5), np.float32([0.6, 1]), 1, 4)
    assert (tempering.simulated_annealing._cache_size(), tempering.parallel_tempering._cache_size()) == sizes


def test_every_gap_is_tried_in_every_turn():
    """Without couplings all states are alike and every exchange takes place, from the first turn on."""
    betas = np.linspace(0, 1, 12, dtype=np.float32)
    found = tempering.parallel_tempering(KEY, np.ones((8, 400, 12), np.int8), two_modes(0.0, 0.0), betas, 2, 1)
    assert found.swap_rates.tolist() == [1] * 11


def test_states_of_other_models_are_refused():
    model = Pairwise(np.zeros(2), Dense(np.zeros((2, 2))))
    wrong, betas = np.zeros((5, 3), np.int8), np.float32([0.5, 1.0])
    for call in (
        lambda: gibbs.run(KEY, wrong, model, 3),
        lambda: tempering.simulated_annealing(KEY, wrong, model, betas),
        lambda: tempering.parallel_tempering(KEY, np.zeros((5, 3, 2), np.int8), model, betas, 3),
    ):
        with pytest.raises(ValueError, match=r"state has shape \(5, 3.*asks for \(2, chains"):
            call()


@pytest.mark.parametrize(("levels", "betas"), [(1, [1.0]), (2, [0.1, 0.5, 1.0])])
def test_a_ladder_has_a_level_for_each_copy_and_two_at_least(levels, betas):
    model = Pairwise(np.zeros(2), Dense(np.array([[0.0, 1.0], [1.0, 0.0]])))
    state = np.zeros((2, 2, levels), np.int8)
    with pytest.raises(ValueError, match="at least two"):
        tempering.parallel_tempering(KEY, state, model, np.float32(betas), 3)
