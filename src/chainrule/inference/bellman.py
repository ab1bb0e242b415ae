"""Bellman equations in JAX: discounted decision processes under `jit`, `vmap` and `grad`, on any device.

    v(s) = max_a { r(s, a) + γ Σ_{s'} p(s' | s, a) v(s') }

The solver is modified policy iteration (Puterman and Shin 1978) in one `while_loop`, stopped on the bounds of MacQueen
(1966) in the dtype that it is given, rounding included. The optimum is differentiated as the solution of an equation: with
the best policy fixed, dv = (I − γP)⁻¹ (dr + d(γP) v), so that a gradient costs one linear solve and remembers no iteration.
Where actions tie, that is the derivative for the action which was kept: one of the subgradients.

Concrete data on the CPU are solved faster, and in float64, by `chainrule.inference.planning`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap
from jax.custom_derivatives import zero_from_primal

from ..forms.transitions import Transitions
from .bellman_batch import in_blocks, macqueen, settled


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
        return jnp.matmul(probabilities, v, precision=lax.Precision.HIGHEST)
    return (probabilities * v[successors]).sum(-1)


def action_values(form: Transitions, v):
    """Q (S, A); −inf where infeasible, and 0 for the first action where the process has ended."""
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
    """What a policy is worth: (S,), for an action in each state (S,) or probabilities of actions (S, A).

    Differentiable in rewards, probabilities, discount and the policy's probabilities.
    """
    policy = jnp.asarray(policy)
    chain = follow(form, policy) if jnp.issubdtype(policy.dtype, jnp.integer) else mix(form, policy)
    still = lax.stop_gradient(chain)
    discount = _discount(form)
    v = _solve(
        lambda x: x - lax.stop_gradient(discount) * expect(still.probabilities, still.successors, x), still.reward
    )
    return _with_derivatives(chain, discount, v)


def solve(form: Transitions, *, tolerance, most: int = 10_000, sweeps: int = 100) -> Solved:
    """The optimum, certified in the dtype of the form.

    Args:
        form: the process; its discount below 1.
        tolerance: half the width of the bounds to stop at.
        most: improvements at most.
        sweeps: backups under one policy at most.

    Differentiable in rewards, probabilities and discount, by `values`.
    """
    q, v, policy, bounds, iterations, done, exact = _optimum(form, tolerance, most, sweeps)
    going = ~jnp.asarray(form.terminal)
    lower, upper = (v + jnp.where(going, bound, 0) for bound in bounds)
    values = _with_derivatives(follow(form, policy), _discount(form), 0.5 * (lower + upper))
    gap = 0.5 * (bounds[1] - bounds[0])
    return Solved(values, lower, upper, q, policy, gap, iterations, done, exact)


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
    largest = jnp.where(mask, jnp.abs(jnp.asarray(form.rewards)), 0).max()
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
        error = (terms * (largest + discount * jnp.abs(values).max())).astype(dtype)
        kept = jnp.take_along_axis(q, policy[:, None], axis=1)[:, 0]
        policy = jnp.where(values - kept > 4 * error, q.argmax(1).astype(policy.dtype), policy)
        change = values - v
        low, high = change.min(), change.max()
        bounds = macqueen(
            jnp.where(ends, jnp.minimum(low, 0), low), jnp.where(ends, jnp.maximum(high, 0), high), factors, error
        )
        width = spread(change)
        exact, shift, narrowest = settled(width, bounds, error, factors, tolerance, narrowest)
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
    low = jnp.where(used, sums, jnp.inf).min()
    return jnp.where(ends, 0, discount * low).astype(discount.dtype), discount * jnp.where(used, sums, 0).max()


def _discount(form: Transitions):
    """γ in the dtype of everything else."""
    return jnp.asarray(form.discount).astype(jnp.asarray(form.rewards).dtype)


def _arrays(form: Transitions):
    return jnp.asarray(form.probabilities), None if form.successors is None else jnp.asarray(form.successors)


# Derivatives


def _with_derivatives(chain: Rows, discount, v):
    """`v`, with the derivatives of the solution of v = r + γ P v."""
    v = lax.stop_gradient(v)
    residual = chain.reward + discount * expect(chain.probabilities, chain.successors, v) - v
    still = lax.stop_gradient((chain.probabilities, discount))
    return _attach(*still, chain.successors, v, residual)


@jax.custom_jvp
def _attach(probabilities, discount, successors, v, residual):
    return v


@_attach.defjvp
def _attach_jvp(primals, tangents):
    probabilities, discount, successors, v, _ = primals

    def matvec(x):
        return x - discount * expect(probabilities, successors, x)

    return v, lax.custom_linear_solve(matvec, tangents[-1], _solve, _solve)


def _solve(matvec, right):
    """Solve (I − γP) x = b, or its transpose: BiCGSTAB, then backups for what it left, which converge always."""
    scale = jnp.abs(right).max()
    goal = 16 * jnp.finfo(right.dtype).eps * jnp.maximum(scale, jnp.finfo(right.dtype).tiny)

    def left(x):
        return right - matvec(x)

    def step(carry):
        x, residual, direction, image, rho, alpha, omega, n = carry
        new = right @ residual
        direction = residual + new / rho * alpha / omega * (direction - omega * image)
        image = matvec(direction)
        alpha = new / (right @ image)
        half = residual - alpha * image
        turned = matvec(half)
        omega = (turned @ half) / (turned @ turned)
        return x + alpha * direction + omega * half, half - omega * turned, direction, image, new, alpha, omega, n + 1

    def unfinished(carry):  # a breakdown makes NaN, which is not above the goal either
        return (jnp.abs(carry[1]).max() > goal) & (carry[-1] < 100)

    one, zero = jnp.ones((), right.dtype), jnp.zeros_like(right)
    found = lax.while_loop(unfinished, step, (zero, right, zero, zero, one, one, one, jnp.int32(0)))[0]
    sound = jnp.abs(left(found)).max() <= scale
    found = jnp.where(sound, found, zero)
    sweep = lax.while_loop(
        lambda c: (jnp.abs(c[1]).max() > goal) & (c[2] < 100_000) & (c[3] > 0),
        _back_up(left),
        (found, left(found), jnp.int32(0), jnp.int32(100)),
    )
    return sweep[0]


def _back_up(left):
    """One more backup; `patience` runs out where rounding keeps the residual from shrinking."""

    def step(carry):
        x, residual, n, patience = carry
        x = x + residual
        new = left(x)
        shrinks = jnp.abs(new).max() < jnp.abs(residual).max()
        return x, new, n + 1, jnp.where(shrinks, patience, patience - 1)

    return step
