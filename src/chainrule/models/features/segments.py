"""Where the features of a semi-Markov CRF speak: at each token, at the ends of a segment, or of a segment as a whole.

A segment of tokens b … e with label k, after one with label j, adds

    Σ_t f(x, t, k)  +  begins: g(x, b, k)  +  ends: h(x, e, k)  +  segments: s(x, b, e, k[, j]).

Whatever makes features of tokens makes f, g and h. Features of segments come from names or numbers of x[b : e + 1], or from
any function.
"""

import inspect
import re
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ...forms.sequences import Layout, Sequences
from .base import AbstractFeature, Batch, Gold, Listed, Options, Part, as_array, weighted
from .dense import DenseFeature
from .functions import MANY_CALLS, numbers_of, warn_of_calls
from .named_attributes import attributes
from .sparse import SparseFeature, as_feature


def begins(feature) -> "Placed":
    """A feature of tokens that speaks of the first token of a segment only.

    Example:
        >>> import chainrule as cr
        >>> word = cr.templates("%x[0,0]")
        >>> features = [cr.features.begins(word), cr.features.ends(word)]
        >>> cr.SemiMarkovCRF(["O", "NAME"], features, max_length=2)
        SemiMarkovCRF(2 labels, [begins(Templates(1 template)), ends(Templates(1 template))], segments up to 2)
    """
    return Placed(as_feature(feature), "begin")


def ends(feature) -> "Placed":
    """A feature of tokens that speaks of the last token of a segment only. See `begins`."""
    return Placed(as_feature(feature), "end")


def segment_attributes(extract: Callable[[Any, int, int], Any]) -> "Placed":
    """Names of each segment, each weighted for each label: whole phrases, lists of names, shapes.

    Args:
        extract: `extract(x, start, stop)` gives the attributes of the segment x[start:stop], as `attributes` wants those of
            a token: a dict of strings, numbers and booleans, or a list of names. It is called once for each possible
            segment.

    Example:
        >>> import chainrule as cr
        >>> def capitals(x, start, stop):
        ...     return [f"{sum(word[0].isupper() for word in x[start:stop])} of {stop - start}"]
        >>> features = [cr.features.segment_attributes(capitals)]
        >>> crf = cr.SemiMarkovCRF(["O", "NAME"], features, max_length={"O": 1, "NAME": 3})
        >>> x = [["then", "Ada", "Lovelace", "wrote"], ["by", "hand", "wrote", "Ada"]]
        >>> y = [["O", "B-NAME", "I-NAME", "O"], ["O", "O", "O", "B-NAME"]]
        >>> crf.fit(x, y, method=cr.LBFGS(l2=0.01)).model.predict(["so", "did", "Grace", "Hopper"], tags=True)
        ['O', 'O', 'B-NAME', 'I-NAME']
    """
    return Placed(SegmentFeature(_callable(extract), SparseFeature(attributes()), empty=True), "segment")


def segment_dense(extract: Callable[[Any, int, int], Any]) -> "Placed":
    """Numbers of each segment, each weighted for each label, and a bias for each label.

    Args:
        extract: `extract(x, start, stop)` gives an array (D,) or a number. It is called once for each possible segment;
            differences of prefix sums make sums over segments cheap.

    Example:
        >>> import numpy as np, chainrule as cr
        >>> spread = cr.features.segment_dense(lambda x, start, stop: np.ptp(x[start:stop]))
        >>> cr.SemiMarkovCRF(["low", "high"], [cr.dense(), spread], max_length=3)
        SemiMarkovCRF(2 labels, [dense(), segments(dense())], segments up to 3)
    """
    return Placed(SegmentFeature(_callable(extract), DenseFeature(None), empty=False), "segment")


def segment_function(function: Callable[..., Any]) -> "Placed":
    """Any function f(x, start, stop, y) of a segment and its label, or f(x, start, stop, y, y_prev) of the one before too.

    It is a plain Python function that returns a number, or always as many: J features with J weights. Labels are those that
    the model was given, and y_prev is None for the first segment. It is called for each possible segment and label(s).

    Raises:
        ValueError: a function with other arguments, or that returns NaN, infinity or something other than numbers.

    Example:
        >>> import chainrule as cr
        >>> def two_capitals(x, start, stop, y):
        ...     return y == "NAME" and stop - start == 2 and all(word[0].isupper() for word in x[start:stop])
        >>> cr.segment_function(two_capitals)
        segment_function(two_capitals)
    """
    return Placed(SegmentFunction(_callable(function)), "segment")


