"""What a fit has to know of machines with a weight for each edge and a bias for each node.

With `centred`, a step is taken in x − μ for the running means μ, and then told in the machine's own parameters:

    ∇w' = ∇w − ∇b_i μ_j − μ_i ∇b_j,    Δw = η ∇w',    Δb_i = η ∇b_i − Σ_j Δw_ij μ_j   (Melchior et al. 2016).
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from ...graphs.couplings import Couplings
from ...inference import gibbs
from . import exact
from .learning import POSITIVE_SWEEPS, AbstractProblem


class Pairs(AbstractProblem):
    """The parameters are (bias, weights), in the caller's numbering of nodes and edges.

    Attributes:
        couplings: the machine's structure.
        shown: the form's number of each visible node, then of each hidden one.
        spins: whether values are −1 and 1.
    """

    couplings: Couplings
    shown: Int[Array, " node"]
    spins: bool = eqx.field(static=True)

    def form(self, parameters):
        """The machine's form."""
        return self.couplings.form(*parameters, spins=self.spins)

    def log_prob(self, parameters, rows):
        """By enumerating what is hidden, and all nodes."""
        return exact.log_prob(self.form(parameters), rows, self.shown)

    def complete(self, key, form, rows):
        """Hidden nodes after some sweeps from a random start."""
        count, visible = rows.shape
        mine, nodes = self.shown[:visible], len(self.shown)
        state = jnp.zeros((nodes, count), jnp.int8).at[mine].set(rows.T.astype(jnp.int8))
        if visible == nodes:
            return state
        clamp = jnp.zeros((nodes, 1), bool).at[mine].set(True)
        start, draw = jax.random.split(key)
        state = gibbs.random_state(start, form, count, given=state, clamp=clamp)
        return gibbs.run(draw, state, form, POSITIVE_SWEEPS, 1.0, clamp)

    def sweep(self, key, state, form, betas):
        """One sweep."""
        return gibbs.sweep(key, state, form, betas)

    def slopes(self, form, state):
        """Means of x_i and of x_i x_j."""
        x = state.astype(form.bias.dtype)
        return x.mean(axis=1)[self.couplings.rank], self.couplings.pair_means(x)

    def penalised(self, parameters):
        """Weights are, biases are not."""
        bias, weights = parameters
        return jnp.zeros_like(bias), jnp.ones_like(weights)

    def centred(self, slopes, means):
        """See the module's description."""
        by_bias, by_weights = slopes
        first, second = self.couplings.ends
        mean = means[0]
        return by_bias, by_weights - by_bias[first] * mean[second] - mean[first] * by_bias[second]

    def uncentred(self, step, means):
        """See the module's description."""
        bias, weights = step
        first, second = self.couplings.ends
        mean = means[0]
        return bias.at[first].add(-weights * mean[second]).at[second].add(-weights * mean[first]), weights

    def pseudo_log_prob(self, form, state):
        """From the fields."""
        fields = form.fields(state)
        signs = (state if form.spins else 2 * state - 1).astype(fields.dtype)
        return jnp.mean(jnp.sum(jax.nn.log_sigmoid((2 * fields if form.spins else fields) * signs), axis=0))
