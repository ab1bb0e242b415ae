"""What a fit of an energy minimises, when its normaliser is out of reach.

    p(x) = exp(−E(x)) / Z        score s(x) = ∇ log p(x) = −∇E(x)

Contrastive divergence follows the gradient of log p with chains in place of p; score matching needs neither chains nor Z,
because the score does not contain it; noise-contrastive estimation learns Z as one parameter more.

An objective prepares what no gradient goes through, `draw`, and then scores a batch, `loss`: what is minimised, and the
number to show. `energy` is a function of one state, closed over the parameters.
"""

from abc import abstractmethod
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from ..forms.products import product
from ..inference.langevin import AbstractSampler, Energy, Langevin

_LIMIT = 1e3


class AbstractEnergyObjective(eqx.Module):
    """The contract; see the module's description."""

    normalises: ClassVar[bool] = False  # whether it learns log Z

    def begin(self, rng: np.random.Generator, data: np.ndarray, batch_size: int) -> Any:
        """What the objective remembers from step to step, made on the host."""
        return None

    @abstractmethod
    def draw(self, energy: Energy, rows: Float[Array, "row *event"], key: Key[Array, ""], memory: Any):
        """Random things for one step, and what to remember."""

    @abstractmethod
    def loss(self, energy: Energy, log_normaliser: Any, rows: Float[Array, "row *event"], drawn: Any):
        """What is minimised, and what is shown: two numbers."""

    def limit(self) -> float:
        """The size of the number shown past which the fit has diverged."""
        return float("inf")


