"""What a guarded consumer adds to Pyramid: a route and a view for its handshakes."""

import inspect
import re
from dataclasses import dataclass, replace
from functools import partial
from types import MethodType
from typing import Any

from pyramid.config import Configurator
from pyramid.exceptions import ConfigurationError, ConfigurationExecutionError
from pyramid.interfaces import (
    PHASE1_CONFIG,
    PHASE2_CONFIG,
    PHASE3_CONFIG,
    IDefaultPermission,
    IRoutesMapper,
    IViewDerivers,
)
from pyramid.security import NO_PERMISSION_REQUIRED

from pyramid_asgi_consumers.config.attributes import add_request_attribute
from pyramid_asgi_consumers.handshake.exchange import (
    NO_CONSUMER,
    ExchangeRoutesMapper,
    exchange_view,
)
from pyramid_asgi_consumers.handshake.handshakes import run_in_request
from pyramid_asgi_consumers.interfaces import IConsumerMapper, IGuards
from pyramid_asgi_consumers.mapper import Consumer

# After the default permission and all predicates are known, before routes and views are made.
GUARD_ORDER = (PHASE1_CONFIG + PHASE2_CONFIG) // 2

# After the introspectables of routes and permissions are there.
RELATE_ORDER = PHASE3_CONFIG + 1

# Arguments of add_route and add_view that are not for a consumer to set.
NOT_PREDICATES = frozenset(
    (
        "attr",
        "custom_predicates",
        "exception_only",
        "for_",
        "inherit_slash",
        "mapper",
        "pattern",
        "renderer",
        "route_name",
        "static",
        "view",
        "wrapper",
    )
)

# Arguments of add_route that are no predicates.
ROUTE_OPTIONS = frozenset(("pregenerator", "use_global_views"))

# Arguments of add_asgi_consumer that are neither.
OWN_ARGUMENTS = frozenset(
    (
        "factory",
        "max_connections",
        "max_connections_per_user",
        "max_message",
        "max_rate",
        "name",
        "origins",
        "permission",
        "revalidate",
    )
)


@dataclass
class Guard:
    """Registers one consumer, with its route and view where it is guarded.

    ``name`` and what follows are the arguments of ``add_asgi_consumer``.
    """

    config: Any
    consumer: Consumer
    introspectable: Any
    name: str | None
    permission: object
    factory: object
    predicates: dict[str, Any]

    def __post_init__(self) -> None:
        # Conflicts are reported with the line of the consumer's declaration.
        self.info = self.config.action_info

    def register(self) -> None:
        """Register the consumer; the default permission and all predicates must be known."""
        given = (self.name, self.permission, self.factory, _default_permission(self.config))
        is_guarded = bool(self.predicates) or any(each is not None for each in given)
        self.introspectable["guarded"] = is_guarded
        per_user = self.consumer.max_connections_per_user
        if per_user is not None and not is_guarded:
            raise ConfigurationError(
                f"{self.consumer}: max_connections_per_user={per_user!r} is for a guarded consumer,"
                " which knows its user: give it a permission, or max_connections instead"
            )
        if self.consumer.revalidate is not None and not is_guarded:
            raise ConfigurationError(
                f"{self.consumer}: revalidate={self.consumer.revalidate!r} is for a guarded"
                " consumer, whose handshake is a Pyramid request that can be repeated: give it a"
                " permission"
            )
        consumer = self._with_route_and_view() if is_guarded else self.consumer
        self.config.registry.getUtility(IConsumerMapper).add(consumer, made_of=self.consumer)

    def _with_route_and_view(self) -> Consumer:
        # The consumer's path has the route prefix already.
        config = self.config.with_package(self.config.package)
        config.route_prefix = None
        name = self.name or f"{self.consumer.protocol}:{self.consumer.path}"
        route_only = _predicate_names(config, "route") - _predicate_names(config, "view")
        self._check_keywords(config)
        for_route = self.predicates.keys() & (route_only | ROUTE_OPTIONS)
        config.add_route(
            name,
            self.consumer.path,
            factory=self.factory,
            static=True,
            _info=self.info,
            **{key: self.predicates[key] for key in for_route},
        )
        config.add_view(
            exchange_view(getattr(self.consumer.app, "func", self.consumer.app)),
            route_name=name,
            permission=self.permission,
            _info=self.info,
            **{key: self.predicates[key] for key in self.predicates.keys() - for_route},
        )
        self.introspectable["route_name"] = name
        if config.introspection:
            config.action(None, self._relate, order=RELATE_ORDER)
        return replace(self.consumer, route_name=name)

    def _check_keywords(self, config: Any) -> None:
        # A subclass may take more.
        if type(config).add_view is not Configurator.add_view:
            return
        known = {*inspect.signature(Configurator.add_view).parameters, *ROUTE_OPTIONS}
        known |= _predicate_names(config, "route") | _predicate_names(config, "view")
        for deriver in config.registry.getUtility(IViewDerivers).values():
            known.update(getattr(deriver, "options", ()))
        for keyword in sorted(self.predicates.keys() - known):
            # It costs 0.2 MiB, and only who has made a mistake needs it.
            from difflib import get_close_matches

            candidates = known - NOT_PREDICATES - {"self"} | OWN_ARGUMENTS
            near = get_close_matches(keyword, sorted(candidates), 1)
            raise ConfigurationError(
                f"{self.consumer}: {keyword}={self.predicates[keyword]!r} is no argument of a"
                " consumer, no predicate and no view option"
                + "".join(f"; did you mean {each}?" for each in near)
            )

    def _relate(self) -> None:
        introspector = self.config.introspector
        own = ("asgi consumers", self.introspectable.discriminator)
        route = introspector.get("routes", self.introspectable["route_name"])
        # proutes shows no view for a static one.
        route["static"] = False
        introspector.relate(own, ("routes", route.discriminator))
        permission = self.permission or _default_permission(self.config)
        if introspector.get("permissions", permission) is not None:
            introspector.relate(own, ("permissions", permission))


