"""Attributes that users compute themselves: dicts and lists of names, as for CRFsuite.

Every attribute is known by its name. What a token says is turned into names and values by these rules:

    "name"                          the attribute `name`, value 1
    {"name": "value"}               the attribute `name=value`, value 1
    {"name": True}, {"name": False} the attribute `name`, value 1; nothing
    {"name": 2.5}                   the attribute `name`, value 2.5
    a list, tuple or set of names   each of them; one that stands there twice counts twice

Reference: Okazaki (2007), CRFsuite: a fast implementation of conditional random fields; the rules for dicts are those of
its Python wrapper, python-crfsuite.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, compress, count, islice
from numbers import Real
from operator import getitem, methodcaller
from typing import Any, NamedTuple

import numpy as np
from scipy.sparse import csr_matrix

from ...forms.checks import whole
from .corpus import Corpus, Matrices, assemble, brief, is_binary, one_kind, unknown_name
from .hashes import Hashes

_KINDS = {"a string": str, "a dict": Mapping, "a list of names": (list, tuple, set, frozenset)}
MANY = 50_000  # names that are looked up by their hashes, as whole arrays
_WANTED = (
    "all dicts, all lists (or tuples, or sets) of names, or all names; attributes(lambda sentence, i: …) makes them of "
    "anything"
)


def attributes(
    extract: Callable[[Any, int], Any] | None = None, *, min_count: int = 1, transitions: bool = False
) -> "Attributes":
    """Use attributes that the tokens already are, or that a function makes of them.

    Args:
        extract: `extract(sentence, i)` describes token i by a dict, a list, tuple or set of names, or one name. By
            default the tokens are such things themselves.
        min_count: leave out attributes that fewer tokens of the training data have.
        transitions: let them describe the step from the token before to this one, for weights that depend on both
            labels (the matrix `pair`), instead of the token (the matrix `node`).

    Example:
        >>> feature = attributes(lambda words, i: {"word": words[i], "long": len(words[i]) > 4, "size": len(words[i])})
        >>> index, matrices = feature.learn([["a", "small", "dog"]])
        >>> index.node.names()
        ['word=a', 'size', 'word=small', 'long', 'word=dog']
        >>> matrices.node.toarray().tolist()
        [[1.0, 1.0, 0.0, 0.0, 0.0], [0.0, 5.0, 1.0, 1.0, 0.0], [0.0, 3.0, 0.0, 0.0, 1.0]]
        >>> index.matrices([["dogs"]]).node.toarray().tolist()
        [[0.0, 4.0, 0.0, 0.0, 0.0]]

    Reference: Okazaki (2007), CRFsuite: a fast implementation of conditional random fields.
    """
    if extract is not None and not callable(extract):
        raise ValueError(f"{extract!r} is not a function; wanted one of (sentence, position) that describes a token")
    min_count = whole(min_count, "min_count", why="attributes are of one token or more")
    return Attributes(extract, min_count, transitions)


@dataclass(frozen=True)
class Attributes:
    """A way to describe tokens, before it has seen data; build one with `attributes`."""

    extract: Callable[[Any, int], Any] | None
    min_count: int
    transitions: bool

    def learn(self, sentences: Iterable[Sequence], *, dtype: Any = np.float64) -> "tuple[AttributeIndex, Matrices]":
        """Find the attributes that occur, and make the matrices of these sentences.

        Attributes are numbered as they appear (in a set: alphabetically).

        Args:
            sentences: lists of tokens, which are all dicts, all lists (or tuples, or sets) of names, or all names; or
                lists of anything, of which `extract` makes these.
            dtype: of the matrices.

        Raises:
            ValueError: no sentences, an empty one or a plain string; descriptions of different kinds; a name that is not
                a string; a value that is not a string, a bool or a finite number; the message says which.
        """
        said = _read(sentences, self)
        numbers = _Numbers(growing=True)
        matrix = said.matrix(numbers, _Entries(numbers), dtype)
        often = np.bincount(matrix.indices, minlength=len(numbers)) >= self.min_count
        matrix = matrix if often.all() else matrix[:, np.flatnonzero(often)]
        # Copied, names lie side by side in memory instead of among those of all tokens: a look-up is an eighth faster.
        names = [name.encode("utf-8", "surrogatepass") for name in compress(numbers, often)]
        numbers = _Numbers(name.decode("utf-8", "surrogatepass") for name in names)
        table = NameTable(numbers, is_binary(matrix))
        return AttributeIndex(self, *_apart(table, self)), Matrices(*_apart(matrix, self))

    @property
    def code(self) -> Callable[[Any, int], Any] | None:
        """What a file cannot hold."""
        return self.extract

    def state(self) -> dict[str, Any]:
        """Return all but the code as numbers, for saving."""
        return {"min_count": self.min_count, "transitions": self.transitions}

    @classmethod
    def from_state(cls, state: Mapping[str, Any], *, code: Callable[[Any, int], Any] | None = None) -> "Attributes":
        """Build it again from its `state` and the function that describes tokens, if there was one."""
        return attributes(code, min_count=state["min_count"], transitions=state["transitions"])

    def __repr__(self):
        return f"Attributes({'' if self.extract is None else getattr(self.extract, '__name__', 'extract')})"


@dataclass(frozen=True, eq=False)
class NameTable:
    """The attributes that training has seen, numbered from 0.

    Attributes:
        numbers: name → number, in the order of the numbers.
        binary: in training, all values were 1.

    Example:
        >>> index, _ = attributes().learn([["a", "b"]])
        >>> index.node.num_attributes, index.node.name(1), index.node.find("b")
        (2, 'b', 1)
    """

    numbers: "_Numbers"
    binary: bool

    @property
    def num_attributes(self) -> int:
        """How many attributes there are."""
        return len(self.numbers)

    def name(self, attribute: int) -> str:
        """Return what one attribute is called."""
        if not 0 <= attribute < self.num_attributes:
            raise ValueError(f"there is no attribute {attribute}; wanted 0 … {self.num_attributes - 1}")
        return self._names[attribute]

    def names(self) -> list[str]:
        """Return what all attributes are called, in their order."""
        return list(self.numbers)

    def find(self, name: str) -> int:
        """Return the number of an attribute.

        Raises:
            ValueError: training has not seen it.
        """
        if name not in self.numbers:
            raise unknown_name(name, next(iter(self.numbers), None))
        return self.numbers[name]

    def kinds(self) -> np.ndarray:
        """Which names begin alike, up to the first "=" or ":", as numbers: "word=dog" and "word=cat" do."""
        seen: defaultdict[str, int] = defaultdict()
        seen.default_factory = seen.__len__
        heads = (name.partition("=")[0] for name in self.numbers)
        return np.fromiter(map(seen.__getitem__, heads), np.int64, len(self.numbers))

    @cached_property
    def entries(self) -> "_Entries":
        """The same for the entries of dicts."""
        return _Entries(self.numbers)

    @cached_property
    def _names(self) -> list[str]:
        return list(self.numbers)

    def __repr__(self):
        return f"NameTable({self.num_attributes} attributes)"


@dataclass(frozen=True, eq=False)
class AttributeIndex:
    """Attributes that have seen data: what `Attributes.learn` returns.

    Attributes:
        feature: where they come from.
        node, pair: the attributes of tokens, and of steps between them; one of the two is empty.
    """

    feature: Attributes
    node: NameTable
    pair: NameTable

    def matrices(self, sentences: Iterable[Sequence], *, dtype: Any = np.float64) -> Matrices:
        """Describe sentences by the attributes that training has seen; shapes as in `Matrices`.

        Raises:
            ValueError: as `Attributes.learn`.
        """
        table = self._table
        matrix = _read(sentences, self.feature).matrix(table.numbers, table.entries, dtype)
        return Matrices(*_apart(matrix, self.feature))

    @property
    def _table(self) -> NameTable:
        return self.pair if self.feature.transitions else self.node

    def state(self) -> dict[str, Any]:
        """Return all that was learned as strings, numbers and lists, for saving; `extract` is code and not in it."""
        return {
            "names": self._table.names(),
            "binary": self._table.binary,
            **self.feature.state(),
        }

    @property
    def code(self) -> Callable[[Any, int], Any] | None:
        """What a file cannot hold."""
        return self.feature.extract

    @classmethod
    def from_state(cls, state: Mapping[str, Any], *, code: Callable[[Any, int], Any] | None = None) -> "AttributeIndex":
        """Build the index again from its `state` and the function that describes tokens, if there was one."""
        feature = Attributes.from_state(state, code=code)
        numbers = _Numbers(state["names"])
        if len(numbers) < len(state["names"]):
            raise ValueError("a name of an attribute is there twice")
        return cls(feature, *_apart(NameTable(numbers, state["binary"]), feature))

    def __repr__(self):
        return f"AttributeIndex({self.node.num_attributes + self.pair.num_attributes} attributes)"


class _Numbers(dict[str, int]):
    """Name → number. A name that is not there is given the next number while `growing`, and −1 afterwards."""

    def __init__(self, names: Iterable[str] = (), *, growing: bool = False):
        super().__init__(zip(names, count()))
        self.growing = growing

    def __missing__(self, name: str) -> int:
        if not isinstance(name, str):
            raise TypeError
        if not self.growing:
            return -1
        self[name] = number = len(self)
        return number

    @cached_property
    def hashes(self) -> Hashes:
        """The same for many names at once; only once no more are added."""
        return Hashes(self)


class _Entries(dict[str, "_Values"]):
    """Name → value → number for the entries of dicts: it remembers, so that few attributes have to be spelt.

    At most what is numbered is remembered, however much is asked for. There are two levels because a dict of pairs
    (name, value) would have to hash every pair, and look at three places in memory to compare it.
    """

    def __init__(self, numbers: _Numbers):
        super().__init__()
        self.numbers = numbers

    def __missing__(self, name: str) -> "_Values":
        if not isinstance(name, str):
            raise TypeError
        return _Values(name, self)


class _Values(dict[Any, int]):
    """Value → number, for one name. Numbers must come as True; those that are 1 or 0 may, for they equal True or False."""

    __slots__ = ("name", "parent")

    def __init__(self, name: str, parent: _Entries):
        super().__init__()
        self.name, self.parent = name, parent

    def __missing__(self, value: Any) -> int:
        if isinstance(value, str):
            number = self.parent.numbers[f"{self.name}={value}"]
        elif isinstance(value, bool | np.bool_):
            number = self.parent.numbers[self.name] if value else -1
        else:
            raise TypeError
        if number >= 0 or not value:
            self[value] = number
            self.parent[self.name] = self
        return number


class _Said(NamedTuple):
    """What tokens say of themselves: dicts, or lists of names (`plain`), and how many entries or names each has."""

    feature: Attributes
    corpus: Corpus
    tokens: list[Any]
    plain: bool
    sizes: np.ndarray

    def matrix(self, numbers: _Numbers, entries: _Entries, dtype: Any) -> csr_matrix:
        """Tokens × attributes; of steps, nothing at first tokens."""
        columns, values = self.look_up(numbers, entries)
        if self.feature.transitions:
            columns = np.where(np.repeat(self.corpus.position == 0, self.sizes), -1, columns)
        values = np.ones(len(columns), dtype) if values is None else values
        return assemble(columns, self.sizes, len(numbers), values, dtype)

    def look_up(self, numbers: _Numbers, entries: _Entries) -> tuple[np.ndarray, np.ndarray | None]:
        """The numbers of all names or entries, end to end, and their values, or None if all are 1."""
        total = int(self.sizes.sum())
        try:  # nearly always there are no numbers among the values; these lines are one loop in C
            if self.plain and total > MANY and not numbers.growing:
                return numbers.hashes.find(self.names(), total), None
            if self.plain:
                return np.fromiter(map(numbers.__getitem__, self.names()), np.int64, total), None
            found = map(getitem, map(entries.__getitem__, self.names()), self.values())
            return np.fromiter(found, np.int64, total), None
        except TypeError:
            for i, name in enumerate(self.names()):
                if not isinstance(name, str):
                    raise ValueError(
                        f"{self.place(i)} has the attribute {brief(name)}; the name of an attribute is a string"
                    ) from None
        raw, values = self.numeric()
        found = map(getitem, map(entries.__getitem__, self.names()), raw)
        return np.fromiter(found, np.int64, total), values

    def numeric(self) -> tuple[list[Any], np.ndarray]:
        """The values of all entries, with True for every number, and what they count."""
        raw, values = list(self.values()), np.ones(int(self.sizes.sum()))
        words = {t for t in set(map(type, raw)) if issubclass(t, str | bool | np.bool_)}
        word = np.fromiter(map(words.__contains__, map(type, raw)), bool, len(raw))
        for i in np.flatnonzero(~word).tolist():
            if not (isinstance(raw[i], Real) and math.isfinite(raw[i])):
                raise ValueError(
                    f"{self.place(i)}: attribute {next(islice(self.names(), i, None))!r} is {brief(raw[i])}; wanted a "
                    "string, True, False or a finite number (leave out what is missing)"
                )
            values[i], raw[i] = raw[i], True
        return raw, values

    def names(self) -> Iterable[str]:
        """All names, end to end."""
        return chain.from_iterable(self.tokens)

    def values(self) -> Iterable[Any]:
        """All values of dicts, end to end."""
        return chain.from_iterable(map(methodcaller("values"), self.tokens))

    def place(self, item: int) -> str:
        """Where the name or entry `item` stands, in words."""
        return self.corpus.place(int(np.searchsorted(np.cumsum(self.sizes), item, side="right")))


def _read(sentences: Iterable[Sequence], feature: Attributes) -> _Said:
    corpus = Corpus.of(sentences)
    tokens, extract = corpus.tokens, feature.extract
    if extract is not None:
        tokens = [extract(sentence, i) for sentence in corpus.sentences for i in range(len(sentence))]
    kind = one_kind(tokens, corpus, _KINDS, _WANTED)
    if kind == "a string":
        tokens = [(name,) for name in tokens]
    elif any(issubclass(t, set | frozenset) for t in set(map(type, tokens))):
        tokens = [sorted(t, key=str) if isinstance(t, set | frozenset) else t for t in tokens]  # for a fixed order
    return _Said(feature, corpus, tokens, kind != "a dict", np.fromiter(map(len, tokens), np.int64, len(tokens)))


def _apart(thing: Any, feature: Attributes) -> tuple[Any, Any]:
    """What belongs to node and to pair: one of them gets nothing."""
    nothing: Any = NameTable(_Numbers(), True)
    if isinstance(thing, csr_matrix):
        nothing = csr_matrix((thing.get_shape()[0], 0), dtype=thing.dtype)
    return (nothing, thing) if feature.transitions else (thing, nothing)
