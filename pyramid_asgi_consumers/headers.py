"""The status and the headers of a response, as PEP 3333 has them and as ASGI wants them (pure)."""

import re
from functools import lru_cache
from typing import Any

from pyramid_asgi_consumers.exceptions import WSGIError
from pyramid_asgi_consumers.shown import Shown

Headers = list[tuple[bytes, bytes]]

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


@lru_cache(maxsize=128)
def _status_code(status: str) -> int:
    if not re.fullmatch(r"[2-9][0-9][0-9]( [^\x00-\x1f\x7f]*)?", status):
        raise WSGIError(f"The status must be like '200 OK', not {Shown(status)}")
    return int(status[:3])


def checked_status(status: object) -> int:
    """The number of ``status``, such as ``"200 OK"``; :class:`.WSGIError` for what is none."""
    if not isinstance(status, str):
        raise WSGIError(f"The status must be a str like '200 OK', not {Shown(status)}")
    return _status_code(status)


def checked_headers(headers: object) -> Headers:
    """``headers`` as ASGI wants them; :class:`.WSGIError` for what cannot be sent.

    Names are tokens (RFC 9110 section 5.1), values latin-1 without control characters, and none of
    them is hop-by-hop.
    """
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


def merged(own: Any, pyramids: Headers) -> Headers:
    """The headers ``own`` of the consumer and those of Pyramid's response to its handshake."""
    # What the consumer says itself holds; cookies are all set.
    own = list(own or ())
    names = {name.lower() for name, _ in own} - {b"set-cookie"}
    return own + [header for header in pyramids if header[0] not in names]
