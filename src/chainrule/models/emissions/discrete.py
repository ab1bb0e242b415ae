"""Emissions over symbols, flags and counts."""

import math
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln
from jaxtyping import Array, Float

from ...forms.products import product
from ...inference.logspace import safe_log
from . import base
from .base import AbstractEmission, AbstractFamily, Parameter


class Dirichlet(NamedTuple):
    """Prior of a categorical's probabilities: pseudo-counts `concentration` ≥ 1, a number or an array (symbol).

    Example:
        >>> import chainrule as cr
        >>> hmm = cr.HMM([1.], [[1.]], cr.emissions.Categorical([[.5, .5]]))
        >>> prior = cr.HMMPrior(emission=cr.emissions.Dirichlet(2.0))
        >>> hmm.fit([0, 0], prior=prior).model.emission.probs.tolist()  # one more of each
        [[0.75, 0.25]]
    """

    concentration: float | Float[Array, " symbol"]

    def least(self):
        """The smallest values that leave a maximum, and whether they are allowed themselves."""
        return {"concentration": (1, True)}


class Beta(NamedTuple):
    """Prior of a Bernoulli's probability, `yes` and `no` ≥ 1.

    Example:
        >>> import chainrule as cr
        >>> hmm = cr.HMM([1.], [[1.]], cr.emissions.Bernoulli([.5]))
        >>> prior = cr.HMMPrior(emission=cr.emissions.Beta(2.0, 2.0))
        >>> hmm.fit([1, 1], prior=prior).model.emission.probs.tolist()  # one more of each
        [0.75]
    """

    yes: float
    no: float

    def least(self):
        """The smallest values that leave a maximum, and whether they are allowed themselves."""
        return {"yes": (1, True), "no": (1, True)}


class Gamma(NamedTuple):
    """Prior of a Poisson's rate, with density ∝ rate^(shape−1) exp(−rate·inverse_scale), shape ≥ 1.

    Example:
        >>> import chainrule as cr
        >>> hmm = cr.HMM([1.], [[1.]], cr.emissions.Poisson([1.]))
        >>> prior = cr.HMMPrior(emission=cr.emissions.Gamma(2.0, 1.0))
        >>> hmm.fit([3, 5, 3], prior=prior).model.emission.rate.tolist()  # (3 + 5 + 3 + 2 − 1) / (3 + 1)
        [3.0]
    """

    shape: float
    inverse_scale: float

    def least(self):
        """The smallest values that leave a maximum, and whether they are allowed themselves."""
        return {"shape": (1, True), "inverse_scale": (0, True)}


