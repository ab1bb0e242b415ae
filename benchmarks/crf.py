"""Compare chainrule's linear-chain CRF with python-crfsuite, and with pytorch-crf on dense potentials.

    python benchmarks/crf.py --conll2000 FOLDER                  # every task; an hour or two on two idle cores
    python benchmarks/crf.py --conll2000 FOLDER l2 tagging       # two of them
    python benchmarks/crf.py --conll2000 FOLDER l2 --limit 500   # on the first sentences only, to try things out
    python benchmarks/crf.py dense --write                       # also put the table into README.md

| task | work |
|---|---|
| l2 | a whole fit with the penalty Σw², up to the rival's rule for stopping, then the test set |
| l1 | the same with 0.5·Σ|w| + 0.01·Σw² |
| features | from tokens to numbered attributes, for the training set |
| tagging | the test set's labels, by a model after ten iterations |
| dense | −log p(path) of 64 × 100 steps with its gradient by potentials of nodes and steps |
| cold | 20 iterations on 1000 sentences in a fresh process |
| neural, step | a network under the CRF: see `crf_neural.py` |

FOLDER holds train.txt and test.txt of CoNLL-2000; the features are in `crf_data.py`. Every measurement runs in a
process of its own (`crf_measure.py`).
"""

import statistics
import sys

import crf_neural
from report import cores, markdown, parse, parser, run, tables

PACKAGES = ["chainrule", "jax", "jaxlib", "numpy", "python-crfsuite", "torch", "pytorch-crf"]


def main():
    options = _options()
    tables("crf.py", options, TITLES, PACKAGES, lambda task: TASKS[task](options))


def _options():
    arguments = parser(__doc__, TASKS)
    arguments.add_argument(
        "--conll2000", metavar="FOLDER", help="where train.txt and test.txt are; dense and step need none"
    )
    arguments.add_argument("--limit", type=int, help="take the first sentences only")
    arguments.add_argument("--processes", type=int, default=3, help="fresh processes for what is short, in turns")
    options = parse(arguments, TASKS)
    if options.conll2000 is None and set(options.tasks) - {"dense", "step"}:
        arguments.error("give --conll2000 FOLDER")
    return options


def fit(l1, l2, options) -> str:
    """Table of whole fits."""
    rows = [
        "library | wall s | CPU s | features s | preparation s | compile s | iterating s | iterations | ms per iteration | "
        "objective | weights not 0 | token accuracy % | chunk F1 | peak MiB"
    ]
    ours = [("chainrule", "float32")] + ([] if l1 else [("chainrule", "float64")])  # the aims for l1 are in float32
    for side, dtype in (*ours, ("python-crfsuite", "float64")):
        report = _measure(options, "fit", side, dtype, l1=l1, l2=l2, limit=options.limit)
        rows.append(f"{side} ({dtype}) | {_fit_row(report)}")
    return (
        f"Objective: -log-likelihood + {l1}·Σ|w| + {l2}·Σw². Both stop once ten iterations gain less than 1e-5 of it; "
        "CRFsuite remembers six steps, chainrule twenty. Wall and CPU are of everything from tokens to a fitted "
        "model, in a fresh process, the import aside; preparation holds two evaluations of the objective.\n\n"
        + markdown(rows)
    )


def _fit_row(report):
    if "failure" in report:
        return report["failure"] + " | " * 12
    stages = {name: values[0] for name, values in report["stages"].items()}
    (wall, cpu), features = stages["whole"], stages["features"][0]
    compiling = report.get("compile", 0)
    first = stages.get("first iteration", stages["features"])[0]
    iterating = wall - compiling - first
    cells = [f"{wall:.1f}", f"{cpu:.1f}", f"{features:.1f}", f"{first - features:.1f}", f"{compiling:.1f}"]
    cells += [f"{iterating:.1f}", str(report["iterations"]), f"{1000 * iterating / report['iterations']:.0f}"]
    cells += [f"{report['objective']:.2f}", str(report["weights"]), f"{100 * report['accuracy']:.3f}"]
    return " | ".join([*cells, f"{100 * report['f1']:.3f}", f"{report['peak']:.0f}"])


def features(options) -> str:
    """Table of feature extraction."""
    rows = ["library | what is written | extraction s | indexing s | together s | peak MiB"]
    ours, theirs = (_measure(options, "features", side, limit=options.limit) for side in SIDES)
    for side, what, report in (
        ("chainrule", "templates", ours),
        ("chainrule", "names, in Python", ours),
        ("python-crfsuite", "names, in Python", theirs),
    ):
        if "failure" in report:
            rows.append(f"{side} | {what} | {report['failure']} | | | ")
            continue
        stages = {name: statistics.median(w for w, _ in values) for name, values in report["stages"].items()}
        parts = [stages["extraction"], stages["indexing"]] if what != "templates" else [stages["templates"]]
        apart = [f"{s:.2f}" for s in parts] if len(parts) == 2 else ["", ""]
        rows.append(" | ".join([side, what, *apart, f"{sum(parts):.2f}", f"{report['peak']:.0f}"]))
    return "Warm, wall seconds, medians of three; memory of all of one library's lines together.\n\n" + markdown(rows)


