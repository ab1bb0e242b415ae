"""A Bayesian neural network: any network, with a distribution over its weights instead of one value each.

    wᵢ ~ prior(i),     yₙ ~ likelihood(f(xₙ; w)),     p(w | data) ∝ Π_i p(wᵢ) Π_n p(yₙ | f(xₙ; w))

The network is a pytree `w` and a function `f`; an Equinox module is both. A posterior is a set of draws of `w`, kept as
one pytree with a leading draw axis, and a prediction is the mixture of the draws' likelihoods.
"""

from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array, ArrayLike, Float, PyTree, Shaped

from ..forms.chain import on_device
from ..inference.compiling import filter_jit
from .likelihoods import Normal
from .methods import NUTS, AbstractMethod, AbstractPosterior, Draws
from .predictive import Predictive
from .priors import parameters, path_name, resolve

JUDGED_ROWS = 50


def call_module(module: Callable, x: Array) -> Array:
    """Apply a module to one row."""
    return module(x)


class BNN(eqx.Module):
    """A Bayesian neural network.

    Args:
        module: an Equinox module that maps one row of x to one row of outputs, or any pytree of parameters if `apply`
            is given. Its floating-point arrays become unknowns named by their path, such as `layers[0].weight`.
        prior: one NumPyro distribution for every weight; a mapping from path or pattern (`"*.bias"`) to a distribution,
            or to None for an array that stays as it is; or `f(path, shape)` returning either. By default
            Normal(0, 1/sqrt(fan-in)) for weights and Normal(0, 1) for biases.
        likelihood: `Normal()`, `Bernoulli()`, `Categorical()`, or a function from the outputs of all rows to a NumPyro
            distribution of all targets, which may contain `numpyro.sample` statements of its own.
        apply: `apply(module, x)` for one row x; calls the module by default.

    Standardise inputs and targets first: the priors assume numbers of order one.

    Raises:
        ValueError: priors that do not match the arrays one to one, or a module that needs randomness or state, such as
            dropout or batch normalisation while training.

    Example:
        >>> import equinox as eqx, jax, numpy as np
        >>> from chainrule import bayes
        >>> x = np.linspace(-1.0, 1.0, 20)[:, None]
        >>> network = eqx.nn.MLP(1, 1, 8, 1, activation=jax.nn.tanh, key=jax.random.key(0))
        >>> fit = bayes.BNN(network).fit(x, x**2, method=bayes.SVI(steps=500, num_samples=40), key=jax.random.key(1))
        >>> fit.predict(x).mean.shape, jax.vmap(lambda network: network(x[0]))(fit.models).shape
        ((20, 1), (40, 1))

    Reference: Neal, Bayesian Learning for Neural Networks, 1996.
    """

    module: PyTree
    priors: dict[str, dist.Distribution]
    likelihood: Callable
    apply: Callable

    def __init__(self, module, prior=None, likelihood=None, *, apply: Callable | None = None):
        if apply is None and not callable(module):
            raise ValueError(
                f"{type(module).__name__} is not callable: pass a module, or apply=f with f(parameters, x) for one row"
            )
        _check_pure(module)
        self.module = module
        self.priors = resolve(prior, {path: leaf.shape for path, leaf in parameters(module).items()})
        self.likelihood = Normal() if likelihood is None else likelihood
        self.apply = call_module if apply is None else apply
        if not callable(self.likelihood) or isinstance(self.likelihood, (type, dist.Distribution)):
            raise ValueError(
                f"likelihood is {self.likelihood!r}; Normal(), Bernoulli(), Categorical() or a function from the "
                "outputs to a NumPyro distribution is wanted"
            )

    def program(self, x: Shaped[Array, "row ..."], y: Shaped[Array, "row ..."] | None = None) -> None:
        """Declare the joint density of weights and targets: a NumPyro program, for use with NumPyro's own tools."""
        weights = {path: numpyro.sample(path, prior) for path, prior in self.priors.items()}
        numpyro.sample("targets", self.likelihood(self.outputs(weights, x)), obs=y)

    def outputs(self, weights: Mapping[str, Any], x: Shaped[Array, "row ..."]) -> Array:
        """Apply the network with the given weights to every row."""
        module = self.with_weights(weights)
        return jax.vmap(lambda row: self.apply(module, row))(x)

    def with_weights(self, weights: Mapping[str, Any]) -> PyTree:
        """Replace some of the module's arrays, by path."""
        return jax.tree_util.tree_map_with_path(lambda path, leaf: weights.get(path_name(path), leaf), self.module)

    def fit(
        self,
        x: Shaped[ArrayLike, "row ..."],
        y: Shaped[ArrayLike, "row ..."],
        *,
        key: Array,
        method: AbstractMethod | None = None,
        progress: bool = False,
    ) -> "NetworkPosterior":
        """Draw from the posterior of the weights given rows of inputs and targets.

        Args:
            x: inputs, shape (row, …): whatever the module takes, row by row.
            y: targets, shaped as the likelihood says: like the outputs, or without the class axis for `Categorical`.
            key: a `jax.random.key`.
            method: `NUTS(...)`, the default, or `SVI(...)`.
            progress: whether to show a bar.

        R-hat and effective sample size are those of the outputs on up to 50 rows of x and of the likelihood's unknowns.
        Weights are not judged, for hidden units can be exchanged without changing the network.

        Raises:
            ValueError: x and y of different or no rows, NaN or infinity, targets that do not fit the likelihood's shape
                or support, or a module that cannot be applied to a row of x.
        """
        inputs, targets = _check_data(x, y)
        self._check_targets(inputs, targets)
        draws = (NUTS() if method is None else method).draws(key, self.program, inputs, targets, progress=progress)
        if draws.num_chains:
            rows = np.unique(np.linspace(0, len(inputs) - 1, JUDGED_ROWS).astype(int))
            unknowns = {name: value for name, value in draws.samples.items() if name not in self.priors}
            judged = _outputs(self, draws.samples, np.asarray(inputs)[rows])
            draws = draws.judged_by({"outputs": judged, **unknowns})
        return NetworkPosterior(network=self, draws=draws)

    def _check_targets(self, x, y):
        """Compare the shape and support of the targets with the likelihood's, without computing anything."""
        supports = []

        def trace(key):
            weights = {path: prior(rng_key=key) for path, prior in self.priors.items()}
            try:
                outputs = self.outputs(weights, x)
            except (TypeError, ValueError) as error:
                raise ValueError(f"the module cannot be applied to a row of x, shape {x.shape[1:]}: {error}") from error
            with numpyro.handlers.block(), numpyro.handlers.seed(rng_seed=key):
                targets = self.likelihood(outputs)
            supports.append((outputs.shape, targets.shape(), targets.support))
            return outputs

        jax.eval_shape(trace, jax.random.key(0))
        outputs, wanted, support = supports[0]
        if y.shape != wanted:
            raise ValueError(
                f"y has shape {y.shape}; outputs of shape {outputs} under this likelihood ask for {wanted}. Reshape y, "
                "or let the network return another shape (out_size='scalar' makes one number per row)"
            )
        # a support that depends on the weights cannot be checked beforehand
        traced = any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(support))
        if support is not None and not traced and not bool(np.all(support(np.asarray(y)))):
            raise ValueError(
                f"y holds values outside the likelihood's support, {support}: for example {_odd(support, y)}"
            )


