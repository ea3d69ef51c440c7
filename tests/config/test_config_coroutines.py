"""Factories, policies and predicates that are async, which nobody would await."""

import functools
import re

import pytest
from pyramid.authentication import SessionAuthenticationPolicy
from pyramid.authorization import ACLAuthorizationPolicy
from pyramid.config import Configurator
from pyramid.csrf import CookieCSRFStoragePolicy
from pyramid.exceptions import ConfigurationError
from pyramid.httpexceptions import HTTPForbidden
from pyramid.response import Response
from pyramid.security import NO_PERMISSION_REQUIRED

from pyramid_asgi_consumers import run_in_request
from tests.support.asgi import CONNECT, SCOPES, run
from tests.support.handshakes import tracebacks


class Policy:
    """Lets everybody in."""

    def identity(self, request):
        """Nobody."""

    def authenticated_userid(self, request):
        return "ann"

    def permits(self, request, context, permission):
        return True


async def consumer(scope, receive, send):
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
    else:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body"})


async def function(websocket):
    """What add_websocket takes."""


async def forbidding(request):
    raise HTTPForbidden()


async def asking(what, request):
    """Would forbid."""


class Forbidding:
    async def __call__(self, request):
        """Would forbid."""

    async def method(self, request):
        """Would forbid, too."""


ASYNC = [
    forbidding,
    f"{__name__}.forbidding",
    functools.partial(asking, "a"),
    Forbidding(),
    functools.partial(Forbidding()),
    Forbidding().method,
]
ASYNC_IDS = ["function", "dotted name", "partial", "object", "partial of an object", "method"]


@pytest.mark.parametrize("protocol", ["http", "websocket"])
@pytest.mark.parametrize("factory", ASYNC, ids=ASYNC_IDS)
def test_a_consumer_s_factory_is_not_async(config, protocol, factory):
    expected = (
        "^add_asgi_consumer: the factory of '/x' must be def, not async: .*<.*make it def, or do"
        " what is async in the consumer$"
    )
    with pytest.raises(ConfigurationError, match=expected):
        config.add_asgi_consumer("/x", protocol, consumer, factory=factory)


def test_a_function_s_factory_is_not_async(config):
    with pytest.raises(ConfigurationError, match="the factory of '/x' must be def"):
        config.add_websocket("/x", function, factory=forbidding)


@pytest.mark.parametrize("factory", ASYNC, ids=ASYNC_IDS)
def test_the_root_factory_is_not_async(config, factory):
    config.set_root_factory(factory)
    with pytest.raises(ConfigurationError, match="^make_asgi_app: the root factory must be def"):
        config.make_asgi_app()


def test_the_factory_of_a_page_s_route_is_not_async(config):
    config.add_route("page", "/page", factory=forbidding)
    with pytest.raises(ConfigurationError, match="factory of the route 'page' must be def"):
        config.make_asgi_app()


async def answering(self, *args):
    """Would say no."""


def with_async(kind, name):
    """A subclass of ``kind`` whose method ``name`` is async."""
    return type(kind.__name__, (kind,), {name: answering})


@pytest.mark.parametrize("name", ["permits", "identity", "authenticated_userid"])
def test_the_methods_of_the_security_policy_are_not_async(config, name):
    config.set_security_policy(with_async(Policy, name)())
    with pytest.raises(ConfigurationError, match=f"^make_asgi_app: {name} of <.*Policy object"):
        config.make_asgi_app()


def test_a_security_policy_by_its_dotted_name_is_looked_at(config):
    config.set_security_policy(f"{__name__}.DOTTED")
    with pytest.raises(ConfigurationError, match="permits of <.*Policy object"):
        config.make_asgi_app()


DOTTED = with_async(Policy, "permits")()


@pytest.mark.parametrize(
    ("authentication", "authorization", "name"),
    [
        (
            with_async(SessionAuthenticationPolicy, "effective_principals"),
            ACLAuthorizationPolicy,
            "effective_principals of <.*SessionAuthenticationPolicy",
        ),
        (
            SessionAuthenticationPolicy,
            with_async(ACLAuthorizationPolicy, "permits"),
            "permits of <.*ACLAuthorizationPolicy",
        ),
    ],
    ids=["authentication", "authorization"],
)
@pytest.mark.filterwarnings("ignore:Authentication and authorization policies:DeprecationWarning")
def test_policies_of_pyramid_1_are_not_async(config, authentication, authorization, name):
    config.set_authentication_policy(authentication())
    config.set_authorization_policy(authorization())
    with pytest.raises(ConfigurationError, match=f"^make_asgi_app: {name}"):
        config.make_asgi_app()


