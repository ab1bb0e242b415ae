"""Networks as features: any callable that turns a sentence into log-potentials, trained together with all weights."""

import inspect
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ...forms.chain import is_concrete
from ...inference.compiling import jit
from .base import AbstractFeature, Batch, Gold, Options, Part, Potentials, as_array, joined


def neural_feature(module: Callable[..., Any], inputs: Callable[[Any], Any] | None = None) -> "NeuralFeature":
    """Log-potentials from a network: an Equinox module, or any callable pytree.

    It is called on one sentence and returns (time, K), potentials of labels, or (time − 1, K, K), potentials of steps:
    entry [t, i, j] is of label i at t and label j at t + 1. What it can take besides, by name, it is given:

    - `mask` (time,), False on padding. Without it the network sees sentences padded with zeros;
    - `start` (time,), True where a sentence begins. A network that forgets there, such as those of `chainrule.neural`, is
      given several sentences in a row, which wastes little on padding. Without it each has a row of its own;
    - `key` and `inference`, for dropout: a key in training, `inference=True` in queries.

    Args:
        module: the network, with the parameters to begin with.
        inputs: `inputs(sentence)` gives what it is called with: an array (time, …), or a tuple of such arrays; without it
            the sentence itself is the array.

    Example:
        >>> import equinox as eqx, jax, numpy as np, chainrule as cr
        >>> word = {"the": 1, "dog": 2, "barks": 3, "a": 4, "cat": 5, "sleeps": 6}
        >>> embedding = eqx.nn.Embedding(7, 8, key=jax.random.key(0))
        >>> tagger = cr.neural.SequenceTagger(embedding, 3, hidden_size=8, dropout=0.0, key=jax.random.key(1))
        >>> ids = lambda sentence: np.array([word.get(w, 0) for w in sentence])
        >>> crf = cr.LinearChainCRF(["D", "N", "V"], [cr.neural_feature(tagger, ids)])
        >>> sentences = [["the", "dog", "barks"], ["a", "cat", "sleeps"], ["the", "cat", "barks"]]
        >>> method = cr.MiniBatch(epochs=30, batch_size=3, learning_rate=0.03)
        >>> crf.fit(sentences, [["D", "N", "V"]] * 3, method=method, key=jax.random.key(2)).model.predict(sentences[0])
        ['D', 'N', 'V']
    """
    if not callable(module):
        raise ValueError(f"{module!r} is not callable; wanted a network that gives potentials of a sentence")
    if inputs is not None and not callable(inputs):
        raise ValueError(f"inputs is {inputs!r}; wanted a function that makes arrays of a sentence")
    named = _named(module)
    return NeuralFeature(module, inputs, tuple(n for n in ("mask", "start", "key", "inference") if n in named))


def _named(module) -> set[str]:
    try:
        parameters = inspect.signature(module).parameters.values()
    except ValueError:
        return set()
    return {p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)}


_ROWS = 128  # looked at together where no gradient is needed


class NeuralFeature(AbstractFeature):
    """See `neural_feature`.

    Attributes:
        module: the network.
        inputs: what it is called with, made of a sentence.
        takes: which of mask, start, key and inference it can be told.
    """

    module: Any
    inputs: Callable[[Any], Any] | None = eqx.field(static=True)
    takes: tuple[str, ...] = eqx.field(static=True)

    @property
    def learned(self) -> bool:
        """A network has parameters from the start."""
        return True

    @property
    def one_per_row(self) -> bool:
        """Whether sentences may not share rows."""
        return "start" not in self.takes

    def num_parameters(self) -> int:
        """How many numbers are trained."""
        return sum(leaf.size for leaf in jax.tree.leaves(eqx.filter(self.module, eqx.is_inexact_array)))

    def arrays(self, batch: Batch) -> tuple[Any, ...]:
        """What the network is called with, each (row, time, …)."""
        given = []
        for n, sentence in enumerate(batch.sentences):
            made = sentence if self.inputs is None else self.inputs(sentence)
            made = made if isinstance(made, tuple) else (made,)
            made = tuple(as_array(one) for one in made)
            for one in made:
                if one.dtype.kind not in "biuf":
                    raise ValueError(
                        f"neural_feature: sentence {n} gives {one.dtype}, not numbers; pass inputs=, a function that makes "
                        "arrays of a sentence"
                    )
                if one.ndim == 0 or len(one) != len(sentence):
                    raise ValueError(
                        f"neural_feature: sentence {n} has {len(sentence)} tokens, but its array has shape {one.shape}"
                    )
            if given and [one.ndim for one in made] != [one.ndim for one in given[0]]:
                raise ValueError(f"neural_feature: sentence {n} gives other arrays than sentence 0")
            given.append(made)
        return tuple(np.moveaxis(batch.spread(_joined(arrays)), -1, 0) for arrays in zip(*given, strict=True))

    def learn(self, batch: Batch, gold: Gold, options: Options) -> "tuple[NeuralFeature, Part]":
        """The network as it is."""
        parameters, rest = eqx.partition(self.module, eqx.is_inexact_array)
        arrays = self.arrays(batch)
        others, static = eqx.partition(rest, eqx.is_array)
        mask, start = (np.asarray(x).T for x in (batch.layout.mask, batch.layout.start))
        part = NeuralPart(parameters, others, arrays, mask, start, static, self.takes)
        shape = jax.eval_shape(lambda part: part.raw(part.initial, None), part).shape[1:]
        time, size = arrays[0].shape[1], gold.num_labels
        if shape not in ((time, size), (time - 1, size, size)):
            raise ValueError(
                f"neural_feature: for {time} steps the network returns shape {shape}; wanted ({time}, {size}), or "
                f"({time - 1}, {size}, {size}) for potentials of steps"
            )
        return self, part

    def fitted(self, part: "NeuralPart", parameters) -> "NeuralFeature":
        """The feature that a fit ended with."""
        rest = eqx.combine(part.others, part.static)
        module = eqx.combine(jax.device_put(parameters), rest)
        return NeuralFeature(module, self.inputs, self.takes)

    @property
    def origin(self) -> Any:
        """How sentences become arrays."""
        return self.inputs

    def describe(self, batch: Batch) -> tuple[Any, ...]:
        """What the network is called with."""
        return self.arrays(batch)

    def potentials(self, batch: Batch, said: Any = None) -> Potentials:
        """Log-potentials of any sentences."""
        arrays = self.describe(batch) if said is None else said
        parameters, rest = eqx.partition(self.module, eqx.is_inexact_array)
        others, static = eqx.partition(rest, eqx.is_array)
        mask, start = (np.asarray(x).T for x in (batch.layout.mask, batch.layout.start))
        # some rows at a time, since what a network computes on the way is far larger than what it says
        size, found = min(len(mask), _ROWS), []
        for begin in range(0, len(mask), size):
            rows = np.minimum(np.arange(begin, begin + size), len(mask) - 1)  # all of one size, and compiled once
            some, mask_, start_ = jax.tree.map(lambda x, rows=rows: x[rows], (arrays, mask, start))
            found.append(_potentials(NeuralPart(parameters, others, some, mask_, start_, static, self.takes)))
        if len(found) == 1:
            return found[0]
        return jax.tree.map(lambda *parts: jnp.concatenate(parts, -1)[..., : len(mask)], *found)

    def __repr__(self):
        return f"neural_feature({type(self.module).__name__})"


