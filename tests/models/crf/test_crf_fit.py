"""Fits of a CRF: the optimum of an objective that is written out path by path, in float64."""

import itertools

import jax
import networkx as nx
import numpy as np
import pytest
from crf_cases import flattened
from scipy.optimize import minimize
from scipy.special import logsumexp

import chainrule as cr
from chainrule.models import crf_engine, crf_learning
from chainrule.models.crf_data import gold_of
from chainrule.models.features.base import Batch

X = [["a", "b", "a"], ["b", "c"], ["d"], ["e", "a", "f"], ["g", "b", "g"]]  # c, d, e and f are there once
Y = [["A", "B", "A"], ["B", "A"], ["B"], ["A", "A", "A"], ["B", "B", "A"]]
PARTIAL = [["A", None, "A"], ["B", "A"], [{"A", "B"}], [None, None, None], ["B", {"B"}, "A"]]
TEMPLATES = ("U:%x[0,0]", "V:%x[-1,0]")
EXACT = {"tolerance": 0.0, "max_iterations": 500}


def crf(templates=TEMPLATES, **options):
    return cr.LinearChainCRF(["A", "B"], [cr.templates(*templates)], **options)


def fit(x=X, y=Y, *, templates=TEMPLATES, sample_weight=None, options=None, **method):
    with jax.enable_x64(True):
        return crf(templates, **(options or {})).fit(
            x, y, method=cr.LBFGS(**{**EXACT, **method}), sample_weight=sample_weight
        )


# The objective, path by path


class Objective:
    """Σ weight · log p(y | x) − l2 Σ w² − l1 Σ |w|, of weights by name."""

    def __init__(self, x, y, *, weight=None, l1=0.0, l2=0.0, boundaries=True, seen_steps=False, pairs="seen", steps=()):
        weight = np.ones(len(x)) if weight is None else weight
        self.l1, self.l2, self.weight = l1, l2, weight
        counts: dict = {}
        for words, tags in zip(x, y, strict=True):
            for name in facts(words, tags, steps):
                counts[name] = counts.get(name, 0) + 1
        every = {n for words in x for path in labellings(words) for n in facts(words, path, steps)}
        least = pairs if isinstance(pairs, int) else 1
        wanted = [
            name
            for name in sorted(every, key=repr)
            if (name[0] == "step" and (counts.get(name) or not seen_steps))
            or (name[0] in ("first", "last") and boundaries)
            or (name[0] in ("U", "V", "S") and (pairs == "all" or counts.get(name, 0) >= least))
        ]
        self.names = wanted
        number = {name: n for n, name in enumerate(wanted)}
        self.tables = []
        for words, tags in zip(x, y, strict=True):
            paths = labellings(words)
            table = np.zeros((len(paths), len(wanted)))
            for row, path in zip(table, paths, strict=True):
                for name in facts(words, path, steps):
                    if name in number:
                        row[number[name]] += 1
            agrees = [all(t is None or k in t for k, t in zip(path, tags, strict=True)) for path in paths]
            self.tables.append((table, np.array(agrees)))

    def log_prob(self, w):
        """Its value and gradient."""
        value, slope = 0.0, np.zeros(len(w))
        for weight, (table, agrees) in zip(self.weight, self.tables, strict=True):
            scores = table @ w
            value += weight * (logsumexp(scores[agrees]) - logsumexp(scores))
            slope += weight * (table.T @ (softmax(np.where(agrees, scores, -np.inf)) - softmax(scores)))
        return value, slope

    def best(self):
        """The optimum: L1 by w = p − q with p, q ≥ 0."""
        size = len(self.names)

        def loss(pq):
            w = pq[:size] - pq[size:]
            value, slope = self.log_prob(w)
            slope = -slope + 2 * self.l2 * w
            both = np.concatenate([slope, -slope]) + self.l1
            return -value + self.l2 * w @ w + self.l1 * pq.sum(), both

        bounds = [(0, None)] * (2 * size) if self.l1 else [(None, None)] * size + [(0, 0)] * size
        options = {"maxiter": 5000, "ftol": 1e-15, "gtol": 1e-9, "maxfun": 20000}
        found = minimize(loss, np.zeros(2 * size), jac=True, bounds=bounds, method="L-BFGS-B", options=options)
        return -found.fun, found.x[:size] - found.x[size:]

    def weights_of(self, model):
        """The model's weights in the order of the names."""
        index = {label: k for k, label in enumerate(model.labels)}
        feature = model.features[0]
        table = {}
        for which in ("node", "pair"):
            weights = getattr(feature, which)
            if weights is not None:
                names = getattr(feature.index, which).names()
                for a, k, value in zip(weights.attribute, weights.outcome, np.asarray(weights.values), strict=True):
                    table[names[a], int(k)] = float(value)
        found = []
        for kind, *rest in self.names:
            if kind == "step":
                found.append(model.transition[index[rest[0]], index[rest[1]]])
            elif kind in ("first", "last"):
                found.append(getattr(model, kind)[index[rest[0]]])
            elif kind == "S":
                found.append(table[f"B:{rest[0]}", 2 * index[rest[1]] + index[rest[2]]])
            else:
                found.append(table[f"{kind}:{rest[0]}", index[rest[1]]])
        return np.array(found, float)


