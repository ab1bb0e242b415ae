"""Bellman equations in JAX: discounted decision processes under `jit`, `vmap` and `grad`, on any device.

    v(s) = max_a { r(s, a) + γ Σ_{s'} p(s' | s, a) v(s') }

The solver is modified policy iteration (Puterman and Shin 1978) in one `while_loop`, stopped on the bounds of MacQueen
(1966) in the dtype that it is given, rounding included. The optimum is differentiated as the solution of an equation: with
the best policy fixed, dv = (I − γP)⁻¹ (dr + d(γP) v), so that a gradient costs one linear solve and remembers no iteration;
that equation is differentiated alike for second derivatives. Where it cannot be solved, derivatives are NaN.
Where actions tie, that is the derivative for the action which was kept: one of the subgradients.

Concrete data on the CPU are solved faster, and in float64, by `chainrule.inference.planning`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap
from jax.custom_derivatives import zero_from_primal

from ..forms.products import product
from ..forms.transitions import Transitions
from .bellman_batch import in_blocks, macqueen, settled, widened


class Solved(NamedTuple):
    """What the solver found; see `planning.discounted.Outcome`.

    Attributes:
        values: the middle of the bounds, (S,), with implicit derivatives.
        lower, upper: bounds on the optimum.
        action_values: (S, A), −inf where infeasible.
        policy: an action for each state.
        gap: half the width of the bounds.
        iterations: backups over all actions.
        sweeps: backups under one policy.
        exact: whether rounding kept the gap from becoming smaller.
    """

    values: jax.Array
    lower: jax.Array
    upper: jax.Array
    action_values: jax.Array
    policy: jax.Array
    gap: jax.Array
    iterations: jax.Array
    sweeps: jax.Array
    exact: jax.Array


class Rows(NamedTuple):
    """Rewards and successors under one policy: (S,), (S, b), (S, b) or None for dense rows."""

    reward: jax.Array
    probabilities: jax.Array
    successors: jax.Array | None


def expect(probabilities, successors, v):
    """Σ_{s'} p(s' | ·) v(s'), over the last axis of `probabilities`."""
    if successors is None:
        return product(probabilities, v)
    return (probabilities * v[successors]).sum(-1)


def action_values(form: Transitions, v):
    """What each action is worth if v comes after it: q(s, a) = r(s, a) + γ Σ_{s'} p(s' | s, a) v(s').

    Args:
        form: the process.
        v: a value for each state, (S,).

    Returns:
        Q (S, A); −inf where infeasible, and 0 for the first action where the process has ended. Max Q over actions is v if,
        and with a discount below 1 only if, v is the optimum.

    Example:
        >>> import jax.numpy as jnp, chainrule as cr
        >>> from chainrule.inference import bellman
        >>> form = cr.Transitions([[[1, 0], [0, 1]], [[0, 1], [1, 0]]], [[0, 0], [1, 0]], discount=0.5)
        >>> bellman.action_values(form, jnp.array([1.0, 2.0])).tolist()  # the largest of each row: 1 and 2 again
        [[0.5, 1.0], [2.0, 0.5]]
    """
    expected = expect(*_arrays(form), v)
    if form.rows is not None:
        expected = expected[jnp.asarray(form.rows)]
    q = jnp.asarray(form.rewards) + _discount(form) * expected
    first = jnp.arange(form.num_actions) == 0
    over = jnp.where(first, jnp.zeros((), q.dtype), -jnp.inf)
    return jnp.where(jnp.asarray(form.terminal)[:, None], over, jnp.where(jnp.asarray(form.mask), q, -jnp.inf))


def follow(form: Transitions, policy) -> Rows:
    """The chain of a deterministic policy (S,)."""
    states = jnp.arange(form.num_states)
    probabilities, successors = _arrays(form)
    at = (states, policy) if form.rows is None else jnp.asarray(form.rows)[states, policy]
    going = ~jnp.asarray(form.terminal)
    return Rows(
        jnp.where(going, jnp.asarray(form.rewards)[states, policy], 0),
        jnp.where(going[:, None], probabilities[at], 0),
        None if successors is None else successors[at],
    )


def mix(form: Transitions, policy) -> Rows:
    """The chain of a stochastic policy (S, A)."""
    probabilities, successors = _arrays(form)
    if form.rows is not None:
        rows = jnp.asarray(form.rows)
        probabilities, successors = probabilities[rows], None if successors is None else successors[rows]
    weight = jnp.where(jnp.asarray(form.mask) & ~jnp.asarray(form.terminal)[:, None], policy, 0)
    reward = (weight * jnp.asarray(form.rewards)).sum(-1)
    blended = weight[:, :, None] * probabilities
    if successors is None:
        return Rows(reward, blended.sum(1), None)
    return Rows(reward, blended.reshape(len(weight), -1), successors.reshape(len(weight), -1))


def evaluate(form: Transitions, policy):
    """What a policy is worth: the v, (S,), with v = r_π + γ P_π v.

    Args:
        form: the process.
        policy: an action for each state, integers (S,), or probabilities of actions, (S, A), rows that sum to one.

    Differentiable, any number of times, in rewards, probabilities, discount and the policy's probabilities. NaN where it
    could not be solved for, as without a discount where the policy never ends.

    Example:
        >>> import jax, jax.numpy as jnp, chainrule as cr
        >>> from chainrule.inference import bellman
        >>> def worth(discount):  # of earning 1 for ever
        ...     return bellman.evaluate(cr.Transitions([[[1.0]]], [[1.0]], discount=discount), jnp.array([0]))[0]
        >>> [round(float(x), 4) for x in jax.jit(jax.value_and_grad(worth))(0.5)]  # 1 / (1 − γ) and 1 / (1 − γ)²
        [2.0, 4.0]

    References:
        Puterman (1994), Markov Decision Processes, §6.1. van der Vorst (1992), Bi-CGSTAB.
    """
    policy = jnp.asarray(policy)
    chain = follow(form, policy) if jnp.issubdtype(policy.dtype, jnp.integer) else mix(form, policy)
    discount = _discount(form)
    reward, probabilities, still = lax.stop_gradient((chain.reward, chain.probabilities, discount))
    v = _solve(lambda x: x - still * expect(probabilities, chain.successors, x), reward)
    return _fixed_point(chain.reward, chain.probabilities, discount, chain.successors, v)


def solve(form: Transitions, *, tolerance, most: int = 10_000, sweeps: int = 100) -> Solved:
    """The optimum, certified in the dtype of the form.

    Args:
        form: the process; its discount below 1.
        tolerance: half the width of the bounds to stop at, > 0.
        most: improvements at most, ≥ 1.
        sweeps: backups under one policy at most, ≥ 0.

    Nothing is checked: values may be traced. Whether it came down to the tolerance is read from `gap`, and why not from
    `exact` (rounding) and `iterations`.

    Differentiable in rewards, probabilities and discount, any number of times, with the policy held fixed: values, their
    bounds and the action values; the gap counts as a constant.

    Example:
        >>> import jax, chainrule as cr
        >>> from chainrule.inference import bellman
        >>> form = cr.Transitions([[[1, 0], [0, 1]], [[0, 1], [1, 0]]], [[0, 0], [1, 0]], discount=0.5)
        >>> found = jax.jit(lambda form: bellman.solve(form, tolerance=1e-4))(form)
        >>> found.policy.tolist(), bool(abs(found.values[0] - 1) <= found.gap <= 1e-4)  # γ / (1 − γ)
        ([1, 0], True)

    References:
        Puterman and Shin (1978), Modified policy iteration algorithms for discounted Markov decision problems. MacQueen
        (1966), A modified dynamic programming method for Markovian decision problems.
    """
    q, v, policy, bounds, iterations, done, exact = _optimum(form, tolerance, most, sweeps)
    going = ~jnp.asarray(form.terminal)
    lower, upper = (v + jnp.where(going, bound, 0) for bound in bounds)
    gap = 0.5 * (bounds[1] - bounds[0])
    bounded = jnp.isfinite(gap)
    chain, discount = follow(form, policy), _discount(form)
    middle = jnp.where(bounded, 0.5 * (lower + upper), v)
    values = _fixed_point(chain.reward, chain.probabilities, discount, chain.successors, middle)
    q = q + jnp.where(going & bounded, 0.5 * (bounds[0] + bounds[1]), 0)[:, None]
    q = _sloped(q, action_values(form, values))
    return Solved(values, _sloped(lower, values), _sloped(upper, values), q, policy, gap, iterations, done, exact)


@jax.custom_jvp
def _optimum(form: Transitions, tolerance, most, sweeps):
    """What is iterated for: the optimum, as a constant. Derivatives are attached to it afterwards."""
    return _iterate(form, tolerance, most, sweeps)


@_optimum.defjvp
def _optimum_jvp(primals, _):
    found = _optimum(*primals)
    return found, jax.tree.map(lambda x: zero_from_primal(x, symbolic_zeros=False), found)


def _one(form: Transitions, tolerance, most, sweeps):
    """Modified policy iteration for one process."""
    discount, dtype = _discount(form), jnp.asarray(form.rewards).dtype
    terminal, mask = jnp.asarray(form.terminal), jnp.asarray(form.mask)
    ends = terminal.any()
    paid = jnp.asarray(form.rewards)
    paid = paid if form.outcome_rewards is None else jnp.abs(jnp.asarray(form.outcome_rewards)).max(axis=-1)
    largest = jnp.where(mask, jnp.abs(paid), 0).max()
    factors = _factors(form, ends)
    terms = (jnp.asarray(form.probabilities).shape[-1] + 6) * 0.5 * jnp.finfo(dtype).eps

    def spread(change):
        low, high = change.min(), change.max()
        return jnp.where(ends, jnp.maximum(high, 0) - jnp.minimum(low, 0), high - low)

    def evaluated(policy, v, until):
        chain = follow(form, policy)

        def back_up(carry):
            v, _, n = carry
            new = chain.reward + discount * expect(chain.probabilities, chain.successors, v)
            return new, spread(new - v), n + 1

        start = (v, jnp.array(jnp.inf, dtype), jnp.int32(0))
        return lax.while_loop(lambda c: (c[1] > until) & (c[2] < sweeps), back_up, start)[::2]

    def improved(v, policy, narrowest, n, done):
        q = action_values(form, v)
        values = q.max(1)
        change = values - v
        low, high = change.min(), change.max()
        # the v that was backed up is at most as far from T v as the change is large
        most_left = jnp.abs(values).max() + jnp.maximum(jnp.maximum(-low, high), 0)
        error = (terms * (largest + discount * most_left)).astype(dtype)
        kept = jnp.take_along_axis(q, policy[:, None], axis=1)[:, 0]
        policy = jnp.where(values - kept > 4 * error, q.argmax(1).astype(policy.dtype), policy)
        bounds = macqueen(
            jnp.where(ends, jnp.minimum(low, 0), low), jnp.where(ends, jnp.maximum(high, 0), high), factors, error
        )
        width = spread(change)
        exact, shift, narrowest = settled(width, bounds, error, terms * discount, factors, tolerance, narrowest)
        return _Step(values, q, policy, bounds, width, error, shift, narrowest, n + 1, done, exact)

    def unfinished(step):
        return ~((0.5 * (step.bounds[1] - step.bounds[0]) <= tolerance) | step.exact | (step.n >= most))

    def body(step):
        v, more = evaluated(step.policy, step.values + step.shift, jnp.maximum(step.width / 5, 4 * step.error))
        return improved(v, step.policy, step.narrowest, step.n, step.done + more)

    start = jnp.where(terminal, 0, mask.argmax(1)).astype(jnp.int32)
    nothing, never = jnp.zeros(form.num_states, dtype), jnp.array(jnp.inf, dtype)
    found = lax.while_loop(unfinished, body, improved(nothing, start, never, jnp.int32(0), jnp.int32(0)))
    return found.q, found.values, found.policy, found.bounds, found.n, found.done, found.exact


class _Step(NamedTuple):
    """What the loop carries from one improvement to the next; names as in `planning.discounted.Progress`."""

    values: jax.Array
    q: jax.Array
    policy: jax.Array
    bounds: tuple[jax.Array, jax.Array]
    width: jax.Array
    error: jax.Array
    shift: jax.Array
    narrowest: jax.Array
    n: jax.Array
    done: jax.Array
    exact: jax.Array


_iterate = custom_vmap(_one)


@_iterate.def_vmap
def _many(axis_size, in_batched, form: Transitions, tolerance, most, sweeps):
    """Processes that share their successors are solved side by side, others each for itself."""
    batched = in_batched[0]
    if any(jax.tree.leaves((batched.successors, batched.rows, *in_batched[1:]))):
        axes = jax.tree.map(lambda b: 0 if b else None, tuple(in_batched))
        found = jax.vmap(_one, in_axes=axes, axis_size=axis_size)(form, tolerance, most, sweeps)
    else:
        found = in_blocks(form, batched, tolerance, most, axis_size)
        found = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, -1, 0), found)
    return found, jax.tree.map(lambda _: True, found)


