"""What associative memories check before they take an array."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np

from ...forms.chain import is_concrete
from ...forms.layouts import as_floats
from ...graphs.labels import first_duplicate


def check_signs(values, name: str, *, size: int | None = None, ndim: tuple[int, ...] = (1, 2)) -> Any:
    """Return an array of −1 and +1, with `size` units on its last axis.

    Raises:
        ValueError: another shape, or another value; the message names where, and says what to do about 0/1.
    """
    values = values if hasattr(values, "dtype") else np.asarray(values)
    if values.ndim not in ndim or (size is not None and values.shape[-1] != size):
        wanted = " or ".join({1: "({})", 2: "(several, {})"}[n].format(size or "unit") for n in ndim)
        raise ValueError(f"{name} has shape {values.shape}; wanted {wanted}")
    if (masked := np.argwhere(np.ma.getmask(values))).size:
        raise ValueError(f"{name}{masked[0].tolist()} is masked; give -1 or +1, and recall repairs what is wrong")
    if is_concrete(values):
        rows = np.asarray(values)
        wrong = np.argwhere(~((rows == 1) | (rows == -1)))
        if len(wrong):
            binary = ((rows == 0) | (rows == 1)).all()
            advice = "0/1 values are 2 * x - 1 here" if binary else "round or repair them first"
            place = tuple(wrong[0].tolist())
            raise ValueError(f"{name}{list(place)} is {rows[place]}; units are -1 or +1 ({advice})")
    return np.asarray(values) if isinstance(values, np.ndarray) else values  # without the mask that masks nothing


def check_numbers(values, describe: Callable[[tuple[int, ...]], str]) -> None:
    """Raise a ValueError that names the first entry that is NaN or infinite."""
    if not is_concrete(values):
        return
    wrong = np.argwhere(~np.isfinite(np.asarray(values)))
    if len(wrong):
        place = tuple(wrong[0].tolist())
        raise ValueError(f"{describe(place)} is {np.asarray(values)[place]}; wanted a finite number")


def check_labels(units: Sequence[Hashable] | None, size: int) -> tuple[Hashable, ...]:
    """Names of units, one each.

    Raises:
        ValueError: another number of names, or one twice.
    """
    names = tuple(range(size)) if units is None else tuple(units)
    if len(names) != size:
        raise ValueError(f"{len(names)} names for {size} units")
    if (twice := first_duplicate(names)) is not None:
        raise ValueError(f"the name {twice!r} is given to two units")
    return names


def check_sweeps(max_sweeps: int) -> None:
    """Raise a ValueError if there is no sweep to be made."""
    if max_sweeps < 1:
        raise ValueError(f"max_sweeps is {max_sweeps}; at least one is needed")


def as_array(values, dtype=None) -> Any:
    """A floating array on the device."""
    if dtype is not None and isinstance(values, np.ndarray):
        values = values.astype(dtype)
    values = as_floats(values)
    return values if dtype is None else values.astype(dtype)
