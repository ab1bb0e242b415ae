"""Restricted Boltzmann machines: an epoch beside scikit-learn, NumPy and torch, and likelihoods reached on MNIST.

    python benchmarks/rbm.py --mnist FOLDER                       # all tasks; the large one takes half an hour
    python benchmarks/rbm.py --mnist FOLDER epoch --threads 1     # one core for everybody
    python benchmarks/rbm.py --mnist FOLDER small --write         # also put the table into README.md

FOLDER holds the four gzipped files of MNIST, `train-images-idx3-ubyte.gz` and so on. Every measurement runs in
a process of its own (`rbm_measure.py`).

| task | work |
|---|---|
| epoch | PCD-1 of 784 × 500 units on 10 000 images, batches of 100, 100 chains, float32 |
| small | 784 × 16, 50 epochs of all images, exact log Z, the learning rate chosen on held-out training images |
| large | 784 × 500, log Z between annealed importance sampling and its reverse |
"""

import statistics

from report import cores, markdown, parse, parser, run, tables

PACKAGES = ["chainrule", "jax", "jaxlib", "numpy", "scikit-learn", "torch"]
RIVALS = ("scikit-learn", "numpy", "torch")
TITLES = {
    "epoch": "an epoch of PCD-1",
    "small": "784 by 16 units, exact likelihood",
    "large": "784 by 500 units, likelihood between two bounds",
}


def main():
    options = _options()
    makers = {"epoch": epoch, "small": small, "large": large}
    tables(
        "rbm.py",
        options,
        TITLES,
        PACKAGES,
        lambda task: makers[task](options),
        place=lambda task: f"epoch {cores()}" if task == "epoch" else task,
    )


def _options():
    arguments = parser(__doc__, TITLES)
    arguments.add_argument("--mnist", required=True, help="folder of MNIST")
    arguments.add_argument("--pairs", type=int, default=5, help="timed pairs of fits")
    arguments.add_argument("--minutes", type=float, default=90, help="longest that one measurement may take")
    return parse(arguments, TITLES)


def _measure(options, **order) -> dict:
    return run("rbm_measure.py", {**order, "folder": options.mnist}, minutes=options.minutes)


def epoch(options) -> str:
    """Table of seconds per epoch."""
    rows = ["rival | chainrule s | rival s | **chainrule / rival**, wall (quartiles) | CPU | pairs"]
    for rival in RIVALS:
        report = _measure(options, kind="epoch", rival=rival, pairs=options.pairs)
        ours, other = report.get("chainrule", report), report.get(rival, report)
        if failure := ours.get("failure") or other.get("failure"):
            rows.append(f"{rival} | {failure}" + " | " * 4)
            continue
        ratios = {clock: [a / b for a, b in zip(ours[clock], other[clock], strict=True)] for clock in ("wall", "cpu")}
        low, middle, high = statistics.quantiles(ratios["wall"], n=4)
        seconds = " | ".join(f"{statistics.median(side['wall']):.3f}" for side in (ours, other))
        rows.append(
            f"{rival} | {seconds} | **{middle:.2f}** ({low:.2f} to {high:.2f}) | {statistics.median(ratios['cpu']):.2f} | "
            f"{len(ours['wall'])}"
        )
    return (
        f"Seconds per epoch over fits of three epochs, warm, cores for everybody: {cores()}. Checking the data and drawing "
        "the first weights count. chainrule takes centred gradients, the others plain ones; NumPy and torch are PCD-1 "
        "written by hand.\n\n" + markdown(rows)
    )


def small(options) -> str:
    """Table of exact likelihoods."""
    report = _measure(options, kind="small")
    if "failure" in report:
        return report["failure"]
    scores = ", ".join(f"{rate}: {score:.2f}" for rate, score in report["scores"].items())
    rows = ["fit | rate | train nats | **test nats** | log Z | CPU s of the fit | CPU s of log Z"]
    rows.append(
        f"chainrule, centred, 50 epochs | {report['rate']} falling to 0 | {report['train']:.2f} | "
        f"**{report['test']:.2f}** | {report['log_partition']:.3f} | {report['cpu'][1]:.0f} | {report['cpu'][2]:.1f}"
    )
    rows.append("PyDeep, centred, 50 epochs (its documentation) | 0.01 | -143.15 | -142.56 | | | ")
    return (
        f"Nats per image, pixels above 127 are on. Chosen on 10 000 held-out training images after 8 epochs of the others "
        f"({scores}; {report['cpu'][0]:.0f} CPU seconds), then fitted to all 60 000.\n\n" + markdown(rows)
    )


def large(options) -> str:
    """Table of bounds."""
    report = _measure(options, kind="large")
    if "failure" in report:
        return report["failure"]
    settings = report["settings"]
    rows = ["quantity | from | to | gap"]
    for name in ("test", "train"):
        low, high = report[name]
        rows.append(f"nats per {name} image | {low:.2f} | {high:.2f} | {high - low:.2f}")
    rows.append(
        f"log Z | {report['lower']:.2f} ± {report['errors'][0]:.2f} | {report['upper']:.2f} ± {report['errors'][1]:.2f} | "
        f"{report['gap']:.2f}, {report['status']}"
    )
    some = report["conservative"]
    rows.append(
        f"nats of {some['images']} test images by reverse walks from each, {some['stops']} stops | {some['mean']:.2f} | "
        f"{some['by_bounds'][1]:.2f} by the bounds | {some['by_bounds'][1] - some['mean']:.2f}"
    )
    minutes = report["cpu"][0] / 60
    return (
        f"PCD-1, centred, {settings['epochs']} epochs of 60 000 images in {minutes:.1f} CPU minutes; rate "
        f"{settings['rate']} falling to 0, weight decay {settings['l2']}. Bounds by 100 chains each way over "
        f"{settings['stops']} stops after {settings['burn_in']} sweeps, {report['bounds_cpu'] / 60:.1f} CPU minutes; "
        f"effective chains {report['sizes'][0]:.0f} and {report['sizes'][1]:.0f}. PyDeep's documentation: AIS -84.86, "
        "reverse AIS -96.61 on test images after 200 epochs.\n\n" + markdown(rows)
    )


if __name__ == "__main__":
    main()
