"""Sentences laid end to end, and the sparse matrices that features make of them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from scipy.sparse import csr_matrix


class Matrices(NamedTuple):
    """What a feature says about sentences laid end to end.

    Attributes:
        node: x, shape (tokens, node attributes): row t describes token t.
        pair: z, shape (tokens, pair attributes): row t describes the step from token t − 1 to token t, so that the rows
            of first tokens are empty.
    """

    node: csr_matrix
    pair: csr_matrix


@dataclass(frozen=True, eq=False)
class Corpus:
    """Sentences end to end: `tokens` of all of them, and how long each is."""

    sentences: list[Sequence]
    tokens: list[Any]
    lengths: np.ndarray

    @classmethod
    def of(cls, sentences: Iterable[Sequence]) -> "Corpus":
        """Check the sentences, which must not be empty, and join them."""
        if isinstance(sentences, str):
            raise ValueError(f"wanted a list of sentences, got the string {brief(sentences)}; pass [text.split()]")
        sentences = list(sentences)
        if not sentences:
            raise ValueError("there are no sentences; wanted at least one")
        for i, sentence in enumerate(sentences):
            if isinstance(sentence, str):
                raise ValueError(
                    f"sentence {i} is the string {brief(sentence)}; a sentence is a list of tokens: pass "
                    "sentence.split() for words, list(sentence) for characters, and [sentence] for a single sentence"
                )
            if isinstance(sentence, dict | set | frozenset) or not hasattr(sentence, "__len__"):
                raise ValueError(
                    f"sentence {i} is a {type(sentence).__name__}; wanted a list of tokens (and [sentence] for one)"
                )
            if len(sentence) == 0:
                raise ValueError(f"sentence {i} is empty; leave it out")
        lengths = np.fromiter(map(len, sentences), np.int64, len(sentences))
        return cls(sentences, list(chain.from_iterable(sentences)), lengths)

    @cached_property
    def position(self) -> np.ndarray:
        """Where in its sentence each token is, from 0."""
        return np.arange(len(self.tokens)) - np.repeat(np.cumsum(self.lengths) - self.lengths, self.lengths)

    @cached_property
    def remaining(self) -> np.ndarray:
        """How many tokens follow each token in its sentence."""
        return np.repeat(self.lengths, self.lengths) - 1 - self.position

    def place(self, token: int) -> str:
        """Name a token in a message, both numbers from 0."""
        sentence = int(np.searchsorted(np.cumsum(self.lengths), token, side="right"))
        return f"token {int(self.position[token])} of sentence {sentence}"


def assemble(columns: np.ndarray, sizes: np.ndarray, num_columns: int, values: np.ndarray, dtype: Any) -> csr_matrix:
    """Build the matrix whose row t holds the next `sizes[t]` entries.

    Columns of −1 are left out, repeated ones add up, and zeros are not stored.
    """
    known = columns >= 0
    kept = np.concatenate([[0], np.cumsum(known)])
    indptr = kept[np.concatenate([[0], np.cumsum(sizes)])]
    matrix = csr_matrix(
        (values[known].astype(dtype, copy=False), columns[known], indptr), shape=(len(sizes), num_columns)
    )
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    return matrix


def is_binary(matrix: csr_matrix) -> bool:
    """Whether everything stored is 1."""
    return bool((matrix.data == 1).all())


def unknown_name(name: str, example: str | None) -> ValueError:
    """The answer to a question about an attribute that is not there."""
    hint = f"names look like {example!r}" if example is not None else "there are none"
    return ValueError(f"no attribute is called {name!r}; {hint}")


def one_kind(things: Sequence[Any], corpus: Corpus, kinds: Mapping[str, Any], wanted: str) -> str:
    """Which of `kinds` (in words → types; the first that fits) the tokens all are.

    Raises:
        ValueError: some are of another kind than the first, or of none.
    """
    found = {t: next((kind for kind in kinds if issubclass(t, kinds[kind])), "") for t in set(map(type, things))}
    first = found[type(things[0])]
    if set(found.values()) == {first} and first:
        return first
    token = next(i for i, thing in enumerate(things) if not first or found[type(thing)] != first)
    seen = f" (the first token is {first})" if first else ""
    raise ValueError(f"{corpus.place(token)} is {brief(things[token])}{seen}; wanted {wanted}")


def brief(value: Any) -> str:
    """Write a value out for a message."""
    text = repr(value)
    return text if len(text) <= 60 else text[:59] + "…"
