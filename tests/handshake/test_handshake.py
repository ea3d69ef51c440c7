"""A guarded consumer's handshake, through the project of ``project.py``."""

import asyncio
import cProfile
import json
import pstats
import threading
from collections import Counter
from contextvars import ContextVar

import pytest
from pyramid.authentication import RemoteUserAuthenticationPolicy
from pyramid.authorization import ACLAuthorizationPolicy, Allow, Authenticated
from pyramid.config import Configurator
from pyramid.events import ContextFound, NewRequest, NewResponse
from pyramid.httpexceptions import HTTPFound, HTTPNotFound
from pyramid.request import Request
from pyramid.response import Response
from pyramid.security import NO_PERMISSION_REQUIRED
from pyramid.threadlocal import get_current_request, manager

from pyramid_asgi_consumers.handshake.exchange import TOKEN
from tests.support.asgi import body_of, http_scope, run, websocket_scope
from tests.support.project import (
    CONNECT,
    Message,
    Room,
    cookies_of,
    log_in,
    make_config,
    make_engine,
    opened,
)


@pytest.fixture
def engine(tmp_path):
    engine = make_engine(tmp_path / "database")
    yield engine
    engine.dispose()


@pytest.fixture
def config(engine):
    return make_config(engine)


class Consumer:
    """Accepts, or answers, and ends; keeps the scopes it was called with."""

    def __init__(self, headers=()):
        self.headers = list(headers)
        self.scopes = []

    async def __call__(self, scope, receive, send):
        self.scopes.append(scope)
        if scope["type"] == "websocket":
            await send({"type": "websocket.accept", "headers": self.headers})
        else:
            await send({"type": "http.response.start", "status": 200, "headers": self.headers})
            await send({"type": "http.response.body", "body": b"answered"})


def declare(config, protocol="websocket", path="/x", *, headers=(), **arguments):
    consumer = Consumer(headers)
    arguments.setdefault("permission", NO_PERMISSION_REQUIRED)
    config.add_asgi_consumer(path, protocol, consumer, **arguments)
    return consumer


async def shake(app, path="/x", *headers, **more):
    """The first message of the answer to a websocket's handshake."""
    left = {"type": "websocket.disconnect", "code": 1000}
    return (await run(app, websocket_scope(path, headers, **more), CONNECT, left))[0]


def add_tween(config, tween):
    """``tween(handler, request)`` answers, outside of exception views and transactions."""
    config.registry.tween = tween
    config.add_tween(f"{__name__}.tween_factory", over="pyramid_tm.tm_tween_factory")


def tween_factory(handler, registry):
    return lambda request: registry.tween(handler, request)


def tracebacks(caplog):
    return [record.getMessage() for record in caplog.records if record.exc_info]


# Who gets in.


async def test_without_login_the_client_gets_the_forbidden_view_s_own_response(config):
    sent = await run(config.make_asgi_app(), websocket_scope("/rooms/blue"), CONNECT)
    headers = dict(sent[0]["headers"])
    assert sent[0]["status"] == 403
    assert headers[b"content-type"] == b"application/json"
    assert headers[b"x-reason"] == b"permission"
    assert json.loads(body_of(sent)) == {"error": "forbidden", "path": "/rooms/blue"}


async def test_without_denial_responses_the_refusal_is_a_bare_close(config):
    scope = websocket_scope("/rooms/blue", extensions={})
    sent = await run(config.make_asgi_app(), scope, CONNECT)
    assert sent == [{"type": "websocket.close", "code": 1000, "reason": ""}]


async def test_no_equal_pattern_declared_later_leads_past_a_guard(config):
    guarded = declare(config, path=r"/a/{room:\d+}", permission="speak", factory=Room)
    later = Consumer()
    config.add_asgi_consumer(r"/a/{room:\w+}", "websocket", later)
    config.add_asgi_app("/mount", later, lifespan=False)
    declare(config, path="/mount/*room", permission="speak", factory=Room)
    app = config.make_asgi_app()
    assert (await shake(app, "/a/7"))["status"] == 403
    assert (await shake(app, "/mount/x"))["status"] == 403
    assert guarded.scopes == later.scopes == []
    assert (await shake(app, "/a/b"))["type"] == "websocket.accept"


