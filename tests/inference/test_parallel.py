"""The engine that is parallel in time against the sequential one."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

import chainrule as cr
from chainrule.inference import chain as sequential
from chainrule.inference import chunks, decoding, parallel

COMPILED = {name: jax.jit(engine.marginals) for name, engine in {"one": sequential, "many": parallel}.items()}


@pytest.mark.parametrize("time_varying", [False, True])
@pytest.mark.parametrize(("time", "length"), [(1, None), (2, None), (7, 5), (120, None), (120, 61)])
def test_equal_to_sequential(time, length, time_varying):
    rng = np.random.default_rng(time)
    log = oracles.random_chain(rng, time=time, states=4, time_varying=time_varying, zeros=0.2)
    chain = cr.Chain(*(np.float32(x) for x in log), length)
    one, many = COMPILED["one"](chain), COMPILED["many"](chain)
    np.testing.assert_allclose(many.log_partition, one.log_partition, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(many.unary, one.unary, atol=2e-5)
    np.testing.assert_allclose(many.pair_counts, one.pair_counts, atol=2e-4)


def test_gradient_is_the_marginals_also_in_a_batch():
    rng = np.random.default_rng(0)
    chain = cr.Chain(*(np.float32(x) for x in oracles.random_chain(rng, time=30, states=3)))
    expected = sequential.marginals(chain)
    batch = jax.tree.map(lambda x: jnp.stack([x, x]), chain)
    gradient = jax.vmap(eqx.filter_grad(parallel.log_partition))(batch)
    np.testing.assert_allclose(gradient.node[1], expected.unary, atol=1e-5)
    np.testing.assert_allclose(gradient.pair[1], expected.pair_counts, atol=1e-4)


def test_falls_back_where_floats_underflow():
    # two states that never mix: the evidence abandons state 1 for 200 nats, then brings it back for 300
    node = np.float32(np.repeat([[0.0, -20.0], [-30.0, 0.0]], 10, axis=0))
    never = np.float32([[0.0, -np.inf], [-np.inf, 0.0]])
    found = COMPILED["many"](cr.Chain(np.log(np.float32([0.5, 0.5])), never, node))
    np.testing.assert_allclose(found.log_partition, -200 + np.log(0.5), rtol=1e-6)
    np.testing.assert_allclose(found.unary[:, 1], 1.0, atol=1e-6)


def test_chunks_that_lose_the_row_that_counts_are_noticed():
    """States that hardly mix: a chunk's product has one scale, and the row that it is entered by may be far below it."""
    rng = np.random.default_rng(0)
    for _ in range(300):
        leak = rng.uniform(0, 90)
        pair = np.where(np.eye(3, dtype=bool), 0, -leak * rng.uniform(0.3, 1, (3, 3)))
        node = np.repeat(rng.normal(size=(6, 3)) * rng.choice([1, 5, 10, 20]), 6, axis=0)
        chain = cr.Chain(*(np.float32(x) for x in (-rng.uniform(0, 60, 3), pair, node)))
        one, many = COMPILED["one"](chain), COMPILED["many"](chain)
        assert float(many.log_partition) == pytest.approx(float(one.log_partition), rel=1e-4, abs=1e-3)
        np.testing.assert_allclose(many.unary, one.unary, atol=1e-3)


def test_models_take_these_sweeps_where_they_suit(monkeypatch):
    """On an accelerator: one sequence, several of different lengths, and what is asked inside of somebody's program."""
    rng = np.random.default_rng(4)
    hmm = cr.HMM([0.5, 0.3, 0.2], rng.dirichlet(np.ones(3), 3), cr.emissions.Normal([-1.0, 0.0, 2.0], [1.0, 0.5, 2.0]))
    x = rng.normal(size=157)
    asked = (x, [x[:83], x[83:140], x[140:]])

    def answers():
        slope = jax.jit(jax.grad(lambda model, data: model.log_prob(data).sum()))
        for data in asked:
            yield [hmm.log_prob(data), hmm.posterior(data).marginals, hmm.filter(data).states, hmm.viterbi(data).states]
            yield slope(hmm, cr.Sequences.pack(data))

    jax.clear_caches()
    one_by_one = [jax.tree.leaves(found) for found in answers()]
    taken = []
    monkeypatch.setattr(chunks, "suits", lambda likelihood: taken.append(likelihood.ndim) or True)
    jax.clear_caches()
    side_by_side = [jax.tree.leaves(found) for found in answers()]
    jax.clear_caches()
    assert {2, 3} <= set(taken)
    for some, others in zip(one_by_one, side_by_side, strict=True):
        for a, b in zip(some, others, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-5)


def test_only_accelerators_and_long_chains_with_few_states_suit(monkeypatch):
    def weights(time, states):
        return rows._weigh(
            True, *(jnp.zeros(s) for s in (states, (states, states), (time, states))), jnp.zeros(time, bool)
        )

    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    assert not chunks.suits(jnp.zeros((1000, 3)))
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert chunks.suits(jnp.zeros((1000, 3)))
    assert not chunks.suits(jnp.zeros((50, 3)))
    assert not chunks.suits(jnp.zeros((200, 150)))


@pytest.mark.parametrize("shape", ["one", "time-varying", "rows", "rows, each with its own"])
def test_the_best_path_in_pieces_is_the_best_path(shape):
    """Whole numbers, so that no sum is rounded and even ties have to be decided alike; zeros, and sequences end to end."""
    rng = np.random.default_rng(len(shape))
    time, states, rows = 47, 3, 4
    row = (rows,) if "rows" in shape else ()
    pair = {"one": (), "rows": ()}.get(shape, (time,))
    transition = rng.integers(-3, 1, (*pair, states, states, *(row if "own" in shape else ())))
    transition = np.where(rng.random(transition.shape) < 0.2, -np.inf, transition)
    start = rng.random((time, *row)) < 0.1
    start[0] = True
    args = (rng.integers(-3, 1, states), transition, rng.integers(-5, 1, (time, states, *row)))
    args = (*(jnp.asarray(a, jnp.float32) for a in args), jnp.asarray(start))
    wanted = decoding.best_states(*args)
    np.testing.assert_array_equal(chunks.best_states(*args), wanted)
    assert len(np.unique(wanted)) == states
