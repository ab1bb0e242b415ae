"""Markov chains whose distribution is p(x) ∝ exp(−E(x)), for any differentiable energy: Langevin, MALA and HMC.

A sampler is a frozen set of numbers with `walk(energy, start, key)`: many chains side by side, in one compiled loop. MALA
and Hamiltonian Monte Carlo are BlackJAX's kernels and have the right distribution whatever the step; plain Langevin has
not (it is off by about a step's size), but needs no energies and never rejects, which is why learning uses it.
"""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Key

Energy = Callable[[Array], Array]


class Walk(NamedTuple):
    """Where the chains went.

    Attributes:
        samples: where they are now, shape (chain, …).
        acceptance: the mean probability of a step being taken, of each chain; 1 for plain Langevin.
        path: where they were after each step, shape (step, chain, …); None unless it was asked for.
    """

    samples: Float[Array, "chain *event"]
    acceptance: Float[Array, " chain"]
    path: Float[Array, "step chain *event"] | None


class AbstractSampler(eqx.Module):
    """The contract; see the module's description."""

    @abstractmethod
    def walk(
        self, energy: Energy, start: Float[Array, "chain *event"], key: Key[Array, ""], *, keep: bool = False
    ) -> Walk:
        """Let all chains take their steps; to be called inside `jax.jit`. `keep` keeps the path."""


class Langevin(AbstractSampler):
    """Unadjusted Langevin dynamics: x ← x − ε ∇E(x) + √(2ε) ξ with ξ ~ N(0, I).

    Its stationary distribution is p only as ε → 0: for E = ½x² the variance is 1 / (1 − ε/2).

    Args:
        step_size: ε, > 0.
        steps: how many.
        noise: the standard deviation of the noise instead of √(2ε). Less of it samples a colder p, as is usual for images
            (Du and Mordatch 2019).

    Raises:
        ValueError: a step size that is not positive, no steps, or negative noise.

    Example:
        >>> import jax, jax.numpy as jnp, chainrule as cr
        >>> normal = cr.EnergyModel(lambda x: (x**2).sum() / 2, shape=1)
        >>> far = jnp.full((2000, 1), 3.0)
        >>> draws = normal.walk(jax.random.key(0), far, method=cr.Langevin(0.1, steps=100)).samples
        >>> bool(abs(draws.mean()) < 0.1), bool(abs(draws.std() - 1) < 0.1)
        (True, True)

    Reference: Roberts and Tweedie, "Exponential convergence of Langevin distributions", 1996.
    """

    step_size: float = 0.01
    steps: int = eqx.field(default=100, static=True)
    noise: float | None = None

    def __check_init__(self):
        _check(self)
        if self.noise is not None and not self.noise >= 0:
            raise ValueError(f"Langevin: noise is {self.noise}; a standard deviation is not negative")

    def walk(self, energy, start, key, *, keep=False):
        """Let all chains take their steps."""
        slope = jax.grad(lambda x: jax.vmap(energy)(x).sum())
        step = jnp.asarray(self.step_size, start.dtype)
        noise = jnp.sqrt(2 * step) if self.noise is None else jnp.asarray(self.noise, start.dtype)

        def move(x, key):
            x = x - step * slope(x) + noise * jax.random.normal(key, x.shape, x.dtype)
            return x, x if keep else None

        samples, path = lax.scan(move, start, jax.random.split(key, self.steps))
        return Walk(samples, jnp.ones(len(start), start.dtype), path)


class MALA(AbstractSampler):
    """Langevin steps that are accepted or rejected, so that p is kept exactly (Roberts and Tweedie 1996).

    Args:
        step_size: ε as in `Langevin`, > 0; rather smaller where the acceptance is below a half.
        steps: how many.

    Raises:
        ValueError: a step size that is not positive, or no steps.

    Example:
        >>> import jax, jax.numpy as jnp, chainrule as cr
        >>> normal = cr.EnergyModel(lambda x: (x**2).sum() / 2, shape=1)
        >>> found = normal.walk(jax.random.key(0), jnp.zeros((500, 1)), method=cr.MALA(0.5, steps=20))
        >>> bool(0.8 < found.acceptance.mean() < 1)  # where it is below a half, take shorter steps
        True
    """

    step_size: float = 0.1
    steps: int = eqx.field(default=100, static=True)

    def __check_init__(self):
        _check(self)

    def walk(self, energy, start, key, *, keep=False):
        """Let all chains take their steps."""
        import blackjax

        kernel, step = blackjax.mala.build_kernel(), jnp.asarray(self.step_size, start.dtype)
        return _accepting(
            lambda log_density: (
                lambda x: blackjax.mala.init(x, log_density),
                lambda key, state: kernel(key, state, log_density, step),
            ),
            energy,
            start,
            key,
            self.steps,
            keep,
        )


class HMC(AbstractSampler):
    """Hamiltonian Monte Carlo: each step follows the energy's dynamics for a while (Neal 2011).

    Args:
        step_size: of the leapfrog integrator, > 0.
        leapfrogs: how many to a step.
        steps: how many.

    Raises:
        ValueError: a step size that is not positive, no steps, or no leapfrogs.

    Example:
        >>> import chainrule as cr
        >>> cr.HMC(0.2, leapfrogs=5, steps=50)  # for `EnergyModel.sample(key, n, method=…)`
        HMC(step_size=0.2, leapfrogs=5, steps=50)
    """

    step_size: float = 0.1
    leapfrogs: int = eqx.field(default=10, static=True)
    steps: int = eqx.field(default=100, static=True)

    def __check_init__(self):
        _check(self)
        if self.leapfrogs < 1:
            raise ValueError(f"HMC: leapfrogs is {self.leapfrogs}; at least one is needed")

    def walk(self, energy, start, key, *, keep=False):
        """Let all chains take their steps."""
        import blackjax

        kernel, step = blackjax.hmc.build_kernel(), jnp.asarray(self.step_size, start.dtype)
        mass = jnp.ones(start[0].size, start.dtype)
        return _accepting(
            lambda log_density: (
                lambda x: blackjax.hmc.init(x, log_density),
                lambda key, state: kernel(key, state, log_density, step, mass, self.leapfrogs),
            ),
            energy,
            start,
            key,
            self.steps,
            keep,
        )


def _accepting(kernel_of: Callable, energy: Energy, start, key, steps: int, keep: bool) -> Walk:
    """Walk by one of BlackJAX's kernels, whose states are flat here."""
    event = start.shape[1:]
    begin, kernel = kernel_of(lambda flat: -energy(flat.reshape(event)))

    def move(states, key):
        states, info = jax.vmap(kernel)(jax.random.split(key, len(start)), states)
        return states, (info.acceptance_rate, states.position if keep else None)

    # BlackJAX counts on NumPy's promotions, whatever the caller has set
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        states = jax.vmap(begin)(start.reshape(len(start), -1))
        states, (rates, path) = lax.scan(move, states, jax.random.split(key, steps))
    path = None if path is None else path.reshape(steps, *start.shape)
    return Walk(states.position.reshape(start.shape), rates.mean(0), path)


def traced(sampler: Any) -> Any:
    """The same sampler with arrays for numbers, so that a new number compiles nothing."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, float), sampler)


def _check(sampler) -> None:
    name = type(sampler).__name__
    if not sampler.step_size > 0:
        raise ValueError(f"{name}: step_size is {sampler.step_size}; it must be positive")
    if sampler.steps < 1:
        raise ValueError(f"{name}: steps is {sampler.steps}; at least one is needed")
