"""Weights of sparse attributes: one for each attribute and label (or step between labels) that occur together."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int
from scipy import sparse

from ...forms.chain import assemble, is_concrete
from ...inference.compiling import jit
from ...inference.sparse import SparseMap
from .base import AbstractFeature, Batch, Gold, Listed, Options, Part, Potentials
from .corpus import Matrices
from .implied import factor
from .named_attributes import Attributes
from .seen import seen_pairs
from .window_templates import Templates

# Tokens up to which weights are read where they lie.
FEW = 1000


class SparseWeights(eqx.Module):
    """A sparse matrix of weights, (attribute, outcome), row by row; an outcome is a label, or previous · K + label.

    Attributes:
        edges: the weights of attribute a are `edges[a]` … `edges[a + 1] − 1`.
        outcome: the outcome that each weight is for, rising within an attribute.
        values: the weights.
        shape: of the matrix.
    """

    edges: Int[np.ndarray, " edge"]
    outcome: Int[np.ndarray, " weight"]
    values: Any
    shape: tuple[int, int] = eqx.field(static=True)

    def __check_init__(self):
        size, outcomes = self.shape
        told = len(self.edges) == size + 1 and self.edges[0] == 0 and self.edges[-1] == len(self.outcome)
        if not (told and (np.diff(self.edges) >= 0).all() and len(self.values) == len(self.outcome)):
            raise ValueError(
                f"{len(self.values)} weights and {len(self.outcome)} outcomes do not fit {size} attributes"
            )
        if len(self.outcome) and not (self.outcome.min() >= 0 and self.outcome.max() < outcomes):
            raise ValueError(f"an outcome is not in 0 … {outcomes - 1}")

    @property
    def attribute(self) -> Any:
        """The attribute of each weight."""
        if not is_concrete(self.edges):
            return jnp.searchsorted(self.edges, jnp.arange(len(self.outcome), dtype=jnp.int32), side="right") - 1
        return np.repeat(np.arange(self.shape[0], dtype=np.int32), np.diff(self.edges))

    def valued(self, values: Any) -> "SparseWeights":
        """Other weights of the same attributes and outcomes."""
        return assemble(SparseWeights, edges=self.edges, outcome=self.outcome, values=values, shape=self.shape)

    def __rmatmul__(self, matrix: Any):
        """`matrix` @ weights, dense: only attributes that occur in `matrix` are looked at."""
        if not is_concrete(self.values):
            return _traced_product(matrix.indptr, matrix.indices, matrix.data, self)
        values, outcome, edges = map(np.asarray, (self.values, self.outcome, self.edges))
        if matrix.shape[0] <= FEW:
            weights = sparse.csr_matrix((values, outcome, edges), self.shape)
            return (matrix.astype(values.dtype, copy=False) @ weights).toarray()
        # of many tokens, each attribute's weights are wanted often, so they are laid out first
        occurs = np.zeros(self.shape[0], bool)
        occurs[matrix.indices] = True
        number = np.cumsum(occurs) - 1
        dense = np.zeros((int(occurs.sum()), self.shape[1]), values.dtype)
        sizes = np.diff(edges)
        picked = np.repeat(occurs, sizes)
        dense[np.repeat(np.arange(len(dense)), sizes[occurs]), outcome[picked]] = values[picked]
        data = matrix.data.astype(values.dtype, copy=False)
        return sparse.csr_matrix((data, number[matrix.indices], matrix.indptr), (matrix.shape[0], len(dense))) @ dense


@jit
def _traced_product(indptr, indices, data, weights: SparseWeights):
    """The rows of a sparse matrix @ weights, as one operation for who differentiates without `jax.jit`."""
    values, size = weights.values, len(indptr) - 1
    dense = jnp.zeros(weights.shape, values.dtype).at[weights.attribute, weights.outcome].set(values)
    terms = dense[indices] * data.astype(dense.dtype)[:, None]
    rows = jnp.searchsorted(indptr, jnp.arange(len(indices), dtype=indptr.dtype), side="right") - 1
    return jax.ops.segment_sum(terms, rows, num_segments=size)


class SparseFeature(AbstractFeature):
    """Attributes of tokens, each with a weight for each label; see `attributes` and `templates`.

    Attributes:
        source: how attributes are made, or, after training, the index of those that it has seen.
        node, pair: their weights.
    """

    source: Any = eqx.field(static=True)
    node: Any = None
    pair: Any = None

    @property
    def learned(self) -> bool:
        """Whether it has weights."""
        return not isinstance(self.source, Attributes | Templates)

    @property
    def index(self) -> Any:
        """The attributes that training has seen."""
        if not self.learned:
            raise ValueError("these attributes have not seen data yet: fit the model first")
        return self.source

    def num_parameters(self) -> int:
        """How many weights are not zero."""
        return sum(int(np.count_nonzero(w.values)) for w in (self.node, self.pair) if w is not None)

    def learn(self, batch: Batch, gold: Gold, options: Options) -> "tuple[SparseFeature, Part]":
        """Index the attributes of the training sentences, with the weights that the feature has for any of them."""
        dtype = jnp.result_type(float)
        index, matrices = (self.source.feature if self.learned else self.source).learn(batch.sentences, dtype=dtype)
        before = np.concatenate([[-1], gold.labels[:-1]])
        before[np.cumsum([0, *[len(s) for s in batch.sentences[:-1]]])] = -1
        steps = np.where((before >= 0) & (gold.labels >= 0), before * gold.num_labels + gold.labels, -1)
        found = []
        for name, matrix, outcome, size in (
            ("node", matrices.node, gold.labels, gold.num_labels),
            ("pair", matrices.pair, steps, gold.num_labels**2),
        ):
            if matrix.shape[1] == 0:
                found.append((None, None))
                continue
            weights = _weights(matrix, outcome, size, options, dtype)
            if self.learned and getattr(self, name) is not None:
                weights = _carried_over(getattr(self, name), getattr(self.index, name), weights, getattr(index, name))
            if options.by_rows:
                found.append((weights, SparseRows.of(batch, matrix, weights)))
                continue
            merged = outcome if name == "node" and not options.all_pairs and options.min_pairs <= 1 else None
            found.append((weights, SparsePart.of(batch, matrix, weights, merged, getattr(index, name).kinds())))
        (node, node_part), (pair, pair_part) = found
        return SparseFeature(index, node, pair), BothParts(node_part, pair_part)

    def fitted(self, part: "BothParts", parameters) -> "SparseFeature":
        """The feature that a fit ended with."""
        node = None if part.node is None else part.node.unfolded(self.node, parameters[0])
        pair = None if part.pair is None else part.pair.unfolded(self.pair, parameters[1])
        return SparseFeature(self.source, node, pair)

    @property
    def origin(self) -> Any:
        """The index."""
        return self.index

    def describe(self, batch: Batch) -> Matrices:
        """The attributes of any sentences, without those that training has not seen."""
        return self.index.matrices(batch.sentences, dtype=jnp.result_type(float))

    def potentials(self, batch: Batch, said: Any = None) -> Potentials:
        """Log-potentials of any sentences."""
        matrices = self.describe(batch) if said is None else said
        node = pair = None
        if self.node is not None:
            node = batch.spread(matrices.node @ self.node)
        if self.pair is not None:
            pair = batch.spread(matrices.pair @ self.pair)
            size = round(self.pair.shape[1] ** 0.5)
            pair = pair.reshape(pair.shape[0], size, size, pair.shape[-1])
        return Potentials(node, pair)

    def listed(self) -> list[Listed]:
        """The weights, by the attributes' names."""
        found = []
        if self.node is not None:
            node = self.node
            names = self.index.node
            found.append(Listed(np.asarray(node.values), node.outcome, lambda n: (names.name(_owner(node, n)), -1)))
        if self.pair is not None:
            pair, steps = self.pair, self.index.pair
            before, label = np.divmod(pair.outcome, round(pair.shape[1] ** 0.5))
            describe = lambda n: (steps.name(_owner(pair, n)), int(before[n]))  # noqa: E731
            found.append(Listed(np.asarray(pair.values), label, describe))
        return found

    def __repr__(self):
        return repr(self.source)


