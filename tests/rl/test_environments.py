"""Gymnasium's tabular environments have the values that are known of them, and their own steps agree with the model."""

import sys

import mdp_oracles
import numpy as np
import pytest

import chainrule as cr

gym = pytest.importorskip("gymnasium")

from chainrule.rl.environments import table_arrays  # noqa: E402


def plain_values(arrays, discount):
    """By an independent solver."""
    probs = mdp_oracles.dense(arrays.probabilities, arrays.successors)
    rewards = (arrays.probabilities * arrays.rewards).sum(-1)
    return mdp_oracles.value_iteration(probs, rewards, discount, arrays.mask)


def test_frozen_lake():
    arrays = table_arrays("FrozenLake-v1")
    assert arrays.states == tuple(range(16))  # holes and the goal end the episode by themselves
    assert np.flatnonzero(arrays.terminal).tolist() == [5, 7, 11, 12, 15]
    assert arrays.actions == ("LEFT", "DOWN", "RIGHT", "UP")
    assert plain_values(arrays, 0.99)[0] == pytest.approx(0.5420259320, abs=1e-9)
    assert plain_values(arrays, 1.0)[0] == pytest.approx(14 / 17, abs=1e-9)
    assert plain_values(table_arrays("FrozenLake-v1", is_slippery=False), 0.99)[0] == pytest.approx(0.99**5)


def test_cliff_walking():
    arrays = table_arrays("CliffWalking-v1")
    assert arrays.states == tuple(range(48))
    assert np.flatnonzero(arrays.terminal).tolist() == [47]  # nothing starts there, so what one could do there is moot
    assert plain_values(arrays, 1.0)[36] == -13  # thirteen steps along the cliff (Sutton & Barto 2018, example 6.6)


def test_taxi_ends_by_outcomes_and_not_by_states():
    arrays = table_arrays("Taxi-v4")
    assert arrays.states == (*range(500), "done")
    assert np.flatnonzero(arrays.terminal).tolist() == [500]
    assert arrays.actions[-2:] == ("PICKUP", "DROPOFF")
    values = plain_values(arrays, 1.0)
    taxi = gym.make("Taxi-v4").unwrapped
    assert values[500] == 0
    assert values[taxi.encode(0, 0, 4, 0)] == 20  # the passenger is in, the destination is here
    # mean over the starting states, as is often quoted for optimal play
    assert taxi.initial_state_distrib @ values[:500] == pytest.approx(7.93, abs=1e-9)


@pytest.mark.parametrize(
    ("name", "options"), [("FrozenLake-v1", {}), ("CliffWalking-v1", {"is_slippery": True}), ("Taxi-v4", {})]
)
def test_steps_of_the_environment_are_those_of_the_model(name, options):
    arrays = table_arrays(name, **options)
    environment = gym.make(name, **options)
    environment.action_space.seed(0)
    state, _ = environment.reset(seed=0)
    for _ in range(600):
        action = environment.action_space.sample()
        after, reward, terminated, truncated, _ = environment.step(action)
        there = len(arrays.states) - 1 if terminated and not arrays.terminal[after] else after
        possible = (arrays.successors[state, action] == there) & (arrays.rewards[state, action] == reward)
        assert arrays.probabilities[state, action][possible].sum() > 0
        assert arrays.terminal[there] == terminated
        state = environment.reset()[0] if terminated or truncated else after
    environment.close()


def test_the_process_solves_with_labels():
    lake = cr.rl.from_gymnasium("FrozenLake-v1", discount=0.99)
    solution = lake.solve()
    np.testing.assert_allclose(solution.values, plain_values(table_arrays("FrozenLake-v1"), 0.99), atol=1e-6)
    assert solution.policy[14] == "DOWN"  # beside the goal: right or left of "down" is where the ice may lead
    taxi = cr.rl.from_gymnasium(gym.make("Taxi-v4"), discount=0.95)
    solution = taxi.solve()
    np.testing.assert_allclose(solution.values, plain_values(table_arrays("Taxi-v4"), 0.95), atol=1e-6)
    assert solution.policy[gym.make("Taxi-v4").unwrapped.encode(0, 0, 4, 0)] == "DROPOFF"


@pytest.mark.parametrize(("name", "wanted"), [("FrozenLake-v1", 14 / 17), ("CliffWalking-v1", -13), ("Taxi-v4", 7.93)])
def test_solved_without_a_discount(name, wanted):
    mdp = cr.rl.from_gymnasium(name)
    solution = mdp.solve()
    assert solution.status is cr.SolveStatus.CERTIFIED
    start = mdp.initial @ solution.values
    assert start == pytest.approx(wanted, abs=1e-9)
    assert mdp.initial @ solution.lower <= wanted <= mdp.initial @ solution.upper or solution.gap < 1e-9
    again = mdp.evaluate(solution.policy)
    np.testing.assert_allclose(again.values, solution.values, atol=1e-9)
    # what is earned is rewards times visits, which are finite: the policy ends
    assert (mdp.occupancy(solution.policy) * mdp.transitions.rewards).sum() == pytest.approx(start, abs=1e-9)


def test_wrapped_environments():
    limited = gym.make("FrozenLake-v1")  # inside TimeLimit and others that leave the process as it is
    assert table_arrays(limited).states == tuple(range(16))
    scaled = gym.wrappers.TransformReward(limited, lambda reward: 10 * reward)
    with pytest.raises(ValueError, match="TransformReward changes observations, actions or rewards"):
        table_arrays(scaled)
    assert table_arrays(scaled.unwrapped).states == tuple(range(16))


@pytest.mark.parametrize(
    ("environment", "options", "message"),
    [
        ("CartPole-v1", {}, r"CartPoleEnv has no table P .*Box"),
        ("Blackjack-v1", {}, "BlackjackEnv has no table P"),
        ("FrozenLakes-v1", {}, "cannot make 'FrozenLakes-v1': .*FrozenLake"),
        ("ALE/Pong-v5", {}, "cannot make 'ALE/Pong-v5': Namespace ALE not found"),
        ("FrozenLake-v1", {"slippery": True}, "cannot make 'FrozenLake-v1' with {'slippery': True}"),
        ("Taxi-v4", {"fickle_passenger": True}, "does not follow its table"),
        (3, {}, "wanted a Gymnasium environment or its id, got int"),
    ],
)
def test_what_is_no_tabular_environment_is_refused(environment, options, message):
    with pytest.raises(ValueError, match=message):
        table_arrays(environment, **options)


def test_options_need_an_id():
    with pytest.raises(ValueError, match="need an id"):
        table_arrays(gym.make("FrozenLake-v1"), is_slippery=False)


def test_a_broken_table_names_its_environment():
    environment = gym.make("FrozenLake-v1")
    environment.unwrapped.P[3][1] = [(0.5, 3, 0.0, False)]
    with pytest.raises(
        ValueError, match=r"table of FrozenLakeEnv is no decision process: state 3, action 1: .* sum to 0.5"
    ):
        table_arrays(environment)


def test_without_gymnasium_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(ImportError, match=r"pip install 'chainrule\[rl\]'"):
        table_arrays("FrozenLake-v1")
