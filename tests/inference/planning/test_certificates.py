"""Certificates contain the truth, which exact rational arithmetic tells, also where 1 / (1 − γ) makes rounding large."""

from fractions import Fraction

import numpy as np
import pytest

import chainrule as cr
from chainrule.inference.planning.bounds import macqueen

METHODS = [
    cr.ModifiedPolicyIteration(),
    cr.ValueIteration(),
    cr.PolicyIteration(),
    cr.PolicyIteration("krylov"),
    cr.AndersonAcceleration(),
]


def one_state(row, discount, reward=1.0):
    """A state that stays, by several edges; its value as the doubles have it, exactly."""
    mdp = cr.MDP([[list(row)]], [[reward]], successors=[[[0] * len(row)]], discount=discount)
    total = sum((Fraction(float(p)) for p in row), Fraction(0))
    return mdp, Fraction(reward) / (1 - Fraction(discount) * total)


def holds(solution, truth):
    return Fraction(float(solution.lower[0])) <= truth <= Fraction(float(solution.upper[0]))


@pytest.mark.parametrize("method", METHODS, ids=repr)
@pytest.mark.parametrize("discount", [0.0, 0.5, 0.99, 0.9999, 0.999999])
def test_sums_of_rows_are_rounded_too(method, discount):
    for row in ([0.1] * 10, [0.35, 0.62, 0.03], np.random.default_rng(0).dirichlet(np.ones(6))):
        mdp, truth = one_state(row, discount)
        solution = mdp.solve(method=method)
        assert holds(solution, truth)
        assert solution.status in (cr.SolveStatus.CERTIFIED, cr.SolveStatus.PRECISION)
        assert solution.gap <= 1e-15 * len(row) / (1 - discount) ** 2 + 1e-6
        evaluated = mdp.evaluate([0])
        assert holds(evaluated, truth)


@pytest.mark.parametrize(
    "criterion", [cr.criteria.Soft(0.1), cr.criteria.Entropic(0.0), cr.criteria.Robust(radius=0.0)]
)
def test_other_criteria_know_it(criterion):
    mdp, truth = one_state([0.35, 0.62, 0.03], 0.999999)
    if not isinstance(criterion, cr.criteria.Soft):  # they divide rows by their sums
        truth = 1 / (1 - Fraction(0.999999))
    assert holds(mdp.solve(criterion=criterion), truth)


@pytest.mark.parametrize("start", [1e9, 1e13])
@pytest.mark.parametrize("method", METHODS[:3], ids=repr)
def test_a_start_far_away_is_rounded_as_what_it_is(start, method):
    mdp, truth = one_state([1.0], 1e-3, 0.1)
    assert holds(mdp.solve(start=[start], method=method), truth)
    assert holds(mdp.solve(start=[start], max_iterations=1, method=method), truth)


def test_a_horizon_that_ends_with_large_numbers():
    mdp, _ = one_state([1.0], 1e-3, 0.1)
    plan = mdp.solve(horizon=1, final=[1e13])
    truth = Fraction(0.1) + Fraction(1e-3) * Fraction(1e13)
    assert Fraction(float(plan.lower[0, 0])) <= truth <= Fraction(float(plan.upper[0, 0]))


def test_rewards_by_outcome_in_less_precision_are_added_up_in_more():
    rng = np.random.default_rng(0)
    probs = rng.dirichlet(np.ones(20), (20, 2)).astype(np.float32)
    paid = (rng.normal(size=(20, 2, 20)) + 5).astype(np.float32)
    wide, wide_paid = probs.astype(float), paid.astype(float)
    truth = cr.MDP(wide, (wide * wide_paid).sum(-1), discount=0.99).solve(tolerance=1e-11).values
    mdp = cr.MDP(probs, paid, discount=0.99)
    for criterion in (None, cr.criteria.Average(), cr.criteria.Soft(0.2)):
        other = cr.MDP(wide, (wide * wide_paid).sum(-1), discount=0.99)
        found, wanted = (m.solve(criterion=criterion, tolerance=1e-9) for m in (mdp, other))
        assert found.status is cr.SolveStatus.CERTIFIED
        np.testing.assert_allclose(found.values, wanted.values, rtol=0, atol=2.1e-9)
    plain = mdp.solve(tolerance=1e-9)
    assert (plain.lower <= truth + 1e-11).all()
    assert (truth <= plain.upper + 1e-11).all()


@pytest.mark.parametrize("discount", [1 - 1e-7, 1 - 4e-7])
def test_rows_that_undo_the_discount_are_refused(discount):
    mdp, _ = one_state([0.5, 0.5000005], discount)
    for options in ({}, {"criterion": cr.criteria.Soft(1.0)}):
        with pytest.raises(ValueError, match=r"row of probabilities sums to 1\.0000005.* divide each row by its sum"):
            mdp.solve(**options)
    with pytest.raises(ValueError, match="divide each row by its sum"):
        mdp.evaluate([0])
    found = macqueen(0.0, 0.0, factors=(1.0, 1.0), error=0.0)
    assert found[:2] == (0, 0)
    assert macqueen(0.0, 0.0, factors=(1.0, 1.0), error=1.0)[:2] == (-np.inf, np.inf)


def test_a_mixed_policy_sums_over_actions_as_well():
    """Forty actions of rows that are rounded, each with a probability of its own."""
    rng = np.random.default_rng(3)
    probs, weight = rng.dirichlet(np.ones(5), (1, 40)), rng.dirichlet(np.ones(40))
    mdp = cr.MDP(probs, rng.random((1, 40)), successors=np.zeros((1, 40, 5), int), discount=0.99999)
    rewards = np.asarray(mdp.transitions.rewards)[0]
    mix = [Fraction(float(w)) for w in weight]
    paid = sum((w * Fraction(float(r)) for w, r in zip(mix, rewards, strict=True)), Fraction(0))
    stays = sum((w * Fraction(float(p)) for w, row in zip(mix, probs[0], strict=True) for p in row), Fraction(0))
    truth = paid / (1 - Fraction(0.99999) * stays)
    assert holds(mdp.evaluate(weight[None]), truth)


def test_no_total_leaks_out_of_rows_that_fall_short():
    """Without a discount only edges to the end are ways out, whatever the sums of rows."""
    rows = ([0.3333333] * 3, np.array([0.1, 0.2, 0.7], np.float32), np.array([0.33333, 0.33333, 0.33333], np.float32))
    for row in rows:
        with pytest.raises(ValueError, match="never ends"):
            cr.MDP(np.array([[row]] * 3), -np.ones((3, 1))).solve()
    # with a way out, of each step with odds of one half, rows that fall short are stretched: two steps on average
    row = np.array([0.25, 0.2499995, 0.4999995])
    solution = cr.MDP([[row], [row], [[0, 0, 1.0]]], -np.ones((3, 1)), terminal=[False, False, True]).solve()
    exact = [Fraction(float(p)) for p in row]
    truth = -1 / (exact[2] / sum(exact))
    assert holds(solution, truth)
    assert solution.status is cr.SolveStatus.CERTIFIED
