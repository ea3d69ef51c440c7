"""What PEP 3333 asks of the server about one response, through the bridge."""

import asyncio
import contextlib
import io
import os
import random
import sys
import threading
import types
from collections import Counter

import pytest

from pyramid_asgi_consumers import WSGIBridge
from pyramid_asgi_consumers.exceptions import ClientDisconnected, WSGIError
from pyramid_asgi_consumers.wsgi import response as response_module
from pyramid_asgi_consumers.wsgi.response import AHEAD, Ahead, FileWrapper, Response
from pyramid_asgi_consumers.wsgi.threads import Settler
from tests.support.asgi import body_of, http_scope, run
from tests.support.wsgi import DISCONNECT, Closing, Exchange, Idle, answers, request, wait_until

KIB = 1024


def status_of(sent):
    return sent[0]["status"]


def levels(caplog):
    own = (record for record in caplog.records if record.name.startswith("pyramid_asgi"))
    return [record.levelname for record in own]


# Messages and hops


async def test_a_response_of_one_chunk_is_two_messages():
    sent = await run(WSGIBridge(answers([b"hello"], [("X-A", "1"), ("X-A", "\xe9")])), http_scope())
    assert sent == [
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [(b"x-a", b"1"), (b"x-a", b"\xe9"), (b"content-length", b"5")],
        },
        {"type": "http.response.body", "body": b"hello", "more_body": False},
    ]


async def test_a_response_of_one_chunk_costs_one_hop_there_and_one_back(monkeypatch):
    bridge = WSGIBridge(answers([b"hello"]))
    await run(bridge, http_scope())
    # An answer may be seen before the call that tells of it.
    await wait_until(lambda: not bridge._settler._called)
    loop = asyncio.get_running_loop()
    hops = []

    def counting(name, function):
        def counted(*args):
            hops.append(name)
            return function(*args)

        return counted

    monkeypatch.setattr(bridge.pool, "submit", counting("there", bridge.pool.submit))
    back = counting("back", loop.call_soon_threadsafe)
    monkeypatch.setattr(loop, "call_soon_threadsafe", back)
    await run(bridge, http_scope())
    await wait_until(lambda: hops[1:])
    assert hops == ["there", "back"]


async def test_a_chunk_is_sent_when_it_is_made():
    first_sent = threading.Event()

    def chunks():
        yield b"one"
        assert first_sent.wait(20)
        yield b"two"

    exchange = Exchange(WSGIBridge(answers(chunks())))
    exchange.taking.set()
    await wait_until(lambda: body_of(exchange.sent) == b"one")
    first_sent.set()
    await exchange.task
    assert body_of(exchange.sent) == b"onetwo"


async def test_small_chunks_that_wait_are_sent_together():
    made = threading.Event()

    def chunks():
        for _ in range(100):
            yield b"x" * 1000
        made.set()

    exchange = Exchange(WSGIBridge(answers(chunks())))
    await wait_until(made.is_set)
    exchange.taking.set()
    await exchange.task
    assert len(body_of(exchange.sent)) == 100_000
    assert len(exchange.sent) <= 5


async def test_a_thread_is_only_so_far_ahead_of_a_stalled_client():
    made = []

    def chunks():
        for _ in range(100):
            made.append(1)
            yield b"x" * (64 * KIB)

    exchange = Exchange(WSGIBridge(answers(chunks())))
    ahead = AHEAD // (64 * KIB)
    await wait_until(lambda: len(made) > ahead)
    assert len(made) <= ahead + 2
    exchange.taking.set()
    await asyncio.wait_for(exchange.task, 20)
    assert len(body_of(exchange.sent)) == 100 * 64 * KIB


