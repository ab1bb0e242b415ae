"""Factor graphs: a joint distribution as a product of small tables.

    p(x) = exp( Σ_f log_table_f[x_scope(f)] ) / Z

Each factor f scores the variables in its scope, in the order of the scope; the graph that joins every factor to its
variables is bipartite. Kschischang, Frey & Loeliger (2001), Factor graphs and the sum-product algorithm.
"""

import math
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import ArrayLike, Float

from .labels import first_duplicate, lookup

if TYPE_CHECKING:
    import networkx as nx

_MOST_JOINT_STATES = 2**20
_MOST_DIMENSIONS = 64  # of a NumPy array


class Factor(NamedTuple):
    """A table of log-potentials, `log_table[i, j, …]` for the i-th state of the first variable in `scope` and so on."""

    scope: tuple[Hashable, ...]
    log_table: Float[np.ndarray, "..."]


@dataclass(frozen=True, eq=False, repr=False)
class FactorGraph:
    """Variables with named states, and the factors that score them.

    Args:
        variables: the states of each variable by its name: names, or how many there are for states 0 … n−1.
        factors: scope and log-table of each factor by its name; or a list of such pairs, to be named "f0", "f1", …
            An axis of the table is as long as its variable has states; values may be −inf, but neither NaN nor +inf.
            An empty scope holds a constant.

    Variables and factors are nodes of one graph, so their names must differ. They are kept in the order given, as
    read-only mappings, tables in float64.

    Raises:
        ValueError: no variables; a variable with no states or the same state twice; a scope with an unknown or repeated
            variable; a table whose shape or values do not fit; a name used twice. The message names the variable or
            the factor.

    Example:
        >>> import numpy as np, chainrule as cr
        >>> graph = cr.FactorGraph(
        ...     {"rain": ("no", "yes"), "grass": ("dry", "wet")},
        ...     {
        ...         "forecast": (("rain",), np.log([0.8, 0.2])),
        ...         "wetting": (("rain", "grass"), np.log([[0.9, 0.1], [0.1, 0.9]])),
        ...     },
        ... )
        >>> graph
        FactorGraph(2 variables, 2 factors)
        >>> graph.enumerate().marginal("grass").round(2).tolist()
        [0.74, 0.26]
    """

    variables: Mapping[Hashable, tuple[Hashable, ...]]
    factors: Mapping[Hashable, Factor]

    def __init__(
        self,
        variables: Mapping[Hashable, Iterable[Hashable] | int],
        factors: Mapping[Hashable, tuple[Iterable[Hashable], ArrayLike]]
        | Iterable[tuple[Iterable[Hashable], ArrayLike]],
    ):
        if not isinstance(factors, Mapping):
            factors = {f"f{i}": factor for i, factor in enumerate(factors)}
        if not variables:
            raise ValueError("a factor graph needs at least one variable")
        states = {name: _read_states(name, values) for name, values in variables.items()}
        tables = {name: _read_factor(name, factor, states) for name, factor in factors.items()}
        if both := states.keys() & tables.keys():
            raise ValueError(f"{min(both, key=str)!r} names a variable and a factor; give the factor another name")
        object.__setattr__(self, "variables", MappingProxyType(states))
        object.__setattr__(self, "factors", MappingProxyType(tables))

    @classmethod
    def from_networkx(cls, graph: "nx.Graph") -> "FactorGraph":
        """Read a bipartite networkx graph.

        Args:
            graph: variable nodes have the attribute `states`, factor nodes `scope` (an order of their neighbours) and
                `log_table`; edges join factors to the variables of their scope.

        Raises:
            ValueError: a directed graph or multigraph; a node that is neither or both; an edge between two variables
                or two factors; a scope that differs from the neighbours; and as the constructor.

        Example:
            >>> import chainrule as cr, networkx as nx
            >>> graph = nx.Graph()
            >>> graph.add_node("coin", states=("heads", "tails"))
            >>> graph.add_node("bias", scope=("coin",), log_table=[0.0, -1.0])
            >>> graph.add_edge("bias", "coin")
            >>> cr.FactorGraph.from_networkx(graph)
            FactorGraph(1 variables, 1 factors)
        """
        import networkx as nx

        if not isinstance(graph, nx.Graph) or graph.is_directed() or graph.is_multigraph():
            raise ValueError(f"a factor graph is read from an undirected nx.Graph, got {type(graph).__name__}")
        variables, factors = {}, {}
        for node, data in graph.nodes(data=True):
            is_factor = "scope" in data and "log_table" in data
            if is_factor == ("states" in data):
                raise ValueError(
                    f"node {node!r} has attributes {sorted(map(str, data))}; a variable has states, a factor has scope "
                    "and log_table"
                )
            if is_factor:
                factors[node] = (_read_scope(node, data["scope"]), data["log_table"])
            else:
                variables[node] = data["states"]
        for u, v in graph.edges:
            if (u in factors) == (v in factors):
                kind = "factors" if u in factors else "variables"
                raise ValueError(f"edge {u!r} — {v!r} joins two {kind}; edges join a factor and a variable")
        for name, (scope, _) in factors.items():
            if set(scope) != set(graph[name]):
                raise ValueError(f"factor {name!r} has scope {scope!r} but neighbours {tuple(graph[name])!r}")
        return cls(variables, factors)

    def to_networkx(self) -> "nx.Graph":
        """Return a new bipartite networkx graph that `from_networkx` reads back.

        Nodes also carry networkx's `bipartite`, 0 for variables and 1 for factors.
        """
        import networkx as nx

        graph = nx.Graph()
        for name, states in self.variables.items():
            graph.add_node(name, bipartite=0, states=states)
        for name, (scope, log_table) in self.factors.items():
            graph.add_node(name, bipartite=1, scope=scope, log_table=log_table.copy())
            graph.add_edges_from((name, variable) for variable in scope)
        return graph

    def log_score(self, assignment: Mapping[Hashable, Hashable]) -> float:
        """Return the unnormalised log-probability of an assignment, one state name for each variable.

        Raises:
            ValueError: a variable without a state, an unknown variable, or an unknown state.

        Example:
            >>> import chainrule as cr
            >>> cr.FactorGraph({"coin": ("heads", "tails")}, [(("coin",), [0.5, -1.0])]).log_score({"coin": "tails"})
            -1.0
        """
        for name in assignment:
            lookup("variable", name, self.variables)
        index = {}
        for name, states in self.variables.items():
            if name not in assignment:
                raise ValueError(f"the assignment has no state for variable {name!r}")
            index[name] = lookup(f"state of {name!r}", assignment[name], {state: i for i, state in enumerate(states)})
        return float(sum(table[tuple(index[name] for name in scope)] for scope, table in self.factors.values()))

    def enumerate(self) -> "Enumeration":
        """Score every joint state: exact, slow, and what every engine is checked against.

        Raises:
            ValueError: more than 2²⁰ joint states.
        """
        shape = tuple(len(states) for states in self.variables.values())
        size = math.prod(shape)
        if size > _MOST_JOINT_STATES or len(shape) > _MOST_DIMENSIONS:
            raise ValueError(
                f"{len(shape)} variables have {_count(size)} joint states; enumeration stops at {_MOST_JOINT_STATES} "
                f"states and {_MOST_DIMENSIONS} variables, larger graphs need an inference engine"
            )
        axis = {name: i for i, name in enumerate(self.variables)}
        log_scores = np.zeros(shape)
        for scope, table in self.factors.values():
            axes = [axis[name] for name in scope]
            others = tuple(i for i in range(len(shape)) if i not in axes)
            log_scores += np.expand_dims(table.transpose(np.argsort(axes)), others)
        return _enumeration(self.variables, log_scores)

    def sample(
        self,
        key,
        num_samples: int | None = None,
        *,
        sweeps: int = 100,
        beta: float = 1.0,
        given: Mapping[Hashable, Hashable] | None = None,
    ):
        """Draw assignments by block Gibbs sampling: as many chains, each after `sweeps` sweeps from a random start.

        Args:
            key: random key; on CPUs `jax.random.key(seed, impl="philox2x32")` is fastest.
            num_samples: how many; None gives one without an axis of samples.
            sweeps: how long every chain runs. Strong factors make chains forget their start slowly; tables with −inf may
                keep them from some states for good, possible ones too, which nothing here can notice.
            beta: inverse temperature: samples are of p^β.
            given: states of some variables, by their names, that are held.

        Returns:
            Numbers of states, shape (sample, variable), variables in the order of `variables`.

        Raises:
            ValueError: an unknown variable or state, a β that is not positive, fewer than one sample or sweep, or a chain
                that has not come to an assignment of positive probability.

        Example:
            >>> import chainrule as cr, jax
            >>> graph = cr.FactorGraph({"coin": ("heads", "tails"), "die": 6}, [(("coin",), [0.0, -1.0])])
            >>> graph.sample(jax.random.key(0), 3, given={"coin": "tails"})[:, 0].tolist()
            [1, 1, 1]
        """
        from .compile import as_factors
        from .sampling import sample

        order, form = as_factors(self)
        number = {name: i for i, name in enumerate(order)}
        rank = np.array([number[name] for name in self.variables], np.int32)
        return sample(key, self.variables, rank, form, num_samples, sweeps, beta, given or {})

    def __repr__(self):
        return f"FactorGraph({len(self.variables)} variables, {len(self.factors)} factors)"


