"""The project of ``project.py`` as ``test_revalidation_servers.py`` has it: who may stay.

Environment variables: ``DATABASE`` is the file of its database; ``SESSIONS`` is ``signed`` or
``server``, where they are kept, and ``TIMEOUT`` how many seconds.
"""

import asyncio
import os

from pyramid.authorization import Allow, Authenticated, Deny, Everyone
from pyramid.response import Response
from pyramid.security import NO_PERMISSION_REQUIRED, remember

from tests.support.logs import log_to_stderr
from tests.support.project import User, make_config, make_engine
from tests.support.sessions import Sessions

log_to_stderr()

#: The rooms in which nobody may stay any more.
closed = set()


class Room:
    """The context of a room."""

    def __init__(self, request):
        self.name = request.matchdict["room"]
        if request.registry.is_down:
            raise OSError("the database is down")

    def __acl__(self):
        denied = [(Deny, Everyone, "stay")] if self.name in closed else []
        return [*denied, (Allow, Authenticated, "stay")]


def join(request):
    request.dbsession.merge(User(name=request.params["name"]))
    return Response("Joined")


def delete(request):
    request.dbsession.delete(request.dbsession.get(User, request.params["name"]))
    return Response("Deleted")


def logout(request):
    request.session.invalidate()
    return Response("Bye")


def close(request):
    closed.add(request.params["room"])
    return Response("Closed")


def down(request):
    """The database is down, or up again."""
    request.registry.is_down = bool(int(request.params["is"]))
    return Response("Done")


async def calls(websocket):
    """Does what it is told, in a request of its own."""
    await websocket.accept()
    async for text in websocket:
        await websocket.run_in_request(CALLS[text])
        await websocket.send("done")


def touch(request):
    request.session["touched"] = True


def log_in_ben(request):
    request.response.headerlist.extend(remember(request, "ben"))


CALLS = {"touch": touch, "log in ben": log_in_ben}


async def echoes(websocket):
    await websocket.accept()
    async for text in websocket:
        await websocket.send(text)


async def stream(stream):
    while True:
        await stream.send("tick")
        await asyncio.sleep(0.1)


async def http(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    while True:
        await send({"type": "http.response.body", "body": b"tick\n", "more_body": True})
        await asyncio.sleep(0.1)


def main():
    timeout = int(os.environ["TIMEOUT"])
    engine = make_engine(os.environ["DATABASE"])
    config = make_config(engine, timeout, **{"asgi.revalidate": "0.2"})
    config.commit()
    if os.environ["SESSIONS"] == "server":
        config.set_session_factory(Sessions(timeout))
    config.registry.is_down = False
    for view in (join, delete, logout, close, down):
        config.add_route(view.__name__, f"/{view.__name__}")
        config.add_view(view, route_name=view.__name__)
    guarded = {"permission": "stay", "factory": Room}
    config.add_websocket("/{room}/echoes", echoes, **guarded)
    config.add_websocket("/{room}/calls", calls, **guarded)
    config.add_event_stream("/{room}/stream", stream, **guarded)
    config.add_asgi_consumer("/{room}/http", "http", http, **guarded)
    config.add_websocket("/open", echoes, permission=NO_PERMISSION_REQUIRED)
    return config.make_asgi_app()


app = main()
