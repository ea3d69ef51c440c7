""":class:`TestApp`: WebTest over an ASGI application, websockets and streams included.

It is the test's side, and all of it runs in the thread of the test. ``server.py`` is what it tests
with: a copy of the application on an event loop in a thread of its own, from the first call, open
websocket or stream to the end of the last. ``scopes.py`` and ``messages.py`` say what the
application gets, ``wsgi.py`` what else of the test its views see; ``websocket.py`` is what a test
has of a websocket, ``stream.py`` what it has of an event stream.
"""

import copy
import io
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import webtest
from webtest import utils

from pyramid_asgi_consumers.application import ASGIApplication
from pyramid_asgi_consumers.lifespan import running
from pyramid_asgi_consumers.testing import messages, timeouts
from pyramid_asgi_consumers.testing.scopes import number, scope_of
from pyramid_asgi_consumers.testing.server import Server
from pyramid_asgi_consumers.testing.stream import TestStream
from pyramid_asgi_consumers.testing.stream import opened as opened_stream
from pyramid_asgi_consumers.testing.websocket import TestWebSocket
from pyramid_asgi_consumers.testing.websocket import opened as opened_websocket


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
        self._server: Server | None = None

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
        length = number(environ.get("CONTENT_LENGTH"))
        body = environ["wsgi.input"].read(*([] if length is None else [length]))
        # The test may read it, too, in response.request.
        environ["wsgi.input"] = io.BytesIO(body)
        with self._serving() as server:
            scope = scope_of(environ, "http")
            call = server.call(scope, environ, messages.of_body(body))
            try:
                call.start(call.serve())
                server.thread.wait(lambda: call.done or call.connection.streams)
                if not server.thread.wait(lambda: call.done, timeouts.ENDLESS):
                    raise TimeoutError(
                        f"{scope['path']} answers with an event stream, which has not ended within"
                        f" {timeouts.ENDLESS:g} s: testapp.stream() reads those that go on"
                    )
            finally:
                call.cancel()
                call.details.hand_back()
        if call.error is not None:
            raise call.error
        start, *bodies = call.connection.sent
        details = call.details
        start_response(details.status_line(start["status"]), details.header_list(start))
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
        while it waits, for this or anything else of any ``TestApp``: so several users, each with a
        ``TestApp`` of their own, may be in one test. Use the websocket in the thread that has
        opened it.

        The end of the block closes the websocket and waits for the consumer to end. Where the block
        raises, the consumer is cancelled.

        Raises :class:`.WebSocketDenied` where it is refused, TimeoutError where the consumer does
        not answer within 5 seconds, or does not end within 5 seconds and ``asgi.leave_timeout``
        when the websocket is closed.
        """
        request = self._handshake(url, headers, subprotocols, origin, extra_environ)
        with self._serving() as server:
            scope = scope_of(request.environ, "websocket")
            scope["subprotocols"] = list(subprotocols)
            call = server.call(scope, request.environ, [{"type": "websocket.connect"}])
            try:
                call.start(call.serve())
                websocket = opened_websocket(self, call, request)
                yield websocket
                websocket.close()
            finally:
                call.cancel()

    @contextmanager
    def stream(
        self,
        url: str,
        headers: Mapping[str, str] | None = None,
        extra_environ: Mapping[str, Any] | None = None,
    ) -> Iterator["TestStream"]:
        """Read an event stream: ``with testapp.stream("/news") as stream: stream.receive()``.

        ``url`` is a path or a whole URL; ``headers`` are sent with the request, which has those of
        a browser's ``EventSource`` besides: ``{"Last-Event-ID": stream.last_event_id}`` comes back
        as that does; ``extra_environ`` is what the environ of Pyramid requests has besides the
        ``TestApp``'s own. Cookies are shared with the requests of this ``TestApp``, both ways. Any
        response with the type ``text/event-stream`` is one, whoever sends it.

        Views run in the thread of the test, as those of a websocket do, and there may be several
        users, each with a ``TestApp`` of their own. Use the stream in the thread that has opened
        it. Who sends much more than the test has received waits, as on a server.

        The end of the block leaves the stream and waits for the application to end. Where the block
        raises, it is cancelled.

        Raises :class:`.StreamRefused` where the answer is no event stream; what a view or a
        consumer raises before it has answered; TimeoutError where there is no answer within
        5 seconds, or the application does not end within 5 seconds and ``asgi.leave_timeout`` when
        the stream is left.
        """
        request = self._request(url, extra_environ)
        # HTML standard § 9.2.2 and § 9.2.3; the cache mode is "no-store".
        request.headers.update({"Accept": "text/event-stream", "Cache-Control": "no-cache"})
        request.headers.update(headers or {})
        last_event_id = request.headers.get("Last-Event-ID", "")
        if last_event_id:
            # It alone is sent as UTF-8.
            request.headers["Last-Event-ID"] = last_event_id.encode().decode("latin-1")
        self.cookiejar.add_cookie_header(utils._RequestCookieAdapter(request))
        with self._serving() as server:
            scope = scope_of(request.environ, "http")
            # What servers say, for an application that then asks whether its client has left:
            # Starlette's else hears it from send() alone, and of a silent stream never.
            scope["asgi"]["spec_version"] = "2.3"
            call = server.call(scope, request.environ, messages.of_body(b""))
            call.connection.hold_back(timeouts.MOST_UNREAD)
            try:
                call.start(call.serve())
                stream = opened_stream(self, call, request, last_event_id)
                yield stream
                stream.close()
            finally:
                call.cancel()

    def _request(self, url: str, extra_environ: Mapping[str, Any] | None) -> Any:
        environ = self._make_environ(extra_environ)
        return self.RequestClass.blank(self._remove_fragment(url), environ)

    def _handshake(
        self,
        url: str,
        headers: Mapping[str, str] | None,
        subprotocols: Sequence[str],
        origin: str | None,
        extra_environ: Mapping[str, Any] | None,
    ) -> Any:
        """The request with which a client opens a websocket (RFC 6455 section 4.1)."""
        if url.startswith(("ws:", "wss:")):
            url = "http" + url[2:]
        request = self._request(url, extra_environ)
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
        return request

    @contextmanager
    def _serving(self) -> Iterator["Server"]:
        with self._lock:
            if self._server is None:
                self._server = Server(self.app, self.lint)
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
