"""How long a page takes while websockets of the same process echo.

So many websockets send four messages a second each, evenly, and a page is asked for 50 times in a
second on a connection of its own. Ours is a view in a thread, Starlette's an async function.
"""

import asyncio
import statistics
import time

from pyramid.config import Configurator
from pyramid.response import Response

from benchmarks.command import main
from benchmarks.support import DEADLINE, Measured, Table, Variant, asked, echoing, serving
from benchmarks.websocket import websocket_echo

BODY = b"A page"
MESSAGE = "x" * 32
# In a second: of each websocket, and of the page.
MESSAGES, ASKED = 4, 50


def page(request):
    return Response(BODY)


def ours():
    with Configurator() as config:
        config.include("pyramid_asgi_consumers")
        config.add_route("page", "/page")
        config.add_view(page, route_name="page")
        config.add_websocket("/ws", websocket_echo)
        return config.make_asgi_app()


class Pages(Table):
    name = "pages"
    title = "A page while websockets echo"
    units = ("ms at the 99th percentile", "ms at the median", "echoes/s")
    less_is_better = True
    reference = "ours"
    seconds = 10
    quick_seconds = 2
    sizes = {"sockets": 500}
    variants = {
        "ours": Variant("benchmarks.pages:ours"),
        "starlette": Variant("benchmarks.peers.starlette:page", ("starlette",)),
    }

    def measure(self, variant, ground, size, seconds):
        with serving(self.variants[variant].app) as server:
            return asyncio.run(measured(server.port, size["sockets"], seconds))


async def measured(port, sockets, seconds):
    clients = await echoing(port, "/ws", sockets, MESSAGE)
    sending = asyncio.ensure_future(send(clients))
    await asked(port, "/page", BODY, seconds / 4, ASKED)
    before, since = sum(client.right for client in clients), time.perf_counter()
    took, wrong = await asked(port, "/page", BODY, seconds, ASKED)
    echoes = sum(client.right for client in clients) - before
    elapsed = time.perf_counter() - since
    sending.cancel()
    await asyncio.wait([sending])
    # Those under way get their echo, too.
    await asyncio.wait_for(asyncio.gather(*(client.idle for client in clients)), DEADLINE)
    wrong += sum(client.wrong for client in clients)
    for client in clients:
        client.transport.abort()
    p99 = statistics.quantiles(took, n=100, method="inclusive")[98]
    return Measured((p99, statistics.median(took), echoes / elapsed), wrong)


async def send(clients):
    begin = time.perf_counter()
    sent = 0
    while True:
        due = int((time.perf_counter() - begin) * MESSAGES * len(clients))
        for number in range(sent, due):
            client = clients[number % len(clients)]
            # A server that cannot keep up has fewer echoes.
            if client.idle.done():
                client.send()
        sent = due
        await asyncio.sleep(0.005)


TABLES = [Pages()]

if __name__ == "__main__":
    main(__doc__, TABLES)
