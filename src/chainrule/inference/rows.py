"""Sums over all paths of many chains at once: the engine behind every query and every fit.

Chains lie in rows (see `chainrule.forms.sequences`): log-likelihoods are (time, state, row), or (time, state) for one
row, and `start[t]` begins a new chain. Transitions are (state, state), or one for each step, (time, state, state), or one
for each step of each row, (time, state, state, row); entry t leads into step t. Each function takes `initial` and
`transition` either as log-potentials (`log=True`) or as probabilities (`log=False`); the gradient is by what was given,
and is the expected counts, or the expected counts over the probabilities, which are finite where the probability is zero.

The scaled engine runs first. Its certificate is looked at once for the whole batch, and only where it fails does
the log-space engine run. The functions of this module decide that inside the program; `on_demand` lets a question about
concrete data decide between two programs.
"""

from functools import partial
from itertools import product
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from . import certificate, chunks, fused, lanes, logspace, pieces, scaled
from .certificate import certified
from .native import in_turn


class Smoothed(NamedTuple):
    """What one pass in both directions gives.

    Attributes:
        terms: log-constant of each step; a chain's log-partition is the sum of its own.
        marginals: probability of each state at each step, given everything.
        initial, transition: derivatives by what was given.
        initial_count, transition_count: expected number of starts in i, and of steps from i to j.
    """

    terms: Float[Array, "time *row"]
    marginals: Float[Array, "time state *row"]
    initial: Float[Array, " state"]
    transition: Float[Array, "..."]
    initial_count: Float[Array, " state"]
    transition_count: Float[Array, "..."]


def _weigh(log, initial, transition, log_likelihood, start) -> scaled.Weights:
    if log:
        return scaled.weights(initial, transition, log_likelihood, start)
    likelihood, peak = scaled.likelihoods(log_likelihood)
    return scaled.Weights(initial, transition, likelihood, start, peak)


def _log_weigh(log, initial, transition, log_likelihood, start) -> logspace.LogWeights:
    if not log:
        initial, transition = logspace.safe_log(initial), logspace.safe_log(transition)
    return logspace.LogWeights(initial, transition, log_likelihood, start)


def _fast_smooth(log, initial, transition, log_likelihood, start, weight):
    args = initial, transition, log_likelihood, start, weight
    if (count := pieces.number(transition, log_likelihood)) > 1:
        return in_turn(partial(_smooth_in_pieces, count, log))(*args)
    if lanes.suits(transition, log_likelihood):
        return in_turn(partial(_smooth_in_lanes, log))(*args)
    return _smooth_by_step(log, *args)


def _smooth_in_lanes(log, initial, transition, log_likelihood, start, weight):
    w = _weigh(log, initial, transition, log_likelihood, start)
    constant, mass, *found = lanes.smooth(w, weight)
    return _smoothed(log, w, constant, *found), scaled.trusted(mass)


def _smooth_by_step(log, initial, transition, log_likelihood, start, weight):
    w, sound = _weigh(log, initial, transition, log_likelihood, start), True
    if fused.suits(w) and not chunks.suits(w.likelihood):
        constant, mass, marginals, by_initial, by_transition = fused.smooth(w, weight)
    else:
        s, sound = _sweep(w)
        mass, marginals, by_initial, by_transition = scaled.accumulate(w, s, weight)
        constant = s.constant
    return _smoothed(log, w, constant, marginals, by_initial, by_transition), scaled.trusted(mass) & sound


def _smoothed(log, w, constant, marginals, by_initial, by_transition):
    counts = (w.initial * by_initial, w.transition * by_transition)
    derivatives = counts if log else (by_initial, by_transition)
    return Smoothed(jnp.log(constant) + w.log_scale, marginals, *derivatives, *counts)


def _smooth_in_pieces(count, log, initial, transition, log_likelihood, start, weight):
    cut, join = _cut_and_join(count, log_likelihood)
    w = _weigh(log, initial, transition, cut(log_likelihood, fill=0), cut(start, fill=True))
    entering, leaving, sure = pieces.ends(w)
    constant, mass, *found = lanes.smooth(w, cut(weight, fill=0), entering, leaving)
    s = _smoothed(log, w, constant, *found)
    return s._replace(terms=join(s.terms), marginals=join(s.marginals)), scaled.trusted(mass) & sure


def _cut_and_join(count, log_likelihood):
    one_row = log_likelihood.ndim == 2
    cut = partial(pieces.cut, count=count, one_row=one_row)
    return cut, partial(pieces.join, count=count, time=len(log_likelihood), one_row=one_row)


