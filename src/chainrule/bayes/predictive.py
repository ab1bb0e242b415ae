"""What is predicted: an equal mixture of one distribution per posterior draw.

    p(y | x, data) = 1/S Σ_s p(y | x, z_s)

Its log-density is that of the mixture, not of a Gaussian with the same moments. Its spread has two parts. Regression,
by the law of total variance: the mean of the draws' variances (aleatoric: noise that more data cannot remove) and the
variance of the draws' means (epistemic: doubt about the function). Classification, by entropies: the entropy of the
mean probabilities (total) is the mean entropy of the draws (expected) plus the mutual information between class and
parameters, which is the epistemic part.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.scipy.special import entr, logsumexp, rel_entr
from jaxtyping import Array, Float

from ..inference.compiling import filter_jit


class Predictive(eqx.Module):
    """The predictive distribution of the targets of some rows.

    Args:
        components: one NumPyro distribution of all rows per draw, as `jax.vmap` makes them: a distribution whose arrays
            have a leading draw axis.

    Example:
        >>> import jax, jax.numpy as jnp, numpyro.distributions as dist
        >>> from chainrule import bayes
        >>> two = bayes.Predictive(jax.vmap(dist.Normal)(jnp.array([0.0, 2.0]), jnp.ones(2)))
        >>> float(two.variance), float(two.aleatoric_variance), float(two.epistemic_variance)
        (2.0, 1.0, 1.0)

    Reference: Depeweg et al., "Decomposition of Uncertainty in Bayesian Deep Learning", ICML 2018.
    """

    components: dist.Distribution

    @property
    def num_draws(self) -> int:
        """How many distributions are mixed."""
        return jax.tree.leaves(self.components)[0].shape[0]

    # --- any target ---

    def log_prob(self, y) -> Float[Array, " row"]:
        """Log-density of each row's target, log 1/S Σ_s p(yₙ | xₙ, z_s); several targets of a row are taken jointly.

        Raises:
            ValueError: targets whose shape is not that of the prediction.
        """
        return _log_prob(self.components, self._checked(y))

    def nll(self, y) -> Float[Array, ""]:
        """Mean negative log-density over the rows, in nats; lower is better."""
        return _nll(self.components, self._checked(y))

    def sample(self, key: Array, num_samples: int) -> Array:
        """Draw targets, shape (num_samples, row, …). Within a sample all rows share one posterior draw."""
        return _sample(key, self.components, num_samples)

    # --- regression ---

    @property
    def mean(self) -> Float[Array, "row ..."]:
        """Mean of each target."""
        return self._moments().mean

    @property
    def aleatoric_variance(self) -> Float[Array, "row ..."]:
        """The part of the variance that is noise: the mean over draws of the variance."""
        return self._moments().aleatoric

    @property
    def epistemic_variance(self) -> Float[Array, "row ..."]:
        """The part of the variance that is doubt about the function: the variance over draws of the mean."""
        return self._moments().epistemic

    @property
    def variance(self) -> Float[Array, "row ..."]:
        """Variance of each target, aleatoric plus epistemic."""
        return self._moments().variance

    @property
    def std(self) -> Float[Array, "row ..."]:
        """Standard deviation of each target."""
        return self._moments().std

    def interval(self, level: float) -> tuple[Float[Array, "row ..."], Float[Array, "row ..."]]:
        """Equal-tailed interval of each target: lower and upper end, with probability `level` between them.

        The ends are quantiles of the mixture, found by bisection between the smallest and the largest quantile of its
        components.

        Raises:
            ValueError: a level outside (0, 1), or targets that are classes or have no distribution function in NumPyro.
        """
        if not 0 < level < 1:
            raise ValueError(f"level is {level}; a probability between 0 and 1, such as 0.9, is wanted")
        tails = jnp.array([(1 - level) / 2, (1 + level) / 2])
        try:
            lower, upper = _quantiles(self.components, tails)
        except NotImplementedError as error:
            raise ValueError(
                f"NumPyro has no quantile function for {type(self.components).__name__}; for classes see `probs`, "
                "otherwise take jnp.quantile of `sample(key, num_samples)`"
            ) from error
        return lower, upper

    # --- classification ---

    @property
    def probs(self) -> Float[Array, "row ... class"]:
        """Probability of each class; two classes, 0 and 1, for a Bernoulli likelihood."""
        return self._classification().probs

    @property
    def total_entropy(self) -> Float[Array, "row ..."]:
        """Entropy of the mean probabilities, in nats: `expected_entropy` plus `mutual_information`."""
        return self._classification().total_entropy

    @property
    def expected_entropy(self) -> Float[Array, "row ..."]:
        """Mean entropy of the draws, in nats: the aleatoric part."""
        return self._classification().expected_entropy

    @property
    def mutual_information(self) -> Float[Array, "row ..."]:
        """Mutual information of class and parameters, in nats: the epistemic part."""
        return self._classification().mutual_information

    def brier(self, y) -> Float[Array, ""]:
        """Brier score: squared distance of the probabilities from the true class, summed over classes, row mean."""
        return _brier(*self._with_classes(y))

    def ece(self, y, bins: int) -> Float[Array, ""]:
        """Compute the expected calibration error Σ_b (rows in b)/N · |accuracy(b) − confidence(b)| over equal bins.

        The confidence of a row is the probability of its most probable class. The value depends strongly on the number
        of bins, so there is no default: report it with the score.

        Raises:
            ValueError: fewer than one bin, or targets that are no classes of this prediction.

        Reference: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017.
        """
        if bins < 1:
            raise ValueError(f"bins is {bins}; at least one is wanted")
        return _ece(*self._with_classes(y), bins)

    # --- helpers ---

    def _moments(self) -> "_Moments":
        if isinstance(self.components, (dist.CategoricalLogits, dist.CategoricalProbs)):
            raise ValueError("classes have no mean or variance; use probs, total_entropy and mutual_information")
        return _moments(self.components)

    def _classification(self) -> "_Classification":
        if not self.components.has_enumerate_support:
            raise ValueError(
                f"{type(self.components).__name__} targets are no classes; use mean, variance, interval or log_prob"
            )
        return _classification(self.components)

    def _checked(self, y):
        y, shape = y if isinstance(y, np.ndarray) else jnp.asarray(y), self.components.shape()
        if y.shape != shape:
            raise ValueError(f"y has shape {y.shape}; the prediction is for targets of shape {shape}")
        return y

    def _with_classes(self, y):
        """Probabilities of the classes, and the true ones."""
        values, probs = np.asarray(self._checked(y)), self.probs
        num_classes = probs.shape[-1]
        if not (np.isin(values, np.arange(num_classes)).all()):
            raise ValueError(f"y holds {np.unique(values)[:5]}…; classes are the whole numbers 0 … {num_classes - 1}")
        return probs, values.astype(int)


# Compiled as a whole: operation by operation, the first call would take many times longer.


class _Moments(NamedTuple):
    mean: Float[Array, "row ..."]
    aleatoric: Float[Array, "row ..."]
    epistemic: Float[Array, "row ..."]
    variance: Float[Array, "row ..."]
    std: Float[Array, "row ..."]


class _Classification(NamedTuple):
    probs: Float[Array, "row ... class"]
    total_entropy: Float[Array, "row ..."]
    expected_entropy: Float[Array, "row ..."]
    mutual_information: Float[Array, "row ..."]


@filter_jit
def _log_prob(components, y):
    def one(component):
        log_density = component.log_prob(y)
        return log_density.sum(axis=tuple(range(1, log_density.ndim)))

    each = jax.vmap(one)(components)
    return logsumexp(each, axis=0) - jnp.log(jnp.asarray(each.shape[0], each.dtype))


@filter_jit
def _nll(components, y):
    return -_log_prob(components, y).mean()


@filter_jit
def _sample(key, components, num_samples: int):
    pick_key, draw_key = jax.random.split(key)
    picks = jax.random.randint(pick_key, (num_samples,), 0, jax.tree.leaves(components)[0].shape[0])
    chosen = jax.tree.map(lambda leaf: leaf[picks], components)
    return jax.vmap(lambda component, key: component.sample(key))(chosen, jax.random.split(draw_key, num_samples))


@filter_jit
def _moments(components) -> _Moments:
    means, variances = jax.vmap(lambda component: (component.mean, component.variance))(components)
    aleatoric, epistemic = variances.mean(axis=0), means.var(axis=0)
    variance = aleatoric + epistemic
    return _Moments(means.mean(axis=0), aleatoric, epistemic, variance, jnp.sqrt(variance))


@filter_jit
def _classification(components) -> _Classification:
    def one(component):
        return jnp.moveaxis(jnp.exp(component.log_prob(component.enumerate_support())), 0, -1)

    each = jax.vmap(one)(components)
    probs = each.mean(axis=0)
    # the mean divergence from the mixture: the difference of two entropies would cancel
    information = rel_entr(each, each.mean(axis=0, keepdims=True)).sum(axis=-1).mean(axis=0)
    return _Classification(probs, entr(probs).sum(axis=-1), entr(each).sum(axis=-1).mean(axis=0), information)


@filter_jit
def _brier(probs, y):
    return ((probs - jax.nn.one_hot(y, probs.shape[-1])) ** 2).sum(axis=-1).mean()


@filter_jit
def _ece(probs, y, bins: int):
    confidence = probs.max(axis=-1).reshape(-1)
    right = (probs.argmax(axis=-1) == y).reshape(-1).astype(confidence.dtype)
    # bin b is (b/bins, (b+1)/bins]: a confidence of exactly 1 falls into the last
    index = jnp.clip(jnp.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = jnp.zeros(bins, confidence.dtype).at[index].add(right - confidence)
    return jnp.abs(gaps).sum() / confidence.size


@filter_jit
def _quantiles(components, tails):
    def one_tail(tail):
        ends = jax.vmap(lambda component: component.icdf(jnp.full(component.shape(), tail)))(components)

        def halve(_, bracket):
            low, high = bracket
            middle = low + (high - low) / 2
            below = jax.vmap(lambda component: component.cdf(middle))(components).mean(axis=0) < tail
            return jnp.where(below, middle, low), jnp.where(below, high, middle)

        # each step halves the bracket: 50 exhaust the digits of float64 relative to it
        low, high = jax.lax.fori_loop(0, 50, halve, (ends.min(axis=0), ends.max(axis=0)))
        return low + (high - low) / 2

    return jax.lax.map(one_tail, tails)
