"""What a fork needs: locks that it finds free, and what each process has of its own.

The child has none of the parent's threads: it would wait for ever for one that held a lock.
"""

import os
import threading
import weakref
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar


class Forked(Protocol):
    """What is held still while the process forks."""

    def before_fork(self) -> None:
        """Wait until no other thread is at work, and keep it so."""

    def after_fork(self, in_child: bool) -> None:
        """Let them go on; in the child there are none."""


_known: "weakref.WeakSet[Any]" = weakref.WeakSet()
# Of two threads that fork, one waits.
_forking = threading.RLock()
_held: list[Forked] = []


def at_fork(held: Forked) -> None:
    """Tell ``held``, while it lives, of every fork of the process."""
    _known.add(held)


def _before() -> None:
    _forking.acquire()
    for held in list(_known):
        held.before_fork()
        _held.append(held)


def _after(in_child: bool) -> None:
    while _held:
        _held.pop().after_fork(in_child)
    _forking.release()


# Windows has none, and does not fork.
getattr(os, "register_at_fork", lambda **hooks: None)(
    before=_before,
    after_in_parent=lambda: _after(False),
    after_in_child=lambda: _after(True),
)


Made = TypeVar("Made")


class PerProcess(Generic[Made]):
    """What each process has of its own: ``make`` makes it when a process first asks for it."""

    __slots__ = ("_made", "_make")

    def __init__(self, make: Callable[[], Made]) -> None:
        self._make = make
        self._made: dict[int, Made] = {}

    def __call__(self) -> Made:
        pid = os.getpid()
        made = self._made.get(pid)
        if made is None:
            # Of two threads that make one, both get the first.
            made = self._made.setdefault(pid, self._make())
            self._made = {pid: made}
        return made
