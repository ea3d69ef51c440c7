"""Locks that a fork finds free, so that the child does not wait for a thread that it has not."""

import os
import threading
import weakref
from typing import Any, Protocol


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
