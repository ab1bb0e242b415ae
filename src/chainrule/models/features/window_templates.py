"""Window templates: attributes made of the columns of neighbouring tokens, by integer arithmetic.

The strings of each column are numbered once. A template with references r_1 … r_m then finds, at every token at once,
the numbers c_1 … c_m (arrays shifted by its rows), and its attributes are the distinct tuples. They are numbered level
by level, as in a trie: the number of (c_1, …, c_j) is the rank of

    rank(c_1, …, c_{j−1}) · V_j + c_j

among those that training has seen, V_j being the size of the j-th vocabulary. So the trie is m sorted arrays of integers,
learning is a sort, looking up a search, and the names, which are strings, are only made for those who ask.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import repeat
from typing import Any, NamedTuple

import numpy as np

from ...forms.checks import whole
from .columns import Reader
from .corpus import Corpus, Matrices, assemble, is_binary, unknown_name
from .syntax import Source, Template, parse

_BOUNDARIES = (Template("BOS", ("BOS",), at="first"), Template("EOS", ("EOS",), at="last"))


def templates(*texts: str, outside: str | None = None, boundaries: bool = False, min_count: int = 1) -> "Templates":
    """Read window templates in the language of CRF++.

    `"%x[-1,0]/%x[0,0]"` makes, at each token, one attribute of column 0 of the token before and of the token itself.
    Tokens are tuples or lists of columns, plain strings (column 0), or dicts (`"%x[0,word]"`). Also understood are
    `%p[row,column,n]` (the first n characters), `%s[row,column,n]` (the last n) and `%shape[row,column]`.

    A template that begins with B describes the step from the token before to this one, for weights that depend on both
    labels; B alone, or with an id only, is the plain transition (`transition` is then true). All others describe the
    token; the U of CRF++ may be left out, and a template that begins with a reference is called by its own text.

    Templates that differ in their rows alone share their attributes, as in CRF++: `"U:%x[-1,0]"` and `"U:%x[0,0]"` make
    a bag of words, where a word seen twice has the value 2. Give them ids (`U00:`, `U01:`) to tell them apart. Values
    are compared one by one: the columns "a/b", "c" and "a", "b/c" are different attributes, though `%x[0,0]/%x[0,1]`
    gives both the same name.

    Args:
        texts: templates, or lines of them: a whole CRF++ file will do, with its comments.
        outside: what a window finds where there is no token. None: the template makes no attribute there.
            "boundary": CRF++'s `_B-1`, `_B-2`, … before the sentence and `_B+1`, … after it.
        boundaries: add the attributes BOS and EOS, at the first and the last token.
        min_count: leave out attributes that occur less often in the training data.

    Raises:
        ValueError: a template that cannot be read, with its number and text; one that is there twice; none at all.

    Example:
        >>> feature = templates("U00:%x[0,0]", "U01:%x[-1,1]/%x[0,1]", "B")
        >>> index, matrices = feature.learn([[("the", "DT"), ("dog", "NN")], [("the", "DT")]])
        >>> index.node.names()
        ['U00:the', 'U00:dog', 'U01:DT/NN']
        >>> matrices.node.toarray().tolist()
        [[1.0, 0.0, 0.0], [0.0, 1.0, 1.0], [1.0, 0.0, 0.0]]
        >>> index.matrices([[("cat", "DT"), ("cat", "NN")]]).node.toarray().tolist()
        [[0.0, 0.0, 0.0], [0.0, 0.0, 1.0]]

    Reference: Kudo (2005), CRF++: Yet another CRF toolkit.
    """
    if outside not in (None, "boundary"):
        raise ValueError(f"outside is {outside!r}; wanted None or 'boundary'")
    found = parse(texts) + (_BOUNDARIES if boundaries else ())
    if not found:
        raise ValueError("there are no templates; wanted at least one, such as 'U00:%x[0,0]'")
    return Templates(found, outside, whole(min_count, "min_count", why="attributes occur once or more"))


@dataclass(frozen=True)
class Templates:
    """Window templates, before they have seen data; build one with `templates`."""

    parsed: tuple[Template, ...]
    outside: str | None
    min_count: int

    @property
    def transition(self) -> bool:
        """Whether a plain B is among them."""
        return any(t.is_transition for t in self.parsed)

    @property
    def sources(self) -> tuple[Source, ...]:
        """What the references read, each once."""
        return tuple(dict.fromkeys(source for t in self.parsed for source in t.sources))

    def groups(self, *, pair: bool) -> list[tuple[Template, ...]]:
        """The templates of one matrix; those that share attributes are together."""
        together: dict[Any, list[Template]] = {}
        for t in self.parsed:
            if t.pair == pair and not t.is_transition:
                together.setdefault(t.pattern, []).append(t)
        return [tuple(group) for group in together.values()]

    def learn(self, sentences: Iterable[Sequence], *, dtype: Any = np.float64) -> "tuple[TemplateIndex, Matrices]":
        """Find the attributes that occur, and make the matrices of these sentences.

        Attributes are numbered template by template.

        Args:
            sentences: lists of tokens, which are all tuples (or lists) of columns, all strings, or all dicts.
            dtype: of the matrices.

        Raises:
            ValueError: no sentences, an empty one or a plain string; tokens of different kinds; a token that lacks a
                column, or whose column is no string (or integer); the message says which.
        """
        reader = Reader(Corpus.of(sentences), self.parsed, self.outside)
        vocabularies = {source: reader.vocabulary(source) for source in self.sources}
        reader.number({source: _numbers(words) for source, words in vocabularies.items()})
        tables, matrices = [], []
        for pair in (False, True):
            tries, ranks = [], []
            for group in self.groups(pair=pair):
                sizes = tuple(len(vocabularies[source]) for source in group[0].sources) or (1,)
                levels, rank = _descend(_codes(reader, group), sizes, min_count=self.min_count)
                tries.append(_Trie(group, sizes, levels))
                ranks.append(rank)
            matrix = _matrix(tries, ranks, len(reader.corpus.tokens), dtype)
            tables.append(TemplateTable(tuple(tries), vocabularies, is_binary(matrix)))
            matrices.append(matrix)
        return TemplateIndex(self, vocabularies, *tables), Matrices(*matrices)

    def state(self) -> dict[str, Any]:
        """Return all there is to know as strings and numbers, for saving."""
        written = [t for t in self.parsed if t not in _BOUNDARIES]
        return {
            "templates": [t.text for t in written],
            "outside": self.outside,
            "boundaries": len(written) < len(self.parsed),
            "min_count": self.min_count,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "Templates":
        """Build the templates again from their `state`."""
        named = ("outside", "boundaries", "min_count")
        return templates(*state["templates"], **{name: state[name] for name in named})

    def __repr__(self):
        return f"Templates({len(self.parsed)} template{'s' * (len(self.parsed) != 1)})"


class _Trie(NamedTuple):
    """The attributes of templates that share them: sorted keys, level by level; the last level's are the attributes."""

    templates: tuple[Template, ...]
    sizes: tuple[int, ...]
    levels: tuple[np.ndarray, ...]

    def codes(self, attributes: np.ndarray) -> list[np.ndarray]:
        """The vocabulary numbers that attributes consist of, one array per reference."""
        found, rank = [], attributes
        for level, size in zip(self.levels[:0:-1], self.sizes[:0:-1], strict=True):
            rank, code = np.divmod(level[rank], size)
            found.append(code)
        return [self.levels[0][rank], *reversed(found)]


