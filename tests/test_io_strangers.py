"""Files from strangers: whatever they hold, the loader answers with a ValueError or with a valid chainrule object."""

import io
import json
import sys
import types
import zipfile

import equinox as eqx
import numpy as np
import pytest

from chainrule.forms.chain import Chain
from chainrule.io import load, save

PLANTED = """
import abc, enum, equinox as eqx
from chainrule.forms.chain import Chain

class Status(enum.Enum):
    CONVERGED = "stopped at the tolerance"

class AbstractThing(eqx.Module):
    @abc.abstractmethod
    def act(self): ...

class Exploding(eqx.Module):
    value: object
    def __check_init__(self):
        self.value.no_such_attribute
"""


@pytest.fixture
def planted(monkeypatch):
    """A module of chainrule that exists for one test only."""
    module = types.ModuleType("chainrule.planted")
    exec(PLANTED, vars(module))  # the classes' __module__ is the __name__ of these globals
    monkeypatch.setitem(sys.modules, "chainrule.planted", module)


@pytest.fixture
def chain():
    rng = np.random.default_rng(0)
    return Chain(*(rng.normal(size=shape).astype("f4") for shape in ((3,), (3, 3), (5, 3))))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.npz"


def forge(path, model=None, arrays=(), *, compression=zipfile.ZIP_STORED, **header):
    """Write an archive that claims to be ours."""
    header = {"format": "chainrule", "version": 1, "x64": False, "model": model} | header
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("header.json", json.dumps(header))
        for name, array in dict(arrays).items():
            archive.writestr(f"{name}.npy", array if isinstance(array, bytes) else npy(array))


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def chain_node(**fields):
    given = {"initial": ["array", "i", "float32"], "pair": ["array", "p", "float32"], "node": ["array", "n", "float32"]}
    return ["module", "chainrule.forms.chain:Chain", given | {"length": None} | fields, 0]


ARRAYS = {"i": np.zeros(2, "f4"), "p": np.zeros((2, 2), "f4"), "n": np.zeros((3, 2), "f4")}


def test_the_forger_writes_files_that_load(path):
    forge(path, chain_node(), ARRAYS)
    assert load(path).num_steps == 3


@pytest.mark.parametrize(
    "name",
    [
        "os:system", "builtins:eval", "chainrule:save", "chainrule.io:save", "chainrule.io:_Decoder", "numpy:ndarray",
        "chainrule.forms.chain:eqx", "chainrule.forms.chain:Chain.__init__", "chainrule.forms.chain:__builtins__",
        "chainrule.__main__:X", "chainrule..forms:X", "chainrule.forms.chain", "chainrule_evil.x:X", ":", "",
        "chainrule.planted:Chain", "chainrule.planted:AbstractThing", "chainrule.planted:eqx", "chainrule.nowhere:X",
        "chainrule.forms.chain:Chain\n", "chainrule.forms.chain\n:Chain", "equinox.nn:Linear",
    ],
)  # fmt: skip
@pytest.mark.usefixtures("planted")
def test_only_classes_of_chainrule_can_be_named(path, name):
    loaded_before = set(sys.modules)
    for node in (["module", name, {}, 0], ["enum", name, "X"]):
        forge(path, node)
        with pytest.raises(ValueError, match="that this version of chainrule defines"):
            load(path)
    assert not {"chainrule.__main__", "chainrule_evil"} & (set(sys.modules) - loaded_before)


@pytest.mark.parametrize(
    ("node", "problem"),
    [
        (chain_node(initial=["array", "p", "float32"]), "missing or used twice"),
        (chain_node(initial=["array", "i", "int32"]), "is float32, the header says int32"),
        (chain_node(initial=["array", "i", "object"]), "unknown dtype 'object'"),
        (chain_node(initial=["array", "header.json", "float32"]), "'header.json' is missing"),
        (chain_node(initial=["array", "../i", "float32"]), "'../i' is missing"),
        (chain_node(initial=None), "not a valid Chain"),
        (chain_node(initial="two"), "not a valid Chain"),
        (chain_node(length=9), "length is 9, outside 1"),
        (chain_node(colour=1), "has colour, which Chain has not"),
        (["module", "chainrule.forms.chain:Chain", {"initial": None}, 0], "lacks pair, node, length"),
        (["module", "chainrule.forms.chain:Chain", chain_node()[2], 1], "not a valid Chain"),
        (["module", "chainrule.forms.chain:Chain", chain_node()[2], 10**9], "claims 1000000000 batch axes"),
        (["pickle", "x"], "which means nothing"),
        ([], "which means nothing"),
        ({}, "which means nothing"),
        (["float", "1e9"], "which means nothing"),
        (["dict", [["list"], 1]], "cannot be hashed"),
        (["scalar", "int8", 300], "is no int8"),
        (["scalar", "float32", ["list"]], "is no float32"),
        (["scalar", "float32", "x"], "is no float32"),
        (["scalar", "object", 1], "which means nothing"),
        (["dict", 1], "not a key and a value"),
        (["key", "nonsense", "i"], "header says uint32"),
        (["key", "nonsense", "k"], "model holds no nonsense keys"),
        (["key", "threefry2x32", "k"], "model holds no threefry2x32 keys"),
        (["enum", "chainrule.planted:Status", "__class__"], "'__class__', which Status does not have"),
        (["module", "chainrule.planted:Exploding", {"value": 1}, 0], "not a valid Exploding.*no_such_attribute"),
        (["template", "os:system", {}], r"load\(path, like=model\)"),
        (1, "arrays that no field asks for"),
    ],
)
@pytest.mark.usefixtures("planted")
def test_a_header_that_lies_is_refused(path, node, problem):
    forge(path, node, ARRAYS | {"k": np.zeros(3, "u4")} if isinstance(node, list) and node[:1] == ["key"] else ARRAYS)
    with pytest.raises(ValueError, match=problem) as caught:
        load(path)
    assert str(path) in str(caught.value)


