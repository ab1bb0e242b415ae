"""Checks of the plain arguments that many functions take, so that what is wrong is said in the caller's words."""

import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def whole(value: Any, name: str, *, least: int = 1, why: str = "at least one is needed") -> int:
    """The value as an int.

    Raises:
        ValueError: something else than a whole number, or one below `least`, which `why` explains.

    >>> whole(3, "epochs")
    3
    """
    try:
        number = None if isinstance(value, bool | np.bool_) else operator.index(value)
    except TypeError:
        number = None
    if number is None:
        raise ValueError(f"{name} is {value!r}; wanted a whole number")
    if number < least:
        raise ValueError(f"{name} is {number}; {why}")
    return number


def check_key(key: Any, what: str) -> None:
    """Refuse what is no random key, such as a plain seed.

    Raises:
        ValueError: the value is no key; `what` is what wanted one.
    """
    array = isinstance(key, jax.Array | np.ndarray)
    if not array or not (jnp.issubdtype(key.dtype, jax.dtypes.prng_key) or key.dtype == np.uint32):
        raise ValueError(f"{what}: key is {key!r}; give a random key, such as jax.random.key(0)")
