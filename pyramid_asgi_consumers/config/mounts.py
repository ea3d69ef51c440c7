"""``config.add_asgi_app``."""

from functools import partial

from pyramid.exceptions import ConfigurationError

from pyramid_asgi_consumers.config.consumers import PROTOCOLS, prefixed
from pyramid_asgi_consumers.config.shapes import EXPECTED, single_callable
from pyramid_asgi_consumers.interfaces import IConsumerMapper
from pyramid_asgi_consumers.mapper import Consumer
from pyramid_asgi_consumers.mounts import Mount


def add_asgi_app(config, prefix, app, *, lifespan=True):
    """Serve a whole ASGI application (FastAPI, Starlette, socket.io, …) under a prefix.

    ``prefix`` is the path, without placeholders, that leads to it: the application gets http
    requests and websockets for the prefix itself and all below it, but for paths that have a
    consumer of their own. The prefix moves to the ``root_path`` of its scopes. ``app`` is an ASGI 3
    or ASGI 2 application, or its dotted name. Where ``lifespan`` is true it is started and stopped
    with the server.

    The origin check applies, and so do ``asgi.max_connections`` and, to websockets,
    ``asgi.max_message`` and ``asgi.max_rate``. Raises ConfigurationError that names the
    argument and its value.
    """
    if not isinstance(prefix, str) or any(character in prefix for character in "{}*:"):
        raise ConfigurationError(
            f"add_asgi_app: prefix must be a path without placeholders, not {prefix!r}"
        )
    path = prefixed(config, prefix).rstrip("/")
    if not path:
        raise ConfigurationError(
            f"add_asgi_app: prefix must have a segment at least, not {prefix!r}: nothing would be"
            " left for Pyramid"
        )
    resolved = config.maybe_dotted(app)
    try:
        mount = Mount(path, single_callable(resolved))
    except TypeError as error:
        raise ConfigurationError(f"add_asgi_app: app must be {EXPECTED}, not {error}") from None
    introspectable = config.introspectable(
        "asgi apps", path, config.object_description(resolved), "asgi app"
    )
    introspectable.update(prefix=path, app=resolved, lifespan=lifespan)
    config.action(("asgi app", path), introspectables=(introspectable,))
    if lifespan:
        config.add_asgi_lifespan(mount.lifespan)
    mapper = config.registry.getUtility(IConsumerMapper)
    for protocol in PROTOCOLS:
        for pattern in (path, path + "/*rest"):
            declared = config.object_description(resolved)
            consumer = Consumer(pattern, protocol, mount, declared, mounted=True)
            config.action(("asgi consumer", protocol, pattern), partial(mapper.add, consumer))


def includeme(config):
    config.add_directive("add_asgi_app", add_asgi_app)
