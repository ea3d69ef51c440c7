"""What the connections of one consumer share on one event loop."""

import asyncio

from pyramid_asgi_consumers.connection.leaving import Sweep
from pyramid_asgi_consumers.turns import Turns


class Shared:
    """Whose turn it is on the event loop that runs, and whose client to look after."""

    def __init__(self) -> None:
        self.turns = Turns()
        self.sweep = Sweep()
        self.loop: asyncio.AbstractEventLoop = self.turns.loop
