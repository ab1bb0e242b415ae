"""Conditional random fields of second order: the questions and slopes of `crf_engine`, with potentials of three labels.

Scores have `triple`: (label, label, label + 1) or (time, label, label, label + 1, row), where entry [i, j, h] is of j after
i after h, and h = K says that i is the first label.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from ..forms.chain import Chain
from ..forms.sequences import Sequences
from ..inference import compound, compound_paths
from ..inference.compiling import jit
from ..inference.compound import Steps
from ..inference.rows import add_up
from ..inference.second_order import Triples
from . import crf_compound
from .features.triples import TripleFunction

MANY = 1 << 28  # numbers in an unrolled chain


def weights(order: int, size: int, features, *, local: bool):
    """Weights of three labels in a row for a model that begins, (label + 1, label, label); None for order 1.

    Raises:
        ValueError: an order other than 1 and 2, functions of three labels with order 1, or local normalisation with 2.
    """
    if order not in (1, 2) or isinstance(order, bool):
        raise ValueError(
            f"order is {order!r}; a label may speak of one label before it or of two: give order=1 or order=2"
        )
    if order == 1:
        for feature in features:
            if isinstance(feature, TripleFunction):
                raise ValueError(f"{feature} takes y_prev2, the label before the one before: say order=2")
        return None
    if local:
        raise ValueError("local=True normalises steps from one label to the next; use it with order=1")
    return jax.device_put(np.zeros((size + 1, size, size), jnp.result_type(float)))


def free(structure, boundaries: bool) -> np.ndarray:
    """Which weights of three labels in a row may change: of those that are allowed, and at beginnings if wanted."""
    pair = np.asarray(structure.pair)
    return np.concatenate([pair[:, :, None] & pair, (boundaries & np.asarray(structure.initial)[:, None] & pair)[None]])


def view(scores, start) -> tuple[Triples, Steps]:
    """Scores as steps of a compound chain."""
    fixed, varying = {}, {"node": jnp.asarray(scores.node)}
    for name, value, alone in (("pair", scores.pair, 2), ("triple", scores.triple, 3)):
        (fixed if value.ndim == alone else varying)[name] = jnp.asarray(value)
    return Triples(scores.node.shape[1]), Steps(fixed, varying, {}, jnp.asarray(start))


def states_of(labels, start, size: int):
    """States of known labels: each with the one before, (time, row)."""
    labels = jnp.asarray(labels)
    before = jnp.where(start, size, jnp.concatenate([labels[:1], labels[:-1]]))
    return labels * (size + 1) + before


def _labels(states, size: int):
    return jnp.where(states < 0, -1, states // (size + 1))


@compound.on_demand
def log_partition(engine, scores, data: Sequences):
    """Log Z of each sentence."""
    return crf_compound.smooth(engine, *view(scores, data.start), data)[0]


@compound.on_demand
def posterior(engine, scores, data: Sequences):
    """Log Z of each sentence, marginals of labels, and expected steps over all."""
    total, found = crf_compound.smooth(engine, *view(scores, data.start), data)
    steps = found.fixed["pair"] if "pair" in found.fixed else found.varying["pair"].sum((0, 3))
    return total, found.varying["node"], steps


@compound.on_demand
def pair_marginals(engine, scores, data: Sequences):
    """Marginals of steps, (time, label, label, row)."""
    shape = (len(scores.node), *[scores.node.shape[1]] * 2, scores.node.shape[2])
    pair = scores.pair if scores.pair.ndim == 4 else jnp.broadcast_to(scores.pair[None, :, :, None], shape)
    return crf_compound.smooth(engine, *view(scores._replace(pair=pair), data.start), data)[1].varying["pair"]


@compound.on_demand
def triple_marginals(engine, scores, data: Sequences):
    """Marginals of three labels in a row, (time, label, label, label + 1, row), in the order of `triple`."""
    triple = scores.triple
    if triple.ndim == 3:
        shape = (len(scores.node), *triple.shape, scores.node.shape[2])
        triple = jnp.broadcast_to(triple[None, ..., None], shape)
    return crf_compound.smooth(engine, *view(scores._replace(triple=triple), data.start), data)[1].varying["triple"]


@jit
def viterbi(scores, data: Sequences):
    """The best labels of each sentence and their score; −1 where nothing is possible."""
    states, score = crf_compound.best(*view(scores, data.start), data)
    return _labels(states, scores.node.shape[1]), score


@partial(jit, static_argnames="num_samples")
def sample(key, scores, data: Sequences, *, num_samples: int):
    """Labels (time, sample, row) from p(y | x), and log Z."""
    states, total = crf_compound.draws(key, *view(scores, data.start), data, num_samples)
    return _labels(states, scores.node.shape[1]), total


@partial(jit, static_argnums=2)
def k_best(scores, data: Sequences, k: int):
    """The k best labellings of each sentence, (sentence, k, time), and their scores (sentence, k)."""

    def one(kind, steps, real):
        states, score = compound_paths.k_best(kind, steps, real, k)
        possible = (score > -jnp.inf)[:, None] & real[None]
        return jnp.where(possible, _labels(states, kind.num_labels), -1), score

    return crf_compound.one_by_one(one, *view(scores, data.start), data)


@jit
def entropy(scores, data: Sequences):
    """Entropy of each sentence's labelling, in nats."""
    return crf_compound.one_by_one(compound_paths.entropy, *view(scores, data.start), data)


