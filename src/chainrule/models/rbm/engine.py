"""The sums and draws that everything about a restricted Boltzmann machine is made of: arrays in, arrays out.

A machine here is anything with the fields of `RBM`. Visible columns x are (rows, C), hidden values (rows, H). `observed`
is (rows, C) or None: a column that is not observed is a unit that this row's machine does not have, and so adds
nothing to any energy, drive or count.

A machine at inverse temperature β on the way from its base (β = 0: the visible units alone, with biases `base`) is

    log f_β(v, h) = log g(v; β a + (1 − β) base) + β (b·h + s(v) W h) + log g(h; 0),

which keeps the visible units normalisable all the way.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ...forms.products import product
from ...inference.gibbs import uniform


def keep(values, observed):
    """Zero what is not observed."""
    return values if observed is None else values * observed


def hidden_drive(machine, x):
    """s(v) W, (rows, H). Missing columns of x are 0."""
    return product(machine.visible.statistic(x), machine.weights)


def visible_drive(machine, hidden):
    """W h, (rows, C)."""
    return product(hidden, machine.weights.T)


def parts(machine, x, observed=None):
    """What the free energy is made of: log g(v) of each row, and the hidden units' drives."""
    score = keep(machine.visible.score(x, machine.visible_bias[None]), observed).sum(-1)
    return score, hidden_drive(machine, x)


def free_energy(machine, x, observed=None):
    """F(v) = −log Σ_h exp(−E(v, h)), by row."""
    score, drive = parts(machine, x, observed)
    return -score - machine.hidden.log_normaliser(machine.hidden_bias[None], drive).sum(-1)


def energy(machine, x, hidden, observed=None):
    """E(v, h), by row."""
    score, drive = parts(machine, x, observed)
    return -score - machine.hidden.score(hidden, machine.hidden_bias[None]).sum(-1) - (drive * hidden).sum(-1)


def uniforms(machine, key, rows):
    """Numbers in (0, 1) for one sweep: for the visible units (rows, V), and for the hidden ones (rows, H).

    They are drawn together because each use of a generator is compiled anew, for seconds with some of them. As the middles
    of equal parts they have no number below all others: such a one would be the tail of normal and rare draws.
    """
    width = machine.num_visible
    both = uniform(key, (rows, width + machine.num_hidden), machine.dtype)
    return both[:, :width], both[:, width:]


def sample_hidden(machine, uniform, x):
    """Draw h given v."""
    return machine.hidden.sample(uniform, machine.hidden_bias[None], hidden_drive(machine, x))


def sample_visible(machine, uniform, hidden):
    """Draw v given h."""
    return machine.visible.sample(uniform, machine.visible_bias[None], visible_drive(machine, hidden))


def gibbs(machine, key, hidden, sweeps, observed=None):
    """Go from h to v and back `sweeps` times, a number that may be traced."""

    def body(i, hidden):
        for_visible, for_hidden = uniforms(machine, jax.random.fold_in(key, i), len(hidden))
        return sample_hidden(machine, for_hidden, keep(sample_visible(machine, for_visible, hidden), observed))

    return lax.fori_loop(0, sweeps, body, hidden)


# Tempered machines; beta is one number, or (rows, 1)


def bias_at(machine, base, beta):
    """Visible biases at β."""
    return base[None] + beta * (machine.visible_bias - base)[None]


def log_density_at(machine, base, beta, x, drive) -> Any:
    """Log f_β(v), the hidden units summed out, by row."""
    score = machine.visible.score(x, bias_at(machine, base, beta))
    zero = jnp.zeros((1, 1), drive.dtype)
    hidden = machine.hidden.log_normaliser(zero, beta * (machine.hidden_bias[None] + drive))
    return score.sum(-1) + hidden.sum(-1)


def log_ratio_at(machine, base, before, after, x, drive):
    """Log f_after − log f_before, differences first and sums afterwards."""
    score, hidden = machine.visible.score, machine.hidden.log_normaliser
    zero, field = jnp.zeros((1, 1), drive.dtype), machine.hidden_bias[None] + drive
    visible = score(x, bias_at(machine, base, after)) - score(x, bias_at(machine, base, before))
    return visible.sum(-1) + (hidden(zero, after * field) - hidden(zero, before * field)).sum(-1)


def hidden_at(machine, uniform, beta, drive):
    """Draw h given v at β."""
    return machine.hidden.sample(uniform, jnp.zeros((1, 1), drive.dtype), beta * (machine.hidden_bias[None] + drive))


def visible_at(machine, uniform, base, beta, hidden):
    """Draw v given h at β."""
    return machine.visible.sample(uniform, bias_at(machine, base, beta), beta * visible_drive(machine, hidden))


def sweep_at(machine, key, base, beta, x):
    """From v to h and back at β."""
    for_visible, for_hidden = uniforms(machine, key, len(x))
    return visible_at(machine, for_visible, base, beta, hidden_at(machine, for_hidden, beta, hidden_drive(machine, x)))


def sample_base(machine, uniform, base):
    """Independent draws at β = 0."""
    return machine.visible.sample(uniform, base[None], jnp.zeros((len(uniform), len(base)), base.dtype))


def log_partition_base(machine, base):
    """Log Z at β = 0, exactly."""
    zero = jnp.zeros((1, 1), base.dtype)
    visible = machine.visible.log_normaliser(base[None], jnp.zeros((1, len(base)), base.dtype)).sum()
    return visible + machine.num_hidden * machine.hidden.log_normaliser(zero, zero)[0, 0]


# Exact, by enumeration of the smaller layer

LOW = 10  # units whose values are laid out as a table; the others are counted through, one block of the table at a time


def log_partition(machine, *, by_hidden: bool):
    """Log Z over all 2^units values of one layer of binary units, in blocks of 2^LOW.

    A block shares its values of the high units, so that its drives are the table of the low units' plus one row: the sum
    costs one addition and one softplus for each pair of a value and a unit of the other layer, and memory for a block.
    """
    visible, hidden = machine.visible, machine.hidden
    if by_hidden:
        weights, own, other = machine.weights.T, machine.hidden_bias, machine.visible_bias

        def rest(drive):
            return visible.log_normaliser(other[None], drive).sum(-1)

    else:
        weights, own, other = machine.weights, machine.visible_bias, machine.hidden_bias

        def rest(drive):
            return hidden.log_normaliser(other[None], drive).sum(-1)

    size = len(own)
    low = min(size, LOW)
    table = bits(jnp.arange(1 << low), low, own.dtype)
    low_drive, low_score = product(table, weights[:low]), product(table, own[:low])

    @jax.checkpoint  # gradients compute a block again, instead of keeping 2^units rows
    def block(number):
        values = bits(number[None], size - low, own.dtype)
        drive = low_drive + product(values, weights[low:])
        return jax.nn.logsumexp(low_score + rest(drive)) + product(values, own[low:])[0]

    def step(total, number):
        return jnp.logaddexp(total, block(number)), None

    blocks = jnp.arange(1, 1 << (size - low))
    return lax.scan(step, block(jnp.zeros((), blocks.dtype)), blocks)[0]


def bits(numbers, size, dtype):
    """Binary digits, lowest first: (numbers, size)."""
    return ((numbers[:, None] >> jnp.arange(size, dtype=numbers.dtype)[None]) & 1).astype(dtype)
