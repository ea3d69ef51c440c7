"""How log lines and errors show what others sent."""

import ast
import logging
import re
from itertools import zip_longest
from pathlib import Path

import pytest
from pyramid.config import Configurator

import pyramid_asgi_consumers
from pyramid_asgi_consumers.servers import runners
from pyramid_asgi_consumers.shown import Shown
from tests.support.asgi import http_scope, run, websocket_scope


@pytest.mark.parametrize(
    "value, expected",
    [
        ("/a b", "'/a b'"),
        ("a\n\x1b[31mb\u202e", r"'a\n\x1b[31mb\u202e'"),
        ("\udcff\u20ac", r"'\udcff\u20ac'"),
        ("x" * 10_000, "'" + "x" * 200 + "'... (10000 characters)"),
        (b"\x1b\n", r"b'\x1b\n'"),
        (b"x" * 10_000, "b'" + "x" * 198 + "... (10003 characters)"),
        (ValueError("a\n\x1b'b'"), r"a\n\x1b'b'"),
        (ValueError("\u20ac"), r"\u20ac"),
        (ValueError(), "ValueError"),
        (OSError("x" * 501), "x" * 500 + "... (501 characters)"),
        (None, "None"),
    ],
)
def test_text_is_one_line_of_bounded_length(value, expected):
    assert str(Shown(value)) == repr(Shown(value)) == f"{Shown(value)}" == expected


def test_a_line_that_is_not_logged_costs_no_text(caplog):
    caplog.set_level(logging.INFO)
    unprintable = type("Unprintable", (), {"__repr__": None})()
    with pytest.raises(TypeError):
        str(Shown(unprintable))
    logging.getLogger("some").debug("%s", Shown(unprintable))
    assert caplog.records == []


def test_text_is_shown_without_quotes_and_longer_where_a_line_is_made_of_it():
    assert str(Shown("GET /a\n'\u20ac'", quoted=False)) == r"GET /a\n'\u20ac'"
    assert str(Shown("x" * 300, most=250)) == "'" + "x" * 250 + "'... (300 characters)"


# Every line that the package logs.

PACKAGE = Path(pyramid_asgi_consumers.__file__).parent
LEVELS = {"debug", "info", "warning", "warn", "error", "exception", "critical", "fatal", "log"}
NUMBERS = set("dfg")

# What comes from the project or this package, and never from a client.
OWN = {
    "channels/committed.py": {"failure"},
    "events/function.py": {"self.declared", "leave_timeout", "type(result).__name__"},
    "config/application.py": {"permission", "declared.title"},
    # The reason is that of OriginRule.objection(): one printable line.
    "connection/endpoint.py": {"self.consumer", "reason"},
    "connection/errors.py": {"consumer"},
    "connection/http.py": {"consumer"},
    # Words and values are the package's own; _client() shows what is the client's.
    "connection/limits.py": {"line", "self._consumer", "LOG_INTERVAL"},
    "connection/leaving.py": {"name"},
    # Its words are Shown.
    "connection/revalidation.py": {"self._consumer", "words"},
    "connection/users.py": {"connection.consumer", "self.consumer"},
    "connection/websocket.py": {"consumer"},
    "handshake/exchange.py": {"', the '.join(declared)"},
    "handshake/handshakes.py": {"consumer"},
    "application.py": {"kind", "reason"},
    # Where a task waits is the name of a function and of its file.
    "lifespan.py": {"phase", "stubborn.place(self.task)"},
    "servers/listening.py": {"server", "*bound.getsockname()[:2]"},
    "stubborn.py": {"', '.join(sorted(places))", "where", "PATIENCE"},
    "wsgi/threads.py": {"threading.current_thread().name", "self.purpose"},
    "websocket/watcher.py": {"self._name"},
    "websocket/face.py": {"self.declared"},
}


def faults(source, own=()):
    """Return what in ``source`` could log a client's text as it came."""
    found = []
    tree = ast.parse(source)
    calls = {}
    for call in ast.walk(tree):
        if isinstance(call, ast.Call):
            calls[call.func] = call, call.args
            # partial(log.error, …), context.run(log.error, …)
            if call.args:
                calls[call.args[0]] = call, call.args[1:]
    for method in ast.walk(tree):
        if isinstance(method, ast.Attribute) and method.attr in LEVELS:
            if re.search(r"(^|[._])log(ger|ging)?$", ast.unparse(method.value)):
                call, arguments = calls.get(method, (method, ()))
                if not is_sound(call, arguments, own):
                    found.append(ast.unparse(call))
    return found


def is_sound(call, arguments, own):
    if not arguments or {keyword.arg for keyword in call.keywords} - {"exc_info"}:
        return False
    line, *arguments = arguments
    if not isinstance(line, ast.Constant) or not isinstance(line.value, str):
        return False
    marks = re.findall(r"%[^a-zA-Z%]*([a-zA-Z])", line.value.replace("%%", ""))
    return all(
        ast.unparse(argument) in own
        or mark in NUMBERS
        or (isinstance(argument, ast.Call) and ast.unparse(argument.func) == "Shown")
        for argument, mark in zip_longest(arguments, marks)
        if argument is not None
    )


