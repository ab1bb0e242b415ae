"""Window templates, against a slow implementation of plain strings, dicts and loops."""

import json
import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainrule.models.features import TemplateIndex, shape, templates

SENTENCES = [[("the", "DT"), ("dog", "NN"), ("barks", "VB")], [("the", "DT"), ("cat", "NN")]]


# The slow implementation: the name of every attribute of every token, by replacing text.


def expand(text, sentence, t, outside):
    """The attribute's name, or None."""
    missing = []

    def value(match):
        kind, row, column, n = match.groups()
        at = t + int(row)
        if at < 0:
            missing.append(at)
            return f"_B{at}"
        if at >= len(sentence):
            missing.append(at)
            return f"_B+{at - len(sentence) + 1}"
        found = sentence[at][int(column)]
        if kind == "p":
            return found[: int(n)]
        if kind == "s":
            return found[-int(n) :]
        return shape(found) if kind == "shape" else found

    name = re.sub(r"%(\w+)\[([-+]?\d+),(\d+)(?:,(\d+))?\]", value, text)
    if missing and outside is None:
        return None
    return f"{text}={name}" if text.startswith("%") else name


def describe(texts, sentences, outside=None, boundaries=False):
    """Per token, how often each node and each pair attribute is there."""
    node, pair = [], []
    for sentence in sentences:
        for t in range(len(sentence)):
            named = [(text, expand(text, sentence, t, outside)) for text in texts]
            node.append(Counter(name for text, name in named if name is not None and text[0] != "B"))
            if boundaries:
                node[-1].update(["BOS"] * (t == 0) + ["EOS"] * (t == len(sentence) - 1))
            wanted = [name for text, name in named if name is not None and text[0] == "B" and "%" in text]
            pair.append(Counter(wanted if t > 0 else []))
    return node, pair


def frequent(rows, min_count):
    total = sum(rows, Counter())
    return {name for name, count in total.items() if count >= min_count}


def keep(rows, names):
    return [{name: count for name, count in row.items() if name in names} for row in rows]


def named(matrix, table):
    """The matrix as one dict per token."""
    names = table.names()
    assert matrix.shape[1] == table.num_attributes == len(names)
    rows = [{} for _ in range(matrix.shape[0])]
    for t, j in zip(*matrix.nonzero(), strict=True):
        rows[t][names[j]] = matrix[t, j]
    return rows


POOL = [
    "U00:%x[0,0]",
    "U01:%x[-1,0]",
    "U02:%x[2,1]",
    "U03:%x[-1,0]/%x[0,0]",
    "U04:%x[-2,1]/%x[0,0]/%x[1,1]",
    "U05:%x[0,0]/%x[0,1]/%x[1,0]/%x[-1,0]",
    "U06",
    "U:%x[-1,0]",
    "U:%x[0,0]",
    "%x[1,0]",
    "%x[0,0]",
    "word=%x[+1,0] tag=%x[0,1]",
    "%p[0,0,1]",
    "%s[-1,0,2]|%shape[0,0]",
    "B",
    "B00:%x[0,1]",
    "B01:%x[-1,0]/%x[1,0]",
    "B:%x[-3,1]",
]
WORDS = st.sampled_from(["a", "b", "Ab", "ba1", "C", "_B-1"])
SENTENCE = st.lists(st.tuples(WORDS, st.sampled_from("XYZ")), min_size=1, max_size=6)
CORPUS = st.lists(SENTENCE, min_size=1, max_size=5)


@given(
    texts=st.lists(st.sampled_from(POOL), min_size=1, max_size=8, unique=True),
    train=CORPUS,
    test=CORPUS,
    outside=st.sampled_from([None, "boundary"]),
    boundaries=st.booleans(),
    min_count=st.integers(1, 3),
)
def test_fast_is_slow(texts, train, test, outside, boundaries, min_count):
    feature = templates(*texts, outside=outside, boundaries=boundaries, min_count=min_count)
    index, matrices = feature.learn(train)
    learned = describe(texts, train, outside, boundaries)
    asked = describe(texts, test, outside, boundaries)
    for table, matrix, again, rows, test_rows in zip(
        (index.node, index.pair), matrices, index.matrices(test), learned, asked, strict=True
    ):
        names = frequent(rows, min_count)
        assert set(table.names()) == names
        assert named(matrix, table) == keep(rows, names)
        assert named(again, table) == keep(test_rows, names)
        assert [table.find(table.name(j)) for j in range(table.num_attributes)] == list(range(table.num_attributes))
        assert table.binary == (set(matrix.data) <= {1.0})
        assert matrix.has_canonical_format
        assert again.has_canonical_format
    assert feature.transition == ("B" in texts)

    state = index.state()
    json.dumps({key: value for key, value in state.items() if key != "levels"})
    loaded = TemplateIndex.from_state(state)
    for a, b in zip(loaded.matrices(test), index.matrices(test), strict=True):
        assert (a != b).nnz == 0
    assert loaded.node.names() == index.node.names()
    assert loaded.node.binary == index.node.binary


