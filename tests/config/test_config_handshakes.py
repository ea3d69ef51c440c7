"""The route and the view that a guarded consumer adds."""

import inspect
import subprocess
import sys

import pytest
from pyramid.config import Configurator
from pyramid.exceptions import (
    ConfigurationConflictError,
    ConfigurationError,
    ConfigurationExecutionError,
)
from pyramid.request import Request, apply_request_extensions
from pyramid.response import Response
from pyramid.scripting import prepare
from pyramid.security import NO_PERMISSION_REQUIRED

from pyramid_asgi_consumers import asgi_consumer_config
from pyramid_asgi_consumers.interfaces import IConsumerMapper
from pyramid_asgi_consumers.testing import TestApp
from tests.support.asgi import CONNECT, body_of, http_scope, run, websocket_scope


class Nobody:
    """A security policy that permits nothing but ``open``."""

    def identity(self, request):
        return None

    authenticated_userid = identity

    def permits(self, request, context, permission):
        return permission == "open"


@pytest.fixture
def config():
    config = Configurator()
    config.set_security_policy(Nobody())
    config.include("pyramid_asgi_consumers")
    return config


async def consumer(scope, receive, send):
    found = scope["pyramid.request"].matched_route.name if "pyramid.request" in scope else None
    await send({"type": "websocket.accept", "subprotocol": found})


async def other(scope, receive, send):
    await send({"type": "websocket.accept", "subprotocol": "other"})


async def answer(app, path="/x"):
    """What the handshake of ``consumer`` comes to: the name of its route, or a status."""
    message = (await run(app, websocket_scope(path), CONNECT))[0]
    return message["subprotocol"] if message["type"] == "websocket.accept" else message["status"]


def line_of(function, text):
    """The line of this file on which ``function`` has ``text``."""
    lines, first = inspect.getsourcelines(function)
    return f"Line {first + next(n for n, line in enumerate(lines) if text in line)} of file"


# Which consumers are guarded.


async def test_a_consumer_without_any_of_it_is_plain(config):
    config.add_asgi_consumer("/x", "websocket", consumer, origins=["*"], max_connections=5)
    app = config.make_asgi_app()
    assert await answer(app) is None
    assert config.get_routes_mapper().get_routes(include_static=True) == []


@pytest.mark.parametrize(
    "arguments",
    [
        {"name": "x"},
        {"permission": "open"},
        {"permission": NO_PERMISSION_REQUIRED},
        {"factory": lambda request: {}},
        {"request_method": "GET"},
        {"require_csrf": False},
        {"pregenerator": lambda request, elements, kw: (elements, kw)},
    ],
    ids=lambda arguments: next(iter(arguments)),
)
async def test_a_consumer_with_one_of_it_is_guarded(config, arguments):
    config.add_asgi_consumer("/x", "websocket", consumer, **arguments)
    assert await answer(config.make_asgi_app()) == arguments.get("name", "websocket:/x")


@pytest.mark.parametrize("when", ["before", "after", "in an earlier commit", "in a later commit"])
async def test_a_default_permission_guards_consumers_that_name_none(config, when):
    if when in ("before", "in an earlier commit"):
        config.set_default_permission("closed")
    if when == "in an earlier commit":
        config.commit()
    config.add_asgi_consumer("/x", "websocket", consumer)
    config.add_asgi_consumer("/open", "websocket", consumer, permission=NO_PERMISSION_REQUIRED)
    if when == "in a later commit":
        config.commit()
    if when in ("after", "in a later commit"):
        config.set_default_permission("closed")
    app = config.make_asgi_app()
    assert await answer(app) == 403
    assert await answer(app, "/open") == "websocket:/open"
    entry = config.introspector.get("asgi consumers", ("asgi consumer", "websocket", "/x"))
    assert entry["guarded"] is True
    related = config.introspector.related(entry)
    assert {each.category_name for each in related} == {"routes", "permissions"}