async def test_many_responses_share_what_they_may_be_ahead(monkeypatch):
    monkeypatch.setattr(response_module, "ALL_AHEAD", 20 * KIB)
    monkeypatch.setattr(response_module, "LEAST_AHEAD", KIB)
    made = Counter()
    expected = Counter()
    entered = [threading.Event() for _ in range(17)]

    def answer(environ, start_response):
        number = int(environ["QUERY_STRING"])
        start_response("200 OK", [])
        for each in range(400):
            made[number] += 1
            yield b"x" * KIB
            if not each:
                entered[number].wait(20)

    bridge = WSGIBridge(answer, 20)
    exchanges = []
    for number in range(1, 17):
        query = str(number).encode()
        exchanges.append(Exchange(bridge, scope=http_scope(query_string=query)))
        await wait_until(lambda number=number: bridge._ahead._responses == number)
        entered[number].set()
        # The first is taken, and that which does not fit waits.
        expected[number] = 1 + max(1, 20 // number) + 1
        await wait_until(lambda number=number: made[number] == expected[number])
    await asyncio.sleep(0.05)
    assert made == expected
    for exchange in exchanges:
        exchange.taking.set()
    await asyncio.wait_for(asyncio.gather(*(exchange.task for exchange in exchanges)), 20)
    assert [len(body_of(exchange.sent)) for exchange in exchanges] == [400 * KIB] * 16
    assert bridge._ahead.most == 20 * KIB


@pytest.mark.parametrize("chunks", [[], [b"", b""], FileWrapper(io.BytesIO(b"x" * KIB))])
async def test_a_response_without_chunks_takes_no_share(chunks):
    bridge = WSGIBridge(answers(chunks))
    exchange = Exchange(bridge)
    await wait_until(lambda: exchange.sending)
    assert bridge._ahead._responses == 0
    exchange.taking.set()
    await asyncio.wait_for(exchange.task, 20)


@pytest.mark.usefixtures("switching")
@pytest.mark.parametrize("size", [1, 1000, 100_000])
async def test_chunks_arrive_whole_and_in_order_however_threads_switch(size, monkeypatch):
    monkeypatch.setattr(response_module, "AHEAD", 5 * size)

    def answer(environ, start_response):
        start_response("200 OK", [])
        return (bytes([number % 256]) * size for number in range(300))

    bridge = WSGIBridge(answer, 4)
    expected = b"".join(bytes([number % 256]) * size for number in range(300))
    for _ in range(5):
        answered = await asyncio.gather(*(run(bridge, http_scope()) for _ in range(8)))
        assert [body_of(sent) for sent in answered] == [expected] * 8


@pytest.mark.usefixtures("switching")
async def test_a_response_that_fails_never_ends_as_if_whole_however_threads_switch():
    def app(environ, start_response):
        start_response("200 OK", [])
        return raising(b"a")

    bridge = WSGIBridge(app, 4)

    async def fails():
        exchange = Exchange(bridge)
        exchange.taking.set()
        with pytest.raises(ValueError, match="late"):
            await exchange.task
        return [message.get("more_body") for message in exchange.sent]

    for _ in range(100):
        answered = await asyncio.gather(*(fails() for _ in range(8)))
        assert [True in sent and False not in sent for sent in answered] == [True] * 8


class Moment:
    """A lock at which something happens just before it is taken."""

    def __init__(self, happens):
        self.lock = threading.Lock()
        self.happens = happens

    def __enter__(self):
        happens, self.happens = self.happens, int
        happens()
        self.lock.acquire()

    def __exit__(self, *exc_info):
        self.lock.release()


def one_response():
    environ = {"REQUEST_METHOD": "GET"}
    settler = Settler(asyncio.get_running_loop())
    response = Response(None, environ, io.BytesIO(), settler, None, Ahead())
    response._news = None
    response.start_response("200 OK", [])
    response._start()
    return response


async def test_a_chunk_that_comes_just_before_it_is_waited_for_is_taken():
    response = one_response()
    response._lock = Moment(lambda: response._put(b"a"))
    assert await asyncio.wait_for(response._wait(), 20) == (b"a", False)


async def test_a_thread_does_not_wait_for_room_that_was_made_just_before(monkeypatch):
    monkeypatch.setattr(response_module, "AHEAD", 2)
    response = one_response()
    response._lock = Moment(response._take)
    await asyncio.wait_for(asyncio.to_thread(response._put, b"abc"), 20)
    response._put(b"d")
    assert response._take() == (b"d", False)


async def test_a_chunk_greater_than_the_bound_passes():
    chunks = [b"x" * (3 * AHEAD), b"y" * (2 * AHEAD)]
    assert body_of(await run(WSGIBridge(answers(chunks)), http_scope())) == b"".join(chunks)


# start_response and write


async def test_headers_wait_for_the_first_chunk_that_is_not_empty():
    release = threading.Event()
    waiting = threading.Event()

    def app(environ, start_response):
        start_response("200 OK", [("X-First", "1")])
        yield b""
        waiting.set()
        assert release.wait(20)
        try:
            raise ValueError
        except ValueError:
            start_response("503 Service Unavailable", [("X-Second", "2")], sys.exc_info())
        yield b"sorry"

    exchange = Exchange(WSGIBridge(app))
    await wait_until(waiting.is_set)
    assert exchange.sending == 0
    release.set()
    exchange.taking.set()
    await exchange.task
    assert status_of(exchange.sent) == 503
    assert exchange.sent[0]["headers"] == [(b"x-second", b"2")]


async def test_start_response_again_after_the_start_raises_what_it_was_given():
    raised = []

    def app(environ, start_response):
        start_response("200 OK", [])
        yield b"a"
        try:
            raise ValueError("first")
        except ValueError as error:
            raised.append(error)
            start_response("500 Error", [], sys.exc_info())

    with pytest.raises(ValueError, match="first") as error:
        await run(WSGIBridge(app), http_scope())
    assert error.value is raised[0]


async def test_start_response_again_without_exc_info_is_an_error():
    def app(environ, start_response):
        start_response("200 OK", [])
        start_response("200 OK", [])

    assert status_of(await run(WSGIBridge(app), http_scope())) == 500


async def test_start_response_may_wait_for_the_iteration():
    def app(environ, start_response):
        start_response("201 Created", [])
        yield b"made"

    sent = await run(WSGIBridge(app), http_scope())
    assert (status_of(sent), body_of(sent)) == (201, b"made")


@pytest.mark.parametrize("result", [[], [b""], [b"a"], [b"", b"a"]])
async def test_start_response_never_called_is_500(result, caplog):
    response = Closing(result)
    assert status_of(await run(WSGIBridge(lambda *args: response), http_scope())) == 500
    assert response.closed == 1
    assert "start_response" in caplog.text


async def test_write_sends_before_the_iterable():
    def app(environ, start_response):
        write = start_response("200 OK", [])
        write(b"a")
        write(b"")
        return [b"b"]

    sent = await run(WSGIBridge(app), http_scope())
    assert body_of(sent) == b"ab"
    assert sent[0]["headers"] == []


class Writing:
    """Says that it is one chunk, and writes."""

    def __init__(self, before=(), after=()):
        self.before = before
        self.after = after

    def __call__(self, environ, start_response):
        self.write = start_response("200 OK", [])
        return self

    def __len__(self):
        return 1

    def __iter__(self):
        for data in self.before:
            self.write(data)
        yield b"world"
        for data in self.after:
            self.write(data)


async def test_write_within_the_iteration_is_sent_where_it_was_called():
    assert body_of(await run(WSGIBridge(Writing([b"hello "])), http_scope())) == b"hello world"


async def test_write_behind_the_only_chunk_is_beyond_its_length(caplog):
    assert body_of(await run(WSGIBridge(Writing(after=[b"!"])), http_scope())) == b"world"
    assert levels(caplog) == ["WARNING"]


async def test_write_raises_where_the_client_has_left(caplog):
    raised = []
    left = threading.Event()

    def app(environ, start_response):
        write = start_response("200 OK", [])
        write(b"a")
        assert left.wait(20)
        try:
            write(b"b")
        except OSError as error:
            raised.append(error)
            raise

    bridge = WSGIBridge(app)
    exchange = Exchange(bridge)
    exchange.taking.set()
    exchange.left.set()
    await exchange.task
    left.set()
    assert await bridge.pool.drain(20)
    assert [type(error) for error in raised] == [ClientDisconnected]
    assert levels(caplog) == []


# Status and headers


async def test_a_cookie_is_not_kept():
    before = response_module._cached_header.cache_info().currsize
    for number in range(3):
        headers = [("Set-Cookie", f"session={number} of this test")]
        sent = await run(WSGIBridge(answers([b""], headers)), http_scope())
        assert (b"set-cookie", headers[0][1].encode()) in sent[0]["headers"]
    assert response_module._cached_header.cache_info().currsize == before


async def test_a_status_needs_no_reason():
    assert status_of(await run(WSGIBridge(answers([b"a"], status="418")), http_scope())) == 418


@pytest.mark.parametrize("headers", [(("A", "b"),), [["A", "b"]], (["A", "b"],)])
async def test_headers_need_not_be_a_list_of_tuples(headers):
    def app(environ, start_response):
        start_response("200 OK", headers)
        return [b""]

    sent = await run(WSGIBridge(app), http_scope())
    assert sent[0]["headers"][0] == (b"a", b"b")


async def test_a_status_of_600_and_more_is_the_server_s_to_judge():
    def app(environ, start_response):
        start_response("799 Much", [])
        return [b""]

    assert status_of(await run(WSGIBridge(app), http_scope())) == 799


async def test_space_around_a_value_is_no_part_of_it():
    sent = await run(WSGIBridge(answers([b""], [("X-A", " a b\t")])), http_scope())
    assert sent[0]["headers"][0] == (b"x-a", b"a b")


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        ("200", [("Connection", "close")]),
        ("200", [("Transfer-Encoding", "chunked")]),
        ("200", [("A", "b\r\nc: d")]),
        ("200", [("A", "\u20ac")]),
        ("200", [("A b", "c")]),
        ("200", [("", "c")]),
        ("200", [("\xe9", "c")]),
        ("200", [("A", 1)]),
        ("200", [(b"A", "b")]),
        ("200", [("A", "b", "c")]),
        ("200", {"A": "b"}),
        ("200", [("Content-Length", "many")]),
        ("200", [("Content-Length", "-1")]),
        ("200", [("Content-Length", "1"), ("Content-Length", "2")]),
        ("200 OK\r\nA: b", []),
        ("abc", []),
        ("101 Switching Protocols", []),
        ("1000 Too Much", []),
        (b"200 OK", []),
        (200, []),
    ],
)
async def test_what_pep_3333_forbids_is_500(status, headers):
    def app(environ, start_response):
        start_response(status, headers)
        return [b"a"]

    assert status_of(await run(WSGIBridge(app), http_scope())) == 500