@dataclass(frozen=True, eq=False, repr=False)
class Enumeration:
    """Exact answers about a tiny graph.

    Attributes:
        variables: the states of each variable by its name.
        log_joint: log-probability of every joint state, an axis per variable; all −inf where nothing is possible.
        log_partition: log Z, −inf where nothing is possible.
        map: a most probable assignment, the first one if there are several.
        map_log_score: its unnormalised log-probability.
    """

    variables: Mapping[Hashable, tuple[Hashable, ...]]
    log_joint: Float[np.ndarray, "..."]
    log_partition: float
    map: dict[Hashable, Hashable]
    map_log_score: float

    def marginal(self, *names: Hashable) -> Float[np.ndarray, "..."]:
        """Return the joint probability table of some variables, an axis each in the order given.

        Raises:
            ValueError: an unknown or repeated variable, or a graph in which every assignment has score −inf.
        """
        axis = {name: i for i, name in enumerate(self.variables)}
        axes = [lookup("variable", name, axis) for name in names]
        if (twice := first_duplicate(names)) is not None:
            raise ValueError(f"variable {twice!r} is asked for twice")
        if self.log_partition == -np.inf:
            raise ValueError("every assignment has score -inf: there is no distribution to take a marginal of")
        others = tuple(i for i in range(len(axis)) if i not in axes)
        # after the sum the axes are in the graph's order; the rank of each name says where it went
        return np.exp(self.log_joint).sum(axis=others).transpose(np.argsort(np.argsort(axes)))

    def __repr__(self):
        return f"Enumeration({self.log_joint.size} joint states, log Z = {self.log_partition:.6g})"


