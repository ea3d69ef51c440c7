"""``config.add_asgi_consumer`` and its decorator."""

import inspect
import re

import venusian
from asgiref.compatibility import guarantee_single_callable
from pyramid.exceptions import ConfigurationError

from pyramid_asgi_consumers.interfaces import IConsumerMapper
from pyramid_asgi_consumers.mapper import Consumer, ConsumerMapper
from pyramid_asgi_consumers.origins import OriginRule

PROTOCOLS = ("websocket", "http")


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
    **predicates,
):
    """Declare an ASGI application for a path.

    ``path`` is a pattern in the grammar of Pyramid's routes. Of two that match, the more specific
    wins. ``protocol`` is ``"websocket"`` or ``"http"``. ``callable`` is an ASGI 3 or ASGI 2
    application, or its dotted name. ``origins`` are those that may open the websocket besides the
    application's own. ``max_connections`` is how many may be open at once, in one process.

    ``name``, ``permission``, ``factory`` and predicates are not available yet.

    Raises ConfigurationError that names the argument and its value.
    """

    def wrong(argument, expected, value):
        return ConfigurationError(
            f"add_asgi_consumer: {argument} must be {expected}, not {value!r}"
        )

    unavailable = {"name": name, "permission": permission, "factory": factory, **predicates}
    for argument, value in unavailable.items():
        if value is not None or argument in predicates:
            raise ConfigurationError(
                f"add_asgi_consumer: {argument}={value!r} is not available: consumers have no"
                " Pyramid request yet"
            )
    if not isinstance(path, str):
        raise wrong("path", "a str", path)
    if protocol not in PROTOCOLS:
        raise wrong("protocol", '"websocket" or "http"', protocol)
    app = config.maybe_dotted(callable)
    if not hasattr(app, "__call__"):  # noqa: B004 (the argument shadows callable())
        raise wrong("callable", "an ASGI application or its dotted name", callable)
    if isinstance(origins, str):
        origins = origins.split()
    try:
        OriginRule(origins or ())
    except (ValueError, TypeError, AttributeError) as error:
        raise wrong("origins", f"a list of origins ({error})", origins) from None
    if max_connections is not None and (type(max_connections) is not int or max_connections < 1):
        raise wrong("max_connections", "a positive int or None", max_connections)
    pattern = prefixed(config, path)
    try:
        consumer = Consumer(
            pattern,
            protocol,
            single_callable(app),
            config.object_description(app),
            tuple(origins or ()),
            max_connections,
        )
    except (re.error, ValueError) as error:
        raise wrong("path", f"a pattern ({error})", path) from None

    discriminator = ("asgi consumer", protocol, pattern)
    introspectable = config.introspectable(
        "asgi consumers", discriminator, str(consumer), "asgi consumer"
    )
    introspectable.update(
        path=pattern,
        protocol=protocol,
        callable=app,
        origins=consumer.origins,
        max_connections=max_connections,
    )

    def register():
        config.registry.getUtility(IConsumerMapper).add(consumer)

    config.action(discriminator, register, introspectables=(introspectable,))


def prefixed(config, path):
    """``path`` below the route prefix of ``config``, with one slash before it."""
    prefix = (config.route_prefix or "").strip("/")
    return ("/" + prefix if prefix else "") + "/" + path.lstrip("/")


def single_callable(app):
    """``app`` as an ASGI 3 application; an ASGI 2 one is called in its two steps."""
    # asgiref takes classes, and functions that are not async, for ASGI 2: but Starlette's
    # endpoints are classes that take all three arguments, and a function may return a coroutine.
    try:
        parameters = inspect.signature(app).parameters.values()
    except (TypeError, ValueError):
        parameters = ()
    positional = [one for one in parameters if one.kind <= one.POSITIONAL_OR_KEYWORD]
    return app if len(positional) >= 3 else guarantee_single_callable(app)


class asgi_consumer_config:
    """Declare the decorated ASGI application with :func:`add_asgi_consumer`.

    Takes the same arguments but ``callable``; found by ``config.scan()``.
    """

    def __init__(self, path, protocol, _depth=0, _category="pyramid", **settings):
        self.path = path
        self.protocol = protocol
        self.depth = _depth
        self.category = _category
        self.settings = settings

    def __call__(self, wrapped):
        def callback(context, name, ob):
            config = context.config.with_package(info.module)
            config.add_asgi_consumer(self.path, self.protocol, ob, **self.settings, _info=codeinfo)

        info = venusian.attach(wrapped, callback, category=self.category, depth=self.depth + 1)
        codeinfo = info.codeinfo
        return wrapped


def includeme(config):
    config.registry.registerUtility(ConsumerMapper(), IConsumerMapper)
    config.add_directive("add_asgi_consumer", add_asgi_consumer)
