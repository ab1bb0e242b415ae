"""Hidden Markov models on the chain engine: one compiled call per question.

Every function takes a model and `Sequences`; the model's parameters and the data are traced, shapes are static, and the
jitted functions live here so that asking twice compiles once.
"""

from functools import partial
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..forms.chain import Chain
from ..forms.products import HIGHEST
from ..forms.sequences import Sequences
from ..inference import chain as chain_engine
from ..inference import decoding, rows
from ..inference.compiling import jit
from ..learning.em import frozen_leaves, pack_fit
from . import packed
from .emissions.base import guarded, safe_ratio
from .emissions.custom import Held
from .emissions.discrete import Categorical, masked_softmax
from .emissions.normal import Normal
from .markov_chain import sample_states


class Expectations(NamedTuple):
    """What the E-step hands to the M-step: state weights at each step, and expected starts and steps."""

    states: Float[Array, "time state row"]
    starts: Float[Array, " state"]
    steps: Float[Array, "state state"]


def _found(model, data: Sequences, known=None):
    """Log-likelihoods of the observations, −inf where a known state says otherwise."""
    found = model.emission.scores(jnp.asarray(data.values))
    if known is not None:
        allowed = (known[:, None] < 0) | (known[:, None] == jnp.arange(found.shape[1])[None, :, None])
        found = jnp.where(allowed, found, -jnp.inf)
    return found


def _scores(model, data: Sequences, known=None):
    return packed.squeezed(_found(model, data, known), data)


def _counted(mask, array):
    return jnp.where(mask if mask.ndim == array.ndim else jnp.expand_dims(mask, 1), array, 0)


@rows.on_demand
def log_prob(engine, model, data: Sequences, known):
    """Log p(x) of each sequence."""
    scores = _found(model, data, known)
    return packed.log_partition(engine, False, model.initial, model.transition, scores, data)


@rows.on_demand
def posterior(engine, model, data: Sequences, known):
    """Log p(x) of each sequence, marginals, and expected steps over all of them."""
    scores = _found(model, data, known)
    return packed.posterior(engine, False, model.initial, model.transition, scores, data)


@rows.on_demand
def filtered(engine, model, data: Sequences, known):
    """Log p(x), filtered and predicted states, log-constants, and the state after the last step of each sequence."""
    scores, start, mask = _scores(model, data, known)
    found, terms = engine.filter(model.initial, model.transition, scores, start)
    moved = jnp.einsum("ti...,ij->tj...", found, model.transition, precision=HIGHEST)
    first = model.initial.reshape(1, -1, *[1] * (scores.ndim - 2))
    before = jnp.concatenate([jnp.broadcast_to(first, moved[:1].shape), moved[:-1]])
    predicted = jnp.where(jnp.expand_dims(start, 1), first, before)
    last = jnp.asarray(data.offset) + jnp.asarray(data.lengths) - 1
    forecast = packed.with_rows(moved, data)[last, :, jnp.asarray(data.row)]
    return (
        packed.totals(data, terms, mask),
        packed.with_rows(found, data),
        packed.with_rows(predicted, data),
        packed.with_rows(terms, data),
        forecast,
    )


@jit
def viterbi(model, data: Sequences, known):
    """The best path of each sequence and its log p(z, x); −1 where nothing is possible."""
    scores = _found(model, data, known)
    return packed.viterbi(jnp.log(model.initial), jnp.log(model.transition), scores, data)


@jit
def chain(model, data: Sequences) -> Chain:
    """The chain form of one sequence."""
    scores, _, _ = _scores(model, data)
    return Chain(jnp.log(model.initial), jnp.log(model.transition), scores, jnp.asarray(data.lengths)[0])


def _one_by_one(function, model, data: Sequences, known, numbers: int):
    scores = jnp.where(jnp.asarray(data.mask)[:, None], _found(model, data, known), 0)
    logs = (jnp.log(model.initial), jnp.log(model.transition))
    return packed.one_by_one(function, *logs, scores, data, numbers=numbers)


