"""The application of ``test_event_streams_servers.py`` and of the browser's tests of streams."""

import asyncio
from collections import Counter

from pyramid.config import Configurator
from pyramid.response import Response
from pyramid.security import NO_PERMISSION_REQUIRED

from tests.support.leaving import look_often
from tests.support.logs import log_to_stderr
from tests.support.streams import cases

log_to_stderr()
look_often()

#: What has happened so far, shown by the page ``/state``.
happened: Counter = Counter()


def state(request):
    return Response(json_body=happened)


def posted(request):
    return Response(f"Pyramid got {request.method}")


def publish(request):
    """Publishes so many numbers on the channels named, one after the other."""
    names = request.params.getall("name")
    begin, end = int(request.params["begin"]), int(request.params["end"])
    for number in range(begin, end):
        request.channels.publish(names[number % len(names)], {"number": number, "x": "é\n" * 9})
    return Response()


def counted(func):
    """``func``, whose beginning and end are counted under its name and that of its client."""

    async def counting(stream):
        name = f"{func.__name__}-{stream.path_params['name']}"
        happened[f"{name} begun"] += 1
        try:
            await func(stream)
        finally:
            happened[f"{name} ended"] += 1

    return counting


async def before(stream):
    """Sends nothing."""
    await asyncio.Event().wait()


async def silent(stream):
    await stream.send("begun")
    await asyncio.Event().wait()


async def waiting(stream):
    await stream.send("begun")
    await stream.wait_closed()


async def relaying(stream):
    async with stream.relay("nobody publishes here", "nor here"):
        await asyncio.Event().wait()


async def flood(stream):
    while True:
        await stream.send("x" * 5000)


async def alone(stream):
    """Only one may be open."""
    async with stream.channels.subscribe("alone", presence=stream.path_params["name"]):
        await stream.send(await stream.channels.present("alone"))
        await stream.wait_closed()


async def relay(stream):
    async with stream.relay(*stream.headers["X-Channels"].split("|")):
        await stream.wait_closed()


async def exact(stream):
    for data, name, id in cases():
        await stream.send(data, name, id)
    await stream.send("", "end")
    await stream.wait_closed()


PAGE = """
<!DOCTYPE html>
<title>Streams</title>
"""


def page(request):
    return Response(PAGE)


def main():
    with Configurator(settings={"asgi.channels.history": "1000"}) as config:
        config.include("pyramid_asgi_consumers")
        for view in (state, publish, page):
            config.add_route(view.__name__, f"/{view.__name__}")
            config.add_view(view, route_name=view.__name__)
        config.add_route("posted", "/silent/{name}")
        config.add_view(posted, route_name="posted")
        for func in (before, silent, waiting, relaying, flood):
            config.add_event_stream(f"/{func.__name__}/{{name}}", counted(func))
            config.add_event_stream(
                f"/guarded/{func.__name__}/{{name}}",
                counted(func),
                permission=NO_PERMISSION_REQUIRED,
            )
        config.add_event_stream("/alone/{name}", alone, max_connections=1)
        config.add_event_stream("/relay", relay)
        config.add_event_stream("/exact", exact)
        return config.make_asgi_app()


app = main()