def _sweep(w):
    """Both directions, and whether what is left to check of them holds."""
    return chunks.sweep(w) if chunks.suits(w.likelihood) else (scaled.sweep(w), True)


def _forward(w):
    """Filtered distributions, constants, and whether what is left to check of them holds."""
    if chunks.suits(w.likelihood):
        s, sound = chunks.sweep(w)
        return s.filtered, s.constant, sound
    if lanes.suits(w.transition, w.likelihood):
        return *in_turn(lanes.forward)(w), True
    return *scaled.forward(w), True


def _slow_smooth(log, initial, transition, log_likelihood, start, weight):
    w = _log_weigh(log, initial, transition, log_likelihood, start)
    filtered, constant = logspace.forward(w)
    marginals, first, pairs = logspace.accumulate(w, filtered, constant, logspace.backward(w), weight)
    derivatives = (first[1], pairs[1]) if log else (first[0], pairs[0])
    return Smoothed(constant, marginals, *derivatives, first[1], pairs[1])


_SMOOTH = {log: certified(partial(_fast_smooth, log), partial(_slow_smooth, log)) for log in (False, True)}


def smooth(initial, transition, log_likelihood, start, weight, *, log: bool = False) -> Smoothed:
    """Forward-backward over all rows; `weight` (time, *row) multiplies each step's share in the derivatives."""
    return _SMOOTH[log](initial, transition, log_likelihood, start, weight)


def _fast_filter(log, logs, initial, transition, log_likelihood, start):
    w = _weigh(log, initial, transition, log_likelihood, start)
    filtered, constant, sound = _forward(w)
    # The future decides what an underflowed state is worth: at most 1 / min(transition) more than what was kept.
    least = (w.transition if w.transition.ndim == 2 else w.transition[1:]).min(initial=1)
    found = (jnp.log(filtered) if logs else filtered), jnp.log(constant) + w.log_scale
    return found, scaled.trusted(constant.min() * least) & sound


def _slow_filter(log, logs, initial, transition, log_likelihood, start):
    filtered, constant = logspace.forward(_log_weigh(log, initial, transition, log_likelihood, start))
    return (filtered if logs else jnp.exp(filtered)), constant


_FILTER = {
    both: certified(partial(_fast_filter, *both), partial(_slow_filter, *both))
    for both in product((False, True), repeat=2)
}


def filter(initial, transition, log_likelihood, start, *, log: bool = False):
    """Filtered distributions p(z_t | x_0 … x_t), (time, state, *row), and the log-constants (time, *row)."""
    return _FILTER[log, False](initial, transition, log_likelihood, start)


def log_filter(initial, transition, log_likelihood, start, *, log: bool = False):
    """The same, with the logarithms of the filtered distributions."""
    return _FILTER[log, True](initial, transition, log_likelihood, start)


def _fast_terms(log, initial, transition, log_likelihood, start):
    if (count := pieces.number(transition, log_likelihood)) > 1:
        return in_turn(partial(_terms_in_pieces, count, log))(initial, transition, log_likelihood, start)
    w = _weigh(log, initial, transition, log_likelihood, start)
    _, constant, sound = _forward(w)
    least = (w.transition if w.transition.ndim == 2 else w.transition[1:]).min(initial=1)
    return jnp.log(constant) + w.log_scale, scaled.trusted(constant.min() * least) & sound


def _terms_in_pieces(count, log, initial, transition, log_likelihood, start):
    cut, join = _cut_and_join(count, log_likelihood)
    w = _weigh(log, initial, transition, cut(log_likelihood, fill=0), cut(start, fill=True))
    constant, sure = pieces.constants(w)
    return join(jnp.log(constant) + w.log_scale), scaled.trusted(constant.min() * w.transition.min()) & sure


def _swept_terms(log, initial, transition, log_likelihood, start):
    if pieces.number(transition, log_likelihood) > 1:
        one = jnp.ones(start.shape, log_likelihood.dtype)
        s, trusted = _fast_smooth(log, initial, transition, log_likelihood, start, one)
        return s.terms, trusted
    w = _weigh(log, initial, transition, log_likelihood, start)
    s, sound = _sweep(w)
    trusted = scaled.trusted(s.constant * (s.filtered * s.backward).sum(1))
    return jnp.log(s.constant) + w.log_scale, trusted & sound


def _log_terms(log, initial, transition, log_likelihood, start):
    return logspace.forward(_log_weigh(log, initial, transition, log_likelihood, start))[1]


