"""A handshake that takes its time: cancelled, waited for, and beside pages."""

import asyncio

from pyramid.response import Response

from tests.support.asgi import CONNECT, body_of, http_scope, run, websocket_scope
from tests.support.handshakes import add_page, declare, shake
from tests.support.project import make_config


def declare_slow(config, held, **arguments):
    """Declare a consumer whose handshake waits in its thread."""

    def root(request):
        held.wait()
        return {}

    return declare(config, path="/slow", factory=root, **arguments)


async def test_a_handshake_that_is_cancelled_gives_its_place_back(config, held):
    consumer = declare_slow(config, held, max_connections=1)
    app = config.make_asgi_app()
    handshake = asyncio.create_task(shake(app, "/slow"))
    await held.reached()
    assert (await shake(app, "/slow"))["status"] == 503
    handshake.cancel()
    await asyncio.wait([handshake])
    held.go_on()
    assert handshake.cancelled()
    assert (await shake(app, "/slow"))["type"] == "websocket.accept"
    assert len(consumer.scopes) == 1


async def test_a_handshake_waits_while_all_threads_are_taken_and_pages_do_not(engine, held):
    config = make_config(engine, **{"asgi.handshake_threads": 1})
    declare_slow(config, held)
    other = declare(config)
    app = config.make_asgi_app()
    slow = asyncio.create_task(shake(app, "/slow"))
    await held.reached()
    next_one = asyncio.create_task(shake(app))
    assert (await run(app, http_scope("/")))[0]["status"] == 200
    assert other.scopes == []
    held.go_on()
    assert {(await slow)["type"], (await next_one)["type"]} == {"websocket.accept"}


async def test_pages_that_take_all_their_threads_do_not_keep_sockets_out(engine, held):
    config = make_config(engine, **{"asgi.threads": 1})

    def page(request):
        held.wait()
        return Response("at last")

    add_page(config, page)
    declare(config)
    app = config.make_asgi_app()
    slow = asyncio.create_task(run(app, http_scope("/page")))
    await held.reached()
    assert (await shake(app))["type"] == "websocket.accept"
    held.go_on()
    assert body_of(await slow) == b"at last"


async def test_a_server_that_stops_waits_for_handshakes_but_not_for_ever(config, held, caplog):
    consumer = declare_slow(config, held)
    app = config.make_asgi_app()
    slow = asyncio.create_task(shake(app, "/slow"))
    await held.reached()
    await app.handshakes.drain(0.01)
    assert "still run after 0.01 s" in caplog.text
    held.go_on()
    assert (await slow)["type"] == "websocket.accept"
    caplog.clear()
    await app.handshakes.drain(20)
    assert (caplog.records, len(consumer.scopes)) == ([], 1)


async def test_an_async_view_of_a_handshake_is_cancelled_when_a_server_stops(config):
    began, ended = asyncio.Event(), []

    async def forbidden(request):
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    config.commit()
    config.add_forbidden_view(forbidden)
    app = config.make_asgi_app()
    refused = asyncio.create_task(run(app, websocket_scope("/rooms/blue"), CONNECT))
    await asyncio.wait_for(began.wait(), 20)
    await app.handshakes.drain(0.01)
    assert ended == [True]
    assert (await refused)[0]["status"] == 500