def _factors(form: Transitions, ends):
    sums = jnp.asarray(form.probabilities).sum(-1)
    used = jnp.asarray(form.mask) & ~jnp.asarray(form.terminal)[:, None]
    sums = sums if form.rows is None else sums[jnp.asarray(form.rows)]
    discount = _discount(form)
    low = jnp.where(ends, 0, discount * jnp.where(used, sums, jnp.inf).min()).astype(discount.dtype)
    return widened(low, discount * jnp.where(used, sums, 0).max(), form.probabilities.shape[-1])


def _discount(form: Transitions):
    """γ in the dtype of everything else."""
    return jnp.asarray(form.discount).astype(jnp.asarray(form.rewards).dtype)


def _arrays(form: Transitions):
    return jnp.asarray(form.probabilities), None if form.successors is None else jnp.asarray(form.successors)


# Derivatives


@jax.custom_jvp
def _fixed_point(reward, probabilities, discount, successors, v):
    """`v`, which solves v = r + γ P v, with the derivatives of that solution."""
    return v


@_fixed_point.defjvp
def _fixed_point_jvp(primals, tangents):
    _, probabilities, discount, successors, _ = primals
    v = _fixed_point(*primals)  # so that the derivative can be differentiated too

    def matvec(x):
        return x - discount * expect(probabilities, successors, x)

    moved = tangents[0] + discount * expect(tangents[1], successors, v)
    moved = moved + tangents[2] * expect(probabilities, successors, v)
    return v, lax.custom_linear_solve(matvec, moved, _solve, _solve)


