"""Users in a session, who log in and out: what projects of the tests have in common."""

import json
from uuid import UUID

from pyramid.response import Response
from pyramid.security import NO_PERMISSION_REQUIRED, forget
from pyramid.session import SignedCookieSessionFactory


class Person:
    """A user that is no plain value, and equals those of the same name."""

    def __init__(self, name):
        self.name = name

    def __eq__(self, other):
        return isinstance(other, Person) and self.name == other.name

    def __hash__(self):
        return hash(self.name)

    def __repr__(self):
        return f"Person({self.name!r})"


#: What a userid is made of, by the kind that its text begins with.
KINDS = {
    "int": int,
    "uuid": UUID,
    "bytes": str.encode,
    "tuple": lambda text: tuple(json.loads(text)),
    "list": json.loads,
    "person": Person,
}


def userid_of(text):
    """The userid for ``text``: ``"int:5"`` is 5; without a kind it is the text itself."""
    kind, colon, value = text.partition(":")
    return KINDS[kind](value) if colon else text


class Policy:
    """Whoever is in the session may do everything."""

    def authenticated_userid(self, request):
        text = request.session.get("user")
        return None if text is None else userid_of(text)

    def permits(self, request, context, permission):
        return self.authenticated_userid(request) is not None

    def forget(self, request):
        request.session.invalidate()
        return []


def login(request):
    request.session["user"] = request.params["user"]
    return Response("Welcome")


def logout(request):
    request.channels.disconnect(reason="logged out")
    return Response("Bye", headers=forget(request))


def has_members(config):
    """Give ``config`` a session, the policy, and pages at ``/login`` and ``/logout``."""
    config.set_session_factory(SignedCookieSessionFactory("secret"))
    config.set_security_policy(Policy())
    for view in (login, logout):
        config.add_route(view.__name__, f"/{view.__name__}")
        config.add_view(view, route_name=view.__name__, permission=NO_PERMISSION_REQUIRED)


async def echo(websocket):
    await websocket.accept()
    async for message in websocket:
        await websocket.send(message)
