"""Django Channels. Neither of its applications asks a database."""

import django
from channels.generic.websocket import AsyncWebsocketConsumer
from channels.middleware import BaseMiddleware
from channels.routing import ProtocolTypeRouter, URLRouter
from django.conf import settings
from django.urls import path

from benchmarks import handshakes

settings.configure(
    SECRET_KEY="benchmarks",
    CHANNEL_LAYERS={"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}},
)
django.setup()


def made(consumer):
    return ProtocolTypeRouter({"websocket": URLRouter([path("ws", consumer.as_asgi())])})


class Room(AsyncWebsocketConsumer):
    groups = ["news"]

    async def receive(self, text_data=None, bytes_data=None):
        await self.channel_layer.group_send("news", {"type": "tell", "text": f'"{text_data}"'})

    async def tell(self, event):
        await self.send(event["text"])


def broadcast():
    """A group of the layer in memory."""
    return made(Room)


class Stay(AsyncWebsocketConsumer):
    """Accepts, as the class does by itself."""


def accepting():
    return made(Stay)


class Users(BaseMiddleware):
    async def __call__(self, scope, receive, send):
        headers = dict(scope["headers"])
        user = handshakes.USERS.get(headers.get(b"user", b"").decode())
        return await super().__call__({**scope, "user": user}, receive, send)


class Guarded(AsyncWebsocketConsumer):
    async def connect(self):
        await (self.accept() if self.scope["user"] else self.close())


def guarding():
    return Users(made(Guarded))
