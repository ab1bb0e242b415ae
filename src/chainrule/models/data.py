"""What users pass as sequences, made ready for the engines, and the engines' answers cut back to what was passed.

A sequence model takes one array (time, *event), one array of equally long sequences (sequence, time, *event), a list of
arrays of any lengths, or `Sequences`. Concrete data are packed and padded on the host, so that lengths rarely compile
anything and answers are NumPy arrays; traced data, inside somebody's `jit` or `vmap`, keep their exact shape and give
traced answers.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from ..forms.chain import is_concrete
from ..forms.sequences import Layout, Sequences, as_numpy

_F = TypeVar("_F", bound=Callable)


def query(method: _F) -> _F:
    """A method that is found in a tenth of the time: Equinox makes a module of each method that is looked up.

    What is found is a pytree here as well, with the model as its only child.
    """
    return _Query(method)  # pyright: ignore[reportReturnType]


class _Query:
    def __init__(self, method):
        self.method = method
        self.__doc__, self.__module__ = method.__doc__, method.__module__  # where examples are looked for

    def __get__(self, model, owner):
        return self.method if model is None else jax.tree_util.Partial(self.method, model)


class Prepared(NamedTuple):
    """Packed sequences, and in which form they came: one array, a rectangle of them, or a list."""

    sequences: Sequences
    form: str

    def per_step(self, values) -> Any:
        """(time, *rest, row) as the caller's form: (T, *rest), (S, T, *rest), or a list of (T_i, *rest)."""
        s = self.sequences
        if self.form == "one":
            size = s.values.shape[0] if not is_concrete(s.lengths) else int(s.lengths[0])
            return host(values)[:size, ..., 0]
        if not is_concrete(s.values):
            return jnp.moveaxis(values, -1, 0)
        parts = s.unpack(values)
        if self.form == "rectangle":
            return np.stack(parts) if is_concrete(values) else jnp.stack(parts)
        return parts

    def per_path(self, values) -> Any:
        """(sequence, path, time) as the caller's form: (path, T), (S, path, T), or a list of (path, T_i)."""
        s = self.sequences
        if not is_concrete(s.values):
            return values[0] if self.form == "one" else values
        found = [own[:, :size] for own, size in zip(host(values), s.lengths.tolist(), strict=True) if size]
        if self.form == "one":
            return found[0]
        return found if self.form == "many" else (np.stack(found) if is_concrete(values) else jnp.stack(found))

    def per_sequence(self, values) -> Any:
        """(sequence, *rest) without the padding; (*rest) for one sequence."""
        values = host(values)
        if self.form == "one":
            return values[0]
        return values[: self.sequences.num_sequences] if is_concrete(self.sequences.lengths) else values


def prepare(data, event_ndim: int | None) -> Prepared:
    """Pack what the user gave; `event_ndim` tells one sequence of vectors from several sequences of numbers.

    Raises:
        ValueError: data that are not sequences, with what was wrong and where.
    """
    if isinstance(data, Sequences):
        return Prepared(data, "many")
    if isinstance(data, list | tuple) and not all(np.ndim(x) == 0 for x in data):
        if all(is_concrete(x) for x in data):
            return Prepared(Sequences.pack(data), "many")
        raise ValueError("a list of traced arrays cannot be packed; pass one array, or pack with Sequences.pack first")
    array: Any = data if not is_concrete(data) else as_numpy(data)
    rectangle = array.ndim >= 3 if event_ndim is None else array.ndim == event_ndim + 2
    if not rectangle and event_ndim is not None and array.ndim != event_ndim + 1:
        event = f"{event_ndim}-dimensional" if event_ndim else "single-number"
        raise ValueError(
            f"data of shape {array.shape} cannot be a sequence of {event} observations: wanted {event_ndim + 1} axes "
            f"for one sequence, {event_ndim + 2} for several of equal length, or a list"
        )
    if event_ndim == 0 and rectangle and array.shape[1] == 1 < array.shape[0]:
        raise ValueError(
            f"data of shape {array.shape} are one column: pass x[:, 0] for one sequence of numbers, or a list for "
            f"{array.shape[0]} sequences of one step"
        )
    if not is_concrete(array):
        return _traced(array if rectangle else array[None], "rectangle" if rectangle else "one")
    if rectangle:
        return Prepared(Sequences.pack(list(array)), "rectangle")
    return Prepared(Sequences.pack(array), "one")


def _traced(array, form: str) -> Prepared:
    count, time = array.shape[:2]
    lengths, values = np.full(count, time, np.int32), jnp.moveaxis(array, 0, -1)
    if count == 1:
        return Prepared(Sequences(values, lengths), form)
    start = np.zeros((time, count), bool)
    start[0] = True
    zero = np.zeros(count, np.int32)
    layout = Layout(start, np.ones_like(start), np.arange(count, dtype=np.int32), zero)
    return Prepared(Sequences(values, lengths, layout), form)


def host(values) -> Any:
    """A NumPy array of values that can be looked at; traced ones as they are."""
    return np.asarray(values) if is_concrete(values) else values
