"""What a hidden Markov model asks of its emission p(x_t | z_t).

An emission is a frozen module that holds one set of parameters per state. Three things are asked of it: scores of
observations under every state, samples, and a way to be learned: a weighted maximum-likelihood step for EM, and an
unconstrained form for gradients. An emission made without parameters, such as `Poisson()`, is a *family*: it takes its
first parameters from the data when a model is fitted.

Observations reach `scores` as (time, *event, row), the layout of `Sequences`, and leave as (time, state, row). NaN means
missing: it is given a safe value before any formula and a log-probability of zero after, so that gradients stay finite.
"""

from abc import abstractmethod
from typing import Any, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, Num, PyTree, Shaped

from ...forms.chain import as_floats, is_concrete
from ...forms.sequences import Sequences
from ...inference.compiling import jit

# An array, or None in a family that has yet to learn it.
Parameter = Any


class AbstractEmission(eqx.Module):
    """The contract; see the module's description."""

    @property
    @abstractmethod
    def num_states(self) -> int | None:
        """How many states the parameters are for; None for a family without parameters."""

    @property
    @abstractmethod
    def event_shape(self) -> tuple[int, ...] | None:
        """Shape of one observation; None while unknown."""

    @abstractmethod
    def scores(self, values: Num[Array, "time *event row"]) -> Float[Array, "time state row"]:
        """Log-probability of each observation under each state."""

    @abstractmethod
    def sample(self, key: Key[Array, ""], states: Int[Array, "*shape"]) -> Num[Array, "..."]:
        """One observation for each entry of `states`."""

    @abstractmethod
    def check(self, data: Sequences) -> None:
        """Raise a ValueError that names the first observation that cannot come from this family."""

    @abstractmethod
    def initialise(self, key: Key[Array, ""], num_states: int, data: Sequences) -> Self:
        """Random first parameters drawn from the data, on the host."""

    @abstractmethod
    def maximise(
        self, values: Num[Array, "time *event row"], weights: Float[Array, "time state row"], prior: PyTree, floor: Any
    ) -> tuple[Self, Bool[Array, " state"]]:
        """Parameters that maximise Σ weights · log p(x | state) + log prior, and which states were degenerate.

        A state without weight keeps its parameters. A variance below `floor` is set to it. Both are reported.
        """

    @abstractmethod
    def unconstrained(self) -> PyTree[Float[Array, "..."]]:
        """The parameters as free real numbers, for gradient methods."""

    @abstractmethod
    def constrained(self, free: PyTree[Float[Array, "..."]]) -> Self:
        """The emission that `unconstrained` would describe by `free`. Structural zeros of `self` stay zero."""

    @abstractmethod
    def free_counts(self) -> list[int]:
        """How many numbers may be chosen freely in each array, in the order of `jax.tree.leaves`, for AIC and BIC."""

    def free_parameters(self) -> int:
        """How many numbers may be chosen freely."""
        return sum(self.free_counts())

    @abstractmethod
    def permute(self, order: Int[Array | np.ndarray, " state"]) -> Self:
        """The emission whose state k is state order[k] of this one; `order` may be traced."""

    @property
    @abstractmethod
    def prior_type(self) -> type | None:
        """The conjugate prior that `maximise` understands, if any."""

    def check_prior(self, prior: PyTree) -> None:
        """Raise a ValueError if the prior is of another family, or has no maximum."""
        if prior is None:
            return
        if self.prior_type is None:
            raise ValueError(f"{type(self).__name__} has no conjugate prior; leave the emission's prior out")
        if not isinstance(prior, self.prior_type):
            wanted = self.prior_type.__name__
            raise ValueError(f"{type(self).__name__} takes a prior of type {wanted}, got {type(prior).__name__}")
        for name, (least, inclusive) in prior.least().items():
            value = np.asarray(getattr(prior, name), float)
            if not (value >= least if inclusive else value > least).all():
                relation = "at least" if inclusive else "above"
                raise ValueError(f"the emission's prior: {name} is {value.min():g}; it must be {relation} {least}")

    def log_prior(self, prior: PyTree) -> Float[Array, ""] | float:
        """Log-density of the prior at the parameters, up to a constant."""
        return 0.0

    @property
    def mean(self) -> Float[Array, "state *event"]:
        """Expected observation of each state."""
        raise ValueError(f"{type(self).__name__} has no mean")

    def log_prob(self, x: Shaped[Array, "..."]) -> Float[Array, "*batch state"]:
        """Log p(x | state) for every state; NaN is missing and counts zero."""
        return _log_prob(self, x if isinstance(x, jax.Array | np.ndarray) else jnp.asarray(x))

    def has_parameters(self) -> bool:
        """Whether there is anything to compute with."""
        return self.num_states is not None

    def __repr__(self):
        return type(self).__name__


