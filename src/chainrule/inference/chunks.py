"""The scaled sweeps of a chain, parallel in time, for accelerators.

A step of the recursion is a matrix, E_t[i, j] = transition[i, j] · likelihood[t, j], and matrices multiply in any
grouping. The chain is cut into about √T chunks that run side by side:

1. every chunk multiplies its own steps together: √T steps of K×K products, all chunks at once;
2. one short loop over the chunks carries the filtered state to each chunk's beginning and the backward message to its end;
3. every chunk runs the ordinary scaled recursions from there: √T steps of vectors, all chunks at once.

So 3√T loop steps take the place of T, for about K times the arithmetic: a gain where a loop step costs far more than its
arithmetic, as on a GPU (measured in benchmarks/README.md), and a loss on a CPU. A tree of products (Särkkä and
García-Fernández 2021) has fewer steps still and pays log T · K³ for each, which is more from small K on.

Transitions may vary with time and may be zero. What is returned carries the same certificate as the sequential sweeps, and
one of its own: the messages at the chunks' ends have to agree.
"""

import math

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool

from ..forms.products import HIGHEST
from . import scaled

LONG = 128  # steps from which on short loops pay
ROOM = 2**26  # numbers that the products of all chunks may take


def suits(w: scaled.Weights) -> bool:
    """Whether this is the way to sweep: on an accelerator, where the chain is long and its products fit."""
    time, states, *rows = w.likelihood.shape
    chunks = math.isqrt(time)
    fits = states <= 8 * chunks and chunks * states**2 * math.prod(rows) <= ROOM  # memory stays within some T · K
    return jax.default_backend() != "cpu" and time >= LONG and fits


def sweep(w: scaled.Weights) -> tuple[scaled.Sweep, Bool[Array, ""]]:
    """All messages, and whether those that the products brought to the chunks' ends are those that the chunks found."""
    if w.likelihood.ndim == 2:
        return _sweep(w)
    varying = -1 if w.transition.ndim == 4 else None
    found, sound = jax.vmap(_sweep, in_axes=(scaled.Weights(None, varying, -1, -1, -1),), out_axes=(-1, 0))(w)
    return found, sound.all()


def _sweep(w: scaled.Weights) -> tuple[scaled.Sweep, Bool[Array, ""]]:
    time, states = w.likelihood.shape
    length = max(1, math.isqrt(time))
    chunks = -(-time // length)
    extra = chunks * length - time

    def cut(x, fill):  # (time, …) to (length, …, chunk), the chunks as lanes
        x = jnp.concatenate([x, jnp.full_like(x, fill, shape=(extra, *x.shape[1:]))])
        return jnp.moveaxis(x.reshape(chunks, length, *x.shape[1:]), 0, -1)

    def join(x):
        return jnp.moveaxis(x, -1, 0).reshape(chunks * length, *x.shape[1:-1])[:time]

    varying = w.transition.ndim == 3
    steps = (cut(w.likelihood, 1), cut(w.start, True), *([cut(w.transition, 1)] if varying else []))
    initial = w.initial[:, None]

    def ahead(f, transition):  # fᵀ · transition for each chunk; f is (…, state, chunk)
        return jnp.einsum("...ic,ijc->...jc" if varying else "...ic,ij->...jc", f, transition, precision=HIGHEST)

    def back(transition, b):
        return jnp.einsum("ijc,jc->ic" if varying else "ij,jc->ic", transition, b, precision=HIGHEST)

    def multiply(product, x):
        likelihood, start, *transition = x
        fresh = product.sum(1, keepdims=True) * initial[None]  # a new sequence forgets where it came from
        moved = jnp.where(start[None, None], fresh, ahead(product, transition[0] if varying else w.transition))
        product = scaled.floored(moved * likelihood[None])
        return product * (1 / product.max((0, 1)))[None, None], None

    identity = jnp.broadcast_to(jnp.eye(states, dtype=w.likelihood.dtype)[:, :, None], (states, states, chunks))
    products = jnp.moveaxis(lax.scan(multiply, identity, steps)[0], -1, 0)  # (chunk, state, state)

    def enter(f, product):
        after = scaled.floored(jnp.dot(f, product, precision=HIGHEST))
        return after / after.sum(), f

    def leave(b, product):
        before = scaled.floored(jnp.dot(product, b, precision=HIGHEST))
        return before / before.sum(), b

    flat = jnp.full(states, 1 / states, w.likelihood.dtype)
    entering = lax.scan(enter, flat, products)[1].T
    leaving = lax.scan(leave, flat, products, reverse=True)[1].T

    def both(carry, x):
        filtered, backward = carry
        (likelihood, start, *transition), (late, late_start, *late_transition) = x
        moved = ahead(filtered, transition[0] if varying else w.transition)
        joint = scaled.floored(jnp.where(start[None], initial, moved) * likelihood)
        constant = joint.sum(0)
        filtered = joint * (1 / constant)[None]
        message = scaled.floored(back(late_transition[0] if varying else w.transition, late * backward))
        message = jnp.where(late_start[None], 1 / states, message * (1 / message.sum(0))[None])
        return (filtered, message), (filtered, constant, backward)

    reverse = jax.tree.map(lambda x: x[::-1], steps)
    (end, begin), (filtered, constant, backward) = lax.scan(both, (entering, leaving), (steps, reverse))
    sound = _agree(end[:, :-1], entering[:, 1:]) & _agree(begin[:, 1:], leaving[:, :-1])
    return scaled.Sweep(join(filtered), join(backward[::-1]), join(constant)), sound


def _agree(a, b):
    """Whether messages agree, in each state that is not so improbable that the certificate watches over it.

    A product keeps one scale for all its entries: a row that is far below the others may hold nothing but what underflow
    was raised to, and that may be the one row which counts.
    """
    limits, larger = jnp.finfo(a.dtype), jnp.maximum(a, b)
    return jnp.all((jnp.abs(a - b) <= 1e-3 * larger) | (larger < limits.tiny / limits.eps**2))
