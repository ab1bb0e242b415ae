"""Gibbs sampling of a square lattice with one coupling and one bias, 32 chains in each word.

Bit c of a word is the value of a site in chain c. With the same coupling everywhere, the field on a site depends only on
how many of its four neighbours are up, so that

    p(up | k neighbours up) = p_k,     k = 0 … 4,

are five numbers. Adders made of AND and XOR count k for 32 chains at once, and a uniform number is compared, digit by
digit from the least significant one on, with the one of the five that k asks for: 32 heat baths are some 150 operations on
words, and a random word for each of the leading digits. Zorn, Herrmann and Rebbi (1981), Computer Physics Communications
23, pack spins so.

The first 8 digits of a site's number are each chain's own; the other 24, which matter once in 256 times, the 32 chains of
a word share. Each chain by itself is drawn with independent numbers of 32 digits for every site and sweep, and is what any
other engine draws. Two chains of a word are correlated, in a site's draw, by at most 2⁻¹⁶: where both need the shared
digits. That makes the variance of a mean over 32 chains larger by at most one part in two thousand.
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

OWN, SHARED = 8, 24  # digits of a uniform number: the leading ones, and those that the chains of a word share
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

    Example:
        >>> import jax, jax.numpy as jnp, chainrule as cr
        >>> from chainrule.forms.layouts import Lattice
        >>> from chainrule.inference import gibbs, packed_lattice
        >>> model = cr.Pairwise(jnp.array(0.0), Lattice(1.0, 4, 4), spins=True)
        >>> state = gibbs.random_state(jax.random.key(0), model, num_chains=64)
        >>> words = packed_lattice.pack(state)
        >>> words.shape, bool((packed_lattice.unpack(words, model) == state).all())
        ((16, 2), True)
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


def thresholds(model: Pairwise, beta) -> tuple[UInt[Array, "5"], UInt[Array, "5"]]:
    """p_k, k = 0 … 4: in units of 2^−OWN, rounded down, and what is left in units of 2^−(OWN + SHARED), rounded down."""
    up = jnp.arange(5, dtype=model.bias.dtype)
    field = model.bias + _lattice(model).coupling * (2 * up - 4 if model.spins else up)
    probs = jax.nn.sigmoid(beta * (2 * field if model.spins else field)) * 2**OWN
    leading = jnp.floor(probs)
    return leading.astype(jnp.uint32), ((probs - leading) * 2**SHARED).astype(jnp.uint32)


def _half(key, other, sublattice: int, limits):
    """Draw one sublattice (row, half a row, word) given the other one."""
    a, b, c, d = neighbours(other, sublattice)
    first, second = a ^ b, c ^ d
    carry_first, carry_second, carry = a & b, c & d, first & second
    one = first ^ second  # k = one + 2 two + 4 four
    four = carry_first & carry_second
    two = (carry_first ^ carry_second ^ carry) & ~four
    leading, rest = limits

    def limit(bits):
        """For every chain the bit of its own k."""
        word = [_spread(bits[k]) for k in range(5)]
        return _choose(four, _choose(two, _choose(one, word[0], word[1]), _choose(one, word[2], word[3])), word[4])

    shared, own = jax.random.split(key)
    keys = jax.random.split(own, OWN)
    number = jax.random.bits(shared, other.shape, jnp.uint32) >> (WORD - SHARED)

    def compare(digit, below):
        """Take in one more digit: smaller where it is, as it was where the digits are equal."""
        mine = limit(leading >> digit.astype(jnp.uint32))
        random = jax.random.bits(keys[digit], other.shape, jnp.uint32)
        return (~random & (mine | below)) | (mine & below)

    # On a CPU a loop, small as its body is: generators in a row take long to compile, and each works on whole arrays
    # anyway. On an accelerator one kernel, which keeps the bits to itself instead of writing them down digit by digit.
    unroll = jax.default_backend() != "cpu"
    below = lax.fori_loop(0, OWN, compare, limit([number < rest[k] for k in range(5)]), unroll=unroll)
    return below | limit(leading >> OWN)  # the digit before the point, for p = 1, which all numbers are below


def _spread(bit):
    """The last bit in all places of a word."""
    return jnp.uint32(0) - (bit.astype(jnp.uint32) & jnp.uint32(1))


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
    limits = thresholds(model, beta)
    shape = (lattice.rows, lattice.columns // 2, -1)
    keys = jax.random.split(key)
    even, odd = words[:half].reshape(shape), words[half:].reshape(shape)
    even = _half(keys[0], odd, 0, limits)
    odd = _half(keys[1], even, 1, limits)
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
