"""chainrule alone on one accelerator, and how much of what the machine can do each task takes.

    python benchmarks/accelerator.py [task …] [--write]

Every task says what it has to move or to multiply at the least; the ceilings, a copy of 2 GB and a product of two large
matrices, are measured in the same process. "achieved" is the share of the copy's bytes or of the product's operations.

| task | what is timed, after its first call |
|---|---|
| sparse | 20 sweeps of a random 6-regular graph of 10 000 nodes, 64 and 4096 chains; 7 bytes an update |
| lattice | 20 sweeps of an Ising model of 256² in 32 chains and of 2048² in 256, packed; a third of a byte an update |
| epoch | an epoch of PCD-1, 10 000 images of 784 with 500 hidden units, batches of 100 and 2500; 5 products a batch |
| chain | marginals of a chain of 100 000 steps, step by step and, as it is done on accelerators, in pieces side by side |
| path | the best path of the same chain, both ways, which have to find the same score |
| em | ten iterations of EM, data on the host: normal emissions of 10 states, 4 features, 100 000 steps in all |
| batch | marginals of 1000 chains of 1000 steps, 10 states; score, messages and marginals moved once each way |
| crf | loss and gradient of dense potentials, 64 sentences of 100 tokens, 25 and 100 labels |
| garnet1m | a random decision process of 1 000 000 states, 4 actions, 8 successors, to 1e-2 in float32 |
| variants | 1000 processes of 500 states in one call, and one of them |
"""

import statistics
import sys
import time

import numpy as np
import report

TITLES = {"all": "what one accelerator makes of each"}


def clock(call, rounds: int = 7) -> tuple[float, float]:
    """Seconds of the first call, and the median of those after it."""
    import jax

    def once():
        start = time.perf_counter()
        jax.block_until_ready(call())
        return time.perf_counter() - start

    first = once()
    once()
    return first, statistics.median(once() for _ in range(rounds))


def ceilings() -> tuple[float, float]:
    """Bytes a second of a copy (read and written), operations a second of a product at the default precision."""
    import jax
    import jax.numpy as jnp

    numbers = jnp.zeros(2**29, jnp.float32)
    copy, dot = jax.jit(lambda x: x + 1), jax.jit(jnp.dot)
    copied = clock(lambda: copy(numbers))[1]
    size = 8192
    matrix = jax.random.normal(jax.random.key(0), (size, size))
    product = clock(lambda: dot(matrix, matrix))[1]
    return 2 * numbers.nbytes / copied, 2 * size**3 / product


def sparse():
    import jax
    from gibbs_measure import SWEEPS, regular

    import chainrule as cr
    from chainrule.inference import gibbs

    model = cr.BoltzmannMachine.from_graph(regular(10_000), states=(-1, 1)).form
    key = jax.random.key(0, impl="philox2x32")
    for chains in (64, 4096):
        state = gibbs.random_state(key, model, chains)
        updates = SWEEPS * 10_000 * chains
        yield f"{chains} chains", lambda state=state: gibbs.run(key, state, model, SWEEPS), updates, 7 * updates, 0


