"""What consumers raise that an event loop would obey, or take for a cancellation."""

import asyncio
import contextlib
import gc
import signal
import threading

import pytest

from pyramid_asgi_consumers import raised
from pyramid_asgi_consumers.connection.endpoint import Endpoint, Limit
from pyramid_asgi_consumers.handshake.origins import OriginRule
from pyramid_asgi_consumers.mapper import Consumer
from pyramid_asgi_consumers.raised import StandIn, carried, caught, contained, original
from pyramid_asgi_consumers.websocket import watcher
from pyramid_asgi_consumers.websocket.face import WebSocketFunction
from tests.support.asgi import CONNECT, body_of, http_scope, run, websocket_scope


@pytest.fixture(params=["counted", "not counted"])
def counting(request, monkeypatch):
    """Whether tasks count how often they were cancelled: Python 3.10's do not."""
    monkeypatch.setattr(raised, "COUNTED", raised.COUNTED and request.param == "counted")


@pytest.fixture
def signals(monkeypatch):
    """The signals are handled as on a server, by a handler that raises nothing."""
    before = signal.signal(signal.SIGINT, lambda *args: None)
    yield
    signal.signal(signal.SIGINT, before)


def endpoint(app, protocol):
    consumer = Consumer("/x", protocol, app, "app", ())
    return Endpoint(consumer, OriginRule(), Limit(None), None, None)


async def cancelled():
    task = asyncio.ensure_future(asyncio.Event().wait())
    asyncio.get_running_loop().call_soon(task.cancel)
    await task


async def fail(kind):
    await asyncio.sleep(0)
    if kind is asyncio.CancelledError:
        await cancelled()
    raise kind


def plain(kind, opens):
    async def app(scope, receive, send):
        await receive()
        if opens:
            await send({"type": "websocket.accept"})
        await fail(kind)

    return app


def function(kind, opens):
    async def func(websocket):
        if opens:
            await websocket.accept()
        await fail(kind)

    return WebSocketFunction(func, "func")


kinds = pytest.mark.parametrize(
    "kind", [SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError]
)


@kinds
@pytest.mark.parametrize("make", [plain, function])
async def test_it_closes_a_websocket_with_1011(make, kind, counting, signals, caplog):
    app = endpoint(make(kind, True), "websocket")
    sent = await run(app.websocket, websocket_scope(), CONNECT)
    assert sent[-1] == {"type": "websocket.close", "code": 1011, "reason": ""}
    assert caplog.messages == ["websocket consumer /x (app) failed"]
    assert isinstance(original(caplog.records[0].exc_info[1]), kind)


@kinds
@pytest.mark.parametrize("make", [plain, function])
async def test_it_denies_a_websocket_with_500(make, kind, counting, signals, caplog):
    app = endpoint(make(kind, False), "websocket")
    sent = await run(app.websocket, websocket_scope(), CONNECT)
    assert (sent[0]["status"], body_of(sent)) == (500, b"500\n")
    assert caplog.messages == ["websocket consumer /x (app) failed"]


@kinds
async def test_an_http_consumer_is_answered_with_500(kind, counting, signals, caplog):
    async def app(scope, receive, send):
        await fail(kind)

    sent = await run(endpoint(app, "http").http, http_scope())
    assert sent[0]["status"] == 500
    assert caplog.messages == ["GET '/' failed"]


@kinds
async def test_a_response_that_has_begun_is_broken_off(kind, counting, signals):
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await fail(kind)

    with pytest.raises(StandIn, match=f"raised {kind.__name__}") as stand_in:
        await run(endpoint(app, "http").http, http_scope())
    assert isinstance(original(stand_in.value), kind)


@kinds
async def test_after_the_end_of_a_response_it_is_logged(kind, counting, signals, caplog):
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"whole"})
        await fail(kind)

    assert body_of(await run(endpoint(app, "http").http, http_scope())) == b"whole"
    assert caplog.messages == ["http consumer /x (app) failed after its response"]


# What comes from elsewhere.


async def waits(scope, receive, send):
    waits.began.set()
    await asyncio.Event().wait()


async def waits_as_a_function(websocket):
    waits.began.set()
    await asyncio.Event().wait()


@pytest.fixture
def served():
    """Serve the app on a connection, from which a task is made."""
    waits.began = asyncio.Event()

    def serve(app, kind):
        scope = http_scope() if kind == "http" else websocket_scope()
        messages = () if kind == "http" else (CONNECT,)
        return getattr(endpoint(app, kind), kind)(*arguments(scope, *messages))

    return serve


def arguments(scope, *messages):
    waiting = list(messages)

    async def receive():
        return waiting.pop(0) if waiting else await asyncio.Event().wait()

    return scope, receive, None


SERVED = [
    (waits, "http"),
    (waits, "websocket"),
    (WebSocketFunction(waits_as_a_function, "func"), "websocket"),
]


@pytest.mark.parametrize("app, kind", SERVED, ids=["http", "websocket", "function"])
async def test_a_cancellation_by_the_server_is_let_through(app, kind, served, counting, caplog):
    task = asyncio.ensure_future(served(app, kind))
    await waits.began.wait()
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
    assert caplog.messages == []


