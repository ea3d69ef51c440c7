"""Event streams, and async bodies, of an application in its tests: ``testapp.stream()``."""

import asyncio
import contextlib

import pytest
from pyramid.config import Configurator
from pyramid.httpexceptions import HTTPForbidden
from pyramid.response import Response

from pyramid_asgi_consumers.testing import StreamEnded, StreamRefused, TestApp, timeouts
from tests.testing.applications import OPEN

pytestmark = pytest.mark.usefixtures("no_thread_is_left")


def publish(request):
    request.channels.publish("news", request.json_body)
    return Response()


async def present(request):
    return Response(json_body=await request.channels.apresent("news"))


async def news(stream):
    async with stream.relay("news", presence="reader"):
        await stream.wait_closed()


def streams_app(func=news, guarded=False, **settings):
    """An application with the event stream ``func`` at /news."""
    settings = {"asgi.channels.history": 100, **settings}
    with Configurator(settings=settings) as config:
        config.include("pyramid_asgi_consumers")
        config.add_event_stream("/news", func, max_connections=2, **OPEN if guarded else {})
        for view in (publish, present):
            config.add_route(view.__name__, f"/{view.__name__}")
            config.add_view(view, route_name=view.__name__)
        return config.make_asgi_app()


@pytest.fixture(params=[False, True], ids=["plain", "guarded"])
def guarded(request):
    return request.param


def status_of(testapp, **options):
    with pytest.raises(StreamRefused) as refused, contextlib.ExitStack() as stack:
        stack.enter_context(testapp.stream("/news", **options))
    return refused.value.response.status_int


def test_a_reader_gets_what_is_published_and_resumes_where_it_left(guarded):
    with TestApp(streams_app(guarded=guarded)) as testapp:
        with testapp.stream("/news") as stream:
            began_at = stream.last_event_id
            testapp.post_json("/publish", {"n": 1})
            testapp.post_json("/publish", {"n": 2})
            assert stream.receive_json() == {"n": 1}
            first = stream.last_event_id
        for since, numbers in ((began_at, [1, 2]), (first, [2])):
            with testapp.stream("/news", headers={"Last-Event-ID": since}) as stream:
                assert [stream.receive_json()["n"] for _ in numbers] == numbers
        with testapp.stream(f"/news?last-event-id={first}") as stream:
            assert stream.receive_json() == {"n": 2}


def test_several_readers_each_get_it_once(guarded):
    app = streams_app(guarded=guarded)
    with TestApp(app) as ann, TestApp(app) as bob:
        with ann.stream("/news") as of_ann, bob.stream("/news") as of_bob:
            ann.post_json("/publish", "hello")
            bob.post_json("/publish", "bye")
            for stream in (of_ann, of_bob):
                assert [stream.receive_json(), stream.receive_json()] == ["hello", "bye"]


def test_a_test_that_fails_midway_leaves_nobody_present_and_no_slot(guarded):
    with TestApp(streams_app(guarded=guarded)) as testapp:
        for _ in range(3):
            with pytest.raises(LookupError), testapp.stream("/news"):
                assert testapp.get("/present").json == ["reader"]
                raise LookupError
            assert testapp.get("/present").json == []
        with testapp.stream("/news"), testapp.stream("/news"):
            assert status_of(testapp) == 503


def test_a_stream_that_is_left_ends_at_once_as_on_a_server(guarded, caplog):
    with TestApp(streams_app(guarded=guarded)) as testapp:
        with testapp.stream("/news") as stream:
            stream.close()
            assert testapp.get("/present").json == []
            with pytest.raises(StreamEnded) as ended:
                stream.receive()
    assert ended.value.__cause__ is None
    assert caplog.messages == []


def test_what_is_no_stream(guarded):
    async def func(stream):
        if "no" in stream.headers["x-what"]:
            raise HTTPForbidden()

    testapp = TestApp(streams_app(func, guarded))
    assert status_of(testapp, headers={"X-What": "no"}) == 403
    assert status_of(testapp, headers={"X-What": "nothing"}) == 403
    assert status_of(testapp, headers={"X-What": "over"}) == 204
    assert status_of(testapp, headers={"X-What": "no", "Accept": "text/html"}) == 406


def test_what_a_function_raises_is_raised_before_it_has_begun_and_the_cause_afterwards(guarded):
    error = LookupError("gone")

    async def func(stream):
        if stream.last_event_id:
            await stream.send("a")
        raise error

    testapp = TestApp(streams_app(func, guarded))
    with pytest.raises(LookupError) as raised:
        status_of(testapp)
    assert raised.value is error
    with testapp.stream("/news", headers={"Last-Event-ID": "7"}) as stream:
        assert stream.receive().data == "a"
        with pytest.raises(StreamEnded) as ended:
            stream.receive()
    assert ended.value.__cause__ is error


def test_a_function_that_sends_and_sends_waits_for_the_test():
    sent = []

    async def func(stream):
        while True:
            await stream.send("x" * 10_000)
            sent.append(True)

    with TestApp(streams_app(func)).stream("/news") as stream:
        for _ in range(50):
            assert len(stream.receive().data) == 10_000
        assert len(sent) < 200


def test_work_in_a_request_runs_in_the_thread_of_the_test():
    def look(request):
        return request.environ["REMOTE_USER"]

    async def func(stream):
        await stream.send(await stream.run_in_request(look))

    testapp = TestApp(streams_app(func, guarded=True), {"REMOTE_USER": "ann"})
    with testapp.stream("/news") as stream:
        assert stream.receive().data == "ann"
        with pytest.raises(StreamEnded):
            stream.receive()


# Async bodies.


def body_app(chunks, closed):
    async def body():
        try:
            for chunk in chunks:
                yield chunk
            await asyncio.Event().wait()
        finally:
            closed.append(True)

    def news(request):
        return Response(app_iter=body(), content_type="text/event-stream")

    with Configurator() as config:
        config.include("pyramid_asgi_consumers")
        config.add_route("news", "/news")
        config.add_view(news, route_name="news")
        return config.make_asgi_app()


@pytest.mark.parametrize("with_lint", [True, False])
def test_an_endless_body_of_a_view(with_lint):
    closed = []
    testapp = TestApp(body_app([b"data: a\n", b"\nid: 7\n\n"], closed), lint=with_lint)
    with testapp.stream("/news") as stream:
        assert stream.receive().data == "a"
        with pytest.raises(TimeoutError, match="so far came 1 event"):
            stream.receive(timeout=0.05)
        assert (stream.last_event_id, closed) == ("7", [])
    assert closed == [True]


def test_a_test_that_fails_midway_closes_the_body():
    closed = []
    with TestApp(body_app([b"data: a\n\n"], closed)) as testapp:
        with pytest.raises(LookupError), testapp.stream("/news") as stream:
            stream.receive()
            raise LookupError
        assert closed == [True]


def test_a_body_that_raises_ends_its_stream():
    with TestApp(body_app([b"data: a\n\n", "text"], [])).stream("/news") as stream:
        assert stream.receive().data == "a"
        with pytest.raises(StreamEnded) as ended:
            stream.receive()
    assert "bytes" in str(ended.value.__cause__)


@pytest.mark.parametrize("make", [streams_app, lambda: body_app([b"data: a\n\n"], [])])
def test_get_says_which_call_reads_what_goes_on(monkeypatch, make):
    monkeypatch.setattr(timeouts, "ENDLESS", 0.1)
    with pytest.raises(TimeoutError, match=r"/news answers with .* within 0.1 s: testapp.stream"):
        TestApp(make()).get("/news")
