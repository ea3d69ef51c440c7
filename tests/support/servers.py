"""Starts the ASGI servers as subprocesses, the way their users do."""

import contextlib
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from tests.support import clients

HOST = "127.0.0.1"
# Seconds that anything may take on a slow machine.
DEADLINE = 20
PROJECT = Path(__file__).resolve().parent.parent.parent

# {port} and {app} are filled in. The limits of a message are raised where the default is 1 MiB or
# less; graceful stops are bounded to a few seconds, since the tests leave connections open.
COMMANDS = {
    "daphne": (
        "daphne --bind 127.0.0.1 --port {port} --application-close-timeout 5"
        " --websocket-max-message-size 2097152 --websocket-max-frame-size 2097152 {app}"
    ),
    "uvicorn-websockets": (
        "uvicorn --host 127.0.0.1 --port {port} --ws websockets --timeout-graceful-shutdown 2 {app}"
    ),
    "uvicorn-sansio": (
        "uvicorn --host 127.0.0.1 --port {port} --ws websockets-sansio"
        " --timeout-graceful-shutdown 2 {app}"
    ),
    "uvicorn-wsproto": (
        "uvicorn --host 127.0.0.1 --port {port} --ws wsproto --timeout-graceful-shutdown 2 {app}"
    ),
    # On Python 3.12 and later Hypercorn 0.18's asyncio worker waits for open connections for ever.
    "hypercorn": (
        "hypercorn --bind 127.0.0.1:{port} --worker-class uvloop --graceful-timeout 2 {app}"
    ),
    "granian": (
        "granian --host 127.0.0.1 --port {port} --interface asgi --workers-kill-timeout 5 {app}"
    ),
    "gunicorn": (
        "gunicorn --bind 127.0.0.1:{port} --worker-class asgi --graceful-timeout 2"
        " --no-control-socket {app}"
    ),
}

# How each is told its root_path.
ROOT_PATH_OPTIONS = {
    "daphne": "--root-path",
    "uvicorn-websockets": "--root-path",
    "uvicorn-sansio": "--root-path",
    "uvicorn-wsproto": "--root-path",
    "hypercorn": "--root-path",
    "granian": "--url-path-prefix",
    "gunicorn": "--root-path",
}

#: Whether the Granian that is installed is ended by a header that comes twice.
OLD_GRANIAN = tuple(map(int, version("granian").split(".")[:3])) < (2, 8, 9)

TRACEBACK = "Traceback (most recent call last)"


class Server:
    """A server that runs, on ``port``. What it writes is in the file ``log``.

    ``around`` is what its application is inside of: a name of ``around.py``.
    """

    around = "nothing"

    def __init__(self, name: str, port: int, process: subprocess.Popen[bytes], log: Path) -> None:
        self.name = name
        self.port = port
        self.process = process
        self.log = log

    def logged(self, since: int = 0) -> str:
        """What it has written after the position ``since``."""
        return self.log.read_bytes()[since:].decode("utf-8", "replace")

    def position(self) -> int:
        """Where its log ends now."""
        return self.log.stat().st_size

    def settled(self, since: int) -> str:
        """What it has written after ``since``, once what was going on then has had its say.

        Daphne looks once a second, in the order in which they came, at what its applications
        raised: there an exception of this method's own is waited for and taken out again.
        """
        if self.name == "daphne":
            assert clients.get(self, "/bare/crash").status == 500
        token = f"settled-{uuid.uuid4().hex}"
        assert clients.get(self, f"/log?line={token}").status == 200
        wait_until(lambda: token in self.logged(since), f"{token} in the log", self)
        text = self.logged(since).partition(token)[0]
        return re.sub(
            r"ERROR \[daphne\.server\] Exception inside application: to the server\n"
            r".*?\nRuntimeError: to the server\n",
            "",
            text,
            flags=re.DOTALL,
        )

    def stop(self) -> int:
        """Send SIGTERM; return the exit status. A server that does not end in time is an error."""
        self.process.send_signal(signal.SIGTERM)
        return self.ended()

    def interrupt(self) -> None:
        """Send SIGINT to all its processes, as a terminal does for Ctrl-C."""
        os.killpg(self.process.pid, signal.SIGINT)

    def ended(self) -> int:
        """Wait for its end; return the exit status."""
        wait_until(lambda: self.process.poll() is not None, "its end", self)
        wait_until(self._left_nobody, "the end of its other processes", self)
        return self.process.returncode

    def kill(self) -> None:
        """End what is left of it."""
        if not self._left_nobody():
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(DEADLINE)

    def _left_nobody(self) -> bool:
        try:
            os.killpg(self.process.pid, 0)
        except ProcessLookupError:
            return True
        return False


@contextlib.contextmanager
def running(
    name: str,
    directory: Path,
    app: str = "tests.apps.serverapp:app",
    options: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
) -> Iterator[Server]:
    """Run the server ``name`` with ``app``; stop it at the end of the block and print its log.

    ``directory`` is where the log goes, ``options`` are added to the command, ``environ`` to the
    environment.
    """
    port = free_port()
    first, *arguments = COMMANDS[name].format(port=port, app=app).split()
    with started(name, [first, *options, *arguments], port, directory, environ) as server:
        yield server


@contextlib.contextmanager
def started(
    name: str,
    command: Sequence[str],
    port: int,
    directory: Path,
    environ: Mapping[str, str] | None = None,
    *,
    answers: Callable[[Server], bool] | None = None,
    pass_fds: Sequence[int] = (),
) -> Iterator[Server]:
    """Run ``python -m`` with ``command``, which is to serve on ``port``; else as ``running``.

    ``answers`` tells whether it is there, without it a page is asked for. ``pass_fds`` are the
    file descriptors that it inherits.
    """
    log = directory / f"{name}-{port}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=PROJECT,
            env={**os.environ, **(environ or {}), "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=pass_fds,
        )
    server = Server(name, port, process, log)
    try:
        wait_until(lambda: _is_up(server, answers or _answers), "the first answer", server)
        yield server
        if server.process.returncode is None:
            server.stop()
    finally:
        server.kill()
        print(f"--- the log of {name} ---\n{server.logged()}")


def _is_up(server: Server, answers: Callable[[Server], bool]) -> bool:
    if server.process.poll() is not None:
        raise AssertionError(f"{server.name} does not start:\n{server.logged()}")
    try:
        return answers(server)
    except OSError:
        return False


def _answers(server: Server) -> bool:
    return clients.get(server, "/").whole


def free_port() -> int:
    """A port that nobody listens on."""
    # Below those that the kernel gives to clients: none of them can take it meanwhile.
    while True:
        with socket.socket() as probe, contextlib.suppress(OSError):
            port = random.randrange(10000, 30000)
            probe.bind((HOST, port))
            return port


def wait_until(condition, what: str, server: Server, deadline: float = DEADLINE) -> None:
    """Wait until ``condition()`` is true; after the deadline, fail saying ``what`` did not come."""
    end = time.monotonic() + deadline
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"{server.name}: waited for {what} in vain\n{server.logged()}")
        time.sleep(0.02)
