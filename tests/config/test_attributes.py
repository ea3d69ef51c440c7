"""Attributes of Pyramid's request that cost a request next to nothing until they are used."""

import gc
import weakref

import pytest
from pyramid.config import Configurator
from pyramid.exceptions import ConfigurationConflictError
from pyramid.request import Request, apply_request_extensions
from pyramid.response import Response
from pyramid.testing import DummyRequest
from zope.interface import Interface

from pyramid_asgi_consumers.attributes import RequestAttributes
from pyramid_asgi_consumers.channels.faces import RequestChannels


class Greeter:
    """Greets."""

    def __init__(self, request):
        self.request = request


@pytest.fixture
def registry():
    attributes = RequestAttributes()
    attributes.add("greeter", Greeter)
    config = Configurator()
    config.add_request_method(attributes, "__class__")
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


class TestRequestAttributes:
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
        attributes = RequestAttributes()
        attributes.add("greeter", Greeter)
        attributes.add("other", id)
        config = Configurator()
        config.add_request_method(lambda request: "before", "before")
        config.add_request_method(attributes, "__class__")
        config.add_request_method(lambda request: "lazy", "lazy", reify=True)
        config.commit()
        request = extended(config.registry, Request.blank("/"))
        assert (request.before(), request.lazy) == ("before", "lazy")
        assert request.greeter.request is request
        assert request.other == id(request)

    def test_an_attribute_that_is_added_later_is_there(self):
        attributes = RequestAttributes()
        assert attributes.__get__(None, Request) is Request
        attributes.add("greeter", Greeter)
        first = attributes.__get__(None, Request)
        attributes.add("other", id)
        assert {"greeter", "other"} <= set(dir(attributes.__get__(None, first)))

    def test_classes_made_for_one_request_are_not_kept(self, registry):
        kinds = []
        for _ in range(100):
            request = Request.blank("/")
            request.set_property(lambda request: 1, "one")
            extended(registry, request)
            registry.queryAdapter(request, Interface)
            kinds.append(weakref.ref(type(request)))
        del request
        gc.collect()
        assert sum(kind() is not None for kind in kinds) < 50

    def test_its_documentation_is_that_of_its_value(self, registry):
        request = extended(registry, Request.blank("/"))
        assert type(request).greeter.__doc__ == "Greets."


def test_a_request_does_not_wait_for_the_garbage_collector(config):
    requests = []

    def view(request):
        requests.append(weakref.ref(request))
        return Response("ok")

    config.add_route("home", "/")
    config.add_view(view, route_name="home")
    app = config.make_wsgi_app()
    gc.disable()
    try:
        assert Request.blank("/").get_response(app).body == b"ok"
        assert requests[0]() is None
    finally:
        gc.enable()


def test_the_request_has_its_channels_and_urls(config):
    config.commit()
    request = extended(config.registry, Request.blank("/"))
    assert request.websocket_url.__self__ is request
    assert isinstance(request.channels, RequestChannels)
    found = config.introspector.get_category("request extensions")
    names = {each["introspectable"].discriminator for each in found}
    assert names == {"__class__", "channels", "websocket_url"}


@pytest.mark.parametrize("kind", [{}, {"property": True}, {"reify": True}])
@pytest.mark.parametrize("first", [True, False])
def test_an_applications_own_attribute_of_the_name_wins(kind, first):
    def own(request):
        return "own"

    config = Configurator()
    if first:
        config.add_request_method(own, "channels", **kind)
    config.include("pyramid_asgi_consumers")
    if not first:
        config.add_request_method(own, "channels", **kind)
    config.commit()
    request = extended(config.registry, Request.blank("/"))
    assert (request.channels if kind else request.channels()) == "own"
    assert request.websocket_url.__self__ is request


def test_two_add_ons_with_one_name_conflict(config):
    config.include(lambda config: config.add_request_method(id, "channels"))
    with pytest.raises(ConfigurationConflictError, match="channels"):
        config.commit()
