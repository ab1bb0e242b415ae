"""Fits of machines on graphs: by the exact likelihood where all states can be counted up, by PCD otherwise.

The score −E of a machine is linear in its parameters θ, and the gradient of log p(v) is a difference of means,

    ∂ log p(v) / ∂θ = ⟨∂ score / ∂θ⟩_data − ⟨∂ score / ∂θ⟩_machine.

On the data's side what is hidden is drawn given what is seen, on the machine's side persistent chains are (Tieleman 2008),
at several temperatures if the method says so (Desjardins et al. 2010). What kind of machine it is, a `Problem` says.
"""

from abc import abstractmethod
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int, Key, PyTree

from ...forms.factors import Factors
from ...forms.pairwise import Pairwise
from ...forms.sequences import bucket
from ...inference import tempering
from ...learning import progress as bars
from ...learning import quasi_newton
from ...learning.contrastive import PCD
from ...learning.fit import Fit, Status
from ...learning.gradient import LBFGS

POSITIVE_SWEEPS = 10  # of hidden nodes given a row of data, from a random start
_FEWEST = 64  # rows that the exact likelihood is compiled for at least
MEAN_RATE = 0.01  # share of a batch's mean in the running means


class AbstractProblem(eqx.Module):
    """What a fit has to know of a kind of machine; rows are of visible values, states are those of the form."""

    @abstractmethod
    def form(self, parameters: PyTree) -> Pairwise | Factors:
        """What is sampled."""

    @abstractmethod
    def log_prob(self, parameters: PyTree, rows: Int[Array, "row visible"]) -> Float[Array, " row"]:
        """Log p of each row, by enumeration."""

    @abstractmethod
    def complete(self, key: Key[Array, ""], form, rows: Int[Array, "row visible"]) -> Int[Array, "node row"]:
        """States whose hidden values are drawn given the rows."""

    @abstractmethod
    def sweep(self, key: Key[Array, ""], state: Int[Array, "node chain"], form, betas) -> Int[Array, "node chain"]:
        """One sweep of chains, at an inverse temperature for each."""

    @abstractmethod
    def slopes(self, form, state: Int[Array, "node chain"]) -> PyTree:
        """Slopes of the score by the parameters, the mean over chains."""

    @abstractmethod
    def penalised(self, parameters: PyTree) -> PyTree:
        """1 for the parameters that a penalty is on, 0 for the others."""

    @abstractmethod
    def centred(self, slopes: PyTree, means: PyTree) -> PyTree:
        """Slopes by the parameters of variables around their means; `means` are running means of the data's slopes."""

    @abstractmethod
    def uncentred(self, step: PyTree, means: PyTree) -> PyTree:
        """A step of the parameters of variables around their means, told in the machine's own."""

    @abstractmethod
    def pseudo_log_prob(self, form, state: Int[Array, "node chain"]) -> Float[Array, ""]:
        """Σ_i log p(x_i | all others), the mean over chains."""


def choose(method: Any, key, *, tiny: bool) -> Any:
    """The method of a fit: the one given, or the exact likelihood where it can be.

    Raises:
        ValueError: a method of another kind, settings that machines on graphs do not know, or no key where one is needed.
    """
    if method is None:
        method = LBFGS() if tiny else PCD()
    if not isinstance(method, LBFGS | PCD):
        raise ValueError(f"a Boltzmann machine is fitted by LBFGS() or PCD(), not by {type(method).__name__}")
    if isinstance(method, PCD):
        if key is None:
            raise ValueError("PCD draws samples: give fit a key=jax.random.key(…)")
        for name, neutral in (("fast_rate", None), ("sparsity_cost", 0.0)):
            if getattr(method, name) != neutral:
                raise ValueError(
                    f"PCD: {name} is {getattr(method, name)}, which machines on graphs do not know; RBM does"
                )
    return method


