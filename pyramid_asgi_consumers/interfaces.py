"""What the registry holds, by these keys; and the contract for a backend of channels."""

from zope.interface import Attribute, Interface


class IConsumerMapper(Interface):
    """The consumers that were declared."""

    def add(consumer):
        """Add a ``Consumer``, in place of one with the same protocol and path."""

    def has_consumers(protocol):
        """Whether any consumer was declared for ``protocol``."""

    def __call__(protocol, path, method=None):
        """Return ``(consumer, path_params)`` for ``path``, or None.

        ``method`` is that of an http request.
        """


class IGuards(Interface):
    """The list of the consumers that were declared but are not yet in the mapper."""


class IRequestAttributes(Interface):
    """What the add-on gives to Pyramid's requests."""

    def add(name, get):
        """Add the attribute ``name``: ``get(request)``, or what was assigned to it."""


class ILifespanFactories(Interface):
    """The list of what ``config.add_asgi_lifespan`` was given, in order of declaration."""


class IHandshakes(Interface):
    """The ``Handshakes`` of the application that ``config.make_asgi_app()`` made last."""


class IEventStreams(Interface):
    """What all event streams of an application share."""

    heartbeat = Attribute("After so many seconds of silence a comment is sent.")
    stopping = Attribute("Tells when the server stops.")
    frames = Attribute("What was made of the last event.")


class IASGIApplication(Interface):
    """What ``config.make_asgi_app()`` returns: an ASGI 3 application."""

    registry = Attribute("The Pyramid registry.")
    wsgi_app = Attribute("The WSGI application that answers what no consumer does.")


class IChannelsBackend(Interface):
    """What carries the events of channels, and all that a new backend has to do.

    It is given, as an object, to ``config.set_channels_backend``; it reads its own settings, since
    those named ``asgi.channels`` are of the backends that a URL names. In
    :mod:`pyramid_asgi_consumers.channels`, ``events``, ``positions`` and ``feeds`` have what
    backends share, and ``subscriptions.Subscription`` is what they serve; ``memory`` is the
    shortest backend. In ``redis``, ``feeds.py``, ``readings.py`` and ``beginnings.py`` know nothing
    of Redis: they are for any backend that reconnects, and catches up by pages while live events
    arrive.

    **Names and payloads** arrive checked and encoded. A name is a str of 1 to 200 characters of any
    kind; there may be any number of names, so what a backend remembers of each needs a bound. A
    payload is bytes of any length. ``events.make_event(name, position, payload)`` makes the event,
    and raises ValueError for a payload that channels never made: log that, and skip it.

    **Positions and ids.** An event stands at a position in its channel: ``(epoch, number)``.
    Numbers count from 1 within an epoch, without a hole. Where the count cannot be gone on with,
    since data was lost or the channel was forgotten, a later epoch begins (a larger number, such as
    the time in microseconds): no position is given out twice. Number 0 is the place before the
    first event of an epoch. ``positions.make_id(position)`` is the id, of twice 16 digits: compared
    as text, ids are in the order of their positions. A client may send any text for an id:
    ``positions.position_of(text)`` is None for what cannot be one.

    **Gaps.** A subscriber gets each event of a channel once and in order. Where events are missing
    it gets an ``events.Gap`` in their place, with their number, or None where nobody knows that;
    never a hole without a gap. From the gap's ``id`` on, what follows it comes again.
    ``feeds.Feed`` sees to this for what is live, ``feeds.catch_up`` for what is stored. A
    subscriber that was live and gets number 1 of a new epoch has missed nothing.

    **Out of touch.** A backend that may lose touch, and regain it, says so to its subscriptions:
    ``lose_touch()``, and ``regain_touch()`` when they have had what they had missed, or its gap.

    **Event loops and threads.** One backend serves all threads, and any number of event loops at
    the same time. A subscription belongs to the loop on which ``attach`` was awaited: its
    ``replay``, ``put`` and ``end`` are called on that loop and nowhere else (from elsewhere through
    ``loop.call_soon_threadsafe``). They do not block, and neither may the backend on a loop. A loop
    may close without ``aclose``, with subscriptions alive: such a one is forgotten.

    **Interruptions and forks.** A finalizer or the handler of a signal may publish in the midst of
    a publish in the same thread, or ask where a channel stands, so ``publish_many``,
    ``position_now`` and ``present_now`` must not wait for a lock that their own thread may hold. A
    process that forks has its own connections in the child, where no other thread goes on and
    subscriptions are the parent's: ``channels/forks.py`` has the means. The object is made before
    servers fork their workers.

    **Timeouts.** A publish ends within ``timeout`` seconds, an attribute that a backend may have,
    and so does what asks for a position or for who is present. Publishers wait that long for what
    was committed before, and otherwise for 5 seconds.
    """

    def publish_many(messages):
        """Publish each ``(channel, payload)`` in order, from any thread, blocking.

        Return a list with, for each, the id of the event or the error that kept it back (as a
        value: nothing is raised): a ``PublishRefused`` where it certainly was not published, a
        ``PublishUnknown`` where nobody knows. Nothing is published twice, so what may have been
        published is not tried again. One that fails keeps back none of the others. The id is the
        empty text where it is not known yet, for what interrupts another publish of its thread.
        Any number of threads may be in this at once.
        """

    def publish(channel, payload):
        """Publish on the running event loop; awaited. Return the id, or raise the error.

        Where the caller is cancelled, it may have been published or not.
        """

    def attach(subscription):
        """Enter a subscription to all of its ``channels``; awaited on its event loop.

        When this returns, nothing that is published afterwards on these channels can be missed:
        each event is handed to ``subscription.put``, and where that is impossible for a time, a
        gap. What was published before is not put.

        For a channel in ``subscription.since``, what is stored after that id comes first, as
        ``feeds.catch_up(…, again=True)`` tells it: through ``subscription.replay``, in any number
        of calls, also after this has returned, but before the first ``put`` of the channel. What is
        live follows without a hole and without a repeat.

        For each other channel ``subscription.begin(channel, id)`` is called before this returns,
        with the id of the newest event that is not put; later where it cannot be reached.

        ``subscription.presence``, if it is not None, is an encoded member of each of the channels
        until ``detach``. What cannot be reached just now is no error: the subscription is entered,
        and a gap follows. Raise ChannelsError where it cannot be entered at all.
        """

    def detach(subscription):
        """Undo ``attach``; awaited on the same event loop.

        It is called once for each ``attach``, also where that raised or was cancelled half way, and
        for one that ``aclose`` has ended. Nothing is put afterwards.
        """

    def position(channel):
        """Return the id of the newest event of ``channel``; awaited.

        Where there is none, it is an id from which all that is published later is replayed, with a
        gap where a part of that is not stored any more, or may not be. Create nothing, and store
        nothing: a client may have named the channel. Raise ChannelsError where nobody knows.
        """

    def position_now(channel):
        """Do what ``position`` does, from any thread, blocking."""

    def present(channel):
        """Return the members of ``channel`` in all processes, decoded, without repeats; awaited.

        Those of a process that was killed are gone after 30 seconds at most. Raise ChannelsError
        where nobody knows.
        """

    def present_now(channel):
        """Do what ``present`` does, from any thread, blocking."""

    def aclose():
        """Close what belongs to the running event loop; awaited.

        Its subscriptions end (``subscription.end()``); a backend that closes nothing may leave
        them. The backend may be used again, and then opens what it needs.
        """


class IChannels(Interface):
    """The ``Channels`` of an application."""


class IStopping(Interface):
    """The ``Stopping`` of an application: tells responses without an end that the server stops."""
