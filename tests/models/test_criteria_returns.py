"""CVaR against all policies that may use the whole history."""

import itertools
from typing import Any

import numpy as np
import pytest

import chainrule as cr

CVaR = cr.criteria.CVaR


def tiny(seed, *, states=3, actions=2):
    """Two or three outcomes each, small whole rewards by outcome, an infeasible action, a terminal state."""
    rng = np.random.default_rng(seed)
    P = rng.dirichlet(np.ones(states), (states, actions)) * (rng.random((states, actions, states)) < 0.7)
    P[..., 0] += 0.1
    P /= P.sum(-1, keepdims=True)
    rewards = rng.integers(-3, 4, P.shape).astype(float)
    mask = np.ones((states, actions), bool)
    mask[1, 0] = False
    terminal = np.arange(states) == (states - 1 if seed % 2 else -1)
    return cr.MDP(P, rewards, mask=mask, terminal=terminal, discount=[1.0, 0.9][seed % 3 == 0])


def distributions(mdp, s, horizon):
    """The distribution of the return, as {return: probability}, of every policy, each for the history so far."""
    form = mdp.transitions
    if horizon == 0 or form.terminal[s]:
        return [{0.0: 1.0}]
    found = []
    for a in np.flatnonzero(form.mask[s]):
        outcomes = np.flatnonzero(form.probabilities[s, a])
        for later in itertools.product(*(distributions(mdp, t, horizon - 1) for t in outcomes)):
            total = {}
            for t, rest in zip(outcomes, later, strict=True):
                for x, p in rest.items():
                    key = round(float(form.outcome_rewards[s, a, t] + form.discount * x), 9)
                    total[key] = total.get(key, 0) + p * form.probabilities[s, a, t]
            found.append(total)
    return found


def tail(distribution, level):
    """The mean of the worst share, outcome by outcome."""
    left, total = level, 0.0
    for x in sorted(distribution):
        taken = min(left, distribution[x])
        total, left = total + taken * x, left - taken
    return total / level


