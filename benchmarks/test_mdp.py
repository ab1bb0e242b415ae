"""The small problems of mdp_data.py under pytest-benchmark: `pytest benchmarks -k mdp`, or `-k "bus10k and quantecon"`.

`mdp.py` is what ratios are quoted from, because it times the libraries in turns.
"""

import functools

import mdp_data
import mdp_measure
import mdp_reference
import numpy as np
import pytest
from mdp import RIVALS, SMALL

pytestmark = pytest.mark.filterwarnings("default")  # the rivals' warnings are not ours to fix

problem = functools.cache(mdp_data.load)
SIDES = [(name, library) for name in SMALL for library in ("chainrule", *RIVALS[name])]


@pytest.mark.parametrize("name", SMALL)
def test_the_reference_agrees_with_what_is_known(name):
    assert "off by" in mdp_reference.check(name)


def test_rows_sum_to_one_and_stay_inside():
    for name in SMALL:
        rewards, matrix, states, actions = mdp_data.pairs(problem(name))
        np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-12)
        assert np.isfinite(rewards).all()
        assert np.array_equal(np.unique(states), np.arange(matrix.shape[1]))
        assert (np.diff(states * problem(name).rewards.shape[1] + actions) > 0).all()


def test_inventory_has_the_rows_that_the_task_speaks_of():
    _, matrix, _, _ = mdp_data.pairs(problem("inventory500"))
    dense = matrix[:, :].tocsr()
    distinct = {(dense.indices[a:b].tobytes(), dense.data[a:b].tobytes()) for a, b in zip(*_ends(dense), strict=True)}
    assert problem("inventory500").rewards.size == 251_001
    assert (matrix.shape[0], len(distinct)) == (125_751, 501)


def _ends(matrix):
    return matrix.indptr[:-1], matrix.indptr[1:]


@pytest.mark.parametrize(("name", "library"), SIDES, ids=["-".join(side) for side in SIDES])
def test_problem(benchmark, name, library):
    pytest.importorskip(library.split(",", maxsplit=1)[0])
    call = mdp_measure.maker(name, library)(problem(name))
    benchmark.group = f"mdp {name}"
    answer = benchmark.pedantic(call, rounds=3, warmup_rounds=1)
    found = mdp_measure.judge(name, mdp_reference.Bellman(problem(name)), answer)
    assert max(found["bound"], found["error"]) <= 1.1e-6
    assert found.get("contained", True)
