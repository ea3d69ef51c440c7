"""The application of ``serverapp.py`` on every ASGI server."""

import asyncio
import http.client
import json
import re
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest
from websockets.frames import Close

from tests.support import clients
from tests.support.sent import FLOOD, MIB, blocks
from tests.support.servers import (
    COMMANDS,
    OLD_GRANIAN,
    PROJECT,
    ROOT_PATH_OPTIONS,
    TRACEBACK,
    running,
    wait_until,
)

UVICORN = {"uvicorn-websockets", "uvicorn-sansio", "uvicorn-wsproto"}

ACCEPT_HEADERS = "The headers of ``websocket.accept``"
DENIAL = "The status, headers and body of a refusal"
EARLY_UPLOADS = "An upload is read as it comes"
ENDS = "Contexts are left although a function goes on"
RESTART = "Websockets are closed with 1012 when it stops"
STOPPED = "Contexts are left although a websocket is open"
LATE_ERRORS = "A late error is logged with its exception"
LEFT_EARLY = "A websocket's client may leave a queue"
NOT_HELD_UP = "A client that reads nothing holds up no stop"

#: What servers cannot do. Each server is held to each line, so that one that learns it fails the
#: test; docs/servers.rst has the same table.
CANNOT = {
    "Startup and shutdown are told": {"daphne"},
    DENIAL: {"daphne", "gunicorn"},
    "A refusal is no error in the server's log": {"uvicorn-sansio"},
    ACCEPT_HEADERS: {"granian"},
    "Empty websocket messages": {"daphne"},
    EARLY_UPLOADS: {"daphne"},
    LEFT_EARLY: {"granian"},
    LATE_ERRORS: {"granian"},
    RESTART: {"hypercorn", "granian", "gunicorn"},
    STOPPED: {"gunicorn"},
    ENDS: {"granian", "gunicorn"},
    "Exit status 0 after SIGTERM": UVICORN,
    # See test_endless_servers.py.
    NOT_HELD_UP: {"hypercorn", "granian", "gunicorn"},
}

LATE = "A late error breaks the response off"
LATE_LOGGED = "A late error is logged"
LATE_LENGTH_LOGGED = "A late error is logged though the response is shorter than it says"

#: What servers cannot do where the application is inside something. Starlette's
#: ``BaseHTTPMiddleware`` ends a response whose application has raised as if it were whole, and
#: raises the error then; Daphne's connection is gone by that time, Gunicorn does not log it, and
#: what the others raise for a short response takes its place.
CANNOT_INSIDE = {
    "nothing": {},
    "wrapped": {},
    "base": {
        LATE: {*COMMANDS} - {"daphne"},
        LATE_LOGGED: {"gunicorn"},
        LATE_LENGTH_LOGGED: {"hypercorn", "gunicorn", *UVICORN},
    },
}


def check(server, what, able):
    """Hold ``able`` against the tables."""
    unable = CANNOT.get(what) or CANNOT_INSIDE[server.around].get(what, set())
    assert able == (server.name not in unable), f"{server.name}: {what}: {able}"


@pytest.fixture(scope="module")
def around(request):
    """What is around the application: the name of one of ``around.py``."""
    return getattr(request.module, "AROUND", "nothing")


@pytest.fixture(scope="module", params=COMMANDS)
def server(request, around, tmp_path_factory):
    directory = tmp_path_factory.mktemp(request.param)
    download = directory / "download"
    download.write_bytes(b"".join(blocks()))
    environ = {"DOWNLOAD": str(download), "AROUND": around}
    with running(request.param, directory, environ=environ) as server:
        server.around = around
        yield server


def state(server):
    return clients.get(server, "/state").json


def happened(server, what):
    return state(server).get(what, 0)


# The table.


def test_the_documentation_has_the_table():
    servers = {
        "Daphne": {"daphne"},
        "Uvicorn": UVICORN,
        "Uvicorn (sansio)": {"uvicorn-sansio"},
        "Hypercorn": {"hypercorn"},
        "Granian": {"granian"},
        "Gunicorn": {"gunicorn"},
    }
    page = (PROJECT / "docs" / "servers.rst").read_text()
    table = re.split(r"\nwhat +not on ", page)[1].split("\n===")[1]
    rows = (re.split(r"  +", line) for line in table.splitlines()[1:] if line[:1].strip())
    shown = {
        what: set().union(*(servers[name] for name in names.split(", "))) for what, names, _ in rows
    }
    assert shown == CANNOT


