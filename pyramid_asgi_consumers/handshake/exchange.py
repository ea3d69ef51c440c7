"""One request for a guarded consumer, within Pyramid: how it gets to its view and what came of it.

An :class:`Exchange` goes through the application's own WSGI callable, to the view that was added
for the consumer, and back. :class:`ExchangeRoutesMapper` and :func:`exchange_view` are its
stations. What sends it is in ``handshakes``.
"""

import contextvars
import logging
import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from pyramid.httpexceptions import HTTPException, HTTPServerError, status_map
from pyramid.interfaces import IRoutesMapper
from pyramid.request import Request
from pyramid.response import Response
from pyramid.threadlocal import get_current_request
from zope.interface import implementer

from pyramid_asgi_consumers.mapper import Consumer

log = logging.getLogger(__name__)


#: Where a request's environ has its exchange, and a scope its admission.
EXCHANGE = "pyramid_asgi_consumers.exchange"


# The header by which the view's own response is known from any other.
TOKEN = "X-Asgi-Exchange"


#: The route of the exchanges that belong to no consumer.
NO_CONSUMER = "asgi run_in_request"


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
        self.context_vars = contextvars.copy_context()
        self.request: Request | None = None
        #: What ``work`` returned or raised, at the last attempt.
        self.result: Any = None
        self.error: BaseException | None = None
        self._environ: dict[str, Any] | None = None

    def begin_attempt(self, request: Request) -> bool:
        """Take ``request`` for the next attempt; return False where it was only made of ours."""
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
        """Do the work; return the response that tells so.

        Raises TypeError for a context that would have to be awaited.
        """
        try:
            if isinstance(context, Awaitable):
                raise _not_awaited(context)
            self.result = self.work(context, request)
        except BaseException as error:
            self.error = error
            raise
        request.response.headers[TOKEN] = self.token
        return request.response

    def log(self, log: Callable[..., object], *message: object) -> None:
        """Call ``log(*message)`` with the contextvars that the request left.

        Who reports errors (Sentry) notes there which one was reported, and by whose request.
        """
        # The thread may be inside the context still.
        self.context_vars.copy().run(log, *message)

    def succeeded(self, response: Response) -> bool:
        """Whether ``response``, which came out at the end, is the view's own and a success."""
        return response.headers.get(TOKEN) == self.token and 200 <= response.status_int < 300

    def status_of(self, response: Response) -> int:
        """The status that ``response``, which is no success, stands for.

        That of the HTTPException of which an exception view has made it, a redirect to the page for
        logging in, say; else its own.
        """
        error = getattr(self.request, "exception", None)
        status: int = (error if isinstance(error, HTTPException) else response).status_int
        return status

    def error_of(self, response: Response) -> Exception:
        """The error that ``response``, which is no success, stands for."""
        # An exception view has answered; it may have made a redirect of a HTTPForbidden.
        error = getattr(self.request, "exception", None)
        if error is None:
            status = response.status_int
            kind = status_map.get(status, HTTPServerError) if status >= 300 else HTTPServerError
            error = kind(detail=response.body.decode("utf-8", "replace"))
            error.location = response.location
        return error


@implementer(IRoutesMapper)
class ExchangeRoutesMapper:
    """Wraps Pyramid's ``mapper``, so that an exchange always gets its consumer's route.

    Those routes are static, so no other request gets there, and none pays for them. ``consumers``
    is the mapper of all consumers.
    """

    def __init__(self, mapper: Any, consumers: Iterable[Consumer]) -> None:
        self._mapper = mapper
        self._consumers = consumers
        #: Whether there is an ASGI application that serves them.
        self.served = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._mapper, name)

    def __call__(self, request: Request) -> dict[str, Any]:
        exchange = request.environ.get(EXCHANGE)
        if exchange is None or not exchange.begin_attempt(request):
            if not self.served:
                self._warn()
            return self._mapper(request)
        route = self._mapper.get_route(exchange.route_name)
        info = {"match": dict(exchange.path_params), "route": route}
        if all(predicate(info, request) for predicate in route.predicates):
            return info
        return {"match": None, "route": None}

    def _warn(self) -> None:
        # Once, and at the first page: nothing tells what main() has returned.
        self.served = True
        if declared := [str(consumer) for consumer in self._consumers]:
            log.warning(
                "Nobody serves the %s: this is the application of config.make_wsgi_app();"
                " return config.make_asgi_app() instead",
                ", the ".join(declared),
            )

    def get_routes(self, include_static: bool = False) -> list[Any]:
        """As Pyramid's, and those of the consumers that would answer the asker.

        Nothing but a handshake gets to a websocket, so these are not for a request that is
        served: ``append_slash`` would redirect to them. ``pviews`` asks within a request that no
        router has had; it shows them all.
        """
        routes = self._mapper.get_routes(include_static)
        if include_static:
            return [route for route in routes if route.name != NO_CONSUMER]
        request = get_current_request()
        # The router sets it at first.
        is_served = request is None or "request_iface" in vars(request)
        own = [
            self._mapper.get_route(consumer.route_name)
            for consumer in self._consumers
            if not (is_served and consumer.protocol == "websocket")
        ]
        return routes + [route for route in own if route is not None]


def _not_awaited(context: Any) -> TypeError:
    # It is a coroutine as a rule, which would warn that it was never awaited.
    if hasattr(context, "close"):
        context.close()
    return TypeError(
        f"The context must not be awaitable: {context!r}. Nobody awaits it: make its factory def,"
        " or do what is async in the consumer"
    )


def exchange_view(app: Any) -> Callable[[Any, Request], Response]:
    """Return the view that an exchange is to reach; tools and refusals call it as ``app``."""

    def view(context: Any, request: Request) -> Response:
        return request.environ[EXCHANGE].answer(context, request)

    view.__name__ = getattr(app, "__name__", type(app).__name__)
    view.__module__ = getattr(app, "__module__", view.__module__)
    marked: Any = view
    marked.is_of_exchange = True
    return view
