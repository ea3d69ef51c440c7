"""One websocket of a consumer: what its messages go through, and how it ends."""

# The annotations of inner functions would be made for each connection, and kept.
from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import Any

from pyramid.httpexceptions import HTTPException

from pyramid_asgi_consumers import quirks, stubborn
from pyramid_asgi_consumers.connection.errors import (
    ClientGone,
    Response,
    gone,
    response_of,
    says_that_the_client_left,
)
from pyramid_asgi_consumers.connection.leaving import SenderWatcher
from pyramid_asgi_consumers.connection.limits import MessageLimits
from pyramid_asgi_consumers.connection.shared import Shared
from pyramid_asgi_consumers.connection.users import Connection
from pyramid_asgi_consumers.connection.waking import Wakeable
from pyramid_asgi_consumers.contexts import context_of
from pyramid_asgi_consumers.exceptions import (
    InvalidMessage,
    SubscriptionOverflow,
)
from pyramid_asgi_consumers.handshake.connected import DEFAULT_LEAVE_TIMEOUT, LEAVE_TIMEOUT
from pyramid_asgi_consumers.headers import Headers, merged
from pyramid_asgi_consumers.mapper import Consumer
from pyramid_asgi_consumers.raised import StandIn, caught, out_of_group, separate
from pyramid_asgi_consumers.refusal import refuse
from pyramid_asgi_consumers.shown import Shown
from pyramid_asgi_consumers.turns import TURN, give_way

log = logging.getLogger(__name__)


