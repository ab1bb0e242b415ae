"""Chains of second order: what a label adds depends on the two before it.

    score(y) = Σ_t node[t, y_t] + Σ_{t≥1} pair[y_{t−1}, y_t] + Σ_{t≥1} triple[y_{t−2}, y_{t−1}, y_t]

As a chain of first order its states are pairs of labels (He 1988), K (K + 1) of them, since the first label has none before
it. A step from (h, i) goes to the K pairs (i, j) only: K³ products and not K⁴.
"""

import equinox as eqx
import jax.numpy as jnp

from .compound import AbstractKind, Steps
from .scaled import _finite_max


class Triples(AbstractKind):
    """Second-order steps: see the module.

    `node` is (label, row), `pair` (label, label) or with rows, from i to j; `triple` is (label, label, label + 1) or with
    rows: entry [i, j, h] is of j after i after h, where h = K means that i is the first label. Messages are
    (label, label before, row).
    """

    num_labels: int = eqx.field(static=True)

    @property
    def shape(self) -> tuple[int, int]:
        """The label, and the one before it."""
        return self.num_labels, self.num_labels + 1

    def exponentiated(self, steps: Steps):
        """Each family scaled to a maximum of one."""
        fixed, varying, scale = {}, {}, jnp.zeros((), steps.varying["node"].dtype)
        for name, value in steps.fixed.items():
            peak = _finite_max(value, None)
            fixed[name], scale = jnp.exp(value - peak), scale + peak
        inner = jnp.broadcast_to(scale, steps.start.shape)
        outer = jnp.zeros_like(inner)
        for name, value in steps.varying.items():
            axes = tuple(range(1, value.ndim - 1))
            peak = _finite_max(value, axes)
            varying[name] = jnp.exp(value - jnp.expand_dims(peak, axes))
            inner = inner + peak
            outer = outer + peak if name == "node" else outer
        return Steps(fixed, varying, steps.marks, steps.start), jnp.where(steps.start, outer, inner)

    def enter(self, ring, w):
        """The first label has none before it."""
        node = w["node"][:, None]
        return jnp.concatenate([jnp.full((len(node), self.num_labels, node.shape[2]), ring.zero, node.dtype), node], 1)

    def step(self, ring, w, message):
        """Σ_h triple[i, j, h] · message[i, h], times what i and j add by themselves."""
        came = ring.contract(w["triple"], message)
        pair = w["pair"] if w["pair"].ndim == 3 else w["pair"][..., None]
        came = ring.times(jnp.swapaxes(ring.times(came, pair), 0, 1), w["node"][:, None])
        return jnp.concatenate([came, jnp.full_like(came[:, :1], ring.zero)], 1)

    def entry(self, w, state):
        """Without a label before."""
        label, before = state // (self.num_labels + 1), state % (self.num_labels + 1)
        return jnp.where(before == self.num_labels, w["node"][label], -jnp.inf)

    def edges(self, w, state):
        """From each label before the one before."""
        size = self.num_labels
        label, before = state // (size + 1), state % (size + 1)
        inner = jnp.minimum(before, size - 1)
        scores = w["triple"][inner, label] + w["pair"][inner, label] + w["node"][label]
        origin = inner * (size + 1) + jnp.arange(size + 1, dtype=state.dtype)
        return jnp.where(before < size, scores, -jnp.inf), origin
