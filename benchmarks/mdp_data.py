"""The decision processes of the MDP benchmark, as NumPy arrays, with what is known about their solutions.

All are discounted by 0.99 and come from `numpy.random.default_rng(0)`, drawn in the order in which they are written here.
Every problem is padded: `successors[s, a, b]` is reached with `probabilities[s, a, b]`; repeated successors add up, and
padding has probability zero. dense1000 has `successors=None` and probabilities of shape (S, A, S). A terminal state is
also written as a self-loop that pays nothing, which is what libraries without terminal states are given.

| problem | what it is |
|---|---|
| garnet10k, garnet1m | random sparse: 10 000 states, 10 actions, 20 successors; 1 000 000, 4, 8 |
| dense1000 | random dense: 1000 states, 50 actions |
| grid100, grid1000 | moves N E S W in a square maze, 0.8 as meant, 0.1 to either side; −1 a step until the last cell |
| bus10k | replacement of an engine by its mileage, in 10 000 bins (Rust 1987) |
| inventory500 | stock of 0 … 500, orders with a fixed cost, Poisson demand, lost sales |
| variants | 1000 random processes of 500 states, 4 actions, 8 successors that share the successors |
"""

import itertools
from functools import partial
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from scipy.stats import poisson

DISCOUNT = 0.99


class Problem(NamedTuple):
    """A decision process; see the module."""

    name: str
    probabilities: np.ndarray
    rewards: np.ndarray
    successors: np.ndarray | None = None
    mask: np.ndarray | None = None
    terminal: np.ndarray | None = None
    discount: float = DISCOUNT

    @property
    def feasible(self) -> np.ndarray:
        """Flat indices s·A + a of the feasible pairs."""
        return np.arange(self.rewards.size) if self.mask is None else np.flatnonzero(self.mask)

    @property
    def num_bytes(self) -> int:
        """Bytes of all arrays."""
        return sum(field.nbytes for field in self if isinstance(field, np.ndarray))


class Known(NamedTuple):
    """Optimal values, on which independent solvers agree to about 1e-10, unless said otherwise."""

    first: float  # of state 0
    mean: float
    within: float = 1e-9


KNOWN = {
    "garnet10k": Known(91.2071632067, 91.1462282187),
    "garnet1m": Known(81.1459717168, 81.2186889214),
    "dense1000": Known(98.0547583944, 98.0569104463),
    "grid100": Known(-91.3435473528, -60.4209270610),
    "grid1000": Known(-99.9999995, -89.4082324, within=5e-7),  # by the plain solver alone
    "bus10k": Known(-13.5118702905, -22.4868084458),
    "inventory500": Known(1460.9142029087, 1648.2453845838),
}
REPLACE_FROM = 76  # bus10k: replace at this bin and later, keep before
ORDER_UP_TO, REORDER_AT = 84, 15  # inventory500: order up to 84 when the stock is 15 or less, else nothing


def garnet(name: str, num_states: int, num_actions: int, num_successors: int) -> Problem:
    """Draw successors, then exponentials to be normalised, then uniform rewards."""
    rng = np.random.default_rng(0)
    shape = (num_states, num_actions, num_successors)
    successors = rng.integers(0, num_states, shape, dtype=np.int32)
    probs = rng.exponential(size=shape)
    probs /= probs.sum(axis=2, keepdims=True)
    return Problem(name, probs, rng.uniform(size=shape[:2]), successors)


def dense(name: str, num_states: int, num_actions: int) -> Problem:
    """Draw exponentials to be normalised, then uniform rewards."""
    rng = np.random.default_rng(0)
    probs = rng.exponential(size=(num_states, num_actions, num_states))
    probs /= probs.sum(axis=2, keepdims=True)
    return Problem(name, probs, rng.uniform(size=(num_states, num_actions)))


def grid(name: str, side: int) -> Problem:
    """Make a square maze; bumping into a wall or the border stays in place."""
    walls = np.random.default_rng(0).uniform(size=(side, side)) < 0.1
    walls[0, 0] = walls[-1, -1] = False
    row, column = np.divmod(np.arange(side * side), side)
    reached = []
    for down, right in ((-1, 0), (0, 1), (1, 0), (0, -1)):  # N E S W
        to_row, to_column = row + down, column + right
        inside = (to_row >= 0) & (to_row < side) & (to_column >= 0) & (to_column < side)
        target = np.where(inside, to_row * side + to_column, 0)
        reached.append(np.where(inside & ~walls.ravel()[target], target, row * side + column))
    moves = np.stack(reached, axis=1).astype(np.int32)
    # action a ends where it is meant, or to its right or left, which are the next and the previous direction
    successors = np.stack([moves, np.roll(moves, -1, axis=1), np.roll(moves, 1, axis=1)], axis=2)
    terminal = walls.ravel().copy()
    terminal[-1] = True
    successors[terminal] = np.flatnonzero(terminal)[:, None, None]
    probs = np.broadcast_to([0.8, 0.1, 0.1], successors.shape).copy()
    rewards = np.where(terminal[:, None], 0.0, -np.ones(4))
    return Problem(name, probs, rewards, successors, terminal=terminal)


