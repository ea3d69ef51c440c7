"""What is done differently for Hypercorn 0.18."""

import asyncio
import sys
import weakref
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

from pyramid_asgi_consumers.quirks.specification import Server, Stop


class Hypercorn(Server):
    """Hypercorn 0.18, on a websocket."""

    minds_who_left = False

    def websocket(self, receive: Any, send: Any) -> tuple[Any, Any]:
        """Tell of a client that has left even when the queue is full; then ``send`` raises.

        Hypercorn finds out in the application's own ``send``, and waits there until the queue of
        received events has room. Where it is full, that is for ever: nobody receives.
        """
        stream = _stream_of(send)
        if stream is None:
            return receive, send
        stream.app_put = partial(_put, stream.app_put)

        def unless_left_send(message: dict[str, Any]) -> Awaitable[None]:
            if stream.closed and message["type"] == "websocket.send":
                return _gone()
            return send(message)

        return receive, unless_left_send

    def accept(self, scope: Mapping[str, Any], event: dict[str, Any]) -> dict[str, Any]:
        """Put a subprotocol that Hypercorn does not know among the headers.

        Where the client offers them in several, Hypercorn knows the last and raises for the others.
        Among the headers it looks for one in lower case.
        """
        subprotocol = event["subprotocol"]
        if subprotocol is None or subprotocol in scope["subprotocols"]:
            return event
        header = (b"Sec-WebSocket-Protocol", subprotocol.encode("latin-1"))
        return {**event, "subprotocol": None, "headers": [*event["headers"], header]}

    def refused(self, send: Any) -> None:
        """Hypercorn takes a websocket for open before it finds that it cannot accept it."""
        stream = _stream_of(send)
        if stream is not None:
            stream.state = type(stream.state).HANDSHAKE

    def has_left(self, send: Any) -> bool:
        """Whether Hypercorn has given the handshake up.

        It answers 400 to what comes before the accept, in the same packet, say. From then on its
        ``send`` does nothing, and nobody is told.
        """
        stream = _stream_of(send)
        return stream is not None and stream.closed


async def _put(put: Callable[[Any], Awaitable[None]], event: dict[str, Any]) -> None:
    if event["type"] == "websocket.disconnect":
        queue = getattr(put, "__self__", None)
        if isinstance(queue, asyncio.Queue):
            # It is the last event; the bound of a queue is for its maker alone to set.
            queue._maxsize = 0  # type: ignore[attr-defined]
            # Nobody may receive any more, and who reads from the connection waits for room.
            queue._wakeup_next(queue._putters)  # type: ignore[attr-defined]
    await put(event)


async def _gone() -> None:
    # Who tries again and again does not keep others from their turn.
    await asyncio.sleep(0)
    raise OSError("The client has left")


def _stream_of(send: Any) -> Any:
    """What Hypercorn serves a websocket with, None where it is not found."""
    # Middleware may have wrapped send, but is in the task that Hypercorn has made mostly.
    task: Any = asyncio.current_task()
    frame = getattr(task.get_coro(), "cr_frame", None)
    sends = [send] if frame is None else [send, frame.f_locals.get("send")]
    for each in sends:
        stream = getattr(each, "__self__", None)
        if type(stream).__module__ == "hypercorn.protocol.ws_stream":
            return stream
    return None


#: What serves its websockets.
SERVER = Hypercorn()


def waits_for_ever() -> bool:
    """Whether the server may wait without an end for a task that goes on though it is cancelled.

    Hypercorn 0.18 does, in a task group for each connection, before it ends the lifespan.
    """
    return "hypercorn.asyncio.run" in sys.modules


#: The ``graceful_timeout`` of Hypercorn's server that stops, by event loop.
_stopping: "weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, float]" = (
    weakref.WeakKeyDictionary()
)


def patience() -> float | None:
    """For how many seconds to wait for what was cancelled; None without a bound.

    As Hypercorn 0.18 stops it has given its connections the ``graceful_timeout`` already, and
    would wait for ever: they are given that time once more.
    """
    module = sys.modules.get("hypercorn.asyncio.run")
    if module is None:
        return None
    # All its connections ask at once, so it is looked for among all tasks until it stops.
    loop = asyncio.get_running_loop()
    if loop not in _stopping:
        for task in asyncio.all_tasks():
            coroutine: Any = task.get_coro()
            # The server's function is awaited by serve(), or is a task by itself.
            while getattr(coroutine, "cr_code", module.worker_serve.__code__) is not (
                module.worker_serve.__code__
            ):
                coroutine = coroutine.cr_await
            running = getattr(coroutine, "cr_frame", None)
            if running is not None and "context" in running.f_locals:
                if running.f_locals["context"].terminated.is_set():
                    _stopping[loop] = running.f_locals["config"].graceful_timeout
                    break
    return _stopping.get(loop)


def stop_of(coroutine: Any) -> Stop | None:
    """What tells of the stop of the server that ``coroutine`` runs, if that is Hypercorn 0.18.

    Its worker processes see no signal.
    """
    module = sys.modules.get("hypercorn.asyncio.run")
    if module is None or coroutine.cr_code is not module.worker_serve.__code__:
        return None

    def has_begun() -> bool:
        # There is none before it listens.
        context = coroutine.cr_frame.f_locals.get("context")
        return context is not None and (context.terminate.is_set() or context.terminated.is_set())

    return Stop(coroutine, has_begun)
