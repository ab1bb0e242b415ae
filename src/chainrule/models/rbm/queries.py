"""Answers about rows of data, and draws: one compiled program each, for all weights, temperatures and data of a shape."""

from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ...forms.chain import is_concrete
from ..masks import as_known
from . import engine
from .data import as_rows, columns, spread


@jax.jit
def free_energy(machine, values, observed):
    """F(v), by row."""
    observed = spread(machine, observed)
    return engine.free_energy(machine, engine.keep(columns(machine, values), observed), observed)


@jax.jit
def energy(machine, values, observed, hidden):
    """E(v, h), by row."""
    observed = spread(machine, observed)
    return engine.energy(machine, engine.keep(columns(machine, values), observed), hidden, observed)


@jax.jit
def features(machine, values, observed):
    """E[h | v]."""
    x = engine.keep(columns(machine, values), spread(machine, observed))
    return machine.hidden.mean(machine.hidden_bias[None], engine.hidden_drive(machine, x))


@jax.jit
def tempered(machine, temperature):
    """The machine at another temperature."""
    temperature = jnp.asarray(temperature, machine.dtype)
    visible, visible_factor, visible_scale = machine.visible.tempered(temperature)
    hidden, hidden_factor, hidden_scale = machine.hidden.tempered(temperature)
    return eqx.tree_at(
        lambda m: (m.weights, m.visible_bias, m.hidden_bias, m.visible, m.hidden),
        machine,
        (
            machine.weights * (visible_scale * hidden_scale / temperature),
            machine.visible_bias * visible_factor,
            machine.hidden_bias * hidden_factor,
            visible,
            hidden,
        ),
    )


@partial(jax.jit, static_argnames="num_samples")
def sample(machine, key, sweeps, temperature, *, num_samples: int):
    """Draws of chains whose couplings are turned up during the first half of their sweeps."""
    machine = tempered(machine, temperature)
    base = machine.visible_bias
    half = jnp.maximum(sweeps // 2, 1).astype(machine.dtype)

    def body(i, x):
        beta = jnp.minimum((i + 1).astype(x.dtype) / half, 1)
        return engine.sweep_at(machine, jax.random.fold_in(key, i + 1), base, beta, x)

    uniform, _ = engine.uniforms(machine, jax.random.fold_in(key, 0), num_samples)
    return machine.visible.decode(lax.fori_loop(0, sweeps, body, engine.sample_base(machine, uniform, base)))


@jax.jit
def sample_from(machine, key, values, sweeps, temperature):
    """Draws of chains that start at rows of data."""
    machine = tempered(machine, temperature)

    def body(i, x):
        return engine.sweep_at(machine, jax.random.fold_in(key, i), machine.visible_bias, 1.0, x)

    return machine.visible.decode(lax.fori_loop(0, sweeps, body, columns(machine, values)))


def check_temperature(temperature) -> None:
    """Raise a ValueError for a temperature that is not positive."""
    if is_concrete(temperature) and not np.all(np.asarray(temperature) > 0):
        raise ValueError(f"temperature is {temperature}; it must be positive")


def check_sweeps(sweeps: int) -> None:
    """Raise a ValueError if there is no sweep to be made."""
    if sweeps < 1:
        raise ValueError(f"sweeps is {sweeps}; at least one is needed")


def check_hidden(machine, h, rows) -> Any:
    """Hidden values (rows, hidden units), one for each row of data.

    Raises:
        ValueError: another shape, or values that the hidden units cannot take.
    """
    hidden = (np if is_concrete(h) else jnp).asarray(h, machine.dtype)
    hidden = hidden[None] if rows.single and hidden.ndim == 1 else hidden
    wanted = (len(rows.values), machine.num_hidden)
    if hidden.shape != wanted:
        raise ValueError(f"h has shape {np.shape(h)}; these rows of v ask for {wanted[1:] if rows.single else wanted}")
    if is_concrete(h):
        values = np.asarray(hidden)
        bad = ~machine.hidden.allows(values)
        if bad.any():
            row, unit = np.argwhere(bad)[0]
            raise ValueError(f"row {row}, hidden unit {unit} is {values[row, unit]}, which {machine.hidden!r} never is")
    return hidden


def complete_rows(machine, key, v, known, *, sweeps: int, mean: bool):
    """See `RBM.complete`."""
    given = np.asarray(v)
    several: np.ndarray = np.atleast_2d(given)
    if several.shape[1:] != (machine.num_visible,):
        raise ValueError(f"v has shape {given.shape}; wanted (rows, {machine.num_visible})")
    mask = np.asarray(as_known(known, several.shape))
    if (lacking := np.argwhere(mask & np.ma.getmaskarray(v).reshape(mask.shape))).size:
        row, column = lacking[0]
        raise ValueError(f"row {row}, unit {column} is called known, but is missing: it is masked")
    clean = np.where(mask, several, np.zeros((), several.dtype))
    rows = as_rows(machine, clean)
    check_sweeps(sweeps)
    drawn, means = complete(machine, key, rows.values, mask, sweeps)
    found: np.ndarray = np.asarray(means if mean else drawn)
    # Known entries are copied from what was given, on the host, and not from what became of them on the way.
    kind = given.dtype if given.dtype.kind == "f" or (machine.discrete and not mean) else found.dtype
    filled = np.where(mask, several.astype(kind, copy=False), found.astype(kind, copy=False))
    return filled[0] if given.ndim == 1 else filled


@jax.jit
def complete(machine, key, values, known, sweeps):
    """Sweeps with some units held: the last draw, and means of E[v | h] over the second half."""
    held = jnp.asarray(spread(machine, known), bool)
    fixed = jnp.where(held, columns(machine, values), 0)
    bias = machine.visible_bias[None]

    def body(i, carry):
        x, total = carry
        for_visible, for_hidden = engine.uniforms(machine, jax.random.fold_in(key, i), len(x))
        drive = engine.visible_drive(machine, engine.sample_hidden(machine, for_hidden, x))
        total = total + jnp.where(i >= sweeps // 2, 1.0, 0.0).astype(x.dtype) * machine.visible.mean(bias, drive)
        return jnp.where(held, fixed, machine.visible.sample(for_visible, bias, drive)), total

    # unknown columns begin at 0: the first hidden values are those of a machine that has the known units only
    x, total = lax.fori_loop(0, sweeps, body, (fixed, jnp.zeros_like(fixed)))
    count = (sweeps - sweeps // 2).astype(total.dtype)
    return machine.visible.decode(x), machine.visible.expected(total / count)


@jax.jit
def denoise(machine, key, values, noise, sweeps):
    """E[v | noisy v]: the noise is one more term of the visible units' density, given h."""
    noisy = columns(machine, values)
    sample, mean = machine.visible.given_noisy(noisy, noise)
    bias = machine.visible_bias[None]

    def body(i, carry):
        x, total = carry
        for_visible, for_hidden = engine.uniforms(machine, jax.random.fold_in(key, i), len(x))
        drive = engine.visible_drive(machine, engine.sample_hidden(machine, for_hidden, x))
        total = total + jnp.where(i >= sweeps // 2, 1.0, 0.0).astype(total.dtype) * mean(bias, drive)
        return sample(for_visible, bias, drive), total

    _, total = lax.fori_loop(0, sweeps, body, (noisy, jnp.zeros_like(noisy)))
    return machine.visible.expected(total / (sweeps - sweeps // 2).astype(total.dtype))
