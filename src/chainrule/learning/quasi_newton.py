"""Minimising a function of many numbers from its gradient: L-BFGS and, with an L1 penalty, OWL-QN.

From a point x with gradient g the next one is sought along d = −H g, where H approximates the inverse Hessian by the
last few pairs s = x′ − x and y = g′ − g (Nocedal and Wright 2006, algorithm 7.4):

    H ← (I − ρ s yᵀ) H (I − ρ y sᵀ) + ρ s sᵀ,   ρ = 1 / sᵀy,   from H = (sᵀy / yᵀy) I of the newest pair.

A step t along d is taken where it satisfies the weak Wolfe conditions (ibid., 3.6)

    F(x + t d) ≤ F(x) + c₁ t ∇F(x)ᵀd   and   ∇F(x + t d)ᵀd ≥ c₂ ∇F(x)ᵀd.

Close to the minimum the first of them compares numbers that differ by rounding alone. There the slopes decide, which
are still exact: "approximate Wolfe" (Hager and Zhang 2005, section 3).

With a penalty Σ λᵢ|xᵢ| the objective has kinks at xᵢ = 0. Orthant-wise L-BFGS (Andrew and Gao 2007) searches only the
orthant that the steepest descent leads into, where the penalty is linear: a coordinate that would change its sign
stops at zero. Pairs come from the smooth part, directions from the one-sided slopes of the whole.

Here it goes further than Andrew and Gao, who compute a direction of all coordinates and then leave out each along which it
climbs. What stays at zero takes no part in the choice of a direction: the pairs are read among the other coordinates alone,
as the inverse of what is left of the Hessian instead of what is left of the inverse. And only a coordinate that leaves zero
has to go down; what is inside its orthant may climb for the sake of the others, as in Newton's method. (Compare the
two-metric projections of Bertsekas 1982, SIAM Journal on Control and Optimization 20(2), and Schmidt 2010, Graphical model
structure learning with L1-regularization, section 2.3.) A direction without its climbing part is too long, the more so the
better the pairs, and half of all evaluations go into shorter steps. Where the whole should climb, or a projected step finds
nothing lower, the search forgets its pairs and goes straight down.

Everything is one loop whose every turn evaluates the function once and then either accepts the point or tries another
step, so that the function is traced, compiled and called in a single place.
"""

import enum
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

DECREASE, CURVATURE = 1e-4, 0.9  # c₁ and c₂: almost any step of a quasi-Newton method is a good one
NEAR = 100  # a promised decrease of so many rounding errors is the end of what can be reached
TRIALS = 20  # evaluations along one direction
ROUNDING = 64  # units in the last place by which a value may be wrong, being a sum of many and larger terms


class Ending(enum.IntEnum):
    """Why a minimisation ended."""

    RUNNING = 0
    CONVERGED = 1  # by the tolerance, by the gradient, or as far as rounding allows
    MAX_ITERATIONS = 2
    STALLED = 3  # no step along the gradient gives a lower value: value and gradient do not belong together
    NOT_FINITE = 4  # at the starting point


class Minimum(eqx.Module):
    """Where a minimisation ended, and how.

    Attributes:
        x: the best point.
        value: objective there, with the L1 penalty.
        gradient: gradient of the smooth part there.
        history: objective at the start and after each iteration, filled up with NaN.
        iterations: how many steps were taken.
        evaluations: how often the function was evaluated.
        status: an `Ending`, as an integer.
    """

    x: Float[Array, " parameter"]
    value: Float[Array, ""]
    gradient: Float[Array, " parameter"]
    history: Float[Array, " step"]
    iterations: Int[Array, ""]
    evaluations: Int[Array, ""]
    status: Int[Array, ""]


