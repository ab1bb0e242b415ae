"""Steps of stochastic descent, on losses whose steps are known; fits with them are in `tests/models/crf`."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import chainrule as cr
from chainrule.learning import minibatch

KEY = jax.random.key(0)


def walk(method, sizes, *, steps):
    """Descend from zero where the gradient is one, in several calls; the states after each."""
    pace = minibatch.Pace.of(method, steps)
    run = jax.jit(lambda state, order: minibatch.descend(lambda p, *_: p, state, order, KEY, method, pace, None)[0])
    states = [minibatch.begin(jnp.zeros(()), method, average=bool(method.average))]
    for size in sizes:
        states.append(run(states[-1], np.zeros((size, 1), np.int32)))
    return states[1:]


def test_a_mean_with_a_decay_is_even_at_first_and_follows_later():
    first, second = walk(cr.MiniBatch(optimiser=optax.sgd(1.0), average=0.75), [3, 2], steps=20)
    assert (first.parameters, first.answer, first.step) == (-3, -2, 3)  # −1, −2, −3
    assert (second.answer, second.step) == (0.75 * (0.75 * -2 + 0.25 * -4) + 0.25 * -5, 5)


def test_a_mean_of_all_steps_is_even():
    (state,) = walk(cr.MiniBatch(optimiser=optax.sgd(1.0), average=True), [5], steps=20)
    assert state.answer == -3


def test_a_schedule_counts_in_epochs():
    # four steps in each of two epochs, so factors of 0, 2.5, 5, 7.5, 10
    method = cr.MiniBatch(epochs=2, optimiser=optax.sgd(1.0), schedule=lambda epoch: 10.0 * epoch)
    (state,) = walk(method, [5], steps=8)
    assert state.answer == -25


def test_without_a_schedule_steps_shrink_linearly():
    # the steps of Adam along a constant gradient have length one, here times 1, 0.875, 0.75, 0.625
    method = cr.MiniBatch(epochs=1, learning_rate=2.0, decay=0.5)
    (state,) = walk(method, [4], steps=4)
    assert state.answer == pytest.approx(-2 * 3.25, rel=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"average": 1.5}, "average is 1.5"),
        ({"schedule": 0.5}, "wanted a function of the epoch"),
        ({"epochs": 0}, "epochs is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"clip": -1.0}, "clip is -1.0"),
        ({"l2": -0.5}, "l2 is -0.5"),
        ({"decay": float("nan")}, "decay is nan"),
    ],
)
def test_mini_batches_refuse(arguments, message):
    with pytest.raises(ValueError, match=message):
        cr.MiniBatch(**arguments)
