"""Probabilities, conditionals and draws of restricted Boltzmann machines against enumeration."""

import jax
import jax.numpy as jnp
import networkx as nx
import numpy as np
import pytest
from enumerated import (
    binary,
    categorical,
    chi_square,
    fast_key,
    gaussian,
    log_joint,
    log_probs,
    one_hot,
    states,
    visible_states,
)

import chainrule as cr
from chainrule.models.rbm import queries

KEY = fast_key(0)
MASKED = np.ma.masked_array([0, 1, 1, 1], [False, False, True, False])
RECTIFIED = binary(0, 3, 2, hidden=cr.units.Rectified())
DISCRETE = pytest.mark.parametrize(
    "machine", [binary(), binary(1, 3, 5), categorical()], ids=["tall", "wide", "softmax"]
)


@DISCRETE
def test_probabilities_are_the_enumerated_ones(machine):
    v = visible_states(machine)
    wanted, log_z = log_probs(machine)
    assert float(machine.log_partition()) == pytest.approx(log_z, rel=1e-7)
    np.testing.assert_allclose(machine.log_prob(v), wanted, atol=3e-6)
    np.testing.assert_allclose(machine.free_energy(v), -np.logaddexp.reduce(log_joint(machine, v), axis=1), atol=3e-6)
    h = states(machine.num_hidden)
    np.testing.assert_allclose(
        machine.energy(np.repeat(v[:2], len(h), axis=0), np.tile(h, (2, 1))),
        -log_joint(machine, v[:2]).ravel(),
        atol=1e-5,
    )
    p = np.exp(log_joint(machine, v) - np.logaddexp.reduce(log_joint(machine, v), axis=1)[:, None])
    np.testing.assert_allclose(machine.features(v), p @ h, atol=1e-6)
    assert machine.log_prob(v[1]) == pytest.approx(wanted[1], abs=3e-6)  # one vector, one number


def test_log_z_over_many_blocks():
    """12 visible units take four blocks; so do they as hidden ones, in the machine turned round."""
    wide = binary(3, 12, 13, 0.4)
    w, a, b = (np.asarray(p, float) for p in (wide.weights, wide.visible_bias, wide.hidden_bias))
    wanted = np.logaddexp.reduce(states(12) @ a + np.logaddexp(0, b + states(12) @ w).sum(1))
    assert float(wide.log_partition()) == pytest.approx(wanted, rel=1e-9)
    turned = cr.RBM(w.T.astype(np.float32), wide.hidden_bias, wide.visible_bias)
    assert float(turned.log_partition()) == pytest.approx(wanted, rel=1e-9)


def test_gaussian_density_integrates_to_one_and_matches_the_mixture():
    """Summed over h the density is a mixture of 2^H normals; on a grid it sums to one."""
    machine = gaussian()
    grid = np.linspace(-12, 12, 241)
    v = np.stack(np.meshgrid(grid, grid, indexing="ij"), axis=-1).reshape(-1, 2)
    density = np.exp(machine.log_prob(v))
    assert density.sum() * (grid[1] - grid[0]) ** 2 == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(
        machine.free_energy(v[:5]), -np.logaddexp.reduce(log_joint(machine, v[:5]), axis=1), rtol=1e-5
    )


def test_rectified_hidden_units_sum_out():
    machine = binary(0, 3, 2, hidden=cr.units.Rectified())
    v = visible_states(machine)
    h = np.linspace(0, 30, 6001)
    x = v @ np.asarray(machine.weights, float) + np.asarray(machine.hidden_bias, float)
    inner = np.trapezoid(np.exp(x[..., None] * h - h**2 / 2), h, axis=-1)
    score = v @ np.asarray(machine.visible_bias, float) + np.log(inner).sum(1)
    np.testing.assert_allclose(machine.log_prob(v), score - np.logaddexp.reduce(score), atol=2e-5)


