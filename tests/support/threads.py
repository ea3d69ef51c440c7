"""Work in threads that waits for its test."""

import asyncio
import threading


class Held:
    """A place in a thread's work where it waits until the test lets it go on."""

    def __init__(self):
        self._loop = asyncio.get_running_loop()
        self._reached = asyncio.Event()
        self._free = threading.Event()

    def wait(self):
        """Wait here, in the thread."""
        self._loop.call_soon_threadsafe(self._reached.set)
        assert self._free.wait(20)

    async def reached(self):
        """Return when a thread waits."""
        await asyncio.wait_for(self._reached.wait(), 20)

    def go_on(self):
        """Let all threads go on, those that come later, too."""
        self._free.set()
