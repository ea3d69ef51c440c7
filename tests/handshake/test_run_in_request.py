"""Work for an open connection, each piece within a Pyramid request of its own."""

import asyncio
import contextvars
import threading
from dataclasses import dataclass

import pytest
from pyramid.config import Configurator
from pyramid.events import NewRequest
from pyramid.httpexceptions import HTTPForbidden, HTTPFound, HTTPServerError, HTTPServiceUnavailable
from pyramid.response import Response
from pyramid.security import NO_PERMISSION_REQUIRED
from pyramid.session import SignedCookieSessionFactory
from pyramid.threadlocal import get_current_request, manager
from pyramid_retry import RetryableException
from sqlalchemy.exc import IntegrityError

from pyramid_asgi_consumers import run_in_request
from tests.support.asgi import CONNECT, body_of, http_scope, run, websocket_scope
from tests.support.handshakes import add_page, add_tween
from tests.support.project import Room, User, log_in, make_config, texts, write


async def during(config, block, path="/blue/x", **arguments):
    """Log in, and await ``block(call)`` in a guarded consumer.

    ``call(func, *args)`` is ``run_in_request`` for it. What the block raises is raised.
    """
    tasks = []

    async def consumer(scope, receive, send):
        await send({"type": "websocket.accept"})

        async def call(func, *args):
            return await run_in_request(scope, func, *args)

        tasks.append(asyncio.create_task(block(call)))
        await asyncio.wait(tasks)

    arguments = {"permission": "speak", "factory": Room, **arguments}
    config.add_asgi_consumer("/{room}/x", "websocket", consumer, **arguments)
    app = config.make_asgi_app()
    headers = [await log_in(app)]
    await run(app, websocket_scope(path, headers, query_string=b"q=1"), CONNECT)
    return tasks[0].result()


# What a call is.


async def test_a_call_is_a_request_with_what_the_handshake_had(config):
    def look(request, *args):
        return (
            args,
            request.authenticated_userid,
            request.matchdict,
            request.context.name,
            request.path_qs,
            request.method,
        )

    seen = await during(config, lambda call: call(look, 1, 2))
    assert seen == ((1, 2), "ann", {"room": "blue"}, "blue", "/blue/x?q=1", "GET")


async def test_each_call_has_a_request_of_its_own(config):
    async def block(call):
        return [await call(lambda request: request) for _ in range(3)]

    happened = []
    config.add_subscriber(happened.append, NewRequest)
    requests = await during(config, block)
    assert len(set(map(id, requests))) == 3
    # The login, the handshake and three calls.
    assert len(happened) == 5


async def test_what_func_returns_comes_back_whatever_it_is(config):
    result = object()

    async def block(call):
        assert await call(lambda request: result) is result
        assert await call(lambda request: None) is None
        assert await call(lambda request: HTTPForbidden) is HTTPForbidden

    await during(config, block)


async def test_a_call_is_a_transaction_that_is_committed(config, engine):
    async def block(call):
        await call(write, "a")
        assert engine.pool.checkedout() == 0
        await call(write, "b")
        return await call(texts)

    assert await during(config, block) == ["a", "b"]


async def test_what_func_raises_comes_back_after_the_abort(config, engine):
    error = ValueError("mine")

    def fail(request):
        write(request, "a")
        raise error

    async def block(call):
        with pytest.raises(ValueError) as raised:
            await call(fail)
        assert raised.value is error
        assert engine.pool.checkedout() == 0
        return await call(texts)

    assert await during(config, block) == []


async def raised_without_transactions(func):
    """Return what a guarded consumer's call of ``func`` raises, in a project that has no more."""
    raised = []

    async def consumer(scope, receive, send):
        (error,) = await asyncio.gather(run_in_request(scope, func), return_exceptions=True)
        raised.append(error)

    config = Configurator()
    config.include("pyramid_asgi_consumers")
    config.add_asgi_consumer("/x", "websocket", consumer, permission=NO_PERMISSION_REQUIRED)
    await run(config.make_asgi_app(), websocket_scope("/x"), CONNECT)
    return raised[0]


