"""Experience of a decision process: walks through it, and learning it from walks."""

from collections.abc import Hashable, Sequence
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ..forms.transitions import Transitions
from ..inference.compiling import jit
from ..learning.fit import Fit, Status
from .emissions.base import generator
from .policy import places


class Trajectories(eqx.Module):
    """Walks through a decision process, side by side.

    Attributes:
        states: indices, (walk, time + 1).
        actions: indices, (walk, time); −1 after the end.
        rewards: what was earned, (walk, time); 0 after the end.
        state_names, action_names: names, or None for numbers.

    Example:
        >>> import jax, chainrule as cr
        >>> mdp = cr.MDP([[[0.5, 0.5]], [[0.0, 1.0]]], [[1.0], [0.0]], discount=0.9, states=("up", "down"))
        >>> walks = mdp.simulate(jax.random.key(0), mdp.solve().policy, 5, num_samples=1000, start="up")
        >>> bool(abs(walks.returns(0.9).mean() - mdp.solve()["up"]) < 0.2)
        True
    """

    states: Any
    actions: Any
    rewards: Any
    state_names: tuple[Hashable, ...] | None = eqx.field(static=True, default=None)
    action_names: tuple[Hashable, ...] | None = eqx.field(static=True, default=None)

    @property
    def lengths(self) -> np.ndarray:
        """How many actions each walk took, (walk,): fewer than there are steps where it came to an end."""
        return (np.asarray(self.actions) >= 0).sum(axis=1)

    def returns(self, discount: float = 1.0) -> np.ndarray:
        """The discounted sum of rewards of each walk, Σ_t γ^t r_t, (walk,).

        Args:
            discount: γ in [0, 1].

        Example:
            >>> import numpy as np, chainrule as cr
            >>> walks = cr.Trajectories(np.array([[0, 0, 1]]), np.array([[0, 0]]), np.array([[1.0, 4.0]]))
            >>> walks.returns().tolist(), walks.returns(0.5).tolist()
            ([5.0], [3.0])
        """
        rewards = np.asarray(self.rewards, np.float64)
        return rewards @ discount ** np.arange(rewards.shape[1])

    def labels(self, walk: int = 0) -> list[Hashable]:
        """The states of one walk by name, up to its end.

        Example:
            >>> import numpy as np, chainrule as cr
            >>> states, actions = np.array([[0, 1, 1]]), np.array([[0, -1]])  # the second step found nothing to do
            >>> cr.Trajectories(states, actions, np.array([[1.0, 0.0]]), ("up", "down")).labels()
            ['up', 'down']
        """
        path = np.asarray(self.states)[walk, : self.lengths[walk] + 1].tolist()
        return path if self.state_names is None else [self.state_names[s] for s in path]

    def __repr__(self):
        return f"Trajectories({self.states.shape[0]} walks, {self.actions.shape[1]} steps)"


@partial(jit, static_argnames=("length", "num_samples"))
def walk(key, form: Transitions, policy, start, *, length: int, num_samples: int):
    """States (walk, time + 1), actions and rewards (walk, time) under a policy (S, A), or (time, S, A)."""
    first, uniform = jax.random.split(key)
    policy, start, probs = jnp.asarray(policy), jnp.asarray(start), jnp.asarray(form.probabilities)
    state = _draw(start[None], jax.random.uniform(first, (num_samples,), start.dtype))
    terminal, rows = jnp.asarray(form.terminal), None if form.rows is None else jnp.asarray(form.rows)

    def step(state, now):
        u, choice = (now, policy) if policy.ndim == 2 else now
        action = _draw(choice[state], u[0].astype(policy.dtype))
        at = (state, action) if rows is None else (rows[state, action],)
        slot = _draw(probs[at], u[1])
        following = slot if form.successors is None else jnp.asarray(form.successors)[(*at, slot)]
        if form.outcome_rewards is None:
            reward = jnp.asarray(form.rewards)[state, action]
        else:
            reward = jnp.asarray(form.outcome_rewards)[state, action, slot]
        over = terminal[state]
        following = jnp.where(over, state, following)
        return following, (following, jnp.where(over, -1, action), jnp.where(over, 0, reward))

    draws = jax.random.uniform(uniform, (length, 2, num_samples), probs.dtype)
    _, (states, actions, rewards) = jax.lax.scan(step, state, draws if policy.ndim == 2 else (draws, policy))
    return jnp.concatenate([state[None], states]).T, actions.T, rewards.T


def _draw(weights, u):
    """An index for each row of weights, which need not sum to one; never one of weight zero.

    Cumulative sums are not exact: they may rise, by rounding, where nothing is added, and u times the last may be the last.
    """
    cumulative, possible = jnp.cumsum(weights, axis=1), weights > 0
    place = jnp.arange(weights.shape[1], dtype=jnp.int32)
    above = possible & (cumulative > (u * cumulative[:, -1])[:, None])
    found = jnp.where(above, place, weights.shape[1]).min(axis=1)
    return jnp.minimum(found, jnp.where(possible, place, 0).max(axis=1))


