"""Networks, mini-batches, other objectives, local normalisation, saving, and looking at the weights."""

import equinox as eqx
import jax
import jax.numpy as jnp
import networkx as nx
import numpy as np
import oracles
import pytest
from crf_cases import learned, with_random_weights
from drawn import drawn

import chainrule as cr
from chainrule.models import crf_descent, crf_engine, crf_learning
from chainrule.models.crf_data import gold_of
from chainrule.models.features.base import Batch
from chainrule.models.results import Table

LABELS = ["D", "N", "V"]
X = [["the", "dog", "barks"], ["a", "cat", "sleeps"], ["the", "cat"], ["dog"], ["a", "dog", "sleeps", "the", "cat"]]
Y = [["D", "N", "V"], ["D", "N", "V"], ["D", "N"], ["N"], ["D", "N", "V", "D", "N"]]
WORDS = {word: n for n, word in enumerate(sorted({w for x in X for w in x}), 1)}
KEY = jax.random.key(3)


def ids(sentence):
    return np.array([WORDS.get(word, 0) for word in sentence])


def describe(sentence, i):
    return {"word": sentence[i], "first": i == 0}


def tagger(**options):
    def build():
        embedding = eqx.nn.Embedding(len(WORDS) + 1, 4, key=KEY)
        settings = {"cell": cr.neural.RNNCell, "hidden_size": 4, "dropout": 0.0} | options
        return cr.neural.SequenceTagger(embedding, 3, key=KEY, **settings)

    return drawn(build)


def spelled(sentence):
    """The words, and their letters from 1 on, padded to the longest word."""
    letters = np.zeros((len(sentence), max(map(len, sentence))), np.int32)
    for t, word in enumerate(sentence):
        letters[t, : len(word)] = [ord(letter) - 96 for letter in word]
    return ids(sentence), letters


class Pairs(eqx.Module):
    """Potentials of steps from the numbers at both ends; forgets nothing, so its sentences need rows of their own."""

    weight: jax.Array

    def __call__(self, x):
        return jnp.einsum("t,tkl->tkl", x[:-1] + x[1:], jnp.broadcast_to(self.weight, (len(x) - 1, 3, 3)))


@pytest.fixture(scope="module")
def sparse():
    crf = cr.LinearChainCRF(LABELS, [cr.templates("%x[0,0]", "%x[-1,0]")])
    return with_random_weights(learned(crf, X, Y))


# Networks


def test_a_packed_network_scores_each_sentence_as_if_it_were_alone():
    module = tagger()
    crf = cr.LinearChainCRF(LABELS, [cr.neural_feature(module, ids)], boundaries=False)
    alone = eqx.filter_jit(lambda sentence: module(sentence, inference=True))
    sentences = [X[0], X[3], X[1]]
    for sentence, log_partition in zip(sentences, crf.log_partition(sentences), strict=True):
        node = np.asarray(alone(ids(sentence)))
        truth = oracles.enumerate_chain(np.zeros(3), np.zeros((3, 3)), node).log_partition
        assert log_partition == pytest.approx(truth, rel=1e-5, abs=1e-5)


def test_potentials_of_steps_from_a_network_without_memory_of_rows():
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(3, 3)).astype(np.float32)
    x = [rng.normal(size=n).astype(np.float32) for n in (4, 2, 1, 3)]
    crf = cr.LinearChainCRF(LABELS, [cr.neural_feature(Pairs(jnp.asarray(weight)))])
    object.__setattr__(crf, "token", "array")
    for one, log_partition in zip(x, crf.log_partition(x), strict=True):
        pair = (one[:-1] + one[1:])[:, None, None] * weight
        truth = oracles.enumerate_chain(np.zeros(3), pair, np.zeros((len(one), 3))).log_partition
        assert log_partition == pytest.approx(truth, rel=1e-5, abs=1e-5)