async def test_a_refused_consumer_is_not_called(config):
    consumer = declare(config, path="/{room}/x", permission="speak", factory=Room)
    app = config.make_asgi_app()
    assert (await shake(app, "/blue/x"))["status"] == 403
    assert consumer.scopes == []


async def test_with_login_the_scope_has_request_context_and_userid(config):
    consumer = declare(config, path="/{room}/x", permission="speak", factory=Room)
    app = config.make_asgi_app()
    accepted = await shake(app, "/blue/x", await log_in(app))
    assert accepted["type"] == "websocket.accept"
    (scope,) = consumer.scopes
    assert scope["pyramid.userid"] == "ann"
    assert (type(scope["pyramid.context"]), scope["pyramid.context"].name) == (Room, "blue")
    assert scope["pyramid.request"].matchdict == {"room": "blue"}
    assert scope["pyramid.request"].method == "GET"
    assert scope["pyramid.request"].matched_route.name == "websocket:/{room}/x"


async def test_the_acl_of_the_context_decides(config):
    app = config.make_asgi_app()
    cookie = await log_in(app)
    assert (await shake(app, "/rooms/blue", cookie))["type"] == "websocket.accept"
    assert (await shake(app, "/rooms/closed", cookie))["status"] == 403


async def test_twenty_open_sockets_hold_no_connection_and_no_thread(engine):
    app = make_config(engine, **{"asgi.handshake_threads": 1, "asgi.threads": 1}).make_asgi_app()
    cookie = await log_in(app)
    async with opened(app, 20, cookie):
        assert engine.pool.checkedout() == 0
        # The one thread of each pool is free.
        assert (await shake(app, "/rooms/closed", cookie))["status"] == 403
        assert body_of(await run(app, http_scope("/", headers=[cookie]))) == b"Hello ann"


async def test_without_a_security_policy_everybody_gets_in():
    config = Configurator()
    config.include("pyramid_asgi_consumers")
    consumer = declare(config, permission="speak")
    assert (await shake(config.make_asgi_app()))["type"] == "websocket.accept"
    assert consumer.scopes[0]["pyramid.userid"] is None


@pytest.mark.filterwarnings("ignore:Authentication and authorization policies:DeprecationWarning")
async def test_legacy_policies_decide_as_well():
    class Root:
        __acl__ = [(Allow, Authenticated, "speak")]

        def __init__(self, request):
            pass

    def as_bob(wsgi_app):
        def middleware(environ, start_response):
            if environ.get("HTTP_X_USER"):
                environ["REMOTE_USER"] = environ["HTTP_X_USER"]
            return wsgi_app(environ, start_response)

        return middleware

    config = Configurator(root_factory=Root)
    config.set_authorization_policy(ACLAuthorizationPolicy())
    config.set_authentication_policy(RemoteUserAuthenticationPolicy())
    config.include("pyramid_asgi_consumers")
    consumer = declare(config, permission="speak")
    app = config.make_asgi_app(as_bob(config.make_wsgi_app()))
    assert (await shake(app))["status"] == 403
    assert (await shake(app, "/x", (b"x-user", b"bob")))["type"] == "websocket.accept"
    assert consumer.scopes[0]["pyramid.userid"] == "bob"


async def test_a_permission_that_nobody_needs_still_gives_a_request(config):
    consumer = declare(config)
    await shake(config.make_asgi_app())
    assert consumer.scopes[0]["pyramid.request"].path == "/x"


# Headers.


