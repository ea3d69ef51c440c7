"""Users who are put out: what their clients and consumers see, and nobody else."""

import asyncio
import gc
import logging

import pytest
from pyramid.config import Configurator
from pyramid.httpexceptions import HTTPForbidden
from pyramid.response import Response
from pyramid.security import NO_PERMISSION_REQUIRED
from zope.interface import implementer

from pyramid_asgi_consumers.channels import channels_of
from pyramid_asgi_consumers.channels.disconnects import Disconnects, Word
from pyramid_asgi_consumers.channels.events import RESERVED, Gap
from pyramid_asgi_consumers.channels.memory import MemoryBackend
from pyramid_asgi_consumers.connection import users
from pyramid_asgi_consumers.events import function
from pyramid_asgi_consumers.exceptions import (
    ChannelsError,
    ClientDisconnected,
    WebSocketDisconnect,
)
from pyramid_asgi_consumers.interfaces import IChannelsBackend
from pyramid_asgi_consumers.lifespan import running
from pyramid_asgi_consumers.testing import TestApp
from pyramid_asgi_consumers.websocket.watcher import BYTES, MESSAGES
from tests.support.asgi import CONNECT, body_of, http_scope, websocket_scope
from tests.support.channels import until
from tests.support.streams import stop

pytestmark = pytest.mark.usefixtures("nothing_is_left_behind")

GUARDED = {"permission": NO_PERMISSION_REQUIRED}
REFUSED = {"type": "websocket.http.response.start", "status": 403}


class Policy:
    """The user is whom the header ``User`` names; numbers are ints, ``a,b`` is a list."""

    def identity(self, request):
        name = request.headers.get("User")
        if name is None:
            return None
        return int(name) if name.isdigit() else name.split(",") if "," in name else name

    authenticated_userid = identity


class Project:
    """An application, and what happens in it."""

    def __init__(self, **settings):
        self.config = Configurator(settings=settings)
        self.config.include("pyramid_asgi_consumers")
        self.config.set_security_policy(Policy())
        self.happened = []
        self.go = asyncio.Event()

    @property
    def channels(self):
        return channels_of(self.config.registry)

    @property
    def connections(self):
        return self.app.connections.of(asyncio.get_running_loop())

    @property
    def listens(self):
        return self.connections._entering is not None and self.connections._entering.done()

    async def put_out(self, userid="ann", reason="bye"):
        await self.channels.disconnect(userid, reason)
        for _ in range(3):
            await asyncio.sleep(0)


class Client:
    """A connection of ``user``; what it sends is for :meth:`say`, what it got is in ``sent``."""

    def __init__(self, project, path="/x", user="ann", protocol="websocket"):
        headers = [(b"user", user.encode())] if user else []
        make = websocket_scope if protocol == "websocket" else http_scope
        self.said = asyncio.Queue()
        self.sent = []
        self.takes = asyncio.Event()
        self.takes.set()
        self.say(CONNECT if protocol == "websocket" else {"type": "http.request", "body": b""})
        self.task = asyncio.ensure_future(
            project.app(make(path, headers=headers), self.said.get, self._send)
        )

    async def _send(self, message):
        await self.takes.wait()
        self.sent.append(message)

    @property
    def codes(self):
        """The codes with which it was closed."""
        return [message["code"] for message in self.sent if message["type"] == "websocket.close"]

    def say(self, event):
        self.said.put_nowait(event)

    @property
    def kinds(self):
        return [message["type"].rpartition(".")[2] for message in self.sent]

    async def ended(self):
        await asyncio.wait_for(asyncio.shield(self.task), 20)
        return self.sent

    async def leave(self):
        self.say({"type": "websocket.disconnect", "code": 1001})
        self.say({"type": "http.disconnect"})
        await self.ended()


@pytest.fixture
def project():
    return Project()


def serves(project, protocol, app, path="/x", **arguments):
    add = {
        "websocket": lambda: project.config.add_asgi_consumer(path, "websocket", app, **arguments),
        "function": lambda: project.config.add_websocket(path, app, **arguments),
        "stream": lambda: project.config.add_event_stream(path, app, **arguments),
        "http": lambda: project.config.add_asgi_consumer(path, "http", app, **arguments),
    }
    add[protocol]()
    project.app = project.config.make_asgi_app()


