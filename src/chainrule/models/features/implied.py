"""Attributes that imply others: a pair of words implies its words, a triple of tags its pairs and its tags.

Where attribute a never comes without b, c, …, one column may stand for all of them, and a token is described by fewer
columns, exactly:

    X = R [I; C]          X (token, attribute),   R (token, attribute or bundle),   C (bundle, attribute)

A *bundle* is an attribute with all that it stands for. What implies what is found between *kinds* of attributes, such as
"the word before" and "the word before, with the word here": kind a implies kind b if each attribute of kind a always comes
with the same attribute of kind b. It is found in the data, so it holds for features of any origin.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int
from scipy import sparse

# Kinds beyond this are left alone: all ordered pairs are looked at.
MANY_KINDS = 64
# Tokens on which most pairs are given up; the others are checked on all of them.
GLANCE = 2048


class Factors(NamedTuple):
    """X = rows · [I; bundles]; see the module."""

    rows: sparse.csr_matrix
    bundles: sparse.csr_matrix


def factor(matrix: Any, kind: Int[np.ndarray, " attribute"]) -> Factors | None:
    """Describe tokens by bundles of attributes where that takes fewer entries; None where nothing is to be gained.

    Args:
        matrix: X in CSR form, all of whose entries are one.
        kind: number of the kind of each attribute, from 0. An attribute of each kind at most is found at most tokens;
            kinds of which a token has several are left alone.

    Example:
        >>> import numpy as np
        >>> from scipy import sparse
        >>> from chainrule.models.features.implied import factor
        >>> x = sparse.csr_matrix(np.array([[1, 0, 1, 1]] * 5 + [[0, 1, 1, 0]]))
        >>> found = factor(x, np.array([0, 0, 1, 2]))  # attribute 3 never comes without 0 and 2
        >>> found.rows.nnz + found.bundles.nnz, x.nnz
        (10, 17)
        >>> both = sparse.vstack([sparse.identity(4, format="csr"), found.bundles])
        >>> (found.rows @ both).toarray().astype(int).tolist() == x.toarray().tolist()
        True
    """
    of_kind: Any = _by_kind(matrix, kind)
    if of_kind is None:
        return None
    chosen = _choose(of_kind)
    if not chosen:
        return None
    taken = np.zeros(of_kind.shape, bool)  # what a bundle stands for already
    columns, bundles, count = [], [], matrix.shape[1]
    for a, others in chosen:
        members = [a, *others]
        use = of_kind[a] >= 0
        for b in members:
            use &= ~taken[b]
        heads, first, number = np.unique(of_kind[a][use], return_index=True, return_inverse=True)
        if len(heads) * (1 + len(members)) + use.sum() >= len(members) * use.sum():
            continue
        token = np.flatnonzero(use)
        columns.append((token, count + number))
        bundles.append(of_kind[members][:, token[first]].T)
        count += len(heads)
        for b in members:
            taken[b] |= use
    if not bundles:
        return None
    return _assembled(matrix, kind, taken, columns, bundles)


def _by_kind(matrix, kind):
    """The attribute of each kind at each token, (kind, token), −1 where there is none or a kind that comes twice."""
    size = int(kind.max(initial=-1)) + 1
    if not 1 < size <= MANY_KINDS or matrix.nnz == 0:
        return None
    token = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    here = kind[matrix.indices]
    place = here * np.int64(matrix.shape[0]) + token
    found = np.full(size * matrix.shape[0], -1, np.int32)
    found[place] = matrix.indices
    several = np.bincount(here, minlength=size) != (found.reshape(size, -1) >= 0).sum(1)
    found = found.reshape(size, -1)
    found[several] = -1
    return found


def _choose(of_kind) -> list[tuple[int, list[int]]]:
    """Which kinds are to be bundles, and of what, the most telling ones first."""
    size = len(of_kind)
    present = (of_kind >= 0).sum(1)
    implied: dict[int, list[int]] = {}
    for a in np.flatnonzero(present).tolist():
        implied[a] = [b for b in np.flatnonzero(present).tolist() if b != a and _implies(of_kind[a], of_kind[b])]
    # of kinds that imply one another only the first may stand for the other
    order = sorted(implied, key=lambda a: (-len(implied[a]), -present[a]))
    rank = {a: n for n, a in enumerate(order)}
    covered = np.zeros(size, bool)
    chosen = []
    for a in order:
        others = [b for b in implied[a] if rank[b] > rank[a]]
        # where a kind that comes first says the same, this one keeps to the rest; tokens that lack it are few
        rest = [b for b in others if not covered[b]] if not covered[a] else others
        if rest:
            chosen.append((a, rest))
        if not covered[a]:
            covered[[a, *rest]] = True
    return chosen


def _implies(a, b) -> bool:
    """Whether each attribute in `a` always comes with the same one in `b`."""
    for part in (slice(0, GLANCE), slice(None)):
        head, tail = a[part], b[part]
        there = head >= 0
        head, tail = head[there], tail[there]
        if (tail < 0).any():
            return False
        if len(head):
            partner = np.empty(int(head.max()) + 1, tail.dtype)
            partner[head] = tail  # any of them: all must be the same
            if (partner[head] != tail).any():
                return False
    return True


def _assembled(matrix, kind, taken, columns, bundles) -> Factors:
    token = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    alone = ~taken[kind[matrix.indices], token]
    rows = np.concatenate([token[alone], *(t for t, _ in columns)])
    found = np.concatenate([matrix.indices[alone], *(c for _, c in columns)])
    sizes = np.concatenate([np.full(len(b), b.shape[1]) for b in bundles])
    edges = np.concatenate([[0], np.cumsum(sizes)])
    members = np.concatenate([b.ravel() for b in bundles])
    parts = sparse.csr_matrix((np.ones(len(members)), members, edges), shape=(len(sizes), matrix.shape[1]))
    shape = (matrix.shape[0], matrix.shape[1] + len(sizes))
    return Factors(sparse.csr_matrix((np.ones(len(rows)), (rows, found)), shape=shape), parts)
