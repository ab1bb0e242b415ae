"""The worst returns of a finite horizon."""

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...inference.planning.returns import Tree, best_tail, grow
from .base import refuse, solution


@dataclass(frozen=True)
class CVaR:
    """The mean of the worst share α of the total discounted reward of a horizon, maximised exactly.

        CVaR_α(R) = max_η { η − E[(η − R)⁺] / α },    R = Σ_{t<H} γ^t r_t + γ^H final(s_H)

    The best policy has to remember what it has earned: `details["policy"](step, state, accumulated)` says what it does.
    All reachable triples are enumerated, at most about five million outcomes, which is far where rewards are few and round.

    Args:
        level: α in (0, 1]; 1 is the expectation.
        start: the state to begin in; by default the process's `initial` decides.

    Call as `mdp.solve(criterion=CVaR(0.1), horizon=20)`. In the `Solution`

    - `values` are η − E[(η − R)⁺ | start] / α, which is the CVaR if there is one start; NaN for states that are none;
    - `policy` and `action_values` are those of the first step;
    - `details` has `worth`, the CVaR over all starts, with its `lower` and `upper` bound; `threshold`, η, a value at risk;
      the `policy`; `returns` and `probabilities`, the distribution of R under it.

    Rewards by outcome are used as such, where the process has them.

    Raises:
        ValueError: a level outside (0, 1], no horizon, no start, too many outcomes (with the figure).

    Example:
        >>> import chainrule as cr
        >>> outcome = {"risky": [(0.9, "end", 2.0), (0.1, "end", -5.0)], "safe": [(1.0, "end", 1.0)]}
        >>> mdp = cr.MDP.from_function(lambda s, a: outcome[a] if s == "begin" else None, ["begin"], ["risky", "safe"])
        >>> [mdp.solve(criterion=cr.criteria.CVaR(a, start="begin"), horizon=1).policy["begin"] for a in (1.0, 0.5)]
        ['risky', 'safe']

    References:
        Rockafellar and Uryasev (2000), Optimization of conditional value-at-risk, theorem 1 (the maximum over η).
        Bäuerle and Ott (2011), Markov decision processes with average-value-at-risk criteria. Hau, Delage, Ghavamzadeh and
        Petrik (2023), On dynamic programming decompositions of static risk measures: why quantile levels as a part of the
        state, instead of rewards, go wrong.
    """

    level: float
    start: Hashable | None = None

    def __post_init__(self):
        if not 0 < self.level <= 1:
            raise ValueError(f"level is {self.level}; wanted the share of worst returns, in (0, 1]")

    def solve(self, mdp, process, *, method, start, horizon, final, tolerance, most, report):
        """See `MDP.solve`."""
        refuse(self, method=method, start=start)
        if horizon is None:
            raise ValueError("horizon is None; CVaR wants a number of steps, at least one")
        initial = self._initial(mdp)
        starts = np.flatnonzero(initial)
        tree = grow(mdp.transitions, starts, horizon, final)
        found = best_tail(tree, initial[starts], self.level, tolerance=0.5 * tolerance, most=most)
        scale = max(float(np.abs(tree.steps[-1].accumulated).max(initial=0)), 1e-300)
        error = tree.error + 64 * horizon * np.finfo(float).eps * scale / self.level
        lower, upper = found.worth - error, found.upper + error
        report(found.evaluations, 0.5 * (upper - lower))
        values = np.full(mdp.num_states, np.nan)
        values[starts] = found.values
        first = tree.steps[0]
        table, q = np.full(mdp.num_states, -1), np.full((mdp.num_states, mdp.num_actions), -np.inf)
        table[starts] = found.choice[0]
        acts = first.actions >= 0
        q[first.states[first.nodes[acts]], first.actions[acts]] = found.action_values[acts]
        return solution(
            mdp,
            values=values,
            lower=values - error,
            upper=values + (upper - found.worth),
            policy=table,
            action_values=q,
            gap=0.5 * (upper - lower),
            tolerance=tolerance,
            exact=found.evaluations < most,
            iterations=found.evaluations,
            sweeps=0,
            details={
                "worth": found.worth,
                "lower": lower,
                "upper": upper,
                "threshold": found.threshold,
                "policy": ReturnPolicy(tree, found.choice, mdp),
                "returns": found.returns,
                "probabilities": found.probabilities,
            },
        )

    def _initial(self, mdp) -> np.ndarray:
        if self.start is not None:
            return (np.arange(mdp.num_states) == mdp.index(self.start)).astype(float)
        if mdp.initial is None:
            raise ValueError("where does it start? Give CVaR a start, or the MDP its initial distribution")
        return np.asarray(mdp.initial, np.float64)


class ReturnPolicy:
    """What to do at a step, in a state, after an accumulated discounted reward: `policy(2, "home", 3.5)`.

    It is what `CVaR` leaves in `details["policy"]`.

    Example:
        >>> import chainrule as cr
        >>> step = {("draw", "play"): [(0.5, "next", 0.0), (0.5, "next", 4.0)],
        ...         ("next", "play"): [(0.8, "end", 3.0), (0.2, "end", -3.0)], ("next", "stop"): [(1.0, "end", 0.0)]}
        >>> mdp = cr.MDP.from_function(lambda s, a: step.get((s, a)), ["draw"], actions=["play", "stop"])
        >>> details = mdp.solve(criterion=cr.criteria.CVaR(0.5, start="draw"), horizon=2).details
        >>> details["policy"](1, "next", 0.0), details["policy"](1, "next", 4.0)  # 4 is better kept
        ('play', 'stop')
        >>> round(details["worth"], 6)  # 0.8 · 3 − 0.2 · 3, the half in which the draw gave nothing
        1.8
    """

    def __init__(self, tree: Tree, choice: list[np.ndarray], mdp: Any):
        self._tree, self._choice = tree, choice
        self._states, self._actions, self._index = mdp.states, mdp.actions, mdp.index

    @property
    def horizon(self) -> int:
        """How many steps there are."""
        return len(self._choice)

    def __call__(self, step: int, state: Hashable, accumulated: float) -> Hashable | None:
        """The action; None where the process has ended.

        Raises:
            ValueError: no such step, or no way to be in the state with this reward then.
        """
        if not 0 <= step < self.horizon:
            raise ValueError(f"step {step} is not one of 0 … {self.horizon - 1}")
        nodes = self._tree.steps[step]
        here = np.flatnonzero(nodes.states == self._index(state))
        off = np.abs(nodes.accumulated[here] - accumulated)
        if len(here) == 0 or off.min() > 1e-9 * (1 + abs(accumulated)):
            some = ", ".join(f"{x:.6g}" for x in nodes.accumulated[here][np.argsort(off)[:5]])
            hint = f"near: {some}" if some else "nor with anything else"
            raise ValueError(f"state {state!r} cannot be reached with {accumulated} by step {step}; {hint}")
        action = int(self._choice[step][here[np.argmin(off)]])
        return None if action < 0 else self._actions[action]

    def items(self) -> Iterator[tuple[tuple[int, Hashable, float], Hashable | None]]:
        """Pairs of (step, state, accumulated) and the action."""
        for t, chosen in enumerate(self._choice):
            step = self._tree.steps[t]
            for s, paid, a in zip(step.states, step.accumulated, chosen, strict=True):
                yield (t, self._states[s], float(paid)), None if a < 0 else self._actions[a]

    def __repr__(self):
        return f"ReturnPolicy({self.horizon} steps, {sum(map(len, self._choice))} decisions)"
