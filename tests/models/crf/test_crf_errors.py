"""Wrong use of a CRF: every message says what is wrong, and where."""

import jax
import networkx as nx
import numpy as np
import pytest
from crf_cases import LABELS, NEW, TAGS, WORDS, learned

import chainrule as cr

WORD = cr.templates("%x[0,0]")


def crf(*features, **options):
    return cr.LinearChainCRF(LABELS, list(features) or [WORD], **options)


@pytest.fixture(scope="module")
def model():
    return learned(crf(), WORDS, TAGS)


def graph(edges=None, **nodes):
    built = nx.DiGraph(edges or [(a, b) for a in LABELS for b in LABELS])
    for label, ends in nodes.items():
        built.add_node(label, **ends)
    return built


MODELS = {
    "no labels": (lambda: cr.LinearChainCRF([], [WORD]), "there are no labels"),
    "a string": (lambda: cr.LinearChainCRF("DNV", [WORD]), "labels is the string 'DNV'; wanted a list"),
    "twice": (lambda: cr.LinearChainCRF(["D", "N", "D"], [WORD]), "label 'D' is there twice"),
    "a template": (lambda: crf("%x[0,0]"), "'%x.0,0.' is not a feature; use attributes"),
    "a bare feature": (lambda: cr.LinearChainCRF(LABELS, WORD), "wanted a list, such as"),
    "a bare string": (lambda: cr.LinearChainCRF(LABELS, "%x[0,0]"), "wanted a list, such as"),
    "a bare function": (lambda: crf(lambda x, y, i: 1), "is not a feature"),
    "min_pairs": (lambda: crf(min_pairs=0), "min_pairs is 0"),
    "undirected": (lambda: crf(transitions=nx.Graph([("D", "N")])), "wanted a directed networkx graph"),
    "no graph": (lambda: crf(transitions=[("D", "N")]), "wanted a directed networkx graph"),
    "label missing": (lambda: crf(transitions=nx.DiGraph([("D", "N")])), "label 'V' is not a node"),
    "strange node": (lambda: crf(transitions=graph(X={})), "its node 'X' is not a label"),
    "no beginning": (lambda: crf(transitions=graph(**{k: {"initial": False} for k in LABELS})), "no label may begin"),
    "no end": (lambda: crf(transitions=graph(**{k: {"final": False} for k in LABELS})), "no label may end"),
    "not a function": (lambda: cr.feature_function(3), "3 is not a function"),
    "two arguments": (lambda: cr.feature_function(lambda x, i: 1), "takes 2 arguments; wanted f.x, y_prev, y, i."),
    "five arguments": (lambda: crf(cr.feature_function(lambda a, b, c, d, e: 1)), "takes y_prev2.* say order=2"),
    "not hashable": (
        lambda: cr.LinearChainCRF([["D"], ["N"]], [WORD]),
        r"\['D'\] cannot be a name: it is not hashable",
    ),
    "half of min_pairs": (lambda: crf(min_pairs=1.5), "min_pairs is 1.5; wanted a whole number"),
    "rare templates": (lambda: cr.templates("%x[0,0]", min_count=-5), "min_count is -5; attributes occur once or more"),
    "rare attributes": (lambda: cr.attributes(min_count=0.5), "min_count is 0.5; wanted a whole number"),
    "attributes of 5": (lambda: cr.attributes(5), "5 is not a function"),
    "dense of 5": (lambda: cr.dense(5), "5 is not a function"),
    "inputs of 5": (lambda: cr.neural_feature(lambda x: x, 5), "inputs is 5; wanted a function"),
    "a window": (lambda: cr.features.window(["a"], 0, -1), "radius is -1"),
    "a prefix": (lambda: cr.features.prefix("word", -1), "n is -1; a number of characters is not negative"),
    "a suffix": (lambda: cr.features.suffix("word", 1.5), "n is 1.5; wanted a whole number"),
    "tolerance": (lambda: cr.LBFGS(tolerance=np.nan), "LBFGS: tolerance is nan"),
    "iterations": (lambda: cr.LBFGS(max_iterations=2.5), "LBFGS: max_iterations is 2.5; wanted a whole number"),
    "epochs": (lambda: cr.MiniBatch(epochs=2.5), "MiniBatch: epochs is 2.5; wanted a whole number"),
    "batches": (lambda: cr.MiniBatch(batch_size=2.5), "MiniBatch: batch_size is 2.5; wanted a whole number"),
    "perceptron": (lambda: cr.AveragedPerceptron(True), "epochs is True; wanted a whole number"),
    "a chain": (
        lambda: cr.Chain(np.zeros(2), np.zeros((2, 2)), np.zeros((3, 2)), 2.7),
        "length is 2.7; wanted a whole",
    ),
    "six arguments": (lambda: cr.feature_function(lambda a, b, c, d, e, f: 1), "takes 6 arguments"),
}


