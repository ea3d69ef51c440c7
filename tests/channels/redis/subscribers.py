"""A feed that is live, and who subscribes to it, without a Redis."""

from pyramid_asgi_consumers.channels.events import encode, make_event
from pyramid_asgi_consumers.channels.positions import make_id
from pyramid_asgi_consumers.channels.redis.feeds import StreamFeed
from pyramid_asgi_consumers.channels.redis.keys import Keys
from pyramid_asgi_consumers.channels.redis.presence import Presence
from pyramid_asgi_consumers.channels.redis.session import Session

EXPIRY = 100


class Subscriber:
    channels = ("a",)
    presence = None
    since = {}

    def __init__(self):
        self.replayed = []
        self.queue = []
        self.positions = {}
        self.is_in_touch = True

    @property
    def items(self):
        return self.replayed + self.queue

    def begin(self, channel, event_id):
        self.positions.setdefault(channel, event_id)

    def put(self, item):
        self.queue.append(item)

    def replay(self, items):
        assert not self.queue
        self.replayed += items

    def lose_touch(self):
        self.is_in_touch = False

    def regain_touch(self):
        self.is_in_touch = True


def event(number):
    return make_event("a", (1, number), encode(number))


def event_at(epoch, number):
    return make_event("a", (epoch, number), encode(number))


def numbers(subscriber):
    return [item.data for item in subscriber.items]


def live_feed():
    feed = StreamFeed("a", False, EXPIRY)
    feed.next_page()
    feed.take_page((1, 1), [], None)
    return feed


def rows(*numbers):
    return [((1, number), (1, number - 1), event(number)) for number in numbers]


def join(feed, since):
    subscriber = Subscriber()
    feed.add(subscriber, since, in_touch=True)
    return subscriber


def since(number):
    return make_id((1, number))


def lone_session(feeds, commands=None):
    """A session without a connection."""
    keys = Keys("", 0)
    return Session(feeds, keys, None, commands, Presence(keys, commands), 1.0, lambda: None)
