"""Stochastic gradient descent on batches of rows of data, with any optimiser of optax, in one compiled loop."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

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

    Raises:
        ValueError: fewer than one epoch or sentence, a rate or a norm that is not positive, or a negative penalty.
    """

    epochs: int = 20
    batch_size: int = 32
    learning_rate: float = 1e-3
    l2: float = 0.0
    clip: float = 5.0
    optimiser: Any = eqx.field(default=None, static=True)
    decay: float = 0.1

    def __check_init__(self):
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"MiniBatch: {name} is {getattr(self, name)}; at least one is needed")
        for name in ("learning_rate", "clip"):
            if not getattr(self, name) > 0:
                raise ValueError(f"MiniBatch: {name} is {getattr(self, name)}; it must be positive")
        for name in ("l2", "decay"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"MiniBatch: {name} is {getattr(self, name)}; it must be a number from 0 on")

    def order(self, rng: np.random.Generator, num_rows: int, num_sequences: int) -> np.ndarray:
        """Rows of each step, shape (step, row): every epoch a new permutation, the last batch filled up from its start."""
        size = min(max(1, round(self.batch_size * num_rows / max(num_sequences, 1))), num_rows)
        steps = -(-num_rows // size)
        epochs = [np.resize(rng.permutation(num_rows), steps * size) for _ in range(self.epochs)]
        return np.concatenate(epochs).reshape(-1, size).astype(np.int32)


def descend(
    loss: Callable[..., Float[Array, ""]],
    parameters: Any,
    order,
    key,
    method: MiniBatch,
    numbers,
    token: progress.Token,
):
    """Take one step for each row of `order`: `loss(parameters, rows, key)` is a batch's mean.

    To be called inside `jax.jit`; `numbers` are the learning rate, the share of it that is left at the end, and the norm
    at which gradients are clipped, traced. Returns the parameters, and the loss before each step.
    """
    import optax

    rate, decay, clip = numbers
    solver = method.optimiser if method.optimiser is not None else optax.scale_by_adam()
    steps = len(order)

    def body(carry, x):
        parameters, state = carry
        step, rows = x
        value, gradient = jax.value_and_grad(loss)(parameters, rows, jax.random.fold_in(key, step))
        norm = jnp.sqrt(sum(jnp.vdot(g, g) for g in jax.tree.leaves(gradient)))
        shorten = jnp.minimum(1, clip / jnp.maximum(norm, jnp.finfo(norm.dtype).tiny))
        gradient = jax.tree.map(lambda g: g * shorten.astype(g.dtype), gradient)
        with jax.numpy_dtype_promotion("standard"):  # optax counts steps in integers and multiplies them with floats
            update, state = solver.update(gradient, state, parameters)
        if method.optimiser is None:
            now = rate * (1 - (1 - decay) * step.astype(rate.dtype) / steps)
            update = jax.tree.map(lambda u: -now.astype(u.dtype) * u, update)
        parameters = jax.tree.map(lambda p, u: p + u.astype(p.dtype), parameters, update)
        progress.report(token, step + 1, -value, last=step + 1 == steps)
        return (parameters, state), value

    xs = (jnp.arange(steps, dtype=jnp.int32), jnp.asarray(order))
    (parameters, _), history = lax.scan(body, (parameters, solver.init(parameters)), xs)
    return parameters, history
