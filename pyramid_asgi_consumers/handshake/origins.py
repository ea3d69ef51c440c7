"""The same-origin rule for websocket handshakes."""

import re
from collections.abc import Iterable
from ipaddress import IPv6Address
from typing import NamedTuple

from pyramid_asgi_consumers.shown import Shown

_FORM = re.compile(
    r"(?:([a-z][a-z0-9+.-]*)://)?"
    r"((?:\*\.)?[a-z0-9_-]+(?:\.[a-z0-9_-]+)*\.?|\[[0-9a-f:.]+\])"
    r"(?::([0-9]{1,5}))?",
    re.ASCII | re.IGNORECASE,
)

# By scheme; a Host header has none, and TLS may end at a proxy.
_DEFAULT_PORTS = {None: (80, 443), "http": (80,), "https": (443,)}


class OriginRule:
    """Which pages may open a websocket.

    ``origins`` are those let in besides an application's own, each ``scheme://host[:port]``, where
    ``*.`` before the host stands for one or more labels; ``*`` lets in all. ``hosts`` are the
    ``Host`` headers accepted, each ``host[:port]``, ``*.`` likewise; where there are none, all are.
    A port may be left out where it is the default.

    Raises ValueError that names a wrong entry.
    """

    def __init__(self, origins: Iterable[str] = (), hosts: Iterable[str] = ()) -> None:
        self.origins = tuple(origins)
        self.hosts = tuple(hosts)
        self._origins = [_origin_entry(entry) for entry in self.origins if entry != "*"]
        self._hosts = [_host_entry(entry) for entry in self.hosts]

    def extended(self, origins: Iterable[str]) -> "OriginRule":
        """Return this rule with further ``origins``."""
        return OriginRule((*self.origins, *origins), self.hosts)

    def objection(self, headers: Iterable[tuple[bytes, bytes]]) -> str | None:
        """Return why a handshake with these ``headers`` is refused, None where it is not.

        The reason is one printable line. RFC 6454 sections 4 and 7; RFC 6455 section 10.2.
        """
        origins, hosts = [], []
        for name, value in headers:
            name = name.lower()
            if name == b"origin":
                origins.append(value.decode("latin-1"))
            elif name == b"host":
                hosts.append(value.decode("latin-1"))
        if len(hosts) > 1 or hosts == [""]:
            return f"there must be one Host header that says something, not {_shown(hosts)}"
        host = _sent(hosts[0]) if hosts else None
        if self.hosts and not any(_covers(entry, host) for entry in self._hosts):
            return (
                f"host {_shown(hosts)} is none of {_shown([' '.join(self.hosts)])}; "
                "the setting asgi.hosts would allow it"
            )
        if not origins or "*" in self.origins:
            return None
        origin = _sent(origins[0]) if len(origins) == 1 else None
        if origin is None or origin.scheme is None:
            allowing = "only * in the setting asgi.origins"
        elif _sent(origins[0].partition("://")[2]) == host:
            return None
        elif any(_covers(entry, origin) for entry in self._origins):
            return None
        else:
            allowing = "the setting asgi.origins"
        return (
            f"origin {_shown(origins)} is not that of host {_shown(hosts)}; {allowing} would "
            "allow it"
        )


class _Address(NamedTuple):
    """An origin, or what a ``Host`` header names (no scheme); no port where it is the default."""

    scheme: str | None
    host: str
    port: int | None


def _origin_entry(entry: str) -> _Address:
    address = _address(entry)
    if address is None or address.scheme is None:
        raise ValueError(
            f"an origin must be scheme://host[:port], scheme://*.host[:port] or *, not {entry!r}"
        )
    return address


def _host_entry(entry: str) -> _Address:
    address = _address(entry)
    if address is None or address.scheme is not None:
        raise ValueError(f"a host must be host[:port] or *.host[:port], not {entry!r}")
    return address


def _sent(text: str) -> _Address | None:
    """What a client sent: a star stands for nothing there."""
    return None if "*" in text else _address(text)


def _address(text: str) -> _Address | None:
    found = _FORM.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        return None
    scheme, host, digits = (part and part.lower() for part in found.groups())
    port = int(digits) if digits else None
    if port is not None and port > 65535:
        return None
    if host.startswith("["):
        try:
            host = str(IPv6Address(host[1:-1]))
        except ValueError:
            return None
    return _Address(scheme, host, None if port in _DEFAULT_PORTS.get(scheme, ()) else port)


def _covers(entry: _Address, address: _Address | None) -> bool:
    if address is None or (entry.scheme, entry.port) != (address.scheme, address.port):
        return False
    if entry.host.startswith("*"):
        return address.host.endswith(entry.host[1:])
    return address.host == entry.host


def _shown(values: list[str]) -> str:
    return str(Shown(" and ".join(values))) if values else "(none)"
