"""How binary patterns become couplings: the rules of Hebb, Storkey, and of the pseudo-inverse.

A rule has `couplings(patterns)`, from ±1 patterns (K, N) to a symmetric (N, N) without a diagonal, and `capacity(N)`.
All of it is host work in float64: storing is done once.
"""

import math
from abc import abstractmethod

import equinox as eqx
import numpy as np
from jaxtyping import Float


class AbstractRule(eqx.Module):
    """The contract; see the module's description."""

    @abstractmethod
    def couplings(self, patterns: Float[np.ndarray, "pattern unit"]) -> Float[np.ndarray, "unit unit"]:
        """The couplings that store these patterns."""

    @abstractmethod
    def capacity(self, num_units: int) -> float:
        """The published number of random patterns that can be stored."""


class Hebb(AbstractRule):
    """What fires together wires together: W = (1/N) Σ_μ ξ_μ ξ_μᵀ, without the diagonal (Hopfield 1982).

    Example:
        >>> import chainrule as cr
        >>> rule = cr.hopfield.Hebb()
        >>> [round(rule.capacity(1000, of=of)) for of in ("every pattern", "most patterns", "with errors")]
        [36, 72, 138]
    """

    def couplings(self, patterns):
        """The couplings that store these patterns."""
        return _without_diagonal(patterns.T @ patterns / patterns.shape[1])

    def capacity(self, num_units: int, *, of: str = "most patterns") -> float:
        """How many random patterns are stable in a large network.

        Args:
            num_units: N, at least 2.
            of: "every pattern": N / (4 ln N), all of them without an error; "most patterns": N / (2 ln N), any given one
                without an error (McEliece et al. 1987); "with errors": 0.138 N, past which no state near a pattern is
                left; there 1.6 % of a pattern's units are wrong (Amit, Gutfreund and Sompolinsky 1985).

        Raises:
            ValueError: fewer than two units, or another `of`.
        """
        check_size(num_units)
        known = {
            "every pattern": num_units / (4 * math.log(num_units)),
            "most patterns": num_units / (2 * math.log(num_units)),
            "with errors": 0.138 * num_units,
        }
        if of not in known:
            raise ValueError(f"of is {of!r}; the capacities known are those of {list(known)}")
        return known[of]


class Storkey(AbstractRule):
    """Hebb's rule, less what the network already says about the pattern (Storkey 1997).

    One pattern after the other, with h_ij = Σ_{k ≠ i, j} W_ik ξ_k the field on i without the help of j,

        W_ij ← W_ij + (ξ_i ξ_j − ξ_i h_ji − h_ij ξ_j) / N.

    Local and incremental as Hebb's, with more capacity and wider basins. The order of the patterns matters a little.

    Example:
        >>> import chainrule as cr
        >>> round(cr.hopfield.Storkey().capacity(1000))
        269
    """

    def couplings(self, patterns):
        """The couplings that store these patterns, learned in their order."""
        size = patterns.shape[1]
        found = np.zeros((size, size))
        for pattern in patterns:
            field = (found @ pattern)[:, None] - found * pattern  # [i, j] = h_ij, for found has no diagonal
            echo = field * pattern
            found = _without_diagonal(found + (np.outer(pattern, pattern) - echo - echo.T) / size)
        return found

    def capacity(self, num_units: int) -> float:
        """N / √(2 ln N) random patterns without an error (Storkey and Valabregue 1999)."""
        check_size(num_units)
        return num_units / math.sqrt(2 * math.log(num_units))


class PseudoInverse(AbstractRule):
    """The projection on the span of the patterns, without its diagonal (Personnaz, Guyon and Dreyfus 1985).

    With Ξ the patterns as columns, W = Ξ (ΞᵀΞ)⁻¹ Ξᵀ − diag: every pattern is a fixed point, correlated ones too. It is
    neither local nor incremental. Basins of attraction shrink as K grows and are gone from about N/2 on.

    Example:
        >>> import chainrule as cr
        >>> cr.hopfield.PseudoInverse().capacity(1000)
        1000.0
    """

    def couplings(self, patterns):
        """The couplings that store these patterns."""
        left, values, _ = np.linalg.svd(patterns.T, full_matrices=False)
        basis = left[:, values > values[0] * max(patterns.shape) * np.finfo(float).eps]  # patterns may repeat
        return _without_diagonal(basis @ basis.T)

    def capacity(self, num_units: int) -> float:
        """N: below it, random patterns are linearly independent, and so all stable (Personnaz et al. 1985)."""
        check_size(num_units)
        return float(num_units)


def check_size(num_units: int) -> None:
    """Raise a ValueError if there are fewer than two units."""
    if num_units < 2:
        raise ValueError(f"num_units is {num_units}; a capacity is that of two units or more")


def _without_diagonal(matrix: np.ndarray) -> np.ndarray:
    matrix = (matrix + matrix.T) / 2
    np.fill_diagonal(matrix, 0)
    return matrix