def accepting(project, then):
    async def consumer(scope, receive, send):
        await receive()
        await send({"type": "websocket.accept"})
        project.happened.append("accepted")
        try:
            await then(receive, send)
        finally:
            project.happened.append("cleaned up")

    return consumer


async def receiving(receive, send):
    while (event := await receive())["type"] != "websocket.disconnect":
        await send({"type": "websocket.send", "text": event["text"]})


async def sleeping(receive, send):
    await asyncio.Event().wait()


CLOSED = {"type": "websocket.close", "code": 4401, "reason": "bye"}


async def test_a_function_that_receives_hears_why(project):
    async def func(websocket):
        await websocket.accept()
        project.happened.append("accepted")
        try:
            await websocket.receive()
        except WebSocketDisconnect as error:
            project.happened.append((error.code, error.reason))
            raise

    serves(project, "function", func, **GUARDED)
    client = Client(project)
    await until(lambda: project.happened)
    await project.put_out()
    assert (await client.ended())[-1] == CLOSED
    assert project.happened == ["accepted", (4401, "bye")]


@pytest.mark.usefixtures("soon")
async def test_a_function_that_does_not_receive_is_cancelled(project):
    async def func(websocket):
        await websocket.accept()
        project.happened.append("accepted")
        try:
            await asyncio.Event().wait()
        finally:
            project.happened.append("cleaned up")

    serves(project, "function", func, **GUARDED)
    client = Client(project)
    await until(lambda: project.happened)
    await project.put_out()
    assert (await client.ended())[-1] == CLOSED
    assert project.happened == ["accepted", "cleaned up"]


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize(("text", "taken"), [("x", MESSAGES), ("x" * BYTES, 1)])
async def test_a_function_is_cancelled_whose_client_has_sent_more_than_is_taken_in_advance(
    project, text, taken
):
    async def func(websocket):
        await websocket.accept()
        try:
            await asyncio.Event().wait()
        finally:
            project.happened.append("cleaned up")

    serves(project, "function", func, **GUARDED)
    client = Client(project)
    for _ in range(MESSAGES + 4):
        client.say({"type": "websocket.receive", "text": text})
    await until(lambda: client.sent and client.said.qsize() == MESSAGES + 4 - taken)
    await project.put_out()
    assert (await client.ended())[-1] == CLOSED
    assert project.happened == ["cleaned up"]


@pytest.mark.parametrize("then", [receiving, sleeping])
async def test_a_plain_websocket_ends(then):
    project = Project(**{"asgi.leave_timeout": "0.05"})
    serves(project, "websocket", accepting(project, then), **GUARDED)
    ann, bob = Client(project), Client(project, user="bob")
    await until(lambda: project.happened == ["accepted"] * 2)
    await project.put_out()
    await ann.ended()
    assert ann.sent[-1] == CLOSED
    assert bob.kinds == ["accept"]
    bob.say({"type": "websocket.disconnect", "code": 1001})
    bob.task.cancel()
    await asyncio.wait({bob.task})
    assert project.happened[2:] == ["cleaned up"] * 2


async def test_what_is_sent_by_then_has_gone_and_nothing_goes_afterwards(project):
    async def sends(receive, send):
        await send({"type": "websocket.send", "text": "before"})
        await project.go.wait()
        for _ in range(2):
            with pytest.raises(ClientDisconnected):
                await send({"type": "websocket.send", "text": "after"})
        with pytest.raises(ClientDisconnected):
            await send({"type": "websocket.close", "code": 1000})
        project.happened.append(await receive())

    serves(project, "websocket", accepting(project, sends), **GUARDED)
    client = Client(project)
    await until(lambda: "send" in client.kinds)
    await project.put_out()
    project.go.set()
    await client.ended()
    assert client.kinds == ["accept", "send", "close"]
    assert project.happened[1] == {"type": "websocket.disconnect", "code": 4401, "reason": "bye"}


