"""Markov chains: counts, smoothing, names, stationary distributions, draws, graphs."""

import jax
import jax.numpy as jnp
import networkx as nx
import numpy as np
import pytest

import chainrule as cr

WEATHER = np.array([[0.8, 0.2, 0.0], [0.3, 0.4, 0.3], [0.0, 0.5, 0.5]])
NAMES = ("sun", "cloud", "rain")
DIARY = [["sun", "sun", "cloud", "rain"], ["rain", "cloud"], ["sun"]]


def weather():
    return cr.MarkovChain([0.5, 0.3, 0.2], WEATHER, states=NAMES)


# Probability of sequences


def test_log_prob_is_the_sum_along_the_path():
    wanted = [
        np.log(0.5) + np.log(0.8) + np.log(0.2) + np.log(0.3),
        np.log(0.2) + np.log(0.5),
        np.log(0.5),
    ]
    chain = weather()
    np.testing.assert_allclose(chain.log_prob(DIARY), wanted, rtol=1e-6)
    assert float(chain.log_prob(DIARY[0])) == pytest.approx(wanted[0], rel=1e-6)
    unnamed = cr.MarkovChain([0.5, 0.3, 0.2], WEATHER)
    np.testing.assert_allclose(unnamed.log_prob([[0, 0, 1, 2], [2, 1], [0]]), wanted, rtol=1e-6)
    np.testing.assert_allclose(unnamed.log_prob(np.array([[2, 1], [2, 1]])), [wanted[1]] * 2, rtol=1e-6)
    assert chain.log_prob(["sun", "rain"]) == -np.inf


def test_gradient_is_count_over_probability():
    gradient = jax.grad(lambda m: m.log_prob([0, 0, 1, 2]))(cr.MarkovChain([0.5, 0.3, 0.2], np.full((3, 3), 1 / 3)))
    np.testing.assert_allclose(gradient.initial, [2, 0, 0], rtol=1e-6)
    wanted = np.zeros((3, 3))
    wanted[0, 0] = wanted[0, 1] = wanted[1, 2] = 3
    np.testing.assert_allclose(gradient.transition, wanted, rtol=1e-6)


# Learning


def test_counts_are_maximum_likelihood():
    sequences = [[0, 0, 1, 2, 1], [1, 2, 2, 0], [0]]
    fit = cr.MarkovChain(np.full(3, 1 / 3), np.full((3, 3), 1 / 3)).fit(sequences)
    steps = np.array([[1, 1, 0], [0, 0, 2], [1, 1, 1]])
    np.testing.assert_allclose(fit.model.transition, steps / steps.sum(1, keepdims=True), rtol=1e-6)
    np.testing.assert_allclose(fit.model.initial, [2 / 3, 1 / 3, 0], rtol=1e-6)
    assert fit.status is cr.Status.CONVERGED
    assert fit.num_observations == 10
    assert fit.log_prob == pytest.approx(float(np.sum(fit.model.log_prob(sequences))), rel=1e-6)
    assert fit.aic == pytest.approx(2 * fit.num_parameters - 2 * fit.log_prob)


def test_what_is_no_state_has_no_probability():
    chain = cr.MarkovChain([0.5, 0.5], [[0.8, 0.2], [0.4, 0.6]])
    for values, what in (
        ([0, 5, 1], "step 1: 5 is not the index"),
        ([0, -1, 1], "step 1: -1 is not"),
        ([0.0, 0.7, 1.0], "step 1: 0.7 is not"),
        ([0.0, 1.0, np.nan], "step 2: nan is not"),
    ):
        for ask in (chain.log_prob, chain.fit):
            with pytest.raises(ValueError, match=what):
                ask(cr.Sequences.pack([np.array(values)]))
    with pytest.raises(ValueError, match=r"a sequence of states has shape \(time,\), got \(time, 2,\)"):
        chain.log_prob(cr.Sequences.pack([np.zeros((3, 2), int)]))
    whole = cr.Sequences.pack([np.array([0.0, 1.0, 1.0]), np.array([0.0])])
    np.testing.assert_allclose(chain.log_prob(whole), [np.log(0.5 * 0.2 * 0.6), np.log(0.5)], rtol=1e-6)
    traced = jax.jit(jax.vmap(chain.log_prob))
    found = traced(
        jnp.array([[0.0, 5.0, 1.0], [0.0, -3.0, 1.0], [0.0, 0.5, 1.0], [0.0, jnp.nan, 1.0], [0.0, 1.0, 1.0]])
    )
    np.testing.assert_allclose(found, [-np.inf] * 4 + [np.log(0.5 * 0.2 * 0.6)], rtol=1e-6)


def test_smoothing_adds_to_what_is_possible():
    start = weather()
    fit = start.fit([["sun", "sun", "cloud"]], smoothing=0.5)
    np.testing.assert_allclose(fit.model.transition[0], [1.5 / 3, 1.5 / 3, 0], rtol=1e-6)
    np.testing.assert_allclose(fit.model.transition[2], [0, 0.5, 0.5], rtol=1e-6)
    np.testing.assert_allclose(fit.model.initial, [1.5 / 2.5, 0.5 / 2.5, 0.5 / 2.5], rtol=1e-6)


