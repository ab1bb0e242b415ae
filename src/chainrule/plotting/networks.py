"""Pictures of transition graphs and of factor graphs."""

import networkx as nx
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, Rectangle

from ..graphs.compile import as_chain
from ..graphs.factor_graph import FactorGraph
from ..graphs.transition_graph import TransitionGraph
from .arrows import draw_arrow, draw_label, edge_curve, label_places, loop_directions, sample
from .circles import RADIUS, frame, free_direction, name_nodes, nearest, points_across, spread
from .style import FILL, GREY, INK, PALETTE, axes_or_new, lighten

_MOST_LABELS = 40  # edges beyond this many are drawn without their numbers


def transition_graph(graph: TransitionGraph | nx.DiGraph, ax: Axes | None = None) -> Axes:
    """Draw states as circles and steps as arrows, wider and darker the more probable.

    A decision process has a colour for each action, its labels the reward after the probability; terminal states have a
    double ring. Graphs that only step to neighbours in their order lie on a line, small ones on a circle.

    Args:
        graph: a `TransitionGraph`, or a networkx graph for one.
        ax: where to draw.

    Example:
        >>> import chainrule as cr
        >>> ax = cr.plotting.transition_graph(cr.TransitionGraph.from_matrix([[0.9, 0.1], [0.5, 0.5]], ["sun", "rain"]))
        >>> [text.get_text() for text in ax.texts][:2]
        ['sun', 'rain']
    """
    graph = graph if isinstance(graph, TransitionGraph) else TransitionGraph.from_networkx(graph)
    ax = axes_or_new(ax)
    centres = _transition_layout(graph)
    away = loop_directions(graph, centres)
    curves = [edge_curve(graph, edge, centres, away) for edge in range(len(graph.source))]
    probs = np.full(len(curves), 0.5) if graph.probability is None else graph.probability
    colours = [PALETTE[a % len(PALETTE)] if graph.actions else INK for a in graph.action]
    frame(ax, np.concatenate([centres, *[sample(curve) for curve in curves]]))
    scale = np.clip(points_across(ax) / 32, 0.4, 1.0)  # arrows shrink with the circles
    for edge in np.argsort(probs):  # the probable ones on top
        tint = lighten(colours[edge], 0.7 * (1 - probs[edge]))
        draw_arrow(ax, curves[edge], tint, width=scale * (0.8 + 2.2 * probs[edge]), head=scale)
    for centre, terminal in zip(centres, graph.terminal, strict=True):
        ax.add_patch(Circle(tuple(centre), RADIUS, facecolor=FILL, edgecolor=INK, linewidth=1.4, zorder=3))
        if terminal:
            ax.add_patch(Circle(tuple(centre), 0.85 * RADIUS, fill=False, edgecolor=INK, linewidth=1.0, zorder=4))
    name_nodes(ax, graph.states, centres)
    if graph.probability is not None and len(curves) <= _MOST_LABELS:
        labels = [_edge_label(p, r) for p, r in zip(graph.probability, graph.reward, strict=True)]
        for edge, place in enumerate(label_places(curves, centres)):
            draw_label(ax, place, labels[edge], colours[edge])
    if graph.actions:
        handles = [
            Line2D([], [], color=PALETTE[i % len(PALETTE)], linewidth=2.5, label=str(action))
            for i, action in enumerate(graph.actions)
        ]
        ax.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=4, frameon=False)
    return ax


def factor_graph(graph: FactorGraph | nx.Graph, ax: Axes | None = None) -> Axes:
    """Draw variables as circles and factors as small squares, joined where a factor scores a variable.

    A linear chain is laid out from left to right.

    Args:
        graph: a `FactorGraph`, or a networkx graph for one.
        ax: where to draw.

    Example:
        >>> import chainrule as cr
        >>> graph = cr.FactorGraph({"coin": ("heads", "tails")}, {"bias": (("coin",), [0.0, -1.0])})
        >>> [text.get_text() for text in cr.plotting.factor_graph(graph).texts]
        ['coin', 'bias']
    """
    graph = graph if isinstance(graph, FactorGraph) else FactorGraph.from_networkx(graph)
    ax = axes_or_new(ax)
    network = graph.to_networkx()
    places = _factor_layout(graph, network)
    lines = [(places[u], places[v]) for u, v in network.edges]
    ax.add_collection(LineCollection(lines, colors=GREY, linewidths=1.3, zorder=1), autolim=False)
    centres = np.array([places[name] for name in graph.variables])
    for centre in centres:
        ax.add_patch(Circle(tuple(centre), RADIUS, facecolor=FILL, edgecolor=INK, linewidth=1.4, zorder=3))
    side = 0.45 * RADIUS
    for name in graph.factors:
        x, y = places[name]
        ax.add_patch(Rectangle((x - side / 2, y - side / 2), side, side, facecolor=INK, edgecolor="none", zorder=3))
    frame(ax, np.array(list(places.values())))
    name_nodes(ax, graph.variables, centres)
    for name in graph.factors:
        direction = free_direction(places[name], [places[v] for v in network[name]])
        x, y = places[name] + 0.8 * side * direction
        across = "center" if abs(direction[0]) < 0.6 else "left" if direction[0] > 0 else "right"
        along = "center" if abs(direction[1]) < 0.4 else "bottom" if direction[1] > 0 else "top"
        ax.text(x, y, str(name), ha=across, va=along, fontsize=8, color=INK, zorder=5)
    return ax


def _transition_layout(graph) -> np.ndarray:
    size = graph.num_states
    if np.abs(graph.source - graph.target).max() <= 1:
        return np.stack([np.arange(size) * 1.4, np.zeros(size)], axis=1)
    if size <= 12:
        angles = np.pi / 2 - 2 * np.pi * np.arange(size) / size
        circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
        return circle / nearest(circle) * (1.4 + 0.05 * size)
    network = nx.Graph()
    network.add_nodes_from(range(size))
    network.add_edges_from(zip(graph.source.tolist(), graph.target.tolist(), strict=True))
    places = spread(network)
    return np.array([places[state] for state in range(size)])


def _factor_layout(graph, network) -> dict:
    compiled = as_chain(graph)
    if compiled is None:
        return spread(network)
    step = {name: 1.2 * t for t, name in enumerate(compiled[0])}
    places = {name: np.array([x, 0.0]) for name, x in step.items()}
    used: dict[frozenset, int] = {}
    for name, (scope, _) in graph.factors.items():
        rank = used[frozenset(scope)] = used.get(frozenset(scope), -1) + 1
        x = np.mean([step[variable] for variable in scope]) if scope else -1.0
        if len(scope) == 1:  # below their variable, fanned out if there are several
            places[name] = np.array([x + 0.4 * rank, -0.7])
        else:
            places[name] = np.array([x, 0.45 * rank])
    return places


def _edge_label(probability, reward) -> str:
    text = f"{probability:.2g}" if probability >= 0.1 else f"{probability:.1g}"
    return text if reward == 0 else f"{text}  ({reward:+.3g})"
