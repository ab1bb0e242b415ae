"""Tiny random processes and what all their deterministic policies are worth, by dense algebra."""

import itertools

import numpy as np

import chainrule as cr


def random_mdp(rng, *, discount=1.0, terminal=0.1, outcome_rewards=False, most_states=5, most_actions=3):
    """Sparse, often multichain or periodic, with masked actions, ties and terminal states."""
    S, A = int(rng.integers(1, most_states + 1)), int(rng.integers(1, most_actions + 1))
    P = rng.random((S, A, S)) * (rng.random((S, A, S)) < rng.choice([0.2, 0.3, 0.6]))
    if rng.random() < 0.3:
        P = (P > 0).astype(float)
    empty = np.argwhere(P.sum(-1) == 0)
    P[empty[:, 0], empty[:, 1], rng.integers(S, size=len(empty))] = 1
    P /= P.sum(-1, keepdims=True)
    shape = (S, A, S) if outcome_rewards else (S, A)
    rewards = rng.integers(-2, 3, shape).astype(float) if rng.random() < 0.5 else rng.normal(size=shape)
    mask = rng.random((S, A)) < 0.8
    mask[np.arange(S), rng.integers(0, A, S)] = True
    return cr.MDP(P, rewards, mask=mask, terminal=rng.random(S) < terminal, discount=discount)


def dense(mdp):
    """Probabilities (S, A, S), rewards (S, A); terminal states stay, for nothing."""
    form = mdp.transitions.spread_out()
    P, r = np.array(form.probabilities), np.array(form.rewards)
    ended = np.flatnonzero(form.terminal)
    P[ended], r[ended] = np.eye(len(P))[ended][:, None], 0
    return P, r


def feasible(mdp):
    """The feasible actions of each state; action 0 where it is terminal."""
    form = mdp.transitions
    return [
        np.flatnonzero(row) if not over else np.array([0]) for row, over in zip(form.mask, form.terminal, strict=True)
    ]


def policies(mdp):
    """All deterministic policies."""
    yield from (np.array(policy) for policy in itertools.product(*feasible(mdp)))


def follow(mdp, policy):
    """Matrix and rewards of a policy, which has to be feasible."""
    P, r = dense(mdp)
    states = np.arange(len(P))
    form = mdp.transitions
    assert (form.mask[states, policy] | form.terminal).all(), "an infeasible action"
    policy = np.maximum(policy, 0)
    return P[states, policy], r[states, policy]


def gain(matrix, reward):
    """The long-run average: powers of the lazy chain, which has the same limits as the averages of the chain."""
    power = 0.5 * (np.eye(len(matrix)) + matrix)
    for _ in range(60):
        power = power @ power
        power /= power.sum(axis=1, keepdims=True)
    return power @ reward


def best(mdp, worth):
    """The most that any deterministic policy is worth, state by state; `worth` of a matrix and rewards."""
    return np.max([worth(*follow(mdp, policy)) for policy in policies(mdp)], axis=0)
