"""What users pass to a linear-chain CRF: sentences, labels of which some are unknown, and structure."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..forms.sequences import Sequences
from . import crf_engine as engine
from .features.base import Batch, Gold, Potentials

if TYPE_CHECKING:
    import networkx as nx


@dataclass(frozen=True, eq=False)
class IndexedSentences:
    """Sentences as numbers, for asking a model about them again and again; made by `LinearChainCRF.index`.

    Attributes:
        batch: where their tokens lie.
        said: what each feature says of them.
        origins: which features those are.
    """

    batch: Batch
    said: tuple[Any, ...]
    origins: tuple[Any, ...]

    def __len__(self):
        return len(self.batch.sentences)

    def __repr__(self):
        return f"IndexedSentences({len(self)} sentences, {self.batch.num_tokens} tokens)"


def read_sentences(x, token: str | None) -> tuple[list[Any], bool, str]:
    """The sentences as a list, whether it was a single one, and what tokens are, such as "string" or "list".

    Sentences that are arrays are "array"; an array is always one sentence.

    One sentence and a list of them can look alike, [["a", "b"]]; what tokens were in training (`token`) tells them apart.
    `fit` passes None: it takes lists of sentences only.
    """
    if isinstance(x, str):
        raise ValueError(f"x is the string {x[:40]!r}; a sentence is a list of tokens: pass x.split()")
    if isinstance(x, IndexedSentences):
        raise ValueError(
            "these sentences were made by index(…), which is for queries; fit reads the sentences themselves"
        )
    if isinstance(x, np.ndarray | jax.Array):
        if token is None:
            raise ValueError(
                f"x is an array of shape {np.shape(x)}, which is one sentence; wanted a list of sentences: [x] for one, "
                "list(x) for sentences of equal length along the first axis"
            )
        return [x], True, "array"
    if not isinstance(x, Sequence) or not len(x):
        raise ValueError(f"x is {type(x).__name__} without sentences; wanted a sentence, or a list of them")
    if token is None:
        kinds = {_kind_of_token(sentence, n) for n, sentence in enumerate(x)}
        if len(kinds) > 1:
            raise ValueError(f"tokens are of different kinds: {', '.join(sorted(kinds))}; make them all the same")
        return list(x), False, kinds.pop()
    if token == "array":
        single = not isinstance(x[0], np.ndarray | jax.Array)
        return ([np.asarray(x)] if single else list(x)), single, token
    single = isinstance(x[0], str | dict) or _kind(x[0]) == token
    sentences = [x] if single else list(x)
    for n, sentence in enumerate(sentences):
        found = _kind_of_token(sentence, n)
        if found != token:
            raise ValueError(f"the tokens of sentence {n} are of kind {found!r}, but the model was fitted to {token!r}")
    return sentences, single, token


def _kind_of_token(sentence, n: int) -> str:
    if isinstance(sentence, np.ndarray | jax.Array):
        return "array"
    if isinstance(sentence, str):
        raise ValueError(
            f"sentence {n} is the string {sentence[:40]!r}; a sentence is a list of tokens: pass x.split()"
        )
    if not isinstance(sentence, Sequence):
        raise ValueError(f"sentence {n} is {type(sentence).__name__}; wanted a list of tokens, or an array (time, …)")
    if len(sentence) == 0:
        raise ValueError(f"sentence {n} is empty; leave it out")
    return _kind(sentence[0])


def _kind(token) -> str:
    """What a token is; of lists also how deep they are, for a sentence of lists is a list, too."""
    if isinstance(token, str):
        return "string"
    if isinstance(token, dict):
        return "dict"
    if isinstance(token, np.ndarray | jax.Array) and np.ndim(token):
        return "nested " * (np.ndim(token) - 1) + "list"
    if isinstance(token, Sequence | set | frozenset):
        inner = _kind(next(iter(token), None))
        return f"nested {inner}" if inner.endswith("list") else "list"
    return "object"


def gold_of(y, batch: Batch, labels: tuple[Hashable, ...]) -> Gold:
    """Labels of all tokens, end to end. None is unknown, a set is a choice.

    Raises:
        ValueError: another number of sentences or tokens, or a label that the model does not have.
    """
    if isinstance(y, str) or not isinstance(y, Sequence | np.ndarray):
        raise ValueError(f"labels are {y!r}; wanted a list with one list of labels for each sentence")
    if len(y) != len(batch.sentences):
        raise ValueError(f"there are labels for {len(y)} sentences, but {len(batch.sentences)} sentences")
    number = {label: k for k, label in enumerate(labels)}
    found: list[int] = []
    open_choices: list[tuple[int, list[int]]] = []
    for n, (sentence, given) in enumerate(zip(batch.sentences, y, strict=True)):
        if not isinstance(given, Sequence | np.ndarray):
            raise ValueError(f"the labels of sentence {n} are {given!r}; wanted a list with one entry for each token")
        if isinstance(given, str) or len(given) != len(sentence):
            raise ValueError(f"sentence {n} has {len(sentence)} tokens, but {_count(given)}")
        tags = given.tolist() if isinstance(given, np.ndarray) else given
        try:
            found += [number[tag] for tag in tags]  # the usual case: all are known
        except (KeyError, TypeError):
            for t, tag in enumerate(tags):
                choice = _choice(tag, number, labels, f"sentence {n}, token {t}")
                if len(choice) > 1:
                    open_choices.append((len(found), choice))
                found.append(choice[0] if len(choice) == 1 else -1)
    known = Gold(np.array(found, np.int32), None, len(labels))
    if not open_choices:
        return known
    allowed = as_allowed(known)
    for token, choice in open_choices:
        allowed[token, choice] = True
    return Gold(known.labels, allowed, len(labels))


def _choice(tag, number, labels, place: str) -> list[int]:
    """The labels that a token may have: one, those of a set, or all for None."""
    if isinstance(tag, Hashable) and tag in number:
        return [number[tag]]
    if tag is None:
        return list(range(len(labels)))
    if isinstance(tag, set | frozenset):
        unknown = [one for one in tag if one not in number]
        if unknown or not tag:
            what = f"{unknown[0]!r} among its labels" if unknown else "an empty set of labels"
            raise ValueError(f"{place} has {what}; the model has {_some(labels)}")
        return sorted(number[one] for one in tag)
    raise ValueError(f"{place} has label {tag!r}; the model has {_some(labels)}")


def as_allowed(gold: Gold) -> np.ndarray:
    """Which labels each token may have, (token, label)."""
    if gold.allowed is not None:
        return gold.allowed
    return np.asarray(gold.labels)[:, None] == np.arange(gold.num_labels)


def _count(tags) -> str:
    return f"the string {tags!r} for labels; wanted a list" if isinstance(tags, str) else f"{len(tags)} labels"


def _some(labels) -> str:
    shown = ", ".join(repr(label) for label in labels[:8])
    return f"the labels {shown}" + (f" and {len(labels) - 8} more" if len(labels) > 8 else "")


def structure_of(labels: tuple[Hashable, ...], graph: "nx.DiGraph | None") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which labels may begin, follow one another and end, from a graph over the labels."""
    size = len(labels)
    if graph is None:
        return np.ones(size, bool), np.ones((size, size), bool), np.ones(size, bool)
    import networkx as nx  # whoever brings a graph has it loaded

    if not isinstance(graph, nx.Graph) or not graph.is_directed():
        raise ValueError(f"transitions is {graph!r}; wanted a directed networkx graph over the labels")
    missing = [label for label in labels if label not in graph]
    strange = [node for node in graph if node not in set(labels)]
    if missing or strange:
        what = f"label {missing[0]!r} is not a node of it" if missing else f"its node {strange[0]!r} is not a label"
        raise ValueError(f"transitions must be a graph over the labels: {what}")
    number = {label: k for k, label in enumerate(labels)}
    pair = np.zeros((size, size), bool)
    for a, b in graph.edges():
        pair[number[a], number[b]] = True
    ends = [np.array([bool(graph.nodes[label].get(end, True)) for label in labels]) for end in ("initial", "final")]
    for allowed, what in zip(ends, ("begin", "end"), strict=True):
        if not allowed.any():
            raise ValueError(f"transitions: no label may {what} a sentence; set the nodes' `initial` and `final`")
    return ends[0], pair, ends[1]


