"""Deep belief networks: restricted Boltzmann machines stacked on each other's hidden units.

    p(v, h¹ … h^L) = p(v | h¹) p(h¹ | h²) … p(h^{L−1}, h^L),

with a machine of its own at the top and its conditionals on the way down. Each layer is fitted to the hidden units of
the one below, one after the other; adding a layer cannot lower a bound on the likelihood, if it begins as the layer below
it upside down.

References:
    Hinton, Osindero and Teh (2006), A fast learning algorithm for deep belief nets.
    Salakhutdinov and Murray (2008), On the quantitative analysis of deep belief networks.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from ...learning.contrastive import CD, PCD
from ...learning.fit import Fit
from . import engine
from .data import answer, as_rows, columns
from .machine import RBM
from .units import Binary


class DeepBeliefNetwork(eqx.Module):
    """A stack of machines, the lowest first.

    Args:
        layers: machines; the hidden units of each, binary, are the visible ones of the next.

    Raises:
        ValueError: no layers, or some that do not fit onto each other.

    Example:
        >>> import jax, numpy as np, chainrule as cr
        >>> data = np.random.default_rng(0).integers(0, 2, (200, 6))
        >>> net = cr.DeepBeliefNetwork.random(jax.random.key(0), [6, 4, 3])
        >>> [fit.status.name for fit in net.fit(data, method=cr.CD(epochs=2), key=jax.random.key(1))]
        ['MAX_ITERATIONS', 'MAX_ITERATIONS']
    """

    layers: tuple[RBM, ...]

    def __init__(self, layers: Sequence[RBM]):
        self.layers = tuple(layers)
        if not self.layers:
            raise ValueError("there are no layers; wanted at least one machine")
        for n, (low, high) in enumerate(zip(self.layers, self.layers[1:], strict=False)):
            if not isinstance(low.hidden, Binary) or not isinstance(high.visible, Binary):
                raise ValueError(f"layers {n} and {n + 1} do not meet in binary units: {low!r}, {high!r}")
            if low.num_hidden != high.num_visible:
                raise ValueError(
                    f"layer {n} has {low.num_hidden} hidden units, layer {n + 1} {high.num_visible} visible"
                )

    @classmethod
    def random(cls, key: Key[Array, ""], sizes: Sequence[int], *, visible=None, data=None) -> "DeepBeliefNetwork":
        """A stack to begin a fit with: `sizes` are the numbers of units from the visible layer up. See `RBM.random`."""
        sizes = list(sizes)
        if len(sizes) < 2:
            raise ValueError(f"sizes are {sizes}; wanted at least a visible and a hidden layer")
        keys = jax.random.split(key, len(sizes) - 1)
        first = {"visible": visible, "data": data}
        return cls([RBM.random(k, *sizes[n : n + 2], **(first if n == 0 else {})) for n, k in enumerate(keys)])

    @property
    def sizes(self) -> tuple[int, ...]:
        """Numbers of units, from the visible layer up."""
        return self.layers[0].num_visible, *(layer.num_hidden for layer in self.layers)

    def features(self, v) -> Any:
        """Probabilities of the highest hidden units, each layer's given those of the one below (mean field upwards).

        Example:
            >>> import chainrule as cr, numpy as np
            >>> layers = [cr.RBM([[2.0], [2.0]], hidden_bias=[-2.0]), cr.RBM([[4.0]], hidden_bias=[-2.0])]
            >>> net = cr.DeepBeliefNetwork(layers)
            >>> np.asarray(net.features([[0, 0], [1, 1]]), float).round(2).tolist()
            [[0.18], [0.82]]
        """
        rows = as_rows(self.layers[0], v)
        return answer(rows, _features(self, rows.values))

    def sample(self, key: Key[Array, ""], num_samples: int, *, sweeps: int = 1000) -> Any:
        """Draw rows: Gibbs sweeps of the highest machine, then one draw of each layer downwards."""
        first, second = jax.random.split(key)
        top = self.layers[-1].sample(first, num_samples, sweeps=sweeps)
        return top if len(self.layers) == 1 else _downwards(self, second, top)

    def log_prob_bound(self, key: Key[Array, ""], v, *, log_partition, num_samples: int = 100) -> Any:
        """An estimate of the variational lower bound of log p(v), by row (Salakhutdinov and Murray 2008, section 4).

            E_q[log p(v | h¹) + … + log p*(h^{L−1})] + H(q) − log Z,      q(h | v) layer by layer from the machines below.

        Args:
            key: seeds draws from q.
            v: rows (n, units), or one vector.
            log_partition: log Z of the highest machine, exact or the upper end of its bounds.
            num_samples: draws of q for each row.

        Returns:
            (n,): unbiased for the bound.
        """
        rows = as_rows(self.layers[0], v)
        log_z = jnp.asarray(log_partition, self.layers[0].dtype)
        return answer(rows, _bound(self, key, rows.values, num_samples=num_samples) - log_z)

    def fit(
        self,
        data,
        *,
        method: "CD | PCD | Sequence[CD | PCD] | None" = None,
        key: Key[Array, ""],
        progress: bool = False,
    ) -> "list[Fit]":
        """Fit the layers one after the other, each to a draw of the hidden units below for each row.

        Args:
            data: rows (n, units), none of their entries missing.
            method: for all layers, or one for each.
            key: seeds everything.
            progress: whether to show bars.

        Returns:
            A `Fit` for each layer. The last one's `model` is the whole stack; the others' are machines.

        Raises:
            ValueError: data that do not fit, or not one method for each layer.
        """
        methods = [method] * len(self.layers) if isinstance(method, CD | PCD | None) else list(method)
        if len(methods) != len(self.layers):
            raise ValueError(f"{len(methods)} methods for {len(self.layers)} layers")
        as_rows(self.layers[0], data)  # all of them, before the first layer takes its time
        fits, values = [], data
        for layer, chosen, k in zip(self.layers, methods, jax.random.split(key, len(self.layers)), strict=True):
            first, second = jax.random.split(k)
            fits.append(layer.fit(values, method=chosen, key=first, progress=progress))
            if len(fits) < len(self.layers):
                rows = as_rows(layer, values)
                values = np.asarray(_draw_hidden(fits[-1].model, second, rows.values))
        stack = DeepBeliefNetwork([fit.model for fit in fits])
        return [*fits[:-1], eqx.tree_at(lambda fit: fit.model, fits[-1], stack)]

    def __repr__(self):
        return f"DeepBeliefNetwork({' - '.join(map(str, self.sizes))})"


@jax.jit
def _draw_hidden(machine, key, values):
    _, uniform = engine.uniforms(machine, key, len(values))
    return engine.sample_hidden(machine, uniform, columns(machine, values)).astype(jnp.uint8)


@jax.jit
def _features(net, values):
    x = columns(net.layers[0], values)
    for layer in net.layers:
        x = layer.hidden.mean(layer.hidden_bias[None], engine.hidden_drive(layer, x))
    return x


@jax.jit
def _downwards(net, key, x):
    for layer, k in zip(net.layers[-2::-1], jax.random.split(key, len(net.layers) - 1), strict=True):
        x = engine.sample_visible(layer, engine.uniforms(layer, k, len(x))[0], x)
    return net.layers[0].visible.decode(x)


@partial(jax.jit, static_argnames="num_samples")
def _bound(net, key, values, *, num_samples: int):
    """E_q of everything but log Z, over draws that are made one after the other to keep memory small."""
    start = columns(net.layers[0], values)

    def one(key):
        x, total = start, jnp.zeros(len(start), start.dtype)
        for layer, k in zip(net.layers[:-1], jax.random.split(key, len(net.layers)), strict=False):
            field = layer.hidden_bias[None] + engine.hidden_drive(layer, x)
            uniform = engine.uniforms(layer, k, len(x))[1]
            hidden = layer.hidden.sample(uniform, jnp.zeros((1, 1), field.dtype), field)
            drive, bias = engine.visible_drive(layer, hidden), layer.visible_bias[None]
            below = (layer.visible.score(x, bias) + layer.visible.statistic(x) * drive).sum(-1)
            below = below - layer.visible.log_normaliser(bias, drive).sum(-1)
            q = (hidden * field - jax.nn.softplus(field)).sum(-1)  # log q(h | x) of the draw
            total, x = total + below - q, hidden
        return total - engine.free_energy(net.layers[-1], x)

    return jax.lax.map(one, jax.random.split(key, num_samples)).mean(0)
