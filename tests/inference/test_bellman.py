"""The Bellman engine under jit, vmap and grad: the host's answers, certified in its own precision."""

import itertools
import os
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import chainrule as cr
from chainrule.inference import bellman, bellman_batch


def a_process(seed=0, states=12, discount=0.9):
    rng = np.random.default_rng(seed)
    shape = (states, 3)
    mask = rng.random(shape) < 0.7
    mask[np.arange(states), rng.integers(0, 3, states)] = True
    return {
        "probabilities": rng.dirichlet(np.ones(3), shape),
        "rewards": rng.normal(size=shape),
        "successors": rng.integers(0, states, (*shape, 3)),
        "mask": mask,
        "terminal": np.arange(states) == 3,
        "discount": discount,
    }


@partial(jax.jit, static_argnums=1)
def solve(mdp, tolerance):
    return mdp.solve(tolerance=tolerance)


def holds(found, wanted):
    """The truth lies between the bounds."""
    return (np.asarray(found.lower) <= wanted).all() and (wanted <= np.asarray(found.upper)).all()


def dense(process):
    probs = np.zeros((*process["rewards"].shape, len(process["rewards"])))
    index = np.ogrid[: probs.shape[0], : probs.shape[1], :1][:2]
    np.add.at(probs, (*index, process["successors"]), process["probabilities"])
    return process | {"probabilities": probs, "successors": None}


@pytest.mark.parametrize("layout", [lambda p: p, dense], ids=["padded", "dense"])
def test_the_hosts_optimum_under_jit(layout):
    process = layout(a_process())
    wanted = cr.MDP(**process).solve(tolerance=1e-10)
    found = solve(cr.MDP(**process), 1e-3)
    assert found.values.dtype == jnp.float32
    assert found.status is cr.SolveStatus.CERTIFIED
    assert holds(found, wanted.values)
    np.testing.assert_array_equal(found.policy.table, wanted.policy.table)


def test_float32_reports_what_it_can_certify():
    found = solve(cr.MDP(**a_process(discount=0.99)), 1e-9)
    assert found.status is cr.SolveStatus.PRECISION
    assert holds(found, cr.MDP(**a_process(discount=0.99)).solve(tolerance=1e-10).values)


def test_rows_that_sum_to_one_nearly_keep_no_one_from_the_tolerance():
    """A constant left in the change would widen the bounds by what the sums of rows differ, a thousand times over."""
    rng = np.random.default_rng(1)
    process = a_process(discount=0.99) | {"successors": rng.integers(0, 12, (12, 3, 3)), "terminal": None}
    process["probabilities"] = process["probabilities"].astype(np.float32).astype(float)
    rewards = np.stack([process["rewards"], process["rewards"] + 1])
    with jax.enable_x64(True):
        mdp = cr.MDP(**process)
        alone = solve(mdp, 1e-9)
        both = jax.jit(jax.vmap(lambda r: mdp.replace(rewards=r).solve(tolerance=1e-9)))(rewards)
        assert alone.gap <= 1e-9
        assert (np.asarray(both.gap) <= 1e-9).all()
    wanted = mdp.solve(tolerance=1e-10).values
    np.testing.assert_allclose(alone.values, wanted, atol=2e-9)
    np.testing.assert_allclose(np.asarray(both.values)[0], wanted, atol=2e-9)


def test_shared_rows_under_jit():
    process = a_process()
    rows = np.arange(36).reshape(12, 3)
    flat = {name: process[name].reshape(36, -1) for name in ("probabilities", "successors")}
    found = jax.jit(lambda m: m.solve(tolerance=1e-3).values)(cr.MDP(**process | flat, rows=rows))
    np.testing.assert_allclose(found, cr.MDP(**process).solve().values, atol=1e-3)


def test_a_batch_of_processes_compiles_once():
    traces = []

    @jax.jit
    def many(rewards, discount):
        traces.append(None)
        return jax.vmap(lambda r, g: mdp.replace(rewards=r, discount=g).solve(tolerance=1e-2).values)(rewards, discount)

    process = a_process()
    mdp = cr.MDP(**process)
    rng = np.random.default_rng(1)
    for _ in range(2):
        rewards, discounts = rng.normal(size=(5, 12, 3)), rng.uniform(0, 0.95, 5)
        found = np.asarray(many(rewards, discounts))
        for n in range(5):
            wanted = mdp.replace(rewards=rewards[n], discount=discounts[n]).solve()
            np.testing.assert_allclose(found[n], wanted.values, atol=1e-2)
    assert len(traces) == 1


