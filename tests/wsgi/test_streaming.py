"""How the event loop sends a body that is an async iterable."""

import asyncio
import contextvars
import signal
import threading
from time import monotonic, sleep

import pytest

from pyramid_asgi_consumers.exceptions import WSGIError
from pyramid_asgi_consumers.stopping import Stopping
from pyramid_asgi_consumers.wsgi import streaming
from pyramid_asgi_consumers.wsgi.bridge import WSGIBridge
from tests.support.asgi import body_of, http_scope, run
from tests.support.wsgi import Exchange, answers, wait_until


class Source:
    """An async generator that waits where it is told to, and notes how it ends.

    ``chunks`` are what it gives; an exception among them is raised, and ``...`` is waiting until
    :attr:`go_on` is set. ``late`` is raised at the end of its clean-up.
    """

    def __init__(self, *chunks, late=None):
        self.chunks = chunks
        self.late = late
        self.waits = asyncio.Event()
        self.go_on = asyncio.Event()
        self.asked = 0
        self.ended = []

    async def __aiter__(self):
        try:
            for chunk in self.chunks:
                self.asked += 1
                if chunk is ...:
                    self.waits.set()
                    await self.go_on.wait()
                elif isinstance(chunk, BaseException):
                    raise chunk
                else:
                    yield chunk
            self.ended.append("whole")
        except BaseException as error:
            self.ended.append(type(error).__name__)
            raise
        finally:
            await asyncio.sleep(0)
            self.ended.append("over")
            if self.late is not None:
                raise self.late


def bridge(source, headers=(), status="200 OK", **options):
    return WSGIBridge(answers(source, headers, status), **options)


def opened(source, headers=(), **options):
    """A request for ``source``, whose client reads."""
    exchange = Exchange(bridge(source, headers, **options))
    exchange.taking.set()
    return exchange


def length(size):
    return [("Content-Length", str(size))]


async def test_each_chunk_is_sent_as_it_comes():
    source = Source(b"one", ..., b"", b"two")
    exchange = opened(source)
    await asyncio.wait_for(source.waits.wait(), 20)
    assert [message.get("body") for message in exchange.sent] == [None, b"one"]
    source.go_on.set()
    await asyncio.wait_for(exchange.task, 20)
    assert [(message["body"], message["more_body"]) for message in exchange.sent[1:]] == [
        (b"one", True),
        (b"two", True),
        (b"", False),
    ]
    assert source.ended == ["whole", "over"]


async def test_one_that_ends_at_once_is_an_empty_body():
    sent = await run(bridge(Source()), http_scope())
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    assert body_of(sent) == b""


async def test_it_holds_no_thread():
    source = Source(b"one", ...)
    app = bridge(source, threads=1)
    exchanges = [Exchange(app) for _ in range(50)]
    for exchange in exchanges:
        exchange.taking.set()
        await wait_until(lambda exchange=exchange: len(exchange.sent) == 2)
    assert app.pool.crew().idle
    for exchange in exchanges:
        exchange.left.set()
        await asyncio.wait_for(exchange.task, 20)


async def test_a_slow_client_holds_it_back():
    source = Source(b"one", b"two", b"three")
    exchange = Exchange(bridge(source))
    await wait_until(lambda: exchange.sending)
    for _ in range(20):
        await asyncio.sleep(0)
    assert source.asked == 1
    exchange.taking.set()
    await asyncio.wait_for(exchange.task, 20)
    assert body_of(exchange.sent[1:]) == b"onetwothree"


async def test_others_have_their_turn_while_it_never_waits():
    turned = asyncio.Event()

    async def chunks():
        asyncio.get_running_loop().call_soon(turned.set)
        while not turned.is_set():
            yield b"x"

    sent = await run(bridge(chunks()), http_scope())
    assert len(sent) > 2


# The client leaves.


