"""Features that are functions of three labels in a row, f(x, y_prev2, y_prev, y, i), for chains of second order."""

from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ...forms.sequences import bucket
from ...inference.compiling import jit
from .base import AbstractFeature, Batch, Gold, Listed, Options, Part, Potentials, as_array, weighted
from .functions import MANY_CALLS, Same, check_finite, numbers_of, padded_arrays, warn_of_calls


class TripleFunction(AbstractFeature):
    """See `feature_function`.

    Attributes:
        function: f.
        labels: the labels that f was fitted with.
        weights: w, one for each number that f returns.
        name: what it is called in tables of weights, if not by the name of the function.
    """

    function: Callable[..., Any] = eqx.field(static=True)
    labels: tuple | None = eqx.field(static=True, default=None)
    weights: Any = None
    name: str | None = eqx.field(static=True, default=None)

    @property
    def learned(self) -> bool:
        """Whether it has weights."""
        return self.weights is not None

    def num_parameters(self) -> int:
        """How many weights are not zero."""
        return 0 if self.weights is None else int(np.count_nonzero(self.weights))

    def learn(self, batch: Batch, gold: Gold, options: Options) -> "tuple[TripleFunction, Part]":
        """Weights of zero, or those that are there already."""
        node, triple = self._tables(batch, options.labels)
        weights = np.zeros(node.shape[-1], node.dtype) if self.weights is None else self.weights
        if weights.shape != node.shape[-1:]:
            raise ValueError(f"{_name(self.function)} returns {node.shape[-1]} numbers, but has {weights.size} weights")
        known = TripleFunction(self.function, options.labels, weights, self.name)
        return known, TriplePart(node, triple, weights)

    def fitted(self, part: "TriplePart", parameters) -> "TripleFunction":
        """The feature that a fit ended with."""
        return TripleFunction(self.function, self.labels, jax.device_put(parameters), self.name)

    @property
    def origin(self) -> Any:
        """The function, and the labels that it is asked about."""
        return self.function, self.labels

    def describe(self, batch: Batch) -> tuple[Any, Any]:
        """The values of the function."""
        return self._tables(batch, self.labels)

    def potentials(self, batch: Batch, said: Any = None) -> Potentials:
        """Log-potentials of any sentences."""
        node, triple = self.describe(batch) if said is None else said
        return Potentials(weighted(node, self.weights), None, weighted(triple, self.weights))

    def _tables(self, batch: Batch, labels) -> tuple[Any, Any]:
        """Values of first tokens (time, label, row, J) and of all others (time, label, label, label + 1, row, J)."""
        arrays = [isinstance(sentence, np.ndarray | jax.Array) for sentence in batch.sentences]
        if all(arrays):
            node, triple = _by_tracing(self.function, batch.sentences, len(labels))
        elif not any(arrays):
            node, triple = _by_calling(self.function, batch.sentences, labels)
        else:
            raise ValueError("some sentences are arrays and some are lists; make them all one or the other")
        for table in (node, triple):
            check_finite(table, self.function)
        return batch.spread(node).swapaxes(-2, -1), batch.spread(triple).swapaxes(-2, -1)

    def listed(self) -> list[Listed]:
        """The weights, by the name of the function."""
        values, name = np.asarray(self.weights), self.name or _name(self.function)
        describe = lambda n: (name if len(values) == 1 else f"{name}[{n}]", -1)  # noqa: E731
        return [Listed(values, np.full(len(values), -1), describe)]

    def __repr__(self):
        return f"feature_function({self.name or _name(self.function)})"


class TriplePart(Part):
    """A tabulated function in a fit."""

    node: Any
    triple: Any
    initial: Any

    def start(self):
        """The weights."""
        return self.initial

    def potentials(self, parameters, key=None) -> Potentials:
        """Log-potentials."""
        return Potentials(weighted(self.node, parameters), None, weighted(self.triple, parameters))

    def take(self, rows) -> "TriplePart":
        """The part of some rows."""
        node, triple = jax.tree.map(lambda t: jnp.asarray(t)[..., rows, :], (self.node, self.triple))
        return TriplePart(node, triple, self.initial)


def _by_calling(function, sentences, labels):
    """Values end to end, by calling a Python function for each position and labels."""
    size = len(labels)
    calls = sum(len(sentence) for sentence in sentences) * size**3
    if calls >= MANY_CALLS:
        warn_of_calls(function, calls, "f(x, y_prev, y, i) without y_prev2")
    dtype = jnp.zeros(0).dtype
    node, triple = [], []
    try:
        for sentence in sentences:
            for i in range(len(sentence)):
                if i == 0:
                    values = [np.ravel(function(sentence, None, None, y, 0)) for y in labels]
                    node.append(numbers_of(values, function))
                    width = node[-1].shape[1]
                    triple.append(np.zeros((size, size, size + 1, width), dtype))
                    continue
                node.append(np.zeros((size, width), dtype))
                before = labels if i > 1 else [None]
                values = [[[np.ravel(function(sentence, h, j, y, i)) for h in before] for y in labels] for j in labels]
                values = numbers_of(values, function)
                triple.append(np.zeros((size, size, size + 1, width), dtype))
                triple[-1][:, :, slice(0, size) if i > 1 else slice(size, None)] = values
        return np.stack(node), np.stack(triple)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{_name(function)} must return a number, or always as many of them") from error


def _by_tracing(function, sentences, size: int):
    """Values end to end, by one vectorised call for all sentences."""
    lengths = np.array([len(sentence) for sentence in sentences])
    longest = bucket(int(lengths.max()))
    node, triple = _tabulate(padded_arrays(sentences, longest), Same(function), size, longest)
    real = np.arange(longest) < lengths[:, None]
    return as_array(node)[real], as_array(triple)[real]


@partial(jit, static_argnums=(1, 2, 3))
def _tabulate(padded, same, size, longest):
    dtype = jnp.zeros(0).dtype
    labels, steps = jnp.arange(size), jnp.arange(longest)
    # the last of the labels before is the one that is missing: −1, as seen from both ends
    before = jnp.where(jnp.arange(size + 1) < size, jnp.arange(size + 1), -1)

    def value(*args):
        return jnp.atleast_1d(jnp.asarray(same.function(*args)).astype(dtype)).reshape(-1)

    none = jnp.array(-1)
    at_start = jax.vmap(jax.vmap(value, (None, None, None, 0, None)), (0, None, None, None, None))
    begin = at_start(padded, none, none, labels, jnp.array(0))
    node = jnp.zeros((padded.shape[0], longest, *begin.shape[1:]), dtype).at[:, 0].set(begin)
    over_before = jax.vmap(value, (None, 0, None, None, None))
    over_label = jax.vmap(over_before, (None, None, None, 0, None))
    over_pairs = jax.vmap(over_label, (None, None, 0, None, None))
    over = jax.vmap(jax.vmap(over_pairs, (None, None, None, None, 0)), (0, None, None, None, None))
    triple = over(padded, before, labels, labels, steps)
    first, missing = (steps == 1)[:, None], (jnp.arange(size + 1) == size)[None]
    asked = (steps > 0)[:, None] & (first == missing)
    return node, jnp.where(asked[None, :, None, None, :, None], triple, 0)


def _name(function) -> str:
    return getattr(function, "__name__", type(function).__name__)
