"""How the couplings of a pairwise form lie in memory, and in which slices its nodes are drawn.

| layout | holds | nodes drawn at once |
|---|---|---|
| `Dense` | a symmetric matrix | one, in tiles of a product |
| `Bipartite` | a matrix between two layers | a layer |
| `Neighbours` | a table of neighbours for each slice, filled up with weight zero | a slice |
| `Lattice` | one number, for a square lattice that closes on itself | every other site |

Every layout answers with the field Σ_j w_ij x_j that the other nodes exert: on all nodes, or on those of one slice. States
may be integers or floats.
"""

import abc
import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Num

from .chain import as_floats, is_concrete, on_device
from .products import product


class AbstractLayout(eqx.Module):
    """What the engines ask of couplings."""

    @property
    @abc.abstractmethod
    def num_nodes(self) -> int:
        """How many variables there are."""

    @property
    @abc.abstractmethod
    def starts(self) -> tuple[int, ...]:
        """Where each slice begins, and at the end the number of nodes; nodes of one slice have no couplings."""

    @abc.abstractmethod
    def slice_fields(self, state: Num[Array, "node chain"], number: int) -> Float[Array, "some chain"]:
        """Σ_j w_ij x_j of the nodes of one slice."""

    @abc.abstractmethod
    def totals(self) -> Float[Array, "*node"]:
        """Σ_j w_ij of every node; a single number where it is the same for all."""

    @abc.abstractmethod
    def scaled(self, factor) -> "AbstractLayout":
        """All couplings times a number."""

    def fields(self, state: Num[Array, "node chain"]) -> Float[Array, "node chain"]:
        """Σ_j w_ij x_j of all nodes."""
        return jnp.concatenate([self.slice_fields(state, k) for k in range(len(self.starts) - 1)])


class Dense(AbstractLayout):
    """A symmetric matrix of couplings, shape (node, node), zero on the diagonal.

    Raises:
        ValueError: a matrix that is not square, not symmetric, not finite, or couples a node with itself.

    Example:
        >>> from chainrule.forms.layouts import Dense
        >>> Dense([[0.0, 1.0], [1.0, 0.0]]).starts  # each node is drawn alone
        (0, 1, 2)
    """

    weights: Float[Array, "node node"]

    def __init__(self, weights):
        self.weights = as_floats(weights)

    def __check_init__(self):
        shape = self.weights.shape
        if len(shape) != 2 or shape[0] != shape[1]:
            raise ValueError(f"dense couplings have shape {shape}; wanted a square matrix (node, node)")
        if is_concrete(self.weights):
            weights = _finite(self.weights)
            if np.diagonal(weights).any():
                at = int(np.argmax(np.diagonal(weights) != 0))
                raise ValueError(
                    f"node {at} is coupled with itself, by {weights[at, at]}; of a bit that is a bias, of a spin a constant"
                )
            if not np.array_equal(weights, weights.T):
                i, j = np.argwhere(weights != weights.T)[0]
                raise ValueError(
                    f"couplings are not symmetric: [{i}, {j}] is {weights[i, j]}, [{j}, {i}] is {weights[j, i]}; give "
                    "(w + w.T) / 2 for the same energy"
                )

    @property
    def num_nodes(self) -> int:
        """How many variables there are."""
        return self.weights.shape[0]

    @property
    def starts(self) -> tuple[int, ...]:
        """A slice for every node."""
        return tuple(range(self.num_nodes + 1))

    def slice_fields(self, state, number):
        """Σ_j w_ij x_j of one node."""
        return product(self.weights[number][None], state.astype(self.weights.dtype))

    def fields(self, state):
        """Σ_j w_ij x_j of all nodes, one product."""
        return product(self.weights, state.astype(self.weights.dtype))

    def totals(self):
        """Σ_j w_ij."""
        return self.weights.sum(axis=1)

    def scaled(self, factor):
        """All couplings times a number."""
        return Dense(self.weights * factor)


