"""Event streams with ``TestApp``."""

import asyncio
import contextlib
import signal
import threading
import time

import pytest
import webtest
from pyramid.config import Configurator
from pyramid.httpexceptions import HTTPForbidden, HTTPFound, HTTPNoContent
from pyramid.response import Response
from sse_starlette.sse import AppStatus, EventSourceResponse
from starlette.applications import Starlette
from starlette.responses import StreamingResponse
from starlette.routing import Route

from pyramid_asgi_consumers import run_in_request
from pyramid_asgi_consumers.interfaces import IChannels
from pyramid_asgi_consumers.testing import (
    ServerSentEvent,
    StreamEnded,
    StreamRefused,
    TestApp,
    timeouts,
)
from tests.testing.applications import OPEN, http_app, make

pytestmark = pytest.mark.usefixtures("no_thread_is_left")

HEADERS = [(b"content-type", b"text/event-stream; charset=utf-8")]


async def begin(send, *chunks, headers=(), status=200):
    await send({"type": "http.response.start", "status": status, "headers": [*HEADERS, *headers]})
    for chunk in chunks:
        await send({"type": "http.response.body", "body": chunk, "more_body": True})


async def end(send):
    await send({"type": "http.response.body"})


def sending(*chunks, headers=(), status=200):
    """A consumer that sends these chunks, and then waits for its client to leave."""

    async def consumer(scope, receive, send):
        await begin(send, *chunks, headers=headers, status=status)
        while (await receive())["type"] != "http.disconnect":
            pass

    return consumer


def refused(testapp, url, **options):
    with pytest.raises(StreamRefused) as raised, contextlib.ExitStack() as stack:
        stack.enter_context(testapp.stream(url, **options))
    return raised.value


def test_events_are_those_that_a_browser_dispatches():
    chunks = [
        b"event: news\nid: 7\nretry: 3000\ndata: \xc3",
        b"\xa9\r",
        b"\n\r\n: nothing\n\ndata: [1]\n\ndata",
        b"\n\n",
    ]
    with http_app(sending(*chunks, headers=[(b"x-a", b"1")])).stream("/http") as stream:
        assert (stream.status, stream.status_int) == ("200 OK", 200)
        assert list(stream.headers.items()) == [
            ("Content-Type", "text/event-stream; charset=utf-8"),
            ("X-A", "1"),
        ]
        assert stream.receive() == ServerSentEvent("é", "news", "7", 3000)
        assert stream.receive_json() == [1]
        assert stream.receive() == ServerSentEvent("", id="7")


def test_the_request_is_that_of_a_browser_and_cookies_are_shared():
    scopes = []

    async def consumer(scope, receive, send):
        scopes.append(scope)
        await begin(send, headers=[(b"set-cookie", b"b=2")])
        await receive()
        await receive()

    testapp = http_app(consumer)
    testapp.set_cookie("a", "1")
    with testapp.stream("/http?x=%C3%A9#there", headers={"Last-Event-ID": "é"}) as stream:
        assert stream.last_event_id == "é"
    assert testapp.cookies == {"a": '"1"', "b": "2"}
    (scope,) = scopes
    assert (scope["method"], scope["path"], scope["query_string"]) == ("GET", "/http", b"x=%C3%A9")
    headers = dict(scope["headers"])
    assert headers[b"accept"] == b"text/event-stream"
    assert headers[b"cache-control"] == b"no-cache"
    assert headers[b"last-event-id"] == "é".encode()
    assert headers[b"cookie"] == b'a="1"'
    with testapp.stream("https://example.com/http", headers={"Accept": "text/*"}):
        pass
    assert scopes[1]["scheme"] == "https"
    assert dict(scopes[1]["headers"])[b"accept"] == b"text/*"


def test_a_test_resumes_with_the_id_of_what_it_has_received():
    async def consumer(scope, receive, send):
        since = dict(scope["headers"]).get(b"last-event-id", b"0")
        await begin(send, b"id: %s\n\n" % since)
        for number in range(int(since) + 1, 10):
            chunk = b"id: %d\ndata: %d\n\n" % (number, number)
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await end(send)

    testapp = http_app(consumer)
    received, last_event_id = [], ""
    while len(received) < 9:
        headers = {"Last-Event-ID": last_event_id} if last_event_id else None
        with testapp.stream("/http", headers=headers) as stream:
            assert stream.last_event_id == (last_event_id or "0")
            received += [stream.receive().data for _ in range(3)]
            last_event_id = stream.last_event_id
    assert received == [str(number) for number in range(1, 10)]


