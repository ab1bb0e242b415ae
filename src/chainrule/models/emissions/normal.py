"""Normal emissions: independent features, one variance for all features, full covariances, or one shared by all states."""

import math
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float

from ...forms.products import HIGHEST, product
from ...inference.certificate import certified
from . import base
from .base import AbstractFamily, Parameter

LOG_2PI = math.log(2 * math.pi)


class NormalInverseGamma(NamedTuple):
    """Conjugate prior of a mean and a variance, feature by feature.

    variance ~ InverseGamma(shape, scale), mean | variance ~ Normal(mean, variance / strength).
    """

    mean: float | Float[Array, " feature"]
    strength: float
    shape: float
    scale: float

    def least(self):
        """The smallest values that leave a maximum, and whether they are allowed themselves."""
        return {"strength": (0, True), "shape": (0, True), "scale": (0, True)}


class Normal(AbstractFamily):
    """Independent normal features: x_d ~ Normal(mean[k, d], variance[k, d]).

    Args:
        mean: shape (K,) for numbers, (K, D) for vectors. None for a family.
        variance: shape of `mean`; or (K,) beside a (K, D) mean, for one variance per state (spherical).
        spherical: for a family, whether one variance per state is to be learned.

    Raises:
        ValueError: a variance that is not positive and finite, or shapes that do not fit.

    Example:
        >>> import jax.numpy as jnp, chainrule as cr
        >>> emission = cr.emissions.Normal(jnp.array([0., 5.]), jnp.array([1., 1.]))
        >>> [round(float(p), 2) for p in emission.log_prob(5.0)]
        [-13.42, -0.92]
    """

    loc: Parameter = eqx.field(converter=base.as_parameter)
    variance: Parameter = eqx.field(converter=base.as_parameter)
    spherical: bool = eqx.field(static=True)

    def __init__(self, mean=None, variance=None, *, spherical=False):
        self.loc, self.variance = mean, variance
        shapes = [np.ndim(x) for x in (mean, variance) if x is not None]
        self.spherical = bool(spherical) or shapes == [2, 1]

    def __check_init__(self):
        if (self.loc is None) != (self.variance is None):
            raise ValueError("Normal: give both mean and variance, or neither for a family")
        if self.loc is None:
            return
        if self.loc.ndim not in (1, 2):
            raise ValueError(f"Normal: mean must have shape (state,) or (state, feature), got {self.loc.shape}")
        wanted = self.loc.shape[:1] if self.spherical else self.loc.shape
        if self.variance.shape != wanted:
            raise ValueError(
                f"Normal: variance has shape {self.variance.shape}, mean {self.loc.shape} asks for {wanted}"
            )
        base.require("Normal: mean", self.loc, np.isfinite, "a finite number")
        base.require("Normal: variance", self.variance, lambda v: (v > 0) & np.isfinite(v), "a positive finite number")

    @property
    def location(self):
        """The means."""
        return self.loc

    def _variances(self):
        """Variance of each feature, shape of the mean."""
        if self.spherical and self.loc.ndim == 2:
            return jnp.broadcast_to(self.variance[:, None], self.loc.shape)
        return self.variance

    def scores(self, values):
        """−½ Σ_d [(x_d − mean)² / variance + log 2π variance], over the features that are there."""
        values, seen = base.observed(values.astype(self.loc.dtype))
        if self.loc.ndim == 1:
            return _log_density(values[:, None], seen[:, None], self.loc[:, None], self.variance[:, None])
        return _log_density(values, seen, self.loc, self._variances())

    def sample(self, key, states):
        """One number or vector for each entry of `states`."""
        noise = jax.random.normal(key, (*states.shape, *self.loc.shape[1:]), self.loc.dtype)
        return self.loc[states] + noise * jnp.sqrt(self._variances())[states]

    def check(self, data):
        """Raise for what is infinite or has the wrong shape."""
        base.check_event(data, self.event_shape, "Normal")
        if len(data.event_shape) > 1:
            raise ValueError(f"Normal: observations must be numbers or vectors, got event shape {data.event_shape}")
        base.check_values(data, np.isfinite, "a finite number (NaN would mean missing)")

    def initialise(self, key, num_states, data):
        """Means spread over the data, each with the variance of all of it."""
        rows = base.observations(data)
        flat = rows.reshape(len(rows), -1)
        centres = base.spread_centres(key, flat, num_states)
        spread = np.maximum(np.nanvar(flat, axis=0), 1e-6)
        mean = (0.8 * centres + 0.2 * np.nanmean(flat, axis=0)).reshape(num_states, *rows.shape[1:])
        if self.spherical and rows.ndim == 2:
            return Normal(mean, np.full(num_states, spread.mean()), spherical=True)
        return Normal(mean, np.broadcast_to(spread, (num_states, flat.shape[1])).reshape(mean.shape))

    def maximise(self, values, weights, prior, floor):
        """Weighted mean and variance of each feature, or the mode under the prior."""
        values, seen = base.observed(values.astype(self.loc.dtype))
        if values.ndim == 2:
            values, seen = values[:, None], seen[:, None]
        total, mean, squares = moments(values, seen.astype(values.dtype), weights)  # each (state, feature)
        missing = total <= 0  # features that a state never saw
        divisor = total
        if prior is not None:  # the mode of the joint posterior density of mean and variance
            centre = jnp.broadcast_to(jnp.asarray(prior.mean, mean.dtype), mean.shape)
            shrunk = base.safe_ratio(total, total + prior.strength)
            squares = squares + prior.strength * shrunk * (mean - centre) ** 2 + 2 * prior.scale
            mean = centre + shrunk * (mean - centre)
            divisor = total + 2 * prior.shape + 3
        if self.spherical:
            squares, divisor = squares.sum(1), divisor.sum(1)
        unseen = missing.all(1) if self.spherical else missing
        variance = base.safe_ratio(squares, divisor)
        low = (variance < floor) & ~unseen
        variance = jnp.maximum(variance, jnp.asarray(floor, variance.dtype))
        variance = jnp.where(unseen, self.variance.reshape(variance.shape), variance).reshape(self.variance.shape)
        mean = jnp.where(missing, self.loc.reshape(mean.shape), mean).reshape(self.loc.shape)
        degenerate = missing.all(1) | low.reshape(len(missing), -1).any(1)
        return _replace(self, mean, variance), degenerate

    def log_prior(self, prior):
        """Log-density of `NormalInverseGamma` at mean and variance."""
        if prior is None:
            return 0.0
        variance = self._variances()
        centre = jnp.broadcast_to(jnp.asarray(prior.mean, self.loc.dtype), self.loc.shape)
        inverse = (prior.scale + 0.5 * prior.strength * (self.loc - centre) ** 2) / variance
        return (-(prior.shape + 1.5) * jnp.log(variance) - inverse).sum()

    def unconstrained(self):
        """Means and log variances."""
        return self.loc, jnp.log(self.variance)

    def constrained(self, free):
        """Means, and exponentials of the log variances."""
        return _replace(self, free[0], jnp.exp(free[1]))

    def free_counts(self):
        """Means and variances."""
        return [self.loc.size, self.variance.size]

    def permute(self, order):
        """States in another order."""
        return _replace(self, self.loc[order], self.variance[order])

    @property
    def prior_type(self):
        """`NormalInverseGamma`."""
        return NormalInverseGamma


