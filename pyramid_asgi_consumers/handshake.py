"""A guarded consumer's handshake, and work on its behalf later, as Pyramid requests.

Both are an :class:`Exchange`: a request that goes through the application's own WSGI callable, to
the view that was added for the consumer, and back. :class:`ExchangeRoutesMapper` and
:func:`exchange_view` are its stations within Pyramid, :class:`Handshakes` what sends it.
"""

import asyncio
import contextvars
import io
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pyramid.httpexceptions import HTTPServerError, status_map
from pyramid.interfaces import IRoutesMapper
from pyramid.request import Request
from pyramid.response import Response
from zope.interface import implementer

from pyramid_asgi_consumers.cookies import Cookies
from pyramid_asgi_consumers.coroutines import RUNNER, LoopRunner
from pyramid_asgi_consumers.environ import build_environ
from pyramid_asgi_consumers.mapper import Consumer
from pyramid_asgi_consumers.threads import ThreadPool, carried

#: Where a request's environ has its exchange, and a scope its admission.
EXCHANGE = "pyramid_asgi_consumers.exchange"
ADMISSION = "pyramid_asgi_consumers.admission"

# The header by which the view's own response is known from any other.
TOKEN = "X-Asgi-Exchange"

# What says something of a body, or of one connection, is not for the response to a handshake
# (RFC 2616 sections 7.1 and 13.5.1, RFC 6455 section 11.3).
_NOT_FORWARDED = frozenset(
    (
        "allow",
        "connection",
        "content-encoding",
        "content-language",
        "content-length",
        "content-location",
        "content-md5",
        "content-range",
        "content-type",
        "etag",
        "expires",
        "keep-alive",
        "last-modified",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "trailer",
        "trailers",
        "transfer-encoding",
        "upgrade",
    )
)


async def run_in_request(scope: Mapping[str, Any], func: Callable[..., Any], *args: Any) -> Any:
    """Run the blocking ``func(request, *args)`` within a Pyramid request; return what it returns.

    ``scope`` is that of a guarded consumer. The request has the headers of its handshake and goes
    through tweens, root factory and permission in a worker thread: with pyramid_tm it is one
    transaction, committed when ``func`` returns and aborted when it raises. Cookies that one such
    request sets are sent with the next. Cancelling the caller does not stop ``func``.

    Raises what ``func`` raises, or what kept it from being run or its work from being kept:
    ``HTTPForbidden`` where the permission is gone, a failed commit, an ``HTTPException`` with the
    status with which a tween refused. RuntimeError where the consumer is not guarded.
    """
    admission = scope.get(ADMISSION)
    if admission is None:
        raise RuntimeError(
            "run_in_request needs a consumer with a Pyramid request: declare it with"
            " permission=NO_PERMISSION_REQUIRED, or any other permission"
        )
    return await admission.run_in_request(func, *args)


class Exchange:
    """One request for a guarded consumer, and how it went.

    It travels in the environ, so middleware that copies the environ keeps it. ``work`` is called
    with context and request when the view is reached.
    """

    def __init__(
        self,
        route_name: str,
        path_params: Mapping[str, Any],
        work: Callable[[Any, Request], Any],
    ) -> None:
        self.route_name = route_name
        self.path_params = path_params
        self.work = work
        self.token = secrets.token_hex(16)
        self.request: Request | None = None
        #: What ``work`` returned or raised, at the last attempt.
        self.result: Any = None
        self.error: BaseException | None = None
        self._environ: dict[str, Any] | None = None

    def claims(self, request: Request) -> bool:
        """Whether this is the request that was sent, and not one made of it."""
        # pyramid_retry makes each attempt's request of the same environ; a subrequest made of a
        # copied request has a copied environ.
        if self._environ is None:
            self._environ = request.environ
        if self._environ is not request.environ:
            return False
        self.request = request
        self.error = None
        return True

    def answer(self, context: Any, request: Request) -> Response:
        """Do the work; return the response that tells so."""
        try:
            self.result = self.work(context, request)
        except BaseException as error:
            self.error = error
            raise
        request.response.headers[TOKEN] = self.token
        return request.response

    def succeeded(self, response: Response) -> bool:
        """Whether ``response``, which came out at the end, is the view's own and a success."""
        return response.headers.get(TOKEN) == self.token and 200 <= response.status_int < 300


