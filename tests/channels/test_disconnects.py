"""The word that a user is put out: what it says, and who hears it."""

import asyncio
import os
import threading
import time
from uuid import UUID, uuid4

import pytest
import transaction
from hypothesis import given
from hypothesis import strategies as st
from pyramid.request import Request, apply_request_extensions

from pyramid_asgi_consumers.channels import Channels, Gap, channels_of, disconnects
from pyramid_asgi_consumers.channels.disconnects import Disconnects, Listening, Word, make_word
from pyramid_asgi_consumers.channels.events import RESERVED, make_event
from pyramid_asgi_consumers.channels.memory import MemoryBackend
from pyramid_asgi_consumers.channels.redis import RedisBackend
from pyramid_asgi_consumers.exceptions import PublishRefused
from tests.support.channels import until
from tests.support.redis_server import running_redis

parts = st.none() | st.booleans() | st.integers() | st.text() | st.binary() | st.uuids()
parts |= st.floats(allow_nan=False)
userids = st.recursive(parts, lambda x: st.lists(x) | st.lists(x).map(tuple), max_leaves=6)


class Elsewhere:
    """A backend that is not of one process."""

    timeout = 1.0

    def __init__(self):
        self.published = []
        self.fails = False

    def publish_many(self, messages):
        if self.fails:
            return [PublishRefused("out of reach") for _ in messages]
        self.published += messages
        return ["0"] * len(messages)

    async def publish(self, *message):
        (result,) = self.publish_many([message])
        if isinstance(result, PublishRefused):
            raise result
        return result


def listening(disconnects=None):
    heard = []
    disconnects = disconnects or Disconnects(None)
    return Listening(disconnects, heard.append, lambda: heard.append("doubt"), heard.append), heard


def told(messages):
    """What another process hears of ``messages``."""
    there, heard = listening()
    for number, (channel, payload) in enumerate(messages, 1):
        there.put(make_event(channel, (1, number), payload))
    return heard


@given(userids.filter(lambda userid: userid is not None), st.text(max_size=30))
def test_other_processes_hear_an_equal_userid_and_the_reason(userid, reason):
    word = Word(userid, reason)
    (heard,) = told(Disconnects(Elsewhere()).messages(word))
    assert heard == word
    assert type(heard.userid) is type(userid)


@pytest.mark.parametrize("userid", [object(), {"id": 1}, ("x", object()), [{}], float("nan"), {1}])
def test_a_userid_that_other_processes_cannot_be_told_is_refused(userid):
    with pytest.raises(TypeError, match="other processes can only be told a userid that is a str"):
        Disconnects(Elsewhere()).messages(Word(userid, ""))
    assert Disconnects(MemoryBackend()).messages(Word(userid, "")) == []


def test_applications_that_share_a_memory_hear_each_other():
    heard = []
    backend = MemoryBackend()
    Disconnects(backend).listen(heard.append)
    Disconnects(backend).give(Word("ann", ""))
    Disconnects(MemoryBackend()).give(Word("bob", ""))
    assert heard == [Word("ann", "")]


def test_nobody_cannot_be_disconnected():
    with pytest.raises(RuntimeError, match="nobody is logged in here; name the userid"):
        make_word(None, "")


def test_a_reason_has_at_most_123_bytes():
    assert make_word(1, "é" * 61).reason == "é" * 61
    for reason in ("é" * 62, "\ud800"):
        with pytest.raises(ValueError, match="at most 123 bytes in UTF-8, not "):
            make_word(1, reason)
    with pytest.raises(TypeError, match="reason must be a str, not b''"):
        make_word(1, b"")


def test_the_channel_is_nobodys():
    channels = Channels(MemoryBackend())
    with pytest.raises(ValueError, match="is the package's own"):
        channels.subscribe(RESERVED)


def test_a_process_does_not_hear_its_own_word_again_and_its_fork_does(monkeypatch):
    disconnects = Disconnects(Elsewhere())
    ((channel, payload),) = disconnects.messages(Word("ann", ""))
    here, heard = listening(disconnects)
    here.put(make_event(channel, (1, 1), payload))
    assert heard == []
    monkeypatch.setattr(os, "getpid", lambda: 0)
    here.put(make_event(channel, (1, 2), payload))
    assert heard == [Word("ann", "")]


REST = b'"reason":"","by":"","at":1}'