def test_a_first_id_that_comes_with_the_start_is_there_at_once():
    with http_app(sending(b"id: 7\n\n")).stream("/http") as stream:
        assert stream.last_event_id == "7"


# What is no stream.


@pytest.mark.parametrize(
    ("error", "status"), [(HTTPForbidden, 403), (HTTPNoContent, 204)], ids=["forbidden", "none"]
)
def test_a_refusal_has_the_answer(error, status):
    async def consumer(scope, receive, send):
        raise error()

    response = refused(http_app(consumer), "/http").response
    assert isinstance(response, webtest.TestResponse)
    assert response.status_int == status


def test_a_redirect_is_no_stream_but_can_be_followed():
    async def consumer(scope, receive, send):
        raise HTTPFound("/", headers=[("Set-Cookie", "seen=1")])

    testapp = TestApp(make(lambda request: Response("home"), ("/s", "http", consumer)))
    refusal = refused(testapp, "/s?x=1")
    assert str(refusal) == "302 Found for the event stream /s?x=1"
    assert refusal.response.follow().text == "home"
    assert testapp.cookies == {"seen": "1"}


def test_another_type_is_no_stream():
    refusal = refused(TestApp(make(lambda request: Response("home"))), "/")
    assert str(refusal) == "200 OK (text/html) for the event stream /"
    assert refusal.response.text == "home"


def test_a_stream_with_another_status_is_none():
    async def consumer(scope, receive, send):
        await begin(send, b"data: a\n\n", status=503)
        await end(send)

    response = refused(http_app(consumer), "/http").response
    assert (response.status, response.body) == ("503 Service Unavailable", b"data: a\n\n")


def test_a_path_without_a_consumer_is_a_404():
    assert refused(http_app(sending()), "/none").response.status_int == 404


@pytest.mark.parametrize("with_lint", [True, False])
def test_what_is_raised_before_the_answer_is_raised_in_the_test(with_lint):
    error = ZeroDivisionError("once")

    async def consumer(scope, receive, send):
        raise error

    def view(request):
        raise error

    app = make(view, ("/http", "http", consumer), ("/guarded", "http", consumer, OPEN))
    for path in ("/", "/http", "/guarded"):
        with pytest.raises(ZeroDivisionError) as raised:
            refused(TestApp(app, lint=with_lint), path)
        assert raised.value is error


def test_a_consumer_that_answers_nothing_is_an_error():
    async def consumer(scope, receive, send):
        pass

    with pytest.raises(RuntimeError, match="http /http: .* before the end of its response"):
        refused(http_app(consumer), "/http")


