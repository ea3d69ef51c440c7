"""The options of an ini's ``[server:main]``, with the servers under ``pserve``."""

import re
import socket

import pytest
from pyramid.exceptions import ConfigurationError

from pyramid_asgi_consumers import servers
from tests.support import clients
from tests.support.pserve import SERVERS, WRONG, failure, listening, pserve
from tests.support.servers import DEADLINE, HOST, free_port

pytestmark = pytest.mark.once


async def starts_nowhere(scope, receive, send):
    """An application that ends a server which serves it all the same."""
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "no"})


def refusal(name, directory, options):
    """What pserve says of these options, without its process where the server hears of a start."""
    if name == "daphne":
        return failure(name, directory, options)
    given = {option: str(value) for option, value in options.items()}
    with pytest.raises(ConfigurationError) as refused:
        getattr(servers, name)(starts_nowhere, **given)
    return f"{WRONG}{refused.value}"


@pytest.mark.parametrize(
    "name, known",
    [
        ("daphne", "bind, endpoint, fd, file_descriptor, host, http_timeout, log_fmt"),
        ("uvicorn", "header, headers, host, http, http2"),
        ("hypercorn", "backlog, bind, ca_certs, certfile, ciphers"),
    ],
)
def test_an_option_that_the_server_does_not_know(name, known, tmp_path):
    message = refusal(name, tmp_path, {"prot": 8000})
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
    message = refusal(name, tmp_path, {option: value})
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


def test_daphne_writes_no_accesses_where_verbosity_is_0(tmp_path):
    port = free_port()
    options = {**listening("daphne", port), "verbosity": 0}
    with pserve("daphne", tmp_path, options=options, port=port) as server:
        assert clients.get(server, "/").status == 200
    assert "daphne.access" not in server.logged()


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
    message = refusal(name, tmp_path, options)
    assert message.startswith(f"{WRONG}{name}: listen = localhost:6543 and ")
    assert message.endswith(": give one of the two")


@pytest.mark.parametrize("value", ["", "127.0.0.1:many", ":6543", "127.0.0.1:66666", "[::1"])
def test_a_listen_that_cannot_be_read(value, tmp_path):
    message = refusal("uvicorn", tmp_path, {"listen": value})
    assert message.startswith(f"{WRONG}uvicorn: listen must be one or more host:port, not ")


@pytest.mark.parametrize("name", SERVERS)
def test_an_address_of_listen_that_is_taken(name, tmp_path):
    with socket.create_server((HOST, 0)) as listener:
        port = listener.getsockname()[1]
        message = failure(name, tmp_path, {"listen": f"{HOST}:{free_port()} {HOST}:{port}"})
    assert message == (
        f"OSError: [Errno 98] {name} cannot listen on {HOST} port {port}: Address already in use"
    )


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