# Learning


def as_steps(data, mdp) -> tuple[np.ndarray, ...]:
    """Steps (state, action, reward, next state) as four arrays of equal length.

    Args:
        data: `Trajectories`, or lists of such steps in names: one list, or one for each walk.
        mdp: whose names they are.
    """
    if isinstance(data, Trajectories):
        actions = np.asarray(data.actions)
        taken, states = actions >= 0, np.asarray(data.states)
        for kind, found, size in (("states", states, mdp.num_states), ("actions", actions, mdp.num_actions)):
            if found.size and (found.max() >= size or found.min() < -1):
                raise ValueError(f"the walks have {kind} up to {found.max()}; the process has {size}")
        return states[:, :-1][taken], actions[taken], np.asarray(data.rewards, float)[taken], states[:, 1:][taken]
    steps = _steps(data)
    if not steps:
        raise ValueError("there are no steps to learn from")
    state_of = places(mdp.state_names, mdp.num_states)
    action_of = places(mdp.action_names, mdp.num_actions, "action")
    s, a, t = (np.empty(len(steps), np.int64) for _ in range(3))
    r = np.empty(len(steps))
    for n, step in enumerate(steps):
        state, action, r[n], following = _step(n, step)
        s[n], a[n], t[n] = state_of(state), action_of(action), state_of(following)
    return s, a, r, t


def _steps(data) -> list:
    """All steps, of one list or of several."""
    return [step for part in data for step in part] if data and isinstance(data[0], list) else list(data)


def _step(n: int, step) -> tuple[Hashable, Hashable, float, Hashable]:
    """Check the shape and the reward of step n."""
    try:
        state, action, reward, following = step
        reward = float(reward)
    except (TypeError, ValueError):
        raise ValueError(f"step {n} is {step!r}; wanted (state, action, reward, next state)") from None
    if not np.isfinite(reward):
        raise ValueError(f"step {n} has reward {reward!r}")
    return state, action, reward, following


def structure(steps: Sequence) -> dict[str, Any]:
    """Arguments of a process that allows exactly what occurs in steps of names, all of it equally probable."""
    names: dict[Hashable, int] = {}
    columns: dict[Hashable, int] = {}
    seen: dict[tuple[int, int], dict[int, None]] = {}
    for n, step in enumerate(_steps(steps)):
        state, action, _, following = _step(n, step)
        try:
            at = names.setdefault(state, len(names)), columns.setdefault(action, len(columns))
            seen.setdefault(at, {}).setdefault(names.setdefault(following, len(names)))
        except TypeError:
            raise ValueError(f"step {n} is {step!r}; names of states and actions must be hashable") from None
    if not seen:
        raise ValueError("there are no steps to learn from")
    shape = (len(names), len(columns))
    width = max(map(len, seen.values()))
    probs, successors = np.zeros((*shape, width)), np.zeros((*shape, width), np.int32)
    for at, found in seen.items():
        probs[at][: len(found)] = 1 / len(found)
        successors[at][: len(found)] = list(found)
    mask: Any = (probs > 0).any(axis=-1)
    return {
        "probabilities": probs,
        "rewards": np.zeros(shape),
        "successors": successors,
        "mask": mask,
        "terminal": ~mask.any(axis=1),
        "states": tuple(names),
        "actions": tuple(columns),
    }


def learnable(form: Transitions) -> Transitions:
    """The process with a row for each (s, a), in which no successor is there twice, and rewards by (s, a)."""
    form = form.spread_out()
    probs, successors = np.asarray(form.probabilities), form.successors
    if successors is not None:
        probs = _merged(probs, np.asarray(successors))
    return Transitions(
        probs,
        form.rewards,
        successors=successors,
        mask=form.mask,
        terminal=form.terminal,
        discount=form.discount,
    )


def _merged(probs: np.ndarray, successors: np.ndarray) -> np.ndarray:
    """Probabilities (S, A, b) in which the first slot of a successor has the sum of all its slots."""
    width = probs.shape[-1]
    flat, targets = probs.reshape(-1, width), successors.reshape(-1, width)
    # slots that cannot be are different from each other and from everything
    key = np.where(flat > 0, targets.astype(np.int64), -1 - np.arange(width))
    order = np.argsort(key, axis=1, kind="stable")
    sorted_ = np.take_along_axis(key, order, axis=1)
    new = np.ones(key.shape, bool)
    new[:, 1:] = sorted_[:, 1:] != sorted_[:, :-1]
    if new.all():
        return probs
    sums = np.add.reduceat(np.take_along_axis(flat, order, axis=1).reshape(-1), np.flatnonzero(new))
    found = np.zeros_like(flat)
    found[np.nonzero(new)[0], order[new]] = sums
    return found.reshape(probs.shape)