@pytest.mark.parametrize(
    "machine",
    [binary(0, 3, 3), categorical(0, 2), gaussian(), binary(0, 3, 2, hidden=cr.units.Rectified())],
    ids=["binary", "softmax", "gaussian", "rectified"],
)
def test_temperature_divides_the_energy(machine):
    """p_T(v) ∝ Σ_h exp(−E/T), so log p_T differences follow from the energy by enumeration, or from it by quadrature."""
    v = visible_states(machine) if machine.discrete else np.array([[0.0, 0.0], [0.5, -1.0], [2.0, 0.3]])
    cold = machine.tempered(0.6)
    if isinstance(machine.hidden, cr.units.Rectified):
        h = np.linspace(0, 20, 4001)
        x = v @ np.asarray(machine.weights, float) + np.asarray(machine.hidden_bias, float)
        inner = np.trapezoid(np.exp((x[..., None] * h - h**2 / 2) / 0.6), h, axis=-1)
        wanted = v @ np.asarray(machine.visible_bias, float) / 0.6 + np.log(inner).sum(1)
    else:
        wanted = np.logaddexp.reduce(log_joint(machine, v) / 0.6, axis=1)
    found = -np.asarray(cold.free_energy(v), float)
    np.testing.assert_allclose(found - found[0], wanted - wanted[0], atol=2e-5)


@pytest.mark.parametrize("machine", [binary(), categorical()], ids=["binary", "softmax"])
def test_conditionals_and_the_pseudo_likelihood(machine):
    v = visible_states(machine)
    log_p, _ = log_probs(machine)
    values, table = max(machine.visible.width, 2), np.exp(log_p)
    found = np.asarray(machine.conditionals(v))
    assert found.shape == (len(v), machine.num_visible, values)
    shaped = table.reshape((values,) * machine.num_visible)
    total = np.zeros(len(v))
    for i in range(machine.num_visible):
        wanted = np.moveaxis(shaped / shaped.sum(i, keepdims=True), i, -1)
        rest = np.delete(v, i, axis=1)
        wanted = wanted[tuple(rest.T)]
        np.testing.assert_allclose(found[:, i], wanted, atol=2e-6)
        total += np.log(wanted[np.arange(len(v)), v[:, i]])
    np.testing.assert_allclose(machine.pseudo_log_prob(v), total, atol=2e-5)
    row = np.tile(v[:1], (4000, 1))
    estimates = np.asarray(machine.pseudo_log_prob(row, key=KEY), float)
    assert estimates.mean() == pytest.approx(total[0], abs=4.5 * estimates.std() / np.sqrt(4000) + 1e-5)
    np.testing.assert_allclose(machine.conditionals(v[0], sites=[1])[0], found[0, 1], rtol=1e-6)


