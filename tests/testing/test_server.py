"""The copy of the application that a ``TestApp`` serves: its limits, its lifespan."""

import asyncio
import contextlib
import re
import threading

import pytest
from pyramid.response import Response

from pyramid_asgi_consumers import run_in_request
from pyramid_asgi_consumers.exceptions import LifespanError
from pyramid_asgi_consumers.testing import TestApp
from tests.support.asgi import body_of, http_scope, run, websocket_scope
from tests.testing.applications import OPEN, accept, denial, echo, make

pytestmark = pytest.mark.usefixtures("no_thread_is_left")


@pytest.mark.parametrize(
    "options, settings", [({"max_connections": 1}, {}), ({}, {"asgi.max_connections": 1})]
)
def test_connections_are_counted_in_one_testapp(options, settings):
    app = make(None, ("/ws", "websocket", echo, options), **settings)
    testapp, other = TestApp(app), TestApp(app)
    with testapp.websocket("/ws"), other.websocket("/ws"):
        denied = denial(testapp, "/ws")
        assert denied.response.status_int == 503
    with testapp.websocket("/ws"):
        pass


def test_the_application_itself_is_not_changed():
    def view(request):
        return Response(f"{threading.current_thread().name} {request.environ.get('my.key')}")

    async def consumer(scope, receive, send):
        await accept(receive, send)
        response = await run_in_request(scope, view)
        await send({"type": "websocket.send", "text": response.text})
        await receive()

    app = make(view, ("/ws", "websocket", consumer, OPEN))
    before = {**vars(app), "_endpoints": {}}
    others = set(threading.enumerate())

    async def serve():
        connect = {"type": "websocket.connect"}
        sent = await run(app, websocket_scope(), connect, {"type": "websocket.disconnect"})
        assert re.fullmatch("asgi-handshake-. None", sent[1]["text"])
        assert body_of(await run(app, http_scope())) == b"asgi-view-1 None"
        pools = [each for each in threading.enumerate() if each.name.startswith("asgi-")]
        await app.lifespan.drain()
        return set(pools) - others

    with (
        TestApp(app, extra_environ={"my.key": 7}) as testapp,
        testapp.websocket("/ws") as websocket,
    ):
        assert websocket.receive() == testapp.get("/").text == "MainThread 7"
        assert vars(app) == before
        pools = asyncio.run(serve())
    for thread in pools:
        thread.join(20)


def test_the_lifespan_runs_within_the_block_and_the_loop_is_one():
    events = []

    @contextlib.asynccontextmanager
    async def lifespan(registry):
        events.append("start")
        yield {"loop": asyncio.get_running_loop()}
        events.append("stop")

    async def consumer(scope, receive, send):
        await accept(receive, send)
        await receive()
        same = scope["state"]["loop"] is asyncio.get_running_loop()
        await send({"type": "websocket.send", "text": str(same)})

    def view(request):
        loop = request.environ["asgi.scope"]["state"]["loop"]
        return Response(str(loop.is_running()))

    app = make(view, ("/ws", "websocket", consumer), lifespan=lifespan)
    for _ in range(2):
        with TestApp(app) as testapp:
            assert events == ["start"]
            assert testapp.get("/").text == "True"
            with testapp.websocket("/ws") as websocket:
                websocket.send("")
                assert websocket.receive() == "True"
            assert events == ["start"]
        assert events == ["start", "stop"]
        events.clear()
    assert not app.lifespan.runs


@pytest.mark.parametrize("phase", ["startup", "shutdown"])
def test_a_lifespan_that_fails(phase):
    @contextlib.asynccontextmanager
    async def lifespan(registry):
        if phase == "startup":
            raise LookupError(phase)
        yield
        raise LookupError(phase)

    entered = []
    with pytest.raises(LifespanError, match=f"LookupError: '?{phase}"):
        with TestApp(make(lifespan=lifespan)):
            entered.append(True)
    assert entered == ([] if phase == "startup" else [True])


def test_a_task_of_the_lifespan_can_work_for_a_consumer():
    @contextlib.asynccontextmanager
    async def lifespan(registry):
        waiting = asyncio.Queue()

        async def work():
            scope, done = await waiting.get()
            done.set_result(await run_in_request(scope, lambda request: request.path))

        task = asyncio.ensure_future(work())
        yield {"waiting": waiting}
        await task

    async def consumer(scope, receive, send):
        await accept(receive, send)
        done = asyncio.get_running_loop().create_future()
        await scope["state"]["waiting"].put((scope, done))
        await send({"type": "websocket.send", "text": await done})
        await receive()

    app = make(None, ("/ws", "websocket", consumer, OPEN), lifespan=lifespan)
    with TestApp(app) as testapp, testapp.websocket("/ws") as websocket:
        assert websocket.receive() == "/ws"
