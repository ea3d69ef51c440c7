"""Bodies that are async iterables, from views of any kind: the same bytes wherever they are served.

How they are sent on an event loop is in ``wsgi/test_streaming.py``.
"""

import asyncio
import contextlib
import contextvars
import http.client

import pytest
import transaction
import webtest
from pyramid.config import Configurator
from pyramid.exceptions import ConfigurationError
from pyramid.request import Request
from pyramid.response import Response
from pyramid.security import Allowed, Denied
from pyramid.session import SignedCookieSessionFactory
from pyramid.threadlocal import get_current_request
from pyramid.view import view_config
from pyramid_retry import is_last_attempt, mark_error_retryable
from webtest.http import StopableWSGIServer

from pyramid_asgi_consumers.async_bodies import AsyncBody
from pyramid_asgi_consumers.testing import TestApp
from tests.support.asgi import body_of, http_scope, run
from tests.support.wsgi import wait_until

CHUNKS = [b"one ", b"", b"two ", b"x" * 70000, b" end"]
WHOLE = b"".join(CHUNKS)


async def feed(chunks=CHUNKS):
    for chunk in chunks:
        await asyncio.sleep(0)
        yield chunk


class Iterable:
    """An async iterable that is no generator; with ``aclose`` where ``closed`` is a list."""

    def __init__(self, closed=None):
        self._chunks = iter(CHUNKS)
        if closed is not None:

            async def aclose():
                await asyncio.sleep(0)
                closed.append(True)

            self.aclose = aclose

    def __aiter__(self):
        return self

    async def __anext__(self):
        await asyncio.sleep(0)
        for chunk in self._chunks:
            return chunk
        raise StopAsyncIteration


async def generator(request):
    async for chunk in feed(["one ", "", b"two ", "x" * 70000, " end"]):
        yield chunk


class View:
    def __init__(self, request):
        self.request = request

    @view_config(route_name="scanned")
    async def scanned(self):
        async for chunk in feed():
            yield chunk

    async def __call__(self):
        async for chunk in feed():
            yield chunk


class Instance:
    async def __call__(self, context, request):
        async for chunk in feed():
            yield chunk


def response(request):
    return Response(app_iter=feed(), content_type="text/plain")


async def awaited(request):
    await asyncio.sleep(0)
    return Response(app_iter=feed(), content_type="text/plain")


def with_length(request):
    return Response(app_iter=feed(), content_type="text/plain", content_length=len(WHOLE))


def iterable(request):
    return Response(app_iter=Iterable(), content_type="text/plain")


def closable(request):
    return Response(app_iter=Iterable([]), content_type="text/plain")


def on_key_error(error, request):
    return Response(app_iter=feed(), content_type="text/plain")


def failing(request):
    raise KeyError("failing")


def in_a_session(request):
    request.session["seen"] = True
    return response(request)


def tried_again(request):
    if not is_last_attempt(request):
        error = ValueError("once more")
        mark_error_retryable(error)
        raise error
    return response(request)


def decorated(view):
    def decorating(context, request):
        answer = view(context, request)
        answer.headers["X-Decorated"] = "yes"
        return answer

    return decorating


VIEWS = {
    "generator": {"view": generator},
    "class": {"view": View},
    "method": {"view": View, "attr": "scanned"},
    "instance": {"view": Instance()},
    "decorated": {"view": generator, "decorator": decorated},
    "secret": {"view": generator, "permission": "see"},
    "response": {"view": response},
    "awaited": {"view": awaited},
    "with_length": {"view": with_length},
    "iterable": {"view": iterable},
    "closable": {"view": closable},
    "failing": {"view": failing},
    "in_a_session": {"view": in_a_session},
    "tried_again": {"view": tried_again},
}


class Policy:
    def identity(self, request):
        return request.headers.get("X-User")

    authenticated_userid = identity

    def permits(self, request, context, permission):
        return Allowed("") if self.identity(request) else Denied("")


def reading_factory(handler, registry):
    def tween(request):
        answer = handler(request)
        answer.headers["X-Size"] = str(len(answer.body))
        return answer

    return tween


def putting_factory(handler, registry):
    def tween(request):
        handler(request)
        return Response(app_iter=feed(), content_type="text/plain")

    return tween


