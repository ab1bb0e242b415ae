"""Annealed importance sampling: ratios of partition functions along a path of distributions.

A family p_β(x) = f_β(x) / Z_β leads from one that is understood (β = 0) to the one that is asked about (β = 1). A chain
that walks from β₀ to β_K, one sweep at each stop, collects the weight

    w = Π_{k=1}^{K} f_{β_k}(x_{k−1}) / f_{β_{k−1}}(x_{k−1}),      x_k ~ T_{β_k}(· | x_{k−1}),      E[w] = Z_{β_K} / Z_{β_0},

which is unbiased whatever the number of stops, if x₀ is a sample of p_{β₀} and T_β leaves p_β as it is (Neal 2001). The
logarithm of an unbiased estimate is too small on average, by Jensen's inequality and without a bound on how much, so
one walk alone tells nothing about its own error. The walk back, from samples at β = 1, estimates Z₀ / Z₁, and so is too
*large* for log Z₁ (Burda, Grosse and Salakhutdinov 2015; Grosse, Ghahramani and Adams 2015): between the two is the truth.

References:
    Neal (2001), Annealed importance sampling. Statistics and Computing 11.
    Burda, Grosse and Salakhutdinov (2015), Accurate and conservative estimates of MRF log-likelihood using reverse
        annealing. AISTATS.
    Grosse, Ghahramani and Adams (2015), Sandwiching the marginal likelihood using bidirectional Monte Carlo.
"""

import enum
import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Key

Sweep = Callable[[Any, Any, Any], Any]
LogDensity = Callable[[Any, Any], Any]


