"""Queries on one chain: log-partition, marginals, filtering, entropy, exact sampling.

Each function takes a `Chain` and works under `jit`, `vmap` and `grad`. Steps past the chain's length count nothing;
what is returned for them is zero unless said otherwise. Cost: O(T K²) time and O(T K) memory, except where per-step
pair marginals are asked for.

An impossible chain, one whose every path crosses a −inf, has log-partition −inf; its marginals, counts and gradients are
zero, since there is no posterior to report.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, Key

from ..forms.chain import Chain
from ..forms.products import HIGHEST
from . import rows
from .compiling import jit
from .logspace import finite, logsumexp


class ChainMarginals(NamedTuple):
    """Answers of forward-backward.

    Attributes:
        log_partition: log Z.
        unary: p(z_t = k), shape (T, K).
        pair_counts: Σ_t p(z_{t−1} = i, z_t = j), shape (K, K); for potentials that vary with time the summands
            themselves, shape (T−1, K, K).
    """

    log_partition: Float[Array, ""]
    unary: Float[Array, "time state"]
    pair_counts: Float[Array, "*step state state"]


@jit
def log_partition(chain: Chain) -> Float[Array, ""]:
    """Log Z = log Σ_z exp score(z). Its gradient by the potentials is the marginals, from one forward-backward pass.

    Example:
        >>> import jax, jax.numpy as jnp, chainrule as cr
        >>> from chainrule.inference import chain
        >>> coin = cr.Chain(jnp.log(jnp.array([.5, .5])), jnp.log(jnp.full((2, 2), .5)), jnp.zeros((3, 2)))
        >>> abs(float(chain.log_partition(coin))) < 1e-6
        True
        >>> jax.grad(chain.log_partition)(coin).node.tolist()
        [[0.5, 0.5], [0.5, 0.5], [0.5, 0.5]]
    """
    initial, transition, node, start, weight = _arrays(chain)
    return rows.total(True, initial, transition, node, start, weight)


@jit
def marginals(chain: Chain) -> ChainMarginals:
    """Unary marginals and expected pair counts, by forward-backward (Rabiner 1989, section III)."""
    initial, transition, node, start, weight = _arrays(chain)
    s = rows.smooth(initial, transition, node, start, weight, log=True)
    counts = s.transition_count[1:] if chain.pair.ndim == 3 else s.transition_count
    return ChainMarginals(rows.add_up(weight, s.terms), s.marginals * weight[:, None], counts)


@jit
def pair_marginals(chain: Chain) -> Float[Array, "step state state"]:
    """p(z_{t−1} = i, z_t = j) for every step, shape (T−1, K, K): T·K² memory, so ask only where each is needed."""
    steps, states = chain.num_steps - 1, chain.num_states
    pair = jnp.broadcast_to(chain.pair, (steps, states, states))
    return marginals(Chain(chain.initial, pair, chain.node, chain.length)).pair_counts


class Filtered(NamedTuple):
    """Answers of the forward pass.

    Attributes:
        log_partition: log Z.
        filtered: p(z_t | potentials up to t), shape (T, K).
        predicted: p(z_t | potentials before t), shape (T, K), for pair potentials that are log-probabilities.
        log_constants: what each step adds to log Z, shape (T,): for a hidden Markov model log p(x_t | x_0 … x_{t−1}).
    """

    log_partition: Float[Array, ""]
    filtered: Float[Array, "time state"]
    predicted: Float[Array, "time state"]
    log_constants: Float[Array, " time"]


@jit
def filter(chain: Chain) -> Filtered:
    """Condition on the past only; what the future would say is left out."""
    initial, transition, node, start, weight = _arrays(chain)
    filtered, terms = rows.filter(initial, transition, node, start, log=True)
    mask = weight > 0
    filtered = jnp.where(mask[:, None], filtered, 0)
    step = transition if transition.ndim == 2 else jnp.where(mask[1:, None, None], transition[1:], 0)
    step = jnp.exp(step - finite(step.max((-2, -1), keepdims=True)))  # potentials of any size; normalised below
    moved = jnp.einsum("ti,ij->tj" if step.ndim == 2 else "ti,tij->tj", filtered[:-1], step, precision=HIGHEST)
    predicted = jnp.concatenate([jnp.exp(initial - finite(initial.max()))[None], moved])
    total = predicted.sum(1, keepdims=True)
    predicted = jnp.where(total > 0, predicted / jnp.where(total > 0, total, 1), 0) * weight[:, None]
    return Filtered(rows.add_up(weight, terms), filtered, predicted, jnp.where(weight > 0, terms, 0))


@jit
def entropy(chain: Chain) -> Float[Array, ""]:
    """Entropy −Σ_z p(z) log p(z) of the whole path, in nats, without listing paths; 0 for an impossible chain.

    Follows the recursion of Hernando, Crespi and Cybenko (2005): the entropy of the path so far given where it stands.
    """
    initial, transition, node, start, weight = _arrays(chain)
    log_filtered, _ = rows.log_filter(initial, transition, node, start, log=True)

    @jax.checkpoint
    def body(so_far, x):
        filtered, real, *step = x
        joint = filtered[:, None] + (step[0] if step else transition)
        log_origin = joint - finite(logsumexp(joint, 0))[None]  # log p(z_{t−1} = i | z_t = j, potentials up to t)
        origin = jnp.exp(log_origin)
        surprise = jnp.where(origin > 0, so_far[:, None] - jnp.where(origin > 0, log_origin, 0), 0)
        return jnp.where(real, (origin * surprise).sum(0), so_far), None

    real = weight > 0
    xs = (log_filtered[:-1], real[1:]) + ((transition[1:],) if transition.ndim == 3 else ())
    so_far, _ = lax.scan(body, jnp.zeros_like(initial), xs)
    last = log_filtered[jnp.where(real, jnp.arange(len(real)), 0).max()]
    probs = jnp.exp(last)
    return jnp.where(probs > 0, probs * (so_far - jnp.where(probs > 0, last, 0)), 0).sum()


@partial(jit, static_argnums=2)
def sample(key: Key[Array, ""], chain: Chain, num_samples: int = 1) -> Int[Array, "sample time"]:
    """Draw whole paths from p(z), exact and independent, shape (num_samples, T).

    Filters forward once, then walks back from the end: p(z_t | z_{t+1}) ∝ filtered[t, z_t] · pair[z_t, z_{t+1}]
    (Scott 2002). Steps past the chain's length, and all steps of an impossible chain, are −1.

    Example:
        >>> import jax, jax.numpy as jnp, chainrule as cr
        >>> from chainrule.inference import chain
        >>> stuck = cr.Chain(jnp.array([0., -jnp.inf]), jnp.log(jnp.eye(2)), jnp.zeros((3, 2)))
        >>> chain.sample(jax.random.key(0), stuck, 2).tolist()
        [[0, 0, 0], [0, 0, 0]]
    """
    initial, transition, node, start, weight = _arrays(chain)
    log_filtered, terms = rows.log_filter(initial, transition, node, start, log=True)
    paths = walk_back(key, log_filtered, transition, start, num_samples)
    possible = jnp.isfinite(rows.add_up(weight, terms))
    return jnp.where((weight > 0)[:, None] & possible, paths, -1).T


def walk_back(key, log_filtered, transition, start, num_samples: int) -> Int[Array, "time sample"]:
    """Backward sampling on one row that may hold several sequences; log-potentials in, states out."""
    time, states = log_filtered.shape
    # One uniform per step and path, drawn at once: splitting a key at every step costs more than the walk.
    uniform = jax.random.uniform(key, (time, num_samples), log_filtered.dtype)
    into = transition.swapaxes(-1, -2)
    later = jnp.concatenate([start[1:], jnp.ones(1, bool)])  # does the next step begin another sequence?

    def choose(logits, u):  # inverse cumulative distribution, along axis 1
        weights = jnp.exp(logits - finite(logits.max(1, keepdims=True)))
        edges = jnp.cumsum(weights, 1)
        return (edges <= u[:, None] * edges[:, -1:]).sum(1, dtype=jnp.int32).clip(0, states - 1)

    def body(state, x):
        filtered, u, last, *step = x
        arrive = (step[0] if step else into)[state]
        logits = filtered[None, :] + jnp.where(last, 0, arrive)
        state = choose(logits, u)
        return state, state

    xs = (log_filtered, uniform, later)
    if into.ndim == 3:
        xs = (*xs, jnp.roll(into, -1, axis=0))
    return lax.scan(body, jnp.zeros(num_samples, jnp.int32), xs, reverse=True)[1]


def _arrays(chain: Chain):
    """Initial, transition (entry t leads into step t), node, start and weight, with the padding made harmless."""
    mask = jnp.asarray(chain.mask)
    start = ~mask | (jnp.arange(chain.num_steps) == 0)
    transition = chain.pair
    if transition.ndim == 3:
        transition = jnp.concatenate([jnp.zeros_like(transition, shape=(1, *transition.shape[1:])), transition])
    node = jnp.where(mask[:, None], chain.node, 0)
    return chain.initial, transition, node, start, mask.astype(node.dtype)