async def test_a_default_permission_without_introspection(config):
    config = Configurator(introspection=False)
    config.set_security_policy(Nobody())
    config.include("pyramid_asgi_consumers")
    config.add_asgi_consumer("/x", "websocket", consumer)
    config.commit()
    config.set_default_permission("closed")
    assert await answer(config.make_asgi_app()) == 403


async def test_a_default_permission_reaches_an_application_that_was_made_before(config):
    config.add_asgi_consumer("/x", "websocket", consumer)
    wsgi_app = config.make_wsgi_app()
    config.set_default_permission("closed")
    assert await answer(config.make_asgi_app(wsgi_app)) == 403


async def test_a_mounted_application_stays_open_under_a_default_permission(config):
    config.set_default_permission("closed")
    config.add_asgi_app("/mounted", other)
    config.commit()
    assert await answer(config.make_asgi_app(), "/mounted/x") == "other"


async def test_a_consumer_that_is_guarded_later_keeps_its_place(config):
    config.add_asgi_consumer(r"/{a:\d}", "websocket", consumer)
    config.add_asgi_consumer(r"/{b:\d+}", "websocket", other, permission=NO_PERMISSION_REQUIRED)
    config.commit()
    paths = [each.path for each in config.registry.getUtility(IConsumerMapper)]
    config.set_default_permission("closed")
    assert await answer(config.make_asgi_app(), "/1") == 403
    assert [each.path for each in config.registry.getUtility(IConsumerMapper)] == paths


@pytest.mark.parametrize("first", ["mount", "consumer"])
@pytest.mark.parametrize("default", [None, "closed"])
async def test_an_equal_consumer_goes_before_a_mounted_application(config, first, default):
    def mount():
        config.add_asgi_app("/mounted", other)

    def declare():
        permission = None if default else "closed"
        config.add_asgi_consumer("/mounted/*path", "websocket", consumer, permission=permission)

    for directive in (mount, declare) if first == "mount" else (declare, mount):
        directive()
        config.commit()
    if default:
        config.set_default_permission(default)
    assert await answer(config.make_asgi_app(), "/mounted/x") == 403


async def test_autocommit_works_as_well():
    config = Configurator(autocommit=True)
    config.set_security_policy(Nobody())
    config.include("pyramid_asgi_consumers")
    config.add_asgi_consumer("/x", "websocket", consumer, permission="open")
    config.add_asgi_consumer("/y", "websocket", consumer)
    app = config.make_asgi_app()
    assert (await answer(app), await answer(app, "/y")) == ("websocket:/x", None)
    config.set_default_permission("closed")
    app = config.make_asgi_app()
    assert (await answer(app), await answer(app, "/y")) == ("websocket:/x", 403)


# Where it is declared.


async def test_routes_declared_before_the_include_work():
    config = Configurator()
    config.add_route("page", "/page")
    config.add_view(lambda request: Response("the page"), route_name="page")
    config.commit()
    config.add_route("later", "/later")
    config.add_view(lambda request: Response("later"), route_name="later")
    config.include("pyramid_asgi_consumers")
    config.add_asgi_consumer("/x", "websocket", consumer, name="x")
    app = config.make_asgi_app()
    assert body_of(await run(app, http_scope("/page"))) == b"the page"
    assert body_of(await run(app, http_scope("/later"))) == b"later"
    assert await answer(app) == "x"


async def test_an_include_after_a_commit_changes_nothing():
    # Pyramid runs an include again in the next commit.
    config = Configurator()
    config.include("pyramid_asgi_consumers")
    config.add_asgi_consumer("/x", "websocket", consumer, name="x")
    config.commit()
    config.include("pyramid_asgi_consumers")
    config.add_asgi_consumer("/y", "websocket", consumer, name="y")
    app = config.make_asgi_app()
    assert (await answer(app), await answer(app, "/y")) == ("x", "y")


