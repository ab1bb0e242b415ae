"""The sweeps of a chain, and its best path, parallel in time, for accelerators.

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
from jaxtyping import Array, Bool, Float, Int

from ..forms.products import HIGHEST
from . import scaled
from .logspace import finite

LONG = 128  # steps from which on short loops pay
ROOM = 2**26  # numbers that the products of all chunks may take


def suits(likelihood: Float[Array, "time state *row"]) -> bool:
    """Whether this is the way to go: on an accelerator, where the chain is long and its products fit."""
    time, states, *rows = likelihood.shape
    chunks = math.isqrt(time)
    fits = states <= 8 * chunks and chunks * states**2 * math.prod(rows) <= ROOM  # memory stays within some T · K
    return jax.default_backend() != "cpu" and time >= LONG and fits


def sweep(w: scaled.Weights) -> tuple[scaled.Sweep, Bool[Array, ""]]:
    """All messages, and whether those that the products brought to the chunks' ends are those that the chunks found."""
    if w.likelihood.ndim == 2:
        return _sweep(w)
    varying = -1 if w.transition.ndim == 4 else None
    over_rows = jax.vmap(lambda *row: _sweep(scaled.Weights(*row)), (None, varying, -1, -1, -1), (-1, 0))
    found, sound = over_rows(*w)
    return found, sound.all()


def _sweep(w: scaled.Weights) -> tuple[scaled.Sweep, Bool[Array, ""]]:
    states = w.likelihood.shape[1]
    cut, join, chunks = _pieces(len(w.likelihood))
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


def _pieces(time: int):
    """How to cut (time, …) into (length, …, chunk), the chunks as lanes, how to join it again, and how many there are."""
    length = max(1, math.isqrt(time))
    chunks = -(-time // length)

    def cut(x, fill):
        x = jnp.concatenate([x, jnp.full_like(x, fill, shape=(chunks * length - time, *x.shape[1:]))])
        return jnp.moveaxis(x.reshape(chunks, length, *x.shape[1:]), 0, -1)

    def join(x):
        return jnp.moveaxis(x, -1, 0).reshape(chunks * length, *x.shape[1:-1])[:time]

    return cut, join, chunks


def best_states(initial, transition, node, start) -> Int[Array, "time *row"]:
    """Viterbi, as `decoding.best_states`; what is added in another order may decide near ties otherwise.

    The products are those of (max, +). On the way back every chunk follows all states that it may end in, and one short
    loop over the chunks says which of them it was.
    """
    if node.ndim == 2:
        return _best_states(initial, transition, node, start)
    varying = -1 if transition.ndim == 4 else None
    return jax.vmap(_best_states, in_axes=(None, varying, -1, -1), out_axes=-1)(initial, transition, node, start)


def _best_states(initial, transition, node, start):
    states = node.shape[1]
    cut, join, chunks = _pieces(len(node))
    varying = transition.ndim == 3
    # what fills up the end begins anew: it leaves the last state as it is
    steps = (cut(node, 0), cut(start, True), *([cut(transition, 0)] if varying else []))
    first = initial[:, None]

    def ahead(score, step):  # max over i of score[…, i, chunk] + step[i, j, chunk]
        matrix = step[0] if step else transition[:, :, None]
        return (score[..., :, None, :] + matrix.reshape(*[1] * (score.ndim - 2), *matrix.shape)).max(-3)

    def follow(score, x):
        potential, begin, *step = x
        extra = [1] * (score.ndim - 2)
        entered = jnp.where(begin, first.reshape(*extra, states, 1), ahead(score, step))
        new = entered + potential.reshape(*extra, states, chunks)
        return new - finite(new.max(tuple(range(new.ndim - 1)), keepdims=True)), score

    none = jnp.where(jnp.eye(states, dtype=bool), 0, -jnp.inf).astype(node.dtype)  # leaves every state where it is
    products = lax.scan(follow, jnp.broadcast_to(none[:, :, None], (states, states, chunks)), steps)[0]

    def enter(score, product):
        after = (score[:, None] + product).max(0)
        return after - finite(after.max()), score

    entering = lax.scan(enter, jnp.zeros_like(node[0]), jnp.moveaxis(products, -1, 0))[1].T
    last, before = lax.scan(follow, entering, steps)

    def back(ends, x):  # ends (end, chunk): the state at this step on the way to each end
        score, (_, begin, *step) = x
        arrive = jnp.take_along_axis(step[0], ends[None], axis=1) if step else jnp.take(transition, ends, axis=1)
        total = score[:, None] + jnp.where(begin, 0, arrive)
        return total.argmax(0).astype(jnp.int32), ends

    every = jnp.broadcast_to(jnp.arange(states, dtype=jnp.int32)[:, None], (states, chunks))
    left, ways = lax.scan(back, every, (before, steps), reverse=True)
    chosen = lax.scan(lambda end, left: (left[end], end), last[:, -1].argmax().astype(jnp.int32), left.T, reverse=True)[
        1
    ]
    return join(jnp.take_along_axis(ways, chosen[None, None], axis=1)[:, 0])
