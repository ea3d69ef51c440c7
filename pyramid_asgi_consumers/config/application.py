"""``config.make_asgi_app``: composes the application."""

import asyncio
import logging
import math

from pyramid.exceptions import ConfigurationError
from pyramid.interfaces import IRoutesMapper, ISecurityPolicy
from pyramid.security import NO_PERMISSION_REQUIRED
from pyramid.settings import asbool

from pyramid_asgi_consumers.application import ASGIApplication
from pyramid_asgi_consumers.bridge import WSGIBridge
from pyramid_asgi_consumers.config.handshakes import guard_by_default
from pyramid_asgi_consumers.handshake import Handshakes
from pyramid_asgi_consumers.interfaces import ILifespanFactories
from pyramid_asgi_consumers.lifespan import Lifespan
from pyramid_asgi_consumers.origins import OriginRule
from pyramid_asgi_consumers.threads import check_threads
from pyramid_asgi_consumers.watcher import DEFAULT_LEAVE_TIMEOUT

log = logging.getLogger(__name__)


def make_asgi_app(config, wsgi_app=None):
    """Commit the configuration and return an :class:`.ASGIApplication`.

    ``wsgi_app`` stands in for ``config.make_wsgi_app()``'s: one wrapped in WSGI middleware, say.
    Raises ConfigurationError for a setting that cannot be used, naming it and its value, and in a
    process without real threads.
    """
    try:
        check_threads()
    except RuntimeError as error:
        raise ConfigurationError(f"make_asgi_app: {error}") from None
    # Views go by the default permission that was set last, so do consumers.
    config.commit()
    guard_by_default(config)
    if wsgi_app is None:
        wsgi_app = config.make_wsgi_app()
    else:
        config.commit()
    config.registry.getUtility(IRoutesMapper).served = True
    _warn_of_open_doors(config)
    settings = config.registry.settings
    shutdown_timeout = _number(settings, "asgi.shutdown_timeout", 10, least=0)
    multiprocess = asbool(settings.get("asgi.multiprocess", False))
    bridge = WSGIBridge(
        wsgi_app,
        _number(settings, "asgi.threads", 32),
        max_body_size=_number(settings, "asgi.max_body_size", 2**30),
        shutdown_timeout=shutdown_timeout,
        multiprocess=multiprocess,
        root_path=settings.get("asgi.root_path"),
    )
    handshakes = Handshakes(
        wsgi_app, _number(settings, "asgi.handshake_threads", 8), multiprocess=multiprocess
    )
    try:
        rule = OriginRule(_words(settings, "asgi.origins"), _words(settings, "asgi.hosts"))
    except ValueError as error:
        raise ConfigurationError(f"asgi.origins or asgi.hosts: {error}") from None

    async def drain():
        await asyncio.gather(bridge.drain(), handshakes.drain(shutdown_timeout))

    factories = config.registry.getUtility(ILifespanFactories)
    return ASGIApplication(
        config.registry,
        bridge,
        handshakes,
        Lifespan(config.registry, factories, drain),
        rule,
        _number(settings, "asgi.max_connections", None),
        _seconds(settings, "asgi.leave_timeout", DEFAULT_LEAVE_TIMEOUT),
    )


def _warn_of_open_doors(config):
    # Pyramid lets everybody pass where there is no policy.
    if config.registry.queryUtility(ISecurityPolicy) is not None:
        return
    for entry in config.introspector.get_category("asgi consumers", ()):
        declared = entry["introspectable"]
        permission = declared["permission"]
        if permission is not None and permission != NO_PERMISSION_REQUIRED:
            log.warning(
                "permission=%r of the %s guards nothing: there is no security policy"
                " (config.set_security_policy)",
                permission,
                declared.title,
            )


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


def _seconds(settings, name, default):
    value = settings.get(name, default)
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = 0.0
    # Not even NaN passes.
    if not 0 < number < math.inf:
        raise ConfigurationError(f"{name} must be a number of seconds above 0, not {value!r}")
    return number


def _words(settings, name):
    value = settings.get(name) or ()
    return value.split() if isinstance(value, str) else tuple(value)


def includeme(config):
    config.add_directive("make_asgi_app", make_asgi_app, action_wrap=False)