async def test_nested_includes_and_their_prefixes_are_honoured(config):
    def inner(config):
        config.add_asgi_consumer("/{id}", "websocket", consumer, name="inner")

    def outer(config):
        config.include(inner, route_prefix="/inner/")

    config.include(outer, route_prefix="outer")
    app = config.make_asgi_app()
    assert await answer(app, "/outer/inner/7") == "inner"
    assert request_of(app).websocket_url("inner", id=7) == "ws://example.com/outer/inner/7"


async def test_a_prefix_context_is_honoured(config):
    with config.route_prefix_context("context"):
        config.add_asgi_consumer("/x", "websocket", consumer, name="x")
    app = config.make_asgi_app()
    assert await answer(app, "/context/x") == "x"
    assert request_of(app).route_path("x") == "/context/x"


async def test_a_guarded_consumer_is_found_by_a_scan(config):
    asgi_consumer_config("/x", "websocket", permission="closed")(consumer)
    try:
        config.scan(__name__)
    finally:
        del consumer.__venusian_callbacks__
    assert await answer(config.make_asgi_app()) == 403


async def test_an_application_overrides_what_it_includes(config):
    def included(config):
        config.add_asgi_consumer("/x", "websocket", consumer, name="theirs", permission="closed")

    config.include(included)
    config.add_asgi_consumer("/x", "websocket", other)
    app = config.make_asgi_app()
    assert await answer(app) == "other"
    assert config.get_routes_mapper().get_route("theirs") is None


# Conflicts and mistakes.


def test_conflicts_report_the_caller_s_two_lines(config):
    config.add_asgi_consumer("/x", "websocket", consumer, name="a")
    config.add_asgi_consumer("/x", "websocket", other, name="b")
    with pytest.raises(ConfigurationConflictError) as raised:
        config.make_asgi_app()
    here = test_conflicts_report_the_caller_s_two_lines
    assert line_of(here, 'name="a"') in str(raised.value)
    assert line_of(here, 'name="b"') in str(raised.value)


def test_conflicts_of_names_report_the_caller_s_two_lines(config):
    config.add_asgi_consumer("/a", "websocket", consumer, name="same")
    config.add_asgi_consumer("/b", "websocket", consumer, name="same")
    with pytest.raises(ConfigurationConflictError) as raised:
        config.make_asgi_app()
    here = test_conflicts_of_names_report_the_caller_s_two_lines
    assert line_of(here, '"/a"') in str(raised.value)
    assert line_of(here, '"/b"') in str(raised.value)


def test_a_name_that_a_page_has_is_a_conflict(config):
    config.add_route("same", "/page")
    config.add_asgi_consumer("/x", "websocket", consumer, name="same")
    with pytest.raises(ConfigurationConflictError) as raised:
        config.make_asgi_app()
    assert line_of(test_a_name_that_a_page_has_is_a_conflict, '"/x"') in str(raised.value)


def test_what_a_view_refuses_is_reported_at_its_line(config):
    config.add_asgi_consumer("/x", "websocket", other, permission="open")
    config.add_asgi_consumer("/y", "websocket", consumer, request_type="no_such.module")
    with pytest.raises(ConfigurationExecutionError, match="no_such") as raised:
        config.make_asgi_app()
    here = test_what_a_view_refuses_is_reported_at_its_line
    assert line_of(here, '"/y"') in str(raised.value)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("renderer", "json"),
        ("attr", "x"),
        ("static", True),
        ("view", other),
        ("inherit_slash", True),
        ("exception_only", True),
    ],
)
def test_what_is_not_for_a_consumer_to_set_is_refused_at_once(config, argument, value):
    with pytest.raises(ConfigurationError, match=f"^add_asgi_consumer: {argument}="):
        config.add_asgi_consumer("/x", "websocket", consumer, **{argument: value})


