"""A project as Pyramid's cookiecutter makes them with SQLAlchemy, and a chat."""

from pyramid.config import Configurator


def main(global_config, **settings):
    with Configurator(settings=settings) as config:
        config.include("pyramid_asgi_consumers")
        config.include(".models")
        config.include(".routes")
        config.include(".security")
        config.scan()
    return config.make_asgi_app()