# Up to so many tokens it is calls of NumPy that take the time: one for all templates is faster than one for each.
_FEW = 1000


class _Level(NamedTuple):
    """A level of all tries at once, for those templates that go so deep.

    Attributes:
        templates: which templates those are.
        sizes, bases, starts: of each template's trie, the size of a code, what is added to its keys so that those of all
            tries are apart, and where they begin in `keys`; shape (template, 1).
        keys: of all tries, sorted.
    """

    templates: np.ndarray
    sizes: np.ndarray
    bases: np.ndarray
    starts: np.ndarray
    keys: np.ndarray


class _Forest(NamedTuple):
    """The tries of several templates, to be gone down together; `offsets` of each template, shape (template, 1)."""

    levels: tuple[_Level, ...]
    offsets: np.ndarray

    @classmethod
    def of(cls, tries: Sequence[_Trie], offsets: np.ndarray) -> "_Forest":
        owner = np.repeat(np.arange(len(tries)), [len(trie.templates) for trie in tries])
        depth, levels = np.array([len(trie.levels) for trie in tries]), []
        for d in range(int(depth.max())):
            deep = np.flatnonzero(depth > d).tolist()
            widths = [(len(tries[n].levels[d - 1]) if d else 1) * tries[n].sizes[d] for n in deep]
            number = np.zeros(len(tries), np.int64)
            number[deep] = np.arange(len(deep))
            bases = np.cumsum([0, *widths])[:-1]
            parts = [tries[n].levels[d] for n in deep]
            starts = np.cumsum([0, *map(len, parts)])[:-1]
            mine = np.flatnonzero(depth[owner] > d)
            which = number[owner[mine]]
            sizes = np.array([tries[n].sizes[d] for n in deep], np.int64)
            sizes, bases_of, starts = (column[which][:, None] for column in (sizes, bases, starts))
            keys = np.concatenate([part + base for part, base in zip(parts, bases, strict=True)])
            levels.append(_Level(mine, sizes, bases_of, starts, keys))
        return cls(tuple(levels), offsets[owner][:, None])

    def look_up(self, codes: list[list[np.ndarray]]) -> np.ndarray:
        """The attribute that each template finds at each token, (template, token), −1 if training has not seen it."""
        rank = np.zeros((len(codes), len(codes[0][0])), np.int64)
        for depth, level in enumerate(self.levels):
            code, above = np.stack([codes[t][depth] for t in level.templates]), rank[level.templates]
            key = np.where((above < 0) | (code < 0), -1, above * level.sizes + code + level.bases)
            at = np.minimum(np.searchsorted(level.keys, key), max(len(level.keys) - 1, 0))
            hit = level.keys[at] == key if len(level.keys) else np.zeros(key.shape, bool)
            rank[level.templates] = np.where(hit, at - level.starts, -1)
        return np.where(rank < 0, -1, rank + self.offsets)


