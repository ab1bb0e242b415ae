"""What a conditional random field has learnt, as tables of its strongest weights."""

from collections.abc import Hashable, Sequence

import numpy as np

from .features.base import AbstractFeature
from .results import Table, find

ANY = object()  # None may be a label


def strongest(features: Sequence[AbstractFeature], labels: tuple[Hashable, ...], n: int, label: Hashable) -> Table:
    """The n features with the largest absolute weights: rows of weight, feature, label, and previous label."""
    wanted = None if label is ANY else find(label, labels)
    name = lambda index: None if index < 0 else labels[index]  # noqa: E731
    rows = []
    for feature in features:
        for listed in feature.listed():
            mine = np.flatnonzero((listed.values != 0) & ((wanted is None) | (listed.label == wanted)))
            for k in mine[np.argsort(-np.abs(listed.values[mine]), kind="stable")[: positive(n)]]:
                what, before = listed.describe(int(k))
                row = {"weight": float(listed.values[k]), "feature": what, "label": name(int(listed.label[k]))}
                rows.append(row | ({"previous": name(before)} if before >= 0 else {}))
    return Table(sorted(rows, key=lambda row: -abs(row["weight"]))[:n])


def strongest_steps(weights, labels: tuple[Hashable, ...], n: int) -> Table:
    """The n steps with the largest absolute weights, of `weights` (previous, label)."""
    weights = np.asarray(weights)
    order = np.argsort(-np.abs(weights), axis=None, kind="stable")[: positive(n)]
    steps = [divmod(int(k), len(labels)) for k in order]
    return Table(
        [
            {"weight": float(weights[i, j]), "previous": labels[i], "label": labels[j]}
            for i, j in steps
            if weights[i, j] != 0
        ]
    )


def positive(n: int) -> int:
    """n, if it is a number of rows."""
    if n < 1:
        raise ValueError(f"n is {n}; ask for at least one row")
    return n
