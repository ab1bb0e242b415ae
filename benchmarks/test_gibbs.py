"""The samplers of gibbs_measure.py under pytest-benchmark: `pytest benchmarks -k gibbs`, or `-k "lattice and thrml"`.

`gibbs.py` is what ratios are quoted from, because it times the samplers in turns. Here every sampler is timed by itself,
and ours are held to what is known of the Ising model.
"""

import functools

import numpy as np
import pytest
from gibbs_measure import LATTICE, SWEEPS, lattice, sparse

pytestmark = pytest.mark.filterwarnings("default")  # the rival's warnings are not ours to fix

TASKS = {"sparse": sparse, "lattice": lattice}
ENERGY = -1.106079  # per site at β = 0.4 on a torus of 256 by 256 (Kaufman 1949)
SIDES = [
    *(("sparse", name) for name in ("thrml", "chainrule, philox2x32", "chainrule, threefry2x32")),
    *(("lattice", name) for name in ("thrml", "chainrule packed, philox2x32", "chainrule packed, threefry2x32")),
    ("lattice", "chainrule unpacked, philox2x32"),
]


@functools.cache
def sides(task):
    return TASKS[task]()


@pytest.mark.parametrize(("task", "name"), SIDES, ids=["-".join(side) for side in SIDES])
def test_sampler(benchmark, task, name):
    pytest.importorskip("thrml")
    benchmark.group = f"gibbs {task}, {SWEEPS} sweeps"
    benchmark.pedantic(sides(task)[name], rounds=5, warmup_rounds=1)


@pytest.mark.parametrize("impl", ["philox2x32", "threefry2x32"])
def test_what_is_timed_has_the_energy_of_the_ising_model(impl):
    """Above the critical temperature, where chains forget soon: within four standard errors of batches of 250 sweeps."""
    import jax
    import jax.numpy as jnp

    import chainrule as cr
    from chainrule.forms.layouts import Lattice
    from chainrule.inference import packed_lattice

    side = LATTICE["side"]
    model = cr.Pairwise(jnp.zeros(()), Lattice(1.0, side, side), spins=True)
    start, key = jax.random.split(jax.random.key(0, impl=impl))
    energy, _ = packed_lattice.energies(key, packed_lattice.random_words(start, model), model, 1200, 5, 0.4)
    batches = np.asarray(energy, float)[200:].reshape(20, 50).mean(1) / side**2
    assert abs(batches.mean() - ENERGY) < 4 * batches.std(ddof=1) / np.sqrt(20)
