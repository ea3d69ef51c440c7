"""A page that follows the news, by the lines of docs/streams.rst, over restarts of its server.

Environment variables: ``CHANNELS`` is ``asgi.channels``, ``NEWS`` the name of the channel.
"""

import logging
import os

from pyramid.config import Configurator
from pyramid.response import Response

from tests.support.logs import log_to_stderr
from tests.support.pages import javascript

log_to_stderr()
log = logging.getLogger("resumingapp")

PAGE = f"""<!doctype html>
<title>News</title>
<ol></ol>
<script>
{javascript("streams", "follow")}
function show(news) {{
    const item = document.createElement("li");
    item.textContent = news;
    document.querySelector("ol").append(item);
}}
follow("/news", show, () => show("gap"));
</script>
"""


def home(request):
    return Response(PAGE)


async def news(stream):
    async with stream.relay(os.environ["NEWS"]):
        await stream.send("", event="ready")
        log.info("A stream has begun")
        await stream.wait_closed()


settings = {"asgi.channels": os.environ["CHANNELS"], "asgi.channels.history": "100"}
with Configurator(settings=settings) as config:
    config.include("pyramid_asgi_consumers")
    config.add_route("home", "/")
    config.add_view(home, route_name="home")
    config.add_event_stream("/news", news)
    app = config.make_asgi_app()
