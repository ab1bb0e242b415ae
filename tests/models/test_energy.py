"""Energy models against Gaussians, whose scores, normalisers and moments are known."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import chainrule as cr
from chainrule.models import energy_learning


def fast_key(seed):
    """A key whose numbers are compiled in a twentieth of the time that those of the default take."""
    return jax.random.key(seed, impl="philox2x32")


MEAN = np.array([1.0, -0.5])
COVARIANCE = np.array([[1.0, 0.6], [0.6, 0.8]])
PRECISION = np.linalg.inv(COVARIANCE)
ROWS = np.random.default_rng(0).multivariate_normal(MEAN, COVARIANCE, 4000)
LOG_Z = 0.5 * np.log(np.linalg.det(2 * np.pi * COVARIANCE))


class Quadratic(eqx.Module):
    """½ (x − m)ᵀ P (x − m), the energy of a Gaussian."""

    mean: jax.Array
    factor: jax.Array

    def __init__(self, mean=(0.0, 0.0), precision=((1.0, 0.0), (0.0, 1.0))):
        self.mean = jax.device_put(np.float32(mean))
        self.factor = jax.device_put(np.float32(np.linalg.cholesky(precision)))

    def __call__(self, x):
        return (((x - self.mean) @ self.factor) ** 2).sum() / 2

    @property
    def precision(self):
        return np.asarray(self.factor) @ np.asarray(self.factor).T


def truth():
    return cr.EnergyModel(Quadratic(MEAN, PRECISION), 2)


METHOD = cr.MiniBatch(epochs=12, batch_size=100, learning_rate=0.03, average=0.98)


def fitted(objective, method=METHOD, **options):
    return cr.EnergyModel(Quadratic(), 2).fit(ROWS, objective=objective, method=method, key=fast_key(0), **options)


# Queries


def test_energies_and_scores():
    model, x = truth(), ROWS[:6].astype(np.float32).reshape(2, 3, 2)
    centred = x - MEAN
    np.testing.assert_allclose(model.energy(x), np.einsum("abi,ij,abj->ab", centred, PRECISION, centred) / 2, rtol=1e-4)
    np.testing.assert_allclose(model.score(x), -centred @ PRECISION, atol=1e-5)
    assert model.energy(x[0, 0]).shape == ()
    known = cr.EnergyModel(Quadratic(MEAN, PRECISION), 2, LOG_Z)
    np.testing.assert_allclose(known.log_prob(x), -np.asarray(model.energy(x)) - LOG_Z, rtol=1e-5)
    assert repr(model) == "EnergyModel(shape (2,))"
    assert cr.EnergyModel(Quadratic(), np.int64(2)).shape == (2,)
    assert cr.JointEnergyModel(lambda x: x, np.int64(2)).shape == (2,)
    with pytest.raises(ValueError, match=r"shape is 2\.5; wanted a whole number"):
        cr.EnergyModel(Quadratic(), 2.5)


def test_under_jit_vmap_and_grad_saved_and_frozen(tmp_path):
    model, x = truth(), jax.device_put(np.float32(ROWS[:6]))
    traces = []

    @eqx.filter_jit
    def compiled(model, x):
        traces.append(None)
        return model.energy(x)

    wanted = compiled(model, x)
    compiled(cr.EnergyModel(Quadratic(), 2), jax.device_put(np.float32(ROWS[5::-1])))
    assert len(traces) == 1
    np.testing.assert_allclose(jax.vmap(model.energy)(x), wanted, rtol=1e-5)
    gradient = eqx.filter_jit(eqx.filter_grad(lambda model: model.energy(x).sum()))(model)
    np.testing.assert_allclose(gradient.function.mean, -(ROWS[:6] - MEAN).sum(0) @ PRECISION, rtol=1e-4)
    with pytest.raises(AttributeError):
        model.function = model.function
    cr.save(tmp_path / "model.npz", model)
    again = cr.load(tmp_path / "model.npz", like=cr.EnergyModel(Quadratic(), 2))
    np.testing.assert_array_equal(again.energy(x), model.energy(x))


@pytest.mark.lenient  # BlackJAX is called under the settings of its caller in `jit`
@pytest.mark.parametrize("method", [cr.HMC(0.3, steps=30), cr.MALA(0.2, steps=100)], ids=lambda m: type(m).__name__)
def test_samplers_have_the_moments_of_a_gaussian(method):
    walk = truth().walk(fast_key(0), np.zeros((4000, 2), np.float32), method=method)
    assert walk.path is None
    samples = np.asarray(walk.samples)
    error = np.sqrt(np.diag(COVARIANCE) / 4000)
    assert (abs(samples.mean(0) - MEAN) < 4 * error).all()
    # a covariance's entry has variance (c_ii c_jj + c_ij²) / n
    spread = np.sqrt((np.outer(np.diag(COVARIANCE), np.diag(COVARIANCE)) + COVARIANCE**2) / 4000)
    assert (abs(np.cov(samples.T) - COVARIANCE) < 4 * spread).all()
    assert 0.4 < np.asarray(walk.acceptance).mean() < 1


def half_square(x):
    return (x**2).sum() / 2


@pytest.mark.parametrize("step", [0.1, 0.5])
def test_plain_langevin_is_off_by_what_is_known(step):
    model = cr.EnergyModel(half_square, 1)
    found = model.sample(fast_key(0), 8000, method=cr.Langevin(step, 200))
    variance = 1 / (1 - step / 2)
    assert float(np.asarray(found).var()) == pytest.approx(variance, abs=4 * variance * np.sqrt(2 / 8000))
    cold = model.sample(fast_key(0), 8000, method=cr.Langevin(step, 200, noise=0.0))
    assert np.abs(np.asarray(cold)).max() < 1e-3


def test_paths_and_images():
    model, start = cr.EnergyModel(half_square, (2, 3)), np.zeros((4, 2, 3), np.float32)
    walk = model.walk(fast_key(0), start, method=cr.HMC(0.2, steps=5), keep=True)
    assert walk.path.shape == (5, 4, 2, 3)
    np.testing.assert_array_equal(np.asarray(walk.path)[-1], walk.samples)


# Learning


def close_to(model, mean, precision):
    # 4 standard errors of maximum likelihood, and a half more for the noise that stochastic gradients leave
    np.testing.assert_allclose(model.function.mean, mean, atol=0.1)
    np.testing.assert_allclose(model.function.precision, precision, atol=0.35, rtol=0.1)


def test_denoising_learns_the_blurred_density():
    sigma = 0.7
    fit = fitted(cr.DenoisingScoreMatching(sigma))
    close_to(fit.model, MEAN, np.linalg.inv(COVARIANCE + sigma**2 * np.eye(2)))
    assert fit.status == cr.Status.MAX_ITERATIONS
    assert fit.iterations == len(fit.history) == 12 * 40
    assert fit.num_parameters == 6
    assert np.isnan(fit.log_prob)


def test_sliced_score_matching_learns_the_density():
    close_to(fitted(cr.SlicedScoreMatching(2)).model, MEAN, PRECISION)


def test_noise_contrast_learns_the_normaliser_too():
    class Wide:
        """A density that is not the default one, with the methods that NumPyro's have."""

        def sample(self, key, shape):
            return 2 * jax.random.normal(key, (*shape, 2))

        def log_prob(self, x):
            return -(x**2).sum(-1) / 8 - float(np.log(8 * np.pi))

    fits = [fitted(cr.NoiseContrastive(noise, ratio)) for noise, ratio in ((None, 1), (Wide(), 3))]
    for model in (fit.model for fit in fits):
        close_to(model, MEAN, PRECISION)
        # of the model as it was learned, not only of the truth
        own = 0.5 * np.log((2 * np.pi) ** 2 / np.linalg.det(model.function.precision))
        assert float(model.log_normaliser) == pytest.approx(own, abs=0.05)
        assert float(model.log_normaliser) == pytest.approx(LOG_Z, abs=0.15)
    exact = -len(ROWS) * LOG_Z - np.einsum("ai,ij,aj->", ROWS - MEAN, PRECISION, ROWS - MEAN) / 2
    assert fits[0].log_prob == pytest.approx(exact, abs=0.02 * len(ROWS))