def test_a_network_with_characters_learns_together_with_sparse_weights():
    spelling = drawn(lambda: cr.neural.CharacterCNN(27, 3, 4, widths=(2,), key=KEY))
    features = [cr.neural_feature(tagger(dropout=0.1, characters=spelling), spelled), cr.attributes(describe)]
    crf = cr.LinearChainCRF(LABELS, features)
    method = cr.MiniBatch(epochs=40, batch_size=3, learning_rate=0.03)
    fit = crf.fit(X, Y, method=method, key=KEY)
    assert fit.model.predict(X) == Y
    assert fit.history.shape == (40,)
    assert fit.history[-5:].mean() > fit.history[:5].mean()
    assert fit.log_prob == pytest.approx(fit.model.log_prob(X, Y).sum(), rel=1e-4)
    before, after = (model.features[0].module for model in (crf, fit.model))
    parts = [(module.embedding, module.characters, module.recurrent, module.output) for module in (before, after)]
    for old, new in zip(*parts, strict=True):  # each part of the network has learnt
        leaves = [jax.tree.leaves(eqx.filter(part, eqx.is_inexact_array)) for part in (old, new)]
        assert any(not np.allclose(a, b) for a, b in zip(*leaves, strict=True))
    strange = [["the", "zebra", "barks"], *X[1:]]  # a word and letters that training has not seen
    assert [len(labels) for labels in fit.model.predict(strange)] == [len(x) for x in X]


def test_what_a_network_returns_must_fit():
    class Wrong(eqx.Module):
        def __call__(self, x):
            return jnp.zeros((len(x), 5))

    wrong = cr.LinearChainCRF(LABELS, [cr.neural_feature(Wrong(), ids)])
    with pytest.raises(ValueError, match=r"returns shape \(\d+, 5\)"):
        wrong.fit(X, Y)
    with pytest.raises(ValueError, match=r"neural_feature\(Wrong\) gives potentials of 5 labels; the model has 3"):
        wrong.predict(X)
    with pytest.raises(ValueError, match=r"for \d+ steps the network returns shape \(2,\)"):
        cr.LinearChainCRF(LABELS, [cr.neural_feature(lambda x: jnp.zeros(2), ids)]).predict(X)
    with pytest.raises(ValueError, match="pass inputs="):
        cr.LinearChainCRF(LABELS, [cr.neural_feature(tagger())]).fit(X, Y)
    with pytest.raises(ValueError, match="sentence 0 has 3 tokens"):
        cr.LinearChainCRF(LABELS, [cr.neural_feature(tagger(), lambda s: ids(s)[:1])]).fit(X, Y)
    with pytest.raises(ValueError, match="not callable"):
        cr.neural_feature(3)


# Mini-batches


def test_mini_batches_come_near_the_optimum_of_the_whole():
    crf = cr.LinearChainCRF(LABELS, [cr.attributes(describe)])
    best = crf.fit(X, Y, method=cr.LBFGS(l2=0.1))
    method = cr.MiniBatch(epochs=400, batch_size=2, learning_rate=0.05, l2=0.1, decay=0.0)
    near = crf.fit(X, Y, method=method, key=KEY)
    assert near.restart_objectives[0] <= best.restart_objectives[0] + 1e-3
    assert near.restart_objectives[0] == pytest.approx(best.restart_objectives[0], abs=0.02)


def test_the_same_key_gives_the_same_fit_and_compiles_once():
    crf = cr.LinearChainCRF(LABELS, [cr.attributes(describe)])
    method = cr.MiniBatch(epochs=400, batch_size=2, learning_rate=0.1)
    first = crf.fit(X, Y, method=method, key=KEY)
    before = crf_descent.descend._cache_size()
    second = crf.fit(X, Y, method=cr.MiniBatch(epochs=400, batch_size=2, learning_rate=0.1), key=KEY)
    other = crf.fit(X, Y, method=cr.MiniBatch(epochs=400, batch_size=2, learning_rate=0.2), key=jax.random.key(4))
    assert crf_descent.descend._cache_size() == before
    assert first.log_prob == second.log_prob != other.log_prob


