"""One WSGI response: made in a worker thread, sent by the event loop.

:class:`Response` has two sides. :meth:`Response.run` and what it calls belong to the worker thread,
:meth:`Response.send_to` and what it calls to the event loop.
"""

import asyncio
import contextvars
import logging
import os
import re
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from functools import lru_cache, partial
from typing import Any, BinaryIO

from pyramid_asgi_consumers.async_views import Receive
from pyramid_asgi_consumers.exceptions import ClientDisconnected, WSGIError
from pyramid_asgi_consumers.raised import carried
from pyramid_asgi_consumers.shown import Shown
from pyramid_asgi_consumers.wsgi.threads import Settler, ThreadPool, settle

log = logging.getLogger(__name__)

# A thread that is more bytes ahead of its client waits until it is a quarter of this ahead: each
# wait is a switch of threads there and one back. Where many responses are sent at once each may be
# ahead by its share of ALL_AHEAD, but by LEAST_AHEAD at least; who is further ahead stays so.
AHEAD = 4 * 1024 * 1024
ALL_AHEAD = 128 * 1024 * 1024
LEAST_AHEAD = 256 * 1024
# Small chunks that wait together are sent as one message of about this size.
JOINED = 64 * 1024
# So much of a file is read at a time.
BLOCK = 256 * 1024
# Headers with values of up to so many characters, but cookies, are the same again and again.
CACHED = 64

# PEP 3333, "Other HTTP Features": these are the server's to send (RFC 2616 section 13.5.1).
HOP_BY_HOP = frozenset(
    (
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "trailers",
        "transfer-encoding",
        "upgrade",
    )
)

Send = Callable[[dict[str, Any]], Awaitable[None]]
Job = Callable[..., object]


class FileWrapper:
    """``wsgi.file_wrapper`` (PEP 3333, "Optional Platform-Specific File Handling").

    ``file`` has ``read(size)``; ``block_size`` is the number of bytes that iteration reads at once.
    Returned as the response, its file is read block by block as the client takes them.
    """

    def __init__(self, file: BinaryIO, block_size: int = 8192) -> None:
        self.file = file
        self.block_size = block_size
        if hasattr(file, "close"):
            self.close = file.close

    def __iter__(self) -> Iterator[bytes]:
        while block := self.file.read(self.block_size):
            yield block


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