@jax.custom_jvp
def _sloped(x, model):
    """`x`, with the derivatives of `model`, which is computed only where they are asked for."""
    return x


@_sloped.defjvp
def _sloped_jvp(primals, tangents):
    return _sloped(*primals), tangents[1]


def _solve(matvec, right):
    """Solve (I − γP) x = b, or its transpose: BiCGSTAB, begun anew as long as that helps, and backups where it does not.

    NaN where the residual stays above what rounding explains.
    """
    eps = jnp.finfo(right.dtype).eps
    scale = jnp.maximum(jnp.abs(right).max(), jnp.finfo(right.dtype).tiny)

    def left(x):
        return right - matvec(x)

    def goal(x):
        return 4 * eps * (scale + jnp.abs(x).max())

    def unfinished(carry):
        x, residual, stuck, n = carry
        return (jnp.abs(residual).max() > goal(x)) & (stuck < 3) & (n < 100)

    def body(carry):
        x, residual, stuck, n = carry
        size = jnp.abs(residual).max()
        move, rest = _bicgstab(matvec, residual, goal(x))
        rest = jnp.where(rest < size, jnp.abs(left(x + move)).max(), jnp.inf)  # what is left in truth
        helps = rest < size
        x = jnp.where(helps, x + move, x)
        most = jnp.where(helps & (rest < 0.5 * size), 0, 1000)
        x, residual, _ = lax.while_loop(
            lambda c: (jnp.abs(c[1]).max() > goal(c[0])) & (c[2] < most), _back_up(left), (x, left(x), jnp.int32(0))
        )
        shrinks = jnp.abs(residual).max() < 0.9 * size
        return x, residual, jnp.where(shrinks, 0, stuck + 1), n + 1

    start = (jnp.zeros_like(right), right, jnp.int32(0), jnp.int32(0))
    x, residual, *_ = lax.while_loop(unfinished, body, start)
    return jnp.where(jnp.abs(residual).max() <= 64 * goal(x), x, jnp.nan)


