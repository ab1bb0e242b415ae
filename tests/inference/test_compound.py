"""Compound chains against enumeration: sums, gradients, paths, structural zeros and potentials of ±1000."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from chainrule.inference import compound, compound_paths

from .compound_cases import NAMES, TIME, random_case

EVERY = pytest.mark.parametrize("name", NAMES)
# One with all kinds of weights goes through what is the same for all kinds of chains; it takes long. Models of second
# order and of segments have their draws, best labellings and entropies against enumeration too (tests/models/crf).
SOME = pytest.mark.parametrize(
    "name", [n if n == "segments varying" else pytest.param(n, marks=pytest.mark.slow) for n in NAMES]
)
# Both kinds, one with weights that are fixed and one with weights that vary; sums go through all four.
BOTH = pytest.mark.parametrize(
    "name", [n if n in ("triples", "segments varying") else pytest.param(n, marks=pytest.mark.slow) for n in NAMES]
)
smooth = jax.jit(compound.smooth, static_argnums=0)
fast_and_slow = jax.jit(lambda *of: (compound._fast(*of), compound._slow(*of)), static_argnums=0)
total_and_slopes = jax.jit(jax.value_and_grad(compound.total, (1, 2)), static_argnums=0)


@partial(jax.jit, static_argnums=0)
def best_path(kind, steps):
    states = compound_paths.best_states(kind, steps)
    return states, compound_paths.path_terms(kind, steps, states)


@partial(jax.jit, static_argnums=(0, 3))
def k_best_and_entropy(kind, steps, real, k):
    return *compound_paths.k_best(kind, steps, real, k), compound_paths.entropy(kind, steps, real)


def truth(case):
    """Σ weight · log Z, log Z of each sequence, and expected uses of each weight."""
    uses = {name: np.zeros(np.shape(value)) for name, value in (case.steps.fixed | case.steps.varying).items()}
    log_partitions = []
    for row, begin, _, paths in case.sequences():
        scores = np.array([score for score, _, _ in paths])
        log_partition = oracles.log_sum_exp(scores)
        log_partitions.append(log_partition)
        if log_partition == -np.inf:
            continue
        for score, _, used in paths:
            for name, index in used:
                uses[name][index] += case.weight[begin, row] * np.exp(score - log_partition)
    return log_partitions, uses


def sums(case, terms):
    return [np.asarray(terms)[begin : begin + size, row].sum() for row, begin, size, _ in case.sequences()]


def check(case, found, atol):
    log_partitions, uses = truth(case)
    np.testing.assert_allclose(sums(case, found.terms), log_partitions, atol=atol, rtol=10 * atol)
    for name, value in (found.fixed | found.varying).items():
        np.testing.assert_allclose(value, uses[name], atol=10 * atol, err_msg=name)


@EVERY
@pytest.mark.parametrize("zeros", [0.0, 0.25])
def test_sums_and_expected_uses(name, zeros):
    with jax.enable_x64(True):
        case = random_case(name, zeros=zeros, seed=3)
        (found, trusted), wanted = fast_and_slow(case.kind, case.steps, case.weight)
        check(case, wanted, 1e-10)
        possible = np.isfinite(truth(case)[0]).all()
        assert bool(trusted) or not possible
        if trusted:
            check(case, found, 1e-10)


@BOTH
def test_potentials_of_a_thousand_in_float32(name):
    case = random_case(name, scale=1000.0, zeros=0.2, seed=1, dtype=np.float32)
    found = smooth(case.kind, case.steps, case.weight)
    log_partitions, uses = truth(case)
    np.testing.assert_allclose(sums(case, found.terms), log_partitions, rtol=1e-6, atol=2e-3)
    for which, value in (found.fixed | found.varying).items():
        assert np.isfinite(value).all()
        np.testing.assert_allclose(value, uses[which], atol=5e-3, err_msg=which)


@BOTH
def test_nothing_possible_has_gradient_zero(name):
    case = random_case(name)
    node = case.steps.varying["node"].copy()
    node[0, :, 0] = -np.inf  # the first sequence of the first row
    steps = case.steps._replace(varying=case.steps.varying | {"node": node})
    found = smooth(case.kind, steps, case.weight)
    assert sums(case, found.terms)[0] == -np.inf
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((found.fixed, found.varying)))
    np.testing.assert_array_equal(np.asarray(found.varying["node"])[:4, :, 0], 0)


@SOME
def test_gradient_against_finite_differences(name):
    with jax.enable_x64(True):
        case = random_case(name, seed=5)
        rng = np.random.default_rng(0)
        at = (case.steps.fixed, case.steps.varying)
        way = jax.tree.map(lambda x: rng.normal(size=x.shape), at)
        moved = lambda s: jax.tree.map(lambda x, d: x + s * d, at, way)  # noqa: E731
        rest = (case.steps.marks, case.steps.start, case.weight)
        slopes = total_and_slopes(case.kind, *at, *rest)[1]
        total = lambda s: float(total_and_slopes(case.kind, *moved(s), *rest)[0])  # noqa: E731
        pairs = zip(jax.tree.leaves(slopes), jax.tree.leaves(way), strict=True)
        slope = sum((np.asarray(g) * d).sum() for g, d in pairs)
        assert slope == pytest.approx((total(1e-5) - total(-1e-5)) / 2e-5, rel=1e-7)


@SOME
def test_rows_in_blocks_are_the_same_rows(name, monkeypatch):
    case = random_case(name)
    whole = smooth(case.kind, case.steps, case.weight)
    monkeypatch.setattr(compound, "BLOCK", 1)

    @jax.jit
    def ask(steps, weight):
        sums = compound._in_blocks(case.kind, compound._fast, steps, weight)
        paths = (ask(case.kind, steps) for ask in (compound_paths.best_states, compound_paths._best_states))
        return *sums, *paths

    found, trusted, paths, wanted = ask(case.steps, case.weight)
    assert trusted
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), found, whole)
    np.testing.assert_array_equal(np.asarray(paths)[case.weight > 0], np.asarray(wanted)[case.weight > 0])


@BOTH
@pytest.mark.parametrize(("scale", "zeros"), [(1.0, 0.2), (1000.0, 0.2)])
def test_the_best_path(name, scale, zeros):
    with jax.enable_x64(True):
        case = random_case(name, scale=scale, zeros=zeros, seed=2)
        states, terms = best_path(case.kind, case.steps)
        totals = sums(case, terms)
        for (row, begin, size, paths), score in zip(case.sequences(), totals, strict=True):
            assert score == pytest.approx(paths[0][0], rel=1e-12, abs=1e-9)
            if paths[0][0] > -np.inf:
                found = tuple(np.asarray(states)[begin : begin + size, row].tolist())
                scores = [score for score, way, _ in paths if way == found]  # of equal ones any
                assert scores == [pytest.approx(paths[0][0], rel=1e-12, abs=1e-9)]


def alone(case, which=0):
    """One sequence in the only row, padded."""
    row, begin, size, paths = list(case.sequences())[which]
    cut = lambda x: x[..., row : row + 1]  # noqa: E731
    assert begin == 0
    steps = case.steps
    start = np.arange(TIME)[:, None] != np.arange(1, size)[None]
    varying, marks = jax.tree.map(cut, (steps.varying, steps.marks))
    start = np.ones((TIME, 1), bool)
    start[1:size] = False
    return steps._replace(varying=varying, marks=marks, start=start), np.arange(TIME) < size, size, paths


@SOME
@pytest.mark.parametrize("zeros", [0.0, 0.25])
def test_the_k_best_and_entropy(name, zeros):
    with jax.enable_x64(True):
        case = random_case(name, zeros=zeros, seed=4)
        steps, real, size, paths = alone(case)
        k = 12
        states, scores, found_entropy = k_best_and_entropy(case.kind, steps, real, k)
        wanted = np.array([score for score, _, _ in paths[:k]] + [-np.inf] * (k - len(paths)))
        np.testing.assert_allclose(scores, wanted, atol=1e-9)
        possible = {way: score for score, way, _ in paths if score > -np.inf}
        found = [tuple(p) for p in np.asarray(states)[:, :size].tolist()][: len(possible)]
        assert len(set(found)) == len(found)
        np.testing.assert_allclose([possible[p] for p in found], wanted[: len(found)], atol=1e-9)
        scores = np.array([score for score, _, _ in paths])
        probs = np.exp(scores - oracles.log_sum_exp(scores))
        entropy = -(probs[probs > 0] * np.log(probs[probs > 0])).sum()
        assert float(found_entropy) == pytest.approx(entropy, abs=1e-9)


@SOME
def test_draws_come_as_often_as_they_should(name):
    case, count = random_case(name, seed=6, zeros=0.1, dtype=np.float32), 4000
    drawn, _ = jax.jit(compound_paths.draws, static_argnums=(1, 3))(jax.random.key(0), case.kind, case.steps, count)
    for row, begin, size, paths in case.sequences():
        scores = np.array([score for score, _, _ in paths])
        probs = np.exp(scores - oracles.log_sum_exp(scores))
        mine = [tuple(p) for p in np.asarray(drawn)[begin : begin + size, :, row].T.tolist()]
        known = {states for _, states, _ in paths}
        assert set(mine) <= known
        for p, (_, states, _) in zip(probs[:8], paths[:8], strict=False):
            assert abs(mine.count(states) / count - p) <= 5 * np.sqrt(p * (1 - p) / count) + 1e-6


@pytest.mark.slow
def test_under_vmap():
    case, other = random_case("segments", seed=0), random_case("segments", seed=1)
    both = jax.tree.map(lambda a, b: jnp.stack([a, b]), case.steps, other.steps)
    over = jax.jit(jax.vmap(lambda steps: compound.smooth(case.kind, steps, jnp.asarray(case.weight))))
    found = over(both)
    for n, one in enumerate((case, other)):
        mine = jax.tree.map(lambda x, n=n: x[n], found)
        jax.tree.map(partial(np.testing.assert_allclose, atol=2e-6), mine, smooth(one.kind, one.steps, one.weight))
