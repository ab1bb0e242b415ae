"""Many rows as native loops: against the two sweeps that they stand for, against log space, and where they are used."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from chainrule.inference import decoding, lanes, native, rows, scaled

from .row_cases import answer, check_against_log_space, in_log_space, problem

NATIVE = pytest.mark.skipif(not native.available(), reason="other devices and versions of jaxlib keep to other ways")


@jax.jit
def both_ways(initial, pair, node, start, weight):
    w = scaled.weights(initial, pair, node, start)
    s = scaled.sweep(w)
    mass, *found = scaled.accumulate(w, s, weight)
    found = (lanes.smooth(w, weight), (s.constant, mass.min(), *found)), (lanes.forward(w), scaled.forward(w))
    return found, lanes.best_paths(initial, pair, node, start)


def best_scores(initial, pair, node, start):
    """Viterbi in NumPy: the score of each row's best path, added up over its chains."""
    total, score = np.zeros(node.shape[2]), np.zeros(node.shape[1:])
    for potential, begin in zip(node.astype(float), start, strict=True):
        total += np.where(begin, score.max(0), 0)
        score = np.where(begin, initial[:, None], (score[:, None] + pair[:, :, None]).max(0)) + potential
    return total + score.max(0)


# one state; sums in one part and in several, of equal and of odd sizes; several blocks, the last one not full
@pytest.mark.parametrize(("states", "count"), [(1, 56), (3, 57), (7, 104), (12, 130), (16, 64)])
def test_it_agrees_with_two_sweeps_a_product_and_plain_viterbi(states, count):
    args = problem(states * count, states, count)
    pairs, (path, terms) = both_ways(*args)
    for got, want in pairs:
        for g, w in zip(got, want, strict=True):
            np.testing.assert_allclose(g, w, rtol=2e-5, atol=1e-6)
    initial, pair, node, start, _ = args
    found = np.asarray(path)
    assert found.min() >= 0
    assert found.max() < states
    before = np.concatenate([found[:1], found[:-1]])
    own = np.take_along_axis(node, found[:, None], axis=1)[:, 0] + np.where(start, initial[found], pair[before, found])
    np.testing.assert_allclose(terms, own, rtol=1e-6)
    np.testing.assert_allclose(np.sum(terms, 0), best_scores(initial, pair, node, start), rtol=1e-5, atol=1e-5)


def test_double_precision_is_kept():
    with jax.enable_x64(True):
        for got, want in both_ways(*problem(300, 5, 60, dtype=np.float64))[0]:
            for g, w in zip(got, want, strict=True):
                np.testing.assert_allclose(g, w, rtol=1e-12, atol=1e-300)


@NATIVE
def test_it_is_what_answers_and_it_agrees_with_log_space():
    args = problem(240, 4, 60)
    assert lanes.suits(args[1], args[2])
    for got, want in zip(answer(*args), in_log_space(*args), strict=True):
        np.testing.assert_allclose(got, want, rtol=2e-4, atol=2e-5)


def test_what_it_cannot_hold_goes_to_log_space():
    check_against_log_space(*problem(240, 4, 60, spread=2000.0))


@NATIVE
def test_few_rows_many_states_and_moving_transitions_go_other_ways():
    def suits(states, rows, *matrices):
        return lanes.suits(np.zeros((*matrices, states, states)), np.zeros((5, states, rows)))

    assert suits(12, 500)
    assert suits(16, 64)
    assert not suits(16, 500)
    assert not suits(17, 64)
    assert not suits(5, 55)
    assert not suits(5, 64, 5)


@jax.jit
def of_two(initial, pair, node, start, weight):
    def both(node):
        return rows.smooth(initial, pair, node, start, weight, log=True), decoding.best_paths(
            initial, pair, node, start
        )

    return jax.vmap(both)(jnp.stack([node, 2 * node])), both(2 * node)


def test_batches_are_those_of_one_after_the_other():
    (smoothed, paths), (wanted, path) = of_two(*problem(171, 3, 57))
    for got, want in zip((*smoothed, *paths), (*wanted, *path), strict=True):
        np.testing.assert_allclose(got[1], want, rtol=1e-5, atol=1e-6)


@jax.jit
def slopes_of_best(initial, pair, node, start):
    def score(*potentials):
        states, terms = decoding.best_paths(*potentials, start)
        return terms.sum(), states

    return jax.grad(score, (0, 1, 2), has_aux=True)(initial, pair, node)


def test_the_gradient_of_a_best_score_is_the_path_itself():
    initial, pair, node, start, _ = problem(171, 3, 57)
    (by_initial, by_pair, by_node), states = slopes_of_best(initial, pair, node, start)
    states = np.asarray(states)
    np.testing.assert_array_equal(by_node, states[:, None] == np.arange(3)[None, :, None])
    np.testing.assert_array_equal(by_initial, np.bincount(states[start], minlength=3))
    steps = np.zeros((3, 3))
    np.add.at(steps, (states[:-1][~start[1:]], states[1:][~start[1:]]), 1)
    np.testing.assert_array_equal(by_pair, steps)


@NATIVE
def test_it_is_compiled_as_one_function():
    initial, pair, node, start, weight = problem(171, 3, 57)
    for function in (
        lambda: rows.smooth(initial, pair, node, start, weight),
        lambda: decoding.best_states(initial, pair, node, start),
    ):
        assert "xla_cpu_small_call" in jax.jit(function).lower().as_text()
