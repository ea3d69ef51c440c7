"""What a hub does when its connection breaks, and when it closes, without one."""

import pytest

from pyramid_asgi_consumers.channels.redis.hub import Hub
from pyramid_asgi_consumers.channels.redis.keys import Keys
from pyramid_asgi_consumers.exceptions import ChannelsError
from tests.channels.redis.subscribers import Subscriber


class LoneHub(Hub):
    async def _run(self):
        """It has no connection."""


def lone_hub():
    return LoneHub(Keys("", 0), None, None, 1.0, 100)


async def test_an_outage_is_said_once_and_so_is_its_end(caplog):
    broken = lone_hub()
    for _ in "ab":
        broken._lose_touch(ConnectionResetError("gone"))
    for _ in "ab":
        broken._regain_touch()
    assert ["out of touch" in message for message in caplog.messages] == [True, False]


async def test_a_hub_that_closes_meanwhile_takes_no_subscription():
    closed = lone_hub()
    closed._closed = True
    with pytest.raises(ChannelsError, match="closed while a subscription was entered"):
        await closed.attach(Subscriber())


async def test_who_never_subscribed_leaves_nothing():
    assert lone_hub().detach(Subscriber()) == []
