"""The continuous Hopfield network, whose update is softmax attention (Ramsauer et al. 2021).

    E(x) = −(1/β) log Σ_μ exp(β ξ_μ·x) + ½ |x|² + (1/β) log K + ½ max_μ |ξ_μ|²  ≥ 0
    x ← Σ_μ softmax(β ξ·x)_μ ξ_μ

One update never raises the energy, and is one head of attention: queries x, keys and values ξ. A large β finds the
nearest pattern in one step; a small one averages over several, or over all.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from ...forms.chain import is_concrete
from ...forms.products import product
from .checks import as_array, check_numbers


def retrieve(
    patterns: Float[Array, "pattern feature"],
    query: Float[Array, "*query feature"],
    beta: float | Float[Array, ""],
    *,
    values: Float[Array, "pattern value"] | None = None,
) -> Float[Array, "*query value"]:
    """Retrieve by one step: softmax(β q ξᵀ) ξ, which is attention with β for 1/√d.

    Args:
        patterns: what is stored: the keys, shape (K, D).
        query: what to look for, shape (D,), or (…, D).
        beta: the inverse temperature, > 0.
        values: what to answer instead of the patterns themselves, shape (K, V).

    Raises:
        ValueError: shapes that do not fit, NaN, or a β that is not positive.

    Example:
        >>> import jax.numpy as jnp, chainrule as cr
        >>> patterns = jnp.array([[3.0, 0.0], [0.0, 3.0]])
        >>> cr.retrieve(patterns, jnp.array([2.0, 1.5]), beta=8.0).round(2).tolist()
        [3.0, 0.0]
    """
    patterns = _check_patterns(patterns)
    query = _check_query(query, patterns)
    answers = patterns if values is None else as_array(values)
    if answers.ndim != 2 or len(answers) != len(patterns):
        raise ValueError(
            f"values have shape {answers.shape}; {len(patterns)} patterns ask for ({len(patterns)}, value)"
        )
    check_numbers(answers, lambda place: f"values{list(place)}")
    return _attend(patterns, query, _check_beta(beta, patterns.dtype), answers)


class Retrieved(eqx.Module):
    """Where the queries ended.

    Attributes:
        states: shape (…, D).
        steps: how many updates moved each by more than the tolerance.
        settled: whether the last one did not.
        energies: before the first update and after each, shape (max_steps + 1, …).
    """

    states: Float[Array, "*query feature"]
    steps: Int[Array, "*query"]
    settled: Bool[Array, "*query"]
    energies: Float[Array, "step *query"]


class ContinuousHopfield(eqx.Module):
    """A continuous Hopfield network.

    Args:
        patterns: what it remembers, shape (K, D).
        beta: the inverse temperature, > 0; 1/√D by default, as in attention.

    Raises:
        ValueError: patterns that are no matrix or not finite, or a β that is not positive.

    Example:
        >>> import jax, chainrule as cr
        >>> patterns = jax.random.normal(jax.random.key(0), (10, 16))
        >>> memory = cr.ContinuousHopfield(patterns, beta=4.0)
        >>> memory
        ContinuousHopfield(10 patterns, 16 features)
        >>> found = memory.recall(patterns[3] + 0.3)
        >>> bool(abs(found.states - patterns[3]).max() < 1e-3)
        True

    Reference: Ramsauer et al., "Hopfield networks is all you need", 2021.
    """

    patterns: Float[Array, "pattern feature"]
    beta: Float[Array, ""]

    def __init__(self, patterns, beta=None):
        self.patterns = _check_patterns(patterns)
        self.beta = _check_beta(self.patterns.shape[1] ** -0.5 if beta is None else beta, self.patterns.dtype)

    def energy(self, x: Float[Array, "*query feature"]) -> Float[Array, "*query"]:
        """E(x), at least zero (Ramsauer et al. 2021, eq. 2).

        Raises:
            ValueError: another number of features, or NaN.
        """
        return _energy(self, _check_query(x, self.patterns))

    def recall(
        self, query: Float[Array, "*query feature"], *, tolerance: float = 1e-6, max_steps: int = 100
    ) -> Retrieved:
        """Update until no query moves by more than `tolerance` times the length of the longest pattern.

        Raises:
            ValueError: another number of features, NaN, or fewer than one step.
        """
        if max_steps < 1:
            raise ValueError(f"max_steps is {max_steps}; at least one is needed")
        query = _check_query(query, self.patterns)
        return _recall(self, query, jnp.asarray(tolerance, query.dtype), max_steps=max_steps)

    def __repr__(self):
        count, size = self.patterns.shape
        return f"ContinuousHopfield({count} patterns, {size} features)"


@jax.jit
def _attend(patterns, query, beta, values):
    return product(jax.nn.softmax(beta * product(query, patterns.T), axis=-1), values)


@jax.jit
def _energy(memory: ContinuousHopfield, x):
    patterns, beta = memory.patterns, memory.beta
    longest = (patterns**2).sum(1).max()
    pull = jax.nn.logsumexp(beta * product(x, patterns.T), axis=-1) - jnp.log(jnp.asarray(len(patterns), beta.dtype))
    return -pull / beta + ((x**2).sum(-1) + longest) / 2


@eqx.filter_jit
def _recall(memory: ContinuousHopfield, query, tolerance, *, max_steps: int) -> Retrieved:
    least = tolerance * jnp.sqrt((memory.patterns**2).sum(1).max())

    def body(carry):
        step, x, steps, settled, energies = carry
        after = _attend(memory.patterns, x, memory.beta, memory.patterns)
        settled = jnp.sqrt(((after - x) ** 2).sum(-1)) <= least
        return (
            step + 1,
            after,
            steps + (~settled).astype(jnp.int32),
            settled,
            energies.at[step + 1].set(_energy(memory, after)),
        )

    first = _energy(memory, query)
    energies = jnp.zeros((max_steps + 1, *first.shape), first.dtype).at[0].set(first)
    start = (jnp.zeros((), jnp.int32), query, jnp.zeros(first.shape, jnp.int32), jnp.zeros(first.shape, bool), energies)
    step, x, steps, settled, energies = lax.while_loop(lambda c: (c[0] < max_steps) & ~c[3].all(), body, start)
    done = (jnp.arange(max_steps + 1) <= step).reshape(-1, *[1] * first.ndim)
    return Retrieved(x, steps, settled, jnp.where(done, energies, energies[step]))


def _check_patterns(patterns):
    patterns = as_array(patterns)
    if patterns.ndim != 2 or not all(patterns.shape):
        raise ValueError(f"patterns have shape {patterns.shape}; wanted (pattern, feature)")
    check_numbers(patterns, lambda place: f"patterns{list(place)}")
    return patterns


def _check_query(query, patterns):
    query = as_array(query, patterns.dtype)
    if query.ndim == 0 or query.shape[-1] != patterns.shape[1]:
        raise ValueError(f"the query has shape {query.shape}; patterns of {patterns.shape[1]} features ask for as many")
    check_numbers(query, lambda place: f"query{list(place)}")
    return query


def _check_beta(beta, dtype):
    beta = as_array(beta)
    if beta.ndim:
        raise ValueError(f"beta has shape {beta.shape}; wanted one number")
    if is_concrete(beta) and not 0 < float(beta) < float("inf"):
        raise ValueError(f"beta is {beta}; it must be a positive number")
    return beta.astype(dtype)
