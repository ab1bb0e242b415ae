"""A classifier read as an energy: p(x, y) ∝ exp(f(x)_y), so that it knows what inputs look like (Grathwohl et al. 2020).

    p(y | x) = softmax(f(x))_y      E(x) = −log Σ_y exp(f(x)_y)      E(x | y) = −f(x)_y

Softmax does not care about a constant added to all logits; the energy is just that constant. Training it as a density
costs little accuracy, calibrates the classifier, and lets it say when an input is like nothing it has seen.
"""

from collections.abc import Callable, Hashable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from ..graphs.labels import first_duplicate
from ..learning.energies import AbstractEnergyObjective, LangevinPCD
from ..learning.fit import Fit
from ..learning.guarded import Safeguard
from ..learning.minibatch import MiniBatch
from . import energy_learning
from .energy import EnergyModel


class JointEnergyModel(eqx.Module):
    """A joint energy model.

    Args:
        logits: f, from one x to a vector of K numbers: an Equinox module, or any pytree with `__call__`.
        shape: the shape of one x.
        labels: the classes' names; 0 … K−1 by default.

    Raises:
        ValueError: a function that cannot be called with such an array or gives no vector, or labels that do not fit.

    Example:
        >>> import equinox as eqx, jax, jax.numpy as jnp, chainrule as cr
        >>> x = jnp.linspace(-0.3, 0.3, 80).reshape(40, 2) + jnp.repeat(jnp.array([[-1.0], [1.0]]), 20, axis=0)
        >>> network = eqx.nn.MLP(2, 2, 16, 1, activation=jax.nn.softplus, key=jax.random.key(0))
        >>> fit = cr.JointEnergyModel(network, shape=2, labels=("low", "high")).fit(
        ...     x, ["low"] * 20 + ["high"] * 20, method=cr.MiniBatch(epochs=40, batch_size=20, learning_rate=0.02),
        ...     key=jax.random.key(1),
        ... )
        >>> fit.model.predict(jnp.array([[-1.0, -1.0], [1.0, 1.0]]))
        ['low', 'high']
    """

    logits: Callable
    shape: tuple[int, ...] = eqx.field(static=True)
    labels: tuple[Hashable, ...] = eqx.field(static=True)
    log_normaliser: None

    def __init__(self, logits: Callable, shape: int | tuple[int, ...], labels: Sequence[Hashable] | None = None):
        if not callable(logits):
            raise ValueError(f"logits is {logits!r}; wanted a callable from one array to a vector of logits")
        self.logits, self.log_normaliser = logits, None
        self.shape = energy_learning.as_shape(shape)
        found = energy_learning.shape_of(logits, self.shape)
        if found is None or len(found) != 1:
            raise ValueError(f"the logits of an array of shape {self.shape} have shape {found}; wanted (class,)")
        self.labels = tuple(range(found[0])) if labels is None else tuple(labels)
        if len(self.labels) != found[0]:
            raise ValueError(f"{len(self.labels)} labels for {found[0]} logits")
        if (twice := first_duplicate(self.labels)) is not None:
            raise ValueError(f"label {twice!r} is there twice")

    def of(self, x: Float[Array, "*event"]) -> Float[Array, ""]:
        """E(x) of one x."""
        return -jax.nn.logsumexp(self.logits(x))

    def marginal(self) -> EnergyModel:
        """The density of inputs, whatever their label."""
        return EnergyModel(_Marginal(self.logits), self.shape)

    def conditional(self, label: Hashable) -> EnergyModel:
        """The density of inputs with this label.

        Raises:
            ValueError: an unknown label.
        """
        return EnergyModel(_Conditional(self.logits, jnp.asarray(self._index(label))), self.shape)

    def energy(self, x: Float[Array, "..."]) -> Float[Array, "*batch"]:
        """E(x) = −log Σ exp f(x); high where inputs are unlike the data."""
        return self.marginal().energy(x)

    def predict_probs(self, x: Float[Array, "..."]) -> Float[Array, "*batch label"]:
        """p(y | x) of one x, or of each of several."""
        return _probs(self, self.marginal()._checked(x))

    def predict(self, x: Float[Array, "..."]):
        """The most probable label of one x, or a list of those of several (row, *shape)."""
        best = np.asarray(self.predict_probs(x)).argmax(-1)
        return self.labels[int(best)] if best.ndim == 0 else [self.labels[i] for i in best.tolist()]

    def fit(
        self,
        data: Float[Array, "row *event"],
        labels: Sequence[Hashable],
        *,
        key: Key[Array, ""],
        objective: AbstractEnergyObjective | None = None,
        method: MiniBatch | None = None,
        safeguard: Safeguard | None = None,
        progress: bool = False,
    ) -> Fit:
        """Learn log p(x) + log p(y | x): the objective's loss of E(x), and the cross entropy of the labels.

        Args:
            data: shape (row, *shape), finite.
            labels: one for each row.
            key: a `jax.random.key`.
            objective: `LangevinPCD()`, the default, `DenoisingScoreMatching()` or `SlicedScoreMatching()`.
            method: as for `EnergyModel.fit`.
            safeguard: as for `EnergyModel.fit`.
            progress: whether to show a bar.

        `Fit.log_prob` is Σ log p(y | x).

        Raises:
            ValueError: as `EnergyModel.fit`; another number of labels, an unknown one, or `NoiseContrastive`, for which
                there is no parameter log Z here.
        """
        objective = energy_learning.check_objective(LangevinPCD() if objective is None else objective)
        if objective.normalises:
            raise ValueError(f"{type(objective).__name__} learns log Z, which the logits already contain; use another")
        rows = energy_learning.check_rows(data, self.shape)
        names = labels.tolist() if isinstance(labels, np.ndarray | jax.Array) else list(labels)
        if len(names) != len(rows):
            raise ValueError(f"{len(names)} labels for {len(rows)} rows")
        indices = np.array([self._index(name) for name in names], np.int32)
        return energy_learning.fit(self, rows, indices, objective, method, safeguard, key, progress=progress)

    def supervised(self, rows, labels):
        """The mean cross entropy of the labels."""
        log_probs = jax.nn.log_softmax(jax.vmap(self.logits)(rows), axis=-1)
        return -jnp.take_along_axis(log_probs, labels[:, None], axis=1).mean()

    def total_log_prob(self, rows, labels) -> float:
        """Σ log p(y | x)."""
        return float(np.asarray(_log_probs(self, rows), float)[np.arange(len(rows)), labels].sum())

    def _index(self, label) -> int:
        if label not in self.labels:
            raise ValueError(f"{label!r} is not a label; they are {list(self.labels)}")
        return self.labels.index(label)

    def __repr__(self):
        return f"JointEnergyModel(shape {self.shape}, {len(self.labels)} labels)"


class _Marginal(eqx.Module):
    logits: Callable

    def __call__(self, x):
        return -jax.nn.logsumexp(self.logits(x))


class _Conditional(eqx.Module):
    logits: Callable
    label: Array

    def __call__(self, x):
        return -self.logits(x)[self.label]


@eqx.filter_jit
def _probs(model: JointEnergyModel, x):
    return jax.nn.softmax(_logits(model, x), axis=-1)


@eqx.filter_jit
def _log_probs(model: JointEnergyModel, x):
    return jax.nn.log_softmax(_logits(model, x), axis=-1)


def _logits(model: JointEnergyModel, x):
    rows = x.reshape(-1, *model.shape)
    found = jax.vmap(model.logits)(rows)
    return found.reshape(*x.shape[: x.ndim - len(model.shape)], -1)
