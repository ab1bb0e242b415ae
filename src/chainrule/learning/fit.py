"""The result of fitting, the same for every model and method."""

import enum
from typing import Any

import equinox as eqx
import numpy as np


class Status(enum.Enum):
    """How a fit ended; each member reads as advice."""

    CONVERGED = "converged: the objective stopped improving within the tolerance"
    MAX_ITERATIONS = "stopped at max_iterations before converging: allow more, or loosen the tolerance"
    STOPPED_EARLY = "no epoch scored better for as long as `patience` allows: the model is that of the best one"
    DEGENERATE = (
        "ended with a state that explains next to nothing, or with a variance at its floor: use fewer states, a prior, "
        "or more restarts"
    )
    ROLLED_BACK = (
        "diverged on the way, went back to the last good parameters and on with shorter steps: a lower learning rate, more "
        "steps of the chains or a penalty would spare the detour"
    )
    DIVERGED = "the objective became NaN or infinite: lower the learning rate, add a prior, or check the data"
    STALLED = (
        "stopped where no step along the gradient improves the objective: check the derivatives of a custom emission, "
        "start elsewhere, or use Adam"
    )
    IMPOSSIBLE = "the first model gives some sequence probability zero: allow more transitions or start elsewhere"

    def __repr__(self):
        return f"{type(self).__name__}.{self.name}"


def room(iterations: int) -> int:
    """Entries of a history of so many iterations and their start: few sizes, since each is compiled anew."""
    return max(512, 1 << iterations.bit_length())


class Fit(eqx.Module):
    """A fitted model and how it was reached.

    Attributes:
        model: the fitted model.
        status: how the fit ended.
        iterations: how many steps were taken.
        log_prob: log-likelihood of the data under `model`.
        history: objective (log-likelihood plus log-prior) at each step, from the first model to the fitted one.
        restart_objectives: where each restart ended; the best of them is `model`.
        degenerate: for each state, whether it was left without data or its variance met the floor.
        num_parameters: how many numbers were free.
        num_observations: how many steps were fitted.
        validation: the score after each epoch, where a `Validation` looked on; `model` is that of the best.
    """

    model: Any
    status: Status = eqx.field(static=True)
    iterations: int = eqx.field(static=True)
    log_prob: float = eqx.field(static=True)
    history: np.ndarray
    restart_objectives: np.ndarray
    degenerate: np.ndarray
    num_parameters: int = eqx.field(static=True)
    num_observations: int = eqx.field(static=True)
    validation: np.ndarray | None = None

    @property
    def aic(self) -> float:
        """Akaike's criterion, 2·parameters − 2·log-likelihood: smaller is better (Akaike 1974)."""
        return 2 * self.num_parameters - 2 * self.log_prob

    @property
    def bic(self) -> float:
        """Schwarz's criterion, parameters·log(steps) − 2·log-likelihood: smaller is better (Schwarz 1978)."""
        return self.num_parameters * float(np.log(self.num_observations)) - 2 * self.log_prob

    def __repr__(self):
        steps = f"{self.iterations} iterations"
        return f"Fit({self.model!r}, {self.status.name}, log_prob={self.log_prob:.6g}, {steps})"
