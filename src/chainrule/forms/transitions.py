"""The transitions form: what happens, and what it pays, when an action is taken in a state.

A Markov decision process with states s, actions a and discount γ has the Bellman optimality equation

    v(s) = max_{a feasible in s} { rewards[s, a] + γ Σ_{s'} p(s' | s, a) v(s') },     v(s) = 0 where s is terminal.

p is stored dense, `probabilities[s, a, s']`, or padded: `probabilities[s, a, b]` of ending in `successors[s, a, b]`,
with b up to the largest number of successors, which is far smaller when each action leads to a few states only. Where
many actions share their distribution over successors, as in inventory control, each distinct one is stored once, and
`rows[s, a]` says which one (s, a) has. A Markov chain with rewards is the case of one action.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from .chain import is_concrete

_Floats = Float[Array, "..."] | np.ndarray
_Integers = Int[Array, "..."] | np.ndarray
_LARGEST = np.iinfo(np.int32).max


class Misfit(ValueError):
    """What is wrong with one entry, `where` being its state, or its state and action, for those who know their names."""

    def __init__(self, message: str, where=()):
        super().__init__(message)
        self.where = tuple(where)

    def named(self, states, actions) -> ValueError:
        """The same with names, of which there may be none (None), or too few."""
        known = [
            f"{kind} {names[i]!r}"
            for kind, names, i in zip(("state", "action"), (states, actions), self.where, strict=False)
            if names is not None and i < len(names)
        ]
        return ValueError(f"{', '.join(known)}: {self}" if known else str(self))


class Transitions(eqx.Module):
    """Dynamics, rewards and discount of a Markov decision process.

    Args:
        probabilities: `probabilities[s, a, s']` of going from s to s' under a, shape (S, A, S); with `successors`,
            shape (S, A, b), entry b belonging to `successors[s, a, b]`. Pad with probability zero. With `rows`, the
            distinct distributions, shape (U, S) or (U, b).
        rewards: expected reward of taking a in s, shape (S, A); or of ending in each successor too, (S, A, S) or (S, A, b).
        successors: state indices in the shape of `probabilities`, or None for dense ones. A repeated successor adds up.
        rows: which row of `probabilities` belongs to (s, a), shape (S, A), or None.
        mask: True, or 1, where an action is feasible, shape (S, A); None means everywhere.
        terminal: True, or 1, where the process ends, shape (S,); None means nowhere. Such states are worth zero and have
            no feasible action, so that their rewards play no part: what is earned on arrival belongs to the actions
            that lead there.
        discount: γ in [0, 1]; 1 means undiscounted.

    Everything is kept in the dtype of `probabilities`, but for a concrete discount, whose last digits weigh much. NumPy
    arrays and lists stay NumPy arrays, without a copy where the dtype allows it, so that float64 keeps its digits also
    where JAX computes in 32 bits. Rows of infeasible actions play no part in any answer, but they must be finite.

    Raises:
        ValueError: shapes that do not fit, or, in concrete arrays, probabilities that are negative or NaN, a feasible
            row that does not sum to one, a reward that is not finite, a successor that is no state, a state that is
            not terminal and has no feasible action, a discount outside [0, 1].

    Example:
        >>> import chainrule as cr
        >>> stay_or_switch = [[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [1.0, 0.0]]]
        >>> cr.Transitions(stay_or_switch, [[0.0, 0.0], [1.0, 0.0]], discount=0.9)
        Transitions(2 states, 2 actions, dense)

    References:
        Puterman (1994), Markov Decision Processes, §2.1 and §6.2.
    """

    probabilities: _Floats
    rewards: _Floats
    successors: _Integers | None
    rows: _Integers | None
    outcome_rewards: _Floats | None
    mask: Bool[Array, "state action"] | np.ndarray
    terminal: Bool[Array, " state"] | np.ndarray
    discount: _Floats

    def __init__(
        self, probabilities, rewards, *, successors=None, rows=None, mask=None, terminal=None, discount: Any = 1.0
    ):
        self.probabilities = probabilities = _as_float(probabilities)
        self.successors = None if successors is None else _as_index(successors, "successors")
        self.rows = None if rows is None else _as_index(rows, "rows")
        shape = self._check_probabilities()
        rewards = _as_float(rewards, probabilities.dtype)
        self.outcome_rewards = None
        if rewards.shape == (*shape, probabilities.shape[-1]):
            each = probabilities if self.rows is None else probabilities[self.rows]
            self.outcome_rewards, rewards = rewards, (each * rewards).sum(-1)
        self.rewards = rewards
        self.discount = _as_float(discount, probabilities.dtype if isinstance(discount, jax.Array) else np.float64)
        self.terminal = np.zeros(shape[:1], bool) if terminal is None else _as_flags(terminal, "terminal")
        self.mask = np.ones(shape, bool) if mask is None else _as_flags(mask, "mask")
        for name, wanted in (("rewards", shape), ("mask", shape), ("terminal", shape[:1]), ("discount", ())):
            if (got := getattr(self, name).shape) != wanted:
                raise ValueError(f"{name} has shape {got}; probabilities of shape {_text(shape)} ask for {wanted}")
        if terminal is not None:
            self.mask = self.mask & ~self.terminal[:, None]

    def __check_init__(self):
        if all(is_concrete(value) for value in jax.tree.leaves(self)):
            self._check_values()

    def _check_probabilities(self) -> tuple[int, int]:
        """The number of states and of actions."""
        probs, successors, rows = self.probabilities, self.successors, self.rows
        if rows is not None:
            if rows.ndim != 2 or not jnp.issubdtype(rows.dtype, jnp.integer) or 0 in rows.shape:
                raise ValueError(f"rows must be integers of shape (state, action), got {rows.dtype}{rows.shape}")
            if probs.ndim != 2 or 0 in probs.shape:
                raise ValueError(f"with rows, probabilities must have shape (row, successor), got {probs.shape}")
        elif probs.ndim != 3 or 0 in probs.shape:
            raise ValueError(f"probabilities must have shape (state, action, successor), none empty, got {probs.shape}")
        shape = (probs.shape[0], probs.shape[1]) if rows is None else (rows.shape[0], rows.shape[1])
        if successors is None and shape[0] != probs.shape[-1]:
            raise ValueError(
                f"dense probabilities must have shape (S, A, S), got {probs.shape}; give successors for the padded form"
                if rows is None
                else f"dense probabilities for {shape[0]} states must have shape (row, {shape[0]}), got {probs.shape}"
            )
        if successors is not None and successors.shape != probs.shape:
            raise ValueError(f"successors has shape {successors.shape}; probabilities ask for {probs.shape}")
        if successors is not None and not jnp.issubdtype(successors.dtype, jnp.integer):
            raise ValueError(f"successors must be integers, state indices, got {successors.dtype}")
        return shape

    def _check_values(self):
        """Look at each array once; what is wrong is searched for only where something is."""
        probs, mask = np.asarray(self.probabilities), np.asarray(self.mask)
        sums = _sums(probs)
        if not (sums >= 0).all():
            bad = _first(~(probs >= 0) | np.isinf(probs))
            raise Misfit(
                f"probabilities{bad} is {probs[tuple(bad)]}; probabilities are finite and not negative",
                bad[:2] if self.rows is None else (),
            )
        for name in ("rewards", "outcome_rewards"):
            values = getattr(self, name)
            if values is not None and not np.isfinite(np.asarray(values)).all():
                bad = _first(~np.isfinite(np.asarray(values)))
                what = f"{name}{bad} is {np.asarray(values)[tuple(bad)]}"
                raise Misfit(f"{what}; forbid an action with mask, not with its reward", bad[:2])
        if self.rows is not None:
            rows = np.asarray(self.rows)
            if rows.min() < 0 or rows.max() >= len(probs):
                bad = _first((rows < 0) | (rows >= len(probs)))
                raise ValueError(f"rows{bad} is {rows[tuple(bad)]}, not one of the {len(probs)} rows of probabilities")
            sums = sums[rows]
        if (bad := _first(mask & (np.abs(sums - 1) > row_tolerance(probs.dtype)))) is not None:
            row = f"probabilities{bad if self.rows is None else [int(np.asarray(self.rows)[tuple(bad)])]}"
            raise Misfit(
                f"{row} sum to {sums[tuple(bad)]:.6g}, not 1; if action {bad[1]} is not possible in state {bad[0]}, set "
                f"mask{bad} to False",
                bad,
            )
        if (bad := _first(~mask.any(axis=1) & ~np.asarray(self.terminal))) is not None:
            raise Misfit(f"state {bad[0]} has no feasible action; mark it terminal or give it one", bad)
        if self.successors is not None:
            successors = np.asarray(self.successors)
            if successors.min() < 0 or successors.max() >= self.num_states:
                bad = _first((successors < 0) | (successors >= self.num_states))
                raise Misfit(
                    f"successors{bad} is {successors[tuple(bad)]}, not one of the {self.num_states} states; pad with "
                    "any state at probability zero",
                    bad[:2] if self.rows is None else (),
                )
        if not 0 <= float(self.discount) <= 1:
            raise ValueError(f"discount is {float(self.discount)}, outside [0, 1]")

    @property
    def num_states(self) -> int:
        """How many states there are, terminal ones included."""
        return self.rewards.shape[-2]

    @property
    def num_actions(self) -> int:
        """How many actions there are over all states."""
        return self.rewards.shape[-1]

    def distinct(self) -> "Transitions":
        """The same process with each distinct row of probabilities stored once, where that saves at least half of them.

        Rows are sorted by random projections and then compared entry by entry, so that equal means equal. A sample tells
        beforehand whether it is worth a look at all. Rewards by outcome stay with (s, a). Traced arrays stay as they are.
        """
        if self.rows is not None or not all(is_concrete(value) for value in jax.tree.leaves(self)):
            return self
        probs = np.asarray(self.probabilities).reshape(self.mask.size, -1)
        successors = None if self.successors is None else np.asarray(self.successors).reshape(probs.shape)
        feasible = np.asarray(self.mask).reshape(-1)
        used = None if feasible.all() else np.flatnonzero(feasible)
        found = _distinct_rows(probs, successors, used)
        if found is None:
            return self
        first, found = found
        rows = np.zeros(self.mask.size, np.int32)  # infeasible actions share a row that nobody asks for
        rows[slice(None) if used is None else used] = found
        return Transitions(
            probs[first],
            self._paid,
            successors=None if successors is None else successors[first],
            rows=rows.reshape(self.mask.shape),
            mask=self.mask,
            terminal=self.terminal,
            discount=self.discount,
        )

    def spread_out(self) -> "Transitions":
        """The same process without `rows`: each (s, a) with its own probabilities."""
        if self.rows is None:
            return self
        return Transitions(
            self.probabilities[self.rows],
            self._paid,
            successors=None if self.successors is None else self.successors[self.rows],
            mask=self.mask,
            terminal=self.terminal,
            discount=self.discount,
        )

    @property
    def _paid(self):
        """Rewards as they were given."""
        return self.rewards if self.outcome_rewards is None else self.outcome_rewards

    def __repr__(self):
        width = self.probabilities.shape[-1]
        layout = "dense" if self.successors is None else f"{width} successor{'s' if width > 1 else ''}"
        shared = "" if self.rows is None else f", {self.probabilities.shape[-2]} distinct rows"
        return f"Transitions({self.num_states} states, {self.num_actions} actions, {layout}{shared})"


def row_tolerance(dtype) -> float:
    """By how much the sum of a row may miss one: what rounding leaves in thousands of entries is not the user's mistake."""
    return max(1e-6, 100 * float(jnp.finfo(dtype).eps))


