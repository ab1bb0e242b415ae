"""What queries on sequence models return: frozen, and readable by state name."""

from collections.abc import Hashable
from typing import Any

import equinox as eqx
import numpy as np


class Table(list):
    """Rows, each a dict, that show as a table.

    >>> Table([{"weight": 1.5, "label": "N"}, {"weight": -0.25, "label": "V"}])
    weight  label
    1.5     N
    -0.25   V
    """

    def __repr__(self):
        columns = list(dict.fromkeys(key for row in self for key in row))
        cells = [columns, *([_cell(row.get(column)) for column in columns] for row in self)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in cells)


def _cell(value) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


class Posterior(eqx.Module):
    """p(states | observations), for one sequence or several.

    Attributes:
        log_prob: log p(observations): a number, or one per sequence.
        marginals: p(z_t = k | all observations): (T, K), or (S, T, K), or a list of (T_i, K).
        transitions: expected number of steps from i to j, over all sequences, (K, K).
        states: the names of the states.

    A sequence that the model cannot produce has log_prob −inf and marginals of zero: there is no posterior to report.
    """

    log_prob: Any
    marginals: Any
    transitions: Any
    states: tuple[Hashable, ...] = eqx.field(static=True)

    def __getitem__(self, state: Hashable):
        """Marginal probability of one state, by name: (T,), (S, T), or a list."""
        index = find(state, self.states)
        if isinstance(self.marginals, list):
            return [m[:, index] for m in self.marginals]
        return self.marginals[..., index]

    def __repr__(self):
        return f"Posterior({len(self.states)} states, log_prob={_brief(self.log_prob)})"


class Filtered(eqx.Module):
    """p(state | the past), one sequence or several; shapes as in `Posterior`.

    Attributes:
        log_prob: log p(observations).
        filtered: p(z_t | x_0 … x_t).
        predicted: p(z_t | x_0 … x_{t−1}), what was believed before seeing x_t.
        log_constants: log p(x_t | x_0 … x_{t−1}), the surprise of each observation: (T,), (S, T) or a list.
        forecast: p(z_T | x_0 … x_{T−1}), the state after the last observation: (K,), or (S, K).
        states: the names of the states.
    """

    log_prob: Any
    filtered: Any
    predicted: Any
    log_constants: Any
    forecast: Any
    states: tuple[Hashable, ...] = eqx.field(static=True)

    def __repr__(self):
        return f"Filtered({len(self.states)} states, log_prob={_brief(self.log_prob)})"


class Path(eqx.Module):
    """State paths: the best, the k best, or draws.

    Attributes:
        states: indices, (T,), (S, T) or a list of (T_i,); with a leading axis of paths for k-best and draws. −1 where
            no path is possible.
        log_prob: depends on who was asked, and for what. Of an HMM's `viterbi` and `k_best` it is log p(path, observations)
            of each path, of a CRF's log p(path | observations). Of draws it is the same for all: log p(observations) from
            an HMM, log Z(observations) from a CRF.
        names: the names of the states.
    """

    states: Any
    log_prob: Any
    names: tuple[Hashable, ...] = eqx.field(static=True)

    @property
    def labels(self):
        """The path in the states' names, as arrays of objects; None where no path is possible."""
        table = np.empty(len(self.names) + 1, object)
        table[:-1] = self.names
        if isinstance(self.states, list):
            return [table[np.asarray(s)] for s in self.states]
        return table[np.asarray(self.states)]

    def __repr__(self):
        return f"Path(log_prob={_brief(self.log_prob)})"


def find(name: Hashable, names: tuple[Hashable, ...]) -> int:
    """Index of a state by its name.

    Raises:
        ValueError: no state has that name.
    """
    try:
        return names.index(name)
    except ValueError:
        raise ValueError(f"no state is called {name!r}; the states are {list(names)}") from None


def _brief(value):
    try:
        value = np.asarray(value)
    except Exception:  # traced values have no numbers to show
        return "traced"
    return f"{float(value):.6g}" if value.ndim == 0 else f"{value.shape[0]} sequences"
