"""Semi-Markov CRFs against enumeration of all segmentations, with potentials computed by plain Python loops."""

import dataclasses
import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import networkx as nx
import numpy as np
import oracles
import pytest
from crf_cases import close, flattened, with_random_weights

import chainrule as cr
from chainrule.forms.chain import assemble
from chainrule.inference import compound
from chainrule.models import crf_engine
from chainrule.models.crf_data import read_sentences
from chainrule.models.features.base import Batch
from chainrule.models.segmentations import read_segmentations, segments_of_tags, tags_of_segments

LABELS = ("O", "A", "B")
X = [["a", "b", "c", "a"], ["c", "a"], ["b"], ["a", "a", "c", "b", "b"]]
Y = [
    [(0, 1, "O"), (1, 3, "A"), (3, 4, "B")],
    [(0, 2, "A")],
    [(0, 1, "B")],
    [(0, 3, "B"), (3, 4, "O"), (4, 5, "O")],
]
NEW = [["c", "b", "z", "a"], ["z"], ["a", "c", "b"]]
SOME = [[None, {"A", "B"}, None, "A"], [None], [{"O", "B"}, None, "B"]]
LENGTHS = {"O": 1, "A": 2, "B": 3}
FEW = cr.LBFGS(l2=0.1, max_iterations=3)


def numbers(x, start, stop):
    return [stop - start, sum(w == "a" for w in x[start:stop])]


def names(x, start, stop):
    return {"text": " ".join(x[start:stop]), "size": float(stop - start)}


def of_segment(x, start, stop, y):
    return [(y == "B") * (stop - start), x[start] == x[stop - 1]]


def of_pair(x, start, stop, y, y_prev):
    return (y_prev is None) * 0.5 + (y_prev == y) * (stop - start) + (x[start] == "a") * (y_prev == "O")


def of_step(x, y_prev, y, i):
    return (x[i] == "a") * (1.0 if y_prev is None else 0.5) * (y_prev != y)


def graph():
    found = nx.DiGraph([(a, b) for a in LABELS for b in LABELS if (a, b) not in (("A", "A"), ("O", "B"))])
    found.add_node("A", initial=False)
    found.add_node("O", final=False)
    return found


F = cr.features
KINDS = {
    "tokens": lambda: [cr.templates("U:%x[0,0]", "V:%x[-1,0]")],
    "ends": lambda: [F.begins(cr.templates("U:%x[0,0]")), F.ends(cr.attributes(lambda x, i: {"w": x[i], "n": i / 2}))],
    "steps": lambda: [cr.templates("B:%x[0,0]"), cr.feature_function(of_step)],
    "segments": lambda: [F.segment_attributes(names), F.segment_dense(numbers), cr.segment_function(of_segment)],
    "pairs": lambda: [cr.segment_function(of_pair)],
}
KINDS["everything"] = lambda: [feature for make in list(KINDS.values())[:5] for feature in make()]
BUILT = {}


def case(name):
    """A model with random weights; the last of each name has structure."""
    if name not in BUILT:
        kind, _, rest = name.partition(", ")
        crf = cr.SemiMarkovCRF(LABELS, KINDS[kind](), max_length=LENGTHS, transitions=graph() if rest else None)
        y = [
            [(0, 2, "B"), (2, 4, "A")],
            [(0, 2, "B")],
            [(0, 1, "B")],
            [(0, 1, "O"), *[(t, t + 1, "O") for t in (1, 2, 3)], (4, 5, "A")],
        ]
        BUILT[name] = with_random_weights(learned(crf, y if rest else Y), seed=2)
    return BUILT[name]


def learned(crf, y):
    """The model that a fit begins with: its features know what training has shown, and nothing is compiled for a fit."""
    batch = Batch.of(X)
    known, one = crf._problem(batch, read_segmentations(y, batch, LABELS, crf.max_lengths), None, False)
    features = [f.fitted(part, own) for f, part, own in zip(known, one.parts, one.parameters()[0], strict=True)]
    fields = {field.name: getattr(crf, field.name) for field in dataclasses.fields(crf)}
    return assemble(cr.SemiMarkovCRF, **(fields | {"features": tuple(features), "token": read_sentences(X, None)[2]}))


