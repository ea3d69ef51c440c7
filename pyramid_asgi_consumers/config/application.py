"""``config.make_asgi_app``: composes the application."""

from pyramid.exceptions import ConfigurationError
from pyramid.settings import asbool

from pyramid_asgi_consumers.application import ASGIApplication
from pyramid_asgi_consumers.bridge import WSGIBridge
from pyramid_asgi_consumers.interfaces import ILifespanFactories
from pyramid_asgi_consumers.lifespan import Lifespan
from pyramid_asgi_consumers.origins import OriginRule


def make_asgi_app(config, wsgi_app=None):
    """Commit the configuration and return an :class:`.ASGIApplication`.

    ``wsgi_app`` stands in for ``config.make_wsgi_app()``'s: one wrapped in WSGI middleware, say.
    Raises ConfigurationError for a setting that cannot be used, naming it and its value.
    """
    if wsgi_app is None:
        wsgi_app = config.make_wsgi_app()
    else:
        config.commit()
    settings = config.registry.settings
    bridge = WSGIBridge(
        wsgi_app,
        _number(settings, "asgi.threads", 32),
        max_body_size=_number(settings, "asgi.max_body_size", 2**30),
        shutdown_timeout=_number(settings, "asgi.shutdown_timeout", 10, least=0),
        multiprocess=asbool(settings.get("asgi.multiprocess", False)),
        root_path=settings.get("asgi.root_path"),
    )
    try:
        rule = OriginRule(_words(settings, "asgi.origins"), _words(settings, "asgi.hosts"))
    except ValueError as error:
        raise ConfigurationError(f"asgi.origins or asgi.hosts: {error}") from None
    most = _number(settings, "asgi.max_connections", None)
    factories = config.registry.getUtility(ILifespanFactories)
    lifespan = Lifespan(config.registry, factories, bridge.drain)
    return ASGIApplication(config.registry, bridge, lifespan, rule, most)


def _number(settings, name, default, least=1):
    value = settings.get(name, default)
    if value is default:
        return default
    try:
        number = int(value)
    except (TypeError, ValueError):
        number = None
    if number is None or number < least:
        raise ConfigurationError(
            f"{name} must be a whole number of at least {least}, not {value!r}"
        )
    return number


def _words(settings, name):
    value = settings.get(name) or ()
    return value.split() if isinstance(value, str) else tuple(value)


def includeme(config):
    config.add_directive("make_asgi_app", make_asgi_app, action_wrap=False)
