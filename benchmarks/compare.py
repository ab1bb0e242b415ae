"""Compare chainrule with its rivals, task by task, and print the tables of README.md.

    python benchmarks/compare.py                         # everything
    python benchmarks/compare.py a f --pairs 41          # two tasks
    python benchmarks/compare.py --only warm --rivals    # the rivals alone
    python benchmarks/compare.py --threads 1             # one core for everybody
    python benchmarks/compare.py --write                 # also put the tables into README.md

Every measurement runs in a process of its own (`measure.py`). In each, chainrule and one rival are warmed up and then
timed in turns, so that whatever else the machine does falls on both; what is quoted is the median over pairs of the ratio
chainrule / rival, of wall time and of processor time (all threads). Below 1, chainrule is faster. Cold calls, memory and
imports are measured in fresh processes too, the libraries again in turns.
"""

import statistics
import subprocess
import sys
import time

from data import TASKS
from report import load, machine, markdown, parse, parser, run, write
from rivals import IMPORTS, RIVALS

SECTIONS = ("warm", "cold", "memory", "import")
MARKS = "<!-- tables: written by compare.py -->", "<!-- end of tables -->"
PACKAGES = ["chainrule", "jax", "jaxlib", "numpy", "hmmlearn", "dynamax", "tfp-nightly"]
DTYPE = {"hmmlearn": "float64"}


def main():
    options = _options()
    parts = [f"{machine(PACKAGES)} Sizes are in data.py; float32 except for hmmlearn (float64)."]
    before = load()
    if "warm" in options.only:
        parts.append(warm(options.tasks, options.pairs, options.rivals))
    if "cold" in options.only:
        parts.append(cold(options.tasks, options.processes, options.rivals))
    if "memory" in options.only and "d" in options.tasks:
        parts.append(memory("d", options.rivals))
    if "import" in options.only:
        parts.append(imports(options.imports, options.rivals))
    parts.append(f"Load of the machine (1-minute average) before and after: {before} and {load()}.")
    text = "\n\n".join(parts)
    print(text)
    if options.write:
        write(text, *MARKS)


def _options():
    arguments = parser(__doc__, TASKS)
    arguments.add_argument("--pairs", type=int, default=21, help="timed pairs; slow tasks take fewer, at least 7")
    arguments.add_argument("--processes", type=int, default=3, help="fresh processes for each cold call")
    arguments.add_argument("--imports", type=int, default=15, help="fresh processes for each import")
    arguments.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS)
    arguments.add_argument("--rivals", action="store_true", help="leave chainrule out")
    return parse(arguments, TASKS)


def warm(tasks, pairs, alone) -> str:
    """Table of paired warm calls."""
    head = (
        "task | rival (dtype) | chainrule ms | rival ms | **wall ratio** (quartiles) | chainrule CPU ms | rival CPU ms"
    )
    rows = [head + " | CPU ratio | pairs | chainrule error | rival error"]
    for task in tasks:
        for library in RIVALS[task]:
            report = _measure(kind="pair", task=task, library=library, pairs=pairs, alone=alone)
            rows.append(_warm_row(task, library, report))
    return (
        "### Warm calls\n\nNumPy in, NumPy out. Errors are against float64: nats of the log-likelihood (b: score of "
        "the path; c: after fitting), then the largest error of a marginal (g: of the gradient, relative); h: see "
        "data.py.\n\n" + markdown(rows)
    )


def _warm_row(task, library, report):
    ours, rival = (report.get(name, report) for name in ("chainrule", library))
    cells = [task, f"{library} ({DTYPE.get(library, 'float32')})"]
    cells += [_median(ours, "wall"), _median(rival, "wall")]
    both = "wall" in ours and "wall" in rival
    ratios = {
        clock: [a / b for a, b in zip(ours[clock], rival[clock], strict=True)] for clock in ("wall", "cpu") if both
    }
    if both:
        low, middle, high = statistics.quantiles(ratios["wall"], n=4)
        cells.append(f"**{middle:.2g}** ({low:.2g} to {high:.2g})")
    else:
        cells.append("")
    cells += [_median(ours, "cpu"), _median(rival, "cpu")]
    cells.append(f"{statistics.median(ratios['cpu']):.2g}" if both else "")
    cells.append(str(max(len(side.get("wall", ())) for side in (ours, rival))))
    cells += [_error(ours), _error(rival)]
    return " | ".join(cells)