@pytest.mark.parametrize("level", [0.05, 0.3, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("seed", range(8))
def test_no_policy_of_the_whole_history_is_better(seed, level):
    mdp = tiny(seed, states=3 if seed < 4 else 2)
    horizon = 2 if seed < 4 else 3
    solution = mdp.solve(criterion=CVaR(level, start=0), horizon=horizon, tolerance=1e-9)
    truth = max(tail(d, level) for d in distributions(mdp, 0, horizon))
    details = solution.details
    assert solution.status is cr.SolveStatus.CERTIFIED
    assert details["lower"] - 1e-8 <= truth <= details["upper"] + 1e-8  # the oracle rounds returns to 1e-9
    np.testing.assert_allclose(solution[0], truth, atol=1e-8)
    mine = dict(zip(details["returns"].tolist(), details["probabilities"].tolist(), strict=True))
    np.testing.assert_allclose(tail(mine, level), truth, atol=1e-8)
    np.testing.assert_allclose(sum(mine.values()), 1)


@pytest.mark.parametrize("seed", range(4))
def test_the_policy_played_by_hand_has_the_distribution_it_says(seed):
    mdp = tiny(seed)
    solution = mdp.solve(criterion=CVaR(0.3, start=0), horizon=3)
    form: Any = mdp.transitions
    policy = solution.details["policy"]
    total = {}

    def play(step, s, paid, p):
        a = policy(step, s, paid) if step < 3 else None
        if a is None:
            total[round(paid, 8)] = total.get(round(paid, 8), 0) + p
            return
        for t in np.flatnonzero(form.probabilities[s, a]):
            more = float(form.discount**step * form.outcome_rewards[s, a, t])
            play(step + 1, t, paid + more, p * float(form.probabilities[s, a, t]))

    play(0, 0, 0.0, 1.0)
    truth = {
        round(x, 8): p for x, p in zip(solution.details["returns"], solution.details["probabilities"], strict=True)
    }
    assert total.keys() == truth.keys()
    np.testing.assert_allclose([total[x] for x in truth], list(truth.values()), atol=1e-12)
    assert solution.policy[0] == policy(0, 0, 0.0)
    assert dict(policy.items())[0, 0, 0.0] == policy(0, 0, 0.0)


def test_what_was_earned_decides_what_to_dare():
    # a coin earns 0 or 2, then "bet" wins 3 or loses 1.5, "keep" nothing: the poor have nothing to protect
    def step(s, a):
        if s == "coin":
            return [(0.5, "then", 0.0), (0.5, "then", 2.0)] if a == "keep" else None
        return {"bet": [(0.5, "end", 3.0), (0.5, "end", -1.5)], "keep": [(1.0, "end", 0.0)]}[a] if s == "then" else None

    mdp = cr.MDP.from_function(step, ["coin"], ["bet", "keep"])
    solution = mdp.solve(criterion=CVaR(0.75, start="coin"), horizon=2, tolerance=1e-12)
    # only the poor bet: −1.5 (¼), 2 (½), 3 (¼). The others have 2/3 (all keep; all bet) and 1/6 (only the rich bet)
    np.testing.assert_allclose(solution["coin"], (-1.5 / 4 + 2 / 2) / 0.75, atol=1e-12)
    policy = solution.details["policy"]
    assert policy(1, "then", 0.0) == "bet"
    assert policy(1, "then", 2.0) == "keep"


def test_level_one_is_the_expectation_and_a_tiny_level_the_worst_case():
    mdp = tiny(2)
    horizon, v, w = 4, np.zeros(3), np.zeros(3)
    form: Any = mdp.transitions
    for _ in range(horizon):
        v = np.where(form.mask, form.rewards + form.discount * form.probabilities @ v, -np.inf).max(axis=1)
        x = np.where(form.probabilities > 0, form.outcome_rewards + form.discount * w, np.inf).min(axis=2)
        w = np.where(form.mask, x, -np.inf).max(axis=1)
    for s in range(3):
        np.testing.assert_allclose(mdp.solve(criterion=CVaR(1.0, start=s), horizon=horizon)[s], v[s], atol=1e-6)
        # below the probability of any one path
        np.testing.assert_allclose(mdp.solve(criterion=CVaR(1e-7, start=s), horizon=horizon)[s], w[s], atol=1e-6)


def test_several_starts_share_one_tail():
    mdp = tiny(0).replace(initial=[0.5, 0.5, 0.0])
    solution = mdp.solve(criterion=CVaR(0.4), horizon=2, tolerance=1e-9)
    both = []
    for one, two in itertools.product(distributions(mdp, 0, 2), distributions(mdp, 1, 2)):
        mixed = {}
        for d in (one, two):
            for x, p in d.items():
                mixed[x] = mixed.get(x, 0) + 0.5 * p
        both.append(tail(mixed, 0.4))
    np.testing.assert_allclose(solution.details["worth"], max(both), atol=1e-8)
    np.testing.assert_allclose(0.5 * solution[0] + 0.5 * solution[1], max(both), atol=1e-8)
    assert np.isnan(solution[2])


def test_a_larger_tree_is_certified_by_few_thresholds():
    # 20 steps of a walk with whole rewards: thousands of nodes, hundreds of returns
    rng = np.random.default_rng(0)
    mdp = cr.MDP(rng.dirichlet(np.ones(10), (10, 3)), rng.integers(-5, 6, (10, 3)).astype(float))
    solution = mdp.solve(criterion=CVaR(0.1, start=0), horizon=20, tolerance=1e-6)
    assert solution.status is cr.SolveStatus.CERTIFIED
    returns, probabilities = solution.details["returns"], solution.details["probabilities"]
    mine = tail(dict(zip(returns.tolist(), probabilities.tolist(), strict=True)), 0.1)
    np.testing.assert_allclose(mine, solution.details["worth"], atol=1e-9)
    assert mine > tail(dict(zip(returns - 1, probabilities, strict=True)), 0.1)


def test_what_is_wrong_is_named():
    mdp = tiny(0)
    for level in (0.0, 1.1, float("nan")):
        with pytest.raises(ValueError, match="share of worst returns"):
            CVaR(level)
    with pytest.raises(ValueError, match="wants a number of steps"):
        mdp.solve(criterion=CVaR(0.1, start=0))
    with pytest.raises(ValueError, match="where does it start"):
        mdp.solve(criterion=CVaR(0.1), horizon=2)
    with pytest.raises(ValueError, match="not one of 0"):
        mdp.solve(criterion=CVaR(0.1, start=7), horizon=2)
    rng = np.random.default_rng(0)
    large = cr.MDP(rng.dirichlet(np.ones(100), (100, 30)), rng.random((100, 30)))  # 9 million after two steps
    with pytest.raises(ValueError, match="more than 5,000,000: shorten the horizon"):
        large.solve(criterion=CVaR(0.1, start=0), horizon=20)
    policy = mdp.solve(criterion=CVaR(0.1, start=0), horizon=2).details["policy"]
    with pytest.raises(ValueError, match="step 2 is not one of 0 … 1"):
        policy(2, 0, 0.0)
    with pytest.raises(ValueError, match=r"cannot be reached with 0\.5"):
        policy(1, 0, 0.5)