def _callable(function):
    if not callable(function):
        raise ValueError(f"{function!r} is not a function; wanted one of (x, start, stop, …)")
    return function


class Placed(eqx.Module):
    """A feature, and of what it speaks: "node", "begin", "end" or "segment"."""

    feature: Any
    where: str = eqx.field(static=True)

    def learn(self, batch: Batch, segmented, options: Options, max_length: int) -> "tuple[Placed, PlacedPart]":
        """The feature with weights, and its part in a fit."""
        gold = segmented.tokens(self.where, len(options.labels), max_length)
        if self.where == "segment":
            learned, part = self.feature.learn(batch, gold, options, max_length)
        else:
            learned, part = self.feature.learn(batch, gold, options)
        return Placed(learned, self.where), PlacedPart(part, self.where)

    def fitted(self, part: "PlacedPart", parameters) -> "Placed":
        """The feature that a fit ended with."""
        return Placed(self.feature.fitted(part.part, parameters), self.where)

    def potentials(self, batch: Batch, max_length: int) -> dict[str, Any]:
        """Log-potentials of any sentences, by name."""
        if self.where == "segment":
            return self.feature.potentials(batch, max_length)
        return _named(self.where, self.feature.potentials(batch))

    def listed(self) -> list[Listed]:
        """The weights, by name and place."""
        if self.where == "node":
            return self.feature.listed()
        place = lambda listed: lambda n: (f"{self.where}: {listed.describe(n)[0]}", listed.describe(n)[1])  # noqa: E731
        return [Listed(listed.values, listed.label, place(listed)) for listed in self.feature.listed()]

    def __repr__(self):
        return repr(self.feature) if self.where in ("node", "segment") else f"{self.where}s({self.feature})"


def as_placed(feature) -> Placed:
    """A feature, and where it speaks."""
    return feature if isinstance(feature, Placed) else Placed(as_feature(feature), "node")


def _named(where: str, found) -> dict[str, Any]:
    if found.triple is not None:
        raise ValueError("a semi-Markov CRF knows one label before; give functions f(x, y_prev, y, i) without y_prev2")
    if where == "node":
        return {"node": found.node, "pair": found.pair}
    if found.pair is not None:
        raise ValueError(f"{where}s(…) takes features of labels; those of steps already speak where segments meet")
    return {where: found.node}


class PlacedPart(Part):
    """A feature in a fit, whose potentials have names."""

    part: Part
    where: str = eqx.field(static=True)

    def start(self):
        """Parameters to begin with."""
        return self.part.start()

    def sizes(self):
        """Units of L1 penalty."""
        return self.part.sizes()

    def potentials(self, parameters, key=None) -> Any:  # a dict, unlike other parts'
        """Log-potentials, by name."""
        found = self.part.potentials(parameters, key)
        return found if self.where == "segment" else _named(self.where, found)

    def take(self, rows) -> "PlacedPart":
        """The part of some rows."""
        return PlacedPart(self.part.take(rows), self.where)


def every_segment(batch: Batch, max_length: int, extract, empty: bool) -> Batch:
    """Sentences whose tokens are the segments of the given ones: L for each token, empty where they go too far."""
    sentences = []
    for n, x in enumerate(batch.sentences):
        found, nothing = [], None
        for start in range(len(x)):
            for stop in range(start + 1, start + 1 + max_length):
                found.append(extract(x, start, stop) if stop <= len(x) else None)
        if empty:
            found = [[one] if isinstance(one, str) else one for one in found]  # one name
            nothing = {} if isinstance(found[0], dict) else []
        else:
            found = [None if one is None else as_array(one).reshape(-1) for one in found]
            nothing = np.zeros(found[0].shape, found[0].dtype)
            sizes = {one.shape for one in found if one is not None}
            if len(sizes) > 1:
                raise ValueError(f"segment_dense: the segments of sentence {n} have different numbers of numbers")
        sentences.append([nothing if one is None else one for one in found])
    layout = batch.layout
    mask = np.repeat(np.asarray(layout.mask), max_length, 0)
    each = np.tile(np.arange(max_length, dtype=np.int32), len(layout.mask))[:, None]
    values = np.repeat(np.asarray(layout.values), max_length, 0) * max_length + each
    start = np.repeat(np.asarray(layout.start), max_length, 0) & ((each == 0) | ~mask)
    where = Layout(start, mask, layout.row, np.asarray(layout.offset) * max_length)
    wide = Sequences(np.where(mask, values, 0).astype(np.int32), np.asarray(layout.lengths) * max_length, where)
    return Batch(sentences, wide, batch.single)


