"""Posteriors over the parameters of a model, as draws of the model itself."""

from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array, Float, Key, PyTree
from scipy.optimize import linear_sum_assignment

from ..forms.sequences import Sequences
from ..inference.compiling import filter_jit, jit
from ..models.data import prepare
from ..models.emissions import Categorical, Mixture, MultivariateNormal, Normal, Poisson
from ..models.emissions.base import observations
from ..models.hmm import HMM
from ..models.hmm_engine import permuted
from ..models.hmm_engine import posterior as smoothed
from .methods import NUTS, AbstractMethod, AbstractPosterior, Draws
from .priors import expand_prior


def posterior(
    model: HMM,
    data,
    *,
    key: Key[Array, ""],
    priors: Mapping[str, dist.Distribution] | None = None,
    method: AbstractMethod | None = None,
    align: bool | None = None,
    progress: bool = False,
) -> "ModelPosterior":
    """Draw models from p(parameters | data), with the hidden states summed out exactly.

    Args:
        model: what to learn; its zeros stay zero. Its emission may be a family such as `Poisson()`.
        data: one or several sequences, as for `HMM.fit`.
        key: a typed key from `jax.random.key`.
        priors: NumPyro distributions by parameter: "initial", "transition", and the emission's own, such as
            "emission.rate". Each is over the whole array. Rows of probabilities default to Dirichlet(1), and the
            parameters of `Normal` and `Poisson` to wide priors around the data's own scale; others must be given.
        method: `NUTS()` (the default) or `SVI()`.
        align: whether to give the states of all draws the same order. States can be exchanged without changing the
            likelihood, so draws are matched by the steps that their states explain: to `model`, or to the most probable
            draw where its emission is a family. By default this is done unless the model forbids some transition: its
            states then differ by what they may do.
        progress: whether to show a bar.

    Raises:
        ValueError: unknown names in `priors`, a parameter without a default prior, or data that do not fit.

    Example:
        >>> import jax, numpy as np, chainrule as cr
        >>> x = np.r_[np.full(20, 3), np.full(20, 30)]
        >>> hmm = cr.HMM.random(jax.random.key(0), 2, cr.emissions.Poisson())
        >>> method = cr.bayes.NUTS(num_warmup=100, num_samples=100, num_chains=1)
        >>> found = cr.bayes.posterior(hmm, x, method=method, key=jax.random.key(1))
        >>> sorted(found.mean(lambda m: m.emission.rate).round().tolist())
        [3.0, 30.0]
    """
    event_shape = model.emission.event_shape
    packed = prepare(data, None if event_shape is None else len(event_shape)).sequences
    model.emission.check(packed)
    start, run = jax.random.split(key)
    reference = model if model.emission.has_parameters() else None
    if reference is None:
        emission = model.emission.initialise(start, model.num_states, packed)
        model = HMM(model.initial, model.transition, emission, model.states)
    if align is None:
        align = bool((np.asarray(model.transition) > 0).all()) and not _fixed_order(model.emission)
    elif align:
        # refuses now what could not be reordered after hours
        jax.eval_shape(model.emission.permute, np.arange(model.num_states))
    program = _program(model, packed, priors or {})
    method = NUTS() if method is None else method
    draws = method.draws(run, program, packed, progress=progress)
    models = _built(program, draws.samples)
    if align and model.num_states > 1:
        per_draw = draws.num_chains > 0  # the history of variational inference is over steps
        if reference is None:
            best = int(np.argmax(np.asarray(draws.history))) if per_draw else 0
            reference = jax.tree.map(lambda leaf: np.asarray(leaf)[best], models)
        models = _aligned(models, packed, reference)
        draws = draws.judged_by(dict(_arrays(models)))
    return ModelPosterior(models=models, draws=draws)


class ModelPosterior(AbstractPosterior):
    """Draws of a model.

    Attributes:
        models: one model with a leading draw axis on every array: `jax.vmap(lambda m: m.viterbi(x).states)(models)`.
        draws: the draws as the method gave them, with their diagnostics.
    """

    models: Any
    draws: Draws

    @property
    def num_draws(self) -> int:
        """How many draws there are."""
        return jax.tree.leaves(self.models)[0].shape[0]

    def mean(self, of: Callable[[Any], Array]) -> np.ndarray:
        """Posterior mean of any function of a model, such as `lambda m: m.emission.rate`."""
        return np.asarray(jax.vmap(of)(self.models)).mean(0)

    def interval(self, of: Callable[[Any], Array], level: float = 0.9) -> tuple[np.ndarray, np.ndarray]:
        """Central credible interval of any function of a model: lower and upper end.

        Raises:
            ValueError: a level outside (0, 1).
        """
        if not 0 < level < 1:
            raise ValueError(f"level is {level}; it must lie between 0 and 1")
        values = np.asarray(jax.vmap(of)(self.models), np.float64)
        lower, upper = np.quantile(values, [(1 - level) / 2, (1 + level) / 2], axis=0)
        return lower, upper

    def __repr__(self):
        return f"ModelPosterior({self.num_draws} draws of {self.models!r}, {self.status.name})"


