"""One measurement of restricted Boltzmann machines in one process: `rbm.py` starts this file afresh for each.

python rbm_measure.py '{"kind": "epoch", "folder": "mnist", "rival": "numpy", "pairs": 9}'
"""

import gc
import gzip
import json
import sys
import time
from pathlib import Path

import numpy as np
from measure import clock, describe

EPOCHS, ROWS, HIDDEN, BATCH, RATE = 3, 10_000, 500, 100, 0.01  # of the speed task
HELD_OUT = 10_000  # training images on which learning rates are chosen


def images(folder: str, part: str) -> np.ndarray:
    """Images of MNIST as 0/1 (threshold 127), uint8, shape (images, 784); part is "train" or "t10k"."""
    with gzip.open(Path(folder) / f"{part}-images-idx3-ubyte.gz") as file:
        raw = np.frombuffer(file.read(), np.uint8, offset=16)
    return (raw.reshape(-1, 784) > 127).astype(np.uint8)


# Speed: an epoch of PCD-1


def ours(data, *, centred=True):
    import jax

    import chainrule as cr

    key = jax.random.key(0, impl="philox2x32")
    start = cr.RBM.random(key, data.shape[1], HIDDEN)
    method = cr.PCD(epochs=EPOCHS, chains=BATCH, batch_size=BATCH, learning_rate=RATE, decay=1.0, centred=centred)
    return lambda: np.asarray(start.fit(data, method=method, key=key).model.weights)


def sklearn(data):
    from sklearn.neural_network import BernoulliRBM

    data = data.astype(np.float32)
    return lambda: (
        BernoulliRBM(HIDDEN, learning_rate=RATE, batch_size=BATCH, n_iter=EPOCHS, random_state=0).fit(data).components_
    )


def numpy(data):
    data = data.astype(np.float32)

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    def run():
        rng = np.random.default_rng(0)
        weights = (0.01 * rng.standard_normal((data.shape[1], HIDDEN))).astype(np.float32)
        a, b = np.zeros(data.shape[1], np.float32), np.zeros(HIDDEN, np.float32)
        hidden = np.zeros((BATCH, HIDDEN), np.float32)
        for _ in range(EPOCHS):
            order = rng.permutation(len(data))
            for first in range(0, len(data), BATCH):
                x = data[order[first : first + BATCH]]
                on = sigmoid(x @ weights + b)
                likely = sigmoid(hidden @ weights.T + a)
                v = (rng.random(likely.shape, np.float32) < likely).astype(np.float32)
                model_on = sigmoid(v @ weights + b)
                hidden = (rng.random(model_on.shape, np.float32) < model_on).astype(np.float32)
                weights += np.float32(RATE / BATCH) * (x.T @ on - v.T @ model_on)
                a += np.float32(RATE) * (x.mean(0) - v.mean(0))
                b += np.float32(RATE) * (on.mean(0) - model_on.mean(0))
        return weights

    return run


def torch(data):
    import os

    import torch as t

    t.set_num_threads(len(os.sched_getaffinity(0)))
    data = t.from_numpy(data.astype(np.float32))

    @t.no_grad()
    def run():
        t.manual_seed(0)
        weights = 0.01 * t.randn(data.shape[1], HIDDEN)
        a, b, hidden = t.zeros(data.shape[1]), t.zeros(HIDDEN), t.zeros(BATCH, HIDDEN)
        for _ in range(EPOCHS):
            order = t.randperm(len(data))
            for first in range(0, len(data), BATCH):
                x = data[order[first : first + BATCH]]
                on = t.sigmoid(t.addmm(b, x, weights))
                v = t.bernoulli(t.sigmoid(t.addmm(a, hidden, weights.T)))
                model_on = t.sigmoid(t.addmm(b, v, weights))
                hidden = t.bernoulli(model_on)
                weights.addmm_(x.T, on, alpha=RATE / BATCH).addmm_(v.T, model_on, alpha=-RATE / BATCH)
                a += RATE * (x.mean(0) - v.mean(0))
                b += RATE * (on.mean(0) - model_on.mean(0))
        return weights.numpy()

    return run


RIVALS = {"scikit-learn": sklearn, "numpy": numpy, "torch": torch}


def epoch(folder: str, rival: str, pairs: int) -> dict:
    """Time chainrule and a rival in turns, seconds per epoch."""
    data = images(folder, "train")[:ROWS]
    sides, calls = {}, {}
    for name, make in {"chainrule": ours, rival: RIVALS[rival]}.items():
        try:
            call = make(data)
            start = time.perf_counter()
            call()
            sides[name], calls[name] = {"wall": [], "cpu": [], "first": time.perf_counter() - start}, call
        except Exception as failure:
            sides[name] = {"failure": describe(failure)}
    gc.collect()
    gc.disable()
    for _ in range(pairs):
        for name, call in calls.items():
            wall, cpu = clock(call, 1)
            sides[name]["wall"].append(wall / EPOCHS)
            sides[name]["cpu"].append(cpu / EPOCHS)
    return sides


