"""Label graphs against the schemes themselves: a path through the graph is a sequence that some spans would give."""

import itertools

import networkx as nx
import pytest

import chainrule as cr
from chainrule.graphs import bio_graph, bioes_graph

BIO = ["O", "B-X", "I-X", "B-Y", "I-Y"]
BIOES = ["O", "B-X", "I-X", "E-X", "S-X", "B-Y", "E-Y"]


def write_bio(length, name):
    return [f"B-{name}"] + [f"I-{name}"] * (length - 1)


def write_bioes(length, name):
    return [f"S-{name}"] if length == 1 else [f"B-{name}", *[f"I-{name}"] * (length - 2), f"E-{name}"]


def every_tagging(length, write):
    """All sequences of labels that spans of types X and Y, side by side, can give."""
    if length == 0:
        return {()}
    found = {("O", *rest) for rest in every_tagging(length - 1, write)}
    for size, name in itertools.product(range(1, length + 1), "XY"):
        found |= {(*write(size, name), *rest) for rest in every_tagging(length - size, write)}
    return found


def every_path(graph, length):
    initial, final = (nx.get_node_attributes(graph, name) for name in ("initial", "final"))
    return {
        path
        for path in itertools.product(graph, repeat=length)
        if initial[path[0]] and final[path[-1]] and all(graph.has_edge(*step) for step in itertools.pairwise(path))
    }


@pytest.mark.parametrize(("make", "labels", "write"), [(bio_graph, BIO, write_bio), (bioes_graph, BIOES, write_bioes)])
@pytest.mark.parametrize("length", [1, 2, 3, 4])
def test_paths_are_the_sequences_that_spans_give(make, labels, write, length):
    expected = {tags for tags in every_tagging(length, write) if set(tags) <= set(labels)}
    assert every_path(make(labels), length) == expected


@pytest.mark.parametrize(("make", "labels"), [(bio_graph, BIO), (bioes_graph, BIOES)])
def test_nodes_keep_the_order_of_the_labels(make, labels):
    assert list(make(reversed(labels))) == labels[::-1]
    flags = [type(value) for _, data in make(labels).nodes(data=True) for value in (data["initial"], data["final"])]
    assert set(flags) == {bool}


def test_letters_alone_are_spans_without_a_type():
    assert not bio_graph(["B", "I", "O"]).has_edge("O", "I")
    assert list(bioes_graph(["B", "I", "E", "S"]).successors("B")) == ["I", "E"]


def test_a_type_may_contain_hyphens():
    assert list(bio_graph(["B-a-b", "I-a-b", "B-a"]).predecessors("I-a-b")) == ["B-a-b", "I-a-b"]


def test_the_allowed_steps_are_the_structure_of_a_chain():
    graph = bio_graph(["O", "B-X", "I-X"])
    nx.set_node_attributes(graph, {"O": 1.0, "B-X": 0.0, "I-X": 0.0}, "initial")
    assert cr.TransitionGraph.from_networkx(graph).mask.tolist() == [[True, True, False], [True] * 3, [True] * 3]


@pytest.mark.parametrize(
    ("make", "labels", "message"),
    [
        (bio_graph, ["O", "X"], "label 'X' does not fit BIO"),
        (bio_graph, ["O", "E-X"], "label 'E-X' does not fit BIO.*bioes_graph"),
        (bio_graph, ["O-X"], "label 'O-X' does not fit BIO"),
        (bio_graph, ["-X"], "label '-X' does not fit"),
        (bio_graph, ["O", 3], "label 3 does not fit"),
        (bioes_graph, ["O", "L-X"], "label 'L-X' does not fit BIOES"),
        (bio_graph, ["O", "I-X"], "no sequence can contain label 'I-X', because 'B-X' is not"),
        (bioes_graph, ["O", "B-X", "I-X"], "no sequence can contain label 'B-X', because 'E-X' is not"),
        (bioes_graph, ["O", "E"], "no sequence can contain label 'E', because 'B' is not"),
        (bio_graph, ["O", "B-X", "O"], "label 'O' is there twice"),
        (bio_graph, [], "no labels"),
        (bio_graph, "BIO", "the string 'BIO'"),
    ],
)
def test_what_does_not_fit_is_named(make, labels, message):
    with pytest.raises(ValueError, match=message):
        make(labels)
