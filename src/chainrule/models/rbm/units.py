"""Units of a restricted Boltzmann machine: what values they take, and their distribution given the other layer.

A layer of units adds log g(x) to the log-density, and the machine's weights add s(v)·W·h. Given what the other layer
sends (the *drive*, W h or s(v) W) the units of a layer are independent:

| unit | values | log g(x) with bias a | s(x) |
|---|---|---|---|
| `Binary` | 0, 1 | a x | x |
| `Categorical(K)` | 0 … K−1, one-hot x in K columns | a·x | x |
| `Gaussian` | real numbers | −(x − a)² / 2σ², σ² learned | x / σ² |
| `Rectified` | h ≥ 0 | a h − h²/2 | h (hidden only) |

`Gaussian` is the parametrisation of Cho, Ilin and Raiko (2011), in which a is the mean of a unit without drive.
`Rectified` is the truncated normal distribution, whose free energy and draws are exact; the noisy rectified linear unit of
Nair and Hinton (2010), max(0, N(x, sigmoid(x))), looks much the same but belongs to no energy.

The functions of a layer work on columns (…, C), where C is the number of units, for `Categorical` times K. Draws are made
of one uniform number in (0, 1) for each unit, by the inverse distribution function: who sweeps over both layers draws the
numbers of both at once.

References:
    Welling, Rosen-Zvi and Hinton (2004), Exponential family harmoniums with an application to information retrieval.
    Salakhutdinov, Mnih and Hinton (2007), Restricted Boltzmann machines for collaborative filtering.
    Cho, Ilin and Raiko (2011), Improved learning of Gaussian–Bernoulli restricted Boltzmann machines.
    Nair and Hinton (2010), Rectified linear units improve restricted Boltzmann machines.
"""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.special import log_ndtr, ndtr, ndtri

from ...forms.chain import is_concrete
from ...forms.products import product
from ..emissions.base import as_parameter

_LOG_2_PI = math.log(2 * math.pi)


def totals(values, observed) -> tuple[np.ndarray, np.ndarray]:
    """Sum and number of the values of each unit, over the rows where it is observed; None says everywhere."""
    if observed is None:
        return values.sum(0, dtype=float), np.full(values.shape[1], len(values))
    return np.where(observed, values, 0).sum(0, dtype=float), observed.sum(0)


class Binary(eqx.Module):
    """Units that are 0 or 1.

    Example:
        >>> import chainrule as cr
        >>> cr.RBM([[1.0]], visible=cr.units.Binary())  # the default
        RBM(1 Binary visible, 1 Binary hidden)
    """

    width = 1  # columns of a unit

    def score(self, x, bias):
        """Log g(x), by column."""
        return x * bias

    def statistic(self, x):
        """s(x)."""
        return x

    def log_normaliser(self, bias, drive):
        """Log Σ_x g(x) exp(s(x) drive), by unit."""
        return jax.nn.softplus(bias + drive)

    def mean(self, bias, drive):
        """E[x | drive], by column."""
        return jax.nn.sigmoid(bias + drive)

    def sample(self, uniform, bias, drive):
        """Draw x given the drive."""
        field = bias + drive
        return (uniform < jax.nn.sigmoid(field)).astype(field.dtype)

    def encode(self, v, dtype):
        """Values as columns; what is missing reads 0."""
        return v.astype(dtype)

    def decode(self, x):
        """Columns as values."""
        return x

    def expected(self, mean):
        """The expected value of each unit from the means of its columns."""
        return mean

    def allows(self, values):
        """Which concrete values are ours."""
        return (values == 0) | (values == 1)

    def check(self, values, observed):
        """Say which of the concrete values is none of ours."""
        bad = observed & ~self.allows(values)
        if bad.any():
            row, column = np.argwhere(bad)[0]
            raise ValueError(
                f"row {row}, unit {column} is {values[row, column]}; binary units are 0 or 1: threshold the data, such as "
                "images > 127, or use units.Gaussian() for real numbers"
            )

    def start(self, values, observed):
        """Biases that give the observed frequencies, half an observation of either value added; and the units."""
        ones, count = totals(values, observed)
        return np.log((ones + 0.5) / (count - ones + 0.5)), self

    def sized(self, num_units: int):
        """The units with parameters for so many of them."""
        return self

    def tempered(self, temperature):
        """Units at another temperature, with the factors on their bias and on the weights that go with it."""
        return self, 1 / temperature, 1.0

    def given_noisy(self, noisy, noise):
        """`sample` and `mean` given the drive and columns that were flipped with probability `noise`."""
        evidence = (2 * noisy - 1) * jnp.log((1 - noise) / noise)
        return (
            lambda uniform, bias, drive: self.sample(uniform, bias, drive + evidence),
            lambda bias, drive: self.mean(bias, drive + evidence),
        )

    def __repr__(self):
        return "Binary()"


