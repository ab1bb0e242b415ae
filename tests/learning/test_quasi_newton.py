"""L-BFGS and OWL-QN: against SciPy, against the conditions of optimality, and where numbers run out."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from chainrule.learning import quasi_newton
from chainrule.learning.quasi_newton import Ending, minimise

SIZE, ROOM = 10, 501


def rosenbrock(x, scale):
    return scale * ((x[1:] - x[:-1] ** 2) ** 2).sum() + ((1 - x[:-1]) ** 2).sum()


def quadratic(x, curvature, centre):
    return 1 + 0.5 * (curvature * (x - centre) ** 2).sum()


def logistic(x, features, labels, ridge):
    return jnp.logaddexp(jnp.zeros_like(labels), -labels * (features @ x)).sum() + ridge * (x**2).sum()


def barrier(x, weight):
    """NaN from zero down, and steep towards it."""
    return (weight * x - jnp.log(x)).sum()


def run(objective, x, args, l1=None, max_iterations=ROOM - 1, tolerance=0.0, period=10, memory=8):
    """All numbers are handed on, since one that is left out makes a program of its own."""
    return _run(objective, x, args, l1, max_iterations, tolerance, period, memory)


value = jax.jit(lambda objective, x, args: objective(x, *args), static_argnums=0)


@partial(jax.jit, static_argnums=(0, 7))
def _run(objective, x, args, l1, max_iterations, tolerance, period, memory):
    return minimise(
        jax.value_and_grad(objective),
        x,
        args,
        l1=l1,
        memory=memory,
        max_iterations=max_iterations,
        tolerance=tolerance,
        period=period,
        history_size=ROOM,
    )


def table(seed, rows=80):
    """Features as they come: some strong, some weak, some alike, an intercept last."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(rows, SIZE)) * np.logspace(0.5, -1, SIZE)
    features[:, 1] = 0.7 * features[:, 0] + 0.3 * features[:, 1]
    features[:, -1] = 1
    weights = np.where(np.arange(SIZE) % 2, 0, rng.normal(size=SIZE))
    return features, np.where(features @ weights + 0.5 + rng.logistic(size=rows) > 0, 1.0, -1.0)


