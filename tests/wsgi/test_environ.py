"""ASGI scope to WSGI environ, and the root path rule."""

import copy
import io
import sys
from urllib.parse import quote
from wsgiref.validate import check_environ

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pyramid_asgi_consumers.exceptions import BadRequest
from pyramid_asgi_consumers.wsgi import environ as environ_module
from pyramid_asgi_consumers.wsgi.environ import (
    build_environ,
    is_text,
    origin_form,
    split_root_path,
    subprotocols,
)

modest = settings(deadline=None, max_examples=100)


def http_scope(path="/", **more):
    """A scope with the keys that the ASGI specification requires, and ``more``."""
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "path": path,
        "query_string": b"",
        "headers": [],
        **more,
    }


def websocket_scope(path="/", **more):
    """A websocket scope as Daphne makes it."""
    return {"type": "websocket", "path": path, "headers": [], **more}


def target(path, raw_path=None, **more):
    """A scope of a request for ``path``, whose ``Host`` is ``other``."""
    headers = [(b"accept", b"*/*"), (b"Host", b"other")]
    given = {} if raw_path is None else {"raw_path": raw_path}
    return http_scope(path, **{"headers": headers, **given, **more})


def environ_of(*headers, **more):
    return build_environ(http_scope(headers=list(headers), **more))


# The target in absolute form.


@pytest.mark.parametrize(
    ("path", "left"),
    [
        ("http://host/page", "/page"),
        ("HTTPS://Host.example:99/a//b/é", "/a//b/é"),
        ("http://host/http://inner/page", "/http://inner/page"),
        ("http://[::1]:8080/page\n", "/page\n"),
        ("http://host", "/"),
        ("http://host:", "/"),
    ],
)
def test_an_absolute_target_counts_as_its_path(path, left):
    for raw_path in (None, quote(path, safe="/:[]").encode()):
        scope = target(path, raw_path)
        before = copy.deepcopy(scope)
        found = origin_form(scope)
        assert (found["path"], found["headers"]) == (left, before["headers"])
        assert raw_path is None or found["raw_path"] == quote(left, safe="/:").encode()
        assert scope == before


@pytest.mark.parametrize(
    ("path", "more"),
    [
        ("/page", {}),
        ("/proxy/http://host/page", {}),
        ("http:///page", {}),
        ("http://user@host/page", {}),
        ("http://host#fragment", {}),
        ("http://host:port/page", {}),
        ("http://ho st/page", {}),
        ("http://hóst/page", {}),
        ("ftp://host/page", {}),
        ("host:80", {}),
        # Only HTTP/1 has it.
        ("http://host/page", {"http_version": "2"}),
        # The client sent %2F, and %68.
        ("http://a/b/c", {"raw_path": b"http://a%2Fb/c"}),
        ("http://host/page", {"raw_path": b"http://%68ost/page"}),
    ],
)
def test_what_is_no_absolute_target_is_left_alone(path, more):
    scope = target(path, **more)
    assert origin_form(scope) is scope


@pytest.mark.parametrize("root", ["/app", "app", "/app/", "/äpp"])
def test_the_root_path_that_uvicorn_puts_before_an_absolute_target_stays(root):
    scope = target(f"{root}http://host/page", f"{root}http://host/page".encode(), root_path=root)
    found = origin_form(scope, root)
    assert (found["path"], found["raw_path"]) == (f"{root}/page", f"{root}/page".encode())


@pytest.mark.parametrize("root", ["/app", "/app/", "/"])
def test_a_root_path_that_the_client_puts_before_an_absolute_target_makes_no_host(root):
    scope = target(f"{root}http://evil/page", root_path=root)
    assert origin_form(scope) is scope
    scope = target("http://host/page", root_path=root)
    assert origin_form(scope)["path"] == "/page"


def test_daphne_s_handshake_without_a_path_is_for_the_root():
    scope = websocket_scope("", raw_path=b"")
    found = origin_form(scope)
    assert (found["path"], found["raw_path"]) == ("/", b"/")
    for other in (websocket_scope("", http_version="1.1"), http_scope("")):
        assert origin_form(other) is other


