"""Block Gibbs sampling of factor graphs: categorical variables, factors of any order.

    p(x_i = k | others) ∝ exp( β Σ_{f ∋ i} log_table_f[…, k, …] )

All variables of a block are drawn at once, by one uniform number each. States are [variables, chains] of state numbers.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Key

from ..forms.factors import Factors
from .gibbs import uniform


def random_state(
    key: Key[Array, ""], model: Factors, num_chains: int, *, given=None, clamp=None
) -> Int[Array, "variable chain"]:
    """Every variable uniform over its states; where `clamp` is true, the value of `given`."""
    sizes = jnp.concatenate([jnp.full(len(b.base), b.num_states, jnp.int32) for b in model.blocks])
    state = jax.random.randint(key, (len(sizes), num_chains), 0, sizes[:, None], jnp.int32)
    return state if clamp is None else jnp.where(clamp, jnp.asarray(given, jnp.int32), state)


def sweep(
    key: Key[Array, ""],
    state: Int[Array, "variable chain"],
    model: Factors,
    beta: Float[Array, "*chain"] | float = 1.0,
    clamp: Bool[Array, "variable #chain"] | None = None,
) -> Int[Array, "variable chain"]:
    """Draw each variable once, at an inverse temperature for all chains or one for each; for use inside `jax.jit`.

    What is forbidden is so at any temperature, β = 0 included. A variable all of whose states are forbidden by the others
    stays as it is. Where tables forbid much, chains may not reach every possible state: that is up to the model.
    """
    keys = jax.random.split(key, len(model.blocks))
    beta = jnp.asarray(beta, model.tables.dtype).reshape(1, 1, -1)
    for number, block in enumerate(model.blocks):
        piece = slice(block.start, block.start + len(block.base))
        logits = model.conditionals(state, number)
        logits = jnp.where(logits == -jnp.inf, -jnp.inf, beta * logits)  # 0 · ∞ is no number
        new = _draw(keys[number], logits, state[piece]).astype(state.dtype)
        if clamp is not None:
            new = jnp.where(clamp[piece], state[piece], new)
        state = lax.dynamic_update_slice_in_dim(state, new, block.start, 0)
    return state


def _draw(key, logits, old):
    highest = jnp.max(logits, axis=1, keepdims=True)
    possible = highest > -jnp.inf
    sums = jnp.cumsum(jnp.exp(logits - jnp.where(possible, highest, 0)), axis=1)
    dice = uniform(key, old.shape, logits.dtype)[:, None] * sums[:, -1:]
    # strictly inside (0, total), so that states of probability zero, at either end too, are passed over
    new = jnp.sum(dice >= sums[:, :-1], axis=1, dtype=jnp.int32)
    return jnp.where(possible[:, 0], new, old)


@jax.jit
def run(
    key: Key[Array, ""],
    state: Int[Array, "variable chain"],
    model: Factors,
    sweeps: int | Int[Array, ""],
    beta: Float[Array, "*chain"] | float = 1.0,
    clamp: Bool[Array, "variable #chain"] | None = None,
) -> Int[Array, "variable chain"]:
    """Sweep a number of times; tables, temperature and number are traced."""
    beta = jnp.asarray(beta, model.tables.dtype)
    return lax.fori_loop(0, sweeps, lambda i, s: sweep(jax.random.fold_in(key, i), s, model, beta, clamp), state)


@partial(jax.jit, static_argnames=("count", "single"))
def fresh(key, model: Factors, rank, count: int, sweeps, beta, clamp, given, *, single: bool):
    """Chains after some sweeps from a random start, and whether each ended in a state that is possible.

    `rank` holds the form's number of each of the caller's variables, in whose order are `clamp`, `given`, and what is
    drawn: (chain, variable), or (variable,) of a single one.
    """
    start, draw = jax.random.split(key)
    if clamp is not None:
        order = jnp.argsort(rank)
        clamp, given = clamp[order], given[order]
    state = run(draw, random_state(start, model, count, given=given, clamp=clamp), model, sweeps, beta, clamp)
    drawn = state[rank].T
    return drawn[0] if single else drawn, model.score(state) > -jnp.inf
