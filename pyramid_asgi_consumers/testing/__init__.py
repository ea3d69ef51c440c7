"""WebTest over an ASGI application, websockets included.

:class:`TestApp` is the test's side; :class:`_Server` is the server between it and the application,
an event loop in a thread of its own for as long as something is open; :class:`_Call` is one call of
the application.
"""

import _socket
import asyncio
import contextvars
import copy
import io
import json
import math
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any
from urllib.parse import quote

from pyramid.httpexceptions import HTTPException
from webob.headers import ResponseHeaders
from webob.util import status_generic_reasons, status_reasons

from pyramid_asgi_consumers.application import ASGIApplication
from pyramid_asgi_consumers.connection import Limit
from pyramid_asgi_consumers.exceptions import (
    ClientDisconnected,
    WebSocketDenied,
    WebSocketDisconnect,
)
from pyramid_asgi_consumers.handshake.exchange import EXCHANGE, served_by
from pyramid_asgi_consumers.handshake.lanes import Lane
from pyramid_asgi_consumers.lifespan import ENTERS_NONE, Lifespan, running
from pyramid_asgi_consumers.raised import caught, original
from pyramid_asgi_consumers.testing.server import serving
from pyramid_asgi_consumers.wsgi.environ import DEFAULT_PORTS
from pyramid_asgi_consumers.wsgi.threads import ThreadPool

try:
    import webtest
    from webtest import lint, utils
except ImportError as error:
    raise ImportError(
        "pyramid_asgi_consumers.testing needs WebTest: pip install webtest"
    ) from error

__all__ = ["TestApp", "TestWebSocket", "WebSocketDenied", "WebSocketDisconnect", "serving"]

#: Seconds to wait for a consumer to answer a handshake, or to end when its client has left.
TIMEOUT = 5.0

# Sending to a websocket's client that has left fails when the consumer has received that, or so
# many seconds later: it is to finish with what the test sent before it left, without a race.
GRACE = 0.5

# A request's body is sent in messages of at most so many bytes.
BLOCK = 64 * 1024


