"""A restricted Boltzmann machine of ratings, conditional on what was rated (Salakhutdinov, Mnih and Hinton 2007).

Each user is a machine of their own: a softmax unit for each item that they rated, none for the others, and weights that
all users share. That somebody rated an item at all says something about them, whatever the grade; with r_i = 1 where an
item is known to have been rated,

    p(h_j = 1 | V, r) = σ(b_j + Σ_i Σ_k v_ik W_ikj + Σ_i r_i D_ij)
    p(v_i = k | h)    ∝ exp(a_ik + Σ_j W_ikj h_j)
    F(V | r)          = −Σ_ik a_ik v_ik − Σ_j log(1 + exp(b_j + …))

Learning is contrastive divergence, the gradient of F at the data less F at what a few sweeps over the rated items make of
them.
"""

from collections.abc import Hashable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Key

from ..forms.chain import is_concrete
from ..forms.products import product
from ..inference.gibbs import uniform
from ..learning import guarded, minibatch
from ..learning import progress as bars
from ..learning.fit import Fit
from ..learning.guarded import Safeguard
from ..learning.minibatch import MiniBatch
from .emissions.base import as_parameter, generator
from .ratings import Ratings

_BLOCK = 256  # users predicted side by side


class Recommender(eqx.Module):
    """A conditional RBM of ratings.

    Args:
        weights: W, shape (item, grade, hidden).
        rated_weights: D, shape (item, hidden).
        visible_bias: a, shape (item, grade).
        hidden_bias: b, shape (hidden,).
        scale: the grades, rising.
        items: the items' names.

    Raises:
        ValueError: shapes that do not fit together, or parameters that are not finite.

    Example:
        >>> import jax, chainrule as cr
        >>> ratings = cr.Ratings.latent_factors(jax.random.key(0), 200, 30, share=0.4)
        >>> train, test = ratings.split(jax.random.key(1))
        >>> start = cr.Recommender.random(jax.random.key(2), train, num_hidden=8)
        >>> start
        Recommender(30 items, 5 grades, 8 hidden)
        >>> fit = start.fit(train, method=cr.MiniBatch(epochs=20, learning_rate=0.01), key=jax.random.key(3))
        >>> fit.model.predict(train).shape
        (200, 30)

    Reference: Salakhutdinov, Mnih and Hinton, "Restricted Boltzmann machines for collaborative filtering", 2007.
    """

    weights: Float[Array, "item grade hidden"]
    rated_weights: Float[Array, "item hidden"]
    visible_bias: Float[Array, "item grade"]
    hidden_bias: Float[Array, " hidden"]
    scale: tuple[float, ...] = eqx.field(static=True)
    items: tuple[Hashable, ...] = eqx.field(static=True)

    def __init__(self, weights, rated_weights, visible_bias, hidden_bias, *, scale=(1, 2, 3, 4, 5), items=None):
        given = [as_parameter(x) for x in (weights, rated_weights, visible_bias, hidden_bias)]
        self.weights, self.rated_weights, self.visible_bias, self.hidden_bias = given
        if self.weights.ndim != 3:
            raise ValueError(f"weights have shape {self.weights.shape}; wanted (item, grade, hidden)")
        num_items, grades, hidden = self.weights.shape
        wanted = {"rated_weights": (num_items, hidden), "visible_bias": (num_items, grades), "hidden_bias": (hidden,)}
        for name, shape in wanted.items():
            if getattr(self, name).shape != shape:
                raise ValueError(f"{name} has shape {getattr(self, name).shape}; the weights ask for {shape}")
        for name in ("weights", *wanted):
            value = getattr(self, name)
            if is_concrete(value) and not np.isfinite(np.asarray(value)).all():
                raise ValueError(f"{name} has entries that are NaN or infinite")
        self.scale = tuple(float(grade) for grade in scale)
        self.items = tuple(range(num_items)) if items is None else tuple(items)
        if len(self.scale) != grades or len(self.items) != num_items:
            raise ValueError(
                f"{len(self.scale)} grades and {len(self.items)} items' names for weights of shape {self.weights.shape}"
            )

    @classmethod
    def random(cls, key: Key[Array, ""], ratings: Ratings, *, num_hidden: int = 50) -> "Recommender":
        """Small weights, N(0, 0.01²), and biases that give each item the grades it has in `ratings`, smoothed."""
        if num_hidden < 1:
            raise ValueError(f"num_hidden is {num_hidden}; at least one is needed")
        rng, indices, grades = generator(key), ratings.indices(), len(ratings.scale)
        counts = np.stack([(indices == k).sum(0) for k in range(grades)], axis=1)
        overall = counts.sum(0) / counts.sum() if counts.sum() else np.full(grades, 1 / grades)
        logs = np.log((counts + 2 * (overall + 0.05)) / (counts.sum(1, keepdims=True) + 2 * (overall + 0.05).sum()))
        weights = 0.01 * rng.normal(size=(len(ratings.items), grades, num_hidden))
        return cls(
            weights,
            np.zeros((len(ratings.items), num_hidden)),
            logs,
            np.zeros(num_hidden),
            scale=ratings.scale,
            items=ratings.items,
        )

    def free_energy(self, ratings: Ratings, *, rated: Bool[np.ndarray, "user item"] | None = None) -> Any:
        """F(V | r) of each user.

        Args:
            ratings: what is known of them.
            rated: what they are known to have rated, whether or not the grade is known: at least what `ratings` has.

        Raises:
            ValueError: other items or another scale than the model's, or a `rated` that lacks some of the ratings.
        """
        return _free_energy(self, *self._known(ratings, rated))

    def predict_probs(
        self, ratings: Ratings, *, rated: Bool[np.ndarray, "user item"] | None = None
    ) -> Float[np.ndarray, "user item grade"]:
        """The probability of each grade for each user and item, given what the user rated.

        One update of a mean field: p̂_j = p(h_j = 1 | V, r), then the softmax of a + W p̂ (section 2.3 of the paper). An item
        that the user has rated is predicted from itself too: hide it first, as `Ratings.split` does, to judge predictions.

        Args, Raises: as `free_energy`.
        """
        indices, known = self._known(ratings, rated)
        parts = [
            np.asarray(_predict(self, *_block(indices, known, start)))[: len(indices) - start]
            for start in range(0, len(indices), _BLOCK)
        ]
        return np.concatenate(parts)

    def predict(
        self, ratings: Ratings, *, rated: Bool[np.ndarray, "user item"] | None = None
    ) -> Float[np.ndarray, "user item"]:
        """The expected grade for each user and item; see `predict_probs`."""
        return self.predict_probs(ratings, rated=rated) @ np.asarray(self.scale)

    def recommend(
        self, ratings: Ratings, count: int = 10, *, rated: Bool[np.ndarray, "user item"] | None = None
    ) -> list[list[Hashable]]:
        """For each user the `count` items of highest expected grade among those not rated, the best first.

        Raises:
            ValueError: a count below one, or as `free_energy`.

        Example:
            >>> import chainrule as cr, jax, numpy as np
            >>> ratings = cr.Ratings([[5, np.nan, 4], [np.nan, 2, np.nan]], items=("Alien", "Jaws", "Heat"))
            >>> model = cr.Recommender.random(jax.random.key(0), ratings, num_hidden=2)  # not fitted yet
            >>> model.recommend(ratings, 2)
            [['Jaws'], ['Alien', 'Heat']]
        """
        if count < 1:
            raise ValueError(f"count is {count}; recommend at least one item")
        known = self._known(ratings, rated)[1]
        expected = np.where(known, -np.inf, self.predict(ratings, rated=rated))
        best = np.argsort(-expected, axis=1, kind="stable")[:, :count]
        return [[self.items[i] for i in row if not known[user, i]] for user, row in enumerate(best)]

    def fit(
        self,
        ratings: Ratings,
        *,
        key: Key[Array, ""],
        method: MiniBatch | None = None,
        sweeps: int = 1,
        rated: Bool[np.ndarray, "user item"] | None = None,
        safeguard: Safeguard | None = None,
        progress: bool = False,
    ) -> Fit:
        """Learn by contrastive divergence, in one compiled loop.

        Args:
            ratings: what is known; only what is rated takes part.
            key: a `jax.random.key`.
            method: epochs, users in a batch, learning rate; `l2` weighs the squares of W and D.
            sweeps: k of CD-k. A few more towards the end of a long fit help.
            rated: as for `free_energy`.
            safeguard: what to do when the fit diverges.
            progress: whether to show a bar.

        `Fit.history` is the free energy of the data less that of what the sweeps made of them, at each step.

        Raises:
            ValueError: fewer than one sweep, another method than `MiniBatch`, or as `free_energy`.
        """
        if sweeps < 1:
            raise ValueError(f"sweeps is {sweeps}; at least one is needed")
        method = MiniBatch(epochs=30, batch_size=50, learning_rate=5e-3, l2=0.0) if method is None else method
        if not isinstance(method, MiniBatch):
            raise ValueError(f"a Recommender is fitted by MiniBatch() and sweeps=…, not by {type(method).__name__}")
        indices, known = self._known(ratings, rated)
        order = method.order(generator(key), len(indices), len(indices))
        pace = minibatch.Pace.of(method, len(order))
        traced = jax.tree.map(jnp.asarray, (method, Safeguard() if safeguard is None else safeguard))
        l2 = jnp.asarray(method.l2 / len(indices), float)
        with bars.bar("recommender", total=len(order), enabled=progress) as token:
            data = indices, known
            end, shown = _descend(
                self, data, order, key, traced, pace, l2, jnp.asarray(sweeps), token, average=bool(method.average)
            )
        history = np.asarray(shown)[: int(end.taken)]
        return Fit(
            model=end.descent.answer,
            status=end.status(),
            iterations=int(end.taken),
            log_prob=float("nan"),
            history=history,
            restart_objectives=np.array([history[-1]]),
            degenerate=np.zeros(0, bool),
            num_parameters=sum(leaf.size for leaf in jax.tree.leaves(self)),
            num_observations=int((indices >= 0).sum()),
        )

    def _known(self, ratings: Ratings, rated) -> tuple[np.ndarray, np.ndarray]:
        if ratings.items != self.items:
            raise ValueError(f"the ratings are of {len(ratings.items)} items, not those of the model in their order")
        if ratings.scale != self.scale:
            raise ValueError(f"the ratings have the scale {ratings.scale}, the model {self.scale}")
        known = ratings.rated if rated is None else np.asarray(rated, bool)
        if known.shape != ratings.table.shape:
            raise ValueError(f"rated has shape {known.shape}; the ratings have {ratings.table.shape}")
        if (ratings.rated & ~known).any():
            user, item = np.argwhere(ratings.rated & ~known)[0]
            raise ValueError(
                f"user {ratings.users[user]!r} has a rating of {ratings.items[item]!r}, which `rated` says is not rated"
            )
        return ratings.indices(), known

    def __repr__(self):
        items, grades, hidden = self.weights.shape
        return f"Recommender({items} items, {grades} grades, {hidden} hidden)"


