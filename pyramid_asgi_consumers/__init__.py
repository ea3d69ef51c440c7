"""ASGI consumers and websockets beside the routes of a Pyramid application."""

from pyramid_asgi_consumers.application import ASGIApplication
from pyramid_asgi_consumers.bridge import WSGIBridge
from pyramid_asgi_consumers.config.consumers import asgi_consumer_config
from pyramid_asgi_consumers.exceptions import WebSocketDisconnect
from pyramid_asgi_consumers.handshake import run_in_request

__all__ = [
    "ASGIApplication",
    "WSGIBridge",
    "WebSocketDisconnect",
    "asgi_consumer_config",
    "run_in_request",
]


def includeme(config):
    """Add the directives: ``config.include("pyramid_asgi_consumers")``."""
    config.include(".config.consumers")
    config.include(".config.handshakes")
    config.include(".config.lifespan")
    config.include(".config.mounts")
    config.include(".config.views")
    config.include(".config.application")
