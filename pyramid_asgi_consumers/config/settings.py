"""The settings: their names, defaults and forms."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pyramid.exceptions import ConfigurationError
from pyramid.settings import asbool

from pyramid_asgi_consumers.connection.limits import EXPECTED_RATE, read_rate

PREFIX = "asgi."

# What sockets, locks and Redis take for certain, and more than is ever meant.
MOST_SECONDS = 10**6
MOST_EXPIRY = 10**9
MOST_EVENTS = 10**9


EXPECTED_SECONDS = f"a number of seconds above 0 and at most {MOST_SECONDS}"


def are_seconds(number: float) -> bool:
    """Whether ``number`` is one of the seconds that a setting or an argument may have."""
    # Not even NaN passes.
    return 0 < number <= MOST_SECONDS


@dataclass(frozen=True)
class Setting:
    """One setting: its ``default``, how it is ``read``, and what is ``expected``.

    ``read`` raises ValueError or TypeError for what it cannot read. A default is not read.
    """

    default: Any
    read: Callable[[Any], Any]
    expected: str


def _whole_number(default: int | None, least: int = 1, most: float = math.inf) -> Setting:
    def read(value: Any) -> int:
        number = int(value)
        if not least <= number <= most:
            raise ValueError(value)
        return number

    limit = "" if most == math.inf else f" and at most {most}"
    return Setting(default, read, f"a whole number of at least {least}{limit}")


def _seconds(default: float | None) -> Setting:
    def read(value: Any) -> float:
        number = float(value)
        if not are_seconds(number):
            raise ValueError(value)
        return number

    return Setting(default, read, EXPECTED_SECONDS)


def _words(value: Any) -> tuple[str, ...]:
    return tuple(value.split() if isinstance(value, str) else value or ())


SETTINGS: dict[str, Setting] = {
    "asgi.channels": Setting("memory://", lambda value: value or "memory://", "a URL"),
    "asgi.channels.expiry": _whole_number(86400, most=MOST_EXPIRY),
    "asgi.channels.history": _whole_number(0, least=0, most=MOST_EVENTS),
    "asgi.channels.prefix": Setting("asgi:", str, "a str"),
    "asgi.channels.timeout": _seconds(5.0),
    "asgi.events.heartbeat": _seconds(15.0),
    "asgi.handshake_threads": _whole_number(8),
    "asgi.hosts": Setting((), _words, "a list of hosts"),
    "asgi.leave_timeout": _seconds(5.0),
    "asgi.max_body_size": _whole_number(2**30),
    "asgi.max_connections": _whole_number(None),
    "asgi.max_connections_per_user": _whole_number(None),
    "asgi.max_message": _whole_number(None),
    "asgi.max_rate": Setting(None, read_rate, EXPECTED_RATE),
    "asgi.multiprocess": Setting(False, asbool, "true or false"),
    "asgi.origins": Setting((), _words, "a list of origins"),
    "asgi.revalidate": _seconds(None),
    "asgi.root_path": Setting(None, lambda value: value or None, "a path"),
    "asgi.shutdown_timeout": _whole_number(10, least=0),
    "asgi.threads": _whole_number(32),
}


def read_setting(settings: Mapping[str, Any], name: str) -> Any:
    """The value of the setting ``name``, or its default.

    Raises ConfigurationError, naming the setting and its value, for one that cannot be read.
    """
    setting = SETTINGS[name]
    if name not in settings:
        return setting.default
    try:
        return setting.read(settings[name])
    except (TypeError, ValueError):
        raise ConfigurationError(
            f"{name} must be {setting.expected}, not {settings[name]!r}"
        ) from None


def check_names(settings: Mapping[str, Any]) -> None:
    """Raise ConfigurationError for a setting that begins as these do and is none of them."""
    for name in settings:
        if isinstance(name, str) and name.startswith(PREFIX) and name not in SETTINGS:
            # It costs 0.2 MiB, and only who has made a mistake needs it.
            from difflib import get_close_matches

            near = get_close_matches(name, SETTINGS, 1, 0)[0]
            raise ConfigurationError(
                f"{name} = {settings[name]} is no setting; did you mean {near}?"
            )
