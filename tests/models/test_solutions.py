"""Solutions and policies read by name, whatever axes come before the state."""

import jax
import numpy as np
import pytest

import chainrule as cr


def tied(**options):
    """Action 'x' and 'y' do the same, 'z' pays less; the last state is the end."""
    probs = np.zeros((3, 3, 3))
    probs[0, :, 1] = probs[1, :, 2] = probs[2, :, 2] = 1
    rewards = [[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]
    return cr.MDP(probs, rewards, terminal=[0, 0, 1], discount=0.9, states=("a", "b", "end"), actions="xyz", **options)


def test_best_actions_of_each_step():
    solution = tied().solve(horizon=2)
    assert solution.best_actions("a") == [["x", "y"]] * 2
    assert solution.best_actions("end") == [[], []]
    assert solution.optimal_actions.shape == (2, 3, 3)


def test_best_actions_of_each_process_of_a_batch():
    mdp = tied()
    rewards = np.stack([mdp.transitions.rewards] * 2)
    rewards[1, 0, 2] = 3
    for count in (2, 3):  # as many processes as there are states, and not as many
        batch = np.resize(rewards, (count, 3, 3)).astype(np.float32)
        solution = jax.vmap(lambda r: mdp.replace(rewards=r).solve(tolerance=1e-3))(batch)
        assert solution.best_actions("a") == [["x", "y"], ["z"], ["x", "y"]][:count]
        assert solution.best_actions("end") == [[]] * count
        assert [status.name for status in solution.status] == ["CERTIFIED"] * count
        assert solution.policy["a"][1] == "z"


def test_reading_all_states_takes_one_walk():
    class Name:
        """A name that counts how often it is compared."""

        compared = 0

        def __eq__(self, other):
            Name.compared += 1
            return self is other

        __hash__ = object.__hash__

    names = tuple(Name() for _ in range(300))
    policy = cr.Policy(np.full((300, 2), 0.5), states=names)
    assert len(dict(policy.items())) == 300
    ring = ((np.arange(300) + 1) % 300)[:, None, None]
    mdp = cr.MDP(np.ones((300, 1, 1)), np.zeros((300, 1)), successors=ring, discount=0.5, states=names)
    before = Name.compared
    fit = mdp.fit([(names[i], 0, 1.0, names[(i + 1) % 300]) for i in range(300)])
    assert Name.compared - before < 3000
    np.testing.assert_array_equal(fit.model.transitions.rewards, np.ones((300, 1)))
    with pytest.raises(ValueError, match="no state is called"):
        mdp.fit([(3, 0, 1.0, names[0])])
