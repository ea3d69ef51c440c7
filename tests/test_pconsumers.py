"""The table of consumers, as ``proutes`` would print it."""

import re
import subprocess
import sys
from importlib import metadata

import pytest
from pyramid.config import Configurator
from pyramid.security import NO_PERMISSION_REQUIRED
from starlette.applications import Starlette

from pyramid_asgi_consumers.scripts import pconsumers
from tests.support.servers import DEADLINE, PROJECT

INI = """
[app:main]
use = call:tests.test_pconsumers:{main}
prefix = {prefix}
"""


class Room:
    async def __call__(self, scope, receive, send):
        """Never called."""


async def feed(scope, receive, send):
    """Never called."""


def main(global_config, **settings):
    with Configurator(settings=settings) as config:
        config.include("pyramid_asgi_consumers")
        friends = ["https://a.example", "https://b.example"]
        config.add_asgi_consumer("/room/{id}", "websocket", Room(), origins=friends)
        config.add_asgi_app("/starlette", Starlette())
        config.set_security_policy(object())
        config.add_asgi_consumer("/feed", "http", feed, permission="read")
        config.add_asgi_consumer(settings["prefix"] + "/ws", "websocket", feed, name="ws")
        return config.make_asgi_app()


def main_with_default_permission(global_config, **settings):
    with Configurator(settings=settings) as config:
        config.include("pyramid_asgi_consumers")
        config.set_default_permission("view")
        config.add_asgi_consumer("/feed", "http", feed)
        config.add_asgi_consumer("/open", "http", feed, permission=NO_PERMISSION_REQUIRED)
        return config.make_asgi_app()


def main_without_consumers(global_config, **settings):
    with Configurator(settings=settings) as config:
        config.include("pyramid_asgi_consumers")
        return config.make_asgi_app()


@pytest.fixture
def ini(tmp_path):
    def written(main="main", prefix="/chat", more=""):
        path = tmp_path / "test.ini"
        path.write_text(INI.format(main=main, prefix=prefix) + more)
        return str(path)

    return written


def rows(text):
    """The cells of each line."""
    return [re.split(r"  +", line.strip()) for line in text.splitlines()]


def test_the_table(ini, capsys):
    assert pconsumers.main(["pconsumers", ini()]) == 0
    out = capsys.readouterr().out
    assert rows(out) == [
        ["Protocol", "Path", "Name", "Callable", "Permission", "Origins", "Kind"],
        ["--------", "----", "----", "--------", "----------", "-------", "----"],
        [
            "websocket",
            "/room/{id}",
            "-",
            "tests.test_pconsumers.Room",
            "-",
            "https://a.example,https://b.example",
            "plain",
        ],
        ["http", "/feed", "http:/feed", "tests.test_pconsumers.feed", "read", "-", "guarded"],
        ["websocket", "/chat/ws", "ws", "tests.test_pconsumers.feed", "-", "-", "guarded"],
        [
            "http,websocket",
            "/starlette/*",
            "-",
            "starlette.applications.Starlette",
            "-",
            "-",
            "mounted",
        ],
    ]
    lines = [line.rstrip() for line in out.splitlines()]
    assert len({line.rindex(" ") for line in lines}) == 1


def test_a_default_permission_guards(ini, capsys):
    assert pconsumers.main(["pconsumers", ini("main_with_default_permission")]) == 0
    default, opened = rows(capsys.readouterr().out)[2:]
    assert default[-3:] == ["view", "-", "guarded"]
    assert opened[-3:] == [NO_PERMISSION_REQUIRED, "-", "guarded"]


def test_no_consumers_print_nothing(ini, capsys):
    assert pconsumers.main(["pconsumers", ini("main_without_consumers")]) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("option", ["-g", "--glob"])
@pytest.mark.parametrize(
    "glob, found", [("/chat/*", ["/chat/ws"]), ("w?", ["/chat/ws"]), ("/nothing", [])]
)
def test_a_glob_matches_the_name_or_the_path(ini, capsys, option, glob, found):
    assert pconsumers.main(["pconsumers", ini(), option, glob]) == 0
    assert [row[1] for row in rows(capsys.readouterr().out)[2:]] == found


@pytest.mark.parametrize("option", ["-f", "--format"])
def test_the_format_is_an_option(ini, capsys, option):
    uri = ini(more="[pconsumers]\nformat = protocol")
    assert pconsumers.main(["pconsumers", option, "kind, path", uri]) == 0
    assert rows(capsys.readouterr().out)[2] == ["plain", "/room/{id}"]


def test_the_format_is_a_key_of_the_ini(ini, capsys):
    more = "[pconsumers]\nformat = name\n    kind"
    assert pconsumers.main(["pconsumers", ini(more=more)]) == 0
    assert rows(capsys.readouterr().out)[0] == ["Name", "Kind"]


def test_a_format_that_is_no_column(ini, capsys):
    assert pconsumers.main(["pconsumers", ini(), "--format", "path,view"]) == 2
    out = capsys.readouterr().out
    assert out.startswith("You provided invalid formats ['view']. Available formats are ['proto")


def test_variables_of_the_ini(ini, capsys):
    uri = ini(prefix="/%(room)s")
    assert pconsumers.main(["pconsumers", uri, "room=other"]) == 0
    assert "/other/ws" in capsys.readouterr().out


def test_it_needs_an_ini(capsys):
    assert pconsumers.main(["pconsumers"]) == 2
    assert capsys.readouterr().out == "requires a config file argument\n"


def test_it_can_be_quiet(ini, capsys):
    assert pconsumers.main(["pconsumers", ini()], quiet=True) == 0
    assert capsys.readouterr().out == ""


def test_its_help(capsys):
    with pytest.raises(SystemExit, match="0"):
        pconsumers.main(["pconsumers", "--help"])
    out = capsys.readouterr().out
    assert "usage: pconsumers [-h] [-g GLOB] [-f FORMAT] [config_uri]" in out


def test_it_is_a_command(ini):
    (command,) = metadata.entry_points(group="console_scripts", name="pconsumers")
    assert command.load() is pconsumers.main
    module = [sys.executable, "-W", "ignore", "-m", pconsumers.__name__]
    done = subprocess.run([*module, ini()], cwd=PROJECT, capture_output=True, timeout=DEADLINE)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"tests.test_pconsumers.feed" in done.stdout
