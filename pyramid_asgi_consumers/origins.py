"""The same-origin rule for websocket handshakes."""

import re
from collections.abc import Iterable

_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::([0-9]{1,5}))?")
_ENTRY = re.compile(r"[a-z][a-z0-9+.-]*://(\*\.)?(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:[0-9]{1,5})?")
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::([0-9]{1,5}))?")


class OriginRule:
    """Which pages may open a websocket.

    ``origins`` are those let in besides an application's own, each like ``https://example.com`` or
    ``https://*.example.com``; ``*`` lets in all. ``hosts`` are the ``Host`` values accepted, all
    where there are none. Raises ValueError that names a wrong entry.
    """

    def __init__(self, origins: Iterable[str] = (), hosts: Iterable[str] = ()) -> None:
        self.origins = tuple(origin.lower() for origin in origins)
        self.hosts = tuple(host.lower() for host in hosts)
        for origin in self.origins:
            if origin != "*" and not _ENTRY.fullmatch(origin):
                raise ValueError(f"an origin must be like https://example.com or *, not {origin!r}")
        for host in self.hosts:
            if not _HOST.fullmatch(host.removeprefix("*.")):
                raise ValueError(f"a host must be like example.com or *.example.com, not {host!r}")

    def extended(self, origins: Iterable[str]) -> "OriginRule":
        """This rule with further ``origins``."""
        return OriginRule((*self.origins, *origins), self.hosts)

    def refusal(self, headers: Iterable[tuple[bytes, bytes]]) -> str | None:
        """Why a handshake with these ``headers`` is refused, None where it is not."""
        got = [value.decode("latin-1") for name, value in headers if name.lower() == b"origin"]
        hosts = [value.decode("latin-1") for name, value in headers if name.lower() == b"host"]
        host = hosts[0].lower() if len(hosts) == 1 else ""
        named = _HOST.fullmatch(host)
        if self.hosts and not (named and self._is_listed(host, named[1])):
            return f"host {_shown(hosts)} is not in the setting asgi.hosts"
        if not got or "*" in self.origins:
            return None
        origin = _ORIGIN.fullmatch(got[0].lower()) if len(got) == 1 else None
        if origin is not None:
            if named and _address(origin[2], origin[3]) == _address(named[1], named[2]):
                return None
            if any(_matches(entry, origin[0]) for entry in self.origins):
                return None
        return (
            f"origin {_shown(got)} is not that of host {_shown(hosts)}; "
            "the setting asgi.origins would allow it"
        )

    def _is_listed(self, host: str, name: str) -> bool:
        return any(_matches(entry, host) or _matches(entry, name) for entry in self.hosts)


def _address(host: str, port: str | None) -> tuple[str, int | None]:
    # TLS may end at a proxy, so the scheme says nothing, nor does a default port.
    number = int(port) if port else None
    return host, None if number in (80, 443) else number


def _matches(entry: str, value: str) -> bool:
    head, star, tail = entry.partition("*.")
    if not star:
        return entry == value
    label = value[len(head) : -len(tail) - 1]
    return bool(label) and value == f"{head}{label}.{tail}" and "/" not in label


def _shown(values: list[str]) -> str:
    return ascii(values[0] if len(values) == 1 else values)[:200]
