"""Random fields with tables of any order: probabilities, gradients and fits against enumeration."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pairwise_cases as cases
import pytest

import chainrule as cr
from chainrule.models.boltzmann import learning, tables

KEY = jax.random.key(3, impl="philox2x32")
METHOD = cr.PCD(epochs=20, learning_rate=0.3, batch_size=150, chains=150, temperatures=3)
SIZES = {"a": 2, "b": 3, "c": 2, "d": 2}
BITS = np.array(list(itertools.product((0, 1), repeat=3)))


def a_graph(seed=0) -> cr.FactorGraph:
    """A table of three variables with a zero, a pair the other way round, a single one, and a constant."""
    rng = np.random.default_rng(seed)
    three = rng.normal(size=(2, 3, 2))
    three[1, 2, 0] = -np.inf
    tables = [(("a", "b", "c"), three), (("d", "b"), rng.normal(size=(2, 3))), (("d",), [0.0, 0.5]), ((), 0.7)]
    return cr.FactorGraph(SIZES, tables)


def three_bits(strength=0.0) -> cr.FactorGraph:
    """exp(strength · (−1)^(a + b + c)): every pair of them is independent."""
    spins = np.array([1, -1])
    product = strength * spins[:, None, None] * spins[:, None] * spins
    return cr.FactorGraph(dict.fromkeys("abc", 2), [(("a", "b", "c"), product), *(((v,), [0.0, 0.0]) for v in "abc")])


def gapped(rng, count=6) -> np.ndarray:
    rows = np.stack([rng.integers(0, size, count) for size in SIZES.values()], axis=1)
    rows[:2, 1] = -1
    rows[2:4, 0] = 0  # none of them is the forbidden one
    rows[4:, 2] = 1
    return rows


def test_probabilities_are_those_of_enumeration_with_gaps_summed_out():
    field = cr.MarkovRandomField.from_factor_graph(a_graph(), hidden=["c"])
    exact = a_graph().enumerate()
    assert field.visible == ("a", "b", "d")
    assert float(field.log_partition()) == pytest.approx(exact.log_partition, rel=1e-5)
    joint = exact.marginal("a", "b", "d")
    x = np.indices(joint.shape).reshape(3, -1).T
    np.testing.assert_allclose(np.exp(field.log_prob(x)), joint.ravel(), atol=1e-6)
    some = np.array([[1, np.nan, 1], [0, 2, -1], [-1, -1, -1]])
    wanted = [exact.marginal("a", "d")[1, 1], exact.marginal("a", "b")[0, 2], 1]
    np.testing.assert_allclose(np.exp(field.log_prob(some)), wanted, rtol=1e-5)
    masked = np.ma.masked_array(np.zeros((3, 3), int), [[False, True, False]] * 3)
    np.testing.assert_allclose(np.exp(field.log_prob(masked)), exact.marginal("a", "d")[0, 0], rtol=1e-5)
    again = field.factor_graph()
    assert again.variables == a_graph().variables
    np.testing.assert_allclose(again.enumerate().log_joint, exact.log_joint, atol=1e-6)
    full = cr.MarkovRandomField.from_factor_graph(a_graph())
    assert full.log_prob([1, 2, 0, 0]) == -np.inf


def test_the_gradient_is_that_of_finite_differences_and_never_moves_zeros():
    """In float64: data with gaps, a hidden variable; what PCD follows, with chains that are all states, is the same."""
    with jax.enable_x64(True):
        field = cr.MarkovRandomField.from_factor_graph(a_graph(), hidden=["d"])
        rows, _ = field._rows(gapped(np.random.default_rng(1))[:, :3])
        old = np.asarray(field.factors.tables)
        forbidden = np.isneginf(old)
        problem = tables.Tables(field.factors, forbidden, tables.gaps(rows, 4))

        def total(flat):
            return problem.log_prob(flat, rows).sum()

        @jax.jit
        def slopes(start):
            """Of the log-likelihood: exact, and by finite differences; of log Z: exact, and as the mean over all states."""
            differences = jax.vmap(lambda d: (total(start + d) - total(start - d)) / 2e-5)(1e-5 * jnp.eye(len(start)))
            form = problem.form(start)
            states = tables.joint_states(tables.sizes(form))
            weights = jax.nn.softmax(form.score(states))
            each = jax.vmap(lambda x: problem.slopes(form, x[:, None]), in_axes=1)(states)
            of_log_z = jax.grad(lambda flat: tables.log_partition(problem.form(flat)))(start)
            return jax.grad(total)(start), differences, of_log_z, weights @ each

        found, wanted, of_log_z, mean = map(np.asarray, slopes(np.where(forbidden, 0, old)))
        np.testing.assert_allclose(found, wanted, atol=1e-8)
        assert found[forbidden] == 0
        np.testing.assert_allclose(of_log_z, mean, atol=1e-12)


def test_a_table_of_three_learns_parity_and_pairs_cannot():
    rows = BITS[BITS.sum(1) % 2 == 0].repeat(25, axis=0)
    rows = np.concatenate([rows, BITS])
    pairs = [(pair, np.zeros((2, 2))) for pair in itertools.combinations("abc", 2)]
    of_pairs = cr.MarkovRandomField.from_factor_graph(cr.FactorGraph(dict.fromkeys("abc", 2), pairs)).fit(rows)
    fit = cr.MarkovRandomField.from_factor_graph(three_bits()).fit(rows)
    assert of_pairs.log_prob == pytest.approx(len(rows) * np.log(1 / 8), rel=1e-4)
    shares = np.where(BITS.sum(1) % 2 == 0, 26, 1) / len(rows)
    np.testing.assert_allclose(np.exp(fit.model.log_prob(BITS)), shares, atol=1e-4)
    assert fit.status is cr.Status.CONVERGED
    assert fit.num_parameters == 7
    assert of_pairs.num_parameters == 6
    assert fit.log_prob == pytest.approx(len(rows) * shares @ np.log(shares), rel=1e-5)
    before = learning._exact_fit._cache_size()
    cr.MarkovRandomField.from_factor_graph(three_bits(0.3)).fit(BITS)
    assert learning._exact_fit._cache_size() == before


def test_categories_zeros_and_gaps_are_learnt_by_both_methods():
    """Rows of which a quarter of the entries are missing at random: both come near the truth, and zeros stay.

    Half a χ² of 14 numbers is above 19 once in 2000: so far from the best fit a sample may lie, as chains are.
    """
    truth = cr.MarkovRandomField.from_factor_graph(a_graph())
    rows = np.array(truth.sample(KEY, 1500, sweeps=20))
    assert not ((rows[:, 0] == 1) & (rows[:, 1] == 2) & (rows[:, 2] == 0)).any()
    counts = np.bincount(np.ravel_multi_index(rows.T, tuple(SIZES.values())), minlength=24)
    joint = np.exp(a_graph().enumerate().log_joint).ravel()
    assert cases.chi_square(counts, joint) > 1e-3
    rows[np.random.default_rng(0).random(rows.shape) < 0.25] = -1
    start = cr.MarkovRandomField.random(jax.random.key(1), a_graph())
    x = np.indices(tuple(SIZES.values())).reshape(4, -1).T
    best = start.fit(rows)
    pcd = start.fit(rows, method=METHOD, key=KEY)
    for fit in (best, pcd):
        found = np.exp(np.asarray(fit.model.log_prob(x), float))
        assert (found == 0).sum() == (joint == 0).sum() == 2
        np.testing.assert_allclose(found, joint, atol=4 * np.sqrt(0.25 / (0.75**3 * 1500)))
    assert best.num_parameters == 14
    assert 0 <= best.log_prob - pcd.log_prob < 19
    assert pcd.history.shape == (20,)
    before = learning._run._cache_size()
    other = cr.PCD(epochs=19, learning_rate=0.2, batch_size=150, chains=150, temperatures=3, sweeps=2)
    start.fit(rows[::-1], method=other, key=KEY)
    assert learning._run._cache_size() == before
    filled = np.asarray(best.model.complete(KEY, rows[:200], sweeps=20))
    assert (filled[rows[:200] >= 0] == rows[:200][rows[:200] >= 0]).all()
    assert (filled >= 0).all()
    assert np.isfinite(best.model.log_prob(filled)).all()


def test_a_hidden_variable_is_learnt():
    """Two bits that agree, through a third one that nobody sees."""
    tables = [(("h", v), np.zeros((2, 2))) for v in "ab"]
    graph = cr.FactorGraph({"a": 2, "h": 2, "b": 2}, tables)
    rows = np.repeat([[0, 0], [1, 1], [0, 1], [1, 0]], [40, 40, 10, 10], axis=0)
    fit = cr.MarkovRandomField.random(jax.random.key(0), graph, scale=0.5, hidden="h").fit(rows)
    np.testing.assert_allclose(np.exp(fit.model.log_prob(rows[[0, 99]])), [0.4, 0.1], atol=1e-3)


# as many as in the test of both methods, so that they compile nothing: row 1 is impossible, others have gaps everywhere
GAPPED = np.indices((3, 4, 3, 3)).reshape(4, -1).T - 1
GAPPED = GAPPED[(GAPPED[:, :3] != [1, 2, 0]).any(1)]
IMPOSSIBLE = np.resize(np.concatenate([[[0, 0, 0, 0], [1, 2, 0, 1]], GAPPED]), (1500, 4))


def rebuilt(options):
    return cr.MarkovRandomField.from_factor_graph(a_graph(), **options)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.log_prob([[0, 3, 0, 0]]), r"data\[0, 1\] is 3; variable 'b' has states 0 to 2"),
        (lambda m: m.log_prob([0.5, 0, 0, 0]), r"data\[0\] is 0.5"),
        (lambda m: m.fit([[0, -2, 0, 0]]), r"data\[0, 1\] is -2"),
        (lambda m: m.log_prob([0, 1]), r"shape \(2,\)"),
        (lambda m: m.fit(np.zeros((0, 4))), "no rows"),
        (lambda m: m.fit(IMPOSSIBLE), "row 1 of the data has probability 0"),
        (lambda m: m.fit(IMPOSSIBLE, method=METHOD, key=KEY), "row 1 of the data"),
        (lambda m: m.fit([[0, 0, 0, 0]], method=cr.EM()), "not by EM"),
        (lambda m: m.fit([[0, 0, 0, 0]], method=cr.PCD()), "key"),
        (lambda m: m.complete(KEY, [0, -1, 0, 0], sweeps=0), "sweeps is 0"),
        (lambda m: m.sample(KEY, given={"b": 7}), "unknown state of 'b'"),
        (lambda m: rebuilt({"hidden": ["z"]}), "unknown hidden variable"),
        (lambda m: rebuilt({"hidden": "abcd"}), "all variables are hidden"),
        (
            lambda m: cr.MarkovRandomField.from_factor_graph(
                cr.FactorGraph(dict.fromkeys(range(19), 2), [])
            ).log_partition(),
            "524288 joint states",
        ),
    ],
)
def test_what_cannot_be_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(rebuilt({}))
