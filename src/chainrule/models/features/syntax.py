"""The language of templates: CRF++'s, with prefixes, suffixes and word shapes.

A template is text with *references*. At each token the references are replaced by what they find, and the result names
an attribute:

    %x[row,column]      the column of the token `row` places further on (−1: the one before)
    %p[row,column,n]    its first n characters          %s[row,column,n]    its last n characters
    %shape[row,column]  its shape, see `shape`

A column is a number, or the key of a dict. A template that begins with U describes a token, one that begins with B the
step into it; any other describes a token. Lines that are blank or begin with # say nothing.

Reference: Kudo (2005), CRF++: Yet another CRF toolkit.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from .words import prefix, shape, suffix

_REFERENCE = re.compile(
    r"%(?P<kind>shape|x|p|s)\[\s*(?P<row>[+-]?\d+)\s*,\s*(?P<column>[^],\[]*[^],\[\s])\s*(?:,\s*(?P<n>\d+)\s*)?\]"
)
_FORMS = "%x[row,column], %p[row,column,n], %s[row,column,n] or %shape[row,column]"


@dataclass(frozen=True)
class Source:
    """What a reference reads of the token it finds: a column, whole or cut. Its values have a vocabulary of their own."""

    column: int | str
    kind: str = "x"
    n: int = 0

    def read(self, value: str) -> str:
        """Cut a value of the column as the reference asks."""
        match self.kind:
            case "p":
                return prefix(value, self.n)
            case "s":
                return suffix(value, self.n)
            case "shape":
                return shape(value)
        return value


@dataclass(frozen=True)
class Template:
    """One template, read.

    Attributes:
        text: as it was written.
        literals, sources: the attribute's name is literal, value, literal, value, …, literal.
        rows: where each source is read, relative to the token.
        pair: it describes the step into a token, so that first tokens have none.
        at: "every" token, or the "first" or the "last" of a sentence.
    """

    text: str
    literals: tuple[str, ...]
    sources: tuple[Source, ...] = ()
    rows: tuple[int, ...] = ()
    pair: bool = False
    at: str = "every"

    @property
    def is_transition(self) -> bool:
        """Whether it is CRF++'s plain B, which looks at nothing but the labels."""
        return self.pair and not self.sources

    @property
    def pattern(self) -> tuple[Any, ...]:
        """What decides the attributes' names: templates that share it share attributes (a bag of words, in CRF++)."""
        return self.pair, self.literals, self.sources


def parse(texts: Iterable[str]) -> tuple[Template, ...]:
    """Read templates; each text may hold several lines.

    Raises:
        ValueError: text that is not a template, with its number (from 1) and what is wrong with it.
    """
    lines: list[str] = []
    for text in texts:
        if not isinstance(text, str):
            raise ValueError(f"a template is a {type(text).__name__}; wanted a string such as 'U00:%x[0,0]'")
        lines += [line.strip() for line in text.splitlines()]
    found: dict[str, Template] = {}
    shapes: dict[tuple[bool, tuple[str, ...]], Template] = {}
    for number, line in enumerate((line for line in lines if line and not line.startswith("#")), start=1):
        try:
            template = _parse(line)
            if line in found:
                raise ValueError("it is there already")
            other = shapes.setdefault((template.pair, template.literals), template)
            if other.sources != template.sources:
                raise ValueError(
                    f"its attributes would have the same names as those of {other.text!r}, which reads another column; "
                    "begin each with an id of its own, as in 'U03:…'"
                )
        except ValueError as error:
            raise ValueError(f"template {number}, {line!r}: {error}") from None
        found[line] = template
    return tuple(found.values())


def _parse(line: str) -> Template:
    literals, sources, rows, start = [], [], [], 0
    while (at := line.find("%", start)) >= 0:
        match = _REFERENCE.match(line, at)
        if match is None:
            raise ValueError(f"cannot read {line[at:]!r}; wanted {_FORMS}")
        kind, column, n = match["kind"], match["column"], match["n"]
        if (kind in "ps") != (n is not None) or n == "0":
            raise ValueError(f"cannot read {match[0]!r}; wanted {_FORMS}, with n from 1")
        literals.append(line[start:at])
        sources.append(Source(int(column) if column.isdecimal() else column, kind, int(n or 0)))
        rows.append(int(match["row"]))
        start = match.end()
    literals.append(line[start:])
    pair = line.startswith("B")
    if not sources and not line.startswith(("U", "B")):
        raise ValueError(f"it refers to nothing; wanted {_FORMS}, or U or B at its beginning")
    if not literals[0] and sources:
        literals[0] = f"{line}="  # without an id its own text is the id, or %x[-1,0] and %x[0,0] would be one attribute
    return Template(line, tuple(literals), tuple(sources), tuple(rows), pair)
