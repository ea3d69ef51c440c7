"""The application of ``test_bodies_servers.py``: async iterables as bodies, and one thread."""

import asyncio
import gc
import logging
import time
from collections import Counter
from pathlib import Path

from pyramid.config import Configurator
from pyramid.response import Response

from tests.support.logs import log_to_stderr
from tests.support.sent import FILLER

log_to_stderr()
log = logging.getLogger("bodiesapp")

#: What has happened so far, shown by the page ``/state``.
happened: Counter = Counter()


def home(request):
    return Response("A Pyramid page")


def state(request):
    return Response(json_body=happened)


def memory(request):
    """The memory of this process in KiB, and how many bodies are open."""
    gc.collect()
    status = Path("/proc/self/status").read_text()
    (resident,) = [line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:")]
    return Response(json_body={"resident": int(resident), "open": happened["open"]})


async def noted(name, chunks):
    """``chunks``, noting that they have begun and how they ended."""
    happened[f"{name} begun"] += 1
    happened["open"] += 1
    try:
        async for chunk in chunks:
            yield chunk
    finally:
        # Not all of the work of a clean-up is done at once.
        await asyncio.sleep(0)
        happened["open"] -= 1
        happened[f"{name} ended"] += 1
        log.info("%s is left", name)


async def silent():
    """Gives nothing."""
    await asyncio.Event().wait()
    yield b"never"


async def waiting():
    """Gives one chunk."""
    yield b"begun\n"
    await asyncio.Event().wait()


async def flood():
    """Gives bytes without an end, as fast as they are taken."""
    while True:
        yield FILLER


async def slow(seconds=0.1):
    """Gives a chunk now and then."""
    while True:
        yield b"tick\n"
        await asyncio.sleep(seconds)


async def download():
    """Gives 10 chunks within a second."""
    for number in range(10):
        yield b"%d\n" % number
        await asyncio.sleep(0.1)


async def ending():
    """Ends soon after the server has begun to stop."""
    yield b"begun\n"
    await asyncio.sleep(0.3)
    yield b"the end\n"


async def raising():
    yield b"begun\n"
    raise ValueError("in the midst of it")


BODIES = {each.__name__: each for each in (silent, waiting, flood, slow, download, ending, raising)}


def body(request):
    """The body that the path names, with the ``name`` of the query, and maybe its ``length``."""
    name = request.params.get("name", "nobody")
    chunks = noted(name, BODIES[request.matchdict["kind"]]())
    length = request.params.get("length")
    return Response(
        app_iter=chunks,
        content_type="text/plain",
        content_length=None if length is None else int(length),
    )


async def generator(request):
    """The time, as a view that is a generator sees it."""
    for _ in range(3):
        yield f"{time.monotonic()}\n"
        await asyncio.sleep(0.05)


def main(global_config, **settings):
    with Configurator(settings={"asgi.threads": "1", **settings}) as config:
        config.include("pyramid_asgi_consumers")
        for name, view in (
            ("", home),
            ("state", state),
            ("memory", memory),
            ("generator", generator),
            ("body/{kind}", body),
        ):
            config.add_route(view.__name__, f"/{name}")
            config.add_view(view, route_name=view.__name__)
        return config.make_asgi_app()


app = main({})
