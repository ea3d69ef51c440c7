"""Which consumer a path finds."""

import cProfile
import re
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pyramid.urldispatch import Route

from pyramid_asgi_consumers.mapper import Consumer, ConsumerMapper

app = object()


def mapper_of(*patterns):
    mapper = ConsumerMapper()
    for pattern in patterns:
        mapper.add(Consumer(pattern, "websocket", app, "it"))
    return mapper


def found(path, *patterns):
    """The pattern that wins for ``path``, whichever way round they are declared, and what it
    matched."""
    consumer, params = mapper_of(*patterns)("websocket", path)
    turned, _ = mapper_of(*reversed(patterns))("websocket", path)
    assert turned.path == consumer.path
    return consumer.path, params


# What matches.


@pytest.mark.parametrize(
    ("pattern", "path", "params"),
    [
        ("/", "/", {}),
        ("/ws", "/ws", {}),
        ("ws", "/ws", {}),
        ("/ws/", "/ws/", {}),
        ("/größe/{x}", "/größe/ß", {"x": "ß"}),
        ("/a.b+c$", "/a.b+c$", {}),
        ("/a%20b", "/a%20b", {}),
        ("/{a}/{b}", "/1/2", {"a": "1", "b": "2"}),
        ("/{a}.{b:json|xml}", "/x.json", {"a": "x", "b": "json"}),
        (r"/{year:\d{4}}", "/2024", {"year": "2024"}),
        (r"/{a:[^/]+/[^/]+}/x", "/1/2/x", {"a": "1/2"}),
        ("/files/{path:.*}", "/files/", {"path": ""}),
        ("/files/{path:.*}", "/files/a/b", {"path": "a/b"}),
        ("/files/*path", "/files/", {"path": ()}),
        ("/files/*path", "/files/a/b", {"path": ("a", "b")}),
        ("/files*path", "/files-a/b", {"path": ("-a", "b")}),
        ("/files/*", "/files/", {}),
        ("/a*b/c", "/a*b/c", {}),
        ("/old/:room/:id", "/old/a/1", {"room": "a", "id": "1"}),
        ("/v:version", "/v2", {"version": "2"}),
        ("/:literal/{x}", "/:literal/1", {"x": "1"}),
        ("/{1}", "/{1}", {}),
        ("/{x}/y", "/a\nb/y", {"x": "a\nb"}),
    ],
)
def test_a_pattern_is_read_as_pyramid_reads_it(pattern, path, params):
    assert Route("it", pattern).match(path) == params
    assert found(path, pattern) == (pattern, params)


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("/ws", "/w"),
        ("/ws", "/ws/"),
        ("/ws", "/WS"),
        ("/ws", "ws"),
        ("/ws", "x/ws"),
        ("/ws", ""),
        ("/a.b", "/aXb"),
        ("/{x}", "/"),
        ("/{x}/y", "//y"),
        (r"/{x:\d+}", "/a"),
        ("/a/*rest", "/a"),
        ("/a/{rest:.*}", "/a"),
        ("/a/*rest", "/ab/c"),
        (r"/{x:\d+}/y/{z:\d+}", "/1/2/y/3"),
    ],
)
def test_nothing_is_found_for_another_path(pattern, path):
    assert mapper_of(pattern)("websocket", path) is None


@pytest.mark.parametrize("pattern", ["/ws", "/ws\n", "/{x}", r"/{x:\w+}", "/{x:(?s:.*)}", "/*rest"])
def test_a_path_that_ends_in_a_newline_finds_nothing(pattern):
    assert mapper_of(pattern)("websocket", "/ws\n") is None


def test_nothing_is_found_for_another_protocol():
    mapper = mapper_of("/ws")
    assert mapper("http", "/ws") is None
    assert mapper.has_consumers("websocket")
    assert not mapper.has_consumers("http")


def test_the_root_path_itself_finds_what_pyramid_has_as_its_root_page():
    assert found("", "/", "/{x}") == ("/", {})


@pytest.mark.parametrize("pattern", ["/{a}/{a}", "/{a-b}", "/{a:(}"])
def test_a_pattern_that_pyramid_refuses_is_refused(pattern):
    with pytest.raises(re.error):
        Consumer(pattern, "websocket", app, "it")


# Which one wins.