def minimise(
    value_and_grad: Callable,
    x: Float[Array, " parameter"],
    args: tuple = (),
    *,
    l1: Float[Array, "*parameter"] | float | None = None,
    memory: int = 10,
    max_iterations: Int[Array, ""] | int = 200,
    tolerance: Float[Array, ""] | float = 1e-7,
    gradient_tolerance: Float[Array, ""] | float = 0.0,
    period: Int[Array, ""] | int = 10,
    noise: Float[Array, ""] | float = 0.0,
    history_size: int | None = None,
    report: Callable | None = None,
) -> Minimum:
    """Minimise f(x) + Σ l1ᵢ |xᵢ| by L-BFGS, or by OWL-QN where there is an L1 penalty.

    A pure function for use inside `jax.jit` and `jax.vmap`; of the arguments only `memory`, `history_size` and
    whether `l1` is None are structure.

    Args:
        value_and_grad: `value_and_grad(x, *args)` gives f and its gradient, both of the dtype of `x`. Where either is
            NaN or infinite, a shorter step is tried.
        x: the starting point.
        args: what else the function takes.
        l1: weight of the L1 penalty ≥ 0, one for all or one for each parameter; coefficients become exactly zero.
        memory: how many pairs (s, y) to remember, ≥ 1.
        max_iterations: upper limit on the number of iterations.
        tolerance: stop once `period` iterations together gain at most this share of the objective's size; 0 stops only
            where rounding hides any gain, and a negative tolerance never. What is below a rounding error of the first
            value counts as that error.
        gradient_tolerance: stop where no (one-sided) partial derivative is larger than this.
        period: how many iterations to look back, ≥ 1.
        noise: absolute rounding error of f, where it is far more than some units in the last place.
        history_size: room for the history, more than `max_iterations`; needed where that is traced.
        report: called in the loop as `report(iterations, value, last=…)`, such as to show progress.

    Returns:
        `Minimum`. Not converging is reported in its status.

    Raises:
        ValueError: `x` is not one axis of floats, `memory` below one, or no room for the history.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from chainrule.learning.quasi_newton import minimise
        >>> def loss(x, centre):
        ...     return 0.5 * jnp.sum((x - centre) ** 2)
        >>> found = minimise(jax.value_and_grad(loss), jnp.zeros(3), (jnp.array([3.0, 0.5, -2.0]),), l1=1.0)
        >>> found.x.round(4).tolist()  # each moves towards zero by one, and the small one meets it
        [2.0, 0.0, -1.0]

    References:
        Nocedal and Wright (2006), Numerical Optimization, chapters 3 and 7; Andrew and Gao (2007), Scalable training of
        L1-regularized log-linear models, ICML; Hager and Zhang (2005), SIAM Journal on Optimization 16(1).
    """
    if history_size is None:
        history_size = int(max_iterations) + 1
    limits = Limits(max_iterations, tolerance, gradient_tolerance, period, noise)

    def turn(search):
        search = advance(value_and_grad, search, args, limits, l1=l1)
        if report is not None:
            report(search.iterations, search.value, last=search.status != Ending.RUNNING)
        return search

    start = begin(x, memory=memory, history_size=history_size)
    return lax.while_loop(lambda search: search.status == Ending.RUNNING, turn, start).minimum()


class Limits(eqx.Module):
    """When to stop; see `minimise`."""

    max_iterations: Int[Array, ""] | int
    tolerance: Float[Array, ""] | float
    gradient_tolerance: Float[Array, ""] | float = 0.0
    period: Int[Array, ""] | int = 10
    noise: Float[Array, ""] | float = 0.0


class Pairs(eqx.Module):
    """The last few pairs, in a ring; `rho` is zero where a slot is empty."""

    s: Float[Array, "memory parameter"]
    y: Float[Array, "memory parameter"]
    rho: Float[Array, " memory"]
    head: Int[Array, ""]  # the next slot, which holds the oldest pair
    scale: Float[Array, ""]  # sᵀy / yᵀy of the newest pair, zero before there is one


class Search(eqx.Module):
    """All that a turn hands to the next: the point reached, the line search under way, the pairs and the record."""

    x: Float[Array, " parameter"]
    value: Float[Array, ""]
    gradient: Float[Array, " parameter"]
    direction: Float[Array, " parameter"]
    slope: Float[Array, ""]  # along the direction, at x
    step: Float[Array, ""]  # to try next
    low: Float[Array, "3"]  # step, value and slope of a trial that was low enough, and still going down
    high: Float[Array, "3"]  # the same of one that went too far
    trials: Int[Array, ""]
    pairs: Pairs
    history: Float[Array, " step"]
    iterations: Int[Array, ""]
    evaluations: Int[Array, ""]
    status: Int[Array, ""]

    def minimum(self) -> Minimum:
        """What the caller wants to know of it."""
        told = (self.history, self.iterations, self.evaluations, self.status)
        return Minimum(self.x, self.value, self.gradient, *told)


