"""Circles with names in them, and where to put them."""

import networkx as nx
import numpy as np

from .style import INK

RADIUS = 0.24  # of a node, in the units of every layout


def frame(ax, points):
    """Set equal, fixed limits around the points, so that circles are round and text can be sized to fit them."""
    low, high = points.min(axis=0) - 1.5 * RADIUS, points.max(axis=0) + 1.5 * RADIUS
    padding = np.maximum([3.0, 1.0] - (high - low), 0) / 2  # two states do not fill the page
    ax.set_xlim(low[0] - padding[0], high[0] + padding[0])
    ax.set_ylim(low[1] - padding[1], high[1] + padding[1])
    ax.set_aspect("equal")
    ax.axis("off")


def points_across(ax) -> float:
    """Return the diameter of a node in points, as the page is now."""
    ax.apply_aspect()
    (left, _), (right, _) = ax.transData.transform([(-RADIUS, 0), (RADIUS, 0)])
    return (right - left) * 72 / ax.figure.dpi


def name_nodes(ax, names, centres):
    """Write every name inside its circle, all in one size: the largest from 7 to 12 points that fits."""
    texts = ["\n".join(str(name).replace("_", " ").split()) if len(str(name)) > 6 else str(name) for name in names]
    longest = max(len(line) for text in texts for line in text.split("\n"))
    size = float(np.clip(0.85 * points_across(ax) / (0.58 * longest), 7, 12))  # a letter is about 0.58 em wide
    for text, (x, y) in zip(texts, centres, strict=True):
        ax.text(x, y, text, ha="center", va="center", fontsize=size, color=INK, zorder=6, linespacing=1.0)


def spread(graph: nx.Graph) -> dict:
    """Place the nodes of each component by its distances, the nearest two nearly touching; components side by side."""
    places, left = {}, 0.0
    for component in nx.connected_components(graph):
        part = nx.Graph()  # in the order of the graph, so that the picture is always the same
        part.add_nodes_from(node for node in graph if node in component)
        part.add_edges_from(edge for edge in graph.edges if edge[0] in component)
        xy = np.array(list(nx.kamada_kawai_layout(part).values()))
        xy = xy * 0.65 / nearest(xy)
        xy += [left - xy[:, 0].min(), -xy[:, 1].mean()]
        left = xy[:, 0].max() + 1.0
        places |= dict(zip(part, xy, strict=True))
    return places


def nearest(xy) -> float:
    """Return the distance of the two nearest points, 1 for a single one."""
    apart = np.linalg.norm(xy[:, None] - xy, axis=-1)
    np.fill_diagonal(apart, np.inf)
    return float(apart.min()) if len(xy) > 1 else 1.0


def free_direction(place, neighbours) -> np.ndarray:
    """Return the direction in the middle of the widest gap between the neighbours, downwards when there are none."""
    if not neighbours:
        return np.array([0.0, -1.0])
    x, y = (np.array(neighbours) - place).T
    angles = np.sort(np.arctan2(y, x))
    gaps = np.diff(angles, append=angles[0] + 2 * np.pi)
    # of equally wide gaps the lower one, so that labels along a line keep to one side
    middles = angles + gaps / 2
    best = np.lexsort((np.sin(middles).round(3), -gaps.round(3)))[0]
    return np.array([np.cos(middles[best]), np.sin(middles[best])])