async def test_a_client_that_leaves_while_it_waits_closes_it(caplog):
    source = Source(b"one", ...)
    exchange = opened(source)
    await asyncio.wait_for(source.waits.wait(), 20)
    exchange.left.set()
    await asyncio.wait_for(exchange.task, 20)
    assert source.ended == ["CancelledError", "over"]
    assert not caplog.messages
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_client_that_leaves_while_it_is_held_back_closes_it():
    source = Source(b"one", b"two")
    exchange = Exchange(bridge(source))
    await wait_until(lambda: exchange.sending)
    exchange.left.set()
    await asyncio.wait_for(exchange.task, 20)
    assert source.ended == ["GeneratorExit", "over"]


async def test_a_client_that_leaves_before_the_first_chunk_closes_it(caplog):
    source = Source(...)
    exchange = opened(source)
    await asyncio.wait_for(source.waits.wait(), 20)
    exchange.left.set()
    await asyncio.wait_for(exchange.task, 20)
    assert source.ended == ["CancelledError", "over"]
    assert exchange.sent[0]["status"] == 400
    assert not caplog.messages


async def test_what_it_raises_after_its_client_has_left_is_logged(caplog):
    source = Source(b"one", ..., late=KeyError("late"))
    exchange = opened(source)
    await asyncio.wait_for(source.waits.wait(), 20)
    exchange.left.set()
    await asyncio.wait_for(exchange.task, 20)
    assert caplog.messages == ["A response that nobody waits for any more failed"]
    assert "KeyError: 'late'" in caplog.text


async def test_a_send_that_fails_closes_it(caplog):
    source = Source(b"one", b"two")

    async def send(message):
        if message.get("body"):
            raise OSError("gone")

    async def receive():
        await asyncio.Event().wait()

    await asyncio.wait_for(bridge(source)(http_scope(), receive, send), 20)
    assert source.ended == ["GeneratorExit", "over"]
    assert not caplog.messages


async def test_only_a_disconnect_means_that_the_client_has_left():
    message = {"type": "http.request", "body": b"", "more_body": False}
    source = Source(b"one", ..., b"two")
    exchange = Exchange(bridge(source), message, message)
    exchange.taking.set()
    await asyncio.wait_for(source.waits.wait(), 20)
    await wait_until(lambda: exchange.reading > 2)
    source.go_on.set()
    await asyncio.wait_for(exchange.task, 20)
    assert body_of(exchange.sent) == b"onetwo"


class Swallowing:
    """An async iterator that goes on when it is cancelled, until it is let go."""

    def __init__(self, chunk=b"more"):
        self.chunk = chunk
        self.waits = asyncio.Event()
        self.let_go = asyncio.Event()
        self.cancelled = 0

    def __aiter__(self):
        return self

    async def __anext__(self):
        self.task = asyncio.current_task()
        self.waits.set()
        while not self.let_go.is_set():
            try:
                await self.let_go.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
        return self.chunk


async def test_one_that_swallows_its_cancellation_ends_with_its_next_chunk():
    source = Swallowing()
    exchange = opened(source)
    await asyncio.wait_for(source.waits.wait(), 20)
    exchange.left.set()
    await wait_until(lambda: source.cancelled)
    source.let_go.set()
    await asyncio.wait_for(exchange.task, 20)
    assert exchange.sent[0]["status"] == 400


# It raises.


async def test_what_it_raises_before_its_first_chunk_is_a_500(caplog):
    for error in (KeyError("first"), OSError("its own")):
        sent = await run(bridge(Source(b"", error)), http_scope())
        assert sent[0]["status"] == 500
        assert f"{type(error).__name__}: " in caplog.text


async def test_what_it_raises_after_that_breaks_the_connection_off():
    for error in (KeyError("second"), OSError("its own")):
        exchange = opened(Source(b"one", error))
        await asyncio.wait([exchange.task], timeout=20)
        assert exchange.task.exception() is error
        assert [message.get("more_body") for message in exchange.sent] == [None, True]


