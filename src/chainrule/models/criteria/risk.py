"""Discounted rewards with a taste: for choice (soft), or against risk (entropic)."""

import math
from dataclasses import dataclass

import numpy as np

from ...inference.planning.fixed_point import fixed_point
from ...inference.planning.nested import EntropicMeasure, NestedBackup, normalised
from ...inference.planning.soft import SoftBackup
from .base import beginning, from_fixed_point, needs_discount, refuse


@dataclass(frozen=True)
class Soft:
    """Expected discounted rewards plus τ times the entropy of the policy, discounted alike.

        v(s) = τ log Σ_a exp(q(s, a) / τ),    q = r + γ P v,    π(a | s) = exp((q(s, a) − v(s)) / τ)

    The policy is stochastic, and so smooth that its derivative exists; as τ → 0, values and policy tend to the optimum.
    Values are at most τ log A / (1 − γ) above it.

    Args:
        temperature: τ > 0, in the unit of the rewards.

    Raises:
        ValueError: a temperature that is not positive or not finite; on solving, a discount of 1.

    Example:
        >>> import chainrule as cr
        >>> mdp = cr.MDP([[[1.0], [1.0]]], [[1.0, 0.0]], discount=0.5)
        >>> solution = mdp.solve(criterion=cr.criteria.Soft(1.0))
        >>> round(solution.policy[0][0], 6), round(solution[0], 6)  # e / (e + 1), and log(e + 1) / (1 − γ)
        (0.731059, 2.626523)

    References:
        Ziebart (2010), Modeling purposeful adaptive behavior with the principle of maximum causal entropy. Geist, Scherrer
        and Pietquin (2019), A theory of regularized Markov decision processes.
    """

    temperature: float

    def __post_init__(self):
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature is {self.temperature}; wanted a positive number")

    def solve(self, mdp, process, *, method, start, horizon, final, tolerance, most, report):
        """See `MDP.solve`."""
        refuse(self, method=method, horizon=horizon, final=final)
        needs_discount(self, process)
        backup = SoftBackup(process, mdp.transitions, self.temperature)
        found = fixed_point(backup, beginning(mdp, process, start), tolerance=tolerance, most=most, report=report)
        return from_fixed_point(mdp, found, backup, backup.policy(found.action_values), tolerance)


@dataclass(frozen=True)
class Entropic:
    """Discounted rewards under a nested entropic risk measure: each step is judged by its certainty equivalent.

        v(s) = max_a −(1/θ) log Σ_{s'} p(s' | s, a) exp(−θ (r(s, a, s') + γ v(s')))

    Rewards by outcome take part in the risk, where the process has them. The measure is applied anew at each step, so that
    the best policy does not depend on time or on the past; it is not the entropic risk of the total. Rows of probabilities
    are divided by their sums first.

    Args:
        risk_aversion: θ, per unit of reward. Positive is averse to risk, negative seeks it, 0 is the expectation; the
            certainty equivalent is about mean − θ/2 · variance.

    Raises:
        ValueError: a risk aversion that is not finite; on solving, a discount of 1.

    Example:
        >>> import chainrule as cr
        >>> gamble = cr.MDP([[[0.0, 0.5, 0.5], [0.0, 0.0, 1.0]], *[[[0.0, 0.0, 1.0]] * 2] * 2],
        ...                 [[[0, 2.0, 0], [0, 0, 0.9]], *[[[0, 0, 0]] * 2] * 2], discount=0.9)
        >>> [gamble.solve(criterion=cr.criteria.Entropic(t)).policy[0] for t in (0.0, 1.0)]
        [0, 1]

    References:
        Howard and Matheson (1972), Risk-sensitive Markov decision processes. Ruszczyński (2010), Risk-averse dynamic
        programming for Markov decision processes.
    """

    risk_aversion: float

    def __post_init__(self):
        if not math.isfinite(self.risk_aversion):
            raise ValueError(f"risk_aversion is {self.risk_aversion}; wanted a finite number")

    def solve(self, mdp, process, *, method, start, horizon, final, tolerance, most, report):
        """See `MDP.solve`."""
        refuse(self, method=method, horizon=horizon, final=final)
        needs_discount(self, process)
        form = mdp.transitions if mdp.transitions.outcome_rewards is None else mdp.transitions.spread_out()
        # exponentials and logarithm are each off by as much as a sum may be
        backup = NestedBackup(form, EntropicMeasure(normalised(form), float(self.risk_aversion)), extra=8.0)
        found = fixed_point(backup, beginning(mdp, process, start), tolerance=tolerance, most=most, report=report)
        return from_fixed_point(mdp, found, backup, np.argmax(found.action_values, axis=1), tolerance)
