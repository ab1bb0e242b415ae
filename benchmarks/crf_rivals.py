"""The rivals of the CRF benchmark: python-crfsuite, and for dense potentials pytorch-crf; see crf_measure.py.

CRFsuite gets its features as lists of names, the fastest form that it has in Python. It computes in float64 on one core.
"""

import os
import tempfile

import crf_data
from crf_ours import _rate, quality, timed
from measure import peak


def _trainer(l1, l2, **options):
    import pycrfsuite

    trainer = pycrfsuite.Trainer(algorithm="lbfgs", verbose=False)
    trainer.set_params({"c1": l1, "c2": l2, **options})
    return trainer


def _train(trainer, folder):
    """Train, and return where the model is."""
    model = os.path.join(folder, "model")
    trainer.train(model)
    return model


def _tagger(model):
    import pycrfsuite

    tagger = pycrfsuite.Tagger()
    tagger.open(model)
    return tagger


def fit(watch, path, l1, l2, limit=None):
    train, test = (crf_data.read(path, part, limit) for part in ("train", "test"))
    with watch("import"):
        import pycrfsuite  # noqa: F401
    with tempfile.TemporaryDirectory() as folder:
        with watch("whole"):
            with watch("features"):
                trainer = _trainer(l1, l2)
                for tokens, labels in zip(train.tokens, train.labels, strict=True):
                    trainer.append(crf_data.names(tokens), labels)
            model = _train(trainer, folder)
        memory = peak()
        tagger = _tagger(model)
        predicted = [tagger.tag(crf_data.names(tokens)) for tokens in test.tokens]
    last = trainer.logparser.last_iteration
    return {
        "objective": last["loss"],
        "iterations": last["num"],
        "weights": last["active_features"],
        "peak": memory,
        **quality(test, predicted),
    }


def features(watch, path, limit=None):
    train = crf_data.read(path, "train", limit)
    for _ in range(3):
        trainer = _trainer(0.0, 1.0)
        with watch("extraction"):
            described = [crf_data.names(sentence) for sentence in train.tokens]
        with watch("indexing"):
            for names, labels in zip(described, train.labels, strict=True):
                trainer.append(names, labels)
    return {"peak": peak()}


def tagging(watch, path, limit=None, iterations=10):
    import pycrfsuite

    train, test = (crf_data.read(path, part, limit) for part in ("train", "test"))
    asked = [crf_data.names(sentence) for sentence in test.tokens]
    prebuilt = [pycrfsuite.ItemSequence(sentence) for sentence in asked]
    trainer = _trainer(0.0, 1.0, max_iterations=iterations)
    for tokens, labels in zip(train.tokens, train.labels, strict=True):
        trainer.append(crf_data.names(tokens), labels)
    with tempfile.TemporaryDirectory() as folder:
        tagger = _tagger(_train(trainer, folder))

        def from_prebuilt():
            found = []
            for sequence in prebuilt:
                tagger.set(sequence)
                found.append(tagger.tag())
            return found

        def from_tokens():
            return [tagger.tag(crf_data.names(tokens)) for tokens in test.tokens]

        return {
            "tokens": test.num_tokens,
            "names": _rate(lambda: [tagger.tag(names) for names in asked], test.num_tokens),
            "windows": _rate(from_tokens, test.num_tokens),
            "prebuilt": _rate(from_prebuilt, test.num_tokens),
            **quality(test, from_prebuilt()),
        }


def dense(watch, labels, layout):
    import torch
    import torchcrf

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    problem = crf_data.dense(labels)
    crf = torchcrf.CRF(labels)  # (time, sequence, label), its default layout
    with torch.no_grad():
        crf.start_transitions.zero_()
        crf.end_transitions.zero_()
        crf.transitions.copy_(torch.from_numpy(problem.pair))
    node = torch.from_numpy(problem.node.swapaxes(0, 1).copy()).requires_grad_()
    path = torch.from_numpy(problem.path.T.copy())
    mask = torch.ones_like(path, dtype=torch.bool)  # without one it makes one of a type that torch advises against

    def call():
        crf.zero_grad()
        node.grad = None
        loss = -crf(node, path, mask)
        loss.backward()
        return loss.item()

    return timed(call, problem)


def cold(watch, path, limit):
    train = crf_data.read(path, "train", limit)
    with watch("import"):
        import pycrfsuite  # noqa: F401
    with tempfile.TemporaryDirectory() as folder, watch("first"):
        trainer = _trainer(0.0, 1.0, max_iterations=20)
        for tokens, labels in zip(train.tokens, train.labels, strict=True):
            trainer.append(crf_data.names(tokens), labels)
        _train(trainer, folder)
    return {"peak": peak()}


TASKS = {"fit": fit, "features": features, "tagging": tagging, "dense": dense, "cold": cold}
