"""What an application may send."""

from collections.abc import Iterator, Mapping
from typing import Any

# A request's body is sent in messages of at most so many bytes.
BLOCK = 64 * 1024


def check(message: Mapping[str, Any], sender: str) -> None:
    """Raise TypeError where ``message`` is not what servers take (ASGI www)."""
    kind = message["type"]
    if kind == "websocket.send":
        given = [key for key in _MESSAGE if message.get(key) is not None]
        if len(given) != 1:
            raise TypeError(
                f"{sender}: websocket.send must have text or bytes, one of the two, not"
                f" {' and '.join(given) or 'none'}"
            )
        _check_type(sender, kind, given[0], message[given[0]], _MESSAGE[given[0]])
    elif kind.endswith("response.body"):
        _check_type(sender, kind, "body", message.get("body", b""), bytes)
    elif kind.endswith("response.start"):
        _check_type(sender, kind, "status", message.get("status"), int)
    for header in message.get("headers") or ():
        if not (
            isinstance(header, tuple | list)
            and len(header) == 2
            and all(isinstance(part, bytes) for part in header)
        ):
            raise TypeError(
                f"{sender}: the headers of {kind} must be pairs of bytes, such as"
                f' (b"content-type", b"text/plain"), not {header!r:.200}'
            )


_MESSAGE = {"text": str, "bytes": bytes}


def _check_type(sender: str, kind: str, key: str, value: Any, expected: type) -> None:
    if not isinstance(value, expected):
        raise TypeError(
            f"{sender}: {key} of {kind} must be {expected.__name__}, not"
            f" {type(value).__name__}: {value!r:.200}"
        )


# What an application may send, and then (ASGI www).
_BODY: dict[str, Any] = {}


_BODY["http.response.body"] = _BODY


_DENIAL: dict[str, Any] = {}


_DENIAL["websocket.http.response.body"] = _DENIAL


_OPEN: dict[str, Any] = {"websocket.close": {}}


_OPEN["websocket.send"] = _OPEN


EXPECTED: dict[str, Any] = {
    "http": {"http.response.start": _BODY},
    "websocket": {
        "websocket.accept": _OPEN,
        "websocket.close": {},
        "websocket.http.response.start": _DENIAL,
    },
}


def body_messages(body: bytes) -> Iterator[dict[str, Any]]:
    for start in range(0, len(body) or 1, BLOCK):
        more = start + BLOCK < len(body)
        yield {"type": "http.request", "body": body[start : start + BLOCK], "more_body": more}
