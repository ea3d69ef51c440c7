"""Where a channel stands and who is there, asked from requests: views, scripts and tasks."""

import asyncio

import pytest
from pyramid.config import Configurator
from pyramid.paster import bootstrap
from pyramid.request import Request, apply_request_extensions
from pyramid.response import Response
from webtest import TestApp

from pyramid_asgi_consumers.channels import channels_of
from pyramid_asgi_consumers.channels.positions import position_of
from pyramid_asgi_consumers.testing import TestApp as ASGITestApp

INI = """
[app:main]
use = call:tests.channels.test_looking:app
asgi.channels = {url}
"""


def look(request):
    request.channels.publish_now("news", "one")
    return {
        "position": request.channels.position("news"),
        "newest": request.channels.publish_now("talk", "two"),
        "talk": request.channels.position("talk"),
        "present": request.channels.present("news"),
    }


async def alook(request):
    channels = request.channels
    await channels.apublish("news", "one")
    return {
        "position": await channels.aposition("news"),
        "present": await channels.apresent("news"),
    }


def app(global_config, **settings):
    config = Configurator(settings=settings)
    config.include("pyramid_asgi_consumers")
    config.add_view(look, renderer="json")
    config.add_view(alook, name="async", renderer="json")
    return config.make_asgi_app()


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis)])
def url(request):
    if request.param == "memory":
        return "memory://"
    return request.getfixturevalue("redis_server").url


def test_a_view_sees_where_a_channel_stands_and_who_is_there(url):
    with ASGITestApp(app({}, **{"asgi.channels": url})) as testapp:
        seen = testapp.get("/").json
        assert position_of(seen["position"]) is not None
        assert seen["talk"] == seen["newest"]
        assert seen["present"] == []
        later = testapp.get("/async").json
        assert later["position"] > seen["position"] and later["present"] == []


def test_a_script_sees_where_a_channel_stands(url, tmp_path):
    ini = tmp_path / "script.ini"
    ini.write_text(INI.format(url=url))
    with bootstrap(str(ini)) as env:
        seen = look(env["request"])
        assert seen["talk"] == seen["newest"]


async def test_a_request_sees_what_its_application_sees(url):
    registry = app({}, **{"asgi.channels": url, "asgi.channels.history": "9"}).registry
    request = Request.blank("/")
    request.registry = registry
    apply_request_extensions(request)
    channels = channels_of(registry)
    async with channels.subscribe("a", presence="ann") as events:
        newest = await channels.publish("a", 1)
        assert await request.channels.aposition("a") == newest
        assert await asyncio.to_thread(request.channels.position, "a") == newest
        assert await request.channels.apresent("a") == ["ann"]
        assert await asyncio.to_thread(request.channels.present, "a") == ["ann"]
        assert (await events.__anext__()).id == newest
    await channels.backend.aclose()


async def test_what_would_block_the_loop_names_what_does_not():
    request = Request.blank("/")
    request.registry = app({}).registry
    apply_request_extensions(request)
    with pytest.raises(RuntimeError, match=r"await request\.channels\.aposition\(name\)"):
        request.channels.position("a")
    with pytest.raises(RuntimeError, match=r"await request\.channels\.apresent\(name\)"):
        request.channels.present("a")


@pytest.mark.parametrize("name", ["", None, "\ud800"])
def test_a_bad_name_is_refused(name):
    def view(request):
        for method in request.channels.position, request.channels.present:
            with pytest.raises(ValueError, match="channel's name"):
                method(name)
        return Response()

    config = Configurator()
    config.include("pyramid_asgi_consumers")
    config.add_view(view)
    TestApp(config.make_wsgi_app()).get("/", status=200)
