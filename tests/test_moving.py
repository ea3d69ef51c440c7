"""docs/moving.rst: what it names is all that a project changes."""

import difflib
import os
import shutil
import subprocess
import sys
import textwrap
from itertools import takewhile
from pathlib import Path
from types import ModuleType

import pytest
from pyramid.security import NO_PERMISSION_REQUIRED

from pyramid_asgi_consumers.testing import TestApp
from tests.support.project import Message, User, make_config, make_engine

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs/moving.rst"
STREAMER = "A streamer of one's own"
#: What the project has got since it has moved.
ADDED = ["myproject/views/chat.py", "test_chat.py"]


def first_block(section, language):
    """The lines of the first block of this kind in a section of the page."""
    text = PAGE.read_text().partition(f"\n{section}\n---")[2]
    lines = text.partition(f".. code-block:: {language}\n")[2].splitlines()
    return list(takewhile(lambda line: not line or line.startswith("    "), lines))


def changes(section):
    """The lines that the page's section takes away and those that it adds, one or none each."""
    changes, removed = [], None
    for line in first_block(section, "diff"):
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
    shutil.copytree(TESTS / "cookiecutter", copy, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "tests/__init__.py").touch()
    for name in ADDED:
        (copy / name).unlink()
    for name, of_file in CHANGES.items():
        undo(copy / name, of_file)
    return copy


def test_the_page_names_four_lines_and_a_requirement():
    assert sum(map(len, CHANGES.values())) == 4
    ((removed, added),) = changes("setup.py")
    assert removed.strip() == "'waitress',"
    assert added.strip() == "'pyramid_asgi_consumers[uvicorn]',"


def test_these_are_all_that_a_project_changes(not_moved):
    different = {}
    for path in not_moved.rglob("*.*"):
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


def test_a_streamer_sends_what_is_not_the_clients_own(tmp_path):
    engine = make_engine(tmp_path / "test.db")
    config = make_config(engine)
    example = ModuleType("example")
    example.Message = Message
    exec(textwrap.dedent("\n".join(first_block(STREAMER, "python"))), vars(example))

    def add(request):
        message = Message(**request.json_body)
        request.dbsession.merge(User(name=message.author))
        request.dbsession.flush()
        request.dbsession.add(message)
        request.dbsession.flush()
        request.channels.publish("messages", {"id": message.id})
        return {}

    config.add_websocket("/stream", example.stream, permission=NO_PERMISSION_REQUIRED)
    config.add_route("add", "/add")
    config.add_view(add, route_name="add", renderer="json")
    app = config.make_asgi_app()
    ann, anybody = TestApp(app), TestApp(app)
    with ann, anybody:
        ann.post("/login", {"name": "ann"})
        with ann.websocket("/stream") as of_ann, anybody.websocket("/stream") as of_anybody:
            ann.post_json("/add", {"text": "mine", "author": "ann"})
            assert of_anybody.receive_json() == {"text": "mine", "author": "ann"}
            ann.post_json("/add", {"text": "yours", "author": "otto"})
            assert of_anybody.receive_json() == {"text": "yours", "author": "otto"}
            assert of_ann.receive_json() == {"text": "yours", "author": "otto"}
    engine.dispose()
