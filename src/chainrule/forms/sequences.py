"""Ragged sequences as one rectangular array.

Sequences of different lengths are laid end to end in *rows* of equal length, longest first, each in the first row where
it still fits. Two flags per slot make that exact: `start` marks the first step of a sequence (the engines forget the
past there) and `mask` marks the real steps (padding is a one-step sequence that nobody counts). The rows are the last
axis, where a processor's vector lanes are, and lengths and row counts are rounded up to a few sizes, so that data of
new lengths rarely compile anything.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Shaped

from .chain import is_concrete


class Layout(NamedTuple):
    """Where several sequences lie; see the attributes of `Sequences`."""

    start: Any
    mask: Any
    row: Any
    offset: Any


# A plain dataclass, because one is made for every query and is taken apart by JAX without a word of Python.
@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False, repr=False)
class Sequences:
    """Sequences of different lengths, packed.

    Build one with `Sequences.pack`; models do it for you, so it is worth doing by hand only to pack once and use many
    times.

    Attributes:
        values: the observations, shape (time, *event, row).
        start: True on the first step of each sequence (and on padding), shape (time, row).
        mask: True on real steps, shape (time, row).
        row, offset, lengths: where sequence n lies: steps `offset[n]` … `offset[n] + lengths[n] − 1` of row `row[n]`.
            The length is 0 for entries that only pad their number.
        layout: holds `start`, `mask`, `row` and `offset`; None for a single sequence, which begins at step 0.

    Example:
        >>> import numpy as np, chainrule as cr
        >>> data = cr.Sequences.pack([np.arange(3.0), np.arange(5.0)])
        >>> data
        Sequences(2 sequences, 8 steps)
        >>> [x.tolist() for x in data.unpack(data.values)]
        [[0.0, 1.0, 2.0], [0.0, 1.0, 2.0, 3.0, 4.0]]
    """

    values: Any
    lengths: Any
    layout: Layout | None = None

    @classmethod
    def pack(
        cls,
        sequences: "Sequences | Sequence | np.ndarray | Array",
        *,
        lengths: Sequence[int] | None = None,
        mask: np.ndarray | None = None,
    ) -> "Sequences":
        """Pack one array (a single sequence), a list of arrays, a concatenation with `lengths`, or padded rows with a mask.

        Args:
            sequences: arrays of shape (time, *event), all with the same event shape and kind of number.
            lengths: if given, `sequences` is one array that holds sequences of these lengths end to end.
            mask: if given, `sequences` is one padded array (sequence, time, *event), and True marks its real steps, shape
                (sequence, time). Padding may lie before, after or on both sides; a hole inside is a missing
                observation, which is a NaN and not a masked step.

        Raises:
            ValueError: an empty list, an empty sequence, event shapes that differ, lengths that do not add up, or a mask
                that does not fit or has holes.
        """
        if isinstance(sequences, Sequences):
            return sequences
        if mask is not None:
            if lengths is not None:
                raise ValueError("give lengths or a mask, not both")
            arrays = _unpadded(as_numpy(sequences), np.asarray(mask))
        elif lengths is not None:
            arrays = _split(as_numpy(sequences), lengths)
        elif isinstance(sequences, list | tuple):
            arrays = [as_numpy(x) for x in sequences]
            if arrays and all(a.ndim == 0 for a in arrays):
                arrays = [np.asarray(sequences)]  # a plain list of numbers is one sequence
        else:
            arrays = [as_numpy(sequences)]
        return _pack(_checked(arrays))

    @property
    def start(self) -> Bool[Array | np.ndarray, "time row"]:
        """True on the first step of each sequence, and on padding."""
        if self.layout is not None:
            return self.layout.start
        steps = _steps(self)
        return ((steps == 0) | (steps >= self.lengths))[:, None]

    @property
    def mask(self) -> Bool[Array | np.ndarray, "time row"]:
        """True on real steps."""
        return (_steps(self) < self.lengths)[:, None] if self.layout is None else self.layout.mask

    @property
    def row(self) -> Int[Array | np.ndarray, " sequence"]:
        """The row that each sequence lies in."""
        return np.zeros(1, np.int32) if self.layout is None else self.layout.row

    @property
    def offset(self) -> Int[Array | np.ndarray, " sequence"]:
        """The step that each sequence begins at."""
        return np.zeros(1, np.int32) if self.layout is None else self.layout.offset

    @property
    def num_sequences(self) -> int:
        """How many sequences there are."""
        return int(np.count_nonzero(self.lengths))

    @property
    def num_steps(self) -> int:
        """How many real steps there are, over all sequences."""
        return int(np.sum(self.lengths))

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one observation."""
        return self.values.shape[1:-1]

    def unpack(self, values) -> list:
        """Cut an array of shape (time, *event, row) that belongs to these rows into one array per sequence, as views."""
        if is_concrete(values):
            values = np.asarray(values)
        places = zip(self.row.tolist(), self.offset.tolist(), self.lengths.tolist(), strict=True)
        return [values[begin : begin + size, ..., row] for row, begin, size in places if size]

    def totals(self, terms: Shaped[Array, "time row"]) -> Shaped[Array, " sequence"]:
        """Sum one number per step over each sequence; padding is left out."""
        time, rows = terms.shape
        if len(self.lengths) * time <= 4 * terms.size:
            steps = jnp.arange(time, dtype=jnp.int32)[None, :]
            place = jnp.minimum(jnp.asarray(self.offset)[:, None] + steps, time - 1) * rows + self.row[:, None]
            picked = jnp.where(steps < self.lengths[:, None], terms.reshape(-1)[place], 0)
            # two levels, so that float32 rounding grows with the square root of the length and not with the length
            picked = jnp.pad(picked, ((0, 0), (0, -time % 128)))
            return picked.reshape(len(self.lengths), -1, 128).sum(-1).sum(-1)
        padded = jnp.where(self.mask, terms, 0).reshape(-1)
        return jax.ops.segment_sum(padded, self.owner().reshape(-1), num_segments=len(self.lengths))

    def owner(self) -> Int[Array, "time row"]:
        """The number of the sequence that each slot belongs to; on padding, that of some neighbour."""
        shape = self.mask.shape
        last = len(self.lengths) - 1
        first = jnp.zeros(shape, jnp.int32)
        index = jnp.arange(len(self.lengths), dtype=jnp.int32)
        # sequences lie in a row in the order of their numbers' placement: mark each start, carry the mark onwards
        place = jnp.where(jnp.asarray(self.lengths) > 0, self.offset, shape[0])
        marked = first.at[place, self.row].set(index + 1, mode="drop")
        when = jnp.where(marked > 0, jnp.arange(shape[0], dtype=jnp.int32)[:, None], 0)
        latest = jax.lax.cummax(when, axis=0)
        return jnp.clip(jnp.take_along_axis(marked, latest, axis=0) - 1, 0, last)

    def __repr__(self):
        if not is_concrete(self.lengths) or np.ndim(self.lengths) != 1:
            return "Sequences(traced)"
        return f"Sequences({self.num_sequences} sequences, {self.num_steps} steps)"