# Structural zeros void the one-sided certificate; the two-sided one is still far cheaper than log space.
_CAREFUL_TERMS = {log: certified(partial(_swept_terms, log), partial(_log_terms, log)) for log in (False, True)}
_TERMS = {log: certified(partial(_fast_terms, log), _CAREFUL_TERMS[log]) for log in (False, True)}


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def terms(log, initial, transition, log_likelihood, start) -> Float[Array, "time *row"]:
    """Log-constants of each step, to be summed over each chain.

    The gradient is that of such sums: a cotangent must be the same on all steps of a chain (zero on padding).
    """
    return _TERMS[log](initial, transition, log_likelihood, start)


def _terms_forward(log, *args):
    return _TERMS[log](*args), args


def _terms_backward(log, args, weight):
    initial, transition, log_likelihood, start = args
    s = smooth(initial, transition, log_likelihood, start, weight, log=log)
    return s.initial, s.transition, _spread(s.marginals, weight), None


terms.defvjp(_terms_forward, _terms_backward)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def total(log, initial, transition, log_likelihood, start, weight) -> Float[Array, ""]:
    """Σ weight · log-constant: the weighted sum of all log-partitions, in one pass with its gradient.

    `weight` (time, *row) must be the same on all steps of a chain, zero on padding; it has no gradient.
    """
    return add_up(weight, _TERMS[log](initial, transition, log_likelihood, start))


def _total_forward(log, *args):
    s = smooth(*args, log=log)
    weight = args[-1]
    return add_up(weight, s.terms), (s.initial, s.transition, _spread(s.marginals, weight), weight)


def _total_backward(log, saved, g):
    by_initial, by_transition, by_likelihood, weight = saved
    return g * by_initial, g * by_transition, g * by_likelihood, None, jnp.zeros_like(weight)


total.defvjp(_total_forward, _total_backward)


def _spread(marginals, weight):
    return marginals * jnp.expand_dims(weight, 1)


def add_up(weight: Float[Array, "time *row"], terms: Float[Array, "time *row"]) -> Float[Array, ""]:
    """Σ weight · terms where the weight is not zero, summed in two levels so that float32 rounding stays small."""
    used = jnp.where(weight != 0, weight * terms, 0).reshape(-1)
    return jnp.pad(used, (0, -used.size % 256)).reshape(-1, 256).sum(1).sum()


class Scaled:
    """The scaled engine alone, for one program; `certificates` holds what its answers say of themselves."""

    def __init__(self):
        self.certificates: list[Bool[Array, ""]] = []

    @property
    def trusted(self) -> Bool[Array, ""]:
        """Whether all answers may be relied on."""
        return jnp.stack(self.certificates).all() if self.certificates else jnp.array(True)

    def _trust(self, answer, trusted):
        self.certificates.append(trusted)
        return answer

    def smooth(self, *args, log=False) -> Smoothed:
        """As the module's `smooth`."""
        return self._trust(*_fast_smooth(log, *args))

    def filter(self, *args, log=False):
        """As the module's `filter`."""
        return self._trust(*_fast_filter(log, False, *args))

    def log_filter(self, *args, log=False):
        """As the module's `log_filter`."""
        return self._trust(*_fast_filter(log, True, *args))

    def terms(self, log, *args):
        """As the module's `terms`, without its gradient."""
        return self._trust(*_fast_terms(log, *args))

    def total(self, log, *args):
        """As the module's `total`, without its gradient."""
        return add_up(args[-1], self.terms(log, *args[:-1]))


class Careful:
    """What answers once the scaled engine's certificate has failed."""

    @staticmethod
    def smooth(*args, log=False) -> Smoothed:
        """As the module's `smooth`."""
        return _slow_smooth(log, *args)

    @staticmethod
    def filter(*args, log=False):
        """As the module's `filter`."""
        return _slow_filter(log, False, *args)

    @staticmethod
    def log_filter(*args, log=False):
        """As the module's `log_filter`."""
        return _slow_filter(log, True, *args)

    @staticmethod
    def terms(log, *args):
        """As the module's `terms`, without its gradient."""
        return _CAREFUL_TERMS[log](*args)

    @staticmethod
    def total(log, *args):
        """As the module's `total`, without its gradient."""
        return add_up(args[-1], _CAREFUL_TERMS[log](*args[:-1]))


class Either:
    """The functions of this module: the program itself decides, so its answers can always be relied on."""

    trusted = np.True_

    smooth = staticmethod(smooth)
    filter = staticmethod(filter)
    log_filter = staticmethod(log_filter)
    terms = staticmethod(terms)
    total = staticmethod(total)


on_demand = partial(certificate.on_demand, optimist=Scaled, careful=Careful, either=Either)
