"""Semi-Markov chains: a label holds for a segment of steps, and what it adds may depend on the whole segment.

A segmentation s of T steps is a list of segments (begin, length, label) that follow one another without gaps. With
b, d and k for the begin, the length less one and the label of a segment, and j for the label of the segment before it,

    score(s) = Σ_segments [ begin[b, k] + segment[b, d, k] + length[d, k] + pair[j, k] + joint[b, d, k, j] + end[b + d, k]
                            + Σ_{t = b}^{b+d} node[t, k] ].

(Sarawagi and Cohen 2004; as a hidden semi-Markov model, Yu 2010.) As a chain its states are (steps left, label): a segment
chooses its length where it begins and counts down. A step costs K² + K·L products for K labels and lengths up to L, and the
steps' own potentials are added as the segment goes, so that messages stay in range.
"""

import equinox as eqx
import jax.numpy as jnp

from .compound import AbstractKind, Steps
from .scaled import _finite_max


class Segments(AbstractKind):
    """Semi-Markov steps: see the module.

    By name, of one step: `node`, `begin`, `end` (label, row); `pair` (label, label) or with rows, from j to k; `length`
    (length, label), the same at all steps; `segment` (length, label, row); `joint` (length, label, label before, row). All
    but `node`, `pair` and `length` may be missing. The mark `left` (row,) is how many steps follow. Messages
    are (steps left, label, row).

    Where `left` is at least the longest length everywhere, the last segment may go on beyond the end of the data, as the
    state of a hidden semi-Markov model does that is still there when the observation ends.

    Example:
        >>> import jax.numpy as jnp
        >>> from chainrule.inference import compound
        >>> from chainrule.inference.semi_markov import Segments
        >>> fixed = {"pair": jnp.zeros((1, 1)), "length": jnp.zeros((2, 1))}
        >>> start, left = jnp.array([[True], [False], [False]]), jnp.array([[2], [1], [0]])
        >>> steps = compound.Steps(fixed, {"node": jnp.zeros((3, 1, 1))}, {"left": left}, start)
        >>> found = compound.smooth(Segments(1, 2), steps, jnp.ones((3, 1)))
        >>> round(float(jnp.exp(found.terms.sum())), 4)  # 1 + 1 + 1, 1 + 2 and 2 + 1
        3.0
        >>> (3 * found.fixed["length"][:, 0]).round(4).tolist()  # how often each length occurs in all three
        [5.0, 2.0]
    """

    num_labels: int = eqx.field(static=True)
    max_length: int = eqx.field(static=True)

    @property
    def shape(self) -> tuple[int, int]:
        """The steps that the segment has left, and its label."""
        return self.max_length, self.num_labels

    def exponentiated(self, steps: Steps):
        """What opens a segment is scaled to a maximum of one, or going on with one is scaled down: steps must compare."""
        fixed, varying = {}, {}
        peaks = {}
        for name, value in steps.fixed.items():
            peaks[name] = jnp.broadcast_to(_finite_max(value, None), steps.start.shape)
            fixed[name] = jnp.exp(value - _finite_max(value, None))
        for name, value in steps.varying.items():
            axes = tuple(range(1, value.ndim - 1))
            peaks[name] = _finite_max(value, axes)
            varying[name] = jnp.exp(value - jnp.expand_dims(peaks[name], axes))
        none = jnp.zeros_like(peaks["node"])
        fresh = sum((peaks[name] for name in ("length", "begin", "segment") if name in peaks), none)
        inside = fresh + peaks["pair"] + peaks.get("joint", none)
        closing = peaks.get("end", none)
        marks = {
            "open": jnp.where(steps.start, 1, jnp.exp(jnp.minimum(inside, 0))),
            "keep": jnp.exp(-jnp.maximum(inside, 0)),
            "close": jnp.exp(jnp.minimum(closing, 0)),
            "hold": jnp.exp(-jnp.maximum(closing, 0)),
        }
        scale = peaks["node"] + jnp.maximum(closing, 0) + jnp.where(steps.start, fresh, jnp.maximum(inside, 0))
        return Steps(fixed, varying, steps.marks | marks, steps.start), scale

    def _fresh(self, ring, w):
        """What a segment of each length and label adds that begins here, as far as it fits."""
        begin = None if "begin" not in w else w["begin"][None]
        opened = None if "open" not in w else w["open"][None, None]
        found = ring.times(w["length"][..., None], w.get("segment"), begin, opened)
        lengths = jnp.arange(self.max_length, dtype=w["left"].dtype)
        return jnp.where(lengths[:, None, None] <= w["left"][None, None], found, ring.zero)

    def _here(self, ring, w, message):
        """What this step adds by itself."""
        message = ring.times(message, w["node"][None])
        if "end" not in w:
            return message
        last = ring.times(message[:1], w["end"][None], w["close"][None, None] if "close" in w else None)
        rest = ring.times(message[1:], w["hold"][None, None] if "hold" in w else None)
        return jnp.concatenate([last, rest])

    def enter(self, ring, w):
        """The first segment."""
        return self._here(ring, w, self._fresh(ring, w))

    def step(self, ring, w, message):
        """A segment goes on, or ends and another begins."""
        pair = jnp.swapaxes(w["pair"], 0, 1)
        if "joint" in w:
            pair = pair if pair.ndim == 3 else pair[..., None]
            came = ring.contract(ring.times(w["joint"], pair[None]), message[0])
        else:
            came = ring.contract(pair, message[0])[None]
        on = jnp.concatenate([message[1:], jnp.full_like(message[:1], ring.zero)])
        on = ring.times(on, w["keep"][None, None] if "keep" in w else None)
        return self._here(ring, w, ring.plus(ring.times(self._fresh(ring, w), came), on))

    def _one_fresh(self, w, left, label):
        """As `_fresh`, of one length and label of one row, with what the step adds by itself."""
        found = w["length"][left, label]
        found = found + w["segment"][left, label] if "segment" in w else found
        found = found + w["begin"][label] if "begin" in w else found
        return jnp.where(left <= w["left"], found, -jnp.inf) + self._one_here(w, left, label)

    def _one_here(self, w, left, label):
        here = w["node"][label]
        return here + jnp.where(left == 0, w["end"][label], 0) if "end" in w else here

    def entry(self, w, state):
        """The first segment."""
        return self._one_fresh(w, state // self.num_labels, state % self.num_labels)

    def edges(self, w, state):
        """The same segment with one more step left, or the last step of one with any label."""
        size = self.num_labels
        left, label = state // size, state % size
        opened = w["pair"][:, label] + self._one_fresh(w, left, label)
        opened = opened + w["joint"][left, label] if "joint" in w else opened
        on = jnp.where(left + 1 < self.max_length, self._one_here(w, left, label), -jnp.inf)
        origin = jnp.minimum(state + size, self.num_states - 1)
        return jnp.append(opened, on), jnp.append(jnp.arange(size, dtype=state.dtype), origin)
