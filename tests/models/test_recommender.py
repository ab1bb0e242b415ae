"""The recommender against enumeration, against machines without the missing units, and against a baseline."""

import itertools

import equinox as eqx
import jax
import numpy as np
import pytest

import chainrule as cr
from chainrule.models import recommender


def fast_key(seed):
    """A key whose numbers are compiled in a twentieth of the time that those of the default take."""
    return jax.random.key(seed, impl="philox2x32")


NAN = np.nan


def small(seed=0, items=4, grades=3, hidden=2):
    rng = np.random.default_rng(seed)
    shapes = (items, grades, hidden), (items, hidden), (items, grades), (hidden,)
    return cr.Recommender(*(rng.normal(size=shape) for shape in shapes), scale=tuple(range(1, grades + 1)))


def by_hand(model, row, rated, hidden):
    """−E(V, h | r), a sum over what is rated."""
    weights, extra, a, b = (np.asarray(x, float) for x in jax.tree.leaves(model))
    total = b @ hidden + rated @ extra @ hidden
    return total + sum(a[i, int(g) - 1] + weights[i, int(g) - 1] @ hidden for i, g in enumerate(row) if not np.isnan(g))


def log_total(model, row, rated):
    states = itertools.product([0, 1], repeat=len(model.hidden_bias))
    return np.logaddexp.reduce([by_hand(model, row, rated, np.array(h)) for h in states])


ROWS = np.array([[1, NAN, 3, NAN], [NAN, 2, NAN, NAN], [3, 1, 2, 2]])
FEW = cr.Ratings.latent_factors(fast_key(0), 60, 20, share=0.35)
METHOD = cr.MiniBatch(epochs=3, batch_size=20, learning_rate=0.05)


def test_free_energy_sums_the_hidden_units_out():
    model, ratings = small(), cr.Ratings(ROWS, (1, 2, 3))
    rated = ratings.rated.copy()
    rated[1, 3] = True  # known to be rated, but not how
    for known in (ratings.rated, rated):
        wanted = [-log_total(model, row, r.astype(float)) for row, r in zip(ROWS, known, strict=True)]
        np.testing.assert_allclose(model.free_energy(ratings, rated=known), wanted, rtol=1e-5)


def test_without_what_was_rated_it_is_the_rbm_with_softmax_units():
    model = eqx.tree_at(lambda m: m.rated_weights, small(), np.zeros((4, 2), np.float32))
    flat, bias = np.asarray(model.weights).reshape(12, 2), np.asarray(model.visible_bias).ravel()
    machine = cr.RBM(flat, bias, model.hidden_bias, visible=cr.units.Categorical(3))
    ratings = cr.Ratings(ROWS, (1, 2, 3))
    np.testing.assert_allclose(model.free_energy(ratings), machine.free_energy(ratings.indices()), rtol=1e-5)


def test_missing_items_are_units_that_are_not_there():
    model, ratings = small(), cr.Ratings(ROWS, (1, 2, 3))
    parts = (np.asarray(x)[::2] for x in (model.weights, model.rated_weights, model.visible_bias))
    without = cr.Recommender(*parts, model.hidden_bias, scale=(1, 2, 3))
    alone = cr.Ratings(ROWS[:1, ::2], (1, 2, 3))
    np.testing.assert_allclose(model.free_energy(ratings)[0], without.free_energy(alone)[0], rtol=1e-5)
    np.testing.assert_allclose(model.predict(ratings)[0, ::2], without.predict(alone)[0], rtol=1e-5)
    # and steps of contrastive divergence leave their parameters where they are
    few = cr.Ratings(np.where(np.arange(20) % 2, NAN, FEW.table))
    start = cr.Recommender.random(fast_key(2), few, num_hidden=4)
    fitted = start.fit(few, method=METHOD, key=fast_key(0)).model
    for name in ("weights", "rated_weights", "visible_bias"):
        new, old = np.asarray(getattr(fitted, name)), np.asarray(getattr(start, name))
        np.testing.assert_array_equal(new[1::2], old[1::2])
        assert (new[::2] != old[::2]).any()


