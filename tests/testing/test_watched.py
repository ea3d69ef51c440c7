"""What a view or a consumer raises, as its test learns of it."""

import asyncio

import pytest
from pyramid.config import Configurator
from pyramid.httpexceptions import HTTPConflict
from pyramid.response import Response

from pyramid_asgi_consumers import run_in_request
from pyramid_asgi_consumers.exceptions import WSGIError
from pyramid_asgi_consumers.testing import TestApp, WebSocketDisconnect
from pyramid_asgi_consumers.testing.watched import WatchedConsumer
from pyramid_asgi_consumers.websocket.face import WebSocketFunction
from tests.testing.applications import OPEN, accept, denial, echo, http_app, make, ok, websocket_app

pytestmark = pytest.mark.usefixtures("no_thread_is_left")


@pytest.mark.parametrize("kind", [LookupError, StopIteration, pytest.fail.Exception, SystemExit])
def test_what_a_view_raises_is_raised_as_the_same_object(kind):
    error = kind("in the view")

    def view(request):
        raise error

    with pytest.raises(kind) as raised:
        TestApp(make(view)).get("/")
    assert raised.value is error


def test_what_a_response_raises_is_raised_as_the_same_object():
    error = RuntimeError("in the middle")
    closed = []

    class Chunks:
        def __iter__(self):
            yield b"x"
            raise error

        def close(self):
            closed.append(self)

    with pytest.raises(RuntimeError) as raised:
        TestApp(make(lambda request: Response(app_iter=Chunks()))).get("/")
    assert raised.value is error
    assert len(closed) == 1


def test_an_exception_that_middleware_answers_is_not_raised():
    def view(request):
        raise KeyError(request.environ["my.key"])

    inner = make(view).wsgi_app

    def middleware(environ, start_response):
        try:
            return inner(environ, start_response)
        except LookupError as error:
            start_response("502 Bad Gateway", [("Content-Type", "text/plain")])
            return [str(error).encode()]

    testapp = TestApp(make(wsgi_app=middleware), extra_environ={"my.key": "seen"})
    assert testapp.get("/", status=502).text == "'seen'"


def test_what_the_bridge_refuses_is_raised():
    def wsgi_app(environ, start_response):
        return start_response("200 OK", [("Connection", "close")])

    with pytest.raises(WSGIError, match="hop-by-hop"):
        TestApp(make(wsgi_app=wsgi_app)).get("/")


@pytest.mark.parametrize("when", ["before", "during", "after"])
def test_what_an_http_consumer_raises_is_raised_as_the_same_object(when):
    error = LookupError("in the consumer")

    async def consumer(scope, receive, send):
        if when != "before":
            await ok(send, more_body=when == "during")
        raise error

    with pytest.raises(LookupError) as raised:
        http_app(consumer).get("/http")
    assert raised.value is error


def test_an_http_exception_before_the_response_is_the_response():
    async def consumer(scope, receive, send):
        raise HTTPConflict("taken")

    assert "taken" in http_app(consumer).get("/http", status=409)


def test_an_http_exception_during_the_response_is_raised():
    async def consumer(scope, receive, send):
        await ok(send, more_body=True)
        raise HTTPConflict("taken")

    with pytest.raises(HTTPConflict):
        http_app(consumer).get("/http")


def test_what_the_handshake_of_an_http_consumer_raises_is_raised_as_the_same_object():
    error = LookupError("in the factory")

    def factory(request):
        raise error

    with pytest.raises(LookupError) as raised:
        http_app(echo, factory=factory).get("/http")
    assert raised.value is error


def test_what_a_consumer_raises_before_it_accepts_is_the_cause_of_a_denial():
    error = LookupError("early")

    async def consumer(scope, receive, send):
        raise error

    denied = denial(websocket_app(consumer), "/ws")
    assert denied.response.status_int == 500
    assert denied.__cause__ is error


def test_what_a_handshake_raises_is_the_cause_of_a_denial():
    error = LookupError("in the factory")

    def factory(request):
        raise error

    denied = denial(websocket_app(echo, factory=factory), "/ws")
    assert denied.response.status_int == 500
    assert denied.__cause__ is error


def test_what_a_consumer_raises_later_is_the_cause_of_the_disconnect():
    error = LookupError("late")

    async def consumer(scope, receive, send):
        await accept(receive, send)
        raise error

    with websocket_app(consumer).websocket("/ws") as websocket:
        with pytest.raises(WebSocketDisconnect) as disconnected:
            websocket.receive()
    assert (disconnected.value.code, websocket.close_code) == (1011, 1011)
    assert disconnected.value.__cause__ is error


def test_what_the_work_raises_is_for_the_consumer():
    error = LookupError("in the work")

    def work(request):
        raise error

    async def consumer(scope, receive, send):
        await accept(receive, send)
        with pytest.raises(LookupError) as raised:
            await run_in_request(scope, work)
        assert raised.value is error

    with websocket_app(consumer, **OPEN).websocket("/ws") as websocket:
        with pytest.raises(WebSocketDisconnect) as disconnected:
            websocket.receive()
    assert (disconnected.value.code, disconnected.value.__cause__) == (1000, None)


def test_a_function_looks_after_its_client_itself_as_on_a_server():
    async def function(websocket):
        """It is not called."""

    watched = WatchedConsumer(WebSocketFunction(function, "function"))
    assert watched.watches and not WatchedConsumer(function).watches


EXITS = [SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError]


exits = pytest.mark.parametrize("kind", EXITS)


@exits
@pytest.mark.parametrize("which", ["view", "async_view", "chunks"])
def test_what_would_end_a_server_is_raised_as_the_same_object_by_a_view(which, kind):
    error = kind(3)

    async def async_view(request):
        raise error

    def view(request):
        raise error

    def chunks(request):
        return Response(app_iter=failing())

    def failing():
        yield b"some"
        raise error

    with pytest.raises(kind) as raised:
        TestApp(make(locals()[which])).get("/")
    assert raised.value is error


@exits
@pytest.mark.parametrize("started", [False, True])
def test_what_would_end_a_server_is_raised_as_the_same_object_by_a_consumer(kind, started):
    error = kind(3)

    async def consumer(scope, receive, send):
        if started:
            await ok(send, more_body=True)
        raise error

    with pytest.raises(kind) as raised:
        http_app(consumer).get("/http")
    assert raised.value is error


@exits
def test_what_would_end_a_server_is_the_cause_of_the_disconnect(kind):
    error = kind(3)

    def work(request):
        raise error

    async def plain(scope, receive, send):
        await accept(receive, send)
        raise error

    async def function(websocket):
        await websocket.accept()
        raise error

    async def works(websocket):
        await websocket.accept()
        await websocket.run_in_request(work)

    with Configurator() as config:
        config.include("pyramid_asgi_consumers")
        config.add_asgi_consumer("/plain", "websocket", plain)
        config.add_websocket("/function", function)
        config.add_websocket("/works", works, **OPEN)
        testapp = TestApp(config.make_asgi_app())
    for path in ("/plain", "/function", "/works"):
        with testapp.websocket(path) as websocket:
            with pytest.raises(WebSocketDisconnect) as disconnected:
                websocket.receive()
        assert disconnected.value.code == 1011
        assert disconnected.value.__cause__ is error
