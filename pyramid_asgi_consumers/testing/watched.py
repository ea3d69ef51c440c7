"""What the application runs, telling its call what was raised."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from pyramid.httpexceptions import HTTPException

from pyramid_asgi_consumers.exceptions import ClientDisconnected, WebSocketDisconnect
from pyramid_asgi_consumers.handshake.exchange import EXCHANGE
from pyramid_asgi_consumers.raised import original
from pyramid_asgi_consumers.testing.call import current_call


def watched_application(wsgi_app: Callable[..., Any]) -> Callable[..., Iterator[bytes]]:
    """``wsgi_app`` with the environ of the test, telling the call what it raises."""

    def watched(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        call = current_call.get()
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


class WatchedConsumers:
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
            self._watched[consumer] = replace(consumer, app=watched_consumer(consumer.app))
        return self._watched[consumer], path_params


def watched_consumer(app: Callable[..., Any]) -> Callable[..., Any]:
    async def watched(scope: dict[str, Any], receive: Any, send: Any) -> None:
        call = current_call.get()
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
