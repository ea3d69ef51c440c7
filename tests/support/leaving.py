"""How soon the applications that tests serve notice that a client has left."""

from pyramid_asgi_consumers.websocket import watcher


def look_often():
    """Look five times as often as for projects: each test on each server waits for it."""
    watcher.INTERVAL = 0.1
