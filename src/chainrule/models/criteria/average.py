"""The average reward per step in the long run."""

from dataclasses import dataclass

import numpy as np

from ...inference.planning.average_reward import average_reward
from .base import beginning, refuse, solution


@dataclass(frozen=True)
class Average:
    """The long-run average reward: max_π lim E[r_1 + … + r_n | s] / n. The discount plays no part.

    Chains may have several recurrent classes and periods; a process that ends earns nothing from then on, so its average
    is zero. In the `Solution`

    - `values` is the gain g(s), with `lower` and `upper` bounds on the best there is;
    - `policy` attains it; where several do, the bias decides, if the chain is small enough to be solved exactly;
    - `action_values` is r(s, a) − g(s) + Σ p(s' | s, a) h(s') for actions that keep the gain, −inf for those that lose it;
    - `details` has the `bias` h of the policy, (S,), its gain by an exact solution of its chain as `attained`, (S,) or None
      where that would cost too much, and the maximal end `component` of each state, (S,), −1 for those that cannot be
      stayed in.

    Raises:
        ValueError: on solving, with a method, a horizon or final values, for which it has no use.

    Example:
        >>> import chainrule as cr
        >>> step = {("shop", "sell"): [(1.0, "out", 5.0)], ("out", "restock"): [(1.0, "shop", -1.0)],
        ...         ("shop", "close"): [(1.0, "shop", 1.5)]}
        >>> mdp = cr.MDP.from_function(lambda s, a: step.get((s, a)), ["shop"], actions=["sell", "restock", "close"])
        >>> solution = mdp.solve(criterion=cr.criteria.Average())
        >>> round(solution["shop"], 6), solution.policy["shop"], solution.details["bias"].round(6).tolist()
        (2.0, 'sell', [1.5, -1.5])

    References:
        Puterman (1994), Markov Decision Processes, chapters 8 (unichain) and 9 (any structure).
    """

    def solve(self, mdp, process, *, method, start, horizon, final, tolerance, most, report):
        """See `MDP.solve`; values to start with are relative values."""
        refuse(self, method=method, horizon=horizon, final=final)
        found = average_reward(process, beginning(mdp, process, start), tolerance=tolerance, most=most, report=report)
        return solution(
            mdp,
            values=found.gain,
            lower=found.gain - found.gap,
            upper=found.gain + found.gap,
            policy=found.policy,
            action_values=found.action_values,
            gap=found.gap,
            tolerance=tolerance,
            exact=found.exact,
            iterations=found.iterations,
            sweeps=found.sweeps,
            history=np.array(found.history),
            details={"bias": found.bias, "attained": found.attained, "component": found.component},
        )
