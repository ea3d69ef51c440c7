"""Handshakes that are made once more: what is asked, and what the answer says of a connection."""

import asyncio
import logging
from types import SimpleNamespace

import pytest
from pyramid.authentication import AuthTktCookieHelper
from pyramid.httpexceptions import (
    HTTPForbidden,
    HTTPFound,
    HTTPNotFound,
    HTTPServiceUnavailable,
    HTTPUnauthorized,
)
from pyramid.request import Request
from pyramid.response import Response
from pyramid.security import NO_PERMISSION_REQUIRED, remember
from pyramid.session import SignedCookieSessionFactory
from starlette.routing import Mount, Router, WebSocketRoute

from pyramid_asgi_consumers.handshake.repetition import Repetition
from tests.support.asgi import http_scope, run
from tests.support.staying import Site, close, echoes
from tests.support.wsgi import wait_until

#: So long that a test is over before.
NEVER = 1000

pytestmark = pytest.mark.usefixtures("nothing_is_left_behind")


# What a refusal is.


def site_refusing(error, view=None):
    """A site whose ``/x`` has a factory that raises ``error`` where its policy permits nothing."""

    def factory(request):
        policy = request.registry.policy
        policy.requests.append(request)
        if not policy.permitted:
            raise error
        return {}

    def configure(config):
        config.add_websocket(
            "/x", echoes, factory=factory, permission=NO_PERMISSION_REQUIRED, revalidate=0.01
        )
        if view is not None:
            config.add_exception_view(view, context=type(error))

    return Site(NEVER, configure=configure)


def page(status, **headers):
    return lambda request: Response("a page", status=status, **headers)


class Gone(Exception):
    """The project's own."""


@pytest.mark.parametrize(
    ("error", "view", "code"),
    [
        (HTTPForbidden(), None, 4403),
        (HTTPForbidden(), page(302, location="/login"), 4403),
        (HTTPForbidden(), page(200), 4403),
        (HTTPForbidden(), page(503), 4403),
        (HTTPNotFound(), None, 4404),
        (HTTPNotFound(), page(410), 4404),
        (HTTPUnauthorized(), None, 4401),
        (HTTPFound("/login"), None, 4302),
        (Gone(), page(410), 4410),
        (Gone(), page(302, location="/login"), 4302),
    ],
)
async def test_the_close_code_is_4000_and_the_status_of_the_refusal(error, view, code):
    site = site_refusing(error, view)
    async with site.opened(path="/x") as client:
        await site.asked()
        site.policy.permitted = False
        assert await client.ended() == close(code)


@pytest.mark.parametrize(
    ("error", "view"),
    [
        (Gone(), None),
        (SystemExit(), None),
        (KeyboardInterrupt(), None),
        (Gone(), page(500)),
        (Gone(), page(503)),
        (Gone(), page(200)),
        (HTTPServiceUnavailable(), None),
        (HTTPServiceUnavailable(), page(200)),
        (HTTPServiceUnavailable(), page(403)),
    ],
)
async def test_who_cannot_be_asked_stays_and_is_asked_again(error, view, caplog):
    site = site_refusing(error, view)
    async with site.opened(path="/x") as client:
        await site.asked()
        site.policy.permitted = False
        await site.asked(3)
        assert not client.task.done()
        site.policy.permitted = True
        await site.asked(3)
        assert not client.task.done()
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert "A handshake of websocket consumer /x" in record.getMessage()
    assert "its connection stays for now" in record.getMessage()


async def test_a_policy_that_fails_ends_nobodys_connection(caplog):
    site = Site()
    site.policy.hold = lambda: None
    async with site.opened() as client:
        site.policy.error = OSError("the database\n is down")
        await site.asked(3)
        assert not client.task.done()
        site.policy.error, site.policy.permitted = None, False
        assert await client.ended() == close(4403)
    (record,) = [record for record in caplog.records if record.exc_info]
    assert r"stays for now: the database\n is down (and 0 more" in record.getMessage()
    assert record.exc_info[1].args == ("the database\n is down",)


async def test_a_refusal_of_middleware_counts_and_its_errors_do_not(caplog):
    answers = []

    def middleware(environ, start_response):
        if not answers:
            return site.config.made(environ, start_response)
        if isinstance(answers[0], Exception):
            raise answers[0]
        start_response(answers[0], [("Content-Type", "text/plain")])
        return [b"of the middleware"]

    site = Site()
    site.config.made = site.config.make_wsgi_app()
    site.app = site.config.make_asgi_app(middleware)
    async with site.opened() as client:
        answers.append(OSError("broken"))
        await wait_until(lambda: "stays for now: broken" in caplog.text)
        answers[0] = "503 Service Unavailable"
        await asyncio.sleep(0.05)
        assert not client.task.done()
        answers[0] = "429 Too Many Requests"
        assert await client.ended() == close(4429)


