"""Mean field: the independent variables nearest to a pairwise form, and a bound on its log Z.

    log Z ≥ Σ_i H(q_i) + E_q[score],      logit q_i(up) ← β δ_i at the means of the others.

Each slice in turn takes the best means given the others, so that the bound never falls (Jordan et al. 1999, section 6.2).
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from ..forms.layouts import Dense
from ..forms.pairwise import Pairwise
from ..forms.products import product


class MeanField(eqx.Module):
    """What mean field has found.

    Attributes:
        means: mean of every node, shape (node, chain), in the form's numbering.
        bound: lower bound on log Z, of what is not clamped, for each chain.
        iterations: sweeps over all nodes.
        residual: largest change of a mean in the last sweep.
        converged: whether that is within the tolerance.
    """

    means: Float[Array, "node chain"]
    bound: Float[Array, " chain"]
    iterations: Int[Array, ""]
    residual: Float[Array, ""]
    converged: Bool[Array, ""]

    def __repr__(self):
        return f"MeanField({self.means.shape[0]} nodes)"


@jax.jit
def mean_field(
    means: Float[Array, "node chain"],
    model: Pairwise,
    beta: Float[Array, ""] | float = 1.0,
    clamp: Bool[Array, "node #chain"] | None = None,
    tolerance: float = 1e-6,
    max_iterations: int = 1000,
) -> MeanField:
    """Improve means until they rest.

    Args:
        means: where to begin; there may be several fixed points. Each column is a problem of its own.
        model: the form.
        beta: inverse temperature.
        clamp: true where a node keeps its mean.
        tolerance: largest change of a mean in a sweep that counts as rest.
        max_iterations: most sweeps.

    Example:
        >>> import jax.numpy as jnp, chainrule as cr
        >>> from chainrule.forms.layouts import Dense
        >>> from chainrule.inference.mean_field import mean_field
        >>> model = cr.Pairwise(jnp.zeros(2), Dense(jnp.array([[0.0, 2.0], [2.0, 0.0]])), spins=True)
        >>> found = mean_field(jnp.array([[0.1, -0.1], [0.1, -0.1]]), model)  # two starts, two sides: m = tanh 2m
        >>> [round(float(m), 2) for m in found.means[0]]
        [0.96, -0.96]
    """
    beta = jnp.asarray(beta, model.bias.dtype)
    free = jnp.ones_like(means, bool) if clamp is None else ~jnp.broadcast_to(clamp, means.shape)

    def turn(state):
        old, _, count = state
        new = _sweep(old, model, beta, free)
        return new, jnp.max(jnp.abs(new - old)), count + 1

    start = (means, jnp.asarray(jnp.inf, means.dtype), jnp.asarray(0, jnp.int32))
    found, residual, count = lax.while_loop(lambda s: (s[1] > tolerance) & (s[2] < max_iterations), turn, start)
    up = (found + 1) / 2 if model.spins else found
    each = jax.scipy.special.entr(up) + jax.scipy.special.entr(1 - up)
    entropy = jnp.sum(jnp.where(free, each, 0), axis=0)
    return MeanField(found, entropy + beta * model.score(found), count, residual, residual <= tolerance)


def _sweep(means, model, beta, free):
    def best(fields):
        return jnp.tanh(beta * fields) if model.spins else jax.nn.sigmoid(beta * fields)

    biases = model.biases[:, None]
    if isinstance(model.coupling, Dense):
        weights = model.coupling.weights

        def draw_node(i, means):
            new = best(product(weights[i], means) + model.bias[i])
            return lax.dynamic_update_index_in_dim(means, jnp.where(free[i], new, means[i]), i, 0)

        return lax.fori_loop(0, model.num_nodes, draw_node, means)
    starts = model.coupling.starts
    for number in range(len(starts) - 1):
        piece = slice(starts[number], starts[number + 1])
        new = best(biases[piece] + model.coupling.slice_fields(means, number))
        means = lax.dynamic_update_slice_in_dim(means, jnp.where(free[piece], new, means[piece]), piece.start, 0)
    return means