def bus(name: str, num_bins: int) -> Problem:
    """Actions keep (pay for the mileage) and replace (pay 9, go on from bin 0)."""
    bins = np.arange(num_bins)
    steps = np.arange(3)
    keep = np.minimum(bins[:, None] + steps, num_bins - 1)
    successors = np.stack([keep, np.broadcast_to(steps, keep.shape)], axis=1).astype(np.int32)
    probs = np.broadcast_to([0.35, 0.62, 0.03], successors.shape).copy()
    rewards = np.stack([-0.003 * bins, np.full(num_bins, -9.0)], axis=1)
    return Problem(name, probs, rewards, successors)


def inventory(name: str, capacity: int) -> Problem:
    """Order a in stock s, sell what is asked for out of s + a: 2 a piece, 1 to buy, 8 an order, 0.05 to hold."""
    most = int(poisson.isf(1e-12, 20))
    demand = np.arange(most + 1)
    chances = poisson.pmf(demand, 20)
    chances[-1] += poisson.sf(most, 20)
    chances /= chances.sum()
    levels = np.arange(capacity + 1)  # after ordering
    left = np.maximum(levels[:, None] - demand, 0)
    sales = np.minimum(levels[:, None], demand) @ chances
    stock, order = np.divmod(np.arange((capacity + 1) ** 2).reshape(capacity + 1, -1), capacity + 1)
    mask = stock + order <= capacity
    level = np.where(mask, stock + order, 0)
    rewards = np.where(mask, 2 * sales[level] - order - 8.0 * (order > 0) - 0.05 * level, 0.0)
    probs = np.where(mask[:, :, None], chances, 0.0)
    return Problem(name, probs, rewards, left[level].astype(np.int32), mask)


PROBLEMS = {
    "garnet10k": partial(garnet, num_states=10_000, num_actions=10, num_successors=20),
    "garnet1m": partial(garnet, num_states=1_000_000, num_actions=4, num_successors=8),
    "dense1000": partial(dense, num_states=1000, num_actions=50),
    "grid100": partial(grid, side=100),
    "grid1000": partial(grid, side=1000),
    "bus10k": partial(bus, num_bins=10_000),
    "inventory500": partial(inventory, capacity=500),
}


def load(name: str) -> Problem:
    """Make a problem."""
    return PROBLEMS[name](name)


def variants(count: int = 1000) -> list[Problem]:
    """Draw processes that differ in their probabilities and rewards; the first is a garnet as any other."""
    first = garnet("variants", 500, 4, 8)
    rng = np.random.default_rng(1)
    found = [first]
    for _ in range(count - 1):
        probs = rng.exponential(size=first.probabilities.shape)
        probs /= probs.sum(axis=2, keepdims=True)
        found.append(first._replace(probabilities=probs, rewards=rng.uniform(size=first.rewards.shape)))
    return found


# What others want


def pairs(problem: Problem) -> tuple[np.ndarray, sp.csr_matrix, np.ndarray, np.ndarray]:
    """Rewards, transition rows, states and actions of the feasible pairs: QuantEcon's state–action pair form."""
    rows = problem.feasible
    num_states, num_actions = problem.rewards.shape
    probs = problem.probabilities.reshape(-1, problem.probabilities.shape[2])[rows]
    if problem.successors is None:
        matrix = sp.csr_matrix(probs)
    else:
        columns = problem.successors.reshape(-1, probs.shape[1])[rows]
        starts = np.arange(len(rows) + 1) * probs.shape[1]
        matrix = sp.csr_matrix((probs.ravel(), columns.ravel(), starts), shape=(len(rows), num_states))
        matrix.sum_duplicates()
        matrix.eliminate_zeros()
    states, actions = np.divmod(rows, num_actions)
    return problem.rewards.ravel()[rows], matrix, states, actions


def lists(problem: Problem) -> dict[str, list]:
    """Nested lists of rewards, probabilities and columns, by state and feasible action: mdpsolver's sparse form."""
    rewards, matrix, states, _ = pairs(problem)
    ends = np.cumsum(np.bincount(states, minlength=matrix.shape[1]))[:-1]
    row_of_state = np.split(np.arange(len(states)), ends)
    values, columns, starts = matrix.data.tolist(), matrix.indices.tolist(), matrix.indptr.tolist()
    cut = [slice(a, b) for a, b in itertools.pairwise(starts)]
    reward_of = rewards.tolist()
    return {
        "rewards": [[reward_of[row] for row in rows] for rows in row_of_state],
        "tranMatProbs": [[values[cut[row]] for row in rows] for rows in row_of_state],
        "tranMatColumns": [[columns[cut[row]] for row in rows] for rows in row_of_state],
    }
