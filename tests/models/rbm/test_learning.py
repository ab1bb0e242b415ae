"""Fits: gradients against enumeration, centring against its published form, missing units, methods, traces."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from enumerated import binary, categorical, fast_key, gaussian, log_probs, states, visible_states

import chainrule as cr
from chainrule.models.rbm import engine, learning

KEY = fast_key(0)
METHOD = cr.CD()


def test_gradient_with_exact_samples_is_the_exact_gradient():
    """Rows of the machine drawn from its enumerated distribution: within 5 standard errors of jax.grad of log p."""
    machine, v = binary(), jnp.asarray(states(4)[[3, 5, 5, 9]], jnp.float32)
    count, p = 200_000, np.exp(log_probs(machine)[0])
    draws = states(4)[np.random.default_rng(0).choice(16, count, p=p / p.sum())]
    found = learning.gradient(
        machine, learning.look(machine, v), learning.look(machine, jnp.asarray(draws, jnp.float32)), METHOD
    )
    wanted = jax.grad(lambda m: m.log_prob(v).mean())(machine)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, atol=5 * 0.5 / np.sqrt(count))


RECTIFIED = binary(0, 3, 2, hidden=cr.units.Rectified())


@pytest.mark.parametrize("machine", [gaussian(), categorical(), RECTIFIED], ids=["gaussian", "softmax", "rectified"])
def test_gradients_are_those_of_free_energies(machine):
    """Both sides given, the gradient is that of a difference of mean free energies, by the whole machine's parameters."""
    rng = np.random.default_rng(0)
    if machine.discrete:
        x, y = (engine_columns(machine, rng.integers(0, max(machine.visible.width, 2), (5, 3))) for _ in range(2))
    else:
        x, y = (jnp.asarray(rng.normal(size=(5, 2)), jnp.float32) for _ in range(2))
    found = learning.gradient(machine, learning.look(machine, x), learning.look(machine, y), METHOD)
    wanted = jax.grad(lambda m: (engine.free_energy(m, y) - engine.free_energy(m, x)).mean())(machine)
    assert len(jax.tree.leaves(found)) == (3 if machine.discrete else 4)  # the variances too
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
        assert np.abs(np.asarray(a)).max() > 1e-3


def engine_columns(machine, v):
    return machine.visible.encode(jnp.asarray(v), jnp.float32)


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

    slope = learning.gradient(
        machine, *(learning.look(machine, jnp.asarray(rows, jnp.float32)) for rows in (x, y)), METHOD
    )
    mu, lam = jnp.asarray(mu, jnp.float32), jnp.asarray(lam, jnp.float32)
    change = jax.tree.map(lambda g: rate * g, learning.centre(slope, mu, lam))
    moved = jax.tree.map(jnp.add, machine, learning.uncentre(change, mu, lam))
    np.testing.assert_allclose(moved.weights, w_new, atol=1e-6)
    np.testing.assert_allclose(moved.visible_bias, a_new, atol=1e-6)
    np.testing.assert_allclose(moved.hidden_bias, b_new, atol=1e-6)


