"""What a response is made of besides chunks: files, and iterables that are to be closed."""

import logging
import os
import threading
from collections.abc import Iterator
from typing import Any, BinaryIO

from pyramid_asgi_consumers.exceptions import WSGIError

log = logging.getLogger(__name__)


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
        # A block may still be being read for a request that was cancelled, and is to be closed.
        self._lock = threading.Lock()

    def read(self, size: int) -> bytes:
        """At most ``size`` bytes, none at the end; :class:`.WSGIError` for anything else."""
        with self._lock:
            data = self._wrapper.file.read(size)
        if not isinstance(data, bytes):
            raise WSGIError(f"A file must give bytes, not {type(data).__name__}")
        return data

    def close(self) -> None:
        """Close the file, and the request's body."""
        with self._lock:
            close(self._wrapper)
            self._body.close()


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
