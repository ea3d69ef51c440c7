"""What the package asks about a server.

The defaults of :class:`Server` are what the ASGI specification says, and what holds for all
servers. Each server has a file of its own that overrides them.
"""

from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any

Headers = list[tuple[bytes, bytes]]


#: What servers raise where the client has closed a websocket that is to be closed; AttributeError
#: is that of Uvicorn 0.54's ``websockets`` implementation, for a client that resets at once.
CLIENT_WAS_FASTER = (OSError, RuntimeError, AttributeError)


#: Where the scope of a consumer's connection has its :class:`Server`.
SERVED_BY = "pyramid_asgi_consumers.served_by"

#: Where the scope of a function's connection has what sends a message at once, and returns True;
#: or False, and has done nothing, since it might have to wait. It is None where the server's
#: ``send`` is not known well enough.
AT_ONCE = "pyramid_asgi_consumers.at_once"


class Server:
    """What serves one connection, and what is done differently for it: here nothing is."""

    def root_path(self, scope: Mapping[str, Any]) -> str:
        """The root path that ``scope`` states, as far as it can be trusted."""
        return scope.get("root_path") or ""

    def break_off(self) -> bool:
        """Break off a response that has started.

        Returns True if that is done, False if the caller is to raise.
        """
        return False

    def paced(self, send: Any) -> Any:
        """A ``send`` for http that waits while the client is slow."""
        return send

    def websocket(self, receive: Any, send: Any) -> tuple[Any, Any]:
        """The ``receive`` and ``send`` of a websocket that do what the specification says."""
        return receive, send

    async def close(self, send: Any, event: dict[str, Any]) -> None:
        """Send ``event``, the ``websocket.close``, perhaps while another task waits to send."""
        await send(event)

    def denial_status(self, status: int) -> int:
        """The status of a denial that can be sent.

        Uvicorn 0.54 and Hypercorn 0.18 forward a 1xx as it is, and Granian 2.8.7 opens the
        websocket for a 101; what is above 599 none of the three can send.
        """
        return status if 200 <= status <= 599 else 500

    def denial_headers(self, headers: Headers) -> Headers:
        """The headers of a denial that can be sent."""
        return headers

    def accept(self, scope: Mapping[str, Any], event: dict[str, Any]) -> dict[str, Any]:
        """``event``, the ``websocket.accept``, so that any subprotocol that was offered is sent."""
        return event

    def refused(self, send: Any) -> None:
        """The server has raised on an answer: make it ready to take another one.

        ``send`` is what the server, or middleware, gave.
        """

    def has_left(self, send: Any) -> bool:
        """Whether the client of a websocket that was just accepted has left already.

        Asked because ``receive`` would never tell.
        """
        return False

    #: Whether ``receive`` tells of a client that leaves before its request was answered.
    tells_who_left_early = True

    #: Whether a denial of which the end is missing is broken off as the application returns.
    breaks_denials_off = True

    #: Whether, once a websocket's ``receive`` has told that the client has left, ``send`` raises,
    #: and ``receive`` suspends or raises.
    minds_who_left = True


PLAIN = Server()


#: It gets the seconds that it may take, None where the server does not say.
Leave = Callable[[float | None], Coroutine[Any, Any, object]]


class Stop:
    """A server that runs on an event loop, by the ``coroutine`` that serves.

    ``has_begun()`` tells whether it has begun to stop, until it is over.
    """

    def __init__(self, coroutine: Any, has_begun: Callable[[], bool]) -> None:
        self._coroutine = coroutine
        self.has_begun = has_begun

    def break_off(self, scopes: Iterable[Mapping[str, Any]]) -> None:
        """Break the connections of ``scopes`` off whose clients take nothing of what was sent."""

    def is_over(self) -> bool:
        """Whether it serves no more."""
        return self._coroutine.cr_frame is None

    def hold_up(self, have_ended: Callable[[], bool]) -> None:
        """Have the server wait a little for what ends, until ``have_ended()``.

        Called once. Most servers do wait for their responses.
        """
