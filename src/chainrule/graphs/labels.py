"""Messages about labels: every graph class names what it does not know, and what is near it."""

import difflib
from collections.abc import Hashable, Iterable, Mapping
from typing import TypeVar

_T = TypeVar("_T")


def lookup(kind: str, label: Hashable, known: Mapping[Hashable, _T]) -> _T:
    """Return what belongs to a label.

    Raises:
        ValueError: an unknown label; the message names it and the known labels nearest to it.
    """
    try:
        return known[label]
    except (KeyError, TypeError):  # TypeError: not hashable, so surely not a label
        raise ValueError(f"unknown {kind} {label!r}; {_hint(label, known)}") from None


def first_duplicate(labels: Iterable[Hashable]) -> Hashable | None:
    """Return the first label seen twice, or None.

    Raises:
        ValueError: a label that is not hashable.
    """
    seen = set()
    for label in labels:
        if not isinstance(label, Hashable):
            raise ValueError(f"{label!r} cannot be a name: it is not hashable; use a string, a number or a tuple")
        if label in seen:
            return label
        seen.add(label)
    return None


def _hint(label, known) -> str:
    by_text = {str(other): other for other in known}
    near = difflib.get_close_matches(str(label), by_text, n=3, cutoff=0.6)
    if near:
        return "did you mean " + " or ".join(repr(by_text[text]) for text in near) + "?"
    shown = [repr(other) for other in list(known)[:6]]
    return "known are " + ", ".join(shown) + (", …" if len(known) > len(shown) else "")