def softmax(scores):
    return np.exp(scores - logsumexp(scores))


def labellings(words):
    return list(itertools.product("AB", repeat=len(words)))


def facts(words, tags, steps):
    """What a labelling shows, as often as it does; nothing for what involves an unknown label."""
    for t, (word, tag) in enumerate(zip(words, tags, strict=True)):
        if not isinstance(tag, str):
            continue
        yield "U", word, tag
        if t:
            yield "V", words[t - 1], tag
            if isinstance(tags[t - 1], str):
                yield "step", tags[t - 1], tag
                if steps:
                    yield "S", word, tags[t - 1], tag
        if t == 0:
            yield "first", tag
        if t == len(words) - 1:
            yield "last", tag


def sure(y):
    """A set of one is a label."""
    return [[next(iter(t)) if isinstance(t, set) and len(t) == 1 else t for t in tags] for tags in y]


WEIGHTS = np.array([1.0, 2.0, 0.0, 0.5, 3.0])
CASES = {
    "l2": ({"l2": 0.1}, {}, {}, Y),
    "l1": ({"l1": 0.3}, {}, {}, Y),
    "both, steps": ({"l1": 0.2, "l2": 0.05}, {}, {"steps": True}, Y),
    "partial": ({"l2": 0.1}, {}, {}, PARTIAL),
    "weights": ({"l2": 0.1}, {}, {"weight": WEIGHTS}, Y),
    "partial with weights": ({"l2": 0.1}, {}, {"weight": WEIGHTS}, PARTIAL),
    "seen steps": ({"l2": 0.1}, {"seen_steps": True}, {}, [*Y[:4], ["A", "A", "A"]]),  # none from B to B
    "no boundaries": ({"l2": 0.1}, {"boundaries": False}, {}, Y),
    "all pairs": ({"l2": 0.1}, {"all_pairs": True}, {}, Y),
    "two at least": ({"l2": 0.1}, {"min_pairs": 2}, {}, Y),
}


@pytest.fixture(scope="module")
def fits():
    found = {}

    def get(name):
        if name not in found:
            method, options, more, y = CASES[name]
            templates = (*TEMPLATES, "B:%x[0,0]") if more.get("steps") else TEMPLATES
            settings = {k: v for k, v in options.items() if k in ("boundaries", "seen_steps")}
            pairs = "all" if options.get("all_pairs") else options.get("min_pairs", "seen")
            objective = Objective(X, sure(y), **method, **settings, **more, pairs=pairs)
            found[name] = (
                fit(X, y, templates=templates, options=options, sample_weight=more.get("weight"), **method),
                objective,
                objective.best(),
            )
        return found[name]

    return get


