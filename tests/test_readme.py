"""What the README shows runs, and its shell commands are the two that `.ci/run` takes from it."""

import re
from pathlib import Path

import numpy as np
import pytest

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


def test_example_says_what_its_comments_claim(capsys):
    example, _, _ = blocks("python")
    scope = {}
    exec(compile(example, "README.md", "exec"), scope)

    hmm, alarms, fit = scope["hmm"], scope["alarms"], scope["fit"]
    assert fit.status is scope["cr"].Status.CONVERGED
    assert "HMM(2 states, Poisson)" in capsys.readouterr().out
    path = hmm.viterbi(alarms[0]).labels.tolist()
    assert path.count("new") == pytest.approx(10, abs=2)
    assert path == sorted(path)  # "new" comes before "worn", and there is no way back
    assert not hmm.graph().has_edge("worn", "new")
    assert hmm.filter(alarms[2]).forecast[1] == pytest.approx(1, abs=1e-3)
    assert hmm.emission.rate.tolist() == pytest.approx([2, 7], abs=1)


def test_decisions_say_what_their_comments_claim(capsys):
    _, example, _ = blocks("python")
    scope = {}
    exec(compile(example, "README.md", "exec"), scope)
    solution, cr = scope["solution"], scope["cr"]
    assert solution.status is cr.SolveStatus.CERTIFIED
    assert solution["cool"] == pytest.approx(15.5, abs=1e-6)  # 2 − 0.45 over 1 − 0.9
    printed = capsys.readouterr().out
    assert "fast slow" in printed
    assert "on back" in printed
    assert scope["lake"].solve().values[0] == pytest.approx(0.5420, abs=1e-4)


def test_energies_say_what_their_comments_claim(capsys):
    *_, example = blocks("python")
    scope = {}
    exec(compile(example, "README.md", "exec"), scope)
    assert "{'a': 0, 'b': 1, 'c': 1}" in capsys.readouterr().out
    # of a ring of six: Z = (2 cosh 1)⁶ + (2 sinh 1)⁶
    exact = np.log((2 * np.cosh(1)) ** 6 + (2 * np.sinh(1)) ** 6)
    assert float(scope["spins"].log_partition()) == pytest.approx(exact, rel=1e-5)
    filled = scope["rbm"].complete(scope["key"], np.repeat(scope["rows"], 200, axis=0), known=np.arange(6) < 3)
    assert (filled == filled[:, :1]).mean() > 0.8


def test_shell_blocks_are_the_two_commands_on_one_line_each():
    commands = blocks("bash")
    assert [command.count("\n") for command in commands] == [1, 1]
    job, tests = commands
    assert "tutorials/quickstart.py" in job
    assert '".[test]"' in tests
    assert "pytest" in tests


def test_links_lead_to_files():
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert len(links) >= 5
    missing = [link for link in links if not (Path(__file__).parents[1] / link).exists()]
    assert not missing


def test_names_in_the_table_exist():
    import chainrule as cr

    names = set(re.findall(r"\bcr((?:\.\w+)+)", README))
    assert {".HMM", ".bayes.posterior", ".emissions"} <= names
    for name in names:
        value = cr
        for part in name[1:].split("."):
            value = getattr(value, part)
    table = re.search(r"\| an emission in mind \|(.*?)\|", README)
    assert table is not None
    for family in re.findall(r"`(\w+)`", table[1]):
        assert hasattr(cr.emissions, family), family
