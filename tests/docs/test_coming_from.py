"""What was moved over from elsewhere does what it did there."""

import importlib

import pytest
from channels.generic.websocket import AsyncJsonWebsocketConsumer
from django.conf import settings as django_settings
from pyramid.config import Configurator
from starlette.testclient import TestClient

from pyramid_asgi_consumers.testing import TestApp, WebSocketDenied, WebSocketDisconnect
from tests.support.pages import run_block
from tests.support.project import Room


@pytest.fixture
def ann(config):
    """Gives ann, who has logged in, of the application that ``config`` makes then."""

    def make():
        testapp = TestApp(config.make_asgi_app())
        testapp.post("/login", {"name": "ann"})
        return testapp

    return make


def test_the_consumer_of_the_cookbook_is_taken_as_it_is(directory):
    testapp = TestApp(importlib.import_module("greeting").main({}))
    assert testapp.get("/").text == "Hello"
    with testapp.websocket("/ws") as websocket:
        websocket.send("ann")
        assert websocket.receive() == "Hello, ann"
    with pytest.raises(WebSocketDenied, match="404"):
        testapp.websocket("/none").__enter__()


def test_the_consumer_of_the_cookbook_is_a_function(config):
    run_block("coming_from/cookbook", 1, config=config)
    with TestApp(config.make_asgi_app()).websocket("/greet") as websocket:
        websocket.send("ann")
        assert websocket.receive() == "Hello, ann"
        websocket.send(b"binary")
        with pytest.raises(WebSocketDisconnect) as closed:
            websocket.receive()
        assert closed.value.code == 1003


def test_the_chat_of_channels(config, ann):
    run_block("coming_from/channels", 1, config=config, Room=Room)
    testapp = ann()
    with testapp.websocket("/rooms/a") as one, testapp.websocket("/rooms/a") as other:
        one.send_json({"text": "hello"})
        assert other.receive_json() == {"author": "ann", "text": "hello"}


def test_a_consumer_of_channels_is_taken_as_it_is(config):
    django_settings.configured or django_settings.configure()

    class Echo(AsyncJsonWebsocketConsumer):
        async def receive_json(self, content):
            await self.send_json([self.scope["url_route"]["kwargs"]["room"], content])

    config.add_asgi_consumer("/ws/{room}", "websocket", Echo.as_asgi())
    with TestApp(config.make_asgi_app()).websocket("/ws/a") as websocket:
        websocket.send_json("hello")
        assert websocket.receive_json() == ["a", "hello"]


def test_the_room_of_starlette_is_the_same_here():
    with TestClient(run_block("coming_from/starlette").app) as client:
        with client.websocket_connect("/room/ann") as one:
            with client.websocket_connect("/room/ben") as other:
                one.send_text("hello")
                there = [one.receive_text(), other.receive_text()]
    with Configurator() as config:
        config.include("pyramid_asgi_consumers")
        run_block("coming_from/starlette", 1, config=config)
        testapp = TestApp(config.make_asgi_app())
    with testapp.websocket("/room/ann") as one, testapp.websocket("/room/ben") as other:
        one.send("hello")
        here = [one.receive_json(), other.receive_json()]
    assert there == here == ["ann: hello"] * 2


def test_the_handlers_of_socket_io(config, ann):
    run_block("coming_from/socketio", config=config, Room=Room)
    with ann().websocket("/rooms/a") as websocket:
        assert websocket.receive_json() == {"event": "joined", "user": "ann"}
        websocket.send_json({"event": "typing"})
        assert websocket.receive_json() == {"event": "typing", "user": "ann"}
        websocket.send_json({"event": "say", "text": "hello"})
        assert websocket.receive_json() == {"event": "said", "user": "ann", "text": "hello"}
        websocket.send_json({"event": "sing"})
        with pytest.raises(WebSocketDisconnect) as closed:
            websocket.receive()
        assert closed.value.code == 1008


def test_the_session_of_sockjs(config):
    config.add_websocket("/chat/{name}", run_block("coming_from/sockjs").chat)
    testapp = TestApp(config.make_asgi_app())
    with testapp.websocket("/chat/ben") as ben:
        assert ben.receive() == "Welcome"
        with testapp.websocket("/chat/ann") as ann:
            assert ann.receive() == "Welcome"
            ann.send("hello")
            assert ben.receive_json() == "ann: hello"
        assert ben.receive_json() == "ann has left"


def test_the_greenlet_of_a_client(config):
    config.add_websocket("/clock", run_block("coming_from/sockjs", 1).clock)
    with TestApp(config.make_asgi_app()).websocket("/clock") as websocket:
        assert websocket.receive() == "tick"
        websocket.send("hello")
        assert websocket.receive() == "You said hello"