async def test_a_consumer_that_is_cancelled_twice_is_waited_for(counting):
    began, cancellations, goes_on = asyncio.Event(), [], asyncio.Event()

    async def app(scope, receive, send):
        began.set()
        for _ in range(2):
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancellations.append(True)
        await goes_on.wait()
        raise LookupError("cleaning up")

    sent = []

    async def send(message):
        sent.append(message)

    task = asyncio.ensure_future(endpoint(app, "http").http(http_scope(), None, send))
    await began.wait()
    for count in (1, 2):
        task.cancel()
        while len(cancellations) < count:
            await asyncio.sleep(0)
    goes_on.set()
    await asyncio.wait_for(task, 20)
    # It was the consumer's to end as it likes.
    assert sent[0]["status"] == 500


@pytest.mark.parametrize("app, kind", SERVED, ids=["http", "websocket", "function"])
def test_a_connection_that_nobody_runs_any_more_is_closed(app, kind, served, counting, caplog):
    loop = asyncio.new_event_loop()
    coroutine = served(app, kind)
    task = loop.create_task(coroutine)
    loop.run_until_complete(waits.began.wait())
    others = asyncio.all_tasks(loop)
    for each in others:
        each._log_destroy_pending = False
    loop.close()
    coroutine.close()
    del task, coroutine, others, each
    gc.collect()
    assert caplog.messages == []


async def test_a_connection_that_another_task_closes_is_closed(served, caplog):
    coroutine = served(waits, "http")
    task = asyncio.ensure_future(coroutine)
    await waits.began.wait()
    coroutine.close()
    task.cancel()
    await asyncio.wait({task})
    assert isinstance(task.exception(), RuntimeError)
    assert caplog.messages == []


async def presses_ctrl_c():
    signal.raise_signal(signal.SIGINT)


def _on_sigint(number, frame):
    """asyncio.Runner, from Python 3.11 on, has a method of this name."""
    raise KeyboardInterrupt


@pytest.mark.parametrize("handler", [signal.default_int_handler, _on_sigint])
def test_ctrl_c_ends_the_loop(handler):
    loop = asyncio.new_event_loop()
    before = signal.signal(signal.SIGINT, handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(contained(presses_ctrl_c()))
    finally:
        signal.signal(signal.SIGINT, before)
        loop.close()


def test_in_another_thread_there_is_no_ctrl_c():
    found = []

    def work():
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            found.append(caught(error, None))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(20)
    assert isinstance(original(found[0]), KeyboardInterrupt)


# Stand-ins.


def test_an_error_stands_for_itself():
    error = LookupError()
    assert carried(error) is original(error) is error


@pytest.mark.parametrize(
    "error, message",
    [
        (SystemExit(3), "The application raised SystemExit: 3"),
        (StopIteration(), "The application raised StopIteration"),
    ],
)
def test_a_stand_in_says_for_what(error, message):
    stand_in = carried(error)
    assert str(stand_in) == message
    assert original(stand_in) is error


# http consumers that return too early.


async def test_a_response_that_never_begins_is_500(caplog):
    async def app(scope, receive, send):
        pass

    sent = await run(endpoint(app, "http").http, http_scope())
    assert sent[0]["status"] == 500
    (record,) = caplog.records
    assert str(record.exc_info[1]) == "http consumer /x (app) returned without its response"


async def test_a_response_that_never_ends_is_broken_off():
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"some", "more_body": True})

    with pytest.raises(RuntimeError, match=r"/x \(app\) returned before the end of its response"):
        await run(endpoint(app, "http").http, http_scope())


async def test_a_client_that_has_left_is_owed_no_response(caplog):
    async def app(scope, receive, send):
        while (await receive())["type"] != "http.disconnect":
            pass

    left = asyncio.Event()
    left.set()
    sent = await run(endpoint(app, "http").http, http_scope(), disconnected=left)
    assert caplog.messages == []
    # Nobody gets it but middleware, which may wait for one.
    assert sent[0]["status"] == 400


async def test_a_consumer_whose_client_leaves_is_cancelled_and_has_raised_nothing(
    counting, caplog, monkeypatch
):
    monkeypatch.setattr(watcher, "INTERVAL", 0.001)

    async def app(scope, receive, send):
        await asyncio.Event().wait()

    left = asyncio.Event()
    left.set()
    sent = await asyncio.wait_for(
        run(endpoint(app, "http").http, http_scope(), disconnected=left), 20
    )
    assert caplog.messages == []
    assert sent[0]["status"] == 400


async def test_a_client_that_has_left_is_owed_no_more_though_only_send_has_said_so(caplog):
    async def app(scope, receive, send):
        with contextlib.suppress(OSError):
            await send({"type": "http.response.start", "status": 200, "headers": []})

    events = [{"type": "http.request", "body": b"unread"}, {"type": "http.disconnect"}]

    async def receive():
        return events.pop(0)

    async def send(message):
        raise ConnectionResetError

    await endpoint(app, "http").http(http_scope(), receive, send)
    assert caplog.messages == []


@pytest.mark.parametrize(
    "end",
    [
        {"type": "http.response.body", "body": b"end"},
        {"type": "http.response.pathsend", "path": "/file"},
        {"type": "http.response.zerocopysend", "file": 3},
    ],
    ids=lambda end: end["type"],
)
async def test_a_response_ends_with_a_message_of_its_kind(end, caplog):
    start = {"type": "http.response.start", "status": 200, "headers": [], "trailers": True}
    trailers = {"type": "http.response.trailers", "headers": []}

    async def app(scope, receive, send):
        for message in (start, end, trailers):
            await send(message)

    assert await run(endpoint(app, "http").http, http_scope()) == [start, end, trailers]
    assert caplog.messages == []
