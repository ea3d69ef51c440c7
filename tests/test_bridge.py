import asyncio
import io
import threading

import pytest

from pyramid_asgi_consumers import WSGIBridge
from pyramid_asgi_consumers.exceptions import WSGIError
from tests.asgi import body_of, http_scope, run


def answers(chunks, headers=(), status="200 OK"):
    def app(environ, start_response):
        start_response(status, list(headers))
        return chunks

    return app


class Closing:
    def __init__(self, chunks):
        self.chunks = chunks
        self.closed = 0

    def __iter__(self):
        return iter(self.chunks)

    def close(self):
        self.closed += 1


def request(body, more=False):
    return {"type": "http.request", "body": body, "more_body": more}


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


async def test_a_chunked_upload_is_a_real_body():
    def app(environ, start_response):
        start_response("200 OK", [])
        return [environ["CONTENT_LENGTH"].encode(), b" ", environ["wsgi.input"].read()]

    sent = await run(
        WSGIBridge(app), http_scope(method="POST"), request(b"ab", True), request(b"c")
    )
    assert body_of(sent) == b"3 abc"


async def test_a_large_upload_arrives_whole():
    def app(environ, start_response):
        start_response("200 OK", [])
        return [environ["wsgi.input"].read()]

    parts = [bytes([n]) * 100_000 for n in range(20)]
    messages = [request(part, True) for part in parts]
    sent = await run(WSGIBridge(app), http_scope(method="POST"), *messages, request(b"end"))
    assert body_of(sent) == b"".join(parts) + b"end"


async def test_a_client_that_leaves_its_upload_calls_no_view():
    called = []

    def app(environ, start_response):
        called.append(environ)

    gone = {"type": "http.disconnect"}
    sent = await run(WSGIBridge(app), http_scope(method="POST"), request(b"a", True), gone)
    assert (sent, called) == ([], [])


@pytest.mark.parametrize("headers", [[(b"content-length", b"11")], []])
async def test_a_body_beyond_the_limit_is_413(headers):
    bridge = WSGIBridge(answers([b""]), max_body_size=10)
    sent = await run(bridge, http_scope(method="POST", headers=headers), request(b"x" * 11))
    assert sent[0]["status"] == 413
    assert (b"connection", b"close") in sent[0]["headers"]


async def test_a_body_that_is_not_its_content_length_is_400():
    scope = http_scope(method="POST", headers=[(b"content-length", b"5")])
    sent = await run(WSGIBridge(answers([b""])), scope, request(b"abc"))
    assert sent[0]["status"] == 400


async def test_views_run_side_by_side():
    barrier = threading.Barrier(4)

    def app(environ, start_response):
        barrier.wait(10)
        start_response("200 OK", [])
        return [b"ok"]

    bridge = WSGIBridge(app, 4)
    answered = await asyncio.gather(*(run(bridge, http_scope()) for _ in range(4)))
    assert [body_of(sent) for sent in answered] == [b"ok"] * 4


async def test_a_chunk_is_sent_when_it_is_made():
    first_sent = threading.Event()

    def chunks():
        yield b"one"
        assert first_sent.wait(10)
        yield b"two"

    sent = []

    async def receive():
        if not sent:
            return request(b"")
        await asyncio.Event().wait()

    async def send(message):
        sent.append(message)
        if message.get("body") == b"one":
            first_sent.set()

    await asyncio.wait_for(WSGIBridge(answers(chunks()))(http_scope(), receive, send), 20)
    assert body_of(sent) == b"onetwo"


async def test_a_thread_is_only_so_far_ahead_of_a_stalled_client():
    made = []

    def chunks():
        for _ in range(100):
            made.append(1)
            yield b"x" * 65536

    go_on = asyncio.Event()
    sent = []

    async def receive():
        if not sent:
            return request(b"")
        await asyncio.Event().wait()

    async def send(message):
        sent.append(message)
        if message["type"] == "http.response.body":
            await go_on.wait()

    bridge = WSGIBridge(answers(chunks()))
    task = asyncio.create_task(bridge(http_scope(), receive, send))
    await wait_until(lambda: len(made) >= 9)
    assert len(made) <= 12
    go_on.set()
    await asyncio.wait_for(task, 20)
    assert len(body_of(sent)) == 100 * 65536


async def wait_until(condition):
    async def poll():
        while not condition():
            await asyncio.sleep(0.01)

    await asyncio.wait_for(poll(), 20)


