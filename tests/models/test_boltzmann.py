"""Boltzmann machines on graphs: energies, probabilities, samples and fits against enumeration."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import networkx as nx
import numpy as np
import pairwise_cases as cases
import pytest

import chainrule as cr
from chainrule.forms.layouts import Bipartite, Lattice, Neighbours
from chainrule.graphs.couplings import compile_edges
from chainrule.inference.mean_field import mean_field
from chainrule.models.boltzmann import engine, learning
from chainrule.models.boltzmann.data import uniform_lattice
from chainrule.models.boltzmann.pairs import Pairs

KEY = jax.random.key(0, impl="philox2x32")
MASKED = np.ma.masked_array(np.ones((2, 5), int), [[False, True, False, False, False], [False] * 5])


def a_graph(**hidden) -> nx.Graph:
    """A kite with a tail, its names no numbers, its nodes not in the order of their colours."""
    graph = nx.Graph()
    for name, bias in zip("edcba", (0.3, -0.5, 0.2, 0.0, -0.2), strict=True):
        graph.add_node(name, bias=bias)
    for pair, weight in zip(("ab", "bc", "ca", "cd", "de"), (1.0, -0.7, 0.5, 0.9, -1.2), strict=True):
        graph.add_edge(*pair, weight=weight)
    return graph


def every_state(states, count=5):
    return np.array(list(itertools.product(states, repeat=count)))


@pytest.mark.parametrize("states", [(0, 1), (-1, 1)])
def test_energies_and_probabilities_are_those_of_the_factor_graph(states):
    machine = cr.BoltzmannMachine.from_graph(a_graph(), states=states)
    assert machine.visible == machine.nodes == tuple("edcba")
    table = machine.factor_graph().enumerate()
    x = every_state(states)
    scores = [machine.factor_graph().log_score(dict(zip(machine.nodes, row.tolist(), strict=True))) for row in x]
    np.testing.assert_allclose(machine.energy(x), -np.array(scores), atol=1e-5)
    assert float(machine.log_partition()) == pytest.approx(table.log_partition, abs=1e-5)
    np.testing.assert_allclose(machine.log_prob(x), table.log_joint.ravel(), atol=1e-5)
    assert machine.log_prob(x[3]).shape == machine.energy(x[3]).shape == ()


def test_hidden_nodes_are_summed_out():
    machine = cr.BoltzmannMachine.from_graph(a_graph(), hidden=("d", "a"))
    assert machine.visible == ("e", "c", "b")
    x = every_state((0, 1), 3)
    wanted = np.log(machine.factor_graph().enumerate().marginal(*machine.visible).ravel())
    np.testing.assert_allclose(machine.log_prob(x), wanted, atol=1e-5)
    assert float(np.exp(machine.log_prob(x)).sum()) == pytest.approx(1, abs=1e-5)


def test_graph_and_back():
    machine = cr.BoltzmannMachine.from_graph(a_graph(), states=(-1, 1), hidden=["c"])
    again = cr.BoltzmannMachine.from_graph(machine.graph())
    assert (again.nodes, again.hidden, again.states) == (machine.nodes, machine.hidden, machine.states)
    for leaf, other in zip(jax.tree.leaves(machine), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(leaf, other)


def test_samples_are_distributed_as_enumeration_says():
    machine = cr.BoltzmannMachine.from_graph(a_graph())
    drawn = np.asarray(machine.sample(KEY, 3000, sweeps=20))
    assert drawn.shape == (3000, 5)
    assert drawn.dtype == np.int8
    counts = np.bincount(drawn @ (2 ** np.arange(5)[::-1]), minlength=32)
    assert cases.chi_square(counts, np.exp(machine.log_prob(every_state((0, 1))))) > 1e-3
    held = np.asarray(machine.sample(KEY, 3000, sweeps=20, given={"c": 1, "e": 0}))
    assert (held[:, 2] == 1).all()
    assert (held[:, 0] == 0).all()
    joint = np.exp(np.asarray(machine.log_prob(every_state((0, 1))))).reshape((2,) * 5)[0, :, 1]
    counts = np.bincount(held[:, [1, 3, 4]] @ [4, 2, 1], minlength=8)
    assert cases.chi_square(counts, (joint / joint.sum()).ravel()) > 1e-3
    assert machine.sample(KEY).shape == (5,)


def test_completion_leaves_what_is_known_bit_for_bit():
    machine = cr.BoltzmannMachine.from_graph(a_graph(), hidden=["a"])
    rng = np.random.default_rng(0)
    values = rng.integers(0, 2, (4000, 4)).astype(np.float32)
    known = rng.random((4000, 4)) < 0.6
    corrupt = np.where(known, values, np.nan).astype(np.float32)
    found = np.asarray(machine.complete(KEY, corrupt, known=known))
    assert found.dtype == np.float32
    assert (found[known].view(np.int32) == values[known].view(np.int32)).all()
    assert set(np.unique(found)) == {0.0, 1.0}
    first = known[:, 0] & ~known[:, 1:].any(1)  # only e known: compare with p(d, c, b | e)
    joint = np.exp(np.asarray(machine.log_prob(every_state((0, 1), 4)))).reshape(2, 8)
    for value in (0, 1):
        rows = found[first & (values[:, 0] == value)]
        counts = np.bincount((rows[:, 1:] @ [4, 2, 1]).astype(int), minlength=8)
        assert cases.chi_square(counts, joint[value] / joint[value].sum()) > 1e-3


def test_mean_field_bounds_log_z_and_is_exact_without_couplings():
    machine = cr.BoltzmannMachine.from_graph(a_graph(), states=(-1, 1))
    found = machine.mean_field()
    assert bool(found.converged)
    assert float(found.bound[0]) <= float(machine.log_partition())
    free = cr.BoltzmannMachine.from_graph(nx.create_empty_copy(a_graph()))
    found = free.mean_field(key=jax.random.key(1))
    assert float(found.bound[0]) == pytest.approx(float(free.log_partition()), abs=1e-5)
    np.testing.assert_allclose(found.means[:, 0], 1 / (1 + np.exp(-np.asarray(free.bias))), atol=1e-5)
    held = free.mean_field(given={"b": 1})
    assert held.means[3, 0] == 1


@pytest.mark.parametrize("layout", cases.LAYOUTS)
def test_mean_field_rests_where_each_mean_is_best_given_the_others(layout):
    """In float64 by hand: means and bound of the fixed point, at any temperature, some nodes held; no mean improves it."""
    for spins, beta in [(layout in (cases.Dense, cases.Lattice), 0.8 if layout is cases.Dense else 1.3)]:
        model = cases.random_model(layout, spins=spins)
        clamp = np.arange(model.num_nodes)[:, None] == 1
        start = np.where(clamp, np.float32(1), np.float32(0.1 if spins else 0.5))
        found = mean_field(start, model, beta, clamp)
        m, w, b = np.asarray(found.means[:, 0], float), cases.couplings(model), np.asarray(model.biases, float)
        fields = beta * (b + w @ m)
        best = np.tanh(fields) if spins else 1 / (1 + np.exp(-fields))
        free = ~clamp[:, 0]
        np.testing.assert_allclose(m[free], best[free], atol=1e-5)
        assert m[1] == 1

        def bound(m, model=model, w=w, b=b, beta=beta, free=free):
            p = ((m + 1) / 2 if model.spins else m)[free]
            entropy = -(p * np.log(p) + (1 - p) * np.log(1 - p)).sum()
            return entropy + beta * (m @ w @ m / 2 + b @ m + float(model.constant))

        assert float(found.bound[0]) == pytest.approx(bound(m), abs=1e-4)
        x = cases.states(model)
        score = beta * cases.scores(model, x[:, x[1] == 1])
        assert bound(m) <= np.logaddexp.reduce(score) + 1e-6
        for i in np.flatnonzero(free):
            for step in (-0.02, 0.02):
                assert bound(m + step * (np.arange(len(m)) == i)) < bound(m)


def test_the_exact_fit_finds_the_distribution_and_its_gradient_vanishes():
    truth = cr.BoltzmannMachine.from_graph(a_graph())
    x = every_state((0, 1))
    rows = np.repeat(x, np.round(20_000 * np.exp(np.asarray(truth.log_prob(x)))).astype(int), axis=0)
    fit = cr.BoltzmannMachine.random(jax.random.key(1), a_graph()).fit(rows)
    assert fit.status is cr.Status.CONVERGED
    np.testing.assert_allclose(fit.model.weights, truth.weights, atol=0.03)
    np.testing.assert_allclose(fit.model.bias, truth.bias, atol=0.03)
    assert fit.log_prob == pytest.approx(np.asarray(fit.model.log_prob(rows)).sum(), rel=1e-5)
    # never down, but for rounding: sums of this size are known to some units in their last place
    assert (np.diff(fit.history) > -4 * np.spacing(np.abs(fit.history).max().astype(np.float32))).all()
    # moments of the data are those of the machine (Ackley et al. 1985)
    p = np.exp(np.asarray(fit.model.log_prob(x), float))
    np.testing.assert_allclose(x.T @ p, rows.mean(0), atol=2e-3)


def test_the_exact_fit_of_other_data_compiles_nothing():
    start = cr.BoltzmannMachine.from_graph(a_graph())
    start.fit(every_state((0, 1))[:20])
    before = learning._exact_fit._cache_size()
    rows = every_state((0, 1))[[3, 3, 8]]
    fit = start.fit(rows)
    assert learning._exact_fit._cache_size() == before
    assert fit.log_prob == pytest.approx(np.asarray(fit.model.log_prob(rows)).sum(), rel=1e-5)


def test_hidden_nodes_are_fitted_too():
    truth = cr.BoltzmannMachine.from_graph(a_graph(), hidden=["c"])
    rows = np.asarray(truth.sample(KEY, 3000, sweeps=30))[:2000, [0, 1, 3, 4]]
    fit = cr.BoltzmannMachine.random(jax.random.key(3), a_graph(), scale=0.5, hidden=["c"]).fit(rows)
    assert fit.log_prob >= np.asarray(truth.log_prob(rows)).sum()


def test_pcd_comes_near_the_exact_fit_and_compiles_once():
    truth = cr.BoltzmannMachine.from_graph(a_graph(), hidden=["c"])
    rows = np.asarray(truth.sample(KEY, 3000, sweeps=30))[:1000, [0, 1, 3, 4]]
    start = cr.BoltzmannMachine.random(jax.random.key(3), a_graph(), scale=0.5, hidden=["c"])
    method = cr.PCD(epochs=40, learning_rate=0.3, batch_size=100, chains=100)
    fit = start.fit(rows, method=method, key=KEY)
    best = start.fit(rows)
    assert best.log_prob - fit.log_prob < 0.01 * len(rows)
    assert fit.status is cr.Status.MAX_ITERATIONS
    assert fit.history.shape == (40,)
    before = learning._run._cache_size()
    other = cr.PCD(epochs=37, learning_rate=0.2, batch_size=100, chains=100, sweeps=2)
    start.fit(rows[::-1], method=other, key=KEY)
    assert learning._run._cache_size() == before


LEARNT = [(Bipartite, False, 0), (Neighbours, True, 2)]  # a fit of a dense machine is below


@pytest.mark.parametrize(("layout", "spins", "hidden"), LEARNT)
def test_a_step_of_pcd_is_the_exact_gradient_in_every_layout(layout, spins, hidden):
    """Slopes weighed by exact probabilities are those of log Z; one step of 4000 chains is log p's within 5 errors.

    No random number of the step is used twice.
    """
    count, ends, weights, bias = cases.random_edges(layout)
    problem = Pairs(compile_edges(count, ends, layout), np.arange(count, dtype=np.int32), spins)
    start = np.float32(bias), np.float32(weights)
    rng = np.random.default_rng(0)
    rows = rng.choice([-1, 1] if spins else [0, 1], (1000, count - hidden), p=[0.3, 0.7])

    # in NumPy, over all states: slopes of the score, p(x), and p(x | a row) averaged over rows, which show the first nodes
    x = cases.states(cases.random_model(layout, spins=spins))
    bits, own = (x > 0).astype(int), x[np.asarray(problem.couplings.rank)]
    slopes = np.concatenate([own, own[ends[0]] * own[ends[1]]])
    score = np.concatenate([bias, weights]) @ slopes
    p = np.exp(score - np.logaddexp.reduce(score))
    place = 2 ** np.arange(count - hidden)
    seen, shown = np.bincount((rows > 0) @ place), place @ bits[: count - hidden]
    wanted = np.split(slopes @ (p * (seen / 1000 / np.bincount(shown, p))[shown] - p), [count])
    of_log_z = np.split(slopes @ p, [count])
    each = jax.jit(lambda start, x: jax.vmap(lambda one: problem.slopes(problem.form(start), one[:, None]), 1)(x))
    mine = [p @ np.asarray(part) for part in each(start, x)]
    method = cr.PCD(epochs=1, batch_size=1000, chains=4000, sweeps=30, learning_rate=1.0, decay=1.0, centred=False)
    with jax.debug_key_reuse(True):  # refuses a key that two draws would share
        key = jax.random.key(0, impl="philox2x32")
        found = learning.fit(problem, start, rows, method, key, tiny=False, progress=False).model
    error = 5 * (1 if spins else 0.5) * np.sqrt(1 / 4000 + (1 / 1000 if hidden else 0))
    for got, old, slope, ours, theirs in zip(found, start, wanted, mine, of_log_z, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
        np.testing.assert_allclose(np.asarray(got) - old, slope, atol=error)
        assert np.abs(slope).max() > 1.5 * error


def test_centred_steps_do_not_depend_on_which_state_is_called_1():
    """Data and machine with 0 and 1 exchanged: weights move alike, biases as x → 1 − x has them move (Melchior et al.)."""
    _, ends, _, _ = cases.random_edges(Neighbours)
    problem = Pairs(compile_edges(8, ends, Neighbours), np.arange(8, dtype=np.int32), False)
    rng = np.random.default_rng(1)
    x, y, z = (rng.integers(0, 2, (8, 6)) for _ in range(3))

    @jax.jit
    def step(x, y, z):
        form = problem.form((jnp.zeros(8), jnp.zeros(ends.shape[1])))
        data, model, means = (problem.slopes(form, jnp.asarray(state)) for state in (x, y, z))
        return problem.uncentred(problem.centred(jax.tree.map(jnp.subtract, data, model), means), means)

    bias, weights = step(x, y, z)
    other_bias, other_weights = step(1 - x, 1 - y, 1 - z)
    np.testing.assert_allclose(other_weights, weights, atol=1e-6)
    totals = np.zeros(8)
    for end in ends:
        np.add.at(totals, end, np.asarray(weights))
    np.testing.assert_allclose(other_bias, -bias - totals, atol=1e-6)


def test_annealing_brackets_log_z():
    machine = cr.BoltzmannMachine.from_graph(nx.grid_2d_graph(4, 4, periodic=True), states=(-1, 1))
    machine = eqx.tree_at(lambda m: m.weights, machine, np.full(32, 0.44, np.float32))
    wanted = cases.TORUS[4, 0.44][0]
    found = machine.annealed_log_partition(KEY, chains=80, stops=200, burn=100)
    assert abs(found.lower - wanted) < 4 * found.lower_error
    assert abs(found.upper - wanted) < 4 * found.upper_error
    assert found.gap < 0.3
    assert float(machine.log_partition()) == pytest.approx(wanted, abs=1e-4)


def test_a_large_torus_is_drawn_in_words():
    """Nodes in any order, and not a multiple of 32 chains: energies as for the sparse layout."""
    graph = nx.Graph()
    graph.add_nodes_from(np.random.default_rng(0).permutation(32 * 32).tolist())
    names = {i: (i // 32, i % 32) for i in range(1024)}
    graph = nx.relabel_nodes(graph, names)
    graph.add_edges_from(nx.grid_2d_graph(32, 32, periodic=True).edges, weight=0.3)
    machine = cr.BoltzmannMachine.from_graph(graph, states=(-1, 1))
    assert uniform_lattice(machine) is not None
    assert machine.couplings.sides == (32, 32)
    drawn = machine.sample(KEY, 100, sweeps=30)
    assert drawn.shape == (100, 1024)
    packed = np.asarray(machine.energy(drawn), float)
    weights, bias = np.asarray(machine.weights), np.asarray(machine.bias)
    other = eqx.tree_at(lambda m: m.weights, machine, weights + 1e-7 * (np.arange(2048, dtype=np.float32) == 0))
    assert uniform_lattice(other) is None
    plain = np.asarray(machine.energy(other.sample(jax.random.key(1, impl="philox2x32"), 100, sweeps=30)), float)
    error = np.hypot(packed.std(), plain.std()) / np.sqrt(100)
    assert abs(packed.mean() - plain.mean()) < 4 * error
    before = engine.on_lattice._cache_size()
    stronger = eqx.tree_at(lambda m: (m.weights, m.bias), machine, tuple(map(jax.device_put, (2 * weights, bias + 1))))
    assert np.asarray(stronger.sample(KEY, 100, sweeps=3)).mean() > 0.9
    assert engine.on_lattice._cache_size() == before


def test_annealing_finds_the_lowest_energy_in_the_order_of_nodes():
    """Of bits with names, one held or none, by enumeration; whatever the scale of the problem."""
    for scale in (1e-3, 1e3):
        graph = nx.Graph()
        for name, bias in zip("edcba", (0.3, -0.5, 0.2, 0.0, -0.2), strict=True):
            graph.add_node(name, bias=scale * bias)
        for pair, weight in zip(("ab", "bc", "ca", "cd", "de"), (1.0, -0.7, 0.5, 0.9, -1.2), strict=True):
            graph.add_edge(*pair, weight=scale * weight)
        machine = cr.BoltzmannMachine.from_graph(graph)
        x = every_state((0, 1))
        energies = np.asarray(machine.energy(x))
        for given, possible in (({}, x[:, 0] >= 0), ({"e": 1, "a": 0}, (x[:, 0] == 1) & (x[:, 4] == 0))):
            found = machine.anneal(KEY, 16, sweeps=100, given=given)
            np.testing.assert_allclose(machine.energy(found.states.T), found.energies, rtol=1e-5)
            assert np.asarray(found.energies).min() == pytest.approx(energies[possible].min(), rel=1e-5)
            np.testing.assert_array_equal(found.best, x[possible][energies[possible].argmin()])
    assert machine.anneal(KEY, 16, betas=np.linspace(0.1, 1, 100)).states.shape == (5, 16)


def test_tempering_weighs_modes_in_the_order_of_nodes():
    """Five spins that all agree, up or down: chains of `sample` keep their side, tempered ones have the distribution."""
    graph = a_graph()
    nx.set_edge_attributes(graph, 2.0, "weight")
    machine = cr.BoltzmannMachine.from_graph(graph, states=(-1, 1))
    found = machine.temper(KEY, 2, num_chains=500, thin=20, burn=20)
    assert found.records.shape == (2, 500, 5)
    assert found.swap_rates.shape == (15,)
    assert np.asarray(found.swap_rates).min() > 0.1
    counts = np.bincount((np.asarray(found.records[1]) > 0) @ (2 ** np.arange(5)[::-1]), minlength=32)
    assert cases.chi_square(counts, np.exp(machine.log_prob(every_state((-1, 1))))) > 1e-3


@pytest.mark.parametrize("layout", [Bipartite, Lattice])  # of the draws of each `test_gibbs` tells
def test_log_z_of_tori(layout):
    for beta in (0.2, 0.44):
        model = cases.torus(4, layout)  # without biases
        scaled = cases.times(model, beta)
        found = engine.sandwich(KEY, scaled, 80, np.linspace(0, 1, 201, dtype=np.float32), 100)
        wanted = cases.TORUS[4, beta][0]
        assert abs(found.lower - wanted) < 4 * found.lower_error
        assert abs(found.upper - wanted) < 4 * found.upper_error


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.log_prob([[0, 1, 2, 0, 1]]), r"values\[0, 2\] is 2; values are 0 or 1"),
        (lambda m: m.log_prob([0.0, np.nan, 0, 0, 0]), "is nan"),
        (lambda m: m.log_prob([0, 1]), r"shape \(2,\)"),
        (lambda m: m.sample(KEY, given={"z": 1}), "unknown node 'z'"),
        (lambda m: m.sample(KEY, given={"a": 3}), "'a' is given 3"),
        (lambda m: m.sample(KEY, 0), "at least one"),
        (lambda m: m.sample(KEY, 2, beta=np.nan), "inverse temperatures are nan"),
        (lambda m: m.anneal(KEY, betas=[0.1, np.inf]), "inverse temperatures are"),
        (lambda m: m.anneal(KEY, sweeps=0), "sweeps 0"),
        (lambda m: m.temper(KEY, 2, betas=1.0), "wanted a vector"),
        (lambda m: m.temper(KEY, 0), "num_samples is 0"),
        (lambda m: m.temper(KEY, 1, betas=[1.0]), "at least two"),
        (lambda m: m.complete(KEY, [0] * 5, known=[True] * 5, sweeps=0), "sweeps is 0"),
        (lambda m: m.complete(KEY, [0] * 5, known=[np.nan, 0.0, 2.0, 0.0, 1.0]), "dtype float64; wanted booleans"),
        (lambda m: m.complete(KEY, [0] * 5, known=[True] * 4), r"shape \(4,\)"),
        (lambda m: m.complete(KEY, MASKED[0], known=[True] * 5), r"values\[1\] is called known"),
        (lambda m: m.fit(MASKED), r"values\[0, 1\] is masked"),
        (lambda m: m.log_prob(MASKED[0]), r"values\[1\] is masked"),
        (lambda m: m.annealed_log_partition(KEY, chains=1), "chains is 1"),
        (lambda m: m.annealed_log_partition(KEY, stops=1), "stops is 1"),
        (lambda m: m.annealed_log_partition(KEY, burn=0), "burn is 0"),
        (lambda m: m.fit(np.zeros((0, 5))), "no rows"),
        (lambda m: m.fit(np.zeros((3, 5)), method=cr.EM()), "not by EM"),
        (lambda m: m.fit(np.zeros((3, 5)), method=cr.PCD()), "key"),
        (lambda m: m.fit(np.zeros((3, 5)), method=cr.PCD(fast_rate=0.1), key=KEY), "fast_rate"),
        (lambda m: type(m).from_graph(a_graph(), states=(0, 2)), "states are"),
        (lambda m: type(m).from_graph(m.graph(), states=(-1, 1)), "graph's weights are for"),
        (lambda m: type(m).from_graph(a_graph(), hidden=["q"]), "unknown hidden node"),
        (lambda m: type(m).from_graph(a_graph(), hidden="abcde"), "all nodes are hidden"),
        (lambda m: type(m).from_graph(nx.path_graph(21)).log_partition(), "annealed_log_partition"),
    ],
)
def test_what_cannot_be_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(cr.BoltzmannMachine.from_graph(a_graph()))
