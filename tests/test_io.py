"""Files: exact round trips, precision kept, code from a template, and nothing lost when a save is interrupted."""

import dataclasses
import enum
import errno
import functools
import json
import os
import sys
import types

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chainrule.forms.chain import Chain
from chainrule.io import load, save

PLANTED = """
import enum, equinox as eqx

class Status(enum.Enum):
    CONVERGED = "stopped at the tolerance"
    RUNNING = "needs more iterations"

class Result(eqx.Module):
    value: object
    note: object = eqx.field(static=True, default=None)

class Positive(eqx.Module):
    scale: object
    def __check_init__(self):
        if self.scale.shape != () or bool(self.scale * 2 <= 0):
            raise ValueError("scale must be one positive number")
"""


@pytest.fixture
def planted(monkeypatch):
    """A module of chainrule that exists for one test only."""
    module = types.ModuleType("chainrule.planted")
    exec(PLANTED, vars(module))  # the classes' __module__ is the __name__ of these globals
    monkeypatch.setitem(sys.modules, "chainrule.planted", module)
    return module


@pytest.fixture
def chain():
    rng = np.random.default_rng(0)
    pair = np.log(rng.dirichlet(np.ones(3), 3))
    pair[0, 1] = -np.inf
    return Chain(np.log([0.2, 0.3, 0.5]), pair, rng.normal(size=(5, 3)), 4)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.npz"


def round_trip(path, value, **kwargs):
    save(path, value)
    return load(path, **kwargs)


def identical(a, b):
    """Same types, same dtypes, same bits."""
    if isinstance(a, eqx.Module):
        same = all(identical(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a))
    elif isinstance(a, tuple | list):
        same = len(a) == len(b) and all(map(identical, a, b))
    elif isinstance(a, dict):
        same = identical(list(a.items()), list(b.items()))
    elif isinstance(a, jax.Array | np.ndarray):
        same = a.dtype == b.dtype and a.shape == b.shape and bits(a) == bits(b)
    else:
        same = repr(a) == repr(b)
    return same and type(a) is type(b)


def bits(array):
    is_key = jnp.issubdtype(array.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(array) if is_key else array).tobytes()


# --- round trips -----------------------------------------------------------------------------------------------------


def test_a_form_comes_back_bit_for_bit(path, chain):
    loaded = round_trip(path, chain)
    assert identical(loaded, chain)
    assert jax.tree_util.tree_structure(loaded) == jax.tree_util.tree_structure(chain)
    path = np.array([2, 2, 1, 0, 0])
    assert float(loaded.score(path)) == float(chain.score(path))


def test_the_file_is_an_ordinary_npz(path, chain):
    save(path, chain)
    with np.load(path, allow_pickle=False) as file:
        np.testing.assert_array_equal(file["pair"], chain.pair)
        assert json.loads(file["header.json"])["format"] == "chainrule"


@pytest.mark.parametrize(
    "dtype", ["bool", "int8", "uint32", "int32", "float16", "float32", "complex64", "bfloat16", "float8_e4m3fn", "int4"]
)
@pytest.mark.parametrize("shape", [(), (0, 2), (2, 3)])
def test_dtypes_and_shapes_survive(path, planted, dtype, shape):
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(jnp.dtype(dtype))
    for value in (array, np.asfortranarray(array) if shape else array, jax.device_put(array)):
        assert identical(round_trip(path, planted.Result(value)).value, value)


@pytest.mark.parametrize("implementation", ["threefry2x32", "rbg"])
def test_random_keys_go_on_where_they_were(path, planted, implementation):
    keys = jax.random.split(jax.random.key(3, impl=implementation), 4)
    loaded = round_trip(path, planted.Result(keys)).value
    assert identical(loaded, keys)
    assert jax.random.uniform(loaded[1]) == jax.random.uniform(keys[1])