@pytest.mark.parametrize("result", [None, ["text"], [1], "text", b"bytes", [None, b"a"]])
async def test_a_body_that_is_not_chunks_of_bytes_is_500(result):
    assert status_of(await run(WSGIBridge(answers(result)), http_scope())) == 500


# Content-Length


@pytest.mark.parametrize(
    ("chunks", "headers", "expected"),
    [
        ([b"abc"], [], [b"3"]),
        ((b"",), [], [b"0"]),
        ([b"abc"], [("Content-Length", "3")], [b"3"]),
        ([b"abc"], [("Content-Length", "3")] * 2, [b"3", b"3"]),
        ([b"abc", b"d"], [], []),
        ([], [], []),
        (iter([b"abc"]), [], []),
    ],
)
async def test_the_length_of_an_only_chunk_is_its_content_length(chunks, headers, expected):
    sent = await run(WSGIBridge(answers(chunks, headers)), http_scope())
    assert [value for name, value in sent[0]["headers"] if name == b"content-length"] == expected


async def test_a_sequence_that_is_longer_than_it_says_is_cut():
    class Sequence(Closing):
        def __len__(self):
            return 1

    response = Sequence([b"ab", b"cd"])
    assert body_of(await run(WSGIBridge(answers(response)), http_scope())) == b"ab"
    assert response.closed == 1


