"""Every method finds the same optimum, within the bounds that it returns itself."""

import mdp_oracles as oracles
import numpy as np
import pytest

import chainrule as cr
from chainrule.inference.planning import bounds, evaluation, reach
from chainrule.inference.planning.process import Process

METHODS = [
    cr.ValueIteration(),
    cr.ValueIteration(gauss_seidel=True, blocks=5),
    cr.PolicyIteration(),
    cr.PolicyIteration("krylov"),
    cr.ModifiedPolicyIteration(),
    cr.ModifiedPolicyIteration(sweeps=7),
    cr.ModifiedPolicyIteration(sweeps=0),
    cr.AndersonAcceleration(),
    cr.LinearProgram(),
]


def random_process(seed, *, states=30, actions=4, width=3, ties=False, ends=False, discount=0.9):
    """Sparse, with repeated successors, infeasible actions, absorbing states and rewards that may all be zero."""
    rng = np.random.default_rng(seed)
    shape = (states, actions)
    successors = rng.integers(0, states, (*shape, width))
    probs = rng.dirichlet(np.ones(width), shape)
    rewards = np.round(rng.normal(size=shape), 1) * (seed % 5 > 0)
    mask = rng.random(shape) < 0.8
    mask[np.arange(states), rng.integers(0, actions, states)] = True
    successors[1] = 1  # absorbing, and paying for it
    if ties:  # every action twice
        successors, probs = np.concatenate([successors] * 2, 1), np.concatenate([probs] * 2, 1)
        rewards, mask = np.concatenate([rewards] * 2, 1), np.concatenate([mask] * 2, 1)
    terminal = np.arange(states) == 2 if ends else None
    return {
        "probabilities": probs,
        "rewards": rewards,
        "successors": successors,
        "mask": mask,
        "terminal": terminal,
        "discount": discount,
    }


def truth(process):
    probs = oracles.dense(process["probabilities"], process["successors"])
    mask = process["mask"] if process["terminal"] is None else process["mask"] & ~process["terminal"][:, None]
    return oracles.policy_iteration(probs, process["rewards"], process["discount"], mask)


@pytest.mark.parametrize("method", METHODS, ids=repr)
@pytest.mark.parametrize("seed", range(6))
def test_methods_agree_within_their_certificates(method, seed):
    process = random_process(seed, ties=seed % 2 == 1, ends=seed % 3 == 0, discount=[0.0, 0.5, 0.9, 0.99][seed % 4])
    wanted = truth(process)
    mdp = cr.MDP(**process)
    solution = mdp.solve(method=method, tolerance=1e-7)
    assert solution.status is cr.SolveStatus.CERTIFIED
    assert solution.gap <= 1e-7
    assert (solution.lower <= wanted + 1e-11).all()
    assert (wanted <= solution.upper + 1e-11).all()
    assert (np.abs(solution.values - wanted) <= solution.gap + 1e-11).all()
    np.testing.assert_allclose(mdp.evaluate(solution.policy).values, wanted, atol=1e-5)


@pytest.fixture(scope="module")
def near_one():
    process = random_process(1, discount=0.9999)
    return process, truth(process)


@pytest.mark.parametrize("method", METHODS[2:6], ids=repr)
def test_a_discount_near_one(method, near_one):
    process, wanted = near_one
    solution = cr.MDP(**process).solve(method=method, tolerance=1e-4)
    assert solution.status is cr.SolveStatus.CERTIFIED
    assert (solution.lower <= wanted + 1e-8).all()
    assert (wanted - 1e-8 <= solution.upper).all()


@pytest.mark.parametrize("ends", [False, True])
def test_the_best_of_all_policies(ends):
    process = random_process(3, states=6, actions=2, ends=ends)
    probs = oracles.dense(process["probabilities"], process["successors"])
    mask = process["mask"] & ~process["terminal"][:, None] if ends else process["mask"]
    wanted = oracles.best_by_enumeration(probs, process["rewards"], 0.9, mask)
    np.testing.assert_allclose(cr.MDP(**process).solve(tolerance=1e-10).values, wanted, atol=1e-9)


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_ties_neither_keep_a_method_going_nor_hide_an_action(method):
    single, double = random_process(7), random_process(7, ties=True)
    one = cr.MDP(**single).solve(method=method, tolerance=1e-9)
    two = cr.MDP(**double).solve(method=method, tolerance=1e-9)
    np.testing.assert_allclose(two.values, one.values, atol=2e-9)
    if isinstance(method, cr.ModifiedPolicyIteration | cr.PolicyIteration):
        assert abs(two.iterations - one.iterations) <= 1
    np.testing.assert_array_equal(two.optimal_actions[:, :4], two.optimal_actions[:, 4:])
    np.testing.assert_array_equal(two.optimal_actions[:, :4], one.optimal_actions)
    assert one.optimal_actions.any(axis=1).all()