class Categorical(AbstractEmission):
    """Symbols 0 … V−1: p(x | k) = probs[k, x], scored by looking rows up.

    Args:
        probs: shape (K, V), rows summing to one; zeros are structural and stay zero in learning. None for a family.
        num_symbols: V, for a family whose data may not show every symbol.

    Raises:
        ValueError: a row that does not sum to one, a negative entry, or a wrong shape.

    Example:
        >>> import jax.numpy as jnp, chainrule as cr
        >>> die = cr.emissions.Categorical(jnp.array([[.5, .5], [.9, .1]]))
        >>> die.log_prob(jnp.array([0, 1])).shape
        (2, 2)
    """

    probs: Parameter = eqx.field(default=None, converter=base.as_parameter)
    num_symbols: int | None = eqx.field(default=None, static=True)

    def __check_init__(self):
        if self.probs is None:
            return
        if self.probs.ndim != 2:
            raise ValueError(f"Categorical: probs must have shape (state, symbol), got {self.probs.shape}")
        if self.num_symbols not in (None, self.probs.shape[1]):
            raise ValueError(
                f"Categorical: probs have {self.probs.shape[1]} symbols, num_symbols is {self.num_symbols}"
            )
        base.require("Categorical: probs", self.probs, lambda p: p >= 0, "a probability")
        if base.is_concrete(self.probs):
            sums = np.asarray(self.probs, np.float64).sum(1)
            for state in np.flatnonzero(abs(sums - 1) > 1e-5):
                raise ValueError(f"Categorical: probs of state {state} sum to {sums[state]:.6g}, not 1")

    @property
    def num_states(self):
        """K, or None for a family."""
        return None if self.probs is None else self.probs.shape[0]

    @property
    def event_shape(self):
        """A symbol is one number."""
        return ()

    @property
    def mean(self):
        """Expected symbol of each state, of use where symbols are counts."""
        base.parameters(self)
        return product(self.probs, jnp.arange(self.probs.shape[1], dtype=self.probs.dtype))

    def scores(self, values):
        """Look up log probs[k, x]; −inf for a symbol that does not exist, which only traced data can hold."""
        values, seen = base.observed(values)
        symbols = values.astype(jnp.int32)
        symbols = jnp.where(symbols < 0, self.probs.shape[1], symbols)  # or they would count from the end
        # (time, row, state); impossible for a symbol that is none, which only traced data can hold
        found = jnp.take(safe_log(self.probs).T, symbols, axis=0, mode="fill", fill_value=-jnp.inf)
        return jnp.moveaxis(jnp.where(seen[..., None], found, 0), 2, 1)

    def sample(self, key, states):
        """One symbol for each entry of `states`."""
        return jax.random.categorical(key, jnp.log(self.probs)[states]).astype(jnp.int32)

    def check(self, data):
        """Raise for what is not an integer from 0 to V − 1."""
        base.check_event(data, (), "Categorical")
        size = self._size()
        limit = np.inf if size is None else size
        if np.asarray(data.values).dtype.kind == "f":
            base.check_values(data, lambda x: x == np.floor(x), "a symbol: symbols are integers from 0")
        known = (
            "a symbol: symbols are integers from 0"
            if size is None
            else f"a known symbol: they run from 0 to {size - 1}"
        )
        base.check_values(data, lambda x: (x >= 0) & (x < limit), known)

    def _size(self):
        return self.num_symbols if self.probs is None else self.probs.shape[1]

    def initialise(self, key, num_states, data):
        """Random rows around the frequencies of the symbols; every symbol stays possible."""
        symbols = base.observations(data)
        symbols = symbols[~np.isnan(symbols)].astype(int)
        size = self._size() or int(symbols.max(initial=0)) + 1
        shared = np.bincount(symbols, minlength=size) + 1.0
        rng = base.generator(key)
        rows = rng.dirichlet(np.ones(size), num_states) * shared
        return Categorical(rows / rows.sum(1, keepdims=True))

    def maximise(self, values, weights, prior, floor):
        """Relative weighted counts, plus pseudo-counts; a symbol that was possible stays possible."""
        values, seen = base.observed(values)
        weights = jnp.where(seen[:, None] if seen.ndim else seen, weights, 0)
        columns = jnp.moveaxis(weights, 1, 2).reshape(-1, weights.shape[1])
        counts = jax.ops.segment_sum(columns, values.astype(jnp.int32).reshape(-1), self.probs.shape[1]).T
        empty = counts.sum(1) <= 0  # with or without a prior
        if prior is not None:
            counts = counts + jnp.where(self.probs > 0, jnp.asarray(prior.concentration, counts.dtype) - 1, 0)
        total = counts.sum(1)
        # what is possible stays possible, however rare: only what was given as zero is structure
        learned = jnp.maximum(base.safe_ratio(counts, total[:, None]), jnp.finfo(total.dtype).tiny)
        probs = base.guarded(jnp.where(self.probs > 0, learned, 0), self.probs, total)
        return Categorical(probs), empty

    def log_prior(self, prior):
        """Σ (concentration − 1) log probs over what is possible."""
        if prior is None:
            return 0.0
        pseudo = jnp.broadcast_to(jnp.asarray(prior.concentration, self.probs.dtype) - 1, self.probs.shape)
        return _weighted_log(pseudo, self.probs).sum()

    def unconstrained(self):
        """Logits of each row."""
        return jnp.log(jnp.where(self.probs > 0, self.probs, 1))

    def constrained(self, free):
        """Softmax of the logits among the possible symbols."""
        allowed = self.probs > 0
        return Categorical(masked_softmax(free, allowed))

    def free_counts(self):
        """Possible symbols, less one per row."""
        return [int((np.asarray(self.probs) > 0).sum() - self.probs.shape[0])]

    def permute(self, order):
        """Rows in another order."""
        return Categorical(self.probs[order])

    @property
    def prior_type(self):
        """`Dirichlet`."""
        return Dirichlet


def masked_softmax(logits, allowed):
    """Softmax over the last axis among the allowed entries; zero, with zero gradient, elsewhere."""
    return jnp.where(allowed, jax.nn.softmax(jnp.where(allowed, logits, -jnp.inf), axis=-1), 0)


