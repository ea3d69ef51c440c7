"""Who is connected: the guarded connections, by user, so that they can be put out.

The rules:

- A handshake is noted before it begins, and looked at again when it has ended: a word that came
  meanwhile counts for it.
- Before that, this process listens for the words of other processes. Where it cannot, it lets
  people in all the same, and looks at all of them as soon as it can: also at those whose handshake
  is under way by then.
- Who has become nobody while a word came may have been let in as somebody: it is looked at again.
- Everything here runs on the event loop of the connections. A thread only hands in a word.
"""

import asyncio
import contextvars
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from pyramid_asgi_consumers.channels import Channels
from pyramid_asgi_consumers.channels.disconnects import Listening, Word
from pyramid_asgi_consumers.connection.revalidation import Revalidation, Stay, Watch
from pyramid_asgi_consumers.exceptions import ChannelsError
from pyramid_asgi_consumers.handshake.handshakes import Admission
from pyramid_asgi_consumers.lifespan import forget_closed
from pyramid_asgi_consumers.mapper import Consumer
from pyramid_asgi_consumers.shown import LOG_INTERVAL, Shown

log = logging.getLogger(__name__)

#: With this close code ends what belongs to a user who is put out.
PUT_OUT = 4401

#: With this one, if it came after the word, by the clocks: the user may have logged in again since,
#: so the client is to try.
PUT_OUT_LATE = 4403

#: So many seconds handshakes wait, together, until this process listens.
PATIENCE = 0.5

#: After so many seconds it is tried again to listen, where that was impossible; then later each
#: time.
AGAIN = 1.0
MOST_AGAIN = 60.0

#: Where a word may have been missed, all connections are looked at within so many seconds at least,
#: and not more than so many in a second: pages go on meanwhile.
SPREAD = 5.0
MOST_LOOKS = 250

#: Whose handshake is made within so many seconds after a word is looked at again so much later: the
#: request that has put the user out may not have ended by then, nor stored its session.
SETTLED = 5.0

# Where the connections of users stand that cannot be keys: a list, say, as JSON makes of a tuple.
_UNHASHABLE = object()

#: Closes a connection, with a code and a reason. It does not block.
Close = Callable[[int, str], object]


class Connection:
    """A guarded connection that was admitted."""

    __slots__ = ("consumer", "admission", "userid", "began", "is_over", "ends", "_close")

    def __init__(self, consumer: Consumer, admission: Admission, began: float) -> None:
        self.consumer = consumer
        self.admission = admission
        #: When its handshake began, in seconds since the epoch.
        self.began = began
        #: Whose it is, None for nobody's.
        self.userid = admission.userid
        #: Whether it has ended, or been put out.
        self.is_over = False
        #: Ends the response, or has a websocket's function hear of the end: set by what makes it.
        self.ends: Callable[[], object] | None = None
        # One that has no place, as its user has too many, is being refused.
        self._close: Close = _nothing

    def closes(self, close: Close) -> None:
        """Have ``close`` called, once, when the connection is put out."""
        self._close = close

    def put_out(self, code: int, reason: str) -> None:
        """Close a websocket with ``code`` and ``reason``, end an event stream, cancel others."""
        if not self.is_over:
            self.is_over = True
            self._close(code, reason)
            log.info("%s is closed with %d: %s", self.consumer, code, Shown(reason))


class Handshake:
    """One that is under way, and the words that have come meanwhile."""

    def __init__(self) -> None:
        self.words: list[Word] = []
        #: When it began, in seconds since the epoch.
        self.began = time.time()
        #: Whether a word may have been missed meanwhile.
        self.has_missed = False

    def is_put_out(self, userid: Any) -> bool:
        """Whether a word was for the user that it turned out to be."""
        return any(word.userid == userid for word in self.words)

    def is_doubtful(self, userid: Any) -> bool:
        """Whether nobody knows if a word was for the user that it turned out to be.

        A policy may look into a table each time that it is asked. Then it has let somebody in who
        was nobody a moment later, when it was asked who that is.
        """
        return self.has_missed or (userid is None and bool(self.words))


class Connections:
    """One application's connections, on all event loops.

    ``channels`` tell who is put out; ``revalidation`` says how often it is asked who may stay.
    """

    def __init__(self, channels: Channels, revalidation: Revalidation) -> None:
        self._channels = channels
        self._revalidation = revalidation
        self._by_loop: dict[asyncio.AbstractEventLoop, LoopConnections] = {}
        channels.disconnects.listen(self._hear)

    def of(self, loop: asyncio.AbstractEventLoop) -> "LoopConnections":
        """Those on ``loop``, which runs."""
        found = self._by_loop.get(loop)
        if found is None:
            forget_closed(self._by_loop)
            # Another thread has another loop.
            found = self._by_loop[loop] = LoopConnections(
                loop, self._channels, Watch(self._revalidation, loop)
            )
        return found

    def stop(self) -> None:
        """Ask no more who may stay of those on the running event loop: its server stops."""
        found = self._by_loop.get(asyncio.get_running_loop())
        if found is not None:
            found.stop()

    def _hear(self, word: Word) -> None:
        for loop, connections in self._by_loop.copy().items():
            with suppress(RuntimeError):  # the event loop is closed
                loop.call_soon_threadsafe(connections.put_out, word)


