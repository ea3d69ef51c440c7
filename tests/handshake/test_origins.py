"""The same-origin rule."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyramid_asgi_consumers.handshake.origins import OriginRule

modest = settings(deadline=None, max_examples=100)


def headers(origin=None, host="example.com"):
    pairs = [(b"user-agent", b"test")]
    if host is not None:
        pairs.append((b"host", host.encode("latin-1")))
    if origin is not None:
        pairs.append((b"origin", origin.encode("latin-1")))
    return pairs


def passes(origin=None, host="example.com", origins=(), hosts=()):
    return OriginRule(origins, hosts).objection(headers(origin, host)) is None


# The same origin.


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("host", ["example.com", "example.com:8000", "localhost", "[::1]:6543"])
def test_a_page_of_the_same_host_and_port_passes(scheme, host):
    assert passes(f"{scheme}://{host}", host)


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "https://example.com.evil.example",
        "https://evilexample.com",
        "https://www.example.com",
        "https://example.com:8000",
    ],
)
def test_a_page_of_another_host_or_port_is_refused(origin):
    assert not passes(origin)


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("port", ["", ":80", ":443"])
@pytest.mark.parametrize("host_port", ["", ":80", ":443"])
def test_default_ports_equal_none_as_tls_may_end_at_a_proxy(scheme, port, host_port):
    assert passes(f"{scheme}://example.com{port}", f"example.com{host_port}")


def test_host_and_scheme_are_compared_without_regard_to_case():
    assert passes("HTTPS://Example.COM", "eXample.com")
    assert passes("https://[2001:DB8::1]", "[2001:db8::1]")


def test_an_ipv6_address_is_compared_by_value():
    assert passes("http://[::1]", "[0:0:0:0:0:0:0:1]")
    assert not passes("http://[::1]", "[::2]")


def test_a_client_without_an_origin_is_not_a_browser_and_passes():
    assert passes(None)
    assert passes(None, host=None)


def test_null_is_never_the_same_origin():
    assert not passes("null")
    assert not passes("null", host="null")


GARBAGE = [
    "example.com:",
    "example.com:80x",
    "example.com:-1",
    "example.com:99999",
    "example.com:000080",
    "example.com:\u00b2",
    "example.com/",
    "example.com/path",
    "example.com?",
    "example.com#",
    "example.com ",
    " example.com",
    "example.com\n",
    "example.com,example.com",
    "user@example.com",
    "user:password@example.com",
    "ex\u00e4mple.com",
    "example.com\xff",
    "example.com\x00",
    ".example.com",
    "example..com",
    "*.example.com",
    "[::1",
    "::1",
    "[::1]x",
    "[:::]",
    "[1.2.3.4]",
    "[::1%eth0]",
    "[]",
    " ",
]


@pytest.mark.parametrize("host", GARBAGE)
def test_garbage_is_refused_even_where_both_sides_have_it(host):
    assert not passes(f"https://{host}", host)
    assert not passes("https://example.com", host)
    assert not passes(f"https://{host}", "example.com")


@pytest.mark.parametrize(
    "origin", ["example.com", "//example.com", "://example.com", "https:example.com", "1s://a"]
)
def test_an_origin_without_a_scheme_is_refused(origin):
    assert not passes(origin)


def test_an_origin_without_a_host_to_compare_is_refused():
    assert not passes("https://example.com", host=None)


def test_an_empty_origin_is_refused():
    assert not passes("")
    assert not passes("", origins=["https://example.com"])


def test_an_empty_host_is_refused():
    assert not passes("https://example.com", host="")
    assert not passes(None, host="")
    assert not passes(None, host="", origins=["*"])


def test_two_origins_are_refused():
    twice = headers("https://example.com") + [(b"origin", b"https://example.com")]
    assert OriginRule().objection(twice)
    assert OriginRule(["https://example.com"]).objection(twice)


def test_two_hosts_are_refused():
    twice = headers("https://example.com") + [(b"host", b"example.com")]
    assert OriginRule().objection(twice)
    assert OriginRule(["*"]).objection(twice)
    assert OriginRule().objection([(b"host", b"a"), (b"host", b"a")])


def test_header_names_are_read_in_any_case():
    pairs = [(b"Host", b"example.com"), (b"ORIGIN", b"https://evil.example")]
    assert OriginRule().objection(pairs)


def test_headers_may_be_any_iterable():
    assert OriginRule().objection(iter(headers("https://example.com"))) is None
    assert OriginRule().objection(iter(headers("https://evil.example")))


# The origins listed.


def test_a_listed_origin_passes_on_any_host():
    assert passes("https://partner.example", origins=["https://partner.example"])
    assert passes("https://partner.example", host=None, origins=["https://partner.example"])
    assert passes("https://partner.example", host="ga rbage", origins=["https://partner.example"])


def test_the_own_origin_passes_beside_the_listed_ones():
    assert passes("https://example.com", origins=["https://partner.example"])


@pytest.mark.parametrize(
    "origin",
    [
        "http://partner.example",
        "https://partner.example:8000",
        "https://www.partner.example",
        "https://partner.example.evil.example",
        "https://partner.example/",
        "null",
    ],
)
def test_a_listed_origin_is_compared_whole(origin):
    assert not passes(origin, origins=["https://partner.example"])


def test_a_listed_origin_is_compared_without_regard_to_case():
    assert passes("https://partner.example", origins=["HTTPS://Partner.Example"])


@pytest.mark.parametrize(
    "listed, origin",
    [
        ("https://partner.example:443", "https://partner.example"),
        ("http://partner.example", "http://partner.example:80"),
        ("ionic://partner.example", "ionic://partner.example"),
    ],
)
def test_the_default_port_of_the_scheme_need_not_be_listed(listed, origin):
    assert passes(origin, origins=[listed])


@pytest.mark.parametrize(
    "listed, origin",
    [
        ("https://partner.example:80", "https://partner.example"),
        ("http://partner.example", "http://partner.example:443"),
        ("ionic://partner.example:80", "ionic://partner.example"),
    ],
)
def test_the_default_port_of_another_scheme_is_a_port(listed, origin):
    assert not passes(origin, origins=[listed])


@pytest.mark.parametrize("host", ["a.partner.example", "a.b.partner.example"])
def test_a_star_stands_for_one_or_more_labels(host):
    assert passes(f"https://{host}", origins=["https://*.partner.example"])


@pytest.mark.parametrize(
    "origin",
    [
        "https://partner.example",
        "https://.partner.example",
        "https://evilpartner.example",
        "https://a.partner.example.evil.example",
        "http://a.partner.example",
        "https://a.partner.example:8000",
    ],
)
def test_a_star_stands_for_nothing_else(origin):
    assert not passes(origin, origins=["https://*.partner.example"])


def test_a_star_may_have_a_port():
    assert passes("https://a.partner.example:8000", origins=["https://*.partner.example:8000"])
    assert not passes("https://a.partner.example", origins=["https://*.partner.example:8000"])


def test_a_host_with_a_star_in_front_is_not_listed_without_one():
    assert not passes("https://a.partner.example", origins=["https://partner.example"])


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "", "\xff\n"])
def test_a_lone_star_switches_the_check_off(origin):
    assert passes(origin, origins=["*"])
    assert passes(origin, origins=["https://partner.example", "*"])


def test_a_lone_star_lets_two_origins_pass_too():
    twice = headers("https://evil.example") + [(b"origin", b"https://evil.example")]
    assert OriginRule(["*"]).objection(twice) is None


def test_a_lone_star_leaves_the_hosts_alone():
    assert not passes(
        "https://evil.example", host="evil.example", origins=["*"], hosts=["a.example"]
    )


def test_a_consumers_own_origins_pass_beside_the_settings():
    rule = OriginRule(["https://partner.example"], ["example.com"])
    extended = rule.extended(["https://guest.example"])
    assert extended.objection(headers("https://guest.example")) is None
    assert extended.objection(headers("https://partner.example")) is None
    assert extended.objection(headers("https://example.com")) is None
    assert extended.objection(headers("https://evil.example"))
    assert extended.objection(headers("https://guest.example", "other.example"))
    assert rule.objection(headers("https://guest.example"))


def test_a_consumer_may_switch_the_check_off():
    assert OriginRule().extended(["*"]).objection(headers("https://evil.example")) is None


# The hosts listed.


def test_a_listed_host_passes():
    assert passes("https://example.com", hosts=["example.com"])
    assert passes("http://example.com:8000", "example.com:8000", hosts=["example.com:8000"])
    assert passes("http://[::1]:8000", "[::1]:8000", hosts=["[0::1]:8000"])


def test_a_name_that_was_rebound_is_refused():
    assert not passes("http://evil.example", "evil.example", hosts=["example.com"])


@pytest.mark.parametrize("host", ["evil.example", "www.example.com", "example.com:8000", "x y"])
def test_the_hosts_hold_for_clients_without_an_origin(host):
    assert not passes(None, host, hosts=["example.com"])


def test_a_missing_host_is_refused_where_hosts_are_listed():
    assert not passes(None, host=None, hosts=["example.com"])


def test_a_listed_host_is_compared_without_regard_to_case_and_default_port():
    assert passes(None, "Example.com:443", hosts=["example.COM"])
    assert passes(None, "example.com", hosts=["example.com:80"])


def test_a_star_in_a_host_stands_for_one_or_more_labels():
    assert passes(None, "a.example.com", hosts=["*.example.com"])
    assert passes(None, "a.b.example.com", hosts=["*.example.com"])
    assert not passes(None, "example.com", hosts=["*.example.com"])
    assert not passes(None, "evilexample.com", hosts=["*.example.com"])


def test_a_listed_host_does_not_let_another_origin_in():
    assert not passes("https://evil.example", hosts=["example.com", "evil.example"])


# Entries that are none.


@pytest.mark.parametrize(
    "entry",
    [
        "",
        "null",
        "example.com",
        "//example.com",
        "://example.com",
        "https://",
        "https://*",
        "https://*.",
        "https://*example.com",
        "https://a.*.com",
        "https://*.*.com",
        "https://*.[::1]",
        "*.example.com",
        "*://example.com",
        "https://example.com/",
        "https://example.com/path",
        "https://example.com:port",
        "https://example.com:65536",
        "https://user@example.com",
        "https://b\u00fccher.example",
        "https://example.com\n",
        " https://example.com",
        "https://a.example https://b.example",
        b"https://example.com",
        None,
    ],
)
def test_a_bad_origin_is_named(entry):
    for make in (OriginRule, OriginRule().extended):
        with pytest.raises(ValueError) as caught:
            make(["https://good.example", entry])
        assert repr(entry) in str(caught.value)
        assert "scheme://host[:port]" in str(caught.value)


@pytest.mark.parametrize(
    "entry",
    [
        "",
        "*",
        "*.",
        "*.[::1]",
        "https://example.com",
        "example.com/",
        "example.com:port",
        "user@example.com",
        "b\u00fccher.example",
        "example.com\n",
        b"example.com",
        None,
    ],
)
def test_a_bad_host_is_named(entry):
    with pytest.raises(ValueError) as caught:
        OriginRule((), ["good.example", entry])
    assert repr(entry) in str(caught.value)
    assert "host[:port]" in str(caught.value)


def test_entries_may_come_from_an_iterator():
    rule = OriginRule(iter(["https://partner.example"]), iter(["example.com"]))
    assert rule.origins == ("https://partner.example",)
    assert rule.hosts == ("example.com",)
    assert rule.extended(iter(["*"])).origins == ("https://partner.example", "*")


# The log line.


@pytest.mark.parametrize(
    "origin, host, shown",
    [
        ("https://evil.example", "example.com", ["'https://evil.example'", "'example.com'"]),
        ("https://evil.example", None, ["'https://evil.example'", "(none)"]),
        ("null", "example.com", ["'null'", "'example.com'", "*"]),
        ("", "example.com", ["''", "'example.com'"]),
    ],
)
def test_a_refused_origin_is_logged_with_host_and_setting(origin, host, shown):
    objection = OriginRule().objection(headers(origin, host))
    for text in [*shown, "asgi.origins"]:
        assert text in objection


def test_two_origins_are_logged_with_host_and_setting():
    objection = OriginRule().objection(
        headers("https://a.example") + [(b"origin", b"https://b.example")]
    )
    for text in ["https://a.example", "https://b.example", "'example.com'", "asgi.origins"]:
        assert text in objection


@pytest.mark.parametrize("host, shown", [("evil.example", "'evil.example'"), (None, "(none)")])
def test_a_refused_host_is_logged_with_those_accepted_and_the_setting(host, shown):
    objection = OriginRule((), ["example.com", "*.example.org"]).objection(headers(None, host))
    for text in [shown, "'example.com *.example.org'", "asgi.hosts"]:
        assert text in objection


def test_two_hosts_are_logged():
    objection = OriginRule().objection([(b"host", b"a.example"), (b"host", b"b.example")])
    assert "a.example" in objection and "b.example" in objection and "Host" in objection


def test_a_log_line_says_where_it_leaves_something_out():
    assert "..." in OriginRule().objection(headers("https://" + "a" * 1000))
    assert "..." not in OriginRule().objection(headers("https://" + "a" * 100))


# Properties.

labels = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,5}[a-z0-9])?", fullmatch=True)
hosts = st.lists(labels, min_size=1, max_size=4).map(".".join) | st.ip_addresses(v=6).map(
    lambda address: f"[{address}]"
)
ports = st.none() | st.integers(0, 65535)
schemes = st.sampled_from(["http", "https", "capacitor"])
DEFAULTS = (None, 80, 443)


def with_port(host, port):
    return host if port is None else f"{host}:{port}"


@modest
@given(scheme=schemes, host=hosts, port=ports, host_port=ports)
def test_same_origin_is_same_host_and_port(scheme, host, port, host_port):
    origin = f"{scheme}://{with_port(host, port)}"
    same = port == host_port or (port in DEFAULTS and host_port in DEFAULTS)
    assert passes(origin, with_port(host, port))
    assert passes(origin.upper(), with_port(host, host_port)) == same


@modest
@given(scheme=schemes, host=hosts, other=hosts, port=ports)
def test_another_host_is_another_origin(scheme, host, other, port):
    origin = f"{scheme}://{with_port(other, port)}"
    assert passes(origin, with_port(host, port)) == (host == other)
    assert passes(origin, with_port(host, port), origins=[origin])


@modest
@given(sub=st.lists(labels, max_size=3), host=st.lists(labels, min_size=1, max_size=3))
def test_a_star_takes_any_number_of_labels_but_none(sub, host):
    parent = ".".join(host)
    origin = "https://" + ".".join([*sub, *host])
    inside = ".".join([*sub, *host]).endswith("." + parent)
    assert passes(origin, host="x.invalid", origins=[f"https://*.{parent}"]) == inside
    assert inside == bool(sub)


@modest
@given(garbage=st.binary(min_size=1, max_size=3), where=st.integers(0, 11))
def test_one_wrong_byte_anywhere_is_another_origin(garbage, where):
    host = b"example.com"
    changed = host[:where] + garbage + host[where:]
    objection = OriginRule().objection([(b"origin", b"https://" + changed), (b"host", host)])
    assert (objection is None) == (changed in (b"example.com:80", b"example.com:443"))


pairs = st.lists(
    st.tuples(
        st.sampled_from([b"origin", b"host", b"Origin", b"x"]),
        st.binary(max_size=400)
        | st.sampled_from([b"https://example.com", b"example.com", b"null", b"[::1]", b"a\r\nb"]),
    ),
    max_size=5,
)
rules = st.sampled_from(
    [
        OriginRule(),
        OriginRule(["*"]),
        OriginRule(["https://*.example.com"], ["example.com"]),
        OriginRule((), ["example.com"] * 1000),
    ]
)


@settings(modest, max_examples=300)
@given(rule=rules, pairs=pairs)
def test_any_headers_pass_or_are_refused_with_one_short_printable_line(rule, pairs):
    objection = rule.objection(pairs)
    if objection is not None:
        assert objection.isprintable() and objection.isascii()
        assert len(objection) < 2500


@modest
@given(entries=st.lists(st.text(max_size=12), max_size=3))
def test_any_entries_make_a_rule_or_a_value_error(entries):
    for make in (OriginRule, lambda found: OriginRule((), found)):
        try:
            rule = make(entries)
        except ValueError as error:
            assert any(repr(entry) in str(error) for entry in entries)
        else:
            rule.objection(headers("https://example.com"))
