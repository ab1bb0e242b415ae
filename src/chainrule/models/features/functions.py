"""Features that are functions: the original definition of a conditional random field.

    p(y | x) = exp( Σ_i Σ_j w_j · f_j(x, y_{i−1}, y_i, i) ) / Z(x)                      (Lafferty et al. 2001)

A function may look at the whole observation, at both labels and at the position. Its values do not depend on the
weights, so they are tabulated once.
"""

import inspect
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ...forms.chain import is_concrete
from ...forms.sequences import bucket
from ...inference.compiling import jit
from .base import AbstractFeature, Batch, Gold, Listed, Options, Part, Potentials, as_array, weighted

MANY_CALLS = 2_000_000


def feature_function(function: Callable[..., Any], *, name: str | None = None) -> "AbstractFeature":
    """Any function f(x, y_prev, y, i) of the observation, the label before, the label and the position, or f(x, y, i).

    For models of order 2 it may also be f(x, y_prev2, y_prev, y, i); `y_prev2` is missing at i = 1 as y_prev is at i = 0.

    It returns a number (booleans count as 0 and 1), or an array of J of them: J features with J weights. How it is
    called depends on what a sentence is.

    - *An array* (time, …): f is traced by JAX and tabulated by `jax.vmap`, all positions and labels at once. Labels are
      indices in the order of the model's labels, `y_prev` is −1 at i = 0, and x is padded with zeros:
      x[i + 1] at the end and x[i - 1] at the beginning are zero. So x is longer than the sentence, and what speaks of all
      of it, such as x.mean(0) or len(x), must be made before, as one more number of each token. Write choices with
      `jnp.where`, not with `if`.
    - *A list* of tokens (strings, dicts, anything): f is a plain Python function. Labels are those that the model was
      given, and `y_prev` is None at i = 0. This costs T·K² calls of the function for each sentence (T·K where it has no
      y_prev); from two million calls on a warning says so.

    Args:
        function: with four arguments (x, y_prev, y, i), three (x, y, i) where the label before plays no part, or five
            (x, y_prev2, y_prev, y, i).
        name: what it is called in tables of weights; the name of the function by default.

    Raises:
        ValueError: a function with other arguments, or that returns NaN, infinity or something other than numbers.

    Example:
        >>> import chainrule as cr
        >>> def capital_begins_name(x, y, i):
        ...     return x[i][0].isupper() and y == "NAME"
        >>> def names_last(x, y_prev, y, i):
        ...     return y_prev == "NAME" and y == "NAME"
        >>> functions = [cr.feature_function(capital_begins_name), cr.feature_function(names_last)]
        >>> crf = cr.LinearChainCRF(["O", "NAME"], functions)
        >>> x = [["then", "Ada", "Lovelace", "wrote"], ["notes", "by", "Ada"]]
        >>> y = [["O", "NAME", "NAME", "O"], ["O", "O", "NAME"]]
        >>> crf.fit(x, y, method=cr.LBFGS(l2=0.01)).model.predict(["so", "did", "Grace", "Hopper"])
        ['O', 'O', 'NAME', 'NAME']
    """
    if not callable(function):
        raise ValueError(f"{function!r} is not a function; wanted f(x, y_prev, y, i) or f(x, y, i)")
    count = _count_arguments(function)
    if count == 5:
        from .triples import TripleFunction  # which stands on this module

        return TripleFunction(function, name=name)
    if count not in (3, 4):
        raise ValueError(f"{_name(function)} takes {count} arguments; wanted f(x, y_prev, y, i) or f(x, y, i)")
    return FunctionFeature(function, count == 4, name=name)