async def test_a_page_for_logging_in_by_middleware_is_a_refusal():
    answers = []

    def middleware(environ, start_response):
        if not answers:
            return site.config.made(environ, start_response)
        start_response("200 OK", [("Content-Type", "text/html")])
        return [b"Who are you?"]

    site = Site()
    site.config.made = site.config.make_wsgi_app()
    site.app = site.config.make_asgi_app(middleware)
    async with site.opened() as client:
        await site.asked()
        answers.append("logged out")
        assert await client.ended() == close(4403)


async def test_where_the_commit_fails_the_connection_stays(caplog):
    site = Site(configure=add_failing_tween)
    site.config.registry.fails = None
    async with site.opened() as client:
        site.config.registry.fails = OSError("no commit")
        await site.asked(3)
        assert not client.task.done()
    assert "stays for now: no commit" in caplog.text


def add_failing_tween(config):
    config.add_tween(f"{__name__}.failing_tween_factory")


def failing_tween_factory(handler, registry):
    def tween(request):
        response = handler(request)
        if registry.fails is not None:
            raise registry.fails
        return response

    return tween


# The request.


async def test_the_request_is_that_of_the_handshake():
    site = Site()
    headers = [(b"cookie", b"a=1; b=2"), (b"x-own", b"x")]
    async with site.opened(headers=headers, query_string=b"q=1", root_path="/app"):
        await site.asked()
    first, second, *_ = site.requests
    for name in ("method", "path_qs", "host_url", "matchdict", "application_url", "body"):
        assert getattr(first, name) == getattr(second, name)
    assert dict(second.headers) == dict(first.headers)
    assert second.cookies == {"a": "1", "b": "2"}
    assert second.matched_route is first.matched_route


async def test_its_environ_says_what_it_is_and_others_do_not():
    site = Site()
    async with site.opened():
        await site.asked()
    first, *others = [request.environ.get("asgi.revalidation") for request in site.requests]
    assert first is None
    assert set(others) == {True}


async def test_the_consumer_sees_nothing_of_it():
    scopes = []

    async def consumer(scope, receive, send):
        scopes.extend((scope, dict(scope)))
        await receive()
        await send({"type": "websocket.accept"})
        await receive()

    def configure(config):
        config.add_asgi_consumer("/y", "websocket", consumer, permission="stay", revalidate=0.01)

    site = Site(configure=configure)
    async with site.opened(path="/y"):
        await site.asked(3)
        now, before = scopes
        assert now == before
        assert now["pyramid.request"] is site.requests[0]


async def test_a_consumer_that_changes_its_scope_changes_no_request():
    site = Site(configure=add_router)
    async with site.opened(path="/mounted/rooms/blue"):
        await site.asked()
    first, second, *_ = site.requests
    assert (first.script_name, first.path_info) == ("", "/mounted/rooms/blue")
    assert (second.script_name, second.path_info) == ("", "/mounted/rooms/blue")
    assert second.matchdict == {"rest": ("rooms", "blue")}


def add_router(config):
    async def endpoint(websocket):
        await websocket.accept()
        await websocket.receive()

    routes = [WebSocketRoute("/rooms/{room}", endpoint)]
    router = Router([Mount("/mounted", routes=routes)])
    config.add_asgi_consumer(
        "/mounted/*rest", "websocket", router, permission="stay", revalidate=0.01
    )


async def test_the_request_goes_through_tweens_and_callbacks():
    seen = []

    def configure(config):
        config.add_request_method(lambda request: seen.append("own"), "own", reify=True)
        config.add_subscriber(lambda event: seen.append("new"), "pyramid.events.NewRequest")
        config.add_tween(f"{__name__}.noting_tween_factory")
        config.registry.noted = seen

    site = Site(configure=configure)
    async with site.opened():
        await site.asked()
        await wait_until(lambda: len(seen) >= 6)
        assert seen[:6] == ["tween", "new", "done"] * 2


def noting_tween_factory(handler, registry):
    def tween(request):
        registry.noted.append("tween")
        request.add_finished_callback(lambda request: registry.noted.append("done"))
        return handler(request)

    return tween


# Cookies.