def weight(table, attribute, outcome):
    """A sparse weight by name, 0 where there is none."""
    where = np.flatnonzero((table.attribute == attribute) & (table.outcome == outcome))
    return float(table.values[where[0]]) if len(where) else 0.0


def sparse(feature, entries, outcome, which="node"):
    """Σ value · weight of named attributes."""
    table, known = getattr(feature, which), {n: a for a, n in enumerate(getattr(feature.index, which).names())}
    return sum(v * weight(table, known[n], outcome) for n, v in entries.items() if n in known)


def score(model, x, segments):
    """The exponent of p(s | x), written out."""
    number = {label: k for k, label in enumerate(LABELS)}
    total = float(model.first[number[segments[0][2]]] + model.last[number[segments[-1][2]]])
    before = None
    for start, stop, label in segments:
        k, j = number[label], None if before is None else number[before]
        total += float(model.length[stop - start - 1, k])
        total += 0 if j is None else float(model.transition[j, k])
        for placed in model.features:
            total += said(placed, x, start, stop, k, j)
        before = label
    if not np.asarray(model.structure.pair).all():
        allowed = graph()
        wrong = any(not allowed.has_edge(a[2], b[2]) for a, b in itertools.pairwise(segments))
        total = -np.inf if wrong or segments[0][2] == "A" or segments[-1][2] == "O" else total
    return total


def said(placed, x, start, stop, k, j):  # noqa: PLR0911, one for each kind of feature
    feature, where = placed.feature, placed.where
    label, before = LABELS[k], None if j is None else LABELS[j]
    if isinstance(feature, F.segments.SegmentFunction):
        arguments = (x, start, stop, label) if feature.function is of_segment else (x, start, stop, label, before)
        return float(np.ravel(feature.function(*arguments)) @ np.asarray(feature.weights, float))
    if where == "segment" and feature.extract is numbers:
        return float(
            np.array(numbers(x, start, stop)) @ np.asarray(feature.inner.weights)[:, k] + feature.inner.bias[k]
        )
    if where == "segment":
        entries = names(x, start, stop)
        return sparse(feature.inner, {f"text={entries['text']}": 1.0, "size": entries["size"]}, k)
    if where == "begin":
        return sparse(feature, {f"U:{x[start]}": 1.0}, k)
    if where == "end":
        return sparse(feature, {f"w={x[stop - 1]}": 1.0, "n": (stop - 1) / 2}, k)
    if isinstance(feature, F.FunctionFeature):
        value = of_step(x, before, label, start) if start == 0 or j is not None else 0
        return float(feature.weights[0]) * value
    if feature.node is None:
        return 0.0 if j is None else sparse(feature, {f"B:{x[start]}": 1.0}, 3 * j + k, "pair")
    found = 0.0
    for t in range(start, stop):
        found += sparse(feature, {f"U:{x[t]}": 1.0} | ({f"V:{x[t - 1]}": 1.0} if t else {}), k)
    return found


def segmentations(size):
    if size == 0:
        yield []
    for label in LABELS:
        for length in range(1, min(size, LENGTHS[label]) + 1):
            for rest in segmentations(size - length):
                yield [(0, length, label)] + [(a + length, b + length, name) for a, b, name in rest]


def agrees(segments, known):
    tags = [label for start, stop, label in segments for _ in range(start, stop)]
    return all(k is None or tag == k or (isinstance(k, set) and tag in k) for tag, k in zip(tags, known, strict=True))


class Truth:
    def __init__(self, model, x, known=None):
        every = [(score(model, x, s), s) for s in segmentations(len(x))]
        self.everything = oracles.log_sum_exp([v for v, _ in every])
        self.paths = sorted((p for p in every if known is None or agrees(p[1], known)), key=lambda p: -p[0])
        self.log_partition = oracles.log_sum_exp([v for v, _ in self.paths])
        self.probs = [np.exp(v - self.log_partition) for v, _ in self.paths]
        size = len(x)
        self.tokens, self.segments, self.steps = np.zeros((size, 3)), np.zeros((size, 3, 3)), np.zeros((3, 3))
        for p, (_, s) in zip(self.probs, self.paths, strict=True):
            for start, stop, label in s:
                self.tokens[start:stop, LABELS.index(label)] += p
                self.segments[start, stop - start - 1, LABELS.index(label)] += p
            for a, b in itertools.pairwise(s):
                self.steps[LABELS.index(a[2]), LABELS.index(b[2])] += p