def test_persistent_chains_learn_the_density():
    objective = cr.LangevinPCD(cr.Langevin(0.05, 10), chains=400, penalty=0.0)
    fit = fitted(objective)
    close_to(fit.model, MEAN, PRECISION)
    assert abs(fit.history[-100:].mean()) < 0.1


def test_objectives_by_hand():
    """One batch, in NumPy."""
    model = truth()
    rows, signs = np.float32(ROWS[:5]), np.array([[1.0, -1.0]] * 5)
    scores, noise = np.asarray(model.score(rows)), np.random.default_rng(1).normal(size=(5, 2))

    @jax.jit
    def losses(rows, noise, signs):
        return (
            cr.DenoisingScoreMatching(0.3).loss(model.of, None, rows, noise)[0],
            cr.SlicedScoreMatching().loss(model.of, None, rows, signs)[0],
            *cr.LangevinPCD(penalty=0.5).loss(model.of, None, rows, rows + 1),
        )

    denoising, sliced, value, gap = losses(rows, np.float32(noise), np.float32(signs[None]))
    there = -(ROWS[:5] + 0.3 * noise - MEAN) @ PRECISION
    wanted = ((0.3 * there + noise) ** 2).sum(1).mean() / 2
    assert float(denoising) == pytest.approx(wanted, rel=1e-4)
    trace = -np.einsum("ai,ij,aj->a", signs, PRECISION, signs)
    wanted = (trace + (scores**2).sum(1) / 2).mean()
    assert float(sliced) == pytest.approx(wanted, rel=1e-4)
    low, high = (np.asarray(model.energy(x)) for x in (rows, rows + 1))
    assert float(gap) == pytest.approx(low.mean() - high.mean(), rel=1e-4)
    assert float(value) == pytest.approx(float(gap) + 0.5 * ((low**2).mean() + (high**2).mean()), rel=1e-4)


