"""Linear-chain conditional random fields.

    p(y | x) = exp( Σ_i Σ_j w_j f_j(x, y_{i−1}, y_i, i) ) / Z(x)

for labels y of a sentence x (Lafferty, McCallum and Pereira 2001). The features may be any functions; see
`chainrule.features`. Beside them the model has weights for each step from a label to the next, for first and for last
labels, and a structure: which labels may begin, follow one another and end.
"""

import dataclasses
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float, Key

from ..forms.chain import Chain, assemble
from ..forms.checks import whole
from ..graphs.factor_graph import FactorGraph
from ..learning.fit import Fit
from ..learning.gradient import LBFGS
from ..learning.minibatch import AveragedPerceptron, MiniBatch
from ..learning.validation import Validation
from . import crf_engine as engine
from . import crf_inspection, crf_learning, crf_second_order
from .crf_data import IndexedSentences, gold_of, read_sentences, structure_of
from .crf_objectives import Likelihood, MaxMargin, SoftmaxMargin
from .crf_scores import best_labels, check_possible, indexed, scores_of, scores_of_one, unrolled, weights_of
from .data import host
from .features.base import AbstractFeature, Batch, Options
from .features.sparse import as_feature
from .results import Path, Posterior, Table

if TYPE_CHECKING:
    import networkx as nx


