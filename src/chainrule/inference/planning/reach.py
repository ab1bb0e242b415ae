"""Reachability in the graph of a process: which states can follow which, whatever the probabilities."""

from typing import Any

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph


def steps_to(process, targets: np.ndarray) -> np.ndarray:
    """The fewest steps from each state to one of the targets, under the best actions and with luck; −1 for never."""
    return steps_from(process.support().T.tocsr(), targets)


def steps_from(graph: Any, sources: np.ndarray) -> np.ndarray:
    """The fewest edges from one of the sources to each node, by breadth-first search; −1 for never."""
    size = graph.shape[0]
    root = np.zeros(size, np.int8)  # one node more, which leads to all sources
    root[sources] = 1
    whole = sparse.block_array([[graph, None], [sparse.csr_array(root[None]), np.zeros((1, 1), np.int8)]], format="csr")
    order, before = csgraph.breadth_first_order(whole, size)
    place = np.full(size + 1, -1)
    place[order] = np.arange(len(order))
    parent = place[before[order[1:]]]  # not decreasing: nodes are found in the order of their parents
    steps = np.full(size + 1, -1)
    low, high, depth = 1, 1, 0
    while high < len(order):  # level by level: the nodes whose parent is in the level before
        low, high = high, 1 + int(np.searchsorted(parent, high))
        steps[order[low:high]] = depth
        depth += 1
    return steps[:size]