def last_tokens(layout: Sequences) -> np.ndarray:
    """True on the last token of each sentence, (time, row)."""
    last = np.zeros(np.shape(layout.mask), bool)
    real = np.asarray(layout.lengths) > 0
    offset, lengths, row = (np.asarray(x)[real] for x in (layout.offset, layout.lengths, layout.row))
    last[offset + lengths - 1, row] = True
    return last


class Taggings(NamedTuple):
    """Labels of training sentences as the fit wants them; (time, row), and steps (label, label).

    Attributes:
        labels: index of each label, 0 on padding; None where some are unknown.
        allowed: which labels each token may have, (time, label, row), or None.
        weight: weight of the sentence, 0 on padding.
        last: True on last tokens.
        counts: weighted number of steps from i to j.
        seen: whether there are any.
    """

    labels: Any
    allowed: Any
    weight: Any
    last: Any
    counts: Any
    seen: Any

    @classmethod
    def of(cls, batch: Batch, gold: Gold, structure: engine.Structure, labels, sample_weight) -> "Taggings":
        """Lay labels out, and check them against the structure."""
        layout, lengths = batch.layout, np.array([len(sentence) for sentence in batch.sentences])
        weight = sentence_weights(sample_weight, len(lengths))
        owner = np.repeat(np.arange(len(lengths)), lengths)
        first = np.zeros(len(owner), bool)
        first[np.cumsum(lengths) - lengths] = True
        before, after = gold.labels[:-1], gold.labels[1:]
        inner = ~first[1:] & (before >= 0) & (after >= 0)
        size = gold.num_labels
        steps = before[inner].astype(np.int64) * size + after[inner]
        seen = np.bincount(steps, minlength=size * size).reshape(size, size) > 0
        counts = np.bincount(steps, weight[owner[1:][inner]], minlength=size * size).reshape(size, size)
        _check_structure(gold, structure, labels, first, owner)
        mask = np.asarray(layout.mask)
        full = None if gold.allowed is None else batch.spread(gold.allowed) | ~mask[:, None]
        if full is not None:
            _check_choices(full, structure, layout)
        return cls(
            None if full is not None else batch.spread(gold.labels),
            full,
            batch.spread(weight[owner]),
            last_tokens(layout),
            counts,
            seen,
        )


