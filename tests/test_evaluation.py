"""Scores of predicted labels: conlleval's definition, checked against a literal transcription of its rules."""

import dataclasses
import time
import timeit
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import chainrule as cr
from chainrule.evaluation import SpanScore, span_scores, spans, token_accuracy

TAGS = ["O", "B-A", "I-A", "B-B", "I-B"]
BIOES_TAGS = [*TAGS, "E-A", "S-A", "E-B"]


def spans_by_borders(tags, scheme):
    """Decide at each border between two tokens, from these two alone, whether a span ends and whether one starts."""
    found, start = [], None
    padded = ["O", *tags, "O"]
    for i in range(1, len(padded)):
        (before, _, old), (now, _, new) = padded[i - 1].partition("-"), padded[i].partition("-")
        together = before != "O" and now != "O" and old == new and now not in "BS" and before not in "ES"
        if start is not None and not together:
            found.append((old, start, i - 1))
            start = None
        if now != "O" and not together:
            start = i - 1
    return found


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(BIOES_TAGS), max_size=8), st.sampled_from(["IOB", "BIOES"]))
def test_spans_follow_from_the_borders(tags, scheme):
    if scheme == "IOB":
        tags = [tag for tag in tags if tag in TAGS]
    assert spans(tags, scheme=scheme) == spans_by_borders(tags, scheme)


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ([], []),
        (["O", "O"], []),
        (["I-A", "O"], [("A", 0, 1)]),  # a stray I opens a span
        (["B-A", "I-B", "I-B"], [("A", 0, 1), ("B", 1, 3)]),  # a new type opens a span
        (["I-A", "I-A", "B-A", "I-A"], [("A", 0, 2), ("A", 2, 4)]),  # IOB1: B between neighbours of one type
        (["B-A", "B-A"], [("A", 0, 1), ("A", 1, 2)]),
        (["B-a-b", "I-a-b"], [("a-b", 0, 2)]),
        (["B", "I", "O"], [("", 0, 2)]),
    ],
)
def test_spans_in_iob(tags, expected):
    assert spans(tags) == expected


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        (["S-A", "S-A"], [("A", 0, 1), ("A", 1, 2)]),
        (["B-A", "I-A", "E-A", "O"], [("A", 0, 3)]),
        (["B-A", "E-A", "I-A"], [("A", 0, 2), ("A", 2, 3)]),  # E closes, so I opens
        (["B-A", "S-A"], [("A", 0, 1), ("A", 1, 2)]),
        (["B-A", "E-B"], [("A", 0, 1), ("B", 1, 2)]),
        (["B-A", "O"], [("A", 0, 1)]),  # never closed
    ],
)
def test_spans_in_bioes(tags, expected):
    assert spans(tags, scheme="BIOES") == expected


def test_strays_count_and_tokens_are_another_matter():
    gold = [["B-A", "I-A", "O"], ["I-B", "B-B"]]
    predicted = [["B-A", "O", "O"], ["B-B", "I-C"]]
    scores = span_scores(gold, predicted)
    assert scores.precision == scores.recall == scores.f1 == pytest.approx(1 / 3)
    assert scores.token_accuracy == token_accuracy(gold, predicted) == pytest.approx(2 / 5)
    assert scores.types == {"A": SpanScore(0, 1, 1), "B": SpanScore(1, 1, 2), "C": SpanScore(0, 1, 0)}
    assert scores["B"].recall == 0.5
    assert dataclasses.is_dataclass(scores)
    with pytest.raises(dataclasses.FrozenInstanceError):
        scores.token_accuracy = 1.0


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.tuples(st.sampled_from(TAGS), st.sampled_from(TAGS)), max_size=6), min_size=1, max_size=4))
def test_scores_are_those_of_sets_of_spans(pairs):
    gold, predicted = [[a for a, _ in s] for s in pairs], [[b for _, b in s] for s in pairs]
    true, found = (
        {(n, *span) for n, tags in enumerate(side) for span in spans_by_borders(tags, "IOB")}
        for side in (gold, predicted)
    )
    scores = span_scores(gold, predicted)
    assert scores.overall == SpanScore(len(true & found), len(found), len(true))
    assert sum(s.support for s in scores.types.values()) == len(true)
    perfect = span_scores(gold, gold)
    assert perfect.f1 == (1.0 if true else 0.0)
    harmonic = 2 * scores.precision * scores.recall
    assert scores.f1 * (scores.precision + scores.recall) == pytest.approx(harmonic)