def _sums(probs: np.ndarray) -> np.ndarray:
    """Sums of rows in float64; NaN where an entry is negative, NaN or infinite."""
    found = np.empty(probs.shape[:-1])
    flat, sums = probs.reshape(-1, probs.shape[-1]), found.reshape(-1)
    ones = np.ones(flat.shape[1])
    for piece in _pieces(len(flat), flat.shape[1]):
        sums[piece] = flat[piece] @ ones
        if not (flat[piece].min() >= 0 and np.isfinite(sums[piece]).all()):
            sums[piece] = np.where((flat[piece] >= 0).all(axis=1) & np.isfinite(sums[piece]), sums[piece], np.nan)
    return found


def _distinct_rows(probs, successors, used) -> tuple[np.ndarray, np.ndarray] | None:
    """Where each distinct row is first, and which of them every row is; None if more than half are distinct.

    Only the rows `used` are looked at; None is all.
    """
    rng = np.random.default_rng(0)
    mix = rng.standard_normal((2, probs.shape[1]))
    total = len(probs) if used is None else len(used)
    if total == 0:
        return None

    def project(chosen):
        """A number for each row, equal for equal rows and different, almost surely, for others.

        It is rounded, since a matrix product may add up its last rows in another order than its first.
        """
        found = probs[chosen] @ mix[0]
        return np.round(found if successors is None else found + successors[chosen] @ mix[1], 7)

    pieces = [piece if used is None else used[piece] for piece in _pieces(total, probs.shape[1])]
    sample = np.sort(rng.choice(total, min(total, 2048), replace=False))
    if len(np.unique(project(sample if used is None else used[sample]))) > 0.9 * len(sample):
        return None
    _, first, rows = np.unique(
        np.concatenate([project(piece) for piece in pieces]), return_index=True, return_inverse=True
    )
    if 2 * len(first) > total:
        return None
    first = first if used is None else used[first]
    for piece, place in zip(pieces, _pieces(total, probs.shape[1]), strict=True):
        same = first[rows[place]]
        for values in (probs, successors):
            if values is not None and not np.array_equal(values[piece], values[same]):
                return None  # two rows with one projection: keep them all rather than merge unequal ones
    return first, rows.astype(np.int32)