NAMES = [*KINDS, "everything, structure"]
FAST = ("everything", "everything, structure")


@pytest.mark.parametrize(
    ("name", "known"),
    [
        # "everything" holds all of the others; alone they take as long again, for each has programs of its own
        *((name, None) if name in FAST else pytest.param(name, None, marks=pytest.mark.slow) for name in NAMES),
        ("everything, structure", SOME),
    ],
    ids=[*(f"{name}-free" for name in NAMES), "everything, structure-known"],
)
def test_questions_about_several_sentences(name, known):
    model = case(name)
    truth = [Truth(model, x, None if known is None else known[n]) for n, x in enumerate(NEW)]
    close(model.log_partition(NEW, known=known), [t.log_partition for t in truth])
    posterior, path = model.posterior(NEW, known=known), model.viterbi(NEW, known=known)
    close(posterior.log_prob, [t.log_partition - t.everything for t in truth])
    for n, t in enumerate(truth):
        close(posterior.marginals[n], t.tokens)
        close(posterior.segments[n], t.segments)
        assert path.segments[n] == t.paths[0][1]
    close(posterior["A"][0], truth[0].tokens[:, 1])
    close(posterior.transitions, sum(t.steps for t in truth))
    close(path.log_prob, [t.paths[0][0] - t.everything for t in truth])
    close(model.log_prob(NEW, path.segments), path.log_prob)
    assert model.predict(NEW, known=known) == path.segments
    assert model.predict(NEW, known=known, tags=True) == [tags_of_segments(s) for s in path.segments]


@pytest.mark.parametrize(
    ("name", "known"), [("everything", None), ("everything, structure", SOME)], ids=["free", "known"]
)
def test_entropy_and_k_best(name, known):
    model, k = case(name), 8
    entropy, found = model.entropy(NEW, known=known), model.k_best(NEW, k, known=known)
    assert found.log_prob.shape == (3, k)
    for n, x in enumerate(NEW):
        truth = Truth(model, x, None if known is None else known[n])
        probs = np.array([p for p in truth.probs if p > 0])
        close(entropy[n], -(probs * np.log(probs)).sum())
        wanted = [v - truth.everything for v, _ in truth.paths[:k]]
        close(found.log_prob[n], wanted + [-np.inf] * (k - len(wanted)))
        best = [s if v > -np.inf else [] for v, s in truth.paths[:k]]
        assert found.segments[n] == best + [[]] * (k - len(best))


def test_questions_about_one_sentence():
    model, x, known = case("tokens, structure"), NEW[0], SOME[0]
    truth = Truth(model, x, known)
    posterior, found = model.posterior(x, known=known), model.k_best(x, 2, known=known)
    close(posterior.log_prob, truth.log_partition - truth.everything)
    close(posterior.segments, truth.segments)
    assert found.segments == [s for _, s in truth.paths[:2]]
    assert model.predict(x, known=known) == truth.paths[0][1]


def test_draws_come_as_often_as_they_should():
    model, count = case("tokens, structure"), 2000
    found = model.sample(jax.random.key(1), NEW, count)
    segments = found.segments
    for n, x in enumerate(NEW):
        truth = Truth(model, x)
        close(found.log_prob[n], truth.log_partition)
        for p, (_, s) in zip(truth.probs, truth.paths, strict=True):
            assert abs(segments[n].count(s) / count - p) <= 5 * np.sqrt(p * (1 - p) / count) + 1e-6
    assert len(model.sample(jax.random.key(1), NEW[0], 3).segments) == 3


@pytest.mark.slow
def test_a_batch_is_its_sentences():
    model = case("everything")
    together = model.posterior(NEW)
    for n, x in enumerate(NEW):
        alone = model.posterior(x)
        close(alone.segments, together.segments[n], atol=2e-6)
        close(model.log_partition(x), model.log_partition(NEW)[n], atol=2e-6)


