"""Deterministic descent on the energies of associative memories, in one compiled loop for many states at once.

Binary states are columns, [unit, probe] with entries ±1. One unit after the other takes the value of lower energy, and
keeps its own where both are as good: the energy never rises, so that the walk ends in a state that no single flip
improves. All units at once (`synchronous`) may end in a pair of states that follow each other instead (Goles 1985).

Fields are compared with the rounding error that they carry, not with zero: a tie stays a tie in float32.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Key

from ..forms.products import product


class Walk(NamedTuple):
    """Where each probe ended.

    Attributes:
        states: the last states.
        sweeps: how many sweeps changed anything.
        settled: whether a sweep changed nothing.
        cycling: whether the last two states follow each other for ever.
        energies: the energy before the first sweep and after each; it stays as it is after the last.
    """

    states: Float[Array, "unit probe"]
    sweeps: Int[Array, " probe"]
    settled: Bool[Array, " probe"]
    cycling: Bool[Array, " probe"]
    energies: Float[Array, "sweep probe"]


def pairwise_energy(couplings, biases, states: Float[Array, "unit probe"]) -> Float[Array, " probe"]:
    """E(s) = −½ sᵀ W s − b·s."""
    return -(states * (product(couplings, states) / 2 + biases[:, None])).sum(0)


@partial(jax.jit, static_argnames="max_sweeps")
def asynchronous(
    couplings: Float[Array, "unit unit"],
    biases: Float[Array, " unit"],
    states: Float[Array, "unit probe"],
    key: Key[Array, ""] | None,
    *,
    max_sweeps: int,
) -> Walk:
    """Sweep over the units, one by one, in the order 0 … N−1 or, with a key, in a new random order each sweep."""
    slack = jnp.finfo(couplings.dtype).eps * (jnp.abs(couplings).sum(1) + jnp.abs(biases))

    def update(unit, states):
        field = product(couplings[unit], states) + biases[unit]
        now = states[unit]
        return states.at[unit].set(jnp.where(now * field < -slack[unit], -now, now))

    def sweep(order, states):
        return lax.fori_loop(0, len(order), lambda step, states: update(order[step], states), states)

    return _settle(sweep, partial(pairwise_energy, couplings, biases), states, key, max_sweeps)


@partial(jax.jit, static_argnames="max_sweeps")
def synchronous(couplings, biases, states: Float[Array, "unit probe"], *, max_sweeps: int) -> Walk:
    """Update all units at once: s ← sign(W s + b), where a unit without a field keeps its value."""
    slack = jnp.finfo(couplings.dtype).eps * (jnp.abs(couplings).sum(1) + jnp.abs(biases))

    def sweep(_, states):
        field = product(couplings, states) + biases[:, None]
        return jnp.where(states * field < -slack[:, None], -states, states)

    return _settle(sweep, partial(pairwise_energy, couplings, biases), states, None, max_sweeps)


@partial(jax.jit, static_argnames="max_sweeps")
def dense(
    interaction: Callable,
    patterns: Float[Array, "pattern unit"],
    states,
    key: Key[Array, ""] | None,
    *,
    max_sweeps: int,
) -> Walk:
    """Sweep over the units of a dense memory, whose energy is a function of the overlaps ξ·s alone.

    Args:
        interaction: a pytree with `energy(overlaps, num_units)`, from overlaps [pattern, probe] to energies [probe].
        patterns: entries ±1.
        states: entries ±1, [unit, probe].
        key: as in `asynchronous`.
        max_sweeps: how many sweeps at most.
    """
    num_units = patterns.shape[1]
    tolerance = 4 * jnp.finfo(patterns.dtype).eps

    def energy(states):
        return interaction.energy(product(patterns, states), num_units)

    def update(unit, carry):
        states, overlaps = carry
        now = states[unit]
        turned = overlaps - 2 * jnp.outer(patterns[:, unit], now)
        here, there = interaction.energy(overlaps, num_units), interaction.energy(turned, num_units)
        turns = there < here - tolerance * jnp.abs(here)
        return states.at[unit].set(jnp.where(turns, -now, now)), jnp.where(turns, turned, overlaps)

    def sweep(order, states):  # overlaps are whole numbers, so that adding to them rounds nothing
        start = states, product(patterns, states)
        return lax.fori_loop(0, num_units, lambda step, carry: update(order[step], carry), start)[0]

    return _settle(sweep, energy, states, key, max_sweeps)


def _settle(sweep: Callable, energy: Callable, states, key, max_sweeps: int) -> Walk:
    """Sweep until no probe changes, or all that do go in circles of two."""
    num_units, num_probes = states.shape

    def body(carry):
        step, before, now, sweeps, _, _, energies = carry
        order = jnp.arange(num_units)
        if key is not None:
            order = jax.random.permutation(jax.random.fold_in(key, step), order)
        after = sweep(order, now)
        settled = (after == now).all(0)
        # random orders differ from sweep to sweep, so that only a fixed way of sweeping can be caught in a circle
        cycling = ~settled & (after == before).all(0) & (step > 0) if key is None else jnp.zeros(num_probes, bool)
        sweeps = sweeps + (~settled).astype(jnp.int32)
        return step + 1, now, after, sweeps, settled, cycling, energies.at[step + 1].set(energy(after))

    def goes_on(carry):
        step, _, _, _, settled, cycling, _ = carry
        return (step < max_sweeps) & ~(settled | cycling).all()

    first = energy(states)
    energies = jnp.zeros((max_sweeps + 1, num_probes), first.dtype).at[0].set(first)
    nothing = jnp.zeros(num_probes, bool)
    start = (jnp.zeros((), jnp.int32), states, states, jnp.zeros(num_probes, jnp.int32), nothing, nothing, energies)
    steps, _, states, sweeps, settled, cycling, energies = lax.while_loop(goes_on, body, start)
    done = jnp.arange(max_sweeps + 1)[:, None] <= steps
    return Walk(states, sweeps, settled, cycling, jnp.where(done, energies, energies[steps]))
