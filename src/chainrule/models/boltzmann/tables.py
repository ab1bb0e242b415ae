"""What random fields need compiled: probabilities by enumeration, rows with gaps, and what a fit has to know of them.

Rows hold a number for each variable of the form, −1 where it is missing or hidden.
"""

import math
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Int

from ...forms.chain import is_concrete
from ...forms.factors import Factors
from ...inference import factor_gibbs
from .learning import POSITIVE_SWEEPS, AbstractProblem

MOST = 2**18  # joint states, and states times rows that are scored side by side


def sizes(factors: Factors) -> tuple[int, ...]:
    """How many states each variable of the form has."""
    return tuple(block.num_states for block in factors.blocks for _ in range(len(block.base)))


def joint_states(counts) -> Array:
    """All states of variables with so many states, shape (variable, state), the last variable changing fastest."""
    strides = np.cumprod([1, *counts[::-1]])[-2::-1].astype(np.int32)
    total = math.prod(counts)
    return jnp.arange(total, dtype=jnp.int32)[None] // strides[:, None] % np.array(counts, np.int32)[:, None]


@jax.jit
def log_partition(factors: Factors):
    """Log Z: log Σ_x exp(score(x))."""
    return jax.nn.logsumexp(factors.score(joint_states(sizes(factors))))


@jax.jit
def noise(key, tables, scale):
    """Tables from N(0, scale²), −inf where they are, and 0 at the last entry, which belongs to no factor."""
    drawn = scale * jax.random.normal(key, tables.shape, tables.dtype).at[-1].set(0)
    return jnp.where(jnp.isneginf(tables), -jnp.inf, drawn)


def gaps(rows, num_variables: int) -> tuple[int, ...]:
    """The variables that some row misses: all of them where rows cannot be looked at now."""
    if not is_concrete(rows):
        return tuple(range(num_variables))
    return tuple(np.flatnonzero((np.asarray(rows) < 0).any(axis=0)).tolist())


@partial(jax.jit, static_argnames="missing")
def log_prob(factors: Factors, rows: Int[Array, "row variable"], missing: tuple[int, ...]):
    """Log p of what each row shows; only variables among `missing` may be −1."""
    counts = sizes(factors)
    free = np.isin(np.arange(len(counts)), missing)
    inside = jnp.full((len(counts), 1), -1, jnp.int32)
    if missing:
        found = joint_states([counts[i] for i in missing])
        inside = jnp.full((len(counts), found.shape[1]), -1, jnp.int32).at[np.array(missing)].set(found)

    def of(row):
        row = row[:, None]
        fits = jnp.all((inside == row) | (row < 0) | ~free[:, None], axis=0)
        score = jnp.where(fits, factors.score(jnp.where(free[:, None], inside, row)), -jnp.inf)
        possible = jnp.any(score > -jnp.inf)  # where nothing is, the slope of the logarithm would be no number
        return jnp.where(possible, jax.nn.logsumexp(jnp.where(possible, score, 0)), -jnp.inf)

    rows = rows.astype(jnp.int32)
    batch = max(1, MOST // inside.shape[1])
    found = jax.vmap(of)(rows) if len(rows) <= batch else lax.map(of, rows, batch_size=batch)
    return found - log_partition(factors)


class Tables(AbstractProblem):
    """The parameters are all log tables end to end, 0 where they stay −inf.

    Attributes:
        factors: the structure.
        forbidden: where the tables are −inf.
        missing: numbers of the variables that some row misses.
    """

    factors: Factors
    forbidden: Bool[Array, " entry"]
    missing: tuple[int, ...] = eqx.field(static=True)

    def form(self, parameters):
        """The factors with these tables."""
        return eqx.tree_at(lambda f: f.tables, self.factors, jnp.where(self.forbidden, -jnp.inf, parameters))

    def log_prob(self, parameters, rows):
        """By enumeration."""
        return log_prob(self.form(parameters), rows, self.missing)

    def complete(self, key, form, rows):
        """What is missing after some sweeps from a random start."""
        return complete(key, form, rows, POSITIVE_SWEEPS) if self.missing else rows.T.astype(jnp.int32)

    def sweep(self, key, state, form, betas):
        """One sweep."""
        return factor_gibbs.sweep(key, state, form, betas)

    def slopes(self, form, state):
        """How often each entry counts."""
        return jnp.where(self.forbidden, 0, form.shares(state))

    def penalised(self, parameters):
        """All entries are."""
        return jnp.ones_like(parameters)

    def centred(self, slopes, means):
        """As they are: with an entry for every state, it is the same which of them is called 0."""
        return slopes

    def uncentred(self, step, means):
        """As it is."""
        return step

    def pseudo_log_prob(self, form, state):
        """From the conditionals of each block."""
        total = jnp.zeros((), form.tables.dtype)
        for number, block in enumerate(form.blocks):
            logits = form.conditionals(state, number)
            own = state[block.start : block.start + len(block.base), None]
            chosen = jnp.take_along_axis(logits, own, axis=1)[:, 0]
            total = total + jnp.sum(chosen - jax.nn.logsumexp(logits, axis=1)) / state.shape[1]
        return total


@jax.jit
def complete(key, factors: Factors, rows: Int[Array, "row variable"], sweeps) -> Int[Array, "variable row"]:
    """States, what is missing in each row after some sweeps from a random start."""
    given = rows.T.astype(jnp.int32)
    clamp = given >= 0
    start, draw = jax.random.split(key)
    state = factor_gibbs.random_state(start, factors, len(rows), given=given, clamp=clamp)
    return factor_gibbs.run(draw, state, factors, sweeps, 1.0, clamp)


@partial(jax.jit, static_argnames=("shown", "single"))
def fill(key, factors: Factors, rows, sweeps, order, shown: tuple[int, ...], *, single: bool):
    """As `complete`, for the caller: (row, visible), or (visible,) of a single row; `order` numbers the variables."""
    found = complete(key, factors, rows, sweeps)[order[np.array(shown)]].T
    return found[0] if single else found
