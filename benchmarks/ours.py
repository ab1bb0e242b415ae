"""chainrule's side of every task: what a user would write, and nothing else.

`TASKS[task](problem)` returns a call without arguments, which returns NumPy arrays. The model is built before the clock
starts; the observations go in as NumPy arrays (ragged ones as a list, so that padding them counts).
"""

import numpy as np
from data import Parameters


def build(problem):
    import chainrule as cr

    p = (problem.start or problem.parameters).astype(np.float32)
    emission = cr.emissions.Normal(p.mean, p.variance) if p.probs is None else cr.emissions.Categorical(p.probs)
    return cr.HMM(p.initial, p.transition, emission)


def posterior(problem):
    hmm, x = build(problem), problem.observations()[0]

    def call():
        result = hmm.posterior(x)
        return float(result.log_prob), np.asarray(result.marginals)

    return call


def posterior_ragged(problem):
    hmm, sequences = build(problem), problem.observations()

    def call():
        result = hmm.posterior(sequences)
        log_prob = np.asarray(result.log_prob).sum(dtype=np.float64)
        return float(log_prob), [np.asarray(marginals) for marginals in result.marginals]

    return call


def viterbi(problem):
    hmm, x = build(problem), problem.observations()[0]
    return lambda: np.asarray(hmm.viterbi(x).states)


def em(problem):
    import chainrule as cr

    hmm, sequences = build(problem), problem.observations()

    def call():
        fitted = hmm.fit(sequences, method=cr.EM(max_iterations=10, tolerance=0.0)).model
        arrays = fitted.initial, fitted.transition, fitted.emission.mean, fitted.emission.variance
        return Parameters(*(np.asarray(v, np.float64) for v in arrays))

    return call


def gradient(problem):
    import jax

    hmm, x = build(problem), problem.observations()[0]
    run = jax.jit(jax.value_and_grad(lambda hmm, x: hmm.log_prob(x)))

    def call():
        value, slope = run(hmm, x)
        return float(value), jax.tree.map(np.asarray, slope).emission.mean

    return call


def sample(problem):
    import jax

    hmm, x, key = build(problem), problem.observations()[0], jax.random.key(0)
    return lambda: np.asarray(hmm.sample_posterior(key, x, num_samples=1).states)[0]


TASKS = {
    "a": posterior,
    "b": viterbi,
    "c": em,
    "d": posterior,
    "e": posterior_ragged,
    "f": posterior,
    "g": gradient,
    "h": sample,
}
