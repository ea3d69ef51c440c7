"""WebTest over an ASGI application, websockets and streams included; and it for real clients."""

try:
    import webtest  # noqa: F401
except ImportError as error:
    raise ImportError(
        "pyramid_asgi_consumers.testing needs WebTest: pip install webtest"
    ) from error

from pyramid_asgi_consumers.exceptions import (
    StreamEnded,
    StreamRefused,
    WebSocketDenied,
    WebSocketDisconnect,
)
from pyramid_asgi_consumers.testing.application import TestApp
from pyramid_asgi_consumers.testing.events import ServerSentEvent
from pyramid_asgi_consumers.testing.live import LiveServer, serving
from pyramid_asgi_consumers.testing.stream import TestStream
from pyramid_asgi_consumers.testing.websocket import TestWebSocket

__all__ = [
    "LiveServer",
    "ServerSentEvent",
    "StreamEnded",
    "StreamRefused",
    "TestApp",
    "TestStream",
    "TestWebSocket",
    "WebSocketDenied",
    "WebSocketDisconnect",
    "serving",
]
