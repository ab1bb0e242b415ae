"""First-order Markov chains.

    p(z₀ … z_{T−1}) = initial[z₀] · Π_{t≥1} transition[z_{t−1}, z_t],      transition[i, j] = p(next is j | now i).

Reference: Norris (1997), "Markov Chains", chapter 1.
"""

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from ..forms.chain import is_concrete
from ..forms.checks import check_key, whole
from ..forms.sequences import Sequences
from ..graphs.labels import first_duplicate
from ..graphs.transition_graph import TransitionGraph
from ..inference.compiling import jit
from ..inference.logspace import safe_log
from ..learning.fit import Fit, Status
from .data import prepare
from .emissions.base import as_parameter, generator

if TYPE_CHECKING:
    import networkx as nx


class MarkovChain(eqx.Module):
    """A Markov chain over named states.

    Args:
        initial: p(z₀), shape (K,).
        transition: p(z_t = j | z_{t−1} = i) at [i, j], shape (K, K), rows summing to one.
        states: names of the states, any hashable values; 0 … K−1 by default.

    Sequences are lists of state names, or arrays of indices; several at once as a list of them.

    Raises:
        ValueError: probabilities that are negative, NaN or do not sum to one (with the row's name), or wrong shapes.

    Example:
        >>> import chainrule as cr
        >>> weather = cr.MarkovChain([.5, .5], [[.8, .2], [.4, .6]], states=("sun", "rain"))
        >>> weather
        MarkovChain(2 states)
        >>> [round(float(p), 4) for p in weather.stationary()]
        [0.6667, 0.3333]
        >>> round(float(weather.log_prob(["sun", "sun", "rain"])), 4)
        -2.5257
    """

    initial: Float[Array, " state"]
    transition: Float[Array, "state state"]
    states: tuple[Hashable, ...] = eqx.field(static=True)

    def __init__(self, initial, transition, states: Sequence[Hashable] | None = None):
        initial, transition = as_probabilities(initial), as_probabilities(transition)
        check_chain(initial, transition, states)
        self.initial, self.transition = as_parameter(initial), as_parameter(transition)
        self.states = tuple(range(len(self.initial))) if states is None else tuple(states)

    @classmethod
    def random(cls, key: Key[Array, ""], num_states: int, *, states: Sequence[Hashable] | None = None) -> "MarkovChain":
        """A chain whose probabilities are drawn uniformly from the simplex."""
        num_states = whole(num_states, "num_states", why="a chain needs at least one state")
        check_key(key, "MarkovChain.random")
        rows = generator(key).dirichlet(np.ones(num_states), num_states + 1)
        return cls(rows[0], rows[1:], states)

    @classmethod
    def from_graph(cls, graph: "nx.DiGraph | TransitionGraph") -> "MarkovChain":
        """The chain that a graph describes; edges carry `probability`, nodes may carry `initial` (uniform otherwise).

        A graph without probabilities is a structure: every edge out of a node becomes equally likely.
        """
        graph, initial, matrix = chain_from_graph(graph, None)
        return cls(initial, matrix, graph.states)

    @classmethod
    def from_sequences(
        cls, sequences, *, states: Sequence[Hashable] | None = None, smoothing: float = 0.0
    ) -> "MarkovChain":
        """Learn a chain from sequences of names (or indices), whose states are those that occur, sorted.

        Args:
            sequences: one sequence, or a list of sequences.
            states: the states and their order, where some may not occur.
            smoothing: as in `fit`.
        """
        if states is None:
            found = {s for sequence in _several(sequences) for s in _entries(sequence)}
            states = sorted(found, key=lambda s: (str(type(s)), s))
        size = len(states)
        if size == 0:
            raise ValueError("no sequences: there is nothing to learn states from")
        start = cls(np.full(size, 1 / size), np.full((size, size), 1 / size), states)
        return start.fit(sequences, smoothing=smoothing, strict=True).model

    def graph(self) -> "nx.DiGraph":
        """The chain as a networkx graph: an edge for each step that is possible."""
        return chain_graph(self.initial, self.transition, self.states)

    @property
    def num_states(self) -> int:
        """K."""
        return len(self.states)

    def log_prob(self, data) -> Any:
        """Log p of one sequence, or of each of several. Differentiable by the parameters.

        Traced arrays are indices of states; what is none is impossible, and has log-probability −inf.

        Raises:
            ValueError: a state that the chain does not have, or an empty sequence; the message names the place.

        Example:
            >>> import chainrule as cr
            >>> weather = cr.MarkovChain([.5, .5], [[.8, .2], [.4, .6]], states=("sun", "rain"))
            >>> print(weather.log_prob([["sun", "sun"], ["rain"]]).round(4))
            [-0.9163 -0.6931]
        """
        batch = prepare(self._indices(data), 0)
        return batch.per_sequence(_log_prob(self, batch.sequences))

    def sample(self, key: Key[Array, ""], length: int, num_samples: int | None = None) -> Int[Array, "*sample time"]:
        """Draw state indices, shape (length,), or (num_samples, length).

        Example:
            >>> import jax, chainrule as cr
            >>> weather = cr.MarkovChain([1., 0.], [[0., 1.], [1., 0.]], states=("sun", "rain"))
            >>> weather.labels(weather.sample(jax.random.key(0), 3)).tolist()
            ['sun', 'rain', 'sun']
        """
        length = whole(length, "length", why="a sequence has at least one step")
        count = 1 if num_samples is None else whole(num_samples, "num_samples", why="ask for at least one")
        uniform = jax.random.uniform(key, (length, count), self.initial.dtype)
        drawn = sample_states(self.initial, self.transition, uniform)
        return drawn[0] if num_samples is None else drawn

    def labels(self, indices) -> np.ndarray:
        """State indices as names."""
        table = np.empty(self.num_states, object)
        table[:] = self.states
        return table[np.asarray(indices)]

    def stationary(self) -> Float[np.ndarray, " state"]:
        """The distribution π with π = π · transition, in float64.

        By state reduction without subtractions (Grassmann, Taksar and Heyman 1985): every entry has full relative
        accuracy, however small. States that are left for good have probability zero.

        Raises:
            ValueError: the chain has several closed classes, and so no unique stationary distribution.

        Example:
            >>> import chainrule as cr
            >>> print(cr.MarkovChain([.5, .5], [[.8, .2], [.4, .6]]).stationary().round(3))
            [0.667 0.333]
        """
        import networkx as nx

        matrix = np.asarray(self.transition, np.float64)
        closed = list(nx.attracting_components(nx.from_numpy_array(matrix > 0, create_using=nx.DiGraph)))
        if len(closed) > 1:
            named = [sorted((self.states[i] for i in c), key=str) for c in closed]
            raise ValueError(f"no unique stationary distribution: the chain has {len(closed)} closed classes, {named}")
        members = sorted(closed[0])
        found = np.zeros(self.num_states)
        found[members] = _reduce_states(matrix[np.ix_(members, members)])
        return found

    def fit(self, data, *, smoothing: float = 0.0, strict: bool = False) -> Fit:
        """Learn the probabilities from counts: (count + smoothing) / (total + smoothing · possible).

        This is the mean of the posterior under Dirichlet(smoothing) rows; 0 is maximum likelihood. Steps that this chain
        forbids stay forbidden.

        Args:
            data: one sequence, or a list of sequences of any lengths.
            smoothing: pseudo-count of every possible start and step, ≥ 0.
            strict: whether a state that is never left in the data is an error rather than keeping its row.

        Raises:
            ValueError: a negative smoothing, an unknown state, a step in the data that is forbidden, or (if strict) a
                state without steps.

        Example:
            >>> import chainrule as cr
            >>> start = cr.MarkovChain([.5, .5], [[.5, .5], [.5, .5]], states=("sun", "rain"))
            >>> fit = start.fit([["sun", "sun", "rain", "sun"], ["sun", "rain"]])
            >>> [[round(float(p), 2) for p in row] for row in fit.model.transition]
            [[0.33, 0.67], [1.0, 0.0]]
        """
        if not smoothing >= 0:
            raise ValueError(f"smoothing is {smoothing}; it must not be negative")
        sequences = prepare(self._indices(data), 0).sequences
        starts, steps = count_steps(sequences, self.num_states)
        initial, transition = np.asarray(self.initial, float), np.asarray(self.transition, float)
        forbidden = np.argwhere((transition == 0) & (steps > 0))
        if len(forbidden):
            i, j = (self.states[k] for k in forbidden[0])
            raise ValueError(f"the data step from {i!r} to {j!r}, which this chain forbids")
        if (starts[initial == 0] > 0).any():
            name = self.states[int(np.argmax((initial == 0) & (starts > 0)))]
            raise ValueError(f"a sequence starts in {name!r}, which this chain forbids")
        free = int((initial > 0).sum() - 1 + (transition > 0).sum() - self.num_states)
        silent = steps.sum(1) + smoothing == 0
        if strict and silent.any():
            name = self.states[int(np.argmax(silent))]
            raise ValueError(f"state {name!r} is never left in the data: give smoothing > 0")
        steps = steps + smoothing * (transition > 0)
        starts = starts + smoothing * (initial > 0)
        transition = np.where(silent[:, None], transition, steps / np.where(silent, 1, steps.sum(1))[:, None])
        model = MarkovChain(starts / starts.sum(), transition, self.states)
        log_prob = float(np.sum(np.asarray(_log_prob(model, sequences), float)))
        return Fit(
            model=model,
            status=Status.DEGENERATE if silent.any() else Status.CONVERGED,
            iterations=1,
            log_prob=log_prob,
            history=np.array([log_prob]),
            restart_objectives=np.array([log_prob]),
            degenerate=silent,
            num_parameters=free,
            num_observations=sequences.num_steps,
        )

    def _indices(self, data):
        """Names to indices; traced arrays pass through, and sequences already packed once they are checked."""
        if isinstance(data, Sequences):
            if is_concrete(data.values):
                self._check(data)
            return data
        if not is_concrete(data):
            return data
        known = {name: i for i, name in enumerate(self.states)}
        several = _is_several(data)
        found = []
        for n, sequence in enumerate(data if several else [data]):
            entries = _entries(sequence)
            if not entries:
                raise ValueError(f"sequence {n} is empty; leave it out")
            for t, entry in enumerate(entries):
                if entry not in known:
                    raise ValueError(f"sequence {n}, step {t}: {entry!r} is not a state; they are {list(self.states)}")
            found.append(np.array([known[e] for e in entries], np.int32))
        return found if several else found[0]

    def _check(self, data: Sequences):
        """Refuse packed values that are no indices of states, with the place of the first."""
        if data.event_shape:
            raise ValueError(f"a sequence of states has shape (time,), got (time, {str(data.event_shape)[1:]}")
        for n, values in enumerate(data.unpack(np.asarray(data.values))):
            wrong = ~np.isin(values, np.arange(self.num_states))
            if wrong.any():
                t = int(np.argmax(wrong))
                raise ValueError(
                    f"sequence {n}, step {t}: {values[t]} is not the index of a state; packed sequences hold indices, "
                    f"from 0 to {self.num_states - 1}"
                )

    def __repr__(self):
        return f"MarkovChain({self.num_states} states)"


