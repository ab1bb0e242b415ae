"""Sentences read once and asked about again, several at a time or alone, on the host or compiled."""

import jax
import numpy as np
import pytest
from crf_cases import ALL, LABELS, NEW, SOME, TAGS, WORDS, case, close, learned

import chainrule as cr
from chainrule.models import crf_scores


@pytest.mark.parametrize("name", ALL)
def test_all_queries_take_indexed_sentences(name):
    c = case(name)
    model, x = c.model, c.sentences(NEW)
    known = model.index(x)
    assert len(known) == 3
    assert model.predict(known) == model.predict(x)
    assert model.predict(known, known=SOME) == model.predict(x, known=SOME)
    np.testing.assert_array_equal(model.log_partition(known), model.log_partition(x))
    if name == "mixed, structure":  # the rest goes the same way
        for got, wanted in zip(model.posterior(known).marginals, model.posterior(x).marginals, strict=True):
            np.testing.assert_array_equal(got, wanted)
        np.testing.assert_array_equal(model.log_prob(known, SOME), model.log_prob(x, SOME))
        np.testing.assert_array_equal(model.entropy(known), model.entropy(x))
        np.testing.assert_array_equal(model.k_best(known, 4).log_prob, model.k_best(x, 4).log_prob)
        key = jax.random.key(0)
        for got, wanted in zip(model.sample(key, known, 2).states, model.sample(key, x, 2).states, strict=True):
            np.testing.assert_array_equal(got, wanted)


def test_one_sentence_stays_one_sentence():
    c = case("templates")
    one = c.model.index(NEW[0])
    assert repr(one) == "IndexedSentences(1 sentences, 4 tokens)"
    assert c.model.predict(one) == c.model.predict(NEW[0])
    assert np.ndim(c.model.log_partition(one)) == 0


def test_the_index_of_another_model_is_refused():
    first, second = (learned(cr.LinearChainCRF(LABELS, [cr.templates("%x[0,0]")]), WORDS, TAGS) for _ in "12")
    known = first.index(NEW)
    with pytest.raises(ValueError, match="indexed by a model with other features"):
        second.predict(known)
    with pytest.raises(ValueError, match="has not seen data yet"):
        cr.LinearChainCRF(LABELS, [cr.templates("%x[0,0]")]).index(NEW)


# Short sentences are decoded in NumPy


@pytest.mark.parametrize("known", [None, SOME], ids=["free", "known"])
@pytest.mark.parametrize("name", ["attributes", "attributes, structure", "mixed, structure"])
def test_alone_is_the_same_as_together(name, known, monkeypatch):
    c = case(name)
    x = c.sentences(NEW)
    together = c.model.predict(x, known=known)
    for n, sentence in enumerate(x):
        own = None if known is None else known[n]
        assert c.model.predict(sentence, known=own) == together[n]
        assert c.model.predict([sentence], known=None if own is None else [own]) == [together[n]]
    monkeypatch.setattr(crf_scores, "FEW", 0)
    for n, sentence in enumerate(x):
        assert c.model.predict(sentence, known=None if known is None else known[n]) == together[n]


def test_nothing_is_compiled_for_one_sentence():
    model = case("attributes").model
    before = crf_scores.engine.viterbi.__wrapped__._cache_size()
    model.predict(["the"] * 17)
    assert crf_scores.engine.viterbi.__wrapped__._cache_size() == before


@pytest.mark.parametrize("transitions", [False, True])
def test_one_sentence_is_described_once(transitions):
    """Where it cannot be decoded in NumPy too, as with features of steps."""
    asked = []

    def describe(x, t):
        asked.append(t)
        return [x[t]]

    crf = cr.LinearChainCRF(LABELS, [cr.attributes(describe, transitions=transitions)])
    model = learned(crf, WORDS, TAGS)
    asked.clear()
    model.predict(WORDS[0])
    assert len(asked) == len(WORDS[0])


def test_ties_go_to_the_same_labels():
    crf = learned(cr.LinearChainCRF(LABELS, [cr.attributes()]), [[["a"]] * 3], [["D", "N", "V"]])  # all weights zero
    assert crf.predict([["a"]] * 4) == crf.predict([[["a"]] * 4, [["a"]], [["a"]] * 3])[0] == ["D"] * 4


# Several sentences at once where there used to be one


@pytest.mark.parametrize("known", [None, SOME], ids=["free", "known"])
@pytest.mark.parametrize("name", ["attributes", "mixed, structure", "f(x, y_prev, y, i) of arrays"])
def test_entropy_and_k_best_of_several_sentences(name, known):
    c = case(name)
    x, k = c.sentences(NEW), 4
    tags = [None] * 3 if known is None else known
    truth = [c.truth(words, own) for words, own in zip(NEW, tags, strict=True)]
    close(c.model.entropy(x, known=known), [t.entropy for t in truth])
    found = c.model.k_best(x, k, known=known)
    assert found.log_prob.shape == (3, k)
    for n, (words, t) in enumerate(zip(NEW, truth, strict=True)):
        assert found.states[n].shape == (k, len(words))
        free = c.truth(words).log_partition
        paths = [(score, states) for score, states in t.paths if score > -np.inf][:k]
        for m, (score, states) in enumerate(paths):
            assert tuple(found.states[n][m]) == states
            close(found.log_prob[n, m], score - free)
        assert (found.log_prob[n, len(paths) :] == -np.inf).all()
        assert (found.states[n][len(paths) :] == -1).all()


def test_lengths_of_a_bucket_compile_once():
    model = case("attributes").model
    engine = crf_scores.engine
    model.entropy(["the"] * 17), model.k_best(["the"] * 17, 2)
    before = engine.entropy.__wrapped__._cache_size(), engine.k_best.__wrapped__._cache_size()
    model.entropy(["saw"] * 18), model.k_best(["dog"] * 18, 2)
    assert (engine.entropy.__wrapped__._cache_size(), engine.k_best.__wrapped__._cache_size()) == before
