"""The distribution of the total reward of a finite horizon: conditional value at risk, exactly.

With the accumulated reward as a part of the state, and a threshold η, the mean of the worst share α of returns R is

    CVaR_α(R) = max_η { η − E[(η − R)⁺] / α },

and for one η the best policy comes from dynamic programming over steps, states and accumulated rewards. As a function of η
the best value is not concave, but its slope is between 1 − 1/α and 1, and the maximum is at one of the returns that are
possible: branch and bound needs to look at few of them.

References:
    Rockafellar and Uryasev (2000), Optimization of conditional value-at-risk. Bäuerle and Ott (2011), Markov decision
    processes with average-value-at-risk criteria.
"""

from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

from ...forms.transitions import Transitions

MOST_OUTCOMES = 5_000_000  # of all steps together: about 200 MB
_NUMBERS = 20_000_000  # values held at a time


class Step(NamedTuple):
    """Nodes of a step, by state and accumulated reward, and what follows.

    Attributes:
        states, accumulated: of each node, (nodes,).
        nodes, actions: which node and action each pair is, in order of nodes, (pairs,).
        rows: distributions over the nodes of the next step, CSR, (pairs, next nodes).
    """

    states: np.ndarray
    accumulated: np.ndarray
    nodes: np.ndarray
    actions: np.ndarray
    rows: Any


class Tree(NamedTuple):
    """All steps, the last without pairs; by how much accumulated rewards may be off for having been merged."""

    steps: list[Step]
    error: float


class Tail(NamedTuple):
    """The best policy for the tail.

    Attributes:
        worth: the CVaR it has; no policy has more than `upper`.
        threshold: η.
        values: of the nodes of the first step, (nodes,), η − E[(η − R)⁺] / α.
        action_values: of the pairs of the first step.
        choice: for each step the action in each node, −1 where the process has ended.
        returns, probabilities: the distribution of the return under the policy.
        evaluations: thresholds looked at.
    """

    worth: float
    upper: float
    threshold: float
    values: np.ndarray
    action_values: np.ndarray
    choice: list[np.ndarray]
    returns: np.ndarray
    probabilities: np.ndarray
    evaluations: int


def grow(form: Transitions, starts: np.ndarray, horizon: int, final: np.ndarray | None = None) -> Tree:
    """Enumerate what can be reached from the start states in `horizon` steps.

    Args:
        form: the process.
        starts: the states to begin in.
        horizon: steps.
        final: what states are worth after the last step, (S,), discounted like a reward then.

    Raises:
        ValueError: more than `MOST_OUTCOMES` outcomes.
    """
    form = form.spread_out()
    going = np.asarray(form.mask) & ~np.asarray(form.terminal)[:, None]
    probs, discount = np.asarray(form.probabilities).astype(np.float64), float(form.discount)
    paid = form.outcome_rewards
    paid = np.asarray(form.rewards)[..., None] if paid is None else np.asarray(paid)
    paid = np.broadcast_to(paid, probs.shape).astype(np.float64)
    successors = (
        np.broadcast_to(np.arange(form.num_states), probs.shape) if form.successors is None else form.successors
    )
    possible = (probs > 0) & going[..., None]
    last = np.zeros(form.num_states) if final is None else discount**horizon * final
    whole = sum(discount**t for t in range(horizon)) * np.abs(paid[possible]).max(initial=0) + np.abs(last).max()
    quantum = 1e-13 * whole if whole > 0 else 1.0
    branching = np.where(going, possible.sum(axis=2), 0).sum(axis=1)
    states, accumulated = np.asarray(starts), np.zeros(len(starts))
    steps: list[Step] = []
    total = 0
    for t in range(horizon):
        total += int(branching[states].sum())
        if total > MOST_OUTCOMES:
            raise ValueError(
                f"the tree of returns has {total:,} outcomes by step {t + 1} of {horizon}, more than {MOST_OUTCOMES:,}: "
                "shorten the horizon, or round the rewards so that more of their sums are equal"
            )
        nodes, actions = np.nonzero(going[states])
        pair, place = np.nonzero(possible[states[nodes], actions])
        where = (states[nodes[pair]], actions[pair], place)
        after = accumulated[nodes[pair]] + discount**t * paid[where]
        ended = np.flatnonzero(~going[states].any(axis=1))
        # what has ended is carried along as it is
        later = np.concatenate([np.asarray(successors)[where], states[ended]])
        after = np.concatenate([after, accumulated[ended]])
        keys = np.stack([later.astype(np.int64), np.round(after / quantum).astype(np.int64)], axis=1)
        _, first, number = np.unique(keys, axis=0, return_index=True, return_inverse=True)
        number = number.reshape(-1)
        pairs = np.concatenate([pair, len(nodes) + np.arange(len(ended))])
        weight = np.concatenate([probs[where], np.ones(len(ended))])
        rows: Any = sparse.csr_array((weight, (pairs, number)), shape=(len(nodes) + len(ended), len(first)))
        rows = sparse.diags_array(1 / rows.sum(axis=1)) @ rows
        nodes, actions = np.concatenate([nodes, ended]), np.concatenate([actions, np.full(len(ended), -1)])
        order = np.argsort(nodes, kind="stable")
        steps.append(Step(states, accumulated, nodes[order], actions[order], rows[order]))
        states, accumulated = later[first], after[first]
    none = np.zeros(0, int)
    steps.append(Step(states, accumulated + last[states], none, none, None))
    return Tree(steps, horizon * quantum)


