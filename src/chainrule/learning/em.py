"""Expectation–maximisation, for any model that offers its two steps.

A model takes part by four methods:

- `expect(data, engine) -> (log_prob, expectations)`: the log-likelihood, and what is expected of the hidden variables,
  by the engine that it is given (see `chainrule.inference.rows`);
- `total(data) -> log_prob`: the log-likelihood alone;
- `maximise(data, expectations, prior, floor) -> (model, degenerate)`: the parameters that explain the expectations best;
- `log_prior(prior)`: the log-density of the prior at the parameters.

The loop is one compiled program: it stops by itself, records its history, and runs several starting points side by side.
Each iteration can only raise the objective (Dempster, Laird and Rubin 1977).
"""

from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..forms.checks import whole
from ..inference import rows
from ..inference.compiling import jit
from . import progress
from .fit import Fit, Status, room


class EM(eqx.Module):
    """Fit by expectation–maximisation.

    Args:
        max_iterations: upper limit on the number of iterations.
        tolerance: stop once an iteration gains less than this share of the objective's size; 0 stops only where
            rounding hides any gain, and a negative tolerance runs all iterations.
        min_variance: floor under learned variances. A state that meets it is reported in `Fit.degenerate`.

    Raises:
        ValueError: fewer than one iteration, a tolerance that is NaN, or a floor that is not positive.

    Example:
        >>> import chainrule as cr
        >>> hmm = cr.HMM([.5, .5], [[.9, .1], [.1, .9]], cr.emissions.Poisson([2., 9.]))
        >>> fit = hmm.fit([1, 3, 2, 8, 11, 9, 2], method=cr.EM(max_iterations=50))
        >>> fit.status, bool(fit.history[-1] > fit.history[0])
        (Status.CONVERGED, True)
    """

    max_iterations: int = 500
    tolerance: float = 1e-6
    min_variance: float = 1e-6

    def __check_init__(self):
        whole(self.max_iterations, "EM: max_iterations")
        if np.isnan(self.tolerance):
            raise ValueError(f"EM: tolerance is {self.tolerance}; wanted a number")
        if not self.min_variance > 0:
            raise ValueError(f"EM: min_variance is {self.min_variance}; it must be positive")

    def run(self, models, data, prior, frozen, *, show_progress: bool = False):
        """Improve a batch of models (leading axis) side by side; see `Outcome`."""
        dtype = jnp.result_type(*[x for x in jax.tree.leaves(models) if jnp.issubdtype(x.dtype, jnp.floating)])
        tolerance, floor = (np.asarray(x, dtype) for x in (self.tolerance, self.min_variance))
        state = _start(models, dtype, room(self.max_iterations))
        with progress.bar("EM", total=self.max_iterations, enabled=show_progress) as token:
            rest = (data, prior, tolerance, self.max_iterations, floor, token)
            state, trusted = _em(rows.Scaled, state, *rest, frozen=frozen)
            if not trusted:  # go on from there with the log-space engine at hand
                state, _ = _em(rows.Either, state, *rest, frozen=frozen)
        # From here on in NumPy: each operation on the device would be a program to compile.
        log_prob, objective, history, iterations, done, degenerate = (
            np.asarray(getattr(state, name))
            for name in ("log_prob", "objective", "history", "iterations", "done", "degenerate")
        )
        good = np.isfinite(objective)
        return Outcome(state.models, log_prob, objective, history, iterations, done & good, ~good, degenerate)


class Outcome(eqx.Module):
    """How a batch of runs ended: models, objectives and histories, each with the runs on the leading axis."""

    models: eqx.Module
    log_prob: jax.Array | np.ndarray
    objective: jax.Array | np.ndarray
    history: jax.Array | np.ndarray
    iterations: jax.Array | np.ndarray
    converged: jax.Array | np.ndarray
    failed: jax.Array | np.ndarray
    degenerate: jax.Array | np.ndarray
    stalled: jax.Array | np.ndarray | None = None


class _State(NamedTuple):
    """What the loop carries; the runs are on the leading axis."""

    step: Any
    history: Any
    iterations: Any
    models: Any
    log_prob: Any
    objective: Any
    done: Any
    degenerate: Any


def _start(models, dtype, size: int) -> _State:
    runs = jax.tree.leaves(models)[0].shape[0]
    nothing = np.full(runs, -np.inf, dtype)
    return _State(
        step=np.zeros((), np.int32),
        history=np.full((runs, size), np.nan, dtype),
        iterations=np.zeros(runs, np.int32),
        models=models,
        log_prob=nothing,
        objective=nothing,
        done=np.zeros(runs, bool),
        degenerate=np.zeros((runs, models.num_states), bool),
    )


