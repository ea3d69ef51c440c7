"""How events stand in Redis, as its answers and messages show them. Pure.

An id there is ``<epoch>-<number>``. What cannot have been written by ``publish.lua`` is foreign.
"""

import logging

from pyramid_asgi_consumers.channels.events import Event, make_event
from pyramid_asgi_consumers.channels.feeds import Row
from pyramid_asgi_consumers.channels.positions import Position
from pyramid_asgi_consumers.channels.redis.beginnings import make_beginning
from pyramid_asgi_consumers.shown import Shown

log = logging.getLogger(__name__)


def parse_position(entry_id: bytes) -> Position:
    """Return where the event with this id stands; raise ValueError for what is no id."""
    epoch, _, number = entry_id.partition(b"-")
    return int(epoch), int(number)


def parse_beginning(word: bytes) -> Position | None:
    """Return the beginning that ``read.lua`` tells, None where it tells none."""
    if not word:
        return None
    time, life = word.split()
    return make_beginning(int(time), int(life, 36))


def parse_message(channel: str, message: bytes) -> tuple[Position, Event]:
    """Return the event that was published as ``message``; raise ValueError for a foreign one."""
    entry_id, payload = message.split(b" ", 1)
    position = parse_position(entry_id)
    return position, make_event(channel, position, payload)


def parse_rows(
    channel: str, stream: bytes, index: list[bytes], payloads: bytes
) -> tuple[list[Row], Position | None]:
    """Return the entries of a page, and the position of the last one, be it foreign.

    ``index`` and ``payloads`` are those of ``read.lua``; ``stream`` is named where one is foreign.
    """
    rows: list[Row] = []
    end: Position | None = None
    at = 0
    for entry_id, before, length in zip(index[::3], index[1::3], index[2::3], strict=True):
        payload = payloads[at : at + int(length)]
        at += len(payload)
        end = parse_position(entry_id)
        try:
            event = make_event(channel, end, payload) if payload else None
            rows.append((end, parse_position(before), event))
        except ValueError as error:
            log.warning(
                "Skipped a foreign entry in %s: %s", Shown(stream), Shown(repr(error), quoted=False)
            )
    return rows, end
