"""Tells whether an error of a consumer means that its client has left.

What is sent for an error is decided in ``connection.websocket`` and ``connection.http``.
"""

import asyncio
import logging
from typing import Any

from pyramid.httpexceptions import HTTPException

from pyramid_asgi_consumers import quirks
from pyramid_asgi_consumers.exceptions import (
    ClientDisconnected,
    WebSocketDisconnect,
)
from pyramid_asgi_consumers.headers import Headers
from pyramid_asgi_consumers.mapper import Consumer
from pyramid_asgi_consumers.refusal import rendered

log = logging.getLogger(__name__)

#: What to refuse with: status, headers and body, as refuse() takes them.
Response = tuple[int, Headers | None, bytes]


class ClientGone(ClientDisconnected):
    """What the consumer's ``send`` raises where the server's does not."""


async def gone(message: dict[str, Any]) -> None:
    """What the consumer's ``send`` returns once its client has left."""
    # A consumer that ignores the error must still let other tasks run, and be cancelled.
    await asyncio.sleep(0)
    raise ClientGone("The client has left")


def _was_raised_by(send: Any, sending: Any, error: BaseException) -> bool:
    # An OSError of the consumer's own (a database that is down) must not pass for a client that
    # left. Wrapping send in a coroutine would tell them apart at a price for every message; the
    # traceback tells it for nothing. What middleware has made of send may be any callable: there
    # it is the coroutine that it returned last, ``sending``.
    codes = [getattr(send, "__code__", None), getattr(sending, "cr_code", None)]
    traceback = error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_code in codes:
            return True
        traceback = traceback.tb_next
    return False


def says_that_the_client_left(error: BaseException, send: Any, sending: Any) -> bool:
    """Whether ``error``, which a consumer raised, says that its client has left, and no more.

    ``send`` is the server's, ``sending`` what it returned last.
    """
    return isinstance(error, ClientGone | WebSocketDisconnect) or (
        (isinstance(error, OSError) or quirks.is_of_a_closed_transport(error))
        and _was_raised_by(send, sending, error)
    )


def response_of(consumer: Consumer, error: HTTPException) -> Response:
    """Status, headers and body of the response that ``consumer`` has raised; what to refuse with.

    It may be one that cannot be sent, or made: that is logged, and becomes a 500.
    """
    try:
        return rendered(error)
    except Exception:
        log.exception("%s raised a response that cannot be sent", consumer)
        return 500, None, b""
