"""Loops as one native function on the CPU.

XLA's CPU backend dispatches each operation of a loop's body as a kernel of its own, at 0.1 to 1 µs a piece. It compiles a
loop as one function only where the body touches less than 1 KB, and marks it for that with an attribute. `native` sets
the same attribute on a call of our own choice, and keeps the call from being inlined before it gets there. On other
devices, or several, in batches, and with versions of XLA where this was not tried, the function runs as it would without.

What is marked runs on one core. It must be made of elementwise operations, slices, loops, short sums, and products of a
vector and a matrix: XLA refuses to compile (or aborts on) what it would hand to a library, or spread over cores.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap
from jax.experimental.xla_metadata import set_xla_metadata
from jaxlib.version import __version__ as version

TRIED = ((0, 10),)  # versions of jaxlib whose compiler is known to take the attribute as described


def available() -> bool:
    """Whether what `native` is given is compiled as one function here, outside of batches."""
    return (
        tuple(map(int, version.split(".")[:2])) in TRIED and jax.default_backend() == "cpu" and jax.device_count() == 1
    )


def native(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` of arrays, which gives arrays, as one function of machine code where it runs on a CPU."""
    inner = jax.jit(function)
    if tuple(map(int, version.split(".")[:2])) not in TRIED:
        return inner
    # XLA aborts where a marked function leaves an argument alone, so one number of each is given back.
    touching = jax.jit(lambda *args: (function(*args), [jnp.ravel(leaf)[0] for leaf in jax.tree.leaves(args)]))

    @custom_vmap
    def run(*args):
        if not available():
            return inner(*args)
        args = lax.optimization_barrier(args)  # for the same reason, no constant may take an argument's place
        result: Any = set_xla_metadata(touching(*args), xla_cpu_small_call="true", inlineable="false")
        return result[0]

    @run.def_vmap
    def batched(axis_size, in_batched, *args):
        axes = tuple(jax.tree.map(lambda b: 0 if b else None, tree) for tree in in_batched)
        result = jax.vmap(inner, in_axes=axes, axis_size=axis_size)(*args)
        return result, jax.tree.map(lambda _: True, result)

    return wraps(function)(run)


def in_turn(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, of whose batches `jax.vmap` makes a loop: a native function does its own work best."""
    run = custom_vmap(function)

    @run.def_vmap
    def rule(_, in_batched, *args):
        leaves, structure = jax.tree.flatten(args)
        batched = jax.tree.leaves(in_batched)

        def one(mapped):
            mapped = iter(mapped)
            own = [next(mapped) if b else leaf for leaf, b in zip(leaves, batched, strict=True)]
            return run(*jax.tree.unflatten(structure, own))

        result = lax.map(one, [leaf for leaf, b in zip(leaves, batched, strict=True) if b])
        return result, jax.tree.map(lambda _: True, result)

    return run