def begin(x: Float[Array, " parameter"], *, memory: int, history_size: int) -> Search:
    """A search that has yet to evaluate its starting point: its first turn steps nowhere."""
    x = jnp.asarray(x)
    x = jnp.asarray(x, x.dtype)  # no weak type, which would change in the loop
    if x.ndim != 1 or not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"x has shape {x.shape} and dtype {x.dtype}; give one axis of floats, as ravel_pytree does")
    if memory < 1:
        raise ValueError(f"memory is {memory}; at least one pair is needed")
    if history_size < 1:
        raise ValueError(f"history_size is {history_size}; the starting value alone needs one entry")
    zero, none = jnp.zeros((), x.dtype), jnp.zeros((), jnp.int32)
    empty = jnp.zeros((memory, x.size), x.dtype)
    return Search(
        x=x,
        value=zero,
        gradient=jnp.zeros_like(x),
        direction=jnp.zeros_like(x),
        slope=zero,
        step=zero,
        low=jnp.zeros(3, x.dtype),
        high=jnp.zeros(3, x.dtype),
        trials=none,
        pairs=Pairs(empty, empty, jnp.zeros(memory, x.dtype), none, zero),
        history=jnp.full(history_size, jnp.nan, x.dtype),
        iterations=none,
        evaluations=none,
        status=none,
    )


def advance(value_and_grad: Callable, search: Search, args: tuple, limits: Limits, *, l1=None) -> Search:
    """One turn: evaluate the next point, then accept it and choose a new direction, or choose another step."""
    old, dtype = search, search.x.dtype
    eps = jnp.finfo(dtype).eps
    penalty = None if l1 is None else jnp.asarray(l1, dtype)
    starting, tired = old.evaluations == 0, old.trials >= TRIALS - 1
    x, value, gradient, hoped, found = _evaluate(value_and_grad, old, args, penalty)

    # Judge by the step that was really made: rounding and the orthant may have changed it
    finite = jnp.isfinite(value) & jnp.isfinite(found)
    fuzz = ROUNDING * eps * _size(old.value, old.history) + jnp.asarray(limits.noise, dtype)
    hidden = finite & (-hoped <= fuzz)  # even the whole of the decrease hoped for would not be seen
    near = -old.slope <= NEAR * fuzz  # nor much of what the full step promised
    risen = value > old.value + fuzz
    lower = (value < old.value) & (value <= old.value + DECREASE * hoped)
    level = hidden & near & ~risen & (found <= (2 * DECREASE - 1) * hoped)
    down = finite & (hoped < 0) & (lower | level)
    flatter = True if penalty is not None else (found >= CURVATURE * hoped) | tired
    accepted = starting | (down & flatter)

    # Where the line search goes on, or ends without a point
    height, steepness = jnp.where(finite, value, jnp.inf), found / jnp.where(old.step > 0, old.step, 1)
    here = jnp.stack([old.step, height, steepness])
    low, high = jnp.where(down, here, old.low), jnp.where(down, old.high, here)
    stuck = ~accepted & ~down & (hidden & (risen | (hoped >= 0)) | tired)
    back = stuck & (low[0] > 0) & (old.trials < TRIALS)  # take the point that was low enough after all
    lost = stuck & ~back
    step = jnp.where(back, low[0], _next_step(old.low, low, high, here, old.trials, fuzz))
    trials = jnp.where(back, TRIALS, old.trials + 1)

    # Remember; a search that is lost forgets, so that it may go straight down
    moved = accepted & ~starting
    alone = ~(old.pairs.rho > 0).any()
    pairs = _remember(old.pairs, x - old.x, gradient - old.gradient, moved, eps * jnp.abs(hoped))
    pairs = _forget(pairs, lost)
    x, value, gradient = _choose(accepted, (x, value, gradient), (old.x, old.value, old.gradient))
    iterations = old.iterations + moved.astype(jnp.int32)
    history = _put(old.history, value, iterations)

    # Set out anew
    anew = accepted | lost
    direction, slope, plain, steepest = lax.cond(
        anew,
        lambda: _direction(pairs, x, gradient, penalty),
        lambda: (old.direction, old.slope, jnp.bool_(False), old.slope),
    )
    pairs = _forget(pairs, plain)
    step, trials = jnp.where(anew, 1, step), jnp.where(anew, 0, trials)
    low = jnp.where(anew, jnp.stack([jnp.zeros_like(value), value, slope]), low)
    high = jnp.where(anew, jnp.inf, high)

    converged = accepted & _settled(history, iterations, value, steepest, limits)
    enough = accepted & (iterations >= jnp.minimum(limits.max_iterations, history.size - 1))
    endings = {
        Ending.NOT_FINITE: starting & ~finite,
        Ending.CONVERGED: converged | (lost & alone & near),
        Ending.STALLED: lost & alone,
        Ending.MAX_ITERATIONS: enough,
    }
    status = jnp.select(list(endings.values()), [jnp.int32(e) for e in endings], jnp.int32(Ending.RUNNING))
    counts = (iterations, old.evaluations + 1, status)
    return Search(x, value, gradient, direction, slope, step, low, high, trials, pairs, history, *counts)


