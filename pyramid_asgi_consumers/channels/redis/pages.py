"""What is stored of a channel, as Redis answers it page by page."""

import logging
from typing import Any

from redis.asyncio.connection import Connection as AsyncConnection
from redis.exceptions import ResponseError

from pyramid_asgi_consumers.channels.base import Event, Position, Row, make_event
from pyramid_asgi_consumers.channels.redis.answers import passes
from pyramid_asgi_consumers.channels.redis.feeds import StreamFeed
from pyramid_asgi_consumers.shown import Shown

log = logging.getLogger(__name__)

# A page of what is stored: entries and bytes at most, but for one long entry. Redis makes a page in
# about a millisecond, in which it does nothing else.
PAGE = 256
PAGE_BYTES = 256 * 1024
# How many pages are asked for ahead.
AHEAD = 16


async def receive_page(connection: AsyncConnection) -> Any:
    try:
        return await connection.read_response(disconnect_on_error=False)
    except ResponseError as error:
        if passes(error):
            raise
        return error


def parse_rows(
    feed: StreamFeed, stream: bytes, index: list[bytes], payloads: bytes
) -> tuple[list[Row], Position | None]:
    rows: list[Row] = []
    end: Position | None = None
    at = 0
    for entry_id, before, length in zip(index[::3], index[1::3], index[2::3], strict=True):
        payload = payloads[at : at + int(length)]
        at += len(payload)
        end = parse_position(entry_id)
        try:
            event = make_feed_event(feed, end, payload) if payload else None
            rows.append((end, parse_position(before), event))
        except ValueError as error:
            log.warning(
                "Skipped a foreign entry in %s: %s", Shown(stream), Shown(repr(error), quoted=False)
            )
    return rows, end


def make_feed_event(feed: StreamFeed, position: Position, payload: bytes) -> Event:
    return make_event(feed.channel, position, payload)


def parse_position(entry_id: bytes) -> Position:
    epoch, _, number = entry_id.partition(b"-")
    return int(epoch), int(number)
