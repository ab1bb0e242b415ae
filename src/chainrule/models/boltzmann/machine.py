"""Boltzmann machines: a probability for every state of two-valued variables on a graph.

    p(x) = exp(−E(x)) / Z,      E(x) = −Σ_{edges ij} w_ij x_i x_j − Σ_i b_i x_i − constant,

x_i ∈ {0, 1}, or {−1, 1} for Ising models. Some nodes may be hidden: the machine then is a distribution over the visible
ones, p(v) = Σ_h p(v, h). (Ackley, Hinton and Sejnowski 1985, A learning algorithm for Boltzmann machines.)
"""

import dataclasses
from collections.abc import Hashable, Iterable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import networkx as nx
import numpy as np
from jaxtyping import Array, Float, Int, Key

from ...forms.chain import is_concrete
from ...forms.layouts import as_floats
from ...forms.pairwise import Pairwise
from ...graphs.couplings import Couplings, compile_edges, read_constant, read_graph, read_states
from ...graphs.factor_graph import FactorGraph
from ...graphs.labels import lookup
from ...inference import annealing, tempering
from ...inference.mean_field import MeanField
from ...learning.fit import Fit
from ...learning.gradient import LBFGS
from ..masks import as_known
from . import engine, exact, learning
from .data import as_rows, as_state, as_stops, check_betas, ladder, uniform_lattice
from .pairs import Pairs


