"""Whole ASGI applications under a prefix."""

import json
from contextlib import asynccontextmanager

import pytest
from pyramid.exceptions import ConfigurationConflictError, ConfigurationError
from pyramid.response import Response
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute

from pyramid_asgi_consumers.lifespan import running
from tests.support.asgi import CONNECT, body_of, http_scope, run, websocket_scope


async def show(scope, receive, send):
    keys = ("type", "path", "root_path", "path_params")
    shown = json.dumps({key: scope[key] for key in keys}).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": shown})


@pytest.fixture
def config(config):
    config.add_route("home", "/api-docs")
    config.add_view(lambda request: Response("Pyramid"), route_name="home")
    return config


@pytest.mark.parametrize(
    ("server_root", "path"), [("", "/api/a/b"), ("/app", "/app/api/a/b"), ("/app", "/api/a/b")]
)
async def test_the_prefix_moves_to_the_root_path(config, server_root, path):
    config.add_asgi_app("/api", show)
    shown = await run(config.make_asgi_app(), http_scope(path, root_path=server_root))
    assert json.loads(body_of(shown)) == {
        "type": "http",
        "path": server_root + "/api/a/b",
        "root_path": server_root + "/api",
        "path_params": {},
    }


@pytest.mark.parametrize("path", ["/api", "/api/", "/api//", "/api/a%b"])
async def test_the_prefix_itself_and_all_below_it_is_the_application_s(config, path):
    config.add_asgi_app("api/", show)
    sent = await run(config.make_asgi_app(), http_scope(path))
    assert json.loads(body_of(sent))["path"] == path


async def test_what_only_begins_like_the_prefix_is_pyramid_s(config):
    config.add_asgi_app("/api", show)
    assert body_of(await run(config.make_asgi_app(), http_scope("/api-docs"))) == b"Pyramid"


async def test_a_consumer_below_the_prefix_goes_first(config):
    async def own(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": scope["path_params"]["id"].encode()})

    config.add_asgi_app("/api", show)
    config.add_asgi_consumer("/api/own/{id}", "http", own)
    assert body_of(await run(config.make_asgi_app(), http_scope("/api/own/7"))) == b"7"


async def test_a_route_prefix_goes_before_the_prefix(config):
    config.include(lambda config: config.add_asgi_app("/api", show), route_prefix="/v1")
    sent = await run(config.make_asgi_app(), http_scope("/v1/api/x"))
    assert json.loads(body_of(sent))["root_path"] == "/v1/api"


async def test_the_origin_of_its_websockets_is_checked(config):
    async def accepting(scope, receive, send):
        await send({"type": "websocket.accept"})

    config.add_asgi_app("/api", accepting)
    app = config.make_asgi_app()
    sent = await run(app, websocket_scope("/api/ws"), CONNECT)
    assert sent[0]["type"] == "websocket.accept"
    foreign = websocket_scope("/api/ws", headers=[(b"origin", b"https://evil.test")])
    assert (await run(app, foreign, CONNECT))[0]["status"] == 403


def starlette_app(name):
    @asynccontextmanager
    async def lifespan(app):
        yield {"name": name}

    async def page(request):
        url = request.url_for("page", number=8).path
        return JSONResponse({"name": request.state.name, "url": url, **request.path_params})

    async def socket(websocket):
        await websocket.accept()
        await websocket.send_json({"name": websocket.state.name, **websocket.path_params})

    routes = [Route("/page/{number}", page, name="page"), WebSocketRoute("/ws/{room}", socket)]
    return Starlette(routes=routes, lifespan=lifespan)


async def test_starlette_applications_keep_their_routes_and_their_own_state(config):
    config.add_asgi_app("/one", starlette_app("first"))
    config.add_asgi_app("/two", starlette_app("second"))
    app = config.make_asgi_app()
    async with running(app):
        for prefix, name in [("/one", "first"), ("/two", "second")]:
            sent = await run(app, http_scope(f"{prefix}/page/7"))
            shown = {"name": name, "url": f"{prefix}/page/8", "number": "7"}
            assert json.loads(body_of(sent)) == shown
            sent = await run(app, websocket_scope(f"{prefix}/ws/a"), CONNECT)
            assert json.loads(sent[1]["text"]) == {"name": name, "room": "a"}


async def test_its_lifespan_can_be_left_out(config, caplog):
    config.add_asgi_app("/one", starlette_app("first"), lifespan=False)
    app = config.make_asgi_app()
    assert config.introspector.get_category("asgi lifespans") is None
    async with running(app):
        sent = await run(app, http_scope("/one/page/7"))
        assert sent[0]["status"] == 500


async def test_an_asgi_2_application_can_be_mounted_by_its_dotted_name(config):
    config.add_asgi_app("/two", f"{__name__}.Two")
    assert body_of(await run(config.make_asgi_app(), http_scope("/two/x"))).startswith(b"{")


class Two:
    def __init__(self, scope):
        self.scope = scope

    async def __call__(self, receive, send):
        await show(self.scope, receive, send)


def test_an_application_leaves_an_introspectable(config):
    config.add_asgi_app("/api", show, lifespan=False)
    config.commit()
    (entry,) = config.introspector.get_category("asgi apps")
    found = entry["introspectable"]
    assert (found["prefix"], found["app"], found["lifespan"]) == ("/api", show, False)


@pytest.mark.parametrize(
    ("prefix", "app", "words"),
    [
        (7, show, "prefix must be a path without placeholders, not 7"),
        ("/{x}", show, "prefix must be a path without placeholders, not '/{x}'"),
        ("/", show, "prefix must have a segment at least, not '/'"),
        ("/api", 7, "app must be an ASGI application, .*, or its dotted name, not 7, which cannot"),
        ("/api", len, "app must be an ASGI application, .*, not <built-in function len>, which"),
    ],
)
def test_a_wrong_argument_is_named(config, prefix, app, words):
    with pytest.raises(ConfigurationError, match=f"add_asgi_app: {words}"):
        config.add_asgi_app(prefix, app)


def test_two_applications_under_one_prefix_are_a_conflict(config):
    config.add_asgi_app("/api", show)
    config.add_asgi_app("/api/", Two)
    with pytest.raises(ConfigurationConflictError):
        config.commit()
