"""A WebTest suite that passes over WSGI, and with the import changed."""

import hashlib
import json
import os
import threading
from pathlib import Path

import pytest
import webtest
from pyramid.config import Configurator

from pyramid_asgi_consumers.testing import TestApp
from tests.testing import notebook


@pytest.fixture(scope="module", params=["WSGI", "ASGI"])
def make(request):
    config = notebook.configure()
    if request.param == "WSGI":
        return webtest.TestApp, config.make_wsgi_app()
    config.include("pyramid_asgi_consumers")
    return TestApp, config.make_asgi_app()


@pytest.fixture
def testapp(make):
    cls, app = make
    return cls(app, relative_to=os.path.dirname(__file__))


@pytest.fixture
def over(make):
    """Makes a ``TestApp`` over any WSGI application."""
    cls, _ = make

    def over(wsgi_app, **kw):
        if cls is webtest.TestApp:
            return cls(wsgi_app, **kw)
        with Configurator() as config:
            config.include("pyramid_asgi_consumers")
            return cls(config.make_asgi_app(wsgi_app), **kw)

    return over


class Recorder:
    """A WSGI application that keeps the last environ, as it was when it came."""

    def __init__(self, status="200 OK", headers=(), put=(), remove=()):
        self.status = status
        self.headers = [("Content-Type", "text/plain"), *headers]
        self.put = dict(put)
        self.remove = remove

    def __call__(self, environ, start_response):
        self.environ = dict(environ)
        environ.update(self.put)
        for key in self.remove:
            del environ[key]
        start_response(self.status, self.headers)
        return [b"x"]


def digest(data):
    return hashlib.sha256(data).hexdigest()


def log_in(testapp, password="secret", **kw):
    form = testapp.get("/").click("Log in").form
    form["name"] = "anna"
    form["password"] = password
    form["language"] = "en"
    return form.submit("go", **kw)


def test_the_application_is_the_one_that_was_given(make, testapp):
    assert testapp.app is make[1]


def test_a_page(testapp):
    response = testapp.get("/")
    assert (response.status, response.content_type) == ("200 OK", "text/html")
    assert response.headerlist[0] == ("Content-Type", "text/html; charset=UTF-8")
    assert response.html.h1.string == "Notebook"
    assert "Notebook" in response
    response.mustcontain("Notebook", no="Diary")
    assert response.request.path == "/"
    assert response.test_app is testapp


def test_a_form_a_redirect_and_cookies(testapp):
    response = log_in(testapp)
    assert (response.status_int, response.location) == (302, "http://localhost/me")
    assert response.follow().json == {"name": "anna", "language": "en"}
    assert set(testapp.cookies) == {"session", "language"}
    assert testapp.get("/logout").follow().request.path == "/"
    assert set(testapp.cookies) == {"session"}
    testapp.get("/me", status=403)


def test_a_wrong_password(testapp):
    with pytest.raises(webtest.AppError, match="422"):
        log_in(testapp, "?")
    response = log_in(testapp, "?", status="422 Unprocessable Entity")
    assert response.json == {"error": "wrong name or password"}
    assert log_in(testapp, "?", status="4*").status_int == 422
    assert log_in(testapp, "?", expect_errors=True).status_int == 422


def test_cookies_can_be_set_and_forgotten(testapp):
    testapp.set_cookie("language", "fr")
    environ = {"REMOTE_USER": "otto"}
    assert testapp.get("/me", extra_environ=environ).json == {"name": "otto", "language": "fr"}
    testapp.reset()
    assert testapp.get("/me", extra_environ=environ).json["language"] is None


def test_extra_environ_of_all_requests(make):
    cls, app = make
    testapp = cls(app, extra_environ={"REMOTE_USER": "otto", "HTTP_HOST": "example.com"})
    assert testapp.get("/me").json["name"] == "otto"
    testapp.authorization = ("Basic", ("anna", "secret"))
    environ = testapp.get("/environ").json
    assert environ["HTTP_AUTHORIZATION"] == "Basic YW5uYTpzZWNyZXQ="
    assert environ["HTTP_HOST"] == "example.com"


