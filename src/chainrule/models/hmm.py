"""Hidden Markov models.

A hidden state z_t moves as a Markov chain and each observation depends on the state alone:

    p(z, x) = initial[z₀] · Π_{t≥1} transition[z_{t−1}, z_t] · Π_t p(x_t | z_t),      transition[i, j] from i to j.

The model compiles to the chain form, and every question about it is a question to the chain engine. Reference: Rabiner
(1989), "A tutorial on hidden Markov models".
"""

from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float, Key

from ..forms.chain import Chain, assemble
from ..forms.checks import check_key, whole
from ..forms.sequences import Sequences
from ..graphs.factor_graph import FactorGraph
from ..graphs.transition_graph import TransitionGraph
from ..inference.rows import Either
from ..learning.em import EM
from ..learning.fit import Fit
from . import hmm_engine as engine
from .data import host, prepare, query
from .emissions import AbstractEmission, Custom
from .emissions.base import as_parameter, generator, parameters
from .hmm_data import prepared, prepared_one
from .markov_chain import as_probabilities, chain_from_graph, chain_graph, check_chain
from .results import Filtered, Path, Posterior

if TYPE_CHECKING:
    import networkx as nx


class HMMPrior(NamedTuple):
    """Prior of a hidden Markov model's parameters, for maximum a posteriori fits.

    Attributes:
        initial: Dirichlet concentration of the initial distribution, ≥ 1: a number or shape (K,).
        transition: Dirichlet concentration of each transition row, ≥ 1: a number or shape (K, K).
        stickiness: pseudo-counts added to each self-transition, ≥ 0: favours states that last (Fox et al. 2011).
        emission: a prior that the emission understands, such as `emissions.Gamma` for `Poisson`.

    Forbidden transitions stay forbidden whatever the prior.

    Example:
        >>> import chainrule as cr
        >>> hmm = cr.HMM([.5, .5], [[.9, .1], [.1, .9]], cr.emissions.Poisson([2., 9.]))
        >>> prior = cr.HMMPrior(stickiness=50.0, emission=cr.emissions.Gamma(2.0, 0.5))
        >>> sticky = hmm.fit([1, 3, 2, 8, 11, 9, 2], prior=prior, method=cr.EM(max_iterations=5)).model
        >>> bool((sticky.transition.diagonal() > 0.95).all())
        True
    """

    initial: Any = 1.0
    transition: Any = 1.0
    stickiness: Any = 0.0
    emission: Any = None


