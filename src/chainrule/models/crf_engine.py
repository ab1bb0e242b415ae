"""Linear-chain CRFs on the chain engine: one compiled call per question, and one for a whole fit."""

from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from ..forms.chain import Chain
from ..forms.sequences import Sequences
from ..inference import chain as chain_engine
from ..inference import decoding, rows
from ..learning import minibatch, progress, quasi_newton
from . import packed
from .features.base import Part


class Scores(NamedTuple):
    """Log-potentials of packed sentences: `node` (time, label, row), `pair` (label, label) or (time, label, label, row)."""

    node: Any
    pair: Any

    @property
    def initial(self):
        """No label is preferred before the first token is seen; what speaks of first tokens is in `node`."""
        return jnp.zeros(self.node.shape[1], self.node.dtype)


def _in_rows(scores: Scores, data: Sequences):
    """Initial, pair, and node potentials, the row axis dropped from `pair` where it is dropped from `node`."""
    node, pair = jnp.asarray(scores.node), jnp.asarray(scores.pair)
    if pair.ndim == 4 and node.shape[-1] == 1:
        pair = pair[..., 0]
    return scores.initial, pair, node


@rows.on_demand
def log_partition(engine, scores: Scores, data: Sequences):
    """Log Z of each sentence."""
    return packed.log_partition(engine, True, *_in_rows(scores, data), data)


@rows.on_demand
def posterior(engine, scores: Scores, data: Sequences):
    """Log Z of each sentence, marginals of labels, and expected steps: over all, or each where they vary."""
    return packed.posterior(engine, True, *_in_rows(scores, data), data)


@rows.on_demand
def pair_marginals(engine, scores: Scores, data: Sequences):
    """Marginals of steps, (time, label, label, row): entry t is the step into t."""
    pair = jnp.asarray(scores.pair)
    if pair.ndim == 2:
        pair = jnp.broadcast_to(pair[None, :, :, None], (len(scores.node), *pair.shape, scores.node.shape[-1]))
    found = packed.posterior(engine, True, *_in_rows(Scores(scores.node, pair), data), data)[2]
    return found if found.ndim == 4 else found[..., None]


@jax.jit
def viterbi(scores: Scores, data: Sequences):
    """The best labels of each sentence and their score; −1 where nothing is possible."""
    return packed.viterbi(*_in_rows(scores, data), data)


@rows.on_demand
def sample(engine, key, scores: Scores, data: Sequences, *, num_samples: int):
    """Labels (time, sample, row) from p(y | x), and log Z."""
    return packed.sample_posterior(engine, True, key, *_in_rows(scores, data), data, num_samples)


@jax.jit
def path_score(scores: Scores, data: Sequences, labels):
    """Score of given labels (time, row), for each sentence."""
    pair = jnp.asarray(scores.pair)
    terms = packed.path_terms(scores.initial, pair, jnp.asarray(scores.node), jnp.asarray(data.start), labels)
    return data.totals(jnp.where(jnp.asarray(data.mask), terms, 0))


def chain(scores: Scores, data: Sequences) -> Chain:
    """The chain form of one sentence."""
    size = int(data.lengths[0])
    node, pair = scores.node[:size, :, 0], scores.pair
    return Chain(scores.initial, pair if pair.ndim == 2 else pair[1:size, ..., 0], node)


@partial(jax.jit, static_argnums=1)
def k_best(chain: Chain, k: int):
    """The k best paths of one chain."""
    return decoding.k_best(chain, k)


entropy = chain_engine.entropy


# Learning


class Structure(eqx.Module):
    """Which labels may begin, follow one another and end; True where allowed."""

    initial: Any
    pair: Any
    final: Any