@implementer(IRoutesMapper)
class ExchangeRoutesMapper:
    """``mapper``, which is Pyramid's, but that each exchange gets to its consumer's route.

    Those routes are static, so no other request gets there, and none pays for them.
    """

    def __init__(self, mapper: Any) -> None:
        self._mapper = mapper

    def __getattr__(self, name: str) -> Any:
        return getattr(self._mapper, name)

    def __call__(self, request: Request) -> dict[str, Any]:
        exchange = request.environ.get(EXCHANGE)
        if exchange is None or not exchange.claims(request):
            return self._mapper(request)
        route = self._mapper.get_route(exchange.route_name)
        info = {"match": dict(exchange.path_params), "route": route}
        if all(predicate(info, request) for predicate in route.predicates):
            return info
        return {"match": None, "route": None}


def exchange_view(context: Any, request: Request) -> Response:
    """The view that an exchange is to reach."""
    return request.environ[EXCHANGE].answer(context, request)


class Handshakes:
    """Sends exchanges through ``wsgi_app``, in up to ``threads`` threads of their own.

    ``multiprocess`` becomes ``wsgi.multiprocess``.
    """

    def __init__(
        self, wsgi_app: Callable[..., Any], threads: int = 8, *, multiprocess: bool = False
    ) -> None:
        self.wsgi_app = wsgi_app
        self.multiprocess = multiprocess
        self.pool = ThreadPool(threads, "asgi-handshake")

    async def admit(self, consumer: Consumer, scope: dict[str, Any]) -> "Admission | Response":
        """Make the handshake of ``consumer`` that ``scope`` describes.

        Returns an :class:`Admission`, or the response with which it was refused. Raises what the
        application raises, and :class:`.BadRequest` where no request can be made of the scope.
        """
        environ = build_environ(scope, scope["root_path"], multiprocess=self.multiprocess)
        cookies = Cookies(
            environ.get("HTTP_COOKIE", ""), environ["SCRIPT_NAME"] + environ["PATH_INFO"]
        )
        admission = Admission(self, consumer, scope, cookies)
        exchange = Exchange(consumer.route_name, scope["path_params"], admission.admit)
        response = await self.send(exchange, environ)
        cookies.update(response.headers.getall("Set-Cookie"))
        succeeded = exchange.succeeded(response)
        response.headers.pop(TOKEN, None)
        if not succeeded:
            return response
        admission.headers = [
            (name.lower().encode("latin-1"), value.encode("latin-1"))
            for name, value in response.headerlist
            if name.lower() not in _NOT_FORWARDED and not name.lower().startswith("sec-websocket-")
        ]
        return admission

    async def send(self, exchange: Exchange, environ: dict[str, Any]) -> Response:
        """Send ``exchange`` through the application; return the response, read and closed."""
        environ["wsgi.input"] = io.BytesIO()
        # The body stays with the consumer.
        environ["CONTENT_LENGTH"] = "0"
        environ[EXCHANGE] = exchange
        environ[RUNNER] = LoopRunner(asyncio.get_running_loop())
        run = contextvars.copy_context().run
        return await self.pool.run(run, _call, self.wsgi_app, environ)


def _call(wsgi_app: Callable[..., Any], environ: dict[str, Any]) -> Response:
    response = Request(environ).get_response(wsgi_app)
    # Reading it all closes it.
    response.body  # noqa: B018
    return response


@dataclass
class Admission:
    """A connection to a guarded consumer, whose handshake succeeded."""

    handshakes: Handshakes
    consumer: Consumer
    scope: dict[str, Any]
    cookies: Cookies
    request: Request | None = None
    context: Any = None
    userid: Any = None
    #: Those that Pyramid's response to the handshake had.
    headers: list[tuple[bytes, bytes]] | None = None

    def admit(self, context: Any, request: Request) -> None:
        """What a handshake does in its view."""
        self.request = request
        self.context = context
        self.userid = request.authenticated_userid

    async def run_in_request(self, func: Callable[..., Any], *args: Any) -> Any:
        """See :func:`run_in_request`."""

        def work(context: Any, request: Request) -> Any:
            return func(request, *args)

        exchange = Exchange(self.consumer.route_name, self.scope["path_params"], work)
        environ = build_environ(
            self.scope, self.scope["root_path"], multiprocess=self.handshakes.multiprocess
        )
        environ["HTTP_COOKIE"] = str(self.cookies)
        try:
            response = await self.handshakes.send(exchange, environ)
        except Exception:
            if exchange.error is not None:
                raise carried(exchange.error) from None
            raise
        self.cookies.update(response.headers.getall("Set-Cookie"))
        if exchange.error is not None:
            raise carried(exchange.error)
        if exchange.succeeded(response):
            return exchange.result
        # What Pyramid made an error page of.
        error = getattr(exchange.request, "exception", None)
        if error is None:
            error = status_map.get(response.status_int, HTTPServerError)(response.text)
        raise error
