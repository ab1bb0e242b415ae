"""Single paths of compound chains: the best, the k best, draws, and how undecided they are. See `compound`."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from .compound import AbstractKind, Steps, _all_states, _message, _moved, log_forward, over_blocks, over_states
from .logspace import finite, logsumexp
from .rings import Best, LogSums

# What is known of each step, with its row axis last, against what is the same everywhere.
_BY_ROW = (None, -1, -1)


def best_states(kind: AbstractKind, steps: Steps) -> Int[Array, "time row"]:
    """Viterbi (1967) over all rows. Padding and impossible sequences get arbitrary states."""
    return over_blocks(kind, lambda block: _best_states(kind, block), steps)


def _best_states(kind: AbstractKind, steps: Steps) -> Int[Array, "time row"]:
    def ahead(message, x):
        now, marks, start = x
        score = _moved(kind, Best, steps.fixed, now, marks, start, message)
        return score - over_states(finite(score.max(_all_states(score))), score), message

    nothing = _message(kind, steps, -jnp.inf)
    last, before = lax.scan(ahead, nothing, (steps.varying, steps.marks, steps.start))
    return _walk_back(kind, steps, before, last, lambda scores, _: scores.argmax().astype(jnp.int32), steps.start)


def draws(key, kind: AbstractKind, steps: Steps, num_samples: int):
    """Paths (time, sample, row) drawn by filtering forward and sampling backward, and the log-constants (time, row)."""
    before, last, constant = log_forward(kind, steps)
    uniform = jax.random.uniform(key, (num_samples, *steps.start.shape), last.dtype)

    def pick(logits, u):  # inverse cumulative distribution
        edges = jnp.cumsum(jnp.exp(logits - finite(logits.max())))
        return (edges <= u * edges[-1]).sum(dtype=jnp.int32).clip(0, len(edges) - 1)

    walk = jax.vmap(lambda u: _walk_back(kind, steps, before, last, pick, u), out_axes=1)
    return walk(uniform), constant


def _walk_back(kind: AbstractKind, steps: Steps, before, last, pick, extra):
    """States from the last step to the first; `pick(scores, extra)` chooses among log-scores."""
    flat = lambda message: message.reshape(*message.shape[: -len(kind.shape) - 1], kind.num_states, -1)  # noqa: E731

    def came_from(fixed, now, marks, message, state, start, extra):
        scores, origin = kind.edges(fixed | now | marks, state)
        inside = origin[pick(message[origin] + scores, extra)]
        return jnp.where(start, pick(message, extra), inside)

    over_rows = jax.vmap(came_from, (*_BY_ROW, -1, 0, 0, 0))

    def back(state, x):
        now, marks, start, message, extra = x
        return over_rows(steps.fixed, now, marks, message, state, start, extra), state

    final = jax.vmap(pick, (-1, 0))(flat(last), extra[-1])
    xs = (steps.varying, steps.marks, steps.start, flat(before), jnp.roll(extra, 1, axis=0))
    return lax.scan(back, final, xs, reverse=True)[1]


def path_terms(kind: AbstractKind, steps: Steps, states: Int[Array, "time row"]) -> Float[Array, "time row"]:
    """What each step of a path adds to its score."""

    def one(fixed, now, marks, start, previous, state):
        scores, origin = kind.edges(fixed | now | marks, state)
        inside = jnp.where(origin == previous, scores, -jnp.inf).max()
        return jnp.where(start, kind.entry(fixed | now | marks, state), inside)

    over = jax.vmap(jax.vmap(one, (*_BY_ROW, 0, 0, 0)), (None, 0, 0, 0, 0, 0))
    previous = jnp.concatenate([states[:1], states[:-1]])
    return over(steps.fixed, steps.varying, steps.marks, steps.start, previous, states)


def _all_edges(kind: AbstractKind, steps: Steps, now, marks):
    """The ways into every state of the only row: log-potentials and origins, (state, way)."""
    now, marks = jax.tree.map(lambda x: x[..., 0], (now, marks))
    return jax.vmap(kind.edges, (None, 0))(steps.fixed | now | marks, jnp.arange(kind.num_states, dtype=jnp.int32))


def k_best(kind: AbstractKind, steps: Steps, real, k: int):
    """The k best paths of the only sequence, in the only row: states (k, time) and scores (k,).

    `real` (time,) is True on the real steps. Where fewer than k are possible, the rest score −inf and their states mean
    nothing.
    """

    def ahead(score, x):  # score (state, k): the k best ways into each state, best first
        now, marks, keep = x
        weights, origin = _all_edges(kind, steps, now, marks)
        came = (score[origin] + weights[..., None]).reshape(kind.num_states, -1)
        best, which = lax.top_k(came, k)
        place = jnp.take_along_axis(origin, which // k, axis=1) * k + which % k
        still = jnp.arange(kind.num_states * k, dtype=jnp.int32).reshape(-1, k)
        best = best - finite(best.max())
        return jnp.where(keep, best, score), jnp.where(keep, place, still).astype(jnp.int32)

    def back(place, origin):
        return origin.reshape(-1)[place], place

    head = jax.tree.map(lambda x: x[0], (steps.varying, steps.marks))
    entered = kind.enter(LogSums, steps.fixed | head[0] | head[1]).reshape(-1)
    first = jnp.full((kind.num_states, k), -jnp.inf, entered.dtype).at[:, 0].set(entered)
    rest = jax.tree.map(lambda x: x[1:], (steps.varying, steps.marks, real))
    score, origins = lax.scan(ahead, first, rest)
    _, final = lax.top_k(score.reshape(-1), k)
    start, places = lax.scan(back, final.astype(jnp.int32), origins, reverse=True)
    states = jnp.concatenate([start[None], places]) // k
    missing = ~jnp.isfinite(score.reshape(-1)[final])
    terms = jax.vmap(lambda path: path_terms(kind, steps, path[:, None])[:, 0], 1)(states)
    return states.T, jnp.where(missing, -jnp.inf, jnp.where(real[None], terms, 0).sum(1))


def entropy(kind: AbstractKind, steps: Steps, real) -> Float[Array, ""]:
    """−Σ p log p over the paths of the only sequence, in nats; 0 where none is possible (Hernando et al. 2005)."""
    before, last, _ = log_forward(kind, steps)

    def body(so_far, x):
        now, marks, message, keep = x
        weights, origin = _all_edges(kind, steps, now, marks)
        joint = message.reshape(-1)[origin] + weights
        log_origin = joint - finite(logsumexp(joint, 1))[:, None]
        probs = jnp.exp(log_origin)
        surprise = jnp.where(probs > 0, so_far[origin] - jnp.where(probs > 0, log_origin, 0), 0)
        return jnp.where(keep, (probs * surprise).sum(1), so_far), None

    rest = jax.tree.map(lambda x: x[1:], (steps.varying, steps.marks, before[..., 0], real))
    so_far, _ = lax.scan(body, jnp.zeros(kind.num_states, last.dtype), rest)
    # the message that leaves the last real step is the one that comes into the step after it
    messages = jnp.concatenate([before[1:, ..., 0], last[None, ..., 0]]).reshape(len(real), -1)
    final = messages[jnp.where(real, jnp.arange(len(real), dtype=jnp.int32), 0).max()]
    probs = jnp.exp(final)
    return jnp.where(probs > 0, probs * (so_far - jnp.where(probs > 0, final, 0)), 0).sum()