class Bernoulli(AbstractFamily):
    """Flags, one or several independent ones per step: p(x = 1 | k) = probs[k].

    Args:
        probs: shape (K,), or (K, D) for D flags. None for a family.

    Raises:
        ValueError: an entry outside [0, 1] or a wrong shape.

    Example:
        >>> import chainrule as cr
        >>> print(cr.emissions.Bernoulli([0.2, 0.9]).log_prob([1, 0]).round(2))
        [[-1.61 -0.11]
         [-0.22 -2.3 ]]
    """

    probs: Parameter = eqx.field(default=None, converter=base.as_parameter)

    def __check_init__(self):
        _check_rank("Bernoulli", "probs", self.probs)
        base.require("Bernoulli: probs", self.probs, lambda p: (p >= 0) & (p <= 1), "a probability")

    @property
    def location(self):
        """The probabilities."""
        return self.probs

    def scores(self, values):
        """The log of probs[k] for a 1, and of 1 − probs[k] for a 0, summed over flags."""
        values, seen = base.observed(values)
        x = values.astype(self.probs.dtype)[:, None]
        probs = self.probs[None, ..., None]
        return _over_features(jnp.where(x > 0, safe_log(probs), safe_log(1 - probs)), seen)

    def sample(self, key, states):
        """One flag, or vector of flags, for each entry of `states`."""
        return jax.random.bernoulli(key, self.probs[states]).astype(jnp.int32)

    def check(self, data):
        """Raise for what is neither 0 nor 1."""
        base.check_event(data, self.event_shape, "Bernoulli")
        base.check_values(data, lambda x: (x == 0) | (x == 1), "0 or 1")

    def initialise(self, key, num_states, data):
        """Probabilities scattered about the average of the data."""
        rows = base.observations(data)
        average = np.nanmean(rows, axis=0)
        noise = base.generator(key).beta(2, 2, (num_states, *rows.shape[1:]))
        return Bernoulli(0.5 * average + 0.5 * noise)

    def maximise(self, values, weights, prior, floor):
        """Weighted share of ones, plus pseudo-counts; what was possible stays possible."""
        ones, total = _weighted_sums(values, weights, self.probs)
        empty = _empty(total)  # with or without a prior
        if prior is not None:
            ones, total = ones + (prior.yes - 1), total + (prior.yes + prior.no - 2)
        limits = jnp.finfo(total.dtype)
        learned = jnp.clip(base.safe_ratio(ones, total), limits.tiny, 1 - limits.eps)  # possible stays possible
        inside = (total > 0) & (self.probs > 0) & (self.probs < 1)
        return Bernoulli(jnp.where(inside, learned, self.probs)), empty

    def log_prior(self, prior):
        """Σ (yes − 1) log probs + (no − 1) log(1 − probs)."""
        if prior is None:
            return 0.0
        return (_weighted_log(prior.yes - 1, self.probs) + _weighted_log(prior.no - 1, 1 - self.probs)).sum()

    def unconstrained(self):
        """Logits."""
        inside = (self.probs > 0) & (self.probs < 1)
        return jnp.where(inside, jax.scipy.special.logit(jnp.where(inside, self.probs, 0.5)), 0)

    def constrained(self, free):
        """Sigmoid of the logits; a probability of 0 or 1 is kept."""
        inside = (self.probs > 0) & (self.probs < 1)
        return Bernoulli(jnp.where(inside, jax.nn.sigmoid(free), self.probs))

    def free_counts(self):
        """One per flag and state."""
        return [self.probs.size]

    def permute(self, order):
        """Rows in another order."""
        return Bernoulli(self.probs[order])

    @property
    def prior_type(self):
        """`Beta`."""
        return Beta