@dataclass(frozen=True, eq=False)
class TemplateTable:
    """The attributes that templates have made in training, numbered from 0.

    Attributes:
        tries: of each group of templates, the numbers.
        vocabularies: the strings that the numbers stand for.
        binary: in training, all values were 1.

    Example:
        >>> index, _ = templates("U00:%x[0,0]").learn([["a", "b"]])
        >>> index.node.num_attributes, index.node.name(1), index.node.find("U00:b")
        (2, 'U00:b', 1)
    """

    tries: tuple[_Trie, ...]
    vocabularies: Mapping[Source, list[str]]
    binary: bool

    @cached_property
    def offsets(self) -> np.ndarray:
        """Where the attributes of each group of templates begin, and at the end how many there are."""
        return np.cumsum([0, *(len(trie.levels[-1]) for trie in self.tries)])

    @cached_property
    def forest(self) -> _Forest:
        """The tries, to be gone down together."""
        return _Forest.of(self.tries, self.offsets)

    @property
    def num_attributes(self) -> int:
        """How many attributes there are."""
        return int(self.offsets[-1])

    def kinds(self) -> np.ndarray:
        """The number of the group of templates that made each attribute."""
        return np.repeat(np.arange(len(self.tries)), np.diff(self.offsets))

    def name(self, attribute: int) -> str:
        """Write out one attribute."""
        if not 0 <= attribute < self.num_attributes:
            raise ValueError(f"there is no attribute {attribute}; wanted 0 … {self.num_attributes - 1}")
        group = int(np.searchsorted(self.offsets, attribute, side="right")) - 1
        return self._names(self.tries[group], np.array([attribute - self.offsets[group]]))[0]

    def names(self) -> list[str]:
        """Write out all attributes, in their order."""
        return [name for trie in self.tries for name in self._names(trie, np.arange(len(trie.levels[-1])))]

    def find(self, name: str) -> int:
        """Return the number of an attribute; of several that are written alike, the first.

        Raises:
            ValueError: training has not seen it.
        """
        if name not in self._numbers:
            raise unknown_name(name, self.name(0) if self.num_attributes else None)
        return self._numbers[name]

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return _numbers(self.names())

    def _names(self, trie: _Trie, attributes: np.ndarray) -> list[str]:
        first, *literals = trie.templates[0].literals
        if not literals:
            return [first] * len(attributes)
        parts: list[Iterable[str]] = [repeat(first)]
        for source, codes, literal in zip(trie.templates[0].sources, trie.codes(attributes), literals, strict=True):
            parts += [map(self.vocabularies[source].__getitem__, codes.tolist()), repeat(literal)]
        return list(map("".join, zip(*parts)))  # noqa: B905  (the literals repeat for ever)

    def __repr__(self):
        return f"TemplateTable({self.num_attributes} attributes)"