def passing_on_factory(handler, registry):
    def tween(request):
        answer = handler(request)
        answer.app_iter = passed_on(answer.app_iter)
        return answer

    return tween


async def passed_on(chunks):
    async for chunk in chunks:
        yield chunk


def around_nothing(config):
    pass


def around_tm(config):
    config.add_settings({"tm.manager_hook": "pyramid_tm.explicit_manager"})
    config.include("pyramid_tm")


def around_tm_of_the_thread(config):
    config.include("pyramid_tm")


def around_toolbar(config):
    config.include("pyramid_debugtoolbar")


def around_reading(config):
    config.add_tween(f"{__name__}.reading_factory")


def around_conditional(config):
    config.add_tween(f"{__name__}.conditional_factory")


def conditional_factory(handler, registry):
    def tween(request):
        answer = handler(request)
        answer.conditional_response = True
        answer.etag = "one"
        return answer

    return tween


AROUND = [
    around_nothing,
    around_tm,
    around_toolbar,
    around_reading,
    around_conditional,
]


@pytest.fixture
def config():
    config = Configurator(settings={"retry.attempts": "2"})
    config.include("pyramid_asgi_consumers")
    config.include("pyramid_retry")
    config.set_security_policy(Policy())
    config.set_session_factory(SignedCookieSessionFactory("secret"))
    for name, arguments in VIEWS.items():
        config.add_route(name, f"/{name}")
        config.add_view(route_name=name, **arguments)
    config.add_exception_view(on_key_error, context=KeyError)
    return config


class Answer:
    def __init__(self, status, headers, body):
        self.status, self.body = status, body
        self.headers = {name.lower(): value for name, value in headers}


async def over_asgi(app, path, method="GET", headers=()):
    headers = [(name.lower().encode(), value.encode()) for name, value in headers]
    sent = await run(app, http_scope(path, method, headers=headers))
    received = [(name.decode(), value.decode()) for name, value in sent[0]["headers"]]
    return Answer(sent[0]["status"], received, body_of(sent))


def _with(testapp, path, method, headers):
    answer = testapp.request(path, method=method, headers=dict(headers), expect_errors=True)
    return Answer(answer.status_int, answer.headers.items(), answer.body)


async def over_testapp(app, path, method="GET", headers=()):
    return await asyncio.to_thread(lambda: _with(TestApp(app), path, method, headers))


async def over_wsgi(app, path, method="GET", headers=()):
    wsgi_app = webtest.TestApp(app.wsgi_app)
    return await asyncio.to_thread(lambda: _with(wsgi_app, path, method, headers))


async def over_waitress(app, path, method="GET", headers=()):
    def call():
        server = StopableWSGIServer.create(app.wsgi_app)
        connection = http.client.HTTPConnection("127.0.0.1", server.effective_port, timeout=20)
        try:
            connection.request(method, path, headers=dict(headers))
            answer = connection.getresponse()
            return Answer(answer.status, answer.getheaders(), answer.read())
        finally:
            connection.close()
            server.shutdown()

    return await asyncio.to_thread(call)


WAYS = [over_asgi, over_testapp, over_wsgi, over_waitress]


@pytest.fixture(params=WAYS)
def get(request):
    return request.param


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("name", VIEWS)
async def test_the_same_bytes_come_out(config, around, name, get):
    around(config)
    app = config.make_asgi_app()
    answer = await get(app, f"/{name}", headers=[("X-User", "me"), ("Range", "bytes=1-2")])
    assert (answer.status, answer.body) == (200, WHOLE)
    told = name == "with_length" or around is around_reading
    # waitress tells it where it finds all of a body in its buffer.
    if told:
        assert answer.headers["content-length"] == str(len(WHOLE))
    elif get is over_asgi:
        assert "content-length" not in answer.headers
    if around is around_reading:
        assert answer.headers["x-size"] == str(len(WHOLE))
    assert ("x-decorated" in answer.headers) == (name == "decorated")


@pytest.mark.parametrize("name", ["generator", "response", "with_length", "closable"])
async def test_a_head_gets_no_body(config, name, get):
    answer = await get(config.make_asgi_app(), f"/{name}", "HEAD")
    assert (answer.status, answer.body) == (200, b"")
    if name == "with_length":
        assert answer.headers["content-length"] == str(len(WHOLE))


