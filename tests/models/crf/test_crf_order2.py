"""CRFs of second order against enumeration, over potentials that are computed by plain Python loops."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from crf_cases import (
    KINDS,
    LABELS,
    NEW,
    SOME,
    TAGS,
    WORDS,
    close,
    flattened,
    learned,
    structure,
    vectors,
    with_random_weights,
)

import chainrule as cr
from chainrule.models import crf_learning
from chainrule.models.crf_data import gold_of
from chainrule.models.features.base import Batch


def three_of_words(x, y_prev2, y_prev, y, i):
    return [(y_prev2 == y) * len(x[i]), (y_prev2 is None) + (y_prev is None) * 0.5 + (y_prev == y)]


def three_of_arrays(x, y_prev2, y_prev, y, i):
    return jnp.stack(
        [
            jnp.where(y_prev2 == y, x[i, 0], 0.0),
            jnp.where(y_prev2 < 0, 1.0, 0.0) + jnp.where(y_prev < 0, 0.5, 0.0) + jnp.where(y_prev == y, 1.0, 0.0),
        ]
    )


def as_words(x, h, j, y, i):
    return np.array(three_of_words(x, h, j, y, i), float)


def as_arrays(x, h, j, y, i):
    first = (h == y) * vectors(x)[i, 0]
    return np.array([first, (h is None) + (j is None) * 0.5 + (j == y)])


CASES = {
    "plain": (["templates"], None, None, None),
    "every kind": (["templates", "attributes", "f(x, y, i)", "f(x, y_prev, y, i)"], three_of_words, as_words, None),
    "structure": (["templates"], three_of_words, as_words, structure()),
    "arrays": (["f(x, y_prev, y, i) of arrays"], three_of_arrays, as_arrays, None),
}
BUILT = {}


def case(name):
    """A model with random weights, and its score of a labelling."""
    if name not in BUILT:
        kinds, three, plain, graph = CASES[name]
        kinds = [KINDS[kind] for kind in kinds]
        features = [kind.make() for kind in kinds] + ([] if three is None else [cr.feature_function(three)])
        crf = cr.LinearChainCRF(LABELS, features, transitions=graph, order=2)
        model = learned(crf, [kinds[0].sentence(words) for words in WORDS], TAGS)
        BUILT[name] = with_random_weights(model, seed=3), kinds, plain, graph
    return BUILT[name]


def score(name, x, y):
    """The exponent of p(y | x), by plain loops; y are labels."""
    model, kinds, plain, graph = case(name)
    k = [LABELS.index(label) for label in y]
    weights = [kind.weights(feature) for kind, feature in zip(kinds, model.features, strict=False)]
    total = float(model.first[k[0]] + model.last[k[-1]])
    for t in range(len(x)):
        for kind, w in zip(kinds, weights, strict=True):
            total += 0 if kind.node is None else kind.node(x, w, t, k[t])
            total += 0 if kind.pair is None or t == 0 else kind.pair(x, w, t, k[t - 1], k[t])
        if t:
            total += float(model.transition[k[t - 1], k[t]])
            total += float(model.second[k[t - 2] if t > 1 else 3, k[t - 1], k[t]])
        if plain is not None:
            before = [y[t - 2] if t > 1 else None, y[t - 1] if t else None]
            total += float(plain(x, *before, y[t], t) @ np.asarray(model.features[-1].weights, float))
    if graph is not None:
        wrong = any(not graph.has_edge(a, b) for a, b in itertools.pairwise(y))
        wrong |= not graph.nodes[y[0]].get("initial", True) or not graph.nodes[y[-1]].get("final", True)
        total = -np.inf if wrong else total
    return total


def agrees(y, known):
    return all(
        tag is None or label == tag or (isinstance(tag, set) and label in tag)
        for label, tag in zip(y, known, strict=True)
    )


class Truth:
    def __init__(self, name, words, known=None):
        self.paths = [(score(name, words, y), y) for y in itertools.product(LABELS, repeat=len(words))]
        self.everything = oracles.log_sum_exp([s for s, _ in self.paths])
        self.paths = sorted(((s, y) for s, y in self.paths if known is None or agrees(y, known)), key=lambda p: -p[0])
        self.log_partition = oracles.log_sum_exp([s for s, _ in self.paths])
        self.probs = [np.exp(s - self.log_partition) for s, _ in self.paths]

    def expected(self, size, width):
        """p(width labels end at t), (size, 3, …)."""
        found = np.zeros((size, *[3] * width))
        for p, (_, y) in zip(self.probs, self.paths, strict=True):
            k = [LABELS.index(label) for label in y]
            for t in range(width - 1, size):
                found[(t, *k[t - width + 1 : t + 1])] += p
        return found[width - 1 :]


@pytest.mark.parametrize(
    ("name", "known"),
    [*((name, None) for name in CASES), ("every kind", SOME), ("structure", SOME)],
    ids=[*(f"{name}-free" for name in CASES), "every kind-known", "structure-known"],
)
def test_questions_about_several_sentences(name, known):
    model, kinds, _, _ = case(name)
    x = [kinds[0].sentence(words) for words in NEW]
    truth = [Truth(name, words, None if known is None else known[n]) for n, words in enumerate(NEW)]
    close(model.log_partition(x, known=known), [t.log_partition for t in truth])
    posterior, pairs = model.posterior(x, known=known), model.pair_posterior(x, known=known)
    triples = model.triple_posterior(x, known=known)
    close(posterior.log_prob, [t.log_partition - t.everything for t in truth])
    for n, t in enumerate(truth):
        size = len(NEW[n])
        close(posterior.marginals[n], t.expected(size, 1))
        close(pairs[n], t.expected(size, 2))
        close(triples[n], t.expected(size, 3))
    close(posterior.transitions, sum(t.expected(len(w), 2).sum(0) for t, w in zip(truth, NEW, strict=True)))
    path = model.viterbi(x, known=known)
    close(path.log_prob, [t.paths[0][0] - t.everything for t in truth])
    best = [list(t.paths[0][1]) for t in truth]
    assert model.predict(x, known=known) == best
    close(model.log_prob(x, best), path.log_prob)
    if known is not None:
        close(model.log_prob(x, known), posterior.log_prob)


@pytest.mark.parametrize("known", [None, SOME[0]], ids=["free", "known"])
def test_questions_about_one_sentence(known):
    model, x = case("structure")[0], NEW[0]
    truth = Truth("structure", x, known)
    found = model.k_best(x, 12, known=known)
    wanted = [s - truth.everything for s, _ in truth.paths[:12]]
    close(found.log_prob, wanted + [-np.inf] * (12 - len(wanted)))
    for row, (s, y) in zip(found.states, truth.paths, strict=False):
        assert tuple(row) == (tuple(LABELS.index(k) for k in y) if s > -np.inf else (-1,) * len(x))
    close(model.viterbi(x, known=known).log_prob, wanted[0])


@pytest.mark.parametrize("name", ["every kind", "structure"])
def test_chain_and_factor_graph(name):
    model, kinds, _, _ = case(name)
    for known in (None, SOME[0]):
        x, truth = kinds[0].sentence(NEW[0]), Truth(name, NEW[0], known)
        chain = model.chain(x, known=known)
        close(oracles.forward_backward(chain.initial, chain.pair, chain.node).log_partition, truth.log_partition)
    truth, exact = Truth(name, NEW[0]), model.factor_graph(x).enumerate()
    close(exact.log_partition, truth.log_partition)
    assert tuple(exact.map["y", t] for t in range(len(NEW[0]))) == truth.paths[0][1]


@pytest.mark.parametrize(("name", "known"), [("every kind", None), ("structure", SOME)], ids=["free", "known"])
def test_entropy_and_k_best_of_several_sentences_read_once(name, known):
    model, kinds, _, _ = case(name)
    x, k = model.index([kinds[0].sentence(words) for words in NEW]), 12
    tags = [None] * len(NEW) if known is None else known
    entropy, found = model.entropy(x, known=known), model.k_best(x, k, known=known)
    assert found.log_prob.shape == (3, k)
    assert model.predict(x, known=known) == model.predict(NEW, known=known)
    for n, (words, own) in enumerate(zip(NEW, tags, strict=True)):
        truth = Truth(name, words, own)
        probs = np.array([p for p in truth.probs if p > 0])
        close(entropy[n], -(probs * np.log(probs)).sum())
        wanted = [s - truth.everything for s, _ in truth.paths[:k]]
        close(found.log_prob[n], wanted + [-np.inf] * (k - len(wanted)))
        assert found.states[n].shape == (k, len(words))
        for row, (s, y) in zip(found.states[n], truth.paths, strict=False):
            assert tuple(row) == (tuple(LABELS.index(k) for k in y) if s > -np.inf else (-1,) * len(words))
        assert (found.states[n][len(wanted) :] == -1).all()


def test_draws_come_as_often_as_they_should():
    model, _, _, _ = case("structure")
    found, count = model.sample(jax.random.key(1), NEW, 3000), 3000
    for n, words in enumerate(NEW):
        truth = Truth("structure", words)
        close(found.log_prob[n], truth.log_partition)
        drawn = [tuple(row) for row in found.states[n].tolist()]
        for p, (_, y) in zip(truth.probs, truth.paths, strict=True):
            share = drawn.count(tuple(LABELS.index(k) for k in y)) / count
            assert abs(share - p) <= 5 * np.sqrt(p * (1 - p) / count) + 1e-6


# Fits


def problem(y, objective):
    features = [cr.templates("%x[0,0]", "B:%x[0,0]"), cr.feature_function(three_of_words)]
    model = cr.LinearChainCRF(LABELS, features, transitions=structure(), order=2)
    batch = Batch.of(WORDS)
    weight = np.array([1.0, 2.0, 0.5, 1.0])
    return crf_learning.problem_of(model, batch, gold_of(y, batch, LABELS), weight, False, objective)[1]


PARTIAL = [["D", None, {"N", "V"}, "N"], ["N", "V", None], [None], ["D", "N"]]


@pytest.mark.parametrize(
    ("y", "objective", "which"),
    [
        (TAGS, cr.Likelihood(), 1),
        (PARTIAL, cr.Likelihood(), 0),
        pytest.param(TAGS, cr.SoftmaxMargin(0.7), 0, marks=pytest.mark.slow),
    ],
    ids=["all known", "some known", "softmax margin"],
)
def test_slopes_are_the_gradient_of_the_loss_and_both_finite_differences(y, objective, which):
    with jax.enable_x64(True):
        one = problem(y, objective)
        engine = one.engines[which]
        start, back = flattened(one.parameters())
        at = np.random.default_rng(0).normal(size=start.size)

        @jax.jit
        def both(flat):
            scores, pull = jax.vjp(lambda f: one.scores(back(f)), flat)
            value, by_scores = one.slopes(scores, engine())
            return jax.value_and_grad(lambda f: one.loss(back(f)))(flat), (value, pull(by_scores)[0])

        (value, slope), (again, explicit) = both(at)
        loss = lambda flat: float(both(flat)[0][0])  # noqa: E731
        assert float(again) == pytest.approx(float(value), abs=1e-10)
        np.testing.assert_allclose(explicit, slope, atol=1e-10)
        for p, step in enumerate(1e-5 * np.eye(len(at))):
            difference = (loss(at + step) - loss(at - step)) / 2e-5
            assert slope[p] == pytest.approx(difference, abs=1e-7)


@pytest.mark.parametrize("order", [2, pytest.param(1, marks=pytest.mark.slow)])
def test_it_learns_what_no_chain_of_first_order_can(order):
    """Each label is that of two tokens before, turned round: the tokens themselves say nothing."""
    rng = np.random.default_rng(0)
    y = []
    for _ in range(30):
        tags = list(rng.choice(["a", "b"], 2))
        while len(tags) < 9:
            tags.append("b" if tags[-2] == "a" else "a")
        y.append([str(t) for t in tags])
    x = [["w"] * 9 for _ in y]
    known = [[*tags[:2], *[None] * 7] for tags in y]
    crf = cr.LinearChainCRF(["a", "b"], [cr.templates("%x[0,0]")], order=order)
    fit = crf.fit(x, y, method=cr.LBFGS(l1=0.2, l2=0.1))
    accuracy = cr.evaluation.token_accuracy(y, fit.model.predict(x, known=known))
    assert accuracy == 1 if order == 2 else accuracy < 0.8
    assert fit.log_prob == pytest.approx(np.sum(fit.model.log_prob(x, y)), rel=1e-4, abs=1e-4)


@pytest.mark.parametrize(
    ("method", "objective"),
    [
        pytest.param(cr.LBFGS(l1=0.05, l2=0.01), None, marks=pytest.mark.slow),
        (cr.MiniBatch(epochs=60, batch_size=2, learning_rate=0.1), None),
        pytest.param(cr.AveragedPerceptron(epochs=8), None, marks=pytest.mark.slow),
    ],
    ids=["l1", "mini-batches", "perceptron"],
)
def test_other_methods(method, objective):
    crf = cr.LinearChainCRF(LABELS, [cr.templates("%x[0,0]")], order=2)
    fit = crf.fit(WORDS, TAGS, method=method, objective=objective, key=jax.random.key(0))
    assert fit.model.predict(WORDS)[:2] == TAGS[:2]
    assert fit.log_prob == pytest.approx(np.sum(fit.model.log_prob(WORDS, TAGS)), rel=1e-4, abs=1e-4)


def test_hard_potentials_in_float32():
    model, _, _, _ = case("plain")
    rng = np.random.default_rng(5)
    hard = lambda shape: jnp.asarray(rng.choice([-1000.0, 1000.0, 3.0], shape), jnp.float32)  # noqa: E731
    where = lambda m: (m.transition, m.second)  # noqa: E731
    model = eqx.tree_at(where, model, (hard((3, 3)), hard((4, 3, 3))))
    x = [["the", "dog", "saw", "dog"], ["dog"], ["saw", "the", "dog"]]  # laid out as NEW
    posterior, path, log_partition = model.posterior(x), model.viterbi(x), model.log_partition(x)
    for n, sentence in enumerate(x):
        chain = model.chain(sentence)
        truth = oracles.forward_backward(chain.initial, chain.pair, chain.node)
        close(log_partition[n], truth.log_partition, atol=2e-3)
        close(posterior.marginals[n], truth.marginals.reshape(-1, 3, 4).sum(2), atol=1e-4)
        best, _ = oracles.viterbi(chain.initial, chain.pair, chain.node)
        close(path.log_prob[n], best - truth.log_partition, atol=2e-3)


def test_saved_and_loaded(tmp_path):
    model, _, _, _ = case("plain")
    cr.save(tmp_path / "crf.npz", model)
    again = cr.load(tmp_path / "crf.npz")
    assert again.order == 2
    assert again.predict(NEW) == model.predict(NEW)
    np.testing.assert_array_equal(again.log_partition(NEW), model.log_partition(NEW))


def test_looking_at_it():
    model, _, _, _ = case("plain")
    assert "order=2" in repr(model)
    rows = model.strongest_steps(60)
    assert {"before", "previous", "label"} <= set(rows[0]) | set(rows[1]) | set(rows[-1])
    assert sum("before" in row for row in rows) == 36
    words = sum(feature.num_parameters() for feature in model.features)
    assert model.num_parameters() == words + 9 + 36 + 6
    nothing = eqx.tree_at(lambda m: m.second, model, jnp.asarray(model.second).at[0].set(0))
    assert nothing.num_parameters() == words + 9 + 27 + 6


def test_wrong_use():
    word = cr.templates("%x[0,0]")
    with pytest.raises(ValueError, match=r"order is 3; .*give order=1 or order=2"):
        cr.LinearChainCRF(LABELS, [word], order=3)
    with pytest.raises(ValueError, match="order is True"):
        cr.LinearChainCRF(LABELS, [word], order=True)
    with pytest.raises(ValueError, match=r"takes y_prev2, .*say order=2"):
        cr.LinearChainCRF(LABELS, [cr.feature_function(three_of_words)])
    with pytest.raises(ValueError, match="local=True normalises steps"):
        cr.LinearChainCRF(LABELS, [word], order=2, local=True)
    crf = cr.LinearChainCRF(LABELS, [word], order=2, transitions=structure())
    with pytest.raises(ValueError, match="sentence 0, token 1: label 'V' follows 'D'"):
        crf.fit([["a", "b"]], [["D", "V"]])
    with pytest.raises(ValueError, match="triple_posterior is for models of order 2"):
        learned(cr.LinearChainCRF(LABELS, [word]), WORDS, TAGS).triple_posterior(WORDS)
    model, _, _, _ = case("structure")
    with pytest.raises(ValueError, match="sentence 1 has no possible labelling"):
        model.predict(NEW[:2], known=[[None] * 4, ["D"]])
