"""Imports go down only, and each heavy dependency stays behind one door.

The layers are `forms → inference → graphs → learning → models → bayes, rl → plotting, io, evaluation`; each may
import those before it. `neural` imports none of them, and only the layers above `models` import it.
"""

import ast
from pathlib import Path

import pytest

import chainrule

ROOT = Path(chainrule.__file__).parent

_LAYERS = [
    ("forms",),
    ("inference",),
    ("graphs",),
    ("learning",),
    ("models",),
    ("bayes", "rl"),
    ("plotting", "io", "evaluation"),
]
LEVEL = {layer: level for level, layers in enumerate(_LAYERS) for layer in layers}
ABOVE_MODELS = {"bayes", "rl", "plotting", "io", "evaluation"}

# where an outside package may be imported; networkx may be everywhere but in two layers
ONLY_IN = {
    "numpyro": lambda module: layer(module) == "bayes",
    "gymnasium": lambda module: module == "chainrule.rl.environments",
    "matplotlib": lambda module: layer(module) == "plotting",
    "networkx": lambda module: layer(module) not in {"forms", "inference"},
}


def layer(module: str) -> str:
    """`chainrule.forms.chain` → `forms`; the root itself is ''."""
    return module.split(".")[1] if "." in module else ""


def may_import(importer: str, imported: str) -> bool:
    if importer == imported:
        return True
    if imported == "neural":
        return importer in ABOVE_MODELS
    return importer in LEVEL and imported in LEVEL and LEVEL[imported] < LEVEL[importer]


def imports(tree: ast.AST, module: str, *, is_package: bool):
    """Every imported name, absolute, with its line: at the top, inside functions, under TYPE_CHECKING."""
    package = module if is_package else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            parts = parts[: len(parts) - node.level + 1] if node.level else []
            origin = ".".join([*parts, *filter(None, [node.module])])
            yield from ((f"{origin}.{alias.name}", node.lineno) for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            function = ast.unparse(node.func).rpartition(".")[2]
            if function in {"import_module", "__import__"} and isinstance(node.args[0].value, str):
                yield node.args[0].value, node.lineno


def violations(source: str, module: str, *, is_package: bool = False) -> list[str]:
    """What a module does that its place in the layers forbids."""
    tree = ast.parse(source)
    found = []
    for name, line in imports(tree, module, is_package=is_package):
        top = name.split(".")[0]
        if top == "chainrule" and module != "chainrule" and not may_import(layer(module), layer(name)):
            found.append(f"{module}:{line} imports {name}: not below {layer(module)!r}")
        if top in ONLY_IN and not ONLY_IN[top](module):
            found.append(f"{module}:{line} imports {name}: not its door")
        if name == "jax.config" or name.startswith(("jax.config.", "jax._src.config")):
            found.append(f"{module}:{line} imports {name}: settings belong to the user")
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr == "config" and ast.unparse(node.value) in jax_names(tree):
            found.append(f"{module}:{node.lineno} touches {ast.unparse(node)}: settings belong to the user")
    return found


def jax_names(tree: ast.AST) -> set[str]:
    """What the module calls jax."""
    aliases = [alias for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    return {"jax"} | {alias.asname for alias in aliases if alias.name == "jax" and alias.asname}


def modules():
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        yield pytest.param(path, ".".join(parts[:-1] if is_package else parts), is_package, id="/".join(parts[1:]))


@pytest.mark.parametrize(("path", "module", "is_package"), list(modules()))
def test_imports_go_down_only(path, module, is_package):
    assert violations(path.read_text(), module, is_package=is_package) == []


def test_every_module_has_a_layer():
    places = {path.relative_to(ROOT).parts[0].removesuffix(".py") for path in ROOT.rglob("*.py")}
    assert places - {"__init__"} <= {*LEVEL, "neural"}


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("chainrule.forms.chain", "from ..inference import chain"),
        ("chainrule.forms.chain", "from .. import graphs"),
        ("chainrule.forms.chain", "from ..models.hmm import HMM"),
        ("chainrule.inference.chain", "import chainrule.graphs.compile"),
        ("chainrule.inference.chain", "from chainrule import models"),
        ("chainrule.learning.em", "def fit():\n    from ..models import hmm"),
        ("chainrule.learning.em", "if TYPE_CHECKING:\n    from ..models.hmm import HMM"),
        ("chainrule.models.hmm", "from ..io import save"),
        ("chainrule.models.hmm", "from .. import save"),
        ("chainrule.models.hmm", "from chainrule import HMM"),
        ("chainrule.models.hmm", "import chainrule"),
        ("chainrule.models.hmm", "importlib.import_module('chainrule.io')"),
        ("chainrule.models.emissions.normal", "from ... import plotting"),
        ("chainrule.models.crf", "from ..neural import recurrent"),
        ("chainrule.neural.recurrent", "from ..forms.chain import Chain"),
        ("chainrule.bayes.nuts", "from ..rl import agents"),
        ("chainrule.rl.agents", "from ..bayes import posterior"),
        ("chainrule.io", "from . import plotting"),
        ("chainrule.models.hmm", "import numpyro"),
        ("chainrule.models.hmm", "def f():\n    import numpyro.distributions as dist"),
        ("chainrule.rl.agents", "import gymnasium as gym"),
        ("chainrule.models.hmm", "from matplotlib import pyplot"),
        ("chainrule.forms.chain", "from networkx import Graph"),
        ("chainrule.inference.chain", "import networkx as nx"),
        ("chainrule.forms.chain", "import jax\njax.config.update('jax_enable_x64', True)"),
        ("chainrule.forms.chain", "import jax as j\nj.config.jax_enable_x64 = True"),
        ("chainrule.forms.chain", "from jax import config"),
        ("chainrule.forms.chain", "from jax.config import config"),
        ("chainrule", "import numpyro"),
    ],
)
def test_a_planted_violation_is_caught(module, source):
    assert len(violations(source, module)) >= 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        (
            "chainrule.models.hmm",
            "from ..forms.chain import Chain\nfrom ..graphs import compile\nfrom . import emissions",
        ),
        ("chainrule.models.hmm", "import networkx as nx\nimport jax\njax.enable_x64(True)"),
        ("chainrule.bayes.nuts", "import numpyro\nfrom ..neural import recurrent\nfrom ..models.hmm import HMM"),
        ("chainrule.rl.environments", "def f():\n    import gymnasium"),
        ("chainrule.neural.recurrent", "from .blocks import Block\nimport equinox as eqx\nself.config"),
        ("chainrule.plotting", "import matplotlib\nfrom .bayes import posterior"),
        ("chainrule.inference.chain", "from ..forms.chain import Chain\nfrom .semirings import log"),
    ],
)
def test_what_is_allowed_passes(module, source):
    assert violations(source, module) == []


def test_a_packages_own_relative_imports_resolve():
    assert violations("from .hmm import HMM\nfrom ..forms import chain", "chainrule.models", is_package=True) == []
    assert violations("from ..io import save", "chainrule.models", is_package=True)
