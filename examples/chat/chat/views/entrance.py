"""Coming in, and going out everywhere."""

import re

from pyramid.csrf import new_csrf_token
from pyramid.exceptions import BadCSRFToken
from pyramid.httpexceptions import HTTPSeeOther
from pyramid.security import NO_PERMISSION_REQUIRED, forget, remember
from pyramid.settings import asbool
from pyramid.view import exception_view_config, view_config, view_defaults
from sqlalchemy import select

from .. import models
from .fields import text_of

#: A path of this site. Browsers take ``//host`` and ``/\host`` for other ones.
LOCAL = re.compile(r"/(?![/\\])[^\s\\]*")


@view_defaults(
    route_name="login",
    renderer="chat:templates/login.jinja2",
    permission=NO_PERMISSION_REQUIRED,
)
class Login:
    def __init__(self, request):
        self.request = request
        wanted = text_of(request.params, "next")
        self.next = wanted if LOCAL.fullmatch(wanted) else request.route_path("rooms")

    @view_config(request_method="GET")
    def show(self):
        if self.request.is_authenticated:
            return HTTPSeeOther(self.next)
        return self._form(error="".join(self.request.session.pop_flash()))

    @view_config(request_method="POST")
    def log_in(self):
        request = self.request
        name = text_of(request.POST, "name").strip()
        password = text_of(request.POST, "password")
        user = request.dbsession.scalar(select(models.User).filter_by(name=name))
        if not models.check_password(user, password):
            # That nobody hears a status of 200 for a wrong password.
            request.response.status = 403
            return self._form(name, "This name and this password do not belong together.")
        # What was before the login is over: nobody can have prepared this session.
        request.session.invalidate()
        new_csrf_token(request)
        headers = remember(request, user.id, generation=user.generation)
        return HTTPSeeOther(self.next, headers=headers)

    def _form(self, name="", error=""):
        demo = asbool(self.request.registry.settings.get("chat.demo"))
        return {"next": self.next, "name": name, "error": error, "demo": demo}


@exception_view_config(BadCSRFToken, route_name="login")
def old_login(request):
    """The page was open for long, or another tab has logged in meanwhile."""
    request.session.flash("The page was too old. Try again, please.")
    return HTTPSeeOther(request.route_path("login", _query={"next": Login(request).next}))


@view_config(route_name="logout")
def log_out(request):
    # Open pages are closed when this has committed, in all of the user's browsers.
    request.channels.disconnect(reason="logged out")
    # So are the cookies of all of them, which are signed and stay valid otherwise.
    request.identity.generation += 1
    # The token stays: all tabs go to the login now, and share it.
    return HTTPSeeOther(request.route_path("login"), headers=forget(request))