@pytest.mark.parametrize(
    "payload",
    [
        b"j{}",
        b"j[]",
        b"bx",
        b'j{"user":{"new":1},' + REST,
        b'j{"user":{"uuid":"x"},' + REST,
        # Nobody is everybody who has not logged in.
        b'j{"user":null,' + REST,
        b'j{"user":"ann","reason":"%s","by":"","at":1}' % (b"x" * 124),
        b'j{"user":"ann","reason":1,"by":"","at":1}',
        b'j{"user":"ann","reason":"","by":"","at":"now"}',
    ],
)
def test_what_cannot_be_read_is_misheard(payload):
    here, heard = listening()
    here.put(make_event(RESERVED, (1, 1), payload))
    (error,) = heard
    assert isinstance(error, Exception)


def test_a_word_tells_when_it_was_said():
    before = time.time()
    (heard,) = told(Disconnects(Elsewhere()).messages(Word("ann", "")))
    assert before <= heard.at <= time.time()


def test_words_may_have_been_missed_after_a_gap_and_a_time_out_of_touch():
    here, heard = listening()
    # It has been entered while the backend could not be reached.
    here.begin(RESERVED, "0" * 32)
    assert heard == ["doubt"]
    here.lose_touch()
    ((_, payload),) = Disconnects(Elsewhere()).messages(Word("ann", ""))
    here.replay([make_event(RESERVED, (1, 1), payload), Gap(RESERVED, 1)])
    here.regain_touch()
    assert heard == ["doubt", Word("ann", ""), "doubt", "doubt"]
    here.end()
    assert here.is_over


class Asked:
    """A request's channels over ``backend``, and the words that were given in this process."""

    def __init__(self, config, backend, userid="ann"):
        config.set_channels_backend(backend)
        config.testing_securitypolicy(userid=userid)
        config.commit()
        self.words = []
        channels_of(config.registry).disconnects.listen(self.words.append)
        self.request = Request.blank("/")
        self.request.registry = config.registry
        apply_request_extensions(self.request)


@pytest.fixture
def elsewhere(monkeypatch):
    # Methods are there, as far as they are asked for.
    monkeypatch.setattr("pyramid_asgi_consumers.config.channels.verifyObject", lambda *a, **k: True)
    return Elsewhere()


def test_without_a_transaction_it_is_done_at_once(config, elsewhere):
    asked = Asked(config, elsewhere)
    asked.request.channels.disconnect(reason="bye")
    asked.request.channels.disconnect(("x", 1))
    assert asked.words == [Word("ann", "bye"), Word(("x", 1), "")]
    assert told(elsewhere.published) == asked.words


def test_this_process_hears_of_it_though_others_cannot(config, elsewhere):
    asked = Asked(config, elsewhere)
    elsewhere.fails = True
    with pytest.raises(PublishRefused):
        asked.request.channels.disconnect()
    assert asked.words == [Word("ann", "")]


def test_nobody_is_logged_in(config, elsewhere):
    asked = Asked(config, elsewhere, userid=None)
    with pytest.raises(RuntimeError, match="nobody is logged in here"):
        asked.request.channels.disconnect()
    assert elsewhere.published == asked.words == []


async def test_a_view_does_not_block_the_event_loop(config, elsewhere):
    asked = Asked(config, elsewhere)
    channels = asked.request.channels
    with pytest.raises(RuntimeError, match=r"await request\.channels\.adisconnect\(userid\)"):
        channels.disconnect()
    await channels.adisconnect(reason="bye")
    await channels_of(config.registry).disconnect(7)
    assert asked.words == [Word("ann", "bye"), Word(7, "")]
    assert told(elsewhere.published) == asked.words
    with pytest.raises(RuntimeError, match="nobody is logged in here"):
        await channels_of(config.registry).disconnect(None)


@pytest.mark.parametrize("backend", [MemoryBackend, Elsewhere])
def test_it_is_done_when_the_transaction_has_committed(config, elsewhere, backend):
    backend = elsewhere if backend is Elsewhere else backend()
    asked = Asked(config, backend)
    asked.request.tm = transaction.TransactionManager(explicit=True)
    with asked.request.tm:
        asked.request.channels.publish("news", 1)
        asked.request.channels.disconnect()
        asyncio.run(asked.request.channels.adisconnect("bob"))
        assert asked.words == []
    assert asked.words == [Word("ann", ""), Word("bob", "")]
    if backend is elsewhere:
        assert elsewhere.published[0] == ("news", b"j1")
        assert told(elsewhere.published[1:]) == asked.words


def test_an_aborted_transaction_disconnects_nobody(config, elsewhere):
    asked = Asked(config, elsewhere)
    manager = asked.request.tm = transaction.TransactionManager(explicit=True)
    manager.begin()
    asked.request.channels.disconnect()
    manager.abort()
    assert asked.words == elsewhere.published == []


