"""What a reading holds meanwhile."""

from pyramid_asgi_consumers.channels import Gap
from pyramid_asgi_consumers.channels.redis import readings
from tests.channels.redis.subscribers import event, join, live_feed, rows, since


def test_few_long_events_are_held(monkeypatch):
    monkeypatch.setattr(readings, "HELD_BYTES", 2)
    feed = live_feed()
    subscriber = join(feed, since(1))
    feed.next_page()
    for number in (2, 3, 4000):
        feed.receive((1, number), event(number))
    assert [position for position, _ in feed.reading.held] == [(1, 4000)]
    feed.take_page((1, 3), rows(2, 3), (1, 3))
    assert subscriber.items == [event(2), event(3), Gap("a", 3996), event(4000)]
