"""Classification restricted Boltzmann machines: the label is one more softmax unit beside the visible layer.

    E(v, y, h) = −log g(v; a) − d_y − Σ_j h_j (b_j + s(v) W_j + U_{y j}) − log g(h; 0)

The hidden units sum out for each label, so p(y | v) is exact at the cost of one free energy a label:

    log p(y | v) = d_y + Σ_j log(1 + exp(b_j + U_{yj} + s(v) W_j)) + const        (binary hidden units).

It can be fitted as a classifier (log p(y | v), by its exact gradient), as a density (log p(v, y), by contrastive
divergence), or by a weighted sum of the two.

Reference: Larochelle and Bengio (2008), Classification using discriminative restricted Boltzmann machines; Larochelle,
Mandel, Pascanu and Bengio (2012), Learning algorithms for the classification restricted Boltzmann machine.
"""

from collections.abc import Hashable, Sequence
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Key

from ...forms.chain import is_concrete
from ...learning import minibatch
from ...learning import progress as bars
from ...learning.fit import Fit, Status
from ...learning.minibatch import MiniBatch
from ...learning.validation import Validation, Watch
from ..emissions.base import as_parameter, generator
from . import engine
from .data import answer, as_rows, columns, spread
from .machine import RBM


class ClassificationRBM(eqx.Module):
    """A restricted Boltzmann machine of data and labels.

    Args:
        machine: the part without labels, W, a and b.
        label_weights: U, shape (labels, hidden units).
        label_bias: d, shape (labels,); zeros if not given.
        labels: names of the labels; 0, 1, … by default.

    Raises:
        ValueError: shapes or names that do not fit, or parameters that are not finite.

    Example:
        >>> import jax, numpy as np, chainrule as cr
        >>> rng = np.random.default_rng(0)
        >>> y = rng.integers(0, 2, 300)
        >>> v = (rng.random((300, 8)) < np.where(y == 1, 0.8, 0.2)[:, None]).astype(np.uint8)
        >>> start = cr.ClassificationRBM.random(jax.random.key(0), num_visible=8, num_hidden=4, labels=("low", "high"))
        >>> fit = start.fit(v, np.array(("low", "high"))[y], key=jax.random.key(1))
        >>> fit.model.predict(np.ones(8))
        'high'
    """

    machine: RBM
    label_weights: Float[Array, "label hidden"]
    label_bias: Float[Array, " label"]
    labels: tuple[Hashable, ...] = eqx.field(static=True)

    def __init__(self, machine: RBM, label_weights, label_bias=None, labels: Sequence[Hashable] | None = None):
        self.machine = machine
        self.label_weights = as_parameter(label_weights)
        if self.label_weights.ndim != 2 or self.label_weights.shape[1] != machine.num_hidden:
            raise ValueError(
                f"label_weights have shape {self.label_weights.shape}; wanted (labels, {machine.num_hidden} hidden units)"
            )
        count = len(self.label_weights)
        self.label_bias = as_parameter(np.zeros(count) if label_bias is None else label_bias)
        if self.label_bias.shape != (count,):
            raise ValueError(f"label_bias has shape {self.label_bias.shape}; wanted ({count},)")
        for name in ("label_weights", "label_bias"):
            values = getattr(self, name)
            if is_concrete(values) and not np.isfinite(np.asarray(values)).all():
                raise ValueError(f"{name} has entries that are NaN or infinite")
        self.labels = tuple(range(count)) if labels is None else tuple(labels)
        if len(self.labels) != count or len(set(self.labels)) != count:
            raise ValueError(f"labels are {self.labels!r}; wanted {count} different names")

    @classmethod
    def random(
        cls,
        key: Key[Array, ""],
        num_visible: int,
        num_hidden: int,
        *,
        labels: int | Sequence[Hashable],
        visible=None,
        hidden=None,
        data=None,
        scale: float = 0.01,
    ) -> "ClassificationRBM":
        """A machine to begin a fit with; `labels` are their names, or how many there are. See `RBM.random`."""
        names = tuple(range(labels)) if isinstance(labels, int) else tuple(labels)
        first, second = jax.random.split(key)
        options = {"visible": visible, "hidden": hidden, "data": data, "scale": scale}
        machine = RBM.random(first, num_visible, num_hidden, **options)
        return cls(machine, scale * generator(second).normal(size=(len(names), num_hidden)), None, names)

    # What it is

    @property
    def num_visible(self) -> int:
        """Number of visible units, the label not counted."""
        return self.machine.num_visible

    @property
    def num_hidden(self) -> int:
        """Number of hidden units."""
        return self.machine.num_hidden

    @property
    def num_labels(self) -> int:
        """Number of labels."""
        return len(self.labels)

    # Answers

    def label_log_probs(self, v) -> Any:
        """Log p(y | v) of each label, exact, (n, labels). What is missing in v takes no part.

        Example:
            >>> import chainrule as cr, numpy as np
            >>> model = cr.ClassificationRBM(cr.RBM([[2.0], [2.0]]), [[-1.0], [1.0]], labels=("low", "high"))
            >>> np.exp(model.label_log_probs([[0, 0], [1, 1]])).astype(float).round(2).tolist()
            [[0.27, 0.73], [0.12, 0.88]]
        """
        rows = as_rows(self.machine, v, missing=True)
        return answer(rows, _label_log_probs(self, rows.values, rows.observed))

    def predict(self, v) -> Any:
        """The most probable label of each row, by name."""
        rows = as_rows(self.machine, v, missing=True)
        best = np.asarray(_label_log_probs(self, rows.values, rows.observed)).argmax(1)
        return self.labels[best[0]] if rows.single else [self.labels[i] for i in best]

    def features(self, v, y) -> Any:
        """E[h | v, y], (n, hidden units)."""
        rows = as_rows(self.machine, v, missing=True)
        codes = self.codes([y] if rows.single else y, len(rows.values))
        return answer(rows, _features(self, rows.values, rows.observed, codes))

    def sample(self, key: Key[Array, ""], y, *, sweeps: int = 1000) -> Any:
        """Draw a row for each label in y, with the labels held, by Gibbs chains whose couplings are turned up slowly."""
        if sweeps < 1:
            raise ValueError(f"sweeps is {sweeps}; at least one is needed")
        return _sample(self, key, self.codes(y, len(y)), sweeps)

    def codes(self, y, rows: int) -> np.ndarray:
        """Labels as numbers, checked."""
        known = {name: code for code, name in enumerate(self.labels)}
        names = y.tolist() if isinstance(y, np.ndarray | jax.Array) else list(y)
        if len(names) != rows:
            raise ValueError(f"{len(names)} labels for {rows} rows")
        for row, name in enumerate(names):
            if name not in known:
                raise ValueError(f"row {row}: {name!r} is not a label; they are {list(self.labels)}")
        return np.array([known[name] for name in names], np.int32)

    def given(self, label: Hashable) -> RBM:
        """The machine of v alone when the label is known, by name: an RBM with hidden biases b + U_y.

        Raises:
            ValueError: a name that is no label.

        Example:
            >>> import chainrule as cr
            >>> model = cr.ClassificationRBM(cr.RBM([[0.0]]), [[1.0], [2.0]], labels=("low", "high"))
            >>> model.given("high").hidden_bias.tolist()
            [2.0]
        """
        code = self.codes([label], 1)[0]
        return eqx.tree_at(lambda m: m.hidden_bias, self.machine, self.machine.hidden_bias + self.label_weights[code])

    # Learning

    def fit(
        self,
        v,
        y,
        *,
        key: Key[Array, ""],
        method: MiniBatch | None = None,
        discriminative: float = 1.0,
        generative: float = 0.0,
        sweeps: int = 1,
        validation: Validation | None = None,
        progress: bool = False,
    ) -> Fit:
        """Fit by climbing discriminative · log p(y | v) + generative · log p(v, y).

        Args:
            v: rows (n, units), missing entries allowed.
            y: their labels.
            key: seeds batches and chains.
            method: `MiniBatch(epochs=20, batch_size=100, learning_rate=1e-3)` by default.
            discriminative: weight of log p(y | v), whose gradient is exact.
            generative: weight of log p(v, y), by contrastive divergence. 0.01 beside 1 is the hybrid of Larochelle and
                Bengio; 1 beside 0 is the density alone.
            sweeps: k of CD-k for the density.
            validation: looked at after each epoch; keeps the best machine.
            progress: whether to show a bar.

        Returns:
            A `Fit`; `log_prob` is Σ log p(y | v), and `history` the objective's stochastic estimate by epoch.

        Raises:
            ValueError: data, labels or a method that do not fit, weights that are negative or all zero.
        """
        if not (discriminative >= 0 and generative >= 0 and discriminative + generative > 0):
            raise ValueError(f"weights are {discriminative} and {generative}; wanted numbers from 0 on, not both 0")
        if sweeps < 1:
            raise ValueError(f"sweeps is {sweeps}; at least one is needed")
        method = MiniBatch(epochs=20, batch_size=100) if method is None else method
        if not isinstance(method, MiniBatch):
            raise ValueError(f"a ClassificationRBM is fitted by MiniBatch(), not by {type(method).__name__}")
        rows = as_rows(self.machine, v, missing=True)
        codes = self.codes([y] if rows.single else y, len(rows.values))
        data = jax.device_put((rows.values, rows.observed, codes))
        total = len(rows.values)
        order = method.order(generator(key), total, total)
        pace = minibatch.Pace.of(method, len(order))
        weights = jnp.asarray(discriminative, float), jnp.asarray(generative, float), sweeps
        watch = None if validation is None else Watch(validation)
        state, losses = _begin(self, method, average=bool(method.average)), []
        with bars.bar("mini-batches", total=len(order), enabled=progress) as token:
            for part in [order] if watch is None else np.split(order, method.epochs):
                state, found = _descend(
                    state, data, part, key, method, pace, weights, token, has_density=generative > 0
                )
                losses.append(np.asarray(found, float))
                if watch is not None and watch.look(state.answer, state.answer):
                    break
        model = state.answer if watch is None else watch.best
        history = -np.concatenate(losses).reshape(-1, len(order) // method.epochs).mean(1)
        log_prob = float(_total(model, data))
        status = Status.STOPPED_EARLY if len(history) < method.epochs else Status.MAX_ITERATIONS
        if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.answer)):  # whatever was best before
            status = Status.DIVERGED
        return Fit(
            model=model,
            status=status if np.isfinite(log_prob) else Status.DIVERGED,
            iterations=int(state.step),
            log_prob=log_prob,
            history=history,
            restart_objectives=np.zeros(0),
            degenerate=np.zeros(self.num_hidden, bool),
            num_parameters=sum(leaf.size for leaf in jax.tree.leaves(model)),
            num_observations=total,
            validation=None if watch is None else np.array(watch.scores),
        )

    def __repr__(self):
        return f"ClassificationRBM({self.num_labels} labels, {self.machine!r})"