def test_missing_units_are_bet_on_from_what_is_there():
    """The prediction for a missing unit is its conditional in the machine without the other missing ones."""
    machine = categorical()
    v = np.array([[2, -1, -1], [1, 0, -1]])
    found = np.asarray(machine.conditionals(v))
    w, a = np.asarray(machine.weights).reshape(3, 3, 2), np.asarray(machine.visible_bias).reshape(3, 3)
    pair = cr.RBM(w[[0, 1]].reshape(6, 2), a[[0, 1]].ravel(), machine.hidden_bias, visible=machine.visible)
    table = np.exp(log_probs(pair)[0]).reshape(3, 3)
    np.testing.assert_allclose(found[0, 1], table[2] / table[2].sum(), atol=1e-6)
    np.testing.assert_allclose(found[0, 0], table.sum(1) * 0 + _alone(machine, 0), atol=1e-6)
    # the value of a missing unit says nothing
    np.testing.assert_array_equal(machine.conditionals(np.ma.masked_array(np.abs(v), v < 0)), found)
    np.testing.assert_allclose(machine.pseudo_log_prob(v[:1])[0], np.log(_alone(machine, 0)[2]), atol=1e-6)
    # also where nothing can be looked at before it is compiled
    traced = jax.jit(lambda m, v: (m.pseudo_log_prob(v), m.pseudo_log_prob(v, key=KEY), m.conditionals(v)))
    exact = machine.pseudo_log_prob(v), machine.pseudo_log_prob(v, key=KEY), found
    for a, b in zip(traced(machine, jnp.asarray(v)), exact, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def _alone(machine, i):
    w, a = np.asarray(machine.weights).reshape(3, 3, 2)[i], np.asarray(machine.visible_bias).reshape(3, 3)[i]
    return np.exp(log_probs(cr.RBM(w, a, machine.hidden_bias, visible=machine.visible))[0])


@pytest.mark.parametrize("machine", [binary(0, 3, 3), categorical(0, 2)], ids=["binary", "softmax"])
def test_samples_follow_the_distribution(machine):
    probs = np.exp(log_probs(machine)[0])
    draws = machine.sample(fast_key(1), 20_000, sweeps=30)
    found, limit = chi_square(draws, machine, probs)
    assert found < limit
    warm = machine.sample(fast_key(2), 20_000, sweeps=30, temperature=2.0, start=np.asarray(draws))
    found, limit = chi_square(warm, machine, np.exp(log_probs(machine.tempered(2.0))[0]))
    assert found < limit


def test_gaussian_samples():
    machine = gaussian()
    draws = np.asarray(machine.sample(KEY, 20_000, sweeps=30))
    log_p = log_joint(machine, np.zeros((1, 2)))  # moments of the mixture of normals, from its definition
    w, a, b = (np.asarray(p, float) for p in (machine.weights, machine.visible_bias, machine.hidden_bias))
    variance, h = np.exp(np.asarray(machine.visible.log_variance, float)), states(3).astype(float)
    means = a + h @ w.T
    mass = h @ b + ((means**2 - a**2) / (2 * variance)).sum(1)
    p = np.exp(mass - np.logaddexp.reduce(mass))
    assert log_p.shape == (1, 8)
    mean = p @ means
    spread = np.sqrt(variance + p @ means**2 - mean**2)
    np.testing.assert_allclose(draws.mean(0), mean, atol=4.5 * spread.max() / np.sqrt(20_000))
    np.testing.assert_allclose(draws.std(0), spread, rtol=0.03)


@pytest.mark.parametrize("dtype", [np.uint8, bool, np.float32, np.float64])
def test_completion_keeps_what_is_known_bit_for_bit(dtype):
    machine, known = binary(0, 3, 3), np.array([True, False, True])
    v = np.tile(np.array([[1, 0, 0]], dtype), (20_000, 1))
    if np.dtype(dtype).kind == "f":
        v[:, 1] = np.nan
        v[:, 2] = -0.0
    found = machine.complete(KEY, v, known=known, sweeps=30)
    assert found.dtype == v.dtype
    assert found[:, known].tobytes() == v[:, known].tobytes()
    table = np.exp(log_probs(machine)[0]).reshape(2, 2, 2)[1, :, 0]
    share = table[1] / table.sum()
    assert found[:, 1].mean() == pytest.approx(share, abs=4.5 * np.sqrt(share * (1 - share) / len(v)))
    means = machine.complete(KEY, v[:2000], known=known, sweeps=60, mean=True)
    assert (means[:, 2] == 0).all()
    assert means[:, 1].mean() == pytest.approx(share, abs=0.01)


def test_completion_of_other_units():
    machine = categorical()
    v = np.array([[2, -1, 1]])
    found = machine.complete(KEY, v, known=v >= 0)
    assert found[0, 0] == 2
    assert found[0, 2] == 1
    assert 0 <= found[0, 1] <= 2
    normal = gaussian()
    x = np.array([0.1234567, np.nan])
    found = normal.complete(KEY, x, known=~np.isnan(x))
    assert found[0] == x[0]
    assert np.isfinite(found[1])


def test_denoising_is_the_posterior_mean():
    """E[v | noisy v] by enumeration: prior times the chance of each flip."""
    machine, noisy, noise = binary(0, 3, 3), np.array([1, 0, 1]), 0.2
    v = states(3)
    flips = (v != noisy).sum(1)
    p = np.exp(log_probs(machine)[0]) * noise**flips * (1 - noise) ** (3 - flips)
    wanted = (p / p.sum()) @ v
    found = machine.denoise(KEY, np.tile(noisy, (1000, 1)), noise=noise, sweeps=100)
    np.testing.assert_allclose(np.asarray(found).mean(0), wanted, atol=0.01)
    softmax = categorical(0, 2)
    v = visible_states(softmax)
    changed = (v != np.array([0, 2])).sum(1)
    p = np.exp(log_probs(softmax)[0]) * (noise / 2) ** changed * (1 - noise) ** (2 - changed)
    found = softmax.denoise(KEY, np.tile([0, 2], (1000, 1)), noise=noise, sweeps=100)
    np.testing.assert_allclose(np.asarray(found).mean(0), (p / p.sum()) @ v, atol=0.02)


def test_denoising_of_real_numbers_weighs_by_precision():
    """Without couplings the posterior of a normal is the mean weighted by precision."""
    machine = cr.RBM(np.zeros((1, 1)), [1.0], visible=cr.units.Gaussian(np.log([0.5])))
    found = machine.denoise(KEY, np.array([3.0]), noise=0.5)
    assert float(found[0]) == pytest.approx((1 / 0.5 + 3 / 0.25) / (1 / 0.5 + 1 / 0.25), rel=1e-5)


def test_the_gradient_of_the_log_likelihood_is_exact():
    """By automatic differentiation through log Z, against differences of enumerated means."""
    machine, v = binary(), states(4)[[3, 5, 9]]
    found = jax.jit(jax.grad(lambda m: m.log_prob(jnp.asarray(v)).mean()))(machine)
    log_p, _ = log_probs(machine)
    joint = log_joint(machine, states(4))
    h = states(3)
    on = np.exp(joint - np.logaddexp.reduce(joint, axis=1)[:, None]) @ h
    at = v @ 2 ** np.arange(3, -1, -1)
    every, p = states(4).astype(float), np.exp(log_p)
    np.testing.assert_allclose(found.visible_bias, v.mean(0) - p @ every, atol=2e-6)
    np.testing.assert_allclose(found.hidden_bias, on[at].mean(0) - p @ on, atol=2e-6)
    np.testing.assert_allclose(found.weights, v.T @ on[at] / 3 - (every * p[:, None]).T @ on, atol=2e-6)


def test_graph_of_a_machine():
    machine = binary()
    graph = machine.graph()
    assert graph.number_of_nodes() == 7
    assert graph.edges[("v", 1), ("h", 2)]["weight"] == pytest.approx(float(machine.weights[1, 2]))
    assert graph.nodes[("h", 0)]["bias"] == pytest.approx(float(machine.hidden_bias[0]))
    for other, message in ((categorical(), "categorical"), (gaussian(), "binary"), (RECTIFIED, "binary")):
        with pytest.raises(ValueError, match=message):
            other.graph()


def test_a_graph_is_the_same_machine_to_every_reader():
    """Read as a machine on a graph: hidden nodes hidden, probabilities of visible rows the same; and back."""
    machine, v = binary(), states(4)
    on_graph = cr.BoltzmannMachine.from_graph(machine.graph())
    assert (on_graph.states, len(on_graph.visible), len(on_graph.hidden)) == ((0, 1), 4, 3)
    np.testing.assert_allclose(on_graph.log_prob(v), machine.log_prob(v), atol=1e-5)
    for graph in (machine.graph(), on_graph.graph()):
        again = cr.RBM.from_graph(graph)
        for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(machine), strict=True):
            np.testing.assert_array_equal(a, b)
    mixed = nx.Graph([("h", "w", {"weight": 1.0}), ("v", "h", {"weight": 2.0}), ("g", "v", {"weight": 3.0})])
    mixed.add_nodes_from([("h", {"hidden": True, "bias": 0.5}), ("g", {"hidden": True}), ("v", {"bias": -1.0})])
    found = cr.RBM.from_graph(mixed)  # visible: w, v; hidden: h, g
    assert found.weights.tolist() == [[1, 0], [2, 3]]
    assert (found.visible_bias.tolist(), found.hidden_bias.tolist()) == ([0, -1], [0.5, 0])


