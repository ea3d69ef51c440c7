"""Where a channel stands of which Redis stores nothing, and how long that is known. Pure.

Such a place is called a beginning. It has the time, in microseconds of the server's clock, for its
epoch, so that all that is published later is behind it. For its number it has the life in which the
server was then, above all numbers that events can have.

Whoever comes back from there gets all that is published later, as long as that is stored from the
first event on. What may have come and gone meanwhile is a gap: where the time in which a channel is
forgotten has passed, or the server has had another life and may have lost what it had. Nobody sees
that somebody has deleted the data in between (FLUSHALL, DEL): of these nothing is left.
"""

from pyramid_asgi_consumers.channels.positions import Position

# Numbers of events are smaller; of 16 digits, as all.
_LIVES = 10**15
# Microseconds: Redis counts the time in which a key expires in milliseconds.
_LEEWAY = 10_000


def make_beginning(time: int, life: int) -> Position:
    """Return where a channel stood at that time, in microseconds, in that life of the server.

    It is a microsecond before: what is published then is later.
    """
    return time - 1, _LIVES + life


def is_beginning(position: Position) -> bool:
    """Return whether this is a place before any event, of a channel of which nothing is stored."""
    return position[1] >= _LIVES


def holds(beginning: Position, until: Position, expiry: float) -> bool:
    """Return whether nothing can have come and gone from one beginning to another one.

    ``expiry`` is how many seconds an event is stored at least.
    """
    return until[1] == beginning[1] and 0 <= until[0] - beginning[0] < expiry * 1_000_000 - _LEEWAY
