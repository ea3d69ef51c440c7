import asyncio

from sse_starlette.sse import EventSourceResponse

from benchmarks import streams
from benchmarks.peers import starlette


class Events(starlette.Events):
    async def respond(self, request):
        return EventSourceResponse(self.events(), ping=3600, sep="\n")

    async def events(self):
        queue = asyncio.Queue()
        self.queues.add(queue)
        try:
            yield {"data": "", "id": "0"}
            while True:
                number = await queue.get()
                yield {"data": streams.text(number), "id": streams.id_of(number)}
        finally:
            self.queues.remove(queue)
