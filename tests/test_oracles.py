"""The oracles agree with each other, and with a published example worked by hand."""

import mdp_oracles
import numpy as np
import oracles
import pytest


@pytest.mark.parametrize(
    ("time", "states", "time_varying", "zeros"), [(1, 3, False, 0.0), (4, 3, False, 0.4), (5, 2, True, 0.3)]
)
def test_recursions_match_enumeration(time, states, time_varying, zeros):
    rng = np.random.default_rng(time)
    for _ in range(5):
        chain = oracles.random_chain(rng, time=time, states=states, time_varying=time_varying, zeros=zeros)
        truth, answer = oracles.enumerate_chain(*chain), oracles.forward_backward(*chain)
        assert answer.log_partition == pytest.approx(truth.log_partition, abs=1e-12)
        assert answer.entropy == pytest.approx(truth.entropy, abs=1e-12)
        np.testing.assert_allclose(answer.marginals, truth.marginals, atol=1e-12)
        np.testing.assert_allclose(answer.pair_marginals, truth.pair_marginals, atol=1e-12)
        score, path = oracles.viterbi(*chain)
        assert (score, tuple(path)) == (pytest.approx(truth.paths[0][0], abs=1e-12), truth.paths[0][1])


def test_fair_coin():
    chain = np.log([0.5, 0.5]), np.log(np.full((2, 2), 0.5)), np.zeros((3, 2))
    answer = oracles.enumerate_chain(*chain)
    assert answer.log_partition == pytest.approx(0.0, abs=1e-12)
    assert answer.entropy == pytest.approx(3 * np.log(2))
    assert answer.paths[0][1] == (0, 0, 0)


def test_impossible_chain():
    chain = np.zeros(2), np.full((2, 2), -np.inf), np.zeros((2, 2))
    for answer in oracles.enumerate_chain(*chain), oracles.forward_backward(*chain):
        assert answer.log_partition == -np.inf
        assert not answer.marginals.any()
        assert np.isnan(answer.entropy)


def test_umbrella_world():
    """Russell & Norvig (2010), Artificial Intelligence, §15.2: P(rain on day 1 | umbrella on days 1 and 2) = 0.883."""
    answer = oracles.forward_backward(
        np.log([0.5, 0.5]), np.log([[0.7, 0.3], [0.3, 0.7]]), np.log([[0.9, 0.2], [0.9, 0.2]])
    )
    np.testing.assert_allclose(answer.marginals[:, 0], [0.883, 0.883], atol=1e-3)


def test_decision_processes_match_enumeration():
    rng = np.random.default_rng(0)
    for _ in range(10):
        probs, rewards = rng.dirichlet(np.ones(4), size=(4, 3)), rng.normal(size=(4, 3))
        mask = rng.uniform(size=(4, 3)) < 0.7
        mask[0, 0] = True
        truth = mdp_oracles.best_by_enumeration(probs, rewards, 0.9, mask)
        np.testing.assert_allclose(mdp_oracles.value_iteration(probs, rewards, 0.9, mask), truth, atol=1e-10)
        np.testing.assert_allclose(mdp_oracles.policy_iteration(probs, rewards, 0.9, mask), truth, atol=1e-10)
        longest = mdp_oracles.finite_horizon(probs, rewards, 0.9, 300, mask=mask)[-1]
        np.testing.assert_allclose(longest, truth, atol=1e-10)
        np.testing.assert_allclose(truth[~mask.any(axis=1)], 0)


def test_a_process_from_the_literature():
    # Puterman (2005), §3.1, pp. 33–35, at discount 0.95
    successors, rewards = [[[0, 1], [1, 1]], [[1, 1], [1, 1]]], np.array([[5.0, 10.0], [-1.0, 0.0]])
    probs = mdp_oracles.dense([[[0.5, 0.5], [1.0, 0.0]], [[1.0, 0.0], [1.0, 0.0]]], successors)
    values = mdp_oracles.value_iteration(probs, rewards, 0.95, [[True, True], [True, False]])
    np.testing.assert_allclose(values, [-60 / 7, -20], atol=1e-10)