class Raising:
    """An async iterator that raises ``error`` at its second chunk, or at its first."""

    def __init__(self, error, first=False):
        self.error = error
        self.first = first

    def __aiter__(self):
        return self

    async def __anext__(self):
        await asyncio.sleep(0)
        if self.first:
            raise self.error
        self.first = True
        return b"one"


EXITS = [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), asyncio.CancelledError()]


@pytest.mark.parametrize("error", EXITS, ids=repr)
async def test_what_it_raises_does_not_end_the_server(error, caplog):
    # A server has a handler of its own, under which a KeyboardInterrupt is not the user's.
    before = signal.signal(signal.SIGINT, lambda *args: None)
    try:
        sent = await run(bridge(Raising(error, first=True)), http_scope())
        exchange = opened(Raising(error))
        await asyncio.wait([exchange.task], timeout=20)
    finally:
        signal.signal(signal.SIGINT, before)
    assert sent[0]["status"] == 500
    assert f"The application raised {type(error).__name__}" in caplog.text
    assert f"The application raised {type(error).__name__}" in str(exchange.task.exception())


async def test_an_iterator_that_raises_stop_async_iteration_ends():
    sent = await run(bridge(Raising(StopAsyncIteration())), http_scope())
    assert body_of(sent) == b"one"


async def test_what_is_no_bytes_is_an_error():
    exchange = opened(Source(b"one", "two"))
    await asyncio.wait([exchange.task], timeout=20)
    with pytest.raises(WSGIError, match="must be bytes, not str"):
        exchange.task.result()


async def test_an_aiter_that_raises_is_a_500(caplog):
    class Wrong:
        def __aiter__(self):
            raise KeyError("aiter")

    sent = await run(bridge(Wrong()), http_scope())
    assert sent[0]["status"] == 500
    assert "KeyError: 'aiter'" in caplog.text


async def test_an_aiter_that_raises_an_os_error_does_not_say_that_the_client_left(caplog):
    class Wrong:
        def __aiter__(self):
            raise FileNotFoundError("aiter")

    sent = await run(bridge(Wrong()), http_scope())
    assert sent[0]["status"] == 500
    assert "FileNotFoundError: aiter" in caplog.text


async def test_start_response_was_to_be_called(caplog):
    source = Source(b"one")
    sent = await run(WSGIBridge(lambda environ, start_response: source), http_scope())
    assert sent[0]["status"] == 500
    assert source.asked == 0


# Its length.


async def test_more_than_its_content_length_is_cut_and_closes_it(caplog):
    source = Source(b"one", b"two", b"three", ...)
    sent = await run(bridge(source, length(5)), http_scope())
    assert body_of(sent) == b"onetw"
    assert sent[-1]["more_body"] is False
    assert source.ended == ["GeneratorExit", "over"]
    assert caplog.messages == ["The response is longer than its Content-Length; the rest is cut"]


async def test_fewer_break_the_connection_off():
    exchange = opened(Source(b"one"), length(5))
    await asyncio.wait([exchange.task], timeout=20)
    with pytest.raises(WSGIError, match="is 3 bytes, its Content-Length is 5"):
        exchange.task.result()


async def test_no_bytes_at_all_are_a_500():
    sent = await run(bridge(Source(), length(5)), http_scope())
    assert sent[0]["status"] == 500


@pytest.mark.parametrize(
    "method, status", [("HEAD", "200 OK"), ("GET", "204 No"), ("GET", "304 No")]
)
async def test_where_no_body_is_to_be_sent_it_is_not_read(method, status):
    source = Source(b"one", ...)
    sent = await run(bridge(source, length(3), status), http_scope("/", method))
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    assert body_of(sent) == b""
    assert source.asked == 0


async def test_after_write_a_thread_sends_it():
    source = Source(b"one", b"two")

    def app(environ, start_response):
        start_response("200 OK", [])(b"written ")
        return source

    assert body_of(await run(WSGIBridge(app), http_scope())) == b"written onetwo"
    assert source.ended == ["whole", "over"]