def tagging(options) -> str:
    """Table of tagging speed."""
    rows = ["library | from | the whole test set | CPU | sentence by sentence | token accuracy %"]
    for side in SIDES:
        report = _measure(options, "tagging", side, limit=options.limit)
        if "failure" in report:
            rows.append(f"{side} | {report['failure']} | | | | ")
            continue
        prebuilt = "IndexedSentences" if side == "chainrule" else "ItemSequence"
        for name, what in (("names", "lists of names"), ("windows", "tokens"), ("prebuilt", prebuilt)):
            if name in report:
                alone = report.get(f"{name}, one by one")
                cells = [f"{rate / 1000:.0f}" for rate in report[name]]
                cells.append(f"{alone[0] / 1000:.1f}" if alone else cells[0])
                rows.append(" | ".join([side, what, *cells, f"{100 * report['accuracy']:.2f}"]))
    return (
        "Thousands of tokens in a second, by wall time and by processor time; warm, medians of seven. From lists of names "
        "that are there already; from tokens, making features counts (by templates, or in Python); both can keep "
        "sentences that were read before. CRFsuite takes one sentence at a time anyway. The models had ten "
        "iterations.\n\n" + markdown(rows)
    )


def dense(options) -> str:
    """Table of loss and gradient."""
    rows = [
        "labels | cores | library | wall ms (quartiles) | CPU ms | ratio to pytorch-crf, wall | error, nats | peak MiB"
    ]
    sides = [("pytorch-crf", None), ("chainrule", "chains"), ("chainrule", "rows")]
    for labels in (25, 100):
        for threads in sorted({1, cores()}):
            reports = [[] for _ in sides]
            for _ in range(options.processes):
                for (side, layout), found in zip(sides, reports, strict=True):
                    found.append(_measure(options, "dense", side, labels=labels, layout=layout, threads=threads))
            theirs = _middle(reports[0], "wall")
            for (side, layout), found in zip(sides, reports, strict=True):
                name = f"{side}, {LAYOUTS[layout]}" if layout else side
                rows.append(f"{labels} | {threads} | {name} | {_dense_row(found, theirs)}")
    return (
        "-log p(path) summed over 64 sequences of 100 steps, float32, with the gradient by nodes and steps; warm, medians "
        f"over {options.processes} processes in turns.\n\n" + markdown(rows)
    )


def _dense_row(reports, theirs):
    failures = [report["failure"] for report in reports if "failure" in report]
    if failures:
        return failures[0] + " | " * 4
    low, middle, high = _middle(reports, "wall")
    ratio = f"{middle / theirs[1]:.3f}" if theirs else ""
    cells = [f"{1000 * middle:.3g} ({1000 * low:.3g} to {1000 * high:.3g})", f"{1000 * _middle(reports, 'cpu')[1]:.3g}"]
    return " | ".join([*cells, ratio, f"{reports[0]['error']:+.1e}", f"{max(r['peak'] for r in reports):.0f}"])


def _middle(reports, clock):
    values = [value for report in reports for value in report.get(clock, ())]
    return statistics.quantiles(values, n=4) if len(values) > 1 else None


def cold(options) -> str:
    """Table of first fits."""
    rows = ["library | import s | fit s | together s | CPU s | peak MiB"]
    found = {side: [] for side in SIDES}
    for _ in range(options.processes):
        for side, reports in found.items():
            reports.append(_measure(options, "cold", side, limit=min(1000, options.limit or 1000)))
    for side, reports in found.items():
        failures = [report["failure"] for report in reports if "failure" in report]
        if failures:
            rows.append(f"{side} | {failures[0]} | | | | ")
            continue
        imported, first = ([report["stages"][name][0] for report in reports] for name in ("import", "first"))
        wall = [statistics.median(w for w, _ in stage) for stage in (imported, first)]
        cpu = statistics.median(c + d for (_, c), (_, d) in zip(imported, first, strict=True))
        rows.append(f"{side} | {wall[0]:.2f} | {wall[1]:.2f} | {sum(wall):.2f} | {cpu:.2f} | {reports[0]['peak']:.0f}")
    return (
        f"Features, compiling and 20 iterations (L2), without a compilation cache; medians of {options.processes} "
        "processes, in turns.\n\n" + markdown(rows)
    )


def _measure(options, task, side, dtype="float32", **order) -> dict:
    order |= {"task": task, "side": side}
    if task != "dense":
        order["path"] = options.conll2000
    variables = {"JAX_ENABLE_X64": "1"} if side == "chainrule" and dtype == "float64" else {}
    report = run("crf_measure.py", order, minutes=60, **variables)
    if task == "fit":
        sys.stderr.write(f"{report}\n")  # a table of fits takes long, so that its rows are not lost with it
    return report


SIDES = ("chainrule", "python-crfsuite")
LAYOUTS = {"chains": "vmap over chains", "rows": "packed rows"}
TASKS = {
    "l2": lambda options: fit(0.0, 1.0, options),
    "l1": lambda options: fit(0.5, 0.01, options),
    "features": features,
    "tagging": tagging,
    "dense": dense,
    "cold": cold,
    **crf_neural.TASKS,
}
TITLES = {
    "l2": "fits of CoNLL-2000 with an L2 penalty",
    "l1": "fits of CoNLL-2000 with an L1 penalty",
    "features": "from tokens to numbered attributes",
    "tagging": "labels of the test set",
    "dense": "loss and gradient of dense potentials",
    "cold": "the first fit, 1000 sentences",
    **crf_neural.TITLES,
}


if __name__ == "__main__":
    main()