few = functools.partial(st.lists, max_size=4)
labels = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda inner: few(inner).map(tuple)
)
values = st.recursive(
    labels,
    lambda inner: few(inner) | few(inner).map(tuple) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=values)
def test_plain_values_survive(path, planted, value):
    loaded = round_trip(path, planted.Result(value, note=value))
    assert identical(loaded.value, value)
    assert identical(loaded.note, value)


def test_enumerations_nested_objects_and_labels(path, planted, chain):
    model = planted.Result({("b", 2): [chain, np.str_("cool")], ("a", 1): planted.Status.CONVERGED}, note=(10**30, "x"))
    loaded = round_trip(path, model)
    assert loaded.value[("a", 1)] is planted.Status.CONVERGED
    assert identical(loaded.value[("b", 2)], [chain, "cool"])
    assert loaded.note == (10**30, "x")


def test_numpy_scalars_keep_their_type(path, planted):
    values = [
        np.float32(1 / 3),
        np.float64(-np.inf),
        np.int8(-7),
        np.uint64(2**64 - 1),
        np.bool_(True),
        np.float16("nan"),
    ]
    values += [jnp.bfloat16.dtype.type(0.1)]
    assert identical(round_trip(path, planted.Result(values)).value, values)


def test_a_batch_of_models_is_one_model_with_a_leading_axis(path, planted, chain):
    scaled = jax.vmap(jax.vmap(lambda x: Chain(chain.initial * x, chain.pair, chain.node)))
    draws = jax.jit(scaled)(np.ones((4, 2)))
    loaded = round_trip(path, planted.Result(draws)).value
    assert identical(loaded, draws)
    assert jax.vmap(jax.vmap(lambda c: c.score(np.arange(5) % 3)))(loaded).shape == (4, 2)


def test_equal_models_give_equal_files(tmp_path, chain):
    for name in "ab":
        save(tmp_path / name, chain)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]  # no suffix was added, nothing else left behind


# --- precision -------------------------------------------------------------------------------------------------------


def test_64_bits_are_never_cut_silently(path, planted):
    with jax.enable_x64(True):
        save(path, planted.Result(jnp.asarray(1 / 3)))
        assert load(path).value.dtype == "float64"
    with jax.enable_x64(False):
        with pytest.raises(ValueError, match=r"model\.value is float64.*jax\.enable_x64\(True\)"):
            load(path)
        assert identical(round_trip(path, planted.Result(np.array([1 / 3]))).value, np.array([1 / 3]))


def test_an_array_a_solver_made_in_64_bits_on_its_own_stays_so(path, planted):
    with jax.enable_x64(False):
        with jax.enable_x64(True):
            result = planted.Result((jnp.asarray([1 / 3, 2 / 3]), planted.Positive(jnp.asarray(1 / 3))))
        assert identical(round_trip(path, result), result)


# --- templates -------------------------------------------------------------------------------------------------------


def network(seed, width=4):
    layout = eqx.filter_eval_shape(eqx.nn.MLP, 3, 2, width, 1, activation=jnp.tanh, key=jax.random.key(0))
    rng = np.random.default_rng(seed)

    def drawn(leaf):
        return jax.device_put(rng.normal(size=leaf.shape).astype(leaf.dtype))

    return jax.tree.map(lambda x: drawn(x) if isinstance(x, jax.ShapeDtypeStruct) else x, layout)


def test_code_comes_from_a_template_and_arrays_from_the_file(path, planted, chain):
    model = planted.Result((chain, network(0), lambda x: x + 1), note=("from", "file"))
    save(path, model)
    with pytest.raises(ValueError, match=r"model\.value\.1 is equinox\.nn.*:MLP, code.*load\(path, like=model\)"):
        load(path)
    like = planted.Result((chain, network(1), lambda x: x - 1), note="template")
    loaded = load(path, like=like)
    assert identical(loaded.value[1], network(0))
    assert loaded.value[2](1) == 0
    assert loaded.note == ("from", "file")
    assert identical(loaded.value[0], chain)


