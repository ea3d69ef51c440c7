"""A guarded consumer's handshake, and work on its behalf later, as Pyramid requests.

:class:`Handshakes` sends both, each as an :class:`.Exchange`, through a thread of its own pool. The
:class:`Admission` that a handshake makes is what later requests go by.
"""

import asyncio
import contextvars
import inspect
import io
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pyramid.registry import Registry
from pyramid.request import Request
from pyramid.response import Response

from pyramid_asgi_consumers.async_views import LOOP_ARGUMENTS, cancel_views
from pyramid_asgi_consumers.contexts import adopt, mark
from pyramid_asgi_consumers.exceptions import ClientDisconnected
from pyramid_asgi_consumers.handshake.cookies import Cookies
from pyramid_asgi_consumers.handshake.exchange import EXCHANGE, NO_CONSUMER, TOKEN, Exchange
from pyramid_asgi_consumers.handshake.lanes import Lane
from pyramid_asgi_consumers.headers import HOP_BY_HOP, checked_headers
from pyramid_asgi_consumers.interfaces import IHandshakes
from pyramid_asgi_consumers.mapper import Consumer
from pyramid_asgi_consumers.raised import carried
from pyramid_asgi_consumers.wsgi.environ import build_environ, subprotocols
from pyramid_asgi_consumers.wsgi.threads import ThreadPool

log = logging.getLogger(__name__)


ADMISSION = "pyramid_asgi_consumers.admission"


# What says something of a body is not for the answer of a consumer, which has its own (RFC 2616
# section 7.1); nor is what the server and the consumer negotiate (RFC 6455 section 11.3).
_OF_THE_BODY = frozenset(
    (
        b"allow",
        b"content-encoding",
        b"content-language",
        b"content-length",
        b"content-location",
        b"content-md5",
        b"content-range",
        b"content-type",
        b"etag",
        b"expires",
        b"last-modified",
    )
)


_NEGOTIATED = b"sec-websocket-"


# Deques of a request, which Pyramid makes when it needs them: empty when the request is over, each
# has room for 64. The connection keeps the request.
_CALLBACKS = ("finished_callbacks", "response_callbacks")


Headers = list[tuple[bytes, bytes]]


#: What a test client runs the application's exchanges with, in its own place.
current_handshakes: "contextvars.ContextVar[Handshakes | None]" = contextvars.ContextVar(
    "current_handshakes", default=None
)


async def run_in_request(
    scope: "Mapping[str, Any] | Registry", func: Callable[..., Any], *args: Any
) -> Any:
    """Run the blocking ``func(request, *args)`` within a Pyramid request; return what it returns.

    ``scope`` is that of a guarded consumer. The request has the headers of its handshake and goes
    through tweens, root factory and permission in a worker thread: with pyramid_tm it is one
    transaction, committed when ``func`` returns and aborted when it raises. Cookies that one such
    request sets are sent with the next. Cancelling the caller does not stop a ``func`` that runs:
    its transaction commits or aborts by itself. Before a thread was free for it, it never runs.

    What has no connection (a lifespan's task, a timer) gives the registry in place of ``scope``:
    then it is a request for the application's root, ``http://localhost/``, of nobody, as
    ``pyramid.scripting.prepare`` makes it, that needs no permission.

    Raises what ``func`` raises, or what kept it from being run or its work from being kept:
    ``HTTPForbidden`` where the permission is gone, a failed commit, an ``HTTPException`` with the
    status with which a tween refused. RuntimeError where the consumer is not guarded, or no
    application was made with the registry; TypeError where ``func`` is async.
    """
    if isinstance(scope, Registry):
        handshakes = current_handshakes.get() or scope.queryUtility(IHandshakes)
        if handshakes is None:
            raise RuntimeError(
                "run_in_request: config.make_asgi_app() has made no application with this registry"
            )
        environ = Request.blank("/").environ
        return await handshakes.call(NO_CONSUMER, {}, environ, Cookies("", "/"), func, args)
    if not isinstance(scope, Mapping):
        raise TypeError(
            f"run_in_request takes a consumer's scope, or the registry, not {scope!r}; with a"
            " websocket it is websocket.run_in_request(func)"
        )
    admission = scope.get(ADMISSION)
    if admission is None:
        raise RuntimeError(
            "run_in_request needs a consumer with a Pyramid request: declare it with"
            " permission=NO_PERMISSION_REQUIRED, or any other permission"
        )
    return await admission.run_in_request(func, *args)


