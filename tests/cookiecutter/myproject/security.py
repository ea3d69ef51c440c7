from pyramid.authentication import AuthTktCookieHelper
from pyramid.authorization import ACLHelper, Allow, Authenticated, Everyone

from . import models


class SecurityPolicy:
    def __init__(self, secret):
        self.authtkt = AuthTktCookieHelper(secret)
        self.acl = ACLHelper()

    def identity(self, request):
        identity = self.authtkt.identify(request)
        if identity is None:
            return None
        return request.dbsession.get(models.User, identity["userid"])

    def authenticated_userid(self, request):
        user = request.identity
        return None if user is None else user.name

    def permits(self, request, context, permission):
        principals = [Everyone] if request.identity is None else [Everyone, Authenticated]
        return self.acl.permits(context, principals, permission)

    def remember(self, request, userid, **kw):
        return self.authtkt.remember(request, userid, **kw)


class Root:
    __acl__ = [(Allow, Authenticated, "chat")]

    def __init__(self, request):
        pass


def includeme(config):
    config.set_root_factory(Root)
    config.set_security_policy(SecurityPolicy(config.get_settings()["auth.secret"]))
