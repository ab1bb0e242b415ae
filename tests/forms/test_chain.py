"""The chain form scores paths, hides its padding, and says what is wrong with its arrays."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

import chainrule as cr

INITIAL, PAIR, NODE = np.zeros(2), np.zeros((2, 2)), np.zeros((4, 2))
NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("time_varying", [False, True])
def test_score_of_every_path(time_varying):
    arrays = oracles.random_chain(np.random.default_rng(0), time=4, states=3, time_varying=time_varying, zeros=0.2)
    paths = np.array(list(itertools.product(range(3), repeat=4)))
    chain = cr.Chain(*arrays)
    truth = [oracles.score_path(*arrays, path) for path in paths]
    np.testing.assert_allclose(jax.jit(jax.vmap(chain.score))(paths), truth, atol=1e-5)


@pytest.mark.parametrize("time_varying", [False, True])
def test_score_and_mask_stop_at_the_length(time_varying):
    initial, pair, node = oracles.random_chain(np.random.default_rng(1), time=5, states=3, time_varying=time_varying)
    node[2:] = -INF
    if time_varying:
        pair[1:] = -INF
    chain = cr.Chain(initial, pair, node, length=2)
    np.testing.assert_array_equal(chain.mask, [True, True, False, False, False])
    truth = initial[1] + node[0, 1] + (pair[0] if time_varying else pair)[1, 2] + node[1, 2]
    for rest in ([0, 0, 0], [2, 1, 0], [-1, -1, -1]):
        assert float(chain.score(np.array([1, 2, *rest]))) == pytest.approx(truth, abs=1e-5)


def test_one_step():
    chain = cr.Chain([1.0, 2.0], np.zeros((0, 2, 2)), [[3.0, 5.0]])
    assert (chain.num_states, chain.num_steps) == (2, 1)
    assert [float(chain.score(np.array([z]))) for z in (0, 1)] == [4.0, 7.0]


def test_sizes_and_repr():
    chain = cr.Chain(INITIAL, PAIR, NODE)
    assert repr(chain) == "Chain(2 states, 4 steps)"
    assert (chain.num_states, chain.num_steps, chain.length) == (2, 4, None)
    assert chain.mask.all()


def test_dtype_follows_the_input():
    half = cr.Chain(INITIAL.astype(np.float16), PAIR.astype(np.float16), NODE.astype(np.float16))
    assert {half.initial.dtype, half.pair.dtype, half.node.dtype} == {jnp.dtype("float16")}
    assert cr.Chain([0, 0], PAIR.astype(int), NODE.astype(int)).node.dtype == jnp.result_type(float)
    with jax.enable_x64(True):
        assert cr.Chain(INITIAL, PAIR, NODE).node.dtype == jnp.float64


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ((INITIAL, PAIR, NODE[0]), r"node must have shape \(time, state\), got \(2,\); .* jax.vmap"),
        ((INITIAL, PAIR, NODE[None]), r"got \(1, 4, 2\)"),
        ((INITIAL, PAIR, NODE[:0]), r"node has shape \(0, 2\): a chain needs at least one step"),
        ((INITIAL[:0], PAIR[:0, :0], NODE[:, :0]), r"node has shape \(4, 0\): .* one state"),
        ((np.zeros(3), PAIR, NODE), r"initial has shape \(3,\); node's 2 states ask for \(2,\)"),
        ((INITIAL[None], PAIR, NODE), r"initial has shape \(1, 2\)"),
        ((INITIAL, np.zeros((3, 3)), NODE), r"pair has shape \(3, 3\); wanted \(2, 2\), or \(3, 2, 2\)"),
        ((INITIAL, np.zeros((4, 2, 2)), NODE), r"pair has shape \(4, 2, 2\)"),
        ((INITIAL, np.zeros(2), NODE), r"pair has shape \(2,\)"),
        (([0.0, NAN], PAIR, NODE), r"initial\[1\] is NaN or \+inf; log-potentials are finite or .inf"),
        ((INITIAL, [[0.0, 0.0], [INF, 0.0]], NODE), r"pair\[1, 0\] is NaN or \+inf"),
        ((INITIAL, PAIR, [[0.0, 0.0], [0.0, NAN]]), r"node\[1, 1\] is NaN or \+inf"),
        ((INITIAL, PAIR, NODE, 0), "length is 0, outside 1 … 4"),
        ((INITIAL, PAIR, NODE, 5), "length is 5, outside 1 … 4"),
        ((INITIAL, PAIR, NODE, -1), "length is -1, outside 1 … 4"),
    ],
)
def test_bad_arrays_are_named(arrays, message):
    with pytest.raises(ValueError, match=message):
        cr.Chain(*arrays)


def test_forbidden_is_not_an_error():
    chain = cr.Chain([0.0, -INF], np.full((2, 2), -INF), NODE, length=4)
    assert float(chain.score(np.zeros(4, int))) == -INF


def test_what_the_caller_changes_later_changes_nothing():
    """Also where the caller's memory lies such that a device on the host could share it: on a multiple of 64 bytes."""
    memory = np.zeros(128, np.uint8)
    initial = memory[-memory.ctypes.data % 64 :][:8].view(np.float32)
    chain, model = cr.Chain(initial, PAIR, NODE), cr.emissions.Bernoulli(initial)
    initial[0] = 1
    assert (chain.initial.tolist(), model.probs.tolist()) == ([0, 0], [0, 0])


def test_shapes_are_checked_under_jit_and_values_are_not():
    @jax.jit
    def last_node(initial, pair, node, length):
        return cr.Chain(initial, pair, node, length).node[-1]

    assert np.isnan(last_node(INITIAL * NAN, PAIR, NODE * NAN, 99)).all()
    with pytest.raises(ValueError, match="initial has shape"):
        last_node(np.zeros(3), PAIR, NODE, 4)


def test_lengths_given_in_different_ways_are_one_program():
    kinds = (2, np.int32(2), np.int64(2), jnp.asarray(2), jnp.int32(2))
    seen = {jax.typeof(cr.Chain(INITIAL, PAIR, NODE, length).length) for length in kinds}
    assert len(seen) == 1


def test_batches_are_made_with_vmap():
    node, paths = np.arange(24.0).reshape(3, 4, 2), np.zeros((3, 4), int)

    @jax.jit
    def scores(node):
        return jax.vmap(cr.Chain.score)(jax.vmap(lambda x: cr.Chain(np.zeros(2), np.zeros((2, 2)), x))(node), paths)

    np.testing.assert_allclose(scores(node), node[:, :, 0].sum(1))
