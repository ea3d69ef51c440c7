"""The way of a response's chunks from the worker thread that makes them to the event loop.

A :class:`Handover` has two sides, and no more than one thread on each. The rules:

- Chunks go over without the lock, through a deque: the worker thread appends, the loop pops.
- Whoever is about to wait says so under the lock, and looks afterwards whether what he waits for
  has come meanwhile. Whoever changes something looks afterwards whether the other side waits. So
  one of the two always sees what the other did.
- The loop waits for *news*, a future, which the worker thread settles with a chunk, and with the
  end. The thread waits for *room*, a lock that is held already, which the loop releases when it has
  taken enough of the chunks, or has :meth:`left <Handover.leave>`.
- After the loop's side has left it takes nothing more: the thread's next chunk raises
  :class:`ClientGone`.
- Each error of the thread is reported once: :meth:`Handover.take` raises it on the loop, or, where
  that has left, :meth:`Handover.unheard` returns it to whoever logs it.
"""

import asyncio
import threading
from collections import deque

from pyramid_asgi_consumers.async_bodies import AsyncBody
from pyramid_asgi_consumers.wsgi.sources import OpenFile
from pyramid_asgi_consumers.wsgi.threads import Settler, set_outcome

# A thread that is more than AHEAD bytes ahead of its client waits until it is only a quarter of
# that ahead: each wait is a switch of threads there and one back. Where many responses are sent at
# once each may be ahead by its share of ALL_AHEAD, but by LEAST_AHEAD at least; who is further
# ahead stays so.
AHEAD = 4 * 1024 * 1024
ALL_AHEAD = 128 * 1024 * 1024
LEAST_AHEAD = 256 * 1024
# Small chunks that wait together are sent as one message of about this size.
JOINED = 64 * 1024


class Ahead:
    """How far ahead of their clients the threads of one bridge may be.

    Entered by each response that is sent chunk by chunk, for as long as it is.
    """

    def __init__(self) -> None:
        #: How much one response may be ahead, in bytes.
        self.most = AHEAD
        self._responses = 0
        # A bridge may serve on several event loops.
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self._add(1)

    def __exit__(self, *exc_info: object) -> None:
        self._add(-1)

    def _add(self, number: int) -> None:
        with self._lock:
            self._responses += number
            share = ALL_AHEAD // max(1, self._responses)
            self.most = min(AHEAD, max(LEAST_AHEAD, share))


class ClientGone(BaseException):
    """Ends the worker thread's side of a response; never seen by an application."""


