"""Deep Boltzmann machines: layers of binary units, each with weights to the next, and no directions.

    −log p*(v, h¹ … h^L) = −a·v − v W¹ h¹ − b¹·h¹ − h¹ W² h² − b²·h² − …

Layers with an even number (v, h², …) and those with an odd number (h¹, h³, …) are the two sides of a restricted Boltzmann
machine, some of whose visible units are never observed. Everything about samples and partition functions is therefore
that machine's, and so is the gradient, once the missing visible units are filled in by mean field: the fixed point of

    μ^l = sigmoid(b^l + μ^{l−1} W^l + μ^{l+1} W^{l+1}ᵀ),      μ⁰ = v,

which maximises a lower bound of log p(v) (Salakhutdinov and Hinton 2009). Centring makes fits from small weights work
without pretraining (Montavon and Müller 2012; Melchior et al. 2016).
"""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Key

from ...forms.chain import is_concrete
from ...learning.contrastive import PCD
from ...learning.fit import Fit
from ...learning.validation import Validation
from ..emissions.base import as_parameter, generator
from . import engine, learning
from .data import answer, as_rows
from .likelihood import PartitionBounds
from .machine import RBM
from .units import Binary


class DeepBoltzmannMachine(eqx.Module):
    """A deep Boltzmann machine of binary units.

    Args:
        weights: W¹, W², …, each (units of the layer below, units of the layer above).
        biases: of all layers, the visible one first; zeros if not given.

    Raises:
        ValueError: fewer than two layers of weights (that is an `RBM`), shapes that do not fit, or parameters that are
            not finite.

    Example:
        >>> import jax, numpy as np, chainrule as cr
        >>> data = np.random.default_rng(0).integers(0, 2, (200, 1)) * np.ones((1, 6), int)
        >>> dbm = cr.DeepBoltzmannMachine.random(jax.random.key(0), [6, 4, 2], data=data)
        >>> fit = dbm.fit(data, method=cr.PCD(epochs=60, batch_size=10, learning_rate=0.2), key=jax.random.key(1))
        >>> bool(fit.model.log_prob_bound(np.ones(6)) > -2.5)     # log 1/2 at best, log 1/64 without weights
        True
    """

    weights: tuple[Float[Array, "below above"], ...]
    biases: tuple[Float[Array, " unit"], ...]

    def __init__(self, weights: Sequence[Any], biases: Sequence[Any] | None = None):
        self.weights = tuple(as_parameter(w) for w in weights)
        if len(self.weights) < 2:
            raise ValueError(f"{len(self.weights)} layers of weights; wanted at least two: with one it is an RBM")
        sizes = [self.weights[0].shape[0], *(w.shape[1] for w in self.weights)]
        self.biases = tuple(as_parameter(b) for b in ([np.zeros(n) for n in sizes] if biases is None else biases))
        for n, w in enumerate(self.weights):
            if w.shape != (sizes[n], sizes[n + 1]):
                raise ValueError(f"weights {n} have shape {w.shape}; the layer below asks for {sizes[n]} rows")
        if [b.shape for b in self.biases] != [(n,) for n in sizes]:
            raise ValueError(f"biases have shapes {[b.shape for b in self.biases]}; wanted {[(n,) for n in sizes]}")
        for name, arrays in (("weights", self.weights), ("biases", self.biases)):
            for n, values in enumerate(arrays):
                if is_concrete(values) and not np.isfinite(np.asarray(values)).all():
                    raise ValueError(f"{name} {n} have entries that are NaN or infinite")

    @classmethod
    def random(
        cls, key: Key[Array, ""], sizes: Sequence[int], *, data=None, scale: float = 0.01
    ) -> "DeepBoltzmannMachine":
        """A machine to begin a fit with: weights N(0, scale²), visible biases from data where given."""
        sizes, rng = list(sizes), generator(key)
        weights = [scale * rng.normal(size=(low, high)) for low, high in pairwise(sizes)]
        biases = [np.zeros(n) for n in sizes]
        if data is not None:
            rows = as_rows(RBM(weights[0]), data)
            biases[0], _ = RBM(weights[0]).visible.start(rows.values, None)
        return cls(weights, biases)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Numbers of units, from the visible layer up."""
        return tuple(len(b) for b in self.biases)

    @property
    def num_visible(self) -> int:
        """Number of visible units."""
        return len(self.biases[0])

    def as_rbm(self) -> RBM:
        """The same distribution with the even layers as visible units, the odd ones as hidden units.

        Example:
            >>> import chainrule as cr, numpy as np
            >>> deep = cr.DeepBoltzmannMachine([np.ones((4, 3)), np.ones((3, 2))])
            >>> deep.as_rbm()  # layers of 4 and 2 on one side, of 3 on the other
            RBM(6 Binary visible, 3 Binary hidden)
        """
        return _flat(self.weights, self.biases)

    def energy(self, layers: Sequence[Any]) -> Any:
        """E(v, h¹, …) of rows (n, units) of all layers.

        Raises:
            ValueError: not one array for each layer, different numbers of rows, or values other than 0 and 1.
        """
        if len(layers) != len(self.sizes):
            raise ValueError(f"{len(layers)} layers of values for {len(self.sizes)} of units")
        for n, (x, size) in enumerate(zip(layers, self.sizes, strict=True)):
            if np.shape(x) != (len(layers[0]), size):
                raise ValueError(f"layer {n} has shape {np.shape(x)}; wanted {(len(layers[0]), size)}")
            if is_concrete(x) and (bad := ~Binary().allows(np.asarray(x))).any():
                row, unit = np.argwhere(bad)[0]
                raise ValueError(f"layer {n}, row {row}, unit {unit} is {np.asarray(x)[row, unit]}; units are 0 or 1")
        return _energy(self, list(layers))

    def features(self, v, *, iterations: int = 50) -> Any:
        """Mean-field probabilities of the highest layer, (n, units)."""
        _check_iterations(iterations)
        rows = self._rows(v)
        return answer(rows, _mean_field(self, rows.values, iterations)[-1])

    def log_prob_bound(self, v, *, log_partition=None, iterations: int = 50) -> Any:
        """The mean-field lower bound of log p(v), by row.

        With the odd layers summed out it is −F(v, μ², …) + H(μ², …) − log Z for the restricted machine of the two sides.

        Args:
            v: rows (n, units), or one vector.
            log_partition: log Z, exact or one end of `log_partition_bounds`; by default by enumeration.
            iterations: of mean field.
        """
        _check_iterations(iterations)
        rows = self._rows(v)
        log_z = self.as_rbm().log_partition() if log_partition is None else log_partition
        return answer(rows, _bound(self, rows.values, iterations) - jnp.asarray(log_z, self.biases[0].dtype))

    def log_partition_bounds(self, key: Key[Array, ""], data, **options) -> PartitionBounds:
        """Log Z between two bounds, as for an `RBM`; even hidden layers start at draws from their mean field."""
        first, second = jax.random.split(key)
        rows = self._rows(data)
        x = np.asarray(_fill_rows(self, first, rows.values)).astype(np.uint8)
        return self.as_rbm().log_partition_bounds(second, x, **options)

    def sample(self, key: Key[Array, ""], num_samples: int, *, sweeps: int = 1000, temperature=1.0) -> Any:
        """Draw visible rows; see `RBM.sample`."""
        found = self.as_rbm().sample(key, num_samples, sweeps=sweeps, temperature=temperature)
        return found[:, : self.num_visible]

    def fit(
        self,
        data,
        *,
        method: PCD | None = None,
        key: Key[Array, ""],
        iterations: int = 10,
        validation: Validation | None = None,
        progress: bool = False,
    ) -> Fit:
        """Fit by mean field on the data's side and persistent chains on the machine's.

        Args:
            data: rows (n, visible units).
            method: `PCD()` by default.
            key: seeds batches and chains.
            iterations: of mean field, for each batch.
            validation: looked at after each epoch; keeps the best machine.
            progress: whether to show a bar.

        Raises:
            ValueError: data that do not fit, or another method than `PCD`.
        """
        method = PCD() if method is None else method
        if not isinstance(method, PCD):
            raise ValueError(f"a deep Boltzmann machine is fitted by PCD(), not by {type(method).__name__}")
        _check_iterations(iterations)
        rows, flat = self._rows(data), self.as_rbm()
        lowest = RBM(self.weights[0], self.biases[0])
        base, _ = lowest.visible.start(rows.values, None)
        others = flat.num_visible - self.num_visible
        fill = Fill(self.sizes, iterations)

        def model_of(machine):
            return DeepBoltzmannMachine(*_layers(machine, self.sizes))

        state, status, scores = learning.descend(
            flat,
            rows,
            method,
            key,
            base=np.append(base, np.zeros(others)),
            means=np.append(rows.values.mean(0, dtype=float), np.full(others, 0.5)),
            validation=validation,
            progress=progress,
            fill=fill,
            model_of=model_of,
        )
        model = model_of(state.machine)
        count = sum(leaf.size for leaf in jax.tree.leaves(model))
        return learning.outcome(model, state, status, scores, len(rows.values), lambda: float("nan"), count)

    def _rows(self, v):
        return as_rows(RBM(self.weights[0], self.biases[0]), v)

    def __repr__(self):
        return f"DeepBoltzmannMachine({' - '.join(map(str, self.sizes))})"


def _check_iterations(iterations: int) -> None:
    if iterations < 1:
        raise ValueError(f"iterations is {iterations}; mean field needs at least one")


@jax.jit
def _flat(weights, biases) -> RBM:
    """Even layers against odd ones; layers that are not neighbours have weights of zero."""
    even, odd = range(0, len(biases), 2), range(1, len(biases), 2)
    blocks = []
    for i in even:
        row = []
        for j in odd:
            if abs(i - j) == 1:
                row.append(weights[i] if j > i else weights[j].T)
            else:
                row.append(jnp.zeros((len(biases[i]), len(biases[j])), biases[0].dtype))
        blocks.append(row)
    return RBM(jnp.block(blocks), jnp.concatenate([biases[i] for i in even]), jnp.concatenate([biases[j] for j in odd]))


def _places(sizes):
    """Where each layer lies on its side of the restricted machine."""
    found = []
    for n, size in enumerate(sizes):
        first = sum(sizes[n % 2 : n : 2])
        found.append(slice(first, first + size))
    return found


@partial(jax.jit, static_argnames="sizes")
def _layers(machine, sizes):
    """Weights and biases of the layers of a restricted machine."""
    places = _places(sizes)
    weights, biases = [], []
    for n in range(len(sizes) - 1):
        if n % 2 == 0:
            weights.append(machine.weights[places[n], places[n + 1]])
        else:
            weights.append(machine.weights[places[n + 1], places[n]].T)
    for n, place in enumerate(places):
        biases.append((machine.visible_bias if n % 2 == 0 else machine.hidden_bias)[place])
    return weights, biases


class Fill(NamedTuple):
    """Fills in even hidden layers by mean field, and keeps what is not between neighbours at zero."""

    sizes: tuple[int, ...]
    iterations: int

    def __call__(self, machine, x):
        """Columns of the data as columns of all even layers."""
        width = self.sizes[0]
        rest = jnp.full((len(x), machine.weights.shape[0] - width), 0.5, x.dtype)

        def body(_, rest):
            on = machine.hidden.mean(
                machine.hidden_bias[None], engine.product(jnp.concatenate([x, rest], axis=1), machine.weights)
            )
            drive = engine.product(on, machine.weights[width:].T)
            return jax.nn.sigmoid(machine.visible_bias[None, width:] + drive)

        rest = lax.fori_loop(0, self.iterations, body, rest)
        return jnp.concatenate([x, rest], axis=1)

    def keep(self, weights):
        """Weights, or steps of them, with those between layers that are not neighbours set to zero."""
        if len(self.sizes) == 3:  # all pairs are neighbours
            return weights
        places = _places(self.sizes)
        mask = np.zeros(weights.shape, np.float32)
        for i in range(0, len(self.sizes), 2):
            for j in range(1, len(self.sizes), 2):
                if abs(i - j) == 1:
                    mask[places[i], places[j]] = 1
        return weights * jnp.asarray(mask, weights.dtype)


@jax.jit
def _energy(model, layers):
    layers = [jnp.asarray(x).astype(model.biases[0].dtype) for x in layers]
    linear = sum((x * b[None]).sum(-1) for x, b in zip(layers, model.biases, strict=True))
    pairs = zip(layers, model.weights, layers[1:], strict=False)
    return -linear - sum((engine.product(low, w) * high).sum(-1) for low, w, high in pairs)


@jax.jit
def _mean_field(model, values, iterations):
    """Probabilities of each layer above the data."""
    layers = [jnp.asarray(values).astype(model.biases[0].dtype)]
    layers += [jnp.full((len(values), len(b)), 0.5, b.dtype) for b in model.biases[1:]]

    def body(_, layers):
        layers = list(layers)
        for n in (*range(1, len(layers), 2), *range(2, len(layers), 2)):
            field = model.biases[n][None] + engine.product(layers[n - 1], model.weights[n - 1])
            if n + 1 < len(layers):
                field = field + engine.product(layers[n + 1], model.weights[n].T)
            layers[n] = jax.nn.sigmoid(field)
        return tuple(layers)

    return lax.fori_loop(0, iterations, body, tuple(layers))


@jax.jit
def _bound(model, values, iterations):
    # where the bound is at its maximum by the means, its slope by the weights is that at fixed means
    layers = _mean_field(lax.stop_gradient(model), values, iterations)
    flat = _flat(model.weights, model.biases)
    even = jnp.concatenate(layers[::2], axis=1)
    entropy = sum(_entropy(mean) for mean in layers[2::2])
    return entropy - engine.free_energy(flat, even)


def _entropy(mean):
    return jax.scipy.special.entr(mean).sum(-1) + jax.scipy.special.entr(1 - mean).sum(-1)


@jax.jit
def _fill_rows(model, key, values):
    layers = _mean_field(model, values, 50)
    drawn = [layers[0]]
    for mean, k in zip(layers[2::2], jax.random.split(key, len(layers)), strict=False):
        drawn.append(jax.random.bernoulli(k, mean).astype(mean.dtype))
    return jnp.concatenate(drawn, axis=1)