def decorate(config):
    """Have a tween and a response callback set headers of all kinds."""

    def tween(handler, request):
        response = handler(request)
        response.set_cookie("tween", "1")
        response.headers.update(
            {
                "X-Frame-Options": "DENY",
                "Connection": "close",
                "Keep-Alive": "timeout=5",
                "Transfer-Encoding": "chunked",
                "Upgrade": "h2c",
                "Content-Language": "la",
                "ETag": '"1"',
                "Sec-WebSocket-Protocol": "other",
            }
        )
        return response

    def subscriber(event):
        event.request.add_response_callback(
            lambda request, response: response.set_cookie("callback", "2")
        )

    add_tween(config, tween)
    config.add_subscriber(subscriber, NewRequest)


@pytest.mark.parametrize("protocol", ["websocket", "http"])
async def test_headers_that_pyramid_set_go_out_with_the_consumer_s_answer(config, protocol):
    decorate(config)
    declare(config, protocol, headers=[(b"x-own", b"1"), (b"Set-Cookie", b"own=3")])
    scope = websocket_scope("/x") if protocol == "websocket" else http_scope("/x")
    answer = (await run(config.make_asgi_app(), scope, CONNECT))[0]
    assert answer["type"] in ("websocket.accept", "http.response.start")
    assert sorted((name.lower(), value) for name, value in answer["headers"]) == [
        (b"set-cookie", b"callback=2; Path=/"),
        (b"set-cookie", b"own=3"),
        (b"set-cookie", b"tween=1; Path=/"),
        (b"x-frame-options", b"DENY"),
        (b"x-own", b"1"),
    ]


async def test_a_header_that_the_consumer_sets_itself_holds(config):
    decorate(config)
    declare(config, headers=[(b"X-Frame-Options", b"SAMEORIGIN")])
    answer = await shake(config.make_asgi_app())
    values = [value for name, value in answer["headers"] if name.lower() == b"x-frame-options"]
    assert values == [b"SAMEORIGIN"]


async def test_hop_by_hop_headers_of_a_refusal_stay_behind(config):
    decorate(config)
    sent = await run(config.make_asgi_app(), websocket_scope("/rooms/blue"), CONNECT)
    names = {name for name, _ in sent[0]["headers"]}
    assert b"content-language" in names
    assert not names & {b"connection", b"keep-alive", b"transfer-encoding", b"upgrade"}
    assert body_of(sent)


@pytest.mark.parametrize("path", ["/x", "/rooms/blue"])
@pytest.mark.parametrize("value", ["caf\u00e9 \u20ac", "split\x00"])
async def test_a_header_that_cannot_be_sent_is_500(config, caplog, path, value):
    def tween(handler, request):
        response = handler(request)
        response.headers["X-Name"] = value
        return response

    add_tween(config, tween)
    consumer = declare(config)
    assert (await shake(config.make_asgi_app(), path))["status"] == 500
    assert (len(tracebacks(caplog)), consumer.scopes) == (1, [])


async def test_latin_1_headers_pass_both_ways(config):
    def tween(handler, request):
        response = handler(request)
        response.headers["X-Name"] = request.headers["X-Name"]
        return response

    add_tween(config, tween)
    declare(config)
    answer = await shake(config.make_asgi_app(), "/x", (b"x-name", b"\xe9t\xe9"))
    assert (b"x-name", b"\xe9t\xe9") in answer["headers"]


async def test_big_cookies_pass_both_ways(config):
    big = b"x" * 60000

    def tween(handler, request):
        response = handler(request)
        response.headers["X-Length"] = str(len(request.cookies["big"]))
        response.headers.add("Set-Cookie", "big=" + "y" * 60000)
        return response

    add_tween(config, tween)
    declare(config)
    answer = await shake(config.make_asgi_app(), "/x", (b"cookie", b"big=" + big))
    assert (b"x-length", b"60000") in answer["headers"]
    assert (b"set-cookie", b"big=" + b"y" * 60000) in answer["headers"]


async def test_the_mark_by_which_the_view_s_response_is_known_stays_inside(config):
    declare(config)
    answer = await shake(config.make_asgi_app())
    assert answer["headers"] == []


