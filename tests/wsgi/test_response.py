"""How a response ends: close(), errors, clients that leave, requests that are cancelled."""

import asyncio
import contextlib
import io
import random
import threading
from collections import Counter

import pytest

from pyramid_asgi_consumers import WSGIBridge
from pyramid_asgi_consumers.exceptions import ClientDisconnected, WSGIError
from pyramid_asgi_consumers.wsgi import handover
from pyramid_asgi_consumers.wsgi.handover import AHEAD
from tests.support.asgi import body_of, http_scope, run
from tests.support.wsgi import (
    DISCONNECT,
    KIB,
    Closing,
    Exchange,
    File,
    Idle,
    answers,
    levels,
    raising,
    request,
    wait_until,
)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    ("chunks", "headers", "fails"),
    [
        (lambda: [b"a"], [], False),
        (lambda: [b"a", b"b"], [], False),
        (lambda: [b"a" * AHEAD] * 4, [], False),
        (lambda: [b"abc"], [("Content-Length", "2")], False),
        (lambda: raising(), [], True),
        (lambda: raising(b"a"), [], True),
        (lambda: [b"a", "text"], [], True),
        (lambda: [b"abc"], [("Content-Length", "4")], True),
        (lambda: [b"abc"], [("Content-Length", "x")], True),
    ],
)
async def test_close_is_called_once(chunks, headers, fails, method):
    response = Closing(chunks())
    bridge = WSGIBridge(answers(response, headers))
    may_fail = contextlib.suppress(ValueError, WSGIError) if fails else contextlib.nullcontext()
    with may_fail:
        await run(bridge, http_scope(method=method))
    assert await bridge.pool.drain(20)
    assert response.closed == 1


@pytest.mark.parametrize("chunks", [[b"ab"], [b"a", b"b"]])
async def test_an_exception_in_close_is_logged_and_the_response_is_whole(chunks, caplog):
    class Bad(Closing):
        def close(self):
            raise SystemExit("in close")

    assert body_of(await run(WSGIBridge(answers(Bad(chunks))), http_scope())) == b"ab"
    assert levels(caplog) == ["ERROR"]


# Errors, and clients that leave


async def test_an_exception_after_the_start_goes_to_the_server_behind_what_was_made():
    exchange = Exchange(WSGIBridge(answers(raising(b"a", b"b"))))
    exchange.taking.set()
    with pytest.raises(ValueError, match="late"):
        await exchange.task
    assert body_of(exchange.sent) == b"ab"
    assert all(message["more_body"] for message in exchange.sent[1:])


async def test_a_client_that_leaves_closes_the_response():
    made = threading.Event()

    def endless():
        while True:
            yield b"x" * 1000
            made.set()

    response = Closing(endless())
    bridge = WSGIBridge(answers(response))
    exchange = Exchange(bridge)
    exchange.taking.set()
    await wait_until(made.is_set)
    exchange.left.set()
    await asyncio.wait_for(exchange.task, 20)
    assert await bridge.pool.drain(20)
    assert response.closed == 1


async def test_a_client_that_leaves_frees_the_thread_that_waits_for_it():
    response = Closing(b"x" * AHEAD for _ in range(100))
    bridge = WSGIBridge(answers(response))
    exchange = Exchange(bridge)
    await wait_until(lambda: exchange.sending)
    exchange.taking.set()
    await wait_until(lambda: exchange.reading == 2)
    exchange.taking.clear()
    exchange.left.set()
    assert await bridge.pool.drain(20)
    assert response.closed == 1
    exchange.taking.set()
    await exchange.task
    assert len(body_of(exchange.sent)) < 100 * AHEAD


async def test_messages_other_than_a_disconnect_do_not_end_a_response():
    release = threading.Event()

    def chunks():
        yield b"a"
        assert release.wait(20)
        yield b"b"

    messages = [request(b""), request(b"more"), request(b"and more")]
    exchange = Exchange(WSGIBridge(answers(chunks())), *messages)
    exchange.taking.set()
    await wait_until(lambda: exchange.reading == 4)
    release.set()
    await exchange.task
    assert body_of(exchange.sent) == b"ab"


async def test_an_exception_that_nobody_waits_for_is_logged_once(caplog):
    release = threading.Event()

    def app(environ, start_response):
        assert release.wait(20)
        raise ValueError("late")

    bridge = WSGIBridge(app)
    exchange = Exchange(bridge)
    await wait_until(lambda: bridge.pool._crew and bridge.pool._crew.threads)
    await exchange.cancel()
    assert levels(caplog) == []
    release.set()
    assert await bridge.pool.drain(20)
    assert levels(caplog) == ["ERROR"]


async def test_an_exception_behind_a_send_that_fails_is_logged_once(caplog):
    bridge = WSGIBridge(answers(raising(b"a")))
    exchange = Exchange(bridge)
    await wait_until(lambda: exchange.sending)
    assert await bridge.pool.drain(20)
    await exchange.cancel()
    assert levels(caplog) == ["ERROR"]


