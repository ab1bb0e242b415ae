"""Constrained processes against mixtures of all deterministic policies, which is what their optimum is."""

import itertools

import numpy as np
import pytest
from scipy.optimize import linprog

import chainrule as cr

Constrained = cr.criteria.Constrained


def tiny(seed, *, discount=0.8):
    rng = np.random.default_rng(seed)
    S, A = int(rng.integers(2, 5)), int(rng.integers(2, 4))
    P = rng.dirichlet(np.full(S, 0.5), (S, A))
    mask = rng.random((S, A)) < 0.8
    mask[np.arange(S), rng.integers(0, A, S)] = True
    terminal = np.arange(S) == (S - 1 if seed % 2 else -1)
    initial = rng.dirichlet(np.ones(S))
    mdp = cr.MDP(P, rng.normal(size=(S, A)), mask=mask, terminal=terminal, discount=discount, initial=initial)
    return mdp, rng.random((2, S, A))


def worths(mdp, costs):
    """Reward and costs, discounted, of all deterministic policies, (policies, 1 + costs)."""
    form = mdp.transitions.spread_out()
    live = ~np.asarray(form.terminal)
    choices = [np.flatnonzero(row) if up else [0] for row, up in zip(form.mask, live, strict=True)]
    states, found = np.arange(len(live)), []
    for policy in map(np.array, itertools.product(*choices)):
        matrix = np.asarray(form.probabilities)[states, policy] * live[:, None]
        paid = np.stack([np.asarray(x)[states, policy] * live for x in (form.rewards, *costs)], 1)
        found.append(np.asarray(mdp.initial) @ np.linalg.solve(np.eye(len(live)) - float(form.discount) * matrix, paid))
    return np.array(found)


def by_mixture(points, limits):
    found = linprog(-points[:, 0], A_ub=points[:, 1:].T, b_ub=limits, A_eq=np.ones((1, len(points))), b_eq=[1])
    return -found.fun if found.status == 0 else None


@pytest.mark.parametrize("seed", range(25))
def test_it_is_the_best_mixture_of_policies(seed):
    mdp, costs = tiny(seed)
    points = worths(mdp, costs)
    least, free = points[:, 1:].min(axis=0), points[points[:, 0].argmax(), 1:]
    limits = least + np.array([0.3, 0.6]) * (free - least) + 0.01
    truth = by_mixture(points, limits)
    named = {"costs": dict(zip("ab", costs, strict=True)), "limits": dict(zip("ab", limits, strict=True))}
    if truth is None:
        with pytest.raises(ValueError, match="not all of 'a', 'b' together"):
            mdp.solve(criterion=Constrained(**named))
        return
    solution = mdp.solve(criterion=Constrained(**named), tolerance=1e-5)
    details = solution.details
    assert solution.status is cr.SolveStatus.CERTIFIED
    assert details["lower"] - 1e-9 <= truth <= details["upper"] + 1e-9
    np.testing.assert_allclose(details["worth"], truth, atol=1e-5)
    # what the policy spends, from the policy alone
    form, pi = mdp.transitions.spread_out(), solution.policy.probabilities()
    matrix = np.einsum("sa,sat->st", pi, np.asarray(form.probabilities))
    visits = np.linalg.solve(np.eye(len(pi)) - 0.8 * matrix.T, np.asarray(mdp.initial))
    for n, name in enumerate("ab"):
        spent = visits @ (pi * costs[n] * np.asarray(form.mask)).sum(1)
        np.testing.assert_allclose(details["costs"][name], spent, atol=1e-7)
        assert spent <= limits[n] + 1e-6
        assert details["prices"][name] >= 0
        if spent < limits[n] - 1e-5:
            assert details["prices"][name] <= 1e-6  # what is not scarce has no price
    np.testing.assert_allclose(details["worth"], visits @ (pi * np.asarray(form.rewards)).sum(1), atol=1e-7)


def test_the_price_is_the_slope_of_the_worth():
    mdp, costs = tiny(2)
    points = worths(mdp, costs[:1])
    limit = 0.5 * (points[:, 1].min() + points[points[:, 0].argmax(), 1])

    def at(limit):
        return mdp.solve(criterion=Constrained({"a": costs[0]}, {"a": limit})).details

    slope = (at(limit + 1e-4)["worth"] - at(limit - 1e-4)["worth"]) / 2e-4
    np.testing.assert_allclose(at(limit)["prices"]["a"], slope, rtol=1e-3)


