"""Pictures of series, of posteriors over time and of decoded paths."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import ArrayLike, Float, Int
from matplotlib.axes import Axes

from .style import GREY, PALETTE, axes_or_new


def trellis(
    marginals: Float[ArrayLike, "time state"],
    path: Int[ArrayLike, " time"] | None = None,
    *,
    states: Sequence | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw posterior state probabilities over time as a heat map, with a decoded path over it.

    Args:
        marginals: p(z_t = k | everything seen), shape (T, K).
        path: state index at each time, shape (T,), for example the Viterbi path.
        states: names of the K states.
        ax: where to draw.

    Raises:
        ValueError: marginals that are not a matrix, a path that does not fit, or too few or many names.
    """
    probs = np.asarray(marginals)
    if probs.ndim != 2:
        raise ValueError(f"marginals must have shape (time, state), got {probs.shape}")
    time, num_states = probs.shape
    names = _state_names(states, num_states)
    steps = None if path is None else _check_path(path, time, num_states)
    ax = axes_or_new(ax)
    image = ax.imshow(probs.T, aspect="auto", cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    if time <= 60:  # thin gaps, as long as they do not cover the cells
        ax.set_xticks(np.arange(time + 1) - 0.5, minor=True)
        ax.grid(which="minor", axis="x", color="white", linewidth=0.8)
    ax.set_yticks(np.arange(num_states + 1) - 0.5, minor=True)
    ax.grid(which="minor", axis="y", color="white", linewidth=2)
    ax.tick_params(which="both", length=0)
    if steps is not None:
        outlined = {"marker": "o", "markeredgecolor": "white", "markersize": 6} if time <= 60 else {}
        ax.plot(steps, color=PALETTE[1], linewidth=1.8, label="decoded path", **outlined)
        ax.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), frameon=False)
    ax.set_yticks(range(num_states), names)
    ax.set_xlabel("time")
    ax.spines[:].set_visible(False)
    colour_bar = ax.figure.colorbar(image, ax=ax, label="posterior probability", pad=0.02, fraction=0.05)
    colour_bar.outline.set_visible(False)
    return ax


def series(
    values: Float[ArrayLike, " time"],
    path: Int[ArrayLike, " time"],
    means: Float[ArrayLike, " state"],
    *,
    states: Sequence | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw an observed series and, over it, the mean of the decoded state at each time, coloured by state.

    Args:
        values: the series, shape (T,); NaN leaves a gap.
        path: state index at each time, shape (T,).
        means: mean of each state, shape (K,).
        states: names of the K states.
        ax: where to draw.

    Raises:
        ValueError: shapes that do not fit, a path outside the states, or too few or many names.
    """
    values, means = np.asarray(values), np.asarray(means)
    if values.ndim != 1 or means.ndim != 1:
        raise ValueError(f"values and means must be vectors, got shapes {values.shape} and {means.shape}")
    steps = _check_path(path, len(values), len(means))
    names = _state_names(states, len(means))
    ax = axes_or_new(ax)
    ax.plot(values, color=GREY, linewidth=0.9, marker=".", markersize=3, zorder=1)
    starts = np.flatnonzero(np.diff(steps, prepend=-1))
    edges = np.append(starts, len(steps)) - 0.5
    levels = means[steps[starts]]
    ax.vlines(edges[1:-1], levels[:-1], levels[1:], color=GREY, linewidth=0.9, zorder=2)
    for state in np.unique(steps):
        runs = steps[starts] == state
        colour = PALETTE[state % len(PALETTE)]
        ax.hlines(
            levels[runs], edges[:-1][runs], edges[1:][runs], color=colour, linewidth=3, zorder=3, label=names[state]
        )
    ax.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=6, frameon=False)
    ax.set_xlabel("time")
    ax.margins(x=0.01)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def _state_names(states, num_states) -> list[str]:
    names = [str(state) for state in (range(num_states) if states is None else states)]
    if len(names) != num_states:
        raise ValueError(f"got {len(names)} names for {num_states} states")
    return names


def _check_path(path, time, num_states) -> np.ndarray:
    steps = np.asarray(path)
    if steps.shape != (time,) or not np.issubdtype(steps.dtype, np.integer):
        raise ValueError(f"path must be {time} state indices, got shape {steps.shape} of {steps.dtype}")
    if steps.min() < 0 or steps.max() >= num_states:
        raise ValueError(
            f"path goes from {steps.min()} to {steps.max()}, outside the {num_states} states 0 … {num_states - 1}"
        )
    return steps