def test_validation_keeps_the_best_epoch_and_stops():
    seen = []

    def score(model):
        seen.append(model)
        return [0.1, 0.5, 0.2, 0.5, 0.4][len(seen) - 1]

    crf = cr.LinearChainCRF(LABELS, [cr.attributes(describe)])
    method = cr.MiniBatch(epochs=5, batch_size=2, learning_rate=0.05)
    fit = crf.fit(X, Y, method=method, key=KEY, validation=cr.Validation(score, patience=2))
    assert fit.status is cr.Status.STOPPED_EARLY
    np.testing.assert_array_equal(fit.validation, [0.1, 0.5, 0.2, 0.5])
    assert fit.history.shape == (4,)
    for kept, best in zip(jax.tree.leaves(fit.model), jax.tree.leaves(seen[1]), strict=True):
        np.testing.assert_array_equal(kept, best)
    assert fit.log_prob == pytest.approx(fit.model.log_prob(X, Y).sum(), rel=1e-4)

    # who only looks on changes nothing
    several = crf.fit(X, Y, method=method, key=KEY, validation=cr.Validation(lambda model: None))
    alone = crf.fit(X, Y, method=method, key=KEY)
    assert alone.validation is None
    assert several.status is alone.status is cr.Status.MAX_ITERATIONS
    assert several.validation is not None
    assert np.isnan(several.validation).all()
    np.testing.assert_allclose(several.history, alone.history, rtol=1e-5)
    assert several.log_prob == pytest.approx(alone.log_prob, rel=1e-4)


def test_validation_refuses():
    crf = cr.LinearChainCRF(LABELS, [cr.attributes(describe)])
    method = cr.MiniBatch(epochs=5, batch_size=2)
    with pytest.raises(ValueError, match="wanted one number"):
        crf.fit(X, Y, method=method, key=KEY, validation=cr.Validation(lambda model: model.predict(X)))
    with pytest.raises(ValueError, match="LBFGS has none; use MiniBatch"):
        crf.fit(X, Y, validation=cr.Validation(lambda model: None))
    with pytest.raises(ValueError, match="patience is 0"):
        cr.Validation(lambda model: None, patience=0)
    with pytest.raises(ValueError, match=r"score is 0\.5"):
        cr.Validation(0.5)  # pyright: ignore[reportArgumentType]


def test_random_methods_need_a_key():
    with pytest.raises(ValueError, match="give key="):
        cr.LinearChainCRF(LABELS, [cr.attributes(describe)]).fit(X, Y, method=cr.MiniBatch())


# Objectives


def slow_objective(model, cost, soft):
    """Σ over sentences, by enumeration of the model's own chains."""
    total = 0.0
    for x, y in zip(X, Y, strict=True):
        chain = model.chain(x)
        initial, pair, node = (np.asarray(a, float) for a in (chain.initial, chain.pair, chain.node))
        gold = [LABELS.index(label) for label in y]
        node[np.arange(len(y)), gold] -= cost
        node += cost
        found = oracles.enumerate_chain(initial, pair, node)
        own = oracles.score_path(initial, pair, node, gold)
        total += (found.log_partition if soft else found.paths[0][0]) - own
    return total


@pytest.mark.parametrize("soft", [True, False])
def test_margins_are_what_enumeration_says(soft):
    crf = cr.LinearChainCRF(LABELS, [cr.attributes(describe)])
    objective = cr.SoftmaxMargin(0.7) if soft else cr.MaxMargin(0.7)
    method = cr.LBFGS(l2=0.0, max_iterations=2) if soft else cr.MiniBatch(epochs=60, batch_size=2, learning_rate=0.002)
    fit = crf.fit(X, Y, method=method, objective=objective, key=KEY)
    assert -fit.restart_objectives[0] == pytest.approx(slow_objective(fit.model, 0.7, soft), rel=1e-4, abs=1e-5)
    assert fit.log_prob == pytest.approx(fit.model.log_prob(X, Y).sum(), rel=1e-4, abs=1e-5)


def test_a_perceptron_by_hand(capsys):
    """One sentence, one attribute: the first step is from a tie, and the mean of one step is that step."""
    crf = cr.LinearChainCRF(["a", "b"], [cr.attributes()], boundaries=False, all_pairs=True)
    fit = crf.fit([["u", "v"]], [["b", "a"]], method=cr.AveragedPerceptron(1), key=KEY, progress=True)
    assert "1/1" in capsys.readouterr().err
    # at zero weights Viterbi takes "a" twice: f(x, y) − f(x, ŷ) moves u from a to b, and the step a → a to b → a
    weights = {(row["feature"], row["label"]): row["weight"] for row in fit.model.strongest(10)}
    assert weights == {("u", "b"): 1.0, ("u", "a"): -1.0}
    np.testing.assert_array_equal(fit.model.transition, [[-1, 0], [1, 0]])