def test_sweeps_draw_from_the_machine_and_touch_nothing_else():
    model = small()
    values = np.tile(np.float32(np.array([0, -1, 2, -1])[:, None] == np.arange(3)), (20_000, 1, 1))
    known = np.tile([[True, False, True, True]], (20_000, 1))
    key = fast_key(0)
    found = np.asarray(jax.jit(recommender.reconstruct)(model, key, values, known, 30))
    assert not found[:, 1::2].any()
    assert (found[:, ::2].sum(-1) == 1).all()
    joint = np.einsum("ua,ub->ab", found[:, 0], found[:, 2]) / len(found)
    rated = np.array([1.0, 0.0, 1.0, 1.0])
    rows = [[(a, NAN, b, NAN) for b in (1, 2, 3)] for a in (1, 2, 3)]
    exact = np.exp([[log_total(model, row, rated) for row in line] for line in rows])
    exact /= exact.sum()
    chi_squared = len(found) * ((joint - exact) ** 2 / exact).sum()
    assert chi_squared < 26.12  # 99.9 % of χ² with 8 degrees of freedom


def test_predictions_by_hand():
    model, ratings = small(), cr.Ratings(ROWS, (1, 2, 3))
    weights, extra, a, b = (np.asarray(x, float) for x in jax.tree.leaves(model))
    drive = b + weights[0, 0] + weights[2, 2] + extra[0] + extra[2]
    field = a + weights @ (1 / (1 + np.exp(-drive)))
    wanted = np.exp(field) / np.exp(field).sum(1, keepdims=True)
    found = model.predict_probs(ratings)
    np.testing.assert_allclose(found[0], wanted, rtol=1e-5)
    np.testing.assert_allclose(model.predict(ratings)[0], wanted @ [1, 2, 3], rtol=1e-5)
    best = model.recommend(ratings, 5)
    assert [len(row) for row in best] == [2, 3, 0]
    assert not set(best[0]) & {0, 2}


@pytest.fixture(scope="module")
def story():
    """Made-up ratings, a fit, and what is held out."""
    ratings = cr.Ratings.latent_factors(fast_key(0), 600, 60, share=0.35)
    train, test = ratings.split(fast_key(1), 0.15)
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        start = cr.Recommender.random(fast_key(2), train, num_hidden=24)
        method = cr.MiniBatch(epochs=30, batch_size=50, learning_rate=0.02, l2=0.05)
        fit = start.fit(train, method=method, key=fast_key(3))
    return train, test, fit


def biases(train):
    """User and item means, shrunk, as everybody's first recommender has them."""
    table, mean = train.table, np.nanmean(train.table)
    item = np.nansum(table - mean, axis=0) / (train.rated.sum(0) + 5)
    user = np.nansum(table - mean - item, axis=1) / (train.rated.sum(1) + 5)
    return mean + user[:, None] + item


def test_it_beats_the_baseline_on_ratings_it_has_not_seen(story):
    train, test, fit = story
    ours = cr.evaluation.rating_scores(test.table, fit.model.predict(train))
    theirs = cr.evaluation.rating_scores(test.table, biases(train))
    assert fit.status == cr.Status.MAX_ITERATIONS
    assert ours.rmse < 0.9 * theirs.rmse
    assert ours.mae < 0.9 * theirs.mae
    liked = np.nan_to_num(test.table) >= 4
    lists = [
        cr.evaluation.ranking_scores(liked, s, 5, candidates=~train.rated)
        for s in (fit.model.predict(train), biases(train))
    ]
    assert lists[0].ndcg > lists[1].ndcg


def test_nothing_of_the_test_ratings_leaks_into_predictions():
    """All of the way, twice: only grades of the test set differ, from before the split on, and no prediction does."""
    whole = FEW
    _, aside = whole.split(fast_key(1), 0.2)
    found = []
    for grades in (whole.table, np.where(aside.rated, 6 - whole.table, whole.table), 6 - whole.table):
        train, test = cr.Ratings(grades).split(fast_key(1), 0.2)
        start = cr.Recommender.random(fast_key(2), train, num_hidden=4)
        model = start.fit(train, method=METHOD, key=fast_key(3), rated=whole.rated).model
        scores = cr.evaluation.rating_scores(test.table, model.predict(train))
        found.append((model.predict_probs(train, rated=whole.rated), model.recommend(train, 3), scores.rmse))
    np.testing.assert_array_equal(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]
    assert found[0][2] != found[1][2]  # the scores do depend on them
    assert (found[0][0] != found[2][0]).any()  # and predictions on grades of the training set