@pytest.mark.parametrize("layout", [lambda p: p, dense], ids=["padded", "dense"])
def test_gradients_against_finite_differences(layout):
    process = layout(a_process())
    rest = {name: process[name] for name in ("successors", "mask", "terminal")}
    weight = np.random.default_rng(2).normal(size=12)

    def total(rewards, probabilities, discount):
        values = cr.MDP(probabilities, rewards, discount=discount, **rest).solve(tolerance=1e-11).values
        return (values * weight).sum()

    with jax.enable_x64(True):
        point = tuple(np.asarray(process[name]) for name in ("rewards", "probabilities", "discount"))

        @jax.jit
        def ask(*point):
            forward = jax.jvp(lambda r: total(r, *point[1:]), point[:1], (jnp.ones_like(point[0]),))
            return *forward, jax.grad(total, argnums=(0, 1, 2))(*point)

        value, forward, slopes = ask(*point)
        wanted = cr.MDP(**process).solve(tolerance=1e-11).values
        assert float(value) == pytest.approx((np.asarray(wanted) * weight).sum(), abs=1e-9)
        rng = np.random.default_rng(3)
        for n in range(3):
            direction = rng.normal(size=np.shape(point[n]))
            moved = [tuple(p + s * 1e-6 * direction if k == n else p for k, p in enumerate(point)) for s in (1, -1)]
            wanted = (float(ask(*moved[0])[0]) - float(ask(*moved[1])[0])) / 2e-6
            assert (np.asarray(slopes[n]) * direction).sum() == pytest.approx(wanted, rel=1e-5, abs=1e-6)
        assert float(forward) == pytest.approx(np.asarray(slopes[0]).sum(), rel=1e-8)


def test_at_a_tie_the_derivative_is_that_of_the_kept_action():
    """Staying and moving on pay 1 for ever alike, so v = 2 at γ = ½; the first of the two is kept: a subgradient."""

    @jax.jit
    def slopes(rewards, probabilities, discount):
        def worth(*point):
            return cr.MDP(point[1], point[0], discount=point[2]).solve(tolerance=1e-4).values[0]

        return jax.grad(worth, argnums=(0, 1, 2))(rewards, probabilities, discount)

    stay, move = [1.0, 0.0], [0.0, 1.0]
    by_rewards, by_probabilities, by_discount = slopes(np.ones((2, 2)), np.array([[stay, move], [move, move]]), 0.5)
    np.testing.assert_allclose(by_rewards, [[2, 0], [0, 0]], atol=1e-4)  # 1 / (1 − γ)
    np.testing.assert_allclose(by_probabilities, [[[2, 2], [0, 0]], [[0, 0], [0, 0]]], atol=1e-3)  # γ v / (1 − γ)
    assert float(by_discount) == pytest.approx(4, abs=1e-3)  # v / (1 − γ)


def test_policies_are_differentiable():
    mdp = cr.MDP(**a_process())
    table = np.where(np.asarray(mdp.transitions.mask), 1.0, 0)
    table /= np.maximum(table.sum(1, keepdims=True), 1)
    with jax.enable_x64(True):
        wanted = mdp.evaluate(table)
        direction = np.random.default_rng(0).normal(size=table.shape) * (table > 0)

        @jax.jit
        def ask(table):
            worth = lambda p: mdp.evaluate(p).values  # noqa: E731
            return *jax.jvp(worth, (table,), (direction,)), jax.grad(lambda p: worth(p).sum())(table)

        values, slope, reverse = map(np.asarray, ask(table))
        np.testing.assert_allclose(values, wanted.values, atol=1e-11)
        assert (reverse * direction).sum() == pytest.approx(slope.sum(), rel=1e-9)
        up, down = (np.asarray(ask(table + s * direction)[0]).sum() for s in (1e-6, -1e-6))
        assert slope.sum() == pytest.approx((up - down) / 2e-6, rel=1e-6)


def test_linear_solves_where_krylov_methods_break_down():
    # a rotation, at which BiCGSTAB divides by zero: plain backups finish the job
    form = cr.Transitions([[[0.0, 1.0]], [[1.0, 0.0]]], [[1.0], [-1.0]], discount=0.5)
    found = jax.jit(bellman.evaluate)(form, np.zeros(2, int))
    np.testing.assert_allclose(found, [2 / 3, -2 / 3], atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": cr.ValueIteration()}, "the method is ModifiedPolicyIteration"),
        ({"horizon": 3}, "only the discounted optimum"),
        ({"start": np.zeros(12)}, "only the discounted optimum"),
    ],
)
def test_what_is_not_traced_says_so(options, message):
    mdp = cr.MDP(**a_process())
    with pytest.raises(ValueError, match=message):
        jax.jit(lambda r: mdp.replace(rewards=r).solve(**options).values)(mdp.transitions.rewards)


