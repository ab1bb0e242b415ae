"""Backward induction: the best for a number of steps, one step at a time from the last (Bellman 1957).

v_H(s) = final(s),   v_t(s) = max_a { r(s, a) + γ Σ_{s'} p(s' | s, a) v_{t+1}(s') }
"""

from typing import NamedTuple

import numpy as np

from .discounted import best
from .process import Process


class Plan(NamedTuple):
    """Values (H + 1, S), Q (H, S, A), actions (H, S), and how far rounding can have moved the first values."""

    values: np.ndarray
    action_values: np.ndarray
    policy: np.ndarray
    error: float


def solve(process: Process, horizon: int, final: np.ndarray, *, report=lambda n, gap: None) -> Plan:
    """The best policy for `horizon` steps.

    Args:
        process: without `idle_ends`, since a state that is never left may be worth something in the end.
        horizon: steps.
        final: what states are worth after the last of them, (S,); 0 where the process has ended.
        report: is told the step and how far off values may be.
    """
    values = np.zeros((horizon + 1, process.num_states))
    values[-1] = final
    q = np.zeros((horizon, process.num_states, process.num_actions))
    error = 0.0
    for t in range(horizon - 1, -1, -1):
        q[t] = process.action_values(values[t + 1])
        values[t] = best(q[t])
        error = process.factors[1] * error + max(process.rounding(values[t]), process.rounding(values[t + 1]))
        report(horizon - t, error)
    return Plan(values, q, q.argmax(axis=2), error)