def cold(tasks, processes, alone) -> str:
    """Table of first calls, each in its own process."""
    names = [] if alone else ["chainrule"]
    names += list(dict.fromkeys(name for task in tasks for name in RIVALS[task]))
    rows = ["task | " + " | ".join(names)]
    for task in tasks:
        seconds = {name: [] for name in names if name == "chainrule" or name in RIVALS[task]}
        for _ in range(processes):
            for name, all_seconds in seconds.items():
                all_seconds.append(_measure(kind="cold", task=task, library=name))
        rows.append(" | ".join([task, *(_cold_cell(seconds.get(name, ())) for name in names)]))
    return (
        "### Cold calls\n\nSeconds to build the model and make the first call (in brackets, the import before it), in "
        f"a fresh process without a compilation cache; medians of {processes}.\n\n" + markdown(rows)
    )


def _cold_cell(reports):
    failures = [report["failure"] for report in reports if "failure" in report]
    if failures or not reports:
        return failures[0] if failures else ""
    first, imported = (statistics.median(report[key] for report in reports) for key in ("first", "import"))
    return f"{first:.2f} ({imported:.2f})"


def memory(task, alone) -> str:
    """Table of peak memory."""
    rows = ["library | peak MiB | above the import, MiB"]
    for name in [*([] if alone else ["chainrule"]), *RIVALS[task]]:
        report = _measure(kind="memory", task=task, library=name)
        if "failure" in report:
            rows.append(f"{name} | {report['failure']} | ")
        else:
            rows.append(f"{name} | {report['peak']:.0f} | {report['peak'] - report['before']:.0f}")
    return f"### Peak memory of task {task}\n\nResident, two calls, each library in its own process.\n\n" + markdown(
        rows
    )


def imports(processes, alone) -> str:
    """Table of import times, paired with `import jax`."""
    # names load on first use: the second line of chainrule is what the first model costs
    mine = [] if alone else ["import chainrule", "from chainrule import HMM, emissions"]
    statements = ["import jax", *mine, *(f"import {module}" for module in dict.fromkeys(IMPORTS.values()))]
    seconds = {statement: [] for statement in statements}
    failures = {}
    for _ in range(processes + 1):
        for statement in statements:
            start = time.perf_counter()
            done = subprocess.run([sys.executable, "-c", statement], check=False, capture_output=True, text=True)
            seconds[statement].append(time.perf_counter() - start)
            if done.returncode:
                failures[statement] = done.stderr.strip().splitlines()[-1].replace("|", "/")
    rows = ["statement | seconds | more than jax (quartiles)"]
    for statement, (_, *times) in seconds.items():  # the first round only warmed the file cache
        if statement in failures:
            rows.append(f"`{statement}` | {failures[statement]} | ")
            continue
        extra = [a - b for a, b in zip(times, seconds["import jax"][1:], strict=True)]
        low, middle, high = statistics.quantiles(extra, n=4)
        difference = "" if statement == "import jax" else f"{middle:+.3f} ({low:+.3f} to {high:+.3f})"
        rows.append(f"`{statement}` | {statistics.median(times):.3f} | {difference}")
    return f"### Imports\n\n`python -c '…'`, {processes} fresh processes each, in turns.\n\n" + markdown(rows)


def _measure(**order) -> dict:
    return run("measure.py", order)


def _median(side, clock):
    if "failure" in side:
        return side["failure"] if clock == "wall" else ""
    return f"{1000 * statistics.median(side[clock]):.3g}" if side.get(clock) else ""


def _error(side):
    if "error" not in side:
        return ""
    nats, other = side["error"]
    return f"{nats:+.2g}" + ("" if other is None else f", {other:.0e}")


if __name__ == "__main__":
    main()
