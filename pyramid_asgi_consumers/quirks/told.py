"""The word that a server stops, where this package runs it and says so itself.

That is so in ``testing/live_servers.py`` and for Hypercorn under ``pserve``. Elsewhere a server is
watched: see :func:`pyramid_asgi_consumers.quirks.stops_of`.
"""

import contextvars


class Told:
    """Whether a server was told to stop."""

    has_begun = False

    def begin(self) -> None:
        """Say that the server begins to stop."""
        self.has_begun = True


#: The word of the server that serves the connection of the current task. Several servers may share
#: an event loop, and not all of them stop.
TOLD: contextvars.ContextVar[Told | None] = contextvars.ContextVar("told", default=None)
