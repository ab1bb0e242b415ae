"""The character CNN against loops over windows, and the tagger as a whole."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from drawn import drawn

from chainrule import neural

KEY = jax.random.key(0)
run = eqx.filter_jit(lambda net, *args, **options: net(*args, **options))


def spelling(widths=(2, 3), **options):
    return drawn(lambda: neural.CharacterCNN(10, 4, 5, widths=widths, key=KEY, **options))


@pytest.mark.parametrize("width", [1, 2, 3])
def test_features_are_the_best_windows(width):
    net = spelling((width,), activation=jnp.tanh)
    word = [3, 7, 7, 1, 9]
    table, filters = np.asarray(net.embedding.weight), np.asarray(net.convolutions[0].weight)
    left = (width - 1) // 2
    padded = np.concatenate([np.zeros((left, 4)), table[word], np.zeros((width // 2, 4))])
    windows = [np.einsum("oij,ji->o", filters, padded[i : i + width]) for i in range(len(word))]
    expected = np.tanh(np.max(windows, axis=0) + np.asarray(net.convolutions[0].bias)[:, 0])
    np.testing.assert_allclose(np.asarray(run(net, np.array([word])))[0], expected, atol=1e-6)


def test_padding_makes_no_difference():
    net = spelling((2, 3, 4))
    words = np.array([[3, 7, 1], [2, 5, 0]])
    found = np.asarray(run(net, words))
    for left, right in ((0, 6), (3, 2)):
        padded = np.pad(words, ((0, 0), (left, right)))
        np.testing.assert_allclose(run(net, padded), found, atol=1e-6)
    assert found.shape == (2, net.output_size) == (2, 15)
    # nor does what the padding is embedded as
    table = np.array(net.embedding.weight)
    table[0] = np.nan
    other = eqx.tree_at(lambda net: net.embedding.weight, net, table)
    np.testing.assert_array_equal(run(other, words), found)


def test_a_word_of_padding_is_zero_and_has_no_gradient():
    net = spelling(activation=jnp.exp)  # one at zero, and so not zero by itself
    words = np.array([[0, 0, 0], [4, 2, 0]])

    @eqx.filter_jit
    def ask(net, words):
        slopes = [eqx.filter_grad(lambda net, w: net(w).sum())(net, w) for w in (words[:1], words)]
        return net(words), *slopes

    features, of_padding, of_both = ask(net, words)
    assert (np.asarray(features)[0] == 0).all()
    assert all((np.asarray(leaf) == 0).all() for leaf in jax.tree.leaves(of_padding))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(of_both))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: spelling(()), "no widths"),
        (lambda: spelling((0,)), "a width is 0"),
        (lambda: neural.CharacterCNN(0, 4, 5, key=KEY), "num_characters is 0"),
        (lambda: spelling()(np.array([1, 2])), r"shape \(2,\); wanted integers \(time, character\)"),
        (lambda: spelling()(np.ones((1, 2), np.float32)), "float32"),
        (lambda: tagger()(np.array([1]), np.array([[1]])), "reads words only"),
        (lambda: tagger(characters=spelling())(np.array([1])), "reads characters"),
        (lambda: neural.SequenceTagger(eqx.nn.Embedding(9, 3, key=KEY), 0, key=KEY), "num_labels is 0"),
    ],
)
def test_what_does_not_fit_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def tagger(**options):
    return drawn(lambda: neural.SequenceTagger(eqx.nn.Embedding(9, 6, key=KEY), 3, hidden_size=4, key=KEY, **options))


def test_a_ragged_batch_of_sentences_equals_the_sentences():
    net = eqx.nn.inference_mode(tagger(characters=spelling(), layers=2))
    words = np.array([[1, 2, 3, 4], [5, 6, 0, 0]])
    characters = np.random.default_rng(0).integers(0, 10, (2, 4, 5))
    mask = words > 0
    together = eqx.filter_jit(jax.vmap(lambda words, characters, mask: net(words, characters, mask=mask)))
    batch = np.asarray(together(words, characters, mask))
    for n, length in enumerate([4, 2]):
        np.testing.assert_allclose(batch[n, :length], run(net, words[n, :length], characters[n, :length]), atol=1e-6)
    assert (batch[~mask] == 0).all()
    padded_before = run(net, np.roll(words[1], 2), np.roll(characters[1], 2, 0), mask=np.roll(mask[1], 2))
    np.testing.assert_allclose(np.asarray(padded_before)[2:], batch[1, :2], atol=1e-6)
    row = run(net, words.reshape(8), characters.reshape(8, 5), start=np.arange(8) % 4 == 0, mask=mask.reshape(8))
    np.testing.assert_allclose(row, batch.reshape(8, 3), atol=1e-6)


def test_dropout_needs_a_key_and_changes_the_potentials():
    net, words = tagger(), np.array([1, 2, 3])
    with pytest.raises(RuntimeError, match="Dropout requires a key"):
        run(net, words)
    assert not np.allclose(run(net, words, key=KEY), run(net, words, inference=True))


@pytest.mark.lenient
def test_a_tagger_learns_what_needs_both_sides():
    """The label of a word is whether the words before it and after it are equal."""
    words = np.random.default_rng(0).integers(1, 4, (64, 8))
    labels = np.pad((words[:, 2:] == words[:, :-2]).astype(np.int32), ((0, 0), (1, 1)), constant_values=2)
    net = neural.SequenceTagger(eqx.nn.Embedding(4, 8, key=KEY), 3, hidden_size=16, dropout=0.0, key=KEY)
    optimiser = optax.adam(2e-2)

    def loss(net):
        potentials = jax.vmap(net)(words)
        return optax.softmax_cross_entropy_with_integer_labels(potentials, labels).mean()

    @eqx.filter_jit
    def train(net):
        arrays, static = eqx.partition(net, eqx.is_inexact_array)

        def step(carry, _):
            arrays, state = carry
            gradient = jax.grad(lambda arrays: loss(eqx.combine(arrays, static)))(arrays)
            updates, state = optimiser.update(gradient, state)
            return (optax.apply_updates(arrays, updates), state), None

        arrays, _ = jax.lax.scan(step, (arrays, optimiser.init(arrays)), None, length=150)[0]
        return jax.vmap(eqx.combine(arrays, static))(words)

    found = np.asarray(train(net)).argmax(2)
    assert (found == labels).mean() > 0.95
