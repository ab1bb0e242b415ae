"""What a linear-chain CRF asks of its features.

A *feature* turns a sentence into log-potentials: `node` (time, label, row) for each label at each token, or `pair`
(time, label, label, row) for each step from one label to the next; weights are its parameters. It goes through two
states. As written by the user it is a recipe; `learn` reads the training sentences and gives the same feature with an
index of what it has seen, and with weights. A fit sees neither strings nor recipes: `part` gives it the arrays.
"""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from ...forms.chain import is_concrete
from ...forms.products import HIGHEST
from ...forms.sequences import Layout, Sequences, bucket
from ...inference.compiling import jit
from ..data import Prepared

_FEW = 2**16  # numbers up to which NumPy is done before a compiled program is called


class Potentials(NamedTuple):
    """Log-potentials of labels (time, label, row) and of steps (time, label, label, row); None is zero.

    Those of three labels are (time, label, label, label + 1, row): [i, j, h] is of j after i after h, and h = K says that i
    is the first label.
    """

    node: Any = None
    pair: Any = None
    triple: Any = None


class Batch(NamedTuple):
    """Sentences and where their tokens lie.

    Attributes:
        sentences: as the user passed them, always a list.
        layout: packed rows whose values are the number of each token, counted over all sentences.
        single: whether the user passed one sentence rather than a list of them.
    """

    sentences: list[Any]
    layout: Sequences
    single: bool

    @classmethod
    def of(cls, sentences: list[Any], *, single: bool = False, one_per_row: bool = False) -> "Batch":
        """Lay sentences out, several in a row or one in each."""
        lengths = [len(sentence) for sentence in sentences]
        if not lengths:
            raise ValueError("there are no sentences; wanted at least one")
        if 0 in lengths:
            raise ValueError(f"sentence {lengths.index(0)} is empty; leave it out")
        tokens = np.arange(sum(lengths), dtype=np.int32)
        if not one_per_row:
            return cls(sentences, Sequences.pack(tokens, lengths=lengths), single)
        mask = np.arange(bucket(max(lengths)))[:, None] < np.pad(lengths, (0, bucket(len(lengths)) - len(lengths)))
        values, start = np.zeros(mask.shape, np.int32), ~mask
        values.T[mask.T], start[0] = tokens, True
        sizes = mask.sum(0).astype(np.int32)
        places = np.arange(len(sizes), dtype=np.int32)
        layout = Sequences(values, sizes, Layout(start, mask, places, 0 * places))
        return cls(sentences, layout, single)

    @property
    def num_tokens(self) -> int:
        """Over all sentences."""
        return self.layout.num_steps

    @property
    def prepared(self) -> Prepared:
        """How answers are cut back to the user's form."""
        return Prepared(self.layout, "one" if self.single else "many")

    def spread(self, tokens: Any) -> Any:
        """Values of tokens laid end to end, (token, *rest), as (time, *rest, row); zero on padding."""
        if not is_concrete(tokens):
            mask = np.asarray(self.layout.mask).reshape(*self.layout.mask.shape, *[1] * (tokens.ndim - 1))
            return jnp.moveaxis(jnp.where(mask, tokens[self.layout.values], 0), 1, -1)
        tokens = np.asarray(tokens)
        placed = tokens[self.layout.values]
        placed[~np.asarray(self.layout.mask)] = 0
        return np.ascontiguousarray(np.moveaxis(placed, 1, -1))


def as_array(value: Any) -> Any:
    """A NumPy array of numbers, or a traced array where some of them are traced."""
    parts = value if isinstance(value, list | tuple) else [value]
    return np.asarray(value) if all(map(is_concrete, parts)) else jnp.asarray(value)


def joined(arrays: "list[Any]") -> Any:
    """Arrays end to end, a NumPy array where all of them are."""
    return np.concatenate(arrays) if all(map(is_concrete, arrays)) else jnp.concatenate(arrays)


def weighted(table: Any, weights: Any) -> Any:
    """Σ_j table[…, j] · weights[j], None for None; of a few numbers that can be looked at on the host."""
    if table is None:
        return None
    if isinstance(table, np.ndarray) and table.size <= _FEW and is_concrete(weights):
        return np.dot(table, np.asarray(weights))
    return _product(table, weights)


@jit
def _product(table, weights):
    return jnp.dot(table, weights, precision=HIGHEST)


class Gold(NamedTuple):
    """What is known of the labels of training sentences, token after token.

    Attributes:
        labels: index of each label, −1 where it is not known for sure, shape (token,).
        allowed: which labels each token may have, shape (token, label); None where all are known.
        num_labels: K.
    """

    labels: Int[np.ndarray, " token"]
    allowed: np.ndarray | None
    num_labels: int


class Part(eqx.Module):
    """A feature as a fit sees it: constants, and potentials as a function of parameters."""

    @abstractmethod
    def start(self) -> Any:
        """Parameters to begin with, any pytree of arrays."""

    @abstractmethod
    def potentials(self, parameters: Any, key: Any = None) -> Potentials:
        """Log-potentials of the training sentences; a key is for what is random in training."""

    def take(self, rows: Any) -> "Part":
        """The part of some rows of the sentences, for methods that go through them in batches."""
        raise ValueError(f"{type(self).__name__} is made for fits that look at all sentences at each step")

    def sizes(self) -> Any:
        """How many units of L1 penalty each parameter stands for; numbers or arrays in the structure of `start()`."""
        return jax.tree.map(lambda _: 1.0, self.start())


class Listed(NamedTuple):
    """The weights of a feature, for looking at them.

    Attributes:
        values: the weights, shape (weight,).
        label: index of the label that each speaks for; −1 where it speaks for none in particular.
        describe: `describe(n)` gives the n-th weight's feature and, for steps, the index of the label before (else −1).
    """

    values: np.ndarray
    label: np.ndarray
    describe: Callable[[int], tuple[str, int]]


class AbstractFeature(eqx.Module):
    """A feature of a linear-chain CRF; see the module."""

    @property
    @abstractmethod
    def learned(self) -> bool:
        """Whether it has weights."""

    @abstractmethod
    def learn(self, batch: Batch, gold: Gold, options: "Options") -> "tuple[AbstractFeature, Part]":
        """Read training sentences: the feature with weights (those it has, where it has any), and its part in a fit."""

    @abstractmethod
    def fitted(self, part: Part, parameters: Any) -> "AbstractFeature":
        """The feature that a fit ended with."""

    @property
    @abstractmethod
    def origin(self) -> Any:
        """What a description depends on besides the sentences; features of equal origin share descriptions."""

    @abstractmethod
    def describe(self, batch: Batch) -> Any:
        """All that can be said of sentences without the weights."""

    @abstractmethod
    def potentials(self, batch: Batch, said: Any = None) -> Potentials:
        """Log-potentials of any sentences, whose description may be given."""

    @abstractmethod
    def num_parameters(self) -> int:
        """How many weights there are, without those that are zero (which an L1 penalty, say, has left out)."""

    def listed(self) -> list[Listed]:
        """The weights, where they can be told by name."""
        return []

    @property
    def one_per_row(self) -> bool:
        """Whether each sentence needs a row of its own, instead of sharing it with others."""
        return False


class Options(eqx.Module):
    """How sparse features choose their weights.

    Attributes:
        all_pairs: a weight for each attribute and label, rather than for those that occur together.
        min_pairs: leave out pairs that occur at fewer tokens.
        labels: the labels, for features that name them.
        by_rows: make parts that can be taken apart into rows.
    """

    all_pairs: bool = False
    min_pairs: int = 1
    labels: tuple = ()
    by_rows: bool = False