def test_a_template_need_not_hold_values(path):
    save(path, network(0))
    loaded = load(path, like=eqx.filter_eval_shape(network, 1))
    assert identical(loaded, network(0))


def half_precision():
    arrays, rest = eqx.partition(network(1), eqx.is_array)
    return eqx.combine(jax.tree.map(lambda x: jax.device_put(np.asarray(x).astype(jnp.bfloat16)), arrays), rest)


@pytest.mark.parametrize(
    ("like", "problem"),
    [
        (
            lambda: network(1, width=5),
            r"\.layers\[0\]\.weight was saved as float32\[4, 3\], in like it is float32\[5, 3\]",
        ),
        (lambda: network(0).layers[0], "does not fit like"),
        (half_precision, r"bfloat16\[4, 3\]"),
    ],
)
def test_a_template_that_does_not_fit_is_refused(path, like, problem):
    save(path, network(0))
    with pytest.raises(ValueError, match=problem):
        load(path, like=like())


def test_like_must_be_what_the_file_holds(path, planted, chain):
    save(path, chain)
    with pytest.raises(ValueError, match=r"holds a chainrule\.forms\.chain\.Chain, but like is a .*Result"):
        load(path, like=planted.Result(1))


# --- what cannot be saved --------------------------------------------------------------------------------------------


class Mood(enum.Enum):
    GOOD = 1


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ({1, 2}, r"model\.value is a builtins\.set"),
        (1j, "complex"),
        (np.complex64(1j), "complex64"),
        (np.datetime64("2020-01-01"), "datetime64"),
        (Mood.GOOD, "Mood"),
        (object(), "object"),
        (np.array(["a"]), "make it numbers, or a tuple"),
        (np.array([None]), "array of object"),
        (np.ma.masked_array([1.0], [True]), "MaskedArray"),
    ],
)
def test_data_that_a_file_cannot_keep_is_refused(path, planted, value, problem):
    with pytest.raises(ValueError, match=problem):
        save(path, planted.Result(value))
    assert not path.exists()


def test_graphs_models_that_are_none_depths_and_tracers_are_refused(path, planted):
    import networkx as nx

    with pytest.raises(ValueError, match="its nodes and edges"):
        save(path, planted.Result(nx.path_graph(3)))
    with pytest.raises(ValueError, match="wanted a model or result"):
        save(path, {"a": 1})  # pyright: ignore[reportArgumentType]
    deep = functools.reduce(lambda inner, _: [inner], range(100), 1)
    with pytest.raises(ValueError, match="more than 64 deep"):
        save(path, planted.Result(deep))
    with pytest.raises(ValueError, match="outside jit"):
        jax.jit(lambda x: save(path, planted.Result(x)))(jnp.ones(2))


def test_what_could_not_be_loaded_again_is_refused_at_once(path, planted):
    broken = eqx.tree_at(lambda model: model.scale, planted.Positive(jnp.ones(())), jnp.array(-1.0))
    with pytest.raises(ValueError, match=r"could not be loaded again.*scale must be one positive number"):
        save(path, planted.Result(broken))


# --- interruptions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "disk full"), KeyboardInterrupt()])
def test_an_interrupted_save_keeps_the_previous_file(path, chain, monkeypatch, step, error):
    def fail(*args, **kwargs):
        raise error

    save(path, chain)
    before = path.read_bytes()
    target = {"write": (np.lib.format, "write_array"), "fsync": (os, "fsync"), "replace": (os, "replace")}[step]
    monkeypatch.setattr(*target, fail)
    with pytest.raises(type(error)):
        save(path, Chain(chain.initial, chain.pair, chain.node))
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_a_link_is_written_through(tmp_path, chain):
    (tmp_path / "link").symlink_to(tmp_path / "real")
    save(str(tmp_path / "link"), chain)
    assert (tmp_path / "link").is_symlink()
    assert identical(load(tmp_path / "real"), chain)
