"""What is done differently for Gunicorn 27's ``-k asgi``."""

import asyncio
import sys
from collections.abc import Callable
from typing import Any

from pyramid_asgi_consumers.quirks.specification import Stop

#: So many seconds a worker that ends at once leaves to what ends, as it leaves to its own tasks.
HOLD = 1.0


class GunicornStop(Stop):
    """The stop of Gunicorn 27's ``worker``.

    A signal and ``--max-requests`` are told to the worker at once, and it looks once a second. Then
    it waits for its connections; but after a SIGINT or SIGQUIT it cancels them without a pause.
    """

    def __init__(self, coroutine: Any, worker: Any) -> None:
        super().__init__(coroutine, lambda: not worker.alive)
        self._worker = worker

    def hold_up(self, have_ended: Callable[[], bool]) -> None:
        worker, shutdown = self._worker, self._worker._shutdown

        async def end_first() -> None:
            # Its parent may have gone: then nobody has said so.
            worker.alive = False
            end = worker.loop.time() + HOLD
            while not have_ended() and worker.loop.time() < end:
                await asyncio.sleep(0.02)
            await shutdown()

        worker._shutdown = end_first


def stop_of(coroutine: Any) -> Stop | None:
    """What tells of the stop of the worker that ``coroutine`` runs, if that is Gunicorn 27's."""
    worker_class = getattr(sys.modules.get("gunicorn.workers.gasgi"), "ASGIWorker", None)
    if worker_class is None or coroutine.cr_code is not worker_class._serve.__code__:
        return None
    return GunicornStop(coroutine, coroutine.cr_frame.f_locals["self"])
