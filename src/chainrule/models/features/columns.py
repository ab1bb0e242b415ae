"""The columns of tokens as arrays of numbers, which window templates are made of."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any

import numpy as np

from .corpus import Corpus, brief, one_kind
from .syntax import Source, Template

_KINDS = {"a string": str, "a dict": Mapping, "a list of columns": (tuple, list, np.ndarray)}
_COLUMN_TYPES = (str, int, bool, np.integer, np.bool_)


class Reader:
    """Reads the columns that templates need from one corpus, each once."""

    def __init__(self, corpus: Corpus, templates: Sequence[Template], outside: str | None):
        self.corpus = corpus
        self.templates = templates
        reach = max((abs(row) for t in templates for row in t.rows), default=0)
        before, after = ([f"_B{side}{i}" for i in range(1, reach + 1)] for side in "-+")
        self.padding = before + after if outside else []
        wanted = "all strings, all tuples or lists of columns, or all dicts"
        self.kind = one_kind(corpus.tokens, corpus, _KINDS, wanted) if any(t.sources for t in templates) else ""
        self.columns = {c: self.column(c) for c in dict.fromkeys(s.column for t in templates for s in t.sources)}
        self.numbers: Mapping[Source, Mapping[str, int]] = {}
        self.shifted: dict[tuple[Source, int], np.ndarray] = {}

    def number(self, numbers: Mapping[Source, Mapping[str, int]]) -> None:
        """Say which numbers the strings have; all others are −1."""
        self.numbers = numbers
        for source, known in numbers.items():
            strings, which = self.columns[source.column]
            found = np.fromiter((known.get(source.read(s), -1) for s in strings), np.int64, len(strings))
            self.shifted[source, 0] = found[which]

    def vocabulary(self, source: Source) -> list[str]:
        """All that a source finds here, the names of the places outside first."""
        return list(dict.fromkeys([*self.padding, *map(source.read, self.columns[source.column][0])]))

    def codes(self, template: Template) -> list[np.ndarray]:
        """What a template's references find at each token, as numbers; −1: nothing, or nothing known."""
        corpus = self.corpus
        columns = [self.shift(*where) for where in zip(template.sources, template.rows, strict=True)]
        columns = columns or [np.zeros(len(corpus.tokens), np.int64)]
        if template.pair:
            here = corpus.position > 0
        elif template.at in ("first", "last"):
            here = (corpus.position if template.at == "first" else corpus.remaining) == 0
        else:
            return columns
        return [np.where(here, codes, -1) for codes in columns]

    def column(self, column: int | str) -> tuple[list[str], np.ndarray]:
        """The different strings of a column, in order of appearance, and which one each token has."""
        values = self._values(column)
        types = set(map(type, values))
        if not all(issubclass(t, str) for t in types):
            self._check_types(column, values, types)
            values = list(map(str, values))
        seen: defaultdict[str, int] = defaultdict()
        seen.default_factory = seen.__len__
        which = np.fromiter(map(seen.__getitem__, values), np.int64, len(values))
        return list(seen), which

    def shift(self, source: Source, row: int) -> np.ndarray:
        """The number of what a source finds `row` tokens after each token."""
        if (source, row) not in self.shifted:
            self.shifted[source, row] = self._shift(source, row)
        return self.shifted[source, row]

    def _shift(self, source: Source, row: int) -> np.ndarray:
        here = self.shifted[source, 0]
        there = np.full_like(here, -1)
        if row < 0:
            there[-row:] = here[:row]
            beyond = -row - 1 - self.corpus.position  # 0: one token before the sentence
        else:
            there[:-row] = here[row:]
            beyond = row - 1 - self.corpus.remaining
        if not self.padding:
            return np.where(beyond >= 0, -1, there)
        half = len(self.padding) // 2
        names = self.padding[:half] if row < 0 else self.padding[half:]
        numbers = np.array([self.numbers[source][name] for name in names])
        return np.where(beyond >= 0, numbers[beyond.clip(0)], there)

    def _values(self, column: int | str) -> list[Any]:
        tokens = self.corpus.tokens
        if self.kind == "a string":
            if column == 0:
                return tokens
            raise ValueError(
                f"{self._reader_of(column)} reads column {column!r}, but the tokens are strings, which have column 0 only"
            )
        try:
            return list(map(itemgetter(column), tokens))
        except (IndexError, KeyError, TypeError):
            token = next(i for i, t in enumerate(tokens) if not _has(t, column))
        raise ValueError(
            f"{self._reader_of(column)} reads column {column!r}, which {self.corpus.place(token)} lacks: "
            f"{brief(tokens[token])}"
        )

    def _check_types(self, column: int | str, values: list[Any], types: set[type]) -> None:
        if all(issubclass(t, _COLUMN_TYPES) for t in types):
            return
        token = next(i for i, v in enumerate(values) if not isinstance(v, _COLUMN_TYPES))
        raise ValueError(
            f"column {column!r} of {self.corpus.place(token)} is {brief(values[token])}; wanted a string (or an "
            "integer); for real values use attributes()"
        )

    def _reader_of(self, column: int | str) -> str:
        return f"template {next(t.text for t in self.templates if any(s.column == column for s in t.sources))!r}"


def _has(token: Any, column: int | str) -> bool:
    try:
        token[column]
    except (IndexError, KeyError, TypeError):
        return False
    return True
