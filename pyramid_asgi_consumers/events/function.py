"""The ASGI application that is made of a function of ``add_event_stream``."""

import asyncio
import logging
import random
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from webob.acceptparse import create_accept_header
from zope.interface import implementer

from pyramid_asgi_consumers import quirks, stubborn
from pyramid_asgi_consumers.events.relay import Frames
from pyramid_asgi_consumers.events.stream import HEADERS, EventStream
from pyramid_asgi_consumers.exceptions import ClientDisconnected, SubscriptionOverflow
from pyramid_asgi_consumers.handshake.connected import (
    CONNECTION,
    DEFAULT_LEAVE_TIMEOUT,
    LEAVE_TIMEOUT,
)
from pyramid_asgi_consumers.interfaces import IEventStreams
from pyramid_asgi_consumers.raised import carried, contained, out_of_group
from pyramid_asgi_consumers.refusal import refuse
from pyramid_asgi_consumers.shown import Shown
from pyramid_asgi_consumers.stopping import Ends, Stopping
from pyramid_asgi_consumers.turns import until_left

log = logging.getLogger(__name__)

MEDIA_TYPE = "text/event-stream"

# It is the only one that there is; WebOb would not find it, as offers have no parameters here.
_CHARSET = re.compile(r'(text/event-stream)[ \t]*;[ \t]*charset="?utf-8"?', re.IGNORECASE)

# For so many seconds a function may clean up, and its client take what was sent, before its stream
# is ended as the server stops.
STOP_PATIENCE = 0.5

# Its client comes again after so many milliseconds, at least and at most: browsers wait for 3,000
# to 5,000 by themselves.
STOP_RETRY = (1000, 5000)

Receive = Callable[[], Awaitable[dict[str, Any]]]


@implementer(IEventStreams)
@dataclass
class EventStreams:
    """What all event streams of an application share.

    A comment is sent after ``heartbeat`` seconds of silence; ``stopping`` tells when the server
    stops.
    """

    heartbeat: float
    stopping: Stopping
    frames: Frames = field(default_factory=Frames)


