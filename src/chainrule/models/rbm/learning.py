"""Fits of restricted Boltzmann machines: all epochs and batches in one compiled program.

A step draws the machine's side v⁻ by the method, and follows

    mean over the batch of −F(v)  −  mean over the chains of −F(v⁻)

uphill in the machine's parameters. With `centred`, the step is taken in the parameters a' = a + W λ, b' = b + μ W that
go with variables around μ = ⟨s(v)⟩ and λ = ⟨h⟩, the means over the data, and then told in those of the machine:

    ∇_W' = ∇_W − ∇_a λᵀ − μ ∇_bᵀ,    ΔW = η ∇_W',    Δa = η ∇_a − ΔW λ,    Δb = η ∇_b − μ ΔW.

This is the algorithm of Melchior, Fischer and Wiskott (2016): what they do to the biases when offsets move is not needed,
because the machine's own parameters never contain offsets. Where rows miss entries μ is 0: around the mean of a unit that
a row does not have, its b' would contain weights of that unit.
"""

from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ...forms.sequences import bucket
from ...learning import progress as bars
from ...learning.contrastive import CD, PCD
from ...learning.fit import Fit, Status
from ...learning.validation import Validation, Watch
from . import engine
from .data import Rows, as_rows, columns, spread
from .units import Gaussian, totals

OFFSET_RATE = 0.01  # share of a batch's mean in λ (Melchior et al. 2016, section 6)
VARIANCE_RATE = 0.02  # of the learning rate: variances that learn as fast as weights leave these nothing to explain
HISTORY = 64  # epochs that the record of a fit has room for at least, so that fewer of them are no new program


class Training(NamedTuple):
    """A fit on its way."""

    machine: Any
    chains: Any  # hidden values (rows, H), tempered ones (temperatures · rows, H); None for CD
    hidden_mean: Any  # λ
    visible_mean: Any  # of the columns; μ is s of it
    inner: Any  # the optimiser's state
    fast: Any  # fast weights, or None
    step: Any
    history: Any  # by epoch


class Pace(NamedTuple):
    """What a compiled fit has to know of its data."""

    steps: Any  # in the whole fit
    base: Any  # biases of the machine without hidden units, for tempering


def fit(
    machine, data, method: "CD | PCD | None", key, *, validation: Validation | None = None, progress: bool = False
) -> Fit:
    """Fit a machine; see `RBM.fit`."""
    method = PCD() if method is None else method
    if not isinstance(method, CD | PCD):
        raise ValueError(f"a restricted Boltzmann machine is fitted by CD() or PCD(), not by {type(method).__name__}")
    rows = as_rows(machine, np.atleast_2d(data) if np.ndim(data) == 1 else data, missing=True)
    if rows.observed is not None and isinstance(method, PCD):
        raise ValueError(
            "entries are missing, and persistent chains are of whole vectors: fit by method=CD(), where each row has "
            "its own machine"
        )
    base, _ = machine.visible.start(rows.values, rows.observed)
    state, status, scores = descend(
        machine,
        rows,
        method,
        key,
        base=base,
        means=_means(machine, rows.values, rows.observed),
        validation=validation,
        progress=progress,
    )
    found = state.machine
    num_parameters = sum(leaf.size for leaf in jax.tree.leaves(found))
    return outcome(found, state, status, scores, len(rows.values), lambda: found.total_if_cheap(rows), num_parameters)


def outcome(model, state: "Training", status: Status, scores, num_observations: int, log_prob, num_parameters) -> Fit:
    """A `Fit` of what `descend` has found; `log_prob` is called where the parameters are finite."""
    return Fit(
        model=model,
        status=status,
        iterations=int(state.step),
        log_prob=log_prob() if _is_finite(state.machine) else float("nan"),
        history=np.asarray(state.history, float),
        restart_objectives=np.zeros(0),
        degenerate=np.zeros(state.machine.num_hidden, bool),
        num_parameters=int(num_parameters),
        num_observations=num_observations,
        validation=scores,
    )