# Pages.


def test_a_page(server):
    answer = clients.get(server, "/")
    assert (answer.status, answer.body) == (200, b"A Pyramid page")
    assert clients.get(server, "/nothing").body == b"Pyramid has no such page"


# A GET request that declares no body is not waited for: those that do must be told from it.
@pytest.mark.parametrize("method", ["POST", "GET"])
def test_a_chunked_upload_is_read_by_a_view(server, method):
    chunks = list(blocks(3))
    answer = clients.get(server, "/upload?name=chunked", method=method, body=iter(chunks))
    assert answer.json == {"read": [65536] * 3, "length": str(3 * 65536), "coding": None}


@pytest.mark.parametrize("kind", ["generator", "file"])
def test_a_download_of_20_mib_arrives_whole(server, kind):
    answer = clients.get(server, f"/download/{kind}")
    assert (answer.status, answer.whole) == (200, True)
    assert answer.body == b"".join(blocks())


def test_a_client_that_leaves_closes_the_response(server):
    with clients.raw(server) as connection:
        connection.sendall(b"GET /stream?name=x HTTP/1.1\r\nHost: localhost\r\n\r\n")
        clients.read_until(connection, b"tick")
        assert happened(server, "closed x") == 0
        clients.leave(connection)
    wait_until(lambda: happened(server, "closed x"), "close() of the response", server)
    assert happened(server, "closed x") == 1


def test_async_views_wait_together_on_one_thread(server):
    with ThreadPoolExecutor(30) as threads:
        answers = list(threads.map(lambda _: clients.get(server, "/together"), range(30)))
    assert {answer.status for answer in answers} == {200}
    assert len({answer.body for answer in answers}) == 1


def test_a_client_that_leaves_cancels_its_async_view(server):
    since = server.position()
    with clients.raw(server) as connection:
        connection.sendall(b"GET /wait HTTP/1.1\r\nHost: localhost\r\n\r\n")
        wait_until(lambda: happened(server, "waits"), "the view", server)
        clients.leave(connection)
    wait_until(lambda: happened(server, "waits no longer"), "the end of the view", server)
    wait_until(lambda: happened(server, "ended /wait?"), "the end", server)
    assert TRACEBACK not in server.settled(since)


def test_a_client_that_leaves_before_its_response_closes_it_too(server):
    since = server.position()
    with clients.raw(server) as connection:
        connection.sendall(b"GET /late?name=late HTTP/1.1\r\nHost: localhost\r\n\r\n")
        wait_until(lambda: happened(server, "began /late?name=late"), "the request", server)
        clients.leave(connection)
    assert clients.get(server, "/").status == 200
    assert clients.get(server, "/release").status == 200
    wait_until(lambda: happened(server, "closed late"), "close() of the response", server)
    wait_until(lambda: happened(server, "ended /late?name=late"), "the end", server)
    assert happened(server, "closed late") == 1
    assert TRACEBACK not in server.settled(since)


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
        if server.name not in CANNOT[EARLY_UPLOADS]:
            wait_until(lambda: happened(server, f"began {path}"), "the request", server)
        clients.leave(connection)
    began = 0 if server.name in CANNOT[EARLY_UPLOADS] else 1
    wait_until(lambda: happened(server, f"ended {path}") == began, "the end", server)
    log = server.settled(since)
    after = state(server)
    check(server, EARLY_UPLOADS, after.get(f"began {path}", 0) == 1)
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
    """How many blocks of ``path`` are made while 1 MiB of it is taken; then take the rest."""
    with clients.raw(server, receive_buffer=65536) as connection:
        head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        connection.sendall(head.encode())
        clients.read_bytes(connection, MIB)
        made = _standing_still(server, path.lstrip("/").replace("/", " "))
        assert MIB + clients.read_to_end(connection) > FLOOD * 65536
    return made


def test_a_slow_reader_is_waited_for(server):
    # 1 MiB was taken, 512 KiB are in the bridge, the rest in the buffers of server and kernel.
    for path in ("/flood", "/consumer/flood"):
        assert _flood(server, path) < FLOOD // 4


def test_many_connections_that_are_kept(server):
    load = clients.keep_alive_load(server, "/number?n={}", connections=64, requests=2000)
    assert asyncio.run(load) == {200: 2000, "wrong": 0}