@contextmanager
def _naming_segments(max_length: int):
    """Let errors about a token, which here is a segment, name the segment."""

    def segment(found: re.Match) -> str:
        start, left = divmod(int(found[1]), max_length)
        return f"segment ({start}, {start + left + 1})"

    try:
        yield
    except ValueError as error:
        raise ValueError(re.sub(r"\btoken (\d+)", segment, str(error))) from error


class SegmentFeature(eqx.Module):
    """A feature of tokens that takes segments for tokens; see `segment_attributes` and `segment_dense`."""

    extract: Callable[..., Any] = eqx.field(static=True)
    inner: AbstractFeature
    empty: bool = eqx.field(static=True)

    @property
    def learned(self) -> bool:
        """Whether it has weights."""
        return self.inner.learned

    @property
    def one_per_row(self) -> bool:
        """Segments of several sentences may share a row."""
        return False

    def num_parameters(self) -> int:
        """How many weights there are."""
        return self.inner.num_parameters()

    def listed(self) -> list[Listed]:
        """The weights, by name."""
        return self.inner.listed()

    def learn(self, batch: Batch, gold: Gold, options: Options, max_length: int):
        """Read the segments of training sentences."""
        wide = every_segment(batch, max_length, self.extract, self.empty)
        with _naming_segments(max_length):
            inner, part = self.inner.learn(wide, gold, options)
        return SegmentFeature(self.extract, inner, self.empty), SegmentPart(part, max_length)

    def fitted(self, part: "SegmentPart", parameters) -> "SegmentFeature":
        """The feature that a fit ended with."""
        return SegmentFeature(self.extract, self.inner.fitted(part.inner, parameters), self.empty)

    def potentials(self, batch: Batch, max_length: int) -> dict[str, Any]:
        """Log-potentials of any sentences' segments."""
        wide = every_segment(batch, max_length, self.extract, self.empty)
        with _naming_segments(max_length):
            return {"segment": _folded(self.inner.potentials(wide).node, max_length)}

    def __repr__(self):
        return f"segments({self.inner})"


class SegmentPart(Part):
    """Features of segments in a fit."""

    inner: Part
    max_length: int = eqx.field(static=True)

    def start(self):
        """Parameters to begin with."""
        return self.inner.start()

    def sizes(self):
        """Units of L1 penalty."""
        return self.inner.sizes()

    def potentials(self, parameters, key=None) -> Any:
        """Log-potentials of segments."""
        return {"segment": _folded(self.inner.potentials(parameters, key).node, self.max_length)}

    def take(self, rows) -> "SegmentPart":
        """The part of some rows."""
        return SegmentPart(self.inner.take(rows), self.max_length)


def _folded(node, max_length: int):
    """(time · length, label, row) as (time, length, label, row)."""
    return None if node is None else node.reshape(-1, max_length, *node.shape[1:])