def chain(scores, data: Sequences) -> Chain:
    """The chain of first order of one sentence, over pairs of a label and the one before it: state k · (K + 1) + before.

    Raises:
        ValueError: a chain of more than 268 million numbers.
    """
    size, time = scores.node.shape[1], int(data.lengths[0])
    count = size * (size + 1)
    node, pair, triple = (np.asarray(x) for x in (scores.node, scores.pair, scores.triple))
    varying = pair.ndim == 4 or triple.ndim == 5
    if count**2 * (time if varying else 1) > MANY:
        raise ValueError(
            f"chain: {size} labels make {count} states, and {'each of the steps' if varying else 'the step'} a table of "
            f"{count**2:,} numbers; the other queries do without"
        )
    steps = pair[..., None] + triple if pair.ndim == 2 == triple.ndim - 1 else None
    if steps is None:
        pair = pair[1:time, ..., 0] if pair.ndim == 4 else pair[None]
        triple = triple[1:time, ..., 0] if triple.ndim == 5 else triple[None]
        steps = pair[..., None] + triple  # (time − 1, i, j, h)
    table = np.full((*steps.shape[:-3], size, size + 1, size, size + 1), -np.inf, node.dtype)
    for i in range(size):  # from (i, h) to (j, i)
        table[..., i, :, :, i] = np.moveaxis(steps[..., i, :, :], -1, -2)
    initial = np.where(np.arange(count) % (size + 1) == size, 0, -np.inf).astype(node.dtype)
    return Chain(
        initial, table.reshape(*steps.shape[:-3], count, count), np.repeat(node[:time, :, 0], size + 1, axis=1)
    )


def factors(scores, time: int) -> dict:
    """Of one sentence, the factors of three labels in a row, and of the first two."""
    if scores.triple is None:
        return {}
    triple = np.asarray(scores.triple, float)
    triple = np.broadcast_to(triple[None], (time, *triple.shape)) if triple.ndim == 3 else triple[..., 0]
    found: dict = {("begin", t): ((("y", 0), ("y", 1)), triple[t, ..., -1]) for t in range(1, min(time, 2))}
    for t in range(2, time):
        found["triple", t] = ((("y", t - 2), ("y", t - 1), ("y", t)), np.moveaxis(triple[t, ..., :-1], -1, 0))
    return found


# Learning


def gold_counts(labels, start, weight, counts) -> dict[str, np.ndarray]:
    """Weighted numbers of steps (`counts`) and of triples among known labels, in the order of the scores."""
    size = len(counts)
    before = np.where(start, size, np.concatenate([labels[:1], labels[:-1]]))
    earlier = np.where(before == size, size, np.concatenate([before[:1], before[:-1]]))
    inner = (before < size) & (weight != 0)
    entry = (before[inner] * size + labels[inner]) * (size + 1) + earlier[inner]
    triples = np.bincount(entry, weight[inner], minlength=size * size * (size + 1))
    return {"pair": counts, "triple": triples.reshape(size, size, size + 1).astype(counts.dtype)}


def likelihood_slopes(scores, given, engine):
    """−Σ weight · log p(y | x), and its derivatives by the scores."""
    kind, steps = view(scores, given.start)
    if given.allowed is None:
        states = states_of(given.labels, steps.start, kind.num_labels)
        counts = {name: given.counts[name] for name in steps.fixed}
        value, fixed, varying = crf_compound.conditional(engine, kind, steps, given.weight, states, counts)
        return value, scores._replace(**fixed, **varying)
    free = engine.smooth(kind, steps, given.weight)
    node = jnp.where(given.allowed, scores.node, -jnp.inf)
    some = engine.smooth(kind, steps._replace(varying=steps.varying | {"node": node}), given.weight)
    by = {name: value - (some.fixed | some.varying)[name] for name, value in (free.fixed | free.varying).items()}
    return add_up(given.weight, free.terms - some.terms), scores._replace(**by)


def likelihood_loss(scores, given):
    """−Σ weight · log p(y | x), to be differentiated; labels that are not known are summed out."""
    kind, steps = view(scores, given.start)
    if given.allowed is None:
        states = states_of(given.labels, steps.start, kind.num_labels)
        return crf_compound.conditional_loss(kind, steps, given.weight, states)
    node = jnp.where(given.allowed, scores.node, -jnp.inf)
    some = steps._replace(varying=steps.varying | {"node": node})
    free, agreeing = (jnp.asarray(compound.total(kind, *s, given.weight)) for s in (steps, some))
    return free - agreeing


def path_terms(scores, given, labels):
    """What each token adds to the score of a labelling; zero on padding."""
    kind, steps = view(scores, given.start)
    states = states_of(labels, steps.start, kind.num_labels)
    return jnp.where(given.weight != 0, compound_paths.path_terms(kind, steps, states), 0)


def best_labels(scores, given):
    """The best labels, (time, row)."""
    kind, steps = view(jax.lax.stop_gradient(scores), given.start)
    return _labels(compound_paths.best_states(kind, steps), kind.num_labels)