def test_hard_potentials_in_float32():
    rng = np.random.default_rng(1)
    hard = lambda w: jnp.asarray(rng.choice([-1000.0, 1000.0, 3.0], np.shape(w)), jnp.float32)  # noqa: E731
    where = lambda m: (m.transition, m.length, m.first, m.features[0].feature.node.values)  # noqa: E731
    model = case("everything")
    model = eqx.tree_at(where, model, tuple(hard(w) for w in where(model)))
    found, path, log_partition = model.posterior(NEW), model.viterbi(NEW), model.log_partition(NEW)
    for n, x in enumerate(NEW):
        truth = Truth(model, x)
        close(log_partition[n], truth.log_partition, atol=2e-3)
        close(found.marginals[n], truth.tokens, atol=2e-3)
        close(path.log_prob[n], truth.paths[0][0] - truth.log_partition, atol=2e-3)


# Fits


def problem(weights=(1.0, 2.0, 0.5, 1.0)):
    """With one feature for each kind of potential: what else there is, is added to these."""
    features = [*KINDS["steps"]()[:1], F.begins(cr.templates("U:%x[0,0]")), F.segment_dense(numbers), *KINDS["pairs"]()]
    crf = cr.SemiMarkovCRF(LABELS, features, max_length=LENGTHS)
    batch = Batch.of(X)
    return crf._problem(batch, read_segmentations(Y, batch, LABELS, crf.max_lengths), np.array(weights), False)[1]


def test_slopes_are_the_gradient_of_the_loss_and_both_finite_differences():
    with jax.enable_x64(True):
        one = problem()
        start, back = flattened(one.parameters())
        at = np.random.default_rng(0).normal(size=start.size)

        @jax.jit
        def both(flat):
            scores, pull = jax.vjp(lambda f: one.scores(back(f)), flat)
            value, by_scores = one.slopes(scores, compound.Scaled())
            return jax.value_and_grad(lambda f: one.loss(back(f)))(flat), (value, pull(by_scores)[0])

        (value, slope), (again, explicit) = both(at)
        loss = lambda flat: float(both(flat)[0][0])  # noqa: E731
        assert float(again) == pytest.approx(float(value), abs=1e-10)
        np.testing.assert_allclose(explicit, slope, atol=1e-10)
        for p, step in enumerate(1e-5 * np.eye(len(at))):
            difference = (loss(at + step) - loss(at - step)) / 2e-5
            assert slope[p] == pytest.approx(difference, abs=1e-7)


@pytest.mark.parametrize(
    "method",
    [
        pytest.param(cr.LBFGS(l2=0.01), marks=pytest.mark.slow),
        pytest.param(cr.LBFGS(l1=0.02, l2=0.001), marks=pytest.mark.slow),
        cr.MiniBatch(epochs=60, batch_size=2, learning_rate=0.1),
    ],
    ids=["l2", "l1", "mini-batches"],
)
def test_fits(method):
    crf = cr.SemiMarkovCRF(LABELS, [F.segment_attributes(names), *KINDS["tokens"]()], max_length=LENGTHS)
    fit = crf.fit(X, Y, method=method, key=jax.random.key(0))
    assert fit.model.predict(X) == Y
    assert fit.log_prob == pytest.approx(np.sum(fit.model.log_prob(X, Y)), rel=1e-4, abs=1e-4)
    assert fit.history[-1] > fit.history[0]
    assert fit.num_observations == 12


def test_at_zero_all_segmentations_are_alike_and_a_second_fit_compiles_nothing():
    crf = cr.SemiMarkovCRF(LABELS, KINDS["tokens"](), max_length=LENGTHS)
    first = crf.fit(X, Y, method=FEW)
    counts = [sum(1 for _ in segmentations(len(x))) for x in X]
    assert first.history[0] == pytest.approx(-np.log(counts).sum(), rel=1e-6)
    before = crf_engine._climb._cache_size()
    crf.fit(X, Y, method=cr.LBFGS(l2=0.5, max_iterations=3), sample_weight=[1, 2, 3, 4])
    assert crf_engine._climb._cache_size() == before
    again = first.model.fit(X, Y, method=FEW)
    assert again.history[0] == pytest.approx(first.history[-1], rel=1e-5)


def test_tags_are_segments():
    tags = [["O", "B-A", "I-A", "B-B"], ["B-A", "I-A"], ["I-B"], ["B-B", "I-B", "I-B", "O", "O"]]
    assert [segments_of_tags(t) for t in tags] == Y
    crf = cr.SemiMarkovCRF(LABELS, KINDS["tokens"](), max_length=LENGTHS)
    assert crf.fit(X, tags, method=FEW).log_prob == crf.fit(X, Y, method=FEW).log_prob
    new = [["O", "B-A", "I-A", "B-B"], ["B-B"], ["B-A", "I-A", "B-B"]]
    model = case("everything")
    close(model.log_prob(NEW, new), model.log_prob(NEW, [segments_of_tags(t) for t in new]))