def _pieces(rows: int, width: int):
    """Slices of rows that stay in the cache while they are looked at more than once."""
    size = max(1, 65_536 // width)
    return (slice(start, min(start + size, rows)) for start in range(0, rows, size))


def _as_array(value):
    """JAX arrays and traced values as they are, everything else as a NumPy array."""
    return value if isinstance(value, jax.Array) else np.asarray(value)


def _as_flags(value, name: str):
    """True and False, or ones and zeros; other numbers would be taken for True, NaN among them."""
    value = _as_array(value)
    if value.dtype == bool:
        return value
    if is_concrete(value) and (bad := _first(~np.isin(np.asarray(value), (0, 1)))) is not None:
        raise Misfit(f"{name}{bad} is {value[tuple(bad)]}; wanted True or False", bad)
    return value.astype(bool)


def _as_index(value, name: str):
    """Integers in 32 bits, which every state fits in; others as they are, to be refused by name."""
    value = _as_array(value)
    if value.dtype not in (np.dtype("int64"), np.dtype("uint32"), np.dtype("uint64")):
        return value
    if is_concrete(value) and value.size and (value.max() > _LARGEST or value.min() < 0):
        found = np.asarray(value)
        bad = _first((found > _LARGEST) | (found < 0))
        raise Misfit(f"{name}{bad} is {found[tuple(bad)]}, which is no index of a state", bad[:2])
    return value.astype(np.int32, copy=False)


def _as_float(value, dtype=None):
    if isinstance(value, jax.Array):
        dtype = value.dtype if dtype is None else jax.dtypes.canonicalize_dtype(dtype)
        return value.astype(dtype if jnp.issubdtype(dtype, jnp.floating) else jnp.result_type(float))
    value = np.asarray(value)
    if dtype is None:
        dtype = value.dtype if jnp.issubdtype(value.dtype, jnp.floating) else np.float64
    return value.astype(dtype, copy=False)


def _text(shape) -> str:
    return f"(S, A, …) with S, A = {shape[0]}, {shape[1]}"


def _first(bad) -> Any:
    """Index of the first True, as it is written after the array's name."""
    where = np.argwhere(bad)
    return where[0].tolist() if len(where) else None