class NetworkPosterior(AbstractPosterior):
    """The posterior of a Bayesian neural network, as draws.

    Attributes:
        network: the `BNN` that was fitted.
        draws: draws of every unknown by name, with diagnostics; see `Draws`.
    """

    network: BNN
    draws: Draws

    @property
    def models(self) -> PyTree:
        """The module with a leading draw axis on every array: `jax.vmap(lambda m: m(x))(posterior.models)` works.

        Functions kept in the module, such as activations, are wrapped in `jax.tree_util.Partial`, which `jax.vmap`
        passes by. A module that keeps plain Python numbers needs `eqx.filter_vmap`.
        """
        num_draws = len(next(iter(self.draws.samples.values())))

        def with_axis(path, leaf):
            if path_name(path) in self.network.priors:
                return self.draws.samples[path_name(path)]
            if eqx.is_array(leaf):
                return jnp.broadcast_to(leaf, (num_draws, *leaf.shape))
            return jax.tree_util.Partial(leaf) if callable(leaf) else leaf

        return jax.tree_util.tree_map_with_path(with_axis, self.network.module)

    @property
    def samples(self) -> dict[str, Array]:
        """Draws of every unknown by name, the likelihood's included, shape (draw, …)."""
        return self.draws.samples

    def predict(self, x_new: Shaped[ArrayLike, "row ..."]) -> Predictive:
        """Predict the targets of new rows.

        Raises:
            ValueError: NaN or infinity in the rows.
        """
        x_new = on_device(x_new)
        _check_finite("x_new", x_new)
        return Predictive(_components(self.network, self.draws.samples, x_new))


@filter_jit
def _outputs(network: BNN, samples, x) -> Float[Array, "draw row ..."]:
    return jax.vmap(lambda draw: network.outputs(draw, x))(samples)


@filter_jit
def _components(network: BNN, samples, x) -> dist.Distribution:
    """One distribution of all targets per draw, its arrays stacked along a leading axis."""

    def one(draw):
        with numpyro.handlers.block(), numpyro.handlers.substitute(data=draw):
            return network.likelihood(network.outputs(draw, x))

    return jax.vmap(one)(samples)


def _check_pure(module) -> None:
    """Refuse modules whose output is not a function of weights and input: a sampler would freeze one random mask."""

    def unsettled(node):
        # Equinox's convention: layers that act differently while training have a field `inference`
        return getattr(node, "inference", None) is False and not (isinstance(node, eqx.nn.Dropout) and node.p == 0)

    nodes, _ = jax.tree_util.tree_flatten_with_path(module, is_leaf=unsettled)
    found = [f"{path_name(path)} ({type(node).__name__})" for path, node in nodes if unsettled(node)]
    if found:
        raise ValueError(
            f"the module needs randomness or state: {', '.join(found)}. A posterior density wants a fixed function of "
            "the weights: apply eqx.nn.inference_mode(module) first, and pass apply=lambda module, x: "
            "module(x, state)[0] where a state is called for"
        )


def _check_data(x, y) -> tuple[Array, Array]:
    x, y = on_device(x), on_device(y)
    if x.ndim < 1 or y.ndim < 1 or len(x) != len(y) or not len(x):
        raise ValueError(f"x has shape {x.shape} and y {y.shape}; the same number of rows, at least one, is wanted")
    _check_finite("x", x)
    _check_finite("y", y)
    return x, y


def _check_finite(name: str, value) -> None:
    bad = np.argwhere(~np.isfinite(np.asarray(value)))
    if len(bad):
        raise ValueError(
            f"{name}{bad[0].tolist()} is NaN or infinite, as are {len(bad)} entries in all; drop those rows"
        )


def _odd(support, y):
    y = np.asarray(y)
    return y[~np.asarray(support(y))].reshape(-1)[0]
