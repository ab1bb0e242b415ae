"""Dense and continuous memories: published capacities, and what they are equal to."""

import jax
import numpy as np
import pytest

import chainrule as cr
from chainrule.models.hopfield import Exponential, Polynomial

INTERACTIONS = pytest.mark.parametrize(
    "interaction", [Polynomial(2), Polynomial(3), Polynomial(4, rectified=True), Exponential()], ids=repr
)


def random_patterns(count, size, seed=0):
    return np.random.default_rng(seed).choice([-1, 1], (count, size))


def energy_by_hand(interaction, patterns, state):
    overlaps = patterns.astype(float) @ state
    if isinstance(interaction, Exponential):
        return -np.log(np.exp(overlaps).sum())
    share = overlaps / len(state)
    return -len(state) * sum((max(m, 0) if interaction.rectified else m) ** interaction.degree for m in share)


@INTERACTIONS
def test_energy_and_descent_by_hand(interaction):
    patterns, probe = random_patterns(6, 14), random_patterns(1, 14, seed=5)[0]
    memory = cr.DenseMemory(patterns, interaction)
    assert float(memory.energy(probe)) == pytest.approx(energy_by_hand(interaction, patterns, probe), rel=1e-5)
    state, energies = probe.copy(), []
    for _ in range(10):
        for i in range(14):
            turned = state.copy()
            turned[i] *= -1
            here, there = (energy_by_hand(interaction, patterns, s) for s in (state, turned))
            state = turned if there < here - 1e-6 else state
            energies.append(min(here, there))
    found = memory.recall(probe)
    np.testing.assert_array_equal(found.states, state)
    assert found.status == cr.hopfield.RecallStatus.FIXED_POINT
    assert float(found.energy) == pytest.approx(energies[-1], rel=1e-5)
    assert (np.diff(found.energies) <= 1e-5).all()


def test_degree_two_is_hebbs_network():
    patterns, probes = random_patterns(8, 60), random_patterns(20, 60, seed=2)
    dense, hebb = cr.DenseMemory(patterns, Polynomial(2)), cr.Hopfield.from_patterns(patterns)
    # −N Σ (ξ·s/N)² = 2 E_Hebb − K
    np.testing.assert_allclose(dense.energy(probes), 2 * np.asarray(hebb.energy(probes)) - 8, atol=1e-3)
    np.testing.assert_array_equal(dense.recall(probes).states, hebb.recall(probes).states)


@pytest.mark.parametrize(("degree", "size"), [(2, 64), (3, 64), (4, 40)])
def test_polynomial_capacity(degree, size):
    capacity = Polynomial(degree).capacity(size)
    assert capacity == pytest.approx({2: size, 3: size**2 / 3, 4: size**3 / 15}[degree] / (2 * np.log(size)))
    patterns = random_patterns(int(capacity), size)
    found = cr.DenseMemory(patterns, Polynomial(degree)).recall(patterns)
    assert (np.asarray(found.states) == patterns).all(1).mean() > 0.8
    assert (degree == 2) == (capacity < cr.hopfield.Hebb().capacity(size, of="with errors"))


def test_exponential_capacity_and_basins():
    patterns = random_patterns(int(Exponential().capacity(20)), 20)
    assert len(patterns) == 1024
    memory = cr.DenseMemory(patterns, Exponential())
    found = memory.recall(patterns[:200])
    assert (np.asarray(found.states) == patterns[:200]).all(1).mean() > 0.95
    patterns = random_patterns(500, 60)
    damaged = patterns.copy()
    damaged[:, :12] *= -1
    found = cr.DenseMemory(patterns, Exponential()).recall(damaged[:100], key=jax.random.key(0))
    assert (np.asarray(found.states) == patterns[:100]).all(1).mean() > 0.95


def test_exponential_does_not_overflow():
    patterns = random_patterns(3, 500)
    memory = cr.DenseMemory(patterns, Exponential())
    assert float(memory.energy(patterns[0])) == pytest.approx(-500)
    assert (np.asarray(memory.recall(patterns).states) == patterns).all()


# The continuous network


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


jax_attention = jax.jit(lambda query, key, value, beta: jax.nn.dot_product_attention(query, key, value, scale=beta))


@pytest.mark.parametrize("beta", [0.1, 1.0, 8.0])
def test_retrieval_is_attention(beta):
    patterns, queries, values = normal(7, 5), normal(4, 5, seed=1), normal(7, 3, seed=2)
    score = beta * queries.astype(float) @ patterns.T
    share = np.exp(score - score.max(1, keepdims=True))
    share /= share.sum(1, keepdims=True)
    np.testing.assert_allclose(cr.retrieve(patterns, queries, beta), share @ patterns, atol=1e-5)
    np.testing.assert_allclose(cr.retrieve(patterns, queries, beta, values=values), share @ values, atol=1e-5)
    heads = [a[None, :, None] for a in (queries, patterns, patterns)]  # batch, token, head, feature
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):  # within JAX's own attention
        attention = np.asarray(jax_attention(*heads, beta))[0, :, 0]
    np.testing.assert_allclose(cr.retrieve(patterns, queries, beta), attention, atol=1e-5)
    np.testing.assert_allclose(cr.retrieve(patterns, queries[0], beta), attention[0], atol=1e-5)


