"""Exact answers about tiny Boltzmann machines, by enumeration."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ...forms.pairwise import Pairwise

MOST = 20  # nodes
_AT_ONCE = 2**18  # states whose scores are computed side by side


def all_states(count: int, spins: bool) -> np.ndarray:
    """Every state of so many nodes, shape (count, 2^count), the last node changing fastest."""
    bits = (np.arange(2**count) >> np.arange(count)[::-1, None]) & 1
    return (2 * bits - 1 if spins else bits).astype(np.int8)


@jax.jit
def log_partition(form: Pairwise):
    """Log Z: log Σ_x exp(score(x))."""
    return jax.nn.logsumexp(form.score(jnp.asarray(all_states(form.num_nodes, form.spins))))


@partial(jax.jit, static_argnames=("hidden",))
def log_marginal(form: Pairwise, values, shown, hidden: int):
    """Log Σ_h exp(score(v, h)) of each row of values (row, visible).

    `shown` holds the form's number of every visible node and then of every hidden one.
    """
    inside = jnp.asarray(all_states(hidden, form.spins))

    def of(row):
        whole = jnp.concatenate([jnp.broadcast_to(row[:, None], (len(row), inside.shape[1])), inside])
        return jax.nn.logsumexp(form.score(whole[jnp.argsort(shown)]))

    values = jnp.asarray(values, jnp.int8)
    batch = max(1, _AT_ONCE >> hidden)
    return jax.vmap(of)(values) if len(values) <= batch else lax.map(of, values, batch_size=batch)


@jax.jit
def log_prob(form: Pairwise, values, shown):
    """Log p of each row of visible values."""
    return log_marginal(form, values, shown, form.num_nodes - values.shape[-1]) - log_partition(form)
