"""Who moderates a room puts others out of it, and lets them in again."""

from pyramid.httpexceptions import HTTPBadRequest, HTTPSeeOther
from pyramid.view import view_config, view_defaults
from sqlalchemy import select

from .. import models
from .fields import id_of


@view_defaults(route_name="people", permission="moderate")
class People:
    def __init__(self, request):
        self.request = request
        self.room = request.context

    @view_config(request_method="GET", renderer="chat:templates/people.jinja2")
    def show(self):
        out = {exclusion.user_id for exclusion in self.room.exclusions}
        users = self.request.dbsession.scalars(select(models.User).order_by(models.User.title))
        return {
            "room": self.room,
            "people": [(user, user.id in out) for user in users if not user.is_moderator],
        }

    @view_config(request_method="POST")
    def change(self):
        request = self.request
        user_id = id_of(request.POST, "user")
        user = None if user_id is None else request.dbsession.get(models.User, user_id)
        if user is None or user.is_moderator:
            raise HTTPBadRequest("There is nobody of whom this could be asked.")
        exclusion = request.dbsession.get(models.Exclusion, (self.room.id, user.id))
        if "in" in request.POST:
            if exclusion is not None:
                self.room.exclusions.remove(exclusion)
        elif exclusion is None:
            self.room.exclusions.append(models.Exclusion(user_id=user.id))
            models.flush(request.dbsession)
        request.channels.publish(f"user:{user.id}", "rooms")
        return HTTPSeeOther(request.route_path("people", room=self.room.name))
