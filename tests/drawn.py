"""Networks with weights from NumPy: drawing them in JAX compiles a program for each shape."""

import equinox as eqx
import jax
import numpy as np


def drawn(build, seed=0):
    """What `build()` makes, each number of its weights uniform between ±1/2."""
    rng = np.random.default_rng(seed)

    def draw(leaf):
        if not isinstance(leaf, jax.ShapeDtypeStruct):
            return leaf
        return jax.device_put(rng.uniform(-0.5, 0.5, leaf.shape).astype(leaf.dtype))

    return jax.tree.map(draw, eqx.filter_eval_shape(build))