_SHARDED = """
import jax, numpy as np, chainrule as cr
assert jax.device_count() == 4
rng = np.random.default_rng(0)
probs, successors = rng.dirichlet(np.ones(3), (12, 3)), rng.integers(0, 12, (12, 3, 3))
mdp = cr.MDP(probs, np.zeros((12, 3)), successors=successors, discount=0.9)
mesh = jax.make_mesh((4,), ("case",), axis_types=(jax.sharding.AxisType.Auto,))
rewards = rng.normal(size=(8, 12, 3)).astype(np.float32)
spread = jax.device_put(rewards, jax.NamedSharding(mesh, jax.P("case")))
values = jax.jit(jax.vmap(lambda r: mdp.replace(rewards=r).solve(tolerance=1e-2).values))(spread)
assert [shard.data.shape for shard in values.addressable_shards] == [(2, 12)] * 4
for n in range(8):
    np.testing.assert_allclose(values[n], mdp.replace(rewards=rewards[n].astype(float)).solve().values, atol=1e-2)
print("each of", len(values.devices()))
"""


def test_sharded_over_devices():
    """A batch split over four devices stays split, and has the answers that the host gives one by one."""
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "JAX_USE_SHARDY_PARTITIONER": "1"}
    found = subprocess.run(
        [sys.executable, "-c", _SHARDED], env=environment, capture_output=True, text=True, check=False
    )
    assert found.stdout == "each of 4\n", found.stderr


@pytest.mark.parametrize(
    ("layout", "varies"),
    [
        *itertools.product(["wide", "dense", "rows"], ["probabilities"]),
        ("dense", "mask and ends"),
        ("padded", "successors"),
    ],
)
def test_processes_side_by_side(layout, varies):
    """What differs between the processes may be anything; each gets the answer that it gets alone."""
    rng = np.random.default_rng(5)
    processes = []
    for _ in range(3):
        process = a_process() | ({} if layout != "wide" else _wide(rng))
        shape = process["probabilities"].shape
        if varies == "probabilities":
            process["probabilities"] = rng.dirichlet(np.ones(shape[-1]), shape[:2])
        elif varies == "mask and ends":
            process["mask"] = process["mask"] | (rng.random(shape[:2]) < 0.5)
            process["terminal"] = rng.random(12) < 0.3
        else:
            process["successors"] = rng.integers(0, 12, shape)
        processes.append(dense(process) if layout == "dense" else process)
    models = [cr.MDP(**process) for process in processes]
    if layout == "rows":
        rows = np.arange(36).reshape(12, 3)
        flat = [{name: p[name].reshape(36, -1) for name in ("probabilities", "successors")} for p in processes]
        models = [cr.MDP(**process | f, rows=rows) for process, f in zip(processes, flat, strict=True)]
    axes = jax.tree.map(lambda *leaves: 0 if any((leaf != leaves[0]).any() for leaf in leaves) else None, *models)
    many = jax.tree.map(
        lambda *leaves: np.stack(leaves) if any((x != leaves[0]).any() for x in leaves) else leaves[0], *models
    )
    found = jax.vmap(lambda m: m.solve(tolerance=1e-3), in_axes=(axes,))(many)
    assert holds(found, [cr.MDP(**process).solve(tolerance=1e-9).values for process in processes])
    assert (np.asarray(found.gap) <= 1e-3).all()


def test_blocks_of_processes_are_those_processes(monkeypatch):
    """Seven processes in blocks of three, of which the last begins early."""
    monkeypatch.setattr(bellman_batch, "_FEWEST", 3)
    monkeypatch.setattr(bellman_batch, "_CACHE", 1)
    rewards = np.random.default_rng(1).normal(size=(7, 12, 3)).astype(np.float32)
    rewards[:3] *= 1e-3
    mdp = cr.MDP(**a_process(discount=0.5))
    found = jax.vmap(lambda r: mdp.replace(rewards=r).solve(tolerance=1e-3))(rewards)
    assert holds(found, [mdp.replace(rewards=reward).solve(tolerance=1e-9).values for reward in rewards])
    iterations = np.asarray(found.iterations)
    assert iterations[0] < iterations[3]  # each block stops on its own


def _wide(rng):
    return {"probabilities": rng.dirichlet(np.ones(20), (12, 3)), "successors": rng.integers(0, 12, (12, 3, 20))}


def test_gradients_of_a_batch():
    mdp = cr.MDP(**a_process())
    rewards = np.random.default_rng(0).normal(size=(3, 12, 3)).astype(np.float32)

    def worth(r):
        return mdp.replace(rewards=r).solve(tolerance=1e-3).values.sum()

    @jax.jit
    def slopes(rewards):
        inside, outside = jax.vmap(jax.grad(worth))(rewards), jax.grad(lambda r: jax.vmap(worth)(r).sum())(rewards)
        return inside, outside, jax.lax.map(jax.grad(worth), rewards)

    inside, outside, alone = map(np.asarray, slopes(rewards))
    np.testing.assert_allclose(inside, outside, atol=1e-4)
    np.testing.assert_allclose(inside, alone, atol=1e-3)


