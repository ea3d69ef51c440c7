"""Runs ``pserve`` with a server, or looks at how it fails."""

import contextlib
import os
import subprocess
import sys
import threading

from tests.apps.pserveapp import write_ini
from tests.support.servers import DEADLINE, HOST, PROJECT, free_port, started

SERVERS = ["daphne", "uvicorn", "hypercorn"]

# How the line begins that says what is wrong with the ini.
WRONG = "pyramid.exceptions.ConfigurationError: "


def listening(server, port):
    """The options with which ``server`` listens on ``port``."""
    if server == "hypercorn":
        return {"bind": f"{HOST}:{port}"}
    return {"host" if server == "uvicorn" else "bind": HOST, "port": port}


@contextlib.contextmanager
def pserve(
    name, directory, *arguments, options=None, port=None, page="first", app="pserveapp", **more
):
    """Run pserve with the server ``name``, which listens on a free port unless ``options`` say."""
    port = port or free_port()
    given = listening(name, port) if options is None else options
    ini = write_ini(directory / "test.ini", name, given, page, directory / "gate", app)
    command = ["pyramid.scripts.pserve", *arguments, str(ini)]
    # Pyramid imports pkg_resources, which warns.
    environ = {"PYTHONWARNINGS": "ignore"}
    with started(name, command, port, directory, environ, **more) as server:
        yield server


@contextlib.contextmanager
def in_thread(function):
    """Run ``function`` beside the block; give a list that holds what it returned afterwards."""
    results = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    yield results
    thread.join(DEADLINE)
    assert results


def failure(name, directory, options, environ=None):
    """The last line that pserve writes when it fails."""
    ini = write_ini(directory / "test.ini", name, options)
    command = [sys.executable, "-W", "ignore", "-m", "pyramid.scripts.pserve", str(ini)]
    done = subprocess.run(
        command,
        cwd=PROJECT,
        env={**os.environ, **(environ or {})},
        capture_output=True,
        text=True,
        timeout=6 * DEADLINE,
    )
    assert done.returncode == 1
    return done.stderr.splitlines()[-1]
