"""What a Redis URL may say: which options are taken, without effect, or refused, and why.

What the backend sets itself wins over the URL.
"""

import inspect
import re
from typing import Any
from urllib.parse import parse_qs, urlsplit

from redis.asyncio.connection import SSLConnection as AsyncSSLConnection
from redis.asyncio.connection import parse_url as parse_async_url
from redis.backoff import NoBackoff
from redis.connection import SSLConnection, parse_url
from redis.retry import Retry

#: Options of a URL that are honoured, besides those of TLS. ``max_connections`` is of the threads
#: that publish: each waits for its turn.
OPTIONS = (
    "client_name",
    "db",
    "max_connections",
    "password",
    "socket_keepalive",
    "username",
)
#: Options of TLS that threads' and event loops' connections have.
SSL_OPTIONS = tuple(
    name
    for name in inspect.signature(SSLConnection).parameters
    if name.startswith("ssl_") and name in inspect.signature(AsyncSSLConnection).parameters
)
#: Options of a URL that are for an application's own connections: here they change nothing.
OVERRIDDEN = (
    "decode_responses",
    "encoding",
    "encoding_errors",
    "health_check_interval",
    "legacy_responses",
    "lib_name",
    "lib_version",
    "protocol",
    "socket_read_size",
)
#: Options of a URL that would break what is promised, and what to do instead.
REFUSED = {
    "retry_on_error": "a publish is tried once, since it may have been carried out",
    "retry_on_timeout": "a publish is tried once, since it may have been carried out",
    "socket_connect_timeout": "set asgi.channels.timeout",
    "socket_timeout": "set asgi.channels.timeout",
    "timeout": "set asgi.channels.timeout",
}


def check_url(url: str) -> None:
    """Raise ValueError for a URL with an option that is not taken, or is no Redis URL."""
    parts = urlsplit(url)
    if parts.scheme != "unix" and parts.path.strip("/") and not parts.path[1:].isdigit():
        raise ValueError(f"the database in a Redis URL is a number, not {parts.path[1:]!r}")
    for name, values in parse_qs(parts.query).items():
        if name in REFUSED:
            raise ValueError(f"the option {name} in a Redis URL is not taken: {REFUSED[name]}")
        if name.startswith("ssl_") and parts.scheme != "rediss":
            raise ValueError(f"the option {name!r:.100} in a Redis URL needs rediss://")
        if name not in OPTIONS and name not in OVERRIDDEN and name not in SSL_OPTIONS:
            known = ", ".join(OPTIONS)
            raise ValueError(
                f"the options in a Redis URL are {known} and redis-py's of TLS, such as"
                f" ssl_ca_certs, not {name!r:.100}"
            )
        if name == "client_name" and not re.fullmatch("[!-~]+", values[-1]):
            raise ValueError(
                "the option client_name in a Redis URL is printable ASCII without spaces,"
                f" not {values[-1]!r:.100}"
            )


def blocking_options(url: str, timeout: float) -> dict[str, Any]:
    """Return the options of the connections of threads."""
    return _options(parse_url(url), timeout)


def async_options(url: str, timeout: float) -> dict[str, Any]:
    """Return the options of the connections of event loops.

    These read without a timeout: a subscriber waits as long as nothing is published, and commands
    are timed by the batch.
    """
    return {**_options(parse_async_url(url), timeout), "socket_timeout": None}


def _options(parsed: Any, timeout: float) -> dict[str, Any]:
    # Not one retry: a publish that was sent may have been carried out. RESP 2 because Redis's
    # answers are read here.
    return {
        **{name: value for name, value in parsed.items() if name not in OVERRIDDEN},
        "retry": Retry(NoBackoff(), 0),
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "protocol": 2,
    }
