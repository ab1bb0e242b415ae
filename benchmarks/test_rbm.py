"""The speed task of rbm_measure.py under pytest-benchmark: `pytest benchmarks -k rbm`, or `-k "rbm and torch"`.

`rbm.py` is what ratios are quoted from: it times the libraries in turns, on MNIST. Here data of the same shape are made up,
noisy copies of a few images of stripes, so that nothing has to be at hand.
"""

import functools

import numpy as np
import pytest
from rbm_measure import BATCH, EPOCHS, RIVALS, ROWS, ours

pytestmark = pytest.mark.filterwarnings("default")  # the rivals' warnings are not ours to fix

MODULES = {"scikit-learn": "sklearn"}
SIDES = {"chainrule": ours, **RIVALS}


@functools.cache
def stripes(rows=ROWS, side=28, noise=0.02):
    """Images whose columns, or rows, are on or off, with some pixels flipped; uint8, shape (rows, side²)."""
    rng = np.random.default_rng(0)
    lines = rng.integers(0, 2, (rows, side, 1)) * np.ones((1, 1, side), int)
    images = np.where(rng.integers(0, 2, (rows, 1, 1)) == 1, lines, lines.transpose(0, 2, 1)).reshape(rows, -1)
    return (images ^ (rng.random(images.shape) < noise)).astype(np.uint8)


@pytest.mark.parametrize("name", list(SIDES))
def test_epochs(benchmark, name):
    pytest.importorskip(MODULES.get(name, name))
    benchmark.group = f"rbm: {EPOCHS} epochs of PCD-1, {ROWS} rows in batches of {BATCH}"
    weights = benchmark.pedantic(SIDES[name](stripes()), rounds=3, warmup_rounds=1)
    assert np.isfinite(weights).all()


def test_what_is_timed_learns():
    """Small stripes without noise are one of 14 images, each of which has 1/512 before: most of the way to the best."""
    import jax

    import chainrule as cr

    data, key = stripes(2000, 3, 0.0), jax.random.key(0, impl="philox2x32")
    method = cr.PCD(epochs=100, chains=BATCH, batch_size=BATCH, learning_rate=0.2)
    fit = cr.RBM.random(key, 9, 12, data=data).fit(data, method=method, key=key)
    _, counts = np.unique(data, axis=0, return_counts=True)
    best = (counts / 2000) @ np.log(counts / 2000)
    assert len(counts) == 14
    assert best - 0.25 * (best - np.log(1 / 512)) < fit.log_prob / 2000 < best
