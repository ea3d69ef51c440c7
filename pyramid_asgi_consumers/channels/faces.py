"""The public API of channels: ``Channels`` on an event loop, ``RequestChannels`` from a request.

Both check names, encode data and hand it to the backend (``interfaces.IChannelsBackend``), behind
what was committed before (``committed.py``).
"""

import asyncio
from collections.abc import Mapping
from typing import Any

from pyramid_asgi_consumers.channels.committed import Committed
from pyramid_asgi_consumers.channels.disconnects import Disconnects, Word, make_word
from pyramid_asgi_consumers.channels.envelopes import Messages, content_of, envelope_of
from pyramid_asgi_consumers.channels.events import check_name, encode
from pyramid_asgi_consumers.channels.subscriptions import OVERFLOWS, Overflows, Subscription
from pyramid_asgi_consumers.exceptions import InvalidMessage
from pyramid_asgi_consumers.interfaces import IChannels


def channels_of(registry: Any) -> "Channels":
    """Return the :class:`Channels` of the application with this registry."""
    return registry.getUtility(IChannels)


class Channels:
    """Publish and subscribe on the event loop.

    ``backend`` provides :class:`.IChannelsBackend`.
    """

    def __init__(self, backend: Any) -> None:
        self.backend = backend
        self.overflows = Overflows()
        self.disconnects = Disconnects(backend)
        self.committed = Committed(backend, self.disconnects.say_again)
        self.envelopes = Messages(envelope_of)
        self.messages = Messages(content_of)

    async def publish(self, name: str, data: Any) -> str:
        """Publish ``data``, bytes or what JSON carries, on the channel ``name``; return its id.

        Raises ValueError for a name that cannot be one, TypeError for data that cannot be sent,
        :class:`.PublishRefused` where it was not published and :class:`.PublishUnknown` where
        nobody knows.
        """
        return await self.publish_encoded((check_name(name), encode(data)))

    async def publish_encoded(self, message: tuple[str, bytes]) -> str:
        """Publish a name that was checked with data that was encoded, after what was committed.

        Waiting for that is part of the backend's ``timeout``, 5 seconds where it has none.
        """
        if self.committed.busy:
            return await self.committed.published_behind(message)
        return await self.backend.publish(*message)

    def subscribe(
        self,
        *names: str,
        since: str | Mapping[str, str] | None = None,
        max_queue: int = 1000,
        max_bytes: int = 16 * 1024 * 1024,
        overflow: str = "drop_oldest",
        presence: Any = None,
    ) -> Subscription:
        """Return a subscription to these channels: ``async with … as events``.

        ``since`` is the id of the last event that was seen (with several channels, a mapping from
        name to id): what is still stored of those after it comes first. ``max_queue`` events, of
        ``max_bytes`` bytes of JSON text (as UTF-8) and of bytes together, may wait for a slow
        subscriber; beyond that, with ``overflow="drop_oldest"`` the oldest give way to a
        :class:`.Gap`, with ``"close"`` the iteration raises :class:`.SubscriptionOverflow`. A
        single event of more than ``max_bytes`` is a ``Gap`` with either: nobody was slow. What
        ``since`` replays is not counted; it takes at most what the backend stores.
        ``presence``, what JSON carries, is shown by :meth:`present` meanwhile.

        Raises ValueError, TypeError for a ``presence`` that cannot be sent, and
        :class:`.InvalidMessage`, a ValueError, for a ``since`` that is none: pages say it, mostly.
        """
        if not names:
            raise ValueError("subscribe: expected the name of a channel at least")
        channels = tuple(dict.fromkeys(check_name(name) for name in names))
        for option, bound in ("max_queue", max_queue), ("max_bytes", max_bytes):
            if isinstance(bound, bool) or not isinstance(bound, int) or bound < 1:
                raise ValueError(
                    f"subscribe: {option} must be a whole number of at least 1, not {bound!r}"
                )
        if overflow not in OVERFLOWS:
            raise ValueError(
                f"subscribe: overflow must be one of {', '.join(OVERFLOWS)}, not {overflow!r}"
            )
        return Subscription(
            self.backend,
            self.overflows,
            channels,
            _positions(channels, since),
            max_queue,
            max_bytes,
            overflow,
            None if presence is None else encode(presence),
        )

    async def position(self, name: str) -> str:
        """Return the id of the newest event of the channel ``name``, for ``since``.

        It is an id also where there is no event: all that is published from then on follows it. An
        event that was published before this was called is not after it. One whose transaction has
        committed may be, while it still waits to be published. Nothing is created or written.

        Raises ValueError for a name that cannot be one, and :class:`.ChannelsError` where nobody
        knows.
        """
        return await self.backend.position(check_name(name))

    async def present(self, name: str) -> list[Any]:
        """Return who subscribes to ``name`` with a ``presence``: these, without repeats.

        The members of a process that was killed are shown for 30 seconds at most.

        Raises ValueError for a name that cannot be one, and :class:`.ChannelsError` where nobody
        knows.
        """
        return await self.backend.present(check_name(name))

    async def disconnect(self, userid: Any, reason: str = "") -> None:
        """Close the connections of a user to guarded consumers, in every process.

        Websockets are closed with 4401 and ``reason``, of at most 123 bytes in UTF-8; event streams
        end, and other http consumers are cancelled; a handshake under way is refused with 403. What
        came after a word that was long on its way to another process, while Redis was away, say, is
        closed with 4403: the user may have logged in again.
        ``userid`` is what the security policy calls the user: a str, int, float, UUID, bytes, or a
        tuple or list of these; with ``memory://``, which is one process, anything that compares
        equal.

        Raises RuntimeError where ``userid`` is None, TypeError for one that other processes cannot
        be told, ValueError for a reason that cannot be sent. Raises
        :class:`.PublishRefused` or :class:`.PublishUnknown` where other processes have not heard of
        it, or nobody knows; those of this process are closed all the same.
        """
        word = make_word(userid, reason)
        messages = self.disconnects.messages(word)
        self.disconnects.give(word)
        # Event loops are told; this one has heard of it when it has turned.
        await asyncio.sleep(0)
        for message in messages:
            await self.publish_encoded(message)