@pytest.mark.parametrize(
    ("nodes", "options", "message"),
    [
        ((), {}, "0 of 3 nodes are hidden"),
        ("abc", {}, "3 of 3 nodes are hidden"),
        ("a", {}, "'b' and 'c' are both visible"),
        ("ab", {}, "'a' and 'b' are both hidden"),
        ("b", {"states": (-1, 1)}, r"for states \(-1, 1\), those of a restricted"),
        ("b", {"constant": 2.0}, "constant 2.0"),
        ("b", {"states": (1, 0)}, r"states are \(1, 0\)"),
    ],
)
def test_graphs_that_are_no_restricted_machine(nodes, options, message):
    graph = nx.Graph([("a", "b"), ("b", "c")], **options)
    for name in nodes:
        graph.nodes[name]["hidden"] = True
    with pytest.raises(ValueError, match=message):
        cr.RBM.from_graph(graph)


@pytest.mark.parametrize("machine", [binary(0, 3, 2), categorical(0, 2)], ids=["binary", "softmax"])
def test_factor_graphs_have_the_same_marginals(machine):
    """Enumerated by the engine of factor graphs, units keep their marginals and the machine its log Z."""
    found = machine.factor_graph().enumerate()
    log_p, log_z = log_probs(machine)
    v, p = visible_states(machine), np.exp(log_p)
    for i in range(machine.num_visible):
        wanted = [p[v[:, i] == k].sum() for k in range(v.max() + 1)]
        np.testing.assert_allclose(found.marginal(("v", i)), wanted, atol=1e-6)
    assert found.log_partition == pytest.approx(log_z, rel=1e-6)
    with pytest.raises(ValueError, match="finitely many"):
        gaussian().factor_graph()


