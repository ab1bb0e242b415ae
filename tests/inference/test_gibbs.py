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

PHILOX = "philox2x32"
random_state = jax.jit(gibbs.random_state, static_argnames="num_chains")


@jax.jit
def fields_by_slice(model, x):
    """What each slice's nodes feel, as the engine sees it."""
    starts = model.coupling.starts
    biases = model.biases[:, None]
    return [
        model.coupling.slice_fields(x, k) + biases[low:high] for k, (low, high) in enumerate(itertools.pairwise(starts))
    ]


@pytest.mark.parametrize(("layout", "spins"), [(Dense, True), (Bipartite, False), (Neighbours, True), (Lattice, False)])
def test_draws_are_distributed_as_enumeration_says(layout, spins):
    """Chains of three kinds side by side, each one independent draw: free at two temperatures, and some nodes clamped.

    Of the lattice there are more than 2¹⁷ numbers, where each slice has a generator of its own.
    """
    model = cases.random_model(layout, spins=spins)
    each, x = 5000, cases.states(model)
    betas = np.repeat(np.float32([1.0, 0.5, 1.0]), each)
    clamp = np.zeros((model.num_nodes, 3 * each), bool)
    clamp[:3, 2 * each :] = True
    start, key = jax.random.split(jax.random.key(3, impl=PHILOX))
    state = random_state(start, model, 3 * each, given=np.ones_like(clamp, np.int8), clamp=clamp)
    assert state.dtype == jnp.int8
    drawn = np.asarray(gibbs.run(key, state, model, 20, betas, clamp))
    assert (drawn[clamp] == 1).all()
    codes, cold = cases.codes(model, drawn).reshape(3, each), cases.probabilities(model)
    given = cold * (x[:3] == 1).all(0)
    for mine, probs in zip(codes, (cold, cases.probabilities(model, 0.5), given / given.sum()), strict=True):
        assert cases.chi_square(np.bincount(mine, minlength=len(probs)), probs) > 1e-3
    exact = (x * cold) @ x.T  # of a lattice most states are too rare to be counted one by one
    np.testing.assert_allclose(
        drawn[:, :each] @ drawn[:, :each].astype(float).T / each, exact, atol=4.5 / np.sqrt(each)
    )

    before = gibbs.run._cache_size()
    other = cases.times(model, 2)
    gibbs.run(start, state, other, 1, betas / 2, ~clamp)
    assert gibbs.run._cache_size() == before


@pytest.mark.parametrize("layout", cases.LAYOUTS)
def test_balance_is_detailed_slice_by_slice_and_sweeps_reverse_each_other(layout):
    """Exact draws stay exact draws; kernels as matrices, from the fields the engine sees, have the laws of the method."""
    model = cases.random_model(layout, spins=True)
    probs, x = cases.probabilities(model), cases.states(model)
    rng = np.random.default_rng(0)
    exact = x[:, rng.choice(len(probs), 20_000, p=probs)]
    state = np.concatenate([exact, np.broadcast_to(x[:, :1], exact.shape)], axis=1).astype(np.int8)
    sweep = jax.jit(lambda key, state: [gibbs.sweep(key, state, model, reverse=reverse) for reverse in (False, True)])
    impl = "threefry2x32" if layout is Neighbours else PHILOX  # one of each kind
    after = [np.asarray(one) for one in sweep(jax.random.key(2, impl=impl), state)]
    cell = np.full(len(probs), 100)  # the 100 likeliest states one by one, the others together
    cell[np.argsort(probs)[::-1][:100]] = np.arange(100)
    for one in after:
        counts = np.bincount(cell[cases.codes(model, one[:, :20_000])], minlength=101)
        assert cases.chi_square(counts, np.bincount(cell, probs, minlength=101)) > 1e-3
        assert (one != state).any(1).all()  # no chain stays where it was by mistake
    if layout is Lattice:  # too many states for matrices
        return
    starts = model.coupling.starts
    kernels = []
    for fields, (low, high) in zip(fields_by_slice(model, x), itertools.pairwise(starts), strict=True):
        up = 1 / (1 + np.exp(-2 * np.asarray(fields, float)))
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
    for one, kernel in zip(after, (forth, back), strict=True):  # what the engine draws from one state is a row of it
        counts = np.bincount(cases.codes(model, one[:, 20_000:]), minlength=len(probs))
        assert cases.chi_square(counts, kernel[0]) > 1e-3


