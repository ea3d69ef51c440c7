"""``add_event_stream`` and ``event_stream_config``, and what can be a function."""

import pytest
from pyramid.exceptions import ConfigurationConflictError
from starlette.applications import Starlette

from pyramid_asgi_consumers import event_stream_config
from pyramid_asgi_consumers.exceptions import ConfigurationError
from tests.support.asgi import body_of, http_scope, run


@event_stream_config("/first")
@event_stream_config("/second/{id}", max_connections=3)
async def decorated(stream):
    await stream.send(stream.path_params)


async def undecorated(stream):
    """Conflicts with another."""


async def generator(stream):
    yield "what other libraries take"


async def application(scope, receive, send):
    """An ASGI application."""


async def test_the_decorator_is_found_by_a_scan_and_can_be_stacked(config):
    config.scan(__name__)
    app = config.make_asgi_app()
    assert body_of(await run(app, http_scope("/first"))) == b"data: {}\n\n"
    assert body_of(await run(app, http_scope("/second/2"))) == b'data: {"id":"2"}\n\n'


async def test_the_route_prefix_is_honoured(config):
    config.include(lambda config: config.add_event_stream("a", decorated), route_prefix="/api")
    assert body_of(await run(config.make_asgi_app(), http_scope("/api/a"))) == b"data: {}\n\n"


def test_a_conflict_names_the_lines_of_the_functions(config):
    config.add_event_stream("/first", undecorated)
    config.add_asgi_consumer("/first", "http", application)
    with pytest.raises(ConfigurationConflictError) as caught:
        config.commit()
    text = str(caught.value)
    assert 'config.add_event_stream("/first", undecorated)' in text
    assert 'config.add_asgi_consumer("/first", "http", application)' in text


def test_the_introspectable_has_the_function(config):
    config.add_event_stream("/events", f"{__name__}.decorated", name="news")
    config.commit()
    (entry,) = config.introspector.get_category("asgi consumers")
    found = entry["introspectable"]
    assert (found["path"], found["protocol"], found["callable"]) == ("/events", "http", decorated)
    assert found["name"] == "news"


@pytest.mark.parametrize(
    ("func", "message"),
    [
        (None, "must be an async function of one argument, or its dotted name, not None"),
        (generator, r"must be without a yield: what it has, it sends \(await stream.send\(\)\)"),
        (lambda stream: decorated(stream), r"must be async \(async def func\(stream\)\), not <fun"),
        (run, "must be a function of one argument, the stream, not <function run .*>$"),
        (lambda request: None, "must be async .*>: a view is declared with add_view$"),
        (application, "must be .*>: an ASGI application is declared with add_asgi_consumer$"),
        (Starlette(), "must be .*>: an ASGI application is declared with add_asgi_consumer$"),
    ],
)
def test_what_cannot_be_a_function(func, message, config):
    with pytest.raises(ConfigurationError, match=f"add_event_stream: func {message}"):
        config.add_event_stream("/events", func)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"origins": ["https://a.example"]}, r"origins=\['https://a.example'\] is for websockets"),
        (
            {"renderer": "json"},
            r"renderer='json' is not for a consumer to set: stream.send\(\) sends JSON$",
        ),
        ({"attr": "x"}, "attr='x' is not for a consumer to set$"),
        ({"name": 5}, "name must be a route name or None, not 5$"),
        ({"max_connections": 0}, "max_connections must be"),
    ],
)
def test_a_wrong_argument_is_one_of_add_event_stream(arguments, message, config):
    with pytest.raises(ConfigurationError, match=f"^add_event_stream: {message}"):
        config.add_event_stream("/events", decorated, **arguments)


def test_a_function_before_its_path_is_told_so(config):
    expected = "^add_event_stream: path must be a str, not <.*>: the path comes first, then the f"
    with pytest.raises(ConfigurationError, match=expected):
        config.add_event_stream(decorated, "/events")


def test_a_decorator_without_parentheses_is_told_so():
    with pytest.raises(TypeError, match=r"^@event_stream_config\(path\): path must be a str, not"):
        event_stream_config(undecorated)


def test_add_asgi_consumer_knows_what_was_meant(config):
    with pytest.raises(ConfigurationError, match="a function of an event stream is declared with"):
        config.add_asgi_consumer("/x", "http", undecorated)


def test_the_heartbeat_is_a_number_of_seconds(config):
    config.add_settings({"asgi.events.heartbeat": "0"})
    with pytest.raises(ConfigurationError, match="asgi.events.heartbeat must be a number of sec"):
        config.make_asgi_app()
