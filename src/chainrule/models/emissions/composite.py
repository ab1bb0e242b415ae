"""Emissions made of others: mixtures within a state, and products over features."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ...forms.sequences import Sequences
from ...inference.logspace import finite, logsumexp, safe_log
from . import base
from .base import AbstractEmission, Parameter
from .discrete import masked_softmax


class Mixture(AbstractEmission):
    """A mixture of M components within each state: p(x | k) = Σ_m weights[k, m] p(x | component k·M + m).

    Args:
        component: an emission with K·M states, those of state k in a row; or a family.
        weights: shape (K, M), rows summing to one; zeros are structural and stay zero in learning. None for a family.
        num_components: M, for a family.

    Raises:
        ValueError: weights that do not sum to one, or a component whose number of states is not K·M.

    Example:
        >>> import jax.numpy as jnp, chainrule as cr
        >>> bumps = cr.emissions.Normal(jnp.array([-1., 1., 4., 6.]), jnp.ones(4))
        >>> cr.emissions.Mixture(bumps, jnp.full((2, 2), .5)).num_states
        2
    """

    component: AbstractEmission
    weights: Parameter = eqx.field(converter=base.as_parameter)
    num_components: int = eqx.field(static=True)

    def __init__(self, component, weights=None, *, num_components=2):
        self.component, self.weights = component, weights
        self.num_components = num_components if weights is None else int(np.shape(weights)[-1])

    def __check_init__(self):
        if self.weights is None:
            return
        if self.weights.ndim != 2:
            raise ValueError(f"Mixture: weights must have shape (state, component), got {self.weights.shape}")
        if self.component.num_states != self.weights.size:
            raise ValueError(
                f"Mixture: weights {self.weights.shape} ask for a component with {self.weights.size} states, "
                f"got {self.component.num_states}"
            )
        base.require("Mixture: weights", self.weights, lambda w: w >= 0, "a probability")
        if base.is_concrete(self.weights):
            sums = np.asarray(self.weights, np.float64).sum(1)
            for state in np.flatnonzero(abs(sums - 1) > 1e-5):
                raise ValueError(f"Mixture: weights of state {state} sum to {sums[state]:.6g}, not 1")

    @property
    def num_states(self):
        """K, or None for a family."""
        return None if self.weights is None else self.weights.shape[0]

    @property
    def event_shape(self):
        """That of the component."""
        return self.component.event_shape

    @property
    def mean(self):
        """Σ_m weights[k, m] · mean of component m."""
        base.parameters(self)
        means = self.component.mean
        means = means.reshape(*self.weights.shape, *means.shape[1:])
        return jnp.einsum("km,km...->k...", self.weights, means)

    def _joint(self, values):
        """Log weight + log density, (time, state, component, row), and where there is an observation."""
        found = self.component.scores(values)
        found = found.reshape(found.shape[0], *self.weights.shape, found.shape[-1])
        return found + safe_log(self.weights)[None, :, :, None]

    def scores(self, values):
        """The log of Σ_m weights[k, m] p(x | component m)."""
        return logsumexp(self._joint(values), 2)

    def sample(self, key, states):
        """Pick a component for each entry of `states`, then draw from it."""
        states = jnp.asarray(states)
        pick, draw = jax.random.split(key)
        chosen = jax.random.categorical(pick, jnp.log(self.weights)[states])
        return self.component.sample(draw, states * self.num_components + chosen.astype(states.dtype))

    def check(self, data):
        """What the component refuses."""
        self.component.check(data)

    def initialise(self, key, num_states, data):
        """Component k·M + m starts near the m-th part of state k: centres are sorted so that neighbours share a state."""
        component = self.component.initialise(key, num_states * self.num_components, data)
        order = np.argsort(np.asarray(component.mean).reshape(len(component.mean), -1)[:, 0], kind="stable")
        component = component.permute(order)
        shape = (num_states, self.num_components)
        return Mixture(component, np.full(shape, 1 / self.num_components))

    def maximise(self, values, weights, prior, floor):
        """Share the weights among the components by their responsibilities, and maximise those.

        A component that was possible stays possible.
        """
        joint = self._joint(values)
        share = jnp.exp(joint - finite(logsumexp(joint, 2))[:, :, None])
        parts = weights[:, :, None] * share
        component, degenerate = self.component.maximise(
            values, parts.reshape(parts.shape[0], -1, parts.shape[-1]), prior, floor
        )
        counts = parts.sum((0, 3))
        total = counts.sum(1)
        # what is possible stays possible, however rare: only what was given as zero is structure
        learned = jnp.maximum(base.safe_ratio(counts, total[:, None]), jnp.finfo(total.dtype).tiny)
        mixed = base.guarded(jnp.where(self.weights > 0, learned, 0), self.weights, total)
        return Mixture(component, mixed), degenerate.reshape(self.weights.shape).any(1)

    def log_prior(self, prior):
        """That of the component; the weights have none."""
        return self.component.log_prior(prior)

    def unconstrained(self):
        """That of the component, and logits of the weights."""
        return self.component.unconstrained(), jnp.log(jnp.where(self.weights > 0, self.weights, 1))

    def constrained(self, free):
        """The component, and a softmax among the possible weights."""
        return Mixture(self.component.constrained(free[0]), masked_softmax(free[1], self.weights > 0))

    def free_counts(self):
        """Those of the component, and the weights less one per state."""
        return [*self.component.free_counts(), self.weights.size - self.weights.shape[0]]

    def permute(self, order):
        """States in another order, each with its components."""
        order = jnp.asarray(order)
        places = order[:, None] * self.num_components + jnp.arange(self.num_components, dtype=order.dtype)[None]
        return Mixture(self.component.permute(places.reshape(-1)), self.weights[order])

    @property
    def prior_type(self):
        """That of the component."""
        return self.component.prior_type

    def __repr__(self):
        return f"Mixture of {self.num_components} {self.component!r}"


class Product(AbstractEmission):
    """Independent families per feature: p(x | k) = Π_i p_i(x_i | k).

    Each part takes the next columns of an observation vector: one for a family of numbers, D for one of D-vectors.

    Args:
        parts: emissions, all with the same number of states, or all families. Families of vectors cannot be told how
            many columns are theirs, so give them parameters, or use one family of numbers per column.

    Raises:
        ValueError: no parts, or parts that disagree on the number of states.

    Example:
        >>> import jax.numpy as jnp, chainrule as cr
        >>> e = cr.emissions.Product(cr.emissions.Normal(jnp.zeros(2), jnp.ones(2)), cr.emissions.Poisson(jnp.ones(2)))
        >>> e.log_prob(jnp.array([0.5, 3.0])).shape
        (2,)
    """

    parts: tuple[AbstractEmission, ...]

    def __init__(self, *parts):
        self.parts = tuple(parts)

    def __check_init__(self):
        if not self.parts:
            raise ValueError("Product: give at least one emission")
        sizes = {part.num_states for part in self.parts}
        if len(sizes) > 1:
            raise ValueError(
                f"Product: the parts have different numbers of states: {[p.num_states for p in self.parts]}"
            )

    @property
    def num_states(self):
        """That of every part."""
        return self.parts[0].num_states

    @property
    def event_shape(self):
        """The columns of all parts side by side."""
        return (sum(self._widths()),)

    def _widths(self):
        return [1 if not part.event_shape else part.event_shape[0] for part in self.parts]

    def _split(self, values):
        """Each part's own columns of (time, feature, row)."""
        edges = np.cumsum([0, *self._widths()])
        columns = [values[:, a:b] for a, b in itertools.pairwise(edges)]
        return [c if part.event_shape else c[:, 0] for part, c in zip(self.parts, columns, strict=True)]

    @property
    def mean(self):
        """The means of all parts side by side."""
        base.parameters(self)
        return jnp.concatenate([part.mean.reshape(self.num_states, -1) for part in self.parts], axis=1)

    def scores(self, values):
        """The sum of the scores of the parts."""
        found = [part.scores(own) for part, own in zip(self.parts, self._split(values), strict=True)]
        return sum(found[1:], start=found[0])

    def sample(self, key, states):
        """The draws of all parts side by side, as floats."""
        keys = jax.random.split(key, len(self.parts))
        draws = [part.sample(k, states) for part, k in zip(self.parts, keys, strict=True)]
        kind = jnp.result_type(float)
        return jnp.concatenate([d.reshape(*states.shape, -1).astype(kind) for d in draws], axis=-1)

    def _each(self, data: Sequences):
        for column, (part, own) in enumerate(zip(self.parts, self._split(np.asarray(data.values)), strict=True)):
            yield column, part, eqx.tree_at(lambda d: d.values, data, own)

    def check(self, data):
        """What a part refuses of its own columns, with the number of the part."""
        base.check_event(data, self.event_shape, "Product")
        for number, part, own in self._each(data):
            try:
                part.check(own)
            except ValueError as error:
                raise ValueError(f"part {number} of the Product, {part!r}: {error}") from None

    def initialise(self, key, num_states, data):
        """Every part from its own columns."""
        self.check(data)
        # one key for all parts, so that their centres come from the same steps where they can
        return Product(*[part.initialise(key, num_states, own) for _, part, own in self._each(data)])

    def maximise(self, values, weights, prior, floor):
        """Every part by itself."""
        priors = prior if prior is not None else [None] * len(self.parts)
        found = [
            part.maximise(own, weights, p, floor)
            for part, own, p in zip(self.parts, self._split(values), priors, strict=True)
        ]
        return Product(*[f[0] for f in found]), jnp.stack([f[1] for f in found]).any(0)

    def log_prior(self, prior):
        """The sum over the parts."""
        if prior is None:
            return 0.0
        return sum(part.log_prior(p) for part, p in zip(self.parts, prior, strict=True))

    def unconstrained(self):
        """One entry per part."""
        return tuple(part.unconstrained() for part in self.parts)

    def constrained(self, free):
        """Every part from its own entry."""
        return Product(*[part.constrained(f) for part, f in zip(self.parts, free, strict=True)])

    def free_counts(self):
        """Those of all parts."""
        return [count for part in self.parts for count in part.free_counts()]

    def permute(self, order):
        """Every part in the same other order."""
        return Product(*[part.permute(order) for part in self.parts])

    @property
    def prior_type(self):
        """A tuple with one prior, or None, for each part."""
        return tuple

    def check_prior(self, prior):
        """Raise if there is not one prior, or None, for each part, or if a part refuses its own."""
        if prior is None:
            return
        if not isinstance(prior, tuple | list) or len(prior) != len(self.parts):
            raise ValueError(
                f"Product takes one prior (or None) for each of its {len(self.parts)} parts, got {prior!r}"
            )
        for part, one in zip(self.parts, prior, strict=True):
            part.check_prior(one)

    def __repr__(self):
        return " * ".join(map(repr, self.parts))
