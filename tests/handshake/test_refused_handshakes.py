"""What refuses a guarded consumer's handshake, and what its client gets then."""

import pytest
from pyramid.config import Configurator
from pyramid.httpexceptions import HTTPFound, HTTPNotFound
from pyramid.response import Response

from pyramid_asgi_consumers.handshake.exchange import TOKEN
from tests.support.asgi import CONNECT, SCOPES, body_of, http_scope, run, websocket_scope
from tests.support.handshakes import add_tween, declare, shake, tracebacks
from tests.support.project import Message, Room, log_in


async def test_a_redirect_is_a_denial_with_its_location(config):
    config.commit()
    config.add_forbidden_view(lambda request: HTTPFound("/login"))
    sent = await shake(config.make_asgi_app(), "/rooms/blue")
    assert sent["status"] == 302
    assert dict(sent["headers"])[b"location"] == b"http://example.com/login"


def write_what_cannot_be_committed(request):
    request.dbsession.add(Message(text="x", author="nobody"))
    return {}


async def test_a_commit_that_fails_after_the_view_is_a_refusal(config, caplog):
    consumer = declare(config, factory=write_what_cannot_be_committed)
    assert (await shake(config.make_asgi_app()))["status"] == 500
    assert consumer.scopes == []
    assert len(tracebacks(caplog)) == len(caplog.records) == 1
    assert "The handshake of websocket consumer /x " in caplog.text


async def test_a_commit_that_fails_is_refused_with_the_project_s_exception_view(config, caplog):
    config.add_exception_view(lambda request: Response("conflict", status=409))
    consumer = declare(config, factory=write_what_cannot_be_committed)
    sent = await run(config.make_asgi_app(), websocket_scope("/x"), CONNECT)
    assert (sent[0]["status"], body_of(sent)) == (409, b"conflict")
    assert (consumer.scopes, tracebacks(caplog)) == ([], [])


def with_status(response):
    response.status = 503
    return response


@pytest.mark.parametrize(
    "answer", [with_status, lambda response: Response("busy", status=503)], ids=["same", "new"]
)
@pytest.mark.parametrize("protocol", ["websocket", "http"])
async def test_a_tween_that_answers_503_after_the_view_refuses(config, answer, protocol):
    add_tween(config, lambda handler, request: answer(handler(request)))
    consumer = declare(config, protocol)
    assert (await run(config.make_asgi_app(), SCOPES[protocol]("/x"), CONNECT))[0]["status"] == 503
    assert consumer.scopes == []


async def test_a_tween_that_answers_200_itself_refuses_as_well(config):
    add_tween(config, lambda handler, request: Response("maintenance"))
    consumer = declare(config)
    sent = await run(config.make_asgi_app(), websocket_scope("/x"), CONNECT)
    assert (sent[0]["status"], body_of(sent)) == (200, b"maintenance")
    assert consumer.scopes == []


async def test_a_client_cannot_guess_the_mark_that_a_tween_echoes(config):
    def tween(handler, request):
        return Response("echo", headers={TOKEN: request.headers[TOKEN]})

    add_tween(config, tween)
    consumer = declare(config)
    answer = await shake(config.make_asgi_app(), "/x", (TOKEN.lower().encode(), b"a guess"))
    assert (answer["status"], consumer.scopes) == (200, [])
    assert TOKEN.lower().encode() not in dict(answer["headers"])


async def test_a_predicate_that_fails_is_404(config):
    declare(config, request_param="token")
    declare(config, path="/{room}/y", custom=None, traverse="/")
    app = config.make_asgi_app()
    assert (await shake(app))["status"] == 404
    assert (await shake(app, "/x", query_string=b"token=1"))["type"] == "websocket.accept"


class OnTuesday:
    """A route predicate."""

    def __init__(self, value, config):
        self.value = value

    def text(self):
        return f"day = {self.value}"

    phash = text

    def __call__(self, info, request):
        return info["match"]["day"] == self.value and info["route"].name == "tuesday"


async def test_a_route_predicate_that_fails_is_404(config):
    config.add_route_predicate("day", OnTuesday)
    declare(config, path="/days/{day}", day="tuesday", name="tuesday")
    app = config.make_asgi_app()
    assert (await shake(app, "/days/monday"))["status"] == 404
    assert (await shake(app, "/days/tuesday"))["type"] == "websocket.accept"


def no_such_room(request):
    raise HTTPNotFound("no such room")


def broken_room(request):
    raise ValueError("no rooms")


async def test_a_root_factory_that_finds_nothing_is_404(config):
    declare(config, factory=no_such_room)
    sent = await run(config.make_asgi_app(), websocket_scope("/x"), CONNECT)
    assert sent[0]["status"] == 404
    assert b"no such room" in body_of(sent)


@pytest.mark.parametrize("protocol", ["websocket", "http"])
async def test_what_raises_is_500_and_one_traceback(config, caplog, protocol):
    declare(config, protocol, factory=broken_room)
    assert (await run(config.make_asgi_app(), SCOPES[protocol]("/x"), CONNECT))[0]["status"] == 500
    assert len(tracebacks(caplog)) == len(caplog.records) == 1


async def test_what_raises_is_answered_by_the_project_s_exception_view(config, caplog):
    config.add_exception_view(lambda request: Response("sorry", status=502), context=ValueError)
    declare(config, factory=broken_room)
    sent = await run(config.make_asgi_app(), websocket_scope("/x"), CONNECT)
    assert (sent[0]["status"], body_of(sent), caplog.records) == (502, b"sorry", [])


async def test_a_tween_or_policy_that_raises_is_500_and_one_traceback(config, caplog):
    def tween(handler, request):
        raise RuntimeError("tween")

    add_tween(config, tween)
    declare(config)
    assert (await shake(config.make_asgi_app()))["status"] == 500
    assert len(tracebacks(caplog)) == len(caplog.records) == 1


async def test_a_policy_that_raises_is_answered_by_the_exception_view(engine, caplog):
    class Policy:
        def identity(self, request):
            raise ConnectionError("no directory")

        authenticated_userid = identity

    config = Configurator()
    config.set_security_policy(Policy())
    config.add_exception_view(lambda request: Response("down", status=503))
    config.include("pyramid_asgi_consumers")
    declare(config)
    sent = await run(config.make_asgi_app(), websocket_scope("/x"), CONNECT)
    assert (sent[0]["status"], body_of(sent), caplog.records) == (503, b"down", [])


async def test_a_scope_that_no_request_can_be_made_of_is_400(config, caplog):
    consumer = declare(config)
    assert (await shake(config.make_asgi_app(), "/x", (b"content-length", b"x")))["status"] == 400
    assert (consumer.scopes, tracebacks(caplog)) == ([], [])


async def test_a_path_that_is_not_text_is_no_consumer_s(config):
    declare(config, path="/{room}/x")
    scope = websocket_scope("/\ufffd/x", raw_path=b"/%FF/x")
    assert (await run(config.make_asgi_app(), scope, CONNECT))[0]["status"] == 404


async def test_a_head_request_is_refused_like_a_get(config):
    consumer = declare(config, "http", permission="speak", path="/{room}/x", factory=Room)
    app = config.make_asgi_app()
    sent = await run(app, http_scope("/blue/x", "HEAD"))
    assert (sent[0]["status"], body_of(sent), consumer.scopes) == (403, b"", [])
    await run(app, http_scope("/blue/x", "HEAD", headers=[await log_in(app)]))
    assert consumer.scopes[0]["method"] == consumer.scopes[0]["pyramid.request"].method == "HEAD"
