"""Fitting by the exact gradient of the log-likelihood, in unconstrained parameters.

A model takes part by `unconstrained()`, `constrained(free)`, `total(data)` and `log_prior(prior)`. The gradient of
`total` is the expected statistics from the engine, so one evaluation costs as much as an E-step, and the objective is
the one that `EM` climbs: log-likelihood plus log-prior density at the (constrained) parameters.
"""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.flatten_util import ravel_pytree

from ..forms.checks import whole
from ..inference.compiling import jit
from . import progress, quasi_newton
from .em import Outcome, evaluate, first, keep, like, side_by_side
from .fit import room


class Adam(eqx.Module):
    """Adam (Kingma and Ba 2015) on all the data.

    Args:
        max_iterations: number of steps.
        learning_rate: step size in the unconstrained parameters.
        tolerance: stop once the objective has moved less than this share of its size over 20 steps; 0 never does.

    Raises:
        ValueError: fewer than one iteration, a tolerance that is NaN, or a learning rate that is not positive.

    Example:
        >>> import chainrule as cr
        >>> hmm = cr.HMM([.5, .5], [[.9, .1], [.1, .9]], cr.emissions.Poisson([2., 9.]))
        >>> fit = hmm.fit([1, 3, 2, 8, 11, 9, 2], method=cr.Adam(max_iterations=20))
        >>> fit.status, bool(fit.history[-1] > fit.history[0])
        (Status.MAX_ITERATIONS, True)
    """

    max_iterations: int = 1000
    learning_rate: float = 0.05
    tolerance: float = 1e-7

    def __check_init__(self):
        _check("Adam", self)
        if not self.learning_rate > 0:
            raise ValueError(f"Adam: learning_rate is {self.learning_rate}; it must be positive")

    def run(self, models, data, prior, frozen, *, show_progress: bool = False) -> Outcome:
        """Improve a batch of models (leading axis) side by side."""
        with progress.bar("Adam", total=self.max_iterations, enabled=show_progress) as token:
            rate, tolerance = (np.asarray(x, jnp.result_type(float)) for x in (self.learning_rate, self.tolerance))
            size = room(self.max_iterations)
            return _descend(models, data, prior, tolerance, self.max_iterations, rate, token, frozen=frozen, size=size)


class LBFGS(eqx.Module):
    """Limited-memory BFGS (Nocedal and Wright 2006, chapter 7); see `quasi_newton`.

    The penalties l1·Σ|w| + l2·Σw² are for models whose parameters are weights, such as a conditional random field. A
    model of probabilities, such as an HMM, takes a prior instead.

    Args:
        max_iterations: upper limit on the number of iterations.
        tolerance: stop once `period` iterations together improve the objective by less than this share of its size; 0
            stops only where rounding hides any gain, and a negative tolerance runs all iterations.
        period: how many iterations to look back.
        memory: how many steps the curvature is learned from.
        l1: weight of the sum of absolute values; any above 0 makes small weights exactly zero (Andrew and Gao 2007).
        l2: weight of the sum of squares.

    Raises:
        ValueError: fewer than one iteration, an empty period or memory, or a penalty that is negative or not finite.

    Example:
        >>> import jax, chainrule as cr
        >>> hmm = cr.HMM([0.5, 0.5], [[0.9, 0.1], [0.1, 0.9]], cr.emissions.Poisson([2.0, 9.0]))
        >>> fit = hmm.fit([1.0, 3.0, 2.0, 8.0, 11.0, 9.0, 2.0], method=cr.LBFGS(max_iterations=100))
        >>> fit.status
        Status.CONVERGED
    """

    max_iterations: int = 200
    tolerance: float = 1e-7
    period: int = 10
    memory: int = 10
    l1: float = 0.0
    l2: float = 0.0

    def __check_init__(self):
        _check("LBFGS", self)
        for name in ("period", "memory"):
            whole(getattr(self, name), f"LBFGS: {name}")
        for name in ("l1", "l2"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"LBFGS: {name} is {getattr(self, name)}; a penalty is a number from 0 on")

    def run(self, models, data, prior, frozen, *, show_progress: bool = False) -> Outcome:
        """Improve a batch of models (leading axis) side by side.

        Raises:
            ValueError: a penalty; what these models have against extreme parameters is the prior.
        """
        if self.l1 or self.l2:
            raise ValueError(
                f"LBFGS: l1 is {self.l1} and l2 is {self.l2}, but this model has probabilities, not weights, for "
                "parameters; give fit a prior=…, such as prior=HMMPrior(transition=2.0)"
            )
        with progress.bar("L-BFGS", total=self.max_iterations, enabled=show_progress) as token:
            limits = quasi_newton.Limits(self.max_iterations, self.tolerance, period=self.period)
            sizes = {"memory": self.memory, "size": room(self.max_iterations)}
            found = _climb(models, data, prior, limits, token, frozen=frozen, **sizes)
        # what is left is done in NumPy: every operation in a compiled program costs milliseconds of its first call
        models, log_prior, minimum = found[0], *jax.tree.map(np.asarray, found[1:])
        return Outcome(
            models,
            -minimum.value - log_prior,
            -minimum.value,
            -minimum.history,
            minimum.iterations,
            minimum.status == quasi_newton.Ending.CONVERGED,
            minimum.status == quasi_newton.Ending.NOT_FINITE,
            np.zeros((len(log_prior), models.num_states), bool),
            minimum.status == quasi_newton.Ending.STALLED,
        )


