"""An event stream as a browser reads it (HTML standard § 9.2.5 and § 9.2.6). Pure.

:class:`EventParser` is fed with bytes, wherever they were cut, and has the events that they make.
It is written from the standard alone, and knows nothing of what sends the stream.
"""

import re
from collections import deque
from dataclasses import dataclass

# UTF-8 has these bytes in no other character, so lines can be cut before they are decoded.
_LINE_END = re.compile(rb"\r\n|\r|\n")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# Longer numbers are no time to wait; int() refuses some of them.
_MOST_DIGITS = 18


@dataclass(frozen=True)
class ServerSentEvent:
    """An event as a browser dispatches it.

    ``event`` is its name; ``id`` the stream's last event id when it came, an empty string where
    there is none; ``retry`` the milliseconds that came with it in a field of that name, or None.
    """

    data: str
    event: str = "message"
    id: str = ""
    retry: int | None = None


class EventParser:
    """Reads a stream that goes on after the event with the id ``last_event_id``."""

    def __init__(self, last_event_id: str = "") -> None:
        #: The milliseconds after which a client comes back, None where the stream has not said.
        self.retry: int | None = None
        #: How many lines were comments.
        self.comments = 0
        self._rest = b""
        self._lines: deque[str] = deque()
        self._is_first = True
        self._after_cr = False
        self._last_event_id = last_event_id
        # What the standard calls buffers. That of the id keeps what is in it.
        self._id = last_event_id
        self._data: list[str] = []
        self._event = ""
        self._retry: int | None = None

    def feed(self, data: bytes) -> None:
        """Take what comes next of the stream."""
        if not data:
            return
        if self._after_cr:
            # The line has ended already.
            data = data.removeprefix(b"\n")
        self._after_cr = data.endswith(b"\r")
        *lines, self._rest = _LINE_END.split(self._rest + data)
        for line in lines:
            if self._is_first:
                line = line.removeprefix(_BYTE_ORDER_MARK)
                self._is_first = False
            self._lines.append(line.decode("utf-8", "replace"))

    def is_ready(self) -> bool:
        """Whether an event has come whole that was not taken yet."""
        while self._lines and (self._lines[0] or not self._data):
            if line := self._lines.popleft():
                self._process(line)
            else:
                self._dispatch()
        return bool(self._lines)

    def take(self) -> ServerSentEvent | None:
        """The next event that has come whole, or None."""
        if not self.is_ready():
            return None
        self._lines.popleft()
        event, retry = self._event or "message", self._retry
        data = "\n".join(self._data)
        self._dispatch()
        return ServerSentEvent(data, event, self._last_event_id, retry)

    @property
    def last_event_id(self) -> str:
        """With what a client would come back that has all events taken so far, and no more.

        That is the id of the last of them, or one that has come since without an event.
        """
        self.is_ready()
        return self._last_event_id

    @property
    def unfinished(self) -> str:
        """What has come of the data of an event that has not ended, for error messages."""
        rest = self._rest.decode("utf-8", "replace")
        return "\n".join([*self._data, *([rest] if rest else [])])

    def _process(self, line: str) -> None:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not name:
            self.comments += 1
        elif name == "data":
            self._data.append(value)
        elif name == "event":
            self._event = value
        elif name == "id" and "\0" not in value:
            self._id = value
        elif name == "retry" and value.isascii() and value.isdigit():
            if len(value) <= _MOST_DIGITS:
                self.retry = self._retry = int(value)

    def _dispatch(self) -> None:
        self._last_event_id = self._id
        self._data, self._event, self._retry = [], "", None