async def test_an_exception_that_a_cancellation_takes_the_place_of_is_logged_once(caplog):
    watched = threading.Event()
    cancelled = asyncio.Event()
    release = asyncio.Event()

    def chunks():
        yield b"a"
        assert watched.wait(20)
        raise ValueError("late")

    class Slow(Exchange):
        async def receive(self):
            watched.set()
            try:
                await self.left.wait()
            finally:
                cancelled.set()
                await release.wait()

    exchange = Slow(WSGIBridge(answers(chunks())))
    exchange.taking.set()
    await asyncio.wait_for(cancelled.wait(), 20)
    assert levels(caplog) == []
    exchange.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await exchange.task
    release.set()
    assert levels(caplog) == ["ERROR"]


@pytest.mark.parametrize("error", [OSError, ConnectionResetError, ClientDisconnected])
@pytest.mark.parametrize("chunks", [[b"a"], [b"a"] * 3, None])
@pytest.mark.parametrize("fatal", [0, 1])
async def test_an_oserror_of_send_is_a_client_that_left(chunks, error, fatal, caplog):
    def app(environ, start_response):
        start_response("200 OK", [])
        return chunks or environ["wsgi.file_wrapper"](io.BytesIO(b"file"))

    sent = []

    async def send(message):
        if len(sent) == fatal:
            raise error("gone")
        sent.append(message)

    exchange = Exchange(lambda scope, receive, _: WSGIBridge(app)(scope, receive, send))
    await exchange.task
    assert levels(caplog) == []


async def test_any_other_exception_of_send_goes_to_the_server():
    response = Closing([b"a", b"b"])
    bridge = WSGIBridge(answers(response))

    async def send(message):
        raise LookupError("the server's own")

    exchange = Exchange(lambda scope, receive, _: bridge(scope, receive, send))
    with pytest.raises(LookupError, match="the server's own"):
        await exchange.task
    assert await bridge.pool.drain(20)
    assert response.closed == 1


async def test_send_need_not_be_a_coroutine_function():
    loop = asyncio.get_running_loop()
    sent = []

    def send(message):
        sent.append(message)
        future = loop.create_future()
        loop.call_soon(future.set_result, None)
        return future

    bridge = WSGIBridge(answers([b"a", b"b"]))
    await Exchange(lambda scope, receive, _: bridge(scope, receive, send)).task
    assert body_of(sent) == b"ab"


