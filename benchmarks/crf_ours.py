"""chainrule's side of the CRF benchmark; see crf_measure.py for what a task is."""

import statistics

import crf_data
import numpy as np
from measure import clock, peak


def _model(train, *features):
    import chainrule as cr

    labels = sorted({label for sentence in train.labels for label in sentence})
    # CRFsuite's model: no weights for first and last labels but through features, steps that occur, pairs that occur
    return cr.LinearChainCRF(labels, list(features), boundaries=False, seen_steps=True)


def _templates():
    import chainrule as cr

    return cr.templates(*crf_data.template_texts(), boundaries=True)


def _import():
    import chainrule as cr

    return cr.LinearChainCRF, cr.LBFGS, cr.templates  # names load on first use


def fit(watch, path, l1, l2, limit=None):
    train, test = (crf_data.read(path, part, limit) for part in ("train", "test"))
    with watch("import"):
        _import()
    import jax

    import chainrule as cr

    compiling = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **_: compiling.append(seconds) if event.startswith("/jax/core/compile/") else None
    )
    options = {"l1": l1, "l2": l2, "memory": 20, "max_iterations": 1000 if l1 else 400}
    with watch("whole"):
        crf = _model(train, _templates())
        done = crf.fit(train.tokens, train.labels, method=cr.LBFGS(tolerance=1e-5, period=10, **options))
    memory, compiled = peak(), sum(compiling)
    # the program is there now: what is left of a fit that stops after one iteration is its preparation
    with watch("first iteration"):
        crf.fit(train.tokens, train.labels, method=cr.LBFGS(tolerance=1e9, period=1, **options))
    with watch("features"):
        _templates().learn(train.tokens, dtype=np.float32)
    predicted = done.model.predict(test.tokens)
    weights = np.concatenate([np.ravel(done.model.transition), np.ravel(done.model.features[0].node.values)])
    return {
        "compile": compiled,
        "objective": -float(done.history[-1]),
        "iterations": done.iterations,
        "status": done.status.name.lower(),
        "weights": int(np.count_nonzero(weights)),
        "peak": memory,
        **quality(test, predicted),
    }


def quality(test, predicted):
    from chainrule import evaluation

    scores = evaluation.span_scores(test.labels, predicted)
    return {"accuracy": scores.token_accuracy, "f1": scores.f1}


def features(watch, path, limit=None):
    import chainrule as cr

    train = crf_data.read(path, "train", limit)
    for _ in range(3):
        with watch("templates"):
            _templates().learn(train.tokens, dtype=np.float32)
    # what CRFsuite's users write in Python, and its names then numbered here
    for _ in range(3):
        with watch("extraction"):
            described = [crf_data.names(sentence) for sentence in train.tokens]
        with watch("indexing"):
            cr.attributes().learn(described, dtype=np.float32)
    return {"peak": peak()}


def tagging(watch, path, limit=None, iterations=10):
    import chainrule as cr

    train, test = (crf_data.read(path, part, limit) for part in ("train", "test"))
    described, asked = ([crf_data.names(sentence) for sentence in part.tokens] for part in (train, test))
    method = cr.LBFGS(l2=1.0, memory=6, max_iterations=iterations, tolerance=-1)
    report = {"tokens": test.num_tokens}
    for name, feature, x, queries in (
        ("names", cr.attributes(), described, asked),
        ("windows", _templates(), train.tokens, test.tokens),
    ):
        model = _model(train, feature).fit(x, train.labels, method=method).model
        report |= quality(test, model.predict(queries))
        report[name] = _rate(lambda model=model, queries=queries: model.predict(queries), test.num_tokens)
        few = queries[:200]
        report[f"{name}, one by one"] = _alone(model, few)
        if name == "names":
            known = model.index(queries)
            report["prebuilt"] = _rate(lambda model=model, known=known: model.predict(known), test.num_tokens)
            report["prebuilt, one by one"] = _alone(model, [model.index(x) for x in few], sum(map(len, few)))
    return report


def _alone(model, few, tokens=None):
    return _rate(lambda: [model.predict(x) for x in few], sum(map(len, few)) if tokens is None else tokens)


def _rate(call, tokens):
    """Tokens per second of wall time, and of processor time."""
    call()
    pairs = [clock(call, 1) for _ in range(7)]
    return [tokens / statistics.median(column) for column in zip(*pairs, strict=True)]


def dense(watch, labels, layout):
    import jax
    import jax.numpy as jnp

    import chainrule as cr
    from chainrule.inference import chain, rows

    problem = crf_data.dense(labels)

    def by_chain(node, pair):
        def one(node, path):
            here = cr.Chain(jnp.zeros(labels), pair, node)
            return chain.log_partition(here) - here.score(path)

        return jax.vmap(one)(node, problem.path).sum()

    in_rows = np.ascontiguousarray(problem.path.T)
    start = np.zeros(in_rows.shape, bool)
    start[0] = True

    def by_rows(node, pair):
        weight = jnp.ones(start.shape)
        total = rows.total(True, jnp.zeros(labels), pair, node, start, weight)
        there = in_rows[:, None] == np.arange(labels)[:, None]
        return total - jnp.where(there, node, 0).sum() - pair[in_rows[:-1], in_rows[1:]].sum()

    loss, node = {"chains": (by_chain, problem.node), "rows": (by_rows, problem.node.transpose(1, 2, 0))}[layout]
    run = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
    node, pair = jax.device_put(np.ascontiguousarray(node)), jax.device_put(problem.pair)
    return timed(lambda: float(jax.block_until_ready(run(node, pair))[0]), problem)


def timed(call, problem):
    """Wall and processor seconds of each call, and how far its answer is from the truth."""
    value = call()
    call()
    number = max(1, int(0.02 / clock(call, 1)[0]))
    wall, cpu = zip(*(clock(call, number) for _ in range(15)), strict=True)
    return {"wall": wall, "cpu": cpu, "error": value - problem.loss, "peak": peak()}


def cold(watch, path, limit):
    train = crf_data.read(path, "train", limit)
    with watch("import"):
        _import()
    import chainrule as cr

    with watch("first"):
        crf = _model(train, _templates())
        crf.fit(train.tokens, train.labels, method=cr.LBFGS(l2=1.0, memory=6, max_iterations=20, tolerance=-1))
    return {"peak": peak()}


TASKS = {"fit": fit, "features": features, "tagging": tagging, "dense": dense, "cold": cold}
