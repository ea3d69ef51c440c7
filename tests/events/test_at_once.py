"""What is published on a server whose ``send`` is known goes out with the publisher's own step."""

import asyncio

import pytest

from pyramid_asgi_consumers.channels import Channels, Gap
from pyramid_asgi_consumers.channels.memory import MemoryBackend
from tests.support.streams import Cycle, application, channels


async def relaying(stream):
    async with stream.relay("news"):
        await stream.wait_closed()


def begun(reader):
    return len(reader.sent) > 1


async def test_an_event_is_sent_by_who_publishes_it():
    app = application(relaying)
    async with Cycle(app) as reader:
        await reader.until(lambda: begun(reader))
        began_at = reader.last_event_id
        await channels(app).publish("news", "a")
        assert (await reader.next_data(), reader.senders[-1]) == ('"a"', asyncio.current_task())
        assert reader.last_event_id not in ("", began_at)


async def test_what_a_slow_client_waits_for_stays_in_its_order():
    app = application(relaying)
    async with Cycle(app) as reader:
        await reader.until(lambda: begun(reader))
        for number in range(30):
            reader.flow.write_paused = number % 3 == 0
            await channels(app).publish("news", number)
        assert [await reader.next_data() for _ in range(30)] == [str(n) for n in range(30)]
        assert len(set(reader.senders[2:])) == 2


async def test_who_publishes_much_at_once_leaves_others_their_turn():
    app = application(relaying)
    async with Cycle(app) as reader:
        await reader.until(lambda: begun(reader))
        reader.seconds = 0.001
        reader.turns.clear()
        # Of one transaction, say, and from a thread.
        publish = channels(app).backend.publish_many
        await asyncio.to_thread(publish, [("news", b"j%d" % number) for number in range(200)])
        assert [await reader.next_data() for _ in range(200)] == [str(n) for n in range(200)]
    assert reader.turns[0] < 20


async def test_a_stream_is_resumed_with_the_id_of_what_was_sent_at_once():
    app = application(relaying, settings={"asgi.channels.history": 10})
    async with Cycle(app) as reader:
        await reader.until(lambda: begun(reader))
        await channels(app).publish("news", 1)
        assert await reader.next_data() == "1"
    await channels(app).publish("news", 2)
    async with Cycle(app, last_event_id=reader.last_event_id) as reader:
        assert await reader.next_data() == "2"
        await channels(app).publish("news", 3)
        assert await reader.next_data() == "3"


async def test_what_sending_raises_is_not_the_publisher_s(caplog):
    app = application(relaying)
    async with Cycle(app) as reader:
        await reader.until(lambda: begun(reader))
        reader.error = LookupError("broken")
        await channels(app).publish("news", "a")
        with pytest.raises(LookupError, match="broken"):
            await reader.end()
    assert reader.sent[2:] == []


async def test_nothing_is_sent_to_who_has_left():
    goes_on = asyncio.Event()

    async def func(stream):
        async with stream.relay("news"):
            await stream.wait_closed()
            goes_on.set()
            await asyncio.Event().wait()

    app = application(func)
    async with Cycle(app) as reader:
        await reader.until(lambda: begun(reader))
        reader.left.set()
        await asyncio.wait_for(goes_on.wait(), 20)
        await channels(app).publish("news", "a")
        await reader.end()
    assert reader.sent[2:] == []


async def test_a_gap_of_which_nobody_knows_the_end_leaves_the_channel_where_it_stood():
    taken = []
    soon = asyncio.get_running_loop().call_soon
    async with Channels(MemoryBackend()).subscribe("news") as subscription:
        stood = subscription.positions
        subscription.hand_on(lambda item: not taken.append(item))
        soon(subscription.put, Gap("news", None))
        soon(subscription.end)
        assert [item async for item in subscription] == []
        assert subscription.positions == stood
    assert taken == [Gap("news", None)]
