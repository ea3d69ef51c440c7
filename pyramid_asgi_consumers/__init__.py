"""ASGI consumers and websockets beside the routes of a Pyramid application."""

from pyramid_asgi_consumers.application import ASGIApplication
from pyramid_asgi_consumers.bridge import WSGIBridge
from pyramid_asgi_consumers.channels import Channels, Event, Gap, channels_of
from pyramid_asgi_consumers.config.consumers import asgi_consumer_config
from pyramid_asgi_consumers.exceptions import SubscriptionOverflow, WebSocketDisconnect

__all__ = [
    "ASGIApplication",
    "Channels",
    "Event",
    "Gap",
    "SubscriptionOverflow",
    "WSGIBridge",
    "WebSocketDisconnect",
    "asgi_consumer_config",
    "channels_of",
]


def includeme(config):
    """Add the directives: ``config.include("pyramid_asgi_consumers")``."""
    config.include(".config.consumers")
    config.include(".config.lifespan")
    config.include(".config.mounts")
    config.include(".config.channels")
    config.include(".config.application")
