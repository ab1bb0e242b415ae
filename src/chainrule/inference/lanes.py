"""Forward-backward and Viterbi over many rows as native loops on the CPU, in which every number is a vector of rows.

The recursions and the certificate are those of `scaled`, the paths those of `decoding`. There one step of one chain is
scalar work of some fifty nanoseconds, and a step of many chains is a dozen kernels and calls into libraries. Here each
direction is one loop of machine code (`native`) whose innermost dimension is the row, so that a processor's vectors are
full; the way back makes the marginals and the expected steps while a step's messages are still in the nearest cache. A
single long chain takes part in pieces (`pieces`).

What keeps XLA's compiler to that form, found by reading its machine code: no sum has `SHORT` terms or more, which would go
to a library; what several others are made of ends in a sum, since elementwise work is done anew for each of its uses;
choices between messages are arithmetic, because a selection becomes a branch for each lane; and there are at least `FULL`
rows, since short inner loops are unrolled before anything makes vectors of them.
"""

from functools import partial, reduce
from itertools import pairwise

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from .logspace import finite
from .native import available, native
from .scaled import SHORT, Weights, floored

MOST = 12  # states up to which this way is the fastest
FEW = 64  # rows up to which it is so for `MANY` states
MANY = 16
FULL = 56  # rows from which on the lanes are filled
WIDE = 128  # rows that go side by side; more go block after block


def suits(transition, likelihood) -> bool:
    """Whether this is the way to go, by shapes: (state, state) and (time, state, row)."""
    states, *rows = likelihood.shape[1:]
    if not rows or rows[0] < FULL or transition.ndim > 2:
        return False
    return states <= (MANY if rows[0] <= FEW else MOST) and available()


def smooth(w: Weights, weight, entering=None, leaving=None):
    """The constants, and all that `scaled.accumulate` returns: mass (the least), marginals, derivatives by the potentials.

    A chain may go on from one row to another one: `entering` (state, row) is the filtered distribution at the step before a
    row's first, and `leaving` the message likelihood · backward of the step after its last, (state, row), with whether that
    step begins another chain, (row,).
    """
    known, fresh = (w.initial, w.transition, w.transition.T), w.start.astype(w.likelihood.dtype)
    if entering is None or leaving is None:
        run, each = _SMOOTH_WHOLE, (w.likelihood, fresh)
    else:
        message, later = leaving
        run, each = _SMOOTH, (w.likelihood, fresh, entering, message, later.astype(fresh.dtype))
    (constant, mass, marginals), (by_initial, by_transition) = _by_blocks(run, known, each, weight)
    return constant, mass.min(), marginals, by_initial.sum(1), by_transition.sum(2)


def forward(w: Weights):
    """Filtered distributions and their normalising constants, as `scaled.forward`."""
    fresh = w.start.astype(w.likelihood.dtype)
    return tuple(_by_blocks(_FORWARD, (w.initial, w.transition), (w.likelihood, fresh))[0])


def best_paths(initial, transition, node, start) -> tuple[Int[Array, "time row"], Float[Array, "time row"]]:
    """Viterbi, as `decoding.best_paths`."""
    states, terms = _by_blocks(_BEST_PATHS, (initial, transition), (node, start))[0]
    return states, terms