class BoltzmannMachine(eqx.Module):
    """A Boltzmann machine on any graph; make one with `from_graph`.

    Attributes:
        bias: b, shape (node,), in the order of `nodes`.
        weights: w of each edge, shape (edge,).
        constant: what every score −E is shifted by; it does not change probabilities.
        couplings: which nodes the edges join, compiled: colours, order and layout.
        nodes: names of the nodes.
        hidden: names of the nodes that data say nothing of.
        states: the two values of every node, (0, 1) or (−1, 1).

    Example:
        >>> import chainrule as cr, jax, networkx as nx
        >>> graph = nx.Graph([("a", "b", {"weight": 1.0}), ("b", "c", {"weight": -2.0})])
        >>> machine = cr.BoltzmannMachine.from_graph(graph, states=(-1, 1))
        >>> machine
        BoltzmannMachine(3 nodes, 2 edges, states (-1, 1))
        >>> machine.sample(jax.random.key(0), 5).shape
        (5, 3)
        >>> machine.energy([1, 1, -1]).item()
        -3.0
    """

    bias: Float[Array, " node"]
    weights: Float[Array, " edge"]
    constant: Float[Array, ""]
    couplings: Couplings
    nodes: tuple[Hashable, ...] = eqx.field(static=True)
    hidden: tuple[Hashable, ...] = eqx.field(static=True)
    states: tuple[int, int] = eqx.field(static=True)

    def __check_init__(self):
        if self.states not in ((0, 1), (-1, 1)):
            raise ValueError(f"states are {self.states!r}; wanted (0, 1) or (-1, 1)")
        for name, size in (("bias", len(self.nodes)), ("weights", self.couplings.ends.shape[1])):
            if getattr(self, name).shape != (size,):
                raise ValueError(f"{name} has shape {getattr(self, name).shape}; this graph asks for ({size},)")

    @classmethod
    def from_graph(
        cls, graph: nx.Graph, *, states: tuple[int, int] | None = None, hidden: Iterable[Hashable] | None = None
    ) -> "BoltzmannMachine":
        """The machine that a graph describes.

        Args:
            graph: nodes may carry `bias`, edges `weight` (0 where left out); positive weights make nodes agree. Nodes may
                carry `hidden=True`, the graph itself `states` and `constant`, as `graph()` writes them.
            states: (0, 1) or (−1, 1); by default what the graph says, or else (0, 1).
            hidden: names of hidden nodes, instead of the attribute.

        Raises:
            ValueError: a directed graph or multigraph, a self-loop, a bias or weight that is not finite, an unknown hidden
                node, no visible one, or states other than the graph's.
        """
        edges = read_graph(graph)
        said = read_states(graph)
        if said is not None and states is not None and said != tuple(states):
            raise ValueError(
                f"the graph's weights are for states {said}, not {tuple(states)}; graphs.formats.qubo converts"
            )
        values: Any = tuple(said or states or (0, 1))
        if hidden is None:
            hidden = tuple(node for node, flag in graph.nodes(data="hidden", default=False) if flag)
        hidden = tuple(hidden)
        known = dict.fromkeys(edges.labels)
        for name in hidden:
            lookup("hidden node", name, known)
        if len(set(hidden)) == len(edges.labels):
            raise ValueError("all nodes are hidden; data have to show some")
        return cls(
            as_floats(edges.bias),
            as_floats(edges.weights),
            jnp.asarray(read_constant(graph), float),
            compile_edges(len(edges.labels), edges.ends, labels=edges.labels),
            edges.labels,
            hidden,
            values,
        )

    @classmethod
    def random(
        cls,
        key: Key[Array, ""],
        graph: nx.Graph,
        *,
        scale: float = 0.01,
        states: tuple[int, int] | None = None,
        hidden: Iterable[Hashable] | None = None,
    ) -> "BoltzmannMachine":
        """The graph's edges with weights drawn from N(0, scale²) and no biases: where a fit may begin."""
        machine = cls.from_graph(graph, states=states, hidden=hidden)
        drawn = scale * jax.random.normal(key, machine.weights.shape, machine.weights.dtype)
        return eqx.tree_at(lambda m: (m.weights, m.bias), machine, (drawn, jnp.zeros_like(machine.bias)))

    @classmethod
    def from_factor_graph(cls, graph: FactorGraph, *, hidden: Iterable[Hashable] = ()) -> "BoltzmannMachine":
        """The machine over bits, 0 for a variable's first state, of a factor graph of pairs.

        A table of a pair is t₀₀ + (t₁₀ − t₀₀) x + (t₀₁ − t₀₀) x′ + (t₁₁ − t₁₀ − t₀₁ + t₀₀) x x′, so that nothing is lost.

        Raises:
            ValueError: a variable with other than two states, a factor of more than two variables or with −inf, for which
                `FactorGraph.sample` draws as well.
        """
        pairs = nx.Graph(constant=0.0)
        for name, values in graph.variables.items():
            if len(values) != 2:
                raise ValueError(
                    f"variable {name!r} has {len(values)} states, a node has two; FactorGraph.sample takes any"
                )
            pairs.add_node(name, bias=0.0)
        for name, (scope, table) in graph.factors.items():
            if len(scope) > 2 or not np.isfinite(table).all():
                raise ValueError(
                    f"factor {name!r} is of {len(scope)} variables or holds -inf; a machine has finite ones of at most "
                    "two, FactorGraph.sample takes any"
                )
            zero = float(table[(0,) * table.ndim])
            pairs.graph["constant"] += zero
            for place, variable in enumerate(scope):
                one = tuple(int(q == place) for q in range(len(scope)))
                pairs.nodes[variable]["bias"] += float(table[one]) - zero
            if len(scope) == 2:
                weight = float(table[1, 1] - table[1, 0] - table[0, 1] + table[0, 0])
                before = pairs[scope[0]][scope[1]]["weight"] if pairs.has_edge(*scope) else 0.0
                pairs.add_edge(*scope, weight=before + weight)
        return cls.from_graph(pairs, hidden=hidden)

    def graph(self) -> nx.Graph:
        """The machine as a networkx graph, which `from_graph` reads back."""
        graph = nx.Graph(states=self.states, constant=float(self.constant))
        hidden = set(self.hidden)
        for name, bias in zip(self.nodes, np.asarray(self.bias).tolist(), strict=True):
            graph.add_node(name, bias=bias, **({"hidden": True} if name in hidden else {}))
        for u, v, w in zip(*np.asarray(self.couplings.ends).tolist(), np.asarray(self.weights).tolist(), strict=True):
            graph.add_edge(self.nodes[u], self.nodes[v], weight=w)
        return graph

    def factor_graph(self) -> FactorGraph:
        """The machine as a factor graph: a table for each node, edge and the constant."""
        values = np.array(self.states, float)
        factors: dict[Any, Any] = {"constant": ((), float(self.constant))}
        for name, bias in zip(self.nodes, np.asarray(self.bias, float), strict=True):
            factors["bias", name] = ((name,), bias * values)
        for u, v, w in zip(*np.asarray(self.couplings.ends), np.asarray(self.weights, float), strict=True):
            pair = (self.nodes[u], self.nodes[v])
            factors["weight", *pair] = (pair, w * np.outer(values, values))
        return FactorGraph(dict.fromkeys(self.nodes, self.states), factors)

    @property
    def num_nodes(self) -> int:
        """How many nodes there are, hidden ones included."""
        return len(self.nodes)

    @property
    def visible(self) -> tuple[Hashable, ...]:
        """Names of the nodes that data show, in order: the columns of data."""
        hidden = set(self.hidden)
        return tuple(name for name in self.nodes if name not in hidden)

    @property
    def form(self) -> Pairwise:
        """The machine as what the engines work with, its nodes in the order of `couplings`."""
        return engine.form(self.couplings, self.bias, self.weights, self.constant, spins=self.states[0] < 0)

    def energy(self, x) -> Float[Array, "*row"]:
        """E of states of all nodes, hidden ones included, in the order of `nodes`: one (node,) or several (row, node)."""
        x, single = as_rows(x, self.num_nodes, self.states, "nodes")
        found = engine.energy(self.form, x, self.couplings.order)
        return found[0] if single else found

    def log_partition(self) -> Float[Array, ""]:
        """Log Z by enumeration.

        Raises:
            ValueError: more than 20 nodes; `annealed_log_partition` estimates it with error bars.
        """
        self._tiny("log Z")
        return exact.log_partition(self.form)

    def log_prob(self, data) -> Float[Array, "*row"]:
        """Log p of visible values, one row or several, exactly; differentiable by the parameters.

        Raises:
            ValueError: more than 20 nodes; values other than `states`.
        """
        self._tiny("a probability")
        rows, single = as_rows(data, len(self.visible), self.states, "visible nodes")
        found = exact.log_prob(self.form, rows, self._shown())
        return found[0] if single else found

    def annealed_log_partition(
        self, key: Key[Array, ""], *, chains: int = 100, stops: int = 1000, burn: int = 1000
    ) -> annealing.Sandwich:
        """Estimate log Z by annealed importance sampling, from below and from above.

        Args:
            key: random key of any implementation.
            chains: walks each way.
            stops: temperatures on the way from independent fair coins to the machine.
            burn: sweeps to the samples of the machine from which the walk back begins.

        Raises:
            ValueError: fewer than two chains or stops, or no sweep to burn.

        Example:
            >>> import chainrule as cr, jax, networkx as nx
            >>> machine = cr.BoltzmannMachine.from_graph(nx.path_graph(3))  # without weights: 2³ states
            >>> machine.annealed_log_partition(jax.random.key(0), chains=4, stops=3, burn=2)
            Sandwich(2.07944 to 2.07944, TIGHT)
        """
        for name, value, least in (("chains", chains, 2), ("stops", stops, 2), ("burn", burn, 1)):
            if value < least:
                raise ValueError(f"{name} is {value}; wanted at least {least}")
        return engine.sandwich(key, self.form, chains, np.linspace(0, 1, stops + 1, dtype=self.bias.dtype), burn)

    def sample(
        self,
        key: Key[Array, ""],
        num_samples: int | None = None,
        *,
        sweeps: int = 100,
        beta: float = 1.0,
        given: Mapping[Hashable, int] | None = None,
    ) -> Int[Array, "*sample node"]:
        """Draw states of all nodes: as many chains, each after `sweeps` sweeps from a random start.

        A torus such as `nx.grid_2d_graph(256, 256, periodic=True)`, with even sides, at least 1024 nodes, one weight and
        one bias, is drawn 32 chains at a time by a program of its own (`inference.packed_lattice`), which other such
        weights share.

        Args:
            key: random key; on CPUs `jax.random.key(seed, impl="philox2x32")` is fastest.
            num_samples: how many; None gives one without an axis of samples.
            sweeps: how long every chain runs. Chains of strongly coupled machines forget their start slowly.
            beta: inverse temperature: samples are of p^β.
            given: values of some nodes, by their names, that are held.

        Raises:
            ValueError: an unknown node, a value other than `states`, a β that is not finite, or fewer than one sample or
                sweep.
        """
        count = 1 if num_samples is None else num_samples
        if count < 1 or sweeps < 1:
            raise ValueError(f"num_samples is {count} and sweeps {sweeps}; at least one of each is needed")
        check_betas(beta)
        clamp, values = self._held(given)
        lattice = None if given else uniform_lattice(self)
        if lattice is not None:  # 32 chains in a word
            return engine.on_lattice(key, *lattice, count, sweeps, beta, single=num_samples is None)
        rank, single = self.couplings.rank, num_samples is None
        return engine.fresh(key, self.form, rank, count, sweeps, beta, clamp, values, single=single)

    def complete(self, key: Key[Array, ""], values, *, known, sweeps: int = 100) -> Any:
        """Draw what is not known of rows of visible values, given what is; known entries stay bit for bit.

        Args:
            key: random key.
            values: one row (visible,) or several (row, visible); entries that are not known may hold anything.
            known: true where an entry is known, of the same shape or one row for all.
            sweeps: how long to draw.

        Raises:
            ValueError: a mask that is not boolean or does not fit, known values that are masked or none of `states`, or
                fewer than one sweep.

        Example:
            >>> import chainrule as cr, jax, networkx as nx
            >>> pair = cr.BoltzmannMachine.from_graph(nx.Graph([("a", "b", {"weight": 50.0})]), states=(-1, 1))
            >>> pair.complete(jax.random.key(0), [-1, 0], known=[True, False]).tolist()
            [-1, -1]
        """
        if sweeps < 1:
            raise ValueError(f"sweeps is {sweeps}; at least one is needed")
        mask = np.ma.getmaskarray(values) if isinstance(values, np.ma.MaskedArray) else None
        values = np.asarray(values) if is_concrete(values) else values
        known = as_known(known, values.shape, mask)
        filled, single = as_rows(
            (jnp if isinstance(values, jax.Array) else np).where(known, values, self.states[0]),
            len(self.visible),
            self.states,
            "visible nodes",
        )
        found = engine.complete(key, self.form, filled, known.reshape(filled.shape), self._shown(), sweeps)
        if is_concrete(found) and isinstance(values, np.ndarray):  # on the host, in the caller's own dtype
            return np.where(known, values, np.asarray(found).astype(values.dtype).reshape(values.shape))
        found = found[0] if single else found
        return jnp.where(known, values, found.astype(jnp.asarray(values).dtype))

    def anneal(
        self,
        key: Key[Array, ""],
        num_chains: int = 32,
        *,
        sweeps: int = 1000,
        betas: Float[Array, " sweep"] | None = None,
        given: Mapping[Hashable, int] | None = None,
    ) -> tempering.Annealing:
        """Look for the state of lowest energy by simulated annealing: of a QUBO or Ising problem, its solution.

        Args:
            key: random key.
            num_chains: how many look, side by side.
            sweeps: how long each does.
            betas: an inverse temperature for each sweep, rising, instead of `sweeps`; by default in equal ratios from
                where the strongest field of a node hardly matters to where the root mean square of what is not zero among
                biases and weights decides.
            given: values of some nodes, by their names, that are held.

        Returns:
            `Annealing`: `states` (node, chain) and `best` (node,), nodes in the order of `nodes`, and `energies`.

        Raises:
            ValueError: an unknown node or value, temperatures that are not a finite vector, or fewer than one chain or
                sweep.

        Example:
            >>> import chainrule as cr, jax
            >>> from chainrule.graphs.formats.qubo import from_qubo
            >>> problem = from_qubo({("tea", "tea"): -1.0, ("milk", "milk"): -2.0, ("tea", "milk"): 4.0})
            >>> machine = cr.BoltzmannMachine.from_graph(problem)
            >>> found = machine.anneal(jax.random.key(0), sweeps=50)
            >>> dict(zip(machine.nodes, found.best.tolist())), found.energies.min().item()
            ({'tea': 0, 'milk': 1}, -2.0)
        """
        if num_chains < 1 or sweeps < 1:
            raise ValueError(f"num_chains is {num_chains} and sweeps {sweeps}; at least one of each is needed")
        rising: Any = ladder(self, sweeps) if betas is None else betas
        check_betas(rising, ndim=1)
        rising = as_stops(rising, self.bias.dtype)
        return engine.anneal(key, self.couplings, self.form, num_chains, rising, *self._held(given))

    def temper(
        self,
        key: Key[Array, ""],
        num_samples: int,
        *,
        num_chains: int = 1,
        betas: Float[Array, " beta"] | None = None,
        thin: int = 10,
        burn: int = 100,
    ) -> tempering.Tempering:
        """Draw states by parallel tempering, where chains of `sample` would stay in one of several modes.

        Args:
            key: random key.
            num_samples: how many records of each chain.
            num_chains: how many chains, each of which has a copy at every β.
            betas: the ladder, rising, whose last entry is recorded; by default the squares of 16 numbers from 0 to 1.
            thin: sweeps before each record.
            burn: about how many sweeps are left out at the start.

        Returns:
            `Tempering`: `records` (sample, chain, node), `states` (node, chain, β), nodes in the order of `nodes`, and
            `swap_rates`: where one is near 0, put more β between its two.

        Raises:
            ValueError: temperatures that are not a finite vector of two or more, or fewer than one sample, chain or sweep.

        Example:
            >>> import chainrule as cr, jax, networkx as nx
            >>> graph = nx.complete_graph(4)
            >>> nx.set_edge_attributes(graph, 2.0, "weight")
            >>> machine = cr.BoltzmannMachine.from_graph(graph, states=(-1, 1))  # all up or all down
            >>> found = machine.temper(jax.random.key(0), 3, num_chains=5)
            >>> found.records.shape
            (3, 5, 4)
        """
        for name, value, least in (("num_samples", num_samples, 1), ("num_chains", num_chains, 1), ("thin", thin, 1)):
            if value < least:
                raise ValueError(f"{name} is {value}; wanted at least {least}")
        rungs: Any = np.linspace(0, 1, 16) ** 2 if betas is None else betas
        check_betas(rungs, ndim=1)
        early = -(-max(burn, 0) // thin)
        rungs = as_stops(rungs, self.bias.dtype)
        return engine.temper(key, self.couplings, self.form, rungs, num_chains, early, num_samples, thin)

    def mean_field(
        self, *, given: Mapping[Hashable, int] | None = None, key: Key[Array, ""] | None = None
    ) -> MeanField:
        """Independent approximations to the marginals, with a lower bound on log Z.

        Args:
            given: values of some nodes that are held.
            key: draws the means to begin with; without one they begin slightly above the middle.

        Returns:
            `MeanField`, its means of one column in the order of `nodes`.
        """
        clamp, values = as_state(given or {}, self.nodes, self.states)
        middle = sum(self.states) / 2
        start = np.full(self.num_nodes, middle + 0.01)
        if key is not None:
            start = middle + np.asarray(jax.random.uniform(key, (self.num_nodes,), minval=-0.5, maxval=0.5), float)
        order = np.asarray(self.couplings.order)
        start = np.where(clamp, values, start)[order, None].astype(self.bias.dtype)
        return engine.independent(self.couplings, self.form, start, clamp[order, None])

    def fit(self, data, *, method: Any = None, key: Key[Array, ""] | None = None, progress: bool = False) -> Fit:
        """Fit biases and weights to rows of visible values.

        Args:
            data: shape (row, visible), of values in `states`.
            method: `LBFGS()`, which climbs the exact likelihood of up to 20 nodes, or `PCD()`, whose chains begin at the
                data; with `temperatures` they exchange with copies at lower β. By default the first where it can be.
            key: needed by `PCD`.
            progress: whether to show a bar.

        Returns:
            `Fit`. Its `log_prob` is NaN where the machine is too large for an exact one; its history holds the likelihood
            under `LBFGS`, and under `PCD` the mean log pseudo-likelihood of each epoch's last batch, hidden nodes drawn.

        Raises:
            ValueError: data that are not such rows, a method that does not fit, or no key for `PCD`.

        Example:
            >>> import chainrule as cr, networkx as nx, numpy as np
            >>> machine = cr.BoltzmannMachine.from_graph(nx.Graph([("rain", "mud")]))
            >>> fit = machine.fit([[0, 0]] * 5 + [[1, 1]] * 3 + [[0, 1], [1, 0]])
            >>> np.exp(fit.model.log_prob([[0, 0], [1, 1], [0, 1]])).astype(float).round(2).tolist()
            [0.5, 0.3, 0.1]
        """
        tiny = self.num_nodes <= exact.MOST
        method = learning.choose(method, key, tiny=tiny)
        if isinstance(method, LBFGS):
            self._tiny("the exact likelihood")
        rows = np.asarray(as_rows(np.atleast_2d(data), len(self.visible), self.states, "visible nodes")[0])
        problem = Pairs(self.couplings, self._shown(), spins=self.states[0] < 0)
        found = learning.fit(problem, (self.bias, self.weights), rows, method, key, tiny=tiny, progress=progress)
        fitted = eqx.tree_at(lambda m: (m.bias, m.weights), self, found.model)
        return dataclasses.replace(found, model=fitted)

    def _shown(self) -> Any:
        """The form's number of each visible node, then of each hidden one."""
        hidden = set(self.hidden)
        last = np.array([name in hidden for name in self.nodes])
        rank = self.couplings.rank
        return (np.asarray(rank) if is_concrete(rank) else rank)[np.argsort(last, kind="stable")]

    def _held(self, given):
        """Which nodes of the form are held, and their values; two times None if none is."""
        clamp, values = as_state(given or {}, self.nodes, self.states)
        if not clamp.any():
            return None, None
        order = np.asarray(self.couplings.order)
        return clamp[order, None], values[order, None]

    def _tiny(self, what):
        if self.num_nodes > exact.MOST:
            raise ValueError(
                f"{what} of {self.num_nodes} nodes would need 2^{self.num_nodes} states; enumeration stops at "
                f"{exact.MOST}, annealed_log_partition(key) estimates log Z of larger machines"
            )

    def __repr__(self):
        hidden = f", {len(self.hidden)} hidden" if self.hidden else ""
        return f"BoltzmannMachine({self.num_nodes} nodes{hidden}, {len(self.weights)} edges, states {self.states})"
