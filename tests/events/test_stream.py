"""What a function has of its event stream, and what its client gets."""

import asyncio
import builtins
import gc
import json
from contextlib import AsyncExitStack
from importlib import import_module

import pytest
from pyramid.httpexceptions import HTTPForbidden
from pyramid.response import Response
from pyramid.security import NO_PERMISSION_REQUIRED

from pyramid_asgi_consumers import ClientDisconnected
from pyramid_asgi_consumers.events import function
from tests.support.asgi import body_of, http_scope, run
from tests.support.streams import Reader, application, stop

# Python 3.10 has the backport's.
Group = getattr(builtins, "ExceptionGroup", None) or import_module("exceptiongroup").ExceptionGroup


@pytest.fixture(autouse=True)
async def only_this_task():
    yield
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def forever(stream):
    await stream.send("begun")
    await asyncio.Event().wait()


async def test_the_response_begins_with_the_first_event():
    go = asyncio.Event()

    async def func(stream):
        await go.wait()
        await stream.send({"n": 1}, event="count", id="a", retry=10)

    async with Reader(application(func)) as reader:
        await asyncio.sleep(0)
        assert reader.sent == []
        go.set()
        event = await reader.next()
        await reader.end()
    assert (event.data, event.event, event.id, event.retry) == ('{"n":1}', "count", "a", 10)
    assert reader.status == 200
    assert reader.start["headers"] == [
        (b"content-type", b"text/event-stream; charset=utf-8"),
        (b"cache-control", b"no-cache"),
        (b"x-accel-buffering", b"no"),
    ]
    assert reader.has_ended


async def test_a_function_that_sends_nothing_tells_the_client_not_to_come_again():
    async def func(stream):
        pass

    sent = await run(application(func), http_scope("/events"))
    assert [message.get("status") for message in sent] == [204, None]
    assert body_of(sent) == b""


async def test_what_a_function_returns_is_warned_of(caplog):
    async def func(stream):
        return HTTPForbidden()

    sent = await run(application(func), http_scope("/events"))
    assert sent[0]["status"] == 204
    assert "returned a HTTPForbidden, which nobody gets: a stream sends" in caplog.text


async def test_an_http_exception_before_the_first_event_is_the_answer():
    async def func(stream):
        raise HTTPForbidden("not for you")

    sent = await run(application(func), http_scope("/events"))
    assert sent[0]["status"] == 403
    assert b"not for you" in body_of(sent)


async def test_what_the_client_says_and_is_nothing_is_a_400(caplog):
    async def func(stream):
        async with stream.relay("news", since=["not an id"]):
            raise AssertionError

    sent = await run(application(func), http_scope("/events"))
    assert sent[0]["status"] == 400
    (record,) = caplog.records
    assert (record.levelname, record.exc_info) == ("WARNING", None)
    assert "400 for" in record.getMessage() and "since must be" in record.getMessage()


async def test_an_error_before_the_first_event_is_a_500(caplog):
    async def func(stream):
        raise LookupError("nothing here")

    sent = await run(application(func), http_scope("/events"))
    assert sent[0]["status"] == 500
    assert "nothing here" in caplog.text


async def test_an_error_after_the_first_event_breaks_the_stream_off():
    async def func(stream):
        await stream.send("one")
        raise LookupError("nothing more")

    async with Reader(application(func)) as reader:
        assert await reader.next_data() == "one"
        with pytest.raises(LookupError, match="nothing more"):
            await reader.end()
    assert not reader.has_ended


@pytest.mark.parametrize("error", [SystemExit(3), asyncio.CancelledError("mine")])
async def test_what_ends_others_is_an_error_of_the_function(error, caplog):
    async def func(stream):
        raise error

    sent = await run(application(func), http_scope("/events"))
    assert sent[0]["status"] == 500
    assert type(error).__name__ in caplog.text


async def test_who_cancels_the_function_itself_makes_an_error(caplog):
    tasks = []

    async def func(stream):
        tasks.append(asyncio.current_task())
        await asyncio.Event().wait()

    async with Reader(application(func)) as reader:
        while not tasks:
            await asyncio.sleep(0)
        tasks[0].cancel()
        await reader.until(lambda: reader.sent)
        assert reader.status == 500