@pytest.mark.parametrize("hosts", [[], [(b"host", b"a")], [(b"host", b"a"), (b"host", b"b")]])
def test_the_host_of_an_absolute_target_stands_for_none_of_the_headers(hosts):
    scope = origin_form(target("http://host/page", headers=hosts))
    assert (scope["path"], scope["headers"]) == ("/page", hosts)


# The root path.


@pytest.mark.parametrize("type_", [http_scope, websocket_scope])
def test_without_a_root_path_the_path_is_taken_whole(type_):
    assert split_root_path(type_("/a/b")) == ("", "/a/b")
    assert split_root_path(type_("/a/b", root_path="")) == ("", "/a/b")
    assert split_root_path(type_("/a/b", root_path=None)) == ("", "/a/b")


def test_a_root_path_in_front_of_the_path_is_stripped():
    assert split_root_path(http_scope("/app/page", root_path="/app")) == ("/app", "/page")
    assert split_root_path(http_scope("/app/", root_path="/app")) == ("/app", "/")


def test_a_path_without_the_root_path_is_taken_as_it_is():
    assert split_root_path(http_scope("/page", root_path="/app")) == ("/app", "/page")


def test_a_root_path_is_stripped_on_a_segment_border_only():
    assert split_root_path(http_scope("/apple", root_path="/app")) == ("/app", "/apple")


def test_the_root_path_itself_leaves_an_empty_path():
    assert split_root_path(http_scope("/app", root_path="/app")) == ("/app", "")


def test_a_root_path_is_stripped_once():
    assert split_root_path(http_scope("/app/app/x", root_path="/app")) == ("/app", "/app/x")


@pytest.mark.parametrize("root_path", ["app/team", "/app/team/", "app/team/", "//app/team//"])
def test_a_root_path_gets_its_slash_in_front_and_loses_the_one_behind(root_path):
    scope = http_scope("/app/team/x", root_path=root_path)
    assert split_root_path(scope) == ("/app/team", "/x")
    assert split_root_path(http_scope("/app/team/x"), root_path) == ("/app/team", "/x")


@pytest.mark.parametrize("root_path", ["/", "//"])
def test_a_root_path_of_slashes_is_none(root_path):
    assert split_root_path(http_scope("/x", root_path=root_path)) == ("", "/x")
    assert split_root_path(http_scope("/x"), root_path) == ("", "/x")


@pytest.mark.parametrize("root_path", ["/app", "/app/", "app", "app/", "/", "//app"])
def test_what_uvicorn_prepends_is_stripped_as_it_was_configured(root_path):
    scope = http_scope(root_path + "/x", root_path=root_path)
    assert split_root_path(scope) == (("/" + root_path.strip("/")).rstrip("/"), "/x")


def test_a_given_root_path_overrides_that_of_the_scope():
    scope = http_scope("/mine/x", root_path="/theirs")
    assert split_root_path(scope, "/mine") == ("/mine", "/x")


def test_an_overridden_root_path_is_not_stripped():
    """Any client can send Daphne one, and so reach a path that a proxy guards."""
    scope = http_scope("/open/guarded", root_path="/open")
    assert split_root_path(scope, "") == ("", "/open/guarded")
    scope = http_scope("open/guarded", root_path="open")
    with pytest.raises(BadRequest):
        split_root_path(scope, "")


@pytest.mark.parametrize("path", ["", "*", "page", "http://host/page"])
@pytest.mark.parametrize("root_path", ["", "/", "/app"])
def test_a_path_that_does_not_start_with_a_slash_is_a_bad_request(path, root_path):
    with pytest.raises(BadRequest, match="must start with a slash"):
        split_root_path(http_scope(path, root_path=root_path))


def test_a_path_that_is_not_utf8_arrives_as_it_was_sent():
    scope = http_scope("/\ufffd", raw_path=b"/%ff")
    assert split_root_path(scope) == ("", "/\udcff")
    assert build_environ(scope)["PATH_INFO"] == "/\xff"