def test_a_state_that_is_never_left_keeps_its_row_and_is_reported():
    fit = weather().fit([["sun", "sun", "cloud"]])
    assert fit.status is cr.Status.DEGENERATE
    assert fit.degenerate.tolist() == [False, True, True]
    np.testing.assert_allclose(fit.model.transition[1:], WEATHER[1:], rtol=1e-6)


def test_from_sequences_finds_the_states():
    chain = cr.MarkovChain.from_sequences(DIARY, smoothing=1.0)
    assert chain.states == ("cloud", "rain", "sun")
    np.testing.assert_allclose(chain.transition[2], [2 / 5, 1 / 5, 2 / 5], rtol=1e-6)
    ordered = cr.MarkovChain.from_sequences(DIARY, states=NAMES, smoothing=1.0)
    assert ordered.states == NAMES
    np.testing.assert_allclose(ordered.transition[0], [2 / 5, 2 / 5, 1 / 5], rtol=1e-6)
    one = cr.MarkovChain.from_sequences(np.array([3, 5, 3, 5, 5]))
    assert one.states == (3, 5)
    np.testing.assert_allclose(one.transition, [[0, 1], [0.5, 0.5]], rtol=1e-6)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: cr.MarkovChain([0.5, 0.5], [[0.5, 0.4], [0, 1]], states=("a", "b")), "row of state 'a' sums to 0.9"),
        (lambda: cr.MarkovChain([0.5, 0.6], np.eye(2)), r"initial distribution sums to 1\.1"),
        (lambda: cr.MarkovChain([0.5, 0.5], np.eye(3)), r"transition has shape \(3, 3\)"),
        (lambda: cr.MarkovChain([0.5, 0.5], [[1.2, -0.2], [0, 1]]), "the probability 1.2"),
        (lambda: weather().log_prob(["sun", "snow"]), "sequence 0, step 1: 'snow' is not a state"),
        (lambda: weather().log_prob([["sun"], ["sun", "fog"]]), "sequence 1, step 1: 'fog' is not a state"),
        (lambda: weather().log_prob([["sun"], []]), "sequence 1 is empty"),
        (lambda: weather().log_prob([]), "sequence 0 is empty"),
        (lambda: weather().fit([["sun", "rain"]]), "the data step from 'sun' to 'rain', which this chain forbids"),
        (lambda: weather().fit(DIARY, smoothing=-1), "smoothing is -1; it must not be negative"),
        (lambda: weather().fit([["sun", "sun"]], strict=True), "state 'cloud' is never left in the data"),
        (
            lambda: cr.MarkovChain.from_sequences([["a", "b"]]),
            "state 'b' is never left in the data: give smoothing > 0",
        ),
        (lambda: cr.MarkovChain.from_sequences([]), "no sequences"),
        (lambda: cr.MarkovChain.random(jax.random.key(0), 0), "num_states is 0"),
        (lambda: weather().sample(jax.random.key(0), 0), "length is 0"),
    ],
)
def test_errors_say_what_and_where(ask, message):
    with pytest.raises(ValueError, match=message):
        ask()


# Stationary distributions


def test_stationary_is_the_left_eigenvector():
    rng = np.random.default_rng(0)
    for size in (1, 2, 7):
        matrix = rng.dirichlet(np.ones(size), size)
        chain = cr.MarkovChain(np.full(size, 1 / size), matrix)
        found = chain.stationary()
        values, vectors = np.linalg.eig(np.asarray(chain.transition, float).T)
        wanted = np.real(vectors[:, np.argmax(np.real(values))])
        np.testing.assert_allclose(found, wanted / wanted.sum(), rtol=1e-6)
        assert found.dtype == np.float64
        assert found.sum() == pytest.approx(1, abs=1e-12)


def test_a_periodic_chain_has_one_too():
    np.testing.assert_allclose(cr.MarkovChain([1, 0, 0], np.roll(np.eye(3), 1, axis=1)).stationary(), np.full(3, 1 / 3))


def test_tiny_probabilities_keep_their_relative_accuracy():
    chain = cr.MarkovChain([0.5, 0.5], [[1 - 1e-12, 1e-12], [3e-12, 1 - 3e-12]])
    np.testing.assert_allclose(chain.stationary(), [0.75, 0.25], rtol=1e-6)
    birth = cr.MarkovChain([1, 0, 0], [[1 - 1e-12, 1e-12, 0], [0.5, 0.5 - 1e-12, 1e-12], [0, 0.5, 0.5]])
    np.testing.assert_allclose(birth.stationary(), [1, 2e-12, 4e-24], rtol=1e-6)


def test_states_that_are_left_for_good_have_none():
    chain = cr.MarkovChain([1, 0, 0], [[0.5, 0.5, 0], [0, 0.2, 0.8], [0, 0.4, 0.6]])
    np.testing.assert_allclose(chain.stationary(), [0, 1 / 3, 2 / 3], rtol=1e-6)