class Categorical(eqx.Module):
    """Units that take one of K values, as softmax units; −1 or NaN means that the unit is missing.

    Args:
        num_values: K, at least 2.

    Columns i·K to i·K + K − 1 of weights and biases belong to unit i.

    Raises:
        ValueError: fewer than two values.
    """

    num_values: int = eqx.field(static=True)

    def __check_init__(self):
        if self.num_values < 2:
            raise ValueError(f"Categorical: num_values is {self.num_values}; at least two are needed")

    @property
    def width(self) -> int:
        """Columns of a unit."""
        return self.num_values

    def score(self, x, bias):
        """Log g(x), by column."""
        return x * bias

    def statistic(self, x):
        """s(x)."""
        return x

    def log_normaliser(self, bias, drive):
        """Log Σ_x g(x) exp(s(x) drive), by unit."""
        return jax.nn.logsumexp(self._apart(bias + drive), axis=-1)

    def mean(self, bias, drive):
        """Probability of each value."""
        field = bias + drive
        return jax.nn.softmax(self._apart(field), axis=-1).reshape(field.shape)

    def sample(self, uniform, bias, drive):
        """Draw one-hot columns given the drive."""
        field = bias + drive
        edges = jnp.cumsum(jax.nn.softmax(self._apart(field), axis=-1), axis=-1)
        value = (edges[..., :-1] <= uniform[..., None] * edges[..., -1:]).sum(-1, dtype=jnp.int32)
        return jax.nn.one_hot(value, self.num_values, dtype=field.dtype).reshape(field.shape)

    def encode(self, v, dtype):
        """Values as one-hot columns; what is missing reads 0 in all of them."""
        return jax.nn.one_hot(v, self.num_values, dtype=dtype).reshape(*v.shape[:-1], -1)

    def decode(self, x):
        """One-hot columns as values."""
        return jnp.argmax(self._apart(x), axis=-1).astype(jnp.int32)

    def expected(self, mean):
        """Σ_k k p(k), for values that are grades."""
        return product(self._apart(mean), jnp.arange(self.num_values, dtype=mean.dtype))

    def check(self, values, observed):
        """Say which of the concrete values is none of ours."""
        bad = observed & ((values < 0) | (values >= self.num_values) | (values != np.floor(values)))
        if bad.any():
            row, column = np.argwhere(bad)[0]
            raise ValueError(
                f"row {row}, unit {column} is {values[row, column]}; values are 0 … {self.num_values - 1}, and -1 or NaN "
                "where one is missing: subtract the lowest grade of the scale first"
            )

    def start(self, values, observed):
        """Biases that give the observed frequencies, one observation spread over all values added; and the units."""
        counts = np.stack([totals(values == k, observed)[0] for k in range(self.num_values)], axis=1)
        share = (counts + 1 / self.num_values) / (counts.sum(1, keepdims=True) + 1)
        logs = np.log(share)
        return (logs - logs.mean(1, keepdims=True)).ravel(), self

    def sized(self, num_units: int):
        """The units with parameters for so many of them."""
        return self

    def tempered(self, temperature):
        """Units at another temperature, with the factors on their bias and on the weights that go with it."""
        return self, 1 / temperature, 1.0

    def given_noisy(self, noisy, noise):
        """`sample` and `mean` given the drive and one-hot columns of values replaced by others at the rate `noise`."""
        evidence = noisy * jnp.log((1 - noise) * (self.num_values - 1) / noise)
        return (
            lambda uniform, bias, drive: self.sample(uniform, bias, drive + evidence),
            lambda bias, drive: self.mean(bias, drive + evidence),
        )

    def _apart(self, columns):
        return columns.reshape(*columns.shape[:-1], -1, self.num_values)