@pytest.mark.parametrize("what", MODELS)
def test_models(what):
    build, message = MODELS[what]
    with pytest.raises(ValueError, match=message):
        build()


FITS = {
    "a string": ("the dog", TAGS, {}, r"x is the string 'the dog'.*x\.split\(\)"),
    "strings": (["the dog", "saw"], TAGS, {}, r"sentence 0 is the string 'the dog'.*x\.split\(\)"),
    "one sentence": (WORDS[0], TAGS[0], {}, "sentence 0 is the string 'the'"),
    "no sentences": ([], [], {}, "without sentences"),
    "a generator": ((w for w in WORDS), TAGS, {}, "generator without sentences"),
    "empty sentence": ([["a"], []], [["D"], []], {}, "sentence 1 is empty"),
    "a number": ([["a"], 3], TAGS, {}, "sentence 1 is int; wanted a list of tokens"),
    "a dict": ([{"w": "a"}], [["D"]], {}, "sentence 0 is dict; wanted a list of tokens"),
    "one array": (np.zeros(3), ["D", "N", "V"], {}, r"shape \(3,\), which is one sentence; wanted a list"),
    "a block of arrays": (
        np.zeros((2, 3, 4)),
        [["D"] * 3] * 2,
        {},
        r"shape \(2, 3, 4\), which is one sentence; .*list\(x\)",
    ),
    "mixed tokens": ([["a"], [("a", "b")]], [["D"], ["D"]], {}, "tokens are of different kinds: list, string"),
    "labels are a string": (WORDS, "DNV", {}, "labels are 'DNV'; wanted a list"),
    "no labels": (WORDS, None, {}, "labels are None; wanted a list"),
    "too few lists": (WORDS, TAGS[:3], {}, "labels for 3 sentences, but 4 sentences"),
    "flat": (WORDS, ["D", "N", "V", "D"], {}, "sentence 0 has 4 tokens, but the string 'D' for labels"),
    "flat numbers": (WORDS, [1, 2, 3, 4], {}, "labels of sentence 0 are 1; wanted a list"),
    "a sentence without": (WORDS, [*TAGS[:3], None], {}, "labels of sentence 3 are None; wanted a list"),
    "too few labels": (WORDS, [*TAGS[:1], ["D", "N"], *TAGS[2:]], {}, "sentence 1 has 3 tokens, but 2 labels"),
    "unknown": ([["a", "b"]], [["D", "X"]], {}, "sentence 0, token 1 has label 'X'; the model has the labels 'D', 'N'"),
    "unknown in a set": ([["a"]], [[{"D", "X"}]], {}, "sentence 0, token 0 has 'X' among its labels"),
    "empty set": ([["a"]], [[set()]], {}, "sentence 0, token 0 has an empty set of labels"),
    "a list of choices": ([["a"]], [[["D", "N"]]], {}, r"sentence 0, token 0 has label \['D', 'N'\]"),
    "weights": (WORDS, TAGS, {"sample_weight": [1, 2]}, r"shape \(2,\); wanted \(4,\)"),
    "negative": (WORDS, TAGS, {"sample_weight": [1, 1, -1, 1]}, r"sample_weight\[2\] is -1"),
    "NaN": (WORDS, TAGS, {"sample_weight": [1, np.nan, 1, 1]}, r"sample_weight\[1\] is nan"),
    "zeros": (WORDS, TAGS, {"sample_weight": np.zeros(4)}, "zero for all sentences"),
    "Adam": (WORDS, TAGS, {"method": cr.Adam()}, "method is Adam.*give LBFGS"),
    "no key": (WORDS, TAGS, {"method": cr.MiniBatch(), "key": 0}, r"fit: key is 0; give a random key"),
    "a name": (WORDS, TAGS, {"method": "lbfgs"}, "method is 'lbfgs'; give LBFGS"),
}