FEATURES, LABELS = table(0)
RNG = np.random.default_rng(1)
PROBLEMS = {
    "rosenbrock": (rosenbrock, np.tile([-1.2, 1.0], SIZE // 2), (100.0,)),
    "ill-conditioned": (quadratic, np.zeros(SIZE), (np.logspace(-2, 2, SIZE), RNG.normal(size=SIZE))),
    "logistic": (logistic, np.zeros(SIZE), (FEATURES, LABELS, 0.05)),
}
PROBLEM = pytest.mark.parametrize("name", PROBLEMS)


def floats(tree, dtype):
    return jax.tree.map(lambda leaf: np.asarray(leaf, dtype), tree)


def solved(name, dtype, **options):
    objective, x, args = PROBLEMS[name]
    return run(objective, *floats((x, args), dtype), **options)


# Smooth objectives


@PROBLEM
def test_the_minimum_is_that_of_scipy(name):
    objective, start, args = PROBLEMS[name]
    with jax.enable_x64(True):
        found = solved(name, float, tolerance=-1.0)
        both = jax.jit(jax.value_and_grad(objective))
        known = minimize(
            lambda x: tuple(np.asarray(leaf) for leaf in both(x, *floats(args, float))),
            start,
            jac=True,
            method="L-BFGS-B",
            options={"ftol": 0, "gtol": 1e-9, "maxiter": 2000, "maxfun": 3000},
        )
        assert np.abs(np.asarray(found.gradient)).max() < 1e-6
    np.testing.assert_allclose(found.x, known.x, atol=1e-6)
    assert float(found.value) == pytest.approx(known.fun, abs=1e-9)
    assert int(found.evaluations) < 1.2 * known.nfev + 20 * quasi_newton.TRIALS


@PROBLEM
def test_the_record(name):
    with jax.enable_x64(True):
        found = solved(name, float, tolerance=1e-9)
        first = float(value(PROBLEMS[name][0], *floats(PROBLEMS[name][1:], float)))
    assert found.status == Ending.CONVERGED
    history, steps = np.asarray(found.history), int(found.iterations)
    assert history[0] == pytest.approx(first, rel=1e-12)
    assert history[steps] == float(found.value)
    assert np.isnan(history[steps + 1 :]).all()
    assert (np.diff(history[: steps + 1]) <= 0).all()
    least = 1e-9 * np.maximum(np.abs(history), np.finfo(float).eps * history[0])
    assert history[steps - 10] - history[steps] <= least[steps]
    assert history[steps - 11] - history[steps - 1] > least[steps - 1]
    assert steps + 1 <= int(found.evaluations) <= 1.4 * steps + 10


@pytest.mark.parametrize("name", ["rosenbrock", "ill-conditioned"])
def test_float32_ends_where_rounding_begins(name):
    with jax.enable_x64(True):
        best = solved(name, float).value
    found = solved(name, jnp.float32, tolerance=1e-7)
    assert found.x.dtype == found.value.dtype == found.history.dtype == jnp.float32
    assert found.status == Ending.CONVERGED
    assert float(found.value) == pytest.approx(float(best), rel=1e-5, abs=1e-5)
    assert int(found.evaluations) <= 1.4 * int(found.iterations) + 10


def test_a_small_sum_of_large_terms():
    """The value is known to 0.05 only, hundreds of its last places; the gradient still shows the way."""

    def loss(x, features, labels):
        large = jnp.full((), 2.0e6, x.dtype)
        return (logistic(x, features, labels, 0.05) + large) - large

    x, args = floats((np.zeros(SIZE), (FEATURES, LABELS)), jnp.float32)
    with jax.enable_x64(True):
        best = float(solved("logistic", float).value)

    @jax.jit
    def noisy(noise):
        return minimise(jax.value_and_grad(loss), x, args, noise=noise, max_iterations=200)

    found = noisy(0.25)
    assert found.status == Ending.CONVERGED
    assert float(value(logistic, found.x, (*args, np.float32(0.05)))) == pytest.approx(best, abs=0.2)
    assert int(found.evaluations) < 60
    assert int(noisy(0.0).evaluations) < 300  # unknown noise is no disaster either


def test_where_there_is_no_value_the_step_is_shorter():
    weight = np.logspace(-1, 1, SIZE)
    found = run(barrier, *floats((np.full(SIZE, 1.0), (weight,)), jnp.float32), tolerance=1e-7)
    np.testing.assert_allclose(found.x, 1 / weight, rtol=2e-2)
    assert found.status == Ending.CONVERGED
    assert np.isfinite(np.asarray(found.history)[: int(found.iterations) + 1]).all()


def test_endings():
    curvature, centre = floats((np.ones(SIZE), np.ones(SIZE)), jnp.float32)
    solve = partial(run, quadratic, args=(curvature, centre))
    there = solve(x=centre)
    assert (int(there.iterations), int(there.evaluations), there.status) == (0, 1, Ending.CONVERGED)
    once = solve(x=centre + 100, max_iterations=1)
    assert (int(once.iterations), once.status) == (1, Ending.MAX_ITERATIONS)
    assert float(once.value) < np.asarray(once.history)[0]
    never = solve(x=centre + 100, max_iterations=0)
    assert (int(never.iterations), never.status) == (0, Ending.MAX_ITERATIONS)
    nowhere = solve(x=np.full(SIZE, np.nan, np.float32))
    assert (int(nowhere.evaluations), nowhere.status) == (1, Ending.NOT_FINITE)
    assert solve(x=centre + 1000, tolerance=-1.0).status in (Ending.CONVERGED, Ending.MAX_ITERATIONS)


def test_a_wrong_gradient_is_a_stall():
    def uphill(x):
        return (x**2).sum(), -2 * x

    found = jax.jit(lambda x: minimise(uphill, x))(np.ones(2, np.float32))
    assert found.status == Ending.STALLED
    assert int(found.evaluations) <= 2 * quasi_newton.TRIALS + 2
    np.testing.assert_array_equal(found.x, 1)


def test_a_function_without_a_minimum_ends():
    found = jax.jit(lambda x: minimise(jax.value_and_grad(lambda x: -jnp.exp(x).sum()), x))(np.ones(1, np.float32))
    assert found.status != Ending.RUNNING
    assert int(found.evaluations) < 300
    assert np.isfinite(found.value)


def test_a_gradient_test_and_one_parameter():
    def loss(x):
        return (jnp.cosh(x - 3)).sum()

    with jax.enable_x64(True):
        x = jnp.full(1, 0.0)  # weakly typed: the loop's types must not change
        solve = jax.jit(lambda g: minimise(jax.value_and_grad(loss), x, tolerance=-1.0, gradient_tolerance=g))
        rough, fine = solve(1e-2), solve(1e-9)
    assert rough.status == fine.status == Ending.CONVERGED
    assert 1e-9 < abs(np.asarray(rough.gradient)[0]) <= 1e-2
    assert np.asarray(fine.x)[0] == pytest.approx(3, abs=1e-9)
    assert rough.iterations < fine.iterations


# The direction


def test_the_recursion_is_the_inverse_hessian():
    """Against the update of the dense matrix, oldest pair first, after the ring has gone round."""
    rng, memory = np.random.default_rng(0), 4
    pairs = quasi_newton.begin(jnp.zeros(SIZE, jnp.float32), memory=memory, history_size=1).pairs
    remember = jax.jit(quasi_newton._remember)
    kept = []
    for n in range(7):
        s, y = rng.normal(size=(2, SIZE))
        y = y + 2 * s if n != 5 else -s  # one has no positive curvature and is not kept
        pairs = remember(pairs, *floats((s, y), jnp.float32), True, jnp.float32(0))
        kept += [(s, y)] if s @ y > 0 else []
    s, y = kept[-1]
    assert float(pairs.scale) == pytest.approx(s @ y / (y @ y), rel=1e-5)
    hessian = np.eye(SIZE) * (s @ y) / (y @ y)
    for s, y in kept[-memory:]:
        step = np.eye(SIZE) - np.outer(y, s) / (s @ y)
        hessian = step.T @ hessian @ step + np.outer(s, s) / (s @ y)
    g = rng.normal(size=SIZE)
    product = jax.jit(quasi_newton._inverse_hessian_times)(pairs, pairs.scale, np.float32(g))
    np.testing.assert_allclose(product, hessian @ g, rtol=1e-3, atol=1e-3)


# The L1 penalty


def assert_optimal(x, gradient, l1, tolerance):
    """|g| ≤ l1 where x is zero, g = −l1·sign(x) elsewhere (Andrew and Gao 2007)."""
    x, gradient, l1 = (np.asarray(a, float) for a in (x, gradient, np.broadcast_to(l1, np.shape(x))))
    assert (np.abs(gradient)[x == 0] <= l1[x == 0] + tolerance).all()
    np.testing.assert_allclose(gradient[x != 0], (-l1 * np.sign(x))[x != 0], atol=tolerance)


def test_the_l1_optimum():
    args = (FEATURES, LABELS, 0.01)
    for scale in (1.0, 4.0):
        l1 = scale * np.append(np.ones(SIZE - 1), 0)  # the intercept goes free
        with jax.enable_x64(True):
            found = run(logistic, *floats((np.zeros(SIZE), args, l1), float))
            smooth = float(value(logistic, found.x, floats(args, float)))
        assert found.status == Ending.CONVERGED
        assert_optimal(found.x, found.gradient, l1, 1e-4)
        assert 1 <= (np.asarray(found.x) == 0).sum() < SIZE - 1
        assert np.asarray(found.x)[-1] != 0
        assert float(found.value) == pytest.approx(smooth + (l1 * np.abs(found.x)).sum(), rel=1e-9)
    single = run(logistic, *floats((np.zeros(SIZE), args, l1), jnp.float32), tolerance=1e-7)
    assert_optimal(single.x, single.gradient, l1, 2e-2)
    np.testing.assert_array_equal(np.asarray(single.x) == 0, np.asarray(found.x) == 0)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.floats(0.1, 10), min_size=SIZE, max_size=SIZE),
    st.lists(st.floats(-3, 3), min_size=SIZE, max_size=SIZE),
    st.lists(st.floats(0, 5), min_size=SIZE, max_size=SIZE),
    st.lists(st.floats(-3, 3), min_size=SIZE, max_size=SIZE),
)
def test_soft_thresholding(curvature, centre, l1, start):
    """Σ c (x − m)² / 2 + λ |x| has its minimum where m has moved towards zero by λ / c, and no further than zero."""
    curvature, centre, l1, start = (np.asarray(a, np.float32) for a in (curvature, centre, l1, start))
    found = run(quadratic, start, (curvature, centre), l1)
    wanted = np.sign(centre) * np.maximum(np.abs(centre) - l1 / curvature, 0)
    assert found.status == Ending.CONVERGED
    np.testing.assert_allclose(found.x, wanted, atol=1e-2)
    history = np.asarray(found.history)[: int(found.iterations) + 1]
    assert (np.diff(history) <= 64 * np.finfo(np.float32).eps * np.abs(history[:-1])).all()
    clear = np.abs(centre * curvature) < 0.9 * l1 - 1e-3
    assert (np.asarray(found.x)[clear] == 0).all()