@pytest.mark.parametrize(
    ("layout", "impl", "n"),
    [
        (Neighbours, "rbg", 3),
        (Dense, PHILOX, 4),
        (Bipartite, PHILOX, 8),
        (Lattice, PHILOX, 8),
    ],
)
def test_energy_of_the_ising_model_on_a_torus(layout, impl, n):
    """Chains of two temperatures side by side, each independent of the others. A torus of 3 by 3 takes three colours."""
    model = cases.torus(n, layout)
    if n == 3:
        assert len(model.coupling.starts) == 4
    start, key = jax.random.split(jax.random.key(7, impl=impl))
    betas = [0.4, 0.44] if n == 8 else [0.2, 0.44]
    state = random_state(start, model, 100)
    energy, _ = gibbs.sample(key, state, model, 100, 4, np.repeat(np.float32(betas), 50), statistic=gibbs.energies)
    means = np.asarray(energy, float)[25:].mean(0).reshape(2, 50) / n**2
    for beta, mine in zip(betas, means, strict=True):
        assert abs(mine.mean() - cases.TORUS[n, beta][1]) < 4 * mine.std(ddof=1) / np.sqrt(50)


def test_larger_dense_models_and_their_last_tile():
    """150 nodes: three tiles, the last of which reaches back. Independent nodes have known means."""
    rng = np.random.default_rng(0)
    bias = rng.normal(size=150)
    model = Pairwise(np.float32(bias), Dense(np.zeros((150, 150), np.float32)))
    sweep = jax.jit(lambda key, state: [gibbs.sweep(key, state, model, reverse=reverse) for reverse in (False, True)])
    p = 1 / (1 + np.exp(-bias))
    for after in sweep(jax.random.key(0, impl=PHILOX), np.zeros((150, 1000), np.int8)):
        z = (np.asarray(after, float).mean(1) - p) / np.sqrt(p * (1 - p) / 1000)
        assert abs(z).max() < 4.5


def test_numbers_of_steps_compile_nothing_and_models_may_be_side_by_side():
    model = cases.random_model(Neighbours, spins=True)
    colder = cases.times(model, 3)
    both = jax.tree.map(lambda *a: np.stack(a), model, colder)
    keys = jax.random.split(jax.random.key(0, impl=PHILOX), 2)
    state = random_state(jax.random.key(1, impl=PHILOX), model, 5)
    alone, _ = gibbs.sample(keys[0], state, model, 3, 1, 1.0)
    before = gibbs.sample._cache_size()
    gibbs.sample(keys[0], state, colder, 3, 7, 0.2)
    assert gibbs.sample._cache_size() == before
    together, _ = jax.vmap(gibbs.sample, in_axes=(0, None, 0, None, None, None))(keys, state, both, 3, 1, 1.0)
    together = np.asarray(together)
    np.testing.assert_array_equal(together[0], alone)
    np.testing.assert_array_equal(together[1], gibbs.sample(keys[1], state, colder, 3, 1, 1.0)[0])


def test_uniform_numbers_stay_inside():
    u = np.asarray(jax.jit(lambda key: gibbs.uniform(key, (100_000,)))(jax.random.key(0)), float)
    assert 0 < u.min() < u.max() < 1
    assert abs(u.mean() - 0.5) < 4 * np.sqrt(1 / 12 / 100_000)
    draw = jax.jit(lambda random, fields: gibbs.draw(random, fields, 1.0, spins=True))
    frozen = draw(np.float32([2.0**-24, 1 - 2.0**-24]), np.float32([-9.0, 9.0]))
    assert frozen.tolist() == [-1.0, 1.0]
