"""Simulated annealing and parallel tempering against enumeration."""

import jax
import jax.numpy as jnp
import numpy as np
import pairwise_cases as cases
import pytest

from chainrule import Pairwise
from chainrule.forms.layouts import Dense, Neighbours
from chainrule.inference import gibbs, tempering

START, KEY = jax.random.split(jax.random.key(4, impl="philox2x32"))


def two_modes(strength=1.5) -> Pairwise:
    """Eight spins that all agree, up or down, with little in between."""
    return Pairwise(jnp.full(8, 0.02), Dense(strength * (1 - jnp.eye(8))), spins=True)


@pytest.mark.parametrize("layout", [Dense, Neighbours])
def test_annealing_finds_the_ground_state(layout):
    model = cases.random_model(layout, spins=True, seed=5)
    found = tempering.simulated_annealing(
        KEY, gibbs.random_state(START, model, 32), model, jnp.geomspace(0.1, 5, 100, dtype=jnp.float32)
    )
    x = cases.states(model)
    lowest = -cases.scores(model, x).max()
    assert float(found.energies.min()) == pytest.approx(lowest, abs=1e-4)
    np.testing.assert_allclose(model.energy(found.states), found.energies, rtol=1e-6)
    assert float(model.energy(found.best[:, None])[0]) == float(found.energies.min())


def test_annealing_holds_what_is_clamped():
    model = two_modes()
    clamp = jnp.arange(8)[:, None] == 0
    state = gibbs.random_state(START, model, 16, given=jnp.full((8, 1), -1), clamp=clamp)
    found = tempering.simulated_annealing(KEY, state, model, jnp.linspace(0.1, 3, 50, dtype=jnp.float32), clamp)
    assert (found.states[0] == -1).all()
    assert (found.best == -1).all()


def test_tempering_weighs_modes_that_gibbs_never_leaves():
    model = two_modes()
    state = gibbs.random_state(START, model, 400)
    stuck = gibbs.run(KEY, jnp.ones_like(state), model, 50)
    assert (stuck > 0).all()
    betas = jnp.linspace(0, 1, 12, dtype=jnp.float32) ** 2
    found = tempering.parallel_tempering(KEY, jnp.ones((8, 400, 12), jnp.int8), model, betas, 2, 60)
    counts = np.bincount(cases.codes(model, found.records[-1]), minlength=256)
    assert cases.chi_square(counts, cases.probabilities(model)) > 1e-3
    assert found.swap_rates.shape == (11,)
    assert ((found.swap_rates > 0.05) & (found.swap_rates <= 1)).all()
    # every rung has its own distribution
    ups = (cases.states(model) > 0).sum(0)
    for level in (0, 6):
        counts = np.bincount((np.asarray(found.states[:, :, level]) > 0).sum(0), minlength=9)
        wanted = np.bincount(ups, cases.probabilities(model, float(betas[level])), minlength=9)
        assert cases.chi_square(counts, wanted) > 1e-3


def test_swap_rates_are_those_of_theory():
    """Two independent copies: the rate is E[min(1, exp(Δβ Δscore))], by enumeration."""
    model = cases.random_model(Dense, spins=True)
    betas = jnp.array([0.3, 1.0], jnp.float32)
    found = tempering.parallel_tempering(KEY, tempering.start(START, model, 2000, 2), model, betas, 1, 40)
    score = cases.scores(model, cases.states(model))
    cold, hot = cases.probabilities(model, 1.0), cases.probabilities(model, 0.3)
    wanted = hot @ np.minimum(1, np.exp((0.3 - 1.0) * (score[None] - score[:, None]))) @ cold
    assert float(found.swap_rates[0]) == pytest.approx(wanted, abs=0.02)
    counts = np.bincount(cases.codes(model, found.records[0]), minlength=256)
    assert cases.chi_square(counts, cold) > 1e-3


def test_other_temperatures_compile_nothing():
    model = two_modes()
    state = gibbs.random_state(START, model, 4)
    tempering.simulated_annealing(KEY, state, model, jnp.linspace(0.1, 1, 5, dtype=jnp.float32))
    tempering.parallel_tempering(KEY, tempering.start(START, model, 4, 3), model, jnp.float32([0.1, 0.5, 1]), 2, 3)
    sizes = tempering.simulated_annealing._cache_size(), tempering.parallel_tempering._cache_size()
    tempering.simulated_annealing(KEY, state, two_modes(0.5), jnp.linspace(0.3, 2, 5, dtype=jnp.float32))
    tempering.parallel_tempering(
        KEY, tempering.start(START, model, 4, 3), two_modes(0.5), jnp.float32([0.2, 0.6, 1]), 2, 4
    )
    assert (tempering.simulated_annealing._cache_size(), tempering.parallel_tempering._cache_size()) == sizes


def test_every_gap_is_tried_in_every_turn():
    """Without couplings all states are alike and every exchange takes place, from the first turn on."""
    model = Pairwise(jnp.zeros(2), Dense(jnp.zeros((2, 2))))
    state = tempering.start(START, model, 4, 3)
    found = tempering.parallel_tempering(KEY, state, model, jnp.array([0.1, 0.5, 1.0]), 1)
    assert found.swap_rates.tolist() == [1, 1]


def test_states_of_other_models_are_refused():
    model = Pairwise(jnp.zeros(2), Dense(jnp.zeros((2, 2))))
    wrong, betas = jnp.zeros((5, 3), jnp.int8), jnp.array([0.5, 1.0])
    for call in (
        lambda: gibbs.run(KEY, wrong, model, 3),
        lambda: tempering.simulated_annealing(KEY, wrong, model, betas),
        lambda: tempering.parallel_tempering(KEY, jnp.zeros((5, 3, 2), jnp.int8), model, betas, 3),
    ):
        with pytest.raises(ValueError, match=r"state has shape \(5, 3.*asks for \(2, chains"):
            call()


@pytest.mark.parametrize(("levels", "betas"), [(1, [1.0]), (2, [0.1, 0.5, 1.0])])
def test_a_ladder_has_a_level_for_each_copy_and_two_at_least(levels, betas):
    model = Pairwise(jnp.zeros(2), Dense(jnp.array([[0.0, 1.0], [1.0, 0.0]])))
    state = tempering.start(jax.random.key(0), model, 2, levels)
    with pytest.raises(ValueError, match="at least two"):
        tempering.parallel_tempering(jax.random.key(1), state, model, jnp.array(betas), 3)
