"""Linear-chain CRFs on the chain engine: one compiled call per question, and one for a whole fit."""

from collections.abc import Callable
from functools import partial, update_wrapper
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.flatten_util import ravel_pytree

from ..forms.chain import Chain
from ..forms.sequences import Sequences
from ..inference import chain as chain_engine
from ..inference import compound, decoding, rows
from ..inference.compiling import jit
from ..inference.logspace import logsumexp
from ..learning import progress, quasi_newton
from . import crf_second_order, packed
from .crf_objectives import Likelihood
from .data import host
from .features.base import Part, Potentials


class Scores(NamedTuple):
    """Log-potentials of packed sentences: `node` (time, label, row), `pair` (label, label) or (time, label, label, row).

    With `triple`, see `crf_second_order`, they are of second order.
    """

    node: Any
    pair: Any
    triple: Any = None

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


def _by_order(second: Callable) -> Callable:
    """Let the engine of second order answer where scores have potentials of three labels."""

    def choose(first):
        def ask(*args, **options):
            scores = next(arg for arg in args if isinstance(arg, Scores))
            return (first if scores.triple is None else second)(*args, **options)

        return update_wrapper(ask, first)

    return choose


@_by_order(crf_second_order.log_partition)
@rows.on_demand
def log_partition(engine, scores: Scores, data: Sequences):
    """Log Z of each sentence."""
    return packed.log_partition(engine, True, *_in_rows(scores, data), data)


@_by_order(crf_second_order.posterior)
@rows.on_demand
def posterior(engine, scores: Scores, data: Sequences):
    """Log Z of each sentence, marginals of labels, and expected steps: over all, or each where they vary."""
    return packed.posterior(engine, True, *_in_rows(scores, data), data)


@_by_order(crf_second_order.pair_marginals)
@rows.on_demand
def pair_marginals(engine, scores: Scores, data: Sequences):
    """Marginals of steps, (time, label, label, row): entry t is the step into t."""
    pair = jnp.asarray(scores.pair)
    if pair.ndim == 2:
        pair = jnp.broadcast_to(pair[None, :, :, None], (len(scores.node), *pair.shape, scores.node.shape[-1]))
    found = packed.posterior(engine, True, *_in_rows(Scores(scores.node, pair), data), data)[2]
    return found if found.ndim == 4 else found[..., None]


@_by_order(crf_second_order.viterbi)
@jit
def viterbi(scores: Scores, data: Sequences):
    """The best labels of each sentence and their score; −1 where nothing is possible."""
    return packed.viterbi(*_in_rows(scores, data), data)


@_by_order(crf_second_order.sample)
@rows.on_demand
def sample(engine, key, scores: Scores, data: Sequences, *, num_samples: int):
    """Labels (time, sample, row) from p(y | x), and log Z."""
    return packed.sample_posterior(engine, True, key, *_in_rows(scores, data), data, num_samples)


@_by_order(crf_second_order.chain)
def chain(scores: Scores, data: Sequences) -> Chain:
    """The chain form of one sentence."""
    size = int(data.lengths[0])
    node, pair = host(scores.node)[:size, :, 0], host(scores.pair)
    return Chain(scores.initial, pair if pair.ndim == 2 else pair[1:size, ..., 0], node)


def _one_by_one(function, scores: Scores, data: Sequences, numbers: int):
    node, pair = jnp.asarray(scores.node), jnp.asarray(scores.pair)
    size = node.shape[1]
    numbers += size * (size if pair.ndim == 4 else 1)
    return packed.one_by_one(function, scores.initial, pair, node, data, numbers=numbers)


@_by_order(crf_second_order.k_best)
@partial(jit, static_argnums=2)
def k_best(scores: Scores, data: Sequences, k: int):
    """The k best labellings of each sentence, (sentence, k, time), and their scores (sentence, k)."""
    found = _one_by_one(partial(decoding.k_best, k=k), scores, data, scores.node.shape[1] * k)
    return found.states, found.score


@_by_order(crf_second_order.entropy)
@jit
def entropy(scores: Scores, data: Sequences):
    """Entropy of the labelling of each sentence, in nats."""
    return _one_by_one(chain_engine.entropy, scores, data, 2 * scores.node.shape[1])


