"""Seen pairs, against counting by hand."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from chainrule.models.features import seen_pairs


@given(data=st.data(), binary=st.booleans(), min_pairs=st.integers(0, 3))
def test_counts_and_totals(data, binary, min_pairs):
    shape = data.draw(st.tuples(st.integers(1, 8), st.integers(0, 4)))
    value = st.sampled_from([0.0, 1.0] if binary else [0.0, 1.0, 0.5, -0.5, 2.0])
    size = shape[0] * shape[1]
    x = np.array(data.draw(st.lists(value, min_size=size, max_size=size))).reshape(shape)
    y = np.array(data.draw(st.lists(st.integers(-1, 3), min_size=shape[0], max_size=shape[0])))
    count, total = Counter(), Counter()
    for t, a in zip(*np.nonzero(x), strict=True):
        if y[t] >= 0:
            count[int(a), int(y[t])] += 1
            total[int(a), int(y[t])] += x[t, a]
    wanted = sorted(pair for pair in count if count[pair] >= min_pairs)

    pairs = seen_pairs(csr_matrix(x), y, min_pairs=min_pairs, num_labels=4)
    assert list(zip(pairs.attribute.tolist(), pairs.label.tolist(), strict=True)) == wanted
    assert pairs.count.tolist() == [count[pair] for pair in wanted]
    assert pairs.total.tolist() == [total[pair] for pair in wanted]


def test_stored_zeros_are_not_occurrences():
    x = csr_matrix((np.array([0.0, 1.0]), np.array([0, 1]), np.array([0, 2])), shape=(1, 2))
    assert seen_pairs(x, [0]).attribute.tolist() == [1]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0], r"shape \(1,\); wanted \(2,\)"),
        ([0.0, 1.0], "wanted integers"),
        ([0, -2], "label -2 of token 1 is not in -1 … 1"),
        ([2, 0], "label 2 of token 0"),
    ],
)
def test_wrong_labels(labels, message):
    with pytest.raises(ValueError, match=message):
        seen_pairs(csr_matrix(np.eye(2)), labels, num_labels=2)