class Response:
    """What ``wsgi_app`` answers to ``environ``.

    ``body`` is the request's, and is closed at the end. ``pool`` runs the response, and reads the
    files that it returns. ``settler`` is that of the event loop, ``ahead`` that of the bridge.
    Create it on the loop, give :meth:`run` to the pool, and await :meth:`send_to`.
    """

    #: Whether ``http.response.start`` was sent.
    sent = False
    #: What the application raised.
    error: BaseException | None = None

    # Written by the worker thread alone.
    _head: tuple[int, list[tuple[bytes, bytes]]] | None = None
    _started = False
    _bodyless = False
    _length: int | None = None
    _written = 0
    _cut = False
    # The response is one chunk, which this becomes.
    _alone = False
    _only = b""

    # The response is whole: _only is all of it, and no chunk was put.
    _whole = False

    # Written by the event loop alone.
    _taken = 0
    _raised = False

    # Shared. Chunks go from one side to the other without the lock: who changes something looks
    # afterwards whether the other side waits; who is to wait says so, under the lock, and looks
    # afterwards whether anything has changed. The room is held while the thread waits for its
    # client; who makes room releases it.
    _room: "threading.Lock | None" = None
    _finished = False
    _gone = False
    _unheard: BaseException | None = None
    _file: FileWrapper | None = None
    _file_lock: "threading.Lock | None" = None
    _news: asyncio.Future[None] | None

    def __init__(
        self,
        wsgi_app: Callable[..., Any],
        environ: dict[str, Any],
        body: BinaryIO,
        settler: Settler,
        pool: ThreadPool,
        ahead: Ahead,
    ) -> None:
        self.wsgi_app = wsgi_app
        self.environ = environ
        self.body = body
        self.settler = settler
        self.pool = pool
        self.ahead = ahead
        #: The contextvars of :meth:`run`, which is to be called in it.
        self.context = contextvars.copy_context()
        self._lock = threading.Lock()
        self._chunks: deque[bytes] = deque()
        self._news = settler.loop.create_future()

    # In the worker thread.

    def run(self) -> None:
        """Call the application and hand on what it answers, to the end."""
        error: BaseException | None = None
        file: FileWrapper | None = None
        try:
            result = self.wsgi_app(self.environ, self.start_response)
            try:
                if isinstance(result, FileWrapper) and self._head is not None:
                    file = self._start_file(result)
                if file is None:
                    self._iterate(result)
            finally:
                if file is None:
                    _close(result)
        except _ClientGone:
            pass
        except BaseException as exception:
            error = carried(exception)
        with self._lock:
            gone = self._gone
            if not gone:
                self._file = file
                if self._only and error is not None:
                    self._chunks.append(self._only)
            self._whole = error is None and file is None and self._alone
            self.error = error
            self._unheard = error
            # The other side looks at these two without the lock, and then at the rest.
            self._finished = True
            news, self._news = self._news, None
        if news is not None and not self.settler.settle(news):
            # The loop has closed: its side will do nothing any more.
            gone = True
            self._file = None
        if gone:
            self._log_unheard()
        if file is None:
            self.body.close()
        elif gone:
            self._close_file(file)

    def start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: Any = None
    ) -> Callable[[bytes], None]:
        """PEP 3333's ``start_response``; returns its ``write``."""
        if exc_info:
            try:
                if self._started:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None
        elif self._head is not None:
            raise WSGIError("start_response was called a second time without exc_info")
        self._head = _checked_status(status), checked_headers(headers)
        return self.write

    def write(self, data: bytes) -> None:
        """PEP 3333's ``write``: send ``data`` now.

        Raises :class:`ClientDisconnected` where the client has left.
        """
        if not self._only:
            self._alone = False
        try:
            self._put(data)
        except _ClientGone:
            raise ClientDisconnected("The client left during its response") from None

    def _start_file(self, file: FileWrapper) -> FileWrapper | None:
        """``file`` if the event loop's side is to send it; None if it is to be iterated here."""
        if self._started:
            return None
        told = any(name == b"content-length" for name, _ in self._head[1])
        self._start(None if told else _remaining(file.file))
        self._file_lock = threading.Lock()
        return None if self._bodyless else file

    def _iterate(self, result: Any) -> None:
        # The only chunk need not be announced, the end follows at once; and its size is known
        # (PEP 3333, "Handling the Content-Length Header").
        self._alone = not self._started and hasattr(result, "__len__") and len(result) == 1
        for chunk in result:
            self._put(chunk)
            if self._bodyless:
                return
        if self._head is None:
            raise WSGIError("The application returned without calling start_response")
        if not self._started:
            self._start(0 if self._alone else None)
        if self._length is not None and self._written < self._length and not self._bodyless:
            raise WSGIError(
                f"The response is {self._written} bytes, its Content-Length is {self._length}"
            )

    def _start(self, size: int | None = None) -> None:
        """Take the headers as final; ``size`` is that of the body, in bytes, where it is known."""
        status, headers = self._head
        self._started = True
        self._bodyless = status in (204, 304) or self.environ["REQUEST_METHOD"] == "HEAD"
        lengths = {value for name, value in headers if name == b"content-length"}
        if lengths:
            value = lengths.pop()
            if lengths or not value.isdigit():
                raise WSGIError(f"Content-Length must be one number of bytes, not {value!r}")
            self._length = int(value)
            # Servers would wait for the body that it announces.
            if status in (204, 304):
                headers = [header for header in headers if header[0] != b"content-length"]
                self._head = status, headers
        elif size is not None and not self._bodyless:
            self._length = size
            headers.append((b"content-length", b"%d" % size))

    def _put(self, chunk: bytes) -> None:
        if self._head is None:
            raise WSGIError("The application gave a chunk before it called start_response")
        if not isinstance(chunk, bytes):
            raise WSGIError(f"A chunk of a response must be bytes, not {type(chunk).__name__}")
        if not chunk:
            return
        if not self._started:
            self._start(len(chunk) if self._alone else None)
        if self._bodyless:
            return
        written = self._written + len(chunk)
        if self._length is not None and written > self._length:
            chunk = chunk[: self._length - self._written]
            written = self._length
            if not self._cut:
                self._cut = True
                log.warning("The response is longer than its Content-Length; the rest is cut")
        self._written = written
        if self._alone:
            self._only += chunk
            return
        if self._gone:
            raise _ClientGone
        if not chunk:
            return
        self._chunks.append(chunk)
        if self._news is not None:
            with self._lock:
                news, self._news = self._news, None
            if news is not None and not self.settler.settle(news):
                self._gone = True
                raise _ClientGone
        if written - self._taken > self.ahead.most:
            self._wait_for_room()

    def _wait_for_room(self) -> None:
        room = threading.Lock()
        room.acquire()
        with self._lock:
            self._room = room
            if self._gone or self._written - self._taken <= self.ahead.most:
                self._make_room()
        room.acquire()

    # On the event loop.

    async def send_to(self, receive: Receive, send: Send, paced: Callable[[Send], Send]) -> None:
        """Send the response; ``paced(send)`` is what sends one of several chunks.

        Returns when it was sent or the client has left. Raises what the application raised; then
        :attr:`sent` tells whether a part of it went out.
        """
        news = self._news
        if news is not None:
            try:
                await news
            except BaseException:
                await self._clean_up(None)
                raise
        if self._chunks:
            with self.ahead:
                return await self._stream(receive, paced(send))
        if not self._whole:
            return await self._stream(receive, paced(send))
        status, headers = self._head
        self.sent = True
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": self._only, "more_body": False})

    async def _stream(self, receive: Receive, send: Send) -> None:
        watcher: asyncio.Task[None] | None = None
        try:
            data, last = self._take() or await self._wait()
            status, headers = self._head
            self.sent = True
            await send({"type": "http.response.start", "status": status, "headers": headers})
            if not last or self._file is not None:
                watcher = self.settler.loop.create_task(self._watch(receive))
            while not last:
                await send({"type": "http.response.body", "body": data, "more_body": True})
                data, last = self._take() or await self._wait()
            if self._file is not None:
                await self._send_file(send)
            elif not self._gone:
                await send({"type": "http.response.body", "body": data, "more_body": False})
        finally:
            await self._clean_up(watcher)

    async def _clean_up(self, watcher: "asyncio.Task[None] | None") -> None:
        """Let the thread end, too, and nothing go unheard that it has raised; close its file."""
        if not self._finished or (self._unheard is not None and not self._raised):
            self._leave()
            self._log_unheard()
        try:
            if watcher is not None:
                watcher.cancel()
            if self._file is not None:
                await self.pool.run(self._close_file, self._file)
            if watcher is not None:
                await asyncio.wait((watcher,))
        except asyncio.CancelledError:
            # It takes the place of what was raised.
            self._log_unheard()
            raise
        if self._raised:
            self._unheard = None

    def _take(self) -> tuple[bytes, bool] | None:
        """Bytes that are there to send, none only at the end; and whether this is the end.

        None where there are none yet. Raises what the application raised, after its chunks.
        """
        if self._gone:
            return b"", True
        # What was put before is among the chunks.
        finished = self._finished
        chunks = self._chunks
        if chunks:
            data = chunks.popleft()
            if len(data) < JOINED and chunks:
                data = self._joined(data)
            self._taken += len(data)
            if self._room is not None and self._written - self._taken <= self.ahead.most // 4:
                with self._lock:
                    self._make_room()
            return data, finished and not chunks and self.error is None
        if not finished:
            return None
        if self.error is not None:
            self._raised = True
            raise self.error
        return b"", True

    def _joined(self, data: bytes) -> bytes:
        chunks = self._chunks
        parts = [data]
        size = len(data)
        while chunks and size + len(chunks[0]) <= JOINED:
            size += len(chunks[0])
            parts.append(chunks.popleft())
        return b"".join(parts)

    async def _wait(self) -> tuple[bytes, bool]:
        while (taken := self._take()) is None:
            news = self.settler.loop.create_future()
            with self._lock:
                self._news = news
            if not self._chunks and not self._finished:
                await news
        return taken

    def _make_room(self) -> None:
        if self._room is not None:
            self._room.release()
            self._room = None

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._leave()

    def _leave(self) -> None:
        """Take nothing more from the thread, which ends at its next chunk."""
        with self._lock:
            self._gone = True
            self._chunks.clear()
            self._make_room()
            news, self._news = self._news, None
        if news is not None:
            settle(news, None, None)

    def _log_unheard(self) -> None:
        with self._lock:
            error, self._unheard = self._unheard, None
        if error is not None and not isinstance(error, ClientDisconnected):
            report = partial(
                log.error, "A request that nobody waits for any more failed", exc_info=error
            )
            # A copy: the thread may be inside it.
            self.context.copy().run(report)

    async def _send_file(self, send: Send) -> None:
        left = self._length
        while not self._gone:
            data = b""
            if left != 0:
                size = BLOCK if left is None else min(BLOCK, left)
                data = await self.pool.run(self._read, size)
            if left is not None:
                if left and not data:
                    raise WSGIError(
                        f"The file ends {left} bytes before its Content-Length of {self._length}"
                    )
                data = data[:left]
                left -= len(data)
            more = bool(data) and left != 0
            await send({"type": "http.response.body", "body": data, "more_body": more})
            if not more:
                return

    def _read(self, size: int) -> bytes:
        try:
            with self._file_lock:
                data = self._file.file.read(size)
            if not isinstance(data, bytes):
                raise WSGIError(f"A file must give bytes, not {type(data).__name__}")
            return data
        except BaseException as error:
            self.error = carried(error)
            raise

    def _close_file(self, file: FileWrapper) -> None:
        # A block may still be being read, for a request that was cancelled.
        with self._file_lock:
            _close(file)
            self.body.close()


