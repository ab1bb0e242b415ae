"""What a fit of a linear-chain CRF minimises, sentence by sentence; `score(y)` is the exponent of p(y | x)."""

from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax

from ..inference import decoding, rows
from . import crf_second_order


class Likelihood(eqx.Module):
    """−log p(y | x), the negative conditional log-likelihood (Lafferty, McCallum and Pereira 2001)."""

    def slopes(self, scores, given, engine):
        """The loss, and its derivatives by the potentials of labels and of steps: what is expected less what is there."""
        if given.local:
            return by_autodiff(self, scores, given)
        if scores.triple is not None:
            return crf_second_order.likelihood_slopes(scores, given, engine)
        if given.allowed is None:
            labels = (given.start, given.weight, given.labels, given.counts)
            return _named(scores, *_conditional_slopes(engine, scores.node, scores.pair, *labels))
        rest = (given.start, given.weight)
        free = engine.smooth(scores.initial, scores.pair, scores.node, *rest, log=True)
        node = jnp.where(given.allowed, scores.node, -jnp.inf)
        some = engine.smooth(scores.initial, scores.pair, node, *rest, log=True)
        by_node = (free.marginals - some.marginals) * given.weight[:, None]
        by_pair = free.transition_count - some.transition_count
        return rows.add_up(given.weight, free.terms - some.terms), scores._replace(node=by_node, pair=by_pair)

    def loss(self, scores, given):
        """−Σ weight · log p(y | x); labels that are not known are summed out."""
        if scores.triple is not None:
            return crf_second_order.likelihood_loss(scores, given)
        if given.allowed is None and given.local and not given.dead_ends:  # log Z is zero
            return -rows.add_up(given.weight, _terms(scores, given, given.labels))
        if given.allowed is None:
            return _conditional(scores.node, scores.pair, given.start, given.weight, given.labels, given.counts)
        everything: Any = rows.total(True, scores.initial, scores.pair, scores.node, given.start, given.weight)
        node = jnp.where(given.allowed, scores.node, -jnp.inf)
        agreeing: Any = rows.total(True, scores.initial, scores.pair, node, given.start, given.weight)
        return everything - agreeing


class _Margin(eqx.Module):
    """What asks for a margin of `cost` at each token."""

    cost: float = 1.0

    def __check_init__(self):
        if not 0 <= self.cost < float("inf"):
            raise ValueError(f"{type(self).__name__}: cost is {self.cost}; it must be a number from 0 on")


class MaxMargin(_Margin):
    """The structured hinge: how far the best wrong labelling comes within its margin.

        max_y′ [ score(y′) + cost · #{t : y′_t ≠ y_t} ] − score(y)

    It has kinks, so give it `MiniBatch` rather than `LBFGS`. With cost 0 it is the perceptron's loss (Collins 2002).
    References: Taskar, Guestrin and Koller (2004), Max-margin Markov networks; Tsochantaridis et al. (2005).

    Args:
        cost: the margin asked for at each token, ≥ 0.

    Raises:
        ValueError: a negative cost.
    """

    def slopes(self, scores, given, engine):
        """The loss, and its derivatives by the potentials."""
        return by_autodiff(self, scores, given)

    def loss(self, scores, given):
        """Σ weight · hinge. Its gradient is that at the best labelling."""
        costed = _helped(scores, given, self.cost)
        if scores.triple is not None:
            best = crf_second_order.best_labels(scores._replace(node=costed), given)
        else:
            best = decoding.best_states(
                scores.initial, lax.stop_gradient(scores.pair), lax.stop_gradient(costed), given.start
            )
        ahead = _terms(scores._replace(node=costed), given, best) - _terms(scores, given, given.labels)
        return rows.add_up(given.weight, ahead)


class SoftmaxMargin(_Margin):
    """The likelihood against labellings that are helped by their errors (Gimpel and Smith 2010).

        log Σ_y′ exp[ score(y′) + cost · #{t : y′_t ≠ y_t} ] − score(y)

    It is a smooth upper bound of the structured hinge.

    Args:
        cost: the margin asked for at each token, ≥ 0.

    Raises:
        ValueError: a negative cost.
    """

    def slopes(self, scores, given, engine):
        """The loss, and its derivatives by the potentials."""
        if given.local:
            return by_autodiff(self, scores, given)
        costed = _helped(scores, given, self.cost)
        if scores.triple is not None:
            return crf_second_order.likelihood_slopes(scores._replace(node=costed), given, engine)
        labels = (given.start, given.weight, given.labels, given.counts)
        return _named(scores, *_conditional_slopes(engine, costed, scores.pair, *labels))

    def loss(self, scores, given):
        """Σ weight · softmax margin."""
        costed = _helped(scores, given, self.cost)
        if scores.triple is not None:
            return crf_second_order.likelihood_loss(scores._replace(node=costed), given)
        return _conditional(costed, scores.pair, given.start, given.weight, given.labels, given.counts)


def by_autodiff(objective, scores, given):
    """The loss and its derivatives by the potentials of labels and of steps."""
    return jax.value_and_grad(lambda s: objective.loss(s, given))(scores)


def _named(scores, value, slopes):
    by_node, by_pair = slopes
    return value, scores._replace(node=by_node, pair=by_pair)


def _helped(scores, given, cost):
    """Log-potentials of labels, each wrong one raised by the cost."""
    wrong = jnp.asarray(given.labels)[:, None] != jnp.arange(scores.node.shape[1], dtype=jnp.int32)[None, :, None]
    return scores.node + jnp.where(wrong, jnp.asarray(cost, scores.node.dtype), 0)


def _terms(scores, given, labels):
    """What each token adds to the score of a labelling; zero on padding, whose labels mean nothing."""
    if scores.triple is not None:
        return crf_second_order.path_terms(scores, given, labels)
    terms = decoding.path_terms(scores.initial, scores.pair, scores.node, jnp.asarray(given.start), jnp.asarray(labels))
    return jnp.where(given.weight != 0, terms, 0)


@jax.custom_vjp
def _conditional(node, pair, start, weight, labels, counts):
    """−Σ weight · log p(labels): each step's score is taken off its potentials, so that only small numbers are added up.

    The gradient is what the model expects less what is there, token by token.
    """
    shifted, _ = _shifted(node, pair, start, weight, labels)
    return rows.total(True, jnp.zeros(node.shape[1], node.dtype), pair, shifted, start, weight)


def _shifted(node, pair, start, weight, labels):
    there = jnp.asarray(labels)[:, None] == jnp.arange(node.shape[1], dtype=jnp.int32)[None, :, None]
    terms = decoding.path_terms(jnp.zeros(node.shape[1], node.dtype), pair, node, start, jnp.asarray(labels))
    terms = jnp.where(weight != 0, terms, 0)  # padding is labelled 0, which may not be allowed to begin
    return node - terms[:, None], there


def _conditional_slopes(engine, node, pair, start, weight, labels, counts):
    shifted, there = _shifted(node, pair, start, weight, labels)
    s = engine.smooth(jnp.zeros(node.shape[1], node.dtype), pair, shifted, start, weight, log=True)
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


_conditional.defvjp(partial(_conditional_slopes, rows.Either), _conditional_backward)
