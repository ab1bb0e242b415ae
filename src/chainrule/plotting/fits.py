"""Pictures of how a fit went and of what it learnt."""

from collections.abc import Hashable, Mapping, Sequence

import numpy as np
from jaxtyping import ArrayLike, Float
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from .style import GRID, INK, PALETTE, axes_or_new


def history(values: Float[ArrayLike, " iteration"], ax: Axes | None = None) -> Axes:
    """Draw the log-likelihood at each iteration of a fit.

    Args:
        values: one number per iteration.
        ax: where to draw.

    Raises:
        ValueError: values that are not a vector.
    """
    values = np.asarray(values)
    if values.ndim != 1:
        raise ValueError(f"values must have shape (iteration,), got {values.shape}")
    ax = axes_or_new(ax)
    ax.plot(np.arange(len(values)), values, color=PALETTE[0], linewidth=1.8, marker="o" if len(values) <= 40 else "")
    ax.set_xlabel("iteration")
    ax.set_ylabel("log-likelihood")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.ticklabel_format(axis="y", useOffset=False)
    ax.grid(axis="y", color=GRID, linewidth=0.8)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def weights(named: Mapping[Hashable, float] | Sequence[tuple[Hashable, float]], ax: Axes | None = None) -> Axes:
    """Draw named weights as bars from zero, the first on top: positive ones in blue, negative ones in orange.

    Args:
        named: name → weight, or pairs (name, weight), in the order in which they shall stand.
        ax: where to draw.

    Raises:
        ValueError: no weights, or one that is not a finite number; the message names it.

    Example:
        >>> import chainrule as cr
        >>> ax = cr.plotting.weights({"suffix=ing": 2.5, "after=of": -1.0})
        >>> [label.get_text() for label in ax.get_yticklabels()]
        ['suffix=ing', 'after=of']
    """
    pairs = list(named.items() if isinstance(named, Mapping) else named)
    if not pairs:
        raise ValueError("there are no weights to draw; wanted at least one")
    for name, value in pairs:
        if np.ndim(value) or not np.isreal(value) or not np.isfinite(value):
            raise ValueError(f"the weight of {name!r} is {value!r}; wanted a finite number")
    values = np.array([value for _, value in pairs], float)
    ax = axes_or_new(ax)
    ax.barh(np.arange(len(pairs)), values, height=0.72, color=[PALETTE[int(value < 0)] for value in values])
    ax.axvline(0, color=INK, linewidth=0.8)
    ax.set_yticks(range(len(pairs)), [str(name) for name, _ in pairs])
    ax.set_ylim(len(pairs) - 0.4, -0.6)
    ax.set_xlabel("weight")
    ax.grid(axis="x", color=GRID, linewidth=0.8)
    ax.set_axisbelow(True)
    ax.tick_params(axis="y", length=0)
    ax.spines[["top", "right", "left"]].set_visible(False)
    return ax
