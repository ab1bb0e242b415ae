"""Compiled work of Boltzmann machines: drawing, completing, log Z, and fits by the exact likelihood or by PCD.

The gradient of log p(v) is a difference of means, for w_ij that of x_i x_j and for b_i that of x_i,

    ∂/∂w_ij = ⟨x_i x_j⟩_data − ⟨x_i x_j⟩_machine.

On the data's side hidden nodes are drawn given the visible ones, on the machine's side persistent chains are (Tieleman
2008). With `centred`, a step is taken in x − μ for the running means μ, and then told in the machine's own parameters:

    ∇w' = ∇w − ∇b_i μ_j − μ_i ∇b_j,    Δw = η ∇w',    Δb_i = η ∇b_i − Σ_j Δw_ij μ_j   (Melchior et al. 2016).
"""

from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.flatten_util import ravel_pytree

from ...forms.pairwise import Pairwise
from ...forms.sequences import bucket
from ...graphs.couplings import Couplings
from ...inference import annealing, gibbs, packed_lattice, tempering
from ...learning import progress as bars
from ...learning import quasi_newton
from ...learning.contrastive import PCD
from ...learning.fit import Fit, Status
from ...learning.gradient import LBFGS
from . import exact
from .data import as_rows

POSITIVE_SWEEPS = 10  # of hidden nodes given a row of data, from a random start
_FEWEST = 64  # rows that the exact likelihood is compiled for at least
MEAN_RATE = 0.01  # share of a batch's mean in the running means


@partial(jax.jit, static_argnames="spins")
def form(couplings: Couplings, bias, weights, constant, *, spins: bool) -> Pairwise:
    """The form of a machine, in one program."""
    return couplings.form(bias, weights, constant, spins=spins)


@jax.jit
def energy(form: Pairwise, state):
    """Energy of each column."""
    return form.energy(state)


@partial(jax.jit, static_argnames="count")
def fresh(key, form: Pairwise, count: int, sweeps, beta, clamp, given):
    """Chains after some sweeps from a random start."""
    start, draw = jax.random.split(key)
    state = gibbs.random_state(start, form, count, given=given, clamp=clamp)
    return gibbs.run(draw, state, form, sweeps, beta, clamp)