def test_perceptron_and_margin_learn_what_can_be_learnt():
    crf = cr.LinearChainCRF(LABELS, [cr.attributes(describe)])
    perceptron = crf.fit(X, Y, method=cr.AveragedPerceptron(10), key=KEY)
    assert perceptron.history[-1] == 0  # it stops where nothing is wrong, be it by a tie
    assert cr.evaluation.token_accuracy(Y, perceptron.model.predict(X)) > 0.8
    method = cr.MiniBatch(epochs=60, batch_size=2, learning_rate=0.1)
    margin = crf.fit(X, Y, method=method, objective=cr.MaxMargin(), key=KEY)
    assert margin.model.predict(X) == Y
    assert margin.restart_objectives[0] == pytest.approx(0, abs=0.5)


def test_margins_need_all_labels():
    crf = cr.LinearChainCRF(LABELS, [cr.attributes(describe)])
    with pytest.raises(ValueError, match="MaxMargin needs all labels"):
        crf.fit([["the", "dog"]], [["D", None]], objective=cr.MaxMargin())
    with pytest.raises(ValueError, match="cost is -1"):
        cr.MaxMargin(-1)
    with pytest.raises(ValueError, match="objective is"):
        crf.fit(X, Y, objective="hinge")
    for objective in (cr.Likelihood(), cr.MaxMargin(1.0)):
        with pytest.raises(ValueError, match="perceptron has an objective of its own"):
            crf.fit(X, Y, method=cr.AveragedPerceptron(), objective=objective, key=KEY)


# Local normalisation


def test_a_model_of_local_steps_is_a_product_of_them_and_respects_structure():
    labels = ["O", "B", "I"]
    x, y = [["a", "b", "c", "a"], ["c", "b", "c", "b"]], [["B", "I", "O", "B"], ["O", "B", "I", "O"]]
    features = [cr.attributes(), cr.templates("B:%x[0,0]")]
    crf = cr.LinearChainCRF(labels, features, transitions=cr.bio_graph(labels), local=True, all_pairs=True)
    fit = crf.fit(x, y, method=cr.LBFGS(l2=0.1))
    np.testing.assert_allclose(fit.model.log_partition(x), 0, atol=1e-5)
    assert fit.log_prob == pytest.approx(fit.model.log_prob(x, y).sum(), rel=1e-4)
    chain = fit.model.chain(x[0])
    np.testing.assert_allclose(np.exp(chain.pair).sum(-1), 1, rtol=1e-5)
    np.testing.assert_allclose(np.exp(chain.node[0]).sum(), 1, rtol=1e-5)
    np.testing.assert_array_equal(chain.node[1:], 0)
    assert (np.asarray(chain.pair)[:, 0, 2] == -np.inf).all()
    everything = oracles.enumerate_chain(chain.initial, chain.pair, chain.node)
    assert everything.log_partition == pytest.approx(0, abs=1e-5)
    assert fit.model.predict(x) == y
    # in training labels that are not known are summed out
    some, batch = [["B", None, "O", None], [None, {"I", "B"}, None, "O"]], Batch.of(x)
    gold = gold_of(some, batch, fit.model.labels)
    problem = crf_learning.problem_of(fit.model, batch, gold, np.ones(2), False, cr.Likelihood())[1]
    loss = jax.jit(lambda problem: problem.loss(problem.parameters()))(problem)
    assert -float(loss) == pytest.approx(fit.model.log_prob(x, some).sum(), rel=1e-4)


def test_local_steps_that_come_to_a_dead_end(capsys):
    graph = nx.DiGraph([("D", "N"), ("N", "V"), ("V", "V"), ("V", "D"), ("D", "D")])
    graph.add_node("D", final=False)
    graph.add_node("N", final=False)
    crf = cr.LinearChainCRF(LABELS, [cr.attributes()], transitions=graph, local=True)
    x, y = [["a", "b", "c", "d"], ["c", "a", "b", "c"]], [["D", "D", "N", "V"], ["V", "D", "N", "V"]]
    fit = crf.fit(x, y, method=cr.LBFGS(l2=0.1), progress=True)
    shown = capsys.readouterr().err
    assert "L-BFGS" in shown
    assert f" {fit.iterations}/200 " in shown
    assert (fit.model.log_partition(x) < -1e-3).all()  # some mass is lost
    assert fit.log_prob == pytest.approx(fit.model.log_prob(x, y).sum(), rel=1e-4)
    chain = fit.model.chain(x[0])
    scores = (chain.initial, chain.pair, chain.node)
    wanted = oracles.score_path(*scores, [0, 0, 1, 2]) - oracles.enumerate_chain(*scores).log_partition
    assert fit.model.log_prob(x, y)[0] == pytest.approx(wanted, abs=1e-5)