def sentence_weights(sample_weight, count: int) -> np.ndarray:
    """The weight of each sentence, one where nothing is said."""
    if sample_weight is None:
        return np.ones(count)
    weight = np.asarray(sample_weight, float)
    if weight.shape != (count,):
        raise ValueError(f"sample_weight has shape {weight.shape}; wanted ({count},), one for each sentence")
    if not (np.isfinite(weight) & (weight >= 0)).all():
        n = int(np.argmin(np.isfinite(weight) & (weight >= 0)))
        raise ValueError(f"sample_weight[{n}] is {weight[n]}; weights are finite and not negative")
    if not weight.any():
        raise ValueError("sample_weight is zero for all sentences")
    return weight


def _check_structure(gold: Gold, structure: engine.Structure, labels, first, owner):
    """Refuse known labels that the structure forbids, with the place of the first of them."""
    y = gold.labels
    last = np.append(first[1:], True)
    begins = np.cumsum(first) - 1
    start = np.flatnonzero(first)
    for wrong, what in (
        (first & (y >= 0) & ~structure.initial[y], "begins with"),
        (last & (y >= 0) & ~structure.final[y], "ends with"),
    ):
        if wrong.any():
            t = int(np.argmax(wrong))
            raise ValueError(f"sentence {owner[t]} {what} label {labels[y[t]]!r}, which `transitions` does not allow")
    wrong = ~first[1:] & (y[:-1] >= 0) & (y[1:] >= 0) & ~structure.pair[y[:-1], y[1:]]
    if wrong.any():
        t = int(np.argmax(wrong)) + 1
        place = t - start[begins[t]]
        raise ValueError(
            f"sentence {owner[t]}, token {place}: label {labels[y[t]]!r} follows {labels[y[t - 1]]!r}, which "
            "`transitions` does not allow"
        )


def _check_choices(allowed, structure: engine.Structure, layout: Sequences):
    """Refuse choices of labels that no path through the structure agrees with."""
    if structure.pair.all() and structure.initial.all() and structure.final.all():
        return
    shape = allowed.shape
    nothing = np.zeros(shape, jnp.zeros(0).dtype)
    size = shape[1]
    weights = (np.zeros((size, size), nothing.dtype), np.zeros(size, nothing.dtype), np.zeros(size, nothing.dtype))
    scores = engine.complete(Potentials(nothing), weights, structure, layout.start, last_tokens(layout))
    scores = engine.Scores(jnp.where(allowed, scores.node, -jnp.inf), scores.pair)
    total = np.asarray(engine.viterbi(scores, layout)[1])[: layout.num_sequences]
    if not np.isfinite(total).all():
        n = int(np.argmin(np.isfinite(total)))
        raise ValueError(
            f"sentence {n}: `transitions` allows no labelling that agrees with what is known of its labels"
        )