def add_guard(config, guard, discriminator):
    """Have ``guard`` register its consumer, unless another with ``discriminator`` overrides it."""
    guards = config.registry.getUtility(IGuards)
    config.action(
        discriminator,
        partial(guards.append, guard),
        order=PHASE1_CONFIG,
        introspectables=(guard.introspectable,),
    )
    # Whenever an action adds others, Pyramid sorts all that are left. So the first one does it for
    # all consumers, and the others find nothing to do.
    config.action(None, partial(_register, guards), order=GUARD_ORDER)


def _register(guards):
    waiting = guards[:]
    guards.clear()
    for guard in waiting:
        try:
            guard.register()
        except Exception as error:
            raise ConfigurationExecutionError(type(error), error, guard.info) from error


def guard_by_default(config):
    """Guard what was declared before there was a default permission, in an earlier commit.

    A whole application that was mounted has rules of its own, and stays open.
    """
    if _default_permission(config) is None:
        return
    for consumer in list(config.registry.getUtility(IConsumerMapper)):
        if consumer.route_name is None and not consumer.mounted:
            discriminator = ("asgi consumer", consumer.protocol, consumer.path)
            found = config.introspector.get("asgi consumers", discriminator) or {}
            Guard(config, consumer, found, None, None, None, {}).register()


def _default_permission(config):
    return config.registry.queryUtility(IDefaultPermission)


def _predicate_names(config, kind):
    return {name for name, _ in config.get_predlist(kind).sorter.sorted()}


def websocket_url(request, route_name, *elements, **kw):
    """The URL of a guarded consumer's websocket.

    ``route_name`` is its ``name``; the other arguments are those of ``request.route_url``. The
    scheme is ``wss`` where that of ``route_url`` is ``https``, and ``ws`` where it is ``http``.
    """
    return re.sub("^http", "ws", request.route_url(route_name, *elements, **kw))


def _websocket_url_of(request):
    """The method :func:`websocket_url` of ``request``."""
    return MethodType(websocket_url, request)


def includeme(config):
    config.registry.registerUtility([], IGuards)
    consumers = config.registry.getUtility(IConsumerMapper)
    mapper = ExchangeRoutesMapper(config.get_routes_mapper(), consumers)
    config.registry.registerUtility(mapper, IRoutesMapper)
    add_request_attribute(config, "websocket_url", _websocket_url_of)
    # For exchanges alone, so for no tool to show.
    hidden = config.with_package(config.package)
    hidden.introspection = False
    hidden.add_route(NO_CONSUMER, "/", static=True)
    hidden.add_view(
        exchange_view(run_in_request),
        route_name=NO_CONSUMER,
        permission=NO_PERMISSION_REQUIRED,
    )
