"""A restricted Boltzmann machine as a graph: of units and couplings, or of variables and factors."""

from typing import Any

import networkx as nx
import numpy as np

from ...graphs.couplings import check_graph_of, read_graph
from ...graphs.factor_graph import FactorGraph
from .units import Binary

STATES = (0, 1)


def unit_graph(machine) -> nx.Graph:
    """See `RBM.graph`."""
    if machine.visible.width > 1:
        raise ValueError("categorical units have a bias and a weight for each value, which one edge cannot carry")
    if not isinstance(machine.visible, Binary) or not isinstance(machine.hidden, Binary):
        raise ValueError(f"a graph of biases and weights is one of binary units, which {machine!r} is not")
    graph = nx.Graph(states=STATES)
    weights, a, b = (np.asarray(p, float) for p in (machine.weights, machine.visible_bias, machine.hidden_bias))
    graph.add_nodes_from((("v", i), {"bias": float(bias), "bipartite": 0}) for i, bias in enumerate(a))
    graph.add_nodes_from((("h", j), {"bias": float(bias), "bipartite": 1, "hidden": True}) for j, bias in enumerate(b))
    graph.add_edges_from((("v", i), ("h", j), {"weight": float(weights[i, j])}) for i, j in np.ndindex(weights.shape))
    return graph


def parameters(graph: nx.Graph) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights and both biases of a graph; see `RBM.from_graph`."""
    edges = read_graph(graph)
    check_graph_of(graph, STATES, "a restricted Boltzmann machine")
    hidden = np.array([bool(graph.nodes[name].get("hidden", False)) for name in edges.labels])
    if hidden.all() or not hidden.any():
        raise ValueError(
            f"{int(hidden.sum())} of {len(hidden)} nodes are hidden; give hidden=True to those of one layer, and "
            "not to the visible ones"
        )
    inside = hidden[edges.ends[0]] == hidden[edges.ends[1]]
    if inside.any():
        u, v = (edges.labels[n] for n in edges.ends[:, np.argmax(inside)])
        layer = "hidden" if hidden[edges.ends[0][inside][0]] else "visible"
        raise ValueError(
            f"{u!r} and {v!r} are both {layer} and joined; a restricted machine has no edges within a layer, "
            "BoltzmannMachine.from_graph takes any"
        )
    place = np.where(hidden, np.cumsum(hidden), np.cumsum(~hidden)) - 1
    swap = hidden[edges.ends[0]]
    visible_end, hidden_end = np.where(swap, edges.ends[::-1], edges.ends)
    weights = np.zeros(((~hidden).sum(), hidden.sum()))
    weights[place[visible_end], place[hidden_end]] = edges.weights
    return weights, edges.bias[~hidden], edges.bias[hidden]


def factor_graph(machine) -> FactorGraph:
    """See `RBM.factor_graph`."""
    if not machine.discrete or not isinstance(machine.hidden, Binary):
        raise ValueError(f"a factor graph has finitely many states for each variable, which {machine!r} has not")
    width = machine.visible.width
    values = max(width, 2)
    weights, a, b = (np.asarray(p, float) for p in (machine.weights, machine.visible_bias, machine.hidden_bias))
    if width == 1:  # the value 0 has no column
        weights, a = (np.stack([np.zeros_like(p), p], axis=1) for p in (weights, a))
    weights, a = weights.reshape(-1, values, len(b)), a.reshape(-1, values)
    factors: dict[Any, Any] = {("a", i): ((("v", i),), bias) for i, bias in enumerate(a)}
    factors |= {("b", j): ((("h", j),), [0.0, bias]) for j, bias in enumerate(b)}
    for i, j in np.ndindex(len(a), len(b)):
        factors["w", i, j] = ((("v", i), ("h", j)), np.stack([np.zeros(values), weights[i, :, j]], axis=1))
    variables: dict[Any, Any] = {("v", i): values for i in range(len(a))} | {("h", j): 2 for j in range(len(b))}
    return FactorGraph(variables, factors)
