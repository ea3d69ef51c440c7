import pytest

from pyramid_asgi_consumers.environ import build_environ, split_root_path
from pyramid_asgi_consumers.exceptions import BadRequest
from tests.asgi import http_scope


@pytest.mark.parametrize(
    ("root_path", "path", "split"),
    [
        ("/app", "/app/x", ("/app", "/x")),
        ("/app", "/apple", ("/app", "/apple")),
        ("/app/", "/x", ("/app", "/x")),
        ("", "/x", ("", "/x")),
    ],
)
def test_a_root_path_is_stripped_on_a_segment_border(root_path, path, split):
    assert split_root_path(http_scope(path, root_path=root_path)) == split


def test_an_environ_says_what_the_scope_says():
    headers = [(b"cookie", b"a=1"), (b"cookie", b"b=2"), (b"x-a", b"1"), (b"x-a", b"2")]
    scope = http_scope("/\xe9", headers=[*headers, (b"x_a", b"3")], client=["1.2.3.4", 5])
    environ = build_environ(scope)
    assert environ["PATH_INFO"] == "/\xc3\xa9"
    assert environ["HTTP_COOKIE"] == "a=1; b=2"
    assert environ["HTTP_X_A"].replace(" ", "") == "1,2"
    assert environ["HTTP_HOST"] == "example.com"
    assert (environ["REMOTE_ADDR"], environ["REMOTE_PORT"]) == ("1.2.3.4", "5")
    assert environ["wsgi.input_terminated"] is True
    assert environ["asgi.scope"] is scope


@pytest.mark.parametrize(
    "scope",
    [
        http_scope(headers=[(b"host", b"other")]),
        http_scope(headers=[(b"content-length", b"x")]),
        http_scope("no-slash"),
    ],
)
def test_what_makes_no_request_is_refused(scope):
    with pytest.raises(BadRequest):
        build_environ(scope)
