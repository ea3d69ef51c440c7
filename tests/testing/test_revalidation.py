"""Handshakes that are repeated under a :class:`TestApp`, in the thread of the test."""

import contextlib
import threading
import time

import pytest
from pyramid.config import Configurator
from pyramid.response import Response
from pyramid.security import NO_PERMISSION_REQUIRED
from pyramid.session import SignedCookieSessionFactory

from pyramid_asgi_consumers.exceptions import StreamEnded, WebSocketDisconnect
from pyramid_asgi_consumers.testing import TestApp
from tests.support.staying import echoes, goes_on


class Policy:
    def __init__(self):
        self.requests = []
        self.error = None
        self.threads = set()

    def authenticated_userid(self, request):
        return request.session.get("user")

    def permits(self, request, context, permission):
        self.requests.append(request)
        self.threads.add(threading.get_ident())
        if self.error is not None:
            raise self.error
        return "user" in request.session


def log_in(request):
    request.session["user"] = "ann"
    return Response("welcome")


@pytest.fixture
def testapp():
    config = Configurator()
    config.include("pyramid_asgi_consumers")
    config.registry.policy = Policy()
    config.set_security_policy(config.registry.policy)
    config.set_session_factory(SignedCookieSessionFactory("secret", timeout=1000))
    config.add_route("login", "/login")
    config.add_view(log_in, route_name="login", permission=NO_PERMISSION_REQUIRED)
    config.add_websocket("/websocket", echoes, permission="stay", revalidate=0.05)
    config.add_event_stream("/stream", goes_on, permission="stay", revalidate=0.05)
    return TestApp(config.make_asgi_app())


@pytest.fixture
def policy(testapp):
    return testapp.app.registry.policy


@pytest.mark.parametrize("with_lifespan", [True, False])
def test_a_session_that_expires_closes_a_websocket(testapp, policy, clock, with_lifespan):
    with testapp if with_lifespan else contextlib.nullcontext():
        testapp.get("/login")
        with testapp.websocket("/websocket") as websocket:
            websocket.send("still here")
            assert websocket.receive() == "still here"
            clock.passed = 2000
            with pytest.raises(WebSocketDisconnect):
                websocket.receive()
            assert (websocket.close_code, websocket.close_reason) == (4403, "no longer permitted")
    assert len(policy.requests) > 1
    assert policy.threads == {threading.get_ident()}


def test_a_session_that_expires_ends_a_stream(testapp, clock):
    testapp.get("/login")
    with testapp.stream("/stream") as stream:
        assert stream.receive().data == "begun"
        clock.passed = 2000
        with pytest.raises(StreamEnded):
            stream.receive()


def test_environs_of_the_test_are_those_of_repetitions_too(testapp, policy, clock):
    testapp.get("/login")
    with testapp.websocket("/websocket", extra_environ={"tests.own": "x"}) as websocket:
        clock.passed = 2000
        with pytest.raises(WebSocketDisconnect):
            websocket.receive()
    assert len(policy.requests) > 1
    assert {request.environ["tests.own"] for request in policy.requests} == {"x"}
    assert policy.requests[-1].environ["asgi.revalidation"] is True


def test_a_websocket_that_the_test_has_closed_is_asked_no_more(testapp, policy):
    testapp.get("/login")
    with testapp:
        with testapp.websocket("/websocket") as websocket:
            # What is due meanwhile waits for this thread.
            time.sleep(0.2)
            websocket.close()
        count = len(policy.requests)
        testapp.get("/login")
        assert len(policy.requests) == count


def test_what_a_repetition_raises_is_logged_and_not_raised_in_the_test(testapp, policy, caplog):
    testapp.get("/login")
    with testapp.websocket("/websocket") as websocket:
        policy.error = LookupError("of the test")
        with pytest.raises(TimeoutError):
            websocket.receive(timeout=0.3)
        policy.error = None
        websocket.send("still here")
        assert websocket.receive() == "still here"
    assert "stays for now: of the test" in caplog.text