@pytest.mark.parametrize(
    ("keyword", "near"),
    [("orgins", "origins"), ("request_methd", "request_method"), ("require_crsf", "require_csrf")],
)
def test_a_misspelt_keyword_is_named_with_its_consumer_and_the_nearest(config, keyword, near):
    config.add_asgi_consumer("/x", "websocket", consumer, **{keyword: "any"})
    with pytest.raises(ConfigurationError) as caught:
        config.make_asgi_app()
    assert (
        f"websocket consumer /x (function {__name__}.consumer): {keyword}='any' is no argument of a"
        f" consumer, no predicate and no view option; did you mean {near}?"
    ) in str(caught.value)
    assert line_of(test_a_misspelt_keyword_is_named_with_its_consumer_and_the_nearest, "**{") in (
        str(caught.value)
    )


def test_a_keyword_like_none_is_named_alone(config):
    config.add_asgi_consumer("/x", "websocket", consumer, zzz=5)
    with pytest.raises(ConfigurationError, match="zzz=5 is no .* and no view option\\n"):
        config.make_asgi_app()


def test_a_subclass_of_configurator_may_take_more():
    class Taking(Configurator):
        def add_view(self, *args, audit=None, **arguments):
            seen.append(audit)
            super().add_view(*args, **arguments)

    seen = []
    config = Taking()
    config.include("pyramid_asgi_consumers")
    config.add_asgi_consumer("/x", "websocket", consumer, audit="all")
    assert config.make_asgi_app()
    assert seen[-1] == "all"


@pytest.mark.parametrize(("argument", "value"), [("name", ""), ("name", 5), ("factory", 5)])
def test_a_wrong_argument_is_named_with_its_value(config, argument, value):
    with pytest.raises(ConfigurationError, match=f"^add_asgi_consumer: {argument} .*{value!r}$"):
        config.add_asgi_consumer("/x", "websocket", consumer, **{argument: value})


# Predicates and options.


class Weather:
    """A predicate, of routes and of views."""

    def __init__(self, value, info):
        self.value = value

    def text(self):
        return f"weather = {self.value}"

    phash = text

    def __call__(self, context_or_info, request):
        if isinstance(context_or_info, dict):
            assert set(context_or_info) == {"match", "route"}
        return request.GET.get("weather") == self.value


@pytest.mark.parametrize("kinds", [["route"], ["view"], ["route", "view"]])
@pytest.mark.parametrize("first", [True, False])
async def test_custom_predicates_are_told_apart(config, kinds, first):
    if first:
        config.add_asgi_consumer("/x", "websocket", consumer, weather="fine")
    for kind in kinds:
        getattr(config, f"add_{kind}_predicate")("weather", Weather)
    if not first:
        config.add_asgi_consumer("/x", "websocket", consumer, weather="fine")
    app = config.make_asgi_app()
    assert await answer(app) == 404
    # One that is both is the view's.
    route = config.get_routes_mapper().get_route("websocket:/x")
    assert len(route.predicates) == (kinds == ["route"])
    scope = websocket_scope("/x", query_string=b"weather=fine")
    assert (await run(app, scope, CONNECT))[0]["type"] == "websocket.accept"


async def test_options_of_custom_view_derivers_are_the_view_s(config):
    seen = []

    def deriver(view, info):
        seen.append(info.options.get("audit"))
        return view

    deriver.options = ("audit",)
    config.add_view_deriver(deriver)
    config.add_asgi_consumer("/x", "websocket", consumer, audit="all")
    assert await answer(config.make_asgi_app()) == "websocket:/x"
    assert "all" in seen


async def test_a_decorator_decorates_the_view(config):
    def decorator(view):
        def decorated(context, request):
            response = view(context, request)
            response.headers["X-Decorated"] = "1"
            return response

        return decorated

    config.add_asgi_consumer("/x", "websocket", consumer, decorator=decorator)
    sent = await run(config.make_asgi_app(), websocket_scope("/x"), CONNECT)
    assert sent[0]["headers"] == [(b"x-decorated", b"1")]