def test_a_view_that_crashes(server):
    since = server.position()
    answer = clients.get(server, "/crash?message=view-crash")
    assert (answer.status, answer.whole) == (500, True)
    log = server.settled(since)
    assert log.count("RuntimeError: view-crash") == 1
    assert log.count("ERROR") == 1


@pytest.mark.parametrize("query", ["", "&length=70000"], ids=["chunked", "length"])
def test_a_view_that_crashes_late_breaks_the_connection_off(server, query):
    since = server.position()
    answer = clients.get(server, f"/crash-late?message=late-crash{query}")
    if query:
        assert not answer.whole
    else:
        check(server, LATE, not answer.whole)
    log = server.settled(since)
    logged = LATE_LENGTH_LOGGED if query else LATE_LOGGED
    check(server, logged, log.count("RuntimeError: late-crash") == 1)


def ask(server, target, more=""):
    """Ask for ``target``, as it is written; return the answer's status and its body."""
    with clients.raw(server) as connection:
        request = f"GET {target} HTTP/1.1\r\nHost: other\r\nConnection: close\r\n{more}\r\n"
        connection.sendall(request.encode())
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        return answer.status, answer.read()


def test_a_target_in_absolute_form_counts_as_its_path(server):
    for scheme in ("http", "HTTPS"):
        status, body = ask(server, f"{scheme}://host.example:99/environ?q=1")
        environ = json.loads(body)
        assert (status, environ["PATH_INFO"], environ["QUERY_STRING"]) == (200, "/environ", "q=1")
        assert environ["url"] == "http://other/environ"
    assert ask(server, "http://host/consumer/some") == (200, b"some")
    # Uvicorn's parser takes no target without a path.
    expected = (400,) if server.name in UVICORN else (200, b"A Pyramid page")
    for target in ("http://host", "http://host?x=1"):
        assert ask(server, target)[: len(expected)] == expected


def test_a_handshake_in_absolute_form_counts_as_its_path(server):
    own = f"http://{clients.HOST}:{server.port}"
    for target in ("/ws?q=1", "/", "", "?q=1"):
        assert clients.handshake_status(server, own + target) == 101
    assert clients.handshake_status(server, f"{own}/ws/nowhere") == _denied(server, 404)


def test_the_host_of_a_target_in_absolute_form_lets_no_page_in(server):
    target, origin = "http://evil.example/ws", "Origin: http://evil.example"
    assert clients.handshake_status(server, target, origin) == _denied(server, 403)
    assert clients.handshake_status(server, target, f"Origin: http://{clients.HOST}") == 101


@pytest.mark.parametrize("target", ["http:///", "http:/environ", "host:80", "http://a b/environ"])
def test_a_target_that_is_neither_is_a_bad_request(server, target):
    assert ask(server, target)[0] == 400


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
    check(server, LATE, not answer.whole)
    log = server.settled(since)
    check(server, LATE_LOGGED, log.count("RuntimeError: consumer-late") == 1)


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
        check(server, "Empty websocket messages", first == empty)


def test_a_client_that_leaves_ends_its_consumer(server):
    before = happened(server, "echo left")
    with clients.websocket(server, "/ws"):
        pass
    wait_until(lambda: happened(server, "echo left") == before + 1, "the consumer", server)
    with clients.websocket(server, "/ws") as websocket:
        clients.leave(websocket.socket)
        wait_until(lambda: happened(server, "echo left") == before + 2, "the consumer", server)


def test_a_path_that_no_consumer_has(server):
    since = server.position()
    response = clients.denial(server, "/ws/nowhere")
    assert response.status_code == _denied(server, 404)
    log = server.settled(since)
    lines = re.findall(r"(\w+) \[pyramid_asgi_consumers.*\] (.*)", log)
    assert lines == [("INFO", "404 for a handshake to '/ws/nowhere': no consumer")]
    assert TRACEBACK not in log
    check(server, "A refusal is no error in the server's log", "ERROR" not in log)


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
    return clients.handshake_status(server, path) == 101


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
    check(server, DENIAL, all(passed))
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
        check(server, ACCEPT_HEADERS, passed)
        assert clients.closed(websocket) == Close(1013, "enough")


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


