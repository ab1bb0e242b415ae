"""Questions about packed chains whose scores are known: what every sequence model asks of the engine, in one place.

`scores` is (time, state, row); a single row goes without its axis, because one long chain runs faster as vectors than as
a batch of one. `initial` and `transition` are log-potentials (`log=True`) or probabilities. `engine` is one of those in
`chainrule.inference.rows`.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ..forms.chain import Chain, assemble
from ..forms.sequences import Sequences
from ..inference import chain as chain_engine
from ..inference import decoding, rows


def squeezed(scores, data: Sequences):
    """Scores, start and mask, the row axis dropped where there is one row; padding scores zero."""
    scores = _written_once(jnp.where(jnp.asarray(data.mask)[:, None], scores, 0))
    if scores.shape[-1] == 1:
        return scores[..., 0], jnp.asarray(data.start)[:, 0], jnp.asarray(data.mask)[:, 0]
    return scores, jnp.asarray(data.start), jnp.asarray(data.mask)


def _written_once(x):
    """x, kept from being computed anew for each of its uses: XLA on CPU copies cheap producers, but not a concatenation.

    (An optimisation barrier is gone by the time that it fuses.)
    """
    return jnp.concatenate([x[:1], x[1:]]) if x.shape[0] > 1 else x


def with_rows(array, like: Sequences):
    """Put the row axis back."""
    return array[..., None] if like.values.shape[-1] == 1 else array


def totals(data: Sequences, terms, mask):
    """Sum one number per step over each sequence."""
    if len(data.lengths) == 1:
        return rows.add_up(mask.astype(terms.dtype), terms)[None]
    return data.totals(with_rows(terms, data))


def log_partition(engine, log: bool, initial, transition, scores, data: Sequences):
    """Log Z of each sequence."""
    scores, start, mask = squeezed(scores, data)
    if len(data.lengths) == 1:
        one: Any = engine.total(log, initial, transition, scores, start, mask.astype(scores.dtype))
        return one[None]
    terms: Any = engine.terms(log, initial, transition, scores, start)
    return data.totals(with_rows(terms, data))


def posterior(engine, log: bool, initial, transition, scores, data: Sequences):
    """Log Z of each sequence, marginals, and expected steps over all of them."""
    scores, start, mask = squeezed(scores, data)
    s = engine.smooth(initial, transition, scores, start, mask.astype(scores.dtype), log=log)
    return totals(data, s.terms, mask), with_rows(s.marginals, data), s.transition_count


def viterbi(log_initial, log_transition, scores, data: Sequences):
    """The best path of each sequence and its score; −1 where nothing is possible."""
    scores, start, mask = squeezed(scores, data)
    states, terms = decoding.best_paths(log_initial, log_transition, scores, start)
    total = totals(data, terms, mask)
    states = with_rows(states, data)
    if len(data.lengths) == 1:
        return jnp.where(total[0] > -jnp.inf, states, -1), total
    return jnp.where((total > -jnp.inf)[data.owner()], states, -1), total


# Numbers in the chains that are looked at together where each sequence has one of its own.
ROOM = 1 << 25


def one_by_one(function, initial, pair, node, data: Sequences, *, numbers: int):
    """`function(chain)` of each sequence's own chain, on a leading axis, for as many at a time as there is room for.

    `initial` (state,), `pair` (state, state) or (time, state, state, row) and `node` (time, state, row) are log-potentials.
    A chain takes up as many steps as a row has, and `numbers` numbers a step.
    """
    time, count = node.shape[0], len(data.lengths)
    steps = jnp.arange(time, dtype=jnp.int32)

    def one(place):
        row, offset, length = place
        at = jnp.minimum(offset + steps, time - 1)
        own = pair if pair.ndim == 2 else pair[at[1:], :, :, row]
        return function(assemble(Chain, initial=initial, pair=own, node=node[at, :, row], length=length))

    places = tuple(jnp.asarray(x) for x in (data.row, data.offset, data.lengths))
    block = min(count, max(1, ROOM // (time * numbers)))
    if block == count:
        return jax.vmap(one)(places)
    blocks = -(-count // block)
    filled = [jnp.pad(x, (0, blocks * block - count)).reshape(blocks, block) for x in places]
    found = lax.map(jax.vmap(one), tuple(filled))
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:count], found)


def sample_posterior(engine, log: bool, key, initial, transition, scores, data: Sequences, num_samples: int):
    """Paths (time, sample, row) from the posterior, and log Z."""
    scores, start, mask = squeezed(scores, data)
    log_filtered, terms = engine.log_filter(initial, transition, scores, start, log=log)
    log_transition = transition if log else jnp.log(transition)
    if scores.ndim == 2:
        paths = chain_engine.walk_back(key, log_filtered, log_transition, start, num_samples)[..., None]
    else:
        keys = jax.random.split(key, scores.shape[-1])
        each = 3 if log_transition.ndim == 4 else None
        walk = jax.vmap(chain_engine.walk_back, in_axes=(0, 2, each, 1, None), out_axes=2)
        paths = walk(keys, log_filtered, log_transition, start, num_samples)
    total = totals(data, terms, mask)
    possible = (total > -jnp.inf)[data.owner()] if len(data.lengths) > 1 else (total > -jnp.inf)[None]
    return jnp.where(possible[:, None] if possible.ndim == 2 else possible, paths, -1), total
