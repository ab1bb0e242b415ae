"""The soft backup: the best expected reward plus τ times the entropy of the policy.

    v(s) = max_π Σ_a π(a) (q(s, a) − τ log π(a)) = τ log Σ_a exp(q(s, a) / τ),    π(a | s) = exp((q(s, a) − v(s)) / τ)

References:
    Ziebart (2010), Modeling purposeful adaptive behavior with the principle of maximum causal entropy.
    Geist, Scherrer and Pietquin (2019), A theory of regularized Markov decision processes.
"""

from typing import Any

import numpy as np
from scipy import sparse

from ...forms.transitions import Transitions
from .bounds import rounding, widened
from .fixed_point import AbstractBackup
from .process import Process


class SoftBackup(AbstractBackup):
    """The backup at a temperature τ > 0. States that stay for nothing go on, since choosing is worth something there."""

    def __init__(self, process: Process, form: Transitions, temperature: float):
        self.process, self.discount, self.temperature = process, process.discount, temperature
        self.ended, self.mask = np.asarray(form.terminal), np.asarray(form.mask) & ~np.asarray(form.terminal)[:, None]
        self.reward = np.where(self.mask, process.reward, -np.inf)
        sums = np.asarray(process.matrix.sum(axis=1)).reshape(-1)
        sums = sums.reshape(self.mask.shape) if process.rows is None else sums[process.rows]
        used = sums[self.mask] if self.mask.any() else np.ones(1)
        least = 0.0 if self.ended.any() else self.discount * float(used.min())
        self.factors = widened(least, self.discount * float(used.max()), process.width)

    def action_values(self, v: np.ndarray) -> np.ndarray:
        """Q (S, A), the entropy of later choices included."""
        q = self.reward + self.discount * self.process.expect(v)
        q[self.ended, 0] = 0
        return q

    def values(self, q: np.ndarray) -> np.ndarray:
        """The soft maximum of Q."""
        top = q.max(axis=1)
        return top + self.temperature * np.log(np.exp((q - top[:, None]) / self.temperature).sum(axis=1))

    def policy(self, q: np.ndarray) -> np.ndarray:
        """The probabilities of actions, (S, A); zeros where the process has ended."""
        weight = np.exp((q - q.max(axis=1, keepdims=True)) / self.temperature)
        weight[self.ended] = 0
        return weight / np.where(self.ended, 1, weight.sum(axis=1))[:, None]

    def tangent(self, v: np.ndarray, q: np.ndarray) -> Any:
        """The chain of the policy."""
        policy = self.policy(q)
        states, actions = np.nonzero(policy)
        blend: Any = sparse.csr_array(
            (policy[states, actions], (states, self.process.row(states, actions))),
            shape=(len(q), self.process.matrix.shape[0]),
        )
        return blend @ self.process.matrix

    def rounding(self, largest: float) -> float:
        """That of the plain backup, and that of the exponentials and the logarithm."""
        actions = self.mask.shape[1]
        plain = rounding(self.process.width, self.process.largest_reward, self.discount, largest)
        # (q − top) / τ is off by the error of q relative to τ, which the factor τ takes back
        return 3 * plain + (actions + 4) * np.finfo(float).eps * self.temperature * (1 + np.log(actions))
