"""Hopfield's network: binary units that remember patterns as minima of an energy (Hopfield 1982).

    E(s) = −½ sᵀ W s − b·s,    s_i ∈ {−1, +1},    W = Wᵀ,  W_ii = 0

Recall starts from a damaged pattern and lets one unit after the other follow its field W s + b, downhill.
"""

from collections.abc import Hashable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import networkx as nx
import numpy as np
from equinox import Module, field
from jaxtyping import Array, Float, Key, Num

from ...forms.chain import is_concrete
from ...graphs.couplings import check_graph_of
from ...graphs.factor_graph import FactorGraph
from ...inference import recall as engine
from ..emissions.base import as_parameter
from .checks import check_labels, check_numbers, check_signs, check_sweeps
from .results import Recall, as_columns, result
from .rules import AbstractRule, Hebb

STATES = (-1, 1)


class Hopfield(Module):
    """A Hopfield network of ±1 units.

    Args:
        couplings: W, shape (N, N), symmetric, with a zero diagonal.
        biases: b, shape (N,); zero by default.
        units: names of the units, any hashable values; 0 … N−1 by default.

    States are arrays of −1 and +1, shape (N,), or (probe, N) for several.

    Raises:
        ValueError: couplings that are not square, not symmetric or have self-loops, NaN or infinite values (the message
            names the units), or a name given twice.

    Example:
        >>> import numpy as np, chainrule as cr
        >>> patterns = np.array([[1, 1, 1, 1, -1, -1, -1, -1], [1, -1, 1, -1, 1, -1, 1, -1]])
        >>> memory = cr.Hopfield.from_patterns(patterns)
        >>> memory
        Hopfield(8 units)
        >>> damaged = np.array([1, 1, -1, 1, -1, -1, -1, -1])
        >>> memory.recall(damaged).states.astype(int).tolist()
        [1, 1, 1, 1, -1, -1, -1, -1]

    Reference: Hopfield, "Neural networks and physical systems with emergent collective computational abilities", 1982.
    """

    couplings: Float[Array, "unit unit"]
    biases: Float[Array, " unit"]
    units: tuple[Hashable, ...] = field(static=True)

    def __init__(self, couplings, biases=None, units: Sequence[Hashable] | None = None):
        couplings = as_parameter(couplings)
        if couplings.ndim != 2 or couplings.shape[0] != couplings.shape[1] or not couplings.shape[0]:
            raise ValueError(f"couplings have shape {couplings.shape}; wanted (unit, unit)")
        size = couplings.shape[0]
        biases = as_parameter(np.zeros(size, couplings.dtype) if biases is None else biases)
        if biases.shape != (size,):
            raise ValueError(f"biases have shape {biases.shape}; {size} units ask for ({size},)")
        self.units = check_labels(units, size)
        if is_concrete(couplings):
            _check_couplings(np.asarray(couplings, float), self.units)
        check_numbers(biases, lambda place: f"the bias of unit {self.units[place[0]]!r}")
        self.couplings, self.biases = couplings, biases

    @classmethod
    def from_patterns(
        cls, patterns: Num[Array, "pattern unit"], rule: AbstractRule | None = None, *, units=None
    ) -> "Hopfield":
        """Store patterns.

        Args:
            patterns: entries −1 and +1, shape (K, N).
            rule: `hopfield.Hebb()`, the default, `hopfield.Storkey()` or `hopfield.PseudoInverse()`.
            units: names of the units.

        Raises:
            ValueError: no patterns, entries that are not ±1 (0/1 patterns are 2·x − 1 here), or a rule that is none.
        """
        rows = check_signs(patterns, "patterns", ndim=(2,))
        if not rows.size:
            raise ValueError(f"patterns have shape {rows.shape}; there is nothing to store")
        rule = Hebb() if rule is None else rule
        if not isinstance(rule, AbstractRule):
            raise ValueError(
                f"rule is {rule!r}; wanted hopfield.Hebb(), Storkey(), PseudoInverse() or another AbstractRule"
            )
        return cls(rule.couplings(np.asarray(rows, float)), units=units)

    @classmethod
    def random(cls, key: Key[Array, ""], num_units: int) -> "Hopfield":
        """A spin glass: couplings N(0, 1/N), which nobody stored anything in (Sherrington and Kirkpatrick 1975)."""
        if num_units < 1:
            raise ValueError(f"num_units is {num_units}; a network needs at least one unit")
        return cls(_spin_glass(key, num_units))

    @classmethod
    def from_graph(cls, graph: nx.Graph) -> "Hopfield":
        """The network of a graph: edges carry `weight`, nodes may carry `bias` (zero otherwise).

        Raises:
            ValueError: a directed graph or multigraph, a self-loop, an edge without a weight, hidden nodes, or a graph that
                says it is of other `states` than −1 and 1 or has a `constant`.

        Example:
            >>> import chainrule as cr, networkx as nx
            >>> cr.Hopfield.from_graph(nx.Graph([("a", "b", {"weight": -1.0})])).recall([1, 1]).states.tolist()
            [-1.0, 1.0]
        """
        if not isinstance(graph, nx.Graph) or graph.is_directed() or graph.is_multigraph():
            raise ValueError(f"couplings go both ways: wanted an undirected nx.Graph, got {type(graph).__name__}")
        check_graph_of(graph, STATES, "a Hopfield network")
        if hidden := [name for name, flag in graph.nodes(data="hidden") if flag]:
            raise ValueError(f"unit {hidden[0]!r} is hidden; of a Hopfield network all units are seen")
        place = {name: i for i, name in enumerate(graph)}
        couplings = np.zeros((len(place), len(place)))
        for u, v, weight in graph.edges(data="weight"):
            if u == v:
                raise ValueError(f"unit {u!r} has a self-loop; s² is 1, so that it says nothing: take the edge out")
            if weight is None:
                raise ValueError(f"the edge {u!r} — {v!r} has no weight; give it one, weight=…")
            couplings[place[u], place[v]] = couplings[place[v], place[u]] = weight
        biases = np.array([data.get("bias", 0.0) for _, data in graph.nodes(data=True)], float)
        return cls(couplings, biases, tuple(graph))

    def graph(self) -> nx.Graph:
        """The network as a networkx graph of spins: an edge for each coupling that is not zero."""
        made = nx.Graph(states=STATES)
        couplings = np.asarray(self.couplings, float)
        for name, bias in zip(self.units, np.asarray(self.biases, float), strict=True):
            made.add_node(name, bias=float(bias))
        for i, j in np.argwhere(np.triu(couplings)):
            made.add_edge(self.units[i], self.units[j], weight=float(couplings[i, j]))
        return made

    def factor_graph(self) -> FactorGraph:
        """The Boltzmann distribution p(s) ∝ exp(−E(s)) as a factor graph whose variables have the states −1 and +1."""
        signs = np.array([-1.0, 1.0])
        graph = self.graph()
        biases = [((name,), data["bias"] * signs) for name, data in graph.nodes(data=True) if data["bias"]]
        couplings = [((u, v), weight * np.outer(signs, signs)) for u, v, weight in graph.edges(data="weight")]
        return FactorGraph({name: (-1, 1) for name in self.units}, [*biases, *couplings])

    @property
    def num_units(self) -> int:
        """N."""
        return len(self.units)

    def energy(self, states: Num[Array, "*probe unit"]) -> Float[Array, "*probe"]:
        """E(s) of one state, or of each of several.

        Raises:
            ValueError: entries that are not ±1, or another number of units.

        Example:
            >>> import chainrule as cr
            >>> memory = cr.Hopfield.from_patterns([[1, 1, -1, -1]])
            >>> memory.energy([[1, 1, -1, -1], [1, -1, 1, -1]]).tolist()  # what was stored lies low
            [-1.5, 0.5]
        """
        return _energy(self, check_signs(states, "states", size=self.num_units))

    def recall(
        self,
        probe: Num[Array, "*probe unit"],
        *,
        key: Key[Array, ""] | None = None,
        synchronous: bool = False,
        max_sweeps: int = 100,
    ) -> Recall:
        """Follow the fields from a probe to a state that they hold in place.

        Args:
            probe: where to start, entries ±1: one state or several, shape (N,) or (probe, N).
            key: visit the units in a new random order each sweep; by default from 0 to N−1.
            synchronous: all units at once. The energy may rise then, and the end may be a circle of two states.
            max_sweeps: how often each unit may be visited at most.

        A unit whose field is zero, up to rounding, keeps its value. One by one, the energy never rises.

        Raises:
            ValueError: entries that are not ±1, another number of units, fewer than one sweep, or a key for synchronous
                updates, which have no order.
        """
        check_sweeps(max_sweeps)
        states = check_signs(probe, "probe", size=self.num_units)
        if synchronous and key is not None:
            raise ValueError("synchronous updates have no order: leave the key out")
        return _recall(self, states.astype(self.couplings.dtype), key, synchronous=synchronous, max_sweeps=max_sweeps)

    def __repr__(self):
        return f"Hopfield({self.num_units} units)"


