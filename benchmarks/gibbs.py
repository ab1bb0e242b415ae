"""Compare chainrule's Gibbs sampling with thrml.

    python benchmarks/gibbs.py                    # every task; two minutes
    python benchmarks/gibbs.py sparse --write     # one of them, and put its table into README.md

| task | work |
|---|---|
| sparse | random 6-regular graph, 10 000 nodes, 64 chains, couplings N(0, 0.3²), biases N(0, 0.1²) |
| lattice | Ising model on a 256 by 256 torus, one coupling, β = 0.44, 32 chains |
| build | random 6-regular graph of 100 000 nodes, from a networkx graph to one sample in a fresh process |

Speeds are updates of a node in a chain per second, warm, over 20 sweeps a call. thrml gets the colours that chainrule
found, and one vmap over chains, as its examples have it. Every measurement runs in a process of
its own (`gibbs_measure.py`).
"""

import statistics

from report import markdown, parse, parser, run, tables

PACKAGES = ["chainrule", "jax", "jaxlib", "numpy", "networkx", "thrml"]
TITLES = {
    "sparse": "sparse graph, 10 000 nodes of degree 6, 64 chains",
    "lattice": "Ising model, 256 by 256, 32 chains",
    "build": "100 000 nodes, from networkx to the first sample",
}
AIMS = {"sparse": "at least 3", "lattice": "at least 25", "build": "at most 0.2"}


def main():
    options = _options()
    tables(
        "gibbs.py", options, TITLES, PACKAGES, lambda task: build(options) if task == "build" else speed(options, task)
    )


def _options():
    arguments = parser(__doc__, TITLES)
    arguments.add_argument("--rounds", type=int, default=9, help="calls of each side, in turns")
    arguments.add_argument("--processes", type=int, default=3, help="fresh processes of each library for `build`")
    arguments.add_argument("--minutes", type=float, default=5, help="longest that one measurement may take")
    return parse(arguments, TITLES)


def speed(options, task) -> str:
    report = run("gibbs_measure.py", {"kind": "speed", "task": task, "rounds": options.rounds}, minutes=options.minutes)
    if "failure" in report:
        return report["failure"]
    updates = report.pop("updates")
    rival = statistics.median(report["thrml"]["wall"])
    rival_cpu = statistics.median(report["thrml"]["cpu"])
    rows = [
        "sampler | million updates per second (quartiles) | per CPU second | **it / thrml** | per CPU | first call s"
    ]
    for name, side in report.items():
        low, middle, high = (updates / t / 1e6 for t in reversed(statistics.quantiles(side["wall"], n=4)))
        cpu = statistics.median(side["cpu"])
        rows.append(
            f"{name} | {middle:.0f} ({low:.0f} to {high:.0f}) | {updates / cpu / 1e6:.0f} | "
            f"**{rival / statistics.median(side['wall']):.1f}** | {rival_cpu / cpu:.1f} | {side['first']:.1f}"
        )
    return f"Aim: {AIMS[task]} times thrml. Rounds in turns: {options.rounds}.\n\n" + markdown(rows)


def build(options) -> str:
    found = {"chainrule": [], "thrml": []}
    for _ in range(options.processes):
        for library, reports in found.items():
            reports.append(run("gibbs_measure.py", {"kind": "build", "library": library}, minutes=options.minutes))
    rows = ["library | building s | first sample s | both | **it / thrml**"]
    failures = [report["failure"] for reports in found.values() for report in reports if "failure" in report]
    if failures:
        return failures[0]
    total = {name: statistics.median(r["build"] + r["first"] for r in reports) for name, reports in found.items()}
    for name, reports in found.items():
        parts = [statistics.median(report[key] for report in reports) for key in ("build", "first")]
        cells = [f"{part:.2f}" for part in (*parts, total[name])]
        rows.append(" | ".join([name, *cells, f"**{total[name] / total['thrml']:.2f}**"]))
    return (
        f"Aim: {AIMS['build']} of thrml's. Medians of {options.processes} fresh processes each, imports aside; thrml is "
        "given the colours, which chainrule finds in its time.\n\n" + markdown(rows)
    )


if __name__ == "__main__":
    main()