class FunctionFeature(AbstractFeature):
    """See `feature_function`.

    Attributes:
        function: f.
        looks_back: whether f takes the label before.
        labels: the labels that f was fitted with.
        weights: w, one for each number that f returns.
        name: what it is called in tables of weights, if not by the name of the function.
    """

    function: Callable[..., Any] = eqx.field(static=True)
    looks_back: bool = eqx.field(static=True)
    labels: tuple | None = eqx.field(static=True, default=None)
    weights: Any = None
    name: str | None = eqx.field(static=True, default=None)

    @property
    def learned(self) -> bool:
        """Whether it has weights."""
        return self.weights is not None

    def num_parameters(self) -> int:
        """How many weights are not zero."""
        return 0 if self.weights is None else int(np.count_nonzero(self.weights))

    def learn(self, batch: Batch, gold: Gold, options: Options) -> "tuple[FunctionFeature, Part]":
        """Weights of zero, or those that are there already."""
        node, pair = self._tables(batch, options.labels)
        count = node.shape[-1]
        weights = self.weights
        if weights is None:
            weights = np.zeros(count, jnp.zeros(0).dtype)
        elif weights.shape != (count,):
            raise ValueError(f"{_name(self.function)} returns {count} numbers, but has {weights.size} weights")
        known = FunctionFeature(self.function, self.looks_back, options.labels, weights, self.name)
        return known, FunctionPart(node, pair, weights)

    def fitted(self, part: "FunctionPart", parameters) -> "FunctionFeature":
        """The feature that a fit ended with."""
        return FunctionFeature(self.function, self.looks_back, self.labels, jax.device_put(parameters), self.name)

    @property
    def origin(self) -> Any:
        """The function, and the labels that it is asked about."""
        return self.function, self.labels

    def describe(self, batch: Batch) -> tuple[Any, Any]:
        """The values of the function."""
        return self._tables(batch, self.labels)

    def potentials(self, batch: Batch, said: Any = None) -> Potentials:
        """Log-potentials of any sentences."""
        node, pair = self.describe(batch) if said is None else said
        return Potentials(weighted(node, self.weights), weighted(pair, self.weights))

    def _tables(self, batch: Batch, labels) -> tuple[Any, Any]:
        """Values of first tokens (of all, where f does not look back) and of steps.

        They are (time, label, row, J) and (time, label, label, row, J).
        """
        arrays = [isinstance(sentence, np.ndarray | jax.Array) for sentence in batch.sentences]
        if all(arrays):
            found = _by_tracing(self.function, self.looks_back, batch.sentences, len(labels))
        elif not any(arrays):
            found = _by_calling(self.function, self.looks_back, batch.sentences, labels)
        else:
            raise ValueError("some sentences are arrays and some are lists; make them all one or the other")
        for table in found:
            check_finite(table, self.function)
        # (token, *labels, J) -> (time, *labels, row, J)
        node, pair = (None if t is None else batch.spread(t).swapaxes(-2, -1) for t in found)
        return node, pair

    def listed(self) -> list[Listed]:
        """The weights, by the name of the function."""
        values = np.asarray(self.weights)
        name = self.name or _name(self.function)
        describe = lambda n: (name if len(values) == 1 else f"{name}[{n}]", -1)  # noqa: E731
        return [Listed(values, np.full(len(values), -1), describe)]

    def __repr__(self):
        return f"feature_function({self.name or _name(self.function)})"


class FunctionPart(Part):
    """A tabulated function in a fit."""

    node: Any
    pair: Any
    initial: Any

    def start(self):
        """The weights."""
        return self.initial

    def potentials(self, parameters, key=None) -> Potentials:
        """Log-potentials."""
        return Potentials(weighted(self.node, parameters), weighted(self.pair, parameters))

    def take(self, rows) -> "FunctionPart":
        """The part of some rows."""
        node, pair = jax.tree.map(lambda t: jnp.asarray(t)[..., rows, :], (self.node, self.pair))
        return FunctionPart(node, pair, self.initial)


def _by_calling(function, looks_back: bool, sentences, labels):
    """Values end to end, by calling a Python function for each position and label(s)."""
    tokens = sum(len(sentence) for sentence in sentences)
    calls = tokens * len(labels) ** (2 if looks_back else 1)
    if calls >= MANY_CALLS:
        warn_of_calls(function, calls, "f(x, y, i) without y_prev")
    node, pair = [], []
    for sentence in sentences:
        for i in range(len(sentence)):
            if looks_back and i:
                pair.append([[function(sentence, before, y, i) for y in labels] for before in labels])
                node.append(None)
            else:
                node.append([function(sentence, *([None] if looks_back else []), y, i) for y in labels])
                pair.append(None)
    first, rest = (
        _filled(node, 1, len(labels), function),
        _filled(pair, 2, len(labels), function) if looks_back else None,
    )
    if rest is not None and first is not None and rest.shape[-1] != first.shape[-1]:
        raise ValueError(
            f"{_name(function)} must always return as many numbers; it returns {first.shape[-1]} at i = 0, where y_prev is "
            f"None, and {rest.shape[-1]} later"
        )
    return first, rest


def warn_of_calls(function, calls: int, instead: str):
    """Say what a Python function costs."""
    warnings.warn(
        f"feature_function: {_name(function)} is called {calls:,} times, in Python. It is much faster as a function "
        f"of arrays, as {instead}, or as attributes(…), which learn a weight for each label",
        stacklevel=3,
    )