@pytest.mark.parametrize("steps", range(40))
@pytest.mark.parametrize("kind", ["one chunk", "stream", "file"])
async def test_a_request_cancelled_at_any_moment_leaves_nothing_behind(kind, steps, caplog):
    made = []

    def app(environ, start_response):
        start_response("200 OK", [])
        if kind == "file":
            made.append(File(b"x" * 700 * KIB))
            return environ["wsgi.file_wrapper"](made[0])
        made.append(Closing([b"x"] if kind == "one chunk" else [b"x" * (AHEAD // 2)] * 5))
        return made[0]

    bridge = WSGIBridge(app)
    bodies = []
    messages = [request(b"a" * 300 * KIB, True), request(b"b" * 300 * KIB)]

    def recording(environ, start_response):
        bodies.append(environ["wsgi.input"])
        return app(environ, start_response)

    bridge.wsgi_application = recording
    exchange = Exchange(bridge, *messages)
    for step in range(steps):
        if step == 20:
            exchange.taking.set()
        # Threads get their turn too.
        await asyncio.sleep(0.0005 * (step % 2))
    exchange.task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await exchange.task
    assert await bridge.pool.drain(20)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert [getattr(one, "closings", None) or one.closed for one in made] == [1] * len(made)
    assert all(body.closed for body in bodies)
    assert levels(caplog) == []


async def test_a_file_handed_over_after_the_cancellation_is_closed():
    release = threading.Event()
    file = File(b"x" * 700 * KIB)

    def app(environ, start_response):
        assert release.wait(20)
        start_response("200 OK", [])
        return environ["wsgi.file_wrapper"](file)

    bridge = WSGIBridge(app)
    exchange = Exchange(bridge)
    await wait_until(lambda: bridge.pool._crew and bridge.pool._crew.threads)
    await exchange.cancel()
    release.set()
    assert await bridge.pool.drain(20)
    assert file.closings == 1


async def test_a_file_that_is_there_when_its_request_is_cancelled_is_closed():
    release = threading.Event()
    files, bodies = [], []

    def app(environ, start_response):
        assert release.wait(20)
        start_response("200 OK", [])
        bodies.append(environ["wsgi.input"])
        files.append(io.BytesIO(b"x" * 700 * KIB))
        return environ["wsgi.file_wrapper"](files[0])

    bridge = WSGIBridge(app)
    exchange = Exchange(bridge)
    await wait_until(lambda: bridge.pool._crew and bridge.pool._crew.threads)
    bridge.pool._crew.idle = idle = Idle()
    release.set()
    # The loop does nothing meanwhile, so that the task does not yet know.
    assert idle.fallen.acquire(timeout=20)
    await exchange.cancel()
    assert await bridge.pool.drain(20)
    assert files[0].closed
    assert bodies[0].closed


async def test_a_file_is_closed_behind_the_read_that_a_cancellation_interrupts():
    file = File(b"x" * 700 * KIB)
    file.go_on.clear()

    def app(environ, start_response):
        start_response("200 OK", [])
        return environ["wsgi.file_wrapper"](file)

    bridge = WSGIBridge(app)
    exchange = Exchange(bridge)
    exchange.taking.set()
    await wait_until(file.reading.is_set)
    exchange.task.cancel()
    await asyncio.sleep(0)
    assert file.closings == 0
    file.go_on.set()
    await asyncio.wait([exchange.task])
    assert file.closings == 1


def on_a_loop_that_closes(bridge, started):
    """Begin a request, whose loop closes when ``started`` is set; return it."""

    async def begin():
        exchange = Exchange(bridge)
        await wait_until(started.is_set)
        return exchange

    # As asyncio.run does, but without the tasks being cancelled.
    loop = asyncio.new_event_loop()
    exchange = loop.run_until_complete(begin())
    loop.close()
    return exchange


def test_a_loop_that_closes_ends_the_response():
    closed = threading.Event()
    release = threading.Event()
    started = threading.Event()

    class Response(Closing):
        def close(self):
            super().close()
            closed.set()

    def chunks():
        started.set()
        assert release.wait(20)
        while True:
            yield b"x"

    response = Response(chunks())
    bridge = WSGIBridge(answers(response))

    exchange = on_a_loop_that_closes(bridge, started)
    release.set()
    assert closed.wait(20)
    assert response.closed == 1
    exchange.task.get_coro().close()


@pytest.mark.parametrize("kind", ["error", "file"])
def test_a_loop_that_closes_before_a_view_ends_loses_nothing(kind, caplog):
    release = threading.Event()
    started = threading.Event()
    file = File(b"x" * 700 * KIB)

    def app(environ, start_response):
        started.set()
        assert release.wait(20)
        if kind == "error":
            raise ValueError("late")
        start_response("200 OK", [])
        return environ["wsgi.file_wrapper"](file)

    bridge = WSGIBridge(app)

    exchange = on_a_loop_that_closes(bridge, started)
    release.set()
    assert asyncio.run(bridge.pool.drain(20))
    assert (file.closings, levels(caplog)) == ((0, ["ERROR"]) if kind == "error" else (1, []))
    exchange.task.get_coro().close()


class Ends:
    """Responses whose clients leave, or are cancelled, at any moment; and how they have ended."""

    def __init__(self, seed):
        self.chance = random.Random(seed)
        self.closed = []
        self.bodies = []
        self.raised = []
        self.heard = Counter()

    def app(self, environ, start_response):
        self.bodies.append(environ["wsgi.input"])
        start_response("200 OK", [])
        chunks = [b"abc"] * self.chance.randrange(15)
        if environ["QUERY_STRING"] == "file":
            # A large one is read by the loop's side.
            file = io.BytesIO(b"".join(chunks) * self.chance.choice([1, 100_000]))
            self.closed.append(file)
            return environ["wsgi.file_wrapper"](file)
        result = Closing(self.chunks(chunks, environ["QUERY_STRING"] == "fails"))
        self.closed.append(result)
        return result

    def chunks(self, chunks, fails):
        yield from chunks
        if fails:
            error = ValueError("late")
            self.raised.append(error)
            raise error

    async def serve(self, bridge):
        left = asyncio.Event()

        async def receive():
            await left.wait()
            return DISCONNECT

        async def send(message):
            if self.chance.random() < 0.05:
                raise OSError("left")
            await asyncio.sleep(0)

        query = self.chance.choice([b"file", b"fails", b"chunks"])
        scope = http_scope(query_string=query)
        task = asyncio.create_task(bridge(scope, receive, send))
        for _ in range(self.chance.randrange(12)):
            await asyncio.sleep(0)
        self.chance.choice([task.cancel, left.set, int])()
        await asyncio.wait([task], timeout=20)
        if not task.cancelled() and task.exception() is not None:
            self.heard[task.exception()] += 1


@pytest.mark.usefixtures("switching")
async def test_all_is_closed_and_every_error_is_heard_once_however_it_ends(monkeypatch, caplog):
    monkeypatch.setattr(handover, "AHEAD", 15)
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    ends = Ends(seed)
    bridge = WSGIBridge(ends.app, 4)
    for _ in range(300):
        await asyncio.gather(*(ends.serve(bridge) for _ in range(6)))
    assert await bridge.pool.drain(20)
    ends.heard.update(record.exc_info[1] for record in caplog.records if record.exc_info)
    assert all(body.closed for body in ends.bodies)
    assert {each.closed for each in ends.closed} == {1}
    assert ends.heard == Counter(ends.raised)