async def test_several_tasks_that_receive_hear_of_it(project):
    async def both(receive, send):
        events = await asyncio.gather(receive(), asyncio.wait_for(receive(), 20))
        project.happened.extend(event["code"] for event in events)

    serves(project, "websocket", accepting(project, both), **GUARDED)
    client = Client(project)
    await until(lambda: project.happened)
    await asyncio.sleep(0)
    await project.put_out()
    await client.ended()
    assert project.happened == ["accepted", 4401, 4401, "cleaned up"]


async def test_who_receives_again_afterwards_waits_and_is_cancelled(caplog):
    project = Project(**{"asgi.leave_timeout": "0.05"})

    async def deaf(receive, send):
        while True:
            project.happened.append((await receive())["type"])

    serves(project, "websocket", accepting(project, deaf), **GUARDED)
    client = Client(project)
    await until(lambda: project.happened)
    await project.put_out()
    await client.ended()
    assert project.happened == ["accepted", "websocket.disconnect", "cleaned up"]
    assert "goes on 0.05 s after its client has left: cancelled" in caplog.text


async def test_a_websocket_that_is_not_accepted_yet_is_refused(project):
    async def connecting(scope, receive, send):
        project.happened.append("connecting")
        await project.go.wait()
        with pytest.raises(ClientDisconnected):
            await send({"type": "websocket.accept"})
        project.happened.append((await receive())["type"])

    serves(project, "websocket", connecting, **GUARDED)
    client = Client(project)
    await until(lambda: project.happened)
    await project.put_out()
    await until(lambda: client.sent)
    project.go.set()
    await client.ended()
    assert client.sent[0] == {**REFUSED, "headers": client.sent[0]["headers"]}
    assert client.kinds == ["start", "body"]
    assert project.happened == ["connecting", "websocket.disconnect"]


async def test_an_acceptance_under_way_is_closed_when_it_is_done(project):
    async def consumer(scope, receive, send):
        await receive()
        project.happened.append("accepts")
        await send({"type": "websocket.accept"})
        await receive()

    serves(project, "websocket", consumer, **GUARDED)
    client = Client(project)
    client.takes.clear()
    await until(lambda: project.happened)
    await project.put_out()
    assert client.sent == []
    client.takes.set()
    await client.ended()
    assert client.kinds == ["accept", "close"]
    assert client.sent[1] == CLOSED


async def test_an_acceptance_that_fails_meanwhile_is_a_refusal(project):
    async def consumer(scope, receive, send):
        await receive()
        project.happened.append("accepts")
        with pytest.raises(ValueError, match="no such header"):
            await send({"type": "websocket.accept", "headers": [(b"bad", b"")]})
        await receive()

    serves(project, "websocket", consumer, **GUARDED)
    client = Client(project)
    go = asyncio.Event()
    taken = client._send

    async def send(message):
        if message["type"] == "websocket.accept":
            await go.wait()
            raise ValueError("no such header")
        await taken(message)

    client.task.cancel()
    await asyncio.wait({client.task})
    project.happened.clear()
    scope = websocket_scope("/x", [(b"user", b"ann")])
    client.say(CONNECT)
    task = asyncio.ensure_future(project.app(scope, client.said.get, send))
    await until(lambda: project.happened)
    await project.put_out()
    go.set()
    await asyncio.wait_for(task, 20)
    assert client.sent[-2]["status"] == 403


async def test_a_denial_under_way_is_left_to_the_consumer(project):
    async def denying(scope, receive, send):
        await receive()
        start = {"type": "websocket.http.response.start", "status": 418, "headers": []}
        await send(start)
        body = {"type": "websocket.http.response.body", "body": b"a", "more_body": True}
        await send(body)
        project.happened.append("denying")
        project.happened.append((await receive())["type"])

    serves(project, "websocket", denying, **GUARDED)
    client = Client(project)
    await until(lambda: project.happened)
    await project.put_out()
    await client.ended()
    assert client.sent[0]["status"] == 418
    assert project.happened == ["denying", "websocket.disconnect"]


async def test_a_denial_that_has_only_begun_is_a_refusal(project):
    async def holding(scope, receive, send):
        await receive()
        await send({"type": "websocket.http.response.start", "status": 418, "headers": []})
        project.happened.append("holding")
        await receive()

    serves(project, "websocket", holding, **GUARDED)
    client = Client(project)
    await until(lambda: project.happened)
    await project.put_out()
    await client.ended()
    assert client.sent[0]["status"] == 403


