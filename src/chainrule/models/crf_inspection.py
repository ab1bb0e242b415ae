"""What a conditional random field has learnt, as tables of its strongest weights."""

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from ..forms.checks import whole
from .results import Table, find

ANY = object()  # None may be a label


def strongest(features: Sequence[Any], labels: tuple[Hashable, ...], n: int, label: Hashable) -> Table:
    """The n features with the largest absolute weights: rows of weight, feature, label, and previous label."""
    n = whole(n, "n", why="ask for at least one row")
    wanted = None if label is ANY else find(label, labels)
    name = lambda index: None if index < 0 else labels[index]  # noqa: E731
    rows = []
    for feature in features:
        for listed in feature.listed():
            mine = np.flatnonzero((listed.values != 0) & ((wanted is None) | (listed.label == wanted)))
            for k in mine[np.argsort(-np.abs(listed.values[mine]), kind="stable")[:n]]:
                what, before = listed.describe(int(k))
                row = {"weight": float(listed.values[k]), "feature": what, "label": name(int(listed.label[k]))}
                rows.append(row | ({"previous": name(before)} if before >= 0 else {}))
    return Table(sorted(rows, key=lambda row: -abs(row["weight"]))[:n])


def strongest_steps(weights, labels: tuple[Hashable, ...], n: int, second=None) -> Table:
    """The n steps with the largest absolute weights: `weights` (previous, label), `second` (before, previous, label)."""
    n, rows = whole(n, "n", why="ask for at least one row"), []
    for table in (weights, second):
        if table is not None:
            values = np.asarray(table)
            for k in np.argsort(-np.abs(values), axis=None, kind="stable")[:n].tolist():
                *earlier, before, label = np.unravel_index(k, values.shape)
                if values[*earlier, before, label] != 0:
                    row: dict[str, Hashable] = {"weight": float(values[*earlier, before, label])}
                    if earlier:
                        row["before"] = labels[earlier[0]] if earlier[0] < len(labels) else ""
                    rows.append(row | {"previous": labels[before], "label": labels[label]})
    return Table(sorted(rows, key=lambda row: -abs(row["weight"]))[:n])
