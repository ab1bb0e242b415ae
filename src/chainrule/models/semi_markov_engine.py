"""Semi-Markov CRFs on the semi-Markov engine: one compiled call per question, and one for a whole fit."""

from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from ..forms.sequences import Sequences
from ..inference import compound, compound_paths
from ..inference.compiling import jit
from ..inference.compound import Steps
from ..inference.semi_markov import Segments
from . import crf_compound
from .crf_engine import Structure, with_structure
from .features.base import Potentials
from .features.segments import PlacedPart


class Scores(NamedTuple):
    """Log-potentials of packed sentences, named as in `inference.semi_markov.Segments`; None is zero."""

    node: Any
    pair: Any
    length: Any
    begin: Any = None
    end: Any = None
    segment: Any = None
    joint: Any = None


def complete(found: dict[str, Any], weights, possible, structure: Structure, start, last) -> Scores:
    """Scores with the weights of steps, first and last labels and lengths, and −inf for what is not allowed.

    `weights` are those of steps (label, label), of first and last labels (label,), and of lengths (length, label), and
    `possible` says which lengths a label may have.
    """
    plain = with_structure(Potentials(found.get("node"), found.get("pair")), weights[:3], structure, start, last)
    length = jnp.where(possible, jnp.asarray(weights[3]), -jnp.inf)
    rest = {name: found.get(name) for name in ("begin", "end", "segment", "joint")}
    return Scores(plain.node, plain.pair, length, **rest)


completed = jit(complete)


def plus(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    """The sum by name, where what is missing or None is nothing."""
    total = {name: value for name, value in a.items() if value is not None}
    for name, value in b.items():
        if value is not None:
            total[name] = total[name] + value if name in total else value
    return total


def view(scores: Scores, start, left) -> tuple[Segments, Steps]:
    """Scores as steps of a semi-Markov chain."""
    named = {name: jnp.asarray(value) for name, value in scores._asdict().items() if value is not None}
    alike = {"length"} if scores.pair.ndim == 4 else {"length", "pair"}
    fixed = {name: named.pop(name) for name in alike}
    length = fixed["length"]
    return Segments(length.shape[1], length.shape[0]), Steps(
        fixed, named, {"left": jnp.asarray(left)}, jnp.asarray(start)
    )


@compound.on_demand
def log_partition(engine, scores: Scores, left, data: Sequences):
    """Log Z of each sentence."""
    return crf_compound.smooth(engine, *view(scores, data.start, left), data)[0]


@compound.on_demand
def posterior(engine, scores: Scores, left, data: Sequences):
    """Log Z of each sentence, marginals of labels and of segments, and expected steps over all."""
    if scores.segment is None:
        shape = (len(scores.node), *scores.length.shape, scores.node.shape[2])
        scores = scores._replace(segment=jnp.zeros(shape, scores.node.dtype))
    total, found = crf_compound.smooth(engine, *view(scores, data.start, left), data)
    steps = found.fixed["pair"] if "pair" in found.fixed else found.varying["pair"].sum((0, 3))
    return total, found.varying["node"], found.varying["segment"], steps


@jit
def viterbi(scores: Scores, left, data: Sequences):
    """The best states of each sentence and their score; −1 where nothing is possible."""
    return crf_compound.best(*view(scores, data.start, left), data)


@jit
def path_scores(scores: Scores, left, data: Sequences, states):
    """The score of one segmentation for each sentence, given as states."""
    return crf_compound.path_scores(*view(scores, data.start, left), data, states)


@partial(jit, static_argnames="num_samples")
def sample(key, scores: Scores, left, data: Sequences, *, num_samples: int):
    """States (time, sample, row), and log Z."""
    return crf_compound.draws(key, *view(scores, data.start, left), data, num_samples)


@partial(jit, static_argnums=3)
def k_best(scores: Scores, left, data: Sequences, k: int):
    """The k best paths of states of each sentence, (sentence, k, time), and their scores (sentence, k)."""

    def one(kind, steps, real):
        states, score = compound_paths.k_best(kind, steps, real, k)
        return jnp.where((score > -jnp.inf)[:, None] & real[None], states, -1), score

    return crf_compound.one_by_one(one, *view(scores, data.start, left), data)


@jit
def entropy(scores: Scores, left, data: Sequences):
    """Entropy of each sentence's segmentation, in nats."""
    return crf_compound.one_by_one(compound_paths.entropy, *view(scores, data.start, left), data)


class Problem(eqx.Module):
    """Training sentences with their segmentations; what `crf_engine.Problem` is for chains of first order.

    Attributes:
        parts: the features.
        weights: weights of steps, first labels, last labels and lengths to begin with.
        free: which of them may change.
        structure: which labels may follow one another.
        possible: which lengths a label may have, (length, label).
        start, last: True on first and on last tokens, (time, row).
        left: how many tokens of the sentence follow.
        weight: weight of the sentence at each token, zero on padding.
        states: the segmentations, as states of the chain.
        counts: weighted numbers of steps and of lengths among them, by name.
        objective: the likelihood.
    """

    parts: tuple[PlacedPart, ...]
    weights: Any
    free: Any
    structure: Structure
    possible: Any
    start: Any
    last: Any
    left: Any
    weight: Any
    states: Any
    counts: Any
    objective: Any

    engines = (compound.Scaled, compound.Either)

    def parameters(self):
        """Where the fit begins."""
        return tuple(part.start() for part in self.parts), self.weights

    def sizes(self):
        """Units of L1 penalty for each parameter."""
        return tuple(part.sizes() for part in self.parts), jax.tree.map(lambda _: 1.0, self.weights)

    def take(self, rows) -> "Problem":
        """The problem of some rows."""
        sides = (self.start, self.last, self.left, self.weight, self.states)
        start, last, left, weight, states = jax.tree.map(lambda x: jnp.asarray(x)[..., rows], sides)
        fixed = (self.weights, self.free, self.structure, self.possible)
        parts = tuple(part.take(rows) for part in self.parts)
        return Problem(parts, *fixed, start, last, left, weight, states, None, self.objective)

    def scores(self, parameters, key=None) -> Scores:
        """Log-potentials of the training sentences."""
        own, weights = parameters
        keys = [None] * len(own) if key is None else jax.random.split(key, len(own))
        found: dict[str, Any] = {}
        for part, mine, random in zip(self.parts, own, keys, strict=True):
            found = plus(found, part.potentials(mine, random))
        weights = jax.tree.map(lambda w, free: jnp.where(free, w, 0), weights, self.free)
        return complete(found, weights, self.possible, self.structure, self.start, self.last)

    def loss(self, parameters, key=None):
        """−Σ weight · log p(y | x)."""
        kind, steps = view(self.scores(parameters, key), self.start, self.left)
        return crf_compound.conditional_loss(kind, steps, self.weight, self.states)

    def slopes(self, scores: Scores, engine) -> tuple[Any, Scores]:
        """−Σ weight · log p(y | x), and its derivatives by the scores."""
        kind, steps = view(scores, self.start, self.left)
        counts = {name: self.counts[name] for name in steps.fixed}
        value, fixed, varying = crf_compound.conditional(engine, kind, steps, self.weight, self.states, counts)
        return value, scores._replace(**fixed, **varying)
