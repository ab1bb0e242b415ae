"""Deep belief networks and deep Boltzmann machines against enumeration, and fits of both."""

import itertools

import numpy as np
import pytest
from enumerated import binary, chi_square, fast_key, log_probs, states

import chainrule as cr

KEY = fast_key(0)


def network():
    return cr.DeepBeliefNetwork([binary(0, 3, 2), binary(1, 2, 3)])


def network_log_probs(net):
    """Log p(v) of all v: p(v | h) p(h) summed over h."""
    low, high = net.layers
    top, _ = log_probs(high)
    drive = np.asarray(low.visible_bias, float) + states(2) @ np.asarray(low.weights, float).T
    v = states(3)
    given = v[:, None] * drive[None] - np.logaddexp(0, drive)[None]
    return np.logaddexp.reduce(given.sum(2) + top[None], axis=1)


def test_samples_of_a_network():
    net = network()
    found, limit = chi_square(net.sample(KEY, 20_000, sweeps=30), net.layers[0], np.exp(network_log_probs(net)))
    assert found < limit


def test_the_bound_of_a_network_is_the_enumerated_one():
    net, v = network(), states(3)
    low, high = net.layers
    log_z = float(high.log_partition())
    h = states(2).astype(float)
    field = np.asarray(low.hidden_bias, float) + v @ np.asarray(low.weights, float)
    log_q = (h[None] * field[:, None] - np.logaddexp(0, field)[:, None]).sum(2)
    drive = np.asarray(low.visible_bias, float) + h @ np.asarray(low.weights, float).T
    given = (v[:, None] * drive[None] - np.logaddexp(0, drive)[None]).sum(2)
    wanted = (np.exp(log_q) * (given + log_probs(high)[0][None] - log_q)).sum(1)
    found = np.asarray(net.log_prob_bound(KEY, v, log_partition=log_z, num_samples=20_000))
    np.testing.assert_allclose(found, wanted, atol=0.03)
    assert (wanted < network_log_probs(net)).all()
    assert (found < network_log_probs(net) + 0.03).all()


