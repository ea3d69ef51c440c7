"""The application of ``serverapp.py`` on every ASGI server."""

import asyncio
import json
import re
import signal
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed

from tests import clients
from tests.servers import COMMANDS, PROJECT, ROOT_PATH_OPTIONS, TRACEBACK, running, wait_until

UVICORN = {"uvicorn-websockets", "uvicorn-sansio", "uvicorn-wsproto"}
OTHERS = UVICORN | {"hypercorn", "granian"}

#: What servers cannot do. Each line is held against each server, so that one that learns it
#: fails; README.rst has the same table.
CANNOT = {
    "lifespan": {"daphne"},
    "status, headers and body of a refused websocket": {"daphne"},
    "headers of an accepted websocket": {"daphne"},
    "reason of a closed websocket": {"daphne"},
    "empty websocket messages": {"daphne"},
    "request bodies as they come": {"daphne"},
    "waiting for slow clients": {"daphne"},
    "connection broken off by an exception": {"daphne"},
    "trustworthy root path": {"daphne"},
    "root path taken off by a proxy": {"hypercorn", "granian"},
    "exit status 0 on SIGTERM": UVICORN,
}
MIB = 2**20


def check(server, what, able):
    """Hold ``able`` against the table."""
    assert able == (server.name not in CANNOT[what]), f"{server.name}: {what}: {able}"


