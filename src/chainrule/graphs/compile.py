"""Structure: what a graph is, seen from the engines that could solve it."""

import itertools
from collections.abc import Hashable

import networkx as nx
import numpy as np

from ..forms.chain import Chain
from .factor_graph import FactorGraph


def as_chain(graph: FactorGraph) -> tuple[tuple[Hashable, ...], Chain] | None:
    """Recognise a linear chain, and compile it to the form that the chain engines solve exactly.

    A graph is a chain when its variables have equally many states, its factors touch one variable or two, and the pairs
    lay the variables out in a line. Pieces of a line that nothing joins follow each other, independent. Factors on the
    same variables are added, whichever way round their scope is; a constant goes to the first variable.

    Args:
        graph: any factor graph.

    Returns:
        The variables in the order of the chain, and the chain: its state k at step t is state k of variable t. `pair`
        is shared, (K, K), if all steps have the same table, else (T−1, K, K). None if the graph is not a chain.

    Example:
        >>> import numpy as np, chainrule as cr
        >>> from chainrule.graphs.compile import as_chain
        >>> step = np.log([[0.9, 0.1], [0.1, 0.9]])
        >>> graph = cr.FactorGraph({"b": 2, "a": 2, "c": 2}, [(("a", "b"), step), (("c", "b"), step)])
        >>> as_chain(graph)
        (('a', 'b', 'c'), Chain(2 states, 3 steps))
    """
    num_states = {len(states) for states in graph.variables.values()}
    if len(num_states) > 1 or any(len(scope) > 2 for scope, _ in graph.factors.values()):
        return None
    order = _line(graph)
    if order is None:
        return None
    (states,) = num_states
    step = {name: t for t, name in enumerate(order)}
    initial, node = np.zeros(states), np.zeros((len(order), states))
    pair = np.zeros((max(len(order) - 1, 1), states, states))
    for scope, table in graph.factors.values():
        steps = [step[name] for name in scope]
        if len(steps) == 0:
            initial += table
        elif len(steps) == 1:
            node[steps[0]] += table
        else:
            pair[min(steps)] += table if steps[0] < steps[1] else table.T
    shared = (pair == pair[0]).all()
    return order, Chain(initial, pair[0] if shared else pair, node)


def _line(graph: FactorGraph) -> tuple[Hashable, ...] | None:
    """Return the variables so that every pair with a factor is consecutive, or None."""
    pairs = nx.Graph()
    pairs.add_nodes_from(graph.variables)
    pairs.add_edges_from(scope for scope, _ in graph.factors.values() if len(scope) == 2)
    order: dict[Hashable, None] = {}  # a set that keeps its order
    for end, degree in pairs.degree:
        if degree > 2:
            return None
        if degree < 2 and end not in order:
            order.update(dict.fromkeys(itertools.chain([end], (v for _, v in nx.dfs_edges(pairs, end)))))
    return tuple(order) if len(order) == len(graph.variables) else None  # what is missing lies on a cycle