def test_several_closed_classes_are_named():
    chain = cr.MarkovChain([1, 0, 0], [[1 / 3, 1 / 3, 1 / 3], [0, 1, 0], [0, 0, 1]], states=("start", "won", "lost"))
    with pytest.raises(ValueError, match=r"2 closed classes, \[\['(won|lost)'\], \['(won|lost)'\]\]"):
        chain.stationary()


# Draws


def test_draws_have_the_exact_frequencies():
    chain, count = weather(), 20_000
    drawn = np.asarray(chain.sample(jax.random.key(0), 4, count))
    assert drawn.shape == (count, 4)
    for t in range(4):
        exact = np.array([0.5, 0.3, 0.2]) @ np.linalg.matrix_power(WEATHER, t)
        frequency = np.bincount(drawn[:, t], minlength=3) / count
        assert (np.abs(frequency - exact) <= 5 * np.sqrt(exact * (1 - exact) / count)).all()
    steps = np.zeros((3, 3))
    np.add.at(steps, (drawn[:, :-1].ravel(), drawn[:, 1:].ravel()), 1)
    assert (steps[WEATHER == 0] == 0).all()
    leaving = steps.sum(1, keepdims=True)
    error = 5 * np.sqrt(WEATHER * (1 - WEATHER) / leaving)
    assert (np.abs(steps / leaving - WEATHER) <= error).all()
    one = chain.sample(jax.random.key(0), 4)
    assert one.shape == (4,)
    assert set(chain.labels(one)) <= set(NAMES)
    assert chain.labels([0, 2]).tolist() == ["sun", "rain"]


# Graphs


def test_graph_and_back():
    graph = weather().graph()
    assert set(graph.edges) == {(NAMES[i], NAMES[j]) for i, j in np.argwhere(WEATHER > 0)}
    assert graph.edges["sun", "cloud"]["probability"] == pytest.approx(0.2)
    again = cr.MarkovChain.from_graph(graph)
    assert again.states == NAMES
    np.testing.assert_allclose(again.transition, WEATHER, rtol=1e-6)
    np.testing.assert_allclose(again.initial, [0.5, 0.3, 0.2], rtol=1e-6)


def test_a_structure_is_filled_evenly():
    chain = cr.MarkovChain.from_graph(nx.DiGraph([("a", "a"), ("a", "b"), ("b", "a")]))
    np.testing.assert_allclose(chain.transition, [[0.5, 0.5], [1, 0]])
    np.testing.assert_allclose(chain.initial, [0.5, 0.5])
    multi = nx.MultiDiGraph()
    multi.add_edge("a", "a", action="go", probability=1.0)
    with pytest.raises(ValueError, match="that is a decision process, not a chain"):
        cr.MarkovChain.from_graph(multi)


def test_random_chains_are_valid_and_reproducible():
    first, second = (cr.MarkovChain.random(jax.random.key(3), 4) for _ in range(2))
    np.testing.assert_array_equal(first.transition, second.transition)
    np.testing.assert_allclose(first.transition.sum(1), 1, rtol=1e-6)
    assert not np.array_equal(cr.MarkovChain.random(jax.random.key(4), 4).transition, first.transition)


# Corners


def test_the_gradient_is_finite_where_a_step_is_forbidden():
    gradient = jax.grad(lambda m: m.log_prob([0, 0, 1, 2]))(cr.MarkovChain([0.5, 0.5, 0.0], WEATHER))
    wanted = np.zeros((3, 3))
    wanted[0, 0], wanted[0, 1], wanted[1, 2] = 1 / 0.8, 1 / 0.2, 1 / 0.3
    np.testing.assert_allclose(gradient.transition, wanted, rtol=1e-6)
    np.testing.assert_allclose(gradient.initial, [2, 0, 0], rtol=1e-6)


def test_names_may_be_tuples_as_in_a_grid():
    grid = cr.MarkovChain.from_graph(nx.grid_2d_graph(2, 2).to_directed())
    path = [(0, 0), (0, 1), (1, 1)]
    assert float(grid.log_prob(path)) == pytest.approx(np.log(0.25 * 0.5 * 0.5), rel=1e-6)
    assert cr.MarkovChain.from_sequences([path], smoothing=1.0).states == tuple(path)
    assert grid.labels([0, 3]).tolist() == [(0, 0), (1, 1)]


def test_a_start_that_is_forbidden_is_refused():
    with pytest.raises(ValueError, match="start"):
        cr.MarkovChain([1.0, 0.0], np.full((2, 2), 0.5)).fit([[1, 0, 1]])


def test_parameters_are_counted_in_the_model_and_not_in_what_was_learned():
    fit = cr.MarkovChain(np.full(3, 1 / 3), np.full((3, 3), 1 / 3)).fit([[0, 0, 1, 2, 1], [1, 2, 2, 0], [0]])
    assert fit.num_parameters == 2 + 6
