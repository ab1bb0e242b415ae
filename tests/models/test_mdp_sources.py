"""What processes are made of: names in messages, rows found once, rewards in every form, memory."""

import tracemalloc

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import sparse

import chainrule as cr

HALF = [[[0.5, 0.5]], [[0.2, 0.8]]]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda **names: cr.MDP([[[0.5, 0.4]], [[0.2, 0.8]]], [[1.0], [0.0]], **names),
            r"^state 'a', action 'go': probabilities\[0, 0\] sum to 0.9, not 1",
        ),
        (
            lambda **names: cr.MDP.from_sparse([sparse.csr_array([[0.5, 0.4], [0, 1]])], [[1.0], [0.0]], **names),
            r"^state 'a', action 'go': probabilities\[0, 0\] sum to 0.9, not 1",
        ),
        (lambda **names: cr.MDP(HALF, [[1.0], [np.nan]], **names), r"^state 'b', action 'go': rewards\[1, 0\] is nan"),
        (lambda **names: cr.MDP(HALF, [[1.0], [0.0]], mask=[[1], [0]], **names), "^state 'b': state 1 has no feasible"),
        (
            lambda **names: cr.MDP([[0.5, 0.4]], [[1.0], [0.0]], rows=[[0], [0]], **names),
            r"^state 'a', action 'go': probabilities\[0\] sum to 0.9",
        ),
        (
            lambda **names: cr.MDP(HALF, [[1.0], [0.0]], successors=[[[0, 1]], [[0, 2**32 + 1]]], **names),
            r"^state 'b', action 'go': successors\[1, 0, 1\] is 4294967297, which is no index",
        ),
        (
            lambda **names: cr.MDP(HALF, [1.0, 7.0], terminal=[0, 1], **names),
            "^state 'b': state 1 is terminal, .* reward of 7: set that to 0",
        ),
    ],
)
def test_messages_have_names(make, message):
    with pytest.raises(ValueError, match=message):
        make(states=("a", "b"), actions=("go",))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: cr.MDP(HALF, [[1.0], [0.0]], states=([0], [1])), r"state \[0\] cannot be a name"),
        (lambda: cr.MDP(HALF, [[1.0], [0.0]], states=(([0],), 1)), "names of states must be hashable all through"),
        (lambda: cr.MDP(HALF, [[1.0], [0.0]], mask=[[np.nan], [1]]), r"mask\[0, 0\] is nan; wanted True or False"),
        (lambda: cr.MDP(HALF, [[1.0], [0.0]], mask=jnp.array([[2.0], [1]])), r"mask\[0, 0\] is 2"),
        (lambda: cr.MDP(HALF, [[1.0], [0.0]], terminal=[0, 0.5]), r"terminal\[1\] is 0.5; wanted True or False"),
        (lambda: cr.MDP([[0.5, 0.5]], [[1.0], [0.0]], rows=[[0], [2**32]]), r"rows\[1, 0\] is 4294967296"),
        (lambda: cr.MDP.from_function(lambda s, a: None, [[0]], ["go"]), r"a state is \[0\]; names of states"),
        (
            lambda: cr.MDP.from_function(lambda s, a: [(1.0, [s], 0.0)], [0], ["go"]),
            r"a state after 0 under 'go' is \[0\]",
        ),
        (lambda: cr.MDP.from_function(lambda s, a: None, [0, 1, 0], ["go"]), "state 0 is listed twice"),
        (
            lambda: cr.MDP.from_sparse(sparse.eye_array(2), [sparse.eye_array(2)], num_actions=1),
            "rewards are a list of matrices, but the transitions are one matrix",
        ),
        (lambda: cr.MDP.from_sparse([sparse.eye_array(2)], sparse.eye_array(2)), "rewards are one matrix, but"),
        (
            lambda: cr.MDP.from_sparse(sparse.eye_array(2), sparse.eye_array(3), num_actions=1),
            r"rewards have shapes \[\(3, 3\)\]; the matrices ask for \(2, 2\)",
        ),
        (lambda: cr.MDP.from_sparse([sparse.eye_array(2)], np.zeros(2), num_actions=2), "there are 1 matrices"),
    ],
)
def test_what_is_wrong_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_wide_indices_are_looked_at_before_they_are_narrowed():
    with pytest.raises(ValueError, match="4294967297, which is no index"):
        jax.eval_shape(  # also where the rest is traced
            lambda r: cr.Transitions(np.ones((2, 1, 1)), r, successors=np.array([[[2**32 + 1]], [[1]]])),
            jnp.ones((2, 1)),
        )
    assert cr.Transitions(np.ones((1, 1, 1)), [[1.0]], successors=np.array([[[0]]])).successors.dtype == np.int32


