"""``add_websocket`` and ``websocket_config``, and what can be a function."""

import functools

import pytest
from pyramid.exceptions import ConfigurationConflictError
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint

from pyramid_asgi_consumers import asgi_consumer_config, websocket_config
from pyramid_asgi_consumers.exceptions import ConfigurationError
from tests.support.asgi import CONNECT, run, websocket_scope
from tests.support.events import text
from tests.support.pages import run_block
from tests.support.websockets import left, serve


@websocket_config("/first")
@websocket_config("/second/{id}", max_connections=3)
async def decorated(websocket):
    await websocket.accept()
    await websocket.send_json(websocket.path_params)


async def undecorated(websocket):
    """Conflicts with another."""


async def test_the_decorator_is_found_by_a_scan_and_can_be_stacked(config):
    config.scan(__name__)
    app = config.make_asgi_app()
    assert (await run(app, websocket_scope("/first"), CONNECT))[1]["text"] == "{}"
    assert (await run(app, websocket_scope("/second/2"), CONNECT))[1]["text"] == '{"id":"2"}'


async def test_a_conflict_names_the_lines_of_the_functions(config):
    config.scan(__name__)
    config.add_websocket("/first", undecorated)
    config.add_websocket("/first", decorated)
    with pytest.raises(ConfigurationConflictError) as caught:
        config.commit()
    text = str(caught.value)
    assert 'config.add_websocket("/first", undecorated)' in text
    assert 'config.add_websocket("/first", decorated)' in text
    assert "websocket.py" not in text
    assert "consumers.py" not in text


def test_the_introspectable_has_the_function(config):
    config.add_websocket("/ws", f"{__name__}.decorated", origins="https://a.example", name="chat")
    config.commit()
    (entry,) = config.introspector.get_category("asgi consumers")
    found = entry["introspectable"]
    assert (found["path"], found["protocol"], found["callable"]) == ("/ws", "websocket", decorated)
    assert (found["origins"], found["name"]) == (("https://a.example",), "chat")
    assert found.title == (
        "websocket consumer /ws (function tests.config.test_config_websockets.decorated)"
    )


async def test_the_function_of_the_documentation():
    sent = await serve(
        run_block("websockets").chat,
        text("Hello"),
        left(),
        path="/chat/{room}",
        permission="chat",
        scope=websocket_scope("/chat/a"),
    )
    assert sent[1]["text"] == "None in a: Hello"


class Echo:
    async def __call__(self, websocket):
        await decorated(websocket)

    async def method(self, websocket):
        await decorated(websocket)


class Returning:
    def __call__(self, websocket):
        return decorated(websocket)


@functools.wraps(decorated)
def wrapper(websocket):
    return decorated(websocket)


async def two(first, websocket):
    await decorated(websocket)


@pytest.mark.parametrize(
    "func",
    [
        Echo(),
        Echo().method,
        wrapper,
        functools.partial(two, None),
        f"{__name__}.decorated",
        Returning(),
    ],
    ids=["object", "method", "wrapped", "partial", "dotted name", "returns an awaitable"],
)
async def test_what_can_be_a_function(func):
    assert (await serve(func))[1]["text"] == "{}"


class View:
    def __init__(self, request):
        """A class of views."""


async def application(scope, receive, send):
    """An ASGI application."""


@pytest.mark.parametrize(
    ("func", "message"),
    [
        (None, "must be an async function of one argument, or its dotted name, not None"),
        (list, "must be an async function of one argument, or its dotted name, not <class 'list"),
        (
            lambda websocket: decorated(websocket),
            r"must be async \(async def func\(websocket\)\), not <function <lambda>",
        ),
        (functools.partial(lambda websocket: decorated(websocket)), "must be async"),
        (print, "must be async"),
        (run, "must be a function of one argument, the websocket, not <function run .*>$"),
        (lambda request: None, "must be async .*>: a view is declared with add_view$"),
        (lambda context, request: None, "must be async .*>: a view is declared with add_view$"),
        (View, "must be an async function .*View'>: a view is declared with add_view$"),
        (application, "must be .*>: an ASGI application is declared with add_asgi_consumer$"),
        (Starlette(), "must be .*>: an ASGI application is declared with add_asgi_consumer$"),
        (HTTPEndpoint, "must be .*>: an ASGI application is declared with add_asgi_consumer$"),
        (lambda environ, start_response: [], "must be .*: a WSGI application is no ASGI appl"),
    ],
)
def test_what_cannot_be_a_function(func, message, config):
    with pytest.raises(ConfigurationError, match=f"add_websocket: func {message}"):
        config.add_websocket("/ws", func)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"origins": "example.com"},
            r"origins must be a list of origins \(an origin must be .*, not 'example.com'\), not"
            r" the str 'example.com'$",
        ),
        ({"origins": ["x"]}, r"origins must be a list of origins \(.*\), not \['x'\]$"),
        (
            {"renderer": "json"},
            r"renderer='json' is not for a consumer to set: websocket.send_json\(\) sends JSON$",
        ),
        ({"attr": "x"}, "attr='x' is not for a consumer to set$"),
        ({"name": 5}, "name must be a route name or None, not 5$"),
        ({"max_connections": 0}, "max_connections must be"),
    ],
)
def test_a_wrong_argument_is_one_of_add_websocket(arguments, message, config):
    with pytest.raises(ConfigurationError, match=f"^add_websocket: {message}"):
        config.add_websocket("/ws", decorated, **arguments)


def test_a_function_before_its_path_is_told_so(config):
    expected = "^add_websocket: path must be a str, not <.*>: the path comes first, then the func"
    with pytest.raises(ConfigurationError, match=expected):
        config.add_websocket(decorated, "/ws")
    with pytest.raises(ConfigurationError, match="^add_websocket: path must be a str, not 5$"):
        config.add_websocket(5, decorated)


@pytest.mark.parametrize(
    ("decorator", "arguments", "message"),
    [
        (websocket_config, (), r"@websocket_config\(path\): path must be a str, not <function un"),
        (asgi_consumer_config, ("http",), r"@asgi_consumer_config\(path, protocol\): path must be"),
    ],
)
def test_a_decorator_without_parentheses_is_told_so(decorator, arguments, message):
    with pytest.raises(TypeError, match=f"^{message}"):
        decorator(undecorated, *arguments)
