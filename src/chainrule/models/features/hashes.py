"""Looking up hundreds of thousands of strings at once.

A dict goes to four places in memory for each question, far apart: the string asked for, its slot, its entry, and the string
that is known, to compare the two. Here only 64-bit hashes are compared, Python's own, which strings remember; all look-ups
are then a few operations on arrays. Strings that differ have the same hash once in 2⁶⁴ pairs.
"""

from collections.abc import Iterable

import numpy as np
from jaxtyping import Int


class Hashes:
    """Numbers of strings, by their hashes: sorted, and where those with the same leading bits begin.

    Args:
        names: the strings, numbered from 0; no two alike.

    Example:
        >>> from chainrule.models.features.hashes import Hashes
        >>> Hashes(["a", "b", "c"]).find(["c", "z", "a"], 3).tolist()
        [2, -1, 0]
    """

    def __init__(self, names: Iterable[str]):
        hashes = _hashes(names)
        self.order = np.argsort(hashes)
        self.hashes = np.append(hashes[self.order], np.uint64(0))  # one past the end may be looked at
        bits = max(len(hashes), 1).bit_length() + 1  # some two or three places for each
        self.shift = np.uint64(64 - bits)
        counts = np.bincount((hashes >> self.shift).astype(np.int64), minlength=1 << bits)
        self.begin = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)

    def find(self, names: Iterable[str], count: int = -1) -> Int[np.ndarray, " name"]:
        """The number of each string, −1 where it is none of those known; `count` is how many there are, if that is known.

        Raises:
            TypeError: something is not a string.
        """
        wanted = _hashes(names, count)
        bucket = (wanted >> self.shift).astype(np.int64)
        at, end = self.begin[bucket], self.begin[bucket + 1]
        found = np.full(len(wanted), -1)
        left = np.flatnonzero(at < end)
        while len(left):
            hit = self.hashes[at[left]] == wanted[left]
            found[left[hit]] = self.order[at[left[hit]]]
            left = left[~hit]
            at[left] += 1
            left = left[at[left] < end[left]]
        return found


def _hashes(names: Iterable[str], count: int = -1) -> np.ndarray:
    return np.fromiter(map(str.__hash__, names), np.int64, count).view(np.uint64)
