"""Fits of linear-chain CRFs by mini-batches: steps in compiled loops, and what happens between the epochs."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..inference.compiling import filter_jit, jit
from ..learning import minibatch
from ..learning import progress as bars
from ..learning.fit import Status
from ..learning.minibatch import MiniBatch
from ..learning.validation import Validation, Watch
from .crf_engine import Problem
from .crf_objectives import Likelihood
from .emissions.base import generator
from .features.base import Batch

_ROWS = 256  # looked at together where no gradient is needed: what a network computes on the way is large


class Descended(NamedTuple):
    """What a fit ended with."""

    parameters: Any
    value: float
    log_prob: float
    history: np.ndarray
    iterations: int
    status: Status
    validation: np.ndarray | None


def fit(
    method: MiniBatch,
    batch: Batch,
    problem: Problem,
    key,
    model_of: Callable[[Any], Any],
    validation: Validation | None,
    *,
    progress: bool,
) -> Descended:
    """Descend; `model_of(parameters)` is the model that `validation` looks at after each epoch."""
    count = len(batch.sentences)
    num_rows = int(np.asarray(batch.layout.row)[:count].max()) + 1
    order = method.order(generator(key), num_rows, count)
    pace = minibatch.Pace.of(method, len(order))
    scale = tuple(jnp.asarray(float(number)) for number in (method.l2, num_rows, count))
    problem = jax.device_put(problem)
    state = _begin(problem, method, average=bool(method.average))
    watch = None if validation is None else Watch(validation)
    losses = []
    with bars.bar("mini-batches", total=len(order), enabled=progress) as shown:
        # one program for all epochs, unless somebody wants to look in between
        for epochs in [order] if watch is None else np.split(order, method.epochs):
            state, found = descend(problem, state, epochs, key, method, pace, scale, shown)
            losses.append(found)
            if watch is not None and watch.look(model_of(jax.device_get(state.answer)), state.answer):
                break
    parameters = state.answer if watch is None else watch.best
    stopped = watch is not None and len(watch.scores) < method.epochs
    losses = np.concatenate([np.asarray(found, float) for found in losses])
    history = -losses.reshape(-1, len(order) // method.epochs).mean(1) * count
    value, unlikely = (float(v) for v in total_loss(problem, parameters))
    status = Status.STOPPED_EARLY if stopped else Status.MAX_ITERATIONS
    status = status if np.isfinite(value) else Status.DIVERGED
    parameters = jax.device_get(parameters)
    value += method.l2 * float(sum(np.vdot(leaf, leaf) for leaf in jax.tree.leaves(parameters)))
    scores = None if watch is None else np.array(watch.scores)
    return Descended(parameters, value, -unlikely, history, len(losses), status, scores)


@filter_jit
def _begin(problem: Problem, method: MiniBatch, *, average: bool) -> minibatch.Descent:
    return minibatch.begin(problem.parameters(), method, average=average)


@jit
def descend(problem: Problem, state: minibatch.Descent, order, key, method: MiniBatch, pace, scale, token):
    """Some steps of stochastic descent: see `chainrule.learning.minibatch`."""
    l2, num_rows, num_sentences = scale

    def loss(parameters, picked, key):
        part = problem.take(picked).loss(parameters, key) * (num_rows / len(picked))
        squares = sum(jnp.vdot(leaf, leaf) for leaf in jax.tree.leaves(parameters))
        return (part + l2 * squares) / num_sentences  # an unbiased estimate, per sentence

    return minibatch.descend(loss, state, order, key, method, pace, token)


@jit
def total_loss(problem: Problem, parameters):
    """What is minimised, over all training sentences, and −Σ weight · log p(y | x)."""
    likelihood = eqx.tree_at(lambda p: p.objective, problem, Likelihood())
    num_rows = problem.start.shape[1]

    def losses(problem, likelihood):
        first = problem.loss(parameters)
        return first, first if isinstance(problem.objective, Likelihood) else likelihood.loss(parameters)

    if num_rows <= _ROWS:
        return losses(problem, likelihood)

    def part(places):
        rows = jnp.minimum(places, num_rows - 1)

        def some(problem):
            taken = problem.take(rows)
            return eqx.tree_at(lambda p: p.weight, taken, jnp.where(places < num_rows, taken.weight, 0))

        return losses(some(problem), some(likelihood))

    chunks = jnp.arange(-(-num_rows // _ROWS) * _ROWS, dtype=jnp.int32).reshape(-1, _ROWS)
    return jax.tree.map(jnp.sum, lax.map(part, chunks))
