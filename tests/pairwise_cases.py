"""Small pairwise models in every layout, and what enumeration says about them."""

from functools import cache, partial

import jax
import networkx as nx
import numpy as np

import chainrule as cr
from chainrule.forms.layouts import Bipartite, Dense, Lattice, Neighbours
from chainrule.graphs.couplings import compile_edges

# ln Z and energy per site of the Ising model on an n × n torus, J = 1, no field (Kaufman 1949), by n and β
TORUS = {
    (3, 0.2): (6.669744604314, -0.538099),
    (3, 0.44): (9.010260941057, -1.609018),
    (4, 0.2): (11.771470358542, -0.456135),
    (4, 0.44): (15.504726538718, -1.562847),
    (8, 0.4): (56.599388760425, -1.222321),
    (8, 0.44): (60.076307527215, -1.487526),
    (16, 0.4): (225.228846755876, -1.131318),
    (16, 0.44): (238.387247204240, -1.447743),
}


@partial(jax.jit, static_argnames="spins")
def _form(couplings, bias, weights, *, spins: bool) -> cr.Pairwise:
    return couplings.form(bias, weights, spins=spins)


@cache
def torus(n: int, layout: type) -> cr.Pairwise:
    """The Ising model on an n × n torus with J = 1."""
    if layout is Lattice:
        return cr.Pairwise(np.float32(0), Lattice(np.float32(1), n, n), spins=True)
    graph = nx.convert_node_labels_to_integers(nx.grid_2d_graph(n, n, periodic=True))
    ends = np.array(graph.edges).T
    bias, weights = np.zeros(n * n, np.float32), np.ones(ends.shape[1], np.float32)
    return _form(compile_edges(n * n, ends, layout), bias, weights, spins=True)


def random_edges(layout: type, seed: int = 0):
    """Number of nodes, ends of edges, weights and biases of a graph that the layout is made for."""
    rng = np.random.default_rng(seed)
    graph = nx.complete_bipartite_graph(4, 3) if layout is Bipartite else nx.gnp_random_graph(8, 0.5, seed=1)
    ends = np.array(graph.edges).T
    return len(graph), ends, rng.normal(0, 0.6, ends.shape[1]), rng.normal(0, 0.5, len(graph))


@cache
def random_model(layout: type, *, spins: bool, seed: int = 0) -> cr.Pairwise:
    """Eight nodes or so with random weights."""
    if layout is Lattice:
        bias = np.random.default_rng(seed).normal(0, 0.3, 16)
        return cr.Pairwise(np.float32(bias), Lattice(np.float32(0.3), 4, 4), spins=spins)
    count, ends, weights, bias = random_edges(layout, seed)
    return _form(compile_edges(count, ends, layout), np.float32(bias), np.float32(weights), spins=spins)


def times(model: cr.Pairwise, factor: float) -> cr.Pairwise:
    """The model with all scores times a number."""
    leaves = jax.tree.map(np.asarray, model)
    return jax.tree.map(lambda a: jax.device_put(a * np.float32(factor) if a.dtype.kind == "f" else a), leaves)


LAYOUTS = [Dense, Bipartite, Neighbours, Lattice]


def states(model: cr.Pairwise) -> np.ndarray:
    """All states, shape (node, 2^node); the last node changes fastest."""
    bits = np.arange(2**model.num_nodes) >> np.arange(model.num_nodes)[::-1, None] & 1
    return 2 * bits - 1 if model.spins else bits


_fields = jax.jit(lambda coupling, x: coupling.fields(x))


def couplings(model: cr.Pairwise) -> np.ndarray:
    """The matrix w, from fields of unit vectors."""
    return np.asarray(_fields(model.coupling, np.eye(model.num_nodes, dtype=np.float32)), np.float64)


def scores(model: cr.Pairwise, x: np.ndarray) -> np.ndarray:
    """Σ_{i<j} w_ij x_i x_j + Σ_i b_i x_i + constant in float64."""
    w, b = couplings(model), np.asarray(model.biases, np.float64)
    return (np.triu(w, 1) @ x * x).sum(0) + b @ x + float(model.constant)


def probabilities(model: cr.Pairwise, beta: float = 1.0) -> np.ndarray:
    score = beta * scores(model, states(model))
    return np.exp(score - np.logaddexp.reduce(score))


def codes(model: cr.Pairwise, x) -> np.ndarray:
    """Number of each state in the order of `states`; x is (…, node, chain)."""
    bits = np.asarray(x) > 0
    place = 2 ** np.arange(model.num_nodes)[::-1]
    return np.tensordot(place, np.moveaxis(bits, -2, 0), 1)


def chi_square(counts: np.ndarray, probs: np.ndarray) -> float:
    """p-value of counts of independent draws; cells of fewer than five expected draws are put together, ten in a group."""
    from scipy import stats

    expected = counts.sum() * probs
    if counts[probs == 0].any():
        return 0.0
    counts, expected = counts[probs > 0], expected[probs > 0]
    rare = np.argsort(expected)[: (expected < 5).sum()]
    group = np.floor(np.cumsum(expected[rare]) / 10).astype(int)
    group = np.minimum(group, max(group.max(initial=0) - 1, 0))  # the last one is not full
    counts, expected = (np.append(np.delete(x, rare), np.bincount(group, x[rare])) for x in (counts, expected))
    return float(stats.chi2.sf(((counts - expected) ** 2 / expected).sum(), len(counts) - 1))


def batch_error(values: np.ndarray, batches: int = 40) -> float:
    """Standard error of the mean of a correlated series, from means of batches."""
    means = values[: len(values) // batches * batches].reshape(batches, -1).mean(1)
    return float(means.std(ddof=1) / np.sqrt(batches))
