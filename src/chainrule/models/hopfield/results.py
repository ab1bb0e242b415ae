"""What a recall returns."""

import enum
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ...inference.recall import Walk
from .checks import check_signs


class RecallStatus(enum.Enum):
    """How a recall ended; each member reads as advice."""

    FIXED_POINT = "every probe reached a state that its fields hold in place"
    CYCLE = "some probes alternate between two states: update one unit after the other, synchronous=False"
    MAX_SWEEPS = "some probes still changed in the last sweep: allow more, max_sweeps=…"

    def __repr__(self):
        return f"{type(self).__name__}.{self.name}"


class Recall(eqx.Module):
    """Where the probes ended.

    Attributes:
        states: shape (N,), or (probe, N).
        sweeps: for each probe, how many sweeps changed it.
        settled: for each probe, whether it is at a fixed point.
        cycling: for each probe, whether it alternates between two states.
        energies: the energy before the first sweep and after each, shape (max_sweeps + 1,) or (max_sweeps + 1, probe);
            after the last sweep that was needed it stays what it is.
    """

    states: Float[Array, "*probe unit"]
    sweeps: Int[Array, "*probe"]
    settled: Bool[Array, "*probe"]
    cycling: Bool[Array, "*probe"]
    energies: Float[Array, "sweep *probe"]

    @property
    def status(self) -> RecallStatus:
        """The worst that happened to any probe."""
        if np.asarray(self.settled).all():
            return RecallStatus.FIXED_POINT
        loose = ~(np.asarray(self.settled) | np.asarray(self.cycling))
        return RecallStatus.MAX_SWEEPS if loose.any() else RecallStatus.CYCLE

    @property
    def energy(self) -> Float[Array, "*probe"]:
        """The energy of the states."""
        return self.energies[-1]

    def overlaps(self, patterns) -> Float[Array, "*probe pattern"]:
        """ξ·s/N with each pattern: 1 where it was recalled, −1 where its mirror image was."""
        return _overlaps(self.states, check_signs(patterns, "patterns", size=self.states.shape[-1]))

    def __repr__(self):
        return f"Recall({int(np.prod(self.states.shape[:-1]))} probes, {self.status.name})"


@jax.jit
def _overlaps(states, patterns):
    return states @ jnp.asarray(patterns).astype(states.dtype).T / states.shape[-1]


def as_columns(states, dtype) -> Any:
    """States (*probe, unit) as [unit, probe]: the units one after the other, all probes beside each other."""
    return jnp.asarray(states).astype(dtype).reshape(-1, states.shape[-1]).T


def result(walk: Walk, batch: tuple[int, ...]) -> Recall:
    """The engine's answer in the shape of the probes."""
    return Recall(
        walk.states.T.reshape(*batch, -1),
        walk.sweeps.reshape(batch),
        walk.settled.reshape(batch),
        walk.cycling.reshape(batch),
        walk.energies.reshape(-1, *batch),
    )
