"""Pictures of graphs, posteriors, fits and policies, by matplotlib.

Every function draws on `ax`, or on a new figure if it is None, and returns the Axes: nothing is shown, saved or set
globally. State and action colours are those of Okabe & Ito (2008), told apart whatever one's colour vision.
"""

try:
    import matplotlib as _  # noqa: F401
except ImportError as error:
    raise ImportError("chainrule.plotting needs matplotlib: pip install 'chainrule[plot]'") from error

from .fits import history, weights
from .grids import policy_on_grid, values_on_grid
from .networks import factor_graph, transition_graph
from .sequences import series, trellis

__all__ = [
    "factor_graph",
    "history",
    "policy_on_grid",
    "series",
    "transition_graph",
    "trellis",
    "values_on_grid",
    "weights",
]
