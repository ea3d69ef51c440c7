"""Pages and http consumers with ``TestApp``."""

import io
import os
import subprocess
import sys

import pytest
from pyramid.response import Response

from pyramid_asgi_consumers.testing import TestApp
from tests.testing.applications import http_app, make

pytestmark = pytest.mark.usefixtures("no_thread_is_left")


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


def test_lint_is_for_the_application_behind_the_bridge_and_can_be_switched_off():
    def wsgi_app(environ, start_response):
        start_response("200 OK", [("X-Long-", "")])
        return [b""]

    with pytest.raises(AssertionError, match="may not end in"):
        TestApp(make(wsgi_app=wsgi_app)).get("/")
    assert TestApp(make(wsgi_app=wsgi_app), lint=False).get("/").headers["x-long-"] == ""


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