# Refusals of all kinds.


async def test_a_redirect_is_a_denial_with_its_location(config):
    config.commit()
    config.add_forbidden_view(lambda request: HTTPFound("/login"))
    sent = await shake(config.make_asgi_app(), "/rooms/blue")
    assert sent["status"] == 302
    assert dict(sent["headers"])[b"location"] == b"http://example.com/login"


def write_what_cannot_be_committed(request):
    request.dbsession.add(Message(text="x", author="nobody"))
    return {}


async def test_a_commit_that_fails_after_the_view_is_a_refusal(config, caplog):
    consumer = declare(config, factory=write_what_cannot_be_committed)
    assert (await shake(config.make_asgi_app()))["status"] == 500
    assert consumer.scopes == []
    assert len(tracebacks(caplog)) == len(caplog.records) == 1
    assert "The handshake of websocket consumer /x " in caplog.text


async def test_a_commit_that_fails_is_refused_with_the_project_s_exception_view(config, caplog):
    config.add_exception_view(lambda request: Response("conflict", status=409))
    consumer = declare(config, factory=write_what_cannot_be_committed)
    sent = await run(config.make_asgi_app(), websocket_scope("/x"), CONNECT)
    assert (sent[0]["status"], body_of(sent)) == (409, b"conflict")
    assert (consumer.scopes, tracebacks(caplog)) == ([], [])


def with_status(response):
    response.status = 503
    return response


@pytest.mark.parametrize(
    "answer", [with_status, lambda response: Response("busy", status=503)], ids=["same", "new"]
)
@pytest.mark.parametrize("protocol", ["websocket", "http"])
async def test_a_tween_that_answers_503_after_the_view_refuses(config, answer, protocol):
    add_tween(config, lambda handler, request: answer(handler(request)))
    consumer = declare(config, protocol)
    scope = websocket_scope("/x") if protocol == "websocket" else http_scope("/x")
    assert (await run(config.make_asgi_app(), scope, CONNECT))[0]["status"] == 503
    assert consumer.scopes == []


async def test_a_tween_that_answers_200_itself_refuses_as_well(config):
    add_tween(config, lambda handler, request: Response("maintenance"))
    consumer = declare(config)
    sent = await run(config.make_asgi_app(), websocket_scope("/x"), CONNECT)
    assert (sent[0]["status"], body_of(sent)) == (200, b"maintenance")
    assert consumer.scopes == []


async def test_a_client_cannot_guess_the_mark_that_a_tween_echoes(config):
    def tween(handler, request):
        return Response("echo", headers={TOKEN: request.headers[TOKEN]})

    add_tween(config, tween)
    consumer = declare(config)
    answer = await shake(config.make_asgi_app(), "/x", (TOKEN.lower().encode(), b"a guess"))
    assert (answer["status"], consumer.scopes) == (200, [])
    assert TOKEN.lower().encode() not in dict(answer["headers"])


async def test_a_predicate_that_fails_is_404(config):
    declare(config, request_param="token")
    declare(config, path="/{room}/y", custom=None, traverse="/")
    app = config.make_asgi_app()
    assert (await shake(app))["status"] == 404
    assert (await shake(app, "/x", query_string=b"token=1"))["type"] == "websocket.accept"


class OnTuesday:
    """A route predicate."""

    def __init__(self, value, config):
        self.value = value

    def text(self):
        return f"day = {self.value}"

    phash = text

    def __call__(self, info, request):
        return info["match"]["day"] == self.value and info["route"].name == "tuesday"


async def test_a_route_predicate_that_fails_is_404(config):
    config.add_route_predicate("day", OnTuesday)
    declare(config, path="/days/{day}", day="tuesday", name="tuesday")
    app = config.make_asgi_app()
    assert (await shake(app, "/days/monday"))["status"] == 404
    assert (await shake(app, "/days/tuesday"))["type"] == "websocket.accept"


