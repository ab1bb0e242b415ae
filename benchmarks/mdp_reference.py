"""The plain solver that the MDP benchmark is held to: NumPy and SciPy, float64, nothing of chainrule.

    python benchmarks/mdp_reference.py                 # every problem against what is known about it; some minutes
    python benchmarks/mdp_reference.py bus10k grid100

Value iteration v ← T v, where (T v)(s) = max_a r(s, a) + γ Σ p(s' | s, a) v(s'). With d = T v − v, MacQueen (1967) and
Porteus (1971) bound the optimal values from both sides,

    T v + γ/(1−γ) · min d  ≤  v*  ≤  T v + γ/(1−γ) · max d,

and the middle of the two is returned once they are near enough. At absorbing states that pay nothing v = 0 = d, so that
they need no special care.
"""

import sys
from typing import NamedTuple

import mdp_data
import numpy as np


class Bounds(NamedTuple):
    """Two sides of the optimal values, the actions of the last step, and the number of steps."""

    lower: np.ndarray
    upper: np.ndarray
    policy: np.ndarray
    steps: int

    @property
    def values(self) -> np.ndarray:
        return (self.lower + self.upper) / 2


class Bellman:
    """The operator T of a problem, and what it says about given values."""

    def __init__(self, problem: mdp_data.Problem):
        self.rewards, self.matrix, self.states, self.actions = mdp_data.pairs(problem)
        self.starts = np.flatnonzero(np.diff(self.states, prepend=-1))
        self.discount = problem.discount

    def action_values(self, values: np.ndarray) -> np.ndarray:
        """Of the feasible pairs, state after state."""
        return self.rewards + self.discount * (self.matrix @ values)

    def __call__(self, values: np.ndarray) -> np.ndarray:
        return np.maximum.reduceat(self.action_values(values), self.starts)

    def greedy(self, values: np.ndarray, slack: float = 0.0) -> np.ndarray:
        """The first action of each state within `slack` of the best."""
        worth = self.action_values(values)
        best = np.maximum.reduceat(worth, self.starts)
        good = np.flatnonzero(worth >= best[self.states] - slack)
        _, first = np.unique(self.states[good], return_index=True)
        return self.actions[good[first]]

    def error_bound(self, values: np.ndarray, steps: int = 100) -> float:
        """How far values can be from optimal: max|v* − v| ≤ max|Tᵏ v − v| / (1 − γᵏ), the best of k = 1 … steps.

        The first of these is up to 1/(1−γ) too large, which matters where the process ends: a shift of all values that
        brings them nearer to the optimum makes a new residual beside the states that are worth zero and stay so.
        """
        image, best = values, np.inf
        for k in range(1, steps + 1):
            image = self(image)
            best = min(best, float(np.abs(image - values).max() / (1 - self.discount**k)))
            if best < 1e-9:
                break
        return best


def solve(problem: mdp_data.Problem, tolerance: float = 1e-9, max_steps: int = 100_000) -> Bounds:
    """Iterate until upper − lower ≤ tolerance."""
    bellman = Bellman(problem)
    factor = problem.discount / (1 - problem.discount)
    values = np.zeros(len(bellman.starts))
    for step in range(1, max_steps + 1):
        image = bellman(values)
        low, high = (factor * limit for limit in ((image - values).min(), (image - values).max()))
        values = image
        if high - low <= tolerance:
            return Bounds(values + low, values + high, bellman.greedy(values, 1e-9), step)
    raise RuntimeError(f"{problem.name}: not within {tolerance} after {max_steps} steps")


def check(name: str) -> str:
    """Solve a problem, hold it to what is known, and tell."""
    problem = mdp_data.load(name)
    tolerance = 1e-6 if name == "grid1000" else 1e-9
    found = solve(problem, tolerance)
    line = f"{name}: v[0] {found.values[0]:.10f}, mean {found.values.mean():.10f}, {found.steps} steps"
    known = mdp_data.KNOWN.get(name)
    if known:
        errors = abs(found.values[0] - known.first), abs(found.values.mean() - known.mean)
        assert max(errors) < 2 * tolerance, f"{line}; known are {known}"
        line += f", off by {errors[0]:.1e} and {errors[1]:.1e}"
    if name == "bus10k":
        np.testing.assert_array_equal(found.policy, np.arange(10_000) >= mdp_data.REPLACE_FROM)
    if name == "inventory500":
        stock = np.arange(501)
        orders = np.where(stock <= mdp_data.REORDER_AT, mdp_data.ORDER_UP_TO - stock, 0)
        np.testing.assert_array_equal(found.policy, orders)
    return line


if __name__ == "__main__":
    for name in sys.argv[1:] or mdp_data.PROBLEMS:
        print(check(name), flush=True)