@pytest.mark.parametrize("chunks", [[b"ab", b"cd", b"ef"], [b"abcdef"], [b"abc", b"def"]])
async def test_more_bytes_than_content_length_are_cut_and_logged_once(chunks, caplog):
    bridge = WSGIBridge(answers(chunks, [("Content-Length", "3")]))
    assert body_of(await run(bridge, http_scope())) == b"abc"
    assert levels(caplog) == ["WARNING"]


@pytest.mark.parametrize("kind", [list, Closing])
@pytest.mark.parametrize("chunks", [[b"ab"], [b"a", b"b"], [b""], []])
async def test_fewer_bytes_than_content_length_break_off(chunks, kind, caplog):
    exchange = Exchange(WSGIBridge(answers(kind(chunks), [("Content-Length", "3")])))
    exchange.taking.set()
    if not b"".join(chunks):
        await exchange.task
        assert status_of(exchange.sent) == 500
    else:
        with pytest.raises(WSGIError, match="Content-Length is 3"):
            await exchange.task
        assert exchange.sent[-1]["more_body"]


@pytest.mark.parametrize("chunks", [[b"abc"], [b"a", b"bc"], [], [b""], iter([b"abc"])])
@pytest.mark.parametrize(
    ("method", "status", "kept"),
    [("HEAD", "200 OK", True), ("GET", "204 No Content", False), ("GET", "304", False)],
)
async def test_some_responses_have_no_body(method, status, kept, chunks):
    headers = [("Content-Length", "3"), ("X-A", "b")]
    bridge = WSGIBridge(answers(chunks, headers, status))
    sent = await run(bridge, http_scope(method=method))
    assert sent[1:] == [{"type": "http.response.body", "body": b"", "more_body": False}]
    assert sent[0]["headers"] == [(b"content-length", b"3")] * kept + [(b"x-a", b"b")]