def no_such_room(request):
    raise HTTPNotFound("no such room")


def broken_room(request):
    raise ValueError("no rooms")


async def test_a_root_factory_that_finds_nothing_is_404(config):
    declare(config, factory=no_such_room)
    sent = await run(config.make_asgi_app(), websocket_scope("/x"), CONNECT)
    assert sent[0]["status"] == 404
    assert b"no such room" in body_of(sent)


@pytest.mark.parametrize("protocol", ["websocket", "http"])
async def test_what_raises_is_500_and_one_traceback(config, caplog, protocol):
    declare(config, protocol, factory=broken_room)
    scope = websocket_scope("/x") if protocol == "websocket" else http_scope("/x")
    assert (await run(config.make_asgi_app(), scope, CONNECT))[0]["status"] == 500
    assert len(tracebacks(caplog)) == len(caplog.records) == 1


async def test_what_raises_is_answered_by_the_project_s_exception_view(config, caplog):
    config.add_exception_view(lambda request: Response("sorry", status=502), context=ValueError)
    declare(config, factory=broken_room)
    sent = await run(config.make_asgi_app(), websocket_scope("/x"), CONNECT)
    assert (sent[0]["status"], body_of(sent), caplog.records) == (502, b"sorry", [])


async def test_a_tween_or_policy_that_raises_is_500_and_one_traceback(config, caplog):
    def tween(handler, request):
        raise RuntimeError("tween")

    add_tween(config, tween)
    declare(config)
    assert (await shake(config.make_asgi_app()))["status"] == 500
    assert len(tracebacks(caplog)) == len(caplog.records) == 1


async def test_a_policy_that_raises_is_answered_by_the_exception_view(engine, caplog):
    class Policy:
        def identity(self, request):
            raise ConnectionError("no directory")

        authenticated_userid = identity

    config = Configurator()
    config.set_security_policy(Policy())
    config.add_exception_view(lambda request: Response("down", status=503))
    config.include("pyramid_asgi_consumers")
    declare(config)
    sent = await run(config.make_asgi_app(), websocket_scope("/x"), CONNECT)
    assert (sent[0]["status"], body_of(sent), caplog.records) == (503, b"down", [])


async def test_a_scope_that_no_request_can_be_made_of_is_400(config, caplog):
    consumer = declare(config)
    assert (await shake(config.make_asgi_app(), "/x", (b"content-length", b"x")))["status"] == 400
    assert (consumer.scopes, tracebacks(caplog)) == ([], [])


async def test_a_path_that_is_not_text_is_no_consumer_s(config):
    declare(config, path="/{room}/x")
    scope = websocket_scope("/\ufffd/x", raw_path=b"/%FF/x")
    assert (await run(config.make_asgi_app(), scope, CONNECT))[0]["status"] == 404


async def test_a_head_request_is_refused_like_a_get(config):
    consumer = declare(config, "http", permission="speak", path="/{room}/x", factory=Room)
    app = config.make_asgi_app()
    sent = await run(app, http_scope("/blue/x", "HEAD"))
    assert (sent[0]["status"], body_of(sent), consumer.scopes) == (403, b"", [])
    await run(app, http_scope("/blue/x", "HEAD", headers=[await log_in(app)]))
    assert consumer.scopes[0]["method"] == consumer.scopes[0]["pyramid.request"].method == "HEAD"


# What a handshake goes through.


async def test_wsgi_middleware_that_copies_the_environ_is_no_obstacle(config):
    seen = []

    def middleware(environ, start_response):
        seen.append(environ["PATH_INFO"])
        return wsgi_app(dict(environ), start_response)

    consumer = declare(config, permission="speak", path="/{room}/x", factory=Room)
    wsgi_app = config.make_wsgi_app()
    app = config.make_asgi_app(middleware)
    cookie = await log_in(app)
    assert (await shake(app, "/blue/x", cookie))["type"] == "websocket.accept"
    assert (len(consumer.scopes), seen) == (1, ["/login", "/blue/x"])