def test_many_tokens_and_long_windows_agree_too():
    rng = np.random.default_rng(0)
    words = [f"w{i}" for i in range(300)]
    train, test = (
        [[(words[i], "XYZ"[i % 3]) for i in rng.integers(0, top, n)] for n in rng.integers(1, 30, 60)]
        for top in (200, 300)
    )
    texts = ["U0:%x[0,0]", "U1:%x[0,1]/%x[1,1]", "U2:" + "/".join(f"%x[{r},0]" for r in range(-9, 9))]
    index, matrices = templates(*texts, outside="boundary").learn(train)
    assert 200**18 > 2**63  # the tuples' numbers would not fit 64 bits at once
    assert named(matrices.node, index.node) == describe(texts, train, "boundary")[0]
    assert named(index.matrices(test).node, index.node) == keep(
        describe(texts, test, "boundary")[0], set(index.node.names())
    )


def test_a_crfpp_file():
    feature = templates("""
        # Unigram
        U00:%x[-1,0]
        U01:%x[0,0]/%x[0,1]

        # Bigram
        B
    """)
    index, matrices = feature.learn(SENTENCES)
    assert index.node.names() == ["U00:the", "U00:dog", "U01:the/DT", "U01:dog/NN", "U01:barks/VB", "U01:cat/NN"]
    assert matrices.node.toarray().tolist() == [
        [0, 0, 1, 0, 0, 0],
        [1, 0, 0, 1, 0, 0],
        [0, 1, 0, 0, 1, 0],
        [0, 0, 1, 0, 0, 0],
        [1, 0, 0, 0, 0, 1],
    ]
    assert feature.transition
    assert matrices.pair.shape == (5, 0)
    assert repr(feature) == "Templates(3 templates)"
    assert repr(index) == "TemplateIndex(6 attributes)"


def test_padding_is_that_of_crfpp():
    index, _ = templates("U0:%x[-2,0]/%x[2,0]", outside="boundary").learn([["a"], ["a", "b", "c"]])
    assert sorted(index.node.names()) == ["U0:_B-1/_B+1", "U0:_B-2/_B+2", "U0:_B-2/c", "U0:a/_B+2"]


def test_pair_attributes_describe_steps():
    index, matrices = templates("B0:%x[0,1]", "U0:%x[0,0]").learn(SENTENCES)
    assert index.pair.names() == ["B0:NN", "B0:VB"]  # DT is only seen where no step ends
    assert matrices.pair.toarray().tolist() == [[0, 0], [1, 0], [0, 1], [0, 0], [1, 0]]


def test_a_bag_of_words_counts():
    index, matrices = templates("U:%x[-1,0]", "U:%x[0,0]").learn([["a", "a", "b"]])
    assert index.node.names() == ["U:a", "U:b"]
    assert matrices.node.toarray().tolist() == [[1, 0], [2, 0], [1, 1]]
    assert not index.node.binary


def test_values_are_compared_one_by_one():
    index, matrices = templates("U:%x[0,0]/%x[0,1]").learn([[("a/b", "c"), ("a", "b/c")]])
    assert index.node.names() == ["U:a/b/c", "U:a/b/c"]
    assert matrices.node.toarray().tolist() == [[1, 0], [0, 1]]
    assert index.node.find("U:a/b/c") == 0


def test_kinds_of_tokens():
    text = "%x[-1,0]/%x[0,0]"
    wanted = templates(text).learn([["a", "b"], ["c"]])[1].node.toarray().tolist()
    for make in (lambda w: (w, "X"), lambda w: [w], lambda w: np.array([w, "X"])):
        assert templates(text).learn([[make("a"), make("b")], [make("c")]])[1].node.toarray().tolist() == wanted
    index, matrices = templates("%x[-1,word]/%x[0,word]", "%x[0,upper]").learn(
        [[{"word": "a", "upper": False}, {"word": "b", "upper": 3}], [{"word": "c", "upper": "False"}]]
    )
    assert index.node.names() == ["%x[-1,word]/%x[0,word]=a/b", "%x[0,upper]=False", "%x[0,upper]=3"]
    assert matrices.node.toarray().tolist() == [[0, 1, 0], [1, 0, 1], [0, 1, 0]]


