"""Forward-backward in log space: slow, and right for any range of potentials.

The fallback of `chainrule.inference.scaled`, with the same equations and the same shapes. Every step is normalised here
too, because an unnormalised log-probability grows with time and so does the error of its last digit.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float


class LogWeights(NamedTuple):
    """A chain's log-potentials; shapes as in `scaled.Weights`."""

    initial: Float[Array, " state"]
    transition: Float[Array, "..."]
    likelihood: Float[Array, "time state *row"]
    start: Bool[Array, "time *row"]


def logsumexp(x: Float[Array, "..."], axis: int) -> Float[Array, "..."]:
    """Log Σ exp whose all −inf slices give −inf, with zero instead of NaN gradients (the double `where`)."""
    peak = lax.stop_gradient(x.max(axis, keepdims=True))
    peak = jnp.where(jnp.isfinite(peak), peak, 0)
    total = jnp.exp(x - peak).sum(axis)
    some = total > 0
    return jnp.where(some, jnp.log(jnp.where(some, total, 1)) + jnp.squeeze(peak, axis), -jnp.inf)


def finite(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """x, with 0 in place of what is not finite."""
    return jnp.where(jnp.isfinite(x), x, 0)


def safe_log(probability: Float[Array, "..."]) -> Float[Array, "..."]:
    """Log p, −inf at 0 with a gradient of 0 there instead of NaN (the double `where`)."""
    some = probability > 0
    return jnp.where(some, jnp.log(jnp.where(some, probability, 1)), -jnp.inf)


def forward(w: LogWeights):
    """Log filtered distributions (time, state, *row) and log-constants (time, *row)."""
    initial = _column(w.initial, w)

    def body(filtered, x):
        likelihood, start, *transition = x
        step = _matrix(w, transition)
        joint = jnp.where(start[None], initial, logsumexp(filtered[:, None] + step, 0)) + likelihood
        constant = logsumexp(joint, 0)
        filtered = _shifted(joint, constant)
        return filtered, (filtered, constant)

    return lax.scan(body, jnp.full_like(w.likelihood[0], -jnp.inf), _steps(w))[1]


def backward(w: LogWeights):
    """Log backward messages (time, state, *row), each with a maximum of zero."""

    def body(late, x):
        likelihood, start, *transition = x
        back = logsumexp(_matrix(w, transition) + (likelihood + late)[None], 1)
        peak = back.max(0)
        return jnp.where(start[None], 0, _shifted(back, peak)), late

    return lax.scan(body, jnp.zeros_like(w.likelihood[0]), _steps(w), reverse=True)[1]


def accumulate(w: LogWeights, filtered, constant, late, weight):
    """Marginals and the derivatives of Σ weight · log-constant, as `scaled.accumulate`, with expected counts beside.

    Returns marginals, (derivative, count) by the initial and (derivative, count) by the transition probabilities. Both
    are kept because a count is derivative × probability only where the probability is not zero: the derivative by a
    forbidden step can be infinite. Steps of an impossible sequence count nothing.
    """
    overlap = logsumexp(filtered + late, 1)
    possible = jnp.isfinite(overlap) & jnp.isfinite(constant)
    safe = jnp.where(possible, overlap, 0)
    marginals = jnp.where(jnp.expand_dims(possible, 1), jnp.exp(filtered + late - jnp.expand_dims(safe, 1)), 0)
    ahead = w.likelihood + late - jnp.expand_dims(jnp.where(possible, constant, 0) + safe, 1)
    ahead = jnp.where(jnp.expand_dims(possible & (weight != 0), 1), ahead, -jnp.inf)

    begin = jnp.expand_dims(w.start, 1)
    rows = tuple(a for a in range(ahead.ndim) if a != 1)
    by_weight = jnp.expand_dims(weight, 1)
    first = jnp.where(begin, ahead, -jnp.inf)
    by_initial = (_times(jnp.exp(first), by_weight)).sum(rows)
    initial_count = _times(jnp.exp(first + _column(w.initial, w)[None]), by_weight).sum(rows)

    def pairs(early, late, step, weight):
        joint = early[:, None] + late[None]
        extra = tuple(range(2, joint.ndim)) if w.transition.ndim < 4 else ()
        weight = weight[None, None]
        return _times(jnp.exp(joint), weight).sum(extra), _times(jnp.exp(joint + step), weight).sum(extra)

    def body(total, x):
        early, late, weight, *transition = x
        found = pairs(early, late, _matrix(w, transition), weight)
        if transition:
            return total, found
        return (total[0] + found[0], total[1] + found[1]), None

    inner = jnp.where(begin, -jnp.inf, ahead)
    steps = (filtered[:-1], inner[1:], weight[1:])
    if w.transition.ndim > 2:
        found: Any = lax.scan(body, None, (*steps, w.transition[1:]))[1]
        by_transition, transition_count = (jnp.concatenate([jnp.zeros_like(w.transition[:1]), f]) for f in found)
    else:
        nothing = jnp.zeros_like(w.transition)
        by_transition, transition_count = lax.scan(body, (nothing, nothing), steps)[0]
    return marginals, (by_initial, initial_count), (by_transition, transition_count)


def _shifted(x, by):
    """X − by for each column, and −inf where `by` is."""
    some = jnp.isfinite(by)[None]
    return jnp.where(some, x - jnp.where(some, by[None], 0), -jnp.inf)


def _times(x, weight):
    return jnp.where(x == 0, 0, x * weight)


def _column(vector, w: LogWeights):
    return vector.reshape(-1, *[1] * (w.likelihood.ndim - 2))


def _matrix(w: LogWeights, transition):
    step = transition[0] if transition else w.transition
    return step.reshape(*step.shape, *[1] * (w.likelihood.ndim - step.ndim))


def _steps(w: LogWeights):
    return (w.likelihood, w.start) if w.transition.ndim == 2 else (w.likelihood, w.start, w.transition)
