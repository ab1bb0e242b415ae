"""Compare chainrule's solver of Markov decision processes with QuantEcon.py and mdpsolver.

    python benchmarks/mdp.py                       # every task; some minutes, grid1000 and garnet1m aside
    python benchmarks/mdp.py garnet10k cold        # two of them
    python benchmarks/mdp.py bus10k --threads 1    # one core for everybody
    python benchmarks/mdp.py --rivals              # leave chainrule out
    python benchmarks/mdp.py grid100 --write       # also put the table into README.md

The problems are those of `mdp_data.py`, where everything about them is written down; every table is one of them, but

| task | work |
|---|---|
| cold | import, model and first answer in a fresh process, for the small ones |
| variants | 1000 processes of 500 states that share their successors, beside one of them |

All solves go from NumPy arrays, in the form that each library likes best, to values within 1e-6 in float64, by the
defaults of chainrule and by the methods of the rivals that get there. Every measurement runs in a process of
its own (`mdp_measure.py`).
"""

import statistics

from report import markdown, parse, parser, run, tables

PACKAGES = ["chainrule", "jax", "jaxlib", "numpy", "scipy", "quantecon", "numba", "mdpsolver"]
MPI, VI, PI = "quantecon, MPI", "quantecon, VI", "quantecon, PI"
PARALLEL, SERIAL = "mdpsolver, MPI", "mdpsolver, MPI, one thread"
# quantecon's PI on garnets has no end (fill-in of its sparse LU); mdpsolver's lists of garnet1m and grid1000 do not fit,
# and those of dense1000 take 99 s and 5 GB to make
RIVALS = {
    "garnet10k": (MPI, VI, PARALLEL, SERIAL),
    "garnet1m": (MPI,),
    "dense1000": (MPI,),
    "inventory500": (MPI, PI, PARALLEL, SERIAL),
    "bus10k": (MPI, PI, PARALLEL, SERIAL),
    "grid100": (MPI, PI, PARALLEL, SERIAL),
    "grid1000": (MPI,),
}
SMALL = ("garnet10k", "dense1000", "inventory500", "bus10k", "grid100")
TITLES = {
    "garnet10k": "random sparse, 10 000 states, 10 actions, 20 successors",
    "garnet1m": "random sparse, 1 000 000 states, 4 actions, 8 successors",
    "dense1000": "random dense, 1000 states, 50 actions",
    "inventory500": "inventory of up to 500 pieces, 125 751 feasible rows, 501 of them distinct",
    "bus10k": "bus engine replacement, 10 000 bins",
    "grid100": "maze of 100 by 100 cells with slip",
    "grid1000": "maze of 1000 by 1000 cells with slip",
    "cold": "the first answer in a fresh process",
    "variants": "1000 variants of a process of 500 states",
}


def main():
    options = _options()
    special = {"cold": cold, "variants": variants}
    tables("mdp.py", options, TITLES, PACKAGES, lambda task: special.get(task, problem)(options, task))


def _options():
    arguments = parser(__doc__, TITLES)
    arguments.add_argument("--pairs", type=int, default=21, help="pairs of calls in turns, fewer if they take long")
    arguments.add_argument("--processes", type=int, default=5, help="fresh processes for each cold start")
    arguments.add_argument("--minutes", type=float, default=20, help="longest that one measurement may take")
    arguments.add_argument("--rivals", action="store_true", help="leave chainrule out")
    return parse(arguments, TITLES)


def problem(options, name) -> str:
    """Table of warm solves of one problem."""
    rows = [
        "library | wall ms (quartiles) | CPU ms | **chainrule / it**, wall (quartiles) | CPU | pairs | steps | error | "
        "error bound | stated gap | building s | peak MiB | peak / data"
    ]
    ours = None
    for rival in RIVALS[name]:
        order = {"kind": "pair", "name": name, "rival": rival, "pairs": options.pairs, "alone": options.rivals}
        report = _measure(options, **order)
        report = report if "failure" not in report else {rival: report}
        if ours is None and "chainrule" in report:
            ours = report["chainrule"]
            rows.append(_row(options, name, "chainrule", ours, None))
        rows.append(_row(options, name, rival, report[rival], report.get("chainrule")))
    counted = (
        "chainrule's time holds the making of the model, which finds the equal rows; the rivals' models are there already."
        if name == "inventory500"
        else "Models are built beforehand."
    )
    return f"Warm, float64, to an error of 1e-6. {counted}\n\n" + markdown(rows)