@pytest.mark.parametrize(
    ("path", "winner", "loser"),
    [
        ("/a", "/a", "/{x:a}"),
        ("/a", "/a", "/a*x"),
        ("/1", r"/{x:\d}", "/{x}"),
        ("/a-1", "/a-{x}", "/{x}"),
        ("/ab", "/{x:a}{y}", "/{x}"),
        ("/a", "/{x}", "/*x"),
        ("/ab", "/{x}", "/a*x"),
        ("/a/", "/a/", "/a/*x"),
        ("/a/b", "/a/{x}", "/{x}/b"),
        ("/a/b/c", "/a/{x}/{y}", "/{x}/b/c"),
        ("/1/b", r"/{x:\d}/{y}", "/{x}/b"),
        ("/a/b/c", "/a/{x}/c", "/a/*rest"),
        ("/a/b/c", "/a/*rest", "/{x}/b/c"),
        # A pattern's text does not count, nor what it takes.
        ("/a/b", "/{x:.*}", "/{x}/b"),
        ("/a/b", "/{x:.*}/b", "/{x:.*}"),
        ("/a/b/c/d", "/{x:.*}/c/{y}", "/{x:.*}/{y}/d"),
        ("/a/x/y/1", r"/{p:.*}/y/{q:\d}", "/{p:.*}/x/{q}/{r}"),
    ],
)
def test_the_more_specific_pattern_wins(path, winner, loser):
    assert found(path, winner, loser)[0] == winner


def test_a_less_specific_pattern_serves_what_the_more_specific_ones_do_not():
    mapper = mapper_of("/a/{x}/c", r"/a/{x:\d+}/{y}", "/{x}/b/d", "/*rest")
    for path, pattern in {
        "/a/b/c": "/a/{x}/c",
        "/a/1/c": r"/a/{x:\d+}/{y}",
        "/a/b/d": "/{x}/b/d",
        "/a/b/e": "/*rest",
    }.items():
        assert mapper("websocket", path)[0].path == pattern


@pytest.mark.parametrize(
    ("path", "patterns"),
    [
        ("/a", ["/{x:a}", "/{x:a|b}", "/{x:.}"]),
        ("/ab", ["/a{x}", "/{x}b", "/{x}{y}"]),
        ("/ab", ["/a*x", "/*x", "/{x}*y"]),
        ("/a/x/y/b", ["/{p:.*}/x/{q:.*}", "/{p:.*}/y/{q:.*}"]),
    ],
)
def test_between_equals_the_one_declared_first_wins(path, patterns):
    for first in patterns:
        others = [pattern for pattern in patterns if pattern != first]
        assert mapper_of(first, *others)("websocket", path)[0].path == first


def test_a_consumer_that_is_declared_again_replaces_the_first():
    mapper = ConsumerMapper()
    for name in ("first", "second"):
        mapper.add(Consumer("/ws/{id}", "websocket", app, name))
        consumer, path_params = mapper("websocket", "/ws/1")
        assert (consumer.declared, path_params) == (name, {"id": "1"})
    assert [each.declared for each in mapper] == ["second"]


def test_a_consumer_that_is_declared_again_comes_after_those_declared_before():
    mapper = mapper_of("/{x:a}", "/{x:[a]}", "/{x:a}")
    assert mapper("websocket", "/a")[0].path == "/{x:[a]}"
    assert [each.path for each in mapper] == ["/{x:[a]}", "/{x:a}"]


def test_those_declared_first_are_those_added_first():
    # A guarded consumer is made anew, after others were declared, and added in its own place.
    unguarded = Consumer(r"/room/{name:\w+}", "websocket", app, "unguarded")
    guarded = Consumer(r"/room/{id:\d+}", "websocket", app, "guarded")
    mapper = ConsumerMapper()
    mapper.add(guarded)
    mapper.add(unguarded)
    assert mapper("websocket", "/room/7")[0] is guarded
    mapper.add(guarded)
    assert mapper("websocket", "/room/7")[0] is unguarded


@pytest.mark.usefixtures("switching")
def test_consumers_may_be_added_by_several_threads_at_once():
    for _ in range(50):
        mapper = ConsumerMapper()
        consumers = [
            Consumer(f"/a/b{each % 3}/{each}", "websocket", app, "it") for each in range(9)
        ]
        barrier = threading.Barrier(3)

        def add(own, mapper=mapper, barrier=barrier):
            barrier.wait(20)
            for consumer in own:
                mapper.add(consumer)

        with ThreadPoolExecutor(3) as pool:
            list(pool.map(add, (consumers[at::3] for at in range(3))))
        assert [mapper("websocket", each.path)[0] for each in consumers] == consumers


def test_patterns_may_be_deep():
    mapper = mapper_of("/a" * 1200 + "/b", "/a" * 1200 + "/c")
    assert mapper("websocket", "/a" * 1200 + "/c") is not None


def test_an_application_need_not_be_hashable():
    class Unhashable:
        __hash__ = None

    assert len({Consumer("/ws", "websocket", Unhashable(), "it")}) == 1


def test_a_consumer_is_named_in_logs_by_protocol_pattern_and_what_it_is():
    assert str(Consumer("/{x}", "http", app, "it")) == "http consumer /{x} (it)"


# What it costs.


def calls(func, *args):
    """How many calls it takes, to Python's and to C functions."""
    profile = cProfile.Profile()
    profile.runcall(func, *args)
    return sum(entry.callcount for entry in profile.getstats())