@pytest.mark.parametrize("what", FITS)
def test_fits(what):
    x, y, options, message = FITS[what]
    with pytest.raises(ValueError, match=message):
        crf().fit(x, y, **options)


CLOSED = graph([("D", "N"), ("N", "V"), ("N", "N"), ("V", "D")], V={"initial": False}, D={"final": False})
FORBIDDEN = {
    "begins": (["V", "D", "N"], "sentence 1 begins with label 'V'"),
    "ends": (["N", "V", "D"], "sentence 1 ends with label 'D'"),
    "follows": (["D", "N", "N", "V", "V"], "sentence 1, token 4: label 'V' follows 'V'"),
    "partial": (["D", None, "D", "N"], "sentence 1: `transitions` allows no labelling"),
    "a set": (["N", {"D", "N"}, "V", {"V", "N"}], "sentence 1: `transitions` allows no labelling"),
    "a set at the end": (["N", "V", {"D"}], "sentence 1 ends with label 'D'"),
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_labels_that_the_structure_forbids(what):
    y, message = FORBIDDEN[what]
    with pytest.raises(ValueError, match=message):
        crf(transitions=CLOSED).fit([["a", "b"], ["a"] * len(y)], [["D", "N"], y])


def nan_at_a(x, y, i):
    return np.nan if x[i] == "a" else 1.0


SHAPES = {1: [1.0], 2: [1.0, 2.0]}
FEATURES = {
    "NaN": (cr.feature_function(nan_at_a), [["b"], ["b", "a"]], "nan_at_a gives NaN or infinity at token 2"),
    "text": (cr.feature_function(lambda x, y, i: x[i]), [["b", "c"]], "must return a number, or always as many"),
    "ragged": (cr.feature_function(lambda x, y, i: SHAPES[i + 1]), [["b", "c"]], "must return a number, or always as"),
    "a numeral": (cr.feature_function(lambda x, y, i: "1"), [["b", "c"]], "must return a number.*it returned <U1"),
    "more later": (
        cr.feature_function(lambda x, y_prev, y, i: 1.0 if y_prev is None else [1.0, 2.0]),
        [["b", "c"]],
        "it returns 1 at i = 0, where y_prev is None, and 2 later",
    ),
    "one number": (cr.dense(lambda x: 1.0), [["a"]], r"sentence 0 gives the single number 1.0; wanted an array"),
    "arrays and lists": (cr.feature_function(nan_at_a), [["b"], np.ones(2)], "tokens are of different kinds"),
    "shapes": (
        cr.feature_function(lambda x, y, i: x[i, 0]),
        [np.ones((2, 3)), np.ones((2, 1))],
        r"sentence 1 has tokens of shape \(1,\), but sentence 0 has shape \(3,\)",
    ),
    "dense NaN": (cr.features.dense(), [np.ones((2, 1)), np.array([[1.0], [np.nan]])], "sentence 1 has NaN.* token 1"),
    "dense text": (cr.features.dense(), [["a", "b"]], "sentence 0 gives <U1, not numbers"),
    "dense widths": (cr.features.dense(), [np.ones((2, 3)), np.ones((2, 2))], "sentence 1 has 2 numbers a token, sen"),
    "dense length": (cr.features.dense(lambda x: np.ones((5, 1))), [["a"]], "1 tokens, but its array has 5 rows"),
}


@pytest.mark.parametrize("what", FEATURES)
def test_features(what):
    feature, x, message = FEATURES[what]
    with pytest.raises(ValueError, match=message):
        crf(feature).fit(x, [["D"] * len(s) for s in x])


@pytest.mark.parametrize("query", ["predict", "viterbi", "log_partition", "posterior", "entropy", "chain"])
def test_a_model_that_has_not_seen_data(query):
    with pytest.raises(ValueError, match=r"has not seen data yet: call fit\(x, y\)"):
        getattr(crf(), query)(["a"])


KEY = jax.random.key(0)
QUERIES = {
    "a string": (lambda m: m.predict("the dog"), r"x is the string.*x\.split\(\)"),
    "nothing": (lambda m: m.predict([]), "without sentences"),
    "an empty sentence": (lambda m: m.predict([["a"], []]), "sentence 1 is empty"),
    "dicts": (lambda m: m.predict([{"w": "a"}]), "sentence 0 are of kind 'dict', but the model was fitted to 'string'"),
    "columns": (lambda m: m.predict([["a"], [("a", "b")]]), "sentence 1 are of kind 'list'"),
    "numbers": (lambda m: m.predict([[1, 2]]), "sentence 0 are of kind 'object'"),
    "known unknown": (lambda m: m.predict(["a", "b"], known=[None, "X"]), "sentence 0, token 1 has label 'X'"),
    "known too short": (lambda m: m.predict(["a", "b"], known=["D"]), "sentence 0 has 2 tokens, but 1 labels"),
    "known for too few": (lambda m: m.predict(NEW, known=[["D"]]), "labels for 1 sentences, but 3"),
    "known a string": (lambda m: m.predict(["a"], known="D"), "sentence 0 has 1 tokens, but the string 'D'"),
    "k": (lambda m: m.k_best(["a"], 0), "k is 0; ask for"),
    "half a k": (lambda m: m.k_best(["a"], 1.5), "k is 1.5; wanted a whole number"),
    "chain of several": (lambda m: m.chain(NEW), "chain takes one sentence, got 3"),
    "half a draw": (lambda m: m.sample(KEY, ["a"], 2.5), "num_samples is 2.5; wanted a whole number"),
    "half a row": (lambda m: m.strongest(2.5), "n is 2.5; wanted a whole number"),
    "no steps": (lambda m: m.strongest_steps(0), "n is 0; ask for at least one row"),
    "an index to fit": (lambda m: m.fit(m.index(NEW), TAGS), "made by index.*fit reads the sentences themselves"),
    "no draws": (lambda m: m.sample(KEY, ["a"], 0), "num_samples is 0"),
    "y for another": (lambda m: m.log_prob(["a", "b"], ["D"]), "sentence 0 has 2 tokens, but 1 labels"),
    "state": (lambda m: m.posterior(["a"])["X"], "no state is called 'X'"),
}


@pytest.mark.parametrize("what", QUERIES)
def test_queries(model, what):
    ask, message = QUERIES[what]
    with pytest.raises(ValueError, match=message):
        ask(model)


def test_other_numbers_than_in_training():
    model = learned(crf(cr.features.dense()), [np.ones((2, 3))], [["D", "N"]])
    with pytest.raises(ValueError, match="2 numbers a token, but the model was fitted with 3"):
        model.predict([np.ones((4, 2))])
    with pytest.raises(ValueError, match=r"the weights have shape \(3, 3\); these data ask for \(2, 3\)"):
        model.fit([np.ones((4, 2))], [["D", "N", "N", "V"]])


def test_many_calls_of_a_function_are_announced(monkeypatch):
    from chainrule.models.features import functions

    monkeypatch.setattr(functions, "MANY_CALLS", 10)
    with pytest.warns(UserWarning, match="is called 18 times, in Python"):
        learned(crf(cr.feature_function(lambda x, y_prev, y, i: 1.0)), [["a", "b"]], [["D", "N"]])


def test_functions_may_have_defaults():
    """As in `[feature_function(lambda x, y, i, word=word: …) for word in words]`."""
    features = [cr.feature_function(lambda x, y, i, word=word: x[i] == word) for word in ("a", "b")]
    assert not any(feature.looks_back for feature in features)
    assert cr.feature_function(lambda x, y_prev, y, i, *, scale=1.0: scale).looks_back


def test_integers_before_floats_keep_the_floats():
    def value(x, y, i):
        return x[i]

    x = [np.array([1, 2]), np.array([0.5, 1.5], np.float32)]
    feature = learned(crf(cr.feature_function(value)), x, [["D", "N"]] * 2).features[0]
    table = feature._tables(*_batch(x))[0]
    assert sorted(table[:2, 0].reshape(-1).tolist()) == [0.5, 1.0, 1.5, 2.0]


def _batch(x):
    from chainrule.models.features.base import Batch

    return Batch.of(x), LABELS