class LangevinPCD(AbstractEnergyObjective):
    """Persistent contrastive divergence by Langevin chains from a replay buffer.

        ∇ E_data[log p] = −E_data[∇E(x)] + E_p[∇E(x)]

    The second mean is over chains that go on from where the last steps left them (Tieleman 2008; with a buffer of restarted
    chains Du and Mordatch 2019). What is shown is the gap, mean E of the data less mean E of the chains: near zero in a fit
    that goes well, and far from it when the chains no longer follow.

    Args:
        sampler: the chains' steps between two steps of learning.
        chains: how many chains the buffer holds; rounded up to whole batches, of which each step moves one.
        restart: the share of chains that begins anew each time, from a Gaussian with the data's means and deviations.
        penalty: weight of E(data)² + E(chains)², which keeps energies near zero. It is what most helps against divergence,
            and it biases the fit a little; 0 takes it away.
        max_gap: the fit counts as diverged where the gap is larger.

    Raises:
        ValueError: no chains, a share outside [0, 1], a negative penalty, or a gap that is not positive.

    Example:
        >>> import chainrule as cr
        >>> careful = cr.LangevinPCD(cr.Langevin(0.01, steps=40), penalty=0.01)  # longer chains, a stronger hold
        >>> careful.sampler.steps, careful.chains
        (40, 1000)
    """

    sampler: AbstractSampler = eqx.field(default_factory=lambda: Langevin(0.01, 20))
    chains: int = eqx.field(default=1000, static=True)
    restart: float = 0.05
    penalty: float = 1e-3
    max_gap: float = _LIMIT

    def __check_init__(self):
        if self.chains < 1:
            raise ValueError(f"LangevinPCD: chains is {self.chains}; at least one is needed")
        if not 0 <= self.restart <= 1:
            raise ValueError(f"LangevinPCD: restart is {self.restart}; it is a share, from 0 to 1")
        if not self.penalty >= 0:
            raise ValueError(f"LangevinPCD: penalty is {self.penalty}; it must not be negative")
        if not self.max_gap > 0:
            raise ValueError(f"LangevinPCD: max_gap is {self.max_gap}; it must be positive")

    def begin(self, rng, data, batch_size):
        """A buffer of blocks, as many chains in each as a batch has rows, and where chains begin."""
        blocks = -(-self.chains // batch_size)
        centre, spread = data.mean(0), data.std(0)
        noise = rng.standard_normal((blocks, batch_size, *data.shape[1:])).astype(data.dtype)
        return jnp.asarray(centre + spread * noise), jnp.asarray(centre), jnp.asarray(spread), jnp.zeros((), jnp.int32)

    def draw(self, energy, rows, key, memory):
        """Move one block of chains, the one that has waited longest."""
        buffer, centre, spread, turn = memory
        block = turn % len(buffer)
        who, where, how = jax.random.split(key, 3)
        fresh = jax.random.bernoulli(who, self.restart, (buffer.shape[1],))
        anew = centre[None] + spread[None] * jax.random.normal(where, buffer.shape[1:], buffer.dtype)
        start = jnp.where(fresh.reshape(-1, *[1] * centre.ndim), anew, buffer[block])
        found = self.sampler.walk(energy, start, how).samples
        return found, (buffer.at[block].set(found), centre, spread, turn + 1)

    def loss(self, energy, log_normaliser, rows, drawn):
        """The gap of the energies, and what keeps them small."""
        low, high = jax.vmap(energy)(rows), jax.vmap(energy)(drawn)
        gap = low.mean() - high.mean()
        squares = (low**2).mean() + (high**2).mean()
        return gap + jnp.asarray(self.penalty, gap.dtype) * squares, gap

    def limit(self):
        """The largest gap."""
        return self.max_gap


class DenoisingScoreMatching(AbstractEnergyObjective):
    """Match the score at noisy data, which points back to the data (Vincent 2011).

        ½ E |σ s(x + σ ξ) + ξ|²,   ξ ~ N(0, I)

    It learns the density of x + σ ξ: the data's, blurred by σ.

    Args:
        sigma: σ, > 0.

    Raises:
        ValueError: a σ that is not positive.
    """

    sigma: float = 0.1

    def __check_init__(self):
        if not self.sigma > 0:
            raise ValueError(f"DenoisingScoreMatching: sigma is {self.sigma}; it must be positive")

    def draw(self, energy, rows, key, memory):
        """The noise."""
        return jax.random.normal(key, rows.shape, rows.dtype), memory

    def loss(self, energy, log_normaliser, rows, drawn):
        """The squared distance of scaled scores, per row."""
        sigma = jnp.asarray(self.sigma, rows.dtype)
        slopes = jax.vmap(jax.grad(energy))(rows + sigma * drawn)
        value = ((drawn - sigma * slopes) ** 2).sum() / (2 * len(rows))
        return value, value


class SlicedScoreMatching(AbstractEnergyObjective):
    """Match the score of the data itself, along random directions v (Song et al. 2020; with the second term exact).

        E_x E_v [ vᵀ ∇s(x) v ] + ½ E_x |s(x)|²

    It needs second derivatives, so that the energy must be twice smooth: softplus or tanh, not relu.

    Args:
        directions: how many to a row, Rademacher signs.

    Raises:
        ValueError: no directions.
    """

    directions: int = eqx.field(default=1, static=True)

    def __check_init__(self):
        if self.directions < 1:
            raise ValueError(f"SlicedScoreMatching: directions is {self.directions}; at least one is needed")

    def draw(self, energy, rows, key, memory):
        """The directions."""
        return jax.random.rademacher(key, (self.directions, *rows.shape), rows.dtype), memory

    def loss(self, energy, log_normaliser, rows, drawn):
        """Hyvärinen's objective, its trace estimated."""

        def of(x, v):
            score, turn = jax.jvp(lambda x: -jax.grad(energy)(x), (x,), (v,))
            return jnp.vdot(v, turn) + jnp.vdot(score, score) / 2

        value = jax.vmap(jax.vmap(of), in_axes=(None, 0))(rows, drawn).mean()
        return value, value


class NoiseContrastive(AbstractEnergyObjective):
    """Learn to tell data from noise of a known density, and the normaliser with it (Gutmann and Hyvärinen 2012).

        −E_data log σ(G(x)) − ν E_noise log σ(−G(x)),   G(x) = −E(x) − log Z − log p_noise(x) − log ν

    Args:
        noise: a distribution with `sample(key, (n,))` and `log_prob(x)`, such as NumPyro's; a Gaussian with the data's mean
            and covariance by default. It should cover the data and resemble them.
        ratio: ν, how many noise points to a data point.

    Raises:
        ValueError: no noise points, or noise without `sample` and `log_prob`.

    Example:
        >>> import chainrule as cr, equinox as eqx, jax, jax.numpy as jnp
        >>> class Bowl(eqx.Module):
        ...     depth: jax.Array
        ...
        ...     def __call__(self, x):
        ...         return self.depth * (x**2).sum()
        >>> data = 0.5 * jax.random.normal(jax.random.key(0), (2000, 1))
        >>> fit = cr.EnergyModel(Bowl(jnp.ones(())), shape=1).fit(
        ...     data,
        ...     objective=cr.NoiseContrastive(),
        ...     method=cr.MiniBatch(epochs=10, learning_rate=0.05),
        ...     key=jax.random.key(1),
        ... )
        >>> bool(abs(fit.model.log_prob([[0.0]])[0] - jnp.log(2 / jnp.sqrt(2 * jnp.pi))) < 0.1)  # N(0, ½²), normalised
        True
    """

    noise: Any = None
    ratio: int = eqx.field(default=1, static=True)
    normalises: ClassVar[bool] = True

    def __check_init__(self):
        if self.ratio < 1:
            raise ValueError(f"NoiseContrastive: ratio is {self.ratio}; at least one noise point is needed")
        if self.noise is not None and not (hasattr(self.noise, "sample") and hasattr(self.noise, "log_prob")):
            raise ValueError(f"NoiseContrastive: noise is {self.noise!r}; wanted sample(key, shape) and log_prob(x)")

    def begin(self, rng, data, batch_size):
        """The noise's density, unless it was given."""
        if self.noise is not None:
            return None
        flat = data.reshape(len(data), -1).astype(float)
        covariance = np.cov(flat, rowvar=False).reshape(flat.shape[1], flat.shape[1])
        # a pivot that is a rounding error of its variance: whether Cholesky stumbles over it depends on the library
        least = 8 * len(covariance) * np.finfo(float).eps * covariance.diagonal()
        try:
            factor = np.linalg.cholesky(covariance)
        except np.linalg.LinAlgError:
            factor = np.zeros_like(covariance)
        if (factor.diagonal() ** 2 <= least).any():
            raise ValueError(
                "NoiseContrastive: the data's covariance is singular, so that no Gaussian covers them; give noise=…, or "
                "take out features that never change"
            )
        return _Gaussian(jnp.asarray(flat.mean(0), float), jnp.asarray(factor, float), data.shape[1:])

    def draw(self, energy, rows, key, memory):
        """Noise points, with the log-densities of all."""
        noise = memory if self.noise is None else self.noise
        points = noise.sample(key, (self.ratio * len(rows),)).astype(rows.dtype)
        return (points, noise.log_prob(rows), noise.log_prob(points)), memory

    def loss(self, energy, log_normaliser, rows, drawn):
        """The logistic loss."""
        points, at_rows, at_points = drawn
        offset = log_normaliser + float(np.log(self.ratio))
        real = -jax.vmap(energy)(rows) - offset - at_rows.astype(rows.dtype)
        fake = -jax.vmap(energy)(points) - offset - at_points.astype(rows.dtype)
        value = jax.nn.softplus(-real).mean() + self.ratio * jax.nn.softplus(fake).mean()
        return value, value


class _Gaussian(eqx.Module):
    """A Gaussian over flattened states."""

    mean: Float[Array, " feature"]
    factor: Float[Array, "feature feature"]
    event: tuple[int, ...] = eqx.field(static=True)

    def sample(self, key, shape):
        noise = jax.random.normal(key, (*shape, len(self.mean)), self.mean.dtype)
        return (self.mean[None] + product(noise, self.factor.T)).reshape(*shape, *self.event)

    def log_prob(self, x):
        centred = x.reshape(len(x), -1).astype(self.mean.dtype) - self.mean[None]
        white = jax.scipy.linalg.solve_triangular(self.factor, centred.T, lower=True)
        constant = jnp.log(jnp.diag(self.factor)).sum() + len(self.mean) * float(np.log(2 * np.pi)) / 2
        return -(white**2).sum(0) / 2 - constant
