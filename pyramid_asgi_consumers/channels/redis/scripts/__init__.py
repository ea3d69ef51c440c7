"""The Lua scripts that Redis runs, each in one step: ``*.lua`` beside this file.

Each begins with what its keys and arguments are, and what it answers. The backend runs them in
batches of commands, in a thread (``blocking.py``) or on an event loop (``commands.py``).
"""

import hashlib
from collections.abc import Iterable
from importlib.resources import files
from typing import Any


class Script:
    """What Redis runs: the file ``<name>.lua`` without its comments, which would go with it."""

    __slots__ = ("sha", "text")

    def __init__(self, name: str) -> None:
        lines = (files(__name__) / f"{name}.lua").read_text("utf-8").splitlines()
        self.text = "\n".join(line for line in lines if line and not line.startswith("--"))
        self.sha = hashlib.sha1(self.text.encode()).hexdigest()


#: A script, and its key with its arguments behind it.
Call = tuple[Script, tuple[Any, ...]]

PUBLISH = Script("publish")
READ = Script("read")
ROLE = Script("role")
ENTER = Script("enter")
LEAVE = Script("leave")
PRESENT = Script("present")


def batch_of(calls: Iterable[Call]) -> list[tuple[Any, ...]]:
    """Return the commands that run the scripts in order, to be sent in one go.

    The first time in a batch a script is sent whole, so that Redis has it without a second round
    trip; from then on by its hash.
    """
    sent: set[Script] = set()
    commands: list[tuple[Any, ...]] = []
    for script, arguments in calls:
        if script in sent:
            commands.append(("EVALSHA", script.sha, 1, *arguments))
        else:
            sent.add(script)
            commands.append(("EVAL", script.text, 1, *arguments))
    return commands