def test_large_beta_finds_the_nearest_and_small_beta_the_mean():
    patterns = normal(20, 30)
    near = patterns + 0.2 * normal(20, 30, seed=1)
    np.testing.assert_allclose(cr.retrieve(patterns, near, 20.0), patterns, atol=1e-4)
    np.testing.assert_allclose(cr.retrieve(patterns, near[0], 1e-6), patterns.mean(0), atol=1e-4)


@jax.jit
def energy_slopes(memory, queries):
    return jax.vmap(jax.grad(memory.energy))(queries)


@pytest.mark.parametrize("beta", [0.2, 1.0, 5.0])
def test_updates_follow_the_energy_downhill(beta):
    patterns, queries = normal(6, 4), 2 * normal(9, 4, seed=3)
    memory = cr.ContinuousHopfield(patterns, beta)
    found = memory.recall(queries)
    assert np.asarray(found.settled).all()
    assert (np.diff(found.energies, axis=0) <= 1e-5).all()
    assert (np.asarray(found.energies) >= 0).all()
    np.testing.assert_allclose(cr.retrieve(patterns, found.states, beta), found.states, atol=1e-4)
    # an update is a step along the gradient: x − ∇E(x)
    slopes = energy_slopes(memory, queries)
    np.testing.assert_allclose(queries - slopes, cr.retrieve(patterns, queries, beta), atol=1e-4)


def test_binary_patterns_one_step_is_the_exponential_memory():
    patterns = random_patterns(30, 40)
    damaged = patterns.copy()
    damaged[:, :6] *= -1
    one_step = np.sign(cr.retrieve(patterns, damaged, 1.0))
    np.testing.assert_array_equal(one_step, cr.DenseMemory(patterns, Exponential()).recall(damaged).states)


def test_too_few_steps_are_reported():
    found = cr.ContinuousHopfield(normal(5, 3), 1.0).recall(normal(3, seed=1), max_steps=1)
    assert not found.settled
    assert found.energies.shape == (2,)


def test_under_jit_vmap_and_grad():
    patterns, queries = normal(6, 4), normal(3, 4, seed=1)
    memory = cr.ContinuousHopfield(patterns)
    assert float(memory.beta) == 0.5
    each = jax.jit(jax.vmap(lambda q: memory.recall(q).states))(queries)
    np.testing.assert_allclose(each, memory.recall(queries).states, atol=1e-5)
    slope = jax.jit(jax.grad(lambda beta: cr.retrieve(patterns, queries, beta).sum()))(1.0)
    assert np.isfinite(slope)
    assert slope != 0


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Polynomial(1), "degree is 1"),
        (lambda: cr.DenseMemory([[0, 1]]), r"patterns\[0, 0\] is 0; .*2 \* x - 1"),
        (lambda: cr.DenseMemory(np.zeros((0, 3))), "nothing to store"),
        (lambda: cr.DenseMemory([[1, -1]]).recall([1, np.nan]), r"probe\[1\] is nan"),
        (lambda: cr.DenseMemory([[1, -1]]).energy([1]), r"shape \(1,\)"),
        (lambda: cr.DenseMemory([[1, -1]]).recall([1, 1], max_sweeps=0), "max_sweeps is 0"),
        (lambda: cr.ContinuousHopfield([[1.0, np.nan]]), r"patterns\[0, 1\] is nan"),
        (lambda: cr.ContinuousHopfield([1.0]), r"shape \(1,\)"),
        (lambda: cr.ContinuousHopfield([[1.0]], 0.0), "beta is 0.0"),
        (lambda: cr.ContinuousHopfield([[1.0]]).energy([1.0, 2.0]), r"shape \(2,\)"),
        (lambda: cr.ContinuousHopfield([[1.0]]).recall([1.0], max_steps=0), "max_steps is 0"),
        (lambda: cr.retrieve([[1.0, 2.0]], [1.0], 1.0), "2 features"),
        (lambda: cr.retrieve([[1.0]], [np.inf], 1.0), r"query\[0\] is inf"),
        (lambda: cr.retrieve([[1.0]], [1.0], -1.0), "beta is -1.0"),
        (lambda: cr.retrieve([[1.0]], [1.0], [1.0]), "wanted one number"),
        (lambda: cr.retrieve([[1.0]], [1.0], 1.0, values=[[np.nan]]), r"values\[0, 0\] is nan"),
        (lambda: cr.DenseMemory([[1, -1]], "exp"), "interaction is 'exp'; wanted"),
        (lambda: cr.retrieve([[1.0]], [1.0], 1.0, values=[[1.0], [2.0]]), r"values have shape \(2, 1\)"),
    ],
)
def test_what_cannot_be(build, message):
    with pytest.raises(ValueError, match=message):
        build()
