"""What each script promises, on a real Redis: without the code that runs them in the product."""

import uuid

import pytest
from redis.exceptions import ResponseError

from pyramid_asgi_consumers.channels.redis.scripts import (
    ENTER,
    LEAVE,
    PRESENT,
    PUBLISH,
    READ,
    ROLE,
    batch_of,
)


@pytest.fixture
def key():
    return f"{uuid.uuid4()}".encode()


@pytest.fixture
def run(redis_server, key):
    """Run a script with the test's key; return what it answers."""

    def run(script, *arguments):
        return redis_server.client.eval(script.text, 1, key, *arguments)

    return run


def publish(run, payload=b"j1", history=10, expiry=100):
    return run(PUBLISH, "channel", payload, history, expiry)


def parts(entry_id):
    epoch, _, number = entry_id.partition(b"-")
    return int(epoch), int(number)


def stored(redis_server, key):
    return redis_server.client.xrange(key)


# publish.lua


def test_numbers_count_within_an_epoch_and_each_entry_names_the_id_before_it(
    redis_server, run, key
):
    ids = [publish(run) for _ in range(3)]
    positions = [parts(entry_id) for entry_id in ids]
    assert [number for _, number in positions] == [1, 2, 3]
    assert len({epoch for epoch, _ in positions}) == 1
    entries = stored(redis_server, key)
    assert [entry_id for entry_id, _ in entries] == ids
    assert [fields[b"before"] for _, fields in entries] == [b"0-0", *ids[:2]]


def test_an_epoch_is_the_time_at_which_it_began(redis_server, run):
    seconds, microseconds = redis_server.client.time()
    epoch, _ = parts(publish(run))
    assert 0 <= epoch - (seconds * 1_000_000 + microseconds) < 60_000_000


def test_another_life_of_the_server_begins_another_epoch(redis_server, run, key):
    redis_server.client.xadd(key, {"life": "another"}, id="5-7")
    first = publish(run)
    assert parts(first)[0] > 5 and parts(first)[1] == 1
    assert stored(redis_server, key)[-1][1][b"before"] == b"5-7"
    assert parts(publish(run)) == (parts(first)[0], 2)


def test_an_epoch_is_later_than_the_one_before_whatever_the_clock_says(redis_server, run, key):
    redis_server.client.xadd(key, {"life": "another"}, id="8000000000000000-7")
    assert publish(run) == b"8000000000000001-1"


def test_so_many_events_are_kept_and_without_a_history_one_that_is_empty(redis_server, run, key):
    for number in range(5):
        publish(run, b"j%d" % number, history=2)
    assert [fields[b"data"] for _, fields in stored(redis_server, key)] == [b"j3", b"j4"]
    last = publish(run, b"jx", history=0)
    assert [(i, fields[b"data"]) for i, fields in stored(redis_server, key)] == [(last, b"")]


def test_a_channel_expires_after_its_last_event(redis_server, run, key):
    publish(run, expiry=1000)
    publish(run, expiry=77)
    assert redis_server.client.ttl(key) == 77


def test_longest_is_a_length_that_no_entry_exceeds(redis_server, run, key):
    for length in (3, 9, 5):
        publish(run, b"x" * length)
    longest = [int(fields[b"longest"]) for _, fields in stored(redis_server, key)]
    assert longest == [3, 9, 9]


def test_behind_a_foreign_entry_nobody_knows_the_longest(redis_server, run, key):
    redis_server.client.xadd(key, {"foreign": "x" * 100})
    publish(run)
    assert int(stored(redis_server, key)[-1][1][b"longest"]) == 2**31


def test_what_is_stored_is_published_with_its_id(redis_server, run):
    with redis_server.client.pubsub() as events:
        events.subscribe("channel")
        assert events.get_message(timeout=20)["type"] == "subscribe"
        entry_id = publish(run, b"j1 2")
        assert events.get_message(timeout=20)["data"] == entry_id + b" j1 2"


def test_an_error_after_it_was_stored_says_so(redis_server, run, key):
    client = redis_server.client
    client.acl_setuser("app", enabled=True, nopass=True, keys=["*"], categories=["+@all"])
    locked = type(client).from_url(redis_server.url.replace("//", "//app@"))
    try:
        with pytest.raises(ResponseError, match="^STORED .*channel"):
            locked.eval(PUBLISH.text, 1, key, "channel", b"j1", 10, 100)
    finally:
        locked.close()
        client.acl_deluser("app")
    assert len(stored(redis_server, key)) == 1


# read.lua


def page(run, start="0-1", entries=100, size=10_000):
    """The entries of a page as (id, id before, payload), its newest id, and the server's life."""
    life, newest, index, payloads, _ = run(READ, start, entries, size)
    words = index.split()
    found, at = [], 0
    for entry_id, before, length in zip(words[::3], words[1::3], words[2::3], strict=True):
        found.append((entry_id, before, payloads[at : at + int(length)]))
        at += int(length)
    assert at == len(payloads)
    return found, newest, life


