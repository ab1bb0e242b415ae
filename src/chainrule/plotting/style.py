"""What all pictures share: colours, and the axes that they are drawn on."""

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
INK, GREY, FILL = "#22303C", "#9AA5AE", "#EAF1F6"
GRID = "#E5E9EC"  # lines behind the data


def axes_or_new(ax: Axes | None) -> Axes:
    """Return the axes to draw on: those given, or those of a new figure."""
    return plt.subplots(layout="constrained")[1] if ax is None else ax


def lighten(colour, amount):
    """Mix a colour with white."""
    return tuple(1 - (1 - channel) * (1 - amount) for channel in to_rgb(colour))


def halo():
    """Return the box that keeps a text readable over lines."""
    return {"boxstyle": "round,pad=0.12", "facecolor": "white", "edgecolor": "none", "alpha": 0.9}