def _block(indices, known, start: int):
    """Some users, filled up to a whole block, so that one program serves all of them."""
    rows = np.minimum(np.arange(start, start + min(_BLOCK, len(indices))), len(indices) - 1)
    return indices[rows], known[rows]


def _one_hot(model: Recommender, indices):
    return jax.nn.one_hot(indices, len(model.scale), dtype=model.weights.dtype)  # −1 gives zeros


def _drive(model: Recommender, values: Float[Array, "user item grade"], known) -> Float[Array, "user hidden"]:
    flat = product(values.reshape(len(values), -1), model.weights.reshape(-1, model.weights.shape[-1]))
    return model.hidden_bias[None] + flat + product(known.astype(flat.dtype), model.rated_weights)


def _fields(model: Recommender, hidden: Float[Array, "user hidden"]) -> Float[Array, "user item grade"]:
    flat = product(hidden, model.weights.reshape(-1, model.weights.shape[-1]).T)
    return model.visible_bias[None] + flat.reshape(len(hidden), *model.visible_bias.shape)


def _energies(model: Recommender, values, known) -> Float[Array, " user"]:
    own = (values * model.visible_bias[None]).sum((1, 2))
    return -own - jax.nn.softplus(_drive(model, values, known)).sum(1)


@jax.jit
def _free_energy(model: Recommender, indices, known):
    return _energies(model, _one_hot(model, indices), known)