def _is_several(data) -> bool:
    if isinstance(data, np.ndarray | jax.Array):
        return data.ndim > 1
    return len(data) > 0 and all(isinstance(x, list | np.ndarray | jax.Array) for x in data)


def _several(data):
    return data if _is_several(data) else [data]


def _entries(sequence) -> list:
    """The names in a sequence, as Python objects that can be looked up."""
    if isinstance(sequence, np.ndarray | jax.Array):
        return np.asarray(sequence).tolist()
    return [entry.item() if isinstance(entry, np.generic) else entry for entry in sequence]


@jit
def _log_prob(model, data: Sequences):
    values, size = jnp.asarray(data.values), model.initial.shape[0]
    known = (values >= 0) & (values < size)  # only traced data can hold anything else
    if jnp.issubdtype(values.dtype, jnp.floating):
        known = known & (values == jnp.floor(values))
    now = jnp.where(known, values, 0).astype(jnp.int32)
    before = jnp.concatenate([now[:1], now[:-1]])
    terms = jnp.where(data.start, safe_log(model.initial)[now], safe_log(model.transition)[before, now])
    return data.totals(jnp.where(known, terms, -jnp.inf))


def count_steps(data: Sequences, num_states: int) -> tuple[np.ndarray, np.ndarray]:
    """How many sequences start in i, and how many steps go from i to j, on the host."""
    now, start, mask = (np.asarray(x) for x in (data.values, data.start, data.mask))
    starts = np.bincount(now[start & mask], minlength=num_states)
    inner = (mask & ~start)[1:]
    pairs = now[:-1][inner] * num_states + now[1:][inner]
    steps = np.bincount(pairs, minlength=num_states**2).reshape(num_states, num_states)
    return starts.astype(float), steps.astype(float)