def test_dense_padded_sparse_and_shared_rows_are_one_process():
    process = random_process(4)
    probs = oracles.dense(process["probabilities"], process["successors"])
    rest = {"mask": process["mask"], "discount": 0.9}
    wanted = cr.MDP(**process).solve(tolerance=1e-10).values
    dense = cr.MDP(probs, process["rewards"], **rest).solve(tolerance=1e-10)
    np.testing.assert_allclose(dense.values, wanted, atol=1e-9)
    rows = np.arange(probs.shape[0] * probs.shape[1]).reshape(probs.shape[:2])
    shared = cr.MDP(probs.reshape(-1, len(probs)), process["rewards"], rows=rows, **rest).solve(tolerance=1e-10)
    np.testing.assert_allclose(shared.values, wanted, atol=1e-9)


@pytest.mark.parametrize("method", [METHODS[0], METHODS[2], METHODS[4]], ids=repr)
def test_a_certificate_in_less_precision_contains_the_truth(method):
    process = random_process(2, discount=0.99)
    coarse = process | {name: process[name].astype(np.float32) for name in ("probabilities", "rewards")}
    wanted = truth(process | {name: coarse[name].astype(float) for name in ("probabilities", "rewards")})
    solution = cr.MDP(**coarse).solve(method=method)
    assert (solution.lower <= wanted + 1e-9).all()
    assert (wanted <= solution.upper + 1e-9).all()


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_rows_of_less_precision_keep_no_one_from_the_tolerance(method):
    """Where the sums of rows differ, a constant left in the change would widen the bounds by a thousandth."""
    process = random_process(2, discount=0.99)
    process["successors"] = np.random.default_rng(0).integers(0, 30, process["successors"].shape)  # mixes fast
    coarse = process | {"probabilities": process["probabilities"].astype(np.float32)}
    wanted = truth(process | {"probabilities": coarse["probabilities"].astype(float)})
    solution = cr.MDP(**coarse).solve(method=method, tolerance=1e-9)
    assert solution.status is cr.SolveStatus.CERTIFIED
    assert solution.gap <= 1e-9
    np.testing.assert_allclose(solution.values, wanted, atol=2e-9)


def test_rounding_is_told_from_patience():
    process = random_process(1)
    tight = cr.MDP(**process).solve(tolerance=1e-18)
    assert tight.status is cr.SolveStatus.PRECISION
    assert tight.gap < 1e-10
    few = cr.MDP(**process).solve(method=cr.ValueIteration(), max_iterations=3)
    assert few.status is cr.SolveStatus.MAX_ITERATIONS
    assert (few.lower <= truth(process)).all()
    assert (truth(process) <= few.upper).all()
    assert len(few.history) == few.iterations == 3


def test_history_and_warm_start():
    process = random_process(8, discount=0.99)
    cold = cr.MDP(**process).solve()
    assert cold.history[-1] == cold.gap
    warm = cr.MDP(**process).solve(start=cold.values)
    assert warm.iterations < cold.iterations
    np.testing.assert_allclose(warm.values, cold.values, atol=2e-6)


def test_macqueen_against_a_chain_by_hand():
    # one state that pays 1: v = 1 / (1 − γ); from v = 0 both bounds are exact
    found = bounds.macqueen(1.0, 1.0, factors=(0.9, 0.9), error=0.0)
    assert found.low == pytest.approx(9.0)
    assert found.high == pytest.approx(9.0)
    # where the process may end, a gain may be cut short and a loss may not
    found = bounds.macqueen(-1.0, 1.0, factors=(0.0, 0.9), error=0.0)
    assert (found.low, found.high) == (pytest.approx(-9.0), pytest.approx(9.0))


@pytest.mark.parametrize(
    ("make", "narrow"),
    [
        (lambda s: np.stack([s, (s + 1) % len(s)], 1), True),  # a ring
        (lambda s: np.stack([s // 2, 0 * s], 1), True),  # a tree and a hub
        (lambda s: np.random.default_rng(0).integers(0, len(s), (len(s), 8)), False),  # an expander
    ],
)
def test_lu_is_for_narrow_graphs(make, narrow):
    states = np.arange(4000)
    successors = make(states)
    probs = np.full((4000, 1, successors.shape[1]), 1 / successors.shape[1])
    process = Process(cr.Transitions(probs, np.zeros((4000, 1)), successors=successors[:, None], discount=0.9))
    assert evaluation.is_narrow(process.follow(np.zeros(4000, int)).matrix) is narrow


def test_steps_from_sources():
    from scipy import sparse

    edges = {(0, 1), (1, 2), (2, 0), (3, 2), (4, 5)}
    graph = sparse.csr_array((np.ones(len(edges)), tuple(np.array(sorted(edges)).T)), shape=(6, 6))
    np.testing.assert_array_equal(reach.steps_from(graph, np.array([0, 4])), [0, 1, 2, -1, 0, 1])


def test_structure_theorems():
    # replacement has a threshold (Puterman 1994, §4.7.1); γ and costs of a small machine
    wear = np.arange(50)
    successors = np.minimum(np.stack([wear, 0 * wear], 1)[:, :, None] + np.arange(3), 49)
    probs = np.tile([0.35, 0.62, 0.03], (50, 2, 1))
    rewards = np.stack([-0.05 * wear, np.full(50, -3.0)], 1)
    policy = cr.MDP(probs, rewards, successors=successors, discount=0.99).solve().policy.table
    assert (np.diff(policy) >= 0).all()
    assert policy[0] == 0
    assert policy[-1] == 1
