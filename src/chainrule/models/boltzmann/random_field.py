"""Markov random fields that learn: a probability for every assignment of categorical variables, by tables of any order.

    p(x) = exp( Σ_f θ_f[x_f] ) / Z

with a table θ_f for each factor f over its variables x_f. Tables of pairs of bits make a Boltzmann machine; tables of three
and more variables are "higher-order" connections (Sejnowski 1986), which find what no pairs tell, such as parity, without
hidden units. The gradient of the log-likelihood is a difference of probabilities,

    ∂ log p(v) / ∂θ_f[s] = p(x_f = s | v) − p(x_f = s).

References:
    Ackley, Hinton and Sejnowski (1985), A learning algorithm for Boltzmann machines, Cognitive Science 9(1).
    Sejnowski (1986), Higher-order Boltzmann machines, AIP Conference Proceedings 151.
"""

import dataclasses
import itertools
import math
from collections.abc import Hashable, Iterable, Mapping
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from ...forms.chain import is_concrete
from ...forms.factors import Factors
from ...forms.layouts import as_floats, as_indices
from ...graphs import sampling
from ...graphs.compile import as_factors
from ...graphs.factor_graph import FactorGraph
from ...graphs.labels import lookup
from ...learning.fit import Fit
from ...learning.gradient import LBFGS
from . import learning, tables


