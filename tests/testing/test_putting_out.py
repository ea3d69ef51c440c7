"""A test of a log-out: what ``TestApp`` has open is closed."""

import asyncio

import pytest
from pyramid.config import Configurator

from pyramid_asgi_consumers.testing import (
    StreamEnded,
    StreamRefused,
    TestApp,
    WebSocketDenied,
    WebSocketDisconnect,
)
from tests.support import members
from tests.support.members import has_members

pytestmark = pytest.mark.usefixtures("no_thread_is_left")


async def news(stream):
    async with stream.relay("news"):
        await stream.wait_closed()


async def silent(websocket):
    await websocket.accept()
    await asyncio.Event().wait()


def application(**settings):
    with Configurator(settings=settings) as config:
        config.include("pyramid_asgi_consumers")
        has_members(config)
        config.add_websocket("/echo", members.echo, permission="stay")
        config.add_websocket("/silent", silent, permission="stay")
        config.add_event_stream("/news", news, permission="stay")
        return config.make_asgi_app()


@pytest.fixture
def app():
    return application()


def logged_in(app, user):
    testapp = TestApp(app)
    testapp.post("/login", {"user": user})
    return testapp


@pytest.mark.parametrize("path", ["/echo", "/silent"])
def test_a_log_out_closes_the_websocket(app, path):
    testapp = logged_in(app, "ann")
    with testapp.websocket(path) as websocket:
        testapp.post("/logout")
        with pytest.raises(WebSocketDisconnect) as closed:
            websocket.receive()
        assert (closed.value.code, closed.value.reason) == (4401, "logged out")
    assert websocket.close_code == 4401
    with pytest.raises(WebSocketDenied, match="403"):
        testapp.websocket(path).__enter__()


def test_a_log_out_ends_the_stream(app):
    testapp = logged_in(app, "ann")
    with testapp.stream("/news") as stream:
        testapp.post("/logout")
        with pytest.raises(StreamEnded):
            stream.receive()
    with pytest.raises(StreamRefused, match="403"):
        testapp.stream("/news").__enter__()


def test_another_user_stays(app):
    # Each has a session of its own.
    ann, ben = logged_in(app, "ann"), logged_in(app, "ben")
    with ann.websocket("/echo") as websocket, ben.websocket("/echo") as other:
        ann.post("/logout")
        with pytest.raises(WebSocketDisconnect):
            websocket.receive()
        other.send("still here")
        assert other.receive() == "still here"


@pytest.mark.redis
def test_a_log_out_closes_what_another_application_of_the_process_has_open(redis_server):
    settings = {"asgi.channels": redis_server.url}
    here, there = (logged_in(application(**settings), "ann") for _ in "xx")
    with here, there, there.websocket("/echo") as websocket:
        here.post("/logout")
        with pytest.raises(WebSocketDisconnect) as closed:
            websocket.receive()
        assert closed.value.code == 4401
