"""Who somebody is, and what they may."""

from pyramid.authentication import SessionAuthenticationHelper
from pyramid.authorization import ACLHelper, Allow, Authenticated, Everyone
from pyramid.events import NewResponse, subscriber
from pyramid.request import RequestLocalCache
from pyramid.session import SignedCookieSessionFactory
from pyramid.settings import asbool

from . import models


class Root:
    """The context of pages that belong to no room."""

    __acl__ = [(Allow, Authenticated, "view")]

    def __init__(self, request):
        pass


class SecurityPolicy:
    """The user is in the session, a signed cookie, with the generation of their sessions."""

    def __init__(self):
        self.session = SessionAuthenticationHelper()
        self.acl = ACLHelper()
        self.users = RequestLocalCache(self._load_user)

    def _load_user(self, request):
        ticket = self.session.authenticated_userid(request)
        if ticket is None:
            return None
        user_id, generation = ticket
        user = request.dbsession.get(models.User, user_id)
        return user if user is not None and user.generation == generation else None

    def identity(self, request):
        return self.users.get_or_create(request)

    def authenticated_userid(self, request):
        user = self.identity(request)
        return None if user is None else user.id

    def permits(self, request, context, permission):
        principals = [Everyone]
        user = self.identity(request)
        if user is not None:
            principals += [Authenticated, f"user:{user.id}"]
            if user.is_moderator:
                principals.append("moderator")
        return self.acl.permits(context, principals, permission)

    def remember(self, request, userid, *, generation):
        return self.session.remember(request, [userid, generation])

    def forget(self, request, **kw):
        return self.session.forget(request, **kw)


#: Scripts, styles and pictures are the chat's own; ``blob:`` are those about to be sent.
CONTENT_SECURITY_POLICY = (
    "default-src 'self'; img-src 'self' blob:; object-src 'none'; base-uri 'none';"
    " form-action 'self'; frame-ancestors 'none'"
)


@subscriber(NewResponse)
def protect(event):
    headers = event.response.headers
    headers.setdefault("Content-Security-Policy", CONTENT_SECURITY_POLICY)
    headers.setdefault("Referrer-Policy", "same-origin")
    headers.setdefault("X-Content-Type-Options", "nosniff")
    # After a logout the back button shows nothing.
    headers.setdefault("Cache-Control", "no-store")


def includeme(config):
    settings = config.get_settings()
    config.set_session_factory(
        SignedCookieSessionFactory(
            settings["session.secret"],
            timeout=int(settings["session.timeout"]),
            # The cookie is renewed once a minute, not by each request.
            reissue_time=60,
            secure=asbool(settings.get("session.secure")),
            httponly=True,
            samesite="Lax",
        )
    )
    config.set_default_csrf_options(require_csrf=True)
    config.set_root_factory(Root)
    config.set_security_policy(SecurityPolicy())
    # Of pages and consumers that name none.
    config.set_default_permission("view")