def _replace(emission, mean, variance):
    return Normal(mean, variance, spherical=emission.spherical)


@jax.custom_vjp
def _log_density(values, seen, loc, variance):
    """Σ_d log Normal(values[t, d, r]; loc[k, d], variance[k, d]) over the features seen: (time, state, row).

    Features are unrolled: rows stay the innermost, contiguous axis. The gradient is written out, as matrix products.
    """
    return _plain_log_density(values, seen, loc, variance)


def _plain_log_density(values, seen, loc, variance):
    scale, constant = lax.rsqrt(variance), -0.5 * (jnp.log(variance) + LOG_2PI)
    total = None
    for d in range(loc.shape[1]):
        z = (values[:, d][:, None] - loc[None, :, d, None]) * scale[None, :, d, None]
        term = jnp.where(seen[:, d][:, None], constant[None, :, d, None] - 0.5 * z * z, 0)
        total = term if total is None else total + term
    return total


def _log_density_forward(*args):
    return _log_density(*args), args


def _log_density_backward(args, g):
    values, seen, loc, variance = args
    by_loc, by_variance = _PARAMETER_GRADIENT(values, seen, loc, variance, g)
    pulled = jnp.einsum("tkr,kd->tdr", g, loc / variance, precision=HIGHEST)
    stiffness = jnp.einsum("tkr,kd->tdr", g, 1 / variance, precision=HIGHEST)
    return jnp.where(seen, pulled - values * stiffness, 0), None, by_loc, by_variance


