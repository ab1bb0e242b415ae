"""Quadratic problems over bits (QUBO) and spins (Ising), as dictionaries and as text in coordinates (COO).

Here energies are given,

    E(x) = Σ_{ij} Q_ij x_i x_j + offset,                     x_i ∈ {0, 1},
    E(s) = Σ_i h_i s_i + Σ_{ij} J_ij s_i s_j + offset,       s_i ∈ {−1, 1},

while a graph's biases and weights are those of the score −E: all signs turn. `BoltzmannMachine.from_graph` reads them.

A line of COO text is `i j value`, with `i i value` for what is linear. A comment `# vartype=BINARY` or `# vartype=SPIN`
says which of the two it is, as in D-Wave's dimod.
"""

import re
from collections.abc import Hashable, Mapping

import networkx as nx
import numpy as np

from ..couplings import read_constant, read_graph, read_states

Quadratic = dict[tuple[Hashable, Hashable], float]


def from_qubo(qubo: Mapping[tuple[Hashable, Hashable], float], offset: float = 0.0) -> nx.Graph:
    """A QUBO as a graph of bits.

    Args:
        qubo: Q_ij by its two variables; (i, i) is linear, and (i, j) and (j, i) add up.
        offset: constant of the energy.

    Raises:
        ValueError: a coefficient that is not a finite number, or no variable.

    Example:
        >>> import chainrule as cr
        >>> from chainrule.graphs.formats.qubo import from_qubo
        >>> machine = cr.BoltzmannMachine.from_graph(from_qubo({("a", "a"): -1, ("b", "b"): -1, ("a", "b"): 2}))
        >>> machine.energy([[0, 0], [0, 1], [1, 0], [1, 1]]).tolist()
        [-0.0, -1.0, -1.0, -0.0]
    """
    linear = {i: value for (i, j), value in qubo.items() if i == j}
    return _graph(linear, {pair: value for pair, value in qubo.items() if pair[0] != pair[1]}, offset, (0, 1))


def from_ising(
    linear: Mapping[Hashable, float], quadratic: Mapping[tuple[Hashable, Hashable], float], offset: float = 0.0
) -> nx.Graph:
    """An Ising problem as a graph of spins: h by variable and J by pair.

    Raises:
        ValueError: a coefficient that is not a finite number, a variable coupled with itself, or no variable.

    Example:
        >>> from chainrule.graphs.formats.qubo import from_ising, to_ising, to_qubo
        >>> graph = from_ising({"a": 0.5}, {("a", "b"): -1.0})
        >>> to_ising(graph)
        ({'a': 0.5, 'b': 0.0}, {('a', 'b'): -1.0}, 0.0)
        >>> to_qubo(graph)
        ({('a', 'a'): 3.0, ('b', 'b'): 2.0, ('a', 'b'): -4.0}, -1.5)
    """
    return _graph(linear, quadratic, offset, (-1, 1))


def to_qubo(graph: nx.Graph) -> tuple[Quadratic, float]:
    """A graph as Q and offset, with every variable's (i, i); a graph of spins is converted."""
    linear, quadratic, offset = _coefficients(graph, (0, 1))
    return {**{(i, i): value for i, value in linear.items()}, **quadratic}, offset


def to_ising(graph: nx.Graph) -> tuple[dict[Hashable, float], Quadratic, float]:
    """A graph as h, J and offset; a graph of bits is converted."""
    return _coefficients(graph, (-1, 1))


