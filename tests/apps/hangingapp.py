"""Contexts of which the second hangs while it is entered, or left: as ``HANGS`` says."""

import asyncio
import logging
import os
from contextlib import asynccontextmanager

from pyramid.config import Configurator
from pyramid.response import Response

from tests.support.logs import log_to_stderr

log_to_stderr()
log = logging.getLogger("hangingapp")


def home(request):
    return Response("A page")


@asynccontextmanager
async def first(registry):
    log.info("The first is entered")
    try:
        yield
    finally:
        log.info("The first is left")


@asynccontextmanager
async def second(registry):
    log.info("The second begins")
    try:
        if os.environ["HANGS"] == "start":
            await asyncio.Event().wait()
        yield
        hang = {"stop": asyncio.Event().wait, "for ever": swallow}[os.environ["HANGS"]]
        while True:
            await hang()
    finally:
        log.info("The second ends")


async def swallow():
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        log.info("The second goes on")


with Configurator(settings={"asgi.shutdown_timeout": "1"}) as config:
    config.include("pyramid_asgi_consumers")
    config.add_route("home", "/")
    config.add_view(home, route_name="home")
    config.add_asgi_lifespan(first)
    config.add_asgi_lifespan(second)
    app = config.make_asgi_app()