class Poisson(AbstractFamily):
    """Counts, one or several independent ones per step: p(x | k) = exp(−rate) rate^x / x!.

    Args:
        rate: expected count, positive, shape (K,), or (K, D) for D counts. None for a family.

    Raises:
        ValueError: a rate that is not positive and finite, or a wrong shape.

    Example:
        >>> import chainrule as cr
        >>> hmm = cr.HMM([.5, .5], [[.9, .1], [.1, .9]], cr.emissions.Poisson([2., 9.]))
        >>> hmm.viterbi([1, 3, 8, 11]).states.tolist()
        [0, 0, 1, 1]
    """

    rate: Parameter = eqx.field(default=None, converter=base.as_parameter)

    def __check_init__(self):
        _check_rank("Poisson", "rate", self.rate)
        base.require("Poisson: rate", self.rate, lambda r: (r > 0) & np.isfinite(r), "a positive finite rate")

    @property
    def location(self):
        """The rates."""
        return self.rate

    def scores(self, values):
        """Sum of x log rate − rate − log x! over counts."""
        values, seen = base.observed(values)
        x = values.astype(self.rate.dtype)[:, None]
        rate = self.rate[None, ..., None]
        return _over_features(_poisson_log_prob(x, rate), seen)

    def sample(self, key, states):
        """One count, or vector of counts, for each entry of `states`."""
        return jax.random.poisson(key, self.rate[states])

    def check(self, data):
        """Raise for what is not 0, 1, 2, …."""
        base.check_event(data, self.event_shape, "Poisson")
        base.check_values(data, lambda x: (x >= 0) & (x == np.floor(x)) & np.isfinite(x), "a count: 0, 1, 2, …")

    def initialise(self, key, num_states, data):
        """Rates spread over the data."""
        rows = base.observations(data)
        centres = base.spread_centres(key, rows.reshape(len(rows), -1), num_states)
        average = np.nanmean(rows.reshape(len(rows), -1), axis=0) + 1e-3
        return Poisson((0.8 * centres + 0.2 * average).reshape(num_states, *rows.shape[1:]))

    def maximise(self, values, weights, prior, floor):
        """Weighted average count, with the prior as earlier counts."""
        counts, total = _weighted_sums(values, weights, self.rate)
        empty = _empty(total)  # with or without a prior
        if prior is not None:
            counts, total = counts + (prior.shape - 1), total + prior.inverse_scale
        rate = jnp.maximum(base.safe_ratio(counts, total), jnp.finfo(total.dtype).tiny)  # a rate of 0 is no Poisson
        return Poisson(jnp.where(total > 0, rate, self.rate)), empty

    def log_prior(self, prior):
        """(shape − 1) log rate − inverse_scale · rate, summed."""
        if prior is None:
            return 0.0
        return (_weighted_log(prior.shape - 1, self.rate) - prior.inverse_scale * self.rate).sum()

    def unconstrained(self):
        """Log rates."""
        return jnp.log(self.rate)

    def constrained(self, free):
        """Exponentials of the log rates."""
        return Poisson(jnp.exp(free))

    def free_counts(self):
        """One per count and state."""
        return [self.rate.size]

    def permute(self, order):
        """Rates in another order."""
        return Poisson(self.rate[order])

    @property
    def prior_type(self):
        """`Gamma`."""
        return Gamma


def _weighted_log(weight, probability):
    """Weight · log p where p is not zero, else 0: a structural zero is not the prior's business."""
    return jnp.where(probability > 0, weight * safe_log(jnp.where(probability > 0, probability, 1)), 0)


def _poisson_log_prob(x, rate):
    """X log rate − rate − log x!, without the cancellation of large terms (Loader 2000).

    For counts from 10 on: −½ log 2πx − (Stirling's remainder) − deviance, the deviance being rate · ((1+e) log(1+e) − e)
    with e = (x − rate) / rate.
    """
    large = x >= 10
    safe, near = jnp.where(large, x, 10), jnp.where(large, rate, 10)  # what is not used must not spoil the gradient
    excess = (safe - near) / near
    deviance = near * ((1 + excess) * jnp.log1p(excess) - excess)
    remainder = 1 / (12 * safe) - 1 / (360 * safe**3) + 1 / (1260 * safe**5)
    small = jnp.where(large, 0, x)
    direct = small * jnp.log(rate) - rate - gammaln(small + 1)
    return jnp.where(large, -0.5 * jnp.log(2 * math.pi * safe) - remainder - deviance, direct)


def _check_rank(family, name, array):
    if array is not None and array.ndim not in (1, 2):
        raise ValueError(f"{family}: {name} must have shape (state,) or (state, feature), got {array.shape}")


def _over_features(terms, seen):
    """Sum (time, state, [feature,] row) over features, leaving the missing ones out."""
    terms = jnp.where(seen[:, None] if seen.ndim else seen, terms, 0)
    return terms if terms.ndim == 3 else terms.sum(2)


def _weighted_sums(values, weights, like):
    """Σ weights · x and Σ weights over what was observed, each of shape (state, *feature)."""
    values, seen = base.observed(values)
    x = values.astype(like.dtype)
    if x.ndim == 3:
        found = jnp.broadcast_to(seen, x.shape).astype(like.dtype)
        return jnp.einsum("tkr,tdr->kd", weights, x), jnp.einsum("tkr,tdr->kd", weights, found)
    weights = jnp.where(seen[:, None] if seen.ndim else seen, weights, 0)
    return (weights * x[:, None]).sum((0, 2)), weights.sum((0, 2))


def _empty(total):
    return (total <= 0).reshape(total.shape[0], -1).any(1)
