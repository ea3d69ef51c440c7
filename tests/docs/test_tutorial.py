"""The tutorial: the tests that it shows pass at each of its steps."""

import importlib
import inspect
import sys
from contextlib import ExitStack, contextmanager

import pytest

from tests.support.pages import PROJECT

STEPS = sorted((PROJECT / "docs" / "tutorial").glob("[1-9]"))


def call(function, module, values, stack):
    """Call ``function`` with the fixtures of ``module`` that it names; each is made once."""
    for name in inspect.signature(function).parameters:
        if name not in values:
            fixture = getattr(module, name).__wrapped__
            made = call(fixture, module, values, stack)
            if inspect.isgenerator(made):
                made = stack.enter_context(contextmanager(lambda made=made: made)())
            values[name] = made
    return function(**{name: values[name] for name in inspect.signature(function).parameters})


def run_tests(module):
    """Run the tests of a module, as pytest does; return their names."""
    tests = {name: test for name, test in vars(module).items() if name.startswith("test_")}
    for test in tests.values():
        with ExitStack() as stack:
            call(test, module, {}, stack)
    return {*tests}


@pytest.fixture
def step(monkeypatch):
    """Work in a folder of the tutorial: ``step(folder)`` returns what imports from it."""
    before = {*sys.modules}

    def enter(folder):
        monkeypatch.syspath_prepend(folder)
        return importlib.import_module

    yield enter
    folders = (str(PROJECT / "docs"), str(PROJECT / "examples" / "tutorial"))
    new = {name: sys.modules[name] for name in {*sys.modules} - before}
    for name in [n for n, m in new.items() if str(getattr(m, "__file__", "")).startswith(folders)]:
        del sys.modules[name]


@pytest.mark.parametrize("folder", STEPS, ids=lambda folder: folder.name)
def test_the_tests_of_a_step_pass(folder, step, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert len(run_tests(step(folder)("test_app"))) > 1


def test_the_tests_of_the_project_that_comes_out_pass(step):
    step(PROJECT / "examples" / "tutorial")
    assert len(run_tests(step(PROJECT / "examples" / "tutorial" / "tests")("test_chat"))) == 5
