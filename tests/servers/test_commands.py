"""The application under Pyramid's commands other than ``pserve``."""

import re
import subprocess
import sys

import pytest
from pyramid.paster import bootstrap

from pyramid_asgi_consumers import ASGIApplication
from tests.apps.pserveapp import Root, write_ini
from tests.support.servers import DEADLINE, PROJECT


@pytest.fixture(scope="module")
def ini(tmp_path_factory):
    return str(write_ini(tmp_path_factory.mktemp("commands") / "test.ini"))


def test_bootstrap(ini):
    with bootstrap(ini) as env:
        assert isinstance(env["app"], ASGIApplication)
        assert env["registry"] is env["app"].registry
        assert env["request"].route_url("home") == "http://localhost/"
        assert env["request"].websocket_url("guarded") == "ws://localhost/guarded"
        assert isinstance(env["root"], Root)


COMMANDS = [
    ("proutes", [], "", [r"^home +/ +tests\.apps\.pserveapp\.home ", r"^guarded +/guarded "]),
    ("pviews", ["/slow"], "", [r"View Name: slow|tests\.apps\.pserveapp\.slow"]),
    ("ptweens", [], "", [r"pyramid\.tweens\.excview_tween_factory"]),
    (
        "pshell",
        ["-p", "python"],
        "print('The app is', app, 'at', request.route_url('home'))\n",
        [r"The app is <pyramid_asgi_consumers\.application\.ASGIApplication .*> at http://local"],
    ),
]


@pytest.mark.parametrize("name, arguments, typed, expected", COMMANDS, ids=[c[0] for c in COMMANDS])
def test_a_command_of_pyramid(ini, name, arguments, typed, expected):
    command = [sys.executable, "-m", f"pyramid.scripts.{name}", ini, *arguments]
    done = subprocess.run(
        command, cwd=PROJECT, input=typed, capture_output=True, text=True, timeout=6 * DEADLINE
    )
    assert done.returncode == 0, done.stderr
    for pattern in expected:
        assert re.search(pattern, done.stdout, re.MULTILINE), done.stdout
