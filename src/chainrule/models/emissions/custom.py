"""Emissions from outside: a network's scores, or any distribution in NumPyro's shape."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from . import base
from .base import AbstractEmission


class Score(AbstractEmission):
    """Scores from any callable: log-potential of state k at an observation = function(x)[k].

    The function may be an Equinox module, whose arrays are then learned by gradient methods. Scores need not be
    log-probabilities of x; a network that outputs log p(k | x) − log p(k) makes the classical hybrid of a network and a
    hidden Markov model (Bourlard and Morgan 1994). `HMM.log_prob` is then a log-likelihood up to what p(x) leaves out.

    Args:
        function: takes one observation, returns (K,) scores.
        num_states: K.
        event_shape: shape of one observation.

    Example:
        >>> import jax.numpy as jnp, chainrule as cr
        >>> emission = cr.emissions.Score(lambda x: jnp.stack([-x, x]), 2)
        >>> cr.HMM([.5, .5], [[.9, .1], [.1, .9]], emission).viterbi([-2.0, -1.0, 3.0]).states.tolist()
        [0, 0, 1]
    """

    arrays: Any
    rest: Any = eqx.field(static=True)  # what of the function is not arrays, hashable: activations, sizes
    size: int = eqx.field(static=True)
    shape: tuple[int, ...] = eqx.field(static=True)

    def __init__(self, function: Callable, num_states: int, event_shape: tuple[int, ...] = ()):
        if not callable(function):
            raise ValueError(f"Score: {function!r} cannot be called")
        self.arrays, rest = eqx.partition(function, eqx.is_array)
        leaves, structure = jax.tree.flatten(rest)
        self.rest, self.size, self.shape = (tuple(leaves), structure), num_states, tuple(event_shape)

    @property
    def function(self) -> Callable:
        """The callable, with its present arrays."""
        leaves, structure = self.rest
        return eqx.combine(self.arrays, jax.tree.unflatten(structure, leaves))

    @property
    def num_states(self):
        """K."""
        return self.size

    @property
    def event_shape(self):
        """Shape of one observation."""
        return self.shape

    def scores(self, values):
        """What the function returns; zero where any of an observation is missing."""
        values, seen = base.observed(values)
        rows = jnp.moveaxis(values, -1, 1)  # (time, row, *event)
        found = jax.vmap(jax.vmap(self.function))(rows)
        if found.shape[2:] != (self.num_states,):
            raise ValueError(f"Score: the function returned shape {found.shape[2:]}, wanted ({self.num_states},)")
        there = jnp.moveaxis(jnp.broadcast_to(seen, values.shape), -1, 1).reshape(*rows.shape[:2], -1).all(-1)
        return jnp.moveaxis(jnp.where(there[..., None], found, 0), 2, 1)

    def sample(self, key, states):
        """Raise: scores are no distribution."""
        raise ValueError("Score gives scores, not a distribution: there is nothing to sample from")

    def check(self, data):
        """Raise for what is infinite or has the wrong shape."""
        base.check_event(data, self.event_shape, "Score")
        base.check_values(data, np.isfinite, "a finite number (NaN would mean missing)")

    def initialise(self, key, num_states, data):
        """The function as it is."""
        return self

    def maximise(self, values, weights, prior, floor):
        """Raise: there is no closed form."""
        raise ValueError(
            "Score has no closed-form M-step: fit with Adam or LBFGS, or hold it by frozen=lambda m: m.emission"
        )

    def unconstrained(self):
        """The floating arrays of the function."""
        return eqx.filter(self.arrays, eqx.is_inexact_array)

    def constrained(self, free):
        """The function with other arrays."""
        return eqx.tree_at(lambda score: score.arrays, self, eqx.combine(free, self.arrays))

    def free_counts(self):
        """The size of every array."""
        return [leaf.size for leaf in jax.tree.leaves(self.arrays)]

    def permute(self, order):
        """Raise: the outputs of a function have a fixed order."""
        raise ValueError("Score: the states of a function cannot be put in another order; permute its outputs instead")

    @property
    def prior_type(self):
        """None."""
        return None


class Held(AbstractEmission):
    """Another emission that learning leaves alone, so that it needs no way to be learned."""

    emission: AbstractEmission

    @property
    def num_states(self):
        """That of the emission that is held."""
        return self.emission.num_states

    @property
    def event_shape(self):
        """That of the emission that is held."""
        return self.emission.event_shape

    @property
    def prior_type(self):
        """That of the emission that is held."""
        return self.emission.prior_type

    def scores(self, values):
        """Those of the emission that is held."""
        return self.emission.scores(values)

    def sample(self, key, states):
        """Draw from the emission that is held."""
        return self.emission.sample(key, states)

    def check(self, data):
        """What the emission that is held refuses."""
        self.emission.check(data)

    def initialise(self, key, num_states, data):
        """Itself."""
        return self

    def maximise(self, values, weights, prior, floor):
        """Itself, with the states that have no weight."""
        return self, weights.sum((0, 2)) <= 0

    def log_prior(self, prior):
        """That of the emission that is held."""
        return self.emission.log_prior(prior)

    def unconstrained(self):
        """Nothing is free."""
        return ()

    def constrained(self, free):
        """Itself."""
        return self

    def free_counts(self):
        """Those of the emission that is held."""
        return self.emission.free_counts()

    def permute(self, order):
        """The emission that is held, in another order."""
        return Held(self.emission.permute(order))


class Opaque(eqx.Module):
    """An object that JAX cannot look into, held as it is: what it computes with are constants of the program."""

    value: Any = eqx.field(static=True)


def _held(distribution):
    """A distribution whose arrays JAX can see, as NumPyro's are, or any other object as a constant."""
    if distribution is None or isinstance(distribution, Opaque):
        return distribution
    leaves = jax.tree.leaves(distribution)
    if all(eqx.is_array_like(leaf) for leaf in leaves):
        return distribution
    try:
        hash(distribution)
    except TypeError:
        raise ValueError(
            f"Custom: {type(distribution).__name__} is neither a pytree of arrays nor hashable, so that no program can "
            "hold it; make it an equinox.Module, or register it with jax.tree_util.register_dataclass"
        ) from None
    return Opaque(distribution)


