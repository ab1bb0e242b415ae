"""Shared settings: strict dtypes and ranks everywhere, slow tests on demand."""

import os
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
if version("jaxlib").startswith("0.10."):
    # Most of the time goes into compiling: the older emitters, as in inference/compiling.py, and machine code that is not
    # optimised take half of it. XLA_FLAGS="" tests what users run; tutorials and benchmarks run that too.
    quick = ("use_fusion_emitters=false", "parallel_codegen_split_count=1")
    flags = " ".join(f"--xla_cpu_{flag}" for flag in quick)
    os.environ.setdefault("XLA_FLAGS", f"{flags} --xla_backend_optimization_level=0")

# A tenth of the rest goes into where each operation was written, and into partitioning programs that run on one device.
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")
os.environ.setdefault("JAX_USE_SHARDY_PARTITIONER", "0")

import jax
import pytest


def pytest_addoption(parser):
    parser.addoption("--runslow", action="store_true", help="run the tests marked slow too")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--runslow"):
        return
    skip = pytest.mark.skip(reason="slow; run with --runslow")
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(autouse=True, scope="module")
def room():
    """Give programs back where there are too many: each is some memory maps, of which Linux lets a process have 65 530."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > 45_000:
        jax.clear_caches()


@pytest.fixture(autouse=True)
def strict(request):
    """No silent promotion of dtypes or ranks in our own code. NumPyro's internals rely on both, so `lenient` opts out."""
    if "lenient" in request.keywords:
        yield
        return
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield
