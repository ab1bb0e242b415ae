"""Discounted rewards with limits on what may be spent."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...inference.planning import linear_programs
from ...inference.planning.discounted import modified_policy_iteration
from ...inference.planning.evaluation import direct, is_narrow, krylov
from ...inference.planning.process import Chain, Process
from ..mdp_sources import as_start
from .base import needs_discount, refuse, solution


@dataclass(frozen=True, eq=False)
class Constrained:
    """The best expected discounted reward among policies whose expected discounted costs stay within limits.

        max_π E Σ_t γ^t r(s_t, a_t)   such that   E Σ_t γ^t c_i(s_t, a_t) ≤ limit_i for each i

    A linear programme over discounted visits (s, a). The best policy may have to be random, and depends on the start.

    Args:
        costs: by name, c_i(s, a), (S, A), or (S,) if the action does not matter. Terminal states cost nothing.
        limits: by the same names. To keep something above a limit, negate both.
        initial: distribution of the first state, (S,), or the name of a state; by default the `initial` of the process.

    In the `Solution`

    - `policy` is stochastic; where the process does not come, it is best at the prices;
    - `values` is what the policy is worth from each state, between `lower` and `upper`;
    - `action_values` are those of rewards minus priced costs, so that all actions that the policy uses tie;
    - `details` has `worth`, from the start, with bounds `lower` and `upper` on the constrained optimum, from duality (`gap`
      is half their distance); `costs` reached and `prices` of the limits, by name: how much the worth rises when a limit is
      raised by one; and `visits`, (S, A), discounted.

    Costs may exceed their limits by the solver's tolerance, about 1e-7. `upper` holds for any prices. `lower` is the worth
    of the policy, which is computed anew, less the price of what it overspends: the optimum is concave in the limits, so
    that this rests on the prices being its slopes, which the solver tells to its tolerance. Where no limit is exceeded, it
    rests on nothing.

    Raises:
        ValueError: names or shapes that do not fit, no initial distribution, a discount of 1, limits that no policy keeps
            (the message says which, and the least that can be spent).

    Example:
        >>> import chainrule as cr
        >>> mdp = cr.MDP([[[1.0], [1.0]]], [[0.0, 1.0]], discount=0.5, actions=("rest", "work"), initial=[1.0])
        >>> effort = cr.criteria.Constrained(costs={"effort": [[0.0, 1.0]]}, limits={"effort": 0.5})
        >>> solution = mdp.solve(criterion=effort)
        >>> {a: round(p, 6) for a, p in solution.policy[0].items()}, round(solution.details["prices"]["effort"], 6)
        ({'rest': 0.75, 'work': 0.25}, 1.0)

    References:
        Altman (1999), Constrained Markov Decision Processes, chapter 3 (discounted costs).
    """

    costs: Mapping[str, Any]
    limits: Mapping[str, float]
    initial: Any = None

    def __post_init__(self):
        if not self.costs:
            raise ValueError("there are no costs; without them, leave out the criterion")
        if set(self.costs) != set(self.limits):
            odd = sorted(set(self.costs) ^ set(self.limits))
            raise ValueError(f"{odd[0]!r} has a cost or a limit but not both")
        for name, limit in self.limits.items():
            if not np.isfinite(limit):
                raise ValueError(f"the limit of {name!r} is {limit}; wanted a finite number")

    def solve(self, mdp, process, *, method, start, horizon, final, tolerance, most, report):
        """See `MDP.solve`."""
        refuse(self, method=method, horizon=horizon, final=final, start=start)
        needs_discount(self, process)
        initial, costs = self._initial(mdp), self._costs(mdp)
        limits = np.array([float(self.limits[name]) for name in self.costs])
        if (process.ends & ~process.terminal).any():  # staying for nothing may cost something
            process = Process(mdp.transitions, idle_ends=False)
        found = linear_programs.visits(process, initial, costs, limits)
        options = {"most": most, "sweeps": None, "report": lambda n, gap: None}
        if found.visits is None:
            self._explain(process, initial, costs, limits, found.message, options)
        prices = np.maximum(found.prices, 0)
        priced = _with_reward(process, process.reward - np.tensordot(prices, costs, 1))
        free = modified_policy_iteration(priced, np.zeros(mdp.num_states), tolerance=0.1 * tolerance, **options)
        upper = float(initial @ (free.values + np.where(process.ends, 0, free.bounds.high)) + prices @ limits)
        policy = _policy(found.visits, free.policy)
        chain = process.mix(policy)
        values = _evaluate(chain, process.discount, tolerance)
        spent = np.array(
            [initial @ _evaluate(Chain(chain.matrix, (policy * c).sum(1)), process.discount, tolerance) for c in costs]
        )
        worth = float(initial @ values)
        # the optimum is concave in the limits, with the prices as slopes: what is overspent has not been earned
        lower = worth - float(prices @ np.maximum(spent - limits, 0))
        residual = np.abs(chain.reward + process.discount * chain.expect(values) - values).max()
        error = float((residual + process.rounding(values)) / (1 - process.factors[1]))
        lower -= error
        report(free.iterations, 0.5 * (upper - lower))
        return solution(
            mdp,
            values=values,
            lower=values - error,
            upper=values + error,
            policy=policy,
            action_values=free.action_values + np.where(process.ends, 0, free.bounds.middle)[:, None],
            gap=max(0.5 * (upper - lower), 0.0),
            tolerance=tolerance,
            exact=True,
            iterations=free.iterations,
            sweeps=free.sweeps,
            details={
                "worth": worth,
                "lower": lower,
                "upper": upper,
                "costs": dict(zip(self.costs, spent.tolist(), strict=True)),
                "prices": dict(zip(self.costs, prices.tolist(), strict=True)),
                "visits": found.visits,
            },
        )

    def _initial(self, mdp) -> np.ndarray:
        if self.initial is None:
            if mdp.initial is None:
                raise ValueError(
                    "where does it start? Give Constrained an initial, or the MDP its initial distribution"
                )
            return np.asarray(mdp.initial, np.float64)
        return np.asarray(as_start(self.initial, mdp), np.float64)

    def _costs(self, mdp) -> np.ndarray:
        shape, mask = (mdp.num_states, mdp.num_actions), np.asarray(mdp.transitions.mask)
        found = []
        for name, given in self.costs.items():
            cost = np.asarray(given, np.float64)
            if cost.shape not in (shape, shape[:1]):
                raise ValueError(f"the costs {name!r} have shape {cost.shape}; wanted {shape} or {shape[:1]}")
            paid = np.where(mask, cost if cost.ndim == 2 else cost[:, None], 0)
            if not np.isfinite(paid).all():
                s, a = np.argwhere(~np.isfinite(paid))[0]
                raise ValueError(
                    f"the cost {name!r} of action {mdp.actions[a]!r} in state {mdp.states[s]!r} is not finite"
                )
            found.append(paid)
        return np.array(found)

    def _explain(self, process, initial, costs, limits, message, options):
        """Say which limit cannot be kept."""
        for name, cost, limit in zip(self.costs, costs, limits, strict=True):
            cheap = _with_reward(process, np.where(process.mask, -cost, -np.inf))
            found = modified_policy_iteration(cheap, np.zeros(process.num_states), tolerance=1e-8, **options)
            least = -float(initial @ (found.values + np.where(process.ends, 0, found.bounds.middle)))
            if least > limit:
                raise ValueError(
                    f"no policy keeps {name!r} within {limit:.6g}: the least that can be spent is {least:.6g}"
                )
        raise ValueError(
            f"each limit can be kept, but not all of {', '.join(map(repr, self.costs))} together: raise one ({message})"
        )


def _with_reward(process: Process, reward: np.ndarray) -> Process:
    """The same process with other rewards, −inf where infeasible; states that end it are worth nothing."""
    found = copy.copy(process)
    found.reward = np.where(process.ends[:, None], process.reward, reward)
    found.largest_reward = float(np.abs(reward).max(initial=0, where=process.mask))
    return found


def _policy(visits: np.ndarray, otherwise: np.ndarray) -> np.ndarray:
    """Shares of visits, (S, A); the other policy where there are none."""
    often = visits.sum(axis=1)
    policy = (otherwise[:, None] == np.arange(visits.shape[1])).astype(float)
    come = often > 1e-9 * often.max()
    policy[come] = visits[come] / often[come, None]
    return policy


def _evaluate(chain: Chain, discount: float, tolerance: float) -> np.ndarray:
    found = direct(chain, discount=discount) if is_narrow(chain.matrix) else None
    if found is not None:
        return found
    return krylov(chain, np.zeros(len(chain.reward)), discount=discount, until=0.01 * tolerance * (1 - discount))
