"""Restricted Boltzmann machines: a layer of visible and a layer of hidden units, with weights between them only.

    p(v, h) = exp(−E(v, h)) / Z,      E(v, h) = −log g(v; a) − log g(h; b) − s(v) W h,

which for binary units on both sides is E = −a·v − b·h − v W h; `units` has the others. Given one layer the units of the
other are independent, and the hidden ones sum out: with F(v) = −log Σ_h exp(−E(v, h)),

    p(v) = exp(−F(v)) / Z,      F(v) = −a·v − Σ_j log(1 + exp(b_j + Σ_i v_i W_ij))        (binary).

References:
    Smolensky (1986), Information processing in dynamical systems: foundations of harmony theory.
    Hinton (2012), A practical guide to training restricted Boltzmann machines.
    Fischer and Igel (2014), Training restricted Boltzmann machines: an introduction.
"""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import networkx as nx
import numpy as np
from jaxtyping import Array, Float, Key

from ...forms.chain import is_concrete
from ...graphs.factor_graph import FactorGraph
from ...learning.contrastive import CD, PCD
from ...learning.fit import Fit
from ...learning.validation import Validation
from ..emissions.base import as_parameter, generator
from . import conditionals as single_sites
from . import graphs, learning, likelihood, queries
from .data import answer, as_rows
from .likelihood import PartitionBounds
from .units import Binary, Categorical, Gaussian, Rectified

CHEAP = 12  # units that are enumerated without being asked, after a fit