def test_offsets_that_move_change_no_probability():
    """Where nothing is learned the machine stays what it is to the last bit, however often its offsets move."""
    machine, data = binary(), states(4)[[1, 7, 7, 12]]
    nothing = cr.PCD(epochs=4, batch_size=2, learning_rate=1e-30)
    model = machine.fit(data, method=nothing, key=KEY).model
    for a, b in zip(jax.tree.leaves(model), jax.tree.leaves(machine), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_centred_fit_of_flipped_data_is_the_flipped_fit():
    """The direction of a step does not depend on which value is called 1 (Melchior et al. 2016, section 4)."""
    machine = binary()
    flipped = cr.RBM(-machine.weights, -machine.visible_bias, machine.hidden_bias + machine.weights.sum(0))
    rng = np.random.default_rng(2)
    x, y = (jnp.asarray(rng.integers(0, 2, (6, 4)), jnp.float32) for _ in range(2))
    mu, lam = x.mean(0), jnp.asarray([0.3, 0.6, 0.5])
    steps = []
    for m, turn in ((machine, lambda v: v), (flipped, lambda v: 1 - v)):
        slope = learning.gradient(m, learning.look(m, turn(x)), learning.look(m, turn(y)), METHOD)
        steps.append(learning.uncentre(learning.centre(slope, turn(mu), lam), turn(mu), lam))
    np.testing.assert_allclose(steps[1].weights, -steps[0].weights, atol=1e-6)
    np.testing.assert_allclose(steps[1].visible_bias, -steps[0].visible_bias, atol=1e-6)
    np.testing.assert_allclose(steps[1].hidden_bias, steps[0].hidden_bias + steps[0].weights.sum(0), atol=1e-6)


# Missing units


def part_of(machine, kept):
    """The machine without the other visible units."""
    width = machine.visible.width
    rows = np.concatenate([np.arange(i * width, (i + 1) * width) for i in kept])
    return cr.RBM(machine.weights[rows], machine.visible_bias[rows], machine.hidden_bias, visible=machine.visible), rows


@pytest.mark.parametrize("machine", [categorical(), binary(0, 3, 2)], ids=["softmax", "binary"])
def test_missing_units_are_units_that_are_not_there(machine):
    """Free energies, features and gradients of masked rows equal those of the machine with these units removed."""
    v = visible_states(machine)[:8]
    masked = np.ma.masked_array(v, np.tile([False, True, False], (len(v), 1)))
    small, rows = part_of(machine, [0, 2])
    np.testing.assert_allclose(machine.free_energy(masked), small.free_energy(v[:, [0, 2]]), rtol=1e-6)
    np.testing.assert_allclose(machine.features(masked), small.features(v[:, [0, 2]]), rtol=1e-6)

    width = machine.visible.width
    observed = jnp.repeat(jnp.asarray(~np.ma.getmaskarray(masked), jnp.float32), width, axis=1)
    x, y = (engine.keep(engine_columns(machine, rows), observed) for rows in (v, v[::-1]))
    found = learning.gradient(
        machine, learning.look(machine, x, observed), learning.look(machine, y, observed), cr.CD(sparsity_cost=0.1)
    )
    wanted = learning.gradient(
        small, learning.look(small, x[:, rows]), learning.look(small, y[:, rows]), cr.CD(sparsity_cost=0.1)
    )
    np.testing.assert_allclose(found.weights[rows], wanted.weights, atol=1e-6)
    np.testing.assert_allclose(found.visible_bias[rows], wanted.visible_bias, atol=1e-6)
    np.testing.assert_allclose(found.hidden_bias, wanted.hidden_bias, atol=1e-6)
    gone = np.setdiff1d(np.arange(3 * width), rows)
    assert not np.asarray(found.weights)[gone].any()
    assert not np.asarray(found.visible_bias)[gone].any()


def test_cd_on_missing_ratings_is_cd_of_the_machine_with_those_units_removed():
    """A step of CD-2 on very many equal rows is certain within 5 standard errors: masked, and without the unit."""
    machine, count = categorical(2), 40_000
    small, rows = part_of(machine, [0, 2])
    method = cr.CD(epochs=1, batch_size=count, learning_rate=1.0, decay=1.0, sweeps=2, centred=False)
    full = np.tile([[2, -1, 0], [1, -1, 1]], (count // 2, 1))
    found = machine.fit(full, method=method, key=KEY).model
    wanted = small.fit(full[:, [0, 2]], method=method, key=fast_key(7)).model
    error = 5 * np.sqrt(2) * 0.5 / np.sqrt(count)
    np.testing.assert_allclose(found.weights[rows], wanted.weights, atol=error)
    np.testing.assert_allclose(found.hidden_bias, wanted.hidden_bias, atol=2 * error)
    np.testing.assert_allclose(found.visible_bias[rows], wanted.visible_bias, atol=2 * error)
    gone = np.array([3, 4, 5])
    np.testing.assert_array_equal(np.asarray(found.weights)[gone], np.asarray(machine.weights)[gone])
    np.testing.assert_array_equal(np.asarray(found.visible_bias)[gone], np.asarray(machine.visible_bias)[gone])
    assert not np.allclose(wanted.weights, small.weights, atol=error)  # something was learned


def cd_slopes(machine, value):
    """Expected CD-1 slopes by W, a and b of a machine with one softmax unit, over all h and v⁻; and E[h | v]."""
    w, a, b = (np.asarray(p, float) for p in (machine.weights, machine.visible_bias, machine.hidden_bias))

    def on(x):
        return 1 / (1 + np.exp(-(b + x @ w)))

    x, one_hot, h = np.eye(len(a))[value], np.eye(len(a)), states(len(b))
    p_h = np.prod(np.where(h == 1, on(x), 1 - on(x)), axis=1)
    p_v = np.exp(a + h @ w.T)
    p_v = p_h @ (p_v / p_v.sum(1, keepdims=True))
    away = on(one_hot)
    return np.outer(x, on(x)) - (one_hot * p_v[:, None]).T @ away, x - p_v, on(x) - p_v @ away, on(x)


def test_centred_steps_are_those_of_each_rows_machine_where_rows_miss_different_units():
    """Half of the rows have unit 0 alone, half unit 1: the mean of the two machines' slopes, around ⟨h⟩ only."""
    machine, count = categorical(2), 40_000
    method = cr.CD(epochs=1, batch_size=count, learning_rate=1.0, decay=1.0)
    found = machine.fit(np.tile([[2, -1, -1], [-1, 0, -1]], (count // 2, 1)), method=method, key=KEY).model
    w, a, b, on = np.zeros((9, 2)), np.zeros(9), np.zeros(2), np.zeros(2)
    for unit, value in ((0, 2), (1, 0)):
        small, rows = part_of(machine, [unit])
        for total, part, place in zip((w, a, b, on), cd_slopes(small, value), (rows, rows, ..., ...), strict=True):
            total[place] += part / 2
    w -= np.outer(a, on)
    error = 5 * 0.5 / np.sqrt(count)
    np.testing.assert_allclose(found.weights - machine.weights, w, atol=2 * error)
    np.testing.assert_allclose(found.visible_bias - machine.visible_bias, a - w @ on, atol=2 * error)
    np.testing.assert_allclose(found.hidden_bias - machine.hidden_bias, b, atol=2 * error)
    assert np.abs(w[:6]).max() > 5 * error
    assert not np.asarray(found.weights - machine.weights)[6:].any()


def test_what_stands_behind_missing_entries_changes_nothing():
    machine = categorical()
    v, gone = np.random.default_rng(0).integers(0, 3, (20, 3)), np.random.default_rng(1).random((20, 3)) < 0.4
    method = cr.CD(epochs=2, batch_size=5)
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


def methods():
    import optax

    common = {"epochs": 80, "batch_size": 50, "learning_rate": 0.2}
    return {
        "PCD": cr.PCD(**common),
        "plain": cr.PCD(**common, centred=False, momentum=0.5),
        "CD-5": cr.CD(**common, sweeps=5),
        "fast": cr.PCD(**common, fast_rate=0.1),
        "tempered": cr.PCD(**common, temperatures=4),
        "adam": cr.PCD(epochs=80, batch_size=50, optimiser=optax.adam(optax.linear_schedule(0.03, 0.0, 80 * 12))),
    }


def test_rectified_hidden_units_are_fitted():
    """Log-likelihoods by enumeration of the visible units: most of the way from independent ones to the best."""
    start = cr.RBM.random(fast_key(1), 6, 4, hidden=cr.units.Rectified(), data=DATA, scale=0.1)
    fit = start.fit(DATA, method=cr.PCD(epochs=80, batch_size=50, learning_rate=0.1), key=KEY)
    before = float(start.log_prob(DATA).sum())
    assert fit.status is cr.Status.MAX_ITERATIONS
    assert before + 0.5 * (BEST - before) < fit.log_prob < BEST
    assert fit.log_prob == pytest.approx(float(fit.model.log_prob(DATA).sum()), rel=1e-6)


@pytest.mark.parametrize("name", ["PCD", "plain", "CD-5", "fast", "tempered", "adam"])
def test_every_method_learns_three_patterns(name):
    fit = START.fit(DATA, method=methods()[name], key=KEY)
    before = float(START.log_prob(DATA).sum())
    assert before < -2000 < 2 * BEST
    # within so many nats a row of the entropy of the data, which divergence from the data's own places does not reach
    assert BEST - 600 * (0.9 if name == "CD-5" else 0.55) < fit.log_prob < BEST
    assert fit.status is cr.Status.MAX_ITERATIONS
    assert fit.history.shape == (80,)
    assert fit.iterations == 80 * 12
    assert fit.num_observations == 600
    assert fit.num_parameters == 6 * 4 + 6 + 4
    again = START.fit(DATA, method=methods()[name], key=KEY) if name == "PCD" else fit
    np.testing.assert_array_equal(again.model.weights, fit.model.weights)


def test_exchange_keeps_the_joint_distribution():
    """From exact draws at each temperature, exchanges leave each temperature's distribution as it is, and do happen."""
    machine, base, count = binary(0, 3, 3, 1.5), jnp.asarray([0.3, -0.2, 0.5]), 20_000
    betas = jnp.asarray([1.0, 0.5, 0.0])
    every = jnp.asarray(states(3), jnp.float32)
    rng = np.random.default_rng(0)
    x, tables = [], []
    for beta in betas:
        log_f = np.asarray(
            engine.log_density_at(machine, base, beta, every, engine.hidden_drive(machine, every)), float
        )
        p = np.exp(log_f - np.logaddexp.reduce(log_f))
        tables.append(p)
        x.append(states(3)[rng.choice(8, count, p=p / p.sum())])
    x = jnp.asarray(np.concatenate(x), jnp.float32)
    found, drive = learning.exchange(machine, KEY, base, betas, x, engine.hidden_drive(machine, x))
    np.testing.assert_allclose(drive, engine.hidden_drive(machine, found), atol=1e-5)
    assert 0.05 < np.mean(np.any(np.asarray(found) != np.asarray(x), axis=1)) < 0.95
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
    machine = cr.RBM.random(KEY, 2, 3, visible=cr.units.Gaussian(), scale=1.0)
    fit = machine.fit(data, method=cr.CD(epochs=20, learning_rate=1e6), key=KEY)
    assert fit.status is cr.Status.DIVERGED
    assert np.isnan(fit.log_prob)
    # also where a model from before it is kept
    method = cr.CD(epochs=4, learning_rate=1e6)
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
    START.fit(DATA, method=cr.CD(epochs=4), key=KEY, progress=True)
    assert "CD [" in capsys.readouterr().err


def test_gaussian_units_find_two_sides():
    rng = np.random.default_rng(0)
    side = rng.integers(0, 2, (2000, 1)) * 2 - 1
    data = np.concatenate([2 * side + 0.4 * rng.normal(size=(2000, 1)), 0.7 * rng.normal(size=(2000, 1))], axis=1)
    start = cr.RBM.random(KEY, 2, 2, visible=cr.units.Gaussian(), data=data, scale=0.3)
    fit = start.fit(data, method=cr.PCD(epochs=60, learning_rate=0.1), key=KEY)
    # one hidden unit tells the two sides apart, 4 from each other; variances follow slowly
    assert np.abs(fit.model.weights[0]).max() == pytest.approx(4, abs=0.7)
    assert np.abs(fit.model.weights[0]).min() < 1
    assert fit.model.visible.log_variance[1] > start.visible.log_variance[1] + 0.02  # towards 0.49, from the half of it
    assert fit.log_prob > float(start.log_prob(data).sum()) + 200


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