@partial(jit, static_argnums=3)
def k_best(model, data: Sequences, known, k: int):
    """The k best paths of each sequence, (sequence, k, time), and their scores (sequence, k)."""
    found = _one_by_one(partial(decoding.k_best, k=k), model, data, known, model.num_states * (k + 1))
    return found.states, found.score


@jit
def entropy(model, data: Sequences, known):
    """Entropy of the path of each sequence."""
    return _one_by_one(chain_engine.entropy, model, data, known, 3 * model.num_states)


@rows.on_demand
def sample_posterior(engine, model, key, data: Sequences, known, *, num_samples: int):
    """Paths (time, sample, row) from p(z | x), and log p(x)."""
    scores = _found(model, data, known)
    return packed.sample_posterior(engine, False, key, model.initial, model.transition, scores, data, num_samples)


@partial(jit, static_argnums=(2, 3))
def sample(model, key, length: int, num_samples: int | None):
    """States (sample, time) and observations (sample, time, *event) from the prior; without number one, and no axis."""
    hidden, seen = jax.random.split(key)
    uniform = jax.random.uniform(hidden, (length, num_samples or 1), model.initial.dtype)
    states = sample_states(model.initial, model.transition, uniform)
    x = model.emission.sample(seen, states)
    return (states[0], x[0]) if num_samples is None else (states, x)


# Learning


def expect(model, data: Sequences, engine):
    """The E-step."""
    scores, start, mask = _scores(model, data)
    s = engine.smooth(model.initial, model.transition, scores, start, mask.astype(scores.dtype))
    log_likelihood = rows.add_up(mask.astype(scores.dtype), s.terms)
    weights = packed.with_rows(_counted(mask, s.marginals), data)
    return log_likelihood, Expectations(weights, s.initial_count, s.transition_count)


def maximise(model, data: Sequences, expectations: Expectations, prior, floor):
    """The M-step. A state that nothing starts in or leaves keeps its probabilities."""
    starts = _posterior_counts(expectations.starts, prior.initial, model.initial)
    steps = expectations.steps + jnp.diag(jnp.broadcast_to(prior.stickiness, model.initial.shape)).astype(
        expectations.steps.dtype
    )
    steps = _posterior_counts(jnp.where(model.transition > 0, steps, 0), prior.transition, model.transition)
    visited = expectations.states.sum((0, 2)) > 0  # exactly zero where impossible; counts of steps are rounding there
    leaving = jnp.where(visited, steps.sum(1), 0)
    initial = jnp.where(starts.sum() > 0, safe_ratio(starts, starts.sum()), model.initial)
    transition = guarded(safe_ratio(steps, leaving[:, None]), model.transition, leaving)
    initial, transition = _possible(initial, model.initial), _possible(transition, model.transition)
    emission, degenerate = model.emission.maximise(jnp.asarray(data.values), expectations.states, prior.emission, floor)
    return type(model)(initial, transition, emission, model.states), degenerate


def _possible(new, old):
    """Keep what is possible above zero: a learned probability that underflows must not turn into a structural zero."""
    return jnp.where(old > 0, jnp.maximum(new, jnp.finfo(new.dtype).tiny), 0)


def _posterior_counts(counts, concentration, probs):
    pseudo = jnp.broadcast_to(jnp.asarray(concentration, probs.dtype) - 1, probs.shape)
    return counts + jnp.where(probs > 0, pseudo, 0)


@jit
def total(model, data: Sequences):
    """Log-likelihood of all sequences together, with the marginals as its gradient."""
    scores, start, mask = _scores(model, data)
    return rows.total(False, model.initial, model.transition, scores, start, mask.astype(scores.dtype))


def log_prior(model, prior):
    """Log-density of the prior at the parameters, up to a constant."""

    def dirichlet(concentration, probs):
        pseudo = jnp.broadcast_to(jnp.asarray(concentration, probs.dtype) - 1, probs.shape)
        return jnp.where(probs > 0, pseudo * jnp.log(jnp.where(probs > 0, probs, 1)), 0).sum()

    size = model.initial.shape[0]
    sticky = jnp.diag(jnp.broadcast_to(jnp.asarray(prior.stickiness, model.initial.dtype), (size,)))
    concentration = jnp.broadcast_to(jnp.asarray(prior.transition, model.initial.dtype), (size, size)) + sticky
    chains = dirichlet(prior.initial, model.initial) + dirichlet(concentration, model.transition)
    return chains + model.emission.log_prior(prior.emission)