def _bicgstab(matvec, right, goal):
    """Up to 1000 steps of BiCGSTAB (van der Vorst 1992) from zero: the best x on the way, and how large its residual is."""

    def step(carry):
        x, residual, direction, image, rho, alpha, omega, n, best, least = carry
        new = product(right, residual)
        direction = residual + new / rho * alpha / omega * (direction - omega * image)
        image = matvec(direction)
        alpha = new / product(right, image)
        half = residual - alpha * image
        turned = matvec(half)
        omega = product(turned, half) / product(turned, turned)
        x, residual = x + alpha * direction + omega * half, half - omega * turned
        size = jnp.abs(residual).max()
        best = jnp.where(size < least, x, best)
        return x, residual, direction, image, new, alpha, omega, n + 1, best, jnp.where(size < least, size, least)

    def unfinished(carry):  # a breakdown makes NaN, which is not above the goal either
        return (jnp.abs(carry[1]).max() > goal) & (carry[7] < 1000)

    one, zero = jnp.ones((), right.dtype), jnp.zeros_like(right)
    start = (zero, right, zero, zero, one, one, one, jnp.int32(0), zero, jnp.abs(right).max())
    return lax.while_loop(unfinished, step, start)[-2:]


def _back_up(left):
    """One more backup."""

    def step(carry):
        x, residual, n = carry
        x = x + residual
        return x, left(x), n + 1

    return step
