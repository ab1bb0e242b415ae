"""Which attributes were seen with which labels: the parameters of a CRF that never weighs what never happened."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import csr_matrix


class SeenPairs(NamedTuple):
    """Pairs (attribute, label) that occur together, by attribute, then by label.

    Attributes:
        attribute, label: the pairs, shape (pair,).
        count: at how many tokens each occurs.
        total: Σ_t x_{t,a} [y_t = l], the statistic that the CRF's gradient needs; `count`, if all values are 1.
    """

    attribute: Int[np.ndarray, " pair"]
    label: Int[np.ndarray, " pair"]
    count: Int[np.ndarray, " pair"]
    total: Float[np.ndarray, " pair"]


def seen_pairs(
    matrix: csr_matrix, labels: Int[np.ndarray, " token"] | Any, *, min_pairs: int = 1, num_labels: int | None = None
) -> SeenPairs:
    """Find the pairs (attribute, label) that occur at `min_pairs` tokens or more.

    For the pair attributes of a CRF, let the label be `previous * K + current`, and −1 at first tokens.

    Args:
        matrix: x, shape (token, attribute); a value other than 0 is an occurrence.
        labels: y, shape (token,), integers from 0; −1 where the label is not known.
        min_pairs: leave out rarer pairs.
        num_labels: K, to refuse labels beyond it.

    Raises:
        ValueError: labels of another length, that are not integers, or outside −1 … K − 1.

    Example:
        >>> import numpy as np
        >>> from scipy.sparse import csr_matrix
        >>> x = csr_matrix([[1.0, 0.0], [1.0, 2.0], [1.0, 0.5]])
        >>> pairs = seen_pairs(x, [0, 1, 1])
        >>> pairs.attribute.tolist(), pairs.label.tolist(), pairs.count.tolist(), pairs.total.tolist()
        ([0, 0, 1], [0, 1, 1], [1, 2, 2], [1.0, 2.0, 2.5])

    Reference: Okazaki (2007), CRFsuite, whose `feature.possible_states=0` and `feature.minfreq` these are.
    """
    y = np.asarray(labels)
    num_tokens, num_attributes = matrix.get_shape()
    if y.shape != (num_tokens,):
        raise ValueError(f"labels have shape {y.shape}; wanted ({num_tokens},), one for each token")
    if y.dtype.kind not in "iu" and y.size:
        raise ValueError(f"labels are {y.dtype}; wanted integers from 0, and -1 for unknown")
    size = int(y.max(initial=-1)) + 1 if num_labels is None else num_labels
    wrong = np.flatnonzero((y < -1) | (y >= size))
    if len(wrong):
        raise ValueError(f"label {y[wrong[0]]} of token {wrong[0]} is not in -1 … {size - 1}")

    known = y >= 0
    one_hot = csr_matrix((np.ones(known.sum()), y[known], np.concatenate([[0], np.cumsum(known)])), (num_tokens, size))
    occurs = csr_matrix(((matrix.data != 0).astype(float), matrix.indices, matrix.indptr), matrix.get_shape())
    counts = (occurs.T.tocsr() @ one_hot).tocsr()
    counts.sort_indices()
    attribute = np.repeat(np.arange(num_attributes), np.diff(counts.indptr))
    often = counts.data >= max(min_pairs, 1)
    attribute, label, count = attribute[often], counts.indices[often].astype(np.int64), counts.data[often]
    total = count
    if not (matrix.data == 1).all():
        # looked up, because a second product would drop the pairs whose values cancel
        pair = attribute * size + label
        row_label = np.repeat(y, np.diff(matrix.indptr))
        key = np.where(row_label >= 0, matrix.indices.astype(np.int64) * size + row_label, -1)
        at = np.minimum(np.searchsorted(pair, key), max(len(pair) - 1, 0))
        hit = pair[at] == key if len(pair) else np.zeros(len(key), bool)
        total = np.bincount(at[hit], weights=matrix.data[hit], minlength=len(pair))
    return SeenPairs(attribute, label, count.astype(np.int64), np.asarray(total, float))