async def test_an_event_stream_ends(project):
    async def func(stream):
        await stream.send(1)
        project.happened.append("begun")
        try:
            await stream.wait_closed()
        finally:
            project.happened.append("cleaned up")

    serves(project, "stream", func, **GUARDED)
    client = Client(project, protocol="http")
    await until(lambda: project.happened)
    await project.put_out()
    await client.ended()
    assert body_of(client.sent) == b"data: 1\n\n"
    assert client.sent[-1]["more_body"] is False
    assert project.happened == ["begun", "cleaned up"]


async def test_an_event_stream_that_has_not_begun_is_refused(project):
    async def func(stream):
        project.happened.append("waits")
        await asyncio.Event().wait()

    serves(project, "stream", func, **GUARDED)
    client = Client(project, protocol="http")
    await until(lambda: project.happened)
    await project.put_out()
    await client.ended()
    assert client.sent[0]["status"] == 403


@pytest.mark.parametrize("starts", [True, False])
async def test_an_http_consumer_is_cancelled(project, starts, caplog):
    async def consumer(scope, receive, send):
        if starts:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"part", "more_body": True})
        project.happened.append("waits")
        try:
            await asyncio.Event().wait()
        finally:
            project.happened.append("cleaned up")

    serves(project, "http", consumer, **GUARDED)
    client, other = Client(project, protocol="http"), Client(project, "/x", "bob", "http")
    await until(lambda: len(project.happened) == 2)
    await project.put_out()
    await client.ended()
    if starts:
        # The server breaks it off.
        assert body_of(client.sent) == b"part"
        assert client.sent[-1]["more_body"]
    else:
        assert client.sent[0]["status"] == 403
    assert project.happened == ["waits", "waits", "cleaned up"]
    assert not other.task.done()
    other.task.cancel()
    await asyncio.wait({other.task})
    assert not [record for record in caplog.records if record.exc_info]


async def test_an_http_consumer_that_goes_on_sends_nothing(project):
    async def consumer(scope, receive, send):
        project.happened.append("waits")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            project.happened.append((await receive())["type"])
            project.happened.append((await receive())["type"])
            await send({"type": "http.response.start", "status": 200, "headers": []})

    serves(project, "http", consumer, **GUARDED)
    client = Client(project, protocol="http")
    await until(lambda: project.happened)
    await project.put_out()
    await client.ended()
    assert client.sent[0]["status"] == 403
    assert project.happened[2] == "http.disconnect"


async def test_one_whose_response_has_ended_is_left_alone(project):
    async def consumer(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"whole"})
        project.happened.append("waits")
        await project.go.wait()
        project.happened.append("done")

    serves(project, "http", consumer, **GUARDED)
    client = Client(project, protocol="http")
    await until(lambda: project.happened)
    await project.put_out()
    project.go.set()
    await client.ended()
    assert project.happened == ["waits", "done"]


async def test_twice_is_as_once(project, caplog):
    caplog.set_level(logging.INFO)
    serves(project, "websocket", accepting(project, receiving), **GUARDED)
    client = Client(project)
    await until(lambda: project.happened)
    await project.put_out()
    await project.put_out(reason="again")
    await client.ended()
    assert client.kinds == ["accept", "close"]
    assert caplog.text.count("is closed with 4401: 'bye'") == 1
    assert "again" not in caplog.text


async def test_an_event_stream_whose_client_takes_nothing_ends(project, monkeypatch):
    monkeypatch.setattr(function, "STOP_PATIENCE", 0.01)

    async def func(stream):
        await stream.send(1)
        project.happened.append("begun")
        await stream.wait_closed()

    serves(project, "stream", func, **GUARDED)
    client = Client(project, protocol="http")
    await until(lambda: project.happened)
    client.takes.clear()
    await project.put_out()
    await client.ended()
    assert client.sent[-1]["more_body"]


