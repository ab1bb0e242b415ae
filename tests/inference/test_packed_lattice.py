"""The bit-packed lattice: counts, thresholds and energies against the plain engine and exact values."""

import jax
import jax.numpy as jnp
import numpy as np
import pairwise_cases as cases
import pytest

from chainrule import Pairwise
from chainrule.forms.layouts import Dense, Lattice
from chainrule.inference import gibbs, packed_lattice

PHILOX = "philox2x32"


pack, unpack = jax.jit(packed_lattice.pack), jax.jit(packed_lattice.unpack)
random_words = jax.jit(packed_lattice.random_words, static_argnames="num_words")
random_state = jax.jit(gibbs.random_state, static_argnames="num_chains")
thresholds = jax.jit(packed_lattice.thresholds)


@jax.jit
def energies(words, state, model):
    """The mean energy by the words, and by the states."""
    return packed_lattice.mean_energy(words, model), model.energy(state).mean()


def a_lattice(bias=0.1, coupling=0.3, rows=4, columns=6, spins=True) -> Pairwise:
    bias, coupling = jax.device_put((np.float32(bias), np.float32(coupling)))
    return Pairwise(bias, Lattice(coupling, rows, columns), 0.5, spins=spins)


@pytest.mark.parametrize("spins", [False, True])
def test_words_are_states_and_energies_those_of_the_form(spins):
    model = a_lattice(spins=spins)
    state = random_state(jax.random.key(0), model, 64)
    words = pack(state)
    assert words.shape == (24, 2)
    np.testing.assert_array_equal(unpack(words, model), state)
    np.testing.assert_allclose(*energies(words, state, model), rtol=1e-5)
    assert packed_lattice.is_uniform(model)
    assert not packed_lattice.is_uniform(cases.random_model(Lattice, spins=True))
    assert not packed_lattice.is_uniform(cases.random_model(Dense, spins=True))
    with pytest.raises(ValueError, match="no packed form"):
        packed_lattice.sweep(jax.random.key(0), words, cases.random_model(Lattice, spins=True))
    with pytest.raises(ValueError, match="multiple of 32"):
        pack(np.asarray(state)[:, :33])


@pytest.mark.parametrize("spins", [False, True])
def test_each_site_is_drawn_with_its_own_probability(spins):
    """From one state in all of 32 · 600 chains: the first sublattice's ups, site by site."""
    model = a_lattice(bias=-0.2, coupling=0.4, spins=spins)
    one = np.asarray(random_state(jax.random.key(5), model, 64))[:, :1]
    words = pack(np.broadcast_to(one, (24, 32 * 600)))
    after = np.asarray(unpack(packed_lattice.run(jax.random.key(1, impl=PHILOX), words, model, 1, 0.8), model))
    fields = np.asarray(jax.jit(type(model).fields)(model, one))[:12, 0]
    p = 1 / (1 + np.exp(-0.8 * fields * (2 if spins else 1)))
    z = ((after[:12] > 0).mean(1) - p) / np.sqrt(p * (1 - p) / 19200)
    assert abs(z).max() < 4.5
    pairs = np.corrcoef(after[:12])[np.triu_indices(12, 1)]  # drawn independently of each other
    assert abs(pairs).max() < 4.5 / np.sqrt(19200)
    chains = (after[:12] > 0).reshape(12, 600, 32) - p[:, None, None]  # and so are the chains of a word
    together = np.einsum("nwc,nwd->cd", chains, chains) / (p * (1 - p)).sum() / 600
    assert abs(together[np.triu_indices(32, 1)]).max() < 5 / np.sqrt(12 * 600)


def test_energy_of_the_ising_model_on_a_torus():
    model = cases.torus(8, Lattice)
    start, key = jax.random.split(jax.random.key(11, impl=PHILOX))
    words = random_words(start, model, 4)
    for beta in (0.4, 0.44):
        energy, words = packed_lattice.energies(key, words, model, 440, 2, beta)
        per_site = np.asarray(energy, float)[40:] / 64
        assert abs(per_site.mean() - cases.TORUS[8, beta][1]) < 4 * cases.batch_error(per_site)


