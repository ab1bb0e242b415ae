"""What every comparison here shares: its command line, the processes it starts, and the tables of README.md.

A script names its tasks and makes a table of each; `tables` prints them with what was measured where, and puts them between
the marks `<!-- script task -->` and `<!-- script end of task -->` of README.md. Nothing here imports JAX: every measurement
runs in a process of its own (`run`).
"""

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterable
from datetime import date
from pathlib import Path

HERE = Path(__file__).parent


def parser(description: str | None, tasks: Iterable[str]) -> argparse.ArgumentParser:
    """The arguments that every comparison takes."""
    found = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("tasks", nargs="*", metavar="task", help=f"of {', '.join(tasks)}; all by default")
    found.add_argument("--threads", type=int, help="cores that every process may use; all by default")
    found.add_argument("--write", action="store_true", help="replace the tables of README.md")
    return found


def parse(arguments: argparse.ArgumentParser, tasks: Iterable[str]) -> argparse.Namespace:
    """Read the command line, and keep to the cores that it allows."""
    options = arguments.parse_args()
    options.tasks = options.tasks or list(tasks)
    if unknown := set(options.tasks) - set(tasks):
        arguments.error(f"unknown tasks {sorted(unknown)}; there are {', '.join(tasks)}")
    if options.threads:
        limit_threads(options.threads)
    return options


def tables(script: str, options, titles: dict[str, str], packages: list[str], table: Callable[[str], str], place=str):
    """Print the table of each task, and write it into README.md if that is wanted; `place` names a task's marks there."""
    for task in options.tasks:
        before = load()
        text = table(task)
        loads = f"Load of the machine (1-minute average) before and after: {before} and {load()}."
        text = "\n\n".join([f"### {task}: {titles[task]}", text, f"{machine(packages)} {loads}"])
        print(text, end="\n\n", flush=True)
        if options.write:
            write(text, f"<!-- {script} {place(task)} -->", f"<!-- {script} end of {place(task)} -->")


def write(text: str, begin: str, end: str):
    """Put tables between two marks of README.md."""
    readme = HERE / "README.md"
    before, rest = readme.read_text().split(begin)
    after = rest.split(end)[1]
    readme.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}")


def machine(packages) -> str:
    """Say what was measured on what."""
    versions = ", ".join(f"{name} {_version(name)}" for name in packages)
    flags = os.environ.get("XLA_FLAGS") or "unset"
    return (
        f"Measured {date.today()} on {_processor()}, cores for every library: {cores()}; {_memory()} memory; "
        f"{platform.system()}, Python {platform.python_version()}; {versions}; XLA_FLAGS {flags}."
    )


def run(script: str, order: dict, *, minutes: float = 20, **variables) -> dict:
    """Start a script afresh, with environment variables of its own, and read the JSON that it prints last."""
    command = [sys.executable, str(HERE / script), json.dumps(order)]
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"} | variables
    sys.stderr.write(f"{' '.join(map(str, order.values()))}\n")
    try:
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=60 * minutes, env=environment
        )
        return json.loads(done.stdout.strip().splitlines()[-1])
    except subprocess.TimeoutExpired:
        return {"failure": f"took more than {minutes:g} minutes"}
    except (IndexError, json.JSONDecodeError):
        return {"failure": f"the process ended with code {done.returncode}"}


def markdown(rows):
    width = rows[0].count("|") + 1
    return "\n".join(f"| {row} |" for row in [rows[0], " | ".join(["---"] * width), *rows[1:]])


def limit_threads(count):
    available = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, available[:count])  # inherited by every measurement; XLA sizes its thread pool by it
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(count)


def cores():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def load():
    return f"{os.getloadavg()[0]:.2f}"


def _processor():
    path = Path("/proc/cpuinfo")
    names = (
        [line.split(":")[1].strip() for line in path.read_text().splitlines() if line.startswith("model name")]
        if path.exists()
        else []
    )
    return names[0] if names else platform.processor()


def _memory():
    return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"


def _version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        found = importlib.util.find_spec(name)  # run from a checkout, not installed
        return importlib.import_module(name).__version__ if found else "(not installed)"
