"""Responses without an end, while the server stops: see ``endlessapp.py``.

What servers wait for at most is a minute here, or for ever, as is the default of some: nothing of
that may pass.
"""

import contextlib
import http.client
import logging
import re
import signal
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module

import pytest

from pyramid_asgi_consumers.testing import serving
from tests.servers.test_servers import CANNOT, NOT_HELD_UP, check
from tests.support import clients
from tests.support.pserve import SERVERS, listening, pserve
from tests.support.servers import DEADLINE, HOST, TRACEBACK, free_port, started, wait_until

pytestmark = pytest.mark.streams

APP = "tests.apps.endlessapp:app"

UVICORN = "uvicorn --host 127.0.0.1 --port {port} "
DAPHNE = "daphne --bind 127.0.0.1 --port {port} --application-close-timeout 60 "
HYPERCORN = "hypercorn --bind 127.0.0.1:{port} --graceful-timeout 60 "
GRANIAN = "granian --host 127.0.0.1 --port {port} --interface asgi "
GUNICORN = "gunicorn --bind 127.0.0.1:{port} --graceful-timeout 60 --no-control-socket "
ASGI = GUNICORN + "--worker-class asgi "

COMMANDS = {
    "uvicorn": UVICORN,
    "uvicorn with asyncio": UVICORN + "--loop asyncio --http h11 ",
    "uvicorn with workers": UVICORN + "--workers 2 ",
    "daphne": DAPHNE,
    "hypercorn": HYPERCORN,
    "hypercorn in one process": HYPERCORN + "--workers 0 ",
    "granian": GRANIAN,
    "granian with workers": GRANIAN + "--workers 2 --loop asyncio ",
    "gunicorn": ASGI,
    "gunicorn with workers": ASGI + "--workers 2 ",
    "gunicorn with uvicorn": GUNICORN + "--worker-class uvicorn_worker.UvicornWorker ",
}

#: So many requests a worker answers here before it is replaced.
MOST = 20

RECYCLED = {
    "uvicorn": UVICORN + f"--workers 2 --limit-max-requests {MOST} ",
    "hypercorn": HYPERCORN + f"--max-requests {MOST} ",
    # A worker of its that is told to stop while it starts does not hear that.
    "gunicorn": ASGI + f"--max-requests {MOST} ",
    "gunicorn with uvicorn": GUNICORN
    + f"--worker-class uvicorn_worker.UvicornWorker --max-requests {MOST} ",
}


@contextlib.contextmanager
def running(name, command, directory, app=APP):
    """Run ``command`` with ``app``; wait for all of its workers."""
    port = free_port()
    command = (command + app).format(port=port).split()
    with started(name, command, port, directory) as server:
        workers = 2 if "--workers 2" in " ".join(command) else 1
        processes = set()

        def are_there():
            processes.add(clients.get(server, "/").body)
            return len(processes) == workers

        wait_until(are_there, f"its {workers} workers", server)
        yield server


@pytest.fixture
def app():
    """The application itself; the logging that it sets up is undone."""
    handlers, level = logging.root.handlers[:], logging.root.level
    try:
        return import_module("tests.apps.endlessapp").app
    finally:
        logging.root.handlers[:] = handlers
        logging.root.setLevel(level)


#: What ``http.client`` raises for a response that is not whole.
BROKEN = (http.client.IncompleteRead, ConnectionResetError)


