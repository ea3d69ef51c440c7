from pyramid_asgi_consumers.mapper import Consumer, ConsumerMapper


async def app(scope, receive, send):
    raise NotImplementedError


def test_a_consumer_that_is_declared_again_replaces_the_first():
    mapper = ConsumerMapper()
    for name in ("first", "second"):
        mapper.add(Consumer("/ws/{id}", "websocket", app, name))
        consumer, path_params = mapper("websocket", "/ws/1")
        assert (consumer.declared, path_params) == (name, {"id": "1"})
    assert len(list(mapper)) == 1


def test_nothing_is_found_for_another_protocol_or_path():
    mapper = ConsumerMapper()
    mapper.add(Consumer("/ws", "websocket", app, "it"))
    assert mapper("http", "/ws") is None
    assert mapper("websocket", "/w") is None
    assert mapper("websocket", "") is None