def _by_blocks(run, known, each, *weight):
    """`run(*known, *each, *weight)` for so many rows at a time as is best.

    Rows are the last axis of `each` and `weight`, and of the first of the two that `run` gives; the second is a sum over
    rows. The last block begins early enough to be a full one; rows that have been there before have no weight then.
    """
    states, rows = each[0].shape[1:]
    widest = min(WIDE, (SHORT - 1) // (2 * states))
    blocks = -(-rows // widest)
    if blocks == 1:
        return run(*known, *each, *weight)
    width = -(-rows // (8 * blocks)) * 8

    def block(number):
        begin = jnp.minimum(number * width, rows - width)
        parts = [lax.dynamic_slice_in_dim(x, begin, width, x.ndim - 1) for x in (*each, *weight)]
        if weight:
            new = begin + jnp.arange(width, dtype=begin.dtype) >= number * width
            parts[-1] = jnp.where(new[None], parts[-1], 0)
        return begin, run(*known, *parts)

    def body(number, carry):
        begin, (found, total) = block(number)
        put = partial(lax.dynamic_update_slice_in_dim, start_index=begin, axis=-1)
        return jax.tree.map(put, carry[0], found), jax.tree.map(jnp.add, carry[1], total)

    found, total = jax.eval_shape(lambda: block(jnp.int32(0))[1])
    nothing = [jnp.zeros((*x.shape[:-1], rows), x.dtype) for x in found], jax.tree.map(jnp.zeros_like, total)
    return lax.fori_loop(0, blocks, body, nothing)


def _smooth(initial, transition, turned, likelihood, fresh, entering, leaving, later, weight):
    """Constants, the least mass and marginals; derivatives by `initial` and `transition`, still in lanes."""
    time, states, rows = likelihood.shape
    least = jnp.finfo(likelihood.dtype).eps ** 2
    lanes = next((n for n in (16, 8) if rows % n == 0), rows)
    groups = _groups(states, states * rows)

    def ahead(t, carry):
        message, constant, filtered = carry
        joint, total = step_ahead(fresh[t], initial, message, transition, likelihood[t])
        message = joint * (1 / total)[None]
        return message, _put(constant, total, t), _put(filtered, message, t)

    nothing = jnp.zeros_like(fresh), jnp.zeros_like(likelihood)
    now, constant, filtered = lax.fori_loop(0, time, ahead, (entering, *nothing))

    def with_steps(by_transition, early, late):
        return [so_far + _outer(early[i:j], late, lanes) for so_far, (i, j) in zip(by_transition, groups, strict=True)]

    def back(count, carry):
        t = time - 1 - count
        now, message, later, late, by_initial, by_transition, mass, marginals = carry
        by_transition = with_steps(by_transition, now, late)
        backward = step_back(later, message, turned)
        joint = now * backward
        overlap = joint.sum(0)
        here = constant[t] * overlap
        found = joint * (1 / overlap)[None]
        found = jnp.where(found > least, found, 0)  # as in `scaled.accumulate`
        message = likelihood[t] * backward
        share = message * (weight[t] / here)[None]
        by_initial = by_initial + fresh[t][None] * share
        late = (1 - fresh[t])[None] * share
        # the marginals take the place of the filtered distributions, one step after the next of those has been read
        marginals = _put(marginals, found, t)
        now = marginals[jnp.maximum(t - 1, 0)]
        return now, message, fresh[t], late, by_initial, by_transition, jnp.minimum(mass, here), marginals

    none, mass = jnp.zeros_like(entering), jnp.full_like(fresh[0], jnp.inf)
    by_transition = [jnp.zeros_like(fresh, shape=(j - i, states, lanes)) for i, j in groups]
    carry = (now, leaving, later, none, none, by_transition, mass, filtered)
    *_, late, by_initial, by_transition, mass, marginals = lax.fori_loop(0, time, back, carry)
    by_transition = with_steps(by_transition, entering, late)  # into rows that go on from another one
    return [constant, mass, marginals], (by_initial, jnp.concatenate(by_transition))


def _smooth_whole(initial, transition, turned, likelihood, fresh, weight):
    """The same where no row goes on from another one."""
    flat = jnp.full_like(likelihood[0], 1 / likelihood.shape[1])
    return _smooth(initial, transition, turned, likelihood, fresh, flat, flat, jnp.ones_like(fresh[0]), weight)


def _forward(initial, transition, likelihood, fresh):
    def step(t, carry):
        message, constant, filtered = carry
        joint = _chosen(fresh[t], initial[:, None], _moved(message, transition)) * likelihood[t]
        total = joint.sum(0)
        message = joint * (1 / total)[None]
        return message, _put(constant, total, t), _put(filtered, message, t)

    nothing = jnp.zeros_like(likelihood[0]), jnp.zeros_like(fresh), jnp.zeros_like(likelihood)
    _, constant, filtered = lax.fori_loop(0, len(likelihood), step, nothing)
    return [filtered, constant], ()


def _best_paths(initial, transition, node, start):
    time, states, rows = node.shape
    turned = transition.T

    def ahead(t, carry):
        score, before = carry
        parts = [(transition[i:j, :, None] + score[i:j, None]).max(0) for i, j in _groups(states, score.size)]
        new = jnp.where(start[t][None], initial[:, None], reduce(jnp.maximum, parts)) + node[t]
        return new - finite(new.max(0))[None], _put(before, score, t)

    none = jnp.zeros_like(node[0])
    last, before = lax.fori_loop(0, time, ahead, (none, jnp.zeros_like(node)))

    def best(score):
        highest, state = score[0], jnp.zeros(rows, jnp.int32)
        for i in range(1, states):
            state = jnp.where(score[i] > highest, i, state)
            highest = jnp.maximum(highest, score[i])
        return state

    def back(count, carry):
        t = time - 1 - count
        state, found = carry
        arrive = jnp.where(start[t][None], 0, jnp.take(turned, state, axis=0, mode="clip").T)
        return best(before[t] + arrive), _put(found, state, t)

    found = lax.fori_loop(0, time, back, (best(last), jnp.zeros((time, rows), jnp.int32)))[1]

    def score(t, terms):
        state, earlier = found[t], found[jnp.maximum(t - 1, 0)]
        stepped = jnp.take(transition.reshape(-1), earlier * states + state, mode="clip")
        own = jnp.take_along_axis(node[t], state[None], axis=0, mode="clip")[0]
        return _put(terms, own + jnp.where(start[t], jnp.take(initial, state, mode="clip"), stepped), t)

    return [found, lax.fori_loop(0, time, score, jnp.zeros_like(node[:, 0]))], ()


_SMOOTH, _SMOOTH_WHOLE, _FORWARD, _BEST_PATHS = map(native, (_smooth, _smooth_whole, _forward, _best_paths))


def step_ahead(new, initial, message, transition, likelihood):
    """The forward step: the joint of state and observation, given the past, and its total."""
    joint = floored(_chosen(new, initial[:, None], _moved(message, transition)) * likelihood)
    return joint, joint.sum(0)


def step_back(later, message, turned):
    """The backward step: a chain's distribution over the states that its future would have, flat where that is none."""
    back = floored(_moved(message, turned))
    return _chosen(later, 1 / len(turned), back * (1 / back.sum(0))[None])


def _put(array, value, t):
    return lax.dynamic_update_index_in_dim(array, value, t, 0)


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
