"""What the options of ``[server:main]`` say to a server."""

import enum
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pyramid.exceptions import ConfigurationError
from pyramid.settings import aslist, falsey, truthy


@dataclass(frozen=True)
class Option:
    """An option of a command line: ``string`` is typed for it, or ``off`` where a flag is false."""

    string: str
    is_flag: bool = False
    off: str | None = None
    is_list: bool = False

    def arguments(self, value: str) -> list[str]:
        """What to type for ``value``; ValueError for a flag that is neither true nor false."""
        if self.is_flag:
            typed = self.string if _boolean(value) else self.off
            return [] if typed is None else [typed]
        values = aslist(value, flatten=False) if self.is_list else [value]
        return [f"{self.string}={each}" for each in values]


def arguments_of(
    server: str, options: Mapping[str, str], known: dict[str, Option], unusable: Mapping[str, str]
) -> list[str]:
    arguments = []
    for given, option, value in known_of(server, options, known, unusable):
        try:
            arguments += option.arguments(value)
        except ValueError as error:
            raise ConfigurationError(f"{server}: {given} = {value}: {error}") from None
    return arguments


def known_of(
    server: str, options: Mapping[str, str], known: dict[str, Any], unusable: Mapping[str, str]
) -> Iterator[tuple[str, Any, str]]:
    for given, value in options.items():
        name = normal(given)
        if name in unusable:
            raise ConfigurationError(f"{server}: {given} = {value} is of no use: {unusable[name]}")
        if name not in known:
            there = ", ".join(sorted(known.keys() - unusable.keys()))
            raise ConfigurationError(f"{server} has no option {given!r}; there are: {there}")
        yield given, known[name], value


def normal(name: str) -> str:
    return name.lstrip("-").replace("-", "_")


def _boolean(value: str) -> bool:
    if value.lower() not in truthy | falsey:
        raise ValueError(f"it is none of {', '.join(sorted(truthy | falsey))}")
    return value.lower() in truthy


def attributes_of(config: Any) -> dict[str, tuple[str, Any]]:
    """The name and type of what can be set on Hypercorn's ``config``."""
    hints = typing.get_type_hints(type(config))
    attributes = {}
    for name in dir(type(config)):
        default = getattr(type(config), name)
        if isinstance(default, property):
            if default.fget is None or default.fset is None:
                continue
            default = default.fget(config)
        elif name.startswith("_") or callable(default):
            continue
        # Where there is no default the type is a union with None.
        kinds = (type(default),) if default is not None else typing.get_args(hints[name])
        attributes[name] = (name, str if str in kinds else kinds[0])
    return attributes


def converted(kind: Any, value: str) -> Any:
    if kind is bool:
        return _boolean(value)
    if kind is list:
        return aslist(value, flatten=False)
    return kind[value] if issubclass(kind, enum.Enum) else kind(value)
