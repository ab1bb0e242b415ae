"""Who answers: the scaled engine where its certificate holds, the log-space engine where it does not.

The log-space engine compiles as long as the scaled one and is rarely needed. A question about concrete data is
therefore put to the scaled engine alone, and the program with the other one is compiled only once a certificate has
failed (`on_demand`). Inside somebody else's program nobody can look at a certificate before the program ends: there both
engines are compiled in, and the program decides (`certified`).
"""

from collections.abc import Callable
from functools import partial, update_wrapper
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Bool

from .compiling import jit


def certified(fast: Callable[..., tuple[Any, Bool[Array, ""]]], slow: Callable[..., Any]) -> Callable[..., Any]:
    """`fast(*args)` where its certificate holds, `slow(*args)` where it does not, decided once for a whole batch.

    `jax.vmap` by itself would run both for every call.
    """

    @custom_vmap
    def run(*args):
        result, trusted = fast(*args)
        return lax.cond(jnp.all(trusted), lambda: result, lambda: slow(*args))

    @run.def_vmap
    def batched(axis_size, in_batched, *args):
        axes = tuple(jax.tree.map(lambda b: 0 if b else None, tree) for tree in in_batched)
        batch = partial(jax.vmap, in_axes=axes, axis_size=axis_size)
        result = certified(batch(fast), batch(slow))(*args)
        return result, jax.tree.map(lambda _: True, result)

    # Engines carry their own gradients; what else is differentiated, and second derivatives, go through the slow way.
    differentiable = jax.custom_jvp(lambda *args: run(*args))  # noqa: PLW0108

    @differentiable.defjvp
    def push(primals, tangents):
        return differentiable(*primals), jax.jvp(slow, primals, tangents)[1]

    return differentiable


class on_demand:
    """Compile `function(engine, *args, **static)` so that the log-space engine is built when it is first needed.

    `function` asks `engine` for `smooth`, `filter`, `log_filter`, `terms` and `total`; which engine, is decided here.

    Args:
        function: a pure function of arrays; keyword arguments are static.
        optimist: makes an engine whose `trusted` tells, once it has answered, whether its answers hold.
        careful: an engine that is always right, for when a certificate has failed.
        either: an engine that decides inside the program.
    """

    def __init__(self, function, *, optimist, careful, either):
        update_wrapper(self, function)

        def hope(static, structure, *leaves):
            engine = optimist()
            result = function(engine, *jax.tree.unflatten(structure, leaves), **dict(static))
            return result, engine.trusted

        def answer(engine, static, structure, *leaves):
            return function(engine, *jax.tree.unflatten(structure, leaves), **dict(static))

        self._hope: Any = jit(hope, static_argnums=(0, 1))
        self._careful: Any = jit(partial(answer, careful), static_argnums=(0, 1))
        self._either: Any = jit(partial(answer, either), static_argnums=(0, 1))

    def __call__(self, *args, **static):
        """Ask; what is concrete and what is traced may be mixed."""
        leaves, structure = jax.tree.flatten(args)
        options = tuple(static.items())
        if any(isinstance(leaf, Tracer) for leaf in leaves):
            return self._either(options, structure, *leaves)
        result, trusted = self._hope(options, structure, *leaves)
        # NumPy reads a flag in a tenth of the time that the array's own truth takes
        return result if np.asarray(trusted) else self._careful(options, structure, *leaves)

    def _cache_size(self) -> int:
        """How many programs were compiled, as for any jitted function."""
        return self._hope._cache_size() + self._careful._cache_size() + self._either._cache_size()
