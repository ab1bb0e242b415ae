"""Forward-backward over many rows, with the expectations taken on the way back.

The recursions and the certificate are those of `scaled`, which sweeps both ways in one loop and then goes through the
large arrays (time, state, row) several times more. With many states and rows the loop is no longer what costs: memory is.
Here the way back makes the marginals and the expected steps while a step's arrays are still near the processor; of all
large arrays only the filtered distributions and the marginals are ever written down.
"""

import jax.numpy as jnp
from jax import lax

from ..forms.products import HIGHEST
from .scaled import SMALL, Weights, floored, forward


def suits(w: Weights) -> bool:
    """Whether this way is the faster one."""
    return w.transition.ndim == 2 and w.likelihood.ndim == 3 and w.likelihood.shape[2] >= w.likelihood.shape[1] > SMALL


def smooth(w: Weights, weight):
    """The constants, and all that `scaled.accumulate` returns: mass, marginals, and derivatives by both potentials."""
    filtered, constant = forward(w, floor=True)
    flat, least = 1 / w.likelihood.shape[1], jnp.finfo(filtered.dtype).eps ** 2

    def body(carry, x):
        message, later, late, by_initial, by_transition = carry  # of the step after
        likelihood, start, now, scale, share = x
        by_transition = by_transition + jnp.einsum("ir,jr->ij", now, late, precision=HIGHEST)
        back = floored(jnp.dot(w.transition, message, precision=HIGHEST))
        backward = jnp.where(later[None], flat, back * (1 / back.sum(0))[None])
        joint = now * backward
        overlap = joint.sum(0)
        mass = scale * overlap
        marginals = joint * (1 / overlap)[None]
        marginals = jnp.where(marginals > least, marginals, 0)  # as in `scaled.accumulate`
        message = likelihood * backward
        late = message * (share / mass)[None]
        by_initial = by_initial + jnp.where(start[None], late, 0).sum(1)
        late = jnp.where(start[None], 0, late)
        return (message, start, late, by_initial, by_transition), (mass, marginals)

    none = jnp.zeros_like(w.likelihood[0])
    nothing = (none, jnp.ones_like(w.start[0]), none, jnp.zeros_like(w.initial), jnp.zeros_like(w.transition))
    xs = (w.likelihood, w.start, filtered, constant, weight)
    (*_, by_initial, by_transition), (mass, marginals) = lax.scan(body, nothing, xs, reverse=True)
    return constant, mass, marginals, by_initial, by_transition