def fit(
    problem: AbstractProblem, parameters, rows: np.ndarray, method: LBFGS | PCD, key, *, tiny: bool, progress: bool
):
    """Fit parameters to rows: a `Fit` whose model they are; its log-probability is NaN where it cannot be known."""
    if not len(rows):
        raise ValueError("there are no rows to fit to")
    distinct, counts = np.unique(rows, axis=0, return_counts=True)
    # as many rows for all data of a size that is near: others compile nothing
    room = max(_FEWEST, 1 << (len(distinct) - 1).bit_length())
    filled = np.concatenate([distinct, np.repeat(distinct[:1], room - len(distinct), axis=0)])
    weight = np.concatenate([counts, np.zeros(room - len(distinct))])
    if isinstance(method, LBFGS):
        parameters, log_probs, status, steps, history = _climb(problem, parameters, filled, weight, method, progress)
    else:
        parameters, status, steps, history = _descend(problem, parameters, rows, method, key, progress)
        known = tiny and status is not Status.DIVERGED
        log_probs = _log_probs(problem, parameters, filled) if known else np.full(room, np.nan)
    log_probs = np.asarray(log_probs, float)[: len(distinct)]
    if np.isneginf(log_probs).any():
        row = np.flatnonzero((rows == distinct[log_probs.argmin()]).all(axis=1))[0]
        raise ValueError(f"row {row} of the data has probability 0, whatever is learned: tables hold -inf where it is")
    if status is Status.MAX_ITERATIONS and not np.isfinite(history).all():
        raise ValueError(
            "some rows of the data have probability 0, or drawing what they miss, one variable at a time, does not come to "
            "what tables with -inf leave possible"
        )
    return Fit(
        model=parameters,
        status=status,
        iterations=steps,
        log_prob=float(counts @ log_probs),
        history=history,
        restart_objectives=np.zeros(0),
        degenerate=np.zeros(0, bool),
        num_parameters=sum(leaf.size for leaf in jax.tree.leaves(parameters)),
        num_observations=len(rows),
    )


@jax.jit
def _log_probs(problem, parameters, rows):
    return problem.log_prob(parameters, rows)


# The exact likelihood


_ENDINGS = {
    quasi_newton.Ending.CONVERGED: Status.CONVERGED,
    quasi_newton.Ending.MAX_ITERATIONS: Status.MAX_ITERATIONS,
    quasi_newton.Ending.STALLED: Status.STALLED,
    quasi_newton.Ending.NOT_FINITE: Status.DIVERGED,
}


def _climb(problem, parameters, rows, weight, method, progress):
    dtype = jax.tree.leaves(parameters)[0].dtype
    limits = quasi_newton.Limits(method.max_iterations, method.tolerance, period=method.period)
    penalties = jnp.asarray(method.l1, dtype), jnp.asarray(method.l2, dtype)
    sizes = {"memory": method.memory, "size": bucket(method.max_iterations + 1)}
    with bars.bar("L-BFGS", total=method.max_iterations, enabled=progress) as token:
        found, log_probs, minimum = _exact_fit(
            problem, parameters, rows, np.asarray(weight, dtype), penalties, limits, token, **sizes
        )
    steps = int(minimum.iterations)
    status = _ENDINGS[quasi_newton.Ending(int(minimum.status))]
    return found, log_probs, status, steps, -np.asarray(minimum.history, float)[: steps + 1]


@partial(jax.jit, static_argnames=("memory", "size"))
def _exact_fit(problem, parameters, rows, weight, penalties, limits, token, *, memory, size):
    flat, back = ravel_pytree(parameters)
    counted = ravel_pytree(problem.penalised(parameters))[0]
    l1, l2 = penalties

    def loss(flat):
        return l2 * jnp.sum(counted * flat**2) - jnp.vdot(weight, problem.log_prob(back(flat), rows))

    def turn(search):
        search = quasi_newton.advance(jax.value_and_grad(loss), search, (), limits, l1=l1 * counted)
        bars.report(token, search.iterations, -search.value, last=search.status != quasi_newton.Ending.RUNNING)
        return search

    start = quasi_newton.begin(flat, memory=memory, history_size=size)
    found = lax.while_loop(lambda s: s.status == quasi_newton.Ending.RUNNING, turn, start).minimum()
    return back(found.x), problem.log_prob(back(found.x), rows), found


# Persistent contrastive divergence


class _State(NamedTuple):
    parameters: Any
    velocity: Any  # of the momentum if there is any, or the state of the caller's optimiser
    chains: Any  # (node, chain · temperature), the coldest copy of each chain last
    data: Any  # states of the last batch, (node, row)
    means: Any  # running means of the data's slopes
    step: Any