@dataclass(frozen=True, eq=False)
class TemplateIndex:
    """Window templates that have seen data: what `Templates.learn` returns.

    Attributes:
        feature: the templates.
        vocabularies: the strings that each of their references has found.
        node, pair: the attributes of tokens, and of steps between them.
    """

    feature: Templates
    vocabularies: Mapping[Source, list[str]]
    node: TemplateTable
    pair: TemplateTable

    def matrices(self, sentences: Iterable[Sequence], *, dtype: Any = np.float64) -> Matrices:
        """Describe sentences by the attributes that training has seen; shapes as in `Matrices`.

        Raises:
            ValueError: as `Templates.learn`.
        """
        reader = Reader(Corpus.of(sentences), self.feature.parsed, self.feature.outside)
        reader.number(self._codes)
        found = []
        size = len(reader.corpus.tokens)
        for table in (self.node, self.pair):
            if size <= _FEW and table.tries:
                columns = table.forest.look_up([reader.codes(t) for trie in table.tries for t in trie.templates])
                values = np.ones(columns.size, dtype)
                found.append(
                    assemble(columns.T.ravel(), np.full(size, len(columns)), table.num_attributes, values, dtype)
                )
                continue
            ranks = [_descend(_codes(reader, t.templates), t.sizes, t.levels)[1] for t in table.tries]
            found.append(_matrix(table.tries, ranks, size, dtype))
        return Matrices(*found)

    @cached_property
    def _codes(self) -> dict[Source, dict[str, int]]:
        return {source: _numbers(words) for source, words in self.vocabularies.items()}

    def state(self) -> dict[str, Any]:
        """Return all that was learned as arrays, strings, numbers, lists and dicts, for saving."""
        return {
            **self.feature.state(),
            "vocabularies": [self.vocabularies[source] for source in self.feature.sources],
            "levels": [[list(trie.levels) for trie in table.tries] for table in (self.node, self.pair)],
            "binary": [self.node.binary, self.pair.binary],
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "TemplateIndex":
        """Build the index again from its `state`.

        Raises:
            ValueError: a state that is not whole: vocabularies or levels that do not fit the templates.
        """
        feature = Templates.from_state(state)
        vocabularies = dict(zip(feature.sources, state["vocabularies"], strict=True))
        tables = []
        for pair, all_levels, binary in zip((False, True), state["levels"], state["binary"], strict=True):
            tries = []
            for group, levels in zip(feature.groups(pair=pair), all_levels, strict=True):
                sizes = tuple(len(vocabularies[source]) for source in group[0].sources) or (1,)
                _check_levels(levels, sizes)
                tries.append(_Trie(group, sizes, tuple(levels)))
            tables.append(TemplateTable(tuple(tries), vocabularies, binary))
        return cls(feature, vocabularies, *tables)

    def __repr__(self):
        pairs = f", {self.pair.num_attributes} pair attributes" if self.pair.num_attributes else ""
        return f"TemplateIndex({self.node.num_attributes} attributes{pairs})"


def _codes(reader: Reader, group: Sequence[Template]) -> list[np.ndarray]:
    """What templates with the same references find, one after the other: an array per reference."""
    found = [reader.codes(template) for template in group]
    return found[0] if len(group) == 1 else [np.concatenate(column) for column in zip(*found, strict=True)]


def _descend(
    codes: list[np.ndarray], sizes: Sequence[int], levels: Sequence[np.ndarray] | None = None, min_count: int = 1
) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    """Go down the trie with all tokens at once, building it if there is none; return it and the ranks, −1 if unseen."""
    built, rank, width = [], np.zeros_like(codes[0]), 1
    for depth, (code, size) in enumerate(zip(codes, sizes, strict=True), start=1):
        key = np.where((rank < 0) | (code < 0), -1, rank * size + code)
        least = min_count if depth == len(sizes) else 1
        level = _seen(key, width * size, least) if levels is None else levels[depth - 1]
        rank, width = _rank(key, level, width * size), len(level)
        built.append(level)
    return tuple(built), rank


# Where keys are small, a table of all of them is faster than sorting or searching: within this factor of the tokens.
_DENSE = 4


def _seen(keys: np.ndarray, space: int, min_count: int) -> np.ndarray:
    """The keys in 0 … space − 1 that occur `min_count` times or more, sorted."""
    if space <= _DENSE * len(keys):
        return np.flatnonzero(np.bincount(keys + 1, minlength=space + 1)[1:] >= min_count)
    seen, counts = np.unique(keys[keys >= 0], return_counts=True)
    return seen[counts >= min_count]


def _rank(keys: np.ndarray, level: np.ndarray, space: int) -> np.ndarray:
    """Where each key stands in a sorted array, −1 if nowhere."""
    if space <= _DENSE * len(keys):
        ranks = np.full(space + 1, -1)  # the last entry answers for the key −1
        ranks[level] = np.arange(len(level))
        return ranks[keys]
    if not len(level):
        return np.full(len(keys), -1)
    at = np.minimum(np.searchsorted(level, keys), len(level) - 1)
    return np.where(level[at] == keys, at, -1)


def _matrix(tries: Sequence[_Trie], ranks: list[np.ndarray], num_tokens: int, dtype: Any):
    """The attributes of each token: one column of ranks per template, side by side."""
    width = sum(len(trie.templates) for trie in tries)
    columns, column, offset = np.empty((num_tokens, width), np.int32), 0, 0
    for trie, rank in zip(tries, ranks, strict=True):
        for part in rank.reshape(len(trie.templates), num_tokens):
            columns[:, column] = np.where(part < 0, -1, part + offset)
            column += 1
        offset += len(trie.levels[-1])
    values = np.ones(columns.size, dtype)
    return assemble(columns.ravel(), np.full(num_tokens, width), offset, values, dtype)


def _check_levels(levels: Sequence[np.ndarray], sizes: Sequence[int]) -> None:
    """Refuse arrays that are not a trie, or a damaged file would give wrong names."""
    width = 1
    if len(levels) != len(sizes):
        raise ValueError(f"a template with {len(sizes)} references has {len(levels)} levels")
    for level, size in zip(levels, sizes, strict=True):
        fits = not len(level) or (level[0] >= 0 and level[-1] < width * size and (np.diff(level) > 0).all())
        if level.ndim != 1 or level.dtype != np.int64 or not fits:
            raise ValueError(f"a level of a template is not a sorted array of integers in 0 … {width * size - 1}")
        width = len(level)


def _numbers(words: Sequence[str]) -> dict[str, int]:
    """Word → number, the first of equal ones."""
    return dict(zip(reversed(words), range(len(words) - 1, -1, -1), strict=True))
