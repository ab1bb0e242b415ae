"""Pictures of decision processes whose states lie on a grid: values as colours, actions as arrows.

Cell (0, 0) is at the top left, rows go down. A cell whose value is NaN is a wall.
"""

from collections.abc import Hashable, Sequence

import numpy as np
from jaxtyping import ArrayLike, Bool, Float, Int
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap

from .style import GREY, INK, axes_or_new

_MOST_NUMBERS = 150  # cells beyond this many are drawn without their values
# light enough everywhere for dark arrows on top of it
_COLOURS = LinearSegmentedColormap.from_list("values", ["#FDF6E3", "#CFE5D6", "#8CC5D2", "#4C9CC9"], bad=INK)

# (row step, column step) of the names that grid worlds use, in lower case
_STEPS = {
    (-1, 0): ("up", "north", "n", "↑"),
    (0, 1): ("right", "east", "e", "→"),
    (1, 0): ("down", "south", "s", "↓"),
    (0, -1): ("left", "west", "w", "←"),
    (0, 0): ("stay", "stop", "wait", "·"),
}
_BY_NAME = {name: step for step, names in _STEPS.items() for name in names}


def values_on_grid(
    values: Float[ArrayLike, "row column"],
    ax: Axes | None = None,
    *,
    numbers: bool | None = None,
    label: str = "value",
) -> Axes:
    """Draw the values of a grid world's cells as a heat map.

    Args:
        values: one number for each cell, shape (rows, columns); NaN is a wall.
        ax: where to draw.
        numbers: also write each value into its cell; None writes them where at most 150 cells are drawn.
        label: what the values are, for the colour bar.

    Raises:
        ValueError: values that are not a matrix, infinite, or all NaN.

    Example:
        >>> import chainrule as cr, numpy as np
        >>> ax = cr.plotting.values_on_grid([[0.5, 1.0], [np.nan, 0.25]])
        >>> [text.get_text() for text in ax.texts]
        ['0.5', '1', '0.25']
    """
    cells = np.asarray(values, float)
    if cells.ndim != 2 or 0 in cells.shape:
        raise ValueError(f"values must have shape (rows, columns), got {cells.shape}")
    if np.isinf(cells).any() or np.isnan(cells).all():
        raise ValueError("values must be finite, or NaN for walls, and not all of them walls")
    ax = axes_or_new(ax)
    image = ax.imshow(np.ma.masked_invalid(cells), cmap=_COLOURS, interpolation="nearest")
    _frame(ax, cells.shape)
    if numbers or (numbers is None and cells.size <= _MOST_NUMBERS):
        for (row, column), value in np.ndenumerate(cells):
            if np.isfinite(value):  # at the foot of the cell, so that arrows have room above it
                ax.text(column, row + 0.47, f"{value:.3g}", ha="center", va="bottom", fontsize=7, color=INK)
    bar = ax.figure.colorbar(image, ax=ax, label=label, pad=0.02, fraction=0.046)
    bar.outline.set_visible(False)
    return ax


def policy_on_grid(
    policy: Int[ArrayLike, "row column"] | Bool[ArrayLike, "row column action"],
    actions: Sequence[Hashable],
    ax: Axes | None = None,
) -> Axes:
    """Draw the actions of a grid world's cells as arrows, over `values_on_grid` if `ax` has that already.

    Args:
        policy: index of the action taken in each cell, shape (rows, columns), negative where there is none (walls, ends);
            or True for every action that is optimal there, shape (rows, columns, A): all of them are drawn.
        actions: the A actions: names such as "up", "RIGHT", "south" or "w", "stay" (a dot), or steps (row, column).
        ax: where to draw.

    Raises:
        ValueError: a policy of another shape or type, an index beyond the actions, an action that is no direction.

    Example:
        >>> import chainrule as cr
        >>> ax = cr.plotting.policy_on_grid([[0, 1], [0, -1]], ["right", "down"])
        >>> ax.collections[0].N  # three arrows
        3
    """
    steps = np.array([_step(action) for action in actions], float).reshape(-1, 2)
    best = _best(policy, len(steps))
    ax = axes_or_new(ax)
    if not ax.images:
        _frame(ax, best.shape[:2])
    rows, columns, chosen = np.nonzero(best)
    down, along = steps[chosen].T
    # one arrow goes through the middle of its cell; several begin there and share it
    alone = best.sum(axis=2)[rows, columns] == 1
    length = np.where(alone, 0.56, 0.29) / np.maximum(np.hypot(down, along), 1)
    back = np.where(alone, 0.5, -0.1) * length
    moves = (down != 0) | (along != 0)
    if moves.any():
        ax.quiver(
            (columns - back * along)[moves],
            (rows - back * down)[moves],
            (length * along)[moves],
            (length * down)[moves],
            angles="xy",
            scale_units="xy",
            scale=1,
            units="x",
            width=0.04,
            headwidth=4,
            headlength=4,
            headaxislength=3.6,
            color=INK,
            zorder=3,
        )
    if not moves.all():
        ax.plot(columns[~moves], rows[~moves], "o", color=INK, markersize=3, zorder=3)
    return ax


def _step(action) -> tuple[float, float]:
    """Read a direction from its name or from its two numbers."""
    if isinstance(action, str):
        if action.lower() in _BY_NAME:
            return _BY_NAME[action.lower()]
    elif np.shape(action) == (2,):
        return action[0], action[1]
    raise ValueError(
        f"action {action!r} is no direction; wanted names such as 'up', 'right', 'south', 'w' or 'stay', or steps "
        "(row, column) such as (-1, 0) for up"
    )


def _best(policy, num_actions) -> np.ndarray:
    """Return which actions to draw in which cells, shape (rows, columns, A)."""
    array = np.asarray(policy)
    if array.ndim == 3 and array.dtype == bool and array.shape[2] == num_actions:
        return array
    if array.ndim != 2 or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(
            f"policy must be action indices of shape (rows, columns), or booleans of shape (rows, columns, "
            f"{num_actions}), got shape {array.shape} of {array.dtype}"
        )
    if array.max() >= num_actions:
        raise ValueError(f"policy has action {array.max()}; there are {num_actions}, 0 … {num_actions - 1}")
    return array[..., None] == np.arange(num_actions)


def _frame(ax, shape):
    """Show exactly the grid, with thin lines between cells as long as they do not cover them."""
    rows, columns = shape
    ax.set_xlim(-0.5, columns - 0.5)
    ax.set_ylim(rows - 0.5, -0.5)
    ax.set_aspect("equal")
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_color(GREY)
    if max(shape) <= 40:
        ax.set_xticks(np.arange(columns - 1) + 0.5, minor=True)
        ax.set_yticks(np.arange(rows - 1) + 0.5, minor=True)
        ax.grid(which="minor", color="white", linewidth=1)
        ax.tick_params(which="both", length=0)
