"""The servers under pserve, and the application under Pyramid's other commands."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from functools import partial

import pytest
from pyramid.config import Configurator
from pyramid.exceptions import ConfigurationError
from pyramid.paster import bootstrap

from pyramid_asgi_consumers import ASGIApplication, servers
from pyramid_asgi_consumers.servers import runners
from tests.apps.pserveapp import Root, write_ini
from tests.servers.test_stopping_servers import stubborn
from tests.support import clients
from tests.support.servers import DEADLINE, HOST, PROJECT, TRACEBACK, free_port, started, wait_until

SERVERS = ["daphne", "uvicorn", "hypercorn"]


def listening(server, port):
    """The options with which ``server`` listens on ``port``."""
    if server == "hypercorn":
        return {"bind": f"{HOST}:{port}"}
    return {"host" if server == "uvicorn" else "bind": HOST, "port": port}


@contextlib.contextmanager
def pserve(
    name, directory, *arguments, options=None, port=None, page="first", app="pserveapp", **more
):
    """Run pserve with the server ``name``, which listens on a free port unless ``options`` say."""
    port = port or free_port()
    given = listening(name, port) if options is None else options
    ini = write_ini(directory / "test.ini", name, given, page, directory / "gate", app)
    command = ["pyramid.scripts.pserve", *arguments, str(ini)]
    # Pyramid imports pkg_resources, which warns.
    environ = {"PYTHONWARNINGS": "ignore"}
    with started(name, command, port, directory, environ, **more) as server:
        yield server


@pytest.fixture(scope="module", params=SERVERS)
def server(request, tmp_path_factory):
    with pserve(request.param, tmp_path_factory.mktemp(request.param)) as server:
        yield server


def test_a_page_and_a_websocket(server):
    assert clients.get(server, "/").body == b"The first page"
    with clients.websocket(server, "/ws") as websocket:
        websocket.send("hello")
        assert websocket.recv(DEADLINE) == "hello"
    with clients.websocket(server, "/ticking") as websocket:
        assert websocket.recv(DEADLINE) == "True"


def test_the_ini_says_how_to_log(server):
    since = server.position()
    assert clients.get(server, "/logged").status == 404
    access = re.compile(rf"^INFO\|{server.name}\.access\|.*GET /logged", re.MULTILINE)
    wait_until(lambda: access.search(server.logged(since)), "the access", server)
    lines = server.logged().splitlines()
    assert "INFO|pserveapp|The context is entered" in lines
    others = [line for line in lines if not re.match(r"[A-Z]+\|", line)]
    assert [line for line in others if not line.startswith("Starting server in PID")] == []


@contextlib.contextmanager
def in_thread(function):
    """Run ``function`` beside the block; give a list that holds what it returned afterwards."""
    results = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    yield results
    thread.join(DEADLINE)
    assert results


@pytest.mark.parametrize("name", SERVERS)
def test_a_request_finishes_and_a_websocket_is_closed_when_it_stops(name, tmp_path):
    with pserve(name, tmp_path) as server:
        with (
            clients.websocket(server, "/ws") as websocket,
            clients.websocket(server, "/ticking") as ticking,
            in_thread(partial(clients.get, server, "/slow")) as answers,
        ):
            wait_until(lambda: "slow began" in server.logged(), "the request", server)
            server.process.send_signal(signal.SIGTERM)
            assert clients.closed(websocket).code == 1012
            assert clients.closed(ticking).code == 1012
            (tmp_path / "gate").touch()
        assert (answers[0].status, answers[0].body) == (200, b"slow answer")
        status = server.ended()
        log = server.logged()
    # Uvicorn dies of the signal, in good order.
    assert status == (-signal.SIGTERM if name == "uvicorn" else 0)
    assert "The context is left" in log
    assert TRACEBACK not in log


GRACE = {
    "daphne": "application-close-timeout",
    "uvicorn": "timeout-graceful-shutdown",
    "hypercorn": "graceful-timeout",
}


@pytest.mark.parametrize("name", SERVERS)
def test_clients_that_neither_read_nor_write_keep_it_for_a_time(name, tmp_path):
    port = free_port()
    options = {**listening(name, port), GRACE[name]: 1}
    with pserve(name, tmp_path, options=options, port=port) as server:
        with clients.raw(server, receive_buffer=4096) as reader, clients.raw(server) as writer:
            reader.sendall(b"GET /flood HTTP/1.1\r\nHost: localhost\r\n\r\n")
            clients.read_until(reader, b"xxx")
            writer.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n")
            with clients.websocket(server, "/ws") as websocket:
                server.process.send_signal(signal.SIGTERM)
                assert clients.closed(websocket).code == 1012
            server.ended()
        assert "The context is left" in server.logged()


@pytest.mark.parametrize("name", SERVERS)
def test_it_stops_though_cancellations_are_swallowed(name, tmp_path):
    port = free_port()
    options = {**listening(name, port), GRACE[name]: 1}
    with pserve(name, tmp_path, options=options, port=port, app="errorsapp") as server:
        with stubborn(server):
            server.stop()
        log = server.logged()
    assert "The context is left" in log
    assert "destroyed" not in log


@pytest.mark.parametrize("name", SERVERS)
def test_a_change_restarts_it(name, tmp_path):
    with pserve(name, tmp_path, "--reload") as server:
        with clients.websocket(server, "/ws") as websocket:
            ini = tmp_path / "test.ini"

            def changed():
                # Until it is watched.
                ini.write_text(ini.read_text().replace("page = first", "page = second"))
                return "test.ini changed; reloading" in server.logged()

            wait_until(changed, "the reload", server)
            assert clients.closed(websocket).code == 1012
        wait_until(partial(serves_second_page, server), "the new page", server)


def serves_second_page(server):
    try:
        return clients.get(server, "/").body == b"The second page"
    except ConnectionRefusedError:
        return False


def page_over_unix_socket(path, server):
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(DEADLINE)
        connection.connect(str(path))
        connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        return clients.read_until(connection, b"The first page")


@pytest.mark.parametrize("name", SERVERS)
def test_a_unix_socket(name, tmp_path):
    path = tmp_path / "socket"
    options = {
        "daphne": {"unix-socket": path},
        "uvicorn": {"uds": path},
        "hypercorn": {"bind": f"unix:{path}"},
    }[name]
    answers = partial(page_over_unix_socket, path)
    with pserve(name, tmp_path, options=options, answers=answers) as server:
        assert page_over_unix_socket(path, server)


@pytest.mark.parametrize("name", SERVERS)
def test_a_file_descriptor(name, tmp_path):
    with socket.create_server((HOST, 0)) as listener:
        number = listener.fileno()
        options = {"bind": f"fd://{number}"} if name == "hypercorn" else {"fd": number}
        port = listener.getsockname()[1]
        with pserve(name, tmp_path, options=options, port=port, pass_fds=[number]) as server:
            assert clients.get(server, "/").body == b"The first page"


# Options.


def failure(name, directory, options, environ=None):
    """The last line that pserve writes when it fails."""
    ini = write_ini(directory / "test.ini", name, options)
    command = [sys.executable, "-W", "ignore", "-m", "pyramid.scripts.pserve", str(ini)]
    done = subprocess.run(
        command,
        cwd=PROJECT,
        env={**os.environ, **(environ or {})},
        capture_output=True,
        text=True,
        timeout=6 * DEADLINE,
    )
    assert done.returncode == 1
    return done.stderr.splitlines()[-1]


WRONG = "pyramid.exceptions.ConfigurationError: "


@pytest.mark.parametrize(
    "name, known",
    [
        ("daphne", "bind, endpoint, fd, file_descriptor, host, http_timeout, log_fmt"),
        ("uvicorn", "header, headers, host, http, http2"),
        ("hypercorn", "backlog, bind, ca_certs, certfile, ciphers"),
    ],
)
def test_an_option_that_the_server_does_not_know(name, known, tmp_path):
    message = failure(name, tmp_path, {"prot": 8000})
    assert message.startswith(f"{WRONG}{name} has no option 'prot'; there are: ")
    assert known in message


@pytest.mark.parametrize(
    "name, option, value, reason",
    [
        ("daphne", "port", "many", "invalid int value: 'many'"),
        ("daphne", "proxy-headers", "maybe", "it is none of 0, 1, f, false, n, no, off, on"),
        ("uvicorn", "port", "many", "'many' is not a valid integer"),
        ("uvicorn", "access_log", "maybe", "it is none of 0, 1, f, false, n, no, off, on"),
        ("uvicorn", "reload", "true", "pserve --reload restarts the server"),
        ("uvicorn", "reload-dir", ".", "pserve --reload restarts the server"),
        ("uvicorn", "workers", "2", "start several, or serve from the command line"),
        ("hypercorn", "backlog", "many", "invalid literal for int"),
        ("hypercorn", "verify_mode", "SOME", "KeyError('SOME')"),
        ("hypercorn", "include_date_header", "maybe", "it is none of 0, 1, f, false, n, no, off"),
        ("hypercorn", "workers", "2", "start several, or serve from the command line"),
        ("hypercorn", "worker_class", "trio", 'must be "asyncio" or "uvloop", not \'trio\''),
    ],
)
def test_an_option_that_cannot_be_used(name, option, value, reason, tmp_path):
    message = failure(name, tmp_path, {option: value})
    assert message.startswith(f"{WRONG}{name}: ")
    assert option in message
    assert reason in message


@pytest.mark.parametrize(
    "name, missing, remedy",
    [
        ("daphne", "daphne", 'pip install "pyramid_asgi_consumers[daphne]"'),
        ("uvicorn", "uvicorn", 'pip install "pyramid_asgi_consumers[uvicorn]"'),
        ("hypercorn", "hypercorn", 'pip install "pyramid_asgi_consumers[hypercorn]"'),
        ("hypercorn", "uvloop", "pip install uvloop"),
    ],
)
def test_what_is_not_installed(name, missing, remedy, tmp_path):
    error = f"No module named '{missing}'"
    (tmp_path / f"{missing}.py").write_text(f"raise ModuleNotFoundError({error!r})")
    options = {"worker_class": "uvloop"} if missing == "uvloop" else {}
    message = failure(name, tmp_path, options, {"PYTHONPATH": str(tmp_path)})
    assert message == f"{WRONG}{error}: {remedy}"


@pytest.mark.parametrize(
    "name, error",
    [
        ("daphne", "RuntimeError: daphne does not start; it has logged why"),
        ("uvicorn", "RuntimeError: uvicorn does not start; it has logged why"),
        ("hypercorn", "OSError: [Errno 98] Address already in use"),
    ],
)
def test_a_port_that_is_taken(name, error, tmp_path):
    with socket.create_server((HOST, 0)) as listener:
        options = listening(name, listener.getsockname()[1])
        assert failure(name, tmp_path, options) == error


def test_an_exit_without_an_error_is_let_through():
    with pytest.raises(SystemExit), runners._failure("daphne"):
        sys.exit()


def test_hypercorn_stops_in_good_order_after_max_requests(tmp_path):
    port = free_port()
    options = {**listening("hypercorn", port), "max_requests": 2}
    with pserve("hypercorn", tmp_path, options=options, port=port) as server:
        with clients.websocket(server, "/ws") as websocket:
            assert clients.get(server, "/").status == 200
            assert clients.closed(websocket).code == 1012
        assert server.ended() == 0
        assert "The context is left" in server.logged()


def test_daphne_writes_no_accesses_where_verbosity_is_0(tmp_path):
    port = free_port()
    options = {**listening("daphne", port), "verbosity": 0}
    with pserve("daphne", tmp_path, options=options, port=port) as server:
        assert clients.get(server, "/").status == 200
    assert "daphne.access" not in server.logged()


# Applications that are none of ASGI.


@pytest.mark.parametrize("kind", ["pipeline", "composite"])
def test_a_pipeline_or_a_composite_is_refused(kind, tmp_path):
    ini = write_ini(tmp_path / "test.ini", "uvicorn")
    app = "call:tests.apps.pserveapp"
    around = {
        "pipeline": f"pipeline = around app\n[filter:around]\nuse = {app}:around",
        "composite": f"use = {app}:composite",
    }
    text = ini.read_text().replace("[app:main]", "[app:app]")
    ini.write_text(f"{text}\n[{kind}:main]\n{around[kind]}\n")
    command = [sys.executable, "-W", "ignore", "-m", "pyramid.scripts.pserve", str(ini)]
    done = subprocess.run(
        command, cwd=PROJECT, capture_output=True, text=True, timeout=6 * DEADLINE
    )
    assert done.returncode == 1
    message = done.stderr.splitlines()[-1]
    expected = rf"{WRONG}uvicorn serves what config\.make_asgi_app\(\) returns, not <function "
    assert re.match(expected, message), message


@pytest.mark.parametrize("name", SERVERS)
def test_a_wsgi_application_is_refused(name):
    with pytest.raises(ConfigurationError, match=f"{name} serves what .* a pipeline of the ini"):
        getattr(servers, name)(lambda environ, start_response: [])


@pytest.mark.parametrize("name", SERVERS)
def test_what_make_wsgi_app_returns_is_refused(name):
    with pytest.raises(ConfigurationError, match="main returns config.make_wsgi_app.*change that"):
        getattr(servers, name)(Configurator().make_wsgi_app())


# The option listen, as waitress has it.


def reached(server, host, family=socket.AF_INET):
    with socket.socket(family) as connection:
        connection.settimeout(DEADLINE)
        connection.connect((host, server.port))
        connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        return b"The first page" in clients.read_until(connection, b"page")


@pytest.mark.parametrize("name", SERVERS)
@pytest.mark.parametrize("form", ["localhost:{}", "*:{}", "127.0.0.1:{} [::1]:{}"])
def test_listen_takes_what_it_takes_for_waitress(name, form, tmp_path):
    port = free_port()
    options = {"listen": form.replace("{}", str(port))}
    with pserve(name, tmp_path, options=options, port=port) as server:
        assert reached(server, "127.0.0.1")
        # Whether localhost is that, too, is the machine's to say.
        if "localhost" not in form:
            assert reached(server, "::1", socket.AF_INET6)
        with clients.websocket(server, "/ws") as websocket:
            websocket.send("hello")
            assert websocket.recv(DEADLINE) == "hello"
        assert f"INFO|pyramid_asgi_consumers.servers.listening|{name} listens on 127.0.0.1" in (
            server.logged().replace("0.0.0.0", "127.0.0.1")
        )


@pytest.mark.parametrize("name", SERVERS)
def test_listen_stands_alone(name, tmp_path):
    options = {**listening(name, 6543), "listen": "localhost:6543"}
    message = failure(name, tmp_path, options)
    assert message.startswith(f"{WRONG}{name}: listen = localhost:6543 and ")
    assert message.endswith(": give one of the two")


@pytest.mark.parametrize("value", ["", "127.0.0.1:many", ":6543", "127.0.0.1:66666", "[::1"])
def test_a_listen_that_cannot_be_read(value, tmp_path):
    message = failure("uvicorn", tmp_path, {"listen": value})
    assert message.startswith(f"{WRONG}uvicorn: listen must be one or more host:port, not ")


@pytest.mark.parametrize("name", SERVERS)
def test_an_address_of_listen_that_is_taken(name, tmp_path):
    with socket.create_server((HOST, 0)) as listener:
        port = listener.getsockname()[1]
        message = failure(name, tmp_path, {"listen": f"{HOST}:{free_port()} {HOST}:{port}"})
    assert message == (
        f"OSError: [Errno 98] {name} cannot listen on {HOST} port {port}: Address already in use"
    )


def test_an_application_that_does_not_start_where_listen_says():
    async def app(scope, receive, send):
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no"})

    with pytest.raises(RuntimeError, match="uvicorn does not start; it has logged why"):
        servers.uvicorn(app, listen=f"{HOST}:{free_port()}")


OPTIONS = {
    "daphne": {
        "http-timeout": "30",
        "proxy_headers": "true",
        "no-server-name": "yes",
        "access_log": "-",
    },
    "uvicorn": {
        "timeout-keep-alive": "30",
        "proxy_headers": "true",
        "server_header": "no",
        "ws_per_message_deflate": "false",
        "header": "\n    X-One:1\n    X-Two:2",
        "ws": "wsproto",
    },
    "hypercorn": {
        "keep-alive-timeout": "30",
        "include_server_header": "false",
        "websocket_ping_interval": "2.5",
        "umask": "18",
        "verify_mode": "CERT_NONE",
        "worker_class": "uvloop",
        "alt_svc_headers": "\n    one\n    two",
    },
}


@pytest.mark.parametrize("name", SERVERS)
def test_options_reach_the_server(name, tmp_path):
    port = free_port()
    options = {**listening(name, port), **OPTIONS[name]}
    with pserve(name, tmp_path, options=options, port=port) as server:
        answer = clients.get(server, "/")
        with clients.websocket(server, "/ws") as websocket:
            websocket.send("hello")
            assert websocket.recv(DEADLINE) == "hello"
        log = server.logged()
    assert answer.body == b"The first page"
    assert "server" not in answer.headers
    if name == "daphne":
        # To stdout, as Daphne writes it.
        assert re.search(r'^127\.0\.0\.1:\d+ - - \[.*\] "GET /" 200', log, re.MULTILINE)
    elif name == "uvicorn":
        assert (answer.headers["X-One"], answer.headers["X-Two"]) == ("1", "2")
    else:
        assert answer.headers.get_all("alt-svc") == ["one", "two"]


# Pyramid's other commands.


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


# Servers that import the application.


APP_PY = """
from pyramid.paster import get_app, setup_logging

