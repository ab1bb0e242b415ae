"""CRFs with every kind of feature, and their potentials computed by plain Python loops."""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import networkx as nx
import numpy as np
import oracles

import chainrule as cr
from chainrule.models.crf_data import gold_of, read_sentences
from chainrule.models.features.base import Batch

LABELS = ("D", "N", "V")
WORDS = [["the", "dog", "saw", "dog"], ["dog", "saw", "the"], ["saw"], ["the", "dog"]]
TAGS = [["D", "N", "V", "N"], ["N", "V", "N"], ["V"], ["D", "N"]]
NEW = [["the", "zebra", "saw", "dog"], ["zebra"], ["saw", "the", "dog"]]  # "zebra" was not in training
SOME = [["D", None, {"N", "V"}, None], [None], [{"N"}, None, "V"]]
OPEN = {"a": (0.0, 1.5), "the": (1.0, -0.5), "dog": (0.3, 0.7), "saw": (-1.0, 0.2), "zebra": (0.1, 0.1)}


def vectors(words):
    return np.array([OPEN[word] for word in words], np.float32)


# Features, each with its scores in plain Python


class Kind(NamedTuple):
    """How to make a feature, what its sentences are, and what it says: `node(x, w, t, k)` and `pair(x, w, t, i, k)`."""

    make: Callable
    sentence: Callable
    weights: Callable
    node: Callable | None = None
    pair: Callable | None = None


def named(feature):
    """Weights of attributes by name and outcome."""

    def table(weights, names):
        if weights is None:
            return {}
        entries = zip(weights.attribute, weights.outcome.tolist(), np.asarray(weights.values).tolist(), strict=True)
        return {(names[a], outcome): value for a, outcome, value in entries}

    return {
        "node": table(feature.node, feature.index.node.names()),
        "pair": table(feature.pair, feature.index.pair.names()),
    }


def attribute_node(x, w, t, k):
    entries = {f"word={x[t]}": 1.0, "size": len(x[t]) / 3, "first": float(t == 0)}
    return sum(value * w["node"].get((name, k), 0.0) for name, value in entries.items())


def described(x, t):
    return {"word": x[t], "size": len(x[t]) / 3, "first": t == 0}


def template_node(x, w, t, k):
    names = [f"U0:{x[t]}"] + ([f"U1:{x[t - 1]}/{x[t]}"] if t else [])
    return sum(w["node"].get((name, k), 0.0) for name in names)


def template_pair(x, w, t, i, k):
    names = [f"B0:{x[t]}"] + ([f"B1:{x[t + 1]}"] if t + 1 < len(x) else [])
    return sum(w["pair"].get((name, 3 * i + k), 0.0) for name in names)


def dense_node(x, w, t, k):
    return float(np.asarray(OPEN[x[t]]) @ np.asarray(w.weights, float)[:, k]) + float(w.bias[k])


def two_of_words(x, y, i):
    return [x[i] == "saw" and y == "V", 0.5 * i * (y == "D")]


def steps_of_words(x, y_prev, y, i):
    return (x[i] == "dog") * (1.0 if y_prev is None else 0.5) * (y_prev != y)


def two_of_arrays(x, y, i):
    return jnp.stack([jnp.where(y == 2, x[i, 0], 0), jnp.where(y == 0, 0, x[i + 1, 1])])  # zero beyond the end


def steps_of_arrays(x, y_prev, y, i):
    return jnp.where(y_prev == y, 0, jnp.where(y_prev < 0, 2.0, x[i - 1, 0]))


def array_node(x, w, t, k):
    a = np.concatenate([vectors(x), np.zeros((1, 2))])
    return w[0] * a[t, 0] * (k == 2) + w[1] * a[t + 1, 1] * (k != 0)


def word_node(x, w, t, k):
    return sum(w * np.array(two_of_words(x, LABELS[k], t)))


class Words(eqx.Module):
    """A network of labels, made so that a plain loop is its oracle; `start` lets sentences share a row."""

    table: jax.Array

    def __call__(self, x, start):
        return x @ self.table


class Steps(eqx.Module):
    """A network of steps."""

    table: jax.Array

    def __call__(self, x, start):
        return x[1:, :1, None] * self.table[None]


KINDS = {
    "attributes": Kind(
        lambda: cr.attributes(described),
        lambda x: x,
        named,
        attribute_node,
    ),
    "attributes of steps": Kind(
        lambda: cr.attributes(lambda x, t: [x[t]], transitions=True),
        lambda x: x,
        named,
        pair=lambda x, w, t, i, k: w["pair"].get((x[t], 3 * i + k), 0.0),
    ),
    "templates": Kind(
        lambda: cr.templates("U0:%x[0,0]", "U1:%x[-1,0]/%x[0,0]", "B0:%x[0,0]", "B1:%x[1,0]"),
        lambda x: x,
        named,
        template_node,
        template_pair,
    ),
    "dense": Kind(lambda: cr.features.dense(vectors), lambda x: x, lambda f: f, dense_node),
    "dense arrays": Kind(cr.features.dense, vectors, lambda f: f, dense_node),
    "f(x, y, i)": Kind(
        lambda: cr.feature_function(two_of_words),
        lambda x: x,
        lambda f: np.asarray(f.weights, float),
        word_node,
    ),
    "f(x, y_prev, y, i)": Kind(
        lambda: cr.feature_function(steps_of_words),
        lambda x: x,
        lambda f: float(f.weights[0]),
        lambda x, w, t, k: 0.0 if t else w * steps_of_words(x, None, LABELS[k], 0),
        lambda x, w, t, i, k: w * steps_of_words(x, LABELS[i], LABELS[k], t),
    ),
    "f(x, y, i) of arrays": Kind(
        lambda: cr.feature_function(two_of_arrays),
        vectors,
        lambda f: np.asarray(f.weights, float),
        array_node,
    ),
    "f(x, y_prev, y, i) of arrays": Kind(
        lambda: cr.feature_function(steps_of_arrays),
        vectors,
        lambda f: float(f.weights[0]),
        lambda x, w, t, k: 0.0 if t else 2 * w,
        lambda x, w, t, i, k: w * vectors(x)[t - 1, 0] * (i != k),
    ),
    "network": Kind(
        lambda: cr.neural_feature(Words(jnp.ones((2, 3))), vectors),
        lambda x: x,
        lambda f: np.asarray(f.module.table, float),
        lambda x, w, t, k: float(np.asarray(OPEN[x[t]]) @ w[:, k]),
    ),
    "network of steps": Kind(
        lambda: cr.neural_feature(Steps(jnp.ones((3, 3))), vectors),
        lambda x: x,
        lambda f: np.asarray(f.module.table, float),
        pair=lambda x, w, t, i, k: OPEN[x[t]][0] * w[i, k],
    ),
}
MIXED = ("templates", "attributes", "dense", "network", "f(x, y, i)", "f(x, y_prev, y, i)")


