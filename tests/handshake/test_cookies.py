import sys
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from webob import Request, Response

from pyramid_asgi_consumers.handshake.cookies import Cookies

PAST = "Tue, 01 Jan 2019 00:00:00 GMT"
FUTURE = "Fri, 01 Jan 2999 00:00:00 GMT"


def after(*set_cookies, header="a=1; b=2", path="/rooms/blue"):
    cookies = Cookies(header, path)
    cookies.update(set_cookies)
    return str(cookies)


def test_without_changes_the_header_is_as_it_came():
    assert after() == "a=1; b=2"
    assert after(header="") == ""
    cookies = Cookies("a=1", "/")
    cookies.update(["c=3; Path=/other", "junk"])
    assert not cookies.changed
    cookies.update(["a=2"])
    assert cookies.changed


@pytest.mark.parametrize(
    ("header", "kept"),
    [
        ("a=1;b=2;", "a=1; b=2"),
        ("  a=1 ;  b= 2", "a=1; b= 2"),
        ("a=x=y", "a=x=y"),
        ('a="quoted text"', 'a="quoted text"'),
        ("a=; b=2", "a=; b=2"),
        ("junk; a=1", "a=1"),
        ("a=1; a=2", "a=1; a=2"),
    ],
)
def test_a_header_is_read_as_browsers_write_it(header, kept):
    assert after(header=header) == kept


def test_a_cookie_is_added():
    assert after("c=3; Path=/; HttpOnly; SameSite=Lax") == "a=1; b=2; c=3"


def test_a_cookie_is_replaced_and_others_are_kept():
    assert after("a=9") == "b=2; a=9"
    assert after("a=9", header="a=1; a=2; b=3") == "b=3; a=9"


def test_the_last_of_several_with_one_name_holds():
    assert after("a=8", "a=9") == "b=2; a=9"
    assert after("a=8", "a=; Max-Age=0") == "b=2"
    assert after("a=; Max-Age=0", "a=8") == "b=2; a=8"


@pytest.mark.parametrize(
    "attributes",
    [
        "Max-Age=0",
        "max-age=-1",
        f"Expires={PAST}",
        f"expires = {PAST}",
        "Expires=Thu, 01 Jan 1970 00:00:00 -0000",
        f"Max-Age=soon; Expires={PAST}",
        f"Max-Age=0; Expires={FUTURE}",
    ],
)
def test_a_cookie_that_has_expired_is_deleted(attributes):
    assert after(f"a=9; {attributes}; Path=/") == "b=2"


@pytest.mark.parametrize(
    "attributes",
    [
        "Max-Age=10",
        f"Expires={FUTURE}",
        f"Max-Age=10; Expires={PAST}",
        "Max-Age=soon",
        "Expires=soon",
        "Max-Age",
        "Expires=",
    ],
)
def test_a_cookie_that_has_not_expired_is_kept(attributes):
    assert after(f"a=9; {attributes}") == "b=2; a=9"


@pytest.mark.parametrize("text", ["junk", "", "=value", " = ", ";", "; Path=/"])
def test_what_is_no_cookie_changes_nothing(text):
    assert after(text) == "a=1; b=2"


@pytest.mark.parametrize(
    ("cookie_path", "matches"),
    [
        ("/", True),
        ("/rooms", True),
        ("/rooms/", True),
        ("/rooms/blue", True),
        ("", True),
        ("relative", True),
        ("/room", False),
        ("/rooms/blue/", False),
        ("/rooms/blue/x", False),
        ("/other", False),
    ],
)
def test_a_cookie_for_another_path_is_left_out(cookie_path, matches):
    assert after(f"c=3; Path={cookie_path}", header="") == ("c=3" if matches else "")


def test_the_root_page_has_cookies_too():
    assert after("c=3; Path=/", header="", path="/") == "c=3"


def test_threads_that_set_cookies_at_once_lose_none():
    cookies = Cookies("", "/")
    start = threading.Barrier(4)

    def set_many(thread):
        start.wait(20)
        cookies.update(f"{thread}-{number}=1" for number in range(200))

    threads = [threading.Thread(target=set_many, args=(number,)) for number in range(4)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
    finally:
        sys.setswitchinterval(interval)
    assert len(str(cookies).split("; ")) == 800


names = st.text("abcdefghijklmnop_-.0123456789", min_size=1, max_size=5)
values = st.text("abcAZ019._-!~*+/=", max_size=20)


@settings(deadline=None)
@given(st.lists(st.tuples(names, values)))
def test_what_webob_sets_webob_reads_back(pairs):
    response = Response()
    for name, value in pairs:
        response.set_cookie(name, value)
    cookies = Cookies("", "/")
    cookies.update(response.headers.getall("Set-Cookie"))
    request = Request.blank("/", headers={"Cookie": str(cookies)})
    assert dict(request.cookies) == dict(pairs)


attributes = st.sampled_from(["Max-Age", "Expires", "Path", "Secure"])
set_cookies = st.builds("{}={}; {}={}".format, names, values, attributes, st.text(max_size=20))


@settings(deadline=None)
@given(st.text(), st.lists(st.text(max_size=20) | set_cookies, max_size=5))
def test_any_text_can_be_read(header, set_cookies):
    cookies = Cookies(header, "/")
    cookies.update(set_cookies)
    again = Cookies(str(cookies), "/")
    assert str(again) == str(cookies)
