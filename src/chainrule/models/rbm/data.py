"""What users pass as rows of data, checked and laid out for the engine."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ...forms.chain import is_concrete


class Rows(NamedTuple):
    """Rows as they are kept during a computation: small integers where the units are discrete.

    `observed` is None where nothing is missing. `single` says that one vector was given, and not a table of them.
    """

    values: Any
    observed: Any
    single: bool


def as_rows(machine, v, *, missing: bool = False) -> Rows:
    """Rows (n, units) of values, each checked.

    Args:
        machine: whose visible units they are.
        v: one vector (units,) or several (n, units): booleans, integers or floats; masked arrays know what is missing.
        missing: whether entries may be missing: NaN, −1 for categorical units, or masked.

    Raises:
        ValueError: a shape that does not fit, values that the units cannot take, or missing ones where all are needed.
    """
    if not is_concrete(v):
        return _traced(machine, v, missing)
    hidden = np.ma.getmaskarray(v) if isinstance(v, np.ma.MaskedArray) else None
    values = np.asarray(v)
    if values.dtype.kind not in "buif":
        raise ValueError(f"data have dtype {values.dtype}; wanted booleans, integers or floats")
    single = values.ndim == 1
    values = values[None] if single else values
    if values.ndim != 2 or values.shape[1] != machine.num_visible:
        raise ValueError(
            f"data have shape {np.shape(v)}; wanted (rows, {machine.num_visible}), a column for each visible unit: "
            "flatten images by images.reshape(len(images), -1)"
        )
    if not len(values):
        raise ValueError("there are no rows of data")
    gone = _missing(machine, values, hidden)
    if gone is not None and not missing:
        row, column = np.argwhere(gone)[0]
        raise ValueError(
            f"row {row}, unit {column} is missing, and this needs all values: use complete(key, v, known=…) to fill them in"
        )
    observed = None if gone is None else ~gone
    if not (machine.visible.width == 1 and machine.discrete and _is_binary(values)):
        machine.visible.check(values, np.ones((), bool) if observed is None else observed)
    if machine.discrete:  # values were checked, so that the conversion loses nothing
        width = machine.visible.width
        kind = np.dtype(np.uint8 if width == 1 else np.int8 if width < 128 else np.int32)
        empty = 0 if width == 1 else -1
    else:
        kind, empty = np.dtype(machine.dtype), 0
    if gone is not None:
        values = np.where(gone, empty, values)
    return Rows(values.astype(kind, copy=False), observed, single)


def _missing(machine, values, hidden):
    """Which entries are missing; None if all are there."""
    found = [] if hidden is None else [hidden.reshape(values.shape)]
    if values.dtype.kind == "f":
        found.append(np.isnan(values))
    if machine.visible.width > 1 and values.dtype.kind in "if":
        found.append(values == -1)
    gone = np.logical_or.reduce(found) if found else np.zeros((), bool)
    return gone if gone.any() else None


def _is_binary(values) -> bool:
    """Whether values are plainly 0 or 1, by a look that costs less than finding the ones that are not."""
    return values.dtype.kind == "b" or (values.dtype.kind == "u" and values.max() <= 1)


def _traced(machine, v, missing) -> Rows:
    """Rows inside somebody's `jit`: nothing can be checked, and nothing is missing but −1 in categorical units."""
    single = v.ndim == 1
    values = v[None] if single else v
    if values.ndim != 2 or values.shape[1] != machine.num_visible:
        raise ValueError(f"data have shape {v.shape}; wanted (rows, {machine.num_visible})")
    return Rows(values, values >= 0 if missing and machine.visible.width > 1 else None, single)


def columns(machine, values):
    """Rows of values as columns x."""
    return machine.visible.encode(jnp.asarray(values), machine.dtype)


def spread(machine, observed):
    """Which units are observed, as columns in the machine's dtype; None stays None."""
    if observed is None:
        return None
    observed = jnp.asarray(observed).astype(machine.dtype)
    return jnp.repeat(observed, machine.visible.width, axis=-1) if machine.visible.width > 1 else observed


def answer(rows: Rows, values):
    """Answers by row as the caller asked: without the axis of rows if one vector was given."""
    return jax.tree.map(lambda a: a[0], values) if rows.single else values