# Safeguards


class Cliff(eqx.Module):
    """A Gaussian whose energy turns to NaN once its mean has come near 0.5: a fit that must go wrong."""

    mean: jax.Array

    def __call__(self, x):
        return jnp.where(self.mean[0] > 0.5, jnp.nan, 1.0) * ((x - self.mean) ** 2).sum() / 2


def test_divergence_is_undone_and_reported():
    steep = cr.MiniBatch(epochs=5, batch_size=100, learning_rate=0.05)
    guard = cr.Safeguard(period=4, retries=2)
    fit = cr.EnergyModel(Cliff(jnp.zeros(2)), 2).fit(ROWS, method=steep, safeguard=guard, key=fast_key(0))
    assert fit.status == cr.Status.DIVERGED
    assert 0 <= float(fit.model.function.mean[0]) <= 0.5
    assert np.isnan(fit.history).sum() == 3  # two retries, and the last straw
    assert fit.iterations < 5 * 40
    assert np.isnan(fit.history[-1])


def test_a_fit_that_recovers_says_so():
    # a gap that only the first chains have, far out: going back and slowing down cures it
    objective = cr.LangevinPCD(cr.Langevin(0.05, 10), chains=400, penalty=0.0, max_gap=2.0)
    wild = cr.MiniBatch(epochs=12, batch_size=100, learning_rate=0.6, average=0.98)
    fit = fitted(objective, wild, safeguard=cr.Safeguard(period=5, retries=50, slower=0.3))
    assert fit.status == cr.Status.ROLLED_BACK
    assert (abs(fit.history) > 2).any()
    assert abs(fit.history[-1]) <= 2
    np.testing.assert_allclose(fit.model.function.mean, MEAN, atol=0.4)


def test_new_numbers_compile_nothing():
    function = energy_learning._descend
    fitted(cr.LangevinPCD(cr.Langevin(0.05, 10), chains=400))
    with jax.log_compiles(False):
        before = function._cached._cache_size()
        slower = cr.MiniBatch(epochs=12, batch_size=100, learning_rate=1e-4, clip=1.0, l2=0.1, average=0.9)
        other = cr.LangevinPCD(cr.Langevin(0.01, 10), chains=400, penalty=0.1, restart=0.2)
        fitted(other, slower, safeguard=cr.Safeguard(7, 1, 0.1))
        assert function._cached._cache_size() == before > 0


# A classifier as an energy


def blobs():
    rng = np.random.default_rng(0)
    centres = np.array([[-2.0, 0.0], [2.0, 0.0], [0.0, 2.5]])
    labels = np.repeat(np.arange(3), 200)
    return centres[labels] + 0.5 * rng.normal(size=(600, 2)), np.array(["left", "right", "top"])[labels], centres


@eqx.filter_jit
def classifier():
    return eqx.nn.MLP(2, 3, 24, 1, activation=jax.nn.softplus, key=fast_key(0))


