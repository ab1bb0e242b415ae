"""Block Gibbs: distributions against enumeration, balance exactly, and the Ising model on tori."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pairwise_cases as cases
import pytest

from chainrule import Pairwise
from chainrule.forms.layouts import Bipartite, Dense, Lattice, Neighbours
from chainrule.inference import gibbs

LAYOUTS = pytest.mark.parametrize("layout", cases.LAYOUTS)
PHILOX = "philox2x32"


@pytest.mark.parametrize("spins", [False, True])
@pytest.mark.parametrize("layout", [Dense, Bipartite, Neighbours])
def test_draws_are_distributed_as_enumeration_says(layout, spins):
    model = cases.random_model(layout, spins=spins)
    start, key = jax.random.split(jax.random.key(3, impl=PHILOX))
    state = gibbs.random_state(start, model, 20_000)
    assert state.dtype == jnp.int8
    for beta in (1.0, 0.5):
        drawn = gibbs.run(key, state, model, 60, beta)  # every chain is one independent draw
        counts = np.bincount(cases.codes(model, drawn), minlength=2**model.num_nodes)
        assert cases.chi_square(counts, cases.probabilities(model, beta)) > 1e-3


def test_draws_of_a_lattice():
    model = cases.random_model(Lattice, spins=True)
    start, key = jax.random.split(jax.random.key(0, impl=PHILOX))
    drawn = np.asarray(gibbs.run(key, gibbs.random_state(start, model, 20_000), model, 60), float)
    probs, x = cases.probabilities(model), cases.states(model)
    np.testing.assert_allclose(drawn.mean(1), x @ probs, atol=4.5 / np.sqrt(20_000))
    exact = (x * probs) @ x.T
    np.testing.assert_allclose(drawn @ drawn.T / 20_000, exact, atol=4.5 / np.sqrt(20_000))


@pytest.mark.parametrize(
    ("layout", "reverse"), [(Dense, False), (Dense, True), (Bipartite, True), (Neighbours, False), (Lattice, True)]
)
def test_a_sweep_leaves_the_distribution_as_it_is(layout, reverse):
    """Started from exact draws, one sweep gives exact draws; and no chain stays where it was by mistake."""
    model = cases.random_model(layout, spins=True)
    probs, x = cases.probabilities(model), cases.states(model)
    rng = np.random.default_rng(0)
    start = x[:, rng.choice(len(probs), 30_000, p=probs)]
    after = gibbs.sweep(jax.random.key(0), jnp.asarray(start, jnp.int8), model, reverse=reverse)
    cell = np.full(len(probs), 100)  # the 100 likeliest states one by one, the others together
    cell[np.argsort(probs)[::-1][:100]] = np.arange(100)
    counts = np.bincount(cell[cases.codes(model, after)], minlength=101)
    assert cases.chi_square(counts, np.bincount(cell, probs, minlength=101)) > 1e-3
    assert (np.asarray(after) != start).any(1).all()


@pytest.mark.parametrize("layout", [Dense, Bipartite, Neighbours])
def test_balance_is_detailed_slice_by_slice_and_sweeps_reverse_each_other(layout):
    """Kernels as matrices, from the fields the engine sees."""
    model = cases.random_model(layout, spins=True)
    probs, x = cases.probabilities(model), cases.states(model)
    starts = model.coupling.starts
    kernels = []
    for number, (low, high) in enumerate(itertools.pairwise(starts)):
        fields = model.coupling.slice_fields(jnp.asarray(x), number)
        fields = np.asarray(fields, float) + np.asarray(model.biases, float)[low:high, None]
        up = 1 / (1 + np.exp(-2 * fields))
        kernel = np.ones((len(probs), len(probs)))
        for node in range(model.num_nodes):
            if low <= node < high:
                kernel *= np.where(x[node][None] > 0, up[node - low][:, None], 1 - up[node - low][:, None])
            else:
                kernel *= x[node][:, None] == x[node][None]
        np.testing.assert_allclose(kernel.sum(1), 1.0, rtol=1e-12)
        flow = probs[:, None] * kernel
        np.testing.assert_allclose(flow, flow.T, atol=1e-8)
        kernels.append(kernel)
    forth, back = kernels[0], kernels[-1]
    for kernel in kernels[1:]:
        forth = forth @ kernel
    for kernel in kernels[-2::-1]:
        back = back @ kernel
    np.testing.assert_allclose(probs @ forth, probs, atol=1e-8)
    np.testing.assert_allclose(probs[:, None] * forth, (probs[:, None] * back).T, atol=1e-8)
    # what the engine draws from one state is a row of that matrix
    first = jnp.broadcast_to(jnp.asarray(x[:, :1], jnp.int8), (model.num_nodes, 20_000))
    for reverse, kernel in ((False, forth), (True, back)):
        after = gibbs.sweep(jax.random.key(2), first, model, reverse=reverse)
        counts = np.bincount(cases.codes(model, after), minlength=len(probs))
        assert cases.chi_square(counts, kernel[0]) > 1e-3


@pytest.mark.parametrize(
    ("layout", "impl"),
    [(Neighbours, "threefry2x32"), (Neighbours, PHILOX), (Neighbours, "rbg"), (Dense, PHILOX), (Bipartite, PHILOX),
     (Lattice, "threefry2x32"), (Lattice, PHILOX)],
)  # fmt: skip
def test_energy_of_the_ising_model_on_a_torus(layout, impl):
    start, key = jax.random.split(jax.random.key(7, impl=impl))
    model = cases.torus(8, layout)
    state = gibbs.random_state(start, model, 16 if layout is Dense else 64)
    for beta in (0.4, 0.44):
        energy, state = gibbs.sample(key, state, model, 240, 5, beta, statistic=gibbs.energies)
        per_site = np.asarray(energy, float)[40:].mean(1) / 64
        assert abs(per_site.mean() - cases.TORUS[8, beta][1]) < 4 * cases.batch_error(per_site)


def test_an_odd_torus_needs_three_colours():
    model = cases.torus(3, Neighbours)
    assert len(model.coupling.starts) == 4
    start, key = jax.random.split(jax.random.key(7, impl=PHILOX))
    state = gibbs.random_state(start, model, 256)
    energy, _ = gibbs.sample(key, state, model, 300, 2, 0.44, statistic=gibbs.energies)
    per_site = np.asarray(energy, float)[20:].mean(1) / 9
    assert abs(per_site.mean() - cases.TORUS[3, 0.44][1]) < 4 * cases.batch_error(per_site)


@LAYOUTS
def test_clamped_nodes_stay_chain_by_chain(layout):
    model = cases.random_model(layout, spins=False)
    rng = np.random.default_rng(0)
    given = jnp.asarray(rng.integers(0, 2, (model.num_nodes, 500)), jnp.int8)
    clamp = jnp.asarray(rng.random((model.num_nodes, 500)) < 0.5)
    state = gibbs.random_state(jax.random.key(0), model, 500, given=given, clamp=clamp)
    after = np.asarray(gibbs.run(jax.random.key(1), state, model, 5, 1.0, clamp))
    np.testing.assert_array_equal(after[clamp], given[clamp])
    assert (after != np.asarray(state))[~np.asarray(clamp)].any()


@pytest.mark.parametrize("layout", [Dense, Neighbours])
def test_draws_given_clamped_nodes_are_conditional(layout):
    model = cases.random_model(layout, spins=True)
    clamp = jnp.arange(model.num_nodes)[:, None] < 3
    given = jnp.where(clamp, 1, -1).astype(jnp.int8)
    state = gibbs.random_state(jax.random.key(2), model, 20_000, given=given, clamp=clamp)
    after = gibbs.run(jax.random.key(3), state, model, 40, 1.0, clamp)
    x = cases.states(model)
    probs = cases.probabilities(model) * (x[:3] == 1).all(0)
    counts = np.bincount(cases.codes(model, after), minlength=len(probs))
    assert counts[probs == 0].sum() == 0
    assert cases.chi_square(counts[probs > 0], (probs / probs.sum())[probs > 0]) > 1e-3


def test_each_chain_may_have_its_own_temperature():
    model = cases.torus(4, Neighbours)
    beta = jnp.repeat(jnp.array([0.2, 0.44], jnp.float32), 500)
    state = gibbs.run(jax.random.key(1), gibbs.random_state(jax.random.key(0), model, 1000), model, 200, beta)
    energy, _ = gibbs.sample(jax.random.key(2), state, model, 40, 5, beta, statistic=gibbs.energies)
    for part, wanted in ((slice(500), cases.TORUS[4, 0.2][1]), (slice(500, None), cases.TORUS[4, 0.44][1])):
        means = np.asarray(energy, float)[:, part].mean(0) / 16  # chains are independent
        assert abs(means.mean() - wanted) < 4 * means.std(ddof=1) / np.sqrt(500)


def test_larger_dense_models_and_their_last_tile():
    """150 nodes: three tiles, the last of which reaches back. Independent nodes have known means."""
    rng = np.random.default_rng(0)
    bias = rng.normal(size=150)
    model = Pairwise(jnp.asarray(bias, jnp.float32), Dense(jnp.zeros((150, 150))))
    for reverse in (False, True):
        start = jnp.full((150, 4000), 0, jnp.int8)
        after = np.asarray(gibbs.sweep(jax.random.key(0), start, model, reverse=reverse), float)
        p = 1 / (1 + np.exp(-bias))
        z = (after.mean(1) - p) / np.sqrt(p * (1 - p) / 4000)
        assert abs(z).max() < 4.5


def test_weights_temperatures_and_numbers_of_sweeps_compile_nothing():
    model = cases.random_model(Neighbours, spins=True)
    state = gibbs.random_state(jax.random.key(0), model, 4)
    clamp = jnp.zeros((8, 1), bool)
    gibbs.run(jax.random.key(1), state, model, 3, 1.0, clamp)
    gibbs.sample(jax.random.key(1), state, model, 3, 1, 1.0)
    before = gibbs.run._cache_size(), gibbs.sample._cache_size()
    other = jax.tree.map(lambda a: a * 2 if jnp.issubdtype(a.dtype, jnp.floating) else a, model)
    gibbs.run(jax.random.key(2), state, other, 5, 0.3, ~clamp)
    gibbs.sample(jax.random.key(1), state, other, 3, 7, 0.2)
    assert (gibbs.run._cache_size(), gibbs.sample._cache_size()) == before


def test_under_vmap_models_side_by_side():
    model = cases.random_model(Neighbours, spins=True)
    colder = jax.tree.map(lambda a: a * 3 if jnp.issubdtype(a.dtype, jnp.floating) else a, model)
    both = jax.tree.map(lambda *a: jnp.stack(a), model, colder)
    keys = jax.random.split(jax.random.key(0), 2)
    state = gibbs.random_state(jax.random.key(1), model, 5)
    together = jax.vmap(gibbs.run, in_axes=(0, None, 0, None, None))(keys, state, both, 4, 1.0)
    for n, one in enumerate((model, colder)):
        np.testing.assert_array_equal(together[n], gibbs.run(keys[n], state, one, 4, 1.0))


def test_uniform_numbers_stay_inside():
    u = np.asarray(gibbs.uniform(jax.random.key(0), (100_000,)), float)
    assert 0 < u.min() < u.max() < 1
    assert abs(u.mean() - 0.5) < 4 * np.sqrt(1 / 12 / 100_000)
    frozen = gibbs.draw(jnp.float32([2.0**-24, 1 - 2.0**-24]), jnp.float32([-9.0, 9.0]), 1.0, spins=True)
    assert frozen.tolist() == [-1.0, 1.0]


def test_many_chains_draw_slice_by_slice():
    """Above 2¹⁷ numbers each slice has a generator of its own."""
    model = cases.random_model(Bipartite, spins=True)
    start, key = jax.random.split(jax.random.key(3, impl=PHILOX))
    drawn = gibbs.run(key, gibbs.random_state(start, model, 40_000), model, 30)
    counts = np.bincount(cases.codes(model, drawn), minlength=2**model.num_nodes)
    assert cases.chi_square(counts, cases.probabilities(model)) > 1e-3
