"""Hopfield networks against loops, enumeration and the published capacities."""

import itertools

import jax
import networkx as nx
import numpy as np
import pytest

import chainrule as cr
from chainrule.graphs.formats.qubo import from_ising, from_qubo
from chainrule.models.hopfield import Hebb, PseudoInverse, RecallStatus, Storkey

RULES = pytest.mark.parametrize("rule", [Hebb(), Storkey(), PseudoInverse()], ids=lambda r: type(r).__name__)

HIDDEN = nx.Graph([(0, 1, {"weight": 1.0})])
HIDDEN.add_node(1, hidden=True)


def random_patterns(count, size, seed=0):
    return np.random.default_rng(seed).choice([-1, 1], (count, size))


def flipped(patterns, share, seed=1):
    return np.where(np.random.default_rng(seed).random(patterns.shape) < share, -patterns, patterns)


def energy(couplings, biases, s):
    return -s @ couplings @ s / 2 - biases @ s


def recall_by_hand(couplings, biases, state, order):
    """One unit after the other, in float64, watching the energy."""
    state, energies = state.astype(float).copy(), []
    while True:
        before = state.copy()
        for i in order:
            field = couplings[i] @ state + biases[i]
            state[i] = state[i] if abs(field) < 1e-6 else np.sign(field)
            energies.append(energy(couplings, biases, state))
        if (before == state).all():
            return state, np.array(energies)


# Storage


def test_hebb_by_a_loop():
    patterns = random_patterns(3, 6)
    wanted = np.zeros((6, 6))
    for pattern in patterns:
        for i, j in itertools.permutations(range(6), 2):
            wanted[i, j] += pattern[i] * pattern[j] / 6
    np.testing.assert_allclose(cr.Hopfield.from_patterns(patterns).couplings, wanted, atol=1e-6)


def test_storkey_by_a_loop():
    patterns = random_patterns(4, 7)
    weight = np.zeros((7, 7))
    for x in patterns:
        new = weight.copy()
        for i, j in itertools.permutations(range(7), 2):
            h_ij = sum(weight[i, k] * x[k] for k in range(7) if k not in (i, j))
            h_ji = sum(weight[j, k] * x[k] for k in range(7) if k not in (i, j))
            new[i, j] += (x[i] * x[j] - x[i] * h_ji - h_ij * x[j]) / 7
        weight = new
    np.testing.assert_allclose(cr.Hopfield.from_patterns(patterns, Storkey()).couplings, weight, atol=1e-6)


def test_the_pseudo_inverse_projects_also_with_repeated_patterns():
    patterns = random_patterns(5, 20)
    columns = patterns.T.astype(float)
    wanted = columns @ np.linalg.inv(columns.T @ columns) @ columns.T
    np.fill_diagonal(wanted, 0)
    for rows in (patterns, np.concatenate([patterns, patterns[:2], -patterns[3:]])):
        np.testing.assert_allclose(cr.Hopfield.from_patterns(rows, PseudoInverse()).couplings, wanted, atol=1e-6)


def exact_share(model, patterns, count):
    """Of the first so many patterns, how many are recalled exactly, and their mean overlap."""
    overlaps = np.asarray(model.recall(patterns[:count]).overlaps(patterns[:count])).diagonal()
    return (overlaps == 1).mean(), overlaps.mean()