class AbstractFamily(AbstractEmission):
    """A family whose first parameter is also its mean: shape (state, *event), or None until it is learned."""

    @property
    @abstractmethod
    def location(self) -> Parameter:
        """The mean of each state, or None."""

    @property
    def num_states(self) -> int | None:
        """K, or None for a family."""
        location = self.location
        return None if location is None else location.shape[0]

    @property
    def event_shape(self) -> tuple[int, ...] | None:
        """Shape of one observation; None for a family."""
        location = self.location
        return None if location is None else location.shape[1:]

    @property
    def mean(self) -> Float[Array, "state *event"]:
        """Expected observation of each state."""
        parameters(self)
        return self.location


@jit
def _log_prob(emission: AbstractEmission, x):
    event = emission.event_shape or ()
    batch = x.shape[: x.ndim - len(event)]
    found = emission.scores(x.reshape(-1, *event)[..., None])[..., 0]
    return found.reshape(*batch, -1)


def parameters(emission: AbstractEmission) -> None:
    """Raise if the emission is a family without parameters."""
    if emission.num_states is None:
        name = type(emission).__name__
        raise ValueError(f"{name}() has no parameters yet: fit the model first, or construct {name} with parameters")


def as_parameter(value) -> Any:
    """A floating array, or None."""
    if value is None or (
        not isinstance(value, np.ndarray | list | tuple | float | int) and not hasattr(value, "dtype")
    ):
        return value
    return as_floats(value)


def require(name: str, array, good, wanted: str) -> None:
    """Raise for the first entry of a concrete parameter array that is not good."""
    if array is None or not is_concrete(array):
        return
    bad = np.argwhere(~np.asarray(good(np.asarray(array))))
    if len(bad):
        place = bad[0].tolist()
        raise ValueError(f"{name}{place} is {np.asarray(array)[tuple(place)]}; wanted {wanted}")


def observed(values):
    """A safe copy without NaN, and where the values are real. Integers are always real."""
    if not jnp.issubdtype(values.dtype, jnp.floating):
        return values, jnp.ones((), bool)
    seen = ~jnp.isnan(values)
    return jnp.where(seen, values, 0), seen


def guarded(new, old, weight):
    """`new` where the state (first axis) has weight, else `old`."""
    some = (weight > 0).reshape(-1, *[1] * (old.ndim - 1))
    return jnp.where(some, new, old)


def safe_ratio(numerator, denominator):
    """Numerator / denominator, and 0 where the denominator is 0; the latter has the state axis first."""
    some = denominator > 0
    return jnp.where(some, numerator / jnp.where(some, denominator, 1), 0)


def check_event(data: Sequences, event_shape: tuple[int, ...] | None, family: str) -> None:
    """Raise if the observations do not have the shape that the parameters ask for."""
    if event_shape is not None and data.event_shape != event_shape:
        wanted = f"(time, {', '.join(map(str, event_shape))})" if event_shape else "(time,)"
        got = f"(time, {', '.join(map(str, data.event_shape))})" if data.event_shape else "(time,)"
        raise ValueError(f"{family}: each sequence must have shape {wanted}, got {got}")


def check_values(data: Sequences, good, wanted: str) -> None:
    """Raise for the first real observation that is neither good nor NaN, naming its sequence and step."""
    values = np.asarray(data.values)
    fine = good(values)
    if fine.all():
        return
    bad = ~fine
    if values.dtype.kind == "f":
        bad &= ~np.isnan(values)
    for n, found in enumerate(data.unpack(bad)):
        if found.any():
            place = np.argwhere(found)[0]
            value = data.unpack(values)[n][tuple(place)]
            where = f"sequence {n}, step {place[0]}" + (f", feature {place[1:].tolist()}" if len(place) > 1 else "")
            raise ValueError(f"{where}: {value} is not {wanted}")


def observations(data: Sequences) -> np.ndarray:
    """All real observations end to end, (step, *event), as float64."""
    return np.concatenate(data.unpack(np.asarray(data.values))).astype(float)


def generator(key) -> np.random.Generator:
    """A NumPy generator seeded by a JAX key, for host-side initial values."""
    return np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel().astype(np.uint32).tolist())


def spread_centres(key, rows: np.ndarray, num_states: int) -> np.ndarray:
    """Starting means (num_states, D) by k-means++ seeding (Arthur and Vassilvitskii 2007) on standardised rows."""
    rng = generator(key)
    nowhere = np.isnan(rows).all(0)
    if nowhere.any():
        raise ValueError(f"feature {int(np.argmax(nowhere))} is missing everywhere: leave it out, or give parameters")
    rows = np.where(np.isnan(rows), np.nanmean(rows, axis=0, keepdims=True), rows)
    if len(rows) > 20_000:
        rows = rows[rng.choice(len(rows), 20_000, replace=False)]
    scale = rows.std(0, keepdims=True)
    points = rows / np.where(scale > 0, scale, 1)
    centres = [int(rng.integers(len(rows)))]
    for _ in range(1, num_states):
        distance = np.min([((points - points[c]) ** 2).sum(1) for c in centres[-1:]], axis=0)
        nearest = distance if len(centres) == 1 else np.minimum(nearest, distance)
        total = nearest.sum()
        chosen = rng.choice(len(rows), p=nearest / total) if total > 0 else rng.integers(len(rows))
        centres.append(int(chosen))
    return rows[centres]
