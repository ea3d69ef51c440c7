"""How a test learns what its view or its consumer has raised.

The application catches it and answers for it, as on a server. So its copy has wrappers around its
WSGI application and its consumers, which tell the call before the application hears of it; the test
is raised that very object. The WSGI application gets the environ of the test here, too
(``wsgi.py``).
"""

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from time import monotonic
from typing import Any

from pyramid.httpexceptions import HTTPException
from webtest import lint

from pyramid_asgi_consumers.async_bodies import AsyncBody, is_async
from pyramid_asgi_consumers.async_views import LOOP_ARGUMENTS
from pyramid_asgi_consumers.exceptions import ClientDisconnected, WebSocketDisconnect
from pyramid_asgi_consumers.handshake.exchange import EXCHANGE
from pyramid_asgi_consumers.raised import original
from pyramid_asgi_consumers.testing import timeouts
from pyramid_asgi_consumers.testing.call import Call, current_call


def watched_wsgi_app(wsgi_app: Callable[..., Any]) -> Callable[..., Any]:
    """``wsgi_app`` with the environ of the test, telling the call what it raises."""

    def watched(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        call = current_call.get()
        environ = call.details.environ_for_view(environ)
        start_response = call.details.noting(start_response)
        is_of_page = EXCHANGE not in environ
        most = math.inf
        if is_of_page:
            # The test takes nothing while its thread is here.
            most = call.connection.hold_back(math.inf)
        try:
            result = wsgi_app(environ, start_response)
        except BaseException as error:
            raise _told(call, error, is_of_page)  # noqa: B904
        if isinstance(result, AsyncBody):
            call.connection.hold_back(most)
            return AsyncBody(_streamed(result, call), result.loop_arguments)
        return _iterated(result, call, is_of_page)

    return watched


def _told(call: Call, error: BaseException, is_of_page: bool) -> BaseException:
    """Tell ``call`` of ``error``; return what is to be raised in its place."""
    if call.in_consumer:
        return error
    call.error = original(error)
    if not is_of_page:
        return error
    # The test hears of it, so nobody is to log it.
    told = ClientDisconnected("The test is raised what its view has raised")
    told.__cause__ = error
    return told


def _iterated(result: Any, call: Call, is_of_page: bool) -> Iterator[bytes]:
    suspended = False
    began = monotonic()
    try:
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
        if suspended:
            raise
        raise _told(call, error, is_of_page)  # noqa: B904


async def _streamed(body: AsyncBody, call: Call) -> AsyncIterator[bytes]:
    chunks: Any = aiter(body)
    try:
        async for chunk in chunks:
            yield chunk
    except (asyncio.CancelledError, GeneratorExit):
        raise
    except BaseException as error:
        raise _told(call, error, True)  # noqa: B904
    finally:
        await chunks.aclose()


def _endless(call: Call) -> TimeoutError:
    return TimeoutError(
        f"The event stream of {call.scope['path']}, which the thread of the test iterates, has not"
        f" ended within {timeouts.ENDLESS:g} s. One that goes on is an async iterator, or the"
        " function of add_event_stream; testapp.stream() reads those"
    )


def linted_wsgi_app(wsgi_app: Callable[..., Any]) -> Callable[..., Any]:
    """``wsgi_app`` within WebTest's lint, which does not know async bodies: those pass it."""

    def linted(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        streams = []

        def observed(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
            result = wsgi_app(environ, start_response)
            if is_async(result):
                result = AsyncBody(result, environ.get(LOOP_ARGUMENTS))
            if isinstance(result, AsyncBody):
                streams.append(result)
            return result

        result = lint.middleware(observed)(environ, start_response)
        if streams:
            # It is not iterated over here.
            result.closed = True
            return streams[0]
        return result

    return linted


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
