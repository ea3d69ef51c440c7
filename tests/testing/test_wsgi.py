"""What passes between a test and its views around ASGI."""

import pytest
from pyramid.httpexceptions import HTTPUnauthorized
from pyramid.response import Response

from pyramid_asgi_consumers import run_in_request
from pyramid_asgi_consumers.handshake.exchange import EXCHANGE
from pyramid_asgi_consumers.testing import TestApp
from pyramid_asgi_consumers.testing.wsgi import WSGIDetails
from tests.testing.applications import denial, echo, http_app, make, ok, websocket_app

pytestmark = pytest.mark.usefixtures("no_thread_is_left")


def test_the_view_has_the_environ_of_the_test_but_for_what_the_server_decides():
    details = WSGIDetails(
        {"my.key": 7, "PATH_INFO": "/test", "wsgi.input": "test's", "REMOTE_PORT": "7"}
    )
    served = {"PATH_INFO": "/served", "wsgi.input": "server's", "REMOTE_PORT": "8"}
    assert details.environ_for_view(served) == {
        "my.key": 7,
        "PATH_INFO": "/served",
        "wsgi.input": "server's",
        "REMOTE_PORT": "7",
    }


def test_errors_are_written_where_the_test_says():
    details = WSGIDetails({"wsgi.errors": "test's"})
    assert details.environ_for_view({"wsgi.errors": "server's"})["wsgi.errors"] == "test's"


def test_a_header_that_the_server_has_changed_stays_so():
    details = WSGIDetails({"HTTP_A": b"same", "HTTP_B": "test's", "HTTP_C": "left out"})
    environ = details.environ_for_view({"HTTP_A": "same", "HTTP_B": "server's"})
    assert environ == {"HTTP_A": b"same", "HTTP_B": "server's"}


def test_the_test_has_back_what_a_view_has_made_of_its_environ():
    environ = {"my.key": 7, "my.other": 8}
    details = WSGIDetails(environ)
    seen = details.environ_for_view({"wsgi.errors": "server's"})
    del seen["my.other"]
    seen.update({"my.key": 9, "my.new": 10, "wsgi.errors": "view's"})
    details.hand_back()
    assert environ == {"my.key": 9, "my.new": 10}


def test_the_test_has_nothing_back_of_a_handshake():
    environ = {"my.key": 7}
    details = WSGIDetails(environ)
    details.environ_for_view({EXCHANGE: "exchange"})["my.key"] = 9
    details.hand_back()
    assert environ == {"my.key": 7}


@pytest.mark.parametrize("status", ["401 Token expired", b"401 Token expired"])
def test_status_and_headers_are_as_the_view_wrote_them(status):
    started = []
    details = WSGIDetails({})
    details.noting(lambda *args: started.append(args))(status, [("X-ONE", "1")])
    assert started == [("401 Token expired", [("X-ONE", "1")])]
    assert details.status_line(401) == "401 Token expired"
    assert details.status_line(403) == "403 Forbidden"
    headers = [(b"x-one", b"1"), (b"x-two", b"\xe9")]
    assert details.header_list({"headers": headers}) == [("X-ONE", "1"), ("X-Two", "\xe9")]


def test_a_message_without_headers():
    assert WSGIDetails({}).header_list({"headers": None}) == []


# Within a TestApp.


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


def test_a_port_that_the_test_has_not_given_is_absent():
    def view(request):
        return Response(repr(request.environ.get("REMOTE_PORT")))

    environ = {"REMOTE_ADDR": "192.0.2.1"}
    assert TestApp(make(view), environ).get("/").text == "None"
    assert TestApp(make(view), {**environ, "REMOTE_PORT": "7"}).get("/").text == "'7'"


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