def _owner(weights: SparseWeights, n: int) -> int:
    """The attribute of the n-th weight."""
    return int(np.searchsorted(weights.edges, n, side="right")) - 1


def _weights(matrix, outcome, size: int, options: Options, dtype) -> SparseWeights:
    if options.all_pairs:
        attribute, label = np.divmod(np.arange(matrix.shape[1] * size), size)
    else:
        pairs = seen_pairs(matrix, outcome, min_pairs=options.min_pairs, num_labels=size)
        attribute, label = pairs.attribute, pairs.label
    edges = np.concatenate([[0], np.cumsum(np.bincount(attribute, minlength=matrix.shape[1]))]).astype(np.int32)
    return SparseWeights(edges, label.astype(np.int32), np.zeros(len(label), dtype), (matrix.shape[1], size))


def _carried_over(old: SparseWeights, old_names, new: SparseWeights, new_names) -> SparseWeights:
    """Weights of the same attribute and outcome, by the attributes' names."""
    if old.shape[1] != new.shape[1]:
        raise ValueError("the model was fitted with another number of labels; fit a new one")
    number = {name: j for j, name in enumerate(old_names.names())}
    place = np.array([number.get(name, -1) for name in new_names.names()], np.int64)
    keys, owner = old.attribute.astype(np.int64) * old.shape[1] + old.outcome, place[new.attribute]
    if not len(keys):
        return new
    wanted = owner * new.shape[1] + new.outcome
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    hit = (keys[at] == wanted) & (owner >= 0)
    values = np.where(hit, np.asarray(old.values)[at], 0).astype(new.values.dtype)
    return new.valued(values)