@dataclass(frozen=True)
class Refusal:
    """The response with which a handshake was refused; without headers it is a line of text."""

    status: int
    headers: Headers | None = None
    body: bytes | None = None


class Handshakes:
    """Sends exchanges through ``wsgi_app``, in up to ``threads`` threads of their own.

    Half of the threads are free for handshakes whatever ``run_in_request`` calls do, and the other
    way round; handshakes that are repeated have a quarter at most, and one at least.
    ``multiprocess`` becomes ``wsgi.multiprocess``.
    """

    def __init__(
        self, wsgi_app: Callable[..., Any], threads: int = 8, *, multiprocess: bool = False
    ) -> None:
        self.wsgi_app = wsgi_app
        self.multiprocess = multiprocess
        #: The tasks of async views that answer exchanges.
        self.awaited: set[asyncio.Task[Any]] = set()
        self.pool = ThreadPool(threads, "asgi-handshake")
        most = threads - threads // 2
        self.handshakes = Lane(self.pool, most, "handshakes (half of asgi.handshake_threads)")
        self.calls = Lane(self.pool, most, "run_in_request (half of asgi.handshake_threads)")
        purpose = "repeated handshakes (revalidate: a quarter of asgi.handshake_threads)"
        self.repetitions = Lane(self.pool, max(1, threads // 4), purpose)

    async def admit(
        self,
        consumer: Consumer,
        scope: dict[str, Any],
        left: Callable[[], Awaitable[bool]] | None,
    ) -> "Admission | Refusal":
        """Make the handshake of ``consumer`` that ``scope`` describes.

        What the application raises, or answers with headers that cannot be sent, is logged, and a
        refusal with 500. ``left`` tells whether the client leaves, as for :meth:`.Lane.run`.

        Raises :class:`.BadRequest` where no request can be made of the scope, and
        :class:`.ClientDisconnected` where the client left before the handshake began.
        """
        admission = Admission(self, consumer, scope)
        environ = admission.environ()
        admission.begin(environ)
        exchange = Exchange(admission.route_name, admission.path_params, admission.admit)
        try:
            response = await self.send(self.handshakes, exchange, environ, admission.cookies, left)
            succeeded = exchange.succeeded(response)
            response.headers.pop(TOKEN, None)
            sendable = checked_headers(
                [header for header in response.headerlist if header[0].lower() not in HOP_BY_HOP]
            )
        except ClientDisconnected:
            raise
        except Exception:
            exchange.log(log.exception, "The handshake of %s failed", consumer)
            return Refusal(500)
        if not succeeded:
            return Refusal(response.status_int, sendable, response.body)
        admission.headers = [
            (name, value)
            for name, value in sendable
            if name not in _OF_THE_BODY and not name.startswith(_NEGOTIATED)
        ]
        for callbacks in _CALLBACKS:
            vars(admission.request).pop(callbacks, None)
        return admission

    async def send(
        self,
        lane: Lane,
        exchange: Exchange,
        environ: dict[str, Any],
        cookies: Cookies,
        left: Callable[[], Awaitable[bool]] | None = None,
    ) -> Response:
        """Send ``exchange`` through the application; return the response, read and closed.

        The request has ``cookies`` as they are when its turn comes. They take over those that the
        response sets, also where the caller is cancelled meanwhile: what the request did is done.
        ``lane`` runs it; ``left`` is as for :meth:`.Lane.run`.
        """
        loop = asyncio.get_running_loop()

        def call() -> Response:
            response = self.answer(exchange, environ, cookies, loop)
            cookies.update(response.headers.getall("Set-Cookie"))
            return response

        return await lane.run(call, left=left)

    def answer(
        self,
        exchange: Exchange,
        environ: dict[str, Any],
        cookies: Cookies,
        loop: asyncio.AbstractEventLoop,
    ) -> Response:
        """Send ``exchange`` with ``cookies``, in this thread; return the response as :meth:`send`.

        ``cookies`` stay as they are. ``loop`` runs async views.
        """
        environ["wsgi.input"] = io.BytesIO()
        # The body stays with the consumer.
        environ["CONTENT_LENGTH"] = "0"
        environ[EXCHANGE] = exchange
        environ[LOOP_ARGUMENTS] = loop, None, self.awaited
        if cookies.changed:
            environ["HTTP_COOKIE"] = str(cookies)
        return exchange.context_vars.run(self._answer, environ)

    def _answer(self, environ: dict[str, Any]) -> Response:
        response = Request(environ).get_response(self.wsgi_app)
        # Reading it all closes it.
        response.body  # noqa: B018
        return response

    async def call(
        self,
        route_name: str,
        path_params: Mapping[str, Any],
        environ: dict[str, Any],
        cookies: Cookies,
        func: Callable[..., Any],
        args: tuple[Any, ...],
    ) -> Any:
        """Run ``func(request, *args)`` in the view of a route; see :func:`run_in_request`."""

        def work(context: Any, request: Request) -> Any:
            result = func(request, *args)
            if inspect.iscoroutine(result):
                result.close()
                raise TypeError(f"run_in_request: func must not be async: {func!r}")
            return result

        exchange = Exchange(route_name, path_params, work)
        error: BaseException | None = None
        try:
            response = await self.send(self.calls, exchange, environ, cookies)
        except Exception as raised:
            error = raised
        # What func raised comes first, whatever tweens and exception views have made of it.
        if exchange.error is not None:
            error = exchange.error
        if error is None:
            if exchange.succeeded(response):
                return exchange.result
            error = exchange.error_of(response)
        error = carried(error)
        # For a consumer that logs it, and for who does where it does not.
        adopt(exchange.context_vars)
        mark(error, exchange.context_vars)
        raise error

    async def drain(self, timeout: float) -> None:
        """Wait until no exchange is under way, at most ``timeout`` seconds; cancel async views."""
        if not await self.pool.drain(timeout):
            log.warning(
                "Handshakes or run_in_request calls still run after %g s; they are left alone",
                timeout,
            )
            await cancel_views(self.awaited, timeout)


class Admission:
    """A connection to a guarded consumer, and what its handshake told."""

    def __init__(self, handshakes: Handshakes, consumer: Consumer, scope: dict[str, Any]) -> None:
        self.handshakes = handshakes
        self.consumer = consumer
        self.scope = scope
        # The consumer may change its scope: a Starlette router changes these.
        self.root_path: str = scope["root_path"]
        self.path_params: Mapping[str, Any] = scope["path_params"]
        #: None only for a plain consumer, which has no handshake.
        self.route_name: Any = consumer.route_name
        self.cookies: Cookies
        self.request: Request | None = None
        self.context: Any = None
        self.userid: Any = None
        #: What Pyramid's response adds to the consumer's answer.
        self.headers: Headers = []

    def begin(self, environ: dict[str, Any]) -> None:
        """Take over what ``environ``, that of the handshake, says of cookies."""
        path = environ["SCRIPT_NAME"] + environ["PATH_INFO"]
        self.cookies = Cookies(environ.get("HTTP_COOKIE", ""), path)

    def environ(self) -> dict[str, Any]:
        """The environ of the handshake, all but the body."""
        environ = build_environ(
            self.scope, self.root_path, multiprocess=self.handshakes.multiprocess
        )
        offered = subprotocols(self.scope)
        if offered:
            # Also where the server gives no such header.
            environ.setdefault("HTTP_SEC_WEBSOCKET_PROTOCOL", ", ".join(offered))
        return environ

    def admit(self, context: Any, request: Request) -> None:
        """What a handshake does in its view."""
        self.request = request
        self.context = context
        self.userid = request.authenticated_userid

    async def run_in_request(self, func: Callable[..., Any], *args: Any) -> Any:
        """See :func:`run_in_request`."""
        return await self.handshakes.call(
            self.route_name,
            self.path_params,
            self.environ(),
            self.cookies,
            func,
            args,
        )
