"""Many decision processes at once: variants of one structure, as lanes on the last axis of every array.

Where processes share their successors, v[successors] gathers whole rows of lanes, an order of magnitude faster than number
by number. Following a policy, which differs between lanes, is not; so this is value iteration, stopped on the bounds of
MacQueen (1966) like everything else.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..forms.products import HIGHEST, product
from ..forms.transitions import Transitions

_CACHE = 2**22  # bytes of a block of lanes: larger ones are read from memory for each backup, in four times as long
_FEWEST = 32  # lanes of a block at least, a few times what a vector register holds
_UNROLLED = 16  # successors up to which their sum is written out


def widened(low, high, width: int):
    """As `planning.bounds.widened`, in the dtype of the factors."""
    off = 0.5 * (width + 5) * jnp.finfo(low.dtype).eps
    return low * (1 - off), high * (1 + off)


def macqueen(low, high, factors, error):
    """As `planning.bounds.macqueen`; no bound where a factor is not below 1."""
    eps = jnp.finfo(error.dtype).eps
    small, large = (jnp.where(f < 1, f / jnp.where(f < 1, 1 - f, 1), jnp.inf) for f in factors)
    off = 2 * error + eps * jnp.maximum(jnp.abs(low), jnp.abs(high))
    low, high = low - off, high + off
    low = jnp.where(low == 0, 0, jnp.where(low < 0, large, small) * low)
    high = jnp.where(high == 0, 0, jnp.where(high > 0, large, small) * high)
    return low - 4 * eps * jnp.abs(low) - error, high + 4 * eps * jnp.abs(high) + error


def settled(width, bounds, error, rounded, factors, tolerance, narrowest):
    """Whether rounding is all that is left, and the constant to add to T v where it is not: see `discounted.Progress`.

    Args:
        width: the spread of T v − v.
        bounds: of the backup, see `macqueen`.
        error: its rounding.
        rounded: by how much that grows for each unit that values grow by.
        factors: as `macqueen` takes them.
        tolerance: half the width of the bounds that is wanted.
        narrowest: half the width of the bounds when a constant was last taken out; ∞ at first.

    Returns:
        Whether it is exact, the constant, and `narrowest` from now on.
    """
    gap, middle = 0.5 * (bounds[1] - bounds[0]), 0.5 * (bounds[1] + bounds[0])
    nothing = jnp.zeros_like(error)
    low, high = macqueen(nothing, nothing, factors, error + rounded * jnp.abs(middle))
    still = width <= 8 * error
    worth = still & (gap > tolerance) & (gap <= 0.5 * narrowest) & (gap > 2 * (high - low))
    return still & ~worth, jnp.where(worth, middle, 0), jnp.where(worth, gap, narrowest)


def in_blocks(form: Transitions, batched, tolerance, most, count: int):
    """`side_by_side` for `count` lanes, block after block, so that what a backup reads stays in the processor's cache.

    Every leaf of what is returned has all lanes.
    """
    varying, shared = eqx.partition(form, batched)
    own = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(varying)) // count
    lanes = min(count, max(_FEWEST, _CACHE // max(own, 1)))
    starts = np.minimum(
        np.arange(0, count, lanes), count - lanes
    )  # the last block begins early rather than being short

    def solve(start):
        block = jax.tree.map(lambda leaf: lax.dynamic_slice_in_dim(leaf, start, lanes), varying)
        found = side_by_side(eqx.combine(block, shared), batched, tolerance, most)
        return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (*leaf.shape[:-1], lanes)), found)

    if len(starts) == 1:
        return solve(0)
    block = np.minimum(np.arange(count) // lanes, len(starts) - 1)
    place = block * lanes + np.arange(count) - starts[block]
    found = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, -2), lax.map(solve, jnp.asarray(starts)))
    return jax.tree.map(lambda leaf: leaf.reshape(*leaf.shape[:-2], -1)[..., place], found)


def side_by_side(form: Transitions, batched, tolerance, most):
    """Value iteration for all lanes until each is certified.

    Args:
        form: the processes; arrays that differ have a leading axis of lanes.
        batched: in the structure of `form`, which do. Successors and rows may not.
        tolerance: half the width of the bounds to stop at.
        most: backups at most.

    Returns:
        Q (S, A, lane), T v (S, lane), actions (S, lane), bounds (lane,) each, backups, 0, and whether rounding kept the gap
        from becoming smaller, (lane,). A lane axis may be of size one.
    """
    dtype = jnp.asarray(form.rewards).dtype

    def lanes(name):
        leaf = jnp.asarray(getattr(form, name))
        leaf = leaf.astype(dtype) if name == "discount" else leaf
        return jnp.moveaxis(leaf, 0, -1) if getattr(batched, name) else leaf[..., None]

    probs, rewards, mask, terminal, discount = (
        lanes(name) for name in ("probabilities", "rewards", "mask", "terminal", "discount")
    )
    successors = None if form.successors is None else jnp.asarray(form.successors)
    rows = None if form.rows is None else jnp.asarray(form.rows)
    going = mask & ~terminal[:, None]
    ends = terminal.any(axis=0)
    sums: Any = probs.sum(axis=-2)
    sums = sums if rows is None else sums[rows]
    least = jnp.where(ends, 0, discount * jnp.where(going, sums, jnp.inf).min(axis=(0, 1))).astype(dtype)
    factors = widened(least, discount * jnp.where(going, sums, 0).max(axis=(0, 1)), probs.shape[-2])
    paid = rewards if form.outcome_rewards is None else jnp.abs(lanes("outcome_rewards")).max(axis=-2)
    largest = jnp.where(going, jnp.abs(paid), 0).max(axis=(0, 1))
    terms = (probs.shape[-2] + 6) * 0.5 * jnp.finfo(dtype).eps
    over = jnp.where((jnp.arange(form.num_actions) == 0)[:, None], jnp.zeros((), dtype), -jnp.inf)[None]

    def back_up(v, narrowest, n):
        expected: Any = _expect(probs, successors, v)
        q = rewards + discount[None, None] * (expected if rows is None else expected[rows])
        q = jnp.where(terminal[:, None], over, jnp.where(mask, q, -jnp.inf))
        values = q.max(axis=1)
        change = values - v
        low, high = change.min(axis=0), change.max(axis=0)
        # the v that was backed up is at most as far from T v as the change is large
        error = terms * (largest + discount * (jnp.abs(values).max(axis=0) + jnp.maximum(jnp.maximum(-low, high), 0)))
        low, high = jnp.where(ends, jnp.minimum(low, 0), low), jnp.where(ends, jnp.maximum(high, 0), high)
        bounds = macqueen(low, high, factors, error)
        exact, shift, narrowest = settled(high - low, bounds, error, terms * discount, factors, tolerance, narrowest)
        return values, q, bounds, shift, narrowest, n + 1, exact

    def unfinished(carry):
        _, _, bounds, *_, n, exact = carry
        return ~(((0.5 * (bounds[1] - bounds[0]) <= tolerance) | exact).all() | (n >= most))

    size = jnp.broadcast_shapes(*(leaf.shape[-1:] for leaf in (probs, rewards, mask, terminal, discount)))
    never = jnp.full(size, jnp.inf, dtype)
    first = back_up(jnp.zeros((form.num_states, *size), dtype), never, jnp.int32(0))
    values, q, bounds, *_, n, exact = lax.while_loop(
        unfinished, lambda c: back_up(c[0] + c[3][None], c[4], c[5]), first
    )
    policy = q.argmax(axis=1).astype(jnp.int32)
    return q, values, policy, bounds, n[None], jnp.zeros(1, jnp.int32), exact


def _expect(probs, successors, v):
    """Σ_b p[…, b, lane] v[successor, lane]."""
    if successors is None:
        flat = probs.reshape(-1, *probs.shape[-2:])
        one = flat.shape[-1] == 1
        found = product(flat[..., 0], v) if one else jnp.einsum("rtn,tn->rn", flat, v, precision=HIGHEST)
        return found.reshape(*probs.shape[:-2], v.shape[-1])

    def term(k):
        return lax.index_in_dim(probs, k, -2, keepdims=False) * v[lax.index_in_dim(successors, k, -1, keepdims=False)]

    width = successors.shape[-1]
    if width <= _UNROLLED:
        return sum((term(k) for k in range(1, width)), term(0))

    def add(k, total):
        column = jax.lax.dynamic_index_in_dim(successors, k, -1, keepdims=False)
        return total + lax.dynamic_index_in_dim(probs, k, -2, keepdims=False) * v[column]

    return lax.fori_loop(1, width, add, term(0))
