"""Backups that replace the expectation over successors by another measure ρ of them.

    v(s) = max_a ρ_{s,a}( r(s, a, s') + γ v(s') )

ρ is monotone and ρ(x + c) = ρ(x) + c. Two are here:

    entropic:   ρ(x) = −(1/θ) log Σ_{s'} p(s') exp(−θ x(s'))
    interval:   ρ(x) = min { Σ_{s'} p(s') x(s') : lower ≤ p ≤ upper, Σ p = 1 },   or the max

References:
    Howard and Matheson (1972), Risk-sensitive Markov decision processes. Ruszczyński (2010), Risk-averse dynamic
    programming for Markov decision processes. Givan, Leach and Dean (2000), Bounded-parameter Markov decision processes.
    Nilim and El Ghaoui (2005), Robust control of Markov decision processes with uncertain transition matrices.
"""

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from scipy import sparse

from ...forms.transitions import Transitions
from .bounds import rounding
from .fixed_point import AbstractBackup

_PIECE = 1 << 18  # numbers at a time, so that the steps of a measure stay in the cache


class AbstractMeasure(ABC):
    """ρ of rows of numbers; `rows` says, by slice or by index, which distributions they belong to."""

    @abstractmethod
    def value(self, x: np.ndarray, rows) -> np.ndarray:
        """ρ(x), (n,), of x (n, b)."""

    @abstractmethod
    def weights(self, x: np.ndarray, rows) -> np.ndarray:
        """The derivative of ρ: a distribution for each row, (n, b)."""


class EntropicMeasure(AbstractMeasure):
    """Entropic risk of distributions (rows, b); averse to risk for θ > 0, seeking it for θ < 0, the mean at 0."""

    def __init__(self, probabilities: np.ndarray, aversion: float):
        self.probabilities, self.aversion = probabilities, aversion

    def value(self, x: np.ndarray, rows) -> np.ndarray:
        """From deviations from the mean, so that a small θ costs no digits and a large one cannot overflow."""
        probs = self.probabilities[rows]
        mean = (probs * x).sum(axis=1)
        if self.aversion == 0:
            return mean
        z = -self.aversion * (x - mean[:, None])
        z[probs == 0] = -np.inf
        top = z.max(axis=1)
        near = top <= 1
        log = np.empty(len(x))
        log[near] = np.log1p((probs[near] * np.expm1(z[near])).sum(axis=1))
        far = ~near
        log[far] = top[far] + np.log((probs[far] * np.exp(z[far] - top[far, None])).sum(axis=1))
        return mean - log / self.aversion

    def weights(self, x: np.ndarray, rows) -> np.ndarray:
        """Probabilities tilted by exp(−θ x)."""
        probs = self.probabilities[rows]
        z = np.where(probs > 0, -self.aversion * x, -np.inf)
        tilted = probs * np.exp(z - z.max(axis=1, keepdims=True))
        return tilted / tilted.sum(axis=1, keepdims=True)


class IntervalMeasure(AbstractMeasure):
    """The least (or the greatest) mean over distributions between `lower` and `upper`, (rows, b).

    What the lower bounds leave of the mass goes to the worst outcome as far as its upper bound lets it, then to the next.
    """

    def __init__(self, lower: np.ndarray, upper: np.ndarray, *, optimistic: bool):
        self.lower, self.optimistic = lower, optimistic
        self.slack, self.rest = upper - lower, 1 - lower.sum(axis=1)

    def value(self, x: np.ndarray, rows) -> np.ndarray:
        """The mean under `weights`."""
        return (self.weights(x, rows) * x).sum(axis=1)

    def weights(self, x: np.ndarray, rows) -> np.ndarray:
        """The worst distribution."""
        order = np.argsort(-x if self.optimistic else x, axis=1, kind="stable")
        slack = np.take_along_axis(self.slack[rows], order, axis=1)
        before = np.cumsum(slack, axis=1) - slack
        added = np.minimum(slack, np.maximum(self.rest[rows][:, None] - before, 0))
        found = self.lower[rows].copy()
        np.put_along_axis(found, order, np.take_along_axis(found, order, axis=1) + added, axis=1)
        return found / found.sum(axis=1, keepdims=True)  # bounds that meet leave a sum that rounding has moved from one


