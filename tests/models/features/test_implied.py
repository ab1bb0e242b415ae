"""Attributes that imply others: the factors are the matrix again, and smaller."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

import chainrule as cr
from chainrule.models.features.implied import GLANCE, factor


def product(found, columns):
    both = sparse.vstack([sparse.identity(columns, format="csr"), found.bundles])
    return (found.rows @ both).toarray()


def described(values):
    """One attribute for each column and value of an integer array (token, kind), −1 for none; and their kinds."""
    kinds, columns, number = [], [], 0
    for kind, column in enumerate(values.T):
        names, place = np.unique(column[column >= 0], return_inverse=True)
        full = np.full(len(column), -1)
        full[column >= 0] = place + number
        columns.append(full)
        kinds += [kind] * len(names)
        number += len(names)
    token, kind = np.nonzero(np.stack(columns, 1) >= 0)
    found = np.stack(columns, 1)[token, kind]
    matrix = sparse.csr_matrix((np.ones(len(token)), (token, found)), shape=(len(values), number))
    return matrix, np.array(kinds)


def windows(words, tags):
    """Words, tags, pairs and triples of them, as numbers; what leaves the sentence is not there."""
    size = len(words)
    before = np.concatenate([[-1], words[:-1]])
    t1, t2 = np.concatenate([[-1], tags[:-1]]), np.concatenate([[-1, -1], tags[:-2]])[:size]
    pair = np.where(before < 0, -1, before * 1000 + words)
    steps = np.where(t1 < 0, -1, t1 * 10 + tags)
    triple = np.where(t2 < 0, -1, (t2 * 10 + t1) * 10 + tags)
    return np.stack([words, before, pair, tags, t1, t2, steps, triple], 1)


@given(
    seed=st.integers(0, 2**16),
    kinds=st.integers(1, 5),
    tokens=st.integers(1, 40),
    sizes=st.integers(1, 4),
)
@settings(max_examples=60, deadline=None)
def test_factors_are_the_matrix(seed, kinds, tokens, sizes):
    """Any matrix, with kinds that imply others here and there, by chance or as copies."""
    rng = np.random.default_rng(seed)
    values = rng.integers(-1, sizes, (tokens, kinds))
    copies = values[:, rng.integers(0, kinds, kinds)] // 2
    matrix, kind = described(np.concatenate([values, copies], 1))
    found = factor(matrix, kind)
    if found is not None:
        np.testing.assert_array_equal(product(found, matrix.shape[1]), matrix.toarray())
        assert found.rows.nnz + found.bundles.nnz < matrix.nnz


def test_windows_shrink_by_half():
    rng = np.random.default_rng(0)
    words, tags = rng.zipf(1.5, 3 * GLANCE) % 50, rng.integers(0, 5, 3 * GLANCE)
    matrix, kind = described(windows(words, tags))
    found = factor(matrix, kind)
    np.testing.assert_array_equal(product(found, matrix.shape[1]), matrix.toarray())
    # a word pair for its words and a tag triple for all tags, at nearly every token: 2 entries instead of 8
    assert found.rows.nnz < 2.1 * len(words)


def test_one_exception_far_behind_is_noticed():
    values = np.tile([[0, 1], [1, 0]], (2 * GLANCE, 1))
    values[-1, 1] = 1
    assert factor(*described(values)) is None


def test_nothing_to_be_gained():
    assert factor(sparse.csr_matrix((3, 0)), np.zeros(0, int)) is None
    assert factor(*described(np.arange(5)[:, None])) is None  # one kind
    assert factor(*described(np.tile(np.arange(5)[:, None], (1, 2)))) is None  # each but once


def test_kinds_of_which_a_token_has_several_are_left_alone():
    matrix = sparse.csr_matrix(np.ones((5, 4)))
    found = factor(matrix, np.array([0, 0, 1, 2]))
    np.testing.assert_array_equal(product(found, 4), matrix.toarray())
    assert found.bundles.toarray().tolist() == [[0, 0, 1, 1]]


def test_kinds_of_templates_and_of_names():
    index, _ = cr.templates("%x[0,0]", "%x[-1,0]", "U:%x[-1,0]/%x[0,0]").learn([["a", "b"], ["b", "a"]])
    assert index.node.kinds().tolist() == [0, 0, 1, 1, 2, 2]
    index, _ = cr.attributes().learn([[["w=a", "p=b", "long"], ["w=b", "p=x=y", "long"]]])
    assert index.node.kinds().tolist() == [0, 1, 2, 0, 1]


@pytest.mark.slow
@pytest.mark.parametrize("penalty", [{"l2": 0.3}, {"l1": 0.2, "l2": 0.01}])
def test_fits_reach_the_same_optimum_with_and_without(penalty, monkeypatch):
    rng = np.random.default_rng(1)
    words = [rng.integers(0, 4, rng.integers(3, 9)).astype(str).tolist() for _ in range(25)]
    tags = [[("A", "B")[(int(w) + (k > 2)) % 2] for k, w in enumerate(s)] for s in words]
    feature = cr.templates("U0:%x[0,0]", "U1:%x[-1,0]", "U2:%x[-1,0]/%x[0,0]", "U3:%x[-2,0]/%x[-1,0]/%x[0,0]")
    method = cr.LBFGS(**penalty, tolerance=0, max_iterations=200)
    fits = [cr.LinearChainCRF(["A", "B"], [feature]).fit(words, tags, method=method)]
    monkeypatch.setattr("chainrule.models.features.sparse.factor", lambda *_: None)
    fits.append(cr.LinearChainCRF(["A", "B"], [feature]).fit(words, tags, method=method))
    ours, plain = (fit.model.features[0].node.values for fit in fits)
    assert fits[0].history[-1] == pytest.approx(fits[1].history[-1], rel=1e-5)  # both stop where rounding hides more
    if "l1" not in penalty:  # with L1, weights of columns that are equal may be shared out in many ways
        np.testing.assert_allclose(ours, plain, atol=2e-3)