async def test_an_event_stream_may_be_put_out_as_the_server_stops(project):
    async def func(stream):
        await stream.send(1)
        project.happened.append("begun")
        try:
            await stream.wait_closed()
        finally:
            await project.go.wait()

    serves(project, "stream", func, **GUARDED)
    client = Client(project, protocol="http")
    await until(lambda: project.happened)
    await project.put_out()
    stop(project.app)
    project.go.set()
    await client.ended()
    # It does not come again.
    assert body_of(client.sent) == b"data: 1\n\n"
    assert client.sent[-1]["more_body"] is False


async def test_who_has_no_place_is_refused_and_no_more(project):
    serves(
        project,
        "websocket",
        accepting(project, receiving),
        max_connections_per_user=1,
        **GUARDED,
    )
    first, second = Client(project), Client(project)
    second.takes.clear()
    connections = project.connections
    await until(lambda: len(connections.open) == 2)
    await project.put_out()
    second.takes.set()
    assert [message.get("status") for message in await second.ended()] == [503, None]
    assert (await first.ended())[-1] == CLOSED


@pytest.mark.parametrize("user, userid", [("7", 7), ("7", 7.0), ("a,b", ["a", "b"])])
async def test_a_userid_is_whatever_compares_equal(project, user, userid):
    serves(project, "websocket", accepting(project, receiving), **GUARDED)
    client, other = Client(project, user=user), Client(project, user="a,c")
    await until(lambda: len(project.happened) == 2)
    await project.put_out(userid)
    assert (await client.ended())[-1] == CLOSED
    await other.leave()
    assert other.codes == [1000]


async def test_nobodys_connections_and_plain_ones_stay(project):
    serves(project, "websocket", accepting(project, receiving), **GUARDED)
    project.config.add_asgi_consumer("/plain", "websocket", accepting(project, receiving))
    project.config.commit()
    clients = [Client(project, user=None), Client(project, "/plain")]
    await until(lambda: len(project.happened) == 2)
    await project.put_out()
    for client in clients:
        await client.leave()
        assert client.codes == [1000]


async def test_a_handshake_under_way_does_not_slip_through(project, caplog):
    caplog.set_level(logging.INFO)
    loop = asyncio.get_running_loop()

    def factory(request):
        # After the policy has said who it is, at the latest.
        assert request.authenticated_userid == "ann"
        asyncio.run_coroutine_threadsafe(project.put_out(), loop).result(20)
        return object()

    serves(project, "websocket", accepting(project, receiving), factory=factory, **GUARDED)
    client = Client(project)
    await client.ended()
    assert client.sent[0]["status"] == 403
    assert project.happened == []
    assert "disconnected meanwhile" in caplog.text


async def test_a_page_logs_out_of_the_sockets_that_a_test_has_open(project):
    def log_out(request):
        request.channels.disconnect(reason="logged out")
        return Response("bye")

    async def echo(websocket):
        await websocket.accept()
        async for text in websocket:
            await websocket.send(text)

    async def stream(stream):
        await stream.send(1)
        await stream.wait_closed()

    def test():
        project.config.add_route("out", "/out")
        project.config.add_view(log_out, route_name="out")
        project.config.add_websocket("/echo", echo, **GUARDED)
        project.config.add_event_stream("/events", stream, **GUARDED)
        testapp = TestApp(project.config.make_asgi_app())
        headers = {"User": "ann"}
        with (
            testapp.websocket("/echo", headers=headers) as websocket,
            testapp.websocket("/echo", headers={"User": "bob"}) as other,
            testapp.stream("/events", headers=headers) as events,
        ):
            websocket.send_text("x")
            assert websocket.receive_text() == "x"
            assert events.receive().data == "1"
            testapp.get("/out", headers=headers)
            with pytest.raises(WebSocketDisconnect):
                websocket.receive_text()
            assert websocket.close_code == 4401
            other.send_text("y")
            assert other.receive_text() == "y"

    await asyncio.to_thread(test)


async def test_who_was_here_takes_no_memory(project):
    serves(project, "websocket", accepting(project, receiving), **GUARDED)
    connections = project.connections
    for user in ("ann", "a,b"):
        clients = [Client(project, user=user) for _ in range(3)]
        await until(lambda: len(connections.open) == 3)  # noqa: B023
        for client in clients:
            await client.leave()
    assert not (connections.open or connections._by_user or connections._under_way)


