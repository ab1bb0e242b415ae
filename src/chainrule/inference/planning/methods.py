"""Ways to solve a decision process: what to give `mdp.solve(method=…)`."""

from dataclasses import dataclass

import numpy as np

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
        blocks: into how many blocks the states are cut then.

    References:
        Puterman (1994), Markov Decision Processes, §6.3.
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
    """Evaluate the policy, improve it, until nothing improves.

    Args:
        evaluation: "direct", by sparse LU, exact; or "krylov", by BiCGSTAB and GMRES, for processes whose LU fills up.
            Where these get no further, LU takes over if it is cheap; if not, the status is that of too few iterations.

    It always ends: an action is kept until another is better by more than rounding.

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
        sweeps: backups under each policy. None adapts their number to how fast they help, and evaluates exactly where they
            are slow and LU is cheap.

    References:
        Puterman and Shin (1978), Modified policy iteration algorithms for discounted Markov decision problems.
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
        memory: how many steps are remembered.

    It needs fewer backups where values travel far, as on grids, and more where value iteration is fast already.

    References:
        Anderson (1965). Walker and Ni (2011), Anderson acceleration for fixed-point iterations.
    """

    memory: int = 5

    def __post_init__(self):
        _at_least("memory", self.memory, 1)

    def run(self, process: Process, v: np.ndarray, *, tolerance: float, most: int, report: Report) -> Outcome:
        """Solve a discounted process from values v."""
        return discounted.anderson(process, v, tolerance=tolerance, most=most, memory=self.memory, report=report)


@dataclass(frozen=True)
class LinearProgram:
    """The least v with v ≥ r + γ P v, by HiGHS; the policy that it leaves is evaluated exactly, for the certificate.

    References:
        Puterman (1994), §6.9. Huangfu and Hall (2018), Parallelizing the dual revised simplex method.
    """

    def run(self, process: Process, v: np.ndarray, *, tolerance: float, most: int, report: Report) -> Outcome:
        """Solve a discounted process; v is where the polishing begins."""
        start = linear_programs.discounted_values(process)
        return discounted.policy_iteration(process, start, tolerance=tolerance, most=most, exactly=True, report=report)


def _at_least(name: str, value: int, least: int):
    if value < least:
        raise ValueError(f"{name} is {value}; wanted at least {least}")
