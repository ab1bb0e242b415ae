"""Many random chains in rows, and who answers for them; for the engines of many rows."""

import jax
import numpy as np

from chainrule.inference import rows


def problem(seed, states, count, *, time=7, spread=2.0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    pair = rng.normal(size=(states, states))
    pair[rng.random(pair.shape) < 0.2] = -np.inf
    np.fill_diagonal(pair, 0.0)  # so that there is always a path
    start = rng.random((time, count)) < 0.3
    start[0] = True
    weight = np.repeat(rng.integers(0, 3, (1, count)), time, axis=0)
    arrays = (rng.normal(size=states), pair, spread * rng.normal(size=(time, states, count)))
    return *(a.astype(dtype) for a in arrays), start, weight.astype(dtype)


@jax.jit
def answer(*args):
    return rows.smooth(*args, log=True)


@jax.jit
def in_log_space(*args):
    return rows.Careful.smooth(*args, log=True)


def check_against_log_space(initial, pair, node, start, weight):
    """That likelihoods thousands of nats apart, of which scaled float32 would lose the only path, are answered right."""
    found = answer(initial, pair, node, start, weight)
    with jax.enable_x64(True):
        exact = (np.asarray(a, float) for a in (initial, pair, node))
        wanted = in_log_space(*exact, start, weight.astype(float))
        np.testing.assert_allclose(found.terms, wanted.terms, rtol=1e-6, atol=1e-2)
        np.testing.assert_allclose(found.marginals, wanted.marginals, atol=2e-3)
