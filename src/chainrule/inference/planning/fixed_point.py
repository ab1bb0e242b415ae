"""Fixed points of backups that are not linear under a policy: soft, risk-averse and robust ones.

Such a backup T is monotone, and T(v + c) = T v + κ c with κ between 0 and γ: that is all that the bounds of MacQueen need
(see `bounds`). Value iteration is followed, and where it is slow a few steps of Newton's method are taken, each from the
chain that is tangent to T at v; if they do not make the bounds narrower they are taken back.

References:
    Puterman and Brumelle (1979), On the convergence of policy iteration in stationary dynamic programming: as Newton.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .bounds import Bounds, macqueen
from .evaluation import direct, is_narrow
from .process import Chain

_NEWTON = 8  # steps that may make the bounds wider; they often do at first, as in policy iteration


class AbstractBackup(ABC):
    """A backup T of values v, (S,).

    Attributes:
        ended: True where the process has ended, worth 0, (S,).
        factors: the least and the most κ.
        discount: γ.
    """

    ended: np.ndarray
    factors: tuple[float, float]
    discount: float

    @abstractmethod
    def action_values(self, v: np.ndarray) -> np.ndarray:
        """Q, (S, A), −inf where infeasible; 0 for the first action where the process has ended."""

    @abstractmethod
    def values(self, q: np.ndarray) -> np.ndarray:
        """T v from the Q of v, (S,)."""

    @abstractmethod
    def tangent(self, v: np.ndarray, q: np.ndarray) -> Any:
        """The matrix of the chain whose backup has the derivative of T at v, (S, S); zero where the process has ended."""

    @abstractmethod
    def rounding(self, largest: float) -> float:
        """How far a computed T v can be off, for values up to `largest`."""


class Fixed(NamedTuple):
    """Values T v, what to add to them, their Q, backups, Newton steps, gaps, and whether rounding is all that is left."""

    values: np.ndarray
    bounds: Bounds
    action_values: np.ndarray
    iterations: int
    sweeps: int
    history: list[float]
    exact: bool


def fixed_point(
    backup: AbstractBackup, v: np.ndarray, *, tolerance: float, most: int, report: Callable[[int, float], None]
) -> Fixed:
    """Solve v = T v, from values v, until the bounds are within the tolerance of their middle."""
    history: list[float] = []
    steps, wait, narrow = 0, 5, None
    plain, before, tried = (
        None,
        np.inf,
        0,
    )  # where Newton's method began, how wide the bounds were, how long it is at it
    while True:
        q = backup.action_values(v)
        values = backup.values(q)
        change = values - v
        low, high = float(change.min()), float(change.max())
        if backup.ended.any():
            low, high = min(low, 0.0), max(high, 0.0)
        error = backup.rounding(float(max(np.abs(v).max(), np.abs(values).max())))
        bounds = macqueen(low, high, factors=backup.factors, error=error)
        history.append(bounds.gap)
        report(len(history), bounds.gap)
        exact = high - low <= 4 * error
        if bounds.gap <= tolerance or exact or len(history) >= most:
            return Fixed(values, bounds, q, len(history), steps, history, exact)
        if plain is not None and bounds.gap < before:  # it helps
            plain, before, tried = values, bounds.gap, 0
        elif plain is not None and tried == _NEWTON:
            v, plain, wait = plain, None, len(history) + 20
            continue
        slow = len(history) >= wait and bounds.gap > 0.8 * history[-2]
        newton = None
        if (slow or plain is not None) and narrow is not False:
            matrix = backup.tangent(v, q)
            narrow = is_narrow(matrix) if narrow is None else narrow
            if narrow:
                rest = values - backup.discount * (matrix @ v)
                newton = direct(Chain(matrix, rest), discount=backup.discount)
                steps += 1
        if newton is None:
            v, plain = values, None
            continue
        if plain is None:
            plain, before, tried = values, bounds.gap, 0
        v, tried = newton, tried + 1