def descend(
    machine, rows: Rows, method: "CD | PCD", key, *, base, means, validation, progress, fill=None, model_of=None
) -> tuple["Training", Status, np.ndarray | None]:
    """Run a fit: the machine that it ends with (or the best), how it ended, and the scores of a validation.

    Args:
        machine: where to begin.
        rows: data.
        method: settings.
        key: seeds everything.
        base: visible biases of the machine without hidden units.
        means: of the visible columns, where they begin.
        validation: looks at `model_of(machine)` after each epoch.
        progress: whether to show a bar.
        fill: where a machine has more visible columns than the data: a hashable `fill(machine, x)` that gives all of them,
            with a `keep(weights)` for those that may not be zero.
        model_of: the model that a machine is part of.
    """
    total, epochs = len(rows.values), method.epochs
    size = min(method.batch_size, total)
    steps = -(-total // size) * epochs
    first, second = jax.random.split(key)
    pace = Pace(jnp.asarray(steps, machine.dtype), np.asarray(base, machine.dtype))
    values, observed = jax.device_put(rows.values), None if rows.observed is None else jax.device_put(rows.observed)
    means = np.asarray(means, machine.dtype)
    state = _begin(
        machine, rows.values[:size], method, pace, means, first, size=bucket(max(epochs, HISTORY)), fill=fill
    )
    run = partial(_run, size=size, fill=fill)
    watch = None if validation is None else Watch(validation)
    with bars.bar(type(method).__name__, total=epochs, enabled=progress) as token:
        if watch is None:
            state = run(state, values, observed, method, pace, second, 0, epochs, token)
        else:  # the same program, an epoch at a time
            for epoch in range(epochs):
                state = run(state, values, observed, method, pace, second, epoch, epoch + 1, token)
                if watch.look(state.machine if model_of is None else model_of(state.machine), state.machine):
                    break
    done = int(state.step) // (steps // epochs)
    state = state._replace(history=np.asarray(state.history)[:done])
    status = Status.STOPPED_EARLY if done < epochs else Status.MAX_ITERATIONS
    if not _is_finite(state.machine):  # whatever was best before
        status = Status.DIVERGED
    if watch is not None:
        state = state._replace(machine=watch.best)
    return state, status, None if watch is None else np.array(watch.scores)


def _is_finite(machine) -> bool:
    return all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(machine))


def _means(machine, values, observed) -> np.ndarray:
    """Means of the columns over what is observed, on the host; a unit that nobody observed has 0."""
    total, count = totals(values, observed)
    count = np.maximum(count, 1)
    width = machine.visible.width
    if width == 1:
        return total / count
    return np.stack([totals(values == k, observed)[0] / count for k in range(width)], axis=1).ravel()


@partial(jax.jit, static_argnames=("size", "fill"))
def _begin(machine, values, method, pace, means, key, *, size, fill) -> Training:
    """Chains that start at the data's frequencies, and means of hidden units over the first batch."""
    x = columns(machine, values)
    x = x if fill is None else fill(machine, x)
    hidden_mean = machine.hidden.mean(machine.hidden_bias[None], engine.hidden_drive(machine, x)).mean(0)
    chains = None
    if isinstance(method, PCD):
        for_visible, for_hidden = engine.uniforms(machine, key, method.chains * method.temperatures)
        chains = engine.sample_hidden(machine, for_hidden, engine.sample_base(machine, for_visible, pace.base))
    fast = None if _is_plain(method) else jax.tree.map(jnp.zeros_like, machine)
    inner = _first_inner(machine, method)
    history = jnp.full(size, jnp.nan, machine.dtype)
    return Training(machine, chains, hidden_mean, means, inner, fast, jnp.zeros((), jnp.int32), history)


def _first_inner(machine, method):
    """The state of the optimiser before the first step: of plain steps without momentum there is none."""
    if method.optimiser is not None:
        return method.optimiser.init(machine)
    return None if method.momentum is None else jax.tree.map(jnp.zeros_like, machine)


def _is_plain(method) -> bool:
    return not isinstance(method, PCD) or method.fast_rate is None