def test_event_loops_that_are_closed_are_forgotten(project):
    serves(project, "websocket", accepting(project, receiving), **GUARDED)
    connections = project.app.connections

    async def one():
        client = Client(project)
        await until(lambda: project.happened)
        await client.leave()

    async def word():
        await project.channels.disconnect("ann")

    asyncio.run(one())
    asyncio.run(word())
    asyncio.run(one())
    assert len(connections._by_loop) == 1
    gc.collect()


@implementer(IChannelsBackend)
class Bus:
    """The memory backend, as if it were not of one process; entering it may fail or hang."""

    def __init__(self):
        self._memory = MemoryBackend()
        self.attached = []
        self.detached = []
        self.errors = []
        self.detach_errors = []
        self.go = asyncio.Event()
        self.go.set()

    def __getattr__(self, name):
        return getattr(self._memory, name)

    async def attach(self, subscription):
        self.attached.append(subscription)
        await self.go.wait()
        if self.errors:
            raise self.errors.pop(0)
        await self._memory.attach(subscription)

    async def detach(self, subscription):
        self.detached.append(subscription)
        if self.detach_errors:
            raise self.detach_errors.pop()
        await self._memory.detach(subscription)

    async def aclose(self):
        for subscription in self.attached:
            subscription.end()


@pytest.fixture
def bus(project):
    backend = Bus()
    project.config.set_channels_backend(backend)
    return backend


async def from_elsewhere(bus, userid="ann"):
    (message,) = Disconnects(bus).messages(Word(userid, "bye"))
    await bus.publish(*message)


async def test_another_process_puts_out_a_user(project, bus):
    serves(project, "websocket", accepting(project, receiving), **GUARDED)
    client, other = Client(project), Client(project, user="bob")
    await until(lambda: len(project.happened) == 2)
    late = Client(project)
    await until(lambda: len(project.happened) == 3)
    assert len(bus.attached) == 1
    await from_elsewhere(bus)
    for put_out in (client, late):
        assert (await put_out.ended())[-1] == CLOSED
    await other.leave()
    assert other.codes == [1000]


async def test_handshakes_wait_together_and_not_for_long_until_it_listens(
    project, bus, monkeypatch
):
    monkeypatch.setattr(users, "PATIENCE", 0.05)
    bus.go.clear()
    serves(project, "websocket", accepting(project, receiving), **GUARDED)
    clients = [Client(project) for _ in range(5)]
    await until(lambda: len(project.happened) == 5)
    assert len(bus.attached) == 1
    late = Client(project)
    await until(lambda: len(project.happened) == 6)
    bus.go.set()
    await until(lambda: project.listens)
    await from_elsewhere(bus)
    for client in (*clients, late):
        assert (await client.ended())[-1] == CLOSED


@pytest.mark.parametrize("error", [ChannelsError("not yet"), KeyError("x")])
async def test_what_cannot_be_entered_is_tried_again(project, bus, monkeypatch, caplog, error):
    monkeypatch.setattr(users, "PATIENCE", 0.02)
    monkeypatch.setattr(users, "AGAIN", 0.01)
    bus.errors = [error, ChannelsError("nor now")]
    serves(project, "websocket", accepting(project, receiving), **GUARDED)
    client = Client(project)
    await until(lambda: project.listens)
    await until(lambda: project.happened)
    await from_elsewhere(bus)
    assert (await client.ended())[-1] == CLOSED
    lines = [record for record in caplog.records if "is not heard" in record.getMessage()]
    assert [bool(record.exc_info) for record in lines] == [isinstance(error, KeyError), False]


async def test_it_listens_again_after_the_channels_were_closed(project, bus):
    serves(project, "websocket", accepting(project, receiving), **GUARDED)
    await (first := Client(project)).leave()
    assert first.codes == [1000]
    await bus.aclose()
    client = Client(project)
    await until(lambda: len(project.happened) == 3)
    assert len(bus.attached) == 2
    await from_elsewhere(bus)
    assert (await client.ended())[-1] == CLOSED