class Streams:
    """What a client reads that has opened some of the endless responses of ``server``."""

    #: What each has after its process, in the end.
    PATHS = {
        "/silent": rb"(tick\n)*the end",
        "/ticking": rb"(tick\n)*the end",
        "/events": rb"\n(data: tick\n\n)*retry: \d+\n\n",
        "/relayed": rb"\nid: \S+\n\nretry: \d+\n\n",
        "/generated": None,
        "/body": None,
    }

    #: Nobody knows what is missing there: so they do not end as if they were whole.
    BROKEN_OFF = ("/generated", "/body")

    def __init__(self, server, stack):
        #: Those that have opened them.
        self.processes = set()
        self._responses = []
        for path in self.PATHS:
            connection = http.client.HTTPConnection(HOST, server.port, timeout=DEADLINE)
            stack.callback(connection.close)
            connection.request("GET", path)
            response = connection.getresponse()
            self._responses.append(response)
            self.processes.add(response.readline().strip().removeprefix(b"data: "))

    def check_end(self):
        """They end, as what is whole does or not."""
        for (path, rest), response in zip(self.PATHS.items(), self._responses, strict=True):
            if path in self.BROKEN_OFF:
                # Daphne resets the connection.
                with pytest.raises(BROKEN):
                    response.read()
            else:
                read = response.read()
                assert re.fullmatch(rest, read), read

    def read_to_their_end(self):
        """They end, whichever way."""
        for response in self._responses:
            with contextlib.suppress(*BROKEN):
                response.read()

    def check_that_they_go_on(self):
        """They go on for half a second."""
        for path, response in zip(self.PATHS, self._responses, strict=True):
            if path == "/ticking":
                assert [response.readline() for _ in range(50)] == [b"tick\n"] * 50


@contextlib.contextmanager
def opened(server):
    with contextlib.ExitStack() as stack:
        yield Streams(server, stack)


def check_log(server):
    log = server.logged()
    for path in Streams.PATHS:
        assert log.count(f"{path} is left") == 1
    assert TRACEBACK not in log
    assert log.count("is broken off: The response had no end yet") == len(Streams.BROKEN_OFF)


@pytest.mark.parametrize("name", COMMANDS)
def test_they_end_on_sigterm_and_hold_nothing_up(name, tmp_path):
    with running(name, COMMANDS[name], tmp_path) as server:
        with opened(server) as streams:
            server.process.send_signal(signal.SIGTERM)
            streams.check_end()
            status = server.ended()
        check_log(server)
    # In one process Uvicorn dies of the signal, in good order.
    dies = name in ("uvicorn", "uvicorn with asyncio")
    assert status == (-signal.SIGTERM if dies else 0)


@pytest.mark.parametrize(
    "tell",
    [lambda server: server.process.send_signal(signal.SIGTERM), lambda server: server.interrupt()],
    ids=["SIGTERM", "SIGINT"],
)
def test_they_hold_no_workers_of_hypercorn_up(tell, tmp_path):
    # As soon as one of its workers has ended, Hypercorn 0.18 kills the others.
    command = HYPERCORN + "--workers 2 --worker-class uvloop "
    with running("hypercorn", command, tmp_path) as server:
        with opened(server) as streams:
            tell(server)
            streams.read_to_their_end()
            assert server.ended() == 0


@pytest.mark.parametrize("name", ["uvicorn", "daphne", "hypercorn", "granian", "gunicorn"])
def test_they_end_within_what_others_put_around_them(name, tmp_path):
    app = "tests.apps.endlessapp:mounted"
    with running(name, COMMANDS[name], tmp_path, app) as server:
        with opened(server) as streams:
            server.process.send_signal(signal.SIGTERM)
            streams.check_end()
            server.ended()
        check_log(server)


@pytest.mark.parametrize("name", COMMANDS)
def test_they_end_on_ctrl_c_and_hold_nothing_up(name, tmp_path):
    with running(name, COMMANDS[name], tmp_path) as server:
        with opened(server) as streams:
            server.interrupt()
            streams.check_end()
            server.ended()
        check_log(server)


@pytest.mark.parametrize(
    "name, app, path",
    [
        ("uvicorn with asyncio", APP, "/flood"),
        ("uvicorn", "tests.apps.endlessapp:mounted", "/flooding"),
        ("gunicorn with uvicorn", APP, "/flooding"),
    ],
)
def test_a_client_that_takes_nothing_does_not_hold_up_uvicorn(name, app, path, tmp_path):
    with running(name, COMMANDS[name], tmp_path, app) as server, reading_nothing(server, path):
        server.process.send_signal(signal.SIGTERM)
        server.ended()
        assert TRACEBACK not in server.logged()