class Custom(AbstractEmission):
    """Any distribution with `log_prob` and `sample` in NumPyro's shape.

    Args:
        distribution: an object whose batch shape ends in K, so that `log_prob(x[..., None])` has shape (…, K) for numbers
            and `log_prob(x[..., None, :])` for vectors; and `sample(key, shape)` gives (*shape, K, *event). It says its
            `batch_shape` and `event_shape`. A pytree of arrays, such as NumPyro's distributions and Equinox modules, is
            traced; an object of any other hashable class is a constant, whose gradients nobody can ask for, and must not
            be changed afterwards.
        make: alternatively, a function from free real parameters to such an object, which gradient methods can then
            learn: `Custom(make=lambda p: dist.Gamma(jnp.exp(p[0]), jnp.exp(p[1])), free=(log_shape, log_rate))`.
        free: those parameters, a pytree of arrays.

    Raises:
        ValueError: an object without the two methods, not exactly one of `distribution` and `make`, or an object that is
            neither a pytree of arrays nor hashable.

    Example:
        >>> import jax.numpy as jnp, numpyro.distributions as dist, chainrule as cr
        >>> waits = cr.emissions.Custom(dist.Exponential(jnp.array([0.2, 3.0])))
        >>> cr.HMM([.5, .5], [[.9, .1], [.2, .8]], waits).viterbi([4.0, 7.0, 0.1, 0.3]).states.tolist()
        [0, 0, 1, 1]
    """

    distribution: Any
    make: Callable | None = eqx.field(static=True)
    free: Any

    def __init__(self, distribution=None, *, make=None, free=None):
        self.distribution, self.make = _held(distribution), make
        self.free = jax.tree.map(jnp.asarray, free)

    def __check_init__(self):
        if (self.distribution is None) == (self.make is None):
            raise ValueError("Custom: give either a distribution, or make and free")
        found = self._get()
        for method in ("log_prob", "sample"):
            if isinstance(found, type) or not hasattr(found, method):
                raise ValueError(f"Custom: {found!r} is no distribution: it has no usable method {method}")
        if not getattr(found, "batch_shape", ()):
            raise ValueError(f"Custom: {type(found).__name__} has one set of parameters; give one for each state")

    def _get(self):
        if self.make is not None:
            return self.make(self.free)
        return self.distribution.value if isinstance(self.distribution, Opaque) else self.distribution

    @property
    def num_states(self):
        """The last axis of the batch shape."""
        return self._get().batch_shape[-1]

    @property
    def event_shape(self):
        """That of the distribution."""
        return tuple(self._get().event_shape)

    @property
    def mean(self):
        """That of the distribution."""
        return jnp.asarray(self._get().mean)

    def scores(self, values):
        """Its log_prob under every state; zero where any of an observation is missing."""
        values, seen = base.observed(values)
        rows = jnp.moveaxis(values, -1, 1)  # (time, row, *event)
        event = len(self.event_shape)
        if seen.ndim:
            there = jnp.moveaxis(seen, -1, 1).reshape(*rows.shape[:2], -1).all(-1)
            # zero may lie outside the support: a missing step borrows a draw instead
            anchor = jax.lax.stop_gradient(self._get().sample(jax.random.key(0), ()))[0].astype(rows.dtype)
            rows = jnp.where(there.reshape(*there.shape, *[1] * event), rows, anchor[None, None])
        else:
            there = jnp.ones(rows.shape[:2], bool)
        with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
            found = self._get().log_prob(jnp.expand_dims(rows, 2))
        return jnp.moveaxis(jnp.where(there[..., None], found, 0), 2, 1)

    def sample(self, key, states):
        """Draws of all states, from which those of `states` are picked."""
        draws = self._get().sample(key, states.shape)  # (*shape, state, *event)
        index = states.reshape(*states.shape, *[1] * (draws.ndim - states.ndim))
        return jnp.take_along_axis(draws, index, axis=states.ndim).squeeze(states.ndim)

    def check(self, data):
        """Raise for what is infinite, has the wrong shape, or lies outside a support that all states share."""
        distribution = self._get()
        name = type(distribution).__name__
        base.check_event(data, self.event_shape, name)
        base.check_values(data, np.isfinite, "a finite number (NaN would mean missing)")
        support = getattr(distribution, "support", None)
        values = np.asarray(data.values)
        inside: Any = support(values) if callable(support) else None
        if np.shape(inside) == values.shape:  # else it differs by state, or is of vectors
            base.check_values(data, lambda _: np.asarray(inside), f"in the support of {name}")

    def initialise(self, key, num_states, data):
        """The distribution as it is."""
        return self

    def maximise(self, values, weights, prior, floor):
        """Raise: there is no closed form."""
        raise ValueError(
            "Custom has no closed-form M-step: fit with Adam or LBFGS, giving make and free, or hold it by "
            "frozen=lambda m: m.emission"
        )

    def unconstrained(self):
        """The free parameters that `make` takes."""
        if self.make is None:
            raise ValueError(
                "Custom: to learn a distribution by gradient give make and free instead of an object, or hold it by "
                "frozen=lambda m: m.emission"
            )
        return self.free

    def constrained(self, free):
        """The distribution that `make` gives for other parameters."""
        return Custom(make=self.make, free=free)

    def free_counts(self):
        """The size of every array."""
        return [np.size(leaf) for leaf in jax.tree.leaves((self.distribution, self.free))]

    def permute(self, order):
        """Raise: what the arrays of somebody else's distribution mean is not known here."""
        raise ValueError("Custom: the states of somebody else's distribution cannot be put in another order")

    @property
    def prior_type(self):
        """None."""
        return None

    def __repr__(self):
        return type(self._get()).__name__