async def test_channels_that_are_closed_as_it_enters_them_are_not_tried_again(
    project, bus, monkeypatch
):
    monkeypatch.setattr(users, "PATIENCE", 0.01)
    bus.go.clear()
    bus.errors = [ChannelsError("closed")]
    serves(project, "websocket", accepting(project, receiving), **GUARDED)
    await (client := Client(project)).leave()
    assert client.codes == [1000]
    await bus.aclose()
    bus.go.set()
    await until(lambda: project.listens)
    assert bus.errors == []
    assert len(bus.attached) == 1


async def test_another_application_of_this_process_puts_out_a_user(project, bus):
    serves(project, "websocket", accepting(project, receiving), **GUARDED)
    client = Client(project)
    await until(lambda: project.happened)
    other = Project()
    other.config.set_channels_backend(bus)
    other.config.commit()
    await other.put_out()
    assert (await client.ended())[-1] == CLOSED


async def test_who_was_let_in_as_a_word_may_have_been_missed_is_looked_at_again(project, bus):
    loop = asyncio.get_running_loop()

    async def miss():
        bus.attached[0].put(Gap(RESERVED, None))

    def factory(request):
        if "asgi.revalidation" in request.environ:
            project.happened.append("looked at again")
        else:
            asyncio.run_coroutine_threadsafe(miss(), loop).result(20)
        return object()

    serves(project, "websocket", accepting(project, receiving), factory=factory, **GUARDED)
    client = Client(project)
    await until(lambda: "looked at again" in project.happened)
    await client.leave()
    assert client.codes == [1000]


async def test_a_word_that_one_connection_cannot_take_is_for_the_others(project, caplog):
    class Odd(list):
        def __eq__(self, other):
            raise ValueError("not comparable")

    serves(project, "websocket", accepting(project, receiving), **GUARDED)
    odd, client = Client(project, user="a,b"), Client(project, user="a,c")
    await until(lambda: len(project.happened) == 2)
    first, _ = project.connections.open
    first.userid = Odd()
    await project.put_out(["a", "c"])
    assert (await client.ended())[-1] == CLOSED
    assert "cannot be closed" in caplog.text
    await odd.leave()
    assert odd.codes == [1000]


async def test_it_listens_again_after_all_tasks_were_cancelled(project, bus, monkeypatch):
    monkeypatch.setattr(users, "PATIENCE", 0.01)
    bus.go.clear()
    serves(project, "websocket", accepting(project, receiving), **GUARDED)
    await Client(project).leave()
    project.connections._entering.cancel()
    await until(lambda: project.listens)
    bus.go.set()
    client = Client(project)
    await until(lambda: len(project.happened) == 3)
    await from_elsewhere(bus)
    assert (await client.ended())[-1] == CLOSED
    assert bus.detached == bus.attached[:1]


async def test_what_cannot_be_left_does_not_keep_it_from_listening(project, bus, monkeypatch):
    monkeypatch.setattr(users, "AGAIN", 0.01)
    serves(project, "websocket", accepting(project, receiving), **GUARDED)
    await Client(project).leave()
    await bus.aclose()
    bus.detach_errors = [KeyError("x")]
    client = Client(project)
    await until(lambda: len(project.happened) == 3 and project.listens)
    await from_elsewhere(bus)
    assert (await client.ended())[-1] == CLOSED
    assert bus.detached == bus.attached[:1]


async def test_an_application_that_stops_tries_no_more_to_listen(project, bus, monkeypatch):
    monkeypatch.setattr(users, "PATIENCE", 0.01)
    bus.errors = [ChannelsError("not yet")] * 9
    serves(project, "websocket", accepting(project, receiving), **GUARDED)
    async with running(project.app):
        await Client(project).leave()
        assert not project.listens
    assert project.listens


async def test_an_application_that_has_heard_of_nobody_stops(project, bus):
    serves(project, "websocket", accepting(project, receiving), **GUARDED)
    async with running(project.app):
        assert bus.attached == []


