"""Events as bytes of a ``text/event-stream`` (pure; HTML Living Standard, section 9.2.5)."""

import json
import re
from typing import Any

from pyramid_asgi_consumers.shown import Shown

#: What is sent where nothing else has been for a while.
COMMENT = b":\n\n"

# No other character ends a line, whatever str.splitlines() takes for one.
_LINE_BREAK = re.compile(r"\r\n|\r|\n")

# A NUL makes browsers ignore an id.
_FORBIDDEN = re.compile(r"[\r\n\0]")


def encode_event(
    data: Any, event: str | None = None, id: str | None = None, retry: int | None = None
) -> bytes:
    """An event with ``data``: a str as it is, all else as JSON.

    Its lines may end in LF, CR or CRLF: a reader gets LF for each. ``event`` is its name, that
    browsers dispatch it by; ``id`` is what the client sends back when it comes again; ``retry``
    is for how many milliseconds it waits before that.

    Raises TypeError or ValueError for what cannot be sent: it names the argument and the value.
    """
    fields = []
    for name, value in (("event", event), ("id", id)):
        if value is not None:
            fields.append(f"{name}: {_one_line(name, value)}\n")
    if retry is not None:
        fields.append(f"retry: {_milliseconds(retry)}\n")
    text = data if isinstance(data, str) else _json(data)
    fields += [f"data: {line}\n" for line in _LINE_BREAK.split(text)]
    fields.append("\n")
    try:
        return "".join(fields).encode()
    except UnicodeEncodeError as error:
        # Half of a pair, as JSON of other languages may have it.
        raise ValueError(
            f"send: an event must be valid Unicode, and has {error.object[error.start]!r}"
        ) from None


def encode_id(id: str) -> bytes:
    """An ``id`` without an event: clients remember it, and pages hear nothing."""
    return f"id: {id}\n\n".encode()


def encode_retry(retry: int) -> bytes:
    """For how many milliseconds the client waits before it comes again, without an event."""
    return f"retry: {retry}\n\n".encode()


def _one_line(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"send: {name} must be a str or None, not {value!r:.250}")
    if _FORBIDDEN.search(value):
        raise ValueError(f"send: {name} must have no line break and no NUL, not {Shown(value)}")
    # A member of an Enum is formatted by its name from Python 3.12 on.
    return str.__str__(value)


def _milliseconds(retry: object) -> int:
    if isinstance(retry, bool) or not isinstance(retry, int):
        raise TypeError(f"send: retry must be an int of milliseconds or None, not {retry!r:.250}")
    if retry < 0:
        raise ValueError(f"send: retry must be 0 milliseconds or more, not {retry}")
    return int(retry)


def _json(data: Any) -> str:
    try:
        return json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise type(error)(
            f"send: data must be a str or what JSON carries, not this {type(data).__name__}:"
            f" {Shown(error)}"
        ) from None
