"""What is published once a transaction has committed, in the order of the commits."""

import asyncio
import logging
import threading
from concurrent.futures import Future
from typing import Any

from pyramid_asgi_consumers.exceptions import ChannelsError
from pyramid_asgi_consumers.shown import Shown

log = logging.getLogger(__name__)

Messages = list[tuple[str, bytes]]


class Committed:
    """Publishes through ``backend`` what was committed, by a thread where that was on a loop.

    The thread lives while there is something to publish, and the interpreter waits for it. Who
    publishes later waits for it as well, so that nothing overtakes what was committed before.
    """

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self._lock = threading.Lock()
        self._messages: Messages = []
        self._waiters: list[Future[None]] = []
        #: Whether the thread is at work.
        self.busy = False

    def publish(self, messages: Messages) -> None:
        """Publish, at once and blocking; a failure is logged."""
        if self.busy:
            self.wait()
        self._publish(messages)

    def publish_later(self, messages: Messages) -> None:
        """Have the thread publish; a failure is logged."""
        with self._lock:
            self._messages += messages
            if self.busy:
                return
            self.busy = True
        try:
            threading.Thread(target=self._work, name="channels-committed").start()
        except RuntimeError:
            # As the interpreter ends it starts no thread: better late than lost.
            self._work()

    def wait(self) -> None:
        """Wait, blocking, for what was committed until now."""
        self._waiter().result()

    async def awaited(self) -> None:
        """Wait, on an event loop, for what was committed until now."""
        await asyncio.wrap_future(self._waiter())

    def _waiter(self) -> "Future[None]":
        waiter: Future[None] = Future()
        with self._lock:
            if self.busy:
                self._waiters.append(waiter)
                return waiter
        waiter.set_result(None)
        return waiter

    def _work(self) -> None:
        busy = True
        while busy:
            with self._lock:
                messages, self._messages = self._messages, []
                waiters, self._waiters = self._waiters, []
                busy = self.busy = bool(messages or waiters)
            # All that has come meanwhile in one go: where Redis is away, one timeout for all.
            if messages:
                try:
                    self._publish(messages)
                except BaseException:
                    log.exception("Publishing %d events after the commit failed", len(messages))
            for waiter in waiters:
                if waiter.set_running_or_notify_cancel():
                    waiter.set_result(None)

    def _publish(self, messages: Messages) -> None:
        results = self._backend.publish_many(messages)
        for (name, _), result in zip(messages, results, strict=True):
            if isinstance(result, ChannelsError):
                log.error("Not published on %s after the commit: %s", Shown(name), Shown(result))
