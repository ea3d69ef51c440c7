"""Ends tasks that go on though they were cancelled, without waiting for them for ever."""

import asyncio
import contextlib
import logging
import sys
from collections.abc import Iterable
from pathlib import PurePath
from types import FrameType
from typing import Any

log = logging.getLogger(__name__)

#: Whether tasks count how often they were cancelled, as they do from Python 3.11 on.
COUNTED = hasattr(asyncio.Task, "cancelling")

#: For so many seconds what was cancelled is waited for where no server says for how many.
PATIENCE = 5.0

# For so many seconds who has swallowed a cancellation is left with that.
AGAIN = 0.05

Tasks = Iterable["asyncio.Task[Any]"]


async def end(tasks: Tasks, timeout: float | None) -> None:
    """Cancel ``tasks`` and wait for their end, at most ``timeout`` seconds; then leave them alone.

    With a ``timeout`` of 0 they are cancelled, too, and may end at once.

    If the caller is cancelled meanwhile, the tasks are cancelled again; the caller's cancellation
    is raised at the end.
    """
    cancelled: asyncio.CancelledError | None = None
    loop = asyncio.get_running_loop()
    began = loop.time()
    pending = {task for task in tasks if not task.done()}
    left = timeout
    is_over = False
    while pending and not is_over:
        for task in pending:
            task.cancel()
        try:
            await asyncio.wait(pending, timeout=left)
        except asyncio.CancelledError as error:
            cancelled = error
        pending = {task for task in pending if not task.done()}
        if timeout is not None:
            left = max(0, began + timeout - loop.time())
            is_over = not left
    leave_alone(pending, timeout)
    if cancelled is not None:
        raise cancelled


async def wait(task: "asyncio.Task[Any]", timeout: float) -> None:
    """Wait for ``task``, at most ``timeout`` seconds; then cancel it, and wait no longer.

    Raises what it has raised until then.
    """
    try:
        await asyncio.wait({task}, timeout=timeout)
    finally:
        if not task.cancel() and not task.cancelled():
            task.result()


async def ended(task: "asyncio.Task[Any]") -> None:
    """Wait for the end of ``task``, which asked a server's ``receive`` and has been cancelled.

    Middleware may swallow that on Python 3.10, where anyio 4.16 (Starlette's
    ``BaseHTTPMiddleware``) cannot tell it from a cancellation of its own: it is cancelled again.
    """
    await asyncio.wait({task}, timeout=None if COUNTED else AGAIN)
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=AGAIN)


def leave_alone(tasks: Tasks, seconds: float | None) -> None:
    """Have nobody wait for ``tasks``, which go on ``seconds`` after they were cancelled.

    ``asyncio.Runner`` would, when everything else has ended.
    """
    places = set()
    for task in tasks:
        places.add(place(task))
        asyncio._unregister_task(task)
        # Nor is it an error that the loop ends before them; there is no public way to say so.
        task._log_destroy_pending = False  # type: ignore[attr-defined]
    if places:
        log.warning(
            "Left alone, since it goes on %.3g s after it was cancelled: %s",
            seconds,
            ", ".join(sorted(places)),
        )


def outlive(loop: asyncio.AbstractEventLoop) -> None:
    """Have ``loop``, if it ends now, wait for none of its tasks longer than :data:`PATIENCE`.

    ``asyncio.Runner`` cancels all of them, and waits for whoever goes on: for what a consumer has
    started itself, too. If any task was not cancelled, the loop is not ending: nothing is done.
    """
    loop.call_later(PATIENCE, _close, loop)


def _close(loop: asyncio.AbstractEventLoop) -> None:
    tasks = asyncio.all_tasks(loop)
    if not _are_cancelled(tasks):
        return
    for task in tasks:
        where = place(task)
        log.warning("Ended, since it goes on %.3g s after it was cancelled: %s", PATIENCE, where)
        # Who swallows that, too, cannot be ended.
        with contextlib.suppress(RuntimeError):
            task.get_coro().close()
        # It finds that it has ended.
        task.cancel()


def _are_cancelled(tasks: Tasks) -> bool:
    if COUNTED:
        return all(task.cancelling() for task in tasks)
    # Who ends a loop on Python 3.10 (asyncio.run, Uvicorn 0.54, taskgroup 0.2) runs it in a
    # function of this name, which has cancelled all tasks.
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_code.co_name != "_cancel_all_tasks":
        frame = frame.f_back
    return frame is not None


def place(task: "asyncio.Task[Any]") -> str:
    """Where ``task`` waits, in the innermost of its coroutines."""
    coroutine: Any = task.get_coro()
    frame = None
    while (inner := getattr(coroutine, "cr_frame", None)) is not None:
        frame = inner
        coroutine = coroutine.cr_await
    if frame is None:
        # A generator, say, as coroutines were once.
        return repr(coroutine)
    return f"{frame.f_code.co_name} ({PurePath(frame.f_code.co_filename).name}:{frame.f_lineno})"
