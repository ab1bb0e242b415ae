"""Semi-Markov conditional random fields: labels of segments instead of labels of tokens.

    p(s | x) = exp( Σ_{(b, e, k, j)} w · f(x, b, e, k, j) ) / Z(x)

over segmentations s of a sentence into segments b … e with label k after one with label j (Sarawagi and Cohen 2004). The
features may speak of the whole segment: its length, its text as one string, anything.
"""

import dataclasses
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from ..forms.chain import assemble
from ..forms.checks import whole
from ..learning.fit import Fit
from ..learning.gradient import LBFGS
from ..learning.minibatch import MiniBatch
from . import crf_inspection, crf_learning
from . import semi_markov_engine as engine
from .crf_data import as_allowed, gold_of, last_tokens, read_sentences, sentence_weights, structure_of
from .crf_engine import Structure
from .crf_objectives import Likelihood
from .crf_scores import check_labels, check_possible
from .data import host
from .features.base import Batch, Options
from .features.segments import Placed, as_placed
from .results import Table
from .segmentations import (
    Segmented,
    SegmentPath,
    SegmentPosterior,
    read_segmentations,
    steps_left,
    tags_of_segments,
)

if TYPE_CHECKING:
    import networkx as nx


class SemiMarkovCRF(eqx.Module):
    """A semi-Markov conditional random field over segmentations.

    A segmentation is a list of (start, stop, label) that cover a sentence in order; `stop` is exclusive, as in a slice.

    Args:
        labels: the labels of segments, any hashable values.
        features: a list, mixed freely. Features of tokens, such as `templates(…)`, `attributes()`, `dense()`,
            `feature_function(f)` and `neural_feature(module)`, add up over a segment. `features.begins(feature)` and
            `features.ends(feature)` speak of its first and last token only. `segment_function(f)`,
            `features.segment_attributes(extract)` and `features.segment_dense(extract)` speak of it as a whole.
        max_length: how many tokens a segment may have; one number, or one for each label in a dict.
        transitions: a graph over the labels whose edges are the steps from one segment to the next that are allowed; nodes
            may say `initial=False` or `final=False`. Without it all are.
        boundaries: give first and last labels weights of their own.
        lengths: give each length of each label a weight.
        all_pairs, min_pairs: as for `LinearChainCRF`.

    Raises:
        ValueError: no labels or one twice, something that is not a feature, a graph over other labels, or a max_length
            below one or not for each label.

    Queries take one sentence, or a list of them, and answer in the same form. Where what is known of a sentence rules out
    all segmentations, `log_partition` answers −inf and the others raise a ValueError, as for `LinearChainCRF`. A token
    costs K² + K·L products, for K labels and segments of up to L tokens, and memory for K·L numbers.

    Example:
        >>> import chainrule as cr
        >>> sentences = [["then", "Ada", "Lovelace", "wrote"], ["notes", "by", "Ada", "King"], ["wrote", "by", "hand"]]
        >>> segments = [[(0, 1, "O"), (1, 3, "NAME"), (3, 4, "O")], [(0, 1, "O"), (1, 2, "O"), (2, 4, "NAME")],
        ...             [(0, 1, "O"), (1, 2, "O"), (2, 3, "O")]]
        >>> def all_capitals(x, start, stop, y):
        ...     return y == "NAME" and all(word[0].isupper() for word in x[start:stop])
        >>> features = [cr.templates("%x[0,0]"), cr.segment_function(all_capitals)]
        >>> crf = cr.SemiMarkovCRF(["O", "NAME"], features, max_length={"O": 1, "NAME": 3})
        >>> fit = crf.fit(sentences, segments, method=cr.LBFGS(l2=0.01))
        >>> fit.model.predict(["notes", "Grace", "Hopper", "wrote"])
        [(0, 1, 'O'), (1, 3, 'NAME'), (3, 4, 'O')]
    """

    labels: tuple[Hashable, ...] = eqx.field(static=True)
    features: tuple[Placed, ...]
    max_lengths: tuple[int, ...] = eqx.field(static=True)
    transition: Float[Array, "label label"]
    first: Float[Array, " label"]
    last: Float[Array, " label"]
    length: Float[Array, "length label"]
    structure: Structure
    boundaries: bool = eqx.field(static=True)
    lengths: bool = eqx.field(static=True)
    options: Options = eqx.field(static=True)
    token: str | None = eqx.field(static=True)

    def __init__(
        self,
        labels: Sequence[Hashable],
        features: Sequence[Any],
        *,
        max_length: int | Mapping[Hashable, int],
        transitions: "nx.DiGraph | None" = None,
        boundaries: bool = True,
        lengths: bool = True,
        all_pairs: bool = False,
        min_pairs: int = 1,
    ):
        self.labels = crf_learning.check_labels(labels)
        if isinstance(features, str) or not isinstance(features, Sequence):
            raise ValueError(f"features is {features!r}; wanted a list, such as [templates('%x[0,0]')]")
        self.features = tuple(as_placed(feature) for feature in features)
        min_pairs = whole(min_pairs, "min_pairs", why="pairs occur at one token or more")
        self.max_lengths = _max_lengths(max_length, self.labels)
        size = len(self.labels)
        shapes = (size, size), size, size, (max(self.max_lengths), size)
        self.transition, self.first, self.last, self.length = map(crf_learning.zeros, shapes)
        self.structure = Structure(*structure_of(self.labels, transitions))
        self.boundaries, self.lengths, self.token = boundaries, lengths, None
        self.options = Options(all_pairs, min_pairs, self.labels)

    def __check_init__(self):
        size = self.num_labels
        wanted = {"transition": (size, size), "first": (size,), "last": (size,), "length": (self.max_length, size)}
        for name, shape in wanted.items():
            if getattr(self, name).shape != shape:
                raise ValueError(f"{name} has shape {getattr(self, name).shape}; {size} labels ask for {shape}")

    @property
    def num_labels(self) -> int:
        """K."""
        return len(self.labels)

    @property
    def max_length(self) -> int:
        """L, the largest length of any label's segments."""
        return max(self.max_lengths)

    @property
    def _possible(self) -> np.ndarray:
        """Which lengths a label may have, (length, label)."""
        return np.arange(self.max_length)[:, None] < np.array(self.max_lengths)

    # Queries

    def predict(self, x, *, tags: bool = False, known=None):
        """The most probable segmentation: a list of (start, stop, label), or a list of such lists.

        Args:
            x: one sentence, or several.
            tags: answer in BIO tags instead; segments with the label "O" become O.
            known: what is known, in the same form: for each token the label of its segment, a set of labels that it may
                have, or None.

        Raises:
            ValueError: sentences unlike those of training, an unknown label, or no segmentation that the structure, the
                lengths and what is known allow; the message names the sentence.
        """
        found = self.viterbi(x, known=known).segments
        if not tags:
            return found
        return [tags_of_segments(s) for s in found] if found and isinstance(found[0], list) else tags_of_segments(found)

    def viterbi(self, x, *, known=None) -> SegmentPath:
        """The most probable segmentation; `log_prob` is its log p(s | x), which `known` does not change.

        Example:
            >>> import chainrule as cr
            >>> crf = cr.SemiMarkovCRF(["O", "NAME"], [cr.templates("%x[0,0]")], max_length=2)
            >>> x, y = [["by", "Ada", "King"], ["Ada", "wrote"]], [["O", "B-NAME", "I-NAME"], ["B-NAME", "O"]]
            >>> model = crf.fit(x, y, method=cr.LBFGS(l2=0.1)).model
            >>> model.viterbi(["by", "Ada", "King"]).segments
            [(0, 1, 'O'), (1, 3, 'NAME')]
        """
        batch, left, free, scores = self._scores(x, known)
        states, total = engine.viterbi(scores, left, batch.layout)
        check_possible(total)
        log_prob = host(total) - host(engine.log_partition(free, left, batch.layout))
        return SegmentPath(batch.prepared.per_step(states), batch.prepared.per_sequence(log_prob), self.labels)

    def k_best(self, x, k: int, *, known=None) -> SegmentPath:
        """The k most probable segmentations, best first, and the log p(s | x) of each, shape (k,).

        For several sentences: a list of k segmentations for each, and log-probabilities (S, k).

        Where fewer are possible, the rest are empty and have log-probability −inf.

        Example:
            >>> import chainrule as cr
            >>> crf = cr.SemiMarkovCRF(["O", "NAME"], [cr.templates("%x[0,0]")], max_length=2)
            >>> x, y = [["by", "Ada", "King"], ["Ada", "wrote"]], [["O", "B-NAME", "I-NAME"], ["B-NAME", "O"]]
            >>> model = crf.fit(x, y, method=cr.LBFGS(l2=0.1)).model
            >>> best, second = model.k_best(["by", "Ada", "King"], 2).segments
            >>> best
            [(0, 1, 'O'), (1, 3, 'NAME')]
        """
        k = whole(k, "k", why="ask for at least one segmentation")
        batch, left, free, scores = self._scores(x, known)
        states, total = map(host, engine.k_best(scores, left, batch.layout, k))
        check_possible(total[: len(batch.sentences), 0])
        log_prob = total - host(engine.log_partition(free, left, batch.layout))[:, None]
        return SegmentPath(batch.prepared.per_path(states), batch.prepared.per_sequence(log_prob), self.labels)

    def log_partition(self, x, *, known=None):
        """Log Z(x), the sum over all segmentations (that agree with what is known): a number, or one for each sentence."""
        batch, left, _, scores = self._scores(x, known)
        return batch.prepared.per_sequence(engine.log_partition(scores, left, batch.layout))

    def log_prob(self, x, y):
        """Log p(s | x) of segmentations, as segments or BIO tags: a number, or one for each sentence.

        Example:
            >>> import chainrule as cr
            >>> crf = cr.SemiMarkovCRF(["O", "NAME"], [cr.templates("%x[0,0]")], max_length=2)
            >>> x, y = [["by", "Ada", "King"], ["Ada", "wrote"]], [["O", "B-NAME", "I-NAME"], ["B-NAME", "O"]]
            >>> model = crf.fit(x, y, method=cr.LBFGS(l2=0.1)).model
            >>> tags, segments = ["O", "B-NAME", "I-NAME"], [(0, 1, "O"), (1, 3, "NAME")]
            >>> bool(model.log_prob(x[0], tags) == model.log_prob(x[0], segments) < 0)
            True
        """
        batch, left, free, _ = self._scores(x, None)
        segmented = read_segmentations([y] if batch.single else y, batch, self.labels, self.max_lengths)
        everything = engine.log_partition(free, left, batch.layout)
        check_possible(everything)
        found = engine.path_scores(free, left, batch.layout, batch.spread(self._states(segmented)))
        return batch.prepared.per_sequence(host(found) - host(everything))

    def posterior(self, x, *, known=None) -> SegmentPosterior:
        """Marginals of tokens and of segments; `log_prob` is that of what is known, zero where that is nothing.

        Example:
            >>> import chainrule as cr
            >>> crf = cr.SemiMarkovCRF(["O", "NAME"], [cr.templates("%x[0,0]")], max_length=2)
            >>> x, y = [["by", "Ada", "King"], ["Ada", "wrote"]], [["O", "B-NAME", "I-NAME"], ["B-NAME", "O"]]
            >>> model = crf.fit(x, y, method=cr.LBFGS(l2=0.1)).model
            >>> posterior = model.posterior(["by", "Ada", "King"])
            >>> bool(posterior["NAME"][1] > 0.5)
            True
            >>> posterior.segments.shape
            (3, 2, 2)
        """
        batch, left, free, scores = self._scores(x, known)
        total, marginals, segments, steps = engine.posterior(scores, left, batch.layout)
        check_possible(total)
        everything = total if known is None else engine.log_partition(free, left, batch.layout)
        cut_back = batch.prepared
        return SegmentPosterior(
            cut_back.per_sequence(host(total) - host(everything)),
            cut_back.per_step(marginals),
            cut_back.per_step(segments),
            host(steps),
            self.labels,
        )

    def sample(self, key: Key[Array, ""], x, num_samples: int = 1, *, known=None) -> SegmentPath:
        """Draw segmentations from p(s | x), exact and independent: a list of them, or a list of such lists.

        `log_prob` is log Z(x), the same for all draws.

        Example:
            >>> import jax, chainrule as cr
            >>> crf = cr.SemiMarkovCRF(["O", "NAME"], [cr.templates("%x[0,0]")], max_length=2)
            >>> x, y = [["by", "Ada", "King"], ["Ada", "wrote"]], [["O", "B-NAME", "I-NAME"], ["B-NAME", "O"]]
            >>> model = crf.fit(x, y, method=cr.LBFGS(l2=0.1)).model
            >>> len(model.sample(jax.random.key(0), ["by", "Ada", "King"], 5).segments)
            5
        """
        num_samples = whole(num_samples, "num_samples", why="ask for at least one")
        batch, left, _, scores = self._scores(x, known)
        paths, total = engine.sample(key, scores, left, batch.layout, num_samples=num_samples)
        check_possible(total)
        drawn = [path.T for path in batch.layout.unpack(paths)]
        return SegmentPath(drawn[0] if batch.single else drawn, batch.prepared.per_sequence(total), self.labels)

    def entropy(self, x, *, known=None):
        """Entropy of p(s | x) in nats, how undecided the whole segmentation is: a number, or one for each sentence.

        Example:
            >>> import chainrule as cr
            >>> crf = cr.SemiMarkovCRF(["O", "NAME"], [cr.templates("%x[0,0]")], max_length=2)
            >>> x, y = [["by", "Ada", "King"], ["Ada", "wrote"]], [["O", "B-NAME", "I-NAME"], ["B-NAME", "O"]]
            >>> model = crf.fit(x, y, method=cr.LBFGS(l2=0.1)).model
            >>> seen, unseen = model.entropy([["Ada", "wrote"], ["nobody", "knows"]])
            >>> bool(seen < unseen)
            True
        """
        batch, left, _, scores = self._scores(x, known)
        check_possible(engine.log_partition(scores, left, batch.layout))
        return batch.prepared.per_sequence(engine.entropy(scores, left, batch.layout))

    # Inspection

    def strongest(self, n: int = 10, *, label: Hashable = crf_inspection.ANY) -> Table:
        """The n features with the largest absolute weights: rows of weight, feature, label, and previous label.

        Args:
            n: how many rows.
            label: only weights that speak for this label.

        Raises:
            ValueError: an unknown label, or n below one.
        """
        return crf_inspection.strongest(self.features, self.labels, n, label)

    def strongest_steps(self, n: int = 10) -> Table:
        """The n steps between segments with the largest absolute weights: rows of weight, previous label, label."""
        weights = np.where(self.structure.pair, np.asarray(self.transition), 0)
        return crf_inspection.strongest_steps(weights, self.labels, n)

    # Learning

    def fit(
        self,
        x,
        y,
        *,
        method: LBFGS | MiniBatch | None = None,
        key: Key[Array, ""] | None = None,
        sample_weight=None,
        progress: bool = False,
    ) -> Fit:
        """Learn the weights by maximum (penalised) conditional likelihood.

        Weights that the model has already are where the fit begins.

        Args:
            x: sentences, a list.
            y: for each sentence its segments (start, stop, label), or its BIO tags: B-X and I-X are segments with label X,
                and each O is a segment of one token with label "O".
            method: `LBFGS(l1=…, l2=…)`, with penalties l1·Σ|w| and l2·Σw², or `MiniBatch(…)`. `LBFGS(l2=1.0)` by default.
            key: for `MiniBatch`: the order of the sentences, and dropout.
            sample_weight: how much each sentence counts, ≥ 0.
            progress: show a progress bar.

        Returns:
            `Fit`, as of `LinearChainCRF`.

        Raises:
            ValueError: segments that do not fit the sentences, unknown labels, or segments that the structure forbids; the
                message names the sentence and the segment.
        """
        method, objective = crf_learning.choose(method, None)
        if not isinstance(objective, Likelihood):
            raise ValueError("a SemiMarkovCRF is fitted by LBFGS(…) or MiniBatch(…)")
        sentences, _, token = read_sentences(x, None)
        batch = Batch.of(sentences, one_per_row=self._one_per_row or getattr(method, "one_per_row", False))
        segmented = read_segmentations(y, batch, self.labels, self.max_lengths)
        learned, problem = self._problem(batch, segmented, sample_weight, isinstance(method, MiniBatch))

        def model_of(parameters):
            parts = zip(learned, problem.parts, parameters[0], strict=True)
            features = tuple(feature.fitted(part, own) for feature, part, own in parts)
            fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
            names = ("transition", "first", "last", "length")
            weights = {name: jax.device_put(w) for name, w in zip(names, parameters[1], strict=True)}
            return assemble(SemiMarkovCRF, **(fields | weights | {"features": features, "token": token}))

        found = crf_learning.search(method, batch, problem, key, model_of, None, progress=progress)
        return found.fit(model_of(found.parameters), batch.num_tokens)

    def num_parameters(self) -> int:
        """How many weights are not zero, those of steps, of first and last labels and of lengths included."""
        own = sum(int(np.count_nonzero(w)) for w in (self.transition, self.first, self.last, self.length))
        return own + sum(placed.feature.num_parameters() for placed in self.features)

    def _free(self):
        ends = np.full(self.num_labels, self.boundaries)
        structure = self.structure
        pair, first, last = (np.asarray(a) for a in (structure.pair, structure.initial, structure.final))
        return pair, ends & first, ends & last, self._possible & self.lengths

    def _states(self, segmented: Segmented) -> np.ndarray:
        return segmented.left * self.num_labels + segmented.label

    def _problem(self, batch: Batch, segmented: Segmented, sample_weight, by_rows: bool):
        dtype = jnp.zeros(0).dtype
        sizes = np.array([len(sentence) for sentence in batch.sentences])
        weight = np.repeat(sentence_weights(sample_weight, len(sizes)), sizes)
        last = last_tokens(batch.layout)
        self._check_structure(batch, segmented, sizes)
        learned, parts = [], []
        for feature in self.features:
            options = dataclasses.replace(self.options, by_rows=by_rows)
            known, part = feature.learn(batch, segmented, options, self.max_length)
            learned.append(known)
            parts.append(part)
        free = self._free()
        old = (self.transition, self.first, self.last, self.length)
        weights = tuple(np.where(f, w, 0).astype(dtype) for f, w in zip(free, old, strict=True))
        problem = engine.Problem(
            tuple(parts),
            weights,
            free,
            self.structure,
            self._possible,
            batch.layout.start,
            last,
            steps_left(batch.layout),
            batch.spread(weight).astype(dtype),
            batch.spread(self._states(segmented)),
            self._counts(segmented, sizes, weight, dtype),
            Likelihood(),
        )
        return learned, problem

    def _counts(self, segmented: Segmented, sizes, weight, dtype) -> dict[str, np.ndarray]:
        count, begins = self.num_labels, np.flatnonzero(segmented.size)
        inner = begins[~np.isin(begins, np.cumsum(sizes) - sizes)]
        step = segmented.label[inner - 1].astype(np.int64) * count + segmented.label[inner]
        length = (segmented.size[begins].astype(np.int64) - 1) * count + segmented.label[begins]
        pair = np.bincount(step, weight[inner], minlength=count * count).reshape(count, count)
        lengths = np.bincount(length, weight[begins], minlength=self.max_length * count).reshape(-1, count)
        return {"pair": pair.astype(dtype), "length": lengths.astype(dtype)}

    def _check_structure(self, batch: Batch, segmented: Segmented, sizes):
        """Refuse segments that the structure forbids, with the place of the first of them."""
        allowed, label = self.structure, segmented.label
        begin = np.cumsum(sizes) - sizes
        for places, fine, what in (
            (begin, allowed.initial, "begins with"),
            (begin + sizes - 1, allowed.final, "ends with"),
        ):
            wrong = ~np.asarray(fine)[label[places]]
            if wrong.any():
                n = int(np.argmax(wrong))
                name = self.labels[label[places[n]]]
                raise ValueError(f"sentence {n} {what} label {name!r}, which `transitions` does not allow")
        starts = np.flatnonzero(segmented.size)
        starts = starts[~np.isin(starts, begin)]
        wrong = ~np.asarray(allowed.pair)[label[starts - 1], label[starts]]
        if wrong.any():
            t = int(starts[np.argmax(wrong)])
            n = int(np.searchsorted(begin, t, side="right")) - 1
            names = f"{self.labels[label[t]]!r} follows {self.labels[label[t - 1]]!r}"
            raise ValueError(f"sentence {n}, token {t - begin[n]}: label {names}, which `transitions` does not allow")

    # Scores

    def _scores(self, x, known):
        """The sentences, how many tokens follow each, their log-potentials, and those that agree with what is known."""
        if not all(placed.feature.learned for placed in self.features):
            raise ValueError("this model has not seen data yet: call fit(x, y) and use the .model that it returns")
        sentences, single, _ = read_sentences(x, self.token)
        batch = Batch.of(sentences, single=single, one_per_row=self._one_per_row)
        layout = batch.layout
        shape = (len(layout.start), self.num_labels, layout.start.shape[1])
        found: dict[str, Any] = {}
        for feature in self.features:
            said = feature.potentials(batch, self.max_length)
            check_labels(feature, (said.get("node"), said.get("pair")), self.num_labels)
            found = engine.plus(found, said)
        node = found.get("node")
        if node is None or isinstance(node, np.ndarray):
            found = engine.plus({"node": np.zeros(shape, self.first.dtype)}, found)
        weights = (self.transition, self.first, self.last, self.length)
        free = engine.completed(found, weights, self._possible, self.structure, layout.start, last_tokens(layout))
        left = steps_left(layout)
        if known is None:
            return batch, left, free, free
        gold = gold_of([known] if single else known, batch, self.labels)
        allowed = batch.spread(as_allowed(gold)) | ~np.asarray(layout.mask)[:, None]
        return batch, left, free, free._replace(node=jnp.where(allowed, free.node, -jnp.inf))

    @property
    def _one_per_row(self) -> bool:
        return any(placed.feature.one_per_row for placed in self.features)

    def __repr__(self):
        features = ", ".join(repr(feature) for feature in self.features)
        return f"SemiMarkovCRF({self.num_labels} labels, [{features}], segments up to {self.max_length})"


def _max_lengths(given, labels) -> tuple[int, ...]:
    if isinstance(given, Mapping):
        strange = [label for label in given if label not in labels]
        missing = [label for label in labels if label not in given]
        if strange or missing:
            what = f"label {missing[0]!r} has none" if missing else f"{strange[0]!r} is not a label"
            raise ValueError(f"max_length is a dict, so it says a length for each label: {what}")
        lengths = [given[label] for label in labels]
    else:
        lengths = [given] * len(labels)
    for label, length in zip(labels, lengths, strict=True):
        whole(length, f"max_length of label {label!r}", why="a segment has one token or more")
    return tuple(int(length) for length in lengths)