class SessionPolicy:
    def __init__(self):
        self.requests = []

    def authenticated_userid(self, request):
        return request.session.get("user")

    def permits(self, request, context, permission):
        self.requests.append(request)
        return "user" in request.session


def log_in(request, name="ann"):
    request.session["user"] = name
    return Response("welcome")


def log_out(request):
    request.session.invalidate()


async def logged_in(site):
    """The headers of a browser in which ann has logged in."""
    (start, _) = await run(site.app, http_scope("/login"))
    (cookie,) = [value for name, value in start["headers"] if name == b"set-cookie"]
    return [(b"cookie", cookie.partition(b";")[0])]


def site_with_sessions(func=None, policy=None, **options):
    """A site whose users log in to signed sessions; ``func(request)`` is a call's."""

    async def calling(websocket):
        await websocket.accept()
        await websocket.run_in_request(func)
        await websocket.wait_closed()

    def configure(config):
        config.set_session_factory(SignedCookieSessionFactory("secret", **options))
        config.add_route("login", "/login")
        config.add_view(log_in, route_name="login", permission=NO_PERMISSION_REQUIRED)
        config.add_websocket("/calling", calling, permission="stay", revalidate=0.01)

    return Site(configure=configure, policy=policy or SessionPolicy())


async def test_a_session_expires_since_no_request_prolongs_it(clock):
    site = site_with_sessions(timeout=1000, reissue_time=0)
    async with site.opened(headers=await logged_in(site)) as client:
        clock.passed = 600
        await site.asked(3)
        assert not client.task.done()
        clock.passed = 1200
        assert await client.ended() == close(4403)


async def test_a_session_that_a_call_has_ended_ends_the_connection():
    site = site_with_sessions(log_out)
    async with site.opened(path="/calling", headers=await logged_in(site)) as client:
        assert await client.ended() == close(4403)


async def test_another_user_who_has_logged_in_by_a_call_ends_it_with_4401():
    site = site_with_sessions(lambda request: log_in(request, "ben"))
    async with site.opened(path="/calling", headers=await logged_in(site)) as client:
        assert await client.ended() == close(4401, "another user")


class TicketPolicy(SessionPolicy):
    """Users are in a ticket of their own, in a cookie that is issued anew by each request."""

    def __init__(self):
        super().__init__()
        self.tickets = AuthTktCookieHelper("secret", hashalg="sha512", timeout=50, reissue_time=0)

    def authenticated_userid(self, request):
        return (self.tickets.identify(request) or {}).get("userid")

    def permits(self, request, context, permission):
        self.requests.append(request)
        return self.authenticated_userid(request) is not None

    def remember(self, request, userid):
        return self.tickets.remember(request, userid)


async def test_headers_by_which_a_call_remembers_another_user_count_too():
    def log_in_ben(request):
        request.response.headerlist.extend(remember(request, "ben"))

    site = site_with_sessions(log_in_ben, TicketPolicy())
    headers = site.policy.remember(Request.blank("/", base_url="http://example.com"), "ann")
    ticket = headers[0][1].partition(";")[0]
    async with site.opened(path="/calling", headers=[(b"cookie", ticket.encode())]) as client:
        assert await client.ended() == close(4401, "another user")


async def test_cookies_that_calls_set_are_sent_and_those_of_repetitions_are_not():
    sent = []

    def set_cookie(request):
        request.response.set_cookie("call", "1")

    def answer(event):
        if "asgi.revalidation" in event.request.environ:
            sent.append(dict(event.request.cookies))
            event.response.set_cookie("repetition", "1")

    site = site_with_sessions(set_cookie)
    site.config.add_subscriber(answer, "pyramid.events.NewResponse")
    site.config.commit()
    headers = await logged_in(site)
    async with site.opened(path="/calling", headers=headers):
        await wait_until(lambda: sent and "call" in sent[-1])
        await site.asked(3)
    assert all(cookies.keys() <= {"session", "call"} for cookies in sent)
    assert "session" in sent[-1]


async def test_what_a_thread_has_just_taken_is_not_made_for_who_has_left():
    jobs, heard = [], []

    def submit(job):
        jobs.append(job)
        return lambda: False

    lane = SimpleNamespace(submit=submit)
    handshakes = SimpleNamespace(repetitions=lane)
    admission = SimpleNamespace(handshakes=handshakes, route_name="x", path_params={})
    repetition = Repetition(admission, asyncio.get_running_loop(), heard.append)
    repetition.cancel()
    jobs[0]()
    await asyncio.sleep(0)
    assert not (repetition.has_begun or heard)