SLOW = ("two at least", "all pairs", "l1")  # each compiles a program of its own


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in CASES])
def test_the_fit_is_the_optimum(fits, name):
    found, objective, (value, weights) = fits(name)
    assert found.status is cr.Status.CONVERGED
    assert found.history[-1] == pytest.approx(value, abs=1e-7)
    mine = objective.weights_of(found.model)
    np.testing.assert_allclose(mine, weights, atol=2e-3)
    log_prob, slope = objective.log_prob(mine)
    assert found.log_prob == pytest.approx(log_prob, abs=1e-9)
    assert found.restart_objectives[0] == pytest.approx(found.history[-1], abs=1e-12)
    # where a weight is not zero the slope is that of the penalty, elsewhere it is no larger
    slope = slope - 2 * objective.l2 * mine
    np.testing.assert_allclose(slope[mine != 0], objective.l1 * np.sign(mine[mine != 0]), atol=2e-4)
    assert (np.abs(slope[mine == 0]) <= objective.l1 + 2e-4).all()
    assert found.num_parameters >= np.count_nonzero(mine)


@pytest.mark.parametrize("name", ["both, steps", pytest.param("l1", marks=pytest.mark.slow)])
def test_l1_makes_zeros(fits, name):
    found, objective, (_, weights) = fits(name)
    mine = objective.weights_of(found.model)
    assert (mine == 0).sum() >= len(mine) / 4
    assert (np.abs(weights[mine == 0]) < 1e-5).all()


@pytest.mark.parametrize("name", ["l2", "both, steps", "partial"])
def test_the_way_there(fits, name):
    found, _, _ = fits(name)
    tokens = sum(len(s) for s in X)
    at_zero = -tokens * np.log(2)
    if name == "partial":  # six of the twelve tokens are known
        at_zero = -sum(isinstance(t, str) or (isinstance(t, set) and len(t) == 1) for s in PARTIAL for t in s) * np.log(
            2
        )
    assert found.history[0] == pytest.approx(at_zero, rel=1e-12)
    assert (np.diff(found.history) >= -1e-9).all()
    assert len(found.history) == found.iterations + 1
    assert found.num_observations == tokens
    assert found.model.transition.dtype == np.float64
    assert found.model.features[0].node.values.dtype == np.float64


def test_float32_comes_close(fits):
    wanted = fits("l2")[2][0]
    found = crf().fit(X, Y, method=cr.LBFGS(l2=0.1))
    assert found.history[-1] == pytest.approx(wanted, rel=1e-5)
    assert found.model.transition.dtype == np.float32


def test_the_same_data_compile_once(fits):
    fits("l2"), fits("weights")
    before = crf_engine._climb._cache_size()
    fit(l2=0.5, tolerance=1e-3)
    fit(l2=0.1, sample_weight=2 * WEIGHTS)
    assert crf_engine._climb._cache_size() == before


@pytest.mark.slow
def test_a_weight_of_two_is_a_sentence_twice():
    weights = [1, 2, 0, 1, 3]
    x, y = ([s for s, n in zip(data, weights, strict=True) for _ in range(n)] for data in (X, Y))
    weighted = fit(sample_weight=weights, l2=0.1)
    repeated = fit(x, y, l2=0.1)
    assert weighted.history[-1] == pytest.approx(repeated.history[-1], abs=1e-9)
    with jax.enable_x64(True):
        np.testing.assert_allclose(weighted.model.transition, repeated.model.transition, atol=1e-4)
        np.testing.assert_allclose(weighted.model.log_prob(X, Y), repeated.model.log_prob(X, Y), atol=1e-4)


def test_a_second_fit_begins_where_the_first_ended(fits):
    first = fits("l2")[0]
    with jax.enable_x64(True):
        second = first.model.fit(X, Y, method=cr.LBFGS(l2=0.1, **EXACT))
    assert second.history[0] == pytest.approx(first.history[-1], abs=1e-10)
    assert second.iterations <= 12
    assert second.history[-1] >= second.history[0] - 1e-12


@pytest.mark.slow
def test_new_data_begin_with_the_weights_of_old_attributes(fits):
    """With weights for all pairs nothing is lost, so the first objective is what the old model says."""
    x, y = [["a", "b", "new"], ["c", "new"]], [["A", "B", "A"], ["A", "B"]]
    with jax.enable_x64(True):
        model = fits("all pairs")[0].model
        again = model.fit(x, y, method=cr.LBFGS(max_iterations=1))
        assert again.history[0] == pytest.approx(np.sum(model.log_prob(x, y)), abs=1e-9)
    assert {"U:new", "U:a", "V:c"} <= set(again.model.features[0].index.node.names())


