"""Classification machines: exact p(y | v), the three objectives, and labels by name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from enumerated import binary, chi_square_limit, fast_key, states

import chainrule as cr
from chainrule.models.rbm import classifier

KEY = fast_key(0)


def machine(seed=0, labels=("a", "b", "c")):
    rng = np.random.default_rng(seed)
    return cr.ClassificationRBM(binary(seed), rng.normal(size=(len(labels), 3)), rng.normal(size=len(labels)), labels)


def log_joint(model):
    """Log Σ_h exp(−E(v, y, h)) for all v and y, (16, labels), from the definition."""
    m = model.machine
    w, a, b = (np.asarray(p, float) for p in (m.weights, m.visible_bias, m.hidden_bias))
    u, d = np.asarray(model.label_weights, float), np.asarray(model.label_bias, float)
    v, h = states(4).astype(float), states(3).astype(float)
    score = (v @ a)[:, None, None] + d[None, :, None] + (h @ b)[None, None]
    score = score + (v @ w @ h.T)[:, None] + (u @ h.T)[None]
    return np.logaddexp.reduce(score, axis=2)


def test_label_probabilities_are_exact():
    model = machine()
    joint = log_joint(model)
    wanted = joint - np.logaddexp.reduce(joint, axis=1)[:, None]
    np.testing.assert_allclose(model.label_log_probs(states(4)), wanted, atol=2e-6)
    assert model.predict(states(4)) == [model.labels[i] for i in wanted.argmax(1)]
    assert model.predict(states(4)[3]) == model.labels[wanted[3].argmax()]
    rbm = model.given("b")
    np.testing.assert_allclose(
        np.asarray(rbm.free_energy(states(4))) + joint[:, 1], np.full(16, float(model.label_bias[1])), atol=1e-5
    )
    np.testing.assert_allclose(model.features(states(4)[:2], ["b", "b"]), rbm.features(states(4)[:2]), rtol=1e-6)


def test_the_chain_of_rows_and_labels_keeps_their_distribution():
    """From exact draws of (v, y), three sweeps of CD leave the joint distribution as it is (χ²)."""
    model, count = machine(), 40_000
    joint = log_joint(model)
    p = np.exp(joint - np.logaddexp.reduce(joint.ravel())).ravel()
    start = np.random.default_rng(0).choice(48, count, p=p / p.sum())
    x, codes = np.float32(states(4)[start // 3]), np.int32(start % 3)
    x, codes = jax.jit(classifier._chain)(model, KEY, x, None, codes, 3)
    place = (np.asarray(x).astype(int) @ [8, 4, 2, 1]) * 3 + np.asarray(codes)
    counts = np.bincount(place, minlength=48)
    assert (p * count > 5).all()
    assert ((counts - count * p) ** 2 / (count * p)).sum() < chi_square_limit(47)
    assert (place != start).mean() > 0.3


def test_samples_with_a_label_held():
    model, count = machine(1), 20_000
    joint = log_joint(model)[:, 2]
    p = np.exp(joint - np.logaddexp.reduce(joint))
    draws = np.asarray(model.sample(KEY, ["c"] * count, sweeps=60)).astype(int) @ [8, 4, 2, 1]
    counts = np.bincount(draws, minlength=16)
    common = p * count > 5
    assert ((counts - count * p) ** 2 / (count * p))[common].sum() < chi_square_limit(common.sum() - 1)


RNG = np.random.default_rng(0)
SIDE = RNG.integers(0, 2, (800, 2))
# what tells is whether two halves agree, which no linear classifier finds
V = (RNG.random((800, 10)) < np.where(np.repeat(SIDE, 5, axis=1) == 1, 0.9, 0.1)).astype(np.uint8)
Y = np.where(SIDE[:, 0] == SIDE[:, 1], "same", "different")
START = cr.ClassificationRBM.random(fast_key(3), 10, 12, labels=("same", "different"), scale=0.1)


@pytest.mark.parametrize(("discriminative", "generative"), [(1.0, 0.0), (1.0, 0.05), (0.0, 1.0)])
def test_all_objectives_learn_to_tell(discriminative, generative):
    method = cr.MiniBatch(epochs=60, batch_size=50, learning_rate=0.02)
    fit = START.fit(V[:600], Y[:600], key=KEY, method=method, discriminative=discriminative, generative=generative)
    right = np.mean(np.array(fit.model.predict(V[600:])) == Y[600:])
    assert right > 0.85
    assert fit.log_prob > -600 * np.log(2)
    assert fit.status is cr.Status.MAX_ITERATIONS
    assert fit.history.shape == (60,)
    if generative == 0:
        assert fit.history[-1] > fit.history[0]


def test_the_discriminative_gradient_is_exact():
    """One step of plain gradient descent on all rows moves along the gradient of the mean log p(y | v)."""
    import optax

    model, v = machine(), states(4)[:6]
    y = np.array(["a", "b", "c", "a", "b", "c"])
    method = cr.MiniBatch(epochs=1, batch_size=6, optimiser=optax.sgd(1e-2), clip=1e6)
    found = model.fit(v, y, key=KEY, method=method).model

    @jax.jit
    @jax.grad
    def slopes(model):
        return model.label_log_probs(jnp.asarray(v))[jnp.arange(6), jnp.asarray([0, 1, 2] * 2)].mean()

    slope = slopes(model)
    for new, old, g in zip(jax.tree.leaves(found), jax.tree.leaves(model), jax.tree.leaves(slope), strict=True):
        np.testing.assert_allclose(new, np.asarray(old) + 1e-2 * np.asarray(g), atol=1e-6)


def test_refits_compile_nothing():
    method = cr.MiniBatch(epochs=60, batch_size=50)
    START.fit(V[:600], Y[:600], key=KEY, method=method, generative=0.1)
    before = classifier._descend._cache_size()
    START.fit(1 - V[:600], Y[599::-1], key=fast_key(8), method=method, generative=0.2, discriminative=0.5, sweeps=2)
    assert classifier._descend._cache_size() == before


def test_validation_and_errors():
    method, validation = cr.MiniBatch(epochs=60, batch_size=50), cr.Validation(lambda m: 0.0, patience=1)
    fit = START.fit(V[:600], Y[:600], key=KEY, method=method, generative=0.1, validation=validation)
    assert fit.status is cr.Status.STOPPED_EARLY
    with pytest.raises(ValueError, match="row 0: 'other' is not a label"):
        START.fit(V[:1], ["other"], key=KEY)
    with pytest.raises(ValueError, match="1 labels for 2 rows"):
        START.fit(V[:2], ["same"], key=KEY)
    with pytest.raises(ValueError, match="not both 0"):
        START.fit(V, Y, key=KEY, discriminative=0.0)
    with pytest.raises(ValueError, match="label_weights have shape"):
        cr.ClassificationRBM(binary(), np.zeros((2, 5)))
    with pytest.raises(ValueError, match="different names"):
        cr.ClassificationRBM(binary(), np.zeros((2, 3)), labels=("x", "x"))
    with pytest.raises(ValueError, match="binary units"):
        START.predict(V * 3)
    with pytest.raises(ValueError, match="99 is not a label"):
        START.given(99)
    with pytest.raises(ValueError, match=r"by MiniBatch\(\), not by PCD"):
        START.fit(V, Y, key=KEY, method=cr.PCD())
    for weights, bias, name in ((np.nan, 0.0, "label_weights"), (0.0, np.inf, "label_bias")):
        with pytest.raises(ValueError, match=f"{name} has entries that are NaN"):
            cr.ClassificationRBM(binary(), np.full((2, 3), weights), np.full(2, bias))


def test_missing_units_take_no_part():
    model = machine()
    v = np.ma.masked_array(states(4)[:4], np.tile([True, False, False, False], (4, 1)))
    w, a = np.asarray(model.machine.weights)[1:], np.asarray(model.machine.visible_bias)[1:]
    small = cr.ClassificationRBM(cr.RBM(w, a, model.machine.hidden_bias), model.label_weights, model.label_bias)
    np.testing.assert_allclose(model.label_log_probs(v), small.label_log_probs(states(4)[:4, 1:]), atol=1e-6)
