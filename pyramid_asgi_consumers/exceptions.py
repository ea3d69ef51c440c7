"""The errors this package raises."""

from typing import Any

from pyramid.exceptions import ConfigurationError

from pyramid_asgi_consumers.shown import Shown

__all__ = [
    "BadRequest",
    "BodyTooLarge",
    "ChannelsError",
    "ClientDisconnected",
    "ConfigurationError",
    "InvalidEvent",
    "InvalidJSON",
    "InvalidMessage",
    "LifespanError",
    "PublishRefused",
    "PublishUnknown",
    "ServerStopping",
    "StreamEnded",
    "StreamRefused",
    "SubscriptionOverflow",
    "WSGIError",
    "WebSocketDenied",
    "WebSocketDisconnect",
    "WrongMessageKind",
]


class BadRequest(ValueError):
    """A scope that no request can be made of: the client is answered with 400."""


class WebSocketDisconnect(Exception):
    """The client has left a websocket.

    ``code`` is the close code (RFC 6455 section 7.4), 1006 where the connection just broke;
    ``reason`` is the text the client gave, or an empty string.
    """

    def __init__(self, code: int = 1005, reason: str | None = None) -> None:
        super().__init__(code, reason or "")
        self.code = code
        self.reason = reason or ""


class InvalidMessage(ValueError):
    """A client sent another message than the consumer asked for.

    Where the consumer does not catch it, the websocket is closed with ``close_code``, or denied
    with ``status``.
    """

    close_code = 1008
    status = 400


class WrongMessageKind(InvalidMessage):
    """A client sent text where the consumer asked for binary, or the other way round."""

    close_code = 1003


class InvalidJSON(InvalidMessage):
    """A client sent a message that the consumer asked for as JSON, and that does not parse."""

    close_code = 1007


class WebSocketDenied(Exception):
    """A websocket that a test wanted to open was refused.

    ``response`` is the answer to its handshake, a WebTest response; where the refusal is a bare
    close it is the 403 that servers make of that.
    """

    def __init__(self, response: Any) -> None:
        super().__init__(response)
        self.response = response

    def __str__(self) -> str:
        return f"{self.response.status} for the websocket {self.response.request.path_qs}"


class StreamRefused(Exception):
    """What a test wanted to read as an event stream is none.

    ``response`` is the answer, a WebTest response: a refusal, a redirect, a 204, or another type
    than ``text/event-stream``.
    """

    def __init__(self, response: Any) -> None:
        super().__init__(response)
        self.response = response

    def __str__(self) -> str:
        response = self.response
        kind = f" ({response.content_type})" if response.status_int == 200 else ""
        return f"{response.status}{kind} for the event stream {response.request.path_qs}"


class StreamEnded(EOFError):
    """A test waited for the next event of a stream that has ended.

    The ``__cause__`` is what the application raised, if it did.
    """


class BodyTooLarge(Exception):
    """A request's body passes the setting ``asgi.max_body_size``: the client gets 413."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"The body is longer than {limit} bytes (asgi.max_body_size)")
        self.limit = limit


class ClientDisconnected(OSError):
    """The HTTP client has left while its request was read or its response was sent."""


class ServerStopping(Exception):
    """The server stops, and breaks off a response that had no end yet."""


class WSGIError(RuntimeError):
    """A WSGI application does what PEP 3333 forbids; the message says what."""


class LifespanError(RuntimeError):
    """An application could not start, or could not stop; the message is its own."""


class ChannelsError(Exception):
    """Channels could not do what they were asked; the message says what and why."""


class PublishRefused(ChannelsError):
    """An event was not published, for certain."""


class PublishUnknown(ChannelsError):
    """Nobody knows whether an event was published: the connection failed before the answer."""


class InvalidEvent(ChannelsError):
    """The ``data`` of an event does not parse: something else than channels published it.

    Channels publish only what parses. What others write into Redis is looked at no further than
    is cheap; ``json`` is that text, as it came.
    """


class SubscriptionOverflow(ChannelsError):
    """A subscriber with ``overflow="close"`` was slower than what was published.

    ``channels`` are the names it subscribed to, ``max_queue`` the events that could wait for it,
    ``max_bytes`` the bytes, where these were too few, else None. Uncaught, it closes a websocket
    with 1013, "try again later"; before the accept it is a 503.
    """

    close_code = 1013
    status = 503

    def __init__(
        self, channels: tuple[str, ...], max_queue: int, max_bytes: int | None = None
    ) -> None:
        bound = f"{max_queue} events" if max_bytes is None else f"{max_bytes} bytes"
        super().__init__(
            f"More than {bound} waited for a subscriber of {Shown(', '.join(channels))}"
        )
        self.channels = channels
        self.max_queue = max_queue
        self.max_bytes = max_bytes
