"""The pairwise form: log-potentials of a distribution over two-valued variables, one number a node and one a pair.

    p(x) ∝ exp( score(x) ),    score(x) = Σ_{i<j} w_ij x_i x_j + Σ_i b_i x_i + constant,    energy(x) = −score(x)

with x_i ∈ {0, 1} (bits, as in Boltzmann machines) or x_i ∈ {−1, 1} (spins, as in Ising models). It is what Boltzmann
machines, Ising models and QUBO problems compile to, and all that the samplers in `chainrule.inference.gibbs` know.

States are held as [nodes, chains]: the chains lie in memory side by side, where a processor's lanes are. Where the pairs
leave a colouring, nodes are numbered so that a colour is a slice: all its nodes are drawn at once, given the others, and
written back as one piece. How the couplings are stored is their layout, one of `layouts`.
"""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from .chain import is_concrete
from .layouts import AbstractLayout, Lattice, as_floats


class Pairwise(eqx.Module):
    """Biases and couplings of two-valued variables.

    Args:
        bias: b, shape (node,); a single number where all nodes of a `Lattice` share it.
        coupling: w in one of the layouts `Dense`, `Bipartite`, `Neighbours` or `Lattice`, which also says in which slices
            the nodes are drawn.
        constant: what every score is shifted by; conversion between bits and spins lives on it.
        spins: whether values are −1 and 1 rather than 0 and 1.

    All arrays are traced: other weights, biases or temperatures compile nothing anew.

    Raises:
        ValueError: biases of another shape than the layout asks for, or NaN or infinite ones.

    Example:
        >>> import jax.numpy as jnp, chainrule as cr
        >>> from chainrule.forms.layouts import Dense
        >>> model = cr.Pairwise(jnp.array([0.5, -1.0]), Dense(jnp.array([[0.0, 2.0], [2.0, 0.0]])))
        >>> model
        Pairwise(2 nodes, bits, Dense)
        >>> model.score(jnp.array([[0, 1, 1], [0, 0, 1]])).tolist()  # three chains
        [0.0, 0.5, 1.5]
    """

    bias: Float[Array, "*node"]
    coupling: AbstractLayout
    constant: Float[Array, ""]
    spins: bool = eqx.field(static=True)

    def __init__(self, bias, coupling: AbstractLayout, constant: Any = 0.0, *, spins: bool = False):
        self.bias = as_floats(bias)
        self.coupling = coupling
        self.constant = jnp.asarray(constant, self.bias.dtype)
        self.spins = spins

    def __check_init__(self):
        nodes = self.coupling.num_nodes
        shapes = [(nodes,), ()] if isinstance(self.coupling, Lattice) else [(nodes,)]
        if self.bias.shape not in shapes:
            raise ValueError(
                f"bias has shape {self.bias.shape}; the couplings of {nodes} nodes ask for "
                + " or ".join(map(str, shapes))
            )
        for name in ("bias", "constant"):
            value = getattr(self, name)
            if is_concrete(value) and not (finite := np.isfinite(value)).all():
                where = np.argwhere(~finite)[0].tolist() if value.ndim else ""
                raise ValueError(f"{name}{where} is NaN or infinite; clamp a node to fix its value")

    @property
    def num_nodes(self) -> int:
        """How many variables there are."""
        return self.coupling.num_nodes

    @property
    def biases(self) -> Float[Array, " node"]:
        """One bias a node, also where they share it."""
        return jnp.broadcast_to(self.bias, (self.num_nodes,))

    def fields(self, state: Num[Array, "node chain"]) -> Float[Array, "node chain"]:
        """b_i + Σ_j w_ij x_j of every node: how much its score grows by one unit of x_i.

        Example:
            >>> import jax.numpy as jnp, chainrule as cr
            >>> from chainrule.forms.layouts import Bipartite
            >>> model = cr.Pairwise(jnp.array([0.5, -1.0]), Bipartite([[4.0]]))
            >>> model.fields(jnp.array([[0, 1], [0, 1]])).tolist()  # of two chains: all bits off, all on
            [[0.5, 4.5], [-1.0, 3.0]]
        """
        return self.biases[:, None] + self.coupling.fields(state)

    def score(self, state: Num[Array, "node chain"]) -> Float[Array, " chain"]:
        """Log-probability of each chain's state, up to the same constant log Z."""
        x = state.astype(self.bias.dtype)
        return jnp.sum(x * (self.biases[:, None] + self.coupling.fields(state) / 2), axis=0) + self.constant

    def energy(self, state: Num[Array, "node chain"]) -> Float[Array, " chain"]:
        """−score."""
        return -self.score(state)

    def as_spins(self) -> "Pairwise":
        """The same distribution and the same scores over s = 2x − 1 ∈ {−1, 1}.

        w x x′ = w/4 (s s′ + s + s′ + 1),    b x = b/2 (s + 1)

        Example:
            >>> import jax.numpy as jnp, chainrule as cr
            >>> from chainrule.forms.layouts import Bipartite
            >>> bits = cr.Pairwise(jnp.zeros(2), Bipartite([[4.0]]))
            >>> spins = bits.as_spins()
            >>> spins.bias.tolist(), spins.coupling.weights.item(), spins.constant.item()
            ([1.0, 1.0], 1.0, 1.0)
            >>> bits.score(jnp.array([[1, 0], [1, 1]])).tolist() == spins.score(jnp.array([[1, -1], [1, 1]])).tolist()
            True
        """
        if self.spins:
            return self
        ends = self.coupling.totals() / 4
        constant = self.constant + self._sum(self.bias / 2) + self._sum(ends) / 2
        return Pairwise(self.bias / 2 + ends, self.coupling.scaled(0.25), constant, spins=True)

    def as_bits(self) -> "Pairwise":
        """The same distribution and the same scores over x = (s + 1) / 2 ∈ {0, 1}.

        w s s′ = 4w x x′ − 2w x − 2w x′ + w,    b s = 2b x − b
        """
        if not self.spins:
            return self
        ends = self.coupling.totals()
        constant = self.constant - self._sum(self.bias) + self._sum(ends) / 2
        return Pairwise(2 * self.bias - 2 * ends, self.coupling.scaled(4.0), constant, spins=False)

    def _sum(self, value):
        """The sum over nodes of what may be shared by all of them."""
        return value.sum() if value.ndim else value * self.num_nodes

    def __repr__(self):
        kind = "spins" if self.spins else "bits"
        return f"Pairwise({self.num_nodes} nodes, {kind}, {type(self.coupling).__name__})"
