"""Chains whose states are compounds, a pair of labels or a label with the time that it has left, and few ways between them.

Such a chain has S states, but only a few of the S² steps are possible, so a step is a function and not a matrix. A *kind*
of chain says how messages go one step ahead, and this module asks it for the rest:

    joint[t] = step(joint[t−1] / constant[t−1]),      constant[t] = Σ joint[t],      log Z = Σ_t log constant[t]

The step is linear in the message and in each family of weights. Its transpose, which reverse-mode differentiation of that
one step gives, therefore carries λ[t] = ∂ log Z / ∂ joint[t] back in time, λ[t−1] = stepᵀ λ[t] / constant[t−1], and on its
way gives the expected number of uses of each weight. Nothing is differentiated through the recursion.

What underflows is the danger. Every message is raised to the smallest normal number, `tiny`, which can only add paths, and
the paths added at step t are the share tiny · Σ λ[t] of the whole: that is the certificate. Where it fails, log space
answers, with messages normalised at every step and posteriors carried back in place of λ.

Data are in rows, as in `chainrule.forms.sequences`; the row axis is the last one, and always there. Rows are taken a
block at a time, so that what is kept for the way back fits the processor's cache.
"""

from abc import abstractmethod
from functools import cache, partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from . import certificate
from .certificate import certified
from .logspace import finite
from .rings import LogSums, Sums
from .rows import add_up
from .scaled import floored

BLOCK = 1 << 23  # numbers in the messages of one block of rows


class Steps(NamedTuple):
    """Log-potentials of one kind of chain, in rows.

    Attributes:
        fixed: those that are the same at all steps, by name.
        varying: those of each step, (time, …, row).
        marks: what else a step has to know, (time, …, row); it has no gradient.
        start: True where a sequence begins, (time, row).
    """

    fixed: dict[str, Any]
    varying: dict[str, Any]
    marks: dict[str, Any]
    start: Any


