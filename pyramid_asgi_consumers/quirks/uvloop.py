"""What is done differently for uvloop 0.22, the event loop of whichever server runs on it."""


def is_of_a_closed_transport(error: BaseException) -> bool:
    """Whether ``error`` was raised for what is written to a client that has left.

    A transport that fails to write is closed at once, and its server is told later: until then
    uvloop raises this, which is no OSError. asyncio's own transports drop what is written.
    """
    return isinstance(error, RuntimeError) and str(error).endswith("; the handler is closed")
