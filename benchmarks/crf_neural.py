"""Tables of the neural tasks of `crf.py`: how well a BiLSTM-CRF labels CoNLL-2000, and how long its training step takes.

| task | work |
|---|---|
| neural | a BiLSTM-CRF with a character CNN, nothing pretrained: its fit, and F1 on the test set |
| step | one training step of a plain BiLSTM-CRF, beside torch with pytorch-crf |

Each side's code is in `crf_neural_ours.py` and `crf_neural_rivals.py`. No choice looks at the test set: the last epoch is
the one that is best on sentences held out of the training set, and so were the sizes and rates chosen.
"""

import json
import statistics
import sys

from report import cores, markdown, run

EPOCHS, HELD_OUT, SEEDS = 20, 900, (0, 1)
SIZES = {"batch": 32, "time_": 50, "hidden": 100, "embedding": 100, "labels": 23, "vocabulary": 10_000}


def neural(options) -> str:
    """Table of fits."""
    rows = [
        "features | seed | parameters | epoch | held-out F1 | token accuracy % | chunk F1 | fit wall s | fit CPU s | "
        "predict s | peak MiB"
    ]
    epochs, held_out = (EPOCHS, HELD_OUT) if options.limit is None else (3, max(1, options.limit // 10))
    for mixed, seeds in ((False, SEEDS), (True, SEEDS[:1])):
        for seed in seeds:
            order = {"seed": seed, "epochs": epochs, "held_out": held_out, "mixed": mixed}
            report = _measure("neural", "chainrule", minutes=300, path=options.conll2000, limit=options.limit, **order)
            sys.stderr.write(
                f"{json.dumps(report)}\n"
            )  # a table of fits takes long, so that its rows are not lost with it
            name = "network and templates" if mixed else "network alone"
            rows.append(f"{name} | {seed} | {_fit_row(report)}")
    return (
        f"Words, part-of-speech tags and spelling in, BIO labels out. {epochs} epochs on the training set without "
        f"{held_out} sentences, on which the F1 of each epoch is measured; the model is that of the best. Mixed features "
        "are the network with the 19 window templates. Wall and CPU are of the whole fit, compiling and those measurements "
        "included.\n\n" + markdown(rows)
    )


def _fit_row(report):
    if "failure" in report:
        return report["failure"] + " | " * 8
    (wall, cpu), (predict, _) = (report["stages"][name][0] for name in ("fit", "predict"))
    cells = [f"{report['parameters']}", f"{report['epoch']}", f"{100 * report['valid']:.2f}"]
    cells += [f"{100 * report['accuracy']:.3f}", f"{100 * report['f1']:.3f}", f"{wall:.0f}", f"{cpu:.0f}"]
    return " | ".join([*cells, f"{predict:.1f}", f"{report['peak']:.0f}"])


def step(options) -> str:
    """Table of training steps."""
    rows = ["cores | library | wall ms (quartiles) | CPU ms | ratio, wall | ratio, CPU | peak MiB"]
    sides = ("torch with pytorch-crf", "chainrule")
    for threads in sorted({1, cores()}):
        reports = {side: [] for side in sides}
        for _ in range(options.processes):
            for side in sides:
                reports[side].append(_measure("step", side, threads=threads, steps=20, epochs=8, **SIZES))
        theirs = None
        for side in sides:
            failures = [report["failure"] for report in reports[side] if "failure" in report]
            if failures:
                rows.append(f"{threads} | {side} | {failures[0]} | | | | ")
                continue
            walls, cpus = ([value for report in reports[side] for value in report[clock]] for clock in ("wall", "cpu"))
            (low, wall, high), cpu = statistics.quantiles(walls, n=4), statistics.median(cpus)
            theirs = theirs or (wall, cpu)
            cells = [f"{1000 * wall:.1f} ({1000 * low:.1f} to {1000 * high:.1f})", f"{1000 * cpu:.1f}"]
            cells += [f"{wall / theirs[0]:.2f}", f"{cpu / theirs[1]:.2f}"]
            rows.append(" | ".join([str(threads), side, *cells, f"{max(r['peak'] for r in reports[side]):.0f}"]))
    return (
        "Batches of 32 sentences of 50 words, embeddings of 100 for 10,000 words, 100 units per direction, 23 labels, "
        "dropout 0.5 before and after the LSTM: loss, gradient, clipping and Adam, float32. chainrule's are the steps of "
        f"`fit`, torch's a loop in Python; compiling is not in them. Medians over {options.processes} processes in turns, "
        "each of seven times twenty steps.\n\n" + markdown(rows)
    )


def _measure(task, side, minutes=60, **order) -> dict:
    return run("crf_measure.py", {"task": task, "side": side, **order}, minutes=minutes)


TASKS = {"neural": neural, "step": step}
TITLES = {
    "neural": "a BiLSTM-CRF with a character CNN on CoNLL-2000",
    "step": "a training step of a BiLSTM-CRF",
}
