"""Forward-backward in scaled probability space: fast, and certified.

Exponentials stay outside the loop. A step is one matrix-vector product and one normalisation, and both directions are
normalised on their own:

    predicted[t] = transition[t]ᵀ filtered[t−1],      filtered[t]   = predicted[t] · likelihood[t] / constant[t]
    backward[t−1] ∝ transition[t] (likelihood[t] · backward[t])          (each row sums to one)

With overlap[t] = Σ_k filtered[t,k] · backward[t,k], the marginals are filtered · backward / overlap.

What underflows is the danger: a state that the past gave up and that the future would have brought back, or one that is
lost at both ends and matters in the middle. So nothing may be lost: every message is raised to the smallest normal
number, `tiny`, which can only add paths. The paths that are added at step t weigh at most `tiny` per state, and all paths
together constant[t] · overlap[t] (relative to the scaling), so as long as that stays above tiny/eps², all that was added
is less than T · K · eps² of the whole: that is the certificate. Where it fails, the caller redoes the work in log space.

Arrays are (time, state) or (time, state, row): many sequences run side by side on the last axis. `start[t]` says that a
new sequence begins at t. The recursion is that of Rabiner (1989, section V.A), with the rescaling of each direction by
its own mass.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from ..forms.products import HIGHEST
from .native import native

# XLA runs a loop natively on the CPU only while its body touches little memory (about 1 KB); two sweeps in one loop
# stay below that up to this many float32 states.
SMALL = 8
# Up to this many states a matrix lies in the second-level cache, and products of it with a vector need no library.
WIDE = 256
# Below this many products a fused sum is faster than a call to a matrix product.
SHORT = 4096


class Weights(NamedTuple):
    """A chain's potentials as numbers between 0 and 1, and the logarithms of what was divided out.

    `transition` is (state, state), or (time, state, state, *row) where entry t leads into step t.
    """

    initial: Float[Array, " state"]
    transition: Float[Array, "..."]
    likelihood: Float[Array, "time state *row"]
    start: Bool[Array, "time *row"]
    log_scale: Float[Array, "time *row"]


class Sweep(NamedTuple):
    """What both directions leave behind; see the module's equations."""

    filtered: Float[Array, "time state *row"]
    backward: Float[Array, "time state *row"]
    constant: Float[Array, "time *row"]


def weights(
    log_initial: Float[Array, " state"],
    log_transition: Float[Array, "..."],
    log_likelihood: Float[Array, "time state *row"],
    start: Bool[Array, "time *row"],
) -> Weights:
    """Exponentiate log-potentials, each family scaled to a maximum of one."""
    initial_peak = _finite_max(log_initial, None)
    pair = (0, 1) if log_transition.ndim == 2 else (1, 2)
    transition_peak = _finite_max(log_transition, pair)
    peak = _finite_max(log_likelihood, 1)
    varying = transition_peak.reshape(*transition_peak.shape, *[1] * (start.ndim - transition_peak.ndim))
    return Weights(
        jnp.exp(log_initial - initial_peak),
        jnp.exp(log_transition - jnp.expand_dims(transition_peak, pair)),
        jnp.exp(log_likelihood - jnp.expand_dims(peak, 1)),
        start,
        peak + jnp.where(start, initial_peak.reshape([1] * start.ndim), varying),
    )


def likelihoods(log_likelihood: Float[Array, "time state *row"]):
    """Likelihoods scaled to a maximum of one per step, and the log of what was divided out."""
    peak = _finite_max(log_likelihood, 1)
    return jnp.exp(log_likelihood - jnp.expand_dims(peak, 1)), peak


def _finite_max(x, axis):
    peak = x.max(axis)
    return jnp.where(jnp.isfinite(peak), peak, 0)  # all −inf: there is nothing to scale


def forward(w: Weights, *, floor: bool = False) -> tuple[Float[Array, "time state *row"], Float[Array, "time *row"]]:
    """Filtered distributions and their normalising constants."""
    run = _FORWARD[floor] if _one_of_vectors(w) else partial(_forward, floor)
    return run(w.initial, w.transition, w.likelihood, w.start)


