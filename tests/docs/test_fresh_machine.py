"""The commands that the documentation shows, on a machine that has Python and no more."""

import contextlib
import os
import re
import shutil
import subprocess
import venv
from functools import partial

import pytest

from tests.support import clients
from tests.support.clients import DEADLINE, HOST
from tests.support.pages import PROJECT, blocks, text_of
from tests.support.servers import Server, free_port, wait_until

pytestmark = pytest.mark.deployment

#: What is installed, so that pip writes into nothing that other tests read.
INSTALLED = ("pyramid_asgi_consumers", "examples", "setup.py", "setup.cfg", "*.rst", "LICENSE.txt")


def commands(text):
    """The lines of the blocks of a page that are commands."""
    blocks = re.findall(r"::\n\n((?:    .*\n)+)", text)
    return [line.strip() for block in blocks for line in block.splitlines()]


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    """Runs a command in a folder of a clone, where an empty environment is active."""
    clone = tmp_path_factory.mktemp("clone")
    for pattern in INSTALLED:
        for path in PROJECT.glob(pattern):
            copy = partial(shutil.copytree, ignore=shutil.ignore_patterns("*.egg-info"))
            (copy if path.is_dir() else shutil.copy)(path, clone / path.name)
    venv.create(clone / "env", with_pip=True)
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("COV", "PYTEST"))}
    environ = {**kept, "PATH": f"{clone / 'env' / 'bin'}:{os.environ['PATH']}"}

    def run(command, folder="."):
        done = subprocess.run(
            command,
            shell=True,
            cwd=clone / folder,
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}"
        return done.stdout

    @contextlib.contextmanager
    def serve(command, folder, port):
        log = clone / "server.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                command.split(),
                cwd=clone / folder,
                env=environ,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        server = Server(command, port, process, log)
        try:
            wait_until(partial(_answers, server), "the first answer", server)
            yield server
        finally:
            server.kill()

    run.clone, run.serve = clone, serve
    return run


def _answers(server):
    try:
        return clients.get(server, "/").whole
    except ConnectionRefusedError:
        return False


@pytest.fixture(scope="module")
def installed(machine):
    """The same with the tutorial's project in its environment, and the commands that follow."""
    readme = (PROJECT / "examples" / "tutorial" / "README.rst").read_text()
    install, *machine.next_commands = commands(readme)
    machine(install, "examples/tutorial")
    return machine


def test_the_project_of_the_tutorial_is_installed_tested_and_served(installed):
    test, serve = installed.next_commands
    ini = installed.clone / "examples" / "tutorial" / "development.ini"
    port = free_port()
    ini.write_text(ini.read_text().replace(":6543", f":{port}"))
    assert "5 passed" in installed(test, "examples/tutorial")
    with installed.serve(serve, "examples/tutorial", port) as server:
        assert clients.get(server, "/login").status == 200


def served(page):
    """The command of ``page`` that serves its first example."""
    return next(line for line in commands(text_of(page)) if line.startswith("uvicorn"))


def test_the_first_example_is_served(installed, tmp_path):
    (tmp_path / "app.py").write_text(blocks("README")[0].code)
    port = free_port()
    with installed.serve(f"{served('README')} --port {port}", tmp_path, port) as server:
        assert clients.get(server, "/").body == b"Hello"
        with clients.websocket(server, "/ws") as websocket:
            websocket.send("hello")
            assert websocket.recv(DEADLINE) == "hello"


def test_the_first_step_of_the_tutorial_is_served_and_tested(installed, tmp_path):
    folder = tmp_path / "chat"
    shutil.copytree(PROJECT / "docs" / "tutorial" / "1", folder)
    port = free_port()
    with installed.serve(f"{served('tutorial')} --port {port}", folder, port) as server:
        assert clients.get(server, "/").status == 200
    assert "pytest" in commands(text_of("tutorial"))
    assert "passed" in installed("pytest", folder)


def test_fastapi_and_tools_are_mounted_as_the_recipe_says(machine):
    install, serve = commands(text_of("recipes/mounted"))
    folder = PROJECT / "docs" / "recipes" / "mounted"
    shutil.copytree(folder, machine.clone / "mounted")
    # Before there is a release.
    machine(install.replace("pyramid_asgi_consumers[", ".["))
    port = free_port()
    with machine.serve(f"{serve} --port {port}", "mounted", port) as server:
        assert machine(f"python client.py http://{HOST}:{port}", "mounted").splitlines() == [
            "{'eur': 1.5}",
            "{'author': 'ann', 'text': 'hello'}",
        ]
        assert clients.get(server, "/mcp", method="POST").status == 403