class LoopConnections:
    """The connections on the event loop ``loop``; ``watch`` repeats their handshakes."""

    def __init__(self, loop: asyncio.AbstractEventLoop, channels: Channels, watch: Watch) -> None:
        self._loop = loop
        self._channels = channels
        self.watch = watch
        #: Those that are open.
        self.open: dict[Connection, Stay] = {}
        self._by_user: dict[Any, dict[Connection, None]] = {}
        self._under_way: dict[Handshake, None] = {}
        # For whom words came last, the latest at the end, and until when they are minded.
        self._recent: OrderedDict[Any, float] = OrderedDict()
        self._listening: Listening | None = None
        # Enters it, and until when handshakes wait for that.
        self._entering: asyncio.Task[None] | None = None
        self._patience = 0.0
        # Runs from when a word was misheard, and the last of those that were since.
        self._mishearing: asyncio.TimerHandle | None = None
        self._misheard: Exception | None = None

    @contextmanager
    def handshake(self) -> Iterator[Handshake]:
        """A handshake that is under way for the time of the block."""
        handshake = Handshake()
        self._under_way[handshake] = None
        try:
            yield handshake
        finally:
            del self._under_way[handshake]

    @contextmanager
    def connected(self, connection: Connection, handshake: Handshake) -> Iterator[None]:
        """``connection``, which ``handshake`` has let in, is open for the time of the block."""
        mine = self._by_user.setdefault(_key(connection.userid), {})
        mine[connection] = None
        self.open[connection] = stay = self.watch.add(connection)
        if handshake.is_doubtful(connection.userid):
            stay.check()
        elif self._recent and self._loop.time() < self._recent.get(_key(connection.userid), 0.0):
            stay.check_in(SETTLED)
        try:
            yield
        finally:
            connection.is_over = True
            self.open.pop(connection).end()
            del mine[connection]
            if not mine:
                # Who was here once takes no memory.
                self._by_user.pop(_key(connection.userid), None)

    def put_out(self, word: Word) -> None:
        """Close the connections of the user whom ``word`` is for."""
        for handshake in self._under_way:
            handshake.words.append(word)
        self._mind(_key(word.userid))
        for connection in list(self._by_user.get(_key(word.userid), ())):
            try:
                if connection.userid == word.userid:
                    is_late = word.at < connection.began
                    connection.put_out(PUT_OUT_LATE if is_late else PUT_OUT, word.reason)
            except Exception:
                # The others are closed all the same.
                log.exception("A connection to %s cannot be closed", connection.consumer)

    def _mind(self, key: Any) -> None:
        now = self._loop.time()
        self._recent.pop(key, None)
        # Those for whom it is over take no memory.
        while self._recent and next(iter(self._recent.values())) <= now:
            self._recent.popitem(last=False)
        self._recent[key] = now + SETTLED

    def check_all(self) -> None:
        """Look at all connections again: a word may have been missed."""
        for handshake in self._under_way:
            handshake.has_missed = True
        self.watch.check_all(max(SPREAD, len(self.open) / MOST_LOOKS))

    def mishear(self, error: Exception) -> None:
        """A word cannot be read, for ``error``: look at all connections again.

        At once, and then once in ``LOG_INTERVAL``: many such words make no storm.
        """
        self._misheard = error
        if self._mishearing is None:
            self._check_misheard()

    def _check_misheard(self) -> None:
        error, self._misheard, self._mishearing = self._misheard, None, None
        if error is not None:
            log.warning("A disconnect that cannot be read: all are checked: %s", Shown(error))
            self.check_all()
            # What comes then has nothing to do with what is now.
            self._mishearing = self._loop.call_later(
                LOG_INTERVAL, self._check_misheard, context=contextvars.Context()
            )

    def stop(self) -> None:
        """Look at nobody any more, and try no more to listen, until the next handshake."""
        self.watch.end()
        if self._entering is not None:
            self._entering.cancel()

    # What other processes say.

    async def listen(self) -> None:
        """Wait until this process hears what others say, or for as long as handshakes wait."""
        if not self._channels.disconnects.travels:
            return
        if self._listening is None or self._listening.is_over or self._was_cancelled():
            before = self._listening
            disconnects = self._channels.disconnects
            self._listening = Listening(disconnects, self.put_out, self.check_all, self.mishear)
            self._patience = self._loop.time() + PATIENCE
            # What it does has nothing to do with the connection that came first.
            self._entering = contextvars.Context().run(
                self._loop.create_task, _enter(self._listening, before)
            )
        entering = self._entering
        if entering is not None and not entering.done():
            seconds = self._patience - self._loop.time()
            if seconds > 0:
                await asyncio.wait({entering}, timeout=seconds)

    def _was_cancelled(self) -> bool:
        # As the server stopped, which may start again; or by who cancels all tasks of the loop.
        return self._entering is not None and self._entering.cancelled()


async def _enter(listening: Listening, before: Listening | None) -> None:
    pause = AGAIN
    while True:
        try:
            if before is not None:
                await before.leave()
                before = None
            return await listening.enter()
        except Exception as error:
            if listening.is_over:
                # The channels were closed meanwhile. Whoever comes next enters another one.
                return
            log.warning(
                "What other processes disconnect is not heard, and tried again in %g s: %s",
                pause,
                Shown(error),
                exc_info=not isinstance(error, ChannelsError),
            )
        await asyncio.sleep(pause)
        pause = min(MOST_AGAIN, 2 * pause)


def _nothing(code: int, reason: str) -> None:
    pass


def _key(userid: Any) -> Any:
    try:
        hash(userid)
    except TypeError:
        return _UNHASHABLE
    return userid
