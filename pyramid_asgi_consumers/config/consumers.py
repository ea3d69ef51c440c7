"""``config.add_asgi_consumer``, ``add_websocket``, ``add_event_stream`` and their decorators."""

import builtins
import functools
import inspect
import re
from typing import Any, TypeVar

import venusian
from pyramid.config import Configurator
from pyramid.exceptions import ConfigurationError

from pyramid_asgi_consumers.config.handshakes import NOT_PREDICATES, Guard, add_guard
from pyramid_asgi_consumers.config.settings import EXPECTED_SECONDS, are_seconds
from pyramid_asgi_consumers.config.shapes import (
    EXPECTED,
    is_coroutine_function,
    meant,
    single_callable,
)
from pyramid_asgi_consumers.connection.limits import EXPECTED_RATE, read_rate
from pyramid_asgi_consumers.events.function import EventStreamFunction
from pyramid_asgi_consumers.handshake.origins import OriginRule
from pyramid_asgi_consumers.interfaces import IConsumerMapper
from pyramid_asgi_consumers.mapper import Consumer, ConsumerMapper
from pyramid_asgi_consumers.websocket.face import WebSocketFunction

PROTOCOLS = ("websocket", "http")

Wrapped = TypeVar("Wrapped")


def add_asgi_consumer(
    config,
    path,
    protocol,
    callable,
    *,
    name=None,
    permission=None,
    factory=None,
    origins=None,
    max_connections=None,
    max_message=None,
    max_rate=None,
    max_connections_per_user=None,
    revalidate=None,
    **predicates,
):
    """Declare an ASGI application for a path.

    ``path`` is a pattern in the grammar of Pyramid's routes. Of two that match, the more specific
    wins. ``protocol`` is ``"websocket"`` or ``"http"``. ``callable`` is an ASGI 3 or ASGI 2
    application, or its dotted name. ``origins`` are those that may open the websocket besides the
    application's own; an http consumer has none. ``max_connections`` is how many may be open at
    once, in one process.

    ``max_message`` is how many bytes a message of a websocket's client may have, text in UTF-8;
    beyond, the websocket is closed with 1009 (RFC 6455 section 7.4.1). ``max_rate`` is how many may
    come in a time, ``"100/10s"`` (s, m or h): who sends no more is never closed, who sends twice as
    many in it always, with 1008. A consumer that goes on is cancelled after the seconds of
    ``asgi.leave_timeout``. ``max_connections_per_user`` is how many connections to a guarded
    consumer one user may have, in one process; beyond, the handshake is answered with 503. Users
    that have not logged in have any number. None is what the setting says that has the argument's
    name (``asgi.max_message``); a consumer's own number may be larger.

    ``revalidate`` is every how many seconds, a tenth more or less, the handshake of a guarded
    consumer is repeated for each connection: the same request, with the cookies as
    ``run_in_request`` calls have left them. A connection whose handshake would be refused now is
    closed with 4000 and the status of the refusal (4403), one that would be another user's with
    4401; an event stream ends, and another http consumer is cancelled. Where a handshake cannot be
    repeated (5xx, or an error) the connection stays, and it is tried again. What such a request
    sets is dropped, and its environ has ``asgi.revalidation``. None is what ``asgi.revalidate``
    says.

    With any of the following, or where the application has a default permission, the consumer is
    guarded: its handshake is a Pyramid request, for which a route and a view are added that no
    other request reaches. ``name`` is the route's, for URLs; ``permission`` is the view's
    (``NO_PERMISSION_REQUIRED`` lets everybody in, with a request); ``factory`` is the route's root
    factory; ``predicates`` are route or view predicates and view options.

    Raises ConfigurationError that names the argument and its value.
    """

    is_function = isinstance(callable, WebSocketFunction | EventStreamFunction)
    directive = callable.directive if is_function else "add_asgi_consumer"

    def wrong(argument, expected, value):
        return ConfigurationError(f"{directive}: {argument} must be {expected}, not {value!r}")

    if not isinstance(path, str):
        raise wrong("path", "a str", path)
    if protocol not in PROTOCOLS:
        raise wrong("protocol", '"websocket" or "http"', protocol)
    app = config.maybe_dotted(callable)
    try:
        single = single_callable(app)
    except TypeError as error:
        raise ConfigurationError(
            f"add_asgi_consumer: callable must be {EXPECTED}, not {error}"
        ) from None
    shown = app.func if is_function else app
    if origins is not None and protocol == "http":
        raise ConfigurationError(
            f"{directive}: origins={origins!r} is for websockets only, and protocol is"
            " 'http': there CORS headers say who reads the answer, and require_csrf guards a POST"
        )
    given = origins
    if isinstance(origins, str):
        origins = origins.split()
    try:
        OriginRule(origins or ())
    except (ValueError, TypeError, AttributeError) as error:
        what = "the str " if isinstance(given, str) else ""
        raise ConfigurationError(
            f"{directive}: origins must be a list of origins ({error}), not {what}{given!r}"
        ) from None
    if name is not None and not (isinstance(name, str) and name):
        raise wrong("name", "a route name or None", name)
    factory = config.maybe_dotted(factory)
    if factory is not None and not builtins.callable(factory):
        raise wrong("factory", "a root factory, its dotted name or None", factory)
    if is_coroutine_function(factory):
        raise ConfigurationError(
            f"{directive}: the factory of {path!r} must be def, not async: {factory!r}."
            " Nobody awaits what it returns, so it would check nothing: make it def, or do what is"
            " async in the consumer"
        )
    for argument in sorted(predicates.keys() & NOT_PREDICATES):
        instead = f": {callable.sends_json} sends JSON" if is_function else ""
        raise ConfigurationError(
            f"{directive}: {argument}={predicates[argument]!r} is not for a consumer to set"
            + (instead if argument == "renderer" else "")
        )
    numbers = {
        "max_connections": max_connections,
        "max_message": max_message,
        "max_connections_per_user": max_connections_per_user,
    }
    for argument, value in numbers.items():
        if value is not None and (type(value) is not int or value < 1):
            raise wrong(argument, "a positive int or None", value)
    if revalidate is not None and (
        type(revalidate) not in (int, float) or not are_seconds(revalidate)
    ):
        raise wrong("revalidate", f"{EXPECTED_SECONDS}, or None", revalidate)
    try:
        rate = None if max_rate is None else read_rate(max_rate)
    except ValueError:
        raise wrong("max_rate", f"{EXPECTED_RATE}; or None", max_rate) from None
    for argument, value in {"max_message": max_message, "max_rate": max_rate}.items():
        if value is not None and protocol == "http":
            raise ConfigurationError(
                f"{directive}: {argument}={value!r} is for websockets only, and protocol is 'http'"
            )
    pattern = prefixed(config, path)
    try:
        consumer = Consumer(
            pattern,
            protocol,
            single,
            config.object_description(shown),
            tuple(origins or ()),
            max_connections,
            max_message,
            rate,
            max_connections_per_user,
            revalidate,
            methods=getattr(single, "methods", None) if is_function else None,
        )
    except (re.error, ValueError, OverflowError) as error:
        raise wrong("path", f"a pattern ({error})", path) from None

    discriminator = ("asgi consumer", protocol, pattern)
    introspectable = config.introspectable(
        "asgi consumers", discriminator, str(consumer), "asgi consumer"
    )
    introspectable.update(
        path=pattern,
        protocol=protocol,
        callable=shown,
        name=name,
        permission=permission,
        factory=factory,
        origins=consumer.origins,
        max_connections=max_connections,
        max_message=max_message,
        max_rate=max_rate,
        max_connections_per_user=max_connections_per_user,
        revalidate=revalidate,
        predicates=predicates,
    )
    guard = Guard(config, consumer, introspectable, name, permission, factory, predicates)
    add_guard(config, guard, discriminator)


