"""Tutorials are scripts in cells that take two options, and what they claim is true when they run."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
TUTORIALS = sorted((ROOT / "tutorials").glob("*.py"))
NUMBER = r"[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?"


def test_there_are_tutorials():
    subjects = (
        "quickstart",
        "hidden_markov_models",
        "linear_chain_crf",
        "markov_decision_processes",
        "boltzmann_machines",
        "hopfield_memories",
        "energy_models",
    )
    assert {f"{subject}.py" for subject in subjects} <= {path.name for path in TUTORIALS}


def test_every_tutorial_has_a_story_that_is_checked():
    told = re.findall(r"^    said = run_quickly\(\"(.*)\", tmp_path\)$", Path(__file__).read_text(), flags=re.MULTILINE)
    assert sorted(told) == [path.name for path in TUTORIALS]


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_is_a_script_in_cells_with_two_options(path):
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# %% [markdown]\n# # ")
    assert len(re.findall(r"^# %%$", text, flags=re.MULTILINE)) >= 5
    assert len(re.findall(r"^# %% \[markdown\]$", text, flags=re.MULTILINE)) >= 5
    assert '"--quick"' in text
    assert '"--out"' in text
    assert 'matplotlib.use("Agg")' in text
    assert not re.search(r"https?://[^\s)]+\.(csv|zip|npz)|urllib|requests", text), "tutorials download nothing"


def test_earthquakes_are_the_published_ones():
    rows = (ROOT / "tutorials/data/earthquakes.csv").read_text().splitlines()
    pairs = [tuple(map(int, row.split(","))) for row in rows[1:]]
    assert rows[0] == "year,count"
    assert [year for year, _ in pairs] == list(range(1900, 2007))
    assert sum(count for _, count in pairs) == 2072


def test_tagged_sentences_are_the_ones_described():
    blocks = (ROOT / "tutorials/data/en_pud.tsv").read_text(encoding="utf-8").strip().split("\n\n")
    rows = [line.split("\t") for block in blocks for line in block.split("\n")]
    assert len(blocks) == 1000
    assert len(rows) == 21_180
    assert {len(row) for row in rows} == {3}
    universal = [tag for _, _, tag in rows]
    assert len(set(universal)) == 17
    assert universal.count("NOUN") == 4015


def test_digits_are_the_ones_described():
    path = ROOT / "tutorials/data/mnist_subset.npz"
    assert path.stat().st_size < 600_000
    with np.load(path) as file:
        for part, each in (("train", 280), ("test", 60)):
            images, labels = file[f"{part}_images"], file[f"{part}_labels"]
            assert images.dtype == np.uint8
            assert images.shape == (10 * each, 28, 28)
            assert np.bincount(labels).tolist() == [each] * 10
            assert 0.12 < (images > 127).mean() < 0.15


def run_quickly(name: str, out: Path) -> str:
    """Run a tutorial as a reader would, with `--quick`, and return what it printed."""
    command = [sys.executable, str(ROOT / "tutorials" / name), "--quick", "--out", str(out)]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONIOENCODING": "utf-8"}
    for flag in ("XLA_FLAGS", "JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "JAX_USE_SHARDY_PARTITIONER"):
        environment.pop(flag, None)  # those of conftest.py are not a reader's
    done = subprocess.run(command, capture_output=True, encoding="utf-8", env=environment, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def numbers(text: str, pattern: str) -> list[float]:
    """The numbers in the first line that matches."""
    line = next((line for line in text.splitlines() if re.search(pattern, line)), None)
    assert line is not None, f"no line matches {pattern!r} in:\n{text}"
    return [float(found) for found in re.findall(NUMBER, line)]


@pytest.mark.slow
def test_quickstart_reproduces_the_published_fits(tmp_path):
    said = run_quickly("quickstart.py", tmp_path)
    published = {
        1: (391.9189, [19.364]),
        2: (341.8787, [15.421, 26.018]),
        3: (328.5275, [13.134, 19.713, 29.710]),
    }
    for num_states, (value, rates) in published.items():
        states, log_prob, printed, _, _, *found = numbers(said, rf"^ +{num_states} +3\d\d\.\d{{4}} ")
        assert (states, printed) == (num_states, value)
        assert log_prob == pytest.approx(value, abs=2e-4)
        assert found == pytest.approx(rates, abs=2e-3)

    expected, _, low, high = numbers(said, r"^count: ")[:4]
    assert low < expected < high
    assert "same log p: True" in said
    growth, _, low, high = numbers(said, r"^each regime is ")
    assert low < 1.5 < high
    assert growth == pytest.approx(1.5, abs=0.15)
    for name, rate in zip(("calm", "usual", "active"), published[3][1], strict=True):
        _, _, low, high = numbers(said, rf"^ *{name}: rate ")
        assert low < rate < high
    learned, simulated, commonest = (numbers(said, f"^{who}")[0] for who in ("network that", "model that", "always"))
    assert commonest + 20 < learned < simulated + 2

    figures = {path.name for path in tmp_path.glob("*.png")}
    assert figures == {f"quickstart_{name}.png" for name in ("decoded", "regimes", "missing", "bayes")}
    assert all(path.stat().st_size > 10_000 for path in tmp_path.glob("*.png"))


@pytest.mark.slow
def test_the_story_of_hidden_markov_models_is_true(tmp_path):
    said = run_quickly("hidden_markov_models.py", tmp_path)

    assert numbers(said, "^by casino.log_prob") == pytest.approx(numbers(said, "^by the textbook's loop"), abs=1e-3)
    assert "stop by stop: ['south', 'museum'], a journey of probability 0.0" in said
    assert "Viterbi:      ['north', 'museum'], a journey of probability 0.4" in said
    assert "EM never went down: True" in said
    gradient, counts, difference = numbers(said, "^  gradient ")
    assert gradient == pytest.approx(counts, rel=1e-4)
    assert gradient == pytest.approx(difference, rel=1e-3)
    by_em, by_lbfgs = numbers(said, "^iterations to come within")[1:]
    assert by_lbfgs < by_em
    ends = numbers(said, "^ends of")[1:]
    assert max(ends) - min(ends) > 50
    assert "BIC chooses 4 states" in said
    assert numbers(said, "^probability of forbidden steps") == [0]
    plain, sticky = (numbers(said, rf"^stickiness +{size}:") for size in (0, 50))
    assert sticky[1] < plain[1]
    assert sticky[2] > plain[2] + 10
    assert "log p = -1251.8379, posterior [1. 0.]" in said
    assert "impossible: log p = -inf, gradient [0. 0.]" in said
    drift, engine = (numbers(said, f"^in float32, {who}")[-1] for who in ("carried", "by the engine"))
    assert abs(engine) < 0.05 < abs(drift)

    names = ("casino_model", "casino_decoded", "learning", "local_optima", "wear", "sticky")
    assert {path.name for path in tmp_path.glob("*.png")} == {f"hmm_{name}.png" for name in names}


@pytest.mark.slow
def test_the_story_of_conditional_random_fields_is_true(tmp_path):
    said = run_quickly("linear_chain_crf.py", tmp_path)

    names = ("HMM", "CRF, features by hand", "CRF, attributes, L2")
    hmm, by_hand, attributes = (numbers(said, f"^{name}: ")[-2:] for name in names)
    assert hmm[0] + 5 < by_hand[0] < attributes[0]
    assert hmm[1] + 15 < by_hand[1]
    likely = [float(p) for p in re.findall(r"^  p = (\S+)", said, flags=re.MULTILINE)]
    assert len(likely) == 4
    assert likely == sorted(likely, reverse=True)
    squares, absolute = (count for count in numbers(said, "^weights of attributes") if count > 2)
    assert absolute < squares / 3
    scattered, whole = (numbers(said, f"^{name}: ")[-1] for name in ("scattered tokens", "whole sentences"))
    assert whole < scattered < by_hand[0]
    assert re.search("^alone: +DET ADJ NOUN DET NOUN PUNCT$", said, flags=re.MULTILINE)
    assert re.search("^hinted: +DET ADJ VERB DET NOUN PUNCT$", said, flags=re.MULTILINE)
    f1, broken = numbers(said, "^bio_graph: F1")[1:]
    assert f1 > 0.75
    assert broken == 0

    network = numbers(said, "^CRF, network: ")[-2:]
    assert 0.5 < network[0] < attributes[0]  # in so few sentences and epochs

    figures = ("doubts", "attributes", "transitions", "taggers", "phrases", "network")
    assert {path.name for path in tmp_path.glob("*.png")} == {f"crf_{name}.png" for name in figures}


@pytest.mark.slow
def test_the_story_of_decision_processes_is_true(tmp_path):
    said = run_quickly("markov_decision_processes.py", tmp_path)

    # by hand: v(new) = 10 + 0.9 (0.7 v(new) + 0.3 v(worn)), v(worn) = -5 + 0.9 (0.75 v(new) + 0.25 v(worn))
    new, worn = np.linalg.solve([[1 - 0.63, -0.27], [-0.675, 1 - 0.225]], [10, -5])
    assert numbers(said, "^ +new: worth") == pytest.approx([new], abs=5e-3)
    assert numbers(said, "^ +worn: worth") == pytest.approx([worn], abs=5e-3)
    assert numbers(said, "^ +broken: worth") == pytest.approx([-40 + 0.9 * new], abs=5e-3)
    assert re.search("^from discount 0.500: new → sell, worn → sell, broken → sell$", said, flags=re.MULTILINE)
    assert re.search("^from discount 0.9.*: new → run, worn → service, broken → replace$", said, flags=re.MULTILINE)

    _, change, error = numbers(said, "last change")
    _, gap = numbers(said, "lower and upper within")
    assert "the truth is between: True" in said
    assert gap < 1e-4 < change < error
    plain, modified = (numbers(said, f"^{name}")[0] for name in ("ValueIteration", "ModifiedPolicyIteration"))
    assert modified < plain

    assert "slippery: the start is worth 0.5420; there one goes LEFT" in said
    assert "not slippery: the start is worth 0.9510" in said
    _, mean, doubt = numbers(said, "episodes in Gymnasium")
    assert abs(mean - 0.5420) < 4 * doubt

    dry, slippery = (numbers(said, f"^slip {slip}:")[3] for slip in (0.0, 0.3))
    assert slippery < dry < 0
    tied, places = numbers(said, "places have several optimal actions")[:2]
    assert 0 < tied < places
    checked = [numbers(line, "gradient") for line in said.splitlines() if "by finite differences" in line]
    assert len(checked) == 3
    for *_, exact, difference in checked:
        assert exact == pytest.approx(difference, rel=1e-4)

    assert "equal to mdp.occupancy: True" in said
    assert "distinct rows kept: 201" in said
    assert numbers(said, "^the best policy: at") == [15, 84, 1460.91]  # as of inventories of any larger size
    assert re.search("^for all .* the policy has that form: True$", said, flags=re.MULTILINE)
    few, many = (numbers(said, rf"^ *{trials} trials")[1:3] for trials in (4, 200))
    truth = numbers(said, "^truth: ")[0]
    assert many[0] < truth < many[1]
    assert many[1] - many[0] < few[1] - few[0]

    figures = ("machine", "certificate", "frozen_lake", "map", "ties", "gradient", "inventory", "posterior")
    assert {path.name for path in tmp_path.glob("*.png")} == {f"mdp_{name}.png" for name in figures}


@pytest.mark.slow
def test_the_story_of_boltzmann_machines_is_true(tmp_path):
    said = run_quickly("boltzmann_machines.py", tmp_path)

    tiny = [line for line in said.splitlines() if "by hand" in line and line.startswith("v = ")]
    assert len(tiny) == 4
    for line in tiny:
        p, by_hand = (float(found) for found in re.findall(r"(?:p =|hand) (\d\.\d+)", line))
        assert p == pytest.approx(by_hand, abs=2e-4)
    alone, together = numbers(said, "^pseudo-likelihood of a test digit")
    assert alone + 50 < together < 0
    test, drawn = numbers(said, "^share of ink")
    assert drawn == pytest.approx(test, abs=0.04)
    _, exact, lower, upper = numbers(said, "^12 units: exact log Z")
    assert lower - 1 < exact < upper + 1
    assert upper - lower < 1
    assert "TIGHT" in said
    bounds = numbers(said, "a test digit has log p between")
    pixels, small = numbers(said, "^pixels alone: ")[0], numbers(said, "^pixels alone: ")[-1]
    assert pixels + 20 < small < bounds[1]
    assert "known pixels untouched: True" in said
    right, empty = numbers(said, "^pixels of the right half guessed right")
    assert right > empty + 0.02
    before, after = numbers(said, "^wrong pixels: ")
    assert after < 0.5 * before
    errors = {name: numbers(said, f"^{name}: ")[0] for name in ("discriminative", "hybrid", "generative")}
    assert max(errors["discriminative"], errors["hybrid"]) < 20  # in so few epochs; 90 would be chance
    mean, ours = (numbers(said, f"^{name}: RMSE")[0] for name in ("mean of the item", "recommender"))
    assert ours < 0.9 * mean

    figures = ("filters", "samples", "sandwich", "completions", "repairs", "ratings")
    assert {path.name for path in tmp_path.glob("boltzmann_*.png")} == {f"boltzmann_{name}.png" for name in figures}


@pytest.mark.slow
def test_the_story_of_hopfield_networks_is_true(tmp_path):
    said = run_quickly("hopfield_memories.py", tmp_path)

    assert "letters recalled to the last pixel: 4 of 4" in said
    assert "the energy never rose: True" in said
    hebb, storkey, projection = (
        numbers(said, f"^ *{name}: letters")[:2] for name in ("Hebb", "Storkey", "pseudo-inverse")
    )
    assert hebb[0] < storkey[0] < projection[0] == 26
    assert projection[1] > 20
    pattern, mirror, mixture = (
        numbers(said, f"^ *{name}: energy") for name in ("a pattern", "its mirror image", "majority of three")
    )
    assert pattern == mirror
    assert pattern[0] < mixture[0]
    hebb, storkey, projection = (
        numbers(said, f"^ *{name}: K = ")[1::2] for name in ("Hebb", "Storkey", "pseudo-inverse")
    )
    assert min(hebb[0], storkey[1]) > 0.95
    assert max(hebb[1], storkey[2]) < 0.7
    assert projection == [1, 1, 1]
    quadratic, cubic, exponential = (
        numbers(said, rf"^ *{name}: +\d")[-1] for name in (r"n = 2 \(Hebb\)", "n = 3", "exponential")
    )
    assert quadratic < cubic < exponential
    assert numbers(said, "^largest difference to")[-1] < 1e-5
    blended = [numbers(said, rf"^beta +{beta}:")[1] for beta in (1, 15, 60, 400)]
    assert blended[0] > 1000 > blended[1] > blended[2] >= blended[3] == 1
    assert "8 of 8 digits restored; energies fell: True" in said
    assert numbers(said, "^digits never seen")[0] > 85

    names = ("recall", "alphabet", "capacity", "dense", "attention")
    assert {path.name for path in tmp_path.glob("*.png")} == {f"hopfield_{name}.png" for name in names}


@pytest.mark.slow
def test_the_story_of_energy_models_is_true(tmp_path):
    said = run_quickly("energy_models.py", tmp_path)

    for name, variance in (("Langevin, step 0.5", 4 / 3), ("MALA, step 0.5", 1), ("HMC", 1)):
        assert numbers(said, f"^ *{name}: variance")[-1] == pytest.approx(variance, abs=0.05)
    objectives = ("denoising", "sliced", "noise contrast", "persistent chains")
    gaussian, *found, truth = (
        numbers(said, f"^ *{name}: .* nats")[0] for name in ("a Gaussian", *objectives, "the truth")
    )
    assert all(gaussian + 0.5 < score < truth + 0.02 for score in found)
    learned, by_grid = numbers(said, "log Z learned")[1:]
    assert learned == pytest.approx(by_grid, abs=0.2)
    assert re.search("^ *with retries: ROLLED_BACK", said, flags=re.MULTILINE)
    assert re.search("^ *without: DIVERGED", said, flags=re.MULTILINE)
    assert numbers(said, "test digits right")[0] > 60  # in so few epochs; 10 would be chance
    shuffled, halves, swapped = (
        numbers(said, f"^lower energy than {name}")[0] for name in ("pixels", "upper", "black")
    )
    assert shuffled > 85
    assert halves > 55
    assert swapped > 95

    figures = ("necklace", "densities", "gap", "digits", "strangers")
    assert {path.name for path in tmp_path.glob("*.png")} == {f"energy_{name}.png" for name in figures}