class TestApp(webtest.TestApp):
    """WebTest's ``TestApp`` over an :class:`.ASGIApplication`.

    ``app`` is what ``config.make_asgi_app()`` returned, or the ``config:`` URI of such an
    application; the other arguments are WebTest's. Every request is an ASGI call, which the
    application answers as it would on a server, but that views run in the thread of the test, with
    the keys of ``extra_environ`` in their environ. What a view or an http consumer raises is raised
    in the test. Headers are named as the view wrote them, and the status has its reason; what a
    view puts into its environ is in ``response.request.environ``. ``lint`` checks the WSGI
    application behind the bridge, too.

    As a context manager it runs the application's lifespan, and keeps one event loop until the end;
    otherwise there is one from each outermost call, or open websocket, to its end.

    Raises TypeError for any other application.
    """

    def __init__(self, app: ASGIApplication | str, *args: Any, **kwargs: Any) -> None:
        super().__init__(app, *args, **kwargs)
        if not isinstance(self.app, ASGIApplication):
            raise TypeError(
                "TestApp needs an ASGIApplication, as config.make_asgi_app() returns it, not"
                f" {self.app!r}; webtest.TestApp is for WSGI applications"
            )
        self._lock = threading.Lock()
        self._server: _Server | None = None

    def __enter__(self) -> "TestApp":
        with ExitStack() as stack:
            server = stack.enter_context(self._serving())
            lifespan = running(server.app)
            environ = self._make_environ()
            server.run(lifespan.__aenter__(), environ)
            stack.callback(lambda: server.run(lifespan.__aexit__(None, None, None), environ))
            self._open = stack.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._open.close()

    def do_request(self, req: Any, status: Any = None, expect_errors: Any = None) -> Any:
        """Send the request ``req``; see ``webtest.TestApp.do_request``."""
        # There it calls its application as a WSGI application.
        over_wsgi = copy.copy(self)
        over_wsgi.app = self._answer
        response = super(TestApp, over_wsgi).do_request(req, status, expect_errors)
        response.test_app = self
        return response

    def _answer(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        length = _number(environ.get("CONTENT_LENGTH"))
        body = environ["wsgi.input"].read(*([] if length is None else [length]))
        # The test may read it, too, in response.request.
        environ["wsgi.input"] = io.BytesIO(body)
        with self._serving() as server:
            call = _Call(server, _scope(environ, "http"), environ, _requests(body))
            try:
                call.start(call.serve())
                server.wait(lambda: call.done)
            finally:
                call.cancel()
                call.hand_back()
        if call.error is not None:
            raise call.error
        start, *bodies = call.sent
        start_response(call.status_line(start["status"]), call.decoded(start))
        return [b"".join(message.get("body", b"") for message in bodies)]

    @contextmanager
    def websocket(
        self,
        url: str,
        headers: Mapping[str, str] | None = None,
        subprotocols: Sequence[str] = (),
        origin: str | None = None,
        extra_environ: Mapping[str, Any] | None = None,
    ) -> Iterator["TestWebSocket"]:
        """Open a websocket: ``with testapp.websocket("/chat/a") as websocket:``.

        ``url`` is a path or a whole URL (ws, wss, http or https); ``headers`` are sent with the
        handshake; ``subprotocols`` are those that the client offers; ``origin`` is the page's that
        opens it, None for a client that is no browser; ``extra_environ`` is what the environ of a
        guarded consumer's Pyramid requests has besides the ``TestApp``'s own. Cookies are shared
        with the requests of this ``TestApp``, both ways.

        Views of the websocket (its handshake, ``run_in_request``) run in the thread of the test
        while it waits, for this or anything else of the ``TestApp``. Use the websocket in the
        thread that has opened it.

        The end of the block closes the websocket and waits for the consumer to end. Where the block
        raises, the consumer is cancelled.

        Raises :class:`.WebSocketDenied` where it is refused, TimeoutError where the consumer does
        not answer within 5 seconds, or does not end within 5 seconds and ``asgi.leave_timeout``
        when the websocket is closed.
        """
        if url.startswith(("ws:", "wss:")):
            url = "http" + url[2:]
        environ = self._make_environ(extra_environ)
        request = self.RequestClass.blank(self._remove_fragment(url), environ)
        request.http_version = "HTTP/1.1"
        request.headers.update(
            {
                "Connection": "Upgrade",
                "Upgrade": "websocket",
                "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
                "Sec-WebSocket-Version": "13",
            }
        )
        if subprotocols:
            request.headers["Sec-WebSocket-Protocol"] = ", ".join(subprotocols)
        if origin is not None:
            request.headers["Origin"] = origin
        request.headers.update(headers or {})
        self.cookiejar.add_cookie_header(utils._RequestCookieAdapter(request))
        with self._serving() as server:
            scope = _scope(request.environ, "websocket")
            scope["subprotocols"] = list(subprotocols)
            call = _Call(server, scope, request.environ, [{"type": "websocket.connect"}])
            websocket = TestWebSocket(self, call)
            try:
                call.start(call.serve())
                websocket._open(request)
                yield websocket
                websocket.close()
            finally:
                call.cancel()

    @contextmanager
    def _serving(self) -> Iterator["_Server"]:
        with self._lock:
            if self._server is None:
                self._server = _Server(self.app, self.lint)
            server = self._server
            server.users += 1
        try:
            yield server
        finally:
            with self._lock:
                server.users -= 1
                is_last = not server.users
                if is_last:
                    self._server = None
            if is_last:
                server.close()


class TestWebSocket:
    """The client's end of a websocket, which :meth:`TestApp.websocket` has opened.

    A test sees what a client sees. A consumer that raises is logged and closes with the code 1011:
    that is what its clients live with and what can be asserted. So it is not raised in the test,
    but it is the ``__cause__`` of the :class:`.WebSocketDisconnect`, or of the
    :class:`.WebSocketDenied`, that is.
    """

    # Not for pytest to collect.
    __test__ = False

    def __init__(self, testapp: TestApp, call: "_Call") -> None:
        self.testapp = testapp
        self._call = call
        #: The one of the offered subprotocols that the consumer chose, or None.
        self.accepted_subprotocol: str | None = None
        #: Those that came with the accept.
        self.headers = ResponseHeaders()
        #: None until the test has closed it or has received the consumer's close.
        self.close_code: int | None = None
        self.close_reason = ""

    def send(self, data: str | bytes) -> None:
        """Send a text or a binary message; RuntimeError once the websocket is closed."""
        if not isinstance(data, str | bytes):
            raise TypeError(f"A message must be str or bytes, not {data!r}")
        if self.close_code is not None:
            raise RuntimeError(f"The websocket is closed with the code {self.close_code}")
        kind = "text" if isinstance(data, str) else "bytes"
        self._call.deliver({"type": "websocket.receive", kind: data})

    def send_text(self, text: str) -> None:
        """Send a text message."""
        if not isinstance(text, str):
            raise TypeError(f"A text message must be str, not {text!r}")
        self.send(text)

    def send_bytes(self, data: bytes) -> None:
        """Send a binary message."""
        if not isinstance(data, bytes):
            raise TypeError(f"A binary message must be bytes, not {data!r}")
        self.send(data)

    def send_json(self, data: Any) -> None:
        """Send ``data`` as JSON, in a text message."""
        self.send(json.dumps(data, cls=self.testapp.JSONEncoder))

    def receive(self, timeout: float = TIMEOUT) -> str | bytes:
        """Return the next message, waiting at most ``timeout`` seconds.

        Raises :class:`.WebSocketDisconnect` where the consumer has closed instead, TimeoutError
        where nothing comes. The time that views take in this thread does not count.
        """
        message = self._next(timeout, "a message")
        if message["type"] == "websocket.close":
            self.close_code, self.close_reason = self._call.closed
            raise WebSocketDisconnect(*self._call.closed) from self._call.error
        text = message.get("text")
        return message["bytes"] if text is None else text

    def receive_text(self, timeout: float = TIMEOUT) -> str:
        """:meth:`receive` a text message; ValueError for a binary one."""
        return _of_kind(str, self.receive(timeout))

    def receive_bytes(self, timeout: float = TIMEOUT) -> bytes:
        """:meth:`receive` a binary message; ValueError for a text."""
        return _of_kind(bytes, self.receive(timeout))

    def receive_json(self, timeout: float = TIMEOUT) -> Any:
        """:meth:`receive` a message and parse it as JSON; ValueError where it is none."""
        return json.loads(self.receive(timeout))

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Close the websocket, unless it is closed, and wait for the consumer to end.

        ``code`` and ``reason`` are what the consumer is told. Messages that were sent before are
        still the consumer's to receive, and what it sends can still be received. Raises
        TimeoutError where it does not end within 5 seconds and ``asgi.leave_timeout``.
        """
        call = self._call
        call.leave(code, reason)
        # A function that goes on is cancelled, as on a server.
        timeout = TIMEOUT + call.server.app.leave_timeout
        if not call.server.wait(lambda: call.done, timeout):
            raise TimeoutError(
                f"The consumer of {call.scope['path']} did not end within {timeout:g} s after the"
                f" websocket was closed; it is at {call.task!r}"
            )
        self.close_code, self.close_reason = call.closed

    def _open(self, request: Any) -> None:
        message = self._next(TIMEOUT, "the answer to the handshake")
        accepted = message["type"] == "websocket.accept"
        call = self._call
        status = 101 if accepted else message.get("status", 403)
        response = request.ResponseClass(
            status=call.status_line(status), headerlist=call.decoded(message)
        )
        if message["type"] == "websocket.http.response.start":
            more = True
            while more:
                message = self._next(TIMEOUT, "the rest of a denial")
                response.body += message.get("body", b"")
                more = message.get("more_body", False)
        self.testapp.cookiejar.extract_cookies(
            utils._ResponseCookieAdapter(response), utils._RequestCookieAdapter(request)
        )
        if not accepted:
            response.request = request
            response.test_app = self.testapp
            raise WebSocketDenied(response) from call.error
        self.headers = response.headers
        self.accepted_subprotocol = message.get("subprotocol")

    def _next(self, timeout: float, waited_for: str) -> dict[str, Any]:
        call = self._call
        if not call.server.wait(lambda: call.sent or call.done, timeout):
            raise TimeoutError(
                f"Waited {timeout} s for {waited_for} from {call.scope['path']}: nothing came"
            )
        return call.sent.popleft() if call.sent else {"type": "websocket.close"}


def _of_kind(kind: type, data: Any) -> Any:
    if not isinstance(data, kind):
        raise ValueError(f"Expected a message of {kind.__name__}, not {data!r}")
    return data


class _Server:
    """Serves ``app``, in an event loop's own thread, to any number of threads.

    What is to run in a worker thread runs in the one that has made the call, while that waits.
    """

    def __init__(self, app: ASGIApplication, with_lint: bool) -> None:
        wsgi_app = lint.middleware(app.wsgi_app) if with_lint else app.wsgi_app
        #: A copy: other threads, other ``TestApp``\\ s and servers may use the application too.
        self.app = copy.copy(app)
        self.app.bridge = copy.copy(app.bridge)
        self.app.bridge.wsgi_application = _watched(wsgi_app)
        self.app.handshakes = copy.copy(app.handshakes)
        self.app.handshakes.wsgi_app = _watched(wsgi_app)
        self.app.bridge.pool = self.app.handshakes.pool = pool = _CallingThreads(1)
        self.app.handshakes.handshakes = self.app.handshakes.calls = _CallingLane(pool, 1, "tests")
        self.app.mapper = _WatchedConsumers(app.mapper)
        self.app.limit = Limit(app.limit.most)
        self.app._endpoints = {}
        self.app.lifespan = Lifespan(app.registry, app.lifespan.factories, self.app.bridge.drain)
        self.users = 0
        self.ended = False
        #: What the event loop has obeyed: a task of the application has raised it.
        self.interrupt: BaseException | None = None
        #: Tasks that went on when they were cancelled at the end.
        self.stubborn: set[asyncio.Task[Any]] = set()
        self.news = threading.Condition()
        self._jobs: dict[int, deque[Callable[[], object]]] = {}
        self.loop = _new_event_loop()
        self._thread = threading.Thread(target=self._work, name="testapp", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        try:
            while not self._serve():
                pass
            self.loop.run_until_complete(self._end())
        finally:
            self.loop.close()
            self.tell(self._has_ended)

    def _serve(self) -> bool:
        try:
            self.loop.run_forever()
        except BaseException as error:
            self.tell(self._is_interrupted, error)
            return False
        return True

    def _is_interrupted(self, error: BaseException) -> None:
        self.interrupt = error

    def _has_ended(self) -> None:
        self.ended = True

    async def _end(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        if tasks:
            _, self.stubborn = await asyncio.wait(tasks, timeout=TIMEOUT)
        await self.loop.shutdown_asyncgens()
        await self.loop.shutdown_default_executor()

    def jobs(self) -> deque[Callable[[], object]]:
        """Those for the calling thread."""
        return self._jobs.setdefault(threading.get_ident(), deque())

    def tell(self, change: Callable[..., object], *args: object) -> None:
        """Make a change that threads may wait for."""
        with self.news:
            change(*args)
            self.news.notify_all()

    def wait(self, until: Callable[[], object], timeout: float | None = None) -> bool:
        """Do the calling thread's jobs until ``until()`` is true; return whether it is.

        Waits at most ``timeout`` seconds, without what the jobs take. Raises what would end a
        server: a ``SystemExit`` or ``KeyboardInterrupt`` of a task that the application has started
        itself.
        """
        jobs = self.jobs()
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            with self.news:
                left = None if deadline is None else deadline - time.monotonic()
                self.news.wait_for(lambda: until() or jobs or self.interrupt is not None, left)
                if self.interrupt is not None:
                    interrupt, self.interrupt = self.interrupt, None
                    raise interrupt
                if until():
                    return True
                if not jobs:
                    return False
                job = jobs.popleft()
            began = time.monotonic()
            job()
            if deadline is not None:
                deadline += time.monotonic() - began

    def run(self, coroutine: Coroutine[Any, Any, Any], environ: dict[str, Any]) -> Any:
        """Run ``coroutine`` on the loop; return what it returns, raise what it raises."""
        call = _Call(self, {}, environ)
        call.start(coroutine)
        self.wait(lambda: call.done)
        return call.task.result()

    def close(self) -> None:
        """End what still runs, then the loop and its thread.

        Raises TimeoutError where that takes more than 10 seconds.
        """
        self.loop.call_soon_threadsafe(self.loop.stop)
        if self.wait(lambda: self.ended, 2 * TIMEOUT):
            self._thread.join()
            left = self.stubborn
        else:
            left = asyncio.all_tasks(self.loop)
        if left:
            raise TimeoutError(f"These tasks of the application do not end: {left}")


class _Call:
    """One call of the application: what the server does for it.

    ``environ`` is that of the test's request, from which ``scope`` was made; ``messages`` are what
    the application receives at first. :meth:`serve`, :meth:`receive` and :meth:`send` are for the
    event loop's thread; all else is for the test's, which made it.
    """

    def __init__(
        self,
        server: _Server,
        scope: dict[str, Any],
        environ: dict[str, Any],
        messages: Iterable[dict[str, Any]] = (),
    ) -> None:
        self.server = server
        self.scope = scope
        self.environ = environ
        self.jobs = server.jobs()
        #: What the application has sent.
        self.sent: deque[dict[str, Any]] = deque()
        #: What its view, or its consumer once that runs, has raised.
        self.error: BaseException | None = None
        self.in_consumer = False
        self.done = False
        #: Code and reason of a websocket's close.
        self.closed = (1006, "")
        self._received = deque(messages)
        self._arrived = asyncio.Event()
        # What there is to receive once the client has left.
        self._farewell: dict[str, Any] | None = None
        # The loop's time from which sending fails.
        self._gone_at = math.inf
        self._expected = _EXPECTED.get(scope.get("type"), {})
        # The environ of a page, before the application had it and now.
        self._page: tuple[dict[str, Any], dict[str, Any]] = {}, {}
        # What the WSGI application wrote last, and a message of ASGI has no place for.
        self._status = ""
        self._names: dict[str, str] = {}

    @property
    def named(self) -> str:
        """Whose call it is, for error messages."""
        return f"{self.scope['type']} {self.scope['path']}"

    def start(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        """Run ``coroutine``, in the context of the test's thread."""

        def create() -> None:
            _call.set(self)
            served_by.set(self.server.app.handshakes)
            self.task = self.server.loop.create_task(coroutine)
            self.task.add_done_callback(lambda task: self.server.tell(self._end))

        self.server.loop.call_soon_threadsafe(create)

    def _end(self) -> None:
        self.done = True

    def cancel(self) -> None:
        """Cancel it, unless it has ended, and wait until it has."""
        if not self.done:
            self.server.loop.call_soon_threadsafe(lambda: self.task.cancel())
            self.server.wait(lambda: self.done, TIMEOUT)

    def deliver(self, message: dict[str, Any]) -> None:
        """Let the application receive ``message``."""
        self.server.loop.call_soon_threadsafe(self._deliver, message)

    def _deliver(self, message: dict[str, Any]) -> None:
        self._received.append(message)
        self._arrived.set()

    def leave(self, code: int, reason: str) -> None:
        """Let the application see that the websocket's client has left, unless it has closed."""
        self.server.loop.call_soon_threadsafe(self._leave, code, reason)

    def _leave(self, code: int, reason: str) -> None:
        if self._farewell is None:
            self.closed = (code, reason)
            self._farewell = {"type": "websocket.disconnect", "code": code, "reason": reason}
            self._gone_at = self.server.loop.time() + GRACE
            self._arrived.set()

    def environ_of(self, served: dict[str, Any]) -> dict[str, Any]:
        """The environ of a Pyramid request: ``served``, by the server, and what the test's says."""
        environ = dict(served)
        if "REMOTE_PORT" not in self.environ:
            environ.pop("REMOTE_PORT", None)
        for key, value in self.environ.items():
            if key in _SERVERS or (key.startswith("wsgi.") and key in served):
                continue
            # The server may have changed a header, or left it out.
            if _header_name(key) is None or not value or served.get(key) == _sendable(value):
                environ[key] = value
        if "wsgi.errors" in self.environ:
            environ["wsgi.errors"] = self.environ["wsgi.errors"]
        if EXCHANGE not in environ:
            self._page = dict(environ), environ
        return environ

    def hand_back(self) -> None:
        """Put into the test's environ what the application has made of a page's, as WSGI does."""
        before, after = self._page
        for key in before.keys() - after.keys():
            self.environ.pop(key, None)
        for key, value in after.items():
            if key not in _STREAMS and value is not before.get(key, _NOTHING):
                self.environ[key] = value

    def noting(self, start_response: Callable[..., Any]) -> Callable[..., Any]:
        """``start_response`` for the WSGI application."""

        def start(status: Any, headers: Any, *exc_info: Any) -> Any:
            # WebTest takes bytes.
            status = status.decode("latin-1") if isinstance(status, bytes) else status
            write = start_response(status, headers, *exc_info)
            self._status = status
            self._names = {name.lower(): name for name, _ in headers}
            return write

        return start

    def status_line(self, status: int) -> str:
        """The status with the reason of the view, where it is the view's."""
        if self._status.startswith(str(status)):
            return self._status
        reason = status_reasons.get(status) or status_generic_reasons.get(status // 100, "Unknown")
        return f"{status} {reason}"

    def decoded(self, message: dict[str, Any]) -> list[tuple[str, str]]:
        """The headers of ``message``, with names as a WSGI application writes them."""
        headers = []
        for name, value in message.get("headers") or ():
            name = name.decode("latin-1")
            headers.append((self._names.get(name) or name.title(), value.decode("latin-1")))
        return headers

    async def serve(self) -> None:
        try:
            await self.server.app(self.scope, self.receive, self.send)
            self.check_end()
        except BaseException as error:
            self.error = self.error or original(caught(error, self.task))

    def check_end(self) -> None:
        """Raise RuntimeError where a response has no end."""
        if self.scope["type"] == "http" and self._expected:
            raise RuntimeError(
                f"{self.named}: the application returned before the end of its response; a consumer"
                ' sends "http.response.start", and "http.response.body" until one has no more_body'
            )

    async def receive(self) -> dict[str, Any]:
        while not self._received:
            if self._farewell is not None:
                self._gone_at = 0
                return self._farewell
            self._arrived.clear()
            await self._arrived.wait()
        self._gone_at = max(self._gone_at, self.server.loop.time() + GRACE)
        return self._received.popleft()

    async def send(self, message: dict[str, Any]) -> None:
        kind = message["type"]
        if kind not in self._expected:
            expected = " or ".join(self._expected) or "nothing"
            raise RuntimeError(f"Expected {expected} to be sent, not {kind}")
        _check(message, self.named)
        if self.server.loop.time() >= self._gone_at:
            raise ClientDisconnected("The client has left")
        self._expected = self._expected[kind]
        if kind.endswith("response.body") and not message.get("more_body"):
            self._expected = {}
            self._farewell = {"type": "http.disconnect"}
            self._arrived.set()
        if kind == "websocket.close":
            self._leave(message.get("code", 1000), message.get("reason") or "")
        self.server.tell(self.sent.append, message)


def _check(message: Mapping[str, Any], sender: str) -> None:
    """Raise TypeError where ``message`` is not what servers take (ASGI www)."""
    kind = message["type"]
    if kind == "websocket.send":
        given = [key for key in _MESSAGE if message.get(key) is not None]
        if len(given) != 1:
            raise TypeError(
                f"{sender}: websocket.send must have text or bytes, one of the two, not"
                f" {' and '.join(given) or 'none'}"
            )
        _check_type(sender, kind, given[0], message[given[0]], _MESSAGE[given[0]])
    elif kind.endswith("response.body"):
        _check_type(sender, kind, "body", message.get("body", b""), bytes)
    elif kind.endswith("response.start"):
        _check_type(sender, kind, "status", message.get("status"), int)
    for header in message.get("headers") or ():
        if not (
            isinstance(header, tuple | list)
            and len(header) == 2
            and all(isinstance(part, bytes) for part in header)
        ):
            raise TypeError(
                f"{sender}: the headers of {kind} must be pairs of bytes, such as"
                f' (b"content-type", b"text/plain"), not {header!r:.200}'
            )


_MESSAGE = {"text": str, "bytes": bytes}


def _check_type(sender: str, kind: str, key: str, value: Any, expected: type) -> None:
    if not isinstance(value, expected):
        raise TypeError(
            f"{sender}: {key} of {kind} must be {expected.__name__}, not"
            f" {type(value).__name__}: {value!r:.200}"
        )


# What an application may send, and then (ASGI www).
_BODY: dict[str, Any] = {}
_BODY["http.response.body"] = _BODY
_DENIAL: dict[str, Any] = {}
_DENIAL["websocket.http.response.body"] = _DENIAL
_OPEN: dict[str, Any] = {"websocket.close": {}}
_OPEN["websocket.send"] = _OPEN
_EXPECTED: dict[str, Any] = {
    "http": {"http.response.start": _BODY},
    "websocket": {
        "websocket.accept": _OPEN,
        "websocket.close": {},
        "websocket.http.response.start": _DENIAL,
    },
}

_call: contextvars.ContextVar[_Call] = contextvars.ContextVar("call")


class _CallingThreads(ThreadPool):
    """Leaves jobs to the thread that has made the call which they belong to."""

    def submit(self, job: Callable[[], object]) -> None:
        call = _call.get()
        call.server.tell(call.jobs.append, job)

    async def drain(self, timeout: float) -> bool:
        # That thread waits for them itself.
        return True


class _CallingLane(Lane):
    """Leaves jobs to the threads of its pool: no call waits for another's."""

    async def run(self, function: Callable[..., object], *args: object, left: Any = None) -> object:
        return await self.pool.run(function, *args)


def _watched(wsgi_app: Callable[..., Any]) -> Callable[..., Iterator[bytes]]:
    """``wsgi_app`` with the environ of the test, telling the call what it raises."""

    def watched(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        call = _call.get()
        environ = call.environ_of(environ)
        start_response = call.noting(start_response)
        suspended = False
        try:
            result = wsgi_app(environ, start_response)
            try:
                # Not "yield from", which would close it, too.
                for chunk in result:
                    suspended = True
                    yield chunk
                    suspended = False
            finally:
                if hasattr(result, "close"):
                    result.close()
        except BaseException as error:
            # Where this generator is closed it has raised nothing.
            if call.in_consumer or suspended:
                raise
            call.error = original(error)
            if EXCHANGE in environ:
                raise
            # The test hears of it, so nobody is to log it.
            raise ClientDisconnected("The test is raised what its view has raised") from error

    return watched


class _WatchedConsumers:
    """``mapper``, with consumers that tell the call what they raise."""

    def __init__(self, mapper: Any) -> None:
        self._mapper = mapper
        self._watched: dict[Any, Any] = {}

    def has_consumers(self, protocol: str) -> bool:
        return self._mapper.has_consumers(protocol)

    def __call__(self, protocol: str, path: str) -> Any:
        found = self._mapper(protocol, path)
        if found is None:
            return None
        consumer, path_params = found
        if consumer not in self._watched:
            self._watched[consumer] = replace(consumer, app=_watched_consumer(consumer.app))
        return self._watched[consumer], path_params


def _watched_consumer(app: Callable[..., Any]) -> Callable[..., Any]:
    async def watched(scope: dict[str, Any], receive: Any, send: Any) -> None:
        call = _call.get()
        call.in_consumer = True
        try:
            await app(scope, receive, send)
            call.check_end()
        except (HTTPException, WebSocketDisconnect):
            # They say how to end.
            raise
        except BaseException as error:
            call.error = original(error)
            raise

    watched.watches = getattr(app, "watches", False)
    return watched


# What the server decides.
_SERVERS = frozenset(("PATH_INFO", "REQUEST_METHOD", "SCRIPT_NAME", "SERVER_PROTOCOL"))
# What is the server's and the application's own.
_STREAMS = frozenset(("wsgi.errors", "wsgi.input"))
_NOTHING = object()


def _scope(environ: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """What a server would make of the request that ``environ`` describes."""
    text = {key: _sendable(value) for key, value in environ.items() if key in _DESCRIBING}
    root_path = text.get("SCRIPT_NAME", "").encode("latin-1")
    path = root_path + text.get("PATH_INFO", "").encode("latin-1") or b"/"
    scheme = environ["wsgi.url_scheme"]
    port = _number(text["SERVER_PORT"])
    named = ((_header_name(key), value) for key, value in environ.items())
    scope = {
        "type": kind,
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": text["SERVER_PROTOCOL"].partition("/")[2],
        "scheme": scheme,
        "path": path.decode("utf-8", "replace"),
        "raw_path": quote(path, "/:@!$&'()*+,;=~").encode(),
        "query_string": text.get("QUERY_STRING", "").encode("latin-1"),
        "root_path": root_path.decode("utf-8", "replace"),
        "headers": [
            (name, _sendable(value).encode("latin-1")) for name, value in named if name and value
        ],
        "client": None,
        "server": (
            text["SERVER_NAME"],
            int(DEFAULT_PORTS.get(scheme, 80)) if port is None else port,
        ),
        ENTERS_NONE: True,
    }
    if "REMOTE_ADDR" in text:
        # Servers know both; the application has the port absent where the test gave none.
        scope["client"] = (text["REMOTE_ADDR"], _number(text.get("REMOTE_PORT")) or 0)
    if kind == "http":
        scope["method"] = text["REQUEST_METHOD"].upper()
    else:
        scope["scheme"] = {"http": "ws", "https": "wss"}[scope["scheme"]]
        scope["extensions"] = {"websocket.http.response": {}}
    return scope


_DESCRIBING = _SERVERS | {
    "QUERY_STRING",
    "REMOTE_ADDR",
    "REMOTE_PORT",
    "SERVER_NAME",
    "SERVER_PORT",
}


def _sendable(value: Any) -> str:
    """What the server gets of a value of an environ: text that is latin-1, as WSGI has it."""
    if isinstance(value, bytes):
        return value.decode("latin-1")
    text = str(value)
    try:
        text.encode("latin-1")
    except UnicodeEncodeError:
        return text.encode().decode("latin-1")
    return text


def _number(value: Any) -> int | None:
    """``value`` as a number, None where it is none."""
    try:
        return int(value)
    except (TypeError, ValueError):
        return None


def _header_name(key: str) -> bytes | None:
    """The name of the header that is under ``key`` in an environ, None for anything else."""
    if key not in ("CONTENT_TYPE", "CONTENT_LENGTH"):
        if not key.startswith("HTTP_"):
            return None
        key = key[len("HTTP_") :]
    return key.replace("_", "-").lower().encode("latin-1")


def _requests(body: bytes) -> Iterator[dict[str, Any]]:
    for start in range(0, len(body) or 1, BLOCK):
        more = start + BLOCK < len(body)
        yield {"type": "http.request", "body": body[start : start + BLOCK], "more_body": more}


def _new_event_loop() -> asyncio.AbstractEventLoop:
    # pytest-socket 0.8 (--disable-socket) forbids sockets by a class in the place of Python's.
    if socket.socket.__module__ == "socket":
        return asyncio.new_event_loop()
    return _UnguardedLoop()


class _UnguardedLoop(asyncio.SelectorEventLoop):
    """Wakes itself through sockets of its own, which lead nowhere else."""

    def _make_self_pipe(self) -> None:
        # asyncio makes them by socket.socketpair(), and knows no other way.
        self._ssock, self._csock = _socket.socketpair()
        self._ssock.setblocking(False)
        self._csock.setblocking(False)
        self._internal_fds += 1
        self._add_reader(self._ssock.fileno(), self._read_from_self)
