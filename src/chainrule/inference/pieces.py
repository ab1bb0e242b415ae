"""Long chains cut into pieces that run side by side (`lanes`), each from the message that the one before it ends with.

A chain forgets: two filtered distributions that begin differently and see the same observations come together, as fast as
the transitions and the observations make them. So what the pieces begin with is guessed: every piece is run over its last
`WARM` steps from a flat beginning, which gives the piece after it something to begin with; then over all its steps, and
what it ends with is compared with the guess. That is a proof and no test of chance: a step is a matrix without negative
numbers, and such a matrix never moves two messages further apart in Hilbert's projective metric,
d(a, b) = log max_k (a_k / b_k) − log min_k (a_k / b_k) (Birkhoff 1957). Where guess and finding agree within ε everywhere,
all messages are right within a few ε a piece, and so is the sum of the log-constants.

Where they do not agree, the findings are the next guesses: two rounds where the chain forgets within a piece, at worst one
more for each piece, since the first piece is right at once, the second from the second round on, and so forth. The same
holds from the end back.
"""

import jax.numpy as jnp
from jax import lax

from .lanes import FULL, MANY, MOST, step_ahead, step_back
from .native import available, native
from .scaled import Weights

LANES = 64  # pieces, over all rows, that fill the lanes
SHORTEST = 64  # steps that a piece has at least
WARM = 128  # steps within which most chains forget


def number(transition, likelihood) -> int:
    """How many pieces each row is best cut into, 1 being none."""
    time, states = likelihood.shape[:2]
    rows = likelihood.shape[2] if likelihood.ndim == 3 else 1
    count = -(-LANES // rows)
    small = 1 < states <= (MOST if rows == 1 else MANY) and transition.ndim == 2
    return count if small and rows < FULL and time >= SHORTEST * count and available() else 1


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


def ends(w: Weights):
    """What each piece begins with and is left to, `entering` and `leaving` of `lanes.smooth`, and whether that is sure."""
    fresh = w.start.astype(w.likelihood.dtype)
    later = jnp.concatenate([fresh[0, 1:], jnp.ones_like(fresh[0, :1])])
    entering, _, known = _settled(_AHEAD, 1, w.likelihood, fresh, w.transition, w.initial)
    leaving, _, also = _settled(_BACK, -1, w.likelihood, fresh, w.transition.T, later)
    return entering, (leaving, later), known & also


def constants(w: Weights):
    """The constants of the way ahead, and whether they are sure."""
    fresh = w.start.astype(w.likelihood.dtype)
    return _settled(_AHEAD, 1, w.likelihood, fresh, w.transition, w.initial)[1:]


def _settled(run, shift: int, likelihood, *known):
    """The messages that `run` hands on to the pieces `shift` further on, its constants, and whether guesses agreed."""

    def body(carry):
        tries, skipped, guessed, constant, _ = carry
        found, constant = run(skipped, guessed, constant, likelihood, *known)
        found = jnp.roll(found, shift, axis=1)
        return tries + 1, jnp.zeros_like(skipped), found, constant, (skipped == 0) & _agree(found, guessed)

    length, states, pieces = likelihood.shape
    skipped = jnp.int32(length - min(WARM, length // 2))
    first = (0, skipped, jnp.full_like(likelihood[0], 1 / states), jnp.zeros_like(likelihood[:, 0]), jnp.array(False))
    _, _, found, constant, agreed = lax.while_loop(lambda carry: ~carry[4] & (carry[0] <= pieces + 1), body, first)
    return found, constant, agreed


def _agree(found, guessed):
    """Whether messages agree, in each state that is not so improbable that the certificate of `scaled` watches over it."""
    limits, larger = jnp.finfo(found.dtype), jnp.maximum(found, guessed)
    close = jnp.abs(found - guessed) <= 32 * limits.eps * larger
    return jnp.all(close | (larger < limits.tiny / limits.eps**2))


def _ahead(skipped, message, constant, likelihood, fresh, transition, initial):
    """The filtered distribution after the last step, from that before the first one that is not skipped; the constants."""

    def step(t, carry):
        message, constant = carry
        joint, total = step_ahead(fresh[t], initial, message, transition, likelihood[t])
        return joint * (1 / total)[None], lax.dynamic_update_index_in_dim(constant, total, t, 0)

    return lax.fori_loop(skipped, len(likelihood), step, (message, constant))


def _back(skipped, message, constant, likelihood, fresh, turned, later):
    """The message likelihood · backward of the first step, from that of the step after the last one not skipped."""

    def step(count, carry):
        t = len(likelihood) - 1 - count
        message, later = carry
        return likelihood[t] * step_back(later, message, turned), fresh[t]

    return lax.fori_loop(skipped, len(likelihood), step, (message, later))[0], constant


_AHEAD, _BACK = native(_ahead), native(_back)