def test_second_derivatives_and_those_of_all_that_is_returned():
    """By γ, v = 1 / (1 − γ): 2 / (1 − γ)³ = 16 at one half. By rewards, Σ v² bends by 2 JᵀJ; the rest by differences."""
    process = a_process(states=5)
    mdp, weight = cr.MDP(**process), np.arange(5.0)
    once = cr.MDP([[[1.0]]], [[1.0]])

    def squares(rewards):
        return (mdp.replace(rewards=rewards).solve(tolerance=1e-11).values ** 2).sum()

    def worths(discount):
        found = mdp.replace(discount=discount, rewards=jnp.asarray(process["rewards"])).solve(tolerance=1e-11)
        actions = (jnp.where(mdp.transitions.mask, found.action_values, 0).sum(1) * weight).sum()
        return jnp.stack([*((x * weight).sum() for x in (found.values, found.lower, found.upper)), actions])

    @jax.jit
    def at(discount):
        """The worths, their slopes and their curvatures."""
        (value, slope), (_, curve) = jax.jvp(lambda g: jax.jvp(worths, (g,), (1.0,)), (discount,), (1.0,))
        return value, slope, curve

    @jax.jit
    def curvatures(half, rewards):
        analytic = jax.grad(jax.grad(lambda g: once.replace(discount=g).solve(tolerance=1e-12).values[0]))(half)
        return analytic, *jax.jvp(jax.grad(squares), (rewards,), (jnp.ones_like(rewards),))

    with jax.enable_x64(True):
        (_, slope, curve), (up, more, _), (down, less, _) = at(0.9), at(0.9 + 1e-5), at(0.9 - 1e-5)
        up, down, more, less = map(np.asarray, (up, down, more, less))
        np.testing.assert_allclose(slope, (up - down) / 2e-5, rtol=1e-6)
        np.testing.assert_allclose(curve, (more - less) / 2e-5, rtol=1e-5)
        rewards = process["rewards"]
        analytic, gradient, bend = curvatures(0.5, rewards)
        assert float(analytic) == pytest.approx(16, rel=1e-9)
        # while the policy stays, v is linear in rewards and so is the gradient, 2 Jᵀ v
        moved = np.asarray(curvatures(0.5, rewards + 1e-4)[1])
        np.testing.assert_allclose(bend, 1e4 * (moved - np.asarray(gradient)), atol=1e-5)


@pytest.mark.parametrize("discount", [0.9, 0.999, 0.9995, 0.9999])
def test_float32_certificates_hold_where_rounding_is_large(discount):
    """One state pays 1 for ever: 1 / (1 − γ), with γ as float32 has it, or as it was given."""
    mdp = cr.MDP([[[1.0]]], [[1.0]], discount=discount)
    alone = _solve_32(mdp, np.ones((1, 1), np.float32))
    for truth in (1 / (1 - discount), 1 / (1 - float(np.float32(discount)))):
        assert float(alone.lower[0]) <= truth <= float(alone.upper[0])
    both = _solve_32_many(mdp, np.ones((2, 1, 1), np.float32))
    assert holds(both, np.full((2, 1), 1 / (1 - discount)))
    assert alone.gap <= 3e-6 / (1 - discount) ** 2


@jax.jit
def _solve_32(mdp, rewards):
    return mdp.replace(rewards=rewards).solve(tolerance=1e-2)


@jax.jit
def _solve_32_many(mdp, rewards):
    return jax.vmap(lambda r: mdp.replace(rewards=r).solve(tolerance=1e-2))(rewards)


def test_a_long_walk_is_solved_and_what_never_ends_is_not():
    n = np.arange(2000)
    successors = np.stack([np.minimum(n + 1, 1999), np.maximum(n - 1, 0)], 1)[:, None].astype(np.int32)
    mdp = cr.MDP(np.full((2000, 1, 2), 0.5), -1.0 * (n[:, None] == 0), successors=successors, discount=1 - 1e-5)
    policy = np.zeros(2000, int)
    with jax.enable_x64(True):
        found = jax.jit(lambda r: mdp.replace(rewards=r).evaluate(policy).values)(mdp.transitions.rewards)
        np.testing.assert_allclose(found, mdp.evaluate(policy).values, atol=1e-6)
    stays = cr.MDP([[[1.0, 0]], [[0, 1.0]]], [[-1.0], [0.0]], terminal=[False, True])
    found = jax.jit(lambda r: stays.replace(rewards=r).evaluate(np.array([0, 0])).values)(np.array([[-1.0], [0.0]]))
    assert np.isnan(np.asarray(found)[0])
