"""Average reward: by hand, against all policies, against the linear programme of multichain processes."""

import jax
import numpy as np
import pytest
from scipy.optimize import linprog

import chainrule as cr
from chainrule.inference.planning.long_run import long_run, stochastic

from . import enumeration
from .enumeration import random_mdp

AVERAGE = cr.criteria.Average()


def gains_by_programme(mdp):
    """min Σ g such that g ≥ P g and g + h ≥ r + P h (Puterman 1994, §9.3)."""
    P, r = enumeration.dense(mdp)
    S = len(P)
    pairs = [(s, a) for s, actions in enumerate(enumeration.feasible(mdp)) for a in actions]
    eye, zero = np.eye(S), np.zeros(S)
    rows = [np.concatenate([P[s, a] - eye[s], zero]) for s, a in pairs]
    rows += [np.concatenate([-eye[s], P[s, a] - eye[s]]) for s, a in pairs]
    right = [0.0] * len(pairs) + [-r[s, a] for s, a in pairs]
    found = linprog(np.append(np.ones(S), zero), A_ub=np.array(rows), b_ub=right, bounds=(None, None))
    assert found.status == 0
    return found.x[:S]


@pytest.mark.parametrize("seed", range(60))
def test_no_policy_is_better_and_the_one_returned_is_as_good(seed):
    mdp = random_mdp(np.random.default_rng(seed))
    solution = mdp.solve(criterion=AVERAGE, tolerance=1e-8)
    truth = enumeration.best(mdp, enumeration.gain)
    assert solution.status is cr.SolveStatus.CERTIFIED
    # the powers that the truth comes from are good to about 1e-10
    assert (solution.lower <= truth + 1e-9).all()
    assert (truth <= solution.upper + 1e-9).all()
    matrix, reward = enumeration.follow(mdp, solution.policy.table)
    np.testing.assert_allclose(enumeration.gain(matrix, reward), truth, atol=2e-8)
    np.testing.assert_allclose(solution.details["attained"], truth, atol=2e-8)


@pytest.mark.parametrize("seed", range(60, 85))
def test_linear_programme_agrees(seed):
    mdp = random_mdp(np.random.default_rng(seed), most_states=7)
    solution = mdp.solve(criterion=AVERAGE, tolerance=1e-8)
    np.testing.assert_allclose(solution.values, gains_by_programme(mdp), atol=1e-6)  # HiGHS keeps to 1e-7


@pytest.mark.parametrize("seed", range(25))
def test_gain_and_bias_satisfy_both_optimality_equations(seed):
    mdp = random_mdp(np.random.default_rng(seed))
    solution = mdp.solve(criterion=AVERAGE, tolerance=1e-8)
    gain, bias, (P, r) = solution.details["attained"], solution.details["bias"], enumeration.dense(mdp)
    for s, actions in enumerate(enumeration.feasible(mdp)):
        onward = P[s, actions] @ gain
        np.testing.assert_allclose(onward.max(), gain[s], atol=1e-8)
        keeps = actions[onward >= gain[s] - 1e-8]
        np.testing.assert_allclose((r[s, keeps] + P[s, keeps] @ bias).max(), gain[s] + bias[s], atol=1e-7)


def test_a_periodic_chain_by_hand():
    # 0 and 1 in turn pay 3 and 0; staying in 0 pays 1
    mdp = cr.MDP([[[0.0, 1.0], [1.0, 0.0]], [[1.0, 0.0], [1.0, 0.0]]], [[3.0, 1.0], [0.0, 0.0]])
    solution = mdp.solve(criterion=AVERAGE, tolerance=1e-10)
    np.testing.assert_allclose(solution.values, 1.5, atol=1e-10)
    np.testing.assert_allclose(solution.details["bias"], [0.75, -0.75], atol=1e-9)
    assert solution.policy[0] == 0
    assert solution.best_actions(0) == [0]


def test_where_to_settle_is_chosen_and_its_odds_weighed():
    # "home" can try for "rich" (pays 4 for ever, half the time; else "poor", 0) or settle for "fine", which pays 1
    paid = {"rich": 4.0, "poor": 0.0, "fine": 1.0}

    def step(s, a):
        if s in paid:
            return [(1.0, s, paid[s])] if a == "stay" else None
        return {"try": [(0.5, "rich", -9.0), (0.5, "poor", -9.0)], "settle": [(1.0, "fine", 9.0)]}.get(a)

    mdp = cr.MDP.from_function(step, ["home"], actions=("stay", "try", "settle"))
    solution = mdp.solve(criterion=AVERAGE)
    assert abs(solution["home"] - 2) <= 1e-6
    assert solution.policy["home"] == "try"
    assert solution.best_actions("home") == ["try"]
    np.testing.assert_allclose(solution.details["bias"][mdp.index("home")], -11, atol=1e-9)


def test_a_component_is_left_for_a_better_one():
    # three states in a ring pay 1 each; from the third there is a way out to 2 for ever
    n = np.arange(4)
    successors = np.stack([(n + 1) % 3, np.where(n == 2, 3, n)], 1)[..., None]
    successors[3] = 3
    rewards = np.where(n == 3, 2.0, 1.0)[:, None] * np.ones((1, 2)) - (n == 2)[:, None] * [[0, 100]]
    solution = cr.MDP(np.ones((4, 2, 1)), rewards, successors=successors).solve(criterion=AVERAGE)
    np.testing.assert_allclose(solution.values, 2, atol=1e-6)
    assert solution.policy[2] == 1
    assert solution.policy[0] == solution.policy[1] == 0
    assert solution.details["component"].tolist() in ([0, 0, 0, 1], [1, 1, 1, 0])


