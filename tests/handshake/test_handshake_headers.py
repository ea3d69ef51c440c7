"""Headers and cookies of a guarded consumer's handshake, in and out."""

import pytest
from pyramid.events import NewRequest

from tests.support.asgi import CONNECT, SCOPES, body_of, run, websocket_scope
from tests.support.handshakes import add_tween, declare, shake, tracebacks


def decorate(config):
    """Have a tween and a response callback set headers of all kinds."""

    def tween(handler, request):
        response = handler(request)
        response.set_cookie("tween", "1")
        response.headers.update(
            {
                "X-Frame-Options": "DENY",
                "Connection": "close",
                "Keep-Alive": "timeout=5",
                "Transfer-Encoding": "chunked",
                "Upgrade": "h2c",
                "Content-Language": "la",
                "ETag": '"1"',
                "Sec-WebSocket-Protocol": "other",
            }
        )
        return response

    def subscriber(event):
        event.request.add_response_callback(
            lambda request, response: response.set_cookie("callback", "2")
        )

    add_tween(config, tween)
    config.add_subscriber(subscriber, NewRequest)


@pytest.mark.parametrize("protocol", ["websocket", "http"])
async def test_headers_that_pyramid_set_go_out_with_the_consumer_s_answer(config, protocol):
    decorate(config)
    declare(config, protocol, headers=[(b"x-own", b"1"), (b"Set-Cookie", b"own=3")])
    answer = (await run(config.make_asgi_app(), SCOPES[protocol]("/x"), CONNECT))[0]
    assert answer["type"] in ("websocket.accept", "http.response.start")
    assert sorted((name.lower(), value) for name, value in answer["headers"]) == [
        (b"set-cookie", b"callback=2; Path=/"),
        (b"set-cookie", b"own=3"),
        (b"set-cookie", b"tween=1; Path=/"),
        (b"x-frame-options", b"DENY"),
        (b"x-own", b"1"),
    ]


async def test_a_header_that_the_consumer_sets_itself_holds(config):
    decorate(config)
    declare(config, headers=[(b"X-Frame-Options", b"SAMEORIGIN")])
    answer = await shake(config.make_asgi_app())
    values = [value for name, value in answer["headers"] if name.lower() == b"x-frame-options"]
    assert values == [b"SAMEORIGIN"]


async def test_hop_by_hop_headers_of_a_refusal_stay_behind(config):
    decorate(config)
    sent = await run(config.make_asgi_app(), websocket_scope("/rooms/blue"), CONNECT)
    names = {name for name, _ in sent[0]["headers"]}
    assert b"content-language" in names
    assert not names & {b"connection", b"keep-alive", b"transfer-encoding", b"upgrade"}
    assert body_of(sent)


@pytest.mark.parametrize("path", ["/x", "/rooms/blue"])
@pytest.mark.parametrize("value", ["caf\u00e9 \u20ac", "split\x00"])
async def test_a_header_that_cannot_be_sent_is_500(config, caplog, path, value):
    def tween(handler, request):
        response = handler(request)
        response.headers["X-Name"] = value
        return response

    add_tween(config, tween)
    consumer = declare(config)
    assert (await shake(config.make_asgi_app(), path))["status"] == 500
    assert (len(tracebacks(caplog)), consumer.scopes) == (1, [])


async def test_latin_1_headers_pass_both_ways(config):
    def tween(handler, request):
        response = handler(request)
        response.headers["X-Name"] = request.headers["X-Name"]
        return response

    add_tween(config, tween)
    declare(config)
    answer = await shake(config.make_asgi_app(), "/x", (b"x-name", b"\xe9t\xe9"))
    assert (b"x-name", b"\xe9t\xe9") in answer["headers"]


async def test_big_cookies_pass_both_ways(config):
    big = b"x" * 60000

    def tween(handler, request):
        response = handler(request)
        response.headers["X-Length"] = str(len(request.cookies["big"]))
        response.headers.add("Set-Cookie", "big=" + "y" * 60000)
        return response

    add_tween(config, tween)
    declare(config)
    answer = await shake(config.make_asgi_app(), "/x", (b"cookie", b"big=" + big))
    assert (b"x-length", b"60000") in answer["headers"]
    assert (b"set-cookie", b"big=" + b"y" * 60000) in answer["headers"]


async def test_the_mark_by_which_the_view_s_response_is_known_stays_inside(config):
    declare(config)
    answer = await shake(config.make_asgi_app())
    assert answer["headers"] == []
