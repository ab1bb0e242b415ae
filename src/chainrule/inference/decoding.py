"""The most probable paths of a chain: Viterbi (1967) and its k-best extension.

The scores of the best way into each state are kept, re-centred at every step (an unbounded score loses float32 digits
until a worse path wins), and the argmax is taken only on the way back. Gradients do not pass through a path: it is a
choice, and a gradient-of-max would split ties.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from ..forms.chain import Chain
from . import chunks, lanes
from .chain import _arrays
from .compiling import jit
from .logspace import finite
from .native import in_turn


class Path(NamedTuple):
    """A path (T,) and its unnormalised log-probability. Steps past the length, or of an impossible path, are −1."""

    states: Int[Array, "*path time"]
    score: Float[Array, "*path"]


@jit
def viterbi(chain: Chain) -> Path:
    """The path of highest score, argmax_z score(z). Ties go to the lower state, decided from the last step backwards.

    Example:
        >>> import jax.numpy as jnp, chainrule as cr
        >>> from chainrule.inference import decoding
        >>> sticky = cr.Chain(jnp.zeros(2), jnp.log(jnp.array([[.9, .1], [.1, .9]])), jnp.array([[0., 2.], [1., 0.]]))
        >>> decoding.viterbi(sticky).states.tolist()
        [1, 1]
    """
    initial, transition, node, start, weight = _arrays(chain)
    states = best_states(initial, transition, node, start)
    score = chain.score(states)
    return Path(jnp.where((weight > 0) & (score > -jnp.inf), states, -1), score)


def best_states(initial, transition, node, start) -> Int[Array, "time *row"]:
    """Viterbi over all rows: log-potentials in, states out. Padding and impossible sequences get arbitrary states."""
    if chunks.suits(node):
        return chunks.best_states(initial, transition, node, start)
    if lanes.suits(transition, node):
        return in_turn(lanes.best_paths)(initial, transition, node, start)[0]
    homogeneous = transition.ndim == 2
    extra = [1] * (node.ndim - 2)
    first = initial.reshape(-1, *extra)

    def forward(score, x):
        potential, begin, *step = x
        matrix = step[0] if step else transition
        came = (score[:, None] + (matrix if matrix.ndim == 3 else matrix.reshape(*matrix.shape, *extra))).max(0)
        new = jnp.where(begin[None], first, came) + potential
        return new - finite(new.max(0))[None], score

    def back(state, x):
        score, begin, *step = x  # `begin` and `step` of the step after
        matrix = step[0] if step else transition.T
        if matrix.ndim == 3:  # one for each row
            arrive = jnp.take_along_axis(matrix, state[None, None], axis=0)[0].T
        else:
            arrive = jnp.take(matrix, state, axis=0)  # (*row, state): scores of entering `state`
        total = jnp.moveaxis(score, 0, -1) + jnp.where(begin[..., None], 0, arrive)
        state = total.argmax(-1).astype(jnp.int32)
        return state, state

    xs = (node, start) if homogeneous else (node, start, transition)
    last, before = lax.scan(forward, jnp.zeros_like(node[0]), xs)
    final = last.argmax(0).astype(jnp.int32)
    # before[t] holds the scores of step t − 1, so walking from T − 1 to 1 reads the scores that lead into each step
    xs = (before[1:], start[1:]) if homogeneous else (before[1:], start[1:], transition[1:].swapaxes(1, 2))
    states = lax.scan(back, final, xs, reverse=True)[1]
    return jnp.concatenate([states, final[None]])


def best_paths(initial, transition, node, start) -> tuple[Int[Array, "time *row"], Float[Array, "time *row"]]:
    """`best_states`, and what each step adds to the score of its path: `path_terms`, with its gradient."""
    if lanes.suits(transition, node):
        return _paths(initial, transition, node, start)
    states = best_states(initial, transition, node, start)
    return states, path_terms(initial, transition, node, start, states)


@jax.custom_jvp
def _paths(initial, transition, node, start):
    return in_turn(lanes.best_paths)(initial, transition, node, start)


@_paths.defjvp
def _push(primals, tangents):
    states, terms = _paths(*primals)
    *potentials, start = primals

    def scores(initial, transition, node):
        return path_terms(initial, transition, node, start, states)

    pushed = jax.jvp(scores, tuple(potentials), tuple(tangents[:3]))[1]
    return (states, terms), (np.zeros(states.shape, jax.dtypes.float0), pushed)


def path_terms(initial, transition, node, start, states):
    """What each step of a path adds to its score."""
    picked = jnp.take_along_axis(node, states[:, None], axis=1)[:, 0]
    before = jnp.concatenate([states[:1], states[:-1]])
    if transition.ndim == 2:
        stepped = transition[before, states]
    else:
        index: tuple = (jnp.arange(len(states)).reshape(-1, *[1] * (states.ndim - 1)), before, states)
        if transition.ndim == 4:
            index = (*index, jnp.arange(states.shape[1])[None])
        elif states.ndim == 2:
            index = tuple(jnp.broadcast_to(i, states.shape) for i in index)
        stepped = transition[index]
    return picked + jnp.where(start, initial[states], stepped)


@partial(jit, static_argnums=1)
def k_best(chain: Chain, k: int) -> Path:
    """The k paths of highest score, best first: states (k, T) and scores (k,).

    Where fewer than k paths are possible, the rest have score −inf and states −1. Cost O(T K² k) (Seshadri and
    Sundberg 1994).

    Raises:
        ValueError: k below one.

    Example:
        >>> import jax.numpy as jnp, chainrule as cr
        >>> from chainrule.inference import decoding
        >>> chain = cr.Chain(jnp.zeros(2), jnp.zeros((2, 2)), jnp.array([[2.0, 0.0], [0.0, 1.0]]))
        >>> best = decoding.k_best(chain, 2)
        >>> best.states.tolist(), best.score.tolist()
        ([[0, 1], [0, 0]], [3.0, 2.0])
    """
    if k < 1:
        raise ValueError(f"k is {k}; ask for at least one path")
    initial, transition, node, _, weight = _arrays(chain)
    count = node.shape[1]
    real = weight > 0

    def forward(score, x):  # score (state, k): the k best ways into each state, best first
        potential, keep, *step = x
        matrix = step[0] if step else transition
        came = (score[:, :, None] + matrix[:, None, :]).reshape(-1, count).T  # (state, previous state × rank)
        best, origin = lax.top_k(came, k)
        new = best + potential[:, None]
        new = new - finite(new.max())
        still = jnp.broadcast_to(jnp.arange(count * k, dtype=origin.dtype).reshape(count, k), origin.shape)
        return jnp.where(keep, new, score), jnp.where(keep, origin, still).astype(jnp.int32)

    def back(place, origin):
        before = origin.reshape(-1)[place]
        return before, place

    first = jnp.full((count, k), -jnp.inf, node.dtype).at[:, 0].set(initial + node[0])
    xs = (node[1:], real[1:]) if transition.ndim == 2 else (node[1:], real[1:], transition[1:])
    score, origins = lax.scan(forward, first, xs)
    _, final = lax.top_k(score.reshape(-1), k)
    head, places = lax.scan(back, final.astype(jnp.int32), origins, reverse=True)
    states = (jnp.concatenate([head[None], places]) // k).T
    # scores summed along each path rather than re-centred ones; −inf where there is no k-th path
    missing = ~jnp.isfinite(score.reshape(-1)[final])
    exact = jnp.where(missing, -jnp.inf, jax.vmap(chain.score)(states))
    return Path(jnp.where(real[None] & ~missing[:, None], states, -1), exact)
