"""Log Z of a restricted Boltzmann machine: exact for small layers, between two stochastic bounds for large ones."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ...forms.chain import is_concrete
from ...inference import annealing
from . import engine
from .data import answer, as_rows, columns
from .units import Binary, Gaussian, Rectified

_STARTS, _CLIMBS = 16, 50  # of the search for a direction in which a density grows


class PartitionBounds(eqx.Module):
    """A machine's log Z between two bounds, and what follows for its log-likelihood.

    Attributes:
        sandwich: the two ends with their errors and status, see `chainrule.inference.annealing.Sandwich`.
        machine: the machine that they belong to.
    """

    sandwich: annealing.Sandwich
    machine: eqx.Module

    @property
    def lower(self) -> float:
        """Log Z by the forward walk."""
        return float(self.sandwich.lower)

    @property
    def upper(self) -> float:
        """Log Z by the reverse walk."""
        return float(self.sandwich.upper)

    @property
    def gap(self) -> float:
        """`upper − lower`, in nats."""
        return float(self.sandwich.gap)

    @property
    def status(self) -> annealing.SandwichStatus:
        """Whether the ends agree."""
        return self.sandwich.status

    def log_prob(self, data) -> tuple[float, float]:
        """Mean log-likelihood of rows: from below (by the upper log Z), and from above."""
        free = np.asarray(self.machine.free_energy(data), float).mean()  # pyright: ignore[reportAttributeAccessIssue]
        return float(-free - self.upper), float(-free - self.lower)

    def __repr__(self):
        return f"PartitionBounds({self.lower:.6g} to {self.upper:.6g}, {self.status.name})"


def layer(machine) -> tuple[bool, int]:
    """Whether the layer to enumerate is the hidden one, and its size; no size if none can be."""
    hidden = machine.num_hidden if isinstance(machine.hidden, Binary) else None
    visible = machine.num_visible if isinstance(machine.visible, Binary) else None
    if hidden is not None and (visible is None or hidden <= visible):
        return True, hidden
    return False, -1 if visible is None else visible


def enumerable(machine, most: int) -> bool:
    """Whether a layer of at most so many binary units can be enumerated."""
    return 0 <= layer(machine)[1] <= most


def check_normalisable(machine) -> None:
    """Raise a ValueError where Gaussian visible and rectified hidden units certainly have no Z.

    With v summed out log p(h) is −½ hᵀ(1 − A)h and linear terms, A = Wᵀ σ⁻² W. If hᵀAh > |h|² for some h ≥ 0, the sum over
    that direction is infinite. Such an h is looked for uphill from each hidden unit that is strong and from all together,
    which may miss one: that there is none is NP-hard to know.
    """
    if not isinstance(machine.visible, Gaussian) or not isinstance(machine.hidden, Rectified):
        return
    if not (is_concrete(machine.weights) and is_concrete(machine.visible.log_variance)):
        return
    scaled = np.asarray(machine.weights, float) * np.exp(-np.asarray(machine.visible.log_variance, float) / 2)[:, None]
    size = scaled.shape[1]
    strong = np.argsort(-(scaled**2).sum(0))[:_STARTS]
    h = np.concatenate([np.eye(size)[strong], np.ones((1, size)) / np.sqrt(size)])
    for _ in range(_CLIMBS):
        if (((h @ scaled.T) ** 2).sum(1) > 1).any():
            raise ValueError(
                "rectified hidden units drive each other through Gaussian visible ones to infinity: there is no Z, since "
                "|Wh / standard deviation| > |h| for some h ≥ 0. Give smaller weights, larger variances or binary units"
            )
        up = np.maximum(h @ scaled.T @ scaled, 0)
        length = np.sqrt((up**2).sum(1, keepdims=True))
        h = np.where(length > 0, up / np.where(length > 0, length, 1), h)


def log_partition(machine, most: int):
    """See `RBM.log_partition`."""
    by_hidden, size = layer(machine)
    if size < 0:
        raise ValueError(f"{machine!r} has no layer of binary units to enumerate: use log_partition_bounds(key, data)")
    if size > most:
        raise ValueError(
            f"the smaller layer has {size} units, and 2^{size} values are too many for max_units={most}: use "
            "log_partition_bounds(key, data)"
        )
    if not all(is_concrete(leaf) for leaf in jax.tree.leaves(machine)):
        return engine.log_partition(machine, by_hidden=by_hidden)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), machine)
        return np.float64(_log_partition(wide, by_hidden=by_hidden))


@partial(jax.jit, static_argnames="by_hidden")
def _log_partition(machine, *, by_hidden):
    return engine.log_partition(machine, by_hidden=by_hidden)


def bounds(machine, key, data, *, chains, stops, burn_in, tolerance) -> PartitionBounds:
    """See `RBM.log_partition_bounds`."""
    for name, value, least in (("chains", chains, 2), ("stops", stops, 2), ("burn_in", burn_in, 1)):
        if value < least:
            raise ValueError(f"{name} is {value}; wanted at least {least}")
    check_normalisable(machine)
    rows = as_rows(machine, data)
    base, _ = machine.visible.start(rows.values, None)
    # rows evenly spread over the data, which may be sorted; some of them twice if there are too few
    picked = rows.values[np.linspace(0, len(rows.values) - 1, chains).astype(int)]
    base = np.asarray(base, machine.dtype)
    found = _bounds(machine, key, base, picked, burn_in, tolerance, stops=stops)
    return PartitionBounds(found, machine)


def conservative(machine, key, v, data, *, stops, walks):
    """See `RBM.conservative_log_prob`."""
    for name, value, least in (("stops", stops, 2), ("walks", walks, 1)):
        if value < least:
            raise ValueError(f"{name} is {value}; wanted at least {least}")
    rows, others = as_rows(machine, v), as_rows(machine, data)
    base, _ = machine.visible.start(others.values, None)
    base = np.asarray(base, machine.dtype)
    return answer(rows, _conservative(machine, key, base, rows.values, stops=stops, walks=walks))


@partial(jax.jit, static_argnames=("stops", "walks"))
def _conservative(machine, key, base, values, *, stops, walks):
    x, betas = columns(machine, jnp.repeat(values, walks, axis=0)), jnp.linspace(1, 0, stops, dtype=machine.dtype)
    family = _family(machine, base)
    found = annealing.annealed_importance_sampling(key, x, *family[:2], betas, log_ratio=family[2])
    each = found.log_weights - engine.free_energy(machine, x) - engine.log_partition_base(machine, base)
    return jax.nn.logsumexp(each.reshape(-1, walks), axis=1) - np.log(walks).astype(each.dtype)


def _family(machine, base):
    """How machines on the way from the base move, and how likely they are: sweep, log density, log ratio."""

    def sweep(key, x, beta):
        return engine.sweep_at(machine, key, base, beta, x)

    def log_density(x, beta):
        return engine.log_density_at(machine, base, beta, x, engine.hidden_drive(machine, x))

    def log_ratio(x, before, after):
        return engine.log_ratio_at(machine, base, before, after, x, engine.hidden_drive(machine, x))

    return sweep, log_density, log_ratio


@partial(jax.jit, static_argnames="stops")
def _bounds(machine, key, base, values, burn_in, tolerance, *, stops):
    first, second, third = jax.random.split(key, 3)
    start = engine.sample_base(machine, engine.uniforms(machine, first, len(values))[0], base)

    def settle(i, x):
        return engine.sweep_at(machine, jax.random.fold_in(second, i), base, 1.0, x)

    end = lax.fori_loop(0, burn_in, settle, columns(machine, values))

    sweep, log_density, log_ratio = _family(machine, base)
    return annealing.sandwich(
        third,
        start,
        end,
        sweep,
        log_density,
        jnp.linspace(0, 1, stops, dtype=machine.dtype),
        log_partition=engine.log_partition_base(machine, base),
        log_ratio=log_ratio,
        tolerance=tolerance,
    )
