"""Samples of factor graphs, with names in and numbers of states out."""

import jax.numpy as jnp
import numpy as np

from ..inference import factor_gibbs
from .compile import as_factors
from .labels import lookup


def sample(key, graph, num_samples, sweeps, beta, given):
    """Draw assignments; see `FactorGraph.sample`."""
    count = 1 if num_samples is None else num_samples
    if count < 1 or sweeps < 1:
        raise ValueError(f"num_samples is {count} and sweeps {sweeps}; at least one of each is needed")
    order, form = as_factors(graph)
    rank = {name: i for i, name in enumerate(order)}
    clamp, values = np.zeros((len(order), 1), bool), np.zeros((len(order), 1), np.int32)
    for name, state in given.items():
        at = lookup("variable", name, rank)
        states = {label: i for i, label in enumerate(graph.variables[name])}
        clamp[at], values[at] = True, lookup(f"state of {name!r}", state, states)
    held = (jnp.asarray(clamp), jnp.asarray(values)) if given else (None, None)
    drawn = factor_gibbs.fresh(key, form, count, sweeps, beta, *held)
    drawn = drawn[jnp.asarray([rank[name] for name in graph.variables])].T
    return drawn[0] if num_samples is None else drawn