def _forward(floor, initial, transition, likelihood, start):
    step, homogeneous = _forward_step(initial, likelihood, floor), transition.ndim == 2

    def body(carry, x):
        likelihood, start, *varying = x
        filtered, constant = step(carry, likelihood, start, transition if homogeneous else varying[0])
        return filtered, (filtered, constant)

    xs = (likelihood, start) if homogeneous else (likelihood, start, transition)
    return lax.scan(body, jnp.zeros_like(likelihood[0]), xs)[1]


_FORWARD = {floor: native(partial(_forward, floor)) for floor in (False, True)}


def sweep(w: Weights) -> Sweep:
    """Both directions, in whichever of two equal ways suits the shape."""
    one_row, states = w.likelihood.ndim == 2, w.likelihood.shape[1]
    if w.transition.ndim > 2 or (one_row and (states > SMALL or w.likelihood.dtype != jnp.float32)):
        return _sweep_apart(w)
    return _sweep_together(w)


def _one_of_vectors(w: Weights) -> bool:
    """Whether this is one chain whose steps are products of a vector and a matrix that fits into the caches."""
    return w.likelihood.ndim == 2 and w.transition.ndim == 2 and w.likelihood.shape[1] <= WIDE


def _sweep_together(w: Weights) -> Sweep:
    """Forward at t and backward at T−1−t share one loop, so that its overhead is paid once."""
    ahead = _forward_step(w.initial, w.likelihood, floor=True)

    def body(carry, x):
        filtered, backward = carry
        likelihood, start, late_likelihood, late_start = x
        filtered, constant = ahead(filtered, likelihood, start, w.transition)
        earlier = _backward_step(backward, late_likelihood, late_start, w.transition.T)
        return (filtered, earlier), (filtered, constant, backward)

    none = jnp.zeros_like(w.likelihood[0])
    xs = (w.likelihood, w.start, w.likelihood[::-1], w.start[::-1])
    filtered, constant, backward = lax.scan(body, (none, none + 1 / none.shape[0]), xs)[1]
    return Sweep(filtered, backward[::-1], constant)


def _sweep_apart(w: Weights) -> Sweep:
    """Two loops, which find their matrix in the nearest cache and may run on two cores."""
    backward = _BACKWARD if _one_of_vectors(w) else _backward
    turned = w.transition.T if w.transition.ndim == 2 else w.transition.swapaxes(1, 2)
    filtered, constant = forward(w, floor=True)
    return Sweep(filtered, backward(turned, w.likelihood, w.start), constant)


def _backward(turned, likelihood, start):
    if turned.ndim > 2:
        flat = jnp.full_like(likelihood[0], 1 / likelihood.shape[1])
        return lax.scan(lambda b, x: (_backward_step(b, *x), b), flat, (likelihood, start, turned), reverse=True)[1]

    def body(carry, x):
        message, later = carry  # likelihood · backward, carried: made within the product, it slows that down by a third
        likelihood, start = x
        backward = _normalised(_moved(message, turned), later)
        return (likelihood * backward, start), backward

    nothing = (jnp.zeros_like(likelihood[0]), jnp.ones_like(start[0]))
    return lax.scan(body, nothing, (likelihood, start), reverse=True)[1]


_BACKWARD = native(_backward)


def _forward_step(initial, likelihood, floor: bool):
    initial = initial.reshape(-1, *[1] * (likelihood.ndim - 2))

    def step(filtered, likelihood, start, transition):
        predicted = jnp.where(start[None], initial, _moved(filtered, transition))
        joint = predicted * likelihood
        joint = floored(joint) if floor else joint
        constant = _total(joint)
        return joint * (1 / constant)[None], constant

    return step


def _backward_step(backward, likelihood, start, turned):
    return _normalised(_moved(likelihood * backward, turned), start)


