"""A WebTest suite that passes over WSGI, and with the import changed."""

import hashlib
import json
import os
import threading
from pathlib import Path

import pytest
import webtest

from pyramid_asgi_consumers.testing import TestApp
from tests import notebook


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


def test_an_exception_is_raised_in_the_test(testapp):
    with pytest.raises(LookupError, match="in the view"):
        testapp.get("/fail")


def test_an_exception_in_the_middle_of_a_response_is_raised_in_the_test(testapp):
    with pytest.raises(RuntimeError, match="in the middle"):
        testapp.get("/stream?chunks=2&fails")


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