@pytest.fixture(scope="module", params=COMMANDS)
def server(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp(request.param)
    download = directory / "download"
    download.write_bytes(b"".join(clients.blocks()))
    with running(request.param, directory, environ={"DOWNLOAD": str(download)}) as server:
        yield server


def state(server):
    return clients.get(server, "/state").json


def happened(server, what):
    return state(server).get(what, 0)


# The table.


def test_the_readme_has_the_table():
    columns = {"Daphne": {"daphne"}, "Uvicorn": UVICORN}
    columns |= {"Hypercorn": {"hypercorn"}, "Granian": {"granian"}}
    text = (PROJECT / "README.rst").read_text()
    head = re.search(r"^\\ .*  Daphne .*$", text, re.MULTILINE)
    assert head[0].split()[1:] == list(columns)
    shown = {}
    for line in text[head.end() :].splitlines()[2:]:
        if line.startswith("==="):
            break
        what, *answers = re.split(r" {2,}", line.strip())
        assert set(answers) <= {"yes", "no"}
        cannot = [columns[name] for name, can in zip(columns, answers, strict=True) if can == "no"]
        shown[what] = set().union(*cannot)
    assert shown == CANNOT


# Pages.


def test_a_page(server):
    answer = clients.get(server, "/")
    assert (answer.status, answer.body) == (200, b"A Pyramid page")
    assert clients.get(server, "/nothing").body == b"Pyramid has no such page"


def test_a_chunked_upload_is_read_by_a_view(server):
    blocks = list(clients.blocks(3))
    answer = clients.get(server, "/upload?name=chunked", method="POST", body=iter(blocks))
    assert answer.json == {"read": [65536] * 3, "length": str(3 * 65536), "coding": None}


@pytest.mark.parametrize("kind", ["generator", "file"])
def test_a_download_of_20_mib_arrives_whole(server, kind):
    answer = clients.get(server, f"/download/{kind}")
    assert (answer.status, answer.whole) == (200, True)
    assert answer.body == b"".join(clients.blocks())


def test_a_client_that_leaves_closes_the_response(server):
    with clients.raw(server) as connection:
        connection.sendall(b"GET /stream?name=x HTTP/1.1\r\nHost: localhost\r\n\r\n")
        clients.read_until(connection, b"tick")
        assert happened(server, "closed x") == 0
        clients.leave(connection)
    wait_until(lambda: happened(server, "closed x"), "close() of the response", server)
    assert happened(server, "closed x") == 1


@pytest.mark.parametrize(
    "framing",
    [
        b"Content-Length: 200000\r\n\r\n" + b"x" * 100000,
        b"Transfer-Encoding: chunked\r\n\r\n186a0\r\n" + b"x" * 100000 + b"\r\n",
    ],
    ids=["length", "chunked"],
)
def test_a_client_that_leaves_during_its_upload_calls_no_view(server, framing, request):
    name = request.node.callspec.id
    path = f"/upload?name={name}"
    since = server.position()
    with clients.raw(server) as connection:
        connection.sendall(f"POST {path} HTTP/1.1\r\nHost: localhost\r\n".encode() + framing)
        if server.name not in CANNOT["request bodies as they come"]:
            wait_until(lambda: happened(server, f"began {path}"), "the request", server)
        clients.leave(connection)
    began = 0 if server.name in CANNOT["request bodies as they come"] else 1
    wait_until(lambda: happened(server, f"ended {path}") == began, "the end", server)
    log = server.settled(since)
    after = state(server)
    check(server, "request bodies as they come", after.get(f"began {path}", 0) == 1)
    assert name not in after
    assert TRACEBACK not in log


def _standing_still(server, what):
    """How often ``what`` has happened once it no longer does."""
    seen = []

    def still():
        seen.append(happened(server, what))
        return seen[-1] and len(seen) > 20 and len(set(seen[-20:])) == 1

    wait_until(still, f"{what} to stand still", server)
    return seen[-1]


def _flood(server, path):
    """Take 1 MiB of ``path`` and then nothing more; return how many blocks are made meanwhile."""
    what = path.lstrip("/").replace("/", " ")
    with clients.raw(server, receive_buffer=65536) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        clients.read_bytes(connection, MIB)
        made = _standing_still(server, what)
        clients.leave(connection)
    return made


def test_a_slow_reader_is_waited_for(server):
    # 1 MiB was taken, 512 KiB are in the bridge, the rest in the buffers of server and kernel.
    assert _flood(server, "/flood") < clients.FLOOD // 4
    check(server, "waiting for slow clients", _flood(server, "/bare/flood") < clients.FLOOD // 4)


def test_many_connections_that_are_kept(server):
    load = clients.keep_alive_load(server, "/number?n={}", connections=64, requests=2000)
    assert asyncio.run(load) == {200: 2000, "wrong": 0}


def test_a_view_that_crashes(server):
    since = server.position()
    answer = clients.get(server, "/crash?message=view-crash")
    assert (answer.status, answer.whole) == (500, True)
    log = server.settled(since)
    assert log.count("RuntimeError: view-crash") == 1
    assert log.count(TRACEBACK) == 1


@pytest.mark.parametrize("query", ["", "&length=70000"], ids=["chunked", "length"])
def test_a_view_that_crashes_late_breaks_the_connection_off(server, query):
    since = server.position()
    answer = clients.get(server, f"/crash-late?message=late-crash{query}")
    assert (answer.status, answer.whole) == (200, False)
    log = server.settled(since)
    assert log.count("RuntimeError: late-crash") == 1


# Consumers.


def test_an_http_consumer(server):
    answer = clients.get(server, "/consumer/some")
    assert (answer.status, answer.body) == (200, b"some")


def test_an_http_consumer_that_crashes(server):
    since = server.position()
    answer = clients.get(server, "/consumer/crash?consumer-crash")
    assert (answer.status, answer.whole) == (500, True)
    log = server.settled(since)
    assert log.count("RuntimeError: consumer-crash") == 1
    assert log.count(TRACEBACK) == 1


def test_an_http_consumer_that_crashes_late_breaks_the_connection_off(server):
    since = server.position()
    answer = clients.get(server, "/consumer/crash-late?consumer-late")
    assert (answer.status, answer.whole) == (200, False)
    log = server.settled(since)
    assert log.count("RuntimeError: consumer-late") == 1


@pytest.mark.parametrize(
    "message", ["hello", b"\x00\xff", "é" * (MIB // 2), b"\xff" * MIB], ids=range(4)
)
def test_messages_are_echoed(server, message):
    with clients.websocket(server, "/ws") as websocket:
        websocket.send(message)
        assert websocket.recv(clients.DEADLINE) == message


@pytest.mark.parametrize("empty", ["", b""], ids=["text", "binary"])
def test_empty_messages(server, empty):
    with clients.websocket(server, "/ws") as websocket:
        websocket.send(empty)
        websocket.send("next")
        first = websocket.recv(clients.DEADLINE)
        assert first in (empty, "next")
        check(server, "empty websocket messages", first == empty)


def test_a_client_that_leaves_ends_its_consumer(server):
    before = happened(server, "echo left")
    clients.websocket(server, "/ws").close()
    wait_until(lambda: happened(server, "echo left") == before + 1, "the consumer", server)
    websocket = clients.websocket(server, "/ws")
    clients.leave(websocket.socket)
    wait_until(lambda: happened(server, "echo left") == before + 2, "the consumer", server)


def test_a_path_that_no_consumer_has(server):
    since = server.position()
    response = clients.denial(server, "/ws/nowhere")
    assert response.status_code == _denied(server, 404)
    log = server.settled(since)
    lines = [line for line in log.splitlines() if "[pyramid_asgi_consumers" in line]
    assert lines == [
        "INFO [pyramid_asgi_consumers.application] 404 for a handshake to '/ws/nowhere': no consumer"
    ]
    assert TRACEBACK not in log
    assert "ERROR" not in log


def test_origins(server):
    assert clients.denial(server, "/ws", origin="https://evil.example").status_code == 403
    own = f"http://{clients.HOST}:{server.port}"
    for path, origin in [("/ws", own), ("/ws/friends", "https://friend.example")]:
        with clients.websocket(server, path, origin=origin) as websocket:
            websocket.send("hello")
            assert websocket.recv(clients.DEADLINE) == "hello"


def test_a_limit(server):
    with clients.websocket(server, "/ws/limited"):
        assert clients.denial(server, "/ws/limited").status_code == _denied(server, 503)
    wait_until(lambda: _opens(server, "/ws/limited"), "the place that became free", server)


def _opens(server, path):
    try:
        clients.websocket(server, path).close()
    except clients.InvalidStatus:
        return False
    return True


def test_a_consumer_that_crashes_before_accept(server):
    since = server.position()
    response = clients.denial(server, "/ws/crash-early?early-crash")
    assert response.status_code == _denied(server, 500)
    log = server.settled(since)
    assert log.count("RuntimeError: early-crash") == 1
    assert log.count(TRACEBACK) == 1
    assert re.search(r"ERROR \[pyramid_asgi_consumers\S*\] .*/ws/crash-early.*crash_early", log)


def test_a_consumer_that_crashes_after_accept(server):
    since = server.position()
    with clients.websocket(server, "/ws/crash-accepted?accepted-crash") as websocket:
        websocket.send("go")
        assert clients.closed(websocket).code == 1011
    log = server.settled(since)
    assert log.count("RuntimeError: accepted-crash") == 1
    assert log.count(TRACEBACK) == 1


def test_an_http_exception_before_accept_is_the_denial(server):
    since = server.position()
    response = clients.denial(server, "/ws/denied/403")
    passed = (
        response.headers.get("X-Kind") == "test" and b"You may not" in response.body,
        clients.denial(server, "/ws/denied/402").status_code == 402,
    )
    assert response.status_code == 403
    assert passed in [(True, True), (False, False)]
    check(server, "status, headers and body of a refused websocket", all(passed))
    assert TRACEBACK not in server.settled(since)


def test_an_http_exception_after_accept_closes(server):
    since = server.position()
    with clients.websocket(server, "/ws/forbidden-later") as websocket:
        assert clients.closed(websocket).code == 4403
    assert TRACEBACK not in server.settled(since)


def test_what_a_consumer_accepts_with(server):
    with clients.websocket(server, "/ws/headers", subprotocols=["one", "two"]) as websocket:
        assert websocket.subprotocol == "two"
        headers = websocket.response.headers
        passed = headers.get_all("Set-Cookie") == ["a=1", "b=2"] and headers["X-Kind"] == "test"
        check(server, "headers of an accepted websocket", passed)
        close = clients.closed(websocket)
        assert close.code == 4321
        assert close.reason in ("", "enough")
        check(server, "reason of a closed websocket", close.reason == "enough")


# Third parties.


def test_a_starlette_endpoint(server):
    with clients.websocket(server, "/ws/starlette/lobby") as websocket:
        websocket.send("hello")
        assert websocket.recv(clients.DEADLINE) == "lobby: hello"


def test_a_channels_consumer(server):
    with clients.websocket(server, "/ws/channels/lobby") as websocket:
        websocket.send('["hello"]')
        answer = json.loads(websocket.recv(clients.DEADLINE))
    assert answer == {"room": "lobby", "content": ["hello"]}


def test_an_asgi_2_class(server):
    with clients.websocket(server, "/ws/asgi2") as websocket:
        websocket.send("hello")
        assert websocket.recv(clients.DEADLINE) == "hello"


# What the servers do by themselves, and would do to us if it were not for quirks.py.


def _denied(server, status):
    """What becomes of the ``status`` of a denial."""
    return (
        403 if server.name in CANNOT["status, headers and body of a refused websocket"] else status
    )


DENYING = sorted(OTHERS)


@pytest.mark.parametrize("status", [101, 103, 600, 999])
def test_a_status_that_is_none_of_a_denial_becomes_500(server, status):
    """A 1xx is forwarded by servers, or opens the websocket; above 599 they send nothing."""
    if server.name not in CANNOT["status, headers and body of a refused websocket"]:
        bare = clients.status_of_handshake(server, f"/bare/{status}")
        assert bare in (status, None, 500)
    since = server.position()
    assert clients.status_of_handshake(server, f"/ws/denied/{status}") == _denied(server, 500)
    assert TRACEBACK not in server.settled(since)
