"""The word that a user's connections are to be closed: from who gives it to all processes.

:class:`Disconnects` gives it to the event loops of this process at once, and to the others over a
channel of its own, which a :class:`Listening` subscribes to. What is done for it is in
``connection.users``.
"""

import json
import logging
import math
import os
import secrets
import threading
import time
from base64 import b64decode, b64encode
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

from pyramid_asgi_consumers.channels.events import RESERVED, Gap, Item
from pyramid_asgi_consumers.channels.memory import MemoryBackend
from pyramid_asgi_consumers.channels.subscriptions import Overflows, Subscription
from pyramid_asgi_consumers.exceptions import ChannelsError
from pyramid_asgi_consumers.shown import Shown

log = logging.getLogger(__name__)

#: How many bytes in UTF-8 the reason of a websocket's close may have (RFC 6455 section 5.5).
MOST_REASON = 123

#: After how many seconds a word is said again that others could not be told, and at most after how
#: many; and how many such words are kept, the latest.
FIRST = 1.0
LATEST = 30.0
UNSAID = 1000


@dataclass(frozen=True, slots=True)
class Word:
    """``userid`` is to be disconnected, and its clients are told ``reason``.

    ``at`` is when others said so, by their clock in seconds since the epoch: such a word may be
    long on its way. It does not count when words are compared.
    """

    userid: Any
    reason: str
    at: float = field(default=math.inf, compare=False)


def make_word(userid: Any, reason: str) -> Word:
    """The :class:`Word` for these.

    Raises RuntimeError for None, who is nobody; TypeError for a ``reason`` that is no str, and
    ValueError for one that cannot be sent.
    """
    if userid is None:
        raise RuntimeError(
            "disconnect: nobody is logged in here; name the userid whose connections are to be"
            " closed, or call it before forget()"
        )
    if not isinstance(reason, str):
        raise TypeError(f"disconnect: reason must be a str, not {reason!r:.250}")
    try:
        size = len(reason.encode())
    except UnicodeEncodeError:
        size = MOST_REASON + 1
    if size > MOST_REASON:
        raise ValueError(
            f"disconnect: reason must have at most {MOST_REASON} bytes in UTF-8,"
            f" not {reason!r:.250}"
        )
    return Word(userid, reason)


class Disconnects:
    """Gives words to all who listen here; ``backend`` is what carries channels.

    Others are processes, and applications of this one that have channels of their own.
    """

    def __init__(self, backend: Any) -> None:
        self.backend = backend
        self._token = secrets.token_hex(8)
        #: Whether there are others that have to hear of a word.
        self.travels = not isinstance(backend, MemoryBackend)
        # Applications may share such a backend.
        self._listeners: list[Callable[[Word], object]] = [] if self.travels else backend.listeners
        self._unsaid: deque[tuple[str, bytes]] = deque(maxlen=UNSAID)
        # The process in which a thread says them again.
        self._saying: int | None = None

    def listen(self, listener: Callable[[Word], object]) -> None:
        """Have ``listener(word)`` called for each word of this process, in the thread it is of."""
        self._listeners.append(listener)

    @property
    def name(self) -> str:
        """By what this one is told from all others, its copies in forks of this process, too."""
        return f"{self._token}-{os.getpid()}"

    def messages(self, word: Word) -> list[tuple[str, bytes]]:
        """What is to be published so that others hear ``word``.

        Raises TypeError for a userid that they could not be told.
        """
        if not self.travels:
            return []
        said = {
            "user": _told(word.userid),
            "reason": word.reason,
            "by": self.name,
            "at": time.time(),
        }
        return [(RESERVED, b"j" + json.dumps(said, separators=(",", ":")).encode())]

    def say_again(self, messages: list[tuple[str, bytes]]) -> None:
        """Publish the words among ``messages``, which could not be published, when that can be.

        A thread tries until then, for which the interpreter does not wait.
        """
        words = [message for message in messages if message[0] == RESERVED]
        if words:
            self._unsaid.extend(words)
            log.error("%d disconnects are said again until other processes hear them", len(words))
            self._call()

    def _call(self) -> None:
        # Two threads would say it twice, which does no harm; what this interrupts may hold a lock.
        if self._saying == os.getpid():
            return
        self._saying = os.getpid()
        try:
            threading.Thread(target=self._say, name="asgi-disconnects", daemon=True).start()
        except RuntimeError:
            # The interpreter ends.
            self._saying = None

    def _say(self) -> None:
        pause = FIRST
        while self._unsaid:
            time.sleep(pause)
            pause = min(2 * pause, LATEST)
            try:
                words = list(self._unsaid)
                results = self.backend.publish_many(words)
            except Exception as error:
                log.debug("Disconnects are said again later: %s", Shown(error))
                continue
            for word, result in zip(words, results, strict=True):
                if not isinstance(result, ChannelsError):
                    # It is gone where too many came meanwhile.
                    with suppress(ValueError):
                        self._unsaid.remove(word)
        self._saying = None
        if self._unsaid:
            # They came just now.
            self._call()

    def give(self, word: Word) -> None:
        """Give ``word`` to this process; may be called in any thread."""
        for listener in list(self._listeners):
            listener(word)


