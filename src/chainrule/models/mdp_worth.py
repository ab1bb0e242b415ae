"""What a policy is worth, with bounds: discounted, undiscounted, and step by step."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.sparse import csgraph

from ..forms.transitions import Transitions
from ..inference import bellman
from ..inference.compiling import jit
from ..inference.planning.bounds import rounding
from ..inference.planning.evaluation import direct, is_narrow, krylov
from ..inference.planning.long_run import long_run, stochastic
from ..inference.planning.process import Chain, Process
from ..inference.planning.reach import steps_from
from .mdp_policies import LARGE_WORK, chain_of, clean, closed_states


class Worth(NamedTuple):
    """Values and bounds on them, and whether what is between the bounds is rounding alone."""

    values: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    exact: bool


def worth(process: Process, chain: Chain, names: Sequence) -> Worth:
    """Values of a chain. Without a discount they may be infinite: where it loses, or gains, for ever."""
    if not process.discount < 1:
        return _undiscounted(process, chain, names)
    v = _solved(chain, process.discount, until=1e-3 * process.rounding(np.array([process.largest_reward])))
    new = chain.reward + process.discount * chain.expect(v)
    change, going = new - v, ~process.ends
    bounds = process.bounds(change, new, chain)
    if not np.isfinite(bounds.gap):  # with rows above one, there is nothing between the bounds
        process.require_contraction()
    exact = float(np.abs(change).max()) <= 8 * bounds.error
    return Worth(*(new + np.where(going, bound, 0) for bound in (bounds.middle, bounds.low, bounds.high)), exact)  # type: ignore


def _solved(chain: Chain, discount: float, until: float) -> np.ndarray:
    narrow = is_narrow(chain.matrix, work=1e9 if discount < 1 else LARGE_WORK)
    found = direct(chain, discount=discount) if narrow else None
    return krylov(chain, np.zeros(len(chain.reward)), discount=discount, until=until) if found is None else found


def _rounding(process: Process, chain: Chain, values: np.ndarray) -> float:
    """How far a computed backup of values under a policy can be from the exact one."""
    return rounding(chain.terms, process.largest_reward, process.discount, float(np.abs(values).max()))


def _undiscounted(process: Process, chain: Chain, names: Sequence) -> Worth:
    """Totals: closed classes that pay nothing are worth nothing, others are infinite, and what leads there with them."""
    size = process.num_states
    matrix = clean(chain.matrix)
    closed = closed_states(matrix, process.ends)
    label = csgraph.connected_components(matrix, connection="strong")[1]
    v = np.zeros(size)
    for group in np.unique(label[closed & (chain.reward != 0)]):
        states = np.flatnonzero(label == group)
        gain = _gain_sign(matrix[states][:, states], chain.reward[states], process.largest_reward)
        if gain == 0:
            raise ValueError(
                f"the total reward from state {names[int(states[0])]!r} does not settle: gains and losses cancel for ever; "
                "give a discount below 1"
            )
        v[states] = np.copysign(np.inf, gain)
    endless = np.isinf(v)
    back = matrix.T.tocsr()
    for sign in (np.inf, -np.inf):
        targets = np.flatnonzero(v == sign)
        reached = steps_from(back, targets) >= 0 if len(targets) else np.zeros(size, bool)
        if (torn := reached & np.isinf(v) & (v != sign)).any():
            raise ValueError(
                f"from state {names[int(np.argmax(torn))]!r} the policy may gain for ever or lose for ever: its total has "
                "no meaning; give a discount below 1"
            )
        v[reached], endless = sign, endless | reached
    moving = np.flatnonzero(~endless & ~closed & ~process.ends)
    if not len(moving):
        return Worth(v, v, v, True)
    inner = Chain(matrix[moving][:, moving], chain.reward[moving])
    v[moving] = _solved(inner, 1.0, until=1e-14 * max(process.largest_reward, 1.0))
    off = float(np.abs(inner.reward + inner.expect(v[moving]) - v[moving]).max())
    error, rounded = np.zeros(size), _rounding(process, chain, v[moving])
    error[moving] = 1.01 * (off + rounded) * _most_steps(inner)
    return Worth(v, v - error, v + error, off <= 8 * rounded)


def _most_steps(inner: Chain) -> np.ndarray:
    """At least as many as the steps to the end are on average: z with z − P z ≥ 1. Infinite where none was found."""
    z = _solved(Chain(inner.matrix, np.ones(len(inner.reward))), 1.0, until=1e-10)
    falls = float((z - inner.expect(z)).min())  # one, if z was solved for well
    return z / falls if falls > 0.01 and z.min() > 0 else np.full(len(z), np.inf)


def _gain_sign(matrix: Any, reward: np.ndarray, largest: float) -> int:
    """The sign of the average reward of an irreducible chain, some of whose rewards are not zero.

    Rewards of one sign tell at once. Otherwise min(r + P h − h) ≤ gain ≤ max(r + P h − h) for any h, and a few backups,
    damped against periods, mostly tell; only what they leave open is solved for.
    """
    if reward.min() >= 0 or reward.max() <= 0:
        return int(np.sign(reward.sum()))
    matrix = stochastic(matrix)
    h = np.zeros(len(reward))
    for _ in range(200):
        change = reward + matrix @ h - h
        if change.min() > 1e-12 * largest or change.max() < -1e-12 * largest:
            return int(np.sign(change[0]))
        h += 0.5 * (change - change[0])
    found = long_run(matrix, reward)
    gain = 0.0 if found is None else float(found.gain[0])
    return 0 if abs(gain) <= 1e-12 * largest else int(np.sign(gain))


def by_steps(form: Transitions, table: np.ndarray, final: np.ndarray) -> Worth:
    """Values (H + 1, S) of a policy for each step, backwards from the last: v_t = r_t + γ P_t v_{t+1}."""
    process = Process(form, idle_ends=False)
    values, errors = np.zeros((len(table) + 1, process.num_states)), np.zeros((len(table) + 1, 1))
    values[-1] = final
    for t in range(len(table) - 1, -1, -1):
        chain = chain_of(process, table[t])
        values[t] = chain.reward + process.discount * chain.expect(values[t + 1])
        errors[t] = process.factors[1] * errors[t + 1] + _rounding(process, chain, values[t : t + 2])
    return Worth(values, values - errors, values + errors, True)


@jit
def traced_by_steps(form: Transitions, table, final) -> Any:
    """As `by_steps`, differentiable: values (H + 1, S)."""
    dtype = jnp.asarray(form.rewards).dtype
    discount = jnp.asarray(form.discount).astype(dtype)

    def back(v, policy):
        chosen = jnp.issubdtype(policy.dtype, jnp.integer)
        chain = bellman.follow(form, policy) if chosen else bellman.mix(form, policy.astype(dtype))
        v = chain.reward + discount * bellman.expect(chain.probabilities, chain.successors, v)
        return v, v

    last = jnp.where(jnp.asarray(form.terminal), 0, jnp.asarray(final).astype(dtype))
    values = jax.lax.scan(back, last, jnp.asarray(table), reverse=True)[1]
    return jnp.concatenate([values, last[None]])
