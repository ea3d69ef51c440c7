"""What is done differently for Hypercorn."""

import asyncio
from types import MethodType

from hypercorn.protocol.ws_stream import ASGIWebsocketState

from pyramid_asgi_consumers.quirks import hypercorn


async def test_hypercorn_s_stream_is_looked_for_where_it_is():
    stream = type("WSStream", (), {"__module__": "hypercorn.protocol.ws_stream"})()
    stream.closed = True

    async def by_hypercorn(send):
        # Middleware has wrapped it.
        return hypercorn.Hypercorn().has_left(print)

    bound = MethodType(print, stream)
    assert hypercorn.Hypercorn().has_left(bound)
    assert await asyncio.create_task(by_hypercorn(bound))
    assert not hypercorn.Hypercorn().has_left(print)
    hypercorn.Hypercorn().refused(print)
    stream.state = ASGIWebsocketState.CONNECTED
    hypercorn.Hypercorn().refused(bound)
    assert stream.state is ASGIWebsocketState.HANDSHAKE
