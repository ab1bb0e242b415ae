"""Attributes made by users, against a slow implementation of plain dicts."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainrule.models.features import AttributeIndex, attributes, shape, suffix, window


def spell(token):
    """What one token says: name → value, by the rules and nothing else."""
    said = {}
    if isinstance(token, str):
        token = [token]
    if isinstance(token, list | tuple | set):
        for name in token:
            said[name] = said.get(name, 0) + 1
        return said
    for name, value in token.items():
        if isinstance(value, str):
            said[f"{name}={value}"] = said.get(f"{name}={value}", 0) + 1
        elif value:
            said[name] = said.get(name, 0) + float(value)
    return said


def keep(rows, names):
    return [{name: value for name, value in row.items() if name in names} for row in rows]


def named(matrix, table):
    names = table.names()
    rows = [{} for _ in range(matrix.shape[0])]
    for t, j in zip(*matrix.nonzero(), strict=True):
        rows[t][names[j]] = matrix[t, j]
    return rows


NAME = st.sampled_from(["a", "b", "c", "a=x", "dé"])
VALUE = st.sampled_from(["x", "y", "", True, False, np.True_, 1, 0, 1.0, 2.5, -3, np.float32(0.5)])
WORD = st.sampled_from(["x", "y", True, False])


def corpus(token):
    return st.lists(st.lists(token, min_size=1, max_size=4), min_size=1, max_size=4)


TOKENS = [st.dictionaries(NAME, WORD), st.dictionaries(NAME, VALUE), st.lists(NAME), st.sets(NAME), NAME]


@given(
    both=st.one_of([st.tuples(corpus(token), corpus(token)) for token in TOKENS]),
    min_count=st.integers(1, 3),
    transitions=st.booleans(),
    by_function=st.booleans(),
)
def test_fast_is_slow(both, min_count, transitions, by_function):
    train, test = both
    extract = (lambda sentence, i: sentence[i]) if by_function else None
    index, matrices = attributes(extract, min_count=min_count, transitions=transitions).learn(train)

    learned, asked = (
        [spell(x) if i or not transitions else {} for sentence in data for i, x in enumerate(sentence)]
        for data in (train, test)
    )
    used, empty = (1, 0) if transitions else (0, 1)
    table = (index.node, index.pair)[used]
    names = {name for row in learned for name in row}
    names = {name for name in names if sum(name in row for row in learned) >= min_count}
    assert set(table.names()) == names
    assert named(matrices[used], table) == keep(learned, names)
    for _ in range(2):  # the second time, entries of dicts are remembered
        assert named(index.matrices(test)[used], table) == keep(asked, names)
    assert matrices[empty].shape == (len(learned), 0)
    assert (index.node, index.pair)[empty].num_attributes == 0
    assert table.binary == (set(matrices[used].data) <= {1.0})
    assert matrices[used].has_canonical_format

    loaded = AttributeIndex.from_state(json.loads(json.dumps(index.state())), code=extract)
    assert (loaded.matrices(test)[used] != index.matrices(test)[used]).nnz == 0
    assert (loaded.node, loaded.pair)[used].binary == table.binary


def test_attributes_are_numbered_as_they_appear():
    index, matrices = attributes().learn([[{"word": "the", "upper": True}, {"word": "a", "size": 2.5}]])
    assert index.node.names() == ["word=the", "upper", "word=a", "size"]
    assert matrices.node.toarray().tolist() == [[1, 1, 0, 0], [0, 0, 1, 2.5]]
    assert [index.node.find(index.node.name(j)) for j in range(4)] == [0, 1, 2, 3]
    assert repr(index) == "AttributeIndex(4 attributes)"
    assert repr(index.node) == "NameTable(4 attributes)"
    assert repr(index.feature) == "Attributes()"


def test_a_value_seen_as_true_may_be_a_number_later():
    index, _ = attributes().learn([[{"n": True}]])
    assert index.node.binary
    assert index.matrices([[{"n": 7, "other": 2}]]).node.toarray().tolist() == [[7.0]]


def test_sets_are_numbered_alike_in_every_process():
    code = (
        "from chainrule.models.features import attributes; "
        "print(attributes().learn([[set('fedcba'), frozenset('xyzu')]])[0].node.names())"
    )

    def run(seed):
        env = os.environ | {"PYTHONHASHSEED": seed}
        return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout

    assert run("1") == run("2") == f"{list('abcdef') + list('uxyz')}\n"


def test_what_is_remembered_is_bounded():
    index, _ = attributes().learn([[{"a": "x", "b": True}]])
    index.matrices([[{"a": f"{i}", f"n{i}": "x", f"m{i}": True} for i in range(50)]])
    assert sum(map(len, index.node.entries.values())) == 0
    index.matrices([[{"a": "x", "b": True}, {"a": "x", "b": False}]])
    assert sum(map(len, index.node.entries.values())) == 3


def test_an_extract_function_of_three_lines():
    def extract(words, i):
        around = window(words, i, 1)
        return around | {"suffix": suffix(words[i], 2), "shape": shape(words[i]), "first": i == 0}

    index, matrices = attributes(extract).learn([["Rolls", "Royce"]])
    assert index.node.names() == [
        "word[0]=Rolls",
        "word[1]=Royce",
        "suffix=ls",
        "shape=Xx",
        "first",
        "word[-1]=Rolls",
        "word[0]=Royce",
        "suffix=ce",
    ]
    assert matrices.node.toarray().tolist() == [[1, 1, 1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 0, 1, 1, 1]]
    assert repr(index.feature) == "Attributes(extract)"


@pytest.mark.parametrize(
    ("sentences", "message"),
    [
        ([[{"a": 1.0}], [{"b": "x"}, {"a": float("nan")}]], "token 1 of sentence 1: attribute 'a' is nan; wanted"),
        ([[{"a": float("-inf")}]], "attribute 'a' is -inf"),
        ([[{"a": None}]], "attribute 'a' is None.*leave out what is missing"),
        ([[{"a": ["x"]}]], r"attribute 'a' is \['x'\]"),
        ([[{"a": "x", 3: "y"}]], "token 0 of sentence 0 has the attribute 3; the name"),
        ([["a"], [["b"]]], "token 0 of sentence 1 is .*the first token is a string"),
        ([[["a"], {"b": True}]], "token 1 of sentence 0 is .*the first token is a list of names"),
        ([[None]], "token 0 of sentence 0 is None; wanted"),
        ([[["a", "b"], ["c", 3]]], "token 1 of sentence 0 has the attribute 3"),
        ([[["a", ["b"]]]], r"token 0 of sentence 0 has the attribute \['b'\]"),
        ([[]], "sentence 0 is empty"),
        ([], "no sentences"),
        (["the dog"], "sentence 0 is the string"),
    ],
)
def test_what_cannot_be_read(sentences, message):
    with pytest.raises(ValueError, match=message):
        attributes().learn(sentences)
    index, _ = attributes().learn([[{"a": "x", "b": 0.5, "c": True}]])
    with pytest.raises(ValueError, match=message):
        index.matrices(sentences)


def test_a_function_that_describes_badly_is_told_where():
    with pytest.raises(ValueError, match="token 1 of sentence 0 is 3"):
        attributes(lambda sentence, i: "a" if i == 0 else 3).learn([["x", "y"]])


def test_a_state_with_a_name_twice_is_refused():
    index, _ = attributes().learn([["a", "b"]])
    with pytest.raises(ValueError, match="twice"):
        AttributeIndex.from_state(index.state() | {"names": ["a", "a"]})


def test_questions_about_attributes_that_are_not_there():
    index, _ = attributes().learn([["a"]])
    with pytest.raises(ValueError, match="no attribute is called 'b'; names look like 'a'"):
        index.node.find("b")
    with pytest.raises(ValueError, match="there is no attribute -1"):
        index.node.name(-1)