async def test_traverse_leads_to_the_context(config):
    contexts = []

    async def look(scope, receive, send):
        contexts.append(scope["pyramid.context"])

    tree = {"rooms": {"blue": {}}}
    config.add_asgi_consumer(
        "/x/{room}", "websocket", look, factory=lambda request: tree, traverse="/rooms/{room}"
    )
    app = config.make_asgi_app()
    await run(app, websocket_scope("/x/blue"), CONNECT)
    assert contexts[0] is tree["rooms"]["blue"]
    assert (await run(app, websocket_scope("/x/red"), CONNECT))[0]["status"] == 404


async def test_rest_of_a_path_is_traversed_as_pyramid_does(config):
    contexts = []

    async def look(scope, receive, send):
        contexts.append(scope["pyramid.context"])

    tree = {"blue": {"corner": {}}}
    config.add_asgi_consumer("/x/*traverse", "websocket", look, factory=lambda request: tree)
    await run(config.make_asgi_app(), websocket_scope("/x/blue/corner"), CONNECT)
    assert contexts[0] is tree["blue"]["corner"]


# URLs.


@pytest.mark.parametrize(
    "inner, words",
    [
        ("page", "view function tests.config.test_config_handshakes.view"),
        ("websocket", "path /chat "),
    ],
)
def test_a_name_that_a_page_of_another_level_has_is_an_error(config, inner, words):
    def view(request):
        """Never called."""

    def page(config):
        config.add_route("chat", "/chat")
        config.add_view(view, route_name="chat", request_method="GET")

    def websocket(config):
        config.add_asgi_consumer("/chat/ws", "websocket", consumer, name="chat")

    for declare in (page, websocket):
        if declare.__name__ == inner:
            config.include(declare)
        else:
            declare(config)
    with pytest.raises(ConfigurationError, match=f"consumer /chat/ws .* and the {words}.* 'chat'"):
        config.make_asgi_app()


# What was forgotten.


def warnings_of(caplog):
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


def test_consumers_that_nobody_serves_are_told_of_once_at_the_first_page(config, caplog):
    config.add_asgi_consumer("/x", "websocket", consumer)
    config.add_asgi_consumer("/y", "http", other, permission="open")
    app = config.make_wsgi_app()
    assert warnings_of(caplog) == []
    for _ in range(2):
        assert Request.blank("/").get_response(app).status_int == 404
    assert warnings_of(caplog) == [
        "Nobody serves the websocket consumer /x"
        " (function tests.config.test_config_handshakes.consumer), the http consumer /y"
        " (function tests.config.test_config_handshakes.other): this is the application"
        " of config.make_wsgi_app(); return config.make_asgi_app() instead"
    ]


def test_pages_without_consumers_warn_of_nothing(config, caplog):
    assert Request.blank("/").get_response(config.make_wsgi_app()).status_int == 404
    assert warnings_of(caplog) == []


def test_pages_of_an_asgi_application_warn_of_nothing(config, caplog):
    config.add_asgi_consumer("/x", "websocket", consumer)
    app = config.make_asgi_app(config.make_wsgi_app())
    assert Request.blank("/").get_response(app.wsgi_app).status_int == 404
    assert warnings_of(caplog) == []


def test_a_permission_without_a_security_policy_is_warned_of(caplog):
    config = Configurator()
    config.include("pyramid_asgi_consumers")
    config.add_asgi_consumer("/x", "websocket", consumer, permission="open")
    config.add_asgi_consumer("/y", "websocket", consumer, permission=NO_PERMISSION_REQUIRED)
    config.add_asgi_consumer("/z", "websocket", consumer)
    config.make_asgi_app()
    assert warnings_of(caplog) == [
        "permission='open' of the websocket consumer /x (function"
        " tests.config.test_config_handshakes.consumer) guards nothing: there is no security policy"
        " (config.set_security_policy)"
    ]


