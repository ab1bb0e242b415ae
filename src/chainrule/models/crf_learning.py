"""How a conditional random field is fitted: from a problem and a method to parameters and a `Fit`.

A problem is a module with `parameters`, `scores`, `slopes` and `loss`, such as `crf_engine.Problem`.
"""

import dataclasses
from collections.abc import Hashable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..forms.checks import check_key
from ..graphs.labels import first_duplicate
from ..learning import progress as bars
from ..learning.fit import Fit, Status, room
from ..learning.gradient import LBFGS
from ..learning.minibatch import AveragedPerceptron, MiniBatch
from ..learning.quasi_newton import Ending, Limits
from ..learning.validation import Validation
from . import crf_descent as descent
from . import crf_engine as engine
from . import crf_second_order
from .crf_data import Taggings
from .crf_objectives import Likelihood, MaxMargin, SoftmaxMargin
from .features.base import Batch, Gold
from .memory import give_back


def check_labels(labels) -> tuple[Hashable, ...]:
    """The labels as a tuple.

    Raises:
        ValueError: a string, none, or one twice.
    """
    if isinstance(labels, str):
        raise ValueError(f"labels is the string {labels!r}; wanted a list of labels")
    labels = tuple(labels)
    if not labels:
        raise ValueError("there are no labels; wanted at least one")
    if (twice := first_duplicate(labels)) is not None:
        raise ValueError(f"label {twice!r} is there twice")
    return labels


def zeros(shape) -> jax.Array:
    """Weights to begin with; put there as they are, since `jnp.zeros` compiles a program for each shape."""
    return jax.device_put(np.zeros(shape, jnp.result_type(float)))


def choose(method, objective):
    """The method and the objective of a fit, L-BFGS and the likelihood where nothing else is said.

    Raises:
        ValueError: something else than a method, or than an objective.
    """
    method = LBFGS(l2=1.0) if method is None else method
    if isinstance(method, AveragedPerceptron):
        if objective is not None and not (isinstance(objective, MaxMargin) and objective.cost == 0):
            raise ValueError(
                f"an averaged perceptron has an objective of its own, but objective is {objective!r}: leave it out, or "
                "use MiniBatch"
            )
        method, objective = method.as_minibatch(), MaxMargin(0.0)
    objective = Likelihood() if objective is None else objective
    if not isinstance(method, LBFGS | MiniBatch):
        raise ValueError(f"method is {method!r}; give LBFGS(l1=…, l2=…), MiniBatch(…) or AveragedPerceptron(…)")
    if not isinstance(objective, Likelihood | MaxMargin | SoftmaxMargin):
        raise ValueError(f"objective is {objective!r}; give Likelihood(), MaxMargin() or SoftmaxMargin()")
    return method, objective


class Found(NamedTuple):
    """What a fit ended with; the history rises, and `validation` is what was seen after each epoch."""

    parameters: Any
    value: Any
    log_prob: Any
    history: Any
    iterations: int
    status: Status
    validation: np.ndarray | None = None

    def fit(self, model, num_observations: int) -> Fit:
        """The result that users see."""
        return Fit(
            model=model,
            status=self.status,
            iterations=int(self.iterations),
            log_prob=float(self.log_prob),
            history=self.history,
            restart_objectives=np.array([-float(self.value)]),
            degenerate=np.zeros(0, bool),
            num_parameters=model.num_parameters(),
            num_observations=num_observations,
            validation=self.validation,
        )


def search(
    method: LBFGS | MiniBatch, batch: Batch, problem, key, model_of, validation: Validation | None, *, progress: bool
) -> Found:
    """Minimise the problem's loss, by whichever method; `validation` looks at `model_of(parameters)` between epochs."""
    give_back()
    if isinstance(method, LBFGS):
        return _climb(method, problem, progress)
    if key is None:
        raise ValueError("fit: MiniBatch goes through the sentences in random order; give key=jax.random.key(…)")
    check_key(key, "fit")
    return Found(*descent.fit(method, batch, problem, key, model_of, validation, progress=progress))


def _climb(method: LBFGS, problem, progress: bool) -> Found:
    sizes = {"memory": method.memory, "size": room(method.max_iterations), "sparse": method.l1 > 0}
    limits = Limits(method.max_iterations, method.tolerance, period=method.period)
    with bars.bar("L-BFGS", total=method.max_iterations, enabled=progress) as shown:
        found = engine.climb(problem, method.l1, method.l2, limits, shown, **sizes)
    parameters, value, log_prob, history, iterations, ending = jax.device_get(found)
    return Found(parameters, value, log_prob, -history[~np.isnan(history)], iterations, _status(int(ending)))


def _status(ending: int) -> Status:
    return {
        Ending.CONVERGED: Status.CONVERGED,
        Ending.MAX_ITERATIONS: Status.MAX_ITERATIONS,
        Ending.NOT_FINITE: Status.DIVERGED,
    }.get(Ending(ending), Status.STALLED)


def problem_of(crf, batch: Batch, gold: Gold, sample_weight, by_rows: bool, objective):
    """The features as they know these data, and what a method has to solve."""
    size = crf.num_labels
    tagged = Taggings.of(batch, gold, crf.structure, crf.labels, sample_weight)
    free_steps = crf.structure.pair & (tagged.seen if crf.seen_steps else True)
    dtype = jnp.zeros(0).dtype
    learned, parts = [], []
    for feature in crf.features:
        known, part = feature.learn(batch, gold, dataclasses.replace(crf.options, by_rows=by_rows))
        learned.append(known)
        parts.append(part)
    # a step that these data do not show has weight zero, whatever earlier data said of it
    transition = np.where(free_steps, crf.transition, 0)
    weights = tuple(np.asarray(w, dtype) for w in (transition, crf.first, crf.last))
    ends = np.full(size, crf.boundaries)
    free = (free_steps, ends & crf.structure.initial, ends & crf.structure.final)
    counts = tagged.counts.astype(dtype)
    if crf.second is not None:
        if tagged.labels is not None:
            counts = crf_second_order.gold_counts(tagged.labels, batch.layout.start, tagged.weight, counts)
        third = crf_second_order.free(crf.structure, crf.boundaries)
        if crf.seen_steps and tagged.labels is not None:
            third = third & np.moveaxis(counts["triple"] > 0, 2, 0)
        weights, free = (*weights, np.where(third, crf.second, 0).astype(dtype)), (*free, third)
    problem = engine.Problem(
        tuple(parts),
        weights,
        free,
        crf.structure,
        batch.layout.start,
        tagged.last,
        tagged.weight.astype(dtype),
        tagged.labels,
        counts,
        tagged.allowed,
        objective,
        crf.local,
        crf.structure.dead_ends,
    )
    return learned, problem
