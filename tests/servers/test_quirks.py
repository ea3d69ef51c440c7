"""What happens on servers without ``quirks.py``, where it ends the server; the rest of it."""

import asyncio
import sys
from functools import partial
from importlib import import_module
from types import MethodType, SimpleNamespace

import pytest
from hypercorn.protocol.ws_stream import ASGIWebsocketState

from pyramid_asgi_consumers import quirks
from tests.support import clients
from tests.support.servers import OLD_GRANIAN, running, wait_until

GRANIAN = {
    "type": "websocket",
    "extensions": {"websocket.http.response": {}, "http.response.pathsend": {}},
    "asgi": {"version": "3.0", "spec_version": "2.3"},
}
WSGI_CRASH = "/crash-late?message=late"
CONSUMER_CRASH = "/consumer/crash-late?late"


@pytest.mark.parametrize("path", [WSGI_CRASH, CONSUMER_CRASH], ids=["view", "consumer"])
def test_daphne_goes_on_after_a_late_crash(path, tmp_path):
    with running("daphne", tmp_path) as server:
        assert not clients.get(server, path).whole
        # The server itself answers this, when it looks after its applications.
        answer = clients.get(server, "/bare/crash")
        assert (answer.status, answer.whole) == (500, True)


def test_daphne_by_itself_stops_looking_after_its_applications(tmp_path):
    options = ["--verbosity", "2"]
    with running("daphne", tmp_path, options=options) as server, clients.raw(server) as connection:
        connection.sendall(b"GET /bare/crash-late HTTP/1.1\r\nHost: localhost\r\n\r\n")
        clients.read_until(connection, clients.FILLER[-16:])
        # The exception ends the timed call that would have set the next one.
        error = "ValueError: HTTP response has already been started"
        wait_until(lambda: error in server.logged(), "what ends it", server)
        assert "in application_checker" in server.logged()


def test_an_old_granian_by_itself_dies_of_a_denial_that_repeats_a_header(tmp_path):
    with running("granian", tmp_path) as server:
        status = clients.handshake_status(server, "/bare/403?vary=a&vary=b")
        assert status == (None if OLD_GRANIAN else 403)
        end = "Unexpected exit from worker-1"
        wait_until(lambda: (end in server.logged()) is OLD_GRANIAN, "its end", server)


async def test_granian_gets_no_close_after_a_disconnect():
    """What it does with one, one time in ten when it stops under load: a worker's panic."""
    came = iter(["websocket.receive", "websocket.disconnect"])
    sent = []

    async def receive():
        return {"type": next(came)}

    async def send(message):
        sent.append(message["type"])

    own_receive, own_send = quirks.served_by(GRANIAN, send).websocket(receive, send)
    close = {"type": "websocket.close"}
    for number, kind in enumerate(["websocket.receive", "websocket.disconnect"]):
        assert await own_receive() == {"type": kind}
        await own_send(close)
        await own_send({"type": "websocket.send"})
        assert sent == ["websocket.close", *["websocket.send"] * (number + 1)]


