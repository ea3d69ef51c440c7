"""What is done differently for Uvicorn."""

import asyncio
import contextlib
import socket
import threading
import urllib.request
from types import MethodType, SimpleNamespace

import pytest
import uvicorn
from websockets.sync.client import connect

from pyramid_asgi_consumers import quirks
from pyramid_asgi_consumers.quirks import uvicorn as uvicorn_quirks
from tests.servers.test_servers import ask
from tests.support.servers import running


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
    Protocol.__module__ = "uvicorn.protocols.http.h11_impl"
    Protocol.on_response = MethodType(print, SimpleNamespace(root_path="/cycle"))
    assert await by_uvicorn("/apphttp://host/ws") == "/cycle"
    # Who changes the path may have taken the root path off.
    assert await by_uvicorn("http://host/ws") == ""


def test_a_request_in_absolute_form_is_found_behind_the_root_path_with_h11_too(tmp_path):
    options = ["--http", "h11", "--root-path", "/app"]
    with running("uvicorn-websockets", tmp_path, options=options) as server:
        assert ask(server, "http://host/consumer/some") == (200, b"some")
        assert ask(server, "/http://host/consumer/some")[0] == 404


async def test_a_close_behind_what_another_task_waits_to_send_has_been_sent():
    sent = []

    async def _drain_helper():
        raise AssertionError

    async def send(event):
        sent.append(event)
        await _drain_helper()

    event = {"type": "websocket.close", "code": 4401, "reason": ""}
    await uvicorn_quirks.WEBSOCKETS.close(send, event)
    assert sent == [event]


async def test_what_else_a_close_asserts_is_raised():
    async def send(event):
        raise AssertionError

    with pytest.raises(AssertionError):
        await uvicorn_quirks.WEBSOCKETS.close(send, {})


class Cycle:
    """What serves a request in Uvicorn, as far as its ``send`` goes.

    With ``waits`` that waits as no version does so far.
    """

    __module__ = "uvicorn.protocols.http.httptools_impl"
    disconnected = False
    waits = False

    def __init__(self):
        self.flow = SimpleNamespace(write_paused=False)
        self.sent = []

    async def send(self, message):
        if self.waits:
            await asyncio.sleep(0)
        self.sent.append(message)


def test_what_uvicorn_sends_is_sent_at_once_unless_it_might_have_to_wait():
    cycle = Cycle()
    send = quirks.at_once(cycle.send)
    assert send({"n": 1}) is True
    cycle.flow.write_paused = True
    assert send({"n": 2}) is False
    cycle.flow.write_paused, cycle.disconnected = False, True
    assert send({"n": 3}) is False
    cycle.disconnected, cycle.waits = False, True
    assert send({"n": 4}) is False
    assert cycle.sent == [{"n": 1}]


def test_nothing_is_sent_at_once_through_what_is_not_uvicorn_s_own():
    async def send(message):
        raise AssertionError

    assert quirks.at_once(send) is None
    assert quirks.at_once(SimpleNamespace(send=send).send) is None


@contextlib.contextmanager
def in_thread(app, **options):
    """Uvicorn itself; returns its port."""
    config = uvicorn.Config(app, lifespan="off", log_level="critical", **options)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()


@pytest.mark.parametrize("http", ["httptools", "h11"])
def test_uvicorn_itself_takes_a_message_at_once(http):
    taken = []

    async def app(scope, receive, send):
        send_at_once = quirks.at_once(send)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        taken.append(send_at_once({"type": "http.response.body", "body": b"a", "more_body": True}))
        await send({"type": "http.response.body", "body": b"b"})

    with in_thread(app, http=http) as port:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as response:
            assert response.read() == b"ab"
    assert taken == [True]


@pytest.mark.parametrize("ws", ["websockets-sansio", "wsproto"])
def test_uvicorn_itself_takes_a_message_of_a_websocket_at_once(ws):
    seen = []

    async def app(scope, receive, send):
        await receive()
        await send({"type": "websocket.accept"})
        seen.append(quirks.at_once(send)({"type": "websocket.send", "text": "a"}))
        await send({"type": "websocket.send", "bytes": b"b"})

    with in_thread(app, ws=ws) as port:
        with connect(f"ws://127.0.0.1:{port}/", proxy=None) as websocket:
            assert [websocket.recv(10), websocket.recv(10)] == ["a", b"b"]
    assert seen == [True]


def test_the_implementation_that_waits_behind_what_it_sends_has_nothing_at_once():
    class Protocol:
        __module__ = "uvicorn.protocols.websockets.websockets_impl"

        async def asgi_send(self, message):
            raise AssertionError

    assert quirks.at_once(Protocol().asgi_send) is None