def test_nothing_known_is_nothing_learned(fits):
    found = fit(X, [[None] * len(s) for s in X], l2=0.1)
    assert found.log_prob == pytest.approx(0, abs=1e-12)
    assert not np.asarray(found.model.transition).any()
    assert found.model.features[0].node is None or len(found.model.features[0].node.values) == 0


def test_one_label_is_certain():
    found = cr.LinearChainCRF(["A"], [cr.templates("%x[0,0]")]).fit([["a", "b"], ["a"]], [["A", "A"], ["A"]])
    assert found.log_prob == 0
    assert found.model.predict([["b"], ["a", "c"]]) == [["A"], ["A", "A"]]


def test_one_sentence_of_one_token():
    """Two labels, w for (a, A), and first and last: three weights that say the same, and two that say the contrary."""
    found = fit([["a"]], [["A"]], templates=("U:%x[0,0]",), l2=0.1)
    objective = Objective([["a"]], [["A"]], l2=0.1)
    assert found.history[-1] == pytest.approx(objective.best()[0], abs=1e-9)
    with jax.enable_x64(True):
        assert found.model.predict(["a"]) == ["A"]
        best = found.model.k_best(["a"], 2)
        np.testing.assert_allclose(np.exp(best.log_prob).sum(), 1, atol=1e-12)


def test_steps_that_new_data_do_not_show_weigh_nothing():
    model = crf(seen_steps=True).fit(X, Y, method=cr.LBFGS(max_iterations=5)).model
    assert np.asarray(model.transition).all()
    x, y = [["a", "b", "a"], ["e", "a", "f"]], [["A", "A", "A"], ["A", "A", "A"]]
    again = model.fit(x, y, method=cr.LBFGS(max_iterations=1))
    assert np.flatnonzero(again.model.transition).tolist() == [0]
    assert np.sum(again.model.log_prob(x, y)) == pytest.approx(again.log_prob, abs=1e-5)


# Gradients


def gradient_problem(y):
    """Every kind of feature; the first label may not begin, so that padding would be forbidden."""
    graph = nx.DiGraph([("A", "A"), ("A", "B"), ("B", "A"), ("B", "B")])
    graph.add_node("A", initial=False)
    functions = [
        cr.feature_function(lambda x, y_prev, y, i: [x[i] == "a" and y_prev == y, i * (y == "A")]),
        cr.features.dense(lambda x: np.array([[len(x) - t, t * t / 4] for t in range(len(x))])),
        cr.attributes(lambda x, i: {"word": x[i], "place": i / 3}),
        cr.templates(*TEMPLATES, "B:%x[0,0]"),
    ]
    model = cr.LinearChainCRF(["A", "B"], functions, transitions=graph)
    batch = Batch.of(X)
    return crf_learning.problem_of(model, batch, gold_of(y, batch, model.labels), WEIGHTS, False, cr.Likelihood())[1]


FULL = [["B", "B", "A"], ["B", "A"], ["B"], ["B", "A", "A"], ["B", "B", "A"]]


@pytest.mark.parametrize(
    "y",
    [
        # a fit with all labels ends at the optimum of its own oracle above; this takes long
        pytest.param(FULL, marks=pytest.mark.slow),
        [[None, *tags[1:]] for tags in FULL],
    ],
    ids=["labelled", "partial"],
)
def test_gradient_against_finite_differences(y):
    with jax.enable_x64(True):
        problem = gradient_problem(y)
        start, back = flattened(problem.parameters())
        at = np.random.default_rng(0).normal(size=start.size)
        both = jax.jit(jax.value_and_grad(lambda flat, problem: problem.loss(back(flat))))
        loss = lambda flat: float(both(flat, problem)[0])  # noqa: E731
        slope = np.asarray(both(at, problem)[1])
        assert np.isfinite(slope).all()
        for p, step in enumerate(1e-5 * np.eye(len(at))):
            difference = (loss(at + step) - loss(at - step)) / 2e-5
            assert slope[p] == pytest.approx(difference, abs=1e-8)
