"""Keeps what user code raises from ending the server, or from passing for a cancellation.

``SystemExit`` and ``KeyboardInterrupt`` end an event loop, whichever task raises them; a
``CancelledError`` passes for a cancellation by the server. On an event loop a :class:`StandIn` is
raised instead, where it is known that the code itself is to blame.
"""

# The annotations of inner functions would be made for each connection, and kept.
from __future__ import annotations

import asyncio
import contextlib
import inspect
import signal
import threading
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from pyramid_asgi_consumers import quirks, stubborn
from pyramid_asgi_consumers.exceptions import ClientDisconnected, WebSocketDisconnect
from pyramid_asgi_consumers.stubborn import COUNTED

Result = TypeVar("Result")

#: What says that the client has left.
GONE = (WebSocketDisconnect, ClientDisconnected)


class StandIn(RuntimeError):
    """Stands for its ``__cause__``, which cannot be raised on an event loop."""

    __cause__: BaseException


def carried(error: BaseException) -> BaseException:
    """``error``, or what stands for it where it cannot be raised on an event loop."""
    # StopIteration cannot be raised into a future, and an exit that one job asked for is not
    # for the event loop to obey.
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    stand_in = StandIn(f"The application raised {type(error).__name__}: {error}".rstrip(": "))
    stand_in.__cause__ = error
    return stand_in


def original(error: BaseException) -> BaseException:
    """What was raised first, where ``error`` stands for it."""
    return error.__cause__ if isinstance(error, StandIn) else error


def unwrapped(function: Callable[..., Result], *args: Any) -> Result:
    """Return what ``function(*args)`` does, in a thread; raise what code on a loop raised first.

    For a ``CancelledError`` that is a :class:`StandIn`, an ``Exception``.
    """
    try:
        return function(*args)
    except StandIn as stand_in:
        error = original(stand_in)
        if isinstance(error, asyncio.CancelledError):
            raise
    # SystemExit and the like were wrapped for the loop; here, in a thread, it is raised.
    raise error


def caught(error: BaseException, task: Any) -> BaseException:
    """``error``, raised by code that ``task`` awaits, in a form that the event loop can take.

    Raises ``error`` itself where that code is not to blame: the task was cancelled, its coroutine
    is closed because nobody runs it any more, or somebody has pressed Ctrl-C.
    """
    if not isinstance(error, Exception) and _is_from_elsewhere(error, task):
        raise error
    return carried(error)


def _is_from_elsewhere(error: BaseException, task: Any) -> bool:
    if isinstance(error, asyncio.CancelledError):
        # Python 3.10 cannot tell: see separate().
        return not COUNTED or task.cancelling() > 0
    if isinstance(error, GeneratorExit):
        return asyncio._get_running_loop() is None or asyncio.current_task() is not task
    if isinstance(error, KeyboardInterrupt):
        return _is_of_a_signal(error)
    return False


def _is_of_a_signal(error: KeyboardInterrupt) -> bool:
    # Servers have handlers of their own, which raise nothing. Python's raises it wherever the main
    # thread is, and so does that of asyncio.Runner when the signal comes again.
    if threading.current_thread() is not threading.main_thread():
        return False
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        return True
    # It was raised, so it has one.
    traceback: Any = error.__traceback__
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    return traceback.tb_frame.f_code.co_name == "_on_sigint"


def out_of_group(error: BaseException) -> BaseException:
    """The one error that ``error`` stands for, where it is a group with one."""
    # A task group (PEP 654, or its backport) wraps what its tasks raise; of those that talk to a
    # client that has left, each may raise that.
    one: Any = error
    while (
        hasattr(one, "derive")
        and hasattr(one, "exceptions")
        and (len(one.exceptions) == 1 or one.split(GONE)[1] is None)
    ):
        one = one.exceptions[0]
    return one


async def contained(awaitable: Awaitable[Any]) -> Any:
    """Await ``awaitable``, in a task of its own, so that what it raises does not end the loop."""
    task = asyncio.current_task()
    try:
        return await awaitable
    except BaseException as error:
        raise caught(error, task)  # noqa: B904


async def outcome(task: asyncio.Task[Any]) -> Any:
    """Wait for ``task``; return its result, or raise what it has raised.

    Cancelling this cancels ``task``, and waits for its end. If the server would wait for ever as it
    stops, this waits for as long as the server gives its connections. Where it ends by a
    ``CancelledError`` without that, a :class:`StandIn` is raised.
    """
    # To await the task itself would cancel it with the caller, and raise the same for both.
    ended = asyncio.get_running_loop().create_future()

    def end(task: object) -> None:
        if not ended.done():
            ended.set_result(None)

    task.add_done_callback(end)
    try:
        await ended
    except asyncio.CancelledError:
        # It is enough to be cancelled once.
        with contextlib.suppress(asyncio.CancelledError):
            await stubborn.end({task}, quirks.patience())
        if not task.done() or task.cancelled():
            raise
    try:
        return task.result()
    except asyncio.CancelledError as error:
        # Python 3.10 makes a new one, whose context is what was raised.
        first = error if COUNTED else error.__context__ or error
        raise carried(first) from first


def separate(
    awaitable: Awaitable[Any], task: asyncio.Task[Any]
) -> tuple[Awaitable[Any], asyncio.Task[Any]]:
    """What ``task`` is to await for ``awaitable``, so that :func:`caught` knows what is its own.

    Python 3.10 needs another task for that. So does Hypercorn, which would wait for ever for a task
    that goes on when it is cancelled. Returned besides is the task that runs ``awaitable``.
    """
    if COUNTED and not quirks.waits_for_ever():
        return awaitable, task
    own = asyncio.ensure_future(contained(awaitable))
    if inspect.iscoroutine(awaitable):
        # Who is cancelled before the first step would never have awaited it.
        own.add_done_callback(lambda own: awaitable.close())
    return outcome(own), own
