"""One measurement of one library in one process: `crf.py` starts this file afresh for each, and reads the JSON it prints.

    python crf_measure.py '{"task": "cold", "side": "chainrule", "path": "conll2000", "limit": 1000}'

A task is a function of a watch and of what was ordered, the same name in crf_ours.py and crf_rivals.py (those of networks:
in crf_neural_ours.py and crf_neural_rivals.py). It times stages by `with watch(name):` and returns what else is to be told,
as numbers and strings.
"""

import importlib
import json
import sys
import time
from collections import defaultdict
from contextlib import contextmanager

import crf_neural
import crf_ours
import crf_rivals
from measure import describe
from report import limit_threads


class Watch:
    """Wall and processor seconds (all threads) of stages, by name."""

    def __init__(self):
        self.stages = defaultdict(list)

    @contextmanager
    def __call__(self, name: str):
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.stages[name].append([time.perf_counter() - wall, time.process_time() - cpu])


def measure(task: str, side: str, threads: int | None = None, **order) -> dict:
    """Run one task of one side."""
    if threads:
        limit_threads(threads)  # before anything counts the cores
    watch = Watch()
    ours = side == "chainrule"
    tasks = (crf_ours if ours else crf_rivals).TASKS
    if task in crf_neural.TASKS:  # which import JAX or torch at once: nobody else has to
        tasks = importlib.import_module("crf_neural_ours" if ours else "crf_neural_rivals").TASKS
    found = tasks[task](watch, **order)
    return {"stages": watch.stages, **found}


if __name__ == "__main__":
    try:
        report = measure(**json.loads(sys.argv[1]))
    except Exception as failure:
        report = {"failure": describe(failure)}
    print(json.dumps(report))
