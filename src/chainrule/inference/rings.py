"""What a recursion over paths adds up: one step written once is a sum, a log-sum or a maximum (Goodman 1999).

Messages are (*state, row). A weight matrix is (*batch, to, from), or (*batch, to, from, row) where rows have their own.
"""

import jax.numpy as jnp

from ..forms.products import HIGHEST
from .logspace import logsumexp


class Sums:
    """Numbers: products along a path, sums over paths."""

    zero, one = 0.0, 1.0

    @staticmethod
    def times(*terms):
        """The product; None is one."""
        return _folded(jnp.multiply, terms)

    @staticmethod
    def plus(a, b):
        """The sum of two."""
        return a + b

    @staticmethod
    def contract(weights, message):
        """Σ_from weights[to, from] · message[from]."""
        if weights.ndim > message.ndim:
            return jnp.multiply(*_aligned(weights, message)).sum(-2)
        return jnp.matmul(weights, message, precision=HIGHEST)


class LogSums:
    """Logarithms of numbers."""

    zero, one = -jnp.inf, 0.0

    @staticmethod
    def times(*terms):
        """The product; None is one."""
        return _folded(jnp.add, terms)

    @staticmethod
    def plus(a, b):
        """The sum of two, with finite gradients where both are nothing."""
        return logsumexp(jnp.stack(jnp.broadcast_arrays(a, b)), 0)

    @staticmethod
    def contract(weights, message):
        """Log Σ_from exp(weights[to, from] + message[from])."""
        return logsumexp(jnp.add(*_aligned(weights, message)), -2)


class Best:
    """Scores: sums along a path, the maximum over paths."""

    zero, one = -jnp.inf, 0.0

    @staticmethod
    def times(*terms):
        """The score of both; None is nothing."""
        return _folded(jnp.add, terms)

    @staticmethod
    def plus(a, b):
        """The better of two."""
        return jnp.maximum(a, b)

    @staticmethod
    def contract(weights, message):
        """max_from weights[to, from] + message[from]."""
        return jnp.add(*_aligned(weights, message)).max(-2)


def _folded(operation, terms):
    found = None
    for term in terms:
        if term is not None:
            found = term if found is None else operation(found, term)
    return found


def _aligned(weights, message):
    weights = weights if weights.ndim > message.ndim else weights[..., None]
    message = message[..., None, :, :]
    return weights, message.reshape(*[1] * (weights.ndim - message.ndim), *message.shape)