async def test_it_comes_back_with_its_cause():
    # pyramid_tm, which the project has, takes the cause away.
    error, cause = ValueError("mine"), KeyError("cause")

    def fail(request):
        raise error from cause

    assert await raised_without_transactions(fail) is error
    assert error.__cause__ is cause


@dataclass(frozen=True)
class Frozen(Exception):
    """An error whose attributes cannot be set."""

    word: str


async def test_an_error_that_cannot_be_changed_comes_back_as_it_is():
    error = Frozen("mine")

    def fail(request):
        raise error

    assert await raised_without_transactions(fail) is error


async def test_it_comes_back_also_where_an_exception_view_answers(config):
    config.add_exception_view(lambda request: Response("sorry"))
    error = ValueError("mine")

    def fail(request):
        write(request, "a")
        raise error

    async def block(call):
        with pytest.raises(ValueError) as raised:
            await call(fail)
        assert raised.value is error
        return await call(texts)

    assert await during(config, block) == []


async def test_it_comes_back_also_where_a_tween_makes_a_page_of_it(config):
    error = ValueError("mine")

    def tween(handler, request):
        try:
            return handler(request)
        except ValueError:
            return Response("caught", status=500)

    def fail(request):
        raise error

    add_tween(config, tween)

    async def block(call):
        with pytest.raises(ValueError) as raised:
            await call(fail)
        return raised.value

    assert await during(config, block) is error


@pytest.mark.parametrize("error", [SystemExit(1), StopIteration(), KeyboardInterrupt()])
async def test_what_an_event_loop_cannot_carry_comes_as_the_cause(config, error):
    def fail(request):
        raise error

    async def block(call):
        with pytest.raises(RuntimeError, match=type(error).__name__) as raised:
            await call(fail)
        return raised.value.__cause__

    assert await during(config, block) is error


@pytest.mark.parametrize("view", [False, True])
async def test_a_commit_that_fails_raises(config, view):
    if view:
        config.add_exception_view(lambda request: Response("sorry", status=409))

    async def block(call):
        with pytest.raises(IntegrityError, match="FOREIGN KEY"):
            await call(write, "a", "nobody")
        return await call(texts)

    assert await during(config, block) == []


async def test_a_call_is_retried_by_pyramid_retry(config):
    config.include("pyramid_retry")
    attempts = []

    def func(request):
        attempts.append(request)
        write(request, f"attempt {len(attempts)}")
        if len(attempts) < 3:
            raise RetryableException
        return "done"

    async def block(call):
        return await call(func), await call(texts)

    assert await during(config, block) == ("done", ["attempt 3"])
    assert len(set(map(id, attempts))) == 3


async def test_the_error_of_the_last_attempt_comes_back(config):
    config.include("pyramid_retry")
    errors = []

    def func(request):
        errors.append(RetryableException(str(len(errors))))
        raise errors[-1]

    async def block(call):
        with pytest.raises(RetryableException) as raised:
            await call(func)
        return raised.value

    assert await during(config, block) is errors[2]


# Who may.


def delete_user(request):
    request.dbsession.delete(request.dbsession.get(User, "ann"))


@pytest.mark.parametrize("redirect", [False, True])
async def test_a_permission_that_was_lost_raises_forbidden(config, redirect):
    if redirect:
        config.commit()
        config.add_forbidden_view(lambda request: HTTPFound("/login"))

    async def block(call):
        await call(delete_user)
        with pytest.raises(HTTPForbidden):
            await call(write, "a")

    await during(config, block)


async def test_a_tween_that_refuses_raises_its_status(config):
    answers = []

    def tween(handler, request):
        return answers.pop() if answers else handler(request)

    add_tween(config, tween)

    async def refused(call, response):
        answers.append(response)
        with pytest.raises(Exception) as raised:
            await call(write, "a")
        return raised.value

    async def block(call):
        busy = await refused(call, Response("too busy", status=503))
        assert (type(busy), busy.detail) == (HTTPServiceUnavailable, "too busy")
        moved = await refused(call, HTTPFound("/elsewhere"))
        assert (type(moved), moved.location) == (HTTPFound, "http://example.com/elsewhere")
        unknown = await refused(call, Response("\u20ac", status=499))
        assert (type(unknown), unknown.detail) == (HTTPServerError, "\u20ac")
        # It was not func that succeeded.
        assert type(await refused(call, Response("cached"))) is HTTPServerError
        return await call(texts)

    assert await during(config, block) == []