def read_coo(text: str) -> nx.Graph:
    r"""A problem in coordinates, its variables whole numbers.

    Raises:
        ValueError: a line that is not `i j value`, a pair listed twice, both kinds of variables, or none; with the line's
            number.

    Example:
        >>> from chainrule.graphs.formats.qubo import read_coo
        >>> read_coo("# vartype=SPIN\n0 0 0.5\n0 1 -1").edges(data="weight")
        EdgeDataView([(0, 1, 1.0)])
    """
    kind, entries = None, {}
    for number, line in enumerate(text.splitlines(), start=1):
        content = line.strip()
        if content.startswith("#"):
            if found := re.fullmatch(r"#\s*vartype\s*=\s*(\w+)\s*", content):
                if found[1] not in ("BINARY", "SPIN") or kind not in (None, found[1]):
                    raise ValueError(f"line {number}: vartype is {found[1]!r}; wanted BINARY or SPIN, once")
                kind = found[1]
            continue
        if not content:
            continue
        words = content.split()
        try:
            i, j, value = int(words[0]), int(words[1]), float(words[2])
        except (ValueError, IndexError):
            raise ValueError(f"line {number}: {content!r} is not two whole numbers and a number") from None
        if len(words) != 3 or not np.isfinite(value) or min(i, j) < 0:
            raise ValueError(f"line {number}: {content!r} is not two whole numbers from 0 on and a finite number")
        pair = (min(i, j), max(i, j))
        if pair in entries:
            raise ValueError(f"line {number}: the pair {i} {j} is listed before")
        entries[pair] = value
    if kind is None:
        raise ValueError("no line says which values variables take; begin with '# vartype=BINARY' or '# vartype=SPIN'")
    linear = {i: value for (i, j), value in entries.items() if i == j}
    quadratic = {pair: value for pair, value in entries.items() if pair[0] != pair[1]}
    return _graph(linear, quadratic, 0.0, (0, 1) if kind == "BINARY" else (-1, 1))


def write_coo(graph: nx.Graph) -> str:
    r"""A graph as text that `read_coo` reads back, without its constant.

    Variables keep their names where all are whole numbers from 0 on; otherwise they are 0, 1, … in the order of the nodes.

    Example:
        >>> from chainrule.graphs.formats.qubo import from_ising, write_coo
        >>> write_coo(from_ising({}, {(5, 2): 1.0})).splitlines()
        ['# vartype=SPIN', '5 5 0.0', '2 2 0.0', '5 2 1.0']
    """
    states = read_states(graph) or (0, 1)
    linear, quadratic, _ = _coefficients(graph, states)
    whole = all(isinstance(i, int | np.integer) and not isinstance(i, bool) and i >= 0 for i in linear)
    number = {name: int(name) if whole else i for i, name in enumerate(linear)}  # pyright: ignore[reportArgumentType]
    lines = [f"# vartype={'BINARY' if states == (0, 1) else 'SPIN'}"]
    lines += [f"{number[i]} {number[i]} {value!r}" for i, value in linear.items()]
    lines += [f"{number[i]} {number[j]} {value!r}" for (i, j), value in quadratic.items()]
    return "\n".join(lines) + "\n"


def _graph(linear, quadratic, offset, states) -> nx.Graph:
    graph = nx.Graph(states=states, constant=0.0 - float(offset))
    for i, value in linear.items():
        graph.add_node(i, bias=-float(value))
    for (i, j), value in quadratic.items():
        graph.add_edge(i, j, weight=-float(value) + (graph[i][j]["weight"] if graph.has_edge(i, j) else 0.0))
    read_graph(graph)  # finite numbers, no self-loops
    read_constant(graph)
    return graph


def _coefficients(graph: nx.Graph, wanted: tuple[int, int]):
    """Linear terms (h or the diagonal), couplings and offset of the energy, over the wanted values."""
    edges = read_graph(graph)
    bias, weights = 0.0 - edges.bias, 0.0 - edges.weights  # no −0.0
    offset = 0.0 - read_constant(graph)
    states = read_states(graph) or (0, 1)
    totals = np.zeros(len(bias))
    np.add.at(totals, edges.ends[0], weights)
    np.add.at(totals, edges.ends[1], weights)
    if states == (0, 1) and wanted == (-1, 1):
        offset += weights.sum() / 4 + bias.sum() / 2
        bias, weights = bias / 2 + totals / 4, weights / 4
    elif states == (-1, 1) and wanted == (0, 1):
        offset += weights.sum() - bias.sum()
        bias, weights = 2 * bias - 2 * totals, 4 * weights
    linear = dict(zip(edges.labels, bias.tolist(), strict=True))
    pairs = ((edges.labels[u], edges.labels[v]) for u, v in edges.ends.T)
    return linear, dict(zip(pairs, weights.tolist(), strict=True)), float(offset)