class AbstractKind(eqx.Module):
    """How the states of a chain follow one another; only sizes, no arrays.

    `w` holds all weights of one step by name: fixed ones, those of the step, and marks.
    """

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Shape of a message, without the row axis; states are numbered in its order."""

    @abstractmethod
    def exponentiated(self, steps: Steps) -> tuple[Steps, Float[Array, "time row"]]:
        """The potentials as numbers that do not overflow, and the logarithm of what was divided out at each step."""

    @abstractmethod
    def enter(self, ring, w: dict[str, Any]) -> Array:
        """Where a sequence begins: the message (*state, row)."""

    @abstractmethod
    def step(self, ring, w: dict[str, Any], message) -> Array:
        """One step ahead."""

    @abstractmethod
    def entry(self, w: dict[str, Any], state) -> Float[Array, ""]:
        """Log-potential of beginning a sequence in one state, of one row."""

    @abstractmethod
    def edges(self, w: dict[str, Any], state) -> tuple[Float[Array, " way"], Int[Array, " way"]]:
        """The ways into one state of one row: their log-potentials, with all of the step, and where they begin."""

    @property
    def num_states(self) -> int:
        """S."""
        return int(np.prod(self.shape))


class Smoothed(NamedTuple):
    """What one pass in both directions gives.

    Attributes:
        terms: log-constant of each step; a chain's log-partition is the sum of its own.
        fixed, varying: derivatives of Σ weight · log Z by the log-potentials, which are expected numbers of uses.
    """

    terms: Float[Array, "time row"]
    fixed: dict[str, Any]
    varying: dict[str, Any]


# Sums over all paths


def _moved(kind: AbstractKind, ring, fixed, now, marks, start, message):
    w = fixed | now | marks
    return jnp.where(over_states(start, message), kind.enter(ring, w), kind.step(ring, w, message))


def over_states(x, message):
    """One number for each row, for all states of a message."""
    return x.reshape(*[1] * (message.ndim - 1), -1)


def _all_states(message):
    return tuple(range(message.ndim - 1))


def _message(kind: AbstractKind, steps: Steps, value: float):
    dtype = jax.tree.leaves(steps.varying)[0].dtype
    return jnp.full((*kind.shape, steps.start.shape[1]), value, dtype)


def _ends(start):
    """Whether each step is the last before another sequence."""
    return jnp.concatenate([start[1:], jnp.ones_like(start[:1])])


def _forward(kind: AbstractKind, steps: Steps):
    """Messages as they come into each step, and the constants."""

    def body(message, x):
        now, marks, start = x
        joint = floored(_moved(kind, Sums, steps.fixed, now, marks, start, message))
        constant = joint.sum(_all_states(joint))
        return joint / over_states(constant, joint), (message, constant)

    return lax.scan(body, _message(kind, steps, 0.0), (steps.varying, steps.marks, steps.start))[1]


def _fast(kind: AbstractKind, steps: Steps, weight):
    w, log_scale = kind.exponentiated(steps)
    before, constant = _forward(kind, w)

    def body(carry, x):
        late, total = carry
        now, marks, start, message, constant, ends, weight = x
        late = jnp.where(over_states(ends, late), over_states(weight, late), late) / over_states(constant, late)
        most = jnp.where(weight > 0, late.sum(_all_states(late)) / jnp.where(weight > 0, weight, 1), 0).max()
        _, pull = jax.vjp(lambda f, n, m: _moved(kind, Sums, f, n, marks, start, m), w.fixed, now, message)
        by_fixed, by_now, late = pull(late)
        return (late, jax.tree.map(jnp.add, total, by_fixed)), (by_now, most)

    nothing = jax.tree.map(jnp.zeros_like, w.fixed)
    xs = (w.varying, w.marks, w.start, before, constant, _ends(w.start), weight)
    (_, by_fixed), (by_varying, most) = lax.scan(body, (_message(kind, w, 0.0), nothing), xs, reverse=True)
    limits = jnp.finfo(constant.dtype)
    by_varying = jax.tree.map(jnp.multiply, w.varying, by_varying)
    # below eps² it may be nothing but what was raised to the smallest number: the impossible gets exactly zero
    by_varying = jax.tree.map(lambda d: jnp.where(d > limits.eps**2 * _like(weight, d), d, 0), by_varying)
    found = Smoothed(jnp.log(constant) + log_scale, jax.tree.map(jnp.multiply, w.fixed, by_fixed), by_varying)
    return found, jnp.all(most < limits.eps**2 / limits.tiny)  # NaN is not


def _like(weight, derivative):
    """The weight (time, row) with axes of length one for all between."""
    return weight.reshape(weight.shape[0], *[1] * (derivative.ndim - 2), weight.shape[1])


def log_forward(kind: AbstractKind, steps: Steps):
    """Log messages as they come into each step, normalised, the last one, and the log-constants."""

    def body(message, x):
        now, marks, start = x
        after, constant = _normalised(_moved(kind, LogSums, steps.fixed, now, marks, start, message))
        return after, (message, constant)

    last, (before, constant) = lax.scan(
        body, _message(kind, steps, -jnp.inf), (steps.varying, steps.marks, steps.start)
    )
    return before, last, constant


def _normalised(joint):
    flat = joint.reshape(-1, joint.shape[-1])
    peak = finite(flat.max(0))
    total = jnp.exp(flat - peak[None]).sum(0)
    constant = jnp.where(total > 0, jnp.log(jnp.where(total > 0, total, 1)) + peak, -jnp.inf)
    return joint - over_states(finite(constant), joint), constant


def _slow(kind: AbstractKind, steps: Steps, weight):
    before, _, constant = log_forward(kind, steps)

    def body(carry, x):
        late, total = carry
        now, marks, start, message, constant, ends, weight = x

        def move(fixed, now, message):
            return _moved(kind, LogSums, fixed, now, marks, start, message)

        joint, pull = jax.vjp(move, steps.fixed, now, message)
        now_here = jnp.exp(joint - over_states(finite(constant), joint)) * over_states(weight, joint)
        late = jnp.where(over_states(ends, joint), now_here, late)
        by_fixed, by_now, late = pull(late)
        return (late, jax.tree.map(jnp.add, total, by_fixed)), by_now

    nothing = jax.tree.map(jnp.zeros_like, steps.fixed)
    xs = (steps.varying, steps.marks, steps.start, before, constant, _ends(steps.start), weight)
    (_, by_fixed), by_varying = lax.scan(body, (_message(kind, steps, 0.0), nothing), xs, reverse=True)
    return Smoothed(constant, by_fixed, by_varying)


def _count(kind: AbstractKind, start) -> int:
    """Into how many blocks the rows go."""
    time, rows = start.shape
    fits = lambda n: rows % n == 0 and time * kind.num_states * (rows // n) <= BLOCK  # noqa: E731
    return next((n for n in range(1, rows) if fits(n)), rows)


def _cut(tree, count: int):
    """Arrays (…, row) as (block, …, row)."""
    return jax.tree.map(lambda x: jnp.moveaxis(x.reshape(*x.shape[:-1], count, x.shape[-1] // count), -2, 0), tree)


def _joined(tree):
    """Arrays (block, …, row) as (…, row)."""
    return jax.tree.map(lambda x: jnp.moveaxis(x, 0, -2).reshape(*x.shape[1:-1], -1), tree)


def over_blocks(kind: AbstractKind, function, steps: Steps):
    """`function(steps)` a block of rows at a time, for answers whose last axis is that of rows."""
    count = _count(kind, steps.start)
    if count == 1:
        return function(steps)
    by_row = _cut((steps.varying, steps.marks, steps.start), count)
    return _joined(lax.map(lambda x: function(Steps(steps.fixed, *x)), by_row))


def _in_blocks(kind: AbstractKind, function, steps: Steps, weight) -> Any:
    """`function(kind, steps, weight)` a block of rows at a time: a `Smoothed`, with or without whether it is trusted."""
    count = _count(kind, steps.start)
    if count == 1:
        return function(kind, steps, weight)

    def body(total, x):
        varying, marks, start, weight = x
        found = function(kind, Steps(steps.fixed, varying, marks, start), weight)
        found, trusted = found if function is _fast else (found, True)
        return jax.tree.map(jnp.add, total, found.fixed), (found.terms, found.varying, trusted)

    by_row = _cut((steps.varying, steps.marks, steps.start, weight), count)
    fixed, (terms, varying, trusted) = lax.scan(body, jax.tree.map(jnp.zeros_like, steps.fixed), by_row)
    found = Smoothed(_joined(terms), fixed, _joined(varying))
    return (found, jnp.all(trusted)) if function is _fast else found


@cache
def _smoother(kind: AbstractKind):
    return certified(partial(_in_blocks, kind, _fast), partial(_in_blocks, kind, _slow))


def smooth(kind: AbstractKind, steps: Steps, weight: Float[Array, "time row"]) -> Smoothed:
    """Both directions over all rows; `weight`, the same on all steps of a sequence, multiplies its share in derivatives."""
    return _smoother(kind)(steps, weight)


class Scaled:
    """The scaled engine alone, for one program; `trusted` tells whether its answers hold."""

    def __init__(self):
        self.certificates: list[Bool[Array, ""]] = []

    @property
    def trusted(self) -> Bool[Array, ""]:
        """Whether all answers may be relied on."""
        return jnp.stack(self.certificates).all() if self.certificates else jnp.array(True)

    def smooth(self, kind, steps, weight) -> Smoothed:
        """As the module's `smooth`."""
        found, trusted = _in_blocks(kind, _fast, steps, weight)
        self.certificates.append(trusted)
        return found


