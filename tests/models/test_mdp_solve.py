"""What `MDP.solve` promises whatever the solver: feasible policies, honoured or refused options, bounds that hold."""

import itertools

import jax
import networkx as nx
import numpy as np
import pytest

import chainrule as cr

AVERAGE = cr.criteria.Average()


def way_home(discount=0.9):
    """home —go→ goal, where only `stay` is feasible, and pays nothing; `go` comes first."""
    graph = nx.MultiDiGraph()
    graph.add_edge("home", "goal", action="go", probability=1.0, reward=1.0)
    graph.add_edge("goal", "goal", action="stay", probability=1.0, reward=0.0)
    return cr.MDP.from_graph(graph, discount=discount)


@pytest.mark.parametrize(
    ("discount", "options"),
    [
        (0.9, {}),
        *((0.9, {"method": m}) for m in (cr.ValueIteration(True, 2), cr.PolicyIteration(), cr.LinearProgram())),
        (1.0, {}),
        (0.9, {"criterion": AVERAGE}),
        (0.9, {"criterion": cr.criteria.Robust(radius=0.0)}),
        (0.9, {"horizon": 2}),
        (1.0, {"horizon": 2}),
    ],
)
def test_where_nothing_happens_any_more_the_action_is_feasible(discount, options):
    mdp = way_home(discount)
    solution = mdp.solve(**options)
    steps = "horizon" in options
    assert solution.policy["goal"] == (["stay"] * 2 if steps else "stay")
    assert (solution.action_values[..., 1, 0] == -np.inf).all()
    np.testing.assert_allclose(solution.action_values[..., 1, 1], 0, atol=1e-6)
    if steps:
        return
    assert solution.best_actions("goal") == ["stay"]
    np.testing.assert_allclose(mdp.evaluate(solution.policy).values, [1, 0])
    np.testing.assert_array_equal(mdp.chain(solution.policy).transition, [[0, 1], [0, 1]])
    walks = mdp.simulate(jax.random.key(0), solution.policy, 2, start="home")
    assert walks.labels(0)[:2] == ["home", "goal"]


def test_all_feasible_actions_tie_where_none_matters():
    mdp = cr.MDP(np.ones((1, 3, 1)), np.zeros((1, 3)), mask=[[False, True, True]], discount=0.9)
    for options in ({}, {"criterion": AVERAGE}):
        solution = mdp.solve(**options)
        assert solution.best_actions(0) == [1, 2]
        assert solution.policy[0] == 1


def plans(probs, rewards, mask, terminal, discount, horizon, final):
    """The best of all plans, an action for each step and state: the expectation of each, by walking forwards."""
    size = len(probs)
    choices = [np.flatnonzero(row) if not over else [0] for row, over in zip(mask, terminal, strict=True)]
    every = [np.array(policy) for policy in itertools.product(*choices)]
    found = np.full(size, -np.inf)
    for plan in itertools.product(every, repeat=horizon):
        mass, worth = np.eye(size), np.zeros(size)  # mass[s]: where it is by now, from s
        for t, policy in enumerate(plan):
            paid = np.where(terminal, 0, rewards[np.arange(size), policy])
            worth += discount**t * (mass @ paid)
            mass = mass @ np.where(terminal[:, None], 0, probs[np.arange(size), policy])
        found = np.maximum(found, worth + discount**horizon * (mass @ final))
    return found


@pytest.mark.parametrize("seed", range(10))
def test_a_horizon_against_all_plans(seed):
    """Infeasible actions, terminal states, and states that stay for nothing, which `final` may still pay for."""
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.ones(3), (3, 2)) * (rng.random((3, 2, 3)) < 0.7) + 1e-3 * np.eye(3)[:, None]
    probs[2] = np.eye(3)[2]
    probs /= probs.sum(-1, keepdims=True)
    rewards, final = rng.integers(-1, 2, (3, 2)).astype(float), rng.normal(size=3)
    rewards[2] = 0
    mask, terminal = rng.random((3, 2)) < 0.6, np.arange(3) == (0 if seed % 3 == 0 else -1)
    mask[np.arange(3), rng.integers(0, 2, 3)] = True
    final[terminal], discount = 0, [1.0, 0.9][seed % 2]
    mdp = cr.MDP(probs, rewards, mask=mask, terminal=terminal, discount=discount)
    plan = mdp.solve(horizon=3, final=final)
    truth = plans(probs, rewards, mask, terminal, discount, 3, final)
    assert plan.status is cr.SolveStatus.CERTIFIED
    np.testing.assert_allclose(plan.values[0], truth, atol=1e-13)
    assert (plan.lower[0] <= truth + 1e-15).all()
    assert (truth <= plan.upper[0] + 1e-15).all()
    table = plan.policy.table
    assert ((table == -1) == terminal).all()
    assert mask[np.arange(3), table].all(axis=0)[~terminal].all()


