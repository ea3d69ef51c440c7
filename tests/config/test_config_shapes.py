"""Which callables are taken for ASGI applications."""

import functools
import re

import pytest
from asgiref.compatibility import double_to_single_callable
from channels.generic.websocket import WebsocketConsumer
from pyramid.exceptions import ConfigurationError
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint

from pyramid_asgi_consumers.config.shapes import single_callable


async def application(scope, receive, send):
    """An ASGI 3 application."""


async def more(scope, receive, send, database=None):
    """One that has a default."""


@functools.wraps(application)
def wrapper(*args, **kwargs):
    """What a decorator makes of one."""


class Instance:
    async def __call__(self, scope, receive, send):
        """An ASGI 3 application, too."""

    async def method(self, scope, receive, send):
        """Another."""


@pytest.mark.parametrize(
    "app",
    [
        application,
        lambda scope, receive, send: application(scope, receive, send),
        wrapper,
        Instance(),
        Instance().method,
        functools.partial(more, database="x"),
        more,
        Starlette(),
        HTTPEndpoint,
        WebsocketConsumer.as_asgi(),
    ],
)
def test_an_asgi_3_application_is_left_as_it_is(app):
    assert single_callable(app) is app


class Two:
    def __init__(self, scope):
        """The first step."""

    async def __call__(self, receive, send):
        """The second."""


def marked(anything):
    """Said to be one."""


marked._asgi_double = True


@pytest.mark.parametrize(
    "app", [Two, lambda scope: Two(scope), functools.partial(Two), marked, dict]
)
def test_an_asgi_2_application_is_called_in_two_steps(app):
    assert single_callable(app) is not app


def test_what_asgiref_has_made_one_is_left_as_it_is():
    app = double_to_single_callable(Two)
    assert single_callable(app) is app


class View:
    def __init__(self, request):
        """A class of views."""


async def view(request):
    """An async view."""


async def function(websocket):
    """What add_websocket takes."""


async def other(one, two):
    """Neither."""


@pytest.mark.parametrize(
    "app, words",
    [
        (lambda request: None, "which takes (request): a view is declared with add_view"),
        (lambda context, request: None, "takes (context, request): a view is declared with"),
        (View, "test_config_shapes.View'>, which takes (request): a view is declared with"),
        (view, "which takes (request): a view is declared with add_view"),
        (function, "takes (websocket): a function of a websocket is declared with add_websocket"),
        (functools.partial(function), "a function of a websocket is declared with add_websocket"),
        (lambda environ, start_response: [], "a WSGI application is no ASGI application"),
        (other, "function other at .*, which takes (one, two)"),
        (lambda scope, receive, send: None, "which is not async: it returns None"),
        (lambda scope, receive, send: (yield), "which is not async: it returns None"),
        (len, "<built-in function len>, which takes (obj, /)"),
        (lambda: None, "which takes ()"),
        ("tests.config.test_config_shapes.view", "a view is declared with add_view"),
        (None, "None, which cannot be called"),
    ],
)
def test_what_is_no_asgi_application_is_said_to_be_what_it_is(app, words, config):
    words = ".*".join(re.escape(part) for part in words.split(".*"))
    expected = (
        r"^add_asgi_consumer: callable must be an ASGI application, async def app\(scope, receive,"
        r" send\), or its dotted name, not .*"
    )
    with pytest.raises(ConfigurationError, match=expected + words):
        config.add_asgi_consumer("/x", "websocket", app)
