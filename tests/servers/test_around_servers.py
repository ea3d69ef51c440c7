"""An application inside others, on every ASGI server."""

import json

import pytest
from websockets.frames import Close

from tests.servers.test_servers import ACCEPT_HEADERS, check
from tests.support import clients

APP = "tests.apps.aroundapp:app"

MOUNTS = ["/starlette", "/dispatcher", "/both/inner", "/ours", "/ours/again/deep"]


@pytest.mark.parametrize("prefix", MOUNTS)
def test_a_page_knows_where_it_is_mounted(server, prefix):
    answer = clients.get(server, f"{prefix}/where")
    assert answer.json == {
        "SCRIPT_NAME": prefix,
        "PATH_INFO": "/where",
        "url": f"{prefix}/where",
    }


@pytest.mark.parametrize("prefix", MOUNTS)
def test_a_consumer_is_found_where_it_is_mounted(server, prefix):
    with clients.websocket(server, f"{prefix}/ws/blue") as websocket:
        answer = json.loads(websocket.recv(clients.DEADLINE))
        assert answer == {"root_path": prefix, "path_params": {"name": "blue"}}
        assert clients.closed(websocket) == Close(4321, "enough")


@pytest.mark.parametrize("prefix", MOUNTS)
def test_a_handshake_knows_where_it_is_mounted(server, prefix):
    with clients.websocket(server, f"{prefix}/guarded") as websocket:
        url = f"ws://{clients.HOST}:{server.port}{prefix}/guarded"
        assert websocket.recv(clients.DEADLINE) == url
        check(server, ACCEPT_HEADERS, websocket.response.headers.get("X-Kind") == "guarded")
        assert clients.closed(websocket) == Close(1011, "enough")


@pytest.mark.parametrize("prefix", [*MOUNTS, "/rebuilt", "/partly"])
@pytest.mark.parametrize("path", ["/crash-late", "/consumer/crash-late"])
def test_a_late_error_breaks_the_connection_off(server, prefix, path):
    assert not clients.get(server, prefix + path).whole
    assert clients.get(server, f"{prefix}/where").status == 200


@pytest.mark.parametrize("stated", ["/evil", "/evil/", "/ours", "/starlette", "/s", "/both/inner"])
@pytest.mark.parametrize("prefix", MOUNTS)
def test_no_client_states_where_an_application_is_mounted(server, prefix, stated):
    headers = {"Daphne-Root-Path": stated}
    answer = clients.get(server, f"{prefix}/where", headers=headers)
    # What is around it may have been misled, and have found no application.
    if answer.status == 404 and server.name == "daphne":
        assert prefix in ("/starlette", "/both/inner")
        denial = clients.denial(server, f"{prefix}/ws/x", additional_headers=headers)
        assert denial.status_code == 403
    else:
        assert answer.json["SCRIPT_NAME"] == prefix
        with clients.websocket(server, f"{prefix}/ws/x", additional_headers=headers) as websocket:
            assert json.loads(websocket.recv(clients.DEADLINE))["root_path"] == prefix


@pytest.mark.parametrize("prefix", ["/rebuilt", "/elsewhere", "/partly"])
def test_a_stated_root_path_is_dropped_whatever_is_known_of_the_server(server, prefix):
    headers = {"Daphne-Root-Path": "/evil"}
    answer = clients.get(server, f"{prefix}/where", headers=headers)
    assert answer.json["SCRIPT_NAME"] == ""
    with clients.websocket(server, f"{prefix}/ws/x", additional_headers=headers) as websocket:
        assert json.loads(websocket.recv(clients.DEADLINE))["root_path"] == ""


@pytest.mark.parametrize("prefix", ["/rebuilt", "/partly"])
def test_a_websocket_closes_as_it_is_told_to(server, prefix):
    with clients.websocket(server, f"{prefix}/ws/x") as websocket:
        assert clients.closed(websocket) == Close(4321, "enough")
    with clients.websocket(server, f"{prefix}/guarded") as websocket:
        assert clients.closed(websocket) == Close(1011, "enough")


def test_a_request_within_another_is_not_taken_for_it(server):
    answer = clients.get(server, "/within/crash-late")
    assert (answer.whole, answer.body) == (True, b"late-crash")
