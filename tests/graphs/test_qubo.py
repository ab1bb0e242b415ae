"""QUBO and Ising problems in and out, with their energies and constants."""

import itertools

import networkx as nx
import numpy as np
import pytest

import chainrule as cr
from chainrule.graphs.formats.qubo import from_ising, from_qubo, read_coo, to_ising, to_qubo, write_coo

QUBO = {("a", "a"): -1.5, ("a", "b"): 2.0, ("b", "a"): 0.25, ("b", "c"): -0.75, ("c", "c"): 0.5}


def qubo_energy(qubo, offset, x):
    return sum(value * x[i] * x[j] for (i, j), value in qubo.items()) + offset


def ising_energy(h, couplings, offset, s):
    return sum(v * s[i] for i, v in h.items()) + sum(v * s[i] * s[j] for (i, j), v in couplings.items()) + offset


def test_energies_are_kept_both_ways_constants_included():
    graph = from_qubo(QUBO, offset=0.3)
    machine = cr.BoltzmannMachine.from_graph(graph)
    assert machine.states == (0, 1)
    back = to_qubo(graph)
    ising = to_ising(graph)
    again = to_qubo(from_ising(*ising))
    for bits in itertools.product((0, 1), repeat=3):
        x = dict(zip(machine.nodes, bits, strict=True))
        s = {name: 2 * bit - 1 for name, bit in x.items()}
        wanted = qubo_energy(QUBO, 0.3, x)
        assert float(machine.energy(np.array(bits))) == pytest.approx(wanted, abs=1e-6)
        assert qubo_energy(*back, x) == pytest.approx(wanted, abs=1e-12)
        assert ising_energy(*ising, s) == pytest.approx(wanted, abs=1e-12)
        assert qubo_energy(*again, x) == pytest.approx(wanted, abs=1e-12)
        spins = cr.BoltzmannMachine.from_graph(from_ising(*ising))
        assert float(spins.energy(np.array([s[name] for name in spins.nodes]))) == pytest.approx(wanted, abs=1e-5)


def test_text_and_back():
    text = "# vartype=SPIN\n# a comment\n0 0 0.5\n\n1 2 -1.25\n0 2 3e-2\n"
    graph = read_coo(text)
    assert graph.graph["states"] == (-1, 1)
    assert to_ising(graph)[0] == {0: 0.5, 1: 0.0, 2: 0.0}
    assert to_ising(graph)[1] == {(1, 2): -1.25, (0, 2): 0.03} or to_ising(graph)[1] == {(0, 2): 0.03, (1, 2): -1.25}
    again = read_coo(write_coo(graph))
    assert to_ising(again) == to_ising(graph)
    bits = from_qubo(QUBO)
    assert read_coo(write_coo(bits)).graph["states"] == (0, 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 0 1\n", "vartype=BINARY"),
        ("# vartype=SPIN\n0 1\n", "line 2: '0 1'"),
        ("# vartype=SPIN\n0 1 nan\n", "line 2.*finite"),
        ("# vartype=SPIN\n0 1 2 3\n", "line 2"),
        ("# vartype=SPIN\n-1 1 2\n", "from 0 on"),
        ("# vartype=SPIN\n0 1 2\n1 0 2\n", "line 3: the pair 1 0"),
        ("# vartype=SPINS\n0 1 2\n", "line 1: vartype is 'SPINS'"),
        ("# vartype=SPIN\n# vartype=BINARY\n", "line 2"),
        ("# vartype=SPIN\n", "without nodes"),
    ],
)
def test_text_is_read_strictly(text, message):
    with pytest.raises(ValueError, match=message):
        read_coo(text)


def test_coefficients_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="finite"):
        from_qubo({("a", "b"): float("nan")})
    with pytest.raises(ValueError, match="coupled with itself"):
        from_ising({}, {("a", "a"): 1.0})
    with pytest.raises(ValueError, match="constant of 'the graph' is nan"):
        from_qubo({("a", "b"): 1.0}, offset=float("nan"))
    for convert in (to_qubo, to_ising, write_coo, cr.BoltzmannMachine.from_graph):
        with pytest.raises(ValueError, match=r"states are \(1, -1\)"):
            convert(nx.Graph([("a", "b")], states=(1, -1)))


def test_whole_numbers_keep_their_names_as_text():
    text = "# vartype=SPIN\n5 2 1.0\n0 2 -3.0\n"
    assert to_ising(read_coo(write_coo(read_coo(text)))) == to_ising(read_coo(text))
    for names in (("a", "b"), (-1, 3), (True, 2), (0.5, 1)):  # anything else is numbered
        again = read_coo(write_coo(from_ising({}, {names: 1.0})))
        assert list(again) == [0, 1]
    numpy = from_ising({}, {(np.int64(7), np.int64(3)): 1.0})
    assert list(read_coo(write_coo(numpy))) == [7, 3]
