"""Compiled work of Boltzmann machines: drawing, completing, annealing, log Z between bounds."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp

from ...forms.pairwise import Pairwise
from ...graphs.couplings import Couplings
from ...inference import annealing, gibbs, packed_lattice, tempering
from ...inference.mean_field import MeanField, mean_field


@partial(jax.jit, static_argnames="spins")
def form(couplings: Couplings, bias, weights, constant, *, spins: bool) -> Pairwise:
    """The form of a machine, in one program."""
    return couplings.form(bias, weights, constant, spins=spins)


@jax.jit
def energy(form: Pairwise, rows, order):
    """Energy of each row, in the caller's order of nodes."""
    return form.energy(rows[:, order].T)


@partial(jax.jit, static_argnames=("count", "single"))
def fresh(key, form: Pairwise, rank, count: int, sweeps, beta, clamp, given, *, single: bool):
    """Chains after some sweeps from a random start, (chain, node), or (node,) of a single one; `rank` orders the nodes."""
    start, draw = jax.random.split(key)
    state = gibbs.random_state(start, form, count, given=given, clamp=clamp)
    drawn = gibbs.run(draw, state, form, sweeps, beta, clamp)[rank].T
    return drawn[0] if single else drawn


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


@partial(jax.jit, static_argnames=("count", "early", "records"))
def temper(
    key, couplings: Couplings, form: Pairwise, betas, count: int, early: int, records: int, thin
) -> tempering.Tempering:
    """Parallel tempering from random states: records (record, chain, node), and states in the caller's order of nodes.

    The first `early` records are left out.
    """
    start, draw = jax.random.split(key)
    state = tempering.start(start, form, count, len(betas))
    found = tempering.parallel_tempering(draw, state, form, betas, early + records, thin)
    rows = jnp.swapaxes(found.records[early:, couplings.rank], 1, 2)
    return tempering.Tempering(rows, found.states[couplings.rank], found.swap_rates)


@jax.jit
def independent(couplings: Couplings, form: Pairwise, means, clamp) -> MeanField:
    """Mean field from some means on, what it finds in the caller's order of nodes."""
    found = mean_field(means, form, 1.0, clamp)
    return eqx.tree_at(lambda f: f.means, found, found.means[couplings.rank])


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
