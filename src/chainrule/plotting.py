"""Pictures of graphs, posteriors and fits, by matplotlib.

Every function draws on `ax`, or on a new figure if it is None, and returns the Axes: nothing is shown, saved or set
globally. State and action colours are those of Okabe & Ito (2008), told apart whatever one's colour vision.
"""

import itertools
from collections.abc import Hashable, Mapping, Sequence

import networkx as nx
import numpy as np
from jaxtyping import ArrayLike, Float, Int

try:
    import matplotlib.pyplot as plt
    from matplotlib.axes import Axes
    from matplotlib.collections import LineCollection
    from matplotlib.colors import to_rgb
    from matplotlib.lines import Line2D
    from matplotlib.patches import Circle, FancyArrowPatch, Rectangle
    from matplotlib.path import Path
    from matplotlib.ticker import MaxNLocator
except ImportError as error:
    raise ImportError("chainrule.plotting needs matplotlib: pip install 'chainrule[plot]'") from error

from .graphs.compile import as_chain
from .graphs.factor_graph import FactorGraph
from .graphs.transition_graph import TransitionGraph

_PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
_INK, _GREY, _FILL = "#22303C", "#9AA5AE", "#EAF1F6"
_MOST_LABELS = 40  # edges beyond this many are drawn without their numbers
_TIMES = np.linspace(0, 1, 25)  # where a curve is looked at
_RADIUS = 0.24  # of a node, in the units of every layout


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
    ax = _axes(ax)
    centres = _transition_layout(graph)
    away = _loop_directions(graph, centres)
    curves = [_edge_curve(graph, edge, centres, away) for edge in range(len(graph.source))]
    probs = np.full(len(curves), 0.5) if graph.probability is None else graph.probability
    colours = [_PALETTE[a % len(_PALETTE)] if graph.actions else _INK for a in graph.action]
    _frame(ax, np.concatenate([centres, *[_sample(curve) for curve in curves]]))
    scale = np.clip(_points_across(ax) / 32, 0.4, 1.0)  # arrows shrink with the circles
    for edge in np.argsort(probs):  # the probable ones on top
        tint = _lighten(colours[edge], 0.7 * (1 - probs[edge]))
        _draw_arrow(ax, curves[edge], tint, width=scale * (0.8 + 2.2 * probs[edge]), head=scale)
    for centre, terminal in zip(centres, graph.terminal, strict=True):
        ax.add_patch(Circle(tuple(centre), _RADIUS, facecolor=_FILL, edgecolor=_INK, linewidth=1.4, zorder=3))
        if terminal:
            ax.add_patch(Circle(tuple(centre), 0.85 * _RADIUS, fill=False, edgecolor=_INK, linewidth=1.0, zorder=4))
    _name_nodes(ax, graph.states, centres)
    if graph.probability is not None and len(curves) <= _MOST_LABELS:
        labels = [_edge_label(p, r) for p, r in zip(graph.probability, graph.reward, strict=True)]
        for edge, place in enumerate(_label_places(curves, centres)):
            _draw_label(ax, place, labels[edge], colours[edge])
    if graph.actions:
        handles = [
            Line2D([], [], color=_PALETTE[i % len(_PALETTE)], linewidth=2.5, label=str(action))
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
    ax = _axes(ax)
    network = graph.to_networkx()
    places = _factor_layout(graph, network)
    lines = [(places[u], places[v]) for u, v in network.edges]
    ax.add_collection(LineCollection(lines, colors=_GREY, linewidths=1.3, zorder=1), autolim=False)
    centres = np.array([places[name] for name in graph.variables])
    for centre in centres:
        ax.add_patch(Circle(tuple(centre), _RADIUS, facecolor=_FILL, edgecolor=_INK, linewidth=1.4, zorder=3))
    side = 0.45 * _RADIUS
    for name in graph.factors:
        x, y = places[name]
        ax.add_patch(Rectangle((x - side / 2, y - side / 2), side, side, facecolor=_INK, edgecolor="none", zorder=3))
    _frame(ax, np.array(list(places.values())))
    _name_nodes(ax, graph.variables, centres)
    for name in graph.factors:
        direction = _free_direction(places[name], [places[v] for v in network[name]])
        x, y = places[name] + 0.8 * side * direction
        across = "center" if abs(direction[0]) < 0.6 else "left" if direction[0] > 0 else "right"
        along = "center" if abs(direction[1]) < 0.4 else "bottom" if direction[1] > 0 else "top"
        ax.text(x, y, str(name), ha=across, va=along, fontsize=8, color=_INK, zorder=5)
    return ax


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
    ax = _axes(ax)
    image = ax.imshow(probs.T, aspect="auto", cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    if time <= 60:  # thin gaps, as long as they do not cover the cells
        ax.set_xticks(np.arange(time + 1) - 0.5, minor=True)
        ax.grid(which="minor", axis="x", color="white", linewidth=0.8)
    ax.set_yticks(np.arange(num_states + 1) - 0.5, minor=True)
    ax.grid(which="minor", axis="y", color="white", linewidth=2)
    ax.tick_params(which="both", length=0)
    if steps is not None:
        outlined = {"marker": "o", "markeredgecolor": "white", "markersize": 6} if time <= 60 else {}
        ax.plot(steps, color=_PALETTE[1], linewidth=1.8, label="decoded path", **outlined)
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
    ax = _axes(ax)
    ax.plot(values, color=_GREY, linewidth=0.9, marker=".", markersize=3, zorder=1)
    starts = np.flatnonzero(np.diff(steps, prepend=-1))
    edges = np.append(starts, len(steps)) - 0.5
    levels = means[steps[starts]]
    ax.vlines(edges[1:-1], levels[:-1], levels[1:], color=_GREY, linewidth=0.9, zorder=2)
    for state in np.unique(steps):
        runs = steps[starts] == state
        colour = _PALETTE[state % len(_PALETTE)]
        ax.hlines(
            levels[runs], edges[:-1][runs], edges[1:][runs], color=colour, linewidth=3, zorder=3, label=names[state]
        )
    ax.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=6, frameon=False)
    ax.set_xlabel("time")
    ax.margins(x=0.01)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def history(values: Float[ArrayLike, " iteration"], ax: Axes | None = None) -> Axes:
    """Draw the log-likelihood at each iteration of a fit.

    Args:
        values: one number per iteration.
        ax: where to draw.

    Raises:
        ValueError: values that are not a vector.
    """
    values = np.asarray(values)
    if values.ndim != 1:
        raise ValueError(f"values must have shape (iteration,), got {values.shape}")
    ax = _axes(ax)
    ax.plot(np.arange(len(values)), values, color=_PALETTE[0], linewidth=1.8, marker="o" if len(values) <= 40 else "")
    ax.set_xlabel("iteration")
    ax.set_ylabel("log-likelihood")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.ticklabel_format(axis="y", useOffset=False)
    ax.grid(axis="y", color="#E5E9EC", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def weights(named: Mapping[Hashable, float] | Sequence[tuple[Hashable, float]], ax: Axes | None = None) -> Axes:
    """Draw named weights as bars from zero, the first on top: positive ones in blue, negative ones in orange.

    Args:
        named: name → weight, or pairs (name, weight), in the order in which they shall stand.
        ax: where to draw.

    Raises:
        ValueError: no weights, or one that is not a finite number; the message names it.

    Example:
        >>> import chainrule as cr
        >>> ax = cr.plotting.weights({"suffix=ing": 2.5, "after=of": -1.0})
        >>> [label.get_text() for label in ax.get_yticklabels()]
        ['suffix=ing', 'after=of']
    """
    pairs = list(named.items() if isinstance(named, Mapping) else named)
    if not pairs:
        raise ValueError("there are no weights to draw; wanted at least one")
    for name, value in pairs:
        if np.ndim(value) or not np.isreal(value) or not np.isfinite(value):
            raise ValueError(f"the weight of {name!r} is {value!r}; wanted a finite number")
    values = np.array([value for _, value in pairs], float)
    ax = _axes(ax)
    ax.barh(np.arange(len(pairs)), values, height=0.72, color=[_PALETTE[int(value < 0)] for value in values])
    ax.axvline(0, color=_INK, linewidth=0.8)
    ax.set_yticks(range(len(pairs)), [str(name) for name, _ in pairs])
    ax.set_ylim(len(pairs) - 0.4, -0.6)
    ax.set_xlabel("weight")
    ax.grid(axis="x", color="#E5E9EC", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.tick_params(axis="y", length=0)
    ax.spines[["top", "right", "left"]].set_visible(False)
    return ax


# Shared by all


def _axes(ax: Axes | None) -> Axes:
    return plt.subplots(layout="constrained")[1] if ax is None else ax


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


def _lighten(colour, amount):
    return tuple(1 - (1 - channel) * (1 - amount) for channel in to_rgb(colour))


def _halo():
    return {"boxstyle": "round,pad=0.12", "facecolor": "white", "edgecolor": "none", "alpha": 0.9}


# Circles with names in them


def _frame(ax, points):
    """Set equal, fixed limits around the points, so that circles are round and text can be sized to fit them."""
    low, high = points.min(axis=0) - 1.5 * _RADIUS, points.max(axis=0) + 1.5 * _RADIUS
    padding = np.maximum([3.0, 1.0] - (high - low), 0) / 2  # two states do not fill the page
    ax.set_xlim(low[0] - padding[0], high[0] + padding[0])
    ax.set_ylim(low[1] - padding[1], high[1] + padding[1])
    ax.set_aspect("equal")
    ax.axis("off")


def _points_across(ax) -> float:
    """Return the diameter of a node in points, as the page is now."""
    ax.apply_aspect()
    (left, _), (right, _) = ax.transData.transform([(-_RADIUS, 0), (_RADIUS, 0)])
    return (right - left) * 72 / ax.figure.dpi


def _name_nodes(ax, names, centres):
    """Write every name inside its circle, all in one size: the largest from 7 to 12 points that fits."""
    texts = ["\n".join(str(name).replace("_", " ").split()) if len(str(name)) > 6 else str(name) for name in names]
    longest = max(len(line) for text in texts for line in text.split("\n"))
    size = float(np.clip(0.85 * _points_across(ax) / (0.58 * longest), 7, 12))  # a letter is about 0.58 em wide
    for text, (x, y) in zip(texts, centres, strict=True):
        ax.text(x, y, text, ha="center", va="center", fontsize=size, color=_INK, zorder=6, linespacing=1.0)


def _spread(graph: nx.Graph) -> dict:
    """Place the nodes of each component by its distances, the nearest two nearly touching; components side by side."""
    places, left = {}, 0.0
    for component in nx.connected_components(graph):
        part = nx.Graph()  # in the order of the graph, so that the picture is always the same
        part.add_nodes_from(node for node in graph if node in component)
        part.add_edges_from(edge for edge in graph.edges if edge[0] in component)
        xy = np.array(list(nx.kamada_kawai_layout(part).values()))
        xy = xy * 0.65 / _nearest(xy)
        xy += [left - xy[:, 0].min(), -xy[:, 1].mean()]
        left = xy[:, 0].max() + 1.0
        places |= dict(zip(part, xy, strict=True))
    return places


def _nearest(xy) -> float:
    apart = np.linalg.norm(xy[:, None] - xy, axis=-1)
    np.fill_diagonal(apart, np.inf)
    return float(apart.min()) if len(xy) > 1 else 1.0


def _free_direction(place, neighbours) -> np.ndarray:
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


def _factor_layout(graph, network) -> dict:
    compiled = as_chain(graph)
    if compiled is None:
        return _spread(network)
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


# Arrows between states: Bézier curves, given by 3 control points, or 4 for a self-loop


def _transition_layout(graph) -> np.ndarray:
    size = graph.num_states
    if np.abs(graph.source - graph.target).max() <= 1:
        return np.stack([np.arange(size) * 1.4, np.zeros(size)], axis=1)
    if size <= 12:
        angles = np.pi / 2 - 2 * np.pi * np.arange(size) / size
        circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
        return circle / _nearest(circle) * (1.4 + 0.05 * size)
    network = nx.Graph()
    network.add_nodes_from(range(size))
    network.add_edges_from(zip(graph.source.tolist(), graph.target.tolist(), strict=True))
    places = _spread(network)
    return np.array([places[state] for state in range(size)])


def _loop_directions(graph, centres) -> np.ndarray:
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
        x, y = _free_direction(centres[state], [centres[other] for other in others])
        angles[state] = np.arctan2(y, x)
    return angles


def _edge_curve(graph, edge, centres, away) -> np.ndarray:
    u, v = graph.source[edge], graph.target[edge]
    parallel = np.flatnonzero((graph.source == u) & (graph.target == v))
    rank = int(np.searchsorted(parallel, edge))
    if u == v:
        middle = away[u] + 0.95 * (rank - (len(parallel) - 1) / 2)  # several loops fan out
        angles = middle + 0.45 * np.array([1, 1, -1, -1])
        distances = _RADIUS * np.array([1, 3.6, 3.6, 1])
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
    points = _sample(curve, t)
    outside = (np.linalg.norm(points - curve[0], axis=1) >= _RADIUS) & (
        np.linalg.norm(points - curve[-1], axis=1) >= 1.04 * _RADIUS
    )
    first, last = t[outside][[0, -1]]
    corner = [(1 - first) * (1 - last), (1 - first) * last + (1 - last) * first, first * last] @ curve
    return np.array([_sample(curve, first), corner, _sample(curve, last)])


def _sample(curve, t=_TIMES) -> np.ndarray:
    """Evaluate a curve by de Casteljau's scheme."""
    points = [np.multiply.outer(np.ones_like(t), point) for point in curve]
    t = np.expand_dims(t, -1)
    while len(points) > 1:
        points = [(1 - t) * p + t * q for p, q in itertools.pairwise(points)]
    return points[0]


def _draw_arrow(ax, curve, colour, *, width, head):
    bezier = Path(curve, [Path.MOVETO] + [Path.CURVE3 if len(curve) == 3 else Path.CURVE4] * (len(curve) - 1))
    style = f"-|>,head_length={4 * head + width},head_width={2 * head + width / 2}"
    ax.add_patch(
        FancyArrowPatch(path=bezier, arrowstyle=style, mutation_scale=1, color=colour, linewidth=width, zorder=2)
    )


def _edge_label(probability, reward) -> str:
    text = f"{probability:.2g}" if probability >= 0.1 else f"{probability:.1g}"
    return text if reward == 0 else f"{text}  ({reward:+.3g})"


def _label_places(curves, centres) -> list[np.ndarray]:
    """Choose the point of each curve for its label, as far as can be from nodes, other curves and earlier labels."""
    samples = [_sample(curve) for curve in curves]
    places: list[np.ndarray] = []
    for edge, points in enumerate(samples):
        if len(curves[edge]) == 4:  # just outside the bend of a self-loop
            places.append(points[12] + 0.15 * (points[12] - (points[0] + points[-1]) / 2))
            continue
        candidates = points[6:19]
        others = [points for other, points in enumerate(samples) if other != edge]
        room = (
            np.minimum(_distances(candidates, places), 0.6)
            + np.minimum(_distances(candidates, centres) - _RADIUS, 0.3)
            + 2 * np.minimum(_distances(candidates, np.concatenate([*others, centres])), 0.2)
        )
        centred = -0.02 * np.abs(np.arange(len(candidates)) - len(candidates) // 2)
        places.append(candidates[np.argmax(room + centred)])
    return places


def _distances(points, others) -> np.ndarray:
    """Return the distance of each point to the nearest of the others."""
    if len(others) == 0:
        return np.full(len(points), np.inf)
    return np.linalg.norm(points[:, None] - np.asarray(others), axis=-1).min(axis=1)


def _draw_label(ax, place, text, colour):
    ax.text(*place, text, ha="center", va="center", fontsize=8, color=colour, zorder=5, bbox=_halo())
