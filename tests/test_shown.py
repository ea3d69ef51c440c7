"""How log lines and errors show what others sent."""

import logging

import pytest

from pyramid_asgi_consumers.shown import Shown


@pytest.mark.parametrize(
    "value, expected",
    [
        ("/a b", "'/a b'"),
        ("a\n\x1b[31mb\u202e", r"'a\n\x1b[31mb\u202e'"),
        ("\udcff\u20ac", r"'\udcff" + "\u20ac'"),
        ("x" * 10_000, "'" + "x" * 200 + "'... (10000 characters)"),
        (b"\x1b\n", r"b'\x1b\n'"),
        (b"x" * 10_000, "b'" + "x" * 198 + "... (10003 characters)"),
        (ValueError("a\n\x1b'b'"), r"ValueError: a\n\x1b'b'"),
        (ValueError(), "ValueError"),
        (OSError("x" * 501), "OSError: " + "x" * 500 + "... (501 characters)"),
        (None, "None"),
    ],
)
def test_text_is_one_line_of_bounded_length(value, expected):
    assert str(Shown(value)) == repr(Shown(value)) == f"{Shown(value)}" == expected


def test_a_line_that_is_not_logged_costs_no_text(caplog):
    caplog.set_level(logging.INFO)
    unprintable = type("Unprintable", (), {"__repr__": None})()
    with pytest.raises(TypeError):
        str(Shown(unprintable))
    logging.getLogger("some").debug("%s", Shown(unprintable))
    assert caplog.records == []