def _remaining(file: Any) -> int | None:
    """The bytes from where ``file`` stands to its end; None where it cannot tell."""
    if not (hasattr(file, "seekable") and file.seekable()):
        return None
    position = file.tell()
    end = file.seek(0, os.SEEK_END)
    file.seek(position)
    # Those of /proc say 0.
    return end - position if end > position else None


class _ClientGone(BaseException):
    """Ends :meth:`Response.run`; never seen by an application."""


def _close(result: Any) -> None:
    close = getattr(result, "close", None)
    if close is not None:
        try:
            close()
        except BaseException:
            log.exception("close() of the response iterable failed")


@lru_cache(maxsize=128)
def _status_code(status: str) -> int:
    if not re.fullmatch(r"[2-9][0-9][0-9]( [^\x00-\x1f\x7f]*)?", status):
        raise WSGIError(f"The status must be like '200 OK', not {Shown(status)}")
    return int(status[:3])


def _checked_status(status: object) -> int:
    if not isinstance(status, str):
        raise WSGIError(f"The status must be a str like '200 OK', not {Shown(status)}")
    return _status_code(status)


def checked_headers(headers: object) -> list[tuple[bytes, bytes]]:
    # PEP 3333 wants a list of tuples; waitress and gunicorn take what can be read as one.
    if not isinstance(headers, list | tuple):
        raise WSGIError(f"The headers must be a list, not {type(headers).__name__}")
    checked = []
    for header in headers:
        if not isinstance(header, list | tuple) or len(header) != 2:
            raise WSGIError(f"A header must be a tuple (name, value), not {Shown(header)}")
        name, value = header
        if not isinstance(name, str) or not isinstance(value, str):
            raise WSGIError(f"A header's name and value must be str, not {Shown(header)}")
        known = len(value) <= CACHED and name != "Set-Cookie"
        checked.append(_cached_header(name, value) if known else _header(name, value))
    return checked


def _header(name: str, value: str) -> tuple[bytes, bytes]:
    if _forbidden(value):
        raise WSGIError(
            f"The value of the header {Shown(name)} has a control character: {Shown(value)}"
        )
    try:
        return _header_name(name), value.encode("latin-1").strip(b" \t")
    except UnicodeEncodeError:
        raise WSGIError(
            f"The value of the header {Shown(name)} is not latin-1: {Shown(value)}"
        ) from None


_cached_header = lru_cache(maxsize=512)(_header)

_forbidden = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]").search


@lru_cache(maxsize=512)
def _header_name(name: str) -> bytes:
    # RFC 9110 section 5.1: a token. ASGI wants it in lower case.
    if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name):
        raise WSGIError(f"{Shown(name)} is no name of a header")
    if name.lower() in HOP_BY_HOP:
        raise WSGIError(f"The header {Shown(name)} is hop-by-hop: it is the server's to send")
    return name.lower().encode("ascii")