async def test_csrf_protection_guards_an_http_consumer_s_post(config):
    def token(request):
        return Response(request.session.get_csrf_token())

    config.add_route("token", "/token")
    config.add_view(token, route_name="token")
    consumer = declare(config, "http", require_csrf=True)
    app = config.make_asgi_app()
    sent = await run(app, http_scope("/token"))
    cookie, csrf_token = (b"cookie", cookies_of(sent[0])), body_of(sent)
    form = (b"content-type", b"application/x-www-form-urlencoded")
    upload = (b"content-type", b"multipart/form-data; boundary=x")
    body = {"type": "http.request", "body": b"csrf_token=" + csrf_token}
    for headers in (
        [],
        [cookie],
        [cookie, form],
        [cookie, upload],
        [cookie, (b"x-csrf-token", b"wrong")],
    ):
        sent = await run(app, http_scope("/x", "POST", headers), body)
        assert (sent[0]["status"], consumer.scopes) == (400, [])
    headers = [cookie, (b"x-csrf-token", csrf_token)]
    assert body_of(await run(app, http_scope("/x", "POST", headers), body)) == b"answered"


async def test_the_body_of_a_request_stays_with_its_consumer(config):
    async def upload(scope, receive, send):
        assert scope["pyramid.request"].body == b""
        message = await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": message["body"]})

    config.add_asgi_consumer("/up", "http", upload, permission=NO_PERMISSION_REQUIRED)
    scope = http_scope("/up", "PUT", [(b"content-length", b"4")])
    sent = await run(config.make_asgi_app(), scope, {"type": "http.request", "body": b"data"})
    assert body_of(sent) == b"data"


async def test_events_and_callbacks_come_once_each(config):
    happened = Counter()

    def new_request(event):
        happened["NewRequest"] += 1
        event.request.add_response_callback(lambda *_: happened.update(["response callback"]))
        event.request.add_finished_callback(lambda _: happened.update(["finished callback"]))

    config.add_subscriber(new_request, NewRequest)
    config.add_subscriber(lambda event: happened.update(["ContextFound"]), ContextFound)
    config.add_subscriber(lambda event: happened.update(["NewResponse"]), NewResponse)
    declare(config)
    assert (await shake(config.make_asgi_app()))["type"] == "websocket.accept"
    assert set(happened.values()) == {1}
    assert len(happened) == 5


async def test_a_handshake_is_retried_by_pyramid_retry(engine):
    attempts = []

    def root(request):
        attempts.append(request)
        if len(attempts) < 3:
            raise request.registry.retryable
        return {}

    from pyramid_retry import RetryableException

    config = make_config(engine)
    config.include("pyramid_retry")
    config.registry.retryable = RetryableException
    consumer = declare(config, factory=root)
    assert (await shake(config.make_asgi_app()))["type"] == "websocket.accept"
    assert len(attempts) == 3
    assert consumer.scopes[0]["pyramid.request"] is attempts[2]


async def test_thread_locals_are_right_inside_and_clean_outside(config):
    inside = []

    def root(request):
        inside.append((get_current_request() is request, threading.current_thread().name))
        return {}

    async def consumer(scope, receive, send):
        inside.append((get_current_request(), len(manager.stack)))

    depth = len(manager.stack)
    config.add_asgi_consumer("/x", "websocket", consumer, factory=root)
    await shake(config.make_asgi_app())
    assert inside == [(True, "asgi-handshake-1"), (None, depth)]


async def test_contextvars_of_the_server_s_task_reach_the_handshake(config):
    seen = []
    variable = ContextVar("variable")

    def root(request):
        seen.append(variable.get())
        return {}

    variable.set("from the task")
    declare(config, factory=root)
    await shake(config.make_asgi_app())
    assert seen == ["from the task"]