def test_stacking_learns_features_and_samples():
    data = np.repeat(np.random.default_rng(0).integers(0, 2, (400, 2)), 4, axis=1).astype(np.uint8)
    start = cr.DeepBeliefNetwork.random(KEY, [8, 8, 8], data=data)  # both layers are one program
    fits = start.fit(data, method=cr.PCD(epochs=60, batch_size=20, learning_rate=0.2), key=KEY)
    net = fits[-1].model
    assert len(fits) == 2
    assert net.features(data).shape == (400, 8)
    assert net.features(data[0]).shape == (8,)
    draws = np.asarray(net.sample(KEY, 500, sweeps=100))
    pure = (draws.reshape(500, 2, 4).mean(2) % 1 == 0).all(1).mean()
    assert pure > 0.3  # of independent pixels 1 in 64 would be
    assert repr(net) == "DeepBeliefNetwork(8 - 8 - 8)"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cr.DeepBeliefNetwork([]), "no layers"),
        (lambda: cr.DeepBeliefNetwork([binary(0, 3, 2), binary(0, 3, 2)]), "has 2 hidden units"),
        (lambda: cr.DeepBeliefNetwork.random(KEY, [3]), "at least a visible and a hidden"),
        (lambda: network().fit(states(3), method=[cr.CD()], key=KEY), "1 methods for 2 layers"),
        (lambda: cr.DeepBoltzmannMachine([np.zeros((2, 2))]), "at least two"),
        (lambda: cr.DeepBoltzmannMachine([np.zeros((2, 2)), np.zeros((3, 2))]), "weights 1 have shape"),
        (lambda: network().fit(np.where(states(3) == 1, 1, np.nan), key=KEY), "row 0, unit 0 is missing"),
        (lambda: cr.DeepBoltzmannMachine([np.full((2, 2), np.nan), np.zeros((2, 2))]), "weights 0 have entries"),
        (lambda: deep().energy([states(3), states(2)]), "2 layers of values for 3"),
        (lambda: deep().energy([states(3), states(2), states(3)]), r"layer 1 has shape \(4, 2\); wanted \(8, 2\)"),
        (lambda: deep().energy([[[0, 7, 0]], [[0, 0]], [[0, 0, 0]]]), "layer 0, row 0, unit 1 is 7"),
        (lambda: deep().energy([[[0, 1, 0]], [[0, 0]], [[0, 0, np.nan]]]), "layer 2, row 0, unit 2 is nan"),
        (lambda: deep().features([0, 1, 0], iterations=0), "iterations is 0"),
        (lambda: deep().log_prob_bound([0, 1, 0], iterations=0), "iterations is 0"),
        (lambda: deep().fit(states(3), method=cr.CD(), key=KEY), r"by PCD\(\)"),
        (lambda: deep().fit(states(3), key=KEY, iterations=0), "iterations is 0"),
        (lambda: deep().fit(states(3) * 2, key=KEY), "binary units"),
    ],
)
def test_errors_say_what_to_do(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# Deep Boltzmann machines


def deep(sizes=(3, 2, 3), seed=0):
    rng = np.random.default_rng(seed)
    weights = [rng.normal(size=pair) for pair in itertools.pairwise(sizes)]
    return cr.DeepBoltzmannMachine(weights, [rng.normal(size=n) for n in sizes])


def deep_scores(model):
    """−E of every state of all layers, from the definition; and the visible part of each."""
    sizes = model.sizes
    every = states(sum(sizes)).astype(float)
    layers = np.split(every, np.cumsum(sizes)[:-1], axis=1)
    score = sum(x @ np.asarray(b, float) for x, b in zip(layers, model.biases, strict=True))
    for low, w, high in zip(layers, model.weights, layers[1:], strict=False):
        score = score + ((low @ np.asarray(w, float)) * high).sum(1)
    return score, layers


def deep_log_probs(model):
    score, layers = deep_scores(model)
    number = layers[0].astype(int) @ 2 ** np.arange(model.num_visible - 1, -1, -1)
    total = np.logaddexp.reduce(score)
    return np.array([np.logaddexp.reduce(score[number == n]) for n in range(2**model.num_visible)]) - total, total


THREE = deep((3, 2, 3, 2), 1)  # as an RBM it has couplings that must stay 0, of two layers that are no neighbours
DATA = np.array([[1, 1, 0], [1, 1, 0], [0, 0, 1], [1, 1, 1]])[np.arange(200) % 4]
METHOD = cr.PCD(epochs=150, batch_size=50, learning_rate=0.2)


def test_energies_partition_function_and_samples():
    model = THREE
    score, layers = deep_scores(model)
    np.testing.assert_allclose(model.energy(layers), -score, atol=1e-5)
    log_p, log_z = deep_log_probs(model)
    assert float(model.as_rbm().log_partition()) == pytest.approx(log_z, rel=1e-6)
    draws = model.sample(KEY, 20_000, sweeps=60)
    found, limit = chi_square(draws, binary(0, 3, 2), np.exp(log_p))
    assert found < limit
    bounds = model.log_partition_bounds(KEY, states(3), chains=200, stops=100, burn_in=50)
    assert abs(bounds.lower - log_z) < 5 * float(bounds.sandwich.lower_error) + 1e-4


@pytest.mark.parametrize("model", [deep((3, 4, 3)), THREE], ids=["two", "three"])
def test_mean_field_bounds_the_likelihood_from_below(model):
    """The bound is that of the factorised q at the fixed point, by enumeration, and below log p(v)."""
    from chainrule.models.rbm import deep_boltzmann

    log_p, log_z = deep_log_probs(model)
    bound = np.asarray(model.log_prob_bound(states(3), iterations=300))
    assert (bound <= log_p + 1e-5).all()
    means = [np.asarray(m, float) for m in deep_boltzmann._mean_field(model, states(3), 300)]
    score, layers = deep_scores(model)
    for row, v in enumerate(states(3)):
        same = (layers[0] == v).all(1)
        log_q = sum(
            np.log(np.where(x[same] == 1, m[row], 1 - m[row])).sum(1)
            for x, m in zip(layers[1:], means[1:], strict=True)
        )
        wanted = (np.exp(log_q) * (score[same] - log_q)).sum() - log_z
        assert bound[row] == pytest.approx(wanted, abs=2e-5)
    np.testing.assert_allclose(model.features(states(3), iterations=300), means[-1], atol=1e-5)


def test_fits_keep_the_layers_apart_and_improve():
    model = THREE
    start = cr.DeepBoltzmannMachine.random(KEY, model.sizes, data=DATA, scale=0.1)
    fit = start.fit(DATA, method=METHOD, key=KEY)
    found = fit.model
    assert fit.status is cr.Status.MAX_ITERATIONS
    assert fit.num_parameters == sum(a * b for a, b in itertools.pairwise(model.sizes)) + sum(model.sizes)
    before, after = (deep_log_probs(m)[0][DATA @ [4, 2, 1]].mean() for m in (start, found))
    assert after > before + 0.3
    flat = found.as_rbm()
    again = start.fit(DATA, method=METHOD, key=KEY).model
    np.testing.assert_array_equal(flat.weights, again.as_rbm().weights)
    assert np.asarray(flat.weights).astype(bool).sum() == sum(w.size for w in found.weights)


def test_refits_compile_nothing():
    from chainrule.models.rbm import learning

    model = THREE
    model.fit(DATA, method=METHOD, key=KEY)
    before = learning._run._cache_size()
    other = cr.PCD(epochs=149, batch_size=50, learning_rate=0.3)
    deep(THREE.sizes, seed=4).fit(1 - DATA, method=other, key=fast_key(1))
    assert learning._run._cache_size() == before
    assert repr(model) == "DeepBoltzmannMachine(3 - 2 - 3 - 2)"
