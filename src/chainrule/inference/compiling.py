"""`jax.jit` for functions that are called from the host: cold starts take half as long on the CPU.

XLA's CPU backend has two ways to write a fused loop as machine code. The newer one, its default, takes two to three times
as long to compile; the programs of both run equally fast here (measured in benchmarks/README.md). Which one is used is an
option of the outermost program, so it can be chosen only for calls from outside of any `jax.jit`, `jax.vmap` and
`jax.grad`; inside of them, and with versions of JAX where this was not tried, `jit` is `jax.jit`.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

import equinox as eqx
import jax
from jaxlib.version import __version__ as version

from .native import TRIED

try:
    from jax._src.core import trace_state_clean as _outside  # there is no public way to ask
except ImportError:
    _outside = None

QUICK = {"xla_cpu_use_fusion_emitters": False}


def jit(function: Callable[..., Any], **options) -> Any:
    """`jax.jit(function, **options)`, compiled more quickly where it is the outermost program."""
    return _quick(jax.jit, function, options)


def filter_jit(function: Callable[..., Any], **options) -> Any:
    """`eqx.filter_jit(function, **options)`, compiled more quickly where it is the outermost program."""
    return _quick(eqx.filter_jit, function, options)


def _quick(jit, function, options):
    plain = jit(function, **options)
    if _outside is None or tuple(map(int, version.split(".")[:2])) not in TRIED:
        return plain
    outside, quick = _outside, jit(function, compiler_options=QUICK, **options)

    @wraps(function)
    def call(*args, **kwargs):
        return quick(*args, **kwargs) if outside() else plain(*args, **kwargs)

    if jit is jax.jit:  # how many programs there are, which tests count
        own: Any = call
        own._cache_size = lambda: quick._cache_size() + plain._cache_size()
        own.clear_cache = lambda: (quick.clear_cache(), plain.clear_cache())
    return call