def test_the_check_of_csrf_tokens_is_not_async(config):
    config.set_csrf_storage_policy(with_async(CookieCSRFStoragePolicy, "check_csrf_token")())
    with pytest.raises(ConfigurationError, match="^make_asgi_app: check_csrf_token of <"):
        config.make_asgi_app()


class Predicate:
    """Has as much of a predicate as is looked at."""

    async def __call__(self, *args):
        """Would say no."""


@pytest.mark.parametrize("kind", ["route", "view"])
def test_a_predicate_is_not_async(config, kind):
    getattr(config, f"add_{kind}_predicate")("closed", Predicate)
    expected = f"^make_asgi_app: the {kind} predicate closed must be def"
    with pytest.raises(ConfigurationError, match=expected):
        config.make_asgi_app()


def test_what_makes_a_predicate_may_be_a_function(config):
    def made(value, config):
        """Is called where the predicate is used."""

    config.add_view_predicate("made", made)
    assert config.make_asgi_app()


@functools.wraps(forbidding)
def running(request):
    """Runs what it wraps, as asgiref.sync.async_to_sync does."""
    coroutine = forbidding(request)
    with pytest.raises(HTTPForbidden):
        coroutine.send(None)
    return {}


class Root:
    def __init__(self, request):
        """The instance is the root; nobody calls it."""

    __call__ = forbidding


def events(protocol):
    return [CONNECT] if protocol == "websocket" else []


@pytest.mark.parametrize("factory", [running, Root, lambda request: {}])
@pytest.mark.parametrize("protocol", ["http", "websocket"])
async def test_a_factory_that_is_not_async_is_taken(config, factory, protocol):
    config.set_root_factory(factory)
    config.set_security_policy(Policy())
    config.add_asgi_consumer("/x", protocol, consumer, factory=factory, permission="x")
    sent = await run(config.make_asgi_app(), SCOPES[protocol]("/x"), *events(protocol))
    assert sent[0] in (
        {"type": "websocket.accept"},
        {"type": "http.response.start", "status": 200, "headers": []},
    )


# What no look at it tells.


class Later:
    """Awaitable, and no coroutine."""

    def __await__(self):
        """Whatever."""


@pytest.mark.parametrize(
    "factory",
    [lambda request: forbidding(request), lambda request: Later()],
    ids=["coroutine", "another awaitable"],
)
@pytest.mark.parametrize("of", ["consumer", "root"])
@pytest.mark.parametrize("protocol", ["http", "websocket"])
async def test_a_context_to_await_is_an_error_in_a_handshake(config, caplog, factory, of, protocol):
    config.set_security_policy(Policy())
    arguments = {"factory": factory} if of == "consumer" else {}
    if of == "root":
        config.set_root_factory(factory)
    config.add_asgi_consumer("/x", protocol, consumer, permission="x", **arguments)
    sent = await run(config.make_asgi_app(), SCOPES[protocol]("/x"), *events(protocol))
    assert sent[0]["status"] == 500
    assert len(tracebacks(caplog)) == 1
    assert re.search("The context must not be awaitable: <.*make its factory def", caplog.text)


async def test_a_context_to_await_is_an_error_of_run_in_request(config):
    config.set_root_factory(lambda request: forbidding(request))
    config.make_asgi_app()
    with pytest.raises(TypeError, match="The context must not be awaitable"):
        await run_in_request(config.registry, lambda request: None)


async def test_a_page_and_its_factory_stay_as_they_are():
    config = Configurator(root_factory=lambda request: {"a": 1})
    config.include("pyramid_asgi_consumers")
    config.add_route("page", "/page", factory=lambda request: {"a": 2})
    config.add_view(
        lambda context, request: Response(repr(context)),
        route_name="page",
        permission=NO_PERMISSION_REQUIRED,
    )
    sent = await run(config.make_asgi_app(), SCOPES["http"]("/page"))
    assert sent[1]["body"] == b"{'a': 2}"
