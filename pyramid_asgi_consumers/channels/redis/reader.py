"""Reads what Redis stores of the channels of one event loop, page by page, for all who want it.

One task reads, over a connection of its own, so that it holds up neither publishers nor live
events. Some pages are asked for ahead. Newcomers' first pages and the further ones of those with
long histories take turns, so that neither waits for the other. What a page means for who waits is
the feed's to say (``feeds.py``).
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from redis.asyncio.connection import Connection as AsyncConnection
from redis.exceptions import ResponseError

from pyramid_asgi_consumers.channels.redis.answers import EXPECTED, passes
from pyramid_asgi_consumers.channels.redis.connections import Connections, within
from pyramid_asgi_consumers.channels.redis.entries import (
    parse_beginning,
    parse_position,
    parse_rows,
)
from pyramid_asgi_consumers.channels.redis.feeds import StreamFeed
from pyramid_asgi_consumers.channels.redis.keys import Keys
from pyramid_asgi_consumers.channels.redis.scripts import READ, Call, batch_of
from pyramid_asgi_consumers.shown import Shown

log = logging.getLogger(__name__)

# A page of what is stored: entries and bytes at most, but for one long entry. Redis makes a page in
# about a millisecond, in which it does nothing else.
PAGE = 256
PAGE_BYTES = 256 * 1024
# How many pages are asked for ahead.
AHEAD = 16


class StoredReader:
    """Reads for the feeds of ``feeds``, by Redis channel, as long as one of the server's lives.

    ``page_taken()`` is called after each page.
    """

    def __init__(
        self,
        feeds: Mapping[bytes, StreamFeed],
        keys: Keys,
        connections: Connections,
        timeout: float,
        page_taken: Callable[[], None],
    ) -> None:
        #: Which of the server's lives is read.
        self.life = b""
        self._feeds = feeds
        self._keys = keys
        self._connections = connections
        self._timeout = timeout
        self._page_taken = page_taken
        # Feeds of which a page is to be read: the first one, and one more.
        self._first: dict[StreamFeed, None] = {}
        self._further: dict[StreamFeed, None] = {}
        self._firsts_turn = False
        self._wanted = asyncio.Event()

    def want(self, feed: StreamFeed) -> None:
        """Have a page of the feed read, if it wants one.

        Not before Redis sends its events: what comes between a page and these would be missed.
        """
        if feed.confirmed and not feed.asked and feed.wants_more():
            self._further.pop(feed, None)
            self._first[feed] = None
            self._wanted.set()

    async def run(self) -> None:
        """Read what is wanted; raise where Redis is out of reach."""
        while True:
            await self._wanted.wait()
            await self._read()

    async def _read(self) -> None:
        # Where the connection breaks, what has arrived is kept, and only the pages on their way are
        # asked for again.
        asked: deque[StreamFeed] = deque()
        progress = False
        try:
            async with self._connections.take() as connection:
                while asked or self._first or self._further:
                    if len(asked) <= AHEAD // 2:
                        await within(self._timeout, self._ask(connection, asked), connection)
                    if asked:
                        page = await within(self._timeout, _receive_page(connection), connection)
                        self._take_page(asked[0], page)
                        asked.popleft()
                        progress = True
                        # Everybody's turn.
                        await asyncio.sleep(0)
                self._wanted.clear()
        except EXPECTED as error:
            if not progress:
                raise
            log.debug("What is stored is read on, after: %s", Shown(error))
            for feed in asked:
                feed.asked = False
                self.want(feed)

    async def _ask(self, connection: AsyncConnection, asked: deque[StreamFeed]) -> None:
        calls: list[Call] = []
        while len(asked) < AHEAD and (self._first or self._further):
            feed = self._next()
            if not self._has(feed):
                continue
            after = feed.next_page()
            start = "" if after is None else f"{after[0]}-{after[1] + 1}"
            calls.append((READ, (self._keys.stream(feed.channel), start, PAGE, PAGE_BYTES)))
            feed.asked = True
            asked.append(feed)
        if calls:
            commands = connection.pack_commands(batch_of(calls))
            await connection.send_packed_command(commands, check_health=False)

    def _next(self) -> StreamFeed:
        self._firsts_turn = not self._firsts_turn
        if self._firsts_turn and self._first or not self._further:
            feeds = self._first
        else:
            feeds = self._further
        feed = next(iter(feeds))
        del feeds[feed]
        return feed

    def _has(self, feed: StreamFeed) -> bool:
        # Whether nobody has left meanwhile, and perhaps come anew.
        return self._feeds.get(self._keys.redis_channel(feed.channel)) is feed

    def _take_page(self, feed: StreamFeed, page: Any) -> None:
        feed.asked = False
        if not self._has(feed):
            return
        stream = self._keys.stream(feed.channel)
        if isinstance(page, ResponseError):
            log.warning("Skipped what is under %s: %s", Shown(stream), Shown(page))
            page = [self.life, b"", b"", b"", b""]
        life, newest, index, payloads, beginning = page
        if life != self.life:
            raise ConnectionError(f"two servers answer: {self.life!r} and {life!r}")
        rows, end = parse_rows(feed.channel, stream, index.split(), payloads)
        newest = parse_position(newest) if newest else None
        feed.take_page(newest, rows, end, parse_beginning(beginning))
        if feed.reading is not None:
            self._further[feed] = None
        else:
            self.want(feed)
        self._page_taken()


async def _receive_page(connection: AsyncConnection) -> Any:
    # An error is returned where it is of what is under the key, and not of the server.
    try:
        return await connection.read_response(disconnect_on_error=False)
    except ResponseError as error:
        if passes(error):
            raise
        return error
