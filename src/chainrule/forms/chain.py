"""The chain form: log-potentials of a distribution over the labels of a sequence.

A chain over states z₀ … z_{T−1}, each one of K, has the unnormalised density

    p(z) ∝ exp( initial[z₀] + Σ_{t≥1} pair[z_{t−1}, z_t] + Σ_t node[t, z_t] ).

It is what hidden Markov models, Markov chains and linear-chain conditional random fields compile to, and all that the
engines in `chainrule.inference.chain` know. `pair[i, j]` scores the step *from* i *to* j; −inf forbids it.
"""

from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int


class Chain(eqx.Module):
    """Log-potentials of one chain.

    Args:
        initial: log-potential of the first state, shape (K,).
        pair: log-potential of a step, `pair[i, j]` from i to j: shape (K, K), or (T−1, K, K) when it varies with time.
        node: log-potential of each state at each time, shape (T, K).
        length: how many of the T steps are real; None means all. The steps after `length` are ignored.

    Values may be −inf (forbidden) but neither NaN nor +inf. Batches are made with `jax.vmap`.

    Raises:
        ValueError: shapes that do not fit, NaN or +inf in concrete arrays, or a length outside 1 … T.

    Example:
        >>> import jax.numpy as jnp, chainrule as cr
        >>> chain = cr.Chain(jnp.zeros(2), jnp.zeros((2, 2)), jnp.zeros((3, 2)))
        >>> chain
        Chain(2 states, 3 steps)
    """

    initial: Float[Array, " state"]
    pair: Float[Array, "state state"] | Float[Array, "step state state"]
    node: Float[Array, "time state"]
    length: Int[Array, ""] | None = None

    def __init__(self, initial, pair, node, length=None):
        self.initial, self.pair, self.node = (as_floats(x) for x in (initial, pair, node))
        self.length = None if length is None else _as_length(length)

    def __check_init__(self):
        if self.node.ndim != 2:
            raise ValueError(
                f"node must have shape (time, state), got {self.node.shape}; batch several chains with jax.vmap"
            )
        time, states = self.node.shape
        if time < 1 or states < 1:
            raise ValueError(f"node has shape {self.node.shape}: a chain needs at least one step and one state")
        if self.initial.shape != (states,):
            raise ValueError(f"initial has shape {self.initial.shape}; node's {states} states ask for ({states},)")
        if self.pair.shape not in ((states, states), (time - 1, states, states)):
            raise ValueError(
                f"pair has shape {self.pair.shape}; wanted ({states}, {states}), or ({time - 1}, {states}, {states}) "
                "for potentials that vary with time"
            )
        for name in ("initial", "pair", "node"):
            value = getattr(self, name)
            if is_concrete(value):
                value = np.asarray(value)
                bad = np.argwhere(np.isnan(value) | (value == np.inf))
                if len(bad):
                    raise ValueError(f"{name}{bad[0].tolist()} is NaN or +inf; log-potentials are finite or -inf")
        if self.length is not None and is_concrete(self.length) and not 1 <= int(self.length) <= time:
            raise ValueError(f"length is {int(self.length)}, outside 1 … {time}")

    @property
    def num_states(self) -> int:
        """How many values each variable can take."""
        return self.node.shape[-1]

    @property
    def num_steps(self) -> int:
        """How many steps the arrays hold, padding included."""
        return self.node.shape[-2]

    @property
    def mask(self) -> Bool[Array | np.ndarray, " time"]:
        """True on the real steps."""
        steps = np.arange(self.num_steps, dtype=np.int32)
        if self.length is None:
            return steps < self.num_steps
        return steps < (np.asarray(self.length) if is_concrete(self.length) else self.length)

    def score(self, path: Int[Array, " time"]) -> Float[Array, ""]:
        """Unnormalised log-probability of one path, shape (T,); entries past `length` are not looked at."""
        return _score(self, path)

    def __repr__(self):
        return f"Chain({self.num_states} states, {self.num_steps} steps)"


@jax.jit
def _score(chain: Chain, path):
    steps = jnp.take_along_axis(chain.node, path[:, None], axis=1)[:, 0]
    if chain.num_steps > 1:
        if chain.pair.ndim == 2:
            pairs = chain.pair[path[:-1], path[1:]]
        else:
            pairs = chain.pair[jnp.arange(chain.num_steps - 1), path[:-1], path[1:]]
        steps = steps.at[1:].add(pairs)
    return chain.initial[path[0]] + jnp.where(chain.mask, steps, 0.0).sum()


def is_concrete(value) -> bool:
    """Whether the values can be looked at now; under `jit`, `vmap` and `grad` they cannot."""
    return not isinstance(value, Tracer)


_M = TypeVar("_M", bound=eqx.Module)


def assemble(cls: type[_M], **fields: Any) -> _M:
    """An instance from fields that are known to be right, past constructor, converters and checks.

    A module's constructor costs more than a query on a short sequence, so what is built for every query is built so.
    """
    made = object.__new__(cls)
    for name, value in fields.items():
        object.__setattr__(made, name, value)
    return made


def as_floats(value) -> Array:
    """An array of floats, of the caller's precision if it has one."""
    if isinstance(value, list | tuple) and not any(isinstance(x, jax.Array) for x in jax.tree.leaves(value)):
        value = np.asarray(value)
    if isinstance(value, np.ndarray) and value.dtype != object:
        return on_device(value if jnp.issubdtype(value.dtype, jnp.floating) else value.astype(float))
    array = jnp.asarray(value)
    return array if jnp.issubdtype(array.dtype, jnp.floating) else array.astype(float)


def on_device(value) -> Array:
    """Anything like an array as one of JAX, a NumPy array without compiling.

    `jnp.asarray` compiles a program for each shape of those, and `jax.device_put` may share memory that the caller goes on
    to change: hence the copy.
    """
    return jax.device_put(np.array(value)) if isinstance(value, np.ndarray) else jnp.asarray(value)


def _as_length(value) -> Any:
    array = np.asarray(value) if is_concrete(value) else value
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise ValueError(f"length is {value}; wanted a whole number of steps")
    return jax.device_put(array.astype(np.int32)) if is_concrete(value) else array.astype(jnp.int32)
