"""Energies given by any function: p(x) = exp(−E(x)) / Z over real vectors, images, or arrays of any shape.

E is a callable from one array to one number, such as an Equinox module; its floating-point arrays are the parameters. Z
is out of reach, so that what is learned and asked for does without it: scores −∇E, differences of log p, samples.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from ..forms.chain import is_concrete
from ..inference.langevin import HMC, AbstractSampler, Walk, traced
from ..learning.energies import AbstractEnergyObjective, DenoisingScoreMatching
from ..learning.fit import Fit
from ..learning.guarded import Safeguard
from ..learning.minibatch import MiniBatch
from . import energy_learning
from .emissions.base import as_parameter


class EnergyModel(eqx.Module):
    """A density by its energy.

    Args:
        function: E, from one array of shape `shape` to a number: an Equinox module, a function, or any pytree with
            `__call__`. A plain function has no parameters to learn.
        shape: the shape of one x.
        log_normaliser: log Z, where it is known; `NoiseContrastive` learns it.

    Raises:
        ValueError: a function that cannot be called with such an array, or that gives more than one number.

    Example:
        >>> import equinox as eqx, jax, chainrule as cr
        >>> network = eqx.nn.MLP(2, "scalar", 32, 2, activation=jax.nn.softplus, key=jax.random.key(0))
        >>> model = cr.EnergyModel(lambda x: (x**2).sum() / 2, shape=2)
        >>> model
        EnergyModel(shape (2,))
        >>> draws = model.sample(jax.random.key(1), 500, method=cr.HMC(0.3, steps=20))
        >>> bool(abs(draws.std() - 1) < 0.1)
        True
        >>> fit = cr.EnergyModel(network, shape=2).fit(
        ...     draws, objective=cr.DenoisingScoreMatching(0.3), method=cr.MiniBatch(epochs=5), key=jax.random.key(2)
        ... )
        >>> fit.status
        Status.MAX_ITERATIONS

    Reference: LeCun et al., "A tutorial on energy-based learning", 2006.
    """

    function: Callable
    shape: tuple[int, ...] = eqx.field(static=True)
    log_normaliser: Float[Array, ""] | None

    def __init__(self, function: Callable, shape: int | tuple[int, ...], log_normaliser=None):
        if not callable(function):
            raise ValueError(f"function is {function!r}; wanted a callable from one array to one number")
        self.function = function
        self.shape = energy_learning.as_shape(shape)
        self.log_normaliser = None if log_normaliser is None else jnp.asarray(log_normaliser, float)
        found = energy_learning.shape_of(function, self.shape)
        if found != ():
            raise ValueError(f"the energy of an array of shape {self.shape} has shape {found}; wanted one number")

    def of(self, x: Float[Array, "*event"]) -> Float[Array, ""]:
        """E(x) of one x."""
        return self.function(x)

    def energy(self, x: Float[Array, "..."]) -> Float[Array, "*batch"]:
        """E(x) of one x, or of each of several.

        Raises:
            ValueError: arrays whose last axes are not `shape`, or NaN.
        """
        return _energy(self, self._checked(x))

    def score(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """∇ log p(x) = −∇E(x).

        Raises:
            ValueError: arrays whose last axes are not `shape`, or NaN.
        """
        return _score(self, self._checked(x))

    def log_prob(self, x: Float[Array, "..."]) -> Float[Array, "*batch"]:
        """−E(x) − log Z.

        Raises:
            ValueError: log Z is not known; or as `energy`.

        Example:
            >>> import chainrule as cr, numpy as np
            >>> normal = cr.EnergyModel(lambda x: (x**2).sum() / 2, shape=1, log_normaliser=np.log(2 * np.pi) / 2)
            >>> np.asarray(normal.log_prob([[0.0], [1.0]]), float).round(3).tolist(), normal.score([2.0]).tolist()
            ([-0.919, -1.419], [-2.0])
        """
        if self.log_normaliser is None:
            raise ValueError(
                "log Z is not known: fit with objective=NoiseContrastive(), or give log_normaliser=… if you have it"
            )
        return -self.energy(x) - self.log_normaliser

    def sample(
        self,
        key: Key[Array, ""],
        num_samples: int,
        *,
        method: AbstractSampler | None = None,
        start: Float[Array, "sample *event"] | None = None,
    ) -> Float[Array, "sample *event"]:
        """Draw by chains, one for each sample.

        Args:
            key: a `jax.random.key`.
            num_samples: how many chains.
            method: `HMC()`, the default, `MALA()` or `Langevin()`, with the steps each chain takes.
            start: where the chains begin; N(0, 1) by default.

        Raises:
            ValueError: fewer than one sample, or a start of another shape.
        """
        if num_samples < 1:
            raise ValueError(f"num_samples is {num_samples}; wanted at least one")
        first, then = jax.random.split(key)
        if start is None:
            start = jax.random.normal(first, (num_samples, *self.shape))
        elif len(start) != num_samples:
            raise ValueError(f"start has {len(start)} states for {num_samples} samples")
        return self.walk(then, start, method=method).samples

    def walk(
        self,
        key: Key[Array, ""],
        start: Float[Array, "chain *event"],
        *,
        method: AbstractSampler | None = None,
        keep: bool = False,
    ) -> Walk:
        """Let chains go on from `start`: where they are then, how often they accepted, and with `keep` the path.

        Raises:
            ValueError: a start that is not (chain, *shape), or not finite.

        Example:
            >>> import chainrule as cr, jax, jax.numpy as jnp
            >>> normal = cr.EnergyModel(lambda x: (x**2).sum() / 2, shape=1)
            >>> walk = normal.walk(jax.random.key(0), jnp.zeros((4, 1)), method=cr.Langevin(0.1, steps=10), keep=True)
            >>> walk.path.shape
            (10, 4, 1)
        """
        start = self._checked(start)
        if start.ndim != len(self.shape) + 1:
            raise ValueError(f"start has shape {start.shape}; wanted (chain, {', '.join(map(str, self.shape))})")
        return _walk(self, start, key, traced(HMC() if method is None else method), keep)

    def fit(
        self,
        data: Float[Array, "row *event"],
        *,
        key: Key[Array, ""],
        objective: AbstractEnergyObjective | None = None,
        method: MiniBatch | None = None,
        safeguard: Safeguard | None = None,
        progress: bool = False,
    ) -> Fit:
        """Learn the parameters, by stochastic gradients in one compiled loop.

        Args:
            data: shape (row, *shape), finite.
            key: a `jax.random.key`.
            objective: `DenoisingScoreMatching()`, the default, `SlicedScoreMatching()`, `NoiseContrastive()` or
                `LangevinPCD()`.
            method: epochs, batches, learning rate, clipping, optimiser.
            safeguard: what to do when the fit diverges.
            progress: whether to show a bar.

        `Fit.history` is what the objective shows at each step: its loss, or the gap of energies of `LangevinPCD`. After a
        divergence `Fit.model` is the last good one, `Fit.status` says so. `Fit.log_prob` is NaN where log Z is unknown.

        Raises:
            ValueError: data of another shape, too few, or not finite (the row is named); an energy without parameters.
        """
        objective = energy_learning.check_objective(DenoisingScoreMatching() if objective is None else objective)
        rows = energy_learning.check_rows(data, self.shape)
        model = self
        if objective.normalises and self.log_normaliser is None:
            model = EnergyModel(self.function, self.shape, 0.0)
        elif not objective.normalises and self.log_normaliser is not None:
            model = EnergyModel(self.function, self.shape)  # what is known of Z will no longer hold
        return energy_learning.fit(model, rows, None, objective, method, safeguard, key, progress=progress)

    def supervised(self, rows, labels) -> Any:
        """What is minimised beside the objective: nothing, for there are no labels."""
        return 0.0

    def total_log_prob(self, rows, labels) -> float:
        """Log-likelihood of the data, NaN where log Z is not known."""
        return float("nan") if self.log_normaliser is None else float(np.sum(np.asarray(self.log_prob(rows), float)))

    def _checked(self, x):
        x = as_parameter(x)
        if self.shape and x.shape[-len(self.shape) :] != self.shape:
            raise ValueError(f"x has shape {x.shape}; wanted (…, {', '.join(map(str, self.shape))})")
        if is_concrete(x):
            wrong = np.argwhere(~np.isfinite(np.asarray(x)))
            if len(wrong):
                place = tuple(wrong[0].tolist())
                raise ValueError(f"x{list(place)} is {np.asarray(x)[place]}; wanted a finite number")
        return x

    def __repr__(self):
        return f"EnergyModel(shape {self.shape})"


def _flat(model, x):
    batch = x.shape[: x.ndim - len(model.shape)]
    return x.reshape(-1, *model.shape), batch


@eqx.filter_jit
def _energy(model: EnergyModel, x):
    rows, batch = _flat(model, x)
    return jax.vmap(model.function)(rows).reshape(batch)


@eqx.filter_jit
def _score(model: EnergyModel, x):
    rows, _ = _flat(model, x)
    return -jax.vmap(jax.grad(model.function))(rows).reshape(x.shape)


@eqx.filter_jit
def _walk(model: EnergyModel, start, key, sampler, keep: bool) -> Walk:
    return sampler.walk(model.function, start, key, keep=keep)