MODULES = sorted(str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("module", MODULES)
def test_no_line_that_is_logged_has_a_clients_text_as_it_came(module):
    assert faults((PACKAGE / module).read_text(), OWN.get(module, ())) == []


@pytest.mark.parametrize(
    "call",
    [
        'log.info("404 for %s", path)',
        'log.info("404 for %r", scope["path"])',
        'log.warning(f"404 for {path}")',
        'log.error("404 for " + path)',
        'log.debug("%d of %s", count, ", ".join(names))',
        'self.log.exception("%s", error)',
        'logging.warning("%s", path)',
        'logger.critical("gone", extra={"path": path})',
        'log.log(10, "404 for %s", path)',
        'partial(log.error, "404 for %s", path)',
        "call_soon(log.error, path)",
        "report = log.error",
    ],
)
def test_such_a_line_is_found(call):
    assert len(faults(call)) == 1


def test_every_logger_is_known_by_its_name():
    for module in MODULES:
        source = (PACKAGE / module).read_text()
        names = re.findall(r"(\S+) = (?:logging\.)?getLogger", source)
        # Hypercorn logs there.
        assert set(names) <= {"log", "config.accesslog", "config.errorlog"}
        assert len(names) == source.count("getLogger(")


EVIL = "\r\n\x1b[31m\u202eEvil\x00\x7f\u20ac"
LONG = EVIL + "x" * 10_000


@pytest.fixture
def config():
    config = Configurator(settings={"asgi.max_body_size": "10"})
    config.include("pyramid_asgi_consumers")
    return config


async def lines(caplog, app, scope, *messages):
    """Serve; return the lines that were logged, which are sound."""
    caplog.set_level(logging.DEBUG, "pyramid_asgi_consumers")
    await run(app, scope, *messages)
    found = [x.getMessage() for x in caplog.records if x.name.startswith("pyramid_asgi_consumers")]
    assert found
    for line in found:
        assert line.isascii() and line.isprintable() and len(line) < 3000
        assert "Evil" in line
    return found


@pytest.mark.parametrize("text", [EVIL, LONG])
async def test_a_path_is_shown(config, caplog, text):
    def failing(request):
        raise LookupError

    config.add_notfound_view(failing)
    app = config.make_asgi_app()
    [line] = await lines(caplog, app, http_scope("/" + text))
    assert line.startswith("GET '/") and r"\r\n\x1b[31m" in line
    caplog.clear()
    [line] = await lines(caplog, app, websocket_scope("/" + text), {"type": "websocket.connect"})
    assert line.startswith("404 for a handshake to '/")
    caplog.clear()
    await lines(caplog, app, http_scope(text))
    caplog.clear()
    long = http_scope("/" + text, "POST", [(b"content-length", b"11")])
    [line] = await lines(caplog, app, long, {"type": "http.request", "body": b"x" * 11})
    assert line.startswith("413 for POST '/")
    caplog.clear()
    [line] = await lines(caplog, app, http_scope("/", method=text))
    assert line.startswith(r"\r\n\x1b[31m")


@pytest.mark.parametrize("text", [EVIL, LONG])
@pytest.mark.parametrize("name", [b"origin", b"host", b"content-length"])
async def test_a_header_is_shown(config, caplog, name, text):
    config.add_asgi_consumer("/ws", "websocket", print)
    header = (name, text.encode())
    connect = {"type": "websocket.connect"}
    if name == b"content-length":
        scope = http_scope("/Evil", headers=[header])
        [line] = await lines(caplog, config.make_asgi_app(), scope)
    else:
        headers = [header, (b"origin", b"https://example.com")][: 1 + (name == b"host")]
        scope = websocket_scope(headers=headers)
        [line] = await lines(caplog, config.make_asgi_app(), scope, connect)
    assert line.startswith("40")


@pytest.mark.parametrize("overflow", ["drop_oldest", "close"])
async def test_the_name_of_a_channel_is_shown(config, caplog, overflow):
    room = EVIL + "x" * 150

    async def function(websocket):
        await websocket.accept()
        options = {"max_queue": 1, "overflow": overflow}
        async with websocket.channels.subscribe(room, **options) as events:
            websocket.channels.backend.publish_many([(room, b"j1")] * 3)
            await websocket.channels.publish("other", 1)
            await events.__anext__()

    config.add_websocket("/ws", function)
    app = config.make_asgi_app()
    logged = await lines(caplog, app, websocket_scope(), {"type": "websocket.connect"})
    assert logged.pop(0).startswith("Slow subscribers lost 1 events")
    assert ["closes with 1013" in line for line in logged] == [True] * (overflow == "close")


async def test_what_a_client_says_is_shown(config, caplog):
    async def function(websocket):
        await websocket.accept()
        await websocket.receive_json()

    config.add_websocket("/ws", function)
    app = config.make_asgi_app()
    connect = {"type": "websocket.connect"}
    message = {"type": "websocket.receive", "text": LONG}
    caplog.set_level(logging.DEBUG, "pyramid_asgi_consumers")
    await run(app, websocket_scope(), connect, message)
    [line] = caplog.messages
    assert "closes with 1007" in line and line.isprintable() and len(line) < 300


def test_a_line_of_daphnes_access_log_is_shown(caplog):
    caplog.set_level(logging.INFO, "daphne.access")
    runners.AccessLog().write(f'127.0.0.1:5 - - [-] "GET /{EVIL}" 200 5\n')
    runners.AccessLog().write(f'127.0.0.1:5 - - [-] "GET /{LONG}" 200 5\n')
    first, second = caplog.messages
    assert first.isprintable() and first.endswith(r'Evil\x00\x7f\u20ac" 200 5')
    assert second.isprintable() and 2000 < len(second) < 2200
