"""Several users, each with a ``TestApp`` of their own, in one thread."""

import asyncio
import contextlib
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from pyramid.config import Configurator
from pyramid.response import Response

from pyramid_asgi_consumers import WebSocketDisconnect
from pyramid_asgi_consumers.testing import TestApp
from tests.testing.applications import OPEN

pytestmark = pytest.mark.usefixtures("no_thread_is_left")


def chat():
    """Each text is published by work in a request, and comes to everybody."""

    def say(request, text):
        request.channels.publish("room", [text, threading.get_ident()])

    async def room(websocket):
        await websocket.accept()
        async with websocket.relay("room"):
            async for text in websocket:
                await websocket.run_in_request(say, text)

    with Configurator() as config:
        config.include("pyramid_asgi_consumers")
        config.add_websocket("/room", room, **OPEN)
        return config.make_asgi_app()


def working(work):
    """Each text is what ``work`` is called with, in a request; what it returns is sent."""

    async def consumer(websocket):
        await websocket.accept()
        async for text in websocket:
            await websocket.send(await websocket.run_in_request(work, text))

    async def wait(request):
        return Response(await asyncio.wrap_future(request.registry["done"]))

    async def tell(websocket):
        await websocket.accept()
        await websocket.send(await asyncio.wrap_future(websocket.registry["done"]))
        await websocket.receive()

    with Configurator() as config:
        config.include("pyramid_asgi_consumers")
        config.add_websocket("/work", consumer, **OPEN)
        config.add_websocket("/wait", tell)
        config.add_route("wait", "/wait-for-it")
        config.add_view(wait, route_name="wait")
        return config.make_asgi_app()


@pytest.mark.parametrize("with_lifespan", [False, True])
def test_what_one_says_comes_to_the_other(with_lifespan):
    app, me = chat(), threading.get_ident()
    ann, bob = TestApp(app), TestApp(app)
    with contextlib.ExitStack() as stack:
        if with_lifespan:
            stack.enter_context(ann)
            stack.enter_context(bob)
        of_ann = stack.enter_context(ann.websocket("/room"))
        of_bob = stack.enter_context(bob.websocket("/room"))
        of_ann.send("hi")
        assert of_bob.receive_json() == ["hi", me]
        assert of_ann.receive_json() == ["hi", me]
        of_bob.send("hello")
        assert of_ann.receive_json() == ["hello", me]
        assert of_bob.receive_json() == ["hello", me]


def test_one_leaves_and_the_other_goes_on():
    app = chat()
    with TestApp(app).websocket("/room") as of_ann:
        with TestApp(app).websocket("/room") as of_bob:
            of_bob.send("bye")
            assert of_ann.receive_json()[0] == "bye"
        with pytest.raises(LookupError), TestApp(app).websocket("/room") as of_bob:
            of_bob.send("unheard, perhaps")
            raise LookupError
        of_ann.send("alone")
        heard = list(iter(lambda: of_ann.receive_json()[0], "alone"))
        assert heard in ([], ["unheard, perhaps"])


@pytest.mark.parametrize("shared", [True, False])
def test_a_websocket_and_a_page_of_one_wait_for_the_work_of_the_other(shared):
    def work(request, text):
        done.set_result(text)
        return threading.current_thread().name

    first = working(work)
    second = first if shared else working(work)
    ann, bob = TestApp(first), TestApp(second)
    with ann.websocket("/work") as of_ann:
        second.registry["done"] = done = Future()
        with bob.websocket("/wait") as of_bob:
            of_ann.send("websocket")
            assert of_bob.receive() == "websocket"
        second.registry["done"] = done = Future()
        of_ann.send("page")
        assert bob.get("/wait-for-it").text == "page"
        assert of_ann.receive() == of_ann.receive() == threading.current_thread().name


@pytest.mark.parametrize("shared", [True, False])
def test_an_async_view_may_wait_for_the_work_of_another(shared):
    began, done = Future(), Future()

    async def view(request):
        began.set_result(None)
        return Response(await asyncio.wrap_future(done))

    async def consumer(websocket):
        await websocket.accept()
        await asyncio.wrap_future(began)
        await websocket.run_in_request(lambda request: done.set_result("done"))

    def application():
        with Configurator() as config:
            config.include("pyramid_asgi_consumers")
            config.add_websocket("/work", consumer, **OPEN)
            config.add_route("wait", "/wait")
            config.add_view(view, route_name="wait")
            return config.make_asgi_app()

    first = application()
    ann, bob = TestApp(first), TestApp(first if shared else application())
    with ann.websocket("/work"):
        assert bob.get("/wait").text == "done"


def test_the_time_of_the_other_s_work_does_not_count():
    def work(request, text):
        until = time.monotonic() + 1
        while time.monotonic() < until:
            pass
        app.registry["done"].set_result("done")
        return text

    app = working(work)
    app.registry["done"] = Future()
    with (
        TestApp(app).websocket("/work") as of_ann,
        TestApp(app).websocket("/wait") as of_bob,
    ):
        of_ann.send("")
        assert of_bob.receive(timeout=1) == "done"


def test_what_the_work_of_one_raises_is_not_the_other_s():
    error = LookupError("ann's")

    def work(request, text):
        app.registry["done"].set_result("done")
        raise error

    app = working(work)
    app.registry["done"] = Future()
    with (
        TestApp(app).websocket("/work") as of_ann,
        TestApp(app).websocket("/wait") as of_bob,
    ):
        of_ann.send("")
        assert of_bob.receive() == "done"
        with pytest.raises(WebSocketDisconnect) as raised:
            of_ann.receive()
    assert raised.value.__cause__ is error


def test_work_may_use_the_testapp_of_another():
    def work(request, text):
        if not text:
            return "innermost"
        with bob.websocket("/work") as websocket:
            websocket.send(text[1:])
            return f"{text} {websocket.receive()}"

    app = working(work)
    ann, bob = TestApp(app), TestApp(app)
    with ann.websocket("/work") as of_ann, bob.websocket("/work") as of_bob:
        of_ann.send("ab")
        of_bob.send("c")
        assert of_bob.receive() == "c innermost"
        assert of_ann.receive() == "ab b innermost"


def test_several_threads_with_two_users_each():
    def use(number):
        app, me = chat(), threading.get_ident()
        for _ in range(5):
            with (
                TestApp(app).websocket("/room") as of_ann,
                TestApp(app).websocket("/room") as of_bob,
            ):
                of_ann.send("hi")
                assert of_bob.receive_json() == of_ann.receive_json() == ["hi", me]

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(use, range(4))) == [None] * 4
