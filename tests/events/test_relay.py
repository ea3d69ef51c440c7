"""Channels that are forwarded to an event stream, and clients that come again."""

import asyncio
import base64
import json
import random
from uuid import uuid4

import pytest

from pyramid_asgi_consumers.channels.events import Gap
from pyramid_asgi_consumers.channels.memory import MemoryBackend
from pyramid_asgi_consumers.channels.positions import make_id
from pyramid_asgi_consumers.events.ids import MOST_CHANNELS, Ids
from pyramid_asgi_consumers.testing.events import EventParser
from tests.support.channels import until
from tests.support.streams import Cycle, Reader, application, channels

ODD_NAMES = ["a,b:c=d", "100% é", "日本 語", "a.b-c~d", '"quoted"\n\0']


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis)])
async def settings(request):
    settings = {"asgi.channels.history": "1000"}
    if request.param == "redis":
        settings["asgi.channels"] = request.getfixturevalue("redis_server").url
        settings["asgi.channels.prefix"] = f"{uuid4()}:"
    return settings


@pytest.fixture
async def relaying(settings):
    """Makes applications whose stream relays the channels it is given."""
    apps = []

    def make(*names, **options):
        async def func(stream):
            async with stream.relay(*names, **options):
                await stream.wait_closed()

        apps.append(application(func, settings=settings))
        return apps[-1]

    yield make
    for app in apps:
        await channels(app).backend.aclose()
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def begun(reader):
    """Wait until the relay has subscribed."""
    await reader.until(lambda: reader.body)


async def test_the_data_is_that_of_the_event(relaying):
    app = relaying("news")
    async with Reader(app) as reader:
        await begun(reader)
        for data in ({"n": 1, "text": "é\n"}, "text", b"\x00\xff", None):
            await channels(app).publish("news", data)
        events = [await reader.next() for _ in range(4)]
    assert [json.loads(event.data) for event in events] == [
        {"n": 1, "text": "é\n"},
        "text",
        {"base64": base64.b64encode(b"\x00\xff").decode()},
        None,
    ]
    assert {event.event for event in events} == {"message"}
    assert len({event.id for event in events}) == 4


@pytest.mark.parametrize("names", [["error", "message"], ["gap"]])
async def test_with_several_channels_or_an_envelope_the_data_says_which(relaying, names):
    app = relaying(*names, envelope=len(names) == 1)
    async with Reader(app) as reader:
        await begun(reader)
        ids = [await channels(app).publish(names[0], data) for data in ([1], b"x")]
        events = [await reader.next() for _ in ids]
    assert [json.loads(event.data) for event in events] == [
        {"channel": names[0], "id": ids[0], "data": [1]},
        {"channel": names[0], "id": ids[1], "base64": "eA=="},
    ]
    # No event is named by a channel: one called error would fire onerror.
    assert {event.event for event in events} == {"message"}


async def test_a_client_that_leaves_before_the_first_event_resumes(relaying):
    app = relaying("a", "b")
    async with Reader(app) as reader:
        await begun(reader)
    last = reader.last_event_id
    assert last
    for number in range(3):
        await channels(app).publish("ab"[number % 2], number)
    async with Reader(app, last_event_id=last) as reader:
        got = [json.loads((await reader.next()).data) for _ in range(3)]
    assert sorted(item["data"] for item in got) == [0, 1, 2]


async def test_the_id_in_the_query_resumes_too(relaying):
    app = relaying("a")
    async with Reader(app) as reader:
        await begun(reader)
    await channels(app).publish("a", 1)
    query = f"x=1&last-event-id={reader.last_event_id}".encode()
    async with Reader(app, query_string=query) as reader:
        assert (await reader.next()).data == "1"


@pytest.mark.parametrize(
    "last", ["7", "x" * 5000, "0123456789", "1-1.AAAAAAAA00000000", "é", "~.AAAAAAAA"]
)
async def test_an_id_that_is_not_ours_begins_now(relaying, last, caplog):
    app = relaying("a")
    await channels(app).publish("a", "before")
    async with Reader(app, last_event_id=last) as reader:
        await begun(reader)
        await channels(app).publish("a", "now")
        assert (await reader.next()).data == '"now"'
    assert not caplog.records