def best_tail(tree: Tree, initial: np.ndarray, level: float, *, tolerance: float, most: int) -> Tail:
    """Find the policy whose worst share `level` of returns is best on average.

    Args:
        tree: from `grow`.
        initial: the probability of each node of the first step.
        level: α in (0, 1].
        tolerance: how far from the best it may be.
        most: thresholds at most.
    """
    atoms = np.unique(tree.steps[-1].accumulated)
    widest = max(len(step.states) for step in tree.steps) + max(len(step.nodes) for step in tree.steps)
    batch = max(2, min(32, _NUMBERS // widest, most))  # both ends at least, between which the others are
    known = np.full(len(atoms), np.nan)
    todo = np.unique(np.linspace(0, len(atoms) - 1, min(batch, len(atoms))).round().astype(int))
    while True:
        known[todo] = atoms[todo] + initial @ _shortfall(tree, atoms[todo])[0] / level
        seen = np.flatnonzero(~np.isnan(known))
        best = int(seen[np.argmax(known[seen])])
        left, right = seen[:-1], seen[1:]
        # from the left f rises by at most 1, from the right by at most 1/α − 1: where the two meet is the most it can be
        steep = 1 / level - 1
        meet = (known[right] - known[left] + atoms[left] + steep * atoms[right]) * level
        ceiling = known[left] + meet - atoms[left]
        hopeful = np.flatnonzero((right - left > 1) & (ceiling > known[best] + tolerance))
        open_ = np.flatnonzero((right - left > 1) & (ceiling > known[best]))
        if len(hopeful) == 0 or len(seen) >= most:
            upper = max(known[best], ceiling[open_].max(initial=-np.inf))
            break
        hopeful = hopeful[np.argsort(-ceiling[hopeful], kind="stable")[: min(batch, most - len(seen))]]
        near = np.searchsorted(atoms, meet[hopeful])
        todo = np.unique(np.clip(near, left[hopeful] + 1, right[hopeful] - 1))
    threshold = float(atoms[best])
    loss, choice, first = _shortfall(tree, atoms[best : best + 1], choose=True)
    returns, probabilities = _returns(tree, initial, choice)
    labels = [np.append(step.actions, -1)[chosen] for step, chosen in zip(tree.steps[:-1], choice, strict=True)]
    return Tail(
        worth=float(known[best]),
        upper=float(upper),
        threshold=threshold,
        values=threshold + loss[:, 0] / level,
        action_values=threshold + first[:, 0] / level,
        choice=labels,
        returns=returns,
        probabilities=probabilities,
        evaluations=int((~np.isnan(known)).sum()),
    )


def _shortfall(tree: Tree, thresholds: np.ndarray, *, choose: bool = False) -> Any:
    """The greatest −E[(η − R)⁺] from the nodes of the first step, (nodes, thresholds); pairs chosen; values of pairs."""
    value = -np.maximum(thresholds - tree.steps[-1].accumulated[:, None], 0)
    choice, pairs = [], value
    for step in reversed(tree.steps[:-1]):
        pairs = step.rows @ value
        first = np.flatnonzero(np.diff(step.nodes, prepend=-1))
        value = np.maximum.reduceat(pairs, first, axis=0)
        if choose:
            hits = np.flatnonzero(pairs[:, 0] >= value[step.nodes, 0])
            choice.append(hits[np.unique(step.nodes[hits], return_index=True)[1]])
    return value, choice[::-1], pairs


def _returns(tree: Tree, initial: np.ndarray, choice: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The distribution of the return under a policy."""
    mass = initial
    for step, pairs in zip(tree.steps[:-1], choice, strict=True):
        mass = mass @ step.rows[pairs]
    atoms, number = np.unique(tree.steps[-1].accumulated, return_inverse=True)
    mass = np.bincount(number, mass)
    return atoms[mass > 0], mass[mass > 0]


def tail_mean(returns: np.ndarray, probabilities: np.ndarray, level: float) -> float:
    """The mean of the worst share `level` of a distribution."""
    order = np.argsort(returns)
    before = np.cumsum(probabilities[order]) - probabilities[order]
    taken = np.minimum(probabilities[order], np.maximum(level - before, 0))
    return float(taken @ returns[order] / level)
