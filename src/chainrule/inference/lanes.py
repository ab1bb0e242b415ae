"""Forward-backward over many rows as two native loops on the CPU, in which every number is a vector of rows.

The recursions and the certificate are those of `scaled`. There one step of one chain is scalar work of some fifty
nanoseconds, and a step of many chains is a dozen kernels and calls into libraries. Here each direction is one loop of
machine code (`native`) whose innermost dimension is the row, so that a processor's vectors are full; the way back makes
the marginals and the expected steps while a step's messages are still in the nearest cache. A single long chain takes
part in pieces (`pieces`).

What keeps XLA's compiler to that form, found by reading its machine code: no sum has `SHORT` terms or more, which would go
to a library; what several others are made of ends in a sum, since elementwise work is done anew for each of its uses;
choices between messages are arithmetic, because a selection becomes a branch for each lane; and there are at least `FULL`
rows, since short inner loops are unrolled before anything makes vectors of them.
"""

from functools import cache, partial, reduce
from itertools import pairwise

import jax.numpy as jnp
from jax import lax

from ..forms.products import HIGHEST
from .native import available, native
from .scaled import SHORT, Weights, floored

MOST = 12  # states up to which this way is the fastest
FEW = 64  # rows up to which it is so for `MANY` states
MANY = 16
FULL = 56  # rows from which on the lanes are filled
WIDE = 128  # rows that go side by side; more go block after block


def suits(w: Weights) -> bool:
    """Whether this is the way to go."""
    states, *rows = w.likelihood.shape[1:]
    if not rows or rows[0] < FULL or w.transition.ndim > 2:
        return False
    return states <= (MANY if rows[0] <= FEW else MOST) and available()


def smooth(w: Weights, weight, entering=None, leaving=None):
    """The constants, and all that `scaled.accumulate` returns: mass (the least), marginals, derivatives by the potentials.

    A chain may go on from one row to another one: `entering` (state, row) is the filtered distribution at the step before a
    row's first, and `leaving` the message likelihood · backward of the step after its last, (state, row), with whether that
    step begins another chain, (row,).
    """
    first = _or_flat(entering, w)
    message, later = (_or_flat(None, w), jnp.ones_like(w.start[0])) if leaving is None else leaving
    width, (likelihood, fresh, first, message, later) = _blocks(w.likelihood, _fresh(w), first, message, later)
    rows = w.start.shape[1]
    weight = jnp.pad(weight, ((0, 0), (0, fresh.shape[1] - rows)))
    args = (
        w.initial,
        w.transition,
        w.transition.T,
        likelihood,
        fresh,
        weight,
        first,
        message,
        later.astype(fresh.dtype),
    )
    constant, marginals, mass, late, by_initial, by_transition = _run(_smooth, width)(*args)
    # the steps into the first of those rows that go on from another one are still to be added
    entered = jnp.einsum("ir,jr->ij", first, late, precision=HIGHEST)
    by_transition = jnp.concatenate(by_transition).sum(2) + entered
    return constant[:, :rows], mass.min(), marginals[..., :rows], by_initial.sum(1), by_transition


def _fresh(w: Weights):
    return w.start.astype(w.likelihood.dtype)


def _or_flat(message, w: Weights):
    return jnp.full_like(w.likelihood[0], 1 / w.likelihood.shape[1]) if message is None else message


def _blocks(*arrays):
    """The width of a block of rows, and the arrays with rows of ones added that fill up the last block."""
    states, rows = arrays[0].shape[1:]
    widest = min(WIDE, (SHORT - 1) // (2 * states))
    blocks = -(-rows // widest)
    width = rows if blocks == 1 else -(-rows // (8 * blocks)) * 8
    lacking = blocks * width - rows
    filled = [jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, lacking)], constant_values=1) for x in arrays]
    return width, filled if lacking else list(arrays)


@cache
def _run(function, width: int):
    return native(partial(function, width))


