"""Async views, on a server's event loop and without one."""

import asyncio
import contextvars
import inspect
import signal
import threading

import pytest
from pyramid.config import Configurator
from pyramid.httpexceptions import HTTPConflict
from pyramid.request import Request
from pyramid.response import Response
from pyramid.security import Allowed, Denied
from pyramid.threadlocal import get_current_request
from webtest import TestApp

from tests.support.asgi import body_of, http_scope, run, websocket_scope

served_by = contextvars.ContextVar("served_by", default="nobody")


async def function(request):
    await asyncio.sleep(0)
    return {"function": request.matchdict["name"]}


class View:
    def __init__(self, request):
        self.request = request

    async def method(self):
        await asyncio.sleep(0)
        return {"method": self.request.matchdict["name"]}


class Instance:
    async def __call__(self, context, request):
        await asyncio.sleep(0)
        return {"instance": request.matchdict["name"]}


async def bare(request):
    await asyncio.sleep(0)
    request.response.status_int = 201
    request.response.text = "bare"
    return request.response


async def raising(request):
    await asyncio.sleep(0)
    raise HTTPConflict("raised")


async def failing(request):
    await asyncio.sleep(0)
    raise KeyError(request.matchdict["name"])


async def on_key_error(error, request):
    await asyncio.sleep(0)
    return Response(f"no {error.args[0]}", status=410)


async def not_found(request):
    await asyncio.sleep(0)
    return Response("nowhere", status=404)


async def around(request):
    return {
        "request": get_current_request() is None,
        "thread": threading.current_thread().name,
        "served_by": served_by.get(),
    }


class Policy:
    def identity(self, request):
        return request.headers.get("X-User")

    authenticated_userid = identity

    def permits(self, request, context, permission):
        return Allowed("") if self.identity(request) else Denied("")


VIEWS = {
    "function": {"view": function, "renderer": "json"},
    "method": {"view": View, "attr": "method", "renderer": "json"},
    "instance": {"view": Instance(), "renderer": "json"},
    "bare": {"view": bare},
    "raising": {"view": raising},
    "failing": {"view": failing},
    "around": {"view": around, "renderer": "json"},
    "secret": {"view": function, "renderer": "json", "permission": "see"},
    "posted": {"view": function, "renderer": "json", "request_method": "POST"},
}


def tween_factory(handler, registry):
    def tween(request):
        response = handler(request)
        response.headers["X-Tween"] = "passed"
        return response

    return tween


@pytest.fixture
def config():
    config = Configurator()
    config.include("pyramid_asgi_consumers")
    config.set_security_policy(Policy())
    config.add_tween(f"{__name__}.tween_factory")
    for name, arguments in VIEWS.items():
        config.add_route(name, f"/{name}/{{name}}")
        config.add_view(route_name=name, **arguments)
    config.add_exception_view(on_key_error, context=KeyError)
    config.add_notfound_view(not_found)
    return config


class Answer:
    def __init__(self, status, headers, text):
        self.status, self.headers, self.text = status, headers, text


async def over_asgi(app, path, method="GET", headers=()):
    headers = [(name.lower().encode(), value.encode()) for name, value in headers]
    sent = await run(app, http_scope(path, method, headers=headers))
    received = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return Answer(sent[0]["status"], received, body_of(sent).decode())


async def over_wsgi(app, path, method="GET", headers=()):
    def call():
        answer = TestApp(app.wsgi_app).request(
            path, method=method, headers=dict(headers), expect_errors=True
        )
        lowered = {name.lower(): value for name, value in answer.headers.items()}
        return Answer(answer.status_int, lowered, answer.text)

    return await asyncio.to_thread(call)


@pytest.fixture(params=[over_asgi, over_wsgi])
def get(request):
    return request.param


@pytest.mark.parametrize("name", ["function", "method", "instance"])
async def test_whatever_pyramid_can_call_may_be_async(config, get, name):
    answer = await get(config.make_asgi_app(), f"/{name}/x")
    assert (answer.status, answer.text) == (200, f'{{"{name}": "x"}}')
    assert answer.headers["x-tween"] == "passed"


async def test_a_response_may_be_returned_or_raised(config, get):
    app = config.make_asgi_app()
    answer = await get(app, "/bare/x")
    assert (answer.status, answer.text) == (201, "bare")
    assert (await get(app, "/raising/x")).status == 409


async def test_exception_and_notfound_views_may_be_async(config, get):
    app = config.make_asgi_app()
    answer = await get(app, "/failing/x")
    assert (answer.status, answer.text) == (410, "no x")
    answer = await get(app, "/nothing")
    assert (answer.status, answer.text) == (404, "nowhere")


async def test_permissions_and_predicates_hold(config, get):
    app = config.make_asgi_app()
    assert (await get(app, "/secret/x")).status == 403
    assert (await get(app, "/secret/x", headers=[("X-User", "me")])).status == 200
    assert (await get(app, "/posted/x")).status == 404
    assert (await get(app, "/posted/x", "POST")).status == 200