class MarkovRandomField(eqx.Module):
    """Categorical variables and factors of any order, whose log tables are learned; make one with `from_factor_graph`.

    Attributes:
        factors: all log tables and where they belong, compiled; `factors.tables` is what is learned.
        order: the form's number of each variable.
        variables: name and states of each variable.
        scopes: name and variables of each factor.
        hidden: names of the variables that data say nothing of.

    Example:
        >>> import chainrule as cr, numpy as np
        >>> graph = cr.FactorGraph(dict.fromkeys("abc", 2), [(("a", "b", "c"), np.zeros((2, 2, 2)))])
        >>> field = cr.MarkovRandomField.from_factor_graph(graph)
        >>> rows = [[0, 0, 0], [0, 1, 1], [1, 0, 1], [1, 1, 0]] * 5  # any two of them look independent
        >>> fit = field.fit(rows, method=cr.LBFGS(l2=0.5))
        >>> np.exp(fit.model.log_prob([[0, 1, 1], [0, 1, 0], [0, 1, -1]])).astype(float).round(2).tolist()  # −1: missing
        [0.21, 0.04, 0.25]
    """

    factors: Factors
    order: Int[Array, " variable"]
    variables: tuple[tuple[Hashable, tuple[Hashable, ...]], ...] = eqx.field(static=True)
    scopes: tuple[tuple[Hashable, tuple[Hashable, ...]], ...] = eqx.field(static=True)
    hidden: tuple[Hashable, ...] = eqx.field(static=True)

    @classmethod
    def from_factor_graph(cls, graph: FactorGraph, *, hidden: Iterable[Hashable] = ()) -> "MarkovRandomField":
        """The field whose tables are those of a factor graph: where a fit begins. Entries that are −inf stay so.

        Args:
            graph: variables and factors.
            hidden: names of hidden variables.

        Raises:
            ValueError: an unknown hidden variable, or no visible one.
        """
        order, factors = as_factors(graph)
        rank = {name: i for i, name in enumerate(order)}
        hidden = tuple(hidden)
        for name in hidden:
            lookup("hidden variable", name, rank)
        if len(set(hidden)) == len(rank):
            raise ValueError("all variables are hidden; data have to show some")
        return cls(
            factors,
            as_indices([rank[name] for name in graph.variables]),
            tuple((name, tuple(states)) for name, states in graph.variables.items()),
            tuple((name, tuple(scope)) for name, (scope, _) in graph.factors.items()),
            hidden,
        )

    @classmethod
    def random(
        cls, key: Key[Array, ""], graph: FactorGraph, *, scale: float = 0.01, hidden: Iterable[Hashable] = ()
    ) -> "MarkovRandomField":
        """A graph's variables and factors with tables drawn from N(0, scale²), −inf where the graph's are.

        With hidden variables a fit has to begin so: where nothing tells their states apart, nothing ever will.
        """
        field = cls.from_factor_graph(graph, hidden=hidden)
        return eqx.tree_at(lambda m: m.factors.tables, field, tables.noise(key, field.factors.tables, scale))

    def factor_graph(self) -> FactorGraph:
        """The field as a factor graph, which every engine takes."""
        states = dict(self.variables)
        shapes = [tuple(len(states[name]) for name in scope) for _, scope in self.scopes]
        ends = list(itertools.accumulate((math.prod(shape) for shape in shapes), initial=0))
        flat = np.asarray(self.factors.tables, float)
        return FactorGraph(
            states,
            {
                name: (scope, flat[start:stop].reshape(shape))
                for (name, scope), shape, (start, stop) in zip(
                    self.scopes, shapes, itertools.pairwise(ends), strict=True
                )
            },
        )

    @property
    def visible(self) -> tuple[Hashable, ...]:
        """Names of the variables that data show, in order: the columns of data."""
        return tuple(name for name, _ in self.variables if name not in self.hidden)

    def log_partition(self) -> Float[Array, ""]:
        """Log Z by enumeration.

        Raises:
            ValueError: more than 2¹⁸ joint states.
        """
        self._tiny("log Z")
        return tables.log_partition(self.factors)

    def log_prob(self, data) -> Float[Array, "*row"]:
        """Log p of what rows show, one (visible,) or several (row, visible), exactly; differentiable by the tables.

        Args:
            data: numbers of states; −1, NaN and masked entries are missing, and are summed over as hidden variables are.

        Raises:
            ValueError: more than 2¹⁸ joint states, or entries that are no such numbers.
        """
        self._tiny("a probability")
        rows, single = self._rows(data)
        found = tables.log_prob(self.factors, rows, tables.gaps(rows, len(self.variables)))
        return found[0] if single else found

    def sample(
        self,
        key: Key[Array, ""],
        num_samples: int | None = None,
        *,
        sweeps: int = 100,
        beta: float = 1.0,
        given: Mapping[Hashable, Hashable] | None = None,
    ) -> Int[Array, "*sample variable"]:
        """Draw numbers of states of all variables, hidden ones included, as `FactorGraph.sample` does."""
        states = dict(self.variables)
        return sampling.sample(key, states, self.order, self.factors, num_samples, sweeps, beta, given or {})

    def complete(self, key: Key[Array, ""], data, *, sweeps: int = 100) -> Int[Array, "*row visible"]:
        """Draw what is missing in rows, −1, NaN or masked, given what is there; one row or several.

        Raises:
            ValueError: entries that are no numbers of states, or fewer than one sweep.

        Example:
            >>> import chainrule as cr, jax
            >>> table = [[0.0, 0.0, -50.0], [-50.0, -50.0, 0.0]]  # the light coat goes with the first two days
            >>> graph = cr.FactorGraph({"coat": ("light", "warm"), "day": 3}, [(("coat", "day"), table)])
            >>> field = cr.MarkovRandomField.from_factor_graph(graph)
            >>> field.complete(jax.random.key(0), [[-1, 2], [1, -1]]).tolist()
            [[1, 2], [1, 2]]
        """
        if sweeps < 1:
            raise ValueError(f"sweeps is {sweeps}; at least one is needed")
        rows, single = self._rows(data)
        shown = tuple(i for i, (name, _) in enumerate(self.variables) if name not in self.hidden)
        return tables.fill(key, self.factors, rows, sweeps, self.order, shown, single=single)

    def fit(self, data, *, method: Any = None, key: Key[Array, ""] | None = None, progress: bool = False) -> Fit:
        """Learn all entries of the tables that are not −inf.

        Args:
            data: numbers of states, (row, visible); −1, NaN and masked entries are missing.
            method: `LBFGS()`, which climbs the exact likelihood of fields with up to 2¹⁸ joint states, or `PCD()`, whose
                chains begin at the data, and whose `centred` makes no difference here: tables of all states have no 0.
                By default the first where it can be. Their penalties are on all entries. Tables of the same distribution
                are many (a constant may move from one to another); `l2` above 0 picks one of them.
            key: needed by `PCD`.
            progress: whether to show a bar.

        Returns:
            `Fit`; its `log_prob` and `history` are as for `BoltzmannMachine.fit`, and its `num_parameters` counts what can
            vary freely (without −inf), the same for all ways to write a field down.

        Raises:
            ValueError: data that are not such rows, or that the −inf make impossible; a method that does not fit, or no
                key for `PCD`.
        """
        tiny = self._num_joint() <= tables.MOST
        method = learning.choose(method, key, tiny=tiny)
        if isinstance(method, LBFGS):
            self._tiny("the exact likelihood")
        rows, _ = self._rows(np.ma.atleast_2d(data) if np.ma.isMaskedArray(data) else np.atleast_2d(data))
        old = np.asarray(self.factors.tables)
        forbidden: Any = np.isneginf(old)
        problem = tables.Tables(self.factors, forbidden, tables.gaps(rows, len(self.variables)))
        start = np.where(forbidden, np.zeros((), old.dtype), old)
        found = learning.fit(problem, start, rows, method, key, tiny=tiny, progress=progress)
        learned = np.where(forbidden, np.array(-np.inf, old.dtype), np.asarray(found.model))
        fitted = eqx.tree_at(lambda m: m.factors.tables, self, as_floats(learned))
        return dataclasses.replace(found, model=fitted, num_parameters=self._num_free())

    def _rows(self, data):
        """Rows in the form's order, −1 for what is missing or hidden; and whether it was a single one."""
        missing = np.ma.getmaskarray(data) if np.ma.isMaskedArray(data) else False
        array = np.asarray(data) if is_concrete(data) else data
        if array.ndim not in (1, 2) or array.shape[-1] != len(self.visible):
            raise ValueError(
                f"data have shape {array.shape}; wanted ({len(self.visible)},) or (row, {len(self.visible)}), a column for "
                "each of the visible variables"
            )
        counts = np.array([len(states) for name, states in self.variables if name not in self.hidden])
        if isinstance(array, np.ndarray):
            missing = missing | np.isnan(array) if array.dtype.kind == "f" else missing
            array = np.where(missing, -1, array)
            valid = (array >= -1) & (array < counts) & (array == np.round(array))
            if not valid.all():
                at = tuple(np.argwhere(~valid)[0].tolist())
                name, last = self.visible[at[-1]], counts[at[-1]] - 1
                raise ValueError(
                    f"data{list(at)} is {array[at]}; variable {name!r} has states 0 to {last}, -1 where it is missing"
                )
        rows = (np if isinstance(array, np.ndarray) else jnp).atleast_2d(array).astype(np.int32)
        shown = np.array([name not in self.hidden for name, _ in self.variables])
        whole: Any
        if isinstance(rows, np.ndarray) and is_concrete(self.order):
            whole = np.full((len(rows), len(self.variables)), -1, np.int32)
            whole[:, np.asarray(self.order)[shown]] = rows
        else:
            whole = jnp.full((len(rows), len(self.variables)), -1, jnp.int32).at[:, self.order[shown]].set(rows)
        return whole, array.ndim == 1

    def _num_joint(self) -> int:
        return math.prod(len(states) for _, states in self.variables)

    def _num_free(self) -> int:
        """Π_i (states_i − 1), summed over all sets of variables that are together in a factor."""
        sizes = {name: len(states) - 1 for name, states in self.variables}
        subsets = (itertools.combinations(scope, n + 1) for _, scope in self.scopes for n in range(len(scope)))
        together = {frozenset(some) for some in itertools.chain.from_iterable(subsets)}
        finite = int(np.isfinite(self.factors.tables).sum()) - 1
        return min(sum(math.prod(sizes[name] for name in some) for some in together), finite)

    def _tiny(self, what):
        if self._num_joint() > tables.MOST:
            raise ValueError(
                f"{what} of {self._num_joint()} joint states: enumeration stops at {tables.MOST}; fit by PCD(…) and sample"
            )

    def __repr__(self):
        hidden = f", {len(self.hidden)} hidden" if self.hidden else ""
        return f"MarkovRandomField({len(self.variables)} variables{hidden}, {len(self.scopes)} factors)"
