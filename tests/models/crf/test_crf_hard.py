"""CRFs where it is hard: potentials of ±1000, gradients by the weights, tokens of all kinds."""

from itertools import pairwise

import equinox as eqx
import jax
import jax.numpy as jnp
import networkx as nx
import numpy as np
import oracles
import pytest
from crf_cases import LABELS, TAGS, WORDS, case, close, learned

import chainrule as cr
from chainrule.models.crf_data import read_sentences

# Hard potentials in float32


def hard(transition, weights, graph=None):
    """Scores w_{y, x} for tokens that are the numbers 0 … 3, from one function with 12 values."""

    def onehot(x, y, i):
        return (jnp.arange(12) == 4 * y + x[i]).astype(jnp.float32)

    crf = cr.LinearChainCRF(LABELS, [cr.feature_function(onehot)], transitions=graph)
    model = learned(crf, [np.array([0, 1, 2, 3])], [["D", "N", "V", "D"]])
    where = lambda m: (m.transition, m.first, m.last, m.features[0].weights)  # noqa: E731
    new = (transition, np.zeros(3), np.zeros(3), weights)
    return eqx.tree_at(where, model, tuple(jnp.asarray(w, jnp.float32) for w in new))


@pytest.fixture(scope="module")
def hard_models():
    rng = np.random.default_rng(5)
    every = hard(rng.choice([-1000.0, 1000.0, 3.0], (3, 3)), rng.choice([-1000.0, 1000.0, 0.0, 1.0], 12))
    ring = hard(np.full((3, 3), 1000.0), np.full(12, -1000.0), nx.DiGraph([("D", "N"), ("N", "V"), ("V", "D")]))
    return {"a thousand": every, "a ring": ring}


@pytest.mark.parametrize("known", [None, "the first"])
@pytest.mark.parametrize("name", ["a thousand", "a ring"])
def test_hard_potentials_are_as_exact_as_in_float64(hard_models, name, known):
    model, rng = hard_models[name], np.random.default_rng(6)
    x = [rng.integers(4, size=size) for size in (12, 5, 12, 1)]
    tags = None if known is None else [["V"] + [None] * (len(s) - 1) for s in x]
    posterior, path = model.posterior(x, known=tags), model.viterbi(x, known=tags)
    log_partition, pairs = model.log_partition(x, known=tags), model.pair_posterior(x, known=tags)
    transition, weights = np.asarray(model.transition, float), np.asarray(model.features[0].weights, float)
    transition = np.where(model.structure.pair, transition, -np.inf)
    for n, sentence in enumerate(x):
        node = weights.reshape(3, 4)[:, sentence].T.copy()
        if tags is not None:
            node[0, :2] = -np.inf
        truth = oracles.forward_backward(np.zeros(3), transition, node)
        close(log_partition[n], truth.log_partition, atol=1e-3)
        close(posterior.marginals[n], truth.marginals, atol=2e-5)
        close(pairs[n], truth.pair_marginals, atol=2e-5)
        best, _ = oracles.viterbi(np.zeros(3), transition, node)
        assert oracles.score_path(np.zeros(3), transition, node, path.states[n]) == best


# Programs and gradients


@pytest.mark.parametrize("name", ["templates"])
def test_gradient_is_what_is_there_less_what_is_expected(name):
    c = case(name)
    x, y = c.sentences(WORDS[:2]), TAGS[:2]
    moving, fixed = eqx.partition(c.model, lambda leaf: np.asarray(leaf).dtype.kind == "f")

    @jax.jit
    @jax.value_and_grad
    def total(moving):
        return eqx.combine(moving, fixed).log_prob(x, y).sum()

    value, slopes = total(moving)
    close(value, np.sum(c.model.log_prob(x, y)))
    expected, counts = np.zeros((3, 3)), np.zeros((3, 3))
    for words, tags in zip(WORDS[:2], y, strict=True):
        expected += c.truth(words).pair_marginals.sum(0)
        for a, b in pairwise(tags):
            counts[LABELS.index(a), LABELS.index(b)] += 1
    close(slopes.transition, counts - expected)
    node = c.model.features[0].node  # a word's weight: how often it has the label, less how often that is expected
    place = np.flatnonzero((node.attribute == c.model.features[0].index.node.find("U0:dog")) & (node.outcome == 1))[0]
    dogs = [
        (c.truth(w).marginals, g, t) for w, g in zip(WORDS[:2], y, strict=True) for t in range(len(w)) if w[t] == "dog"
    ]
    wanted = sum((tags[t] == "N") - marginals[t, 1] for marginals, tags, t in dogs)
    close(slopes.features[0].node.values[place], wanted)
    first = sum(np.eye(3)[LABELS.index(t[0])] - c.truth(w).marginals[0] for w, t in zip(WORDS[:2], y, strict=True))
    close(slopes.first, first)
    direction = jax.tree.map(lambda w: np.random.default_rng(1).normal(size=w.shape).astype(np.float32), moving)
    along = lambda s: float(total(jax.tree.map(lambda w, d: np.float32(w + s * d), moving, direction))[0])  # noqa: E731
    slope = sum(jax.tree.leaves(jax.tree.map(lambda a, b: float((np.asarray(a) * b).sum()), slopes, direction)))
    assert slope == pytest.approx((along(3e-3) - along(-3e-3)) / 6e-3, abs=5e-3, rel=5e-3)


def test_what_was_not_in_training_says_nothing():
    model = case("templates").model
    strange, other = ([[word] * 4, [word] * 3] for word in ("zebra", "gnu"))
    np.testing.assert_array_equal(model.log_partition(strange), model.log_partition(other))
    for one, two in zip(model.posterior(strange).marginals, model.posterior(other).marginals, strict=True):
        np.testing.assert_array_equal(one, two)


TOKENS = {
    "strings": ["a", "b"],
    "dicts": [{"w": "a"}, {"w": "b"}],
    "lists of names": [["a"], ["b", "c"]],
    "lists of names, one empty": [[], ["b", "c"]],
    "sets": [{"a"}, {"b", "c"}],
    "columns": [("a", "x"), ("b", "y")],
    "columns of integers": [(1, "x"), (2, "y")],
    "integers": [1, 2],
    "vectors": [[0.5], [2.0]],
    "matrices": [[[0.5]], [[2.0]]],
    "arrays": [np.array([0.5]), np.array([2.0])],
    "an array": np.array([0.5, 2.0]),
    "an array of vectors": np.array([[0.5, 1.0], [2.0, 1.0]]),
}


@pytest.mark.parametrize("kind", TOKENS)
def test_one_sentence_is_told_from_a_list_of_one(kind):
    sentence = TOKENS[kind]
    _, single, token = read_sentences([sentence, sentence], None)
    assert not single
    for x, alone in ((sentence, True), ([sentence], False), ([sentence] * 3, False), ((sentence, sentence), False)):
        found, single, _ = read_sentences(x, token)
        assert single is alone
        assert len(found) == (1 if single else len(x))
        assert all(s is sentence for s in found)


def test_answers_come_in_the_form_of_the_question_and_labels_are_anything():
    sentence, labels = [[0.5], [2.0]], [None, ("a", "b")]
    crf = cr.LinearChainCRF([1, *labels], [cr.features.dense()])
    model = learned(crf, [sentence], [labels])  # which reads the labels as a fit does
    ends = np.float32([0, 1, 0]), np.float32([0, 0, 1])
    model = eqx.tree_at(lambda m: (m.first, m.last), model, ends)
    assert model.predict(sentence) == labels
    assert model.predict([sentence]) == [labels]
    assert model.viterbi(sentence).labels.tolist() == labels