setup_logging({ini!r})
app = get_app({ini!r})
"""

IMPORTING = {
    "granian": "granian --interface asgi --host {host} --port {port} project:app",
    "gunicorn": (
        "gunicorn --worker-class asgi --no-control-socket --bind {host}:{port} project:app"
    ),
    "uvicorn-worker": (
        "gunicorn --worker-class uvicorn_worker.UvicornWorker --bind {host}:{port} project:app"
    ),
}


@pytest.mark.parametrize("name", IMPORTING)
def test_a_server_that_imports_the_application(name, tmp_path):
    ini = write_ini(tmp_path / "test.ini", gate=tmp_path / "gate")
    (tmp_path / "project.py").write_text(APP_PY.format(ini=str(ini)))
    port = free_port()
    command = IMPORTING[name].format(host=HOST, port=port).split()
    with started(name, command, port, tmp_path, {"PYTHONPATH": str(tmp_path)}) as server:
        with clients.websocket(server, "/ws") as websocket:
            websocket.send("hello")
            assert websocket.recv(DEADLINE) == "hello"
        with in_thread(partial(clients.get, server, "/slow")) as answers:
            wait_until(lambda: "pserveapp|slow began" in server.logged(), "the request", server)
            server.process.send_signal(signal.SIGTERM)
            (tmp_path / "gate").touch()
        assert answers[0].body == b"slow answer"
        assert server.ended() == 0
        assert "pserveapp|The context is left" in server.logged()