# Saving


def test_a_saved_model_predicts_the_same(tmp_path, sparse):
    cr.save(tmp_path / "crf.npz", sparse)
    back = cr.load(tmp_path / "crf.npz")
    assert back.predict(X) == sparse.predict(X)
    np.testing.assert_array_equal(back.log_prob(X, Y), sparse.log_prob(X, Y))
    assert repr(back) == repr(sparse)


def test_code_is_taken_from_a_model_like_it(tmp_path):
    def agrees(x, y_prev, y, i):
        return y_prev == "D" and y == "N"

    def build():
        features = [cr.attributes(describe), cr.feature_function(agrees), cr.neural_feature(tagger(), ids)]
        return cr.LinearChainCRF(LABELS, features, transitions=None)

    fitted = with_random_weights(learned(build(), X, Y))
    cr.save(tmp_path / "crf.npz", fitted)
    back = cr.load(tmp_path / "crf.npz", like=build())
    np.testing.assert_allclose(back.log_prob(X, Y), fitted.log_prob(X, Y), rtol=1e-6)
    with pytest.raises(ValueError, match="describe, code that a file cannot hold"):
        cr.load(tmp_path / "crf.npz")


# Inspection


def test_the_strongest_weights_are_told_by_name(sparse):
    weights = sparse.features[0].node
    best = int(np.argmax(np.abs(weights.values)))
    top = sparse.strongest(3)
    assert top[0]["weight"] == pytest.approx(float(weights.values[best]))
    assert top[0]["feature"] == sparse.features[0].index.node.name(int(weights.attribute[best]))
    assert [abs(row["weight"]) for row in top] == sorted((abs(row["weight"]) for row in top), reverse=True)
    assert {row["label"] for row in sparse.strongest(5, label="N")} == {"N"}
    step = sparse.strongest_steps(1)[0]
    at = LABELS.index(step["previous"]), LABELS.index(step["label"])
    assert abs(step["weight"]) == pytest.approx(np.abs(np.asarray(sparse.transition)).max())
    assert step["weight"] == pytest.approx(float(sparse.transition[at]))
    with pytest.raises(ValueError, match="at least one row"):
        sparse.strongest(0)


def test_weights_of_steps_numbers_and_functions_are_told_by_name():
    def parity(x, y, i):
        return [y == "a", i % 2]

    x = [["p", "q"], ["q", "q", "p"]]
    features = [
        cr.templates("B0:%x[0,0]"),
        cr.feature_function(parity),
        cr.dense(lambda s: np.array([[len(w)] for w in s])),
    ]
    crf = with_random_weights(learned(cr.LinearChainCRF(["a", "b"], features), x, [["a", "b"], ["b", "b", "a"]]))
    rows = crf.strongest(50)
    named = {row["feature"] for row in rows}
    assert {"parity[0]", "bias", "x[0]"} <= named
    assert {row["previous"] for row in rows if row["feature"].startswith("B0:")} <= {"a", "b"}


def test_tables_read_as_tables():
    table = Table([{"weight": 1.23456789, "label": "N"}, {"weight": -2.0, "previous": "D"}])
    assert repr(table).splitlines() == ["weight  label  previous", "1.235   N", "-2             D"]


# The engine below


def test_a_fit_goes_on_in_log_space_where_the_scaled_engine_fails():
    """Weights so large that labels lost at both ends matter in the middle: only log space can tell what they are worth."""
    crf = cr.LinearChainCRF(LABELS, [cr.attributes(describe)])
    start = crf.fit(X, Y, method=cr.LBFGS(l2=0.1)).model
    steep = eqx.tree_at(lambda m: m.transition, start, np.float32(400 * (np.eye(3) - 1)))
    before = crf_engine._climb._cache_size()
    fit = steep.fit(X, Y, method=cr.LBFGS(l2=1e-4))
    assert crf_engine._climb._cache_size() == before + 1  # the program with both engines
    again = crf.fit(X, Y, method=cr.LBFGS(l2=1e-4))
    assert fit.restart_objectives[0] == pytest.approx(again.restart_objectives[0], abs=1e-3)
    assert np.isfinite(fit.history).all()
