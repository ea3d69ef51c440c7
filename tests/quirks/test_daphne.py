"""What Daphne does by itself, where it ends the server, and what is done differently for it."""

import asyncio
from types import SimpleNamespace

import pytest

from pyramid_asgi_consumers import quirks
from pyramid_asgi_consumers.quirks.daphne import (
    Daphne,
    UnknownDaphne,
    drain,
    end_where_cancelled,
)
from tests.support import clients
from tests.support.sent import FILLER
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
        clients.read_until(connection, FILLER[-16:])
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


class Protocol:
    """One of Daphne's, as far as a response, or an open websocket, needs it."""

    STATE_CONNECTING, STATE_OPEN, STATE_CLOSING = range(3)

    def __init__(self, state=STATE_OPEN):
        self.state = state
        self.channel = self
        self.websocket_protocols = ["chat"]
        self.producers = []
        self.handled = []

    def registerProducer(self, producer, streaming):
        self.producers.append(producer)

    def unregisterProducer(self):
        self.producers.append(None)

    def handle_reply(self, message):
        self.handled.append(message)

    def sendCloseFrame(self, *close):
        self.handled.append(close)

    def serverAccept(self, accept):
        self.handled.append(accept)


CHUNK = {"type": "http.response.body", "body": b"x", "more_body": True}
LAST = {"type": "http.response.body", "body": b"x"}


async def blocked(sending):
    """The task of ``sending``, which has come as far as it does by itself."""
    task = asyncio.ensure_future(sending)
    await asyncio.wait([task], timeout=0.01)
    assert not task.done()
    return task


async def test_a_response_by_daphne_waits_while_the_transport_is_full():
    protocol, sent = Protocol(), []

    async def send(message):
        sent.append(message)

    daphne = Daphne(protocol)
    paced = daphne.paced(send)
    assert daphne.paced(send) is send
    await paced(CHUNK)
    (pace,) = protocol.producers
    pace.pauseProducing()
    sending = await blocked(paced(CHUNK))
    pace.resumeProducing()
    await sending
    await paced(LAST)
    assert (sent, protocol.producers) == ([CHUNK, CHUNK, LAST], [pace, None])


async def test_a_short_response_by_daphne_needs_no_pace():
    protocol, sent = Protocol(), []

    async def send(message):
        sent.append(message)

    await Daphne(protocol).paced(send)(LAST)
    assert (sent, protocol.producers) == ([LAST], [])


async def test_a_response_by_daphne_whose_connection_is_gone_waits_for_nothing():
    protocol, sent = Protocol(), []
    protocol.channel = None

    async def send(message):
        sent.append(message)

    paced = Daphne(protocol).paced(send)
    await paced(CHUNK)
    await paced(LAST)
    assert (sent, protocol.producers) == ([CHUNK, LAST], [])


async def test_a_websocket_of_daphne_waits_while_the_transport_is_full_and_until_it_closes():
    protocol, sent = Protocol(Protocol.STATE_CONNECTING), []

    async def send(message):
        sent.append(message["type"])

    daphne = Daphne(protocol)
    receive, own = daphne.websocket(print, send)
    # An application of ours that is around this one has the same pace.
    assert daphne.websocket(receive, send)[1].args[0] is own.args[0]
    await own({"type": "websocket.accept"})
    assert (receive, protocol.producers) == (print, [])
    await own({"type": "websocket.send", "text": "x"})
    await own({"type": "websocket.send", "text": "x"})
    away, pace = protocol.producers
    assert away is None
    pace.pauseProducing()
    sending = await blocked(own({"type": "websocket.send", "text": "x"}))
    # Autobahn drops the connection.
    protocol.unregisterProducer()
    await sending
    assert protocol.producers == [None, pace, None]
    protocol.state = Protocol.STATE_CLOSING
    with pytest.raises(OSError, match="The websocket is closed"):
        await own({"type": "websocket.send", "text": "late"})
    assert sent == ["websocket.accept"] + 3 * ["websocket.send"]


@pytest.mark.parametrize(
    ("state", "message", "handled"),
    [
        (
            Protocol.STATE_CONNECTING,
            {"type": "websocket.accept", "subprotocol": "chat", "headers": [(b"x-a", b"1")]},
            ("chat", {"x-a": ["1"]}),
        ),
        (Protocol.STATE_CONNECTING, {"type": "websocket.accept"}, (None, {})),
        (Protocol.STATE_OPEN, {"type": "websocket.close"}, (1000, b"")),
        (
            Protocol.STATE_OPEN,
            {"type": "websocket.close", "code": 1011, "reason": "Fehler"},
            (1011, b"Fehler"),
        ),
        (Protocol.STATE_CLOSING, {"type": "websocket.close"}, {"type": "websocket.close"}),
        (Protocol.STATE_OPEN, {"type": "websocket.send"}, {"type": "websocket.send"}),
    ],
)
def test_what_daphne_does_not_send_is_sent(state, message, handled):
    protocol = Protocol(state)
    Daphne(protocol)._handle_reply(message)
    assert protocol.handled == [handled]


def test_where_daphne_s_protocol_is_not_found_nobody_knows_who_states_the_root_path():
    assert UnknownDaphne().root_path({"root_path": "/evil"}) == ""


@pytest.mark.parametrize("seconds", [20, 0.05])
async def test_daphne_waits_for_requests_and_closes_websockets_as_it_stops(seconds):
    """With little time those that are under way are cancelled."""
    until_closed, until_cancelled = Protocol(), Protocol(None)
    closed = asyncio.Event()
    until_closed.sendCloseFrame = lambda code: closed.set()
    application = asyncio.ensure_future(closed.wait())
    forever = asyncio.ensure_future(asyncio.Event().wait())
    under_way = {until_closed: {"application_instance": application}}
    if seconds < 1:
        under_way[until_cancelled] = {"application_instance": forever}
    under_way[Protocol(None)] = {"disconnected": True}
    server = SimpleNamespace(application_close_timeout=seconds, connections=under_way)
    application.add_done_callback(lambda _: under_way[until_closed].update(disconnected=True))
    await drain(server, SimpleNamespace(getWriters=list))
    assert application.done() and not application.cancelled()
    assert forever.done() is (seconds < 1)
    forever.cancel()
    await asyncio.wait([forever])


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