def with_structure(node, pair, weights, structure: Structure, start, last, extra=None) -> Scores:
    """Scores with the weights of steps, first and last labels, and −inf for what is not allowed.

    `node` and `pair` are what the features say (None is nothing), `weights` those of steps (label, label), of first and of
    last labels (label,), `start` and `last` are True on first and on last tokens, (time, row), and `extra`, if given,
    where a label is allowed at a token, (time, label, row).
    """
    steps, first, end = (jnp.asarray(w) for w in weights)
    begin, finish = jnp.asarray(start)[:, None], jnp.asarray(last)[:, None]
    base = jnp.where(begin, first[None, :, None], 0) + jnp.where(finish, end[None, :, None], 0)
    node = base if node is None else node + base
    banned = (begin & ~structure.initial[None, :, None]) | (finish & ~structure.final[None, :, None])
    if extra is not None:
        banned = banned | ~jnp.asarray(extra)
    node = jnp.where(banned, -jnp.inf, node)
    table = jnp.where(structure.pair, steps, -jnp.inf)
    return Scores(node, table if pair is None else pair + table[None, :, :, None])


complete = jax.jit(with_structure)


class Problem(eqx.Module):
    """What a fit maximises: the conditional log-likelihood of training sentences, weighted.

    Attributes:
        parts: the features.
        weights: weights of steps, first and last labels to begin with.
        free: which of them may change.
        structure: what is allowed.
        start, last: True on first and last tokens, (time, row).
        weight: weight of the sentence at each token, zero on padding.
        labels: index of each label, (time, row), where all are known.
        counts: weighted number of steps from i to j among them.
        allowed: True where a label is allowed, (time, label, row), where some are not known.
    """

    parts: tuple[Part, ...]
    weights: Any
    free: Any
    structure: Structure
    start: Any
    last: Any
    weight: Any
    labels: Any
    counts: Any
    allowed: Any

    def parameters(self):
        """Where the fit begins."""
        return tuple(part.start() for part in self.parts), self.weights

    def sizes(self):
        """Units of L1 penalty for each parameter."""
        return tuple(part.sizes() for part in self.parts), jax.tree.map(lambda _: 1.0, self.weights)

    def take(self, rows) -> "Problem":
        """The problem of some rows."""
        parts = tuple(part.take(rows) for part in self.parts)
        sides = (self.start, self.last, self.weight, self.labels, self.allowed)
        start, last, weight, labels, allowed = jax.tree.map(lambda x: jnp.asarray(x)[..., rows], sides)
        fixed = (self.weights, self.free, self.structure)
        return Problem(parts, *fixed, start, last, weight, labels=labels, counts=None, allowed=allowed)

    def scores(self, parameters, key=None) -> Scores:
        """Log-potentials of the training sentences."""
        own, weights = parameters
        node: Any = None
        pair: Any = None
        keys = [None] * len(own) if key is None else jax.random.split(key, len(own))
        for part, mine, random in zip(self.parts, own, keys, strict=True):
            found = part.potentials(mine, random)
            node = plus(node, found.node)
            pair = plus(pair, found.pair)
        weights = jax.tree.map(lambda w, free: jnp.where(free, w, 0), weights, self.free)
        return with_structure(node, pair, weights, self.structure, self.start, self.last)

    def loss(self, parameters, key=None):
        """−Σ weight · log p(y | x)."""
        scores = self.scores(parameters, key)
        if self.allowed is None:
            return _conditional(scores.node, scores.pair, self.start, self.weight, self.labels, self.counts)
        everything: Any = rows.total(True, scores.initial, scores.pair, scores.node, self.start, self.weight)
        node = jnp.where(self.allowed, scores.node, -jnp.inf)
        agreeing: Any = rows.total(True, scores.initial, scores.pair, node, self.start, self.weight)
        return everything - agreeing


def plus(a, b):
    """The sum, where None is nothing."""
    if a is None or b is None:
        return b if a is None else a
    return a + b


@jax.custom_vjp
def _conditional(node, pair, start, weight, labels, counts):
    """−Σ weight · log p(labels): each step's score is taken off its potentials, so that only small numbers are added up.

    The gradient is what the model expects less what is there, token by token.
    """
    shifted, _ = _shifted(node, pair, start, weight, labels)
    return rows.total(True, jnp.zeros(node.shape[1], node.dtype), pair, shifted, start, weight)


