"""Fits: gradients against enumeration, centring against its published form, missing units, methods, traces."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from enumerated import binary, categorical, fast_key, gaussian, log_probs, one_hot, states, visible_states

import chainrule as cr
from chainrule.models.rbm import engine, learning

KEY = fast_key(0)
METHOD = cr.CD()


@jax.jit
def slope(machine, x, y, observed=None, method=METHOD):
    """`learning.gradient`, with columns x on the side of the data and y on that of the machine."""
    return learning.gradient(machine, *(learning.look(machine, rows, observed) for rows in (x, y)), method)


@jax.jit
def centred_change(machine, x, y, visible_mean, hidden_mean):
    """What a step at the rate 1 in the centred parameters does to the machine's own."""
    return learning.uncentre(
        learning.centre(slope(machine, x, y), visible_mean, hidden_mean), visible_mean, hidden_mean
    )


def test_gradient_with_exact_samples_is_the_exact_gradient():
    """Rows of the machine drawn from its enumerated distribution: within 5 standard errors of jax.grad of log p."""
    machine, v = binary(), np.float32(states(4)[[3, 5, 5, 9]])
    count, p = 200_000, np.exp(log_probs(machine)[0])
    draws = states(4)[np.random.default_rng(0).choice(16, count, p=p / p.sum())]
    found = slope(machine, v, np.float32(draws))
    wanted = jax.jit(jax.grad(lambda m: m.log_prob(jnp.asarray(v)).mean()))(machine)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, atol=5 * 0.5 / np.sqrt(count))


RECTIFIED = binary(0, 3, 2, hidden=cr.units.Rectified())


@pytest.mark.parametrize("machine", [gaussian(), categorical(), RECTIFIED], ids=["gaussian", "softmax", "rectified"])
def test_gradients_are_those_of_free_energies(machine):
    """Both sides given, the gradient is that of a difference of mean free energies, by the whole machine's parameters."""
    rng = np.random.default_rng(0)
    if machine.discrete:
        values = (rng.integers(0, max(machine.visible.width, 2), (5, 3)) for _ in range(2))
        x, y = (np.float32(one_hot(machine, v)) for v in values)
    else:
        x, y = (np.float32(rng.normal(size=(5, 2))) for _ in range(2))
    found = slope(machine, x, y)
    wanted = jax.jit(jax.grad(lambda m: (engine.free_energy(m, y) - engine.free_energy(m, x)).mean()))(machine)
    assert len(jax.tree.leaves(found)) == (3 if machine.discrete else 4)  # the variances too
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
        assert np.abs(np.asarray(a)).max() > 1e-3


def test_variances_that_are_not_learned_stay():
    machine = cr.RBM(np.ones((2, 3)), visible=cr.units.Gaussian([0.1, -0.2], learned=False))
    data = np.random.default_rng(0).normal(size=(50, 2))
    model = machine.fit(data, method=cr.CD(epochs=3, batch_size=10), key=KEY).model
    np.testing.assert_array_equal(model.visible.log_variance, machine.visible.log_variance)
    assert not np.allclose(model.weights, machine.weights)
    # so that there may be none in the data
    data[:, 1] = 1.0
    model = machine.fit(data, method=cr.CD(epochs=3, batch_size=10), key=KEY).model
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(model))
    with pytest.raises(ValueError, match="unit 1 is the same in all rows"):
        cr.RBM(np.ones((2, 3)), visible=cr.units.Gaussian()).fit(data, method=cr.CD(), key=KEY)


# Centring


def test_centred_steps_are_those_of_the_machine_with_offsets():
    """One step of Melchior et al. in its own parametrisation, E = −(v−μ)a' − (h−λ)b' − (v−μ)W(h−λ), and translated back."""
    machine = binary()
    rng = np.random.default_rng(1)
    x, y = (rng.integers(0, 2, (6, 4)).astype(float) for _ in range(2))
    mu, lam, rate = rng.random(4), rng.random(3), 0.3
    w, a, b = (np.asarray(p, float) for p in (machine.weights, machine.visible_bias, machine.hidden_bias))
    a_centred, b_centred = a + w @ lam, b + mu @ w

    def on(v):
        return 1 / (1 + np.exp(-(b_centred + (v - mu) @ w)))

    w_new = w + rate * ((x - mu).T @ (on(x) - lam) - (y - mu).T @ (on(y) - lam)) / 6
    a_new = a_centred + rate * (x.mean(0) - y.mean(0)) - w_new @ lam
    b_new = b_centred + rate * (on(x).mean(0) - on(y).mean(0)) - mu @ w_new

    change = centred_change(machine, *map(np.float32, (x, y, mu, lam)))
    np.testing.assert_allclose(w + rate * np.asarray(change.weights), w_new, atol=1e-6)
    np.testing.assert_allclose(a + rate * np.asarray(change.visible_bias), a_new, atol=1e-6)
    np.testing.assert_allclose(b + rate * np.asarray(change.hidden_bias), b_new, atol=1e-6)


