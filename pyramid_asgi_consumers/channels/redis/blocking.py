"""What the threads of one process share to publish."""

import queue
import threading

from redis import ConnectionPool

# As many connections are for more threads than any process has: none waits for its turn.
MOST_TURNS = 100_000


class Shared:
    # What threads share: connections, turns where those are limited, and a lock. What interrupts a
    # publish in its own thread may publish, so none of them may wait for their own thread, as a
    # Semaphore does.

    def __init__(self, pool: ConnectionPool, most: int | None) -> None:
        self.pool = pool
        self.turns: queue.SimpleQueue[None] | None = None
        if most is not None and most < MOST_TURNS:
            self.turns = queue.SimpleQueue()
            for _ in range(most):
                self.turns.put(None)
        self.lock = threading.RLock()