async def test_what_came_after_a_word_that_was_long_on_its_way_may_come_again(project, bus):
    serves(project, "websocket", accepting(project, receiving), **GUARDED)
    before = Client(project)
    await until(lambda: len(project.happened) == 1)
    (message,) = Disconnects(bus).messages(Word("ann", "bye"))
    # She logs in again meanwhile.
    after = Client(project)
    await until(lambda: len(project.happened) == 2)
    await bus.publish(*message)
    assert (await before.ended())[-1] == CLOSED
    assert (await after.ended())[-1] == {**CLOSED, "code": 4403}


async def test_many_connections_are_looked_at_one_after_the_other(project, bus, monkeypatch):
    monkeypatch.setattr(users, "SPREAD", 0.01)
    monkeypatch.setattr(users, "MOST_LOOKS", 20)
    looked = []
    serves(project, "websocket", accepting(project, receiving), **GUARDED)
    clients = [Client(project) for _ in range(3)]
    await until(lambda: len(project.happened) == 3)
    monkeypatch.setattr(project.connections.watch, "check_all", looked.append)
    await bus.publish(RESERVED, b"j{}")
    await until(lambda: looked)
    assert looked == [0.15]
    for client in clients:
        await client.leave()


async def test_many_words_that_cannot_be_read_make_no_storm(project, bus, monkeypatch, caplog):
    monkeypatch.setattr(users, "LOG_INTERVAL", 0.2)
    monkeypatch.setattr(users, "SPREAD", 0.01)
    asked = []

    def factory(request):
        asked.append(request)
        return object()

    serves(project, "websocket", accepting(project, receiving), factory=factory, **GUARDED)
    client = Client(project)
    await until(lambda: project.happened)
    for _ in range(100):
        await bus.publish(RESERVED, b"j{}")
    assert caplog.text.count("A disconnect that cannot be read: all are checked: 'user'") == 1
    await until(lambda: len(asked) == 2)
    # For the other 99.
    await until(lambda: len(asked) == 3)
    # Nobody says anything else.
    await until(lambda: project.connections._mishearing is None)
    await bus.publish(RESERVED, b"j{}")
    await until(lambda: len(asked) == 4)
    assert caplog.text.count("A disconnect that cannot be read") == 3
    await client.leave()
    assert client.codes == [1000]


class Asked:
    """A factory that counts its requests, and refuses those that are repeated."""

    def __init__(self):
        self.requests = []
        self.refuses = False

    def __call__(self, request):
        self.requests.append(request)
        if self.refuses and "asgi.revalidation" in request.environ:
            raise HTTPForbidden()
        return object()


@pytest.mark.parametrize("revalidate", [None, 1000])
async def test_who_comes_before_the_session_of_the_log_out_is_stored_is_looked_at_again(
    project, monkeypatch, revalidate
):
    asked = Asked()
    arguments = {**GUARDED, "factory": asked, "revalidate": revalidate}
    serves(project, "websocket", accepting(project, receiving), **arguments)
    bob = Client(project, user="bob")
    await until(lambda: len(project.happened) == 1)
    monkeypatch.setattr(users, "SETTLED", 1000)
    await project.put_out()
    monkeypatch.setattr(users, "SETTLED", 0.01)
    asked.refuses = True
    ann = Client(project)
    assert (await ann.ended())[-1]["code"] == 4403
    assert len(asked.requests) == 3
    await bob.leave()
    assert bob.codes == [1000]


async def test_who_comes_later_is_not_looked_at_again(project, monkeypatch):
    monkeypatch.setattr(users, "SETTLED", 0)
    serves(project, "websocket", accepting(project, receiving), **GUARDED)
    connections = project.connections
    await project.put_out("bob")
    await project.put_out()
    # Bob's word takes no memory.
    assert list(connections._recent) == ["ann"]
    client = Client(project)
    await until(lambda: project.happened)
    (stay,) = connections.open.values()
    assert stay._timer is None
    await client.leave()


async def test_who_is_looked_at_often_needs_no_more(project, monkeypatch):
    monkeypatch.setattr(users, "SETTLED", 1000)
    asked = Asked()
    arguments = {**GUARDED, "factory": asked, "revalidate": 0.05}
    serves(project, "websocket", accepting(project, receiving), **arguments)
    connections = project.connections
    await project.put_out()
    client = Client(project)
    await until(lambda: len(asked.requests) == 2)
    assert list(connections._recent) == ["ann"]
    await client.leave()
