"""Samples of factor graphs, with names in and numbers of states out."""

import numpy as np

from ..forms.chain import is_concrete
from ..inference import factor_gibbs
from .labels import lookup


def sample(key, variables, rank, form, num_samples, sweeps, beta, given):
    """Draw assignments; see `FactorGraph.sample`.

    `variables` are the states of each by its name, and `rank` holds the form's number of each.
    """
    count = 1 if num_samples is None else num_samples
    if count < 1 or sweeps < 1:
        raise ValueError(f"num_samples is {count} and sweeps {sweeps}; at least one of each is needed")
    if is_concrete(beta) and not 0 < float(beta) < float("inf"):
        raise ValueError(f"beta is {beta}; it must be a positive number")
    number = {name: i for i, name in enumerate(variables)}
    clamp, values = np.zeros((len(number), 1), bool), np.zeros((len(number), 1), np.int32)
    for name, state in given.items():
        at = lookup("variable", name, number)
        states = {label: i for i, label in enumerate(variables[name])}
        clamp[at], values[at] = True, lookup(f"state of {name!r}", state, states)
    held = (clamp, values) if given else (None, None)
    drawn, possible = factor_gibbs.fresh(key, form, rank, count, sweeps, beta, *held, single=num_samples is None)
    if is_concrete(possible) and not (possible := np.asarray(possible)).all():
        # nothing says how probable the others are among all that is possible: so none is returned
        raise ValueError(
            f"{int((~possible).sum())} of {count} samples have probability 0 after {sweeps} sweeps: factors with -inf keep "
            "chains that change one variable at a time from what is possible. Give some variables by given=…, join "
            "variables that go together into one of more states, or use enumerate() if the graph is small"
        )
    return drawn