@pytest.fixture
def committed(config, elsewhere, monkeypatch):
    """Commits a disconnect of "ann", and an event, while others cannot be told."""
    monkeypatch.setattr(disconnects, "FIRST", 0.01)
    asked = Asked(config, elsewhere)

    def commit():
        asked.request.tm = transaction.TransactionManager(explicit=True)
        with asked.request.tm:
            asked.request.channels.publish("news", 1)
            asked.request.channels.disconnect()
        return asked.words

    elsewhere.fails = True
    yield commit
    elsewhere.fails = False
    said_again()


def said_again():
    """Wait until nothing is left to be said again."""
    threads = [each for each in threading.enumerate() if each.name == "asgi-disconnects"]
    assert not any(thread.join(20) or thread.is_alive() for thread in threads)


def test_a_word_that_others_could_not_be_told_is_said_again(committed, elsewhere, caplog):
    assert committed() == [Word("ann", "")]
    assert committed() == [Word("ann", "")] * 2
    lines = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert "1 disconnects are said again until other processes hear them" in lines
    assert len(lines) == 4
    time.sleep(0.05)
    assert elsewhere.published == []
    elsewhere.fails = False
    said_again()
    # The events are not: who was not there when it was committed reads it from the database.
    assert told(elsewhere.published) == [Word("ann", "")] * 2
    # All is as it was before.
    elsewhere.fails = True
    committed()
    elsewhere.fails = False
    said_again()
    assert len(elsewhere.published) == 3


def test_a_backend_that_raises_is_asked_again(committed, elsewhere, monkeypatch, caplog):
    def broken(messages):
        broken.times += 1
        raise OSError("broken")

    broken.times = 0
    with monkeypatch.context() as patched:
        patched.setattr(elsewhere, "publish_many", broken)
        committed()
        deadline = time.monotonic() + 20
        while broken.times < 3:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        elsewhere.fails = False
    said_again()
    assert told(elsewhere.published) == [Word("ann", "")]


def test_the_latest_words_are_kept(elsewhere, monkeypatch):
    monkeypatch.setattr(disconnects, "FIRST", 0.01)
    one = Disconnects(elsewhere)
    elsewhere.fails = True
    for number in range(disconnects.UNSAID + 5):
        one.say_again(one.messages(Word(number, "")))
    elsewhere.fails = False
    said_again()
    assert [word.userid for word in told(elsewhere.published)][-1] == disconnects.UNSAID + 4
    assert len({word.userid for word in told(elsewhere.published)}) >= disconnects.UNSAID


def test_where_no_thread_starts_any_more_it_is_left(elsewhere, monkeypatch):
    def start(self):
        raise RuntimeError("can't start new thread")

    one = Disconnects(elsewhere)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start)
        one.say_again(one.messages(Word("ann", "")))
    monkeypatch.setattr(disconnects, "FIRST", 0.01)
    one.say_again(one.messages(Word("bob", "")))
    said_again()
    assert told(elsewhere.published) == [Word("ann", ""), Word("bob", "")]


@pytest.mark.redis
async def test_other_processes_hear_of_it_when_redis_is_back(tmp_path, config, monkeypatch):
    monkeypatch.setattr(disconnects, "FIRST", 0.01)
    with running_redis(tmp_path) as server:
        own, others = RedisBackend(server.url, timeout=1.0), RedisBackend(server.url)
        asked = Asked(config, own)
        there, heard = listening(Disconnects(others))
        await there.enter()
        server.stop()

        def commit():
            asked.request.tm = transaction.TransactionManager(explicit=True)
            with asked.request.tm:
                asked.request.channels.disconnect()

        await asyncio.to_thread(commit)
        assert asked.words == [Word("ann", "")]
        server.start()
        await asyncio.to_thread(said_again)
        await until(lambda: Word("ann", "") in heard)
        await there.leave()
        await own.aclose()
        await others.aclose()


@pytest.mark.redis
async def test_words_are_kept_for_who_was_out_of_touch(redis_server):
    backend = RedisBackend(redis_server.url, prefix=f"{uuid4()}:")
    channels = Channels(backend)
    try:
        start = await backend.position(RESERVED)
        await channels.publish("news", "before")
        for userid in range(30):
            await channels.disconnect(userid)
        here, heard = listening(Disconnects(backend))
        here.since = {RESERVED: start}
        await here.enter()
        await until(lambda: len(heard) > 30)
        heard.remove("doubt")
        assert heard == [Word(userid, "") for userid in range(30)]
        await here.leave()
    finally:
        await backend.aclose()


def test_ids_of_kinds_that_json_lacks_are_told_by_their_kind():
    userid = (UUID(int=1), b"\xff", ["x", None])
    (heard,) = told(Disconnects(Elsewhere()).messages(Word(userid, "")))
    assert heard.userid == userid
