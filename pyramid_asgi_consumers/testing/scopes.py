"""The scope that a server would make of a request, from the environ that WebTest has for it.

All is pure. An environ of a test may have values that no server could send or receive: bytes, text
beyond latin-1, ports that are none. The scope has what a server would have made of the closest that
a client can send; that the views get the test's own values again is the matter of ``wsgi.py``.
"""

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from pyramid_asgi_consumers.lifespan import ENTERS_NONE
from pyramid_asgi_consumers.wsgi.environ import DEFAULT_PORTS

#: The keys of an environ that the server decides.
DECIDED_BY_SERVER = frozenset(("PATH_INFO", "REQUEST_METHOD", "SCRIPT_NAME", "SERVER_PROTOCOL"))
# Those that are in the scope, but for headers.
_DESCRIBING = DECIDED_BY_SERVER | {
    "QUERY_STRING",
    "REMOTE_ADDR",
    "REMOTE_PORT",
    "SERVER_NAME",
    "SERVER_PORT",
}


def scope_of(environ: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """What a server would make of the request that ``environ`` describes."""
    text = {key: sendable(value) for key, value in environ.items() if key in _DESCRIBING}
    root_path = text.get("SCRIPT_NAME", "").encode("latin-1")
    path = root_path + text.get("PATH_INFO", "").encode("latin-1") or b"/"
    scheme = environ["wsgi.url_scheme"]
    port = number(text["SERVER_PORT"])
    named = ((header_name(key), value) for key, value in environ.items())
    scope = {
        "type": kind,
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": text["SERVER_PROTOCOL"].partition("/")[2],
        "scheme": scheme,
        "path": path.decode("utf-8", "replace"),
        "raw_path": quote(path, "/:@!$&'()*+,;=~").encode(),
        "query_string": text.get("QUERY_STRING", "").encode("latin-1"),
        "root_path": root_path.decode("utf-8", "replace"),
        "headers": [
            (name, sendable(value).encode("latin-1")) for name, value in named if name and value
        ],
        "client": None,
        "server": (
            text["SERVER_NAME"],
            int(DEFAULT_PORTS.get(scheme, 80)) if port is None else port,
        ),
        ENTERS_NONE: True,
    }
    if "REMOTE_ADDR" in text:
        # Servers know both; the application has the port absent where the test gave none.
        scope["client"] = (text["REMOTE_ADDR"], number(text.get("REMOTE_PORT")) or 0)
    if kind == "http":
        scope["method"] = text["REQUEST_METHOD"].upper()
    else:
        scope["scheme"] = {"http": "ws", "https": "wss"}[scope["scheme"]]
        scope["extensions"] = {"websocket.http.response": {}}
    return scope


def sendable(value: Any) -> str:
    """What the server gets of a value of an environ: text that is latin-1, as WSGI has it."""
    if isinstance(value, bytes):
        return value.decode("latin-1")
    text = str(value)
    try:
        text.encode("latin-1")
    except UnicodeEncodeError:
        return text.encode().decode("latin-1")
    return text


def number(value: Any) -> int | None:
    """``value`` as a number, None where it is none."""
    try:
        return int(value)
    except (TypeError, ValueError):
        return None


def header_name(key: str) -> bytes | None:
    """The name of the header that is under ``key`` in an environ, None for anything else."""
    if key not in ("CONTENT_TYPE", "CONTENT_LENGTH"):
        if not key.startswith("HTTP_"):
            return None
        key = key[len("HTTP_") :]
    return key.replace("_", "-").lower().encode("latin-1")