def _check(name: str, method: "Adam | LBFGS"):
    whole(method.max_iterations, f"{name}: max_iterations")
    if np.isnan(method.tolerance):
        raise ValueError(f"{name}: tolerance is {method.tolerance}; wanted a number")


@partial(jit, static_argnames=("frozen", "memory", "size"))
def _climb(models, data, prior, limits, token, *, frozen, memory, size):
    back = ravel_pytree(first(models).unconstrained())[1]

    def rebuild(model, free):
        return keep(frozen, model, model.constrained(back(free)))

    def loss(free, model):
        better = rebuild(model, free)
        return -(better.total(data) + better.log_prior(prior))

    def improve(search, model):
        return quasi_newton.advance(jax.value_and_grad(loss), search, (model,), limits)

    def unless_done(function, search, model):
        return lax.cond(running(search), lambda: function(search, model), lambda: search)

    def running(search):
        return search.status == quasi_newton.Ending.RUNNING

    def body(before):
        after = side_by_side(improve, data, unless_done)(before, models)
        if after.status.size > 1:  # a run that has ended stays as it is
            after = jax.tree.map(lambda new, old: jnp.where(like(running(before), new), new, old), after, before)
        progress.report(token, after.iterations.max(), -after.value.min(), last=~running(after).any())
        return after

    start = jax.vmap(lambda m: quasi_newton.begin(ravel_pytree(m.unconstrained())[0], memory=memory, history_size=size))
    end = lax.while_loop(lambda search: running(search).any(), body, start(models))
    models = jax.vmap(rebuild)(models, end.x)
    log_prior = jax.vmap(lambda m: jnp.asarray(m.log_prior(prior), end.value.dtype))(models)
    return models, log_prior, end.minimum()


PATIENCE = 20  # steps of Adam between two looks at what was gained: single steps may go down


@partial(jit, static_argnames=("frozen", "size"))
def _descend(models, data, prior, tolerance, max_iterations, rate, token, *, frozen, size):
    import optax

    dtype = jnp.result_type(*[x for x in jax.tree.leaves(models) if jnp.issubdtype(x.dtype, jnp.floating)])
    steps = jnp.asarray(data.mask).sum().astype(dtype)
    tolerance = tolerance.astype(dtype)
    solver = optax.adam(rate.astype(dtype))

    def rebuild(model, free):
        return keep(frozen, model, model.constrained(free))

    def loss(free, model):  # per step, so that step sizes do not depend on the amount of data
        better = rebuild(model, free)
        return -(better.total(data) + better.log_prior(prior)) / steps

    def advance(model, free, state):
        value, gradient = jax.value_and_grad(loss)(free, model)
        update, state = solver.update(gradient, state, free)
        return optax.apply_updates(free, update), state, -jnp.asarray(value) * steps

    def body(carry):
        step, free, state, history, iterations, done, failed = carry
        with jax.numpy_dtype_promotion("standard"):  # optax counts steps in integers and multiplies them with floats
            new_free, new_state, objective = side_by_side(advance, data)(models, free, state)
        before = history[:, jnp.maximum(step - PATIENCE, 0)]
        least = jnp.where(tolerance > 0, jnp.maximum(tolerance, 4 * jnp.finfo(objective.dtype).eps), -1)
        settled = (step >= PATIENCE) & (jnp.abs(objective - before) <= least * jnp.abs(objective))
        failed = failed | (~done & ~jnp.isfinite(objective))
        going = ~done & ~failed & ~settled
        history = history.at[:, step].set(jnp.where(done, jnp.nan, objective))

        def choose(new, old):
            return jnp.where(like(going, new), new, old)

        progress.report(token, step + 1, objective.max(), last=(~going).all())
        free, state = jax.tree.map(choose, new_free, free), jax.tree.map(choose, new_state, state)
        return step + 1, free, state, history, iterations + going.astype(jnp.int32), done | failed | settled, failed

    free = jax.vmap(lambda m: m.unconstrained())(models)
    runs = jax.tree.leaves(models)[0].shape[0]
    start = (
        jnp.zeros((), jnp.int32),
        free,
        jax.vmap(solver.init)(free),
        jnp.full((runs, size), jnp.nan, dtype),
        jnp.zeros(runs, jnp.int32),
        jnp.zeros(runs, bool),
        jnp.zeros(runs, bool),
    )
    end = lax.while_loop(lambda c: (c[0] < max_iterations) & ~c[5].all(), body, start)
    _, free, _, history, iterations, done, failed = end
    models = jax.vmap(rebuild)(models, free)
    never = jnp.zeros((runs, models.num_states), bool)
    log_prob, objective = evaluate(models, data, prior)
    return Outcome(models, log_prob, objective, history, iterations, done & ~failed, failed, never)
