"""The server of a :class:`.TestApp`: a copy of its application, and the loop that it runs on.

Other threads, other instances of ``TestApp``, and servers may use the application, too: so it is a
copy that is changed. All that differs in it is set here: its worker threads (``threads.py``), what
is watched (``watched.py``), and limits, a lifespan and endpoints of its own.
"""

import copy
from collections.abc import Coroutine, Iterable
from typing import Any

from pyramid_asgi_consumers.application import ASGIApplication
from pyramid_asgi_consumers.connection.endpoint import Limit
from pyramid_asgi_consumers.lifespan import Lifespan
from pyramid_asgi_consumers.testing.call import Call
from pyramid_asgi_consumers.testing.connection import Message
from pyramid_asgi_consumers.testing.loop import LoopThread
from pyramid_asgi_consumers.testing.threads import CallingLane, CallingThreads
from pyramid_asgi_consumers.testing.watched import (
    WatchedConsumers,
    linted_wsgi_app,
    watched_wsgi_app,
)


class Server:
    """Serves a copy of ``app`` to any number of threads.

    With ``with_lint`` WebTest's lint is around the application's WSGI application.
    """

    def __init__(self, app: ASGIApplication, with_lint: bool) -> None:
        self.app = _copy(app, with_lint)
        self.thread = LoopThread()
        #: How many blocks and requests of the ``TestApp`` need it.
        self.users = 0

    def call(
        self, scope: dict[str, Any], environ: dict[str, Any], waiting: Iterable[Message] = ()
    ) -> Call:
        """A call of the application, by the thread that asks; see :class:`.Call`."""
        return Call(self.app, self.thread, scope, environ, waiting)

    def run(self, coroutine: Coroutine[Any, Any, Any], environ: dict[str, Any]) -> Any:
        """Run ``coroutine`` on the loop; return what it returns, raise what it raises."""
        call = self.call({}, environ)
        call.start(coroutine)
        self.thread.wait(lambda: call.done)
        return call.task.result()

    def close(self) -> None:
        """End what still runs, and the loop; see :meth:`.LoopThread.close`."""
        self.thread.close()


def _copy(app: ASGIApplication, with_lint: bool) -> Any:
    wsgi_app = linted_wsgi_app(app.wsgi_app) if with_lint else app.wsgi_app
    pool = CallingThreads(1)
    copied = copy.copy(app)
    copied.bridge = copy.copy(app.bridge)
    copied.bridge.wsgi_application = watched_wsgi_app(wsgi_app)
    copied.bridge.pool = pool
    copied.handshakes = copy.copy(app.handshakes)
    copied.handshakes.wsgi_app = watched_wsgi_app(wsgi_app)
    copied.handshakes.pool = pool
    lane = CallingLane(pool, 1, "tests")
    copied.handshakes.handshakes = copied.handshakes.calls = copied.handshakes.repetitions = lane
    copied.mapper = WatchedConsumers(app.mapper)
    copied.limit = Limit(app.limit.most)
    copied._endpoints = {}
    copied.lifespan = Lifespan(app.registry, app.lifespan.factories, copied.bridge.drain)
    return copied
