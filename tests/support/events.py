"""A server's ``receive``, and what comes there."""

import asyncio

LEFT = {"type": "websocket.disconnect", "code": 1001}


def text(message):
    return {"type": "websocket.receive", "text": message}


class Server:
    """A server's ``receive``: what ``put`` was given, and how often it was asked."""

    def __init__(self, *events):
        self.asked = 0
        self.queue = asyncio.Queue()
        for event in events:
            self.queue.put_nowait(event)
        self.put = self.queue.put_nowait

    async def receive(self):
        self.asked += 1
        return await self.queue.get()


async def until(condition):
    async def met():
        while not condition():
            await asyncio.sleep(0)

    await asyncio.wait_for(met(), 20)


class Broken(Server):
    """A server whose ``receive`` raises a KeyError."""

    async def receive(self):
        self.asked += 1
        raise KeyError


class Futures(Server):
    """A server whose ``receive`` gives futures, as Granian's does."""

    def receive(self):
        self.asked += 1
        self.future = asyncio.get_running_loop().create_future()
        self.put = self.future.set_result
        return self.future