def test_loose_limits_change_nothing():
    mdp, costs = tiny(3)
    solution = mdp.solve(criterion=Constrained({"a": costs[0]}, {"a": 1e3}))
    plain = mdp.solve()
    np.testing.assert_allclose(solution.details["worth"], mdp.initial @ plain.values, atol=1e-6)
    assert solution.details["prices"]["a"] == 0


def test_by_hand_it_mixes():
    # work pays 1 and costs 1; half of it is allowed: 0.5 / (1 − 0.9) altogether
    mdp = cr.MDP(np.ones((1, 2, 1)), [[0.0, 1.0]], discount=0.9, states=("desk",), actions=("rest", "work"))
    solution = mdp.solve(criterion=Constrained({"effort": [[0, 1]]}, {"effort": 5.0}, initial="desk"))
    np.testing.assert_allclose(solution.details["worth"], 5, atol=1e-6)
    assert solution.policy["desk"] == pytest.approx({"rest": 0.5, "work": 0.5}, abs=1e-6)
    assert solution.best_actions("desk") == ["rest", "work"]


def test_staying_for_nothing_may_cost():
    # "jail" pays nothing and is not left, but costs 1 a step
    def step(s, a):
        if s == "jail":
            return [(1.0, "jail", 0.0)] if a == "wait" else None
        return [(1.0, "home", 0.0)] if a == "wait" else [(1.0, "jail", 1.0)]

    mdp = cr.MDP.from_function(step, ["home"], ["wait", "steal"], discount=0.5)
    cost = [float(s == "jail") for s in mdp.states]
    solution = mdp.solve(criterion=Constrained({"years": cost}, {"years": 0.25}, initial="home"))
    # stealing at t earns γ^t and costs γ^{t+1} / (1 − γ) = γ^t: a quarter of it is allowed
    np.testing.assert_allclose(solution.details["worth"], 0.25, atol=1e-6)
    np.testing.assert_allclose(solution.details["costs"]["years"], 0.25, atol=1e-6)


def test_limits_that_cannot_be_kept_are_named():
    mdp = cr.MDP(np.ones((1, 2, 1)), [[0.0, 1.0]], discount=0.5, initial=[1.0])
    costs = {"time": [[2.0, 3.0]], "fuel": [[1.0, 0.0]]}
    with pytest.raises(ValueError, match=r"no policy keeps 'time' within 3: the least that can be spent is 4"):
        mdp.solve(criterion=Constrained(costs, {"time": 3.0, "fuel": 1.0}))
    with pytest.raises(ValueError, match="not all of 'time', 'fuel' together"):
        mdp.solve(criterion=Constrained(costs, {"time": 4.1, "fuel": 0.1}))


def test_what_is_wrong_is_named():
    mdp = cr.MDP(np.ones((1, 2, 1)), [[0.0, 1.0]], discount=0.5)
    with pytest.raises(ValueError, match="no costs"):
        Constrained({}, {})
    with pytest.raises(ValueError, match="'b' has a cost or a limit but not both"):
        Constrained({"a": [[1, 1]]}, {"a": 1, "b": 1})
    with pytest.raises(ValueError, match="limit of 'a' is inf"):
        Constrained({"a": [[1, 1]]}, {"a": float("inf")})
    good = Constrained({"a": [[1.0, 1.0]]}, {"a": 3.0})
    with pytest.raises(ValueError, match="where does it start"):
        mdp.solve(criterion=good)
    with pytest.raises(ValueError, match="initial has shape"):
        mdp.solve(criterion=Constrained(good.costs, good.limits, initial=[0.5, 0.5]))
    mdp = mdp.replace(initial=[1.0])
    with pytest.raises(ValueError, match="costs 'a' have shape"):
        mdp.solve(criterion=Constrained({"a": np.ones((2, 2))}, {"a": 1.0}))
    with pytest.raises(ValueError, match="'a' of action 1 in state 0 is not finite"):
        mdp.solve(criterion=Constrained({"a": [[0.0, np.nan]]}, {"a": 1.0}))
    with pytest.raises(ValueError, match="discount below 1"):
        mdp.replace(discount=1.0).solve(criterion=good)
    with pytest.raises(ValueError, match="method of its own"):
        mdp.solve(criterion=good, method=cr.LinearProgram())
