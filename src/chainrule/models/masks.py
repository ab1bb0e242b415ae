"""Which entries of rows are known: the masks that completions are asked with."""

import jax.numpy as jnp
import numpy as np

from ..forms.chain import is_concrete


def as_known(known, shape: tuple[int, ...], mask=None):
    """A mask of known entries, for all of them; `mask` says which are masked, or is None.

    Raises:
        ValueError: not booleans, another shape, or an entry that is known and masked.
    """
    known = np.asarray(known) if is_concrete(known) else known
    if known.dtype != bool or known.shape not in {shape[-1:], shape}:
        raise ValueError(
            f"known has shape {known.shape} and dtype {known.dtype}; wanted booleans of shape {shape}, or {shape[-1:]} for "
            "all rows, True where a value is known"
        )
    if mask is not None and (lacking := np.argwhere(mask & known)).size:
        raise ValueError(f"values{lacking[0].tolist()} is called known, but is masked")
    return (np if isinstance(known, np.ndarray) else jnp).broadcast_to(known, shape)
