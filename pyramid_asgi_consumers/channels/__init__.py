"""Publish and subscribe over named channels."""

from pyramid_asgi_consumers.channels.events import Event, Gap
from pyramid_asgi_consumers.channels.faces import Channels, RequestChannels, channels_of
from pyramid_asgi_consumers.channels.subscriptions import Subscription

__all__ = ["Channels", "Event", "Gap", "RequestChannels", "Subscription", "channels_of"]
