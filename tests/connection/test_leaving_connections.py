"""How the connection of a client ends that leaves, where its consumer does not receive."""

import asyncio
import contextlib

import pytest

from pyramid_asgi_consumers import quirks
from pyramid_asgi_consumers.connection.endpoint import Endpoint, Limit
from pyramid_asgi_consumers.handshake.connected import LEAVE_TIMEOUT
from pyramid_asgi_consumers.handshake.origins import OriginRule
from pyramid_asgi_consumers.mapper import Consumer
from tests.support.asgi import CONNECT, SCOPES, http_scope, websocket_scope
from tests.support.connections import BODY, START, accept_and_send, endpoint


class Deaf:
    """A server whose ``send`` neither waits nor fails, whatever its client does."""

    def __init__(self, *events):
        self.events = asyncio.Queue()
        for event in events:
            self.events.put_nowait(event)
        self.sent = []

    async def receive(self):
        return await self.events.get()

    async def send(self, message):
        self.sent.append(message)


async def test_a_server_that_gave_the_handshake_up_as_it_was_accepted_has_no_client(caplog):
    class GivesUp(quirks.Server):
        def has_left(self, send):
            return True

    server = Deaf(CONNECT)
    scope = websocket_scope(**{quirks.SERVED_BY: GivesUp()})
    await endpoint(accept_and_send).websocket(scope, server.receive, server.send)
    assert server.sent == [{"type": "websocket.accept"}]
    assert caplog.messages == []


@pytest.mark.parametrize("pause", [None, 0, 0.01])
async def test_a_websocket_that_only_sends_ends_when_its_client_leaves(pause, soon, caplog):
    async def app(scope, receive, send):
        assert await receive() == CONNECT
        await send({"type": "websocket.accept"})
        while True:
            await send({"type": "websocket.send", "text": "x"})
            if pause is not None:
                await asyncio.sleep(pause)

    disconnect = {"type": "websocket.disconnect", "code": 1001}
    server = Deaf(CONNECT, {"type": "websocket.receive", "text": "unread"}, disconnect)
    serving = endpoint(app).websocket(websocket_scope(), server.receive, server.send)
    await asyncio.wait_for(serving, 20)
    assert server.sent[-1]["type"] == "websocket.send"
    assert caplog.messages == []


async def test_who_is_refused_a_message_can_still_receive(soon):
    heard = []

    async def app(scope, receive, send):
        await receive()
        await send({"type": "websocket.accept"})
        with pytest.raises(OSError, match="The client has left"):
            while True:
                await send({"type": "websocket.send", "text": "x"})
        heard.append(await receive())
        heard.append(await receive())

    unread = {"type": "websocket.receive", "text": "unread"}
    disconnect = {"type": "websocket.disconnect", "code": 1001}
    server = Deaf(CONNECT, unread, disconnect)
    serving = endpoint(app).websocket(websocket_scope(), server.receive, server.send)
    await asyncio.wait_for(serving, 20)
    assert heard == [unread, disconnect]


async def test_a_websocket_that_goes_on_though_its_client_has_left_is_cancelled(soon, caplog):
    cancelled = []

    async def app(scope, receive, send):
        await receive()
        await send({"type": "websocket.accept"})
        try:
            while True:
                with contextlib.suppress(OSError):
                    await send({"type": "websocket.send", "text": "x"})
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    server = Deaf(CONNECT, {"type": "websocket.disconnect", "code": 1001})
    scope = websocket_scope(**{LEAVE_TIMEOUT: 0.05})
    serving = endpoint(app).websocket(scope, server.receive, server.send)
    await asyncio.wait_for(serving, 20)
    assert cancelled == [True]
    assert caplog.messages == [
        "websocket consumer /x (app) goes on 0.05 s after its client has left: cancelled"
    ]
    assert not getattr(asyncio.current_task(), "cancelling", int)()


@pytest.mark.parametrize("protocol", ["websocket", "http"])
async def test_a_task_that_a_consumer_leaves_behind_has_nobody_cancelled(protocol, soon, caplog):
    async def go_on(send, kind):
        for _ in range(3):
            with pytest.raises(OSError, match="The client has left"):
                while True:
                    await send({"type": kind, "more_body": True, "text": "x"})
        done.set()

    async def app(scope, receive, send):
        if protocol == "http":
            kind = "http.response.body"
            await send({"type": "http.response.start", "status": 200, "headers": []})
        else:
            kind = "websocket.send"
            await send({"type": "websocket.accept"})
        await receive()
        tasks.append(asyncio.ensure_future(go_on(send, kind)))

    tasks, done = [], asyncio.Event()
    server = Deaf({"type": f"{protocol}.disconnect", "code": 1001})
    scope = SCOPES[protocol]()
    scope.update({LEAVE_TIMEOUT: 0.01, quirks.SERVED_BY: quirks.granian.SERVER})
    await getattr(endpoint(app, protocol), protocol)(scope, server.receive, server.send)
    await asyncio.wait_for(done.wait(), 20)
    await asyncio.sleep(0.02)
    assert caplog.messages == []


