"""Twisted's reactor, which Daphne needs, in a thread beside the tests of a process.

It can be run only once in a process: so the first test that needs it starts it, and it is stopped
when the process ends. Its event loop is that of asyncio, as Daphne has installed it.
"""

import asyncio
import atexit
import threading
from concurrent.futures import Future
from typing import Any

from pyramid_asgi_consumers.testing.background import TIMEOUT, Main


class Reactor:
    """Twisted's reactor in a thread of its own: it can be run only once in a process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def run(self, main: Main, ended: "Future[None]") -> None:
        """Run ``main`` on its event loop, beside what others run there."""
        from twisted.internet import reactor as installed

        # Its annotations are those of interfaces.
        reactor: Any = installed

        with self._lock:
            if self._thread is None:
                self._start(reactor)

        async def work() -> None:
            try:
                await main()
            except BaseException as error:
                ended.set_exception(error)
            else:
                ended.set_result(None)

        asyncio.run_coroutine_threadsafe(work(), reactor._asyncioEventloop)

    def _start(self, reactor: Any) -> None:
        if reactor.running:
            raise RuntimeError(
                "serving: Daphne needs Twisted's reactor, which somebody else runs in this process"
            )
        has_begun: Future[None] = Future()
        reactor.callWhenRunning(has_begun.set_result, None)

        def work() -> None:
            try:
                reactor.run(installSignalHandlers=False)
            except BaseException as error:
                has_begun.set_exception(error)

        thread = threading.Thread(target=work, name="serving-reactor", daemon=True)
        thread.start()
        has_begun.result()
        self._thread = thread
        atexit.register(_stop, reactor, thread)


def _stop(reactor: Any, thread: threading.Thread) -> None:
    reactor.callFromThread(reactor.stop)
    thread.join(TIMEOUT)


#: That of this process.
REACTOR = Reactor()
