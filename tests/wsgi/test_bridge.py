import asyncio
import contextvars
import subprocess
import sys
import tempfile
import threading

import pytest
from asgiref.wsgi import WsgiToAsgi

from pyramid_asgi_consumers import WSGIBridge
from tests.support.asgi import body_of, http_scope, run
from tests.support.wsgi import DISCONNECT, Exchange, answers, request, wait_until


async def test_a_chunked_upload_is_a_real_body():
    def app(environ, start_response):
        start_response("200 OK", [])
        return [environ["CONTENT_LENGTH"].encode(), b" ", environ["wsgi.input"].read()]

    sent = await run(
        WSGIBridge(app), http_scope(method="POST"), request(b"ab", True), request(b"c")
    )
    assert body_of(sent) == b"3 abc"


async def test_a_target_in_absolute_form_counts_as_its_path():
    def app(environ, start_response):
        start_response("200 OK", [])
        return [f"{environ['HTTP_HOST']} {environ['PATH_INFO']}".encode()]

    scope = {**http_scope("http://host:99/page"), "headers": [(b"host", b"other")]}
    assert body_of(await run(WSGIBridge(app), scope)) == b"other /page"


async def test_a_large_upload_arrives_whole():
    def app(environ, start_response):
        start_response("200 OK", [])
        return [environ["wsgi.input"].read()]

    parts = [bytes([n]) * 100_000 for n in range(20)]
    messages = [request(part, True) for part in parts]
    sent = await run(WSGIBridge(app), http_scope(method="POST"), *messages, request(b"end"))
    assert body_of(sent) == b"".join(parts) + b"end"


async def test_a_page_that_is_got_without_a_body_waits_for_none():
    exchange = Exchange(WSGIBridge(answers([b"page"])))
    exchange.taking.set()
    await exchange.task
    assert body_of(exchange.sent) == b"page"
    assert exchange.reading == 0


async def test_a_client_that_leaves_its_upload_calls_no_view():
    called = []
    bridge = WSGIBridge(lambda *args: called.append(args))
    sent = await run(bridge, http_scope(method="POST"), request(b"a", True), DISCONNECT)
    assert await bridge.pool.drain(20)
    assert ([event.get("status") for event in sent], called) == ([400, None], [])


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


async def test_an_exception_before_the_start_is_500(caplog):
    def app(environ, start_response):
        raise ValueError("secret")

    sent = await run(WSGIBridge(app), http_scope())
    assert sent[0]["status"] == 500
    assert b"secret" not in body_of(sent)
    assert [record.levelname for record in caplog.records] == ["ERROR"]


async def test_an_exit_in_a_view_is_500():
    def app(environ, start_response):
        raise SystemExit

    assert (await run(WSGIBridge(app), http_scope()))[0]["status"] == 500


async def test_drain_waits_for_a_running_view_but_not_for_ever(caplog):
    release = threading.Event()
    started = threading.Event()

    def app(environ, start_response):
        started.set()
        release.wait(20)
        start_response("200 OK", [])
        return [b"ok"]

    bridge = WSGIBridge(app, shutdown_timeout=0.01)
    task = asyncio.create_task(run(bridge, http_scope()))
    await wait_until(started.is_set)
    await bridge.drain()
    assert "still run after 0.01 s" in caplog.text
    release.set()
    assert body_of(await task) == b"ok"


async def test_drain_says_nothing_where_all_views_have_ended(caplog):
    bridge = WSGIBridge(answers([b"ok"]))
    await run(bridge, http_scope())
    await bridge.drain()
    assert caplog.text == ""


