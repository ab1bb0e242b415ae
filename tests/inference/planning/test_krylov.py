"""Evaluation by Krylov methods: where they break down, where they get no further, and what is said then."""

import numpy as np
import pytest

import chainrule as cr
from chainrule.inference.planning import discounted, evaluation, total_reward
from chainrule.inference.planning.process import Process

KRYLOV = cr.PolicyIteration("krylov")


def walk(size, *, discount=1.0):
    """A fair walk that ends at 0 and stays, half the time, at the top; −1 a step."""
    n = np.arange(size)
    successors = np.stack([np.minimum(n + 1, size - 1), np.maximum(n - 1, 0)], 1)[:, None]
    probs, rewards = np.full((size, 1, 2), 0.5), -np.ones((size, 1))
    return cr.MDP(probs, rewards, successors=successors, terminal=n == 0, discount=discount)


def steps(size):
    n = np.arange(size)
    return n * (2 * size - 1.0 - n)


def broken(*_, **__):
    return np.full(2, np.nan), -10


@pytest.mark.parametrize("fails", ["bicgstab", "gmres"])
def test_one_method_stands_in_for_the_other(fails, monkeypatch):
    process = Process(cr.Transitions([[[0.2, 0.8]], [[0.9, 0.1]]], [[1.0], [-1.0]], discount=0.5))
    chain, called = process.follow(np.zeros(2, int)), []
    monkeypatch.setattr(evaluation.solvers, fails, lambda *a, **k: (called.append(fails), broken())[1])
    found = evaluation.krylov(chain, np.zeros(2), discount=0.5, until=1e-12)
    np.testing.assert_allclose(found, np.linalg.solve(np.eye(2) - 0.5 * chain.matrix, [1, -1]), atol=1e-11)
    assert called == (["bicgstab"] if fails == "bicgstab" else [])


def test_where_nothing_helps_the_start_is_kept(monkeypatch):
    for name in ("bicgstab", "gmres"):
        monkeypatch.setattr(evaluation.solvers, name, broken)
    process = Process(cr.Transitions([[[0.2, 0.8]], [[0.9, 0.1]]], [[1.0], [-1.0]], discount=0.5))
    found = evaluation.krylov(process.follow(np.zeros(2, int)), np.array([3.0, 4.0]), discount=0.5, until=1e-12)
    assert found.tolist() == [3, 4]


@pytest.mark.parametrize("size", [400, 1000])
def test_a_long_walk_without_a_discount(size):
    """From n it takes n (2S − 1 − n) steps on average."""
    solution = walk(size).solve(method=KRYLOV)
    truth = -steps(size)
    assert (solution.lower <= truth).all()
    assert (truth <= solution.upper).all()
    assert solution.status is cr.SolveStatus.PRECISION
    assert solution.gap < 1e-9 * size**3


def test_a_long_walk_with_hardly_any():
    solution = walk(1000, discount=1 - 1e-7).solve(method=KRYLOV, tolerance=0.1)
    assert solution.status is cr.SolveStatus.CERTIFIED
    plain = walk(1000, discount=1 - 1e-7).solve(method=cr.PolicyIteration(), tolerance=0.1)
    np.testing.assert_allclose(solution.values, plain.values, atol=0.2)


@pytest.mark.parametrize("discount", [1.0, 1 - 1e-7])
def test_what_gets_no_further_is_not_called_rounding(discount, monkeypatch):
    """Krylov methods that stop short, and LU that would fill up."""
    rough = evaluation.krylov
    for module in (discounted, total_reward):
        monkeypatch.setattr(module, "is_narrow", lambda *_, **__: False)
        monkeypatch.setattr(
            module, "krylov", lambda c, v, *, discount, until: rough(c, v, discount=discount, until=1e-3)
        )
    mdp = walk(60, discount=discount)
    solution = mdp.solve(method=KRYLOV, tolerance=1e-9)
    assert solution.status is cr.SolveStatus.MAX_ITERATIONS
    truth = mdp.solve(method=cr.PolicyIteration(), tolerance=1e-9) if discount < 1 else -steps(60)
    truth = truth if discount == 1 else truth.values
    assert (solution.lower <= truth).all()
    assert (truth <= solution.upper).all()
    assert 1e-9 < solution.gap < np.inf


def test_a_way_out_may_be_very_unlikely():
    """An edge is an edge: 1e-11 is a way out, and takes 1e11 steps."""
    mdp = cr.MDP([[[1 - 1e-11, 1e-11]], [[0.0, 1.0]]], [[-1.0], [0.0]], terminal=[False, True])
    solution = mdp.solve()
    assert solution[0] == pytest.approx(-1e11, rel=1e-4)  # 1 − 1e-11 has five digits of its 1e-11
    assert solution.lower[0] <= -1e11 <= solution.upper[0]