def _shifted(node, pair, start, weight, labels):
    there = jnp.asarray(labels)[:, None] == jnp.arange(node.shape[1])[None, :, None]
    terms = packed.path_terms(jnp.zeros(node.shape[1], node.dtype), pair, node, start, jnp.asarray(labels))
    terms = jnp.where(weight != 0, terms, 0)  # padding is labelled 0, which may not be allowed to begin
    return node - terms[:, None], there


def _conditional_forward(node, pair, start, weight, labels, counts):
    shifted, there = _shifted(node, pair, start, weight, labels)
    s = rows.smooth(jnp.zeros(node.shape[1], node.dtype), pair, shifted, start, weight, log=True)
    by_node = jnp.where(there, s.marginals - 1, s.marginals) * weight[:, None]
    by_pair = s.transition_count
    if pair.ndim == 2:
        by_pair = by_pair - (_steps(there, start, weight) if counts is None else counts)
    else:
        before = jnp.concatenate([there[:1], there[:-1]])
        step = before[:, :, None] & there[:, None] & ~jnp.asarray(start)[:, None, None]
        by_pair = by_pair - jnp.where(step, weight[:, None, None], 0)
    return rows.add_up(weight, s.terms), (by_node, by_pair)


def _steps(there, start, weight):
    """Weighted number of steps from i to j."""
    before = jnp.roll(there, 1, axis=0).astype(weight.dtype)
    after = jnp.where(there & ~jnp.asarray(start)[:, None], weight[:, None], 0)
    return jnp.einsum("tir,tjr->ij", before, after)


def _conditional_backward(saved, g):
    by_node, by_pair = saved
    return g * by_node, g * by_pair, None, None, None, None


_conditional.defvjp(_conditional_forward, _conditional_backward)


@jax.jit
def descend(problem: Problem, order, key, method, numbers, token):
    """Stochastic descent: see `chainrule.learning.minibatch`. Returns the parameters and the loss before each step."""
    l2, num_rows, num_sentences, *rest = numbers

    def loss(parameters, picked, key):
        flat, _ = ravel_pytree(parameters)
        part = problem.take(picked).loss(parameters, key) * (num_rows / len(picked))
        return (part + l2 * jnp.vdot(flat, flat)) / num_sentences

    return minibatch.descend(loss, problem.parameters(), order, key, method, rest, token)


@jax.jit
def total_loss(problem: Problem, parameters):
    """−Σ weight · log p(y | x) over all training sentences."""
    return problem.loss(parameters)


@partial(jax.jit, static_argnames=("memory", "size", "sparse"))
def climb(problem: Problem, l1, l2, limits, token, *, memory: int, size: int, sparse: bool):
    """Minimise loss + l1·Σ|w| + l2·Σw² over all parameters, in one program."""
    start, back = ravel_pytree(problem.parameters())
    sizes = jax.tree.map(
        lambda p, s: jnp.broadcast_to(jnp.asarray(s, p.dtype), p.shape), problem.parameters(), problem.sizes()
    )
    l1 = ravel_pytree(sizes)[0] * l1 if sparse else None

    def loss(flat, problem):
        return problem.loss(back(flat)) + l2 * jnp.vdot(flat, flat)

    def report(iterations, value, last):
        progress.report(token, iterations, -value, last=last)

    found = quasi_newton.minimise(
        jax.value_and_grad(loss),
        start,
        (problem,),
        l1=l1,
        memory=memory,
        max_iterations=limits.max_iterations,
        tolerance=limits.tolerance,
        period=limits.period,
        history_size=size,
        report=report,
    )
    penalty = l2 * jnp.vdot(found.x, found.x) + (0 if l1 is None else (l1 * jnp.abs(found.x)).sum())
    return back(found.x), found.value, penalty, found.history, found.iterations, found.status, found.evaluations
