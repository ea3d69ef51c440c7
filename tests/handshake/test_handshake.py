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
from pyramid.request import Request
from pyramid.response import Response
from pyramid.security import NO_PERMISSION_REQUIRED
from pyramid.threadlocal import get_current_request, manager

from tests.support.asgi import CONNECT, body_of, http_scope, run, websocket_scope
from tests.support.handshakes import Consumer, add_page, declare, shake
from tests.support.project import Room, cookies_of, log_in, make_config, opened

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
# Refusals of all kinds.
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

    add_page(config, token, "/token")
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


async def test_an_open_connection_keeps_no_lists_of_callbacks_for_a_request_that_is_over(config):
    consumer = declare(config, path="/{room}/x", permission="speak", factory=Room)
    app = config.make_asgi_app()
    await shake(app, "/blue/x", await log_in(app))
    (request,) = [scope["pyramid.request"] for scope in consumer.scopes]
    assert not {"finished_callbacks", "response_callbacks"} & vars(request).keys()
    # Who adds one is not told off.
    request.add_finished_callback(print)


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


def the_page(request):
    return Response("the page")


@pytest.mark.parametrize("first", ["page", "consumer"])
async def test_a_page_with_the_same_pattern_keeps_its_get(config, first):
    if first == "page":
        add_page(config, the_page, "/{room}/x")
    consumer = declare(config, path="/{room}/x")
    if first == "consumer":
        add_page(config, the_page, "/{room}/x")
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

    add_page(config, the_page)
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
    add_page(config, the_page)
    return config.make_asgi_app()


def test_a_thousand_guarded_consumers_add_no_work_to_a_page():
    calls = calls_of_a_page(with_consumers(1))
    assert 0 < calls == calls_of_a_page(with_consumers(1000))


# What comes in between.
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
