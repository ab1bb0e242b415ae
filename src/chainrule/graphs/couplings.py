"""From edges to the pairwise form: order of nodes, layout, and which edge each coupling is.

What is compiled here depends on structure alone. Weights go in later, as often as they change, by one gather.
"""

import dataclasses
import itertools
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
import networkx as nx
import numpy as np
from jaxtyping import Array, Float, Int

from ..forms.layouts import Bipartite, Dense, Neighbours, as_floats, as_indices
from ..forms.pairwise import Pairwise
from ..forms.products import product
from .colouring import adjacency, colour, slices

_DENSE_SHARE = 0.25  # of all pairs (of two layers): from here on a product beats a gather
_DENSE_NODES = 8192  # a matrix of so many nodes takes 256 MB


class Couplings(eqx.Module):
    """The structure of a pairwise form: gives one for any weights.

    Attributes:
        ends: both ends of every edge in the caller's numbering, shape (2, edge).
        order: the caller's number of each node of the form.
        rank: the form's number of each node of the caller.
        slots: for each entry of the layout's tables the number of its edge; one past the last for none.
        index: for `Neighbours`, whom the entries name; empty otherwise.
        sites: where the graph is a torus, the number of each of the caller's nodes in a `Lattice`; empty otherwise.
        two_layers: whether a table that names nobody is one of two layers.
        sides: rows and columns of the torus, or None.
    """

    ends: Int[Array, "2 edge"]
    order: Int[Array, " node"]
    rank: Int[Array, " node"]
    slots: tuple[Int[Array, "some other"], ...]
    index: tuple[Int[Array, "some other"], ...]
    sites: Int[Array, " node"]
    two_layers: bool = eqx.field(static=True)
    sides: tuple[int, int] | None = eqx.field(static=True)

    @property
    def layout(self) -> type:
        """The class of layout."""
        if self.index:
            return Neighbours
        return Bipartite if self.two_layers else Dense

    @property
    def num_nodes(self) -> int:
        """How many variables there are."""
        return self.order.shape[0]

    def form(
        self, bias: Float[Array, " node"], weights: Float[Array, " edge"], constant=0.0, *, spins: bool = False
    ) -> Pairwise:
        """The form with these biases and weights, both in the caller's numbering."""
        bias, weights = as_floats(bias), as_floats(weights)
        padded = jnp.concatenate([weights, jnp.zeros(1, weights.dtype)])
        tables = tuple(padded[slot] for slot in self.slots)
        coupling = Neighbours(self.index, tables) if self.layout is Neighbours else self.layout(*tables)
        return Pairwise(bias[self.order], coupling, constant, spins=spins)

    def pair_means(self, state: Float[Array, "node chain"]) -> Float[Array, " edge"]:
        """Mean of x_i x_j over chains for every edge; states in the form's numbering."""
        first, second = self.rank[self.ends]
        if self.layout is Neighbours:
            return jnp.mean(state[first] * state[second], axis=1)
        return product(state, state.T)[first, second] / state.shape[1]  # a product, though of all pairs, is faster


def compile_edges(
    num_nodes: int, ends: Int[np.ndarray, "2 edge"], layout: type | None = None, *, labels: Sequence[Hashable] = ()
) -> Couplings:
    """Choose a layout, colour the nodes and number them anew.

    Args:
        num_nodes: how many nodes there are, at least one.
        ends: both ends of every edge, shape (2, edge), each pair once.
        layout: `Dense`, `Bipartite` or `Neighbours`, instead of the one that suits.
        labels: names of the nodes, by which a torus is recognised; see `lattice_sides`.

    Raises:
        ValueError: no nodes; an edge to a node that there is not, or from a node to itself; a pair listed
            twice; or `Bipartite` for a graph that is not.

    Example:
        >>> import numpy as np
        >>> from chainrule.graphs.couplings import compile_edges
        >>> compile_edges(4, np.array([[0, 1, 2, 3], [1, 2, 3, 0]])).form(np.zeros(4), np.ones(4))
        Pairwise(4 nodes, bits, Bipartite)
    """
    if num_nodes < 1:
        raise ValueError("a graph without nodes has no distribution")
    ends = np.asarray(ends, np.int64).reshape(2, -1)
    _check_edges(num_nodes, ends)
    sides = lattice_sides(labels, ends) if labels else None
    found = _compile(num_nodes, ends, layout)
    if sides is None:
        return found
    sites = as_indices(lattice_sites(labels, sides))
    return dataclasses.replace(found, sites=sites, sides=sides)


