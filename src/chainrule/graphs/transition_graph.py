"""Transition graphs: the states of a Markov chain or a decision process as nodes, what may follow as edges.

An edge u → v of an `nx.DiGraph` is a step of a Markov chain and carries `probability`, p(v | u). An edge of an
`nx.MultiDiGraph` also names an `action` and is one outcome of a Markov decision process: it carries p(v | u, action)
and the `reward` it pays. A missing edge is a structural zero, a step that cannot happen. A graph without any
probability is a pure structure: it says which steps are allowed and leaves their probabilities to be learnt.
"""

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import ArrayLike, Bool, Float, Int

from ..forms.transitions import Transitions
from .labels import first_duplicate, lookup

if TYPE_CHECKING:
    import networkx as nx

_TOLERANCE = 1e-6  # how far a row may be from summing to one


@dataclass(frozen=True, eq=False, repr=False)
class TransitionGraph:
    """States and the steps between them; made by `from_networkx` or `from_matrix`.

    Attributes:
        states: the node labels; the index of a state is its place here.
        actions: the action labels in order of first appearance; empty for a Markov chain.
        source, target, action: indices of every edge, shape (E,); `action` is all zeros for a chain.
        probability: of every edge, shape (E,), or None for a pure structure.
        reward: of every edge, shape (E,).
        initial: probability of starting in each state, shape (S,), or None where the graph does not say.
        terminal: True for the states where a decision process ends, shape (S,).
        graph: the networkx graph it was read from, or None.

    Raises:
        ValueError: see `from_networkx`.

    Example:
        >>> import chainrule as cr, networkx as nx
        >>> graph = nx.DiGraph()
        >>> steps = [("sun", "sun", 0.8), ("sun", "rain", 0.2), ("rain", "rain", 0.6), ("rain", "sun", 0.4)]
        >>> graph.add_weighted_edges_from(steps, weight="probability")
        >>> weather = cr.TransitionGraph.from_networkx(graph)
        >>> weather
        TransitionGraph(2 states)
        >>> weather.matrix[weather.index("sun"), weather.index("rain")].item()
        0.2
    """

    states: tuple[Hashable, ...]
    actions: tuple[Hashable, ...]
    source: Int[np.ndarray, " edge"]
    target: Int[np.ndarray, " edge"]
    action: Int[np.ndarray, " edge"]
    probability: Float[np.ndarray, " edge"] | None
    reward: Float[np.ndarray, " edge"]
    initial: Float[np.ndarray, " state"] | None
    terminal: Bool[np.ndarray, " state"]
    graph: "nx.DiGraph | None" = None
    _positions: dict[Hashable, int] = field(init=False)

    def __post_init__(self):
        if not self.states:
            raise ValueError("the graph is empty; a transition graph needs at least one state")
        if (twice := first_duplicate(self.states)) is not None:
            raise ValueError(f"state {twice!r} is there twice")
        object.__setattr__(self, "_positions", {state: i for i, state in enumerate(self.states)})
        self._check_initial()
        self._check_edges()
        self._check_rows()

    @classmethod
    def from_networkx(cls, graph: "nx.DiGraph", *, probability: str = "probability") -> "TransitionGraph":
        """Read a networkx graph; the order of its nodes is the order of the states.

        Args:
            graph: an `nx.DiGraph` (Markov chain), with a `probability` on each edge or on none; or an
                `nx.MultiDiGraph` (decision process), whose edges have an `action` and may have a `reward`, else 0.
                Nodes may have `initial` (start probability, 0 where absent if any node has one) and, in a decision
                process, `terminal`. Other attributes are kept and not looked at.
            probability: the edge attribute that holds the probabilities, for example "weight".

        Raises:
            ValueError: an undirected or empty graph; a probability outside [0, 1], or on some edges only; an edge
                without action; the same (source, target, action) twice; a row, or `initial`, that does not sum to
                one within 1e-6; a state that leads nowhere; a terminal state that leads somewhere. The message names
                the node or the edge.

        Example:
            >>> import chainrule as cr, networkx as nx
            >>> graph = nx.MultiDiGraph()
            >>> graph.add_node("broken", terminal=True)
            >>> _ = graph.add_edge("works", "works", action="run", probability=0.9, reward=1.0)
            >>> _ = graph.add_edge("works", "broken", action="run", probability=0.1)
            >>> _ = graph.add_edge("works", "works", action="rest", probability=1.0)
            >>> cr.TransitionGraph.from_networkx(graph)
            TransitionGraph(2 states, 2 actions)
        """
        import networkx as nx

        if not isinstance(graph, nx.Graph) or not graph.is_directed():
            raise ValueError(
                f"a transition graph is read from nx.DiGraph (Markov chain) or nx.MultiDiGraph (decision process), got "
                f"an undirected {type(graph).__name__}; graph.to_directed() makes two edges of each"
                if isinstance(graph, nx.Graph)
                else f"a transition graph is read from nx.DiGraph or nx.MultiDiGraph, got {type(graph).__name__}"
            )
        decides = graph.is_multigraph()
        positions = {state: i for i, state in enumerate(graph)}
        nodes, edges = list(graph.nodes(data=True)), list(graph.edges(data=True))
        attributes = [data for _, _, data in edges]

        def name(edge):
            u, v, data = edges[edge]
            return _edge_name(u, v, data.get("action") if decides else None)

        actions, action = _read_actions(attributes, name) if decides else ((), np.zeros(len(edges), int))
        probabilities = _read_numbers(attributes, probability, name)
        rewards = _read_numbers(attributes, "reward", name, default=0.0)
        initial = _read_numbers([data for _, data in nodes], "initial", lambda i: f"node {nodes[i][0]!r}", default=0.0)
        return cls(
            states=tuple(graph),
            actions=actions,
            source=np.array([positions[u] for u, _, _ in edges], int),
            target=np.array([positions[v] for _, v, _ in edges], int),
            action=action,
            probability=probabilities,
            reward=np.zeros(len(edges)) if rewards is None else rewards,
            initial=initial,
            terminal=np.array([decides and bool(data.get("terminal", False)) for _, data in nodes], bool),
            graph=graph.copy(),
        )

    @classmethod
    def from_matrix(
        cls,
        matrix: Float[ArrayLike, "state state"] | Bool[ArrayLike, "state state"],
        states: Iterable[Hashable] | None = None,
        *,
        initial: Float[ArrayLike, " state"] | None = None,
    ) -> "TransitionGraph":
        """Make the graph of a Markov chain from its transition matrix.

        Args:
            matrix: `matrix[i, j]` is the probability of going from i to j, shape (S, S), zeros becoming missing edges;
                or booleans, True where a step is allowed, for a pure structure. Values in less than float64 are
                rescaled in float64 by what their rounding left in the row's sum, at most 1e-5.
            states: the labels, 0 … S−1 if None.
            initial: probability of starting in each state, shape (S,).

        Raises:
            ValueError: a matrix that is not square, labels that do not fit it, and as `from_networkx`.

        Example:
            >>> import chainrule as cr
            >>> graph = cr.TransitionGraph.from_matrix([[0.9, 0.1], [0.5, 0.5]], ["sun", "rain"])
            >>> graph.to_networkx().edges["sun", "rain"]
            {'probability': 0.1}
        """
        values = np.asarray(matrix)
        if values.ndim != 2 or values.shape[0] != values.shape[1]:
            raise ValueError(f"a transition matrix has shape (S, S), got {values.shape}")
        labels = tuple(range(len(values))) if states is None else tuple(states)
        if len(labels) != len(values):
            raise ValueError(f"got {len(labels)} labels for a matrix of shape {values.shape}")
        probs = None if values.dtype == bool else _in_float64(values)
        source, target = np.nonzero(values)
        start = None if initial is None else _in_float64(np.asarray(initial))
        if start is not None and start.shape != (len(labels),):
            raise ValueError(f"initial has shape {start.shape}; {len(labels)} states ask for ({len(labels)},)")
        return cls(
            states=labels,
            actions=(),
            source=source,
            target=target,
            action=np.zeros(len(source), int),
            probability=None if probs is None else probs[source, target],
            reward=np.zeros(len(source)),
            initial=start,
            terminal=np.zeros(len(labels), bool),
        )

    def to_networkx(self) -> "nx.DiGraph":
        """Return a new networkx graph, with every attribute of the one this was read from."""
        import networkx as nx

        if self.graph is not None:
            return self.graph.copy()
        graph = nx.MultiDiGraph() if self.actions else nx.DiGraph()
        graph.add_nodes_from(self.states)
        if self.initial is not None:
            nx.set_node_attributes(graph, dict(zip(self.states, self.initial.tolist(), strict=True)), "initial")
        nx.set_node_attributes(graph, {self.states[s]: True for s in np.flatnonzero(self.terminal)}, "terminal")
        probs = [None] * len(self.source) if self.probability is None else self.probability.tolist()
        columns = (self.source.tolist(), self.target.tolist(), self.action.tolist(), probs, self.reward.tolist())
        for u, v, action, prob, reward in zip(*columns, strict=True):
            data = {} if prob is None else {"probability": prob}
            if self.actions:
                data |= {"action": self.actions[action], "reward": reward}
            graph.add_edge(self.states[u], self.states[v], **data)
        return graph

    @property
    def num_states(self) -> int:
        """How many states there are."""
        return len(self.states)

    @property
    def mask(self) -> Bool[np.ndarray, "state state"]:
        """True where there is an edge, under any action."""
        mask = np.zeros((self.num_states, self.num_states), bool)
        mask[self.source, self.target] = True
        return mask

    @property
    def matrix(self) -> Float[np.ndarray, "state state"] | None:
        """Transition matrix, `matrix[i, j]` from i to j; None for a pure structure and for a decision process.

        A decision process has one matrix per action: see `compile`.
        """
        if self.probability is None or self.actions:
            return None
        matrix = np.zeros((self.num_states, self.num_states))
        matrix[self.source, self.target] = self.probability
        return matrix

    def index(self, label: Hashable) -> int:
        """Return the index of a state.

        Raises:
            ValueError: an unknown label; the message names those nearest to it.
        """
        return lookup("state", label, self._positions)

    def compile(self, *, discount: float = 1.0) -> Transitions:
        """Compile to the arrays that the Bellman engines run on; a chain becomes a process of one action.

        The probabilities are stored dense, or padded to the largest number of successors b where 4b ≤ S.

        Args:
            discount: γ in [0, 1]; 1 means undiscounted.

        Raises:
            ValueError: a pure structure, which has no probabilities to compile.

        Example:
            >>> import chainrule as cr
            >>> cr.TransitionGraph.from_matrix([[0.9, 0.1], [0.5, 0.5]]).compile(discount=0.9)
            Transitions(2 states, 1 actions, dense)
        """
        if self.probability is None:
            raise ValueError("the graph is a pure structure: give its edges a probability each before compiling it")
        shape = (self.num_states, max(len(self.actions), 1))
        row, counts = self._rows()
        width = int(counts.max(initial=0))
        successors = None
        if 4 * width <= self.num_states:
            order = np.argsort(row, kind="stable")
            slot = np.empty_like(row)
            slot[order] = np.arange(len(row)) - (np.cumsum(counts) - counts)[row[order]]
            probs, successors = np.zeros((counts.size, width)), np.zeros((counts.size, width), np.int32)
            probs[row, slot], successors[row, slot] = self.probability, self.target
            successors = successors.reshape(*shape, width)
        else:
            width = self.num_states
            probs = np.zeros((counts.size, width))
            probs[row, self.target] = self.probability
        return Transitions(
            probs.reshape(*shape, width),
            np.bincount(row, self.probability * self.reward, minlength=counts.size).reshape(shape),
            successors=successors,
            mask=(counts > 0).reshape(shape),
            terminal=self.terminal,
            discount=discount,
        )

    def __repr__(self):
        actions = f", {len(self.actions)} actions" if self.actions else ""
        return f"TransitionGraph({self.num_states} states{actions})"

    def _rows(self):
        """Return the number of each edge's (state, action) pair, and how many edges each pair has."""
        num_actions = max(len(self.actions), 1)
        row = self.source * num_actions + self.action
        return row, np.bincount(row, minlength=self.num_states * num_actions)

    def _name(self, edge):
        action = self.actions[self.action[edge]] if self.actions else None
        return _edge_name(self.states[self.source[edge]], self.states[self.target[edge]], action)

    def _check_initial(self):
        if self.initial is None:
            return
        _check_unit_interval(self.initial, "initial", lambda i: f"state {self.states[i]!r}")
        if abs(self.initial.sum() - 1) > _TOLERANCE:
            raise ValueError(f"the initial probabilities sum to {self.initial.sum():.8g} over all states, not 1")

    def _check_edges(self):
        row, _ = self._rows()
        _, first, count = np.unique(row * self.num_states + self.target, return_index=True, return_counts=True)
        if (count > 1).any():
            raise ValueError(f"{self._name(first[count > 1][0])} is there more than once; add the probabilities up")
        if not (finite := np.isfinite(self.reward)).all():
            edge = int(np.argmin(finite))
            raise ValueError(f"{self._name(edge)} has reward {self.reward[edge]}; rewards are finite")
        leaves = self.terminal[self.source] & ((self.source != self.target) | (self.reward != 0))
        if leaves.any():
            edge = int(np.argmax(leaves))
            raise ValueError(
                f"state {self.states[self.source[edge]]!r} is terminal but has {self._name(edge)}; a terminal state "
                "has no edges, or self-loops that pay nothing"
            )

    def _check_rows(self):
        row, counts = self._rows()
        stuck = counts.reshape(self.num_states, -1).sum(axis=1) == 0
        stuck &= ~self.terminal
        if stuck.any():
            state = self.states[int(np.argmax(stuck))]
            advice = "mark it terminal=True" if self.actions else "add a self-loop if it is absorbing"
            raise ValueError(f"state {state!r} has no outgoing edges; {advice}")
        if self.probability is None:
            return
        _check_unit_interval(self.probability, "probability", self._name)
        sums = np.bincount(row, self.probability, minlength=counts.size)
        wrong = (counts > 0) & (np.abs(sums - 1) > _TOLERANCE)
        if wrong.any():
            bad = int(np.argmax(wrong))
            state, action = divmod(bad, max(len(self.actions), 1))
            under = f" under action {self.actions[action]!r}" if self.actions else ""
            raise ValueError(f"probabilities out of state {self.states[state]!r}{under} sum to {sums[bad]:.8g}, not 1")


