"""Soft, entropic and robust backups: limits, laws, plain loops over policies and distributions."""

import decimal
import itertools

import jax
import numpy as np
import pytest
from scipy.optimize import linprog

import chainrule as cr
from chainrule.inference.planning.nested import EntropicMeasure, IntervalMeasure

from . import enumeration
from .enumeration import random_mdp

CRITERIA = [
    cr.criteria.Soft(0.3),
    cr.criteria.Entropic(0.7),
    cr.criteria.Entropic(-0.7),
    cr.criteria.Robust(radius=0.1),
    cr.criteria.Robust(radius=0.1, optimistic=True),
]


def worst(p, lower, upper, x, sign):
    found = linprog(sign * x, A_eq=np.ones((1, len(x))), b_eq=[1], bounds=list(zip(lower, upper, strict=True)))
    return sign * found.fun


def slow_backup(criterion, mdp, v):
    """One state and one action at a time, from the definitions."""
    form = mdp.transitions.spread_out()
    P, R = np.asarray(form.probabilities), form.outcome_rewards
    gamma, out = float(form.discount), np.zeros(len(P))
    for s, actions in enumerate(enumeration.feasible(mdp)):
        if form.terminal[s]:
            continue
        q = []
        for a in actions:
            x = gamma * v + (form.rewards[s, a] if R is None else R[s, a])
            match criterion:
                case cr.criteria.Entropic(risk_aversion=theta):
                    q.append(-np.log(P[s, a] @ np.exp(-theta * x)) / theta)
                case cr.criteria.Robust(radius=r, optimistic=good):
                    p = P[s, a]
                    bounds = np.maximum(p - r, 0), np.where(p > 0, np.minimum(p + r, 1), 0)
                    q.append(worst(p, *bounds, x, -1 if good else 1))
                case _:
                    q.append(P[s, a] @ x)
        soft = isinstance(criterion, cr.criteria.Soft)
        tau = getattr(criterion, "temperature", 1)
        out[s] = tau * np.log(np.exp(np.array(q) / tau).sum()) if soft else max(q)
    return out