class Careful:
    """What answers once a certificate has failed."""

    @staticmethod
    def smooth(kind, steps, weight) -> Smoothed:
        """As the module's `smooth`."""
        return _in_blocks(kind, _slow, steps, weight)


class Either:
    """The program itself decides, so its answers can always be relied on."""

    trusted = np.True_
    smooth = staticmethod(smooth)


on_demand = partial(certificate.on_demand, optimist=Scaled, careful=Careful, either=Either)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def terms(kind: AbstractKind, fixed, varying, marks, start) -> Float[Array, "time row"]:
    """Log-constants of each step, to be summed over each sequence.

    The gradient is that of such sums: a cotangent must be the same on all steps of a sequence (zero on padding).
    """
    return smooth(kind, Steps(fixed, varying, marks, start), jnp.ones(start.shape, _dtype(varying))).terms


def _dtype(varying):
    return jax.tree.leaves(varying)[0].dtype


def _terms_forward(kind, *args):
    return terms(kind, *args), args


def _terms_backward(kind, args, weight):
    found = smooth(kind, Steps(*args), weight)
    return found.fixed, found.varying, None, None


terms.defvjp(_terms_forward, _terms_backward)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def total(kind: AbstractKind, fixed, varying, marks, start, weight) -> Float[Array, ""]:
    """Σ weight · log-constant, the weighted sum of all log-partitions, in one pass with its gradient."""
    return add_up(weight, smooth(kind, Steps(fixed, varying, marks, start), weight).terms)


def _total_forward(kind, fixed, varying, marks, start, weight):
    found = smooth(kind, Steps(fixed, varying, marks, start), weight)
    return add_up(weight, found.terms), (found.fixed, found.varying, weight)


def _total_backward(kind, saved, g):
    fixed, varying, weight = saved
    scaled = jax.tree.map(lambda x: g * x, (fixed, varying))
    return *scaled, None, None, jnp.zeros_like(weight)


total.defvjp(_total_forward, _total_backward)
