"""Colours: which nodes of a graph can be drawn at once, given the others.

Neighbours get different colours. A bipartite graph gets two. Any other is coloured node by node, the one with most colours
around it first (DSATUR, Brélaz 1979), or in large graphs as they come: at most 1 + the largest degree, mostly far fewer.
"""

import heapq
import itertools

import numpy as np
from jaxtyping import Int

_MANY = 2**16  # edges from which on colours are worth less than the time it takes to save them
_WORTH = 1024  # entries of padding that are cheaper than another slice


def adjacency(num_nodes: int, ends: Int[np.ndarray, "2 edge"]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Neighbour lists end to end: where each node's list starts, (node + 1,); the neighbours; the edges they stand for."""
    heads, tails = np.concatenate([ends[0], ends[1]]), np.concatenate([ends[1], ends[0]])
    order = np.argsort(heads, kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(heads, minlength=num_nodes))])
    return starts, tails[order], order % max(ends.shape[1], 1)


def colour(num_nodes: int, ends: Int[np.ndarray, "2 edge"]) -> Int[np.ndarray, " node"]:
    """Colour a graph.

    Args:
        num_nodes: how many nodes there are.
        ends: both ends of every edge, numbers of nodes, shape (2, edge).

    Returns:
        A colour 0, 1, … for each node; the ends of every edge differ.

    Raises:
        ValueError: an edge from a node to itself.

    Example:
        >>> import numpy as np
        >>> from chainrule.graphs.colouring import colour
        >>> colour(3, np.array([[0, 1, 2], [1, 2, 0]])).tolist()  # a triangle is not bipartite
        [0, 1, 2]
    """
    if (loops := ends[0] == ends[1]).any():
        raise ValueError(f"node {ends[0][loops][0]} is its own neighbour; no colour would differ from itself")
    starts, near, _ = adjacency(num_nodes, ends)
    near, cuts = near.tolist(), starts.tolist()
    lists = [near[low:high] for low, high in itertools.pairwise(cuts)]
    found = _two_colours(lists)
    if found is None:
        found = _saturation(lists) if ends.shape[1] <= _MANY else _greedy(lists)
    colours = np.array(found, np.int32)
    if (same := colours[ends[0]] == colours[ends[1]]).any():  # by construction never
        raise RuntimeError(f"nodes {ends[:, same][:, 0].tolist()} are neighbours of one colour")
    return colours


def _two_colours(near: list[list[int]]) -> list[int] | None:
    """Sides of a bipartite graph, or None."""
    colours = [-1] * len(near)
    for root in range(len(near)):
        if colours[root] >= 0:
            continue
        colours[root] = 0
        front = [root]
        for node in front:  # grows while it is walked along
            other = 1 - colours[node]
            for neighbour in near[node]:
                if colours[neighbour] < 0:
                    colours[neighbour] = other
                    front.append(neighbour)
                elif colours[neighbour] != other:
                    return None
    return colours


def _greedy(near: list[list[int]]) -> list[int]:
    """Node by node as they come, each with the first colour that none of its neighbours has."""
    colours = [-1] * len(near)
    for node, neighbours in enumerate(near):
        taken = {colours[neighbour] for neighbour in neighbours}
        new = 0
        while new in taken:
            new += 1
        colours[node] = new
    return colours


def _saturation(near: list[list[int]]) -> list[int]:
    """Next is always the node with most colours around it, then the one of largest degree; it gets the first free one."""
    colours = [-1] * len(near)
    around: list[set[int]] = [set() for _ in near]
    heap = [(0, -len(neighbours), node) for node, neighbours in enumerate(near)]
    heapq.heapify(heap)
    while heap:
        saturation, _, node = heapq.heappop(heap)
        if colours[node] >= 0 or -saturation < len(around[node]):
            continue  # coloured, or listed anew since with more colours around it
        new = 0
        while new in around[node]:
            new += 1
        colours[node] = new
        for neighbour in near[node]:
            if colours[neighbour] < 0 and new not in around[neighbour]:
                around[neighbour].add(new)
                heapq.heappush(heap, (-len(around[neighbour]), -len(near[neighbour]), neighbour))
    return colours


def slices(
    colours: Int[np.ndarray, " node"], degrees: Int[np.ndarray, " node"]
) -> tuple[Int[np.ndarray, " node"], tuple[int, ...]]:
    """Number nodes anew so that a colour is a slice, cut where that spares much padding.

    A colour's nodes come in order of falling degree, and a new slice begins where the degree has fallen below half of
    the slice's first, if that saves an eighth of all entries: so a hub does not make everybody's table long.

    Returns:
        The nodes in their new order, and where the slices start, ending with the number of nodes.
    """
    order = np.lexsort((-degrees, colours))
    ends = [0]
    worth = max(degrees.sum() / 8, _WORTH)
    for shade in range(int(colours.max()) + 1 if len(colours) else 0):
        size = int((colours == shade).sum())
        mine = degrees[order[ends[-1] : ends[-1] + size]]
        start = ends[-1]
        while len(mine):
            cut = int(np.searchsorted(-mine, -mine[0] / 2, side="right"))
            if (len(mine) - cut) * mine[0] / 2 < worth or cut == len(mine):
                break
            start += cut
            mine = mine[cut:]
            ends.append(start)
        ends.append(ends[-1] + len(mine))
    return order, tuple(ends)