def test_users_do_not_depend_on_each_other_or_on_blocks(story):
    train, _, fit = story
    every = fit.model.predict(train)
    few = cr.Ratings(train.table[[3, 599]])
    np.testing.assert_allclose(fit.model.predict(few), every[[3, 599]], atol=1e-5)


def test_new_numbers_compile_nothing_and_the_model_is_saved(tmp_path):
    start = cr.Recommender.random(fast_key(2), FEW, num_hidden=4)
    for rate, l2, sweeps in ((0.01, 0.0, 1), (0.1, 1.0, 3)):
        method = cr.MiniBatch(epochs=3, batch_size=20, learning_rate=rate, l2=l2)
        model = start.fit(FEW, method=method, sweeps=sweeps, key=fast_key(0)).model
        if rate == 0.01:
            before = recommender._descend._cached._cache_size()
    assert recommender._descend._cached._cache_size() == before
    cr.save(tmp_path / "model.npz", model)
    np.testing.assert_array_equal(cr.load(tmp_path / "model.npz").predict(FEW), model.predict(FEW))
    cr.save(tmp_path / "ratings.npz", FEW)
    np.testing.assert_array_equal(cr.load(tmp_path / "ratings.npz").table, FEW.table)


# Tables


def test_a_file_like_u_data(tmp_path):
    path = tmp_path / "u.data"
    path.write_text("196\t242\t3\t881250949\n22\t377\t1\t878887116\n196\t51\t5\t881250949\n\n")
    ratings = cr.Ratings.read(path)
    assert (ratings.users, ratings.items) == (("22", "196"), ("51", "242", "377"))
    np.testing.assert_array_equal(ratings.table, [[NAN, NAN, 1], [5, 3, NAN]])
    (tmp_path / "other").write_text("1::10::0.5::9\n")
    assert cr.Ratings.read(tmp_path / "other", (0.5, 1.0), separator="::").table.tolist() == [[0.5]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1\t2\t3\n1\t4\t6\n", "line 2: 6 is not on the scale"),
        ("1\t2\n", "line 1: .* is not user, item and rating"),
        ("user\titem\trating\n", "line 1: .* take a heading out"),
        ("1\t2\t3\n1\t2\t4\n", "line 2: user '1' rated item '2' already in line 1"),
        ("1\t2\tnan\n", "line 1: nan is not on the scale"),
        ("\n", "there are no ratings"),
    ],
)
def test_files_that_are_not(tmp_path, text, message):
    path = tmp_path / "ratings"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        cr.Ratings.read(path)


def test_what_is_masked_is_not_rated():
    given = np.ma.masked_array([[1, 5], [2, 9]], [[False, True], [False, True]])
    assert R(given).rated.tolist() == [[True, False], [True, False]]
    table = np.array([[1.0, NAN]])
    ratings = R(table)
    table[0, 0] = 99.0  # the caller's array is the caller's
    assert ratings.table[0, 0] == 1


def test_made_up_ratings_and_splits():
    ratings = cr.Ratings.latent_factors(fast_key(0), 300, 40, share=0.25)
    assert ratings.rated.mean() == pytest.approx(0.25, abs=0.02)
    assert ratings.rated.any(1).all()
    assert set(np.unique(ratings.table[ratings.rated])) == {1, 2, 3, 4, 5}
    same = cr.Ratings.latent_factors(fast_key(0), 300, 40, share=0.25)
    np.testing.assert_array_equal(ratings.table, same.table)
    train, test = ratings.split(fast_key(1), 0.2)
    assert not (train.rated & test.rated).any()
    np.testing.assert_array_equal(np.where(train.rated, train.table, test.table), ratings.table)
    assert test.rated.sum() / ratings.rated.sum() == pytest.approx(0.2, abs=0.03)


