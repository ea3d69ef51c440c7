"""``config.add_asgi_lifespan``."""

from pyramid.exceptions import ConfigurationError

from pyramid_asgi_consumers.interfaces import ILifespanFactories


def add_asgi_lifespan(config, factory):
    """Run the application within a context.

    ``factory`` is called with the registry and returns an async context manager, or it is a dotted
    name of such a callable. All are entered when the server starts, in the order in which they
    were declared, and left in reverse when it stops. A mapping that one yields is merged into the
    ``state`` of every scope.

    Where no lifespan reaches the application (Daphne sends none, nor does an application around
    this one, nor many a test client) the first connection enters them, once for each event loop,
    and they are left when the server stops or the event loop ends.

    Raises ConfigurationError where ``factory`` cannot be called.
    """
    resolved = config.maybe_dotted(factory)
    if not callable(resolved):
        raise ConfigurationError(
            "add_asgi_lifespan: factory must be a callable that takes the registry, or its dotted"
            f" name, not {factory!r}"
        )
    introspectable = config.introspectable(
        "asgi lifespans", resolved, config.object_description(resolved), "asgi lifespan"
    )
    introspectable["factory"] = resolved

    def register():
        config.registry.getUtility(ILifespanFactories).append(resolved)

    config.action(("asgi lifespan", resolved), register, introspectables=(introspectable,))


def includeme(config):
    config.registry.registerUtility([], ILifespanFactories)
    config.add_directive("add_asgi_lifespan", add_asgi_lifespan)