def _told(userid: Any) -> Any:
    # As JSON has it, so that what comes out of it is equal. What JSON lacks is an object with its
    # kind as the only name.
    if userid is None or isinstance(userid, (str, int, float)):
        if userid != userid:
            raise _untold(userid)
        return userid
    if isinstance(userid, UUID):
        return {"uuid": userid.hex}
    if isinstance(userid, bytes):
        return {"bytes": b64encode(userid).decode()}
    if isinstance(userid, tuple):
        return {"tuple": [_told(part) for part in userid]}
    if isinstance(userid, list):
        return [_told(part) for part in userid]
    raise _untold(userid)


def _untold(userid: Any) -> TypeError:
    return TypeError(
        "disconnect: other processes can only be told a userid that is a str, int, float, UUID,"
        f" bytes, or a tuple or list of these, not {userid!r:.250}"
    )


def _heard(told: Any) -> Any:
    if isinstance(told, list):
        return [_heard(part) for part in told]
    if not isinstance(told, dict):
        return told
    ((kind, value),) = told.items()
    if kind == "uuid":
        return UUID(value)
    if kind == "bytes":
        return b64decode(value)
    if kind == "tuple":
        return tuple(_heard(part) for part in value)
    raise ValueError(kind)


class Listening(Subscription):
    """Hears the words of others than ``disconnects``, on the event loop on which it is entered.

    ``hear(word)`` is called for each, and ``mishear(error)`` for one that cannot be read;
    ``doubt()`` where words may have been missed until now.
    """

    __slots__ = ("_disconnects", "_doubt", "_hear", "_is_attached", "_mishear", "is_over")

    def __init__(
        self,
        disconnects: Disconnects,
        hear: Callable[[Word], object],
        doubt: Callable[[], object],
        mishear: Callable[[Exception], object],
    ) -> None:
        backend = disconnects.backend
        super().__init__(backend, Overflows(), (RESERVED,), {}, 1, 1, "drop_oldest", None)
        self._disconnects = disconnects
        self._hear = hear
        self._doubt = doubt
        self._mishear = mishear
        self._is_attached = False
        #: Whether none comes any more, as the channels were closed.
        self.is_over = False

    async def enter(self) -> None:
        """Listen from now on. May be tried again where it raises."""
        self._is_attached = True
        try:
            await self._backend.attach(self)
        except BaseException:
            await self.leave()
            raise
        # Not every backend says that it could not be reached until now.
        self._doubt()

    async def leave(self) -> None:
        """Listen no longer."""
        if self._is_attached:
            self._is_attached = False
            await self._backend.detach(self)

    def begin(self, channel: str, event_id: str) -> None:
        super().begin(channel, event_id)
        self._doubt()

    def regain_touch(self) -> None:
        self._doubt()

    def end(self) -> None:
        self.is_over = True

    def replay(self, items: Iterable[Item]) -> None:
        for item in items:
            self.put(item)

    def put(self, item: Item) -> None:
        if isinstance(item, Gap):
            self._doubt()
            return
        try:
            said = item.data
            word = make_word(_heard(said["user"]), said["reason"])
            word = replace(word, at=float(said["at"]))
            is_own = said["by"] == self._disconnects.name
        except Exception as error:
            # A later version of this package says it in another way, say.
            self._mishear(error)
            return
        # That has been heard already, when it was given.
        if not is_own:
            self._hear(word)
