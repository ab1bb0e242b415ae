"""Ways to solve a decision process: what to give `mdp.solve(method=…)`.

    v = T v,    (T v)(s) = max_a { r(s, a) + γ Σ_{s'} p(s' | s, a) v(s') }

With a discount below 1 all stop on the same bounds: with d = T v − v, and 0 counted among the d where the process can end,
the optimum is between T v + γ/(1−γ) min d and T v + γ/(1−γ) max d (MacQueen 1966), widened for rounding and for rows that
do not quite sum to one. So answers agree to the tolerance, whatever the method. Without a discount there is only
`PolicyIteration`.
"""

from dataclasses import dataclass

import numpy as np

from ...forms.checks import whole
from . import discounted, linear_programs
from .discounted import Outcome, Report
from .process import Process


@dataclass(frozen=True)
class ValueIteration:
    """Back up all values until the bounds are close: v ← max_a { r + γ P v }.

    Args:
        gauss_seidel: use new values at once, in blocks of consecutive states, forwards and backwards in turn: the `sweeps`
            of the solution. Where actions share their rows (as in inventory control), which are multiplied once for all of
            them, there are none, and this is plain value iteration.
        blocks: into how many blocks the states are cut then, ≥ 1.

    Raises:
        ValueError: less than one block.

    Example:
        >>> import chainrule as cr
        >>> mdp = cr.MDP([[[1.0, 0.0]], [[0.0, 1.0]]], [[0.0], [1.0]], discount=0.5)  # two states that never meet
        >>> solution = mdp.solve(method=cr.ValueIteration(), tolerance=0.05)
        >>> solution.history.round(5).tolist()  # half the width of the bounds: γ times that of the backup before
        [0.5, 0.25, 0.125, 0.0625, 0.03125]
        >>> bool(solution.lower[1] <= 2 <= solution.upper[1])  # 1 / (1 − γ)
        True

    References:
        MacQueen (1966), A modified dynamic programming method for Markovian decision problems. Puterman (1994), Markov
        Decision Processes, §6.3 and, on the bounds, §6.6.
    """

    gauss_seidel: bool = False
    blocks: int = 64

    def __post_init__(self):
        _at_least("blocks", self.blocks, 1)

    def run(self, process: Process, v: np.ndarray, *, tolerance: float, most: int, report: Report) -> Outcome:
        """Solve a discounted process from values v."""
        options = {"tolerance": tolerance, "most": most, "report": report}
        if self.gauss_seidel:
            return discounted.gauss_seidel(process, v, blocks=self.blocks, **options)
        return discounted.value_iteration(process, v, **options)


@dataclass(frozen=True)
class PolicyIteration:
    """Evaluate the policy, v = r_π + γ P_π v, improve it, and so on until nothing improves.

    Args:
        evaluation: "direct", by sparse LU, exact; or "krylov", by BiCGSTAB and GMRES, for processes whose LU fills up.
            Where these get no further, LU takes over if it is cheap; if not, the status is that of too few iterations.

    It always ends: an action is kept until another is better by more than rounding. How many improvements that takes
    hardly depends on the discount; without one, it maximises total rewards.

    Raises:
        ValueError: another evaluation.

    Example:
        >>> import chainrule as cr
        >>> for discount in (0.9, 0.999):  # the best is discount / (1 − discount) from home
        ...     mdp = cr.MDP([[[1, 0], [0, 1]], [[0, 1], [1, 0]]], [0, 1], discount=discount, states=("home", "away"))
        ...     solution = mdp.solve(method=cr.PolicyIteration())
        ...     print(round(solution["home"], 6), solution.iterations)
        9.0 2
        999.0 2

    References:
        Howard (1960), Dynamic Programming and Markov Processes. Puterman (1994), §6.4.
    """

    evaluation: str = "direct"

    def __post_init__(self):
        if self.evaluation not in ("direct", "krylov"):
            raise ValueError(f"evaluation is {self.evaluation!r}; wanted 'direct' or 'krylov'")

    def run(self, process: Process, v: np.ndarray, *, tolerance: float, most: int, report: Report) -> Outcome:
        """Solve a discounted process from values v."""
        return discounted.policy_iteration(
            process, v, tolerance=tolerance, most=most, exactly=self.evaluation == "direct", report=report
        )