class EventStreamFunction:
    """An ASGI application that awaits ``func(stream)``; ``declared`` is its name, for logs.

    HEAD and a request that accepts no events are answered without it. Where it returns before the
    stream has begun the client gets 204, on which ``EventSource`` does not come again. Where the
    client leaves, it is cancelled; where it knows that already, after the seconds that
    ``asgi.leave_timeout`` says. Where the server stops it is cancelled, and the response ends.
    """

    # What errors of its declaration say.
    directive = "add_event_stream"
    protocol = "http"
    takes = "stream"
    sends_json = "stream.send()"

    #: The scope is to have :data:`.quirks.AT_ONCE`.
    sends_at_once = True

    #: Requests with other methods are Pyramid's.
    methods = frozenset(("GET", "HEAD"))

    def __init__(self, func: Callable[[EventStream], Awaitable[object]], declared: str) -> None:
        self.func = func
        self.declared = declared

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if not _accepts_events(scope):
            return await refuse(scope, send, 406)
        if scope["method"] == "HEAD":
            headers = list(HEADERS)
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            return await send({"type": "http.response.body", "body": b"", "more_body": False})
        streams = scope["pyramid.registry"].getUtility(IEventStreams)
        stream = EventStream(scope, send, streams.frames, streams.heartbeat)
        leave_timeout = scope.get(LEAVE_TIMEOUT, DEFAULT_LEAVE_TIMEOUT)
        try:
            connection = scope.get(CONNECTION)
            if not await self._run(stream, receive, streams.stopping, leave_timeout, connection):
                if stream._ready and stream._refused is not None:
                    # Uvicorn 0.54 tells it in no other way where another request waits behind.
                    raise stream._refused
                return
            if stream._has_begun:
                await stream._finish()
            else:
                await send({"type": "http.response.start", "status": 204, "headers": []})
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            # For tasks that the function has left behind.
            stream._close(False)

    async def _run(
        self,
        stream: EventStream,
        receive: Receive,
        stopping: Stopping,
        leave_timeout: float,
        connection: Any,
    ) -> bool:
        """Run the function to its end; return whether the response is to be ended.

        Raises what the function raises.
        """
        loop = asyncio.get_running_loop()
        task = loop.create_task(contained(self._called(stream)))
        listener = loop.create_task(_until_left(stream, receive))
        # Whether its client is to come again, once it is to end.
        stopped: asyncio.Future[bool] = loop.create_future()

        def stop(comes_again: bool = True) -> None:
            if not stopped.done():
                stopped.set_result(comes_again)

        if connection is not None:
            connection.ends = partial(stop, False)

        endings = stopping.of(loop)
        patience = quirks.patience()
        was_interrupted = False
        try:
            endings.add(stop)
            await asyncio.wait(
                {task, stream._closed, stopped, listener}, return_when=asyncio.FIRST_COMPLETED
            )
            was_ended = task.done()
            if not was_ended and stopped.done():
                patience = leave_timeout
                was_interrupted = True
                await self._stop(stream, task, endings if stopped.result() else None)
            elif not was_ended:
                if stream._knows:
                    await asyncio.wait(
                        {task, stopped}, timeout=leave_timeout, return_when=asyncio.FIRST_COMPLETED
                    )
                    was_ended = task.done()
                    if not was_ended and not stopped.done():
                        log.warning(
                            "%s goes on %g s after its client has left: cancelled",
                            self.declared,
                            leave_timeout,
                        )
                # It may take its time to end, but for a server that stops.
                task.cancel()
                await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
                if stopped.done():
                    patience = leave_timeout
        finally:
            endings.discard(stop)
            beating = stream._end()
            others = {listener} if beating is None else {listener, beating}
            await stubborn.end({task, *others}, patience)
        if task.done() and (was_ended or not task.cancelled()):
            await self._hear(stream, task)
        for other in others:
            if other.done() and not other.cancelled():
                # Raises what the server has raised.
                other.result()
        return not (stream._closed.done() or was_interrupted)

    async def _called(self, stream: EventStream) -> None:
        result = await self.func(stream)
        if result is not None:
            log.warning(
                "%s returned a %s, which nobody gets: a stream sends, an HTTPException is raised",
                self.declared,
                type(result).__name__,
            )

    async def _stop(
        self, stream: EventStream, task: "asyncio.Task[Any]", endings: Ends | None
    ) -> None:
        """Cancel the function, and end its response.

        The client comes again where the server stops, whose ``endings`` these are; None is for one
        whose user is put out.
        """
        task.cancel()
        await asyncio.wait({task}, timeout=STOP_PATIENCE)
        if endings is not None:
            endings.break_off(stream.scope)
            # All clients of the server come again: not all at once.
            end = stream._interrupt(random.randint(*STOP_RETRY))
        else:
            end = stream._finish(refusal=403)
        try:
            await asyncio.wait_for(end, STOP_PATIENCE)
        except (asyncio.TimeoutError, OSError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not quirks.is_of_a_closed_transport(error):
                raise
            # It takes nothing, or has left meanwhile.
            stream._leave()

    async def _hear(self, stream: EventStream, task: "asyncio.Task[Any]") -> None:
        if task.cancelled():
            raise carried(asyncio.CancelledError())
        raised = task.exception()
        if raised is None:
            return
        error = out_of_group(raised)
        if isinstance(error, SubscriptionOverflow):
            log.warning("%s ends: %s", self.declared, Shown(error))
            # A 204 would keep the client from coming again.
            await stream._begin()
        elif not (isinstance(error, ClientDisconnected) and stream._closed.done()):
            raise raised


async def _until_left(stream: EventStream, receive: Receive) -> None:
    await until_left(receive)
    stream._leave()


def _accepts_events(scope: dict[str, Any]) -> bool:
    values = [value.decode("latin-1") for name, value in scope["headers"] if name == b"accept"]
    accepted = _CHARSET.sub(r"\1", ", ".join(values))
    accept = create_accept_header(accepted if any(values) else None)
    return bool(accept.acceptable_offers([MEDIA_TYPE]))