@jit
def sample_states(initial, transition, uniform: Float[Array, "time sample"]) -> Int[Array, "sample time"]:
    """Walk a chain by inverse cumulative distributions."""
    edges = jnp.cumsum(jnp.concatenate([initial[None], transition]), axis=1)

    def step(origin, u):  # row 0 holds the start, row i + 1 the steps from state i
        row = edges[origin]
        state = (row <= u[:, None] * row[:, -1:]).sum(1, dtype=jnp.int32)
        return state + 1, state

    return jax.lax.scan(step, jnp.zeros(uniform.shape[1], jnp.int32), uniform)[1].T


def _reduce_states(matrix: np.ndarray) -> np.ndarray:
    work = matrix.copy()
    size = len(work)
    for n in range(size - 1, 0, -1):
        work[:n, n] /= work[n, :n].sum()
        work[:n, :n] += np.outer(work[:n, n], work[n, :n])
    found = np.ones(size)
    for n in range(1, size):
        found[n] = found[:n] @ work[:n, n]
    return found / found.sum()


# Shared with hidden Markov models


def as_probabilities(value):
    """An array of floats as the caller gave it; integers and lists become float64, so that sums are exact enough."""
    if hasattr(value, "dtype") and jnp.issubdtype(value.dtype, jnp.inexact):
        return value
    return np.asarray(value, float)