@dataclass(frozen=True)
class ModifiedPolicyIteration:
    """Improve the policy, back up under it a few times, and so on: the default.

    Args:
        sweeps: backups under each policy, ≥ 0. None adapts their number to how fast they help, and evaluates exactly where
            they are slow and LU is cheap. Under `jit`, `vmap` and `grad` it is the most there may be: 100 for None.

    A sweep costs one action's share of a backup over all of them. With none this is value iteration, with very many policy
    iteration.

    Raises:
        ValueError: a negative number of sweeps.

    Example:
        >>> import chainrule as cr
        >>> mdp = cr.MDP([[[1.0, 0.0]], [[0.0, 1.0]]], [[0.0], [1.0]], discount=0.5)
        >>> for sweeps in (0, 3):  # bounds shrink by γ ** (1 + sweeps) with each backup over all actions
        ...     found = mdp.solve(method=cr.ModifiedPolicyIteration(sweeps), tolerance=1e-3)
        ...     print(found.iterations, found.sweeps, (found.history[1:] / found.history[:-1]).round(4).tolist())
        9 0 [0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5]
        3 9 [0.0625, 0.0625]

    References:
        Puterman and Shin (1978), Modified policy iteration algorithms for discounted Markov decision problems. Puterman
        (1994), §6.5.
    """

    sweeps: int | None = None

    def __post_init__(self):
        if self.sweeps is not None:
            _at_least("sweeps", self.sweeps, 0)

    def run(self, process: Process, v: np.ndarray, *, tolerance: float, most: int, report: Report) -> Outcome:
        """Solve a discounted process from values v."""
        return discounted.modified_policy_iteration(
            process, v, tolerance=tolerance, most=most, sweeps=self.sweeps, report=report
        )


@dataclass(frozen=True)
class AndersonAcceleration:
    """Value iteration that extrapolates from its last steps, and falls back on plain steps where that does not help.

    Args:
        memory: m ≥ 1, how many steps are remembered.

    The next v is Σ_i w_i T v_i over the last m + 1 of them, with the weights, Σ w = 1, that make |Σ_i w_i (T v_i − v_i)|
    least. It needs fewer backups where values travel far, as on grids, and more where value iteration is fast already.

    Raises:
        ValueError: a memory below one.

    Example:
        >>> import chainrule as cr
        >>> round_trip = [[[0.0, 1.0, 0.0]], [[0.0, 0.0, 1.0]], [[1.0, 0.0, 0.0]]]
        >>> mdp = cr.MDP(round_trip, [[0.0], [0.0], [1.0]], discount=0.9)  # a reward in every third state
        >>> fast, slow = (mdp.solve(method=m) for m in (cr.AndersonAcceleration(), cr.ValueIteration()))
        >>> fast.iterations < 10 < 100 < slow.iterations, round(fast[2], 6)  # 1 / (1 − 0.9³)
        (True, 3.690037)

    References:
        Anderson (1965), Iterative procedures for nonlinear integral equations. Walker and Ni (2011), Anderson acceleration
        for fixed-point iterations.
    """

    memory: int = 5

    def __post_init__(self):
        _at_least("memory", self.memory, 1)

    def run(self, process: Process, v: np.ndarray, *, tolerance: float, most: int, report: Report) -> Outcome:
        """Solve a discounted process from values v."""
        return discounted.anderson(process, v, tolerance=tolerance, most=most, memory=self.memory, report=report)


@dataclass(frozen=True)
class LinearProgram:
    """The least v that no action beats, by HiGHS; the policy that it leaves is evaluated exactly, for the certificate.

        min Σ_s v(s)   such that   v(s) ≥ r(s, a) + γ Σ_{s'} p(s' | s, a) v(s') for all feasible (s, a)

    Constraints that hold with equality are the actions that are best: more than one in a state where they tie. It is
    there to compare with: where there are many states, the other methods are the faster ones.

    Raises:
        RuntimeError: on solving, HiGHS finds no solution; the message has its reason.

    Example:
        >>> import chainrule as cr
        >>> mdp = cr.MDP([[[1, 0], [0, 1]], [[0, 1], [1, 0]]], [[1, 0], [2, 0]], discount=0.5, states=("home", "away"))
        >>> solution = mdp.solve(method=cr.LinearProgram())
        >>> solution.values.round(6).tolist(), solution.best_actions("home")  # 1 / (1 − γ) or γ 2 / (1 − γ)
        ([2.0, 4.0], [0, 1])

    References:
        d'Epenoux (1963), A probabilistic production and inventory problem. Puterman (1994), §6.9. Huangfu and Hall (2018),
        Parallelizing the dual revised simplex method.
    """

    def run(self, process: Process, v: np.ndarray, *, tolerance: float, most: int, report: Report) -> Outcome:
        """Solve a discounted process; v is where the polishing begins."""
        start = linear_programs.discounted_values(process)
        return discounted.policy_iteration(process, start, tolerance=tolerance, most=most, exactly=True, report=report)


def _at_least(name: str, value: int, least: int):
    whole(value, name, least=least, why=f"wanted at least {least}")
