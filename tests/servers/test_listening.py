"""Which addresses the option ``listen`` names, and the sockets for them."""

import socket
from contextlib import ExitStack

import pytest
from pyramid.exceptions import ConfigurationError

from pyramid_asgi_consumers.servers.listening import bind, take_listen
from tests.support.servers import HOST


def addresses(value):
    return [address[:2] for _, address in take_listen("server", {"listen": value}, ())[0]]


def test_the_port_that_is_left_out_is_that_of_waitress():
    assert addresses("127.0.0.1 [::1]") == [("127.0.0.1", 8080), ("::1", 8080)]


def test_several_addresses_each_once():
    assert addresses("127.0.0.1:1 [::1]:2\n127.0.0.1:1") == [("127.0.0.1", 1), ("::1", 2)]


def test_an_asterisk_is_every_address():
    assert ("0.0.0.0", 6543) in addresses("*:6543")


def test_the_other_options_are_left_alone():
    options = {"listen": "127.0.0.1", "ws": "auto"}
    assert take_listen("uvicorn", options, ("host",))[1] == {"ws": "auto"}
    assert take_listen("uvicorn", {"host": "a"}, ("host",)) == ([], {"host": "a"})


@pytest.mark.parametrize("name", ["unix-socket", "unix_socket"])
def test_an_option_that_says_the_same_is_refused(name):
    with pytest.raises(ConfigurationError) as raised:
        take_listen("server", {"listen": "a:1", name: "b"}, ("unix_socket",))
    assert str(raised.value) == f"server: listen = a:1 and {name} = b: give one of the two"


@pytest.mark.parametrize(
    "value, reason",
    [
        ("127.0.0.1:many", r"not '127\.0\.0\.1:many' \("),
        (":6543", r"not ':6543' \(no host; \* stands for all\)"),
        ("127.0.0.1:66666", r"not '127\.0\.0\.1:66666' \(no such port\)"),
        ("", "not empty"),
    ],
)
def test_what_names_no_address(value, reason):
    with pytest.raises(ConfigurationError, match=f"listen must be one or more host:port, {reason}"):
        addresses(value)


def test_sockets_are_bound_and_do_not_listen_yet(caplog):
    caplog.set_level("INFO")
    with ExitStack() as stack:
        (bound,) = map(stack.enter_context, bind("server", [(socket.AF_INET, (HOST, 0))]))
        port = bound.getsockname()[1]
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((HOST, port))
        bound.listen()
        socket.create_connection((HOST, port)).close()
    assert caplog.messages == [f"server listens on {HOST} port {port}"]


def test_where_one_address_is_taken_none_is_bound():
    with socket.create_server((HOST, 0)) as listener:
        taken = listener.getsockname()
        # A socket that stayed open would be an error, too: a ResourceWarning.
        with pytest.raises(OSError, match=f"server cannot listen on {HOST} port {taken[1]}: Addr"):
            bind("server", [(socket.AF_INET, (HOST, 0)), (socket.AF_INET, taken)])
