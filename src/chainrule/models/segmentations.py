"""Segmentations of sentences, lists of (start, stop, label) without gaps, and the answers about them.

`stop` is exclusive, as in a slice. Labels B-X, I-X and O are read as segments too: O is a segment of one token with label
"O", and an I-X that does not go on with a segment of type X begins one.
"""

from collections.abc import Hashable, Iterable, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import numpy as np

from ..forms.sequences import Sequences
from .features.base import Batch, Gold
from .results import find

Segment = tuple[int, int, Hashable]


def segments_of_tags(tags: Iterable[str]) -> list[Segment]:
    """The segments that BIO tags mark; O is a segment of one token.

    Raises:
        ValueError: a tag of another form.

    Example:
        >>> from chainrule.models.segmentations import segments_of_tags
        >>> segments_of_tags(["B-NP", "I-NP", "O", "O"])
        [(0, 2, 'NP'), (2, 3, 'O'), (3, 4, 'O')]
    """
    found: list[Segment] = []
    for t, tag in enumerate(tags):
        letter, _, type_ = tag.partition("-") if isinstance(tag, str) else ("", "", "")
        if letter not in ("B", "I", "O") or (letter == "O" and tag != "O"):
            raise ValueError(f"tag {tag!r} at position {t} does not fit BIO: tags are O, B-X and I-X")
        if letter == "I" and found and found[-1][2] == type_:
            found[-1] = (found[-1][0], t + 1, type_)
        else:
            found.append((t, t + 1, "O" if letter == "O" else type_))
    return found


def tags_of_segments(segments: Iterable[Segment], *, outside: Hashable = "O") -> list[str]:
    """BIO tags of segments; those with the label `outside` are O.

    Example:
        >>> from chainrule.models.segmentations import tags_of_segments
        >>> tags_of_segments([(0, 2, "NP"), (2, 3, "O")])
        ['B-NP', 'I-NP', 'O']
    """
    tags: list[str] = []
    for start, stop, label in segments:
        size = stop - start
        tags += ["O"] * size if label == outside else [f"B-{label}"] + [f"I-{label}"] * (size - 1)
    return tags


class Segmented(NamedTuple):
    """Segmentations of all sentences, end to end.

    Attributes:
        label: index of each token's label, shape (token,).
        left: how many tokens of its segment follow each token.
        size: for each first token of a segment its length, else 0.
    """

    label: np.ndarray
    left: np.ndarray
    size: np.ndarray

    def tokens(self, where: str, count: int, max_length: int) -> Gold:
        """Labels as a feature learns them: of all tokens, of first ones, of last ones, or of all possible segments."""
        if where == "segment":
            found = np.full((len(self.label), max_length), -1, np.int32)
            first = np.flatnonzero(self.size)
            found[first, self.size[first] - 1] = self.label[first]
            return Gold(found.reshape(-1), None, count)
        kept = {"node": True, "begin": self.size > 0, "end": self.left == 0}[where]
        return Gold(np.where(kept, self.label, -1).astype(np.int32), None, count)


def read_segmentations(y, batch: Batch, labels: tuple[Hashable, ...], max_lengths: Sequence[int]) -> Segmented:
    """Check segmentations, given as segments or as BIO tags, against their sentences.

    Raises:
        ValueError: another number of sentences, segments that overlap, leave gaps, are empty or too long, or unknown
            labels; the message names the sentence and the segment.
    """
    if isinstance(y, str) or not isinstance(y, Sequence | np.ndarray):
        raise ValueError(f"y is {y!r}; wanted a list with one list of segments (start, stop, label) for each sentence")
    if len(y) != len(batch.sentences):
        raise ValueError(f"there are segmentations for {len(y)} sentences, but {len(batch.sentences)} sentences")
    number = {label: k for k, label in enumerate(labels)}
    label, left, size = [], [], []
    for n, (sentence, given) in enumerate(zip(batch.sentences, y, strict=True)):
        at = 0
        for start, stop, name in _as_segments(given, len(sentence), n):
            place = f"sentence {n}, segment ({start}, {stop}, {name!r})"
            if not isinstance(name, Hashable) or name not in number:
                raise ValueError(f"{place}: the model has the labels {list(labels)}")
            if start != at:
                what = (
                    "overlaps the one before"
                    if start < at
                    else f"leaves a gap: tokens {at} to {start - 1} are in no segment"
                )
                raise ValueError(f"{place} {what}; segments follow one another, in order")
            if not start < stop <= len(sentence):
                raise ValueError(
                    f"{place} does not fit a sentence of {len(sentence)} tokens; wanted start < stop ≤ {len(sentence)}"
                )
            most = max_lengths[number[name]]
            if stop - start > most:
                raise ValueError(
                    f"{place} has {stop - start} tokens, but max_length is {most}; raise it, or split the segment"
                )
            label += [number[name]] * (stop - start)
            left += range(stop - start - 1, -1, -1)
            size += [stop - start] + [0] * (stop - start - 1)
            at = stop
        if at != len(sentence):
            raise ValueError(
                f"sentence {n}: tokens {at} to {len(sentence) - 1} are in no segment; segments cover the sentence"
            )
    return Segmented(np.array(label, np.int32), np.array(left, np.int32), np.array(size, np.int32))


