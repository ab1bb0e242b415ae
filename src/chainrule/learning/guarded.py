"""Stochastic descent that notices when it diverges, goes back to where it was well, and goes on more slowly.

Every `period` steps the state is put aside. It counts as good once the descent has lived through another period, since
what precedes an explosion is rarely well itself. A step whose loss or gradient is not finite, or whose measure passes a
limit, is not taken: the descent goes back to the good state, with new random numbers and shorter steps.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from . import minibatch, progress
from .fit import Status


class Safeguard(eqx.Module):
    """What a fit does about divergence.

    Args:
        period: how many steps lie between two states that are put aside.
        retries: how often it may go back before it gives up.
        slower: what step sizes are multiplied by each time.

    Raises:
        ValueError: an empty period, negative retries, or a factor outside (0, 1].

    Example:
        >>> import chainrule as cr
        >>> cr.Safeguard(period=20, retries=5)  # for a fit that diverges often: `model.fit(…, safeguard=…)`
        Safeguard(period=20, retries=5)
    """

    period: int = 50
    retries: int = 3
    slower: float = 0.5

    def __check_init__(self):
        if self.period < 1:
            raise ValueError(f"Safeguard: period is {self.period}; at least one step is needed")
        if self.retries < 0:
            raise ValueError(f"Safeguard: retries is {self.retries}; it must not be negative")
        if not 0 < self.slower <= 1:
            raise ValueError(f"Safeguard: slower is {self.slower}; it must be above 0 and at most 1")


class Guarded(NamedTuple):
    """Where a guarded descent ended.

    Attributes:
        descent: its last state, which is a good one.
        rollbacks: how often it went back.
        stopped: whether it gave up.
        taken: how many steps were made of those asked for.
    """

    descent: minibatch.Descent
    rollbacks: Any
    stopped: Any
    taken: Any

    def status(self) -> Status:
        """What there is to say about it."""
        if self.stopped:
            return Status.DIVERGED
        return Status.ROLLED_BACK if self.rollbacks else Status.MAX_ITERATIONS


def descend(
    step: Callable,
    start: tuple[minibatch.Descent, Any],
    order,
    key,
    method: minibatch.MiniBatch,
    pace: minibatch.Pace,
    guard: Safeguard,
    limit,
    token: progress.Token,
) -> tuple[Guarded, Float[Array, " step"]]:
    """Take a step for each row of `order`; to be called inside `jax.jit`.

    `step(parameters, memory, rows, key)` gives (loss, measure), the gradient, and the memory afterwards. Returns the end,
    and the measure at each step; NaN after it gave up.
    """

    def attempt(carry, rows):
        (descent, memory), aside, good, scale, rollbacks, _, taken = carry
        (value, measure), gradient, after = step(
            descent.parameters, memory, rows, jax.random.fold_in(key, descent.step)
        )
        moved, norm = minibatch.take_step(descent, gradient, method, pace, scale=scale)
        well = jnp.isfinite(value) & jnp.isfinite(norm) & (jnp.abs(measure) <= limit.astype(measure.dtype))
        kind = jnp.where(well, (moved.step % guard.period == 0).astype(jnp.int32), 2)

        def back():
            again = good[0]._replace(step=moved.step), good[1]  # steps are counted on: other random numbers
            return again, good, good

        now, aside, good = lax.switch(
            kind,
            [
                lambda: ((moved, after), aside, good),
                lambda: ((moved, after), (moved, after), aside),
                back,
            ],
        )
        scale = jnp.where(well, scale, scale * jnp.asarray(guard.slower, scale.dtype))
        rollbacks = rollbacks + (~well).astype(jnp.int32)
        progress.report(token, moved.step, measure, last=moved.step == pace.steps.astype(jnp.int32))
        return (now, aside, good, scale, rollbacks, rollbacks > guard.retries, taken + 1), measure

    def body(carry, rows):
        measure = jax.eval_shape(attempt, carry, rows)[1]
        return lax.cond(
            carry[5], lambda: (carry, jnp.full((), jnp.nan, measure.dtype)), lambda: attempt(carry, jnp.asarray(rows))
        )

    none = jnp.zeros((), jnp.int32)
    begin = (start, start, start, jnp.ones(()), none, jnp.zeros((), bool), none)
    (now, _, _, _, rollbacks, stopped, taken), measures = lax.scan(body, begin, jnp.asarray(order))
    return Guarded(now[0], rollbacks, stopped, taken), measures
