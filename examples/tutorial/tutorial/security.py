"""Who somebody is, and what they may."""

from pyramid.authentication import AuthTktCookieHelper
from pyramid.csrf import CookieCSRFStoragePolicy
from pyramid.request import RequestLocalCache

from .models import User


class SecurityPolicy:
    """The user's name is in a signed cookie; who is logged in may do everything."""

    def __init__(self, secret):
        self.tickets = AuthTktCookieHelper(secret, hashalg="sha512", http_only=True, samesite="Lax")
        self.users = RequestLocalCache(self._load_user)

    def _load_user(self, request):
        ticket = self.tickets.identify(request)
        return None if ticket is None else request.dbsession.get(User, ticket["userid"])

    def identity(self, request):
        return self.users.get_or_create(request)

    def authenticated_userid(self, request):
        user = self.identity(request)
        return None if user is None else user.name

    def permits(self, request, context, permission):
        return self.identity(request) is not None

    def remember(self, request, userid, **kw):
        return self.tickets.remember(request, userid, **kw)

    def forget(self, request, **kw):
        return self.tickets.forget(request, **kw)


def includeme(config):
    config.set_security_policy(SecurityPolicy(config.get_settings()["tutorial.secret"]))
    config.set_csrf_storage_policy(CookieCSRFStoragePolicy(httponly=True, samesite="Lax"))
    config.set_default_csrf_options(require_csrf=True)
    # Of pages and of consumers that name none.
    config.set_default_permission("chat")
