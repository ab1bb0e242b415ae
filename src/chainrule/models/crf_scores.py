"""From sentences to the scores of their labels: the way into every query of a linear-chain CRF."""

from collections.abc import Hashable
from typing import Any

import jax.numpy as jnp
import numpy as np

from ..forms.chain import is_concrete
from ..graphs.factor_graph import FactorGraph
from . import crf_engine as engine
from . import crf_second_order
from .crf_data import IndexedSentences, as_allowed, gold_of, last_tokens, read_sentences
from .features.base import Batch, Potentials

# Up to so many products of steps, one sentence is decoded in NumPy: calling a compiled program costs more than the work.
FEW = 2**16


def indexed(model, x) -> IndexedSentences:
    """Everything about sentences that does not depend on weights."""
    batch = batch_of(model, x)
    said = tuple(feature.describe(batch) for feature in model.features)
    sizes = Batch([range(len(sentence)) for sentence in batch.sentences], batch.layout, batch.single)
    return IndexedSentences(sizes, said, _origins(model))


def _origins(model) -> tuple[Any, ...]:
    return tuple(feature.origin for feature in model.features)


def batch_of(model, x) -> Batch:
    """The sentences that a query is about."""
    if not all(feature.learned for feature in model.features):
        raise ValueError("this model has not seen data yet: call fit(x, y) and use the .model that it returns")
    if isinstance(x, IndexedSentences):
        if x.origins != _origins(model):
            raise ValueError("these sentences were indexed by a model with other features; use this model's own index")
        return x.batch
    sentences, single, _ = read_sentences(x, model.token)
    return Batch.of(sentences, single=single, one_per_row=any(feature.one_per_row for feature in model.features))


def weights_of(model) -> tuple[Any, ...]:
    """Those of steps, of first and of last labels, and for order 2 of three labels in a row."""
    return (model.transition, model.first, model.last, *(() if model.second is None else (model.second,)))


def _potentials(model, x, batch: Batch) -> Potentials:
    """What the features say; of labels always, if only zeros."""
    said = x.said if isinstance(x, IndexedSentences) else [None] * len(model.features)
    shape = (len(batch.layout.start), model.num_labels, batch.layout.start.shape[1])
    total = Potentials()
    for feature, already in zip(model.features, said, strict=True):
        found = feature.potentials(batch, already)
        check_labels(feature, (found.node, found.pair), model.num_labels)
        total = engine.plus(total, found)
    if total.node is None or isinstance(total.node, np.ndarray):
        total = engine.plus(Potentials(np.zeros(shape, model.first.dtype)), total)
    return total


def check_labels(feature, found, size: int):
    """Refuse potentials (time, label, …) of another number of labels than the model's, such as a network may give."""
    for potential in found:
        if potential is not None and potential.shape[1] != size:
            raise ValueError(f"{feature} gives potentials of {potential.shape[1]} labels; the model has {size}")


def scores_of(model, x, known) -> tuple[Batch, engine.Scores, engine.Scores]:
    """The sentences, their log-potentials, and those that agree with what is known."""
    batch = batch_of(model, x)
    return batch, *_scores(model, batch, _potentials(model, x, batch), known)


def _scores(model, batch: Batch, said: Potentials, known) -> tuple[engine.Scores, engine.Scores]:
    layout = batch.layout
    last = last_tokens(layout)
    free = engine.complete(said, weights_of(model), model.structure, layout.start, last, local=model.local)
    if known is None:
        return free, free
    allowed = batch.spread(_allowed(known, batch, model.labels)) | ~np.asarray(layout.mask)[:, None]
    return free, free._replace(node=jnp.where(allowed, free.node, -jnp.inf))


def scores_of_one(model, x, known, query: str) -> tuple[Batch, engine.Scores, engine.Scores]:
    """`scores_of` for a query that takes one sentence only."""
    found = scores_of(model, x, known)
    if len(found[0].sentences) != 1:
        raise ValueError(f"{query} takes one sentence, got {len(found[0].sentences)}")
    return found


def _allowed(known, batch: Batch, labels: tuple[Hashable, ...]) -> np.ndarray:
    return as_allowed(gold_of([known] if batch.single else known, batch, labels))


def best_labels(model, x, known) -> tuple[Batch, list[np.ndarray]]:
    """The most probable labels of each sentence, as indices."""
    batch = batch_of(model, x)
    said, weights = _potentials(model, x, batch), weights_of(model)
    few = len(batch.sentences) == 1 and batch.num_tokens * model.num_labels**2 <= FEW
    plain = model.order == 1 and not model.local and said.pair is None and isinstance(said.node, np.ndarray)
    if few and plain and all(map(is_concrete, weights)):
        allowed = None if known is None else _allowed(known, batch, model.labels)
        return batch, [_best_of_one(said.node[: batch.num_tokens, :, 0], weights, model.structure, allowed)]
    _, scores = _scores(model, batch, said, known)
    states, total = engine.viterbi(scores, batch.layout)
    check_possible(total, scores)
    return batch, batch.layout.unpack(np.asarray(states))


def _best_of_one(node, weights, structure, allowed) -> np.ndarray:
    """`engine.viterbi` of one sentence, operation by operation, in NumPy."""
    steps, first, last = map(np.asarray, weights)
    steps = np.where(structure.pair, steps, -np.inf).astype(node.dtype)
    node = node.copy()
    node[0] += np.where(structure.initial, first, -np.inf)
    node[-1] += np.where(structure.final, last, -np.inf)
    if allowed is not None:
        node[~allowed] = -np.inf
    into, score = np.ascontiguousarray(steps.T), node[0]
    before = []
    for potential in node[1:]:
        top = score.max()
        if top == -np.inf:
            break
        before.append(score)
        score = (into + (score - top)).max(1) + potential
    check_possible(np.array([score.max()]))
    state = int(score.argmax())
    states = [state]
    for score in reversed(before):
        state = int((score + into[state]).argmax())
        states.append(state)
    return np.array(states[::-1])


def check_possible(total, scores=None):
    """Refuse sentences whose log-partition or best score is −inf or NaN, where values can be looked at."""
    if not is_concrete(total):
        return
    impossible = np.flatnonzero(~np.isfinite(np.asarray(total)))
    if len(impossible) == 0:
        return
    node = np.asarray(total if scores is None or not is_concrete(scores.node) else scores.node)
    if (np.isnan(node) | (node == np.inf)).any():
        raise ValueError(
            f"sentence {impossible[0]} has scores that are not numbers: a feature, such as a network that diverged, "
            "gives NaN or infinity"
        )
    raise ValueError(
        f"sentence {impossible[0]} has no possible labelling: what is known of its labels, or which of them may "
        "begin, follow one another and end, rules all of them out"
    )


def unrolled(scores: engine.Scores, labels: tuple[Hashable, ...], time: int) -> FactorGraph:
    """The potentials of one sentence as factors over the variables ("y", 0) … ("y", time − 1)."""
    node, pair = np.asarray(scores.node, float)[:time, :, 0], np.asarray(scores.pair, float)
    factors: dict[Hashable, tuple] = {("x", t): ((("y", t),), row) for t, row in enumerate(node)}
    for t in range(1, time):
        factors["step", t] = ((("y", t - 1), ("y", t)), pair if pair.ndim == 2 else pair[t, ..., 0])
    factors |= crf_second_order.factors(scores, time)
    return FactorGraph({("y", t): labels for t in range(time)}, factors)
