"""Tables of outcomes are read as what they mean: `done` ends the episode, wherever it says it leads."""

import mdp_oracles
import numpy as np
import pytest

from chainrule.graphs.tables import read_table


def values(arrays, discount=1.0):
    probs = mdp_oracles.dense(arrays.probabilities, arrays.successors)
    rewards = (arrays.probabilities * arrays.rewards).sum(-1)
    found = mdp_oracles.value_iteration(probs, rewards, discount, arrays.mask)
    return dict(zip(arrays.states, found.tolist(), strict=True))


def simulate(table, rng, state, policy, discount):
    """Return of one episode by the table's own words."""
    total, weight = 0.0, 1.0
    while True:
        outcomes = table[state][policy[state]]
        _, state, reward, done = outcomes[rng.choice(len(outcomes), p=[o[0] for o in outcomes])]
        total += weight * reward
        weight *= discount
        if done:
            return total


def test_lists_and_mappings_give_the_same():
    lists = [[[(0.5, 0, 1.0, False), (0.5, 1, 0.0, True)], [(1.0, 1, 2.0, False)]], [[(1.0, 1, 0.0, True)]]]
    mappings = {s: dict(enumerate(row)) for s, row in enumerate(lists)}
    for found, other in zip(read_table(lists), read_table(mappings), strict=True):
        np.testing.assert_array_equal(found, other)
    arrays = read_table(lists)
    assert (arrays.states, arrays.actions) == ((0, 1), (0, 1))
    np.testing.assert_array_equal(arrays.mask, [[True, True], [False, False]])
    np.testing.assert_array_equal(arrays.terminal, [False, True])
    assert arrays.successors.dtype == np.int32


def test_labels_come_from_mappings_and_missing_actions_are_masked():
    arrays = read_table({"a": {"go": [(1, "b", -1, False)]}, "b": {"stay": [(1, "b", 0, False)], "go": []}})
    assert (arrays.states, arrays.actions) == (("a", "b"), ("go", "stay"))
    np.testing.assert_array_equal(arrays.mask, [[True, False], [False, True]])
    assert not arrays.terminal.any()
    renamed = read_table(
        [[[(1.0, 0, 0, True)], [(1.0, 0, 1, False)]]], states=["x"], actions=["stop", "on"], end="over"
    )
    assert (renamed.states, renamed.actions) == (("x", "over"), ("stop", "on"))


def test_a_state_without_outcomes_is_terminal():
    arrays = read_table({"a": {"go": [(1.0, "b", 3.0, False)]}, "b": {}})
    np.testing.assert_array_equal(arrays.terminal, [False, True])
    assert values(arrays) == {"a": 3.0, "b": 0.0}


def test_an_outcome_that_ends_is_not_bootstrapped_from_its_next_state():
    # 'b' pays 10 a visit, but going there with done earns nothing of it
    table = {"a": {"end": [(1.0, "b", 1.0, True)], "on": [(1.0, "b", 0.0, False)]}, "b": {"go": [(1, "b", 10, True)]}}
    arrays = read_table(table)
    assert arrays.states == ("a", "b", "done")
    assert values(arrays) == {"a": 10.0, "b": 10.0, "done": 0.0}
    only_end = read_table({"a": {"end": table["a"]["end"]}, "b": table["b"]})
    assert values(only_end)["a"] == 1.0


def test_a_bandit_ends_where_it_stands():
    arrays = read_table([[[(1.0, 0, 1.0, True)], [(0.5, 0, 3.0, True), (0.5, 0, 0.0, True)]]])
    assert values(arrays) == {0: 1.5, "done": 0.0}
    np.testing.assert_array_equal(np.sort(arrays.rewards[0]), [[0, 1], [0, 3]])


def test_the_start_as_a_placeholder_after_the_end_is_not_taken_for_terminal():
    table = [[[(1.0, 1, 0.0, False)]], [[(1.0, 0, 5.0, True)]]]
    assert values(read_table(table)) == {0: 5.0, 1: 5.0, "done": 0.0}
    assert values(read_table(table, initial=[1.0, 0.0])) == {0: 5.0, 1: 5.0, "done": 0.0}


def test_where_nothing_starts_and_only_ends_lead_is_terminal():
    table = [[[(1.0, 1, -1.0, True)]], [[(1.0, 0, -1.0, False)]]]
    assert read_table(table).states == (0, 1, "done")
    known = read_table(table, initial=[1.0, 0.0])
    assert known.states == (0, 1)
    np.testing.assert_array_equal(known.terminal, [False, True])