async def test_head_gets_the_headers_without_the_function():
    called = []

    async def func(stream):
        called.append(True)

    app = application(func)
    sent = await run(app, http_scope("/events", "HEAD"))
    assert called == []
    await run(app, http_scope("/events"))
    assert called == [True]
    assert sent[0]["status"] == 200
    assert dict(sent[0]["headers"])[b"content-type"] == b"text/event-stream; charset=utf-8"
    assert body_of(sent) == b""


@pytest.mark.parametrize(
    "accept, status",
    [
        ([], 200),
        ([b""], 200),
        ([b"text/event-stream"], 200),
        ([b"*/*"], 200),
        ([b"text/*;q=0.1"], 200),
        ([b"text/html", b"text/event-stream"], 200),
        ([b"text/event-stream; charset=utf-8"], 200),
        ([b'application/json, TEXT/Event-Stream;Charset="UTF-8";q=0.9'], 200),
        ([b"text/event-stream;charset=utf-8;q=0"], 406),
        ([b"text/html"], 406),
        ([b"text/html, */*;q=0"], 406),
        ([b"*/*, text/event-stream;q=0"], 406),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_who_accepts_no_events_gets_406_without_the_function(accept, status, method):
    called = []

    async def func(stream):
        called.append(True)
        await stream.send("x")

    headers = [(b"accept", value) for value in accept]
    sent = await run(application(func), http_scope("/events", method, headers=headers))
    assert sent[0]["status"] == status
    assert bool(called) is (status == 200 and method == "GET")


@pytest.mark.parametrize("guarded", [False, True])
async def test_other_methods_are_pyramids(guarded):
    def set_up(config):
        config.add_route("page", "/events")
        config.add_view(
            lambda request: Response(f"{request.method} {request.text}"), route_name="page"
        )

    more = {"permission": NO_PERMISSION_REQUIRED} if guarded else {}
    app = application(forever, set_up=set_up, **more)
    request = {"type": "http.request", "body": b"mine", "more_body": False}
    for method in ("POST", "PUT", "OPTIONS", "get"):
        sent = await run(app, http_scope("/events", method), request)
        assert body_of(sent) == f"{method} mine".encode()


async def test_other_methods_are_those_of_a_consumer_that_is_less_specific():
    async def rest(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": scope["method"].encode()})

    def set_up(config):
        config.add_asgi_consumer("/*rest", "http", rest)

    sent = await run(application(forever, set_up=set_up), http_scope("/events", "POST"))
    assert body_of(sent) == b"POST"


async def test_the_function_knows_its_handshake():
    known = []

    async def func(stream):
        known.append((stream.path_params, stream.headers["X-Mine"], stream.client, stream.registry))
        with pytest.raises(RuntimeError, match="stream.request: this consumer has no Pyramid"):
            stream.request  # noqa: B018

    app = application(func, "/events/{room}")
    scope = http_scope("/events/a", headers=[(b"x-mine", b"y")], client=["1.2.3.4", 5])
    await run(app, scope)
    assert known == [({"room": "a"}, "y", ("1.2.3.4", 5), app.registry)]


async def test_a_guarded_stream_has_a_request_and_sends_its_cookies():
    async def func(stream):
        await stream.send([stream.request.matchdict["room"], stream.userid])
        path = await stream.run_in_request(lambda request: request.path)
        await stream.send(path)

    class Policy:
        def identity(self, request):
            return "me"

        authenticated_userid = identity

        def permits(self, request, context, permission):
            request.add_response_callback(lambda request, response: response.set_cookie("c", "1"))
            return "deny" not in request.params

    def set_up(config):
        config.set_security_policy(Policy())

    app = application(func, "/events/{room}", set_up=set_up, permission="read")
    async with Reader(app, "/events/b") as reader:
        assert json.loads(await reader.next_data()) == ["b", "me"]
        assert await reader.next_data() == "/events/b"
        await reader.end()
    assert b"c=1" in reader.headers[b"set-cookie"]
    assert reader.headers[b"content-type"] == b"text/event-stream; charset=utf-8"
    sent = await run(app, http_scope("/events/b", query_string=b"deny"))
    assert sent[0]["status"] == 403
    sent = await run(app, http_scope("/events/b", "HEAD", query_string=b"deny"))
    assert sent[0]["status"] == 403


async def test_a_wrong_argument_is_an_error_after_which_the_stream_goes_on():
    async def func(stream):
        wrong = ((b"x",), ({1, 2},), ("", "a\nb"), ("", None, "a\0"), ("", None, None, -1))
        for arguments in wrong:
            with pytest.raises((TypeError, ValueError), match="send: "):
                await stream.send(*arguments)
        await stream.send("goes on")

    async with Reader(application(func)) as reader:
        assert await reader.next_data() == "goes on"
        await reader.end()
    assert reader.has_ended


async def test_after_the_end_nothing_can_be_sent():
    kept = []

    async def func(stream):
        kept.append(stream)
        await stream.send("x")

    await run(application(func), http_scope("/events"))
    with pytest.raises(RuntimeError, match="send: the event stream has ended"):
        await kept[0].send("late")


@pytest.mark.parametrize(
    "headers, query, expected",
    [
        ([], b"", None),
        ([(b"last-event-id", b"")], b"", None),
        ([(b"last-event-id", b"7")], b"last-event-id=8", "7"),
        ([(b"last-event-id", b"")], b"x=1&last-event-id=8", "8"),
        ([(b"last-event-id", "é".encode())], b"", "é"),
        ([(b"last-event-id", b"\xff")], b"", "\N{REPLACEMENT CHARACTER}"),
        ([], b"last-event-id=%C3%A9+x&last-event-id=b%2Bc", "b+c"),
        ([], b"last-event-id=%FF", "\N{REPLACEMENT CHARACTER}"),
    ],
)
async def test_the_last_event_id_is_that_of_the_header_or_of_the_query(headers, query, expected):
    known = []

    async def func(stream):
        known.append(stream.last_event_id)

    scope = http_scope("/events", headers=headers, query_string=query)
    await run(application(func), scope)
    assert known == [expected]


# Leaving.


async def test_a_client_that_leaves_cancels_the_function():
    ended = asyncio.Event()

    async def func(stream):
        await stream.send("begun")
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
            with pytest.raises(ClientDisconnected):
                await stream.send("late")

    async with Reader(application(func)) as reader:
        await reader.next()
        reader.left.set()
        await asyncio.wait_for(ended.wait(), 20)
        await reader.end()
    assert not reader.has_ended


async def test_a_client_that_leaves_before_the_first_event_cancels_the_function():
    begun, ended = asyncio.Event(), asyncio.Event()

    async def func(stream):
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with Reader(application(func)) as reader:
        await begun.wait()
        reader.left.set()
        await reader.end()
    assert ended.is_set()


async def test_a_function_may_wait_for_its_client_to_leave():
    said = []

    async def func(stream):
        await stream.send("begun")
        await stream.wait_closed()
        said.append("left")

    async with Reader(application(func)) as reader:
        await reader.next()
        reader.left.set()
        await reader.end()
    assert said == ["left"]


async def test_a_task_that_waits_for_the_client_ends_with_the_response():
    waiting = []

    async def func(stream):
        waiting.append(asyncio.create_task(stream.wait_closed()))
        await stream.send("begun")

    async with Reader(application(func)) as reader:
        await reader.end()
        await asyncio.wait_for(waiting[0], 20)
    assert reader.has_ended


async def test_a_wait_for_the_client_that_was_given_up_is_none():
    ended = asyncio.Event()

    async def func(stream):
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(stream.wait_closed(), 0.01)
        await stream.send("goes on")
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with Reader(application(func, settings={"asgi.leave_timeout": "100"})) as reader:
        await reader.next()
        reader.left.set()
        await reader.end()
    assert ended.is_set()


async def test_a_function_that_was_told_is_cancelled_after_the_leave_timeout(caplog):
    said = []

    async def func(stream):
        await stream.send("begun")
        await stream.wait_closed()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            said.append("cancelled")
            raise

    async with Reader(application(func, settings={"asgi.leave_timeout": "0.02"})) as reader:
        await reader.next()
        reader.left.set()
        await reader.end()
    assert said == ["cancelled"]
    assert "goes on 0.02 s after its client has left: cancelled" in caplog.text


async def test_what_a_function_raises_after_its_client_has_left_is_logged():
    async def func(stream):
        await stream.send("begun")
        try:
            await asyncio.Event().wait()
        finally:
            raise LookupError("in finally")

    async with Reader(application(func)) as reader:
        await reader.next()
        reader.left.set()
        with pytest.raises(LookupError, match="in finally"):
            await reader.end()


@pytest.mark.parametrize("error", [OSError("gone"), RuntimeError("...; the handler is closed")])
async def test_a_server_that_cannot_send_says_that_the_client_has_left(error):
    said = []

    async def func(stream):
        await stream.send("one")
        with pytest.raises(ClientDisconnected):
            await stream.send("two")
        with pytest.raises(ClientDisconnected):
            await stream.send("three")
        said.append("heard")

    class Gone(Reader):
        async def send(self, message):
            if len(self.sent) == 2:
                raise error
            await super().send(message)

    async with Gone(application(func)) as reader:
        reader.left.set()
        await reader.end()
    assert said == ["heard"]


async def test_an_error_that_looks_like_a_client_that_has_left_is_one_of_the_function(caplog):
    async def func(stream):
        await stream.send("one")
        raise ClientDisconnected("of another connection")

    async with Reader(application(func)) as reader:
        with pytest.raises(ClientDisconnected):
            await reader.end()
    assert not reader.has_ended


async def test_the_tasks_of_a_group_hear_that_the_client_has_left():
    async def func(stream):
        await stream.send("one")
        errors = []
        for _ in range(2):
            with pytest.raises(ClientDisconnected) as caught:
                await stream.send("more")
            errors.append(caught.value)
        raise Group("of a task group", errors)

    class Gone(Reader):
        async def send(self, message):
            if len(self.sent) == 2:
                raise OSError("gone")
            await super().send(message)

    async with Gone(application(func)) as reader:
        reader.left.set()
        await reader.end()


async def test_other_errors_of_the_server_are_raised():
    async def func(stream):
        await stream.send("one")
        with pytest.raises(RuntimeError, match="odd"):
            await stream.send("two")

    class Odd(Reader):
        async def send(self, message):
            if len(self.sent) == 2:
                self.sent.append(message)
                raise RuntimeError("odd")
            await super().send(message)

    async with Odd(application(func)) as reader:
        await reader.end()
    assert reader.has_ended


async def test_a_server_that_cannot_receive_ends_the_function():
    ended = asyncio.Event()

    async def func(stream):
        await stream.send("one")
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    class Broken(Reader):
        async def receive(self):
            await self.until(lambda: self.sent)
            raise LookupError("receive failed")

    async with Broken(application(func)) as reader:
        with pytest.raises(LookupError, match="receive failed"):
            await reader.end()
    assert ended.is_set()


async def test_a_server_that_cancels_the_connection_cancels_the_function():
    ended = asyncio.Event()

    async def func(stream):
        await stream.send("begun")
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with Reader(application(func)) as reader:
        await reader.next()
        reader.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader.end()
    assert ended.is_set()


async def test_a_slow_client_holds_the_function_back():
    sent = []

    async def func(stream):
        for number in range(5):
            await stream.send(number)
            sent.append(number)

    async with Reader(application(func), takes=3) as reader:
        await reader.until(lambda: len(reader.sent) == 3)
        for _ in range(20):
            await asyncio.sleep(0)
        assert sent == [0, 1]
        reader.slow.set()
        await reader.end()
    assert sent == [0, 1, 2, 3, 4]


async def test_tasks_of_the_function_may_send_at_once():
    async def func(stream):
        await asyncio.gather(*(stream.send(number) for number in range(5)))

    class Slow(Reader):
        async def send(self, message):
            await asyncio.sleep(0)
            await super().send(message)

    async with Slow(application(func)) as reader:
        await reader.end()
        assert [await reader.next_data() for _ in range(5)] == list("01234")
    assert [message["type"] for message in reader.sent[:2]] == [
        "http.response.start",
        "http.response.body",
    ]


# Silence.


async def test_silence_is_broken_by_comments():
    async def func(stream):
        await asyncio.Event().wait()

    app = application(func, settings={"asgi.events.heartbeat": "0.01"})
    async with Reader(app) as reader:
        await reader.until(lambda: reader.body.count(b":\n\n") >= 3)
        assert reader.status == 200
        assert set(reader.body.split(b"\n\n")) == {b":", b""}


async def test_who_sends_needs_no_comments():
    async def func(stream):
        for _ in range(30):
            await stream.send("x")
            await asyncio.sleep(0.01)

    app = application(func, settings={"asgi.events.heartbeat": "0.2"})
    async with Reader(app) as reader:
        await reader.end()
    assert b":\n\n" not in reader.body


async def test_a_client_that_takes_nothing_gets_no_comments():
    async def func(stream):
        await stream.send("1")
        await stream.send("2")

    app = application(func, settings={"asgi.events.heartbeat": "0.01"})
    async with Reader(app, takes=2) as reader:
        await reader.until(lambda: len(reader.sent) == 2)
        await asyncio.sleep(0.05)
        reader.slow.set()
        await reader.end()
    assert reader.body.startswith(b"data: 1\n\ndata: 2\n\n")


async def test_a_comment_that_cannot_be_sent_says_that_the_client_has_left():
    ended = asyncio.Event()

    async def func(stream):
        await stream.send("begun")
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    class Gone(Reader):
        async def send(self, message):
            if message.get("body") == b":\n\n":
                raise OSError("gone")
            await super().send(message)

    app = application(func, settings={"asgi.events.heartbeat": "0.01", "asgi.leave_timeout": "99"})
    async with Gone(app) as reader:
        await asyncio.wait_for(ended.wait(), 20)
        reader.left.set()
        await reader.end()


async def test_a_receive_that_never_waits_does_not_keep_others_from_their_turn():
    asked = []

    async def func(stream):
        await stream.send("begun")
        await asyncio.sleep(0.05)
        await stream.send("going on")

    class Again(Reader):
        # As middleware does that has read the body.
        async def receive(self):
            asked.append(True)
            assert len(asked) < 1000
            return {"type": "http.request", "body": b""}

    async with Again(application(func)) as reader:
        assert [await reader.next_data(), await reader.next_data()] == ["begun", "going on"]
        await reader.end()
    assert reader.has_ended and asked


async def test_a_comment_that_the_server_cannot_send_is_an_error_of_the_server():
    failed = asyncio.Event()

    async def func(stream):
        await stream.send("begun")
        await failed.wait()

    class Failing(Reader):
        async def send(self, message):
            if message.get("body") == b":\n\n":
                failed.set()
                raise LookupError("broken")
            await super().send(message)

    app = application(func, settings={"asgi.events.heartbeat": "0.01"})
    async with Failing(app) as reader:
        with pytest.raises(LookupError, match="broken"):
            await reader.end()


@pytest.mark.parametrize("error", [OSError("gone"), RuntimeError("...; the handler is closed")])
async def test_a_client_that_has_left_as_send_alone_says_is_no_error(error, caplog):
    class Gone(Reader):
        async def send(self, message):
            if message.get("body") == b":\n\n":
                raise error
            await super().send(message)

    app = application(forever, settings={"asgi.events.heartbeat": "0.01"})
    async with Gone(app) as reader:
        await reader.end()
    assert caplog.text == ""


# The server stops.


async def test_a_server_that_stops_ends_the_stream_whole():
    ended = asyncio.Event()

    async def func(stream):
        await stream.send("begun")
        try:
            await asyncio.Event().wait()
        finally:
            await stream.send("bye")
            ended.set()

    app = application(func)
    async with Reader(app) as reader:
        await reader.next()
        stop(app)
        assert await reader.next_data() == "bye"
        await reader.end()
    assert ended.is_set() and reader.has_ended


async def test_a_function_that_ends_just_as_its_server_stops_ends_its_stream():
    go = asyncio.Event()

    async def func(stream):
        await stream.send("begun")
        await go.wait()

    app = application(func)
    async with Reader(app) as reader:
        await reader.next()
        go.set()
        stop(app)
        await reader.end()
    assert reader.has_ended


async def test_a_stream_that_had_not_begun_begins_so_that_its_client_comes_again():
    async def func(stream):
        await asyncio.Event().wait()

    app = application(func)
    async with Reader(app) as reader:
        await asyncio.sleep(0.01)
        stop(app)
        await reader.end()
    assert (reader.status, reader.has_ended) == (200, True)
    assert reader.parser.take() is None


async def test_the_clients_of_a_server_that_stops_do_not_come_again_all_at_once():
    app = application(forever)
    async with AsyncExitStack() as stack:
        readers = [await stack.enter_async_context(Reader(app)) for _ in range(50)]
        for reader in readers:
            await reader.next()
        stop(app)
        for reader in readers:
            await reader.end()
    for reader in readers:
        assert reader.parser.take() is None
        assert 1000 <= reader.parser.retry <= 5000
    assert len({reader.parser.retry for reader in readers}) > 10


async def test_a_function_says_itself_when_its_client_comes_again():
    async def func(stream):
        await stream.send("begun", retry=7)
        await asyncio.Event().wait()

    app = application(func)
    async with Reader(app) as reader:
        await reader.next()
        stop(app)
        await reader.end()
    assert reader.has_ended
    assert reader.parser.retry == 7


@pytest.mark.parametrize("text", ["odd", "...; the handler is closed"])
async def test_a_client_that_leaves_as_the_server_stops_is_none_of_its_errors(text):
    app = application(forever)

    class Leaving(Reader):
        async def send(self, message):
            if not message.get("more_body", True):
                self.left.set()
                raise RuntimeError(text)
            await super().send(message)

    async with Leaving(app) as reader:
        await reader.next()
        stop(app)
        if text == "odd":
            with pytest.raises(RuntimeError, match="odd"):
                await reader.end()
        else:
            await reader.end()


async def test_a_function_that_goes_on_does_not_keep_its_stream_open(monkeypatch, caplog):
    monkeypatch.setattr(function, "STOP_PATIENCE", 0.01)
    go = asyncio.Event()
    said = []

    async def func(stream):
        await stream.send("begun")
        while not go.is_set():
            try:
                await go.wait()
            except asyncio.CancelledError:
                said.append("cancelled")
        with pytest.raises(RuntimeError, match="has ended"):
            await stream.send("late")
        said.append("ended")

    app = application(func, settings={"asgi.leave_timeout": "0.05"})
    async with Reader(app) as reader:
        await reader.next()
        stop(app)
        await reader.until(lambda: reader.has_ended)
        await reader.end()
        assert "Left alone, since it goes on" in caplog.text
        go.set()
        while "ended" not in said:
            await asyncio.sleep(0.001)


async def test_a_client_that_takes_nothing_does_not_hold_up_its_server(monkeypatch):
    monkeypatch.setattr(function, "STOP_PATIENCE", 0.01)
    app = application(forever)
    async with Reader(app, takes=2) as reader:
        await reader.until(lambda: len(reader.sent) == 2)
        stop(app)
        reader.left.set()
        await reader.end()
    assert not reader.has_ended


@pytest.mark.parametrize("knows", [False, True])
async def test_who_ends_slowly_after_its_client_has_left_does_not_hold_up_its_server(knows, caplog):
    cancelled, go = asyncio.Event(), asyncio.Event()

    async def func(stream):
        await stream.send("begun")
        if knows:
            await stream.wait_closed()
        while not go.is_set():
            try:
                await go.wait()
            except asyncio.CancelledError:
                cancelled.set()

    app = application(func, settings={"asgi.leave_timeout": "0.05"})
    async with Reader(app) as reader:
        await reader.next()
        reader.left.set()
        await asyncio.wait_for(cancelled.wait(), 20)
        stop(app)
        await reader.end()
        go.set()
    assert "Left alone, since it goes on 0.05 s after it was cancelled" in caplog.text


async def test_a_function_that_was_told_is_cancelled_as_its_server_stops():
    told, ended = asyncio.Event(), asyncio.Event()

    async def func(stream):
        await stream.send("begun")
        await stream.wait_closed()
        told.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    app = application(func, settings={"asgi.leave_timeout": "99"})
    async with Reader(app) as reader:
        await reader.next()
        reader.left.set()
        await asyncio.wait_for(told.wait(), 20)
        stop(app)
        await reader.end()
    assert ended.is_set()


async def test_no_comment_is_due_while_a_slow_client_takes_the_end(caplog):
    app = application(forever, settings={"asgi.events.heartbeat": "0.05"})
    async with Reader(app, takes=3) as reader:
        await reader.next()
        stop(app)
        await reader.until(lambda: len(reader.sent) == 3)
        # It takes longer than the heartbeat.
        await asyncio.sleep(0.1)
        reader.slow.set()
        await reader.end()
    assert reader.has_ended
    gc.collect()
    assert caplog.text == ""


async def test_what_a_function_raises_as_its_server_stops_is_logged(caplog):
    async def func(stream):
        await stream.send("begun")
        try:
            await asyncio.Event().wait()
        finally:
            raise LookupError("in finally")

    app = application(func)
    async with Reader(app) as reader:
        await reader.next()
        stop(app)
        await reader.end()
    assert reader.has_ended
    assert "in finally" in caplog.text
