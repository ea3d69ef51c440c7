"""ASGI consumers and websockets beside the routes of a Pyramid application."""

from pyramid.config import Configurator

from pyramid_asgi_consumers.application import ASGIApplication
from pyramid_asgi_consumers.channels import Channels, Event, Gap, channels_of
from pyramid_asgi_consumers.config.consumers import (
    asgi_consumer_config,
    event_stream_config,
    websocket_config,
)
from pyramid_asgi_consumers.events.stream import EventStream
from pyramid_asgi_consumers.exceptions import (
    ChannelsError,
    ClientDisconnected,
    InvalidJSON,
    InvalidMessage,
    PublishRefused,
    PublishUnknown,
    SubscriptionOverflow,
    WebSocketDisconnect,
    WrongMessageKind,
)
from pyramid_asgi_consumers.handshake.handshakes import run_in_request
from pyramid_asgi_consumers.interfaces import IConsumerMapper
from pyramid_asgi_consumers.websocket.face import WebSocket
from pyramid_asgi_consumers.wsgi.bridge import WSGIBridge

__all__ = [
    "ASGIApplication",
    "Channels",
    "ChannelsError",
    "ClientDisconnected",
    "Event",
    "EventStream",
    "Gap",
    "InvalidJSON",
    "InvalidMessage",
    "PublishRefused",
    "PublishUnknown",
    "SubscriptionOverflow",
    "WSGIBridge",
    "WebSocket",
    "WebSocketDisconnect",
    "WrongMessageKind",
    "asgi_consumer_config",
    "channels_of",
    "event_stream_config",
    "run_in_request",
    "websocket_config",
]


def includeme(config: Configurator) -> None:
    """Add the directives: ``config.include("pyramid_asgi_consumers")``."""
    # After a commit Pyramid does not know what was included before it.
    if config.registry.queryUtility(IConsumerMapper) is not None:
        return
    config.include(".config.attributes")
    config.include(".config.consumers")
    config.include(".config.handshakes")
    config.include(".config.lifespan")
    config.include(".config.mounts")
    config.include(".config.views")
    config.include(".config.channels")
    config.include(".config.application")