@pytest.mark.parametrize("version", ["2.8.7", "2.8", None])
def test_repeated_headers_are_merged_for_an_old_granian_alone(version, monkeypatch):
    monkeypatch.setitem(sys.modules, "granian", version and SimpleNamespace(__version__=version))
    headers = [(b"Vary", b"a"), (b"vary", b"b"), (b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")]
    merged = [(b"vary", b"a, b"), (b"set-cookie", b"a=1")]
    assert quirks.served_by(GRANIAN, None).denial_headers(headers) == merged
    other = {**GRANIAN, "extensions": {"websocket.http.response": {}}}
    assert quirks.served_by(other, None).denial_headers(headers) == headers


@pytest.mark.parametrize("version", ["2.8.9", "2.10.0", "3.0.0rc1"])
def test_repeated_headers_are_left_to_a_later_granian(version, monkeypatch):
    monkeypatch.setitem(sys.modules, "granian", SimpleNamespace(__version__=version))
    headers = [(b"vary", b"a"), (b"vary", b"b")]
    assert quirks.served_by(GRANIAN, None).denial_headers(headers) == headers


@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_where_daphne_is_only_imported_nothing_is_done_for_it(kind):
    import_module("daphne.server")
    scope = {"type": kind, "asgi": {"version": "3.0"}, "root_path": "/app"}
    server = quirks.served_by(scope, partial(print))
    assert server is quirks.PLAIN
    assert server.root_path(scope) == "/app"
    assert not server.break_off()
    assert server.paced(print) is print
    assert server.websocket(None, print) == (None, print)


def test_what_serves_a_connection_is_looked_for_once():
    server = quirks.Server()
    assert quirks.served_by({quirks.SERVED_BY: server}, None) is server


@pytest.mark.parametrize(
    ("stated", "given", "path", "trusted"),
    [
        ("/configured", "/configured", "/page", "/configured"),
        ("/configured", "/configured/outer", "/outer/page", "/configured/outer"),
        ("/evil", "/evil", "/page", "/configured"),
        ("/evil", "/evil/outer", "/outer/page", "/configured/outer"),
        ("/evil", "/evil/outer", "/outer", "/configured/outer"),
        ("/evil/", "/evil//outer", "/outer/page", "/configured/outer"),
        ("/evil", "/outer", "/outer/page", "/configured"),
        ("/out", "/outer", "/outer/page", "/configured"),
        ("/outer", "/outer/mine", "/page", "/configured"),
    ],
)
def test_of_daphnes_root_path_what_the_client_states_is_taken_off(stated, given, path, trusted):
    server = SimpleNamespace(root_path="/configured")
    daphne = quirks.Daphne(SimpleNamespace(root_path=stated, server=server))
    assert daphne.root_path({"root_path": given, "path": path}) == trusted


def test_a_root_path_from_another_application_of_ours_is_trusted():
    server = SimpleNamespace(root_path="")
    daphne = quirks.Daphne(SimpleNamespace(root_path="/evil", server=server))
    assert daphne.root_path({"root_path": "/outer", quirks.SERVED_BY: daphne}) == "/outer"


def test_daphne_refuses_a_line_break_in_a_header_of_accept():
    message = {"type": "websocket.accept", "headers": [(b"x-kind", b"a\r\nx-other: b")]}
    daphne = quirks.Daphne(SimpleNamespace())
    with pytest.raises(ValueError, match="The header b'x-kind' has a line break"):
        daphne._handle_reply(message)


def test_daphne_refuses_a_subprotocol_that_is_not_offered():
    daphne = quirks.Daphne(SimpleNamespace(websocket_protocols=["chat"]))
    with pytest.raises(ValueError, match="does not offer the subprotocol 'other'"):
        daphne._handle_reply({"type": "websocket.accept", "subprotocol": "other"})


@pytest.mark.parametrize(("written", "started"), [(0, False), (1, True)])
def test_a_response_that_daphne_refused_can_begin_anew_until_it_was_written(written, started):
    protocol = SimpleNamespace(_response_started=True, startedWriting=written, responseHeaders={})
    quirks.Daphne(protocol).refused(None)
    assert protocol._response_started is started


async def test_hypercorn_s_stream_is_looked_for_where_it_is():
    stream = type("WSStream", (), {"__module__": "hypercorn.protocol.ws_stream"})()
    stream.closed = True

    async def by_hypercorn(send):
        # Middleware has wrapped it.
        return quirks.Hypercorn().has_left(print)

    bound = MethodType(print, stream)
    assert quirks.Hypercorn().has_left(bound)
    assert await asyncio.create_task(by_hypercorn(bound))
    assert not quirks.Hypercorn().has_left(print)
    quirks.Hypercorn().refused(print)
    stream.state = ASGIWebsocketState.CONNECTED
    quirks.Hypercorn().refused(bound)
    assert stream.state is ASGIWebsocketState.HANDSHAKE


async def test_what_uvicorn_puts_before_a_target_is_its_own_alone():
    class Protocol:
        root_path = "/app"
        scope = {"path": "/apphttp://host/ws"}

        async def run_asgi(self, scope):
            return quirks.put_before(scope)

    async def by_uvicorn(path):
        return await asyncio.create_task(Protocol().run_asgi({"path": path}))

    assert await by_uvicorn("/apphttp://host/ws") == ""
    Protocol.__module__ = "uvicorn.protocols.websockets.wsproto_impl"
    assert await by_uvicorn("/apphttp://host/ws") == "/app"
    # Who changes the path may have taken the root path off.
    assert await by_uvicorn("http://host/ws") == ""


async def test_two_tasks_that_receive_on_granian_have_a_message_each():
    loop = asyncio.get_running_loop()
    asked = []

    def receive():
        asked.append(loop.create_future())
        return asked[-1]

    own, _ = quirks.Granian().websocket(receive, None)
    tasks = [asyncio.ensure_future(own()) for _ in range(2)]
    for number in range(2):
        while len(asked) == number:
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        asked[number].set_result({"type": "websocket.receive", "text": str(number)})
    assert sorted(message["text"] for message in await asyncio.gather(*tasks)) == ["0", "1"]


@pytest.mark.parametrize("finished", [False, True])
def test_daphne_breaks_off_what_has_not_ended(finished):
    aborted = []
    transport = SimpleNamespace(abortConnection=lambda: aborted.append(True))
    protocol = SimpleNamespace(finished=finished, transport=transport)
    assert quirks.Daphne(protocol).break_off() == (not finished) == bool(aborted)


@pytest.mark.parametrize(
    ("is_cancelled", "disconnected", "started", "finished", "done"),
    [
        (True, None, False, False, "answered"),
        (True, None, True, False, "broken off"),
        (True, None, True, True, None),
        (True, 1.5, False, False, None),
        (False, None, False, False, None),
    ],
)
async def test_daphne_ends_a_connection_whose_application_is_cancelled(
    is_cancelled, disconnected, started, finished, done
):
    class Protocol:
        server = SimpleNamespace(connections={})
        _response_started = started
        transport = SimpleNamespace(abortConnection=lambda: happened.append("broken off"))

        def handle_exception(self, exception):
            happened.append("answered")

    happened = []
    protocol = Protocol()
    protocol.finished = finished
    # Nothing is known of it yet.
    quirks.answer_where_cancelled(protocol)
    task = asyncio.ensure_future(asyncio.sleep(0))
    details = {"application_instance": task, "disconnected": disconnected}
    protocol.server.connections[protocol] = details
    quirks.answer_where_cancelled(protocol)
    if is_cancelled:
        task.cancel()
    await asyncio.wait((task,))
    await asyncio.sleep(0)
    assert happened == ([] if done is None else [done])
