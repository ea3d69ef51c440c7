"""The servers under ``pserve``: what they serve, how they log and stop."""

import re
import signal
import socket
import subprocess
import sys
from functools import partial

import pytest

from tests.apps.pserveapp import write_ini
from tests.servers.test_stopping_servers import stubborn
from tests.support import clients
from tests.support.pserve import SERVERS, WRONG, in_thread, listening, pserve
from tests.support.servers import DEADLINE, HOST, PROJECT, TRACEBACK, free_port, wait_until


@pytest.fixture(scope="module", params=SERVERS)
def server(request, tmp_path_factory):
    with pserve(request.param, tmp_path_factory.mktemp(request.param)) as server:
        yield server


def test_a_page_and_a_websocket(server):
    assert clients.get(server, "/").body == b"The first page"
    with clients.websocket(server, "/ws") as websocket:
        websocket.send("hello")
        assert websocket.recv(DEADLINE) == "hello"
    with clients.websocket(server, "/ticking") as websocket:
        assert websocket.recv(DEADLINE) == "True"


def test_the_ini_says_how_to_log(server):
    since = server.position()
    assert clients.get(server, "/logged").status == 404
    access = re.compile(rf"^INFO\|{server.name}\.access\|.*GET /logged", re.MULTILINE)
    wait_until(lambda: access.search(server.logged(since)), "the access", server)
    lines = server.logged().splitlines()
    assert "INFO|pserveapp|The context is entered" in lines
    others = [line for line in lines if not re.match(r"[A-Z]+\|", line)]
    assert [line for line in others if not line.startswith("Starting server in PID")] == []


@pytest.mark.parametrize("name", SERVERS)
def test_a_request_finishes_and_a_websocket_is_closed_when_it_stops(name, tmp_path):
    with pserve(name, tmp_path) as server:
        with (
            clients.websocket(server, "/ws") as websocket,
            clients.websocket(server, "/ticking") as ticking,
            in_thread(partial(clients.get, server, "/slow")) as answers,
        ):
            wait_until(lambda: "slow began" in server.logged(), "the request", server)
            server.process.send_signal(signal.SIGTERM)
            assert clients.closed(websocket).code == 1012
            assert clients.closed(ticking).code == 1012
            (tmp_path / "gate").touch()
        assert (answers[0].status, answers[0].body) == (200, b"slow answer")
        status = server.ended()
        log = server.logged()
    # Uvicorn dies of the signal, in good order.
    assert status == (-signal.SIGTERM if name == "uvicorn" else 0)
    assert "The context is left" in log
    assert TRACEBACK not in log


GRACE = {
    "daphne": "application-close-timeout",
    "uvicorn": "timeout-graceful-shutdown",
    "hypercorn": "graceful-timeout",
}


@pytest.mark.once
@pytest.mark.parametrize("name", SERVERS)
def test_clients_that_neither_read_nor_write_keep_it_for_a_time(name, tmp_path):
    port = free_port()
    options = {**listening(name, port), GRACE[name]: 1}
    with pserve(name, tmp_path, options=options, port=port) as server:
        with clients.raw(server, receive_buffer=4096) as reader, clients.raw(server) as writer:
            reader.sendall(b"GET /flood HTTP/1.1\r\nHost: localhost\r\n\r\n")
            clients.read_until(reader, b"xxx")
            writer.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n")
            with clients.websocket(server, "/ws") as websocket:
                server.process.send_signal(signal.SIGTERM)
                assert clients.closed(websocket).code == 1012
            server.ended()
        assert "The context is left" in server.logged()


@pytest.mark.parametrize("name", SERVERS)
def test_it_stops_though_cancellations_are_swallowed(name, tmp_path):
    port = free_port()
    options = {**listening(name, port), GRACE[name]: 1}
    with pserve(name, tmp_path, options=options, port=port, app="errorsapp") as server:
        with stubborn(server):
            server.stop()
        log = server.logged()
    assert "The context is left" in log
    assert "destroyed" not in log


@pytest.mark.once
@pytest.mark.parametrize("name", SERVERS)
def test_a_change_restarts_it(name, tmp_path):
    with pserve(name, tmp_path, "--reload") as server:
        with clients.websocket(server, "/ws") as websocket:
            ini = tmp_path / "test.ini"

            def changed():
                # Until it is watched.
                ini.write_text(ini.read_text().replace("page = first", "page = second"))
                return "test.ini changed; reloading" in server.logged()

            wait_until(changed, "the reload", server)
            assert clients.closed(websocket).code == 1012
        wait_until(partial(serves_second_page, server), "the new page", server)


def serves_second_page(server):
    try:
        return clients.get(server, "/").body == b"The second page"
    except ConnectionRefusedError:
        return False


def page_over_unix_socket(path, server):
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(DEADLINE)
        connection.connect(str(path))
        connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        return clients.read_until(connection, b"The first page")


@pytest.mark.once
@pytest.mark.parametrize("name", SERVERS)
def test_a_unix_socket(name, tmp_path):
    path = tmp_path / "socket"
    options = {
        "daphne": {"unix-socket": path},
        "uvicorn": {"uds": path},
        "hypercorn": {"bind": f"unix:{path}"},
    }[name]
    answers = partial(page_over_unix_socket, path)
    with pserve(name, tmp_path, options=options, answers=answers) as server:
        assert page_over_unix_socket(path, server)


@pytest.mark.once
@pytest.mark.parametrize("name", SERVERS)
def test_a_file_descriptor(name, tmp_path):
    with socket.create_server((HOST, 0)) as listener:
        number = listener.fileno()
        options = {"bind": f"fd://{number}"} if name == "hypercorn" else {"fd": number}
        port = listener.getsockname()[1]
        with pserve(name, tmp_path, options=options, port=port, pass_fds=[number]) as server:
            assert clients.get(server, "/").body == b"The first page"


def test_hypercorn_stops_in_good_order_after_max_requests(tmp_path):
    port = free_port()
    options = {**listening("hypercorn", port), "max_requests": 2}
    with pserve("hypercorn", tmp_path, options=options, port=port) as server:
        with clients.websocket(server, "/ws") as websocket:
            assert clients.get(server, "/").status == 200
            assert clients.closed(websocket).code == 1012
        assert server.ended() == 0
        assert "The context is left" in server.logged()


@pytest.mark.once
@pytest.mark.parametrize("kind", ["pipeline", "composite"])
def test_a_pipeline_or_a_composite_is_refused(kind, tmp_path):
    ini = write_ini(tmp_path / "test.ini", "uvicorn")
    app = "call:tests.apps.pserveapp"
    around = {
        "pipeline": f"pipeline = around app\n[filter:around]\nuse = {app}:around",
        "composite": f"use = {app}:composite",
    }
    text = ini.read_text().replace("[app:main]", "[app:app]")
    ini.write_text(f"{text}\n[{kind}:main]\n{around[kind]}\n")
    command = [sys.executable, "-W", "ignore", "-m", "pyramid.scripts.pserve", str(ini)]
    done = subprocess.run(
        command, cwd=PROJECT, capture_output=True, text=True, timeout=6 * DEADLINE
    )
    assert done.returncode == 1
    message = done.stderr.splitlines()[-1]
    expected = rf"{WRONG}uvicorn serves what config\.make_asgi_app\(\) returns, not <function "
    assert re.match(expected, message), message