class SparsePart(Part):
    """Sparse weights in a fit.

    Attributes that occur at one token only, all with the value one and the same label, are one parameter for that token:
    their weights share one gradient, so they stay equal. k of them with weight w each add k·w to the score and k·w² to
    the penalty; u = √k·w adds √k·u and u². (The penalty k·|w| is √k·|u|.)

    Attributes:
        map: scores from the weights of all other attributes.
        place: which of the feature's weights those are.
        once: √k of each token's shared parameter, 0 where it has none, shape (time, row); None where nothing is shared.
        label: the label of that parameter.
        token: number of each token, as in the layout.
        shared: which of the feature's weights are shared ones, and at which (time · rows + row) slot.
        initial: the weights to start with.
        num_outcomes: size of an outcome.
    """

    map: SparseMap
    place: np.ndarray
    once: Any
    label: Any
    shared: Any
    initial: Any
    rows: int = eqx.field(static=True)

    @classmethod
    def of(cls, batch: Batch, matrix, weights: SparseWeights, labels, kinds) -> "SparsePart":
        """Tables for a fit; `labels` of the tokens, if weights of attributes that occur once may be shared.

        `kinds` are those of the attributes, see `implied`.
        """
        layout = batch.layout
        mask = np.asarray(layout.mask)
        rows = mask.shape[1]
        dtype = weights.values.dtype
        slot = np.empty(batch.num_tokens, np.int64)
        slot[layout.values[mask]] = np.flatnonzero(mask)

        count = np.bincount(matrix.indices, minlength=matrix.shape[1])
        rare = np.zeros(matrix.shape[1], bool)
        if labels is not None and (matrix.data == 1).all():
            rare = count == 1
            owner = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
            lonely = rare[matrix.indices]
            token = np.zeros(matrix.shape[1], np.int64)
            token[matrix.indices[lonely]] = owner[lonely]
            rare &= labels[token] >= 0
        once: Any = None
        label: Any = None
        shared: Any = None
        beginning: Any = None
        values, attribute = np.asarray(weights.values), weights.attribute
        if rare.any():
            mine = rare[attribute]
            slots = slot[token[attribute[mine]]]
            together = np.bincount(slots, minlength=mask.size)
            once = np.sqrt(together).reshape(mask.shape).astype(dtype)
            label = np.zeros(mask.size, np.int32)
            label[slots] = weights.outcome[mine]
            label = label.reshape(mask.shape)
            shared = (np.flatnonzero(mine).astype(np.int32), slots.astype(np.int32))
            total = np.bincount(slots, values[mine], minlength=mask.size).reshape(mask.shape)
            beginning = np.divide(total, once, out=np.zeros(mask.shape), where=once > 0).astype(dtype)
        place = np.flatnonzero(~rare[attribute])
        kept = np.flatnonzero(~rare)
        number = np.cumsum(~rare) - 1

        here: Any = matrix[:, kept].tocsr()
        bundles = None
        if (here.data == 1).all():
            factors = factor(here, kinds[kept])
            here, bundles = (here, None) if factors is None else factors
        spread = sparse.csr_matrix((np.ones(len(slot), dtype), (slot, np.arange(len(slot)))), (mask.size, len(slot)))
        placed = (spread @ here).tocsr()
        placed.sort_indices()
        column = number[attribute[place]]
        table = SparseMap.of(placed, column, weights.outcome[place], weights.shape[1], dtype, bundles=bundles)
        initial = (values[place], beginning)
        return cls(table, place.astype(np.int32), once, label, shared, initial, rows)

    def start(self):
        """Weights of the attributes that occur more than once, and a shared one for each token that needs it."""
        return self.initial

    def sizes(self):
        """√k units of L1 penalty for a parameter that is shared by k weights."""
        return (np.ones((), self.initial[0].dtype), self.once)

    def scores(self, parameters):
        """Scores (time, outcome, row)."""
        theta, shared = parameters
        found = _by_row(self.map(theta), self.rows)
        if self.once is None:
            return found
        outcomes = jnp.arange(found.shape[1], dtype=jnp.int32)[None, :, None]
        return found + jnp.where(outcomes == self.label[:, None], (shared * self.once)[:, None], 0)

    def potentials(self, parameters, key=None) -> Potentials:
        """Log-potentials of labels."""
        return Potentials(self.scores(parameters))

    def unfolded(self, weights: SparseWeights, parameters) -> SparseWeights:
        """All weights, from the parameters of the fit."""
        theta = np.asarray(parameters[0])
        values = np.zeros(len(weights.outcome), theta.dtype)
        values[self.place] = theta
        if self.shared is not None:
            mine, slots = self.shared
            shared = np.asarray(parameters[1])
            each = np.divide(shared, self.once, out=np.zeros_like(shared), where=self.once > 0)
            values[mine] = each.reshape(-1)[slots]
        return weights.valued(values)


