"""The tasks of data.py under pytest-benchmark: `pytest benchmarks`, or one of them, `pytest benchmarks -k "c-dynamax"`.

Outside `testpaths`, so a plain `pytest` does not run them. Calls are warm; `compare.py` is what ratios are quoted from,
because it times the libraries in turns.
"""

import functools

import pytest
from data import TASKS, TRUTH, error, forward_backward, load
from ours import TASKS as OURS
from rivals import IMPORTS, RIVALS

# the rivals warn about one another's versions; that is not ours to fix
pytestmark = pytest.mark.filterwarnings("default")

problem = functools.cache(load)
SIDES = [(task, library) for task in TASKS for library in ("chainrule", *RIVALS[task])]
# float32 costs digits: relative error of the log-likelihood (b, c: of the score) that a library may have
ALLOWED = {"chainrule": 1e-6, "hmmlearn": 1e-9, "dynamax": 2e-6, "dynamax classes": 2e-6, "tfp": 2e-5}


@pytest.mark.parametrize("task", "ade")
def test_the_data_have_the_published_log_likelihood(task):
    assert forward_backward(problem(task))[0] == pytest.approx(TRUTH[task], abs=1e-4)


@pytest.mark.parametrize(("task", "library"), SIDES, ids=["-".join(side) for side in SIDES])
def test_task(benchmark, task, library):
    pytest.importorskip(IMPORTS.get(library, library))
    call = (OURS[task] if library == "chainrule" else RIVALS[task][library])(problem(task))
    benchmark.group = f"task {task}"
    answer = benchmark.pedantic(call, rounds=7, warmup_rounds=2, iterations=100 if task == "f" else 1)
    nats, _ = error(problem(task), answer)
    assert abs(nats) < (0.01 if task == "h" else ALLOWED[library] * max(abs(forward_backward(problem(task))[0]), 100))
