"""Gibbs sampling of a square lattice with one coupling and one bias, 32 chains in each word.

Bit c of a word is the value of a site in chain c. With the same coupling everywhere, the field on a site depends only on
how many of its four neighbours are up, so that

    p(up | k neighbours up) = p_k,     k = 0 … 4,

are five numbers. Adders made of AND and XOR count k for 32 chains at once, and a uniform number is compared, digit by
digit from the least significant one on, with the one of the five that k asks for: 32 heat baths are some 200 operations on
words, and a random word for each of the leading digits. Zorn, Herrmann and Rebbi (1981), Computer Physics Communications
23, pack spins so.

Probabilities are rounded to 24 digits, by at most 2⁻²⁵. Only the first 12 digits of a site's number are its own; the rest,
which matter once in 4096 times, it shares with the sites of its column in the same chain. That correlates two of them by a
covariance of at most 2⁻²⁶, where both need the shared digits. Chains share nothing.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, Key, UInt

from ..forms.layouts import Lattice, neighbours
from ..forms.pairwise import Pairwise
from .gibbs import low

OWN, SHARED = 12, 12  # digits of a uniform number: the leading ones, and those that a column shares
BITS = OWN + SHARED
WORD = 32

Words = UInt[Array, "node word"]


def is_uniform(model: Pairwise) -> bool:
    """Whether a form can be drawn so: a `Lattice` whose bias is a single number."""
    return isinstance(model.coupling, Lattice) and model.bias.ndim == 0


def _lattice(model: Pairwise) -> Lattice:
    if not isinstance(model.coupling, Lattice) or model.bias.ndim:
        raise ValueError(
            f"{model!r} has no packed form: wanted a Lattice layout and a bias that is one number; gibbs.run draws any form"
        )
    return model.coupling


def pack(state: Int[Array, "node chain"]) -> Words:
    """States of a multiple of 32 chains as words.

    Raises:
        ValueError: another number of chains.
    """
    nodes, chains = state.shape
    if chains % WORD:
        raise ValueError(f"{chains} chains do not fill words; give a multiple of {WORD}")
    bits = (state > 0).astype(jnp.uint32).reshape(nodes, -1, WORD)
    return jnp.sum(bits << jnp.arange(WORD, dtype=jnp.uint32)[None, None], axis=2, dtype=jnp.uint32)


def unpack(words: Words, model: Pairwise) -> Int[Array, "node chain"]:
    """Words as states."""
    bits = (words[:, :, None] >> jnp.arange(WORD, dtype=jnp.uint32)[None, None]) & jnp.uint32(1)
    return jnp.where(bits > 0, 1, low(model)).astype(jnp.int8).reshape(len(words), -1)


def random_words(key: Key[Array, ""], model: Pairwise, num_words: int = 1) -> Words:
    """Every site up or down with equal probability, in 32 · num_words chains."""
    return jax.random.bits(key, (model.num_nodes, num_words), jnp.uint32)


def thresholds(model: Pairwise, beta) -> UInt[Array, "5"]:
    """p_k, k = 0 … 4, in units of 2^−BITS."""
    up = jnp.arange(5, dtype=model.bias.dtype)
    field = model.bias + _lattice(model).coupling * (2 * up - 4 if model.spins else up)
    probs = jax.nn.sigmoid(beta * (2 * field if model.spins else field))
    return jnp.round(probs * 2**BITS).astype(jnp.uint32)


def _half(key, other, sublattice: int, digits: UInt[Array, "bit 5"]):
    """Draw one sublattice (row, half a row, word) given the other one."""
    a, b, c, d = neighbours(other, sublattice)
    first, second = a ^ b, c ^ d
    carry_first, carry_second, carry = a & b, c & d, first & second
    one = first ^ second  # k = one + 2 two + 4 four
    four = carry_first & carry_second
    two = (carry_first ^ carry_second ^ carry) & ~four

    def limit(digit):
        """For every chain the digit of p_k for its own k."""
        return _choose(four, _choose(two, _choose(one, digit[0], digit[1]), _choose(one, digit[2], digit[3])), digit[4])

    def compare(shape, keys):
        """Take in one more digit: smaller where it is, as it was where the digits are equal."""

        def step(number, below):
            mine = limit(digits[SHARED * (shape is not row) + number])
            random = jax.random.bits(keys[number], shape, jnp.uint32)
            return (~random & (mine | below)) | (mine & below)

        return step

    # A loop, small as its body is: 24 generators in a row take long to compile, and each works on whole arrays anyway.
    row = (1, *other.shape[1:])
    shared, own = jax.random.split(key)
    below = lax.fori_loop(0, SHARED, compare(row, jax.random.split(shared, SHARED)), jnp.zeros_like(other))
    below = lax.fori_loop(0, OWN, compare(other.shape, jax.random.split(own, OWN)), below)
    return below | limit(digits[BITS])  # the digit before the point, for p = 1, which all numbers are below


def _choose(bit, if_zero, if_one):
    return if_zero ^ (bit & (if_zero ^ if_one))


def sweep(key: Key[Array, ""], words: Words, model: Pairwise, beta: Any = 1.0) -> Words:
    """Draw each site of all chains once; for use inside `jax.jit`.

    Args:
        key: random key of any implementation.
        words: states as `pack` or `random_words` gives them.
        model: a form for which `is_uniform` holds.
        beta: inverse temperature.

    Raises:
        ValueError: a form for which it does not.
    """
    lattice, half = _lattice(model), model.num_nodes // 2
    # digit j of p_k, from the least significant, as a word of equal bits
    limits = thresholds(model, beta)
    places = jnp.arange(BITS + 1, dtype=jnp.uint32)
    digits = jnp.uint32(0) - ((limits[None] >> places[:, None]) & jnp.uint32(1))
    shape = (lattice.rows, lattice.columns // 2, -1)
    keys = jax.random.split(key)
    even, odd = words[:half].reshape(shape), words[half:].reshape(shape)
    even = _half(keys[0], odd, 0, digits)
    odd = _half(keys[1], even, 1, digits)
    return jnp.concatenate([even, odd]).reshape(words.shape)


@jax.jit
def run(key: Key[Array, ""], words: Words, model: Pairwise, sweeps: int | Int[Array, ""], beta=1.0) -> Words:
    """Sweep a number of times."""
    beta = jnp.asarray(beta, model.bias.dtype)
    return lax.fori_loop(0, sweeps, lambda i, w: sweep(jax.random.fold_in(key, i), w, model, beta), words)


@partial(jax.jit, static_argnames="num_samples")
def energies(
    key: Key[Array, ""], words: Words, model: Pairwise, num_samples: int, thin: int | Int[Array, ""] = 1, beta=1.0
) -> tuple[Float[Array, " sample"], Words]:
    """Mean energy over all chains, again and again after `thin` sweeps; and the last words.

    Example:
        >>> import jax, jax.numpy as jnp, chainrule as cr
        >>> from chainrule.forms.layouts import Lattice
        >>> from chainrule.inference import packed_lattice
        >>> model = cr.Pairwise(jnp.array(0.0), Lattice(1.0, 16, 16), spins=True)
        >>> start, draw = jax.random.split(jax.random.key(0, impl="philox2x32"))
        >>> words = packed_lattice.random_words(start, model)
        >>> energy, words = packed_lattice.energies(draw, words, model, 10, 5, 0.44)
        >>> energy.shape
        (10,)
    """

    def record(words, key):
        words = run(key, words, model, thin, beta)
        return words, mean_energy(words, model)

    words, found = lax.scan(record, words, jax.random.split(key, num_samples))
    return found, words


def mean_count(bits: UInt[Array, "row half word"], dtype) -> Float[Array, ""]:
    """How many bits are set, the mean over chains: whole numbers in a row, where 32 bits hold them, and then real ones."""
    rows = jnp.sum(lax.population_count(bits), axis=(1, 2), dtype=jnp.uint32)
    return (rows.astype(dtype) / (bits.shape[2] * WORD)).sum()


def mean_energy(words: Words, model: Pairwise) -> Float[Array, ""]:
    """Mean over chains of the energy, from counts of sites that are up and of neighbours that are."""
    lattice, half, dtype = _lattice(model), model.num_nodes // 2, model.bias.dtype
    even, odd = (part.reshape(lattice.rows, lattice.columns // 2, -1) for part in (words[:half], words[half:]))

    def count(bits):
        return mean_count(bits, dtype)

    both = sum((count(even & other) for other in neighbours(odd, 0)), jnp.zeros((), dtype))
    ups = count(even) + count(odd)
    if not model.spins:
        return -(lattice.coupling * both + model.bias * ups + model.constant)
    # s s′ = 4 x x′ − 2 x − 2 x′ + 1, and each site has four of the 2 n pairs
    pairs = 4 * both - 8 * ups + 2 * model.num_nodes
    return -(lattice.coupling * pairs + model.bias * (2 * ups - model.num_nodes) + model.constant)