def test_start_from_data_has_their_frequencies():
    data = np.array([[0, 1], [0, 1], [1, 1], [0, 0]])
    machine = cr.RBM.random(KEY, 2, 3, data=data, scale=0.0)
    np.testing.assert_allclose(1 / (1 + np.exp(-np.asarray(machine.visible_bias))), [1.5 / 5, 3.5 / 5], rtol=1e-6)
    grades = cr.RBM.random(KEY, 2, 3, visible=cr.units.Categorical(2), data=np.array([[0, -1], [0, 1]]), scale=0.0)
    p = np.exp(np.asarray(grades.visible_bias)).reshape(2, 2)
    np.testing.assert_allclose(p / p.sum(1, keepdims=True), [[2.5 / 3, 0.5 / 3], [0.5 / 2, 1.5 / 2]], rtol=1e-6)
    numbers = np.random.default_rng(0).normal([1.0, -2.0], [0.5, 3.0], (1000, 2))
    normal = cr.RBM.random(KEY, 2, 3, visible=cr.units.Gaussian(), data=numbers)
    np.testing.assert_allclose(normal.visible_bias, numbers.mean(0), rtol=1e-5)
    np.testing.assert_allclose(np.exp(normal.visible.log_variance), numbers.var(0) / 2, rtol=1e-5)


def gaussian_rectified(weights):
    return cr.RBM(weights, visible=cr.units.Gaussian(), hidden=cr.units.Rectified())


# as a fit may leave it, which checks nothing on its way
BEYOND = jax.tree.map(lambda leaf: np.asarray(leaf) * 4, gaussian_rectified([[0.5]]))


def test_hidden_units_that_hold_each_other_back_have_a_distribution():
    """An eigenvalue above 1 is no harm where its direction has both signs; variances count. Draws against quadrature."""
    w, a, b = np.array([[0.9, -0.7]]), 0.3, np.array([-0.4, 0.2])
    machine = cr.RBM(w, [a], b, visible=cr.units.Gaussian([0.1]), hidden=cr.units.Rectified())
    drawn = np.asarray(machine.sample(KEY, 4000, sweeps=40), float)[:, 0]
    v, h, variance = np.linspace(-9, 9, 2001), np.linspace(0, 12, 1201)[:, None, None], np.exp(0.1)
    inner = np.exp((b[:, None] + w.T * v / variance) * h - h**2 / 2).sum(0)  # over h of each unit, for each v
    weight = np.exp(-((v - a) ** 2) / (2 * variance)) * inner.prod(0)
    inside = np.interp(drawn, v, np.cumsum(weight) / weight.sum())  # uniform, if they are what they should be
    counts = np.bincount((20 * inside).astype(int), minlength=20)
    assert ((counts - 200) ** 2 / 200).sum() < 43.8  # χ² of 19 degrees, one in a thousand
    gaussian_rectified([[0.9, -0.9]])
    cr.RBM([[2.0]], visible=cr.units.Gaussian([np.log(5.0)]), hidden=cr.units.Rectified())