class RBM(eqx.Module):
    """A restricted Boltzmann machine.

    Args:
        weights: W, shape (C, hidden units), with a row for each visible column: C is the number of visible units, for
            categorical units times the number of values.
        visible_bias: a, shape (C,); zeros if not given.
        hidden_bias: b, shape (hidden units,); zeros if not given.
        visible: `units.Binary()`, `units.Categorical(K)` or `units.Gaussian()`.
        hidden: `units.Binary()` or `units.Rectified()`.

    Data are rows (n, visible units), or one vector; booleans and small integers stay so. Entries that are missing (NaN,
    −1 for categorical units, or masked in a masked array) are units that the row's machine does not have, which is how
    Salakhutdinov, Mnih and Hinton (2007) model ratings.

    Gaussian visible and rectified hidden units together have a distribution only where their weights are small enough:
    hᵀ(1 − Wᵀ σ⁻² W)h > 0 for all h ≥ 0 but 0, surely so where the largest eigenvalue of Wᵀ σ⁻² W is below 1.

    Raises:
        ValueError: shapes that do not fit, parameters that are not finite, or weights with which there is no distribution.

    Example:
        >>> import chainrule as cr, numpy as np
        >>> rbm = cr.RBM([[2.0], [2.0]], hidden_bias=[-2.0])
        >>> rbm
        RBM(2 Binary visible, 1 Binary hidden)
        >>> [round(float(p), 3) for p in np.exp(rbm.log_prob([[0, 0], [0, 1], [1, 1]]))]
        [0.084, 0.148, 0.62]
        >>> [round(float(p), 3) for p in rbm.features([[0, 0], [1, 1]])[:, 0]]
        [0.119, 0.881]
    """

    weights: Float[Array, "column hidden"]
    visible_bias: Float[Array, " column"]
    hidden_bias: Float[Array, " hidden"]
    visible: Binary | Categorical | Gaussian
    hidden: Binary | Rectified

    def __init__(self, weights, visible_bias=None, hidden_bias=None, *, visible=None, hidden=None):
        self.weights = as_parameter(weights)
        if self.weights.ndim != 2 or 0 in self.weights.shape:
            raise ValueError(f"weights have shape {self.weights.shape}; wanted (visible columns, hidden units)")
        num_columns, num_hidden = self.weights.shape
        self.visible_bias = as_parameter(np.zeros(num_columns) if visible_bias is None else visible_bias)
        self.hidden_bias = as_parameter(np.zeros(num_hidden) if hidden_bias is None else hidden_bias)
        visible = Binary() if visible is None else visible
        self.hidden = Binary() if hidden is None else hidden
        if not isinstance(visible, Binary | Categorical | Gaussian) or not isinstance(self.hidden, Binary | Rectified):
            raise ValueError(
                f"visible units are {visible!r} and hidden ones {self.hidden!r}; wanted units.Binary(), Categorical(K) or "
                "Gaussian(), and units.Binary() or Rectified()"
            )
        self.visible = visible.sized(num_columns)

    def __check_init__(self):
        num_columns, num_hidden = self.weights.shape
        if num_columns % self.visible.width:
            raise ValueError(
                f"weights have {num_columns} rows, which units of {self.visible.width} columns do not fill"
            )
        for name, size in (("visible_bias", num_columns), ("hidden_bias", num_hidden)):
            if getattr(self, name).shape != (size,):
                raise ValueError(
                    f"{name} has shape {getattr(self, name).shape}; weights of shape {self.weights.shape} ask for ({size},)"
                )
        for name in ("weights", "visible_bias", "hidden_bias"):
            values = getattr(self, name)
            if is_concrete(values) and not np.isfinite(np.asarray(values)).all():
                raise ValueError(f"{name} has entries that are NaN or infinite")
        likelihood.check_normalisable(self)

    @classmethod
    def random(
        cls,
        key: Key[Array, ""],
        num_visible: int,
        num_hidden: int,
        *,
        visible: "Binary | Categorical | Gaussian | None" = None,
        hidden: "Binary | Rectified | None" = None,
        data=None,
        scale: float = 0.01,
    ) -> "RBM":
        """A machine to begin a fit with: weights N(0, scale²), biases 0.

        With `data` the visible biases, and variances, are those at which units without weights would fit the data
        (Hinton 2012, section 8); half an observation of each value is added to its count.

        Raises:
            ValueError: no units, or data that do not fit.
        """
        for name, value in (("num_visible", num_visible), ("num_hidden", num_hidden)):
            if value < 1:
                raise ValueError(f"{name} is {value}; at least one unit is needed")
        visible = Binary() if visible is None else visible
        weights = scale * generator(key).normal(size=(num_visible * visible.width, num_hidden))
        made = cls(weights, visible=visible, hidden=hidden)
        if data is None:
            return made
        rows = as_rows(made, data, missing=True)
        bias, visible = made.visible.start(rows.values, rows.observed)
        return cls(weights, bias, visible=visible, hidden=hidden)

    @classmethod
    def from_graph(cls, graph: nx.Graph) -> "RBM":
        """The machine of binary units that a bipartite graph describes, such as `graph()` writes.

        Args:
            graph: nodes of one layer carry `hidden=True`; nodes may carry `bias`, edges `weight` (0 where left out).
                Columns of data are the visible nodes in the graph's order, features the hidden ones.

        Raises:
            ValueError: no layer of either kind, edges within one, numbers that are not finite, or a graph that says it is
                of other `states` than 0 and 1 or has a `constant`.

        Example:
            >>> import chainrule as cr, networkx as nx
            >>> graph = nx.Graph([("rain", "cause", {"weight": 2.0}), ("mud", "cause", {"weight": 1.0})])
            >>> graph.nodes["cause"]["hidden"] = True
            >>> cr.RBM.from_graph(graph).weights.tolist()
            [[2.0], [1.0]]
        """
        return cls(*graphs.parameters(graph))

    # What it is

    @property
    def num_visible(self) -> int:
        """Number of visible units."""
        return self.weights.shape[0] // self.visible.width

    @property
    def num_hidden(self) -> int:
        """Number of hidden units."""
        return self.weights.shape[1]

    @property
    def dtype(self) -> Any:
        """Dtype of the parameters."""
        return self.weights.dtype

    @property
    def discrete(self) -> bool:
        """Whether visible units take finitely many values."""
        return not isinstance(self.visible, Gaussian)

    def graph(self) -> nx.Graph:
        """The machine as a bipartite graph of ("v", i) and ("h", j), with `bias` on nodes and `weight` on edges.

        Hidden nodes carry `hidden=True`, so that `BoltzmannMachine.from_graph` and `from_graph` read the same machine.

        Raises:
            ValueError: units that are not binary, whose parameters a graph cannot carry.
        """
        return graphs.unit_graph(self)

    def factor_graph(self) -> FactorGraph:
        """The machine as a factor graph over the variables ("v", i) and ("h", j), for discrete units on both sides."""
        return graphs.factor_graph(self)

    def tempered(self, temperature) -> "RBM":
        """The machine whose p(v) is proportional to that of exp(−E / temperature), hidden units summed out.

        Rectified hidden units are measured in units of √temperature, so that their shape stays what it is. The temperature
        may be traced.
        """
        queries.check_temperature(temperature)
        return queries.tempered(self, temperature)

    # Probabilities

    def energy(self, v, h) -> Any:
        """E(v, h), by row; p(v, h) is proportional to exp(−E).

        Args:
            v: visible values, (n, visible units) or (visible units,).
            h: hidden values, (n, hidden units) or (hidden units,).

        Raises:
            ValueError: values that the units cannot take, or not one row of h for each of v.
        """
        rows = as_rows(self, v, missing=True)
        return answer(rows, queries.energy(self, rows.values, rows.observed, queries.check_hidden(self, h, rows)))

    def free_energy(self, v) -> Any:
        """F(v) = −log Σ_h exp(−E(v, h)), by row: p(v) is proportional to exp(−F(v)).

        What is missing takes no part: it is F of the machine without these units.
        """
        rows = as_rows(self, v, missing=True)
        return answer(rows, queries.free_energy(self, rows.values, rows.observed))

    def log_partition(self, *, max_units: int = 20) -> Any:
        """Log Z, exactly, by enumerating the smaller layer of binary units.

        The sum is in float64, unless it is traced. It takes a second or so for 16 units beside 784.

        Args:
            max_units: refuse to enumerate more than this.

        Raises:
            ValueError: no layer of binary units that is small enough.
        """
        return likelihood.log_partition(self, max_units)

    def log_partition_bounds(
        self,
        key: Key[Array, ""],
        data,
        *,
        chains: int = 100,
        stops: int = 2000,
        burn_in: int = 1000,
        tolerance: float = 1.0,
    ) -> PartitionBounds:
        """Log Z between two stochastic bounds, by annealed importance sampling forward and in reverse.

        Both walks lead from units without weights at the data's frequencies to this machine and back (Salakhutdinov and
        Murray 2008). Forward the estimate is too small on average, in reverse too large if the start is a sample of the
        machine: it comes from rows of the data by `burn_in` sweeps. Where chains do not move between the kinds of rows,
        each kind keeps its share in the data, and the upper end may be tenths of a nat off in either direction;
        `conservative_log_prob` needs no such samples.

        Args:
            key: seeds the walks.
            data: rows for the base and for the start of the reverse walk; training data, many more than chains.
            chains: how many walks each way.
            stops: how many inverse temperatures; more of them close the gap.
            burn_in: sweeps before the reverse walk.
            tolerance: gap in nats that is called tight.

        Raises:
            ValueError: data that do not fit, or fewer than two chains or stops.

        Example:
            >>> import chainrule as cr, jax, numpy as np
            >>> rbm = cr.RBM([[2.0], [2.0]], hidden_bias=[-2.0])
            >>> bounds = rbm.log_partition_bounds(jax.random.key(0), [[0, 0], [1, 1]], chains=50, stops=100, burn_in=20)
            >>> bounds.status, bool(abs(bounds.lower - rbm.log_partition()) < 0.1)
            (SandwichStatus.TIGHT, True)
        """
        return likelihood.bounds(self, key, data, chains=chains, stops=stops, burn_in=burn_in, tolerance=tolerance)

    def conservative_log_prob(self, key: Key[Array, ""], v, data, *, stops: int = 2000, walks: int = 1) -> Any:
        """Stochastic lower bounds of log p(v) by row, for a distribution that can be sampled exactly.

        That is the one which annealing by this machine's own sweeps makes, in `stops` steps from units without weights
        at the data's frequencies. A reverse walk from v gives an unbiased estimate of its p(v), and the logarithm of that
        is too small on average. The more stops, the nearer the two distributions are; where log Z from forward walks is
        wrong because they miss a region, this is not (Burda, Grosse and Salakhutdinov 2015).

        Args:
            key: seeds the walks.
            v: rows (n, units), or one vector.
            data: rows for the base.
            stops: how many inverse temperatures.
            walks: how many for each row; their mean is taken before the logarithm.
        """
        return likelihood.conservative(self, key, v, data, stops=stops, walks=walks)

    def log_prob(self, v, *, log_partition=None) -> Any:
        """Log p(v) = −F(v) − log Z, by row.

        Args:
            v: all visible values, (n, visible units) or (visible units,).
            log_partition: log Z where it is known, or one end of `log_partition_bounds`; by default it is computed by
                enumeration, again in each call.

        Raises:
            ValueError: missing values, or a machine too large to enumerate.
        """
        rows = as_rows(self, v)
        log_z = self.log_partition() if log_partition is None else log_partition
        found = answer(rows, queries.free_energy(self, rows.values, None))
        if is_concrete(found) and is_concrete(log_z):
            return -np.asarray(found, float) - np.asarray(log_z, float)
        return -found - jnp.asarray(log_z, found.dtype)

    def total_if_cheap(self, rows) -> float:
        """The log-likelihood of rows if its normaliser takes no time to find, else NaN."""
        if rows.observed is not None or not likelihood.enumerable(self, CHEAP):
            return float("nan")
        free = np.asarray(queries.free_energy(self, rows.values, None), float)
        return float(-free.sum() - len(free) * float(self.log_partition()))

    def conditionals(self, v, *, sites=None) -> Any:
        """Probabilities of each value of each unit, given all others that are observed; exact.

        p(v_i | v_−i) for units that are observed, what one would bet on for those that are missing: the prediction of
        Salakhutdinov, Mnih and Hinton (2007, equation 8).

        Args:
            v: values, (n, units) or (units,), missing ones allowed.
            sites: which units, indices; all by default.

        Returns:
            (n, sites, values), with two values for binary units.

        Raises:
            ValueError: Gaussian units, whose conditionals have no closed form.

        Example:
            >>> import chainrule as cr, numpy as np
            >>> rbm = cr.RBM([[2.0], [2.0]], hidden_bias=[-2.0])
            >>> np.asarray(rbm.conditionals([1, np.nan], sites=[1]), float).round(3).tolist()  # unit 1 off, or on
            [[0.193, 0.807]]
        """
        rows = as_rows(self, v, missing=True)
        sites = single_sites.as_sites(self, sites)
        return answer(rows, single_sites.conditionals(self, rows.values, rows.observed, sites))

    def pseudo_log_prob(self, v, *, key: Key[Array, ""] | None = None) -> Any:
        """Log pseudo-likelihood Σ_i log p(v_i | v_−i), by row (Besag 1975).

        Args:
            v: values, (n, units) or (units,). What is missing is not scored.
            key: if given, one unit of each row is drawn and its term taken times their number: an unbiased estimate at
                the cost of two free energies.

        Raises:
            ValueError: Gaussian units.
        """
        rows = as_rows(self, v, missing=True)
        return answer(rows, single_sites.pseudo_log_prob(self, rows.values, rows.observed, key))

    def features(self, v) -> Any:
        """E[h | v]: what the hidden units make of each row, (n, hidden units)."""
        rows = as_rows(self, v, missing=True)
        return answer(rows, queries.features(self, rows.values, rows.observed))

    # Draws

    def sample(self, key: Key[Array, ""], num_samples: int, *, sweeps: int = 1000, temperature=1.0, start=None) -> Any:
        """Draw rows, each at the end of a Gibbs chain of its own.

        Chains start as units without weights, whose couplings are turned up during the first half of the sweeps, which
        spreads them better over what the machine knows than a cold start; or at rows `start`, at full strength.

        Args:
            key: a typed random key of any implementation.
            num_samples: how many rows.
            sweeps: length of the chains.
            temperature: of the distribution drawn from; below 1 the draws are more typical and less various.
            start: rows (num_samples, units) to start at.

        Returns:
            (num_samples, visible units), in the machine's dtype, integers for categorical units.
        """
        if num_samples < 1 or sweeps < 1:
            raise ValueError(f"num_samples is {num_samples} and sweeps {sweeps}; at least one of each is needed")
        likelihood.check_normalisable(self)
        queries.check_temperature(temperature)
        if start is None:
            return queries.sample(self, key, sweeps, temperature, num_samples=num_samples)
        rows = as_rows(self, start)
        if len(rows.values) != num_samples:
            raise ValueError(f"start has {len(rows.values)} rows for {num_samples} samples")
        return queries.sample_from(self, key, rows.values, sweeps, temperature)

    def complete(self, key: Key[Array, ""], v, *, known, sweeps: int = 200, mean: bool = False) -> Any:
        """Fill in what is not known, by Gibbs sweeps in which the known values stay as they are.

        Args:
            key: seeds the sweeps.
            v: rows (n, units) or one vector; values that are not known may be anything, NaN too.
            known: booleans, (units,) or (n, units).
            sweeps: how many.
            mean: whether to return the mean of E[v | h] over the second half of the sweeps, instead of a draw.

        Returns:
            As `v`, in its own dtype for draws, with known entries equal to it bit for bit.

        Raises:
            ValueError: a mask that does not fit, or known values that are missing or out of range.
        """
        return queries.complete_rows(self, key, v, known, sweeps=sweeps, mean=mean)

    def denoise(self, key: Key[Array, ""], v, *, noise: float = 0.1, sweeps: int = 200) -> Any:
        """Expected clean rows, given noisy ones: E[v | noisy v], by Gibbs sweeps over the posterior.

        The noise is part of the model: a binary unit was flipped with probability `noise`, a categorical one replaced by
        another value with that probability, to a Gaussian one noise of this standard deviation was added.

        Args:
            key: seeds the sweeps.
            v: noisy rows (n, units), or one vector.
            noise: how much of it, between 0 and 1 for discrete units.
            sweeps: how many; the second half is averaged.

        Returns:
            Means, (n, units), in the machine's dtype.

        Raises:
            ValueError: noise outside its range, or fewer than one sweep.
        """
        high = 1.0 if self.discrete else float("inf")
        if is_concrete(noise) and not 0 < noise < high:
            raise ValueError(f"noise is {noise}; wanted a number above 0 and below {high}")
        queries.check_sweeps(sweeps)
        rows = as_rows(self, v)
        return answer(rows, queries.denoise(self, key, rows.values, jnp.asarray(noise, self.dtype), sweeps))

    # Learning

    def fit(
        self,
        data,
        *,
        method: CD | PCD | None = None,
        key: Key[Array, ""],
        validation: Validation | None = None,
        progress: bool = False,
    ) -> Fit:
        """Fit to rows, from here on.

        Args:
            data: rows (n, units). With missing entries the method is `CD`.
            method: `PCD()` by default.
            key: seeds batches and chains.
            validation: looked at after each epoch; keeps the best machine.
            progress: whether to show a bar.

        Returns:
            A `Fit`; `history` is the contrast of each epoch, the mean of −F over data minus that over the machine's
            samples, which tells little but whether a fit diverges, and `log_prob` is known for small machines only.

        Raises:
            ValueError: data that do not fit, or missing entries with a method of persistent chains.

        Example:
            >>> import jax, numpy as np, chainrule as cr
            >>> data = np.random.default_rng(0).integers(0, 2, (200, 1)) * np.ones((1, 6), int)     # all on or all off
            >>> start = cr.RBM.random(jax.random.key(0), num_visible=6, num_hidden=2)
            >>> fit = start.fit(data, method=cr.PCD(epochs=60, batch_size=10, learning_rate=0.2), key=jax.random.key(1))
            >>> bool(fit.model.log_prob(np.ones(6)) > -2.0)     # log 1/2 at best, log 1/64 without weights
            True
        """
        return learning.fit(self, data, method, key, validation=validation, progress=progress)

    def __repr__(self):
        names = type(self.visible).__name__, type(self.hidden).__name__
        return f"RBM({self.num_visible} {names[0]} visible, {self.num_hidden} {names[1]} hidden)"