def counts(form: Transitions, steps, names) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How often each outcome of a `learnable` process occurs, (S, A, b); how often (s, a) does, and its mean reward.

    Raises:
        ValueError: a step that the process does not allow.
    """
    s, a, r, following = steps
    probs = np.asarray(form.probabilities)
    number = np.zeros(probs.shape)
    if form.successors is None:
        slot, known = following, probs[s, a, following] > 0
    else:
        match = (np.asarray(form.successors)[s, a] == following[:, None]) & (probs[s, a] > 0)
        slot, known = match.argmax(axis=1), match.any(axis=1)
    known &= np.asarray(form.mask)[s, a]
    if not known.all():
        n = int(np.argmin(known))
        raise ValueError(
            f"step {n} goes from {names[0][s[n]]!r} under {names[1][a[n]]!r} to {names[0][following[n]]!r}, which the "
            "process does not allow"
        )
    np.add.at(number, (s, a, slot), 1)
    visits, total = np.zeros(form.mask.shape), np.zeros(form.mask.shape)
    np.add.at(visits, (s, a), 1)
    np.add.at(total, (s, a), r)
    mean = np.where(visits > 0, total / np.maximum(visits, 1), np.asarray(form.rewards))
    return number, visits, mean


def fit(mdp, data, smoothing: float) -> Fit:
    """Learn probabilities and rewards: see `MDP.fit`."""
    if not 0 <= smoothing < np.inf:
        raise ValueError(f"smoothing is {smoothing}; wanted a number that is not negative")
    form = learnable(mdp.transitions)
    number, visits, mean = counts(form, as_steps(data, mdp), (mdp.states, mdp.actions))
    possible = np.asarray(form.probabilities) > 0
    weight = number + smoothing * possible
    total = weight.sum(axis=-1, keepdims=True)
    probs = np.where(total > 0, weight / np.where(total > 0, total, 1), np.asarray(form.probabilities))
    terms = number[number > 0] * np.log(probs[number > 0])
    unvisited = np.asarray(form.mask) & (visits == 0)
    log_prob = float(terms.sum())
    return Fit(
        model=_with(mdp, form, probs, mean),
        status=Status.DEGENERATE if unvisited.any() else Status.CONVERGED,
        iterations=1,
        log_prob=log_prob,
        history=np.array([log_prob]),
        restart_objectives=np.array([log_prob]),
        degenerate=unvisited,
        num_parameters=int((possible.sum(axis=-1) - 1)[np.asarray(form.mask)].sum()),
        num_observations=int(visits.sum()),
    )


def _with(mdp, form: Transitions, probs, rewards):
    """The process with other probabilities and rewards."""
    return type(mdp)(
        probs,
        rewards,
        discount=form.discount,
        successors=form.successors,
        mask=form.mask,
        terminal=form.terminal,
        states=mdp.state_names,
        actions=mdp.action_names,
        initial=mdp.initial,
    )


def draws(mdp, key, data, num_draws: int, prior: float):
    """Draws of the process from its Dirichlet posterior: see `MDP.posterior`."""
    if not 1e-300 <= prior < np.inf:
        raise ValueError(f"prior is {prior}; a Dirichlet posterior needs a positive pseudo-count, from 1e-300 on")
    if num_draws < 1:
        raise ValueError(f"num_draws is {num_draws}; wanted at least one")
    form = learnable(mdp.transitions)
    number, _, mean = counts(form, as_steps(data, mdp), (mdp.states, mdp.actions))
    probs = _dirichlet(generator(key), number + prior, np.asarray(form.probabilities) > 0, num_draws)
    model = _with(mdp, form, np.asarray(form.probabilities), mean)
    # rows that are equal in the prior are not in a draw
    model = eqx.tree_at(lambda m: m.transitions, model, model.transitions.spread_out())
    many = jax.tree.map(lambda leaf: np.broadcast_to(leaf, (num_draws, *np.shape(leaf))), model)
    return eqx.tree_at(lambda m: m.transitions.probabilities, many, probs)


def _dirichlet(rng, alpha: np.ndarray, possible: np.ndarray, num_draws: int) -> np.ndarray:
    """Dirichlet draws over the possible, (num_draws, …, b); rows without any are zero.

    A small α makes gamma variables that underflow, so that their logarithms are drawn: G(α) is G(α + 1) U^{1/α} in
    distribution (Marsaglia and Tsang 2000, §6), U uniform and so −log U exponential.
    """
    shape = (num_draws, *alpha.shape)
    log_gamma = np.log(rng.standard_gamma(np.broadcast_to(alpha + 1, shape)))
    log_gamma -= rng.standard_exponential(shape) / alpha
    log_gamma[:, ~possible] = -np.inf
    top = log_gamma.max(axis=-1, keepdims=True)
    weight = np.exp(log_gamma - np.where(np.isfinite(top), top, 0))
    total = weight.sum(axis=-1, keepdims=True)
    return weight / np.where(total > 0, total, 1)
