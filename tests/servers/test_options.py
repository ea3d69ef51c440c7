"""The options of an ini's ``[server:main]``, in the terms of the servers."""

import argparse
import enum

import click
import hypercorn.config
import pytest
import uvicorn
from daphne.cli import CommandLineInterface
from pyramid.exceptions import ConfigurationError

from pyramid_asgi_consumers.servers import options


class Kind(enum.Enum):
    ONE = 1


class Configuration:
    name = "x"
    names = ["a"]
    number = 1
    share = 0.5
    is_set = False
    kind = Kind.ONE
    path: str | None = None
    most: int | None = None
    _hidden = 1

    def method(self):
        """It cannot be set."""

    @property
    def bound(self):
        return [self.name]

    @bound.setter
    def bound(self, value):
        """It can be set."""

    @property
    def derived(self):
        """It cannot be set."""


def test_an_option_has_one_name_however_it_is_written():
    names = ("proxy-headers", "proxy_headers", "--proxy-headers")
    assert {options.normal(name) for name in names} == {"proxy_headers"}


def test_what_an_argparse_parser_knows():
    parser = argparse.ArgumentParser()
    parser.add_argument("-p", "--port", "--tcp-port", dest="number")
    parser.add_argument("--quiet", action="store_true")
    parser.add_argument("--header", action="append", default=[])
    parser.add_argument("-v", dest="verbosity")
    parser.add_argument("application")
    port = options.Option("--port")
    assert options.of_parser(parser) == {
        "port": port,
        "tcp_port": port,
        "number": port,
        "quiet": options.Option("--quiet", is_flag=True),
        "header": options.Option("--header", is_list=True),
    }


def test_what_a_click_command_knows():
    parameters = [
        click.Option(["--log-level", "level"]),
        click.Option(["--colors/--no-colors"]),
        click.Option(["--header", "headers"], multiple=True),
        click.Option(["--version"], expose_value=False),
        click.Argument(["app"]),
    ]
    level = options.Option("--log-level")
    headers = options.Option("--header", is_list=True)
    assert options.of_parameters(parameters) == {
        "log_level": level,
        "level": level,
        "colors": options.Option("--colors", True, "--no-colors"),
        "header": headers,
        "headers": headers,
    }


def test_what_can_be_set_on_a_configuration():
    known = options.of_configuration(Configuration())
    assert {name: attribute.kind for name, attribute in known.items()} == {
        "name": str,
        "names": list,
        "number": int,
        "share": float,
        "is_set": bool,
        "kind": Kind,
        "path": str,
        "most": int,
        "bound": list,
    }
    assert all(attribute.name == name for name, attribute in known.items())


@pytest.mark.parametrize(
    "option, value, typed",
    [
        (options.Option("--a"), "7", ["--a=7"]),
        (options.Option("--a"), "two words", ["--a=two words"]),
        (options.Option("--a", is_list=True), "\n  x y\n  z", ["--a=x y", "--a=z"]),
        (options.Option("--a", is_flag=True), "Yes", ["--a"]),
        (options.Option("--a", is_flag=True), "no", []),
        (options.Option("--a", True, "--no-a"), "false", ["--no-a"]),
    ],
)
def test_what_is_typed_for_an_option(option, value, typed):
    assert options.typed("server", {"--a": value}, {"a": option}, {}) == typed


@pytest.mark.parametrize(
    "name, value, expected",
    [
        ("name", "y", "y"),
        ("names", "\n  one two\n  three", ["one two", "three"]),
        ("number", "7", 7),
        ("share", "2.5", 2.5),
        ("is_set", "on", True),
        ("kind", "ONE", Kind.ONE),
        ("path", "/a", "/a"),
        ("most", "7", 7),
        ("bound", "a", ["a"]),
    ],
)
def test_what_an_attribute_is_set_to(name, value, expected):
    known = options.of_configuration(Configuration())
    assert list(options.values("server", {name: value}, known, {})) == [(name, expected)]


@pytest.mark.parametrize(
    "name, value, reason",
    [
        ("is_set", "maybe", r"ValueError\('it is none of 0, 1, f, false, n, no, off, on, t, true"),
        ("kind", "TWO", r"KeyError\('TWO'\)"),
        ("number", "many", r"ValueError\(.invalid literal"),
    ],
)
def test_a_value_that_an_attribute_cannot_have(name, value, reason):
    known = options.of_configuration(Configuration())
    with pytest.raises(ConfigurationError, match=f"server: {name} = {value}: {reason}"):
        list(options.values("server", {name: value}, known, {}))


def test_a_flag_that_is_neither_true_nor_false():
    known = {"a": options.Option("--a", is_flag=True)}
    with pytest.raises(ConfigurationError, match="server: a = maybe: it is none of 0, 1, f, false"):
        options.typed("server", {"a": "maybe"}, known, {})


def test_an_option_that_is_not_known_or_of_no_use():
    known = {name: options.Option(f"--{name}") for name in ("one", "two", "three")}
    unusable = {"two": "it is said elsewhere"}
    with pytest.raises(ConfigurationError) as raised:
        options.typed("server", {"four": "1"}, known, unusable)
    assert str(raised.value) == "server has no option 'four'; there are: one, three"
    with pytest.raises(ConfigurationError) as raised:
        options.typed("server", {"two": "1"}, known, unusable)
    assert str(raised.value) == "server: two = 1 is of no use: it is said elsewhere"


def test_what_the_servers_know():
    daphne = options.of_parser(CommandLineInterface().parser)
    assert daphne["unix_socket"] == options.Option("--unix-socket")
    assert "help" not in daphne
    headers = options.of_parameters(uvicorn.main.params)["headers"]
    assert headers == options.Option("--header", is_list=True)
    known = options.of_configuration(hypercorn.config.Config())
    assert known["bind"].kind is list
    assert known["certfile"].kind is str
