"""Events and gaps as JSON text from which a page can resume (pure)."""

import base64
import json
from collections.abc import Callable
from typing import Any

from pyramid_asgi_consumers.channels.events import Event, Item


class Messages:
    """Remembers the message of a websocket that the last item became: all subscribers get the same.

    ``content_of(item)`` is what it says, text or bytes.
    """

    def __init__(self, content_of: Callable[[Any], str | bytes]) -> None:
        self._content_of = content_of
        self._last: tuple[Item | None, dict[str, Any]] = (None, {})

    def of(self, item: Item) -> dict[str, Any]:
        """The ``websocket.send`` (ASGI, Send) for ``item``; it is not to be changed."""
        last, message = self._last
        if last is not item:
            content = self._content_of(item)
            kind = "text" if isinstance(content, str) else "bytes"
            message = {"type": "websocket.send", kind: content}
            # At once, since other threads may ask, too.
            self._last = (item, message)
        return message


def envelope_of(item: Item) -> str:
    """``{"channel", "id", "data"}`` for an event, with ``"base64"`` in place of data for bytes.

    For a gap ``{"channel", "id", "gap"}``: how many events are missing, null where nobody knows,
    and the id from which it goes on, null likewise.
    """
    if not isinstance(item, Event):
        return _text({"channel": item.channel, "id": item.id, "gap": item.missed})
    if item.json is None:
        return _text({"channel": item.channel, "id": item.id, "base64": _base64(item.data)})
    # What was published is JSON already: to parse it would be dear.
    return f'{start_of(item.channel, item.id)[:-1]},"data":{item.json}}}'


def start_of(channel: str, event_id: str | None) -> str:
    """``{"channel", "id"}``: where a channel begins, null where that is not known."""
    return _text({"channel": channel, "id": event_id})


def content_of(event: Event) -> str | bytes:
    """The data of ``event`` as JSON text, or as the bytes that it is."""
    return event.data if event.json is None else event.json


def payload_of(event: Event) -> str:
    """The data of ``event`` as JSON text; bytes are ``{"base64"}``."""
    return event.json if event.json is not None else _text({"base64": _base64(event.data)})


def missed_of(channel: str, missed: int | None) -> str:
    """``{"channel", "missed"}``: a gap, as an event stream tells it."""
    return _text({"channel": channel, "missed": missed})


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _text(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