class Watched(Iterable):
    """Tells on which event loops it was closed."""

    def __init__(self):
        super().__init__([])
        self.closed = []
        close = self.aclose

        async def aclose():
            await close()
            self.closed.append(asyncio.get_running_loop())

        self.aclose = aclose

    def is_unread(self):
        return b"".join(self._chunks) == WHOLE


@pytest.mark.parametrize("kind", ["HEAD", "204", "304", "not modified"])
async def test_where_there_is_no_body_it_is_closed_unread(config, kind):
    watched = Watched()

    def view(request):
        answer = Response(app_iter=watched, content_type="text/plain")
        if kind.isdigit():
            answer.status_int = int(kind)
        if kind == "not modified":
            answer.etag, answer.conditional_response = "one", True
        return answer

    config.add_route("watched", "/watched")
    config.add_view(view, route_name="watched")
    method = "HEAD" if kind == "HEAD" else "GET"
    headers = [("If-None-Match", '"one"')] if kind == "not modified" else []
    answer = await over_asgi(config.make_asgi_app(), "/watched", method, headers)
    status = {"HEAD": 200, "not modified": 304}.get(kind) or int(kind)
    assert (answer.status, answer.body) == (status, b"")
    assert watched.is_unread()
    await wait_until(lambda: watched.closed == [asyncio.get_running_loop()])


async def test_one_that_a_tween_puts_in_is_streamed_too(config):
    config.add_tween(f"{__name__}.putting_factory")
    app = config.make_asgi_app()
    for get in (over_asgi, over_testapp):
        assert (await get(app, "/generator")).body == WHOLE


async def test_a_tween_may_wrap_it_in_an_async_generator(config, get):
    config.add_tween(f"{__name__}.passing_on_factory")
    app = config.make_asgi_app()
    if get in (over_asgi, over_testapp):
        assert (await get(app, "/response")).body == WHOLE


def middleware(wsgi_app):
    def wrapped(environ, start_response):
        chunks = wsgi_app(environ, start_response)
        try:
            yield from chunks
        finally:
            chunks.close()

    return wrapped


async def test_within_wsgi_middleware_it_is_an_ordinary_iterable(config, get):
    app = config.make_asgi_app(middleware(config.make_wsgi_app()))
    assert (await get(app, "/generator")).body == WHOLE


async def test_an_iterable_of_both_kinds_is_left_as_it_is(config, get):
    class Both(Iterable):
        def __iter__(self):
            return iter([b"ordinary"])

    config.add_route("both", "/both")
    config.add_view(
        lambda request: Response(app_iter=Both(), content_type="text/plain"), route_name="both"
    )
    assert (await get(config.make_asgi_app(), "/both")).body == b"ordinary"


async def test_text_is_encoded_as_the_response_says(config, get):
    async def view(request):
        yield "é"
        yield b"\x00"
        yield "ß"

    def latin(event):
        event.request.response.charset = event.request.headers.get("X-Charset")

    config.add_route("text", "/text")
    config.add_view(view, route_name="text")
    config.add_subscriber(latin, "pyramid.events.NewRequest")
    app = config.make_asgi_app()
    answer = await get(app, "/text", headers=[("X-Charset", "latin-1")])
    assert answer.body == "é\0ß".encode("latin-1")
    assert (await get(app, "/text")).body == "é\0ß".encode()


async def test_a_generator_is_sent_as_the_request_s_response(config, get):
    async def view(request):
        request.response.status_int = 500
        yield "late"

    def early(event):
        event.request.response.status_int = 201
        event.request.response.headers["X-Early"] = "yes"

    config.add_route("early", "/early")
    config.add_view(view, route_name="early")
    config.add_subscriber(early, "pyramid.events.NewRequest")
    answer = await get(config.make_asgi_app(), "/early")
    assert (answer.status, answer.headers["x-early"], answer.body) == (201, "yes", b"late")


async def test_permissions_hold(config, get):
    app = config.make_asgi_app()
    assert (await get(app, "/secret")).status == 403


async def test_view_config_finds_generators(config, get):
    config.add_route("scanned", "/scanned")
    config.scan("tests.test_async_bodies")
    assert (await get(config.make_asgi_app(), "/scanned")).body == WHOLE


