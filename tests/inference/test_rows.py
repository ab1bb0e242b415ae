"""Many chains in rows are those chains one by one, in every layout; and the fallback stays a choice under `vmap`."""

import itertools
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

import chainrule as cr
from chainrule.inference import chain as engine
from chainrule.inference import rows

INF = np.inf


@dataclass(frozen=True)
class Layout:
    """Which of the equal ways through the engine is taken."""

    states: int
    lanes: int | None  # None: one row, without its axis
    varying: bool
    dtype: str
    log: bool
    own: bool = False  # transitions of its own for each row
    total: bool = (
        False  # whether to ask for the weighted sum too, which differs from the terms in its rule of gradients
    )


LAYOUTS = {
    "many lanes": Layout(3, 5, False, "float32", False, total=True),
    "one row, both directions together": Layout(3, None, False, "float32", False),
    "one row, apart": Layout(16, None, False, "float32", True, total=True),
    "lanes, time-varying, double": Layout(3, 4, True, "float64", True),
    "lanes, each with its own": Layout(3, 4, True, "float32", True, own=True),
}
TIME = 9


@dataclass(frozen=True)
class Piece:
    """One chain: where it lies, how much it counts, and the truth about it."""

    lane: tuple
    begin: int
    end: int
    weight: float
    truth: oracles.ChainAnswer
    log_constants: np.ndarray


@partial(jax.jit, static_argnums=(0, 3))
def everything(log, args, weight, total):
    """All that the engine offers, and its gradient, in two ways if the total is asked for."""
    summed = jax.value_and_grad(rows.total, argnums=(1, 2, 3))(log, *args, weight) if total else ()
    terms, pull = jax.vjp(partial(rows.terms, log), *args)
    smooth, log_filter = rows.smooth(*args, weight, log=log), rows.log_filter(*args, log=log)
    return smooth, log_filter, terms, pull(weight)[:3], *summed


def make(layout, rng, zeros, spoil=None):
    """Rows cut into chains at random places, some of them padding. `spoil` makes one chain impossible or extreme."""
    extra = () if layout.lanes is None else (layout.lanes,)
    chain = oracles.random_chain(rng, time=TIME, states=layout.states, time_varying=layout.varying, zeros=zeros)
    initial, pair = (np.where(x > -INF, x, np.where(rng.random(x.shape) < 0.5, x, -1.0)) for x in chain[:2])
    node = rng.normal(size=(TIME, layout.states, *extra)) * 2
    start = rng.random((TIME, *extra)) < 0.3
    start[0] = True
    if spoil is not None:
        spoil(node, start)
    into = np.concatenate([np.zeros((1, layout.states, layout.states)), pair]) if layout.varying else pair
    if layout.own:
        into = into[..., None] + rng.normal(size=(*into.shape, layout.lanes))

    pieces, weight = [], np.zeros((TIME, *extra))
    for lane in np.ndindex(extra):
        edges = [*np.flatnonzero(start[(slice(None), *lane)]), TIME]
        for begin, end in itertools.pairwise(edges):
            factor = rng.choice([0.0, 1.0, 2.5], p=[0.2, 0.4, 0.4])
            weight[(slice(begin, end), *lane)] = factor
            own = node[(slice(begin, end), slice(None), *lane)]
            step = pair if pair.ndim == 2 else into[(slice(begin + 1, end), ..., *(lane if layout.own else ()))]
            prefix = [
                oracles.forward_backward(initial, step if step.ndim == 2 else step[:t], own[: t + 1]).log_partition
                for t in range(end - begin)
            ]
            truth = oracles.forward_backward(initial, step, own)
            constants = np.append(prefix[0], np.diff(prefix)) if np.isfinite(prefix).all() else np.full(len(own), -INF)
            pieces.append(Piece(lane, begin, end, factor, truth, constants))
    given = (initial, into) if layout.log else (np.exp(initial), np.exp(into))
    args = tuple(np.asarray(x, layout.dtype) for x in (*given, node))
    return (*args, start), np.asarray(weight, layout.dtype), pieces


def expected_counts(layout, pieces):
    starts = np.zeros(layout.states)
    steps = np.zeros((TIME, layout.states, layout.states, *((layout.lanes,) if layout.own else ())))
    for piece in pieces:
        starts += piece.weight * piece.truth.marginals[0]
        lane = piece.lane if layout.own else ()
        steps[(slice(piece.begin + 1, piece.end), ..., *lane)] += piece.weight * piece.truth.pair_marginals
    return starts, steps if layout.varying else steps.sum(0)


