"""Stochastic gradient descent on batches of rows of data, with any optimiser of optax, in one compiled loop."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from ..forms.checks import whole
from . import progress


class MiniBatch(eqx.Module):
    """Fit by stochastic gradients, a few sentences at a time: the method for networks and for very large data.

    Args:
        epochs: how often each sentence is seen.
        batch_size: about how many sentences a step looks at.
        learning_rate: step size to begin with; it falls linearly to a tenth of that (to zero is `decay=0.0`).
        l2: weight of the sum of squares of all parameters, in the same units as for `LBFGS`: of the whole objective.
        clip: largest norm of a batch's mean gradient per sentence; longer ones are shortened (Pascanu et al. 2013).
        optimiser: any `optax.GradientTransformation`, instead of Adam (Kingma and Ba 2015); it brings its own step sizes.
        decay: share of the learning rate that is left at the end.
        average: end with a mean of the parameters instead of the last ones: True is that over all steps (Polyak and
            Juditsky 1992), a number below one the exponential mean with that decay, such as 0.998 for about the last 500.
        one_per_row: make each step's sentences separate rows, so that `batch_size` is exact.
        schedule: what steps are multiplied by, instead of `decay`: any function of the epoch, which goes from 0 to `epochs`
            in fractions, such as `optax.cosine_decay_schedule(1.0, epochs)`.

    Optimisers and schedules are told apart by identity: keep the object for the next fit, since a new one is compiled anew.

    Raises:
        ValueError: fewer than one epoch or sentence, a rate or a norm that is not positive, a negative penalty, or a
            decay of the mean outside [0, 1].

    Example:
        >>> import chainrule as cr, optax
        >>> method = cr.MiniBatch(
        ...     epochs=30, learning_rate=2e-3, average=0.998,
        ...     schedule=optax.warmup_cosine_decay_schedule(0.0, 1.0, warmup_steps=2, decay_steps=30),
        ... )
        >>> method.epochs
        30
    """

    epochs: int = 20
    batch_size: int = 32
    learning_rate: float = 1e-3
    l2: float = 0.0
    clip: float = 5.0
    optimiser: Any = eqx.field(default=None, static=True)
    decay: float = 0.1
    average: bool | float = False
    one_per_row: bool = eqx.field(default=False, static=True)
    schedule: Callable[[Any], Any] | None = eqx.field(default=None, static=True)

    def __check_init__(self):
        for name in ("epochs", "batch_size"):
            whole(getattr(self, name), f"MiniBatch: {name}")
        for name in ("learning_rate", "clip"):
            if not getattr(self, name) > 0:
                raise ValueError(f"MiniBatch: {name} is {getattr(self, name)}; it must be positive")
        for name in ("l2", "decay"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"MiniBatch: {name} is {getattr(self, name)}; it must be a number from 0 on")
        if not 0 <= self.average <= 1:
            raise ValueError(f"MiniBatch: average is {self.average}; give True, False, or a decay between 0 and 1")
        if self.schedule is not None and not callable(self.schedule):
            raise ValueError(f"MiniBatch: schedule is {self.schedule!r}; wanted a function of the epoch")

    def order(self, rng: np.random.Generator, num_rows: int, num_sequences: int) -> np.ndarray:
        """Rows of each step, shape (step, row): every epoch a new permutation, the last batch filled up from its start."""
        size = min(max(1, round(self.batch_size * num_rows / max(num_sequences, 1))), num_rows)
        steps = -(-num_rows // size)
        epochs = [np.resize(rng.permutation(num_rows), steps * size) for _ in range(self.epochs)]
        return np.concatenate(epochs).reshape(-1, size).astype(np.int32)


class AveragedPerceptron(eqx.Module):
    """The averaged structured perceptron (Collins 2002).

    After each sentence x with labels y that the model labels ŷ instead,

        w ← w + f(x, y) − f(x, ŷ),

    and at the end the mean of all w on the way. No rates, no penalties, and often almost as good as maximum likelihood.

    Args:
        epochs: how often each sentence is seen.

    Raises:
        ValueError: fewer than one epoch.
    """

    epochs: int = 10

    def __check_init__(self):
        whole(self.epochs, "AveragedPerceptron: epochs")

    def as_minibatch(self) -> MiniBatch:
        """The same as steps of one sentence and length one along the gradient of the perceptron's loss."""
        return MiniBatch(
            self.epochs, batch_size=1, clip=float("inf"), optimiser=_unit_steps(), average=True, one_per_row=True
        )