def test_nothing_over_nothing_is_zero():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = span_scores([["O"]], [["O"]])
        assert (scores.precision, scores.recall, scores.f1, scores.types) == (0.0, 0.0, 0.0, {})
        assert token_accuracy([], []) == 0.0
        assert span_scores([], []).token_accuracy == 0.0


def test_a_flat_sentence_and_arrays_are_understood():
    gold, predicted = ["B-A", "I-A", "O"], ["B-A", "I-A", "B-A"]
    expected = span_scores([gold], [predicted])
    assert span_scores(gold, predicted) == expected
    assert span_scores(np.array(gold), np.array(predicted, object)) == expected
    assert span_scores([np.array(gold)], [tuple(predicted)]) == expected
    assert token_accuracy(np.array([[0, 1], [2, 3]]), [[0, 1], [2, 2]]) == 0.75


def test_the_table_shows_every_type_and_the_total():
    shown = repr(span_scores([["B-NP", "B-VP"]], [["B-NP", "O"]])).splitlines()
    assert [line.split() for line in shown] == [
        ["precision", "recall", "f1", "support"],
        ["NP", "1.0000", "1.0000", "1.0000", "1"],
        ["VP", "0.0000", "0.0000", "0.0000", "1"],
        ["overall", "1.0000", "0.5000", "0.6667", "2"],
        ["token", "accuracy", "0.5000"],
    ]


@pytest.mark.parametrize(
    ("gold", "predicted", "message"),
    [
        ([["O"], ["O", "O"]], [["O"], ["O"]], "sentence 1: gold has 2 labels, predicted has 1"),
        ([["O"], ["O"]], [["O"]], "gold has 2 sentences, predicted has 1"),
        (["O", "O"], ["O"], "sentence 0: gold has 2 labels"),
        (["O"], [["O"]], "gold is one flat sentence but predicted has a list"),
        ([["O"], "O"], [["O"], ["O"]], "gold mixes sentences and labels: entry 1 is 'O'"),
        ("O", ["O"], "gold is the string 'O'"),
    ],
)
@pytest.mark.parametrize("score", [token_accuracy, span_scores])
def test_what_does_not_align_is_named(score, gold, predicted, message):
    with pytest.raises(ValueError, match=message):
        score(gold, predicted)


@pytest.mark.parametrize(
    ("tag", "message"),
    [
        ("NP", "sentence 1: label 'NP' at position 1 does not fit IOB"),
        ("E-A", "label 'E-A'.*scheme='BIOES'"),
        ("O-A", "label 'O-A'"),
        (None, "label None"),
        (3, "label 3"),
    ],
)
def test_a_label_outside_the_scheme_is_named(tag, message):
    with pytest.raises(ValueError, match=message):
        span_scores([["O"], ["O", "O"]], [["O"], ["O", tag]])


def test_unknown_names_are_named():
    with pytest.raises(ValueError, match="scheme is 'BILOU'"):
        spans(["O"], scheme="BILOU")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"no span has type 'X'.*\['A'\]"):
        _ = cr.evaluation.span_scores(["B-A"], ["B-A"])["X"]


def _seconds(gold):
    assert 0 < span_scores(gold, gold[::-1]).f1 < 1
    return min(timeit.repeat(lambda: span_scores(gold, gold[::-1]), number=1, repeat=3, timer=time.process_time))


def test_time_grows_with_the_number_of_tokens():
    rng = np.random.default_rng(0)
    gold = [rng.choice(TAGS, 24).tolist() for _ in range(2000)]
    few, many = (_seconds(gold[:count]) for count in (200, 2000))
    assert many < 30 * few  # ten times the tokens; quadratic work would take a hundred times as long