def test_scores_by_hand():
    ranked = cr.evaluation.ranking_scores([[1, 0, 1, 1], [0, 0, 0, 0], [0, 1, 0, 0]], [[4, 3, 2, 1]] * 3, 2)
    assert ranked.users == 2
    assert ranked.precision == pytest.approx((1 / 2 + 1 / 2) / 2)
    assert ranked.recall == pytest.approx((1 / 3 + 1) / 2)
    assert ranked.ndcg == pytest.approx((1 / (1 + 1 / np.log2(3)) + 1 / np.log2(3)) / 2)
    hidden = cr.evaluation.ranking_scores([[1, 0, 1]], [[3, 2, 1]], 1, candidates=[[0, 1, 1]])
    assert hidden.precision == 0


R = cr.Ratings


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: R([[6.0]]), "user 0 rated item 0 6, which is not on the scale"),
        (lambda: R([[1.0, 2.5]], items=("a", "b")), "item 'b' 2.5"),
        (lambda: R([1.0]), r"shape \(1,\)"),
        (lambda: R([[1.0]], (1,)), "at least two rising grades"),
        (lambda: R([[1.0]], (2, 1)), "at least two rising grades"),
        (lambda: R([[1.0]], users=("a", "b")), "2 names of users for 1"),
        (lambda: R([[1.0], [1.0]], users=("a", "a")), "'a' is there twice"),
        (lambda: R.from_triples([(1, 2, 3.0), (1, 2, 3.0)]), "user 1 rated item 2 twice"),
        (lambda: R.from_triples([(1, 2, 3.0)], items=[5]), "not among the names"),
        (lambda: R.from_triples([(1, 2, NAN)] * 2), "the rating of 2 by 1 is NaN"),
        (lambda: small().fit(R(ROWS, (1, 2, 3)), method=cr.CD(), key=fast_key(0)), "not by CD"),
        (lambda: R.latent_factors(fast_key(0), 0, 3), "0 users"),
        (lambda: R([[1.0]]).split(fast_key(0), 1.0), "share is 1.0"),
        (lambda: cr.Recommender(np.zeros((2, 3)), 0, 0, 0), r"shape \(2, 3\)"),
        (lambda: cr.Recommender(np.zeros((2, 2, 3)), np.zeros((2, 2)), np.zeros((2, 2)), np.zeros(3)), "rated_weights"),
        (
            lambda: cr.Recommender(np.full((1, 5, 1), NAN), np.zeros((1, 1)), np.zeros((1, 5)), np.zeros(1)),
            "weights has entries that are NaN",
        ),
        (lambda: cr.Recommender(np.zeros((1, 4, 1)), np.zeros((1, 1)), np.zeros((1, 4)), np.zeros(1)), "5 grades"),
        (lambda: cr.Recommender.random(fast_key(0), R([[1.0]]), num_hidden=0), "num_hidden is 0"),
        (lambda: small().predict(R([[1.0]], (1, 2, 3))), "of 1 items, not those of the model"),
        (lambda: small().predict(R(ROWS)), "the model"),
        (lambda: small().predict(R(ROWS, (1, 2, 3)), rated=np.zeros((3, 3))), r"rated has shape \(3, 3\)"),
        (
            lambda: small().predict(R(ROWS, (1, 2, 3)), rated=np.zeros((3, 4))),
            "user 0 has a rating of 0, which `rated`",
        ),
        (lambda: small().recommend(R(ROWS, (1, 2, 3)), 0), "count is 0"),
        (lambda: small().fit(R(ROWS, (1, 2, 3)), sweeps=0, key=fast_key(0)), "sweeps is 0"),
        (lambda: cr.evaluation.rating_scores([[1.0]], [[1.0, 2.0]]), "gold has shape"),
        (lambda: cr.evaluation.rating_scores([[NAN]], [[1.0]]), "no grades"),
        (lambda: cr.evaluation.rating_scores([[1.0]], [[NAN]]), r"prediction at \(0, 0\) is nan"),
        (lambda: cr.evaluation.ranking_scores([[1]], [[1.0, 2.0]]), "shapes"),
        (lambda: cr.evaluation.ranking_scores([[1]], [[1.0]], 0), "k is 0"),
        (lambda: cr.evaluation.ranking_scores([[1]], [[NAN]]), "is NaN"),
        (lambda: cr.evaluation.ranking_scores([[0]], [[1.0]]), "nothing relevant|anything relevant"),
    ],
)
def test_what_cannot_be(build, message):
    with pytest.raises(ValueError, match=message):
        build()
