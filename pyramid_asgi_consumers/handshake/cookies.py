"""The cookies that one connection sends with its requests (pure)."""

import contextlib
import threading
from collections.abc import Iterable
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime


class Cookies:
    """What a browser would send with the next request, had it made those before.

    ``header`` is the ``Cookie`` header that the connection began with; ``path`` is the path of its
    requests. RFC 6265 section 5, but for what only a browser knows of the cookies it had before:
    their paths, domains and times.
    """

    def __init__(self, header: str, path: str) -> None:
        self.path = path
        #: Whether the header is another than at first.
        self.changed = False
        self._lock = threading.Lock()
        pairs = (part.strip().partition("=") for part in header.split(";"))
        self._pairs = [(name, value) for name, equals, value in pairs if equals]

    def __str__(self) -> str:
        """The ``Cookie`` header."""
        return "; ".join(f"{name}={value}" for name, value in self._pairs)

    def update(self, set_cookies: Iterable[str]) -> None:
        """Take over the ``Set-Cookie`` headers of a response, in their order.

        May be called in any thread.
        """
        with self._lock:
            for header in set_cookies:
                self._take(header)

    def _take(self, header: str) -> None:
        pair, *parts = header.split(";")
        name, equals, value = (text.strip() for text in pair.partition("="))
        split = (part.partition("=") for part in parts)
        attributes = {key.strip().lower(): text.strip() for key, _, text in split}
        if not equals or not name or not _path_matches(self.path, attributes.get("path", "")):
            return
        pairs = [other for other in self._pairs if other[0] != name]
        if not _has_expired(attributes):
            pairs.append((name, value))
        self._pairs = pairs
        self.changed = True


def _path_matches(path: str, cookie_path: str) -> bool:
    # RFC 6265 section 5.1.4.
    if not cookie_path.startswith("/") or path == cookie_path:
        return True
    return path.startswith(cookie_path.rstrip("/") + "/")


def _has_expired(attributes: dict[str, str]) -> bool:
    # One that cannot be read is as if it were not there (RFC 6265 sections 5.2.1 and 5.2.2).
    with contextlib.suppress(KeyError, ValueError):
        return int(attributes["max-age"]) <= 0
    with contextlib.suppress(KeyError, ValueError):
        expires = parsedate_to_datetime(attributes["expires"])
        if expires.tzinfo is None:
            expires = expires.replace(tzinfo=timezone.utc)
        return expires <= datetime.now(timezone.utc)
    return False
