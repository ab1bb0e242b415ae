"""Policies and solutions of decision processes, readable by the names of states and actions."""

import enum
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from ..forms.chain import is_concrete


class SolveStatus(enum.Enum):
    """How solving ended; the value of each member reads as advice.

    Example:
        >>> import chainrule as cr
        >>> mdp = cr.MDP([[[1.0, 0.0]], [[0.0, 1.0]]], [[0.0], [1.0]], discount=0.9)
        >>> early = mdp.solve(method=cr.ValueIteration(), max_iterations=3)
        >>> early.status, bool(early.lower[1] <= 10 <= early.upper[1])  # unfinished, but not wrong
        (SolveStatus.MAX_ITERATIONS, True)
        >>> mdp.solve(tolerance=1e-300).status
        SolveStatus.PRECISION
    """

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
        """The names of the actions of a deterministic policy, in the shape of `table`; None where there is none.

        Raises:
            ValueError: the policy is stochastic.

        Example:
            >>> import numpy as np, chainrule as cr
            >>> cr.Policy(np.array([[1, 0, -1], [0, 0, -1]]), actions=("slow", "fast")).labels.tolist()  # of two steps
            [['fast', 'slow', None], ['slow', 'slow', None]]
        """
        if not self.is_deterministic:
            raise ValueError("a stochastic policy has no one action for a state; see its table of probabilities")
        indices = np.asarray(self.table)
        names = range(int(indices.max(initial=-1)) + 1) if self.actions is None else self.actions
        lookup = np.empty(len(names) + 1, object)
        lookup[:-1] = list(names)
        return lookup[indices]

    def probabilities(self, num_actions: int | None = None) -> Any:
        """The policy as probabilities, (…, S, A); zeros where there is nothing to do.

        Args:
            num_actions: A; by default as many as have names or, without names, as the largest index asks for.

        Example:
            >>> import numpy as np, chainrule as cr
            >>> cr.Policy(np.array([1, 0, -1])).probabilities().tolist()
            [[0.0, 1.0], [1.0, 0.0], [0.0, 0.0]]
        """
        if not self.is_deterministic:
            return self.table
        size = len(self.actions) if num_actions is None and self.actions is not None else num_actions
        if size is None:
            size = int(np.asarray(self.table).max()) + 1
        if is_concrete(self.table):
            return (np.asarray(self.table)[..., None] == np.arange(size)).astype(float)
        return (self.table[..., None] == jnp.arange(size)).astype(float)

    def __getitem__(self, state: Hashable) -> Any:
        return self._at(state_index(state, self.states, self.num_states))

    def _at(self, s: int) -> Any:
        if self.is_deterministic:
            return self._labelled(np.asarray(self.table)[..., s])
        return self._mixed(np.asarray(self.table)[..., s, :])

    def _labelled(self, actions: np.ndarray) -> Any:
        return [self._labelled(part) for part in actions] if actions.ndim else self._label(int(actions))

    def _mixed(self, rows: np.ndarray) -> Any:
        return [self._mixed(part) for part in rows] if rows.ndim > 1 else self._named(rows)

    def _label(self, action: int) -> Hashable | None:
        if action < 0:
            return None
        return action if self.actions is None else self.actions[action]

    def _named(self, row) -> dict | None:
        names = range(len(row)) if self.actions is None else self.actions
        return {name: float(p) for name, p in zip(names, row, strict=True) if p > 0} or None

    def items(self) -> Iterator[tuple[Hashable, Any]]:
        """Pairs of a state and what to do there, as `policy[state]`.

        Example:
            >>> import numpy as np, chainrule as cr
            >>> dict(cr.Policy(np.array([[0.25, 0.75], [0.0, 1.0]]), states=("cool", "hot"), actions=("a", "b")).items())
            {'cool': {'a': 0.25, 'b': 0.75}, 'hot': {'b': 1.0}}
        """
        host = Policy(np.asarray(self.table), self.states, self.actions)
        for s, name in enumerate(range(self.num_states) if self.states is None else self.states):
            yield name, host._at(s)

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

    Example:
        >>> import chainrule as cr
        >>> mdp = cr.MDP([[[1.0], [1.0], [1.0]]], [[2.0, 2.0, 1.0]], discount=0.5, actions=("left", "right", "wait"))
        >>> both = mdp.solve()
        >>> round(both[0], 6), bool(both.lower[0] <= 4 <= both.upper[0]), both.status
        (4.0, True, SolveStatus.CERTIFIED)
        >>> both.policy[0], both.best_actions(0), both.action_values.round(6).tolist()
        ('left', ['left', 'right'], [[4.0, 4.0, 3.0]])
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
        """True for the actions that may be optimal, in the shape of `action_values`: the bounds do not tell them apart.

        Every optimal action is among them, ties included; within the gap others may be.
        """
        q, gap = np.asarray(self.action_values), np.asarray(self.gap)
        best = q.max(axis=-1, keepdims=True)
        gap = gap.reshape(gap.shape + (1,) * (q.ndim - gap.ndim))  # one for each process of a batch
        slack = 2 * gap + 64 * np.finfo(q.dtype).eps * (1 + np.abs(best))
        return np.isfinite(q) & (q >= best - slack)

    def best_actions(self, state: Hashable) -> list:
        """The names of the actions that may be optimal in a state: more than one where they tie, none after the end.

        With a horizon there is such a list for each step, and in a batch for each process.

        Raises:
            ValueError: no such state.

        Example:
            >>> import chainrule as cr
            >>> mdp = cr.MDP([[[1, 0], [0, 1]], [[0, 1], [0, 1]]], [[2, 2], [0, 0]], terminal=[0, 1])
            >>> mdp.solve(horizon=2).best_actions(0)  # at the last step it does not matter whether it ends
            [[0], [0, 1]]
        """
        s = state_index(state, self.states, self.action_values.shape[-2])
        table = np.asarray(self.policy.table)
        decides = np.asarray(table[..., s] >= 0 if self.policy.is_deterministic else table[..., s, :].any(axis=-1))
        names = range(self.action_values.shape[-1]) if self.actions is None else self.actions
        return _listed(self.optimal_actions[..., s, :] & decides[..., None], names)

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
        values: of each state, (S,); of a policy by steps (H + 1, S), the worth after the last step being the last row.
        lower, upper: bounds on them, rounding included; None under `jit`, `vmap` and `grad`.
        tolerance: what was asked for.
        exact: whether what is between the bounds is rounding alone.
        states: names, or None for numbers.

    `evaluation["hot"]` is the value of one state.

    Example:
        >>> import chainrule as cr
        >>> found = cr.MDP([[[1.0]]], [[2.0]], discount=0.5).evaluate([0])
        >>> found[0], bool(found.lower[0] <= 4 <= found.upper[0]), found.status
        (4.0, True, SolveStatus.CERTIFIED)
    """

    values: Any
    lower: Any = None
    upper: Any = None
    tolerance: float | None = eqx.field(static=True, default=None)
    exact: bool | None = eqx.field(static=True, default=None)
    states: tuple[Hashable, ...] | None = eqx.field(static=True, default=None)

    @property
    def gap(self) -> float | None:
        """Half the distance from lower to upper, at most; infinite values are as they are. None without bounds."""
        if self.lower is None:
            return None
        finite = np.isfinite(self.values)
        return 0.5 * float(np.subtract(self.upper, self.lower, where=finite, out=np.zeros(finite.shape)).max())

    @property
    def status(self) -> SolveStatus | None:
        """Whether the bounds are as close as was asked, and what kept them apart; None without bounds."""
        if self.gap is None or self.tolerance is None:
            return None
        if self.gap <= self.tolerance:
            return SolveStatus.CERTIFIED
        return SolveStatus.PRECISION if self.exact else SolveStatus.MAX_ITERATIONS

    def __getitem__(self, state: Hashable) -> Any:
        found = self.values[..., state_index(state, self.states, self.values.shape[-1])]
        return float(found) if is_concrete(found) and np.ndim(found) == 0 else found

    def __repr__(self):
        known = "" if self.status is None else f", {self.status.name}, gap={self.gap:.2g}"
        return f"Evaluation({self.values.shape[-1]} states{known})"


def _listed(chosen: np.ndarray, names) -> list:
    """The names of the chosen, along the last axis; lists of lists for what is before it."""
    if chosen.ndim > 1:
        return [_listed(part, names) for part in chosen]
    return [name for name, good in zip(names, chosen, strict=True) if good]


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
        raise _unknown(state, names, kind) from None


def places(names: tuple[Hashable, ...] | None, size: int, kind: str = "state") -> Callable[[Hashable], int]:
    """`state_index` for many look-ups: each takes the same time however many names there are."""
    if names is None:
        return lambda state: state_index(state, None, size, kind)
    found = {name: i for i, name in enumerate(names)}

    def place(state):
        try:
            return found[state]
        except (KeyError, TypeError):  # TypeError: not hashable, so no name
            raise _unknown(state, names, kind) from None

    return place


def _unknown(state, names, kind: str) -> ValueError:
    few = ", ".join(repr(name) for name in names[:6]) + (", …" if len(names) > 6 else "")
    return ValueError(f"no {kind} is called {state!r}; there are {few}")
