"""Small helpers for writing an `extract` function in a line or three."""

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any

from ...forms.checks import whole

_DIGIT_RUN = 4


def prefix(word: str, n: int) -> str:
    """Return the first n characters; a shorter word whole.

    Example:
        >>> prefix("running", 3), prefix("at", 3)
        ('run', 'at')
    """
    return word[: _length(n)]


def suffix(word: str, n: int) -> str:
    """Return the last n characters; a shorter word whole.

    Example:
        >>> suffix("running", 3), suffix("at", 3)
        ('ing', 'at')
    """
    return word[-n:] if _length(n) else ""


def _length(n: int) -> int:
    return whole(n, "n", least=0, why="a number of characters is not negative")


def shape(word: str) -> str:
    """Return the kinds of characters in a word: X upper case, x other letters, d digits, all else as it is.

    A run of letters of one kind becomes one character. A run of digits keeps its length up to four, because two and
    four digits are so often a year.

    Example:
        >>> [shape(word) for word in ["the", "Boston", "McDonald's", "IBM", "1987", "12,345.67", "A-4"]]
        ['x', 'Xx', "XxXx'x", 'X', 'dddd', 'dd,ddd.dd', 'X-d']

    Reference: Collins (2002), Ranking algorithms for named-entity extraction; Bikel, Schwartz & Weischedel (1999), An
        algorithm that learns what's in a name, for the digits.
    """
    kinds = "".join("X" if c.isupper() else "x" if c.isalpha() else "d" if c.isdigit() else c for c in word)
    return "".join(
        k * min(len(list(run)), _DIGIT_RUN if k == "d" else 1) if k in "Xxd" else "".join(run)
        for k, run in groupby(kinds)
    )


def window(tokens: Sequence[Any], i: int, radius: int, describe: Callable[[Any], Any] | None = None) -> dict[str, Any]:
    """Describe the tokens around position i, at most `radius` away, under names that say how far.

    Nothing is said of positions outside the sentence.

    Args:
        tokens: the sentence.
        i: the position, from 0.
        radius: how far to look; 2 means five tokens.
        describe: gives a dict (name → value) or a string (then called "word") for one token. By default a token speaks
            for itself: a string, a dict, or a tuple of columns, which are called "0", "1", ….

    Raises:
        ValueError: a token, or what `describe` makes of it, is none of these.

    Example:
        >>> window(["Rolls", "Royce", "said"], 1, 1)
        {'word[-1]': 'Rolls', 'word[0]': 'Royce', 'word[1]': 'said'}
        >>> window(["Rolls", "Royce", "said"], 0, 1, lambda word: {"shape": shape(word), "end": suffix(word, 2)})
        {'shape[0]': 'Xx', 'end[0]': 'ls', 'shape[1]': 'Xx', 'end[1]': 'ce'}
    """
    whole(radius, "radius", least=0, why="0 looks at the token itself, 1 at its neighbours too")
    found: dict[str, Any] = {}
    for j in range(max(i - radius, 0), min(i + radius + 1, len(tokens))):
        said = tokens[j] if describe is None else describe(tokens[j])
        if isinstance(said, str):
            said = {"word": said}
        elif isinstance(said, tuple | list):
            said = dict(enumerate(said))
        elif not isinstance(said, Mapping):
            raise ValueError(f"token {j} is described by a {type(said).__name__}; wanted a string, a dict or a tuple")
        found |= {f"{name}[{j - i}]": value for name, value in said.items()}
    return found
