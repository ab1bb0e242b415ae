"""Products of matrices that keep the precision of their dtype on every device.

Accelerators round the factors of float32 products to ten bits unless they are asked not to: an error of 1e-3 in a field
or a probability, where a CPU makes 1e-7. Networks bear that, and their users choose; sums over states do not.
"""

import jax.numpy as jnp
from jax import lax

HIGHEST = lax.Precision.HIGHEST


def product(a, b):
    """`a @ b` in full precision."""
    return jnp.matmul(a, b, precision=HIGHEST)
