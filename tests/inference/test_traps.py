"""Chains that a careless engine gets wrong: locked-in states, impossible evidence, huge potentials, a million steps."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

import chainrule as cr
from chainrule.inference import chain as engine
from chainrule.inference import rows

INF = np.inf
EYE = np.where(np.eye(2) > 0, 0.0, -INF)
marginals = jax.jit(engine.marginals)
everything = jax.jit(lambda c: (engine.marginals(c), engine.filter(c), jax.value_and_grad(engine.log_partition)(c)))
probs_gradient = jax.jit(jax.value_and_grad(rows.total, argnums=(1, 2, 3)), static_argnums=0)


def by_probs(initial, transition, log_likelihood):
    """Log-likelihood and its gradient by the probabilities and the log-likelihoods."""
    arrays = (np.asarray(x, np.float32) for x in (initial, transition, log_likelihood))
    time = len(log_likelihood)
    return probs_gradient(False, *arrays, np.arange(time) == 0, np.ones(time, np.float32))


def density(x):
    """Log-densities of N(0, 1) and N(50, 1)."""
    return -0.5 * (np.asarray(x, float)[:, None] - [0.0, 50.0]) ** 2 - 0.5 * np.log(2 * np.pi)


def test_structural_zero_has_a_gradient():
    """The derivative by a probability that is zero: what the likelihood would gain, not zero and not NaN."""
    likelihood = np.array([[0.9, 0.1], [0.2, 0.8]])
    value, (by_initial, by_transition, _) = by_probs([0.5, 0.5], [[0.5, 0.5], [0.0, 1.0]], np.log(likelihood))
    assert float(value) == pytest.approx(-1.3280255, abs=1e-6)
    np.testing.assert_allclose(by_transition, [[0.33962, 1.35849], [0.03774, 0.15094]], atol=1e-5)
    # by hand: p(x) = Σ initial · likelihood · (transition @ likelihood)
    np.testing.assert_allclose(by_initial, [0.9 * 0.5 / 0.265, 0.1 * 0.8 / 0.265], rtol=1e-6)


def test_locked_in_state_cannot_be_left_for_a_likelier_one():
    """Only state 0 is reachable; state 1 would explain the second step 1250 nats better."""
    arrays = np.array([0.0, -INF]), EYE, density([0, 50])
    found, filtered, _ = everything(cr.Chain(*arrays))
    assert float(found.log_partition) == pytest.approx(-1251.8379, abs=1e-3)
    np.testing.assert_array_equal(found.unary, [[1, 0], [1, 0]])
    np.testing.assert_array_equal(found.pair_counts, [[1, 0], [0, 0]])
    assert float(filtered.log_partition) == pytest.approx(-1251.8379, abs=1e-3)
    value, (_, _, by_likelihood) = by_probs([1.0, 0.0], np.eye(2), arrays[2])
    assert float(value) == pytest.approx(-1251.8379, abs=1e-3)
    np.testing.assert_array_equal(by_likelihood, [[1, 0], [1, 0]])


def test_one_step_of_the_same_chain():
    found = marginals(cr.Chain([0.0, -INF], EYE, density([0])))
    assert float(found.log_partition) == pytest.approx(-0.9189385, abs=1e-6)
    np.testing.assert_allclose(found.unary, [[1, 0]], atol=1e-30)


@pytest.mark.parametrize("backwards", [False, True])
def test_evidence_abandons_a_state_and_comes_back(backwards):
    """A state that float32 loses (past 87 nats) must still be found alive when later evidence wants it again."""
    for against in (2.0, 4.0, 6.0, 8.0, 8.5, 9.0, 9.5, 10.0, 11.0, 20.0):
        gap = np.repeat([[0.0, -against], [-against - 0.1, 0.0]], 10, axis=0)
        arrays = np.log([0.5, 0.5]), EYE, gap[:: -1 if backwards else 1]
        truth, found = oracles.forward_backward(*arrays), marginals(cr.Chain(*arrays))
        assert truth.marginals[0, 1] == pytest.approx(1 / (1 + np.exp(-1)))
        assert float(found.log_partition) == pytest.approx(truth.log_partition, abs=1e-4)
        np.testing.assert_allclose(found.unary, truth.marginals, atol=5e-5)
        np.testing.assert_allclose(found.pair_counts, truth.pair_marginals.sum(0), atol=1e-3)


@pytest.mark.parametrize("wide", [False, True])
def test_evidence_leaves_a_state_at_both_ends_and_wants_it_in_between(wide):
    """Each direction loses state 1 at its own end, so neither sees that it wins by 100 nats in the middle."""
    size = 20 if wide else 1  # past what float64 holds, past what float32 holds
    ends, middle = np.repeat([[0.0, -50.0]], 4, axis=0), np.repeat([[-125.0 / 3, 0.0]], 12, axis=0)
    arrays = np.log([0.5, 0.5]), EYE, size * np.concatenate([ends, middle, ends])
    truth = oracles.forward_backward(*arrays)
    with jax.enable_x64(wide):
        found = marginals(cr.Chain(*arrays))
    assert float(found.log_partition) == pytest.approx(truth.log_partition, rel=1e-6)
    np.testing.assert_allclose(found.unary, truth.marginals, atol=1e-6)


@pytest.mark.parametrize("seed", [0, 6, 10])
def test_two_chains_that_never_mix(seed):
    """Blocks that do not communicate, as in a mixture: their evidence is a random walk, and the sum is known."""
    node = np.float32(1.5 * np.random.default_rng(seed).normal(size=(10_000, 2)))
    alone = node.astype(np.float64).sum(0)
    found = marginals(cr.Chain(np.zeros(2), EYE, node))
    assert float(found.log_partition) == pytest.approx(np.logaddexp(*alone), abs=1e-2)
    share = np.exp(alone - np.logaddexp(*alone))
    np.testing.assert_allclose(found.unary, np.broadcast_to(share, (10_000, 2)), atol=1e-2)


def test_impossible_chain_has_zero_gradients():
    arrays = np.array([0.0, -INF]), EYE, np.array([[0.0, -INF], [-INF, 0.0]])
    found, _, (value, slopes) = everything(cr.Chain(*arrays))
    assert float(found.log_partition) == -INF
    assert float(value) == -INF
    value, by_probability = by_probs([1.0, 0.0], np.eye(2), arrays[2])
    assert float(value) == -INF
    for zero in (found.unary, found.pair_counts, *jax.tree.leaves(slopes), *by_probability):
        np.testing.assert_array_equal(zero, 0)


@pytest.mark.parametrize("where", ["initial", "pair", "node"])
def test_everything_forbidden(where):
    arrays = {"initial": np.zeros(2), "pair": np.zeros((2, 2)), "node": np.zeros((2, 2))}
    arrays[where] = np.full_like(arrays[where], -INF)
    _, _, (value, slopes) = everything(cr.Chain(**arrays))
    assert float(value) == -INF
    for zero in jax.tree.leaves(slopes):
        np.testing.assert_array_equal(zero, 0)


@pytest.mark.parametrize("time_varying", [False, True])
@pytest.mark.parametrize("zeros", [0.0, 0.3])
def test_huge_potentials(time_varying, zeros):
    """±1000 in float32: far past what exponentials hold; right up to the last digits of numbers of that size."""
    time, states, size = 12, 3, 1000
    rng = np.random.default_rng(0)
    digit = size * 2.0**-23
    for _ in range(25):
        shape = oracles.random_chain(rng, time=time, states=states, time_varying=time_varying, zeros=zeros)
        arrays = [np.where(x > -INF, np.float32(rng.uniform(-size, size, x.shape)), x) for x in shape]
        truth, found = oracles.forward_backward(*arrays), marginals(cr.Chain(*arrays))
        counts = truth.pair_marginals if time_varying else truth.pair_marginals.sum(0)
        assert float(found.log_partition) == pytest.approx(truth.log_partition, abs=2 * time * digit)
        np.testing.assert_allclose(found.unary, truth.marginals, atol=4 * digit)
        np.testing.assert_allclose(found.pair_counts, counts, atol=4 * time * digit)


def test_a_shift_of_the_potentials_shifts_the_log_partition():
    rng = np.random.default_rng(1)
    initial, pair, node = oracles.random_chain(rng, time=12, states=3)
    plain, shifted = marginals(cr.Chain(initial, pair, node)), marginals(cr.Chain(initial + 64, pair - 512, node + 256))
    assert float(shifted.log_partition) - float(plain.log_partition) == pytest.approx(
        64 - 11 * 512 + 12 * 256, abs=2e-3
    )
    np.testing.assert_allclose(shifted.unary, plain.unary, atol=1e-4)
    np.testing.assert_allclose(shifted.pair_counts, plain.pair_counts, atol=1e-4)


def long_chain(time, states=5, seed=2):
    rng = np.random.default_rng(seed)
    transition = 0.9 * np.eye(states) + 0.1 * rng.dirichlet(np.ones(states), states)
    return np.full(states, -np.log(states)), np.log(transition), 2 * rng.normal(size=(time, states)) - 3


def test_float64_over_many_steps():
    """The reference of the next test, itself against NumPy on a shorter chain."""
    initial, pair, node = long_chain(100_000)
    truth = oracles.forward_backward(initial, pair, node[:3000])
    with jax.enable_x64(True):
        found = marginals(cr.Chain(initial, pair, node, 3000))
    assert float(found.log_partition) == pytest.approx(truth.log_partition, rel=1e-13)
    np.testing.assert_allclose(found.unary[:3000], truth.marginals, atol=1e-9)
    np.testing.assert_allclose(found.pair_counts, truth.pair_marginals.sum(0), rtol=1e-9)


def test_float32_over_100_000_steps():
    arrays = [np.float32(x) for x in long_chain(100_000)]
    with jax.enable_x64(True):
        truth = marginals(cr.Chain(*(x.astype(np.float64) for x in arrays), 100_000))
    found = marginals(cr.Chain(*arrays))
    assert found.unary.dtype == found.log_partition.dtype == jnp.float32
    assert float(found.log_partition) == pytest.approx(float(truth.log_partition), rel=1e-6)
    np.testing.assert_allclose(found.unary, truth.unary, atol=1e-5)
    np.testing.assert_allclose(found.pair_counts, truth.pair_counts, rtol=1e-4)


@pytest.mark.parametrize(
    ("query", "time", "states"),
    [
        (engine.marginals, 1_000_000, 5),
        (jax.value_and_grad(engine.log_partition), 2000, 1000),
    ],
)
def test_memory_grows_with_time_times_states(query, time, states):
    """Compiled only: what is allocated on the way is a few arrays of (time, state), never (time, state, state)."""

    def of_arrays(*arrays):
        return query(cr.Chain(*arrays))

    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((states,), (states, states), (time, states))]
    used = jax.jit(of_arrays).lower(*shapes).compile().memory_analysis().temp_size_in_bytes
    unit = 4 * (time * states + states**2)
    assert 0 < used < 9 * unit
