"""Models and data that cannot be: a ValueError that says what and where."""

import jax
import numpy as np
import pytest

import chainrule as cr


def model():
    return cr.HMM([0.5, 0.5], [[0.9, 0.1], [0.2, 0.8]], cr.emissions.Normal([0.0, 1.0], [1.0, 1.0]))


NORMAL = cr.emissions.Normal


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: cr.HMM([0.5, 0.6], np.eye(2), NORMAL()), r"initial distribution sums to 1\.1, not 1"),
        (
            lambda: cr.HMM([0.5, 0.5], [[0.5, 0.5], [0.9, 0.0]], NORMAL(), states=("sun", "rain")),
            r"transition row of state 'rain' sums to 0\.9, not 1",
        ),
        (
            lambda: cr.HMM([0.5, 0.5], [[1.5, -0.5], [0, 1]], NORMAL(), states=("sun", "rain")),
            r"row of state 'sun' gives 'sun' the probability 1\.5",
        ),
        (lambda: cr.HMM([0.5, np.nan], np.eye(2), NORMAL()), "initial distribution gives 1 the probability nan"),
        (lambda: cr.HMM([1.0], np.eye(2), NORMAL()), r"transition has shape \(2, 2\)"),
        (lambda: cr.HMM([[1.0]], [[1.0]], NORMAL()), r"initial must have shape \(state,\), got \(1, 1\)"),
        (lambda: cr.HMM([0.5, 0.5], np.eye(2), NORMAL(), states=("a",)), "1 names for 2 states"),
        (lambda: cr.HMM([0.5, 0.5], np.eye(2), NORMAL(), states=("a", "a")), "the state name 'a' appears twice"),
        (
            lambda: cr.HMM([0.5, 0.5], np.eye(2), cr.emissions.Poisson([1.0, 2.0, 3.0])),
            "parameters for 3 states, the transitions for 2",
        ),
        (lambda: cr.HMM.random(jax.random.key(0), 0, NORMAL()), "num_states is 0"),
        (lambda: cr.HMM.random(jax.random.key(0), 2, NORMAL(), stay=1.0), "stay is 1"),
        (lambda: cr.HMM([0.5, 0.5], np.eye(2), NORMAL()).log_prob([0.0]), "has no parameters yet: fit the model first"),
    ],
)
def test_models_that_cannot_be(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "sequence 0 is empty"),
        ([[0.1, 0.2], []], "sequence 1 is empty"),
        (np.zeros((0,)), "sequence 0 is empty"),
        (np.zeros((2, 0)), "sequence 0 is empty"),
        (
            [np.zeros(3), np.zeros((3, 2))],
            r"sequence 1 has observations of shape \(2,\), but sequence 0 has shape \(\)",
        ),
        (np.zeros((2, 3, 4)), r"shape \(2, 3, 4\)"),
        ([np.zeros((3, 2))], r"each sequence must have shape \(time,\), got \(time, 2\)"),
        (np.array([0.0, np.inf]), "sequence 0, step 1: inf is not a finite number"),
        ([np.zeros(3), np.array([0.0, -np.inf])], "sequence 1, step 1: -inf is not a finite number"),
        (np.array(["a", "b"]), "sequence 0 holds <U1, not numbers"),
    ],
)
def test_data_that_cannot_be_sequences(data, message):
    with pytest.raises(ValueError, match=message):
        model().log_prob(data)


@pytest.mark.parametrize(
    ("emission", "data", "message"),
    [
        (
            cr.emissions.Categorical([[0.5, 0.5]] * 2),
            [0, 1, 2],
            "step 2: 2 is not a known symbol: they run from 0 to 1",
        ),
        (cr.emissions.Categorical([[0.5, 0.5]] * 2), [[0, 1], [-1]], "sequence 1, step 0: -1 is not a known symbol"),
        (cr.emissions.Categorical([[0.5, 0.5]] * 2), [0.5], r"0\.5 is not a symbol: symbols are integers from 0"),
        (cr.emissions.Poisson([1.0, 2.0]), [3, -1], "sequence 0, step 1: -1 is not a count"),
        (cr.emissions.Poisson([1.0, 2.0]), [3, 1.5], r"step 1: 1\.5 is not a count"),
        (cr.emissions.Bernoulli([0.1, 0.2]), [0, 2], "step 1: 2 is not 0 or 1"),
        (cr.emissions.Normal(np.zeros((2, 3)), np.ones((2, 3))), np.zeros((4, 2)), r"\(time, 3\), got \(time, 2\)"),
        (cr.emissions.Normal(np.zeros((2, 3)), np.ones((2, 3))), np.zeros(4), "wanted 2 axes for one sequence"),
        (
            cr.emissions.Product(cr.emissions.Normal([0.0, 1.0], [1.0, 1.0]), cr.emissions.Poisson([1.0, 2.0])),
            np.array([[0.0, 1.0], [0.0, -2.0]]),
            r"part 1 of the Product, Poisson: sequence 0, step 1: -2\.0 is not a count",
        ),
    ],
)
def test_observations_that_the_emission_cannot_make(emission, data, message):
    hmm = cr.HMM([0.5, 0.5], np.full((2, 2), 0.5), emission)
    with pytest.raises(ValueError, match=message):
        hmm.log_prob(data)
    with pytest.raises(ValueError, match=message):
        hmm.fit(data)
