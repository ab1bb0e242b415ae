"""Discounted rewards under the worst of the probabilities that are possible."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ...forms.transitions import Transitions
from ...inference.planning.fixed_point import fixed_point
from ...inference.planning.nested import IntervalMeasure, NestedBackup, normalised
from .base import beginning, from_fixed_point, needs_discount, refuse


@dataclass(frozen=True, eq=False)
class Robust:
    """The best policy against nature, which picks probabilities within intervals, each time and for each (s, a) anew.

        v(s) = max_a min_p { Σ_{s'} p(s') (r(s, a, s') + γ v(s')) : lower ≤ p ≤ upper, Σ p = 1 }

    Args:
        radius: how far each probability may be off, a number or (S, A), ≥ 0: intervals p ± radius, within [0, 1]. What has
            probability zero stays impossible.
        lower, upper: the intervals, instead, in the shape of the probabilities: (S, A, S) for dense ones, (S, A, b) with
            `successors`.
        optimistic: nature helps, and picks the best: an upper bound on what can be had.

    Rows of probabilities are divided by their sums first. In the `Solution`, `values` with its bounds is what is
    guaranteed (or possible), and `details` has the probabilities that nature picks for the policy's actions:
    `probabilities`, (S, S) or (S, b), beside `successors`, (S, b) or None.

    Raises:
        ValueError: neither or both ways to say the intervals, wrong shapes, intervals that no distribution fits in (the
            message names the state and the action), a discount of 1.

    Example:
        >>> import chainrule as cr
        >>> mdp = cr.MDP([[[0.9, 0.1]], [[0.0, 1.0]]], [[1.0], [0.0]], discount=0.9)
        >>> plain, safe = mdp.solve(), mdp.solve(criterion=cr.criteria.Robust(radius=0.05))
        >>> round(plain[0], 4), round(safe[0], 4)  # 1 / (1 − 0.9 · 0.9) and 1 / (1 − 0.9 · 0.85)
        (5.2632, 4.2553)

    References:
        Givan, Leach and Dean (2000), Bounded-parameter Markov decision processes. Nilim and El Ghaoui (2005), Robust
        control of Markov decision processes with uncertain transition matrices.
    """

    radius: Any = None
    lower: Any = None
    upper: Any = None
    optimistic: bool = False

    def __post_init__(self):
        given = self.lower is not None or self.upper is not None
        if given == (self.radius is not None):
            raise ValueError("give either radius, or lower and upper")
        if given and (self.lower is None or self.upper is None):
            raise ValueError("give lower and upper both; 0 and 1 are bounds that say nothing")

    def solve(self, mdp, process, *, method, start, horizon, final, tolerance, most, report):
        """See `MDP.solve`."""
        refuse(self, method=method, horizon=horizon, final=final)
        needs_discount(self, process)
        form: Transitions = mdp.transitions
        shared = self.radius is not None and np.ndim(self.radius) == 0 and form.outcome_rewards is None
        form = form if shared else form.spread_out()
        lower, upper = self._around(form) if self.radius is not None else self._given(form)
        self._check(mdp, form, lower, upper)
        backup = NestedBackup(form, IntervalMeasure(lower, upper, optimistic=self.optimistic), extra=3.0)
        v = beginning(mdp, process, start)
        found = fixed_point(backup, v, tolerance=tolerance, most=most, report=report)
        policy = np.argmax(found.action_values, axis=1)
        picked, rows = backup.distribution(found.values, np.arange(len(policy)), policy)
        successors = None if backup.successors is None else backup.successors[rows]
        details = {"probabilities": picked, "successors": successors}
        return from_fixed_point(mdp, found, backup, policy, tolerance, details=details)

    def _around(self, form: Transitions) -> tuple[np.ndarray, np.ndarray]:
        radius, probs = np.asarray(self.radius, np.float64), normalised(form)
        if radius.shape not in ((), form.mask.shape):
            raise ValueError(f"radius has shape {radius.shape}; wanted a number, or one for each of {form.mask.shape}")
        if not (radius >= 0).all():
            raise ValueError("radius must not be negative")
        radius = radius.reshape(-1, 1) if radius.ndim else radius
        return np.maximum(probs - radius, 0), np.where(probs > 0, np.minimum(probs + radius, 1), 0)

    def _given(self, form: Transitions) -> tuple[np.ndarray, np.ndarray]:
        found = []
        for name in ("lower", "upper"):
            bound, shape = np.asarray(getattr(self, name), np.float64), form.probabilities.shape
            if bound.shape != shape:
                raise ValueError(f"{name} has shape {bound.shape}; the probabilities have {shape}")
            found.append(bound.reshape(-1, shape[-1]))
        return found[0], found[1]

    def _check(self, mdp, form: Transitions, lower: np.ndarray, upper: np.ndarray):
        """Name the first pair whose intervals admit no distribution."""
        good: Any = ((lower >= 0) & (lower <= upper) & (upper <= 1)).all(axis=1)
        total_low, total_high = lower.sum(axis=1), upper.sum(axis=1)
        bad = np.logical_not(good & (total_low <= 1 + 1e-9) & (total_high >= 1 - 1e-9))
        bad = bad.reshape(form.mask.shape) if form.rows is None else bad[np.asarray(form.rows)]
        bad &= np.asarray(form.mask) & ~np.asarray(form.terminal)[:, None]
        if not bad.any():
            return
        s, a = (int(i) for i in np.argwhere(bad)[0])
        row = s * bad.shape[1] + a if form.rows is None else int(np.asarray(form.rows)[s, a])
        why = (
            f"they sum to at least {total_low[row]:.6g} and at most {total_high[row]:.6g}, which leaves out 1"
            if good[row]
            else "wanted 0 ≤ lower ≤ upper ≤ 1"
        )
        raise ValueError(
            f"no distribution fits in the intervals of action {mdp.actions[a]!r} in state {mdp.states[s]!r}: {why}"
        )
