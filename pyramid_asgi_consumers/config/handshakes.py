"""What a guarded consumer adds to Pyramid: a route and a view for its handshakes."""

from dataclasses import dataclass, replace

from pyramid.interfaces import (
    PHASE1_CONFIG,
    PHASE2_CONFIG,
    PHASE3_CONFIG,
    IDefaultPermission,
    IRoutesMapper,
)

from pyramid_asgi_consumers.handshake import ExchangeRoutesMapper, exchange_view
from pyramid_asgi_consumers.interfaces import IConsumerMapper
from pyramid_asgi_consumers.mapper import Consumer
from pyramid_asgi_consumers.mounts import Mount

# After the default permission and all predicates are known, before routes and views are made.
GUARD_ORDER = (PHASE1_CONFIG + PHASE2_CONFIG) // 2

# Arguments of add_route and add_view that are not for a consumer to set.
NOT_PREDICATES = frozenset(
    (
        "attr",
        "custom_predicates",
        "for_",
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


@dataclass
class Guard:
    """Registers one consumer, with its route and view where it is guarded.

    ``path`` is the consumer's as it was given, without the route prefix; the arguments behind it
    are those of ``add_asgi_consumer``.
    """

    config: object
    consumer: Consumer
    introspectable: dict
    path: str
    name: str | None
    permission: object
    factory: object
    predicates: dict

    def __post_init__(self) -> None:
        self.info = self.config.action_info

    def register(self) -> None:
        given = (self.name, self.permission, self.factory)
        is_guarded = bool(self.predicates) or any(each is not None for each in given)
        is_guarded = is_guarded or _default_permission(self.config) is not None
        self.introspectable["guarded"] = is_guarded
        if not is_guarded:
            self._mapper.add(self.consumer)
            return
        # Conflicts are reported with the line of the consumer's declaration.
        before, self.config.info = self.config.info, self.info
        try:
            self._add_route_and_view()
        finally:
            self.config.info = before

    @property
    def _mapper(self):
        return self.config.registry.getUtility(IConsumerMapper)

    def _add_route_and_view(self) -> None:
        config = self.config
        name = self.name or f"{self.consumer.protocol}:{self.consumer.path}"
        route_only = _predicate_names(config, "route") - _predicate_names(config, "view")
        for_route = self.predicates.keys() & (route_only | ROUTE_OPTIONS)
        config.add_route(
            name,
            self.path,
            factory=self.factory,
            static=True,
            **{key: self.predicates[key] for key in for_route},
        )
        config.add_view(
            exchange_view,
            route_name=name,
            permission=self.permission,
            **{key: self.predicates[key] for key in self.predicates.keys() - for_route},
        )
        self.introspectable["route_name"] = name
        self._mapper.add(replace(self.consumer, route_name=name))
        if config.introspection:
            config.action(None, self._relate, order=PHASE3_CONFIG + 1)

    def _relate(self) -> None:
        introspector = self.config.introspector
        own = ("asgi consumers", self.introspectable.discriminator)
        introspector.relate(own, ("routes", self.introspectable["route_name"]))
        permission = self.permission or _default_permission(self.config)
        if introspector.get("permissions", permission) is not None:
            introspector.relate(own, ("permissions", permission))


def guard_by_default(config):
    """Guard what was declared before there was a default permission, in an earlier commit.

    A whole application that was mounted has rules of its own, and stays open.
    """
    if _default_permission(config) is None:
        return
    for consumer in list(config.registry.getUtility(IConsumerMapper)):
        if consumer.route_name is None and not isinstance(consumer.app, Mount):
            discriminator = ("asgi consumer", consumer.protocol, consumer.path)
            found = config.introspector.get("asgi consumers", discriminator) or {}
            Guard(config, consumer, found, consumer.path, None, None, None, {}).register()


def _default_permission(config):
    return config.registry.queryUtility(IDefaultPermission)


def _predicate_names(config, kind):
    return {name for name, _ in config.get_predlist(kind).sorter.sorted()}


def websocket_url(request, route_name, *elements, **kw):
    """The URL of a guarded consumer's websocket.

    ``route_name`` is its ``name``; the other arguments are those of ``request.route_url``. The
    scheme is ``wss`` where the request's own is ``https``, and ``ws`` elsewhere.
    """
    scheme, rest = request.route_url(route_name, *elements, **kw).split(":", 1)
    return {"http": "ws", "https": "wss"}.get(scheme, scheme) + ":" + rest


def includeme(config):
    mapper = ExchangeRoutesMapper(config.get_routes_mapper())
    config.registry.registerUtility(mapper, IRoutesMapper)
    config.add_request_method(websocket_url)
