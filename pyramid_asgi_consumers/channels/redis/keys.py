"""Under which names a channel's events and members are in Redis, and on what they are published."""


class Keys:
    """The names of what belongs to a channel; ``prefix`` begins every one."""

    __slots__ = ("_database", "_prefix")

    def __init__(self, prefix: str, database: int) -> None:
        self._prefix = prefix
        # Redis numbers its databases, but not its channels.
        self._database = database

    def redis_channel(self, channel: str) -> bytes:
        """The Redis channel on which its events are published."""
        return f"{self._prefix}{self._database}:{channel}".encode()

    def stream(self, channel: str) -> bytes:
        """The stream that counts and keeps its events."""
        return f"{self._prefix}stream:{channel}".encode()

    def members(self, channel: str) -> bytes:
        """The sorted set of who is present."""
        return f"{self._prefix}present:{channel}".encode()
