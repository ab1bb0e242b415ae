"""Forward-backward that is parallel in time, for accelerators.

A step of the recursion is a matrix, E_t[i, j] = transition[i, j] · likelihood[t, j], and matrices multiply in any
grouping. The chain is cut into about √T chunks that run side by side:

1. every chunk multiplies its own steps together: √T steps of K×K products, all chunks at once;
2. one short loop over the chunks carries the filtered state to each chunk's beginning and the backward message to its end;
3. every chunk runs the ordinary scaled recursions from there: √T steps of vectors, all chunks at once.

So 3√T loop steps take the place of T, for about K times the arithmetic: a gain where a loop step costs far more than its
arithmetic, as on a GPU, and a loss on a CPU, where `chainrule.inference.rows` is the engine to use. A tree of products
(Särkkä and García-Fernández 2021) has fewer steps still and pays log T · K³ for each, which is more from small K on.

Transitions may vary with time and may be zero. The result carries the same certificate as the sequential engine, and the
same log-space fallback.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from ..forms.chain import Chain
from . import rows, scaled
from .certificate import certified
from .chain import ChainMarginals, _arrays
from .compiling import jit
from .scaled import HIGHEST


@jit
def log_partition(chain: Chain) -> Float[Array, ""]:
    """Log Z, as `chain.log_partition`; its gradient is the marginals, by the same parallel pass."""
    initial, transition, node, start, weight = _arrays(chain)
    return _total(initial, transition, node, start, weight)


@jit
def marginals(chain: Chain) -> ChainMarginals:
    """Unary marginals and expected pair counts, as `chain.marginals`.

    Example:
        >>> import jax.numpy as jnp, chainrule as cr
        >>> from chainrule.inference import parallel
        >>> walk = cr.Chain(jnp.zeros(2), jnp.log(jnp.array([[.9, .1], [.1, .9]])), jnp.zeros((9, 2)).at[0, 1].set(-50.))
        >>> [round(float(p), 4) for p in parallel.marginals(walk).unary[1]]
        [0.9, 0.1]
    """
    initial, transition, node, start, weight = _arrays(chain)
    s = smooth(initial, transition, node, start, weight)
    counts = s.transition_count[1:] if chain.pair.ndim == 3 else s.transition_count
    return ChainMarginals(rows.add_up(weight, s.terms), s.marginals * weight[:, None], counts)


def _sweep(w: scaled.Weights) -> tuple[scaled.Sweep, Bool[Array, ""]]:
    """All messages, and whether those that the products brought to the chunks' ends are those that the chunks found."""
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


def _fast(initial, transition, node, start, weight):
    w = scaled.weights(initial, transition, node, start)
    s, sound = _sweep(w)
    mass, marginals, by_initial, by_transition = scaled.accumulate(w, s, weight)
    counts = (w.initial * by_initial, w.transition * by_transition)
    return rows.Smoothed(jnp.log(s.constant) + w.log_scale, marginals, *counts, *counts), scaled.trusted(mass) & sound


def smooth(initial, transition, node, start, weight) -> rows.Smoothed:
    """As `rows.smooth` with `log=True`, for one row."""
    return _SMOOTH(initial, transition, node, start, weight)


_SMOOTH = certified(_fast, partial(rows._slow_smooth, True))


@jax.custom_vjp
def _total(initial, transition, node, start, weight):
    return rows.add_up(weight, smooth(initial, transition, node, start, weight).terms)


def _total_forward(*args):
    s = smooth(*args)
    weight = args[-1]
    return rows.add_up(weight, s.terms), (s.initial, s.transition, s.marginals * weight[:, None], weight)


def _total_backward(saved, g):
    *derivatives, weight = saved
    return *(g * d for d in derivatives), None, jnp.zeros_like(weight)


_total.defvjp(_total_forward, _total_backward)
