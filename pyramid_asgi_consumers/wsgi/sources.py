"""What a response is made of besides chunks: files, and iterables that are to be closed."""

import io
import logging
import os
import threading
from collections.abc import Iterator
from typing import Any, BinaryIO

from pyramid_asgi_consumers.exceptions import WSGIError

log = logging.getLogger(__name__)

#: Linux's, by which only what is in memory is read.
RWF_NOWAIT: int | None = getattr(os, "RWF_NOWAIT", None)


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


class OpenFile:
    """The file of ``wrapper``, which the event loop's side sends: threads of the pool read it.

    ``body`` is the request's, which may be the same file; both are closed together.
    """

    def __init__(self, wrapper: FileWrapper, body: BinaryIO) -> None:
        self._wrapper = wrapper
        self._body = body
        # A plain file is read by its descriptor, from here on.
        self._descriptor: int | None = None
        self._position = 0
        if _is_plain(wrapper.file):
            self._descriptor = wrapper.file.fileno()
            self._position = wrapper.file.tell()
        # A block may still be being read for a request that was cancelled, and is to be closed.
        self._lock = threading.Lock()

    def read(self, size: int) -> bytes:
        """At most ``size`` bytes, none at the end; :class:`.WSGIError` for anything else."""
        with self._lock:
            if self._descriptor is None:
                data = self._wrapper.file.read(size)
            else:
                data = os.pread(self._descriptor, size, self._position)
                self._position += len(data)
        if not isinstance(data, bytes):
            raise WSGIError(f"A file must give bytes, not {type(data).__name__}")
        return data

    def read_cached(self, size: int) -> bytes | None:
        """At most ``size`` bytes, none at the end, without waiting for a disk.

        None where that cannot be, and a thread is to :meth:`read`. Only for the thread of an event
        loop, and while no other one reads.
        """
        if self._descriptor is None or RWF_NOWAIT is None:
            return None
        buffer = _buffer(size)
        try:
            count = os.preadv(self._descriptor, [buffer], self._position, RWF_NOWAIT)
        except OSError:
            # It is not in memory, or on a file system that cannot tell: whatever it is, read() says
            # so.
            return None
        self._position += count
        return bytes(buffer[:count])

    def close(self) -> None:
        """Close the file, and the request's body."""
        with self._lock:
            self._descriptor = None
            close(self._wrapper)
            self._body.close()


def _is_plain(file: Any) -> bool:
    # Whoever wraps or subclasses one may read something else.
    return type(file) is io.BufferedReader and type(file.raw) is io.FileIO and file.seekable()


_memory = threading.local()


def _buffer(size: int) -> memoryview:
    # Of each thread, for as long as it lives: that of an event loop reads one block at a time.
    if size > len(getattr(_memory, "buffer", b"")):
        _memory.buffer = memoryview(bytearray(size))
    return _memory.buffer[:size]


def remaining(file: Any) -> int | None:
    """The bytes from where ``file`` stands to its end; None where it cannot tell."""
    if not (hasattr(file, "seekable") and file.seekable()):
        return None
    position = file.tell()
    end = file.seek(0, os.SEEK_END)
    file.seek(position)
    # Those of /proc say 0.
    return end - position if end > position else None


def close(result: Any) -> None:
    """Call ``close()`` of what an application returned, if it has one; what it raises is logged."""
    close_it = getattr(result, "close", None)
    if close_it is not None:
        try:
            close_it()
        except BaseException:
            log.exception("close() of the response iterable failed")
