"""How good predictions are: labels by token and by span, ratings by error and by rank.

A span is a stretch of tokens with a type, written as labels: B-X begins one, I-X is inside, O is outside. A predicted
span counts as correct where the gold labels have a span of the same type from the same start to the same stop:

    precision = correct / predicted      recall = correct / support      F1 = 2 · correct / (predicted + support)

The definition is that of the CoNLL-2000 shared task and its script conlleval. Every sequence of labels has spans, also
one that breaks its scheme: where an I-X does not go on with a span of type X, it begins one. IOB1, where B-X is written
only between neighbouring spans of one type, is read rightly by that rule too. What is 0/0 counts as 0, as in conlleval.

Reference: Tjong Kim Sang and Buchholz, "Introduction to the CoNLL-2000 Shared Task: Chunking", CoNLL 2000.

Ratings are tables (user, item) with NaN where there is none. `rating_scores` says how far predicted grades are off where
there is one; `ranking_scores` how good the items at the top of each user's list are.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import ArrayLike, Bool, Float

Scheme = Literal["IOB", "BIOES"]
Span = tuple[str, int, int]


@dataclass(frozen=True)
class SpanScore:
    """How many spans there are and how many were found.

    Attributes:
        correct: predicted spans that are gold spans, boundaries and type.
        predicted: predicted spans.
        support: gold spans.
    """

    correct: int
    predicted: int
    support: int

    @property
    def precision(self) -> float:
        """The share of predicted spans that are correct; 0 if there are none."""
        return _ratio(self.correct, self.predicted)

    @property
    def recall(self) -> float:
        """The share of gold spans that were predicted; 0 if there are none."""
        return _ratio(self.correct, self.support)

    @property
    def f1(self) -> float:
        """The harmonic mean of precision and recall; 0 if there are no spans."""
        return _ratio(2 * self.correct, self.predicted + self.support)


@dataclass(frozen=True, repr=False)
class SpanScores:
    """What `span_scores` returns: the score over all spans, and by type as `scores["NP"]`; its repr is a table.

    Attributes:
        overall: the score over the spans of all types, also known as micro average.
        types: the score of each type that is in the gold or the predicted labels, by name.
        token_accuracy: the share of tokens whose label is right, whatever it is.
    """

    overall: SpanScore
    types: dict[str, SpanScore]
    token_accuracy: float

    @property
    def precision(self) -> float:
        """Overall precision."""
        return self.overall.precision

    @property
    def recall(self) -> float:
        """Overall recall."""
        return self.overall.recall

    @property
    def f1(self) -> float:
        """Overall F1."""
        return self.overall.f1

    def __getitem__(self, type_: str) -> SpanScore:
        if type_ not in self.types:
            raise ValueError(f"no span has type {type_!r}; the types are {list(self.types)}")
        return self.types[type_]

    def __repr__(self):
        rows = [*self.types.items(), ("overall", self.overall)]
        width = max(len("token accuracy"), *(len(name) for name, _ in rows))
        lines = [f"{'':{width}}  precision  recall      f1  support"]
        for name, s in rows:
            lines.append(f"{name:{width}}  {s.precision:9.4f}  {s.recall:6.4f}  {s.f1:6.4f}  {s.support:7d}")
        return "\n".join([*lines, f"{'token accuracy':{width}}  {self.token_accuracy:9.4f}"])


def token_accuracy(gold: Sequence, predicted: Sequence) -> float:
    """Return the share of tokens whose predicted label is the gold label; 0 if there are no tokens.

    Args:
        gold: the right labels, of any kind: a list (or array) per sentence, or one flat list for a single sentence.
        predicted: the predicted labels, in the same form.

    Raises:
        ValueError: a different number of sentences, or a sentence of different length, which is named.

    Example:
        >>> import chainrule as cr
        >>> cr.evaluation.token_accuracy([["DET", "NOUN"], ["VERB", "ADV"]], [["DET", "VERB"], ["VERB", "ADV"]])
        0.75
    """
    return _accuracy(_aligned(gold, predicted))


def spans(tags: Iterable[str], *, scheme: Scheme = "IOB") -> list[Span]:
    """Return the spans of one sentence as (type, start, stop), in order; stop is exclusive, as in a slice.

    Args:
        tags: the labels. "B" and "I" alone are labels of spans whose type is "".
        scheme: "IOB" for IOB1 and IOB2; "BIOES", where also E-X ends a span and S-X is a whole one. A span that lacks
            its beginning or its end counts from where it is first seen to where it is last seen.

    Raises:
        ValueError: a label that does not fit the scheme, with its position; an unknown scheme.

    Example:
        >>> import chainrule as cr
        >>> cr.evaluation.spans(["B-NP", "I-NP", "O", "I-VP", "B-NP"])
        [('NP', 0, 2), ('VP', 3, 4), ('NP', 4, 5)]
        >>> cr.evaluation.spans(["S-NP", "B-NP", "E-NP"], scheme="BIOES")
        [('NP', 0, 1), ('NP', 1, 3)]
    """
    if scheme not in {"IOB", "BIOES"}:
        raise ValueError(f"scheme is {scheme!r}; it is 'IOB' (IOB1 and IOB2) or 'BIOES'")
    parts: dict[str, tuple[str, str]] = {}
    found: list[Span] = []
    open_type, start, stop = None, 0, 0
    for position, tag in enumerate(tags):
        if tag not in parts:
            parts[tag] = _split(tag, position, scheme)
        letter, type_ = parts[tag]
        stop = position + 1
        if letter in "IE" and type_ == open_type:
            ends = letter == "E"
        else:
            if open_type is not None:
                found.append((open_type, start, position))
            open_type, start = (None if letter == "O" else type_), position
            ends = letter in "ES"
        if ends and open_type is not None:
            found.append((open_type, start, stop))
            open_type = None
    if open_type is not None:
        found.append((open_type, start, stop))
    return found


def span_scores(gold: Sequence, predicted: Sequence, *, scheme: Scheme = "IOB") -> SpanScores:
    """Compare predicted spans with gold ones: precision, recall and F1, overall and by type.

    Args:
        gold: the right labels: a list (or array) per sentence, or one flat list for a single sentence.
        predicted: the predicted labels, in the same form.
        scheme: as in `spans`.

    Raises:
        ValueError: a different number of sentences; a sentence of different length, or with a label that does not fit
            the scheme, which is named.

    Example:
        >>> import chainrule as cr
        >>> cr.evaluation.span_scores([["B-PER", "I-PER", "O", "B-LOC"]], [["B-PER", "I-PER", "O", "B-PER"]])
                        precision  recall      f1  support
        LOC                0.0000  0.0000  0.0000        1
        PER                0.5000  1.0000  0.6667        1
        overall            0.5000  0.5000  0.5000        2
        token accuracy     0.7500
    """
    pairs = _aligned(gold, predicted)
    correct, found, support = Counter(), Counter(), Counter()
    for number, (true, guess) in enumerate(pairs):
        try:
            true_spans, found_spans = spans(true, scheme=scheme), spans(guess, scheme=scheme)
        except ValueError as error:
            raise ValueError(f"sentence {number}: {error}") from None
        support.update(type_ for type_, _, _ in true_spans)
        found.update(type_ for type_, _, _ in found_spans)
        correct.update(type_ for type_, _, _ in set(true_spans).intersection(found_spans))
    return SpanScores(
        overall=SpanScore(correct.total(), found.total(), support.total()),
        types={name: SpanScore(correct[name], found[name], support[name]) for name in sorted(support | found)},
        token_accuracy=_accuracy(pairs),
    )


@dataclass(frozen=True)
class RatingScores:
    """How far predicted grades are from those given.

    Attributes:
        rmse: the root of the mean squared error.
        mae: the mean absolute error.
        count: how many grades were compared.
    """

    rmse: float
    mae: float
    count: int


def rating_scores(gold: Float[ArrayLike, "user item"], predicted: Float[ArrayLike, "user item"]) -> RatingScores:
    """Compare predicted grades with those given, where there are any.

    Args:
        gold: the grades, NaN where there is none.
        predicted: a prediction for every user and item.

    Raises:
        ValueError: tables of different shape, no grades, or a prediction that is not finite where there is one.

    Example:
        >>> import numpy as np, chainrule as cr
        >>> cr.evaluation.rating_scores([[5.0, np.nan], [1.0, 3.0]], [[4.0, 2.0], [1.0, 3.0]])
        RatingScores(rmse=0.5773502691896257, mae=0.3333333333333333, count=3)
    """
    true, guess = np.asarray(gold, float), np.asarray(predicted, float)
    if true.shape != guess.shape:
        raise ValueError(f"gold has shape {true.shape}, predicted {guess.shape}")
    given = ~np.isnan(true)
    if not given.any():
        raise ValueError("gold has no grades to compare with")
    if not np.isfinite(guess[given]).all():
        place = tuple(np.argwhere(given & ~np.isfinite(guess))[0].tolist())
        raise ValueError(f"the prediction at {place} is {guess[place]}, where there is a grade")
    error = guess[given] - true[given]
    return RatingScores(float(np.sqrt((error**2).mean())), float(abs(error).mean()), int(given.sum()))


@dataclass(frozen=True)
class RankingScores:
    """How good the top of each user's list is, as means over the users who have anything relevant.

    Attributes:
        precision: the share of the list that is relevant.
        recall: the share of what is relevant that is in the list.
        ndcg: discounted gain, Σ relevant_n / log2(n + 1) by place n, over that of the best list (Järvelin and Kekäläinen
            2002).
        users: how many users counted.
    """

    precision: float
    recall: float
    ndcg: float
    users: int


def ranking_scores(
    relevant: Bool[ArrayLike, "user item"],
    scores: Float[ArrayLike, "user item"],
    k: int = 10,
    *,
    candidates: Bool[ArrayLike, "user item"] | None = None,
) -> RankingScores:
    """Judge the k items of highest score of each user.

    Args:
        relevant: what a user should be shown, such as test ratings of four and more.
        scores: the higher the earlier in the list; equal ones in the order of the items.
        k: how many items a list has.
        candidates: what may be listed: leave out what the user has rated in training.

    Raises:
        ValueError: tables of different shape, a k below one, NaN scores, or nothing relevant among the candidates.

    Example:
        >>> import chainrule as cr
        >>> cr.evaluation.ranking_scores([[True, False, True]], [[0.9, 0.5, 0.1]], k=2).precision
        0.5
    """
    good, value = np.asarray(relevant, bool), np.asarray(scores, float)
    allowed = np.ones(good.shape, bool) if candidates is None else np.asarray(candidates, bool)
    if good.ndim != 2 or not good.shape == value.shape == allowed.shape:
        raise ValueError(f"relevant, scores and candidates have shapes {good.shape}, {value.shape}, {allowed.shape}")
    if k < 1:
        raise ValueError(f"k is {k}; a list has at least one item")
    if np.isnan(value[allowed]).any():
        raise ValueError(f"the score at {tuple(np.argwhere(allowed & np.isnan(value))[0].tolist())} is NaN")
    good = good & allowed
    users = good.any(1)
    if not users.any():
        raise ValueError("no user has anything relevant among the candidates")
    listed = np.argsort(-np.where(allowed, value, -np.inf), axis=1, kind="stable")[users, :k]
    hits = np.take_along_axis(good[users], listed, axis=1)
    discount = 1 / np.log2(np.arange(2, hits.shape[1] + 2))
    total = good[users].sum(1)
    best = np.cumsum(discount)[np.minimum(total, hits.shape[1]) - 1]
    return RankingScores(
        float((hits.sum(1) / k).mean()),
        float((hits.sum(1) / total).mean()),
        float(((hits * discount).sum(1) / best).mean()),
        int(users.sum()),
    )


def _ratio(numerator: int, denominator: int) -> float:
    return numerator / denominator if denominator else 0.0


def _accuracy(pairs) -> float:
    right = sum(a == b for true, guess in pairs for a, b in zip(true, guess, strict=True))
    return _ratio(right, sum(len(true) for true, _ in pairs))


def _split(tag: Any, position: int, scheme: Scheme) -> tuple[str, str]:
    """The letter and the type of a label."""
    letter, _, type_ = tag.partition("-") if isinstance(tag, str) else ("", "", "")
    if len(letter) != 1 or letter not in scheme or (letter == "O" and tag != "O"):
        advice = "; for E and S say scheme='BIOES'" if letter in {"E", "S"} else ""
        raise ValueError(f"label {tag!r} at position {position} does not fit {scheme}{advice}")
    return letter, type_


def _aligned(gold, predicted) -> list[tuple[list, list]]:
    """Pairs of gold and predicted labels, one per sentence."""
    several, true = _sentences(gold, "gold")
    also_several, guess = _sentences(predicted, "predicted")
    if several != also_several:
        one, other = ("predicted", "gold") if several else ("gold", "predicted")
        raise ValueError(f"{one} is one flat sentence but {other} has a list of labels per sentence")
    if len(true) != len(guess):
        raise ValueError(f"gold has {len(true)} sentences, predicted has {len(guess)}")
    for number, (a, b) in enumerate(zip(true, guess, strict=True)):
        if len(a) != len(b):
            raise ValueError(f"sentence {number}: gold has {len(a)} labels, predicted has {len(b)}")
    return list(zip(true, guess, strict=True))


def _sentences(tags, name: str) -> tuple[bool, list[list]]:
    """Whether there are several sentences, and their labels."""
    if isinstance(tags, str):
        raise ValueError(f"{name} is the string {tags!r}; give a list of labels")
    entries = _listed(tags)
    nested = [isinstance(entry, list | tuple) or getattr(entry, "ndim", 0) > 0 for entry in entries]
    if any(nested) and not all(nested):
        n = nested.index(False)
        raise ValueError(f"{name} mixes sentences and labels: entry {n} is {entries[n]!r}, others are sentences")
    return any(nested), [_listed(entry) for entry in entries] if any(nested) else [entries]


def _listed(values) -> list:
    return values.tolist() if hasattr(values, "tolist") else list(values)
