"""Block Gibbs sampling of pairwise forms: all nodes of a slice at once, given the others.

Given its neighbours a node is independent of everything else,

    p(x_i = up | others) = 1 / (1 + exp(−β δ_i)),    δ_i = score(x_i up) − score(x_i down),

with δ_i = f_i for bits and 2 f_i for spins, f_i = b_i + Σ_j w_ij x_j. One sweep draws every slice once, which leaves
p^β ∝ exp(β score) as it is (Geman and Geman 1984, section 9; Besag 1986). Sweeps forth and back are each other's reverse.

States are int8 arrays [nodes, chains]. The key's implementation decides the generator, and random numbers are most of
the cost on CPUs: `jax.random.key(0, impl="philox2x32")` is several times as fast there as the default.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Key

from ..forms.layouts import Dense
from ..forms.pairwise import Pairwise
from ..forms.products import product

_TILE = 64  # nodes of a dense form whose fields come from one product
_FEW = 2**17  # so many random numbers are drawn in one piece: a generator in each slice takes long to compile


def random_state(
    key: Key[Array, ""], model: Pairwise, num_chains: int, *, given=None, clamp=None
) -> Int[Array, "node chain"]:
    """Draw every node up or down with equal probability; where `clamp` is true, take the value from `given`."""
    state = jnp.where(jax.random.bernoulli(key, 0.5, (model.num_nodes, num_chains)), 1, low(model)).astype(jnp.int8)
    return state if clamp is None else jnp.where(clamp, jnp.asarray(given, jnp.int8), state)


def low(model: Pairwise) -> int:
    """The lower of the two values."""
    return -1 if model.spins else 0


def check_state(state, model: Pairwise) -> None:
    """Raise a ValueError where states do not have a row for each node."""
    if state.ndim != 2 or state.shape[0] != model.num_nodes:
        raise ValueError(f"state has shape {state.shape}; {model!r} asks for ({model.num_nodes}, chains)")


def sweep(
    key: Key[Array, ""],
    state: Int[Array, "node chain"],
    model: Pairwise,
    beta: Float[Array, "*chain"] | float = 1.0,
    clamp: Bool[Array, "node #chain"] | None = None,
    *,
    reverse: bool = False,
) -> Int[Array, "node chain"]:
    """Draw each node once.

    A pure function for use inside `jax.jit` and loops.

    Args:
        key: random key of any implementation.
        state: values of the nodes, in the form's numbering.
        model: what to draw from.
        beta: inverse temperature, one for all or one for each chain.
        clamp: true where a node keeps its value, shape (node, chain), or (node, 1) for all chains.
        reverse: whether slices go from last to first.

    Raises:
        ValueError: states that are not (nodes of the model, chains).
    """
    check_state(state, model)
    beta = jnp.asarray(beta, model.bias.dtype)
    if isinstance(model.coupling, Dense):
        return _sweep_dense(key, state, model, beta, clamp, reverse)
    starts = model.coupling.starts
    numbers = range(len(starts) - 1)
    dice = uniform(key, state.shape, model.bias.dtype) if state.size <= _FEW else None
    keys = jax.random.split(key, len(numbers)) if dice is None else []  # a key has one use
    biases = model.biases[:, None]
    for number in reversed(numbers) if reverse else numbers:
        piece = slice(starts[number], starts[number + 1])
        fields = biases[piece] + model.coupling.slice_fields(state, number)
        random = uniform(keys[number], fields.shape, fields.dtype) if dice is None else dice[piece]
        new = draw(random, fields, beta, spins=model.spins).astype(state.dtype)
        if clamp is not None:
            new = jnp.where(clamp[piece], state[piece], new)
        state = lax.dynamic_update_slice_in_dim(state, new, piece.start, 0)
    return state


def _sweep_dense(key, state, model, beta, clamp, reverse):
    """One node after the other. Fields come tile by tile from a product; within a tile they follow each change."""
    nodes, weights, dtype = model.num_nodes, model.coupling.weights, model.bias.dtype
    tile = min(_TILE, nodes)
    tiles = -(-nodes // tile)
    random = uniform(key, state.shape, dtype)
    x = state.astype(dtype)

    def draw_tile(number, x):
        number = tiles - 1 - number if reverse else number
        start = jnp.minimum(number * tile, nodes - tile)  # the last tile reaches back over nodes that stay as they are
        first = number * tile - start
        rows = lax.dynamic_slice_in_dim(weights, start, tile)
        within = lax.dynamic_slice_in_dim(rows, start, tile, axis=1)
        here = lax.dynamic_slice_in_dim(x, start, tile)
        dice = lax.dynamic_slice_in_dim(random, start, tile)
        fields = product(rows, x) + lax.dynamic_slice_in_dim(model.bias, start, tile)[:, None]
        held = None if clamp is None else lax.dynamic_slice_in_dim(clamp, start, tile)

        def draw_node(turn, carry):
            here, fields = carry
            i = tile - 1 - turn if reverse else turn
            new = draw(dice[i], fields[i], beta, spins=model.spins)
            keep = i < first if held is None else held[i] | (i < first)
            change = jnp.where(keep, 0, new - here[i])
            here = lax.dynamic_update_index_in_dim(here, here[i] + change, i, 0)
            return here, fields + within[:, i][:, None] * change[None]

        here, _ = lax.fori_loop(0, tile, draw_node, (here, fields))
        return lax.dynamic_update_slice_in_dim(x, here, start, 0)

    return lax.fori_loop(0, tiles, draw_tile, x).astype(state.dtype)


def uniform(key: Key[Array, ""], shape: tuple[int, ...], dtype=jnp.float32) -> Float[Array, "*shape"]:
    """The middles of 2²³ equal parts of (0, 1): never 0 or 1, so that what is next to impossible does not happen.

    A probability is met within 2⁻²⁴.
    """
    bits = jax.random.bits(key, shape, jnp.uint32) >> 9
    return (bits.astype(dtype) + jnp.asarray(0.5, dtype)) * jnp.asarray(2.0**-23, dtype)


def draw(random, fields, beta, *, spins: bool) -> Float[Array, "*shape"]:
    """New values from their fields."""
    beta = jnp.asarray(beta, fields.dtype)
    if beta.ndim:
        beta = beta.reshape((1,) * (fields.ndim - 1) + beta.shape)
    up = random * (1 + jnp.exp(-beta * (2 * fields if spins else fields))) < 1
    return jnp.where(up, jnp.ones((), fields.dtype), jnp.asarray(-1 if spins else 0, fields.dtype))


@jax.jit
def run(
    key: Key[Array, ""],
    state: Int[Array, "node chain"],
    model: Pairwise,
    sweeps: int | Int[Array, ""],
    beta: Float[Array, "*chain"] | float = 1.0,
    clamp: Bool[Array, "node #chain"] | None = None,
) -> Int[Array, "node chain"]:
    """Sweep a number of times; arguments as for `sweep`. Only shapes are structure: nothing else compiles anew.

    Example:
        >>> import jax, jax.numpy as jnp, chainrule as cr
        >>> from chainrule.forms.layouts import Dense
        >>> from chainrule.inference import gibbs
        >>> model = cr.Pairwise(jnp.zeros(2), Dense(jnp.array([[0.0, 9.0], [9.0, 0.0]])), spins=True)  # they agree
        >>> clamp = jnp.array([[True], [False]])
        >>> state = gibbs.random_state(jax.random.key(0), model, 4, given=jnp.ones((2, 1)), clamp=clamp)
        >>> gibbs.run(jax.random.key(1), state, model, 3, 1.0, clamp).tolist()
        [[1, 1, 1, 1], [1, 1, 1, 1]]
    """
    return lax.fori_loop(0, sweeps, lambda i, s: sweep(jax.random.fold_in(key, i), s, model, beta, clamp), state)


def state_itself(model: Pairwise, state):
    """The statistic that `sample` records by default."""
    return state


def energies(model: Pairwise, state):
    """A statistic for `sample`: the energy of each chain."""
    return model.energy(state)


@partial(jax.jit, static_argnames=("num_samples", "statistic"))
def sample(
    key: Key[Array, ""],
    state: Int[Array, "node chain"],
    model: Pairwise,
    num_samples: int,
    thin: int | Int[Array, ""] = 1,
    beta: Float[Array, "*chain"] | float = 1.0,
    clamp: Bool[Array, "node #chain"] | None = None,
    *,
    statistic: Callable[[Pairwise, Array], Any] = state_itself,
) -> tuple[Any, Int[Array, "node chain"]]:
    """Record a statistic of the states, again and again after `thin` sweeps.

    Args:
        key: random key of any implementation.
        state: where the chains are.
        model: what to draw from.
        num_samples: how often to record.
        thin: sweeps before each record.
        beta: inverse temperature, one for all or one for each chain.
        clamp: true where a node keeps its value.
        statistic: what to record, a function of model and state; keep the object, since a new one is compiled anew.

    Returns:
        What was recorded, with an axis of samples in front, and the last state.

    Example:
        >>> import jax, jax.numpy as jnp, chainrule as cr
        >>> from chainrule.forms.layouts import Lattice
        >>> from chainrule.inference import gibbs
        >>> model = cr.Pairwise(jnp.array(0.0), Lattice(0.4, 8, 8), spins=True)
        >>> start, draw = jax.random.split(jax.random.key(0, impl="philox2x32"))
        >>> state = gibbs.random_state(start, model, num_chains=16)
        >>> energy, state = gibbs.sample(draw, state, model, 20, 5, statistic=gibbs.energies)
        >>> energy.shape, state.shape
        ((20, 16), (64, 16))
    """

    def record(state, key):
        state = run(key, state, model, thin, beta, clamp)
        return state, statistic(model, state)

    state, records = lax.scan(record, state, jax.random.split(key, num_samples))
    return records, state