@jax.jit
def _energy(network: Hopfield, states):
    columns = as_columns(states, network.couplings.dtype)
    return engine.pairwise_energy(network.couplings, network.biases, columns).reshape(states.shape[:-1])


@partial(jax.jit, static_argnames=("synchronous", "max_sweeps"))
def _recall(network: Hopfield, states, key, *, synchronous: bool, max_sweeps: int) -> Recall:
    columns = as_columns(states, network.couplings.dtype)
    if synchronous:
        walk = engine.synchronous(network.couplings, network.biases, columns, max_sweeps=max_sweeps)
    else:
        walk = engine.asynchronous(network.couplings, network.biases, columns, key, max_sweeps=max_sweeps)
    return result(walk, states.shape[:-1])


@partial(jax.jit, static_argnames="num_units")
def _spin_glass(key, num_units: int):
    upper = jnp.triu(jax.random.normal(key, (num_units, num_units)) / float(np.sqrt(num_units)), 1)
    return upper + upper.T


def _check_couplings(couplings: np.ndarray, units: tuple) -> None:
    check_numbers(couplings, lambda place: f"the coupling of {units[place[0]]!r} and {units[place[1]]!r}")
    loops = np.flatnonzero(np.diag(couplings))
    if len(loops):
        i = loops[0]
        raise ValueError(
            f"unit {units[i]!r} is coupled to itself, by {couplings[i, i]:g}; self-loops break the descent of the energy: "
            "set the diagonal to zero"
        )
    apart = abs(couplings - couplings.T)
    i, j = np.unravel_index(apart.argmax(), apart.shape)
    if apart[i, j] > 1e-6 * abs(couplings).max():
        raise ValueError(
            f"couplings are not symmetric: {units[i]!r} to {units[j]!r} is {couplings[i, j]:g}, back it is "
            f"{couplings[j, i]:g}; without symmetry there is no energy. (W + W.T) / 2 is the nearest that has one"
        )