def test_the_environ(testapp):
    environ = testapp.get(
        "/environ?a=%C3%A9&b",
        headers={"X-Version": "1"},
        extra_environ={
            "wsgi.url_scheme": "https",
            "REMOTE_ADDR": "192.0.2.1",
            "SERVER_NAME": "example.com",
            "SERVER_PORT": "444",
            "SCRIPT_NAME": "/app",
            "my.key": 7,
        },
        xhr=True,
    ).json
    expected = {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "/app",
        "PATH_INFO": "/environ",
        "QUERY_STRING": "a=%C3%A9&b",
        "SERVER_NAME": "example.com",
        "SERVER_PORT": "444",
        "SERVER_PROTOCOL": "HTTP/1.0",
        "REMOTE_ADDR": "192.0.2.1",
        "HTTP_HOST": "localhost:80",
        "HTTP_X_VERSION": "1",
        "HTTP_X_REQUESTED_WITH": "XMLHttpRequest",
        "wsgi.url_scheme": "https",
        "paste.testing": True,
        "paste.throw_errors": True,
        "my.key": 7,
    }
    assert {key: environ.get(key) for key in expected} == expected


def test_uploads(testapp):
    expected = {
        "title": "Häuser",
        "page": ["notebook.py", "text/x-python", digest(Path(notebook.__file__).read_bytes())],
        "picture": ["a.png", "image/png", digest(b"\x00" * 3_000)],
    }
    response = testapp.post(
        "/upload",
        {"title": "Häuser"},
        upload_files=[
            ("page", "notebook.py", Path(notebook.__file__).read_bytes()),
            ("picture", "a.png", b"\x00" * 3_000),
        ],
    )
    assert response.json == expected
    response = testapp.post(
        "/upload",
        {
            "title": "Häuser",
            "page": webtest.Upload("notebook.py", Path(notebook.__file__).read_bytes()),
            "picture": webtest.Upload("a.png", b"\x00" * 3_000, "image/png"),
        },
    )
    assert response.json == expected


def test_an_upload_relative_to_a_directory(testapp):
    uploaded = testapp.post("/upload", upload_files=[("page", "notebook.py")]).json["page"]
    assert uploaded[0].endswith("notebook.py")
    assert uploaded[2] == digest(Path(notebook.__file__).read_bytes())


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_json(testapp, method):
    send = getattr(testapp, f"{method.lower()}_json")
    assert send("/json", {"é": [1]}).json == {"method": method, "body": {"é": [1]}}


def test_a_body_as_it_is(testapp):
    body = json.dumps("é" * 1_000)
    assert testapp.put("/json", body).json["body"] == "é" * 1_000
    response = testapp.request("/json", method="PUT", body=b"[]")
    assert response.json == {"method": "PUT", "body": []}


def test_an_unusual_method(testapp):
    with pytest.warns(webtest.lint.WSGIWarning, match="MKCOL"):
        assert testapp.request("/json", method="MKCOL", body=b"1").json["method"] == "MKCOL"


def test_a_stream(testapp):
    assert testapp.get("/stream?chunks=1000").text.split() == [str(n) for n in range(1000)]
    assert testapp.get("/stream", {"chunks": 0}).body == b""


def test_head_and_options(testapp):
    response = testapp.head("/")
    assert (response.status_int, response.body) == (200, b"")
    assert int(response.headers["Content-Length"]) > 0
    assert testapp.options("/").status_int == 200


def test_files(testapp):
    expected = Path(notebook.__file__).read_bytes()
    assert testapp.get("/file").body == expected
    response = testapp.get("/static/notebook.py")
    assert (response.body, response.content_type) == (expected, "text/x-python")
    since = {"If-Modified-Since": response.headers["Last-Modified"]}
    assert testapp.get("/static/notebook.py", headers=since).status_int == 304
    assert testapp.get("/static/none.py", status=404).status == "404 Not Found"


def test_an_encoded_response_is_decoded(testapp):
    assert testapp.get("/gzip").text == "x" * 1000


def test_an_exception_is_raised_in_the_test_and_not_logged(testapp, caplog):
    with pytest.raises(LookupError, match="in the view"):
        testapp.get("/fail")
    assert caplog.records == []