def check_chain(initial, transition, states) -> None:
    """Raise a ValueError that names what is wrong with a chain's probabilities or names."""
    if initial.ndim != 1 or initial.shape[0] == 0:
        raise ValueError(f"initial must have shape (state,), got {initial.shape}")
    size = initial.shape[0]
    if transition.shape != (size, size):
        raise ValueError(f"transition has shape {transition.shape}; initial's {size} states ask for ({size}, {size})")
    names = tuple(range(size)) if states is None else tuple(states)
    if len(names) != size:
        raise ValueError(f"{len(names)} names for {size} states")
    if (repeated := first_duplicate(names)) is not None:
        raise ValueError(f"the state name {repeated!r} appears twice")
    _check_sums(initial, ["the initial distribution"], names)
    _check_sums(transition, [f"the transition row of state {name!r}" for name in names], names)


def _check_sums(rows, titles, names) -> None:
    if not is_concrete(rows):
        return
    rows = np.atleast_2d(np.asarray(rows, np.float64))
    bad = np.argwhere(~((rows >= 0) & (rows <= 1 + 1e-5)))
    if len(bad):
        i, j = bad[0]
        raise ValueError(f"{titles[i]} gives {names[j]!r} the probability {rows[i, j]}")
    sums = rows.sum(1)
    wrong = np.flatnonzero(abs(sums - 1) > 1e-5)
    if len(wrong):
        raise ValueError(
            f"{titles[wrong[0]]} sums to {sums[wrong[0]]:.6g}, not 1; divide it by its sum if that is meant"
        )


def chain_from_graph(graph, key) -> tuple[TransitionGraph, np.ndarray, np.ndarray]:
    """The graph, initial distribution and transition matrix that a graph describes; structure is filled in."""
    if not isinstance(graph, TransitionGraph):
        graph = TransitionGraph.from_networkx(graph)
    if graph.actions:
        raise ValueError(f"the graph has actions {list(graph.actions)}: that is a decision process, not a chain")
    size, matrix, initial = graph.num_states, graph.matrix, graph.initial
    if matrix is None:
        weight = np.ones((size, size)) if key is None else generator(key).gamma(1.0, size=(size, size))
        matrix = np.where(graph.mask, weight, 0)
        matrix = matrix / matrix.sum(1, keepdims=True)
    return graph, np.full(size, 1 / size) if initial is None else initial, matrix


def chain_graph(initial, transition, states) -> "nx.DiGraph":
    """A chain as a networkx graph, with `initial` on the nodes and `probability` on the edges."""
    import networkx as nx

    made = nx.DiGraph()
    matrix = np.asarray(transition, float)
    for name, start in zip(states, np.asarray(initial, float), strict=True):
        made.add_node(name, initial=float(start))
    for i, j in np.argwhere(matrix > 0):
        made.add_edge(states[i], states[j], probability=float(matrix[i, j]))
    return made