def _evaluate(value_and_grad, old: Search, args, penalty):
    """The next point with its value and gradient, and the change along the way there by the slopes at its two ends."""
    x, bend = old.x + old.step * old.direction, 0
    slopes = _one_sided(old.x, old.gradient, penalty)
    if penalty is not None:
        orthant = jnp.where(old.x == 0, -jnp.sign(slopes), jnp.sign(old.x))
        x = jnp.where((penalty > 0) & (x * orthant <= 0), 0, x)
        bend = penalty * orthant  # gradient of the penalty in this orthant
    value, gradient = (jnp.asarray(found, x.dtype) for found in value_and_grad(x, *args))
    if penalty is not None:
        value = value + (penalty * jnp.abs(x)).sum()
    s = x - old.x
    return x, value, gradient, (slopes * s).sum(), ((gradient + bend) * s).sum()


def _settled(history, iterations, value, steepest, limits: Limits):
    """Whether the last few iterations together gained next to nothing, or the gradient vanishes."""
    tolerance, noise, flat = (
        jnp.asarray(limit, value.dtype) for limit in (limits.tolerance, limits.noise, limits.gradient_tolerance)
    )
    gained = _take(history, jnp.maximum(iterations - limits.period, 0)) - value
    share = jnp.maximum(tolerance, 4 * jnp.finfo(value.dtype).eps)  # sums resolve no less than this
    least = jnp.where(tolerance < 0, -jnp.inf, jnp.maximum(share * _size(value, history), noise))
    return ((iterations >= limits.period) & (gained <= least)) | (steepest <= flat)


def _size(value, history):
    """How large the objective is, counting what is nothing beside its first value as that: for a minimum of zero."""
    return jnp.maximum(jnp.abs(value), jnp.finfo(value.dtype).eps * jnp.abs(history[0]))


def _choose(flag: Bool[Array, ""], yes, no):
    return jax.tree.map(lambda a, b: jnp.where(flag, a, b), yes, no)


def _one_sided(x, gradient, penalty):
    """Slopes of the penalised objective, at a kink those of the side that goes down, or zero (the pseudo-gradient)."""
    if penalty is None:
        return gradient
    right, left = gradient + penalty, gradient - penalty
    at_zero = jnp.where(right < 0, right, jnp.where(left > 0, left, 0))
    return jnp.where(x > 0, right, jnp.where(x < 0, left, at_zero))


def _remember(pairs: Pairs, s, y, new: Bool[Array, ""], least) -> Pairs:
    """Write a pair over the oldest one, unless its curvature is not positive: H would no longer be."""
    curvature, size = (s * y).sum(), (y * y).sum()
    kept, head = new & (curvature > least) & (size > 0), pairs.head

    # only one row is chosen and written, so that the loop updates the two large arrays in place
    def write(rows, row):
        return _put(rows, jnp.where(kept, row, _take(rows, head)), head)

    return Pairs(
        write(pairs.s, s),
        write(pairs.y, y),
        write(pairs.rho, 1 / curvature),
        jnp.where(kept, (head + 1) % pairs.rho.size, head),
        jnp.where(kept, curvature / size, pairs.scale),
    )


def _forget(pairs: Pairs, flag: Bool[Array, ""]) -> Pairs:
    return eqx.tree_at(lambda p: p.rho, pairs, jnp.where(flag, 0, pairs.rho))


def _take(rows, i):
    return lax.dynamic_index_in_dim(rows, i, keepdims=False)


