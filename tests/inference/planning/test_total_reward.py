"""Total rewards without a discount: right, or refused by name, never wrong silently."""

import itertools

import mdp_oracles as oracles
import numpy as np
import pytest

import chainrule as cr
from chainrule.inference.planning.components import end_components
from chainrule.inference.planning.process import Process

GOES, STAYS = [0.0, 1.0], [1.0, 0.0]


def totals(process, policy):
    """Σ_t P^t r by doubling: the first 2⁴⁰ steps, which is for ever where the process ends or pays nothing."""
    probs = oracles.dense(process["probabilities"], process["successors"])
    states = np.arange(len(probs))
    going = ~process["terminal"]
    matrix = np.where(going[:, None], probs[states, policy], 0)
    total = np.where(going, process["rewards"][states, policy], 0)
    for _ in range(40):
        total, matrix = total + matrix @ total, matrix @ matrix
    return np.where(total < -1e6, -np.inf, total)


@pytest.mark.parametrize("seed", range(12))
def test_the_best_of_all_policies(seed):
    """Costs of 0 and 1, so that the process can often go round for nothing."""
    rng = np.random.default_rng(seed)
    shape = (5, 2)
    process = {
        "probabilities": rng.dirichlet(np.ones(2), shape),
        "rewards": -rng.integers(0, 2, shape).astype(float),
        "successors": rng.integers(0, 5, (*shape, 2)),
        "terminal": np.arange(5) == 0,
    }
    wanted = np.max([totals(process, list(policy)) for policy in itertools.product((0, 1), repeat=5)], axis=0)
    mdp = cr.MDP(**process)
    if np.isinf(wanted).any():
        with pytest.raises(ValueError, match="never ends"):
            mdp.solve()
        return
    solution = mdp.solve()
    np.testing.assert_allclose(solution.values, wanted, atol=1e-10)
    assert (solution.lower - 1e-13 <= wanted).all()
    assert (wanted <= solution.upper + 1e-13).all()
    assert solution.gap < 1e-9
    np.testing.assert_allclose(totals(process, np.maximum(solution.policy.table, 0)), wanted, atol=1e-10)
    np.testing.assert_allclose(mdp.evaluate(solution.policy).values, wanted, atol=1e-10)


def test_going_round_for_nothing_is_worth_nothing():
    # 0 ⇄ 1 for free; from 1 a lottery: 10 with probability one half, else −30. Better never to play it.
    mdp = cr.MDP(
        [[[0, 1, 0], [0, 1, 0]], [[1, 0, 0], [0, 0, 1]], [[0, 0, 1], [0, 0, 1]]],
        [[0, 0], [0, -10.0], [0, 0]],
        terminal=[False, False, True],
    )
    solution = mdp.solve()
    np.testing.assert_array_equal(solution.values, [0, 0, 0])
    assert solution.policy.table.tolist() == [0, 0, -1]
    better = mdp.replace(rewards=np.array([[0, 0], [0, 10.0], [0, 0]])).solve()
    np.testing.assert_allclose(better.values, [10, 10, 0])
    assert better.policy.table.tolist()[1] == 1


@pytest.mark.parametrize(
    ("rewards", "message"),
    [
        ([[1.0, 0.0], [0.0, 0.0]], "from state 'a' is infinite.*gain at least"),
        ([[-1.0, 2.0], [2.0, -1.0]], "from state 'a' is infinite"),
        (
            [[-1.0, 1.0], [-1.0, -1.0]],
            "reward from state 'a' settles could not be shown.*may not lose.*between 0 and 0",
        ),
        ([[-1.0, -1.0], [-1.0, -1.0]], "from state 'a' the process never ends"),
    ],
)
def test_what_has_no_total_is_refused_by_name(rewards, message):
    mdp = cr.MDP([[STAYS, GOES], [GOES, STAYS]], rewards, states=("a", "b"))
    with pytest.raises(ValueError, match=message):
        mdp.solve()


def test_gamblers_ruin():
    """Bold play is optimal; from 50 it wins with probability p, from 25 with p² (Dubins and Savage 1965)."""

    def step(money, bet):
        if 0 < money < 100 and bet <= min(money, 100 - money):
            return [(0.4, money + bet, float(money + bet >= 100)), (0.6, money - bet, 0.0)]
        return None

    mdp = cr.MDP.from_function(step, [50], actions=range(1, 51))
    solution = mdp.solve()
    assert solution[50] == pytest.approx(0.4, abs=1e-12)
    assert solution[25] == pytest.approx(0.16, abs=1e-12)
    assert solution[75] == pytest.approx(0.4 + 0.6 * 0.4, abs=1e-12)
    assert 25 in solution.best_actions(25)
    assert solution.best_actions(100) == []