def test_a_classifier_knows_what_inputs_look_like(tmp_path):
    rows, names, centres = blobs()
    joint = cr.JointEnergyModel(classifier(), 2, ("left", "right", "top"))
    objective = cr.LangevinPCD(cr.Langevin(0.05, 10), chains=300)
    method = cr.MiniBatch(epochs=40, batch_size=100, learning_rate=0.02)
    fit = joint.fit(rows, names, objective=objective, method=method, key=fast_key(1))
    assert fit.status in {cr.Status.MAX_ITERATIONS, cr.Status.ROLLED_BACK}
    model = fit.model
    assert np.mean([a == b for a, b in zip(model.predict(rows), names, strict=True)]) > 0.97
    assert model.predict(centres[0]) == "left"
    np.testing.assert_allclose(np.asarray(model.predict_probs(rows)).sum(1), 1, rtol=1e-5)
    assert fit.log_prob > 600 * np.log(0.9)
    near, far = model.energy(rows), model.energy(np.array([[-7.0, -7.0], [7.0, -6.0], [0.0, 9.0]]))
    assert np.asarray(near).max() < np.asarray(far).min()
    np.testing.assert_allclose(
        -np.asarray(model.energy(rows[:3])),
        np.log(sum(np.exp(-np.asarray(model.conditional(n).energy(rows[:3]))) for n in model.labels)),
        rtol=1e-4,
    )
    start = np.zeros((200, 2), np.float32)
    draws = model.conditional("right").sample(fast_key(2), 200, start=start, method=cr.Langevin(0.05, 200))
    assert np.mean([name == "right" for name in model.predict(draws)]) > 0.8
    cr.save(tmp_path / "joint.npz", model)
    again = cr.load(tmp_path / "joint.npz", like=joint)
    for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(model), strict=True):
        assert np.array_equal(a, b) if eqx.is_array(b) else a == b


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: cr.EnergyModel(3.0, 2), "wanted a callable"),
        (lambda: cr.EnergyModel(lambda x: x, 2), r"has shape \(2,\); wanted one number"),
        (lambda: cr.EnergyModel(lambda x: x @ jnp.ones(3), 2), r"cannot be called with an array of shape \(2,\)"),
        (lambda: truth().energy([1.0, 2.0, 3.0]), r"x has shape \(3,\)"),
        (lambda: truth().energy([1.0, np.nan]), r"x\[1\] is nan"),
        (lambda: truth().log_prob([1.0, 2.0]), "log Z is not known"),
        (lambda: truth().sample(fast_key(0), 0), "num_samples is 0"),
        (lambda: truth().sample(fast_key(0), 2, start=np.zeros((3, 2))), "3 states for 2 samples"),
        (lambda: truth().walk(fast_key(0), np.zeros(2)), r"wanted \(chain, 2\)"),
        (lambda: truth().fit(np.zeros((4, 3)), key=fast_key(0)), r"data have shape \(4, 3\)"),
        (lambda: truth().fit(np.zeros((1, 2)), key=fast_key(0)), "1 rows"),
        (lambda: truth().fit([[0.0, 1.0], [np.inf, 0.0]], key=fast_key(0)), "row 1 has NaN or infinite"),
        (lambda: truth().fit(ROWS, objective=cr.LBFGS(), key=fast_key(0)), "objective is"),
        (lambda: truth().fit(ROWS, method=cr.LBFGS(), key=fast_key(0)), "fitted by MiniBatch"),
        (lambda: cr.EnergyModel(lambda x: x.sum(), 2).fit(ROWS, key=fast_key(0)), "no parameters to learn"),
        (
            lambda: truth().fit(ROWS[:, :1] @ np.ones((1, 2)), objective=cr.NoiseContrastive(), key=fast_key(0)),
            "covariance is singular",
        ),
        (lambda: cr.Langevin(0.0), "step_size is 0.0"),
        (lambda: cr.Langevin(noise=-1.0), "noise is -1.0"),
        (lambda: cr.MALA(steps=0), "steps is 0"),
        (lambda: cr.HMC(leapfrogs=0), "leapfrogs is 0"),
        (lambda: cr.LangevinPCD(chains=0), "chains is 0"),
        (lambda: cr.LangevinPCD(restart=1.5), "restart is 1.5"),
        (lambda: cr.LangevinPCD(penalty=-1.0), "penalty is -1.0"),
        (lambda: cr.LangevinPCD(max_gap=0.0), "max_gap is 0.0"),
        (lambda: cr.DenoisingScoreMatching(0.0), "sigma is 0.0"),
        (lambda: cr.SlicedScoreMatching(0), "directions is 0"),
        (lambda: cr.NoiseContrastive(ratio=0), "ratio is 0"),
        (lambda: cr.NoiseContrastive(noise=3), "noise is 3"),
        (lambda: cr.Safeguard(0), "period is 0"),
        (lambda: cr.Safeguard(retries=-1), "retries is -1"),
        (lambda: cr.Safeguard(slower=0.0), "slower is 0.0"),
        (lambda: cr.JointEnergyModel(lambda x: x.sum(), 2), r"wanted \(class,\)"),
        (lambda: cr.JointEnergyModel(classifier(), 2, ("a", "b")), "2 labels for 3 logits"),
        (lambda: cr.JointEnergyModel(classifier(), 2, ("a", "b", "a")), "'a' is there twice"),
        (lambda: cr.JointEnergyModel(classifier(), 2).conditional("x"), "'x' is not a label"),
        (lambda: cr.JointEnergyModel(classifier(), 2).fit(ROWS, [0], key=fast_key(0)), "1 labels for 4000 rows"),
        (
            lambda: cr.JointEnergyModel(classifier(), 2).fit(
                ROWS[:2], [0, 1], objective=cr.NoiseContrastive(), key=fast_key(0)
            ),
            "learns log Z",
        ),
    ],
)
def test_what_cannot_be(build, message):
    with pytest.raises(ValueError, match=message):
        build()
