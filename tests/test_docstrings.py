"""Every example in a docstring runs and says what it shows."""

import doctest
import importlib
import pkgutil

import pytest

import chainrule

NAMES = ["chainrule", *(module.name for module in pkgutil.walk_packages(chainrule.__path__, "chainrule."))]


@pytest.mark.lenient  # examples show what a user gets who has changed no setting
@pytest.mark.parametrize("name", NAMES)
def test_examples_run(name):
    module = importlib.import_module(name)
    report: list[str] = []
    runner = doctest.DocTestRunner()
    for test in doctest.DocTestFinder(exclude_empty=True).find(module, name):
        runner.run(test, out=report.append)
    assert runner.failures == 0, "".join(report)


@pytest.mark.parametrize("name", chainrule.__all__)
def test_public_names_are_described(name):
    assert getattr(chainrule, name).__doc__
