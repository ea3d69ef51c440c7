"""The ids that say where all channels of a relay stand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyramid_asgi_consumers.channels.positions import make_id
from pyramid_asgi_consumers.events.ids import MOST_CHANNELS, MOST_CHARACTERS, Ids, digest_of

NAMES = st.lists(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=200),
    min_size=1,
    max_size=MOST_CHANNELS,
    unique=True,
)
MOST = 10**16 - 1
POSITION = st.tuples(st.integers(0, MOST), st.integers(0, MOST))


@given(names=NAMES, positions=st.data())
def test_what_is_made_can_be_read(names, positions):
    stands = {name: positions.draw(st.none() | POSITION.map(make_id), label=name) for name in names}
    ids = Ids(tuple(names))
    made = ids.make({name: id for name, id in stands.items() if id is not None})
    assert len(made) <= MOST_CHARACTERS
    assert made.isascii() and made.isprintable() and not set(made) & set(",:;=%&+ \"'")
    assert ids.read(made) == stands


@given(st.text())
def test_what_is_foreign_says_nothing(text):
    assert Ids(("a",)).read(text) is None


def test_an_id_is_of_these_channels_in_any_order():
    position = make_id((7, 1))
    made = Ids(("a", "b")).make({"a": position, "b": position})
    for names in (("a", "b"), ("b", "a")):
        assert Ids(names).read(made) == {"a": position, "b": position}
        assert Ids(names).make({"b": position, "a": position}) == made
    for other in (("a",), ("a", "b", "c"), ("a,b",), ("ab", "")):
        # Nobody knows where these stood then.
        assert Ids(other).read(made) == dict.fromkeys(other)


def test_an_id_that_was_cut_or_made_up_says_nothing():
    ids = Ids(("a", "b"))
    made = ids.make({"a": make_id((17, 25)), "b": make_id((17, 31))})
    digest = digest_of(("a", "b"))
    cut = [made[begin:end] for begin in range(len(made)) for end in range(begin, len(made))]
    for text in (
        None,
        *cut,
        made + "\n",
        made.replace("25", "26"),
        made + made,
        ids._checked("1-1.1-."),
        ids._checked("1-1.1-12345678901234567."),
        ids._checked("1-1.1-٣."),
        ids._checked("1-1." * 1500),
        f"1-1.1-1.{digest}{0:08x}",
        "5" * 5000,
    ):
        assert ids.read(text) is None, text
    for number in (1, 3):
        assert ids.read(ids._checked("1-1." * number)) == {"a": None, "b": None}


def test_names_that_look_alike_when_joined_differ():
    assert digest_of(("a", "b")) != digest_of(("a,b",)) != digest_of(('a","b',))


def test_more_channels_than_an_id_carries_are_refused():
    names = tuple(f"c{number}" for number in range(MOST_CHANNELS + 1))
    longest = make_id((MOST, MOST))
    assert len(Ids(names[:-1]).make(dict.fromkeys(names, longest))) <= MOST_CHARACTERS
    with pytest.raises(
        ValueError, match=f"relay: at most {MOST_CHANNELS} channels fit .* not {MOST_CHANNELS + 1}"
    ):
        Ids(names)