@pytest.mark.parametrize("criterion", CRITERIA, ids=repr)
@pytest.mark.parametrize("outcomes", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_bounds_hold_the_fixed_point_of_the_definitions(criterion, outcomes, seed):
    mdp = random_mdp(np.random.default_rng(seed), discount=0.6, outcome_rewards=outcomes)
    solution = mdp.solve(criterion=criterion, tolerance=1e-9)
    assert solution.status is cr.SolveStatus.CERTIFIED
    v = solution.values
    residual = np.abs(slow_backup(criterion, mdp, v) - v).max() / (1 - 0.6)
    assert residual <= 1e-8  # an error of v of 1e-9, times (1 + γ) / (1 − γ), and HiGHS's own
    rough = mdp.solve(criterion=criterion, max_iterations=3)
    assert (rough.lower <= solution.upper).all()
    assert (solution.lower <= rough.upper).all()


@pytest.mark.parametrize("criterion", CRITERIA, ids=repr)
@pytest.mark.parametrize("discount", [0.0, 0.9, 0.9999])
def test_backups_are_few_where_discounting_is_weak(criterion, discount):
    mdp = cr.MDP.random(jax.random.key(0), 60, 3, discount=discount)
    # a walk along a line adds what mixes slowly
    n = np.arange(60)
    walk = cr.MDP(
        np.broadcast_to([0.6, 0.4], (60, 2, 2)),
        np.stack([n == 59, 0.5 * (n == 0)], 1).astype(float),
        successors=np.stack([np.stack([np.minimum(n + 1, 59), np.maximum(n - 1, 0)], -1)] * 2, 1),
        discount=discount,
    )
    for process in (mdp, walk):
        solution = process.solve(criterion=criterion, tolerance=1e-7 if discount < 0.99 else 1e-5)
        assert solution.status is cr.SolveStatus.CERTIFIED
        assert solution.iterations <= 100


@pytest.mark.parametrize("criterion", CRITERIA, ids=repr)
@pytest.mark.parametrize("layout", ["dense", "padded", "shared"])
def test_layouts_agree(criterion, layout):
    rng = np.random.default_rng(3)
    P, r = rng.dirichlet(np.ones(6), (6, 4)), rng.random((6, 4))
    P[:, 2:] = P[:1, :1]  # so that rows are shared where that is looked for
    truth = cr.MDP(P, np.broadcast_to(r[..., None], P.shape), discount=0.9).solve(criterion=criterion, tolerance=1e-9)
    successors = np.broadcast_to(np.arange(6), P.shape)
    match layout:
        case "dense":
            mdp = cr.MDP(P, r, discount=0.9)
        case "padded":
            padded = np.concatenate([P, np.zeros((6, 4, 2))], -1)
            more = np.concatenate([successors, np.zeros((6, 4, 2), int)], -1)
            mdp = cr.MDP(padded, np.broadcast_to(r[..., None], padded.shape), successors=more, discount=0.9)
        case _:
            rows = np.where(np.arange(24).reshape(6, 4) % 4 < 2, np.arange(24).reshape(6, 4), 0)
            mdp = cr.MDP(P.reshape(24, 6), r, rows=rows, discount=0.9)
    found = mdp.solve(criterion=criterion, tolerance=1e-9)
    np.testing.assert_allclose(found.values, truth.values, atol=2e-9)


LIMITS = [cr.criteria.Soft(1e-9), cr.criteria.Entropic(1e-9), cr.criteria.Entropic(0.0), cr.criteria.Robust(radius=0.0)]


@pytest.mark.parametrize("criterion", LIMITS, ids=repr)
@pytest.mark.parametrize("seed", range(8))
def test_limits_are_the_plain_optimum(criterion, seed):
    mdp = random_mdp(np.random.default_rng(seed), discount=0.9, outcome_rewards=bool(seed % 2))
    plain = mdp.solve(tolerance=1e-9)
    found = mdp.solve(criterion=criterion, tolerance=1e-9)
    # τ log A / (1 − γ), θ Var / 2 (1 − γ): below 1e-7 here
    np.testing.assert_allclose(found.values, plain.values, atol=2e-7)


def test_risk_and_robustness_are_ordered():
    mdp = cr.MDP.random(jax.random.key(1), 50, 4, discount=0.9)
    form = mdp.transitions.spread_out()
    outcomes = np.random.default_rng(0).normal(size=form.probabilities.shape)
    mdp = cr.MDP(form.probabilities, outcomes, successors=form.successors, discount=0.9)
    by_aversion = [mdp.solve(criterion=cr.criteria.Entropic(t)).values for t in (2.0, 0.5, 0.0, -0.5, -2.0)]
    by_radius = [mdp.solve(criterion=cr.criteria.Robust(radius=x)).values for x in (1.0, 0.2, 0.0)]
    by_radius += [mdp.solve(criterion=cr.criteria.Robust(radius=x, optimistic=True)).values for x in (0.2, 1.0)]
    for values in (by_aversion, by_radius):
        for less, more in itertools.pairwise(values):
            assert (less < more).all()


def test_extreme_aversion_is_the_worst_case():
    mdp = cr.MDP([[[0.5, 0.5]], [[0.0, 1.0]]], [[[1.0, -1.0]], [[0.0, 0.0]]], discount=0.5)
    # −log(½ e^{θ} + …) / θ tends to the worst outcome, −1; so does a radius of one
    assert abs(mdp.solve(criterion=cr.criteria.Entropic(1e6))[0] + 1) < 1e-5
    assert abs(mdp.solve(criterion=cr.criteria.Robust(radius=1.0))[0] + 1) < 1e-6
    # and the best: 1 + ½ v
    assert abs(mdp.solve(criterion=cr.criteria.Entropic(-1e6))[0] - 2) < 1e-5


def test_soft_policy_by_hand():
    # one state, rewards 0, ln 2, ln 4 and τ = 1: probabilities 1, 2, 4 out of 7; v = ln 7 / (1 − γ)
    mdp = cr.MDP(np.ones((1, 3, 1)), np.log([[1.0, 2.0, 4.0]]), discount=0.75, actions=("a", "b", "c"))
    solution = mdp.solve(criterion=cr.criteria.Soft(1.0), tolerance=1e-10)
    np.testing.assert_allclose(solution[0], 4 * np.log(7), atol=1e-10)
    np.testing.assert_allclose(list(solution.policy[0].values()), np.array([1, 2, 4]) / 7, atol=1e-9)


def test_a_state_that_stays_for_nothing_still_chooses():
    mdp = cr.MDP(np.ones((1, 2, 1)), np.zeros((1, 2)), discount=0.5)
    np.testing.assert_allclose(mdp.solve(criterion=cr.criteria.Soft(1.0))[0], 2 * np.log(2), atol=1e-6)


def test_nature_may_move_what_would_stay():
    # state 1 stays for nothing, unless nature moves it to 0, which costs 1 a step
    P, r = np.array([[[1.0, 0.0]], [[0.0, 1.0]]]), [[-1.0], [0.0]]
    robust = cr.criteria.Robust(lower=[[[1.0, 0.0]], [[0.0, 0.5]]], upper=[[[1.0, 0.0]], [[0.5, 1.0]]])
    v = cr.MDP(P, r, discount=0.5).solve(criterion=robust, tolerance=1e-9).values
    np.testing.assert_allclose(v, [-2, 0.5 * (0.5 * -2) / (1 - 0.25)], atol=1e-9)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("optimistic", [False, True])
def test_the_worst_distribution_is_that_of_a_linear_programme(seed, optimistic):
    rng = np.random.default_rng(seed)
    p, x = rng.dirichlet(np.ones(6), 5), rng.integers(-2, 3, (5, 6)).astype(float)
    lower, upper = p * rng.random((5, 6)), np.minimum(p + rng.random((5, 6)), 1)
    measure = IntervalMeasure(lower, upper, optimistic=optimistic)
    weights = measure.weights(x, slice(0, 5))
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-15)
    assert (weights >= lower - 1e-15).all()
    assert (weights <= upper + 1e-15).all()
    wanted = [worst(*row, -1 if optimistic else 1) for row in zip(p, lower, upper, x, strict=True)]
    np.testing.assert_allclose(measure.value(x, slice(0, 5)), wanted, atol=1e-9)