def _fast_gradient(values, seen, loc, variance, g):
    """From sums about one common centre; trusted while that is near every mean, in units of its deviation."""
    size, real = values.shape[1], seen.astype(values.dtype)
    centre = base.safe_ratio((values * real).sum((0, 2)), real.sum((0, 2)))
    off = (values - centre[None, :, None]) * real
    sums = _sums(g, jnp.concatenate([real, off, off * off], axis=1))
    total, first, second = sums[:, :size], sums[:, size : 2 * size], sums[:, 2 * size :]
    shift = loc - centre[None]
    by_loc = (first - total * shift) / variance
    by_variance = 0.5 * ((second - 2 * shift * first + total * shift**2) / variance - total) / variance
    return (by_loc, by_variance), (shift**2 <= 1000 * variance).all()


def _slow_gradient(values, seen, loc, variance, g):
    return jax.vjp(lambda m, v: _plain_log_density(values, seen, m, v), loc, variance)[1](g)


_PARAMETER_GRADIENT = certified(_fast_gradient, _slow_gradient)
_log_density.defvjp(_log_density_forward, _log_density_backward)


def _sums(weights, features):
    """Σ over steps and rows of weights ⊗ features: (time, state, row) and (time, feature, row) to (state, feature)."""
    if weights.shape[2] >= weights.shape[1]:  # one small product per step beats one that has to move the axes first
        return jnp.einsum("tkr,tfr->tkf", weights, features, precision=HIGHEST).sum(0)
    return jnp.einsum("tkr,tfr->kf", weights, features, precision=HIGHEST)


def _fast_moments(values, seen, weights):
    """Sums of squares about one common centre, by a matrix product; trusted while that centre is near every mean."""
    size = values.shape[1]
    centre = base.safe_ratio((values * seen).sum((0, 2)), seen.sum((0, 2)))
    off = (values - centre[None, :, None]) * seen
    sums = _sums(weights, jnp.concatenate([seen, off, off * off], axis=1))
    total, first, second = sums[:, :size], sums[:, size : 2 * size], sums[:, 2 * size :]
    shift = base.safe_ratio(first, total)
    far = total * shift * shift
    squares = second - far
    return (total, centre[None] + shift, squares), (far <= 1000 * squares).all()


def _slow_moments(values, seen, weights):
    """Sums of squares about each state's own mean."""
    total, mean, _ = _fast_moments(values, seen, weights)[0]
    columns = []
    for d in range(values.shape[1]):
        off = values[:, d][:, None] - mean[None, :, d, None]
        columns.append((weights * seen[:, d][:, None] * off * off).sum((0, 2)))
    return total, mean, jnp.stack(columns, axis=1)


# Weight, mean and sum of squares about the mean, for every state and feature. Subtracting squares of the size of the
# data from each other would lose a variance that is a thousand times smaller: then the slow way is taken.
moments = certified(_fast_moments, _slow_moments)


