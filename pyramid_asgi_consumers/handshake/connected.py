"""What the functions of ``add_websocket`` and ``add_event_stream`` know of their connection."""

from typing import Any

from pyramid.decorator import reify
from pyramid.request import Request
from webob.headers import ResponseHeaders

from pyramid_asgi_consumers.channels import Channels, channels_of
from pyramid_asgi_consumers.handshake.handshakes import run_in_request

#: Where a scope has the setting ``asgi.leave_timeout``: for so many seconds a function may go on
#: after it has heard that its client has left.
LEAVE_TIMEOUT = "pyramid_asgi_consumers.leave_timeout"
DEFAULT_LEAVE_TIMEOUT = 5.0

#: Where the scope of a guarded consumer has its connection: what ends by itself says there how.
CONNECTION = "pyramid_asgi_consumers.connection"


class Connected:
    """What the handshake of a connection said; ``scope`` is what an ASGI application gets."""

    #: What errors call it.
    called: str
    scope: dict[str, Any]

    @property
    def path_params(self) -> dict[str, Any]:
        """What the placeholders of the consumer's path stand for."""
        return self.scope["path_params"]

    @reify
    def headers(self) -> ResponseHeaders:
        """The headers of the handshake: a WebOb multidict, names without regard to case.

        ``headers["Cookie"]`` is the last value, ``headers.getall("Cookie")`` all of them.
        """
        return ResponseHeaders(
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, value in self.scope["headers"]
        )

    @property
    def client(self) -> tuple[str, int | None] | None:
        """The client's host and port, None where the server does not know."""
        client = self.scope.get("client")
        if client is None:
            return None
        host, port = client
        # Granian 2.8.7 gives ports as text.
        return host, port if port is None else int(port)

    @property
    def registry(self) -> Any:
        """The Pyramid registry of the application."""
        return self.scope["pyramid.registry"]

    @property
    def request(self) -> Request:
        """The Pyramid request that the handshake was; it is finished, and its transaction over.

        RuntimeError where the consumer is not guarded.
        """
        return self._of_handshake("request")

    @property
    def context(self) -> Any:
        """The context that the handshake found; RuntimeError where the consumer is not guarded."""
        return self._of_handshake("context")

    @property
    def userid(self) -> Any:
        """Who the handshake's user is, None for nobody; RuntimeError where it is not guarded."""
        return self._of_handshake("userid")

    def _of_handshake(self, name: str) -> Any:
        try:
            return self.scope[f"pyramid.{name}"]
        except KeyError:
            raise RuntimeError(
                f"{self.called}.{name}: this consumer has no Pyramid request. Declare it with"
                " permission=NO_PERMISSION_REQUIRED, or with any other permission, name, factory"
                " or predicate"
            ) from None

    async def run_in_request(self, func: Any, *args: Any) -> Any:
        """See :func:`.run_in_request`."""
        return await run_in_request(self.scope, func, *args)

    @property
    def channels(self) -> Channels:
        """Where to publish and subscribe; see :class:`.Channels`."""
        return channels_of(self.registry)