# Its context, and what the request leaves behind.

variable = contextvars.ContextVar("variable", default="nothing")


async def test_it_has_the_context_of_its_view_and_the_server_has_its_own():
    variable.set("the server's")
    seen = []

    async def chunks():
        seen.append(("chunk", variable.get()))
        variable.set("the body's")
        yield b"one"
        seen.append(("chunk", variable.get()))
        yield b"two"

    def app(environ, start_response):
        variable.set("the view's")
        start_response("200 OK", [])
        return chunks()

    async def send(message):
        await asyncio.sleep(0)
        seen.append((message.get("body", b"start"), variable.get()))

    async def receive():
        await asyncio.Event().wait()

    await asyncio.wait_for(WSGIBridge(app)(http_scope(), receive, send), 20)
    assert seen == [
        ("chunk", "the view's"),
        (b"start", "the server's"),
        (b"one", "the server's"),
        ("chunk", "the body's"),
        (b"two", "the server's"),
        (b"", "the server's"),
    ]


@pytest.mark.parametrize("size", [10, 600_000])
async def test_the_body_of_the_request_is_open_until_the_end(size):
    files = []

    async def chunks(environ):
        files.append(environ["wsgi.input"])
        yield files[0].read(3)
        yield files[0].read(3)

    def app(environ, start_response):
        start_response("200 OK", [])
        return chunks(environ)

    request = {"type": "http.request", "body": b"x" * size}
    sent = await run(WSGIBridge(app), http_scope("/", "POST"), request)
    assert body_of(sent) == b"xxxxxx"
    await wait_until(lambda: files[0].closed)


# A request that is cancelled.


async def test_a_request_that_is_cancelled_closes_it():
    source = Source(b"one", ...)
    exchange = opened(source)
    await asyncio.wait_for(source.waits.wait(), 20)
    await exchange.cancel()
    assert source.ended == ["CancelledError", "over"]


async def test_a_request_that_is_cancelled_logs_what_it_raises_then(caplog):
    source = Source(b"one", ..., late=KeyError("late"))
    exchange = opened(source)
    await asyncio.wait_for(source.waits.wait(), 20)
    await exchange.cancel()
    assert caplog.messages == ["A response that nobody waits for any more failed"]


async def test_a_request_that_is_cancelled_while_its_thread_runs_closes_it():
    begun, go_on = threading.Event(), threading.Event()
    closed = asyncio.Event()

    class Closable(Source):
        async def aclose(self):
            closed.set()

    source = Closable(b"one")

    def app(environ, start_response):
        begun.set()
        go_on.wait(20)
        start_response("200 OK", [])
        return source

    exchange = Exchange(WSGIBridge(app))
    await asyncio.to_thread(begun.wait, 20)
    exchange.task.cancel()
    await asyncio.wait([exchange.task], timeout=20)
    go_on.set()
    await asyncio.wait_for(closed.wait(), 20)
    assert source.asked == 0


@pytest.mark.parametrize("error", [None, KeyError("closing")])
async def test_a_request_that_is_cancelled_before_it_is_taken_closes_it(error, caplog):
    begun, go_on = threading.Event(), threading.Event()
    closed = []

    class Closable(Source):
        async def aclose(self):
            closed.append(True)
            if error is not None:
                raise error

    def app(environ, start_response):
        begun.set()
        go_on.wait(20)
        start_response("200 OK", [])
        return Closable(b"one")

    bridge = WSGIBridge(app)
    exchange = Exchange(bridge)
    await asyncio.to_thread(begun.wait, 20)
    go_on.set()
    deadline = monotonic() + 20
    # The event loop does not turn meanwhile, so it does not hear of the end yet.
    while not bridge.pool.crew().idle:
        assert monotonic() < deadline
        sleep(0.001)
    await exchange.cancel()
    assert closed == [True]
    failed = ["aclose() of the response iterable failed"]
    assert caplog.messages == ([] if error is None else failed)