class NestedBackup(AbstractBackup):
    """The backup of a process under a measure of its rows, which are those of `form`."""

    def __init__(self, form: Transitions, measure: AbstractMeasure, *, extra: float = 1.0):
        self.measure, self.discount = measure, float(form.discount)
        self.ended = np.asarray(form.terminal)
        self.mask = np.asarray(form.mask) & ~self.ended[:, None]
        self.shape = self.mask.shape
        self.rows = None if form.rows is None else np.asarray(form.rows)
        probs = form.probabilities
        self.width, self.count = probs.shape[-1], int(np.prod(probs.shape[:-1]))
        self.successors = None if form.successors is None else np.asarray(form.successors).reshape(self.count, -1)
        self.outcome = None
        self.reward = np.where(self.mask, 0.0, -np.inf)
        if form.outcome_rewards is None:
            self.reward = np.where(self.mask, np.asarray(form.rewards).astype(np.float64), -np.inf)
            paid = np.abs(self.reward[self.mask])
        else:
            self.outcome = np.asarray(form.outcome_rewards).astype(np.float64, copy=False).reshape(self.count, -1)
            paid = np.abs(self.outcome[self.mask.reshape(-1)])
        self.largest, self.extra = float(paid.max(initial=0)), extra
        # the measure moves by exactly what all its outcomes move by
        self.factors = (0.0 if self.ended.any() else self.discount), self.discount

    def _outcomes(self, v: np.ndarray, rows) -> np.ndarray:
        """What the outcomes of rows are worth, (n, b)."""
        if self.successors is None:
            size = rows.stop - rows.start if isinstance(rows, slice) else len(rows)
            later = np.broadcast_to(self.discount * v, (size, len(v)))
        else:
            later = self.discount * v[self.successors[rows]]
        return later if self.outcome is None else later + self.outcome[rows]

    def action_values(self, v: np.ndarray) -> np.ndarray:
        """Q (S, A)."""
        found = np.empty(self.count)
        step = max(1, _PIECE // self.width)
        for start in range(0, self.count, step):
            rows = slice(start, min(start + step, self.count))
            found[rows] = self.measure.value(self._outcomes(v, rows), rows)
        q = found.reshape(self.shape) if self.rows is None else found[self.rows]
        q = q + self.reward
        q[self.ended, 0] = 0
        return q

    def values(self, q: np.ndarray) -> np.ndarray:
        """The best action's."""
        return q.max(axis=1)

    def distribution(self, v: np.ndarray, states: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The weights of pairs of states and actions at v, and the rows they belong to."""
        rows = states * self.shape[1] + actions if self.rows is None else self.rows[states, actions]
        return self.measure.weights(self._outcomes(v, rows), rows), rows

    def tangent(self, v: np.ndarray, q: np.ndarray) -> Any:
        """The chain of the best actions under the weights."""
        states = np.flatnonzero(~self.ended)
        weights, rows = self.distribution(v, states, q[states].argmax(axis=1))
        size = len(v)
        if self.successors is None:
            matrix = np.zeros((size, size))
            matrix[states] = weights
            return matrix
        owner = np.repeat(states, self.width)
        return sparse.csr_array((weights.reshape(-1), (owner, self.successors[rows].reshape(-1))), shape=(size, size))

    def rounding(self, largest: float) -> float:
        """As of a plain backup, times what the measure makes of it."""
        return self.extra * rounding(self.width, self.largest, self.discount, largest)


def normalised(form: Transitions) -> np.ndarray:
    """Probabilities, (rows, b), float64, that sum to one; rows of zeros, which are infeasible, get the first outcome."""
    probs = np.asarray(form.probabilities).astype(np.float64)
    probs = probs.reshape(-1, probs.shape[-1])
    empty = probs.sum(axis=1) <= 0
    if empty.any():
        probs[empty, 0] = 1
    return probs / probs.sum(axis=1, keepdims=True)
