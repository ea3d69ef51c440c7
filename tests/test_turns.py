"""A sender whose server never makes it wait."""

import asyncio

import pytest

from pyramid_asgi_consumers.turns import TURN, Turns, give_way, until_left


async def test_a_loop_that_does_not_turn_is_noticed():
    watched = Turns()
    assert [watched.missed(number * TURN) for number in range(4)] == [False, True, True, True]


async def test_a_loop_that_turns_is_not_complained_of():
    watched = Turns()
    for number in range(4):
        assert watched.missed(number * TURN) is False
        await asyncio.sleep(0)


async def test_many_who_ask_at_once_look_once():
    watched = Turns()
    assert [watched.missed(1.0) for _ in range(100)] == [False] * 100
    assert [watched.missed(1.0 + TURN) for _ in range(100)] == [True] + [False] * 99


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


async def test_turns_are_told_apart():
    watched = Turns()
    numbers = []
    for _ in range(3):
        numbers += [watched.number(), watched.number()]
        await asyncio.sleep(0)
    first, second, third = numbers[::2]
    assert numbers[1::2] == [first, second, third]
    assert first != second != third


async def test_a_receive_that_never_waits_lets_others_run_and_is_asked_no_more_than_now_and_then():
    asked = []

    async def receive():
        # As middleware does that has read the body.
        asked.append(True)
        return {"type": "http.request", "body": b"all", "more_body": False}

    waiting = asyncio.create_task(until_left(receive))
    await asyncio.sleep(0.05)
    waiting.cancel()
    await asyncio.wait({waiting})
    assert len(asked) == 2
