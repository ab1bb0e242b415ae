"""Dense numbers as features: embeddings, measurements, anything that comes as an array (time, D)."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ...forms.chain import is_concrete
from ...forms.products import HIGHEST
from ...inference.compiling import jit
from .base import AbstractFeature, Batch, Gold, Listed, Options, Part, Potentials, as_array, joined


def dense(extract: Callable[[Any], Any] | None = None) -> "DenseFeature":
    """Numbers for each token, each weighted for each label, and a bias for each label: node[t, k] = x_t · W[:, k] + b[k].

    Args:
        extract: `extract(sentence)` gives an array (time, D) or (time,); without it the sentence itself is one.

    Example:
        >>> import numpy as np, chainrule as cr
        >>> x = [np.array([[0.1], [2.0], [1.9]]), np.array([[1.8], [-0.2]])]
        >>> y = [["low", "high", "high"], ["high", "low"]]
        >>> crf = cr.LinearChainCRF(["low", "high"], [cr.features.dense()])
        >>> crf.fit(x, y, method=cr.LBFGS(l2=0.1)).model.predict(x[0])
        ['low', 'high', 'high']
    """
    if extract is not None and not callable(extract):
        raise ValueError(f"{extract!r} is not a function; wanted one that makes an array (time, D) of a sentence")
    return DenseFeature(extract)


class DenseFeature(AbstractFeature):
    """See `dense`.

    Attributes:
        extract: how numbers come from a sentence.
        weights: W, shape (D, label).
        bias: b, shape (label,).
    """

    extract: Callable[[Any], Any] | None = eqx.field(static=True)
    weights: Any = None
    bias: Any = None

    @property
    def learned(self) -> bool:
        """Whether it has weights."""
        return self.weights is not None

    def num_parameters(self) -> int:
        """How many weights are not zero."""
        return sum(int(np.count_nonzero(x)) for x in (self.weights, self.bias) if x is not None)

    def numbers(self, batch: Batch) -> Any:
        """The numbers of all tokens, end to end, shape (token, D)."""
        found = []
        for n, sentence in enumerate(batch.sentences):
            array = as_array(sentence if self.extract is None else self.extract(sentence))
            if array.dtype.kind not in "biuf":
                raise ValueError(
                    f"dense: sentence {n} gives {array.dtype}, not numbers; pass dense(extract) with a function that "
                    "makes an array (time, D) of a sentence"
                )
            if array.ndim == 0:
                raise ValueError(f"dense: sentence {n} gives the single number {array}; wanted an array (time, D)")
            array = array.reshape(len(array), -1)
            if len(array) != len(sentence):
                raise ValueError(f"dense: sentence {n} has {len(sentence)} tokens, but its array has {len(array)} rows")
            if is_concrete(array) and not np.isfinite(array).all():
                raise ValueError(f"dense: sentence {n} has NaN or infinity at token {_first_bad(array)}")
            if found and array.shape[1] != found[0].shape[1]:
                raise ValueError(
                    f"dense: sentence {n} has {array.shape[1]} numbers a token, sentence 0 {found[0].shape[1]}"
                )
            found.append(array)
        return joined(found).astype(jnp.zeros(0).dtype)

    def learn(self, batch: Batch, gold: Gold, options: Options) -> "tuple[DenseFeature, Part]":
        """Weights of zero, or those that are there already."""
        x = batch.spread(self.numbers(batch))
        weights = np.zeros((x.shape[1], gold.num_labels), x.dtype) if self.weights is None else self.weights
        if weights.shape != (x.shape[1], gold.num_labels):
            raise ValueError(
                f"dense: the weights have shape {weights.shape}; these data ask for {(x.shape[1], gold.num_labels)}"
            )
        bias = np.zeros(gold.num_labels, x.dtype) if self.bias is None else self.bias
        return DenseFeature(self.extract, weights, bias), DensePart(x, (weights, bias))

    def fitted(self, part: "DensePart", parameters) -> "DenseFeature":
        """The feature that a fit ended with."""
        return DenseFeature(self.extract, *jax.device_put(tuple(parameters)))

    @property
    def origin(self) -> Any:
        """Where numbers come from."""
        return self.extract

    def describe(self, batch: Batch) -> Any:
        """The numbers of any sentences."""
        return self.numbers(batch)

    def potentials(self, batch: Batch, said: Any = None) -> Potentials:
        """Log-potentials of any sentences."""
        x = self.describe(batch) if said is None else said
        if x.shape[1] != self.weights.shape[0]:
            raise ValueError(
                f"dense: {x.shape[1]} numbers a token, but the model was fitted with {self.weights.shape[0]}"
            )
        weights, bias = self.weights, self.bias
        if all(map(is_concrete, (x, weights, bias))):
            return Potentials(batch.spread(np.asarray(x) @ np.asarray(weights) + np.asarray(bias)))
        return Potentials(_scores(batch.spread(x), weights, bias))

    def listed(self) -> list[Listed]:
        """The weights, by the number they belong to, and the biases."""
        if self.weights is None:
            return []
        size = self.weights.shape[1]
        values = np.concatenate([np.asarray(self.bias)[None], np.asarray(self.weights)])
        describe = lambda n: ("bias" if n < size else f"x[{n // size - 1}]", -1)  # noqa: E731
        return [Listed(values.reshape(-1), np.tile(np.arange(size), len(values)), describe)]

    def __repr__(self):
        return "dense()" if self.weights is None else f"dense({self.weights.shape[0]} numbers)"


class DensePart(Part):
    """Numbers (time, D, row) in a fit."""

    x: Any
    initial: Any

    def start(self):
        """Weights and bias."""
        return self.initial

    def potentials(self, parameters, key=None) -> Potentials:
        """Log-potentials of labels."""
        return Potentials(_scores(self.x, *parameters))

    def take(self, rows) -> "DensePart":
        """The part of some rows."""
        return DensePart(jnp.asarray(self.x)[..., rows], self.initial)


@jit
def _scores(x, weights, bias):
    return jnp.einsum("tdr,dk->tkr", jnp.asarray(x), weights, precision=HIGHEST) + bias[None, :, None]


def _first_bad(array) -> int:
    return int(np.argmax(~np.isfinite(array).all(1)))