@pytest.mark.parametrize(
    ("pattern", "path", "params"),
    [
        ("/x%d", "/x7", {}),
        ("/a/b/x%d", "/a/b/x7", {}),
        ("/x%d/{id}", "/x7/5", {"id": "5"}),
        ("/a/{id}/x%d", "/a/5/x7", {"id": "5"}),
        (r"/a/{id:\d+}/x%d", "/a/5/x7", {"id": "5"}),
        (r"/{a:\d+}/x%d/{b:\d+}", "/5/x7/6", {"a": "5", "b": "6"}),
        ("/a/{path:.*}/x%d", "/a/5/6/x7", {"path": "5/6"}),
        ("/a/{id}/x%d/*rest", "/a/5/x7/8/9", {"id": "5", "rest": ("8", "9")}),
    ],
)
def test_a_look_up_takes_as_many_calls_among_hundreds_as_among_ten(pattern, path, params):
    few, many = (mapper_of(*(pattern % each for each in range(n))) for n in (10, 500))
    consumer, got = many("websocket", path)
    assert (consumer.path, got) == (pattern % 7, params)
    assert calls(many, "websocket", path) == calls(few, "websocket", path)
    assert calls(many, "websocket", "/a/5/y") == calls(few, "websocket", "/a/5/y")


@pytest.mark.parametrize(
    ("patterns", "path"),
    [
        (["/{p:.*}/x" + str(each) for each in range(50)], "/x1/x2/x3" * 10 + "/q"),
        (["/docs/{path:.+}/rev/{name:.+}/edit"], "/docs" + "/rev" * 100),
        (["/{a:.*}/x/{b:.*}/x/{c:.*}/y"], "/x" * 100),
        (["/{a:(x+)+}/foo"], "/" + "x" * 22 + "/bar"),
    ],
)
def test_an_expression_is_asked_only_where_the_literal_segments_are_there(patterns, path):
    root = mapper_of(*patterns)._roots["websocket"]
    assert root.reached(path[1:].split("/")) == []


def test_a_path_of_many_slashes_costs_no_more_than_its_length():
    mapper = mapper_of(r"/{a:\d+}/x/{b:\d+}/{c}/{d:\d+}/x", r"/{a:\d+}/{b:\d+}/{c:\d+}/*rest")
    short, long = (calls(mapper, "websocket", "/y" * n) for n in (20, 200))
    assert long < 10.5 * short


# Properties: the same as Pyramid's own matchers, all asked one after the other.

LITERAL, PATTERN, PLACEHOLDER, REST = range(4)
segments = st.sampled_from(
    [
        ("", LITERAL),
        ("a", LITERAL),
        ("b", LITERAL),
        ("1", LITERAL),
        ("ä.$", LITERAL),
        ("{%s}", PLACEHOLDER),
        ("a{%s}", PATTERN),
        ("{%s}{%s_}", PATTERN),
        (r"{%s:\d}", PATTERN),
        ("{%s:[ab]{1,2}}", PATTERN),
        ("{%s:.*}", PATTERN),
        ("{%s:[^/]*/a}", PATTERN),
        ("{%s:(?s:.+)}", PATTERN),
    ]
)
rests = st.sampled_from([None, ("*%s", REST), ("a*%s", REST), ("{%s}*%s_", REST)])


@st.composite
def ranked_patterns(draw):
    """A pattern and its rank, known from how it was made."""
    parts = draw(st.lists(segments, min_size=1, max_size=4))
    rest = draw(rests)
    if rest is not None:
        parts.append(rest)
    named = (text.replace("%s", f"v{at}") for at, (text, _) in enumerate(parts))
    return "/" + "/".join(named), (*(rank for _, rank in parts), REST + 1)


paths = st.lists(
    st.sampled_from(["", "a", "b", "1", "ab", "ä.$", "a\n", "..", "\u2603"]), max_size=6
).map(lambda parts: "".join("/" + part for part in parts)) | st.text(max_size=5)


@settings(deadline=None, max_examples=200)
@given(
    declared=st.lists(ranked_patterns(), min_size=1, max_size=8, unique_by=lambda each: each[0]),
    paths=st.lists(paths, min_size=1, max_size=8),
)
@example([("/{v0:.*}/b/{v2:.*}", (1, 0, 1, 4)), ("/{v0:.*}/a/{v2:.*}", (1, 0, 1, 4))], ["/1/a/b/1"])
def test_what_is_found_is_the_best_of_all_that_pyramid_matches(declared, paths):
    mapper = mapper_of(*(pattern for pattern, _ in declared))
    for path in paths:
        matching = []
        for order, (pattern, rank) in enumerate(declared):
            params = Route(pattern, pattern).match(path or "/")
            if params is not None and not path.endswith("\n"):
                matching.append((rank, order, pattern, params))
        expected = min(matching)[2:] if matching else None
        got = mapper("websocket", path)
        assert (got and (got[0].path, got[1])) == expected
