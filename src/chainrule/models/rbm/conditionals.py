"""One visible unit given all the others: exact conditionals and the pseudo-likelihood.

log p(v_i = k | v_−i) = a_ik + Σ_j log(1 + exp(d_ij + W_ikj)) + const,      d_i the hidden units' field without unit i.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ...forms.products import HIGHEST
from . import engine
from .data import columns, spread


def as_sites(machine, sites) -> np.ndarray:
    """Indices of visible units, checked."""
    if not machine.discrete:
        raise ValueError("conditionals of Gaussian units have no closed form: use log_prob, or complete(…, mean=True)")
    if sites is None:
        return np.arange(machine.num_visible, dtype=np.int32)
    found = np.atleast_1d(np.asarray(sites))
    if found.dtype.kind not in "iu" or found.ndim != 1 or (found < 0).any() or (found >= machine.num_visible).any():
        raise ValueError(f"sites are {found}; wanted indices of visible units, 0 … {machine.num_visible - 1}")
    return found.astype(np.int32)


@jax.jit
def conditionals(machine, values, observed, sites):
    """Probabilities (rows, sites, values)."""
    x = engine.keep(columns(machine, values), spread(machine, observed))
    field = machine.hidden_bias[None] + engine.hidden_drive(machine, x)
    logits = lax.map(lambda i: _logits(machine, x, field, jnp.full(len(x), i)), sites)
    return jnp.moveaxis(jax.nn.softmax(logits, axis=-1), 0, 1)


def pseudo_log_prob(machine, values, observed, key):
    """Σ_i log p(v_i | v_−i) over observed units, or an unbiased estimate of it."""
    sites = as_sites(machine, None)
    if key is None:
        return _exact(machine, values, observed, sites)
    return _stochastic(machine, values, observed, key)


@jax.jit
def _exact(machine, values, observed, sites):
    x = engine.keep(columns(machine, values), spread(machine, observed))
    field = machine.hidden_bias[None] + engine.hidden_drive(machine, x)
    seen = jnp.ones(values.shape, bool) if observed is None else jnp.asarray(observed)

    def add(total, i):
        return total + _score(machine, x, field, values, seen, jnp.full(len(x), i)), None

    return lax.scan(add, jnp.zeros(len(x), machine.dtype), sites)[0]


@jax.jit
def _stochastic(machine, values, observed, key):
    x = engine.keep(columns(machine, values), spread(machine, observed))
    field = machine.hidden_bias[None] + engine.hidden_drive(machine, x)
    seen = jnp.ones(values.shape, bool) if observed is None else jnp.asarray(observed)
    # the largest of uniform numbers over what is seen is a uniform choice of it
    site = jnp.argmax(jnp.where(seen, jax.random.uniform(key, values.shape), -1), axis=1)
    return seen.sum(1).astype(machine.dtype) * _score(machine, x, field, values, seen, site)


def _score(machine, x, field, values, seen, site):
    """Log p of the value that unit site[r] of row r has; 0 where it is missing."""
    rows = jnp.arange(len(x))
    value = jnp.where(seen[rows, site], values[rows, site], 0).astype(jnp.int32)
    log_probs = jax.nn.log_softmax(_logits(machine, x, field, site), axis=-1)
    return jnp.where(seen[rows, site], log_probs[rows, value], 0)


def _logits(machine, x, field, site):
    """Log p(v_i = k | v_−i) + const of unit i = site[r] in row r, (rows, values)."""
    width = machine.visible.width
    place = site[:, None] * width + jnp.arange(width, dtype=site.dtype)[None]
    block, bias = machine.weights[place], machine.visible_bias[place]  # (rows, width, hidden), (rows, width)
    own = jnp.take_along_axis(x, place, axis=1)
    without = field - jnp.einsum("rk,rkh->rh", own, block, precision=HIGHEST)
    if width == 1:  # the other value, 0, sends nothing
        block = jnp.concatenate([jnp.zeros_like(block), block], axis=1)
        bias = jnp.concatenate([jnp.zeros_like(bias), bias], axis=1)
    zero = jnp.zeros((1, 1, 1), field.dtype)
    return bias + machine.hidden.log_normaliser(zero, without[:, None] + block).sum(-1)