def _descend(problem, parameters, rows, method, key, progress):
    size = min(method.batch_size, len(rows))
    with bars.bar("PCD", total=method.epochs, enabled=progress) as token:
        found, history = _run(key, problem, parameters, rows, method, token, size=size, room=bucket(method.epochs))
    finite = all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
    status = Status.MAX_ITERATIONS if finite else Status.DIVERGED
    return found, status, method.epochs * -(-len(rows) // size), np.asarray(history, float)[: method.epochs]


@partial(jax.jit, static_argnames=("size", "room"))
def _run(key, problem, parameters, rows, method, token, *, size, room):
    dtype = jax.tree.leaves(parameters)[0].dtype
    steps = -(-len(rows) // size)
    for_rows, for_chains, for_epochs = jax.random.split(key, 3)
    whole = jnp.asarray(method.epochs * steps, dtype)

    def step(state, inputs):
        key, batch = inputs
        one, two = jax.random.split(key)
        form = problem.form(state.parameters)
        chains = _advance(two, problem, form, state.chains, method)
        state = state._replace(chains=chains, data=problem.complete(one, form, rows[batch]), step=state.step + 1)
        data = problem.slopes(form, state.data)
        model = problem.slopes(form, chains.reshape(len(chains), -1, method.temperatures)[:, :, -1])
        means = jax.tree.map(lambda old, new: old + MEAN_RATE * (new - old), state.means, data)
        gradient = jax.tree.map(jnp.subtract, data, model)
        return _follow(problem, state._replace(means=means), gradient, method, whole), None

    def epoch(number, carry):
        state, history = carry
        order, keys = jax.random.split(jax.random.fold_in(for_epochs, number))
        batches = jnp.resize(jax.random.permutation(order, len(rows)), (steps, size))
        state, _ = lax.scan(step, state, (jax.random.split(keys, steps), batches))
        score = problem.pseudo_log_prob(problem.form(state.parameters), state.data)
        bars.report(token, number + 1, score)
        return state, history.at[number].set(score)

    form = problem.form(parameters)
    count = method.chains * method.temperatures
    chains = problem.complete(for_chains, form, rows[jax.random.randint(for_rows, (count,), 0, len(rows))])
    still = None if method.momentum is None else jax.tree.map(jnp.zeros_like, parameters)
    inner = still if method.optimiser is None else method.optimiser.init(parameters)
    blank = jnp.zeros((len(chains), size), chains.dtype)
    start = _State(parameters, inner, chains, blank, problem.slopes(form, chains), jnp.zeros((), jnp.int32))
    state, history = lax.fori_loop(0, method.epochs, epoch, (start, jnp.full(room, jnp.nan, dtype)))
    return state.parameters, history


def _advance(key, problem, form, chains, method):
    """Sweep all copies of all chains; where there are several temperatures, exchange neighbours after each sweep."""
    nodes, levels = len(chains), method.temperatures
    dtype = jnp.result_type(*(x for x in jax.tree.leaves(form) if jnp.issubdtype(x.dtype, jnp.floating)))
    ladder = jnp.linspace(0, 1, levels, dtype=dtype) if levels > 1 else jnp.ones(1, dtype)
    betas = jnp.tile(ladder, method.chains) if levels > 1 else jnp.ones((), dtype)

    def turn(number, chains):
        moves, dice = jax.random.split(jax.random.fold_in(key, number))
        chains = problem.sweep(moves, chains, form, betas)
        if levels == 1:
            return chains
        score = form.score(chains).reshape(-1, levels)
        return tempering.exchange(dice, chains.reshape(nodes, -1, levels), score, ladder)[0].reshape(nodes, -1)

    return lax.fori_loop(0, method.sweeps, turn, chains)


def _follow(problem, state, gradient, method, whole):
    """One step uphill."""
    dtype = whole.dtype
    slope = problem.centred(gradient, state.means) if method.centred else gradient
    pull = jax.tree.map(jnp.multiply, problem.penalised(state.parameters), state.parameters)
    slope = jax.tree.map(lambda g, p: g - jnp.asarray(method.l2, dtype) * p, slope, pull)
    if method.optimiser is None:
        share = (state.step - 1).astype(dtype) / whole
        rate = jnp.asarray(method.learning_rate, dtype) * (1 - (1 - jnp.asarray(method.decay, dtype)) * share)
        velocity, along = None, slope
        if method.momentum is not None:
            momentum = jnp.asarray(method.momentum, dtype)
            velocity = along = jax.tree.map(lambda v, g: momentum * v + g, state.velocity, along)
        update = jax.tree.map(lambda v: rate * v, along)
    else:
        with jax.numpy_dtype_promotion("standard"):
            down = jax.tree.map(jnp.negative, slope)
            update, velocity = method.optimiser.update(down, state.velocity, state.parameters)
    if method.centred:
        update = problem.uncentred(update, state.means)
    return state._replace(parameters=jax.tree.map(jnp.add, state.parameters, update), velocity=velocity)
