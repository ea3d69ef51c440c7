"""What a WSGI application is told about an ASGI http or websocket scope."""

import re
import sys
from collections.abc import Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import unquote_to_bytes

from pyramid_asgi_consumers.exceptions import BadRequest

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

WSGI_SCHEMES = {"ws": "http", "wss": "https"}
DEFAULT_PORTS = {"https": "443"}


def origin_form(scope: dict[str, Any]) -> dict[str, Any]:
    """Return ``scope``, or what it would be had the client left its own host out of the target.

    ``GET http://host/page`` asks for ``/page``, and the authority in it replaces what the header
    ``Host`` says (RFC 9112 section 3.2.2). Uvicorn (but for websockets) and Granian do this
    themselves, and drop the authority; the others hand it on in ``path``. A target that is neither
    is left as it is, and so are two ``Host`` headers: both are refused later.

    The scope is not changed.
    """
    if not scope.get("http_version", "1.1").startswith("1"):
        return scope
    path: str = scope["path"]
    raw_path: bytes | None = scope.get("raw_path")
    # Uvicorn puts the root path in front of whatever comes.
    root = scope.get("root_path") or ""
    if not path.startswith(root):
        root = ""
    found = _ABSOLUTE.fullmatch(path, len(root))
    if found is None:
        return scope
    changed = {**scope, "path": root + (path[found.end(1) :] or "/")}
    if raw_path is not None:
        # An escape is no part of an authority, and may be a slash by now.
        begin = path[: found.end(1)].encode()
        rest = raw_path.removeprefix(begin)
        if rest == raw_path or rest[:1] not in (b"", b"/"):
            return scope
        changed["raw_path"] = root.encode() + (rest or b"/")
    others = [header for header in scope["headers"] if header[0].lower() != b"host"]
    if len(others) + 1 >= len(scope["headers"]):
        changed["headers"] = [(b"host", found[1].encode()), *others]
    return changed


def split_root_path(scope: Mapping[str, Any], root_path: str | None = None) -> tuple[str, str]:
    """Divide a scope's path into the root path and the path within the application, as text.

    ``root_path`` is where the application is mounted; None takes what the ``scope`` says. The root
    path is returned with a slash before and none behind it, and is empty where there is none. It
    is taken off the path on a segment border only. Servers do not agree on whether ``path``
    contains it (Uvicorn puts it there, the others do not), so a path that does not start with it
    is returned as it is. The path within the application is empty where the path is the root path
    itself, as CGI has it, and starts with a slash otherwise.

    Raises :class:`BadRequest` for a path that does not start with a slash (``OPTIONS *`` among
    them) or that is not UTF-8.

    ASGI www, HTTP connection scope; RFC 3875 sections 4.1.5 and 4.1.13.
    """
    path: str = scope["path"]
    if not path.isascii():
        _check_text(path, scope.get("raw_path"))
    given = root_path
    if given is None:
        given = scope.get("root_path") or ""
    root = given.strip("/")
    if root:
        root = "/" + root
        if not root.isascii():
            _check_text(root, None)
    # Uvicorn prepends what it was given, be it "/app/" or "app".
    if given != root and root_path is None and path.startswith(given + "/"):
        return root, path[len(given) :]
    if not path.startswith("/"):
        raise BadRequest(f"The path must start with a slash: {_shown(path)}")
    if root:
        if path == root:
            return root, ""
        if path.startswith(root + "/"):
            return root, path[len(root) :]
    return root, path


def _check_text(path: str, raw_path: bytes | None) -> None:
    # Servers decode a path with replacement: only the bytes tell a U+FFFD that the client sent
    # from one that stands for something broken.
    try:
        path.encode()
        if raw_path is not None and "\ufffd" in path:
            unquote_to_bytes(raw_path).decode()
    except UnicodeError:
        raise BadRequest(f"The path must be UTF-8: {_shown(path)}") from None


def _shown(text: str) -> str:
    return ascii(text[:100])


def build_environ(
    scope: Mapping[str, Any], root_path: str | None = None, *, multiprocess: bool = False
) -> dict[str, Any]:
    """Make a WSGI environ of an http or websocket ``scope``, all but the body.

    ``wsgi.input`` and ``wsgi.file_wrapper`` are left to the caller, and so is ``CONTENT_LENGTH``
    where the request did not declare one. ``root_path`` is as in :func:`split_root_path`;
    ``multiprocess`` becomes ``wsgi.multiprocess``. A websocket's handshake becomes a GET request.

    Repeated headers are joined with a comma, cookies with a semicolon. Headers whose name has an
    underscore are left out: they could pose as those with a dash. The scope is kept under
    ``asgi.scope`` and is not changed.

    Raises :class:`BadRequest` where no request can be made of the scope: a path that
    :func:`split_root_path` refuses, two ``Host`` headers, a ``Content-Length`` that is not a
    number or that contradicts another.

    PEP 3333, environ Variables; RFC 9110 section 5.3; RFC 9113 section 8.2.3.
    """
    root, path = split_root_path(scope, root_path)
    if not root.isascii():
        root = root.encode().decode("latin-1")
    if not path.isascii():
        path = path.encode().decode("latin-1")
    scheme = scope.get("scheme") or "http"
    scheme = WSGI_SCHEMES.get(scheme, scheme)
    client_host, client_port = scope.get("client") or ("", "")
    server_host, server_port = scope.get("server") or (None, None)
    # A unix socket has no port, and no name that a URL could be made of.
    if not server_port:
        server_host, server_port = "localhost", DEFAULT_PORTS.get(scheme, "80")
    environ = {
        "REQUEST_METHOD": "GET" if scope["type"] == "websocket" else scope["method"],
        "SCRIPT_NAME": root,
        "PATH_INFO": path,
        "QUERY_STRING": scope.get("query_string", b"").decode("latin-1"),
        "SERVER_PROTOCOL": "HTTP/" + scope.get("http_version", "1.1"),
        "SERVER_NAME": server_host or "localhost",
        "SERVER_PORT": str(server_port),
        "REMOTE_ADDR": client_host or "",
        "REMOTE_PORT": "" if client_port is None else str(client_port),
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scheme,
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": multiprocess,
        "wsgi.run_once": False,
        "wsgi.input_terminated": True,
        "asgi.scope": scope,
    }
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
        raise BadRequest(f"Content-Length must be a number of bytes, not {_shown(length)}")
    return environ


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
