"""Networks under a CRF, as users hold them: many sentences, transformations of JAX, precision, numbers that are none."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

import chainrule as cr
from chainrule.models import crf_descent
from chainrule.models.features import networks

LABELS = ["a", "b", "c"]
KEY = jax.random.key(5)
TABLE = np.random.default_rng(5).normal(size=(9, 3)).astype(np.float32)


class Lookup(eqx.Module):
    """The smallest network: one row of potentials for each word."""

    table: jax.Array

    def __call__(self, ids):
        return self.table[ids]


def crf_of(**options):
    return cr.LinearChainCRF(LABELS, [cr.neural_feature(Lookup(jax.device_put(TABLE)))], **options)


def recurrent():
    table = jax.random.normal(KEY, (9, 4))
    net = cr.neural.SequenceTagger(eqx.nn.Embedding(weight=table), 3, hidden_size=3, key=KEY, dropout=0.0)
    return cr.LinearChainCRF(LABELS, [cr.neural_feature(net, np.asarray)])


def data(count, longest=6):
    rng = np.random.default_rng(count)
    x = [rng.integers(0, 9, rng.integers(1, longest + 1)).astype(np.int32) for _ in range(count)]
    return x, [[LABELS[k % 3] for k in one] for one in x]


def enumerated(node):
    return oracles.enumerate_chain(np.zeros(3), np.zeros((3, 3)), node)


@pytest.mark.slow
def test_some_rows_at_a_time_say_the_same(monkeypatch):
    """More rows than are looked at together, the last of them filled up; in queries and in the loss of a fit."""
    crf, (x, y) = recurrent(), data(29)
    whole = crf.log_partition(x)
    alone = [np.asarray(crf.features[0].module(jnp.asarray(one), inference=True), float) for one in x]
    np.testing.assert_allclose(whole, [enumerated(node).log_partition for node in alone], rtol=1e-5, atol=1e-5)
    monkeypatch.setattr(networks, "_ROWS", 5)
    np.testing.assert_allclose(crf.log_partition(x), whole, rtol=1e-6)
    monkeypatch.setattr(crf_descent, "_ROWS", 5)
    fit = crf.fit(x, y, method=cr.MiniBatch(epochs=1), key=KEY, sample_weight=np.arange(29.0))
    expected = np.arange(29) @ fit.model.log_prob(x, y)
    assert fit.log_prob == pytest.approx(expected, rel=1e-5)


def test_the_model_is_a_function_of_its_network():
    """Its gradient by one weight is a difference quotient, and several networks are looked at by one vmap."""
    crf, (x, y) = crf_of(), data(3)
    (place,) = (lambda model: model.features[0].module.table,)
    first = np.array([1, 0, 0], np.float32)
    moved = [eqx.tree_at(place, crf, jax.device_put(TABLE + np.float32(step) * first)) for step in (-1e-2, 0, 1e-2)]
    slope = eqx.filter_jit(eqx.filter_grad(lambda model: model.log_prob(x, y).sum()))(crf)
    low, _, high = (model.log_prob(x, y).sum() for model in moved)
    assert np.asarray(place(slope))[:, 0].sum() == pytest.approx((high - low) / 2e-2, abs=2e-3)

    arrays, static = zip(*(eqx.partition(model, eqx.is_array) for model in moved), strict=True)
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *arrays)
    together = jax.jit(jax.vmap(lambda some: eqx.combine(some, static[0]).log_partition(x)))(stacked)
    np.testing.assert_allclose(together, [model.log_partition(x) for model in moved], rtol=1e-5)


def test_double_precision_all_the_way():
    with jax.enable_x64(True):
        table = jax.device_put(TABLE.astype(float))
        crf, (x, _) = cr.LinearChainCRF(LABELS, [cr.neural_feature(Lookup(table))]), data(4)
        for one, log_partition in zip(x, crf.log_partition(x), strict=True):
            assert log_partition == pytest.approx(enumerated(np.asarray(table)[one]).log_partition, rel=1e-13)
        assert crf.posterior(x).marginals[0].dtype == np.float64


def test_numbers_that_are_none_are_named():
    crf, (x, y) = crf_of(), data(4)
    for none in (np.float32(np.nan), np.float32(np.inf)):
        broken = eqx.tree_at(lambda model: model.features[0].module.table, crf, jax.device_put(0 * TABLE + none))
        for ask in (broken.predict, broken.viterbi):  # the others look at the same numbers
            with pytest.raises(ValueError, match="sentence 0 has scores that are not numbers"):
                ask(x)
    fit = broken.fit(x, y, method=cr.MiniBatch(epochs=1), key=KEY)
    assert fit.status is cr.Status.DIVERGED
