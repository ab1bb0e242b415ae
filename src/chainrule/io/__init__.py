"""Save and load: one `.npz` file per model, arrays beside a JSON header, no pickle.

A file is an ordinary `.npz` archive of uncompressed arrays, named after the fields they came from
(`np.load(path)["emission.mean"]` works), and one member more, `header.json`:

    {"format": "chainrule", "version": 1, "x64": false, "model": node}

A node says how one value is put together: a plain JSON value stands for itself, everything else is a list that begins
with what it is.

    ["array", name, dtype]            a JAX array                ["float", "nan"]        a float that JSON lacks
    ["numpy", name, dtype]            a NumPy array              ["tuple", node, …]      and "list"
    ["scalar", dtype, number]         a NumPy scalar             ["dict", [key, value], …]
    ["key", implementation, name]     random keys                ["enum", class, member]
    ["module", class, fields, batch]  a chainrule object
    ["template", type, leaves]        code: a user's own module or function, refilled from `load(path, like=model)`
    ["state", class, node, code]      an object that is built from its `state()`; code is None, or taken from `like`

Loading a stranger's file runs no code of theirs: classes are found only among the Equinox modules and enumerations
that chainrule itself defines, are filled field by field, and then pass the checks of their own constructor.
"""

import contextlib
import dataclasses
import enum
import importlib
import inspect
import json
import math
import os
import re
import secrets
import zipfile
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from .archive import FORMAT, HEADER, NATIVE, VERSION, parse_array, read_header, read_members

_MAX_DEPTH = 64
_MAX_BATCH_AXES = 3
# no component may begin with two underscores: importing `__main__` would run a script
_MODULE_NAME = re.compile(r"chainrule(\._?[a-z][a-z0-9_]*)+")

_EXTENDED = {np.dtype(d).name for d in (jnp.bfloat16, jnp.float8_e4m3fn, jnp.float8_e5m2, jnp.int4, jnp.uint4)}
_DTYPES = {name: np.dtype(name) for name in NATIVE | _EXTENDED}

_ABSENT = object()  # no template here; None would be a value


