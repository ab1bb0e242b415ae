"""Sequence models as NumPyro distributions: their hidden states are summed out by the engine, never enumerated."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Int
from numpyro.distributions import constraints
from numpyro.util import is_prng_key

from ..forms.chain import is_concrete
from ..inference.compiling import jit
from ..models.emissions import Bernoulli, Categorical, Poisson
from ..models.hmm import HMM


def as_distribution(
    model: HMM, length: int, *, lengths: Int[Array, " sequence"] | None = None
) -> "SequenceDistribution":
    """A model as a distribution over observed sequences, for any NumPyro program.

    log p(x) and its gradient come from one forward–backward pass; that is all that NUTS and SVI see of the hidden states.
    NaN in observed sequences means missing.

    Args:
        model: a hidden Markov model, usually built inside the program from sampled parameters.
        length: steps per sequence, T; the event shape is (T, *event).
        lengths: for S sequences padded to T, how many steps of each are real; the batch shape is then (S,).

    Raises:
        ValueError: a model without parameters, a length below one, or lengths outside 1 … T.

    Example:
        >>> import jax, jax.numpy as jnp, numpyro, numpyro.distributions as dist, chainrule as cr
        >>> def program(x):
        ...     rate = numpyro.sample("rate", dist.Gamma(jnp.array([10., 30.]), 1.).to_event(1))
        ...     hmm = cr.HMM([.5, .5], [[.9, .1], [.1, .9]], cr.emissions.Poisson(rate))
        ...     numpyro.sample("x", cr.bayes.as_distribution(hmm, len(x)), obs=x)
        >>> trace = numpyro.handlers.trace(numpyro.handlers.seed(program, jax.random.key(0)))
        >>> trace.get_trace(jnp.array([9, 12, 31]))["x"]["fn"].event_shape
        (3,)
    """
    if not model.emission.has_parameters():
        raise ValueError(f"{model!r} has an emission without parameters; give it some")
    if length < 1:
        raise ValueError(f"length is {length}; a sequence has at least one step")
    if lengths is not None and is_concrete(lengths):
        sizes = np.asarray(lengths)
        if sizes.ndim != 1 or sizes.dtype.kind not in "iu":
            raise ValueError(f"lengths is {lengths!r}; wanted one whole number for each sequence")
        if ((sizes < 1) | (sizes > length)).any():
            n = int(np.argmax((sizes < 1) | (sizes > length)))
            raise ValueError(f"lengths[{n}] is {sizes[n]}; each sequence has 1 … {length} real steps")
    return SequenceDistribution(model, length, lengths)


class SequenceDistribution(dist.Distribution):
    """p(x) of a sequence model; made by `as_distribution`."""

    pytree_data_fields = ("model", "lengths")
    pytree_aux_fields = ("length",)

    def __init__(self, model: HMM, length: int, lengths=None):
        self.model, self.length = model, length
        event: Any = model.emission.event_shape
        self.lengths = None if lengths is None else jnp.asarray(lengths)
        batch = () if self.lengths is None else self.lengths.shape
        super().__init__(batch, (length, *event), validate_args=False)  # NaN is allowed: missing

    @property
    def support(self):
        """Whole numbers for discrete emissions, else reals, one for each entry of an event."""
        whole = isinstance(self.model.emission, Categorical | Poisson | Bernoulli)
        return constraints.independent(constraints.nonnegative_integer if whole else constraints.real, self.event_dim)

    def sample(self, key: Any, sample_shape=()):
        """Draw observed sequences, shape (*sample_shape, *batch_shape, T, *event)."""
        assert is_prng_key(key)
        shape = (*sample_shape, *self.batch_shape)
        count = 1
        for size in shape:
            count *= size
        _, x = self.model.sample(key, self.length, count)
        return x.reshape(*shape, *self.event_shape)

    def log_prob(self, value):
        """Log p(value), of shape value.shape without the event."""
        value = jnp.asarray(value)
        if value.shape[-self.event_dim :] != self.event_shape:
            raise ValueError(f"observed sequences have shape {value.shape}; it must end in {self.event_shape}")
        if self.lengths is not None:  # what follows the end says nothing, like anything missing
            real = jnp.arange(self.length) < self.lengths[:, None]
            value = value if jnp.issubdtype(value.dtype, jnp.floating) else value.astype(float)
            value = jnp.where(real.reshape(*real.shape, *[1] * (self.event_dim - 1)), value, jnp.nan)
        batch = value.shape[: value.ndim - self.event_dim]
        flat = value.reshape(-1, *self.event_shape)
        return _log_prob(self.model, flat).reshape(batch)


@jit
def _log_prob(model: HMM, sequences):
    """Log p of each of several sequences of equal length."""
    return model.log_prob(sequences)