async def test_a_tween_that_refuses_after_func_raises_as_well(config):
    refusing = []

    def tween(handler, request):
        response = handler(request)
        return Response("late", status=503) if refusing else response

    add_tween(config, tween)

    async def block(call):
        refusing.append(True)
        with pytest.raises(HTTPServiceUnavailable):
            await call(lambda request: "done")

    await during(config, block)


async def test_a_tween_that_raises_is_raised(config):
    error = ConnectionError("down")
    raising = []

    def tween(handler, request):
        if raising:
            raise error
        return handler(request)

    add_tween(config, tween)

    async def block(call):
        raising.append(True)
        with pytest.raises(ConnectionError) as raised:
            await call(write, "a")
        return raised.value

    assert await during(config, block) is error


# Sessions.


class Clock:
    """The time that cookie sessions go by."""

    def __init__(self, monkeypatch):
        self.now = 1_000_000.0
        monkeypatch.setattr("pyramid.session.time.time", lambda: self.now)


async def test_a_session_stays_alive_through_calls(config, monkeypatch):
    clock = Clock(monkeypatch)
    config.commit()
    config.set_session_factory(SignedCookieSessionFactory("secret", timeout=2, reissue_time=0))

    async def block(call):
        seen = []
        for _ in range(5):
            clock.now += 1.5
            # A session that has expired is a new one, without the user.
            seen.append(await call(lambda request: request.authenticated_userid))
        return seen

    assert await during(config, block) == ["ann"] * 5


async def test_without_calls_it_expires_as_in_a_browser(config, monkeypatch):
    clock = Clock(monkeypatch)
    config.commit()
    config.set_session_factory(SignedCookieSessionFactory("secret", timeout=2, reissue_time=0))

    async def block(call):
        clock.now += 3
        with pytest.raises(HTTPForbidden):
            await call(texts)

    await during(config, block)


async def test_what_func_writes_into_the_session_is_there_in_the_next_call(config):
    def count(request):
        request.session["calls"] = request.session.get("calls", 0) + 1
        return request.session["calls"]

    async def block(call):
        return [await call(count) for _ in range(3)]

    assert await during(config, block) == [1, 2, 3]


async def test_what_the_handshake_writes_into_the_session_is_there_in_calls(config):
    def root(request):
        request.session.setdefault("seen", request.session.get("seen", "") + "x")
        return Room(request)

    async def block(call):
        return await call(lambda request: request.session["seen"])

    assert await during(config, block, factory=root) == "x"


# Threads.


async def test_thread_locals_are_right_inside_and_clean_outside(config):
    def look(request):
        return get_current_request() is request, threading.current_thread().name

    async def block(call):
        depth = len(manager.stack)
        inside = await call(look)
        return inside, get_current_request(), len(manager.stack) - depth

    (right, thread), outside, more = await during(config, block)
    assert (right, outside, more) == (True, None, 0)
    assert thread.startswith("asgi-handshake-")


async def test_calls_run_side_by_side(config):
    meeting = threading.Barrier(3)

    async def block(call):
        await asyncio.gather(*(call(lambda request: meeting.wait(20)) for _ in range(3)))
        return "met"

    assert await during(config, block) == "met"


async def test_concurrent_calls_are_transactions_of_their_own(config):
    async def block(call):
        calls = [call(write, "good")] + [call(write, "bad", "nobody") for _ in range(2)]
        outcomes = await asyncio.gather(*calls, call(write, "good"), return_exceptions=True)
        return [type(outcome) for outcome in outcomes], await call(texts)

    types, written = await during(config, block)
    assert types == [type(None), IntegrityError, IntegrityError, type(None)]
    assert written == ["good", "good"]