ERRORS = [
    (lambda: cr.RBM(np.zeros(3)), "weights have shape"),
    (lambda: cr.RBM(np.full((2, 2), np.nan)), "weights has entries that are NaN"),
    (lambda: cr.RBM(np.zeros((2, 2)), np.zeros(3)), r"visible_bias has shape \(3,\)"),
    (lambda: cr.RBM(np.zeros((4, 2)), visible=cr.units.Categorical(3)), "do not fill"),
    (lambda: cr.RBM(np.zeros((4, 2)), visible=cr.units.Rectified()), "visible units are"),
    (lambda: cr.RBM.random(KEY, 0, 2), "at least one unit"),
    (lambda: binary().log_prob([0, 1, np.nan, 1]), "missing"),
    (lambda: binary().complete(KEY, [0, 1, 1, 1], known=[1, 0, 0, 0]), "wanted booleans"),
    (lambda: binary().complete(KEY, [np.nan, 1, 1, 1], known=[True, False, False, False]), "missing"),
    (lambda: binary().denoise(KEY, [0, 1, 1, 1], noise=1.5), "noise is 1.5"),
    (lambda: binary().sample(KEY, 0), "at least one"),
    (lambda: binary().denoise(KEY, [0, 1, 1, 1], sweeps=0), "sweeps is 0"),
    (lambda: binary().complete(KEY, MASKED, known=np.ones(4, bool)), "row 0, unit 2 is called known"),
    (lambda: binary().energy([0, 1, 1, 1], [0, 5, 1]), "row 0, hidden unit 1 is 5.0, which Binary"),
    (lambda: binary().energy([0, 1, 1, 1], [0, 1, np.nan]), "hidden unit 2 is nan"),
    (lambda: RECTIFIED.energy([0, 1, 1], [0.5, -1.0]), "which Rectified"),
    (lambda: binary().energy(states(4)[:2], states(3)[:1]), r"h has shape \(1, 3\); these rows of v ask for \(2, 3\)"),
    (lambda: binary().energy([0, 1, 1, 1], [0, 1]), r"ask for \(3,\)"),
    (lambda: cr.units.Gaussian([0.0, np.nan]), "log_variance has entries that are NaN"),
    (lambda: binary().tempered(0.0), "must be positive"),
    (lambda: binary(0, 9, 9).log_partition(max_units=8), r"2\^9 values are too many"),
    (lambda: gaussian().conditionals([0.0, 0.0]), "no closed form"),
    (lambda: gaussian_rectified([[0.5]]).log_partition(), "no layer of binary"),
    (lambda: gaussian_rectified([[2.0]]), "there is no Z"),
    (lambda: gaussian_rectified([[0.9, 0.9]]), "there is no Z"),  # each alone has one
    (lambda: BEYOND.sample(KEY, 3), "there is no Z"),
    (lambda: BEYOND.log_partition_bounds(KEY, [[0.0], [1.0]]), "there is no Z"),
    (lambda: binary().conditionals([0, 1, 1, 1], sites=[4]), "indices of visible units"),
]


@pytest.mark.parametrize(("call", "message"), ERRORS, ids=[m for _, m in ERRORS])
def test_errors_say_what_to_do(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_other_values_compile_nothing():
    machine, other = binary(0), binary(1)
    v = states(4).astype(np.uint8)

    def ask(machine, key, temperature):
        machine.log_prob(v)
        machine.complete(key, v, known=np.arange(4) < 2, sweeps=3 if temperature == 1 else 5)
        machine.denoise(key, v, noise=0.1 * temperature)
        machine.sample(key, 5, sweeps=4, temperature=temperature)
        machine.features(v)
        machine.pseudo_log_prob(v)

    ask(machine, KEY, 1.0)
    before = _compiled()
    ask(other, fast_key(1), 2.0)
    assert _compiled() == before > 0


def _compiled():
    from chainrule.models.rbm import conditionals, likelihood

    functions = (f for module in (queries, conditionals, likelihood) for f in vars(module).values())
    return sum(f._cache_size() for f in functions if hasattr(f, "_cache_size"))


def test_one_hot_is_what_the_oracle_means():
    machine = categorical()
    np.testing.assert_array_equal(one_hot(machine, np.array([[2, 0, 1]]))[0], [0, 0, 1, 1, 0, 0, 0, 1, 0])