async def test_a_client_that_leaves_closes_the_response():
    left = asyncio.Event()
    loop = asyncio.get_running_loop()

    def endless():
        loop.call_soon_threadsafe(left.set)
        while True:
            yield b"x" * 1000

    response = Closing(endless())
    await run(WSGIBridge(answers(response)), http_scope(), disconnected=left)
    await wait_until(lambda: response.closed)
    assert response.closed == 1


async def test_close_is_called_once():
    response = Closing([b"a", b"b"])
    assert body_of(await run(WSGIBridge(answers(response)), http_scope())) == b"ab"
    assert response.closed == 1


async def test_a_head_request_has_no_body_and_is_closed():
    response = Closing([b"a"])
    sent = await run(WSGIBridge(answers(response)), http_scope(method="HEAD"))
    assert (body_of(sent), response.closed) == (b"", 1)


async def test_an_exception_before_the_start_is_500(caplog):
    def app(environ, start_response):
        raise ValueError("secret")

    sent = await run(WSGIBridge(app), http_scope())
    assert sent[0]["status"] == 500
    assert b"secret" not in body_of(sent)
    assert [record.levelname for record in caplog.records] == ["ERROR"]


async def test_an_exception_after_the_start_goes_to_the_server():
    def chunks():
        yield b"a"
        raise ValueError("late")

    with pytest.raises(ValueError, match="late"):
        await run(WSGIBridge(answers(chunks())), http_scope())


async def test_an_exit_in_a_view_is_500():
    def app(environ, start_response):
        raise SystemExit

    assert (await run(WSGIBridge(app), http_scope()))[0]["status"] == 500


async def test_more_bytes_than_content_length_are_cut():
    bridge = WSGIBridge(answers([b"ab", b"cd"], [("Content-Length", "3")]))
    assert body_of(await run(bridge, http_scope())) == b"abc"


async def test_fewer_bytes_than_content_length_break_off():
    bridge = WSGIBridge(answers([b"ab"], [("Content-Length", "3")]))
    with pytest.raises(WSGIError, match="Content-Length is 3"):
        await run(bridge, http_scope())


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        ("200", [("Connection", "close")]),
        ("200", [("A", "b\r\nc: d")]),
        ("200", [("A b", "c")]),
        ("200", [("A", 1)]),
        ("200", (("A", "b"),)),
        ("abc", []),
        ("101 Switching Protocols", []),
        (200, []),
    ],
)
async def test_what_pep_3333_forbids_is_500(status, headers):
    def app(environ, start_response):
        start_response(status, headers)
        return [b""]

    assert (await run(WSGIBridge(app), http_scope()))[0]["status"] == 500


async def test_write_sends_before_the_iterable():
    def app(environ, start_response):
        write = start_response("200 OK", [])
        write(b"a")
        return [b"b"]

    assert body_of(await run(WSGIBridge(app), http_scope())) == b"ab"


async def test_start_response_never_called_is_500():
    assert (await run(WSGIBridge(lambda *args: [b"a"]), http_scope()))[0]["status"] == 500
    assert (await run(WSGIBridge(lambda *args: []), http_scope()))[0]["status"] == 500


@pytest.mark.parametrize("headers", [[], [("Content-Length", "600000")]])
async def test_a_file_is_sent_whole_and_closed(headers):
    file = io.BytesIO(b"x" * 600_000)

    def app(environ, start_response):
        start_response("200 OK", headers)
        return environ["wsgi.file_wrapper"](file)

    sent = await run(WSGIBridge(app, 1), http_scope())
    assert len(body_of(sent)) == 600_000
    assert file.closed


async def test_a_file_shorter_than_its_content_length_breaks_off():
    def app(environ, start_response):
        start_response("200 OK", [("Content-Length", "9")])
        return environ["wsgi.file_wrapper"](io.BytesIO(b"abc"))

    with pytest.raises(WSGIError, match="6 bytes before"):
        await run(WSGIBridge(app), http_scope())


async def test_drain_waits_for_a_running_view_but_not_for_ever():
    release = threading.Event()
    started = threading.Event()

    def app(environ, start_response):
        started.set()
        release.wait(20)
        start_response("200 OK", [])
        return [b"ok"]

    bridge = WSGIBridge(app, shutdown_timeout=0.05)
    task = asyncio.create_task(run(bridge, http_scope()))
    await wait_until(started.is_set)
    assert not await bridge.pool.drain(0.05)
    await bridge.drain()
    release.set()
    assert body_of(await task) == b"ok"


async def test_a_websocket_scope_is_refused():
    with pytest.raises(ValueError, match="websocket"):
        await WSGIBridge(answers([]))({"type": "websocket"}, None, None)