def test_an_exception_in_the_middle_of_a_response_is_raised_in_the_test(testapp, caplog):
    with pytest.raises(RuntimeError, match="in the middle"):
        testapp.get("/stream?chunks=2&fails")
    assert caplog.records == []


def test_what_is_written_to_errors_fails_the_test(testapp):
    with pytest.raises(webtest.AppError, match="something is wrong"):
        testapp.get("/errors")
    assert testapp.get("/errors", expect_errors=True).errors == "something is wrong"


def test_lint_finds_a_bad_header(testapp):
    with pytest.raises(AssertionError, match="Bad header name: 'Bad Name'"):
        testapp.get("/bad-header")


def test_lint_finds_a_bad_environ(testapp):
    with pytest.raises(AssertionError, match="REMOTE_USER is not a string"):
        testapp.get("/", extra_environ={"REMOTE_USER": 7})


def test_a_status_that_is_not_expected(testapp):
    assert testapp.get("/status/418", status=418).status_int == 418
    assert testapp.get("/status/599", status=[500, 599]).status_int == 599
    with pytest.raises(webtest.AppError, match="Bad response: 503"):
        testapp.get("/status/503")


def test_no_thread_is_left(testapp):
    before = threading.active_count()
    testapp.get("/")
    assert threading.active_count() == before


def test_what_middleware_wraps_is_reached_through_it(over):
    class Middleware:
        def __init__(self, app):
            self.app = app

        def __call__(self, environ, start_response):
            return self.app(environ, start_response)

    recorder = Recorder()
    testapp = over(Middleware(Middleware(recorder)))
    assert testapp.get("/").text == "x"
    assert testapp.app.app.app is recorder


# What WebTest takes, though no client could send it.

ODD = [
    ("HTTP_X_BYTES", b"caf\xe9"),
    ("HTTP_X_TEXT", "\u0416"),
    ("HTTP_X_EMPTY", ""),
    ("QUERY_STRING", "name=\u0416"),
    ("REMOTE_ADDR", b"192.0.2.1"),
    ("REMOTE_ADDR", "\u0416"),
    ("REMOTE_PORT", ""),
    ("REMOTE_PORT", "many"),
    ("REMOTE_USER", b"otto"),
    ("REMOTE_USER", "\u0416"),
    ("SERVER_NAME", b"example.com"),
    ("SERVER_NAME", "\u0416"),
    ("SERVER_PORT", ""),
    ("SERVER_PORT", "http"),
    ("SERVER_SOFTWARE", "mine"),
]


@pytest.mark.parametrize("key, value", ODD)
def test_the_environ_is_that_of_the_test_however_odd(over, key, value):
    recorder = Recorder()
    over(recorder).request("/", environ={"REMOTE_ADDR": "127.0.0.1", key: value})
    assert recorder.environ[key] == value
    environ = {name: recorder.environ.get(name) for name in ("PATH_INFO", "HTTP_HOST")}
    assert environ == {"PATH_INFO": "/", "HTTP_HOST": "localhost:80"}


@pytest.mark.parametrize("value", [b"caf\xe9", "caf\xe9", "\u0416"])
def test_a_header_in_bytes_or_any_text(over, value):
    recorder = Recorder()
    over(recorder).post("/", b"", headers={"X-Name": value})
    assert recorder.environ["HTTP_X_NAME"] == value


def test_a_value_that_is_no_text_where_nothing_checks_it(over):
    recorder = Recorder()
    over(recorder, lint=False).get("/", extra_environ={"HTTP_X_NUMBER": 7, "HTTP_X_NONE": None})
    assert recorder.environ["HTTP_X_NUMBER"] == 7
    assert recorder.environ["HTTP_X_NONE"] is None


# What a view says that ASGI has no place for.


def test_names_of_headers_are_as_the_view_wrote_them(over):
    headers = [
        ("ETag", '"a"'),
        ("WWW-Authenticate", "Basic"),
        ("x-lower", "1"),
        ("Set-Cookie", "a=1; Path=/"),
        ("Set-Cookie", "b=2; Path=/"),
        ("Content-Length", "1"),
    ]
    testapp = over(Recorder(headers=headers))
    assert testapp.get("/").headerlist == [("Content-Type", "text/plain"), *headers]
    assert testapp.cookies == {"a": "1", "b": "2"}


