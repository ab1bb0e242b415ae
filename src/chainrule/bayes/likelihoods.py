"""What the outputs of a network mean: the distribution of a target given the outputs.

A likelihood is a function from the outputs of the network for all rows, shape (row, …), to a NumPyro distribution of
all targets. It runs inside a NumPyro program, so it may sample unknowns of its own, such as a noise level; they become
part of the posterior. A plain function will do:

    lambda outputs: dist.Normal(outputs[:, 0], jnp.exp(outputs[:, 1]))      # a noise level that depends on the input
"""

import equinox as eqx
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array, Float


class Normal(eqx.Module):
    """Targets equal the outputs plus Gaussian noise of unknown precision: y ~ N(f(x), 1/τ), τ ~ `noise_prior`.

    The prior of the noise can matter more than the network: after a perfect fit of n rows, Gamma(a, b) still keeps the
    noise's standard deviation near sqrt(b / (a + n/2)). The default lets it be small on standardised targets.

    Args:
        noise_prior: a NumPyro distribution of the precision τ > 0, shared by all targets; Gamma(1, 0.01) by default.

    Raises:
        ValueError: a prior that is no scalar distribution of positive numbers.

    Example:
        >>> import numpyro.distributions as dist
        >>> from chainrule import bayes
        >>> likelihood = bayes.Normal(noise_prior=dist.Gamma(6.0, 6.0))
    """

    noise_prior: dist.Distribution

    def __init__(self, noise_prior: dist.Distribution | None = None):
        self.noise_prior = dist.Gamma(1.0, 0.01) if noise_prior is None else noise_prior

    def __check_init__(self):
        prior = self.noise_prior
        if not isinstance(prior, dist.Distribution) or prior.shape() != ():
            raise ValueError(
                f"noise_prior is {prior!r}; one scalar NumPyro distribution is wanted, such as Gamma(1, 0.01)"
            )
        support = prior.support
        if support is None or not bool(support(1e-3)) or bool(support(-1.0)):
            raise ValueError(
                f"noise_prior is a prior of a precision, so its support must be the positive numbers: {prior}"
            )

    def __call__(self, outputs: Float[Array, "row ..."]) -> dist.Distribution:
        """Sample the precision and return the distribution of the targets, shaped like the outputs."""
        precision = numpyro.sample("noise_precision", self.noise_prior)
        return dist.Normal(outputs, precision**-0.5)


class Bernoulli(eqx.Module):
    """Targets are 0 or 1 with log-odds equal to the outputs: y ~ Bernoulli(σ(f(x))).

    Example:
        >>> import jax.numpy as jnp
        >>> from chainrule import bayes
        >>> bayes.Bernoulli()(jnp.zeros(3)).mean
        Array([0.5, 0.5, 0.5], dtype=float32)
    """

    def __call__(self, outputs: Float[Array, "row ..."]) -> dist.Distribution:
        """Return the distribution of the targets, shaped like the outputs."""
        return dist.BernoulliLogits(outputs)


class Categorical(eqx.Module):
    """Targets are classes 0 … C−1 with log-odds equal to the outputs: y ~ Categorical(softmax(f(x))).

    Example:
        >>> import jax.numpy as jnp
        >>> from chainrule import bayes
        >>> bayes.Categorical()(jnp.zeros((3, 4))).batch_shape
        (3,)
    """

    def __call__(self, outputs: Float[Array, "row ... class"]) -> dist.Distribution:
        """Return the distribution of the targets: the outputs' shape without its last axis, which holds the classes."""
        return dist.CategoricalLogits(outputs)