def test_a_large_penalty_leaves_nothing():
    found = run(quadratic, *floats((np.zeros(SIZE), (np.ones(SIZE), np.ones(SIZE)), np.full(SIZE, 2.0)), jnp.float32))
    assert (int(found.iterations), found.status) == (0, Ending.CONVERGED)
    np.testing.assert_array_equal(found.x, 0)


def test_coordinates_that_stay_at_zero_do_not_mislead_the_others():
    """Rare words, of which few are left: directions of all coordinates, cut afterwards, leave a gap 5000 times as wide."""
    rng = np.random.default_rng(0)
    rows, columns = 400, 800
    features = (rng.random((rows, columns)) < 1 / np.arange(2, columns + 2) ** 0.7).astype(float)
    weights = np.where(rng.random(columns) < 0.1, 2 * rng.normal(size=columns), 0)
    labels = np.where(features @ weights + rng.logistic(size=rows) > 0, 1.0, -1.0)
    with jax.enable_x64(True):
        found = run(logistic, *floats((np.zeros(columns), (features, labels, 0.01), 1.0), float), memory=20)
    history = np.asarray(found.history)
    assert (np.asarray(found.x) != 0).sum() == 143
    assert_optimal(found.x, found.gradient, 1.0, 1e-5)
    assert history[50] - float(found.value) < 1e-6
    assert int(found.evaluations) < 110