class Bipartite(AbstractLayout):
    """Couplings between two layers and none within them, shape (first, second).

    The nodes of the first layer come first.

    Raises:
        ValueError: not a matrix, or not finite.

    Example:
        >>> from chainrule.forms.layouts import Bipartite
        >>> Bipartite([[1.0, 2.0, 3.0]]).starts  # one node, then three at once
        (0, 1, 4)
    """

    weights: Float[Array, "first second"]

    def __init__(self, weights):
        self.weights = as_floats(weights)

    def __check_init__(self):
        if self.weights.ndim != 2:
            raise ValueError(f"couplings of two layers have shape {self.weights.shape}; wanted (first, second)")
        if is_concrete(self.weights):
            _finite(self.weights)

    @property
    def num_nodes(self) -> int:
        """How many variables both layers have."""
        return sum(self.weights.shape)

    @property
    def starts(self) -> tuple[int, ...]:
        """Two slices."""
        return (0, self.weights.shape[0], self.num_nodes)

    def slice_fields(self, state, number):
        """Σ_j w_ij x_j of one layer."""
        first = self.weights.shape[0]
        other = (state[first:] if number == 0 else state[:first]).astype(self.weights.dtype)
        return product(self.weights if number == 0 else self.weights.T, other)

    def totals(self):
        """Σ_j w_ij."""
        return jnp.concatenate([self.weights.sum(axis=1), self.weights.sum(axis=0)])

    def scaled(self, factor):
        """All couplings times a number."""
        return Bipartite(self.weights * factor)


class Neighbours(AbstractLayout):
    """For each slice of nodes a table of their neighbours, filled up with couplings of zero.

    Args:
        index: numbers of the neighbours, a table (nodes of the slice, degree) for each slice.
        weights: couplings with them, tables of the same shapes. Both ends of a pair list it.

    Raises:
        ValueError: tables that do not fit; unknown neighbours; NaN; a pair inside a slice, or one whose ends differ about
            its coupling.

    Example:
        >>> import numpy as np
        >>> from chainrule.forms.layouts import Neighbours
        >>> ends, middle = np.array([[2], [2]]), np.array([[0, 1]])  # a path 0 — 2 — 1
        >>> path = Neighbours([ends, middle], [np.array([[0.5], [-0.5]]), np.array([[0.5, -0.5]])])
        >>> path.starts, path.totals().tolist()
        ((0, 2, 3), [0.5, -0.5, 0.0])
    """

    index: tuple[Int[Array, "some degree"], ...]
    weights: tuple[Float[Array, "some degree"], ...]

    def __init__(self, index, weights):
        self.index = tuple(as_indices(table) for table in index)
        self.weights = tuple(as_floats(table) for table in weights)

    def __check_init__(self):
        shapes = [table.shape for table in self.index]
        if not shapes or any(len(shape) != 2 for shape in shapes):
            raise ValueError(f"neighbour tables have shapes {shapes}; wanted (nodes of the slice, degree) for each")
        if (found := [table.shape for table in self.weights]) != shapes:
            raise ValueError(f"tables of weights have shapes {found}, those of neighbours {shapes}")
        if all(map(is_concrete, (*self.index, *self.weights))):
            self._check_pairs()

    def _check_pairs(self):
        starts = self.starts
        ends = []
        tables = zip(map(np.asarray, self.index), map(_finite, self.weights), strict=True)
        for number, (table, weights) in enumerate(tables):
            if ((table < 0) | (table >= self.num_nodes)).any():
                raise ValueError(f"slice {number} has neighbours outside 0 … {self.num_nodes - 1}")
            node = np.broadcast_to(np.arange(starts[number], starts[number + 1])[:, None], table.shape)
            real = weights != 0
            inside = real & (table >= starts[number]) & (table < starts[number + 1])
            if inside.any():
                i, k = np.argwhere(inside)[0]
                raise ValueError(
                    f"nodes {node[i, k]} and {table[i, k]} are coupled but in the same slice, where all are drawn at once"
                )
            ends.append((node[real], table[real], weights[real]))
        i, j, w = map(np.concatenate, zip(*ends, strict=True))
        forth, back = np.lexsort((w, j, i)), np.lexsort((w, i, j))
        if any((a[forth] != b[back]).any() for a, b in ((i, j), (j, i), (w, w))):
            raise ValueError("couplings are not symmetric: both ends of a pair must list it with the same weight")

    @property
    def num_nodes(self) -> int:
        """How many variables there are."""
        return self.starts[-1]

    @property
    def starts(self) -> tuple[int, ...]:
        """Slices as long as their tables."""
        return (0, *itertools.accumulate(table.shape[0] for table in self.index))

    def slice_fields(self, state, number):
        """Σ_j w_ij x_j of one slice."""
        weights = self.weights[number]  # the state is gathered as it is: a quarter of the memory if it is int8
        return jnp.einsum("nkc,nk->nc", state[self.index[number]].astype(weights.dtype), weights)

    def totals(self):
        """Σ_j w_ij."""
        return jnp.concatenate([table.sum(axis=1) for table in self.weights])

    def scaled(self, factor):
        """All couplings times a number."""
        return Neighbours(self.index, tuple(table * factor for table in self.weights))