async def test_a_head_request_is_not_told_the_length_of_what_it_gets():
    sent = await run(WSGIBridge(answers([b""])), http_scope(method="HEAD"))
    assert sent[0]["headers"] == []


# close()


def raising(*chunks):
    yield from chunks
    raise ValueError("late")


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


# Requests that are cancelled


class File(io.BytesIO):
    """A file that waits in read(), and counts how often it is closed."""

    def __init__(self, data):
        super().__init__(data)
        self.reading = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()
        self.closings = 0

    def read(self, size=-1):
        self.reading.set()
        assert self.go_on.wait(20)
        return super().read(size)

    def close(self):
        self.closings += 1
        super().close()


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
    file = File(b"x")

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
        files.append(io.BytesIO(b"x"))
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
    file = File(b"x")
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

    async def serve():
        exchange = Exchange(bridge)
        await wait_until(started.is_set)
        return exchange

    # As asyncio.run does, but without the tasks being cancelled.
    loop = asyncio.new_event_loop()
    exchange = loop.run_until_complete(serve())
    loop.close()
    release.set()
    assert closed.wait(20)
    assert response.closed == 1
    exchange.task.get_coro().close()


@pytest.mark.parametrize("kind", ["error", "file"])
def test_a_loop_that_closes_before_a_view_ends_loses_nothing(kind, caplog):
    release = threading.Event()
    started = threading.Event()
    file = File(b"x")

    def app(environ, start_response):
        started.set()
        assert release.wait(20)
        if kind == "error":
            raise ValueError("late")
        start_response("200 OK", [])
        return environ["wsgi.file_wrapper"](file)

    bridge = WSGIBridge(app)

    async def serve():
        exchange = Exchange(bridge)
        await wait_until(started.is_set)
        return exchange

    loop = asyncio.new_event_loop()
    exchange = loop.run_until_complete(serve())
    loop.close()
    release.set()
    assert asyncio.run(bridge.pool.drain(20))
    assert (file.closings, levels(caplog)) == ((0, ["ERROR"]) if kind == "error" else (1, []))
    exchange.task.get_coro().close()


# wsgi.file_wrapper


def file_app(file, headers=(), write=b""):
    def app(environ, start_response):
        start_response("200 OK", list(headers))(write)
        return environ["wsgi.file_wrapper"](file)

    return app


@pytest.mark.parametrize("size", [0, 1, 600_000])
@pytest.mark.parametrize("declared", [False, True])
async def test_a_file_is_sent_whole_and_closed(size, declared):
    file = File(b"x" * size)
    headers = [("Content-Length", str(size))] * declared
    sent = await run(WSGIBridge(file_app(file, headers), 1), http_scope())
    assert len(body_of(sent)) == size
    assert [message["more_body"] for message in sent[1:]].index(False) == len(sent) - 2
    assert file.closings == 1


@pytest.mark.parametrize(
    "begin, stands, length", [(b"abcdef", 0, b"6"), (b"abcdef", 4, b"2"), (b"", 0, None)]
)
async def test_a_file_that_can_tell_its_size_gets_its_content_length(begin, stands, length):
    file = File(begin)
    file.seek(stands)
    sent = await run(WSGIBridge(file_app(file)), http_scope())
    assert dict(sent[0]["headers"]).get(b"content-length") == length
    assert body_of(sent) == begin[stands:]