@functools.cache
def _unit_steps():
    """One object, since optimisers are told apart by identity and a new one would be compiled anew."""
    import optax

    return optax.sgd(1.0)


class Descent(NamedTuple):
    """Where a descent is.

    Attributes:
        parameters: as the last step left them.
        solver: the state of the optimiser.
        mean: the mean of the parameters, None where it is not asked for.
        step: how many steps have been taken.
    """

    parameters: Any
    solver: Any
    mean: Any
    step: Any

    @property
    def answer(self) -> Any:
        """What the descent has found so far."""
        return self.parameters if self.mean is None else self.mean


class Pace(NamedTuple):
    """Numbers that a descent depends on, traced: those of `MiniBatch`, the steps of all epochs and of one."""

    rate: Any
    decay: Any
    clip: Any
    average: Any
    steps: Any
    per_epoch: Any

    @classmethod
    def of(cls, method: MiniBatch, steps: int) -> "Pace":
        """The numbers of a method."""
        numbers = method.learning_rate, method.decay, method.clip, method.average, steps, steps // method.epochs
        return cls(*(jnp.asarray(float(number)) for number in numbers))


def begin(parameters: Any, method: MiniBatch, *, average: bool) -> Descent:
    """The descent before its first step; to be called inside `jax.jit`."""
    solver = _solver(method).init(parameters)
    return Descent(parameters, solver, parameters if average else None, jnp.zeros((), jnp.int32))


def descend(
    loss: Callable[..., Float[Array, ""]],
    state: Descent,
    order,
    key,
    method: MiniBatch,
    pace: Pace,
    token: progress.Token,
) -> tuple[Descent, Float[Array, " step"]]:
    """Take one step for each row of `order`: `loss(parameters, rows, key)` is a batch's mean.

    To be called inside `jax.jit`. Returns where the descent is then, and the loss before each step.
    """

    def body(state, rows):
        value, gradient = jax.value_and_grad(loss)(state.parameters, rows, jax.random.fold_in(key, state.step))
        state, _ = take_step(state, gradient, method, pace)
        progress.report(token, state.step, -value, last=state.step == pace.steps.astype(state.step.dtype))
        return state, value

    return lax.scan(body, state, jnp.asarray(order))


def take_step(
    state: Descent, gradient: Any, method: MiniBatch, pace: Pace, *, scale: Any = None
) -> tuple[Descent, Float[Array, ""]]:
    """Move along a gradient, `scale` times as far as the method says; the gradient's norm before it was clipped, too."""
    solver = _solver(method)
    parameters, inner, mean, step = state
    norm = jnp.sqrt(sum(jnp.vdot(g, g) for g in jax.tree.leaves(gradient)))
    shorten = jnp.minimum(1, pace.clip / jnp.maximum(norm, jnp.finfo(norm.dtype).tiny))
    gradient = jax.tree.map(lambda g: g * shorten.astype(g.dtype), gradient)
    now = step.astype(pace.rate.dtype)
    with jax.numpy_dtype_promotion("standard"):  # optax counts steps in integers and multiplies them with floats
        update, inner = solver.update(gradient, inner, parameters)
        factor = None if method.schedule is None else jnp.asarray(method.schedule(now / pace.per_epoch), now.dtype)
    if method.optimiser is None:
        factor = 1 - (1 - pace.decay) * now / pace.steps if factor is None else factor
        factor = -pace.rate * factor
    if scale is not None:
        factor = scale if factor is None else factor * scale
    if factor is not None:
        update = jax.tree.map(lambda u: factor.astype(u.dtype) * u, update)
    parameters = jax.tree.map(lambda p, u: p + u.astype(p.dtype), parameters, update)
    if mean is not None:
        share = jnp.maximum(1 - pace.average, 1 / (now + 1))  # the first steps are averaged evenly
        mean = jax.tree.map(lambda m, p: m + (p - m) * share.astype(p.dtype), mean, parameters)
    return Descent(parameters, inner, mean, step + 1), norm


def _solver(method: MiniBatch):
    import optax

    return method.optimiser if method.optimiser is not None else optax.scale_by_adam()
