from .models import find_picture, find_room


def includeme(config):
    config.add_static_view("static", "static", cache_max_age=60)
    config.add_route("login", "/login")
    config.add_route("logout", "/logout", request_method="POST")
    config.add_route("rooms", "/")
    config.add_route("room", "/rooms/{room}", factory=find_room)
    config.add_route("messages", "/rooms/{room}/messages", factory=find_room)
    config.add_route("people", "/rooms/{room}/people", factory=find_room)
    config.add_route("picture", r"/pictures/{id:\d{1,18}}", factory=find_picture)