class HMM(eqx.Module):
    """A hidden Markov model.

    Args:
        initial: p(z₀), shape (K,).
        transition: p(z_t = j | z_{t−1} = i) at [i, j], shape (K, K), rows summing to one. Zeros are structural: learning
            keeps them.
        emission: p(x_t | z_t): one of `chainrule.emissions`, or an object with `log_prob`, `sample`, `batch_shape` and
            `event_shape` as NumPyro's distributions have them (see `emissions.Custom`). A family without parameters, such
            as `Poisson()`, takes them from the data in `fit`.
        states: names of the states, any hashable values; 0 … K−1 by default.

    Raises:
        ValueError: probabilities that are negative, NaN or do not sum to one (with the row's name), shapes that do not
            fit, or names that repeat.

    Data are one array (time, *event), several of equal length as (sequence, time, *event), a list of arrays of any
    lengths, or `Sequences`; a family without parameters takes a two-dimensional array for one sequence of vectors. NaN
    means missing. Concrete data are answered with NumPy arrays, traced data with traced ones.

    Example:
        >>> import jax.numpy as jnp, chainrule as cr
        >>> die = cr.emissions.Categorical(jnp.array([[1/6] * 6, [.1] * 5 + [.5]]))
        >>> casino = cr.HMM([.5, .5], [[.95, .05], [.1, .9]], die, states=("fair", "loaded"))
        >>> casino
        HMM(2 states, Categorical)
        >>> casino.viterbi([0, 5, 5, 5, 5, 5, 5]).labels.tolist()
        ['loaded', 'loaded', 'loaded', 'loaded', 'loaded', 'loaded', 'loaded']
    """

    initial: Float[Array, " state"]
    transition: Float[Array, "state state"]
    emission: AbstractEmission
    states: tuple[Hashable, ...] = eqx.field(static=True)

    def __init__(self, initial, transition, emission, states: Sequence[Hashable] | None = None):
        initial, transition = as_probabilities(initial), as_probabilities(transition)
        check_chain(initial, transition, states)
        self.initial, self.transition = as_parameter(initial), as_parameter(transition)
        self.emission = emission if isinstance(emission, AbstractEmission) else Custom(emission)
        self.states = tuple(range(self.initial.shape[0])) if states is None else tuple(states)

    def __check_init__(self):
        found = self.emission.num_states
        if found not in (None, len(self.states)):
            raise ValueError(f"the emission has parameters for {found} states, the transitions for {len(self.states)}")

    # Construction

    @classmethod
    def random(
        cls,
        key: Key[Array, ""],
        num_states: int,
        emission: AbstractEmission,
        *,
        stay: float = 0.0,
        states: Sequence[Hashable] | None = None,
    ) -> "HMM":
        """A model with random initial and transition probabilities, uniform over the simplex.

        Args:
            key: a typed key from `jax.random.key`.
            num_states: K.
            emission: with parameters, or a family.
            stay: how much of each row goes to staying put, 0 … 1: 0.9 makes states last about ten steps.
            states: names of the states.
        """
        num_states = whole(num_states, "num_states", why="a model needs at least one state")
        check_key(key, "HMM.random")
        if isinstance(emission, type):
            raise ValueError(
                f"emission is the class {emission.__name__}; give an object, such as {emission.__name__}()"
            )
        if not 0 <= stay < 1:
            raise ValueError(f"stay is {stay}; it must lie in [0, 1)")
        rows = generator(key).dirichlet(np.ones(num_states), num_states + 1)
        return cls(rows[0], (1 - stay) * rows[1:] + stay * np.eye(num_states), emission, states)

    @classmethod
    def from_graph(cls, graph: "nx.DiGraph | TransitionGraph", emission, *, key: Key[Array, ""] | None = None) -> "HMM":
        """A model whose states are the nodes of a graph, and whose only possible steps are its edges.

        Edges carry `probability`; a graph without any is a structure, to be filled at random by `key` (uniformly
        without one) and learned. Nodes may carry `initial`; otherwise every start is equally likely.
        """
        graph, initial, matrix = chain_from_graph(graph, key)
        return cls(initial, matrix, emission, graph.states)

    def graph(self) -> "nx.DiGraph":
        """The transitions as a networkx graph: an edge for each step that is possible."""
        return chain_graph(self.initial, self.transition, self.states)

    # Queries

    @property
    def num_states(self) -> int:
        """K."""
        return len(self.states)

    @query
    def log_prob(self, data, *, known=None):
        """Log p(x): a number for one sequence, one per sequence otherwise.

        Differentiable by the parameters (and the data, where the emission is); the gradient costs one
        forward–backward pass. With `known`, log p(x, known states).

        Example:
            >>> import chainrule as cr
            >>> hmm = cr.HMM([.5, .5], [[.9, .1], [.1, .9]], cr.emissions.Poisson([2., 9.]), states=("calm", "busy"))
            >>> print(hmm.log_prob([[1, 3, 8], [2]]).round(2))
            [-8.01 -1.98]
        """
        batch, fixed = prepared(self, data, known)
        return batch.per_sequence(engine.log_prob(self, batch.sequences, fixed))

    @query
    def posterior(self, data, *, known=None) -> Posterior:
        """p(z_t | all of x), by forward–backward.

        Args:
            data: one or several sequences.
            known: states that are known at some steps, in the same form as `data`: names or indices of states, with
                None or −1 where nothing is known. A name that is itself a number is taken for the name.

        Example:
            >>> import chainrule as cr
            >>> hmm = cr.HMM([.5, .5], [[.9, .1], [.1, .9]], cr.emissions.Poisson([2., 9.]), states=("calm", "busy"))
            >>> posterior = hmm.posterior([1, 3, 8])
            >>> print(posterior["busy"].round(2))
            [0.   0.08 0.95]
            >>> print(hmm.posterior([1, 3, 8], known=[None, "busy", None])["busy"].round(2))
            [0.04 1.   1.  ]
        """
        batch, fixed = prepared(self, data, known)
        log_prob, marginals, transitions = engine.posterior(self, batch.sequences, fixed)
        return assemble(
            Posterior,
            log_prob=batch.per_sequence(log_prob),
            marginals=batch.per_step(marginals),
            transitions=host(transitions),
            states=self.states,
        )

    @query
    def filter(self, data, *, known=None) -> Filtered:
        """p(z_t | x_0 … x_t), the one-step predictions, and the forecast for the step after the last.

        Example:
            >>> import chainrule as cr
            >>> hmm = cr.HMM([.5, .5], [[.9, .1], [.1, .9]], cr.emissions.Poisson([2., 9.]), states=("calm", "busy"))
            >>> found = hmm.filter([1, 3, 8])
            >>> print(found.predicted.round(2)[0], found.forecast.round(2))
            [0.5 0.5] [0.14 0.86]
        """
        batch, fixed = prepared(self, data, known)
        log_prob, filtered, predicted, constants, forecast = engine.filtered(self, batch.sequences, fixed)
        per_step = batch.per_step
        return Filtered(
            batch.per_sequence(log_prob),
            per_step(filtered),
            per_step(predicted),
            per_step(constants),
            batch.per_sequence(forecast),
            self.states,
        )

    @query
    def viterbi(self, data, *, known=None) -> Path:
        """The most probable path, argmax_z p(z, x) (Viterbi 1967); `log_prob` is its log p(z, x).

        Example:
            >>> import chainrule as cr
            >>> hmm = cr.HMM([.5, .5], [[.9, .1], [.1, .9]], cr.emissions.Poisson([2., 9.]), states=("calm", "busy"))
            >>> hmm.viterbi([1, 3, 8]).labels.tolist()
            ['calm', 'calm', 'busy']
        """
        batch, fixed = prepared(self, data, known)
        states, log_prob = engine.viterbi(self, batch.sequences, fixed)
        return Path(batch.per_step(states), batch.per_sequence(log_prob), self.states)

    def k_best(self, data, k: int, *, known=None) -> Path:
        """The k most probable paths, best first: states (k, T), and log_prob (k,), log p(z, x) of each.

        For several sequences: a list of states (k, T_i), or for equal lengths (S, k, T), and log_prob (S, k). Where fewer
        are possible, the rest have log-probability −inf and states −1.

        Example:
            >>> import chainrule as cr
            >>> hmm = cr.HMM([.5, .5], [[.9, .1], [.1, .9]], cr.emissions.Poisson([2., 9.]), states=("calm", "busy"))
            >>> hmm.k_best([1, 3, 8], 2).labels.tolist()
            [['calm', 'calm', 'busy'], ['calm', 'busy', 'busy']]
        """
        k = whole(k, "k", why="ask for at least one path")
        batch, fixed = prepared(self, data, known)
        states, log_prob = engine.k_best(self, batch.sequences, fixed, k)
        return Path(batch.per_path(states), batch.per_sequence(log_prob), self.states)

    def sample(self, key: Key[Array, ""], length: int, num_samples: int | None = None):
        """Draw states and observations: (states (T,), x (T, *event)), with a leading axis if `num_samples` is given.

        Example:
            >>> import jax, chainrule as cr
            >>> hmm = cr.HMM([.5, .5], [[.9, .1], [.1, .9]], cr.emissions.Poisson([2., 9.]))
            >>> states, x = hmm.sample(jax.random.key(0), 10, num_samples=3)
            >>> states.shape, x.shape
            ((3, 10), (3, 10))
        """
        parameters(self.emission)
        length = whole(length, "length", why="a sequence has at least one step")
        count = None if num_samples is None else whole(num_samples, "num_samples", why="ask for at least one")
        return engine.sample(self, key, length, count)

    @query
    def sample_posterior(self, key: Key[Array, ""], data, num_samples: int = 1, *, known=None) -> Path:
        """Draw whole paths from p(z | x), exact and independent: states (num_samples, T).

        Several sequences give a list, or for equal lengths (S, num_samples, T). `log_prob` is log p(x), the same for all
        draws. An impossible sequence has states −1.

        Example:
            >>> import jax, chainrule as cr
            >>> hmm = cr.HMM([.5, .5], [[.9, .1], [.1, .9]], cr.emissions.Poisson([2., 9.]))
            >>> hmm.sample_posterior(jax.random.key(0), [1, 3, 8], 5).states.shape
            (5, 3)
        """
        num_samples = whole(num_samples, "num_samples", why="ask for at least one")
        batch, fixed = prepared(self, data, known)
        paths, log_prob = engine.sample_posterior(self, key, batch.sequences, fixed, num_samples=num_samples)
        states = batch.per_step(paths)
        states = [s.T for s in states] if isinstance(states, list) else states.swapaxes(-1, -2)
        return Path(states, batch.per_sequence(log_prob), self.states)

    def entropy(self, data, *, known=None):
        """Entropy of p(z | x) in nats, how undecided the whole path is: a number, or one per sequence.

        It is 0 where x is impossible.

        Example:
            >>> import chainrule as cr
            >>> hmm = cr.HMM([.5, .5], [[.9, .1], [.1, .9]], cr.emissions.Poisson([2., 9.]))
            >>> sure, unsure = hmm.entropy([[1, 2, 9], [5, 5, 5]])
            >>> bool(sure < unsure)
            True
        """
        batch, fixed = prepared(self, data, known)
        return batch.per_sequence(engine.entropy(self, batch.sequences, fixed))

    def chain(self, x) -> Chain:
        """The chain form of p(z, x) for one sequence, to be handed to any engine."""
        batch, _ = prepared_one(self, x, None, "chain")
        return engine.chain(self, batch.sequences)

    def factor_graph(self, x=None, *, length: int | None = None) -> FactorGraph:
        """The model unrolled over time, as a factor graph over the variables ("z", 0) … ("z", T−1).

        Args:
            x: one sequence, whose likelihoods become factors ("x", t). Without it, the prior over `length` states.
            length: T, where no sequence is given.
        """
        if (x is None) == (length is None):
            raise ValueError("factor_graph: give a sequence, or a length for the prior alone")
        chain = None if x is None else self.chain(x)
        steps = (
            whole(length, "length", why="a sequence has at least one step") if chain is None else int(chain.mask.sum())
        )
        with np.errstate(divide="ignore"):
            initial, transition = (np.log(np.asarray(p, float)) for p in (self.initial, self.transition))
        factors: dict[Hashable, tuple] = {("initial",): ((("z", 0),), initial)}
        for t in range(1, steps):
            factors["step", t] = ((("z", t - 1), ("z", t)), transition)
        if chain is not None:
            node = np.asarray(chain.node, float)
            for t in range(steps):
                factors["x", t] = ((("z", t),), node[t])
        return FactorGraph({("z", t): self.states for t in range(steps)}, factors)

    # Learning

    def fit(
        self,
        data,
        *,
        method=None,
        key: Key[Array, ""] | None = None,
        restarts: int = 1,
        prior: HMMPrior | None = None,
        frozen: Callable[["HMM"], Any] | None = None,
        progress: bool = False,
    ) -> Fit:
        """Learn the parameters from sequences, by maximum likelihood or, with a prior, maximum a posteriori.

        Args:
            data: one or several sequences; NaN is missing.
            method: `EM()` (the default), `Adam()` or `LBFGS()`.
            key: needed for restarts, and for an emission that is a family.
            restarts: how many starting points to run side by side; the best end wins. The first is this model, where it
                has parameters; the others are drawn from the data.
            prior: see `HMMPrior`.
            frozen: picks what must not change, such as `lambda m: m.transition` or a tuple of such parts.
            progress: show a progress bar.

        Returns:
            `Fit`, with the fitted model as `.model`.

        Raises:
            ValueError: data that the emission cannot produce, a missing key, or a prior below one.
        """
        restarts = whole(restarts, "restarts", why="at least one run is needed")
        if key is not None:
            check_key(key, "fit")
        if method is not None and (isinstance(method, type) or not hasattr(method, "run")):
            raise ValueError(f"method is {method!r}; give EM(), Adam() or LBFGS()")
        if prior is not None and not isinstance(prior, HMMPrior):
            raise ValueError(f"prior is {prior!r}; give an HMMPrior, such as HMMPrior(stickiness=10.0)")
        if frozen is not None and not callable(frozen):
            raise ValueError(f"frozen is {frozen!r}; give a function that picks parts, such as lambda m: m.transition")
        batch = prepare(data, None if self.emission.event_shape is None else len(self.emission.event_shape))
        self.emission.check(batch.sequences)
        prior = HMMPrior() if prior is None else prior
        self.emission.check_prior(prior.emission)
        prior = _checked_prior(prior, self.num_states)
        models = self._starts(key, restarts, batch.sequences)
        method = EM() if method is None else method
        return engine.fit(models, batch.sequences, method, prior, frozen, progress)

    def _starts(self, key, restarts: int, data: Sequences) -> "HMM":
        """Starting points, as one model with a leading axis."""
        drawn = restarts if not self.emission.has_parameters() else restarts - 1
        if drawn and key is None:
            raise ValueError("fit: give key=jax.random.key(…): restarts and emission families start at random")
        starts: list[HMM] = [self] if self.emission.has_parameters() else []
        for k in jax.random.split(key, drawn) if drawn else ():
            of_emission, of_chain = jax.random.split(k)
            emission = self.emission.initialise(of_emission, self.num_states, data)
            rng = generator(of_chain)
            if not starts:  # the first run keeps the transitions it was given
                starts.append(HMM(self.initial, self.transition, emission, self.states))
                continue
            rows = []
            for row in (self.initial, *self.transition):
                allowed = np.asarray(row) > 0
                rows.append(np.where(allowed, rng.gamma(1.0, size=allowed.shape) + 0.1, 0))
            rows = np.stack(rows)
            rows[1:] += 2 * np.diag(np.diag(rows[1:])) * self.num_states  # states that last are the better guess
            rows /= rows.sum(1, keepdims=True)
            starts.append(HMM(rows[0], rows[1:], emission, self.states))
        return jax.tree.map(lambda *leaves: np.stack(leaves), *starts)  # on the host: nothing to compile

    def free_parameters(self) -> int:
        """How many numbers may be chosen freely: structural zeros and last entries of rows are not."""
        return sum(engine.free_counts(self))

    # Order of states

    def permute(self, order: Sequence[int]) -> "HMM":
        """The same model with its states reordered: state k of the result is state order[k] of this one."""
        index = np.asarray(order)
        if sorted(index.tolist()) != list(range(self.num_states)):
            raise ValueError(f"order {list(order)} is not a permutation of 0 … {self.num_states - 1}")
        initial, transition, emission = engine.permuted(self.initial, self.transition, self.emission, index)
        names = self.states
        if names != tuple(range(self.num_states)):
            names = tuple(names[i] for i in index)
        return HMM(initial, transition, emission, names)

    def align(self, reference: "HMM", data=None) -> "HMM":
        """Reorder the states so that they match another model's, by the Hungarian method (Kuhn 1955).

        With data, states match that explain the same steps (largest overlap of posteriors); without, those whose mean
        observations are nearest.
        """
        if reference.num_states != self.num_states:
            raise ValueError(f"cannot align {self.num_states} states with {reference.num_states}")
        return self.permute(engine.matching(self, reference, data).tolist())

    # What the learning strategies ask for

    def expect(self, data: Sequences, using=Either):
        """Log-likelihood and expectations of the hidden states; see `chainrule.learning.em`."""
        return engine.expect(self, data, using)

    def maximise(self, data: Sequences, expectations, prior: HMMPrior, floor):
        """The parameters that explain the expectations best, and which states were degenerate."""
        return engine.maximise(self, data, expectations, prior, floor)

    def total(self, data: Sequences):
        """Log-likelihood of all sequences together."""
        return engine.total(self, data)

    def log_prior(self, prior: HMMPrior):
        """Log-density of the prior at the parameters, up to a constant."""
        return engine.log_prior(self, prior)

    def unconstrained(self):
        """The parameters as free real numbers, for gradient methods."""
        return engine.unconstrained(self)

    def constrained(self, free):
        """The model that free real numbers describe."""
        return engine.constrained(self, free)

    def __repr__(self):
        name = repr(self.emission)
        if self.initial.ndim > 1:
            return f"HMM({self.num_states} states, {name}, batch of {self.initial.shape[:-1]})"
        return f"HMM({self.num_states} states, {name})"


def _checked_prior(prior: HMMPrior, size: int) -> HMMPrior:
    shapes = {"initial": (size,), "transition": (size, size), "stickiness": (size,)}
    for name, least in (("initial", 1), ("transition", 1), ("stickiness", 0)):
        value = np.asarray(getattr(prior, name), float)
        if value.shape not in ((), shapes[name]):
            raise ValueError(f"prior: {name} has shape {value.shape}; wanted a number or shape {shapes[name]}")
        if not (value >= least).all():
            raise ValueError(f"prior: {name} is {value.min():g}; a maximum exists only from {least} on")
    return jax.tree.map(lambda leaf: np.asarray(leaf, float), prior)