async def test_a_file_that_cannot_tell_its_size_is_sent_without():
    reading, writing = os.pipe()
    with open(writing, "wb") as file:
        file.write(b"abc")
    sent = await run(WSGIBridge(file_app(open(reading, "rb"))), http_scope())
    assert (sent[0]["headers"], body_of(sent)) == ([], b"abc")
    file = types.SimpleNamespace(read=lambda size: b"")
    sent = await run(WSGIBridge(file_app(file)), http_scope())
    assert (sent[0]["headers"], body_of(sent)) == ([], b"")


async def test_a_file_holds_no_thread_between_its_chunks():
    file = File(b"x" * 600_000)
    page = answers([b"page"])

    def app(environ, start_response):
        serve = file_app(file) if environ["PATH_INFO"] == "/file" else page
        return serve(environ, start_response)

    bridge = WSGIBridge(app, 1)
    exchange = Exchange(bridge, scope=http_scope("/file"))
    await wait_until(lambda: exchange.sending)
    assert body_of(await run(bridge, http_scope())) == b"page"
    exchange.taking.set()
    await exchange.task
    assert len(body_of(exchange.sent)) == 600_000


async def test_a_file_is_read_no_further_than_its_content_length():
    file = File(b"abcdef")
    sent = await run(WSGIBridge(file_app(file, [("Content-Length", "4")])), http_scope())
    assert (body_of(sent), file.closings) == (b"abcd", 1)


async def test_a_file_that_gives_more_than_it_is_asked_for_is_cut():
    class Generous(File):
        def read(self, size=-1):
            return super().read()

    sent = await run(
        WSGIBridge(file_app(Generous(b"abcd"), [("Content-Length", "3")])), http_scope()
    )
    assert body_of(sent) == b"abc"


async def test_a_file_shorter_than_its_content_length_breaks_off():
    file = File(b"abc")
    with pytest.raises(WSGIError, match="6 bytes before"):
        await run(WSGIBridge(file_app(file, [("Content-Length", "9")])), http_scope())
    assert file.closings == 1


async def test_a_file_that_cannot_be_read_breaks_off():
    class Broken(File):
        def read(self, size=-1):
            raise OSError("bad sector")

    file = Broken(b"")
    with pytest.raises(OSError, match="bad sector"):
        await run(WSGIBridge(file_app(file)), http_scope())
    assert file.closings == 1


async def test_a_file_of_text_breaks_off():
    with pytest.raises(WSGIError, match="must give bytes, not str"):
        await run(WSGIBridge(file_app(io.StringIO("text"))), http_scope())


async def test_a_file_without_close_is_sent():
    class Reader:
        read = io.BytesIO(b"abc").read

    assert body_of(await run(WSGIBridge(file_app(Reader())), http_scope())) == b"abc"


async def test_a_file_after_write_is_sent_behind_it():
    file = File(b"file")
    sent = await run(WSGIBridge(file_app(file, write=b"written, ")), http_scope())
    assert (body_of(sent), file.closings) == (b"written, file", 1)


async def test_a_file_for_a_head_request_is_closed_and_not_sent():
    file = File(b"file")
    sent = await run(WSGIBridge(file_app(file)), http_scope(method="HEAD"))
    assert (body_of(sent), file.closings) == (b"", 1)


@pytest.mark.parametrize("start", [True, False])
async def test_a_file_of_a_response_that_fails_is_closed(start):
    file = File(b"file")

    def app(environ, start_response):
        if start:
            start_response("200 OK", [("Content-Length", "x")])
        return environ["wsgi.file_wrapper"](file)

    assert status_of(await run(WSGIBridge(app), http_scope())) == 500
    assert file.closings == 1


async def test_a_client_that_leaves_closes_the_file():
    file = File(b"x" * 2**22)
    exchange = Exchange(WSGIBridge(file_app(file)))
    await wait_until(lambda: exchange.sending)
    exchange.left.set()
    exchange.taking.set()
    await exchange.task
    assert file.closings == 1
    assert len(body_of(exchange.sent)) < 2**22


async def test_the_request_body_may_be_the_file():
    def app(environ, start_response):
        start_response("200 OK", [])
        return environ["wsgi.file_wrapper"](environ["wsgi.input"])

    body = b"x" * 700 * KIB
    sent = await run(WSGIBridge(app), http_scope(method="POST"), request(body))
    assert body_of(sent) == body


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
            file = io.BytesIO(b"".join(chunks))
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
    monkeypatch.setattr(response_module, "AHEAD", 15)
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
