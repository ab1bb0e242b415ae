"""From a decision process to a `Solution`: which solver is asked, and how its answer is read."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..forms.chain import is_concrete
from ..forms.transitions import Transitions
from ..inference import bellman
from ..inference.compiling import jit
from ..inference.planning import finite_horizon, total_reward
from ..inference.planning.methods import ModifiedPolicyIteration, PolicyIteration
from ..inference.planning.process import Process
from .policy import Policy, Solution


def check_options(method, criterion, horizon, tolerance, max_iterations):
    """Refuse what `MDP.solve` cannot take.

    Raises:
        ValueError: an option of the wrong kind or out of range, by its name.
    """
    for name, value, needed, some in (
        ("method", method, "run", "ModifiedPolicyIteration(), ValueIteration() or PolicyIteration()"),
        ("criterion", criterion, "solve", "criteria.Average() or criteria.Soft(0.1)"),
    ):
        if isinstance(value, type):
            raise ValueError(f"{name} is the class {value.__name__}; wanted one of it: {value.__name__}(…)")
        if value is not None and not callable(getattr(value, needed, None)):
            raise ValueError(f"{name} is {value!r}; wanted an object such as {some}")
    if horizon is not None and (not isinstance(horizon, int | np.integer) or horizon < 1):
        raise ValueError(f"horizon is {horizon!r}; wanted a whole number of steps, at least one")
    for name, value in (("tolerance", tolerance), ("max_iterations", max_iterations)):
        if not isinstance(value, int | float | np.integer | np.floating | np.ndarray | jax.Array):
            raise ValueError(f"{name} is {value!r}; wanted a number")
    if not tolerance > 0:
        raise ValueError(f"tolerance is {tolerance}; wanted a positive number")
    if not max_iterations >= 1:
        raise ValueError(f"max_iterations is {max_iterations}; wanted at least one")


def refuse_leftovers(method, horizon, start, final, discount: float):
    """Refuse options that nothing would come of.

    Raises:
        ValueError: the first of them, by its name.
    """
    if horizon is None:
        if final is not None:
            raise ValueError("final is what states are worth after the last step; give a horizon too, or leave it out")
        if start is not None and not discount < 1:
            raise ValueError(
                "without a discount, solving begins with a policy that ends, not with values; leave out start"
            )
        return
    for name, value in (("method", method), ("start", start)):
        if value is not None:
            raise ValueError(f"with a horizon, values follow step by step from the last; leave out {name}")


def discounted(mdp, method, start, *, tolerance, most, report) -> Solution:
    """The best discounted reward, by any method."""
    process = Process(mdp.transitions)
    process.require_contraction()
    method = ModifiedPolicyIteration() if method is None else method
    v = np.zeros(mdp.num_states) if start is None else start.copy()
    v[process.ends] = 0
    found = method.run(process, v, tolerance=tolerance, most=most, report=report)
    going = ~process.ends
    q = found.action_values
    q += np.where(going, found.bounds.middle, 0)[:, None]
    return Solution(
        values=found.values + np.where(going, found.bounds.middle, 0),
        lower=found.values + np.where(going, found.bounds.low, 0),
        upper=found.values + np.where(going, found.bounds.high, 0),
        policy=named_policy(mdp, found.policy),
        action_values=q,
        gap=found.bounds.gap,
        tolerance=tolerance,
        exact=found.exact,
        iterations=found.iterations,
        sweeps=found.sweeps,
        history=np.array(found.history),
        states=mdp.state_names,
        actions=mdp.action_names,
    )


def planned(mdp, horizon: int, final, *, tolerance, report) -> Solution:
    """The best for a number of steps."""
    last = np.zeros(mdp.num_states) if final is None else final
    plan = finite_horizon.solve(Process(mdp.transitions, idle_ends=False), horizon, last, report=report)
    return Solution(
        values=plan.values,
        lower=plan.values - plan.error,
        upper=plan.values + plan.error,
        policy=named_policy(mdp, plan.policy),
        action_values=plan.action_values,
        gap=plan.error,
        tolerance=tolerance,
        exact=True,
        iterations=horizon,
        sweeps=0,
        states=mdp.state_names,
        actions=mdp.action_names,
    )


def total(mdp, method, *, tolerance, most, report) -> Solution:
    """The best without a discount."""
    if not isinstance(method, PolicyIteration | None):
        raise ValueError(f"without a discount the method is PolicyIteration(), not {method!r}")
    process = Process(mdp.transitions, normalised=True)
    exactly = method is None or method.evaluation == "direct"
    found = total_reward.solve(process, mdp.states, most=most, exactly=exactly, report=report)
    return Solution(
        values=found.values,
        lower=found.values - found.error,
        upper=found.values + found.error,
        policy=named_policy(mdp, found.policy),
        action_values=found.action_values,
        gap=float(found.error.max()),
        tolerance=tolerance,
        exact=found.exact,
        iterations=found.iterations,
        sweeps=found.evaluations,
        history=np.array(found.history),
        states=mdp.state_names,
        actions=mdp.action_names,
    )


def traced(mdp, method, tolerance, most) -> Solution:
    """The best discounted reward in one compiled loop, in the dtype of the process."""
    if not isinstance(method, ModifiedPolicyIteration | None):
        raise ValueError(
            f"under jit, vmap and grad, and on accelerators, the method is ModifiedPolicyIteration, not {method!r}"
        )
    if is_concrete(mdp.discount) and not float(np.max(mdp.discount)) < 1:
        raise ValueError("under jit, vmap and grad, and on accelerators, the discount must be below 1")
    sweeps = 100 if method is None or method.sweeps is None else method.sweeps
    found = _traced(mdp.transitions, tolerance, most, sweeps)
    return Solution(
        values=found.values,
        lower=found.lower,
        upper=found.upper,
        policy=Policy(found.policy, mdp.state_names, mdp.action_names),
        action_values=found.action_values,
        gap=found.gap,
        tolerance=tolerance,
        exact=found.exact,
        iterations=found.iterations,
        sweeps=found.sweeps,
        states=mdp.state_names,
        actions=mdp.action_names,
    )


def named_policy(mdp, actions: np.ndarray) -> Policy:
    """Actions, (S,) or (H, S), with the names of the process; −1 where it has ended."""
    table = np.where(np.asarray(mdp.transitions.terminal), -1, actions).astype(np.int32)
    return Policy(table, mdp.state_names, mdp.action_names)


@jit
def _traced(form: Transitions, tolerance, most, sweeps) -> bellman.Solved:
    found = bellman.solve(form, tolerance=tolerance, most=most, sweeps=sweeps)
    return found._replace(policy=jnp.where(jnp.asarray(form.terminal), -1, found.policy))


@jit
def traced_worth(form: Transitions, table) -> Any:
    """What a policy is worth, differentiable."""
    return bellman.evaluate(form, table)