class Lattice(AbstractLayout):
    """A square lattice whose edges meet (a torus), with the same coupling between all neighbours.

    Site (r, c) belongs to sublattice (r + c) mod 2. The nodes are the sites of sublattice 0, row by row, then those of
    sublattice 1. No site has a neighbour in its own sublattice, because both sides are even.

    Args:
        coupling: w of every pair.
        rows: number of rows, even and at least 4.
        columns: number of columns, even and at least 4.

    Raises:
        ValueError: an odd or a short side, on which alternate sites or wrapped pairs are not what they seem.

    Example:
        >>> from chainrule.forms.layouts import Lattice
        >>> lattice = Lattice(0.44, 4, 6)
        >>> lattice.num_nodes, lattice.starts, lattice.sites[:4].tolist()
        (24, (0, 12, 24), [[0, 0], [0, 2], [0, 4], [1, 1]])
    """

    coupling: Float[Array, ""]
    rows: int = eqx.field(static=True)
    columns: int = eqx.field(static=True)

    def __init__(self, coupling, rows: int, columns: int):
        self.coupling, self.rows, self.columns = as_floats(coupling), rows, columns

    def __check_init__(self):
        for name in ("rows", "columns"):
            if getattr(self, name) % 2 or getattr(self, name) < 4:
                raise ValueError(
                    f"a lattice with {getattr(self, name)} {name} has no alternate sites that close on themselves; wanted "
                    "an even number of at least 4, or a graph with `BoltzmannMachine.from_graph`"
                )
        if self.coupling.shape != ():
            raise ValueError(f"the coupling of a lattice is one number, got shape {self.coupling.shape}")
        if is_concrete(self.coupling):
            _finite(self.coupling)

    @property
    def num_nodes(self) -> int:
        """How many sites there are."""
        return self.rows * self.columns

    @property
    def starts(self) -> tuple[int, ...]:
        """Two slices."""
        return (0, self.num_nodes // 2, self.num_nodes)

    @property
    def sites(self) -> Int[np.ndarray, "node 2"]:
        """Row and column of each node."""
        rows, columns = np.divmod(np.arange(self.num_nodes), self.columns)
        order = np.argsort((rows + columns) % 2, kind="stable")
        return np.stack([rows, columns], axis=1)[order]

    def slice_fields(self, state, number):
        """Σ_j w_ij x_j of one sublattice."""
        half = self.num_nodes // 2
        other = state[half:] if number == 0 else state[:half]
        other = other.reshape(self.rows, self.columns // 2, -1)
        total = sum(neighbours(other, number), jnp.zeros((), other.dtype))
        return self.coupling * total.reshape(half, -1).astype(self.coupling.dtype)

    def totals(self):
        """Four couplings each."""
        return 4 * self.coupling

    def scaled(self, factor):
        """The coupling times a number."""
        return Lattice(self.coupling * factor, self.rows, self.columns)


def neighbours(other: Array, sublattice: int) -> tuple[Array, Array, Array, Array]:
    """What the other sublattice (row, half a row, …) holds at, above, below and beside each site of `sublattice`.

    Two of a site's four neighbours lie in its row. One has the site's own place in the half row; the other is one further
    where row + sublattice is odd, and one before where it is even.
    """
    odd = jnp.arange(other.shape[0]) % 2 != sublattice
    odd = odd.reshape(-1, *[1] * (other.ndim - 1))
    beside = jnp.where(odd, jnp.roll(other, -1, 1), jnp.roll(other, 1, 1))
    return other, jnp.roll(other, 1, 0), jnp.roll(other, -1, 0), beside


def as_indices(value) -> Array:
    """An array of int32, also without a program of its own."""
    return value.astype(jnp.int32) if isinstance(value, jax.Array) else on_device(np.asarray(value, np.int32))


def _finite(value) -> np.ndarray:
    value = np.asarray(value)
    if not np.isfinite(value).all():
        at = tuple(np.argwhere(~np.isfinite(value))[0].tolist())
        raise ValueError(f"couplings hold {value[at]} at {at}; they are finite numbers")
    return value
