"""A chat for those who are logged in."""

from pyramid.config import Configurator


def main(global_config, **settings):
    """Return the ASGI application."""
    with Configurator(settings=settings) as config:
        config.include("pyramid_asgi_consumers")
        config.include("pyramid_jinja2")
        config.include(".models")
        config.include(".security")
        config.add_static_view("static", "static")
        config.add_route("chat", "/")
        config.add_route("login", "/login")
        config.add_route("logout", "/logout")
        config.scan()
        return config.make_asgi_app()