class _Program(eqx.Module):
    """The joint density of parameters and data as a NumPyro program; recognised by its structure, so compiled once.

    Where `model` forbids something, each row of probabilities is a site of its own over what is allowed: `allowed` holds
    those places, row by row.
    """

    model: HMM
    priors: dict[str, dist.Distribution]
    allowed: dict[str, tuple[tuple[int, ...], ...]] = eqx.field(static=True)

    def __call__(self, data: Sequences):
        sites = {name: numpyro.sample(name, prior) for name, prior in self.priors.items()}
        numpyro.factor("likelihood", self.build(sites).total(data))

    def build(self, sites: Mapping[str, Any]) -> HMM:
        """The model with its parameters replaced by sampled ones."""
        named = _arrays(self.model)
        values: dict[str, Any] = {**sites, **{name: self._rows(name, sites) for name in self.allowed}}
        leaves = [jnp.asarray(values.get(name, old), old.dtype) for name, old in named]
        return jax.tree.unflatten(jax.tree.structure(self.model), leaves)

    def _rows(self, name: str, sites: Mapping[str, Any]) -> Array:
        old = getattr(self.model, name)
        rows = []
        for i, places in enumerate(self.allowed[name]):
            value = sites[f"{name}[{i}]"] if len(places) > 1 else jnp.ones(1)
            rows.append(jnp.zeros(old.shape[-1], old.dtype).at[np.array(places)].set(value.astype(old.dtype)))
        return jnp.stack(rows).reshape(old.shape)


@filter_jit
def _built(program: _Program, samples) -> HMM:
    """One model with a leading draw axis."""
    return jax.vmap(program.build)(samples)


def _arrays(model) -> list[tuple[str, Array]]:
    """Every array of a model under the name that priors know it by."""
    found = jax.tree_util.tree_flatten_with_path(model)[0]
    return [(jax.tree_util.keystr(path).lstrip(".").replace(".loc", ".mean"), leaf) for path, leaf in found]


def _program(model: HMM, data: Sequences, given: Mapping[str, dist.Distribution]) -> _Program:
    """The program with a prior for every parameter: what was given, and defaults for the rest."""
    named = _arrays(model)
    unknown = [name for name in given if name not in dict(named)]
    if unknown:
        raise ValueError(f"priors name {unknown}, but the model's parameters are {[name for name, _ in named]}")
    priors: dict[str, dist.Distribution] = {}
    allowed: dict[str, tuple[tuple[int, ...], ...]] = {}
    defaults = {f"emission.{k}": v for k, v in _emission_priors(model.emission, data).items()}
    for name, old in named:
        if name in given:
            priors[name] = expand_prior(name, given[name], old.shape)
        elif name in ("initial", "transition"):
            possible = np.asarray(old) > 0
            if possible.all():
                priors[name] = expand_prior(name, dist.Dirichlet(_full(1, old.shape[-1:])), old.shape)
                continue
            allowed[name] = tuple(tuple(np.flatnonzero(row).tolist()) for row in np.atleast_2d(possible))
            for i, places in enumerate(allowed[name]):
                if len(places) > 1:
                    priors[f"{name}[{i}]"] = dist.Dirichlet(_full(1, (len(places),)))
        elif name in defaults:
            priors[name] = expand_prior(name, defaults[name], old.shape)
        else:
            raise ValueError(f"{name} has no default prior for {model.emission!r}: give one in priors")
    return _Program(model, priors, allowed)


def _emission_priors(emission, data: Sequences) -> dict[str, dist.Distribution]:
    """Wide priors on the scale of the data."""
    if isinstance(emission, Mixture):
        found = {f"component.{k}": v for k, v in _emission_priors(emission.component, data).items()}
        return found | {"weights": dist.Dirichlet(_full(1, emission.weights.shape))}
    if isinstance(emission, Categorical) and bool((np.asarray(emission.probs) > 0).all()):
        return {"probs": dist.Dirichlet(_full(1, emission.probs.shape))}
    values = observations(data)
    centre, spread = np.nanmean(values, axis=0), np.maximum(np.nanstd(values, axis=0), 1e-6)
    if isinstance(emission, Poisson):
        shape = emission.rate.shape
        return {"rate": dist.LogNormal(_full(np.log(centre + 0.5), shape), _full(1, shape))}
    if isinstance(emission, Normal):
        mean, variance = emission.loc.shape, emission.variance.shape
        scale = np.log(spread**2) if len(variance) == len(mean) else np.log((spread**2).mean())
        return {
            "mean": dist.Normal(_full(centre, mean), _full(2 * spread, mean)),
            "variance": dist.LogNormal(_full(scale - 1.0, variance), _full(1.5, variance)),
        }
    if isinstance(emission, MultivariateNormal):
        mean = emission.loc.shape
        return {"mean": dist.Normal(_full(centre, mean), _full(2 * spread, mean))}
    return {}


def _full(value, shape) -> Array:
    return jax.device_put(np.broadcast_to(np.asarray(value, float), shape))  # on the host: nothing to compile


def _fixed_order(emission) -> bool:
    """Whether the states of an emission cannot be told to change places."""
    try:
        jax.eval_shape(emission.permute, np.arange(emission.num_states))  # nothing to compile
    except ValueError:
        return True
    return False


@jit
def _overlaps(models, data: Sequences, target) -> Float[Array, "draw state state"]:
    """For each draw, how many steps state i, of the marginals `target`, and the draw's state j share."""
    target = target * jnp.asarray(data.mask)[:, None]
    # one draw at a time: their marginals together would not fit for long data
    return jax.lax.map(lambda m: jnp.einsum("tir,tjr->ij", target, smoothed(m, data, None)[1]), models)


def _aligned(models: PyTree, data: Sequences, reference: HMM) -> PyTree:
    """Reorder the states of every draw to match those of the reference."""
    overlaps = np.asarray(_overlaps(models, data, smoothed(reference, data, None)[1]), np.float64)
    orders = np.stack([linear_sum_assignment(-overlap)[1] for overlap in overlaps])
    fields = jax.vmap(permuted)(models.initial, models.transition, models.emission, orders)
    return eqx.tree_at(lambda m: (m.initial, m.transition, m.emission), models, fields)