async def test_what_its_closing_raises_is_an_error_of_its_own(caplog):
    source = Source(b"one", b"two", late=OSError("late"))
    exchange = Exchange(bridge(source))
    await wait_until(lambda: exchange.sending)
    exchange.left.set()
    await asyncio.wait_for(exchange.task, 20)
    assert caplog.messages == ["A response that nobody waits for any more failed"]


async def test_one_that_cancels_itself_is_an_error(caplog):
    class Cancelling(Swallowing):
        async def __anext__(self):
            asyncio.current_task().cancel()
            await asyncio.sleep(0)

    sent = await run(bridge(Cancelling()), http_scope())
    assert sent[0]["status"] == 500
    assert "The application raised CancelledError" in caplog.text


# The server stops.


class Ends:
    """Tells those that were added when the test says so."""

    def __init__(self):
        self.ends = set()
        #: The scopes of those whose clients are not waited for without a bound.
        self.broken_off = []

    def of(self, loop):
        return self

    def add(self, end):
        self.ends.add(end)

    def discard(self, end):
        self.ends.discard(end)

    def break_off(self, scope):
        self.broken_off.append(scope)

    def begin(self):
        for end in list(self.ends):
            end()


@pytest.fixture
def ends():
    return Ends()


async def test_without_an_end_it_is_closed_and_its_connection_broken_off(ends):
    source = Source(b"one", ...)
    exchange = opened(source, stopping=ends)
    await asyncio.wait_for(source.waits.wait(), 20)
    ends.begin()
    await asyncio.wait([exchange.task], timeout=20)
    # A response that does not end is broken off, and no error of the application's.
    exchange.task.result()
    assert source.ended == ["CancelledError", "over"]
    assert [message.get("more_body") for message in exchange.sent] == [None, True]
    assert not ends.ends
    assert [scope["type"] for scope in ends.broken_off] == ["http"]


async def test_one_that_has_not_begun_is_a_503(ends):
    source = Source(...)
    exchange = opened(source, stopping=ends)
    await asyncio.wait_for(source.waits.wait(), 20)
    ends.begin()
    await asyncio.wait_for(exchange.task, 20)
    assert exchange.sent[0]["status"] == 503
    assert source.ended == ["CancelledError", "over"]


async def test_one_that_ends_soon_is_whole(ends):
    source = Source(b"one", ..., b"two")
    exchange = opened(source, stopping=ends)
    await asyncio.wait_for(source.waits.wait(), 20)
    ends.begin()
    source.go_on.set()
    await asyncio.wait_for(exchange.task, 20)
    assert body_of(exchange.sent[1:]) == b"onetwo"
    assert exchange.sent[-1]["more_body"] is False


async def test_one_that_ends_when_it_would_be_broken_off_is_whole(ends, monkeypatch):
    monkeypatch.setattr(streaming, "GRACE", 0)
    source = Source(b"one", ...)
    exchange = opened(source, stopping=ends)
    await asyncio.wait_for(source.waits.wait(), 20)
    # Its last step is before that, and what is called at its end behind it.
    source.go_on.set()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    ends.begin()
    await asyncio.wait_for(exchange.task, 20)
    assert exchange.sent[-1]["more_body"] is False


async def test_one_with_a_content_length_goes_on(ends, monkeypatch):
    monkeypatch.setattr(streaming, "GRACE", 0)
    source = Source(b"one", ..., b"two")
    exchange = opened(source, length(6), stopping=ends)
    await asyncio.wait_for(source.waits.wait(), 20)
    ends.begin()
    await asyncio.sleep(0.05)
    source.go_on.set()
    await asyncio.wait_for(exchange.task, 20)
    assert body_of(exchange.sent) == b"onetwo"
    assert ends.broken_off == []