@pytest.mark.slow
def test_lengths_of_one_are_a_linear_chain():
    """A segment of one token is a token: the same objective, the same optimum."""
    y = [["a", "b", "b", "a"], ["b", "a"], ["b"], ["a", "a", "b", "b", "a"]]
    features = [cr.templates("%x[0,0]")]
    chain = cr.LinearChainCRF(["a", "b"], features).fit(X, y, method=cr.LBFGS(l2=0.1))
    crf = cr.SemiMarkovCRF(["a", "b"], features, max_length=1, lengths=False)
    segments = crf.fit(X, [[(t, t + 1, k) for t, k in enumerate(tags)] for tags in y], method=cr.LBFGS(l2=0.1))
    assert segments.history[-1] == pytest.approx(chain.history[-1], rel=1e-5)
    close(segments.model.posterior(NEW[0]).marginals, chain.model.posterior(NEW[0]).marginals, atol=2e-3)
    assert segments.num_parameters == chain.num_parameters


@pytest.mark.slow
def test_vector_sentences():
    rng = np.random.default_rng(0)
    x = [rng.normal(size=(n, 2)) for n in (3, 5, 1)]
    y = [[(0, 3, 1)], [(0, 2, 0), (2, 5, 1)], [(0, 1, 0)]]
    dense = [F.dense(), F.begins(F.dense()), F.segment_dense(lambda x, start, stop: x[start:stop].sum(0))]
    model = cr.SemiMarkovCRF([0, 1], dense, max_length=4).fit(x, y, method=cr.LBFGS(l2=0.001)).model
    assert model.predict(x) == y
    assert model.predict(x[0]) == y[0]


def test_saved_and_loaded(tmp_path):
    model = case("tokens")
    cr.save(tmp_path / "crf.npz", model)
    again = cr.load(tmp_path / "crf.npz")
    assert repr(again) == repr(model)
    assert (again.strongest(1000), again.strongest_steps(9)) == (model.strongest(1000), model.strongest_steps(9))
    for number, wanted in zip(jax.tree.leaves(again), jax.tree.leaves(model), strict=True):
        np.testing.assert_array_equal(number, wanted)
    whole = case("everything")
    cr.save(tmp_path / "all.npz", whole)
    again = cr.load(tmp_path / "all.npz", like=whole)
    assert again.predict(NEW) == whole.predict(NEW)
    np.testing.assert_array_equal(again.log_partition(NEW), whole.log_partition(NEW))


def test_looking_at_it():
    model = case("everything")
    rows = model.strongest(1000)
    assert {"segment: of_segment[0]", "segment: of_pair"} <= {row["feature"] for row in rows}
    assert any(str(row["feature"]).startswith("begin: ") for row in rows)
    assert any(str(row["feature"]).startswith("segment: text=") for row in rows)
    assert len(model.strongest_steps(3)) == 3
    assert repr(model).startswith("SemiMarkovCRF(3 labels, [")
    assert "segments up to 3" in repr(model)


# Wrong use


def crf(*features, max_length=3, **options):
    return cr.SemiMarkovCRF(LABELS, list(features) or KINDS["tokens"](), max_length=max_length, **options)


MODELS = {
    "zero": (lambda: crf(max_length=0), "max_length of label 'O' is 0; a segment has one token or more"),
    "half": (lambda: crf(max_length=1.5), "max_length of label 'O' is 1.5; wanted a whole number"),
    "missing": (lambda: crf(max_length={"O": 1}), "a length for each label: label 'A' has none"),
    "strange": (lambda: crf(max_length=LENGTHS | {"X": 1}), "a length for each label: 'X' is not a label"),
    "twice": (lambda: cr.SemiMarkovCRF(["a", "a"], [], max_length=1), "label 'a' is there twice"),
    "no feature": (lambda: crf("%x[0,0]"), "is not a feature"),
    "pairs": (lambda: crf(min_pairs=0), "min_pairs is 0"),
    "three": (lambda: cr.segment_function(lambda x, start, y: 1), r"takes 3 arguments; wanted f\(x, start, stop, y\)"),
    "no function": (lambda: cr.segment_function(3), "3 is not a function"),
    "linear": (lambda: cr.LinearChainCRF(LABELS, [F.begins(cr.templates("%x[0,0]"))]), "is not a feature"),
}