def test_a_corridor_in_closed_form():
    """One step each at −1, with success 0.8: the distance over 0.8."""
    size = 200
    cells = np.arange(size)
    successors = np.stack([np.maximum(cells - 1, 0), cells], 1)[:, None]
    probs = np.tile([0.8, 0.2], (size, 1, 1))
    mdp = cr.MDP(probs, -np.ones((size, 1)), successors=successors, terminal=cells == 0)
    for method in (None, cr.PolicyIteration("krylov")):
        solution = mdp.solve(method=method)
        np.testing.assert_allclose(solution.values, -cells / 0.8, rtol=1e-9)
        assert (solution.lower <= -cells / 0.8 + 1e-9).all()
    near_one = cr.MDP(probs, -np.ones((size, 1)), successors=successors, terminal=cells == 0, discount=1 - 1e-9).solve()
    np.testing.assert_allclose(near_one.values, -cells / 0.8, rtol=1e-5)


@pytest.mark.parametrize("evaluation", ["direct", "krylov"])
def test_a_way_by_luck_alone_is_no_beginning(evaluation):
    """Down by one with 0.1 or with 0.9: with the worse action, it takes 9^n steps, more than numbers have digits."""
    n = np.arange(400)
    successors = np.broadcast_to(np.stack([np.maximum(n - 1, 0), np.minimum(n + 1, 399)], 1)[:, None], (400, 2, 2))
    probs = np.broadcast_to([[0.1, 0.9], [0.9, 0.1]], successors.shape)
    mdp = cr.MDP(probs, -np.ones((400, 2)), successors=successors, terminal=n == 0)
    solution = mdp.solve(method=cr.PolicyIteration(evaluation))
    assert solution.status is cr.SolveStatus.CERTIFIED
    np.testing.assert_allclose(solution.values[:300], -n[:300] / 0.8, rtol=1e-10)  # the wall at the top is 9^-100 of it
    assert (solution.policy.table[1:] == 1).all()


def test_only_policy_iteration_does_without_a_discount():
    mdp = cr.MDP([[GOES], [GOES]], [[-1.0], [0.0]], terminal=[False, True])
    with pytest.raises(ValueError, match="without a discount the method is PolicyIteration"):
        mdp.solve(method=cr.ValueIteration())
    assert mdp.solve()[0] == -1


def test_end_components_by_hand():
    # 0 ⇄ 1 by action 0; action 1 of 1 goes to 2, which stays; 3 is left at once
    probs = np.zeros((4, 2, 4))
    probs[0, 0, 1] = probs[1, 0, 0] = probs[1, 1, 2] = probs[2, :, 2] = probs[3, :, 0] = 1
    probs[0, 1, [0, 2]] = 0.5
    component, inside = end_components(Process(cr.Transitions(probs, np.ones((4, 2)))))
    assert component.tolist() == [component[0], component[0], component[2], -1]
    assert component[0] != component[2]
    np.testing.assert_array_equal(inside, [[1, 0], [1, 0], [1, 1], [0, 0]])


def test_evaluating_what_never_ends():
    mdp = cr.MDP([[STAYS, GOES], [GOES, GOES]], [[-1.0, -1.0], [0.0, 0.0]], terminal=[False, True])
    assert mdp.evaluate([0, -1])[0] == -np.inf
    assert mdp.evaluate([1, -1])[0] == -1
    assert mdp.evaluate([[0.5, 0.5], [0.0, 0.0]])[0] == pytest.approx(-2)
    free = mdp.replace(rewards=np.zeros((2, 2)))
    assert free.evaluate([0, -1])[0] == 0


def test_finite_horizons():
    rng = np.random.default_rng(0)
    probs, rewards = rng.dirichlet(np.ones(4), (4, 3)), rng.normal(size=(4, 3))
    final = rng.normal(size=4)
    mdp = cr.MDP(probs, rewards, discount=0.9)
    plan = mdp.solve(horizon=6, final=final)
    wanted = oracles.finite_horizon(probs, rewards, 0.9, 6, final)[::-1]
    np.testing.assert_allclose(plan.values, wanted, atol=1e-13)
    assert plan.gap < 1e-12
    assert plan.policy.table.shape == (6, 4)
    assert len(plan.policy[0]) == 6
    with pytest.raises(ValueError, match="horizon is 0"):
        mdp.solve(horizon=0)
    with pytest.raises(ValueError, match=r"final has shape \(3,\)"):
        mdp.solve(horizon=2, final=np.zeros(3))