def _enumeration(variables, log_scores) -> Enumeration:
    log_partition = float(np.logaddexp.reduce(log_scores, axis=None))
    best = np.unravel_index(np.argmax(log_scores), log_scores.shape)
    return Enumeration(
        variables,
        log_joint=log_scores if log_partition == -np.inf else log_scores - log_partition,
        log_partition=log_partition,
        map={name: states[i] for (name, states), i in zip(variables.items(), best, strict=True)},
        map_log_score=float(log_scores[best]),
    )


def _read_states(name, states) -> tuple[Hashable, ...]:
    if isinstance(states, str):
        raise ValueError(f"variable {name!r} has the text {states!r} for states; give a tuple of state names")
    states = tuple(range(states)) if isinstance(states, (int, np.integer)) else tuple(states)
    if not states:
        raise ValueError(f"variable {name!r} has no states")
    if (twice := first_duplicate(states)) is not None:
        raise ValueError(f"variable {name!r} has state {twice!r} twice")
    return states


def _read_scope(name, scope) -> tuple[Hashable, ...]:
    if isinstance(scope, str):
        raise ValueError(f"factor {name!r} has the text {scope!r} for scope; give a tuple of variables, ({scope!r},)")
    scope = tuple(scope)
    if (twice := first_duplicate(scope)) is not None:
        raise ValueError(f"factor {name!r} has variable {twice!r} twice in its scope")
    return scope


def _read_factor(name, factor, states) -> Factor:
    try:
        scope, log_table = factor
    except (TypeError, ValueError):
        raise ValueError(f"factor {name!r} is {type(factor).__name__}, wanted a pair (scope, log_table)") from None
    scope = _read_scope(name, scope)
    for variable in scope:
        try:
            lookup("variable", variable, states)
        except ValueError as error:
            raise ValueError(f"factor {name!r} has a scope with an {error}") from None
    try:
        table = np.array(log_table, np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"factor {name!r} has {log_table!r} for a table; wanted an array of numbers") from None
    wanted = tuple(len(states[variable]) for variable in scope)
    if table.shape != wanted:
        raise ValueError(f"factor {name!r} has a table of shape {table.shape}; its scope {scope!r} asks for {wanted}")
    valid = table < np.inf  # false for NaN too
    if not valid.all():
        bad = tuple(np.argwhere(~valid)[0])
        at = tuple(states[variable][i] for variable, i in zip(scope, bad, strict=True))
        raise ValueError(f"factor {name!r} has {table[bad]} at {at!r}; log-potentials are finite or -inf")
    table.flags.writeable = False
    return Factor(scope, table)


def _count(size: int) -> str:
    return str(size) if size < 10**9 else f"about 10^{len(str(size)) - 1}"