@pytest.mark.parametrize("name", ["generator", "class", "method", "instance"])
def test_a_generator_with_a_renderer_is_refused(config, name):
    config.add_view(renderer="json", **VIEWS[name])
    with pytest.raises(ConfigurationError, match="so it can have no renderer, and has 'json'"):
        config.commit()


async def test_a_view_that_returns_a_generator_is_refused_with_a_renderer(config):
    config.add_view(lambda request: generator(request), renderer="json")
    app = config.make_asgi_app()
    with pytest.raises(TypeError, match="so it can have no renderer, and has 'json'"):
        await over_testapp(app, "/")


async def test_a_default_renderer_is_not_meant_for_generators(config, get):
    config.add_renderer(None, "pyramid.renderers.json_renderer_factory")
    config.add_route("default", "/default")
    config.add_view(generator, route_name="default")
    assert (await get(config.make_asgi_app(), "/default")).body == WHOLE


async def test_what_a_generator_may_yield_is_said(config):
    async def view(request):
        yield 5

    config.add_route("wrong", "/wrong")
    config.add_view(view, route_name="wrong")
    app = config.make_asgi_app()
    with pytest.raises(TypeError, match="view.* must yield str or bytes, not int"):
        await over_testapp(app, "/wrong")


async def test_an_app_iter_is_of_bytes(config, caplog):
    def view(request):
        return Response(app_iter=feed(["text"]), content_type="text/plain")

    config.add_route("text", "/text")
    config.add_view(view, route_name="text")
    assert (await over_asgi(config.make_asgi_app(), "/text")).status == 500
    assert "A chunk of a response must be bytes, not str" in caplog.text


async def test_its_transaction_is_over_and_its_callbacks_are_called_before_it_begins(config):
    happened = []

    async def chunks(request):
        happened.append(type(transaction.get()).__name__ and "chunk")
        yield b"chunk"

    def view(request):
        request.add_finished_callback(lambda request: happened.append("finished"))
        request.tm.get().addAfterCommitHook(lambda success: happened.append("committed"))
        return Response(app_iter=chunks(request), content_type="text/plain")

    around_tm(config)
    config.add_route("order", "/order")
    config.add_view(view, route_name="order")
    assert (await over_asgi(config.make_asgi_app(), "/order")).body == b"chunk"
    assert happened == ["committed", "finished", "chunk"]


async def test_a_generator_is_allowed_with_a_transaction_of_the_thread(config, get):
    around_tm_of_the_thread(config)
    assert (await get(config.make_asgi_app(), "/generator")).body == WHOLE


variable = contextvars.ContextVar("variable", default="nothing")


async def test_it_has_the_contextvars_of_its_view_and_no_thread_locals(config, get):
    async def chunks():
        yield variable.get().encode()
        yield str(get_current_request()).encode()

    def view(request):
        variable.set("the view's ")
        return Response(app_iter=chunks(), content_type="text/plain")

    config.add_route("variable", "/variable")
    config.add_view(view, route_name="variable")
    config.add_tween(f"{__name__}.reading_factory")
    assert (await get(config.make_asgi_app(), "/variable")).body == b"the view's None"


async def test_a_generator_reads_the_body_of_its_request(config, get):
    async def view(request):
        yield request.body

    config.add_route("echo", "/echo")
    config.add_view(view, route_name="echo")
    app = config.make_asgi_app()
    sent = await run(app, http_scope("/echo", "POST"), {"type": "http.request", "body": b"x" * 10})
    assert body_of(sent) == b"x" * 10


async def test_a_subrequest_of_an_async_view_reads_it_with_async_for(config):
    async def view(request):
        answer = request.invoke_subrequest(Request.blank("/response"))
        words = "use async for, and await aclose\\(\\), there"
        with pytest.raises(RuntimeError, match=words):
            answer.body  # noqa: B018
        return Response(b"".join([chunk async for chunk in answer.app_iter]))

    config.add_route("outer", "/outer")
    config.add_view(view, route_name="outer")
    assert (await over_asgi(config.make_asgi_app(), "/outer")).body == WHOLE


def test_what_a_test_leaves_half_way_is_closed(config):
    closed = []

    def chunks():
        try:
            yield b"one"
            yield b"two"
        except GeneratorExit:
            closed.append(True)
            raise

    config.add_route("left", "/left")
    config.add_view(lambda request: Response(app_iter=chunks(), status=204), route_name="left")
    testapp = TestApp(config.make_asgi_app(), lint=False)
    assert testapp.get("/left", status=204).body == b""
    assert closed == [True]


