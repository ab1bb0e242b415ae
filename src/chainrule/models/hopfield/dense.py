"""Dense associative memory: a steeper energy has room for more patterns (Krotov and Hopfield 2016).

    E(s) = −N Σ_μ F(ξ_μ·s / N)

F(m) = m² is Hopfield's network with Hebb's rule, up to a constant. F(m) = mⁿ has room for about N^(n−1) patterns, the
exponential for 2^(N/2) (Demircigil et al. 2017). The patterns are kept as they are: no couplings are made of them.
"""

import math
from abc import abstractmethod
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, Num

from ...forms.products import product
from ...inference import recall as engine
from .checks import as_array, check_signs, check_sweeps
from .results import Recall, as_columns, result
from .rules import check_size


class AbstractInteraction(eqx.Module):
    """How overlaps make an energy."""

    @abstractmethod
    def energy(self, overlaps: Float[Array, "pattern *probe"], num_units: int) -> Float[Array, "*probe"]:
        """The energy of states with these overlaps ξ·s, whole numbers from −N to N."""

    @abstractmethod
    def capacity(self, num_units: int) -> float:
        """The published number of random patterns that are stored without an error."""


class Polynomial(AbstractInteraction):
    """F(m) = mⁿ (Krotov and Hopfield 2016).

    Args:
        degree: n, at least 2. With an even degree the mirror image of a pattern is as good as the pattern.
        rectified: F(m) = 0 for m < 0, which forgets the mirror images.

    Raises:
        ValueError: a degree below 2.

    Example:
        >>> import chainrule as cr
        >>> [round(cr.hopfield.Polynomial(degree).capacity(100)) for degree in (2, 3, 4)]
        [11, 362, 7238]
    """

    degree: int = eqx.field(default=3, static=True)
    rectified: bool = eqx.field(default=False, static=True)

    def __check_init__(self):
        if self.degree < 2:
            raise ValueError(f"Polynomial: degree is {self.degree}; from 2 on there is an attraction")

    def energy(self, overlaps, num_units):
        """−N Σ (ξ·s/N)ⁿ."""
        share = overlaps / num_units
        if self.rectified:
            share = jnp.maximum(share, 0)
        return -num_units * (share**self.degree).sum(0)

    def capacity(self, num_units: int) -> float:
        """N^(n−1) / (2 (2n−3)!! ln N) random patterns (Krotov and Hopfield 2016, eq. 6)."""
        check_size(num_units)
        odd = math.prod(range(1, 2 * self.degree - 2, 2))
        return num_units ** (self.degree - 1) / (2 * odd * math.log(num_units))


class Exponential(AbstractInteraction):
    """F(ξ·s) = exp(ξ·s), as E(s) = −log Σ_μ exp(ξ_μ·s), which has the same order and does not overflow.

    Example:
        >>> import chainrule as cr
        >>> cr.hopfield.Exponential().capacity(40)
        1048576.0

    Reference: Demircigil et al., "On a model of associative memory with huge storage capacity", 2017.
    """

    def energy(self, overlaps, num_units):
        """−log Σ exp(ξ·s)."""
        return -jax.nn.logsumexp(overlaps, axis=0)

    def capacity(self, num_units: int) -> float:
        """2^(N/2) random patterns (Demircigil et al. 2017, theorem 3)."""
        check_size(num_units)
        return 2.0 ** (num_units / 2)


class DenseMemory(eqx.Module):
    """A dense associative memory of ±1 units.

    Args:
        patterns: what it remembers, entries −1 and +1, shape (K, N).
        interaction: `hopfield.Polynomial(degree)`, of degree 3 by default, or `hopfield.Exponential()`.

    Raises:
        ValueError: no patterns, entries that are not ±1 (0/1 patterns are 2·x − 1 here), or another interaction.

    Example:
        >>> import jax, chainrule as cr
        >>> patterns = jax.random.rademacher(jax.random.key(0), (60, 40))  # more than there are units
        >>> memory = cr.DenseMemory(patterns, cr.hopfield.Exponential())
        >>> memory
        DenseMemory(60 patterns, 40 units, Exponential)
        >>> damaged = patterns[7].at[:5].multiply(-1)
        >>> float(memory.recall(damaged).overlaps(patterns)[7])
        1.0

    Reference: Krotov and Hopfield, "Dense associative memory for pattern recognition", 2016.
    """

    patterns: Float[Array, "pattern unit"]
    interaction: AbstractInteraction

    def __init__(self, patterns: Num[Array, "pattern unit"], interaction: AbstractInteraction | None = None):
        rows = check_signs(patterns, "patterns", ndim=(2,))
        if not all(rows.shape):
            raise ValueError(f"patterns have shape {rows.shape}; there is nothing to store")
        self.patterns = as_array(rows)
        self.interaction = Polynomial() if interaction is None else interaction
        if not isinstance(self.interaction, AbstractInteraction):
            raise ValueError(f"interaction is {interaction!r}; wanted hopfield.Polynomial(n) or hopfield.Exponential()")

    @property
    def num_units(self) -> int:
        """N."""
        return self.patterns.shape[1]

    def energy(self, states: Num[Array, "*probe unit"]) -> Float[Array, "*probe"]:
        """E(s) of one state, or of each of several.

        Raises:
            ValueError: entries that are not ±1, or another number of units.
        """
        return _energy(self, check_signs(states, "states", size=self.num_units))

    def recall(
        self, probe: Num[Array, "*probe unit"], *, key: Key[Array, ""] | None = None, max_sweeps: int = 100
    ) -> Recall:
        """Let one unit after the other take the value of lower energy: see `Hopfield.recall`.

        Raises:
            ValueError: entries that are not ±1, another number of units, or fewer than one sweep.
        """
        check_sweeps(max_sweeps)
        states = check_signs(probe, "probe", size=self.num_units)
        return _recall(self, states.astype(self.patterns.dtype), key, max_sweeps=max_sweeps)

    def __repr__(self):
        count, size = self.patterns.shape
        return f"DenseMemory({count} patterns, {size} units, {type(self.interaction).__name__})"


@jax.jit
def _energy(memory: DenseMemory, states):
    columns = as_columns(states, memory.patterns.dtype)
    return memory.interaction.energy(product(memory.patterns, columns), memory.num_units).reshape(states.shape[:-1])


@partial(jax.jit, static_argnames="max_sweeps")
def _recall(memory: DenseMemory, states, key, *, max_sweeps: int) -> Recall:
    columns = as_columns(states, memory.patterns.dtype)
    walk = engine.dense(memory.interaction, memory.patterns, columns, key, max_sweeps=max_sweeps)
    return result(walk, states.shape[:-1])
