"""What the criteria share: refusing what does not fit, and putting a solution together."""

from typing import Any

import numpy as np

from ..policy import Policy, Solution


def refuse(criterion: Any, *, method=None, horizon=None, final=None, start=None):
    """Refuse options that a criterion has no use for; give those that it cannot take.

    Raises:
        ValueError: one of them is not None.
    """
    name = type(criterion).__name__
    if method is not None:
        raise ValueError(f"{name} has a method of its own; leave out method={method!r}")
    if horizon is not None:
        raise ValueError(f"{name} is about an infinite horizon; leave out horizon={horizon}")
    if final is not None:
        raise ValueError(f"{name} is about an infinite horizon; leave out final")
    if start is not None:
        raise ValueError(f"{name} does not begin with values; leave out start")


def needs_discount(criterion: Any, process):
    """Refuse an undiscounted process, and one whose rows exceed one by as much as the discount takes away.

    Raises:
        ValueError: the discount is 1, or that.
    """
    if not process.discount < 1:
        raise ValueError(
            f"{type(criterion).__name__} wants a discount below 1; set one with mdp.replace(discount=0.99)"
        )
    process.require_contraction()


def beginning(mdp, process, start) -> np.ndarray:
    """Values to begin with: those given, or zeros."""
    v = np.zeros(mdp.num_states) if start is None else start.copy()
    v[process.ends] = 0
    return v


def table_of(mdp, policy: np.ndarray) -> np.ndarray:
    """A table of actions, (S,), or of probabilities, (S, A), without any at terminal states."""
    terminal = np.asarray(mdp.transitions.terminal)
    table = policy.astype(np.int32) if policy.ndim == 1 else policy.copy()
    table[terminal] = -1 if policy.ndim == 1 else 0
    return table


def solution(mdp, *, values, lower, upper, policy, action_values, gap, tolerance, exact=False, **rest) -> Solution:
    """A solution with the names of the process."""
    return Solution(
        values=values,
        lower=lower,
        upper=upper,
        policy=Policy(table_of(mdp, policy), mdp.state_names, mdp.action_names),
        action_values=action_values,
        gap=gap,
        tolerance=tolerance,
        exact=exact,
        states=mdp.state_names,
        actions=mdp.action_names,
        **rest,
    )


def from_fixed_point(mdp, found, backup, policy: np.ndarray, tolerance: float, **rest) -> Solution:
    """A solution from what `fixed_point` found."""
    going = ~backup.ended
    low, middle, high = (
        found.values + np.where(going, bound, 0) for bound in (found.bounds.low, found.bounds.middle, found.bounds.high)
    )
    return solution(
        mdp,
        values=middle,
        lower=low,
        upper=high,
        policy=policy,
        action_values=found.action_values + np.where(going, found.bounds.middle, 0)[:, None],
        gap=found.bounds.gap,
        tolerance=tolerance,
        exact=found.exact,
        iterations=found.iterations,
        sweeps=found.sweeps,
        history=np.array(found.history),
        **rest,
    )