def _put(rows, row, i):
    return lax.dynamic_update_index_in_dim(rows, row, i, 0)


def _direction(pairs: Pairs, x, gradient, penalty):
    """−H g, its slope, whether it had to be the steepest descent instead, and the largest slope of all."""
    slopes = _one_sided(x, gradient, penalty)
    length = jnp.sqrt((slopes * slopes).sum())
    free = None if penalty is None else (x != 0) | (slopes != 0)
    if free is not None:
        pairs = _within(pairs, free)
    scale = jnp.where(pairs.scale > 0, pairs.scale, jnp.minimum(1, 1 / length))  # at first no more than a unit step
    direction = -_inverse_hessian_times(pairs, scale, slopes, free)
    if penalty is not None:  # from zero the way is the one that the orthant opens to
        direction = jnp.where((x == 0) & (penalty > 0) & (direction * slopes >= 0), 0, direction)
    slope = (direction * slopes).sum()
    plain = ~(jnp.isfinite(slope) & (slope < 0))
    direction = jnp.where(plain, -scale * slopes, direction)
    slope = jnp.where(plain, -scale * length * length, slope)
    return direction, slope, plain, jnp.abs(slopes).max()


def _within(pairs: Pairs, free: Bool[Array, " parameter"]) -> Pairs:
    """The pairs as they are among the coordinates that are free, their curvature there; without it a pair says nothing."""
    curvature = jnp.where(free[None], pairs.s * pairs.y, 0).sum(1)
    rho = jnp.where((pairs.rho > 0) & (curvature > 0), 1 / curvature, 0)
    newest = (pairs.head - 1) % pairs.rho.size
    y, here = jnp.where(free, _take(pairs.y, newest), 0), _take(curvature, newest)
    scale = jnp.where((here > 0) & (pairs.scale > 0), here / (y * y).sum(), pairs.scale)
    return Pairs(pairs.s, pairs.y, rho, pairs.head, scale)


def _inverse_hessian_times(pairs: Pairs, scale, g, free=None):
    """H g by the two-loop recursion; an empty slot changes nothing. Only what is `free` takes part, where that is said."""
    memory = pairs.rho.size

    def row(rows, slot):
        found = _take(rows, slot)
        return found if free is None else jnp.where(free, found, 0)

    def down(i, carry):
        g, shares = carry
        slot = (pairs.head - 1 - i) % memory
        share = _take(pairs.rho, slot) * (_take(pairs.s, slot) * g).sum()
        return g - share * row(pairs.y, slot), _put(shares, share, slot)

    def up(i, g):
        slot = (pairs.head + i) % memory
        share = _take(pairs.rho, slot) * (_take(pairs.y, slot) * g).sum()
        return g + (_take(shares, slot) - share) * row(pairs.s, slot)

    g, shares = lax.fori_loop(0, memory, down, (g, jnp.zeros_like(pairs.rho)))
    return lax.fori_loop(0, memory, up, scale * g)


def _next_step(before, low, high, here, trials, fuzz):
    """Between the two ends by cubic interpolation (Nocedal and Wright 2006, 3.59); without an upper end, further out."""
    (near, near_value, near_slope), (far, far_value, far_slope), (step, _, slope) = low, high, here

    # Further out: where the slopes seem to vanish
    gain = slope - before[2]
    root = step - slope * (step - before[0]) / jnp.where(gain > 0, gain, 1)
    outer = jnp.clip(jnp.where(gain > 0, root, jnp.inf), 2 * step, 10 * step)

    # Between: values that differ by rounding alone do not tell, slopes do
    width = far - near
    turn = near_slope + far_slope - 3 * (far_value - near_value) / width
    bend = jnp.sqrt(turn**2 - near_slope * far_slope)
    cubic = far - width * (far_slope + bend - turn) / (far_slope - near_slope + 2 * bend)
    secant = near - near_slope * width / (far_slope - near_slope)
    inner = jnp.where(jnp.abs(far_value - near_value) <= fuzz, secant, cubic)
    inner = jnp.where(jnp.isfinite(inner) & (trials < 5), inner, near + 0.5 * width)
    inner = jnp.clip(inner, near + 0.1 * width, near + 0.9 * width)
    inner = jnp.where(jnp.isfinite(far_value), inner, near + 0.25 * width)
    return jnp.where(jnp.isfinite(far), inner, outer)
