"""The messages of a call: those of a request's body, and those that an application may send.

All is pure: which messages may come next, whether one has what servers take, and in which messages
a body is received. Servers answer what they cannot take in ways of their own, a closed connection
among them; here an application gets an exception that says what was expected and what came.
``connection.py`` asks for each message as it is sent.
"""

from collections.abc import Iterator, Mapping
from typing import Any

# A request's body is received in messages of at most so many bytes.
BLOCK = 64 * 1024

#: The types that may be sent, and for each of them those that may be sent after it.
Order = dict[str, Any]

_BODY: Order = {}
_BODY["http.response.body"] = _BODY
_DENIAL: Order = {}
_DENIAL["websocket.http.response.body"] = _DENIAL
_OPEN: Order = {"websocket.close": {}}
_OPEN["websocket.send"] = _OPEN
_FIRST: dict[str, Order] = {
    "http": {"http.response.start": _BODY},
    "websocket": {
        "websocket.accept": _OPEN,
        "websocket.close": {},
        "websocket.http.response.start": _DENIAL,
    },
}

# What a message of a websocket may have, one of them.
_DATA = {"text": str, "bytes": bytes}


def of_body(body: bytes) -> Iterator[dict[str, Any]]:
    """What the application receives of a request's ``body``."""
    for start in range(0, len(body) or 1, BLOCK):
        more = start + BLOCK < len(body)
        yield {"type": "http.request", "body": body[start : start + BLOCK], "more_body": more}


def first(scope: Mapping[str, Any]) -> Order:
    """What may be sent for ``scope`` at first (ASGI www)."""
    return _FIRST.get(scope.get("type", ""), {})


def after(message: Mapping[str, Any], expected: Order) -> Order:
    """What may be sent after ``message``, which is one of those ``expected``."""
    return {} if ends_response(message) else expected[message["type"]]


def starts_stream(message: Mapping[str, Any]) -> bool:
    """Whether ``message`` starts what ``EventSource`` takes for events (HTML standard § 9.2.2)."""
    if message["type"] != "http.response.start" or message["status"] != 200:
        return False
    types = [
        value for name, value in message.get("headers") or () if name.lower() == b"content-type"
    ]
    return [kind.partition(b";")[0].strip().lower() for kind in types] == [b"text/event-stream"]


def ends_response(message: Mapping[str, Any]) -> bool:
    """Whether ``message`` is the end of a response, or of a denial."""
    return message["type"].endswith("response.body") and not message.get("more_body")


def check(message: Mapping[str, Any], expected: Order, sender: str) -> None:
    """Raise RuntimeError where ``message`` is not one of those ``expected``, TypeError where it
    is not what servers take (ASGI www). ``sender`` is named in the latter."""
    kind = message["type"]
    if kind not in expected:
        names = " or ".join(expected) or "nothing"
        raise RuntimeError(f"Expected {names} to be sent, not {kind}")
    if kind == "websocket.send":
        given = [key for key in _DATA if message.get(key) is not None]
        if len(given) != 1:
            raise TypeError(
                f"{sender}: websocket.send must have text or bytes, one of the two, not"
                f" {' and '.join(given) or 'none'}"
            )
        _check_type(sender, kind, given[0], message[given[0]], _DATA[given[0]])
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


def _check_type(sender: str, kind: str, key: str, value: Any, expected: type) -> None:
    if not isinstance(value, expected):
        raise TypeError(
            f"{sender}: {key} of {kind} must be {expected.__name__}, not"
            f" {type(value).__name__}: {value!r:.200}"
        )
