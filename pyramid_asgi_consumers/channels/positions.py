"""Where an event stands in its channel, and the id that says so (pure)."""

import re

#: Where an event stands in its channel: an epoch, which begins anew where data was lost, and a
#: number that counts from 1 within it.
Position = tuple[int, int]

#: Before the first event of a channel.
NOWHERE: Position = (0, 0)

#: The id of a place that never was.
NEVER_WAS = "0000000000000000-0000000000000001"


def make_id(position: Position) -> str:
    """Return the id of the event at ``position``."""
    return f"{position[0]:016d}-{position[1]:016d}"


def id_before(position: Position) -> str:
    """Return the id of the place right before an event, behind what is missing there.

    Before the first event of an epoch that is its number 0, which no event has.
    """
    return make_id((position[0], position[1] - 1))


def position_of(event_id: str) -> Position | None:
    """Return where the event with this id stands, None for an id that never was one."""
    match = re.fullmatch(r"([0-9]{16})-([0-9]{16})", event_id)
    return (int(match[1]), int(match[2])) if match else None
