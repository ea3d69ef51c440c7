"""Creates the database, with the rooms and the people of a demonstration.

What is there already stays as it is.
"""

import argparse

from pyramid.paster import bootstrap, setup_logging
from sqlalchemy import select

from .. import models

ROOMS = [
    {"name": "kitchen", "title": "Kitchen", "topic": "What is for lunch, and who cooks"},
    {"name": "garden", "title": "Garden", "topic": "Pictures of what grows"},
    {"name": "workshop", "title": "Workshop", "topic": "Broken things, and how to mend them"},
]
PEOPLE = [
    {"name": "ann", "title": "Ann"},
    {"name": "bob", "title": "Bob"},
    {"name": "eve", "title": "Eve", "is_moderator": True},
]


def initialize(dbsession, password):
    """Create what is missing; ``password`` is that of all who are new."""
    models.Base.metadata.create_all(dbsession.connection())
    for room in ROOMS:
        if dbsession.scalar(select(models.Room).filter_by(name=room["name"])) is None:
            dbsession.add(models.Room(**room))
    for person in PEOPLE:
        if dbsession.scalar(select(models.User).filter_by(name=person["name"])) is None:
            user = models.User(**person)
            user.set_password(password)
            dbsession.add(user)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("config_uri", help="the ini, such as development.ini")
    parser.add_argument("--password", default="chat", help="of everybody (default: %(default)s)")
    arguments = parser.parse_args(argv)
    setup_logging(arguments.config_uri)
    with bootstrap(arguments.config_uri) as env, env["request"].tm:
        initialize(env["request"].dbsession, arguments.password)
    names = ", ".join(person["name"] for person in PEOPLE)
    print(f"Log in as {names}, with the password {arguments.password!r}.")
