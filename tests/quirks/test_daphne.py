"""What Daphne does by itself, where it ends the server, and what is done differently for it."""

import asyncio
from types import SimpleNamespace

import pytest

from pyramid_asgi_consumers import quirks
from pyramid_asgi_consumers.quirks.daphne import Daphne, end_where_cancelled
from tests.support import clients
from tests.support.servers import running, wait_until

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
    daphne = Daphne(SimpleNamespace(root_path=stated, server=server))
    assert daphne.root_path({"root_path": given, "path": path}) == trusted


def test_a_root_path_from_another_application_of_ours_is_trusted():
    server = SimpleNamespace(root_path="")
    daphne = Daphne(SimpleNamespace(root_path="/evil", server=server))
    assert daphne.root_path({"root_path": "/outer", quirks.SERVED_BY: daphne}) == "/outer"


def test_daphne_refuses_a_line_break_in_a_header_of_accept():
    message = {"type": "websocket.accept", "headers": [(b"x-kind", b"a\r\nx-other: b")]}
    daphne = Daphne(SimpleNamespace())
    with pytest.raises(ValueError, match="The header b'x-kind' has a line break"):
        daphne._handle_reply(message)


def test_daphne_refuses_a_subprotocol_that_is_not_offered():
    daphne = Daphne(SimpleNamespace(websocket_protocols=["chat"]))
    with pytest.raises(ValueError, match="does not offer the subprotocol 'other'"):
        daphne._handle_reply({"type": "websocket.accept", "subprotocol": "other"})


@pytest.mark.parametrize(("written", "started"), [(0, False), (1, True)])
def test_a_response_that_daphne_refused_can_begin_anew_until_it_was_written(written, started):
    protocol = SimpleNamespace(_response_started=True, startedWriting=written, responseHeaders={})
    Daphne(protocol).refused(None)
    assert protocol._response_started is started


@pytest.mark.parametrize("finished", [False, True])
def test_daphne_breaks_off_what_has_not_ended(finished):
    aborted = []
    transport = SimpleNamespace(abortConnection=lambda: aborted.append(True))
    protocol = SimpleNamespace(finished=finished, transport=transport)
    assert Daphne(protocol).break_off() == (not finished) == bool(aborted)


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
    end_where_cancelled(protocol)
    task = asyncio.ensure_future(asyncio.sleep(0))
    details = {"application_instance": task, "disconnected": disconnected}
    protocol.server.connections[protocol] = details
    end_where_cancelled(protocol)
    if is_cancelled:
        task.cancel()
    await asyncio.wait((task,))
    await asyncio.sleep(0)
    assert happened == ([] if done is None else [done])
