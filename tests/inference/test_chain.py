"""Queries on one chain against brute force: every answer, every gradient, and the frequencies of sampled paths."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

import chainrule as cr
from chainrule.inference import chain as engine
from chainrule.inference import decoding

KINDS = {  # time, states, time_varying: one compiled program each, lengths are traced
    "homogeneous": (6, 3, False),
    "time-varying": (6, 3, True),
    "one state": (6, 1, False),
}
INF = np.inf


def answers(chain):
    """Asked plainly, as a user would at a prompt: each query is a program of its own."""
    return {
        "log_partition": engine.log_partition(chain),
        "marginals": engine.marginals(chain),
        "pairs": engine.pair_marginals(chain),
        "filter": engine.filter(chain),
        "entropy": engine.entropy(chain),
    }


together = jax.jit(answers)


def padded(rng, kind, zeros):
    """A chain with a random length, as the engine gets it (junk past the length) and as the oracle does (cut)."""
    time, states, varying = KINDS[kind]
    length = int(rng.integers(1, time + 1))
    initial, pair, node = oracles.random_chain(rng, time=length, states=states, time_varying=varying, zeros=zeros)
    junk = rng.choice([-INF, -50.0, 50.0], size=(time, states, states))
    long_node = np.concatenate([node, junk[length:, 0]])
    long_pair = np.concatenate([pair, junk[: time - length]]) if varying else pair
    return cr.Chain(initial, long_pair, long_node, length), (initial, pair, node)


def prefixes(initial, pair, node):
    """Answers of the chain stopped at each step, and of the chain stopped there before its potentials are seen."""
    for t in range(len(node)):
        step = pair if pair.ndim == 2 else pair[:t]
        blind = np.concatenate([node[:t], np.zeros_like(node[:1])])
        yield oracles.enumerate_chain(initial, step, node[: t + 1]), oracles.enumerate_chain(initial, step, blind)


def check(chain, truth_arrays, tolerance, ask):
    found = jax.tree.map(np.asarray, ask(chain))
    truth = oracles.enumerate_chain(*truth_arrays)
    length, padding = len(truth.marginals), chain.num_steps - len(truth.marginals)

    def close(value, wanted):
        np.testing.assert_allclose(value, wanted, atol=tolerance, rtol=tolerance)

    def padded_with_zeros(value, wanted):
        close(value, np.pad(wanted, [(0, padding)] + [(0, 0)] * (wanted.ndim - 1)))

    for log_partition in found["log_partition"], found["marginals"].log_partition, found["filter"].log_partition:
        close(log_partition, truth.log_partition)
    close(found["entropy"], truth.entropy)
    padded_with_zeros(found["marginals"].unary, truth.marginals)
    padded_with_zeros(found["pairs"], truth.pair_marginals)
    if chain.pair.ndim == 3:
        padded_with_zeros(found["marginals"].pair_counts, truth.pair_marginals)
    else:
        close(found["marginals"].pair_counts, truth.pair_marginals.sum(0))

    stopped, blind = zip(*prefixes(*truth_arrays), strict=True)
    running = np.array([a.log_partition for a in stopped])
    padded_with_zeros(found["filter"].filtered, np.stack([a.marginals[-1] for a in stopped]))
    padded_with_zeros(found["filter"].predicted, np.stack([a.marginals[-1] for a in blind]))
    padded_with_zeros(found["filter"].log_constants, np.diff(running, prepend=0))
    assert length == int(chain.mask.sum())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("zeros", [0.0, 0.4])
def test_every_query_in_float64(kind, zeros):
    rng = np.random.default_rng(len(kind))
    with jax.enable_x64(True):
        for _ in range(8):
            check(*padded(rng, kind, zeros), tolerance=1e-12, ask=together)


@pytest.mark.parametrize("zeros", [0.0, 0.4])
def test_every_query_in_float32(zeros):
    """No length is given here: all steps count."""
    rng = np.random.default_rng(3)
    for _ in range(4):
        arrays = oracles.random_chain(rng, time=6, states=3, zeros=zeros)
        check(cr.Chain(*arrays), arrays, tolerance=3e-6, ask=answers)


def test_entropy_of_certainty_and_of_ignorance():
    nothing = np.zeros((3, 3)), np.zeros((6, 3))
    chains = [cr.Chain(initial, *nothing) for initial in ([0.0, 0.0, 0.0], [0.0, -INF, -INF], [-INF, -INF, -INF])]
    found = [float(answers(chain)["entropy"]) for chain in chains]
    np.testing.assert_allclose(found, [6 * np.log(3), 5 * np.log(3), 0], rtol=1e-6)


gradient = jax.jit(jax.value_and_grad(engine.log_partition, allow_int=True))  # the length is an integer


@pytest.mark.parametrize("kind", ["homogeneous", "time-varying"])
def test_gradients_are_marginals(kind):
    rng = np.random.default_rng(7)
    with jax.enable_x64(True):
        for _ in range(4):
            chain, arrays = padded(rng, kind, zeros=0.3)
            value, slopes = jax.tree.map(np.asarray, gradient(chain))
            truth = oracles.enumerate_chain(*arrays)
            length, counts = len(truth.marginals), truth.pair_marginals
            if kind == "homogeneous":
                counts = counts.sum(0)
            assert float(value) == pytest.approx(truth.log_partition, abs=1e-12)
            np.testing.assert_allclose(slopes.initial, truth.marginals[0], atol=1e-12)
            np.testing.assert_allclose(slopes.node[:length], truth.marginals, atol=1e-12)
            np.testing.assert_allclose(slopes.pair[: len(counts)], counts, atol=1e-12)
            np.testing.assert_array_equal(slopes.node[length:], 0)
            np.testing.assert_array_equal(slopes.pair[len(counts) :], 0)


@pytest.mark.parametrize("kind", ["homogeneous", "time-varying"])
def test_gradients_against_finite_differences(kind):
    """Central differences in float64, at every entry: error about step² = 1e-8."""
    step, time_varying = 1e-4, KINDS[kind][2]
    arrays = oracles.random_chain(np.random.default_rng(8), time=6, states=3, time_varying=time_varying)
    with jax.enable_x64(True):
        slopes = jax.tree.map(np.asarray, gradient(cr.Chain(*arrays, 5))[1])
    cut = [arrays[0], arrays[1][:4] if time_varying else arrays[1], arrays[2][:5]]
    for which, analytic in enumerate((slopes.initial, slopes.pair, slopes.node)):
        for place in np.ndindex(cut[which].shape):
            ends = []
            for sign in (1, -1):
                moved = [a.copy() for a in cut]
                moved[which][place] += sign * step
                ends.append(oracles.forward_backward(*moved).log_partition)
            assert float(analytic[place]) == pytest.approx((ends[0] - ends[1]) / (2 * step), abs=1e-7)


def test_gradients_scale_and_pass_through_functions_of_the_potentials():
    """d/ds of log Z(s · potentials) is the expected score."""
    arrays = oracles.random_chain(np.random.default_rng(9), time=6, states=3)
    truth = oracles.forward_backward(*arrays)
    expected_score = truth.log_partition - truth.entropy

    @jax.grad
    def slope(scale):
        return 3.0 * engine.log_partition(cr.Chain(*(scale * jnp.asarray(a, jnp.float32) for a in arrays)))

    assert float(jax.jit(slope)(1.0)) == pytest.approx(3 * expected_score, rel=1e-5)


def test_filter_has_gradients():
    """Its log-partition has the marginals as gradient, like any other."""
    arrays = oracles.random_chain(np.random.default_rng(13), time=6, states=3, zeros=0.3)
    slopes = jax.jit(jax.grad(lambda chain: engine.filter(chain).log_partition))(cr.Chain(*arrays))
    np.testing.assert_allclose(slopes.node, oracles.forward_backward(*arrays).marginals, atol=3e-6)


def test_entropy_has_gradients():
    """Central differences of the oracle in float64."""
    initial, pair, node = oracles.random_chain(np.random.default_rng(14), time=6, states=3)
    with jax.enable_x64(True):
        slopes = jax.jit(jax.grad(engine.entropy))(cr.Chain(initial, pair, node))
    for place in np.ndindex(node.shape):
        step = np.zeros_like(node)
        step[place] = 1e-4
        ends = [oracles.forward_backward(initial, pair, node + sign * step).entropy for sign in (1, -1)]
        assert np.asarray(slopes.node)[place] == pytest.approx((ends[0] - ends[1]) / 2e-4, abs=1e-7)


def test_second_derivatives_are_covariances():
    """The Hessian of log Z by the node potentials: derivatives of the marginals, by central differences."""
    initial, pair, node = oracles.random_chain(np.random.default_rng(15), time=4, states=2)
    with jax.enable_x64(True):
        found = jax.jit(jax.hessian(lambda node: engine.log_partition(cr.Chain(initial, pair, node))))(node)
    for place in np.ndindex(node.shape):
        step = np.zeros_like(node)
        step[place] = 1e-4
        ends = [oracles.forward_backward(initial, pair, node + sign * step).marginals for sign in (1, -1)]
        np.testing.assert_allclose(np.asarray(found)[place], (ends[0] - ends[1]) / 2e-4, atol=1e-7)


@pytest.mark.parametrize("shift", [-200.0, 100.0])
def test_prediction_does_not_depend_on_the_size_of_the_potentials(shift):
    initial, pair, node = oracles.random_chain(np.random.default_rng(16), time=6, states=3)
    plain = answers(cr.Chain(initial, pair, node))["filter"]
    shifted = answers(cr.Chain(initial + shift, pair + shift, node))["filter"]
    np.testing.assert_allclose(shifted.predicted, plain.predicted, atol=1e-4)


def test_prediction_past_the_length_is_zero_whatever_stands_there():
    initial, pair, node = oracles.random_chain(np.random.default_rng(17), time=6, states=3, time_varying=True)
    pair[3:] = 1e3
    with jax.enable_x64(True):
        predicted = np.asarray(together(cr.Chain(initial, pair, node, 4))["filter"].predicted)
    np.testing.assert_array_equal(predicted[4:], 0)
    np.testing.assert_allclose(predicted[:4].sum(1), 1)


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_a_length_of_any_integer_type(dtype):
    arrays = oracles.random_chain(np.random.default_rng(18), time=6, states=3)
    with jax.enable_x64(True):
        found = together(cr.Chain(*arrays, dtype(4)))
    truth = oracles.forward_backward(*arrays[:2], arrays[2][:4])
    assert float(found["log_partition"]) == pytest.approx(truth.log_partition, abs=1e-12)


@pytest.mark.parametrize(
    "query",
    [
        engine.log_partition,
        engine.marginals,
        engine.filter,
        engine.entropy,
        partial(engine.sample, jax.random.key(0), num_samples=3),
        decoding.viterbi,
        partial(decoding.k_best, k=3),
        jax.grad(engine.log_partition),
    ],
    ids=["log_partition", "marginals", "filter", "entropy", "sample", "viterbi", "k_best", "grad"],
)
def test_asking_twice_compiles_once(query):
    """Called plainly, outside `jax.jit`."""
    first, second = (cr.Chain(*oracles.random_chain(np.random.default_rng(n), time=6, states=3)) for n in (19, 20))
    compiled = []

    def listen(event, _, **__):
        if event.endswith("backend_compile_duration"):
            compiled.append(event)

    query(first)
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        query(second)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert not compiled


DRAWS = 200_000
draw = jax.jit(engine.sample, static_argnums=2)


def within_five_sigma(frequency, probability):
    """A count that is fair is off by more than five standard deviations once in two million; one more for skewness."""
    slack = 5 * np.sqrt(probability * (1 - probability) / DRAWS) + np.where(probability > 0, 5 / DRAWS, 0)
    return np.abs(frequency - probability) <= slack + 1e-6 * probability


@pytest.mark.parametrize(("time_varying", "zeros"), [(False, 0.0), (True, 0.3)])
def test_sampled_paths_have_their_exact_frequencies(time_varying, zeros):
    arrays = oracles.random_chain(np.random.default_rng(11), time=6, states=3, time_varying=time_varying, zeros=zeros)
    truth = oracles.enumerate_chain(arrays[0], arrays[1][:3] if time_varying else arrays[1], arrays[2][:4])
    paths = np.asarray(draw(jax.random.key(0), cr.Chain(*arrays, 4), DRAWS))
    assert paths.shape == (DRAWS, 6)
    paths = paths[:, :4]

    one_hot = np.eye(3)[paths]
    assert within_five_sigma(one_hot.mean(0), truth.marginals).all()
    for t in range(3):
        together = np.einsum("ni,nj->ij", one_hot[:, t], one_hot[:, t + 1]) / DRAWS
        assert within_five_sigma(together, truth.pair_marginals[t]).all()

    exact = {path: np.exp(score - truth.log_partition) for score, path in truth.paths}
    counts = np.bincount(paths @ [27, 9, 3, 1], minlength=81)
    every = list(itertools.product(range(3), repeat=4))  # in the order of the numbers that the paths spell
    assert within_five_sigma(counts / DRAWS, np.array([exact[path] for path in every])).all()


def test_samples_past_the_length_are_minus_one():
    chain, arrays = padded(np.random.default_rng(12), "homogeneous", zeros=0.4)
    length = len(arrays[2])
    assert 1 < length < 6
    paths = np.asarray(draw(jax.random.key(1), chain, 1000))
    assert (paths[:, length:] == -1).all()
    assert all(oracles.score_path(*arrays, path[:length]) > -INF for path in np.unique(paths, axis=0))
    marginals = oracles.enumerate_chain(*arrays).marginals
    frequency = np.eye(3)[paths[:, :length]].mean(0)
    np.testing.assert_allclose(frequency, marginals, atol=5 * np.sqrt(0.25 / 1000))


def test_samples_of_an_impossible_chain_are_minus_one():
    chain = cr.Chain(np.zeros(3), np.full((3, 3), -INF), np.zeros((6, 3)), 6)
    assert (np.asarray(draw(jax.random.key(0), chain, 1000)) == -1).all()


def test_samples_follow_the_key():
    chain = cr.Chain(np.zeros(3), np.zeros((3, 3)), np.zeros((6, 3)), 6)
    first, again, other = (np.asarray(draw(jax.random.key(n), chain, 1000)) for n in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert len(np.unique(first, axis=0)) > 500  # of 729 equally likely paths
