"""The best paths against the sorted list of all paths, on ties, past the end of the list, and over many steps."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

import chainrule as cr
from chainrule.inference import decoding

INF = np.inf
best = jax.jit(decoding.viterbi)
several = jax.jit(decoding.k_best, static_argnums=1)
SHAPES = {
    "homogeneous": (5, 3, False),
    "time-varying": (5, 3, True),
    "one state": (5, 1, False),
}


def padded(rng, kind, zeros):
    """A chain with a random length and junk past it, and the arrays that count."""
    time, states, varying = SHAPES[kind]
    length = int(rng.integers(1, time + 1))
    initial, pair, node = oracles.random_chain(rng, time=length, states=states, time_varying=varying, zeros=zeros)
    junk = rng.choice([-INF, -1e3, 1e3], size=(time, states, states))
    long_pair = np.concatenate([pair, junk[: time - length]]) if varying else pair
    return cr.Chain(initial, long_pair, np.concatenate([node, junk[length:, 0]]), length), (initial, pair, node)


def in_full(states, time):
    return np.pad(np.asarray(states), (0, time - len(states)), constant_values=-1)


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("zeros", [0.0, 0.4])
def test_best_paths_in_order(kind, zeros):
    """All 3⁵ paths and more are asked for: the tail that is not possible has score −inf and states −1."""
    rng, k = np.random.default_rng(len(kind)), 250
    for _ in range(8):
        chain, arrays = padded(rng, kind, zeros)
        possible = [(s, z) for s, z in oracles.enumerate_chain(*arrays).paths if s > -INF]
        states, scores = (np.asarray(x) for x in several(chain, k))
        count = len(possible)
        assert states.shape == (k, chain.num_steps)
        np.testing.assert_allclose(scores[:count], [s for s, _ in possible], atol=2e-5)
        np.testing.assert_array_equal(scores[count:], -INF)
        np.testing.assert_array_equal(states[count:], -1)
        found = [tuple(path) for path in states[:count]]
        assert set(found) == {tuple(in_full(z, chain.num_steps)) for _, z in possible}
        for path, score in zip(found, scores, strict=False):
            assert oracles.score_path(*arrays, path[: len(arrays[2])]) == pytest.approx(float(score), abs=2e-5)

        path = best(chain)
        np.testing.assert_array_equal(path.states, in_full(possible[0][1], chain.num_steps))
        assert float(path.score) == pytest.approx(possible[0][0], abs=1e-5)


def test_one_path_is_the_head_of_the_list():
    arrays = oracles.random_chain(np.random.default_rng(0), time=5, states=3)
    truth = oracles.enumerate_chain(*arrays).paths[:1]
    states, scores = several(cr.Chain(*arrays), 1)
    np.testing.assert_array_equal(states, [z for _, z in truth])
    np.testing.assert_allclose(scores, [s for s, _ in truth], atol=1e-5)


def test_k_is_at_least_one():
    with pytest.raises(ValueError, match="k is 0; ask for at least one path"):
        decoding.k_best(cr.Chain(np.zeros(2), np.zeros((2, 2)), np.zeros((3, 2))), 0)


def test_impossible_chain():
    chain = cr.Chain(np.zeros(3), np.full((3, 3), -INF), np.zeros((5, 3)), 5)
    for path in best(chain), several(chain, 250):
        assert (np.asarray(path.states) == -1).all()
        assert (np.asarray(path.score) == -INF).all()


def test_impossible_at_the_very_end():
    node = np.zeros((5, 3))
    node[4] = -INF
    chain = cr.Chain(np.zeros(3), np.zeros((3, 3)), node, 5)
    for path in best(chain), several(chain, 250):
        assert (np.asarray(path.states) == -1).all()
        assert (np.asarray(path.score) == -INF).all()


def test_ties_go_to_the_lower_state_from_the_end_backwards():
    flat = cr.Chain(np.zeros(3), np.zeros((3, 3)), np.zeros((5, 3)), 5)
    np.testing.assert_array_equal(best(flat).states, np.zeros(5))
    swap = np.where(np.eye(3) > 0, -INF, 0.0)  # no state twice in a row
    np.testing.assert_array_equal(best(cr.Chain(np.zeros(3), swap, np.zeros((5, 3)), 5)).states, [0, 1, 0, 1, 0])


def test_equal_paths_are_listed_once_each():
    states, scores = several(cr.Chain(np.zeros(3), np.zeros((3, 3)), np.zeros((5, 3)), 5), 250)
    assert len(np.unique(np.asarray(states)[:243], axis=0)) == 243
    np.testing.assert_array_equal(scores, [0.0] * 243 + [-INF] * 7)


def test_large_potentials_stay_exact():
    """±1000 in quarters: sums are exact in float32, so paths and scores are those of float64."""
    rng = np.random.default_rng(1)
    for _ in range(20):
        arrays = [rng.integers(-4000, 4001, size=shape) / 4 for shape in ((3,), (3, 3), (5, 3))]
        truth = oracles.enumerate_chain(*arrays).paths
        path = best(cr.Chain(*arrays, 5))
        np.testing.assert_array_equal(path.states, truth[0][1])
        assert float(path.score) == truth[0][0]
        np.testing.assert_array_equal(several(cr.Chain(*arrays, 5), 250).score[:243], [s for s, _ in truth])


def test_batches():
    """`vmap` over whole chains, and over node potentials alone."""
    rng = np.random.default_rng(2)
    batch = [oracles.random_chain(rng, time=5, states=3, zeros=0.2) for _ in range(6)]
    chains = jax.tree.map(lambda *x: np.stack(x), *(cr.Chain(*arrays) for arrays in batch))
    initial, pair, _ = batch[0]

    @jax.jit
    def ask(chains):
        of_nodes = jax.vmap(lambda node: decoding.k_best(cr.Chain(initial, pair, node), 2))
        return jax.vmap(decoding.viterbi)(chains), of_nodes(chains.node).score

    path, top = ask(chains)
    truth = [oracles.viterbi(*arrays) for arrays in batch]
    np.testing.assert_array_equal(path.states, [z for _, z in truth])
    np.testing.assert_allclose(path.score, [s for s, _ in truth], atol=1e-5)

    truth = [oracles.enumerate_chain(initial, pair, node).paths[0] for _, _, node in batch]
    np.testing.assert_allclose(np.asarray(top)[:, 0], [s for s, _ in truth], atol=1e-5)


@pytest.mark.parametrize("time_varying", [False, True])
def test_rows_with_restarts_are_chains_by_themselves(time_varying):
    """`best_states` over lanes (time, state, row), where a new chain may begin at any step of any row."""
    rng = np.random.default_rng(3)
    time, states, lanes = 9, 3, 4
    initial, pair, _ = oracles.random_chain(rng, time=time, states=states, time_varying=time_varying)
    node = rng.normal(size=(time, states, lanes)) * 3
    start = rng.random((time, lanes)) < 0.3
    start[0] = True
    into = np.concatenate([np.zeros((1, states, states)), pair]) if time_varying else pair
    found = np.asarray(jax.jit(decoding.best_states)(*(np.float32(x) for x in (initial, into, node)), start))
    for lane in range(lanes):
        edges = [*np.flatnonzero(start[:, lane]), time]
        for begin, end in itertools.pairwise(edges):
            step = into[begin + 1 : end] if time_varying else pair
            _, truth = oracles.viterbi(initial, step, node[begin:end, :, lane])
            np.testing.assert_array_equal(found[begin:end, lane], truth)


def test_long_paths_are_those_of_float64():
    """Without re-centring, float32 returns another and worse path here."""
    rng = np.random.default_rng(4)
    time, states = 100_000, 5
    log_transition = np.log(0.9 * np.eye(states) + 0.1 * rng.dirichlet(np.ones(states), states))
    node = rng.normal(size=(time, states)) * 2
    arrays = [np.float32(x) for x in (np.full(states, -np.log(states)), log_transition, node)]
    with jax.enable_x64(True):
        truth = best(cr.Chain(*(a.astype(np.float64) for a in arrays)))
    path = best(cr.Chain(*arrays))
    assert (path.states.dtype, path.score.dtype) == (jnp.int32, jnp.float32)
    np.testing.assert_array_equal(path.states, truth.states)
    assert float(path.score) == pytest.approx(float(truth.score), rel=1e-6)
    assert len(np.unique(truth.states)) == states


def test_float64_paths_over_many_steps():
    """The float64 reference of the test above, itself against NumPy on a shorter chain."""
    rng = np.random.default_rng(5)
    arrays = oracles.random_chain(rng, time=2000, states=5, zeros=0.1)
    score, states = oracles.viterbi(*arrays)
    with jax.enable_x64(True):
        path = best(cr.Chain(*arrays))
    np.testing.assert_array_equal(path.states, states)
    assert float(path.score) == pytest.approx(score, rel=1e-12)
