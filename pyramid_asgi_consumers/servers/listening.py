"""The option ``listen``: which addresses it names, and the sockets for them.

It is waitress's, so that an ini may change its server and keep the line. :func:`take_listen` reads
it, :func:`bind` makes the sockets, which the server then takes over (``runners.py``). The servers'
own options for the same are among those of ``options.py``.
"""

import contextlib
import logging
import socket
from collections.abc import Iterator, Mapping
from typing import Any

from pyramid.exceptions import ConfigurationError
from pyramid.settings import aslist

from pyramid_asgi_consumers.servers.options import normal

log = logging.getLogger(__name__)

#: The family of a socket, and the address that it is bound to.
Address = tuple[int, Any]

# Where ``listen`` names no port, as waitress has it.
DEFAULT_PORT = "8080"


def take_listen(
    server: str, options: Mapping[str, str], instead_of: tuple[str, ...]
) -> tuple[list[Address], dict[str, str]]:
    """The addresses that ``listen`` names, and the other options.

    No addresses where there is no ``listen``. ``instead_of`` names the options of ``server`` that
    say the same. Raises ConfigurationError where one of them is given, too, and for what names no
    address.
    """
    remaining = {name: value for name, value in options.items() if name != "listen"}
    if "listen" not in options:
        return [], remaining
    for given, value in remaining.items():
        if normal(given) in instead_of:
            raise ConfigurationError(
                f"{server}: listen = {options['listen']} and {given} = {value}: give one of the two"
            )
    entries = aslist(options["listen"])
    if not entries:
        raise ConfigurationError(f"{server}: listen must be one or more host:port, not empty")
    found = (address for entry in entries for address in _addresses(server, entry))
    return list(dict.fromkeys(found)), remaining


def bind(server: str, addresses: list[Address]) -> list[socket.socket]:
    """Sockets for these ``addresses``, which do not listen yet.

    Raises OSError where one is taken; then none is bound.
    """
    with contextlib.ExitStack() as stack:
        sockets = []
        for family, address in addresses:
            bound = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                # There may be one of IPv4 beside it.
                bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                bound.bind(address)
            except OSError as error:
                where = f"{server} cannot listen on {address[0]} port {address[1]}"
                raise OSError(error.errno, f"{where}: {error.strerror}") from error
            sockets.append(bound)
        stack.pop_all()
    for bound in sockets:
        log.info("%s listens on %s port %d", server, *bound.getsockname()[:2])
    return sockets


def _addresses(server: str, entry: str) -> Iterator[Address]:
    """Family and address of each socket that ``entry`` of ``listen`` stands for."""
    # waitress's grammar: host:port, host, *:port, [::1]:port.
    host, separator, port = entry.rpartition(":")
    if not separator or "]" in port:
        host, port = entry, DEFAULT_PORT
    host = host.removeprefix("[").removesuffix("]")
    try:
        if not host:
            raise ValueError("no host; * stands for all")
        # getaddrinfo() takes greater ones for smaller ones.
        if port.isdigit() and int(port) > 65535:
            raise ValueError("no such port")
        found = socket.getaddrinfo(
            None if host == "*" else host,
            port,
            type=socket.SOCK_STREAM,
            proto=socket.IPPROTO_TCP,
            flags=socket.AI_PASSIVE,
        )
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"{server}: listen must be one or more host:port, not {entry!r} ({error})"
        ) from None
    for family, _, _, _, address in found:
        yield family, address