async def test_it_runs_on_the_server_s_loop_with_contextvars_and_without_thread_locals(config):
    served_by.set("the test")
    answer = await over_asgi(config.make_asgi_app(), "/around/x")
    thread = threading.current_thread().name
    expected = f'{{"request": true, "thread": "{thread}", "served_by": "the test"}}'
    assert answer.text == expected


async def test_without_a_server_it_runs_in_its_thread_without_thread_locals(config):
    assert '"request": true' in (await over_wsgi(config.make_asgi_app(), "/around/x")).text


async def test_views_wait_side_by_side(config):
    waiting = asyncio.Semaphore(0)
    go_on = asyncio.Event()

    async def view(request):
        waiting.release()
        await go_on.wait()
        return Response("done")

    config.add_route("wait", "/wait")
    config.add_view(view, route_name="wait")
    app = config.make_asgi_app()
    tasks = [asyncio.create_task(over_asgi(app, "/wait")) for _ in range(30)]
    for _ in range(30):
        await asyncio.wait_for(waiting.acquire(), 20)
    go_on.set()
    assert [answer.text for answer in await asyncio.gather(*tasks)] == ["done"] * 30


async def test_what_a_view_leaves_behind_ends_with_its_own_loop(config):
    ended = []

    async def background():
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    async def view(request):
        view.task = asyncio.create_task(background())
        await asyncio.sleep(0)
        return Response("done")

    config.add_route("leave", "/leave")
    config.add_view(view, route_name="leave")
    assert (await over_wsgi(config.make_asgi_app(), "/leave")).text == "done"
    assert ended == [True]


class Client:
    """A client that sends one request and leaves when it is told to."""

    def __init__(self):
        self.leaves = asyncio.Event()
        self.sent = []
        self._begun = False

    async def receive(self):
        if not self._begun:
            self._begun = True
            return {"type": "http.request"}
        await self.leaves.wait()
        return {"type": "http.disconnect"}

    async def send(self, message):
        self.sent.append(message)


@pytest.mark.parametrize("clean_up", [None, "return", "raise"])
async def test_a_client_that_leaves_cancels_the_view_and_aborts_the_transaction(config, clean_up):
    begun = asyncio.Event()
    ended = threading.Event()
    happened = []

    async def view(request):
        request.tm.get().addAfterCommitHook(happened.append)
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            happened.append("cancelled")
            if clean_up == "return":
                return Response("late")
            if clean_up == "raise":
                raise ValueError("cleaning up failed") from None
            raise

    def observing_factory(handler, registry):
        def tween(request):
            try:
                response = handler(request)
                happened.append(response.text)
                return response
            except Exception as error:
                happened.append(type(error).__name__)
                raise
            finally:
                ended.set()

        return tween

    config.add_settings({"tm.manager_hook": "pyramid_tm.explicit_manager"})
    config.include("pyramid_tm")
    config.registry.observing_factory = observing_factory
    config.add_tween(f"{__name__}.registered_factory", over="pyramid_tm.tm_tween_factory")
    config.add_route("wait", "/wait")
    config.add_view(view, route_name="wait")
    app = config.make_asgi_app()
    client = Client()
    task = asyncio.create_task(app(http_scope("/wait"), client.receive, client.send))
    await asyncio.wait_for(begun.wait(), 20)
    client.leaves.set()
    await asyncio.wait_for(task, 20)
    assert await asyncio.to_thread(ended.wait, 20)
    if clean_up == "return":
        assert happened == ["cancelled", True, "late"]
    else:
        error = "ClientDisconnected" if clean_up is None else "ValueError"
        assert happened == ["cancelled", error]


def registered_factory(handler, registry):
    return registry.observing_factory(handler, registry)


async def test_in_a_thread_local_transaction_it_is_refused(config, get, caplog):
    config.include("pyramid_tm")
    app = config.make_asgi_app()
    words = "tm.manager_hook = pyramid_tm.explicit_manager"
    if get is over_wsgi:
        with pytest.raises(RuntimeError, match=words):
            await get(app, "/function/x")
    else:
        assert (await get(app, "/function/x")).status == 500
        assert words in caplog.text


async def test_a_subrequest_to_another_async_view_is_refused(config, get, caplog):
    async def view(request):
        return request.invoke_subrequest(Request.blank("/function/x"))

    config.add_route("subrequest", "/subrequest")
    config.add_view(view, route_name="subrequest")
    app = config.make_asgi_app()
    words = "called on the thread of a running event loop"
    if get is over_wsgi:
        with pytest.raises(RuntimeError, match=words):
            await get(app, "/subrequest")
    else:
        assert (await get(app, "/subrequest")).status == 500
        assert words in caplog.text


