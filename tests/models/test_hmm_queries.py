"""Questions to a hidden Markov model: against enumeration, against oracles, and in every form that data may take."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from scipy.stats import norm

import chainrule as cr
from chainrule.models import packed

INITIAL = np.array([0.5, 0.5, 0.0])
TRANSITION = np.array([[0.7, 0.3, 0.0], [0.0, 0.6, 0.4], [0.2, 0.0, 0.8]])
MEAN, VARIANCE = np.array([-1.0, 0.5, 2.0]), np.array([1.0, 0.5, 2.0])
X = np.array([-0.8, 0.1, np.nan, 1.9, 2.4, -0.3])
Y = np.array([0.6, 2.2, 1.4, -1.0, -1.2, 0.4])
RAGGED = [X, Y[:3], Y[:1]]
NOTHING = [[None] * 6, [None] * 3, [None]]  # what is known of them, so that one program answers with and without

with np.errstate(divide="ignore"):
    LOG_INITIAL, LOG_TRANSITION = np.log(INITIAL), np.log(TRANSITION)


def model():
    return cr.HMM(INITIAL, TRANSITION, cr.emissions.Normal(MEAN, VARIANCE), states=("a", "b", "c"))


def node(x):
    scores = norm.logpdf(np.asarray(x)[:, None], MEAN, np.sqrt(VARIANCE))
    return np.where(np.isnan(scores), 0, scores)


def truth(x, known=None):
    scores = node(x)
    if known is not None:
        for t, state in known.items():
            scores[t, np.arange(3) != state] = -np.inf
    return oracles.enumerate_chain(LOG_INITIAL, LOG_TRANSITION, scores)


def close(got, wanted, atol=2e-5):
    np.testing.assert_allclose(np.asarray(got, float), wanted, atol=atol, rtol=1e-5)


# Against the unrolled factor graph and the oracles


def test_factor_graph_says_the_same_as_every_query():
    hmm = model()
    exact = hmm.factor_graph(X).enumerate()
    posterior, path = hmm.posterior(X), hmm.viterbi(X)
    close(hmm.log_prob(X), exact.log_partition)
    close(posterior.log_prob, exact.log_partition)
    for t in range(len(X)):
        close(posterior.marginals[t], exact.marginal(("z", t)))
    pairs = sum(exact.marginal(("z", t), ("z", t + 1)) for t in range(len(X) - 1))
    close(posterior.transitions, pairs)
    assert path.labels.tolist() == [exact.map["z", t] for t in range(len(X))]
    close(path.log_prob, exact.map_log_score)


def test_the_prior_unrolled_is_a_markov_chain():
    exact = model().factor_graph(length=4).enumerate()
    assert exact.log_partition == pytest.approx(0, abs=1e-6)
    close(exact.marginal(("z", 3)), INITIAL @ np.linalg.matrix_power(TRANSITION, 3))
    with pytest.raises(ValueError, match="give a sequence, or a length"):
        model().factor_graph()


def test_entropy_and_k_best_against_all_paths():
    hmm, exact = model(), truth(X)
    close(hmm.entropy(X), exact.entropy)
    best = hmm.k_best(X, 7)
    assert best.states.shape == (7, 6)
    close(best.log_prob, [score for score, _ in exact.paths[:7]])
    np.testing.assert_array_equal(best.states, [z for _, z in exact.paths[:7]])
    np.testing.assert_array_equal(best.states[0], hmm.viterbi(X).states)
    assert best.labels[0].tolist() == ["abc"[k] for k in exact.paths[0][1]]


def test_filter_looks_at_the_past_only():
    hmm = model()
    found = hmm.filter(X)
    before = INITIAL
    constants = []
    for t in range(len(X)):
        prefix = oracles.forward_backward(LOG_INITIAL, LOG_TRANSITION, node(X[: t + 1]))
        close(found.predicted[t], before)
        close(found.filtered[t], prefix.marginals[-1])
        constants.append(prefix.log_partition)
        before = prefix.marginals[-1] @ TRANSITION
    close(found.forecast, before)
    close(found.log_constants, np.diff([0, *constants]))
    close(found.log_prob, constants[-1])


def test_gradient_is_the_expected_counts():
    exact = truth(X)
    gradient = jax.grad(lambda m: m.log_prob(X))(model())
    possible = np.where(TRANSITION > 0, TRANSITION, 1)
    close(np.where(TRANSITION > 0, gradient.transition, 0), exact.pair_marginals.sum(0) / possible, 1e-4)
    close(np.asarray(gradient.initial)[:2], exact.marginals[0, :2] / INITIAL[:2], 1e-4)
    off = np.nan_to_num(X[:, None] - MEAN)
    close(gradient.emission.loc, (exact.marginals * off / VARIANCE).sum(0), 1e-4)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


# Data in every form


def test_a_ragged_list_gives_what_each_sequence_gives():
    hmm = model()
    posterior, filtered = hmm.posterior(RAGGED, known=NOTHING), hmm.filter(RAGGED, known=NOTHING)
    path, log_prob = hmm.viterbi(RAGGED, known=NOTHING), hmm.log_prob(RAGGED, known=NOTHING)
    drawn = hmm.sample_posterior(jax.random.key(0), RAGGED, 5, known=NOTHING)
    assert log_prob.shape == (3,)
    assert [m.shape for m in posterior.marginals] == [(6, 3), (3, 3), (1, 3)]
    assert [s.shape for s in drawn.states] == [(5, 6), (5, 3), (5, 1)]
    counts = 0
    for n, x in enumerate(RAGGED):
        exact = truth(x)
        close(log_prob[n], exact.log_partition)
        close(posterior.marginals[n], exact.marginals)
        close(filtered.filtered[n][-1], exact.marginals[-1])
        close(filtered.forecast[n], exact.marginals[-1] @ TRANSITION)
        close(filtered.log_constants[n].sum(), exact.log_partition)
        assert tuple(path.states[n]) == exact.paths[0][1]
        close(path.log_prob[n], exact.paths[0][0])
        counts = counts + exact.pair_marginals.sum(0)
    close(posterior.transitions, counts)
    assert [labels.tolist() for labels in path.labels][2] == ["abc"[truth(Y[:1]).paths[0][1][0]]]
    np.testing.assert_array_equal(posterior["b"][1], posterior.marginals[1][:, 1])
    close(posterior.marginals[0], hmm.posterior(X).marginals, 1e-6)  # of whose states nothing is said


def test_rectangle_list_and_packed_sequences_agree():
    hmm, both = model(), np.stack([X, Y])
    as_list, as_array = hmm.posterior([X, Y]), hmm.posterior(both)
    packed = hmm.posterior(cr.Sequences.pack([X, Y]))
    concatenated = hmm.posterior(cr.Sequences.pack(np.concatenate([X, Y]), lengths=[6, 6]))
    assert isinstance(as_list.marginals, list)
    assert isinstance(as_array.marginals, np.ndarray)
    assert as_array.marginals.shape == (2, 6, 3)
    for other in (as_array, packed, concatenated):
        np.testing.assert_array_equal(other.log_prob, as_list.log_prob)
        np.testing.assert_array_equal(np.stack(list(other.marginals)), np.stack(as_list.marginals))
    close(as_array.log_prob, [truth(X).log_partition, truth(Y).log_partition])
    np.testing.assert_array_equal(as_array["c"], as_array.marginals[..., 2])


def test_traced_data_give_traced_answers():
    hmm, both = model(), jnp.asarray(np.stack([X, Y]), jnp.float32)
    wanted = [truth(X), truth(Y)]

    @jax.jit
    def ask(m, x):
        each = jax.vmap(m.log_prob)(x)
        return m.posterior(x), m.viterbi(x), each, m.k_best(x, 2).states

    posterior, path, each, best = ask(hmm, both)
    close(posterior.log_prob, [w.log_partition for w in wanted])
    close(posterior.marginals, np.stack([w.marginals for w in wanted]))
    assert [tuple(states.tolist()) for states in path.states] == [w.paths[0][1] for w in wanted]
    assert path.labels.shape == (2, 6)
    assert best.shape == (2, 2, 6)
    close(each, [w.log_partition for w in wanted])


def test_many_models_at_once():
    @jax.jit
    def ask(shifts):
        models = jax.vmap(lambda s: cr.HMM(jnp.array(INITIAL), jnp.array(TRANSITION), _shifted(s)))(shifts)
        return models, jax.vmap(lambda m: m.log_prob(X))(models)

    models, found = ask(np.float32([0, 0.5]))
    exact = oracles.forward_backward(LOG_INITIAL, LOG_TRANSITION, node(X - 0.5))
    close(found, [truth(X).log_partition, exact.log_partition])
    assert "batch of (2,)" in repr(models)


def _shifted(shift):
    return cr.emissions.Normal(jnp.asarray(MEAN, jnp.float32) + shift, jnp.asarray(VARIANCE, jnp.float32))


def test_a_plain_list_of_numbers_is_one_sequence():
    assert np.ndim(model().log_prob([0.1] * 6)) == 0
    assert np.ndim(model().log_prob([[0.1] * 6, [0.4] * 3, [0.2]], known=NOTHING)) == 1


def test_one_sequence_only_where_the_answer_is_one_path():
    with pytest.raises(ValueError, match="takes one sequence"):
        model().chain(RAGGED)


@pytest.mark.parametrize("room", [None, 1])
def test_entropy_and_k_best_of_several_sequences(room, monkeypatch):
    """All at once, and one at a time where there is no room for more."""
    data = RAGGED
    if room:  # and a program of its own, since there is one more sequence
        monkeypatch.setattr(packed, "ROOM", room)
        data = [*RAGGED, Y[2:4]]
    hmm, known = model(), [[None] * len(x) for x in data]
    known[0][0] = "b"
    entropy, best = hmm.entropy(data, known=known), hmm.k_best(data, 4, known=known)
    assert best.log_prob.shape == (len(data), 4)
    for n, x in enumerate(data):
        exact = truth(x, {0: 1} if n == 0 else None)
        close(entropy[n], exact.entropy)
        assert best.states[n].shape == (4, len(x))
        for m, (score, z) in enumerate(exact.paths[:4]):
            close(best.log_prob[n, m], score)
            assert tuple(best.states[n][m]) == (z if score > -np.inf else (-1,) * len(x))
        assert (best.log_prob[n, len(exact.paths) :] == -np.inf).all()


# Names


def test_names_of_states_survive():
    posterior = model().posterior(X)
    np.testing.assert_array_equal(posterior["c"], posterior.marginals[:, 2])
    with pytest.raises(ValueError, match=r"no state is called 'd'; the states are \['a', 'b', 'c'\]"):
        posterior["d"]
    nameless = cr.HMM(INITIAL, TRANSITION, cr.emissions.Normal(MEAN, VARIANCE))
    assert nameless.states == (0, 1, 2)
    path = nameless.viterbi(X, known=[-1, 0, -1, 2, -1, -1])  # indices, and −1 where nothing is known
    assert path.labels.tolist() == path.states.tolist() == list(truth(X, {1: 0, 3: 2}).paths[0][1])


def test_graph_and_back_keeps_names_and_zeros():
    graph = model().graph()
    assert set(graph.edges) == {("a", "a"), ("a", "b"), ("b", "b"), ("b", "c"), ("c", "a"), ("c", "c")}
    again = cr.HMM.from_graph(graph, cr.emissions.Normal(MEAN, VARIANCE))
    assert again.states == ("a", "b", "c")
    close(again.transition, TRANSITION, 1e-7)
    close(again.initial, INITIAL, 1e-7)


def test_permutation_of_states_changes_no_probability():
    hmm, order = model(), [2, 0, 1]
    other = hmm.permute(order)
    assert other.states == ("c", "a", "b")
    mine, theirs = hmm.posterior(X), other.posterior(X)
    close(theirs.log_prob, mine.log_prob)
    close(theirs["a"], mine["a"])
    close(other.align(hmm).transition, TRANSITION, 1e-7)
    with pytest.raises(ValueError, match="not a permutation"):
        hmm.permute([0, 0, 1])
    with pytest.raises(ValueError, match="cannot align 3 states with 2"):
        hmm.align(cr.HMM([0.5, 0.5], np.eye(2), cr.emissions.Poisson([1.0, 2.0])))


# Known states


@pytest.mark.parametrize("known", [{1: 1}, {0: 0, 3: 2}, {t: k for t, k in enumerate([1, 1, 2, 2, 2, 0])}])
def test_known_states_condition_everything(known):
    """Of the first of several sequences; the others stay as they are."""
    hmm, truths = model(), [truth(X, known), truth(Y[:3]), truth(Y[:1])]
    exact = truths[0]
    labels = [[None if t not in known else "abc"[known[t]] for t in range(6)], *NOTHING[1:]]
    close(hmm.log_prob(RAGGED, known=labels), [t.log_partition for t in truths])
    posterior = hmm.posterior(RAGGED, known=labels)
    close(posterior.marginals[0], exact.marginals)
    close(posterior.marginals[1], truths[1].marginals)
    assert tuple(hmm.viterbi(RAGGED, known=labels).states[0]) == exact.paths[0][1]
    close(hmm.entropy(RAGGED, known=labels), [t.entropy for t in truths])
    best = hmm.k_best(RAGGED, 4, known=labels).log_prob[0]
    close(best, [score for score, _ in exact.paths[:4]])
    close(hmm.filter(RAGGED, known=labels).filtered[0][-1], exact.marginals[-1])
    drawn = hmm.sample_posterior(jax.random.key(1), RAGGED, 5, known=labels).states[0]
    assert all((drawn[:, t] == state).all() for t, state in known.items())


def test_known_states_of_a_ragged_list():
    known = [["a", None, None, None, None, None], [None, "b", None], [None]]
    found = model().log_prob(RAGGED, known=known)
    close(found, [truth(X, {0: 0}).log_partition, truth(Y[:3], {1: 1}).log_partition, truth(Y[:1]).log_partition])


def test_known_states_that_do_not_fit():
    with pytest.raises(ValueError, match="no state is called 'z'"):
        model().log_prob(X, known=["z"] * 6)
    with pytest.raises(ValueError, match=r"known has lengths \[2\], the data \[6\]"):
        model().log_prob(X, known=["a", "a"])


# Draws


def tolerance(probs, count):
    """Five standard errors of a frequency."""
    return 5 * np.sqrt(np.maximum(probs * (1 - probs), 1 / count) / count)


def test_posterior_draws_have_the_exact_marginals():
    count, exact = 20_000, truth(X)
    path = model().sample_posterior(jax.random.key(3), X, count)
    assert path.states.shape == (count, 6)
    close(path.log_prob, exact.log_partition)
    frequency = (path.states[:, :, None] == np.arange(3)).mean(0)
    assert (np.abs(frequency - exact.marginals) <= tolerance(exact.marginals, count)).all()
    steps = np.zeros((5, 3, 3))
    for t in range(5):
        np.add.at(steps[t], (path.states[:, t], path.states[:, t + 1]), 1 / count)
    assert (np.abs(steps - exact.pair_marginals) <= tolerance(exact.pair_marginals, count)).all()
    assert (steps[:, TRANSITION == 0] == 0).all()


def test_samples_have_the_prior_marginals():
    hmm, count = model(), 20_000
    states, x = hmm.sample(jax.random.key(4), 3, count)
    assert states.shape == x.shape == (count, 3)
    states, x = np.asarray(states), np.asarray(x)
    for t in range(3):
        marginal = INITIAL @ np.linalg.matrix_power(TRANSITION, t)
        assert (np.abs((states[:, t, None] == np.arange(3)).mean(0) - marginal) <= tolerance(marginal, count)).all()
        for k in range(3):
            mine = x[states[:, t] == k, t]
            if len(mine):
                assert abs(mine.mean() - MEAN[k]) <= 5 * np.sqrt(VARIANCE[k] / len(mine))
    with pytest.raises(ValueError, match="length is 0"):
        hmm.sample(jax.random.key(0), 0)


# Traps, with the true value


class Table(NamedTuple):
    """A distribution in NumPyro's shape that is none of NumPyro's: log-probabilities [symbol, state]."""

    log_table: jax.Array  # (symbol, state)

    batch_shape = property(lambda self: self.log_table.shape[1:])
    event_shape = property(lambda self: ())

    def log_prob(self, x):
        return self.log_table[x[..., 0].astype(jnp.int32)]

    def sample(self, key, shape):
        return jnp.zeros((*shape, *self.batch_shape), jnp.int32)


def locked():
    return cr.HMM([1.0, 0.0, 0.0], np.eye(3), cr.emissions.Normal([0.0, 50.0, 100.0], VARIANCE), states=("a", "b", "c"))


def filled(*x):
    """As long as X, the rest missing."""
    return np.append(x, np.full(6 - len(x), np.nan))


def test_a_state_locked_in_by_zeros_stays_however_bad_the_outlier():
    posterior = locked().posterior(filled(0.0, 50.0))
    assert float(posterior.log_prob) == pytest.approx(-1251.8379, abs=1e-3)
    np.testing.assert_array_equal(posterior.marginals, [[1, 0, 0]] * 6)
    assert float(locked().log_prob(filled(0.0, 50.0))) == pytest.approx(-1251.8379, abs=1e-3)
    assert locked().viterbi(filled(0.0, 50.0)).states.tolist() == [0] * 6
    both = locked().posterior([filled(0.0, 50.0), filled(0.0, 0.0)[:3], [0.0]], known=NOTHING)
    close(both.log_prob, [-1251.8379, -1.8379, -0.9189], 1e-3)


def test_impossible_evidence_has_log_probability_minus_infinity_and_no_posterior():
    """And it leaves its neighbours alone."""
    hmm, known = model(), [["c", *[None] * 5], *NOTHING[1:]]  # where nothing can begin
    posterior, path = hmm.posterior(RAGGED, known=known), hmm.viterbi(RAGGED, known=known)
    filtered, log_prob = hmm.filter(RAGGED, known=known), hmm.log_prob(RAGGED, known=known)
    entropy, best = hmm.entropy(RAGGED, known=known), hmm.k_best(RAGGED, 4, known=known)
    drawn = hmm.sample_posterior(jax.random.key(0), RAGGED, 5, known=known).states
    assert log_prob[0] == posterior.log_prob[0] == path.log_prob[0] == filtered.log_prob[0] == -np.inf
    assert not posterior.marginals[0].any()
    assert path.states[0].tolist() == [-1] * 6
    assert path.labels[0].tolist() == [None] * 6
    assert not np.isnan(filtered.filtered[0]).any()
    assert (drawn[0] == -1).all()
    assert entropy[0] == 0
    assert (best.log_prob[0] == -np.inf).all()
    others = [truth(x) for x in RAGGED[1:]]
    close(posterior.transitions, sum(other.pair_marginals.sum(0) for other in others))
    for n, other in enumerate(others, 1):
        for found in (log_prob, posterior.log_prob, filtered.log_prob):
            close(found[n], other.log_partition)
        close(posterior.marginals[n], other.marginals)
        assert tuple(path.states[n]) == other.paths[0][1]
        assert (drawn[n] >= 0).all()


def test_a_missing_step_is_summed_out():
    assert float(locked().log_prob(filled(0.0, np.nan, 0.0))) == pytest.approx(-1.8379, abs=1e-4)
    slope = jax.jit(jax.grad(lambda m, x: m.log_prob(x), argnums=(0, 1)))
    gradient = slope(locked(), filled(0.0, np.nan, 1.0))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    np.testing.assert_allclose(gradient[1], [0, 0, -1, 0, 0, 0], atol=1e-6)


def test_nothing_but_missing_steps_is_the_prior():
    hmm, nothing = model(), np.full(6, np.nan)
    posterior = hmm.posterior(nothing)
    assert float(posterior.log_prob) == pytest.approx(0, abs=1e-6)
    close(posterior.marginals, [INITIAL @ np.linalg.matrix_power(TRANSITION, t) for t in range(6)])
    gradient = jax.grad(lambda m: m.log_prob(nothing))(hmm)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_one_step_is_a_sequence():
    @jax.jit
    def ask(m, x):
        drawn = m.sample_posterior(jax.random.key(0), x, 2)
        return m.posterior(x), m.viterbi(x), drawn, m.entropy(x), m.k_best(x, 2).log_prob

    exact = truth(Y[:1])
    posterior, path, drawn, entropy, best = ask(model(), Y[:1])
    close(posterior.log_prob, exact.log_partition)
    close(posterior.marginals, exact.marginals)
    assert path.states.tolist() == list(exact.paths[0][1])
    assert drawn.states.shape == (2, 1)
    close(entropy, exact.entropy)
    close(best, [score for score, _ in exact.paths[:2]])


@pytest.mark.lenient
def test_a_structural_zero_has_the_right_gradient():
    likelihood = jnp.asarray(np.log([[0.9, 0.1], [0.2, 0.8]]), jnp.float32)
    hmm = cr.HMM([0.5, 0.5], [[0.5, 0.5], [0.0, 1.0]], Table(likelihood))
    log_prob, gradient = jax.jit(jax.value_and_grad(lambda m: m.log_prob([0, 1])))(hmm)
    assert float(log_prob) == pytest.approx(-1.3280255, abs=1e-6)
    close(gradient.transition, [[0.33962, 1.35849], [0.03774, 0.15094]], 1e-5)


# test_traps.py asks the same of a chain without emissions, in less time
@pytest.mark.slow
def test_float32_holds_over_a_hundred_thousand_steps():
    hmm, rng = model(), np.random.default_rng(5)
    x = rng.normal(size=100_000) * 1.5
    likelihood = np.exp(node(x))
    forward, backward, constant = np.empty((100_000, 3)), np.ones((100_000, 3)), np.empty(100_000)
    state = INITIAL
    for t in range(100_000):
        joint = state * likelihood[t]
        constant[t] = joint.sum()
        forward[t] = joint / constant[t]
        state = forward[t] @ TRANSITION
    for t in range(99_998, -1, -1):
        backward[t] = TRANSITION @ (likelihood[t + 1] * backward[t + 1]) / constant[t + 1]
    posterior = hmm.posterior(x)
    assert float(posterior.log_prob) == pytest.approx(np.log(constant).sum(), rel=1e-6)
    np.testing.assert_allclose(posterior.marginals, forward * backward, atol=1e-5)


def test_a_stream_cut_in_two_adds_up_to_the_whole():
    hmm, whole = model(), model().filter(np.concatenate([X, Y]))
    first = hmm.filter(X)
    rest = cr.HMM(first.forecast, hmm.transition, hmm.emission, hmm.states).filter(Y)
    close(first.log_prob + rest.log_prob, whole.log_prob)
    close(rest.forecast, whole.forecast)


# Zeros and gradients


@jax.jit
def of_symbols(hmm, x):
    log_prob, gradient = jax.value_and_grad(lambda m: m.log_prob(x))(hmm)
    return log_prob, gradient, hmm.posterior(x), hmm.viterbi(x)


def symbols(initial, transition, probs):
    return cr.HMM(initial, transition, cr.emissions.Categorical(probs), states=("on", "off"))


def test_an_impossible_sequence_has_a_zero_gradient_everywhere():
    hmm = symbols([1.0, 0.0], np.eye(2), np.eye(2, 3))
    log_prob, gradient, posterior, path = of_symbols(hmm, np.array([0, 1, 1]))
    assert log_prob == posterior.log_prob == path.log_prob == -np.inf
    assert not np.asarray(posterior.marginals).any()
    assert not np.asarray(posterior.transitions).any()
    assert path.labels.tolist() == [None] * 3
    for leaf in jax.tree.leaves(gradient):
        np.testing.assert_array_equal(leaf, np.zeros(leaf.shape))


def test_a_symbol_that_one_state_cannot_make_leaves_the_gradient_finite():
    probs, x = np.array([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]]), np.array([0, 2, 1])
    _, gradient, posterior, _ = of_symbols(symbols([0.5, 0.5], [[0.9, 0.1], [0.2, 0.8]], probs), x)
    gradient = np.asarray(gradient.emission.probs)
    assert np.isfinite(gradient).all()
    wanted = np.zeros((2, 3))
    np.add.at(wanted.T, x, np.asarray(posterior.marginals))
    close(np.where(probs > 0, gradient, 0), np.where(probs > 0, wanted / np.where(probs > 0, probs, 1), 0), 1e-4)


def test_an_unknown_symbol_in_traced_data_is_not_taken_for_the_last_one():
    hmm = symbols([0.5, 0.5], np.full((2, 2), 0.5), [[0.9, 0.05, 0.05], [0.2, 0.1, 0.7]])
    log_prob, *_ = of_symbols(hmm, np.array([0, 3, 1]))  # values cannot be checked here
    assert not np.isfinite(log_prob)


# Order of states


def test_states_align_by_what_they_explain():
    hmm = model()
    other = hmm.permute([2, 0, 1])
    assert other.align(hmm, [X, Y]).states == hmm.states
    assert other.align(hmm, X).states == hmm.states


def test_symbols_have_no_order_that_could_align_states():
    emission = cr.emissions.Categorical([[0.5, 0.0, 0.5], [0.0, 1.0, 0.0]])  # the same mean symbol, 1
    hmm = cr.HMM([0.5, 0.5], [[0.9, 0.1], [0.2, 0.8]], emission)
    np.testing.assert_array_equal(hmm.permute([1, 0]).align(hmm).emission.probs, emission.probs)


def test_a_tied_covariance_belongs_to_no_state():
    emission = cr.emissions.MultivariateNormal([[0.0, 0.0], [1.0, 1.0]], [[1.0, 0.3], [0.3, 2.0]])
    turned = cr.HMM([0.5, 0.5], [[0.9, 0.1], [0.2, 0.8]], emission).permute([1, 0])
    np.testing.assert_array_equal(turned.emission.covariance, emission.covariance)
    np.testing.assert_array_equal(turned.emission.loc, emission.loc[::-1])