def test_sparse_rewards_by_outcome_in_both_forms():
    rng = np.random.default_rng(0)
    probs, paid = rng.dirichlet(np.ones(3), (3, 2)), rng.normal(size=(3, 2, 3))
    matrices, rewards = ([sparse.csr_array(x[:, a]) for a in range(2)] for x in (probs, paid))
    several = cr.MDP.from_sparse(matrices, rewards, discount=0.9)
    one = cr.MDP.from_sparse(
        sparse.csr_array(probs.reshape(6, 3)), sparse.csr_array(paid.reshape(6, 3)), num_actions=2, discount=0.9
    )
    for mdp in (several, one):
        np.testing.assert_allclose(mdp.transitions.outcome_rewards, paid)
        np.testing.assert_allclose(mdp.transitions.rewards, (probs * paid).sum(-1))


def test_equal_rows_are_found_whatever_they_pay():
    demand = [0.2, 0.5, 0.3]
    table = [
        [
            [(p, max(stock + order - k, 0), float(min(k, stock + order)), False) for k, p in enumerate(demand)]
            for order in range(10 - stock)
        ]
        for stock in range(10)
    ]
    mdp = cr.MDP.from_table(table, discount=0.9)
    form = mdp.transitions
    assert form.probabilities.shape == (10, 3)  # one for each stock after ordering
    assert form.outcome_rewards.shape == (10, 10, 3)
    whole = form.spread_out()
    assert whole.probabilities.shape == (10, 10, 3)
    plain = cr.MDP(whole.probabilities, whole.rewards, successors=whole.successors, mask=whole.mask, discount=0.9)
    np.testing.assert_allclose(mdp.solve().values, plain.solve().values, atol=2e-6)
    apart = cr.MDP(
        whole.probabilities, whole.outcome_rewards, successors=whole.successors, mask=whole.mask, discount=0.9
    )
    apart = eqx.tree_at(lambda m: m.transitions, apart, whole)
    for criterion in (cr.criteria.Entropic(0.5), cr.criteria.Robust(radius=0.1)):
        found, wanted = (m.solve(criterion=criterion).values for m in (mdp, apart))
        np.testing.assert_allclose(found, wanted, atol=1e-9)
    graph = mdp.graph()
    assert graph[3][1][0]["reward"] == 2
    walks = mdp.simulate(jax.random.key(0), np.full(10, 0), 5, num_samples=3, start=9)
    sold = -np.diff(np.asarray(walks.states), axis=1)
    np.testing.assert_array_equal(np.asarray(walks.rewards), sold)
    assert mdp.replace(rewards=2 * form.outcome_rewards).solve()[3] == pytest.approx(2 * mdp.solve()[3], abs=1e-5)


def test_tables_that_pay_the_same_whatever_follows_keep_that_only():
    table = [[[(0.5, 0, 1.0, False), (0.5, 1, 1.0, False)]], [[(1.0, 1, 0.0, True)]]]
    form = cr.MDP.from_table(table, discount=0.5).transitions
    assert form.outcome_rewards is None
    np.testing.assert_array_equal(form.rewards, [[1], [0]])


def test_functions_take_little_more_memory_than_the_arrays():
    size = 3000

    def step(state, action):
        share = 0.25 * (3 * state + action) / (3 * size)  # no two rows are equal
        probs = (share, 0.25 - share, 0.25, 0.5)
        return [(p, (7 * state + action + k) % size, 1.0 + 0.5 * (k > action)) for k, p in enumerate(probs)]

    cr.MDP.from_function(step, range(2), [0], explore=True)  # what is imported and cached on first use
    tracemalloc.start()
    try:
        form = cr.MDP.from_function(step, range(size), [0, 1, 2], discount=0.9).transitions
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    data = sum(np.asarray(x).nbytes for x in (form.probabilities, form.outcome_rewards, form.successors))
    assert peak < 4 * data