@partial(jit, static_argnums=0, static_argnames="frozen")
def _em(engine, state: _State, data, prior, tolerance, max_iterations, floor, token, *, frozen):
    """Iterate to the end, or until a certificate fails that `engine` cannot do without; says which.

    A turn beyond the last iteration only finds the objective that the last one led to.
    """

    def improve(last, model, log_prob, objective, done, degenerate):
        """One iteration of one run; where that gains next to nothing, the model stays the one the objective is of."""
        asked = engine()
        new_log_prob, expectations = model.expect(data, asked)
        new_objective = new_log_prob + model.log_prior(prior)
        better, worn = model.maximise(data, expectations, prior, floor)
        better = keep(frozen, model, better)
        # float32 sums of many terms cannot resolve less than a few units in the last place
        least = jnp.where(tolerance < 0, -jnp.inf, jnp.maximum(tolerance, 4 * jnp.finfo(objective.dtype).eps))
        stop = (new_objective - objective <= least * jnp.abs(new_objective)) | ~jnp.isfinite(new_objective)
        stay = stop | last
        kept = jax.tree.map(lambda new, old: jnp.where(stay, old, new), better, model)
        run = kept, new_log_prob, new_objective, stop, jnp.where(stay, degenerate, worn)
        return run, asked.trusted

    def unless_done(function, last, *run):
        return lax.cond(run[3], lambda: (run, jnp.array(True)), lambda: function(last, *run))

    def body(carry):
        state, _ = carry
        before = state[3:]
        last = jnp.broadcast_to(state.step == max_iterations, state.done.shape)
        after, trusted = side_by_side(improve, data, unless_done)(last, *before)
        trusted = (trusted | state.done).all()
        after = jax.tree.map(lambda new, old: jnp.where(like(~state.done, new), new, old), after, before)
        objective, stopped = after[2], after[3]
        history = state.history.at[:, state.step].set(jnp.where(state.done, jnp.nan, objective))
        iterations = state.iterations + (~stopped & ~last).astype(jnp.int32)
        reached = jnp.minimum(state.step + 1, max_iterations)
        progress.report(token, reached, objective.max(), last=(stopped | last).all())
        new = _State(state.step + 1, history, iterations, *after)
        return jax.tree.map(lambda new, old: jnp.where(trusted, new, old), new, state), trusted

    def going(carry):
        state, trusted = carry
        return trusted & (state.step <= max_iterations) & ~state.done.all()

    return lax.while_loop(going, body, (state, jnp.array(True)))


SMALL = 20_000  # slots of data up to which several runs are faster as one batch than one after the other


def side_by_side(function, data, skip=lambda function, *run: function(*run)):
    """Map a function over runs on the leading axis: as a batch while the data are small, else one after the other.

    Only the latter can save anything by `skip`, which may leave a run out.
    """
    size = max(leaf.size for leaf in jax.tree.leaves(data))

    def mapped(*args):
        runs = jax.tree.leaves(args)[0].shape[0]
        if runs == 1:
            return jax.tree.map(lambda leaf: leaf[None], function(*first(args)))
        if size <= SMALL:
            return jax.vmap(function)(*args)
        return lax.map(lambda run: skip(function, *run), args)

    return mapped


@jit
def evaluate(models, data, prior):
    """Log-likelihood and objective of each of a batch of models."""

    def one(model):
        log_prob = model.total(data)
        return log_prob, log_prob + model.log_prior(prior)

    return side_by_side(one, data)(models)


def like(flags, array):
    """Flags with the axes that let them choose along the first axis of an array."""
    return flags.reshape(-1, *[1] * (array.ndim - 1))


def first(tree):
    """The first run of a batch."""
    return jax.tree.map(lambda leaf: leaf[0], tree)


def keep(frozen: tuple[bool, ...] | None, old, new):
    """`new`, with the leaves that are marked frozen taken from `old`."""
    if frozen is None:
        return new
    leaves, structure = jax.tree.flatten(new)
    kept = [o if f else n for f, o, n in zip(frozen, jax.tree.leaves(old), leaves, strict=True)]
    return jax.tree.unflatten(structure, kept)


def frozen_leaves(model, where) -> tuple[bool, ...] | None:
    """Mark the leaves that `where(model)` picks, as a hashable tuple: it says the same at every call."""
    if where is None:
        return None
    plain = jax.tree.map(lambda _: False, model)
    picked = where(model)
    many = isinstance(picked, tuple | list)
    replacement = [jax.tree.map(lambda _: True, p) for p in (picked if many else [picked])]
    marked = eqx.tree_at(where, plain, tuple(replacement) if many else replacement[0])
    return tuple(jax.tree.leaves(marked))


def pack_fit(outcome: Outcome, *, num_observations: int, num_parameters: int) -> Fit:
    """The best run of a batch as a `Fit`."""
    objectives = np.asarray(outcome.objective)
    usable = np.isfinite(objectives) & ~np.asarray(outcome.failed)
    best = int(np.argmax(np.where(usable, objectives, -np.inf)))
    iterations = int(outcome.iterations[best])
    history = np.asarray(outcome.history)[best]
    history = history[~np.isnan(history)]
    if not usable[best]:
        status = Status.IMPOSSIBLE if iterations == 0 and objectives[best] == -np.inf else Status.DIVERGED
    elif np.asarray(outcome.degenerate)[best].any():
        status = Status.DEGENERATE
    elif outcome.stalled is not None and bool(outcome.stalled[best]):
        status = Status.STALLED
    else:
        status = Status.CONVERGED if bool(outcome.converged[best]) else Status.MAX_ITERATIONS
    model = jax.tree.map(lambda leaf: jax.device_put(np.asarray(leaf)[best]), outcome.models)
    return Fit(
        model=model,
        status=status,
        iterations=iterations,
        log_prob=float(outcome.log_prob[best]),
        history=history,
        restart_objectives=objectives,
        degenerate=np.asarray(outcome.degenerate)[best],
        num_parameters=num_parameters,
        num_observations=num_observations,
    )