@pytest.mark.parametrize("name", ["uvicorn", "daphne", "hypercorn", "granian", "gunicorn"])
def test_who_is_held_up_by_a_client_that_takes_nothing(name, tmp_path):
    with running(name, COMMANDS[name], tmp_path) as server, reading_nothing(server, "/flooding"):
        server.name = name
        server.process.send_signal(signal.SIGTERM)
        # Who is held up waits for a minute at least; the others end in one second, and may be slow.
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.process.wait(3 if name in CANNOT[NOT_HELD_UP] else DEADLINE)
        check(server, NOT_HELD_UP, server.process.poll() is not None)
        server.kill()


@contextlib.contextmanager
def reading_nothing(server, path):
    """A client that asks for ``path``, and reads no more than its kernel does."""
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect((HOST, server.port))
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        wait_until(lambda: f"{path} waits" in server.logged(), "a full connection", server)
        yield


def ask_until_ended(server, streams):
    """Ask for pages, so that workers are replaced, until the ``streams`` have ended."""
    with ThreadPoolExecutor() as pool:
        ended = pool.submit(streams.check_end)

        def is_ended():
            # While one worker is replaced by another, nobody may listen.
            with contextlib.suppress(OSError):
                clients.get(server, "/")
            return ended.done()

        wait_until(is_ended, "the end of the streams", server)
        ended.result()


def others(server, streams):
    """The process that answers now, if it is another one than those of ``streams``."""
    processes = set()
    with contextlib.suppress(OSError):
        processes.add(clients.get(server, "/").body)
    # Of one that is being replaced nothing may come.
    return processes - streams.processes - {b""}


@pytest.mark.parametrize("name", RECYCLED)
def test_they_end_with_their_worker_which_is_replaced(name, tmp_path):
    with running(name, RECYCLED[name], tmp_path) as server, opened(server) as streams:
        ask_until_ended(server, streams)
        wait_until(lambda: others(server, streams), "another process", server)
        check_log(server)


def test_they_end_with_uvicorn_that_has_served_all_it_was_to(tmp_path):
    command = UVICORN + f"--limit-max-requests {MOST} "
    with running("uvicorn", command, tmp_path) as server:
        with opened(server) as streams:
            ask_until_ended(server, streams)
            assert server.ended() == 0
        check_log(server)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
@pytest.mark.parametrize("name", SERVERS)
def test_they_end_under_pserve(name, number, tmp_path):
    with pserve(name, tmp_path, app="endlessapp") as server:
        with opened(server) as streams:
            server.process.send_signal(number)
            streams.check_end()
            server.ended()
        check_log(server)


@pytest.mark.parametrize("name", SERVERS)
def test_they_end_as_pserve_restarts_on_a_change(name, tmp_path):
    with pserve(name, tmp_path, "--reload", app="endlessapp") as server:
        with opened(server) as streams, ThreadPoolExecutor() as pool:
            ended = pool.submit(streams.check_end)
            ini = tmp_path / "test.ini"

            def is_ended():
                # Until it is watched.
                ini.write_text(ini.read_text())
                return ended.done()

            wait_until(is_ended, "the end of the streams", server)
            ended.result()
            wait_until(lambda: others(server, streams), "another process", server)


@pytest.mark.parametrize(
    ("name", "option"), [("uvicorn", "limit_max_requests"), ("hypercorn", "max_requests")]
)
def test_they_end_under_pserve_that_has_served_all_it_was_to(name, option, tmp_path):
    port = free_port()
    options = {**listening(name, port), option: MOST}
    with pserve(name, tmp_path, options=options, port=port, app="endlessapp") as server:
        with opened(server) as streams:
            ask_until_ended(server, streams)
            assert server.ended() == 0
        check_log(server)


@pytest.mark.parametrize("name", SERVERS)
def test_they_end_with_the_block_of_serving(app, name):
    with contextlib.ExitStack() as stack:
        with serving(app, name) as server:
            streams = Streams(server, stack)
        streams.check_end()


@pytest.mark.parametrize("name", SERVERS)
def test_they_go_on_where_another_server_stops(app, name):
    with contextlib.ExitStack() as stack:
        with serving(app, name) as server:
            with serving(app, name) as other:
                streams = Streams(server, stack)
                others = Streams(other, stack)
            others.check_end()
            streams.check_that_they_go_on()
        streams.check_end()
