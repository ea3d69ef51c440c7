import asyncio
import contextlib
import contextvars
import io
import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import webtest
from pyramid.config import Configurator
from pyramid.httpexceptions import HTTPConflict, HTTPFound, HTTPUnauthorized
from pyramid.response import Response
from pyramid.security import NO_PERMISSION_REQUIRED
from pyramid.threadlocal import get_current_request

from pyramid_asgi_consumers import run_in_request
from pyramid_asgi_consumers.exceptions import LifespanError, WSGIError
from pyramid_asgi_consumers.testing import (
    TestApp,
    WebSocketDenied,
    WebSocketDisconnect,
    timeouts,
)
from pyramid_asgi_consumers.testing.watched import WatchedConsumer
from pyramid_asgi_consumers.websocket.face import WebSocketFunction
from tests.support.asgi import body_of, http_scope, run, websocket_scope

variable = contextvars.ContextVar("variable", default=None)


@pytest.fixture(autouse=True)
def no_thread_is_left():
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


def make(view=None, *consumers, lifespan=None, wsgi_app=None, **settings):
    """An application with one view at /, and consumers (path, protocol, callable, options)."""
    with Configurator(settings=settings) as config:
        config.include("pyramid_asgi_consumers")
        if view is not None:
            config.add_route("view", "/")
            config.add_view(view, route_name="view")
        for path, protocol, consumer, *options in consumers:
            config.add_asgi_consumer(path, protocol, consumer, **dict(*options))
        if lifespan is not None:
            config.add_asgi_lifespan(lifespan)
        return config.make_asgi_app(wsgi_app)


def websocket_app(consumer, **options):
    return TestApp(make(None, ("/ws", "websocket", consumer, options)))


def http_app(consumer, **options):
    return TestApp(make(None, ("/http", "http", consumer, options)))


async def accept(receive, send, **more):
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept", **more})


async def echo(scope, receive, send):
    await accept(receive, send)
    while (message := await receive())["type"] == "websocket.receive":
        await send({**message, "type": "websocket.send"})


def denial(testapp, url, **options):
    with pytest.raises(WebSocketDenied) as denied, contextlib.ExitStack() as stack:
        stack.enter_context(testapp.websocket(url, **options))
    return denied.value


async def ok(send, body=b"ok", **more):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body, **more})


OPEN = {"permission": NO_PERMISSION_REQUIRED}


# The application.


def test_a_wsgi_application_is_refused():
    with pytest.raises(TypeError, match="TestApp needs an ASGIApplication, .* not <pyramid.router"):
        TestApp(make().wsgi_app)


def test_an_application_by_its_uri():
    here = os.path.dirname(__file__)
    testapp = TestApp("config:../cookiecutter/testing.ini", relative_to=here)
    assert testapp.get("/messages/a", status=403).json == {"error": "log in first"}


def test_without_webtest_it_says_what_to_install():
    code = "import sys; sys.modules['webtest'] = None; import pyramid_asgi_consumers.testing"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "needs WebTest: pip install webtest" in result.stderr.splitlines()[-1]


# Views.


def test_a_view_runs_in_the_thread_of_the_test_within_its_context():
    local = threading.local()
    local.value = "fixture"
    variable.set("context")

    def view(request):
        assert get_current_request() is request
        return Response(f"{local.value} {variable.get()}")

    assert TestApp(make(view)).get("/").text == "fixture context"
    variable.set(None)


@pytest.mark.parametrize("kind", [LookupError, StopIteration, pytest.fail.Exception, SystemExit])
def test_what_a_view_raises_is_raised_as_the_same_object(kind):
    error = kind("in the view")

    def view(request):
        raise error

    with pytest.raises(kind) as raised:
        TestApp(make(view)).get("/")
    assert raised.value is error


def test_what_a_response_raises_is_raised_as_the_same_object():
    error = RuntimeError("in the middle")
    closed = []

    class Chunks:
        def __iter__(self):
            yield b"x"
            raise error

        def close(self):
            closed.append(self)

    with pytest.raises(RuntimeError) as raised:
        TestApp(make(lambda request: Response(app_iter=Chunks()))).get("/")
    assert raised.value is error
    assert len(closed) == 1


def test_an_exception_that_middleware_answers_is_not_raised():
    def view(request):
        raise KeyError(request.environ["my.key"])

    inner = make(view).wsgi_app

    def middleware(environ, start_response):
        try:
            return inner(environ, start_response)
        except LookupError as error:
            start_response("502 Bad Gateway", [("Content-Type", "text/plain")])
            return [str(error).encode()]

    testapp = TestApp(make(wsgi_app=middleware), extra_environ={"my.key": "seen"})
    assert testapp.get("/", status=502).text == "'seen'"


def test_the_environ_has_the_scope():
    def view(request):
        scope = request.environ["asgi.scope"]
        assert scope["type"] == "http"
        assert scope["raw_path"] == b"/%C3%A9/a:b"
        assert scope["path"] == "/é/a:b"
        assert scope["client"] == ("192.0.2.1", 7)
        assert "state" not in scope
        return Response(request.path_info)

    with Configurator() as config:
        config.include("pyramid_asgi_consumers")
        config.add_view(view, name="a:b", context=Any)
        config.set_root_factory(lambda request: {"é": Any()})
        app = config.make_asgi_app()
    extra_environ = {"REMOTE_ADDR": "192.0.2.1", "REMOTE_PORT": "7"}
    assert TestApp(app, extra_environ).get("/%C3%A9/a:b").text == "/é/a:b"