async def serve_websocket(
    consumer: Consumer,
    scope: dict[str, Any],
    receive: Any,
    send: Any,
    headers: Headers,
    shared: Shared,
    limits: MessageLimits | None = None,
    connection: Connection | None = None,
) -> None:
    """Serve a websocket that was admitted, to its close.

    ``headers`` are added to those with which the consumer accepts it; ``limits`` are those of what
    its client sends; ``connection`` is a guarded one, which may be put out.
    """
    # A function that watches itself has a task of its own.
    watches = getattr(consumer.app, "watches", False)
    state = "connecting"
    over = False
    server = quirks.served_by(scope, send)
    server_send = send
    receive, send = server.websocket(receive, send)
    closing: asyncio.Task[None] | None = None
    # When it is waited for no longer, in the loop's time.
    too_late = 0.0
    wake: Callable[[dict[str, Any]], None] | None = None
    # Whether the server has accepted it, once that is known.
    accepting: asyncio.Future[bool] | None = None
    # A function that is made here is kept for as long as the websocket is open.
    if connection is not None or limits is not None:

        def close(code: int, reason: str = "") -> None:
            nonlocal state, send, closing, too_late
            if over or state == "closed":
                return
            # The consumer hears of it, as of a client that leaves, whether or not the client reads.
            before, state = state, "closed"
            too_late = turns.loop.time() + scope.get(LEAVE_TIMEOUT, DEFAULT_LEAVE_TIMEOUT)
            closing = turns.loop.create_task(ending(before, send, code, reason))
            send = gone
            if wake is not None:
                wake({"type": "websocket.disconnect", "code": code, "reason": reason})
            if connection is not None and connection.ends is not None:
                connection.ends()
            if watcher is not None:
                watcher.told(str(consumer), scope, turns.loop)

        async def ending(before: str, send: Any, code: int, reason: str) -> None:
            if accepting is not None:
                await asyncio.wait({accepting})
                if not accepting.result():
                    before = "connecting"
            if before == "open":
                await _closed(consumer, server, send, code, reason)
            elif before == "connecting":
                await refuse(scope, send, 403, server=server)

        if connection is not None:
            wakeable = Wakeable(receive, shared.loop)
            receive, wake = wakeable.receive, wakeable.wake
            connection.closes(close)
        if limits is not None:
            receive = limits.receive(scope, receive, close)
    denies = "websocket.http.response" in (scope.get("extensions") or {})
    held: dict[str, Any] | None = None
    sending: Any = None
    turns = shared.turns
    due = 0.0
    watcher: Any = None if watches else SenderWatcher(receive)
    asked: Any = None

    def tracked(message: dict[str, Any]) -> Any:
        nonlocal sending
        kind = message["type"]
        if kind == "websocket.send":
            if monotonic() >= due:
                return looking(message)
        elif kind == "websocket.accept":
            if headers:
                message = {**message, "headers": merged(message.get("headers"), headers)}
            return settling(message, "open")
        elif kind == "websocket.close":
            return settling(message, "closed")
        elif denies and kind == "websocket.http.response.start" and state == "connecting":
            return holding(message)
        elif denies and kind == "websocket.http.response.body":
            return settling(message, "denying" if message.get("more_body") else "closed")
        sending = send(message)
        return sending

    async def settling(message: dict[str, Any], to: str) -> None:
        nonlocal state, sending, held, accepting
        if closing is not None:
            return await gone(message)
        before, state = state, to
        accepted = None
        if to == "open" and connection is not None:
            accepted = accepting = turns.loop.create_future()
        try:
            if held is not None and message["type"] == "websocket.http.response.body":
                start, held = held, None
                sending = send(start)
                await sending
                before = to
            sending = send(message)
            await sending
        except OSError:
            raise
        except Exception:
            # The server has not taken it, whatever it is by now itself.
            if state == to:
                state = before
            if before == "connecting":
                server.refused(server_send)
            raise
        else:
            if accepted is not None:
                accepted.set_result(True)
        finally:
            if accepted is not None and not accepted.done():
                accepted.set_result(False)
        if to == "open" and server.has_left(server_send):
            raise ClientGone("The client has left")

    async def holding(message: dict[str, Any]) -> None:
        # The first message of the body sends it, as the specification asks of servers: until
        # then the handshake can still be answered otherwise.
        nonlocal held
        held = message

    def looking(message: dict[str, Any]) -> Any:
        nonlocal due, receive, sending
        now = monotonic()
        due = now + TURN
        if watcher is not None:
            if watcher.left:
                # As the specification asks of servers, some of which never say so.
                # A mounted application was written by others, and goes on as it does without us.
                if not over and not consumer.mounted:
                    watcher.told(str(consumer), scope, turns.loop)
                return gone(message)
            receive = watcher.look(asked, now)
        sending = give_way(send, message) if turns.missed(now) else send(message)
        return sending

    sends_at_once: Any = None
    if getattr(consumer.app, "sends_at_once", False):
        sends_at_once = quirks.at_once(send)
    if sends_at_once is not None:

        def at_once(message: dict[str, Any]) -> bool:
            return state == "open" and sends_at_once(message)

        scope[quirks.AT_ONCE] = at_once
    denial: Response = (403, None, b"")
    code = 1000
    task: Any = asyncio.current_task(turns.loop)
    try:
        if watcher is None:
            await consumer.app(scope, receive, tracked)
        else:

            def kept_receive() -> Any:
                nonlocal asked
                asked = receive()
                return asked

            def noted_receive() -> Any:
                nonlocal asked
                asked = watcher.noted(receive)
                return asked

            own = kept_receive if server.minds_who_left else noted_receive
            call, runs = separate(consumer.app(scope, own, tracked), task)
            watcher.watch(runs)
            try:
                await call
            except (asyncio.CancelledError, StandIn) as stopped:
                if not watcher.has_cancelled(stopped):
                    raise
                raise ClientGone("The client has left") from None
            finally:
                # Tasks of the consumer's may go on.
                over = True
                await watcher.end()
        if closing is None and (held is not None or state == "denying"):
            part = "body" if held is not None else "end"
            raise RuntimeError(f"{consumer} returned before the {part} of its denial")
    except BaseException as raised:
        error = out_of_group(caught(raised, task))
        if says_that_the_client_left(error, send, sending):
            log.debug("The client of %s had left: %s", consumer, Shown(error))
            if state == "connecting":
                # Nobody gets this, but servers log a handshake that was not answered.
                await refuse(scope, send, 503, server=server)
            return
        if isinstance(error, HTTPException):
            code = 4000 + error.status_int
            if state == "connecting":
                denial = response_of(consumer, error)
        elif isinstance(error, InvalidMessage | SubscriptionOverflow):
            log.warning("%s closes with %d: %s", consumer, error.close_code, Shown(error))
            denial, code = (error.status, None, b""), error.close_code
        else:
            context_of(error).run(partial(log.error, "%s failed", consumer, exc_info=error))
            denial, code = (500, None, b""), 1011
    finally:
        over = True
        if closing is not None:
            # A client that reads nothing does not keep its place.
            await stubborn.wait(closing, max(0.0, too_late - turns.loop.time()))
    if state == "connecting":
        await refuse(scope, send, *denial, server=server)
    elif state == "denying":
        if not server.breaks_denials_off:
            with contextlib.suppress(*quirks.CLIENT_WAS_FASTER):
                await send({"type": "websocket.http.response.body", "body": b""})
    elif state == "open":
        await _closed(consumer, server, send, code)


async def _closed(
    consumer: Consumer, server: quirks.Server, send: Any, code: int, reason: str = ""
) -> None:
    try:
        await server.close(send, {"type": "websocket.close", "code": code, "reason": reason})
    except quirks.CLIENT_WAS_FASTER as error:
        # Servers say in different ways that the client was faster.
        log.debug("The client of %s had left: %s", consumer, Shown(error))