def test_the_end_may_pay_where_nothing_else_does():
    mdp = cr.MDP([[[0, 1.0]], [[0, 1.0]]], [[1.0], [0.0]], discount=0.9)
    np.testing.assert_allclose(mdp.solve(horizon=1, final=[0.0, 10.0]).values[0], [10, 9])
    over = cr.MDP([[[0, 1.0]], [[0, 1.0]]], [[1.0], [0.0]], terminal=[False, True], states=("on", "off"))
    with pytest.raises(ValueError, match="final is 10 in the terminal state 'off'"):
        over.solve(horizon=1, final=[0.0, 10.0])
    assert over.solve(horizon=1, final=[3.0, 0.0]).values[0].tolist() == [1, 0]


def coin(discount=0.9):
    return cr.MDP([[[0.5, 0.5]], [[0.5, 0.5]]], [[1.0], [0.0]], discount=discount)


@pytest.mark.parametrize(
    ("discount", "options", "message"),
    [
        (0.9, {"final": [0.0, 1.0]}, "give a horizon too"),
        (0.9, {"final": "much", "horizon": 1}, "final is 'much'; wanted numbers"),
        (0.9, {"horizon": 2, "method": cr.ValueIteration()}, "leave out method"),
        (0.9, {"horizon": 2, "start": [0.0, 0.0]}, "leave out start"),
        (1.0, {"start": [0.0, 0.0]}, "without a discount, .* leave out start"),
        (0.9, {"horizon": 2.5}, r"horizon is 2\.5; wanted a whole number"),
        (0.9, {"horizon": "2"}, "horizon is '2'"),
        (0.9, {"horizon": 0}, "horizon is 0"),
        (0.9, {"method": "mpi"}, "method is 'mpi'; wanted an object such as"),
        (0.9, {"method": cr.ValueIteration}, "method is the class ValueIteration; wanted one of it"),
        (0.9, {"criterion": "average"}, "criterion is 'average'; wanted an object such as"),
        (0.9, {"criterion": cr.criteria.Average}, "criterion is the class Average"),
        (0.9, {"tolerance": "tight"}, "tolerance is 'tight'; wanted a number"),
        (0.9, {"tolerance": float("nan")}, "tolerance is nan"),
        (0.9, {"max_iterations": "many"}, "max_iterations is 'many'; wanted a number"),
        (0.9, {"criterion": AVERAGE, "final": [0.0, 1.0]}, "Average is about an infinite horizon; leave out final"),
        (0.9, {"criterion": cr.criteria.CVaR(0.5, start=0)}, "CVaR wants a number of steps"),
    ],
)
def test_no_option_is_ignored(discount, options, message):
    with pytest.raises(ValueError, match=message):
        coin(discount).solve(**options)


def test_the_tail_knows_what_the_end_is_worth():
    """Two tosses of a fair coin that pay 1 for each head, and 100 at the end after a tail: by hand."""
    mdp, final = coin(), np.array([0.0, 100.0])
    # from 0: 1 at once, then heads or tails: .9 · 1 or 0, and .81 · (0 or 100): returns 1, 1.9, 82, 82.9
    whole = mdp.solve(criterion=cr.criteria.CVaR(1.0, start=0), horizon=2, final=final)
    np.testing.assert_allclose(whole[0], 1 + 0.45 + 40.5)
    np.testing.assert_allclose(whole[0], mdp.solve(horizon=2, final=final).values[0, 0])
    np.testing.assert_allclose(whole.details["returns"], [1, 1.9, 82, 82.9])
    half = mdp.solve(criterion=cr.criteria.CVaR(0.5, start=0), horizon=2, final=final)
    np.testing.assert_allclose(half[0], 1.45)


def test_patience_of_the_tail_is_limited_and_bounds_hold():
    rng = np.random.default_rng(0)
    mdp = cr.MDP(rng.dirichlet(np.ones(3), (3, 2)), rng.normal(size=(3, 2)), discount=0.9)
    tail = cr.criteria.CVaR(0.3, start=0)
    fine = mdp.solve(criterion=tail, horizon=5, tolerance=1e-9)
    rough = mdp.solve(criterion=tail, horizon=5, tolerance=1e-9, max_iterations=2)
    assert rough.status is cr.SolveStatus.MAX_ITERATIONS
    assert rough.iterations == 2 < fine.iterations
    assert rough.details["lower"] <= fine.details["worth"] <= rough.details["upper"]