async def test_an_id_that_was_cut_begins_now(relaying):
    app = relaying("a")
    async with Reader(app) as reader:
        await begun(reader)
    await channels(app).publish("a", "before")
    async with Reader(app, last_event_id=reader.last_event_id[:-3]) as reader:
        await begun(reader)
        await channels(app).publish("a", "now")
        assert (await reader.next()).data == '"now"'


async def test_a_client_that_saw_other_channels_hears_of_a_gap(relaying):
    one, both = relaying("a"), relaying("a", "b")
    async with Reader(one) as reader:
        await begun(reader)
    async with Reader(both, last_event_id=reader.last_event_id) as reader:
        gaps = [await reader.next() for _ in range(2)]
        assert [(gap.event, json.loads(gap.data)) for gap in gaps] == [
            ("gap", {"channel": name, "missed": None}) for name in "ab"
        ]
        await channels(both).publish("b", "now")
        assert json.loads((await reader.next()).data)["data"] == "now"


async def test_a_page_says_where_to_begin_until_it_has_seen_an_event(settings):
    async def func(stream):
        async with stream.relay("a", since=positions[0]):
            await stream.wait_closed()

    app = application(func, settings=settings)
    positions = [await channels(app).position("a")]
    await channels(app).publish("a", 1)
    async with Reader(app) as reader:
        assert (await reader.next()).data == "1"
        last = reader.last_event_id
    await channels(app).publish("a", 2)
    async with Reader(app, last_event_id=last) as reader:
        assert (await reader.next()).data == "2"
    # What is foreign says nothing, nor does the id of a relay of other channels.
    for last in ("foreign", Ids(("other",)).make({})):
        async with Reader(app, last_event_id=last) as reader:
            assert [(await reader.next()).data for _ in range(2)] == ["1", "2"]
    await channels(app).backend.aclose()


async def test_history_that_is_gone_is_a_gap(settings, relaying):
    settings["asgi.channels.history"] = "2"
    app = relaying("a", "b")
    await channels(app).publish("a", "seen")
    async with Reader(app) as reader:
        await begun(reader)
    for number in range(5):
        await channels(app).publish("a", number)
    async with Reader(app, last_event_id=reader.last_event_id) as reader:
        gap = await reader.next()
        assert (gap.event, json.loads(gap.data)) == ("gap", {"channel": "a", "missed": 3})
        again = reader.last_event_id
        assert [json.loads((await reader.next()).data)["data"] for _ in range(2)] == [3, 4]
    # The gap has been heard of.
    async with Reader(app, last_event_id=again) as reader:
        assert [json.loads((await reader.next()).data)["data"] for _ in range(2)] == [3, 4]


async def test_without_a_history_all_that_was_missed_is_a_gap(settings, relaying):
    settings["asgi.channels.history"] = "0"
    app = relaying("a")
    await channels(app).publish("a", "seen")
    async with Reader(app) as reader:
        await begun(reader)
    await channels(app).publish("a", 1)
    async with Reader(app, last_event_id=reader.last_event_id) as reader:
        gap = await reader.next()
        assert json.loads(gap.data) == {"channel": "a", "missed": 1}
        await channels(app).publish("a", 2)
        assert (await reader.next()).data == "2"


async def test_where_a_channel_stood_may_be_unknown(relaying):
    app = relaying("a", "b")
    async with Reader(app) as reader:
        await begun(reader)
    positions = {"a": make_id(tuple(map(int, reader.last_event_id.split(".")[0].split("-"))))}
    last = Ids(("a", "b")).make(positions)
    await channels(app).publish("a", 1)
    await channels(app).publish("b", 2)
    async with Reader(app, last_event_id=last) as reader:
        gap = await reader.next()
        assert (gap.event, json.loads(gap.data)) == ("gap", {"channel": "b", "missed": None})
        assert json.loads((await reader.next()).data)["data"] == 1
        await channels(app).publish("b", 3)
        assert json.loads((await reader.next()).data)["data"] == 3