def save(path: str | os.PathLike[str], model: eqx.Module) -> None:
    """Write a model or a result to one file, exactly at `path` (no suffix is added).

    The file is complete or not there: it is written beside its destination, flushed to the disk and then renamed, so
    that an interrupted save leaves the previous file as it was.

    Code is not saved. Where a model holds a function or a module defined outside chainrule, the file keeps the arrays
    and numbers inside it, and `load` wants a template for the rest: `load(path, like=model)`.

    Args:
        path: the file to write; an existing one is replaced.
        model: an `eqx.Module`. Its fields may hold arrays (JAX or NumPy, random keys too), None, numbers, strings,
            members of chainrule's enumerations, other modules, functions, and tuples, lists and dicts of these.

    Raises:
        ValueError: a value that cannot be kept (the message names the field), a traced value, or a model that
            would not pass its own constructor's checks when it is loaded again.

    Example:
        >>> import os, tempfile
        >>> import jax.numpy as jnp, chainrule as cr
        >>> chain = cr.Chain(jnp.zeros(2), jnp.zeros((2, 2)), jnp.zeros((3, 2)))
        >>> path = os.path.join(tempfile.mkdtemp(), "chain.npz")
        >>> cr.save(path, chain)
        >>> cr.load(path)
        Chain(2 states, 3 steps)
    """
    encoder = _Encoder()
    try:
        if not isinstance(model, eqx.Module):
            raise ValueError(f"wanted a model or result of chainrule (an eqx.Module), got {_describe(model)}")
        header = {"format": FORMAT, "version": VERSION, "x64": _keeps(np.dtype("float64"))}
        header["model"] = encoder.encode(model, ())
        text = json.dumps(header, allow_nan=False).encode()
    except ValueError as error:
        raise ValueError(f"cannot save to {os.fspath(path)!r}: {error}") from error

    target = Path(os.path.realpath(path))  # through a link, so that the link survives the rename
    temporary = target.with_name(f".chainrule-{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "xb") as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
                with archive.open(HEADER, "w") as member:  # not writestr, whose time stamp makes equal models differ
                    member.write(text)
                for name, array in encoder.arrays.items():
                    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                        np.lib.format.write_array(member, array, version=(1, 0), allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def load(path: str | os.PathLike[str], *, like: Any = None, max_bytes: int = 4 * 2**30) -> Any:
    """Read what `save` wrote; a stranger's file can do no more than fill in a chainrule object.

    Arrays come back in the dtype they were saved in. Every object passes its constructor's checks again; of a batched
    one (draws from a posterior) the first element does.

    Args:
        path: the file.
        like: a model built as the saved one was, needed only if that one held functions or modules from outside
            chainrule. They are taken from here and filled with the saved arrays; everything else comes from the file.
            `eqx.filter_eval_shape` of the constructor will do.
        max_bytes: refuse a file that holds more than this.

    Raises:
        ValueError: not a chainrule file, one from a newer version, damaged, larger than `max_bytes`, not fitting
            `like`, failing a constructor's checks, or holding 64-bit arrays saved under x64 where x64 is now off.
        FileNotFoundError: no such file.

    Example:
        >>> import os, tempfile
        >>> import equinox as eqx, jax, chainrule as cr
        >>> network = eqx.nn.MLP(2, 1, width_size=8, depth=1, key=jax.random.key(0))
        >>> path = os.path.join(tempfile.mkdtemp(), "network.npz")
        >>> cr.save(path, network)
        >>> bool(eqx.tree_equal(network, cr.load(path, like=network)))
        True
    """
    with open(path, "rb") as file:
        try:
            members = read_members(file, max_bytes)
            header = read_header(members.pop(HEADER))
            decoder = _Decoder(members, x64=header["x64"])
            model = decoder.decode(header["model"], (), _ABSENT if like is None else like)
            if members:
                raise ValueError(f"damaged: arrays that no field asks for: {', '.join(sorted(members)[:5])}")
            if like is not None and type(model) is not type(like):
                raise ValueError(f"it holds {_describe(model)}, but like is {_describe(like)}")
        except ValueError as error:
            raise ValueError(f"cannot load {os.fspath(path)!r}: {error}") from error
    return model


class _Encoder:
    """Turns values into nodes, and collects the arrays they refer to."""

    def __init__(self):
        self.arrays: dict[str, np.ndarray] = {}

    def encode(self, value: Any, place: tuple[str, ...]) -> Any:  # noqa: PLR0912, one branch for each kind of node
        if len(place) > _MAX_DEPTH:
            raise ValueError(f"{_at(place[:4])}… is nested more than {_MAX_DEPTH} deep")
        if isinstance(value, np.str_):
            value = str(value)  # a label; NumPy's strings and Python's are equal and hash alike
        kind = type(value)
        if value is None or kind in (bool, int, str):
            node = value
        elif kind is float:
            node = value if math.isfinite(value) else ["float", repr(value)]
        elif kind in (tuple, list):
            node = [kind.__name__, *(self.encode(item, (*place, str(i))) for i, item in enumerate(value))]
        elif kind is dict:
            pairs = (
                [self.encode(key, (*place, str(i), "0")), self.encode(item, (*place, str(i), "1"))]
                for i, (key, item) in enumerate(value.items())
            )
            node = ["dict", *pairs]
        elif (
            isinstance(value, np.generic) and value.dtype.name in _DTYPES and not isinstance(value, np.complexfloating)
        ):
            node = ["scalar", value.dtype.name, self.encode(value.item(), place)]
        elif isinstance(value, jax.Array) or kind is np.ndarray:
            node = self._array(value, place)
        elif isinstance(value, enum.Enum) and _is_ours(kind, enum.Enum) and value.name in kind.__members__:
            node = ["enum", _class_name(kind), value.name]
        elif isinstance(value, eqx.Module) and _is_ours(kind, eqx.Module):
            node = self._module(value, place)
        elif _is_ours(kind, object) and _rebuilds(kind):
            node = self._state(value, place)
        elif callable(value) or not jax.tree_util.all_leaves([value]):
            node = self._template(value, place)
        else:
            raise ValueError(
                f"{_at(place)} is {_describe(value)}, which a file without code cannot keep; store an array, a "
                "number, a string, or tuples, lists and dicts of these (of a graph: its nodes and edges) instead"
            )
        return node

    def _array(self, value: Any, place: tuple[str, ...]) -> list:
        if isinstance(value, Tracer):
            raise ValueError(f"{_at(place)} is being traced: call save outside jit, vmap and grad")
        name = ".".join(place)
        if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
            self.arrays[name] = np.asarray(jax.random.key_data(value))
            return ["key", str(jax.random.key_impl(value)), name]
        dtype = value.dtype.name
        if dtype not in _DTYPES:
            raise ValueError(f"{_at(place)} is an array of {dtype}; make it numbers, or a tuple if it holds labels")
        array = np.asarray(value).astype(_DTYPES[dtype], copy=False)  # native byte order
        # NumPy's own file format knows its own dtypes only: the others travel as their bits
        self.arrays[name] = array.view(f"u{array.dtype.itemsize}") if dtype in _EXTENDED else array
        return ["array" if isinstance(value, jax.Array) else "numpy", name, dtype]

    def _module(self, value: eqx.Module, place: tuple[str, ...]) -> list:
        names = [field.name for field in dataclasses.fields(value)]  # pyright: ignore[reportArgumentType]
        fields = {name: self.encode(getattr(value, name), (*place, name)) for name in names}
        return ["module", _class_name(type(value)), fields, _batch_axes(value, place)]

    def _state(self, value: Any, place: tuple[str, ...]) -> list:
        code = getattr(value, "code", None)
        name = None if code is None else _class_name(code if hasattr(code, "__qualname__") else type(code))
        return ["state", _class_name(type(value)), self.encode(value.state(), (*place, "state")), name]

    def _template(self, value: Any, place: tuple[str, ...]) -> list:
        leaves = {}
        for i, (path, leaf) in enumerate(jax.tree_util.tree_flatten_with_path(value)[0]):
            if _is_data(leaf):
                leaves[jax.tree_util.keystr(path)] = self.encode(leaf, (*place, str(i)))
        return ["template", _class_name(value if hasattr(value, "__qualname__") else type(value)), leaves]


class _Decoder:
    """Turns nodes back into values; trusts nothing in them."""

    def __init__(self, members: dict[str, bytes], *, x64: bool):
        self.members = members  # each is taken out when it is used
        self.x64 = x64

    def decode(self, node: Any, place: tuple[str, ...], like: Any = _ABSENT) -> Any:  # noqa: PLR0912
        if len(place) > _MAX_DEPTH:
            raise ValueError(f"damaged: nested more than {_MAX_DEPTH} deep")
        match node:
            case None | bool() | int() | float() | str():
                value = node
            case ["float", "nan" | "inf" | "-inf" as text]:
                value = float(text)
            case ["tuple" | "list" as kind, *items]:
                likes = like if isinstance(like, tuple | list) and len(like) == len(items) else [_ABSENT] * len(items)
                value = [self.decode(item, (*place, str(i)), likes[i]) for i, item in enumerate(items)]
                value = tuple(value) if kind == "tuple" else value
            case ["dict", *pairs]:
                value = self._dict(pairs, place, like if isinstance(like, dict) else {})
            case ["scalar", str(dtype), number] if dtype in _DTYPES:
                value = self._scalar(_DTYPES[dtype], number, place)
            case ["array" | "numpy" as kind, str(name), str(dtype)]:
                value = self._array(name, dtype)
                value = value.copy() if kind == "numpy" else self._on_device(value, place)
            case ["key", str(implementation), str(name)]:
                value = self._key(implementation, name, place)
            case ["enum", str(name), str(member)]:
                value = self._member(_resolve(name, enum.Enum), member, place)
            case ["module", str(name), dict(fields), int(batch)]:
                value = self._module(_resolve(name, eqx.Module), fields, batch, place, like)
            case ["state", str(name), state, None | str() as code]:
                value = self._rebuilt(name, state, code, place, like)
            case ["template", str(name), dict(leaves)]:
                value = self._template(name, leaves, place, like)
            case _:
                raise ValueError(f"damaged: {_at(place)} is described by {repr(node)[:60]}, which means nothing")
        return value

    def _dict(self, pairs: list, place: tuple[str, ...], like: dict) -> dict:
        result = {}
        for i, pair in enumerate(pairs):
            if not (isinstance(pair, list) and len(pair) == 2):
                raise ValueError(f"damaged: entry {i} of {_at(place)} is not a key and a value")
            key = self.decode(pair[0], (*place, str(i), "0"))
            try:
                result[key] = self.decode(pair[1], (*place, str(i), "1"), like.get(key, _ABSENT))
            except TypeError as error:
                raise ValueError(f"damaged: entry {i} of {_at(place)} has a key that cannot be hashed") from error
        return result

    def _member(self, cls: Any, name: str, place: tuple[str, ...]) -> enum.Enum:
        if name not in cls.__members__:
            raise ValueError(f"{_at(place)} is {name!r}, which {cls.__name__} does not have in this version")
        return cls.__members__[name]

    def _scalar(self, dtype: np.dtype, node: Any, place: tuple[str, ...]) -> np.generic:
        number = self.decode(node, place)
        try:
            if type(number) in (bool, int, float):
                return dtype.type(number)
        except OverflowError:
            pass
        raise ValueError(f"damaged: {_at(place)} is {node!r}, which is no {dtype}")

    def _array(self, name: str, dtype: str) -> np.ndarray:
        data = self.members.pop(f"{name}.npy", None)
        if data is None:
            raise ValueError(f"damaged: array {name!r} is missing or used twice")
        if dtype not in _DTYPES:
            raise ValueError(f"damaged: array {name!r} has the unknown dtype {dtype!r}")
        wanted = _DTYPES[dtype]
        stored = np.dtype(f"u{wanted.itemsize}") if dtype in _EXTENDED else wanted
        array = parse_array(name, data)
        if array.dtype.newbyteorder("=") != stored:
            raise ValueError(f"damaged: array {name!r} is {array.dtype}, the header says {dtype}")
        return array.astype(stored, copy=False).view(wanted)

    def _on_device(self, array: np.ndarray, place: tuple[str, ...]) -> jax.Array:
        if _keeps(array.dtype):
            return jax.device_put(array)  # `jnp.asarray` compiles a program for each shape
        if self.x64:
            raise ValueError(
                f"{_at(place)} is {array.dtype} and was saved with 64-bit types on, which are off now and would halve "
                "its precision; load it inside `with jax.enable_x64(True):`, or switch jax_enable_x64 on first"
            )
        # A solver that works in 64 bits on its own made this array while they were off: give back just that.
        with jax.enable_x64(True):
            return jax.device_put(array)

    def _key(self, implementation: str, name: str, place: tuple[str, ...]) -> jax.Array:
        data = jnp.asarray(self._array(name, "uint32"))
        try:
            return jax.random.wrap_key_data(data, impl=implementation)
        except (TypeError, ValueError) as error:
            raise ValueError(f"damaged: {_at(place)} holds no {implementation} keys") from error

    def _module(self, cls: Any, fields: dict, batch: int, place: tuple[str, ...], like: Any) -> eqx.Module:
        wanted = [field.name for field in dataclasses.fields(cls)]
        if missing := [name for name in wanted if name not in fields]:
            raise ValueError(f"{_at(place)} lacks {', '.join(missing)}, which {cls.__name__} has in this version")
        if unknown := [name for name in fields if name not in wanted]:
            raise ValueError(f"{_at(place)} has {', '.join(unknown)}, which {cls.__name__} has not in this version")
        if not 0 <= batch <= _MAX_BATCH_AXES:
            raise ValueError(f"damaged: {_at(place)} claims {batch} batch axes")
        module = object.__new__(cls)  # as when JAX unflattens it: the constructor's arguments are not in the file
        for name in wanted:
            object.__setattr__(module, name, self.decode(fields[name], (*place, name), getattr(like, name, _ABSENT)))
        try:
            _check(module, batch)
        except Exception as error:  # whatever a stranger's values provoke, the caller sees one kind of error
            raise ValueError(f"{_at(place)} is not a valid {cls.__name__}: {error}") from error
        return module

    def _rebuilt(self, name: str, state: Any, code: str | None, place: tuple[str, ...], like: Any) -> Any:
        cls = _resolve(name, object)
        if not _rebuilds(cls):
            raise ValueError(f"damaged: {_at(place)} claims that {name} is built from a state")
        told = {}
        if code is not None:
            told["code"] = getattr(like, "code", None)
            if told["code"] is None:
                raise ValueError(
                    f"{_at(place)} was made with {code}, code that a file cannot hold; build a model as the saved one was "
                    "built, and pass it: load(path, like=model)"
                )
        found = self.decode(state, (*place, "state"))
        try:
            return cls.from_state(found, **told)
        except Exception as error:  # whatever a stranger's values provoke, the caller sees one kind of error
            raise ValueError(f"{_at(place)} is not a valid {cls.__name__}: {error!r}") from error

    def _template(self, name: str, saved: dict, place: tuple[str, ...], like: Any) -> Any:
        if like is _ABSENT:
            raise ValueError(
                f"{_at(place)} is {name}, code that a file cannot hold; build a model as the saved one was built, and "
                "pass it: load(path, like=model)"
            )
        paths, structure = jax.tree_util.tree_flatten_with_path(like)
        named = {jax.tree_util.keystr(path): leaf for path, leaf in paths}
        if differing := saved.keys() ^ {path for path, leaf in named.items() if _is_data(leaf)}:
            raise ValueError(
                f"{_at(place)} does not fit like: {', '.join(sorted(differing)[:5])} is in one of them only"
            )
        filled = []
        for i, (path, leaf) in enumerate(named.items()):
            value = self.decode(saved[path], (*place, str(i))) if path in saved else leaf
            got, wanted = _signature(value), _signature(leaf)
            if path in saved and got != wanted:
                raise ValueError(f"{_at(place)}{path} was saved as {got}, in like it is {wanted}")
            filled.append(value)
        return jax.tree_util.tree_unflatten(structure, filled)


def _check(module: eqx.Module, batch: int) -> None:
    """Run a class's own checks, as its constructor would; of a batch, on the first element."""
    checks = [vars(cls)["__check_init__"] for cls in type(module).__mro__ if "__check_init__" in vars(cls)]
    if not checks:
        return
    leaves = [leaf for leaf in jax.tree_util.tree_leaves(module) if isinstance(leaf, jax.Array)]
    wide = any(leaf.dtype.name in _DTYPES and not _keeps(leaf.dtype) for leaf in leaves)
    with jax.enable_x64(True) if wide else contextlib.nullcontext():  # as in the solver that made them
        for _ in range(batch):
            module = _first(module)
        for check in checks:
            check(module)


def _first(batch: Any) -> Any:
    """Take the first element of a batch of models, all of whose arrays must have the same leading axis."""
    sizes = {leaf.shape[:1] for leaf in jax.tree_util.tree_leaves(batch) if isinstance(leaf, jax.Array | np.ndarray)}
    if len(sizes) != 1 or sizes <= {(), (0,)}:
        raise ValueError("its arrays do not share a leading axis, or it is empty")
    return jax.tree_util.tree_map(lambda leaf: leaf[0] if isinstance(leaf, jax.Array | np.ndarray) else leaf, batch)


def _batch_axes(module: eqx.Module, place: tuple[str, ...]) -> int:
    """How many leading axes `jax.vmap` gave a module: the fewest under which its own checks pass."""
    reason = None
    for batch in range(_MAX_BATCH_AXES + 1):
        try:
            _check(module, batch)
        except (ValueError, TypeError, IndexError) as error:  # what checks written for one model say to many
            reason = reason or error
        else:
            return batch
    raise ValueError(
        f"{_at(place)} could not be loaded again, for it does not pass the checks of {type(module).__name__}: {reason}"
    ) from reason


def _resolve(name: str, base: type) -> Any:
    """Find a class that chainrule itself defines: `chainrule.forms.chain:Chain`."""
    home, _, attribute = name.partition(":")
    problem = f"{name[:100]!r} is no {base.__name__} that this version of chainrule defines"
    if not _MODULE_NAME.fullmatch(home):
        raise ValueError(problem)
    try:
        namespace = vars(importlib.import_module(home))
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "chainrule":
            raise  # an optional dependency is not installed, and the message names it
        raise ValueError(problem) from error
    cls: Any = namespace.get(attribute)
    usable = isinstance(cls, type) and issubclass(cls, base) and not inspect.isabstract(cls)
    if not usable or (cls.__module__, cls.__qualname__) != (home, attribute):  # else it is merely imported there
        raise ValueError(problem)
    return cls


def _is_ours(cls: type, base: type) -> bool:
    try:
        return issubclass(cls, base) and _resolve(_class_name(cls), base) is cls
    except ValueError:
        return False


def _rebuilds(cls: type) -> bool:
    """Whether objects are saved by what `state()` says of them."""
    return inspect.isfunction(vars(cls).get("state")) and isinstance(vars(cls).get("from_state"), classmethod)


def _class_name(thing: Any) -> str:
    return f"{getattr(thing, '__module__', None)}:{getattr(thing, '__qualname__', type(thing).__name__)}"


def _describe(value: Any) -> str:
    return f"a {type(value).__module__}.{type(value).__qualname__}"


def _at(place: tuple[str, ...]) -> str:
    return ".".join(("model", *place))


def _keeps(dtype: np.dtype) -> bool:
    """Whether JAX keeps this dtype now, or would cut it to 32 bits."""
    return jax.dtypes.canonicalize_dtype(dtype) == dtype


def _is_data(leaf: Any) -> bool:
    """Whether a leaf of a template is a value to fill in; functions and the like stay as they are."""
    return eqx.is_array(leaf) or isinstance(leaf, bool | int | float | complex | str | jax.ShapeDtypeStruct)


def _signature(leaf: Any) -> str:
    return f"{leaf.dtype}{list(leaf.shape)}" if hasattr(leaf, "shape") else type(leaf).__name__
