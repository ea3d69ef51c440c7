"""What PEP 3333 asks of an application: headers in time, and as many bytes as they tell.

Pure: an :class:`Answer` belongs to the worker thread that runs the application.
"""

import logging
from typing import Any

from pyramid_asgi_consumers.exceptions import WSGIError
from pyramid_asgi_consumers.headers import checked_headers, checked_status

log = logging.getLogger(__name__)

# These have no body, nor a Content-Length, for whose bytes servers would wait (RFC 9110).
BODYLESS = (204, 304)


class Answer:
    """Status, headers and length of the response to a request with the method ``method``."""

    # Of the class, where each answer need not set them.

    #: Status and headers, as the application has given them last.
    head: tuple[int, list[tuple[bytes, bytes]]] | None = None
    #: Whether these are final.
    started = False
    #: Whether the client gets no body, whatever the application gives.
    bodyless = False
    #: The bytes of the body, where that is known.
    length: int | None = None
    _measured = 0
    _is_cut = False

    def __init__(self, method: str) -> None:
        self._method = method

    def start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: Any = None
    ) -> None:
        """PEP 3333's ``start_response``, but for what that returns."""
        if exc_info:
            try:
                if self.started:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None
        elif self.head is not None:
            raise WSGIError("start_response was called a second time without exc_info")
        self.head = checked_status(status), checked_headers(headers)

    def start(self, size: int | None = None) -> None:
        """Take the headers as final; ``size`` is that of the body, in bytes, where it is known."""
        assert self.head is not None
        status, headers = self.head
        self.started = True
        self.bodyless = status in BODYLESS or self._method == "HEAD"
        lengths = {value for name, value in headers if name == b"content-length"}
        if lengths:
            value = lengths.pop()
            if lengths or not value.isdigit():
                raise WSGIError(f"Content-Length must be one number of bytes, not {value!r}")
            self.length = int(value)
            if status in BODYLESS:
                headers = [header for header in headers if header[0] != b"content-length"]
                self.head = status, headers
        elif size is not None and not self.bodyless:
            self.length = size
            headers.append((b"content-length", b"%d" % size))

    def checked(self, chunk: bytes) -> bytes:
        """``chunk``; :class:`.WSGIError` where none may come now, or it is not bytes."""
        if self.head is None:
            raise WSGIError("The application gave a chunk before it called start_response")
        if not isinstance(chunk, bytes):
            raise WSGIError(f"A chunk of a response must be bytes, not {type(chunk).__name__}")
        return chunk

    def measured(self, chunk: bytes) -> bytes:
        """As much of ``chunk`` as the Content-Length leaves; the rest is cut, with a warning."""
        measured = self._measured + len(chunk)
        if self.length is not None and measured > self.length:
            chunk = chunk[: self.length - self._measured]
            measured = self.length
            if not self._is_cut:
                self._is_cut = True
                log.warning("The response is longer than its Content-Length; the rest is cut")
        self._measured = measured
        return chunk

    def end(self, size: int | None) -> None:
        """There are no more chunks; ``size`` is that of the body where it had none at all.

        Raises :class:`.WSGIError` where it is too early for that.
        """
        if self.head is None:
            raise WSGIError("The application returned without calling start_response")
        if not self.started:
            self.start(size)
        if self.length is not None and self._measured < self.length and not self.bodyless:
            raise WSGIError(
                f"The response is {self._measured} bytes, its Content-Length is {self.length}"
            )