async def test_a_gap_of_which_nobody_knows_the_end_leaves_the_position(relaying):
    app = relaying("a")
    async with Reader(app) as reader:
        await begun(reader)
        before = reader.last_event_id
        for feed in feeds(app, "a"):
            feed.put(Gap("a", None))
        gap = await reader.next()
        assert (gap.event, json.loads(gap.data)) == ("gap", {"channel": "a", "missed": None})
        assert gap.id == before


def feeds(app, name):
    """What the backend of ``app`` has for the subscribers of a channel."""
    backend = channels(app).backend
    if isinstance(backend, MemoryBackend):
        return list(backend._channels[name].feeds.values())
    return list(backend._loop().hub.feeds.values())


async def test_a_slow_client_is_held_back_and_then_hears_of_a_gap(relaying):
    app = relaying("a", max_queue=2)
    async with Reader(app, takes=2) as reader:
        await begun(reader)
        for number in range(10):
            await channels(app).publish("a", number)
        await channels(app).publish("a", "last")
        await until(lambda: channels(app).overflows.total >= 8)
        reader.slow.set()
        got = []
        while not got or got[-1].data != '"last"':
            got.append(await reader.next())
    [gap] = [json.loads(event.data) for event in got if event.event == "gap"]
    assert gap["missed"] + len(got) - 1 == 11


async def test_an_overflow_ends_the_stream_so_that_its_client_comes_again(settings, caplog):
    async def func(stream):
        async with stream.relay("a", max_queue=1, overflow="close"):
            await stream.wait_closed()

    app = application(func, settings=settings)
    async with Reader(app, takes=2) as reader:
        await begun(reader)
        for number in range(5):
            await channels(app).publish("a", number)
        await until(lambda: channels(app).overflows.total)
        reader.slow.set()
        await reader.end()
    assert reader.has_ended
    assert "More than 1 events waited for a subscriber of" in caplog.text
    async with Reader(app, last_event_id=reader.last_event_id) as again:
        assert await again.next_data()
    await channels(app).backend.aclose()


async def test_an_overflow_before_the_first_event_lets_the_client_come_again(settings):
    async def func(stream):
        async with stream.channels.subscribe("a", max_queue=1, overflow="close") as events:
            for number in range(5):
                await stream.channels.publish("a", number)
            await until(lambda: channels(app).overflows.total)
            await events.__anext__()

    app = application(func, settings=settings)
    async with Reader(app) as reader:
        await reader.end()
    assert (reader.status, reader.has_ended) == (200, True)
    await channels(app).backend.aclose()


async def test_a_stream_has_one_relay_at_a_time(settings):
    async def func(stream):
        async with stream.relay("a"):
            pass
        async with stream.relay("b"):
            for name in ("c", "b", "c"):
                with pytest.raises(RuntimeError, match="relay: this stream has a relay already"):
                    await stream.relay(name).__aenter__()
            await stream.send("goes on")

    app = application(func, settings=settings)
    async with Reader(app) as reader:
        assert await reader.next_data() == "goes on"
        await reader.end()
    await channels(app).backend.aclose()


@pytest.mark.parametrize("names", [("a",), ("b", "a")])
async def test_a_relay_goes_on_where_one_of_the_same_channels_was_left(settings, names):
    leaves, left, again = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def func(stream):
        async with stream.relay(*names):
            await leaves.wait()
        async with stream.relay("others"):
            left.set()
            await again.wait()
        async with stream.relay(*names):
            await stream.wait_closed()

    app = application(func, settings=settings)
    async with Reader(app) as reader:
        await begun(reader)
    for number in range(3):
        await channels(app).publish("a", number)
    async with Reader(app, last_event_id=reader.last_event_id) as reader:
        got = [(await reader.next()).data for _ in range(3)]
        leaves.set()
        await asyncio.wait_for(left.wait(), 20)
        await channels(app).publish("a", 3)
        again.set()
        got.append((await reader.next()).data)
        await channels(app).publish("a", 4)
        got.append((await reader.next()).data)
    read = [json.loads(data) for data in got]
    assert (read if names == ("a",) else [each["data"] for each in read]) == [0, 1, 2, 3, 4]
    await channels(app).backend.aclose()


