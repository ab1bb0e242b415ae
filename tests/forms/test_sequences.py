"""Packing keeps every number in its place, uses few shapes, and says what is wrong with the data."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import chainrule as cr
from chainrule.forms.sequences import bucket

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=30)
EVENTS = st.lists(st.integers(1, 3), max_size=2).map(tuple)
FAST = settings(max_examples=60, deadline=None, derandomize=True)


def make(lengths, event=(), dtype=np.float32):
    """Sequences in which no number occurs twice, and none is zero."""
    counter = iter(range(1, 10**6))
    return [
        np.array([next(counter) for _ in range(n * int(np.prod(event)))], dtype).reshape(n, *event) for n in lengths
    ]


@FAST
@given(LENGTHS, EVENTS)
def test_round_trip(lengths, event):
    arrays = make(lengths, event)
    data = cr.Sequences.pack(arrays)
    assert (data.num_sequences, data.num_steps, data.event_shape) == (len(lengths), sum(lengths), event)
    assert data.values.dtype == np.float32
    for found, truth in zip(data.unpack(data.values), arrays, strict=True):
        np.testing.assert_array_equal(found, truth)
    assert np.shares_memory(data.unpack(data.values)[0], data.values)


@FAST
@given(LENGTHS)
def test_flags(lengths):
    """Every step is stored once; a sequence starts where it is said to; each slot of padding starts by itself."""
    data = cr.Sequences.pack(make(lengths))
    assert data.values.shape == data.start.shape == data.mask.shape
    np.testing.assert_array_equal(np.sort(data.values[data.mask]), np.arange(1, sum(lengths) + 1))
    assert not data.values[~data.mask].any()
    assert data.start[~data.mask].all()
    for start, mask in zip(data.unpack(data.start), data.unpack(data.mask), strict=True):
        assert start[0]
        assert not start[1:].any()
        assert mask.all()


@pytest.mark.parametrize("lengths", [[3], [5, 9, 1, 1, 7], np.random.default_rng(0).integers(1, 41, 50).tolist()])
def test_owner(lengths):
    data = cr.Sequences.pack(make(lengths))
    owner = np.asarray(jax.jit(cr.Sequences.owner)(data))
    assert owner.shape == data.mask.shape
    assert owner.min() >= 0
    assert owner.max() < len(data.lengths)
    for n, found in enumerate(data.unpack(owner)):
        assert (found == n).all()


def few_rows(rng):
    """Long sequences, and few of them: totals gathers."""
    return rng.integers(300, 400, 3)


def many_rows(rng):
    """One long sequence and many short ones: totals sums by segment."""
    return np.append(rng.integers(1, 9, 200), 400)


@pytest.mark.parametrize(("draw", "gathers"), [(few_rows, True), (many_rows, False)])
def test_totals(draw, gathers):
    rng = np.random.default_rng(0)
    lengths = draw(rng)
    data = cr.Sequences.pack([rng.normal(size=n) for n in lengths])
    time, rows = data.mask.shape
    assert (len(data.lengths) * time <= 4 * time * rows) == gathers  # both branches are met
    terms = rng.normal(size=(time, rows)).astype(np.float32)
    terms[~data.mask] = np.nan  # padding is never looked at
    truth = [part.astype(np.float64).sum() for part in data.unpack(terms)]
    found = np.asarray(jax.jit(cr.Sequences.totals)(data, terms))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[: len(lengths)], truth, atol=1e-4)
    np.testing.assert_array_equal(found[len(lengths) :], 0)


@pytest.mark.parametrize("draw", [few_rows, many_rows])
def test_totals_let_gradients_through(draw):
    lengths = draw(np.random.default_rng(1))
    data = cr.Sequences.pack([np.ones(n, np.float32) for n in lengths])
    scale = np.arange(1.0, len(data.lengths) + 1, dtype=np.float32)
    found = np.asarray(jax.jit(jax.grad(lambda terms: (data.totals(terms) * scale).sum()))(data.values))
    for n, part in enumerate(data.unpack(found)):
        np.testing.assert_array_equal(part, scale[n])
    np.testing.assert_array_equal(found[~data.mask], 0)


def test_totals_of_a_long_sequence_do_not_drift():
    data = cr.Sequences.pack(np.full(1_000_000, 0.1, np.float32))
    truth = 1e6 * float(np.float32(0.1))
    found = np.asarray(jax.jit(cr.Sequences.totals)(data, data.values))
    assert found[0] == pytest.approx(truth, rel=1e-6)


@pytest.mark.parametrize("event", [(), (2,)])
def test_concatenation_with_lengths(event):
    arrays = make([4, 1, 7], event)
    data = cr.Sequences.pack(np.concatenate(arrays), lengths=[4, 1, 7])
    for found, truth in zip(data.unpack(data.values), arrays, strict=True):
        np.testing.assert_array_equal(found, truth)


def test_ways_to_say_one_sequence():
    one, vectors = np.arange(3.0), np.ones((3, 2))
    same = (one, one.tolist(), (0.0, 1.0, 2.0), [one], jnp.arange(3.0), [np.float64(x) for x in one])
    for given_as in same:
        data = cr.Sequences.pack(given_as)
        assert repr(data) == "Sequences(1 sequences, 3 steps)"
        np.testing.assert_array_equal(data.unpack(data.values)[0], one)
    assert cr.Sequences.pack(vectors).event_shape == (2,)
    assert cr.Sequences.pack(data) is data


def test_kinds_of_numbers():
    assert cr.Sequences.pack([np.arange(2), np.ones(3)]).values.dtype == np.float64
    assert cr.Sequences.pack([np.arange(2, dtype=np.int8)]).values.dtype == np.int8
    assert cr.Sequences.pack([np.array([True, False])]).values.dtype == bool
    missing = cr.Sequences.pack([np.array([1.0, np.nan])])
    assert np.isnan(missing.unpack(missing.values)[0][1])


def test_repr_survives_tracing():
    data, seen = cr.Sequences.pack([np.arange(3.0)]), []
    jax.jit(lambda x: seen.append(repr(x)))(data)
    assert seen == ["Sequences(traced)"]


def test_few_shapes():
    """One sequence of any length up to 200: a few dozen shapes, at most an eighth of each wasted."""
    sizes = {n: cr.Sequences.pack(np.zeros(n)).values.shape[0] for n in range(1, 201)}
    assert all(n <= size <= max(16, n * 9 / 8) for n, size in sizes.items())
    assert len(set(sizes.values())) <= 16 + 4 * 8
    assert sizes == {n: bucket(n) for n in sizes}


def test_ragged_data_of_new_lengths_rarely_has_a_new_shape():
    rng = np.random.default_rng(0)
    draws = [cr.Sequences.pack([np.zeros(n) for n in rng.integers(50, 101, 60)]) for _ in range(20)]
    assert len({(d.values.shape, d.lengths.shape) for d in draws}) <= 4


def test_rows_are_filled():
    lengths = np.random.default_rng(0).integers(10, 501, 500)
    data = cr.Sequences.pack([np.zeros(n) for n in lengths])
    assert data.mask.mean() > 0.8  # padding to the longest would leave it near one half


@pytest.mark.parametrize(
    ("sequences", "lengths", "message"),
    [
        ([], None, "no sequences: the list is empty"),
        ([np.ones(2), np.ones(0)], None, "sequence 1 is empty; leave it out"),
        (np.ones((0, 3)), None, "sequence 0 is empty"),
        ([np.ones((2, 3)), np.ones((2, 4))], None, r"sequence 1 has observations of shape \(4,\), .* shape \(3,\)"),
        ([np.ones(2), np.ones((2, 1))], None, r"sequence 1 has observations of shape \(1,\)"),
        (["A", "C", "G"], None, "holds <U1, not numbers; encode symbols as integers first"),
        ([["A"], ["C", "G"]], None, "sequence 0 holds <U1, not numbers"),
        (np.array([None, 1]), None, "holds object, not numbers"),
        ([1j, 2j], None, "holds complex128, not numbers"),
        (3.0, None, "sequence 0 is a single number"),
        ([np.ones(2), 3.0], None, "sequence 1 is a single number"),
        (np.ones(5), [2, 2], "lengths add up to 4, but the array has 5 steps"),
        (np.ones(5), [5, 0], "sequence 1 is empty"),
        (np.ones(5), [-1, 6], "lengths"),
        (np.ones(5), [2.0, 3.0], "lengths must be a list of integers"),
        (np.ones(5), 5, "lengths must be a list of integers"),
        (np.ones(0), [], "lengths must be a list of integers"),
    ],
)
def test_bad_data_is_named(sequences, lengths, message):
    with pytest.raises(ValueError, match=message):
        cr.Sequences.pack(sequences, lengths=lengths)


def test_padded_rows_with_a_mask_are_the_sequences_inside():
    padded = np.arange(12.0).reshape(3, 4)
    mask = np.array([[True, True, False, False], [False, False, True, True], [False, True, True, False]])
    packed = cr.Sequences.pack(padded, mask=mask)
    assert [x.tolist() for x in packed.unpack(packed.values)] == [[0, 1], [6, 7], [9, 10]]


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.ones((2, 4), bool), "shape"),
        (np.ones((3, 4)), "booleans"),
        (np.array([[True] * 4, [False] * 4, [True] * 4]), "sequence 1 has no real step"),
        (np.array([[True] * 4, [True] * 4, [True, False, True, True]]), "sequence 2 has a hole at step 1"),
    ],
)
def test_masks_that_mean_nothing_are_refused(mask, message):
    with pytest.raises(ValueError, match=message):
        cr.Sequences.pack(np.zeros((3, 4)), mask=mask)


def test_lengths_and_a_mask_together_are_refused():
    with pytest.raises(ValueError, match="not both"):
        cr.Sequences.pack(np.zeros((1, 4)), mask=np.ones((1, 4), bool), lengths=[4])
