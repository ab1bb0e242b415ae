"""Backups that leave rows out have the maximum of whole ones."""

import numpy as np
import pytest

import chainrule as cr
from chainrule.inference.planning.backups import Backups
from chainrule.inference.planning.discounted import best, improve
from chainrule.inference.planning.evaluation import is_narrow
from chainrule.inference.planning.process import Process


@pytest.mark.parametrize("ends", [False, True])
@pytest.mark.parametrize("layout", ["dense", "padded"])
def test_what_is_left_out_is_not_the_best(layout, ends):
    rng = np.random.default_rng(0)
    shape = (60, 20, 60 if layout == "dense" else 10)
    form = cr.Transitions(
        rng.dirichlet(np.ones(shape[2]), shape[:2]),
        rng.uniform(size=shape[:2]),
        successors=None if layout == "dense" else rng.integers(0, 60, shape),
        mask=(rng.uniform(size=shape[:2]) < 0.7) | (np.arange(20) == 3),
        terminal=np.arange(60) == 7 if ends else None,
        discount=0.95,
    )
    process = Process(form)
    back_up, v, policy = Backups(process), np.zeros(60), process.any_policy()
    parts = []
    for step in range(40):
        chain = process.follow(policy)
        q, wanted = back_up(v, policy, chain), process.action_values(v)
        parts.append(not back_up.whole)
        np.testing.assert_allclose(best(q), best(wanted), rtol=1e-14)
        assert (q >= wanted - 1e-13).all()
        changed = improve(q, policy, best(q), 1e-12)
        assert (policy == wanted.argmax(axis=1))[changed].all()
        v = best(q) + 0.3 * (step % 5)  # a constant is not what matters
    assert not parts[0]
    assert sum(parts) >= 20
    assert (back_up(v, policy, None) == process.action_values(v)).all()


def test_a_map_is_narrow_and_a_random_graph_is_not():
    """What LU fills up: a square of 150 by 150 little, as many states with five random successors nearly all."""
    side = 150
    row, column = np.divmod(np.arange(side * side), side)
    around = np.stack([row + 1, row - 1, row, row]).clip(0, side - 1) * side
    around += np.stack([column, column, column + 1, column - 1]).clip(0, side - 1)
    random = np.random.default_rng(0).integers(0, side * side, around.shape)
    for successors, narrow in ((around, True), (random, False)):
        form = cr.Transitions(
            np.full((side * side, 1, 4), 0.25), np.ones((side * side, 1)), successors=successors.T[:, None]
        )
        assert is_narrow(Process(form).follow(np.zeros(side * side, int)).matrix) is narrow