# Learning


class Structure(eqx.Module):
    """Which labels may begin, follow one another and end; True where allowed."""

    initial: Any
    pair: Any
    final: Any

    @property
    def dead_ends(self) -> bool:
        """Whether a sentence may have to stop after some label for want of one that may follow it, or may end."""
        return not (np.asarray(self.pair) & np.asarray(self.final)).any(1).all()


def with_structure(found: Potentials, weights, structure: Structure, start, last, extra=None) -> Scores:
    """Scores with the weights of steps, first and last labels, and −inf for what is not allowed.

    `found` is what the features say, `weights` are those of steps (label, label), of first and of last labels (label,), and
    for second order of three labels (label + 1, label, label). `start` and `last` are True on first and on last tokens,
    (time, row), and `extra`, if given, where a label is allowed at a token, (time, label, row).
    """
    node, pair, triple = found
    steps, first, end, *second = (jnp.asarray(w) for w in weights)
    begin, finish = jnp.asarray(start)[:, None], jnp.asarray(last)[:, None]
    base = jnp.where(begin, first[None, :, None], 0) + jnp.where(finish, end[None, :, None], 0)
    node = base if node is None else node + base
    banned = (begin & ~structure.initial[None, :, None]) | (finish & ~structure.final[None, :, None])
    if extra is not None:
        banned = banned | ~jnp.asarray(extra)
    node = jnp.where(banned, -jnp.inf, node)
    table = jnp.where(structure.pair, steps, -jnp.inf)
    if second:
        third = jnp.transpose(second[0], (1, 2, 0))
        triple = third if triple is None else triple + third[None, ..., None]
    return Scores(node, table if pair is None else pair + table[None, :, :, None], triple)


@partial(jit, static_argnames="local")
def complete(found: Potentials, weights, structure: Structure, start, last, *, local: bool = False) -> Scores:
    """The scores of any sentences; see `with_structure` and `localised`."""
    scores = with_structure(found, weights, structure, start, last)
    return localised(scores, start) if local else scores


def localised(scores: Scores, start) -> Scores:
    """Each step normalised by itself: p(y_t | y_{t−1}, x), as in a maximum-entropy Markov model (McCallum et al. 2000)."""
    begin = jnp.asarray(start)[:, None]
    pair = scores.pair if scores.pair.ndim == 4 else scores.pair[None, :, :, None]
    steps = pair + scores.node[:, None]
    node = jnp.where(begin, _normalised(scores.node, 1), 0)
    return Scores(node, jnp.where(begin[:, None], 0, _normalised(steps, 2)))


def _normalised(x, axis: int):
    """X − logsumexp x; −inf stays −inf, also where there is nothing else."""
    total = jnp.expand_dims(logsumexp(x, axis), axis)
    return jnp.where(jnp.isfinite(x), x - jnp.where(jnp.isfinite(total), total, 0), -jnp.inf)


