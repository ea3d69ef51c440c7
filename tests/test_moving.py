"""docs/moving.rst: what it names is all that a project changes."""

import difflib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs/moving.rst"
DIFF = ".. code-block:: diff\n"
#: What the project has got since it has moved.
ADDED = ["myproject/views/chat.py", "test_chat.py"]


def changes(section):
    """The lines that the page's section takes away and those that it adds, one or none each."""
    text = PAGE.read_text().partition(f"\n{section}\n---")[2].partition(DIFF)[2]
    changes, removed = [], None
    for line in text.splitlines()[1:]:
        if line and not line.startswith("    "):
            break
        sign, line = line[4:5], line[5:]
        if sign == "-":
            removed = line
        elif sign == "+":
            changes.append((removed, line))
            removed = None
    return changes


CHANGES = {
    "myproject/__init__.py": changes("main"),
    "testing.ini": changes("The ini"),
    "conftest.py": changes("Tests"),
}


def undo(path, changes):
    """Take back the changes in the file; each of them is there once."""
    lines = path.read_text().splitlines()
    for removed, added in changes:
        at = lines.index(added)
        lines[at : at + 1] = [] if removed is None else [removed]
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture
def not_moved(tmp_path):
    """The cookiecutter's project as it was."""
    copy = tmp_path / "tests/cookiecutter"
    shutil.copytree(TESTS / "cookiecutter", copy)
    (tmp_path / "tests/__init__.py").touch()
    for name in ADDED:
        (copy / name).unlink()
    for name, of_file in CHANGES.items():
        undo(copy / name, of_file)
    return copy


def test_the_page_names_four_lines():
    assert sum(map(len, CHANGES.values())) == 4


def test_these_are_all_that_a_project_changes(not_moved):
    different = {}
    for path in not_moved.rglob("*.*"):
        if path.suffix == ".pyc":
            continue
        name = str(path.relative_to(not_moved))
        before, now = path.read_text(), (TESTS / "cookiecutter" / name).read_text()
        compared = list(difflib.ndiff(before.splitlines(), now.splitlines()))
        removed = [line[2:] for line in compared if line[0] == "-"]
        added = [line[2:] for line in compared if line[0] == "+"]
        if removed or added:
            different[name] = [(line in removed, line) for line in removed + added]
    assert different == {
        name: [(True, removed) for removed, _ in of_file if removed is not None]
        + [(False, added) for _, added in of_file]
        for name, of_file in CHANGES.items()
    }
    assert not [path for path in not_moved.rglob("*.py") if "asgi" in path.read_text()]


def test_its_tests_passed_over_wsgi_before(not_moved):
    # A copy's coverage is nobody's.
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("COV", "PYTEST"))}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/cookiecutter"]
    ran = subprocess.run(
        command, cwd=not_moved.parent.parent, env=environ, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stdout
    assert "5 passed" in ran.stdout
