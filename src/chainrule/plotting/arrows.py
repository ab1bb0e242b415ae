"""Arrows between circles: Bézier curves, given by 3 control points, or 4 for a self-loop."""

import itertools

import numpy as np
from matplotlib.patches import FancyArrowPatch
from matplotlib.path import Path

from .circles import RADIUS, free_direction
from .style import halo

_TIMES = np.linspace(0, 1, 25)  # where a curve is looked at


def loop_directions(graph, centres) -> np.ndarray:
    """Return the angle at which each state's self-loop leaves it: where its other edges are not."""
    angles = np.full(len(centres), np.pi / 2)
    if np.ptp(centres[:, 1]) == 0:
        return angles
    neighbours: list[set[int]] = [set() for _ in centres]
    for u, v in zip(graph.source.tolist(), graph.target.tolist(), strict=True):
        if u != v:
            neighbours[u].add(v)
            neighbours[v].add(u)
    for state, others in enumerate(neighbours):
        x, y = free_direction(centres[state], [centres[other] for other in others])
        angles[state] = np.arctan2(y, x)
    return angles


def edge_curve(graph, edge, centres, away) -> np.ndarray:
    """Return the control points of an edge, apart from its parallel ones and from the way back."""
    u, v = graph.source[edge], graph.target[edge]
    parallel = np.flatnonzero((graph.source == u) & (graph.target == v))
    rank = int(np.searchsorted(parallel, edge))
    if u == v:
        middle = away[u] + 0.95 * (rank - (len(parallel) - 1) / 2)  # several loops fan out
        angles = middle + 0.45 * np.array([1, 1, -1, -1])
        distances = RADIUS * np.array([1, 3.6, 3.6, 1])
        return centres[u] + distances[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    alone = len(parallel) == 1 and not ((graph.source == v) & (graph.target == u)).any()
    bend = 0.15 if alone else 0.35 + 0.4 * rank
    along = centres[v] - centres[u]
    side = np.array([-along[1], along[0]])  # to the left of the way, so that u → v and v → u part
    corner = (centres[u] + centres[v]) / 2 + bend * side
    return _outside_circles(np.array([centres[u], corner, centres[v]]))


def _outside_circles(curve) -> np.ndarray:
    """Cut off what a quadratic curve has inside the circles around its ends."""
    t = np.linspace(0, 1, 401)
    points = sample(curve, t)
    outside = (np.linalg.norm(points - curve[0], axis=1) >= RADIUS) & (
        np.linalg.norm(points - curve[-1], axis=1) >= 1.04 * RADIUS
    )
    first, last = t[outside][[0, -1]]
    corner = [(1 - first) * (1 - last), (1 - first) * last + (1 - last) * first, first * last] @ curve
    return np.array([sample(curve, first), corner, sample(curve, last)])


def sample(curve, t=_TIMES) -> np.ndarray:
    """Evaluate a curve by de Casteljau's scheme."""
    points = [np.multiply.outer(np.ones_like(t), point) for point in curve]
    t = np.expand_dims(t, -1)
    while len(points) > 1:
        points = [(1 - t) * p + t * q for p, q in itertools.pairwise(points)]
    return points[0]


def draw_arrow(ax, curve, colour, *, width, head):
    """Draw an arrow along a curve."""
    bezier = Path(curve, [Path.MOVETO] + [Path.CURVE3 if len(curve) == 3 else Path.CURVE4] * (len(curve) - 1))
    style = f"-|>,head_length={4 * head + width},head_width={2 * head + width / 2}"
    ax.add_patch(
        FancyArrowPatch(path=bezier, arrowstyle=style, mutation_scale=1, color=colour, linewidth=width, zorder=2)
    )


def label_places(curves, centres) -> list[np.ndarray]:
    """Choose the point of each curve for its label, as far as can be from nodes, other curves and earlier labels."""
    samples = [sample(curve) for curve in curves]
    places: list[np.ndarray] = []
    for edge, points in enumerate(samples):
        if len(curves[edge]) == 4:  # just outside the bend of a self-loop
            places.append(points[12] + 0.15 * (points[12] - (points[0] + points[-1]) / 2))
            continue
        candidates = points[6:19]
        others = [points for other, points in enumerate(samples) if other != edge]
        room = (
            np.minimum(distances(candidates, places), 0.6)
            + np.minimum(distances(candidates, centres) - RADIUS, 0.3)
            + 2 * np.minimum(distances(candidates, np.concatenate([*others, centres])), 0.2)
        )
        centred = -0.02 * np.abs(np.arange(len(candidates)) - len(candidates) // 2)
        places.append(candidates[np.argmax(room + centred)])
    return places


def distances(points, others) -> np.ndarray:
    """Return the distance of each point to the nearest of the others."""
    if len(others) == 0:
        return np.full(len(points), np.inf)
    return np.linalg.norm(points[:, None] - np.asarray(others), axis=-1).min(axis=1)


def draw_label(ax, place, text, colour):
    """Write a label on a box that hides what is behind it."""
    ax.text(*place, text, ha="center", va="center", fontsize=8, color=colour, zorder=5, bbox=halo())
