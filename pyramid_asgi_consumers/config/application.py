"""``config.make_asgi_app``: composes the application."""

import asyncio
import logging
import os
import sys

from pyramid.exceptions import ConfigurationError
from pyramid.interfaces import IRoutesMapper, ISecurityPolicy, ITweens
from pyramid.security import NO_PERMISSION_REQUIRED

from pyramid_asgi_consumers import quirks
from pyramid_asgi_consumers.application import ASGIApplication
from pyramid_asgi_consumers.channels import channels_of
from pyramid_asgi_consumers.channels.memory import MemoryBackend
from pyramid_asgi_consumers.config.coroutines import refuse_coroutine_functions
from pyramid_asgi_consumers.config.handshakes import guard_by_default
from pyramid_asgi_consumers.config.processes import workers
from pyramid_asgi_consumers.config.settings import check_names, read_setting
from pyramid_asgi_consumers.connection.limits import Limits
from pyramid_asgi_consumers.connection.revalidation import Revalidation
from pyramid_asgi_consumers.connection.users import Connections
from pyramid_asgi_consumers.events.function import EventStreams
from pyramid_asgi_consumers.handshake.handshakes import Handshakes
from pyramid_asgi_consumers.handshake.origins import OriginRule
from pyramid_asgi_consumers.interfaces import (
    IConsumerMapper,
    IEventStreams,
    IHandshakes,
    ILifespanFactories,
    IStopping,
)
from pyramid_asgi_consumers.lifespan import Lifespan
from pyramid_asgi_consumers.stopping import Stopping
from pyramid_asgi_consumers.wsgi.bridge import WSGIBridge
from pyramid_asgi_consumers.wsgi.threads import check_threads

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
    _check_route_names(config)
    refuse_coroutine_functions(config)
    _warn_of_open_doors(config)
    _warn_of_held_connections(config.registry)
    _warn_of_islands(config)

    def setting(name):
        return read_setting(config.registry.settings, name)

    check_names(config.registry.settings)
    shutdown_timeout = setting("asgi.shutdown_timeout")
    multiprocess = setting("asgi.multiprocess")
    bridge = WSGIBridge(
        wsgi_app,
        setting("asgi.threads"),
        max_body_size=setting("asgi.max_body_size"),
        shutdown_timeout=shutdown_timeout,
        multiprocess=multiprocess,
        root_path=setting("asgi.root_path"),
        stopping=config.registry.getUtility(IStopping),
    )
    handshakes = Handshakes(wsgi_app, setting("asgi.handshake_threads"), multiprocess=multiprocess)
    config.registry.registerUtility(handshakes, IHandshakes)
    try:
        rule = OriginRule(setting("asgi.origins"), setting("asgi.hosts"))
    except ValueError as error:
        raise ConfigurationError(f"asgi.origins or asgi.hosts: {error}") from None

    stopping = config.registry.getUtility(IStopping)
    streams = EventStreams(setting("asgi.events.heartbeat"), stopping)
    config.registry.registerUtility(streams, IEventStreams)

    revalidation = Revalidation(setting("asgi.revalidate"))
    connections = Connections(channels_of(config.registry), revalidation)

    async def drain():
        connections.stop()
        await asyncio.gather(bridge.drain(), handshakes.drain(shutdown_timeout), quirks.drain())

    factories = config.registry.getUtility(ILifespanFactories)
    return ASGIApplication(
        config.registry,
        bridge,
        handshakes,
        Lifespan(config.registry, factories, drain, shutdown_timeout),
        rule,
        connections,
        setting("asgi.max_connections"),
        setting("asgi.leave_timeout"),
        Limits(*(setting(f"asgi.{name}") for name in Limits._fields)),
    )


def _check_route_names(config):
    # Pyramid reports a conflict only of declarations that were included at the same level.
    mapper = config.registry.getUtility(IRoutesMapper)
    consumers = {
        consumer.route_name: consumer
        for consumer in config.registry.getUtility(IConsumerMapper)
        if consumer.route_name is not None
    }
    words = "The {} and the {} are both for the route {!r}: a consumer's name is that of its route"
    for name, consumer in consumers.items():
        pattern = mapper.get_route(name).pattern
        if pattern != consumer.path:
            raise ConfigurationError(words.format(consumer, f"path {pattern}", name))
    for entry in config.introspector.get_category("views", ()):
        view = entry["introspectable"]
        name = view["route_name"]
        if name in consumers and not getattr(view["callable"], "is_of_exchange", False):
            shown = config.object_description(view["callable"])
            raise ConfigurationError(words.format(consumers[name], f"view {shown}", name))


def _warn_of_held_connections(registry):
    tweens = registry.queryUtility(ITweens)
    names = {name for name, _ in tweens.implicit()} if tweens is not None else set()
    if "pyramid_tm.tm_tween_factory" not in names or registry.settings.get("tm.manager_hook"):
        return
    if any(consumer.route_name for consumer in registry.getUtility(IConsumerMapper)):
        log.warning(
            "pyramid_tm has the transaction manager of the thread here: a database session that a"
            " consumer uses outside run_in_request would hold its connection for ever, and lose"
            " what it writes. Set tm.manager_hook = pyramid_tm.explicit_manager"
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


def _warn_of_islands(config):
    # Who declares no consumer has nobody who subscribes.
    registry = config.registry
    is_several = read_setting(registry.settings, "asgi.multiprocess")
    if (
        (is_several or workers(sys.argv, os.environ) > 1)
        and isinstance(channels_of(registry).backend, MemoryBackend)
        and list(registry.getUtility(IConsumerMapper))
    ):
        log.warning(
            "asgi.channels is memory://, and this is one of several processes: what is published"
            " on a channel here reaches none of the others (asgi.channels = redis://... does)"
        )


def includeme(config):
    config.registry.registerUtility(Stopping(), IStopping)
    config.add_directive("make_asgi_app", make_asgi_app, action_wrap=False)
