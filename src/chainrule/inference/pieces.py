"""Long chains cut into pieces that run side by side (`lanes`), each from the message that the one before it ends with.

A chain forgets: two filtered distributions that begin differently and see the same observations come together, as fast as
the transitions and the observations make them. So what the pieces begin with is guessed: every piece is run over its last
`WARM` steps from a flat beginning, which gives the piece after it something to begin with; then over all its steps, and
what it ends with is compared with the guess. That is a proof and no test of chance: a step is a matrix of positive
numbers, and such a matrix never moves two messages further apart in Hilbert's projective metric,
d(a, b) = log max_k (a_k / b_k) − log min_k (a_k / b_k) (Birkhoff 1957). Where guess and finding agree within ε everywhere,
all messages are right within a few ε a piece, and so is the sum of the log-constants.

Where they do not agree, the findings are the next guesses. A chain that does not forget, one that falls apart into blocks
for instance, goes step by step after `TRIES` of that. The same holds from the end back.
"""

from functools import cache

import jax.numpy as jnp
from jax import lax

from .certificate import certified
from .lanes import FULL, MOST, step_ahead, step_back
from .native import available, native
from .scaled import Weights

LANES = 64  # pieces of one row; of several rows, as many as make so many together
SHORTEST = 32  # steps that a piece has at least
WARM = 128  # steps within which most chains forget
TRIES = 3


def number(transition, likelihood) -> int:
    """How many pieces each row is best cut into, 1 being none."""
    time, states = likelihood.shape[:2]
    rows = likelihood.shape[2] if likelihood.ndim == 3 else 1
    count = LANES // rows
    small = 1 < states <= MOST and transition.ndim == 2 and rows < FULL
    return count if small and time >= SHORTEST * count and available() else 1


def cut(x, count: int, fill, *, one_row: bool):
    """(time, …, row), or (time, …) of one row, into (step, …, row · count); `fill` is what the last piece lacks."""
    x = x[..., None] if one_row else x
    length = -(-len(x) // count)
    if lacking := count * length - len(x):
        x = jnp.concatenate([x, jnp.full_like(x, fill, shape=(lacking, *x.shape[1:]))])
    x = jnp.moveaxis(x.reshape(count, length, *x.shape[1:]), 0, -1)
    return x.reshape(*x.shape[:-2], -1)


def join(x, count: int, time: int, *, one_row: bool):
    """The inverse of `cut`."""
    x = jnp.moveaxis(x.reshape(*x.shape[:-1], -1, count), -1, 0)
    x = x.reshape(-1, *x.shape[2:])[:time]
    return x[..., 0] if one_row else x


def ends(w: Weights, count: int):
    """What each piece begins with and what it is left to: `entering` and `leaving` of `lanes.smooth`."""
    fresh = w.start.astype(w.likelihood.dtype)
    later = jnp.concatenate([fresh[0, 1:], jnp.ones_like(fresh[0, :1])])
    entering = _settled(_ahead, 1, count)(w.likelihood, fresh, w.transition, w.initial)
    leaving = _settled(_back, -1, count)(w.likelihood, fresh, w.transition.T, later)
    return entering, (leaving, later)


@cache
def _settled(run, shift: int, count: int):
    """The messages that `run` hands on to the pieces `shift` further on: guessed, or where guesses fail found by steps."""
    run = native(run)

    def guess(likelihood, *known):
        def body(carry):
            tries, skipped, guessed, _ = carry
            found = jnp.roll(run(skipped, guessed, likelihood, *known), shift, axis=1)
            return tries + 1, jnp.zeros_like(skipped), found, (skipped == 0) & _agree(found, guessed)

        flat = jnp.full_like(likelihood[0], 1 / likelihood.shape[1])
        first = (0, jnp.int32(max(len(likelihood) - WARM, 0)), flat, jnp.array(False))
        _, _, found, agreed = lax.while_loop(lambda carry: ~carry[3] & (carry[0] <= TRIES), body, first)
        return found, agreed

    def by_step(likelihood, fresh, matrix, beside):
        def one(message, piece):
            likelihood, fresh, *later = piece
            return run(jnp.int32(0), message, likelihood, fresh, matrix, *(later or [beside])), message

        pieces = [likelihood, fresh, beside][: 2 if shift > 0 else 3]  # `later` has a number for each piece
        pieces = [jnp.moveaxis(x.reshape(*x.shape[:-1], -1, count), -1, 0) for x in pieces]
        flat = jnp.full_like(pieces[0][0, 0], 1 / likelihood.shape[1])
        messages = lax.scan(one, flat, pieces, reverse=shift < 0)[1]
        return jnp.moveaxis(messages, 0, -1).reshape(likelihood.shape[1:])

    return certified(guess, by_step)


def _agree(found, guessed):
    """Whether messages agree, in each state that is not so improbable that the certificate of `scaled` watches over it."""
    limits, larger = jnp.finfo(found.dtype), jnp.maximum(found, guessed)
    close = jnp.abs(found - guessed) <= 32 * limits.eps * larger
    return jnp.all(close | (larger < limits.tiny / limits.eps**2))


def _ahead(skipped, message, likelihood, fresh, transition, initial):
    """The filtered distribution after the last step, from that before the first that is not skipped."""

    def step(t, message):
        joint, total = step_ahead(fresh[t], initial, message, transition, likelihood[t])
        return joint * (1 / total)[None]

    return lax.fori_loop(skipped, len(likelihood), step, message)


def _back(skipped, message, likelihood, fresh, turned, later):
    """The message likelihood · backward of the first step, from that of the step after the last that is not skipped."""

    def step(count, carry):
        t = len(likelihood) - 1 - count
        message, later = carry
        return likelihood[t] * step_back(later, message, turned), fresh[t]

    return lax.fori_loop(skipped, len(likelihood), step, (message, later))[0]