def test_a_page_has_what_was_published_from_its_start_on(run):
    ids = [publish(run, b"j%d" % number) for number in range(4)]
    found, newest, _ = page(run)
    assert [payload for _, _, payload in found] == [b"j0", b"j1", b"j2", b"j3"]
    assert [(i, before) for i, before, _ in found] == list(
        zip(ids, [b"0-0", *ids[:3]], strict=True)
    )
    found, newest, _ = page(run, ids[2])
    assert [payload for _, _, payload in found] == [b"j2", b"j3"] and newest == ids[3]


def test_a_page_without_a_start_tells_the_newest_id_alone(run):
    assert page(run, "") == ([], b"", page(run)[2])
    last = publish(run)
    assert page(run, "")[:2] == ([], last)


def test_a_page_has_so_many_entries_at_most(run):
    for _ in range(200):
        publish(run, history=1000)
    assert [len(page(run, entries=count)[0]) for count in (1, 64, 65, 150)] == [1, 64, 65, 150]


def test_a_page_has_so_many_bytes_at_most_but_for_one_entry(run):
    for length in (1, 1, 1, 50, 1):
        publish(run, b"x" * length)
    lengths = [len(payload) for _, _, payload in page(run, size=60)[0]]
    assert lengths == [1, 1, 1, 50, 1]
    # As long as the longest may be has room in what is left, or is alone.
    lengths = [len(payload) for _, _, payload in page(run, size=10)[0]]
    assert lengths == [1, 1, 1, 50]
    assert [len(payload) for _, _, payload in page(run, size=1)[0]] == [1]


def test_a_foreign_entry_has_a_place_and_nothing_else(redis_server, run, key):
    foreign = [
        redis_server.client.xadd(key, fields)
        for fields in (
            {"x": "y" * 1000},
            {"life": "1", "before": "x", "longest": "1", "data": "j1"},
        )
    ]
    own = publish(run)
    found, newest, _ = page(run)
    assert found[0] == (foreign[0], b"?", b"")
    assert found[1] == (foreign[1], b"?", b"j1")
    assert found[2] == (own, foreign[1], b"j1") and newest == own


# role.lua


def test_the_role_is_told_with_the_life_that_pages_tell(redis_server, run, other, key):
    role, life = run(ROLE)
    assert (role, life) == (b"master", page(run)[2])
    assert redis_server.client.info("server")["run_id"].startswith(life.decode())
    other.client.replicaof("127.0.0.1", redis_server.port)
    role, another = other.client.eval(ROLE.text, 1, key)
    assert role == b"slave" and another != life


# enter.lua, leave.lua, present.lua


def test_members_are_present_until_they_leave(run):
    assert run(ENTER, 20, b"1:ann", b"1:bob") is None
    run(ENTER, 20, b"2:ann")
    assert sorted(run(PRESENT)) == [b"1:ann", b"1:bob", b"2:ann"]
    run(LEAVE, b"1:ann")
    assert sorted(run(PRESENT)) == [b"1:bob", b"2:ann"]


def test_whose_time_is_up_is_not_present_and_goes_with_the_next_who_enters(redis_server, run, key):
    now, _ = redis_server.client.time()
    redis_server.client.zadd(key, {b"gone": now - 1, b"here": now + 100})
    assert run(PRESENT) == [b"here"]
    assert redis_server.client.zcard(key) == 2
    run(ENTER, 20, b"new")
    assert redis_server.client.zrange(key, 0, -1) == [b"new", b"here"]


def test_who_enters_again_is_present_for_longer(redis_server, run, key):
    run(ENTER, 20, b"ann")
    earlier = redis_server.client.zscore(key, b"ann")
    run(ENTER, 500, b"ann")
    assert redis_server.client.zscore(key, b"ann") >= earlier + 480
    assert 480 <= redis_server.client.ttl(key) <= 500


# A batch.


def test_a_script_is_sent_whole_once_in_a_batch(redis_server, key):
    calls = [(PUBLISH, (key, "channel", b"j1", 10, 100))] * 2 + [(READ, (key, "", 1, 1))]
    commands = batch_of(calls)
    assert [command[0] for command in commands] == ["EVAL", "EVALSHA", "EVAL"]
    redis_server.client.script_flush()
    first, second, (_, newest, *_) = (
        redis_server.client.execute_command(*command) for command in commands
    )
    assert parts(second)[1] == parts(first)[1] + 1 and newest == second


def test_comments_are_not_sent():
    assert not [
        script for script in (PUBLISH, READ, ROLE, ENTER, LEAVE, PRESENT) if "--" in script.text
    ]