@partial(jax.jit, static_argnames=("size", "fill"))
def _run(state: Training, values, observed, method, pace: Pace, key, start, stop, token, *, size, fill) -> Training:
    """Epochs `start` to `stop`, in one program for all numbers of epochs, rates and data of a shape."""
    total = len(values)
    per_epoch = -(-total // size)

    def batch(order, number):
        picked = order[(number * size + jnp.arange(size)) % total]
        return values[picked], None if observed is None else observed[picked]

    def epoch(number, state):
        first, second = jax.random.split(jax.random.fold_in(key, number))
        order = jax.random.permutation(first, total)

        def body(state, inputs):
            index, key = inputs
            return _step(state, *batch(order, index), method, pace, key, fill)

        state, contrast = lax.scan(body, state, (jnp.arange(per_epoch), jax.random.split(second, per_epoch)))
        value = contrast.mean()
        bars.report(token, number + 1, value)
        return state._replace(history=state.history.at[number].set(value))

    return lax.fori_loop(start, stop, epoch, state)


class Side(NamedTuple):
    """Rows, of the data or of the machine, with what the gradient and the next sweep need of them."""

    x: Any
    observed: Any
    score: Any  # log g(v), (rows,)
    drive: Any  # of the hidden units
    on: Any  # E[h | v]


def look(machine, x, observed=None) -> Side:
    """One side, for one matrix product."""
    score, drive = engine.parts(machine, x, observed)
    return Side(x, observed, score, drive, machine.hidden.mean(machine.hidden_bias[None], drive))


def gradient(machine, data: Side, model: Side, method):
    """Mean slope of −F over the data minus that over the machine's rows, less pressure towards sparse hidden units.

    −F depends on the parameters by log g(v) and the drives, and its slopes by these are known: 1 and E[h | v]. What is left
    is a product of matrices for both sides together, which automatic differentiation finds for all kinds of units.
    """
    pressure = method.sparsity_cost * (data.on.mean(0) - method.sparsity_target)[None]
    towards, away = (data.on - pressure) / len(data.on), model.on / len(model.on)
    x = jnp.concatenate([data.x, model.x])
    observed = None if data.observed is None else jnp.concatenate([data.observed, model.observed])
    _, pull = jax.vjp(lambda m: engine.parts(m, x, observed), machine)
    by_score = jnp.concatenate(
        [jnp.full_like(data.score, 1 / len(towards)), jnp.full_like(model.score, -1 / len(away))]
    )
    (found,) = pull((by_score, jnp.concatenate([towards, -away])))
    # `parts` leaves the hidden biases out: their slope is how often the units are on
    return eqx.tree_at(lambda m: m.hidden_bias, found, towards.sum(0) - away.sum(0))


def _step(state: Training, values, observed, method, pace: Pace, key, fill):
    """One batch: sample, gradient, update."""
    machine = state.machine
    observed = spread(machine, observed)
    x = engine.keep(columns(machine, values), observed)
    visible_mean = state.visible_mean
    if fill is not None:  # means of columns that no data are of are followed, as those of hidden units are
        x = lax.stop_gradient(fill(machine, x))
        visible_mean = visible_mean + OFFSET_RATE * (x.mean(0) - visible_mean)
    data = look(machine, x, observed)
    if isinstance(method, CD):
        model = look(machine, _from_data(machine, key, observed, data.drive, method.sweeps), observed)
        chains = None
    else:
        x, chains, uniform = _persistent(state, method, pace, key)
        model = look(machine, x)
        if chains is None:  # the chain goes on from the drive that the gradient needs anyway
            chains = machine.hidden.sample(uniform, machine.hidden_bias[None], model.drive)
    slope = gradient(machine, data, model, method)
    slope = eqx.tree_at(lambda m: m.weights, slope, slope.weights - method.l2 * machine.weights)
    slow = jax.tree.map(lambda g: VARIANCE_RATE * g, slope.visible)
    slope = eqx.tree_at(lambda m: m.visible, slope, slow)

    hidden_mean = state.hidden_mean + OFFSET_RATE * (data.on.mean(0) - state.hidden_mean)
    offset = machine.visible.statistic(visible_mean[None])[0]
    if observed is not None:  # a unit that a row does not have may not act on it by its mean
        offset = jnp.zeros_like(offset)
    offsets = offset, hidden_mean
    direction = centre(slope, *offsets) if method.centred else slope
    if isinstance(machine.visible, Gaussian):
        direction = _in_units_of_data(direction, machine.visible)
    if fill is not None:
        direction = eqx.tree_at(lambda m: m.weights, direction, fill.keep(direction.weights))
    change, inner = _change(direction, state, method, pace)
    change = uncentre(change, *offsets) if method.centred else change
    fast = state.fast
    if fast is not None and isinstance(method, PCD):
        fast = jax.tree.map(lambda f, g: method.fast_decay * f + method.fast_rate * g, fast, slope)
    moved = jax.tree.map(lambda p, u: p + u.astype(p.dtype), machine, change)
    contrast = _mean_score(machine, data) - _mean_score(machine, model)
    state = Training(moved, chains, hidden_mean, visible_mean, inner, fast, state.step + 1, state.history)
    return state, contrast


def _in_units_of_data(slope, units: Gaussian):
    """Slopes by weights and biases of Gaussian units times σ²: steps then do not depend on the scale of the data."""
    variance = jnp.exp(units.log_variance)
    scaled = slope.weights * variance[:, None], slope.visible_bias * variance
    return eqx.tree_at(lambda m: (m.weights, m.visible_bias), slope, scaled)


def centre(slope, visible_mean, hidden_mean):
    """Slopes by the parameters of variables around their means."""
    shift = slope.visible_bias[:, None] * hidden_mean[None] + visible_mean[:, None] * slope.hidden_bias[None]
    return eqx.tree_at(lambda m: m.weights, slope, slope.weights - shift)


def uncentre(change, visible_mean, hidden_mean):
    """A change of the parameters of variables around their means, told in those of the machine."""
    visible = change.visible_bias - engine.product(change.weights, hidden_mean)
    hidden = change.hidden_bias - engine.product(visible_mean, change.weights)
    return eqx.tree_at(lambda m: (m.visible_bias, m.hidden_bias), change, (visible, hidden))


def _mean_score(machine, side: Side):
    """Mean of −F."""
    return (side.score + machine.hidden.log_normaliser(machine.hidden_bias[None], side.drive).sum(-1)).mean()


def _change(slope, state: Training, method, pace: Pace):
    """How far each parameter moves, and the optimiser's state."""
    if method.optimiser is not None:
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # inside optax
            downhill = jax.tree.map(jnp.negative, slope)
            return method.optimiser.update(downhill, state.inner, state.machine)
    share = state.step.astype(pace.steps.dtype) / pace.steps
    rate = method.learning_rate * (1 - (1 - method.decay) * share)
    inner, along = state.inner, slope
    if inner is not None:
        inner = along = jax.tree.map(lambda v, g: method.momentum * v + g, inner, slope)
    return jax.tree.map(lambda v: rate.astype(v.dtype) * v, along), inner


def _from_data(machine, key, observed, drive, sweeps):
    """CD-k: the rows after k sweeps, each in its own machine."""
    for_visible, for_hidden = engine.uniforms(machine, jax.random.fold_in(key, 0), len(drive))
    hidden = machine.hidden.sample(for_hidden, machine.hidden_bias[None], drive)
    hidden = engine.gibbs(machine, jax.random.fold_in(key, 1), hidden, sweeps - 1, observed)
    return engine.keep(engine.sample_visible(machine, for_visible, hidden), observed)


def _persistent(state: Training, method: PCD, pace: Pace, key):
    """Chains after their sweeps: visible values for the gradient, and hidden ones, or None and what to draw them from."""
    machine = state.machine
    if method.temperatures > 1:
        return *_tempered(machine, state.chains, method, pace, key), None
    if state.fast is not None:
        machine = jax.tree.map(jnp.add, machine, state.fast)
    before = engine.gibbs(machine, jax.random.fold_in(key, 1), state.chains, method.sweeps - 1)
    for_visible, for_hidden = engine.uniforms(machine, jax.random.fold_in(key, 0), method.chains)
    x = engine.sample_visible(machine, for_visible, before)
    if state.fast is None:
        return x, None, for_hidden
    return x, engine.sample_hidden(machine, for_hidden, x), None


def _tempered(machine, hidden, method: PCD, pace: Pace, key):
    """Sweep all copies, exchange neighbours, and give the coldest to the gradient."""
    count, chains = method.temperatures, method.chains
    betas = jnp.linspace(1, 0, count, dtype=machine.dtype)
    beta = jnp.repeat(betas, chains)[:, None]

    def body(i, carry):
        hidden, _ = carry
        first, second = jax.random.split(jax.random.fold_in(key, i))
        for_visible, for_hidden = engine.uniforms(machine, first, count * chains)
        x = engine.visible_at(machine, for_visible, pace.base, beta, hidden)
        x, drive = exchange(machine, second, pace.base, betas, x, engine.hidden_drive(machine, x))
        return engine.hidden_at(machine, for_hidden, beta, drive), x

    start = jnp.zeros((count * chains, machine.weights.shape[0]), machine.dtype)
    hidden, x = lax.fori_loop(0, method.sweeps, body, (hidden, start))
    return x[:chains], hidden


def exchange(machine, key, base, betas, x, drive):
    """Exchange states between neighbouring temperatures, of even or of odd pairs (Swendsen and Wang 1986).

    x and drive are (temperatures · chains, …), the first temperature's chains first. A pair is exchanged with probability
    min(1, f_β(v') f_β'(v) / (f_β(v) f_β'(v'))), the hidden units summed out.
    """
    count = len(betas)
    chains = len(x) // count
    own = jnp.repeat(betas, chains)[:, None]

    def density(beta):
        return engine.log_density_at(machine, base, beta, x, drive).reshape(count, chains)

    up = jnp.repeat(jnp.roll(betas, 1), chains)[:, None]  # of the neighbour before, of the neighbour after
    down = jnp.repeat(jnp.roll(betas, -1), chains)[:, None]
    here, before, after = density(own), density(up), density(down)
    gain = (after[:-1] + before[1:]) - (here[:-1] + here[1:])  # pair t, t + 1
    accepted = jnp.log(engine.uniform(key, gain.shape, gain.dtype)) < gain
    parity = jax.random.bernoulli(jax.random.fold_in(key, 1))
    turn = (jnp.arange(count - 1) % 2 == 0) == parity
    accepted = accepted & turn[:, None]
    none = jnp.zeros((1, chains), bool)
    with_next, with_last = jnp.concatenate([accepted, none]), jnp.concatenate([none, accepted])
    place = jnp.arange(count)[:, None] + with_next.astype(jnp.int32) - with_last.astype(jnp.int32)
    source = (place * chains + jnp.arange(chains)[None]).reshape(-1)
    return x[source], drive[source]
