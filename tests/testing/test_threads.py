"""Views, handshakes and work run in the thread of their test."""

import asyncio
import contextvars
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from pyramid.config import Configurator
from pyramid.response import Response
from pyramid.threadlocal import get_current_request

from pyramid_asgi_consumers import run_in_request
from pyramid_asgi_consumers.testing import TestApp
from tests.testing.applications import OPEN, accept, http_app, make, ok, websocket_app

pytestmark = pytest.mark.usefixtures("no_thread_is_left")


variable = contextvars.ContextVar("variable", default=None)


def test_a_view_runs_in_the_thread_of_the_test_within_its_context():
    local = threading.local()
    local.value = "fixture"
    variable.set("context")

    def view(request):
        assert get_current_request() is request
        return Response(f"{local.value} {variable.get()}")

    assert TestApp(make(view)).get("/").text == "fixture context"
    variable.set(None)


def test_an_async_view_runs_on_the_loop_while_the_test_waits():
    async def view(request):
        await asyncio.sleep(0)
        return Response(threading.current_thread().name)

    assert TestApp(make(view)).get("/").text == "testapp"


def test_a_guarded_http_consumer_works_in_the_thread_of_the_test():
    main = threading.current_thread()

    def work(request, error):
        assert threading.current_thread() is main
        assert request.environ["my.key"] == 7
        if error is not None:
            raise error
        return b"done"

    async def consumer(scope, receive, send):
        with pytest.raises(LookupError):
            await run_in_request(scope, work, LookupError())
        await ok(send, await run_in_request(scope, work, None))

    testapp = http_app(consumer, **OPEN)
    assert testapp.get("/http", extra_environ={"my.key": 7}).text == "done"


def test_handshake_and_work_run_in_the_thread_of_the_test_while_it_waits():
    threads = []

    def work(request, *args):
        threads.append(threading.current_thread())
        return request.environ["my.key"]

    async def consumer(scope, receive, send):
        await accept(receive, send)
        while (await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": await run_in_request(scope, work)})

    def view(request):
        return Response("page")

    app = make(view, ("/ws", "websocket", consumer, {"factory": work, "name": "ws"}))
    testapp = TestApp(app, extra_environ={"my.key": "a"})
    with testapp.websocket("/ws", extra_environ={"my.key": "b"}) as websocket:
        websocket.send("")
        assert websocket.receive() == "b"
        websocket.send("")
        assert testapp.get("/").text == "page"
        assert websocket.receive() == "b"
        websocket.send("")
    assert websocket.receive() == "b"
    assert set(threads) == {threading.current_thread()}


def test_the_time_of_the_work_does_not_count():
    def work(request):
        until = time.monotonic() + 1
        while time.monotonic() < until:
            pass

    async def consumer(scope, receive, send):
        await accept(receive, send)
        await receive()
        await run_in_request(scope, work)
        await asyncio.sleep(0.1)
        await send({"type": "websocket.send", "text": "done"})
        await receive()

    with websocket_app(consumer, **OPEN).websocket("/ws") as websocket:
        websocket.send("")
        assert websocket.receive(timeout=1) == "done"


@pytest.mark.parametrize("shared", [True, False])
def test_several_threads(shared):
    barrier = threading.Barrier(4)

    def view(request):
        barrier.wait(20)
        return Response(str(threading.get_ident()))

    async def consumer(scope, receive, send):
        await accept(receive, send)
        await run_in_request(scope, lambda request: barrier.wait(20))
        await send({"type": "websocket.send", "text": scope["pyramid.userid"]})
        await receive()

    with Configurator() as config:
        config.include("pyramid_asgi_consumers")
        config.set_security_policy(ThreadPolicy())
        config.add_route("view", "/")
        config.add_view(view, route_name="view")
        config.add_asgi_consumer("/ws", "websocket", consumer, **OPEN)
        app = config.make_asgi_app()
    one = TestApp(app)

    def use(number):
        testapp = one if shared else TestApp(app)
        me = str(threading.get_ident())
        for _ in range(5):
            assert testapp.get("/").text == me
            with testapp.websocket("/ws") as websocket:
                assert websocket.receive() == me

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(use, range(4))) == [None] * 4


class ThreadPolicy:
    def authenticated_userid(self, request):
        return str(threading.get_ident())

    permits = None