@pytest.mark.parametrize("left", [True, False])
async def test_one_that_does_not_end_holds_the_server_up_for_a_bounded_time(
    ends, left, monkeypatch, caplog
):
    monkeypatch.setattr(streaming, "GRACE", 0)
    monkeypatch.setattr("pyramid_asgi_consumers.stubborn.PATIENCE", 0.1)
    source = Swallowing()
    exchange = opened(source, stopping=ends)
    await asyncio.wait_for(source.waits.wait(), 20)
    if left:
        exchange.left.set()
        await wait_until(lambda: source.cancelled)
        assert not exchange.task.done()
    ends.begin()
    await asyncio.wait_for(exchange.task, 20)
    assert exchange.sent[0]["status"] == (400 if left else 503)
    assert "Left alone, since it goes on 0.1 s after it was cancelled" in caplog.text
    source.let_go.set()
    await asyncio.wait({source.task}, timeout=20)
    assert source.task.done()


async def test_one_whose_client_leaves_as_the_server_stops_is_cancelled_once(ends, monkeypatch):
    monkeypatch.setattr(streaming, "GRACE", 0.02)
    waits, tidied = asyncio.Event(), asyncio.Event()

    async def source():
        try:
            yield b"one"
            waits.set()
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.1)
            tidied.set()

    exchange = opened(source(), stopping=ends)
    await asyncio.wait_for(waits.wait(), 20)
    ends.begin()
    exchange.left.set()
    await asyncio.wait_for(exchange.task, 20)
    assert tidied.is_set()


async def test_a_request_that_is_cancelled_does_not_wait_for_it_for_ever(monkeypatch, caplog):
    monkeypatch.setattr("pyramid_asgi_consumers.quirks.patience", lambda: 0.1)
    source = Swallowing()
    exchange = opened(source)
    await asyncio.wait_for(source.waits.wait(), 20)
    exchange.task.cancel()
    await asyncio.wait([exchange.task], timeout=20)
    assert exchange.task.cancelled()
    assert "Left alone" in caplog.text
    source.let_go.set()
    await asyncio.wait({source.task}, timeout=20)
    assert source.task.done()


async def test_an_application_s_stopping_tells_it():
    stopping = Stopping()
    source = Source(b"one", ...)
    exchange = opened(source, stopping=stopping)
    await asyncio.wait_for(source.waits.wait(), 20)
    assert stopping.of(asyncio.get_running_loop())._ends
    exchange.left.set()
    await asyncio.wait_for(exchange.task, 20)
    assert not stopping.of(asyncio.get_running_loop())._ends


# A send that is no coroutine function, as Granian's.


class Awaitable:
    """What can be awaited once, whose steps cannot be thrown into."""

    def __init__(self, sent, message):
        self.sent = sent
        self.message = message

    def __await__(self):
        return self

    def __next__(self):
        self.sent.append(self.message)
        raise StopIteration


async def test_send_may_return_any_awaitable():
    sent = []

    async def receive():
        await asyncio.Event().wait()

    await bridge(Source(b"one"))(http_scope(), receive, lambda message: Awaitable(sent, message))
    assert body_of(sent[1:]) == b"one"


class Waiting:
    """As Awaitable, but that it goes on waiting."""

    def __init__(self, waits):
        self.waits = waits

    def __await__(self):
        return self

    def __next__(self):
        self.waits.set()
        return None


async def test_what_cannot_be_thrown_into_is_left():
    waits = asyncio.Event()
    left = asyncio.Event()

    async def receive():
        await left.wait()
        return {"type": "http.disconnect"}

    source = Source(b"one")
    app = bridge(source)
    task = asyncio.create_task(app(http_scope(), receive, lambda message: Waiting(waits)))
    await asyncio.wait_for(waits.wait(), 20)
    left.set()
    await asyncio.wait([task], timeout=20)
    assert source.ended == ["GeneratorExit", "over"]
