"""Policies and solutions of decision processes, readable by the names of states and actions."""

import enum
from collections.abc import Hashable, Iterator
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from ..forms.chain import is_concrete


class SolveStatus(enum.Enum):
    """How solving ended; each member reads as advice."""

    CERTIFIED = "certified: the optimum is between lower and upper, which are no further apart than was asked"
    MAX_ITERATIONS = (
        "stopped at max_iterations, or where the method got no further: lower and upper still hold; allow more iterations, "
        "take another method, or widen the tolerance"
    )
    PRECISION = (
        "lower and upper are as close as rounding lets them be, which is wider than was asked: widen the tolerance, or "
        "solve in float64"
    )

    def __repr__(self):
        return f"{type(self).__name__}.{self.name}"


class Policy(eqx.Module):
    """What to do in each state.

    Args:
        table: the index of an action for each state, (S,) or, where it depends on the step, (H, S); or the probability of
            each action, (S, A) or (H, S, A), as floats. −1, or a row of zeros, where there is nothing to do.
        states, actions: names, or None for 0 … S−1 and 0 … A−1.

    `policy["hot"]` is the name of an action, or a dict of names and probabilities; with steps, a list of them. None where
    the process has ended.

    Example:
        >>> import numpy as np, chainrule as cr
        >>> policy = cr.Policy(np.array([1, 0, -1]), states=("cool", "hot", "broken"), actions=("slow", "fast"))
        >>> policy["cool"], policy["hot"], policy["broken"]
        ('fast', 'slow', None)
    """

    table: Any
    states: tuple[Hashable, ...] | None = eqx.field(static=True, default=None)
    actions: tuple[Hashable, ...] | None = eqx.field(static=True, default=None)

    @property
    def is_deterministic(self) -> bool:
        """Whether there is one action for each state, instead of probabilities."""
        return jnp.issubdtype(self.table.dtype, jnp.integer)

    @property
    def num_states(self) -> int:
        """S."""
        return self.table.shape[-1 if self.is_deterministic else -2]

    @property
    def labels(self) -> np.ndarray:
        """The names of the actions of a deterministic policy, in the shape of `table`; None where there is none."""
        if not self.is_deterministic:
            raise ValueError("a stochastic policy has no one action for a state; see its table of probabilities")
        indices = np.asarray(self.table)
        names = range(int(indices.max(initial=-1)) + 1) if self.actions is None else self.actions
        lookup = np.empty(len(names) + 1, object)
        lookup[:-1] = list(names)
        return lookup[indices]

    def probabilities(self, num_actions: int | None = None) -> Any:
        """The policy as probabilities, (…, S, A)."""
        if not self.is_deterministic:
            return self.table
        size = len(self.actions) if num_actions is None and self.actions is not None else num_actions
        if size is None:
            size = int(np.asarray(self.table).max()) + 1
        if is_concrete(self.table):
            return (np.asarray(self.table)[..., None] == np.arange(size)).astype(float)
        return (self.table[..., None] == jnp.arange(size)).astype(float)

    def __getitem__(self, state: Hashable) -> Any:
        s = state_index(state, self.states, self.num_states)
        if self.is_deterministic:
            found = self.table[..., s]
            return [self._label(int(x)) for x in found] if found.ndim else self._label(int(found))
        rows = np.asarray(self.table)[..., s, :]
        named = [self._named(row) for row in rows.reshape(-1, rows.shape[-1])]
        return named[0] if rows.ndim == 1 else named

    def _label(self, action: int) -> Hashable | None:
        if action < 0:
            return None
        return action if self.actions is None else self.actions[action]

    def _named(self, row) -> dict | None:
        names = range(len(row)) if self.actions is None else self.actions
        return {name: float(p) for name, p in zip(names, row, strict=True) if p > 0} or None

    def items(self) -> Iterator[tuple[Hashable, Any]]:
        """Pairs of a state and what to do there, as `policy[state]`."""
        for s, name in enumerate(range(self.num_states) if self.states is None else self.states):
            if self.is_deterministic and self.table.ndim == 1:
                yield name, self._label(int(self.table[s]))
            else:
                yield name, self[name]

    def __repr__(self):
        kind = "deterministic" if self.is_deterministic else "stochastic"
        steps = self.table.ndim > (1 if self.is_deterministic else 2)
        return f"Policy({self.num_states} states, {kind}{f', {self.table.shape[0]} steps' if steps else ''})"