def test_an_end_pays_nothing():
    mdp = cr.MDP([[[0.5, 0.5]], [[0.0, 1.0]]], [[7.0], [1.0]], terminal=[False, True])
    solution = mdp.solve(criterion=AVERAGE)
    assert solution.values.tolist() == [0, 0]
    assert solution.policy[1] is None
    np.testing.assert_allclose(solution.details["bias"], [14, 0])


@pytest.mark.parametrize("discount", [0.0, 0.5, 1.0])
def test_the_discount_plays_no_part(discount):
    mdp = random_mdp(np.random.default_rng(3)).replace(discount=discount)
    np.testing.assert_array_equal(
        mdp.solve(criterion=AVERAGE).values, mdp.replace(discount=1.0).solve(criterion=AVERAGE).values
    )


def test_discounted_values_tend_to_it():
    mdp = cr.MDP.random(jax.random.key(0), 200, 4)
    gain = mdp.solve(criterion=AVERAGE, tolerance=1e-9).values
    value = mdp.replace(discount=1 - 1e-6).solve(tolerance=1e-3).values
    np.testing.assert_allclose(1e-6 * value, gain, atol=1e-5)


def test_a_slow_chain_is_solved_exactly():
    # replacement of 3,000 bins: value iteration alone would take tens of thousands of steps
    S = 3000
    bins = np.arange(S)
    keep = np.stack([np.minimum(bins + k, S - 1) for k in range(3)], -1)
    successors = np.stack([keep, np.broadcast_to(np.arange(3), (S, 3))], 1)
    rewards = np.stack([-0.003 * bins, np.full(S, -9.0)], 1)
    mdp = cr.MDP(np.broadcast_to([0.35, 0.62, 0.03], (S, 2, 3)), rewards, successors=successors)
    solution = mdp.solve(criterion=AVERAGE, tolerance=1e-9)
    assert solution.status is cr.SolveStatus.CERTIFIED
    assert solution.iterations < 500
    first = int(np.argmax(solution.policy.table == 1))
    assert (solution.policy.table[first : first + 100] == 1).all()  # replace from some bin on
    np.testing.assert_allclose(solution.details["attained"], solution.values, atol=1e-9)


def test_single_precision_models_are_certified_in_double():
    mdp = random_mdp(np.random.default_rng(5))
    form = mdp.transitions.spread_out()
    single = cr.MDP(
        form.probabilities.astype(np.float32), form.rewards.astype(np.float32), mask=form.mask, terminal=form.terminal
    )
    solution = single.solve(criterion=AVERAGE, tolerance=1e-9)
    P = np.asarray(single.transitions.spread_out().probabilities, np.float64)
    exact = cr.MDP(
        P / P.sum(-1, keepdims=True),
        np.asarray(single.transitions.spread_out().rewards, np.float64),
        mask=form.mask,
        terminal=form.terminal,
    )
    truth = enumeration.best(exact, enumeration.gain)
    assert (solution.lower <= truth + 1e-9).all()
    assert (truth <= solution.upper + 1e-9).all()


def test_too_few_iterations_are_reported_and_bounds_hold():
    mdp = cr.MDP.random(jax.random.key(1), 300, 3)
    rough, fine = mdp.solve(criterion=AVERAGE, max_iterations=2), mdp.solve(criterion=AVERAGE, tolerance=1e-9)
    assert rough.status is cr.SolveStatus.MAX_ITERATIONS
    assert rough.gap > 1e-6
    assert (rough.lower <= fine.upper).all()
    assert (fine.lower <= rough.upper).all()


def test_a_solution_is_a_start():
    mdp = cr.MDP.random(jax.random.key(2), 300, 3)
    cold = mdp.solve(criterion=AVERAGE, tolerance=1e-10)
    warm = mdp.solve(criterion=AVERAGE, tolerance=1e-8, start=cold.details["bias"])
    assert warm.iterations < cold.iterations / 2


def test_what_does_not_fit_is_refused():
    mdp = random_mdp(np.random.default_rng(0))
    with pytest.raises(ValueError, match="method of its own"):
        mdp.solve(criterion=AVERAGE, method=cr.ValueIteration())
    with pytest.raises(ValueError, match="infinite horizon"):
        mdp.solve(criterion=AVERAGE, horizon=3)


@pytest.mark.parametrize("seed", range(30))
def test_long_run_of_a_chain(seed):
    rng = np.random.default_rng(seed)
    mdp = random_mdp(rng, most_states=8)
    matrix, reward = enumeration.follow(mdp, next(enumeration.policies(mdp)))
    found = long_run(stochastic(matrix), reward)
    assert found is not None
    np.testing.assert_allclose(found.gain, enumeration.gain(matrix, reward), atol=1e-9)
    np.testing.assert_allclose(found.bias + found.gain, reward + matrix @ found.bias, atol=1e-9)
    np.testing.assert_allclose(enumeration.gain(matrix, found.bias), 0, atol=1e-9)  # P* h = 0