def _steps(data: Sequences):
    numbers = np if is_concrete(data.lengths) else jnp
    return numbers.arange(data.values.shape[0], dtype=np.int32)


def bucket(size: int) -> int:
    """Round a size up to one of eight steps per octave, or of thirty-two from 4096 on, where padding costs more time.

    At most an eighth is wasted, on long sequences a thirty-second, and few sizes exist.

    >>> [bucket(n) for n in (1, 16, 17, 100, 5000, 100_000)]
    [1, 16, 18, 104, 5120, 100352]
    """
    digits = 4 if size <= 4096 else 6
    step = 1 << max(0, (size - 1).bit_length() - digits)
    return -(-size // step) * step


def as_numpy(values) -> np.ndarray:
    """A NumPy array whose masked entries are NaN, and whose integers survive where JAX keeps 32 bits."""
    if isinstance(values, np.ma.MaskedArray):
        return np.ma.filled(values.astype(float), np.nan)
    array = np.asarray(values)
    if array.dtype.kind in "iu" and array.dtype.itemsize == 8 and array.size and abs(array).max() >= 2**31:
        return array.astype(float)
    return array


def _split(array: np.ndarray, lengths: Sequence[int]) -> list[np.ndarray]:
    sizes = np.asarray(lengths)
    if sizes.ndim != 1 or not np.issubdtype(sizes.dtype, np.integer):
        raise ValueError(f"lengths must be a list of integers, got {lengths!r}")
    if (sizes < 1).any():
        n = int(np.argmax(sizes < 1))
        raise ValueError(
            f"lengths: sequence {n} is empty" if sizes[n] == 0 else f"lengths: {sizes[n]} for sequence {n}"
        )
    if sizes.sum() != len(array):
        raise ValueError(f"lengths add up to {sizes.sum()}, but the array has {len(array)} steps")
    return np.split(array, np.cumsum(sizes)[:-1])


def _unpadded(array: np.ndarray, mask: np.ndarray) -> list[np.ndarray]:
    if mask.ndim != 2 or mask.dtype != bool or array.shape[:2] != mask.shape:
        raise ValueError(
            f"mask must be booleans of shape (sequence, time) = {array.shape[:2]}, got {mask.dtype} of shape {mask.shape}"
        )
    for n, real in enumerate(mask):
        if not real.any():
            raise ValueError(f"mask: sequence {n} has no real step; leave it out")
        inside = np.flatnonzero(real)
        if inside[-1] - inside[0] >= len(inside):
            hole = int(inside[0] + np.argmin(real[inside[0] :]))
            raise ValueError(f"mask: sequence {n} has a hole at step {hole}; mark a missing observation by NaN instead")
    return [row[real] for row, real in zip(array, mask, strict=True)]


def _checked(arrays: list[np.ndarray]) -> list[np.ndarray]:
    if not arrays:
        raise ValueError("no sequences: the list is empty")
    event, kinds = None, set()
    for n, array in enumerate(arrays):
        if array.ndim == 0:
            raise ValueError(f"sequence {n} is a single number; a sequence is an array of shape (time, …)")
        if array.dtype.kind not in "biuf":
            raise ValueError(
                f"sequence {n} holds {array.dtype}, not numbers; encode symbols as integers first, missing ones as NaN"
            )
        if len(array) == 0:
            raise ValueError(f"sequence {n} is empty; leave it out")
        if event is None:
            event = array.shape[1:]
        elif array.shape[1:] != event:
            raise ValueError(
                f"sequence {n} has observations of shape {array.shape[1:]}, but sequence 0 has shape {event}"
            )
        kinds.add(array.dtype)
    if len(kinds) == 1:
        return arrays
    dtype = np.result_type(*kinds)
    return [a.astype(dtype) for a in arrays]


def _pack(arrays: list[np.ndarray]) -> Sequences:
    if len(arrays) == 1:
        return _pack_one(arrays[0])
    lengths = np.array([len(a) for a in arrays])
    time = bucket(int(lengths.max()))
    row, offset = _place(lengths, time)
    count = bucket(int(row.max()) + 1)
    values = np.zeros((time, *arrays[0].shape[1:], count), arrays[0].dtype)
    start, mask = np.ones((time, count), bool), np.zeros((time, count), bool)
    for array, r, begin, size in zip(arrays, row.tolist(), offset.tolist(), lengths.tolist(), strict=True):
        values[begin : begin + size, ..., r] = array
        start[begin + 1 : begin + size, r] = False
        mask[begin : begin + size, r] = True
    padding = (0, bucket(len(arrays)) - len(arrays))
    row, offset, lengths = (np.pad(x.astype(np.int32), padding) for x in (row, offset, lengths))
    return Sequences(values, lengths, Layout(start, mask, row, offset))


def _pack_one(array: np.ndarray) -> Sequences:
    """The common case, kept free of the bookkeeping."""
    size = len(array)
    values = np.zeros((bucket(size), *array.shape[1:], 1), array.dtype)
    values[:size, ..., 0] = array
    return Sequences(values, np.array([size], np.int32))


def _place(lengths: np.ndarray, time: int) -> tuple[np.ndarray, np.ndarray]:
    """First fit, longest first: the row and the offset of each sequence.

    Rows are kept by the room they have left, so the search is one dictionary walk over distinct rooms, not over rows.
    """
    row, offset = np.empty(len(lengths), np.int32), np.empty(len(lengths), np.int32)
    rooms: dict[int, list[int]] = {}
    rows = 0
    for n in np.argsort(-lengths, kind="stable").tolist():
        size = int(lengths[n])
        room = min((r for r in rooms if r >= size), default=None)  # the tightest row that takes it
        if room is None:
            room, chosen, rows = time, rows, rows + 1
        else:
            chosen = rooms[room].pop()
            if not rooms[room]:
                del rooms[room]
        row[n], offset[n] = chosen, time - room
        if room > size:
            rooms.setdefault(room - size, []).append(chosen)
    return row, offset
