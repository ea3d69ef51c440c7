"""The application of ``test_limits_servers.py``."""

import asyncio
from collections import Counter

from pyramid.config import Configurator
from pyramid.response import Response
from pyramid.security import NO_PERMISSION_REQUIRED

from tests.support.logs import log_to_stderr

log_to_stderr()

#: What has happened so far, shown by the page ``/state``.
happened: Counter = Counter()


async def tasks(request):
    return Response(json_body=len(asyncio.all_tasks()))


def state(request):
    return Response(json_body=happened)


async def consumer(scope, receive, send):
    await receive()
    await send({"type": "websocket.accept"})
    while True:
        event = await receive()
        if event["type"] == "websocket.disconnect":
            happened[f"consumer {event['code']}"] += 1
            return
        await send({"type": "websocket.send", "text": "got"})


async def function(websocket):
    await websocket.accept()
    async for _ in websocket:
        await websocket.send("got")
    happened[f"function {websocket._end[0]}"] += 1


async def busy(websocket):
    await websocket.accept()
    try:
        await asyncio.Event().wait()
    finally:
        happened[f"busy {websocket._end[0]}"] += 1


class Policy:
    def authenticated_userid(self, request):
        return request.params.get("user")

    def permits(self, request, context, permission):
        return True


def main():
    settings = {"asgi.max_message": "1000", "asgi.max_rate": "20/m"}
    with Configurator(settings=settings) as config:
        config.include("pyramid_asgi_consumers")
        config.set_security_policy(Policy())
        config.add_route("state", "/state")
        config.add_view(state, route_name="state", permission=NO_PERMISSION_REQUIRED)
        config.add_route("tasks", "/tasks")
        config.add_view(tasks, route_name="tasks", permission=NO_PERMISSION_REQUIRED)
        config.add_asgi_consumer("/consumer", "websocket", consumer)
        config.add_asgi_app("/mounted", consumer)
        config.add_websocket("/function", function)
        config.add_websocket("/guarded", function, permission="open", max_connections_per_user=2)
        config.add_websocket("/busy", busy)
        config.add_websocket("/roomy", function, max_message=2**40, max_rate="1000000/s")
        return config.make_asgi_app()


app = main()