class Annealed(eqx.Module):
    """What walks along a path of distributions have found: an estimate of log Z_end − log Z_start.

    Attributes:
        log_weights: log w of each chain, shape (chains,).
        state: the chains where they are at the end. They are samples of p_end only when weighted by `log_weights`.

    Example:
        >>> import jax.numpy as jnp
        >>> from chainrule.inference.annealing import Annealed
        >>> found = Annealed(jnp.log(jnp.array([1.0, 1.0, 1.0, 5.0])), None)
        >>> round(float(jnp.exp(found.log_ratio)), 4), round(float(found.effective_sample_size), 4)
        (2.0, 2.2857)
    """

    log_weights: Float[Array, " chain"]
    state: Any

    @property
    @jax.jit
    def log_ratio(self) -> Float[Array, ""]:
        """Log of the mean weight: log Z_end − log Z_start, from below on average."""
        return jax.nn.logsumexp(self.log_weights) - jnp.log(jnp.asarray(len(self.log_weights), self.log_weights.dtype))

    @property
    @jax.jit
    def standard_error(self) -> Float[Array, ""]:
        """Standard error of `log_ratio` by the delta method, sd(w) / (√chains · mean(w)).

        It is known only as well as the weights' variance is: where `effective_sample_size` is a handful it is too small.
        """
        relative = jnp.exp(self.log_weights - self.log_ratio)
        return jnp.std(relative, ddof=1) / jnp.sqrt(jnp.asarray(len(relative), relative.dtype))

    @property
    @jax.jit
    def effective_sample_size(self) -> Float[Array, ""]:
        """(Σ w)² / Σ w²: how many chains of equal weight these are worth (Kong 1992)."""
        return jnp.exp(2 * jax.nn.logsumexp(self.log_weights) - jax.nn.logsumexp(2 * self.log_weights))

    @jax.jit
    def interval(self, errors: float = 3.0) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Ends of log(mean(w) ± errors · standard error); the lower one is −inf where that is not positive."""
        spread = errors * self.standard_error
        low = jnp.where(spread < 1, jnp.log1p(-jnp.where(spread < 1, spread, 0)), -jnp.inf)
        return self.log_ratio + low, self.log_ratio + jnp.log1p(spread)

    def __repr__(self):
        return f"Annealed({len(self.log_weights)} chains)"


def annealed_importance_sampling(
    key: Key[Array, ""],
    state: Any,
    sweep: Sweep,
    log_density: LogDensity,
    betas: Float[Array, " stop"],
    *,
    log_ratio: Callable[[Any, Any, Any], Any] | None = None,
) -> Annealed:
    """Walk many chains along β and weigh them (Neal 2001).

    This is one `lax.scan`, meant to be called inside the caller's jitted function, so that new weights and temperatures
    compile nothing.

    Args:
        key: seeds all sweeps.
        state: independent samples of p at betas[0], any pytree; where its chain axis is, the two functions know.
        sweep: `sweep(key, state, beta)` moves all chains by a transition that leaves p_β invariant; it need not be
            reversible.
        log_density: `log_density(state, beta)`, log f_β of each chain, shape (chains,).
        betas: the stops, shape (K + 1,). Rising from 0 to 1 the result estimates log Z₁ − log Z₀; falling from 1 to 0,
            with `state` sampled from p₁, it is the reverse walk and estimates log Z₀ − log Z₁.
        log_ratio: `log_ratio(state, before, after)`, log f_after − log f_before, where that can be had more exactly than
            as a difference of large numbers; for f_β = exp(−β E) it is (before − after) · E.

    Raises:
        ValueError: fewer than two stops.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from chainrule.inference import annealing
        >>> start, sweep = jax.random.normal(jax.random.key(0), (500,)), lambda key, x, beta: (
        ...     jax.random.normal(key, x.shape) / jnp.sqrt(1 + 3 * beta))        # exact draws of N(0, 1 / (1 + 3 β))
        >>> found = annealing.annealed_importance_sampling(
        ...     jax.random.key(1), start, sweep, lambda x, beta: -(1 + 3 * beta) * x**2 / 2, jnp.linspace(0, 1, 50))
        >>> abs(float(found.log_ratio) + 0.5 * float(jnp.log(4))) < 4 * float(found.standard_error)
        True
    """
    if betas.ndim != 1 or len(betas) < 2:
        raise ValueError(
            f"betas has shape {betas.shape}; wanted a vector of at least two, such as linspace(0, 1, 1000)"
        )

    def difference(state, before, after):
        return log_density(state, after) - log_density(state, before)

    gain = difference if log_ratio is None else log_ratio

    def step(carry, inputs):
        state, total, lost = carry
        key, before, after = inputs
        # Summed with compensation (Kahan 1965): the terms are small beside a sum over ten thousand stops.
        term = gain(state, before, after) - lost
        new = total + term
        return (sweep(key, state, after), new, (new - total) - term), None

    shape = jax.eval_shape(log_density, state, betas[0])
    zero = jnp.zeros(shape.shape, shape.dtype)
    keys = jax.random.split(key, len(betas) - 1)
    (state, total, _), _ = lax.scan(step, (state, zero, zero), (keys, betas[:-1], betas[1:]))
    return Annealed(total, state)


class SandwichStatus(enum.Enum):
    """How far apart the two ends of a sandwich are; each member reads as advice."""

    TIGHT = "the forward and the reverse walk agree within the tolerance"
    WIDE = "the two walks are further apart than the tolerance: use more stops, more chains, or a better start"
    CROSSED = (
        "the lower end is above the upper one by more than chance explains: the reverse walk did not start from samples of "
        "the model, burn in for longer"
    )
    DIVERGED = "an end is NaN or infinite: check the model for weights that are"

    def __repr__(self):
        return f"{type(self).__name__}.{self.name}"


class Sandwich(eqx.Module):
    """A log partition function between two stochastic bounds.

    Attributes:
        lower: log Z₁ by the forward walk, too small on average.
        upper: log Z₁ by the reverse walk, too large on average, if that started from samples of the model.
        lower_error, upper_error: their standard errors.
        lower_sample_size, upper_sample_size: effective numbers of chains behind them.
        tolerance: how many nats apart they may be to be called tight.
    """

    lower: Float[Array, ""]
    upper: Float[Array, ""]
    lower_error: Float[Array, ""]
    upper_error: Float[Array, ""]
    lower_sample_size: Float[Array, ""]
    upper_sample_size: Float[Array, ""]
    tolerance: float = 1.0

    @property
    def estimate(self) -> Float[Array, ""]:
        """The middle of the two ends."""
        return (self.lower + self.upper) / 2

    @property
    def gap(self) -> Float[Array, ""]:
        """`upper − lower`, in nats."""
        return self.upper - self.lower

    @property
    def status(self) -> SandwichStatus:
        """Whether the ends agree."""
        gap, error = float(self.upper) - float(self.lower), math.hypot(float(self.lower_error), float(self.upper_error))
        if not math.isfinite(gap):
            return SandwichStatus.DIVERGED
        if gap < -4 * error and gap < -1e-3 * self.tolerance:  # the second for ends that agree to rounding
            return SandwichStatus.CROSSED
        known = math.isfinite(error)  # of a single chain there is none, and so no knowing how far the ends may be off
        return SandwichStatus.TIGHT if known and abs(gap) <= self.tolerance else SandwichStatus.WIDE

    def __repr__(self):
        return f"Sandwich({float(self.lower):.6g} to {float(self.upper):.6g}, {self.status.name})"


def sandwich(
    key: Key[Array, ""],
    start: Any,
    end: Any,
    sweep: Sweep,
    log_density: LogDensity,
    betas: Float[Array, " stop"],
    *,
    log_partition: Float[Array, ""] | float = 0.0,
    log_ratio: Callable[[Any, Any, Any], Any] | None = None,
    tolerance: float = 1.0,
) -> Sandwich:
    """Walk forward from `start` and back from `end`, and so bound log Z₁ from both sides, in probability.

    Args:
        key: seeds both walks.
        start: independent samples of p₀, exact.
        end: independent samples of p₁, as good as they can be had: the upper end is a bound only if they are.
        sweep: as for `annealed_importance_sampling`.
        log_density: as there.
        betas: the stops, rising from 0 to 1.
        log_partition: log Z₀, which is known.
        log_ratio: as for `annealed_importance_sampling`.
        tolerance: nats between the ends that may still be called tight.

    Raises:
        ValueError: `start` and `end` of different shapes.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from chainrule.inference import annealing
        >>> keys = jax.random.split(jax.random.key(0), 3)
        >>> draw = lambda key, x, beta: jax.random.normal(key, x.shape) / jnp.sqrt(1 + 3 * beta)
        >>> start = jax.random.normal(keys[0], (500,))
        >>> annealing.sandwich(keys[1], start, draw(keys[2], start, 1.0), draw,
        ...                    lambda x, beta: -(1 + 3 * beta) * x**2 / 2, jnp.linspace(0, 1, 100)).status
        SandwichStatus.TIGHT
    """
    shapes = [jax.tree.map(jnp.shape, state) for state in (start, end)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"start and end have shapes {shapes[0]} and {shapes[1]}; both walks need the same chains")

    def walk(key, state, betas):
        return annealed_importance_sampling(key, state, sweep, log_density, betas, log_ratio=log_ratio)

    # side by side, which halves what is compiled and makes products of twice the rows
    states = jax.tree.map(lambda a, b: jnp.stack([a, b]), start, end)
    found = jax.vmap(walk)(jax.random.split(key), states, jnp.stack([betas, betas[::-1]]))
    forward, reverse = (Annealed(found.log_weights[i], None) for i in range(2))
    return Sandwich(
        lower=forward.log_ratio + log_partition,
        upper=log_partition - reverse.log_ratio,
        lower_error=forward.standard_error,
        upper_error=reverse.standard_error,
        lower_sample_size=forward.effective_sample_size,
        upper_sample_size=reverse.effective_sample_size,
        tolerance=tolerance,
    )
