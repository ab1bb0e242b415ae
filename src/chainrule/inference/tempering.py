"""Temperatures that help: simulated annealing to low energies, and parallel tempering between its modes.

Simulated annealing sweeps while β rises, and keeps the best state each chain has met (Kirkpatrick, Gelatt and Vecchi 1983).

Parallel tempering runs a copy of each chain at every β of a ladder and lets neighbours on it exchange states with

    p(exchange) = min(1, exp((β_k − β_{k+1}) (score_{k+1} − score_k))),

which leaves the product of all p^β as it is (Geyer 1991; Hukushima and Nemoto 1996). Where copies at low β move freely,
those at high β come to modes they would never reach by themselves. An exchange rate near 0 says where the ladder has a gap.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Key

from ..forms.pairwise import Pairwise
from . import gibbs


class Annealing(eqx.Module):
    """What simulated annealing has found.

    Attributes:
        states: the best state of each chain, shape (node, chain), in the form's numbering.
        energies: its energy, shape (chain,).
    """

    states: Int[Array, "node chain"]
    energies: Float[Array, " chain"]

    @property
    def best(self) -> Int[Array, " node"]:
        """The state of lowest energy."""
        return _best(self.states, self.energies)

    def __repr__(self):
        return f"Annealing({self.states.shape[1]} chains, lowest energy {float(self.energies.min()):.6g})"


@jax.jit
def _best(states, energies):
    return states[:, jnp.argmin(energies)]


@jax.jit
def simulated_annealing(
    key: Key[Array, ""], state: Int[Array, "node chain"], model: Pairwise, betas: Float[Array, " sweep"], clamp=None
) -> Annealing:
    """Sweep once at each β, all chains side by side.

    Args:
        key: random key of any implementation.
        state: where the chains begin.
        model: whose energy is to be low.
        betas: inverse temperatures in order, such as `jnp.geomspace(0.1, 10, 1000)`.
        clamp: true where a node keeps its value, shape (node, chain) or (node, 1).

    Example:
        >>> import jax, jax.numpy as jnp, chainrule as cr
        >>> from chainrule.forms.layouts import Lattice
        >>> from chainrule.inference import gibbs, tempering
        >>> model = cr.Pairwise(jnp.array(0.1), Lattice(1.0, 4, 4), spins=True)
        >>> state = gibbs.random_state(jax.random.key(0), model, num_chains=4)
        >>> tempering.simulated_annealing(jax.random.key(1), state, model, jnp.linspace(0.1, 2.0, 60)).best.sum().item()
        16
    """
    gibbs.check_state(state, model)

    def step(carry, inputs):
        state, best, lowest = carry
        key, beta = inputs
        state = gibbs.sweep(key, state, model, beta, clamp)
        energy = model.energy(state)
        better = energy < lowest
        return (state, jnp.where(better[None], state, best), jnp.where(better, energy, lowest)), None

    start = (state, state, model.energy(state))
    (_, best, lowest), _ = lax.scan(step, start, (jax.random.split(key, len(betas)), betas))
    return Annealing(best, lowest)


class Tempering(eqx.Module):
    """What parallel tempering has found.

    Attributes:
        records: the statistic of the copies at the last β, with an axis of samples in front.
        states: all copies at the end, shape (node, chain, β).
        swap_rates: share of exchanges between neighbouring β that took place, shape (β − 1,).
    """

    records: Any
    states: Int[Array, "node chain beta"]
    swap_rates: Float[Array, " gap"]

    def __repr__(self):
        rates = f"{float(self.swap_rates.min()):.2g} to {float(self.swap_rates.max()):.2g}"
        return f"Tempering({self.states.shape[2]} temperatures, swap rates {rates})"


def start(key: Key[Array, ""], model: Pairwise, num_chains: int, num_betas: int) -> Int[Array, "node chain beta"]:
    """Random states to begin with."""
    return gibbs.random_state(key, model, num_chains * num_betas).reshape(model.num_nodes, num_chains, num_betas)


def exchange(
    key: Key[Array, ""],
    state: Int[Array, "node chain beta"],
    score: Float[Array, "chain beta"],
    betas: Float[Array, " beta"],
) -> tuple[Int[Array, "node chain beta"], Bool[Array, "chain gap"]]:
    """Let each pair of neighbouring levels exchange states once, first the even pairs and then the odd ones.

    A pure function for use inside `jax.jit` and loops, for states of any form.

    Args:
        key: random key.
        state: copies of every chain at every β.
        score: the score of each of them, at β = 1.
        betas: the ladder.

    Returns:
        The states after it, and which pairs have exchanged.
    """
    levels = len(betas)

    def ask(log_dice, score, place, parity):
        """Of pairs (0, 1), (2, 3), … or (1, 2), (3, 4), … those that exchange: scores and places after it."""
        log_accept = (betas[:-1] - betas[1:])[None] * (score[:, 1:] - score[:, :-1])
        swap = (log_dice < log_accept) & (jnp.arange(levels - 1) % 2 == parity)[None]
        level = jnp.arange(levels, dtype=place.dtype)[None]
        up = jnp.pad(swap, ((0, 0), (0, 1)))  # a level takes the state of the one above it
        down = jnp.pad(swap, ((0, 0), (1, 0)))
        source = level + up.astype(level.dtype) - down.astype(level.dtype)
        return jnp.take_along_axis(score, source, axis=1), jnp.take_along_axis(place, source, axis=1), swap

    place = jnp.broadcast_to(jnp.arange(levels, dtype=jnp.int32)[None], score.shape)
    log_dice = jnp.log(gibbs.uniform(key, (len(score), levels - 1), score.dtype))  # each pair is asked once
    score, place, even = ask(log_dice, score, place, 0)
    _, place, odd = ask(log_dice, score, place, 1)
    return jnp.take_along_axis(state, place[None], axis=2), even | odd


@partial(jax.jit, static_argnames=("num_samples", "statistic"))
def parallel_tempering(
    key: Key[Array, ""],
    state: Int[Array, "node chain beta"],
    model: Pairwise,
    betas: Float[Array, " beta"],
    num_samples: int,
    thin: int | Int[Array, ""] = 1,
    *,
    statistic: Callable[[Pairwise, Array], Any] = gibbs.state_itself,
) -> Tempering:
    """Sweep all copies, exchange neighbours, and record a statistic of those at the last β.

    Args:
        key: random key of any implementation.
        state: copies of every chain at every β, as `start` makes them.
        model: what to draw from.
        betas: the ladder, rising; its last entry is the one that is recorded, mostly 1.
        num_samples: how often to record.
        thin: sweeps before every record; after each all pairs of neighbours are asked, first the even and then the odd.
        statistic: what to record of the copies at the last β, a function of model and state (node, chain); keep the
            object, since a new one is compiled anew.

    Raises:
        ValueError: fewer than two levels, or states of another number of them or of nodes.

    Example:
        >>> import jax, jax.numpy as jnp, chainrule as cr
        >>> from chainrule.forms.layouts import Dense
        >>> from chainrule.inference import tempering
        >>> model = cr.Pairwise(jnp.zeros(2), Dense(jnp.array([[0.0, 3.0], [3.0, 0.0]])), spins=True)
        >>> state = tempering.start(jax.random.key(0), model, num_chains=4, num_betas=3)
        >>> found = tempering.parallel_tempering(jax.random.key(1), state, model, jnp.array([0.0, 0.3, 1.0]), 5)
        >>> found.records.shape, found.swap_rates.shape
        ((5, 2, 4), (2,))
    """
    if state.ndim != 3 or state.shape[0] != model.num_nodes:
        raise ValueError(f"state has shape {state.shape}; {model!r} asks for ({model.num_nodes}, chains, levels)")
    nodes, chains, levels = state.shape
    if betas.shape != (levels,) or levels < 2:
        raise ValueError(f"betas has shape {betas.shape} for {levels} levels of states; wanted as many, at least two")
    ladder = jnp.tile(betas, chains)  # of each column of the flat state

    def turn(_, carry):
        state, swaps, key = carry
        key, moves, dice = jax.random.split(key, 3)
        flat = gibbs.sweep(moves, state.reshape(nodes, -1), model, ladder)
        state, swapped = exchange(dice, flat.reshape(state.shape), model.score(flat).reshape(chains, levels), betas)
        return state, swaps + swapped.sum(axis=0, dtype=swaps.dtype), key

    def record(carry, _):
        carry = lax.fori_loop(0, thin, turn, carry)
        return carry, statistic(model, carry[0][:, :, -1])

    none = jnp.zeros(levels - 1, betas.dtype)
    (state, swaps, _), records = lax.scan(record, (state, none, key), length=num_samples)
    return Tempering(records, state, swaps / (num_samples * thin * chains))
