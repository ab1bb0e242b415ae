"""One measurement in one process: `mdp.py` starts this file afresh for each, and reads the JSON that it prints last.

python mdp_measure.py '{"kind": "pair", "name": "bus10k", "rival": "quantecon, MPI", "pairs": 21}'
"""

import gc
import importlib
import json
import math
import multiprocessing
import os
import statistics
import sys
import tempfile
import time

import mdp_data
import mdp_ours
import mdp_reference
import mdp_rivals
import numpy as np
from measure import LONGEST, SHORTEST, clock, describe, peak

BUILDS = {"inventory500"}  # here our time holds the making of the model


def maker(name: str, library: str):
    if library == "chainrule":
        return mdp_ours.build_and_solve if name in BUILDS else mdp_ours.solve
    return mdp_rivals.RIVALS[library]


def pair(name: str, rival: str, pairs: int, alone: bool = False) -> dict:
    """Time chainrule and a rival in turns after warming both up, and judge what they answer."""
    problem = mdp_data.load(name)
    bellman = mdp_reference.Bellman(problem)
    sides, calls = {}, {}
    for library in [rival] if alone else ["chainrule", rival]:
        try:
            call = maker(name, library)(problem)
            answer = call()
            warm = clock(call, 1)[0]
            sides[library] = {"wall": [], "cpu": [], "warm": warm, **judge(name, bellman, answer)}
            calls[library] = call
        except Exception as failure:
            sides[library] = {"failure": describe(failure)}
    if calls:
        seconds = sum(sides[library]["warm"] for library in calls)
        number = max(1, math.ceil(SHORTEST / min(sides[library]["warm"] for library in calls)))
        rounds = min(pairs, max(3, int(LONGEST / (number * seconds))))
        gc.collect()
        gc.disable()
        for _ in range(rounds):
            for library, call in calls.items():
                wall, cpu = clock(call, number)
                sides[library]["wall"].append(wall)
                sides[library]["cpu"].append(cpu)
    return sides


def judge(name: str, bellman: mdp_reference.Bellman, answer: mdp_rivals.Answer) -> dict:
    """The error that backups in float64 cannot rule out, the error where the truth is known, the stated gap."""
    values = np.asarray(answer.values, np.float64)
    found = {"steps": answer.steps, "bound": bellman.error_bound(values)}
    if known := mdp_data.KNOWN.get(name):
        found["error"] = max(abs(values[0] - known.first), abs(values.mean() - known.mean))
    if answer.lower is not None:
        found["gap"] = float((answer.upper - answer.lower).max() / 2)
        found["contained"] = known is None or bool(
            answer.lower[0] - known.within <= known.first <= answer.upper[0] + known.within
        )
    return found


def cold(name: str, library: str) -> dict:
    """Time the import, then making the model with the first call: what a user waits for, once."""
    problem = mdp_data.load(name)
    start, cpu = time.perf_counter(), time.process_time()
    _import(library)
    imported = time.perf_counter()
    maker(name, library)(problem)()
    end = time.perf_counter()
    return {"import": imported - start, "first": end - imported, "cpu": time.process_time() - cpu}


def _import(library: str):
    module = importlib.import_module(library.split(",", maxsplit=1)[0])
    if library == "chainrule":
        _ = module.MDP  # names load on first use


def memory(name: str, library: str) -> dict:
    """Peak resident memory in MiB, with the arrays read from files, so that drawing them does not count."""
    with tempfile.TemporaryDirectory() as folder:
        drawing = multiprocessing.get_context("spawn").Process(target=_save, args=(name, folder))
        drawing.start()
        drawing.join()
        _import(library)
        before = _forget_peak()
        arrays = {file[:-4]: np.load(os.path.join(folder, file)) for file in sorted(os.listdir(folder))}
        problem = mdp_data.Problem(name, **arrays)
        start = time.perf_counter()
        call = maker(name, library)(problem)
        built = time.perf_counter()
        answer = call()
        seconds = [built - start, time.perf_counter() - built]
        report = {"before": before, "peak": _peak(), "data": problem.num_bytes / 2**20, "seconds": seconds}
    return report | judge(name, mdp_reference.Bellman(problem), answer)


def _forget_peak() -> float:
    """Let the peak, in MiB, begin anew: an import can need more than it keeps. Only Linux can."""
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:
        pass
    return _peak()


def _peak() -> float:
    try:
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 2**10
    except OSError:
        return peak()


def _save(name, folder):
    for field, value in mdp_data.load(name)._asdict().items():
        if isinstance(value, np.ndarray):
            np.save(os.path.join(folder, f"{field}.npy"), value)


def variants(count: int, repeats: int = 5) -> dict:
    """Time one process, the same `count` times over as a batch, and QuantEcon on one after the other."""
    problems = mdp_data.variants(count)
    calls = {
        "one": mdp_ours.solve(problems[0]),
        "batch": mdp_ours.variants(problems),
        "quantecon": mdp_rivals.variants(problems),
    }
    answers = {name: call() for name, call in calls.items()}
    seconds = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            number = max(1, math.ceil(SHORTEST / 2e-3)) if name == "one" else 1
            seconds[name].append(clock(call, number))
    bounds = {
        name: max(
            mdp_reference.Bellman(problem).error_bound(np.asarray(values, np.float64))
            for problem, values in zip(problems, answers[name], strict=True)
        )
        for name in ("batch", "quantecon")
    }
    middle = {name: [statistics.median(column) for column in zip(*both, strict=True)] for name, both in seconds.items()}
    return {"seconds": middle, "bounds": bounds, "peak": peak()}


if __name__ == "__main__":
    order = json.loads(sys.argv[1])
    kind = order.pop("kind")
    try:
        report = {"pair": pair, "cold": cold, "memory": memory, "variants": variants}[kind](**order)
    except Exception as failure:
        report = {"failure": describe(failure)}
    print(json.dumps(report))
