"""The transitions form says what is wrong with its arrays, and stays silent under jit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import chainrule as cr

DENSE = np.array([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [1.0, 0.0]]])
REWARDS = np.array([[0.0, 1.0], [2.0, 3.0]])
NAN = float("nan")


def test_defaults_and_dtype():
    form = cr.Transitions(DENSE.astype(np.float16), REWARDS)
    assert repr(form) == "Transitions(2 states, 2 actions, dense)"
    assert {form.probabilities.dtype, form.rewards.dtype} == {jnp.dtype("float16")}
    assert form.discount.dtype == np.float64
    assert form.mask.all()
    assert not form.terminal.any()
    assert float(form.discount) == 1.0
    assert cr.Transitions(DENSE.astype(int), REWARDS).probabilities.dtype == np.float64


def test_terminal_states_have_no_feasible_action():
    form = cr.Transitions(DENSE, REWARDS, terminal=[False, True])
    np.testing.assert_array_equal(form.mask, [[True, True], [False, False]])


def test_padded():
    form = cr.Transitions(np.ones((2, 2, 1)), REWARDS, successors=[[[0], [1]], [[1], [0]]])
    assert repr(form) == "Transitions(2 states, 2 actions, 1 successor)"


@pytest.mark.parametrize(
    ("probabilities", "options", "message"),
    [
        (DENSE[0], {}, r"\(state, action, successor\), none empty, got \(2, 2\)"),
        (DENSE[:, :, :1], {}, "give successors"),
        (DENSE, {"rewards": REWARDS[:1]}, r"rewards has shape \(1, 2\)"),
        (DENSE, {"mask": [True, True]}, r"mask has shape \(2,\)"),
        (DENSE, {"terminal": [[True], [True]]}, r"terminal has shape \(2, 1\)"),
        (DENSE, {"discount": [0.9]}, r"discount has shape \(1,\)"),
        (DENSE, {"successors": [[[0], [1]], [[1], [0]]]}, r"successors has shape \(2, 2, 1\)"),
        (DENSE, {"successors": np.zeros((2, 2, 2))}, "must be integers"),
        (np.where(DENSE == 0, -1.0, DENSE), {}, r"probabilities\[0, 0, 1\] is -1"),
        (np.where(DENSE == 0, NAN, DENSE), {}, r"probabilities\[0, 0, 1\] is nan"),
        (DENSE * [[[1.0], [0.5]]], {}, r"probabilities\[0, 1\] sum to 0.5, not 1; .* set mask\[0, 1\] to False"),
        (DENSE, {"rewards": [[0.0, -np.inf], [0.0, 0.0]]}, r"rewards\[0, 1\] is -inf; forbid an action with mask"),
        (DENSE, {"mask": [[True, True], [False, False]]}, "state 1 has no feasible action; mark it terminal"),
        (DENSE, {"successors": np.full((2, 2, 2), 2)}, r"successors\[0, 0, 0\] is 2, not one of the 2 states"),
        (DENSE, {"discount": 1.5}, "discount is 1.5"),
        (DENSE, {"discount": NAN}, "discount is nan"),
    ],
)
def test_bad_arrays_are_named(probabilities, options, message):
    with pytest.raises(ValueError, match=message):
        cr.Transitions(probabilities, **({"rewards": REWARDS} | options))


def test_infeasible_rows_are_not_looked_at():
    form = cr.Transitions(DENSE * [[[1.0], [0.0]]], REWARDS, mask=[[True, False], [True, False]])
    np.testing.assert_array_equal(form.mask, [[True, False], [True, False]])


def test_values_are_not_checked_under_jit():
    @jax.jit
    def build(discount):
        return cr.Transitions(jnp.asarray(DENSE), jnp.asarray(REWARDS), discount=discount)

    assert float(build(jnp.array(2.0)).discount) == 2.0
