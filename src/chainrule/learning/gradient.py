"""Fitting by the exact gradient of the log-likelihood, in unconstrained parameters.

A model takes part by `unconstrained()`, `constrained(free)`, `total(data)` and `log_prior(prior)`. The gradient of
`total` is the expected statistics from the engine, so one evaluation costs as much as an E-step, and the objective is
the one that `EM` climbs: log-likelihood plus log-prior density at the (constrained) parameters.
"""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax

from ..forms.sequences import bucket
from . import progress
from .em import Outcome, evaluate, keep, side_by_side


class Adam(eqx.Module):
    """Adam (Kingma and Ba 2015) on all the data.

    Args:
        max_iterations: number of steps.
        learning_rate: step size in the unconstrained parameters.
        tolerance: stop once the objective has moved less than this share of its size over 20 steps; 0 never does.

    Raises:
        ValueError: fewer than one iteration, or a learning rate that is not positive.
    """

    max_iterations: int = 1000
    learning_rate: float = 0.05
    tolerance: float = 1e-7

    def __check_init__(self):
        _check("Adam", self.max_iterations)
        if not self.learning_rate > 0:
            raise ValueError(f"Adam: learning_rate is {self.learning_rate}; it must be positive")

    def run(self, models, data, prior, frozen, *, show_progress: bool = False) -> Outcome:
        """Improve a batch of models (leading axis) side by side."""
        rate = jnp.asarray(self.learning_rate, float)
        return _run(self, "Adam", models, data, prior, frozen, show_progress, rate=rate)


class LBFGS(eqx.Module):
    """Limited-memory BFGS with a zoom line search (Nocedal and Wright 2006, chapters 3 and 7).

    Args:
        max_iterations: upper limit on the number of iterations.
        tolerance: stop once an iteration improves the objective by less than this share of its size.

    Raises:
        ValueError: fewer than one iteration.
    """

    max_iterations: int = 200
    tolerance: float = 1e-7

    def __check_init__(self):
        _check("LBFGS", self.max_iterations)

    def run(self, models, data, prior, frozen, *, show_progress: bool = False) -> Outcome:
        """Improve a batch of models (leading axis) side by side."""
        return _run(self, "L-BFGS", models, data, prior, frozen, show_progress, rate=None)


def _check(name: str, iterations: int):
    if iterations < 1:
        raise ValueError(f"{name}: max_iterations is {iterations}; at least one is needed")


def _run(method, name, models, data, prior, frozen, show_progress, *, rate) -> Outcome:
    with progress.bar(name, total=method.max_iterations, enabled=show_progress) as token:
        tolerance = jnp.asarray(method.tolerance, float)
        outcome = _descend(
            models,
            data,
            prior,
            tolerance,
            method.max_iterations,
            rate,
            token,
            frozen=frozen,
            size=bucket(method.max_iterations),
        )
    log_prob, objective = evaluate(outcome.models, data, prior)
    return eqx.tree_at(lambda o: (o.log_prob, o.objective), outcome, (log_prob, objective))


PATIENCE = 20  # steps of Adam between two looks at what was gained: single steps may go down


@partial(jax.jit, static_argnames=("frozen", "size"))
def _descend(models, data, prior, tolerance, max_iterations, rate, token, *, frozen, size):
    import optax

    line_search = rate is None
    dtype = jnp.result_type(*[x for x in jax.tree.leaves(models) if jnp.issubdtype(x.dtype, jnp.floating)])
    steps = jnp.asarray(data.mask).sum().astype(dtype)
    tolerance = tolerance.astype(dtype)
    solver = optax.lbfgs() if line_search else optax.adam(rate.astype(dtype))

    def rebuild(model, free):
        return keep(frozen, model, model.constrained(free))

    def loss(free, model):  # per step, so that step sizes do not depend on the amount of data
        better = rebuild(model, free)
        return -(better.total(data) + better.log_prior(prior)) / steps

    def advance(model, free, state):
        if line_search:
            value, gradient = optax.value_and_grad_from_state(loss)(free, state=state, model=model)
        else:
            value, gradient = jax.value_and_grad(loss)(free, model)
        extra = {"value": value, "grad": gradient, "value_fn": loss, "model": model} if line_search else {}
        update, state = solver.update(gradient, state, free, **extra)
        return optax.apply_updates(free, update), state, -jnp.asarray(value) * steps

    def body(carry):
        step, free, state, history, iterations, done, failed = carry
        with jax.numpy_dtype_promotion("standard"):  # optax counts steps in integers and multiplies them with floats
            new_free, new_state, objective = side_by_side(advance, data)(models, free, state)
        back = 1 if line_search else PATIENCE
        before = history[:, jnp.maximum(step - back, 0)]
        least = jnp.where(tolerance > 0, jnp.maximum(tolerance, 4 * jnp.finfo(objective.dtype).eps), -1)
        settled = (step >= back) & (jnp.abs(objective - before) <= least * jnp.abs(objective))
        failed = failed | (~done & ~jnp.isfinite(objective))
        going = ~done & ~failed & ~settled
        history = history.at[:, step].set(jnp.where(done, jnp.nan, objective))

        def choose(new, old):
            return jnp.where(going.reshape(-1, *[1] * (new.ndim - 1)), new, old)

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
    unknown = jnp.full(runs, jnp.nan, dtype)
    never = jnp.zeros((runs, models.num_states), bool)
    return Outcome(models, unknown, unknown, history, iterations, done & ~failed, failed, never)
