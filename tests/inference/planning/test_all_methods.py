"""Every method at discounts near one, and on problems whose values are known: in closed form, or from books."""

import mdp_oracles as oracles
import numpy as np
import pytest

import chainrule as cr

METHODS = [
    cr.ModifiedPolicyIteration(),
    cr.ModifiedPolicyIteration(sweeps=7),
    cr.ValueIteration(),
    cr.ValueIteration(gauss_seidel=True, blocks=3),
    cr.PolicyIteration(),
    cr.PolicyIteration("krylov"),
    cr.AndersonAcceleration(),
    cr.LinearProgram(),
]


def small(seed, discount):
    """Ties, infeasible actions, absorbing states that pay, cost or do neither, a terminal state; sometimes no rewards."""
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.ones(8), (8, 3)) * (rng.random((8, 3, 8)) < 0.5) + 0.01 * np.eye(8)[:, None]
    rewards = rng.integers(-1, 2, (8, 3)).astype(float) * (seed % 4 > 0)
    for s in (5, 6):
        probs[s] = np.eye(8)[s]
    rewards[5], rewards[6] = 0, seed % 3 - 1
    probs[:, 2], rewards[:, 2] = probs[:, 0], rewards[:, 0]
    probs /= probs.sum(-1, keepdims=True)
    mask = rng.random((8, 3)) < 0.6
    mask[np.arange(8), rng.integers(0, 3, 8)] = True
    terminal = np.arange(8) == (7 if seed % 2 else -1)
    return {"probabilities": probs, "rewards": rewards, "mask": mask, "terminal": terminal, "discount": discount}


@pytest.mark.parametrize("method", METHODS, ids=repr)
@pytest.mark.parametrize("discount", [0.9, 0.999])
def test_methods_agree_near_a_discount_of_one(method, discount):
    for seed in range(8) if discount < 0.99 else (3, 4):
        process = small(seed, discount)
        going = ~process["terminal"]
        mask = process["mask"] & going[:, None]
        mdp = cr.MDP(**process)
        wanted = oracles.policy_iteration(process["probabilities"], process["rewards"], discount, mask)
        tolerance = 1e-6 if discount < 0.99 else 0.1  # of values of about 1e3
        solution = mdp.solve(method=method, tolerance=tolerance)
        assert solution.status is cr.SolveStatus.CERTIFIED
        assert solution.gap <= tolerance
        slack = 1e-8 if discount > 0.99 else 1e-12  # of the oracle's LU, whose matrix has a condition of 1 / (1 − γ)
        assert (solution.lower <= wanted + slack).all()
        assert (wanted <= solution.upper + slack).all()
        table = solution.policy.table
        assert process["mask"][np.arange(8), table][going].all()
        assert (table[~going] == -1).all()
        twins = going & process["mask"][:, 0] & process["mask"][:, 2]
        np.testing.assert_array_equal(solution.optimal_actions[twins, 0], solution.optimal_actions[twins, 2])
        assert solution.optimal_actions[going].any(axis=1).all()


def two_states():
    """Puterman (1994), §3.1: v(s₁) is the better of a₁₁ (5, stay or go with ½) and a₁₂ (10, go); s₂ costs 1 for ever."""
    probs = [[[0.5, 0.5], [0.0, 1.0]], [[0.0, 1.0], [0.0, 1.0]]]
    return cr.MDP(probs, [[5.0, 10.0], [-1.0, 0.0]], mask=[[True, True], [True, False]], discount=0.95)


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_the_two_state_example_of_puterman(method):
    """§6.2 to §6.4: at γ = .95, v(s₂) = −20, v(s₁) = −8.571 under a₁₁ and −9 under a₁₂; they are equal at γ = 10/11."""
    mdp = two_states()
    solution = mdp.solve(method=method, tolerance=1e-8)
    np.testing.assert_allclose(solution.values, [-4.5 / 0.525, -20], atol=1e-8)
    assert solution.policy[0] == 0
    np.testing.assert_allclose(solution.action_values[0], [-4.5 / 0.525, 10 - 19], atol=1e-7)
    tie = mdp.replace(discount=10 / 11).solve(method=method, tolerance=1e-10)
    assert tie.best_actions(0) == [0, 1]
    np.testing.assert_allclose(tie.values, [0, -11], atol=1e-9)
    assert mdp.replace(discount=0.9).solve(method=method).policy[0] == 1