async def test_a_forbidden_view_may_be_async(config):
    async def forbidden(request):
        await asyncio.sleep(0)
        return Response(f"not for {request.path}", status=403)

    config.commit()
    config.add_forbidden_view(forbidden)
    sent = await run(config.make_asgi_app(), websocket_scope("/rooms/blue"), CONNECT)
    assert (sent[0]["status"], body_of(sent)) == (403, b"not for /rooms/blue")


# What is no handshake.


async def test_no_header_makes_a_plain_request_a_handshake(config):
    consumer = declare(config)
    config.add_notfound_view(lambda request: Response("nothing", status=404))
    app = config.make_asgi_app()
    headers = [
        (b"connection", b"Upgrade"),
        (b"upgrade", b"websocket"),
        (b"sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZQ=="),
        (b"sec-websocket-version", b"13"),
        (b"x-asgi-exchange", b"1"),
        (b"pyramid_asgi_consumers.exchange", b"1"),
        (b"pyramid-asgi-consumers.exchange", b"1"),
        (b"pyramid-asgi-consumers-exchange", b"1"),
    ]
    for scope in (http_scope("/x", headers=headers), http_scope("/x", "POST", headers)):
        assert body_of(await run(app, scope)) == b"nothing"
    assert consumer.scopes == []


@pytest.mark.parametrize("first", ["page", "consumer"])
async def test_a_page_with_the_same_pattern_keeps_its_get(config, first):
    def page():
        config.add_route("page", "/{room}/x")
        config.add_view(lambda request: Response("the page"), route_name="page")

    if first == "page":
        page()
    consumer = declare(config, path="/{room}/x")
    if first == "consumer":
        page()
    app = config.make_asgi_app()
    assert body_of(await run(app, http_scope("/blue/x"))) == b"the page"
    assert (await shake(app, "/blue/x"))["type"] == "websocket.accept"
    assert consumer.scopes[0]["pyramid.request"].matched_route.name == "websocket:/{room}/x"


async def test_a_subrequest_made_of_a_handshake_is_an_ordinary_request(config):
    answers = []

    def root(request):
        copy = request.copy()
        copy.path_info = "/page"
        answers.append(request.invoke_subrequest(copy).text)
        answers.append(request.invoke_subrequest(Request.blank("/page"), use_tweens=False).text)
        return {}

    config.add_route("page", "/page")
    config.add_view(lambda request: Response("the page"), route_name="page")
    declare(config, factory=root)
    assert (await shake(config.make_asgi_app()))["type"] == "websocket.accept"
    assert answers == ["the page"] * 2


def calls_of_a_page(app):
    """How many functions are called for a page."""
    environ = Request.blank("/page").environ
    app.wsgi_app(dict(environ), lambda *_: None)
    profile = cProfile.Profile()
    profile.runcall(app.wsgi_app, environ, lambda *_: None)
    return pstats.Stats(profile).total_calls


def with_consumers(count):
    config = Configurator()
    config.include("pyramid_asgi_consumers")
    for number in range(count):
        declare(config, path=f"/{number}/x", permission="speak")
    config.add_route("page", "/page")
    config.add_view(lambda request: Response("the page"), route_name="page")
    return config.make_asgi_app()


def test_a_thousand_guarded_consumers_add_no_work_to_a_page():
    calls = calls_of_a_page(with_consumers(1))
    assert 0 < calls == calls_of_a_page(with_consumers(1000))


# What comes in between.


async def waiting(config, **arguments):
    """Declare a consumer whose handshake waits; return it, what says so and what lets it go on."""
    loop = asyncio.get_running_loop()
    reached, go_on = asyncio.Event(), threading.Event()

    def root(request):
        loop.call_soon_threadsafe(reached.set)
        assert go_on.wait(20)
        return {}

    return declare(config, path="/slow", factory=root, **arguments), reached, go_on


