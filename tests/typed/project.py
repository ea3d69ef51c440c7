"""A user's project, which passes ``mypy --strict`` against the installed package.

It is never run. Pyramid has no types of its own, so what it takes and returns is ``Any``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from pyramid.config import Configurator
from pyramid.request import Request
from pyramid.response import Response

from pyramid_asgi_consumers import (
    ClientDisconnected,
    EventStream,
    InvalidMessage,
    WebSocket,
    WebSocketDisconnect,
    asgi_consumer_config,
    event_stream_config,
    run_in_request,
    websocket_config,
)
from pyramid_asgi_consumers.channels import Channels, Event, Gap, RequestChannels, channels_of
from pyramid_asgi_consumers.exceptions import ChannelsError, PublishRefused, PublishUnknown
from pyramid_asgi_consumers.testing import TestApp, WebSocketDenied, serving


def unread(request: Request, room: str) -> int:
    channels: RequestChannels = request.channels
    position: str = channels.position(room)
    channels.publish(room, {"position": position})
    try:
        event_id: str = channels.publish_now(room, b"bytes")
    except (PublishRefused, PublishUnknown) as error:
        failed: ChannelsError = error
        print(failed)
    else:
        print(event_id)
    return len(channels.present(room))


@websocket_config("rooms/{room}", permission="view", revalidate=60)
async def room(websocket: WebSocket) -> None:
    name: str = websocket.path_params["room"]
    await websocket.accept(subprotocol=None)
    count: int = await websocket.run_in_request(unread, name)
    await websocket.send_json({"unread": count})
    async with websocket.relay(name, envelope=True, presence=websocket.userid):
        try:
            async for message in websocket:
                reveal: str | bytes = message
                await websocket.channels.publish(name, reveal)
        except InvalidMessage as error:
            await websocket.close(error.close_code, "not understood")
        except WebSocketDisconnect as error:
            code: int = error.code
            print(code, error.reason)


@event_stream_config("news")
async def news(stream: EventStream) -> None:
    last: str | None = stream.last_event_id
    try:
        async with stream.relay("news", since=last):
            await stream.send({"hello": 1}, event="hello", retry=1000)
            await stream.wait_closed()
    except ClientDisconnected:
        pass


@asgi_consumer_config("raw", "websocket")
async def raw(scope: dict[str, Any], receive: Any, send: Any) -> None:
    channels: Channels = channels_of(scope["pyramid.registry"])
    async with channels.subscribe("a", "b", max_queue=10) as events:
        async for item in events:
            if isinstance(item, Gap):
                missed: int | None = item.missed
                print(missed)
            else:
                event: Event = item
                print(event.channel, event.data, event.id)


def log_out(request: Request) -> Response:
    request.channels.disconnect(reason="logged out")
    return Response("bye")


async def page(request: Request) -> Response:
    await request.channels.apublish("news", {"page": 1})
    return Response("page")


@asynccontextmanager
async def lifespan(registry: Any) -> AsyncIterator[dict[str, Any]]:
    task = asyncio.ensure_future(run_in_request(registry, unread, "lobby"))
    try:
        yield {"task": task}
    finally:
        task.cancel()


def main(global_config: dict[str, str], **settings: str) -> Any:
    with Configurator(settings=settings) as config:
        config.include("pyramid_asgi_consumers")
        config.add_asgi_lifespan(lifespan)
        config.scan()
        return config.make_asgi_app()


def test_room() -> None:
    with TestApp(main({})) as testapp:
        with testapp.websocket("/rooms/lobby", origin="http://localhost") as websocket:
            websocket.send_json({"text": "hello"})
            answer: Any = websocket.receive_json(timeout=5)
            assert answer == {"unread": 0}
        code: int | None = websocket.close_code
        assert code == 1000
        with testapp.stream("/news") as stream:
            data: str = stream.receive().data
            assert data
        try:
            with testapp.websocket("/raw"):
                pass
        except WebSocketDenied as denied:
            assert denied.response.status_int == 403
    with serving(main({}), server="uvicorn") as server:
        url: str = server.url
        assert url
