"""How a test learns what its view or its consumer has raised.

The application catches it and answers for it, as on a server. So its copy has wrappers around its
WSGI application and its consumers, which tell the call before the application hears of it; the test
is raised that very object. The WSGI application gets the environ of the test here, too
(``wsgi.py``).
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from time import monotonic
from typing import Any

from pyramid.httpexceptions import HTTPException

from pyramid_asgi_consumers.exceptions import ClientDisconnected, WebSocketDisconnect
from pyramid_asgi_consumers.handshake.exchange import EXCHANGE
from pyramid_asgi_consumers.raised import original
from pyramid_asgi_consumers.testing import timeouts
from pyramid_asgi_consumers.testing.call import Call, current_call


def watched_wsgi_app(wsgi_app: Callable[..., Any]) -> Callable[..., Iterator[bytes]]:
    """``wsgi_app`` with the environ of the test, telling the call what it raises."""

    def watched(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        call = current_call.get()
        environ = call.details.environ_for_view(environ)
        start_response = call.details.noting(start_response)
        suspended = False
        if EXCHANGE not in environ:
            # The test takes nothing while its thread is here.
            call.connection.hold_back(math.inf)
        try:
            result = wsgi_app(environ, start_response)
            began = monotonic()
            try:
                # Not "yield from", which would close it, too.
                for chunk in result:
                    if monotonic() - began > timeouts.ENDLESS and call.details.is_event_stream:
                        call.is_endless = True
                        raise _endless(call)
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


def _endless(call: Call) -> TimeoutError:
    return TimeoutError(
        f"The event stream of {call.scope['path']}, which the thread of the test iterates, has not"
        f" ended within {timeouts.ENDLESS:g} s. One that goes on is an async iterator, or the"
        " function of add_event_stream; testapp.stream() reads those"
    )


class WatchedConsumers:
    """``mapper``, with consumers that tell the call what they raise."""

    def __init__(self, mapper: Any) -> None:
        self._mapper = mapper
        self._watched: dict[Any, Any] = {}

    def has_consumers(self, protocol: str) -> bool:
        return self._mapper.has_consumers(protocol)

    def __call__(self, protocol: str, path: str, method: str | None = None) -> Any:
        found = self._mapper(protocol, path, method)
        if found is None:
            return None
        consumer, path_params = found
        if consumer not in self._watched:
            self._watched[consumer] = replace(consumer, app=WatchedConsumer(consumer.app))
        return self._watched[consumer], path_params


class WatchedConsumer:
    """``app``, telling the call what it raises."""

    def __init__(self, app: Callable[..., Any]) -> None:
        self._app = app
        #: Whether it looks after its client itself, as a websocket's function does.
        self.watches: bool = getattr(app, "watches", False)

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        call = current_call.get()
        call.in_consumer = True
        try:
            await self._app(scope, receive, send)
            call.connection.check_end()
        except (HTTPException, WebSocketDisconnect):
            # They say how to end.
            raise
        except BaseException as error:
            call.error = original(error)
            raise