class Handover:
    """Takes the chunks of one response, and its end, from a worker thread to an event loop.

    ``settler`` is that of the event loop; ``ahead`` says how far ahead of the loop the thread may
    be. To be made on the event loop.
    """

    # Most are of the class, where each response need not set them.

    # The worker thread sets these before the end, and none of them afterwards. Of the file the
    # thread keeps what the loop's side does not take over.
    _finished = False
    _error: BaseException | None = None
    #: All of the body, where it is one chunk: then no chunk was put.
    whole: bytes | None = None
    #: What the loop's side is to send behind the chunks, and to close.
    file: OpenFile | None = None
    #: What the loop's side is to send in the place of chunks, and to close.
    stream: AsyncBody | None = None

    # How many bytes have come, which the worker thread counts, and how many the loop has taken.
    _come = 0
    _taken = 0

    # Either side sets these, under the lock.
    gone = False
    _room: "threading.Lock | None" = None
    _news: "asyncio.Future[None] | None"
    _unheard: BaseException | None = None

    # Whether take() has raised the error.
    _raised = False

    def __init__(self, settler: Settler, ahead: Ahead) -> None:
        self._settler = settler
        self._ahead = ahead
        self._lock = threading.Lock()
        self._chunks: deque[bytes] = deque()
        self._news = settler.loop.create_future()

    # In the worker thread.

    def put(self, chunk: bytes) -> None:
        """Hand ``chunk`` over; wait where the loop is too far behind.

        Raises :class:`ClientGone` where nobody takes it any more.
        """
        if self.gone:
            raise ClientGone
        if not chunk:
            return
        self._come += len(chunk)
        self._chunks.append(chunk)
        if self._news is not None:
            with self._lock:
                news, self._news = self._news, None
            if news is not None and not self._settler.settle(news):
                self.gone = True
                raise ClientGone
        if self._come - self._taken > self._ahead.most:
            self._wait_for_room()

    def _wait_for_room(self) -> None:
        room = threading.Lock()
        room.acquire()
        with self._lock:
            self._room = room
            if self.gone or self._come - self._taken <= self._ahead.most:
                self._make_room()
        room.acquire()

    def finish(
        self,
        error: BaseException | None,
        whole: bytes | None = None,
        rest: bytes = b"",
        file: OpenFile | None = None,
        stream: AsyncBody | None = None,
    ) -> bool:
        """The response has ended; return whether the loop's side hears of it.

        ``error`` is what the application raised, ``rest`` a chunk before that; ``whole``, ``file``
        and ``stream`` are as the attributes. Where nobody hears of it, the caller is to close them.
        """
        with self._lock:
            heard = not self.gone
            if heard:
                self.file = file
                self.stream = stream
                if rest:
                    self._chunks.append(rest)
            self.whole = whole
            self._error = error
            self._unheard = error
            # The other side looks at these two without the lock, and then at the rest.
            self._finished = True
            news, self._news = self._news, None
        if news is not None and not self._settler.settle(news):
            # The loop has closed: its side will do nothing any more.
            heard = False
            self.file = self.stream = None
        return heard

    # On the event loop.

    async def begin(self) -> bool:
        """Wait for the first chunk, or the end; return whether there are chunks."""
        news = self._news
        if news is not None:
            await news
        return bool(self._chunks)

    def take(self) -> tuple[bytes, bool] | None:
        """Bytes that are there to send, none only at the end; and whether this is the end.

        None where there are none yet. Raises what the application raised, after its chunks.
        """
        if self.gone:
            return b"", True
        # What was put before is among the chunks.
        finished = self._finished
        chunks = self._chunks
        if chunks:
            data = chunks.popleft()
            if len(data) < JOINED and chunks:
                data = self._joined(data)
            self._taken += len(data)
            if self._room is not None and self._come - self._taken <= self._ahead.most // 4:
                with self._lock:
                    self._make_room()
            return data, finished and not chunks and self._error is None
        if not finished:
            return None
        if self._error is not None:
            self._raised = True
            raise self._error
        return b"", True

    def _joined(self, data: bytes) -> bytes:
        chunks = self._chunks
        parts = [data]
        size = len(data)
        while chunks and size + len(chunks[0]) <= JOINED:
            size += len(chunks[0])
            parts.append(chunks.popleft())
        return b"".join(parts)

    async def wait(self) -> tuple[bytes, bool]:
        """Wait for what :meth:`take` returns."""
        while (taken := self.take()) is None:
            news = self._settler.loop.create_future()
            with self._lock:
                self._news = news
            if not self._chunks and not self._finished:
                await news
        return taken

    def leave(self) -> None:
        """Take nothing more from the thread, which ends at its next chunk."""
        with self._lock:
            self.gone = True
            self._chunks.clear()
            self._make_room()
            news, self._news = self._news, None
        if news is not None:
            set_outcome(news, None, None)

    def is_over(self) -> bool:
        """Whether the thread has ended, and :meth:`take` has raised what it raised, if anything."""
        return self._finished and (self._unheard is None or self._raised)

    def hear(self) -> None:
        """What :meth:`take` has raised goes on, and is no longer unheard."""
        if self._raised:
            self._unheard = None

    # On either side.

    def unheard(self) -> BaseException | None:
        """What the application raised and nobody has heard of; it is the caller's from now on."""
        with self._lock:
            error, self._unheard = self._unheard, None
        return error

    def _make_room(self) -> None:
        if self._room is not None:
            self._room.release()
            self._room = None