class Any(dict):
    pass


def test_lint_is_for_the_application_behind_the_bridge_and_can_be_switched_off():
    def wsgi_app(environ, start_response):
        start_response("200 OK", [("X-Long-", "")])
        return [b""]

    with pytest.raises(AssertionError, match="may not end in"):
        TestApp(make(wsgi_app=wsgi_app)).get("/")
    assert TestApp(make(wsgi_app=wsgi_app), lint=False).get("/").headers["x-long-"] == ""


def test_what_the_bridge_refuses_is_raised():
    def wsgi_app(environ, start_response):
        return start_response("200 OK", [("Connection", "close")])

    with pytest.raises(WSGIError, match="hop-by-hop"):
        TestApp(make(wsgi_app=wsgi_app)).get("/")


def test_a_response_of_which_nothing_is_taken_is_closed_once():
    closed = []

    class Chunks(list):
        def close(self):
            closed.append(self)

    def wsgi_app(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return Chunks([b"x", b"y"])

    assert TestApp(make(wsgi_app=wsgi_app)).head("/").body == b""
    assert len(closed) == 1


def test_an_async_view_runs_on_the_loop_while_the_test_waits():
    async def view(request):
        await asyncio.sleep(0)
        return Response(threading.current_thread().name)

    assert TestApp(make(view)).get("/").text == "testapp"


def test_a_view_may_use_the_testapp():
    def view(request):
        return Response("inner" if "inner" in request.GET else testapp.get("/?inner").body * 2)

    testapp = TestApp(make(view))
    assert testapp.get("/").text == "innerinner"


def test_a_body_longer_than_the_limit():
    testapp = TestApp(make(lambda request: Response(), **{"asgi.max_body_size": 10}))
    assert testapp.post("/", b"x" * 11, status=413).headers["Connection"] == "close"


def test_a_body_without_a_length_is_sent_whole():
    testapp = TestApp(make(lambda request: Response(request.body)))
    request = testapp.RequestClass.blank("/", method="POST")
    request.environ["wsgi.input"] = io.BytesIO(b"x" * 700_000)
    assert testapp.do_request(request).body == b"x" * 700_000


def test_a_length_that_is_no_number_is_refused_as_on_a_server():
    testapp = TestApp(make(lambda request: Response()), lint=False)
    testapp.get("/", extra_environ={"CONTENT_LENGTH": "many"}, status=400)


# Http consumers.


def test_an_http_consumer_answers_and_gets_the_body_in_parts():
    async def consumer(scope, receive, send):
        sizes = []
        more = True
        while more:
            message = await receive()
            sizes.append(len(message["body"]))
            more = message["more_body"]
        assert scope["method"] == "POST"
        await send(
            {
                "type": "http.response.start",
                "status": 201,
                "headers": [(b"x-a", b"1"), (b"x-a", b"2")],
            }
        )
        for size in sizes:
            await send({"type": "http.response.body", "body": b"%d " % size, "more_body": True})
        await send({"type": "http.response.body"})
        assert await receive() == {"type": "http.disconnect"}

    response = http_app(consumer).post("/http", b"x" * 150_000)
    assert (response.status, response.text) == ("201 Created", "65536 65536 18928 ")
    assert response.headers.getall("X-A") == ["1", "2"]


@pytest.mark.parametrize("when", ["before", "during", "after"])
def test_what_an_http_consumer_raises_is_raised_as_the_same_object(when):
    error = LookupError("in the consumer")

    async def consumer(scope, receive, send):
        if when != "before":
            await ok(send, more_body=when == "during")
        raise error

    with pytest.raises(LookupError) as raised:
        http_app(consumer).get("/http")
    assert raised.value is error


def test_an_http_exception_before_the_response_is_the_response():
    async def consumer(scope, receive, send):
        raise HTTPConflict("taken")

    assert "taken" in http_app(consumer).get("/http", status=409)


def test_an_http_exception_says_its_headers_in_the_usual_case():
    async def consumer(scope, receive, send):
        raise HTTPUnauthorized(headers=[("WWW-Authenticate", "Basic")])

    response = http_app(consumer).get("/http", status=401)
    assert ("Www-Authenticate", "Basic") in response.headerlist


@pytest.mark.parametrize("status, line", [(299, "299 Success"), (599, "599 Unknown Server Error")])
def test_a_status_without_a_name(status, line):
    async def consumer(scope, receive, send):
        await send({"type": "http.response.start", "status": status})
        await send({"type": "http.response.body"})

    assert http_app(consumer).get("/http", status="*").status == line


def test_the_scope_of_an_odd_environ_is_one_that_a_server_could_send():
    scopes = []

    async def consumer(scope, receive, send):
        scopes.append(scope)
        await ok(send)

    testapp = http_app(consumer)
    environ = {
        "REMOTE_ADDR": b"192.0.2.1",
        "REMOTE_PORT": "many",
        "SERVER_NAME": "\u0416",
        "SERVER_PORT": "",
        "HTTP_X_BYTES": b"\xff",
        "HTTP_X_TEXT": "\u0416",
        "HTTP_X_EMPTY": "",
        "QUERY_STRING": "\u0416",
        "PATH_INFO": "/http",
    }
    testapp.request("/http", environ=environ)
    testapp.request("/http", environ={**environ, "wsgi.url_scheme": "https"})
    (scope, over_tls) = scopes
    assert scope["client"] == ("192.0.2.1", 0)
    assert scope["server"] == ("\xd0\x96", 80)
    assert over_tls["server"] == ("\xd0\x96", 443)
    headers = {name: value for name, value in scope["headers"] if name.startswith(b"x-")}
    assert headers == {b"x-bytes": b"\xff", b"x-text": b"\xd0\x96"}
    assert scope["query_string"] == b"\xd0\x96"


def test_an_http_exception_during_the_response_is_raised():
    async def consumer(scope, receive, send):
        await ok(send, more_body=True)
        raise HTTPConflict("taken")

    with pytest.raises(HTTPConflict):
        http_app(consumer).get("/http")


def test_a_response_without_an_end_is_an_error():
    async def consumer(scope, receive, send):
        await ok(send, more_body=True)

    with pytest.raises(RuntimeError, match="http /http: .* returned before the end of its resp"):
        http_app(consumer).get("/http")


@pytest.mark.parametrize(
    "message, said",
    [
        ({"text": b"x"}, "text of websocket.send must be str, not bytes: b'x'"),
        ({"bytes": "x"}, "bytes of websocket.send must be bytes, not str: 'x'"),
        ({"text": "x", "bytes": b"x"}, "text or bytes, one of the two, not text and bytes"),
        ({"text": None}, "text or bytes, one of the two, not none"),
    ],
)
def test_a_websockets_message_of_the_wrong_type_is_named(message, said):
    raised = []

    async def consumer(scope, receive, send):
        await accept(receive, send)
        try:
            await send({"type": "websocket.send", **message})
        except TypeError as error:
            raised.append(str(error))
            raise

    with pytest.raises(WebSocketDisconnect) as found:
        with websocket_app(consumer).websocket("/ws") as websocket:
            websocket.receive()
    assert isinstance(found.value.__cause__, TypeError)
    [error] = raised
    assert error.startswith("websocket /ws: ") and said in error


@pytest.mark.parametrize(
    "start, said",
    [
        ({"status": "200"}, "status of http.response.start must be int, not str: '200'"),
        ({}, "status of http.response.start must be int, not NoneType: None"),
        ({"status": 200, "headers": [("a", b"b")]}, r"pairs of bytes, .* not \('a', b'b'\)"),
        ({"status": 200, "headers": [b"ab"]}, "pairs of bytes, .* not b'ab'"),
        ({"status": 200, "headers": [(b"a", b"b", b"c")]}, "pairs of bytes"),
    ],
)
def test_a_response_of_the_wrong_types_is_named(start, said):
    async def consumer(scope, receive, send):
        await send({"type": "http.response.start", **start})

    with pytest.raises(TypeError, match=f"http /http: .*{said}"):
        http_app(consumer).get("/http")


def test_a_denials_body_of_the_wrong_type_is_named():
    async def consumer(scope, receive, send):
        await send({"type": "websocket.http.response.start", "status": 403, "headers": []})
        await send({"type": "websocket.http.response.body", "body": "text"})

    with pytest.raises(WebSocketDenied) as found:
        websocket_app(consumer).websocket("/ws").__enter__()
    assert str(found.value.__cause__) == (
        "websocket /ws: body of websocket.http.response.body must be bytes, not str: 'text'"
    )


def test_a_port_that_the_test_has_not_given_is_absent():
    def view(request):
        return Response(repr(request.environ.get("REMOTE_PORT")))

    environ = {"REMOTE_ADDR": "192.0.2.1"}
    assert TestApp(make(view), environ).get("/").text == "None"
    assert TestApp(make(view), {**environ, "REMOTE_PORT": "7"}).get("/").text == "'7'"


def test_messages_in_the_wrong_order_are_an_error():
    async def consumer(scope, receive, send):
        await send({"type": "http.response.body"})

    with pytest.raises(
        RuntimeError, match="Expected http.response.start .* not http.response.body"
    ):
        http_app(consumer).get("/http")

    async def long_consumer(scope, receive, send):
        await ok(send)
        await send({"type": "http.response.body"})

    with pytest.raises(RuntimeError, match="Expected nothing to be sent"):
        http_app(long_consumer).get("/http")


def test_a_guarded_http_consumer_works_in_the_thread_of_the_test():
    main = threading.current_thread()

    def work(request, error):
        assert threading.current_thread() is main
        assert request.environ["my.key"] == 7
        if error is not None:
            raise error
        return b"done"

    async def consumer(scope, receive, send):
        with pytest.raises(LookupError):
            await run_in_request(scope, work, LookupError())
        await ok(send, await run_in_request(scope, work, None))

    testapp = http_app(consumer, **OPEN)
    assert testapp.get("/http", extra_environ={"my.key": 7}).text == "done"


def test_what_the_handshake_of_an_http_consumer_raises_is_raised_as_the_same_object():
    error = LookupError("in the factory")

    def factory(request):
        raise error

    with pytest.raises(LookupError) as raised:
        http_app(echo, factory=factory).get("/http")
    assert raised.value is error


def test_an_interrupt_ends_the_consumer():
    class Interrupt(Exception):
        pass

    def interrupt(*args):
        raise Interrupt

    before = signal.signal(signal.SIGUSR1, interrupt)
    ended = []

    async def consumer(scope, receive, send):
        try:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    try:
        with TestApp(make(None, ("/http", "http", consumer))) as testapp:
            with pytest.raises(Interrupt):
                testapp.get("/http")
            assert ended == [True]
    finally:
        signal.signal(signal.SIGUSR1, before)


# Websockets.


def test_messages_of_each_kind():
    with websocket_app(echo).websocket("/ws") as websocket:
        for message in ("hello", "", b"\x00\xff", b""):
            websocket.send(message)
            assert websocket.receive() == message
        websocket.send_text("é")
        assert websocket.receive_text() == "é"
        websocket.send_bytes(b"x")
        assert websocket.receive_bytes() == b"x"
        websocket.send_json({"é": [1]})
        assert websocket.receive_json() == {"é": [1]}
        websocket.send_bytes(b"[1]")
        assert websocket.receive_json() == [1]
        assert websocket.close_code is None
    assert websocket.close_code == 1000


def test_a_message_of_the_wrong_kind():
    with websocket_app(echo).websocket("/ws") as websocket:
        websocket.send("hello")
        with pytest.raises(ValueError, match="Expected a message of bytes, not 'hello'"):
            websocket.receive_bytes()
        websocket.send(b"hello")
        with pytest.raises(ValueError, match="Expected a message of str, not b'hello'"):
            websocket.receive_text()
        websocket.send("hello")
        with pytest.raises(ValueError, match="Expecting value"):
            websocket.receive_json()
        with pytest.raises(TypeError, match="must be str or bytes, not 7"):
            websocket.send(7)
        with pytest.raises(TypeError, match="must be str, not b'x'"):
            websocket.send_text(b"x")
        with pytest.raises(TypeError, match="must be bytes, not 'x'"):
            websocket.send_bytes("x")


def test_the_handshake():
    scopes = []

    async def consumer(scope, receive, send):
        scopes.append(scope)
        await accept(
            receive, send, subprotocol="chat", headers=[(b"x-a", b"1"), (b"set-cookie", b"b=2")]
        )

    testapp = websocket_app(consumer, origins=["https://friend.test"])
    testapp.set_cookie("a", "1")
    with testapp.websocket(
        "/ws?x=%C3%A9#there",
        headers={"X-Version": "3"},
        subprotocols=["chat", "news"],
        origin="https://friend.test",
    ) as websocket:
        assert websocket.accepted_subprotocol == "chat"
        assert websocket.headers["X-A"] == "1"
    assert testapp.cookies == {"a": '"1"', "b": "2"}
    (scope,) = scopes
    assert (scope["type"], scope["scheme"], scope["path"]) == ("websocket", "ws", "/ws")
    assert scope["query_string"] == b"x=%C3%A9"
    assert scope["subprotocols"] == ["chat", "news"]
    assert scope["extensions"] == {"websocket.http.response": {}}
    headers = dict(scope["headers"])
    assert headers[b"x-version"] == b"3"
    assert headers[b"cookie"] == b'a="1"'
    assert headers[b"origin"] == b"https://friend.test"
    assert headers[b"sec-websocket-protocol"] == b"chat, news"
    assert headers[b"host"] == b"localhost:80"
    assert scope["http_version"] == "1.1"


@pytest.mark.parametrize("url", ["wss://example.com/ws", "https://example.com/ws"])
def test_a_whole_url(url):
    async def consumer(scope, receive, send):
        await accept(receive, send)
        host = dict(scope["headers"])[b"host"].decode()
        await send({"type": "websocket.send", "text": f"{scope['scheme']} {host}"})

    with websocket_app(consumer).websocket(url) as websocket:
        assert websocket.receive() == "wss example.com:443"


def test_a_foreign_origin_is_denied():
    denied = denial(websocket_app(echo), "/ws", origin="https://evil.test")
    assert denied.response.status_int == 403
    assert str(denied) == "403 Forbidden for the websocket /ws"


def test_a_path_without_a_consumer_is_denied():
    denied = denial(websocket_app(echo), "/none")
    assert denied.response.status == "404 Not Found"
    assert denied.response.text == "404\n"


def test_a_denial_is_a_webtest_response():
    async def consumer(scope, receive, send):
        await receive()
        raise HTTPFound("/", headers=[("Set-Cookie", "seen=1")])

    testapp = TestApp(make(lambda request: Response("home"), ("/ws", "websocket", consumer)))
    denied = denial(testapp, "/ws")
    response = denied.response
    assert isinstance(response, webtest.TestResponse)
    assert response.follow().text == "home"
    assert testapp.cookies == {"seen": "1"}


def test_a_denial_in_parts():
    async def consumer(scope, receive, send):
        await receive()
        headers = [(b"content-type", b"application/json")]
        await send({"type": "websocket.http.response.start", "status": 409, "headers": headers})
        for part in (b"[1", b",2]"):
            await send(
                {"type": "websocket.http.response.body", "body": part, "more_body": part == b"[1"}
            )

    denied = denial(websocket_app(consumer), "/ws")
    assert (denied.response.status_int, denied.response.json) == (409, [1, 2])


def test_a_bare_close_is_a_denial_with_403():
    async def consumer(scope, receive, send):
        await receive()
        await send({"type": "websocket.close"})

    denied = denial(websocket_app(consumer), "/ws")
    assert denied.response.status_int == 403


def test_what_a_consumer_raises_before_it_accepts_is_the_cause_of_a_denial():
    error = LookupError("early")

    async def consumer(scope, receive, send):
        raise error

    denied = denial(websocket_app(consumer), "/ws")
    assert denied.response.status_int == 500
    assert denied.__cause__ is error


def test_what_a_handshake_raises_is_the_cause_of_a_denial():
    error = LookupError("in the factory")

    def factory(request):
        raise error

    denied = denial(websocket_app(echo, factory=factory), "/ws")
    assert denied.response.status_int == 500
    assert denied.__cause__ is error


def test_what_a_consumer_raises_later_is_the_cause_of_the_disconnect():
    error = LookupError("late")

    async def consumer(scope, receive, send):
        await accept(receive, send)
        raise error

    with websocket_app(consumer).websocket("/ws") as websocket:
        with pytest.raises(WebSocketDisconnect) as disconnected:
            websocket.receive()
    assert (disconnected.value.code, websocket.close_code) == (1011, 1011)
    assert disconnected.value.__cause__ is error


def test_the_consumer_closes():
    async def consumer(scope, receive, send):
        await accept(receive, send)
        await send({"type": "websocket.send", "text": "bye"})
        await send({"type": "websocket.close", "code": 4001, "reason": "enough"})
        assert await receive() == {
            "type": "websocket.disconnect",
            "code": 4001,
            "reason": "enough",
        }

    with websocket_app(consumer).websocket("/ws") as websocket:
        assert websocket.receive() == "bye"
        with pytest.raises(WebSocketDisconnect, match="enough"):
            websocket.receive()
        assert (websocket.close_code, websocket.close_reason) == (4001, "enough")
        with pytest.raises(RuntimeError, match="closed with the code 4001"):
            websocket.send("hello")
        with pytest.raises(WebSocketDisconnect):
            websocket.receive()


def test_the_test_closes():
    got = []

    async def consumer(scope, receive, send):
        await accept(receive, send)
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": message["text"]})
        got.append(message)
        got.append(await receive())
        with pytest.raises(OSError, match="has left"):
            await send({"type": "websocket.send", "text": "too late"})

    with websocket_app(consumer).websocket("/ws") as websocket:
        websocket.send("last words")
        websocket.close(4002, "done")
        assert got == [{"type": "websocket.disconnect", "code": 4002, "reason": "done"}] * 2
        websocket.close()
        assert (websocket.close_code, websocket.close_reason) == (4002, "done")
        assert websocket.receive() == "last words"
        with pytest.raises(WebSocketDisconnect, match="4002") as disconnected:
            websocket.receive()
        assert disconnected.value.__cause__ is None


def test_a_consumer_finishes_with_what_the_test_sent_before_it_left(monkeypatch):
    monkeypatch.setattr(timeouts, "GRACE", 2)
    finished = []

    async def consumer(scope, receive, send):
        await accept(receive, send)
        while (message := await receive())["type"] == "websocket.receive":
            await asyncio.sleep(1.2)
            await send({**message, "type": "websocket.send"})
            finished.append(message["text"])

    with websocket_app(consumer).websocket("/ws") as websocket:
        websocket.send("a")
        websocket.send("b")
    assert finished == ["a", "b"]


def test_a_consumer_that_sends_to_a_client_that_has_left_gets_an_os_error(caplog):
    errors = []

    async def consumer(scope, receive, send):
        await accept(receive, send)
        try:
            while True:
                await send({"type": "websocket.send", "bytes": b"x"})
                await asyncio.sleep(0)
        except OSError as error:
            errors.append(error)
            raise

    with websocket_app(consumer).websocket("/ws") as websocket:
        assert websocket.receive() == b"x"
    assert len(errors) == 1
    assert caplog.records == []


def test_a_receive_that_gets_nothing_says_what_it_waited_for():
    with websocket_app(echo).websocket("/ws") as websocket:
        with pytest.raises(TimeoutError, match="0.01 s for a message from /ws"):
            websocket.receive(timeout=0.01)
        websocket.send("hello")
        assert websocket.receive() == "hello"


def test_a_consumer_that_never_answers(monkeypatch):
    monkeypatch.setattr(timeouts, "TIMEOUT", 0.5)

    async def consumer(scope, receive, send):
        await asyncio.Event().wait()

    with pytest.raises(TimeoutError, match="0.5 s for the answer to the handshake from /ws"):
        denial(websocket_app(consumer), "/ws")


def test_a_consumer_that_does_not_end_with_its_client(monkeypatch):
    ended = []

    async def consumer(scope, receive, send):
        await accept(receive, send)
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    app = make(None, ("/ws", "websocket", consumer), **{"asgi.leave_timeout": "0.25"})
    with pytest.raises(TimeoutError, match="consumer of /ws did not end within 0.5 s after"):
        with TestApp(app).websocket("/ws"):
            monkeypatch.setattr(timeouts, "TIMEOUT", 0.25)
    assert ended == [True]


def function_app(func, **settings):
    with Configurator(settings=settings) as config:
        config.include("pyramid_asgi_consumers")
        config.add_websocket("/ws", func)
        return TestApp(config.make_asgi_app())


def test_a_function_that_goes_on_is_cancelled_as_on_a_server(caplog):
    ended = []

    async def func(websocket):
        await websocket.accept()
        try:
            await websocket.wait_closed()
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    with function_app(func, **{"asgi.leave_timeout": "0.01"}).websocket("/ws"):
        pass
    assert ended == [True]
    assert [message.partition(" goes on ")[2] for message in caplog.messages] == [
        "0.01 s after its client has left: cancelled"
    ]


def test_a_function_that_has_not_received_is_cancelled_as_on_a_server(caplog):
    ended = []

    async def func(websocket):
        await websocket.accept()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    with function_app(func).websocket("/ws") as websocket:
        for message in ("one", "two"):
            websocket.send(message)
    assert (ended, caplog.messages) == ([True], [])


def test_a_test_that_fails_midway_leaves_nothing_running():
    ended = []

    async def consumer(scope, receive, send):
        await accept(receive, send)
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    with TestApp(make(None, ("/ws", "websocket", consumer))) as testapp:
        with pytest.raises(ZeroDivisionError), testapp.websocket("/ws"):
            raise ZeroDivisionError
        assert ended == [True]


def test_a_consumer_that_ends_without_a_close():
    async def consumer(scope, receive, send):
        await accept(receive, send)
        raise WebSocketDisconnect(1006)

    with websocket_app(consumer).websocket("/ws") as websocket:
        with pytest.raises(WebSocketDisconnect) as disconnected:
            websocket.receive()
    assert disconnected.value.code == 1006
    assert disconnected.value.__cause__ is None


def test_a_consumer_that_sends_before_it_accepts():
    async def consumer(scope, receive, send):
        await receive()
        await send({"type": "websocket.send", "text": "x"})

    denied = denial(websocket_app(consumer), "/ws")
    assert "Expected websocket.accept or" in str(denied.__cause__)


def test_a_function_looks_after_its_client_itself_as_on_a_server():
    async def function(websocket):
        """It is not called."""

    watched = WatchedConsumer(WebSocketFunction(function, "function"))
    assert watched.watches and not WatchedConsumer(function).watches


# Guarded websockets.


def test_handshake_and_work_run_in_the_thread_of_the_test_while_it_waits():
    threads = []

    def work(request, *args):
        threads.append(threading.current_thread())
        return request.environ["my.key"]

    async def consumer(scope, receive, send):
        await accept(receive, send)
        while (await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": await run_in_request(scope, work)})

    def view(request):
        return Response("page")

    app = make(view, ("/ws", "websocket", consumer, {"factory": work, "name": "ws"}))
    testapp = TestApp(app, extra_environ={"my.key": "a"})
    with testapp.websocket("/ws", extra_environ={"my.key": "b"}) as websocket:
        websocket.send("")
        assert websocket.receive() == "b"
        websocket.send("")
        assert testapp.get("/").text == "page"
        assert websocket.receive() == "b"
        websocket.send("")
    assert websocket.receive() == "b"
    assert set(threads) == {threading.current_thread()}


def test_a_handshake_and_its_work_have_what_the_test_says_each_in_its_own_environ():
    seen = []

    def factory(request):
        environ = request.environ
        keys = ("HTTP_X_TEXT", "REMOTE_USER", "SERVER_PORT", "CONTENT_LENGTH", "HTTP_COOKIE")
        seen.append([environ.get(key) for key in keys])
        assert "my.note" not in environ
        environ["my.note"] = True
        cookie = str(len(seen))
        request.add_response_callback(lambda request, response: response.set_cookie("b", cookie))

    async def consumer(scope, receive, send):
        await run_in_request(scope, lambda request: None)
        await run_in_request(scope, lambda request: None)
        await ok(send)

    testapp = http_app(consumer, factory=factory)
    testapp.set_cookie("a", "1")
    environ = {"HTTP_X_TEXT": "\u0416", "REMOTE_USER": b"otto", "SERVER_PORT": ""}
    response = testapp.post("/http", b"body", extra_environ=environ)
    own = ["\u0416", b"otto", "", "0"]
    cookies = [each.pop().replace('"', "") for each in seen]
    assert seen == [own] * 3
    assert cookies == ["a=1", "a=1; b=1", "a=1; b=2"]
    assert "my.note" not in response.request.environ


def test_a_refused_handshake_says_what_the_view_wrote():
    def factory(request):
        raise refusal

    refusal = HTTPUnauthorized(headers=[("WWW-Authenticate", "Basic")])
    refusal.status = "401 Token expired"
    response = denial(websocket_app(echo, factory=factory), "/ws").response
    assert response.status == "401 Token expired"
    assert ("WWW-Authenticate", "Basic") in response.headerlist


def test_the_time_of_the_work_does_not_count():
    def work(request):
        until = time.monotonic() + 1
        while time.monotonic() < until:
            pass

    async def consumer(scope, receive, send):
        await accept(receive, send)
        await receive()
        await run_in_request(scope, work)
        await asyncio.sleep(0.1)
        await send({"type": "websocket.send", "text": "done"})
        await receive()

    with websocket_app(consumer, **OPEN).websocket("/ws") as websocket:
        websocket.send("")
        assert websocket.receive(timeout=1) == "done"


def test_what_the_work_raises_is_for_the_consumer():
    error = LookupError("in the work")

    def work(request):
        raise error

    async def consumer(scope, receive, send):
        await accept(receive, send)
        with pytest.raises(LookupError) as raised:
            await run_in_request(scope, work)
        assert raised.value is error

    with websocket_app(consumer, **OPEN).websocket("/ws") as websocket:
        with pytest.raises(WebSocketDisconnect) as disconnected:
            websocket.receive()
    assert (disconnected.value.code, disconnected.value.__cause__) == (1000, None)


# Several at once.


@pytest.mark.parametrize(
    "options, settings", [({"max_connections": 1}, {}), ({}, {"asgi.max_connections": 1})]
)
def test_connections_are_counted_in_one_testapp(options, settings):
    app = make(None, ("/ws", "websocket", echo, options), **settings)
    testapp, other = TestApp(app), TestApp(app)
    with testapp.websocket("/ws"), other.websocket("/ws"):
        denied = denial(testapp, "/ws")
        assert denied.response.status_int == 503
    with testapp.websocket("/ws"):
        pass


def test_the_application_itself_is_not_changed():
    def view(request):
        return Response(f"{threading.current_thread().name} {request.environ.get('my.key')}")

    async def consumer(scope, receive, send):
        await accept(receive, send)
        response = await run_in_request(scope, view)
        await send({"type": "websocket.send", "text": response.text})
        await receive()

    app = make(view, ("/ws", "websocket", consumer, OPEN))
    before = {**vars(app), "_endpoints": {}}
    others = set(threading.enumerate())

    async def serve():
        connect = {"type": "websocket.connect"}
        sent = await run(app, websocket_scope(), connect, {"type": "websocket.disconnect"})
        assert re.fullmatch("asgi-handshake-. None", sent[1]["text"])
        assert body_of(await run(app, http_scope())) == b"asgi-view-1 None"
        pools = [each for each in threading.enumerate() if each.name.startswith("asgi-")]
        await app.lifespan.drain()
        return set(pools) - others

    with (
        TestApp(app, extra_environ={"my.key": 7}) as testapp,
        testapp.websocket("/ws") as websocket,
    ):
        assert websocket.receive() == testapp.get("/").text == "MainThread 7"
        assert vars(app) == before
        pools = asyncio.run(serve())
    for thread in pools:
        thread.join(20)


@pytest.mark.parametrize("shared", [True, False])
def test_several_threads(shared):
    barrier = threading.Barrier(4)

    def view(request):
        barrier.wait(20)
        return Response(str(threading.get_ident()))

    async def consumer(scope, receive, send):
        await accept(receive, send)
        await run_in_request(scope, lambda request: barrier.wait(20))
        await send({"type": "websocket.send", "text": scope["pyramid.userid"]})
        await receive()

    with Configurator() as config:
        config.include("pyramid_asgi_consumers")
        config.set_security_policy(ThreadPolicy())
        config.add_route("view", "/")
        config.add_view(view, route_name="view")
        config.add_asgi_consumer("/ws", "websocket", consumer, **OPEN)
        app = config.make_asgi_app()
    one = TestApp(app)

    def use(number):
        testapp = one if shared else TestApp(app)
        me = str(threading.get_ident())
        for _ in range(5):
            assert testapp.get("/").text == me
            with testapp.websocket("/ws") as websocket:
                assert websocket.receive() == me

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(use, range(4))) == [None] * 4


class ThreadPolicy:
    def authenticated_userid(self, request):
        return str(threading.get_ident())

    permits = None


# The lifespan.


def test_the_lifespan_runs_within_the_block_and_the_loop_is_one():
    events = []

    @contextlib.asynccontextmanager
    async def lifespan(registry):
        events.append("start")
        yield {"loop": asyncio.get_running_loop()}
        events.append("stop")

    async def consumer(scope, receive, send):
        await accept(receive, send)
        await receive()
        same = scope["state"]["loop"] is asyncio.get_running_loop()
        await send({"type": "websocket.send", "text": str(same)})

    def view(request):
        loop = request.environ["asgi.scope"]["state"]["loop"]
        return Response(str(loop.is_running()))

    app = make(view, ("/ws", "websocket", consumer), lifespan=lifespan)
    for _ in range(2):
        with TestApp(app) as testapp:
            assert events == ["start"]
            assert testapp.get("/").text == "True"
            with testapp.websocket("/ws") as websocket:
                websocket.send("")
                assert websocket.receive() == "True"
            assert events == ["start"]
        assert events == ["start", "stop"]
        events.clear()
    assert not app.lifespan.runs


@pytest.mark.parametrize("phase", ["startup", "shutdown"])
def test_a_lifespan_that_fails(phase):
    @contextlib.asynccontextmanager
    async def lifespan(registry):
        if phase == "startup":
            raise LookupError(phase)
        yield
        raise LookupError(phase)

    entered = []
    with pytest.raises(LifespanError, match=f"LookupError: '?{phase}"):
        with TestApp(make(lifespan=lifespan)):
            entered.append(True)
    assert entered == ([] if phase == "startup" else [True])


def test_a_task_of_the_lifespan_can_work_for_a_consumer():
    @contextlib.asynccontextmanager
    async def lifespan(registry):
        waiting = asyncio.Queue()

        async def work():
            scope, done = await waiting.get()
            done.set_result(await run_in_request(scope, lambda request: request.path))

        task = asyncio.ensure_future(work())
        yield {"waiting": waiting}
        await task

    async def consumer(scope, receive, send):
        await accept(receive, send)
        done = asyncio.get_running_loop().create_future()
        await scope["state"]["waiting"].put((scope, done))
        await send({"type": "websocket.send", "text": await done})
        await receive()

    app = make(None, ("/ws", "websocket", consumer, OPEN), lifespan=lifespan)
    with TestApp(app) as testapp, testapp.websocket("/ws") as websocket:
        assert websocket.receive() == "/ws"


# The end.


def test_a_task_that_is_left_is_cancelled_and_the_loop_closed():
    ended = []

    async def linger():
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(asyncio.get_running_loop())

    async def consumer(scope, receive, send):
        consumer.task = asyncio.ensure_future(linger())
        await ok(send)

    http_app(consumer).get("/http")
    assert [loop.is_closed() for loop in ended] == [True]


def test_a_task_that_cannot_be_cancelled_is_named(monkeypatch):
    monkeypatch.setattr(timeouts, "TIMEOUT", 0.5)

    async def stubborn():
        while True:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()

    async def consumer(scope, receive, send):
        consumer.task = asyncio.ensure_future(stubborn())
        await ok(send)

    with pytest.raises(TimeoutError, match="These tasks .* do not end.*stubborn"):
        http_app(consumer).get("/http")


def test_a_consumer_that_blocks_the_loop(monkeypatch):
    release = threading.Event()

    async def consumer(scope, receive, send):
        consumer.thread = threading.current_thread()
        await accept(receive, send)
        release.wait(20)

    app = make(None, ("/ws", "websocket", consumer), **{"asgi.leave_timeout": "0.25"})
    with pytest.raises(TimeoutError, match="These tasks .* do not end.*consumer"):
        with TestApp(app).websocket("/ws"):
            monkeypatch.setattr(timeouts, "TIMEOUT", 0.5)
    release.set()
    consumer.thread.join(20)


# What would end a server.

EXITS = [SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError]
exits = pytest.mark.parametrize("kind", EXITS)


@exits
@pytest.mark.parametrize("which", ["view", "async_view", "chunks"])
def test_what_would_end_a_server_is_raised_as_the_same_object_by_a_view(which, kind):
    error = kind(3)

    async def async_view(request):
        raise error

    def view(request):
        raise error

    def chunks(request):
        return Response(app_iter=failing())

    def failing():
        yield b"some"
        raise error

    with pytest.raises(kind) as raised:
        TestApp(make(locals()[which])).get("/")
    assert raised.value is error


@exits
@pytest.mark.parametrize("started", [False, True])
def test_what_would_end_a_server_is_raised_as_the_same_object_by_a_consumer(kind, started):
    error = kind(3)

    async def consumer(scope, receive, send):
        if started:
            await ok(send, more_body=True)
        raise error

    with pytest.raises(kind) as raised:
        http_app(consumer).get("/http")
    assert raised.value is error


@exits
def test_what_would_end_a_server_is_the_cause_of_the_disconnect(kind):
    error = kind(3)

    def work(request):
        raise error

    async def plain(scope, receive, send):
        await accept(receive, send)
        raise error

    async def function(websocket):
        await websocket.accept()
        raise error

    async def works(websocket):
        await websocket.accept()
        await websocket.run_in_request(work)

    with Configurator() as config:
        config.include("pyramid_asgi_consumers")
        config.add_asgi_consumer("/plain", "websocket", plain)
        config.add_websocket("/function", function)
        config.add_websocket("/works", works, **OPEN)
        testapp = TestApp(config.make_asgi_app())
    for path in ("/plain", "/function", "/works"):
        with testapp.websocket(path) as websocket:
            with pytest.raises(WebSocketDisconnect) as disconnected:
                websocket.receive()
        assert disconnected.value.code == 1011
        assert disconnected.value.__cause__ is error


@pytest.mark.parametrize("kind", EXITS[:2])
def test_what_a_task_of_its_own_raises_is_raised_in_the_test(kind):
    error = kind(3)

    async def background():
        raise error

    async def consumer(scope, receive, send):
        consumer.task = asyncio.ensure_future(background())
        await asyncio.Event().wait()

    with TestApp(make(None, ("/http", "http", consumer))) as testapp:
        with pytest.raises(kind) as raised:
            testapp.get("/http")
    assert raised.value is error
    assert consumer.task.exception() is error