def test_offsets_that_move_change_no_probability():
    """Where nothing is learned the machine stays what it is to the last bit, however often its offsets move."""
    nothing = cr.PCD(epochs=4, batch_size=50, learning_rate=1e-30)
    machine = binary(0, 6, 4)
    model = machine.fit(DATA, method=nothing, key=KEY).model
    for a, b in zip(jax.tree.leaves(model), jax.tree.leaves(machine), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_centred_fit_of_flipped_data_is_the_flipped_fit():
    """The direction of a step does not depend on which value is called 1 (Melchior et al. 2016, section 4)."""
    machine = binary()
    w, a, b = map(np.asarray, (machine.weights, machine.visible_bias, machine.hidden_bias))
    flipped = cr.RBM(-w, -a, b + w.sum(0))
    rng = np.random.default_rng(2)
    x, y = (np.float32(rng.integers(0, 2, (6, 4))) for _ in range(2))
    mu, lam = x.mean(0), np.float32([0.3, 0.6, 0.5])
    step = jax.tree.map(np.asarray, centred_change(machine, x, y, mu, lam))
    other = centred_change(flipped, 1 - x, 1 - y, 1 - mu, lam)
    np.testing.assert_allclose(other.weights, -step.weights, atol=1e-6)
    np.testing.assert_allclose(other.visible_bias, -step.visible_bias, atol=1e-6)
    np.testing.assert_allclose(other.hidden_bias, step.hidden_bias + step.weights.sum(0), atol=1e-6)


# Missing units


def part_of(machine, kept):
    """The machine without the other visible units."""
    width = machine.visible.width
    rows = np.concatenate([np.arange(i * width, (i + 1) * width) for i in kept])
    w, a = np.asarray(machine.weights)[rows], np.asarray(machine.visible_bias)[rows]
    return cr.RBM(w, a, machine.hidden_bias, visible=machine.visible), rows


@pytest.mark.parametrize("machine", [categorical(), binary(0, 3, 2)], ids=["softmax", "binary"])
def test_missing_units_are_units_that_are_not_there(machine):
    """Free energies, features and gradients of masked rows equal those of the machine with these units removed."""
    v = visible_states(machine)[:8]
    masked = np.ma.masked_array(v, np.tile([False, True, False], (len(v), 1)))
    small, rows = part_of(machine, [0, 2])
    np.testing.assert_allclose(machine.free_energy(masked), small.free_energy(v[:, [0, 2]]), rtol=1e-6)
    np.testing.assert_allclose(machine.features(masked), small.features(v[:, [0, 2]]), rtol=1e-6)

    width = machine.visible.width
    observed = np.repeat(np.float32(~np.ma.getmaskarray(masked)), width, axis=1)
    x, y = (np.float32(one_hot(machine, values)) * observed for values in (v, v[::-1]))
    method = cr.CD(sparsity_cost=0.1)
    found = jax.tree.map(np.asarray, slope(machine, x, y, observed, method))
    wanted = slope(small, x[:, rows], y[:, rows], None, method)
    np.testing.assert_allclose(found.weights[rows], wanted.weights, atol=1e-6)
    np.testing.assert_allclose(found.visible_bias[rows], wanted.visible_bias, atol=1e-6)
    np.testing.assert_allclose(found.hidden_bias, wanted.hidden_bias, atol=1e-6)
    gone = np.setdiff1d(np.arange(3 * width), rows)
    assert not found.weights[gone].any()
    assert not found.visible_bias[gone].any()


COUNT = 40_000  # rows, all in one batch: what a step expects is then met within 5 standard errors


def cd_slopes(machine, values, sweeps):
    """Expected slopes of CD by W, a and b at one row of values, over all h and v⁻; and E[h | v]."""
    w, a, b = (np.asarray(p, float) for p in (machine.weights, machine.visible_bias, machine.hidden_bias))
    rows, h = one_hot(machine, visible_states(machine)), states(len(b))

    def on(x):
        return 1 / (1 + np.exp(-(b + x @ w)))

    def to_hidden(x):
        return np.prod(np.where(h == 1, on(x)[:, None], 1 - on(x)[:, None]), axis=2)

    to_visible = np.exp((a + h @ w.T) @ rows.T)
    to_visible /= to_visible.sum(1, keepdims=True)
    x = one_hot(machine, np.array([values]))[0]
    p = to_hidden(x[None])[0] @ to_visible
    for _ in range(sweeps - 1):
        p = p @ to_hidden(rows) @ to_visible
    return np.outer(x, on(x)) - (rows * p[:, None]).T @ on(rows), x - p @ rows, on(x) - p @ on(rows), on(x)


def test_cd_on_missing_ratings_is_cd_of_the_machine_with_those_units_removed():
    """A step on very many rows of two kinds: the mean of the slopes of each kind's machine; centred around ⟨h⟩ only."""
    machine, rows, sweeps = categorical(2), [[2, -1, 0], [-1, -1, 1]], 2
    method = cr.CD(epochs=1, batch_size=COUNT, learning_rate=1.0, decay=1.0, sweeps=sweeps)
    found = machine.fit(np.tile(rows, (COUNT // 2, 1)), method=method, key=KEY).model
    w, a, b, on = np.zeros((9, 2)), np.zeros(9), np.zeros(2), np.zeros(2)
    for values in np.array(rows):
        kept = np.flatnonzero(values >= 0)
        small, place = part_of(machine, kept)
        slopes = cd_slopes(small, values[kept], sweeps)
        for total, part, where in zip((w, a, b, on), slopes, (place, place, ..., ...), strict=True):
            total[where] += part / 2
    w -= np.outer(a, on)
    a -= w @ on
    error = 5 * 0.5 / np.sqrt(COUNT)
    moved = jax.tree.map(lambda new, old: np.asarray(new) - np.asarray(old), found, machine)
    np.testing.assert_allclose(moved.weights, w, atol=2 * error)
    np.testing.assert_allclose(moved.visible_bias, a, atol=2 * error)
    np.testing.assert_allclose(moved.hidden_bias, b, atol=2 * error)
    assert np.abs(w).max() > 5 * error  # something was learned
    gone = np.repeat((np.array(rows) < 0).all(0), 3)
    assert not moved.weights[gone].any()
    assert not moved.visible_bias[gone].any()


def test_what_stands_behind_missing_entries_changes_nothing():
    machine = categorical()
    v, gone = np.random.default_rng(0).integers(0, 3, (COUNT, 3)), np.random.default_rng(1).random((COUNT, 3)) < 0.4
    method = cr.CD(epochs=1, batch_size=COUNT)
    fits = [
        machine.fit(data, method=method, key=KEY).model
        for data in (
            np.where(gone, -1, v),
            np.where(gone, np.nan, v),
            np.ma.masked_array(v, gone),
            np.ma.masked_array(2 - v * ~gone, gone) * 0 + np.ma.masked_array(v, gone),
        )
    ]
    for other in fits[1:]:
        for a, b in zip(jax.tree.leaves(fits[0]), jax.tree.leaves(other), strict=True):
            np.testing.assert_array_equal(a, b)


def test_persistent_chains_refuse_missing_entries():
    with pytest.raises(ValueError, match=r"method=CD\(\)"):
        categorical().fit(np.array([[0, 1, -1]]), key=KEY)


# Fits as a whole

PATTERNS = np.array([[1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1], [1, 0, 1, 0, 1, 0]])
DATA = PATTERNS[np.random.default_rng(0).choice(3, 600, p=[0.5, 0.3, 0.2])].astype(np.uint8)
BEST = 600 * np.sum([p * np.log(p) for p in np.bincount(DATA @ 2 ** np.arange(6))[[7, 56, 21]] / 600])
START = cr.RBM.random(fast_key(1), 6, 4, data=DATA, scale=0.1)


def two_sides():
    rng = np.random.default_rng(0)
    side = rng.integers(0, 2, (2000, 1)) * 2 - 1
    return np.concatenate([2 * side + 0.4 * rng.normal(size=(2000, 1)), 0.7 * rng.normal(size=(2000, 1))], axis=1)


SIDES = two_sides()


def methods():
    import optax

    common = {"epochs": 64, "batch_size": 50, "learning_rate": 0.2}
    return {
        "PCD": cr.PCD(**common),
        "plain CD-5": cr.CD(**common, sweeps=5, centred=False, momentum=0.5),
        "fast": cr.PCD(**common, fast_rate=0.1),
        "tempered": cr.PCD(**common, temperatures=4),
        "adam": cr.PCD(epochs=64, batch_size=50, optimiser=optax.adam(optax.linear_schedule(0.03, 0.0, 64 * 12))),
    }


def test_rectified_hidden_units_are_fitted():
    """Log-likelihoods by enumeration of the visible units: most of the way from independent ones to the best."""
    start = cr.RBM.random(fast_key(1), 6, 4, hidden=cr.units.Rectified(), data=DATA, scale=0.1)
    fit = start.fit(DATA, method=cr.PCD(epochs=80, batch_size=50, learning_rate=0.1), key=KEY)
    before = float(start.log_prob(DATA).sum())
    assert fit.status is cr.Status.MAX_ITERATIONS
    assert before + 0.5 * (BEST - before) < fit.log_prob < BEST
    assert fit.log_prob == pytest.approx(float(fit.model.log_prob(DATA).sum()), rel=1e-6)


@pytest.mark.parametrize("name", ["PCD", "plain CD-5", "fast", "tempered", "adam"])
def test_every_method_learns_three_patterns(name):
    fit = START.fit(DATA, method=methods()[name], key=KEY, progress=name == "plain CD-5")
    before = float(START.log_prob(DATA).sum())
    assert before < -2000 < 2 * BEST
    # within so many nats a row of the entropy of the data, which divergence from the data's own places does not reach
    assert BEST - 600 * (0.9 if name == "plain CD-5" else 0.55) < fit.log_prob < BEST
    assert fit.status is cr.Status.MAX_ITERATIONS
    assert fit.history.shape == (64,)
    assert fit.iterations == 64 * 12
    assert fit.num_observations == 600
    assert fit.num_parameters == 6 * 4 + 6 + 4
    again = START.fit(DATA, method=methods()[name], key=KEY) if name == "PCD" else fit
    np.testing.assert_array_equal(again.model.weights, fit.model.weights)


def test_exchange_keeps_the_joint_distribution():
    """From exact draws at each temperature, exchanges leave each temperature's distribution as it is, and do happen."""
    machine, base, count = binary(0, 3, 3, 1.5), np.float32([0.3, -0.2, 0.5]), 20_000
    betas, every = np.float32([1.0, 0.5, 0.0]), np.float32(states(3))

    @jax.jit
    def densities(machine):
        drive = engine.hidden_drive(machine, every)
        return jax.vmap(lambda beta: engine.log_density_at(machine, base, beta, every, drive))(betas)

    @jax.jit
    def exchange(machine, x):
        found, drive = learning.exchange(machine, KEY, base, jnp.asarray(betas), x, engine.hidden_drive(machine, x))
        return found, drive, engine.hidden_drive(machine, found)

    rng = np.random.default_rng(0)
    x, tables = [], []
    for log_f in np.asarray(densities(machine), float):
        p = np.exp(log_f - np.logaddexp.reduce(log_f))
        tables.append(p)
        x.append(states(3)[rng.choice(8, count, p=p / p.sum())])
    x = np.float32(np.concatenate(x))
    found, drive, wanted = exchange(machine, x)
    np.testing.assert_allclose(drive, wanted, atol=1e-5)
    assert 0.05 < np.mean(np.any(np.asarray(found) != x, axis=1)) < 0.95
    for t, p in enumerate(tables):
        code = np.asarray(found)[t * count : (t + 1) * count].astype(int) @ [4, 2, 1]
        np.testing.assert_allclose(np.bincount(code, minlength=8) / count, p, atol=4.5 * 0.5 / np.sqrt(count))


def test_refits_compile_nothing():
    """Other weights, data of the shape, rates, epochs and sweeps run the same program."""
    method = cr.PCD(epochs=5, batch_size=50, learning_rate=0.1, l2=0.0)
    START.fit(DATA, method=method, key=KEY)
    before = learning._run._cache_size(), learning._begin._cache_size()
    other = cr.PCD(epochs=8, batch_size=50, learning_rate=0.02, l2=1e-3, sweeps=3, decay=0.5, sparsity_cost=0.1)
    cr.RBM.random(fast_key(5), 6, 4).fit(1 - DATA, method=other, key=fast_key(6))
    START.fit(DATA.astype(bool), method=method, key=KEY)
    START.fit(DATA.astype(np.float64), method=method, key=KEY)
    assert (learning._run._cache_size(), learning._begin._cache_size()) == before


def test_sparsity_and_decay_do_what_they_say():
    common = {"epochs": 30, "batch_size": 50, "learning_rate": 0.1}
    plain = START.fit(DATA, method=cr.PCD(**common), key=KEY).model
    sparse = START.fit(DATA, method=cr.PCD(**common, sparsity_cost=3.0, sparsity_target=0.1), key=KEY).model
    small = START.fit(DATA, method=cr.PCD(**common, l2=0.1), key=KEY).model
    assert np.mean(sparse.features(DATA)) < 0.2 < np.mean(plain.features(DATA))
    assert np.linalg.norm(small.weights) < 0.7 * np.linalg.norm(plain.weights)


def test_validation_keeps_the_best_and_the_path_is_the_same():
    method = cr.PCD(epochs=6, batch_size=50, learning_rate=0.1)
    seen = []

    def score(model):
        seen.append(model)
        return -abs(len(seen) - 3)

    fit = START.fit(DATA, method=method, validation=cr.Validation(score, patience=2), key=KEY)
    assert fit.status is cr.Status.STOPPED_EARLY
    assert fit.validation.tolist() == [-2, -1, 0, -1, -2]
    np.testing.assert_array_equal(fit.model.weights, seen[2].weights)
    whole = START.fit(DATA, method=method, validation=cr.Validation(lambda m: None), key=KEY)
    np.testing.assert_allclose(whole.model.weights, START.fit(DATA, method=method, key=KEY).model.weights, rtol=1e-6)


def test_divergence_is_said():
    data = np.random.default_rng(0).normal(size=(50, 2))
    machine = cr.RBM.random(KEY, 2, 3, visible=cr.units.Gaussian(learned=False), scale=1.0)
    fit = machine.fit(data, method=cr.CD(epochs=20, batch_size=10, learning_rate=1e3), key=KEY)
    assert fit.status is cr.Status.DIVERGED
    assert np.isnan(fit.log_prob)
    # also where a model from before it is kept
    method = cr.CD(epochs=4, batch_size=10, learning_rate=1e3)
    kept = machine.fit(data, method=method, validation=cr.Validation(first_is_best()), key=KEY)
    assert kept.status is cr.Status.DIVERGED
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(kept.model))


def first_is_best():
    """A score that no later model reaches."""
    seen = []

    def score(model):
        seen.append(model)
        return -len(seen)

    return score


def test_progress_is_shown(capsys):
    START.fit(DATA, method=methods()["plain CD-5"], key=KEY, progress=True)
    assert "CD [" in capsys.readouterr().err


def test_gaussian_units_find_two_sides():
    start = cr.RBM.random(KEY, 2, 2, visible=cr.units.Gaussian(), data=SIDES, scale=0.3)
    fit = start.fit(SIDES, method=cr.PCD(epochs=60, learning_rate=0.1), key=KEY)
    # one hidden unit tells the two sides apart, 4 from each other; variances follow slowly
    assert np.abs(fit.model.weights[0]).max() == pytest.approx(4, abs=0.7)
    assert np.abs(fit.model.weights[0]).min() < 1
    assert fit.model.visible.log_variance[1] > start.visible.log_variance[1] + 0.02  # towards 0.49, from the half of it
    assert fit.log_prob > float(start.log_prob(SIDES).sum()) + 200


SETTINGS = [
    (lambda: cr.CD(epochs=0), "epochs is 0"),
    (lambda: cr.CD(learning_rate=0.0), "learning_rate"),
    (lambda: cr.CD(momentum=1.0), "momentum"),
    (lambda: cr.CD(l2=-1.0), "l2"),
    (lambda: cr.CD(sparsity_target=1.0), "sparsity_target"),
    (lambda: cr.PCD(chains=0), "chains is 0"),
    (lambda: cr.PCD(fast_rate=0.0), "fast_rate"),
    (lambda: cr.PCD(fast_decay=1.0), "fast_decay"),
    (lambda: cr.PCD(fast_rate=0.1, temperatures=3), "choose one"),
    (lambda: START.fit(DATA, method=cr.EM(), key=KEY), r"by CD\(\) or PCD\(\)"),
]


@pytest.mark.parametrize(("call", "message"), SETTINGS, ids=[m for _, m in SETTINGS])
def test_settings_are_checked(call, message):
    with pytest.raises(ValueError, match=message):
        call()