class MultivariateNormal(AbstractFamily):
    """Correlated normal features: x ~ Normal(mean[k], covariance[k]).

    A vector with some features missing counts with its marginal density, and EM fills it in by its conditional
    expectation (Little and Rubin 2002, section 11.2).

    Args:
        mean: shape (K, D). None for a family.
        covariance: shape (K, D, D), or (D, D) for one covariance shared by all states (tied).
        tied: for a family, whether the covariance is to be shared.

    Raises:
        ValueError: a covariance that is not symmetric positive definite (with its state), or shapes that do not fit.

    Example:
        >>> import numpy as np, chainrule as cr
        >>> clouds = cr.emissions.MultivariateNormal([[0., 0.], [3., 3.]], [[1., .5], [.5, 1.]])
        >>> hmm = cr.HMM([.5, .5], [[.9, .1], [.1, .9]], clouds)
        >>> hmm.viterbi(np.array([[0.1, -0.3], [3.2, np.nan], [2.5, 3.1]])).states.tolist()
        [0, 1, 1]
    """

    loc: Parameter = eqx.field(converter=base.as_parameter)
    covariance: Parameter = eqx.field(converter=base.as_parameter)
    tied: bool = eqx.field(static=True)

    def __init__(self, mean=None, covariance=None, *, tied=False):
        self.loc, self.covariance = mean, covariance
        self.tied = bool(tied) or (covariance is not None and np.ndim(covariance) == 2)

    def __check_init__(self):
        if (self.loc is None) != (self.covariance is None):
            raise ValueError("MultivariateNormal: give both mean and covariance, or neither for a family")
        if self.loc is None:
            return
        if self.loc.ndim != 2:
            raise ValueError(f"MultivariateNormal: mean must have shape (state, feature), got {self.loc.shape}")
        states, features = self.loc.shape
        wanted = (features, features) if self.tied else (states, features, features)
        if self.covariance.shape != wanted:
            raise ValueError(f"MultivariateNormal: covariance has shape {self.covariance.shape}, wanted {wanted}")
        base.require("MultivariateNormal: mean", self.loc, np.isfinite, "a finite number")
        base.require("MultivariateNormal: covariance", self.covariance, np.isfinite, "a finite number")
        if base.is_concrete(self.covariance):
            for state, matrix in enumerate(np.asarray(self.covariance, np.float64).reshape(-1, features, features)):
                which = "the covariance" if self.tied else f"the covariance of state {state}"
                if not np.allclose(matrix, matrix.T, rtol=1e-4, atol=1e-6 * abs(matrix).max()):
                    raise ValueError(f"MultivariateNormal: {which} is not symmetric")
                least = np.linalg.eigvalsh(matrix)[0]
                if least <= 0:
                    raise ValueError(
                        f"MultivariateNormal: {which} is not positive definite (smallest eigenvalue {least:.3g}); "
                        "use fewer features, or add a little to its diagonal"
                    )

    @property
    def location(self):
        """The means."""
        return self.loc

    def _covariances(self):
        states, features = self.loc.shape
        return jnp.broadcast_to(self.covariance, (states, features, features))

    def scores(self, values):
        """Log-density of complete vectors, and marginal log-density of incomplete ones."""
        values, seen = base.observed(values.astype(self.loc.dtype))
        rows, present = jnp.moveaxis(values, 1, 2), jnp.moveaxis(seen, 1, 2)  # (time, row, feature)
        partly = present.any(-1) & ~present.all(-1)
        complete = jnp.where(present.all(-1)[:, None], self._complete(values), 0)
        return lax.cond(
            partly.any(),
            lambda: jnp.where(partly[:, None], jnp.moveaxis(self._partial(rows, present)[0], 2, 1), complete),
            lambda: complete,
        )

    def _complete(self, values):
        lower = jnp.linalg.cholesky(self._covariances())
        identity = jnp.broadcast_to(jnp.eye(lower.shape[-1], dtype=lower.dtype), lower.shape)
        whiten = solve_triangular(lower, identity, lower=True)
        off = values[:, None] - self.loc[None, :, :, None]
        z = jnp.einsum("kij,tkjr->tkir", whiten, off, precision=HIGHEST)
        size = lower.shape[-1]
        constant = -jnp.log(jnp.diagonal(lower, axis1=1, axis2=2)).sum(1) - 0.5 * size * LOG_2PI
        return constant[None, :, None] - 0.5 * (z * z).sum(2)

    def _partial(self, rows, present):
        """Marginal log-densities (time, row, state), and for each the completed vector and the covariance it lacks."""
        loc, covariances = self.loc, self._covariances()

        def one(x, there, mean, covariance):
            both = there[:, None] & there[None, :]
            eye = jnp.eye(len(x), dtype=x.dtype)
            known = jnp.where(both, covariance, eye)  # missing features decouple, with unit variance
            lower = jnp.linalg.cholesky(known)
            off = jnp.where(there, x - mean, 0)
            z = solve_triangular(lower, off, lower=True)
            constant = -jnp.log(jnp.diagonal(lower)).sum() - 0.5 * LOG_2PI * there.sum(dtype=x.dtype)
            gain = jax.scipy.linalg.cho_solve((lower, True), jnp.where(there[:, None], covariance, 0))
            filled = jnp.where(there, x, mean + product(off, gain))
            unknown = ~there[:, None] & ~there[None, :]
            lacking = jnp.where(unknown, covariance - product(jnp.where(there[None, :], covariance, 0), gain), 0)
            return constant - 0.5 * (z * z).sum(), filled, lacking

        over_states = jax.vmap(one, in_axes=(None, None, 0, 0))
        return jax.vmap(jax.vmap(over_states, in_axes=(0, 0, None, None)), in_axes=(0, 0, None, None))(
            rows, present, loc, covariances
        )

    def sample(self, key, states):
        """One vector for each entry of `states`."""
        lower = jnp.linalg.cholesky(self._covariances())
        noise = jax.random.normal(key, (*states.shape, self.loc.shape[1]), self.loc.dtype)
        return self.loc[states] + jnp.einsum("...ij,...j->...i", lower[states], noise, precision=HIGHEST)

    def check(self, data):
        """Raise for what is infinite, or no vector of the right length."""
        if len(data.event_shape) != 1:
            raise ValueError(f"MultivariateNormal: observations must be vectors, got event shape {data.event_shape}")
        base.check_event(data, self.event_shape, "MultivariateNormal")
        base.check_values(data, np.isfinite, "a finite number (NaN would mean missing)")

    def initialise(self, key, num_states, data):
        """Means spread over the data, each with the covariance of all of it."""
        rows = base.observations(data)
        centres = base.spread_centres(key, rows, num_states)
        filled = np.where(np.isnan(rows), np.nanmean(rows, axis=0), rows)
        covariance = np.atleast_2d(np.cov(filled.T)) if len(rows) > 1 else np.eye(rows.shape[1])
        covariance = covariance + 1e-6 * max(np.trace(covariance) / len(covariance), 1e-6) * np.eye(len(covariance))
        if not self.tied:
            covariance = np.broadcast_to(covariance, (num_states, *covariance.shape))
        return MultivariateNormal(0.8 * centres + 0.2 * filled.mean(0), covariance)

    def maximise(self, values, weights, prior, floor):
        """Weighted mean and covariance, what is missing replaced by its conditional moments."""
        values, seen = base.observed(values.astype(self.loc.dtype))
        weights = jnp.where(seen.any(1)[:, None], weights, 0)  # a vector with nothing in it says nothing
        rows, present = jnp.moveaxis(values, 1, 2), jnp.moveaxis(seen, 1, 2)
        partly = present.any(-1) & ~present.all(-1)
        full = jnp.where(partly[:, None], 0, weights)

        def sums(off, w):  # (time, state, feature, row), (time, state, row)
            first = jnp.einsum("tkr,tkir->ki", w, off, precision=HIGHEST)
            return first, jnp.einsum("tkir,tkjr->kij", w[:, :, None] * off, off, precision=HIGHEST)

        def with_partial():
            _, filled, lacking = self._partial(rows, present)
            w = jnp.where(partly[:, None], weights, 0)
            off = jnp.moveaxis(filled, 1, 3) - self.loc[None, :, :, None]
            first, second = sums(off, w)
            return first, second + jnp.einsum("tkr,trkij->kij", w, lacking, precision=HIGHEST)

        first, second = sums(values[:, None] - self.loc[None, :, :, None], full)
        nothing = lambda: (jnp.zeros_like(first), jnp.zeros_like(second))  # noqa: E731
        more = lax.cond(partly.any(), with_partial, nothing)
        first, second, total = first + more[0], second + more[1], weights.sum((0, 2))

        shift = base.safe_ratio(first, total[:, None])
        scatter = second - total[:, None, None] * shift[:, :, None] * shift[:, None, :]
        empty = total <= 0
        if self.tied:
            covariance = scatter.sum(0) / jnp.maximum(total.sum(), jnp.finfo(total.dtype).tiny)
        else:
            covariance = base.safe_ratio(scatter, total[:, None, None])
        covariance, low = _raise_spectrum(0.5 * (covariance + covariance.swapaxes(-1, -2)), floor)
        if not self.tied:
            covariance = base.guarded(covariance, self.covariance, total)
        return MultivariateNormal(base.guarded(self.loc + shift, self.loc, total), covariance), empty | low

    def unconstrained(self):
        """Means, and Cholesky factors with the logarithm of their diagonal."""
        lower = jnp.linalg.cholesky(self.covariance)
        diagonal = jnp.diagonal(lower, axis1=-2, axis2=-1)
        return self.loc, jnp.tril(lower, -1), jnp.log(diagonal)

    def constrained(self, free):
        """Means, and the product of each Cholesky factor with its transpose."""
        loc, below, log_diagonal = free
        eye = jnp.eye(loc.shape[1], dtype=loc.dtype)
        lower = jnp.tril(below, -1) + jnp.exp(log_diagonal)[..., None] * jnp.broadcast_to(eye, below.shape)
        return MultivariateNormal(loc, jnp.einsum("...ij,...kj->...ik", lower, lower, precision=HIGHEST))

    def free_counts(self):
        """Means, and the lower triangle of each covariance."""
        features = self.loc.shape[1]
        return [self.loc.size, (1 if self.tied else self.loc.shape[0]) * features * (features + 1) // 2]

    def permute(self, order):
        """States in another order; a tied covariance belongs to none of them."""
        return MultivariateNormal(self.loc[order], self.covariance if self.tied else self.covariance[order])

    @property
    def prior_type(self):
        """None: there is no conjugate prior yet."""
        return None


def _raise_spectrum(covariance, floor):
    """Lift eigenvalues below `floor` to it, and say in which matrices that happened."""
    values, vectors = jnp.linalg.eigh(covariance)
    low = (values < floor).any(-1)
    lifted = jnp.maximum(values, jnp.asarray(floor, values.dtype))
    rebuilt = jnp.einsum("...ij,...j,...kj->...ik", vectors, lifted, vectors, precision=HIGHEST)
    return jnp.where(low[..., None, None], rebuilt, covariance), low