async def test_pages_that_wait_for_a_call_do_not_starve_it(engine, held):
    # All pages' threads are held by one page, until the call has been made.
    config = make_config(engine, **{"asgi.threads": 1})

    def page(request):
        held.wait()
        return Response("at last")

    async def block(call):
        app = config.registry.app
        waiting = asyncio.create_task(run(app, http_scope("/page")))
        await held.reached()
        await call(lambda request: held.go_on())
        return body_of(await waiting)

    add_page(config, page)
    make_asgi_app = config.make_asgi_app

    def make_and_keep():
        config.registry.app = make_asgi_app()
        return config.registry.app

    config.make_asgi_app = make_and_keep
    assert await during(config, block) == b"at last"


async def test_cancelling_the_caller_lets_func_commit_and_keeps_its_cookies(config, held):
    loop = asyncio.get_running_loop()
    finished = asyncio.Event()

    def slow(request):
        request.add_finished_callback(lambda _: loop.call_soon_threadsafe(finished.set))
        write(request, "committed")
        request.session["slow"] = "kept"
        held.wait()

    async def block(call):
        task = asyncio.create_task(call(slow))
        await held.reached()
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        held.go_on()
        await asyncio.wait_for(finished.wait(), 20)
        # One thread: what it did before is done.
        return await call(lambda request: (texts(request), request.session["slow"]))

    config.registry.settings["asgi.handshake_threads"] = 1
    assert await during(config, block) == (["committed"], "kept")


# Wrong uses.


async def test_a_plain_consumer_gets_an_error_that_says_what_to_do(config):
    messages = []

    async def consumer(scope, receive, send):
        with pytest.raises(RuntimeError) as raised:
            await run_in_request(scope, texts)
        messages.append(str(raised.value))

    config.add_asgi_consumer("/plain", "websocket", consumer)
    await run(config.make_asgi_app(), websocket_scope("/plain"), CONNECT)
    assert "permission=NO_PERMISSION_REQUIRED" in messages[0]


async def test_an_async_func_is_refused(config):
    async def func(request):
        """Would run outside of the request."""

    async def block(call):
        with pytest.raises(TypeError, match="must not be async"):
            await call(func)

    await during(config, block)


async def test_an_http_consumer_has_it_too(config):
    async def consumer(scope, receive, send):
        count = await run_in_request(scope, lambda request: len(texts(request)))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": str(count).encode()})

    config.add_asgi_consumer("/count", "http", consumer, permission=NO_PERMISSION_REQUIRED)
    assert body_of(await run(config.make_asgi_app(), http_scope("/count"))) == b"0"


# Contextvars.

noted = contextvars.ContextVar("noted", default=None)


async def test_what_func_raises_comes_back_with_the_contextvars_that_it_left(config):
    def fail(request):
        noted.set("by func")
        raise ValueError

    async def block(call):
        await call(lambda request: noted.set("by another"))
        assert noted.get() is None
        with pytest.raises(ValueError):
            await call(fail)
        return noted.get()

    assert await during(config, block) == "by func"


async def test_a_handshake_that_fails_is_logged_with_the_contextvars_that_it_left(config, caplog):
    seen = []

    def note(record):
        seen.append((record.getMessage()[:23], noted.get()))
        return True

    def fail(request):
        noted.set("by the factory")
        raise ValueError

    caplog.handler.addFilter(note)
    config.add_asgi_consumer("/x", "websocket", print, factory=fail)
    sent = await run(config.make_asgi_app(), websocket_scope("/x"), CONNECT)
    caplog.handler.removeFilter(note)
    assert (sent[0]["status"], noted.get()) == (500, None)
    assert seen == [("The handshake of websoc", "by the factory")]


async def test_what_is_neither_a_scope_nor_a_registry_is_said_to_be_so(config):
    with pytest.raises(TypeError, match="takes a consumer's scope, or the registry, not <object"):
        await run_in_request(object(), texts)
