"""Attributes of Pyramid's request that cost a request nothing until they are used."""

import gc
import weakref

import pytest
from pyramid.config import Configurator
from pyramid.request import Request, apply_request_extensions
from pyramid.response import Response
from pyramid.testing import DummyRequest

from pyramid_asgi_consumers.attributes import RequestAttribute
from pyramid_asgi_consumers.channels.faces import RequestChannels


class Greeter:
    """Greets."""

    def __init__(self, request):
        self.request = request


@pytest.fixture
def registry():
    config = Configurator()
    config.add_request_method(RequestAttribute("greeter", Greeter), "greeter")
    config.commit()
    return config.registry


def extended(registry, request):
    request.registry = registry
    apply_request_extensions(request)
    return request


@pytest.fixture(params=[Request, DummyRequest, type("MyRequest", (Request,), {})])
def request_class(request):
    return request.param


def blank(request_class):
    return request_class() if request_class is DummyRequest else request_class.blank("/")


class TestRequestAttribute:
    def test_it_is_made_of_the_request_when_it_is_asked_for(self, registry, request_class):
        request = extended(registry, blank(request_class))
        assert request.greeter.request is request
        assert isinstance(request, request_class)
        assert type(request).__name__ == request_class.__name__
        assert type(request).__module__ == request_class.__module__

    def test_requests_of_one_class_share_one_class(self, registry, request_class):
        first = extended(registry, blank(request_class))
        assert type(extended(registry, blank(request_class))) is type(first)

    def test_other_requests_have_none(self, registry, request_class):
        extended(registry, blank(request_class))
        assert not hasattr(blank(request_class), "greeter")

    def test_a_request_that_is_extended_again_stays_as_it_is(self, registry, request_class):
        request = extended(registry, blank(request_class))
        kind = type(request)
        request.greeter = "mine"
        extended(registry, request)
        assert type(request) is kind
        assert request.greeter == "mine"

    def test_a_value_can_be_assigned_and_taken_back(self, registry, request_class):
        request = extended(registry, blank(request_class))
        request.greeter = None
        assert request.greeter is None
        del request.greeter
        assert isinstance(request.greeter, Greeter)
        with pytest.raises(AttributeError, match="greeter"):
            del request.greeter

    def test_a_copy_has_one_of_its_own(self, registry):
        request = extended(registry, Request.blank("/"))
        copy = request.copy()
        assert copy.greeter.request is copy

    def test_it_stands_beside_pyramids_own_properties_and_methods(self):
        config = Configurator()
        config.add_request_method(lambda request: "before", "before")
        config.add_request_method(RequestAttribute("greeter", Greeter), "greeter")
        config.add_request_method(lambda request: "lazy", "lazy", reify=True)
        config.add_request_method(RequestAttribute("other", id), "other")
        config.commit()
        request = extended(config.registry, Request.blank("/"))
        assert (request.before(), request.lazy) == ("before", "lazy")
        assert request.greeter.request is request
        assert request.other == id(request)

    def test_classes_made_for_one_request_are_not_kept(self, registry):
        kinds = []
        for _ in range(100):
            request = Request.blank("/")
            request.set_property(lambda request: 1, "one")
            extended(registry, request)
            kinds.append(weakref.ref(type(request)))
        del request
        gc.collect()
        assert sum(kind() is not None for kind in kinds) < 50

    def test_its_documentation_is_that_of_its_value(self, registry):
        request = extended(registry, Request.blank("/"))
        assert type(request).greeter.__doc__ == "Greets."


def test_a_request_leaves_nothing_to_the_garbage_collector():
    config = Configurator()
    config.include("pyramid_asgi_consumers")
    config.add_route("home", "/")
    config.add_view(lambda request: Response("ok"), route_name="home")
    app = config.make_wsgi_app()
    assert Request.blank("/").get_response(app).body == b"ok"
    gc.collect()
    gc.disable()
    try:
        for _ in range(10):
            Request.blank("/").get_response(app)
        assert gc.collect() == 0
    finally:
        gc.enable()


def test_the_request_has_its_channels_and_urls():
    config = Configurator()
    config.include("pyramid_asgi_consumers")
    config.commit()
    request = extended(config.registry, Request.blank("/"))
    assert request.websocket_url.__self__ is request
    assert isinstance(request.channels, RequestChannels)
    found = config.introspector.get_category("request extensions")
    assert {each["introspectable"].discriminator for each in found} == {"channels", "websocket_url"}