def test_the_two_state_example_over_steps_and_on_average():
    mdp = two_states().replace(discount=1.0)
    plan = mdp.solve(horizon=3, final=[0.0, 0.0])
    # one step to go 10, two 10 − 1 or 5 + ½ (10 − 1) = 9.5, three 5 + ½ (9.5 − 2) = 8.75 or 10 − 2
    np.testing.assert_allclose(plan.values[:, 0], [8.75, 9.5, 10, 0])
    assert plan.policy[0] == [0, 0, 1]
    np.testing.assert_allclose(mdp.solve(criterion=cr.criteria.Average()).values, -1, atol=1e-6)
    with pytest.raises(ValueError, match="never ends"):
        mdp.solve()


@pytest.mark.parametrize("discount", [0.9, 1.0])
def test_selling_a_house(discount):
    """Optimal stopping of N uniform offers, without recall: v_N = ½, v_n = (1 + w²) / 2 with w = γ v_{n+1}, by hand.

    Puterman (1994), §3.4.2 and §4.6.3 (the secretary problem is its cousin); Moser (1956) for the numbers.
    """
    offers = np.arange(10) / 10 + 0.05  # ten offers, each of probability 0.1

    def step(state, action):
        if state == "sold":
            return None
        day, offer = state
        if action == "sell":
            return [(1.0, "sold", offers[offer])]
        return [(0.1, (day + 1, k), 0.0) for k in range(10)] if day < 5 else None

    mdp = cr.MDP.from_function(step, [(1, k) for k in range(10)], ["sell", "wait"], discount=discount)
    solution = mdp.solve(tolerance=1e-10)
    worth = offers.mean()
    for day in (4, 3, 2, 1):
        for k in range(10):
            assert solution[day, k] == pytest.approx(max(offers[k], discount * worth), abs=1e-9)
            wanted = "sell" if offers[k] > discount * worth else "wait"
            assert wanted in solution.best_actions((day, k))
        worth = np.maximum(offers, discount * worth).mean()


def frozen_lake(rows):
    """Slippery lakes as Gymnasium draws them: ⅓ as meant and to either side; holes and the goal end it."""
    size, letters = len(rows), "".join(rows)

    def step(s, a):
        if letters[s] in "HG":
            return None
        r, c = divmod(s, size)
        where = ((r, c - 1), (r + 1, c), (r, c + 1), (r - 1, c))
        found = []
        for d in (a - 1, a, a + 1):
            x, y = np.clip(where[d % 4], 0, size - 1)
            t = int(x * size + y)
            found.append((1 / 3, t, float(letters[t] == "G")))
        return found

    return step, size * size


def test_frozen_lakes():
    """Without a discount the small one is won with probability 14/17; with 0.99, 0.5420 (Gymnasium's documentation)."""
    step, size = frozen_lake(("SFFF", "FHFH", "FFFH", "HFFG"))
    for discount, wanted, slack in ((1.0, 14 / 17, 1e-9), (0.99, 0.54202593, 1e-7)):
        mdp = cr.MDP.from_function(step, range(size), range(4), discount=discount)
        assert mdp.solve(tolerance=1e-9)[0] == pytest.approx(wanted, abs=slack)
    for method in (None, cr.PolicyIteration("krylov")):
        solution = cr.MDP.from_function(step, range(size), range(4)).solve(method=method)
        assert solution.lower[0] <= 14 / 17 <= solution.upper[0]
        assert solution.status is cr.SolveStatus.CERTIFIED


def test_cliff_walking():
    """Sutton and Barto (2018), example 6.6: thirteen steps along the edge, −1 each."""
    height, width = 4, 12

    def step(s, a):
        r, c = divmod(s, width)
        if r == 3 and c > 0:
            return None
        x, y = np.clip((r + (0, 1, 0, -1)[a], c + (1, 0, -1, 0)[a]), 0, (height - 1, width - 1))
        fell = x == 3 and 0 < y < width - 1
        return [(1.0, 36 if fell else int(x * width + y), -100.0 if fell else -1.0)]

    for method in (None, cr.PolicyIteration("krylov")):
        solution = cr.MDP.from_function(step, range(48), range(4)).solve(method=method)
        assert solution[36] == pytest.approx(-13, abs=1e-9)
        assert solution.policy[36] == 3


def test_gauss_seidel_where_it_can_be_and_where_not():
    process = small(1, 0.95)
    plain = cr.MDP(**process).solve(method=cr.ValueIteration())
    quick = cr.MDP(**process).solve(method=cr.ValueIteration(gauss_seidel=True, blocks=8))
    assert quick.iterations < plain.iterations
    assert quick.sweeps == 2 * (quick.iterations - 1)
    flat = process | {"probabilities": process["probabilities"].reshape(24, 8), "rows": np.arange(24).reshape(8, 3)}
    shared = cr.MDP(**flat).solve(method=cr.ValueIteration(gauss_seidel=True, blocks=8))
    assert shared.sweeps == 0
    assert shared.iterations == plain.iterations