def _joined(arrays) -> Any:
    """Arrays of tokens end to end, later axes padded with zeros to the largest (characters of words, say)."""
    largest = np.max([one.shape[1:] for one in arrays], axis=0)
    if arrays[0].ndim > 1:
        arrays = [
            (np if is_concrete(one) else jnp).pad(
                one, [(0, 0), *((0, int(want) - have) for want, have in zip(largest, one.shape[1:], strict=True))]
            )
            for one in arrays
        ]
    return joined(arrays)


class NeuralPart(Part):
    """A network and the sentences it is called on; arrays are (row, time, …)."""

    initial: Any
    others: Any
    inputs: tuple[Any, ...]
    mask: Any
    begin: Any
    static: Any = eqx.field(static=True)
    takes: tuple[str, ...] = eqx.field(static=True)

    def start(self):
        """The network's trained arrays."""
        return self.initial

    def sizes(self):
        """A network takes no part in an L1 penalty."""
        return jax.tree.map(lambda _: 0.0, self.initial)

    def raw(self, parameters, key):
        """What the network returns, (row, time, label) or (row, time − 1, label, label)."""
        module = eqx.combine(parameters, self.others, self.static)

        def call(inputs, mask, begin, key):
            options = {"mask": mask, "start": begin, "key": key, "inference": key is None}
            return module(*inputs, **{name: options[name] for name in self.takes})

        inputs, mask, begin = jax.tree.map(jnp.asarray, (self.inputs, self.mask, self.begin))
        if key is None:
            return jax.vmap(call, (0, 0, 0, None))(inputs, mask, begin, None)
        return jax.vmap(call)(inputs, mask, begin, jax.random.split(key, len(mask)))

    def potentials(self, parameters, key=None) -> Potentials:
        """Log-potentials; with a key, as in training."""
        found = jnp.moveaxis(self.raw(parameters, key), 0, -1)
        time = self.mask.shape[1]
        if not (found.ndim in (3, 4) and len(found) == time - found.ndim + 3 and len(set(found.shape[1:-1])) == 1):
            raise ValueError(
                f"neural_feature: for {time} steps the network returns shape {found.shape[:-1]}; wanted ({time}, K), or "
                f"({time - 1}, K, K) for potentials of steps"
            )
        if found.ndim == 3:
            return Potentials(jnp.where(self.mask.T[:, None], found, 0))
        inner = (self.mask & ~self.begin).T
        found = jnp.concatenate([jnp.zeros_like(found[:1]), found])
        return Potentials(None, jnp.where(inner[:, None, None], found, 0))

    def take(self, rows) -> "NeuralPart":
        """The part of some rows."""
        inputs, mask, begin = jax.tree.map(lambda x: jnp.asarray(x)[rows], (self.inputs, self.mask, self.begin))
        return eqx.tree_at(lambda p: (p.inputs, p.mask, p.begin), self, (inputs, mask, begin))


@jit
def _potentials(part: NeuralPart) -> Potentials:
    return part.potentials(part.initial)
