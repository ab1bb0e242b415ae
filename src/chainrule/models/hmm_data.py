"""What a question to a hidden Markov model is asked about: sequences, packed and checked, and the states that are known.

Plain functions, because looking a method up on a module costs as much as a short query.
"""

from typing import Any

import numpy as np

from ..forms.chain import is_concrete
from .data import Prepared, prepare
from .emissions.base import parameters
from .results import find


def prepared(model, data, known) -> tuple[Prepared, Any]:
    """The data packed and checked, and the known states in their layout."""
    emission = model.emission
    parameters(emission)
    event_shape = emission.event_shape
    batch = prepare(data, None if event_shape is None else len(event_shape))
    if is_concrete(batch.sequences.values):
        type(emission).check(emission, batch.sequences)
    return batch, None if known is None else _known(model, known, batch)


def prepared_one(model, data, known, query: str) -> tuple[Prepared, Any]:
    """The same for a question that takes one sequence only, which `query` names."""
    batch, fixed = prepared(model, data, known)
    if batch.form != "one":
        raise ValueError(f"{query} takes one sequence; call it for each")
    return batch, fixed


def _known(model, known, batch: Prepared):
    """Known states as indices in the layout of the data, −1 where unknown."""
    names = {name: index for index, name in enumerate(model.states)}

    def index(entry):
        if entry is None or (isinstance(entry, int | np.integer) and entry == -1 and -1 not in names):
            return -1
        if entry not in names and isinstance(entry, int | np.integer) and 0 <= entry < len(names):
            return int(entry)  # an index, as `sample` gives them
        return names[entry] if entry in names else find(entry, model.states)

    rows = [known] if batch.form == "one" else list(known)
    if any(isinstance(row, str) or np.ndim(row) == 0 for row in rows if row is not None):
        raise ValueError("known: the data are several sequences, so give one list of states per sequence")
    lengths = [int(n) for n in batch.sequences.lengths if n]
    found = [np.array([index(e) for e in row], np.int32) for row in rows]
    if [len(f) for f in found] != lengths:
        raise ValueError(f"known has lengths {[len(f) for f in found]}, the data {lengths}")
    layout = batch.sequences
    fixed = np.full(layout.mask.shape, -1, np.int32)
    places = zip(found, layout.row.tolist(), layout.offset.tolist(), strict=False)
    for indices, row, offset in places:
        fixed[offset : offset + len(indices), row] = indices
    return fixed