@jax.jit
def _predict(model: Recommender, indices, known):
    hidden = jax.nn.sigmoid(_drive(model, _one_hot(model, indices), known))
    return jax.nn.softmax(_fields(model, hidden), axis=-1)


def reconstruct(model: Recommender, key, values, known, sweeps):
    """What sweeps of Gibbs sampling make of the ratings of each user, on the items that have one."""
    present = values.sum(-1)

    def sweep(step, values):
        to_hidden, to_values = jax.random.split(jax.random.fold_in(key, step))
        on = jax.nn.sigmoid(_drive(model, values, known))
        hidden = (uniform(to_hidden, on.shape, on.dtype) < on).astype(on.dtype)
        edges = jnp.cumsum(jax.nn.softmax(_fields(model, hidden), axis=-1), axis=-1)
        dice = uniform(to_values, present.shape, on.dtype)[..., None]
        grade = (edges[..., :-1] <= dice * edges[..., -1:]).sum(-1, dtype=jnp.int32)
        return _one_hot(model, grade) * present[..., None]

    return lax.fori_loop(0, sweeps, sweep, values)


@eqx.filter_jit
def _descend(model, data, order, key, traced, pace, l2, sweeps, token, *, average: bool):
    (indices, known), (method, guard) = data, traced

    def step(model, memory, picked, key):
        values, rated = _one_hot(model, indices[picked]), known[picked]
        made = reconstruct(model, key, values, rated, sweeps)

        def loss(model):
            gap = (_energies(model, values, rated) - _energies(model, made, rated)).mean()
            squares = (model.weights**2).sum() + (model.rated_weights**2).sum()
            return gap + l2.astype(gap.dtype) * squares, gap

        found, gradient = jax.value_and_grad(loss, has_aux=True)(model)
        return found, gradient, memory

    start = minibatch.begin(model, method, average=average), None
    return guarded.descend(step, start, order, key, method, pace, guard, jnp.asarray(jnp.inf), token)