def test_the_dtype_is_what_one_asks_for():
    index, matrices = templates("%x[0,0]", "B1:%x[0,0]").learn([["a"]], dtype=np.float32)
    assert {m.dtype for m in matrices} == {np.dtype("float32")}
    assert {m.dtype for m in index.matrices([["b"]])} == {np.dtype("float64")}


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["U0:%x[0,0]", "U1:%y[0,0]"], r"template 2, 'U1:%y\[0,0\]': cannot read '%y"),
        (["# one\n\nU0:%x[0]"], "template 1, .*wanted %x"),
        (["%x[a,0]"], "cannot read"),
        (["%x[0,0,2]"], "cannot read"),
        (["%p[0,0]"], "n from 1"),
        (["%s[0,0,0]"], "n from 1"),
        (["100%"], "cannot read '%'"),
        (["word"], "refers to nothing"),
        (["U0:%x[0,0]", "U0:%x[0,0]"], "template 2, .*there already"),
        (["U:%x[0,0]", "U:%x[0,1]"], "template 2, .*same names as those of 'U:%x"),
        ([], "no templates"),
        (["# nothing"], "no templates"),
        ([3], "a template is a int"),
    ],
)
def test_templates_that_cannot_be_read(texts, message):
    with pytest.raises(ValueError, match=message):
        templates(*texts)


@pytest.mark.parametrize(
    ("text", "sentences", "message"),
    [
        ("%x[0,1]", [[("a", "X")], [("b", "X"), ("c",)]], r"%x\[0,1\].*column 1, which token 1 of sentence 1 lacks"),
        ("%x[0,tag]", [[{"tag": "X"}, {"word": "a"}]], "column 'tag', which token 1 of sentence 0 lacks"),
        ("%x[0,tag]", [[("a", "X")]], "token 0 of sentence 0 lacks"),
        ("%x[0,1]", [["a"]], "tokens are strings"),
        ("%x[0,0]", [["a"], ["b", ("c",)]], "token 1 of sentence 1 is .*the first token is a string"),
        ("%x[0,0]", [[1]], "token 0 of sentence 0 is 1; wanted"),
        ("%x[0,0]", [[("a",), (None,)]], "column 0 of token 1 of sentence 0 is None"),
        ("%x[0,0]", [[(2.5,)]], "real values"),
        ("%x[0,0]", [["a"], []], "sentence 1 is empty"),
        ("%x[0,0]", [], "no sentences"),
        ("%x[0,0]", ["the dog"], r"sentence 0 is the string 'the dog'.*sentence\.split\(\)"),
        ("%x[0,0]", "the dog", "wanted a list of sentences"),
        ("%x[0,0]", [{"word": "a"}], "sentence 0 is a dict"),
        ("%x[0,0]", [3], "sentence 0 is a int"),
    ],
)
def test_sentences_that_cannot_be_read(text, sentences, message):
    with pytest.raises(ValueError, match=message):
        templates(text).learn(sentences)


@pytest.mark.parametrize(
    ("sentences", "message"),
    [
        ([["a"], ["b"]], "template '%x.0,1.' reads column 1, but the tokens are strings"),
        ([[("a", "X"), ("b",)]], "token 1 of sentence 0 lacks"),
        ([[("a", "X")], []], "sentence 1 is empty"),
        ([], "no sentences"),
        (["ab"], "sentence 0 is the string 'ab'"),
    ],
)
def test_sentences_are_checked_at_prediction_too(sentences, message):
    index, _ = templates("%x[0,0]", "%x[0,1]").learn(SENTENCES)
    with pytest.raises(ValueError, match=message):
        index.matrices(sentences)


def test_questions_about_attributes_that_are_not_there():
    index, _ = templates("U0:%x[0,0]").learn([["a"]])
    with pytest.raises(ValueError, match="no attribute is called 'b'; names look like 'U0:a'"):
        index.node.find("b")
    with pytest.raises(ValueError, match="there is no attribute 1; wanted 0 … 0"):
        index.node.name(1)
    with pytest.raises(ValueError, match="there are none"):
        index.pair.find("b")
    with pytest.raises(ValueError, match="outside is 'pad'"):
        templates("%x[0,0]", outside="pad")


@pytest.mark.parametrize(
    "levels",
    [[[np.array([1, 0])]], [[np.array([0, 7])]], [[np.array([0.0])]], [[np.array([0]), np.array([0])]], [[]]],
    ids=["unsorted", "too large", "not integers", "too many", "none"],
)
def test_a_damaged_state_is_refused(levels):
    index, _ = templates("U0:%x[0,0]").learn([["a", "b"]])
    with pytest.raises(ValueError, match="level"):
        TemplateIndex.from_state(index.state() | {"levels": [levels, []]})