def test_a_starlette_application(server):
    answer = clients.get(server, "/starlette/page/some")
    assert answer.json == {"greeting": "Hello", "name": "some", "url": "/starlette/page/x"}
    assert clients.get(server, "/starlette/nothing").body == b"Not Found"
    with clients.websocket(server, "/starlette/ws/some") as websocket:
        answer = json.loads(websocket.recv(clients.DEADLINE))
    assert answer == {"greeting": "Hello", "name": "some"}
    evil = clients.denial(server, "/starlette/ws/some", origin="https://evil.example")
    assert evil.status_code == 403


# Lifespan.


def test_lifespan_contexts_are_entered_once_and_their_state_reaches_consumers(server):
    for _ in range(2):
        with clients.websocket(server, "/ws/where/lobby") as websocket:
            answer = json.loads(websocket.recv(clients.DEADLINE))
        assert answer == {
            "path_params": {"room": "lobby"},
            "answer": "second",
            "registry": "Registry",
        }
    after = state(server)
    entered = [what for what in after if what.endswith(" entered")]
    assert entered == ["starlette entered", "first entered", "second entered"]
    assert {after[what] for what in entered} == {1}
    order = list(after)
    told = order.index("starlette entered") < order.index("began /?")
    check(server, "Startup and shutdown are told", told)


