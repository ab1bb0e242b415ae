"""What `import chainrule` costs and changes: next to nothing. Each check looks at a fresh process."""

import json
import subprocess
import sys
from functools import cache

import pytest

HEAVY = ["numpyro", "blackjax", "matplotlib", "networkx", "optax", "gymnasium", "scipy.stats", "scipy.optimize"]

PROBE = """
import json, sys
import jax
before = dict(jax.config.values)
packages = set(sys.modules)

import chainrule

from jax._src import xla_bridge
report = {
    "loaded": sorted(set(sys.modules) - packages),
    "settings": sorted(k for k, v in jax.config.values.items() if k not in before or before[k] != v),
    "backends": sorted(xla_bridge._backends),
    "dir": dir(chainrule),
}
report["names"] = {}
for name in chainrule.__all__:
    try:
        report["names"][name] = type(getattr(chainrule, name)).__name__
    except (ImportError, AttributeError) as error:
        report["names"][name] = f"missing: {error}"
report["backends_after_names"] = sorted(xla_bridge._backends)
print(json.dumps(report))
"""


@cache
def probe():
    run = subprocess.run([sys.executable, "-W", "error", "-c", PROBE], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    return json.loads(run.stdout)


def test_the_root_loads_none_of_its_own_packages():
    assert [name for name in probe()["loaded"] if name.startswith("chainrule.")] == []


@pytest.mark.parametrize("package", HEAVY)
def test_heavy_packages_wait_for_their_first_use(package):
    assert package not in probe()["loaded"]


FROM_ARRAYS = """
import sys
import numpy as np
import chainrule as cr
cr.HMM([0.5, 0.5], np.eye(2), cr.emissions.Poisson([1.0, 2.0]))
cr.MarkovChain([0.5, 0.5], np.eye(2))
cr.LinearChainCRF(["D", "N"], [cr.templates("%x[0,0]")])
cr.MDP(np.ones((1, 1, 1)), np.ones((1, 1)), discount=0.9)
print(sorted({"networkx", "numpyro", "matplotlib", "chainrule.learning.energies"} & set(sys.modules)))
"""


def test_models_made_of_arrays_load_no_graph_library_and_no_other_models_learning():
    run = subprocess.run([sys.executable, "-c", FROM_ARRAYS], capture_output=True, text=True, check=False)
    assert run.stdout == "[]\n", run.stderr


def test_no_setting_changes_and_no_backend_starts():
    assert probe()["settings"] == []
    assert probe()["backends"] == []
    assert probe()["backends_after_names"] == []  # no module makes an array while it is imported


def test_every_public_name_resolves_and_is_listed():
    assert set(probe()["names"]) <= set(probe()["dir"])
    missing = {name for name, kind in probe()["names"].items() if kind.startswith("missing")}
    assert not missing


def test_an_unknown_name_is_an_attribute_error():
    import chainrule
    import chainrule.learning

    with pytest.raises(AttributeError, match="no attribute 'HiddenMarkov'"):
        _ = chainrule.HiddenMarkov  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(AttributeError, match="no attribute 'SGD'"):
        _ = chainrule.learning.SGD  # pyright: ignore[reportAttributeAccessIssue]


def test_learning_has_the_strategies_of_the_root():
    import chainrule
    from chainrule import learning

    for name in learning.__all__:
        assert getattr(learning, name) is getattr(chainrule, name)
