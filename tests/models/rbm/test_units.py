"""Units against sums and integrals of their definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from enumerated import fast_key
from scipy import integrate, stats

import chainrule as cr
from chainrule.models.rbm import engine

FIELDS = np.array([-30.0, -9.0, -7.9, -3.0, -0.5, 0.0, 0.7, 4.0, 20.0])


# each is one program for all units of a shape, instead of one for every operation
sample = jax.jit(lambda units, uniform, bias, drive: units.sample(uniform, bias, drive))
total_and_mean = jax.jit(lambda units, bias, drive: (units.log_normaliser(bias, drive), units.mean(bias, drive)))


def uniforms(*shape):
    return np.float32(np.random.default_rng(0).random(shape))


def test_uniform_numbers_are_middles_as_far_from_0_as_from_1():
    """Odd multiples of 2⁻²⁴: the lowest is one less the highest, and what has log-odds of −60 is never on."""
    machine = cr.RBM(np.zeros((256, 1)), visible=cr.units.Gaussian())
    uniforms = jax.jit(engine.uniforms, static_argnums=2)(machine, fast_key(0), 4096)
    drawn = np.concatenate([np.asarray(u).ravel() for u in uniforms])
    parts = drawn.astype(float) * 2**24
    assert (parts % 2 == 1).all()
    assert 1 <= parts.min() < 2**24 / 1e4
    assert 2**24 * (1 - 1e-4) < parts.max() <= 2**24 - 1
    ends = np.array([2.0**-24, 1 - 2.0**-24], np.float32)  # the extremes that can be drawn
    zero = np.zeros(1, np.float32)
    low, high = np.asarray(sample(cr.units.Gaussian(zero), ends, zero, zero))
    assert float(low) == pytest.approx(-float(high), rel=1e-3) == pytest.approx(-5.3, abs=0.1)
    assert not np.any(sample(cr.units.Binary(), ends[:1], zero, zero - 60))


@pytest.mark.parametrize("x", FIELDS)
def test_rectified_units_integrate_the_half_line(x):
    """log ∫₀^∞ exp(xh − h²/2) dh and the mean of h, by quadrature around the largest term."""
    top = max(x, 0)
    peak = x * top - top**2 / 2
    ends = (max(0, top - 12), top + 12 if x > -3 else 40 / -x)
    mass = integrate.quad(lambda h: np.exp(x * h - h**2 / 2 - peak), *ends, epsabs=0, epsrel=1e-11)[0]
    first = integrate.quad(lambda h: h * np.exp(x * h - h**2 / 2 - peak), *ends, epsabs=0, epsrel=1e-11)[0]
    total, mean = map(float, total_and_mean(cr.units.Rectified(), np.float32(0), np.float32(x)))
    assert total == pytest.approx(np.log(mass) + peak, rel=2e-6, abs=5e-6)
    assert mean == pytest.approx(first / mass, rel=3e-5)


@pytest.mark.parametrize("x", [-30.0, -8.5, -7.5, -1.0, 2.0])
def test_rectified_draws_follow_the_truncated_normal(x):
    count = 20_000
    draws = np.asarray(
        sample(cr.units.Rectified(), uniforms(count), np.zeros(1, np.float32), np.full(count, x, np.float32))
    )
    assert (draws >= 0).all()
    # survival of N(x, 1) cut at 0, in logs because its mass may be 1e-200
    survival = np.exp(stats.norm.logsf(np.sort(draws).astype(float) - x) - stats.norm.logsf(-x))
    distance = np.abs(1 - survival - (np.arange(count) + 0.5) / count).max()
    assert distance < 2.2 / np.sqrt(count)  # Kolmogorov's statistic exceeds this once in 10⁴


def test_categorical_units_sum_their_values():
    units, rng = cr.units.Categorical(3), np.random.default_rng(0)
    field, zero = np.float32(rng.normal(size=(2, 6))), np.zeros((1, 6), np.float32)
    total, mean = map(np.asarray, total_and_mean(units, zero, field))
    np.testing.assert_allclose(total, np.log(np.exp(field).reshape(2, 2, 3).sum(2)), rtol=1e-6)
    many = np.asarray(sample(units, uniforms(20_000, 2), zero, np.tile(field[:1], (20_000, 1))))
    assert (many.reshape(-1, 2, 3).sum(2) == 1).all()
    np.testing.assert_allclose(many.mean(0), mean[0], atol=4.5 * np.sqrt(0.25 / 20_000))

    @jax.jit
    def there_and_back(codes, mean):
        columns = units.encode(codes, jnp.float32)
        return columns, units.decode(columns), units.expected(mean)

    columns, codes, grade = there_and_back(np.array([[2, -1], [2, 0]]), np.float32([[0.2, 0.3, 0.5, 1, 0, 0]]))
    np.testing.assert_array_equal(columns, [[0, 0, 1, 0, 0, 0], [0, 0, 1, 1, 0, 0]])
    np.testing.assert_array_equal(codes[1], [2, 0])
    np.testing.assert_allclose(grade, [[1.3, 0]], rtol=1e-6)


def test_gaussian_units_integrate_to_their_normaliser():
    units = cr.units.Gaussian(np.float32([0.3]))
    a, m, variance = 0.4, 0.9, np.exp(0.3)
    mass = integrate.quad(lambda v: np.exp(-((v - a) ** 2) / (2 * variance) + v * m / variance), -20, 20)[0]
    bias, drive = np.float32([[a]]), np.float32([[m]])
    total, mean = total_and_mean(units, bias, drive)
    assert float(total.item()) == pytest.approx(np.log(mass), rel=1e-6)
    assert float(mean.item()) == pytest.approx(a + m, rel=1e-6)
    draws = np.asarray(sample(units, uniforms(50_000, 1), bias, np.full((50_000, 1), m, np.float32)))
    assert float(draws.mean()) == pytest.approx(a + m, abs=4.5 * np.sqrt(variance / 50_000))
    assert float(draws.var()) == pytest.approx(variance, rel=4.5 * np.sqrt(2 / 50_000))


@pytest.mark.parametrize(
    ("units", "data", "message"),
    [
        (cr.units.Binary(), [[0, 2]], "row 0, unit 1 is 2; binary"),
        (cr.units.Binary(), [[0, 1], [0.5, 1]], "row 1, unit 0 is 0.5; binary"),
        (cr.units.Categorical(3), [[0, 3]], "row 0, unit 1 is 3; values are 0 … 2"),
        (cr.units.Categorical(3), [[0.5, 1]], "row 0, unit 0 is 0.5"),
        (cr.units.Gaussian(), [[0.0, np.inf]], "row 0, unit 1 is inf; Gaussian"),
        (cr.units.Gaussian(), [["a", "b"]], "dtype"),
        (cr.units.Binary(), [[0, 1, 1]], r"shape \(1, 3\); wanted \(rows, 2\)"),
        (cr.units.Binary(), np.zeros((0, 2)), "no rows"),
    ],
)
def test_values_out_of_range_are_refused(units, data, message):
    machine = cr.RBM(np.zeros((2 * units.width, 2)), visible=units)
    with pytest.raises(ValueError, match=message):
        machine.free_energy(np.array(data))
    with pytest.raises(ValueError, match=message):
        machine.fit(np.array(data), key=fast_key(0))


def test_one_value_is_no_category():
    with pytest.raises(ValueError, match="at least two"):
        cr.units.Categorical(1)
