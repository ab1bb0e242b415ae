"""The form of factor graphs: all log-tables end to end, and for each variable where its factors are.

    p(x) ∝ exp( Σ_f tables[base_f + Σ_q stride_fq · x_{scope_fq}] )

Entry (i, j, …) of a factor's table lies at base + stride₀ i + stride₁ j + …, so that tables of any shape and number of
variables are read by one formula. Shorter scopes are filled up with strides of zero, and lists of factors with a base that
points to a zero. Values are only read, so a table may hold −inf.
"""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class Block(eqx.Module):
    """Variables with equally many states, no two in the same factor, that are drawn at once: a slice of all.

    Attributes:
        base: where the table of each of a variable's factors begins, shape (variable, factor).
        own: stride of the variable itself there.
        others: the other variables of the factor, shape (variable, factor, other).
        strides: their strides.
        start: number of the first variable.
        num_states: how many states each has.
    """

    base: Int[Array, "some factor"]
    own: Int[Array, "some factor"]
    others: Int[Array, "some factor other"]
    strides: Int[Array, "some factor other"]
    start: int = eqx.field(static=True)
    num_states: int = eqx.field(static=True)


class Factors(eqx.Module):
    """Log-tables of a factor graph; `graphs.compile.as_factors` makes one.

    Attributes:
        tables: all log-tables, one after the other in row-major order, and a zero.
        base: where the table of each factor begins, shape (factor,).
        scope: its variables, shape (factor, place).
        strides: their strides.
        blocks: variables that can be drawn at once.
    """

    tables: Float[Array, " entry"]
    base: Int[Array, " factor"]
    scope: Int[Array, "factor place"]
    strides: Int[Array, "factor place"]
    blocks: tuple[Block, ...]

    @property
    def num_variables(self) -> int:
        """How many variables there are."""
        return sum(len(block.base) for block in self.blocks)

    def score(self, state: Int[Array, "variable chain"]) -> Float[Array, " chain"]:
        """Unnormalised log-probability of each chain's state; −inf where a factor forbids it."""
        return jnp.sum(self.tables[self._entries(state)], axis=0)

    def shares(self, state: Int[Array, "variable chain"]) -> Float[Array, " entry"]:
        """In what share of chains each entry of the tables is the one that counts: the mean slope of the score."""
        ones = jnp.ones((), self.tables.dtype)
        return jnp.zeros_like(self.tables).at[self._entries(state)].add(ones) / state.shape[1]

    def _entries(self, state):
        steps = self.strides[..., None] * state[self.scope].astype(jnp.int32)
        return self.base[:, None] + jnp.sum(steps, axis=1, dtype=jnp.int32)

    def conditionals(self, state: Int[Array, "variable chain"], number: int) -> Float[Array, "some state chain"]:
        """Log-potentials of every state of a block's variables, given all others."""
        block = self.blocks[number]
        steps = block.strides[..., None] * state[block.others].astype(jnp.int32)
        others = jnp.sum(steps, axis=2, dtype=jnp.int32)
        values = jnp.arange(block.num_states, dtype=jnp.int32)
        entry = (block.base[..., None] + block.own[..., None] * values[None, None])[..., None] + others[:, :, None]
        return jnp.sum(self.tables[entry], axis=1)

    def __repr__(self):
        return f"Factors({self.num_variables} variables, {len(self.base)} factors, {len(self.blocks)} blocks)"