def test_a_test_reads_one_without_an_end_and_leaves_it(config):
    ended = []

    async def view(request):
        request.response.content_type = "text/event-stream"
        try:
            yield "data: one\n\n"
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    def early(event):
        event.request.response.content_type = "text/event-stream"

    config.add_route("endless", "/endless")
    config.add_view(view, route_name="endless")
    config.add_subscriber(early, "pyramid.events.NewRequest")
    testapp = TestApp(config.make_asgi_app())
    with testapp.stream("/endless") as stream:
        assert stream.receive().data == "one"
    assert ended == [True]


# Iterated over by a thread.


class Ended:
    """An async generator that notes how it ends."""

    def __init__(self, *, late=None):
        self.ended = []
        self.late = late

    async def chunks(self):
        try:
            yield b"1"
            yield b"2"
        except BaseException as error:
            self.ended.append(type(error).__name__)
            raise
        finally:
            await asyncio.sleep(0)
            self.ended.append("over")
            if self.late is not None:
                raise self.late


@pytest.fixture(params=["own loop", "server's loop"])
async def make(request):
    """Makes bodies of both kinds."""
    arguments = (asyncio.get_running_loop(), None, set())
    return lambda source: AsyncBody(source, None if request.param == "own loop" else arguments)


async def test_closed_half_way_the_generator_is_closed(make):
    ended = Ended()

    def use():
        body = make(ended.chunks())
        chunks = iter(body)
        assert next(chunks) == b"1"
        body.close()
        body.close()

    await asyncio.to_thread(use)
    assert ended.ended == ["GeneratorExit", "over"]


async def test_closed_at_a_chunk_the_generator_is_closed(make):
    ended = Ended()

    def use():
        body = make(ended.chunks())
        chunks = iter(body)
        assert [next(chunks), next(chunks)] == [b"1", b"2"]
        chunks.close()
        assert ended.ended == ["GeneratorExit", "over"]
        body.close()

    await asyncio.to_thread(use)
    assert ended.ended == ["GeneratorExit", "over"]


async def test_what_it_raises_when_it_is_closed_is_raised(make):
    ended = Ended(late=ValueError("late"))

    def use():
        body = make(ended.chunks())
        chunks = iter(body)
        next(chunks)
        with pytest.raises(ValueError, match="late"):
            body.close()

    await asyncio.to_thread(use)


async def test_it_is_closed_unread(make):
    watched = Watched()
    await asyncio.to_thread(make(watched).close)
    assert len(watched.closed) == 1
    assert watched.is_unread()
    await asyncio.to_thread(make(Iterable()).close)


class Chunks:
    """An async iterable whose iterator is another object, and that is closed besides."""

    def __init__(self):
        self.closed = False

    async def __aiter__(self):
        yield b"1"

    async def aclose(self):
        self.closed = True


async def test_an_iterable_is_closed_besides_its_iterator(make):
    chunks = Chunks()
    assert await asyncio.to_thread(lambda: list(make(chunks))) == [b"1"]
    assert chunks.closed


async def test_read_to_its_end_it_is_whole(make):
    ended = Ended()
    assert await asyncio.to_thread(lambda: list(make(ended.chunks()))) == [b"1", b"2"]
    assert ended.ended == ["over"]


async def test_one_that_ends_at_once_has_no_chunks(make):
    assert await asyncio.to_thread(lambda: list(make(feed([])))) == []


class OwnError(BaseException):
    pass


class Raising(Iterable):
    def __init__(self, error):
        super().__init__()
        self.error = error

    async def __anext__(self):
        await asyncio.sleep(0)
        raise self.error


@pytest.mark.parametrize("error", [KeyError("own"), SystemExit(3), OwnError("own")], ids=repr)
async def test_what_it_raises_is_raised_in_the_thread(make, error):
    def use():
        with pytest.raises(type(error)) as raised:
            list(make(Raising(error)))
        assert raised.value is error

    await asyncio.to_thread(use)


async def test_a_cancelled_error_of_its_own_is_an_exception(make):
    def use():
        with pytest.raises(RuntimeError, match="The application raised CancelledError"):
            list(make(Raising(asyncio.CancelledError())))

    await asyncio.to_thread(use)