def _scores(model, drive):
    """Log Σ_h of each label, without log g(v): (rows, labels)."""
    bias = (model.machine.hidden_bias[None] + model.label_weights)[None]
    inner = model.machine.hidden.log_normaliser(bias, drive[:, None]).sum(-1)
    return model.label_bias[None] + inner


def _columns(model, values, observed):
    observed = spread(model.machine, observed)
    return engine.keep(columns(model.machine, values), observed), observed


@jax.jit
def _label_log_probs(model, values, observed):
    x, _ = _columns(model, values, observed)
    return jax.nn.log_softmax(_scores(model, engine.hidden_drive(model.machine, x)), axis=-1)


@jax.jit
def _features(model, values, observed, codes):
    x, _ = _columns(model, values, observed)
    bias = model.machine.hidden_bias[None] + model.label_weights[codes]
    return model.machine.hidden.mean(bias, engine.hidden_drive(model.machine, x))


@jax.jit
def _total(model, data):
    values, observed, codes = data
    return _label_log_probs(model, values, observed)[jnp.arange(len(codes)), codes].sum()


@jax.jit
def _sample(model, key, codes, sweeps):
    machine, base = model.machine, model.machine.visible_bias
    half = jnp.maximum(sweeps // 2, 1).astype(machine.dtype)
    bias = machine.hidden_bias[None] + model.label_weights[codes]

    def body(i, x):
        beta = jnp.minimum((i + 1).astype(x.dtype) / half, 1)
        for_visible, for_hidden = engine.uniforms(machine, jax.random.fold_in(key, i + 1), len(codes))
        zero = jnp.zeros((1, 1), x.dtype)
        hidden = machine.hidden.sample(for_hidden, zero, beta * (bias + engine.hidden_drive(machine, x)))
        return engine.visible_at(machine, for_visible, base, beta, hidden)

    uniform, _ = engine.uniforms(machine, jax.random.fold_in(key, 0), len(codes))
    return machine.visible.decode(lax.fori_loop(0, sweeps, body, engine.sample_base(machine, uniform, base)))


@partial(jax.jit, static_argnames="average")
def _begin(model, method: MiniBatch, *, average: bool):
    return minibatch.begin(model, method, average=average)


@partial(jax.jit, static_argnames="has_density")
def _descend(state, data, order, key, method: MiniBatch, pace, weights, token, *, has_density: bool):
    values, observed, codes = data
    discriminative, generative, sweeps = weights

    def loss(model, rows, key):
        dtype = model.label_bias.dtype
        x, seen = _columns(model, values[rows], None if observed is None else observed[rows])
        score, drive = engine.parts(model.machine, x, seen)
        scores, own = _scores(model, drive), codes[rows]
        picked = scores[jnp.arange(len(rows)), own]
        value = -discriminative.astype(dtype) * (picked - jax.nn.logsumexp(scores, axis=-1)).mean()
        if has_density:
            drawn, label = lax.stop_gradient(_chain(model, key, x, seen, own, sweeps))
            away, away_drive = engine.parts(model.machine, drawn, seen)
            against = _scores(model, away_drive)[jnp.arange(len(rows)), label]
            value = value - generative.astype(dtype) * (score + picked - away - against).mean()
        squares = sum(jnp.vdot(leaf, leaf) for leaf in jax.tree.leaves(model))
        return value + (method.l2 / len(values)) * squares

    return minibatch.descend(loss, state, order, key, method, pace, token)


def _chain(model, key, x, seen, codes, sweeps):
    """CD-k of rows and labels together: v⁻ and y⁻."""
    machine = model.machine

    def body(i, carry):
        x, codes = carry
        first, second = jax.random.split(jax.random.fold_in(key, i))
        for_visible, for_hidden = engine.uniforms(machine, first, len(codes))
        bias = machine.hidden_bias[None] + model.label_weights[codes]
        hidden = machine.hidden.sample(for_hidden, bias, engine.hidden_drive(machine, x))
        label = jax.random.categorical(
            second, model.label_bias[None] + engine.product(hidden, model.label_weights.T), axis=-1
        )
        drawn = engine.keep(engine.sample_visible(machine, for_visible, hidden), seen)
        return drawn, label.astype(codes.dtype)

    return lax.fori_loop(0, sweeps, body, (x, codes))