def check(layout, args, weight, pieces, tolerance):
    initial, transition, _, _ = args
    found = jax.tree.map(np.asarray, everything(layout.log, args, weight, layout.total))
    assert {x.dtype.name for x in jax.tree.leaves(found)} == {layout.dtype}
    smooth, (log_filtered, filter_terms), terms, pulled, *summed = found

    for p in pieces:
        place, box = (slice(p.begin, p.end), *p.lane), (slice(p.begin, p.end), slice(None), *p.lane)
        np.testing.assert_allclose(smooth.marginals[box], p.truth.marginals, atol=tolerance)
        if p.truth.log_partition == -INF:
            assert {found[place].sum() for found in (smooth.terms, terms, filter_terms)} == {-INF}
            continue
        for found in smooth.terms, terms, filter_terms:
            np.testing.assert_allclose(found[place], p.log_constants, atol=tolerance, rtol=tolerance)
        np.testing.assert_allclose(np.exp(log_filtered[box][-1]), p.truth.marginals[-1], atol=tolerance)

    starts, steps = expected_counts(layout, pieces)
    np.testing.assert_allclose(smooth.initial_count, starts, atol=10 * tolerance)
    np.testing.assert_allclose(smooth.transition_count, steps, atol=10 * tolerance)
    # a derivative by a log-potential is the count; by a probability, the count over it
    by_initial, by_transition = (1, 1) if layout.log else (initial, transition)
    by_node = smooth.marginals * np.expand_dims(weight, 1)
    for found in (smooth.initial, smooth.transition, by_node), pulled, *summed[1:]:
        np.testing.assert_allclose(found[0] * by_initial, starts, atol=10 * tolerance)
        np.testing.assert_allclose(found[1] * by_transition, steps, atol=10 * tolerance)
        np.testing.assert_allclose(found[2], by_node, atol=10 * tolerance)
    wanted = sum(p.weight * p.truth.log_partition for p in pieces if p.weight)
    if layout.total:
        np.testing.assert_allclose(summed[0], wanted, rtol=tolerance, atol=10 * tolerance)


def precision(layout):
    return 1e-12 if layout.dtype == "float64" else 3e-6