def test_hebb_up_to_its_three_capacities():
    size, rule = 600, Hebb()
    for of, least in (("every pattern", 1.0), ("most patterns", 0.85)):
        patterns = random_patterns(int(rule.capacity(size, of=of)), size)
        assert exact_share(cr.Hopfield.from_patterns(patterns), patterns, 23)[0] >= least
    patterns = random_patterns(int(0.95 * rule.capacity(size, of="with errors")), size)
    exact, overlap = exact_share(cr.Hopfield.from_patterns(patterns), patterns, 23)
    assert exact < 0.5
    assert overlap > 0.95  # 1.6 % of the units wrong is an overlap of 0.968, in large networks
    patterns = random_patterns(size // 5, size)
    assert exact_share(cr.Hopfield.from_patterns(patterns), patterns, 23)[1] < 0.6  # past it, memory is lost


def test_storkey_and_the_pseudo_inverse_up_to_their_capacities():
    size = 200
    patterns = random_patterns(int(Storkey().capacity(size)), size)
    assert exact_share(cr.Hopfield.from_patterns(patterns, Storkey()), patterns, 50)[0] > 0.95
    assert exact_share(cr.Hopfield.from_patterns(patterns), patterns, 50)[0] == 0  # where Hebb's rule has long given up
    patterns = random_patterns(int(PseudoInverse().capacity(size)) - 5, size)
    assert exact_share(cr.Hopfield.from_patterns(patterns, PseudoInverse()), patterns, 50)[0] == 1


@RULES
def test_damaged_patterns_are_repaired(rule):
    patterns = random_patterns(10, 200)
    memory = cr.Hopfield.from_patterns(patterns, rule)
    found = memory.recall(flipped(patterns, 0.15), key=jax.random.key(0))
    assert found.status == RecallStatus.FIXED_POINT
    assert (np.asarray(found.states) == patterns).all()
    assert memory.recall(flipped(patterns, 0.15)[0]).states.shape == (200,)


# Recall


@pytest.mark.parametrize("seed", range(3))
def test_one_by_one_as_by_hand_and_the_energy_never_rises(seed):
    model = cr.Hopfield.random(jax.random.key(seed), 40)
    biases = np.random.default_rng(seed).normal(size=40)
    model = cr.Hopfield(model.couplings, biases)
    probes = random_patterns(5, 40, seed)
    found = model.recall(probes)
    couplings = np.asarray(model.couplings, float)
    for n, probe in enumerate(probes):
        state, energies = recall_by_hand(couplings, biases, probe, range(40))
        np.testing.assert_array_equal(found.states[n], state)
        assert (np.diff(energies) <= 1e-9).all()
        assert found.energies[0, n] == pytest.approx(energy(couplings, biases, probe), rel=1e-4, abs=1e-4)
        assert found.energy[n] == pytest.approx(energies[-1], rel=1e-5)
    assert (np.diff(found.energies, axis=0) <= 1e-5).all()
    assert (np.diff(found.energies, axis=0) < -1e-3).any()


def test_random_orders_go_downhill_to_states_no_flip_improves():
    model = cr.Hopfield.random(jax.random.key(3), 40)
    probes = random_patterns(20, 40)
    found = model.recall(probes, key=jax.random.key(1))
    other = model.recall(probes, key=jax.random.key(2))
    assert found.status == RecallStatus.FIXED_POINT
    assert not (np.asarray(found.states) == other.states).all()
    assert (np.diff(found.energies, axis=0) <= 1e-5).all()
    field = np.asarray(found.states) @ np.asarray(model.couplings)
    assert (np.asarray(found.states) * field >= -1e-5).all()


def test_a_unit_without_a_field_stays_although_its_field_is_rounded():
    rng = np.random.default_rng(0)
    for seed in range(20):  # sums of numbers that cancel exactly, but not in float32
        numbers = rng.normal(size=10).astype(np.float32)
        couplings = np.zeros((21, 21), np.float32)
        couplings[0, 1:] = couplings[1:, 0] = rng.permutation(np.concatenate([numbers, -numbers]))
        first = np.where(seed % 2, 1.0, -1.0)
        ones = np.ones(21)
        ones[0] = first
        strong = cr.Hopfield(couplings, np.where(np.arange(21) == 0, 0.0, 1e3))
        assert float(strong.recall(ones).states[0]) == first


def test_all_at_once_may_go_in_circles():
    pair = cr.Hopfield([[0.0, -1.0], [-1.0, 0.0]])
    together = pair.recall([1, 1], synchronous=True)
    assert together.status == RecallStatus.CYCLE
    assert not together.settled
    assert pair.recall([1, 1]).status == RecallStatus.FIXED_POINT
    assert pair.recall([1, 1]).states.tolist() == [-1, 1]
    both = pair.recall([[1, 1], [1, -1]], synchronous=True)
    assert both.settled.tolist() == [False, True]
    assert both.cycling.tolist() == [True, False]
    patterns = random_patterns(5, 100)
    found = cr.Hopfield.from_patterns(patterns).recall(flipped(patterns, 0.1), synchronous=True)
    assert (np.asarray(found.states) == patterns).all()


def test_too_few_sweeps_are_reported():
    model = cr.Hopfield.random(jax.random.key(0), 40)
    found = model.recall(random_patterns(4, 40), max_sweeps=1)
    assert found.status == RecallStatus.MAX_SWEEPS
    assert "allow more" in found.status.value
    assert found.energies.shape == (2, 4)


def test_energy_and_factor_graph_agree():
    model = cr.Hopfield([[0, 0.5, -1], [0.5, 0, 0], [-1, 0, 0]], [0.3, 0, -0.2], units=("a", "b", "c"))
    states = np.array(list(itertools.product([-1, 1], repeat=3)))
    weight = np.exp(-np.asarray(model.energy(states)))
    for place, name in enumerate(model.units):
        wanted = weight[states[:, place] == 1].sum() / weight.sum()
        assert model.factor_graph().enumerate().marginal(name)[1] == pytest.approx(wanted, rel=1e-5)
    assert float(model.energy(states[0])) == pytest.approx(
        energy(*map(np.asarray, (model.couplings, model.biases)), states[0])
    )


def test_graphs_and_back():
    graph = nx.Graph()
    graph.add_node("a", bias=0.5)
    graph.add_edge("a", "b", weight=-1.0)
    graph.add_edge("b", "c", weight=2.0)
    model = cr.Hopfield.from_graph(graph)
    assert model.units == ("a", "b", "c")
    assert model.couplings.tolist() == [[0, -1, 0], [-1, 0, 2], [0, 2, 0]]
    again = model.graph()
    assert {(u, v): w for u, v, w in again.edges(data="weight")} == {("a", "b"): -1, ("b", "c"): 2}
    assert again.nodes["a"] == {"bias": 0.5}
    assert nx.utils.graphs_equal(again, cr.Hopfield.from_graph(again).graph())
    machine = cr.BoltzmannMachine.from_graph(again)  # the graph says that its weights are for spins
    states = np.array(list(itertools.product([-1, 1], repeat=3)))
    np.testing.assert_allclose(machine.energy(states), model.energy(states), atol=1e-6)
    assert nx.utils.graphs_equal(cr.Hopfield.from_graph(machine.graph()).graph(), again)


def test_one_trace_for_many_values_and_vmap():
    traces = []

    @jax.jit
    def run(model, probe):
        traces.append(None)
        return model.recall(probe).states

    models = [cr.Hopfield.random(jax.random.key(seed), 40) for seed in range(2)]
    probe = jax.device_put(np.float32(random_patterns(1, 40)[0]))
    wanted = [run(model, probe) for model in models]
    assert len(traces) == 1
    batch = jax.tree.map(lambda *leaves: np.stack(leaves), *models)
    np.testing.assert_array_equal(jax.vmap(lambda model: model.recall(probe).states)(batch), np.stack(wanted))
    np.testing.assert_array_equal(models[0].recall(np.asarray(probe)).states, wanted[0])
    slope = jax.jit(jax.grad(lambda model: model.energy(probe)))(models[0])
    np.testing.assert_allclose(slope.couplings, -np.outer(probe, probe) / 2, atol=1e-6)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: cr.Hopfield([[0, 1], [0.5, 0]]), "not symmetric: 0 to 1 is 1, back it is 0.5"),
        (lambda: cr.Hopfield([[0, 1], [1, 2]], units=("a", "b")), "unit 'b' is coupled to itself, by 2"),
        (lambda: cr.Hopfield([[0, np.nan], [np.nan, 0]]), "the coupling of 0 and 1 is nan"),
        (lambda: cr.Hopfield([[0, 1], [1, 0]], [0, np.inf]), "the bias of unit 1 is inf"),
        (lambda: cr.Hopfield(np.zeros((2, 3))), r"shape \(2, 3\)"),
        (lambda: cr.Hopfield(np.zeros((2, 2)), np.zeros(3)), r"2 units ask for \(2,\)"),
        (lambda: cr.Hopfield(np.zeros((2, 2)), units=("a", "a")), "'a' is given to two units"),
        (lambda: cr.Hopfield(np.zeros((2, 2)), units=("a",)), "1 names for 2 units"),
        (lambda: cr.Hopfield.from_patterns([[1, 0], [0, 1]]), r"patterns\[0, 1\] is 0; .*0/1 values are 2 \* x - 1"),
        (lambda: cr.Hopfield.from_patterns([[1, 0.5]]), r"patterns\[0, 1\] is 0.5; units are -1 or \+1 \(round"),
        (lambda: cr.Hopfield.from_patterns([[1, -1]], "hebb"), "rule is 'hebb'; wanted"),
        (
            lambda: cr.Hopfield.from_patterns(np.ma.masked_array([[1, 1]], [[False, True]])),
            r"patterns\[0, 1\] is masked",
        ),
        (lambda: cr.Hopfield.from_patterns([[1, np.nan]]), r"patterns\[0, 1\] is nan"),
        (lambda: cr.Hopfield.from_patterns([1, -1]), r"shape \(2,\)"),
        (lambda: cr.Hopfield.from_patterns(np.zeros((0, 4))), "nothing to store"),
        (lambda: cr.Hopfield.from_graph(nx.DiGraph([(0, 1)])), "both ways"),
        (lambda: cr.Hopfield.from_graph(nx.Graph([(0, 0, {"weight": 1.0})])), "unit 0 has a self-loop"),
        (lambda: cr.Hopfield.from_graph(from_qubo({(0, 1): 1.0})), r"for states \(0, 1\), those of a Hopfield"),
        (lambda: cr.Hopfield.from_graph(from_ising({}, {(0, 1): 1.0}, 3.0)), "constant -3.0"),
        (lambda: cr.Hopfield.from_graph(HIDDEN), "unit 1 is hidden"),
        (lambda: cr.Hopfield.from_graph(nx.Graph([(0, 1)])), "the edge 0 — 1 has no weight"),
        (lambda: cr.Hopfield(np.zeros((2, 2))).recall([1, 1, 1]), r"shape \(3,\)"),
        (lambda: cr.Hopfield(np.zeros((2, 2))).recall([1, 0]), r"probe\[1\] is 0"),
        (lambda: cr.Hopfield(np.zeros((2, 2))).recall([1, 1], max_sweeps=0), "max_sweeps is 0"),
        (lambda: cr.Hopfield(np.zeros((2, 2))).recall([1, 1], key=jax.random.key(0), synchronous=True), "no order"),
        (lambda: cr.Hopfield(np.zeros((2, 2))).energy([0, 1]), r"states\[0\] is 0"),
        (lambda: cr.Hopfield.random(jax.random.key(0), 0), "num_units is 0"),
        (lambda: Hebb().capacity(1), "num_units is 1"),
        (lambda: Hebb().capacity(10, of="all"), "of is 'all'"),
    ],
)
def test_what_cannot_be(build, message):
    with pytest.raises(ValueError, match=message):
        build()
