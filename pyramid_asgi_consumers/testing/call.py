"""One call of the application."""

import asyncio
import contextvars
import math
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from typing import TYPE_CHECKING, Any

from webob.util import status_generic_reasons, status_reasons

from pyramid_asgi_consumers.exceptions import ClientDisconnected
from pyramid_asgi_consumers.handshake.exchange import EXCHANGE, served_by
from pyramid_asgi_consumers.raised import caught, original
from pyramid_asgi_consumers.testing import timeouts
from pyramid_asgi_consumers.testing.messages import EXPECTED, check
from pyramid_asgi_consumers.testing.scopes import DECIDED_BY_SERVER, header_name, sendable

if TYPE_CHECKING:
    from pyramid_asgi_consumers.testing.server import Server


class Call:
    """One call of the application: what the server does for it.

    ``environ`` is that of the test's request, from which ``scope`` was made; ``messages`` are what
    the application receives at first. :meth:`serve`, :meth:`receive` and :meth:`send` are for the
    event loop's thread; all else is for the test's, which made it.
    """

    def __init__(
        self,
        server: "Server",
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
        self._expected = EXPECTED.get(scope.get("type"), {})
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
            current_call.set(self)
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
            self.server.wait(lambda: self.done, timeouts.TIMEOUT)

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
            self._gone_at = self.server.loop.time() + timeouts.GRACE
            self._arrived.set()

    def environ_of(self, served: dict[str, Any]) -> dict[str, Any]:
        """The environ of a Pyramid request: ``served``, by the server, and what the test's says."""
        environ = dict(served)
        if "REMOTE_PORT" not in self.environ:
            environ.pop("REMOTE_PORT", None)
        for key, value in self.environ.items():
            if key in DECIDED_BY_SERVER or (key.startswith("wsgi.") and key in served):
                continue
            # The server may have changed a header, or left it out.
            if header_name(key) is None or not value or served.get(key) == sendable(value):
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
        self._gone_at = max(self._gone_at, self.server.loop.time() + timeouts.GRACE)
        return self._received.popleft()

    async def send(self, message: dict[str, Any]) -> None:
        kind = message["type"]
        if kind not in self._expected:
            expected = " or ".join(self._expected) or "nothing"
            raise RuntimeError(f"Expected {expected} to be sent, not {kind}")
        check(message, self.named)
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


current_call: contextvars.ContextVar[Call] = contextvars.ContextVar("call")


# What is the server's and the application's own.
_STREAMS = frozenset(("wsgi.errors", "wsgi.input"))


_NOTHING = object()
