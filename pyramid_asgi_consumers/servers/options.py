"""What the options of an ini's ``[server:main]`` say to a server, in the terms of that server.

Daphne and Uvicorn have command lines, so an option is typed for them: :func:`of_parser` and
:func:`of_parameters` say which there are, :func:`typed` makes the arguments. Hypercorn has a
configuration: :func:`of_configuration` says what can be set, :func:`values` to what. They are asked
for at each start, since every version of a server has others. All of it is pure; ``runners.py``
starts the servers. ``listen`` is none of theirs: ``listening.py``.
"""

import enum
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pyramid.exceptions import ConfigurationError
from pyramid.settings import aslist, falsey, truthy

_Known = TypeVar("_Known")


def normal(name: str) -> str:
    """The name of an option, however it is written: ``proxy-headers`` is ``proxy_headers``."""
    return name.lstrip("-").replace("-", "_")


# Command lines.


@dataclass(frozen=True)
class Option:
    """An option of a command line: ``string`` is typed for it, or ``off`` where a flag is false."""

    string: str
    is_flag: bool = False
    off: str | None = None
    is_list: bool = False

    def typed(self, value: str) -> list[str]:
        """What to type for ``value``; ValueError for a flag that is neither true nor false."""
        if self.is_flag:
            string = self.string if _boolean(value) else self.off
            return [] if string is None else [string]
        values = aslist(value, flatten=False) if self.is_list else [value]
        return [f"{self.string}={each}" for each in values]


def of_parser(parser: Any) -> dict[str, Option]:
    """The options of an ``argparse.ArgumentParser``, by each of their names but for the short."""
    known: dict[str, Option] = {}
    for action in parser._actions:
        strings = [string for string in action.option_strings if string.startswith("--")]
        for name in [*strings, action.dest] if strings else ():
            option = Option(strings[0], action.nargs == 0, is_list=action.default == [])
            known.setdefault(normal(name), option)
    del known["help"]
    return known


def of_parameters(parameters: Iterable[Any]) -> dict[str, Option]:
    """The options among the ``parameters`` of a ``click.Command``, by each of their names."""
    known: dict[str, Option] = {}
    for parameter in parameters:
        if parameter.param_type_name == "option" and parameter.expose_value:
            off = next(iter(parameter.secondary_opts), None)
            option = Option(parameter.opts[0], parameter.is_flag, off, parameter.multiple)
            known.update({normal(name): option for name in (*parameter.opts, parameter.name)})
    return known


def typed(
    server: str,
    options: Mapping[str, str],
    known: Mapping[str, Option],
    unusable: Mapping[str, str],
) -> list[str]:
    """What to type for ``options``, which must be among the ``known``.

    ``unusable`` has those of them that cannot be used under ``pserve``, and says why. Raises
    ConfigurationError for one of these, for one that is not known, and for a value that is wrong.
    """
    arguments = []
    for given, option, value in _found(server, options, known, unusable):
        try:
            arguments += option.typed(value)
        except ValueError as error:
            raise ConfigurationError(f"{server}: {given} = {value}: {error}") from None
    return arguments


# Configurations.


@dataclass(frozen=True)
class Attribute:
    """An attribute of a configuration: its ``name``, and its type."""

    name: str
    kind: Any

    def converted(self, value: str) -> Any:
        """``value`` as one of its type; KeyError or ValueError where it is none."""
        if self.kind is bool:
            return _boolean(value)
        if self.kind is list:
            return aslist(value, flatten=False)
        return self.kind[value] if issubclass(self.kind, enum.Enum) else self.kind(value)


def of_configuration(config: Any) -> dict[str, Attribute]:
    """What can be set on ``config``: attributes that its class has, and properties."""
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
        attributes[name] = Attribute(name, str if str in kinds else kinds[0])
    return attributes


def values(
    server: str,
    options: Mapping[str, str],
    known: Mapping[str, Attribute],
    unusable: Mapping[str, str],
) -> Iterator[tuple[str, Any]]:
    """The names of attributes, and what to set them to, for ``options``; otherwise as ``typed``."""
    for given, attribute, value in _found(server, options, known, unusable):
        try:
            yield attribute.name, attribute.converted(value)
        except (KeyError, ValueError) as error:
            raise ConfigurationError(f"{server}: {given} = {value}: {error!r}") from None


# Both.


def _found(
    server: str,
    options: Mapping[str, str],
    known: Mapping[str, _Known],
    unusable: Mapping[str, str],
) -> Iterator[tuple[str, _Known, str]]:
    for given, value in options.items():
        name = normal(given)
        if name in unusable:
            raise ConfigurationError(f"{server}: {given} = {value} is of no use: {unusable[name]}")
        if name not in known:
            there = ", ".join(sorted(known.keys() - unusable.keys()))
            raise ConfigurationError(f"{server} has no option {given!r}; there are: {there}")
        yield given, known[name], value


def _boolean(value: str) -> bool:
    if value.lower() not in truthy | falsey:
        raise ValueError(f"it is none of {', '.join(sorted(truthy | falsey))}")
    return value.lower() in truthy
