"""One measurement in one process: `compare.py` starts this file afresh for each, and reads the JSON it prints last.

    python measure.py '{"kind": "pair", "task": "a", "library": "hmmlearn", "pairs": 21}'

A library that raises is reported as {"failure": "…"}; the other side is measured all the same.
"""

import gc
import importlib
import json
import math
import resource
import statistics
import sys
import time

import data
import ours
import rivals

SHORTEST = 0.01  # seconds: a measurement repeats the call until it lasts that long
LONGEST = 90.0  # seconds: slow tasks get fewer pairs, but no fewer than seven


def maker(task: str, library: str):
    return ours.TASKS[task] if library == "chainrule" else rivals.RIVALS[task][library]


def pair(task: str, library: str, pairs: int, alone: bool = False) -> dict:
    """Time chainrule and a rival in turns, chainrule, rival, chainrule, rival …, after warming both up."""
    problem = data.load(task)
    sides, calls = {}, {}
    for name in [library] if alone else ["chainrule", library]:
        sides[name], calls[name] = _warm_up(problem, name)
    calls = {name: call for name, call in calls.items() if call is not None}
    if calls:
        seconds = {name: sides[name]["warm"] for name in calls}
        number = max(1, math.ceil(SHORTEST / min(seconds.values())))
        rounds = min(pairs, max(7, int(LONGEST / (number * sum(seconds.values())))))
        gc.collect()
        gc.disable()
        for _ in range(rounds):
            for name, call in calls.items():
                wall, cpu = clock(call, number)
                sides[name]["wall"].append(wall)
                sides[name]["cpu"].append(cpu)
    return {**sides, "backend": _backend()}


def _warm_up(problem, library):
    try:
        call = maker(problem.task, library)(problem)
        answer = call()
        call()
        warm = statistics.median(clock(call, 1)[0] for _ in range(3))
        return {"wall": [], "cpu": [], "warm": warm, "error": data.error(problem, answer)}, call
    except Exception as failure:
        return {"failure": describe(failure)}, None


def clock(call, number):
    """Wall seconds until the call returns, and processor seconds of all threads until they have come to rest."""
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(number):
        call()
    wall = time.perf_counter() - wall
    settle()
    return wall / number, (time.process_time() - cpu) / number


def settle():
    """Wait until no thread works any more: giving gigabytes back, say, must not be billed to whoever comes next."""
    while True:
        before = time.process_time()
        time.sleep(0.002)
        if time.process_time() - before < 0.0005:
            return


def cold(task: str, library: str) -> dict:
    """Time the import, then building the model with the first call: what a user waits for, once."""
    problem = data.load(task)
    start = time.perf_counter()
    importlib.import_module(rivals.IMPORTS.get(library, library))
    imported = time.perf_counter()
    maker(task, library)(problem)()
    return {"import": imported - start, "first": time.perf_counter() - imported}


def memory(task: str, library: str) -> dict:
    """Peak resident memory, in MiB, after the import and after two calls."""
    problem = data.load(task)
    importlib.import_module(rivals.IMPORTS.get(library, library))
    before = peak()
    call = maker(task, library)(problem)
    call()
    call()
    return {"before": before, "peak": peak()}


def peak():
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def _backend():
    jax = sys.modules.get("jax")
    return jax.default_backend() if jax else "numpy"


def describe(failure):
    lines = str(failure).strip().splitlines() or [""]
    return f"{type(failure).__name__}: {lines[0]}"[:160].replace("|", "/")


if __name__ == "__main__":
    order = json.loads(sys.argv[1])
    kind = order.pop("kind")
    try:
        report = {"pair": pair, "cold": cold, "memory": memory}[kind](**order)
    except Exception as failure:
        report = {"failure": describe(failure)}
    print(json.dumps(report))