@partial(jax.jit, static_argnames=("count", "single"))
def on_lattice(key, model: Pairwise, rank, count: int, sweeps, beta, *, single: bool):
    """As `fresh`, for a lattice whose sites all have one weight and one bias; `rank` is the site of each node."""
    start, draw = jax.random.split(key)
    words = packed_lattice.random_words(start, model, -(-count // packed_lattice.WORD))
    words = packed_lattice.run(draw, words, model, sweeps, beta)
    state = packed_lattice.unpack(words, model)[rank].T
    return state[0] if single else state[:count]


@jax.jit
def complete(key, form: Pairwise, values, known, shown, sweeps):
    """Visible values (row, visible), those that are not known drawn given the known ones."""
    start, draw = jax.random.split(key)
    state = gibbs.random_state(start, form, len(values))
    mine = shown[: values.shape[1]]
    clamp = jnp.zeros(state.shape, bool).at[mine].set(known.T)
    state = jnp.where(clamp, jnp.zeros_like(state).at[mine].set(values.T), state)
    return gibbs.run(draw, state, form, sweeps, 1.0, clamp)[mine].T


@partial(jax.jit, static_argnames="count")
def anneal(key, couplings: Couplings, form: Pairwise, count: int, betas, clamp, given) -> tempering.Annealing:
    """Simulated annealing from random states; what it finds in the caller's order of nodes."""
    start, draw = jax.random.split(key)
    state = gibbs.random_state(start, form, count, given=given, clamp=clamp)
    found = tempering.simulated_annealing(draw, state, form, betas, clamp)
    return tempering.Annealing(found.states[couplings.rank], found.energies)


@partial(jax.jit, static_argnames=("count", "records"))
def temper(key, couplings: Couplings, form: Pairwise, betas, count: int, records: int, thin) -> tempering.Tempering:
    """Parallel tempering from random states: records (record, chain, node), and states in the caller's order of nodes."""
    start, draw = jax.random.split(key)
    state = tempering.start(start, form, count, len(betas))
    found = tempering.parallel_tempering(draw, state, form, betas, records, thin)
    rows = jnp.swapaxes(found.records[:, couplings.rank], 1, 2)
    return tempering.Tempering(rows, found.states[couplings.rank], found.swap_rates)


@partial(jax.jit, static_argnames="chains")
def sandwich(key, form: Pairwise, chains: int, betas, burn) -> annealing.Sandwich:
    """Log Z between two stochastic bounds; at β = 0 all nodes are fair coins."""
    first, second, third, walk = jax.random.split(key, 4)
    start = gibbs.random_state(first, form, chains)
    end = gibbs.run(third, gibbs.random_state(second, form, chains), form, burn)
    return annealing.sandwich(
        walk,
        start,
        end,
        lambda key, state, beta: gibbs.sweep(key, state, form, beta),
        lambda state, beta: beta * form.score(state),
        betas,
        log_partition=form.num_nodes * jnp.log(jnp.asarray(2.0, betas.dtype)),
        log_ratio=lambda state, before, after: (after - before) * form.score(state),
    )


def fit(machine, data, method: Any, key, *, progress: bool) -> Fit:
    """Fit a machine; see `BoltzmannMachine.fit`."""
    tiny = machine.num_nodes <= exact.MOST
    if method is None:
        method = LBFGS() if tiny else PCD()
    if not isinstance(method, LBFGS | PCD):
        raise ValueError(f"a Boltzmann machine is fitted by LBFGS() or PCD(), not by {type(method).__name__}")
    rows = as_rows(np.atleast_2d(data), len(machine.visible), machine.states, "visible nodes")[0]
    if not len(rows):
        raise ValueError("there are no rows to fit to")
    if isinstance(method, LBFGS):
        machine._tiny("the exact likelihood")
        return _climb(machine, rows, method, progress)
    if key is None:
        raise ValueError("PCD draws samples: give fit a key=jax.random.key(…)")
    for name, neutral in (("fast_rate", None), ("temperatures", 1), ("sparsity_cost", 0.0)):
        if getattr(method, name) != neutral:
            raise ValueError(f"PCD: {name} is {getattr(method, name)}, which machines on graphs do not know; RBM does")
    return _descend(machine, rows, method, key, progress)


def _outcome(machine, rows, status, iterations, history, log_prob) -> Fit:
    return Fit(
        model=machine,
        status=status,
        iterations=iterations,
        log_prob=log_prob,
        history=history,
        restart_objectives=np.zeros(0),
        degenerate=np.zeros(machine.num_nodes, bool),
        num_parameters=machine.bias.size + machine.weights.size,
        num_observations=len(rows),
    )


# The exact likelihood


_ENDINGS = {
    quasi_newton.Ending.CONVERGED: Status.CONVERGED,
    quasi_newton.Ending.MAX_ITERATIONS: Status.MAX_ITERATIONS,
    quasi_newton.Ending.STALLED: Status.STALLED,
    quasi_newton.Ending.NOT_FINITE: Status.DIVERGED,
}


def _climb(machine, rows, method, progress) -> Fit:
    distinct, counts = np.unique(np.asarray(rows), axis=0, return_counts=True)
    # as many rows for all data of a machine that is small, and few numbers of them else: other data compile nothing
    room = min(max(_FEWEST, 1 << (len(distinct) - 1).bit_length()), 1 << distinct.shape[1])
    filled = np.concatenate([distinct, np.repeat(distinct[:1], room - len(distinct), axis=0)])
    weights_of = np.concatenate([counts, np.zeros(room - len(distinct))])
    limits = quasi_newton.Limits(method.max_iterations, method.tolerance, period=method.period)
    with bars.bar("L-BFGS", total=method.max_iterations, enabled=progress) as token:
        bias, weights, found = _exact_fit(
            machine.couplings,
            (machine.bias, machine.weights),
            filled,
            jnp.asarray(weights_of, machine.bias.dtype),
            machine._shown(),
            (jnp.asarray(method.l1, machine.bias.dtype), jnp.asarray(method.l2, machine.bias.dtype)),
            limits,
            token,
            spins=machine.states[0] < 0,
            memory=method.memory,
            size=bucket(method.max_iterations + 1),
        )
    fitted = eqx.tree_at(lambda m: (m.bias, m.weights), machine, (bias, weights))
    log_prob = float(np.asarray(counts) @ np.asarray(fitted.log_prob(distinct), float))
    steps = int(found.iterations)
    history = -np.asarray(found.history, float)[: steps + 1]
    return _outcome(fitted, rows, _ENDINGS[quasi_newton.Ending(int(found.status))], steps, history, log_prob)


@partial(jax.jit, static_argnames=("spins", "memory", "size"))
def _exact_fit(couplings, parameters, rows, counts, shown, penalties, limits, token, *, spins, memory, size):
    flat, back = ravel_pytree(parameters)
    l1, l2 = penalties

    def loss(flat):
        bias, weights = back(flat)
        model = couplings.form(bias, weights, spins=spins)
        return l2 * jnp.sum(weights**2) - jnp.vdot(counts, exact.log_prob(model, rows, shown))

    def turn(search):
        search = quasi_newton.advance(jax.value_and_grad(loss), search, (), limits, l1=each)
        bars.report(token, search.iterations, -search.value, last=search.status != quasi_newton.Ending.RUNNING)
        return search

    each = l1 * ravel_pytree((jnp.zeros_like(parameters[0]), jnp.ones_like(parameters[1])))[0]  # of weights alone
    start = quasi_newton.begin(flat, memory=memory, history_size=size)
    found = lax.while_loop(lambda s: s.status == quasi_newton.Ending.RUNNING, turn, start).minimum()
    return *back(found.x), found


# Persistent contrastive divergence


class _State(NamedTuple):
    parameters: Any  # bias, weights
    velocity: Any  # of the momentum if there is any, or the state of the caller's optimiser
    chains: Any
    means: Any  # running means μ of all nodes
    step: Any


def _descend(machine, rows, method, key, progress) -> Fit:
    size = min(method.batch_size, len(rows))
    with bars.bar("PCD", total=method.epochs, enabled=progress) as token:
        (bias, weights), history = _run(
            key,
            machine.couplings,
            (machine.bias, machine.weights),
            rows,
            machine._shown(),
            method,
            token,
            spins=machine.states[0] < 0,
            size=size,
            room=bucket(method.epochs),
        )
    fitted = eqx.tree_at(lambda m: (m.bias, m.weights), machine, (bias, weights))
    finite = bool(jnp.isfinite(bias).all() & jnp.isfinite(weights).all())
    known = finite and machine.num_nodes <= exact.MOST
    log_prob = float(np.sum(np.asarray(fitted.log_prob(rows), float))) if known else float("nan")
    steps = method.epochs * -(-len(rows) // size)
    status = Status.MAX_ITERATIONS if finite else Status.DIVERGED
    return _outcome(fitted, rows, status, steps, np.asarray(history, float)[: method.epochs], log_prob)


@partial(jax.jit, static_argnames=("spins", "size", "room"))
def _run(key, couplings, parameters, rows, shown, method, token, *, spins, size, room):
    dtype = parameters[0].dtype
    steps = -(-len(rows) // size)
    for_means, for_chains, for_epochs = jax.random.split(key, 3)
    visible = rows.shape[1]
    build = partial(couplings.form, spins=spins)
    whole = jnp.asarray(method.epochs * steps, dtype)

    def positive(key, model, batch):
        state = jnp.zeros((couplings.num_nodes, size), jnp.int8).at[shown[:visible]].set(batch.T)
        if visible == couplings.num_nodes:
            return state
        clamp = jnp.zeros((couplings.num_nodes, 1), bool).at[shown[:visible]].set(True)
        start, draw = jax.random.split(key)
        state = gibbs.random_state(start, model, size, given=state, clamp=clamp)
        return gibbs.run(draw, state, model, POSITIVE_SWEEPS, 1.0, clamp)

    def moments(state):
        x = state.astype(dtype)
        return x.mean(axis=1)[couplings.rank], couplings.pair_means(x)

    def step(state, inputs):
        key, batch = inputs
        one, two = jax.random.split(key)
        model = build(*state.parameters)
        data = positive(one, model, rows[batch])
        chains = gibbs.run(two, state.chains, model, method.sweeps)
        (mean, pairs), (mean_model, pairs_model) = moments(data), moments(chains)
        gradient = mean - mean_model, pairs - pairs_model
        means = state.means + MEAN_RATE * (mean - state.means)
        new = _follow(couplings, state._replace(means=means), gradient, method, whole)
        return new._replace(chains=chains, step=state.step + 1), None

    def epoch(number, carry):
        state, history = carry
        order, keys, last = jax.random.split(jax.random.fold_in(for_epochs, number), 3)
        batches = jnp.resize(jax.random.permutation(order, len(rows)), (steps, size))
        state, _ = lax.scan(step, state, (jax.random.split(keys, steps), batches))
        model = build(*state.parameters)
        score = _pseudo(model, positive(last, model, rows[batches[-1]]))
        bars.report(token, number + 1, score)
        return state, history.at[number].set(score)

    model = build(*parameters)
    means = positive(for_means, model, jnp.resize(rows, (size, visible))).astype(dtype).mean(axis=1)[couplings.rank]
    solver = method.optimiser
    still = None if method.momentum is None else jax.tree.map(jnp.zeros_like, parameters)
    inner = still if solver is None else solver.init(parameters)
    chains = gibbs.random_state(for_chains, model, method.chains)
    start = _State(parameters, inner, chains, means, jnp.zeros((), jnp.int32))
    state, history = lax.fori_loop(0, method.epochs, epoch, (start, jnp.full(room, jnp.nan, dtype)))
    return state.parameters, history


def _follow(couplings, state, gradient, method, whole):
    """One step uphill."""
    bias, weights = state.parameters
    for_bias, for_weights = gradient
    first, second = couplings.ends
    dtype = bias.dtype
    if method.centred:
        means = state.means
        for_weights = for_weights - for_bias[first] * means[second] - means[first] * for_bias[second]
    for_weights = for_weights - jnp.asarray(method.l2, dtype) * weights
    if method.optimiser is None:
        share = state.step.astype(dtype) / whole
        rate = jnp.asarray(method.learning_rate, dtype) * (1 - (1 - jnp.asarray(method.decay, dtype)) * share)
        velocity, along = None, (for_bias, for_weights)
        if method.momentum is not None:
            momentum = jnp.asarray(method.momentum, dtype)
            velocity = along = jax.tree.map(lambda v, g: momentum * v + g, state.velocity, along)
        update = jax.tree.map(lambda v: rate * v, along)
    else:
        with jax.numpy_dtype_promotion("standard"):
            down = jax.tree.map(jnp.negative, (for_bias, for_weights))
            update, velocity = method.optimiser.update(down, state.velocity, state.parameters)
    by_bias, by_weights = update
    if method.centred:
        means = state.means
        by_bias = by_bias.at[first].add(-by_weights * means[second]).at[second].add(-by_weights * means[first])
    return state._replace(parameters=(bias + by_bias, weights + by_weights), velocity=velocity)


def _pseudo(model, state):
    """Mean over chains of Σ_i log p(x_i | all others)."""
    fields = model.fields(state)
    if model.spins:
        return jnp.mean(jnp.sum(jax.nn.log_sigmoid(2 * fields * state.astype(fields.dtype)), axis=0))
    return jnp.mean(jnp.sum(jax.nn.log_sigmoid(fields * (2 * state - 1).astype(fields.dtype)), axis=0))