@pytest.mark.parametrize("theta", [1e-12, 1e-6, 1e-3, 1.0, 30.0, 1e4, -1e-9, -2.0, -1e4])
def test_entropic_risk_keeps_its_digits(theta):
    rng = np.random.default_rng(0)
    p, x = rng.dirichlet(np.ones(5), 4), 10 + rng.normal(size=(4, 5))
    with decimal.localcontext(prec=60):
        t = decimal.Decimal(theta)
        truth = []
        for probs, values in zip(p, x, strict=True):
            exact = [decimal.Decimal(a) for a in probs]
            mean = [a * (-t * decimal.Decimal(b)).exp() for a, b in zip(exact, values, strict=True)]
            zero = decimal.Decimal(0)
            truth.append(float((sum(exact, zero).ln() - sum(mean, zero).ln()) / t))
    np.testing.assert_allclose(EntropicMeasure(p, theta).value(x, slice(0, 4)), truth, rtol=0, atol=2e-14)


def test_what_is_wrong_is_named():
    names = {"states": ("up", "down"), "actions": ("go",)}
    mdp = cr.MDP([[[0.5, 0.5]], [[0.5, 0.5]]], [[0.0], [1.0]], discount=0.9, **names)
    low, high = np.array([[[0.2, 0.2]], [[0.2, 0.2]]]), np.array([[[0.9, 0.9]], [[0.6, 0.3]]])
    with pytest.raises(ValueError, match=r"action 'go' in state 'down': they sum to at least 0\.4 and at most 0\.9"):
        mdp.solve(criterion=cr.criteria.Robust(lower=low, upper=high))
    with pytest.raises(ValueError, match="state 'up': wanted 0 ≤ lower ≤ upper"):
        mdp.solve(criterion=cr.criteria.Robust(lower=high, upper=low))
    with pytest.raises(ValueError, match="the probabilities have"):
        mdp.solve(criterion=cr.criteria.Robust(lower=low[0], upper=high))
    with pytest.raises(ValueError, match="radius must not be negative"):
        mdp.solve(criterion=cr.criteria.Robust(radius=-0.1))
    with pytest.raises(ValueError, match="radius has shape"):
        mdp.solve(criterion=cr.criteria.Robust(radius=[0.1, 0.1]))
    with pytest.raises(ValueError, match="either radius, or"):
        cr.criteria.Robust()
    with pytest.raises(ValueError, match="lower and upper both"):
        cr.criteria.Robust(lower=low)
    with pytest.raises(ValueError, match="positive number"):
        cr.criteria.Soft(0.0)
    with pytest.raises(ValueError, match="finite"):
        cr.criteria.Entropic(float("nan"))
    for criterion in CRITERIA:
        with pytest.raises(ValueError, match="discount below 1"):
            mdp.replace(discount=1.0).solve(criterion=criterion)
        with pytest.raises(ValueError, match="method of its own"):
            mdp.solve(criterion=criterion, method=cr.LinearProgram())


def test_a_radius_for_each_pair():
    mdp = cr.MDP([[[0.5, 0.5], [0.5, 0.5]], [[0.0, 1.0]] * 2], [[[1.0, 0.0]] * 2, [[0.0, 0.0]] * 2], discount=0.5)
    solution = mdp.solve(criterion=cr.criteria.Robust(radius=[[0.3, 0.1], [0.0, 0.0]]), tolerance=1e-9)
    assert solution.policy[0] == 1
    np.testing.assert_allclose(solution[0], 0.4 / (1 - 0.5 * 0.4), atol=1e-9)
    np.testing.assert_allclose(solution.details["probabilities"][0], [0.4, 0.6])


def test_single_precision_is_certified_in_double():
    mdp = random_mdp(np.random.default_rng(8), discount=0.9)
    form = mdp.transitions.spread_out()
    single = cr.MDP(
        form.probabilities.astype(np.float32), form.rewards.astype(np.float32), mask=form.mask, terminal=form.terminal,
        discount=0.9,
    )  # fmt: skip
    for criterion in CRITERIA:
        assert single.solve(criterion=criterion, tolerance=1e-10).status is cr.SolveStatus.CERTIFIED