def _row(options, name, library, side, ours):
    if "failure" in side:
        return f"{library} | {side['failure']}" + " | " * 11
    cells = [library, _times(side["wall"]), f"{1000 * statistics.median(side['cpu']):.3g}"]
    if ours is not None and "wall" in ours:
        low, middle, high = _quartiles([a / b for a, b in zip(ours["wall"], side["wall"], strict=True)])
        cells.append(f"**{middle:.2g}** ({low:.2g} to {high:.2g})")
        cells.append(f"{statistics.median(a / b for a, b in zip(ours['cpu'], side['cpu'], strict=True)):.2g}")
    else:
        cells += ["", ""]
    cells += [str(len(side["wall"])), str(side["steps"] or ""), _small(side.get("error")), _small(side["bound"])]
    cells.append(_small(side.get("gap")) + ("" if side.get("contained", True) else ", but the truth is outside"))
    kept = _measure(options, kind="memory", name=name, library=library)
    if "failure" in kept:
        return " | ".join([*cells, kept["failure"], "", ""])
    used = kept["peak"] - kept["before"]
    return " | ".join([*cells, f"{kept['seconds'][0]:.2f}", f"{used:.0f}", f"{used / kept['data']:.2f}"])


def cold(options, _) -> str:
    """Table of first answers."""
    libraries = [*([] if options.rivals else ["chainrule"]), MPI, PARALLEL]
    rows = ["problem | " + " | ".join(libraries)]
    for name in SMALL:
        found = {library: [] for library in libraries}
        for _ in range(options.processes):
            for library, reports in found.items():
                reports.append(_measure(options, kind="cold", name=name, library=library))
        rows.append(" | ".join([name, *(_cold_cell(reports) for reports in found.values())]))
    return (
        "Seconds to build the model and solve it, in brackets the import before it and the processor seconds of both; "
        f"medians of {options.processes} processes, in turns. JAX has no compilation cache; QuantEcon's functions were "
        "compiled by numba once before and are read from its cache.\n\n" + markdown(rows)
    )


def _cold_cell(reports):
    failures = [report["failure"] for report in reports if "failure" in report]
    if failures:
        return failures[0]
    first, imported, cpu = (statistics.median(report[key] for report in reports) for key in ("first", "import", "cpu"))
    return f"{first:.2f} ({imported:.2f}; {cpu:.2f})"


def variants(options, _) -> str:
    """Table of a batch beside one."""
    report = _measure(options, kind="variants", count=1000)
    if "failure" in report:
        return report["failure"]
    rows = ["work | wall ms | CPU ms | times one | largest error bound"]
    titles = {"one": "one, chainrule", "batch": "1000, chainrule", "quantecon": "1000, quantecon, one after the other"}
    one = report["seconds"]["one"][0]
    for name, title in titles.items():
        wall, cpu = report["seconds"][name]
        bound = _small(report["bounds"].get(name))
        rows.append(f"{title} | {1000 * wall:.3g} | {1000 * cpu:.3g} | {wall / one:.3g} | {bound}")
    return (
        f"Warm, float64, to 1e-6 each; models built beforehand; peak {report['peak']:.0f} MiB in all.\n\n"
        + markdown(rows)
    )


def _measure(options, **order) -> dict:
    return run("mdp_measure.py", order, minutes=options.minutes)


def _times(seconds):
    low, middle, high = _quartiles(seconds)
    return f"{1000 * middle:.3g} ({1000 * low:.3g} to {1000 * high:.3g})"


def _quartiles(values):
    return statistics.quantiles(values, n=4) if len(values) > 1 else [values[0]] * 3


def _small(value):
    return "" if value is None else f"{value:.0e}"


if __name__ == "__main__":
    main()
