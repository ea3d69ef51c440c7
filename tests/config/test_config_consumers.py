import pytest
from pyramid.exceptions import ConfigurationError

from pyramid_asgi_consumers import asgi_consumer_config
from pyramid_asgi_consumers.interfaces import IConsumerMapper
from tests.support.asgi import body_of, http_scope, run


@asgi_consumer_config("/first", "http")
@asgi_consumer_config("/second/{id}", "http")
async def decorated(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": repr(scope["path_params"]).encode()})


async def test_decorators_are_found_by_a_scan_and_can_be_stacked(config):
    config.scan(__name__)
    app = config.make_asgi_app()
    assert body_of(await run(app, http_scope("/first"))) == b"{}"
    assert body_of(await run(app, http_scope("/second/2"))) == b"{'id': '2'}"


def test_a_decorator_refuses_origins_of_an_http_consumer(config):
    decorator = asgi_consumer_config("/x", "http", origins="https://a.test")
    with pytest.raises(ConfigurationError, match="origins='https://a.test' is for websockets only"):
        decorator.declare(config, decorated, **decorator.settings)


async def test_a_dotted_name_and_a_route_prefix_are_honoured(config):
    def chat(config):
        config.add_asgi_consumer("/{id}", "http", f"{__name__}.decorated")

    config.include(chat, route_prefix="/chat")
    app = config.make_asgi_app()
    assert body_of(await run(app, http_scope("/chat/5"))) == b"{'id': '5'}"


def test_a_consumer_leaves_an_introspectable(config):
    config.add_asgi_consumer("/ws", "websocket", decorated)
    config.commit()
    (entry,) = config.introspector.get_category("asgi consumers")
    found = entry["introspectable"]
    assert (found["path"], found["protocol"], found["callable"]) == ("/ws", "websocket", decorated)


async def test_an_asgi_2_application_is_served(config):
    class Two:
        def __init__(self, scope):
            self.scope = scope

        async def __call__(self, receive, send):
            await decorated(self.scope, receive, send)

    config.add_asgi_consumer("/two", "http", Two)
    assert body_of(await run(config.make_asgi_app(), http_scope("/two"))) == b"{}"


def test_a_class_without_a_signature_is_taken_for_asgi_2(config):
    # Python cannot tell what dict takes.
    config.add_asgi_consumer("/x", "websocket", dict, origins="https://a.test https://b.test")
    config.commit()
    (consumer,) = config.registry.getUtility(IConsumerMapper)
    assert consumer.app is not dict
    assert consumer.origins == ("https://a.test", "https://b.test")
