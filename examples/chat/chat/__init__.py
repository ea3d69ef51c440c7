"""A chat: people log in, enter rooms, write, and see who is there."""

from pyramid.config import Configurator


def main(global_config, **settings):
    """Return the ASGI application."""
    with Configurator(settings=settings) as config:
        config.include("pyramid_asgi_consumers")
        config.include("pyramid_jinja2")
        config.include(".models")
        config.include(".security")
        config.include(".routes")
        config.scan()
        return config.make_asgi_app()
