"""Priors of the parameters of a module, one per leaf, matched to the leaves without exceptions in either direction.

A leaf is named by its path in the module, such as `layers[0].weight`. A prior that matches nothing, or a leaf that no
prior covers, is an error: a misspelt name would otherwise leave that leaf at its initial value, silently.
"""

import difflib
import math
import re
from collections.abc import Callable, Mapping

import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, PyTree


def parameters(module: PyTree) -> dict[str, Array]:
    """Name the floating-point arrays of a module by path: `layers[0].weight`, `cell.bias`, `[2].scale`.

    Example:
        >>> import equinox as eqx, jax
        >>> from chainrule.bayes.priors import parameters
        >>> list(parameters(eqx.nn.MLP(2, 1, 8, 1, key=jax.random.key(0))))
        ['layers[0].weight', 'layers[0].bias', 'layers[1].weight', 'layers[1].bias']
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(module)
    return {path_name(path): leaf for path, leaf in leaves if eqx.is_inexact_array(leaf)}


def path_name(path: tuple) -> str:
    """Write the path of a leaf as code would: attributes and names after a dot, positions in brackets."""
    name = ""
    for key in path:
        match key:
            case jax.tree_util.GetAttrKey(name=part):
                name += f".{part}"
            case jax.tree_util.DictKey(key=str(part)):
                name += f".{part}"
            case _:
                name += str(key)
    return name.removeprefix(".") or "parameter"


def default_prior(path: str, shape: tuple[int, ...]) -> dist.Distribution:
    """Normal(0, 1/sqrt(fan-in)) for arrays of two or more axes, Normal(0, 1) for biases and other vectors.

    The fan-in is the product of all axes but the first, as Equinox lays out linear and convolutional weights. It keeps
    the prior variance of the outputs independent of the width (Neal, Bayesian Learning for Neural Networks, 1996, §2).
    """
    del path
    return dist.Normal(0.0, 1 / math.sqrt(max(math.prod(shape[1:]), 1)) if len(shape) > 1 else 1.0)


def resolve(
    prior: dist.Distribution | Mapping | Callable | None, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, dist.Distribution]:
    """Give every leaf its prior, expanded to the leaf's shape; leaves to keep fixed are left out.

    Args:
        prior: one distribution for every leaf; a mapping from path or pattern (`*` stands for any text) to a
            distribution, or to None for a leaf that stays fixed; `f(path, shape)` returning either; or None for
            `default_prior`. A full path beats a pattern; of several patterns the first that matches decides.
        shapes: the shape of each leaf, by path.

    Raises:
        ValueError: a key that decides no leaf, a leaf that no key covers, something that is no distribution, a discrete
            distribution, a distribution whose shape does not fit its leaf, or no leaf left to infer.
    """
    if prior is None:
        prior = default_prior
    if isinstance(prior, dist.Distribution):
        chosen = dict.fromkeys(shapes, prior)
    elif isinstance(prior, Mapping):
        chosen = _match(prior, shapes)
    elif callable(prior) and not isinstance(prior, eqx.Module):
        chosen = {path: prior(path, shape) for path, shape in shapes.items()}
    else:
        raise ValueError(
            f"prior is {prior!r}; a NumPyro distribution, a {{path: distribution}} mapping or f(path, shape) is wanted"
        )
    priors = {path: expand_prior(path, one, shapes[path]) for path, one in chosen.items() if one is not None}
    if not priors:
        raise ValueError(f"nothing to infer: the module has {len(shapes)} floating-point arrays, and none has a prior")
    return priors


def _match(prior: Mapping, shapes: Mapping) -> dict:
    """Assign each leaf the value of its key; complain about keys and leaves that remain."""
    wrong = [key for key in prior if not isinstance(key, str)]
    if wrong:
        raise ValueError(f"keys of a prior mapping are paths or patterns, got {wrong}")
    decides = {path: path if path in prior else _first_pattern(prior, path) for path in shapes}
    unmatched = [key for key in prior if key not in decides.values()]
    uncovered = [path for path, key in decides.items() if key is None]
    if unmatched or uncovered:
        lines = [f"prior key {key!r} decides no leaf{_nearest(key, shapes)}" for key in unmatched]
        lines += [f"leaf {path!r} has no prior; add one, or None to keep it fixed" for path in uncovered]
        raise ValueError("priors and leaves do not match:\n  " + "\n  ".join(lines))
    return {path: prior[key] for path, key in decides.items()}


def _first_pattern(prior: Mapping, path: str) -> str | None:
    # not fnmatch, which would read the brackets of `layers[0]` as a set of characters
    return next((key for key in prior if re.fullmatch(".*".join(map(re.escape, key.split("*"))), path)), None)


def _nearest(key: str, shapes: Mapping) -> str:
    inside = [path for path in shapes if path.endswith(f".{key}")]
    near = inside or difflib.get_close_matches(key, shapes, n=3, cutoff=0.4)
    return f"; nearest: {', '.join(map(repr, near[:3]))}" if near else f"; the leaves are {', '.join(shapes)}"


def expand_prior(path: str, prior, shape: tuple[int, ...]) -> dist.Distribution:
    """One event of the leaf's shape, its numbers as arrays so that new values do not compile anew."""
    if not isinstance(prior, dist.Distribution):
        raise ValueError(
            f"the prior of {path!r} is {prior!r}; a NumPyro distribution is wanted, or None to keep the leaf fixed"
        )
    if prior.support is None or prior.support.is_discrete:
        raise ValueError(f"the prior of {path!r} is {type(prior).__name__}, which is discrete; weights are continuous")
    lead = shape[: max(len(shape) - prior.event_dim, 0)]
    fits = shape[len(lead) :] == prior.event_shape and len(prior.batch_shape) <= len(lead)
    fits = fits and all(b in (1, s) for b, s in zip(prior.batch_shape[::-1], lead[::-1], strict=False))
    if not fits:
        raise ValueError(
            f"the prior of {path!r} has shape {prior.shape()}, which does not fit the leaf's shape {shape}"
        )
    expanded = prior.expand(lead).to_event(len(lead)) if lead else prior
    return jax.tree.map(lambda leaf: jnp.asarray(leaf) if isinstance(leaf, float) else leaf, expanded)
