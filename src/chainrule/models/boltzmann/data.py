"""Reading rows of values, and values by name."""

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Array

from ...forms.chain import is_concrete
from ...forms.layouts import Lattice
from ...forms.pairwise import Pairwise
from ...graphs.labels import lookup

_FEWEST = 1024  # sites for which packing is worth a program of its own


def as_rows(data, width: int, states: tuple[int, int], columns: str) -> tuple[Any, bool]:
    """Rows of values as int8, on the host where they can be looked at, and whether it was a single one.

    Raises:
        ValueError: another number of columns, or values that are none of the two states, NaN and masked ones among them.
    """
    mask = np.ma.getmask(data)
    array = data if not is_concrete(data) else np.asarray(data)
    if array.ndim not in (1, 2) or array.shape[-1] != width:
        raise ValueError(
            f"values have shape {array.shape}; wanted ({width},) or (row, {width}), a column for each of the {columns}"
        )
    if isinstance(array, np.ndarray):
        valid = (array == states[0]) | (array == states[1])
        if (masked := np.argwhere(mask)).size:
            raise ValueError(
                f"values{masked[0].tolist()} is masked; all values are needed here, complete(…) draws some"
            )
        if not valid.all():
            at = tuple(np.argwhere(~valid)[0].tolist())
            raise ValueError(f"values{list(at)} is {array[at]}; values are {states[0]} or {states[1]}")
    return array.astype(np.int8).reshape(-1, width), array.ndim == 1


def check_betas(betas, ndim: int = 0) -> None:
    """Raise a ValueError for inverse temperatures that are not finite numbers."""
    if is_concrete(betas) and (np.ndim(betas) != ndim or not np.size(betas) or not np.isfinite(betas).all()):
        wanted = "one finite number" if ndim == 0 else "a vector of finite numbers"
        raise ValueError(f"inverse temperatures are {np.asarray(betas)}; wanted {wanted}")


def as_stops(betas, dtype) -> Any:
    """Inverse temperatures as an engine takes them, on the host where they can be looked at."""
    return np.asarray(betas, dtype) if is_concrete(betas) else betas.astype(dtype)


def ladder(machine, sweeps: int) -> np.ndarray:
    """Inverse temperatures from where every node is free to where all is decided.

    Raises:
        ValueError: biases or weights that cannot be looked at now.
    """
    if not (is_concrete(machine.bias) and is_concrete(machine.weights)):
        raise ValueError("the default temperatures depend on biases and weights, which are traced: give betas=…")
    bias, weights = (np.abs(np.asarray(p, float)) for p in (machine.bias, machine.weights))
    numbers = np.concatenate([bias, weights])
    if not numbers.any():
        return np.ones(sweeps)
    fields = bias.copy()
    for end in np.asarray(machine.couplings.ends):
        fields += np.bincount(end, weights, len(fields))
    return np.geomspace(0.1 / fields.max(), 10 / np.sqrt((numbers[numbers > 0] ** 2).mean()), sweeps)


def uniform_lattice(machine) -> tuple[Pairwise, Array] | None:
    """The lattice that a machine with one weight and one bias on an even torus is, and the site of each of its nodes."""
    sides = machine.couplings.sides
    if sides is None or machine.num_nodes < _FEWEST or not (is_concrete(machine.weights) and is_concrete(machine.bias)):
        return None
    weights, bias = np.asarray(machine.weights), np.asarray(machine.bias)
    if (weights != weights[0]).any() or (bias != bias[0]).any():
        return None
    lattice = Lattice(machine.weights[0], *sides)
    return Pairwise(machine.bias[0], lattice, machine.constant, spins=machine.states[0] < 0), machine.couplings.sites


def as_state(
    given: Mapping[Hashable, int], nodes: tuple[Hashable, ...], states: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Which nodes are given, and their values (the lower state elsewhere).

    Raises:
        ValueError: an unknown node or value.
    """
    clamp, values = np.zeros(len(nodes), bool), np.full(len(nodes), states[0], np.int8)
    if given:
        number = {name: i for i, name in enumerate(nodes)}
        for name, value in given.items():
            at = lookup("node", name, number)
            if value not in states:
                raise ValueError(f"node {name!r} is given {value!r}; its states are {states[0]} and {states[1]}")
            clamp[at], values[at] = True, value
    return clamp, values