# Quality


def small(folder: str, epochs: int = 50, trial: int = 8, rates=(0.02, 0.05, 0.1), between=None) -> dict:
    """784 × 16, PCD-1, exact log Z: the rate is chosen on held-out training images, then all of them are fitted."""
    import jax

    import chainrule as cr

    train, test = images(folder, "train"), images(folder, "t10k")
    key = jax.random.key(0, impl="philox2x32")

    def fit(data, epochs, rate):
        start = cr.RBM.random(jax.random.key(1), 784, 16, data=data)
        method = cr.PCD(epochs=epochs, chains=100, batch_size=100, learning_rate=rate)
        watch = None if between is None else cr.Validation(between)
        return start.fit(data, method=method, key=key, validation=watch).model

    def nats(model, data, log_z):
        return float(model.log_prob(data, log_partition=log_z).mean())

    start, cpu, scores = time.perf_counter(), time.process_time(), {}
    for rate in rates:
        model = fit(train[:-HELD_OUT], trial, rate)
        scores[rate] = nats(model, train[-HELD_OUT:], model.log_partition())
    rate = max(scores, key=scores.get)
    chosen, cpu_chosen = time.perf_counter(), time.process_time()
    model = fit(train, epochs, rate)
    trained, cpu_trained = time.perf_counter(), time.process_time()
    log_z = model.log_partition()
    return {
        "scores": {str(rate): score for rate, score in scores.items()},
        "rate": rate,
        "train": nats(model, train, log_z),
        "test": nats(model, test, log_z),
        "log_partition": float(log_z),
        "seconds": [chosen - start, trained - chosen, time.perf_counter() - trained],
        "cpu": [cpu_chosen - cpu, cpu_trained - cpu_chosen, time.process_time() - cpu_trained],
    }


def large(
    folder: str,
    epochs: int = 24,
    rate: float = 0.05,
    l2: float = 1e-4,
    stops: int = 20_000,
    burn_in: int = 5_000,
    save: str = "",
    between=None,
) -> dict:
    """784 × 500, PCD-1, log Z between annealed importance sampling and its reverse."""
    import jax

    import chainrule as cr

    train, test = images(folder, "train"), images(folder, "t10k")
    key = jax.random.key(0, impl="philox2x32")
    start, cpu = time.perf_counter(), time.process_time()
    machine = cr.RBM.random(jax.random.key(1), 784, 500, data=train)
    method = cr.PCD(epochs=epochs, chains=100, batch_size=100, learning_rate=rate, l2=l2)
    watch = None if between is None else cr.Validation(between)
    fit = machine.fit(train, method=method, key=key, validation=watch)
    trained, cpu_trained = time.perf_counter(), time.process_time()
    if save:
        cr.save(save, fit.model)
    report = {
        "seconds": [trained - start],
        "cpu": [cpu_trained - cpu],
        "settings": {"epochs": epochs, "rate": rate, "l2": l2, "stops": stops, "burn_in": burn_in},
    }
    return report | judge(fit.model, train, test, stops, burn_in)


def judge(model, train, test, stops: int, burn_in: int) -> dict:
    """Both ends of the log-likelihood."""
    import jax

    start, cpu = time.perf_counter(), time.process_time()
    key = jax.random.key(2, impl="philox2x32")
    bounds = model.log_partition_bounds(key, train, chains=100, stops=stops, burn_in=burn_in)
    found = bounds.sandwich
    used, cpu_used = time.perf_counter() - start, time.process_time() - cpu
    some = test[:: len(test) // 100][:100]
    walked = model.conservative_log_prob(key, some, train, stops=10_000)
    return {
        "conservative": {
            "images": len(some),
            "stops": 10_000,
            "mean": float(np.mean(walked)),
            "by_bounds": bounds.log_prob(some),
        },
        "lower": bounds.lower,
        "upper": bounds.upper,
        "errors": [float(found.lower_error), float(found.upper_error)],
        "sizes": [float(found.lower_sample_size), float(found.upper_sample_size)],
        "gap": bounds.gap,
        "status": bounds.status.name,
        "test": bounds.log_prob(test),
        "train": bounds.log_prob(train),
        "bounds_seconds": used,
        "bounds_cpu": cpu_used,
    }


if __name__ == "__main__":
    order = json.loads(sys.argv[1])
    kind = order.pop("kind")
    try:
        print(json.dumps({"epoch": epoch, "small": small, "large": large}[kind](**order)))
    except Exception as failure:
        print(json.dumps({"failure": describe(failure)}))
