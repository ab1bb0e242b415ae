"""Plain solvers of small decision processes, in NumPy and with nothing of chainrule, which engines are held to.

All take dense arrays: `probs[s, a, t]` from s to t under a, `rewards[s, a]`, `mask[s, a]` True where a is feasible (None:
everywhere). A state without feasible actions is terminal, worth zero.
"""

import itertools

import numpy as np


def dense(probabilities, successors) -> np.ndarray:
    """Padded successors written out, repeated ones added up."""
    num_states, num_actions, width = np.shape(probabilities)
    found = np.zeros((num_states, num_actions, num_states))
    for s, a, b in itertools.product(range(num_states), range(num_actions), range(width)):
        found[s, a, successors[s][a][b]] += probabilities[s][a][b]
    return found


def evaluate(probs, rewards, policy, discount) -> np.ndarray:
    """Values of a deterministic policy, by solving (I − γ P) v = r; the action of a terminal state is −1."""
    num_states = len(probs)
    matrix, right = np.eye(num_states), np.zeros(num_states)
    for s, action in enumerate(policy):
        if action >= 0:
            matrix[s] -= discount * probs[s, action]
            right[s] = rewards[s, action]
    return np.linalg.solve(matrix, right)


def best_by_enumeration(probs, rewards, discount, mask=None) -> np.ndarray:
    """Optimal values as the best of all deterministic policies, for a discount below 1 and a handful of states."""
    allowed = _mask(rewards, mask)
    choices = [np.flatnonzero(row) if row.any() else [-1] for row in allowed]
    return np.max([evaluate(probs, rewards, policy, discount) for policy in itertools.product(*choices)], axis=0)


def action_values(probs, rewards, values, discount, mask=None) -> np.ndarray:
    """r(s, a) + γ Σ p v, and −inf where a is not feasible."""
    return np.where(_mask(rewards, mask), rewards + discount * probs @ values, -np.inf)


def backup(probs, rewards, values, discount, mask=None) -> np.ndarray:
    """One step of value iteration."""
    best = action_values(probs, rewards, values, discount, mask).max(axis=1)
    return np.where(_mask(rewards, mask).any(axis=1), best, 0.0)


def value_iteration(probs, rewards, discount, mask=None, *, tolerance=1e-12, max_steps=1_000_000):
    """Optimal values by value iteration between MacQueen's bounds; at discount 1 until nothing changes any more.

    Without discounting, values of 0 to begin with are right for processes in which every policy ends, or which pay
    nothing but to the end.
    """
    values = np.zeros(len(probs))
    factor = discount / (1 - discount) if discount < 1 else 0.0
    for _ in range(max_steps):
        image = backup(probs, rewards, values, discount, mask)
        change = image - values
        values = image
        gap = factor * (change.max() - change.min()) if discount < 1 else np.abs(change).max()
        if gap <= tolerance:
            live = _mask(rewards, mask).any(axis=1)
            return values + np.where(live, factor * (change.max() + change.min()) / 2, 0.0)
    raise AssertionError("value iteration did not end")


def policy_iteration(probs, rewards, discount, mask=None) -> np.ndarray:
    """Optimal values by policy iteration, dense and exact; actions are kept until another is better by 1e-9."""
    allowed, states = _mask(rewards, mask), np.arange(len(probs))
    policy = np.where(allowed.any(axis=1), allowed.argmax(axis=1), -1)
    while True:
        values = evaluate(probs, rewards, policy, discount)
        q = action_values(probs, rewards, values, discount, allowed)
        better = q.max(axis=1) > q[states, policy] + 1e-9
        if not better.any():
            return values
        policy = np.where(better, q.argmax(axis=1), policy)


def finite_horizon(probs, rewards, discount, horizon, final=None, mask=None) -> np.ndarray:
    """Optimal values with 0, 1, … horizon steps to go, shape (horizon + 1, S)."""
    found = [np.zeros(len(probs)) if final is None else np.asarray(final, float)]
    for _ in range(horizon):
        found.append(backup(probs, rewards, found[-1], discount, mask))
    return np.array(found)


def _mask(rewards, mask) -> np.ndarray:
    return np.ones(np.shape(rewards), bool) if mask is None else np.asarray(mask, bool)
