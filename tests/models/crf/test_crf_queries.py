"""Questions to a CRF, for every kind of feature: against enumeration over potentials computed by plain Python loops."""

import jax
import networkx as nx
import numpy as np
import oracles
import pytest
from crf_cases import (
    ALL,
    KINDS,
    LABELS,
    MIXED,
    NEW,
    SOME,
    TAGS,
    WORDS,
    case,
    close,
    learned,
    structure,
    with_random_weights,
)

import chainrule as cr


def probability(case, x, states):
    scores = case.tables(x)
    return oracles.score_path(*scores, states) - oracles.enumerate_chain(*scores).log_partition


# Several sentences


@pytest.mark.parametrize("known", [None, SOME], ids=["free", "known"])
@pytest.mark.parametrize("name", ALL)
def test_sentences_together(name, known):
    c = case(name)
    model, x = c.model, c.sentences(NEW)
    free = [c.truth(words) for words in NEW]
    truth = free if known is None else [c.truth(words, tags) for words, tags in zip(NEW, known, strict=True)]
    agree = [t.log_partition - f.log_partition for t, f in zip(truth, free, strict=True)]

    close(model.log_partition(x, known=known), [t.log_partition for t in truth])
    posterior = model.posterior(x, known=known)
    close(posterior.log_prob, agree)
    for got, wanted in zip(posterior.marginals, truth, strict=True):
        close(got, wanted.marginals)
    close(posterior["N"][1], truth[1].marginals[:, 1])
    close(posterior.transitions, sum(t.pair_marginals.sum(0) for t in truth))
    for got, wanted in zip(model.pair_posterior(x, known=known), truth, strict=True):
        close(got, wanted.pair_marginals)

    path = model.viterbi(x, known=known)
    best = [t.paths[0][1] for t in truth]
    assert [tuple(states) for states in path.states] == best
    close(path.log_prob, [probability(c, words, states) for words, states in zip(NEW, best, strict=True)])
    assert model.predict(x, known=known) == [[LABELS[k] for k in states] for states in best]
    if known is not None:
        close(model.log_prob(x, known), agree)
        close(model.log_prob(x, model.predict(x)), model.viterbi(x).log_prob)


# One sentence


@pytest.mark.parametrize("known", [None, SOME], ids=["free", "known"])
@pytest.mark.parametrize(("name", "count"), [("attributes", 1), ("mixed, structure", 2)])
def test_one_sentence(name, count, known):
    c = case(name)
    for words, tags in zip(NEW[:count], (known or [None] * 3)[:count], strict=True):
        model, x, truth = c.model, c.sentences([words])[0], c.truth(words, tags)
        free = c.truth(words).log_partition
        close(model.log_partition(x, known=tags), truth.log_partition)
        posterior = model.posterior(x, known=tags)
        close(posterior.log_prob, truth.log_partition - free)
        close(posterior.marginals, truth.marginals)
        close(posterior.transitions, truth.pair_marginals.sum(0))
        close(model.pair_posterior(x, known=tags), truth.pair_marginals)
        close(model.entropy(x, known=tags), truth.entropy)
        score, states = truth.paths[0]
        assert model.predict(x, known=tags) == [LABELS[k] for k in states]
        path = model.viterbi(x, known=tags)
        assert tuple(path.states) == states
        close(path.log_prob, score - free)
        close(model.log_prob(x, [LABELS[k] for k in states]), score - free)


@pytest.mark.parametrize("name", ["dense arrays", "templates", "f(x, y_prev, y, i) of arrays"])
def test_together_is_the_same_as_one_by_one(name):
    c = case(name)
    x = c.sentences(NEW)
    together, marginals = c.model.log_partition(x), c.model.posterior(x).marginals
    for n, sentence in enumerate(x[:1]):
        close(c.model.log_partition(sentence), together[n], atol=2e-6)
        close(c.model.posterior(sentence).marginals, marginals[n], atol=2e-6)
        assert c.model.predict(sentence) == c.model.predict(x)[n]


@pytest.mark.parametrize("tags", [None, SOME[0]], ids=["free", "known"])
@pytest.mark.parametrize("name", ["attributes", "mixed, structure"])
def test_the_k_best(name, tags):
    c, words = case(name), NEW[0]
    truth, free = c.truth(words, tags), c.truth(words).log_partition
    paths = [(score, states) for score, states in truth.paths if score > -np.inf]
    k = 10
    found = c.model.k_best(c.sentences([words])[0], k, known=tags)
    assert found.states.shape == (k, 4)
    for n in range(k):
        if n < len(paths):
            assert tuple(found.states[n]) == paths[n][1]
            close(found.log_prob[n], paths[n][0] - free)
        else:
            assert found.log_prob[n] == -np.inf
            assert (found.states[n] == -1).all()


@pytest.mark.parametrize("name", ["attributes", "mixed, structure"])
def test_chain_and_factor_graph(name):
    c = case(name)
    for words in NEW[:2]:
        x, truth = c.sentences([words])[0], c.truth(words)
        chain = c.model.chain(x)
        close(oracles.enumerate_chain(chain.initial, chain.pair, chain.node).log_partition, truth.log_partition)
        exact = c.model.factor_graph(x).enumerate()
        close(exact.log_partition, truth.log_partition)
        assert [exact.map["y", t] for t in range(len(words))] == c.model.predict(x)
        for t in range(len(words)):
            close(exact.marginal(("y", t)), truth.marginals[t])
    tags = SOME[0]
    known = c.model.chain(c.sentences(NEW)[0], known=tags)
    close(
        oracles.enumerate_chain(known.initial, known.pair, known.node).log_partition,
        c.truth(NEW[0], tags).log_partition,
    )