def _by_row(found, rows: int):
    """From (slot, outcome) to (time, outcome, row)."""
    return jnp.swapaxes(found.reshape(-1, rows, found.shape[-1]), 1, 2)


class SparseRows(Part):
    """Sparse weights in a fit that takes a few rows at a time.

    Attributes:
        columns: the attributes of each token, (time, entry, row); padding points past the last one.
        values: their values, or None where all are one.
        parameter: which weight stands at each attribute and outcome; as many as there are weights where there is none.
        initial: the weights to start with.
    """

    columns: Any
    values: Any
    parameter: Any
    initial: Any

    @classmethod
    def of(cls, batch: Batch, matrix, weights: SparseWeights) -> "SparseRows":
        """Tables of all rows."""
        count = np.diff(matrix.indptr)
        place = np.arange(len(matrix.indices)) - np.repeat(matrix.indptr[:-1], count)
        owner = np.repeat(np.arange(len(count)), count)
        columns = np.zeros((len(count), max(int(count.max(initial=0)), 1)), np.int32)  # shifted by one: 0 is padding
        columns[owner, place] = matrix.indices + 1
        values = None
        if not (matrix.data == 1).all():
            values = np.zeros(columns.shape, weights.values.dtype)
            values[owner, place] = matrix.data
            values = batch.spread(values)
        parameter = np.full((matrix.shape[1] + 1, weights.shape[1]), len(weights.outcome), np.int32)
        parameter[weights.attribute + 1, weights.outcome] = np.arange(len(weights.outcome))
        return cls(batch.spread(columns), values, parameter, weights.values)

    def start(self):
        """The weights."""
        return self.initial

    def scores(self, parameters):
        """Scores (time, outcome, row)."""
        theta = jnp.concatenate([parameters, jnp.zeros(1, parameters.dtype)])
        picked = theta[jnp.asarray(self.parameter)[jnp.asarray(self.columns)]]  # (time, entry, row, outcome)
        if self.values is not None:
            picked = picked * self.values[..., None]
        return jnp.moveaxis(picked.sum(1), -1, 1)

    def potentials(self, parameters, key=None) -> Potentials:
        """Log-potentials of labels."""
        return Potentials(self.scores(parameters))

    def take(self, rows) -> "SparseRows":
        """The part of some rows."""
        columns, values = jax.tree.map(lambda t: jnp.asarray(t)[..., rows], (self.columns, self.values))
        return SparseRows(columns, values, self.parameter, self.initial)

    def unfolded(self, weights: SparseWeights, parameters) -> SparseWeights:
        """All weights, from the parameters of the fit."""
        return weights.valued(np.asarray(parameters))


class BothParts(Part):
    """The attributes of tokens and of steps."""

    node: Any
    pair: Any

    def start(self):
        """Parameters of both."""
        return tuple(None if p is None else p.start() for p in (self.node, self.pair))

    def sizes(self):
        """Sizes of both."""
        return tuple(None if p is None else p.sizes() for p in (self.node, self.pair))

    def take(self, rows) -> "BothParts":
        """The part of some rows."""
        node, pair = (None if p is None else p.take(rows) for p in (self.node, self.pair))
        return BothParts(node, pair)

    def potentials(self, parameters, key=None) -> Potentials:
        """Log-potentials of labels and of steps."""
        node = None if self.node is None else self.node.scores(parameters[0])
        pair = None
        if self.pair is not None:
            flat = self.pair.scores(parameters[1])
            size = round(flat.shape[1] ** 0.5)
            pair = flat.reshape(flat.shape[0], size, size, flat.shape[2])
        return Potentials(node, pair)


def as_feature(feature) -> AbstractFeature:
    """A feature, or what `attributes` and `templates` make."""
    if isinstance(feature, AbstractFeature):
        return feature
    if isinstance(feature, Attributes | Templates):
        return SparseFeature(feature)
    raise ValueError(
        f"{feature!r} is not a feature; use attributes(), templates(…), dense(), feature_function(f) or "
        "neural_feature(module)"
    )