class Gaussian(eqx.Module):
    """Real-valued visible units with a variance each: v_i | h ~ N(a_i + Σ_j W_ij h_j, σ_i²).

    Args:
        log_variance: log σ², shape (units,) or one number for all; 0 if not given.
        learned: whether fits change it, at a fiftieth of the learning rate: variances as fast as the weights
            would leave these nothing to explain. If not, it stays what is given here.

    Values should be of order one: standardise data first.

    Raises:
        ValueError: a log variance that is not finite.

    Example:
        >>> import chainrule as cr
        >>> machine = cr.RBM([[1.0]], visible=cr.units.Gaussian())
        >>> machine.free_energy([0.0]) < machine.free_energy([3.0])
        Array(True, dtype=bool)
    """

    log_variance: Any = None
    learned: bool = eqx.field(default=True, static=True)

    width = 1

    def __check_init__(self):
        log_variance = self.log_variance
        if log_variance is not None and is_concrete(log_variance) and not np.isfinite(np.asarray(log_variance)).all():
            raise ValueError("Gaussian: log_variance has entries that are NaN or infinite")

    def score(self, x, bias):
        """Log g(x), by column."""
        return -0.5 * (x - bias) ** 2 * self._precision(x.ndim)

    def statistic(self, x):
        """s(x)."""
        return x * self._precision(x.ndim)

    def log_normaliser(self, bias, drive):
        """Log ∫ g(x) exp(s(x) drive) dx, by unit: ½ log 2πσ² + ((a + m)² − a²) / 2σ² with m the drive."""
        log_variance = self.log_variance.reshape((1,) * (drive.ndim - 1) + (-1,))
        return 0.5 * (_LOG_2_PI + log_variance) + drive * (bias + 0.5 * drive) * self._precision(drive.ndim)

    def mean(self, bias, drive):
        """E[x | drive], by column."""
        return bias + drive

    def sample(self, uniform, bias, drive):
        """Draw x given the drive."""
        mean = bias + drive
        return mean + ndtri(uniform) * lax.rsqrt(self._precision(mean.ndim))

    def encode(self, v, dtype):
        """Values as columns."""
        return v.astype(dtype)

    def decode(self, x):
        """Columns as values."""
        return x

    def expected(self, mean):
        """The expected value of each unit from the means of its columns."""
        return mean

    def check(self, values, observed):
        """Say which of the concrete values is none of ours."""
        bad = observed & ~np.isfinite(values)
        if bad.any():
            row, column = np.argwhere(bad)[0]
            raise ValueError(f"row {row}, unit {column} is {values[row, column]}; Gaussian units are finite numbers")

    def start(self, values, observed):
        """Means of the data, and half of their variance: what is left is for the hidden units to explain.

        With all of the variance no weight would have a reason to grow, and a fit would begin at a saddle point. A variance
        that is not learned stays.
        """
        total, count = totals(values, observed)
        mean = total / np.maximum(count, 1)
        if not self.learned:
            return mean, self
        variance = totals((values - mean) ** 2, observed)[0] / np.maximum(count, 1)
        if not (variance > 0).all():
            raise ValueError(
                f"unit {int(np.argmin(variance))} is the same in all rows, so it has no variance to learn: leave it out"
            )
        return mean, Gaussian(as_parameter(np.log(variance / 2)), self.learned)

    def sized(self, num_units: int):
        """The units with parameters for so many of them."""
        given = np.zeros(num_units) if self.log_variance is None else self.log_variance
        if is_concrete(given):  # on the host, where it compiles nothing
            return Gaussian(as_parameter(np.broadcast_to(np.asarray(given, float), (num_units,))), self.learned)
        return Gaussian(jnp.broadcast_to(jnp.asarray(given, float), (num_units,)), self.learned)

    def tempered(self, temperature):
        """Units at another temperature: means stay, variances grow, and so does the drive for s(x) = x / σ²."""
        return Gaussian(self.log_variance + jnp.log(temperature), self.learned), 1.0, temperature

    def given_noisy(self, noisy, noise):
        """`sample` and `mean` given the drive and columns with noise of standard deviation `noise` added."""
        own, of_noise = self._precision(noisy.ndim), 1 / noise**2

        def mean(bias, drive):
            return ((bias + drive) * own + noisy * of_noise) / (own + of_noise)

        def sample(uniform, bias, drive):
            return mean(bias, drive) + ndtri(uniform) * lax.rsqrt(own + of_noise)

        return sample, mean

    def __repr__(self):
        return "Gaussian()" if self.learned else "Gaussian(learned=False)"

    def _precision(self, ndim):
        log_variance = self.log_variance if self.learned else lax.stop_gradient(self.log_variance)
        return jnp.exp(-log_variance).reshape((1,) * (ndim - 1) + (-1,))


