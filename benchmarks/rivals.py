"""The rivals, each in its fastest sensible way: what a careful user of that library would write.

`RIVALS[task][name](problem)` returns a call without arguments, which returns NumPy arrays. JAX libraries are jitted by
hand with fixed shapes, get the observations as NumPy arrays and their parameters as arrays already on the device, and
are asked for nothing the task does not need. Data are laid out before the clock starts: hmmlearn gets sequences end to
end with their lengths, dynamax gets them padded. hmmlearn computes in float64, the others in float32.

Two ways to use dynamax are compared: "dynamax" calls its inference functions on log-likelihoods written out by hand
(and, to fit, an EM step written around them), "dynamax classes" its model classes, as its own tutorials do.
"""

import math

import numpy as np
from data import Parameters

# what a user imports; timed apart from the call
IMPORTS = {
    "hmmlearn": "hmmlearn.hmm",
    "dynamax": "dynamax.hidden_markov_model",
    "dynamax classes": "dynamax.hidden_markov_model",
    "tfp": "tensorflow_probability.substrates.jax",
}

# ---- hmmlearn. Its `scaling` is 1.5 to 7 times faster than `log`, its default


def _hmmlearn_model(problem, **options):
    from hmmlearn import hmm

    p = problem.start or problem.parameters
    if p.probs is not None:
        model = hmm.CategoricalHMM(len(p.initial), implementation="scaling", **options)
        model.emissionprob_, model.n_features = p.probs, p.probs.shape[1]
    else:
        model = hmm.GaussianHMM(len(p.initial), "diag", implementation="scaling", **options)
        model.means_, model.covars_ = p.mean, p.variance
    model.startprob_, model.transmat_ = p.initial, p.transition
    return model


def _hmmlearn_data(problem):
    x = np.concatenate(problem.observations(np.float64))
    return x.reshape(len(x), -1), [len(one) for one in problem.sequences]


def hmmlearn_posterior(problem):
    model, (x, lengths) = _hmmlearn_model(problem), _hmmlearn_data(problem)
    return lambda: model.score_samples(x, lengths)


def hmmlearn_viterbi(problem):
    model, (x, lengths) = _hmmlearn_model(problem), _hmmlearn_data(problem)
    return lambda: model.decode(x, lengths)[1]


def hmmlearn_em(problem):
    x, lengths = _hmmlearn_data(problem)
    # no early stop, no prior, no floor: plain maximum likelihood
    options = dict(init_params="", n_iter=10, tol=-math.inf, min_covar=0.0, covars_prior=0.0)

    def call():
        model = _hmmlearn_model(problem, **options).fit(x, lengths)
        return Parameters(model.startprob_, model.transmat_, model.means_, model._covars_)

    return call


# ---- dynamax, functions


def _device_parameters(problem):
    import jax.numpy as jnp

    p = problem.start or problem.parameters
    return {name: jnp.asarray(v, jnp.float32) for name, v in vars(p).items() if v is not None}


def _chain(p, x):
    """What dynamax's functions take: initial and transition probabilities and the log-likelihood of every step."""
    import jax.numpy as jnp

    if "probs" in p:
        return p["initial"], p["transition"], jnp.log(p["probs"]).T[x]
    distance = (x[:, None] - p["mean"]) ** 2 / p["variance"]
    return p["initial"], p["transition"], -0.5 * (distance + jnp.log(2 * jnp.pi * p["variance"])).sum(-1)


def dynamax_posterior(problem):
    import jax
    from dynamax.hidden_markov_model import hmm_smoother

    @jax.jit
    def run(p, x):
        posterior = hmm_smoother(*_chain(p, x))
        return posterior.marginal_loglik, posterior.smoothed_probs

    p, x = _device_parameters(problem), problem.observations()[0]

    def call():
        value, marginals = run(p, x)
        return float(value), np.asarray(marginals)

    return call


def dynamax_posterior_ragged(problem):
    import jax
    import jax.numpy as jnp
    from dynamax.hidden_markov_model import hmm_smoother

    def one(p, x, mask):
        initial, transition, node = _chain(p, x)
        # dynamax has no mask: a padded step that says nothing about its state does the same
        posterior = hmm_smoother(initial, transition, jnp.where(mask[:, None], node, 0.0))
        return posterior.marginal_loglik, posterior.smoothed_probs

    run = jax.jit(jax.vmap(one, (None, 0, 0)))
    p, (x, mask) = _device_parameters(problem), problem.padded()

    def call():
        value, marginals = run(p, x, mask)
        return float(np.asarray(value).sum(dtype=np.float64)), np.asarray(marginals)

    return call


def dynamax_viterbi(problem):
    import jax
    from dynamax.hidden_markov_model import hmm_posterior_mode

    run = jax.jit(lambda p, x: hmm_posterior_mode(*_chain(p, x)))
    p, x = _device_parameters(problem), problem.observations()[0]
    return lambda: np.asarray(run(p, x))