class Problem(eqx.Module):
    """Training sentences, and what a fit minimises.

    Attributes:
        parts: the features.
        weights: weights of steps, first and last labels to begin with.
        free: which of them may change.
        structure: what is allowed.
        start, last: True on first and last tokens, (time, row).
        weight: weight of the sentence at each token, zero on padding.
        labels: index of each label, (time, row), where all are known.
        counts: weighted number of steps from i to j among them; for second order also of three labels, by name.
        allowed: True where a label is allowed, (time, label, row), where some are not known.
        objective: see `crf_objectives`.
        local: whether each step is normalised by itself.
        dead_ends: whether such steps may lead to a label that nothing allowed follows, so that log Z is not zero.
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
    objective: Any
    local: bool = eqx.field(static=True)
    dead_ends: bool = eqx.field(static=True)

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
        return Problem(
            parts, *fixed, start, last, weight, labels, None, allowed, self.objective, self.local, self.dead_ends
        )

    def scores(self, parameters, key=None) -> Scores:
        """Log-potentials of the training sentences."""
        own, weights = parameters
        sums: Any = Potentials()
        keys = [None] * len(own) if key is None else jax.random.split(key, len(own))
        for part, mine, random in zip(self.parts, own, keys, strict=True):
            sums = plus(sums, part.potentials(mine, random))
        weights = jax.tree.map(lambda w, free: jnp.where(free, w, 0), weights, self.free)
        found = with_structure(sums, weights, self.structure, self.start, self.last)
        return localised(found, self.start) if self.local else found

    def loss(self, parameters, key=None):
        """What is minimised, penalties aside: for the likelihood −Σ weight · log p(y | x)."""
        return self.objective.loss(self.scores(parameters, key), self)

    def slopes(self, scores: Scores, engine) -> tuple[Any, Scores]:
        """What is minimised, and its derivatives by the scores."""
        return self.objective.slopes(scores, self, engine)

    @property
    def engines(self):
        """What sums over all paths: one whose answers hold where its certificate does, and one that is always right."""
        return (compound.Scaled, compound.Either) if len(self.weights) > 3 else (rows.Scaled, rows.Either)


def plus(a: Potentials, b: Potentials) -> Potentials:
    """The sum, where None is nothing."""
    return Potentials(*(y if x is None else x if y is None else x + y for x, y in zip(a, b, strict=True)))


def climb(problem: Problem, l1, l2, limits, token, *, memory: int, size: int, sparse: bool):
    """Minimise loss + l1·Σ|w| + l2·Σw² over all parameters, in one program; a second one if a certificate fails.

    Returns the parameters, the loss with and without penalties, the history, the iterations and the ending.
    """
    rest = (l1, l2, limits, token)
    search, trusted, end = _climb(problem.engines[0], problem, None, *rest, memory=memory, size=size, sparse=sparse)
    if not trusted:  # go on from there with the log-space engine at hand
        search = search if search.iterations else None
        search, _, end = _climb(problem.engines[1], problem, search, *rest, memory=memory, size=size, sparse=sparse)
    return *end, search.history, search.iterations, search.status


def _units(problem: Problem):
    """Units of L1 penalty for each entry of the flat parameters."""
    both = (problem.parameters(), problem.sizes())
    return ravel_pytree(jax.tree.map(lambda p, s: jnp.broadcast_to(jnp.asarray(s, p.dtype), p.shape), *both))[0]


@partial(jit, static_argnums=0, static_argnames=("memory", "size", "sparse"))
def _climb(engine, problem: Problem, search, l1, l2, limits, token, *, memory: int, size: int, sparse: bool):
    """Search on until it ends, or until a certificate fails that `engine` cannot do without; says which.

    Beside the search and whether it ended, returns what `_ended` says of it.
    """
    start, back = ravel_pytree(problem.parameters())
    penalty = _units(problem) * l1 if sparse else None
    if search is None:
        search = quasi_newton.begin(start, memory=memory, history_size=size)

    def body(carry):
        before, _ = carry
        asked = engine()

        def value_and_gradient(flat, problem):
            scores, pull = jax.vjp(problem.scores, back(flat))
            value, by_scores = problem.slopes(scores, asked)
            (slopes,) = pull(by_scores)
            # what cannot be trusted is no point to go to; the search stays where it is, in the middle of its line search
            value = jnp.where(asked.trusted, value + l2 * jnp.vdot(flat, flat), jnp.nan)
            return value, ravel_pytree(slopes)[0] + 2 * l2 * flat

        after = quasi_newton.advance(value_and_gradient, before, (problem,), limits, l1=penalty)
        trusted = jnp.asarray(asked.trusted)
        progress.report(token, after.iterations, -after.value, last=after.status != quasi_newton.Ending.RUNNING)
        return after, trusted

    def going(carry):
        search, trusted = carry
        return trusted & (search.status == quasi_newton.Ending.RUNNING)

    search, trusted = lax.while_loop(going, body, (search, jnp.array(True)))
    return search, trusted, _ended(problem, back, search.x, l1, l2, search.value)


def _ended(problem: Problem, back, flat, l1, l2, value):
    """The parameters, what is minimised, and the log-likelihood without penalties."""
    if isinstance(problem.objective, Likelihood):
        unlikely = value - l2 * jnp.vdot(flat, flat) - l1 * (_units(problem) * jnp.abs(flat)).sum()
    else:
        unlikely = eqx.tree_at(lambda p: p.objective, problem, Likelihood()).loss(back(flat))
    return back(flat), value, -unlikely