def add_websocket(config, path, func, **arguments):
    """Declare ``async def func(websocket)`` for a path.

    ``func`` is an async function, another callable that returns an awaitable, or a dotted name of
    one; it is called with a :class:`.WebSocket`. ``path`` and ``arguments`` are those of
    :func:`.add_asgi_consumer`.

    When ``func`` returns, the websocket is closed. When the client leaves while ``func`` does not
    receive, ``func`` is cancelled.

    Raises ConfigurationError that names the argument and its value.
    """
    add_function(config, WebSocketFunction, path, func, **arguments)


def add_event_stream(config, path, func, **arguments):
    """Declare ``async def func(stream)`` for GET at a path.

    ``func`` is an async function, another callable that returns an awaitable, or a dotted name of
    one; it is called with an :class:`.EventStream`. ``path`` and ``arguments`` are those of
    :func:`.add_asgi_consumer`, but that there are no ``origins``. HEAD gets the headers without
    ``func``; requests with other methods are Pyramid's, as if the path were not declared.

    When ``func`` returns the stream ends, and ``EventSource`` comes again in some seconds; where it
    returns before it has sent anything the answer is 204, and it does not. When the client leaves,
    or the server stops, ``func`` is cancelled.

    Raises ConfigurationError that names the argument and its value.
    """
    add_function(config, EventStreamFunction, path, func, **arguments)