def _normalised(back, later):
    """A backward message whose states sum to one; flat where the step after begins another sequence."""
    back = floored(back)
    return jnp.where(later[None], 1 / back.shape[0], back * (1 / _total(back))[None])


def _moved(state, transition):
    """Σ_i state[i] transition[i, j]; each row may have a matrix of its own."""
    if transition.ndim == 3:
        return (transition * state[:, None]).sum(0)
    if state.ndim == 1:  # a sum of the matrix's rows: vectors, where sums along rows would go number by number
        return jnp.dot(state, transition, precision=HIGHEST)
    return jnp.dot(transition.T, state, precision=HIGHEST)


def _total(mass):
    """Sum over states; of one row, in eight parts at once."""
    if mass.ndim == 1 and mass.size > SMALL and mass.size % 8 == 0:
        return mass.reshape(-1, 8).sum(0).sum()
    return mass.sum(0)


def floored(mass):
    """Keep every state alive at the smallest normal number, so that underflow can add mass but never lose any."""
    return jnp.maximum(mass, jnp.finfo(mass.dtype).tiny)


def trusted(mass: Float[Array, "..."]) -> Bool[Array, ""]:
    """The certificate: the smallest mass is far above what a float loses. NaN, from an empty step, is not."""
    limits = jnp.finfo(mass.dtype)
    return mass.min() > limits.tiny / limits.eps**2


def accumulate(w: Weights, s: Sweep, weight: Float[Array, "time *row"]):
    """Derivatives of Σ weight · log constant by `initial` and `transition`, and the marginals.

    The derivative by the transition is Σ_t weight[t] filtered[t−1] ⊗ (likelihood · backward)[t] / (constant · overlap)[t],
    one matrix product over all steps; never an array of time × state × state unless the transition varies with time.
    Times `transition` it is the expected number of steps from i to j.
    """
    overlap = (s.filtered * s.backward).sum(1)
    mass = s.constant * overlap
    marginals = s.filtered * s.backward * jnp.expand_dims(1 / overlap, 1)
    # Below eps² a marginal may be nothing but the floor: states that are impossible get exactly zero.
    marginals = jnp.where(marginals > jnp.finfo(marginals.dtype).eps ** 2, marginals, 0)
    late = w.likelihood * s.backward * jnp.expand_dims(weight / mass, 1)
    begin = jnp.expand_dims(w.start, 1)
    by_initial = _sum_rows(jnp.where(begin, late, 0))
    # The first step begins a sequence, so nothing wraps round. (Slices of both would be computed anew within the products.)
    early, late = jnp.roll(s.filtered, 1, axis=0), jnp.where(begin, 0, late)
    if w.transition.ndim == 4:
        by_transition = early[:, :, None] * late[:, None]
    elif w.transition.ndim == 3:
        by_transition = jnp.einsum("ti...,tj...->tij", early, late, precision=HIGHEST)
    elif late.size * late.shape[1] <= SHORT:
        by_transition = _sum_outer(early, late)
    elif late.ndim == 3 and late.shape[2] >= late.shape[1]:  # (time, state, state) is the smaller array here
        by_transition = jnp.einsum("tir,tjr->tij", early, late, precision=HIGHEST).sum(0)
    else:
        by_transition = jnp.einsum("ti...,tj...->ij", early, late, precision=HIGHEST)
    return mass, marginals, by_initial, by_transition


def _sum_outer(early, late):
    """Σ early ⊗ late over steps and rows without a matrix product, whose start-up outweighs a short sum."""
    product = early[:, :, None] * late[:, None]
    return lax.reduce(
        product, jnp.zeros((), late.dtype), lax.add, tuple(a for a in range(product.ndim) if a not in (1, 2))
    )


def _sum_rows(x: Float[Array, "time state *row"]) -> Float[Array, " state"]:
    return jax.lax.reduce(x, jnp.zeros((), x.dtype), lax.add, tuple(a for a in range(x.ndim) if a != 1))