def _as_segments(given, length: int, n: int) -> list[Segment]:
    if isinstance(given, str) or not isinstance(given, Sequence | np.ndarray):
        raise ValueError(
            f"the segments of sentence {n} are {given!r}; wanted a list of (start, stop, label), or of BIO tags"
        )
    if len(given) and all(isinstance(tag, str) for tag in given):
        if len(given) != length:
            raise ValueError(f"sentence {n} has {length} tokens, but {len(given)} tags")
        try:
            return segments_of_tags(given)
        except ValueError as error:
            raise ValueError(f"sentence {n}: {error}") from None
    found = []
    for segment in given:
        whole = isinstance(segment, tuple | list) and len(segment) == 3
        if not whole or not all(isinstance(end, int | np.integer) and not isinstance(end, bool) for end in segment[:2]):
            raise ValueError(f"sentence {n}: {segment!r} is not a segment; wanted (start, stop, label)")
        found.append((int(segment[0]), int(segment[1]), segment[2]))
    return found


def steps_left(layout: Sequences) -> np.ndarray:
    """How many tokens of the sentence follow each, (time, row); 0 on padding."""
    left = np.zeros(np.shape(layout.mask), np.int32)
    for row, begin, size in zip(
        *(np.asarray(x).tolist() for x in (layout.row, layout.offset, layout.lengths)), strict=True
    ):
        left[begin : begin + size, row] = np.arange(size)[::-1]
    return left


def cut(states: np.ndarray, labels: tuple[Hashable, ...]) -> list[Segment]:
    """The segments of one path of states (time,); none where the path is impossible."""
    if len(states) and states[0] < 0:
        return []
    stops = np.flatnonzero(states < len(labels)) + 1
    starts = [0, *stops[:-1].tolist()]
    return [(start, int(stop), labels[states[stop - 1]]) for start, stop in zip(starts, stops, strict=True)]


class SegmentPath(eqx.Module):
    """The best segmentation, the k best, or draws.

    Attributes:
        states: label + K · (how many tokens of the segment follow) for each token, (T,); with a leading axis for k best and
            draws; a list of such arrays for several sentences. −1 where no segmentation is possible.
        log_prob: log p(segments | x) of each; for draws log Z(x).
        labels: the labels.
    """

    states: Any
    log_prob: Any
    labels: tuple[Hashable, ...] = eqx.field(static=True)

    @property
    def segments(self) -> list:
        """A list of (start, stop, label), empty where no segmentation is possible.

        For k best, draws or several sentences it is a list of such lists, for draws from several a list of lists of them.
        """
        return _cut_all(self.states, self.labels)

    def __repr__(self):
        return f"SegmentPath({len(self.labels)} labels)"


def _cut_all(states, labels) -> list:
    if not isinstance(states, list):
        states = np.asarray(states)
        if states.ndim == 1:
            return cut(states, labels)
    return [_cut_all(one, labels) for one in states]


class SegmentPosterior(eqx.Module):
    """p(segments | x), of one sentence or several.

    Attributes:
        log_prob: log-probability of what is known; 0 where nothing is.
        marginals: p(token t has label k), (T, K), or a list of them.
        segments: p(a segment with label k begins at t and has d + 1 tokens), (T, L, K), or a list.
        transitions: expected number of steps from a segment with label j to one with label k, over all, (K, K).
        labels: the labels.
    """

    log_prob: Any
    marginals: Any
    segments: Any
    transitions: Any
    labels: tuple[Hashable, ...] = eqx.field(static=True)

    def __getitem__(self, label: Hashable):
        """Marginals of one label, (T,), or a list."""
        index = find(label, self.labels)
        if isinstance(self.marginals, list):
            return [m[:, index] for m in self.marginals]
        return self.marginals[:, index]

    def __repr__(self):
        return f"SegmentPosterior({len(self.labels)} labels)"
