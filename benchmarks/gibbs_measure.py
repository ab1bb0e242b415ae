"""One measurement in one process: `gibbs.py` starts this file afresh for each, and reads the JSON that it prints last.

python gibbs_measure.py '{"kind": "speed", "task": "sparse", "rounds": 9}'
"""

import json
import sys
import time

import networkx as nx
import numpy as np
from measure import clock, describe

SWEEPS = 20
SPARSE = {"nodes": 10_000, "chains": 64}
LATTICE = {"side": 256, "chains": 32, "beta": 0.44}
LARGE = 100_000


def regular(nodes: int) -> nx.Graph:
    """A 6-regular graph with random couplings and biases."""
    rng = np.random.default_rng(0)
    graph = nx.random_regular_graph(6, nodes, seed=0)
    for _, data in graph.nodes(data=True):
        data["bias"] = rng.normal(0, 0.1)
    for *_, data in graph.edges(data=True):
        data["weight"] = rng.normal(0, 0.3)
    return graph


def colours_of(graph):
    from chainrule.graphs.colouring import colour
    from chainrule.graphs.couplings import read_graph

    edges = read_graph(graph)
    return colour(len(graph), edges.ends)


def sparse() -> dict:
    import jax

    import chainrule as cr
    from chainrule.inference import gibbs

    graph = regular(SPARSE["nodes"])
    model = cr.BoltzmannMachine.from_graph(graph, states=(-1, 1)).form
    sides = {"thrml": thrml_run(graph, colours_of(graph), SPARSE["chains"], 1.0)}
    for name in ("philox2x32", "threefry2x32"):
        key = jax.random.key(0, impl=name)
        state = gibbs.random_state(key, model, SPARSE["chains"])
        sides[f"chainrule, {name}"] = lambda key=key, state=state: gibbs.run(
            key, state, model, SWEEPS
        ).block_until_ready()
    return sides


def lattice() -> dict:
    import jax
    import jax.numpy as jnp

    import chainrule as cr
    from chainrule.forms.layouts import Lattice
    from chainrule.inference import gibbs, packed_lattice

    side, chains, beta = LATTICE["side"], LATTICE["chains"], LATTICE["beta"]
    graph = nx.grid_2d_graph(side, side, periodic=True)
    nx.set_edge_attributes(graph, 1.0, "weight")
    model = cr.Pairwise(jnp.zeros(()), Lattice(1.0, side, side), spins=True)
    sides = {"thrml": thrml_run(graph, colours_of(graph), chains, beta)}
    for name in ("philox2x32", "threefry2x32"):
        key = jax.random.key(0, impl=name)
        words = packed_lattice.random_words(key, model, chains // 32)
        sides[f"chainrule packed, {name}"] = lambda key=key, words=words: packed_lattice.run(
            key, words, model, SWEEPS, beta
        ).block_until_ready()
    state = gibbs.random_state(key := jax.random.key(0, impl="philox2x32"), model, chains)
    sides["chainrule unpacked, philox2x32"] = lambda: gibbs.run(key, state, model, SWEEPS, beta).block_until_ready()
    return sides


def speed(task: str, rounds: int) -> dict:
    """Time all samplers in turns after their first call."""
    sides = {"sparse": sparse, "lattice": lattice}[task]()
    sites = SPARSE["nodes"] * SPARSE["chains"] if task == "sparse" else LATTICE["side"] ** 2 * LATTICE["chains"]
    report = {}
    for name, call in sides.items():
        report[name] = {"first": clock(call, 1)[0], "wall": [], "cpu": []}
        call()
    for _ in range(rounds):
        for name, call in sides.items():
            wall, cpu = clock(call, 1)
            report[name]["wall"].append(wall)
            report[name]["cpu"].append(cpu)
    return {**report, "updates": SWEEPS * sites}


def build(library: str) -> dict:
    """From a networkx graph to one sample."""
    graph = regular(LARGE)
    if library == "thrml":
        import thrml.models  # noqa: F401

        colours = colours_of(graph)
        start = time.perf_counter()
        call = thrml_run(graph, colours, 1, 1.0)
        built = time.perf_counter()
        call()
    else:
        import jax

        import chainrule as cr

        _ = cr.BoltzmannMachine
        start = time.perf_counter()
        machine = cr.BoltzmannMachine.from_graph(graph, states=(-1, 1))
        built = time.perf_counter()
        machine.sample(jax.random.key(0, impl="philox2x32"), 1, sweeps=SWEEPS).block_until_ready()
    return {"build": built - start, "first": time.perf_counter() - built}


def thrml_run(graph, colours, chains: int, beta: float):
    """20 sweeps of all chains by thrml: its nodes and edges, one block a colour, a vmap over chains."""
    import jax
    import jax.numpy as jnp
    from thrml import Block, SamplingSchedule, SpinNode, sample_states
    from thrml.models import IsingEBM, IsingSamplingProgram, hinton_init

    nodes = {name: SpinNode() for name in graph}
    edges = [(nodes[u], nodes[v]) for u, v in graph.edges]
    biases = jnp.array([graph.nodes[name].get("bias", 0.0) for name in graph])
    weights = jnp.array([data["weight"] for *_, data in graph.edges(data=True)])
    model = IsingEBM(list(nodes.values()), edges, biases, weights, jnp.array(beta))
    groups = [[] for _ in range(int(colours.max()) + 1)]
    for node, colour in zip(nodes.values(), colours.tolist(), strict=True):
        groups[colour].append(node)
    blocks = [Block(group) for group in groups]
    program = IsingSamplingProgram(model, blocks, clamped_blocks=[])
    schedule = SamplingSchedule(
        n_warmup=SWEEPS, n_samples=1, steps_per_sample=1
    )  # the only sample is what the warm-up ends with
    start = hinton_init(jax.random.key(0), model, blocks, (chains,))
    keys = jax.random.split(jax.random.key(1), chains)

    @jax.jit
    def sweeps(keys, start):
        return jax.vmap(lambda key, state: sample_states(key, program, schedule, state, [], blocks))(keys, start)

    return lambda: jax.block_until_ready(sweeps(keys, start))


if __name__ == "__main__":
    order = json.loads(sys.argv[1])
    kind = order.pop("kind")
    try:
        answer = {"speed": speed, "build": build}[kind](**order)
    except Exception as failure:
        answer = {"failure": describe(failure)}
    print(json.dumps(answer))