@pytest.mark.parametrize("hook", [None, "pyramid_tm.explicit_manager"])
@pytest.mark.parametrize("guarded", [False, True])
def test_a_transaction_manager_of_threads_is_warned_of_beside_guarded_consumers(
    guarded, hook, caplog
):
    config = Configurator(settings={"tm.manager_hook": hook} if hook else {})
    config.include("pyramid_tm")
    config.include("pyramid_asgi_consumers")
    permission = NO_PERMISSION_REQUIRED if guarded else None
    config.add_asgi_consumer("/x", "websocket", consumer, permission=permission)
    config.make_asgi_app()
    expected = guarded and hook is None
    assert ("Set tm.manager_hook = pyramid_tm.explicit_manager" in caplog.text) == expected


def test_a_permission_with_a_security_policy_is_not(config, caplog):
    config.add_asgi_consumer("/x", "websocket", consumer, permission="open")
    config.make_asgi_app()
    assert warnings_of(caplog) == []


def request_of(app, base="http://example.com"):
    request = Request.blank("/", base_url=base)
    request.registry = app.registry
    apply_request_extensions(request)
    return request


@pytest.mark.parametrize(
    ("base", "arguments", "url"),
    [
        ("http://example.com", {}, "ws://example.com/rooms/a%20b"),
        ("https://example.com", {}, "wss://example.com/rooms/a%20b"),
        ("http://example.com:8080", {}, "ws://example.com:8080/rooms/a%20b"),
        ("https://example.com:8443", {}, "wss://example.com:8443/rooms/a%20b"),
        ("http://example.com/app", {}, "ws://example.com/app/rooms/a%20b"),
        ("http://example.com", {"_query": {"q": "1"}}, "ws://example.com/rooms/a%20b?q=1"),
        ("http://example.com", {"_scheme": "https"}, "wss://example.com/rooms/a%20b"),
        ("http://example.com", {"_host": "http.test"}, "ws://http.test/rooms/a%20b"),
        ("http://example.com", {"_port": 81}, "ws://example.com:81/rooms/a%20b"),
        ("http://example.com", {"_app_url": "https://cdn.test"}, "wss://cdn.test/rooms/a%20b"),
        ("http://example.com", {"_app_url": ""}, "/rooms/a%20b"),
    ],
)
def test_the_url_of_a_websocket(config, base, arguments, url):
    config.add_asgi_consumer("/rooms/{room}", "websocket", consumer, name="room")
    request = request_of(config.make_asgi_app(), base)
    assert request.websocket_url("room", room="a b", **arguments) == url
    plain = request.route_url("room", room="a b", **arguments)
    assert plain == url.replace("ws", "http", 1)


def test_elements_and_a_pregenerator_are_those_of_route_url(config):
    def pregenerator(request, elements, kw):
        return elements, {**kw, "room": "blue"}

    config.add_asgi_consumer(
        "/rooms/{room}", "websocket", consumer, name="room", pregenerator=pregenerator
    )
    request = request_of(config.make_asgi_app())
    assert request.websocket_url("room", "a", "b") == "ws://example.com/rooms/blue/a/b"


async def test_a_consumer_knows_its_own_url(config):
    urls = []

    async def look(scope, receive, send):
        urls.append(scope["pyramid.request"].websocket_url("x"))

    config.add_asgi_consumer("/x", "websocket", look, name="x")
    await run(config.make_asgi_app(), websocket_scope("/x", scheme="wss"), CONNECT)
    assert urls == ["wss://example.com/x"]


# What others see of it.