def unconstrained(model):
    """Logits of the possible starts and steps, and the emission's own free parameters."""

    def logits(probs):
        return jnp.log(jnp.where(probs > 0, probs, 1))

    return logits(model.initial), logits(model.transition), model.emission.unconstrained()


def constrained(model, free):
    """The model that free parameters describe; what is impossible in `model` stays so."""
    initial, transition, emission = free
    return type(model)(
        masked_softmax(initial, model.initial > 0),
        masked_softmax(transition, model.transition > 0),
        model.emission.constrained(emission),
        model.states,
    )


def fit(models, data: Sequences, method, prior, frozen, progress: bool):
    """Run a learning strategy from each starting point and pack up the best end."""
    first = jax.tree.map(lambda leaf: leaf[0], models)
    marks = frozen_leaves(first, frozen)
    if marks is not None:  # every run starts from the first one's frozen parts
        leaves, structure = jax.tree.flatten(models)
        pairs = zip(leaves, marks, strict=True)
        leaves = [np.broadcast_to(np.asarray(leaf)[:1], leaf.shape) if held else leaf for leaf, held in pairs]
        models = jax.tree.unflatten(structure, leaves)
    held = marks is not None and all(marks[2:])
    if held:
        models = eqx.tree_at(lambda m: m.emission, models, Held(models.emission))
    prior = jax.tree.map(lambda leaf: leaf.astype(models.initial.dtype), prior)
    outcome = method.run(models, data, prior, marks, show_progress=progress)
    counts = free_counts(first)
    free = sum(n for n, held in zip(counts, marks or [False] * len(counts), strict=True) if not held)
    found = pack_fit(outcome, num_observations=data.num_steps, num_parameters=free)
    if held:
        found = eqx.tree_at(lambda f: f.model.emission, found, found.model.emission.emission)
    return found


def free_counts(model) -> list[int]:
    """How many numbers may be chosen freely in each array of the model."""
    starts = int((np.asarray(model.initial) > 0).sum()) - 1
    steps = int((np.asarray(model.transition) > 0).sum()) - model.num_states
    return [starts, steps, *model.emission.free_counts()]


# Order of states


@jit
def permuted(initial, transition, emission, order):
    """The parts of a model with state k being what state order[k] was."""
    return initial[order], transition[order][:, order], emission.permute(order)


def matching(model, reference, data) -> np.ndarray:
    """For each state of the reference, the state of the model that matches it best."""
    from scipy.optimize import linear_sum_assignment

    if data is None:
        mine, theirs = (_typical(m.emission).reshape(m.num_states, -1) for m in (model, reference))
        scale = theirs.std(0) + mine.std(0)
        cost = (((theirs[:, None] - mine[None]) / np.where(scale > 0, scale, 1)) ** 2).sum(-1)
    else:
        ours, other = model.posterior(data).marginals, reference.posterior(data).marginals
        pairs = zip(other, ours, strict=True) if isinstance(ours, list) else [(other, ours)]
        size = model.num_states
        cost = -sum(a.reshape(-1, size).T @ b.reshape(-1, size) for a, b in pairs)
    return linear_sum_assignment(cost)[1]


def _typical(emission) -> np.ndarray:
    """What tells states apart without data: the mean observation, or for symbols, which have no order, all of it."""
    if isinstance(emission, Categorical):
        return np.asarray(emission.probs, float)
    mean = np.asarray(emission.mean, float).reshape(emission.num_states, -1)
    if isinstance(emission, Normal):  # states may differ in their spread alone
        return np.concatenate([mean, np.log(np.asarray(emission.variance, float)).reshape(len(mean), -1)], axis=1)
    return mean
