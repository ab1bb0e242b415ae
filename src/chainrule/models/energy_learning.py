"""How models given by an energy are fitted: their data checked, then one compiled loop.

A model takes part by `of(x)`, the energy of one x, `log_normaliser`, `supervised(rows, labels)`, what is minimised beside
the objective, and `total_log_prob(rows, labels)`.
"""

import operator
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ..learning import guarded, minibatch
from ..learning import progress as bars
from ..learning.energies import AbstractEnergyObjective
from ..learning.fit import Fit
from ..learning.guarded import Safeguard
from ..learning.minibatch import MiniBatch
from .emissions.base import generator


def shape_of(function: Callable, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of what a function makes of an array, without computing it.

    Raises:
        ValueError: it cannot be called with one.
    """
    try:
        found = eqx.filter_eval_shape(function, jax.ShapeDtypeStruct(shape, jnp.zeros(()).dtype))
    except (TypeError, ValueError) as error:
        raise ValueError(f"the function cannot be called with an array of shape {shape}: {error}") from error
    return getattr(found, "shape", None)  # pyright: ignore[reportReturnType]


def as_shape(shape) -> tuple[int, ...]:
    """The shape of one x, from a whole number or several.

    Raises:
        ValueError: anything else.
    """
    try:
        return tuple(operator.index(size) for size in (shape if np.ndim(shape) else (shape,)))
    except TypeError:
        raise ValueError(f"shape is {shape!r}; wanted a whole number or a tuple of them") from None


def check_rows(data, shape: tuple[int, ...]) -> np.ndarray:
    """Data as floats, (row, *shape).

    Raises:
        ValueError: another shape, fewer than two rows, or a row that is not finite, which is named.
    """
    rows = np.asarray(data)
    rows = rows.astype(np.dtype(jnp.zeros(()).dtype), copy=False)
    if rows.ndim != len(shape) + 1 or rows.shape[1:] != shape:
        raise ValueError(f"data have shape {rows.shape}; wanted (row, {', '.join(map(str, shape))})")
    if len(rows) < 2:
        raise ValueError(f"there are {len(rows)} rows; a density is not learned from fewer than two")
    wrong = ~np.isfinite(rows.reshape(len(rows), -1)).all(1)
    if wrong.any():
        raise ValueError(f"row {int(wrong.argmax())} has NaN or infinite entries: leave it out, or fill them in")
    return rows


def check_objective(objective) -> AbstractEnergyObjective:
    """The objective, if it is one for energies.

    Raises:
        ValueError: it is not.
    """
    if not isinstance(objective, AbstractEnergyObjective):
        raise ValueError(f"objective is {objective!r}; give DenoisingScoreMatching(…) or another for energies")
    return objective


def fit(
    model: Any,
    rows: np.ndarray,
    labels: np.ndarray | None,
    objective: AbstractEnergyObjective,
    method: MiniBatch | None,
    safeguard: Safeguard | None,
    key,
    *,
    progress: bool,
) -> Fit:
    """Minimise an objective from a model on."""
    method = MiniBatch() if method is None else method
    if not isinstance(method, MiniBatch):
        raise ValueError(f"method is {method!r}; energies are fitted by MiniBatch(…)")
    parameters, rest = eqx.partition(model, eqx.is_inexact_array)
    count = sum(leaf.size for leaf in jax.tree.leaves(parameters))
    if not count:
        raise ValueError("the energy has no parameters to learn: floating-point arrays of a module or another pytree")
    rng = generator(key)
    order = method.order(rng, len(rows), len(rows))
    memory = objective.begin(rng, rows, order.shape[1])
    pace = minibatch.Pace.of(method, len(order))
    numbers = jnp.asarray(method.l2 / len(rows), float), jnp.asarray(objective.limit(), float)
    data = rows, labels
    traced = [jax.tree.map(jnp.asarray, (method, Safeguard() if safeguard is None else safeguard)), _numbers(objective)]
    with bars.bar("energy", total=len(order), enabled=progress) as token:
        end, shown = _descend(
            parameters, rest, data, order, key, traced, memory, pace, numbers, token, average=bool(method.average)
        )
    fitted = eqx.combine(end.descent.answer, rest)
    history = np.asarray(shown)[: int(end.taken)]
    return Fit(
        model=fitted,
        status=end.status(),
        iterations=int(end.taken),
        log_prob=fitted.total_log_prob(rows, labels),
        history=history,
        restart_objectives=np.array([history[-1]]),
        degenerate=np.zeros(0, bool),
        num_parameters=count,
        num_observations=len(rows),
    )


def _numbers(objective):
    """Its numbers as arrays, so that a new number compiles nothing; a distribution for noise stays as it is."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, float) if isinstance(leaf, float | int) else leaf, objective)


@eqx.filter_jit
def _descend(parameters, rest, data, order, key, traced, memory, pace, numbers, token, *, average: bool):
    (method, guard), objective = traced
    (rows, labels), (l2, limit) = data, numbers

    def step(parameters, memory, picked, key):
        batch = rows[picked]
        answers = None if labels is None else labels[picked]
        drawn, memory = objective.draw(eqx.combine(parameters, rest).of, batch, key, memory)

        def loss(parameters):
            model = eqx.combine(parameters, rest)
            value, shown = objective.loss(model.of, model.log_normaliser, batch, drawn)
            squares = sum(jnp.vdot(leaf, leaf) for leaf in jax.tree.leaves(parameters))
            return value + model.supervised(batch, answers) + l2.astype(value.dtype) * squares, shown

        (value, shown), gradient = jax.value_and_grad(loss, has_aux=True)(parameters)
        return (value, shown), gradient, memory

    start = minibatch.begin(parameters, method, average=average), memory
    return guarded.descend(step, start, order, key, method, pace, guard, limit, token)