class Solution(eqx.Module):
    """The best that can be had from each state, how to have it, and how sure that is.

    Attributes:
        values: value of each state, the middle of the bounds, (S,); with a horizon (H + 1, S), by step.
        lower, upper: bounds on the optimal value, rounding included.
        policy: what to do; `solution.policy["hot"]`.
        action_values: Q, (S, A), −inf where infeasible; with a horizon (H, S, A).
        gap: half the distance from lower to upper, at most.
        tolerance: what was asked for.
        exact: whether rounding, not patience, kept the gap from the tolerance.
        iterations: backups over all actions. sweeps: backups, or solves, under one policy.
        history: the gap at each iteration, where it was kept.
        details: what else a criterion has to say, such as `gain` and `bias`.
        states, actions: names, or None for numbers.

    `solution["hot"]` is the value of one state. Under `jit` and `vmap` everything is an array, and `status` can be read
    once the values are there.
    """

    values: Any
    lower: Any
    upper: Any
    policy: Policy
    action_values: Any
    gap: Any
    tolerance: Any
    exact: Any
    iterations: Any
    sweeps: Any
    history: Any = None
    details: dict[str, Any] = eqx.field(default_factory=dict)
    states: tuple[Hashable, ...] | None = eqx.field(static=True, default=None)
    actions: tuple[Hashable, ...] | None = eqx.field(static=True, default=None)

    @property
    def status(self) -> Any:
        """How solving ended: a `SolveStatus`, or a list of them for a batch."""
        codes = np.where(np.asarray(self.gap) <= np.asarray(self.tolerance), 0, np.where(np.asarray(self.exact), 2, 1))
        members = list(SolveStatus)
        return members[int(codes)] if codes.ndim == 0 else [members[code] for code in codes.reshape(-1)]

    @property
    def optimal_actions(self) -> Any:
        """True for the actions that may be optimal, (S, A): those whose value the bounds do not tell from the best.

        Every optimal action is among them, ties included; within the gap others may be.
        """
        q = np.asarray(self.action_values)
        best = q.max(axis=-1, keepdims=True)
        slack = 2 * np.asarray(self.gap) + 64 * np.finfo(q.dtype).eps * (1 + np.abs(best))
        return np.isfinite(q) & (q >= best - slack)

    def best_actions(self, state: Hashable) -> list[Hashable]:
        """The names of the actions that may be optimal in a state: more than one where they tie."""
        s = state_index(state, self.states, self.action_values.shape[-2])
        if not self._decides(s):
            return []
        names = range(self.action_values.shape[-1]) if self.actions is None else self.actions
        return [name for name, good in zip(names, self.optimal_actions[..., s, :], strict=True) if good]

    def _decides(self, s: int) -> bool:
        table = np.asarray(self.policy.table)
        return bool(table[s] >= 0) if self.policy.is_deterministic else bool(table[s].any())

    def __getitem__(self, state: Hashable) -> Any:
        found = self.values[..., state_index(state, self.states, self.values.shape[-1])]
        return float(found) if is_concrete(found) and np.ndim(found) == 0 else found

    def __repr__(self):
        if not is_concrete(self.gap) or np.ndim(self.gap) > 0:
            return f"Solution({self.policy!r})"
        return f"Solution({self.policy.num_states} states, {self.status.name}, gap={float(self.gap):.2g})"


class Evaluation(eqx.Module):
    """What a policy is worth.

    Attributes:
        values: of each state, (S,).
        lower, upper: bounds on them, rounding included; None under `jit`, `vmap` and `grad`.

    `evaluation["hot"]` is the value of one state.
    """

    values: Any
    lower: Any
    upper: Any
    states: tuple[Hashable, ...] | None = eqx.field(static=True, default=None)

    def __getitem__(self, state: Hashable) -> Any:
        found = self.values[..., state_index(state, self.states, self.values.shape[-1])]
        return float(found) if is_concrete(found) and np.ndim(found) == 0 else found

    def __repr__(self):
        return f"Evaluation({self.values.shape[-1]} states)"


def state_index(state: Hashable, names: tuple[Hashable, ...] | None, size: int, kind: str = "state") -> int:
    """The index of a state or an action, by its name.

    Raises:
        ValueError: it is not there.
    """
    if names is None:
        if not isinstance(state, int | np.integer) or not 0 <= state < size:
            raise ValueError(f"{kind} {state!r} is not one of 0 … {size - 1}")
        return int(state)
    try:
        return names.index(state)
    except ValueError:
        few = ", ".join(repr(name) for name in names[:6]) + (", …" if len(names) > 6 else "")
        raise ValueError(f"no {kind} is called {state!r}; there are {few}") from None