def add_function(config, kind, path, func, **arguments):
    """Declare the consumer that ``kind`` makes of the async function ``func``."""
    directive, taken = kind.directive, kind.takes
    if not isinstance(path, str):
        swapped = ": the path comes first, then the function" if callable(path) else ""
        raise ConfigurationError(f"{directive}: path must be a str, not {path!r}{swapped}")
    resolved = config.maybe_dotted(func)
    problem = None
    if not callable(resolved) or inspect.isclass(resolved):
        problem = "an async function of one argument, or its dotted name"
    elif inspect.isasyncgenfunction(resolved):
        problem = f"without a yield: what it has, it sends (await {taken}.send())"
    elif _is_plain_function(resolved):
        problem = f"async (async def func({taken}))"
    elif not _takes_one_argument(resolved):
        problem = f"a function of one argument, the {taken}"
    if problem is not None:
        raise ConfigurationError(
            f"{directive}: func must be {problem}, not {func!r}{meant(resolved, directive)}"
        )
    app = kind(resolved, config.object_description(resolved))
    config.add_asgi_consumer(path, kind.protocol, app, **arguments)


def _is_plain_function(func):
    while isinstance(func, functools.partial):
        func = func.func
    if not inspect.isroutine(func):
        return False
    return not inspect.iscoroutinefunction(inspect.unwrap(func))


def _takes_one_argument(func):
    try:
        inspect.signature(func).bind(None)
    except (TypeError, ValueError):
        return False
    return True


def prefixed(config, path):
    """``path`` below the route prefix of ``config``, with one slash before it."""
    prefix = (config.route_prefix or "").strip("/")
    return ("/" + prefix if prefix else "") + "/" + path.lstrip("/")


class asgi_consumer_config:
    """Declare the decorated ASGI application with :func:`.add_asgi_consumer`.

    Takes the same arguments but ``callable``; found by ``config.scan()``. Raises TypeError where
    ``path`` is no str, as where the parentheses were forgotten.
    """

    #: What is to stand in the parentheses.
    takes = "path, protocol"

    def __init__(
        self,
        path: str,
        protocol: str,
        _depth: int = 0,
        _category: str = "pyramid",
        **settings: Any,
    ) -> None:
        # It is the function itself where the parentheses were forgotten.
        if not isinstance(path, str):
            raise TypeError(
                f"@{type(self).__name__}({self.takes}): path must be a str, not {path!r}"
            )
        self.path = path
        self.protocol = protocol
        self.depth = _depth
        self.category = _category
        self.settings = settings

    def __call__(self, wrapped: Wrapped) -> Wrapped:
        def callback(context: Any, name: str, ob: Any) -> None:
            config = context.config.with_package(info.module)
            self.declare(config, ob, **self.settings, _info=codeinfo)

        info = venusian.attach(wrapped, callback, category=self.category, depth=self.depth + 1)
        codeinfo = info.codeinfo
        return wrapped

    def declare(self, config: Configurator, ob: Any, **arguments: Any) -> None:
        """Declare ``ob``, which was decorated: the scan calls this."""
        config.add_asgi_consumer(self.path, self.protocol, ob, **arguments)


class websocket_config(asgi_consumer_config):
    """Declare the decorated ``async def func(websocket)`` with :func:`.add_websocket`.

    Takes the same arguments but ``func``; found by ``config.scan()``. Raises TypeError where
    ``path`` is no str, as where the parentheses were forgotten.
    """

    takes = "path"

    def __init__(
        self, path: str, _depth: int = 0, _category: str = "pyramid", **settings: Any
    ) -> None:
        super().__init__(path, "websocket", _depth, _category, **settings)

    def declare(self, config: Configurator, ob: Any, **arguments: Any) -> None:
        config.add_websocket(self.path, ob, **arguments)


class event_stream_config(websocket_config):
    """Declare the decorated ``async def func(stream)`` with :func:`.add_event_stream`.

    Takes the same arguments but ``func``; found by ``config.scan()``. Raises TypeError where
    ``path`` is no str, as where the parentheses were forgotten.
    """

    def __init__(
        self, path: str, _depth: int = 0, _category: str = "pyramid", **settings: Any
    ) -> None:
        super().__init__(path, _depth, _category, **settings)

    def declare(self, config: Configurator, ob: Any, **arguments: Any) -> None:
        config.add_event_stream(self.path, ob, **arguments)


def includeme(config):
    config.registry.registerUtility(ConsumerMapper(), IConsumerMapper)
    config.add_directive("add_asgi_consumer", add_asgi_consumer)
    config.add_directive("add_websocket", add_websocket)
    config.add_directive("add_event_stream", add_event_stream)