def test_a_path_that_is_not_utf8_arrives_without_the_prefix_that_a_mount_took():
    scope = http_scope("/\ufffd", raw_path=b"/%C3%A9/%ff")
    assert split_root_path(scope) == ("", "/\udcff")


@pytest.mark.parametrize("raw_path", [b"/%ff/%ff", b"/other"])
def test_a_path_is_believed_where_its_bytes_are_another_s(raw_path):
    assert split_root_path(http_scope("/a/\ufffd", raw_path=raw_path)) == ("", "/a/\ufffd")
    assert split_root_path(http_scope("/\ufffd", raw_path=b"/%ff/%ff")) == ("", "/\ufffd")


def test_options_of_the_server_itself_are_the_application_s_to_answer():
    scope = http_scope("*", method="OPTIONS", raw_path=b"*", root_path="/app")
    assert split_root_path(scope) == ("/app", "*")
    environ = build_environ(scope)
    assert (environ["PATH_INFO"], environ["REQUEST_URI"]) == ("*", "*")


def test_a_replacement_character_that_the_client_sent_is_one():
    scope = http_scope("/\ufffd", raw_path=b"/%EF%BF%BD")
    assert split_root_path(scope) == ("", "/\ufffd")


@pytest.mark.parametrize("more", [{}, {"raw_path": None}])
def test_a_replacement_character_is_believed_where_no_bytes_tell(more):
    assert split_root_path(http_scope("/\ufffd", **more)) == ("", "/\ufffd")


def test_a_surrogate_that_stands_for_no_byte_is_a_bad_request():
    assert split_root_path(http_scope("/\udcff")) == ("", "/\udcff")
    with pytest.raises(BadRequest, match="must be text"):
        split_root_path(http_scope("/\ud800"))


def test_a_surrogate_in_the_root_path_is_a_bad_request():
    with pytest.raises(BadRequest, match="must be UTF-8"):
        split_root_path(http_scope("/x", root_path="/\udcff"))


def test_a_refused_path_is_shown_short_and_printable():
    with pytest.raises(BadRequest) as caught:
        split_root_path(http_scope("\n\x1b\ud800" + "x" * 10_000, raw_path=b""))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


# Request line and addresses.


def test_the_request_line_becomes_method_path_query_and_protocol():
    scope = http_scope(
        "/app/page",
        root_path="/app",
        method="DELETE",
        query_string=b"a=1&b=%20",
        http_version="1.0",
    )
    environ = build_environ(scope)
    assert environ["REQUEST_METHOD"] == "DELETE"
    assert environ["SCRIPT_NAME"] == "/app"
    assert environ["PATH_INFO"] == "/page"
    assert environ["QUERY_STRING"] == "a=1&b=%20"
    assert environ["SERVER_PROTOCOL"] == "HTTP/1.0"


def test_http_2_is_named_without_a_minor_version():
    assert environ_of(http_version="2")["SERVER_PROTOCOL"] == "HTTP/2"


def test_the_paths_are_utf8_bytes_read_as_latin_1():
    environ = build_environ(http_scope("/größe/naïve ☃"), "/größe")
    assert environ["SCRIPT_NAME"].encode("latin-1").decode() == "/größe"
    assert environ["PATH_INFO"].encode("latin-1").decode() == "/naïve ☃"


def test_any_byte_of_the_query_survives():
    query = bytes(range(256))
    assert environ_of(query_string=query)["QUERY_STRING"].encode("latin-1") == query


def test_a_given_root_path_becomes_the_script_name():
    environ = build_environ(http_scope("/mine/x", root_path="/theirs"), "/mine")
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == ("/mine", "/x")


def test_addresses_and_ports_are_text():
    environ = environ_of(client=["192.0.2.7", 4711], server=("example.com", 8080))
    assert environ["REMOTE_ADDR"] == "192.0.2.7"
    assert environ["REMOTE_PORT"] == "4711"
    assert environ["SERVER_NAME"] == "example.com"
    assert environ["SERVER_PORT"] == "8080"


