"""A restricted Boltzmann machine as a graph: of units and couplings, or of variables and factors."""

from typing import Any

import networkx as nx
import numpy as np

from ...graphs.factor_graph import FactorGraph
from .units import Binary


def unit_graph(machine) -> nx.Graph:
    """See `RBM.graph`."""
    if machine.visible.width > 1:
        raise ValueError("categorical units have a bias and a weight for each value, which one edge cannot carry")
    graph = nx.Graph()
    weights, a, b = (np.asarray(p, float) for p in (machine.weights, machine.visible_bias, machine.hidden_bias))
    graph.add_nodes_from((("v", i), {"bias": float(bias), "bipartite": 0}) for i, bias in enumerate(a))
    graph.add_nodes_from((("h", j), {"bias": float(bias), "bipartite": 1}) for j, bias in enumerate(b))
    graph.add_edges_from((("v", i), ("h", j), {"weight": float(weights[i, j])}) for i, j in np.ndindex(weights.shape))
    return graph


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