def _edge_name(u, v, action=None) -> str:
    return f"edge {u!r} → {v!r}" + ("" if action is None else f" under action {action!r}")


def _read_actions(attributes: list[dict], name: Callable[[int], str]) -> tuple[tuple[Hashable, ...], np.ndarray]:
    """Return the action labels in order of first appearance, and the index of each edge's action."""
    positions: dict[Hashable, int] = {}
    action = np.zeros(len(attributes), int)
    for edge, data in enumerate(attributes):
        if data.get("action") is None:
            raise ValueError(
                f"{name(edge)} has no action; every edge of an nx.MultiDiGraph needs one; a Markov chain "
                "is an nx.DiGraph"
            )
        action[edge] = positions.setdefault(data["action"], len(positions))
    return tuple(positions), action


def _read_numbers(
    attributes: list[dict], key: str, name: Callable[[int], str], default: float | None = None
) -> np.ndarray | None:
    """Read one attribute of all nodes or edges into an array; None where nothing carries it."""
    values = [data.get(key) for data in attributes]
    if (absent := values.count(None)) == len(values):
        return None
    if absent:
        if default is None:
            raise ValueError(
                f"{name(values.index(None))} has no {key} but others do; give it to all edges, or to none of them for "
                "a pure structure"
            )
        values = [default if value is None else value for value in values]
    try:
        return np.array(values, np.float64).reshape(len(values))
    except (TypeError, ValueError):
        bad = next(i for i, value in enumerate(values) if not _is_number(value))
        raise ValueError(f"{name(bad)} has {key} {values[bad]!r}, which is not a number") from None


def _is_number(value) -> bool:
    try:
        return np.asarray(value, np.float64).ndim == 0
    except (TypeError, ValueError):
        return False


def _check_unit_interval(values: np.ndarray, what: str, name: Callable[[int], str]):
    valid = (values >= 0) & (values <= 1 + _TOLERANCE)  # NaN is not valid either
    if not valid.all():
        bad = int(np.argmin(valid))
        raise ValueError(f"{name(bad)} has {what} {values[bad]}, outside [0, 1]")


def _in_float64(values: np.ndarray) -> np.ndarray:
    """Probabilities in float64; what rounding to a lower precision did to the sums is undone, larger errors stay."""
    probs = values.astype(np.float64)
    if values.dtype == np.float64 or not np.issubdtype(values.dtype, np.floating):
        return probs
    sums = probs.sum(axis=-1, keepdims=True)
    return np.where(np.abs(sums - 1) <= 1e-5, probs / np.where(sums == 0, 1.0, sums), probs)
