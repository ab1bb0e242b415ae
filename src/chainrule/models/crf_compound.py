"""Conditional random fields on compound chains: questions about packed sentences, and the slopes of a fit.

What `crf_engine` and `packed` are for chains of first order. A `view` gives a kind of chain and its steps; states are those
of the kind, which each model reads as its labels.
"""

from typing import Any

import jax
import jax.numpy as jnp

from ..forms.sequences import Sequences
from ..inference import compound, compound_paths
from ..inference.compound import AbstractKind, Steps
from ..inference.rows import add_up


def on_mask(steps: Steps, data: Sequences) -> Steps:
    """Steps whose padding scores zero."""
    mask = jnp.asarray(data.mask)
    varying = {
        name: jnp.where(mask.reshape(len(mask), *[1] * (value.ndim - 2), -1), value, 0)
        for name, value in steps.varying.items()
    }
    return Steps(jax.tree.map(jnp.asarray, steps.fixed), varying, jax.tree.map(jnp.asarray, steps.marks), steps.start)


def smooth(engine, kind: AbstractKind, steps: Steps, data: Sequences):
    """Log Z of each sentence, and the expected uses of all potentials."""
    steps = on_mask(steps, data)
    found = engine.smooth(kind, steps, jnp.asarray(data.mask).astype(found_dtype(steps)))
    return data.totals(found.terms), found


def found_dtype(steps: Steps):
    """The dtype of the potentials."""
    return steps.varying["node"].dtype


def best(kind: AbstractKind, steps: Steps, data: Sequences):
    """The best states of each sentence and their score; −1 where nothing is possible."""
    steps = on_mask(steps, data)
    states = compound_paths.best_states(kind, steps)
    score = data.totals(compound_paths.path_terms(kind, steps, states))
    return jnp.where((score > -jnp.inf)[data.owner()], states, -1), score


def draws(key, kind: AbstractKind, steps: Steps, data: Sequences, num_samples: int):
    """States (time, sample, row), and log Z."""
    states, terms = compound_paths.draws(key, kind, on_mask(steps, data), num_samples)
    score = data.totals(terms)
    return jnp.where((score > -jnp.inf)[data.owner()][:, None], states, -1), score


def path_scores(kind: AbstractKind, steps: Steps, data: Sequences, states):
    """The score of one path for each sentence."""
    return data.totals(compound_paths.path_terms(kind, on_mask(steps, data), states))


def one_by_one(function, kind: AbstractKind, steps: Steps, data: Sequences):
    """`function(kind, steps, real)` of each sentence, laid out by itself in one row as long as those it lies in."""
    time = jnp.arange(len(steps.start), dtype=jnp.int32)

    def one(place):
        row, offset, length = place
        where = jnp.minimum(offset + time, len(time) - 1)
        own = lambda value: jnp.take(value, row, axis=-1)[where][..., None]  # noqa: E731
        varying, marks = jax.tree.map(own, (steps.varying, steps.marks))
        return function(kind, Steps(steps.fixed, varying, marks, (time == 0)[:, None]), time < length)

    return jax.lax.map(one, tuple(jnp.asarray(x) for x in (data.row, data.offset, data.lengths)))


# Slopes of a fit


def gold_uses(kind: AbstractKind, steps: Steps, weight, states) -> tuple[dict[str, Any], dict[str, Any]]:
    """Weighted uses of fixed and of varying potentials by the paths that are there; they do not depend on values."""

    def score(fixed, varying):
        return add_up(weight, _path_terms(kind, Steps(fixed, varying, steps.marks, steps.start), weight, states))

    return jax.grad(score, (0, 1))(steps.fixed, steps.varying)


def _path_terms(kind, steps, weight, states):
    # padding has no label, so any state may be impossible there
    return jnp.where(weight != 0, compound_paths.path_terms(kind, steps, states), 0)


def conditional(engine, kind: AbstractKind, steps: Steps, weight, states, counts):
    """−Σ weight · log p(states), and its derivatives by fixed and varying potentials.

    Each step's score is taken off its potentials, so that only small numbers are added up. `counts` are the fixed
    potentials' uses by `states`.
    """

    def terms(varying):
        return _path_terms(kind, steps._replace(varying=varying), weight, states)

    taken, pull = jax.vjp(terms, steps.varying)
    shifted = steps._replace(varying=steps.varying | {"node": steps.varying["node"] - taken[:, None]})
    found = engine.smooth(kind, shifted, weight)
    by_varying = jax.tree.map(jnp.subtract, found.varying, pull(weight)[0])
    return add_up(weight, found.terms), jax.tree.map(jnp.subtract, found.fixed, counts), by_varying


def conditional_loss(kind: AbstractKind, steps: Steps, weight, states):
    """−Σ weight · log p(states), to be differentiated."""
    taken = _path_terms(kind, steps, weight, states)
    varying = steps.varying | {"node": steps.varying["node"] - taken[:, None]}
    return compound.total(kind, steps.fixed, varying, steps.marks, steps.start, weight)
