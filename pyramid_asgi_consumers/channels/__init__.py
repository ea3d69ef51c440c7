"""Publish and subscribe over named channels."""

from pyramid_asgi_consumers.channels.base import Event, Gap, Subscription
from pyramid_asgi_consumers.channels.faces import Channels, RequestChannels, channels_of

__all__ = ["Channels", "Event", "Gap", "RequestChannels", "Subscription", "channels_of"]