def lattice():
    import jax
    import jax.numpy as jnp
    from gibbs_measure import SWEEPS

    import chainrule as cr
    from chainrule.forms.layouts import Lattice
    from chainrule.inference import packed_lattice

    key = jax.random.key(0, impl="philox2x32")
    for side, chains in ((256, 32), (2048, 256)):
        model = cr.Pairwise(jnp.zeros(()), Lattice(1.0, side, side), spins=True)
        words = packed_lattice.random_words(key, model, chains // 32)
        updates = SWEEPS * side**2 * chains
        run = lambda model=model, words=words: packed_lattice.run(key, words, model, SWEEPS, 0.44)  # noqa: E731
        yield (
            f"{side}², {chains} chains",
            run,
            updates,
            updates / 4,
            0,
        )  # the other half read, this one written, in bits


def epoch():
    import jax

    import chainrule as cr

    key = jax.random.key(0, impl="philox2x32")
    data = (jax.random.uniform(key, (10_000, 784)) < 0.2).astype(np.uint8)
    data = np.asarray(data)
    start = cr.RBM.random(key, 784, 500)
    for batch in (100, 2500):
        # two lengths of fit, of which the difference is epochs alone
        runs = [
            cr.PCD(epochs=n, chains=batch, batch_size=batch, learning_rate=0.01, decay=1.0, centred=False)
            for n in (2, 42)
        ]

        def call(method):
            return lambda: start.fit(data, method=method, key=key).model.weights

        seconds = (clock(call(runs[1]), 3)[1] - clock(call(runs[0]), 3)[1]) / 40
        yield f"batches of {batch}", seconds, len(data), 0, 5 * 2 * len(data) * 784 * 500


def chain():
    from chainrule.inference import chain

    for name, form in _both_ways():
        yield name, lambda form=form: chain.marginals(form), len(form.node), 4 * form.node.nbytes, 0


def path():
    from chainrule.inference import decoding

    scores = {}
    for name, form in _both_ways():
        yield name, lambda form=form: decoding.viterbi(form), len(form.node), 4 * form.node.nbytes, 0
        score = float(decoding.viterbi(form).score)
        if not np.isclose(score, scores.setdefault(form.node.shape[1], score), rtol=1e-6):
            raise ValueError(f"{name}: a path that scores {score}, step by step {scores[form.node.shape[1]]}")


def _both_ways():
    """Long chains, each to be swept step by step and then in pieces."""
    import jax
    import jax.numpy as jnp

    import chainrule as cr
    from chainrule.inference import chunks

    rng = np.random.default_rng(0)
    choose = chunks.suits
    for states in (5, 32):
        probs = rng.dirichlet(np.ones(states), states)
        node = jnp.asarray(rng.normal(size=(100_000, states)), jnp.float32)
        form = cr.Chain(jnp.zeros(states), jnp.log(jnp.asarray(probs, jnp.float32)), node)
        for name, suits in (("step by step", lambda w: False), ("in pieces", choose)):
            chunks.suits = suits
            jax.clear_caches()  # what was traced before has chosen already
            yield f"{states} states, {name}", form
    chunks.suits = choose


def em():
    import chainrule as cr

    rng = np.random.default_rng(0)
    states, features = 10, 4
    hmm = cr.HMM(
        np.full(states, 1 / states, np.float32),
        rng.dirichlet(np.ones(states), states).astype(np.float32),
        cr.emissions.Normal(rng.normal(size=(states, features)), np.ones((states, features))),
    )
    x = rng.normal(size=(100, 1000, features)).astype(np.float32)
    method = cr.EM(max_iterations=10, tolerance=0.0)
    yield (
        "100 sequences of 1000",
        lambda: hmm.fit(x, method=method).model.transition,
        10 * x.shape[0] * x.shape[1],
        0,
        0,
    )
    one = x.reshape(-1, features)
    yield "one of 100 000", lambda: hmm.fit(one, method=method).model.transition, 10 * len(one), 0, 0


def batch():
    import jax
    import jax.numpy as jnp

    import chainrule as cr

    rng = np.random.default_rng(0)
    states, time_, rows = 10, 1000, 1000
    hmm = cr.HMM(
        np.full(states, 1 / states, np.float32),
        rng.dirichlet(np.ones(states), states).astype(np.float32),
        cr.emissions.Categorical(rng.dirichlet(np.ones(50), states).astype(np.float32)),
    )
    x = jnp.asarray(rng.integers(0, 50, (rows, time_)))
    run = jax.jit(jax.vmap(lambda x: hmm.posterior(x).marginals))
    size = rows * time_ * states * 4
    yield "categorical, marginals", lambda: run(x), rows * time_, 6 * size, 0


def crf():
    import jax
    import jax.numpy as jnp

    from chainrule.inference import rows

    time_, sentences = 100, 64
    rng = np.random.default_rng(0)
    for labels in (25, 100):
        node = jnp.asarray(rng.normal(size=(time_, labels, sentences)), jnp.float32)
        pair = jnp.asarray(rng.normal(size=(labels, labels)), jnp.float32)
        start = np.zeros((time_, sentences), bool)
        start[0] = True
        weight = jnp.ones(start.shape)

        def loss(node, pair, labels=labels, start=start, weight=weight):
            return rows.total(True, jnp.zeros(labels), pair, node, start, weight)

        run = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
        yield (
            f"{labels} labels",
            lambda run=run, node=node, pair=pair: run(node, pair),
            time_ * sentences,
            2 * node.nbytes,
            0,
        )


def garnet1m():
    import jax
    import jax.numpy as jnp
    import mdp_data

    import chainrule as cr

    problem = mdp_data.load("garnet1m")
    probs = problem.probabilities.astype(np.float32)
    mdp = cr.MDP(probs, problem.rewards.astype(np.float32), successors=problem.successors, discount=0.99)
    mdp = jax.tree.map(jnp.asarray, mdp)
    run = jax.jit(lambda mdp: mdp.solve(tolerance=1e-2))
    yield "to 1e-2", lambda: run(mdp).values, len(probs), 0, 0


def variants():
    import jax
    import jax.numpy as jnp
    import mdp_data

    import chainrule as cr

    problems = mdp_data.variants()
    first = cr.MDP(
        problems[0].probabilities.astype(np.float32),
        problems[0].rewards.astype(np.float32),
        successors=problems[0].successors,
        discount=problems[0].discount,
    )
    probs = jnp.asarray(np.stack([problem.probabilities for problem in problems]), jnp.float32)
    rewards = jnp.asarray(np.stack([problem.rewards for problem in problems]), jnp.float32)

    def one(probs, rewards):
        return first.replace(probabilities=probs, rewards=rewards).solve(tolerance=1e-3).values

    alone, together = jax.jit(one), jax.jit(jax.vmap(one))
    yield "one", lambda: alone(probs[0], rewards[0]), 1, 0, 0
    yield "1000", lambda: together(probs, rewards), 1000, 0, 0


TASKS = {f.__name__: f for f in (sparse, lattice, epoch, chain, path, em, batch, crf, garnet1m, variants)}


def table(tasks) -> str:
    """Measure, and say it in a table."""
    import jax

    bytes_, operations = ceilings()
    device = jax.devices()[0].device_kind
    rows = ["task | | first call s | ms | millions a second | of the ceiling"]
    for task in tasks:
        try:
            for name, call, count, moved, computed in TASKS[task]():
                first, seconds = (None, call) if isinstance(call, float) else clock(call)
                share = max(moved / seconds / bytes_, computed / seconds / operations)
                told = f"{100 * share:.2g} %" if share else ""
                begun = "" if first is None else f"{first:.1f}"
                line = f"{task} | {name} | {begun} | {1e3 * seconds:.3g} | {count / seconds / 1e6:.4g} | {told}"
                sys.stderr.write(line + "\n")
                rows.append(line)
        except Exception as error:  # a task that does not run here is told, the others are measured
            rows.append(f"{task} | {type(error).__name__}: {str(error)[:200]} | | | | ")
            sys.stderr.write(rows[-1] + "\n")
    ceiling = (
        f"{device}: a copy moves {bytes_ / 1e12:.2f} TB/s, a product of float32 makes {operations / 1e12:.0f} Tflop/s."
    )
    return f"{ceiling}\n\n{report.markdown(rows)}"


def main():
    """Print the table."""
    options = report.parse(report.parser(__doc__, TASKS), TASKS)
    tasks, options.tasks = options.tasks, ["all"]
    report.tables("accelerator.py", options, TITLES, ["chainrule", "jax", "jaxlib"], lambda _: table(tasks))


if __name__ == "__main__":
    main()