def test_ports_may_be_given_as_text():
    environ = environ_of(client=("192.0.2.7", "4711"), server=("example.com", "8080"))
    assert (environ["REMOTE_PORT"], environ["SERVER_PORT"]) == ("4711", "8080")


@pytest.mark.parametrize(
    "more",
    [{}, {"client": None, "server": None}, {"client": (None, None), "server": (None, None)}],
)
def test_missing_addresses_leave_a_server_that_urls_can_be_made_of(more):
    environ = environ_of(**more)
    assert [key for key in environ if key.startswith("REMOTE_")] == []
    assert (environ["SERVER_NAME"], environ["SERVER_PORT"]) == ("localhost", "80")


def test_the_target_is_told_as_it_was_sent():
    scope = http_scope("/é x", raw_path=b"/%C3%A9%20x", query_string=b"a=%20\xff")
    environ = build_environ(scope)
    assert environ["REQUEST_URI"] == environ["RAW_URI"] == "/%C3%A9%20x?a=%20\xff"
    assert environ["SERVER_SOFTWARE"] == "pyramid_asgi_consumers"
    # Where a server does not tell.
    assert environ_of(path="/é x/@")["REQUEST_URI"] == "/%C3%A9%20x/@"


def test_a_server_without_a_name_is_localhost():
    environ = environ_of(server=("", 8080))
    assert (environ["SERVER_NAME"], environ["SERVER_PORT"]) == ("localhost", "8080")


def test_a_missing_server_under_https_is_on_port_443():
    environ = environ_of(scheme="https")
    assert (environ["SERVER_NAME"], environ["SERVER_PORT"]) == ("localhost", "443")


@pytest.mark.parametrize("port", [None, ""])
def test_a_unix_socket_is_localhost_on_the_default_port(port):
    environ = environ_of(client=("/run/app.sock", port), server=("/run/app.sock", port))
    assert environ["REMOTE_ADDR"] == environ["REMOTE_HOST"] == "/run/app.sock"
    assert "REMOTE_PORT" not in environ
    assert (environ["SERVER_NAME"], environ["SERVER_PORT"]) == ("localhost", "80")


@pytest.mark.parametrize(
    "scheme, expected",
    [("http", "http"), ("https", "https"), ("ws", "http"), ("wss", "https"), ("", "http")],
)
def test_the_url_scheme_is_that_of_http(scheme, expected):
    assert build_environ(websocket_scope(scheme=scheme))["wsgi.url_scheme"] == expected


def test_a_websocket_with_the_required_keys_alone_is_a_get_request():
    environ = build_environ(websocket_scope("/ws"))
    assert environ["REQUEST_METHOD"] == "GET"
    assert environ["PATH_INFO"] == "/ws"
    assert environ["SCRIPT_NAME"] == ""
    assert environ["QUERY_STRING"] == ""
    assert environ["SERVER_PROTOCOL"] == "HTTP/1.1"
    assert environ["wsgi.url_scheme"] == "http"


# Headers.


def test_headers_get_their_cgi_names():
    environ = environ_of((b"user-agent", b"test"), (b"X-Mixed-Case", b"1"))
    assert environ["HTTP_USER_AGENT"] == "test"
    assert environ["HTTP_X_MIXED_CASE"] == "1"


def test_any_byte_of_a_header_survives():
    value = bytes(range(256))
    assert environ_of((b"x-bytes", value))["HTTP_X_BYTES"].encode("latin-1") == value


def test_content_type_and_length_have_no_prefix():
    environ = environ_of((b"content-type", b"text/plain"), (b"content-length", b"12"))
    assert environ["CONTENT_TYPE"] == "text/plain"
    assert environ["CONTENT_LENGTH"] == "12"
    assert not any(key.startswith("HTTP_") for key in environ)


