"""Random second-order and semi-Markov chains in rows, and every path of each with its score, by plain loops."""

import itertools
from typing import NamedTuple

import numpy as np

from chainrule.inference.compound import Steps
from chainrule.inference.second_order import Triples
from chainrule.inference.semi_markov import Segments

LENGTHS = [[4, 1], [2, 3]]  # of the sequences in each row, end to end; one slot of each row is padding
TIME = 6


class Case(NamedTuple):
    kind: object
    steps: Steps
    weight: np.ndarray  # of each step, zero on padding

    def sequences(self):
        """Row and offset of each sequence, and its paths: (score, states, the weights that it uses)."""
        ways = triple_ways if isinstance(self.kind, Triples) else segment_ways
        for row, lengths in enumerate(LENGTHS):
            for begin, size in zip(np.cumsum([0, *lengths[:-1]]), lengths, strict=True):
                paths = []
                for states, used in ways(self.kind, self.steps, row, begin, size):
                    values = [float(lookup(self.steps, name)[index]) for name, index in used]
                    paths.append((sum(values), states, used))
                yield row, begin, size, sorted(paths, key=lambda p: -p[0])


def lookup(steps, name):
    return np.asarray((steps.fixed | steps.varying)[name], float)


def triple_ways(kind, steps, row, begin, size):
    count = kind.num_labels
    for y in itertools.product(range(count), repeat=size):
        used, states = [], []
        for i, k in enumerate(y):
            t = begin + i
            before = y[i - 1] if i else count
            states.append(k * (count + 1) + before)
            used.append(("node", (t, k, row)))
            if i:
                used.append(("pair", (t, y[i - 1], k, row) if "pair" in steps.varying else (y[i - 1], k)))
                entry = (y[i - 1], k, y[i - 2] if i > 1 else count)
                used.append(("triple", (t, *entry, row) if "triple" in steps.varying else entry))
        yield tuple(states), used


def compositions(size, most):
    if size == 0:
        yield ()
    for first in range(1, min(size, most) + 1):
        for rest in compositions(size - first, most):
            yield (first, *rest)


def segment_ways(kind, steps, row, begin, size):
    count = kind.num_labels
    for lengths in compositions(size, kind.max_length):
        for labels in itertools.product(range(count), repeat=len(lengths)):
            used, states, t = [], [], begin
            for n, (d, k) in enumerate(zip(lengths, labels, strict=True)):
                used.append(("length", (d - 1, k)))
                if n:
                    j = labels[n - 1]
                    used.append(("pair", (t, j, k, row) if "pair" in steps.varying else (j, k)))
                    if "joint" in steps.varying:
                        used.append(("joint", (t, d - 1, k, j, row)))
                for name, index in (
                    ("begin", (t, k, row)),
                    ("segment", (t, d - 1, k, row)),
                    ("end", (t + d - 1, k, row)),
                ):
                    if name in steps.varying:
                        used.append((name, index))
                for left in reversed(range(d)):
                    used.append(("node", (t, k, row)))
                    states.append(left * count + k)
                    t += 1
            yield tuple(states), used


def layout():
    start, mask, left = np.ones((TIME, 2), bool), np.zeros((TIME, 2), bool), np.zeros((TIME, 2), np.int32)
    weight = np.zeros((TIME, 2))
    for row, lengths in enumerate(LENGTHS):
        for n, (begin, size) in enumerate(zip(np.cumsum([0, *lengths[:-1]]), lengths, strict=True)):
            start[begin + 1 : begin + size, row] = False
            mask[begin : begin + size, row] = True
            left[begin : begin + size, row] = np.arange(size)[::-1]
            weight[begin : begin + size, row] = 1 + 0.5 * n + row
    return start, mask, left, weight


def random_case(name, *, scale=1.0, zeros=0.0, seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    start, mask, left, weight = layout()
    draw = lambda *shape: np.where(rng.random(shape) < zeros, -np.inf, scale * rng.normal(size=shape))  # noqa: E731
    K, L, T, R = 3, 3, TIME, 2
    varying = {"node": draw(T, K, R)}
    varying["node"] = np.where(mask[:, None], varying["node"], 0)
    if name.startswith("triples"):
        fixed = {"pair": draw(K, K), "triple": draw(K, K, K + 1)}
        if "varying" in name:
            varying |= {"pair": draw(T, K, K, R), "triple": draw(T, K, K, K + 1, R)}
            fixed = {}
        kind, marks = Triples(K), {}
    else:
        kind, marks = Segments(K, L), {"left": left}
        fixed = {"pair": draw(K, K), "length": draw(L, K)}
        fixed["length"][0] = np.where(np.isfinite(fixed["length"][0]), fixed["length"][0], 0)
        if "varying" in name:
            fixed.pop("pair")
            varying |= {"pair": draw(T, K, K, R), "begin": draw(T, K, R), "end": draw(T, K, R)}
            varying |= {"segment": draw(T, L, K, R), "joint": draw(T, L, K, K, R)}
    cast = lambda tree: {k: np.asarray(v, dtype) for k, v in tree.items()}  # noqa: E731
    return Case(kind, Steps(cast(fixed), cast(varying), marks, start), weight.astype(dtype))


NAMES = ["triples", "triples varying", "segments", "segments varying"]