def test_an_endless_answer_of_another_type(monkeypatch):
    monkeypatch.setattr(timeouts, "TIMEOUT", 0.25)

    async def consumer(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
        await asyncio.Event().wait()

    with pytest.raises(TimeoutError, match="for the end of what /http answers, 200 OK"):
        refused(http_app(consumer), "/http")


# Deadlines.


def test_a_receive_that_gets_nothing_says_what_it_waited_for_and_what_came():
    chunks = [b"id: 1\ndata: a\n\n", b": one\n\n: two\n\n", b"data: b\nda"]
    with http_app(sending(*chunks)).stream("/http") as stream:
        assert stream.receive().data == "a"
        with pytest.raises(TimeoutError) as raised:
            stream.receive(timeout=0.05)
        assert str(raised.value) == (
            "Waited 0.05 s for an event from /http; so far came 1 event, the last"
            " ServerSentEvent(data='a', event='message', id='1', retry=None), 2 comments, what no"
            " empty line has ended yet: 'b\\nda'"
        )
    with http_app(sending()).stream("/http") as stream:
        with pytest.raises(
            TimeoutError, match="0.01 s for an event from /http; so far came no events$"
        ):
            stream.receive(timeout=0.01)


def test_comments_do_not_put_a_deadline_off():
    async def consumer(scope, receive, send):
        await begin(send)
        while True:
            await send({"type": "http.response.body", "body": b":\n\n", "more_body": True})
            await asyncio.sleep(0.01)

    with http_app(consumer).stream("/http") as stream:
        with pytest.raises(TimeoutError, match=r"so far came no events, \d+ comments$"):
            stream.receive(timeout=0.2)


def test_a_consumer_that_never_answers(monkeypatch):
    monkeypatch.setattr(timeouts, "TIMEOUT", 0.25)

    async def consumer(scope, receive, send):
        await asyncio.Event().wait()

    with pytest.raises(TimeoutError, match="0.25 s for /http to answer: nothing came"):
        refused(http_app(consumer), "/http")


def test_a_consumer_that_does_not_end_with_its_client(monkeypatch):
    ended = []

    async def consumer(scope, receive, send):
        await begin(send)
        # A consumer that receives hears of its client, and is not cancelled for that.
        await receive()
        await receive()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    app = make(None, ("/http", "http", consumer), **{"asgi.leave_timeout": "0.25"})
    with pytest.raises(TimeoutError, match="stream of /http did not end within 0.5 s after its"):
        with TestApp(app).stream("/http"):
            monkeypatch.setattr(timeouts, "TIMEOUT", 0.25)
    assert ended == [True]


# How it ends.


def test_a_stream_that_has_ended():
    async def consumer(scope, receive, send):
        await begin(send, b"data: a\n\n", b"data: b\n")
        await end(send)

    with http_app(consumer).stream("/http") as stream:
        assert stream.receive().data == "a"
        for _ in range(2):
            with pytest.raises(
                StreamEnded, match="/http has ended; so far came 1 ev.*: 'b'"
            ) as ended:
                stream.receive()
            assert ended.value.__cause__ is None
            assert isinstance(ended.value, EOFError)


@pytest.mark.parametrize("guarded", [False, True])
def test_what_a_consumer_raises_ends_its_stream_and_is_the_cause(guarded, caplog):
    error = LookupError("gone")

    async def consumer(scope, receive, send):
        await begin(send, b"data: a\n\n")
        raise error

    testapp = http_app(consumer, **OPEN if guarded else {})
    with testapp.stream("/http") as stream:
        assert stream.receive().data == "a"
        with pytest.raises(StreamEnded) as ended:
            stream.receive()
    assert ended.value.__cause__ is error


def test_the_test_leaves_and_the_consumer_hears_of_it():
    heard = []

    async def consumer(scope, receive, send):
        assert (await receive())["type"] == "http.request"
        await begin(send, b"data: a\n\n", b"data: b\n\n")
        heard.append(await receive())
        with pytest.raises(OSError, match="The client has left"):
            await end(send)

    with http_app(consumer).stream("/http") as stream:
        assert stream.receive().data == "a"
        stream.close()
        assert heard == [{"type": "http.disconnect"}]
        stream.close()
        assert stream.receive().data == "b"
        with pytest.raises(StreamEnded) as ended:
            stream.receive()
        assert ended.value.__cause__ is None


def test_a_consumer_that_only_sends_ends_with_its_client(caplog):
    async def consumer(scope, receive, send):
        await begin(send)
        while True:
            await send({"type": "http.response.body", "body": b"data: a\n\n", "more_body": True})
            await asyncio.sleep(0)

    with http_app(consumer).stream("/http") as stream:
        stream.receive()
        stream.close()
        with pytest.raises(StreamEnded) as ended:
            while stream.receive():
                pass
    assert ended.value.__cause__ is None
    assert caplog.messages == []


def test_a_consumer_that_does_nothing_is_cancelled_as_on_a_server(caplog):
    ended = []

    async def consumer(scope, receive, send):
        await begin(send)
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    with http_app(consumer).stream("/http"):
        pass
    assert (ended, caplog.messages) == ([True], [])


def test_what_is_raised_as_the_client_leaves_is_raised_in_the_test():
    async def func(stream):
        await stream.send("one")
        try:
            await stream.wait_closed()
        finally:
            raise LookupError("in finally")

    with Configurator() as config:
        config.include("pyramid_asgi_consumers")
        config.add_event_stream("/events", func)
        testapp = TestApp(config.make_asgi_app())
    with pytest.raises(LookupError, match="in finally"), testapp.stream("/events") as stream:
        assert stream.receive().data == "one"


def test_what_has_come_can_be_received_behind_the_block():
    chunk = b"id: 1\ndata: one\n\n"
    with http_app(sending(chunk, b"data: two\n\n")).stream("/http") as stream:
        stream.receive()
    assert stream.receive().data == "two"
    assert stream.last_event_id == "1"
    with pytest.raises(StreamEnded):
        stream.receive()


def test_what_is_raised_as_the_client_leaves_is_the_cause():
    error = LookupError("at the end")

    async def consumer(scope, receive, send):
        await begin(send)
        await receive()
        await receive()
        raise error

    with http_app(consumer).stream("/http") as stream:
        with pytest.raises(LookupError, match="at the end"):
            stream.close()
        with pytest.raises(StreamEnded) as ended:
            stream.receive()
    assert ended.value.__cause__ is error


def test_who_sends_more_than_is_received_waits(monkeypatch):
    monkeypatch.setattr(timeouts, "MOST_UNREAD", 1000)
    sent = []

    async def consumer(scope, receive, send):
        await begin(send)
        for number in range(200):
            chunk = b"data: %d\n\n" % number + b":" * 90 + b"\n"
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
            sent.append(number)
        await end(send)

    with http_app(consumer).stream("/http") as stream:
        for number in range(200):
            assert stream.receive().data == str(number)
            assert len(sent) < number + 20
        with pytest.raises(StreamEnded):
            stream.receive()


# Nothing is left behind.


@pytest.fixture
def reading():
    """An application with a stream for one client at a time, which subscribes to "news".

    What runs of it is in its list ``running``; its page / answers who is subscribed.
    """
    running = []

    async def consumer(scope, receive, send):
        running.append(scope["path"])
        try:
            channels = app.registry.getUtility(IChannels)
            async with channels.subscribe("news", presence="reader"):
                await begin(send, b"data: a\n\n")
                await asyncio.Event().wait()
        finally:
            running.remove(scope["path"])

    async def present(request):
        channels = request.registry.getUtility(IChannels)
        return Response(json_body=await channels.present("news"))

    app = make(present, ("/news", "http", consumer, {"max_connections": 1}))
    app.running = running
    return app


def fails_midway(testapp):
    with testapp.stream("/news") as stream:
        assert stream.receive().data == "a"
        assert testapp.get("/").json == ["reader"]
        raise LookupError("midway")


def test_a_test_that_fails_midway_leaves_no_task_no_subscription_and_no_slot(reading):
    with TestApp(reading) as testapp:
        for _ in range(3):
            with pytest.raises(LookupError, match="midway"):
                fails_midway(testapp)
            assert reading.running == []
            assert testapp.get("/").json == []
        with testapp.stream("/news"):
            assert refused(testapp, "/news").response.status_int == 503


def test_a_test_that_waits_in_vain_leaves_nothing_either(reading):
    with TestApp(reading) as testapp:
        with pytest.raises(TimeoutError), testapp.stream("/news") as stream:
            stream.receive()
            stream.receive(timeout=0.01)
        assert (reading.running, testapp.get("/").json) == ([], [])


def test_nor_is_a_thread_left_without_a_lifespan(reading):
    before = set(threading.enumerate())
    with pytest.raises(LookupError, match="midway"):
        fails_midway(TestApp(reading))
    assert reading.running == []
    assert set(threading.enumerate()) <= before


def test_what_was_refused_leaves_nothing(reading):
    with TestApp(reading) as testapp, testapp.stream("/news"):
        refused(testapp, "/news")
        assert reading.running == ["/news"]


# Views, and several users.


def test_views_of_a_stream_run_in_the_thread_of_the_test():
    threads = []

    def look(request):
        threads.append(threading.current_thread())
        return request.environ["REMOTE_USER"]

    async def consumer(scope, receive, send):
        user = await run_in_request(scope, look)
        await begin(send, b"data: %s\n\n" % user.encode())
        await receive()
        await receive()

    def factory(request):
        threads.append(threading.current_thread())

    testapp = http_app(consumer, factory=factory)
    with testapp.stream("/http", extra_environ={"REMOTE_USER": "ann"}) as stream:
        assert stream.receive().data == "ann"
    assert threads == [threading.current_thread()] * 3


@pytest.mark.parametrize("with_lifespan", [False, True])
def test_several_users_read_what_one_publishes(with_lifespan):
    async def news(scope, receive, send):
        channels = scope["pyramid.registry"].getUtility(IChannels)
        async with channels.subscribe("news") as events:
            await begin(send)
            async for event in events:
                chunk = b"data: %s\n\n" % event.data.encode()
                await send({"type": "http.response.body", "body": chunk, "more_body": True})

    def publish(request):
        request.channels.publish("news", request.params["text"])
        return Response()

    app = make(publish, ("/news", "http", news))
    ann, bob = TestApp(app), TestApp(app)
    with contextlib.ExitStack() as stack:
        if with_lifespan:
            stack.enter_context(ann)
            stack.enter_context(bob)
        streams = [stack.enter_context(user.stream("/news")) for user in (ann, bob, ann)]
        for text in ("hello", "bye"):
            bob.get("/", {"text": text})
            assert [stream.receive().data for stream in streams] == [text] * 3


# Whoever sends the stream.


def test_a_view_s_iterator_that_ends():
    def view(request):
        chunks = (b"data: %d\n\n" % number for number in range(3))
        return Response(app_iter=chunks, content_type="text/event-stream")

    with TestApp(make(view)).stream("/") as stream:
        assert [stream.receive().data for _ in range(3)] == ["0", "1", "2"]
        with pytest.raises(StreamEnded):
            stream.receive()


def test_more_of_a_view_s_iterator_than_a_stream_may_be_ahead():
    def view(request):
        chunks = (b"data: %d\n\n" % number + b":" * 500_000 + b"\n" for number in range(30))
        return Response(app_iter=chunks, content_type="text/event-stream")

    with TestApp(make(view)).stream("/") as stream:
        assert [stream.receive().data for _ in range(30)] == [str(number) for number in range(30)]


@pytest.mark.parametrize("read", [TestApp.get, refused])
def test_a_view_s_iterator_without_end_is_an_error(monkeypatch, read):
    monkeypatch.setattr(timeouts, "ENDLESS", 0.1)
    closed = []

    def view(request):
        def chunks():
            try:
                while True:
                    yield b": x\n\n"
            finally:
                closed.append(True)

        return Response(app_iter=chunks(), content_type="text/event-stream")

    with pytest.raises(TimeoutError, match="stream of /, which the thread of the test iterates"):
        read(TestApp(make(view)), "/")
    assert closed == [True]


def starlette_app(*responses):
    async def endless(request):
        async def chunks():
            yield "data: a\n\n"
            await asyncio.Event().wait()

        return StreamingResponse(chunks(), media_type="text/event-stream")

    async def sse(request):
        async def events():
            yield {"data": "a", "event": "news", "id": "7"}
            await asyncio.Event().wait()

        return EventSourceResponse(events())

    return Starlette(routes=[Route("/endless", endless), Route("/sse", sse)])


@pytest.fixture
def no_server(monkeypatch):
    """sse-starlette finds no Uvicorn that has served in this process, and stopped."""
    monkeypatch.setattr(AppStatus, "should_exit", False)
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("no_server")
@pytest.mark.parametrize("path", ["/endless", "/sse"])
def test_an_endless_stream_of_a_mounted_application(path):
    with Configurator() as config:
        config.include("pyramid_asgi_consumers")
        config.add_asgi_app("/mounted", starlette_app())
        testapp = TestApp(config.make_asgi_app())
    with testapp.stream(f"/mounted{path}") as stream:
        assert stream.receive().data == "a"
        stream.close()
        with pytest.raises(StreamEnded) as ended:
            stream.receive()
    assert ended.value.__cause__ is None


# Requests that are not for streams.


def test_get_of_an_endless_stream_is_an_error_that_says_what_to_do(monkeypatch):
    monkeypatch.setattr(timeouts, "ENDLESS", 0.1)
    with pytest.raises(TimeoutError, match="/http answers with an event stream, .* within 0.1 s"):
        http_app(sending(b"data: a\n\n")).get("/http")


def test_get_reads_a_stream_that_ends_and_waits_for_what_takes_long(monkeypatch):
    monkeypatch.setattr(timeouts, "ENDLESS", 0)

    def slow(request):
        time.sleep(0.05)
        return Response("slow")

    async def slowly(scope, receive, send):
        await asyncio.sleep(0.05)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"slow", "more_body": True})
        await asyncio.sleep(0.05)
        await send({"type": "http.response.body", "body": b"ly"})

    async def finite(scope, receive, send):
        await begin(send, b"data: a\n\n")
        await end(send)

    testapp = TestApp(make(slow, ("/slowly", "http", slowly), ("/finite", "http", finite)))
    assert testapp.get("/").text == "slow"
    assert testapp.get("/slowly").text == "slowly"
    monkeypatch.setattr(timeouts, "ENDLESS", 5)
    assert testapp.get("/finite").text == "data: a\n\n"