class SegmentFunction(eqx.Module):
    """See `segment_function`.

    Attributes:
        function: f.
        labels: the labels that f was fitted with.
        weights: w, one for each number that f returns.
    """

    function: Callable[..., Any] = eqx.field(static=True)
    looks_back: bool = eqx.field(static=True)
    labels: tuple | None = eqx.field(static=True)
    weights: Any

    def __init__(self, function, labels=None, weights=None):
        parameters = inspect.signature(function).parameters.values()
        kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        count = sum(p.kind in kinds and p.default is p.empty for p in parameters)
        if count not in (4, 5):
            raise ValueError(
                f"{_name(function)} takes {count} arguments; wanted f(x, start, stop, y) or f(x, start, stop, y, y_prev)"
            )
        self.function, self.looks_back, self.labels, self.weights = function, count == 5, labels, weights

    @property
    def learned(self) -> bool:
        """Whether it has weights."""
        return self.weights is not None

    @property
    def one_per_row(self) -> bool:
        """Segments of several sentences may share a row."""
        return False

    def num_parameters(self) -> int:
        """How many weights are not zero."""
        return 0 if self.weights is None else int(np.count_nonzero(self.weights))

    def listed(self) -> list[Listed]:
        """The weights, by the name of the function."""
        values, name = np.asarray(self.weights), _name(self.function)
        describe = lambda n: (name if len(values) == 1 else f"{name}[{n}]", -1)  # noqa: E731
        return [Listed(values, np.full(len(values), -1), describe)]

    def learn(self, batch: Batch, gold: Gold, options: Options, max_length: int):
        """Weights of zero, or those that are there already."""
        tables = self._tables(batch, options.labels, max_length)
        size = tables["segment"].shape[-1]
        weights = np.zeros(size, tables["segment"].dtype) if self.weights is None else self.weights
        if weights.shape != (size,):
            raise ValueError(f"{_name(self.function)} returns {size} numbers, but has {weights.size} weights")
        return SegmentFunction(self.function, options.labels, weights), TablePart(tables, weights)

    def fitted(self, part: "TablePart", parameters) -> "SegmentFunction":
        """The feature that a fit ended with."""
        return SegmentFunction(self.function, self.labels, jax.device_put(parameters))

    def potentials(self, batch: Batch, max_length: int) -> dict[str, Any]:
        """Log-potentials of any sentences' segments."""
        tables = self._tables(batch, self.labels, max_length)
        return {name: weighted(table, self.weights) for name, table in tables.items()}

    def _tables(self, batch: Batch, labels, max_length: int) -> dict[str, Any]:
        """Values by name: segment (time, length, label, row, J), joint (time, length, label, label before, row, J)."""
        size, f = len(labels), self.function
        calls = batch.num_tokens * max_length * size ** (2 if self.looks_back else 1)
        if calls >= MANY_CALLS:
            warn_of_calls(f, calls, "segment_attributes(…) or segment_dense(…), which learn a weight for each label")
        plain, joint = [], []
        for n, x in enumerate(batch.sentences):
            for start in range(len(x)):
                for stop in range(start + 1, start + 1 + max_length):
                    if stop > len(x):
                        plain.append(None)
                        joint.append(None)
                    elif not self.looks_back or start == 0:
                        last = (None,) if self.looks_back else ()
                        plain.append(_numbers([f(x, start, stop, y, *last) for y in labels], f, n))
                        joint.append(None)
                    else:
                        values = [_numbers([f(x, start, stop, y, before) for before in labels], f, n) for y in labels]
                        plain.append(None)
                        joint.append(np.stack(values))
        found = {"segment": _filled(plain)}
        if self.looks_back:
            found["joint"] = _filled(joint, (size, size, found["segment"].shape[-1]))
        return {
            name: np.moveaxis(batch.spread(table.reshape(-1, max_length, *table.shape[1:])), -2, -1)
            for name, table in found.items()
        }

    def __repr__(self):
        return f"segment_function({_name(self.function)})"


class TablePart(Part):
    """A tabulated function of segments in a fit."""

    tables: dict[str, Any]
    initial: Any

    def start(self):
        """The weights."""
        return self.initial

    def potentials(self, parameters, key=None) -> Any:
        """Log-potentials of segments."""
        return {name: weighted(table, parameters) for name, table in self.tables.items()}

    def take(self, rows) -> "TablePart":
        """The part of some rows."""
        return TablePart(jax.tree.map(lambda t: jnp.asarray(t)[..., rows, :], self.tables), self.initial)


def _numbers(values, function, n: int) -> np.ndarray:
    """Values for each label, (label, J)."""
    try:
        found = np.stack([np.ravel(numbers_of(value, function)) for value in values])
    except ValueError as error:
        raise ValueError(f"{_name(function)} must return a number, or always as many of them") from error
    if not np.isfinite(found).all():
        raise ValueError(f"{_name(function)} gives NaN or infinity in sentence {n}")
    return found


def _filled(rows, shape=None) -> np.ndarray:
    """Rows with zeros for None."""
    given = [row for row in rows if row is not None]
    shape = given[0].shape if given else shape
    assert shape is not None  # every sentence has a segment of one token
    full = np.zeros((len(rows), *shape), jnp.zeros(0).dtype)
    full[[n for n, row in enumerate(rows) if row is not None]] = np.stack(given) if given else 0
    return full


def _name(function) -> str:
    return getattr(function, "__name__", type(function).__name__)
