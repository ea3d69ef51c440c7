"""One http request to a consumer: what its messages go through, and how it ends."""

import asyncio
import logging
from functools import partial
from time import monotonic
from typing import Any

from pyramid.httpexceptions import HTTPException

from pyramid_asgi_consumers import quirks
from pyramid_asgi_consumers.connection.errors import (
    ClientGone,
    gone,
    response_of,
    says_that_the_client_left,
)
from pyramid_asgi_consumers.connection.leaving import RequestWatcher
from pyramid_asgi_consumers.connection.shared import Shared
from pyramid_asgi_consumers.connection.users import Connection
from pyramid_asgi_consumers.contexts import context_of
from pyramid_asgi_consumers.exceptions import ClientDisconnected, InvalidMessage
from pyramid_asgi_consumers.headers import Headers, merged
from pyramid_asgi_consumers.mapper import Consumer
from pyramid_asgi_consumers.raised import StandIn, caught, out_of_group, separate
from pyramid_asgi_consumers.refusal import answer_nobody, fail, refuse
from pyramid_asgi_consumers.shown import Shown
from pyramid_asgi_consumers.turns import TURN, give_way

log = logging.getLogger(__name__)


_BYTES = (bytes, bytearray, memoryview)

# The messages that carry a body, or its rest: also those of extensions (ASGI, Zero Copy Send and
# Path Send).
_BODIES = frozenset(("http.response.body", "http.response.zerocopysend", "http.response.pathsend"))


async def serve_http(
    consumer: Consumer,
    scope: dict[str, Any],
    receive: Any,
    send: Any,
    headers: Headers,
    shared: Shared,
    connection: Connection | None = None,
) -> None:
    """Serve a request that was admitted, to the end of its response.

    ``headers`` are added to those with which the consumer answers; ``connection`` is a guarded one,
    which may be put out.
    """
    started = ended = over = put_out = False
    sending: Any = None
    server = quirks.served_by(scope, send)
    paced = server.paced(send)
    turns = shared.turns
    due = 0.0
    watcher = RequestWatcher(scope, receive, shared.sweep)
    # A mounted application was written by others, and goes on as it does without us.
    is_own = not consumer.mounted

    def close(code: int, reason: str) -> None:
        nonlocal put_out
        if over or ended:
            return
        put_out = True
        if connection is not None and connection.ends is not None:
            connection.ends()
        else:
            watcher.put_out()

    if connection is not None:
        connection.closes(close)

    def tracked(message: dict[str, Any]) -> Any:
        nonlocal due, sending
        if watcher.left and is_own and not ended:
            # As the specification asks of servers.
            if not over:
                watcher.told(str(consumer), scope, turns.loop)
            return gone(message)
        kind = message["type"]
        if kind == "http.response.start":
            if headers:
                message = {**message, "headers": merged(message.get("headers"), headers)}
            return taking(message, False)
        elif kind in _BODIES:
            body = message.get("body", b"")
            if not isinstance(body, _BYTES):
                # Some servers answer with less, or hang.
                raise TypeError(f"{consumer} must send bytes as body, not {type(body).__name__}")
            if not message.get("more_body"):
                return taking(message, True)
            if (now := monotonic()) >= due:
                due = now + TURN
                if turns.missed(now):
                    sending = give_way(paced, message)
                    return sending
        sending = paced(message)
        return sending

    async def taking(message: dict[str, Any], is_end: bool) -> None:
        # What the server does not take has not happened, but for a client that has left.
        nonlocal started, ended, sending
        before = started, ended
        if is_end:
            ended = True
            watcher.stop()
        else:
            started = watcher.started = True
        try:
            sending = paced(message)
            await sending
        except OSError:
            raise
        except Exception:
            started, ended = before
            if not started:
                server.refused(send)
            raise

    if getattr(consumer.app, "sends_at_once", False):
        scope[quirks.AT_ONCE] = quirks.at_once(paced)
    task: Any = asyncio.current_task(turns.loop)
    try:
        call, runs = separate(consumer.app(scope, watcher.receive, tracked), task)
        if is_own:
            watcher.watch(runs)
        try:
            await call
        except (asyncio.CancelledError, StandIn) as stopped:
            if not watcher.has_cancelled(stopped):
                raise
        finally:
            # Tasks of the consumer's may go on.
            over = True
            if not ended:
                watcher.stop()
            if not watcher.idle:
                await watcher.end()
        if put_out and not ended:
            await _turn_away(scope, send, started, server)
        elif not ended:
            if not await watcher.has_left():
                raise RuntimeError(
                    f"{consumer} returned {'before the end of' if started else 'without'}"
                    " its response"
                )
            if not started:
                await answer_nobody(scope, send)
    except BaseException as raised:
        error = out_of_group(caught(raised, task))
        if put_out and not ended and isinstance(error, ClientDisconnected):
            await _turn_away(scope, send, started, server)
        elif isinstance(error, ClientGone) and not started:
            log.debug("The client of %s had left: %s", consumer, Shown(error))
            await answer_nobody(scope, send)
        elif says_that_the_client_left(error, send, sending):
            log.debug("The client of %s had left: %s", consumer, Shown(error))
        elif isinstance(error, HTTPException) and not started:
            await refuse(scope, send, *response_of(consumer, error))
        elif isinstance(error, InvalidMessage) and not started:
            log.warning("%d for %s: %s", error.status, consumer, Shown(error))
            await refuse(scope, send, error.status)
        elif ended:
            report = partial(log.error, "%s failed after its response", consumer, exc_info=error)
            context_of(error).run(report)
        else:
            await fail(scope, send, started, error, server=server)


async def _turn_away(
    scope: dict[str, Any], send: Any, started: bool, server: quirks.Server
) -> None:
    if started:
        # Servers break off what returns before its end, and say less of it than of an error.
        server.break_off()
    else:
        await refuse(scope, send, 403)