class LinearChainCRF(eqx.Module):
    """A linear-chain conditional random field.

    Args:
        labels: the labels, any hashable values.
        features: a list of features, mixed freely: `attributes()`, `templates(…)`, `dense()`, `feature_function(f)`,
            `neural_feature(module)`.
        transitions: a graph over the labels whose edges are the steps that are allowed, such as `bio_graph(labels)`; nodes
            may say `initial=False` or `final=False`. Without it all steps are allowed.
        boundaries: give first and last labels weights of their own.
        seen_steps: give a weight to the steps between labels that occur in training only; the others stay possible, with
            weight zero.
        all_pairs: give a weight to each attribute with each label, instead of to pairs that occur together.
        min_pairs: leave out pairs that occur at fewer tokens.
        local: normalise each step by itself, p(y | x) = Π_t p(y_t | y_{t−1}, x), with the same features: a maximum-entropy
            Markov model (McCallum, Freitag and Pereira 2000). It trains without forward–backward, and suffers from label
            bias, which the CRF was invented against. Where `transitions` lead to labels that nothing may follow, or nothing
            that may be last, part of the mass is lost on the way; p(y | x) is then divided by what is left, here too.
        order: how many labels before a label speaks of: 1, or 2 for p(y | x) with weights for each three labels in a row
            besides, and features f(x, y_prev2, y_prev, y, i). A step then costs K³ instead of K², whatever is forbidden.

    Raises:
        ValueError: no labels or one twice, something that is not a feature, a graph over other labels, or another order.

    A sentence is a list of tokens, or an array (time, …), as the features want it: an array is always one sentence. Queries
    take one sentence, or a list of them, or what `index` makes of either, and answer in the same form.

    What is known of the labels may be impossible under `transitions`. Its probability is zero: `log_prob` and
    `log_partition` answer −inf. The other queries have nothing to answer, and raise a ValueError that names the sentence,
    as all do where nothing at all is possible; under `jit`, where nobody can look, they give states −1 and marginals of
    zero.

    Example:
        >>> import chainrule as cr
        >>> sentences = [["the", "dog", "barks"], ["a", "cat", "sleeps"], ["the", "cat", "barks"]]
        >>> tags = [["D", "N", "V"]] * 3
        >>> crf = cr.LinearChainCRF(["D", "N", "V"], [cr.templates("%x[0,0]", "%x[-1,0]")])
        >>> fit = crf.fit(sentences, tags, method=cr.LBFGS(l2=0.1))
        >>> fit.model.predict(["a", "dog", "sleeps"])
        ['D', 'N', 'V']

        Of second order, with a feature of three labels in a row:

        >>> def back_again(x, y_prev2, y_prev, y, i):
        ...     return y == y_prev2
        >>> cr.LinearChainCRF(["D", "N", "V"], [cr.templates("%x[0,0]"), cr.feature_function(back_again)], order=2)
        LinearChainCRF(3 labels, [Templates(1 template), feature_function(back_again)], order=2)
    """

    labels: tuple[Hashable, ...] = eqx.field(static=True)
    features: tuple[AbstractFeature, ...]
    transition: Float[Array, "label label"]
    first: Float[Array, " label"]
    last: Float[Array, " label"]
    structure: engine.Structure
    boundaries: bool = eqx.field(static=True)
    seen_steps: bool = eqx.field(static=True)
    local: bool = eqx.field(static=True)
    options: Options = eqx.field(static=True)
    token: str | None = eqx.field(static=True)
    second: Float[Array, "before label label"] | None

    def __init__(
        self,
        labels: Sequence[Hashable],
        features: Sequence[Any],
        *,
        transitions: "nx.DiGraph | None" = None,
        boundaries: bool = True,
        seen_steps: bool = False,
        all_pairs: bool = False,
        min_pairs: int = 1,
        local: bool = False,
        order: int = 1,
    ):
        self.labels = crf_learning.check_labels(labels)
        if isinstance(features, str) or not isinstance(features, Sequence):
            raise ValueError(f"features is {features!r}; wanted a list, such as [templates('%x[0,0]')]")
        self.features = tuple(as_feature(feature) for feature in features)
        min_pairs = whole(min_pairs, "min_pairs", why="pairs occur at one token or more")
        size = len(self.labels)
        self.transition, self.first, self.last = map(crf_learning.zeros, ((size, size), size, size))
        self.structure = engine.Structure(*structure_of(self.labels, transitions))
        self.boundaries, self.seen_steps, self.local = boundaries, seen_steps, local
        self.options = Options(all_pairs, min_pairs, self.labels)
        self.token = None
        self.second = crf_second_order.weights(order, size, self.features, local=local)

    def __check_init__(self):
        size = self.num_labels
        wanted = {"transition": (size, size), "first": (size,), "last": (size,)}
        if self.second is not None:
            wanted["second"] = (size + 1, size, size)
        for name, shape in wanted.items():
            if getattr(self, name).shape != shape:
                raise ValueError(f"{name} has shape {getattr(self, name).shape}; {size} labels ask for {shape}")

    @property
    def num_labels(self) -> int:
        """K."""
        return len(self.labels)

    @property
    def order(self) -> int:
        """How many labels before a label speaks of."""
        return 1 if self.second is None else 2

    def graph(self) -> "nx.DiGraph":
        """The steps that are allowed, with their weights."""
        import networkx as nx

        structure, weight = self.structure, np.asarray(self.transition)
        graph = nx.DiGraph()
        for k, label in enumerate(self.labels):
            graph.add_node(label, initial=bool(structure.initial[k]), final=bool(structure.final[k]))
        for i, j in np.argwhere(structure.pair):
            graph.add_edge(self.labels[i], self.labels[j], weight=float(weight[i, j]))
        return graph

    # Queries

    def index(self, x) -> IndexedSentences:
        """Read sentences once, to ask about them again and again: all queries take the result in place of sentences.

        It holds no weights: models of the same features, such as those that a longer fit goes on from, share it only if
        their features have read the same training data in one `fit`.

        Example:
            >>> import chainrule as cr
            >>> crf = cr.LinearChainCRF(["D", "N"], [cr.templates("%x[0,0]")])
            >>> model = crf.fit([["the", "dog"], ["a", "cat"]], [["D", "N"]] * 2).model
            >>> test = model.index([["a", "dog"], ["the", "cat"]])
            >>> test
            IndexedSentences(2 sentences, 4 tokens)
            >>> model.predict(test)
            [['D', 'N'], ['D', 'N']]
        """
        return indexed(self, x)

    def predict(self, x, *, known=None):
        """The most probable labels: a list of labels, or a list of such lists.

        Args:
            x: one sentence, or several.
            known: what is known of the labels, in the same form: for each token a label, a set of labels that it may
                have, or None.

        Raises:
            ValueError: sentences unlike those of training, an unknown label, or no labelling that the structure and what
                is known allow; the message names the sentence.

        Example:
            >>> import chainrule as cr
            >>> crf = cr.LinearChainCRF(["D", "N"], [cr.templates("%x[0,0]")])
            >>> model = crf.fit([["the", "dog"], ["a", "cat"]], [["D", "N"]] * 2).model
            >>> model.predict([["a", "dog"], ["the", "cat"]])
            [['D', 'N'], ['D', 'N']]
            >>> model.predict(["a", "dog"], known=[None, {"D"}])
            ['D', 'D']
        """
        batch, found = best_labels(self, x, known)
        name = self.labels.__getitem__
        names = [list(map(name, states.tolist())) for states in found]
        return names[0] if batch.single else names

    def viterbi(self, x, *, known=None) -> Path:
        """The most probable labels as indices; `log_prob` is their log p(y | x), which `known` does not change.

        Example:
            >>> import chainrule as cr
            >>> crf = cr.LinearChainCRF(["D", "N"], [cr.templates("%x[0,0]")])
            >>> model = crf.fit([["the", "dog"], ["a", "cat"]], [["D", "N"]] * 2).model
            >>> path = model.viterbi(["a", "dog"])
            >>> path.states.tolist(), path.labels.tolist(), bool(path.log_prob < 0)
            ([0, 1], ['D', 'N'], True)
        """
        batch, free, scores = scores_of(self, x, known)
        states, total = engine.viterbi(scores, batch.layout)
        check_possible(total, scores)
        log_prob = host(total) - host(engine.log_partition(free, batch.layout))
        return Path(batch.prepared.per_step(states), batch.prepared.per_sequence(log_prob), self.labels)

    def k_best(self, x, k: int, *, known=None) -> Path:
        """The k most probable labellings, best first: states (k, T) and log p(y | x) (k,).

        For several sentences: a list of states (k, T_i), and log-probabilities (S, k).

        Where fewer are possible, the rest have log-probability −inf and states −1. What is known picks among the
        labellings; it does not change their probabilities.

        Example:
            >>> import chainrule as cr
            >>> crf = cr.LinearChainCRF(["D", "N"], [cr.templates("%x[0,0]")])
            >>> model = crf.fit([["the", "dog"], ["a", "cat"]], [["D", "N"]] * 2).model
            >>> model.k_best(["a", "dog"], 2).labels.tolist()
            [['D', 'N'], ['D', 'D']]
        """
        k = whole(k, "k", why="ask for at least one labelling")
        batch, free, scores = scores_of(self, x, known)
        states, score = map(host, engine.k_best(scores, batch.layout, k))
        check_possible(score[: len(batch.sentences), 0], scores)
        log_prob = score - host(engine.log_partition(free, batch.layout))[:, None]
        return Path(batch.prepared.per_path(states), batch.prepared.per_sequence(log_prob), self.labels)

    def log_partition(self, x, *, known=None):
        """Log Z(x), the sum over all labellings (that agree with what is known): a number, or one for each sentence.

        Example:
            >>> import chainrule as cr
            >>> crf = cr.LinearChainCRF(["D", "N"], [cr.templates("%x[0,0]")])
            >>> model = crf.fit([["the", "dog"], ["a", "cat"]], [["D", "N"]] * 2).model
            >>> bool(model.log_partition(["a", "dog"], known=["D", None]) < model.log_partition(["a", "dog"]))
            True
        """
        batch, _, scores = scores_of(self, x, known)
        return batch.prepared.per_sequence(engine.log_partition(scores, batch.layout))

    def log_prob(self, x, y):
        """Log p(y | x): a number, or one for each sentence.

        Labels of which only some are known give the probability of all labellings that agree with them.

        Example:
            >>> import chainrule as cr
            >>> crf = cr.LinearChainCRF(["D", "N"], [cr.templates("%x[0,0]")])
            >>> model = crf.fit([["the", "dog"], ["a", "cat"]], [["D", "N"]] * 2).model
            >>> bool(model.log_prob(["a", "dog"], ["D", None]) > model.log_prob(["a", "dog"], ["D", "N"]))
            True
        """
        batch, free, scores = scores_of(self, x, y)
        everything = engine.log_partition(free, batch.layout)
        check_possible(everything, free)
        return batch.prepared.per_sequence(host(engine.log_partition(scores, batch.layout)) - host(everything))

    def posterior(self, x, *, known=None) -> Posterior:
        """Marginals p(y_t = k | x) and expected steps; `log_prob` is that of what is known, zero where that is nothing.

        Example:
            >>> import chainrule as cr
            >>> crf = cr.LinearChainCRF(["D", "N"], [cr.templates("%x[0,0]")])
            >>> model = crf.fit([["the", "dog"], ["a", "cat"]], [["D", "N"]] * 2).model
            >>> posterior = model.posterior(["a", "dog"])
            >>> bool(posterior["D"][0] > 0.5 > posterior["D"][1])
            True
        """
        batch, free, scores = scores_of(self, x, known)
        total, marginals, steps = engine.posterior(scores, batch.layout)
        steps = host(steps)
        steps = steps if steps.ndim == 2 else steps.sum((0, *range(3, steps.ndim)))
        check_possible(total, scores)
        everything = total if known is None else engine.log_partition(free, batch.layout)
        prepared = batch.prepared
        log_prob = host(total) - host(everything)
        return Posterior(prepared.per_sequence(log_prob), prepared.per_step(marginals), steps, self.labels)

    def pair_posterior(self, x, *, known=None):
        """Marginals of steps p(y_{t−1} = i, y_t = j | x), shape (T − 1, K, K): a list of them for several sentences.

        Example:
            >>> import chainrule as cr
            >>> crf = cr.LinearChainCRF(["D", "N"], [cr.templates("%x[0,0]")])
            >>> model = crf.fit([["the", "dog"], ["a", "cat"]], [["D", "N"]] * 2).model
            >>> model.pair_posterior(["a", "dog"]).sum().round(4).item()
            1.0
        """
        batch, _, scores = scores_of(self, x, known)
        check_possible(engine.log_partition(scores, batch.layout), scores)
        found = [steps[1:] for steps in batch.layout.unpack(engine.pair_marginals(scores, batch.layout))]
        return found[0] if batch.single else found

    def triple_posterior(self, x, *, known=None):
        """Marginals of three labels in a row, p(y_{t−2} = h, y_{t−1} = i, y_t = j | x), shape (T − 2, K, K, K).

        A list of them for several sentences. The model must be of order 2.

        Example:
            >>> import chainrule as cr
            >>> crf = cr.LinearChainCRF(["D", "N"], [cr.templates("%x[0,0]")], order=2)
            >>> model = crf.fit([["the", "dog"], ["a", "cat"]], [["D", "N"]] * 2).model
            >>> model.triple_posterior(["a", "dog", "the", "cat"]).sum((1, 2, 3)).round(4).tolist()
            [1.0, 1.0]
        """
        if self.second is None:
            raise ValueError(
                "triple_posterior is for models of order 2; this one is of order 1: ask for pair_posterior"
            )
        batch, _, scores = scores_of(self, x, known)
        check_possible(engine.log_partition(scores, batch.layout))
        triples = batch.layout.unpack(crf_second_order.triple_marginals(scores, batch.layout))
        found = [one[2:, ..., :-1].transpose(0, 3, 1, 2) for one in triples]
        return found[0] if batch.single else found

    def sample(self, key: Key[Array, ""], x, num_samples: int = 1, *, known=None) -> Path:
        """Draw labellings from p(y | x), exact and independent: states (num_samples, T), or a list of them.

        `log_prob` is log Z(x), the same for all draws.

        Example:
            >>> import jax, chainrule as cr
            >>> crf = cr.LinearChainCRF(["D", "N"], [cr.templates("%x[0,0]")])
            >>> model = crf.fit([["the", "dog"], ["a", "cat"]], [["D", "N"]] * 2).model
            >>> model.sample(jax.random.key(0), ["a", "dog"], 5).states.shape
            (5, 2)
        """
        num_samples = whole(num_samples, "num_samples", why="ask for at least one")
        batch, _, scores = scores_of(self, x, known)
        paths, total = engine.sample(key, scores, batch.layout, num_samples=num_samples)
        check_possible(total, scores)
        drawn = [p.T for p in batch.layout.unpack(paths)]
        return Path(drawn[0] if batch.single else drawn, batch.prepared.per_sequence(total), self.labels)

    def entropy(self, x, *, known=None):
        """Entropy of p(y | x) in nats, how undecided the whole labelling is: a number, or one for each sentence.

        Example:
            >>> import chainrule as cr
            >>> crf = cr.LinearChainCRF(["D", "N"], [cr.templates("%x[0,0]")])
            >>> model = crf.fit([["the", "dog"], ["a", "cat"]], [["D", "N"]] * 2).model
            >>> seen, unseen = model.entropy([["a", "dog"], ["zebra", "zebra"]])
            >>> bool(seen < unseen)
            True
        """
        batch, _, scores = scores_of(self, x, known)
        check_possible(engine.log_partition(scores, batch.layout), scores)
        return batch.prepared.per_sequence(engine.entropy(scores, batch.layout))

    def chain(self, x, *, known=None) -> Chain:
        """The chain form of one sentence, to be handed to any engine.

        For order 2 its K (K + 1) states are pairs of labels: state k · (K + 1) + j is label k after label j, and after none
        where j = K.

        Example:
            >>> import chainrule as cr
            >>> crf = cr.LinearChainCRF(["D", "N"], [cr.templates("%x[0,0]")])
            >>> model = crf.fit([["the", "dog"], ["a", "cat"]], [["D", "N"]] * 2).model
            >>> chain = model.chain(["a", "dog"])
            >>> chain.node.shape, chain.pair.shape
            ((2, 2), (2, 2))
        """
        batch, _, scores = scores_of_one(self, x, known, "chain")
        return engine.chain(scores, batch.layout)

    def factor_graph(self, x) -> FactorGraph:
        """p(y | x) of one sentence as a factor graph over the variables ("y", 0) … ("y", T−1).

        Example:
            >>> import chainrule as cr
            >>> crf = cr.LinearChainCRF(["D", "N"], [cr.templates("%x[0,0]")])
            >>> model = crf.fit([["the", "dog"], ["a", "cat"]], [["D", "N"]] * 2).model
            >>> model.factor_graph(["a", "dog"]).enumerate().map["y", 1]
            'N'
        """
        batch, _, scores = scores_of_one(self, x, None, "factor_graph")
        return unrolled(scores, self.labels, len(batch.sentences[0]))

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
        """The n steps between labels with the largest absolute weights: rows of weight, previous label, label."""
        weights = np.where(self.structure.pair, np.asarray(self.transition), 0)
        return crf_inspection.strongest_steps(weights, self.labels, n, self.second)

    # Learning

    def fit(
        self,
        x,
        y,
        *,
        method: LBFGS | MiniBatch | AveragedPerceptron | None = None,
        objective: Likelihood | MaxMargin | SoftmaxMargin | None = None,
        key: Key[Array, ""] | None = None,
        sample_weight=None,
        validation: Validation | None = None,
        progress: bool = False,
    ) -> Fit:
        """Learn the weights, by maximum (penalised) conditional likelihood.

        Weights that the model has already are where the fit begins (a warm start): attributes are matched by name.

        Args:
            x: sentences, a list.
            y: for each sentence a list with one entry for each token: its label, None where it is not known, or a set of
                labels that it may have. Unknown labels are summed out.
            method: `LBFGS(l1=…, l2=…)`, with penalties l1·Σ|w| and l2·Σw²; `MiniBatch(…)`, for networks; or
                `AveragedPerceptron(…)`. `LBFGS(l2=1.0)` by default.
            objective: what to minimise, `Likelihood()` by default, `MaxMargin()` or `SoftmaxMargin()`, which need all
                labels.
            key: for all but `LBFGS`: the order of the sentences, and dropout.
            sample_weight: how much each sentence counts, ≥ 0.
            validation: for all but `LBFGS`: what to do after each epoch. The model is then that of the best one.
            progress: show a progress bar.

        Returns:
            `Fit` with the fitted model. Its history is of the objective, penalties included, its sign turned so that it
            rises; for `MiniBatch`, whose steps see a few sentences each, that of each epoch as it went.

        Raises:
            ValueError: labels that do not fit the sentences, an unknown label, or labels that the structure forbids; the
                message names the sentence and the token.
        """
        method, objective = crf_learning.choose(method, objective)
        sentences, _, token = read_sentences(x, None)
        apart = any(feature.one_per_row for feature in self.features)
        one_per_row = apart or getattr(method, "one_per_row", False)
        batch = Batch.of(sentences, one_per_row=one_per_row)
        gold = gold_of(y, batch, self.labels)
        by_rows = isinstance(method, MiniBatch)
        if gold.allowed is not None and not isinstance(objective, Likelihood):
            raise ValueError(
                f"{type(objective).__name__} needs all labels; only the likelihood can sum unknown ones out"
            )
        if validation is not None and not by_rows:
            raise ValueError(
                f"validation looks on after each epoch, and {type(method).__name__} has none; use MiniBatch"
            )
        learned, problem = crf_learning.problem_of(self, batch, gold, sample_weight, by_rows, objective)

        def model_of(parameters):
            own, weights = parameters
            features = tuple(f.fitted(part, mine) for f, part, mine in zip(learned, problem.parts, own, strict=True))
            return self._with(features, weights, token)

        found = crf_learning.search(method, batch, problem, key, model_of, validation, progress=progress)
        return found.fit(model_of(found.parameters), batch.num_tokens)

    def num_parameters(self) -> int:
        """How many weights are not zero, those of steps and of first and last labels included.

        A weight of zero is one that an L1 penalty has left out, that `seen_steps` leaves out, or that is not allowed.
        """
        own = sum(int(np.count_nonzero(w)) for w in weights_of(self))
        return own + sum(feature.num_parameters() for feature in self.features)

    def _with(self, features, weights, token) -> "LinearChainCRF":
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        names = ("transition", "first", "last", "second")
        learned = {name: jax.device_put(w) for name, w in zip(names, weights, strict=False)}
        return assemble(LinearChainCRF, **(fields | learned | {"features": features, "token": token}))

    def __repr__(self):
        features = ", ".join(repr(feature) for feature in self.features)
        order = "" if self.second is None else ", order=2"
        return f"LinearChainCRF({self.num_labels} labels, [{features}]{order})"
