"""``config.set_channels_backend``, ``request.channels`` and the settings ``asgi.channels*``."""

from contextlib import asynccontextmanager

from pyramid.config import PHASE3_CONFIG
from pyramid.exceptions import ConfigurationError
from zope.interface import Invalid
from zope.interface.verify import verifyObject

from pyramid_asgi_consumers.channels.faces import Channels, RequestChannels, channels_of
from pyramid_asgi_consumers.channels.memory import MemoryBackend
from pyramid_asgi_consumers.config.attributes import add_request_attribute
from pyramid_asgi_consumers.config.settings import read_setting
from pyramid_asgi_consumers.interfaces import (
    IChannels,
    IChannelsBackend,
    ILifespanFactories,
)
from pyramid_asgi_consumers.lifespan import starts_nothing

SCHEMES = ("memory", "redis", "rediss", "unix")


def set_channels_backend(config, backend):
    """Have ``backend`` carry the events of channels, whatever ``asgi.channels`` says.

    It has the methods of :class:`.IChannelsBackend`, or is a dotted name of such an object. Raises
    ConfigurationError that names what is missing.
    """
    resolved = config.maybe_dotted(backend)
    try:
        verifyObject(IChannelsBackend, resolved, tentative=True)
    except Invalid as error:
        raise ConfigurationError(
            f"set_channels_backend: backend must have the methods of IChannelsBackend: {error}"
        ) from None
    introspectable = config.introspectable(
        "asgi channels", "backend", config.object_description(resolved), "channels backend"
    )
    introspectable["backend"] = resolved

    def register():
        config.registry.registerUtility(Channels(resolved), IChannels)

    config.action("asgi channels backend", register, introspectables=(introspectable,))


def _backend(settings):
    url, history, timeout, expiry, prefix = (
        read_setting(settings, name)
        for name in (
            "asgi.channels",
            "asgi.channels.history",
            "asgi.channels.timeout",
            "asgi.channels.expiry",
            "asgi.channels.prefix",
        )
    )
    scheme, separator, _ = str(url).partition("://")
    if scheme not in SCHEMES or not separator:
        known = ", ".join(f"{name}://" for name in SCHEMES)
        raise ConfigurationError(f"asgi.channels must be a URL with one of {known}, not {url!r}")
    if scheme == "memory":
        if url != "memory://":
            raise ConfigurationError(f"asgi.channels: memory:// takes nothing more, not {url!r}")
        return MemoryBackend(history, expiry)
    try:
        from pyramid_asgi_consumers.channels.redis import RedisBackend
    except ImportError as error:
        raise ConfigurationError(
            f"asgi.channels = {scheme}://… needs redis-py ({error}):"
            ' pip install "pyramid_asgi_consumers[redis]"'
        ) from error
    try:
        return RedisBackend(url, history, timeout, expiry, prefix)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"asgi.channels: {error}") from error


@starts_nothing
@asynccontextmanager
async def _channels_lifespan(registry):
    try:
        yield
    finally:
        await channels_of(registry).backend.aclose()


def includeme(config):
    config.add_directive("set_channels_backend", set_channels_backend)
    add_request_attribute(config, "channels", RequestChannels)

    def ensure():
        registry = config.registry
        if registry.queryUtility(IChannels) is None:
            registry.registerUtility(Channels(_backend(registry.settings)), IChannels)
        # First to be entered, so last to be left: what the application stops may still publish.
        registry.getUtility(ILifespanFactories).insert(0, _channels_lifespan)

    config.action("asgi channels", ensure, order=PHASE3_CONFIG + 1)
