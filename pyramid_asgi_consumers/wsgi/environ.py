"""What a WSGI application is told about an ASGI http or websocket scope."""

import re
import sys
from collections.abc import Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import quote, unquote_to_bytes

from pyramid_asgi_consumers.exceptions import BadRequest
from pyramid_asgi_consumers.shown import Shown

# Names up to this length, in bytes, are worth remembering; longer ones would let clients fill
# the memory.
LONGEST_CACHED_NAME = 64

# More digits than a length of 64 bits has; int() refuses thousands of them.
MAX_LENGTH_DIGITS = 20

# RFC 3986 section 3.2; no user may stand there (RFC 9110 section 4.2.4).
_ABSOLUTE = re.compile(
    r"https?://((?:[a-z0-9._~!$&'()*+,;=-]+|\[[0-9a-f:.]+\])(?::[0-9]*)?)(?:/.*)?",
    re.ASCII | re.DOTALL | re.IGNORECASE,
)

#: What gunicorn and waitress say of themselves.
SERVER_SOFTWARE = "pyramid_asgi_consumers"

# What PEP 383 makes of bytes that are no text, and what is no text at all.
_SURROGATE = re.compile("[\ud800-\udfff]")

SUBPROTOCOL_HEADER = b"sec-websocket-protocol"

WSGI_SCHEMES = {"ws": "http", "wss": "https"}
DEFAULT_PORTS = {"https": "443"}


def origin_form(scope: dict[str, Any], before: str = "") -> dict[str, Any]:
    """Return ``scope``, or what it would be had the client left its own host out of the target.

    ``GET http://host/page`` asks for ``/page`` (RFC 9112 section 3.2.2). Uvicorn (but for
    websockets) and Granian do this themselves, and drop the authority; the others hand it on in
    ``path``. A target that is neither is left as it is, and refused later.

    The authority is dropped, and the header ``Host`` is believed, though the RFC wants it the other
    way round. A correct client names the same host in both. A hostile page can choose the target of
    its handshake, and not the header: a proxy that takes ``/app`` off ``/apphttp://evil/ws`` leaves
    an absolute one.

    ``before`` is what the server itself has put in front of the target: it stays there.

    The scope is not changed.
    """
    if not scope.get("http_version", "1.1").startswith("1"):
        return scope
    path: str = scope["path"]
    if not path and scope["type"] == "websocket" and "http_version" not in scope:
        # Daphne 4.2.3 reduces the target to its path, and here the client sent none.
        return {**scope, "path": "/", "raw_path": b"/"}
    raw_path: bytes | None = scope.get("raw_path")
    found = _ABSOLUTE.fullmatch(path, len(before))
    if found is None:
        return scope
    changed = {**scope, "path": before + (path[found.end(1) :] or "/")}
    if raw_path is not None:
        # An escape is no part of an authority, and may be a slash by now.
        begin = path[: found.end(1)].encode()
        rest = raw_path.removeprefix(begin)
        if rest == raw_path or rest[:1] not in (b"", b"/"):
            return scope
        changed["raw_path"] = before.encode() + (rest or b"/")
    return changed


def split_root_path(scope: Mapping[str, Any], root_path: str | None = None) -> tuple[str, str]:
    """Divide a scope's path into the root path and the path within the application, as text.

    ``root_path`` is where the application is mounted; None takes what the ``scope`` says. The root
    path is returned with a slash before and none behind it, and is empty where there is none. It
    is taken off the path on a segment border only. Servers do not agree on whether ``path``
    contains it (Uvicorn puts it there, the others do not), so a path that does not start with it
    is returned as it is. The path within the application is empty where the path is the root path
    itself, as CGI has it, is ``*`` where the server itself is asked for its ``OPTIONS``, and starts
    with a slash otherwise. Bytes of it that are not UTF-8 become surrogates (PEP 383); see
    :func:`is_text`.

    Raises :class:`BadRequest` for any other path that does not start with a slash, and for a root
    path that is not UTF-8.

    ASGI www, HTTP connection scope; RFC 3875 sections 4.1.5 and 4.1.13; RFC 9112 section 3.2.4.
    """
    path: str = scope["path"]
    if not path.isascii():
        path = _as_sent(path, scope.get("raw_path"))
    given = root_path
    if given is None:
        given = scope.get("root_path") or ""
    root = given.strip("/")
    if root:
        root = "/" + root
        if not is_text(root):
            raise BadRequest(f"The root path must be UTF-8: {Shown(root)}")
    # Uvicorn prepends what it was given, be it "/app/" or "app".
    if given != root and root_path is None and path.startswith(given + "/"):
        return root, path[len(given) :]
    if not path.startswith("/") and not (path == "*" and scope.get("method") == "OPTIONS"):
        raise BadRequest(f"The path must start with a slash: {Shown(path)}")
    if root:
        if path == root:
            return root, ""
        if path.startswith(root + "/"):
            return root, path[len(root) :]
    return root, path


def is_text(path: str) -> bool:
    """Whether all of a path that :func:`split_root_path` has returned was UTF-8."""
    return path.isascii() or not _SURROGATE.search(path)


def _as_sent(path: str, raw_path: bytes | None) -> str:
    # Servers decode a path with replacement: only the bytes tell a U+FFFD that the client sent
    # from one that stands for something broken. What was mounted may have lost its prefix.
    if "\ufffd" in path and raw_path is not None:
        sent = unquote_to_bytes(raw_path)
        text = sent.decode("utf-8", "replace")
        prefix = text[: len(text) - len(path)].encode()
        if text.endswith(path) and sent.startswith(prefix):
            path = sent[len(prefix) :].decode("utf-8", "surrogateescape")
    try:
        _as_wsgi(path)
    except UnicodeEncodeError:
        raise BadRequest(f"The path must be text: {Shown(path)}") from None
    return path