def test_wrong_shapes_and_values_meet_the_constructors_checks(path):
    forge(path, chain_node(), ARRAYS | {"p": np.zeros((3, 2), "f4")})
    with pytest.raises(ValueError, match=r"not a valid Chain: pair has shape \(3, 2\)"):
        load(path)
    forge(path, chain_node(), ARRAYS | {"i": np.full(2, np.nan, "f4")})
    with pytest.raises(ValueError, match="NaN"):
        load(path)


@pytest.mark.parametrize(
    ("header", "problem"),
    [
        ({"format": "other"}, "not a chainrule file"),
        ({"version": 99}, r"newer chainrule wrote it \(format 99.*upgrade"),
        ({"version": "1"}, "not a chainrule file"),
        ({"version": 0}, "incomplete"),
        ({"x64": 1}, "incomplete"),
    ],
)
def test_headers_of_other_kinds(path, header, problem):
    forge(path, 1, **header)
    with pytest.raises(ValueError, match=problem):
        load(path)


def test_headers_that_are_not_json(path):
    for text in ("[" * 100_000, "{", '{"model": NaN}', "\xff", "[" + "9" * 10_000 + "]", "[1]"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("header.json", text.encode("latin-1"))
        with pytest.raises(ValueError, match=r"header\.json"):
            load(path)


def test_deep_nesting_is_refused(path):
    node = 1
    for _ in range(200):
        node = ["tuple", node]
    forge(path, node)
    with pytest.raises(ValueError, match="more than 64 deep"):
        load(path)


def announce(shape, descr="<f4", data=b""):
    """An array file that announces more than it holds."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
    return file.getvalue() + data


@pytest.mark.parametrize(
    "member",
    [
        announce((10**12,)),
        announce((10**12,), "|V0"),
        announce((-1,), data=b"1234"),
        announce((2,), "|O", b"cos\nsystem\n."),
        announce((2,), data=b"1234"),
        b"nonsense",
        b"",
        npy(np.zeros(2, "f4"))[:-1],
    ],
)
def test_arrays_that_are_not_what_they_announce(path, member):
    forge(path, chain_node(), ARRAYS | {"i": member})
    with pytest.raises(ValueError, match="cannot load"):
        load(path)


def test_bombs_are_not_unpacked(path, chain):
    forge(path, chain_node(), ARRAYS | {"n": np.zeros((10**6, 2), "f4")}, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match="compressed"):
        load(path)
    save(path, chain)
    with pytest.raises(ValueError, match="max_bytes"):
        load(path, max_bytes=100)


def test_repeated_members_are_refused(path):
    forge(path, chain_node(), ARRAYS)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("i.npy", npy(np.ones(2, "f4")))
    with pytest.raises(ValueError, match="repeated"):
        load(path)


def test_truncated_damaged_and_foreign_files(path, chain):
    save(path, chain)
    whole = path.read_bytes()
    for size in range(0, len(whole), 37):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"truncated|not a chainrule file"):
            load(path)
    at = whole.index(np.asarray(chain.node).tobytes())
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    with pytest.raises(ValueError, match=r"damaged.*CRC"):
        load(path)
    np.savez(path, x=np.ones(2))
    with pytest.raises(ValueError, match="not a chainrule file"):
        load(path)
    with pytest.raises(FileNotFoundError):
        load(path.with_name("nowhere.npz"))


def test_random_damage_is_a_value_error_or_harmless(path, chain):
    save(path, chain)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        damaged = bytearray(whole)
        for position in rng.integers(len(whole), size=3):
            damaged[position] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            loaded = load(path)
        except ValueError:
            refused += 1
        else:  # the bytes hit were the archive's own padding and dates
            assert eqx.tree_equal(loaded, chain)
    assert refused > 100