# One program


def test_the_function_is_traced_once():
    traces = []

    def value_and_grad(x, centre):
        traces.append(None)
        return jax.value_and_grad(lambda x: quadratic(x, jnp.ones_like(x), centre))(x)

    @partial(jax.jit, static_argnames="penalised")
    def solve(x, centre, l1, limit, tolerance, *, penalised):
        l1 = l1 if penalised else None
        limits = {"max_iterations": limit, "tolerance": tolerance, "history_size": 20}
        return minimise(value_and_grad, x, (centre,), l1=l1, **limits)

    x, centre = np.zeros(3, np.float32), np.arange(3, dtype=np.float32)
    first = solve(x, centre, 0.5, 10, 1e-6, penalised=True)
    second = solve(x + 1, centre + 1, 0.25, 15, 0.0, penalised=True)
    assert len(traces) == 1
    np.testing.assert_allclose(first.x, [0, 0.5, 1.5], atol=1e-5)
    np.testing.assert_allclose(second.x, [0.75, 1.75, 2.75], atol=1e-5)
    jax.eval_shape(partial(solve, penalised=False), x, centre, 0.5, 10, 1e-6)  # the same without a penalty
    assert len(traces) == 2


def test_side_by_side_each_finds_its_own_minimum():
    rng = np.random.default_rng(2)
    curvatures = np.stack([np.ones(SIZE), np.logspace(-2, 2, SIZE), np.linspace(1, 5, SIZE)])
    centres = rng.normal(size=(3, SIZE))

    def solve(x, curvature, centre):
        return minimise(jax.value_and_grad(quadratic), x, (curvature, centre), l1=0.01, tolerance=0.0, history_size=201)

    with jax.enable_x64(True):
        args = floats((np.zeros((3, SIZE)), curvatures, centres), float)
        batch = jax.jit(jax.vmap(solve))
        together = batch(*args)
        easy = jax.tree.map(np.asarray, batch(*(np.broadcast_to(a[:1], a.shape) for a in args)))
    together = jax.tree.map(np.asarray, together)
    assert len({int(n) for n in together.iterations}) > 1
    assert (together.status == Ending.CONVERGED).all()
    wanted = np.sign(centres) * np.maximum(np.abs(centres) - 0.01 / curvatures, 0)  # as for soft thresholding
    np.testing.assert_allclose(together.x, wanted, atol=1e-7)
    values = 1 + (0.5 * curvatures * (wanted - centres) ** 2 + 0.01 * np.abs(wanted)).sum(1)
    np.testing.assert_allclose(together.value, values, rtol=1e-9)
    # a run that has ended stays exactly as it was, however long the others take
    for leaf, other in zip(jax.tree.leaves(together), jax.tree.leaves(easy), strict=True):
        np.testing.assert_array_equal(leaf[0], other[0])


def test_reports_come_from_the_loop():
    seen = []

    def report(iterations, value, *, last):
        jax.debug.callback(lambda *told: seen.append(tuple(map(float, told))), iterations, value, last, ordered=True)

    x = np.zeros(2, np.float32)
    found = jax.jit(
        lambda x: minimise(jax.value_and_grad(lambda x: ((x - 1) ** 2).sum()), x, report=report, tolerance=1e-6)
    )(x)
    jax.effects_barrier()
    assert seen[0] == (0.0, 2.0, 0.0)
    assert seen[-1] == (float(found.iterations), float(found.value), 1.0)
    assert len(seen) == int(found.evaluations)


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        (np.zeros((2, 2)), {}, r"x has shape \(2, 2\)"),
        (np.zeros(2, int), {}, "dtype int"),
        (np.zeros(2), {"memory": 0}, "memory is 0; at least one pair"),
        (np.zeros(2), {"history_size": 0}, "history_size is 0"),
    ],
)
def test_what_cannot_be_minimised(x, options, message):
    with pytest.raises(ValueError, match=message):
        minimise(jax.value_and_grad(jnp.sum), x, **options)