def _positions(
    channels: tuple[str, ...], since: str | Mapping[str, str] | None
) -> Mapping[str, str]:
    if since is None:
        return {}
    if isinstance(since, str) and len(channels) == 1:
        return {channels[0]: since}
    if not isinstance(since, Mapping) or not all(isinstance(x, str) for x in since.values()):
        # A page says it, as a rule.
        raise InvalidMessage(
            "subscribe: since must be the id of an event, or with several channels a mapping from"
            f" name to id, not {since!r:.250}"
        )
    return dict(since)


class RequestChannels:
    """Channels in views, scripts and Celery tasks: ``request.channels``."""

    __slots__ = ("_request",)

    def __init__(self, request: Any) -> None:
        self._request = request

    @property
    def _channels(self) -> Channels:
        return channels_of(self._request.registry)

    def publish(self, name: str, data: Any) -> None:
        """Publish ``data`` on the channel ``name`` once the transaction commits.

        The transaction is that of ``request.tm``, if one is under way: an abort or a veto takes
        the event back. An abort also takes back what its own hooks publish: use
        :meth:`publish_now` there. If a commit fails, what its after-commit hooks publish is sent
        all the same. A failure after the commit is logged. Without a transaction it is published
        at once, and a failure raises as in :meth:`publish_now`. Events go in the order of the
        commits, and those that are published afterwards come after them. On an event loop a thread
        publishes for the commit; a commit that has waited for it for ``timeout`` seconds leaves
        its events to that thread.

        Raises ValueError for a name that cannot be one, TypeError for data that cannot be sent,
        RuntimeError on the thread of an event loop.
        """
        _refuse_on_loop("publish", "await request.channels.apublish(name, data)")
        message = (check_name(name), encode(data))
        if not self._joins([message]):
            self._channels.committed.publish_now(message)

    def publish_now(self, name: str, data: Any) -> str:
        """Publish ``data`` on the channel ``name`` without regard to a transaction; return its id.

        What was committed before goes first; waiting for that is part of the backend's ``timeout``,
        5 seconds where it has none. The id is empty where this is called by a finalizer, or by the
        handler of a signal or of log lines, that interrupts another publish in its own thread: it
        is published as soon as that is done, and a failure is logged.

        Raises :class:`.PublishRefused` where it was not published, :class:`.PublishUnknown` where
        nobody knows, and otherwise as :meth:`publish`.
        """
        _refuse_on_loop("publish_now", "await websocket.channels.publish(name, data)")
        return self._channels.committed.publish_now((check_name(name), encode(data)))

    async def apublish(self, name: str, data: Any) -> None:
        """Do what :meth:`publish` does, on an event loop: in an ``async def`` view."""
        message = (check_name(name), encode(data))
        if not self._joins([message]):
            await self._channels.publish_encoded(message)

    def disconnect(self, userid: Any = None, reason: str = "") -> None:
        """Close the connections of a user to guarded consumers once the transaction commits.

        None is the request's own ``authenticated_userid``: call it before ``forget``. As with
        :meth:`publish`, an abort or a veto takes it back, and without a transaction it is done at
        once. What is closed, and how, says :meth:`.Channels.disconnect`, and what is raised.

        Raises RuntimeError where nobody is logged in, and on the thread of an event loop.
        """
        _refuse_on_loop("disconnect", "await request.channels.adisconnect(userid)")
        channels, word, messages = self._disconnected(userid, reason)
        if not self._joins(messages, word):
            channels.disconnects.give(word)
            for message in messages:
                channels.committed.publish_now(message)

    async def adisconnect(self, userid: Any = None, reason: str = "") -> None:
        """Do what :meth:`disconnect` does, on an event loop: in an ``async def`` view."""
        channels, word, messages = self._disconnected(userid, reason)
        if not self._joins(messages, word):
            await channels.disconnect(word.userid, word.reason)

    def _disconnected(
        self, userid: Any, reason: str
    ) -> tuple[Channels, Word, list[tuple[str, bytes]]]:
        channels = self._channels
        if userid is None:
            userid = self._request.authenticated_userid
        word = make_word(userid, reason)
        return channels, word, channels.disconnects.messages(word)

    def position(self, name: str) -> str:
        """Return the id of the newest event of the channel ``name``, for ``since``; blocking.

        A view reads it before its first query, so that its page, which goes on from there, lacks
        nothing: what is published was committed before, and what was published by then is in what
        the query reads. See :meth:`.Channels.position`.

        Raises RuntimeError on the thread of an event loop.
        """
        _refuse_on_loop("position", "await request.channels.aposition(name)")
        return self._channels.backend.position_now(check_name(name))

    async def aposition(self, name: str) -> str:
        """Do what :meth:`position` does, on an event loop: in an ``async def`` view."""
        return await self._channels.position(name)

    def present(self, name: str) -> list[Any]:
        """Return who subscribes to ``name`` with a ``presence``; blocking.

        See :meth:`.Channels.present`. Raises RuntimeError on the thread of an event loop.
        """
        _refuse_on_loop("present", "await request.channels.apresent(name)")
        return self._channels.backend.present_now(check_name(name))

    async def apresent(self, name: str) -> list[Any]:
        """Do what :meth:`present` does, on an event loop: in an ``async def`` view."""
        return await self._channels.present(name)

    def _joins(self, messages: list[tuple[str, bytes]], word: Word | None = None) -> bool:
        transaction = _transaction(self._request)
        if transaction is None:
            return False
        channels = self._channels
        # The hooks of a failed commit publish in spite of it: theirs is kept apart.
        failed = getattr(transaction, "status", None) == "Commit failed"
        try:
            joined = transaction.data(channels)
        except KeyError:
            joined = None
        if joined is None or joined[0] != failed:
            joined = (failed, [], [])
            transaction.set_data(channels, joined)
            transaction.addAfterCommitHook(_after_commit, (transaction, channels, *joined))
        joined[1].extend(messages)
        if word is not None:
            joined[2].append(word)
        return True


class _Synchronizer:
    # A manager tells a new synchronizer of the transaction under way, and only of that: get()
    # would begin one.
    transaction = None

    def newTransaction(self, transaction: Any) -> None:
        self.transaction = transaction


def _transaction(request: Any) -> Any:
    manager = getattr(request, "tm", None)
    if manager is None:
        return None
    synchronizer = _Synchronizer()
    manager.registerSynch(synchronizer)
    manager.unregisterSynch(synchronizer)
    return synchronizer.transaction


def _after_commit(
    success: bool,
    transaction: Any,
    channels: Channels,
    failed: bool,
    messages: list[tuple[str, bytes]],
    words: list[Word],
) -> None:
    # Another hook may publish after this one: that takes a hook of its own.
    transaction.set_data(channels, None)
    if not success and not failed:
        return
    for word in words:
        channels.disconnects.give(word)
    if not messages:
        return
    if _runs_a_loop():
        channels.committed.publish_later(messages)
    else:
        channels.committed.publish(messages)


def _refuse_on_loop(method: str, instead: str) -> None:
    if _runs_a_loop():
        raise RuntimeError(
            f"request.channels.{method} would block the event loop of this thread: use `{instead}`"
        )


def _runs_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
