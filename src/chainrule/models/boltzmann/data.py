"""Reading rows of values, and values by name."""

from collections.abc import Hashable, Mapping

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ...forms.chain import is_concrete
from ...forms.layouts import Lattice
from ...forms.pairwise import Pairwise
from ...graphs.couplings import lattice_order, lattice_sides
from ...graphs.labels import lookup

_FEWEST = 1024  # sites for which packing is worth a program of its own


def as_rows(data, width: int, states: tuple[int, int], columns: str) -> tuple[Array, bool]:
    """Rows of values as int8, and whether it was a single one.

    Raises:
        ValueError: another number of columns, or values that are none of the two states, NaN among them.
    """
    array = data if not is_concrete(data) else np.asarray(data)
    if array.ndim not in (1, 2) or array.shape[-1] != width:
        raise ValueError(
            f"values have shape {array.shape}; wanted ({width},) or (row, {width}), a column for each of the {columns}"
        )
    if isinstance(array, np.ndarray):
        valid = (array == states[0]) | (array == states[1])
        if not valid.all():
            at = tuple(np.argwhere(~valid)[0].tolist())
            raise ValueError(f"values{list(at)} is {array[at]}; values are {states[0]} or {states[1]}")
    return jnp.asarray(array).astype(jnp.int8).reshape(-1, width), array.ndim == 1


def uniform_lattice(machine) -> tuple[Pairwise, Array] | None:
    """The lattice that a machine with one weight and one bias on an even torus is, and the site of each of its nodes."""
    numbers = machine.weights, machine.bias, machine.couplings.ends
    if machine.num_nodes < _FEWEST or not all(map(is_concrete, numbers)):
        return None
    weights, bias, ends = map(np.asarray, numbers)
    if len(weights) != 2 * len(bias) or (weights != weights[0]).any() or (bias != bias[0]).any():
        return None
    sides = lattice_sides(machine.nodes, ends)
    if sides is None:
        return None
    lattice = Lattice(machine.weights[0], *sides)
    rank = np.argsort(lattice_order(machine.nodes, lattice))
    return Pairwise(machine.bias[0], lattice, machine.constant, spins=machine.states[0] < 0), jnp.asarray(rank)


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