@pytest.mark.parametrize("name", LAYOUTS)
def test_rows_are_chains_one_by_one(name):
    """Without structural zeros, with them, and with one impossible chain that sends the whole batch to log space."""
    layout, rng = LAYOUTS[name], np.random.default_rng(len(name))

    def forbid_a_step(node, start):
        node[(TIME // 2, slice(None), *[0] * (node.ndim - 2))] = -INF

    with jax.enable_x64(layout.dtype == "float64"):
        for zeros, spoil in ((0.0, None), (0.3, None), (0.0, forbid_a_step), (0.3, forbid_a_step)):
            args, weight, pieces = make(layout, rng, zeros, spoil)
            impossible = [p for p in pieces if p.truth.log_partition == -INF]
            assert zeros or len(impossible) == (spoil is not None)
            check(layout, args, weight, pieces, precision(layout))


def test_padding_does_not_count():
    """What stands on padding of weight zero changes nothing."""
    layout, rng = LAYOUTS["many lanes"], np.random.default_rng(0)
    (initial, transition, node, start), _, _ = make(layout, rng, 0.0)
    start[6:], weight = True, np.ones_like(start, np.float32)
    weight[6:] = 0
    found = everything(False, (initial, transition, node, start), weight, True)
    node[6:] = 0
    again = everything(False, (initial, transition, node, start), weight, True)
    np.testing.assert_array_equal(found[0].transition_count, again[0].transition_count)
    np.testing.assert_array_equal(found[4], again[4])
    for slopes in found[5], again[5]:
        np.testing.assert_array_equal(np.asarray(slopes[2])[6:], 0)


def test_weighted_sum_of_many_terms_keeps_its_digits():
    terms = np.full(1_000_000, 0.1, np.float32)
    add_up = jax.jit(rows.add_up)
    found = add_up(np.full_like(terms, 2), terms)
    assert float(found) == pytest.approx(2e6 * float(terms[0]), rel=1e-6)
    terms[::2] = -INF  # impossible, but of no weight
    weight = np.tile(np.float32([0, 1]), 500_000)
    assert float(add_up(weight, terms)) == pytest.approx(5e5 * float(np.float32(0.1)), rel=1e-6)


# Transformations

nested_gradient = jax.jit(jax.vmap(jax.vmap(jax.value_and_grad(engine.log_partition))))


def batch_of_chains(number, seed=0, zeros=0.2):
    rng = np.random.default_rng(seed)
    batch = [oracles.random_chain(rng, time=5, states=3, zeros=zeros) for _ in range(number)]
    return batch, jax.tree.map(lambda *x: np.stack(x), *(cr.Chain(*arrays) for arrays in batch))


def value_and_gradient(chains):
    """Of six chains, as two batches of three."""
    nested = jax.tree.map(lambda x: x.reshape(2, 3, *x.shape[1:]), chains)
    return jax.tree.map(lambda x: np.asarray(x).reshape(6, *x.shape[2:]), nested_gradient(nested))


def test_vmap_grad_and_their_mixtures():
    batch, chains = batch_of_chains(6)
    truth = [oracles.forward_backward(*arrays) for arrays in batch]
    log_partitions = np.array([t.log_partition for t in truth])

    value, slopes = value_and_gradient(chains)
    summed = jax.jit(jax.grad(lambda c: jax.vmap(engine.log_partition)(c).sum()))(chains)

    np.testing.assert_allclose(value, log_partitions, atol=3e-6)
    for found in slopes, summed:
        np.testing.assert_allclose(found.initial, [t.marginals[0] for t in truth], atol=3e-6)
        np.testing.assert_allclose(found.node, [t.marginals for t in truth], atol=3e-6)
        np.testing.assert_allclose(found.pair, [t.pair_marginals.sum(0) for t in truth], atol=6e-6)


def test_vmap_over_the_parameters_only():
    """One series under many transition matrices; and under the draws of a posterior, in two axes."""
    batch, chains = batch_of_chains(6, zeros=0.0)
    initial, _, node = (np.asarray(x, np.float32) for x in batch[0])

    def query(pair):
        chain = cr.Chain(initial, pair, node)
        return engine.marginals(chain), engine.filter(chain).filtered, jax.grad(engine.log_partition)(chain).pair

    truth = [oracles.forward_backward(batch[0][0], pair, batch[0][2]) for _, pair, _ in batch]
    found, filtered, slopes = jax.jit(jax.vmap(query))(chains.pair)
    np.testing.assert_allclose(found.log_partition, [t.log_partition for t in truth], atol=3e-6)
    np.testing.assert_allclose(found.unary, [t.marginals for t in truth], atol=3e-6)
    np.testing.assert_allclose(np.asarray(filtered)[:, -1], [t.marginals[-1] for t in truth], atol=3e-6)
    for counts in found.pair_counts, slopes:
        np.testing.assert_allclose(counts, [t.pair_marginals.sum(0) for t in truth], atol=6e-6)


def test_one_impossible_chain_in_a_batch_harms_no_other():
    batch, chains = batch_of_chains(6)
    batch[2][2][3] = -INF
    chains.node[2, 3] = -INF
    truth = [oracles.forward_backward(*arrays) for arrays in batch]
    value, slopes = value_and_gradient(chains)
    np.testing.assert_allclose(value, [t.log_partition for t in truth], atol=3e-6)
    np.testing.assert_allclose(slopes.node, [t.marginals for t in truth], atol=3e-6)
    np.testing.assert_allclose(slopes.pair, [t.pair_marginals.sum(0) for t in truth], atol=6e-6)
    assert np.asarray(value)[2] == -INF


QUERIES = [
    engine.log_partition,
    engine.marginals,
    engine.filter,
    engine.entropy,
    jax.grad(engine.log_partition),
    partial(engine.sample, jax.random.key(0)),
]


@pytest.mark.parametrize("query", QUERIES, ids=["log_partition", "marginals", "filter", "entropy", "grad", "sample"])
def test_the_fallback_stays_a_choice_under_vmap(query):
    """A batched condition would become a select and run the slow engine on every call."""

    def branches_and_loops(f, chain):
        text = jax.jit(f).lower(chain).as_text()
        return text.count("stablehlo.case"), text.count("stablehlo.while")

    _, chains = batch_of_chains(6)
    one = branches_and_loops(query, jax.tree.map(lambda x: x[0], chains))
    assert one[0] >= 1
    nested = jax.tree.map(lambda x: x.reshape(2, 3, *x.shape[1:]), chains)
    assert branches_and_loops(jax.vmap(jax.vmap(query)), nested) == one


def test_new_values_trace_nothing():
    traces = []

    @jax.jit
    def query(chain):
        traces.append(chain)
        return engine.log_partition(chain)

    batch, _ = batch_of_chains(3)
    for initial, pair, node in batch:
        query(cr.Chain(initial, pair, node, 4))
    query(cr.Chain(*(x.tolist() for x in batch[0]), 2))
    query(cr.Chain(*(jax.device_put(x) for x in batch[1]), 5))
    assert len(traces) == query._cache_size() == 1


def test_new_lengths_of_ragged_data_trace_nothing():
    """Packed sequences of other lengths in the same bucket are the same program."""
    rng = np.random.default_rng(0)
    for _ in range(3):
        data = cr.Sequences.pack([rng.normal(size=n) for n in (*rng.integers(97, 105, 4), 104)])
        scores = np.stack([np.asarray(data.values), -np.asarray(data.values)], 1).astype(np.float32)
        total = ragged(data, scores)
        assert total.shape == (len(data.lengths),)
        pieces = [oracles.forward_backward(np.zeros(2), np.zeros((2, 2)), x) for x in data.unpack(scores)]
        np.testing.assert_allclose(total, [p.log_partition for p in pieces], rtol=1e-6)
    assert ragged._cache_size() == 1


@jax.jit
def ragged(data, scores):
    return data.totals(rows.terms(True, jnp.zeros(2), jnp.zeros((2, 2)), scores, data.start))