def structure():
    """Nothing but N comes after D, and D is not the last; N comes before N and V."""
    graph = nx.DiGraph([("D", "N"), ("N", "V"), ("N", "N"), ("V", "D"), ("V", "N"), ("V", "V")])
    graph.add_node("D", final=False)
    return graph


class Case(NamedTuple):
    """A model with its kinds of features and what it allows."""

    model: cr.LinearChainCRF
    kinds: tuple[Kind, ...]
    graph: nx.DiGraph | None

    def sentences(self, words):
        return [self.kinds[0].sentence(x) for x in words]

    def tables(self, x, known=None):
        """Potentials of one sentence: initial, pair (time − 1, 3, 3) and node."""
        model, size = self.model, len(x)
        weights = [kind.weights(feature) for kind, feature in zip(self.kinds, model.features, strict=True)]
        transition, first, last = (np.asarray(w, float) for w in (model.transition, model.first, model.last))
        node, pair = np.zeros((size, 3)), np.tile(transition, (max(size - 1, 0), 1, 1))
        node[0] += first
        node[-1] += last
        for kind, w in zip(self.kinds, weights, strict=True):
            for t in range(size):
                for k in range(3):
                    node[t, k] += 0 if kind.node is None else kind.node(x, w, t, k)
                    for i in range(3):
                        if t and kind.pair is not None:
                            pair[t - 1, i, k] += kind.pair(x, w, t, i, k)
        if self.graph is not None:
            for i, a in enumerate(LABELS):
                for j, b in enumerate(LABELS):
                    if not self.graph.has_edge(a, b):
                        pair[:, i, j] = -np.inf
                if not self.graph.nodes[a].get("initial", True):
                    node[0, i] = -np.inf
                if not self.graph.nodes[a].get("final", True):
                    node[-1, i] = -np.inf
        for t, tag in enumerate(known or ()):
            choice = LABELS if tag is None else {tag} if isinstance(tag, str) else tag
            node[t, [label not in choice for label in LABELS]] = -np.inf
        return np.zeros(3), pair, node

    def truth(self, x, known=None):
        return oracles.enumerate_chain(*self.tables(x, known))


def with_random_weights(model, seed=0):
    rng = np.random.default_rng(seed)

    def moved(leaf):
        array = np.asarray(leaf)
        return (
            leaf
            if array.dtype.kind != "f" or not array.ndim
            else (array + rng.normal(size=array.shape)).astype(array.dtype)
        )

    return jax.tree.map(moved, model)


def learned(crf, x, y):
    """The model that a fit begins with: its features know their attributes, and all weights are zero."""
    sentences, _, token = read_sentences(x, None)
    batch = Batch.of(sentences)
    gold = gold_of(y, batch, crf.labels)
    features = tuple(feature.learn(batch, gold, crf.options)[0] for feature in crf.features)
    return crf._with(features, (crf.transition, crf.first, crf.last), token)


CASES: dict[str, Case] = {}


def case(name) -> Case:
    """One model for each name, with random weights."""
    if name not in CASES:
        graph = structure() if name.endswith("structure") else None
        chosen = MIXED if name.startswith("mixed") else (name.removesuffix(", structure"),)
        kinds = tuple(KINDS[n] for n in chosen)
        crf = cr.LinearChainCRF(LABELS, [kind.make() for kind in kinds], transitions=graph)
        model = learned(crf, [kinds[0].sentence(words) for words in WORDS], TAGS)
        CASES[name] = Case(with_random_weights(model), kinds, graph)
    return CASES[name]


ALL = [*KINDS, "mixed", "mixed, structure", "attributes, structure"]


def close(got, wanted, atol=1e-4):
    np.testing.assert_allclose(np.asarray(got, float), wanted, atol=atol, rtol=1e-5)


def flattened(tree):
    """All numbers of a tree as one vector of NumPy, and the way back; that of JAX compiles a program for each shape."""
    leaves, structure = jax.tree.flatten(tree)
    edges = np.cumsum([np.size(leaf) for leaf in leaves])
    flat = np.concatenate([np.ravel(leaf) for leaf in leaves])

    def back(flat):
        parts = [flat[stop - np.size(leaf) : stop] for leaf, stop in zip(leaves, edges, strict=True)]
        return structure.unflatten([part.reshape(np.shape(leaf)) for part, leaf in zip(parts, leaves, strict=True)])

    return flat, back