async def test_all_of_it_runs_in_one_task(make):
    async def chunks():
        for _ in range(3):
            yield asyncio.current_task()

    tasks = await asyncio.to_thread(lambda: list(make(chunks())))
    assert len(tasks) == 3
    assert len(set(tasks)) == 1


async def test_one_that_does_not_end_is_left_alone(make, monkeypatch, caplog):
    monkeypatch.setattr("pyramid_asgi_consumers.stubborn.PATIENCE", 0.1)
    tasks = []

    async def chunks():
        tasks.append(asyncio.current_task())
        try:
            yield b"1"
        finally:
            # It is cancelled by the end of a loop of its own, and by the test.
            while len(tasks) < 2:
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.Event().wait()

    def use():
        body = make(chunks())
        iterator = iter(body)
        next(iterator)
        body.close()

    await asyncio.to_thread(use)
    assert "Left alone, since it goes on 0.1 s after it was cancelled" in caplog.text
    (task,) = tasks
    tasks.append("over")
    if task.get_loop() is asyncio.get_running_loop():
        task.cancel()
        await asyncio.wait({task})


@pytest.mark.parametrize("around", [around_reading, None])
async def test_a_client_that_leaves_while_a_thread_waits_closes_it(config, around):
    waits = asyncio.Event()
    ended = []

    async def chunks():
        try:
            yield b"1"
            yield b"2"
            waits.set()
            await asyncio.Event().wait()
        except BaseException as error:
            ended.append(type(error).__name__)
            raise

    def view(request):
        return Response(app_iter=chunks(), content_type="text/plain")

    config.add_route("leave", "/leave")
    config.add_view(view, route_name="leave")
    wsgi_app = None
    if around is None:
        # The server's side sends chunks, and listens itself.
        wsgi_app = middleware(config.make_wsgi_app())
    else:
        around(config)
    left = asyncio.Event()
    app = config.make_asgi_app(wsgi_app)
    task = asyncio.create_task(run(app, http_scope("/leave"), disconnected=left))
    await asyncio.wait_for(waits.wait(), 20)
    left.set()
    await asyncio.wait_for(task, 20)
    await wait_until(lambda: ended == ["CancelledError"])


@pytest.mark.parametrize("is_first", [True, False])
async def test_one_that_goes_on_when_its_client_leaves_is_left_alone_once(
    config, monkeypatch, caplog, is_first
):
    monkeypatch.setattr("pyramid_asgi_consumers.stubborn.PATIENCE", 0.1)
    waits = asyncio.Event()
    over = asyncio.Event()
    tasks = []

    async def chunks():
        tasks.append(asyncio.current_task())
        if not is_first:
            yield b"1"
        waits.set()
        while not over.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await over.wait()

    config.add_route("goes_on", "/goes_on")
    config.add_view(lambda request: Response(app_iter=chunks()), route_name="goes_on")
    around_reading(config)
    left = asyncio.Event()
    task = asyncio.create_task(
        run(config.make_asgi_app(), http_scope("/goes_on"), disconnected=left)
    )
    await asyncio.wait_for(waits.wait(), 20)
    left.set()
    await asyncio.wait_for(task, 20)
    over.set()
    await asyncio.wait(tasks)
    assert caplog.text.count("Left alone") == 1
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("late", [None, ValueError("late")])
async def test_left_on_an_event_loop_it_is_closed_without_waiting_there(make, caplog, late):
    ended = Ended(late=late)
    body = make(ended.chunks())
    chunks = iter(body)
    assert await asyncio.to_thread(next, chunks) == b"1"
    with pytest.raises(RuntimeError, match="on the thread of a running event loop"):
        body.close()
    # So does the garbage collector.
    chunks.close()
    await wait_until(lambda: ended.ended == ["GeneratorExit", "over"])
    if late is not None:
        await wait_until(lambda: "ValueError: late" in caplog.text)


async def test_a_next_chunk_is_not_waited_for_on_an_event_loop(make):
    ended = Ended()
    chunks = iter(make(ended.chunks()))
    await asyncio.to_thread(next, chunks)
    with pytest.raises(RuntimeError, match="on the thread of a running event loop"):
        next(chunks)
    await wait_until(lambda: ended.ended == ["GeneratorExit", "over"])