@pytest.mark.parametrize("status", ["200 Fine", "422 Validation failed", "299 New"])
def test_the_reason_is_the_views_own(over, status):
    response = over(Recorder(status), lint=False).get("/", status="*")
    assert (response.status, response.status_int) == (status, int(status[:3]))


def test_a_status_in_bytes(over):
    assert over(Recorder(b"200 Fine")).get("/").status == "200 Fine"


def test_an_error_after_another_status_was_said(over):
    def wsgi_app(environ, start_response):
        start_response("200 Fine", [("X-First", "1")])
        start_response("500 Sorry", [("X-SECOND", "2")], (None, None, None))
        return [b""]

    response = over(wsgi_app).get("/", status=500)
    assert response.status == "500 Sorry"
    assert ("X-SECOND", "2") in response.headerlist


# What becomes of the environ.


def test_what_the_application_makes_of_the_environ_is_the_tests_to_see(over):
    shared = []
    put = {"my.key": shared, "REMOTE_USER": "anna", "SCRIPT_NAME": "/a"}
    recorder = Recorder(put=put, remove=["my.removed"])
    environ = {"my.removed": 1, "my.kept": 2, "REMOTE_USER": "otto"}
    response = over(recorder).post("/x", b"body", extra_environ=environ)
    after = response.request.environ
    assert after["my.key"] is shared
    assert (after["REMOTE_USER"], after["SCRIPT_NAME"], after["my.kept"]) == ("anna", "/a", 2)
    assert "my.removed" not in after
    assert response.request.body == b"body"
    # The extra environ is that of the next request, too.
    assert environ == {"my.removed": 1, "my.kept": 2, "REMOTE_USER": "otto"}


def test_what_middleware_does_to_a_copy_of_the_environ_is_not_seen(over):
    recorder = Recorder(put={"my.key": 1})

    def middleware(environ, start_response):
        environ["my.middleware"] = 2
        return recorder(dict(environ), start_response)

    after = over(middleware).get("/").request.environ
    assert after["my.middleware"] == 2
    assert "my.key" not in after


def test_what_the_application_did_before_it_raised_is_in_the_environ_of_the_request(over):
    def wsgi_app(environ, start_response):
        environ["my.key"] = 1
        raise LookupError

    testapp = over(wsgi_app)
    request = testapp.RequestClass.blank("/")
    with pytest.raises(LookupError):
        testapp.do_request(request)
    assert request.environ["my.key"] == 1


def test_what_is_added_while_the_response_is_read_is_in_the_environ(over):
    class Chunks(list):
        def close(self):
            self.environ["my.closed"] = True

    def wsgi_app(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        chunks = Chunks([b"x", b"y"])
        chunks.environ = environ
        return chunks

    assert over(wsgi_app).get("/").request.environ["my.closed"]


def test_a_request_can_be_made_twice(over):
    recorder = Recorder(put={"my.key": 1})
    testapp = over(recorder)
    request = testapp.RequestClass.blank("/a?b", method="POST", body=b"body")
    testapp.do_request(request)
    assert "my.key" not in recorder.environ
    request.path_info = "/c"
    testapp.do_request(request)
    assert recorder.environ["my.key"] == 1
    assert recorder.environ["PATH_INFO"] == "/c"
    assert request.body == b"body"


def test_variables_for_the_response(over):
    def wsgi_app(environ, start_response):
        environ["paste.testing_variables"]["user"] = environ
        return Recorder()(environ, start_response)

    assert over(wsgi_app).get("/").user["PATH_INFO"] == "/"


@pytest.mark.parametrize("is_read", [True, False])
def test_the_body_can_be_read_in_the_test_whether_or_not_the_view_has(over, is_read):
    def wsgi_app(environ, start_response):
        assert not is_read or webtest.TestRequest(environ).POST["a"] == "1"
        return Recorder()(environ, start_response)

    assert over(wsgi_app).post("/", {"a": 1, "b": 2}).request.POST["b"] == "2"