async def test_a_handshake_that_is_cancelled_gives_its_place_back(config):
    consumer, reached, go_on = await waiting(config, max_connections=1)
    app = config.make_asgi_app()
    handshake = asyncio.create_task(shake(app, "/slow"))
    await asyncio.wait_for(reached.wait(), 20)
    assert (await shake(app, "/slow"))["status"] == 503
    handshake.cancel()
    await asyncio.wait([handshake])
    go_on.set()
    assert handshake.cancelled()
    assert (await shake(app, "/slow"))["type"] == "websocket.accept"
    assert len(consumer.scopes) == 1


async def test_a_handshake_waits_while_all_threads_are_taken_and_pages_do_not(engine):
    config = make_config(engine, **{"asgi.handshake_threads": 1})
    _, reached, go_on = await waiting(config)
    other = declare(config)
    app = config.make_asgi_app()
    slow = asyncio.create_task(shake(app, "/slow"))
    await asyncio.wait_for(reached.wait(), 20)
    next_one = asyncio.create_task(shake(app))
    assert (await run(app, http_scope("/")))[0]["status"] == 200
    assert other.scopes == []
    go_on.set()
    assert {(await slow)["type"], (await next_one)["type"]} == {"websocket.accept"}


async def test_pages_that_take_all_their_threads_do_not_keep_sockets_out(engine):
    config = make_config(engine, **{"asgi.threads": 1})
    loop = asyncio.get_running_loop()
    reached, go_on = asyncio.Event(), threading.Event()

    def page(request):
        loop.call_soon_threadsafe(reached.set)
        assert go_on.wait(20)
        return Response("at last")

    config.add_route("page", "/page")
    config.add_view(page, route_name="page")
    declare(config)
    app = config.make_asgi_app()
    slow = asyncio.create_task(run(app, http_scope("/page")))
    await asyncio.wait_for(reached.wait(), 20)
    assert (await shake(app))["type"] == "websocket.accept"
    go_on.set()
    assert body_of(await slow) == b"at last"


async def test_a_server_that_stops_waits_for_handshakes_but_not_for_ever(config, caplog):
    consumer, reached, go_on = await waiting(config)
    app = config.make_asgi_app()
    slow = asyncio.create_task(shake(app, "/slow"))
    await asyncio.wait_for(reached.wait(), 20)
    await app.handshakes.drain(0.01)
    assert "still run after 0.01 s" in caplog.text
    go_on.set()
    assert (await slow)["type"] == "websocket.accept"
    caplog.clear()
    await app.handshakes.drain(20)
    assert (caplog.records, len(consumer.scopes)) == ([], 1)


async def test_an_async_view_of_a_handshake_is_cancelled_when_a_server_stops(config):
    began, ended = asyncio.Event(), []

    async def forbidden(request):
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    config.commit()
    config.add_forbidden_view(forbidden)
    app = config.make_asgi_app()
    refused = asyncio.create_task(run(app, websocket_scope("/rooms/blue"), CONNECT))
    await asyncio.wait_for(began.wait(), 20)
    await app.handshakes.drain(0.01)
    assert ended == [True]
    assert (await refused)[0]["status"] == 500


async def test_an_http_client_that_left_during_the_handshake_is_told_to_the_consumer(config):
    seen = []

    async def consumer(scope, receive, send):
        seen.append((await receive())["type"])

    config.add_asgi_consumer("/x", "http", consumer, permission=NO_PERMISSION_REQUIRED)
    await run(config.make_asgi_app(), http_scope("/x"), {"type": "http.disconnect"})
    assert seen == ["http.disconnect"]


async def test_the_chat_of_the_project(engine):
    app = make_config(engine).make_asgi_app()
    cookie = await log_in(app)
    messages = [{"type": "websocket.receive", "text": text} for text in ("a", "b")]
    gone = {"type": "websocket.disconnect", "code": 1000}
    sent = await run(app, websocket_scope("/rooms/blue", [cookie]), CONNECT, *messages, gone)
    assert [message.get("text") for message in sent] == [None, "ann: 1", "ann: 2", None]
    assert engine.pool.checkedout() == 0
