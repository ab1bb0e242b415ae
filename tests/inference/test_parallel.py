"""The engine that is parallel in time against the sequential one."""

import jax
import numpy as np
import oracles
import pytest
from scipy.stats import norm

import chainrule as cr
from chainrule.inference import chain as sequential
from chainrule.inference import chunks, decoding, parallel

COMPILED = {name: jax.jit(engine.marginals) for name, engine in {"one": sequential, "many": parallel}.items()}


@pytest.mark.parametrize(
    ("time", "length", "time_varying"),
    [(1, 1, True), (7, 5, False)] + [(120, length, varying) for length in (61, 120) for varying in (False, True)],
)
def test_equal_to_sequential(time, length, time_varying):
    """Which is done here in float64, in log space."""
    rng = np.random.default_rng(time)
    log = oracles.random_chain(rng, time=time, states=4, time_varying=time_varying, zeros=0.2)
    found = jax.tree.map(np.asarray, COMPILED["many"](cr.Chain(*(np.float32(x) for x in log), length)))
    initial, pair, node = log
    truth = oracles.forward_backward(initial, pair[: length - 1] if time_varying else pair, node[:length])
    np.testing.assert_allclose(found.log_partition, truth.log_partition, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(found.unary[:length], truth.marginals, atol=2e-5)
    assert not found.unary[length:].any()
    counts = truth.pair_marginals if time_varying else truth.pair_marginals.sum(0)
    np.testing.assert_allclose(found.pair_counts[: len(counts)], counts, atol=2e-4)
    assert not found.pair_counts[len(counts) :].any()


def test_gradient_is_the_marginals_also_in_a_batch():
    """Of chains without a length as well."""
    batch = [oracles.random_chain(np.random.default_rng(seed), time=30, states=3) for seed in range(2)]
    chains = jax.tree.map(lambda *x: np.stack(x), *(cr.Chain(*arrays) for arrays in batch))
    gradient = jax.jit(jax.vmap(jax.grad(parallel.log_partition)))(chains)
    truth = [oracles.forward_backward(*arrays) for arrays in batch]
    np.testing.assert_allclose(gradient.node, [t.marginals for t in truth], atol=1e-5)
    np.testing.assert_allclose(gradient.pair, [t.pair_marginals.sum(0) for t in truth], atol=1e-4)


def test_falls_back_where_floats_underflow():
    # states that never mix, the last without a start: the evidence abandons state 1 for 180 nats, then brings it back
    # for 270; as many steps and states as in the test below, which is the same program
    node = np.float32(np.repeat([[0.0, -10.0, 0.0], [-15.0, 0.0, 0.0]], 18, axis=0))
    never = np.where(np.eye(3) > 0, np.float32(0), -np.inf).astype(np.float32)
    with np.errstate(divide="ignore"):
        initial = np.log(np.float32([0.5, 0.5, 0]))
    found = COMPILED["many"](cr.Chain(initial, never, node))
    np.testing.assert_allclose(found.log_partition, -180 + np.log(0.5), rtol=1e-6)
    np.testing.assert_allclose(np.asarray(found.unary)[:, 1], 1.0, atol=1e-6)


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
    initial, transition = np.array([0.5, 0.3, 0.2]), rng.dirichlet(np.ones(3), 3)
    mean, variance = np.array([-1.0, 0.0, 2.0]), np.array([1.0, 0.5, 2.0])
    # its names are its own, so that no program that was made without these sweeps answers, nor any of these later
    hmm = cr.HMM(initial, transition, cr.emissions.Normal(mean, variance), states=("side", "by", "side again"))
    x = rng.normal(size=157)
    pieces = [x[:83], x[83:140], x[140:]]
    slope = jax.jit(jax.grad(lambda model, data: model.log_prob(data).sum()))
    taken = []
    monkeypatch.setattr(chunks, "suits", lambda likelihood: taken.append(likelihood.ndim) or True)
    one, several, paths = hmm.posterior(x), hmm.posterior(pieces), hmm.viterbi(pieces).states
    log_prob, filtered = hmm.log_prob(x), hmm.filter(x)
    gradient = slope(hmm, cr.Sequences.pack(pieces))
    assert {2, 3} <= set(taken)

    logs = np.log(initial), np.log(transition)
    scores = [norm.logpdf(piece[:, None], mean, np.sqrt(variance)) for piece in (x, *pieces)]
    truth = [oracles.forward_backward(*logs, node) for node in scores]

    def close(a, b):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-5)

    close(
        [log_prob, filtered.log_prob, one.log_prob, *several.log_prob],
        np.r_[[truth[0].log_partition] * 3, [t.log_partition for t in truth[1:]]],
    )
    close(filtered.filtered[-1], truth[0].marginals[-1])
    for marginals, t in zip((one.marginals, *several.marginals), truth, strict=True):
        close(marginals, t.marginals)
    for states, node in zip(paths, scores[1:], strict=True):
        np.testing.assert_array_equal(states, oracles.viterbi(*logs, node)[1])
    parts = truth[1:]
    close(gradient.initial, sum(t.marginals[0] for t in parts) / initial)
    close(gradient.transition, sum(t.pair_marginals.sum(0) for t in parts) / transition)
    off = [(t.marginals, d[:, None] - mean) for t, d in zip(parts, pieces, strict=True)]
    close(gradient.emission.loc, sum((m * o).sum(0) for m, o in off) / variance)


def test_only_accelerators_and_long_chains_with_few_states_suit(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    assert not chunks.suits(np.zeros((1000, 3)))
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert chunks.suits(np.zeros((1000, 3)))
    assert not chunks.suits(np.zeros((50, 3)))
    assert not chunks.suits(np.zeros((200, 150)))


@pytest.mark.parametrize("shape", ["one", "time-varying rows, each with its own"])
def test_the_best_path_in_pieces_is_the_best_path(shape):
    """Whole numbers, so that no sum is rounded and even ties have to be decided alike; zeros, and sequences end to end."""
    rng = np.random.default_rng(len(shape))
    time, states, rows = 47, 3, 4
    row = (rows,) if "rows" in shape else ()
    pair = (time,) if "varying" in shape else ()
    transition = rng.integers(-3, 1, (*pair, states, states, *(row if "own" in shape else ())))
    transition = np.where(rng.random(transition.shape) < 0.2, -np.inf, transition)
    start = rng.random((time, *row)) < 0.1
    start[0] = True
    args = (rng.integers(-3, 1, states), transition, rng.integers(-5, 1, (time, states, *row)))
    found, wanted = jax.jit(lambda *args: (chunks.best_states(*args), decoding.best_states(*args)))(
        *(np.asarray(a, np.float32) for a in args), start
    )
    np.testing.assert_array_equal(found, wanted)
    assert len(np.unique(wanted)) == states
