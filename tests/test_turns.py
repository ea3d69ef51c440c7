"""A sender whose server never makes it wait."""

import asyncio
from time import monotonic

import pytest

from pyramid_asgi_consumers import turns
from pyramid_asgi_consumers.turns import Turns, give_way


async def test_a_loop_that_does_not_turn_is_noticed():
    watched = Turns()
    assert [watched.missed() for _ in range(3)] == [False, True, True]
    assert monotonic() < watched.due <= monotonic() + turns.TURN


async def test_a_loop_that_turns_is_not_complained_of():
    watched = Turns()
    for _ in range(3):
        assert watched.missed() is False
        await asyncio.sleep(0)


async def test_the_first_send_looks_at_once():
    assert Turns().due <= monotonic()


async def test_giving_way_lets_others_go_first():
    happened = []

    async def send(message):
        happened.append(message)

    asyncio.get_running_loop().call_soon(happened.append, "other")
    await give_way(send, "message")
    assert happened == ["other", "message"]


async def test_a_message_is_not_sent_by_who_is_cancelled_while_it_gives_way():
    sent = []
    giving = asyncio.ensure_future(give_way(sent.append, "message"))
    await asyncio.sleep(0)
    giving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await giving
    assert sent == []
