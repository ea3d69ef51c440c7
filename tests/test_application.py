import asyncio
import re
import textwrap
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from pyramid.config import Configurator
from pyramid.exceptions import ConfigurationConflictError, ConfigurationError
from pyramid.httpexceptions import HTTPConflict
from pyramid.response import Response

from pyramid_asgi_consumers.config.settings import SETTINGS
from tests.support.asgi import CONNECT, body_of, http_scope, run, websocket_scope


async def echo(scope, receive, send):
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message["text"]})


async def show(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": repr(scope["path_params"]).encode()})


@pytest.fixture
def config(config):
    config.add_route("home", "/")
    config.add_view(lambda request: Response("Hello"), route_name="home")
    return config


def accepting(error=None, accept=True):
    async def consumer(scope, receive, send):
        await receive()
        if accept:
            await send({"type": "websocket.accept"})
        if error is not None:
            raise error

    return consumer


async def test_a_page_is_answered_by_pyramid(config):
    assert body_of(await run(config.make_asgi_app(), http_scope())) == b"Hello"


async def test_a_page_is_answered_by_pyramid_beside_an_http_consumer(config):
    config.add_asgi_consumer("/show/{id}", "http", show)
    app = config.make_asgi_app()
    assert body_of(await run(app, http_scope())) == b"Hello"
    assert body_of(await run(app, http_scope("/show/7"))) == b"{'id': '7'}"
    assert (await run(app, http_scope("/none")))[0]["status"] == 404


async def test_a_websocket_is_echoed_and_closed(config):
    config.add_asgi_consumer("/ws", "websocket", echo)
    message = {"type": "websocket.receive", "text": "hi"}
    gone = {"type": "websocket.disconnect", "code": 1001}
    sent = await run(config.make_asgi_app(), websocket_scope(), CONNECT, message, gone)
    assert [m["type"] for m in sent] == ["websocket.accept", "websocket.send", "websocket.close"]


async def test_an_unmatched_websocket_is_denied_with_404(config, caplog):
    caplog.set_level("INFO")
    sent = await run(config.make_asgi_app(), websocket_scope(), CONNECT)
    assert sent[0]["status"] == 404
    assert [record.levelname for record in caplog.records] == ["INFO"]


async def test_without_denial_responses_a_refusal_is_a_close(config):
    sent = await run(config.make_asgi_app(), websocket_scope(extensions={}), CONNECT)
    assert [message["type"] for message in sent] == ["websocket.close"]


@pytest.mark.parametrize(
    ("origins", "status"), [([b"https://evil.test"], 403), ([b"http://example.com"] * 2, 403)]
)
async def test_a_foreign_origin_is_refused(config, origins, status):
    config.add_asgi_consumer("/ws", "websocket", accepting())
    scope = websocket_scope(headers=[(b"origin", origin) for origin in origins])
    assert (await run(config.make_asgi_app(), scope, CONNECT))[0]["status"] == status


async def test_a_listed_origin_is_let_in(config):
    config.add_asgi_consumer("/ws", "websocket", accepting(), origins=["https://*.friend.test"])
    scope = websocket_scope(headers=[(b"origin", b"https://a.b.friend.test")])
    assert (await run(config.make_asgi_app(), scope, CONNECT))[0]["type"] == "websocket.accept"


@pytest.mark.parametrize(
    ("consumer", "status"),
    [
        (accepting(accept=False), 403),
        (accepting(ValueError("no"), accept=False), 500),
        (accepting(HTTPConflict(), accept=False), 409),
    ],
)
async def test_what_ends_before_accept_is_a_denial(config, consumer, status):
    config.add_asgi_consumer("/ws", "websocket", consumer)
    assert (await run(config.make_asgi_app(), websocket_scope(), CONNECT))[0]["status"] == status


@pytest.mark.parametrize(
    ("error", "code"), [(None, 1000), (ValueError("no"), 1011), (HTTPConflict(), 4409)]
)
async def test_what_ends_after_accept_is_a_close(config, error, code):
    config.add_asgi_consumer("/ws", "websocket", accepting(error))
    sent = await run(config.make_asgi_app(), websocket_scope(), CONNECT)
    assert sent[-1] == {"type": "websocket.close", "code": code, "reason": ""}


async def test_beyond_max_connections_is_503(config):
    config.add_asgi_consumer("/ws", "websocket", echo, max_connections=1)
    app = config.make_asgi_app()
    gone = asyncio.Event()
    first = asyncio.create_task(run(app, websocket_scope(), CONNECT, disconnected=gone))
    await asyncio.sleep(0)
    assert (await run(app, websocket_scope(), CONNECT))[0]["status"] == 503
    gone.set()
    await first
    sent = await run(app, websocket_scope(), CONNECT, {"type": "websocket.disconnect"})
    assert sent[0]["type"] == "websocket.accept"


async def test_an_http_consumer_that_raises_is_500(config):
    async def broken(scope, receive, send):
        raise ValueError("no")

    config.add_asgi_consumer("/broken", "http", broken)
    assert (await run(config.make_asgi_app(), http_scope("/broken")))[0]["status"] == 500


async def test_the_more_specific_pattern_wins(config):
    for path in ("/a/*rest", "/a/{name}", r"/a/{n:\d+}", "/a/b", "/{x}/b"):
        config.add_asgi_consumer(path, "http", show)
    app = config.make_asgi_app()
    for path, params in [
        ("/a/b", {}),
        ("/a/7", {"n": "7"}),
        ("/a/c", {"name": "c"}),
        ("/a/c/d", {"rest": ("c", "d")}),
        ("/z/b", {"x": "z"}),
    ]:
        assert body_of(await run(app, http_scope(path))) == repr(params).encode()
    assert (await run(app, http_scope("/z/b\n")))[0]["status"] == 404


async def test_a_consumer_declared_after_the_application_was_made_is_served(config):
    app = config.make_asgi_app()
    config.add_asgi_consumer("/late/{id}", "http", show)
    config.commit()
    assert body_of(await run(app, http_scope("/late/7"))) == b"{'id': '7'}"


async def test_a_root_path_is_stripped(config):
    config.add_asgi_consumer("/a/{id}", "http", show)
    app = config.make_asgi_app()
    sent = await run(app, http_scope("/app/a/1", root_path="/app"))
    assert body_of(sent) == b"{'id': '1'}"


async def test_an_unknown_scope_is_a_value_error(config):
    with pytest.raises(ValueError, match="'tcp'"):
        await config.make_asgi_app()({"type": "tcp"}, None, None)


async def test_the_lifespan_is_completed(config):
    messages = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    sent = await run(config.make_asgi_app(), {"type": "lifespan"}, *messages)
    assert [m["type"] for m in sent] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


@pytest.mark.parametrize(
    ("arguments", "more", "words"),
    [
        (("/ws", "ws", echo), {}, 'protocol must be "websocket" or "http", not \'ws\''),
        ((7, "websocket", echo), {}, "path must be a str, not 7"),
        (("/{a", "websocket", 7), {}, "callable must be"),
        (("/{a:[}", "websocket", echo), {}, "path must be a pattern"),
        (("/ws", "websocket", echo), {"origins": ["x"]}, "origins must be"),
        (("/x", "http", echo), {"origins": ["*"]}, "origins=['*'] is for websockets only"),
        (("/x", "http", echo), {"origins": ()}, "origins=() is for websockets only"),
        (("/ws", "websocket", echo), {"max_connections": 0}, "max_connections must be"),
        (("/ws", "websocket", echo), {"name": ""}, "name must be a route name or None, not ''"),
        (("/ws", "websocket", echo), {"factory": 7}, "factory must be a root factory"),
        (("/ws", "websocket", echo), {"renderer": "json"}, "renderer='json' is not for a consumer"),
    ],
)
def test_a_wrong_argument_is_named(config, arguments, more, words):
    with pytest.raises(ConfigurationError, match=re.escape(words)):
        config.add_asgi_consumer(*arguments, **more)


def test_the_same_path_twice_is_a_conflict(config):
    config.add_asgi_consumer("/ws", "websocket", echo)
    config.add_asgi_consumer("/ws", "websocket", show)
    with pytest.raises(ConfigurationConflictError):
        config.commit()


@pytest.mark.parametrize(
    "setting",
    [
        {"asgi.threads": "many"},
        {"asgi.handshake_threads": "0"},
        {"asgi.origins": "example.com"},
        {"asgi.hosts": "a/b"},
        {"asgi.leave_timeout": "soon"},
        {"asgi.leave_timeout": "0"},
        {"asgi.leave_timeout": "-1.5"},
        {"asgi.leave_timeout": "nan"},
        {"asgi.leave_timeout": "inf"},
    ],
)
def test_a_wrong_setting_is_named(config, setting):
    config.add_settings(setting)
    with pytest.raises(ConfigurationError, match=next(iter(setting))):
        config.make_asgi_app()


@pytest.mark.parametrize(
    "name, near",
    [
        ("asgi.orgins", "asgi.origins"),
        ("asgi.channel.history", "asgi.channels.history"),
        ("asgi.", "asgi.hosts"),
    ],
)
def test_a_setting_that_is_none_is_named_with_the_nearest(name, near):
    config = Configurator(settings={name: "x"})
    config.include("pyramid_asgi_consumers")
    with pytest.raises(ConfigurationError, match=f"{name} = x is no setting; did you mean {near}"):
        config.make_asgi_app()


def test_the_documentation_lists_the_settings_with_their_defaults():
    page = (Path(__file__).parent.parent / "docs" / "settings.rst").read_text()
    # A name, a default, a form and a meaning.
    rows = re.findall(r"^``(asgi\.\S+)`` +(\S+) +\S.*?  +\S.*$", page, re.MULTILINE)
    shown = {name: default.replace("\\", "") for name, default in rows}
    expected = {
        name: str(setting.default or "").lower().removesuffix(".0")
        for name, setting in SETTINGS.items()
    }
    zero = {"asgi.channels.history": "0", "asgi.multiprocess": "false"}
    assert shown == {**expected, **zero, "asgi.hosts": "", "asgi.origins": ""}


async def test_the_application_in_the_readme_works():
    text = (Path(__file__).parent.parent / "README.rst").read_text()
    block = re.search(r"code-block:: python\n\n((?:    .*\n|\n)+)", text)[1]
    names = {}
    exec(textwrap.dedent(block), names)
    app = names["app"]
    assert body_of(await run(app, http_scope())) == b"Hello"
    message = {"type": "websocket.receive", "text": "hi"}
    sent = await run(app, websocket_scope(), CONNECT, message, {"type": "websocket.disconnect"})
    assert {"type": "websocket.send", "text": "hi"} in sent


async def test_without_a_lifespan_a_failing_start_is_500_and_tried_again(config, caplog):
    failures = [OSError("not yet"), OSError("not yet")]

    @asynccontextmanager
    async def context(registry):
        if failures:
            raise failures.pop()
        yield {"x": 1}

    config.add_asgi_lifespan(context)
    config.add_asgi_consumer("/ws", "websocket", accepting())
    app = config.make_asgi_app()
    assert (await run(app, http_scope()))[0]["status"] == 500
    assert (await run(app, websocket_scope(), CONNECT))[0]["status"] == 500
    assert (await run(app, http_scope()))[0]["status"] == 200
    assert (await run(app, websocket_scope(), CONNECT))[0]["type"] == "websocket.accept"


async def test_a_root_path_of_the_settings_goes_before_that_of_the_scope(config):
    config.add_settings({"asgi.root_path": "/mine"})
    config.add_asgi_consumer("/show/{id}", "http", show)
    app = config.make_asgi_app()
    sent = await run(app, http_scope("/mine/show/7", root_path="/theirs"))
    assert body_of(sent) == b"{'id': '7'}"


@pytest.mark.parametrize(("host", "answer"), [("a.example", None), ("b.example", 403)])
async def test_the_host_of_an_absolute_target_lets_no_page_in(config, host, answer):
    config.add_asgi_consumer("/ws", "websocket", accepting())
    headers = [(b"host", b"a.example"), (b"origin", f"https://{host}".encode())]
    scope = {**websocket_scope("http://b.example/ws"), "headers": headers}
    sent = await run(config.make_asgi_app(), scope, CONNECT)
    assert sent[0].get("status") == answer
