import hmac

from pyramid.authentication import AuthTktCookieHelper
from pyramid.config import Configurator
from pyramid.csrf import CookieCSRFStoragePolicy
from pyramid.httpexceptions import HTTPSeeOther
from pyramid.security import forget, remember
from pyramid.view import forbidden_view_config, view_config
from pyramid_asgi_consumers import websocket_config

# They stand for the users of your project.
PASSWORDS = {"ann": "apple", "ben": "banana"}


class SecurityPolicy:
    """The user is in a signed cookie; who is logged in may do everything."""

    def __init__(self, secret):
        self.tickets = AuthTktCookieHelper(
            secret, hashalg="sha512", http_only=True, samesite="Lax"
        )

    def authenticated_userid(self, request):
        ticket = self.tickets.identify(request)
        return None if ticket is None else ticket["userid"]

    def permits(self, request, context, permission):
        return self.authenticated_userid(request) is not None

    def remember(self, request, userid, **kw):
        return self.tickets.remember(request, userid, **kw)

    def forget(self, request, **kw):
        return self.tickets.forget(request, **kw)


@view_config(route_name="login", renderer="login.jinja2", request_method="GET")
def login_page(request):
    return {"failed": False}


@view_config(route_name="login", renderer="login.jinja2", request_method="POST")
def login(request):
    name, password = request.POST["name"], request.POST["password"]
    expected = PASSWORDS.get(name)
    if expected is None or not hmac.compare_digest(
        expected.encode(), password.encode()
    ):
        return {"failed": True}
    return HTTPSeeOther(request.route_path("chat"), headers=remember(request, name))


@view_config(route_name="logout", request_method="POST", permission="chat")
def logout(request):
    request.channels.disconnect(reason="logged out")
    return HTTPSeeOther(request.route_path("login"), headers=forget(request))


@forbidden_view_config()
def forbidden(request):
    return HTTPSeeOther(request.route_path("login"))


@view_config(route_name="chat", renderer="chat.jinja2", permission="chat")
def page(request):
    return {}


@websocket_config("/live", name="live", permission="chat")
async def live(websocket):
    await websocket.accept()
    async with websocket.relay("chat"):
        async for text in websocket:
            message = {"author": websocket.userid, "text": text}
            await websocket.channels.publish("chat", message)


def main(global_config=None, **settings):
    with Configurator(settings=settings) as config:
        config.include("pyramid_jinja2")
        config.include("pyramid_asgi_consumers")
        config.set_security_policy(SecurityPolicy("a secret of your own"))
        config.set_csrf_storage_policy(CookieCSRFStoragePolicy())
        config.set_default_csrf_options(require_csrf=True)
        config.add_route("chat", "/")
        config.add_route("login", "/login")
        config.add_route("logout", "/logout")
        config.scan(__name__)
        return config.make_asgi_app()
