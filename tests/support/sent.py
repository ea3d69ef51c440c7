"""What clients and applications send a lot of.

It stands by itself: an application that imports it does without the clients, and so starts sooner.
"""

from collections.abc import Iterator

# Blocks of 64 KiB: a download of 20 MiB, and a stream of 48 MiB.
BLOCKS = 320
FLOOD = 768
MIB = 2**20
FILLER = bytes(range(256)) * 256


def blocks(count: int = BLOCKS) -> Iterator[bytes]:
    """``count`` blocks of 64 KiB, no two alike."""
    for number in range(count):
        yield number.to_bytes(4, "big") + FILLER[4:]
