"""Long chains in pieces: exact whether the chain forgets or not, for one row and several, and in gradients and batches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from chainrule.inference import native, pieces, rows

pytestmark = pytest.mark.skipif(
    not native.available(), reason="other devices and versions of jaxlib keep to other ways"
)
STATES, TIME = 4, 64 * 4 + 7  # the last piece lacks steps


@pytest.fixture(autouse=True)
def short_pieces(monkeypatch):
    monkeypatch.setattr(pieces, "SHORTEST", 4)


def log(x):
    with np.errstate(divide="ignore"):
        return np.log(x)


RNG = np.random.default_rng(0)
MIX = RNG.dirichlet(np.ones(STATES), STATES)
TRANSITIONS = {
    "forgets": MIX,
    "hardly forgets": 0.9999 * np.eye(STATES) + 0.0001 * MIX,
    "never forgets": np.kron(np.eye(2), RNG.dirichlet(np.ones(2), 2)),
    "never goes back": np.triu(MIX) / np.triu(MIX).sum(1, keepdims=True),
}


def problem(kind, count=None, *, spread=0.5, dtype=np.float32):
    rng = np.random.default_rng(1)
    time = TIME if count is None else -(-64 // count) * 4 + 1
    shape = (time,) if count is None else (time, count)
    node = spread * rng.normal(size=(time, STATES, *shape[1:]))
    start = rng.random(shape) < 0.01
    start[0] = True
    weight = np.ones(shape)
    weight[start.cumsum(0) == 1] = 0.0  # the first chain of each row does not count
    arrays = (log(rng.dirichlet(np.ones(STATES))), log(TRANSITIONS[kind]), node)
    return *(a.astype(dtype) for a in arrays), start, weight.astype(dtype)


@jax.jit
def in_pieces(*args):
    assert pieces.number(args[1], args[2]) > 1
    smoothed, sure = rows._fast_smooth(True, *args)
    terms, also = rows._fast_terms(True, *args[:-1])
    return smoothed, terms, sure, also


@jax.jit
def step_by_step(*args):
    return rows.Careful.smooth(*args, log=True)


@pytest.mark.parametrize("count", [None, 3, 40])
@pytest.mark.parametrize("kind", TRANSITIONS)
def test_every_chain_is_smoothed_exactly(kind, count):
    smoothed, terms, sure, also = in_pieces(*problem(kind, count))
    assert sure
    assert also == (np.min(TRANSITIONS[kind]) > 0)  # its one-sided certificate does not hold with structural zeros
    with jax.enable_x64(True):
        exact = step_by_step(*problem(kind, count, dtype=np.float64))
        for got, want in zip(smoothed, exact, strict=True):
            np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-6)
        np.testing.assert_allclose(terms, exact.terms, rtol=2e-5, atol=2e-6)


def test_double_precision_is_kept():
    with jax.enable_x64(True):
        args = problem("hardly forgets", dtype=np.float64)
        for got, want in zip(in_pieces(*args)[0], step_by_step(*args), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-11, atol=1e-12)


@jax.jit
def agreements(found, others):
    return jax.vmap(pieces._agree, in_axes=(None, 0))(found, others)


def test_agreement_is_relative_in_every_state_that_counts():
    found = np.array([[0.5, 1e-3], [0.5, 1e-30]], np.float32)
    off = np.ones((4, 2, 2), np.float32)
    off[1, 0, 1] += 1e-6  # rounding
    off[2, 0, 1] += 1e-4
    off[3, 1, 1] = 7  # as improbable as what underflow is raised to: the other certificate watches over it
    assert agreements(found, found * off).tolist() == [True, True, False, True]
    assert not agreements(found, np.full((1, 2, 2), np.nan, np.float32))[0]


def test_what_is_cut_is_joined_again():
    @jax.jit
    def there_and_back(one, several):
        cuts = [pieces.cut(x, 5, -1, one_row=x.ndim == 2) for x in (one, several)]
        return cuts, [pieces.join(c, 5, 13, one_row=one_row) for c, one_row in zip(cuts, (True, False), strict=True)]

    one, several = np.arange(26).reshape(13, 2), np.arange(78).reshape(13, 2, 3)
    (first, second), joined = there_and_back(one, several)
    assert first.shape == (3, 2, 5)
    assert second.shape == (3, 2, 15)
    np.testing.assert_array_equal(first[:, 0, 1], one[3:6, 0])  # the second piece
    assert first[1:, 0, 4].tolist() == [-1, -1]  # what the last one lacks
    np.testing.assert_array_equal(second[:, 1, 5 * 2 + 3], several[9:12, 1, 2])  # the fourth piece of the third row
    for got, want in zip(joined, (one, several), strict=True):
        np.testing.assert_array_equal(got, want)


@jax.jit
def total_and_slopes(initial, pair, node, start, weight):
    def total(initial, pair, node):
        return rows.total(True, initial, pair, node, start, weight)

    return jax.value_and_grad(total, (0, 1, 2))(initial, pair, node)


@jax.jit
def batch(*args):
    return jax.vmap(lambda node: rows.smooth(*args[:2], node, *args[3:], log=True))(jnp.stack([args[2], 2 * args[2]]))


def test_gradients_and_batches_are_those_of_the_whole():
    args = problem("forgets")
    smoothed = step_by_step(*args)
    total, slopes = total_and_slopes(*args)
    np.testing.assert_allclose(total, (smoothed.terms * args[4]).sum(), rtol=1e-5)
    wanted = smoothed.initial_count, smoothed.transition_count, smoothed.marginals * args[4][:, None]
    for got, want in zip(slopes, wanted, strict=True):
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)
    for got, want in zip(batch(*args), smoothed, strict=True):
        np.testing.assert_allclose(got[0], want, rtol=2e-5, atol=2e-5)


def test_an_impossible_step_is_told():
    initial, pair, node, start, weight = problem("forgets")
    node[100] = -np.inf
    total, slopes = total_and_slopes(initial, pair, node, start, np.ones_like(weight))
    assert total == -np.inf
    for slope in slopes:
        assert np.isfinite(slope).all()


def test_what_is_too_short_or_too_large_stays_whole():
    def number(time, states, *count, matrices=()):
        return pieces.number(np.zeros((*matrices, states, states)), np.zeros((time, states, *count)))

    assert number(64 * 4, 4) == 64
    assert number(64 * 4 - 1, 4) == 1
    assert number(22 * 4, 4, 3) == 22
    assert number(64 * 4, 4, 56) == 1  # the lanes are full as they are
    assert number(64 * 4, 13) == 1
    assert number(64 * 4, 16, 2) == 32
    assert number(64 * 4, 4, matrices=(64 * 4,)) == 1
