"""Annealed importance sampling is unbiased in Z, brackets log Z, and is one program for all values."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from chainrule.inference import annealing


def fast_key(seed):
    """A key whose numbers are compiled in a twentieth of the time that those of the default take."""
    return jax.random.key(seed, impl="philox2x32")


SIZE, CHAINS = 4, 20_000
STATES = np.array(list(itertools.product((-1.0, 1.0), repeat=SIZE)))


def machine(seed=0, strength=0.9):
    """Couplings and biases of a small machine of ±1 units, with its log Z by enumeration."""
    rng = np.random.default_rng(seed)
    coupling = np.triu(rng.normal(0, strength, (SIZE, SIZE)), 1)
    coupling = (coupling + coupling.T).astype(np.float32)
    bias = rng.normal(0, 0.4, SIZE).astype(np.float32)
    score = 0.5 * np.einsum("ni,ij,nj->n", STATES, coupling, STATES) + STATES @ bias
    return coupling, bias, score


def log_density(model, s, beta):
    coupling, bias = model
    return beta * (0.5 * jnp.einsum("ni,ij,nj->n", s, coupling, s) + s @ bias)


def sweep(model, key, s, beta):
    """Visit the units in order: invariant, but not reversible."""
    coupling, bias = model
    uniform = jax.random.uniform(key, (SIZE, len(s)))
    for i in range(SIZE):
        up = jax.nn.sigmoid(2 * beta * (s @ coupling[i] + bias[i]))
        s = s.at[:, i].set(jnp.where(uniform[i] < up, 1.0, -1.0))
    return s


TRACES = []


@jax.jit
def forward(key, model, betas):
    TRACES.append(None)
    first, second = jax.random.split(key)
    start = jnp.where(jax.random.bernoulli(first, 0.5, (CHAINS, SIZE)), 1.0, -1.0)
    return annealing.annealed_importance_sampling(
        second, start, partial(sweep, model), partial(log_density, model), betas
    )


@jax.jit
def both(key, model, end, betas):
    first, second = jax.random.split(key)
    start = jnp.where(jax.random.bernoulli(first, 0.5, end.shape), 1.0, -1.0)
    functions = partial(sweep, model), partial(log_density, model)
    return annealing.sandwich(second, start, end, *functions, betas, log_partition=SIZE * jnp.log(2.0))


def stops(last, count):
    return np.linspace(0, last, count, dtype=np.float32)


def exact_draws(seed, score, size):
    rng = np.random.default_rng(seed)
    p = np.exp(score - np.logaddexp.reduce(score))
    return np.float32(STATES[rng.choice(len(STATES), size, p=p)])


@pytest.mark.parametrize("seed", range(4))
def test_weights_are_unbiased_in_z_with_few_stops(seed):
    """With three stops, far from equilibrium, the mean weight still is Z₁ / Z₀: within 4 standard errors of the mean."""
    *model, score = machine(seed)
    betas = np.float32([0.0, 0.4, 1.0])
    weights = np.exp(np.asarray(forward(fast_key(seed), model, betas).log_weights, np.float64))
    ratio = np.exp(np.logaddexp.reduce(score)) / 2**SIZE
    assert weights.std() / weights.mean() > 0.3  # the test means something: the weights do vary
    assert abs(weights.mean() - ratio) < 4 * weights.std() / np.sqrt(CHAINS)


def test_reverse_weights_are_unbiased_in_the_inverse_of_z():
    *model, score = machine(1)
    walk = jax.jit(
        lambda key, state: annealing.annealed_importance_sampling(
            key, state, partial(sweep, model), partial(log_density, model), jnp.asarray([1.0, 0.5, 0.0])
        )
    )
    found = walk(fast_key(3), exact_draws(0, score, CHAINS))
    weights = np.exp(np.asarray(found.log_weights, np.float64))
    ratio = 2**SIZE / np.exp(np.logaddexp.reduce(score))
    assert abs(weights.mean() - ratio) < 4 * weights.std() / np.sqrt(CHAINS)


def test_the_two_walks_bracket_log_z_on_average():
    """Few chains and few stops: the ends are biased in opposite directions, and their means lie on either side."""
    *model, score = machine(2, strength=1.3)
    truth = np.logaddexp.reduce(score)
    betas = stops(1, 3)
    ends = [both(fast_key(n), model, exact_draws(n, score, 10), betas) for n in range(200)]
    lower, upper = np.array([float(e.lower) for e in ends]), np.array([float(e.upper) for e in ends])
    assert lower.mean() + 3 * lower.std() / np.sqrt(200) < truth
    assert truth < upper.mean() - 3 * upper.std() / np.sqrt(200)


def test_many_stops_find_log_z_and_say_how_well():
    *model, score = machine(2, strength=1.3)
    truth = np.logaddexp.reduce(score)
    ends = both(fast_key(0), model, exact_draws(0, score, 1000), stops(1, 100))
    assert float(ends.lower_error) < 0.05
    assert abs(float(ends.lower) - truth) < 4 * float(ends.lower_error)
    assert abs(float(ends.upper) - truth) < 4 * float(ends.upper_error)
    assert ends.status is annealing.SandwichStatus.TIGHT
    assert repr(ends).startswith("Sandwich(")
    assert float(ends.estimate) == pytest.approx(truth, abs=0.1)


def test_ends_without_a_known_error_are_not_called_tight():
    one = [np.float32(x) for x in (2.0, 2.1, np.nan, np.nan, 1.0, 1.0)]
    assert annealing.Sandwich(*one).status is annealing.SandwichStatus.WIDE


def test_the_standard_error_is_the_spread_of_estimates():
    *model, _ = machine(0)
    weights = np.asarray(forward(fast_key(5), model, stops(1, 3)).log_weights)
    blocks = annealing.Annealed(weights[:200], None)
    estimates = [annealing.Annealed(w, None).log_ratio for w in weights.reshape(100, 200)]
    # the spread of 100 estimates is known to 1/√200 = 7 %; one block's own error varies as well
    assert np.std(estimates, ddof=1) == pytest.approx(float(blocks.standard_error), rel=0.4)
    low, high = blocks.interval(3.0)
    assert float(low) < float(blocks.log_ratio) < float(high)


def test_a_ratio_of_its_own_is_used():
    *model, _ = machine(0)
    start = exact_draws(0, np.zeros(len(STATES)), 500)

    @jax.jit
    def walks(key, model, betas):
        walk = partial(annealing.annealed_importance_sampling, key, start, partial(sweep, model))
        plain = walk(partial(log_density, model), betas)
        direct = walk(
            partial(log_density, model), betas, log_ratio=lambda s, old, new: log_density(model, s, new - old)
        )
        return plain, direct

    plain, direct = walks(fast_key(0), model, stops(1, 20))
    np.testing.assert_allclose(direct.log_weights, plain.log_weights, atol=1e-4)


def test_the_status_says_whether_the_ends_agree():
    crossed = annealing.Sandwich(*(np.float32(x) for x in (5.0, 3.0, 0.1, 0.1, 9.0, 9.0)))
    assert crossed.status is annealing.SandwichStatus.CROSSED
    wide = annealing.Sandwich(*(np.float32(x) for x in (3.0, 5.0, 0.1, 0.1, 9.0, 9.0)))
    assert wide.status is annealing.SandwichStatus.WIDE
    lost = annealing.Sandwich(*(np.float32(x) for x in (np.nan, 5.0, 0.1, 0.1, 9.0, 9.0)))
    assert lost.status is annealing.SandwichStatus.DIVERGED


def test_degenerate_weights_have_an_open_interval():
    found = annealing.Annealed(np.float32([0.0, -50.0, -50.0, -50.0]), None)
    assert float(found.effective_sample_size) == pytest.approx(1.0)
    assert float(found.interval(3.0)[0]) == -np.inf


def test_one_stop_is_refused():
    with pytest.raises(ValueError, match="at least two"):
        annealing.annealed_importance_sampling(fast_key(0), jnp.zeros(3), None, None, jnp.zeros(1))


def test_new_values_and_temperatures_compile_nothing():
    *model, _ = machine(0)
    forward(fast_key(0), model, stops(1, 3))
    before = len(TRACES)
    forward(fast_key(1), [2 * m for m in model], stops(0.5, 3))
    assert len(TRACES) == before