async def test_a_future_that_is_refused_is_left_to_its_owner(config):
    futures = []

    def view(request):
        futures.append(asyncio.get_running_loop().create_future())
        return futures[0]

    config.add_route("future", "/future")
    config.add_view(view, route_name="future")
    app = config.make_asgi_app()
    with pytest.raises(RuntimeError, match="running event loop"):
        TestApp(app.wsgi_app).get("/future")
    assert not futures[0].done()


async def test_a_loop_that_has_closed_is_an_error():
    from pyramid_asgi_consumers.async_views import run_on_loop

    loop = asyncio.new_event_loop()
    loop.close()
    coroutine = function(None)
    with pytest.raises(RuntimeError, match="closed"):
        await asyncio.to_thread(run_on_loop, coroutine, loop, None, set())
    assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED


async def test_other_views_are_as_they_were(config, get):
    config.add_route("plain", "/plain")
    config.add_view(lambda request: {"plain": True}, route_name="plain", renderer="json")
    assert (await get(config.make_asgi_app(), "/plain")).text == '{"plain": true}'


async def test_an_async_forbidden_view_refuses_a_handshake(config):
    async def forbidden(request):
        await asyncio.sleep(0)
        return Response("async", status=403)

    async def consumer(scope, receive, send):
        await send({"type": "websocket.accept"})

    config.add_forbidden_view(forbidden)
    config.add_asgi_consumer("/ws", "websocket", consumer, permission="see")
    app = config.make_asgi_app()
    connect = {"type": "websocket.connect"}
    sent = await run(app, websocket_scope(), connect)
    assert (sent[0]["status"], body_of(sent)) == (403, b"async")
    sent = await run(app, websocket_scope(headers=[(b"x-user", b"me")]), connect)
    assert sent[0]["type"] == "websocket.accept"


async def test_only_a_disconnect_means_that_the_client_has_left(config):
    async def view(request):
        await asyncio.sleep(0.01)
        return Response("done")

    config.add_route("wait", "/wait")
    config.add_view(view, route_name="wait")
    request = {"type": "http.request"}
    sent = await run(config.make_asgi_app(), http_scope("/wait"), request, request)
    assert body_of(sent) == b"done"


# What an event loop would obey, or take for a cancellation.


async def awaits_what_is_cancelled():
    task = asyncio.ensure_future(asyncio.Event().wait())
    asyncio.get_running_loop().call_soon(task.cancel)
    await task


def raising_view(error):
    async def view(request):
        await asyncio.sleep(0)
        if error is None:
            await awaits_what_is_cancelled()
        raise error

    return view


EXITS = [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), None]


@pytest.mark.parametrize("error", EXITS, ids=repr)
async def test_what_a_view_raises_does_not_end_the_server(config, error, caplog):
    config.add_route("raise", "/raise")
    config.add_view(raising_view(error), route_name="raise")
    # A server has a handler of its own, under which a KeyboardInterrupt is not the user's.
    before = signal.signal(signal.SIGINT, lambda *args: None)
    try:
        assert (await over_asgi(config.make_asgi_app(), "/raise")).status == 500
    finally:
        signal.signal(signal.SIGINT, before)
    assert caplog.messages == ["GET '/raise' failed"]


@pytest.mark.parametrize("error", EXITS[:3], ids=repr)
async def test_tweens_see_what_a_view_raises(config, error):
    config.add_route("raise", "/raise")
    config.add_view(raising_view(error), route_name="raise")
    seen = []

    def middleware(environ, start_response):
        try:
            return wsgi_app(environ, start_response)
        except BaseException as raised:
            seen.append(raised)
            raise

    wsgi_app = config.make_wsgi_app()
    before = signal.signal(signal.SIGINT, lambda *args: None)
    try:
        await over_asgi(config.make_asgi_app(middleware), "/raise")
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen == [error]


async def test_a_cancelled_error_of_a_view_is_an_exception(config, get):
    config.add_route("cancelled", "/cancelled")
    config.add_view(raising_view(None), route_name="cancelled")

    def on_error(error, request):
        return Response(f"{error} {type(error.__cause__).__name__}", status=500)

    config.add_exception_view(on_error, context=RuntimeError)
    answer = await get(config.make_asgi_app(), "/cancelled")
    assert answer.text == "The application raised CancelledError CancelledError"


@pytest.mark.parametrize("error", [SystemExit(3), None], ids=repr)
async def test_what_an_async_forbidden_view_raises_refuses_a_handshake(config, error, caplog):
    view = raising_view(error)
    config.add_forbidden_view(lambda forbidden, request: view(request))
    config.add_websocket("/ws", function, permission="see")
    sent = await run(config.make_asgi_app(), websocket_scope(), {"type": "websocket.connect"})
    assert sent[0]["status"] == 500
    (message,) = caplog.messages
    assert message.startswith("The handshake of websocket consumer /ws ")