@pytest.mark.parametrize(("server", "ends"), [(quirks.PLAIN, False), (quirks.granian.SERVER, True)])
@pytest.mark.parametrize("raises", [False, True])
async def test_a_denial_without_its_end_is_no_whole_one(server, ends, raises, caplog):
    async def app(scope, receive, send):
        await receive()
        await send(START)
        await send({**BODY, "more_body": True})
        if raises:
            raise LookupError("own")

    served = Deaf(CONNECT)
    scope = websocket_scope(**{quirks.SERVED_BY: server})
    await endpoint(app).websocket(scope, served.receive, served.send)
    assert [message["type"] for message in served.sent[2:]] == [BODY["type"]] * ends
    [record] = caplog.records
    error = "own" if raises else "websocket consumer /x (app) returned before the end of its denial"
    assert str(record.exc_info[1]) == error


async def flood(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    while True:
        await send({"type": "http.response.body", "body": b"x", "more_body": True})


async def test_an_http_consumer_that_only_sends_is_cancelled_when_its_client_leaves(soon, caplog):
    server = Deaf({"type": "http.disconnect"})
    serving = endpoint(flood, "http").http(http_scope(), server.receive, server.send)
    await asyncio.wait_for(serving, 20)
    assert server.sent[-1]["more_body"]
    assert caplog.messages == []


async def test_an_http_consumer_may_go_on_after_its_response(soon):
    finished = []

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x"})
        await asyncio.sleep(0.02)
        finished.append(True)

    server = Deaf({"type": "http.disconnect"})
    await endpoint(app, "http").http(http_scope(), server.receive, server.send)
    assert finished == [True]


async def test_a_mounted_websocket_that_goes_on_is_not_cancelled(soon, caplog):
    async def app(scope, receive, send):
        await receive()
        await send({"type": "websocket.accept"})
        until = asyncio.get_running_loop().time() + 0.1
        while asyncio.get_running_loop().time() < until:
            with contextlib.suppress(OSError):
                await send({"type": "websocket.send", "text": "x"})
        finished.append(True)

    finished = []
    server = Deaf(CONNECT, {"type": "websocket.disconnect", "code": 1001})
    consumer = Consumer("/x", "websocket", app, "app", mounted=True)
    scope = websocket_scope(**{LEAVE_TIMEOUT: 0.01})
    serving = Endpoint(consumer, OriginRule(), Limit(None), None, None)
    await asyncio.wait_for(serving.websocket(scope, server.receive, server.send), 20)
    assert (finished, caplog.messages) == ([True], [])


async def test_a_mounted_application_is_not_cancelled(soon):
    finished = []

    async def app(scope, receive, send):
        await asyncio.sleep(0.02)
        finished.append(await receive())

    consumer = Consumer("/x", "http", app, "app", mounted=True)
    server = Deaf({"type": "http.disconnect"})
    mount = Endpoint(consumer, OriginRule(), Limit(None), None, None)
    await mount.http(http_scope(), server.receive, server.send)
    assert finished == [{"type": "http.disconnect"}]


@pytest.mark.parametrize("kind", ["websocket", "http"])
async def test_a_sender_without_an_end_gives_others_their_turn(kind):
    turned = asyncio.Event()

    async def app(scope, receive, send):
        start = {"type": "http.response.start", "status": 200, "headers": []}
        more = {"type": "http.response.body", "body": b"x", "more_body": True}
        if kind == "websocket":
            await receive()
            start = {"type": "websocket.accept"}
            more = {"type": "websocket.send", "text": "x"}
        await send(start)
        while not turned.is_set():
            await send(more)
        if kind == "http":
            await send({**more, "more_body": False})

    asyncio.get_running_loop().call_soon(turned.set)
    server = Deaf(CONNECT)
    scope = http_scope() if kind == "http" else websocket_scope()
    await getattr(endpoint(app, kind), kind)(scope, server.receive, server.send)


async def test_who_is_told_that_its_client_has_left_and_has_not_answered_owes_nothing(caplog):
    async def app(scope, receive, send):
        assert (await receive())["type"] == "http.disconnect"
        with pytest.raises(OSError, match="The client has left"):
            await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.start", "status": 200, "headers": []})

    server = Deaf({"type": "http.disconnect"})
    await endpoint(app, "http").http(http_scope(), server.receive, server.send)
    assert [message.get("status") for message in server.sent] == [400, None]
    assert caplog.messages == []


async def test_a_receive_that_never_waits_does_not_keep_a_connection_from_its_end():
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})

    asked = []

    async def receive():
        # As middleware does that has read the body.
        asked.append(True)
        return {"type": "http.request", "body": b""}

    server = Deaf({"type": "http.request"})
    with pytest.raises(RuntimeError, match="returned before the end of its response"):
        await endpoint(app, "http").http(http_scope(), receive, server.send)
    assert asked


async def test_an_http_consumer_that_sends_to_nobody_is_told_and_ends(caplog):
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        waiting = asyncio.ensure_future(receive())
        while True:
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
            await asyncio.wait({waiting})

    server = Deaf({"type": "http.disconnect"})
    await endpoint(app, "http").http(http_scope(), server.receive, server.send)
    assert len(server.sent) == 2
    assert caplog.messages == []
