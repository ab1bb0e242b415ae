"""The transitions form: what happens, and what it pays, when an action is taken in a state.

A Markov decision process with states s, actions a and discount γ has the Bellman optimality equation

    v(s) = max_{a feasible in s} { rewards[s, a] + γ Σ_{s'} p(s' | s, a) v(s') },     v(s) = 0 where s is terminal.

p is stored dense, `probabilities[s, a, s']`, or padded: `probabilities[s, a, b]` of ending in `successors[s, a, b]`,
with b up to the largest number of successors, which is far smaller when each action leads to a few states only.
A Markov chain with rewards is the case of one action.
"""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from .chain import is_concrete


class Transitions(eqx.Module):
    """Dynamics, rewards and discount of a Markov decision process.

    Args:
        probabilities: `probabilities[s, a, s']` of going from s to s' under a, shape (S, A, S); with `successors`,
            shape (S, A, b), entry b belonging to `successors[s, a, b]`. Pad with probability zero.
        rewards: expected reward of taking a in s, shape (S, A).
        successors: state indices, shape (S, A, b), or None for dense probabilities. A repeated successor adds up.
        mask: True where an action is feasible, shape (S, A); None means everywhere.
        terminal: True where the process ends, shape (S,); None means nowhere. Such states are worth zero and have no
            feasible action.
        discount: γ in [0, 1]; 1 means undiscounted.

    Everything is kept in the dtype of `probabilities`. Rows of infeasible actions play no part in any answer, but they
    must be finite.

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

    probabilities: Float[Array, "state action next"]
    rewards: Float[Array, "state action"]
    successors: Int[Array, "state action next"] | None
    mask: Bool[Array, "state action"]
    terminal: Bool[Array, " state"]
    discount: Float[Array, ""]

    def __init__(self, probabilities, rewards, *, successors=None, mask=None, terminal=None, discount=1.0):
        probabilities = jnp.asarray(probabilities)
        dtype = probabilities.dtype if jnp.issubdtype(probabilities.dtype, jnp.floating) else jnp.result_type(float)
        shape = probabilities.shape
        self.probabilities = probabilities.astype(dtype)
        self.rewards, self.discount = jnp.asarray(rewards, dtype), jnp.asarray(discount, dtype)
        self.successors = None if successors is None else jnp.asarray(successors)
        self.terminal = jnp.zeros(shape[:1], bool) if terminal is None else jnp.asarray(terminal, bool)
        self.mask = jnp.ones(shape[:2], bool) if mask is None else jnp.asarray(mask, bool)
        self._check_shapes()
        self.mask = self.mask & ~self.terminal[:, None]

    def __check_init__(self):
        values = (self.probabilities, self.rewards, self.successors, self.mask, self.terminal, self.discount)
        if all(is_concrete(value) for value in values):
            self._check_values()

    def _check_shapes(self):
        shape = self.probabilities.shape
        if len(shape) != 3 or 0 in shape:
            raise ValueError(f"probabilities must have shape (state, action, successor), none empty, got {shape}")
        if self.successors is None and shape[0] != shape[2]:
            raise ValueError(
                f"dense probabilities must have shape (S, A, S), got {shape}; give successors for the padded form"
            )
        if self.successors is not None and self.successors.shape != shape:
            raise ValueError(f"successors has shape {self.successors.shape}; probabilities ask for {shape}")
        if self.successors is not None and not jnp.issubdtype(self.successors.dtype, jnp.integer):
            raise ValueError(f"successors must be integers, state indices, got {self.successors.dtype}")
        for name, wanted in (("rewards", shape[:2]), ("mask", shape[:2]), ("terminal", shape[:1]), ("discount", ())):
            got = getattr(self, name).shape
            if got != wanted:
                raise ValueError(f"{name} has shape {got}; probabilities of shape {shape} ask for {wanted}")

    def _check_values(self):
        probs, rewards, mask = np.asarray(self.probabilities), np.asarray(self.rewards), np.asarray(self.mask)
        if (bad := _first(~(probs >= 0) | np.isinf(probs))) is not None:
            raise ValueError(f"probabilities{bad} is {probs[tuple(bad)]}; probabilities are finite and not negative")
        if (bad := _first(~np.isfinite(rewards))) is not None:
            raise ValueError(f"rewards{bad} is {rewards[tuple(bad)]}; forbid an action with mask, not with its reward")
        sums = probs.sum(axis=-1, dtype=np.float64)
        # what float32 rounding can leave in a row of thousands of entries is not the user's mistake
        tolerance = max(1e-6, 100 * float(jnp.finfo(probs.dtype).eps))
        if (bad := _first(mask & (np.abs(sums - 1) > tolerance))) is not None:
            raise ValueError(
                f"probabilities{bad} sum to {sums[tuple(bad)]:.6g}, not 1; if action {bad[1]} is not possible in "
                f"state {bad[0]}, set mask{bad} to False"
            )
        if (bad := _first(~mask.any(axis=1) & ~np.asarray(self.terminal))) is not None:
            raise ValueError(f"state {bad[0]} has no feasible action; mark it terminal or give it one")
        if self.successors is not None:
            successors = np.asarray(self.successors)
            if (bad := _first((successors < 0) | (successors >= self.num_states))) is not None:
                raise ValueError(
                    f"successors{bad} is {successors[tuple(bad)]}, not one of the {self.num_states} states; pad with "
                    "any state at probability zero"
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

    def __repr__(self):
        layout = "dense" if self.successors is None else f"{self.probabilities.shape[-1]} successors"
        return f"Transitions({self.num_states} states, {self.num_actions} actions, {layout})"


def _first(bad: np.ndarray) -> list[int] | None:
    """Index of the first True, as it is written after the array's name."""
    where = np.argwhere(bad)
    return where[0].tolist() if len(where) else None