class Rectified(eqx.Module):
    """Hidden units that are zero or positive: h | x ~ N(x, 1) cut off below 0, with x = bias + drive.

    Example:
        >>> import chainrule as cr, numpy as np
        >>> rbm = cr.RBM([[1.0]], hidden=cr.units.Rectified())
        >>> np.asarray(rbm.features([[0], [1]]), float).round(2).tolist()  # they grow with the drive, past 1 as well
        [[0.8], [1.29]]
    """

    width = 1

    def score(self, x, bias):
        """Log g(x), by column."""
        return x * bias - 0.5 * x**2

    def statistic(self, x):
        """s(x)."""
        return x

    def log_normaliser(self, bias, drive):
        """Log ∫₀^∞ exp(x h − h²/2) dh = x²/2 + log Φ(x) + ½ log 2π."""
        return _log_half_line(bias + drive)

    def mean(self, bias, drive):
        """E[h] = x + φ(x) / Φ(x), the slope of `log_normaliser`."""
        return _half_line_mean(bias + drive)

    def sample(self, uniform, bias, drive):
        """Draw h: by the inverse distribution function, in the far tail by its expansion."""
        x = bias + drive
        near = jnp.maximum(x, -_FAR)
        inner = near - ndtri(uniform * ndtr(near))
        # far out p(H > h) = exp(−h²/2 − |x| h) |x| / (|x| + h), up to a factor 1 + O(x⁻⁴): solved by two substitutions
        size = jnp.maximum(-x, _FAR)
        exponent = -jnp.log(uniform)
        first = _exceed(size, exponent)
        second = _exceed(size, jnp.maximum(exponent - jnp.log1p(first / size), 0))
        return jnp.where(x > -_FAR, jnp.maximum(inner, 0), second)  # rounding may end just below 0

    def allows(self, values):
        """Which concrete values are ours."""
        return (values >= 0) & np.isfinite(values)

    def tempered(self, temperature):
        """Units at another temperature, measured in units of √T."""
        return self, lax.rsqrt(temperature), jnp.sqrt(temperature)

    def __repr__(self):
        return "Rectified()"


_FAR = 8.0  # where draws by the inverse distribution function begin to cancel in single precision
_LOW = 3.0  # where x²/2 + log Φ(x) does
_DEPTH = 16  # terms of a continued fraction, whose error at _LOW is below single precision


def _exceed(size, exponent):
    """The h with h²/2 + size·h = exponent."""
    return 2 * exponent / (size + jnp.sqrt(size**2 + 2 * exponent))


def _log_half_line(x):
    """Log ∫₀^∞ exp(x h − h²/2) dh, for low x by Laplace's fraction Φ(−t)/φ(t) = 1/(t + 1/(t + 2/(t + 3/(t + …))))."""
    near = jnp.maximum(x, -_LOW)
    size = jnp.maximum(-x, _LOW)
    fraction = jnp.zeros_like(size)
    for n in range(_DEPTH, 0, -1):
        fraction = n / (size + fraction)
    return jnp.where(x > -_LOW, 0.5 * near**2 + log_ndtr(near) + 0.5 * _LOG_2_PI, -jnp.log(size + fraction))


def _half_line_mean(x):
    """The slope of `_log_half_line`: x + φ(x)/Φ(x), for low x the fraction's tail 1/(t + 2/(t + 3/(t + …)))."""
    near = jnp.maximum(x, -_LOW)
    size = jnp.maximum(-x, _LOW)
    fraction = jnp.zeros_like(size)
    for n in range(_DEPTH, 0, -1):
        fraction = n / (size + fraction)
    ratio = jnp.exp(-0.5 * near**2 - 0.5 * _LOG_2_PI - log_ndtr(near))
    return jnp.where(x > -_LOW, near + ratio, fraction)