def test_without_a_content_type_or_length_there_is_none():
    assert environ_of().keys().isdisjoint({"CONTENT_TYPE", "CONTENT_LENGTH"})


def test_cookies_are_joined_with_a_semicolon():
    environ = environ_of((b"cookie", b"a=1"), (b"accept", b"*/*"), (b"cookie", b"b=2"))
    assert environ["HTTP_COOKIE"] == "a=1; b=2"


def test_other_repeats_are_joined_with_a_comma_in_order():
    environ = environ_of((b"via", b"a"), (b"accept", b"*/*"), (b"Via", b"b"), (b"via", b"c"))
    assert environ["HTTP_VIA"] == "a,b,c"
    assert environ["HTTP_ACCEPT"] == "*/*"


def test_a_name_with_an_underscore_is_dropped():
    """It could pose as the name with a dash that a proxy sets."""
    environ = environ_of((b"x_user", b"root"), (b"x-user", b"me"), (b"x_user", b"root"))
    assert environ["HTTP_X_USER"] == "me"
    assert environ_of((b"content_length", b"1")).keys().isdisjoint({"CONTENT_LENGTH"})


def test_the_transfer_encoding_is_left_out():
    environ = environ_of((b"transfer-encoding", b"chunked"), (b"Transfer-Encoding", b"gzip"))
    assert "HTTP_TRANSFER_ENCODING" not in environ


def test_a_repeated_host_is_a_bad_request():
    with pytest.raises(BadRequest, match="Host"):
        environ_of((b"host", b"example.com"), (b"host", b"example.com"))


@pytest.mark.parametrize(
    "length",
    [b"", b"-1", b"+1", b"1.0", b"0x1", b" 1", b"1_0", b"5, 5", b"\xb2", b"1" * 21, b"1" * 9000],
)
def test_a_content_length_that_is_not_a_number_is_a_bad_request(length):
    with pytest.raises(BadRequest, match="Content-Length") as caught:
        environ_of((b"content-length", length))
    assert len(str(caught.value)) < 300


def test_a_content_length_may_have_twenty_digits():
    assert environ_of((b"content-length", b"9" * 20))["CONTENT_LENGTH"] == "9" * 20


def test_content_lengths_that_differ_are_a_bad_request():
    with pytest.raises(BadRequest, match="Content-Length"):
        environ_of((b"content-length", b"1"), (b"content-length", b"2"))


def test_content_lengths_that_agree_are_one():
    environ = environ_of((b"content-length", b"12"), (b"content-length", b"12"))
    assert environ["CONTENT_LENGTH"] == "12"


def test_names_from_clients_do_not_fill_the_memory():
    long_name = b"x-" + b"a" * 100
    environ_module._cached_key.cache_clear()
    environ = environ_of(*((b"x-%d" % number, b"") for number in range(1000)), (long_name, b"1"))
    assert environ["HTTP_X_" + "A" * 100] == "1"
    cached = environ_module._cached_key.cache_info().currsize
    environ_of((long_name, b"2"))
    assert environ_module._cached_key.cache_info().currsize == cached <= 256
    environ_module._cached_key.cache_clear()
    environ_of((long_name, b"3"))
    assert environ_module._cached_key.cache_info().currsize == 0


# What WSGI adds.


def test_the_keys_of_wsgi_are_those_of_a_threaded_server():
    environ = environ_of()
    assert environ["wsgi.version"] == (1, 0)
    assert environ["wsgi.multithread"] is True
    assert environ["wsgi.multiprocess"] is False
    assert environ["wsgi.run_once"] is False
    assert environ["wsgi.input_terminated"] is True
    assert environ.keys().isdisjoint({"wsgi.input", "wsgi.file_wrapper"})


def test_multiprocess_is_as_it_was_asked_for():
    assert build_environ(http_scope(), multiprocess=True)["wsgi.multiprocess"] is True


def test_errors_go_to_the_stderr_of_the_moment(monkeypatch):
    stderr = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)
    assert environ_of()["wsgi.errors"] is stderr