def test_introspectables_relate_permission_and_route(config):
    config.add_asgi_consumer("/x", "websocket", consumer, name="x", permission="open")
    config.add_asgi_consumer("/y", "websocket", consumer, permission=NO_PERMISSION_REQUIRED)
    config.add_asgi_consumer("/z", "websocket", consumer)
    config.make_asgi_app()

    def related(path):
        entry = config.introspector.get("asgi consumers", ("asgi consumer", "websocket", path))
        return entry["guarded"], {
            (each.category_name, each.discriminator) for each in config.introspector.related(entry)
        }

    assert related("/x") == (True, {("routes", "x"), ("permissions", "open")})
    # Pyramid lists this one too.
    nobody = ("permissions", NO_PERMISSION_REQUIRED)
    assert related("/y") == (True, {("routes", "websocket:/y"), nobody})
    assert related("/z") == (False, set())


def test_the_mapper_lists_the_routes_of_consumers_beside_the_others(config):
    config.add_route("page", "/page")
    config.add_static_view("static", "tests:")
    config.add_route("external", "https://example.org/x")
    config.add_asgi_consumer("/x", "websocket", consumer, name="x")
    config.add_asgi_consumer("/y", "websocket", consumer)
    config.commit()
    mapper = config.get_routes_mapper()
    with prepare(registry=config.registry):
        names = {route.name for route in mapper.get_routes()}
    assert names >= {"page", "x"}
    assert "external" not in names
    every = [route.name for route in mapper.get_routes(include_static=True)]
    assert set(every) == names | {"external"}
    assert len(every) == len(set(every))


@pytest.mark.parametrize(
    ("path", "status"),
    [("/rooms/blue", 404), ("/feed/7", 307), ("/both/1", 307), ("/page", 307), ("/none", 404)],
)
def test_append_slash_redirects_to_what_answers_there(config, path, status):
    config.add_notfound_view(append_slash=True)
    config.add_route("page", "/page/")
    config.add_route("both", "/both/{id}/")
    config.add_asgi_consumer("/rooms/{room}/", "websocket", consumer, permission="open")
    config.add_asgi_consumer("/both/{id}/", "websocket", consumer, permission="open")
    config.add_asgi_consumer("/feed/{id}/", "http", consumer, permission="open")
    response = TestApp(config.make_asgi_app()).get(f"{path}?a=b", status=status)
    if status == 307:
        assert response.location == f"http://localhost{path}/?a=b"


@pytest.fixture
def ini(tmp_path):
    """A project's ini file."""
    file = tmp_path / "development.ini"
    file.write_text(f"[app:main]\npaste.app_factory = {__name__}:main\n")
    return str(file)


def main(global_config, **settings):
    with Configurator(settings=settings) as config:
        config.set_security_policy(Nobody())
        config.include("pyramid_asgi_consumers")
        config.add_route("page", "/rooms/{room}")
        config.add_view(lambda request: Response("page"), route_name="page")
        config.add_asgi_consumer(
            "/rooms/{room}", "websocket", consumer, name="room", permission="open"
        )
        config.add_asgi_consumer("/feed/{id}", "http", consumer, permission="open")
        return config.make_asgi_app().wsgi_app


def script(name, *arguments):
    code = f"import sys; from pyramid.scripts.{name} import main; sys.exit(main())"
    command = [sys.executable, "-W", "ignore", "-c", code, *arguments]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return run.stdout


def test_proutes_lists_the_consumers(ini):
    lines = [line.split() for line in script("proutes", ini).splitlines()]
    listed = {line[0]: line[1:3] for line in lines if len(line) > 2}
    view = "tests.config.test_config_handshakes.consumer"
    assert listed["room"] == ["/rooms/{room}", view]
    assert listed["http:/feed/{id}"] == ["/feed/{id}", view]


def test_pviews_lists_the_consumer_of_a_url(ini):
    shared = script("pviews", ini, "/rooms/blue")
    alone = script("pviews", ini, "/feed/7")
    assert "route name: page" in shared
    assert "route name: room" in shared
    assert "route name: http:/feed/{id}" in alone
    assert "required permission = open" in alone