def _as_wsgi(text: str) -> str:
    # PEP 3333, Unicode Issues.
    return text.encode("utf-8", "surrogateescape").decode("latin-1")


def build_environ(
    scope: Mapping[str, Any], root_path: str | None = None, *, multiprocess: bool = False
) -> dict[str, Any]:
    """Make a WSGI environ of an http or websocket ``scope``, all but the body.

    ``wsgi.input`` and ``wsgi.file_wrapper`` are left to the caller, and so is ``CONTENT_LENGTH``
    where the request did not declare one. ``root_path`` is as in :func:`split_root_path`;
    ``multiprocess`` becomes ``wsgi.multiprocess``. A websocket's handshake becomes a GET request.

    Repeated headers are joined with a comma, cookies with a semicolon. Headers whose name has an
    underscore are left out: they could pose as those with a dash. The scope is kept under
    ``asgi.scope`` and is not changed. ``REQUEST_URI`` and ``RAW_URI`` are the target as it was
    sent. ``REMOTE_ADDR``, ``REMOTE_HOST`` and ``REMOTE_PORT`` are absent where they are not known.

    Raises :class:`BadRequest` where no request can be made of the scope: a path that
    :func:`split_root_path` refuses, two ``Host`` headers, a ``Content-Length`` that is not a
    number or that contradicts another.

    PEP 3333, environ Variables; RFC 9110 section 5.3; RFC 9113 section 8.2.3.
    """
    root, path = split_root_path(scope, root_path)
    if not root.isascii():
        root = root.encode().decode("latin-1")
    if not path.isascii():
        path = _as_wsgi(path)
    scheme = scope.get("scheme") or "http"
    scheme = WSGI_SCHEMES.get(scheme, scheme)
    server_host, server_port = scope.get("server") or (None, None)
    # A unix socket has no port, and no name that a URL could be made of.
    if not server_port:
        server_host, server_port = "localhost", DEFAULT_PORTS.get(scheme, "80")
    query = scope.get("query_string", b"").decode("latin-1")
    raw_path = scope.get("raw_path")
    target = _quoted(scope["path"]) if raw_path is None else raw_path.decode("latin-1")
    if query:
        target += "?" + query
    environ = {
        "REQUEST_METHOD": "GET" if scope["type"] == "websocket" else scope["method"],
        "SCRIPT_NAME": root,
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "SERVER_PROTOCOL": "HTTP/" + scope.get("http_version", "1.1"),
        "SERVER_NAME": server_host or "localhost",
        "SERVER_PORT": str(server_port),
        "SERVER_SOFTWARE": SERVER_SOFTWARE,
        "REQUEST_URI": target,
        "RAW_URI": target,
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scheme,
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": multiprocess,
        "wsgi.run_once": False,
        "wsgi.input_terminated": True,
        "asgi.scope": scope,
    }
    # A unix socket's client has no address, and an absent one is not empty.
    client_host, client_port = scope.get("client") or (None, None)
    if client_host:
        environ["REMOTE_ADDR"] = environ["REMOTE_HOST"] = client_host
        if client_port not in (None, ""):
            environ["REMOTE_PORT"] = str(client_port)
    repeated: dict[str, list[str]] = {}
    for name, value in scope["headers"]:
        key = _cached_key(name) if len(name) <= LONGEST_CACHED_NAME else _key(name)
        if key is None:
            continue
        text = value.decode("latin-1")
        if key in environ:
            repeated.setdefault(key, [environ[key]]).append(text)
        else:
            environ[key] = text
    if repeated:
        _join(environ, repeated)
    length = environ.get("CONTENT_LENGTH")
    if length is not None and not (
        length.isascii() and length.isdigit() and len(length) <= MAX_LENGTH_DIGITS
    ):
        raise BadRequest(f"Content-Length must be a number of bytes, not {Shown(length)}")
    return environ


def _quoted(path: str) -> str:
    # RFC 3986 section 3.3.
    return quote(path, "/:@!$&'()*+,;=~", errors="surrogateescape")


def subprotocols(scope: Mapping[str, Any]) -> list[str]:
    """The subprotocols that the client of a websocket offers, the one it likes best first.

    Those of all lines of the header (RFC 6455 section 11.3.4): of several, Hypercorn 0.18 has only
    the last in ``scope["subprotocols"]`` and Gunicorn 27 only the first. Uvicorn 0.54 with wsproto
    gives that list, and no such header.
    """
    lines = [value for name, value in scope["headers"] if name.lower() == SUBPROTOCOL_HEADER]
    names = [name.strip() for line in lines for name in line.decode("latin-1").split(",")]
    if not lines:
        names = list(scope.get("subprotocols") or ())
    return [name for name in names if name]


def _key(name: bytes) -> str | None:
    name = name.upper()
    # The body is read whole before the application is called, so its coding is gone.
    if b"_" in name or name == b"TRANSFER-ENCODING":
        return None
    key = name.decode("latin-1").replace("-", "_")
    return key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else "HTTP_" + key


_cached_key = lru_cache(maxsize=256)(_key)


def _join(environ: dict[str, Any], repeated: dict[str, list[str]]) -> None:
    for key, values in repeated.items():
        if key == "HTTP_HOST":
            raise BadRequest("There must be one Host header, not several")
        if key == "HTTP_COOKIE":
            environ[key] = "; ".join(values)
        elif key != "CONTENT_LENGTH":
            environ[key] = ",".join(values)
        elif len(set(values)) > 1:
            raise BadRequest("Content-Length must not contradict another")
