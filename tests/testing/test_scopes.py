"""The scope that the application gets of a request."""

import pytest
import webob
from pyramid.config import Configurator
from pyramid.response import Response

from pyramid_asgi_consumers.testing import TestApp
from pyramid_asgi_consumers.testing.scopes import header_name, number, scope_of, sendable
from tests.testing.applications import http_app, make, ok

pytestmark = pytest.mark.usefixtures("no_thread_is_left")


def environ(**more):
    return webob.Request.blank("/a%20b/%C3%A9?x=1", environ=more).environ


def test_a_request_as_a_server_would_have_it():
    scope = scope_of(environ(HTTP_X_ONE="1", CONTENT_TYPE="text/plain"), "http")
    assert (scope["type"], scope["method"], scope["scheme"]) == ("http", "GET", "http")
    assert (scope["path"], scope["raw_path"]) == ("/a b/\u00e9", b"/a%20b/%C3%A9")
    assert (scope["root_path"], scope["query_string"]) == ("", b"x=1")
    assert (scope["http_version"], scope["server"]) == ("1.0", ("localhost", 80))
    assert scope["client"] is None
    assert set(scope["headers"]) == {
        (b"host", b"localhost:80"),
        (b"x-one", b"1"),
        (b"content-type", b"text/plain"),
    }


def test_the_path_has_what_the_application_is_below():
    scope = scope_of(environ(SCRIPT_NAME="/app"), "http")
    assert (scope["root_path"], scope["path"]) == ("/app", "/app/a b/\u00e9")
    scope = scope_of(environ(PATH_INFO=""), "http")
    assert scope["path"] == "/"


def test_a_method_is_in_capitals():
    assert scope_of(environ(REQUEST_METHOD="post"), "http")["method"] == "POST"


@pytest.mark.parametrize("scheme, expected", [("http", "ws"), ("https", "wss")])
def test_a_websocket_has_a_scheme_of_its_own_no_method_and_denials(scheme, expected):
    scope = scope_of(environ(**{"wsgi.url_scheme": scheme}), "websocket")
    assert scope["scheme"] == expected
    assert "method" not in scope
    assert scope["extensions"] == {"websocket.http.response": {}}


@pytest.mark.parametrize(
    "value, text", [(b"\xff", "\xff"), ("\xe9", "\xe9"), ("\u0416", "\xd0\x96"), (7, "7")]
)
def test_a_value_is_sent_as_text_of_latin_1(value, text):
    assert sendable(value) == text


@pytest.mark.parametrize("value, expected", [("7", 7), ("", None), ("many", None), (None, None)])
def test_a_number_or_none(value, expected):
    assert number(value) == expected


@pytest.mark.parametrize(
    "key, name",
    [
        ("HTTP_X_ONE", b"x-one"),
        ("CONTENT_LENGTH", b"content-length"),
        ("REMOTE_USER", None),
        ("my.key", None),
    ],
)
def test_the_header_of_a_key(key, name):
    assert header_name(key) == name


# Within a TestApp.


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


def test_a_length_that_is_no_number_is_refused_as_on_a_server():
    testapp = TestApp(make(lambda request: Response()), lint=False)
    testapp.get("/", extra_environ={"CONTENT_LENGTH": "many"}, status=400)
