"""One TCP address before a Redis, as a proxy or a service has it."""

import asyncio
import contextlib
import threading


class Forwarder:
    """It leads new connections to ``port``, and old ones on to where they led: ``async with``.

    ``port`` None refuses new connections; ``ports`` are those of the next connections, before
    ``port`` counts. ``pace`` is how many bytes come down in a hundredth of a second, None for all;
    after ``stall_after`` bytes a connection stands still for ever.
    """

    def __init__(self, port):
        self.port = port
        self.ports = iter(())
        self.pace = None
        self.stall_after = None
        self.stalled = 0
        self.url = None
        self._server = None
        self._tasks = set()
        self._pumps = set()

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/0"
        return self

    async def __aexit__(self, *exc_info):
        self._server.close()
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._tasks)

    def cut(self):
        """Break off the connections that there are; who comes again finds what ``port`` says."""
        for pump in self._pumps:
            pump.cancel()

    async def _accept(self, reader, writer):
        self._tasks.add(asyncio.current_task())
        port = next(self.ports, self.port)
        try:
            if port is None:
                raise ConnectionRefusedError
            from_redis, to_redis = await asyncio.open_connection("127.0.0.1", port)
        except ConnectionRefusedError:
            # So is who has come here.
            writer.close()
            await writer.wait_closed()
            return
        pumps = [
            asyncio.ensure_future(self._up(reader, to_redis)),
            asyncio.ensure_future(self._down(from_redis, writer)),
        ]
        self._pumps.update(pumps)
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for pump in pumps:
            pump.cancel()
        for end in writer, to_redis:
            end.transport.abort()
        await asyncio.gather(
            *pumps, writer.wait_closed(), to_redis.wait_closed(), return_exceptions=True
        )

    async def _up(self, reader, writer):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()

    async def _down(self, reader, writer):
        passed = 0
        while data := await reader.read(self.pace or 65536):
            passed += len(data)
            if self.stall_after is not None and passed > self.stall_after:
                self.stalled += 1
                await asyncio.Event().wait()
            if self.pace is not None:
                await asyncio.sleep(0.01)
            writer.write(data)
            await writer.drain()


class InThread:
    """A ``Forwarder`` on an event loop of its own, for tests that block."""

    def __init__(self, forwarder, loop):
        self.url = forwarder.url
        self._forwarder = forwarder
        self._loop = loop

    def cut_off(self):
        """Lead nobody anywhere."""
        self._run(self._cut_off)

    def lead_to(self, port):
        self._run(setattr, self._forwarder, "port", port)

    def _cut_off(self):
        self._forwarder.port = None
        self._forwarder.cut()

    def _run(self, call, *args):
        async def called():
            call(*args)

        asyncio.run_coroutine_threadsafe(called(), self._loop).result()


@contextlib.contextmanager
def forwarding(port):
    """A forwarder to ``port`` that runs in a thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def run(awaitable):
        return asyncio.run_coroutine_threadsafe(awaitable, loop).result()

    forwarder = Forwarder(port)
    try:
        run(forwarder.__aenter__())
        yield InThread(forwarder, loop)
        run(forwarder.__aexit__())
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