@pytest.mark.parametrize("kind", [Reader, Cycle])
async def test_what_a_slow_client_waited_for_as_a_relay_was_left_comes_with_the_next(kind):
    leaves = asyncio.Event()

    async def func(stream):
        async with stream.relay("a"):
            await leaves.wait()
        async with stream.relay("a"):
            await stream.wait_closed()

    class Slow(kind):
        is_slow = False

        async def send(self, message):
            if self.is_slow:
                await self.slow.wait()
            await super().send(message)

    app = application(func, settings={"asgi.channels.history": "9"})
    async with Slow(app) as reader:
        await begun(reader)
        reader.is_slow = True
        await channels(app).publish("a", 1)
        await asyncio.sleep(0)
        leaves.set()
        await asyncio.sleep(0)
        reader.is_slow = False
        reader.slow.set()
        assert await reader.next_data() == "1"
        await channels(app).publish("a", 2)
        assert await reader.next_data() == "2"


async def test_wrong_names_are_errors_at_once(settings):
    async def func(stream):
        with pytest.raises(ValueError, match="relay: at most"):
            stream.relay(*map(str, range(MOST_CHANNELS + 1)))
        with pytest.raises(ValueError, match="a channel's name must be a str"):
            stream.relay(7)
        with pytest.raises(ValueError, match="expected the name of a channel at least"):
            stream.relay()
        with pytest.raises(TypeError, match="relay: on_gap is for websockets; in an event stream"):
            stream.relay("a", on_gap=print)

    async with Reader(application(func, settings=settings)) as reader:
        await reader.end()
    assert reader.status == 204


async def test_as_many_channels_as_an_id_carries_resume(relaying):
    names = [f"channel {number}" for number in range(MOST_CHANNELS)]
    app = relaying(*names)
    async with Reader(app) as reader:
        await begun(reader)
    await channels(app).publish(names[-1], 1)
    async with Reader(app, last_event_id=reader.last_event_id) as reader:
        assert json.loads((await reader.next()).data)["data"] == 1


class CutReader(Reader):
    """Gets so many bytes, and no more: its connection is broken then."""

    def __init__(self, app, cut, last_event_id):
        super().__init__(app, last_event_id=last_event_id)
        self.cut = cut
        self.parser = EventParser(last_event_id or "")
        self.came = b""
        self.is_cut = asyncio.Event()

    async def send(self, message):
        if self.is_cut.is_set():
            raise OSError("broken")
        came = message.get("body", b"")[: self.cut - len(self.came)]
        self.came += came
        self.parser.feed(came)
        if len(self.came) == self.cut:
            self.is_cut.set()
            self.left.set()


@pytest.mark.parametrize("names", [["news"], ODD_NAMES], ids=["one", "five"])
@pytest.mark.parametrize("seed", range(2))
async def test_a_stream_that_is_broken_anywhere_loses_nothing(relaying, names, seed):
    app = relaying(*names)
    chance = random.Random(seed)
    total = 500
    got = []

    async def publish():
        for number in range(total):
            await channels(app).publish(chance.choice(names), {"number": number, "x": "é\n" * 9})
            if number % 7 == 0:
                await asyncio.sleep(0)

    def take(parser):
        while (event := parser.take()) is not None:
            assert event.event == "message"
            data = json.loads(event.data)
            got.append((data["data"] if len(names) > 1 else data)["number"])

    last = None
    async with Reader(app) as reader:
        await begun(reader)
        last = reader.last_event_id
    publisher = asyncio.create_task(publish())
    for _ in range(20):
        async with CutReader(app, chance.randrange(1, 3000), last) as reader:
            await asyncio.wait({publisher, asyncio.ensure_future(reader.is_cut.wait())}, timeout=1)
            reader.is_cut.set()
        take(reader.parser)
        last = reader.parser.last_event_id
    await publisher
    async with Reader(app, last_event_id=last) as reader:
        while len(got) < total:
            data = json.loads((await reader.next()).data)
            got.append((data["data"] if len(names) > 1 else data)["number"])
    if len(names) == 1:
        assert got == list(range(total))
    assert sorted(got) == list(range(total))
