"""What a websocket's client offers in ``Sec-WebSocket-Protocol``, on servers that tell less."""

import sys

import pytest
from pyramid.config import Configurator
from pyramid.security import NO_PERMISSION_REQUIRED

from pyramid_asgi_consumers import WebSocket
from pyramid_asgi_consumers.wsgi.environ import subprotocols
from tests.support.asgi import CONNECT, run, websocket_scope


def offering(*lines, **more):
    return websocket_scope(headers=[(b"sec-websocket-protocol", line) for line in lines], **more)


@pytest.mark.parametrize(
    ("scope", "offered"),
    [
        (offering(b"a, b", b" c,,", subprotocols=["c"]), ["a", "b", "c"]),
        (offering(b"a,b"), ["a", "b"]),
        (websocket_scope(headers=[(b"Sec-WebSocket-Protocol", b"a")]), ["a"]),
        (offering(subprotocols=["a", "b"]), ["a", "b"]),
        (offering(subprotocols=None), []),
        (offering(), []),
    ],
)
def test_what_is_offered_is_that_of_all_headers_or_else_what_the_server_says(scope, offered):
    assert subprotocols(scope) == offered
    assert WebSocket(scope, None, None).subprotocols == offered


@pytest.mark.parametrize(
    ("scope", "header"),
    [
        (offering(b"a, b", b"c", subprotocols=["c"]), "a, b,c"),
        (offering(subprotocols=["a", "b"]), "a, b"),
        (offering(subprotocols=[]), None),
    ],
)
async def test_the_handshake_s_request_has_the_header(scope, header):
    seen = []

    async def consumer(websocket):
        seen.append(websocket.request.headers.get("Sec-WebSocket-Protocol"))

    config = Configurator()
    config.include("pyramid_asgi_consumers")
    config.add_websocket("/ws", consumer, permission=NO_PERMISSION_REQUIRED)
    await run(config.make_asgi_app(), scope, CONNECT)
    assert seen == [header]


# What is looked for before.
OLD_UVICORN = "uvicorn.protocols.websockets.websockets_impl"


async def accepted(subprotocol, version="2.3"):
    """The message that accepts ``subprotocol`` where the server knows but ``last``."""
    sent = []

    async def receive():
        return CONNECT

    async def send(message):
        sent.append(message)

    asgi = {"version": "3.0", "spec_version": version}
    scope = offering(b"first", b"last", subprotocols=["last"], asgi=asgi)
    await WebSocket(scope, receive, send).accept(subprotocol, headers={"X-A": "1"})
    (message,) = sent
    return message["subprotocol"], message["headers"]


async def test_hypercorn_sends_a_subprotocol_of_any_header(monkeypatch):
    monkeypatch.delitem(sys.modules, OLD_UVICORN, raising=False)
    monkeypatch.setitem(sys.modules, "hypercorn.protocol.ws_stream", sys)
    header = (b"Sec-WebSocket-Protocol", b"first")
    assert await accepted("first") == (None, [(b"x-a", b"1"), header])
    assert await accepted("last") == ("last", [(b"x-a", b"1")])
    assert await accepted(None) == (None, [(b"x-a", b"1")])


@pytest.mark.parametrize("version", [None, "2.4"])
async def test_other_servers_are_told_it_as_ever(monkeypatch, version):
    monkeypatch.setitem(sys.modules, "hypercorn.protocol.ws_stream", sys)
    assert await accepted("first", version) == ("first", [(b"x-a", b"1")])
    monkeypatch.delitem(sys.modules, "hypercorn.protocol.ws_stream")
    assert await accepted("first") == ("first", [(b"x-a", b"1")])