def test_the_scope_is_at_hand():
    scope = http_scope()
    assert build_environ(scope)["asgi.scope"] is scope


# Properties.

segments = st.text(
    st.characters(blacklist_categories=["Cs"], blacklist_characters="/"), min_size=1, max_size=5
)
paths = st.lists(segments, max_size=4).map(lambda parts: "/" + "/".join(parts))
roots = st.lists(segments, min_size=1, max_size=3).map(lambda parts: "/" + "/".join(parts))
names = st.sampled_from(
    [b"host", b"cookie", b"content-length", b"content-type", b"x_y", b"transfer-encoding"]
) | st.binary(max_size=6)
values = st.binary(max_size=8) | st.sampled_from([b"1", b"12"])
addresses = st.none() | st.tuples(
    st.none() | st.text(st.characters(max_codepoint=127), max_size=5),
    st.none() | st.integers(0, 65535) | st.integers(0, 65535).map(str),
)
optional_keys = st.fixed_dictionaries(
    {},
    optional={
        "root_path": st.text(max_size=5) | st.sampled_from(["/", "/app", "/app/"]),
        "raw_path": st.none() | st.binary(max_size=10),
        "scheme": st.sampled_from(["http", "https", "ws", "wss"]),
        "query_string": st.binary(max_size=10),
        "client": addresses,
        "server": addresses,
    },
)


@modest
@given(root=roots, path=paths)
def test_what_uvicorn_joins_is_split_again(root, path):
    scope = http_scope(root + path, root_path=root, raw_path=quote(root + path).encode())
    assert split_root_path(scope) == (root, path)


@modest
@given(root=roots, path=paths)
def test_root_path_and_path_lose_nothing(root, path):
    found, rest = split_root_path(http_scope(path), root)
    assert found == root
    assert rest == path or root + rest == path
    assert rest == "" or rest.startswith("/")


@modest
@given(path=paths, query=st.binary())
def test_the_bytes_of_path_and_query_survive(path, query):
    scope = http_scope(path, raw_path=quote(path).encode(), query_string=query)
    environ = build_environ(scope)
    assert environ["PATH_INFO"].encode("latin-1") == path.encode()
    assert environ["QUERY_STRING"].encode("latin-1") == query


@modest
@given(data=st.binary())
def test_a_path_of_any_bytes_arrives(data):
    path = b"/" + data
    scope = http_scope(path.decode(errors="replace"), raw_path=quote(path).encode())
    _, found = split_root_path(scope)
    assert found == path.decode(errors="surrogateescape")
    assert is_text(found) == (found == path.decode(errors="replace"))
    assert build_environ(scope)["PATH_INFO"].encode("latin-1") == path


@settings(modest, max_examples=300)
@given(
    make_scope=st.sampled_from([http_scope, websocket_scope]),
    path=st.text(max_size=10) | paths | st.just("/\udc80"),
    headers=st.lists(st.tuples(names, values), max_size=6),
    more=optional_keys,
)
@example(http_scope, "/app", [], {"root_path": "/app"})
def test_any_scope_is_a_bad_request_or_a_valid_environ(make_scope, path, headers, more):
    scope = make_scope(path, headers=headers, **more)
    before = copy.deepcopy(scope)
    try:
        environ = build_environ(scope)
    except BadRequest as error:
        assert str(error).isprintable()
        return
    finally:
        assert scope == before
    for key, value in environ.items():
        if isinstance(value, str):
            key.encode("latin-1")
            value.encode("latin-1")
    check_environ({**environ, "wsgi.input": io.BytesIO()})


# What a websocket's client offers.


def test_what_has_no_name_is_no_subprotocol():
    header = (b"sec-websocket-protocol", b",, a , b")
    assert subprotocols(websocket_scope(headers=[header])) == ["a", "b"]
    # Uvicorn with wsproto gives no header.
    assert subprotocols(websocket_scope(subprotocols=["", "", "a", "b"])) == ["a", "b"]
    assert subprotocols(websocket_scope()) == []
