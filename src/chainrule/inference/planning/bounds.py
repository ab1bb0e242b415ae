"""How far values can be from the optimum: the bounds of MacQueen (1966) and Porteus (1971), rounding included.

A backup T that is monotone and adds at most κ·c when a constant c > 0 is added to its argument has its fixed point in

    T v + κ/(1−κ) · min(T v − v)  ≤  v*  ≤  T v + κ/(1−κ) · max(T v − v),

κ being the smallest or the largest such factor, whichever makes the bound wider. κ is γ times the sum of a row, so γ;
where the process can end, adding to its states does not add to the end, and κ may be anything from 0 to γ.

Everything that is computed on the way is rounded, κ and γ included, whose last digits 1/(1−κ) makes large: what is returned
is wider by as much as that can matter.
"""

from typing import NamedTuple

import numpy as np

_EPS = float(np.finfo(np.float64).eps)


class Bounds(NamedTuple):
    """What may be added to T v: v* is in [T v + low, T v + high] wherever the process has not ended.

    `error` is how far T v may be off by rounding, which the bounds allow for.
    """

    low: float
    high: float
    error: float = 0.0

    @property
    def gap(self) -> float:
        """Half the width: the error of the middle."""
        return 0.5 * (self.high - self.low)

    @property
    def middle(self) -> float:
        """What to add to T v, so that it is off by no more than `gap`."""
        return 0.5 * (self.high + self.low)


def rounding(width: int, reward: float, discount: float, value: float, dtype=np.float64) -> float:
    """How far a computed backup can be from the exact one, for sums of `width` products.

    It covers the rounding of the model's own numbers to `dtype` too (Higham 2002, §3.1).
    """
    return (width + 6) * 0.5 * float(np.finfo(dtype).eps) * (reward + discount * value)


def widened(low: float, high: float, width: int) -> tuple[float, float]:
    """The least and the most κ that computed ones may stand for: γ, rounded, times sums of `width` rounded terms."""
    off = 0.5 * (width + 5) * _EPS
    return low * (1 - off), high * (1 + off)


def macqueen(change_low: float, change_high: float, *, factors: tuple[float, float], error: float) -> Bounds:
    """Bounds from the smallest and the largest entry of T v − v.

    Args:
        change_low: min of T v − v, at most 0 where the process can end.
        change_high: max of T v − v, at least 0 where the process can end.
        factors: the smallest and the largest κ. There is no bound where one is not below 1.
        error: how far T v may be off by rounding.
    """
    off = 2 * error + _EPS * max(abs(change_low), abs(change_high))
    low, high = change_low - off, change_high + off
    small, large = (factor / (1 - factor) if factor < 1 else np.inf for factor in factors)
    low = (large if low < 0 else small) * low if low else 0.0
    high = (large if high > 0 else small) * high if high else 0.0
    # a few more roundings, that of adding the bound to T v among them
    return Bounds(low - 4 * _EPS * abs(low) - error, high + 4 * _EPS * abs(high) + error, error)
