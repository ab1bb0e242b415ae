"""Small machines and their exact distributions, by enumeration in NumPy float64."""

import itertools

import jax
import numpy as np

import chainrule as cr


def fast_key(seed):
    """A key whose numbers are compiled in a twentieth of the time that those of the default take."""
    return jax.random.key(seed, impl="philox2x32")


def binary(seed=0, num_visible=4, num_hidden=3, strength=1.0, **units):
    rng = np.random.default_rng(seed)
    return cr.RBM(
        np.float32(rng.normal(0, strength, (num_visible, num_hidden))),
        np.float32(rng.normal(0, 0.5, num_visible)),
        np.float32(rng.normal(0, 0.5, num_hidden)),
        **units,
    )


def categorical(seed=0, num_visible=3, num_values=3, num_hidden=2, strength=1.0):
    return binary(seed, num_visible * num_values, num_hidden, strength, visible=cr.units.Categorical(num_values))


def gaussian(seed=0, num_visible=2, num_hidden=3):
    log_variance = np.float32(np.random.default_rng(seed + 1).normal(0, 0.4, num_visible))
    return binary(seed, num_visible, num_hidden, visible=cr.units.Gaussian(log_variance))


def states(num_units, num_values=2):
    return np.array(list(itertools.product(range(num_values), repeat=num_units)))


def visible_states(machine):
    return states(machine.num_visible, max(machine.visible.width, 2))


def one_hot(machine, v):
    width = machine.visible.width
    return v.astype(float) if width == 1 else np.eye(width)[v].reshape(len(v), -1)


def log_joint(machine, v):
    """Log of exp(−E(v, h)) for rows v and all h, (rows, 2^hidden), straight from the definition."""
    w, a, b = (np.asarray(p, float) for p in (machine.weights, machine.visible_bias, machine.hidden_bias))
    h = states(machine.num_hidden).astype(float)
    if isinstance(machine.visible, cr.units.Gaussian):
        variance = np.exp(np.asarray(machine.visible.log_variance, float))
        own, statistic = -((v - a) ** 2 / (2 * variance)).sum(1), v / variance
    else:
        statistic = one_hot(machine, v)
        own = statistic @ a
    return own[:, None] + (h @ b)[None] + statistic @ w @ h.T


def log_probs(machine):
    """Log p(v) of all visible states, and log Z."""
    scores = np.logaddexp.reduce(log_joint(machine, visible_states(machine)), axis=1)
    total = np.logaddexp.reduce(scores)
    return scores - total, total


def chi_square_limit(degrees):
    """What χ² exceeds once in 10⁵ draws (Wilson and Hilferty 1931)."""
    z = 4.265
    return degrees * (1 - 2 / (9 * degrees) + z * np.sqrt(2 / (9 * degrees))) ** 3


def chi_square(draws, machine, probs):
    """χ² of rows against probabilities of all visible states, states expected fewer than 5 times pooled."""
    base = max(machine.visible.width, 2)
    number = np.asarray(draws).astype(int) @ base ** np.arange(machine.num_visible - 1, -1, -1)
    counts, expected = np.bincount(number, minlength=len(probs)), len(draws) * probs
    rare = expected < 5
    if rare.any():
        counts = np.append(counts[~rare], counts[rare].sum())
        expected = np.append(expected[~rare], expected[rare].sum())
    keep = expected > 0
    return ((counts - expected)[keep] ** 2 / expected[keep]).sum(), chi_square_limit(keep.sum() - 1)