def _compile(num_nodes, ends, layout) -> Couplings:
    num_edges = ends.shape[1]
    dense = layout is None and _is_dense(num_edges, num_nodes * (num_nodes - 1) // 2, num_nodes)
    if layout is Dense or (dense and num_edges > num_nodes**2 // 4):  # so many edges leave no two sides
        return _couplings(ends, np.arange(num_nodes), [_matrix(num_nodes, ends)], (), Dense)
    colours = colour(num_nodes, ends)
    if layout is None:
        first = int((colours == 0).sum())
        two = colours.max() == 1
        if two and _is_dense(num_edges, first * (num_nodes - first), num_nodes):
            layout = Bipartite
        elif dense and not two:
            return _couplings(ends, np.arange(num_nodes), [_matrix(num_nodes, ends)], (), Dense)
    if layout is Bipartite:
        if colours.max() > 1:
            raise ValueError("the graph is not bipartite: it has a cycle of odd length; leave the layout to be chosen")
        order = np.argsort(colours, kind="stable")
        rank = np.argsort(order)
        first = int((colours == 0).sum())
        slot = np.full((first, num_nodes - first), ends.shape[1], np.int32)
        low, high = np.sort(rank[ends], axis=0)
        slot[low, high - first] = np.arange(ends.shape[1])
        return _couplings(ends, order, [slot], (), Bipartite)
    return _neighbours(num_nodes, ends, colours)


def _check_edges(num_nodes, ends):
    if (outside := (ends < 0) | (ends >= num_nodes)).any():
        raise ValueError(f"an edge ends at node {ends[outside][0]}; nodes are 0 … {num_nodes - 1}")
    if (loops := ends[0] == ends[1]).any():
        raise ValueError(
            f"node {ends[0][loops][0]} is coupled with itself; of a bit that is a bias, of a spin a constant"
        )
    low, high = np.sort(ends, axis=0)
    codes = np.sort(low * num_nodes + high)
    if (twice := codes[1:] == codes[:-1]).any():
        pair = divmod(int(codes[1:][twice][0]), num_nodes)
        raise ValueError(f"nodes {pair} are coupled twice; add the weights into one edge")


def _is_dense(num_edges, num_pairs, num_nodes) -> bool:
    return num_nodes <= _DENSE_NODES and num_pairs > 0 and num_edges >= _DENSE_SHARE * num_pairs


def _matrix(num_nodes, ends):
    slot = np.full((num_nodes, num_nodes), ends.shape[1], np.int32)
    slot[ends[0], ends[1]] = slot[ends[1], ends[0]] = np.arange(ends.shape[1])
    return slot


def _neighbours(num_nodes, ends, colours) -> Couplings:
    starts, near, edges = adjacency(num_nodes, ends)
    degrees = np.diff(starts)
    order, cuts = slices(colours, degrees)
    rank = np.argsort(order)
    index, slots = [], []
    for low, high in itertools.pairwise(cuts):
        nodes = order[low:high]
        columns = np.arange(degrees[nodes].max(initial=0))
        real = columns < degrees[nodes][:, None]
        place = np.where(real, starts[nodes][:, None] + columns, 0)
        if len(near):
            index.append(np.where(real, rank[near[place]], 0))
            slots.append(np.where(real, edges[place], ends.shape[1]))
        else:
            index.append(place)
            slots.append(place)
    return _couplings(ends, order, slots, index, Neighbours)


def _couplings(ends, order, slots, index, layout) -> Couplings:
    ends, order, rank, none = map(as_indices, (ends, order, np.argsort(order), ()))
    slots, index = (tuple(map(as_indices, tables)) for tables in (slots, index))
    return Couplings(ends, order, rank, slots, index, none, layout is Bipartite, None)


class Edges(NamedTuple):
    """A graph as arrays: labels, biases, both ends and weights of its edges."""

    labels: tuple[Hashable, ...]
    bias: Float[np.ndarray, " node"]
    ends: Int[np.ndarray, "2 edge"]
    weights: Float[np.ndarray, " edge"]


def read_graph(graph: nx.Graph) -> Edges:
    """Nodes with the attribute `bias` and edges with the attribute `weight`, both 0 where they are left out.

    Raises:
        ValueError: a directed graph or a multigraph, no nodes, a self-loop, or a bias or weight that is not finite.
    """
    if not isinstance(graph, nx.Graph) or graph.is_directed() or graph.is_multigraph():
        raise ValueError(f"couplings are read from an undirected nx.Graph, got {type(graph).__name__}")
    if not len(graph):
        raise ValueError("a graph without nodes has no distribution")
    number = {label: i for i, label in enumerate(graph)}
    listed = list(graph.edges(data="weight", default=0.0))
    ends = np.array([[number[u] for u, _, _ in listed], [number[v] for _, v, _ in listed]], np.int64).reshape(2, -1)
    if (loops := ends[0] == ends[1]).any():
        label = list(graph)[ends[0][loops][0]]
        raise ValueError(f"node {label!r} is coupled with itself; of a bit that is a bias, of a spin a constant")
    bias = _numbers((b for _, b in graph.nodes(data="bias", default=0.0)), "bias of node", number)
    weights = _numbers((w for _, _, w in listed), "weight of edge", graph.edges)
    return Edges(tuple(number), bias, ends, weights)


def read_states(graph: nx.Graph) -> tuple[int, int] | None:
    """The two values that a graph's weights are for, where it says so by the attribute `states`.

    Raises:
        ValueError: others than (0, 1) and (−1, 1), the lower one first.
    """
    said = graph.graph.get("states")
    if said is None:
        return None
    for known in ((0, 1), (-1, 1)):
        if tuple(said) == known:
            return known
    raise ValueError(f"the graph's states are {said!r}; wanted (0, 1) or (-1, 1)")


def read_constant(graph: nx.Graph) -> float:
    """The attribute `constant` of a graph, 0 where it is left out.

    Raises:
        ValueError: one that is not a finite number.
    """
    return float(_numbers([graph.graph.get("constant", 0.0)], "constant of", ["the graph"])[0])


def check_graph_of(graph: nx.Graph, states: tuple[int, int], what: str) -> None:
    """Raise a ValueError where a graph's weights are for other values than those of a model, or shift its energy."""
    said = read_states(graph)
    if said not in (None, states):
        raise ValueError(
            f"the graph's weights are for states {said}, those of {what} are {states}: convert it by "
            "from_ising(*to_ising(graph)) or from_qubo(*to_qubo(graph)) of graphs.formats.qubo"
        )
    if constant := read_constant(graph):
        raise ValueError(
            f"the graph has the constant {constant}, and the energy of {what} has none: set graph.graph['constant'] = 0, "
            "which changes no probability"
        )


def _numbers(values, kind: str, names) -> np.ndarray:
    try:
        found = np.fromiter(values, np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"a {kind} is not a number: {error}") from None
    if not np.isfinite(found).all():
        at = int(np.argmax(~np.isfinite(found)))
        raise ValueError(f"{kind} {list(names)[at]!r} is {found[at]}; it must be a finite number")
    return found


def lattice_sides(labels: Sequence[Hashable], ends: Int[np.ndarray, "2 edge"]) -> tuple[int, int] | None:
    """Rows and columns, where the nodes are all (row, column) of a torus with even sides, and the edges its pairs.

    So `nx.grid_2d_graph(rows, columns, periodic=True)` is recognised.
    """
    if not all(isinstance(label, tuple) and len(label) == 2 for label in labels[:1]) or ends.shape[1] != 2 * len(
        labels
    ):
        return None
    try:
        places = np.array(labels)
    except ValueError:
        return None
    if places.shape != (len(labels), 2) or places.dtype.kind != "i" or places.min() != 0:
        return None
    rows, columns = (places.max(axis=0) + 1).tolist()
    if rows * columns != len(labels) or rows % 2 or columns % 2 or min(rows, columns) < 4:
        return None
    steps = np.abs(places[ends[0]] - places[ends[1]])
    steps = np.sort(np.minimum(steps, np.array([[rows, columns]]) - steps), axis=1)
    return (rows, columns) if (steps == np.array([[0, 1]])).all() else None


def lattice_sites(labels: Sequence[Hashable], sides: tuple[int, int]) -> Int[np.ndarray, " node"]:
    """The number that a `Lattice` gives each node (row, column): the even sublattice first, each row by row."""
    row, column = np.array(labels).T
    return (row + column) % 2 * (sides[0] * sides[1] // 2) + row * (sides[1] // 2) + column // 2