@pytest.mark.parametrize("what", MODELS)
def test_models(what):
    build, message = MODELS[what]
    with pytest.raises(ValueError, match=message):
        build()


FITS = {
    "gap": ([(0, 1, "O"), (2, 4, "A")], r"sentence 0, segment \(2, 4, 'A'\) leaves a gap: tokens 1 to 1"),
    "overlap": ([(0, 2, "A"), (1, 4, "A")], r"segment \(1, 4, 'A'\) overlaps the one before"),
    "short": ([(0, 2, "A")], "sentence 0: tokens 2 to 3 are in no segment"),
    "beyond": ([(0, 5, "A")], r"segment \(0, 5, 'A'\) does not fit a sentence of 4 tokens"),
    "empty": ([(0, 0, "A")], r"segment \(0, 0, 'A'\) does not fit"),
    "long": ([(0, 4, "A")], r"segment \(0, 4, 'A'\) has 4 tokens, but max_length is 3; raise it, or split"),
    "unknown": ([(0, 4, "X")], r"segment \(0, 4, 'X'\): the model has the labels \['O', 'A', 'B'\]"),
    "no segment": ([(0, 4)], r"sentence 0: \(0, 4\) is not a segment; wanted \(start, stop, label\)"),
    "none": (None, "the segments of sentence 0 are None; wanted a list"),
    "tags": (["O", "O"], "sentence 0 has 4 tokens, but 2 tags"),
    "wrong tags": (["O", "X-A", "O", "O"], "sentence 0: tag 'X-A' at position 1 does not fit BIO"),
}


@pytest.mark.parametrize("what", FITS)
def test_segmentations(what):
    y, message = FITS[what]
    with pytest.raises(ValueError, match=message):
        crf().fit(X[:1], [y])


def test_other_wrong_uses():
    with pytest.raises(ValueError, match="segmentations for 1 sentences, but 4 sentences"):
        crf().fit(X, Y[:1])
    with pytest.raises(ValueError, match="has not seen data yet"):
        crf().predict(X)
    with pytest.raises(ValueError, match=r"fitted by LBFGS\(…\) or MiniBatch"):
        crf().fit(X, Y, method=cr.AveragedPerceptron())
    with pytest.raises(ValueError, match="sentence 0 begins with label 'A'"):
        crf(transitions=graph()).fit(X[1:2], Y[1:2])
    with pytest.raises(ValueError, match="sentence 0, token 1: label 'B' follows 'O'"):
        crf(transitions=graph()).fit(X[1:2], [[(0, 1, "O"), (1, 2, "B")]])
    with pytest.raises(ValueError, match="gives NaN or infinity in sentence 0"):
        crf(cr.segment_function(lambda x, start, stop, y: np.nan)).fit(X, Y)
    with pytest.raises(ValueError, match="must return a number, or always as many"):
        crf(cr.segment_function(lambda x, start, stop, y: x[start])).fit(X, Y)
    with pytest.raises(ValueError, match=r"begins\(…\) takes features of labels"):
        crf(F.begins(cr.feature_function(of_step))).fit(X, Y)
    with pytest.raises(ValueError, match="knows one label before"):
        crf(cr.feature_function(lambda x, h, j, y, i: 1)).fit(X, Y)
    none = lambda x, start, stop: {"v": np.nan if (start, stop) == (1, 3) else 1.0}  # noqa: E731
    with pytest.raises(ValueError, match=r"segment \(1, 3\) of sentence 0"):
        crf(F.segment_attributes(none)).fit(X, Y)
    with pytest.raises(ValueError, match=r"sentence 0 has NaN or infinity at segment \(1, 3\)"):
        crf(F.segment_dense(lambda *where: none(*where)["v"])).fit(X, Y)
    model = case("everything, structure")
    with pytest.raises(ValueError, match="sentence 1 has no possible labelling"):
        model.predict(NEW, known=[[None] * 4, ["A"], [None] * 3])
    with pytest.raises(ValueError, match="k is 0; ask for at least one segmentation"):
        model.k_best(NEW[0], 0)