@pytest.mark.parametrize("name", COMMANDS)
def test_it_stops_in_good_order(name, around, tmp_path):
    with running(name, tmp_path, environ={"AROUND": around}) as server:
        with (
            clients.websocket(server, "/ws") as websocket,
            clients.raw(server) as idle,
            clients.raw(server) as upload,
        ):
            idle.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            clients.read_until(idle, b"A Pyramid page")
            path = b"/upload?name=late"
            upload.sendall(b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: 8\r\n" % path)
            upload.sendall(b"\r\nfour")
            if name not in CANNOT[EARLY_UPLOADS]:
                began = f"began {path.decode()}"
                wait_until(lambda: happened(server, began), "the upload", server)
            server.process.send_signal(signal.SIGTERM)
            if name not in CANNOT[RESTART]:
                assert clients.closed(websocket).code == 1012
            upload.sendall(b"more")
            assert b" 200 " in clients.read_until(upload, b'"read":[8]')
            status = server.ended()
            closed = clients.closed(websocket)
        log = server.logged()
    check(server, RESTART, closed == Close(1012, ""))
    assert status in (0, -signal.SIGTERM)
    check(server, "Exit status 0 after SIGTERM", status == 0)
    left = re.findall(r"The (\w+) context is left|(Starlette)'s lifespan is left", log)
    check(server, STOPPED, left == [("second", ""), ("first", ""), ("", "Starlette")])
    # Hypercorn leaves tracebacks of its own.
    assert "pyramid_asgi_consumers" not in log


# Under a root path.


@pytest.fixture(scope="module", params=COMMANDS)
def mounted(request, around, tmp_path_factory):
    name = request.param
    options = [ROOT_PATH_OPTIONS[name], "/app"]
    environ = {"AROUND": around}
    with running(name, tmp_path_factory.mktemp(name), options=options, environ=environ) as server:
        yield server


@pytest.mark.parametrize("kept", [True, False], ids=["kept", "taken off by a proxy"])
def test_a_root_path(mounted, kept):
    prefix = "/app" if kept else ""
    if mounted.name in UVICORN and kept:
        # Uvicorn adds the root path to whatever comes.
        assert clients.get(mounted, "/app/environ").status == 404
        return
    answer = clients.get(mounted, f"{prefix}/environ?q=1").json
    assert answer == {
        "SCRIPT_NAME": "/app",
        "PATH_INFO": "/environ",
        "QUERY_STRING": "q=1",
        "SERVER_PORT": str(mounted.port),
        "REMOTE_PORT": answer["REMOTE_PORT"],
        "url": f"http://127.0.0.1:{mounted.port}/app/environ",
    }
    with clients.websocket(mounted, f"{prefix}/ws/where/lobby") as websocket:
        answer = json.loads(websocket.recv(clients.DEADLINE))
    assert answer["path_params"] == {"room": "lobby"}
    absolute = f"http://{clients.HOST}:{mounted.port}{prefix}/ws"
    assert clients.handshake_status(mounted, absolute) == 101
    assert ask(mounted, f"http://host{prefix}/consumer/some") == (200, b"some")
    answer = clients.get(mounted, f"{prefix}/starlette/page/some").json
    assert answer["url"] == "/app/starlette/page/x"


@pytest.mark.parametrize("target", ["/apphttp://evil.example/ws", "/app/http://evil.example/ws"])
def test_a_page_cannot_name_its_own_host_behind_the_root_path(mounted, target):
    refused = clients.denial(mounted, target, origin="http://evil.example")
    assert refused.status_code == _denied(mounted, 404)
    assert ask(mounted, "/apphttp://evil.example/environ")[0] == 404


# What the servers do by themselves, which quirks keeps from the application.


def _denied(server, status):
    """What becomes of the ``status`` of a denial."""
    return 403 if server.name in CANNOT[DENIAL] else status


@pytest.mark.parametrize("status", [101, 103, 499, 600])
def test_a_status_that_some_server_cannot_send_as_a_denial(server, status):
    expected = status if 200 <= status <= 599 else 500
    if server.name == "uvicorn-websockets" and status == 499:
        expected = 400
    since = server.position()
    assert clients.handshake_status(server, f"/ws/denied/{status}") == _denied(server, expected)
    assert TRACEBACK not in server.settled(since)


def test_a_denial_that_repeats_a_header(server):
    """See ``tests/quirks/test_granian.py`` for what Granian does with it."""
    response = clients.denial(server, "/ws/denied/403")
    cookies = response.headers.get_all("Set-Cookie")
    if server.name not in CANNOT[DENIAL]:
        old = server.name == "granian" and OLD_GRANIAN
        assert cookies == (["a=1"] if old else ["a=1", "b=2"])
    assert clients.get(server, "/").status == 200


def test_a_root_path_that_a_client_states(server):
    headers = {"Daphne-Root-Path": "/ws"}
    stated = clients.get(server, "/bare/root-path", headers=headers).body == b"/ws"
    assert stated == (server.name == "daphne")
    assert clients.get(server, "/ws/environ", headers=headers).status == 404
    assert clients.get(server, "/environ", headers=headers).json["SCRIPT_NAME"] == ""
    denial = clients.denial(server, "/ws/ws", additional_headers=headers)
    assert denial.status_code == _denied(server, 404)


def test_ports_are_text_to_applications(server):
    given = clients.get(server, "/bare/ports").body
    assert given == (b"str str" if server.name == "granian" else b"int int")
    with clients.raw(server) as connection:
        own = connection.getsockname()[1]
        connection.sendall(b"GET /environ HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = clients.read_until(connection, b"}")
    environ = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert (environ["REMOTE_PORT"], environ["SERVER_PORT"]) == (str(own), str(server.port))


def test_the_accept_and_close_of_the_servers_themselves(server):
    with clients.websocket(server, "/bare/accept?x-kind=test") as websocket:
        kind = websocket.response.headers.get("X-Kind")
        assert kind == (None if server.name in ("daphne", "granian") else "test")
        reason = "" if server.name == "daphne" else "enough"
        assert clients.closed(websocket) == Close(4321, reason)


#: What becomes of the status of a denial.
BARE_DENIALS = {
    "uvicorn-websockets": {101: 101, 103: 103, 499: 500, 600: 500},
    "uvicorn-sansio": {101: 101, 103: 103, 499: 499, 600: 500},
    "uvicorn-wsproto": {101: None, 103: None, 499: 499, 600: 500},
    "hypercorn": {101: 101, 103: 103, 499: 499, 600: 600},
    "granian": {101: 101, 103: 500, 499: 499, 600: 600},
}


def test_the_denials_of_the_servers_themselves(server):
    if server.name not in CANNOT[DENIAL]:
        expected = BARE_DENIALS[server.name]
        came = {status: clients.handshake_status(server, f"/bare/{status}") for status in expected}
        assert came == expected


# The means of these tests.


def test_a_server_that_does_not_start_is_a_failure(tmp_path):
    with pytest.raises(AssertionError, match="uvicorn-sansio does not start:(?s:.*)nothing"):
        running("uvicorn-sansio", tmp_path, app="tests.apps.serverapp:nothing").__enter__()


def test_a_server_does_not_outlive_a_failing_test(tmp_path):
    with pytest.raises(AssertionError, match="uvicorn-sansio: waited for rain in vain"):
        with running("uvicorn-sansio", tmp_path) as server:
            wait_until(lambda: False, "rain", server, deadline=0)
    assert server.process.returncode == -signal.SIGKILL
    with pytest.raises(ConnectionRefusedError):
        clients.get(server, "/")