def _smooth(width, initial, transition, turned, likelihood, fresh, weight, entering, leaving, later):
    """Constants, marginals, the least mass, the derivative by each row's first message, and sums, by row, of the others."""
    time, states, rows = likelihood.shape
    least = jnp.finfo(likelihood.dtype).eps ** 2
    lanes = next((n for n in (16, 8) if width % n == 0), width)
    groups = _groups(states, states * width)

    def block(number, carry):
        constant, filtered, mass, by_first, by_initial, by_transition = carry
        at, put = (partial(f, begin=number * width) for f in (partial(_at, width=width), _put))

        def ahead(t, carry):
            message, constant, filtered = carry
            joint, total = step_ahead(at(fresh, t), initial, message, transition, at(likelihood, t))
            message = joint * (1 / total)[None]
            return message, put(constant, total, t=t), put(filtered, message, t=t)

        now, constant, filtered = lax.fori_loop(0, time, ahead, (at(entering), constant, filtered))

        def back(count, carry):
            t = time - 1 - count
            now, message, later, late, marginals, mass, by_initial, by_transition = carry
            new = at(fresh, t)
            pairs = [_outer(now[i:j], late, lanes) for i, j in groups]
            by_transition = [so_far + more for so_far, more in zip(by_transition, pairs, strict=True)]
            backward = step_back(later, message, turned)
            joint = now * backward
            overlap = joint.sum(0)
            here = at(constant, t) * overlap
            found = joint * (1 / overlap)[None]
            found = jnp.where(found > least, found, 0)  # as in `scaled.accumulate`
            message = at(likelihood, t) * backward
            share = message * (at(weight, t) / here)[None]
            by_initial = by_initial + new[None] * share
            late = (1 - new)[None] * share
            marginals, mass = put(marginals, found, t=t), jnp.minimum(mass, here)
            now = at(marginals, jnp.maximum(t - 1, 0))
            return now, message, new, late, marginals, mass, by_initial, by_transition

        nothing = jnp.zeros_like(at(leaving))
        carry = (now, at(leaving), at(later), nothing, filtered, mass, by_initial, by_transition)
        _, _, _, late, marginals, mass, by_initial, by_transition = lax.fori_loop(0, time, back, carry)
        return constant, marginals, mass, put(by_first, late), by_initial, by_transition

    by_initial = jnp.zeros((states, width), likelihood.dtype)
    by_transition = [jnp.zeros((j - i, states, lanes), likelihood.dtype) for i, j in groups]
    mass = jnp.full(width, jnp.inf, likelihood.dtype)
    nothing = (
        jnp.zeros_like(fresh),
        jnp.zeros_like(likelihood),
        mass,
        jnp.zeros_like(leaving),
        by_initial,
        by_transition,
    )
    return block(0, nothing) if rows == width else lax.fori_loop(0, rows // width, block, nothing)


def step_ahead(new, initial, message, transition, likelihood):
    """The forward step: the joint of state and observation, given the past, and its total."""
    joint = floored(_chosen(new, initial[:, None], _moved(message, transition)) * likelihood)
    return joint, joint.sum(0)


def step_back(later, message, turned):
    """The backward step: a chain's distribution over the states that its future would have, flat where that is none."""
    back = floored(_moved(message, turned))
    return _chosen(later, 1 / len(turned), back * (1 / back.sum(0))[None])


def _at(array, t=None, *, begin, width):
    """Rows `begin` to `begin + width`, of step t where there are steps."""
    if t is not None:
        array = lax.dynamic_index_in_dim(array, t, keepdims=False)
    return lax.dynamic_slice_in_dim(array, begin, width, array.ndim - 1) if array.shape[-1] > width else array


def _put(array, value, t=None, *, begin):
    place = (0,) * (array.ndim - 1) if t is None else (t, *(0,) * (array.ndim - 2))
    return lax.dynamic_update_slice(array, value if t is None else value[None], (*place, begin))


def _chosen(new, first, moved):
    """`first` where a chain begins, `moved` elsewhere."""
    return new[None] * first + (1 - new)[None] * moved


def _moved(state, matrix):
    """Σ_i state[i] matrix[i, j] of each row."""
    parts = [(matrix[i:j, :, None] * state[i:j, None]).sum(0) for i, j in _groups(len(state), state.size)]
    return reduce(jnp.add, parts)


def _outer(early, late, lanes: int):
    """early[i] · late[j], summed over what lies `lanes` rows apart."""
    return (early.reshape(len(early), 1, -1, lanes) * late.reshape(1, len(late), -1, lanes)).sum(2)


def _groups(count: int, size: int) -> list[tuple[int, int]]:
    """Cut `count` things of `size` numbers each into ranges of fewer than `SHORT` numbers."""
    pieces = -(-count // max(1, (SHORT - 1) // size))
    edges = [count * piece // pieces for piece in range(pieces + 1)]
    return list(pairwise(edges))