def dynamax_em(problem):
    import jax
    from dynamax.hidden_markov_model import hmm_two_filter_smoother

    def expect(p, x):
        posterior = hmm_two_filter_smoother(*_chain(p, x))
        marginals = posterior.smoothed_probs
        return posterior.initial_probs, posterior.trans_probs, marginals.sum(0), marginals.T @ x, marginals.T @ x**2

    @jax.jit
    def run(p, x):
        def step(p, _):
            initial, pairs, count, first, second = (v.sum(0) for v in jax.vmap(expect, (None, 0))(p, x))
            mean = first / count[:, None]
            variance = second / count[:, None] - mean**2
            transition = pairs / pairs.sum(1, keepdims=True)
            return dict(initial=initial / initial.sum(), transition=transition, mean=mean, variance=variance), None

        return jax.lax.scan(step, p, length=10)[0]

    p, x = _device_parameters(problem), problem.padded()[0]
    return lambda: Parameters(**{name: np.asarray(v, np.float64) for name, v in run(p, x).items()})


def _value_and_gradient(log_prob, p, x):
    import jax

    run = jax.jit(jax.value_and_grad(log_prob))

    def call():
        value, gradient = run(p, x)
        return float(value), {name: np.asarray(v) for name, v in gradient.items()}["mean"]

    return call


def dynamax_gradient(problem):
    from dynamax.hidden_markov_model import hmm_filter

    def log_prob(p, x):
        return hmm_filter(*_chain(p, x)).marginal_loglik

    return _value_and_gradient(log_prob, _device_parameters(problem), problem.observations()[0])


def dynamax_sample(problem):
    import jax
    from dynamax.hidden_markov_model import hmm_posterior_sample

    run = jax.jit(lambda key, p, x: hmm_posterior_sample(key, *_chain(p, x))[1])
    key, p, x = jax.random.key(0), _device_parameters(problem), problem.observations()[0]
    return lambda: np.asarray(run(key, p, x))


# ---- dynamax, model classes


def _dynamax_model(problem, **priors):
    import jax
    import jax.numpy as jnp
    from dynamax.hidden_markov_model import CategoricalHMM, DiagonalGaussianHMM

    p = _device_parameters(problem)
    states, width = p.get("probs", p.get("mean")).shape
    if "probs" in p:
        model, emission = CategoricalHMM(states, 1, width), dict(emission_probs=p["probs"][:, None])
    else:
        model = DiagonalGaussianHMM(states, width, **priors)
        emission = dict(emission_means=p["mean"], emission_scale_diags=jnp.sqrt(p["variance"]))
    chain = dict(initial_probs=p["initial"], transition_matrix=p["transition"])
    return model, *model.initialize(jax.random.key(0), **chain, **emission)


def _dynamax_data(problem):
    x = problem.observations()[0]
    return x.reshape(len(x), -1)


def dynamax_class_posterior(problem):
    import jax

    (model, params, _), x = _dynamax_model(problem), _dynamax_data(problem)
    run = jax.jit(model.smoother)

    def call():
        posterior = run(params, x)
        return float(posterior.marginal_loglik), np.asarray(posterior.smoothed_probs)

    return call


def dynamax_class_viterbi(problem):
    import jax

    (model, params, _), x = _dynamax_model(problem), _dynamax_data(problem)
    run = jax.jit(model.most_likely_states)
    return lambda: np.asarray(run(params, x))


def dynamax_class_em(problem):
    import jax

    # its priors cannot be switched off: as flat as it accepts
    dirichlet = dict(initial_probs_concentration=1.0, transition_matrix_concentration=1.0)
    normal = dict(emission_prior_mean_concentration=1e-6, emission_prior_concentration=1e-4, emission_prior_scale=1e-6)
    model, params, properties = _dynamax_model(problem, **dirichlet, **normal)
    x = problem.padded()[0]
    run = jax.jit(lambda params, x: model.fit_em(params, properties, x, num_iters=10, verbose=False)[0])

    def call():
        fitted = run(params, x)
        emission = fitted.emissions.means, fitted.emissions.scale_diags**2
        arrays = fitted.initial.probs, fitted.transitions.transition_matrix, *emission
        return Parameters(*(np.asarray(v, np.float64) for v in arrays))

    return call


# ---- TensorFlow Probability on JAX


def tfp_gradient(problem):
    import jax.numpy as jnp
    import tensorflow_probability.substrates.jax.distributions as tfd

    def log_prob(p, x):
        emission = tfd.Independent(tfd.Normal(p["mean"], jnp.sqrt(p["variance"])), 1)
        initial, transition = tfd.Categorical(probs=p["initial"]), tfd.Categorical(probs=p["transition"])
        return tfd.HiddenMarkovModel(initial, transition, emission, num_steps=len(x)).log_prob(x)

    return _value_and_gradient(log_prob, _device_parameters(problem), problem.observations()[0])


_POSTERIOR = {
    "hmmlearn": hmmlearn_posterior,
    "dynamax": dynamax_posterior,
    "dynamax classes": dynamax_class_posterior,
}
RIVALS = {
    "a": _POSTERIOR,
    "b": {"hmmlearn": hmmlearn_viterbi, "dynamax": dynamax_viterbi, "dynamax classes": dynamax_class_viterbi},
    "c": {"hmmlearn": hmmlearn_em, "dynamax": dynamax_em, "dynamax classes": dynamax_class_em},
    "d": _POSTERIOR,
    "e": {"hmmlearn": hmmlearn_posterior, "dynamax": dynamax_posterior_ragged},
    "f": _POSTERIOR,
    "g": {"tfp": tfp_gradient, "dynamax": dynamax_gradient},
    "h": {"dynamax": dynamax_sample},
}