# Draws: five standard deviations at most


def frequencies(states, wanted):
    size, wanted = len(states), np.clip(wanted, 0, 1)
    found = (states[:, :, None] == np.arange(3)).mean(0)
    assert (np.abs(found - wanted) <= 5 * np.sqrt(wanted * (1 - wanted) / size) + 1e-6).all()


def test_draws_of_one_sentence_come_as_often_as_they_should():
    c, words = case("mixed"), NEW[0]
    truth = c.truth(words)
    found = c.model.sample(jax.random.key(3), c.sentences([words])[0], 4000)
    assert found.states.shape == (4000, 4)
    frequencies(found.states, truth.marginals)
    drawn = found.states @ [27, 9, 3, 1]
    for score, states in truth.paths:
        p = np.exp(score - truth.log_partition)
        share = (drawn == np.dot(states, [27, 9, 3, 1])).mean()
        assert abs(share - p) <= 5 * np.sqrt(p * (1 - p) / 4000) + 1e-6


@pytest.mark.parametrize("known", [None, SOME], ids=["free", "known"])
def test_draws_of_several_sentences(known):
    c = case("mixed, structure")
    found = c.model.sample(jax.random.key(4), c.sentences(NEW), 2000, known=known)
    for n, words in enumerate(NEW):
        assert found.states[n].shape == (2000, len(words))
        truth = c.truth(words, None if known is None else known[n])
        frequencies(found.states[n], truth.marginals)
        close(found.log_prob[n], truth.log_partition)


# Structure


def test_what_is_forbidden_has_probability_zero():
    c = case("attributes, structure")
    dogs = ["dog"] * 4  # as long as the first of NEW
    assert c.model.log_prob(dogs, ["D", "D", "N", "V"]) == -np.inf
    assert c.model.posterior(dogs).transitions[0, 0] == 0
    assert set(c.model.graph().edges) == set(structure().edges)
    assert c.model.graph().edges["N", "V"]["weight"] == pytest.approx(float(c.model.transition[1, 2]))


def ends():
    """D begins, V ends, and there is no sentence of one token."""
    graph = nx.DiGraph([("D", "D"), ("D", "N"), ("N", "N"), ("N", "V"), ("D", "V")])
    graph.add_node("D", final=False)
    graph.add_node("N", initial=False, final=False)
    graph.add_node("V", initial=False)
    return graph


@pytest.fixture(scope="module")
def strict_ends():
    crf = cr.LinearChainCRF(LABELS, [cr.templates("%x[0,0]", "B:%x[0,0]")], transitions=ends())
    return with_random_weights(learned(crf, [["the", "dog", "saw"], ["the", "saw"]], [["D", "N", "V"], ["D", "V"]]))


@pytest.mark.parametrize("query", ["predict", "viterbi", "posterior"])
def test_a_sentence_without_any_labelling_is_named(strict_ends, query):
    with pytest.raises(ValueError, match="sentence 1 has no possible labelling"):
        getattr(strict_ends, query)(NEW)


def test_a_sentence_without_any_labelling_in_the_other_queries(strict_ends):
    assert np.isfinite(strict_ends.log_partition(NEW)).tolist() == [True, False, True]
    with pytest.raises(ValueError, match="sentence 1 has no possible labelling"):
        strict_ends.log_prob(NEW, SOME)
    with pytest.raises(ValueError, match="sentence 0 has no possible labelling"):
        strict_ends.k_best(["dog"], 10)
    with pytest.raises(ValueError, match="sentence 1 has no possible labelling"):
        strict_ends.sample(jax.random.key(0), NEW, 2000)


def test_what_is_known_may_rule_everything_out(strict_ends):
    model = case("attributes, structure").model
    known = [SOME[0], [None], ["D", "D", None]]
    with pytest.raises(ValueError, match="sentence 2 has no possible labelling: what is known"):
        model.predict(NEW, known=known)
    for query in ("predict", "viterbi", "posterior", "pair_posterior", "entropy"):
        with pytest.raises(ValueError, match="sentence 2 has no possible labelling: what is known"):
            getattr(model, query)(NEW, known=known)
    for found in (model.log_partition(NEW, known=known), model.log_prob(NEW, known)):
        assert np.isfinite(found).tolist() == [True, True, False]


# A fit of all kinds of features together


def test_a_fit_of_every_kind_says_what_it_found():
    crf = cr.LinearChainCRF(LABELS, [KINDS[name].make() for name in MIXED], transitions=structure())
    x, y = ([data[n] for n in (0, 2, 1)] for data in (WORDS, TAGS))  # laid out as NEW
    fit = crf.fit(x, y, method=cr.LBFGS(l2=0.1, max_iterations=3))
    assert fit.history[-1] > fit.history[0]
    assert fit.log_prob == pytest.approx(fit.model.log_prob(x, y).sum(), rel=1e-4)
    assert not np.asarray(fit.model.transition)[~fit.model.structure.pair].any()
