"""Emissions: densities against scipy, draws against moments, the M-step against weighted formulas and its optimum."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from scipy import stats

import chainrule as cr

E = cr.emissions
NAN = np.nan
FULL = np.array([[[1.0, 0.4], [0.4, 2.0]], [[0.7, -0.2], [-0.2, 0.5]]])
MEAN = np.array([[0.0, 1.0], [2.0, -1.0]])

FAMILIES = {
    "categorical": lambda: E.Categorical([[0.6, 0.3, 0.1], [0.1, 0.2, 0.7]]),
    "bernoulli": lambda: E.Bernoulli([0.2, 0.7]),
    "bernoulli vectors": lambda: E.Bernoulli([[0.2, 0.7], [0.5, 0.9]]),
    "poisson": lambda: E.Poisson([1.5, 6.0]),
    "poisson vectors": lambda: E.Poisson([[1.5, 6.0], [3.0, 0.5]]),
    "normal": lambda: E.Normal([0.0, 2.0], [1.0, 0.5]),
    "normal diagonal": lambda: E.Normal(MEAN, [[1.0, 2.0], [0.5, 0.7]]),
    "normal spherical": lambda: E.Normal(MEAN, [1.0, 0.5]),
    "normal full": lambda: E.MultivariateNormal(MEAN, FULL),
    "normal tied": lambda: E.MultivariateNormal(MEAN, FULL[0]),
    "mixture": lambda: E.Mixture(E.Normal([0.0, 1.0, 3.0, 5.0], [1.0, 0.5, 2.0, 1.0]), [[0.3, 0.7], [0.9, 0.1]]),
    "product": lambda: E.Product(E.Normal([0.0, 2.0], [1.0, 0.5]), E.Poisson([1.5, 6.0])),
}


@jax.jit
def scored(emission, x):
    """Log-densities of three observations, and the gradient of their sum."""
    return emission.log_prob(x), jax.grad(lambda e: e.log_prob(x).sum())(emission)


def log_prob(emission, x):
    return np.asarray(scored(emission, np.asarray(x, float))[0])


def per_state(density):
    """The density under both states, on the last axis."""
    return np.stack([density(0), density(1)], axis=-1)


def observations(name, rng, size):
    """Something each family can make, as (size, *event)."""
    if name == "categorical":
        return rng.integers(0, 3, size).astype(float)
    if name.startswith("bernoulli"):
        return rng.integers(0, 2, (size, 2) if "vectors" in name else size).astype(float)
    if name.startswith("poisson"):
        return rng.poisson(4, (size, 2) if "vectors" in name else size).astype(float)
    if name == "product":
        return np.stack([rng.normal(size=size), rng.poisson(4, size)], axis=1)
    return rng.normal(1, 2, size) if name in ("normal", "mixture") else rng.normal(1, 1.5, (size, 2))


# Densities


PART = ("normal", "poisson")  # of the product, which says the same of them
WHOLE = [name for name in FAMILIES if name not in PART]


def test_densities_are_those_of_scipy():
    x, v = np.array([-1.0, 0.3, 4.0]), np.array([[0.0, 1.0], [1.5, -2.0], [3.0, 0.2]])
    counts, flags, symbols = np.array([0, 3, 9]), np.array([0, 1, 1]), np.array([0, 2, 1])
    normal = stats.norm.logpdf
    bumps = lambda a, b, w: np.log(w * np.exp(normal(x, *a)) + (1 - w) * np.exp(normal(x, *b)))  # noqa: E731
    wanted = {
        "categorical": (symbols, np.log([[0.6, 0.1], [0.1, 0.7], [0.3, 0.2]])),
        "bernoulli": (flags, per_state(lambda k: stats.bernoulli.logpmf(flags, [0.2, 0.7][k]))),
        "bernoulli vectors": (
            np.stack([flags, 1 - flags], 1),
            per_state(
                lambda k: (
                    stats.bernoulli.logpmf(flags, [0.2, 0.5][k]) + stats.bernoulli.logpmf(1 - flags, [0.7, 0.9][k])
                )
            ),
        ),
        "poisson vectors": (
            np.stack([counts, 2 * counts], 1),
            per_state(
                lambda k: stats.poisson.logpmf(counts, [1.5, 3.0][k]) + stats.poisson.logpmf(2 * counts, [6.0, 0.5][k])
            ),
        ),
        "normal diagonal": (
            v,
            per_state(lambda k: normal(v, MEAN[k], np.sqrt([[1.0, 2.0], [0.5, 0.7]])[k]).sum(1)),
        ),
        "normal spherical": (v, per_state(lambda k: normal(v, MEAN[k], np.sqrt([1.0, 0.5])[k]).sum(1))),
        "normal full": (v, per_state(lambda k: stats.multivariate_normal.logpdf(v, MEAN[k], FULL[k]))),
        "normal tied": (v, per_state(lambda k: stats.multivariate_normal.logpdf(v, MEAN[k], FULL[0]))),
        "mixture": (
            x,
            np.stack(
                [
                    bumps((0, 1), (1, np.sqrt(0.5)), 0.3),
                    bumps((3, np.sqrt(2)), (5, 1), 0.9),
                ],
                axis=-1,
            ),
        ),
        "product": (
            np.stack([x, counts], 1),
            per_state(
                lambda k: normal(x, [0, 2][k], np.sqrt([1, 0.5])[k]) + stats.poisson.logpmf(counts, [1.5, 6.0][k])
            ),
        ),
    }
    assert list(wanted) == WHOLE
    for name, (data, densities) in wanted.items():
        np.testing.assert_allclose(log_prob(FAMILIES[name](), data), densities, rtol=2e-6, atol=1e-5, err_msg=name)
        if name in ("categorical", "poisson vectors"):  # integers are never missing
            whole = FAMILIES[name]().log_prob(data)
            np.testing.assert_allclose(whole, densities, rtol=2e-6, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("name", WHOLE)
def test_what_is_missing_counts_nothing_and_has_a_finite_gradient(name):
    emission = FAMILIES[name]()
    x = observations(name, np.random.default_rng(0), 3)
    x[0] = NAN
    if x.ndim == 2:
        x[1, 0] = NAN
    value, gradient = scored(emission, x)
    assert np.isfinite(value).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    np.testing.assert_allclose(np.asarray(value)[0], [0, 0], atol=1e-6)


def test_missing_features_leave_the_marginal_density():
    v = np.array([[NAN, 1.0], [1.5, NAN], [0.3, 0.4]])
    wanted = per_state(
        lambda k: np.array(
            [
                stats.norm.logpdf(1.0, MEAN[k, 1], np.sqrt(FULL[k, 1, 1])),
                stats.norm.logpdf(1.5, MEAN[k, 0], np.sqrt(FULL[k, 0, 0])),
                stats.multivariate_normal.logpdf(v[2], MEAN[k], FULL[k]),
            ]
        )
    )
    np.testing.assert_allclose(log_prob(FAMILIES["normal full"](), v), wanted, rtol=1e-5)
    diagonal = log_prob(FAMILIES["normal diagonal"](), v)
    np.testing.assert_allclose(diagonal[0], stats.norm.logpdf(1.0, MEAN[:, 1], np.sqrt([2.0, 0.7])), rtol=1e-5)
    product = log_prob(FAMILIES["product"](), np.array([[NAN, 3.0], [1.0, NAN], [1.0, 3.0]]))
    np.testing.assert_allclose(product[0], stats.poisson.logpmf(3, [1.5, 6.0]), rtol=1e-5)


def test_three_features_with_one_missing_under_a_full_covariance():
    rng = np.random.default_rng(2)
    root = rng.normal(size=(2, 3, 3))
    covariance, mean = root @ root.swapaxes(1, 2) + np.eye(3), rng.normal(size=(2, 3))
    x, there = np.array([[0.3, NAN, -1.0]] * 3), [0, 2]
    wanted = [
        stats.multivariate_normal.logpdf(x[0, there], mean[k, there], covariance[k][np.ix_(there, there)])
        for k in range(2)
    ]
    np.testing.assert_allclose(log_prob(E.MultivariateNormal(mean, covariance), x)[0], wanted, rtol=1e-5)


# Draws


@pytest.mark.parametrize("name", [name for name in WHOLE if name not in ("bernoulli", "poisson vectors")])
def test_draws_have_the_right_mean_and_spread(name):
    emission, count = FAMILIES[name](), 20_000
    states = np.repeat(np.int32([0, 1]), count)
    x = np.asarray(jax.jit(lambda e, k: e.sample(k, states))(emission, jax.random.key(1)), float)
    x = x.reshape(2, count, *x.shape[1:])
    spread = x.std(1)
    assert (np.abs(x.mean(1) - np.asarray(emission.mean)) <= 5 * spread / np.sqrt(count)).all()
    variances = {
        "normal diagonal": [[1.0, 2.0], [0.5, 0.7]],
        "normal spherical": [[1.0, 1.0], [0.5, 0.5]],
        "normal full": FULL[:, [0, 1], [0, 1]],
        "normal tied": [FULL[0, [0, 1], [0, 1]]] * 2,
        "product": [[1.0, 1.5], [0.5, 6.0]],
        "bernoulli vectors": [[0.16, 0.21], [0.25, 0.09]],
    }
    if name in variances:
        kurtosis = ((x - x.mean(1, keepdims=True)) ** 4).mean(1)
        error = 5 * np.sqrt(kurtosis / count)  # five standard errors of a sample variance, at most
        assert (np.abs(spread**2 - variances[name]) <= error).all()
    if name == "normal full":
        for k in range(2):
            assert np.cov(x[k].T)[0, 1] == pytest.approx(FULL[k, 0, 1], abs=5 * np.sqrt(4.0 / count))


# The M-step


def m_step(*args):
    return jax.tree.map(np.asarray, in_one_program(*args))


@jax.jit
def in_one_program(emission, values, weights, prior, key):
    """The M-step, its objective, and the objective at parameters nearby."""

    def objective(e):
        scores = jnp.where(weights > 0, e.scores(values), 0)
        return (weights * scores).sum() + e.log_prior(prior)

    new, degenerate = emission.maximise(values, weights, prior, 1e-6)
    free = new.unconstrained()
    flat, back = ravel_pytree(free)
    nearby = flat[None] + 0.1 * jax.random.normal(key, (24, flat.size))
    around = jax.vmap(lambda f: new.constrained(back(f)))(nearby)
    # one after another, since the objective is most of what there is to compile
    every = jax.tree.map(lambda old, now, others: jnp.stack([old, now, *others]), emission, new, around)
    before, after, *around = jax.lax.map(objective, every)
    return new, degenerate, before, after, jnp.stack(around), new.constrained(free)


def weighted_data(name, missing):
    rng = np.random.default_rng(11)
    values = observations(name, rng, 60)
    if missing:
        values[5] = NAN
        if values.ndim == 2:
            values[6, 0] = NAN
    weights = rng.dirichlet([1.0, 2.0], size=60)
    weights[20] = 0  # padding
    values, weights = values.reshape(30, 2, *values.shape[1:]), weights.reshape(30, 2, 2)
    return np.moveaxis(values, 1, -1).astype(np.float32), np.moveaxis(weights, 1, -1).astype(np.float32)


PRIORS = {
    "categorical": E.Dirichlet(np.float32([1, 2, 5])),
    "bernoulli": E.Beta(3.0, 2.0),
    "poisson": E.Gamma(4.0, 2.0),
    "normal": E.NormalInverseGamma(0.5, 3.0, 2.0, 1.5),
    "normal spherical": E.NormalInverseGamma(np.float32([0.5, -0.5]), 3.0, 2.0, 1.5),
    "product": (E.NormalInverseGamma(0.5, 3.0, 2.0, 1.5), E.Gamma(4.0, 2.0)),
}
# the vectors of these take the same way, and the product does with its priors
ALONE = [name for name in FAMILIES if name not in ("bernoulli", "poisson", "normal", "product")]
STEPS = [(name, None) for name in ALONE] + list(PRIORS.items())


@pytest.mark.parametrize(("name", "prior"), STEPS, ids=[n + (" with prior" if p else "") for n, p in STEPS])
def test_the_m_step_cannot_be_improved(name, prior):
    emission = FAMILIES[name]()
    values, weights = weighted_data(name, missing="full" not in name and "tied" not in name and name != "mixture")
    new, degenerate, before, after, around, same = m_step(emission, values, weights, prior, jax.random.key(0))
    assert not degenerate.any()
    slack = 1e-5 * abs(float(after))
    if name == "mixture":  # an EM step itself: it can only improve
        assert after >= before - slack
    else:
        assert (around <= after + slack).all()
        assert after > before
    for old, other in zip(jax.tree.leaves(new), jax.tree.leaves(same), strict=True):
        np.testing.assert_allclose(other, old, rtol=2e-5, atol=1e-6)  # unconstrained and back


def plain(name, missing=True):
    """Emission, rows (step, *event) and weights (step, state) of the same data in float64, as formulas like them."""
    values, weights = weighted_data(name, missing)
    rows = np.moveaxis(values, -1, 1).reshape(60, *values.shape[1:-1]).astype(float)
    return values, weights, rows, np.moveaxis(weights, -1, 1).reshape(60, 2).astype(float)


def test_the_m_step_is_the_weighted_average():
    key = jax.random.key(0)
    for name in ("normal diagonal", "poisson vectors", "bernoulli vectors"):
        values, weights, rows, w = plain(name)
        new = m_step(FAMILIES[name](), values, weights, None, key)[0]
        seen = ~np.isnan(rows)
        total = w.T @ seen
        mean = w.T @ np.where(seen, rows, 0) / total
        np.testing.assert_allclose(new.mean, mean, rtol=1e-5)
        if name == "normal diagonal":
            off = np.where(seen[:, None], rows[:, None] - mean, 0)
            np.testing.assert_allclose(new.variance, np.einsum("nk,nkd->kd", w, off**2) / total, rtol=1e-4)
    values, weights, rows, w = plain("categorical")
    seen = ~np.isnan(rows)
    counts = np.stack([w[seen & (rows == v)].sum(0) for v in range(3)], axis=1)
    new = m_step(FAMILIES["categorical"](), values, weights, None, key)[0]
    np.testing.assert_allclose(new.probs, counts / counts.sum(1, keepdims=True), rtol=1e-5)
    with_prior = m_step(FAMILIES["categorical"](), values, weights, PRIORS["categorical"], key)[0]
    counts = counts + np.array([0, 1, 4])
    np.testing.assert_allclose(with_prior.probs, counts / counts.sum(1, keepdims=True), rtol=1e-5)


def test_the_m_step_of_covariances_is_the_weighted_scatter():
    key = jax.random.key(0)
    values, weights, rows, w = plain("normal full", missing=False)
    total = w.sum(0)
    mean = w.T @ rows / total[:, None]
    off = rows[:, None] - mean
    scatter = np.einsum("nk,nki,nkj->kij", w, off, off)
    full = m_step(FAMILIES["normal full"](), values, weights, None, key)[0]
    np.testing.assert_allclose(full.mean, mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(full.covariance, scatter / total[:, None, None], rtol=1e-3, atol=1e-4)
    tied = m_step(FAMILIES["normal tied"](), values, weights, None, key)[0]
    np.testing.assert_allclose(tied.covariance, scatter.sum(0) / total.sum(), rtol=1e-3, atol=1e-4)
    spherical = m_step(FAMILIES["normal spherical"](), values, weights, None, key)[0]
    average = np.trace(scatter, axis1=1, axis2=2) / total / 2
    np.testing.assert_allclose(spherical.variance, average, rtol=1e-4)


def test_the_m_step_fills_missing_features_by_their_conditional_expectation():
    values, weights, rows, w = plain("normal full")
    emission = FAMILIES["normal full"]()
    rows[30:36, 1] = NAN
    values = np.moveaxis(rows.reshape(30, 2, 2), 1, -1).astype(np.float32)
    new, _, before, after, _, _ = m_step(emission, values, weights, None, jax.random.key(0))
    for k in range(2):
        first, second, total = np.zeros(2), np.zeros((2, 2)), 0.0
        for x, weight in zip(rows, w[:, k], strict=True):
            seen = ~np.isnan(x)
            if not seen.any():
                continue
            filled, lacking = np.where(seen, x, 0), np.zeros((2, 2))
            if not seen.all():
                (o,), (m,) = np.flatnonzero(seen), np.flatnonzero(~seen)
                gain = FULL[k, m, o] / FULL[k, o, o]
                filled[m] = MEAN[k, m] + gain * (x[o] - MEAN[k, o])
                lacking[m, m] = FULL[k, m, m] - gain * FULL[k, o, m]
            first += weight * filled
            second += weight * (np.outer(filled, filled) + lacking)
            total += weight
        mean = first / total
        np.testing.assert_allclose(new.mean[k], mean, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(new.covariance[k], second / total - np.outer(mean, mean), rtol=1e-3, atol=1e-4)
    assert after >= before


@pytest.mark.parametrize("name", ["categorical", "poisson vectors", "normal diagonal", "normal full", "mixture"])
def test_a_state_without_weight_keeps_its_parameters_and_is_reported(name):
    values, weights = weighted_data(name, missing=False)
    weights[:, 1] = 0
    emission = FAMILIES[name]()
    new, degenerate, *_ = m_step(emission, values, weights, None, jax.random.key(0))
    assert degenerate.tolist() == [False, True]
    for old, now in zip(map(np.asarray, jax.tree.leaves(emission)), jax.tree.leaves(new), strict=True):
        assert np.isfinite(now).all()
        half = len(old) // 2
        np.testing.assert_array_equal(now[half:], old[half:])
        assert not np.array_equal(now[:half], old[:half])


@pytest.mark.parametrize("name", ["categorical", "bernoulli", "poisson"])
def test_a_prior_does_not_hide_that_a_state_is_empty(name):
    values, weights = weighted_data(name, missing=False)
    weights[:, 1] = 0
    degenerate = m_step(FAMILIES[name](), values, weights, PRIORS[name], jax.random.key(0))[1]
    assert degenerate.tolist() == [False, True]


def test_a_component_without_weight():
    bumps = E.Mixture(E.Normal([-1.0, 1.0, 0.0, 200.0], np.ones(4)), [[1.0, 0.0], [0.5, 0.5]])
    score, gradient = scored(bumps, np.array([0.0, 1.0, -1.0]))
    assert np.isfinite(score).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    after = m_step(bumps, *weighted_data("mixture", missing=False), None, jax.random.key(0))[0].weights
    np.testing.assert_allclose(after[0], [1, 0], rtol=1e-6)  # structure stays, the zero exactly
    assert after[1, 1] > 0  # but what was possible stays possible, however unlikely
    assert after[1, 1] < 1e-30


def test_a_variance_meets_its_floor_and_is_reported():
    values, weights = np.zeros((30, 2), np.float32), np.zeros((30, 2, 2), np.float32)
    values[:4, 0] = [1, 1, 3, 5]
    weights[:2, 0, 0], weights[2:4, 1, 0] = 1, 1
    values = np.stack([values, values], axis=1)  # two equal features
    new, degenerate, *_ = m_step(FAMILIES["normal diagonal"](), values, weights, None, jax.random.key(0))
    np.testing.assert_allclose(new.variance, [[1e-6] * 2, [1.0] * 2], rtol=1e-5)
    assert degenerate.tolist() == [True, False]


def test_families_start_from_the_data():
    rng, key = np.random.default_rng(3), jax.random.key(5)
    families = {
        "categorical": (E.Categorical(num_symbols=4), 3),
        "poisson vectors": (E.Poisson(), None),
        "bernoulli": (E.Bernoulli(), None),
        "normal spherical": (E.Normal(spherical=True), None),
        "normal full": (E.MultivariateNormal(), None),
        "normal tied": (E.MultivariateNormal(tied=True), None),
        "mixture": (E.Mixture(E.Normal(), num_components=2), None),
        "product": (E.Product(E.Normal(), E.Poisson()), None),
    }
    for name, (family, _) in families.items():
        assert family.num_states is None
        assert not family.has_parameters()
        x = observations(name, rng, 40)
        x[3] = NAN
        data = cr.Sequences.pack([x[:25], x[25:]])
        started = family.initialise(key, 3, data)
        assert started.num_states == 3
        assert started.event_shape == x.shape[1:]
        assert np.isfinite(np.asarray(started.mean)).all()
        again = family.initialise(key, 3, data)
        assert all(np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (started, again)), strict=True))
    with pytest.raises(ValueError, match=r"Poisson\(\) has no parameters yet"):
        _ = E.Poisson().mean


# Structural zeros


def test_impossible_symbols_stay_impossible():
    emission = E.Categorical([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]])
    values, weights = weighted_data("categorical", missing=False)
    prior = E.Dirichlet(np.float32([3, 3, 3]))
    weights[:, 0] = np.where(values == 2, 0, weights[:, 0])
    new, *_, same = m_step(emission, values, weights, prior, jax.random.key(0))
    assert new.probs[0, 2] == same.probs[0, 2] == 0
    assert emission.free_parameters() == 3


# Errors


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: E.Categorical([[0.5, 0.6]]), r"probs of state 0 sum to 1\.1, not 1"),
        (lambda: E.Categorical([[1.5, -0.5]]), r"probs\[0, 1\] is -0\.5; wanted a probability"),
        (lambda: E.Categorical([0.5, 0.5]), r"probs must have shape \(state, symbol\), got \(2,\)"),
        (lambda: E.Categorical([[0.5, 0.5]], num_symbols=3), "probs have 2 symbols, num_symbols is 3"),
        (lambda: E.Bernoulli([0.5, 1.5]), r"probs\[1\] is 1\.5; wanted a probability"),
        (lambda: E.Poisson([1.0, 0.0]), r"rate\[1\] is 0\.0; wanted a positive finite rate"),
        (lambda: E.Poisson([[[1.0]]]), r"rate must have shape \(state,\) or \(state, feature\), got \(1, 1, 1\)"),
        (lambda: E.Normal([0.0], [-1.0]), r"variance\[0\] is -1\.0; wanted a positive finite number"),
        (lambda: E.Normal([NAN], [1.0]), r"mean\[0\] is nan"),
        (lambda: E.Normal([0.0]), "give both mean and variance"),
        (lambda: E.Normal([0.0, 1.0], [1.0]), r"variance has shape \(1,\), mean \(2,\) asks for \(2,\)"),
        (lambda: E.MultivariateNormal(MEAN, [FULL[0], [[1.0, 2.0], [2.0, 1.0]]]), "state 1 is not positive definite"),
        (lambda: E.MultivariateNormal(MEAN, [[1.0, 0.5], [0.0, 1.0]]), "the covariance is not symmetric"),
        (lambda: E.MultivariateNormal(MEAN, np.eye(3)), r"covariance has shape \(3, 3\), wanted \(2, 2\)"),
        (lambda: E.Mixture(E.Poisson([1.0, 2.0, 3.0]), [[0.5, 0.5]]), "with 2 states, got 3"),
        (lambda: E.Mixture(E.Poisson([1.0, 2.0]), [[0.5, 0.6]]), r"weights of state 0 sum to 1\.1"),
        (E.Product, "give at least one emission"),
        (lambda: E.Product(E.Poisson([1.0]), E.Poisson([1.0, 2.0])), r"different numbers of states: \[1, 2\]"),
        (E.Custom, "give either a distribution, or make and free"),
        (lambda: E.Custom(object()), "no usable method log_prob"),
    ],
)
def test_emissions_that_cannot_be(build, message):
    with pytest.raises(ValueError, match=message):
        build()


# Corners


def test_a_certain_flag_has_a_finite_gradient():
    gradient = jax.jit(jax.grad(lambda e: jnp.where(np.eye(2) > 0, e.log_prob(np.array([0, 1])), 0).sum()))(
        E.Bernoulli([0.0, 1.0])
    )
    assert np.isfinite(gradient.probs).all()


def test_a_feature_that_is_always_missing_does_not_stop_the_others():
    values, weights, rows, w = plain("normal diagonal", missing=False)
    values[:, 1] = NAN
    emission = FAMILIES["normal diagonal"]()
    new = m_step(emission, values, weights, None, jax.random.key(0))[0]
    np.testing.assert_allclose(new.loc[:, 0], w.T @ rows[:, 0] / w.sum(0), rtol=1e-5)
    np.testing.assert_array_equal(new.loc[:, 1], MEAN[:, 1])
    np.testing.assert_array_equal(new.variance[:, 1], np.asarray(emission.variance)[:, 1])


def test_a_mixture_starts_with_the_tied_covariance_of_the_data():
    x = np.random.default_rng(0).normal(size=(40, 2)) @ np.array([[1.0, 0.9], [0.0, 0.4]])
    family = E.Mixture(E.MultivariateNormal(tied=True), num_components=1)  # two components, two features
    started = family.initialise(jax.random.key(0), 2, cr.Sequences.pack(x))
    np.testing.assert_allclose(started.component.covariance, np.cov(x.T), rtol=1e-4)


@pytest.mark.parametrize(
    ("emission", "prior", "message"),
    [
        (E.Categorical([[0.5, 0.5], [0.2, 0.8]]), E.Dirichlet(0.5), "concentration"),
        (E.Bernoulli([0.5, 0.2]), E.Beta(0.5, 1.0), "yes"),
        (E.Poisson([1.0, 2.0]), E.Gamma(0.5, 1.0), "shape"),
        (E.Poisson([1.0, 2.0]), E.Gamma(1.0, -1.0), "inverse_scale"),
        (E.Normal([0.0, 1.0], [1.0, 1.0]), E.NormalInverseGamma(0.0, -1.0, 1.0, 1.0), "strength"),
        (E.Categorical([[0.5, 0.5], [0.2, 0.8]]), E.Gamma(2.0, 1.0), "Dirichlet"),  # another family's prior
    ],
)
def test_emission_priors_without_a_maximum_are_refused(emission, prior, message):
    from chainrule.models.hmm import HMMPrior

    hmm = cr.HMM([0.5, 0.5], np.full((2, 2), 0.5), emission)
    with pytest.raises(ValueError, match=message):
        hmm.fit([0, 1, 0, 1], method=cr.EM(max_iterations=1), prior=HMMPrior(emission=prior))