def test_a_view_that_hangs_does_not_keep_the_process_alive():
    script = """
import asyncio, threading
from pyramid_asgi_consumers import WSGIBridge
from tests.support.asgi import http_scope, run

async def main():
    started = threading.Event()

    def app(environ, start_response):
        started.set()
        threading.Event().wait()

    bridge = WSGIBridge(app, shutdown_timeout=0.01)
    task = asyncio.create_task(run(bridge, http_scope()))
    assert await asyncio.to_thread(started.wait, 10)
    await bridge.drain()

asyncio.run(main())
print("ended")
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "ended\n"), done.stderr


async def test_a_view_sees_the_contextvars_of_the_request_and_changes_none():
    variable = contextvars.ContextVar("variable")
    seen = []

    def app(environ, start_response):
        def chunks():
            seen.append(variable.get())
            yield b"a"
            seen.append(variable.get())

        seen.append(variable.get())
        variable.set("the view's")
        start_response("200 OK", [])
        return chunks()

    async def outer(scope, receive, send):
        variable.set("the request's")
        await WSGIBridge(app)(scope, receive, send)
        assert variable.get() == "the request's"

    await run(outer, http_scope())
    assert seen == ["the request's", "the view's", "the view's"]


async def test_send_and_receive_run_on_the_event_loop_in_the_context_of_the_request():
    variable = contextvars.ContextVar("variable")
    seen = set()

    def app(environ, start_response):
        variable.set("the view's")
        start_response("200 OK", [])
        yield from [b"a", b"b"]

    bridge = WSGIBridge(app)
    messages = [request(b"x" * 600_000, True), request(b"")]
    exchange = Exchange(bridge, *messages)

    def noting(function):
        async def noted(*args):
            seen.add((threading.get_ident(), variable.get()))
            return await function(*args)

        return noted

    async def outer():
        variable.set("the request's")
        await bridge(http_scope(), noting(exchange.receive), noting(exchange.send))

    exchange.task.cancel()
    exchange.taking.set()
    await asyncio.create_task(outer())
    assert len(exchange.sent) >= 2
    assert seen == {(threading.get_ident(), "the request's")}


async def test_slow_uploads_hold_no_thread():
    bridge = WSGIBridge(answers([b"page"]), 1)
    upload = Exchange(bridge, request(b"x" * 600_000, True), scope=http_scope(method="POST"))
    await wait_until(lambda: upload.reading == 2)
    assert body_of(await run(bridge, http_scope())) == b"page"
    upload.left.set()
    upload.taking.set()
    await upload.task


async def test_a_view_runs_though_its_client_left_before_it_started():
    # As under waitress: what a client asked for and no longer waits for is done whether or not a
    # thread was free at once.
    release = threading.Event()
    called = []

    def app(environ, start_response):
        called.append(environ["PATH_INFO"])
        release.wait(20)
        start_response("200 OK", [])
        return [b"ok"]

    bridge = WSGIBridge(app, 1)
    first = Exchange(bridge, scope=http_scope("/first"))
    await wait_until(lambda: called)
    second = Exchange(bridge, scope=http_scope("/second", "POST"))
    await wait_until(lambda: second.reading)
    first.task.cancel()
    await second.cancel()
    release.set()
    assert await bridge.pool.drain(20)
    assert called == ["/first", "/second"]


async def test_the_body_is_closed_behind_the_response():
    bodies = []

    def app(environ, start_response):
        bodies.append(environ["wsgi.input"])
        start_response("200 OK", [])
        yield environ["wsgi.input"].read(1)
        yield environ["wsgi.input"].read()

    bridge = WSGIBridge(app)
    sent = await run(bridge, http_scope(method="POST"), request(b"x" * 600_000))
    assert len(body_of(sent)) == 600_000
    assert await bridge.pool.drain(20)
    assert bodies[0].closed


async def test_a_temporary_file_that_cannot_be_made_is_500(monkeypatch, caplog):
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    sent = await run(WSGIBridge(answers([])), http_scope(method="POST"), request(b"x" * 600_000))
    assert sent[0]["status"] == 500
    assert [record.levelname for record in caplog.records] == ["ERROR"]


async def test_a_thread_that_cannot_be_started_is_500(caplog):
    before = threading.stack_size(2**46)
    try:
        sent = await run(WSGIBridge(answers([])), http_scope())
    finally:
        threading.stack_size(before)
    assert sent[0]["status"] == 500
    assert [record.levelname for record in caplog.records] == ["ERROR"]


@pytest.mark.parametrize(("method", "body"), [("GET", b"400 Bad Request\n"), ("HEAD", b"")])
@pytest.mark.parametrize(
    ("version", "closes"), [("1.0", True), ("1.1", True), ("2", False), ("3", False)]
)
async def test_a_refusal_closes_the_connection_where_http_can_say_so(version, closes, method, body):
    scope = http_scope(method=method, http_version=version, headers=[(b"content-length", b"many")])
    sent = await run(WSGIBridge(answers([])), scope)
    assert (sent[0]["status"], body_of(sent)) == (400, body)
    assert ((b"connection", b"close") in sent[0]["headers"]) is closes


async def test_a_client_that_left_before_a_refusal_gets_nothing(caplog):
    async def send(message):
        raise OSError("gone")

    async def receive():
        return request(b"x" * 11)

    await WSGIBridge(answers([]), max_body_size=10)(http_scope("/", "POST"), receive, send)
    assert caplog.records == []


async def test_a_websocket_scope_is_refused():
    with pytest.raises(ValueError, match="websocket"):
        await WSGIBridge(answers([]))({"type": "websocket"}, None, None)


def test_a_bridge_has_a_thread_at_least():
    with pytest.raises(ValueError, match="at least 1, not 0"):
        WSGIBridge(answers([]), 0)


def test_a_bridge_is_one_of_asgirefs():
    assert isinstance(WSGIBridge(answers([])), WsgiToAsgi)


# Where what a view raises is logged.

noted = contextvars.ContextVar("noted", default=None)


def failing(noting, *chunks):
    def app(environ, start_response):
        noted.set(noting)
        start_response("200 OK", [])
        yield from chunks
        raise RuntimeError(noting)

    return app


@pytest.fixture
def logged(caplog):
    """What ``noted`` was for each line of the log."""
    seen = []

    def note(record):
        seen.append(noted.get())
        return True

    caplog.handler.addFilter(note)
    yield seen
    caplog.handler.removeFilter(note)


async def test_what_a_view_raises_is_logged_with_its_contextvars_and_sent_without(logged):
    seen = []

    async def send(message):
        seen.append((message.get("status"), noted.get()))

    await WSGIBridge(failing("the view's"))(http_scope(), None, send)
    assert seen == [(500, None), (None, None)]
    assert logged == ["the view's"]


async def test_what_it_raises_late_is_raised_with_its_contextvars(logged):
    seen = []

    async def around(scope, receive, send):
        try:
            await WSGIBridge(failing("the view's", b"x" * 100_000))(scope, receive, send)
        except RuntimeError as error:
            seen.extend([str(error), noted.get()])

    await run(around, http_scope())
    assert seen == ["the view's", "the view's"]
    assert logged == []


async def test_what_nobody_waits_for_is_logged_with_its_contextvars(logged):
    release = threading.Event()

    def app(environ, start_response):
        noted.set("the view's")
        assert release.wait(20)
        raise RuntimeError

    bridge = WSGIBridge(app)
    exchange = Exchange(bridge)
    await wait_until(lambda: bridge.pool._crew)
    await exchange.cancel()
    release.set()
    await wait_until(lambda: logged)
    assert logged == ["the view's"]