def numbers_of(values, function) -> np.ndarray:
    """What a function returned, nested in lists by its arguments, as one array.

    Raises:
        ValueError: something else than numbers, or now more of them and now fewer.
    """
    try:
        given = np.asarray(values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{_name(function)} must return a number, or always as many of them") from error
    if given.dtype.kind not in "biuf":
        raise ValueError(
            f"{_name(function)} must return a number, or always as many of them; it returned {given.dtype}"
        )
    return given.astype(jnp.zeros(0).dtype)


def _filled(rows, axes: int, size: int, function):
    """Rows that are lists of values of the function, or None for zeros, as one array (token, *labels, J)."""
    if all(row is None for row in rows):
        return None
    given = numbers_of([row for row in rows if row is not None], function)
    given = given.reshape(len(given), *[size] * axes, -1)
    full = np.zeros((len(rows), *given.shape[1:]), given.dtype)
    full[[n for n, row in enumerate(rows) if row is not None]] = given
    return full


def _by_tracing(function, looks_back: bool, sentences, size: int):
    """Values end to end, by one vectorised call for all sentences."""
    lengths = np.array([len(sentence) for sentence in sentences])
    longest = bucket(int(lengths.max()))
    node, pair = _tabulate(padded_arrays(sentences, longest), Same(function), looks_back, size, longest)
    real = np.arange(longest) < lengths[:, None]
    return as_array(node)[real], None if pair is None else as_array(pair)[real]


def padded_arrays(sentences, longest: int) -> Any:
    """Sentences that are arrays, with zeros beyond their ends, (sentence, 2 · longest, …)."""
    arrays = [as_array(sentence) for sentence in sentences]
    event = arrays[0].shape[1:]
    for n, array in enumerate(arrays):
        if array.shape[1:] != event:
            raise ValueError(f"sentence {n} has tokens of shape {array.shape[1:]}, but sentence 0 has shape {event}")
    # as many zeros as tokens: x[i + 1] and x[i - 1] find them beyond the ends of the longest sentence, too
    time = 2 * longest
    if all(map(is_concrete, arrays)):
        padded = np.zeros((len(arrays), time, *event), np.result_type(*arrays))
        for n, array in enumerate(arrays):
            padded[n, : len(array)] = array
        return padded
    return jnp.stack([jnp.pad(a, [(0, time - len(a)), *[(0, 0)] * len(event)]) for a in arrays])


def check_finite(table, function):
    """Refuse values (token, …) of a function that are not finite, where they can be looked at."""
    if table is None or not is_concrete(table) or np.isfinite(table).all():
        return
    token = int(np.argwhere(~np.isfinite(table))[0, 0])
    raise ValueError(f"{_name(function)} gives NaN or infinity at token {token}, counted over all sentences")


class Same:
    """A function as a static argument: equal to itself alone, whatever it holds."""

    def __init__(self, function):
        self.function = function

    def __hash__(self):
        return id(self.function)

    def __eq__(self, other):
        return isinstance(other, Same) and self.function is other.function


@partial(jit, static_argnums=(1, 2, 3, 4))
def _tabulate(padded, same, looks_back, size, longest):
    dtype = jnp.zeros(0).dtype
    labels, steps = jnp.arange(size), jnp.arange(longest)

    def value(*args):
        return jnp.atleast_1d(jnp.asarray(same.function(*args)).astype(dtype)).reshape(-1)

    if not looks_back:
        over = jax.vmap(jax.vmap(jax.vmap(value, (None, 0, None)), (None, None, 0)), (0, None, None))
        return over(padded, labels, steps), None
    at_start = jax.vmap(jax.vmap(value, (None, None, 0, None)), (0, None, None, None))
    begin = at_start(padded, jnp.array(-1), labels, jnp.array(0))
    node = jnp.zeros((padded.shape[0], longest, *begin.shape[1:]), dtype).at[:, 0].set(begin)
    inner = jax.vmap(jax.vmap(value, (None, None, 0, None)), (None, 0, None, None))
    over = jax.vmap(jax.vmap(inner, (None, None, None, 0)), (0, None, None, None))
    pair = over(padded, labels, labels, steps)
    return node, pair.at[:, 0].set(0)


def _count_arguments(function) -> int:
    """How many arguments must be given: those with a default, as in `lambda x, y, i, word=word: …`, are not asked for."""
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(function).parameters.values()
    return sum(p.kind in positional and p.default is p.empty for p in parameters)


def _name(function) -> str:
    return getattr(function, "__name__", type(function).__name__)