def test_draws_are_distributed_as_enumeration_says():
    """With a field, at two temperatures: the likeliest states one by one, and all means and second moments."""
    model = a_lattice(bias=-0.3, coupling=0.35, rows=4, columns=4)
    key = jax.random.key(2, impl=PHILOX)
    words = random_words(key, model, 500)
    for beta in (1.0, 0.7):
        drawn = unpack(packed_lattice.run(jax.random.fold_in(key, 1), words, model, 40, beta), model)
        probs, x, drawn = cases.probabilities(model, beta), cases.states(model), np.asarray(drawn, float)
        counts = np.bincount(cases.codes(model, drawn), minlength=len(probs))
        assert (16_000 * probs > 5).sum() > 50
        assert cases.chi_square(counts, probs) > 1e-3
        np.testing.assert_allclose(drawn.mean(1), x @ probs, atol=4.5 / np.sqrt(16_000))
        np.testing.assert_allclose(drawn @ drawn.T / 16_000, (x * probs) @ x.T, atol=4.5 / np.sqrt(16_000))


def test_counts_are_not_limited_to_32_bits():
    """2³² bits that are set, which are never laid out in memory: the mean over 256 chains is the number of sites."""
    full = jax.jit(lambda word: packed_lattice.mean_count(jnp.broadcast_to(word, (4096, 4096, 8)), jnp.float32))
    assert float(full(np.uint32(2**32 - 1))) == 2**24


def test_couplings_biases_and_temperatures_compile_nothing():
    words, key = np.zeros((24, 1), np.uint32), jax.random.key(2, impl=PHILOX)
    packed_lattice.run(key, words, a_lattice(), 3, 0.5)
    before = packed_lattice.run._cache_size()
    packed_lattice.run(jax.random.key(3, impl=PHILOX), words, a_lattice(0.0, -0.7), 9, 1.5)
    assert packed_lattice.run._cache_size() == before


def test_thresholds_are_met_to_the_last_digit_of_a_probability():
    model = a_lattice(0.1, 0.3)
    p = 1 / (1 + np.exp(-2 * 0.7 * (0.1 + 0.3 * (2 * np.arange(5) - 4))))
    leading, rest = thresholds(model, np.float32(0.7))
    found = np.asarray(leading, float) / 2**8 + np.asarray(rest, float) / 2**32
    np.testing.assert_allclose(found, p, rtol=3e-7)
    leading, rest = thresholds(a_lattice(0.0, 50.0), np.float32(1.0))
    assert leading.tolist() == [0, 0, 2**7, 2**8, 2**8]
    assert rest.tolist() == [0] * 5
    up = np.full((24, 1), 2**32 - 1, np.uint32)
    for words in (up, ~up):  # what is certain happens, up as down
        after = packed_lattice.run(jax.random.key(0, impl=PHILOX), words, a_lattice(0.0, 50.0), 20, 1.0)
        np.testing.assert_array_equal(after, words)


def test_the_digits_that_a_word_shares_count_as_they_should():
    """A probability below 2⁻⁸, which they alone decide: 1.3 million draws, of words, and of pairs in one word."""
    model = a_lattice(bias=-3.0, coupling=0.0, rows=64, columns=64)
    p = 1 / (1 + np.exp(6.0))
    words = np.zeros((4096, 10), np.uint32)
    after = unpack(packed_lattice.run(jax.random.key(4, impl=PHILOX), words, model, 1), model)
    ups = (np.asarray(after) > 0).reshape(4096, 10, 32)
    n = ups.size
    assert abs(ups.mean() - p) < 4 * np.sqrt(p / n)
    # two of a word are both up where both need the shared digits (2⁻¹⁶) and these are below
    assert abs((ups.sum(2) >= 2).sum() - 40960 * 496 * p / 2**8) < 4 * np.sqrt(40960 * 496 * p / 2**8)
