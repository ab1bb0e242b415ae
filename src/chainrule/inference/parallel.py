"""Forward-backward by the sweeps that are parallel in time (`chunks`), whatever the device.

On accelerators likelihoods, posteriors, filters, best paths and fits take these sweeps by themselves where a chain is
long; draws, entropies and k best paths go on step by step. On a CPU the sweeps lose: K times the arithmetic for loops
whose steps cost little.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..forms.chain import Chain
from . import chunks, rows, scaled
from .certificate import certified
from .chain import ChainMarginals, _arrays
from .compiling import jit


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


def _fast(initial, transition, node, start, weight):
    w = scaled.weights(initial, transition, node, start)
    s, sound = chunks.sweep(w)
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
