"""Structure: what a graph is, seen from the engines that could solve it."""

import itertools
from collections.abc import Hashable

import numpy as np

from ..forms.chain import Chain
from ..forms.factors import Block, Factors
from ..forms.layouts import as_floats, as_indices
from .colouring import colour
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
    import networkx as nx

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


def as_factors(graph: FactorGraph) -> tuple[tuple[Hashable, ...], Factors]:
    """Compile a factor graph to the form that is sampled: tables end to end, and blocks of variables to draw at once.

    Variables that share a factor get different colours; a block is a colour's variables with equally many states.

    Returns:
        The variables in the form's order, and the form.

    Example:
        >>> import numpy as np, chainrule as cr
        >>> from chainrule.graphs.compile import as_factors
        >>> graph = cr.FactorGraph({"a": 2, "b": 3}, [(("a", "b"), np.zeros((2, 3))), (("a",), [0.0, 1.0])])
        >>> as_factors(graph)
        (('a', 'b'), Factors(2 variables, 2 factors, 2 blocks))
    """
    names = list(graph.variables)
    number = {name: i for i, name in enumerate(names)}
    pairs = {
        tuple(sorted((number[u], number[v])))
        for scope, _ in graph.factors.values()
        for u, v in itertools.combinations(scope, 2)
    }
    colours = colour(len(names), np.array(sorted(pairs), np.int64).reshape(-1, 2).T)
    sizes = np.array([len(states) for states in graph.variables.values()])
    order = np.lexsort((sizes, colours))
    rank = np.argsort(order)
    tables = [table for _, table in graph.factors.values()]
    base = np.concatenate([[0], np.cumsum([table.size for table in tables], dtype=int)])
    flat = np.concatenate([*(table.ravel() for table in tables), [0.0]])
    scopes = [[int(rank[number[name]]) for name in scope] for scope, _ in graph.factors.values()]
    strides = [[step // table.itemsize for step in np.empty(table.shape).strides] for table in tables]
    arity = max(map(len, scopes), default=0)
    touching: list[list[tuple[int, int]]] = [[] for _ in names]  # factor and place
    for factor, scope in enumerate(scopes):
        for place, variable in enumerate(scope):
            touching[variable].append((factor, place))

    def block(start, stop):
        degree = max(len(touching[v]) for v in range(start, stop))
        at = np.full((stop - start, degree), base[-1])
        own = np.zeros((stop - start, degree), int)
        others, steps = np.zeros((2, stop - start, degree, max(arity - 1, 0)), int)
        for row, column, (factor, place) in (
            (v - start, k, one) for v in range(start, stop) for k, one in enumerate(touching[v])
        ):
            at[row, column], own[row, column] = base[factor], strides[factor][place]
            rest = [q for q in range(len(scopes[factor])) if q != place]
            others[row, column, : len(rest)] = [scopes[factor][q] for q in rest]
            steps[row, column, : len(rest)] = [strides[factor][q] for q in rest]
        at, own, others, steps = map(as_indices, (at, own, others, steps))
        return Block(at, own, others, steps, start=start, num_states=int(sizes[order[start]]))

    kinds = np.stack([colours[order], sizes[order]])
    cuts = [0, *(np.flatnonzero((kinds[:, 1:] != kinds[:, :-1]).any(0)) + 1).tolist(), len(names)]
    padded = [[row + [0] * (arity - len(row)) for row in rows] for rows in (scopes, strides)]
    scope, steps = np.array(padded, int).reshape(2, len(scopes), arity)
    starts, scope, steps = map(as_indices, (base[:-1], scope, steps))
    blocks = tuple(block(start, stop) for start, stop in itertools.pairwise(cuts))
    form = Factors(as_floats(flat), starts, scope, steps, blocks)
    return tuple(names[i] for i in order), form