def test_outcomes_add_up_and_impossible_ones_are_left_out():
    row = [(0.25, 1, 2.0, False), (0.25, 1, 2.0, False), (0.5, 1, 4.0, False), (0.0, 0, 99.0, False)]
    arrays = read_table([[row], [[(1.0, 1, 0.0, True)]]])
    np.testing.assert_array_equal(arrays.successors[0], [[1, 1]])
    np.testing.assert_array_equal(arrays.probabilities[0], [[0.5, 0.5]])
    np.testing.assert_array_equal(arrays.rewards[0], [[2, 4]])
    np.testing.assert_array_equal(arrays.probabilities[1], [[0, 0]])
    np.testing.assert_array_equal(arrays.successors[1], [[0, 0]])


def test_values_are_the_mean_returns_of_the_table_s_own_episodes():
    rng = np.random.default_rng(0)
    table = [
        [
            [
                (p, int(t), float(r), bool(d))
                for p, t, r, d in zip(
                    rng.dirichlet(np.ones(4)), rng.integers(5, size=4), rng.normal(size=4), [1, 0, 0, 0], strict=True
                )
            ]
            for _ in range(2)
        ]
        for _ in range(5)
    ]
    arrays = read_table(table)
    policy = rng.integers(2, size=5).tolist()
    probs = mdp_oracles.dense(arrays.probabilities, arrays.successors)
    rewards = (arrays.probabilities * arrays.rewards).sum(-1)
    exact = mdp_oracles.evaluate(probs, rewards, [*policy, -1], 0.95)
    for state in range(5):
        returns = [simulate(table, rng, state, policy, 0.95) for _ in range(1500)]
        # five standard errors of the mean
        assert abs(np.mean(returns) - exact[state]) < 5 * np.std(returns) / np.sqrt(1500)


GOOD = [(1.0, "a", 0.0, False)]


@pytest.mark.parametrize(
    ("table", "options", "message"),
    [
        ({}, {}, "the table is empty"),
        (3, {}, "the table must be a mapping or a sequence, got int"),
        ({"a": 3}, {}, "state 'a' must be a mapping or a sequence, got int"),
        ({"a": {"go": 3}}, {}, r"state 'a', action 'go' must be a list of \(probability"),
        ({"a": {"go": {1: 2}}}, {}, "state 'a', action 'go' must be a list"),
        ({"a": {"go": [(1.0, "a", 0.0)]}}, {}, "state 'a', action 'go': outcome 0 is .* wanted"),
        ({"a": {"go": [(0.5, "a", 0, False), (0.4, "a", 0, True)]}}, {}, "'go': probabilities sum to 0.9, not 1"),
        ({"a": {"go": [(1.5, "a", 0.0, False)]}}, {}, "probability 1.5, outside"),
        ({"a": {"go": [(-0.5, "a", 0.0, False)]}}, {}, "probability -0.5, outside"),
        ({"a": {"go": [(float("nan"), "a", 0.0, False)]}}, {}, "probability nan; wanted a finite number"),
        ({"a": {"go": [("1", "a", 0.0, False)]}}, {}, "probability '1'; wanted a finite number"),
        ({"a": {"go": [(1.0, "a", float("inf"), False)]}}, {}, "reward inf; wanted a finite number"),
        ({"a": {"go": [(1.0, "a", 0.0, 1)]}}, {}, "done 1; wanted True or False"),
        ({"goal": {"go": [(1.0, "gaol", 0.0, True)]}}, {}, "outcome 0: unknown next state 'gaol'; did you mean 'goal'"),
        ({"a": {"go": []}}, {}, "no state has a feasible action"),
        ({"a": {"go": [(1.0, "a", 0.0, True)]}}, {}, "no state has a feasible action"),
        ({"a": {"go": GOOD}}, {"states": ["x", "y"]}, "got 2 state labels; the table has 1 states"),
        ({"a": {"go": GOOD, "on": GOOD}}, {"actions": ["x", "x"]}, "action label 'x' is there twice"),
        ({"a": {"go": GOOD}}, {"initial": [0.5]}, "initial must be 1 probabilities that sum to 1"),
        ({"a": {"go": [(1.0, "a", 2.0, True)]}}, {"end": "a"}, "there is a state 'a' already"),
    ],
)
def test_bad_tables_are_named(table, options, message):
    with pytest.raises(ValueError, match=message):
        read_table(table, **options)
